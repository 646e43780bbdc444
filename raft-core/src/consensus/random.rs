//! The core's only source of chance: SplitMix64 (Steele, Lea, Flood 2014), seeded by the config, so
//! that the same inputs give the same outputs, byte for byte. Not for secrets.

use std::time::Duration;

/// A seeded stream of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from `low` up to but not including `high`; `low` when the range is empty.
    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let width = high.saturating_sub(low).as_nanos();
        let step = (u128::from(self.next()) * width) >> 64;
        // At most `width`, which came from a Duration.
        low + Duration::from_nanos(u64::try_from(step).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_in_range_and_repeats() {
        let (low, high) = (Duration::from_millis(400), Duration::from_millis(800));
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(|_| random.between(low, high)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|wait| low <= *wait && *wait < high));
        let spread = draw(7).iter().max().unwrap().saturating_sub(*draw(7).iter().min().unwrap());
        assert!(spread > Duration::from_millis(350), "draws cover the range");
        assert_eq!(Random::new(1).between(low, low), low);
    }
}
