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

fn epochs(least: u32, bits: u32, above: &[u8]) -> Value {
    json!({"least": least, "bits": bits, "above": STANDARD.encode(above)})
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
        fault_when(|text| text["slot_epochs"] = epochs(0, 0, &[])),
        ArrayFault::SlotEpochZero(Slot(0))
    );
    for (least, bits, above) in
        [(1, 2, &[][..]), (1, 2, &[0; 2]), (1, 33, &[0; 17]), (u32::MAX, 2, &[0xe4])]
    {
        let fault = fault_when(|text| text["slot_epochs"] = epochs(least, bits, above));
        assert_eq!(fault, ArrayFault::SlotEpochs, "{least}, {bits}");
    }
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

/// The bits of each slot stand one behind the other, the lowest first.
#[test]
fn slot_epochs_are_packed() {
    let mut text: Value = serde_json::from_str(&small().to_json()).unwrap();
    // 0b11_10_01_00: the slots have 0, 1, 2 and 3 more than the least.
    text["slot_epochs"] = epochs(7, 2, &[0b1110_0100]);
    let array = read(&text).unwrap();
    let found: Vec<u32> = array.slots().all().map(|slot| array.slot_epoch(slot).unwrap()).collect();
    assert_eq!(found, [7, 8, 9, 10]);
    let written: Value = serde_json::from_str(&array.to_json()).unwrap();
    assert_eq!(written, text);
    text["slot_epochs"] = epochs(3, 0, &[]);
    let array = read(&text).unwrap();
    assert!(array.slots().all().all(|slot| array.slot_epoch(slot) == Some(3)));
    assert_eq!(Array::from_json(array.to_json().as_bytes()), Ok(array));
}

/// A person who edits the list of members gets the same as by plans: the fewest moves.
#[test]
fn members_alone_ask_for_the_fewest_moves() {
    let ask = |array: &Array, epoch: u64, names: &[&str]| {
        let members: Vec<Value> = names.iter().map(|name| json!({ "id": name })).collect();
        let text = json!({"carp": 2, "name": "kv", "epoch": epoch, "members": members});
        array.asked_by_json(text.to_string().as_bytes())
    };
    let first = small();
    let mut planned = first.clone();
    let member = Member::new(id("three"), vec![]);
    planned.apply_plan(&planned.plan(Change::Add(member)).unwrap()).unwrap();
    let asked = ask(&first, 2, &["one", "two", "three"]).unwrap();
    assert_eq!(asked, planned);
    let mut copy = first.clone();
    assert_eq!(copy.replace(asked.clone()), Ok(true));

    assert_eq!(ask(&asked, 2, &["one", "two", "three"]), Ok(asked.clone()), "nothing changes");
    // Whoever is left out gives up everything; the others keep what they have.
    let without = ask(&asked, 5, &["three", "two"]).unwrap();
    assert_eq!((without.epoch(), without.counts().iter().sum::<usize>()), (Epoch(5), 4));
    assert!(asked.diff(&without).iter().all(|change| *change.from == id("one")));
    let fault = ask(&asked, 1, &["one"]).unwrap_err();
    assert_eq!(fault, ArrayFault::EpochWentBack { ours: Epoch(2), theirs: Epoch(1) });
    let other = br#"{"carp":2,"name":"vk","members":[{"id":"one"}]}"#;
    let fault = asked.asked_by_json(other).unwrap_err();
    assert_eq!(fault, ArrayFault::OtherArray { ours: "kv".into(), theirs: "vk".into() });
}

/// A map as it is usually served stays small, also long after slots have moved.
#[test]
fn the_default_array_is_below_64_kib() {
    let members = (0..64)
        .map(|n| Member::new(id(&format!("cluster-{n}")), vec!["http://10.0.0.1:7001".into(); 3]));
    let array = Array::fresh("kv", SlotBits::DEFAULT, 0, members.collect()).unwrap();
    assert!(array.to_json().len() <= 64 << 10, "{}", array.to_json().len());
    let mut text: Value = serde_json::from_str(&array.to_json()).unwrap();
    text["slot_epochs"] = epochs(1, 4, &[0x2f; 8192]);
    let moved = read(&text).unwrap().to_json();
    assert!(moved.len() <= 64 << 10, "{}", moved.len());
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
        let whole = text.len() <= cut;
        text.truncate(cut);
        prop_assert!(whole || Array::from_json(&text).is_err());
    }
}
