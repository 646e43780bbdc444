use proptest::prelude::*;

use super::model::Model;
use super::*;
use crate::kv::command::{Compare, Done, Operation, Reply, Test};
use crate::kv::request::{ListQuery, ListShape, Record};
use crate::kv::store::{LIST_BYTES_MAX, Store};

fn store_of(requests: &[Request]) -> Store {
    let mut store = Store::default();
    for request in requests {
        store.apply(&encoded(request));
    }
    store
}

#[test]
fn revisions_count_changes_and_nothing_else() {
    let mut store = Store::default();
    let mut apply = |request: &Request| {
        let reply = store.apply(&encoded(request));
        (reply, store.revision())
    };
    let put_done = |revision, created, version| {
        let done = vec![Done::Put { created, version }];
        (Reply::Succeeded { revision, done }, revision)
    };
    let deleted = |revision, deleted| {
        (Reply::Succeeded { revision, done: vec![Done::Deleted { deleted }] }, revision)
    };
    let failed =
        |current, revision| (Reply::ConditionFailed { current, revision, done: vec![] }, revision);

    assert_eq!(apply(&delete("a")), deleted(0, 0));
    assert_eq!(apply(&put("a", "1")), put_done(1, true, 1));
    assert_eq!(apply(&put("a", "1")), put_done(2, false, 2), "the same value is a change too");
    assert_eq!(apply(&put_if("a", "2", if_match(Tags::Revisions(vec![1])))), failed(Some(2), 2));
    assert_eq!(apply(&put_if("b", "2", if_match(Tags::Any))), failed(None, 2));
    assert_eq!(apply(&put_if("a", "2", if_none_match(Tags::Any))), failed(Some(2), 2));
    let seen = Tags::Revisions(vec![1, 2]);
    assert_eq!(apply(&put_if("a", "2", if_none_match(seen.clone()))), failed(Some(2), 2));
    assert_eq!(apply(&put_if("a", "3", if_match(seen))), put_done(3, false, 3));
    assert_eq!(apply(&put_if("b", "1", if_none_match(Tags::Any))), put_done(4, true, 1));
    assert_eq!(apply(&delete("a")), deleted(5, 1));
    // The key begins anew and none of its old revisions ever comes back.
    assert_eq!(apply(&put("a", "4")), put_done(6, true, 1));
    let expected = Record { value: bytes("4"), create_revision: 6, mod_revision: 6, version: 1 };
    assert_eq!(store.get(b"a"), Ok(Some(expected)));
    assert_eq!(store.get(b"missing"), Ok(None));
    assert_eq!((store.keys(), store.bytes()), (2, 4));
}

#[test]
fn a_transaction_is_one_revision_and_its_operations_see_each_other() {
    let mut store = store_of(&[put("a", "1")]);
    let command = Command {
        compares: vec![Compare { key: bytes("a"), test: Test::Exists }],
        then: vec![
            Operation::Put { key: bytes("b"), value: bytes("2") },
            Operation::Delete { key: bytes("a") },
            Operation::Put { key: bytes("a"), value: bytes("3") },
        ],
        otherwise: vec![Operation::Delete { key: bytes("b") }],
    };
    let put_done = Done::Put { created: true, version: 1 };
    let done = vec![put_done, Done::Deleted { deleted: 1 }, put_done];
    assert_eq!(store.apply(&command.encode()), Reply::Succeeded { revision: 2, done });

    let failing = Command {
        compares: vec![Compare { key: bytes("a"), test: Test::Absent }],
        then: vec![],
        otherwise: vec![Operation::Delete { key: bytes("b") }],
    };
    let done = vec![Done::Deleted { deleted: 1 }];
    let reply = Reply::ConditionFailed { current: Some(2), revision: 3, done };
    assert_eq!(store.apply(&failing.encode()), reply);
}

/// What an old view sees does not change, whatever is done after it was taken.
#[test]
fn a_clone_is_a_view_that_does_not_change() {
    let mut store = store_of(&[put("a", "1"), put("b", "2")]);
    let (view, digest) = (store.clone(), store.digest());
    for request in [put("a", "x"), delete("b"), put("c", "y")] {
        store.apply(&encoded(&request));
    }
    assert_eq!((view.digest(), view.keys(), view.revision()), (digest, 2, 2));
    assert_eq!(view.get(b"a").unwrap().unwrap().value, bytes("1"));
    assert_ne!(store.digest(), digest);
}

/// A deleted or replaced value is freed at once: nothing in the map holds on to the command it came
/// with, also not a key that the map copied into an inner node.
#[test]
fn no_key_keeps_the_value_it_came_with() {
    let mut store = Store::default();
    // In buffers that can say whether they are shared; short ones of `raft_core::buffer` cannot.
    let commands: Vec<Bytes> = (0..500)
        .map(|n| encoded(&put(&format!("a key that is not inline {n:03}"), "v")))
        .map(|command| Bytes::from(command.to_vec()))
        .collect();
    for command in &commands {
        store.apply(command);
    }
    assert!(commands.iter().all(|command| !command.is_unique()), "values are shared");
    for n in 0..500 {
        store.apply(&encoded(&delete(&format!("a key that is not inline {n:03}"))));
    }
    assert!(commands.iter().all(Bytes::is_unique), "a value outlives its record");
}

/// One small value of a big transaction must not keep all of it in memory.
#[test]
fn a_big_transaction_is_freed_although_its_records_live() {
    let mut store = Store::default();
    let put =
        |n: u32| Operation::Put { key: bytes(&format!("{n}")), value: bytes(&"v".repeat(999)) };
    let command = Command { then: (0..100).map(put).collect(), ..Command::default() }.encode();
    store.apply(&command);
    assert!(command.is_unique());
    assert_eq!(store.get(b"7").unwrap().unwrap().value, bytes(&"v".repeat(999)));
}

#[test]
fn a_page_of_large_values_ends_early_and_says_so() {
    let value = "v".repeat(LIST_BYTES_MAX / 2);
    let store = store_of(&[put("a", &value), put("b", &value), put("c", &value)]);
    let mut query = ListQuery { limit: 10, ..ListQuery::default() };
    let page = store.list(&query);
    assert_eq!((page.count, page.next.clone()), (2, Some(bytes("b"))));
    query.after = page.next;
    let page = store.list(&query);
    assert_eq!((page.count, page.next), (1, None));

    let store = store_of(&[put("a", &value.repeat(3)), put("b", "")]);
    let page = store.list(&ListQuery { limit: 10, ..ListQuery::default() });
    assert_eq!(page.count, 1, "one item is let in whatever its size");
    let keys = ListQuery { limit: 10, shape: ListShape::Keys, ..ListQuery::default() };
    assert_eq!(store.list(&keys).count, 2, "keys have no values to count");
}

/// Few keys, with common beginnings and on both sides of what is kept inline.
fn any_key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        "[ab]{1,3}".prop_map(Bytes::from),
        "[ab]{1,2}".prop_map(|short| Bytes::from(format!("a{}{short}", "/".repeat(21)))),
        Just(Bytes::from_static(b"\xff")),
        Just(Bytes::from_static(b"\xff\xff")),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let value = prop_oneof!["[a-z]{0,4}", "[a-z]{200}"].prop_map(Bytes::from);
    let operation = prop_oneof![
        3 => (any_key(), value).prop_map(|(key, value)| Operation::Put { key, value }),
        1 => any_key().prop_map(|key| Operation::Delete { key }),
    ];
    let revisions = || prop::collection::vec(0..40u64, 0..12);
    let test = prop_oneof![
        Just(Test::Exists),
        Just(Test::Absent),
        revisions().prop_map(Test::RevisionAmong),
        revisions().prop_map(Test::RevisionNotAmong),
    ];
    let compare = (any_key(), test).prop_map(|(key, test)| Compare { key, test });
    let operations = prop::collection::vec(operation, 0..3);
    (prop::collection::vec(compare, 0..2), operations.clone(), operations)
        .prop_map(|(compares, then, otherwise)| Command { compares, then, otherwise })
}

fn any_query() -> impl Strategy<Value = ListQuery> {
    let part = || prop_oneof![Just(Bytes::new()), any_key()];
    let shape = prop_oneof![Just(ListShape::Items), Just(ListShape::Keys), Just(ListShape::Count)];
    (part(), part(), prop::option::of(part()), 1..5u32, shape).prop_map(
        |(prefix, start, after, limit, shape)| ListQuery { prefix, start, after, limit, shape },
    )
}

proptest! {
    /// The store is the model: replies, revisions, records, counters, and every list.
    #[test]
    fn the_store_agrees_with_the_model(
        commands in prop::collection::vec(any_command(), 1..60),
        queries in prop::collection::vec(any_query(), 1..10),
    ) {
        let (mut store, mut model) = (Store::default(), Model::default());
        for command in &commands {
            let view = store.clone();
            let digest = view.digest();
            prop_assert_eq!(store.apply(&command.encode()), model.apply(command));
            prop_assert_eq!(store.revision(), model.revision);
            prop_assert_eq!(view.digest(), digest);
            prop_assert_eq!(store.digest() == digest, store == view);
        }
        prop_assert_eq!(store.keys(), model.records.len() as u64);
        prop_assert_eq!(store.bytes(), model.bytes());
        for (key, record) in &model.records {
            prop_assert_eq!(store.get(key), Ok(Some(record.clone())));
        }
        for query in &queries {
            prop_assert_eq!(store.list(query), model.list(query));
        }
    }

    /// Pages one after another are the whole, without a gap and without a key twice.
    #[test]
    fn pages_together_are_the_whole(
        commands in prop::collection::vec(any_command(), 1..60),
        query in any_query(),
    ) {
        let mut store = Store::default();
        commands.iter().for_each(|command| drop(store.apply(&command.encode())));
        let mut page_query = ListQuery { after: None, shape: ListShape::Items, ..query };
        let whole = store.list(&ListQuery { limit: 10_000, ..page_query.clone() });
        let mut items = Vec::new();
        loop {
            let page = store.list(&page_query);
            prop_assert!(page.items.len() <= page_query.limit as usize);
            items.extend(page.items);
            page_query.after = page.next;
            if page_query.after.is_none() {
                break;
            }
        }
        prop_assert_eq!(items, whole.items);
        let count = ListQuery { shape: ListShape::Count, ..page_query };
        prop_assert_eq!(store.list(&count).count, whole.count);
    }
}
