//! The one source of chance: a small generator with independent streams.
//!
//! A run has one root seed. Every subsystem (network, each disk, each clock, the scheduler ...) draws
//! from a stream of its own, named by a word and a number, so that a draw more in one of them does
//! not shift the others. Nothing else in this crate is random.

use std::ops::Range;
use std::time::Duration;

/// A stream of random numbers (xoshiro256**). The same seed gives the same numbers for ever.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A stream that begins with this seed.
    pub fn new(seed: u64) -> Rng {
        let mut z = seed;
        let state = [(); 4].map(|()| split_mix(&mut z));
        Rng { state }
    }

    /// The stream of one subsystem of a run: `name` says which, `number` which of several.
    pub fn stream(root: u64, name: &str, number: u64) -> Rng {
        let mut z = root ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93);
        for byte in name.bytes() {
            z = split_mix(&mut z) ^ u64::from(byte);
        }
        Rng::new(z)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `bound`, which is above 0. All but evenly spread: the bias is 2^-64 * `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(0 < bound, "there is no number below 0");
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number of a range that is not empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// True in `ppm` of a million cases.
    pub fn chance(&mut self, ppm: u32) -> bool {
        // No draw for what never happens: a fault that is off leaves the stream as it is.
        0 < ppm && self.below(1_000_000) < u64::from(ppm)
    }

    /// True in one of two cases.
    pub fn coin(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    /// One of these; there has to be one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// A number from `low` to `high`, each order of magnitude as likely as the others: how
    /// intensities are drawn. 0 counts as the magnitude below 1.
    pub fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "from low to high");
        let (from, to) = (((low + 1) as f64).ln(), ((high + 1) as f64).ln());
        let at = from + (to - from) * self.fraction();
        (at.exp() as u64 - 1).clamp(low, high)
    }

    /// A span from `low` to `high`, evenly spread, in whole nanoseconds.
    pub fn span(&mut self, low: Duration, high: Duration) -> Duration {
        let (low, high) = (low.as_nanos() as u64, high.as_nanos() as u64);
        Duration::from_nanos(if low < high { self.range(low..high + 1) } else { low })
    }

    /// A span from `low` to `high`, spread over orders of magnitude.
    pub fn log_span(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.log_uniform(low.as_nanos() as u64, high.as_nanos() as u64))
    }

    /// A number from 0 to below 1.
    pub fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn split_mix(z: &mut u64) -> u64 {
    *z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *z;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_their_own_and_the_same_every_time() {
        let draw = |name, number| Rng::stream(7, name, number).bits();
        assert_eq!(draw("network", 0), draw("network", 0));
        assert_ne!(draw("network", 0), draw("network", 1));
        assert_ne!(draw("network", 0), draw("disk", 0));
        assert_ne!(Rng::stream(7, "disk", 0).bits(), Rng::stream(8, "disk", 0).bits());
    }

    #[test]
    fn draws_stay_in_their_bounds_and_reach_them() {
        let mut rng = Rng::new(1);
        let mut seen = [0; 3];
        for _ in 0..300 {
            seen[rng.below(3) as usize] += 1;
            assert!((5..=500).contains(&rng.log_uniform(5, 500)));
        }
        assert!(seen.iter().all(|count| 50 < *count), "{seen:?}");
        let hits = (0..10_000).filter(|_| rng.chance(250_000)).count();
        assert!((2200..2800).contains(&hits), "{hits}");
        assert!(!rng.chance(0) && rng.chance(1_000_000));
    }
}
