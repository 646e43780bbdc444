//! What clusters serve when arrays reach them late, out of order or not at all: no slot ever has two
//! owners, and none is lost for good.

use std::collections::BTreeMap;

use carp::array::Epoch;
use carp::ownership::Applied;
use carp::{Admit, Array, ArrayFault, Change, MapRefused, Member, MemberId, Ownership, SlotBits};
use proptest::prelude::*;

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn member(name: &str) -> Member {
    Member::new(id(name), vec![format!("http://{name}:1")])
}

fn array(names: &[&str]) -> Array {
    let members = names.iter().map(|name| member(name)).collect();
    Array::fresh("kv", SlotBits::new(4).unwrap(), 0, members).unwrap()
}

fn after(array: &Array, change: Change) -> Array {
    let mut next = array.clone();
    next.apply_plan(&array.plan(change).unwrap()).unwrap();
    next
}

/// Takes an array as a cluster without keys.
fn take(now: Option<&Ownership>, me: &str, array: &Array) -> Result<Option<Ownership>, MapRefused> {
    Ownership::next(now, &id(me), array.clone(), |_| 0)
}

fn taken(now: Option<&Ownership>, me: &str, array: &Array) -> Ownership {
    take(now, me, array).unwrap().expect("it is another array")
}

fn applied(epochs: &[(&str, u64)]) -> BTreeMap<MemberId, Applied> {
    let settled = |epoch: u64| Applied { epoch: Epoch(epoch), settled: Epoch(epoch) };
    epochs.iter().map(|(name, epoch)| (id(name), settled(*epoch))).collect()
}

#[test]
fn the_first_owners_of_an_array_serve_at_once() {
    let array = array(&["a", "b"]);
    let (a, b) = (taken(None, "a", &array), taken(None, "b", &array));
    assert_eq!((a.serving(), b.serving(), a.coming()), (8, 8, 0));
    for slot in array.slots().all() {
        let serve = |own: &Ownership| own.admit(slot) == Admit::Serving;
        assert!(serve(&a) != serve(&b));
    }
    assert_eq!(take(Some(&a), "a", &array), Ok(None), "it has it already");
}

#[test]
fn a_slot_is_served_once_its_giver_has_let_go() {
    let first = array(&["a", "b"]);
    let second = after(&first, Change::Add(member("c")));
    let a = taken(None, "a", &first);
    let mut c = taken(None, "c", &second);
    assert_eq!((c.serving(), c.coming()), (0, second.counts()[2]));
    let slot = first.diff(&second)[0].slot;
    assert_eq!(c.admit(slot), Admit::Coming(None), "c has never seen who had it");

    assert!(!c.adopt(&applied(&[("a", 1), ("b", 2)])), "a has not let go");
    assert!(!c.adopt(&applied(&[("a", 2), ("b", 3)])), "what b has done since is not known");
    assert!(c.adopt(&applied(&[("a", 2), ("b", 2)])));
    assert_eq!((c.serving(), c.coming()), (second.counts()[2], 0));

    // Between two that have seen both arrays the giver is known.
    let third = after(&second, Change::Drain(id("c")));
    let moved = second.diff(&third).into_iter().find(|change| *change.to == id("a")).unwrap().slot;
    let mut a = taken(Some(&taken(Some(&a), "a", &second)), "a", &third);
    let Admit::Coming(Some(giver)) = a.admit(moved) else { panic!("{:?}", a.admit(moved)) };
    assert_eq!((&giver.id, &giver.urls[..]), (&id("c"), &["http://c:1".to_owned()][..]));
    assert!(a.would_adopt(&applied(&[("c", 3)])) && !a.would_adopt(&applied(&[("b", 3)])));
    assert!(a.adopt(&applied(&[("c", 3)])));
    assert_eq!(a.coming(), 0);
}

/// What b never had it cannot let go of: until a has, c must not take b's word for it.
#[test]
fn a_slot_that_was_never_had_is_not_let_go_of() {
    let first = array(&["a", "b"]);
    let second = after(&first, Change::Drain(id("a")));
    let third = after(&second, Change::Add(member("c")));
    let fourth = after(&third, Change::Drain(id("b")));
    let mut b = taken(Some(&taken(None, "b", &first)), "b", &second);
    b = taken(Some(&b), "b", &fourth);
    assert_eq!((b.coming(), b.applied().epoch, b.applied().settled), (0, Epoch(4), Epoch(2)));

    let mut c = taken(None, "c", &third);
    c.adopt(&applied(&[("a", 3), ("b", 3)]));
    c = taken(Some(&c), "c", &fourth);
    let from_b = c.coming();
    assert!(0 < from_b && !c.adopt(&BTreeMap::from([(id("b"), b.applied())])));

    assert!(b.adopt(&applied(&[("a", 4)])));
    assert_eq!(b.applied().settled, Epoch(4));
    assert!(c.adopt(&BTreeMap::from([(id("b"), b.applied())])) && c.coming() == 0);
}

#[test]
fn an_array_that_would_lose_keys_is_refused_with_their_number() {
    let first = array(&["a", "b"]);
    let whole = |_: &[bool]| 7;
    let refused = Ownership::next(None, &id("a"), first.clone(), whole).unwrap_err();
    assert_eq!(refused, MapRefused::HoldsKeys { keys: 7 });
    assert!(refused.to_string().contains("7 keys"));
    let lost = |lost: &[bool]| lost.iter().filter(|lost| **lost).count() as u64;
    let refused = Ownership::next(None, &id("a"), first.clone(), lost).unwrap_err();
    assert_eq!(refused, MapRefused::HoldsKeys { keys: 8 }, "only slots of others are asked for");

    let a = taken(None, "a", &first);
    let urls_only = first.asked_by_json(
        br#"{"carp":2,"name":"kv","epoch":2,"members":[{"id":"a","urls":["http://x"]},{"id":"b"}]}"#,
    );
    let none = |_: &[bool]| unreachable!("nothing is lost");
    let a = Ownership::next(Some(&a), &id("a"), urls_only.unwrap(), none).unwrap().unwrap();
    assert_eq!(a.array().epoch(), Epoch(2));
}

#[test]
fn the_name_and_the_epochs_are_kept() {
    let (first, other) = (array(&["a", "b"]), array(&["b", "a"]));
    let second = after(&first, Change::Weight(id("a"), 2));
    let a = taken(None, "a", &second);
    assert_eq!(take(None, "c", &first), Err(MapRefused::NotAMember(id("c"))));
    let (ours, theirs) = (id("a"), id("b"));
    assert_eq!(take(Some(&a), "b", &second), Err(MapRefused::OtherName { ours, theirs }));
    let back = ArrayFault::EpochWentBack { ours: Epoch(2), theirs: Epoch(1) };
    assert_eq!(take(Some(&a), "a", &first), Err(MapRefused::Fault(back)));
    let a = taken(None, "a", &first);
    let two = ArrayFault::TwoOfOneEpoch(Epoch(1));
    assert_eq!(take(Some(&a), "a", &other), Err(MapRefused::Fault(two)));
}

#[test]
fn a_client_is_told_the_owner() {
    let array = array(&["a", "b"]);
    let a = taken(None, "a", &array);
    let key = |n: u32| format!("k{n}").into_bytes();
    let foreign = (0..).map(key).find(|key| !a.serves(key)).unwrap();
    let moved = a.moved(&foreign).unwrap();
    assert_eq!((moved.owner, moved.epoch, moved.slot_epoch), (id("b"), Epoch(1), 1));
    assert_eq!((moved.slot, moved.urls), (array.slot(&foreign), vec!["http://b:1".to_owned()]));
    let own = (0..).map(key).find(|key| a.serves(key)).unwrap();
    assert_eq!(a.moved(&own), None);
}

#[test]
fn an_ownership_is_text_and_back() {
    let first = array(&["a", "b"]);
    let a = taken(None, "a", &first);
    let b = taken(Some(&taken(None, "b", &first)), "b", &after(&first, Change::Drain(id("a"))));
    assert_eq!(b.coming(), 8);
    for own in [&a, &b] {
        assert_eq!(Ownership::from_json(own.to_json().as_bytes()).as_ref(), Ok(own));
    }
    for (part, other) in [
        ("\"me\":\"b\"", "\"me\":\"c\""),
        ("\"me\":\"b\"", "\"me\":\"b c\""),
        ("\"since\":2", "\"since\":3"),
        ("\"since\":2", "\"since\":0"),
        ("\"me\":\"b\"", "\"me\":\"a\""),
        ("\\\"carp\\\":2", "\\\"carp\\\":3"),
    ] {
        let text = b.to_json();
        assert!(text.contains(part), "{part} in {text}");
        let changed = text.replacen(part, other, 1);
        Ownership::from_json(changed.as_bytes()).expect_err(other);
    }
}

/// What may happen in an array of clusters.
#[derive(Clone, Debug)]
enum Event {
    /// Somebody makes the next array.
    Plan(usize, usize, u32),
    /// An array of the past or the newest reaches a cluster.
    Deliver(usize, usize),
    /// A cluster is told which arrays the others had when they were last asked.
    Adopt(usize),
    /// A cluster asks another what it has applied.
    Ask(usize, usize),
    /// A cluster writes a key into a slot, if it serves it, or removes all of them.
    Write(usize, u16),
    Clear(usize),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..6usize, 0..5usize, 1..5u32).prop_map(|(kind, who, w)| Event::Plan(kind, who, w)),
        8 => (0..5usize, 0..4usize).prop_map(|(who, back)| Event::Deliver(who, back)),
        6 => (0..5usize).prop_map(Event::Adopt),
        12 => (0..5usize, 0..5usize).prop_map(|(who, whom)| Event::Ask(who, whom)),
        1 => (0..5usize, 0..16u16).prop_map(|(who, slot)| Event::Write(who, slot)),
        1 => (0..5usize).prop_map(Event::Clear),
    ]
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Default)]
struct Cluster {
    own: Option<Ownership>,
    /// Slots that hold a key.
    keys: Vec<u16>,
    /// What the others said when they were asked.
    heard: BTreeMap<MemberId, Applied>,
}

impl Cluster {
    fn take(&mut self, me: &str, array: &Array) {
        let held = |lost: &[bool]| self.keys.iter().filter(|at| lost[usize::from(**at)]).count();
        let next = Ownership::next(self.own.as_ref(), &id(me), array.clone(), |l| held(l) as u64);
        if let Ok(Some(next)) = next {
            self.own = Some(next);
        }
    }
}

/// The change that one event makes of the newest array, if it can be made.
fn planned(newest: &Array, kind: usize, who: usize, weight: u32) -> Option<Array> {
    let name = id(NAMES[who]);
    let change = match kind {
        0 | 1 => Change::Add(member(NAMES[who])),
        2 => Change::Drain(name),
        _ => Change::Weight(name, weight),
    };
    let mut next = newest.clone();
    next.apply_plan(&newest.plan(change).ok()?).ok()?;
    Some(next)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200_000, ..ProptestConfig::with_cases(count()) })]

    /// Whatever is delivered when: one server at most for each slot; and once everybody has heard
    /// everything, exactly one.
    #[test]
    fn no_slot_has_two_owners(events in prop::collection::vec(any_event(), 1..200)) {
        let mut history = vec![array(&NAMES[..2])];
        let mut clusters: [Cluster; 5] = Default::default();
        clusters[0].take("a", &history[0]);
        clusters[1].take("b", &history[0]);
        let slots = history[0].slots();
        let check = |clusters: &[Cluster; 5]| {
            for slot in slots.all() {
                let serve = clusters.iter().filter(|one| {
                    one.own.as_ref().is_some_and(|own| own.admit(slot) == Admit::Serving)
                });
                prop_assert!(serve.count() <= 1, "slot {slot} has two owners");
            }
            Ok(())
        };
        for event in events {
            match event {
                Event::Plan(kind, who, weight) => {
                    let newest = history.last().unwrap();
                    history.extend(planned(newest, kind, who, weight));
                }
                Event::Deliver(who, back) => {
                    let at = history.len().saturating_sub(1 + back);
                    clusters[who].take(NAMES[who], &history[at]);
                }
                Event::Ask(who, whom) => {
                    let applied = clusters[whom].own.as_ref().map(Ownership::applied);
                    clusters[who].heard.extend(applied.map(|applied| (id(NAMES[whom]), applied)));
                }
                Event::Adopt(who) => {
                    let Cluster { own, heard, .. } = &mut clusters[who];
                    if let Some(own) = own {
                        let would = own.would_adopt(heard);
                        prop_assert_eq!(would, own.adopt(heard));
                        let text = own.to_json();
                        prop_assert_eq!(Ownership::from_json(text.as_bytes()), Ok(own.clone()));
                    }
                }
                Event::Write(who, slot) => {
                    let one = &mut clusters[who];
                    let serves = |own: &Ownership| own.admit(carp::Slot(slot)) == Admit::Serving;
                    if one.own.as_ref().is_some_and(serves) {
                        one.keys.push(slot);
                    }
                }
                Event::Clear(who) => clusters[who].keys.clear(),
            }
            check(&clusters)?;
        }
        // Everybody removes their keys and hears everything, as often as it takes.
        clusters.iter_mut().for_each(|one| one.keys.clear());
        for _ in 0..4 * history.len() {
            for (at, one) in clusters.iter_mut().enumerate() {
                for array in &history {
                    one.take(NAMES[at], array);
                }
            }
            let all: Vec<Option<Applied>> =
                clusters.iter().map(|one| one.own.as_ref().map(Ownership::applied)).collect();
            for one in &mut clusters {
                for (name, applied) in NAMES.iter().zip(&all) {
                    one.heard.extend(applied.map(|applied| (id(name), applied)));
                }
                if let Some(own) = &mut one.own {
                    own.adopt(&one.heard);
                }
            }
            check(&clusters)?;
        }
        for slot in slots.all() {
            let serve = clusters.iter().filter(|one| {
                one.own.as_ref().is_some_and(|own| own.admit(slot) == Admit::Serving)
            });
            prop_assert_eq!(serve.count(), 1, "slot {} is lost", slot);
        }
    }
}

/// How many stories; more with `PROPTEST_CASES`.
fn count() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}
