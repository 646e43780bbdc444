use proptest::prelude::*;

use super::*;
use crate::kv::command::{Compare, OPERATIONS_MAX, Operation, PutDraft, Reply, Test};
use crate::kv::request::KEY_BYTES_MAX;
use crate::kv::store::Store;

/// The log of a cluster outlives the program that wrote it: these bytes must never change.
#[test]
fn commands_have_these_bytes() {
    let plain = encoded(&put("key", "value"));
    assert_eq!(&plain[..], b"\x01\0\x01\0\x01\x05\0\0\0\x03\0keyvalue");

    let gone = encoded(&delete("key"));
    assert_eq!(&gone[..], b"\x01\0\x01\0\x02\x03\0key");

    let swap = encoded(&put_if("k", "v", if_match(Tags::Revisions(vec![0x0102, 3]))));
    let compare = b"\x03\x01\0k\x02\0\0\0\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";
    let operation = b"\x01\x01\0\0\0\x01\0kv";
    assert_eq!(swap[..], [&b"\x01\x01\x01\0"[..], compare, operation].concat());

    let create = encoded(&put_if("k", "", if_none_match(Tags::Any)));
    assert_eq!(&create[..], b"\x01\x01\x01\0\x02\x01\0k\x01\0\0\0\0\x01\0k");

    let both = Command {
        compares: vec![
            Compare { key: bytes("a"), test: Test::Exists },
            Compare { key: bytes("b"), test: Test::RevisionNotAmong(vec![]) },
        ],
        then: vec![],
        otherwise: vec![Operation::Delete { key: bytes("a") }],
    };
    let expected = b"\x01\x02\0\x01\x01\x01\0a\x04\x01\0b\0\0\0\0\x02\x01\0a";
    assert_eq!(&both.encode()[..], expected);
}

/// A value in the store shares the log entry: reading a command copies nothing.
#[test]
fn a_decoded_value_is_a_slice_of_the_command() {
    let command = encoded(&put("key", "value"));
    let Operation::Put { value, .. } = Command::decode(&command).unwrap().then.remove(0) else {
        panic!("a put is a put");
    };
    assert_eq!(value.as_ptr(), command[command.len() - 5..].as_ptr());
}

#[test]
fn what_is_no_command_is_refused_with_its_place_and_changes_nothing() {
    let long_key = [&b"\x01\0\x01\0\x02\x01\x10"[..], &[b'k'; 4097]].concat();
    let cases: &[(&[u8], &str)] = &[
        (b"", "command at byte 0: version needs 1 bytes, 0 are left"),
        (b"\x04\0\0\0", "command at byte 1: version 4, only 1 is known"),
        (b"\x01\0\0", "command at byte 3: count needs 1 bytes, 0 are left"),
        (b"\x01\0\x81\0", "command at byte 3: 129 parts, at most 128 are allowed"),
        (b"\x01\0\0\0\x07", "command: 1 bytes too many after byte 4"),
        (b"\x01\0\x01\0\x03", "command at byte 5: operation 3, 1 and 2 are known"),
        (b"\x01\0\x01\0\x02\0\0", "command at byte 7: key of 0 bytes, 1 to 4096 are allowed"),
        (&long_key, "command at byte 7: key of 4097 bytes, 1 to 4096 are allowed"),
        (
            b"\x01\0\x01\0\x01\xff\xff\xff\xff\x01\0kv",
            "command at byte 12: value needs 4294967295 bytes, 1 are left",
        ),
        (b"\x01\x01\0\0\x05\x01\0k", "command at byte 8: test 5, 1 to 4 are known"),
        (
            b"\x01\x01\0\0\x03\x01\0k\xff\xff\xff\xff",
            "command at byte 12: revisions needs 34359738360 bytes, 0 are left",
        ),
    ];
    for (bytes, why) in cases {
        let mut store = Store::default();
        let before = store.apply(&encoded(&put("k", "v")));
        assert!(matches!(before, Reply::Succeeded { .. }));
        let Reply::Malformed(malformed) = store.apply(&Bytes::copy_from_slice(bytes)) else {
            panic!("{bytes:?} was carried out");
        };
        assert_eq!(malformed.0, *why);
        assert_eq!((store.revision(), store.keys()), (1, 1));
    }
}

/// Half of a command is no command, wherever it is cut.
#[test]
fn every_proper_prefix_is_refused() {
    let whole = encoded(&put_if("key", "value", if_match(Tags::Revisions(vec![1, 2]))));
    for len in 0..whole.len() {
        assert!(Command::decode(&whole.slice(..len)).is_err(), "{len} bytes are enough");
    }
}

/// Read straight from a socket or made of a request: the same bytes, and the value is shared.
#[test]
fn a_draft_makes_the_same_command() {
    let conditions =
        [Condition::default(), if_none_match(Tags::Any), if_match(Tags::Revisions(vec![1, 2, 3]))];
    for condition in conditions {
        for (announced, parts) in [(0, vec![]), (9, vec!["a long ", "va"]), (usize::MAX, vec!["v"])]
        {
            let mut draft = PutDraft::new(bytes("key"), condition.clone(), announced);
            parts.iter().for_each(|part| draft.push(part.as_bytes()));
            assert_eq!(draft.value_bytes(), parts.concat().len());
            let (request, command) = draft.finish();
            assert_eq!(request, put_if("key", &parts.concat(), condition.clone()));
            assert_eq!(command, encoded(&request));
            let Request::Put { value, .. } = &request else { panic!("a put is a put") };
            let at = command.len() - value.len();
            assert!(value.is_empty() || value.as_ptr() == command[at..].as_ptr());
        }
    }
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(1), 2..30usize, Just(KEY_BYTES_MAX)]
        .prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
        .prop_map(Bytes::from)
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let value = prop::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from);
    prop_oneof![
        (any_key(), value).prop_map(|(key, value)| Operation::Put { key, value }),
        any_key().prop_map(|key| Operation::Delete { key }),
    ]
}

fn any_compare() -> impl Strategy<Value = Compare> {
    let revisions = || prop::collection::vec(any::<u64>(), 0..4);
    let test = prop_oneof![
        Just(Test::Exists),
        Just(Test::Absent),
        revisions().prop_map(Test::RevisionAmong),
        revisions().prop_map(Test::RevisionNotAmong),
    ];
    (any_key(), test).prop_map(|(key, test)| Compare { key, test })
}

pub(super) fn any_command() -> impl Strategy<Value = Command> {
    let operations = || prop::collection::vec(any_operation(), 0..4);
    (prop::collection::vec(any_compare(), 0..3), operations(), operations())
        .prop_map(|(compares, then, otherwise)| Command { compares, then, otherwise })
}

proptest! {
    #[test]
    fn a_command_comes_back_from_its_bytes(command in any_command()) {
        let bytes = command.encode();
        prop_assert_eq!(Command::decode(&bytes), Ok(command));
    }

    /// Whoever reads a damaged command reads none or another one, but never falls over.
    #[test]
    fn flipped_and_random_bytes_never_panic(
        command in any_command(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut damaged = command.encode().to_vec();
        for (at, flip) in flips {
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
        }
        if let Ok(other) = Command::decode(&Bytes::from(damaged.clone())) {
            prop_assert_eq!(&other.encode()[..], &damaged[..], "two spellings of one command");
        }
        let mut store = Store::default();
        store.apply(&Bytes::from(damaged));
        store.apply(&Bytes::from(noise));
    }
}

#[test]
#[should_panic(expected = "at most 128 parts")]
fn a_command_of_too_many_parts_is_our_bug() {
    let operation = Operation::Delete { key: bytes("k") };
    Command { then: vec![operation; OPERATIONS_MAX + 1], ..Command::default() }.encode();
}
