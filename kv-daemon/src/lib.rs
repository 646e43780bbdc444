//! A replicated key-value server over HTTP on `raft-core`.
//!
//! The way of a request, and with it the map of this crate:
//!
//! ```text
//! http::accept   a connection: limits, timeouts, its end
//! http::routes   warp takes the request apart; one table: path -> methods -> handler
//! http::keys     a client's wish becomes a kv::request::Request
//! daemon         drives kv::service: propose here, forward to the leader, or read the store
//! kv             what that means, without any IO (the simulator drives it too)
//! http::reply    one table from outcome to status; problem+json
//! ```
//!
//! Beside the way: `config` (flags), `form` (how fresh nodes become a cluster), `peers` (how nodes
//! talk), `shard` (other clusters of an array), `run` (the life of a node), `status` and `metrics`
//! (what it shows of itself), `units` and `log_lines`. This crate holds no rule of Raft: those are in `raft-core`.

pub mod client;
pub mod config;
pub mod daemon;
pub mod form;
pub mod http;
pub mod kv;
pub mod log_lines;
pub mod metrics;
pub mod peers;
pub mod program;
pub mod run;
pub mod shard;
pub mod status;
pub mod units;

use std::hash::{BuildHasher, Hasher, RandomState};

/// 64 bits nobody can foresee: the standard library keys its hashers from the system's generator.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
