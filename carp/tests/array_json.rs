//! Arrays from texts of others: each fault is found and named, and nothing panics.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carp::array::MemberFault;
use carp::json::JSON_BYTES_MAX;
use carp::{Array, ArrayFault, Change, Epoch, Member, MemberId, Slot, SlotBits};
use proptest::prelude::*;
use serde_json::{Value, json};

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

/// Two members, four slots.
fn small() -> Array {
    let members = ["one", "two"].map(|name| Member::new(id(name), vec![]));
    Array::fresh("kv", SlotBits::new(2).unwrap(), 7, members.to_vec()).unwrap()
}

fn read(text: &Value) -> Result<Array, ArrayFault> {
    Array::from_json(text.to_string().as_bytes())
}

/// The fault of a good array in which one thing is changed.
fn fault_when(change: impl FnOnce(&mut Value)) -> ArrayFault {
    let mut text: Value = serde_json::from_str(&small().to_json()).unwrap();
    assert!(read(&text).is_ok(), "the array is good before the change");
    change(&mut text);
    read(&text).expect_err("the change is a fault")
}

fn table(owners: &[u16]) -> Value {
    let bytes: Vec<u8> = owners.iter().flat_map(|owner| owner.to_le_bytes()).collect();
    Value::from(STANDARD.encode(bytes))
}

#[test]
fn every_fault_has_its_name() {
    assert_eq!(fault_when(|text| text["members"] = json!([])), ArrayFault::NoMembers);
    assert_eq!(
        fault_when(|text| text["table"] = table(&[0, 1, 2, 0])),
        ArrayFault::UnknownOwner { slot: Slot(2), place: 2 }
    );
    assert_eq!(
        fault_when(|text| text["members"][1]["id"] = json!("one")),
        ArrayFault::DuplicateMember(id("one"))
    );
    assert_eq!(
        fault_when(|text| text["members"][0]["slots"] = json!(3)),
        ArrayFault::WrongCount { id: id("one"), says: 3, owns: 2 }
    );
    assert_eq!(
        fault_when(|text| text["table"] = table(&[0, 1, 0])),
        ArrayFault::WrongLength { wanted: 4, found: 3 }
    );
    assert_eq!(
        fault_when(|text| text["table"] = json!(STANDARD.encode([0; 9]))),
        ArrayFault::WrongLength { wanted: 4, found: 5 }
    );
    assert_eq!(fault_when(|text| text["table"] = json!("***")), ArrayFault::Base64("table"));
    assert_eq!(
        fault_when(|text| text["slot_epochs"] = json!(STANDARD.encode([0; 16]))),
        ArrayFault::SlotEpochZero(Slot(0))
    );
    assert_eq!(
        fault_when(|text| text["slot_epochs"] = json!("AAAA")),
        ArrayFault::WrongLength { wanted: 4, found: 1 }
    );
    assert_eq!(fault_when(|text| text["carp"] = json!(3)), ArrayFault::Version(3));
    assert_eq!(fault_when(|text| text["scheme"] = json!("md5")), ArrayFault::Scheme("md5".into()));
    assert_eq!(fault_when(|text| text["slot_bits"] = json!(17)), ArrayFault::SlotBits(17));
    assert_eq!(fault_when(|text| text["slot_bits"] = json!(0)), ArrayFault::SlotBits(0));
    assert_eq!(fault_when(|text| text["epoch"] = json!(0)), ArrayFault::EpochZero);
    assert_eq!(fault_when(|text| text["meta"] = json!("six")), ArrayFault::UnknownMeta(id("six")));
    assert_eq!(fault_when(|text| text["name"] = json!("k v")), ArrayFault::Name("k v".into()));
    assert_eq!(
        fault_when(|text| text["members"][0]["id"] = json!("")),
        ArrayFault::MemberName("".into())
    );
    assert_eq!(
        fault_when(|text| text["members"][0]["weight"] = json!(0)),
        ArrayFault::Member(MemberFault::Weight { id: id("one"), weight: 0 })
    );
    assert_eq!(
        fault_when(|text| text["members"][0]["urls"] = json!(["http://a b"])),
        ArrayFault::Member(MemberFault::Urls { id: id("one") })
    );
    let draining = |text: &mut Value| {
        for at in 0..2 {
            text["members"][at]["state"] = json!("draining");
        }
    };
    assert_eq!(fault_when(draining), ArrayFault::NobodyHasWeight);
    let crowd: Vec<Value> = (0..1025).map(|n| json!({ "id": format!("m{n}") })).collect();
    assert_eq!(
        fault_when(|text| text["members"] = json!(crowd)),
        ArrayFault::TooManyMembers { found: 1025 }
    );
}

#[test]
fn a_missing_field_is_named() {
    for field in ["epoch", "scheme", "seed", "slot_bits", "meta", "table"] {
        let fault = fault_when(|text| drop(text.as_object_mut().unwrap().remove(field)));
        assert_eq!(fault, ArrayFault::Missing(field));
    }
    for field in ["carp", "name", "members"] {
        let fault = fault_when(|text| drop(text.as_object_mut().unwrap().remove(field)));
        assert!(fault.to_string().contains(&format!("missing field `{field}`")), "{fault}");
    }
}

#[test]
fn a_field_nobody_knows_yet_is_passed_over() {
    let mut text: Value = serde_json::from_str(&small().to_json()).unwrap();
    text["moves"] = json!([]);
    text["members"][0]["rack"] = json!("b");
    assert_eq!(read(&text), Ok(small()));
}

#[test]
fn a_megabyte_of_junk_is_a_short_fault() {
    let long_word = format!(
        r#"{{"carp":2,"name":"kv","members":[{{"id":"a","state":"{}"}}]}}"#,
        "x".repeat(1 << 20)
    );
    let junk = [
        vec![0xff; 1 << 20],
        vec![b'['; 1 << 20],
        vec![b' '; 1 << 20],
        b"{\"carp\":".repeat(1 << 17),
        long_word.into_bytes(),
        format!(r#"{{"carp":2,"scheme":"{}"}}"#, "x".repeat(1 << 20)).into_bytes(),
        format!(r#"{{"carp":2,"name":"{}","members":[]}}"#, "x".repeat(1 << 20)).into_bytes(),
    ];
    for text in junk {
        for fault in [Array::from_json(&text), Array::found_from_json(&text)] {
            let message = fault.expect_err("junk").to_string();
            assert!(message.len() < 1000, "{} bytes of message", message.len());
        }
    }
    let bytes = JSON_BYTES_MAX + 1;
    assert_eq!(Array::from_json(&vec![b'{'; bytes]), Err(ArrayFault::TooLong { bytes }));
}

/// The bound on what is read leaves room for everything that can be written.
#[test]
fn the_largest_array_can_be_read_back() {
    let members = (0..carp::array::MEMBERS_MAX).map(|n| Member {
        weight: carp::slots::WEIGHT_MAX,
        urls: vec!["u".repeat(carp::array::URL_BYTES_MAX); carp::array::URLS_MAX],
        ..Member::new(id(&format!("{n:0128}")), vec![])
    });
    let name = "n".repeat(carp::array::NAME_BYTES_MAX);
    let bits = SlotBits::new(16).unwrap();
    let mut array = Array::fresh(&name, bits, u64::MAX, members.take(2).collect()).unwrap();
    let drain = array.plan(Change::Drain(array.members()[0].id.clone())).unwrap();
    array.apply_plan(&drain).unwrap();
    let one_member = array.members()[0].clone();
    let text = array.to_json();
    assert_eq!(Array::from_json(text.as_bytes()), Ok(array));
    let of_a_member = format!("{:?}", one_member).len();
    assert!(text.len() + 1024 * of_a_member < JSON_BYTES_MAX, "{} + {of_a_member}", text.len());
}

#[test]
fn a_copy_never_goes_back_and_never_contradicts() {
    let first = small();
    let mut second = first.clone();
    second.apply_plan(&second.plan(Change::Drain(id("one"))).unwrap()).unwrap();

    let mut copy = second.clone();
    assert_eq!(
        copy.replace(first.clone()),
        Err(ArrayFault::EpochWentBack { ours: Epoch(2), theirs: Epoch(1) })
    );
    let mut other = first.clone();
    other.apply_plan(&other.plan(Change::Drain(id("two"))).unwrap()).unwrap();
    assert_eq!(copy.replace(other), Err(ArrayFault::TwoOfOneEpoch(Epoch(2))));

    // The same slots with another seed are other slots.
    let members = first.members().to_vec();
    let stranger = Array::fresh("kv", first.slots(), 8, members.clone()).unwrap();
    let fault = copy.replace(stranger).unwrap_err();
    assert_eq!(fault, ArrayFault::OtherArray { ours: "kv".into(), theirs: "kv".into() });

    // A later array whose slots have not gone on: another owner in the same epoch of the slot.
    let mut text: Value = serde_json::from_str(&second.to_json()).unwrap();
    text["epoch"] = json!(9);
    text.as_object_mut().unwrap().remove("slot_epochs");
    let forged = read(&text).unwrap();
    let moved = first.diff(&second)[0].slot;
    assert_eq!(copy.replace(forged.clone()), Err(ArrayFault::SlotEpochWentBack(moved)));
    assert_eq!(first.clone().replace(forged), Err(ArrayFault::SlotEpochWentBack(moved)));
    assert_eq!(copy, second, "faults change nothing");
}

#[test]
fn a_person_may_found_an_array_with_few_words() {
    let text = br#"{"carp":2,"name":"kv","slot_bits":4,"ttl_s":5,"meta":"two",
        "members":[{"id":"one","urls":["http://10.0.0.1:7001"]},{"id":"two","weight":3}]}"#;
    let array = Array::found_from_json(text).unwrap();
    assert_eq!((array.epoch(), array.counts()), (Epoch(1), vec![4, 12]));
    assert_eq!((array.ttl_s(), array.meta()), (5, &id("two")));
    assert_eq!(Array::from_json(text), Err(ArrayFault::Missing("scheme")));
    // With a table it is an array that exists: nothing is worked out.
    let whole = small().to_json();
    assert_eq!(Array::found_from_json(whole.as_bytes()), Ok(small()));
}

/// A map as it is usually served stays small.
#[test]
fn the_default_array_is_below_64_kib_until_slots_move() {
    let members = (0..64)
        .map(|n| Member::new(id(&format!("cluster-{n}")), vec!["http://10.0.0.1:7001".into(); 3]));
    let array = Array::fresh("kv", SlotBits::DEFAULT, 0, members.collect()).unwrap();
    assert!(array.to_json().len() <= 64 << 10, "{}", array.to_json().len());
}

proptest! {
    /// Whatever bytes come, and however a good text is cut and changed, there is an answer.
    #[test]
    fn no_text_panics(junk: Vec<u8>, at in 0..400usize, byte: u8, cut in 0..400usize) {
        let _ = Array::from_json(&junk);
        let _ = Array::found_from_json(&junk);
        let mut text = small().to_json().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        if let Ok(array) = Array::from_json(&text) {
            prop_assert_eq!(Array::from_json(array.to_json().as_bytes()), Ok(array));
        }
        text.truncate(cut);
        prop_assert!(text.len() < cut || Array::from_json(&text).is_err());
    }
}
