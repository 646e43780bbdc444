//! A million keys of each family over arrays of 3 to 64: how even the table is, against what the draft
//! would do with the same keys. The keys are frozen, so these numbers are the same on every run.

use std::sync::LazyLock;

use carp::draft::Draft;
use carp::spread::{Family, Spread};
use carp::{Array, Member, MemberId, SlotBits};

const KEYS: u32 = 1_000_000;

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("cluster-{number}")).collect()
}

fn array(count: usize) -> Array {
    let member = |name| Member::new(MemberId::new(name).unwrap(), vec![]);
    let members = names(count).into_iter().map(member).collect();
    Array::fresh("kv", SlotBits::DEFAULT, 0, members).unwrap()
}

/// Each family, and how many of its keys fall into each slot: the same for every array.
static KEYS_PER_SLOT: LazyLock<Vec<(Family, Vec<u64>)>> = LazyLock::new(|| {
    let count = |family: Family| {
        let mut keys = vec![0; SlotBits::DEFAULT.count()];
        for number in 0..KEYS {
            keys[usize::from(SlotBits::DEFAULT.slot_of(&family.key(number), 0).0)] += 1;
        }
        (family, keys)
    };
    Family::ALL.into_iter().map(count).collect()
});

fn spread_of_the_table(array: &Array, keys_per_slot: &[u64]) -> Spread {
    let mut keys = vec![0; array.members().len()];
    for (slot, count) in array.slots().all().zip(keys_per_slot) {
        let owner = array.owner(slot).unwrap();
        keys[array.members().iter().position(|one| one.id == owner.id).unwrap()] += count;
    }
    let slots: Vec<u64> = array.counts().into_iter().map(|count| count as u64).collect();
    let by_weight = Spread::of(&keys, &vec![1; keys.len()]).unwrap();
    // Chance works on slots: whether keys fall at random is asked against what each member owns.
    Spread { p: Spread::of(&keys, &slots).unwrap().p, ..by_weight }
}

#[test]
fn keys_are_spread_evenly_over_members() {
    for (count, bar) in [(3, 1.01), (8, 1.015), (16, 1.02), (64, 1.035)] {
        let array = array(count);
        for (family, keys) in KEYS_PER_SLOT.iter() {
            let spread = spread_of_the_table(&array, keys);
            let what = format!("{} over {count}: {spread:?}", family.name());
            assert!(spread.max_over_mean <= bar, "{what}");
            assert!(1e-4 < spread.p, "{what}");
        }
    }
}

#[test]
fn keys_are_spread_evenly_over_slots() {
    for (family, keys) in KEYS_PER_SLOT.iter() {
        let spread = Spread::of(keys, &vec![1; keys.len()]).unwrap();
        assert!(1e-4 < spread.p && spread.p < 1.0 - 1e-4, "{}: {spread:?}", family.name());
    }
}

/// From 8 members on, our hottest member has at least ten times less to bear above the mean than the
/// draft's with the same keys, each at its worst family.
#[test]
fn the_draft_spreads_the_same_keys_ten_times_worse() {
    for count in [8, 64] {
        let names = names(count);
        let members: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let (draft, array) = (Draft::new(&members).unwrap(), array(count));
        let (mut ours, mut theirs) = (0.0f64, 0.0f64);
        for (family, per_slot) in KEYS_PER_SLOT.iter() {
            let mut keys = vec![0; count];
            for number in 0..KEYS {
                let owner = draft.owner(&family.key(number));
                let place = draft.members().iter().position(|one| std::ptr::eq(one, owner));
                keys[place.unwrap()] += 1;
            }
            let spread = Spread::of(&keys, &vec![1; count]).unwrap();
            theirs = theirs.max(spread.max_over_mean - 1.0);
            ours = ours.max(spread_of_the_table(&array, per_slot).max_over_mean - 1.0);
        }
        assert!(10.0 * ours <= theirs, "over {count}: {ours}, {theirs}");
    }
}
