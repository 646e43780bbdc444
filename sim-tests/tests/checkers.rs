//! The checkers find what is wrong, and nothing else. Search against brute force on many small
//! histories, sound histories of every shape, sound ones with one lie in them, and for each rule a
//! history that breaks it alone.
//!
//! `CHECKERS_TIMES=20 cargo test -p sim-tests --test checkers` makes as many times more histories.

mod support;

use bytes::Bytes;
use kv_daemon::kv::command::Command;
use kv_daemon::kv::request::{
    Answer, Condition, ListQuery, Listed, Outcome, ReadLevel, Record, Request, Tags,
};
use raft_core::types::{Index, Time};
use sim_tests::checkers::black_box::{self, Question};
use sim_tests::checkers::history::{Ending, History, OperationId};
use sim_tests::checkers::model::{Change, Compare, Done, Keys, Op, Reply, Saw, Test, Value};
use sim_tests::checkers::wgl::{Call, Verdict, search};
use sim_tests::checkers::{brute, judge, values, white_box};
use support::{Rng, Shape, good};

const SMALL: Shape =
    Shape { operations: 7, clients: 3, keys: 1, lost: 8, refused: 30, others: 1_000 };

fn times() -> usize {
    std::env::var("CHECKERS_TIMES").map_or(1, |it| it.parse().expect("a number"))
}

// --- Sound histories ---

#[test]
fn sound_histories_of_every_shape_pass() {
    let mut rng = Rng(1);
    for round in 0..400 * times() {
        let shape = Shape {
            operations: 1 + rng.below(300),
            clients: 1 + rng.below(12),
            keys: 1 + rng.below(6),
            lost: 5 + rng.below(40),
            refused: 5 + rng.below(40),
            others: 2 + rng.below(20),
        };
        let history = good(&mut rng, shape);
        if let Err(objections) = judge(&history) {
            let texts: Vec<String> = objections.iter().map(|it| it.explain(&history)).collect();
            panic!("round {round}: {}", texts.join("\n"));
        }
    }
}

#[test]
fn thousands_of_operations_take_few_steps_each() {
    // One in so many operations loses its answer; that many steps each are allowed.
    for (lost, steps_max) in [(100, 8), (30, 12), (12, 50)] {
        for seed in 0..3 {
            let shape =
                Shape { operations: 6_000, clients: 12, keys: 5, lost, refused: 30, others: 20 };
            let history = good(&mut Rng(seed), shape);
            let effort = judge(&history).expect("a sound history").searched;
            assert!(3_000 < effort.operations, "most operations are searched");
            assert!(effort.steps < steps_max * effort.operations, "lost {lost}: {effort:?}");
        }
    }
}

// --- The search against brute force ---

#[test]
fn search_and_brute_force_agree_on_small_histories() {
    let mut rng = Rng(2);
    let mut sound = 0;
    let rounds = 100_000 * times();
    for round in 0..rounds {
        let operations = 2 + rng.below(5);
        let history = good(&mut rng, Shape { operations, ..SMALL });
        for Question { keys, mut calls } in black_box::searches(&history).unwrap() {
            for _ in 0..rng.below(3) {
                disturb(&mut rng, &mut calls);
            }
            let found = search(&keys, &calls, u64::MAX);
            let is_linearizable = brute::is_linearizable(&keys, &calls);
            assert_eq!(found.is_linearizable(), is_linearizable, "round {round}: {calls:#?}");
            if let Verdict::Linearizable { order, .. } = found {
                assert_order(&keys, &calls, &order);
            }
            sound += usize::from(is_linearizable);
        }
    }
    assert!(rounds / 3 < sound && sound < rounds * 19 / 20, "both verdicts are common: {sound}");
}

#[test]
fn search_and_brute_force_agree_on_transactions_over_two_keys() {
    let mut rng = Rng(3);
    let mut sound = 0;
    let rounds = 20_000 * times();
    for round in 0..rounds {
        let calls = random_transactions(&mut rng);
        let keys = Keys { count: 2 };
        let found = search(&keys, &calls, u64::MAX);
        let is_linearizable = brute::is_linearizable(&keys, &calls);
        assert_eq!(found.is_linearizable(), is_linearizable, "round {round}: {calls:#?}");
        sound += usize::from(is_linearizable);
    }
    assert!(rounds / 20 < sound && sound < rounds * 19 / 20, "both verdicts are common: {sound}");
}

/// Changes one call: its time, its ending, or its answer.
fn disturb(rng: &mut Rng, calls: &mut Vec<Call<Op>>) {
    let at = rng.below(calls.len());
    let other = calls[rng.below(calls.len())].clone();
    let call = &mut calls[at];
    match rng.below(5) {
        0 => call.begin = call.begin.saturating_sub(rng.next() % 8),
        1 => call.end = call.end.map(|end| end + rng.next() % 8),
        2 => {
            call.end = call.end.map(|end| (call.begin + 1).max(end.saturating_sub(rng.next() % 8)))
        }
        3 => call.op = other.op,
        _ => match &mut call.op {
            Op::Get { saw: Some(saw), revision, .. } => match rng.below(4) {
                0 => saw.version += 1,
                1 => saw.modified += 1,
                2 => saw.value = Value(1 + rng.below(3) as u32),
                _ => *revision += 1,
            },
            Op::Get { saw, revision, .. } => {
                let value = Value(rng.below(3) as u32);
                *saw = Some(Saw { value, created: *revision, modified: *revision, version: 1 });
            }
            Op::Write { reply: Reply::Succeeded { revision, .. }, .. } => *revision += 1,
            Op::Write { reply: Reply::ConditionFailed { current, .. }, .. } => *current = None,
            Op::Write { reply: Reply::Seen { revision }, .. } => *revision += 1,
            Op::Write { reply: Reply::Unknown, .. } => {
                calls.remove(at);
                if calls.is_empty() {
                    calls.push(other);
                }
            }
        },
    }
    // What has no answer has no end, and what has one has an end.
    for call in calls {
        match &call.op {
            Op::Write { reply: Reply::Unknown, .. } => call.end = None,
            _ => call.end = call.end.or(Some(call.begin + 1)),
        }
    }
}

/// The row holds every ended call once, keeps to the times, and the model takes it.
fn assert_order(keys: &Keys, calls: &[Call<Op>], order: &[usize]) {
    use sim_tests::checkers::wgl::Model;
    let mut states = vec![keys.initial()];
    for (place, &at) in order.iter().enumerate() {
        assert!(!order[..place].contains(&at), "a call is in the row once");
        let mut next = Vec::new();
        states.iter().for_each(|state| keys.step(state, &calls[at].op, &mut next));
        states = next;
        assert!(!states.is_empty(), "the row explains every answer");
        for &later in &order[place + 1..] {
            let in_time = calls[later].end.is_none_or(|end| calls[at].begin <= end);
            assert!(in_time, "what ended before comes before");
        }
    }
    let is_in = |at: usize| calls[at].end.is_none() || order.contains(&at);
    assert!((0..calls.len()).all(is_in), "every ended call is in the row");
}

/// A few transactions over two keys, answered as a single thread might have answered them, some of
/// the answers then made up.
fn random_transactions(rng: &mut Rng) -> Vec<Call<Op>> {
    let mut calls = Vec::new();
    let mut time = 0;
    let mut revision = 0;
    for _ in 0..2 + rng.below(4) {
        let changes = |rng: &mut Rng, count: usize| -> Vec<Change> {
            let change = |rng: &mut Rng| match rng.below(3) {
                0 => Change::Delete { key: rng.below(2) },
                _ => Change::Put { key: rng.below(2), value: Value(rng.below(3) as u32) },
            };
            (0..count).map(|_| change(rng)).collect()
        };
        let done = |rng: &mut Rng, changes: &[Change]| -> Vec<Done> {
            let told = |change: &Change| match change {
                Change::Put { .. } => {
                    let version = 1 + rng.below(2) as u64;
                    Done::Put { created: version == 1, version }
                }
                Change::Delete { .. } => Done::Deleted(rng.one_in(2)),
            };
            changes.iter().map(told).collect()
        };
        let test = match rng.below(4) {
            0 => Test::Exists,
            1 => Test::Absent,
            2 => Test::Among(vec![1, 2]),
            _ => Test::NotAmong(vec![1, revision]),
        };
        let count = rng.below(2);
        let compares = [Compare { key: rng.below(2), test }].into_iter().take(count).collect();
        let (count, other_count) = (1 + rng.below(2), rng.below(2));
        let (then, otherwise) = (changes(rng, count), changes(rng, other_count));
        revision += rng.next() % 2;
        let op = match rng.below(6) {
            0 => Op::Write { compares, then, otherwise, reply: Reply::Unknown },
            1 => Op::Get { key: rng.below(2), saw: None, revision },
            2 => {
                let saw = Saw { value: Value(1), created: 1, modified: revision, version: 1 };
                Op::Get { key: rng.below(2), saw: Some(saw), revision }
            }
            3 => {
                let done = done(rng, &otherwise);
                let current = rng.one_in(2).then_some(revision);
                let reply = Reply::ConditionFailed { current, revision, done };
                Op::Write { compares, then, otherwise, reply }
            }
            _ => {
                let done = done(rng, &then);
                Op::Write { compares, then, otherwise, reply: Reply::Succeeded { revision, done } }
            }
        };
        time += rng.next() % 3;
        let is_unknown = matches!(op, Op::Write { reply: Reply::Unknown, .. });
        let end = (!is_unknown).then_some(time + 1 + rng.next() % 4);
        calls.push(Call { op, begin: time, end, hint: rng.next() % 4 });
    }
    calls
}

#[test]
fn too_hard_to_tell_is_no_pass() {
    let shape = Shape { operations: 50, clients: 6, ..SMALL };
    let history = good(&mut Rng(4), shape);
    assert_eq!(black_box::check(&history, black_box::STEPS_MAX).err(), None);
    let objection = black_box::check(&history, 3).expect_err("three steps are too few");
    assert!(objection.what.contains("too hard to tell in 3 steps"), "{objection}");
}

// --- One lie in a sound history ---

#[test]
fn one_changed_read_is_caught_or_still_linearizable() {
    let mut rng = Rng(5);
    let (mut lies, mut excused) = (0, 0);
    let rounds = 10_000 * times();
    while lies < rounds {
        let operations = 4 + rng.below(8);
        let keys = 1 + rng.below(2);
        let history = good(&mut rng, Shape { operations, keys, ..SMALL });
        let Some((id, ending)) = changed_read(&mut rng, &history) else { continue };
        let history = history.with_ending(id, ending);
        lies += 1;

        let told = white_box::check(&history).expect_err("A knows what the store held");
        assert_eq!(told.operations, [id], "{}", told.explain(&history));
        if black_box::check(&history, black_box::STEPS_MAX).is_ok() {
            let searches = black_box::searches(&history).unwrap();
            let is_so = |it: &Question| brute::is_linearizable(&it.keys, &it.calls);
            assert!(searches.iter().all(is_so), "{:#?}", history.operations());
            excused += 1;
        }
    }
    assert!(excused < lies / 4, "clients can tell most lies: {excused} of {lies} excused");
}

#[test]
fn a_lie_in_a_long_history_is_found_within_the_budget() {
    let mut rng = Rng(6);
    let (mut lies, mut too_hard) = (0, 0);
    while lies < 60 * times() {
        let shape =
            Shape { operations: 3_000, clients: 10, keys: 10, lost: 30, refused: 30, others: 20 };
        let history = good(&mut rng, shape);
        let Some((id, ending)) = changed_read(&mut rng, &history) else { continue };
        let history = history.with_ending(id, ending);
        lies += 1;
        assert!(white_box::check(&history).is_err());
        if let Err(objection) = black_box::check(&history, black_box::STEPS_MAX) {
            too_hard += usize::from(objection.what.contains("too hard"));
        }
    }
    assert!(too_hard <= lies / 10, "{too_hard} of {lies} were too hard to tell");
}

/// A linearizable read of a key, and another answer to it.
fn changed_read(rng: &mut Rng, history: &History) -> Option<(OperationId, Ending)> {
    let reads: Vec<(OperationId, &Bytes, &Answer, Index)> = history
        .operations()
        .iter()
        .filter(|it| it.is_linearizable())
        .filter_map(|it| match (&it.request, it.answered()) {
            (Request::Get { key, .. }, Some((answer, at))) => Some((it.id, key, answer, at)),
            _ => None,
        })
        .collect();
    if reads.is_empty() {
        return None;
    }
    let (id, key, told, at) = reads[rng.below(reads.len())];
    let Answer::Got { record, revision } = told else { unreachable!("a get") };
    let (mut record, mut revision) = (record.clone(), *revision);
    let (_, other_key, other, _) = reads[rng.below(reads.len())];
    let Answer::Got { record: other_record, revision: other_revision } = other else {
        unreachable!("a get")
    };
    match (rng.below(6), &mut record) {
        (0, Some(record)) => record.value = Bytes::from_static(b"nobody wrote this"),
        (1, Some(record)) => record.version += 1,
        (2, _) => revision += 1,
        (3, _) => record = None,
        (4, _) if key == other_key => record = other_record.clone(),
        (_, _) if key == other_key => {
            (record, revision) = (other_record.clone(), *other_revision);
        }
        _ => return None,
    }
    let answer = Answer::Got { record, revision };
    (answer != *told).then_some((id, Ending::Answered { answer, at }))
}

// --- Each rule, broken alone ---

/// Writes histories down: operations that overlap in nothing, unless begun with `begin`.
#[derive(Default)]
struct Scribe {
    history: History,
}

impl Scribe {
    fn begin(&mut self, request: Request) -> OperationId {
        self.history.begin(Time(1), 0, request)
    }

    fn answer(&mut self, id: OperationId, answer: Answer, at: u64) {
        self.history.end(Time(1), id, Ending::Answered { answer, at: Index(at) });
    }

    fn fail(&mut self, id: OperationId, outcome: Outcome) {
        self.history.end(Time(1), id, Ending::Failed { outcome: Some(outcome) });
    }

    fn log(&mut self, at: u64, request: &Request) {
        let command = Command::of(request).unwrap().encode();
        self.history.applied(Time(1), Index(at), &command);
    }

    /// A put that is carried out at `at` and answered so; the revision is the index.
    fn put(&mut self, value: &'static str, at: u64, version: u64) -> OperationId {
        let id = self.begin(put(value));
        self.log(at, &put(value));
        self.answer(id, Answer::Put { revision: at, created: version == 1, version }, at);
        id
    }

    /// A read that is answered at once.
    fn read(&mut self, saw: Option<Record>, at: u64) -> OperationId {
        let id = self.begin(get());
        self.answer(id, Answer::Got { record: saw, revision: at }, at);
        id
    }

    /// A and B pass it.
    fn passes(&self) {
        let texts = |objections: Vec<sim_tests::checkers::Objection>| {
            let texts = objections.iter().map(|it| it.explain(&self.history));
            texts.collect::<Vec<_>>().join("\n")
        };
        judge(&self.history).map_err(texts).unwrap();
    }

    /// A objects in these words, and B objects too.
    fn both_object(&self, words: &str) {
        self.only_a_objects(words, false);
    }

    fn a_objects(&self, words: &str) {
        self.only_a_objects(words, true);
    }

    fn only_a_objects(&self, words: &str, b_passes: bool) {
        let objection = white_box::check(&self.history).expect_err("A objects");
        assert!(objection.what.contains(words), "{objection}, but {words:?} was expected");
        let b = black_box::check(&self.history, black_box::STEPS_MAX);
        assert_eq!(b.is_ok(), b_passes, "{b:?}");
    }
}

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

fn get() -> Request {
    Request::Get { key: key(), level: ReadLevel::Linearizable }
}

fn put(value: &'static str) -> Request {
    Request::Put { key: key(), value: Bytes::from(value), condition: Condition::default() }
}

fn put_if(value: &'static str, revision: u64) -> Request {
    let condition =
        Condition { if_match: Some(Tags::Revisions(vec![revision])), if_none_match: None };
    Request::Put { key: key(), value: Bytes::from(value), condition }
}

fn record(value: &'static str, modified: u64, version: u64) -> Option<Record> {
    let value = Bytes::from(value);
    Some(Record { value, create_revision: 1, mod_revision: modified, version })
}

#[test]
fn reads_that_follow_the_writes_pass() {
    let mut scribe = Scribe::default();
    scribe.read(None, 0);
    scribe.put("a", 1, 1);
    scribe.read(record("a", 1, 1), 1);
    scribe.put("b", 2, 2);
    scribe.read(record("b", 2, 2), 2);
    scribe.passes();
}

#[test]
fn a_stale_read_is_caught() {
    let mut scribe = Scribe::default();
    scribe.put("a", 1, 1);
    scribe.put("b", 2, 2);
    scribe.read(record("a", 1, 1), 1);
    scribe.both_object("took effect at 1, but 2 was seen before it began");
    let read = scribe.history.operations().last().unwrap();
    assert!(white_box::check_order(read).is_err(), "I12 sees it at once");
}

#[test]
fn a_read_older_than_another_read_is_caught() {
    let mut scribe = Scribe::default();
    scribe.put("a", 1, 1);
    let open = scribe.begin(put("b"));
    scribe.log(2, &put("b"));
    scribe.read(record("b", 2, 2), 2);
    scribe.read(record("a", 1, 1), 1);
    scribe.fail(open, Outcome::Unknown);
    scribe.both_object("took effect at 1, but 2 was seen before it began");
}

#[test]
fn a_read_that_may_be_stale_is_held_to_the_log_only() {
    let stale = || Request::Get { key: key(), level: ReadLevel::Stale { max_stale: None } };
    let mut scribe = Scribe::default();
    scribe.put("a", 1, 1);
    scribe.put("b", 2, 2);
    let id = scribe.begin(stale());
    scribe.answer(id, Answer::Got { record: record("a", 1, 1), revision: 1 }, 1);
    scribe.read(record("b", 2, 2), 2);
    scribe.passes();
    let id = scribe.begin(stale());
    scribe.answer(id, Answer::Got { record: record("b", 2, 2), revision: 1 }, 1);
    scribe.a_objects("after entry 1 there is");
}

#[test]
fn a_lost_update_is_caught() {
    let mut scribe = Scribe::default();
    scribe.put("a", 1, 1);
    // Two compare-and-swaps from one revision, both answered as done.
    for (value, at) in [("b", 2), ("c", 3)] {
        let id = scribe.begin(put_if(value, 1));
        scribe.log(at, &put_if(value, 1));
        scribe.answer(id, Answer::Put { revision: at, created: false, version: at }, at);
    }
    scribe.both_object("entry 3 does ConditionFailed");
}

#[test]
fn a_condition_that_failed_without_a_reason_is_caught() {
    let mut scribe = Scribe::default();
    scribe.put("a", 1, 1);
    let id = scribe.begin(put_if("b", 1));
    scribe.log(2, &put_if("b", 1));
    scribe.answer(id, Answer::ConditionFailed { current: Some(1), revision: 1 }, 2);
    scribe.both_object("entry 2 does Put");
}

#[test]
fn a_lost_write_is_caught() {
    let mut scribe = Scribe::default();
    let id = scribe.begin(put("a"));
    scribe.answer(id, Answer::Put { revision: 1, created: true, version: 1 }, 1);
    scribe.a_objects("entry 1, which was never carried out");
    scribe.read(None, 1);
    scribe.both_object("after entry 1 there is");
}

#[test]
fn a_write_carried_out_twice_is_caught() {
    let mut scribe = Scribe::default();
    scribe.put("a", 1, 1);
    scribe.log(2, &put("a"));
    scribe.read(record("a", 2, 2), 2);
    scribe.both_object("entry 2 does what nobody may have done (again)");
    // Also when nobody knows whether it was carried out at all.
    let mut scribe = Scribe::default();
    let id = scribe.begin(put("a"));
    scribe.fail(id, Outcome::Unknown);
    scribe.log(1, &put("a"));
    scribe.read(record("a", 1, 1), 1);
    scribe.passes();
    scribe.log(2, &put("a"));
    scribe.read(record("a", 2, 2), 2);
    scribe.both_object("entry 2 does what nobody may have done (again)");
}

#[test]
fn a_refused_write_that_was_carried_out_is_caught() {
    let mut scribe = Scribe::default();
    let id = scribe.begin(put("a"));
    scribe.fail(id, Outcome::NotApplied);
    scribe.log(1, &put("a"));
    scribe.a_objects("entry 1 does what nobody may have done (again)");
    assert_eq!(values::check(&scribe.history), Ok(()));
    scribe.read(record("a", 1, 1), 1);
    scribe.both_object("entry 1 does what nobody may have done (again)");
    assert!(values::check(&scribe.history).is_err(), "I16: nobody may have written it");
}

#[test]
fn a_write_of_unknown_outcome_may_come_late_or_never() {
    let mut scribe = Scribe::default();
    let (never, late) = (scribe.begin(put("never")), scribe.begin(put("late")));
    scribe.fail(never, Outcome::Unknown);
    scribe.fail(late, Outcome::Unknown);
    scribe.put("a", 1, 1);
    scribe.read(record("a", 1, 1), 1);
    scribe.log(2, &put("late"));
    scribe.read(record("late", 2, 2), 2);
    scribe.passes();
    // But once it came it stays.
    scribe.read(record("a", 1, 1), 2);
    scribe.both_object("after entry 2 there is");
}

#[test]
fn a_value_from_before_it_was_written_is_caught() {
    let mut scribe = Scribe::default();
    scribe.read(record("a", 1, 1), 1);
    scribe.put("a", 1, 1);
    scribe.both_object("took effect at 1, but 1 was seen before it began");
    assert!(values::check(&scribe.history).is_err(), "I16: not yet written");

    let mut scribe = Scribe::default();
    scribe.log(1, &put("a"));
    let id = scribe.begin(put("a"));
    scribe.answer(id, Answer::Put { revision: 1, created: true, version: 1 }, 1);
    scribe.a_objects("entry 1 was applied before it was asked for");
}

#[test]
fn an_entry_answers_to_one_operation_with_its_command() {
    let mut scribe = Scribe::default();
    let other = scribe.begin(put("a"));
    scribe.put("a", 1, 1);
    scribe.answer(other, Answer::Put { revision: 1, created: true, version: 1 }, 1);
    scribe.both_object("two operations were answered with entry 1");

    let mut scribe = Scribe::default();
    let id = scribe.begin(put("a"));
    scribe.log(1, &put("b"));
    scribe.answer(id, Answer::Put { revision: 1, created: true, version: 1 }, 1);
    scribe.a_objects("entry 1 was answered to this operation, but holds");

    let mut scribe = Scribe::default();
    scribe.history.applied(Time(1), Index(1), &Bytes::from_static(b"?"));
    scribe.a_objects("entry 1 is no command");

    let mut scribe = Scribe::default();
    scribe.history.applied(Time(1), Index(1), &Command::default().encode());
    scribe.a_objects("entry 1 is none of a client's");
}

#[test]
fn a_revision_that_goes_back_is_caught() {
    let mut scribe = Scribe::default();
    scribe.put("a", 1, 1);
    let id = scribe.begin(put("b"));
    scribe.log(2, &put("b"));
    scribe.answer(id, Answer::Put { revision: 1, created: false, version: 2 }, 2);
    scribe.both_object("revision 1, but 1 was seen before it began");
}

#[test]
fn a_delete_that_found_nothing_is_caught() {
    let delete = || Request::Delete { key: key(), condition: Condition::default() };
    for (deleted, revision, is_sound) in [(1, 2, true), (0, 1, false), (2, 2, false)] {
        let mut scribe = Scribe::default();
        scribe.put("a", 1, 1);
        let id = scribe.begin(delete());
        scribe.log(2, &delete());
        scribe.answer(id, Answer::Deleted { deleted, revision }, 2);
        if is_sound {
            scribe.passes();
        } else {
            scribe.both_object("entry 2 does Deleted");
        }
    }
}

#[test]
fn a_list_is_checked_by_a() {
    let query = || ListQuery { limit: 10, ..ListQuery::default() };
    let list = || Request::List { query: query(), level: ReadLevel::Linearizable };
    let page = |items: Vec<(Bytes, Record)>| {
        let count = items.len() as u64;
        Answer::Listed(Listed { items, count, next: None, revision: 1 })
    };
    for (items, words) in [
        (vec![(key(), record("a", 1, 1).unwrap())], None),
        (vec![], Some("after entry 1 there is")),
        (vec![(key(), record("b", 1, 1).unwrap())], Some("after entry 1 there is")),
    ] {
        let mut scribe = Scribe::default();
        scribe.put("a", 1, 1);
        let id = scribe.begin(list());
        scribe.answer(id, page(items), 1);
        match words {
            None => scribe.passes(),
            Some(words) => scribe.a_objects(words),
        }
    }
    // I16 looks into lists, too.
    let mut scribe = Scribe::default();
    let id = scribe.begin(list());
    scribe.answer(id, page(vec![(key(), record("b", 1, 1).unwrap())]), 1);
    assert!(values::check(&scribe.history).is_err(), "nobody wrote it");
}

#[test]
fn an_answer_to_another_question_is_caught() {
    for (request, answer) in [
        (get(), Answer::Deleted { deleted: 0, revision: 0 }),
        (put("a"), Answer::Got { record: None, revision: 0 }),
        (put("a"), Answer::Deleted { deleted: 0, revision: 0 }),
    ] {
        let mut scribe = Scribe::default();
        let id = scribe.begin(request.clone());
        if request.is_write() {
            scribe.log(1, &request);
        }
        scribe.answer(id, answer, 1);
        assert!(white_box::check(&scribe.history).is_err());
        let objection = black_box::check(&scribe.history, black_box::STEPS_MAX).unwrap_err();
        assert_eq!(objection.what, "an answer to another question");
    }
}

#[test]
fn an_objection_shows_the_operations_it_is_about() {
    let mut scribe = Scribe::default();
    scribe.put("a", 1, 1);
    scribe.read(None, 1);
    let objections = judge(&scribe.history).unwrap_err();
    assert_eq!(objections.len(), 2, "A and B");
    assert_eq!(
        objections[1].explain(&scribe.history),
        "B (black box): key b\"k\": no order explains the answers; the longest row explains 1 of \
         2 operations, and after it none of these\n  \
         op1 client 0 [1..1] get b\"k\" -> Got { record: None, revision: 1 } at 1"
    );
}
