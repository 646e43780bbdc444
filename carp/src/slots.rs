//! From a key to its slot, and how strongly each member wants a slot: hashes and integer logarithms.
//!
//! A key is hashed to one of 2^bits slots; a member *draws* for a slot from the two hashes together,
//! and the draws, weighted, put the members in an order of their own for each slot (weighted
//! rendezvous hashing, CARP's idea). There is no floating point here, so that every language and
//! every machine finds the same order. Who owns a slot is not decided here but in [`crate::plan`]:
//! the order alone would fill the members unevenly.
//!
//! XXH64 is quick and mixes well but is no secret: whoever may choose keys can aim them all at one
//! slot. The name of the scheme stands in every array so that a keyed hash can follow.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

/// The name of everything in this file and of the quotas of [`crate::plan`], as arrays carry it. A
/// reader that does not know the name of a scheme must not route by it.
pub const SCHEME: &str = "xxh64-log-quota-1";

/// The largest weight of a member. Up to it a logarithm times a weight fits 64 bits.
pub const WEIGHT_MAX: u32 = 1 << 25;

/// Fraction bits of [`neg_log2`].
const FRACTION_BITS: u32 = 32;

/// One part of the key space: the unit that has an owner and that moves. From 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many slots there are, as a power of two from 2^1 to 2^16. Fixed when an array is made: another
/// number would give every key another slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotBits(u8);

impl SlotBits {
    /// 2^14 = 16,384 slots: 64 members still have 256 each, and one slot of 10 GB is 0.6 MB.
    pub const DEFAULT: SlotBits = SlotBits(14);

    /// `None` unless 1 <= `bits` <= 16.
    pub const fn new(bits: u8) -> Option<SlotBits> {
        if 1 <= bits && bits <= 16 { Some(SlotBits(bits)) } else { None }
    }

    /// From 1 to 16.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The number of slots, from 2 to 65,536.
    pub const fn count(self) -> usize {
        1 << self.0
    }

    /// Every slot, in ascending order.
    pub fn all(self) -> impl Iterator<Item = Slot> {
        (0..=u16::MAX >> (16 - self.0)).map(Slot)
    }

    /// Whether there is such a slot.
    pub const fn holds(self, slot: Slot) -> bool {
        (slot.0 as usize) < self.count()
    }

    /// The slot of a key. Keys with the same [`hashed_part`] share a slot.
    ///
    /// ```
    /// use carp::slots::{Slot, SlotBits};
    /// assert_eq!(SlotBits::DEFAULT.slot_of(b"user:0000001", 0), Slot(14486));
    /// ```
    #[inline]
    pub fn slot_of(self, key: &[u8], seed: u64) -> Slot {
        let hash = XxHash64::oneshot(seed, hashed_part(key));
        // The top bits, at most 16 of them.
        Slot((hash >> (64 - u32::from(self.0))) as u16)
    }
}

/// The part of a key that decides its slot: what stands between the first `{` and the next `}`, if
/// there is anything, else the whole key. Keys that share such a tag stay together, on one cluster,
/// whatever moves.
///
/// ```
/// use carp::slots::hashed_part;
/// assert_eq!(hashed_part(b"{user:7}/name"), b"user:7");
/// assert_eq!(hashed_part(b"plain"), b"plain");
/// assert_eq!(hashed_part(b"{}/name"), b"{}/name");
/// ```
#[inline]
pub fn hashed_part(key: &[u8]) -> &[u8] {
    // Nearly all keys have no brace. A look at every byte without a way out is done many at a time.
    if !key.iter().fold(false, |found, byte| found | (*byte == b'{')) {
        return key;
    }
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let behind = &key[open + 1..];
    match behind.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => &behind[..close],
    }
}

/// The hash of a member: of its stable name, never of an address.
pub fn member_hash(id: &str) -> u64 {
    XxHash64::oneshot(0, id.as_bytes())
}

/// The hash of a slot.
pub fn slot_hash(slot: Slot) -> u64 {
    mix64(u64::from(slot.0).wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// The draw of a member for a slot: uniform in 64 bits, and independent of the draws of others.
pub fn draw(slot: Slot, member_hash: u64) -> u64 {
    mix64(slot_hash(slot) ^ member_hash)
}

/// -log2(`draw` / 2^64) with 32 fraction bits, truncated: from 1 to 2^38. A `draw` of 0 counts as 1.
///
/// A member of weight w whose draw is u wins a slot when -log(u)/w is the least: such a quotient is
/// exponentially distributed with rate w, so that w is the member's share of the victories.
pub fn neg_log2(draw: u64) -> u64 {
    let draw = draw.max(1);
    let exponent = 63 - draw.leading_zeros();
    // The mantissa: 1 <= mantissa / 2^63 < 2. Each squaring brings out one more bit of its logarithm.
    let mut mantissa = draw << draw.leading_zeros();
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let doubled = (square >> 127) as u64;
        fraction = fraction << 1 | doubled;
        // A square of 2 or more is halved; either way 64 bits remain.
        mantissa = (square >> (63 + doubled)) as u64;
    }
    (64 << FRACTION_BITS) - (u64::from(exponent) << FRACTION_BITS | fraction)
}

/// No more than [`neg_log2`] of the same draw, and less by 0.0863 at most: found at once, by taking the
/// logarithm of the mantissa as a straight line and adding the most by which it runs above that line.
fn neg_log2_at_least(draw: u64) -> u64 {
    // max(log2(x) - (x - 1)) for 1 <= x <= 2 is 0.08607.
    const BULGE: u64 = (863 << FRACTION_BITS) / 10_000;
    let draw = draw.max(1);
    let zeros = draw.leading_zeros();
    let line = (draw << zeros << 1) >> (64 - FRACTION_BITS);
    (u64::from(zeros + 1) << FRACTION_BITS).saturating_sub(line + BULGE)
}

/// A member as the order of a slot sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender<'a> {
    /// Decides ties: the lower name is better.
    pub id: &'a str,
    /// [`member_hash`] of `id`.
    pub hash: u64,
    /// From 0 (comes behind everyone else) to [`WEIGHT_MAX`].
    pub weight: u32,
}

impl<'a> Contender<'a> {
    /// Asserts `weight <= WEIGHT_MAX`.
    pub fn new(id: &'a str, weight: u32) -> Contender<'a> {
        assert!(weight <= WEIGHT_MAX, "the product of weight and logarithm must fit 64 bits");
        Contender { id, hash: member_hash(id), weight }
    }

    /// The logarithm of this member's draw for `slot`; the less the better, before weights.
    pub fn cost(&self, slot: Slot) -> u64 {
        neg_log2(draw(slot, self.hash))
    }
}

/// Which of two contenders with their costs for one slot is the better: `Less` when it is `a`.
/// Compares cost/weight by products, so that nothing is rounded.
pub fn compare(a: (&Contender<'_>, u64), b: (&Contender<'_>, u64)) -> Ordering {
    let (left, right) = (a.1 * u64::from(b.0.weight), b.1 * u64::from(a.0.weight));
    left.cmp(&right).then_with(|| a.0.id.cmp(b.0.id))
}

/// The best of the `contenders` at `places` for one slot, `None` without places: the first of their
/// [`rank`], with a logarithm only for those that may be better than the best so far.
pub fn best(
    slot: Slot,
    contenders: &[Contender<'_>],
    places: impl Iterator<Item = usize>,
) -> Option<usize> {
    let mut best: Option<(usize, u64)> = None;
    for at in places {
        let one = &contenders[at];
        let draw = draw(slot, one.hash);
        match best {
            None => best = Some((at, neg_log2(draw))),
            Some((leader, cost)) => {
                let leader = (&contenders[leader], cost);
                let hopeless = compare(leader, (one, neg_log2_at_least(draw))).is_lt();
                if !hopeless {
                    let cost = neg_log2(draw);
                    if compare((one, cost), leader).is_lt() {
                        best = Some((at, cost));
                    }
                }
            }
        }
    }
    best.map(|(at, _)| at)
}

/// The places of `contenders` in the order of `slot`, best first.
pub fn rank(slot: Slot, contenders: &[Contender<'_>]) -> Vec<usize> {
    let costs: Vec<u64> = contenders.iter().map(|one| one.cost(slot)).collect();
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    order.sort_by(|a, b| compare((&contenders[*a], costs[*a]), (&contenders[*b], costs[*b])));
    order
}

/// The finalizer of MurmurHash3: every bit of `x` changes every bit of the result half of the time.
fn mix64(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_slot_exist_for_every_number_of_bits() {
        for bits in 1..=16 {
            let slots = SlotBits::new(bits).unwrap();
            assert_eq!(slots.all().count(), slots.count());
            assert_eq!(slots.all().last(), Some(Slot((slots.count() - 1) as u16)));
            assert!(slots.all().all(|slot| slots.holds(slot)));
            for key in 0..200u32 {
                assert!(slots.holds(slots.slot_of(&key.to_le_bytes(), 0)));
            }
        }
        assert_eq!((SlotBits::new(0), SlotBits::new(17)), (None, None));
        assert!(!SlotBits::new(3).unwrap().holds(Slot(8)));
    }

    #[test]
    fn keys_with_one_tag_share_a_slot_and_the_first_tag_counts() {
        let slot = |key: &[u8]| SlotBits::DEFAULT.slot_of(key, 0);
        assert_eq!(slot(b"{user:7}/name"), slot(b"age of {user:7}"));
        assert_eq!(slot(b"{user:7}/name"), slot(b"user:7"));
        assert_eq!(hashed_part(b"a{b}{c}"), b"b");
        assert_eq!(hashed_part(b"a{{b}}"), b"{b");
        for whole in [&b"{open"[..], b"close}", b"}{", b"{}{tag}", b""] {
            assert_eq!(hashed_part(whole), whole);
        }
    }

    #[test]
    fn the_logarithm_is_exact_where_it_can_be_and_falls_otherwise() {
        for exponent in 0..64u64 {
            assert_eq!(neg_log2(1 << exponent), (64 - exponent) << 32);
        }
        let mut x = 1u64;
        while x < u64::MAX / 3 {
            let next = x * 3 / 2 + 1;
            assert!(neg_log2(next) < neg_log2(x), "{x}");
            x = next;
        }
        for x in [3u64, 0x1234_5678_9abc_def0, 0xc000_0000_0000_0000] {
            let real = (64.0 - (x as f64).log2()) * (1u64 << 32) as f64;
            assert!((neg_log2(x) as f64 - real).abs() < 16.0, "{x}");
        }
    }

    #[test]
    fn the_quick_bound_is_never_above_the_logarithm_and_never_far_below() {
        let farthest = (863 << 32) / 10_000 + 64;
        let mut x = 1u64;
        for step in 0..200_000u64 {
            x = mix64(x ^ step) >> (step % 64);
            let (bound, exact) = (neg_log2_at_least(x), neg_log2(x));
            assert!(bound <= exact && exact - bound <= farthest, "{x}: {bound}, {exact}");
        }
        for x in [0, 1, 2, 3, u64::MAX - 1, u64::MAX, 1 << 63, (1 << 63) - 1] {
            assert!(neg_log2_at_least(x) <= neg_log2(x), "{x}");
        }
    }

    #[test]
    fn the_best_is_the_first_of_the_rank() {
        let names: Vec<String> = (0..20).map(|number| format!("cluster-{number}")).collect();
        let weights = [1, 1, 2, 7, 0, WEIGHT_MAX, 1000];
        for many in 1..=7 {
            let one = |at: usize| Contender::new(&names[at], weights[at % many]);
            let contenders: Vec<Contender<'_>> = (0..20).map(one).collect();
            for slot in SlotBits::new(9).unwrap().all() {
                let first = rank(slot, &contenders)[0];
                assert_eq!(best(slot, &contenders, 0..20), Some(first));
                assert_eq!(best(slot, &contenders, (0..20).rev()), Some(first));
            }
        }
        assert_eq!(best(Slot(0), &[], 0..0), None);
    }

    #[test]
    fn the_largest_products_fit() {
        let heavy = Contender::new("heavy", WEIGHT_MAX);
        let other = Contender::new("other", WEIGHT_MAX);
        assert_eq!(compare((&heavy, 1 << 38), (&other, 1 << 38)), Ordering::Less);
        assert_eq!(compare((&heavy, 1 << 38), (&other, 1)), Ordering::Greater);
    }

    #[test]
    fn without_weight_a_member_comes_last_and_ties_go_to_the_lower_name() {
        let none = Contender::new("a", 0);
        let nor = Contender::new("b", 0);
        let some = Contender::new("c", 1);
        assert_eq!(compare((&some, 1 << 38), (&none, 1)), Ordering::Less);
        assert_eq!(compare((&none, 9), (&nor, 1)), Ordering::Less);
        for slot in SlotBits::new(6).unwrap().all() {
            assert_eq!(rank(slot, &[nor, some, none]), [1, 2, 0]);
        }
    }
}
