//! Receiving the leader's snapshot: chunks of its body in, a verified file with our own header out.

use std::error::Error;
use std::fmt;

use super::format::encode_header;
use super::read::SnapshotReader;
use super::write::Tmp;
use super::{SNAPSHOT_DIR, Snapshots};
use crate::state_machine::Malformed;
use crate::storage::disk::SLICE_BYTES;
use crate::storage::error::StorageError;
use crate::types::LogPosition;
use crate::write::SnapshotMeta;

/// Why a received snapshot was not taken.
#[derive(Clone, Debug)]
pub enum ReceiveError {
    /// Bytes before these are missing.
    Gap {
        /// The highest offset that would have been taken.
        expected: u64,
        /// The offset that came.
        found: u64,
    },
    /// The bytes are not what the meta says. Nothing of them is kept.
    Refused(Malformed),
    /// Our own disk failed.
    Storage(StorageError),
}

/// A snapshot on its way in.
pub(super) struct Receiving {
    snapshots: Snapshots,
    meta: SnapshotMeta,
    tmp: Tmp,
    header_bytes: u64,
    /// Everything below this offset of the body is in the file.
    received: u64,
    unsynced: u64,
}

impl Receiving {
    /// All that is known goes to disk at once: the header needs no room later.
    pub(super) fn begin(
        snapshots: &Snapshots,
        meta: &SnapshotMeta,
    ) -> Result<Receiving, StorageError> {
        assert!(meta.membership.is_sound(), "the codec lets only sound memberships in");
        let header = encode_header(snapshots.owner(), meta);
        let mut tmp = Tmp::create(snapshots, format!("{SNAPSHOT_DIR}/received.tmp"))?;
        tmp.write(0, &header)?;
        Ok(Receiving {
            snapshots: snapshots.clone(),
            meta: meta.clone(),
            tmp,
            header_bytes: header.len() as u64,
            received: 0,
            unsynced: 0,
        })
    }

    pub(super) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    pub(super) fn chunk(&mut self, offset: u64, data: &[u8]) -> Result<(), ReceiveError> {
        if self.received < offset {
            return Err(ReceiveError::Gap { expected: self.received, found: offset });
        }
        let length = data.len() as u64;
        let end = offset.saturating_add(length);
        if self.meta.body_bytes < end {
            let text = format!("a chunk up to {end} of a body of {}", self.meta.body_bytes);
            return Err(ReceiveError::Refused(Malformed::new(text)));
        }
        self.tmp.write(self.header_bytes + offset, data)?;
        self.received = self.received.max(end);
        self.unsynced += length;
        if SLICE_BYTES <= self.unsynced {
            self.tmp.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), ReceiveError> {
        if self.received < self.meta.body_bytes {
            let text = format!("{} of {} bytes came", self.received, self.meta.body_bytes);
            return Err(ReceiveError::Refused(Malformed::new(text)));
        }
        self.tmp.sync()?;
        match SnapshotReader::open_path(&self.snapshots, self.tmp.path())?.verify() {
            Ok(_) => {}
            // Our disk or the sender's, on the way or before: it has to be sent again in any case.
            Err(StorageError::Damage { offset, expected, found, .. }) => {
                let text = format!("byte {offset} of the file: expected {expected}, found {found}");
                return Err(ReceiveError::Refused(Malformed::new(text)));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self.tmp.publish(self.meta.position)?)
    }
}

impl ReceiveError {
    pub(super) fn nothing_of(meta: &SnapshotMeta, found: Option<LogPosition>) -> ReceiveError {
        let found = found.map_or("nothing".to_owned(), |position| format!("snapshot {position}"));
        let text = format!("no bytes of snapshot {} came, but {found}", meta.position);
        ReceiveError::Refused(Malformed::new(text))
    }
}

impl From<StorageError> for ReceiveError {
    fn from(error: StorageError) -> ReceiveError {
        ReceiveError::Storage(error)
    }
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReceiveError::Gap { expected, found } => {
                write!(f, "a chunk at offset {found} where {expected} comes next")
            }
            ReceiveError::Refused(why) => write!(f, "not the snapshot it should be: {why}"),
            ReceiveError::Storage(error) => error.fmt(f),
        }
    }
}

impl Error for ReceiveError {}
