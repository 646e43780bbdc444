//! Forming a cluster: how fresh nodes that were started with the same set of addresses become one,
//! and what a node with a past checks before it goes on.
//!
//! The story. A fresh node asks every address of `--peers` who is there ([`Hello`]). When all have
//! answered it knows a *set*: node id, name and advertised address of each, taken from that node's
//! own answer, never from the spelling in `--peers`. It then asks all of them once more, and when
//! within that one round every answer is "fresh, and I would form with this very digest", the set is
//! the cluster ([`Forming`], [`Verdict`]). Everybody writes the same entry 1 of term 1, and only then
//! the cluster id: from there on the log is the only source of membership, and `--peers` is merely
//! compared with it ([`start`]).
//!
//! Nothing here touches a socket, a clock or a file: the daemon (`peers::forming`) and the simulator
//! drive the same code. Nothing here votes, and nothing here admits a node to a cluster that exists.

mod explain;
mod forming;
mod hello;
pub mod start;

pub use forming::{Ask, Formation, Forming, Verdict};
pub(crate) use hello::hex_id;
pub use hello::{Hello, Identity, PROTOCOL, Standing};
pub use start::PeerSpec;

use raft_core::membership::{Member, Membership};
use raft_core::node::cluster_id_of;

/// What this set of nodes forms: a membership in which all vote, and its digest, the cluster id.
/// The order in which the identities are given does not matter.
pub fn formation_of(set: &[Identity]) -> Formation {
    let membership = Membership::of_voters(set.iter().cloned().map(|identity| {
        (identity.node_id, Member { name: identity.name, address: identity.address })
    }));
    let cluster = cluster_id_of(&membership);
    Formation { membership, cluster }
}
