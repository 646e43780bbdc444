//! The laws of routing and planning, on arrays and changes made at random.

use std::collections::{BTreeMap, BTreeSet};

use carp::{Array, Change, Member, MemberId, MemberState, PlanError, Router, Slot, SlotBits};
use proptest::prelude::*;

fn id(number: usize) -> MemberId {
    MemberId::new(format!("cluster-{number}")).unwrap()
}

fn member(number: usize, weight: u32) -> Member {
    Member { weight, ..Member::new(id(number), vec![format!("http://10.0.0.{number}:7001")]) }
}

fn fresh(bits: u8, seed: u64, weights: &[u32]) -> Array {
    let members = weights.iter().enumerate().map(|(at, weight)| member(at, *weight)).collect();
    Array::fresh("kv", SlotBits::new(bits).unwrap(), seed, members).unwrap()
}

fn owners(array: &Array) -> Vec<&MemberId> {
    array.slots().all().map(|slot| &array.owner(slot).unwrap().id).collect()
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 1..5u32, 1 => 1..1000u32, 1 => 1..=carp::slots::WEIGHT_MAX]
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(weight(), 1..8)
}

/// A change to whichever member the number falls on; some are refused, which is part of the game.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Add(u32),
    Drain(usize),
    Remove(usize),
    Weight(usize, u32),
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        weight().prop_map(Wish::Add),
        any::<usize>().prop_map(Wish::Drain),
        any::<usize>().prop_map(Wish::Remove),
        (any::<usize>(), weight()).prop_map(|(at, weight)| Wish::Weight(at, weight)),
    ]
}

fn change(array: &Array, number: usize, wish: Wish) -> Change {
    let pick = |at: usize| array.members()[at % array.members().len()].id.clone();
    match wish {
        Wish::Add(weight) => Change::Add(member(100 + number, weight)),
        Wish::Drain(at) => Change::Drain(pick(at)),
        Wish::Remove(at) => Change::Remove(pick(at)),
        Wish::Weight(at, weight) => Change::Weight(pick(at), weight),
    }
}

/// Each member's count is within one of its share of the slots, and 0 without weight.
fn check_quotas(array: &Array) -> Result<(), TestCaseError> {
    let total: f64 = array.members().iter().map(|one| f64::from(one.share())).sum();
    for (member, count) in array.members().iter().zip(array.counts()) {
        let due = array.slots().count() as f64 * f64::from(member.share()) / total;
        prop_assert!(
            (count as f64 - due).abs() < 1.0 + 1e-6,
            "{} has {count}, due {due}",
            member.id
        );
        prop_assert!(0 < member.share() || count == 0);
    }
    let equal = |weight: u32| {
        let members = array.members().iter().zip(array.counts());
        members.filter(move |(one, _)| one.share() == weight).map(|(_, count)| count)
    };
    for member in array.members() {
        let most = equal(member.share()).max().unwrap();
        prop_assert!(most - equal(member.share()).min().unwrap() <= 1);
    }
    Ok(())
}

proptest! {
    /// Every key has an owner with weight while one member has weight, whatever changes; every plan
    /// moves exactly the lower bound, and nothing between members that keep or gain.
    #[test]
    fn any_changes_keep_the_laws(
        bits in 1..=10u8,
        seed: u64,
        weights in weights(),
        wishes in proptest::collection::vec(wish(), 1..12),
        keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..20),
    ) {
        let mut array = fresh(bits, seed, &weights);
        check_quotas(&array)?;
        for (number, wish) in wishes.into_iter().enumerate() {
            let before = array.clone();
            let change = change(&array, number, wish);
            let plan = match array.plan(change.clone()) {
                Ok(plan) => plan,
                Err(fault) => {
                    let known = matches!(
                        fault,
                        PlanError::NobodyLeft | PlanError::StillOwns { .. } | PlanError::KeepsTheArray(_)
                    );
                    prop_assert!(known, "{change:?}: {fault}");
                    continue;
                }
            };
            array.apply_plan(&plan).unwrap();
            prop_assert_eq!(array.epoch().0, before.epoch().0 + 1);
            check_quotas(&array)?;

            // What a plan promises is what happens, and it is the least that could happen.
            let moved = before.diff(&array);
            prop_assert_eq!(plan.moved(), moved.len());
            let counts = |array: &Array| -> BTreeMap<MemberId, usize> {
                let ids = array.members().iter().map(|one| one.id.clone());
                ids.zip(array.counts()).collect()
            };
            let (then, now) = (counts(&before), counts(&array));
            let count = |of: &BTreeMap<MemberId, usize>, id| of.get(id).copied().unwrap_or(0);
            let excess = before.members().iter().map(|one| {
                count(&then, &one.id).saturating_sub(count(&now, &one.id))
            });
            prop_assert_eq!(moved.len(), excess.sum::<usize>());
            prop_assert_eq!(plan.least(), plan.moved());
            for one in plan.moves() {
                prop_assert!(count(&now, &one.from) < count(&then, &one.from));
                prop_assert!(count(&then, &one.to) < count(&now, &one.to));
            }
            let slots: BTreeSet<Slot> = moved.iter().map(|one| one.slot).collect();
            for slot in array.slots().all() {
                let change = u32::from(slots.contains(&slot));
                let epochs = (before.slot_epoch(slot).unwrap(), array.slot_epoch(slot).unwrap());
                prop_assert_eq!(epochs.0 + change, epochs.1);
            }

            for key in &keys {
                let route = array.route(key);
                prop_assert_eq!(route.member.state, MemberState::Active);
                prop_assert_eq!(route.slot, before.route(key).slot, "a key never leaves its slot");
            }
            // A plan fits the epoch it was made for and no other.
            prop_assert_eq!(
                array.apply_plan(&plan),
                Err(PlanError::Stale { planned: before.epoch(), now: array.epoch() })
            );

            // The copy of a client can always be replaced by the next one, never by the one before.
            let mut copy = before.clone();
            prop_assert_eq!(copy.replace(array.clone()), Ok(true));
            prop_assert_eq!(copy.replace(array.clone()), Ok(false));
            prop_assert!(copy.replace(before).is_err());
            prop_assert_eq!(&copy, &array);
        }
    }

    /// Members that come to a fresh array and are drained again leave no trace but epochs, if no
    /// quota rose when they came. (One can, by a slot: the largest remainders are others then. Of
    /// weights 3 and 436 on 512 slots the first has 3, and beside a third of weight 1 it has 4.)
    #[test]
    fn add_then_drain_gives_the_same_table(
        bits in 4..=12u8,
        weights in weights(),
        newcomer in weight(),
    ) {
        let before = fresh(bits, 0, &weights);
        let mut array = before.clone();
        let steps = [Change::Add(member(100, newcomer)), Change::Drain(id(100)), Change::Remove(id(100))];
        for (at, change) in steps.into_iter().enumerate() {
            let plan = array.plan(change).unwrap();
            prop_assume!(at != 0 || plan.moves().iter().all(|it| it.to == id(100)));
            array.apply_plan(&plan).unwrap();
        }
        prop_assert_eq!(owners(&before), owners(&array));
        prop_assert_eq!(before.members(), array.members());
    }

    /// The order in which members are listed does not matter to a fresh table.
    #[test]
    fn a_fresh_table_does_not_depend_on_the_order_of_members(
        bits in 1..=10u8,
        members in Just((0..6).map(|at| member(at, 1 + at as u32 / 2)).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let bits = SlotBits::new(bits).unwrap();
        let mut sorted = members.clone();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let shuffled = Array::fresh("kv", bits, 0, members).unwrap();
        let sorted = Array::fresh("kv", bits, 0, sorted).unwrap();
        prop_assert_eq!(owners(&shuffled), owners(&sorted));
    }

    /// What is written is read, and is the same; and the router sends where the array says.
    #[test]
    fn json_and_router_say_what_the_array_says(
        bits in 1..=16u8,
        seed: u64,
        weights in weights(),
        newcomer in weight(),
        keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..20),
    ) {
        let mut array = fresh(bits, seed, &weights);
        for change in [Change::Add(member(100, newcomer)), Change::Drain(id(0))] {
            let text = array.to_json();
            prop_assert_eq!(Array::from_json(text.as_bytes()), Ok(array.clone()));
            let router = Router::from_json(text.as_bytes()).unwrap();
            for key in &keys {
                let (target, route) = (router.route(key), array.route(key));
                prop_assert_eq!(target.owner, &route.member.id);
                prop_assert_eq!(target.urls, &route.member.urls);
                prop_assert_eq!((target.slot, target.slot_epoch), (route.slot, route.slot_epoch));
            }
            array.apply_plan(&array.plan(change).unwrap()).unwrap();
        }
        prop_assert_eq!(Array::from_json(array.to_json().as_bytes()), Ok(array));
    }
}
