//! The one door to the replica: everybody puts in, a pass takes all of it out at once.
//!
//! Each kind has a lane of its own with its own rule for when it is full:
//!
//! | lane | bounded by | when full |
//! |---|---|---|
//! | own threads (synced, read, written) | what a pass asked for | never dropped |
//! | peers | count, and bytes of payload | the newest is dropped and counted |
//! | proposals | count and bytes | refused as busy, at once |
//! | reads | count | refused as busy, at once |
//! | orders (transfer, snapshot) | count | refused |
//! | lost peers | one per peer, count | dropped: it is a hint |
//!
//! Proposals and reads gather at the door, and call for no pass, while the last pass said so
//! ([`Gather`]). Passes are made one at a time: who puts in what calls for one gets the [`Turn`] if
//! nobody has it (`turns.rs`). Only the raft thread ever waits here.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};

use bytes::Bytes;

use super::clock::Clock;
use super::lock;
use super::ticket::Answerer;
use crate::consensus::event::{Refusal, TransferFailure};
use crate::message::{Body, Message};
use crate::proposals::{Outcome, ReadRefused};
use crate::replica::{Input, SnapshotRefused};
use crate::state_machine::StateMachine;
use crate::types::{Index, NodeId, Time};
use crate::write::SnapshotMeta;

/// How much may wait for a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLimits {
    /// Messages of peers; 8192.
    pub messages_max: usize,
    /// Payload bytes of those messages; 64 MiB. One message is always let in; messages without
    /// payload (votes, heartbeats) do not count.
    pub message_bytes_max: u64,
    /// Proposals; 16 384.
    pub proposals_max: usize,
    /// Bytes of those proposals; 128 MiB. One is always let in.
    pub proposal_bytes_max: u64,
    /// Reads; 16 384.
    pub reads_max: usize,
}

impl Default for InboxLimits {
    fn default() -> InboxLimits {
        InboxLimits {
            messages_max: 8192,
            message_bytes_max: 64 << 20,
            proposals_max: 16_384,
            proposal_bytes_max: 128 << 20,
            reads_max: 16_384,
        }
    }
}

/// Orders and lost peers that may wait: operators and broken connections are few.
const RARE_MAX: usize = 64;

/// A proposal on its way in.
pub(crate) struct NewProposal<R> {
    pub(crate) command: Bytes,
    pub(crate) deadline: Time,
    pub(crate) answer: Answerer<Outcome<R>>,
}

/// A read on its way in.
pub(crate) struct NewRead<S> {
    pub(crate) deadline: Time,
    pub(crate) reader: Reader<S>,
}

/// What to do when a read may be answered.
pub(crate) enum Reader<S> {
    /// Say from which index on the state is fresh.
    Barrier(Answerer<Result<Index, ReadRefused>>),
    /// Run this on the state, in a pass.
    Look(Look<S>),
}

/// A reader's function, run once.
pub(crate) type Look<S> = Box<dyn FnOnce(Result<&S, ReadRefused>) + Send>;

/// What an operator wants.
pub(crate) enum Order {
    Transfer { to: Option<NodeId>, answer: Answerer<Result<NodeId, TransferFailure>> },
    Snapshot { answer: Answerer<Result<SnapshotMeta, SnapshotRefused>> },
}

/// Everything that came in since the last pass.
pub(crate) struct Lanes<S: StateMachine> {
    pub(crate) own: Vec<Input>,
    pub(crate) messages: Vec<Message>,
    message_bytes: u64,
    pub(crate) proposals: Vec<NewProposal<S::Reply>>,
    proposal_bytes: u64,
    pub(crate) reads: Vec<NewRead<S>>,
    pub(crate) orders: Vec<Order>,
    pub(crate) peers_down: BTreeSet<NodeId>,
    /// The node was told to stop: what is above came in before that, nothing comes in after it but
    /// from our own threads.
    pub(crate) stop: bool,
}

/// How many of the clients' wishes are to gather at the door, so that they make one pass: fewer than
/// these call for none and are not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gather {
    pub(crate) proposals: usize,
    pub(crate) reads: usize,
}

/// The right to make a pass, and the duty: there is one in a node, and who has it makes a pass and
/// gives it back by [`Inbox::rest`], or leaves it to the raft thread by [`Inbox::leave`].
#[must_use = "nobody else can make a pass until it is given back"]
#[derive(Debug)]
pub(crate) struct Turn(());

/// What there is to know until the next pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) gather: Gather,
    /// When the next pass is due, whatever comes.
    pub(crate) due: Time,
    /// From now on the raft thread alone makes passes.
    pub(crate) is_stopping: bool,
    /// There is no use in another pass.
    pub(crate) is_last: bool,
}

/// See the top of this file.
pub(crate) struct Inbox<S: StateMachine> {
    limits: InboxLimits,
    door: Mutex<Door<S>>,
    arrived: Condvar,
}

struct Door<S: StateMachine> {
    lanes: Lanes<S>,
    /// Nobody outside is let in any more.
    closed: bool,
    /// What neither calls for a pass nor is taken yet.
    gather: Gather,
    /// When the next pass is due.
    due: Time,
    /// Somebody has the turn.
    taken: bool,
    /// Only the raft thread gets the turn.
    reserved: bool,
    /// The raft thread sleeps until then unless it is woken; `None`: it is up, or being woken.
    sleeps_until: Option<Time>,
}

impl<S: StateMachine> Inbox<S> {
    /// The first turn is for the raft thread, once there is something to make passes on.
    pub(crate) fn new(limits: InboxLimits) -> (Inbox<S>, Turn) {
        let door = Door {
            lanes: Lanes::default(),
            closed: false,
            gather: Gather::default(),
            due: Time(0),
            taken: true,
            reserved: false,
            sleeps_until: None,
        };
        (Inbox { limits, door: Mutex::new(door), arrived: Condvar::new() }, Turn(()))
    }

    /// From our own threads.
    pub(crate) fn own(&self, inputs: impl IntoIterator<Item = Input>) -> Option<Turn> {
        self.put(|door| door.lanes.own.extend(inputs)).1
    }

    /// From peers. Says how many were dropped.
    pub(crate) fn messages(&self, messages: Vec<Message>) -> (u64, Option<Turn>) {
        let mut dropped = 0;
        let ((), turn) = self.put(|door| {
            for message in messages {
                let bytes = payload_bytes(&message.body);
                let lanes = &mut door.lanes;
                let fits = bytes == 0
                    || lanes.message_bytes == 0
                    || lanes.message_bytes + bytes <= self.limits.message_bytes_max;
                if door.closed || lanes.messages.len() >= self.limits.messages_max || !fits {
                    dropped += 1;
                    continue;
                }
                lanes.message_bytes += bytes;
                lanes.messages.push(message);
            }
        });
        (dropped, turn)
    }

    /// From a client.
    pub(crate) fn propose(
        &self,
        proposal: NewProposal<S::Reply>,
    ) -> Result<Option<Turn>, (NewProposal<S::Reply>, Refusal)> {
        let bytes = proposal.command.len() as u64;
        let (taken, turn) = self.put(|door| {
            let lanes = &mut door.lanes;
            let fits = lanes.proposals.is_empty()
                || (lanes.proposals.len() < self.limits.proposals_max
                    && lanes.proposal_bytes + bytes <= self.limits.proposal_bytes_max);
            if door.closed {
                return Err((proposal, Refusal::Stopped));
            }
            if !fits {
                return Err((proposal, Refusal::Busy));
            }
            lanes.proposal_bytes += bytes;
            lanes.proposals.push(proposal);
            Ok(())
        });
        taken.map(|()| turn)
    }

    /// From a client.
    pub(crate) fn read(&self, read: NewRead<S>) -> Result<Option<Turn>, (NewRead<S>, ReadRefused)> {
        let (taken, turn) = self.put(|door| {
            if door.closed {
                return Err((read, ReadRefused::Stopped));
            }
            if self.limits.reads_max <= door.lanes.reads.len() {
                return Err((read, ReadRefused::Busy));
            }
            door.lanes.reads.push(read);
            Ok(())
        });
        taken.map(|()| turn)
    }

    /// From an operator. Gives the order back when it cannot be taken; `true`: because the node is
    /// stopping.
    pub(crate) fn order(&self, order: Order) -> Result<Option<Turn>, (Order, bool)> {
        let (taken, turn) = self.put(|door| {
            if door.closed || RARE_MAX <= door.lanes.orders.len() {
                return Err((order, door.closed));
            }
            door.lanes.orders.push(order);
            Ok(())
        });
        taken.map(|()| turn)
    }

    /// From the transport.
    pub(crate) fn peer_down(&self, peer: NodeId) -> Option<Turn> {
        let ((), turn) = self.put(|door| {
            if !door.closed && door.lanes.peers_down.len() < RARE_MAX {
                door.lanes.peers_down.insert(peer);
            }
        });
        turn
    }

    /// The node shall stop: nothing is let in after this but from our own threads, and what gathers
    /// is let in.
    pub(crate) fn stop(&self) -> Option<Turn> {
        let ((), turn) = self.put(|door| {
            door.closed = true;
            door.gather = Gather::default();
            door.lanes.stop = true;
        });
        turn
    }

    /// Takes everything but what is to gather. What was in `lanes` must have been used up: its
    /// memory is used again.
    pub(crate) fn take(&self, lanes: &mut Lanes<S>) {
        assert!(lanes.is_empty(), "a pass left something in its lanes");
        lanes.message_bytes = 0;
        lanes.proposal_bytes = 0;
        let mut door = lock(&self.door);
        let gather = door.gather;
        std::mem::swap(&mut door.lanes, lanes);
        // What gathers is given back to the door.
        if lanes.proposals.len() < gather.proposals {
            std::mem::swap(&mut door.lanes.proposals, &mut lanes.proposals);
            std::mem::swap(&mut door.lanes.proposal_bytes, &mut lanes.proposal_bytes);
        }
        if lanes.reads.len() < gather.reads {
            std::mem::swap(&mut door.lanes.reads, &mut lanes.reads);
        }
    }

    /// The raft thread sleeps here until a pass is due, or called for and left to it.
    pub(crate) fn wait_turn(&self, clock: Clock) -> Turn {
        let mut door = lock(&self.door);
        loop {
            let now = clock.now();
            let is_due = door.due <= now;
            if !door.taken && (is_due || door.calls()) {
                door.taken = true;
                return Turn(());
            }
            // Whoever has the turn wakes this thread if the next pass is due sooner.
            let until = if is_due { Time::NEVER } else { door.due };
            door.sleeps_until = Some(until);
            door = match until {
                Time::NEVER => super::wait(&self.arrived, door),
                until => super::wait_timeout(&self.arrived, door, until.since(now)),
            };
            door.sleeps_until = None;
        }
    }

    /// Gives the turn back after a pass.
    pub(crate) fn rest(&self, turn: Turn, rest: Rest) {
        let Turn(()) = turn;
        let mut door = lock(&self.door);
        door.taken = false;
        door.gather = if door.closed { Gather::default() } else { rest.gather };
        door.due = if rest.is_last { Time(0) } else { rest.due };
        door.reserved |= rest.is_stopping;
        let due = door.due;
        let calls = door.calls();
        if door.sleeps_until.is_some_and(|until| calls || due < until) {
            self.wake(door);
        }
    }

    /// Leaves the pass to the raft thread.
    pub(crate) fn leave(&self, turn: Option<Turn>) {
        let Some(Turn(())) = turn else { return };
        let mut door = lock(&self.door);
        door.taken = false;
        if door.sleeps_until.is_some() {
            self.wake(door);
        }
    }

    /// How many proposals are at the door.
    pub(crate) fn proposals_waiting(&self) -> usize {
        lock(&self.door).lanes.proposals.len()
    }

    /// Changes what waits. Who gets the turn has to make a pass, or to leave it.
    fn put<T>(&self, change: impl FnOnce(&mut Door<S>) -> T) -> (T, Option<Turn>) {
        let mut door = lock(&self.door);
        let result = change(&mut door);
        if door.taken || !door.calls() {
            return (result, None);
        }
        if !door.reserved {
            door.taken = true;
            return (result, Some(Turn(())));
        }
        if door.sleeps_until.is_some() {
            self.wake(door);
        }
        (result, None)
    }

    /// Wakes the raft thread. One wake is enough for all that comes until it is up.
    fn wake(&self, mut door: MutexGuard<'_, Door<S>>) {
        door.sleeps_until = None;
        drop(door);
        self.arrived.notify_one();
    }
}

impl<S: StateMachine> Door<S> {
    /// Whether something is here that a pass has to see to now.
    fn calls(&self) -> bool {
        let Lanes { proposals, reads, .. } = &self.lanes;
        !self.lanes.is_quiet()
            || self.gather.proposals.max(1) <= proposals.len()
            || self.gather.reads.max(1) <= reads.len()
    }
}

impl<S: StateMachine> Lanes<S> {
    /// Whether nothing came in.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_quiet() && self.proposals.is_empty() && self.reads.is_empty()
    }

    /// Whether nothing came in but what clients ask for.
    fn is_quiet(&self) -> bool {
        self.own.is_empty()
            && self.messages.is_empty()
            && self.orders.is_empty()
            && self.peers_down.is_empty()
            && !self.stop
    }
}

impl<S: StateMachine> Default for Lanes<S> {
    fn default() -> Lanes<S> {
        Lanes {
            own: Vec::new(),
            messages: Vec::new(),
            message_bytes: 0,
            proposals: Vec::new(),
            proposal_bytes: 0,
            reads: Vec::new(),
            orders: Vec::new(),
            peers_down: BTreeSet::new(),
            stop: false,
        }
    }
}

/// What a message weighs beyond its head: only appends and snapshot chunks carry something.
fn payload_bytes(body: &Body) -> u64 {
    match body {
        Body::Append { entries, .. } => entries.iter().map(|entry| entry.weight()).sum(),
        Body::InstallSnapshot { data, .. } => data.len() as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::ticket::ticket;
    use super::*;
    use crate::proposals::UnknownCause;
    use crate::state_machine::{Malformed, Restore, SnapshotSource};
    use crate::types::{LogPosition, Term};

    struct Nothing;

    impl StateMachine for Nothing {
        type Reply = ();
        fn apply(&mut self, _: LogPosition, _: &Bytes) {}
        fn snapshot(&self) -> Box<dyn SnapshotSource> {
            unreachable!("no snapshot is asked for here")
        }
        fn restore(&mut self, _: Restore) -> Result<(), Malformed> {
            Ok(())
        }
    }

    const LIMITS: InboxLimits = InboxLimits {
        messages_max: 4,
        message_bytes_max: 100,
        proposals_max: 2,
        proposal_bytes_max: 10,
        reads_max: 1,
    };

    fn message(body: Body) -> Message {
        Message { from: NodeId(1), to: NodeId(2), term: Term(1), id: 0, body }
    }

    fn chunk(bytes: usize) -> Message {
        let (meta, data) = (SnapshotMeta::default(), Bytes::from(vec![0; bytes]));
        message(Body::InstallSnapshot { meta, offset: 0, data })
    }

    fn proposal(bytes: usize) -> NewProposal<()> {
        let (answer, _) = ticket(|| Outcome::Unknown(UnknownCause::Failed));
        NewProposal { command: Bytes::from(vec![0; bytes]), deadline: Time::NEVER, answer }
    }

    fn heartbeat() -> Message {
        message(Body::Heartbeat { round: 1, commit: Index(0) })
    }

    /// An inbox and the turn of its raft thread.
    fn inbox_of_nothing() -> (Inbox<Nothing>, Turn) {
        Inbox::new(LIMITS)
    }

    fn rest(gather: Gather) -> Rest {
        Rest { gather, due: Time::NEVER, is_stopping: false, is_last: false }
    }

    fn taken(inbox: &Inbox<Nothing>) -> Lanes<Nothing> {
        let mut lanes = Lanes::default();
        inbox.take(&mut lanes);
        lanes
    }

    #[test]
    fn a_lane_full_of_payload_still_takes_heartbeats() {
        let (inbox, _turn) = inbox_of_nothing();
        let dropped = |messages| inbox.messages(messages).0;
        assert_eq!(dropped(vec![chunk(200)]), 0, "one is always let in");
        assert_eq!(dropped(vec![chunk(1), heartbeat()]), 1);
        assert_eq!(dropped(vec![heartbeat(), heartbeat(), heartbeat()]), 1, "by count");
        let mut lanes = taken(&inbox);
        assert_eq!(lanes.messages.len(), 4);
        lanes.messages.clear();
        inbox.take(&mut lanes);
        assert_eq!(dropped(vec![chunk(60), chunk(60)]), 1, "what was taken counts no more");
    }

    #[test]
    fn proposals_are_bounded_by_count_and_bytes() {
        let (inbox, _turn) = inbox_of_nothing();
        assert!(inbox.propose(proposal(20)).is_ok(), "one is always let in");
        assert!(matches!(inbox.propose(proposal(1)), Err((_, Refusal::Busy))));
        let (inbox, _turn) = inbox_of_nothing();
        assert!(inbox.propose(proposal(1)).is_ok());
        assert!(inbox.propose(proposal(1)).is_ok());
        assert!(matches!(inbox.propose(proposal(1)), Err((_, Refusal::Busy))));
    }

    #[test]
    fn what_gathers_stays_at_the_door_and_calls_for_no_pass() {
        let (inbox, turn) = inbox_of_nothing();
        inbox.rest(turn, rest(Gather { proposals: usize::MAX, reads: 0 }));
        assert!(matches!(inbox.propose(proposal(4)), Ok(None)));
        assert!(taken(&inbox).is_empty());
        let turn = inbox.own([Input::Room(true)]).expect("this calls for a pass");
        let lanes = taken(&inbox);
        assert_eq!((lanes.own.len(), lanes.proposals.len()), (1, 0), "other things pass it");
        inbox.rest(turn, rest(Gather { proposals: 2, reads: 0 }));
        assert!(matches!(inbox.propose(proposal(4)), Ok(Some(_))), "two are enough");
        assert!(inbox.propose(proposal(4)).is_err(), "the bounds hold meanwhile");
        assert_eq!(taken(&inbox).proposals.len(), 2);
    }

    #[test]
    fn there_is_one_turn() {
        let (inbox, turn) = inbox_of_nothing();
        assert!(inbox.own([Input::Room(true)]).is_none(), "the raft thread has it");
        inbox.rest(turn, rest(Gather::default()));
        let turn = inbox.own([Input::Room(true)]);
        assert!(turn.is_some());
        assert!(inbox.own([Input::Room(true)]).is_none());
        inbox.leave(turn);
        assert!(inbox.own([Input::Room(true)]).is_some());
    }

    #[test]
    fn the_raft_thread_gets_what_came_in_during_a_pass_and_what_is_left_to_it() {
        let (inbox, turn) = inbox_of_nothing();
        let inbox = Arc::new(inbox);
        let (told, passes) = std::sync::mpsc::channel();
        let raft = std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                loop {
                    let turn = inbox.wait_turn(Clock::start());
                    let lanes = taken(&inbox);
                    told.send(lanes.own.len()).unwrap();
                    inbox.rest(turn, rest(Gather::default()));
                    if lanes.stop {
                        break;
                    }
                }
            }
        });
        assert!(inbox.own([Input::Room(true)]).is_none());
        inbox.rest(turn, rest(Gather::default()));
        assert_eq!(passes.recv(), Ok(1));
        // What is left is not lost, whether the raft thread sleeps or is on its way to bed.
        for _ in 0..1000 {
            let turn = loop {
                if let Some(turn) = inbox.own([Input::Room(true)]) {
                    break turn;
                }
            };
            inbox.leave(Some(turn));
        }
        inbox.leave(inbox.stop());
        raft.join().unwrap();
        assert!(1000 <= passes.try_iter().sum::<usize>());
    }

    #[test]
    fn a_stopping_node_leaves_its_passes_to_the_raft_thread() {
        let (inbox, turn) = inbox_of_nothing();
        inbox.rest(turn, Rest { is_stopping: true, ..rest(Gather::default()) });
        assert!(inbox.own([Input::Room(true)]).is_none());
        let _turn = inbox.wait_turn(Clock::start());
        assert_eq!(taken(&inbox).own.len(), 1);
    }

    #[test]
    fn after_the_stop_only_our_own_threads_are_let_in() {
        let (inbox, _turn) = inbox_of_nothing();
        assert!(inbox.stop().is_none());
        assert!(matches!(inbox.propose(proposal(1)), Err((_, Refusal::Stopped))));
        assert_eq!(inbox.messages(vec![heartbeat()]).0, 1);
        assert!(inbox.peer_down(NodeId(1)).is_none());
        assert!(inbox.own([Input::Room(true)]).is_none());
        let lanes = taken(&inbox);
        assert!(lanes.stop && lanes.own.len() == 1);
        assert!(lanes.messages.is_empty() && lanes.peers_down.is_empty());
    }
}
