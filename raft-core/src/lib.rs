//! A hand-written Raft.

pub mod codec;
pub mod config;
pub mod consensus;
pub mod membership;
pub mod message;
pub mod node;
pub mod proposals;
pub mod replica;
pub mod state_machine;
pub mod storage;
pub mod transport;
pub mod types;
pub mod write;
