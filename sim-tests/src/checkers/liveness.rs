//! After the faults: does the cluster serve again in time, and does it go on?
//!
//! When the chaos ends, a quorum that can talk is left for good, and one node outside may go on to
//! campaign. From then on four things have to come true, each in its time ([`Bounds`]):
//!
//! 1. the quorum follows one leader;
//! 2. a write that began after the healing succeeds;
//! 3. every request that was open has ended, no matter how, and all of the quorum hold the same;
//! 4. that stays so: nobody unseats a leader with whom nothing is wrong.
//!
//! The world shows [`Liveness`] from time to time how things stand, and hears whether the run may end.

use std::fmt;
use std::time::Duration;

use raft_core::types::Time;

/// How long each of the four may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Until all follow one leader.
    pub leads: Duration,
    /// Until a write has succeeded: a part of the quorum may need a whole snapshot before.
    pub serves: Duration,
    /// Until open requests have ended and all hold the same.
    pub settles: Duration,
    /// For how long nothing may change after that.
    pub steady: Duration,
}

/// The wait for a cluster to become live.
#[derive(Clone, Debug)]
pub struct Liveness {
    healed: Time,
    bounds: Bounds,
    led: bool,
    wrote: bool,
    /// Since when all has been well, and how many elections there had been by then.
    settled: Option<(Time, u64)>,
}

/// How things stand at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Whether all of the quorum follow one leader.
    pub led: bool,
    /// Whether no request is open.
    pub idle: bool,
    /// Whether all of the quorum hold and have applied the same.
    pub same: bool,
    /// Elections won so far, by anybody.
    pub elections: u64,
}

/// How the wait stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not live yet, or not for long enough, and there is time left.
    Waiting,
    /// It serves again.
    Live,
    /// It had its time.
    Dead(Dead),
}

/// What a cluster that should be live did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// No leader that all follow.
    NoLeader(Duration),
    /// No write succeeded.
    NoWrite(Duration),
    /// Requests did not end.
    Open(Duration),
    /// Not all hold the same.
    Apart(Duration),
    /// So many elections although nothing was wrong.
    Unseated(u64, Duration),
}

impl Liveness {
    /// The faults end now.
    pub fn begin(healed: Time, bounds: Bounds) -> Liveness {
        Liveness { healed, bounds, led: false, wrote: false, settled: None }
    }

    /// A write that began after the healing has succeeded.
    pub fn wrote(&mut self) {
        self.wrote = true;
    }

    /// Whether a write has succeeded.
    pub fn has_written(&self) -> bool {
        self.wrote
    }

    /// How the wait stands.
    pub fn look(&mut self, now: Time, moment: Moment) -> Standing {
        let Bounds { leads, serves, settles, steady } = self.bounds;
        self.led |= moment.led;
        if let Some((since, elections)) = self.settled {
            let more = moment.elections - elections;
            // One may come of an order to hand over that was under way.
            return if 1 < more {
                Standing::Dead(Dead::Unseated(more, now.since(since)))
            } else if since + steady <= now {
                Standing::Live
            } else {
                Standing::Waiting
            };
        }
        if self.wrote && moment.led && moment.idle && moment.same {
            self.settled = Some((now, moment.elections));
        }
        let passed = now.since(self.healed);
        let late = [
            (!self.led, leads, Dead::NoLeader as fn(Duration) -> Dead),
            (!self.wrote, serves, Dead::NoWrite),
            (!moment.idle, settles, Dead::Open),
            (!(moment.same && moment.led), settles, Dead::Apart),
        ];
        let broken = late.into_iter().find(|(lacks, bound, _)| *lacks && *bound <= passed);
        broken.map_or(Standing::Waiting, |(_, bound, dead)| Standing::Dead(dead(bound)))
    }
}

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, after) = match self {
            Dead::NoLeader(after) => ("no leader is followed by all", after),
            Dead::NoWrite(after) => ("no new write has succeeded", after),
            Dead::Open(after) => ("open requests have not ended", after),
            Dead::Apart(after) => ("not all hold the same", after),
            Dead::Unseated(times, within) => {
                return write!(f, "{times} elections within {within:?} although nothing is wrong");
            }
        };
        write!(f, "{what} {after:?} after the faults ended")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        leads: Duration::from_nanos(10),
        serves: Duration::from_nanos(20),
        settles: Duration::from_nanos(30),
        steady: Duration::from_nanos(100),
    };
    const WELL: Moment = Moment { led: true, idle: true, same: true, elections: 7 };

    fn healed() -> Liveness {
        Liveness::begin(Time(1_000), BOUNDS)
    }

    #[test]
    fn live_once_all_has_been_well_for_long_enough() {
        let mut liveness = healed();
        assert_eq!(liveness.look(Time(1_001), WELL), Standing::Waiting);
        liveness.wrote();
        assert_eq!(liveness.look(Time(1_002), WELL), Standing::Waiting);
        assert_eq!(liveness.look(Time(1_101), WELL), Standing::Waiting);
        assert_eq!(liveness.look(Time(1_102), WELL), Standing::Live);
    }

    #[test]
    fn each_lack_has_its_time() {
        let lacks = [
            (Moment { led: false, ..WELL }, 10, Dead::NoLeader(BOUNDS.leads)),
            (Moment { idle: false, ..WELL }, 30, Dead::Open(BOUNDS.settles)),
            (Moment { same: false, ..WELL }, 30, Dead::Apart(BOUNDS.settles)),
        ];
        for (moment, bound, dead) in lacks {
            let mut liveness = healed();
            liveness.wrote();
            assert_eq!(liveness.look(Time(1_000 + bound - 1), moment), Standing::Waiting);
            assert_eq!(liveness.look(Time(1_000 + bound), moment), Standing::Dead(dead));
        }
        let mut silent = healed();
        assert_eq!(silent.look(Time(1_019), WELL), Standing::Waiting);
        let dead = Dead::NoWrite(BOUNDS.serves);
        assert_eq!(silent.look(Time(1_020), WELL), Standing::Dead(dead));
        assert_eq!(dead.to_string(), "no new write has succeeded 20ns after the faults ended");
    }

    #[test]
    fn a_leader_with_whom_nothing_is_wrong_stays() {
        let mut liveness = healed();
        liveness.wrote();
        assert_eq!(liveness.look(Time(1_002), WELL), Standing::Waiting);
        let once = Moment { elections: 8, ..WELL };
        assert_eq!(liveness.look(Time(1_050), once), Standing::Waiting);
        let twice = Moment { elections: 9, ..WELL };
        let dead = Dead::Unseated(2, Duration::from_nanos(58));
        assert_eq!(liveness.look(Time(1_060), twice), Standing::Dead(dead));
        assert_eq!(dead.to_string(), "2 elections within 58ns although nothing is wrong");
    }
}
