//! Checker B: can the answers be explained, knowing no more than the clients do?
//!
//! Operations on different keys do not depend on each other, so each connected group of keys is
//! searched by itself (linearizability is compositional: Herlihy & Wing 1990). What a search takes
//! part in: answered linearizable reads of a key, answered writes, and writes whose outcome is
//! unknown. Not in it are reads that failed, refused writes (nobody may see their values), and what
//! only checker A judges: lists, which touch every key, and reads that may be stale.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use kv_daemon::kv::request::{Answer, Condition, Record, Request, Tags};

use super::Objection;
use super::history::{History, Operation, revision_of};
use super::model::{Change, Compare, Done, Keys, Op, Reply, Saw, Test, Value};
use super::wgl::{self, Call, Verdict};

/// Steps a group of keys may take before it counts as too hard to tell. A sound history takes about
/// one for each operation; a million take a second or so.
pub const STEPS_MAX: u64 = 1_000_000;

const NAME: &str = "B (black box)";

/// How hard it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Groups of keys searched.
    pub groups: u64,
    /// Operations that took part.
    pub operations: u64,
    /// Steps of all searches.
    pub steps: u64,
}

/// What is asked of the search: can these calls be put in a row?
#[derive(Clone, Debug)]
pub struct Question {
    /// The model of the group of keys.
    pub keys: Keys,
    /// The group's operations, in the order they began.
    pub calls: Vec<Call<Op>>,
}

/// Looks for an order of the operations of each group of keys. "Too hard to tell" within
/// `steps_max` steps is an objection.
pub fn check(history: &History, steps_max: u64) -> Result<Effort, Objection> {
    let mut effort = Effort::default();
    for group in groups(history) {
        let Question { keys, calls } = group.question()?;
        effort.groups += 1;
        effort.operations += calls.len() as u64;
        let verdict = wgl::search(&keys, &calls, steps_max);
        effort.steps += verdict.steps();
        group.accept(&verdict)?;
    }
    Ok(effort)
}

/// What [`check`] searches, group by group: for those who want to hold another search against it.
pub fn searches(history: &History) -> Result<Vec<Question>, Objection> {
    groups(history).iter().map(Group::question).collect()
}

/// Keys that operations connect, and those operations, in the order they began.
struct Group<'a> {
    /// The number of each key.
    keys: BTreeMap<&'a Bytes, usize>,
    operations: Vec<&'a Operation>,
}

/// The groups of a history, in the order in which their first operations began.
fn groups(history: &History) -> Vec<Group<'_>> {
    let takes_part = |it: &&Operation| match &it.request {
        Request::Get { .. } => it.is_linearizable() && it.answered().is_some(),
        Request::Put { .. } | Request::Delete { .. } => {
            it.answered().is_some() || it.may_take_effect()
        }
        Request::List { .. } | Request::SetMap { .. } => false,
    };
    let operations: Vec<&Operation> = history.operations().iter().filter(takes_part).collect();
    let keys: Vec<Vec<&Bytes>> = operations.iter().map(|it| keys_of(&it.request)).collect();

    let mut groups: Vec<Group<'_>> = Vec::new();
    for (at, &group) in connect(&keys).iter().enumerate() {
        if group == groups.len() {
            groups.push(Group { keys: BTreeMap::new(), operations: Vec::new() });
        }
        let group = &mut groups[group];
        for key in &keys[at] {
            let next = group.keys.len();
            group.keys.entry(key).or_insert(next);
        }
        group.operations.push(operations[at]);
    }
    groups
}

/// The keys a request reads or writes.
fn keys_of(request: &Request) -> Vec<&Bytes> {
    match request {
        Request::Get { key, .. } | Request::Put { key, .. } | Request::Delete { key, .. } => {
            vec![key]
        }
        Request::List { .. } | Request::SetMap { .. } => Vec::new(),
    }
}

/// The group of each set of keys, such that sets that share a key, also by way of others, are in
/// one. Groups are numbered as they appear.
fn connect<K: Ord + Copy>(sets: &[Vec<K>]) -> Vec<usize> {
    /// The set that stands for the group of this one.
    fn root(parents: &mut [usize], mut at: usize) -> usize {
        while parents[at] != at {
            parents[at] = parents[parents[at]];
            at = parents[at];
        }
        at
    }
    let mut parents: Vec<usize> = (0..sets.len()).collect();
    let mut owners: BTreeMap<K, usize> = BTreeMap::new();
    for (at, keys) in sets.iter().enumerate() {
        for &key in keys {
            match owners.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(at);
                }
                Entry::Occupied(entry) => {
                    let (here, there) = (root(&mut parents, at), root(&mut parents, *entry.get()));
                    parents[here.max(there)] = here.min(there);
                }
            }
        }
    }
    let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
    let mut number = |at| {
        let next = numbers.len();
        *numbers.entry(root(&mut parents, at)).or_insert(next)
    };
    (0..sets.len()).map(&mut number).collect()
}

impl Group<'_> {
    /// The operations as the search takes them.
    fn question(&self) -> Result<Question, Objection> {
        let sightings = Sightings::of(self);
        let call = |operation: &&Operation| {
            let op = self.op(operation, &sightings)?;
            let begin = operation.begin.order;
            let (end, hint) = match operation.answered() {
                // Revisions never go back, so theirs is the order to try.
                Some((answer, _)) => (operation.end.map(|end| end.order), revision_of(answer)),
                // What a read saw took effect before that read ended.
                None => match sightings.of_write(operation) {
                    Some(seen) => (Some(seen.end), seen.revision),
                    None => (None, usefulness(&op)),
                },
            };
            Ok(Call { op, begin, end, hint })
        };
        let calls = self.operations.iter().map(call).collect::<Result<_, _>>()?;
        Ok(Question { keys: Keys { count: self.keys.len() }, calls })
    }

    fn op(&self, operation: &Operation, sightings: &Sightings<'_>) -> Result<Op, Objection> {
        let answer = operation.answered().map(|(answer, _)| answer);
        let (key, condition, change) = match &operation.request {
            Request::Get { key, .. } => {
                let Some(Answer::Got { record, revision }) = answer else {
                    return Err(unfit(operation));
                };
                let saw = record.as_ref().map(|record| sightings.saw(key, record));
                return Ok(Op::Get { key: self.keys[key], saw, revision: *revision });
            }
            Request::Put { key, value, condition } => {
                let value = sightings.number(key, value);
                let key = self.keys[key];
                (key, condition, Change::Put { key, value })
            }
            Request::Delete { key, condition } => {
                let key = self.keys[key];
                (key, condition, Change::Delete { key })
            }
            Request::List { .. } | Request::SetMap { .. } => return Err(unfit(operation)),
        };
        let reply = match (&operation.request, answer) {
            (Request::Put { .. }, Some(&Answer::Put { revision, created, version })) => {
                Reply::Succeeded { revision, done: vec![Done::Put { created, version }] }
            }
            (Request::Delete { .. }, Some(&Answer::Deleted { deleted, revision }))
                if deleted <= 1 =>
            {
                Reply::Succeeded { revision, done: vec![Done::Deleted(deleted == 1)] }
            }
            (_, Some(&Answer::ConditionFailed { current, revision })) => {
                Reply::ConditionFailed { current, revision, done: Vec::new() }
            }
            (_, None) => match sightings.of_write(operation) {
                Some(seen) => Reply::Seen { revision: seen.revision },
                None => Reply::Unknown,
            },
            (_, Some(_)) => return Err(unfit(operation)),
        };
        let compares = compares(key, condition);
        Ok(Op::Write { compares, then: vec![change], otherwise: Vec::new(), reply })
    }

    fn accept(&self, verdict: &Verdict) -> Result<(), Objection> {
        let key = self.keys.keys().next().map(|key| format!("{key:?}")).unwrap_or_default();
        let (fault, order, stuck) = match verdict {
            Verdict::Linearizable { .. } => return Ok(()),
            Verdict::NotLinearizable { order, stuck, .. } => {
                ("no order explains the answers".to_owned(), order, stuck)
            }
            Verdict::TooHard { order, stuck, steps } => {
                (format!("too hard to tell in {steps} steps"), order, stuck)
            }
        };
        let what = format!(
            "key {key}: {fault}; the longest row explains {} of {} operations, and after it none of \
             these",
            order.len(),
            self.operations.len(),
        );
        let operations = stuck.iter().map(|&at| self.operations[at].id).collect();
        Err(Objection { checker: NAME, what, operations })
    }
}

/// What reads saw of the values of a group.
struct Sightings<'a> {
    seen: BTreeMap<(&'a Bytes, &'a Bytes), Seen>,
    /// How many writes wrote it.
    writers: BTreeMap<(&'a Bytes, &'a Bytes), u32>,
}

/// A value that a read saw.
#[derive(Clone, Copy)]
struct Seen {
    number: Value,
    /// The revision it was seen with.
    revision: u64,
    /// When the first read that saw it ended.
    end: u64,
}

impl<'a> Sightings<'a> {
    fn of(group: &Group<'a>) -> Sightings<'a> {
        let mut sightings = Sightings { seen: BTreeMap::new(), writers: BTreeMap::new() };
        for operation in &group.operations {
            match (&operation.request, operation.answered(), operation.end) {
                (
                    Request::Get { key, .. },
                    Some((Answer::Got { record: Some(record), .. }, _)),
                    Some(end),
                ) => {
                    let number = Value(sightings.seen.len() as u32 + 1);
                    let now = Seen { number, revision: record.mod_revision, end: end.order };
                    let seen = sightings.seen.entry((key, &record.value)).or_insert(now);
                    seen.end = seen.end.min(end.order);
                }
                (Request::Put { key, value, .. }, ..) => {
                    *sightings.writers.entry((key, value)).or_default() += 1;
                }
                _ => {}
            }
        }
        sightings
    }

    fn number(&self, key: &Bytes, value: &Bytes) -> Value {
        self.seen.get(&(key, value)).map_or(Value::UNSEEN, |seen| seen.number)
    }

    fn saw(&self, key: &Bytes, record: &Record) -> Saw {
        Saw {
            value: self.number(key, &record.value),
            created: record.create_revision,
            modified: record.mod_revision,
            version: record.version,
        }
    }

    /// How a read gave a write away that was not answered: it saw a value that this write alone
    /// wrote, and did not end before the write began.
    fn of_write(&self, operation: &Operation) -> Option<Seen> {
        let Request::Put { key, value, .. } = &operation.request else {
            return None;
        };
        let seen = self.seen.get(&(key, value))?;
        let is_alone = self.writers.get(&(key, value)) == Some(&1);
        (is_alone && operation.begin.order < seen.end).then_some(*seen)
    }
}

/// Of the writes that may stand for a change nobody explains, the ones that fit in few places are
/// tried first: the others will still fit where these do not.
fn usefulness(op: &Op) -> u64 {
    let Op::Write { compares, .. } = op else {
        return 0;
    };
    let of_test = |compare: &Compare| match compare.test {
        Test::Among(_) => 0,
        Test::Exists | Test::Absent => 1,
        Test::NotAmong(_) => 2,
    };
    compares.iter().map(of_test).min().unwrap_or(3)
}

fn compares(key: usize, condition: &Condition) -> Vec<Compare> {
    let test = |test| Compare { key, test };
    let mut compares = Vec::new();
    match &condition.if_match {
        None => {}
        Some(Tags::Any) => compares.push(test(Test::Exists)),
        Some(Tags::Revisions(revisions)) => compares.push(test(Test::Among(revisions.clone()))),
    }
    match &condition.if_none_match {
        None => {}
        Some(Tags::Any) => compares.push(test(Test::Absent)),
        Some(Tags::Revisions(revisions)) => compares.push(test(Test::NotAmong(revisions.clone()))),
    }
    compares
}

fn unfit(operation: &Operation) -> Objection {
    let what = "an answer to another question".to_owned();
    Objection { checker: NAME, what, operations: vec![operation.id] }
}

#[cfg(test)]
mod tests {
    use super::connect;

    #[test]
    fn keys_are_one_group_when_a_chain_of_operations_connects_them() {
        let sets = [vec![1], vec![2], vec![3, 4], vec![2, 3], vec![5], vec![4], vec![1]];
        assert_eq!(connect(&sets), [0, 1, 1, 1, 2, 1, 0]);
        assert!(connect::<u8>(&[]).is_empty());
    }
}
