//! An array of clusters in the log, in the store and on the path of a request. This node is n1 of
//! cluster `a`; there are 16 slots.

use std::collections::BTreeMap;
use std::sync::Arc;

use carp::array::Epoch;
use carp::ownership::Applied;
use carp::{Array, Change, Member, MemberId, Ownership, SlotBits};
use raft_core::consensus::event::Refusal;
use raft_core::proposals;
use raft_core::state_machine::{Restore, StateMachine};
use raft_core::types::{Index, LogPosition, NodeId, Term, Time};

use super::*;
use crate::kv::command::{Compare, Done, Operation, Reply, Test};
use crate::kv::request::{Answer, Failure, ListQuery, Outcome, ReadLevel, Reason};
use crate::kv::service::{Call, Forwarded, Input, LEADER_WAIT_MAX, Limits, Phase, Step, View};
use crate::kv::sharding::{Misplaced, ShardCommand};
use crate::kv::shared::SharedStore;
use crate::kv::store::Store;

const ME: NodeId = NodeId(1);

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn array(names: &[&str]) -> Array {
    let member = |name: &&str| Member::new(id(name), vec![format!("http://{name}:1")]);
    let members = names.iter().map(member).collect();
    Array::fresh("kv", SlotBits::new(4).unwrap(), 0, members).unwrap()
}

fn after(array: &Array, change: Change) -> Array {
    let mut next = array.clone();
    next.apply_plan(&array.plan(change).unwrap()).unwrap();
    next
}

fn set_map(me: &str, map: &Array) -> Bytes {
    ShardCommand::SetMap { cluster: id(me), text: map.to_json().into() }.encode()
}

fn adopt(applied: &[(&str, u64)]) -> Bytes {
    let applied = applied
        .iter()
        .map(|(name, epoch)| (id(name), Applied { epoch: Epoch(*epoch), settled: Epoch(*epoch) }));
    ShardCommand::Adopt { applied: applied.collect() }.encode()
}

/// A key of this cluster, the `n`-th of them.
fn key_of(map: &Array, cluster: &str, n: usize) -> String {
    let keys = (0..).map(|n| format!("k{n}"));
    keys.filter(|key| map.route(key.as_bytes()).member.id.as_str() == cluster).nth(n).unwrap()
}

fn set(epoch: u64, changed: bool) -> Reply {
    Reply::MapSet { epoch: Epoch(epoch), changed }
}

#[test]
fn commands_have_these_bytes() {
    let set = ShardCommand::SetMap { cluster: id("a"), text: bytes("{}") };
    assert_eq!(&set.encode()[..], b"\x02\x01a{}");
    assert_eq!(&adopt(&[("b", 7)])[..], b"\x03\x01\0\x01b\x07\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
    for command in [set.encode(), adopt(&[("b", 7), ("c", 9)])] {
        assert_eq!(ShardCommand::decode(&command).unwrap().encode(), command);
        for cut in 0..command.len() {
            if command[0] == 3 || cut < 3 {
                ShardCommand::decode(&command.slice(..cut)).expect_err("cut");
            }
        }
    }
    for junk in [&b"\x02\x00{}"[..], b"\x02\x02a b", b"\x03\xff\xff", b"\x03\0\0x"] {
        let mut store = Store::default();
        let reply = store.apply(&Bytes::copy_from_slice(junk));
        assert!(matches!(reply, Reply::Malformed(_)), "{junk:?}: {reply:?}");
        assert_eq!(store, Store::default());
    }
}

#[test]
fn a_map_is_taken_or_refused_and_then_the_old_one_stays() {
    let first = array(&["a", "b"]);
    let second = after(&first, Change::Weight(id("a"), 3));
    let mut store = Store::default();
    assert_eq!(store.apply(&set_map("a", &second)), set(2, true));
    assert_eq!(store.apply(&set_map("a", &second)), set(2, false), "it has it");
    let before = store.clone();
    let refused: Vec<(Bytes, &str)> = vec![
        (set_map("a", &first), "a copy of epoch 1 cannot replace one of epoch 2"),
        (
            set_map("a", &after(&first, Change::Weight(id("a"), 4))),
            "two different arrays of epoch 2",
        ),
        (set_map("b", &after(&second, Change::Drain(id("b")))), "called a in its log, not b"),
        (set_map("a", &array(&["b", "c"])), "cannot replace"),
        (
            ShardCommand::SetMap { cluster: id("a"), text: bytes("{") }.encode(),
            "not an array in JSON",
        ),
    ];
    for (command, why) in refused {
        let Reply::MapRefused(refused) = store.apply(&command) else { panic!("taken: {why}") };
        assert!(refused.to_string().contains(why), "{refused} / {why}");
        assert_eq!(store, before);
    }
    let mut alone = Store::default();
    let refused = alone.apply(&set_map("c", &first));
    assert!(matches!(&refused, Reply::MapRefused(why) if why.to_string().contains("no member")));
    assert_eq!((alone.revision(), alone.ownership()), (0, None));
}

#[test]
fn a_map_by_which_keys_would_be_lost_is_refused_with_their_number() {
    let map = array(&["a", "b"]);
    let (ours, theirs) = (key_of(&map, "a", 0), [key_of(&map, "b", 0), key_of(&map, "b", 1)]);
    let mut store = Store::default();
    for key in [&ours, &theirs[0], &theirs[1]] {
        store.apply(&encoded(&put(key, "v")));
    }
    let Reply::MapRefused(refused) = store.apply(&set_map("a", &map)) else { panic!("taken") };
    assert!(refused.to_string().contains("holds 2 keys"), "{refused}");
    for key in &theirs {
        assert!(store.get(key.as_bytes()).unwrap().is_some(), "it still owns every slot");
        store.apply(&encoded(&delete(key)));
    }
    assert_eq!(store.apply(&set_map("a", &map)), set(1, true));
    assert!(store.get(ours.as_bytes()).unwrap().is_some());
    let drained = after(&map, Change::Drain(id("a")));
    let Reply::MapRefused(refused) = store.apply(&set_map("a", &drained)) else { panic!("taken") };
    assert!(refused.to_string().contains("holds 1 keys"), "{refused}");
}

/// Ownership is tested at the command's place in the log, for each key that is looked at or written.
#[test]
fn what_is_not_ours_is_neither_read_nor_written() {
    let map = array(&["a", "b", "c"]);
    let mut store = Store::default();
    store.apply(&set_map("a", &map));
    let [ours, of_b, of_c] = ["a", "b", "c"].map(|cluster| key_of(&map, cluster, 0));
    let before = store.clone();
    for request in [put(&of_b, "v"), delete(&of_b)] {
        assert_eq!(store.apply(&encoded(&request)), Reply::Misplaced(Misplaced::Elsewhere));
    }
    assert_eq!(store.get(of_b.as_bytes()), Err(Misplaced::Elsewhere));
    let put_of = |key: &str| Operation::Put { key: bytes(key), value: bytes("v") };
    let compare = |key: &str| Compare { key: bytes(key), test: Test::Absent };
    let apart = |owners: &[(&str, &[&String])]| {
        let keys = |keys: &[&String]| keys.iter().map(|key| bytes(key)).collect::<Vec<_>>();
        let owners = owners.iter().map(|(owner, of)| (id(owner), keys(of)));
        Reply::Misplaced(Misplaced::Apart(owners.collect::<BTreeMap<_, _>>()))
    };
    let of = |compares: &[&str], then: &[&str], otherwise: &[&str]| {
        let command = Command {
            compares: compares.iter().map(|key| compare(key)).collect(),
            then: then.iter().map(|key| put_of(key)).collect(),
            otherwise: otherwise.iter().map(|key| put_of(key)).collect(),
        };
        command.encode()
    };
    let (a, b, c) = (ours.as_str(), of_b.as_str(), of_c.as_str());
    let elsewhere = Reply::Misplaced(Misplaced::Elsewhere);
    assert_eq!(store.apply(&of(&[b], &[b], &[])), elsewhere);
    assert_eq!(store.apply(&of(&[], &[a, b, b], &[])), apart(&[("a", &[&ours]), ("b", &[&of_b])]));
    assert_eq!(store.apply(&of(&[c], &[a], &[])), apart(&[("a", &[&ours]), ("c", &[&of_c])]));
    assert_eq!(store.apply(&of(&[], &[b], &[c])), apart(&[("b", &[&of_b]), ("c", &[&of_c])]));
    assert_eq!(store, before, "nothing was changed");
    let done = vec![Done::Put { created: true, version: 1 }];
    assert_eq!(store.apply(&of(&[a], &[a], &[])), Reply::Succeeded { revision: 1, done });
}

#[test]
fn a_slot_that_is_coming_is_not_served_until_its_giver_has_let_go() {
    let first = array(&["a", "b"]);
    let second = after(&first, Change::Drain(id("b")));
    let mut store = Store::default();
    store.apply(&set_map("a", &first));
    assert_eq!(store.apply(&set_map("a", &second)), set(2, true));
    let key = key_of(&first, "b", 0);
    let write = encoded(&put(&key, "v"));
    assert_eq!(store.apply(&write), Reply::Misplaced(Misplaced::Elsewhere));
    assert_eq!(store.apply(&adopt(&[("b", 1)])), Reply::Adopted { changed: false });
    assert_eq!(store.apply(&write), Reply::Misplaced(Misplaced::Elsewhere));
    assert_eq!(store.apply(&adopt(&[("b", 2)])), Reply::Adopted { changed: true });
    assert!(matches!(store.apply(&write), Reply::Succeeded { revision: 1, .. }));
    assert_eq!(Store::default().apply(&adopt(&[("b", 2)])), Reply::Adopted { changed: false });
}

#[test]
fn a_snapshot_holds_what_is_owned() {
    let first = array(&["a", "b"]);
    let second = after(&first, Change::Drain(id("b")));
    let mut store = SharedStore::new();
    let at = |index| LogPosition::new(Index(index), Term(1));
    store.apply(at(1), &set_map("a", &first));
    store.apply(at(2), &encoded(&put(&key_of(&first, "a", 0), "v")));
    let without = store.view().digest();
    store.apply(at(3), &set_map("a", &second));
    assert_ne!(store.view().digest(), without, "the map is part of the state");

    let mut source = store.snapshot();
    let mut restored = SharedStore::new();
    restored.restore(Restore::Begin).unwrap();
    while let Some(piece) = source.next_piece() {
        restored.restore(Restore::Piece(piece)).unwrap();
    }
    restored.restore(Restore::End).unwrap();
    assert!(restored.view() == store.view());
    assert_eq!(restored.view().digest(), store.view().digest());
    let own = restored.ownership().unwrap();
    assert_eq!((own.serving(), own.coming(), restored.map_epoch()), (8, 8, Some(2)));
}

/// A map so large that it fills more than one piece.
#[test]
fn a_large_map_is_cut_into_pieces_and_joined_again() {
    let member = |n: usize| {
        let urls = vec![format!("http://{}:1", "h".repeat(200)); 8];
        Member::new(id(&format!("cluster-{n}")), urls)
    };
    let members = (0..900).map(member).collect();
    let map = Array::fresh("kv", SlotBits::new(10).unwrap(), 0, members).unwrap();
    let mut store = SharedStore::new();
    let at = |index| LogPosition::new(Index(index), Term(1));
    store.apply(at(1), &set_map("cluster-7", &map));
    let ours = key_of(&map, "cluster-7", 0);
    store.apply(at(2), &encoded(&put(&ours, "v")));
    let mut source = store.snapshot();
    let pieces: Vec<Bytes> = std::iter::from_fn(|| source.next_piece()).collect();
    assert!(1 < pieces.len(), "{} pieces", pieces.len());
    let mut restored = SharedStore::new();
    restored.restore(Restore::Begin).unwrap();
    for piece in pieces {
        restored.restore(Restore::Piece(piece)).unwrap();
    }
    restored.restore(Restore::End).unwrap();
    assert!(restored.view() == store.view());
}

#[test]
fn loads_are_counted_by_slot() {
    let map = array(&["a", "b"]);
    let mut store = Store::default();
    assert!(store.slot_loads().is_empty());
    store.apply(&set_map("a", &map));
    let key = key_of(&map, "a", 0);
    store.apply(&encoded(&put(&key, "value")));
    let loads = store.slot_loads();
    let slot = usize::from(map.slot(key.as_bytes()).0);
    assert_eq!((loads[slot].keys, loads[slot].bytes), (1, key.len() as u64 + 5));
    assert_eq!(loads.iter().map(|load| load.keys).sum::<u64>(), 1);
}

// The path of a request.

fn owned(map: &Array) -> Ownership {
    Ownership::next(None, &id("a"), map.clone(), |_| 0).unwrap().unwrap()
}

fn view(owns: &Ownership) -> View<'_> {
    View { me: ME, leader: Some(ME), contact: None, phase: Phase::Serving, owns: Some(owns) }
}

fn ms(millis: u64) -> Time {
    Time::default() + std::time::Duration::from_millis(millis)
}

fn call(request: &Request, hops: u8, epoch: Option<u64>) -> Call {
    Call::new(request.clone(), ms(5000), hops, Limits::default()).with_client_epoch(epoch)
}

fn get(key: &str) -> Request {
    Request::Get { key: bytes(key), level: ReadLevel::Linearizable }
}

fn failed(reason: Reason, outcome: Option<Outcome>) -> Step {
    Step::Answer(Err(Failure { reason, outcome }))
}

#[test]
fn a_request_for_another_cluster_is_handed_on_or_its_client_is_told() {
    let map = array(&["a", "b"]);
    let own = owned(&map);
    let (ours, theirs) = (key_of(&map, "a", 0), key_of(&map, "b", 0));
    let urls = vec!["http://b:1".to_owned()];
    let on = |hops| Step::ForwardTo { cluster: id("b"), urls: urls.clone(), hops };
    let moved = Box::new(own.moved(theirs.as_bytes()).unwrap());
    for request in [put(&theirs, "v"), get(&theirs), delete(&theirs)] {
        let begin =
            |hops, epoch| call(&request, hops, epoch).step(ms(0), &view(&own), Input::Begin);
        let outcome = request.is_write().then_some(Outcome::NotApplied);
        assert_eq!(begin(0, None), on(1), "a plain client needs to know nothing");
        assert_eq!(begin(0, Some(1)), failed(Reason::Moved(moved.clone()), outcome));
        assert_eq!(begin(0, Some(9)), on(1), "it knows better than we do");
        assert_eq!(begin(2, Some(1)), on(3), "who hands on has no map to correct");
        assert_eq!(begin(3, None), failed(Reason::TooManyHops, outcome));
    }
    for epoch in [None, Some(1)] {
        let step = call(&put(&ours, "v"), 0, epoch).step(ms(0), &view(&own), Input::Begin);
        assert_eq!(step, Step::Propose(encoded(&put(&ours, "v"))));
        let step = call(&get(&ours), 0, epoch).step(ms(0), &view(&own), Input::Begin);
        assert_eq!(step, Step::Barrier);
    }
    let query = ListQuery { limit: 1, ..ListQuery::default() };
    let list = Request::List { query, level: ReadLevel::Linearizable };
    let step = call(&list, 0, Some(1)).step(ms(0), &view(&own), Input::Begin);
    assert_eq!(step, Step::Barrier, "a list is of this cluster");
}

/// What another cluster says, and what cannot be known, reaches the client as it is.
#[test]
fn a_write_handed_on_is_honest() {
    let map = array(&["a", "b"]);
    let own = owned(&map);
    let theirs = key_of(&map, "b", 0);
    let began = |request: &Request| {
        let mut call = call(request, 0, None);
        let step = call.step(ms(0), &view(&own), Input::Begin);
        assert!(matches!(step, Step::ForwardTo { .. }), "{step:?}");
        call
    };
    let end =
        |request: &Request, came| began(request).step(ms(9), &view(&own), Input::Forwarded(came));
    let write = put(&theirs, "v");
    let answer = Answer::Put { revision: 3, created: true, version: 1 };
    assert_eq!(end(&write, Forwarded::Done(Ok(answer.clone()))), Step::Answer(Ok(answer)));
    let unknown = failed(Reason::LeaderLost, Some(Outcome::Unknown));
    assert_eq!(end(&write, Forwarded::Broken), unknown);
    let busy = Failure { reason: Reason::Busy, outcome: Some(Outcome::NotApplied) };
    assert_eq!(end(&write, Forwarded::Done(Err(busy.clone()))), Step::Answer(Err(busy)));

    // Nothing was sent, and a read may be sent again: both are tried again, for a while.
    for (request, came) in [
        (&write, Forwarded::NothingSent),
        (&get(&theirs), Forwarded::NothingSent),
        (&get(&theirs), Forwarded::Broken),
    ] {
        let mut call = began(request);
        let step = call.step(ms(9), &view(&own), Input::Forwarded(came.clone()));
        assert_eq!(step, Step::WaitForLeader { until: ms(29) });
        let step = call.step(ms(29), &view(&own), Input::Waited);
        assert!(matches!(step, Step::ForwardTo { .. }), "{step:?}");
        let late = ms(9) + LEADER_WAIT_MAX;
        let step = call.step(late, &view(&own), Input::Forwarded(came));
        let outcome = request.is_write().then_some(Outcome::NotApplied);
        assert_eq!(step, failed(Reason::Unreachable { cluster: id("b") }, outcome));
    }
}

/// The map here was older than the log: what the store says decides, and then the request goes on.
#[test]
fn the_store_has_the_last_word() {
    let first = array(&["a", "b"]);
    let second = after(&first, Change::Drain(id("a")));
    let before = owned(&first);
    let now = Ownership::next(Some(&before), &id("a"), second, |_| 0).unwrap().unwrap();
    let key = key_of(&first, "a", 0);
    let on = Step::ForwardTo { cluster: id("b"), urls: vec!["http://b:1".into()], hops: 1 };

    let mut write = call(&put(&key, "v"), 0, None);
    assert!(matches!(write.step(ms(0), &view(&before), Input::Begin), Step::Propose(_)));
    let at = LogPosition::new(Index(7), Term(2));
    let reply = Reply::Misplaced(Misplaced::Elsewhere);
    let came = Input::Proposed(proposals::Outcome::Applied { at, reply });
    assert_eq!(write.step(ms(5), &view(&now), came), on);

    let mut read = call(&get(&key), 0, None);
    assert_eq!(read.step(ms(0), &view(&before), Input::Begin), Step::Barrier);
    assert_eq!(read.step(ms(1), &view(&before), Input::Barrier(Ok(Index(7)))), Step::Read);
    assert_eq!(read.step(ms(2), &view(&now), Input::Misplaced), on);
}

#[test]
fn a_key_that_is_coming_goes_to_its_giver_and_waits_if_nobody_is_known() {
    let first = array(&["a", "b"]);
    let second = after(&first, Change::Drain(id("b")));
    let own = Ownership::next(Some(&owned(&first)), &id("a"), second.clone(), |_| 0);
    let own = own.unwrap().unwrap();
    let key = key_of(&first, "b", 0);
    // Also a client with a map of its own: to tell it would only send it in a circle.
    let step = call(&put(&key, "v"), 0, Some(2)).step(ms(0), &view(&own), Input::Begin);
    let urls = vec!["http://b:1".to_owned()];
    assert_eq!(step, Step::ForwardTo { cluster: id("b"), urls, hops: 1 });

    let late = owned(&second);
    let mut waits = call(&put(&key, "v"), 0, None);
    let step = waits.step(ms(0), &view(&late), Input::Begin);
    assert_eq!(step, Step::WaitForLeader { until: ms(20) });
    let end = ms(0) + LEADER_WAIT_MAX;
    let step = waits.step(end, &view(&late), Input::Waited);
    assert_eq!(step, failed(Reason::Coming, Some(Outcome::NotApplied)));
}

#[test]
fn a_map_is_proposed_like_a_write_and_its_refusal_is_told() {
    let map = array(&["a", "b"]);
    let request = Request::SetMap { cluster: id("a"), text: map.to_json().into() };
    let mut taken = call(&request, 0, None);
    let view = View { me: ME, leader: Some(ME), contact: None, phase: Phase::Serving, owns: None };
    let step = taken.step(ms(0), &view, Input::Begin);
    assert_eq!(step, Step::Propose(set_map("a", &map)));
    let came = |reply| {
        let at = LogPosition::new(Index(7), Term(2));
        Input::Proposed(proposals::Outcome::Applied { at, reply })
    };
    let answer = Answer::MapSet { epoch: 1, changed: true };
    assert_eq!(taken.step(ms(1), &view, came(set(1, true))), Step::Answer(Ok(answer)));

    let mut refused = call(&request, 0, None);
    refused.step(ms(0), &view, Input::Begin);
    let reply = Store::default().apply(&set_map("c", &map));
    let why = "this cluster, c, is no member of it".to_owned();
    let step = refused.step(ms(1), &view, came(reply));
    assert_eq!(step, failed(Reason::MapRefused { why }, Some(Outcome::NotApplied)));

    let mut away = call(&request, 0, None);
    away.step(ms(0), &view, Input::Begin);
    let not_leader = Refusal::NotLeader { leader: Some(NodeId(2)) };
    let step = away.step(ms(1), &view, Input::Proposed(proposals::Outcome::Refused(not_leader)));
    assert_eq!(step, Step::Forward { to: NodeId(2), hops: 1 });
}

#[test]
fn readers_share_one_map() {
    let mut store = SharedStore::new();
    store.apply(LogPosition::new(Index(1), Term(1)), &set_map("a", &array(&["a", "b"])));
    let (one, other) = (store.ownership().unwrap(), store.clone().ownership().unwrap());
    assert!(Arc::ptr_eq(&one, &other));
}
