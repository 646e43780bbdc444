//! The real storage code on the simulated disk: whatever the disk does that a disk may do, what was
//! acknowledged is there at the next start; and rot is said, or does no harm.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::membership::{Member, Membership};
use raft_core::storage::disk::Disk;
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::DataDir;
use raft_core::storage::{Storage, StorageOptions};
use raft_core::types::{
    ClusterId, Entry, HardState, Index, LogPosition, NodeId, Payload, Term, WriteId,
};
use raft_core::write::{Recovered, SnapshotWrite, Write};
use sim_tests::disk::{Crash, PutBack, SimDisk, Wrong};
use sim_tests::forge::forge;
use sim_tests::plan::{DiskFault, Machine, Origin, Place, Rot};
use sim_tests::rng::Rng;

const CLUSTER: ClusterId = ClusterId(77);

/// A node's storage, driven at random, and what it has promised.
struct Node {
    sim: SimDisk,
    rng: Rng,
    /// The process, while one runs.
    running: Option<(DataDir, Storage)>,
    /// Every entry handed in and not known to be lost, from index 1 on.
    entries: Vec<Entry>,
    /// How many of them were acknowledged.
    acknowledged: usize,
    /// The newest hard state that was acknowledged.
    hard_state: HardState,
    /// The newest that was handed in.
    tried: HardState,
    snapshot: LogPosition,
    writes: u64,
    starts: u64,
}

impl Node {
    fn new(seed: u64) -> Node {
        let mut node = Node {
            sim: SimDisk::new(seed),
            rng: Rng::stream(seed, "the node", 0),
            running: None,
            entries: Vec::new(),
            acknowledged: 0,
            hard_state: HardState::default(),
            tried: HardState { term: Term(1), vote: None },
            snapshot: LogPosition::ORIGIN,
            writes: 0,
            starts: 0,
        };
        let disk = node.sim.handle();
        let mut dir = DataDir::open(disk.clone(), Some("node1"), seed).unwrap();
        let entry = node.next_entry();
        node.entries.push(entry.clone());
        let mut meta = dir.meta().clone();
        meta.cluster = Some(CLUSTER);
        let first = (node.tried, vec![entry]);
        Storage::create(disk, &meta, &node.options(), first).unwrap();
        dir.form(CLUSTER).unwrap();
        (node.acknowledged, node.hard_state) = (1, node.tried);
        node.sim.end_life();
        node
    }

    fn options(&self) -> StorageOptions {
        StorageOptions {
            segment_bytes_first: 16 << 10,
            segment_bytes_max: 32 << 10,
            seed: self.starts,
        }
    }

    fn next_entry(&mut self) -> Entry {
        let position = LogPosition::new(Index(self.entries.len() as u64 + 1), self.tried.term);
        let mut command = vec![0; self.rng.below(3000) as usize];
        // Payloads that are mostly zero test the counting of sectors that were never written.
        if self.rng.coin() {
            command.fill_with(|| self.rng.bits() as u8);
        } else if let Some(last) = command.last_mut() {
            *last = 1;
        }
        Entry { position, payload: Payload::Command(Bytes::from(command)) }
    }

    /// Starts a process and holds what it finds against what was promised.
    fn start(&mut self) -> Result<(), StorageError> {
        assert!(self.running.is_none(), "one process at a time");
        self.starts += 1;
        let disk: Arc<dyn Disk> = self.sim.handle();
        let dir = DataDir::open(disk.clone(), None, 1 << 40)?;
        let (storage, recovered) = Storage::open(disk, dir.meta(), self.options())?;
        assert_eq!(dir.meta().cluster, Some(CLUSTER), "a formed node stays formed");
        self.check(&recovered);
        self.running = Some((dir, storage));
        Ok(())
    }

    fn check(&mut self, recovered: &Recovered) {
        let Recovered { hard_state, snapshot, log_start, entries } = recovered;
        assert!(self.hard_state.term <= hard_state.term, "a term is not forgotten");
        if hard_state.term == self.hard_state.term && self.hard_state.vote.is_some() {
            assert_eq!(hard_state.vote, self.hard_state.vote, "a vote is not forgotten");
        }
        let covered = snapshot.as_ref().map_or(Index::ZERO, |meta| meta.position.index);
        assert!(log_start.index <= covered, "the log reaches back to the snapshot");
        let last = entries.last().map_or(log_start.index, Entry::index).0.max(covered.0) as usize;
        assert!(self.acknowledged <= last, "{} were promised, {last} are left", self.acknowledged);
        assert!(last <= self.entries.len(), "entries that nobody wrote");
        for entry in entries {
            assert_eq!(*entry, self.entries[entry.index().0 as usize - 1]);
        }
        self.entries.truncate(last);
        self.acknowledged = last;
        (self.hard_state, self.tried) = (*hard_state, *hard_state);
        // One whose mark was lost is taken again.
        self.snapshot = snapshot.as_ref().map_or(LogPosition::ORIGIN, |meta| meta.position);
    }

    /// One thing that a running node does; an error ends the process.
    fn act(&mut self) -> Result<(), StorageError> {
        match self.rng.below(12) {
            0 => self.storage().quiet(),
            1 | 2 => {
                let Some(job) = self.storage().needs_segment() else { return Ok(()) };
                // A job that fails is given out again.
                if let Ok(made) = job.run() {
                    self.storage().adopt(made);
                }
                Ok(())
            }
            3 => self.take_snapshot(),
            4 => {
                let vote = self.rng.coin().then_some(NodeId(self.rng.below(3)));
                self.tried = HardState { term: Term(self.tried.term.0 + 1), vote };
                self.write(Some(self.tried), Vec::new(), Vec::new())
            }
            _ => {
                let mut entries = Vec::new();
                for _ in 0..=self.rng.below(4) {
                    let entry = self.next_entry();
                    self.entries.push(entry.clone());
                    entries.push(entry);
                }
                self.write(None, entries, Vec::new())
            }
        }
    }

    fn write(
        &mut self,
        hard_state: Option<HardState>,
        entries: Vec<Entry>,
        snapshots: Vec<SnapshotWrite>,
    ) -> Result<(), StorageError> {
        self.writes += 1;
        let id = WriteId(self.writes);
        let write = Write { id, snapshots, hard_state, truncate_from: None, entries };
        let written = match self.storage().write(std::slice::from_ref(&write)) {
            Err(StorageError::NoSpace { .. }) => {
                // Room comes back, and the same write goes through.
                self.sim.set_full(false);
                self.storage().write(&[write])
            }
            result => result,
        };
        assert_eq!(written?.last, id);
        self.acknowledged = self.entries.len();
        self.hard_state = self.tried;

        // Only what is under construction may be at risk now.
        let at_risk = self.sim.at_risk();
        assert!(at_risk.iter().all(|path| path.ends_with(".tmp")), "{at_risk:?}");
        if self.rng.chance(100_000) {
            let image = self.sim.durable_image().handle();
            let meta = self.running.as_ref().expect("a process runs").0.meta().clone();
            let (_, recovered) = Storage::open(image, &meta, self.options())?;
            self.check(&recovered);
        }
        Ok(())
    }

    fn take_snapshot(&mut self) -> Result<(), StorageError> {
        let position = self.entries[self.acknowledged - 1].position;
        if position.index <= self.snapshot.index {
            return Ok(());
        }
        let member = Member { name: "node1".into(), address: "a:1".into() };
        let membership = Membership::of_voters([(NodeId(1), member)]);
        let taken = (|| {
            let mut writer = self.storage().snapshots().writer(position, &membership)?;
            for piece in 1..=self.rng.range(1..20) {
                writer.piece(&vec![piece as u8; 700])?;
            }
            writer.finish()
        })();
        let meta = match taken {
            // A snapshot that does not come about for want of room costs nothing.
            Err(StorageError::NoSpace { .. }) => {
                self.sim.set_full(false);
                return Ok(());
            }
            taken => taken?,
        };
        self.snapshot = position;
        self.write(None, Vec::new(), vec![SnapshotWrite::Mark(meta)])
    }

    fn storage(&mut self) -> &mut Storage {
        &mut self.running.as_mut().expect("a process runs").1
    }

    fn end(&mut self, crash: Crash) -> bool {
        let damage = self.sim.crash(crash).damage;
        self.running = None;
        damage
    }
}

fn arm_something(sim: &SimDisk, rng: &mut Rng) {
    let after = rng.below(30) as u32;
    match rng.below(6) {
        0 => sim.inject(DiskFault::ReadError { after }),
        1 => sim.inject(DiskFault::WriteError { after }),
        2 => sim.inject(DiskFault::ShortWrite { after }),
        3 => sim.inject(DiskFault::SyncError { after }),
        4 => sim.set_full(true),
        _ => sim.set_fuse(Some(u64::from(after))),
    }
}

#[test]
fn what_was_acknowledged_survives_everything_but_damage() {
    let (mut crashes, mut losses, mut damages) = (0, 0, 0);
    for seed in 0..400 {
        let mut node = Node::new(seed);
        let allowed = if seed % 4 == 0 { Crash::PowerAndDamage } else { Crash::Power };
        let mut damaged = false;
        for _ in 0..60 {
            let mut rng = node.rng.clone();
            if rng.chance(150_000) {
                arm_something(&node.sim, &mut rng);
            }
            node.rng = rng;
            let result = if node.running.is_some() { node.act() } else { node.start() };
            match result {
                Err(error) if error.is_damage() => {
                    assert!(damaged, "seed {seed}: nothing was damaged, and yet: {error}");
                    damages += 1;
                    break;
                }
                Err(StorageError::NoSpace { .. }) if node.running.is_none() => {
                    node.sim.set_full(false);
                }
                Ok(()) if !node.rng.chance(100_000) => continue,
                _ => {}
            }
            let crash = *node.rng.pick(&[Crash::Process, allowed, allowed]);
            damaged |= node.end(crash);
            crashes += 1;
        }
        losses += node.sim.counts().losses;
    }
    assert!(2000 < crashes && 500 < losses, "{crashes} crashes, {losses} with losses");
    assert!(5 < damages, "{damages} starts said damage");
}

#[test]
fn rot_is_said_or_does_no_harm() {
    let rots = [Rot::Flip, Rot::Zero, Rot::Stale, Rot::Misdirected, Rot::Cut, Rot::Gone];
    let places = [Place::Wal, Place::Snapshot, Place::Meta];
    let mut said = [[0; 3]; 6];
    let mut struck = [[0; 3]; 6];
    for seed in 0..1800 {
        let (how, place) = (seed as usize % 6, [0, 0, 1, 2][seed as usize / 6 % 4]);
        let mut node = Node::new(seed);
        node.start().unwrap();
        let before = node.rng.below(40);
        (0..before).for_each(|_| node.act().unwrap());
        let Some(rotten) = node.sim.rot(rots[how], places[place]) else { continue };
        struck[how][place] += 1;
        // The process does not notice, unless what it wants to remove is gone. Often the last batch
        // stays the last: it is the one that must not be struck so that it seems never written.
        let after = if node.rng.chance(700_000) { 0 } else { node.rng.below(20) };
        for _ in 0..after {
            if let Err(error) = node.act() {
                assert!(rots[how] == Rot::Gone || error.is_damage(), "{rotten:?}: {error}");
                break;
            }
        }
        let crash = *node.rng.pick(&[Crash::Power, Crash::Process]);
        node.end(crash);
        // `start` asserts that nothing acknowledged is missing when it says that all is well.
        if let Err(error) = node.start() {
            assert!(error.is_damage(), "{rotten:?}: {error}");
            said[how][place] += 1;
        }
    }
    for (how, rot) in rots.iter().enumerate() {
        for (at, place) in places.iter().enumerate() {
            // What was removed meanwhile, and a snapshot with an older one to fall back on, do no
            // harm.
            let (said, struck) = (said[how][at], struck[how][at]);
            let least = if *place == Place::Snapshot { 0 } else { struck / 4 };
            assert!(20 < struck && least <= said, "{rot:?} {place:?}: {said} said of {struck}");
        }
    }
    let meta = rots.len() - 1;
    assert_eq!(said[meta][2], struck[meta][2], "a lost META is always noticed");
}

/// A whole file that is wrong is refused for what it is, or done without, and is not touched; with the
/// right one back all is as it was.
#[test]
fn wrong_files_are_refused_and_left_alone() {
    let (mut refused, mut done_without) = (0, 0);
    for seed in 0..500 {
        let mut node = Node::new(seed);
        node.start().unwrap();
        let before = node.rng.below(60);
        (0..before).for_each(|_| node.act().unwrap());
        node.end(Crash::Process);
        let place = [Place::Wal, Place::Wal, Place::Snapshot, Place::Meta][seed as usize % 4];
        let Some(path) = node.sim.files(place).last().cloned() else { continue };
        let right = node.sim.contents(&path).unwrap();
        let origins = [Origin::Cluster, Origin::Newer, Origin::Nonsense, Origin::Nonsense];
        for origin in origins.into_iter().chain([Origin::Machine(Machine(1))]) {
            let bytes = if let Origin::Machine(_) = origin {
                let other = Node::new(seed + 1).sim;
                other.files(place).first().map(|path| other.contents(path).unwrap())
            } else {
                forge(place, right.clone(), origin, &mut node.rng)
            };
            let Some(bytes) = bytes else { continue };
            assert_ne!(bytes, right, "{path} of {origin}");
            let wrong = Wrong { number: 0, place, origin };
            node.sim.displace(&path, bytes, wrong);
            assert_eq!(node.sim.wrong(), Some(wrong));
            match node.start() {
                Ok(()) => {
                    assert!(!wrong.must_be_refused(), "seed {seed}: starts on {path} of {origin}");
                    done_without += 1;
                    node.end(Crash::Process);
                    assert_eq!(node.sim.put_back(), PutBack::AsItWas, "{path} of {origin}");
                    // The snapshot that is back may be newer than the one it has begun from.
                    break;
                }
                Err(error) => {
                    let named = match origin {
                        // There META says only whose it is, and the log says which cluster's.
                        Origin::Machine(_) => matches!(error, StorageError::ForeignNode { .. }),
                        Origin::Cluster => matches!(error, StorageError::ForeignCluster { .. }),
                        Origin::Newer => matches!(error, StorageError::NewerFormat { .. }),
                        Origin::Nonsense => error.is_damage(),
                    };
                    assert!(named, "seed {seed}: {path} of {origin}: {error}");
                    refused += 1;
                }
            }
            node.sim.end_life();
            assert_eq!(node.sim.put_back(), PutBack::AsItWas, "{path} of {origin}");
        }
        node.start().unwrap();
    }
    assert!(1_000 < refused && 20 < done_without, "{refused} refused, {done_without} not");
}

#[test]
fn rot_does_what_it_says_and_spares_what_no_later_write_proves() {
    let rots = [Rot::Flip, Rot::Zero, Rot::Stale, Rot::Misdirected, Rot::Cut, Rot::Gone];
    let mut struck = [0; 6];
    for seed in 0..600 {
        let rot = rots[seed as usize % 6];
        let mut node = Node::new(seed);
        node.start().unwrap();
        (0..15).for_each(|_| node.act().unwrap());
        let paths = node.sim.paths();
        let before: Vec<Vec<u8>> =
            paths.iter().map(|path| node.sim.contents(path).unwrap()).collect();
        let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let in_use = |at: &usize| 4096 < used(&before[*at]) && paths[*at].ends_with(".log");
        let last_used = (0..paths.len()).rev().find(in_use).unwrap();

        let Some(rotten) = node.sim.rot(rot, Place::Wal) else { continue };
        struck[seed as usize % 6] += 1;
        let at = paths.iter().position(|path| *path == rotten.path).unwrap();
        assert!(rotten.path.starts_with("wal/") && rotten.path.ends_with(".log"), "{rotten:?}");
        let Some(after) = node.sim.contents(&rotten.path) else {
            assert_eq!(rot, Rot::Gone);
            assert!(!node.sim.durable_image().paths().contains(&rotten.path));
            continue;
        };
        assert_eq!(node.sim.durable_image().contents(&rotten.path).unwrap(), after, "durably");
        if rot == Rot::Cut {
            assert_eq!(after.len() as u64, rotten.offset);
            assert!(after.len() < before[at].len() && before[at].starts_with(&after));
            assert!(at < last_used || used(&before[at]) <= after.len(), "used bytes are cut off");
            continue;
        }
        let changed: Vec<usize> =
            (0..after.len()).filter(|byte| after[*byte] != before[at][*byte]).collect();
        let sector = rotten.offset as usize / 512;
        assert!(changed.iter().all(|byte| byte / 512 == sector) && !changed.is_empty());
        let now = &after[sector * 512..][..512];
        let is_zero = now.iter().all(|byte| *byte == 0);
        match rot {
            Rot::Flip => {
                assert_eq!(changed, [rotten.offset as usize]);
                let flipped = after[changed[0]] ^ before[at][changed[0]];
                assert_eq!(flipped.count_ones(), 1);
            }
            Rot::Zero | Rot::Stale => {
                // Nothing in a segment is written twice: what was there before is zero.
                assert!(is_zero);
                let batch = |page: &usize| before[at][page * 4096..].starts_with(b"BTCH");
                let last_batch = (0..after.len() / 4096).rev().find(batch).unwrap_or(1);
                assert!(at < last_used || sector < last_batch * 8, "{rotten:?} is not proven");
            }
            _ => {
                // The last sector of a file is filled up with zeroes.
                let is_it = |sector: &[u8]| {
                    let (bytes, rest) = now.split_at(sector.len());
                    bytes == sector && rest.iter().all(|byte| *byte == 0)
                };
                let meant_for_another = before.iter().any(|file| file.chunks(512).any(is_it));
                assert!(meant_for_another && !is_zero, "{rotten:?}");
            }
        }
    }
    assert!(struck.iter().all(|count| 40 < *count), "{struck:?}");
}
