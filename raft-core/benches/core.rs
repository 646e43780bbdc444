//! What a proposal costs the core: `cargo bench -p raft-core --bench core`.
//!
//! Three nodes in one thread, logs in memory, messages moved and not serialized, no disk, no socket.
//! A round proposes a batch at the leader and delivers messages until all three nodes have applied it.
//! That is the round by which other Raft cores are measured, so the figures can be put side by side: a
//! write is durable as soon as it is asked for, and the logs are cut every 20,000 proposals, inside the
//! measured time. The commit notice that the leader owes an idle cluster (one heartbeat and its answers)
//! is in each round too: the followers would not apply without it.
//!
//! `raft` is the bare core. `replica` is what a node runs: the core, a state machine that counts, and
//! the proposers who wait for their replies.

use std::fmt::Debug;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use raft_core::config::Config;
use raft_core::consensus::{Event, Raft};
use raft_core::membership::{Member, Membership};
use raft_core::message::Message;
use raft_core::proposals::Outcome;
use raft_core::replica::{Input, Replica};
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::types::{
    Entry, HardState, Index, LogPosition, NodeId, Payload, ProposalId, Term, Time,
};
use raft_core::write::{Recovered, SnapshotMeta};

fn main() {
    divan::main();
}

/// How many entries the logs may grow before they are cut.
const KEPT: u64 = 20_000;

#[divan::bench(consts = [16, 256], args = [1, 16, 64, 256], min_time = 1)]
fn raft<const BYTES: usize>(bencher: Bencher<'_, '_>, batch: usize) {
    measure::<Core, BYTES>(bencher, batch);
}

#[divan::bench(consts = [16, 256], args = [1, 16, 64, 256], min_time = 1)]
fn replica<const BYTES: usize>(bencher: Bencher<'_, '_>, batch: usize) {
    measure::<Replica<Counter>, BYTES>(bencher, batch);
}

fn measure<D: Driven, const BYTES: usize>(bencher: Bencher<'_, '_>, batch: usize) {
    let mut trio = Trio::<D>::with_leader();
    let payload = [7u8; BYTES];
    let mut proposed = 0;
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        trio.round(&payload, batch as u64);
        proposed += batch as u64;
        if proposed % KEPT < batch as u64 {
            trio.cut_logs();
        }
    });
    trio.nodes.iter().for_each(|node| {
        assert_eq!(node.driven.applied_bytes(), proposed * BYTES as u64, "a node missed some");
    });
}

/// One node as the round sees it: the core alone, or the replica around it.
trait Driven {
    fn new(id: NodeId, recovered: Recovered) -> Self;
    fn raft(&self) -> &Raft;
    fn wake(&mut self, now: Time);
    fn deadline(&self) -> Time;
    fn receive(&mut self, now: Time, message: Message);
    fn propose(&mut self, now: Time, id: ProposalId, command: Bytes);
    fn snapshot_written(&mut self, now: Time, meta: SnapshotMeta);
    /// Carries out what the steps so far ask for, on a disk that syncs at once.
    fn carry_out(&mut self, now: Time, send: &mut Vec<Message>);
    /// Bytes of all commands applied so far.
    fn applied_bytes(&self) -> u64;
}

/// The core, and what it handed out to apply.
struct Core {
    raft: Raft,
    applied_bytes: u64,
}

impl Driven for Core {
    fn new(id: NodeId, recovered: Recovered) -> Core {
        Core { raft: Raft::new(config(id), recovered, Time(0)), applied_bytes: 0 }
    }

    fn raft(&self) -> &Raft {
        &self.raft
    }

    fn wake(&mut self, now: Time) {
        self.raft.step(now, Event::Wake);
    }

    fn deadline(&self) -> Time {
        self.raft.deadline()
    }

    fn receive(&mut self, now: Time, message: Message) {
        self.raft.step(now, Event::Receive(message));
    }

    fn propose(&mut self, now: Time, id: ProposalId, command: Bytes) {
        self.raft.step(now, Event::Propose { id, command });
    }

    fn snapshot_written(&mut self, now: Time, meta: SnapshotMeta) {
        self.raft.step(now, Event::SnapshotWritten(meta));
    }

    fn carry_out(&mut self, now: Time, send: &mut Vec<Message>) {
        loop {
            let effects = self.raft.take_effects();
            send.extend(effects.send);
            for entry in effects.apply {
                if let Payload::Command(command) = entry.payload {
                    self.applied_bytes += command.len() as u64;
                }
            }
            assert_all(&effects.proposals, |(_, placed)| placed.is_ok());
            let Some(write) = effects.write else { return };
            self.raft.step(now, Event::Persisted(write.id));
        }
    }

    fn applied_bytes(&self) -> u64 {
        self.applied_bytes
    }
}

/// A state machine that only counts.
#[derive(Default)]
struct Counter {
    bytes: u64,
}

impl StateMachine for Counter {
    type Reply = u64;

    fn apply(&mut self, _at: LogPosition, command: &Bytes) -> u64 {
        self.bytes += command.len() as u64;
        self.bytes
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(std::iter::once(Bytes::copy_from_slice(&self.bytes.to_le_bytes())))
    }

    fn restore(&mut self, _: Restore) -> Result<(), Malformed> {
        Ok(())
    }
}

impl Driven for Replica<Counter> {
    fn new(id: NodeId, recovered: Recovered) -> Replica<Counter> {
        Replica::new(config(id), recovered, Counter::default(), 65_536, Time(0))
    }

    fn raft(&self) -> &Raft {
        Replica::raft(self)
    }

    fn wake(&mut self, now: Time) {
        self.step(now, Input::Wake);
    }

    fn deadline(&self) -> Time {
        Replica::deadline(self)
    }

    fn receive(&mut self, now: Time, message: Message) {
        self.step(now, Input::Receive(message));
    }

    fn propose(&mut self, now: Time, id: ProposalId, command: Bytes) {
        self.step(now, Input::Propose { id, command, deadline: Time::NEVER });
    }

    fn snapshot_written(&mut self, now: Time, meta: SnapshotMeta) {
        self.step(now, Input::SnapshotWritten(meta));
    }

    fn carry_out(&mut self, now: Time, send: &mut Vec<Message>) {
        loop {
            let work = self.take_work();
            send.extend(work.send);
            assert_all(&work.answers, |(_, outcome)| matches!(outcome, Outcome::Applied { .. }));
            let Some(write) = work.write else { return };
            self.step(now, Input::Persisted(write.id));
        }
    }

    fn applied_bytes(&self) -> u64 {
        self.state().bytes
    }
}

/// Three nodes and the messages between them. The first one leads.
struct Trio<D> {
    nodes: [Node<D>; 3],
    now: Time,
    sending: Vec<Message>,
    proposals: u64,
}

struct Node<D> {
    driven: D,
    inbox: Vec<Message>,
}

impl<D: Driven> Trio<D> {
    fn with_leader() -> Trio<D> {
        let nodes = [1, 2, 3].map(|id| {
            let id = NodeId(id);
            Node { driven: D::new(id, formed()), inbox: Vec::new() }
        });
        let mut trio = Trio { nodes, now: Time(0), sending: Vec::new(), proposals: 0 };
        while !trio.leader().raft().status().ready {
            // Nobody else is woken, so nobody else campaigns.
            trio.wake_leader();
        }
        trio
    }

    fn leader(&mut self) -> &mut D {
        &mut self.nodes[0].driven
    }

    fn round(&mut self, payload: &[u8], batch: u64) {
        let (now, first) = (self.now, self.proposals);
        for id in first..first + batch {
            // One copy, as a server makes it when it takes the request out of its socket's buffer.
            self.leader().propose(now, ProposalId(id), Bytes::copy_from_slice(payload));
        }
        self.proposals += batch;
        self.settle();
        let committed = self.committed(0);
        while self.committed(1).min(self.committed(2)) < committed {
            self.wake_leader();
        }
    }

    fn committed(&self, node: usize) -> Index {
        self.nodes[node].driven.raft().log().committed()
    }

    fn wake_leader(&mut self) {
        self.now = self.now.max(self.leader().deadline());
        let now = self.now;
        self.leader().wake(now);
        self.settle();
    }

    /// Delivers until nobody has anything left to say.
    fn settle(&mut self) {
        loop {
            for node in &mut self.nodes {
                for message in node.inbox.drain(..) {
                    node.driven.receive(self.now, message);
                }
                node.driven.carry_out(self.now, &mut self.sending);
            }
            if self.sending.is_empty() {
                return;
            }
            for message in self.sending.drain(..) {
                self.nodes[message.to.0 as usize - 1].inbox.push(message);
            }
        }
    }

    /// Cuts the logs at what is applied, as a snapshot does.
    fn cut_logs(&mut self) {
        for node in &mut self.nodes {
            let (log, term) = (node.driven.raft().log(), node.driven.raft().term());
            let (position, membership) = (LogPosition::new(log.applied(), term), log.membership());
            let membership = membership.clone();
            let meta = SnapshotMeta { position, membership, ..SnapshotMeta::default() };
            node.driven.snapshot_written(self.now, meta);
        }
        self.settle();
    }
}

/// Logs are cut by this benchmark alone, and wholly.
fn config(id: NodeId) -> Config {
    Config {
        snapshot_entries: u64::MAX,
        snapshot_bytes: u64::MAX,
        tail_bytes: 0,
        ..Config::new(id)
    }
}

/// A disk that was formed as a cluster of three: the membership is entry 1 of term 1.
fn formed() -> Recovered {
    let member = |id| {
        let member = Member { name: format!("node{id}"), address: format!("localhost:800{id}") };
        (NodeId(id), member)
    };
    let membership = Membership::of_voters([1, 2, 3].map(member));
    let first = LogPosition::new(Index(1), Term(1));
    Recovered {
        hard_state: HardState { term: Term(1), vote: None },
        entries: vec![Entry { position: first, payload: Payload::Membership(membership) }],
        ..Recovered::default()
    }
}

fn assert_all<T: Debug>(all: &[T], holds: impl Fn(&T) -> bool) {
    all.iter().for_each(|one| assert!(holds(one), "{one:?}"));
}
