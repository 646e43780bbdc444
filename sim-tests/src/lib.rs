//! The whole system in one deterministic thread: real replicas, real storage code, real codec and the
//! daemon's own path of a request, on simulated disks, clocks and wires. A seed is a run.
//!
//! ```text
//! seed -> generate -> plan -> world -> Seen -> invariants, judge, transcript, page
//!                                 |
//!     queue (time), network, node (a process), client, faults, disk, clock
//! ```
//!
//! A failing seed prints the rule that was broken and writes its plan to a file. `cargo sim --plan
//! FILE --trace` tells the story of that run, fact by fact; the last lines are the ones before the
//! rule broke. `docs/simulation.md` says more.

pub mod app;
pub mod checkers;
mod client;
mod clock;
pub mod disk;
mod faults;
pub mod forge;
pub mod generate;
pub mod html;
pub mod invariants;
pub mod judge;
pub mod kv;
pub mod marks;
mod network;
mod node;
pub mod observed;
pub mod plan;
mod plan_text;
mod queue;
pub mod rng;
pub mod run;
mod scenes;
pub mod shrink;
pub mod tally;
pub mod trace;
pub mod transcript;
pub mod world;
