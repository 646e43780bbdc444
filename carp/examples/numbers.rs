//! The numbers of `docs/carp.md`: how even the table is beside the draft and beside plain rendezvous
//! hashing, and what share of it moves. The same on every machine.
//!
//! `cargo run --release -p carp --example numbers`

#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use carp::draft::Draft;
use carp::spread::{Family, Spread};
use carp::{Array, Change, Member, MemberId, SlotBits};

const KEYS: u32 = 1_000_000;
const SIZES: [usize; 4] = [3, 8, 16, 64];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("Hottest member against the mean, worst of the key families, {KEYS} keys\n");
    println!("| members | draft | rendezvous | table | least p |");
    println!("|---|---|---|---|---|");
    for size in SIZES {
        let array = array(size)?;
        let (mut draft, mut rendezvous, mut table, mut p) = (0.0f64, 0.0f64, 0.0f64, 1.0f64);
        for family in Family::ALL {
            draft = draft.max(by_draft(size, family)?.max_over_mean);
            let ranked = by_slot(&array, family, |slot| place(&array, &array.rank(slot, 1)[0].id));
            rendezvous = rendezvous.max(ranked.max_over_mean);
            let owned = by_slot(&array, family, |slot| {
                array.owner(slot).map_or(0, |member| place(&array, &member.id))
            });
            (table, p) = (table.max(owned.max_over_mean), p.min(owned.p));
        }
        println!("| {size} | {draft:.3} | {rendezvous:.3} | {table:.4} | {p:.4} |");
    }

    println!("\nSlots that move, of {}\n", SlotBits::DEFAULT.count());
    println!("| change | moved | least possible | share |");
    println!("|---|---|---|---|");
    for size in SIZES {
        let array = array(size)?;
        let last = member(size)?.id;
        for (what, change) in [
            (format!("{size}, one more"), Change::Add(member(size + 1)?)),
            (format!("{size}, one drained"), Change::Drain(last.clone())),
            (format!("{size}, one of weight 3"), Change::Weight(last, 3)),
        ] {
            let plan = array.plan(change)?;
            let share = 100.0 * plan.moved_fraction();
            println!("| {what} | {} | {} | {share:.2} % |", plan.moved(), plan.least());
        }
    }
    Ok(())
}

fn member(number: usize) -> Result<Member, &'static str> {
    let id = MemberId::new(format!("cluster-{number}")).ok_or("not a name")?;
    Ok(Member::new(id, Vec::new()))
}

fn array(size: usize) -> Result<Array, Box<dyn std::error::Error>> {
    let members = (1..=size).map(member).collect::<Result<_, _>>()?;
    Ok(Array::fresh("kv", SlotBits::DEFAULT, 0, members)?)
}

fn place(array: &Array, id: &MemberId) -> usize {
    array.members().iter().position(|member| member.id == *id).unwrap_or_default()
}

fn by_draft(size: usize, family: Family) -> Result<Spread, Box<dyn std::error::Error>> {
    let names: Vec<String> = (1..=size).map(|number| format!("cluster-{number}")).collect();
    let members: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let draft = Draft::new(&members)?;
    let mut counts = vec![0; size];
    for number in 0..KEYS {
        let owner = draft.owner(&family.key(number));
        counts[names.iter().position(|name| *name == owner.name).unwrap_or_default()] += 1;
    }
    Ok(Spread::of(&counts, &vec![1; size]).ok_or("nothing was counted")?)
}

/// The spread of a family's keys when `owner` says where each slot is.
fn by_slot(array: &Array, family: Family, owner: impl Fn(carp::Slot) -> usize) -> Spread {
    let owners: Vec<usize> = array.slots().all().map(owner).collect();
    let mut counts = vec![0; array.members().len()];
    for number in 0..KEYS {
        counts[owners[usize::from(array.slot(&family.key(number)).0)]] += 1;
    }
    Spread::of(&counts, &vec![1; counts.len()]).expect("a million keys were counted")
}
