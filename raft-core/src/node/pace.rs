//! How the snapshot writer keeps out of the way of clients: after each piece of work it rests, in
//! proportion to the time that the work took. So it takes a fixed share of the disk and of a core, on
//! a slow machine as on a quick one, and a fixed multiple of the time it would take unhindered.
//!
//! Memory sets the limit: until a snapshot is written the log behind it cannot be let go. The more
//! the log has grown meanwhile, the shorter the rests; from [`GROWTH_MAX_BYTES`] on there are none.
//!
//! [`rest_after`] is the rule, [`Pace`] keeps to it, [`Stopping`] ends a rest early.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::metrics::Counter;
use super::{lock, wait_timeout};

/// Three times as long as the work: the writer takes a quarter of the disk and of a core, and a snapshot
/// of 300 MB about two seconds. Less: clients feel it more. More: the log grows for longer.
const REST_PER_WORK: u32 = 3;

/// No rest is longer, so that a snapshot ends in time on a machine or a disk that others keep busy: of
/// one of 300 MB, written and read back by 256 KiB, all rests together take at most 12 s.
const REST_MAX: Duration = Duration::from_millis(5);

/// How much the log may grow before the writer goes as fast as it can.
const GROWTH_MAX_BYTES: u64 = 128 << 20;

/// How long to rest after work that took this long, if the log has grown by so many bytes since the
/// snapshot was begun.
fn rest_after(worked: Duration, grown_bytes: u64) -> Duration {
    let calm_kib = GROWTH_MAX_BYTES.saturating_sub(grown_bytes) >> 10;
    let rest = worked.saturating_mul(REST_PER_WORK).min(REST_MAX);
    rest * (calm_kib as u32) / ((GROWTH_MAX_BYTES >> 10) as u32)
}

/// One snapshot's pace.
pub(crate) struct Pace<'a> {
    stopping: &'a Stopping,
    /// Counts the bytes that are written to the log.
    written: &'a Counter,
    written_at_start: u64,
    work_since: Instant,
}

impl<'a> Pace<'a> {
    /// Work begins now.
    pub(crate) fn begin(stopping: &'a Stopping, written: &'a Counter) -> Pace<'a> {
        Pace { stopping, written, written_at_start: written.get(), work_since: Instant::now() }
    }

    /// A piece of work is done: rests. Says whether to go on; if not, the node ends.
    pub(crate) fn rest(&mut self) -> bool {
        let grown = self.written.get() - self.written_at_start;
        let stops = self.stopping.within(rest_after(self.work_since.elapsed(), grown));
        self.work_since = Instant::now();
        !stops
    }
}

/// Whether the node ends, for who would otherwise notice too late.
#[derive(Default)]
pub(crate) struct Stopping {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Stopping {
    /// The node ends; whoever rests wakes.
    pub(crate) fn set(&self) {
        *lock(&self.set) = true;
        self.changed.notify_all();
    }

    /// Waits this long, or until the node ends. Says whether it does.
    fn within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut set = lock(&self.set);
        while !*set {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            set = wait_timeout(&self.changed, set, left);
        }
        *set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_rest_is_three_times_the_work() {
        assert_eq!(rest_after(MILLI, 0), 3 * MILLI);
        assert_eq!(rest_after(Duration::ZERO, 0), Duration::ZERO);
    }

    #[test]
    fn no_rest_is_longer_than_the_longest() {
        assert_eq!(rest_after(7 * MILLI, 0), REST_MAX);
        assert_eq!(rest_after(Duration::MAX, 0), REST_MAX);
    }

    #[test]
    fn a_log_that_grows_makes_rests_shorter_and_then_none() {
        assert_eq!(rest_after(4 * MILLI, GROWTH_MAX_BYTES / 4), REST_MAX * 3 / 4);
        assert_eq!(rest_after(Duration::MAX, GROWTH_MAX_BYTES / 2), REST_MAX / 2);
        assert_eq!(rest_after(MILLI, GROWTH_MAX_BYTES), Duration::ZERO);
        assert_eq!(rest_after(Duration::MAX, u64::MAX), Duration::ZERO);
    }

    /// A stop that came before is seen too, and nobody waits for the end of the rest.
    #[test]
    fn who_rests_wakes_when_the_node_ends() {
        let stopping = Stopping::default();
        assert!(!stopping.within(MILLI));
        std::thread::scope(|scope| {
            let resting = scope.spawn(|| stopping.within(Duration::from_secs(3600)));
            stopping.set();
            assert!(resting.join().unwrap());
        });
        assert!(stopping.within(Duration::from_secs(3600)));
    }

    #[test]
    fn what_the_log_grew_before_the_snapshot_does_not_count() {
        let (stopping, written) = (Stopping::default(), Counter::default());
        written.add(u64::MAX / 2);
        let mut pace = Pace::begin(&stopping, &written);
        assert!(pace.rest());
        stopping.set();
        assert!(!pace.rest());
    }
}
