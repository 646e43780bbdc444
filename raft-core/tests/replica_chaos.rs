//! Random runs of a small cluster with crashes, cuts, stalled disks, snapshots and transfers. What
//! clients were told has to be true in the end: applied is there, once and in order; refused and
//! not applied is nowhere; a read saw all that was acknowledged before it.

mod replica_support;

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::config::Config;
use raft_core::proposals::Outcome;
use raft_core::replica::Input;
use raft_core::types::{NodeId, Time};
use replica_support::{Cluster, n};

const SEEDS: u64 = 300;
const ACTIONS: usize = 250;

/// A small generator of its own: a run is its seed.
struct Dice(u64);

impl Dice {
    /// 0 to `sides` - 1 (splitmix64).
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

struct Run {
    cluster: Cluster,
    dice: Dice,
    size: u64,
    /// What each proposal wanted to add.
    commands: BTreeMap<u64, String>,
    /// How much was acknowledged when each read began.
    reads: BTreeMap<u64, usize>,
}

fn often(config: &mut Config) {
    config.snapshot_entries = 7;
    config.tail_bytes = 0;
    config.chunk_bytes = 5;
}

fn with_a_tail(config: &mut Config) {
    config.snapshot_entries = 20;
    config.tail_bytes = 500;
    config.inflight_bytes_max = 100;
}

#[test]
fn what_clients_are_told_is_true() {
    let mut told = [0; 4];
    for seed in 0..SEEDS {
        let mut run = Run::new(seed);
        for _ in 0..ACTIONS {
            run.act();
        }
        run.heal();
        for (sum, count) in told.iter_mut().zip(run.check(seed)) {
            *sum += count;
        }
    }
    // Runs in which nothing happens prove nothing: every way to end was seen.
    assert!(
        told.iter().all(|count| 20 <= *count),
        "applied, refused, not applied, unknown: {told:?}"
    );
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut dice = Dice(seed);
        let size = [1, 3, 3, 5][dice.roll(4) as usize];
        let config = [often, with_a_tail][dice.roll(2) as usize];
        let cluster = Cluster::with(size, config);
        Run { cluster, dice, size, commands: BTreeMap::new(), reads: BTreeMap::new() }
    }

    fn anybody(&mut self) -> NodeId {
        n(1 + self.dice.roll(self.size))
    }

    fn runs(&self, id: NodeId) -> bool {
        self.cluster.seats[&id].replica.is_some()
    }

    fn act(&mut self) {
        let (who, other) = (self.anybody(), self.anybody());
        match self.dice.roll(100) {
            0..35 if self.runs(who) => self.propose(who),
            35..45 if self.runs(who) => self.read(who),
            45..49 => {
                self.cluster.cut.insert((who, other));
            }
            49..51 => self.cluster.cut_off(who),
            51..56 => self.cluster.cut.clear(),
            56..58 if self.runs(who) => self.cluster.crash(who),
            58..64 if !self.runs(who) => self.cluster.start(who),
            64..67 => self.cluster.seat(who).disk_stalls ^= true,
            67..69 => self.cluster.seat(who).files_stall ^= true,
            69..70 if self.runs(who) => {
                self.cluster.order(who, |id| Input::SnapshotNow { id });
            }
            70..72 if self.runs(who) => {
                self.cluster.order(who, |id| Input::Transfer { id, to: Some(other) });
            }
            72..74 if self.runs(who) => self.cluster.step(who, Input::PeerDown(other)),
            74..80 => self.cluster.run(),
            _ => {
                let time = Duration::from_millis(10 * (1 + self.dice.roll(20)));
                self.cluster.pass(time);
            }
        }
    }

    fn propose(&mut self, who: NodeId) {
        let command = format!("c{}", self.commands.len());
        let deadline = match self.dice.roll(3) {
            0 | 1 => Time::NEVER,
            _ => self.cluster.now + Duration::from_millis(self.dice.roll(1000)),
        };
        let id = self.cluster.propose(who, command.clone(), deadline);
        self.commands.insert(id, command);
    }

    fn read(&mut self, who: NodeId) {
        let acknowledged = self.cluster.outcomes.values().filter_map(|outcome| match outcome {
            Outcome::Applied { reply, .. } => Some(*reply),
            _ => None,
        });
        let acknowledged = acknowledged.max().unwrap_or(0);
        let deadline = self.cluster.now + Duration::from_millis(self.dice.roll(1000));
        let id = self.cluster.read(who, deadline);
        self.reads.insert(id, acknowledged);
    }

    /// Everything works again, and time enough passes.
    fn heal(&mut self) {
        self.cluster.cut.clear();
        for id in (1..=self.size).map(n) {
            self.cluster.seat(id).disk_stalls = false;
            self.cluster.seat(id).files_stall = false;
            if !self.runs(id) {
                self.cluster.start(id);
            }
        }
        self.cluster.pass(Duration::from_secs(4));
        let leader = self.cluster.leader();
        let last = self.cluster.propose(leader, "last", Time::NEVER);
        self.cluster.pass(Duration::from_secs(1));
        assert!(matches!(self.cluster.outcomes[&last], Outcome::Applied { .. }), "it serves again");
        self.commands.insert(last, "last".to_owned());
    }

    /// Says how many proposals were applied, refused, not applied, unknown.
    fn check(&self, seed: u64) -> [u64; 4] {
        let ledger = self.cluster.ledger(n(1));
        for id in (2..=self.size).map(n) {
            assert_eq!(self.cluster.ledger(id), ledger, "seed {seed}: {id} holds another state");
        }
        let words: Vec<&str> = ledger.split(' ').collect();
        let place: BTreeMap<&str, usize> = words.iter().zip(1..).map(|(w, at)| (*w, at)).collect();
        assert_eq!(words.len(), place.len(), "seed {seed}: something was applied twice");
        let mut told = [0; 4];
        for (id, command) in &self.commands {
            let there = place.get(&command[..]);
            // A proposal whose node crashed was told nothing: that is unknown, too.
            let (kind, holds) = match self.cluster.outcomes.get(id) {
                Some(Outcome::Applied { reply, .. }) => (0, there == Some(reply)),
                Some(Outcome::Refused(_)) => (1, there.is_none()),
                Some(Outcome::NotApplied) => (2, there.is_none()),
                Some(Outcome::Unknown(_)) | None => (3, true),
            };
            assert!(
                holds,
                "seed {seed}: {command} is {there:?}, told {:?}",
                self.cluster.outcomes.get(id)
            );
            told[kind] += 1;
        }
        for (id, acknowledged) in &self.reads {
            if let Some(Ok(_)) = self.cluster.reads.get(id) {
                let seen = self.cluster.seen[id];
                assert!(
                    *acknowledged <= seen,
                    "seed {seed}: a read of {seen} after {acknowledged}"
                );
            }
        }
        told
    }
}
