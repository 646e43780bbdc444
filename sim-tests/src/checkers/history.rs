//! What clients asked and were told, and what the log carried out: the facts every checker judges.
//!
//! A [`History`] is written while a run goes on and never changes what it holds. "Before" is the
//! order in which things were written down, not their time: two events of one virtual instant still
//! have an order, and the checks lose nothing to ties. It holds requests and answers just as the
//! daemon's service speaks them; what they should have been is the checkers' business.

use std::fmt;

use bytes::Bytes;
use kv_daemon::kv::request::{Answer, Condition, Failure, Outcome, ReadLevel, Request};
use raft_core::types::{Index, Time};

/// All operations of a run, and the commands the cluster carried out.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    log: Vec<Logged>,
    /// How many things were written down.
    order: u64,
    acknowledged: Floor,
}

/// Names an operation of one history: 0, 1, 2 ... in the order they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u32);

/// One request of a client, and what came of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its name.
    pub id: OperationId,
    /// Who asked.
    pub client: u32,
    /// What was asked.
    pub request: Request,
    /// When the client sent it.
    pub begin: Moment,
    /// When the client knew its ending; `None` while it is open.
    pub end: Option<Moment>,
    /// What came of it.
    pub ending: Ending,
    /// What was acknowledged to anybody before it began: it must not be served from an older state.
    pub floor: Floor,
}

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its place in the history: of two moments the smaller one was earlier.
    pub order: u64,
    /// The virtual time, for people to read.
    pub time: Time,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing yet: a write may take effect now or later, or never.
    Open,
    /// It was answered.
    Answered {
        /// The answer.
        answer: Answer,
        /// For a write, also one whose condition failed: the index of its entry. For a read: the
        /// applied index of the store it was read from. Clients never learn it; the simulation does.
        at: Index,
    },
    /// It was not answered. A write says whether it may still take effect; a read says nothing.
    Failed {
        /// What the client was told, [`Outcome::Unknown`] when it was told nothing.
        outcome: Option<Outcome>,
    },
}

/// The newest state that somebody was told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// The highest index of an answered write or seen by a linearizable read.
    pub index: Index,
    /// The highest revision in any of their answers.
    pub revision: u64,
}

/// A command the cluster carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its index.
    pub index: Index,
    /// Its bytes, as the state machine was given them.
    pub command: Bytes,
    /// When the first node applied it.
    pub applied: Moment,
}

impl History {
    /// A client sends a request.
    pub fn begin(&mut self, now: Time, client: u32, request: Request) -> OperationId {
        let begin = self.moment(now);
        let next = u32::try_from(self.operations.len());
        let id = OperationId(next.expect("a run has far fewer than 2^32 operations"));
        let (ending, floor) = (Ending::Open, self.acknowledged);
        self.operations.push(Operation { id, client, request, begin, end: None, ending, floor });
        id
    }

    /// The client learns what came of it. An operation ends once.
    pub fn end(&mut self, now: Time, id: OperationId, ending: Ending) {
        let end = self.moment(now);
        let operation = &mut self.operations[id.0 as usize];
        assert!(operation.end.is_none(), "{id} ends once");
        assert!(ending != Ending::Open, "{id} ends with something");
        operation.end = Some(end);
        operation.ending = ending;
        if let Some((answer, at)) = operation.answered()
            && operation.is_linearizable()
        {
            self.acknowledged.index = self.acknowledged.index.max(at);
            self.acknowledged.revision = self.acknowledged.revision.max(revision_of(answer));
        }
    }

    /// The same history with another ending of one operation: to ask a checker what it thinks of a
    /// lie.
    #[must_use]
    pub fn with_ending(&self, id: OperationId, ending: Ending) -> History {
        let mut other = self.clone();
        other.operations[id.0 as usize].ending = ending;
        other
    }

    /// A node's state machine applied the command at this index. Only the first node to reach an
    /// index counts: that the others apply the same is an invariant of its own.
    pub fn applied(&mut self, now: Time, index: Index, command: &Bytes) {
        if self.log.last().is_some_and(|last| index <= last.index) {
            return;
        }
        let applied = self.moment(now);
        self.log.push(Logged { index, command: command.clone(), applied });
    }

    /// All operations, in the order they began.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// One of them.
    pub fn operation(&self, id: OperationId) -> &Operation {
        &self.operations[id.0 as usize]
    }

    /// The operations that have not ended.
    pub fn open(&self) -> impl Iterator<Item = OperationId> {
        self.operations.iter().filter(|it| it.end.is_none()).map(|it| it.id)
    }

    /// The commands carried out, in log order. Entries that are no commands leave gaps.
    pub fn log(&self) -> &[Logged] {
        &self.log
    }

    /// The newest state anybody was told of so far.
    pub fn acknowledged(&self) -> Floor {
        self.acknowledged
    }

    /// How many writes were answered as carried out.
    pub fn writes_answered(&self) -> usize {
        let is_done = |it: &&Operation| it.request.is_write() && it.answered().is_some();
        self.operations.iter().filter(is_done).count()
    }

    fn moment(&mut self, time: Time) -> Moment {
        self.order += 1;
        Moment { order: self.order, time }
    }
}

impl Operation {
    /// Its answer and the index it took effect at, if it has them.
    pub fn answered(&self) -> Option<(&Answer, Index)> {
        match &self.ending {
            Ending::Answered { answer, at } => Some((answer, *at)),
            Ending::Open | Ending::Failed { .. } => None,
        }
    }

    /// Whether it is a write that may have taken effect, or may yet, without an answer.
    pub fn may_take_effect(&self) -> bool {
        let is_unknown = match self.ending {
            Ending::Open => true,
            Ending::Failed { outcome } => outcome != Some(Outcome::NotApplied),
            Ending::Answered { .. } => false,
        };
        self.request.is_write() && is_unknown
    }

    /// Whether the client was promised linearizability: every write, and every read that asked for
    /// it.
    pub fn is_linearizable(&self) -> bool {
        match &self.request {
            Request::Get { level, .. } | Request::List { level, .. } => {
                *level == ReadLevel::Linearizable
            }
            Request::Put { .. } | Request::Delete { .. } | Request::SetMap { .. } => true,
        }
    }
}

impl Ending {
    /// What the service said, and where it took effect. The index of a failure is not looked at.
    pub fn of(result: Result<Answer, Failure>, at: Index) -> Ending {
        match result {
            Ok(answer) => Ending::Answered { answer, at },
            Err(failure) => Ending::Failed { outcome: failure.outcome },
        }
    }

    /// The client gave up, or its connection broke, after the request had left.
    pub const LOST: Ending = Ending::Failed { outcome: Some(Outcome::Unknown) };
}

/// The store's revision in an answer.
pub fn revision_of(answer: &Answer) -> u64 {
    match answer {
        Answer::Got { revision, .. }
        | Answer::Put { revision, .. }
        | Answer::Deleted { revision, .. }
        | Answer::ConditionFailed { revision, .. } => *revision,
        Answer::Listed(listed) => listed.revision,
        // It changes no key.
        Answer::MapSet { .. } => 0,
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op{}", self.0)
    }
}

/// One line: who, what, when, and what came of it.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { id, client, request, begin, end, ending, .. } = self;
        write!(f, "{id} client {client} [{}..", begin.time)?;
        match end {
            Some(end) => write!(f, "{}]", end.time)?,
            None => f.write_str("]")?,
        }
        match request {
            Request::Get { key, .. } => write!(f, " get {key:?}")?,
            Request::Put { key, value, condition } => {
                write!(f, " put {key:?} = {value:?}")?;
                write_condition(f, condition)?;
            }
            Request::Delete { key, condition } => {
                write!(f, " delete {key:?}")?;
                write_condition(f, condition)?;
            }
            Request::List { query, .. } => write!(f, " list {query:?}")?,
            Request::SetMap { cluster, .. } => write!(f, " set map of {cluster}")?,
        }
        if !self.is_linearizable() {
            f.write_str(" (stale will do)")?;
        }
        match ending {
            Ending::Open => f.write_str(" -> open"),
            Ending::Answered { answer, at } => write!(f, " -> {answer:?} at {at}"),
            Ending::Failed { outcome: Some(Outcome::NotApplied) } => f.write_str(" -> not applied"),
            Ending::Failed { .. } => f.write_str(" -> unknown"),
        }
    }
}

fn write_condition(f: &mut fmt::Formatter<'_>, condition: &Condition) -> fmt::Result {
    if let Some(tags) = &condition.if_match {
        write!(f, " if {tags:?}")?;
    }
    if let Some(tags) = &condition.if_none_match {
        write!(f, " unless {tags:?}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(level: ReadLevel) -> Request {
        Request::Get { key: Bytes::from_static(b"k"), level }
    }

    fn got(revision: u64, at: u64) -> Ending {
        Ending::Answered { answer: Answer::Got { record: None, revision }, at: Index(at) }
    }

    #[test]
    fn an_operation_remembers_what_was_told_before_it_began() {
        let mut history = History::default();
        let early = history.begin(Time(1), 0, get(ReadLevel::Linearizable));
        let stale = history.begin(Time(1), 1, get(ReadLevel::Stale { max_stale: None }));
        history.end(Time(1), stale, got(7, 70));
        let first = history.begin(Time(1), 2, get(ReadLevel::Linearizable));
        history.end(Time(1), first, got(3, 30));
        history.end(Time(1), early, got(2, 40));
        let last = history.begin(Time(1), 3, get(ReadLevel::Linearizable));

        let floor = |id: OperationId| history.operation(id).floor;
        assert_eq!(floor(early), Floor::default());
        assert_eq!(floor(first), Floor::default(), "a read that may be stale binds nobody");
        assert_eq!(floor(last), Floor { index: Index(40), revision: 3 });
        assert_eq!(history.open().collect::<Vec<_>>(), [last]);
    }

    #[test]
    fn the_log_is_what_the_first_node_to_come_so_far_applied() {
        let mut history = History::default();
        for (time, index) in [(1, 2), (2, 1), (3, 2), (4, 5)] {
            history.applied(Time(time), Index(index), &Bytes::from(format!("{time}")));
        }
        let seen: Vec<_> = history.log().iter().map(|it| (it.index.0, it.applied.time.0)).collect();
        assert_eq!(seen, [(2, 1), (5, 4)]);
    }

    #[test]
    fn what_has_no_answer_may_take_effect_unless_it_was_refused() {
        let mut history = History::default();
        let delete =
            || Request::Delete { key: Bytes::from_static(b"k"), condition: Condition::default() };
        let ids = [(); 5].map(|()| history.begin(Time(1), 0, delete()));
        let read = history.begin(Time(1), 0, get(ReadLevel::Linearizable));
        history.end(Time(2), ids[1], Ending::LOST);
        history.end(Time(2), ids[2], Ending::Failed { outcome: None });
        history.end(Time(2), ids[3], Ending::Failed { outcome: Some(Outcome::NotApplied) });
        let answer = Answer::Deleted { deleted: 0, revision: 0 };
        history.end(Time(2), ids[4], Ending::Answered { answer, at: Index(1) });
        let may = |id: OperationId| history.operation(id).may_take_effect();
        assert_eq!(ids.map(may), [true, true, true, false, false]);
        assert!(!may(read));
        assert_eq!(history.writes_answered(), 1);
    }

    #[test]
    #[should_panic(expected = "op0 ends once")]
    fn an_operation_ends_once() {
        let mut history = History::default();
        let id = history.begin(Time(1), 0, get(ReadLevel::Linearizable));
        history.end(Time(1), id, Ending::LOST);
        history.end(Time(1), id, Ending::LOST);
    }
}
