//! Floor 4, *runs*: a replica with threads around it.
//!
//! | thread | does | ends when |
//! |---|---|---|
//! | `raft` | makes the passes that nobody else makes (`turns.rs`) | told to stop, or the node failed |
//! | `wal` | writes and syncs the log, all that waits in one batch | the raft thread has ended |
//! | `files` | makes the next file of the log ahead of need, removes old ones | the WAL thread has ended |
//! | `snapshot-writer` | writes snapshots of our own state | the raft thread has ended |
//! | `snapshot-reader` | reads pieces, for followers and our own state | the raft thread has ended |
//!
//! Nothing is decided here. What anybody wants goes through the bounded inbox; a *pass* takes it in,
//! steps the replica and hands out its work. Passes are made one at a time and wait for nobody, so a
//! heartbeat never waits for a sync. A thread that fails, or a pass that panics, is the end of the
//! node: whoever waits gets an answer, listeners get [`NodeEvent::Failed`], and nothing is
//! acknowledged any more.
//!
//! [`Node`] starts and stops it all, [`Handle`] is what the rest of the program holds, [`Ticket`] is
//! how an answer comes back.

mod clock;
mod events;
mod gather;
mod handle;
mod inbox;
mod metrics;
mod open;
mod pace;
mod snapshot_threads;
mod status;
mod stepper;
mod ticket;
mod turns;
mod wal_thread;
mod worker;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use events::{NodeEvent, NodeFailure, Receiver};
pub use handle::Handle;
pub use inbox::InboxLimits;
pub use metrics::{NodeMetrics, SYNC_BUCKETS_MICROS};
pub use open::{Node, NodeOptions, OpenError, Opened, cluster_id_of, form};
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
