//! Reading and writing plain byte layouts: little-endian numbers and raw bytes.
//!
//! The layouts themselves stand where they belong (`command`, `forward`, `snapshot`). Reading never
//! panics and never copies: what is taken out is a slice of the buffer it came from.

use bytes::Bytes;
use raft_core::state_machine::Malformed;

/// Takes a buffer apart from front to back.
pub(super) struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
    /// What the whole is, for messages: `command`, `request`.
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// At the start of these bytes.
    pub fn new(what: &'static str, bytes: &'a Bytes) -> Reader<'a> {
        Reader { bytes, at: 0, what }
    }

    pub fn u8(&mut self, field: &str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(field)?[0])
    }

    pub fn u16(&mut self, field: &str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub fn u32(&mut self, field: &str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub fn u64(&mut self, field: &str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// The next `len` bytes, shared with the buffer.
    pub fn bytes(&mut self, len: usize, field: &str) -> Result<Bytes, Malformed> {
        self.need(len, field)?;
        let taken = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Ok(taken)
    }

    /// All that is left, shared with the buffer.
    pub fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        rest
    }

    /// That there is room for `count` items of at least `item_bytes` each: a count that lies is
    /// found before anything is allocated for it.
    pub fn room_for(&self, count: usize, item_bytes: usize, field: &str) -> Result<(), Malformed> {
        self.need(count.saturating_mul(item_bytes), field)
    }

    /// That nothing is left.
    pub fn end(self) -> Result<(), Malformed> {
        match self.left() {
            0 => Ok(()),
            left => Err(Malformed::new(format!(
                "{}: {left} bytes too many after byte {}",
                self.what, self.at
            ))),
        }
    }

    /// A fault at this place, said in one form everywhere.
    pub fn fault(&self, text: impl std::fmt::Display) -> Malformed {
        Malformed::new(format!("{} at byte {}: {text}", self.what, self.at))
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn need(&self, len: usize, field: &str) -> Result<(), Malformed> {
        if self.left() < len {
            let left = self.left();
            return Err(self.fault(format_args!("{field} needs {len} bytes, {left} are left")));
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Malformed> {
        self.need(N, field)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        Ok(array)
    }
}
