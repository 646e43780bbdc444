//! A hand-written Raft.

pub mod codec;
pub mod config;
pub mod consensus;
pub mod membership;
pub mod message;
pub mod state_machine;
pub mod storage;
pub mod types;
pub mod write;
