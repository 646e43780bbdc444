//! Who belongs to the cluster, and which sets of nodes decide for it.
//!
//! A [`Membership`] is a value. It is in force from the moment an entry that holds it is
//! *appended* (thesis 4.1); the newest one in the log counts, and truncating the log brings the one
//! before it back. While `outgoing` is not empty the membership is *joint* (thesis 4.3): every
//! decision needs a majority of the voters and a majority of the outgoing voters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::NodeId;

/// How people see a node: a name for logs and an address to reach it at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The name its operator gave it (`--id node1`).
    pub name: String,
    /// `host:port` where it serves peers and clients.
    pub address: String,
}

/// Voters, outgoing voters (only while a change is under way) and learners, with their names. A
/// clone shares them: the node shows its membership to whoever asks after every pass.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Membership {
    lists: Arc<Lists>,
}

/// What a [`Membership`] holds.
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lists {
    members: BTreeMap<NodeId, Member>,
    voters: BTreeSet<NodeId>,
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
}

impl Membership {
    /// A membership of these voters, not joint, without learners.
    pub fn of_voters(voters: impl IntoIterator<Item = (NodeId, Member)>) -> Membership {
        let members: BTreeMap<NodeId, Member> = voters.into_iter().collect();
        let voters = members.keys().copied().collect();
        Membership::holding(members, voters, BTreeSet::new(), BTreeSet::new())
    }

    /// A membership of any shape. `None` when a listed id has no entry in `members`, a member is
    /// listed nowhere, there is no voter, or a learner is a voter at the same time.
    pub fn new(
        members: BTreeMap<NodeId, Member>,
        voters: BTreeSet<NodeId>,
        outgoing: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Option<Membership> {
        let membership = Membership::holding(members, voters, outgoing, learners);
        membership.is_sound().then_some(membership)
    }

    fn holding(
        members: BTreeMap<NodeId, Member>,
        voters: BTreeSet<NodeId>,
        outgoing: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Membership {
        Membership { lists: Arc::new(Lists { members, voters, outgoing, learners }) }
    }

    /// The rules of [`Membership::new`]; what comes from a peer or a disk is checked with this.
    pub fn is_sound(&self) -> bool {
        let Lists { members, voters, outgoing, learners } = &*self.lists;
        let listed: BTreeSet<NodeId> = voters.union(outgoing).chain(learners).copied().collect();
        !voters.is_empty() && learners.is_disjoint(voters) && listed.iter().eq(members.keys())
    }

    /// Every member in id order.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.lists.members.iter().map(|(id, member)| (*id, member))
    }

    /// Name and address of one member.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.lists.members.get(&id)
    }

    /// The voters after the change (all voters when no change is under way).
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.lists.voters
    }

    /// The voters before the change; empty when no change is under way.
    pub fn outgoing(&self) -> &BTreeSet<NodeId> {
        &self.lists.outgoing
    }

    /// Members that get the log and decide nothing.
    pub fn learners(&self) -> &BTreeSet<NodeId> {
        &self.lists.learners
    }

    /// Whether the node decides: a voter of either side.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.lists.voters.contains(&id) || self.lists.outgoing.contains(&id)
    }

    /// Whether the node is a member in any role.
    pub fn contains(&self, id: NodeId) -> bool {
        self.lists.members.contains_key(&id)
    }

    /// Whether a change is under way.
    pub fn is_joint(&self) -> bool {
        !self.lists.outgoing.is_empty()
    }

    /// Nobody: what a node holds until its log gives it a membership.
    pub fn is_empty(&self) -> bool {
        self.lists.members.is_empty()
    }
}

/// As if it held its lists itself.
impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lists { members, voters, outgoing, learners } = &*self.lists;
        f.debug_struct("Membership")
            .field("members", members)
            .field("voters", voters)
            .field("outgoing", outgoing)
            .field("learners", learners)
            .finish()
    }
}

/// `voters 1 2 3`, and ` outgoing 1 2 4`, ` learners 5` where there are any.
impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut part = |name: &str, ids: &BTreeSet<NodeId>| -> fmt::Result {
            write!(f, "{name}")?;
            ids.iter().try_for_each(|id| write!(f, " {id}"))
        };
        part("voters", &self.lists.voters)?;
        if !self.lists.outgoing.is_empty() {
            part(" outgoing", &self.lists.outgoing)?;
        }
        if !self.lists.learners.is_empty() {
            part(" learners", &self.lists.learners)?;
        }
        Ok(())
    }
}
