//! The client's copy: redirects lead forwards only, and newer copies win.

use carp::router::MOVED_BYTES_MAX;
use carp::{Array, ArrayFault, Change, Epoch, Member, MemberId, Moved, Router, Slot, SlotBits};

const KEY: &[u8] = b"user:0000001";

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn url(name: &str) -> Vec<String> {
    vec![format!("http://{name}:7001")]
}

/// One cluster owns all of 16 slots.
fn array() -> Array {
    let first = Member::new(id("one"), url("one"));
    Array::fresh("kv", SlotBits::new(4).unwrap(), 0, vec![first]).unwrap()
}

/// The same after `two` has taken everything over.
fn taken_over() -> Array {
    let mut array = array();
    for change in [Change::Add(Member::new(id("two"), url("two"))), Change::Drain(id("one"))] {
        array.apply_plan(&array.plan(change).unwrap()).unwrap();
    }
    array
}

fn moved(array: &Array, owner: &str, slot_epoch: u32, epoch: u64) -> Moved {
    let (owner, urls) = (id(owner), url(owner));
    Moved { slot: array.slot(KEY), owner, slot_epoch, epoch: Epoch(epoch), urls }
}

#[test]
fn a_redirect_changes_one_slot_and_asks_for_a_newer_copy() {
    let array = array();
    let mut router = Router::new(array.clone());
    assert_eq!((router.route(KEY).owner, router.needs_refresh()), (&id("one"), false));
    assert_eq!((router.etag(), router.ttl_s()), ("\"1\"".to_owned(), 60));

    assert!(router.on_redirect(&moved(&array, "two", 2, 3)));
    let target = router.route(KEY);
    assert_eq!((target.owner, target.urls), (&id("two"), &url("two")[..]));
    assert_eq!((target.slot_epoch, target.epoch), (2, Epoch(1)));
    assert!(router.needs_refresh());

    let elsewhere =
        (0..).map(|n: u32| n.to_le_bytes()).find(|key| array.slot(key) != array.slot(KEY));
    assert_eq!(router.route(&elsewhere.unwrap()).owner, &id("one"));
}

#[test]
fn two_clusters_that_point_at_each_other_are_not_followed_in_circles() {
    let array = array();
    let mut router = Router::new(array.clone());
    assert!(router.on_redirect(&moved(&array, "two", 2, 2)));
    assert!(!router.on_redirect(&moved(&array, "one", 1, 1)), "older");
    assert!(!router.on_redirect(&moved(&array, "one", 2, 2)), "as old");
    assert_eq!(router.route(KEY).owner, &id("two"));
    assert!(router.on_redirect(&moved(&array, "one", 3, 3)));
    assert_eq!(router.route(KEY).owner, &id("one"));
}

#[test]
fn a_newer_copy_keeps_what_is_newer_still() {
    let mut router = Router::new(array());
    assert!(router.on_redirect(&moved(&array(), "three", 9, 9)));
    assert_eq!(router.update(taken_over()), Ok(true));
    assert!(!router.needs_refresh());
    assert_eq!((router.route(KEY).owner, router.route(KEY).slot_epoch), (&id("three"), 9));
    assert_eq!(router.route(KEY).urls, url("three"));

    // What a redirect told is dropped as soon as the copy knows as much.
    let mut router = Router::new(array());
    let slot_epoch = taken_over().route(KEY).slot_epoch;
    assert!(router.on_redirect(&moved(&array(), "three", slot_epoch, 2)));
    assert_eq!(router.update(taken_over()), Ok(true));
    assert_eq!(router.route(KEY).owner, &id("two"));
}

#[test]
fn an_older_copy_changes_nothing() {
    let mut router = Router::new(taken_over());
    let fault = router.update(array()).unwrap_err();
    assert_eq!(fault, ArrayFault::EpochWentBack { ours: Epoch(3), theirs: Epoch(1) });
    assert_eq!(router.route(KEY).owner, &id("two"));
    assert_eq!(router.update(taken_over()), Ok(false));
}

/// A cluster that boasts of an epoch nobody has costs one request, not one after each answer.
#[test]
fn an_epoch_nobody_has_is_forgotten_after_asking() {
    let mut router = Router::new(array());
    router.on_epoch(Epoch(u64::MAX));
    assert!(router.needs_refresh());
    assert_eq!(router.update(array()), Ok(false));
    assert!(!router.needs_refresh());
    router.on_epoch(Epoch(u64::MAX));
    router.unchanged();
    assert!(!router.needs_refresh());
    router.on_epoch(Epoch(0));
    assert!(!router.needs_refresh());
}

#[test]
fn redirects_cannot_make_a_router_grow_without_bound() {
    let array = Array::new("kv", Member::new(id("one"), url("one"))).unwrap();
    let mut router = Router::new(array.clone());
    let mut taken = 0;
    for number in 0..5000u32 {
        let owner = format!("stranger-{number}");
        taken += u32::from(router.on_redirect(&moved(&array, &owner, number + 2, 2)));
    }
    assert_eq!(taken, 2 * carp::array::MEMBERS_MAX as u32 - 1);
}

#[test]
fn a_redirect_for_a_slot_we_do_not_have_is_no_news() {
    let mut router = Router::new(array());
    let odd = Moved { slot: Slot(16), ..moved(&array(), "two", 9, 9) };
    assert!(!router.on_redirect(&odd));
    assert!(router.needs_refresh());
}

#[test]
fn redirects_are_read_as_they_are_written_and_junk_is_not_read() {
    let redirect = moved(&array(), "two", 2, 3);
    assert_eq!(Moved::from_json(redirect.to_json().as_bytes()), Some(redirect));
    let longest = Moved {
        slot: Slot(u16::MAX),
        owner: id(&"o".repeat(carp::array::NAME_BYTES_MAX)),
        slot_epoch: u32::MAX,
        epoch: Epoch(u64::MAX),
        urls: vec!["u".repeat(carp::array::URL_BYTES_MAX); carp::array::URLS_MAX],
    };
    assert_eq!(Moved::from_json(longest.to_json().as_bytes()), Some(longest));
    for junk in [
        r#"{"slot":70000,"owner":"a","slot_epoch":1,"epoch":1,"urls":[]}"#,
        r#"{"slot":1,"owner":"a b","slot_epoch":1,"epoch":1,"urls":[]}"#,
        r#"{"slot":1,"owner":"a","slot_epoch":1,"epoch":1,"urls":["\n"]}"#,
        r#"{"slot":1,"owner":"a","slot_epoch":-1,"epoch":1,"urls":[]}"#,
        "",
    ] {
        assert_eq!(Moved::from_json(junk.as_bytes()), None, "{junk}");
    }
    let spaces = " ".repeat(MOVED_BYTES_MAX) + &moved(&array(), "two", 2, 3).to_json();
    assert_eq!(Moved::from_json(spaces.as_bytes()), None);
}
