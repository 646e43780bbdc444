//! How the store keeps one key and its value in memory.
//!
//! A [`Key`] is apart from its value on purpose. The map keeps copies of keys in its inner nodes for
//! as long as it likes; were a key a slice of the log entry it came with, such a copy would hold on
//! to a value that was replaced or deleted long ago. Short keys live in the map's nodes themselves,
//! so this costs most keys no allocation.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::buffer;

use super::request::Record;

/// Keys up to this long need no allocation: what fits beside a length in three words.
const INLINE_BYTES_MAX: usize = 22;

/// A key of the map: 24 bytes, ordered as its bytes are.
#[derive(Clone)]
pub(super) struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Shared(Arc<[u8]>),
}

/// What the map holds for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// A slice of the log entry that wrote it, or a buffer of its own; see [`keep`].
    pub value: Bytes,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
}

impl Key {
    pub fn new(key: &[u8]) -> Key {
        if INLINE_BYTES_MAX < key.len() {
            return Key(Repr::Shared(Arc::from(key)));
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Key(Repr::Inline { len: key.len() as u8, bytes })
    }

    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }

    /// For an answer, which outlives the map's nodes.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl Stored {
    /// For an answer; the value is shared.
    pub fn to_record(&self) -> Record {
        Record { value: self.value.clone(), ..self.to_record_without_value() }
    }

    /// For a list of keys.
    pub fn to_record_without_value(&self) -> Record {
        Record {
            value: Bytes::new(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
        }
    }
}

/// What to keep of a value that is a slice of a command of `command_bytes`: the slice itself, which
/// keeps the whole command in memory, unless the rest of the command is more than a little. A
/// transaction of many operations must not live on because one small key of it does.
pub(super) fn keep(value: Bytes, command_bytes: usize) -> Bytes {
    const REST_BYTES: usize = 96;
    let rest = command_bytes - value.len();
    if value.is_empty() {
        Bytes::new()
    } else if rest <= REST_BYTES + value.len() / 16 {
        value
    } else {
        buffer::copied(&value)
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million keys pay for every word here.
    #[test]
    fn a_record_is_ten_words_in_the_map() {
        assert_eq!(size_of::<Key>(), 24);
        assert_eq!(size_of::<(Key, Stored)>(), 80);
    }

    #[test]
    fn keys_order_as_their_bytes_do_whether_inline_or_shared() {
        let long = vec![b'b'; 23];
        let keys: [&[u8]; 6] = [b"", b"a", b"a\0", &long[..22], &long, b"c"];
        for (a, b) in keys.iter().zip(&keys[1..]) {
            assert!(Key::new(a) < Key::new(b));
            assert_eq!(Key::new(a).as_bytes(), *a);
        }
    }

    #[test]
    fn a_value_is_shared_with_its_command_only_if_little_else_is_in_it() {
        let command = Bytes::from(vec![7; 10_000]);
        let shares = |value: &Bytes, kept: &Bytes| value.as_ptr() == kept.as_ptr();
        let most = command.slice(100..);
        assert!(shares(&most, &keep(most.clone(), command.len())));
        let little = command.slice(9_000..);
        assert!(!shares(&little, &keep(little.clone(), command.len())));
    }
}
