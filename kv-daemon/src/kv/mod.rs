//! The key-value service without any IO.
//!
//! The story of a request: the HTTP shell makes it a [`request::Request`]; a [`service::Call`] says
//! step by step what to do for it. A write becomes a [`command::Command`], whose bytes are what the
//! log holds; on a node that does not lead, [`forward`] makes the request bytes for the leader. Once
//! committed, [`shared::SharedStore`] applies the command to the [`store::Store`] on every node, and
//! the reply finds its way back to the call, which makes it a [`request::Answer`]. In an array of
//! clusters the store also holds which keys are this cluster's ([`sharding`]); `route` says where the
//! others belong. A read asks for a
//! barrier and then looks into the store. Pieces of the store (`snapshot`) let the log be short.
//!
//! The simulator drives this module just as the daemon does. So it never touches a socket, a clock,
//! a thread or a hashed map: time comes in as [`raft_core::types::Time`].

pub mod command;
pub mod forward;
mod record;
pub mod request;
mod route;
pub mod service;
pub mod sharding;
pub mod shared;
mod snapshot;
pub mod store;
mod tree;
mod wire;

#[cfg(test)]
mod tests;
