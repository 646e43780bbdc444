//! A look at a running node from outside.

use std::time::Duration;

use super::events::NodeFailure;
use crate::consensus::event::{RoleName, Status};
use crate::types::{NodeId, Time};

/// What a node looked like after one of its passes. Published before the answers of that pass, so
/// whoever has an answer sees a status that knows of it.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// When, on the node's own clock ([`Handle::now`](super::Handle::now)).
    pub at: Time,
    /// The core: role, term, leader, cursors, membership, peers.
    pub core: Status,
    /// The state machine is being put back from a snapshot: there is no state to read.
    pub restoring: bool,
    /// The disk has room for what clients propose; `false`: proposals are refused, reads go on.
    pub room: bool,
    /// Proposals in the log that have not ended.
    pub proposals_pending: usize,
    /// Reads that have not ended.
    pub reads_pending: usize,
    /// Why the node is over, if it is.
    pub failed: Option<NodeFailure>,
    /// The node was told to stop.
    pub stopped: bool,
}

impl NodeStatus {
    /// Whether this node leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.core.role == RoleName::Leader
    }

    /// The leader, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.core.leader
    }

    /// How long before `now` this node last heard from its leader (a leader: from a quorum);
    /// `None`: never.
    pub fn since_contact(&self, now: Time) -> Option<Duration> {
        self.core.contact.map(|contact| now.since(contact))
    }
}
