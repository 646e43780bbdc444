//! Floor 4, *runs*: a replica with threads around it.

mod clock;
mod events;
mod handle;
mod inbox;
mod metrics;
mod status;
mod ticket;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use events::{NodeEvent, NodeFailure, Receiver};
pub use handle::Handle;
pub use inbox::InboxLimits;
pub use metrics::{NodeMetrics, SYNC_BUCKETS_MICROS};
pub use status::NodeStatus;
pub use ticket::Ticket;

/// Takes a lock, also one whose holder panicked: no lock here is held across a call that could
/// leave its contents half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps on a condition variable until woken, or for no reason.
fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps on a condition variable until woken, for at most this long, or for no reason.
fn wait_timeout<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    at_most: Duration,
) -> MutexGuard<'a, T> {
    condition.wait_timeout(guard, at_most).unwrap_or_else(PoisonError::into_inner).0
}
