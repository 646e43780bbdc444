//! The raft thread's one door: everybody puts in, the raft thread takes all of it out at once.
//!
//! Each kind has a lane of its own with its own rule for when it is full:
//!
//! | lane | bounded by | when full |
//! |---|---|---|
//! | own threads (synced, read, written) | what the raft thread asked for | never dropped |
//! | peers | count, and bytes of payload | the newest is dropped and counted |
//! | proposals | count and bytes | refused as busy, at once |
//! | reads | count | refused as busy, at once |
//! | orders (transfer, snapshot) | count | refused |
//! | lost peers | one per peer, count | dropped: it is a hint |
//!
//! Nobody but the raft thread ever waits here. While the raft thread says so, proposals and reads
//! gather at the door without waking it ([`Gather`]).

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::lock;
use super::ticket::Answerer;
use crate::consensus::event::{Refusal, TransferFailure};
use crate::message::{Body, Message};
use crate::proposals::{Outcome, ReadRefused};
use crate::replica::{Input, SnapshotRefused};
use crate::state_machine::StateMachine;
use crate::types::{Index, NodeId, Time};
use crate::write::SnapshotMeta;

/// How much may wait for the raft thread.
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
    /// Run this on the state, on the raft thread.
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
/// these wake nobody and are not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gather {
    pub(crate) proposals: usize,
    pub(crate) reads: usize,
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
    /// The raft thread sleeps: without that, an arrival costs no system call.
    sleeper: bool,
    /// What neither wakes the raft thread nor is taken yet.
    gather: Gather,
}

impl<S: StateMachine> Inbox<S> {
    pub(crate) fn new(limits: InboxLimits) -> Inbox<S> {
        let door = Door {
            lanes: Lanes::default(),
            closed: false,
            sleeper: false,
            gather: Gather::default(),
        };
        Inbox { limits, door: Mutex::new(door), arrived: Condvar::new() }
    }

    /// From our own threads.
    pub(crate) fn own(&self, inputs: impl IntoIterator<Item = Input>) {
        self.put(|door| door.lanes.own.extend(inputs));
    }

    /// From peers. Says how many were dropped.
    pub(crate) fn messages(&self, messages: Vec<Message>) -> u64 {
        let mut dropped = 0;
        self.put(|door| {
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
        dropped
    }

    /// From a client.
    pub(crate) fn propose(
        &self,
        proposal: NewProposal<S::Reply>,
    ) -> Result<(), (NewProposal<S::Reply>, Refusal)> {
        let bytes = proposal.command.len() as u64;
        self.put(|door| {
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
        })
    }

    /// From a client.
    pub(crate) fn read(&self, read: NewRead<S>) -> Result<(), (NewRead<S>, ReadRefused)> {
        self.put(|door| {
            if door.closed {
                return Err((read, ReadRefused::Stopped));
            }
            if self.limits.reads_max <= door.lanes.reads.len() {
                return Err((read, ReadRefused::Busy));
            }
            door.lanes.reads.push(read);
            Ok(())
        })
    }

    /// From an operator. Gives the order back when it cannot be taken; `true`: because the node is
    /// stopping.
    pub(crate) fn order(&self, order: Order) -> Result<(), (Order, bool)> {
        self.put(|door| {
            if door.closed || RARE_MAX <= door.lanes.orders.len() {
                return Err((order, door.closed));
            }
            door.lanes.orders.push(order);
            Ok(())
        })
    }

    /// From the transport.
    pub(crate) fn peer_down(&self, peer: NodeId) {
        self.put(|door| {
            if !door.closed && door.lanes.peers_down.len() < RARE_MAX {
                door.lanes.peers_down.insert(peer);
            }
        });
    }

    /// The node shall stop: nothing is let in after this but from our own threads.
    pub(crate) fn stop(&self) {
        self.put(|door| {
            door.closed = true;
            door.lanes.stop = true;
        });
    }

    /// Takes everything but what is to gather; waits for something at most this long (`None`: for
    /// ever). What was in `lanes` must have been used up: its memory is used again.
    pub(crate) fn take(&self, at_most: Option<Duration>, gather: Gather, lanes: &mut Lanes<S>) {
        assert!(lanes.is_empty(), "a pass left something in its lanes");
        lanes.message_bytes = 0;
        lanes.proposal_bytes = 0;
        let mut door = lock(&self.door);
        door.gather = gather;
        if !door.calls() && at_most != Some(Duration::ZERO) {
            door.sleeper = true;
            door = match at_most {
                None => super::wait(&self.arrived, door),
                Some(at_most) => super::wait_timeout(&self.arrived, door, at_most),
            };
            door.sleeper = false;
        }
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

    /// How many proposals are at the door.
    pub(crate) fn proposals_waiting(&self) -> usize {
        lock(&self.door).lanes.proposals.len()
    }

    /// Changes what waits, and wakes the raft thread if it sleeps.
    fn put<T>(&self, change: impl FnOnce(&mut Door<S>) -> T) -> T {
        let mut door = lock(&self.door);
        let result = change(&mut door);
        let wake = door.sleeper && door.calls();
        if wake {
            // One wake is enough for all that comes until the raft thread is up.
            door.sleeper = false;
        }
        drop(door);
        if wake {
            self.arrived.notify_one();
        }
        result
    }
}

impl<S: StateMachine> Door<S> {
    /// Whether there is something the raft thread has to see to now.
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

    #[test]
    fn a_lane_full_of_payload_still_takes_heartbeats() {
        let inbox: Inbox<Nothing> = Inbox::new(LIMITS);
        assert_eq!(inbox.messages(vec![chunk(200)]), 0, "one is always let in");
        assert_eq!(inbox.messages(vec![chunk(1), heartbeat()]), 1);
        assert_eq!(inbox.messages(vec![heartbeat(), heartbeat(), heartbeat()]), 1, "by count");
        let mut lanes = Lanes::default();
        inbox.take(None, Gather::default(), &mut lanes);
        assert_eq!(lanes.messages.len(), 4);
        lanes.messages.clear();
        inbox.take(Some(Duration::ZERO), Gather::default(), &mut lanes);
        assert_eq!(inbox.messages(vec![chunk(60), chunk(60)]), 1, "what was taken counts no more");
    }

    #[test]
    fn proposals_are_bounded_by_count_and_bytes() {
        let inbox: Inbox<Nothing> = Inbox::new(LIMITS);
        assert!(inbox.propose(proposal(20)).is_ok(), "one is always let in");
        assert!(matches!(inbox.propose(proposal(1)), Err((_, Refusal::Busy))));
        let inbox: Inbox<Nothing> = Inbox::new(LIMITS);
        assert!(inbox.propose(proposal(1)).is_ok());
        assert!(inbox.propose(proposal(1)).is_ok());
        assert!(matches!(inbox.propose(proposal(1)), Err((_, Refusal::Busy))));
    }

    #[test]
    fn what_gathers_stays_at_the_door_and_wakes_nobody() {
        let inbox: Inbox<Nothing> = Inbox::new(LIMITS);
        let gather = Gather { proposals: usize::MAX, reads: 0 };
        let mut lanes = Lanes::default();
        assert!(inbox.propose(proposal(4)).is_ok());
        inbox.take(Some(Duration::from_millis(1)), gather, &mut lanes);
        assert!(lanes.is_empty() && !lock(&inbox.door).calls(), "it is not waited for");
        inbox.own([Input::Room(true)]);
        inbox.take(None, gather, &mut lanes);
        assert_eq!((lanes.own.len(), lanes.proposals.len()), (1, 0), "other things pass it");
        lanes.own.clear();
        assert!(inbox.propose(proposal(4)).is_ok());
        assert!(inbox.propose(proposal(4)).is_err(), "the bounds hold meanwhile");
        inbox.take(None, Gather::default(), &mut lanes);
        assert_eq!(lanes.proposals.len(), 2);
    }

    #[test]
    fn after_the_stop_only_our_own_threads_are_let_in() {
        let inbox: Inbox<Nothing> = Inbox::new(LIMITS);
        inbox.stop();
        assert!(matches!(inbox.propose(proposal(1)), Err((_, Refusal::Stopped))));
        assert_eq!(inbox.messages(vec![heartbeat()]), 1);
        inbox.peer_down(NodeId(1));
        inbox.own([Input::Room(true)]);
        let mut lanes = Lanes::default();
        inbox.take(None, Gather::default(), &mut lanes);
        assert!(lanes.stop && lanes.own.len() == 1);
        assert!(lanes.messages.is_empty() && lanes.peers_down.is_empty());
    }
}
