//! Floor 2a, *decides*: Raft as a function of what happens.
//!
//! The same inputs give the same outputs, byte for byte: time is an argument, chance is seeded, maps
//! are ordered. This floor never touches a file, a socket, a clock, a thread, a random source or a
//! hashed map, and knows nothing of `storage`.
//!
//! Read [`event`] first (what comes in, what goes out), then `raft` (the gate for terms), then the
//! roles `follower`, `candidate`, `leader`. Beside them: `log` (the cursors), `outbox` (what is
//! withheld until it is durable), [`progress`] (one follower as its leader sees it), [`quorum`]
//! (pure arithmetic), `reads`, `transfer`, `snapshot`, and [`invariants`].

mod candidate;
pub mod event;
mod follower;
pub mod invariants;
mod leader;
mod log;
mod outbox;
pub mod progress;
pub mod quorum;
mod raft;
mod random;
mod reads;
mod snapshot;
mod transfer;

pub use event::{Effects, Event};
pub use log::Log;
pub use raft::Raft;
