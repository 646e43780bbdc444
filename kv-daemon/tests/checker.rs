//! The checker of the process tests catches every kind of broken promise, and nothing else. A
//! checker that is never seen to object proves nothing by its silence.

mod harness;

use std::time::Duration;

use harness::checker::{assert_keeps_the_laws, violations};
use harness::history::{Event, Fate, Key, Operation, Saw};

const KEY: Key = Key { writer: 0, serial: 0 };
const OTHER: Key = Key { writer: 1, serial: 0 };

fn during(begin: u64, end: u64, event: Event) -> Operation {
    let (begin, end) = (Duration::from_secs(begin), Duration::from_secs(end));
    Operation { node: 0, begin, end, event }
}

fn write(key: Key, number: u64, fate: Fate) -> Event {
    Event::Write { key, number, compared: false, fate }
}

fn done(revision: u64, version: u64) -> Fate {
    Fate::Done { revision, version }
}

fn read(number: impl Into<Option<u64>>, revision: u64) -> Event {
    Event::Read { key: KEY, saw: Saw::Number(number.into(), revision) }
}

fn raise(from: u64, fate: Fate) -> Event {
    Event::Raise { from, fate }
}

fn count(number: impl Into<Option<u64>>, revision: u64) -> Event {
    Event::Count { saw: Saw::Number(number.into(), revision) }
}

/// The laws this history breaks, each once.
fn broken(history: &[Operation]) -> Vec<u8> {
    let mut laws: Vec<u8> = violations(history).iter().map(|found| found.law).collect();
    laws.sort();
    laws.dedup();
    laws
}

#[test]
fn a_good_history_keeps_the_laws() {
    assert_keeps_the_laws(&[
        during(0, 1, read(None, 0)),
        during(2, 3, write(KEY, 1, done(1, 1))),
        // Overlapping reads may see either side of a write, in time with each other.
        during(4, 9, write(KEY, 2, done(3, 2))),
        during(4, 5, read(1, 1)),
        during(6, 7, read(2, 3)),
        during(4, 5, write(OTHER, 1, done(2, 1))),
        during(10, 11, write(KEY, 3, Fate::NotApplied)),
        // An unknown write may be seen, or never.
        during(12, 13, write(KEY, 4, Fate::Unknown)),
        during(12, 13, read(2, 3)),
        during(14, 15, read(4, 4)),
        during(12, 13, write(OTHER, 2, Fate::Unknown)),
        during(16, 17, raise(0, done(5, 1))),
        during(16, 18, raise(0, Fate::ConditionFailed)),
        during(18, 19, raise(1, Fate::Unknown)),
        during(20, 21, count(2, 6)),
        during(20, 21, Event::Read { key: OTHER, saw: Saw::Nothing }),
    ]);
}

#[test]
fn law_1_nothing_is_invented() {
    let history = [during(0, 1, write(KEY, 1, done(1, 1))), during(2, 3, read(2, 1))];
    assert_eq!(broken(&history), [1], "a number no one wrote");

    let history = [during(0, 1, read(1, 1)), during(2, 3, write(KEY, 1, done(1, 1)))];
    assert!(broken(&history).contains(&1), "a number that is written later");

    let foreign = Saw::Foreign("half a va".to_owned());
    let history = [during(0, 1, Event::Read { key: KEY, saw: foreign.clone() })];
    assert_eq!(broken(&history), [1], "a torn value");
    assert_eq!(broken(&[during(0, 1, Event::Count { saw: foreign })]), [1], "a torn counter");
}

#[test]
fn law_2_nothing_acknowledged_is_missed() {
    let writes = [during(0, 1, write(KEY, 1, done(1, 1))), during(2, 3, write(KEY, 2, done(2, 2)))];
    for (saw, what) in [(Some(1), "an older number"), (None, "an absent key")] {
        let history = [&writes[..], &[during(4, 5, read(saw, 2))]].concat();
        assert_eq!(broken(&history), [2], "{what}");
    }
    let history = [&writes[..], &[during(3, 5, read(1, 2))]].concat();
    assert!(broken(&history).is_empty(), "the read began as the write ended");
}

#[test]
fn law_3_nothing_goes_back() {
    let history = [
        during(0, 1, write(KEY, 1, done(1, 1))),
        during(2, 9, write(KEY, 2, Fate::Unknown)),
        during(3, 4, read(2, 2)),
        during(5, 6, read(1, 2)),
    ];
    assert_eq!(broken(&history), [3]);
    let mut overlapping = history;
    overlapping[3].begin = overlapping[2].end;
    assert!(broken(&overlapping).is_empty());
}

#[test]
fn law_4_not_applied_is_the_truth() {
    for fate in [Fate::NotApplied, Fate::ConditionFailed] {
        let history = [during(0, 1, write(KEY, 1, fate)), during(0, 3, read(1, 1))];
        assert!(broken(&history).contains(&4), "{fate:?}");
    }
}

#[test]
fn law_5_once_is_once() {
    let history =
        [during(0, 1, write(KEY, 1, done(1, 1))), during(2, 3, write(KEY, 2, done(3, 3)))];
    assert_eq!(broken(&history), [5], "a version that counts a write twice");

    let write = Event::Write { key: KEY, number: 1, compared: true, fate: Fate::ConditionFailed };
    assert_eq!(broken(&[during(0, 1, write)]), [5], "a compare that fails against itself");
}

#[test]
fn law_6_revisions_follow_time() {
    let first = during(0, 1, write(KEY, 1, done(5, 1)));
    let rows = [
        (write(OTHER, 1, done(5, 1)), "two writes at one revision"),
        (write(OTHER, 1, done(4, 1)), "a write below one that was acknowledged"),
        (read(1, 4), "a read below a write that was acknowledged"),
        (count(None, 4), "a read of another key below it"),
    ];
    for (event, what) in rows {
        assert_eq!(broken(&[first.clone(), during(2, 3, event)]), [6], "{what}");
    }
    let history = [during(0, 1, count(None, 7)), during(2, 3, write(KEY, 1, done(7, 1)))];
    assert_eq!(broken(&history), [6], "a write at a revision that had been seen");

    let history = [during(0, 1, count(None, 7)), during(2, 3, count(None, 6))];
    assert_eq!(broken(&history), [6], "reads that go back");
}

#[test]
fn law_7_the_counter_counts() {
    let twice = [during(0, 1, raise(0, done(1, 1))), during(0, 1, raise(0, done(2, 2)))];
    assert_eq!(broken(&twice), [7], "a lost update");

    let history = [
        during(0, 1, raise(0, done(1, 1))),
        during(2, 3, raise(1, done(2, 2))),
        during(4, 5, count(1, 2)),
    ];
    assert_eq!(broken(&history), [7], "a raise that was lost");

    let history = [during(0, 1, raise(0, done(1, 1))), during(2, 3, count(2, 1))];
    assert_eq!(broken(&history), [7], "a raise nobody made");
}

#[test]
fn law_8_a_failed_write_says_what_became_of_it() {
    let unsaid = Fate::Unsaid { status: 500 };
    assert_eq!(broken(&[during(0, 1, write(KEY, 1, unsaid))]), [8]);
    assert_eq!(broken(&[during(0, 1, raise(0, unsaid))]), [8]);
}

#[test]
#[should_panic(expected = "law 2: node1 4.000..5.000s: a read of load/0/0 saw nothing")]
fn a_broken_law_is_told_in_words() {
    assert_keeps_the_laws(&[during(0, 1, write(KEY, 1, done(1, 1))), during(4, 5, read(None, 1))]);
}
