//! The path of one request through a node, without IO: question in, steps out.
//!
//! A [`Call`] says what to do next ([`Step`]); whoever drives it does that and comes back with what
//! came of it ([`Input`]). The daemon drives it with sockets and timers, the simulator with its own
//! world. All that makes answers honest is decided here:
//!
//! - A write is sent out again only when what was sent before is certainly not applied. When that
//!   cannot be told the answer is `unknown`, and the call ends.
//! - `not_applied` is said only when nothing left this node, or when the leader said so.
//! - A read changes nothing: it may be tried again at will until its deadline and never carries an
//!   outcome. A linearizable one reads the local store after a barrier, on any node; reads are not
//!   forwarded to the leader.
//! - In an array of clusters a request for a key of another cluster is handed on to it, or its client
//!   is told, if it keeps a map itself. The map here is only a hint: the store has the last word.
//! - Waiting for a leader is bounded by [`LEADER_WAIT_MAX`] and the deadline, forwarding by
//!   [`HOPS_MAX`].
//!
//! ```text
//!            .------------ refused, not applied: wait for a leader, begin again <-----------.
//!            v                                                                              |
//! Begin -> here or there? --another cluster---> ForwardTo --its answer-> Answer             |
//!            |              --write, we lead----> Propose --applied-----> Answer              |
//!            |              --write, another--> Forward --its answer--> Answer              |
//!            |              --linearizable----> Barrier --passed------> Read                |
//!            |              --stale----------------------------------> Read                |
//!            '-- nobody leads ------------------------------------------> WaitForLeader -----'
//! ```

use std::time::Duration;

use bytes::Bytes;
use carp::{MemberId, Ownership};
use raft_core::consensus::event::{Refusal, RoleName, Status};
use raft_core::proposals::{self, ReadRefused, UnknownCause};
use raft_core::types::{Index, NodeId, Time};

use super::command::{Command, Done, Reply};
use super::request::{Answer, Failure, Outcome, ReadLevel, Reason, Request, VALUE_BYTES_MAX};
use super::route::{Whither, whither};
use super::sharding::{Misplaced, ShardCommand};
use super::shared::SharedStore;

/// How often a request may be handed on between nodes. Smaller: changes of leader cost answers.
/// Larger: two nodes that are wrong about each other keep a request busy for longer.
pub const HOPS_MAX: u8 = 3;

/// How long a request waits for a leader before it is turned away. Shorter: clients see elections.
/// Longer: requests pile up while there is no majority.
pub const LEADER_WAIT_MAX: Duration = Duration::from_secs(2);

/// The pause before asking again a leader that has just turned out not to be one (or not to be
/// reachable), unless the news of another comes first.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// One request on its way.
#[derive(Debug)]
pub struct Call {
    request: Request,
    /// The request as a command, if it is at hand already.
    command: Option<Bytes>,
    deadline: Time,
    hops: u8,
    limits: Limits,
    /// The epoch of the client's own map, if it keeps one.
    client_epoch: Option<u64>,
    /// The cluster it was handed on to last.
    sent_to: Option<MemberId>,
    stage: Stage,
    /// When waiting for a leader ends; set when it begins.
    wait_until: Option<Time>,
}

/// What this node allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest value, in bytes; 64 MiB, and never more than [`VALUE_BYTES_MAX`].
    pub value_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { value_bytes_max: 64 << 20 }
    }
}

/// What a call has to know about its node at each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// This node.
    pub me: NodeId,
    /// Who leads, as far as this node knows; itself when it leads.
    pub leader: Option<NodeId>,
    /// When a message of the leader last came in (of a quorum, on the leader itself).
    pub contact: Option<Time>,
    /// What the node can do.
    pub phase: Phase,
    /// What the cluster serves, as far as this node has applied it; `None`: everything.
    pub owns: Option<&'a Ownership>,
}

impl View<'_> {
    /// What the core says of itself, and what its node can do, in a cluster that serves everything.
    pub fn of(status: &Status, phase: Phase) -> View<'static> {
        let leads = status.role == RoleName::Leader;
        let leader = if leads { Some(status.id) } else { status.leader };
        View { me: status.id, leader, contact: status.contact, phase, owns: None }
    }
}

/// What a node can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing yet: it belongs to no cluster.
    Forming,
    /// Anything but stale reads: the state it had before it started is still being read back.
    Restoring,
    /// Everything.
    Serving,
    /// Nothing new: it is going away.
    Stopping,
}

/// What to do next for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Propose this command here, with the call's deadline; come back with [`Input::Proposed`].
    Propose(Bytes),
    /// Make sure that this node's store is fresh (`read_barrier`); come back with
    /// [`Input::Barrier`].
    Barrier,
    /// Read the store: [`Call::read`] has the answer, and the call is over; or come back with
    /// [`Input::Misplaced`].
    Read,
    /// Send [`Call::request`] to the leader with the call's deadline and this count of hops; come
    /// back with [`Input::Forwarded`].
    Forward {
        /// Who leads.
        to: NodeId,
        /// What the receiver shall be told: how often it was handed on, this time included.
        hops: u8,
    },
    /// Send [`Call::request`] to a node of another cluster with the call's deadline and this count of
    /// hops: to any of these URLs, to the next only if nothing was sent to the one before. Come back
    /// with [`Input::Forwarded`].
    ForwardTo {
        /// Whose key it is.
        cluster: MemberId,
        /// Where it answers; maybe nowhere.
        urls: Vec<String>,
        /// What the receiver shall be told: how often it was handed on, this time included.
        hops: u8,
    },
    /// Wait until the leader is another one than the view of this step said, or until this time;
    /// come back with [`Input::Waited`] either way.
    WaitForLeader {
        /// The end of the wait.
        until: Time,
    },
    /// This is the answer. The call is over.
    Answer(Result<Answer, Failure>),
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The call begins.
    Begin,
    /// Of [`Step::Propose`]: what became of the command.
    Proposed(proposals::Outcome<Reply>),
    /// Of [`Step::Barrier`]: what the store holds at least, or why there is none.
    Barrier(Result<Index, ReadRefused>),
    /// Of [`Step::Read`]: the key is not this cluster's.
    Misplaced,
    /// Of [`Step::Forward`] and [`Step::ForwardTo`].
    Forwarded(Forwarded),
    /// Of [`Step::WaitForLeader`].
    Waited,
    /// The call's deadline passed while a step was under way. Whatever still comes of that step is
    /// of no interest any more.
    DeadlinePassed,
}

/// What became of a request sent to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// It was answered.
    Done(Result<Answer, Failure>),
    /// Certainly no byte of it left this node.
    NothingSent,
    /// The connection broke after something had left.
    Broken,
}

/// Which step is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Proposing,
    AtBarrier,
    Reading,
    Forwarding,
    Waiting,
    Over,
}

impl Call {
    /// A call for this request. `hops` counts how often other nodes have handed it on; 0 for one
    /// that comes from a client.
    pub fn new(request: Request, deadline: Time, hops: u8, limits: Limits) -> Call {
        let (command, stage) = (None, Stage::New);
        Call {
            request,
            command,
            deadline,
            hops,
            limits,
            client_epoch: None,
            sent_to: None,
            stage,
            wait_until: None,
        }
    }

    /// The same for a client that keeps a map of this epoch: it is told whose key it asked for.
    pub fn with_client_epoch(self, client_epoch: Option<u64>) -> Call {
        Call { client_epoch, ..self }
    }

    /// The same with the command at hand that carries out the request, as
    /// [`PutDraft::finish`](super::command::PutDraft::finish) gives it: spares a copy of the value.
    pub fn with_command(self, command: Bytes) -> Call {
        Call { command: Some(command), ..self }
    }

    /// What is asked.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// When an answer is of no use any more.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// The next step, given what came of the last one. `view` is the node's, now. The input has to
    /// be one that the last step asks for; a call that is over takes none.
    pub fn step(&mut self, now: Time, view: &View<'_>, input: Input) -> Step {
        match (self.stage, input) {
            (Stage::New, Input::Begin) => match self.objection() {
                Some(reason) => self.fail(reason, Outcome::NotApplied),
                None => self.attempt(now, view),
            },
            (Stage::Proposing, Input::Proposed(proposed)) => self.proposed(now, view, proposed),
            (Stage::AtBarrier, Input::Barrier(result)) => self.at_barrier(now, view, result),
            (Stage::Reading, Input::Misplaced) => self.attempt(now, view),
            (Stage::Forwarding, Input::Forwarded(result)) => self.forwarded(now, view, result),
            (Stage::Waiting, Input::Waited | Input::DeadlinePassed) => self.waited(now, view),
            // What is under way may still be applied.
            (Stage::Proposing | Stage::Forwarding, Input::DeadlinePassed) => {
                self.fail(Reason::Deadline, Outcome::Unknown)
            }
            (Stage::New | Stage::AtBarrier | Stage::Reading, Input::DeadlinePassed) => {
                self.fail(Reason::Deadline, Outcome::NotApplied)
            }
            (stage, input) => panic!("{input:?} is no answer to what is under way: {stage:?}"),
        }
    }

    /// The answer to a read, from the store of this node, after [`Step::Read`].
    ///
    /// # Errors
    /// The key is not this cluster's, in the very view that was looked into.
    pub fn read(&self, store: &SharedStore) -> Result<Answer, Misplaced> {
        match &self.request {
            Request::Get { key, .. } => {
                let (record, revision) = store.get(key)?;
                Ok(Answer::Got { record, revision })
            }
            Request::List { query, .. } => Ok(Answer::Listed(store.list(query))),
            Request::Put { .. } | Request::Delete { .. } | Request::SetMap { .. } => {
                unreachable!("a write is never answered from the store")
            }
        }
    }

    /// What no node with these limits would do, whoever leads.
    fn objection(&self) -> Option<Reason> {
        if let Some(why) = self.request.fault() {
            return Some(Reason::Invalid { why: why.to_owned() });
        }
        let bytes_max = self.limits.value_bytes_max.min(VALUE_BYTES_MAX);
        match &self.request {
            Request::Put { value, .. } if bytes_max < value.len() as u64 => {
                Some(Reason::TooLarge { bytes_max })
            }
            _ => None,
        }
    }

    /// Begins, or begins again: nothing is under way and nothing of this call was applied.
    fn attempt(&mut self, now: Time, view: &View<'_>) -> Step {
        if self.deadline <= now {
            return self.fail(Reason::Deadline, Outcome::NotApplied);
        }
        match view.phase {
            Phase::Forming => return self.fail(Reason::Forming, Outcome::NotApplied),
            Phase::Stopping => return self.fail(Reason::ShuttingDown, Outcome::NotApplied),
            Phase::Restoring | Phase::Serving => {}
        }
        // Who hands a request on has no map of its own to correct.
        let client_epoch = self.client_epoch.filter(|_| self.hops == 0);
        match view.owns.map(|own| whither(own, &self.request, client_epoch)) {
            None | Some(Whither::Here) => {}
            Some(Whither::Tell(moved)) => {
                return self.fail(Reason::Moved(moved), Outcome::NotApplied);
            }
            Some(Whither::Send { to, urls }) => return self.forward_to(to, urls),
            Some(Whither::NotYet) => return self.pause(now, Reason::Coming),
        }
        if let Request::Get { level: ReadLevel::Stale { max_stale }, .. }
        | Request::List { level: ReadLevel::Stale { max_stale }, .. } = self.request
        {
            return self.read_stale(now, view, max_stale);
        }
        let Some(leader) = view.leader else {
            return self.wait(now, view);
        };
        if !self.request.is_write() {
            self.stage = Stage::AtBarrier;
            return Step::Barrier;
        }
        if leader != view.me {
            return self.forward(leader);
        }
        self.stage = Stage::Proposing;
        Step::Propose(self.command())
    }

    fn command(&self) -> Bytes {
        let encode = || match &self.request {
            Request::SetMap { cluster, text } => {
                let (cluster, text) = (cluster.clone(), text.clone());
                ShardCommand::SetMap { cluster, text }.encode()
            }
            request => Command::of(request).expect("only writes are proposed").encode(),
        };
        self.command.clone().unwrap_or_else(encode)
    }

    fn read_stale(&mut self, now: Time, view: &View<'_>, max_stale: Option<Duration>) -> Step {
        if view.phase == Phase::Restoring {
            return self.fail(Reason::Restoring, Outcome::NotApplied);
        }
        let last_contact = view.contact.map(|contact| now.since(contact));
        let is_fresh = max_stale.is_none_or(|max| last_contact.is_some_and(|it| it <= max));
        if !is_fresh {
            return self.fail(Reason::TooStale { last_contact }, Outcome::NotApplied);
        }
        self.stage = Stage::Reading;
        Step::Read
    }

    fn forward_to(&mut self, cluster: MemberId, urls: Vec<String>) -> Step {
        if HOPS_MAX <= self.hops {
            return self.fail(Reason::TooManyHops, Outcome::NotApplied);
        }
        self.sent_to = Some(cluster.clone());
        self.stage = Stage::Forwarding;
        Step::ForwardTo { cluster, urls, hops: self.hops + 1 }
    }

    fn forward(&mut self, to: NodeId) -> Step {
        if HOPS_MAX <= self.hops {
            return self.fail(Reason::TooManyHops, Outcome::NotApplied);
        }
        self.sent_to = None;
        self.stage = Stage::Forwarding;
        Step::Forward { to, hops: self.hops + 1 }
    }

    fn proposed(&mut self, now: Time, view: &View<'_>, outcome: proposals::Outcome<Reply>) -> Step {
        match outcome {
            // The map here is now as new as the one that said so.
            proposals::Outcome::Applied {
                reply: Reply::Misplaced(Misplaced::Elsewhere), ..
            } => self.attempt(now, view),
            proposals::Outcome::Applied { reply, .. } => self.applied(reply),
            proposals::Outcome::Refused(refusal) => self.refused(now, view, refusal),
            proposals::Outcome::NotApplied if self.deadline <= now => {
                self.fail(Reason::LeaderLost, Outcome::NotApplied)
            }
            proposals::Outcome::NotApplied => {
                // There was a leader since the last wait: a new one may take its time again.
                self.wait_until = None;
                self.attempt(now, view)
            }
            proposals::Outcome::Unknown(cause) => {
                let reason = match cause {
                    UnknownCause::Deadline => Reason::Deadline,
                    UnknownCause::SnapshotJump => Reason::LeaderLost,
                    UnknownCause::Stopped | UnknownCause::Failed => Reason::ShuttingDown,
                };
                self.fail(reason, Outcome::Unknown)
            }
        }
    }

    /// The command never got into the log.
    fn refused(&mut self, now: Time, view: &View<'_>, refusal: Refusal) -> Step {
        let reason = match refusal {
            Refusal::NotLeader { leader: Some(leader) } if leader != view.me => {
                return self.forward(leader);
            }
            Refusal::NotLeader { .. } | Refusal::Transferring { .. } => {
                return self.wait(now, view);
            }
            Refusal::TooLarge { bytes_max, .. } => Reason::TooLarge { bytes_max },
            Refusal::Busy => Reason::Busy,
            Refusal::NoSpace => Reason::NoSpace,
            Refusal::Deadline => Reason::Deadline,
            Refusal::Stopped => Reason::ShuttingDown,
        };
        self.fail(reason, Outcome::NotApplied)
    }

    fn at_barrier(
        &mut self,
        now: Time,
        view: &View<'_>,
        result: Result<Index, ReadRefused>,
    ) -> Step {
        let reason = match result {
            Ok(_) => {
                self.stage = Stage::Reading;
                return Step::Read;
            }
            Err(ReadRefused::NotLeader { .. } | ReadRefused::Transferring { .. }) => {
                return self.wait(now, view);
            }
            Err(ReadRefused::Busy) => Reason::Busy,
            Err(ReadRefused::Deadline) => Reason::Deadline,
            Err(ReadRefused::Stopped) => Reason::ShuttingDown,
        };
        self.fail(reason, Outcome::NotApplied)
    }

    fn forwarded(&mut self, now: Time, view: &View<'_>, result: Forwarded) -> Step {
        match result {
            Forwarded::Broken if self.request.is_write() => {
                self.fail(Reason::LeaderLost, Outcome::Unknown)
            }
            // A read may be asked for again.
            Forwarded::NothingSent | Forwarded::Broken => match self.sent_to.clone() {
                Some(cluster) => self.pause(now, Reason::Unreachable { cluster }),
                None => self.wait(now, view),
            },
            Forwarded::Done(Ok(answer)) if answers(&self.request, &answer) => self.over(Ok(answer)),
            // The other node did something that we cannot read.
            Forwarded::Done(Ok(_)) => self.fail(
                Reason::Invalid { why: "the other node answered another question".into() },
                Outcome::Unknown,
            ),
            Forwarded::Done(Err(failure)) => {
                // A write whose failure says nothing of its fate: nobody can tell.
                let unsaid = match self.request.is_write() {
                    true => Outcome::Unknown,
                    false => Outcome::NotApplied,
                };
                let outcome = failure.outcome.unwrap_or(unsaid);
                // Only the first node tries again, or the tries of each would multiply.
                let again = outcome == Outcome::NotApplied && self.hops == 0;
                if again && is_elsewhere(&failure.reason) {
                    return match self.sent_to {
                        Some(_) => self.pause(now, failure.reason),
                        None => self.wait(now, view),
                    };
                }
                self.fail(failure.reason, outcome)
            }
        }
    }

    /// Nothing is under way, and whoever was believed to lead does not (now).
    fn wait(&mut self, now: Time, view: &View<'_>) -> Step {
        let wait_until = self.deadline.min(now + LEADER_WAIT_MAX);
        let wait_until = *self.wait_until.get_or_insert(wait_until);
        if wait_until <= now {
            return self.fail(Reason::NoLeader, Outcome::NotApplied);
        }
        self.stage = Stage::Waiting;
        let until = match view.leader {
            None => wait_until,
            // The view lags behind what we have just learned: have another look soon.
            Some(_) => wait_until.min(now + RETRY_PAUSE),
        };
        Step::WaitForLeader { until }
    }

    /// Nothing is under way, and what another cluster has to do is not done yet: has another look
    /// soon, as long as one waits for a leader, and then fails for this reason.
    fn pause(&mut self, now: Time, reason: Reason) -> Step {
        let wait_until = self.deadline.min(now + LEADER_WAIT_MAX);
        let wait_until = *self.wait_until.get_or_insert(wait_until);
        if wait_until <= now {
            return self.fail(reason, Outcome::NotApplied);
        }
        self.stage = Stage::Waiting;
        Step::WaitForLeader { until: wait_until.min(now + RETRY_PAUSE) }
    }

    fn waited(&mut self, now: Time, view: &View<'_>) -> Step {
        let is_spent = self.wait_until.is_some_and(|until| until <= now);
        if is_spent && (view.leader.is_none() || self.deadline <= now) {
            return self.fail(Reason::NoLeader, Outcome::NotApplied);
        }
        self.attempt(now, view)
    }

    fn applied(&mut self, reply: Reply) -> Step {
        match (&self.request, reply) {
            (_, Reply::ConditionFailed { current, revision, .. }) => {
                self.over(Ok(Answer::ConditionFailed { current, revision }))
            }
            (_, Reply::Malformed(why)) => {
                self.fail(Reason::Invalid { why: why.0 }, Outcome::NotApplied)
            }
            (_, Reply::Misplaced(Misplaced::Apart(owners))) => {
                self.fail(Reason::KeysApart { owners }, Outcome::NotApplied)
            }
            (_, Reply::MapSet { epoch, changed }) => {
                self.over(Ok(Answer::MapSet { epoch: epoch.0, changed }))
            }
            (_, Reply::MapRefused(why)) => {
                let why = why.to_string();
                self.fail(Reason::MapRefused { why }, Outcome::NotApplied)
            }
            (Request::Put { .. }, Reply::Succeeded { revision, done }) => match done[..] {
                [Done::Put { created, version }] => {
                    self.over(Ok(Answer::Put { revision, created, version }))
                }
                _ => panic!("a put came to {done:?}"),
            },
            (Request::Delete { .. }, Reply::Succeeded { revision, done }) => match done[..] {
                [Done::Deleted { deleted }] => self.over(Ok(Answer::Deleted { deleted, revision })),
                _ => panic!("a delete came to {done:?}"),
            },
            (request, reply) => panic!("{request:?} came to {reply:?}"),
        }
    }

    /// Ends without an answer. The outcome is that of a write; a read has none.
    fn fail(&mut self, reason: Reason, outcome: Outcome) -> Step {
        let outcome = self.request.is_write().then_some(outcome);
        self.over(Err(Failure { reason, outcome }))
    }

    fn over(&mut self, result: Result<Answer, Failure>) -> Step {
        self.stage = Stage::Over;
        Step::Answer(result)
    }
}

/// Whether a refusal is about that node and another one may do better.
fn is_elsewhere(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::TooManyHops | Reason::ShuttingDown | Reason::Forming | Reason::Restoring
    )
}

/// Whether this can be the answer to this request.
fn answers(request: &Request, answer: &Answer) -> bool {
    match (request, answer) {
        (Request::Get { .. }, Answer::Got { .. })
        | (Request::Put { .. }, Answer::Put { .. })
        | (Request::Delete { .. }, Answer::Deleted { .. })
        | (Request::Put { .. } | Request::Delete { .. }, Answer::ConditionFailed { .. })
        | (Request::List { .. }, Answer::Listed(_))
        | (Request::SetMap { .. }, Answer::MapSet { .. }) => true,
        (
            _,
            Answer::Got { .. }
            | Answer::Put { .. }
            | Answer::Deleted { .. }
            | Answer::ConditionFailed { .. }
            | Answer::Listed(_)
            | Answer::MapSet { .. },
        ) => false,
    }
}
