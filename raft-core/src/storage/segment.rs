//! Segment files: their names, how a new one is made, and how one is read back whole.
//!
//! A segment is written full of zeroes and synced under a temporary name before it is used, so that
//! a sector that was never written can be told from one that was, and so that a sync later on has
//! no new length to make durable. This file decides nothing about what a segment's batches mean.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::error::StorageError;
use super::format::{FORMAT, HeaderFault, PAGE, SegmentHeader};
use super::snapshot::Owner;

/// The folder of the segments.
pub const WAL_DIR: &str = "wal";

/// A segment that is to be made: run it on any thread, it may take long.
pub struct MakeSegment {
    disk: Arc<dyn Disk>,
    path: String,
    header: SegmentHeader,
    ticket: Arc<()>,
}

/// A segment that is ready, but for its name in the log.
pub struct MadeSegment {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) path: String,
    pub(super) header: SegmentHeader,
    /// As long as anyone holds it, the log knows that this segment is on its way.
    _ticket: Arc<()>,
}

impl MakeSegment {
    /// A job for a segment with this header; `path` is a temporary name that nobody else uses.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        path: String,
        header: SegmentHeader,
        ticket: Arc<()>,
    ) -> MakeSegment {
        MakeSegment { disk, path, header, ticket }
    }

    /// Writes the file full of zeroes and syncs it. When that fails, for want of room or
    /// otherwise, nothing is left of it and it may be tried again with a new job.
    pub fn run(self) -> io::Result<MadeSegment> {
        let file = write_segment(&*self.disk, &self.path, &self.header, &[])?;
        Ok(MadeSegment { file, path: self.path, header: self.header, _ticket: self.ticket })
    }
}

/// Makes a segment file that begins with these batches, zeroes behind them, all synced. It replaces
/// what had this (temporary) name; on failure nothing is left.
pub(super) fn write_segment(
    disk: &dyn Disk,
    path: &str,
    header: &SegmentHeader,
    batches: &[u8],
) -> io::Result<Box<dyn DiskFile>> {
    let used = (PAGE + batches.len()) as u64;
    assert!(used <= header.bytes, "a segment holds what is put into it");
    remove_if_there(disk, path)?;
    let fill = || -> io::Result<Box<dyn DiskFile>> {
        let mut file = disk.create(path)?;
        file.write_at(0, &header.encode())?;
        file.write_at(PAGE as u64, batches)?;
        file.write_zeroes(used, header.bytes - used)?;
        file.sync()?;
        Ok(file)
    };
    fill().inspect_err(|_| {
        // The first error is the one to report; a file left behind is taken away at the next start.
        let _ = disk.remove(path);
    })
}

/// Reads a segment whole: its header, checked against who we are and what it is called, and all
/// its bytes.
pub(super) fn read_segment(
    disk: &dyn Disk,
    owner: Owner,
    sequence: u64,
) -> Result<(SegmentHeader, Vec<u8>), StorageError> {
    let path = segment_path(sequence);
    let name = disk.describe(&path);
    let io = |op| {
        let name = name.clone();
        move |error| StorageError::io(name, op, error)
    };
    let file = disk.open(&path).map_err(io("open"))?;
    let length = file.len().map_err(io("read"))?;
    if length < PAGE as u64 {
        let found = format!("{length} bytes");
        return Err(StorageError::damage(name, 0, "a segment header, 4096 bytes", found));
    }
    let mut bytes = vec![0; PAGE];
    file.read_at(0, &mut bytes).map_err(io("read"))?;

    let header = SegmentHeader::decode(&bytes).map_err(|fault| match fault {
        HeaderFault::Damaged(fault) => {
            StorageError::damage(name.clone(), fault.offset, fault.expected, fault.found)
        }
        HeaderFault::Newer { found } => {
            StorageError::NewerFormat { file: name.clone(), found, known: FORMAT }
        }
    })?;
    if header.cluster != owner.cluster {
        let (expected, found) = (owner.cluster, header.cluster);
        return Err(StorageError::ForeignCluster { file: name, expected, found });
    }
    if header.node != owner.node {
        let (expected, found) = (owner.node, header.node);
        return Err(StorageError::ForeignNode { file: name, expected, found });
    }
    if header.sequence != sequence {
        let (expected, found) = (format!("segment {sequence}"), header.sequence.to_string());
        return Err(StorageError::damage(name, 32, expected, found));
    }
    if header.bytes != length || length % PAGE as u64 != 0 {
        let (expected, found) = (format!("{} bytes", header.bytes), format!("{length} bytes"));
        return Err(StorageError::damage(name, length.min(header.bytes), expected, found));
    }
    // Only now is it known that the file is a segment, and that its size was meant.
    bytes.resize(length as usize, 0);
    file.read_at(PAGE as u64, &mut bytes[PAGE..]).map_err(io("read"))?;
    Ok((header, bytes))
}

/// `wal/0000000007.log`: sorted by name is sorted by sequence.
pub(super) fn segment_path(sequence: u64) -> String {
    format!("{WAL_DIR}/{sequence:010}.log")
}

/// The sequence in a segment's name; `None` for any other name.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let sequence = digits.parse().ok()?;
    (format!("{sequence:010}") == digits).then_some(sequence)
}

/// Whether a file of this name is something that a crash left unfinished.
pub(super) fn is_temporary(name: &str) -> bool {
    name.ends_with(".tmp")
}

/// Takes a file away; that there is none is well.
pub(super) fn remove_if_there(disk: &dyn Disk, path: &str) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
