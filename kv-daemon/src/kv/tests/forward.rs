use std::time::Duration;

use carp::array::Epoch;
use carp::{MemberId, Moved, Slot};
use proptest::prelude::*;

use super::*;
use crate::kv::forward::{decode_request, decode_result, encode_request, encode_result};
use crate::kv::request::{
    Answer, Failure, ListQuery, ListShape, Listed, Outcome, ReadLevel, Reason, Record,
};

/// Nodes of different versions talk to each other: these bytes must never change.
#[test]
fn forwarded_requests_have_these_bytes() {
    let parts = encode_request(&put_if("key", "value", if_match(Tags::Revisions(vec![7]))));
    let head = b"\x01\x02\x01\x01\x01\0\0\0\x07\0\0\0\0\0\0\0\0\x03\0\0\0key";
    assert_eq!((&parts.head[..], &parts.value[..]), (&head[..], &b"value"[..]));
    assert_eq!(&encode_request(&delete("k")).to_bytes()[..], b"\x01\x03\0\0\x01\0\0\0k");
}

#[test]
fn results_have_these_bytes() {
    let put = Ok(Answer::Put { revision: 9, created: true, version: 1 });
    let expected = b"\x01\x11\x09\0\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\0";
    assert_eq!(&encode_result(&put).to_bytes()[..], expected);
    let failed = Err(Failure { reason: Reason::LeaderLost, outcome: Some(Outcome::Unknown) });
    assert_eq!(&encode_result(&failed).to_bytes()[..], b"\x01\x20\x02\x02");
}

#[test]
fn a_value_is_copied_neither_on_its_way_out_nor_in() {
    let request = put("key", "value");
    let Request::Put { value, .. } = &request else { panic!("a put is a put") };
    assert_eq!(encode_request(&request).value.as_ptr(), value.as_ptr());
    let wire = encode_request(&request).to_bytes();
    let Request::Put { value, .. } = decode_request(&wire).unwrap() else { panic!("a put") };
    assert_eq!(value.as_ptr(), wire[wire.len() - 5..].as_ptr());
}

#[test]
fn an_unsound_request_ends_at_the_border() {
    let cases: &[(&[u8], &str)] = &[
        (b"\x01\x03\0\0\0\0\0\0", "request at byte 8: a key must not be empty"),
        (b"\x02\x03", "request at byte 1: version 2, only 1 is known"),
        (b"\x01\x06", "request at byte 2: request 6, 1 to 5 are known"),
        (
            b"\x01\x03\0\0\xff\xff\xff\xffk",
            "request at byte 8: key needs 4294967295 bytes, 1 are left",
        ),
        (b"\x01\x03\0\0\x01\0\0\0kk", "request: 1 bytes too many after byte 9"),
        (b"\x01\x03\x02", "request at byte 3: presence is 2, not 0 or 1"),
    ];
    for (bytes, why) in cases {
        assert_eq!(decode_request(&Bytes::copy_from_slice(bytes)).unwrap_err().0, *why);
    }
    let list = ListQuery { limit: 10_001, ..ListQuery::default() };
    let list = encode_request(&Request::List { query: list, level: ReadLevel::Linearizable });
    decode_request(&list.to_bytes()).expect_err("a page of 10001 items");
    let long = encode_request(&put(&"k".repeat(4097), ""));
    decode_request(&long.to_bytes()).expect_err("a key of 4097 bytes");
}

fn any_bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), len).prop_map(Bytes::from)
}

fn any_level() -> impl Strategy<Value = ReadLevel> {
    let stale = prop::option::of(any::<u64>().prop_map(Duration::from_nanos));
    prop_oneof![
        Just(ReadLevel::Linearizable),
        stale.prop_map(|max_stale| ReadLevel::Stale { max_stale }),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let tags = || {
        let revisions = prop::collection::vec(any::<u64>(), 0..4).prop_map(Tags::Revisions);
        prop::option::of(prop_oneof![Just(Tags::Any), revisions])
    };
    (tags(), tags()).prop_map(|(if_match, if_none_match)| Condition { if_match, if_none_match })
}

fn any_request() -> impl Strategy<Value = Request> {
    let shape = prop_oneof![Just(ListShape::Items), Just(ListShape::Keys), Just(ListShape::Count)];
    let part = || any_bytes(0..9);
    let query = (part(), part(), prop::option::of(part()), 1..=10_000u32, shape).prop_map(
        |(prefix, start, after, limit, shape)| ListQuery { prefix, start, after, limit, shape },
    );
    let key = || any_bytes(1..40);
    prop_oneof![
        (key(), any_level()).prop_map(|(key, level)| Request::Get { key, level }),
        (key(), part(), any_condition()).prop_map(|(key, value, condition)| Request::Put {
            key,
            value,
            condition
        }),
        (key(), any_condition()).prop_map(|(key, condition)| Request::Delete { key, condition }),
        (query, any_level()).prop_map(|(query, level)| Request::List { query, level }),
        (any_name(), part()).prop_map(|(cluster, text)| Request::SetMap { cluster, text }),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    (any_bytes(0..9), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
        |(value, create_revision, mod_revision, version)| Record {
            value,
            create_revision,
            mod_revision,
            version,
        },
    )
}

fn any_name() -> impl Strategy<Value = MemberId> {
    "[a-z0-9._:-]{1,128}".prop_map(|name| MemberId::new(name).unwrap())
}

fn any_reason() -> impl Strategy<Value = Reason> {
    let contact = prop::option::of(any::<u64>().prop_map(Duration::from_nanos));
    prop_oneof![
        Just(Reason::NoLeader),
        Just(Reason::LeaderLost),
        Just(Reason::Busy),
        Just(Reason::Deadline),
        Just(Reason::NoSpace),
        any::<u64>().prop_map(|bytes_max| Reason::TooLarge { bytes_max }),
        contact.prop_map(|last_contact| Reason::TooStale { last_contact }),
        Just(Reason::TooManyHops),
        Just(Reason::ShuttingDown),
        Just(Reason::Forming),
        Just(Reason::Restoring),
        any::<String>().prop_map(|why| Reason::Invalid { why }),
        any::<String>().prop_map(|why| Reason::MapRefused { why }),
        any::<u64>().prop_map(|epoch| Reason::MapBehind { epoch }),
        Just(Reason::Coming),
        any_name().prop_map(|cluster| Reason::Unreachable { cluster }),
        any_name().prop_map(|cluster| Reason::MapMissing { cluster }),
        prop::collection::btree_map(any_name(), prop::collection::vec(any_bytes(1..9), 0..3), 0..3)
            .prop_map(|owners| Reason::KeysApart { owners }),
        (any::<u16>(), any_name(), any::<u32>(), any::<u64>()).prop_map(
            |(slot, owner, slot_epoch, epoch)| Reason::Moved(Box::new(Moved {
                slot: Slot(slot),
                owner,
                slot_epoch,
                epoch: Epoch(epoch),
                urls: vec!["http://10.0.0.1:7001".to_owned()],
            }))
        ),
    ]
}

fn any_result() -> impl Strategy<Value = Result<Answer, Failure>> {
    let items = prop::collection::vec((any_bytes(1..9), any_record()), 0..4);
    let outcome =
        prop_oneof![Just(None), Just(Some(Outcome::NotApplied)), Just(Some(Outcome::Unknown)),];
    let next = prop::option::of(any_bytes(1..9));
    prop_oneof![
        (prop::option::of(any_record()), any::<u64>())
            .prop_map(|(record, revision)| Ok(Answer::Got { record, revision })),
        (any::<u64>(), any::<bool>())
            .prop_map(|(epoch, changed)| Ok(Answer::MapSet { epoch, changed })),
        (any::<u64>(), any::<bool>(), any::<u64>()).prop_map(|(revision, created, version)| Ok(
            Answer::Put { revision, created, version }
        )),
        (any::<u64>(), any::<u64>())
            .prop_map(|(deleted, revision)| Ok(Answer::Deleted { deleted, revision })),
        (prop::option::of(any::<u64>()), any::<u64>())
            .prop_map(|(current, revision)| Ok(Answer::ConditionFailed { current, revision })),
        (items, any::<u64>(), next, any::<u64>()).prop_map(|(items, count, next, revision)| Ok(
            Answer::Listed(Listed { items, count, next, revision })
        )),
        (any_reason(), outcome).prop_map(|(reason, outcome)| Err(Failure { reason, outcome })),
    ]
}

proptest! {
    #[test]
    fn requests_come_back_from_their_bytes(request in any_request()) {
        prop_assert_eq!(decode_request(&encode_request(&request).to_bytes()), Ok(request));
    }

    #[test]
    fn results_come_back_from_their_bytes(result in any_result()) {
        prop_assert_eq!(decode_result(&encode_result(&result).to_bytes()), Ok(result));
    }

    #[test]
    fn cut_flipped_and_random_bytes_never_panic(
        request in any_request(),
        result in any_result(),
        place in any::<prop::sample::Index>(),
        flip in any::<u8>(),
        noise in any_bytes(0..64),
    ) {
        let parts = [encode_request(&request).to_bytes(), encode_result(&result).to_bytes()];
        for whole in parts {
            let at = place.index(whole.len());
            let mut flipped = whole.to_vec();
            flipped[at] ^= flip;
            for bytes in [whole.slice(..at), flipped.into(), noise.clone()] {
                if let Ok(request) = decode_request(&bytes) {
                    prop_assert_eq!(request.fault(), None);
                }
                let _ = decode_result(&bytes);
            }
        }
    }
}
