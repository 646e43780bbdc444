//! What is simulated beside Raft: the state machine, what clients ask of it, and the path of a
//! request through a node.
//!
//! The key-value daemon is one ([`crate::kv::Kv`]); an embedder's state machine becomes one with the
//! few lines of [`Plain`].

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use bytes::Bytes;
use raft_core::proposals::{Outcome, ReadRefused};
use raft_core::state_machine::StateMachine;
use raft_core::types::{Index, NodeId, Time};
use twox_hash::XxHash64;

use crate::plan::ClientOp;
use crate::trace::OpId;

/// An application: a state machine and its clients.
pub trait App: Sized + fmt::Debug + 'static {
    /// The replicated state.
    type State: StateMachine;
    /// What a client asks.
    type Request: Clone + fmt::Debug;
    /// What it is told, failures included.
    type Answer: Clone + fmt::Debug;
    /// The path of one request through one node.
    type Call: Call<Self>;

    /// An empty state.
    fn state() -> Self::State;
    /// What a line of the plan asks for. `id` is unique: it makes values that nobody else writes.
    /// `last` is the last answer this client got about this key.
    fn request(op: &ClientOp, id: OpId, last: Option<&Self::Answer>) -> Self::Request;
    /// Whether it asks for a change.
    fn is_write(request: &Self::Request) -> bool;
    /// A digest of a reply; equal replies have equal digests.
    fn digest_reply(reply: &<Self::State as StateMachine>::Reply) -> u64;
    /// A digest of the whole state; equal states have equal digests.
    fn digest(state: &Self::State) -> u64;
    /// A rule every state has to keep (money is conserved), checked whenever a digest is taken. The
    /// error says what is wrong.
    fn check(_state: &Self::State) -> Result<(), String> {
        Ok(())
    }
    /// What an answer means for the fate of its request.
    fn fate(answer: &Self::Answer) -> Fate;
    /// Whether an answer says that a condition of the request did not hold.
    fn is_refusal(_answer: &Self::Answer) -> bool {
        false
    }
    /// The way of a request from one node to another: as bytes and back.
    fn carry_request(request: Self::Request) -> Self::Request {
        request
    }
    /// The way of an answer from one node to another: as bytes and back.
    fn carry_answer(answer: Self::Answer) -> Self::Answer {
        answer
    }
}

/// What a call knows about its node at each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// This node.
    pub me: NodeId,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// When the leader was last heard from.
    pub contact: Option<Time>,
    /// Whether it belongs to a cluster.
    pub formed: bool,
    /// Whether its state is just being put back.
    pub restoring: bool,
}

/// The path of one request through one node, without IO.
pub trait Call<A: App> {
    /// Begins. `hops` counts how often other nodes have handed it on.
    fn new(request: A::Request, deadline: Time, hops: u8) -> Self;
    /// What is asked.
    fn request(&self) -> &A::Request;
    /// The next step, given what came of the last one.
    fn step(&mut self, now: Time, view: &NodeView, came: Came<A>) -> Todo<A>;
    /// The answer to a read, from the state of this node.
    fn read(&self, state: &A::State) -> A::Answer;
}

/// What came of a step of a call.
pub enum Came<A: App> {
    /// It begins.
    Begin,
    /// Of [`Todo::Propose`].
    Proposed(Outcome<<A::State as StateMachine>::Reply>),
    /// Of [`Todo::Barrier`].
    Barrier(Result<Index, ReadRefused>),
    /// Of [`Todo::Forward`]: what the other node answered.
    Forwarded(A::Answer),
    /// Of [`Todo::Forward`]: no byte left this node.
    NothingSent,
    /// Of [`Todo::Forward`]: the connection broke.
    Broken,
    /// Of [`Todo::WaitForLeader`].
    Waited,
    /// The deadline passed meanwhile.
    DeadlinePassed,
}

/// What to do next for a call.
pub enum Todo<A: App> {
    /// Propose this command here.
    Propose(Bytes),
    /// Make sure the state here is fresh.
    Barrier,
    /// Read the state here; the call is over.
    Read,
    /// Send it to the leader.
    Forward {
        /// Who leads.
        to: NodeId,
        /// What the receiver shall be told.
        hops: u8,
    },
    /// Wait until the leader is another one, or until this time.
    WaitForLeader {
        /// The end of the wait.
        until: Time,
    },
    /// The call is over.
    End(A::Answer),
}

/// What became of a request, as far as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was answered.
    Answered,
    /// Not carried out, and it will not be. So ends every read that failed.
    NotApplied,
    /// Nobody can tell.
    Unknown,
}

/// A state machine that clients write to by commands and read from as a whole: the shortest way into
/// the simulation. Whatever implements this is an [`App`].
pub trait Plain: StateMachine<Reply: Hash> + Default + fmt::Debug {
    /// The command that a line of the plan asks for; `None` for a read. `id` is unique.
    fn command(op: &ClientOp, id: OpId) -> Option<Bytes>;
    /// What is wrong with this state, if something is (money got lost).
    fn fault(&self) -> Option<String> {
        None
    }
}

impl<P: Plain> App for P {
    type State = P;
    type Request = Option<Bytes>;
    /// A digest of the reply, or of the state that was read.
    type Answer = Result<u64, Fate>;
    type Call = Direct<P>;

    fn state() -> P {
        P::default()
    }

    fn request(op: &ClientOp, id: OpId, _: Option<&Self::Answer>) -> Option<Bytes> {
        P::command(op, id)
    }

    fn is_write(request: &Option<Bytes>) -> bool {
        request.is_some()
    }

    fn digest_reply(reply: &P::Reply) -> u64 {
        let mut digest = XxHash64::with_seed(0);
        reply.hash(&mut digest);
        digest.finish()
    }

    fn digest(state: &P) -> u64 {
        digest_of(state, 0)
    }

    fn check(state: &P) -> Result<(), String> {
        state.fault().map_or(Ok(()), Err)
    }

    fn fate(answer: &Self::Answer) -> Fate {
        answer.err().unwrap_or(Fate::Answered)
    }
}

/// A digest of a whole state: the bytes of its snapshot are the state.
pub fn digest_of(state: &impl StateMachine, seed: u64) -> u64 {
    let mut digest = XxHash64::with_seed(seed);
    let mut source = state.snapshot();
    while let Some(piece) = source.next_piece() {
        digest.write(&piece);
    }
    digest.finish()
}

/// The path of a request to a [`Plain`] state machine: a write goes to the leader, over one other
/// node at most; a read waits for a barrier; nothing is tried again.
pub struct Direct<P> {
    request: Option<Bytes>,
    hops: u8,
    of: PhantomData<P>,
}

impl<P: Plain> Call<P> for Direct<P> {
    fn new(request: Option<Bytes>, _deadline: Time, hops: u8) -> Direct<P> {
        Direct { request, hops, of: PhantomData }
    }

    fn request(&self) -> &Option<Bytes> {
        &self.request
    }

    fn step(&mut self, _now: Time, view: &NodeView, came: Came<P>) -> Todo<P> {
        let not_applied = Todo::End(Err(Fate::NotApplied));
        match (came, &self.request) {
            (Came::Begin, None) => Todo::Barrier,
            (Came::Begin, Some(command)) => match view.leader {
                Some(leader) if leader == view.me => Todo::Propose(command.clone()),
                Some(to) if self.hops == 0 => Todo::Forward { to, hops: 1 },
                _ => not_applied,
            },
            (Came::Proposed(Outcome::Applied { reply, .. }), _) => {
                Todo::End(Ok(P::digest_reply(&reply)))
            }
            (Came::Forwarded(answer), _) => Todo::End(answer),
            (Came::Barrier(Ok(_)), _) => Todo::Read,
            (
                Came::Proposed(Outcome::Unknown(_)) | Came::Broken | Came::DeadlinePassed,
                Some(_),
            ) => Todo::End(Err(Fate::Unknown)),
            _ => not_applied,
        }
    }

    fn read(&self, state: &P) -> Result<u64, Fate> {
        Ok(P::digest(state))
    }
}
