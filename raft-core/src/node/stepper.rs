//! A pass: takes everything that came in, steps the replica with all of it, then carries out what
//! that asks for, once. That is the group commit: while one batch is on its way to a majority the
//! proposals that come in gather at the door, and then make one write and one message to each
//! follower. The same with reads: they gather while a round that confirms earlier ones is under way
//! (`gather.rs`).
//!
//! A pass never touches a disk or a socket, so a heartbeat never waits for a sync. It decides
//! nothing: the replica does. Who makes it is `turns.rs`'s affair.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::events::{NodeEvent, NodeFailure};
use super::gather::{Patience, Wait};
use super::handle::Shared;
use super::inbox::{Gather, Lanes, NewProposal, NewRead, Order, Reader, Rest};
use super::lock;
use super::pace::Stopping;
use super::snapshot_threads::ReadJob;
use super::status::NodeStatus;
use super::ticket::Answerer;
use super::wal_thread::WalQueue;
use crate::consensus::event::{RoleName, TransferFailure};
use crate::proposals::{Outcome, ReadRefused};
use crate::replica::{Input, OrderId, Replica, SnapshotOrder, SnapshotRefused, Work};
use crate::state_machine::StateMachine;
use crate::transport::Transport;
use crate::types::{Index, NodeId, ProposalId, ReadId, Time, WriteId};
use crate::write::SnapshotMeta;

/// How long a stopping node waits for its last writes: a disk that hangs must not keep clients from
/// their answers.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Where a pass sends what others do.
pub(crate) struct Outlets {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) wal: Arc<WalQueue>,
    pub(crate) snapshot_writer: Sender<SnapshotOrder>,
    pub(crate) snapshot_reader: Sender<ReadJob>,
    /// Set at the end: a snapshot being written is given up.
    pub(crate) stopping: Arc<Stopping>,
}

impl Drop for Outlets {
    /// Also when a pass panics: the other threads end by this.
    fn drop(&mut self) {
        self.stopping.set();
        self.wal.close();
    }
}

/// What a pass is made on; see the top of this file.
pub(crate) struct Stepper<S: StateMachine> {
    shared: Arc<Shared<S>>,
    replica: Replica<S>,
    out: Outlets,
    lanes: Lanes<S>,
    last_id: u64,
    asked: Asked<S>,
    /// The newest write handed out, and the newest that is synced.
    written: WriteId,
    persisted: WriteId,
    /// When clients' wishes are let in. The answered are awaited for proposals only: a round of reads
    /// costs too little to wait for anybody (measured: 6 % worse with 64 clients).
    proposal_patience: Patience,
    read_patience: Patience,
    /// Told to stop; by when at the latest.
    stop_by: Option<Instant>,
}

/// Who waits for what.
struct Asked<S: StateMachine> {
    proposals: BTreeMap<ProposalId, Answerer<Outcome<S::Reply>>>,
    reads: BTreeMap<ReadId, Reader<S>>,
    transfers: BTreeMap<OrderId, Answerer<Result<NodeId, TransferFailure>>>,
    snapshots: BTreeMap<OrderId, Answerer<Result<SnapshotMeta, SnapshotRefused>>>,
}

impl<S: StateMachine> Stepper<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, replica: Replica<S>, out: Outlets) -> Stepper<S> {
        Stepper {
            shared,
            replica,
            out,
            lanes: Lanes::default(),
            last_id: 0,
            asked: Asked {
                proposals: BTreeMap::new(),
                reads: BTreeMap::new(),
                transfers: BTreeMap::new(),
                snapshots: BTreeMap::new(),
            },
            written: WriteId(0),
            persisted: WriteId(0),
            proposal_patience: Patience::default(),
            read_patience: Patience::default(),
            stop_by: None,
        }
    }

    /// One pass. Says when the next one is due.
    pub(crate) fn pass(&mut self) -> Rest {
        self.take_in();
        self.carry_out();
        let now = self.shared.clock.now();
        let is_last = self.replica.is_over() || self.is_drained();
        let (gather, gather_until) = self.gather(now);
        let mut due = self.replica.deadline().min(gather_until);
        if let Some(stop_by) = self.stop_by {
            due = due.min(self.shared.clock.at(stop_by));
        }
        let is_stopping = is_last || self.stop_by.is_some();
        Rest { gather, due, is_stopping, is_last }
    }

    /// Everything that came in, and the time.
    fn take_in(&mut self) {
        let mut lanes = std::mem::take(&mut self.lanes);
        self.shared.inbox.take(&mut lanes);
        let now = self.shared.clock.now();
        for input in lanes.own.drain(..) {
            self.note(&input);
            self.replica.step(now, input);
        }
        for message in lanes.messages.drain(..) {
            self.replica.step(now, Input::Receive(message));
        }
        for peer in std::mem::take(&mut lanes.peers_down) {
            self.replica.step(now, Input::PeerDown(peer));
        }
        self.proposal_patience.let_in(now, lanes.proposals.len());
        self.read_patience.let_in(now, lanes.reads.len());
        for NewProposal { command, deadline, answer } in lanes.proposals.drain(..) {
            let id = ProposalId(self.next_id());
            self.asked.proposals.insert(id, answer);
            self.replica.step(now, Input::Propose { id, command, deadline });
        }
        for NewRead { deadline, reader } in lanes.reads.drain(..) {
            let id = ReadId(self.next_id());
            self.asked.reads.insert(id, reader);
            self.replica.step(now, Input::Read { id, deadline });
        }
        for order in lanes.orders.drain(..) {
            self.take_order(now, order);
        }
        if std::mem::take(&mut lanes.stop) && self.stop_by.is_none() {
            self.stop_by = Some(Instant::now() + STOP_PATIENCE);
        }
        if self.replica.deadline() <= now {
            self.replica.step(now, Input::Wake);
        }
        self.lanes = lanes;
    }

    /// What had better wait at the door, and until when.
    fn gather(&self, now: Time) -> (Gather, Time) {
        if self.stop_by.is_some() {
            return (Gather::default(), Time::NEVER);
        }
        let raft = self.replica.raft();
        let log = raft.log();
        let leads = raft.role_name() == RoleName::Leader;
        let proposals = self.proposal_patience.wait(now, log.committed() < log.last().index);
        let proposals = proposals.filter(|_| leads);
        let reads = self.read_patience.wait(now, raft.confirms_reads());
        let enough = |wait: Option<Wait>| wait.map_or(0, |wait| wait.enough);
        let until = |wait: Option<Wait>| wait.map_or(Time::NEVER, |wait| wait.until);
        let gather = Gather { proposals: enough(proposals), reads: enough(reads) };
        (gather, until(proposals).min(until(reads)))
    }

    /// What our own threads say is also told to listeners.
    fn note(&mut self, input: &Input) {
        let event = match input {
            Input::Persisted(id) => {
                self.persisted = *id;
                return;
            }
            Input::Room(room) => NodeEvent::Room(*room),
            Input::SnapshotWritten(meta) => NodeEvent::SnapshotTaken(meta.position),
            Input::SnapshotFailed(why) => NodeEvent::SnapshotFailed(why.clone()),
            _ => return,
        };
        self.shared.listeners.tell(&event);
    }

    fn take_order(&mut self, now: Time, order: Order) {
        let id = OrderId(self.next_id());
        match order {
            Order::Transfer { to, answer } => {
                self.asked.transfers.insert(id, answer);
                self.replica.step(now, Input::Transfer { id, to });
            }
            Order::Snapshot { answer } => {
                self.asked.snapshots.insert(id, answer);
                self.replica.step(now, Input::SnapshotNow { id });
            }
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Hands out the work; nothing of it waits.
    fn carry_out(&mut self) {
        let work = self.replica.take_work();
        self.shared.counters.passes.add(1);
        if !work.send.is_empty() {
            self.shared.counters.messages_sent.add(work.send.len() as u64);
            self.out.transport.send(work.send);
        }
        if let Some(write) = work.write {
            self.written = write.id;
            self.out.wal.write(write);
        }
        // A send fails only when the thread behind it panicked, and then the node is over already.
        for request in work.chunks {
            let _ = self.out.snapshot_reader.send(ReadJob::Chunk(request));
        }
        if let Some(request) = work.restore {
            let _ = self.out.snapshot_reader.send(ReadJob::Piece(request));
        }
        if let Some(order) = work.snapshot {
            let _ = self.out.snapshot_writer.send(order);
        }
        for note in work.notes {
            let level = if note.important { log::Level::Info } else { log::Level::Debug };
            log::log!(level, "{}", note.text);
        }
        if let Some(why) = work.fault {
            log::error!("the state cannot be restored, the node stops: {why}");
            self.shared.fail(NodeFailure::Restore(why));
        }
        self.publish();
        let Work { answers, reads, transfers, snapshots_taken, .. } = work;
        if !answers.is_empty() {
            let (now, waiting) = (self.shared.clock.now(), self.shared.inbox.proposals_waiting());
            self.proposal_patience.answered(now, answers.len(), waiting);
        }
        self.answer(answers, reads);
        for (id, ended) in transfers {
            self.asked.transfers.remove(&id).into_iter().for_each(|a| a.answer(ended));
        }
        for (id, taken) in snapshots_taken {
            let asked = self.asked.snapshots.remove(&id);
            asked.into_iter().for_each(|a| a.answer(taken.clone()));
        }
    }

    /// What the node looks like now, before anybody gets an answer that depends on it.
    fn publish(&mut self) {
        let now = self.shared.clock.now();
        let (proposals_pending, reads_pending) = self.replica.pending();
        let status = Arc::new(NodeStatus {
            at: now,
            core: self.replica.raft().status(),
            restoring: self.replica.is_restoring(),
            room: self.replica.has_room(),
            proposals_pending,
            reads_pending,
            failed: self.shared.failure(),
            stopped: self.stop_by.is_some(),
        });
        self.shared.counters.proposals_pending.set(proposals_pending as u64);
        let before = std::mem::replace(&mut *lock(&self.shared.status), Arc::clone(&status));
        self.tell_changes(&before, &status);
    }

    fn tell_changes(&self, before: &NodeStatus, after: &NodeStatus) {
        let (old, new) = (&before.core, &after.core);
        let leadership =
            |of: &NodeStatus| (of.core.term, of.core.role, of.core.leader, of.core.ready);
        if leadership(before) != leadership(after) {
            if new.leader.is_some() && (old.term, old.leader) != (new.term, new.leader) {
                self.shared.counters.leader_changes.add(1);
            }
            if new.role == RoleName::Candidate && (old.role, old.term) != (new.role, new.term) {
                self.shared.counters.elections.add(1);
            }
            self.shared.listeners.tell(&NodeEvent::Leadership {
                term: new.term,
                role: new.role,
                leader: new.leader,
                ready: new.ready,
            });
        }
        if old.membership != new.membership {
            self.shared.listeners.tell(&NodeEvent::Membership(new.membership.clone()));
        }
        match (before.restoring, after.restoring) {
            (false, true) => {
                self.shared.listeners.tell(&NodeEvent::Restoring(new.snapshot));
            }
            (true, false) => self.shared.listeners.tell(&NodeEvent::Restored(old.snapshot)),
            _ => {}
        }
    }

    fn answer(
        &mut self,
        answers: Vec<(ProposalId, Outcome<S::Reply>)>,
        reads: Vec<(ReadId, Result<Index, ReadRefused>)>,
    ) {
        for (id, outcome) in answers {
            self.shared.counters.ended(&outcome);
            let asked = self.asked.proposals.remove(&id);
            asked.expect("each proposal ends once").answer(outcome);
        }
        for (id, ready) in reads {
            let reader = self.asked.reads.remove(&id).expect("each read ends once");
            match (ready, reader) {
                (Ok(index), Reader::Barrier(answer)) => answer.answer(Ok(index)),
                (Ok(_), Reader::Look(look)) => {
                    let state = self.replica.state();
                    // A look that panics is its caller's affair: it only loses its answer.
                    let _ = catch_unwind(AssertUnwindSafe(|| look(Ok(state))));
                }
                (Err(why), reader) => {
                    self.shared.counters.reads_refused.add(1);
                    reader.refuse(why);
                }
            }
        }
    }

    /// Told to stop, and everything accepted is synced and answered as far as it can be. A full
    /// disk, or one that hangs, is not waited for.
    fn is_drained(&self) -> bool {
        let Some(stop_by) = self.stop_by else { return false };
        let settled =
            self.written <= self.persisted && self.shared.clock.now() < self.replica.deadline();
        settled || !self.replica.has_room() || stop_by <= Instant::now()
    }

    /// After the last pass: nobody is left without an answer, also who asked too late.
    pub(crate) fn end(mut self) {
        if !self.replica.is_over() {
            self.replica.step(self.shared.clock.now(), Input::Stop);
            self.carry_out();
        }
        self.shared.inbox.stop();
        self.stop_by = Some(Instant::now());
        self.take_in();
        self.carry_out();
        let end = match self.shared.failure() {
            Some(failure) => NodeEvent::Failed(failure),
            None => NodeEvent::Stopped,
        };
        self.shared.listeners.tell(&end);
        self.shared.listeners.close();
    }
}
