//! After the faults: does the cluster serve again in time?
//!
//! When the chaos ends, a quorum that can talk is left for good. Within a bound (so many of the
//! longest election timeouts) every request that was open then has to end, no matter how, and a
//! write that began after the healing has to succeed. [`Liveness`] is told of begins and ends as they
//! come and says each time whether the run may end: it never waits longer than it must.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use raft_core::types::Time;

use super::history::OperationId;

/// The wait for a cluster to become live.
#[derive(Clone, Debug)]
pub struct Liveness {
    healed: Time,
    deadline: Time,
    /// Open since before the healing.
    open: BTreeSet<OperationId>,
    /// Writes that began after it and are under way.
    new: BTreeSet<OperationId>,
    wrote: bool,
}

/// How the wait stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not live yet, and there is time left.
    Waiting,
    /// It serves again.
    Live,
    /// It had its time.
    Dead(Dead),
}

/// What a cluster that should be live did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// How long it had.
    pub bound: Duration,
    /// The requests that were open at the healing and still are.
    pub open: Vec<OperationId>,
    /// Whether a new write succeeded.
    pub wrote: bool,
}

impl Liveness {
    /// The faults end now, with these operations open. The cluster has `timeouts` times the longest
    /// election timeout.
    pub fn begin(
        now: Time,
        open: impl IntoIterator<Item = OperationId>,
        election_timeout_max: Duration,
        timeouts: u32,
    ) -> Liveness {
        Liveness {
            healed: now,
            deadline: now + election_timeout_max * timeouts,
            open: open.into_iter().collect(),
            new: BTreeSet::new(),
            wrote: false,
        }
    }

    /// When the time is up; the world should ask then at the latest.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// A write began.
    pub fn write_began(&mut self, id: OperationId) {
        self.new.insert(id);
    }

    /// An operation ended; `succeeded` says whether it was answered. Ends after the deadline do not
    /// count.
    pub fn ended(&mut self, now: Time, id: OperationId, succeeded: bool) {
        if self.deadline < now {
            return;
        }
        self.open.remove(&id);
        self.wrote |= self.new.remove(&id) && succeeded;
    }

    /// How the wait stands.
    pub fn standing(&self, now: Time) -> Standing {
        if self.open.is_empty() && self.wrote {
            Standing::Live
        } else if now < self.deadline {
            Standing::Waiting
        } else {
            let open = self.open.iter().copied().collect();
            let bound = self.deadline.since(self.healed);
            Standing::Dead(Dead { bound, open, wrote: self.wrote })
        }
    }
}

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after the faults ended", self.bound)?;
        if !self.wrote {
            f.write_str(" no new write has succeeded")?;
        }
        if !self.open.is_empty() {
            let joint = if self.wrote { "" } else { " and" };
            write!(f, "{joint} these are still open:")?;
            self.open.iter().try_for_each(|id| write!(f, " {id}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: OperationId = OperationId(1);
    const NEW: OperationId = OperationId(2);

    fn healed() -> Liveness {
        Liveness::begin(Time(1_000), [OLD], Duration::from_nanos(50), 4)
    }

    #[test]
    fn live_once_all_that_was_open_ended_and_a_new_write_succeeded() {
        let mut liveness = healed();
        assert_eq!(liveness.standing(Time(1_000)), Standing::Waiting);
        liveness.write_began(NEW);
        liveness.ended(Time(1_010), OLD, false);
        assert_eq!(liveness.standing(Time(1_010)), Standing::Waiting);
        liveness.ended(Time(1_200), NEW, true);
        assert_eq!(liveness.standing(Time(1_200)), Standing::Live);
        assert_eq!(liveness.standing(Time(9_000)), Standing::Live);
    }

    #[test]
    fn dead_while_an_old_request_hangs() {
        let mut liveness = healed();
        liveness.write_began(NEW);
        liveness.ended(Time(1_010), NEW, true);
        assert_eq!(liveness.standing(Time(1_199)), Standing::Waiting);
        let Standing::Dead(dead) = liveness.standing(liveness.deadline()) else {
            panic!("the time is up")
        };
        assert_eq!((dead.open.as_slice(), dead.wrote), (&[OLD][..], true));
        assert_eq!(dead.to_string(), "200ns after the faults ended these are still open: op1");
    }

    #[test]
    fn dead_while_no_new_write_succeeds() {
        let mut liveness = healed();
        liveness.write_began(NEW);
        // An old write that succeeds proves nothing, nor does a new one that failed or came too late.
        liveness.ended(Time(1_010), OLD, true);
        liveness.ended(Time(1_020), NEW, false);
        let late = OperationId(3);
        liveness.write_began(late);
        liveness.ended(Time(1_201), late, true);
        let dead = Dead { bound: Duration::from_nanos(200), open: vec![], wrote: false };
        assert_eq!(liveness.standing(Time(1_201)), Standing::Dead(dead.clone()));
        assert_eq!(dead.to_string(), "200ns after the faults ended no new write has succeeded");
    }

    #[test]
    fn an_old_request_that_ends_too_late_is_open() {
        let mut liveness = healed();
        liveness.write_began(NEW);
        liveness.ended(Time(1_010), NEW, true);
        liveness.ended(Time(1_201), OLD, true);
        assert!(matches!(liveness.standing(Time(1_201)), Standing::Dead(_)));
    }
}
