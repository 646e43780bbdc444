//! How a group of keys behaves when asked one operation at a time, as far as a client can know.
//!
//! Each key is absent, or holds a value with the revisions it was made and last changed at, and a
//! version. A revision counts the changes of the *whole* store, and a search looks at a few keys
//! only. So the model knows bounds: the store's revision never goes back, a change makes it larger
//! than everything told before, and what was written without an answer has a revision that somebody
//! may see later (`Span`). From then on it is that one. This rules out more than values alone
//! would: a stale read is caught by its revision even when the value has come back.
//!
//! It shares no code with the store: it is what the store is held against.

use super::wgl::Model;

/// A group of keys that operations connect; keys are numbered from 0.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// How many.
    pub count: usize,
}

/// All that is known of the group between two operations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    cells: Vec<Cell>,
    /// The store's revision is at least this.
    revision_min: u64,
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Absent,
    /// Rule: `version == 1` means that `created` and `modified` are one revision.
    Present {
        value: Value,
        created: Span,
        modified: Span,
        version: u64,
    },
}

/// A value, by number. [`Value::UNSEEN`] stands for all that no read ever saw: they need not be told
/// apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(pub u32);

impl Value {
    /// Any value that no read saw.
    pub const UNSEEN: Value = Value(0);
}

/// A revision that lies somewhere within these, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    min: u64,
    max: u64,
}

/// A question and what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read of one key.
    Get {
        /// Which key.
        key: usize,
        /// What it held; `None`: it did not exist.
        saw: Option<Saw>,
        /// The store's revision.
        revision: u64,
    },
    /// A transaction.
    Write {
        /// All must hold.
        compares: Vec<Compare>,
        /// Carried out, in order, when they do.
        then: Vec<Change>,
        /// Carried out, in order, when one does not.
        otherwise: Vec<Change>,
        /// What was answered.
        reply: Reply,
    },
}

/// What a read saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saw {
    /// The value.
    pub value: Value,
    /// `create_revision`.
    pub created: u64,
    /// `mod_revision`.
    pub modified: u64,
    /// The version.
    pub version: u64,
}

/// Something that has to be true of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which key.
    pub key: usize,
    /// What has to be true.
    pub test: Test,
}

/// What has to be true of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
    /// It exists and was last changed at one of these.
    Among(Vec<u64>),
    /// It does not exist, or was last changed at none of these.
    NotAmong(Vec<u64>),
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give the key the value.
    Put {
        /// Which key.
        key: usize,
        /// Which value.
        value: Value,
    },
    /// Take the key away, if it is there.
    Delete {
        /// Which key.
        key: usize,
    },
}

/// What a write was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// All compares held.
    Succeeded {
        /// The store's revision after it.
        revision: u64,
        /// What each change did.
        done: Vec<Done>,
    },
    /// One did not.
    ConditionFailed {
        /// When the key of the first one that did not hold was last changed, if it exists.
        current: Option<u64>,
        /// The store's revision after it.
        revision: u64,
        /// What each change did.
        done: Vec<Done>,
    },
    /// Nothing: its outcome is unknown.
    Unknown,
    /// Nothing, but a read gave it away: `then` was carried out.
    Seen {
        /// The revision the read saw it with.
        revision: u64,
    },
}

/// What one change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A put.
    Put {
        /// The key was not there before.
        created: bool,
        /// How often it was written since it came to be.
        version: u64,
    },
    /// A delete: whether there was anything to take away.
    Deleted(bool),
}

impl Model for Keys {
    type State = State;
    type Op = Op;

    fn initial(&self) -> State {
        State { cells: vec![Cell::Absent; self.count], revision_min: 0 }
    }

    fn step(&self, state: &State, op: &Op, next: &mut Vec<State>) {
        match op {
            Op::Get { key, saw, revision } => next.extend(get(state, *key, *saw, *revision)),
            Op::Write { compares, then, otherwise, reply } => match reply {
                Reply::Succeeded { revision, done } => {
                    let states = all_hold(state, compares);
                    let after = |it: State| change(it, then, Some(*revision), Some(done));
                    next.extend(states.into_iter().filter_map(after));
                }
                Reply::ConditionFailed { current, revision, done } => {
                    let states = one_fails(state, compares, Some(*current));
                    let after = |it: State| change(it, otherwise, Some(*revision), Some(done));
                    next.extend(states.into_iter().filter_map(after));
                }
                Reply::Seen { revision } => {
                    let states = all_hold(state, compares);
                    let after = |it: State| change(it, then, Some(*revision), None);
                    next.extend(states.into_iter().filter_map(after));
                }
                Reply::Unknown => {
                    let states = all_hold(state, compares);
                    next.extend(states.into_iter().filter_map(|it| change(it, then, None, None)));
                    let states = one_fails(state, compares, None);
                    let after = |it: State| change(it, otherwise, None, None);
                    next.extend(states.into_iter().filter_map(after));
                }
            },
        }
    }

    fn only_reads(&self, op: &Op) -> bool {
        match op {
            Op::Get { .. } => true,
            Op::Write { otherwise, reply: Reply::ConditionFailed { .. }, .. } => {
                otherwise.is_empty()
            }
            Op::Write { .. } => false,
        }
    }

    fn is_too_late(&self, state: &State, op: &Op) -> bool {
        let (revision, changes_something) = match op {
            Op::Get { revision, .. } => (*revision, false),
            Op::Write { reply: Reply::Succeeded { revision, done }, .. }
            | Op::Write { reply: Reply::ConditionFailed { revision, done, .. }, .. } => {
                (*revision, done.iter().any(|done| *done != Done::Deleted(false)))
            }
            Op::Write { reply: Reply::Seen { revision }, .. } => (*revision, true),
            Op::Write { reply: Reply::Unknown, .. } => return false,
        };
        revision < state.revision_min || (revision == state.revision_min && changes_something)
    }
}

/// The state after a read, if it can have seen this.
fn get(state: &State, key: usize, saw: Option<Saw>, revision: u64) -> Option<State> {
    let mut next = state.clone();
    if !next.told(revision) {
        return None;
    }
    let is_so = match (&mut next.cells[key], saw) {
        (Cell::Absent, None) => true,
        (cell @ Cell::Present { .. }, Some(saw)) => {
            let held = match *cell {
                Cell::Present { value, version, .. } => (value, version),
                Cell::Absent => return None,
            };
            held == (saw.value, saw.version)
                && cell.was_modified_at(saw.modified)
                && cell.was_created_at(saw.created)
        }
        _ => false,
    };
    is_so.then_some(next)
}

/// The states this one may be if all compares hold.
fn all_hold(state: &State, compares: &[Compare]) -> Vec<State> {
    let mut states = vec![state.clone()];
    for compare in compares {
        states = states.iter().flat_map(|it| suppose(it, compare, true)).collect();
    }
    states
}

/// The states this one may be if a compare does not hold. `current` is what was told about the key
/// of the first that does not; `None` when nothing was told.
fn one_fails(state: &State, compares: &[Compare], current: Option<Option<u64>>) -> Vec<State> {
    let mut states = Vec::new();
    for (at, compare) in compares.iter().enumerate() {
        for mut before in all_hold(state, &compares[..at]) {
            let cell = &mut before.cells[compare.key];
            let is_so = match current {
                None => true,
                Some(None) => *cell == Cell::Absent,
                Some(Some(revision)) => cell.was_modified_at(revision),
            };
            if is_so {
                states.extend(suppose(&before, compare, false));
            }
        }
    }
    states
}

/// The states this one may be if the compare holds, or does not.
fn suppose(state: &State, compare: &Compare, holds: bool) -> Vec<State> {
    let cell = state.cells[compare.key];
    let (revisions, is_among) = match &compare.test {
        Test::Exists => return keep_if(state, (cell != Cell::Absent) == holds),
        Test::Absent => return keep_if(state, (cell == Cell::Absent) == holds),
        Test::Among(revisions) => (revisions, holds),
        Test::NotAmong(revisions) => (revisions, !holds),
    };
    let Cell::Present { modified, .. } = cell else {
        return keep_if(state, !is_among);
    };
    if !is_among {
        return keep_if(state, modified.min < modified.max || !revisions.contains(&modified.min));
    }
    let mut states: Vec<State> = Vec::new();
    for &revision in revisions {
        let mut narrowed = state.clone();
        if narrowed.cells[compare.key].was_modified_at(revision) && !states.contains(&narrowed) {
            states.push(narrowed);
        }
    }
    states
}

fn keep_if(state: &State, keep: bool) -> Vec<State> {
    if keep { vec![state.clone()] } else { Vec::new() }
}

/// The state after these changes, if the store's revision can be this one after them and each did
/// what was told.
fn change(
    mut state: State,
    changes: &[Change],
    revision: Option<u64>,
    told: Option<&Vec<Done>>,
) -> Option<State> {
    let changes_something = changes.iter().any(|change| match *change {
        Change::Put { .. } => true,
        Change::Delete { key } => state.cells[key] != Cell::Absent,
    });
    // Where nothing changes nothing is stamped.
    let stamp = match (changes_something, revision) {
        (true, Some(revision)) => {
            if revision <= state.revision_min || !state.told(revision - 1) {
                return None;
            }
            state.revision_min = revision;
            Span { min: revision, max: revision }
        }
        (true, None) => {
            state.revision_min += 1;
            Span { min: state.revision_min, max: u64::MAX }
        }
        (false, Some(revision)) => {
            if !state.told(revision) {
                return None;
            }
            Span { min: 0, max: 0 }
        }
        (false, None) => Span { min: 0, max: 0 },
    };
    let done: Vec<Done> = changes.iter().map(|change| state.carry_out(*change, stamp)).collect();
    told.is_none_or(|told| *told == done).then_some(state)
}

impl State {
    /// Somebody was told that this is the store's revision now. False when it cannot be.
    fn told(&mut self, revision: u64) -> bool {
        if revision < self.revision_min {
            return false;
        }
        self.revision_min = revision;
        for cell in &mut self.cells {
            if let Cell::Present { created, modified, .. } = cell {
                created.max = created.max.min(revision);
                modified.max = modified.max.min(revision);
            }
        }
        true
    }

    fn carry_out(&mut self, change: Change, stamp: Span) -> Done {
        match change {
            Change::Put { key, value } => {
                let (created, version) = match self.cells[key] {
                    Cell::Absent => (stamp, 1),
                    Cell::Present { created, version, .. } => (created, version + 1),
                };
                self.cells[key] = Cell::Present { value, created, modified: stamp, version };
                Done::Put { created: version == 1, version }
            }
            Change::Delete { key } => {
                let was_there = self.cells[key] != Cell::Absent;
                self.cells[key] = Cell::Absent;
                Done::Deleted(was_there)
            }
        }
    }
}

impl Cell {
    /// Somebody saw that it was last changed at this revision. False when it cannot have been.
    fn was_modified_at(&mut self, revision: u64) -> bool {
        match self {
            Cell::Absent => false,
            Cell::Present { created, modified, version, .. } => {
                modified.is(revision) && (*version != 1 || created.is(revision))
            }
        }
    }

    /// Somebody saw that it came to be at this revision. False when it cannot have.
    fn was_created_at(&mut self, revision: u64) -> bool {
        match self {
            Cell::Absent => false,
            Cell::Present { created, modified, version, .. } => {
                created.is(revision) && (*version != 1 || modified.is(revision))
            }
        }
    }
}

impl Span {
    /// Narrows it to this revision. False when that lies outside.
    fn is(&mut self, revision: u64) -> bool {
        let is_within = self.min <= revision && revision <= self.max;
        if is_within {
            *self = Span { min: revision, max: revision };
        }
        is_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether one key takes these operations one after the other.
    fn takes(ops: &[Op]) -> bool {
        let keys = Keys { count: 1 };
        let step = |states: Vec<State>, op: &Op| {
            let mut next = Vec::new();
            states.iter().for_each(|state| keys.step(state, op, &mut next));
            next
        };
        !ops.iter().fold(vec![keys.initial()], step).is_empty()
    }

    fn put(reply: Reply) -> Op {
        let then = vec![Change::Put { key: 0, value: Value::UNSEEN }];
        Op::Write { compares: vec![], then, otherwise: vec![], reply }
    }

    /// A second put, answered with this revision.
    fn put_again(revision: u64) -> Op {
        put(Reply::Succeeded { revision, done: vec![Done::Put { created: false, version: 2 }] })
    }

    /// A delete for absent keys only, which found one changed at `current`.
    fn found(current: u64, revision: u64) -> Op {
        let compares = vec![Compare { key: 0, test: Test::Absent }];
        let reply = Reply::ConditionFailed { current: Some(current), revision, done: vec![] };
        Op::Write { compares, then: vec![Change::Delete { key: 0 }], otherwise: vec![], reply }
    }

    fn get(created: u64, modified: u64, version: u64, revision: u64) -> Op {
        let saw = Some(Saw { value: Value::UNSEEN, created, modified, version });
        Op::Get { key: 0, saw, revision }
    }

    #[test]
    fn a_change_without_an_answer_lies_between_what_was_told_before_and_after() {
        let unknown = || put(Reply::Unknown);
        for (created, is_possible) in [(0, false), (1, true), (4, true), (5, false), (9, false)] {
            let ops = [unknown(), put_again(5), get(created, 5, 2, 9)];
            assert_eq!(takes(&ops), is_possible, "created at {created}");
        }
    }

    #[test]
    fn a_revision_once_seen_is_that_one_from_then_on() {
        let begin = || [put(Reply::Unknown), found(3, 4)];
        assert!(takes(&[begin().to_vec(), vec![found(3, 5)]].concat()));
        assert!(!takes(&[begin().to_vec(), vec![found(4, 5)]].concat()));
        // The first version came to be when it was last changed.
        assert!(takes(&[begin().to_vec(), vec![put_again(6), get(3, 6, 2, 6)]].concat()));
        assert!(!takes(&[begin().to_vec(), vec![put_again(6), get(2, 6, 2, 6)]].concat()));
    }

    #[test]
    fn what_was_changed_without_an_answer_counts() {
        // Revision 1 is the first that anything can have, and 2 the second.
        assert!(takes(&[put(Reply::Unknown), get(1, 1, 1, 1)]));
        assert!(!takes(&[put(Reply::Unknown), get(1, 1, 1, 0)]));
        assert!(takes(&[put(Reply::Unknown), put(Reply::Unknown), get(1, 2, 2, 2)]));
        assert!(!takes(&[put(Reply::Unknown), put(Reply::Unknown), get(1, 1, 2, 2)]));
    }

    #[test]
    fn a_write_that_was_seen_was_carried_out_at_that_revision() {
        assert!(takes(&[put(Reply::Seen { revision: 3 }), get(3, 3, 1, 3)]));
        assert!(!takes(&[put(Reply::Seen { revision: 3 }), get(2, 2, 1, 3)]));
        assert!(!takes(&[get(1, 1, 1, 1), put(Reply::Seen { revision: 3 })]));
        let compares = vec![Compare { key: 0, test: Test::Exists }];
        let reply = Reply::Seen { revision: 3 };
        let then = vec![Change::Put { key: 0, value: Value(1) }];
        let on_nothing = Op::Write { compares, then, otherwise: vec![], reply };
        assert!(!takes(&[on_nothing]), "its compare did not hold");
    }
}
