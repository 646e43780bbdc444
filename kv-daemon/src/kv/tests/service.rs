//! Each test is a story: what is told to a call, and what it says to do. Times are in milliseconds;
//! every call begins at 0 and ends at 5000 at the latest. This node is n1.

use std::time::Duration;

use proptest::prelude::*;
use raft_core::consensus::event::{Refusal, RoleName, Status};
use raft_core::membership::Membership;
use raft_core::proposals::{self, ReadRefused, UnknownCause};
use raft_core::state_machine::{Malformed, StateMachine};
use raft_core::types::{Index, LogPosition, NodeId, Term, Time};

use super::*;
use crate::kv::command::{Done, Reply};
use crate::kv::request::{Answer, Failure, ListQuery, Outcome, ReadLevel, Reason};
use crate::kv::service::{Call, Forwarded, Input, Limits, Phase, Step, View};
use crate::kv::shared::SharedStore;

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);

fn ms(millis: u64) -> Time {
    Time::default() + Duration::from_millis(millis)
}

fn led_by(leader: Option<NodeId>) -> View<'static> {
    View { me: ME, leader, contact: None, phase: Phase::Serving, owns: None }
}

fn view_in(phase: Phase) -> View<'static> {
    View { phase, ..led_by(Some(ME)) }
}

fn get(level: ReadLevel) -> Request {
    Request::Get { key: bytes("k"), level }
}

fn stale(max_stale: Option<u64>) -> Request {
    get(ReadLevel::Stale { max_stale: max_stale.map(Duration::from_millis) })
}

fn call(request: Request) -> Call {
    Call::new(request, ms(5000), 0, Limits::default())
}

fn propose(request: &Request) -> Step {
    Step::Propose(encoded(request))
}

fn forward(to: NodeId) -> Step {
    Step::Forward { to, hops: 1 }
}

fn wait_until(millis: u64) -> Step {
    Step::WaitForLeader { until: ms(millis) }
}

fn failed(reason: Reason, outcome: Outcome) -> Step {
    Step::Answer(Err(Failure { reason, outcome: Some(outcome) }))
}

fn read_failed(reason: Reason) -> Step {
    Step::Answer(Err(Failure { reason, outcome: None }))
}

fn applied(reply: Reply) -> Input {
    let at = LogPosition::new(Index(7), Term(2));
    Input::Proposed(proposals::Outcome::Applied { at, reply })
}

fn refused(refusal: Refusal) -> Input {
    Input::Proposed(proposals::Outcome::Refused(refusal))
}

fn not_leader(leader: Option<NodeId>) -> Input {
    refused(Refusal::NotLeader { leader })
}

fn unknown(cause: UnknownCause) -> Input {
    Input::Proposed(proposals::Outcome::Unknown(cause))
}

const NOT_APPLIED: Input = Input::Proposed(proposals::Outcome::NotApplied);

fn answered(reason: Reason, outcome: Option<Outcome>) -> Input {
    Input::Forwarded(Forwarded::Done(Err(Failure { reason, outcome })))
}

fn put_reply() -> Reply {
    Reply::Succeeded { revision: 4, done: vec![Done::Put { created: true, version: 1 }] }
}

fn put_answer() -> Answer {
    Answer::Put { revision: 4, created: true, version: 1 }
}

/// Tells a story: at this time, with this leader, this happens, and this is to be done.
#[track_caller]
fn tell(mut call: Call, story: Vec<(u64, Option<NodeId>, Input, Step)>) {
    for (line, (now, leader, input, expected)) in story.into_iter().enumerate() {
        let step = call.step(ms(now), &led_by(leader), input.clone());
        assert_eq!(step, expected, "line {line}, at {now} ms after {input:?}");
    }
}

#[test]
fn a_leader_proposes_and_answers_with_what_was_applied() {
    let request = put("k", "v");
    let story = |reply, answer| {
        vec![
            (0, Some(ME), Input::Begin, propose(&request)),
            (5, Some(ME), applied(reply), Step::Answer(answer)),
        ]
    };
    tell(call(request.clone()), story(put_reply(), Ok(put_answer())));

    let failed = Reply::ConditionFailed { current: Some(3), revision: 9, done: vec![] };
    let answer = Answer::ConditionFailed { current: Some(3), revision: 9 };
    tell(call(request.clone()), story(failed, Ok(answer)));

    let malformed = Reply::Malformed(Malformed::new("no"));
    let reason = Reason::Invalid { why: "no".into() };
    let failure = Failure { reason, outcome: Some(Outcome::NotApplied) };
    tell(call(request.clone()), story(malformed, Err(failure)));

    let reply = Reply::Succeeded { revision: 4, done: vec![Done::Deleted { deleted: 1 }] };
    let answer = Ok(Answer::Deleted { deleted: 1, revision: 4 });
    tell(
        call(delete("k")),
        vec![
            (0, Some(ME), Input::Begin, propose(&delete("k"))),
            (5, Some(ME), applied(reply), Step::Answer(answer)),
        ],
    );
}

/// `not applied` for what never reached the log, `unknown` for what may be in it.
#[test]
fn each_end_of_a_proposal_has_its_honest_outcome() {
    use Outcome::{NotApplied, Unknown};
    let too_large = Refusal::TooLarge { bytes: 9, bytes_max: 8 };
    let table = [
        (refused(Refusal::Busy), Reason::Busy, NotApplied),
        (refused(Refusal::NoSpace), Reason::NoSpace, NotApplied),
        (refused(Refusal::Deadline), Reason::Deadline, NotApplied),
        (refused(Refusal::Stopped), Reason::ShuttingDown, NotApplied),
        (refused(too_large), Reason::TooLarge { bytes_max: 8 }, NotApplied),
        (unknown(UnknownCause::Deadline), Reason::Deadline, Unknown),
        (unknown(UnknownCause::SnapshotJump), Reason::LeaderLost, Unknown),
        (unknown(UnknownCause::Stopped), Reason::ShuttingDown, Unknown),
        (unknown(UnknownCause::Failed), Reason::ShuttingDown, Unknown),
        (Input::DeadlinePassed, Reason::Deadline, Unknown),
    ];
    let request = put("k", "v");
    for (input, reason, outcome) in table {
        tell(
            call(request.clone()),
            vec![
                (0, Some(ME), Input::Begin, propose(&request)),
                (9, Some(ME), input, failed(reason, outcome)),
            ],
        );
    }
}

/// What comes back from the leader is believed; what does not come back is unknown.
#[test]
fn each_end_of_a_forwarded_write_has_its_honest_outcome() {
    use Outcome::{NotApplied, Unknown};
    let another = Reason::Invalid { why: "the other node answered another question".into() };
    let wrong = Answer::Deleted { deleted: 1, revision: 4 };
    let table = [
        (Input::Forwarded(Forwarded::Broken), Reason::LeaderLost, Unknown),
        (Input::DeadlinePassed, Reason::Deadline, Unknown),
        (answered(Reason::Busy, Some(NotApplied)), Reason::Busy, NotApplied),
        (answered(Reason::NoLeader, Some(NotApplied)), Reason::NoLeader, NotApplied),
        (answered(Reason::LeaderLost, Some(Unknown)), Reason::LeaderLost, Unknown),
        (answered(Reason::ShuttingDown, Some(Unknown)), Reason::ShuttingDown, Unknown),
        (answered(Reason::Busy, None), Reason::Busy, Unknown),
        (answered(Reason::ShuttingDown, None), Reason::ShuttingDown, Unknown),
        (Input::Forwarded(Forwarded::Done(Ok(wrong))), another, Unknown),
    ];
    for (input, reason, outcome) in table {
        tell(
            call(put("k", "v")),
            vec![
                (0, Some(OTHER), Input::Begin, forward(OTHER)),
                (9, Some(OTHER), input, failed(reason, outcome)),
            ],
        );
    }
    let done = Input::Forwarded(Forwarded::Done(Ok(put_answer())));
    tell(
        call(put("k", "v")),
        vec![
            (0, Some(OTHER), Input::Begin, forward(OTHER)),
            (9, Some(OTHER), done, Step::Answer(Ok(put_answer()))),
        ],
    );
}

/// Whatever leaves the fate of a write open ends the call: nothing is ever sent after it.
#[test]
fn a_write_whose_fate_is_open_is_never_sent_again() {
    let open = [
        (ME, unknown(UnknownCause::Deadline)),
        (ME, unknown(UnknownCause::SnapshotJump)),
        (ME, unknown(UnknownCause::Stopped)),
        (ME, unknown(UnknownCause::Failed)),
        (ME, Input::DeadlinePassed),
        (OTHER, Input::Forwarded(Forwarded::Broken)),
        (OTHER, Input::DeadlinePassed),
        (OTHER, answered(Reason::ShuttingDown, Some(Outcome::Unknown))),
        (OTHER, answered(Reason::TooManyHops, None)),
    ];
    for (leader, input) in open {
        let mut call = call(put("k", "v"));
        call.step(ms(0), &led_by(Some(leader)), Input::Begin);
        let step = call.step(ms(1), &led_by(Some(leader)), input.clone());
        let Step::Answer(Err(failure)) = step else { panic!("{input:?} went on: {step:?}") };
        assert_eq!(failure.outcome, Some(Outcome::Unknown), "{input:?}");
    }
}

#[test]
fn without_a_leader_a_request_waits_two_seconds() {
    for (request, end) in [
        (put("k", "v"), failed(Reason::NoLeader, Outcome::NotApplied)),
        (get(ReadLevel::Linearizable), read_failed(Reason::NoLeader)),
    ] {
        tell(
            call(request),
            vec![
                (100, None, Input::Begin, wait_until(2100)),
                // Woken for nothing: the wait does not begin again.
                (900, None, Input::Waited, wait_until(2100)),
                (2100, None, Input::Waited, end),
            ],
        );
    }
}

#[test]
fn a_request_waits_no_longer_than_its_deadline() {
    let call = Call::new(put("k", "v"), ms(300), 0, Limits::default());
    tell(
        call,
        vec![
            (100, None, Input::Begin, wait_until(300)),
            (300, Some(ME), Input::Waited, failed(Reason::NoLeader, Outcome::NotApplied)),
        ],
    );
    let late = Call::new(put("k", "v"), ms(300), 0, Limits::default());
    let end = failed(Reason::Deadline, Outcome::NotApplied);
    tell(late, vec![(300, Some(ME), Input::Begin, end)]);
    let waiting = Call::new(get(ReadLevel::Linearizable), ms(300), 0, Limits::default());
    tell(
        waiting,
        vec![
            (100, None, Input::Begin, wait_until(300)),
            (300, None, Input::DeadlinePassed, read_failed(Reason::NoLeader)),
        ],
    );
}

#[test]
fn a_new_leader_ends_the_wait() {
    let request = put("k", "v");
    tell(
        call(request.clone()),
        vec![
            (0, None, Input::Begin, wait_until(2000)),
            (50, Some(OTHER), Input::Waited, forward(OTHER)),
            // Nothing left: not applied, so it may go elsewhere. The view may lag: look again soon.
            (60, Some(OTHER), Input::Forwarded(Forwarded::NothingSent), wait_until(80)),
            (80, Some(ME), Input::Waited, propose(&request)),
            (85, Some(ME), applied(put_reply()), Step::Answer(Ok(put_answer()))),
        ],
    );
}

/// A leader that cannot be reached, or is none, is asked again only so long.
#[test]
fn retries_end_after_two_seconds() {
    let request = put("k", "v");
    for (leader, step, input) in [
        (OTHER, forward(OTHER), Input::Forwarded(Forwarded::NothingSent)),
        (ME, propose(&request), not_leader(None)),
        (ME, propose(&request), not_leader(Some(ME))),
        (ME, propose(&request), refused(Refusal::Transferring { to: OTHER })),
    ] {
        tell(
            call(request.clone()),
            vec![
                (0, Some(leader), Input::Begin, step.clone()),
                (10, Some(leader), input.clone(), wait_until(30)),
                (30, Some(leader), Input::Waited, step.clone()),
                (40, None, input.clone(), wait_until(2010)),
                (2009, Some(leader), Input::Waited, step),
                (2010, Some(leader), input, failed(Reason::NoLeader, Outcome::NotApplied)),
            ],
        );
    }
    let mut read = call(get(ReadLevel::Linearizable));
    let mut now = 0;
    let mut step = read.step(ms(0), &led_by(Some(OTHER)), Input::Begin);
    while step == Step::Barrier {
        let refusal = Err(ReadRefused::NotLeader { leader: Some(OTHER) });
        step = read.step(ms(now), &led_by(Some(OTHER)), Input::Barrier(refusal));
        if let Step::WaitForLeader { until } = step {
            assert!(ms(now) < until, "a wait that is none");
            now = until.0 / 1_000_000;
            step = read.step(until, &led_by(Some(OTHER)), Input::Waited);
        }
    }
    assert_eq!((now, step), (2000, read_failed(Reason::NoLeader)));
}

/// Another entry is committed in its place: certainly not applied, so it may begin again.
#[test]
fn a_write_that_lost_its_place_is_proposed_again_while_there_is_time() {
    let request = put("k", "v");
    tell(
        call(request.clone()),
        vec![
            (0, None, Input::Begin, wait_until(2000)),
            (1500, Some(ME), Input::Waited, propose(&request)),
            // There was a leader: the wait for the next one is a new one.
            (1900, None, NOT_APPLIED, wait_until(3900)),
            (2000, Some(OTHER), Input::Waited, forward(OTHER)),
            (2010, Some(OTHER), Input::Forwarded(Forwarded::Broken), {
                failed(Reason::LeaderLost, Outcome::Unknown)
            }),
        ],
    );
    tell(
        call(request.clone()),
        vec![
            (0, Some(ME), Input::Begin, propose(&request)),
            (5000, Some(ME), NOT_APPLIED, failed(Reason::LeaderLost, Outcome::NotApplied)),
        ],
    );
}

#[test]
fn a_hint_is_followed_at_once() {
    let request = put("k", "v");
    tell(
        call(request.clone()),
        vec![
            (0, Some(ME), Input::Begin, propose(&request)),
            (1, Some(ME), not_leader(Some(THIRD)), forward(THIRD)),
        ],
    );
}

#[test]
fn a_request_is_handed_on_three_times_at_most() {
    let third = Call::new(put("k", "v"), ms(5000), 2, Limits::default());
    tell(third, vec![(0, Some(OTHER), Input::Begin, Step::Forward { to: OTHER, hops: 3 })]);

    let request = put("k", "v");
    let end = failed(Reason::TooManyHops, Outcome::NotApplied);
    let fourth = Call::new(request.clone(), ms(5000), 3, Limits::default());
    tell(fourth, vec![(0, Some(OTHER), Input::Begin, end.clone())]);
    let by_hint = Call::new(request.clone(), ms(5000), 3, Limits::default());
    tell(
        by_hint,
        vec![
            (0, Some(ME), Input::Begin, propose(&request)),
            (1, Some(ME), not_leader(Some(THIRD)), end),
        ],
    );
}

/// The first node tries elsewhere when the other one certainly did nothing; the others say so back.
#[test]
fn only_the_first_node_tries_again_after_a_refusal_elsewhere() {
    let elsewhere = [Reason::TooManyHops, Reason::ShuttingDown, Reason::Forming, Reason::Restoring];
    for reason in elsewhere {
        let input = answered(reason.clone(), Some(Outcome::NotApplied));
        tell(
            call(put("k", "v")),
            vec![
                (0, Some(OTHER), Input::Begin, forward(OTHER)),
                (5, Some(OTHER), input.clone(), wait_until(25)),
                (9, Some(THIRD), Input::Waited, forward(THIRD)),
            ],
        );
        let second = Call::new(put("k", "v"), ms(5000), 1, Limits::default());
        tell(
            second,
            vec![
                (0, Some(OTHER), Input::Begin, Step::Forward { to: OTHER, hops: 2 }),
                (5, Some(OTHER), input, failed(reason, Outcome::NotApplied)),
            ],
        );
    }
}

#[test]
fn a_linearizable_read_passes_a_barrier_on_any_node_and_is_tried_again_at_will() {
    let moved = || Input::Barrier(Err(ReadRefused::NotLeader { leader: Some(THIRD) }));
    let handing_over = || Input::Barrier(Err(ReadRefused::Transferring { to: THIRD }));
    for leader in [ME, OTHER] {
        tell(
            call(get(ReadLevel::Linearizable)),
            vec![
                (0, Some(leader), Input::Begin, Step::Barrier),
                (5, None, moved(), wait_until(2005)),
                (50, Some(THIRD), Input::Waited, Step::Barrier),
                (60, Some(THIRD), handing_over(), wait_until(80)),
                (80, Some(THIRD), Input::Waited, Step::Barrier),
                (90, Some(THIRD), Input::Barrier(Ok(Index(3))), Step::Read),
            ],
        );
    }
}

#[test]
fn a_read_never_carries_an_outcome() {
    let ends = [
        (Input::Barrier(Err(ReadRefused::Busy)), Reason::Busy),
        (Input::Barrier(Err(ReadRefused::Deadline)), Reason::Deadline),
        (Input::Barrier(Err(ReadRefused::Stopped)), Reason::ShuttingDown),
        (Input::DeadlinePassed, Reason::Deadline),
    ];
    for (input, reason) in ends {
        tell(
            call(get(ReadLevel::Linearizable)),
            vec![
                (0, Some(ME), Input::Begin, Step::Barrier),
                (9, Some(ME), input, read_failed(reason)),
            ],
        );
    }
}

#[test]
fn a_stale_read_asks_nobody_but_keeps_its_bound() {
    let contact = |millis: Option<u64>| View { contact: millis.map(ms), ..led_by(None) };
    let too_stale = |millis: Option<u64>| {
        read_failed(Reason::TooStale { last_contact: millis.map(Duration::from_millis) })
    };
    let table = [
        (stale(None), contact(None), Step::Read),
        (stale(None), contact(Some(10)), Step::Read),
        (stale(Some(100)), contact(Some(900)), Step::Read),
        (stale(Some(100)), contact(Some(899)), too_stale(Some(101))),
        (stale(Some(100)), contact(None), too_stale(None)),
        (stale(Some(0)), contact(Some(1000)), Step::Read),
    ];
    for (request, view, expected) in table {
        assert_eq!(
            call(request.clone()).step(ms(1000), &view, Input::Begin),
            expected,
            "{request:?}"
        );
    }
}

#[test]
fn a_node_says_what_it_cannot_do_yet_or_any_more() {
    use Outcome::NotApplied;
    let table = [
        (put("k", "v"), Phase::Forming, failed(Reason::Forming, NotApplied)),
        (put("k", "v"), Phase::Stopping, failed(Reason::ShuttingDown, NotApplied)),
        (put("k", "v"), Phase::Restoring, propose(&put("k", "v"))),
        (get(ReadLevel::Linearizable), Phase::Forming, read_failed(Reason::Forming)),
        (get(ReadLevel::Linearizable), Phase::Stopping, read_failed(Reason::ShuttingDown)),
        // The barrier holds it back until the state is there.
        (get(ReadLevel::Linearizable), Phase::Restoring, Step::Barrier),
        (stale(None), Phase::Forming, read_failed(Reason::Forming)),
        (stale(None), Phase::Restoring, read_failed(Reason::Restoring)),
        (stale(None), Phase::Serving, Step::Read),
    ];
    for (request, phase, expected) in table {
        let step = call(request.clone()).step(ms(0), &view_in(phase), Input::Begin);
        assert_eq!(step, expected, "{request:?} while {phase:?}");
    }
}

/// Also on a follower: what no leader would take is not sent to one.
#[test]
fn an_unsound_or_too_large_request_goes_nowhere() {
    let limits = Limits { value_bytes_max: 3 };
    let too_large = failed(Reason::TooLarge { bytes_max: 3 }, Outcome::NotApplied);
    let empty = Reason::Invalid { why: "a key must not be empty".into() };
    let long = Reason::Invalid { why: "a key is at most 4096 bytes long".into() };
    let limit = Reason::Invalid { why: "a list's limit is 1 to 10000".into() };
    let list = Request::List { query: ListQuery::default(), level: ReadLevel::Linearizable };
    let table = [
        (put("k", "1234"), too_large),
        (put("k", "123"), forward(OTHER)),
        (put("", ""), failed(empty.clone(), Outcome::NotApplied)),
        (delete(&"k".repeat(4097)), failed(long, Outcome::NotApplied)),
        (Request::Get { key: Bytes::new(), level: ReadLevel::Linearizable }, read_failed(empty)),
        (list, read_failed(limit)),
    ];
    for (request, expected) in table {
        let mut call = Call::new(request.clone(), ms(5000), 0, limits);
        assert_eq!(call.step(ms(0), &led_by(Some(OTHER)), Input::Begin), expected, "{request:?}");
    }
}

#[test]
fn a_read_is_answered_from_the_store_of_this_node() {
    let mut store = SharedStore::new();
    store.apply(LogPosition::new(Index(1), Term(1)), &encoded(&put("k", "v")));
    let record = match call(stale(None)).read(&store) {
        Ok(Answer::Got { record: Some(record), revision: 1 }) => record,
        other => panic!("{other:?}"),
    };
    assert_eq!(record.value, bytes("v"));
    let query = ListQuery { limit: 1, ..ListQuery::default() };
    let list = Request::List { query: query.clone(), level: ReadLevel::Linearizable };
    assert_eq!(call(list).read(&store), Ok(Answer::Listed(store.list(&query))));
}

/// The core's view of itself, as a call needs it: also a leader that does not name itself leads.
#[test]
fn a_view_names_the_leader() {
    let status = |role, leader| Status {
        id: ME,
        role,
        term: Term(2),
        leader,
        contact: Some(ms(7)),
        snapshot: LogPosition::ORIGIN,
        last: LogPosition::ORIGIN,
        durable: Index::ZERO,
        committed: Index::ZERO,
        applied: Index::ZERO,
        ready: true,
        membership: Membership::default(),
        peers: vec![],
        dropped: 0,
    };
    let view = |role, leader| View::of(&status(role, leader), Phase::Serving);
    let expected = |leader| View { contact: Some(ms(7)), ..led_by(leader) };
    assert_eq!(view(RoleName::Leader, None), expected(Some(ME)));
    assert_eq!(view(RoleName::Leader, Some(ME)), expected(Some(ME)));
    assert_eq!(view(RoleName::Follower, Some(OTHER)), expected(Some(OTHER)));
    assert_eq!(view(RoleName::Candidate, None), expected(None));
}

#[test]
fn a_command_at_hand_is_proposed_as_it_is() {
    let request = put("k", "v");
    let command = encoded(&request);
    let mut call = call(request).with_command(command.clone());
    let Step::Propose(proposed) = call.step(ms(0), &led_by(Some(ME)), Input::Begin) else {
        panic!("a leader proposes");
    };
    assert_eq!(proposed.as_ptr(), command.as_ptr());
}

/// What may come of a step, and whether it leaves the fate of a write open.
fn ends_of(step: &Step) -> Vec<(Input, bool)> {
    let not_led = |leader| refused(Refusal::NotLeader { leader });
    let shut = |outcome| answered(Reason::ShuttingDown, outcome);
    match step {
        Step::Propose(_) => vec![
            (not_led(None), false),
            (not_led(Some(OTHER)), false),
            (not_led(Some(ME)), false),
            (refused(Refusal::Transferring { to: THIRD }), false),
            (refused(Refusal::Busy), false),
            (NOT_APPLIED, false),
            (unknown(UnknownCause::Deadline), true),
            (unknown(UnknownCause::SnapshotJump), true),
            (unknown(UnknownCause::Stopped), true),
            (Input::DeadlinePassed, true),
        ],
        Step::Forward { .. } | Step::ForwardTo { .. } => vec![
            (Input::Forwarded(Forwarded::NothingSent), false),
            (shut(Some(Outcome::NotApplied)), false),
            (answered(Reason::TooManyHops, Some(Outcome::NotApplied)), false),
            (answered(Reason::NoLeader, Some(Outcome::NotApplied)), false),
            (shut(Some(Outcome::Unknown)), true),
            (shut(None), true),
            (Input::Forwarded(Forwarded::Broken), true),
            (Input::DeadlinePassed, true),
        ],
        Step::WaitForLeader { .. } => vec![(Input::Waited, false), (Input::DeadlinePassed, false)],
        Step::Barrier | Step::Read | Step::Answer(_) => unreachable!("no step of an open write"),
    }
}

proptest! {
    /// Whatever happens in whatever order: a write goes on only while nothing of it can be applied,
    /// it says `not applied` exactly when that is certain, and it ends by its deadline.
    #[test]
    fn a_write_is_honest_in_every_story(
        hops in 0..5u8,
        chapters in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..4u64, 0..400u64), 60..61,
        ),
    ) {
        let mut call = Call::new(put("k", "v"), ms(5000), hops, Limits::default());
        let (mut now, mut is_open) = (0, false);
        let mut input = Input::Begin;
        let mut is_over = false;
        for (which, leader, later) in chapters {
            let view = led_by((leader != 0).then_some(NodeId(leader)));
            let step = call.step(ms(now), &view, input.clone());
            if let Step::Answer(answer) = step {
                let outcome = answer.expect_err("nothing was applied").outcome;
                let expected = if is_open { Outcome::Unknown } else { Outcome::NotApplied };
                prop_assert_eq!(outcome, Some(expected));
                is_over = true;
                break;
            }
            prop_assert!(!is_open, "sent again although it may be applied: {:?}", step);
            if let Step::Forward { hops: told, .. } = step {
                prop_assert!(told == hops + 1 && told <= 3);
            }
            if let Step::WaitForLeader { until } = step {
                prop_assert!(ms(now) < until && until <= ms(5000));
            }
            let ends = ends_of(&step);
            (input, is_open) = ends[which.index(ends.len())].clone();
            // The time of an answer to an attempt is the world's; it never comes after the deadline
            // without saying so.
            now += later;
            if 5000 <= now {
                (input, is_open) = (Input::DeadlinePassed, !matches!(step, Step::WaitForLeader { .. }));
            }
        }
        prop_assert!(is_over || now < 5000, "it goes on after its deadline");
    }
}
