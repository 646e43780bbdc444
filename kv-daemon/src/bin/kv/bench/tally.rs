//! What came of the requests: times as histograms, errors by kind.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Of a client, or of all together.
#[derive(Default)]
pub struct Tally {
    /// Requests that wrote.
    pub writes: Times,
    /// Requests that read.
    pub reads: Times,
    /// Reads that found no such key; they are in `reads` too.
    pub missing: u64,
    /// Requests that failed, by what the server calls the problem.
    pub errors: BTreeMap<String, u64>,
}

/// How long requests took that were answered: an HdrHistogram of microseconds, right to 3 digits.
pub struct Times {
    histogram: Histogram<u32>,
}

impl Default for Times {
    fn default() -> Times {
        // Grows with the longest time it is told, so that a thousand of them take little room.
        Times { histogram: Histogram::new(3).expect("3 digits are among what there is") }
    }
}

impl Times {
    /// One more.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // An hour is long enough for anything; beyond it all times count as one.
        let micros = micros.clamp(1, 3_600_000_000);
        self.histogram.record(micros).expect("a histogram that grows takes every time");
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The time that this share of them (0 to 1) took at most.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.histogram.value_at_quantile(share))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.histogram.max())
    }

    /// All of another one's too.
    pub fn add(&mut self, other: &Times) {
        self.histogram.add(&other.histogram).expect("a histogram that grows takes every time");
    }

    /// As stable JSON.
    pub fn to_json(&self, took: Duration) -> Value {
        let micros = |duration: Duration| duration.as_micros() as u64;
        json!({
            "requests": self.count(),
            "per_second": per_second(self.count(), took).round(),
            "p50_us": micros(self.quantile(0.5)),
            "p90_us": micros(self.quantile(0.9)),
            "p99_us": micros(self.quantile(0.99)),
            "p999_us": micros(self.quantile(0.999)),
            "max_us": micros(self.max()),
        })
    }
}

impl Tally {
    /// One more that failed.
    pub fn failed(&mut self, kind: String) {
        *self.errors.entry(kind).or_default() += 1;
    }

    /// How many failed.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// All that another one has too.
    pub fn add(&mut self, other: Tally) {
        self.writes.add(&other.writes);
        self.reads.add(&other.reads);
        self.missing += other.missing;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
    }
}

/// So many in this time, as a rate; 0 in no time.
pub fn per_second(count: u64, took: Duration) -> f64 {
    if took.is_zero() { 0.0 } else { count as f64 / took.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits_and_survive_adding() {
        let (mut even, mut odd) = (Times::default(), Times::default());
        for micros in 1..=10_000u64 {
            let times = if micros % 2 == 0 { &mut even } else { &mut odd };
            times.record(Duration::from_micros(micros));
        }
        even.add(&odd);
        assert_eq!(even.count(), 10_000);
        for (share, expected) in [(0.5, 5_000.0), (0.9, 9_000.0), (0.999, 9_990.0)] {
            let micros = even.quantile(share).as_micros() as f64;
            assert!((micros / expected - 1.0).abs() < 0.001, "{share}: {micros}");
        }
        // The longest there is, and a time that no clock shows.
        even.record(Duration::MAX);
        assert!(Duration::from_secs(3590) < even.max());
    }

    #[test]
    fn errors_are_added_by_kind() {
        let (mut all, mut one) = (Tally::default(), Tally::default());
        one.failed("busy".into());
        one.failed("busy".into());
        all.failed("no-leader".into());
        all.add(one);
        assert_eq!(all.failures(), 3);
        assert_eq!(all.errors["busy"], 2);
        assert_eq!(per_second(10, Duration::from_secs(4)), 2.5);
        assert_eq!(per_second(10, Duration::ZERO), 0.0);
    }
}
