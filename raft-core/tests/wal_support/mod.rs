//! What the tests of the write-ahead log share: a small node on a test disk, scripted as steps, and
//! a model that says what the disk must give back.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::Arc;

use bytes::Bytes;
use raft_core::membership::{Member, Membership};
use raft_core::storage::disk::Disk;
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::Meta;
use raft_core::storage::snapshot::{Owner, Snapshots};
use raft_core::storage::testdisk::TestDisk;
use raft_core::storage::{Removal, Storage, StorageOptions};
use raft_core::types::{
    ClusterId, Entry, HardState, Index, LogPosition, NodeId, Payload, Term, WriteId,
};
use raft_core::write::{Recovered, SnapshotMeta, SnapshotWrite, Write};

pub const NODE: NodeId = NodeId(7);
pub const CLUSTER: ClusterId = ClusterId(0xc1);

pub fn meta() -> Meta {
    Meta { cluster: Some(CLUSTER), ..Meta::create("node7", NODE.0) }
}

/// Segments of 32 KiB, so that a few batches fill one.
pub fn options(seed: u64) -> StorageOptions {
    StorageOptions { segment_bytes_first: 32 << 10, segment_bytes_max: 32 << 10, seed }
}

pub fn at(index: u64, term: u64) -> LogPosition {
    LogPosition::new(Index(index), Term(term))
}

pub fn membership() -> Membership {
    let member = Member { name: "node7".into(), address: "localhost:8001".into() };
    Membership::of_voters([(NODE, member)])
}

/// An entry with a command of `length` bytes that differ from entry to entry and are never zero.
pub fn entry(index: u64, term: u64, length: usize) -> Entry {
    let byte = |at: usize| (index as usize * 31 + term as usize * 7 + at) as u8 | 1;
    let command: Vec<u8> = (0..length).map(byte).collect();
    Entry { position: at(index, term), payload: Payload::Command(Bytes::from(command)) }
}

pub fn first_entry() -> Entry {
    Entry { position: at(1, 1), payload: Payload::Membership(membership()) }
}

pub fn term(term: u64) -> HardState {
    HardState { term: Term(term), vote: Some(NODE) }
}

/// A write with nothing in it.
pub fn write(id: u64) -> Write {
    Write {
        id: WriteId(id),
        snapshots: Vec::new(),
        hard_state: None,
        truncate_from: None,
        entries: Vec::new(),
    }
}

/// A write of entries `first..=last` of one term.
pub fn entries(id: u64, term: u64, first: u64, last: u64, length: usize) -> Write {
    Write { entries: (first..=last).map(|index| entry(index, term, length)).collect(), ..write(id) }
}

pub fn create(disk: &TestDisk) -> Result<(), StorageError> {
    let first = (term(1), vec![first_entry()]);
    Storage::create(Arc::new(disk.clone()), &meta(), &options(1), first)
}

/// Every opening gets other random bits, as in real life.
pub fn open(disk: &TestDisk) -> Result<(Storage, Recovered), StorageError> {
    Storage::open(Arc::new(disk.clone()), &meta(), options(2 + disk.ops()))
}

/// A disk with the log of a node that has just formed.
pub fn formed() -> TestDisk {
    let disk = TestDisk::new();
    create(&disk).expect("a new disk takes a log");
    disk
}

/// Every file with its contents: two equal images are the same disk.
pub fn image(disk: &TestDisk) -> Vec<(String, Vec<u8>)> {
    let contents = |path: String| {
        let bytes = disk.contents(&path).expect("a listed file is there");
        (path, bytes)
    };
    disk.paths().into_iter().map(contents).collect()
}

/// The bytes of a snapshot at `position`, as a leader would send them.
pub fn foreign_snapshot(position: LogPosition) -> (SnapshotMeta, Bytes) {
    let owner = Owner { cluster: CLUSTER, node: NodeId(9) };
    let disk: Arc<dyn Disk> = Arc::new(TestDisk::new());
    let snapshots = Snapshots::open(disk, owner).expect("a new disk");
    let mut writer = snapshots.writer(position, &membership()).expect("a new disk");
    writer.piece(format!("state at {position}").as_bytes()).expect("a new disk");
    let meta = writer.finish().expect("a new disk");
    let body = snapshots.read_chunk(&meta, 0, meta.body_bytes).expect("just written");
    (meta, body)
}

/// One thing a node does with its storage.
#[derive(Clone, Debug)]
pub enum Step {
    /// These writes, in one batch.
    Write(Vec<Write>),
    /// A snapshot of our own at this position, then its mark as this write.
    Snapshot(LogPosition, u64),
    /// Silence.
    Quiet,
    /// The next segment is made ahead.
    Ahead,
    /// The process dies and starts again; the machine goes on.
    Restart,
}

/// What a disk must give back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub hard_state: HardState,
    pub snapshot: Option<SnapshotMeta>,
    /// The log from the first entry on, gaps being what an installed snapshot covers.
    pub log: Vec<Entry>,
    pub last: LogPosition,
}

impl Model {
    pub fn formed() -> Model {
        Model { hard_state: term(1), snapshot: None, log: vec![first_entry()], last: at(1, 1) }
    }

    pub fn apply(&mut self, write: &Write) {
        for operation in &write.snapshots {
            match operation {
                SnapshotWrite::Chunk { .. } => {}
                SnapshotWrite::Install(meta) | SnapshotWrite::Mark(meta) => {
                    if self.log.iter().all(|entry| entry.position != meta.position) {
                        self.log.clear();
                        self.last = meta.position;
                    }
                    self.snapshot = Some(meta.clone());
                }
            }
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = write.truncate_from {
            self.log.retain(|entry| entry.index() < first);
            self.last = self.log.last().expect("the tests cut above entry 1").position;
        }
        self.log.extend(write.entries.iter().cloned());
        self.last = self.log.last().map_or(self.last, |entry| entry.position);
    }

    /// `Err` says what `recovered` has that it should not, or the other way round.
    pub fn compare(&self, recovered: &Recovered) -> Result<(), String> {
        if recovered.hard_state != self.hard_state {
            return Err(format!("{:?} for {:?}", recovered.hard_state, self.hard_state));
        }
        if recovered.snapshot != self.snapshot {
            let position = |meta: &Option<SnapshotMeta>| meta.as_ref().map(|meta| meta.position);
            let (found, wanted) = (position(&recovered.snapshot), position(&self.snapshot));
            return Err(format!("snapshot {found:?} for {wanted:?}"));
        }
        let start = recovered.log_start.index;
        let snapshot = self.snapshot.as_ref().map_or(Index::ZERO, |meta| meta.position.index);
        if snapshot < start {
            return Err(format!("a log from {start} on does not reach back to {snapshot}"));
        }
        for (entry, index) in recovered.entries.iter().zip(start.0 + 1..) {
            if entry.index().0 != index {
                return Err(format!("{entry} for index {index}"));
            }
        }
        let wanted: Vec<&Entry> = self.log.iter().filter(|entry| start < entry.index()).collect();
        let found: Vec<&Entry> = recovered.entries.iter().collect();
        if wanted != found {
            let print = |entries: &[&Entry]| match entries {
                [] => "nothing".to_owned(),
                [first, .., last] => format!("{first}..{last}"),
                [only] => only.to_string(),
            };
            return Err(format!("{} for {} after {start}", print(&found), print(&wanted)));
        }
        let last = recovered.entries.last().map_or(recovered.log_start, |entry| entry.position);
        if last != self.last {
            return Err(format!("the log ends at {last} for {}", self.last));
        }
        Ok(())
    }
}

/// A node that follows steps until its disk fails, and what is known about that disk.
pub struct Run {
    pub disk: TestDisk,
    /// What was acknowledged.
    pub sure: Model,
    /// What the disk may hold instead, if a step was under way when it failed.
    pub maybe: Option<Model>,
    pub error: Option<StorageError>,
}

impl Run {
    /// Follows the steps on a disk that is formed already.
    pub fn follow(disk: &TestDisk, steps: &[Step]) -> Run {
        let mut run = Run { disk: disk.clone(), sure: Model::formed(), maybe: None, error: None };
        if let Err(error) = run.steps(steps) {
            run.error = Some(error);
        }
        run
    }

    fn steps(&mut self, steps: &[Step]) -> Result<(), StorageError> {
        let (mut storage, recovered) = open(&self.disk)?;
        self.sure.compare(&recovered).expect("what was formed is there");
        for step in steps {
            match step {
                Step::Write(writes) => self.write(&mut storage, writes)?,
                Step::Snapshot(position, id) => {
                    let mut writer = storage.snapshots().writer(*position, &membership())?;
                    writer.piece(format!("our state at {position}").as_bytes())?;
                    let mark = SnapshotWrite::Mark(writer.finish()?);
                    let write = Write { snapshots: vec![mark], ..write(*id) };
                    self.write(&mut storage, &[write])?;
                }
                Step::Quiet => storage.quiet()?,
                Step::Ahead => {
                    if let Some(job) = storage.needs_segment() {
                        let made = job.run();
                        let made =
                            made.map_err(|error| StorageError::io("ahead", "make", error))?;
                        storage.adopt(made);
                    }
                }
                Step::Restart => {
                    drop(storage);
                    let (opened, recovered) = open(&self.disk)?;
                    self.sure.compare(&recovered).expect("a restart changes nothing");
                    storage = opened;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, storage: &mut Storage, writes: &[Write]) -> Result<(), StorageError> {
        let mut after = self.sure.clone();
        writes.iter().for_each(|write| after.apply(write));
        self.maybe = Some(after.clone());
        let written = storage.write(writes)?;
        self.sure = after;
        self.maybe = None;
        assert_eq!(written.last, writes.last().expect("a write").id);
        assert_eq!(written.install_failed, []);
        // What is removed was not needed: the log says the same before, meanwhile and after.
        storage.removal().map_or(Ok(()), Removal::run)
    }

    /// Checks what a crash image gives back: what was acknowledged, or that and the step under way.
    /// And once more: losing all that is not durable after the first start, and plainly again.
    pub fn check(&self, image: &TestDisk, story: &str) {
        let recovered = match open(image) {
            Ok((_, recovered)) => recovered,
            Err(error) => panic!("{story}: {error}"),
        };
        if let Err(missing) = self.sure.compare(&recovered) {
            let other = self.maybe.as_ref().map(|maybe| maybe.compare(&recovered));
            assert_eq!(other, Some(Ok(())), "{story}: also not as acknowledged: {missing}");
        }
        for (again, how) in
            [(image.crash_losing_all(), "a power loss"), (image.clone(), "a restart")]
        {
            let (_, second) =
                open(&again).unwrap_or_else(|error| panic!("{story}, {how}: {error}"));
            let difference = compare_twice(&recovered, &second);
            assert_eq!(difference, Ok(()), "{story}: recovered twice, the second time after {how}");
        }
    }
}

/// The second recovery gives what the first gave, but for log below the snapshot that the first one
/// has let go.
pub fn compare_twice(first: &Recovered, second: &Recovered) -> Result<(), String> {
    let model = Model {
        hard_state: first.hard_state,
        snapshot: first.snapshot.clone(),
        log: first.entries.clone(),
        last: first.entries.last().map_or(first.log_start, |entry| entry.position),
    };
    if second.log_start.index < first.log_start.index {
        return Err(format!("log came back from {} on", second.log_start));
    }
    model.compare(second)
}
