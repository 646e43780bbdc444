//! Buffers for bytes that stay: commands and values, of which a node holds millions.
//!
//! `Bytes` counts its holders in an allocation of its own, made when it is first shared. For a command
//! of a few hundred bytes that is a tenth of its memory, and one more allocation on the way of each
//! write. Here short bytes get a buffer that has the count in it. What a buffer holds is never looked at.

use bytes::Bytes;

/// Copies these bytes into a buffer of their own, which is as large as they need.
///
/// ```
/// let command = raft_core::buffer::copied(b"color=blue");
/// assert_eq!(command, "color=blue");
/// ```
pub fn copied(bytes: &[u8]) -> Bytes {
    short(bytes).unwrap_or_else(|| Bytes::copy_from_slice(bytes))
}

/// As [`copied`], but many bytes stay where they are, without the room that the vector has to spare.
pub fn owned(bytes: Vec<u8>) -> Bytes {
    short(&bytes).unwrap_or_else(|| Bytes::from(bytes.into_boxed_slice()))
}

/// A buffer with the count in it, in sizes that allocators round to anyway. `None` for more bytes than
/// the largest size: beside so many an allocation of 32 bytes for the count is not worth a copy.
fn short(bytes: &[u8]) -> Option<Bytes> {
    macro_rules! smallest_of {
        ($($size:literal)*) => {
            match bytes.len() {
                0 => Some(Bytes::new()),
                $(..=$size => Some(in_one::<$size>(bytes)),)*
                _ => None,
            }
        };
    }
    smallest_of! {
        16 32 48 64 80 96 112 128 144 160 176 192 208 224 240 256
        272 288 304 320 336 352 368 384 400 416 432 448 464 480 496 512
    }
}

fn in_one<const SIZE: usize>(bytes: &[u8]) -> Bytes {
    let mut buffer = [0; SIZE];
    buffer[..bytes.len()].copy_from_slice(bytes);
    let mut buffer = Bytes::from_owner(buffer);
    buffer.truncate(bytes.len());
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_what_was_given() {
        let bytes: Vec<u8> = (0..2000).map(|number| number as u8).collect();
        for len in (0..600).chain([2000]) {
            let copied = copied(&bytes[..len]);
            assert_eq!(copied, bytes[..len]);
            assert_eq!(owned(bytes[..len].to_vec()), copied);
            assert_eq!(copied.slice(len / 2..), bytes[len / 2..len]);
        }
    }

    /// A large value is not copied once more.
    #[test]
    fn many_bytes_stay_where_they_are() {
        let bytes = vec![7; 1 << 20];
        let at = bytes.as_ptr();
        assert_eq!(owned(bytes).as_ptr(), at);
    }
}
