//! The log against a model: random writes, cuts, snapshots, restarts and crashes, in any order.

mod wal_support;

use proptest::prelude::*;
use raft_core::storage::Storage;
use raft_core::storage::testdisk::TestDisk;
use raft_core::types::{HardState, Index, NodeId, Term};
use raft_core::write::{SnapshotWrite, Write};
use wal_support::{Model, at, entry, foreign_snapshot, formed, membership, open, write};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
    /// So many writes in one batch, each of so many entries of this length.
    Append { writes: u64, entries: u64, length: usize },
    /// A higher term, and entries in it.
    NewTerm { entries: u64 },
    /// The last entries are cut and others take their place in a higher term.
    Cut { entries: u64 },
    /// A snapshot of our own, this far below the end of the log.
    Snapshot { below: u64 },
    /// A snapshot of the leader's, this far above the end of the log.
    Install { above: u64 },
    /// An empty batch.
    Quiet,
    /// The next segment is made ahead.
    Ahead,
    /// Files that are not needed any more are removed, however long that was put off.
    Remove,
    /// The process dies, between two writes.
    Restart,
    /// The machine dies, between two writes; `survive` picks what is left of the rest.
    Crash { survive: u64 },
    /// The machine dies after this many more operations, while entries are appended.
    CrashWhile { operations: u64, survive: u64 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let length = prop_oneof![0..200_usize, 200..3000_usize, 3000..50_000_usize];
    let act = prop_oneof![
        5 => (1..4_u64, 1..4_u64, length)
            .prop_map(|(writes, entries, length)| Act::Append { writes, entries, length }),
        2 => (0..3_u64).prop_map(|entries| Act::NewTerm { entries }),
        2 => (1..5_u64).prop_map(|entries| Act::Cut { entries }),
        2 => (0..4_u64).prop_map(|below| Act::Snapshot { below }),
        1 => (1..20_u64).prop_map(|above| Act::Install { above }),
        1 => Just(Act::Quiet),
        1 => Just(Act::Ahead),
        1 => Just(Act::Remove),
        1 => Just(Act::Restart),
        1 => any::<u64>().prop_map(|survive| Act::Crash { survive }),
        2 => (0..12_u64, any::<u64>())
            .prop_map(|(operations, survive)| Act::CrashWhile { operations, survive }),
    ];
    prop::collection::vec(act, 1..40)
}

/// The node under test and what it should hold.
struct World {
    disk: TestDisk,
    storage: Option<Storage>,
    model: Model,
    id: u64,
}

impl World {
    fn new() -> World {
        let mut world = World { disk: formed(), storage: None, model: Model::formed(), id: 0 };
        world.start();
        world
    }

    fn start(&mut self) {
        self.storage = None;
        let (storage, recovered) =
            open(&self.disk).unwrap_or_else(|error| panic!("no damage was done: {error}"));
        assert_eq!(self.model.compare(&recovered), Ok(()));
        self.storage = Some(storage);
        self.id = 0;
    }

    fn storage(&mut self) -> &mut Storage {
        self.storage.as_mut().expect("the node runs")
    }

    fn write(&mut self, writes: &[Write]) {
        self.storage().write(writes).expect("the disk is healthy");
        writes.iter().for_each(|write| self.model.apply(write));
    }

    /// A write of entries behind the last one, in this term.
    fn next(&mut self, term: u64, last: u64, entries: u64, length: usize) -> Write {
        self.id += 1;
        let entries = (last + 1..=last + entries).map(|index| entry(index, term, length));
        Write { entries: entries.collect(), ..write(self.id) }
    }

    fn vote(&self) -> HardState {
        HardState { term: self.model.hard_state.term.next(), vote: Some(NodeId(self.id)) }
    }

    fn act(&mut self, act: Act) {
        let (Term(term), last) = (self.model.hard_state.term, self.model.last.index.0);
        match act {
            Act::Append { writes, entries, length } => {
                let write = |number| self.next(term, last + number * entries, entries, length);
                let writes: Vec<Write> = (0..writes).map(write).collect();
                self.write(&writes);
            }
            Act::NewTerm { entries } => {
                let hard_state = Some(self.vote());
                let next = self.next(term + 1, last, entries, 20);
                self.write(&[Write { hard_state, ..next }]);
            }
            Act::Cut { entries } => {
                let floor = self.model.snapshot.as_ref().map_or(1, |meta| meta.position.index.0);
                let first = (last + 1).saturating_sub(entries).max(floor + 1);
                // What is cut has to be in the log.
                if self.model.log.first().is_none_or(|oldest| first <= oldest.index().0) {
                    return;
                }
                let (hard_state, truncate_from) = (Some(self.vote()), Some(Index(first)));
                let next = self.next(term + 1, first - 1, entries, 20);
                self.write(&[Write { hard_state, truncate_from, ..next }]);
            }
            Act::Snapshot { below } => {
                let newest = self.model.snapshot.as_ref().map(|meta| meta.position.index);
                let log = &self.model.log;
                let Some(chosen) = log.len().checked_sub(1 + below as usize) else { return };
                let position = log[chosen].position;
                if newest.is_some_and(|newest| position.index <= newest) {
                    return;
                }
                let snapshots = self.storage().snapshots().clone();
                let mut writer = snapshots.writer(position, &membership()).expect("room");
                writer.piece(position.to_string().as_bytes()).expect("room");
                let mark = SnapshotWrite::Mark(writer.finish().expect("room"));
                self.id += 1;
                self.write(&[Write { snapshots: vec![mark], ..write(self.id) }]);
            }
            Act::Install { above } => {
                let (meta, data) = foreign_snapshot(at(last + above, term));
                let chunk = SnapshotWrite::Chunk { meta: meta.clone(), offset: 0, data };
                let snapshots = vec![chunk, SnapshotWrite::Install(meta)];
                self.id += 1;
                let install = Write { snapshots, ..write(self.id) };
                let next = self.next(term, last + above, 1, 30);
                self.write(&[install, next]);
            }
            Act::Quiet => self.storage().quiet().expect("the disk is healthy"),
            Act::Ahead => {
                if let Some(job) = self.storage().needs_segment() {
                    self.storage().adopt(job.run().expect("the disk is healthy"));
                }
            }
            Act::Remove => {
                if let Some(job) = self.storage().removal() {
                    job.run().expect("the disk is healthy");
                }
            }
            Act::Restart => self.start(),
            Act::Crash { survive } => {
                self.disk = crash(&self.disk, survive);
                self.start();
            }
            Act::CrashWhile { operations, survive } => {
                let next = self.next(term, last, 2, 1500);
                self.disk.stop_after(self.disk.ops() + operations);
                let acknowledged = self.storage().write(std::slice::from_ref(&next)).is_ok();
                self.disk = crash(&self.disk, survive);
                let mut after = self.model.clone();
                after.apply(&next);
                let (_, recovered) = open(&self.disk).expect("a crash is no damage");
                if acknowledged || after.compare(&recovered).is_ok() {
                    self.model = after;
                }
                self.start();
            }
        }
    }
}

/// Each thing that is not durable survives or not, by the bits of a number.
fn crash(disk: &TestDisk, survive: u64) -> TestDisk {
    let mut random = survive;
    disk.crash(|_| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random >> 63 == 1
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Law: what was acknowledged is what the next start gives back.
    #[test]
    fn recovery_gives_back_what_was_acknowledged(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.start();
        world.disk = world.disk.crash_losing_all();
        world.start();
    }
}
