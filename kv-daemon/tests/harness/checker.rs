//! Which promises of the daemon a history breaks. Looks at nothing but the history.
//!
//! The laws, in the order they are checked:
//!
//! 1. *Nothing is invented.* A read gives a number its key's writer had begun to write.
//! 2. *Nothing is stale.* A read that begins after a write was acknowledged sees that write or a
//!    later one; a key with an acknowledged write is not absent. The reads after the end of a test
//!    make this the law that nothing acknowledged is lost.
//! 3. *Nothing goes back.* A read that begins after another one ended sees no smaller number.
//! 4. *`not_applied` is the truth.* No read sees such a write.
//! 5. *Once is once.* An acknowledged write made the version its writer counts to; a compare that
//!    holds does not fail. Either breaks when one request is applied twice.
//! 6. *Revisions follow time.* An answer names a store revision not below that of any answer that
//!    came before it was asked; a write's is above, and no two writes share one.
//! 7. *The counter counts.* No two clients raised it from the same number, it stands at no less
//!    than the raises that were acknowledged and at no more than those that may have happened.
//! 8. *Every failed write says what became of it.*
//!
//! With one writer for each key, and that one waiting for its answers, laws 1 to 4 are all that
//! linearizability of a key asks for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::history::{Event, Fate, Key, Operation, Saw};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The number of the law above.
    pub law: u8,
    /// What was seen.
    pub story: String,
}

/// Everything one key's writer and readers were told.
#[derive(Default)]
struct Story<'a> {
    writes: Vec<Write<'a>>,
    reads: Vec<(&'a Operation, Option<u64>)>,
}

struct Write<'a> {
    operation: &'a Operation,
    number: u64,
    compared: bool,
    fate: Fate,
}

/// All violations; none: the history keeps every law.
pub fn violations(history: &[Operation]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, story) in stories(history, &mut found) {
        check_reads(key, &story, &mut found);
        check_order_of_reads(key, &story, &mut found);
        check_writes(key, &story, &mut found);
    }
    check_revisions(history, &mut found);
    check_counter(history, &mut found);
    check_fates(history, &mut found);
    found
}

/// Ends the test when the history breaks a law.
///
/// # Panics
/// With the first violations in words.
pub fn assert_keeps_the_laws(history: &[Operation]) {
    let found = violations(history);
    let told: Vec<String> = found.iter().take(20).map(Violation::to_string).collect();
    let (count, of) = (found.len(), history.len());
    assert!(found.is_empty(), "{count} violations in {of} operations:\n{}", told.join("\n"));
}

/// The operations of each key, writes in the order of their numbers.
fn stories<'a>(history: &'a [Operation], found: &mut Vec<Violation>) -> BTreeMap<Key, Story<'a>> {
    let mut stories: BTreeMap<Key, Story<'a>> = BTreeMap::new();
    for operation in history {
        match &operation.event {
            Event::Write { key, number, compared, fate } => {
                let write = Write { operation, number: *number, compared: *compared, fate: *fate };
                stories.entry(*key).or_default().writes.push(write);
            }
            Event::Read { key, saw: Saw::Number(number, _) } => {
                stories.entry(*key).or_default().reads.push((operation, *number));
            }
            Event::Read { key, saw: Saw::Foreign(value) } => {
                let story = format!("{}: {key} holds {value:?}, which no one wrote", at(operation));
                found.push(Violation { law: 1, story });
            }
            Event::Count { saw: Saw::Foreign(value) } => {
                let story = format!("{}: the counter is at {value:?}", at(operation));
                found.push(Violation { law: 1, story });
            }
            Event::Read { saw: Saw::Nothing, .. } | Event::Raise { .. } | Event::Count { .. } => {}
        }
    }
    for story in stories.values_mut() {
        story.writes.sort_by_key(|write| write.number);
        let sequential = story
            .writes
            .is_sorted_by(|a, b| a.number < b.number && a.operation.end <= b.operation.begin);
        assert!(sequential, "a key's one writer writes one number after the other");
    }
    stories
}

/// Laws 1, 2 and 4.
fn check_reads(key: Key, story: &Story<'_>, found: &mut Vec<Violation>) {
    let done: Vec<&Write<'_>> =
        story.writes.iter().filter(|write| matches!(write.fate, Fate::Done { .. })).collect();
    for (read, saw) in &story.reads {
        let mut broken = |law, what: String| {
            let story = format!("{}: a read of {key} saw {}: {what}", at(read), number(*saw));
            found.push(Violation { law, story });
        };
        let before = done.partition_point(|write| write.operation.end < read.begin);
        let acknowledged = before.checked_sub(1).map(|last| done[last].number);
        if *saw < acknowledged {
            let acknowledged = number(acknowledged);
            broken(2, format!("{acknowledged} had been acknowledged before it began"));
        }
        let Some(saw) = saw else { continue };
        let Ok(i) = story.writes.binary_search_by_key(saw, |write| write.number) else {
            broken(1, "no one wrote that".to_owned());
            continue;
        };
        let write = &story.writes[i];
        if read.end < write.operation.begin {
            broken(1, "it was written later".to_owned());
        }
        if matches!(write.fate, Fate::NotApplied | Fate::ConditionFailed) {
            broken(4, format!("its writer was told {:?}", write.fate));
        }
    }
}

/// Law 3.
fn check_order_of_reads(key: Key, story: &Story<'_>, found: &mut Vec<Violation>) {
    let seen = story.reads.iter().map(|(read, saw)| {
        let shown = saw.unwrap_or(0);
        Seen { operation: read, shown, bound: shown }
    });
    for (read, saw, before) in below_an_earlier(seen.collect()) {
        let story =
            format!("{}: a read of {key} saw {saw}, one before had seen {before}", at(read));
        found.push(Violation { law: 3, story });
    }
}

/// Law 5.
fn check_writes(key: Key, story: &Story<'_>, found: &mut Vec<Violation>) {
    let mut count = 0;
    for write in &story.writes {
        let what = match write.fate {
            Fate::Done { version, .. } => {
                count += 1;
                (version != count).then(|| format!("made version {version}, not {count}"))
            }
            Fate::ConditionFailed => Some("was refused although its condition held".to_owned()),
            Fate::NotApplied | Fate::Unknown | Fate::Unsaid { .. } => None,
        };
        if let Some(what) = what {
            let compared = if write.compared { "compared " } else { "" };
            let (at, number) = (at(write.operation), write.number);
            let story = format!("{at}: the {compared}write of {number} to {key} {what}");
            found.push(Violation { law: 5, story });
        }
    }
}

/// Law 6.
fn check_revisions(history: &[Operation], found: &mut Vec<Violation>) {
    let mut answers = Vec::new();
    let mut made: BTreeMap<u64, &Operation> = BTreeMap::new();
    for operation in history {
        let Some(revision) = operation.event.revision() else { continue };
        let is_write = operation.event.fate().is_some();
        // A write makes a revision that nobody has seen: what was seen is at most the one before.
        let bound = if is_write { revision.saturating_sub(1) } else { revision };
        answers.push(Seen { operation, shown: revision, bound });
        if !is_write {
            continue;
        }
        if let Some(other) = made.insert(revision, operation) {
            let story =
                format!("{} and {}: both made revision {revision}", at(other), at(operation));
            found.push(Violation { law: 6, story });
        }
    }
    for (operation, revision, before) in below_an_earlier(answers) {
        let at = at(operation);
        let story = format!("{at}: answered at revision {revision} after {before} had been seen");
        found.push(Violation { law: 6, story });
    }
}

/// Law 7.
fn check_counter(history: &[Operation], found: &mut Vec<Violation>) {
    let mut raised: BTreeMap<u64, &Operation> = BTreeMap::new();
    let mut maybe = 0;
    for operation in history {
        let Event::Raise { from, fate } = &operation.event else { continue };
        match fate {
            Fate::Done { .. } => {
                if let Some(other) = raised.insert(*from, operation) {
                    let (a, b) = (at(other), at(operation));
                    let story = format!("{a} and {b}: both raised the counter from {from}");
                    found.push(Violation { law: 7, story });
                }
            }
            Fate::Unknown | Fate::Unsaid { .. } => maybe += 1,
            Fate::NotApplied | Fate::ConditionFailed => {}
        }
    }
    let counts = history.iter().filter_map(|operation| match operation.event {
        Event::Count { saw: Saw::Number(number, _) } => Some((operation, number.unwrap_or(0))),
        _ => None,
    });
    let mut ends: Vec<Duration> = raised.values().map(|operation| operation.end).collect();
    ends.sort();
    let done = raised.len() as u64;
    for (count, saw) in counts {
        let least = ends.partition_point(|end| *end < count.begin) as u64;
        if saw < least || done + maybe < saw {
            let story = format!(
                "{}: the counter is at {saw}; {least} raises were acknowledged before, {done} in \
                 all, and {maybe} may have happened",
                at(count)
            );
            found.push(Violation { law: 7, story });
        }
    }
}

/// Law 8.
fn check_fates(history: &[Operation], found: &mut Vec<Violation>) {
    for operation in history {
        if let Some(Fate::Unsaid { status }) = operation.event.fate() {
            let story = format!("{}: a write failed with {status} and no outcome", at(operation));
            found.push(Violation { law: 8, story });
        }
    }
}

/// A number an answer showed, and the largest that may have been shown before it was asked for.
struct Seen<'a> {
    operation: &'a Operation,
    shown: u64,
    bound: u64,
}

/// Every operation that began after another had ended that shows too much: the operation, its own
/// number and the larger one.
fn below_an_earlier(mut seen: Vec<Seen<'_>>) -> Vec<(&Operation, u64, u64)> {
    let mut ended: Vec<(Duration, u64)> =
        seen.iter().map(|seen| (seen.operation.end, seen.shown)).collect();
    ended.sort();
    let mut ended = ended.into_iter().peekable();
    seen.sort_by_key(|seen| seen.operation.begin);
    let mut largest = 0;
    let mut found = Vec::new();
    for Seen { operation, shown, bound } in seen {
        while let Some((_, before)) = ended.next_if(|(end, _)| *end < operation.begin) {
            largest = largest.max(before);
        }
        if bound < largest {
            found.push((operation, shown, largest));
        }
    }
    found
}

fn at(operation: &Operation) -> String {
    let Operation { node, begin, end, .. } = operation;
    format!("node{} {:.3}..{:.3}s", node + 1, begin.as_secs_f64(), end.as_secs_f64())
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "nothing".to_owned(), |number| number.to_string())
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "load/{}/{}", self.writer, self.serial)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "law {}: {}", self.law, self.story)
    }
}
