//! Snapshots on disk: written whole or not at all, verified before they get their name.
//!
//! A snapshot of our own is written piece by piece ([`SnapshotWriter`]); one of the leader's comes
//! in chunks of its file's body ([`Snapshots::receive_chunk`]). Either way: written as `.tmp`,
//! synced, read back and verified, renamed, the folder synced. A file with its final name is
//! therefore a whole one, and only rot can change that; every read checks for it.
//!
//! What a snapshot *means* is the log's business: a file counts only once a mark in the log names
//! it. The caller writes that mark, tells which files are marked, and never lets this module remove
//! one that is needed.

mod format;
mod read;
mod receive;
mod write;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

pub use self::format::{Owner, PAGE_BYTES};
use self::format::{file_name, parse_file_name};
pub use self::read::SnapshotReader;
pub use self::receive::ReceiveError;
use self::receive::Receiving;
pub use self::write::{SealedSnapshot, SnapshotWriter};
use super::disk::{Disk, DiskFile};
use super::error::StorageError;
use crate::membership::Membership;
use crate::types::LogPosition;
use crate::write::SnapshotMeta;

/// The folder.
pub const SNAPSHOT_DIR: &str = "snap";

/// The snapshot files of a data directory. Clones are handles of the same ones and may be used from
/// several threads at once; at most one snapshot is written and one received at a time.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The last entry it covers, by its name.
    pub position: LogPosition,
    /// Its path in the data directory.
    pub path: String,
}

struct Shared {
    disk: Arc<dyn Disk>,
    owner: Owner,
    receiving: Mutex<Option<Receiving>>,
}

impl Snapshots {
    /// The snapshots on this disk; makes the folder, durably, if it is not there.
    pub fn open(disk: Arc<dyn Disk>, owner: Owner) -> Result<Snapshots, StorageError> {
        let made = disk.create_dir(SNAPSHOT_DIR).and_then(|()| disk.sync_dir(""));
        made.map_err(|error| StorageError::io(disk.describe(SNAPSHOT_DIR), "create", error))?;
        let shared = Shared { disk, owner, receiving: Mutex::new(None) };
        Ok(Snapshots { shared: Arc::new(shared) })
    }

    /// Begins a snapshot of our own, of the state at `position`, where `membership` was in force.
    pub fn writer(
        &self,
        position: LogPosition,
        membership: &Membership,
    ) -> Result<SnapshotWriter, StorageError> {
        SnapshotWriter::begin(self, position, membership)
    }

    /// Takes in bytes of the leader's snapshot `meta` that belong at `offset` of its body. Offset 0
    /// begins anew and throws away what was received before; bytes that came already may come
    /// again. Nothing counts before [`Snapshots::finish_receive`].
    pub fn receive_chunk(
        &self,
        meta: &SnapshotMeta,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ReceiveError> {
        let mut receiving = self.receiving();
        if offset == 0 {
            *receiving = None;
            *receiving = Some(Receiving::begin(self, meta)?);
        }
        match &mut *receiving {
            Some(receiving) if receiving.meta() == meta => receiving.chunk(offset, data),
            _ => Err(ReceiveError::Gap { expected: 0, found: offset }),
        }
    }

    /// Verifies what was received as `meta` and makes it a durable snapshot file. Bytes that are
    /// not what `meta` says are refused and thrown away; then the leader has to send them again.
    /// May be called again after it has succeeded.
    pub fn finish_receive(&self, meta: &SnapshotMeta) -> Result<SnapshotFile, ReceiveError> {
        let mut receiving = self.receiving();
        match receiving.take_if(|receiving| receiving.meta() == meta) {
            Some(complete) => complete.finish()?,
            None => {
                let known = self.list()?.iter().any(|file| file.position == meta.position);
                if !known || self.verify(meta.position)? != *meta {
                    let other = receiving.as_ref().map(|other| other.meta().position);
                    return Err(ReceiveError::nothing_of(meta, other));
                }
                // What failed the first time may have been this.
                self.sync_dir()?;
            }
        }
        Ok(SnapshotFile { position: meta.position, path: path_of(meta.position) })
    }

    /// Every file with a snapshot's name, oldest position first. Whether a file is whole is not
    /// looked at.
    pub fn list(&self) -> Result<Vec<SnapshotFile>, StorageError> {
        let file = |name: &String| {
            let position = parse_file_name(name)?;
            Some(SnapshotFile { position, path: path_of(position) })
        };
        let mut files: Vec<SnapshotFile> = self.names()?.iter().filter_map(file).collect();
        files.sort_by_key(|file| file.position);
        Ok(files)
    }

    /// What the header of a snapshot says; its body is not looked at.
    pub fn meta(&self, position: LogPosition) -> Result<SnapshotMeta, StorageError> {
        Ok(self.reader(position)?.meta().clone())
    }

    /// Refuses snapshots of another node or cluster, and of a format newer than this program, whether
    /// the log marks them or not: somebody mixed up directories. A header that cannot be read says
    /// neither; whether that matters is the log's to decide.
    pub fn refuse_foreign(&self) -> Result<(), StorageError> {
        for file in self.list()? {
            if let Err(
                foreign @ (StorageError::ForeignNode { .. }
                | StorageError::ForeignCluster { .. }
                | StorageError::NewerFormat { .. }),
            ) = self.meta(file.position)
            {
                return Err(foreign);
            }
        }
        Ok(())
    }

    /// Reads the whole file: every CRC, the count and both digests.
    pub fn verify(&self, position: LogPosition) -> Result<SnapshotMeta, StorageError> {
        self.reader(position)?.verify()
    }

    /// Opens a snapshot to read its pieces. When the file is removed meanwhile, the next piece may be
    /// an error.
    pub fn reader(&self, position: LogPosition) -> Result<SnapshotReader, StorageError> {
        SnapshotReader::open(self, position)
    }

    /// Bytes of a snapshot's body for a follower; `None` when that very snapshot is not here (any
    /// more), cannot be read, or does not have that range. The first chunk is given out only after
    /// the whole file was verified: a rotten snapshot is never sent.
    pub fn read_chunk(&self, meta: &SnapshotMeta, offset: u64, length: u64) -> Option<Bytes> {
        let read = || -> Result<Option<Bytes>, StorageError> {
            if offset == 0 && self.verify(meta.position)? != *meta {
                return Ok(None);
            }
            let reader = self.reader(meta.position)?;
            if reader.meta() != meta {
                return Ok(None);
            }
            reader.raw(offset, length)
        };
        read().unwrap_or_else(|error| {
            log::warn!("snapshot {} cannot be sent: {error}", meta.position);
            None
        })
    }

    /// Takes a snapshot away.
    pub fn remove(&self, position: LogPosition) -> Result<(), StorageError> {
        self.remove_all(vec![file_name(position)])
    }

    /// Takes away every snapshot that is not among `marked`, and what unfinished writing left. Only
    /// at start, when nothing is being written or received. Returns what was taken away.
    pub fn remove_unmarked(
        &self,
        marked: &[LogPosition],
    ) -> Result<Vec<LogPosition>, StorageError> {
        let unmarked = |position: LogPosition| !marked.contains(&position);
        let doomed: Vec<String> = self
            .names()?
            .into_iter()
            .filter(|name| name.ends_with(".tmp") || parse_file_name(name).is_some_and(unmarked))
            .collect();
        let positions = doomed.iter().filter_map(|name| parse_file_name(name)).collect();
        self.remove_all(doomed)?;
        Ok(positions)
    }

    fn remove_all(&self, names: Vec<String>) -> Result<(), StorageError> {
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            let path = in_dir(&name);
            self.disk().remove(&path).map_err(|error| self.error(&path, "remove", error))?;
        }
        self.sync_dir()
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        let names = self.disk().list(SNAPSHOT_DIR);
        names.map_err(|error| self.error(SNAPSHOT_DIR, "list", error))
    }

    /// Makes an empty file where a crash may have left one.
    fn create_anew(&self, path: &str) -> Result<Box<dyn DiskFile>, StorageError> {
        match self.disk().remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.error(path, "remove", error));
            }
            _ => {}
        }
        self.disk().create(path).map_err(|error| self.error(path, "create", error))
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        let synced = self.disk().sync_dir(SNAPSHOT_DIR);
        synced.map_err(|error| self.error(SNAPSHOT_DIR, "sync", error))
    }

    /// Best effort: what is left is removed at the next start.
    fn discard(&self, tmp: &str) {
        if let Err(error) = self.disk().remove(tmp) {
            log::warn!("could not remove {}: {error}", self.disk().describe(tmp));
        }
    }

    fn error(&self, path: &str, op: &'static str, error: io::Error) -> StorageError {
        StorageError::io(self.disk().describe(path), op, error)
    }

    fn disk(&self) -> &dyn Disk {
        &*self.shared.disk
    }

    fn owner(&self) -> Owner {
        self.shared.owner
    }

    fn receiving(&self) -> MutexGuard<'_, Option<Receiving>> {
        // A panic while receiving leaves a file that verification refuses, nothing worse.
        self.shared.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path_of(position: LogPosition) -> String {
    in_dir(&file_name(position))
}

fn in_dir(name: &str) -> String {
    format!("{SNAPSHOT_DIR}/{name}")
}
