//! The arithmetic of majorities, for plain and joint memberships. Pure; checked against brute force.
//!
//! A joint membership decides only with a majority of *both* its sides (thesis 4.3).

use std::collections::BTreeSet;

use crate::membership::Membership;
use crate::types::NodeId;

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A quorum said yes.
    Won,
    /// No quorum can say yes any more.
    Lost,
    /// It depends on who has not answered.
    Pending,
}

/// The largest value that a quorum has reached, when each node has reached `value(node)`: a commit
/// index from match indexes, a confirmed round from acknowledged rounds, the time of the last
/// contact with a quorum. `None` when nobody decides (no voters).
pub fn reached<T: Ord + Copy>(membership: &Membership, value: impl Fn(NodeId) -> T) -> Option<T> {
    let side = |voters: &BTreeSet<NodeId>| -> Option<T> {
        let mut values: Vec<T> = voters.iter().map(|id| value(*id)).collect();
        values.sort_unstable();
        // With n values in ascending order, exactly n/2 + 1 of them (a majority) are at least the
        // one at (n - 1) / 2.
        values.len().checked_sub(1).map(|top| values[top / 2])
    };
    let incoming = side(membership.voters())?;
    Some(side(membership.outgoing()).map_or(incoming, |outgoing| outgoing.min(incoming)))
}

/// How an election stands when each voter's answer is `vote(node)` (`None`: no answer yet).
pub fn tally(membership: &Membership, vote: impl Fn(NodeId) -> Option<bool>) -> Tally {
    let side = |voters: &BTreeSet<NodeId>| -> Tally {
        let needed = voters.len() / 2 + 1;
        let count = |wanted: Option<bool>| voters.iter().filter(|id| vote(**id) == wanted).count();
        let (yes, open) = (count(Some(true)), count(None));
        if needed <= yes {
            Tally::Won
        } else if needed <= yes + open {
            Tally::Pending
        } else {
            Tally::Lost
        }
    };
    if membership.voters().is_empty() {
        return Tally::Lost;
    }
    let incoming = side(membership.voters());
    if !membership.is_joint() {
        return incoming;
    }
    match (incoming, side(membership.outgoing())) {
        (Tally::Won, Tally::Won) => Tally::Won,
        (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
        _ => Tally::Pending,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::membership::Member;

    const NODES: u64 = 5;

    fn membership(voters: u64, outgoing: u64) -> Option<Membership> {
        let set = |bits: u64| -> BTreeSet<NodeId> {
            (0..NODES).filter(|bit| bits >> bit & 1 == 1).map(NodeId).collect()
        };
        let member = Member { name: String::new(), address: String::new() };
        let members: BTreeMap<NodeId, Member> =
            set(voters | outgoing).into_iter().map(|id| (id, member.clone())).collect();
        Membership::new(members, set(voters), set(outgoing), BTreeSet::new())
    }

    /// Every set of nodes that may decide, by the definition: more than half of each side.
    fn decides(membership: &Membership, nodes: u64) -> bool {
        [membership.voters(), membership.outgoing()].into_iter().all(|side| {
            let present = side.iter().filter(|id| nodes >> id.0 & 1 == 1).count();
            side.is_empty() || 2 * present > side.len()
        })
    }

    fn all_memberships() -> impl Iterator<Item = Membership> {
        (1..1 << NODES).flat_map(|voters| {
            (0..1 << NODES).filter_map(move |outgoing| membership(voters, outgoing))
        })
    }

    /// pitfall 29: the commit index equals brute force over all quorums, joint ones included.
    #[test]
    fn pitfall_29_reached_equals_brute_force() {
        for membership in all_memberships() {
            for seed in 0..12u64 {
                let value = |id: NodeId| (seed.wrapping_mul(0x9e37_79b9) >> (3 * id.0)) & 7;
                let brute = (0..8)
                    .filter(|wanted| {
                        let nodes = (0..NODES)
                            .filter(|id| value(NodeId(*id)) >= *wanted)
                            .fold(0, |nodes, id| nodes | 1 << id);
                        decides(&membership, nodes)
                    })
                    .max();
                assert_eq!(reached(&membership, value), brute, "{membership}, seed {seed}");
            }
        }
    }

    #[test]
    fn tally_equals_brute_force() {
        for membership in all_memberships() {
            for answers in 0..3u64.pow(NODES as u32) {
                let vote = |id: NodeId| match answers / 3u64.pow(id.0 as u32) % 3 {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                };
                let nodes = |wanted: fn(Option<bool>) -> bool| {
                    (0..NODES)
                        .filter(|id| wanted(vote(NodeId(*id))))
                        .fold(0, |nodes, id| nodes | 1 << id)
                };
                let yes = nodes(|answer| answer == Some(true));
                let hoped = nodes(|answer| answer != Some(false));
                let brute = match (decides(&membership, yes), decides(&membership, hoped)) {
                    (true, _) => Tally::Won,
                    (false, true) => Tally::Pending,
                    (false, false) => Tally::Lost,
                };
                assert_eq!(tally(&membership, vote), brute, "{membership}, answers {answers}");
            }
        }
    }

    #[test]
    fn nobody_decides_without_voters() {
        let nobody = Membership::default();
        assert_eq!(reached(&nobody, |_| 1), None);
        assert_eq!(tally(&nobody, |_| Some(true)), Tally::Lost);
    }
}
