//! What a plan says to people, and why a change is refused.

use carp::array::{MEMBERS_MAX, MemberFault};
use carp::plan::quotas;
use carp::slots::Contender;
use carp::{Array, Change, Epoch, Member, MemberId, MemberState, PlanError, SlotBits};
use serde_json::{Value, json};

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn member(name: &str) -> Member {
    Member::new(id(name), vec![])
}

fn array(names: &[&str]) -> Array {
    let members = names.iter().map(|name| member(name)).collect();
    Array::fresh("kv", SlotBits::new(4).unwrap(), 0, members).unwrap()
}

fn made(array: &mut Array, change: Change) {
    array.apply_plan(&array.plan(change).unwrap()).unwrap();
}

#[test]
fn a_plan_reads_as_a_table() {
    let plan = array(&["one", "two"]).plan(Change::Weight(id("two"), 3)).unwrap();
    assert_eq!(
        plan.to_string(),
        "member  weight  slots now  slots then\n\
         one          1          8           4\n\
         two          3          8          12\n\
         one -> two: 4 slots\n\
         moves 4 of 16 slots (25.0 %)"
    );
    assert_eq!((plan.moved_fraction(), plan.least_fraction()), (0.25, 0.25));
    let quotas: Vec<(&str, usize)> =
        plan.quotas().map(|(id, slots)| (id.as_str(), slots)).collect();
    assert_eq!(quotas, [("one", 4), ("two", 12)]);
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut array = array(&["one", "two"]);
    let refused = |array: &Array, change| array.plan(change).expect_err("refused");
    assert_eq!(refused(&array, Change::Drain(id("six"))), PlanError::NoSuchMember(id("six")));
    assert_eq!(refused(&array, Change::Add(member("two"))), PlanError::AlreadyMember(id("two")));
    assert_eq!(
        refused(&array, Change::Remove(id("two"))),
        PlanError::StillOwns { id: id("two"), slots: 8 }
    );
    assert_eq!(
        refused(&array, Change::Weight(id("two"), 0)),
        PlanError::BadMember(MemberFault::Weight { id: id("two"), weight: 0 })
    );
    made(&mut array, Change::Drain(id("one")));
    assert_eq!(refused(&array, Change::Drain(id("two"))), PlanError::NobodyLeft);
    assert_eq!(refused(&array, Change::Remove(id("one"))), PlanError::KeepsTheArray(id("one")));
    assert_eq!(refused(&array, Change::Keeper(id("six"))), PlanError::NoSuchMember(id("six")));
}

#[test]
fn the_first_member_can_go_once_another_keeps_the_array() {
    let mut array = array(&["one", "two"]);
    let keeper = array.plan(Change::Keeper(id("two"))).unwrap();
    assert_eq!((keeper.moved(), array.meta()), (0, &id("one")));
    array.apply_plan(&keeper).unwrap();
    assert_eq!(array.meta(), &id("two"));
    made(&mut array, Change::Drain(id("one")));
    made(&mut array, Change::Remove(id("one")));
    assert_eq!((array.members().len(), array.counts()), (1, vec![16]));
}

#[test]
fn a_drained_member_comes_back_by_its_weight() {
    let mut array = array(&["one", "two"]);
    let before = array.counts();
    made(&mut array, Change::Drain(id("two")));
    assert_eq!((array.members()[1].state, array.counts()), (MemberState::Draining, vec![16, 0]));
    made(&mut array, Change::Weight(id("two"), 1));
    assert_eq!((array.members()[1].state, array.counts()), (MemberState::Active, before));
}

/// Three equal members share 16 slots: the odd one stays with whoever would have to give it up.
#[test]
fn nothing_moves_for_the_sake_of_a_remainder() {
    let contenders = ["one", "three", "two"].map(|name| Contender::new(name, 1));
    let quotas = |held: [usize; 3]| quotas(SlotBits::new(4).unwrap(), &contenders, &held);
    assert_eq!(quotas([0, 0, 0]), [6, 5, 5]);
    assert_eq!(quotas([5, 5, 6]), [5, 5, 6]);
    assert_eq!(quotas([5, 6, 5]), [5, 6, 5]);
}

/// Owners are places in the list of members: those behind a removed one have to move up.
#[test]
fn removing_a_member_leaves_the_others_what_they_own() {
    let mut array = array(&["one", "two", "three"]);
    made(&mut array, Change::Drain(id("two")));
    let before = array.clone();
    made(&mut array, Change::Remove(id("two")));
    assert_eq!(before.diff(&array), []);
    assert_eq!(
        array.members().iter().map(|one| one.id.as_str()).collect::<Vec<_>>(),
        ["one", "three"]
    );
}

#[test]
fn an_array_has_an_end_of_members() {
    let names: Vec<String> = (0..MEMBERS_MAX).map(|number| format!("m{number}")).collect();
    let full = array(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(full.plan(Change::Add(member("more"))), Err(PlanError::TooManyMembers));
    // 16 slots among 1024 members: the first 16 by name own one each.
    assert_eq!(full.counts().iter().sum::<usize>(), 16);
    assert_eq!(full.counts().into_iter().max(), Some(1));
}

/// A plan is for one epoch of one array: it cannot be made twice, nor behind another change.
#[test]
fn a_plan_grows_stale() {
    let mut ours = array(&["one", "two"]);
    let plan = ours.plan(Change::Weight(id("two"), 3)).unwrap();
    ours.apply_plan(&plan).unwrap();
    let stale = PlanError::Stale { planned: Epoch(1), now: Epoch(2) };
    let before = ours.clone();
    assert_eq!(ours.apply_plan(&plan), Err(stale));
    assert_eq!(ours, before);

    let members = vec![member("one"), member("two")];
    let mut other = Array::fresh("other", SlotBits::new(4).unwrap(), 0, members).unwrap();
    assert!(other.apply_plan(&plan).is_err());
}

/// Epochs that come from a text may be the last of their numbers: then nothing can be planned.
#[test]
fn epochs_never_wrap() {
    let mut text: Value = serde_json::from_str(&array(&["one", "two"]).to_json()).unwrap();
    text["epoch"] = json!(u64::MAX);
    let last = Array::from_json(text.to_string().as_bytes()).unwrap();
    assert_eq!(last.plan(Change::Drain(id("two"))), Err(PlanError::EpochsUsedUp));

    text["epoch"] = json!(1);
    text["slot_epochs"] = json!({"least": u32::MAX, "bits": 0, "above": ""});
    let last = Array::from_json(text.to_string().as_bytes()).unwrap();
    assert_eq!(last.plan(Change::Drain(id("two"))), Err(PlanError::EpochsUsedUp));
}
