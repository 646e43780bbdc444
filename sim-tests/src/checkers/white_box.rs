//! Checker A: does every answer follow from the log?
//!
//! It knows what no client knows: the commands the cluster carried out, and the index at which each
//! operation took effect. So it searches nothing. In one pass over the log it replays every command
//! on a reference store of its own and asks of each operation:
//!
//! 1. Order: its index and revision are not older than what anybody was told before it began (for
//!    reads this is I12), and a write's entry comes after that.
//! 2. Answer: a write is answered what its command does at its index; a read what the store holds
//!    after its index. Of a read that may be stale only this is asked.
//! 3. Honesty: every command in the log is that of one operation that was answered with its index,
//!    or of one whose outcome is unknown; none is carried out twice, none that was refused, none
//!    before it was asked for.
//!
//! What the log says is taken as given: that all nodes hold the same one is an invariant of the run.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kv_daemon::kv::command::{self, Command};
use kv_daemon::kv::request::{
    Answer, Condition, ListQuery, ListShape, Listed, Record, Request, Tags,
};
use kv_daemon::kv::store::LIST_BYTES_MAX;
use raft_core::types::Index;

use super::Objection;
use super::history::{History, Logged, Operation, OperationId, revision_of};

const NAME: &str = "A (white box)";

/// Replays the log and compares every answer; the number of entries replayed.
pub fn check(history: &History) -> Result<u64, Objection> {
    history.operations().iter().try_for_each(check_order)?;
    let mut claims = Claims::of(history)?;
    let mut reads = reads_by_index(history).into_iter().peekable();
    let mut reference = Reference::default();
    for entry in history.log() {
        while let Some((_, read)) = reads.next_if(|(index, _)| *index < entry.index) {
            reference.check_read(read)?;
        }
        let owner = claims.owner_of(entry)?;
        let answer = reference.apply(&owner.request);
        if let Some((told, _)) = owner.answered()
            && *told != answer
        {
            let what = format!("entry {} does {answer:?}, but {told:?} was told", entry.index);
            return Err(objection(what, owner));
        }
    }
    reads.try_for_each(|(_, read)| reference.check_read(read))?;
    claims.all_found()?;
    Ok(history.log().len() as u64)
}

/// Whether an operation took effect after everything that was told before it began. For a
/// linearizable read this is I12; it may be asked as soon as the operation has ended.
pub fn check_order(operation: &Operation) -> Result<(), Objection> {
    let Some((answer, at)) = operation.answered() else {
        return Ok(());
    };
    if !operation.is_linearizable() {
        return Ok(());
    }
    let floor = operation.floor;
    let has_entry = operation.request.is_write();
    let is_in_order = floor.index < at || (floor.index == at && !has_entry);
    if !is_in_order {
        let what = format!("took effect at {at}, but {} was seen before it began", floor.index);
        return Err(objection(what, operation));
    }
    let revision = revision_of(answer);
    let is_in_order =
        floor.revision < revision || (floor.revision == revision && !changed_something(answer));
    if !is_in_order {
        let seen = floor.revision;
        let what = format!("revision {revision}, but {seen} was seen before it began");
        return Err(objection(what, operation));
    }
    Ok(())
}

fn changed_something(answer: &Answer) -> bool {
    match answer {
        Answer::Put { .. } => true,
        Answer::Deleted { deleted, .. } => 0 < *deleted,
        Answer::Got { .. }
        | Answer::ConditionFailed { .. }
        | Answer::Listed(_)
        | Answer::MapSet { .. } => false,
    }
}

/// The answered reads, by the index of the state they saw.
fn reads_by_index(history: &History) -> Vec<(Index, &Operation)> {
    let reads = history.operations().iter().filter(|it| !it.request.is_write());
    let mut reads: Vec<(Index, &Operation)> =
        reads.filter_map(|it| Some((it.answered()?.1, it))).collect();
    reads.sort_by_key(|(index, read)| (*index, read.id));
    reads
}

/// Which operation each entry of the log is the command of.
struct Claims<'a> {
    history: &'a History,
    /// The answered writes, by index.
    answered: BTreeMap<Index, &'a Operation>,
    /// The writes of unknown outcome with the same command, in the order they began. Which of them an
    /// entry is of cannot be told and does not matter: the one begun first is taken.
    unknown: BTreeMap<Wish, VecDeque<&'a Operation>>,
}

/// What a write wants, by content: key, value (a delete has none), and condition.
type Wish = (Bytes, Option<Bytes>, Vec<Test>);

/// A compare, in a form of its own: neither the request's nor the command's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Exists,
    Absent,
    Among(Vec<u64>),
    NotAmong(Vec<u64>),
}

impl<'a> Claims<'a> {
    fn of(history: &'a History) -> Result<Claims<'a>, Objection> {
        let (mut answered, mut unknown) = (BTreeMap::new(), BTreeMap::new());
        for operation in history.operations().iter().filter(|it| it.request.is_write()) {
            if let Some((_, at)) = operation.answered()
                && let Some(other) = answered.insert(at, operation)
            {
                let what = format!("two operations were answered with entry {at}");
                let operations = vec![other.id, operation.id];
                return Err(Objection { checker: NAME, what, operations });
            }
            if operation.may_take_effect()
                && let Some(wish) = wish_of(&operation.request)
            {
                unknown.entry(wish).or_insert_with(VecDeque::new).push_back(operation);
            }
        }
        Ok(Claims { history, answered, unknown })
    }

    /// The operation whose command this entry is. Each operation owns one entry at most.
    fn owner_of(&mut self, entry: &Logged) -> Result<&'a Operation, Objection> {
        let Logged { index, command, applied } = entry;
        let no_operation = |what: String, operations: Vec<OperationId>| {
            Err(Objection { checker: NAME, what: format!("entry {index} {what}"), operations })
        };
        let Ok(command) = Command::decode(command) else {
            return no_operation("is no command".to_owned(), vec![]);
        };
        let Some(wish) = wish_in(&command) else {
            return no_operation(format!("is none of a client's: {command:?}"), vec![]);
        };
        let owner = match self.answered.remove(index) {
            Some(owner) if wish_of(&owner.request).as_ref() == Some(&wish) => owner,
            Some(other) => {
                let what = format!("was answered to this operation, but holds {command:?}");
                return no_operation(what, vec![other.id]);
            }
            None => match self.unknown.get_mut(&wish).and_then(VecDeque::pop_front) {
                Some(owner) => owner,
                None => {
                    // Who asked for it helps to see what went wrong: refused, or done twice?
                    let asked = self.history.operations().iter();
                    let asked = asked.filter(|it| wish_of(&it.request).as_ref() == Some(&wish));
                    let what = format!("does what nobody may have done (again): {command:?}");
                    return no_operation(what, asked.map(|it| it.id).collect());
                }
            },
        };
        if applied.order < owner.begin.order {
            return no_operation("was applied before it was asked for".to_owned(), vec![owner.id]);
        }
        Ok(owner)
    }

    /// Whether every answered write was found in the log.
    fn all_found(&self) -> Result<(), Objection> {
        match self.answered.first_key_value() {
            None => Ok(()),
            Some((index, operation)) => {
                let what = format!("answered with entry {index}, which was never carried out");
                Err(objection(what, operation))
            }
        }
    }
}

fn wish_of(request: &Request) -> Option<Wish> {
    match request {
        Request::Put { key, value, condition } => {
            Some((key.clone(), Some(value.clone()), tests(condition)))
        }
        Request::Delete { key, condition } => Some((key.clone(), None, tests(condition))),
        Request::Get { .. } | Request::List { .. } | Request::SetMap { .. } => None,
    }
}

/// What a command of the log wants, if it is one that a single write makes.
fn wish_in(command: &Command) -> Option<Wish> {
    let ([operation], []) = (&command.then[..], &command.otherwise[..]) else {
        return None;
    };
    let (key, value) = match operation {
        command::Operation::Put { key, value } => (key, Some(value.clone())),
        command::Operation::Delete { key } => (key, None),
    };
    let test = |compare: &command::Compare| {
        (compare.key == key).then(|| match &compare.test {
            command::Test::Exists => Test::Exists,
            command::Test::Absent => Test::Absent,
            command::Test::RevisionAmong(revisions) => Test::Among(revisions.clone()),
            command::Test::RevisionNotAmong(revisions) => Test::NotAmong(revisions.clone()),
        })
    };
    let tests: Option<Vec<Test>> = command.compares.iter().map(test).collect();
    Some((key.clone(), value, tests?))
}

fn tests(condition: &Condition) -> Vec<Test> {
    let holds = condition.if_match.as_ref().map(|tags| match tags {
        Tags::Any => Test::Exists,
        Tags::Revisions(revisions) => Test::Among(revisions.clone()),
    });
    let holds_not = condition.if_none_match.as_ref().map(|tags| match tags {
        Tags::Any => Test::Absent,
        Tags::Revisions(revisions) => Test::NotAmong(revisions.clone()),
    });
    holds.into_iter().chain(holds_not).collect()
}

impl Test {
    fn holds(&self, modified: Option<u64>) -> bool {
        match (self, modified) {
            (Test::Exists, _) => modified.is_some(),
            (Test::Absent, _) => modified.is_none(),
            (Test::Among(revisions), Some(modified)) => revisions.contains(&modified),
            (Test::NotAmong(revisions), Some(modified)) => !revisions.contains(&modified),
            (Test::Among(_), None) => false,
            (Test::NotAmong(_), None) => true,
        }
    }
}

/// What the store should be: as plain as can be, and written without looking at it.
#[derive(Default)]
struct Reference {
    records: BTreeMap<Bytes, Record>,
    revision: u64,
}

impl Reference {
    /// Carries out a write; what its client has to be told.
    fn apply(&mut self, request: &Request) -> Answer {
        let (Request::Put { key, condition, .. } | Request::Delete { key, condition }) = request
        else {
            unreachable!("only writes own entries");
        };
        let current = self.records.get(key).map(|record| record.mod_revision);
        if !tests(condition).iter().all(|test| test.holds(current)) {
            return Answer::ConditionFailed { current, revision: self.revision };
        }
        if let Request::Put { value, .. } = request {
            self.revision += 1;
            let revision = self.revision;
            let old = self.records.get(key);
            let record = Record {
                value: value.clone(),
                create_revision: old.map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.map_or(0, |old| old.version) + 1,
            };
            let version = record.version;
            let created = self.records.insert(key.clone(), record).is_none();
            return Answer::Put { revision, created, version };
        }
        let deleted = u64::from(self.records.remove(key).is_some());
        self.revision += deleted;
        Answer::Deleted { deleted, revision: self.revision }
    }

    /// Whether a read that saw this state was answered what it holds.
    fn check_read(&self, read: &Operation) -> Result<(), Objection> {
        let (told, at) = read.answered().expect("an answered read");
        let answer = match &read.request {
            Request::Get { key, .. } => {
                Answer::Got { record: self.records.get(key).cloned(), revision: self.revision }
            }
            Request::List { query, .. } => Answer::Listed(self.list(query)),
            Request::Put { .. } | Request::Delete { .. } | Request::SetMap { .. } => {
                unreachable!("a read")
            }
        };
        if *told == answer {
            return Ok(());
        }
        let what = format!("after entry {at} there is {answer:?}, but {told:?} was told");
        Err(objection(what, read))
    }

    fn list(&self, query: &ListQuery) -> Listed {
        let mut listed = Listed { revision: self.revision, ..Listed::default() };
        let mut bytes = 0;
        for (key, record) in self.records.range(query.start.clone()..) {
            if !key.starts_with(&query.prefix) {
                continue;
            }
            // A count is of all pages.
            if query.shape == ListShape::Count {
                listed.count += 1;
                continue;
            }
            if query.after.as_ref().is_some_and(|after| key <= after) {
                continue;
            }
            let value = match query.shape {
                ListShape::Items => record.value.clone(),
                ListShape::Keys | ListShape::Count => Bytes::new(),
            };
            bytes += value.len();
            let is_full = listed.count == u64::from(query.limit)
                || (0 < listed.count && LIST_BYTES_MAX < bytes);
            if is_full {
                listed.next = listed.items.last().map(|(key, _)| key.clone());
                break;
            }
            listed.items.push((key.clone(), Record { value, ..record.clone() }));
            listed.count += 1;
        }
        listed
    }
}

fn objection(what: String, operation: &Operation) -> Objection {
    Objection { checker: NAME, what, operations: vec![operation.id] }
}
