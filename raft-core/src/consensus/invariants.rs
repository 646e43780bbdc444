//! What must be true of one core: at every moment ([`check`]) and across one step
//! ([`check_change`]). Tests and simulation call both after every step; the rules of a whole
//! cluster are the simulator's.

use super::event::RoleName;
use super::raft::{Raft, Role};
use crate::types::{Index, LogPosition, NodeId, Term};

/// What of a core is compared across a step.
#[derive(Clone, Debug)]
pub struct Moment {
    term: Term,
    vote: Option<NodeId>,
    role: RoleName,
    last: LogPosition,
    committed: Index,
    applied: Index,
    snapshot: Index,
    progress: Vec<(NodeId, Index)>,
}

impl Moment {
    /// This moment of a core.
    pub fn of(raft: &Raft) -> Moment {
        let log = raft.log();
        let progress = match &raft.role {
            Role::Leader(leader) => {
                leader.progress.iter().map(|(id, progress)| (*id, progress.matched)).collect()
            }
            _ => Vec::new(),
        };
        Moment {
            term: raft.term(),
            vote: raft.vote(),
            role: raft.role_name(),
            last: log.last(),
            committed: log.committed(),
            applied: log.applied(),
            snapshot: log.snapshot().position.index,
            progress,
        }
    }
}

/// Panics with the rule that does not hold.
pub fn check(raft: &Raft) {
    raft.common.log.check();
    let Raft { common, role } = raft;
    let (log, me) = (&common.log, common.config.id);
    assert!(log.last().term <= raft.term(), "an entry of a term that has not begun");
    match role {
        Role::Follower(follower) => {
            assert!(log.committed() <= follower.verified, "committed beyond what was verified");
            assert!(follower.verified <= log.last().index, "verified what we do not hold");
            assert!(follower.leader != Some(me), "nobody follows itself");
        }
        Role::PreCandidate(_) => {}
        Role::Candidate(_) => {
            assert!(raft.vote() == Some(me), "a candidate votes for itself");
        }
        Role::Leader(leader) => {
            assert!(raft.vote() == Some(me), "a leader voted for itself");
            assert!(common.out.hard_state_durable(), "a leader's own vote is durable");
            assert!(
                log.term_at(leader.first).is_none_or(|term| term == raft.term()),
                "a leader's term begins with its no-op"
            );
            for progress in leader.progress.values() {
                progress.check();
                assert!(progress.matched <= log.last().index, "matched what we do not hold");
                assert!(progress.round <= leader.round, "answered a round that was never sent");
            }
        }
    }
}

/// Panics with the rule that one step broke.
pub fn check_change(before: &Moment, raft: &Raft) {
    let after = Moment::of(raft);
    assert!(before.term <= after.term, "the term went back");
    if before.term == after.term {
        assert!(before.vote.is_none() || before.vote == after.vote, "voted twice in a term");
        if before.role == RoleName::Leader && after.role == RoleName::Leader {
            assert!(before.last <= after.last, "a leader dropped entries of its log");
            for (id, matched) in &before.progress {
                let now = after.progress.iter().find(|(other, _)| other == id);
                assert!(now.is_none_or(|(_, now)| matched <= now), "match of {id} went back");
            }
        }
    }
    assert!(before.committed <= after.committed, "the commit index went back");
    assert!(before.applied <= after.applied, "the applied index went back");
    assert!(before.snapshot <= after.snapshot, "the snapshot went back");
}
