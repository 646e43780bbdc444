//! Reading a snapshot: every byte is checked before it is believed.

use std::hash::Hasher;

use bytes::Bytes;
use twox_hash::XxHash64;

use super::format::{
    FOOTER_BYTES, PAGE_BYTES, RECORD_HEAD_BYTES, RecordHead, decode_footer, decode_header,
    decode_record_head, header_length, record_crc,
};
use super::{Snapshots, path_of};
use crate::storage::disk::DiskFile;
use crate::storage::error::StorageError;
use crate::types::LogPosition;
use crate::write::SnapshotMeta;

/// How much is read at once.
const BUFFER_BYTES: u64 = 256 << 10;

/// An open snapshot file: its meta at once, its pieces one after the other.
pub struct SnapshotReader {
    file: Box<dyn DiskFile>,
    /// For messages.
    name: String,
    meta: SnapshotMeta,
    header_bytes: u64,
    /// What was read ahead: body bytes from `at` on.
    buffer: Vec<u8>,
    /// How much of `buffer` is used up.
    used: usize,
    /// Where in the body the unused part begins.
    at: u64,
    pieces: u64,
    digest: XxHash64,
    ended: bool,
}

impl SnapshotReader {
    pub(super) fn open(
        snapshots: &Snapshots,
        position: LogPosition,
    ) -> Result<SnapshotReader, StorageError> {
        let reader = SnapshotReader::open_path(snapshots, &path_of(position))?;
        let found = reader.meta.position;
        if found != position {
            let expected = format!("the snapshot at {position}");
            return Err(StorageError::damage(reader.name, 0, expected, format!("that at {found}")));
        }
        Ok(reader)
    }

    pub(super) fn open_path(
        snapshots: &Snapshots,
        path: &str,
    ) -> Result<SnapshotReader, StorageError> {
        let name = snapshots.disk().describe(path);
        let file = snapshots.disk().open(path);
        let file = file.map_err(|error| snapshots.error(path, "open", error))?;
        let file_bytes = file.len().map_err(|error| snapshots.error(path, "read", error))?;
        let read = |length: usize| {
            if file_bytes < length as u64 {
                let expected = format!("a header of {length} bytes");
                return Err(StorageError::damage(&name, file_bytes, expected, "the file's end"));
            }
            let mut bytes = vec![0; length];
            let done = file.read_at(0, &mut bytes);
            done.map_err(|error| snapshots.error(path, "read", error)).map(|()| bytes)
        };
        let header_bytes = header_length(&read(PAGE_BYTES)?, &name)?;
        let meta = decode_header(&read(header_bytes)?, snapshots.owner(), &name)?;
        let header_bytes = header_bytes as u64;
        if file_bytes - header_bytes != meta.body_bytes {
            let expected = format!("a body of {} bytes", meta.body_bytes);
            let found = format!("{}", file_bytes - header_bytes);
            return Err(StorageError::damage(name, file_bytes, expected, found));
        }
        Ok(SnapshotReader {
            file,
            name,
            meta,
            header_bytes,
            buffer: Vec::new(),
            used: 0,
            at: 0,
            pieces: 0,
            digest: XxHash64::with_seed(0),
            ended: false,
        })
    }

    /// What the header says.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The next piece, in a buffer of its own. `None` is the end, and then everything was right:
    /// each piece, their number and both digests.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, StorageError> {
        let Some(record_bytes) = self.next_record()? else { return Ok(None) };
        let piece = Bytes::copy_from_slice(&self.unused()[RECORD_HEAD_BYTES..record_bytes]);
        self.take_record(record_bytes);
        Ok(Some(piece))
    }

    /// As [`SnapshotReader::next_piece`], for who does not want the piece; `false` is the end.
    pub(super) fn check_piece(&mut self) -> Result<bool, StorageError> {
        let Some(record_bytes) = self.next_record()? else { return Ok(false) };
        self.take_record(record_bytes);
        Ok(true)
    }

    /// Reads all pieces to the end.
    pub(super) fn verify(mut self) -> Result<SnapshotMeta, StorageError> {
        while self.check_piece()? {}
        Ok(self.meta)
    }

    /// Has the next record in the buffer, its CRC checked, and says how long it is. `None`: the end,
    /// and everything was right.
    fn next_record(&mut self) -> Result<Option<usize>, StorageError> {
        if self.ended {
            return Ok(None);
        }
        self.fill(RECORD_HEAD_BYTES, "a record")?;
        match decode_record_head(self.unused()) {
            Ok(RecordHead::Footer) => self.footer().map(|()| None),
            Ok(RecordHead::Piece { len, crc }) => {
                let record_bytes = RECORD_HEAD_BYTES + len;
                self.fill(record_bytes, "a piece")?;
                let computed = record_crc(&self.unused()[RECORD_HEAD_BYTES..record_bytes]);
                if computed != crc {
                    let expected = format!("CRC {computed:08x} of a piece of {len} bytes");
                    return Err(self.damage(expected, format!("{crc:08x}")));
                }
                Ok(Some(record_bytes))
            }
            Err(len) => Err(self.damage("a piece's length".into(), len.to_string())),
        }
    }

    fn take_record(&mut self, record_bytes: usize) {
        self.pieces += 1;
        self.advance(record_bytes);
    }

    /// Bytes of the body as they are, unchecked; `None` beyond its end.
    pub(super) fn raw(&self, offset: u64, length: u64) -> Result<Option<Bytes>, StorageError> {
        let end = offset.checked_add(length);
        let Some(length) = usize::try_from(length)
            .ok()
            .filter(|_| end.is_some_and(|end| end <= self.meta.body_bytes))
        else {
            return Ok(None);
        };
        let mut bytes = vec![0; length];
        let read = self.file.read_at(self.header_bytes + offset, &mut bytes);
        read.map_err(|error| StorageError::io(self.name.clone(), "read", error))?;
        Ok(Some(bytes.into()))
    }

    fn footer(&mut self) -> Result<(), StorageError> {
        self.fill(FOOTER_BYTES, "the footer")?;
        let Some(footer) = decode_footer(self.unused()) else {
            return Err(self.damage("a footer whose CRC holds".into(), "another CRC".into()));
        };
        let (pieces, digest) = (self.pieces, self.digest.finish());
        if (footer.pieces, footer.digest) != (pieces, digest) {
            let expected = format!("{} pieces, digest {:016x}", footer.pieces, footer.digest);
            return Err(self.damage(expected, format!("{pieces} pieces, digest {digest:016x}")));
        }
        self.advance(FOOTER_BYTES);
        let digest = self.digest.finish();
        if self.at != self.meta.body_bytes || digest != self.meta.digest {
            let SnapshotMeta { body_bytes, digest: named, .. } = self.meta;
            let expected = format!("the end at body byte {body_bytes}, digest {named:016x}");
            return Err(self.damage(expected, format!("{}, digest {digest:016x}", self.at)));
        }
        self.ended = true;
        Ok(())
    }

    fn unused(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Has at least `need` unused bytes in the buffer.
    fn fill(&mut self, need: usize, what: &str) -> Result<(), StorageError> {
        let have = self.unused().len();
        if need <= have {
            return Ok(());
        }
        let left = self.meta.body_bytes - self.at;
        if left < need as u64 {
            return Err(
                self.damage(format!("{what} of {need} bytes"), format!("{left} to the end"))
            );
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        let wanted = left.min(BUFFER_BYTES.max(need as u64));
        self.buffer.resize(wanted as usize, 0);
        let from = self.header_bytes + self.at + have as u64;
        let read = self.file.read_at(from, &mut self.buffer[have..]);
        read.map_err(|error| StorageError::io(self.name.clone(), "read", error))
    }

    fn advance(&mut self, bytes: usize) {
        self.digest.write(&self.buffer[self.used..self.used + bytes]);
        self.used += bytes;
        self.at += bytes as u64;
    }

    /// Damage at the record that comes next.
    fn damage(&self, expected: String, found: String) -> StorageError {
        StorageError::damage(self.name.clone(), self.header_bytes + self.at, expected, found)
    }
}
