//! What routing and planning cost: `cargo bench -p carp`.

use std::hint::black_box;

use carp::draft::Draft;
use carp::{Array, Change, Member, MemberId, Router, SlotBits};
use divan::Bencher;

fn main() {
    divan::main();
}

fn members(count: usize) -> Vec<Member> {
    let name = |n| MemberId::new(format!("cluster-{n}")).expect("a name");
    (1..=count).map(|n| Member::new(name(n), Vec::new())).collect()
}

fn array(count: usize) -> Array {
    Array::fresh("kv", SlotBits::DEFAULT, 0, members(count)).expect("a valid array")
}

/// Keys of 12 bytes, many, so that what is measured is not one key that every cache knows; a number of
/// them that makes taking the next one nearly free.
const KEYS: usize = 1024;

fn keys() -> [[u8; 12]; KEYS] {
    let key = |n| format!("user:{n:07}").into_bytes().try_into().expect("12 bytes");
    std::array::from_fn(key)
}

#[divan::bench(args = [3, 16, 64, 1000])]
fn lookup(bencher: Bencher<'_, '_>, count: usize) {
    let (array, keys, mut next) = (array(count), keys(), 0);
    bencher.bench_local(|| {
        next = (next + 1) % KEYS;
        array.route(black_box(&keys[next])).slot_epoch
    });
}

#[divan::bench(args = [3, 16, 64, 1000])]
fn lookup_by_router(bencher: Bencher<'_, '_>, count: usize) {
    let (router, keys, mut next) = (Router::new(array(count)), keys(), 0);
    bencher.bench_local(|| {
        next = (next + 1) % KEYS;
        router.route(black_box(&keys[next])).slot_epoch
    });
}

#[divan::bench(args = [3, 16, 64, 1000])]
fn lookup_as_the_draft(bencher: Bencher<'_, '_>, count: usize) {
    let names: Vec<String> = (1..=count).map(|n| format!("cluster-{n}")).collect();
    let members: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let (draft, keys, mut next) = (Draft::new(&members).expect("valid"), keys(), 0);
    bencher.bench_local(|| {
        next = (next + 1) % KEYS;
        draft.owner(black_box(&keys[next])).hash
    });
}

#[divan::bench(args = [16, 64], sample_count = 10, sample_size = 1)]
fn plan_fresh(bencher: Bencher<'_, '_>, count: usize) {
    let members = members(count);
    bencher
        .with_inputs(|| members.clone())
        .bench_values(|members| Array::fresh("kv", SlotBits::DEFAULT, 0, members));
}

#[divan::bench(args = [16, 64], sample_count = 10, sample_size = 1)]
fn plan_add(bencher: Bencher<'_, '_>, count: usize) {
    let (array, newcomer) = (array(count), members(count + 1).remove(count));
    bencher.bench_local(|| array.plan(Change::Add(newcomer.clone())));
}

#[divan::bench(sample_count = 10)]
fn json_written_and_read(bencher: Bencher<'_, '_>) {
    let array = array(64);
    bencher.bench_local(|| Array::from_json(array.to_json().as_bytes()));
}
