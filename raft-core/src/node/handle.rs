//! [`Handle`]: how the rest of the program talks to a running node. Clones are cheap and may be
//! used from any thread; nothing here waits, except where a ticket is waited on.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;

use super::clock::Clock;
use super::events::{Listeners, NodeEvent, NodeFailure, Receiver};
use super::inbox::{Inbox, Lanes, NewProposal, NewRead, Order, Reader, Turn};
use super::lock;
use super::metrics::{Counters, NodeMetrics};
use super::status::NodeStatus;
use super::stepper::Stepper;
use super::ticket::{Ticket, ticket};
use crate::consensus::event::TransferFailure;
use crate::message::Message;
use crate::proposals::{Outcome, ReadRefused, UnknownCause};
use crate::replica::{Input, SnapshotRefused};
use crate::state_machine::StateMachine;
use crate::types::{Index, NodeId, Time};
use crate::write::SnapshotMeta;

/// A running node, to ask and to tell. Holding one does not keep the node running.
pub struct Handle<S: StateMachine> {
    pub(crate) shared: Arc<Shared<S>>,
}

/// What a node's threads and its handles have in common.
pub(crate) struct Shared<S: StateMachine> {
    pub(crate) id: NodeId,
    pub(crate) clock: Clock,
    pub(crate) inbox: Inbox<S>,
    pub(crate) status: Mutex<Arc<NodeStatus>>,
    pub(crate) counters: Counters,
    pub(crate) listeners: Listeners<NodeEvent>,
    /// Why the node is over: the first reason counts.
    pub(crate) failure: Mutex<Option<NodeFailure>>,
    /// What passes are made on, by who has the turn; `None` before the first and after the last.
    pub(crate) stepper: Mutex<Option<Stepper<S>>>,
    /// See [`NodeOptions::callers_make_passes`](super::NodeOptions::callers_make_passes).
    pub(crate) callers_make_passes: bool,
}

impl<S: StateMachine> Handle<S> {
    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Asks the cluster to apply `command`. The ticket ends in the state machine's reply, or in the
    /// reason why not and whether it can still happen. Only a leader accepts; others refuse with a
    /// hint. At the deadline the ticket ends in any case: refused if the command is not in the log
    /// yet, unknown if it is.
    pub fn propose(&self, command: Bytes, deadline: Option<Instant>) -> Ticket<Outcome<S::Reply>> {
        // Dropped unanswered only while the node falls over, and then the command may be anywhere.
        let (answer, ticket) = ticket(|| Outcome::Unknown(UnknownCause::Failed));
        let deadline = self.shared.clock.deadline(deadline);
        self.shared.counters.proposals.add(1);
        let proposal = NewProposal { command, deadline, answer };
        match self.shared.inbox.propose(proposal) {
            Ok(turn) => self.shared.proposed(turn),
            Err((proposal, refusal)) => {
                let refused = Outcome::Refused(refusal);
                self.shared.counters.ended(&refused);
                proposal.answer.answer(refused);
            }
        }
        ticket
    }

    /// Ends when this node's state holds every write that was acknowledged anywhere before this
    /// call (thesis 6.4): what is read from the state after that is linearizable. Works on every
    /// node; one that does not lead asks the leader.
    pub fn read_barrier(&self, deadline: Option<Instant>) -> Ticket<Result<Index, ReadRefused>> {
        let (answer, ticket) = ticket(|| Err(ReadRefused::Stopped));
        self.enqueue_read(deadline, Reader::Barrier(answer));
        ticket
    }

    /// A linearizable read: runs `look` on the state, after a barrier. It runs in a pass of the node,
    /// so it has to be short; for long looks keep the state behind a lock of its own and use
    /// [`read_barrier`](Handle::read_barrier).
    pub fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Ticket<Result<T, ReadRefused>> {
        self.read_before(None, look)
    }

    /// As [`read`](Handle::read), given up at the deadline.
    pub fn read_before<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        look: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Ticket<Result<T, ReadRefused>> {
        let (answer, ticket) = ticket(|| Err(ReadRefused::Stopped));
        let look = move |state: Result<&S, ReadRefused>| answer.answer(state.map(look));
        self.enqueue_read(deadline, Reader::Look(Box::new(look)));
        ticket
    }

    fn enqueue_read(&self, deadline: Option<Instant>, reader: Reader<S>) {
        let deadline = self.shared.clock.deadline(deadline);
        self.shared.counters.reads.add(1);
        match self.shared.inbox.read(NewRead { deadline, reader }) {
            Ok(turn) => self.shared.inbox.leave(turn),
            Err((read, why)) => {
                self.shared.counters.reads_refused.add(1);
                read.reader.refuse(why);
            }
        }
    }

    /// Hands in what came from peers. Never waits: what does not fit is dropped and counted, as a
    /// network would. The calling thread may make the pass that sees to it: it applies what is
    /// committed by it, answers tickets and sends, so it must hold no lock that those take.
    pub fn receive(&self, messages: Vec<Message>) {
        self.shared.counters.messages_received.add(messages.len() as u64);
        let (dropped, turn) = self.shared.inbox.messages(messages);
        self.shared.counters.messages_dropped.add(dropped);
        self.shared.visit(turn);
    }

    /// The connection to this peer broke *and* reconnecting was refused on every address. Only a
    /// hint: followers of a crashed leader begin to look for a new one sooner.
    pub fn peer_down(&self, peer: NodeId) {
        self.shared.inbox.leave(self.shared.inbox.peer_down(peer));
    }

    /// Hands leadership to this voter, or to the best one. The ticket ends within about an election
    /// timeout, with the new leader or why there is none.
    pub fn transfer(&self, to: Option<NodeId>) -> Ticket<Result<NodeId, TransferFailure>> {
        let (answer, ticket) = ticket(|| Err(TransferFailure::NotLeader));
        match self.shared.inbox.order(Order::Transfer { to, answer }) {
            Ok(turn) => self.shared.inbox.leave(turn),
            Err((order, stopping)) => {
                let busy = TransferFailure::InProgress;
                let why = if stopping { TransferFailure::NotLeader } else { busy };
                let Order::Transfer { answer, .. } = order else { return ticket };
                answer.answer(Err(why));
            }
        }
        ticket
    }

    /// Writes a snapshot of the state now, whatever its size. The ticket ends when it is durable.
    pub fn snapshot_now(&self) -> Ticket<Result<SnapshotMeta, SnapshotRefused>> {
        let (answer, ticket) = ticket(|| Err(SnapshotRefused::Stopped));
        match self.shared.inbox.order(Order::Snapshot { answer }) {
            Ok(turn) => self.shared.inbox.leave(turn),
            Err((order, stopping)) => {
                let busy = SnapshotRefused::InProgress;
                let why = if stopping { SnapshotRefused::Stopped } else { busy };
                let Order::Snapshot { answer } = order else { return ticket };
                answer.answer(Err(why));
            }
        }
        ticket
    }

    /// What the node looked like after its last pass.
    pub fn status(&self) -> Arc<NodeStatus> {
        Arc::clone(&lock(&self.shared.status))
    }

    /// What happens from now on.
    pub fn events(&self) -> Receiver<NodeEvent> {
        self.shared.listeners.listen()
    }

    /// The node's counters.
    pub fn metrics(&self) -> NodeMetrics {
        self.shared.counters.read()
    }

    /// Now, on the clock that all times in [`NodeStatus`] are of.
    pub fn now(&self) -> Time {
        self.shared.clock.now()
    }

    /// That moment, on the same clock; what lies before the node's start is its start.
    pub fn time_of(&self, moment: Instant) -> Time {
        self.shared.clock.at(moment)
    }

    /// Tells the node to stop, and returns at once: nothing new is accepted, what was accepted is
    /// written and synced, everybody who waits gets an answer, then comes [`NodeEvent::Stopped`].
    pub fn stop(&self) {
        self.shared.inbox.leave(self.shared.inbox.stop());
    }
}

impl<S: StateMachine> Shared<S> {
    /// The node is over: the next pass is told, and tells everybody.
    pub(crate) fn fail(&self, failure: NodeFailure) {
        lock(&self.failure).get_or_insert(failure);
        self.tell([Input::Failed]);
    }

    /// Sees to what a client proposed: by itself if it is alone. Many are left to the raft thread, so
    /// that who proposes can bring the next meanwhile.
    fn proposed(&self, turn: Option<Turn>) {
        if self.callers_make_passes && turn.is_some() && self.inbox.proposals_waiting() == 1 {
            self.visit(turn);
        } else {
            self.inbox.leave(turn);
        }
    }

    /// Hands in what one of our own threads has done, and leaves the pass to the raft thread.
    pub(crate) fn tell(&self, inputs: impl IntoIterator<Item = Input>) {
        self.inbox.leave(self.inbox.own(inputs));
    }

    /// There will be no more passes: does what the last would have done. Whoever is dropped
    /// unanswered gets the answer that was named for that.
    pub(crate) fn abandon(&self, failure: NodeFailure) {
        let failure = lock(&self.failure).get_or_insert(failure).clone();
        self.inbox.leave(self.inbox.stop());
        let mut left = Lanes::default();
        self.inbox.take(&mut left);
        let mut status = NodeStatus::clone(&lock(&self.status));
        status.failed = Some(failure.clone());
        *lock(&self.status) = Arc::new(status);
        drop(left);
        self.listeners.tell(&NodeEvent::Failed(failure));
        self.listeners.close();
    }

    /// Why the node is over, if it is.
    pub(crate) fn failure(&self) -> Option<NodeFailure> {
        lock(&self.failure).clone()
    }
}

impl<S: StateMachine> Clone for Handle<S> {
    fn clone(&self) -> Handle<S> {
        Handle { shared: Arc::clone(&self.shared) }
    }
}

impl<S: StateMachine> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.shared.id)
    }
}

impl<S> Reader<S> {
    /// There will be no answer to this read.
    pub(crate) fn refuse(self, why: ReadRefused) {
        match self {
            Reader::Barrier(answer) => answer.answer(Err(why)),
            Reader::Look(look) => look(Err(why)),
        }
    }
}
