//! Floor 3, *joins*: one replica is the core, the state machine, and the clients that wait for
//! either. Every decision that needs more than one of the three is made here, so that the threads
//! of a node and the simulator run the same code.
//!
//! What it adds to the core:
//! - committed entries are applied, and the proposal that waits for one is answered;
//! - a read is answered when the core confirmed it *and* its index is applied;
//! - deadlines: a proposal that is late before the core has it is refused, later it is unknown;
//! - a snapshot from the leader is fed to the state machine piece by piece, and snapshots of our
//!   own are ordered when due, one at a time;
//! - proposals are refused while the disk has no room, and everybody is told when the node ends.
//!
//! It never sees a thread, a clock, a file or a socket: time comes in, [`Work`] goes out.

mod work;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

pub use work::{Input, OrderId, PieceRequest, SnapshotOrder, SnapshotRefused, Work};

use crate::config::Config;
use crate::consensus::Raft;
use crate::consensus::event::{Event, Refusal, TransferFailure};
use crate::proposals::{Outcome, ReadRefused, UnknownCause, WaitingProposals, WaitingReads};
use crate::state_machine::{Restore, StateMachine};
use crate::types::{Entry, Index, LogPosition, Payload, ProposalId, ReadId, Time};
use crate::write::{Recovered, SnapshotMeta};

/// How long after a snapshot that could not be written the next one is begun.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(10);

/// One member of the cluster, without threads: feed it what happens ([`step`](Replica::step)), do
/// what it asks for ([`take_work`](Replica::take_work)), wake it in time
/// ([`deadline`](Replica::deadline)).
pub struct Replica<S: StateMachine> {
    raft: Raft,
    state: S,
    now: Time,
    /// The state holds everything up to here, unless it is being restored.
    applied: Index,
    /// Most proposals, and most reads, that may wait.
    waiting_max: usize,
    /// Proposals the core has and has not placed yet, with their deadlines.
    entering: BTreeMap<ProposalId, Time>,
    proposals: WaitingProposals,
    reads: WaitingReads,
    restoring: Option<Restoring>,
    /// A snapshot of ours is being written.
    snapshot_under_way: bool,
    /// No snapshot is begun for its size before this.
    snapshot_not_before: Time,
    /// An operator waits for a snapshot: the one under way, or the next.
    snapshot_order: Option<OrderId>,
    /// An operator waits for a transfer of leadership; the core knows one at a time.
    transfer: Option<OrderId>,
    room: bool,
    /// Set once: nothing is acknowledged, written or sent any more.
    over: Option<UnknownCause>,
    /// What the steps since the last `take_work` ask for already.
    work: Work<S::Reply>,
}

/// The state machine is being replaced by a snapshot.
struct Restoring {
    meta: SnapshotMeta,
    /// The piece that was asked for.
    next: u64,
}

impl<S: StateMachine> Replica<S> {
    /// A replica as its disk left it. `state` is empty: what it held before comes back from the
    /// snapshot and the log. At most `waiting_max` proposals and as many reads may wait.
    ///
    /// # Panics
    /// When the settings do not fit together ([`Config::fault`]).
    pub fn new(
        config: Config,
        recovered: Recovered,
        state: S,
        waiting_max: usize,
        now: Time,
    ) -> Replica<S> {
        let has_past = recovered.snapshot.is_some();
        assert!(
            has_past || recovered.log_start == LogPosition::ORIGIN,
            "a log that begins after {} needs a snapshot before it",
            recovered.log_start
        );
        Replica {
            raft: Raft::new(config, recovered, now),
            state,
            now,
            applied: Index::ZERO,
            waiting_max,
            entering: BTreeMap::new(),
            proposals: WaitingProposals::default(),
            reads: WaitingReads::default(),
            restoring: None,
            snapshot_under_way: false,
            snapshot_not_before: Time(0),
            snapshot_order: None,
            transfer: None,
            room: true,
            over: None,
            work: Work::default(),
        }
    }

    /// Takes anything that can happen. `now` never goes back. What follows from it is in the next
    /// [`take_work`](Replica::take_work); many steps before one of those are a group commit.
    pub fn step(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        let now = self.now;
        if self.over.is_some() {
            return self.turn_away(input);
        }
        match input {
            Input::Wake => self.raft.step(now, Event::Wake),
            Input::Receive(message) => self.raft.step(now, Event::Receive(message)),
            Input::Propose { id, command, deadline } => self.propose(id, command, deadline),
            Input::Read { id, deadline } => self.read(id, deadline),
            Input::Persisted(id) => self.raft.step(now, Event::Persisted(id)),
            Input::InstallFailed(position) => self.raft.step(now, Event::InstallFailed(position)),
            Input::Room(room) => self.room = room,
            Input::Failed => self.end(UnknownCause::Failed),
            Input::Chunk { request, data } => self.raft.step(now, Event::Chunk { request, data }),
            Input::Piece { of, number, piece } => self.restore_piece(of, number, piece),
            Input::SnapshotWritten(meta) => self.snapshot_written(meta),
            Input::SnapshotFailed(why) => self.snapshot_failed(why),
            Input::SnapshotNow { id } => self.snapshot_now(id),
            Input::Transfer { id, to } => {
                if self.transfer.is_some() {
                    self.work.transfers.push((id, Err(TransferFailure::InProgress)));
                    return;
                }
                self.transfer = Some(id);
                self.raft.step(now, Event::Transfer { to });
            }
            Input::PeerDown(peer) => self.raft.step(now, Event::PeerDown(peer)),
            Input::Stop => self.end(UnknownCause::Stopped),
        }
    }

    /// What the steps so far ask for. All of it may be carried out at once, in any order; what
    /// depends on a write has been withheld.
    pub fn take_work(&mut self) -> Work<S::Reply> {
        if self.over.is_some() {
            return std::mem::take(&mut self.work);
        }
        let effects = self.raft.take_effects();
        self.work.send = effects.send;
        self.work.chunks = effects.chunks;
        self.work.notes = effects.notes;
        self.work.write = effects.write;
        for (id, placed) in effects.proposals {
            self.placed(id, placed);
        }
        for (id, confirmed) in effects.reads {
            self.confirmed(id, confirmed);
        }
        for ended in effects.transfers {
            if let Some(id) = self.transfer.take() {
                self.work.transfers.push((id, ended));
            }
        }
        for entry in effects.apply {
            self.apply(&entry);
        }
        // After the entries: they were committed before the snapshot was taken in.
        if let Some(meta) = effects.restore {
            self.begin_restore(meta);
        }
        if self.over.is_none() {
            self.answer_reads();
            self.expire();
            self.order_snapshot();
        }
        std::mem::take(&mut self.work)
    }

    /// When [`Input::Wake`] is next useful; may be now (more is ready to be applied) or never.
    pub fn deadline(&self) -> Time {
        if self.over.is_some() {
            return Time::NEVER;
        }
        self.raft.deadline().min(self.proposals.deadline()).min(self.reads.deadline())
    }

    /// The state. While [`is_restoring`](Replica::is_restoring) it is no state to read from.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The core, to look at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Whether every decision shall be told in [`Work::notes`], or only role changes.
    pub fn trace(&mut self, on: bool) {
        self.raft.trace(on);
    }

    /// The state holds everything up to here.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Whether the state machine is being replaced by a snapshot.
    pub fn is_restoring(&self) -> bool {
        self.restoring.is_some()
    }

    /// Whether proposals are let in, as far as the disk is concerned.
    pub fn has_room(&self) -> bool {
        self.room
    }

    /// Whether the replica has ended: its disk failed, its state could not be restored, or it was
    /// stopped. It asks for no writes and sends nothing any more.
    pub fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Proposals and reads that have not ended.
    pub fn pending(&self) -> (usize, usize) {
        (self.entering.len() + self.proposals.len(), self.reads.len())
    }

    // Proposals.

    fn propose(&mut self, id: ProposalId, command: Bytes, deadline: Time) {
        let refusal = if deadline <= self.now {
            Refusal::Deadline
        } else if !self.room {
            Refusal::NoSpace
        } else if self.waiting_max <= self.pending().0 {
            Refusal::Busy
        } else {
            self.entering.insert(id, deadline);
            return self.raft.step(self.now, Event::Propose { id, command });
        };
        self.work.answers.push((id, Outcome::Refused(refusal)));
    }

    /// The core says where a proposal stands in the log, or why it is not in it.
    fn placed(&mut self, id: ProposalId, placed: Result<LogPosition, Refusal>) {
        let deadline = self.entering.remove(&id).expect("the core answers each proposal once");
        match placed {
            Ok(at) => self.proposals.enter(id, at, deadline),
            Err(refusal) => self.work.answers.push((id, Outcome::Refused(refusal))),
        }
    }

    fn apply(&mut self, entry: &Entry) {
        let at = entry.position;
        assert!(self.restoring.is_none(), "{at} is to be applied while the state is replaced");
        assert!(at.index == self.applied.next(), "{at} is to be applied after {}", self.applied);
        let mut reply = match &entry.payload {
            Payload::Command(command) => Some(self.state.apply(at, command)),
            Payload::Noop | Payload::Membership(_) => None,
        };
        self.applied = at.index;
        while let Some((id, its_own)) = self.proposals.settle(at) {
            let outcome = if its_own {
                let reply = reply.take().expect("only a command is waited for, and only once");
                Outcome::Applied { at, reply }
            } else {
                Outcome::NotApplied
            };
            self.work.answers.push((id, outcome));
        }
    }

    // Reads.

    fn read(&mut self, id: ReadId, deadline: Time) {
        let refused = if deadline <= self.now {
            ReadRefused::Deadline
        } else if self.waiting_max <= self.reads.len() {
            ReadRefused::Busy
        } else {
            self.reads.enter(id, deadline);
            return self.raft.step(self.now, Event::Read { id });
        };
        self.work.reads.push((id, Err(refused)));
    }

    fn confirmed(&mut self, id: ReadId, confirmed: Result<Index, Refusal>) {
        match confirmed {
            Ok(index) => self.reads.confirmed(id, index),
            Err(refusal) if self.reads.refused(id) => {
                self.work.reads.push((id, Err(refusal.into())));
            }
            // Its deadline came first, and it was told so.
            Err(_) => {}
        }
    }

    fn answer_reads(&mut self) {
        if self.restoring.is_some() {
            return;
        }
        while let Some((id, index)) = self.reads.ready(self.applied) {
            assert!(index <= self.applied, "a read of {index} is answered at {}", self.applied);
            self.work.reads.push((id, Ok(self.applied)));
        }
    }

    fn expire(&mut self) {
        // These are in the log: the next leader may still commit them.
        while let Some(id) = self.proposals.expired(self.now) {
            self.work.answers.push((id, Outcome::Unknown(UnknownCause::Deadline)));
        }
        while let Some(id) = self.reads.expired(self.now) {
            self.work.reads.push((id, Err(ReadRefused::Deadline)));
        }
    }

    // The leader's snapshots.

    /// A snapshot takes the place of the state. Entries it covers will never be seen one by one, so
    /// nobody can tell which of two that stood at one index was committed.
    fn begin_restore(&mut self, meta: SnapshotMeta) {
        let position = meta.position;
        assert!(self.applied < position.index, "{position} is older than {}", self.applied);
        while let Some(id) = self.proposals.jumped_over(position.index) {
            self.work.answers.push((id, Outcome::Unknown(UnknownCause::SnapshotJump)));
        }
        if let Err(error) = self.state.restore(Restore::Begin) {
            return self.restore_failed(position, &error.to_string());
        }
        self.work.restore = Some(PieceRequest { meta: meta.clone(), number: 0 });
        self.restoring = Some(Restoring { meta, next: 0 });
    }

    fn restore_piece(
        &mut self,
        of: LogPosition,
        number: u64,
        piece: Result<Option<Bytes>, String>,
    ) {
        let Some(restoring) = &mut self.restoring else { return };
        if restoring.meta.position != of || restoring.next != number {
            return;
        }
        let step = match piece {
            Ok(Some(piece)) => Restore::Piece(piece),
            Ok(None) => Restore::End,
            Err(why) => return self.restore_failed(of, &why),
        };
        let ends = step == Restore::End;
        if let Err(error) = self.state.restore(step) {
            return self.restore_failed(of, &error.to_string());
        }
        if ends {
            self.applied = of.index;
            self.restoring = None;
            self.raft.step(self.now, Event::Restored(of));
        } else {
            restoring.next += 1;
            let request = PieceRequest { meta: restoring.meta.clone(), number: restoring.next };
            self.work.restore = Some(request);
        }
    }

    /// Without its state the replica can do nothing, and the snapshot will not get better.
    fn restore_failed(&mut self, of: LogPosition, why: &str) {
        self.end(UnknownCause::Failed);
        self.work.fault = Some(format!("snapshot {of}: {why}"));
    }

    // Our own snapshots.

    /// Orders a snapshot if one is due or wanted, and none is under way.
    fn order_snapshot(&mut self) {
        if self.snapshot_under_way || self.restoring.is_some() {
            return;
        }
        let wanted = self.snapshot_order.is_some();
        let point = if wanted {
            self.raft.snapshot_point()
        } else if self.snapshot_not_before <= self.now {
            self.raft.snapshot_due()
        } else {
            None
        };
        if let Some((position, membership)) = point {
            assert!(position.index == self.applied, "a snapshot of {position} shows another state");
            let source = self.state.snapshot();
            self.snapshot_under_way = true;
            self.work.snapshot = Some(SnapshotOrder { position, membership, source });
        } else if wanted && self.raft.newest_snapshot().index == self.applied {
            self.end_snapshot_order(Err(SnapshotRefused::NothingNew));
        }
        // Else: what is applied is not durable here yet. It will be, and then we come by again.
    }

    fn snapshot_now(&mut self, id: OrderId) {
        let refused = if self.restoring.is_some() {
            SnapshotRefused::Restoring
        } else if self.snapshot_under_way || self.snapshot_order.is_some() {
            SnapshotRefused::InProgress
        } else {
            self.snapshot_order = Some(id);
            return;
        };
        self.work.snapshots_taken.push((id, Err(refused)));
    }

    fn snapshot_written(&mut self, meta: SnapshotMeta) {
        self.snapshot_under_way = false;
        self.raft.step(self.now, Event::SnapshotWritten(meta.clone()));
        self.end_snapshot_order(Ok(meta));
    }

    fn snapshot_failed(&mut self, why: String) {
        self.snapshot_under_way = false;
        self.snapshot_not_before = self.now + SNAPSHOT_RETRY;
        self.end_snapshot_order(Err(SnapshotRefused::Failed(why)));
    }

    fn end_snapshot_order(&mut self, how: Result<SnapshotMeta, SnapshotRefused>) {
        if let Some(id) = self.snapshot_order.take() {
            self.work.snapshots_taken.push((id, how));
        }
    }

    // The end.

    /// Whoever waits is told that nobody can tell; nothing is asked for any more but those answers.
    fn end(&mut self, cause: UnknownCause) {
        self.over = Some(cause);
        let work = &mut self.work;
        (work.write, work.restore, work.snapshot) = (None, None, None);
        work.send.clear();
        work.chunks.clear();
        let entering = std::mem::take(&mut self.entering).into_keys();
        let placed = std::iter::from_fn(|| self.proposals.any());
        work.answers.extend(entering.chain(placed).map(|id| (id, Outcome::Unknown(cause))));
        let reads = std::iter::from_fn(|| self.reads.any());
        work.reads.extend(reads.map(|id| (id, Err(ReadRefused::Stopped))));
        if let Some(id) = self.transfer.take() {
            work.transfers.push((id, Err(TransferFailure::NotLeader)));
        }
        self.end_snapshot_order(Err(SnapshotRefused::Stopped));
    }

    /// Who asks after the end gets an answer too. Nothing of it reached the core.
    fn turn_away(&mut self, input: Input) {
        let work = &mut self.work;
        match input {
            Input::Propose { id, .. } => {
                work.answers.push((id, Outcome::Refused(Refusal::Stopped)));
            }
            Input::Read { id, .. } => work.reads.push((id, Err(ReadRefused::Stopped))),
            Input::SnapshotNow { id } => {
                work.snapshots_taken.push((id, Err(SnapshotRefused::Stopped)));
            }
            Input::Transfer { id, .. } => {
                work.transfers.push((id, Err(TransferFailure::NotLeader)));
            }
            _ => {}
        }
    }
}
