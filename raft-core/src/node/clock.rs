//! The one place where a node reads a clock: monotonic time since the node started, as the core
//! counts it.

use std::time::{Duration, Instant};

use crate::types::Time;

/// Turns the process's monotonic clock into [`Time`] and back. Copies agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins now, at zero.
    pub(crate) fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// The time now.
    pub(crate) fn now(self) -> Time {
        self.at(Instant::now())
    }

    /// That moment; moments before the start are the start.
    pub(crate) fn at(self, moment: Instant) -> Time {
        Time(0) + moment.saturating_duration_since(self.origin)
    }

    /// A deadline, or [`Time::NEVER`].
    pub(crate) fn deadline(self, moment: Option<Instant>) -> Time {
        moment.map_or(Time::NEVER, |moment| self.at(moment))
    }

    /// How long from now until `time`; `None` when that never comes.
    pub(crate) fn until(self, time: Time) -> Option<Duration> {
        (time < Time::NEVER).then(|| time.since(self.now()))
    }
}
