//! Taking away what no start will need any more. Removing a large file takes a file system tens of
//! milliseconds, so it is a job for another thread than the log's: nobody waits for it. What is not
//! removed when the process ends is found unneeded again at the next start.

use std::sync::Arc;

use super::disk::Disk;
use super::error::StorageError;
use super::segment::WAL_DIR;
use super::snapshot::Snapshots;
use crate::types::LogPosition;

/// Files that are to be removed: run it on any thread, it may take long. Removals are run one after
/// the other, in the order they were given out.
pub struct Removal {
    pub(super) disk: Arc<dyn Disk>,
    /// Paths of log files, oldest first.
    pub(super) segments: Vec<String>,
    pub(super) snapshots: Snapshots,
    /// The snapshots that are needed, oldest first; never empty. Others are not, unless they are
    /// newer than all of these: one of those waits for its mark in the log.
    pub(super) kept: Vec<LogPosition>,
}

impl Removal {
    /// Removes the files, durably.
    pub fn run(self) -> Result<(), StorageError> {
        for path in &self.segments {
            // One by one, each durably: after a crash the log has no gap.
            let removed = self.disk.remove(path);
            removed.map_err(|error| StorageError::io(self.disk.describe(path), "remove", error))?;
            let synced = self.disk.sync_dir(WAL_DIR);
            synced.map_err(|error| StorageError::io(self.disk.describe(WAL_DIR), "sync", error))?;
        }
        let newest = self.kept.last().expect("one snapshot is always kept");
        for file in self.snapshots.list()? {
            if file.position.index < newest.index && !self.kept.contains(&file.position) {
                self.snapshots.remove(file.position)?;
            }
        }
        Ok(())
    }

    /// One job in place of two, this one the earlier.
    pub(super) fn and_then(mut self, later: Removal) -> Removal {
        self.segments.extend(later.segments);
        Removal { segments: self.segments, ..later }
    }
}
