//! Floor 2b, *keeps*: the write-ahead log and the snapshots of one node.
//!
//! [`Storage`] is the only way in. It carries out the core's [`Write`]s (all that are waiting in one
//! batch with one sync) and gives back at start what they added up to ([`Recovered`]). It decides
//! nothing about Raft, runs no thread, and never retries what failed: after a failed write or sync
//! nobody knows what is durable, so it refuses everything from then on.
//!
//! ```text
//! disk      the only door to files           segment   a log file: made ahead, full of zeroes
//! error     why storage refuses              wal       batch after batch, one sync each
//! meta      who this disk is, and its lock   recovery  what every byte found at start means
//! format    the bytes of the log             snapshot  snapshots, written whole or not at all
//! records   what they mean                   removal   what no start will need any more
//!                                            testdisk  a disk in memory that loses what it may
//! ```

pub mod disk;
pub mod error;
pub mod format;
pub mod meta;
mod records;
mod recovery;
mod removal;
mod segment;
pub mod snapshot;
pub mod testdisk;
mod wal;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::disk::Disk;
use self::error::StorageError;
use self::format::{Kind, Record};
use self::meta::Meta;
use self::records::{LogState, Meaning, SNAPSHOTS_KEPT};
use self::recovery::{choose_snapshot, examine};
pub use self::removal::Removal;
pub use self::segment::{MadeSegment, MakeSegment, WAL_DIR};
use self::snapshot::{Owner, ReceiveError, Snapshots};
use self::wal::{Making, Salts, Wal};
use crate::types::{Entry, HardState, LogPosition, WriteId};
use crate::write::{Recovered, SnapshotMeta, SnapshotWrite, Write};

/// How the log's files are made.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// Size of the first segment in bytes, a multiple of 4096 and at least 16 KiB; 4 MiB. Smaller:
    /// the first segments are soon full. Larger: a fresh directory takes more room.
    pub segment_bytes_first: u64,
    /// Each segment is twice the one before up to this, unless one batch needs more; 64 MiB.
    /// Smaller: more files. Larger: log is given back in larger steps, starts take longer.
    pub segment_bytes_max: u64,
    /// Random bits, other ones at each start: they tell the bytes of one log file from those of any
    /// other.
    pub seed: u64,
}

/// The log and the snapshots of a formed node, open to be written.
pub struct Storage {
    wal: Wal,
    snapshots: Snapshots,
    state: LogState,
    /// Files that are not needed any more and not given out as a job yet.
    unneeded: Option<Removal>,
    poisoned: bool,
}

/// What became of writes: they are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The last of them.
    pub last: WriteId,
    /// Received snapshots that were not what they should be; to be reported before `last` is.
    pub install_failed: Vec<LogPosition>,
    /// How long the disk took to sync; zero when there was nothing to sync.
    pub sync_took: Duration,
    /// Bytes written to the log.
    pub bytes: u64,
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageStats {
    /// Log files in use.
    pub segments: usize,
    /// Their bytes, and those of the next one.
    pub wal_bytes: u64,
    /// Batches written since the start.
    pub batches: u64,
    /// Bytes written in them.
    pub batch_bytes: u64,
    /// Syncs of log files since the start.
    pub syncs: u64,
    /// The time they took.
    pub sync_time: Duration,
    /// Whether a write or sync failed: nothing is accepted any more.
    pub poisoned: bool,
}

impl StorageOptions {
    /// The defaults, with these random bits.
    pub fn new(seed: u64) -> StorageOptions {
        StorageOptions { segment_bytes_first: 4 << 20, segment_bytes_max: 64 << 20, seed }
    }

    fn making(&self, disk: Arc<dyn Disk>, owner: Owner) -> Making {
        let (first, max) = (self.segment_bytes_first, self.segment_bytes_max);
        assert!(16 << 10 <= first && first <= max, "segments of 16 KiB or more, the largest last");
        assert_eq!((first % 4096, max % 4096), (0, 0), "segments are made of whole pages");
        Making { disk, owner, bytes_first: first, bytes_max: max, salts: Salts(self.seed) }
    }
}

impl Storage {
    /// Makes the log of a node that is about to be formed: term, vote and entries that it begins
    /// with (for a node that joins: none), synced. `meta` holds the cluster's id but is not on disk
    /// yet; what an earlier try left is replaced. Next: store META, then [`Storage::open`].
    ///
    /// # Panics
    ///
    /// When `meta` has no cluster id, or the entries do not begin at 1 and follow each other.
    pub fn create(
        disk: Arc<dyn Disk>,
        meta: &Meta,
        options: &StorageOptions,
        first: (HardState, Vec<Entry>),
    ) -> Result<(), StorageError> {
        let (hard_state, entries) = first;
        let mut state = LogState::default();
        let mut records = vec![state.carry().encode()];
        if hard_state != HardState::default() {
            push(&mut state, &mut records, Meaning::HardState(hard_state));
        }
        for entry in entries {
            push(&mut state, &mut records, Meaning::Entry(entry));
        }
        Wal::create(&mut options.making(disk, owner(meta)), &records)
    }

    /// Reads back everything a formed node has on disk and makes it durable beyond doubt; after
    /// that it may be acted upon. An error changes nothing on disk, unless it is one of writing.
    ///
    /// # Panics
    ///
    /// When `meta` has no cluster id: such a node has no log.
    pub fn open(
        disk: Arc<dyn Disk>,
        meta: &Meta,
        options: StorageOptions,
    ) -> Result<(Storage, Recovered), StorageError> {
        let owner = owner(meta);
        let making = options.making(disk.clone(), owner);
        let mut examined = examine(&*disk, owner)?;
        let snapshots = Snapshots::open(disk.clone(), owner)?;
        snapshots.refuse_foreign()?;
        let folder = disk.describe(WAL_DIR);
        let readable = |mark: &SnapshotMeta| readable(&*disk, &snapshots, mark);
        let snapshot = choose_snapshot(&folder, &examined.state, readable)?;

        let entries = std::mem::take(&mut examined.entries);
        let mut state = examined.state.clone();
        let wal = Wal::open(making, examined)?;
        let marked: Vec<LogPosition> = state.marks.iter().map(|mark| mark.position).collect();
        snapshots.remove_unmarked(&marked)?;

        let newest = snapshot.as_ref().map_or(LogPosition::ORIGIN, |meta| meta.position);
        state.marks.retain(|mark| mark.position.index <= newest.index);
        let recovered = Recovered {
            hard_state: state.hard_state,
            snapshot,
            log_start: state.shape.start(),
            entries,
        };
        let mut storage = Storage { wal, snapshots, state, unneeded: None, poisoned: false };
        storage.let_go();
        Ok((storage, recovered))
    }

    /// Makes these writes durable, all in one batch with one sync. They have to come in the order
    /// of their ids, each once.
    ///
    /// [`StorageError::NoSpace`]: nothing of the log was written, the same writes (and more) may
    /// be handed in again later. Any other error: nothing is accepted any more.
    ///
    /// # Panics
    ///
    /// When a write does not fit to those before it: a gap in the log, a term that goes back, a
    /// second vote in a term.
    pub fn write(&mut self, writes: &[Write]) -> Result<Written, StorageError> {
        self.unless_poisoned(|storage| storage.write_all(writes))
    }

    /// The log has fallen silent: writes an empty batch that proves the last real one, if nothing
    /// proves it yet. Without it a start has to write the last segment anew.
    pub fn quiet(&mut self) -> Result<(), StorageError> {
        self.unless_poisoned(|storage| storage.wal.prove(storage.state.shape.last()))
    }

    /// The job to make the next segment, if it is neither there nor on its way. To be run on
    /// another thread; then [`Storage::adopt`] the result. A job that failed, or was dropped, is
    /// given out again.
    pub fn needs_segment(&mut self) -> Option<MakeSegment> {
        if self.poisoned { None } else { self.wal.needs_segment() }
    }

    /// Takes the segment that a job has made.
    pub fn adopt(&mut self, made: MadeSegment) {
        self.wal.adopt(made);
    }

    /// The job to remove files that are not needed any more, after a write or an opening that made
    /// some so. To be run on another thread; when it fails, the disk has failed.
    pub fn removal(&mut self) -> Option<Removal> {
        self.unneeded.take()
    }

    /// Whether the log has room to grow: the next segment is there, or half of this one is free.
    /// When not, new proposals are better refused than taken in; what is under way still finds room
    /// or makes it.
    pub fn has_room(&self) -> bool {
        self.wal.has_room()
    }

    /// The snapshot files.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Numbers for people.
    pub fn stats(&self) -> StorageStats {
        let (segments, wal_bytes) = self.wal.size();
        let counts = self.wal.counts();
        StorageStats {
            segments,
            wal_bytes,
            batches: counts.batches,
            batch_bytes: counts.bytes,
            syncs: counts.syncs,
            sync_time: counts.sync_time,
            poisoned: self.poisoned,
        }
    }

    fn unless_poisoned<T>(
        &mut self,
        act: impl FnOnce(&mut Storage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.poisoned {
            return Err(StorageError::Poisoned);
        }
        act(self).inspect_err(|error| {
            if !matches!(error, StorageError::NoSpace { .. }) {
                self.poisoned = true;
                log::error!("the log is closed until the process starts anew: {error}");
            }
        })
    }

    fn write_all(&mut self, writes: &[Write]) -> Result<Written, StorageError> {
        // Room first: after a refusal nothing has happened, and the state is as it was. Snapshot
        // operations may be repeated.
        self.wal.make_room(&self.state, &most_records(writes))?;
        let mut refused = Vec::new();
        for write in writes {
            self.carry_out_snapshots(write, &mut refused)?;
        }

        let before = self.wal.counts();
        let mut records = Vec::new();
        if self.wal.at_start() {
            records.push(self.state.carry().encode());
        }
        let carried = records.len();
        for write in writes {
            self.plan(write, &refused, &mut records);
        }
        if carried < records.len() {
            self.wal.append(&records)?;
        }
        let after = self.wal.counts();
        if records.iter().any(|record| record.kind == Kind::Mark) {
            self.let_go();
        }
        Ok(Written {
            last: writes.last().map_or(WriteId::default(), |write| write.id),
            install_failed: refused.into_iter().map(|(_, position)| position).collect(),
            sync_took: after.sync_time - before.sync_time,
            bytes: after.bytes - before.bytes,
        })
    }

    /// Brings snapshot files to their final state, ahead of the marks that name them. Adds to
    /// `refused` what could not be installed because its bytes are wrong.
    fn carry_out_snapshots(
        &self,
        write: &Write,
        refused: &mut Vec<(WriteId, LogPosition)>,
    ) -> Result<(), StorageError> {
        for operation in &write.snapshots {
            match operation {
                SnapshotWrite::Chunk { meta, offset, data } => {
                    match self.snapshots.receive_chunk(meta, *offset, data) {
                        Err(ReceiveError::Storage(error)) => return Err(error),
                        // What is missing shows when the whole is verified.
                        Err(error) => {
                            log::warn!("a piece of snapshot {} is lost: {error}", meta.position);
                        }
                        Ok(()) => {}
                    }
                }
                SnapshotWrite::Install(meta) => match self.snapshots.finish_receive(meta) {
                    Err(ReceiveError::Storage(error)) => return Err(error),
                    Err(error) => {
                        log::warn!("snapshot {} is not installed: {error}", meta.position);
                        refused.push((write.id, meta.position));
                    }
                    Ok(_) => {}
                },
                // Its file is there already.
                SnapshotWrite::Mark(_) => {}
            }
        }
        Ok(())
    }

    /// Turns a write into records, in the order that recovery needs them.
    fn plan(
        &mut self,
        write: &Write,
        refused: &[(WriteId, LogPosition)],
        records: &mut Vec<Record<Bytes>>,
    ) {
        let state = &mut self.state;
        for operation in &write.snapshots {
            let (meta, installed) = match operation {
                SnapshotWrite::Chunk { .. } => continue,
                SnapshotWrite::Install(meta) => (meta, true),
                SnapshotWrite::Mark(meta) => (meta, false),
            };
            if refused.contains(&(write.id, meta.position)) || is_stale(state, meta) {
                continue;
            }
            let anew = installed && state.shape.contradicts(meta.position);
            push(state, records, Meaning::Mark { meta: meta.clone(), anew });
        }
        if let Some(hard_state) = write.hard_state {
            push(state, records, Meaning::HardState(hard_state));
        }
        // What lies at or below the start of the log is covered by an installed snapshot.
        let start = state.shape.start().index;
        if let Some(first) = write.truncate_from
            && start < first
            && first <= state.shape.last().index
        {
            let last = state.shape.at(first.prev()).expect("the log knows its own positions");
            push(state, records, Meaning::Truncate(last));
        }
        for entry in write.entries.iter().filter(|entry| start < entry.index()) {
            push(state, records, Meaning::Entry(entry.clone()));
        }
    }

    /// Lets go of what no start will need any more: two snapshots, and the log from the older one
    /// on, are kept.
    fn let_go(&mut self) {
        let marks = &mut self.state.marks;
        if marks.len() < SNAPSHOTS_KEPT {
            return;
        }
        marks.drain(..marks.len() - SNAPSHOTS_KEPT);
        let kept: Vec<LogPosition> = marks.iter().map(|mark| mark.position).collect();
        let segments = self.wal.forget_below(kept[0]);
        self.state.shape.forget(self.wal.start());
        let snapshots = self.snapshots.clone();
        let removal = Removal { disk: self.wal.disk(), segments, snapshots, kept };
        self.unneeded = Some(match self.unneeded.take() {
            Some(earlier) => earlier.and_then(removal),
            None => removal,
        });
    }
}

/// A snapshot that came later and covers more was marked meanwhile.
fn is_stale(state: &LogState, meta: &SnapshotMeta) -> bool {
    state.marks.last().is_some_and(|newest| meta.position.index <= newest.position.index)
}

/// Adds a record to the batch and to the state.
fn push(state: &mut LogState, records: &mut Vec<Record<Bytes>>, meaning: Meaning) {
    if let Err(expected) = state.add(&meaning) {
        panic!("a write does not fit to those before it: expected {expected}");
    }
    records.push(meaning.encode());
}

/// At least the records that these writes may turn into, to measure them.
fn most_records(writes: &[Write]) -> Vec<Record<Bytes>> {
    let mut records = Vec::new();
    for write in writes {
        for operation in &write.snapshots {
            if let SnapshotWrite::Install(meta) | SnapshotWrite::Mark(meta) = operation {
                records.push(Meaning::Mark { meta: meta.clone(), anew: true }.encode());
            }
        }
        records.extend(write.hard_state.map(|new| Meaning::HardState(new).encode()));
        records
            .extend(write.truncate_from.map(|_| Meaning::Truncate(LogPosition::ORIGIN).encode()));
        records.extend(write.entries.iter().map(|entry| Meaning::Entry(entry.clone()).encode()));
    }
    records
}

/// Whether a marked snapshot is whole (inner result), or cannot be looked at for other reasons.
fn readable(
    disk: &dyn Disk,
    snapshots: &Snapshots,
    mark: &SnapshotMeta,
) -> Result<Result<(), StorageError>, StorageError> {
    let files = snapshots.list()?;
    let Some(file) = files.iter().find(|file| file.position == mark.position) else {
        let folder = disk.describe(snapshot::SNAPSHOT_DIR);
        let expected = format!("the marked snapshot {}", mark.position);
        return Ok(Err(StorageError::damage(folder, 0, expected, "no such file")));
    };
    match snapshots.verify(mark.position) {
        Ok(found) if found == *mark => Ok(Ok(())),
        Ok(found) => {
            let expected = format!("a snapshot with digest {:016x}", mark.digest);
            let found = format!("digest {:016x}", found.digest);
            Ok(Err(StorageError::damage(disk.describe(&file.path), 0, expected, found)))
        }
        Err(error @ StorageError::Damage { .. }) => Ok(Err(error)),
        // A disk that fails, a foreign file, a newer format: no reason to take an older snapshot.
        Err(error) => Err(error),
    }
}

fn owner(meta: &Meta) -> Owner {
    let cluster = meta.cluster.expect("a node has a log only once it knows its cluster");
    Owner { cluster, node: meta.node_id }
}
