//! A machine's monotonic clock: it runs at its own speed, and that is all it may do wrong. Wall
//! clocks are not simulated because nothing reads one.

use raft_core::types::Time;

/// A clock that drifts. The world's time is `world`, the machine's own is `local`.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When the present drift began, in both times.
    world: u64,
    local: u64,
    ppm: i32,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    /// A clock that begins at `local` when the world begins.
    pub fn new(local: Time, ppm: i32) -> Clock {
        Clock { world: 0, local: local.0, ppm }
    }

    /// From now on it drifts so, in parts per million.
    pub fn drift(&mut self, now: Time, ppm: i32) {
        *self = Clock { world: now.0, local: self.read(now).0, ppm };
    }

    /// What it shows.
    pub fn read(&self, now: Time) -> Time {
        if now == Time::NEVER {
            return now;
        }
        if self.ppm == 0 {
            return Time(self.local + (now.0 - self.world));
        }
        let passed = i128::from(now.0 - self.world);
        Time(self.local + (passed * (MILLION + i128::from(self.ppm)) / MILLION) as u64)
    }

    /// The first moment of the world at which it shows `local` or more; times gone by are the
    /// moment its drift last changed.
    pub fn when(&self, local: Time) -> Time {
        if local == Time::NEVER {
            return local;
        }
        let left = local.0.saturating_sub(self.local);
        if self.ppm == 0 {
            return Time(self.world + left);
        }
        let left = i128::from(left);
        let speed = MILLION + i128::from(self.ppm);
        Time(self.world + ((left * MILLION + speed - 1) / speed) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_met_at_the_first_moment_and_not_before() {
        for ppm in [-100_000, -7, 0, 13, 100_000] {
            let mut clock = Clock::new(Time(5_000), ppm);
            clock.drift(Time(1_000), ppm / 2);
            for local in [6_000, 6_001, 123_456_789] {
                let when = clock.when(Time(local));
                assert!(Time(local) <= clock.read(when), "{ppm} {local}");
                assert!(clock.read(Time(when.0 - 1)) < Time(local), "{ppm} {local}");
            }
        }
    }

    #[test]
    fn it_never_goes_back_when_its_drift_changes() {
        let mut clock = Clock::new(Time(0), 100_000);
        let before = clock.read(Time(999));
        clock.drift(Time(999), -100_000);
        assert_eq!(clock.read(Time(999)), before);
        assert_eq!(clock.read(Time::NEVER), Time::NEVER);
    }
}
