//! Writing a snapshot of our own: pieces in, a verified file out. Every call does a bounded amount of
//! work, so that whoever drives it can rest, or give up, between any two.

use std::hash::Hasher;
use std::mem;

use twox_hash::XxHash64;

use super::format::{Footer, encode_footer, encode_header, encode_record};
use super::read::SnapshotReader;
use super::{SNAPSHOT_DIR, Snapshots, path_of};
use crate::membership::Membership;
use crate::storage::disk::{DiskFile, SLICE_BYTES};
use crate::storage::error::StorageError;
use crate::types::LogPosition;
use crate::write::SnapshotMeta;

/// Records are gathered up to about this size before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// A snapshot on its way to disk. Dropped before [`SnapshotWriter::finish`], or after an error, it
/// leaves nothing behind.
pub struct SnapshotWriter {
    snapshots: Snapshots,
    meta: SnapshotMeta,
    tmp: Tmp,
    header_bytes: u64,
    /// Of `meta.body_bytes`, what is not in the file yet.
    buffer: Vec<u8>,
    unsynced: u64,
    pieces: u64,
    digest: XxHash64,
}

impl SnapshotWriter {
    pub(super) fn begin(
        snapshots: &Snapshots,
        position: LogPosition,
        membership: &Membership,
    ) -> Result<SnapshotWriter, StorageError> {
        assert!(membership.is_sound(), "a snapshot holds the membership in force: {membership}");
        let meta = SnapshotMeta { position, membership: membership.clone(), ..Default::default() };
        let tmp = Tmp::create(snapshots, format!("{SNAPSHOT_DIR}/own.tmp"))?;
        // The header is written last, when body length and digest are known; its size is fixed.
        let header_bytes = encode_header(snapshots.owner(), &meta).len() as u64;
        Ok(SnapshotWriter {
            snapshots: snapshots.clone(),
            meta,
            tmp,
            header_bytes,
            buffer: Vec::new(),
            unsynced: 0,
            pieces: 0,
            digest: XxHash64::with_seed(0),
        })
    }

    /// Appends the next piece.
    ///
    /// # Panics
    ///
    /// When it has not 1 to `PIECE_BYTES_MAX` bytes.
    pub fn piece(&mut self, piece: &[u8]) -> Result<(), StorageError> {
        let before = self.buffer.len();
        encode_record(piece, &mut self.buffer);
        self.digest.write(&self.buffer[before..]);
        self.meta.body_bytes += (self.buffer.len() - before) as u64;
        self.pieces += 1;
        if BUFFER_BYTES <= self.buffer.len() {
            self.flush()?;
        }
        Ok(())
    }

    /// The rest in one go: [`SnapshotWriter::seal`], every [`SealedSnapshot::check_piece`],
    /// [`SealedSnapshot::publish`].
    pub fn finish(self) -> Result<SnapshotMeta, StorageError> {
        let mut sealed = self.seal()?;
        while sealed.check_piece()? {}
        sealed.publish()
    }

    /// No more pieces: everything is in the file and synced. It is still to be read back, and has no
    /// name yet.
    pub fn seal(mut self) -> Result<SealedSnapshot, StorageError> {
        let footer = Footer { pieces: self.pieces, digest: self.digest.finish() };
        let footer = encode_footer(footer);
        self.buffer.extend_from_slice(&footer);
        self.digest.write(&footer);
        self.meta.body_bytes += footer.len() as u64;
        self.meta.digest = self.digest.finish();
        self.flush()?;

        let header = encode_header(self.snapshots.owner(), &self.meta);
        assert_eq!(header.len() as u64, self.header_bytes, "the header's length is fixed");
        self.tmp.write(0, &header)?;
        self.tmp.sync()?;
        let reader = SnapshotReader::open_path(&self.snapshots, self.tmp.path())?;
        assert_eq!(*reader.meta(), self.meta, "a header with a right CRC is the one just written");
        Ok(SealedSnapshot { tmp: self.tmp, reader, is_checked: false })
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let records = mem::take(&mut self.buffer);
        let written = self.meta.body_bytes - records.len() as u64;
        self.tmp.write(self.header_bytes + written, &records)?;
        self.unsynced += records.len() as u64;
        if SLICE_BYTES <= self.unsynced {
            self.tmp.sync()?;
            self.unsynced = 0;
        }
        // The allocation serves the next records.
        self.buffer = records;
        self.buffer.clear();
        Ok(())
    }
}

/// A snapshot that is written and synced, and is being read back: a disk that took the bytes may
/// still give back others. Dropped before [`SealedSnapshot::publish`] it leaves nothing behind.
pub struct SealedSnapshot {
    tmp: Tmp,
    reader: SnapshotReader,
    is_checked: bool,
}

impl SealedSnapshot {
    /// Reads the next piece back and checks it; `false` is the end, and then everything was right.
    pub fn check_piece(&mut self) -> Result<bool, StorageError> {
        self.is_checked = !self.reader.check_piece()?;
        Ok(!self.is_checked)
    }

    /// Makes the snapshot durable under its name.
    ///
    /// # Panics
    ///
    /// When not everything was read back.
    pub fn publish(mut self) -> Result<SnapshotMeta, StorageError> {
        assert!(self.is_checked, "a snapshot gets its name after it was read back");
        let meta = self.reader.meta().clone();
        self.tmp.publish(meta.position)?;
        Ok(meta)
    }
}

/// A file under construction: published, or gone.
pub(super) struct Tmp {
    snapshots: Snapshots,
    path: String,
    file: Box<dyn DiskFile>,
    published: bool,
}

impl Tmp {
    pub(super) fn create(snapshots: &Snapshots, path: String) -> Result<Tmp, StorageError> {
        let file = snapshots.create_anew(&path)?;
        Ok(Tmp { snapshots: snapshots.clone(), path, file, published: false })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let written = self.file.write_at(offset, bytes);
        written.map_err(|error| self.snapshots.error(&self.path, "write", error))
    }

    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        let synced = self.file.sync();
        synced.map_err(|error| self.snapshots.error(&self.path, "sync", error))
    }

    /// The last step, for a file that is synced and verified: gives it its final name, durably.
    pub(super) fn publish(&mut self, position: LogPosition) -> Result<(), StorageError> {
        let path = path_of(position);
        let renamed = self.snapshots.disk().rename(&self.path, &path);
        renamed.map_err(|error| self.snapshots.error(&path, "rename", error))?;
        self.published = true;
        self.snapshots.sync_dir()
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        if !self.published {
            self.snapshots.discard(&self.path);
        }
    }
}
