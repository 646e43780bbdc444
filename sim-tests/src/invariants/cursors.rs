//! I7 and I8: what a node has said or learned is never taken back, and its cursors keep their order.

use raft_core::consensus::Raft;
use raft_core::consensus::event::RoleName;
use raft_core::types::{HardState, Index, LogPosition, NodeId};

use super::{Verdict, ensure};

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursors {
    /// Its term and vote.
    pub hard_state: HardState,
    /// Its part.
    pub role: RoleName,
    /// The entry before the first one held.
    pub start: Index,
    /// The newest snapshot.
    pub snapshot: Index,
    /// Handed out to apply.
    pub applied: Index,
    /// Known to be committed.
    pub committed: Index,
    /// Synced.
    pub durable: Index,
    /// The last entry.
    pub last: LogPosition,
}

impl Cursors {
    /// Those of a replica.
    pub fn of(raft: &Raft) -> Cursors {
        let log = raft.log();
        Cursors {
            hard_state: HardState { term: raft.term(), vote: raft.vote() },
            role: raft.role_name(),
            start: log.start().index,
            snapshot: log.snapshot().position.index,
            applied: log.applied(),
            committed: log.committed(),
            durable: log.durable(),
            last: log.last(),
        }
    }
}

/// I8: purged <= snapshot <= applied <= committed <= last, and snapshot <= durable <= last.
pub fn check(now: &Cursors) -> Verdict {
    let Cursors { start, snapshot, applied, committed, durable, last, .. } = *now;
    let known = start <= snapshot && snapshot <= applied && applied <= committed;
    let order = known && committed <= last.index;
    ensure(order && snapshot <= durable && durable <= last.index, "I8", || {
        format!("the cursors are out of order: {now:?}")
    })
}

/// I7: terms, votes within a term, commit and applied never go back.
pub fn check_change(node: NodeId, before: &Cursors, now: &Cursors) -> Verdict {
    never_back(node, before.hard_state, now.hard_state)?;
    let grows = before.committed <= now.committed && before.applied <= now.applied;
    ensure(grows && before.snapshot <= now.snapshot && before.start <= now.start, "I7", || {
        format!("a cursor of {node} went back from {before:?} to {now:?}")
    })
}

/// I7 for what a disk keeps.
pub fn never_back(node: NodeId, before: HardState, now: HardState) -> Verdict {
    ensure(before.term <= now.term, "I7", || {
        format!("the term of {node} went back from {} to {}", before.term, now.term)
    })?;
    let kept = before.term < now.term || before.vote.is_none() || before.vote == now.vote;
    ensure(kept, "I7", || {
        format!("{node} voted twice in term {}: {:?}, {:?}", now.term, before.vote, now.vote)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::types::Term;

    fn good() -> Cursors {
        Cursors {
            hard_state: HardState { term: Term(3), vote: Some(NodeId(1)) },
            role: RoleName::Follower,
            start: Index(2),
            snapshot: Index(4),
            applied: Index(6),
            committed: Index(8),
            durable: Index(5),
            last: LogPosition::new(Index(9), Term(3)),
        }
    }

    #[test]
    fn i8_cursors_keep_their_order() {
        // Applied may pass durable: others hold the entry durably.
        assert!(check(&good()).is_ok());
        let bad = [
            Cursors { start: Index(5), ..good() },
            Cursors { snapshot: Index(7), durable: Index(7), ..good() },
            Cursors { applied: Index(9), ..good() },
            Cursors { committed: Index(10), ..good() },
            Cursors { durable: Index(3), ..good() },
            Cursors { durable: Index(10), ..good() },
        ];
        for bad in bad {
            assert_eq!(check(&bad).expect_err("out of order").rule, "I8", "{bad:?}");
        }
    }

    #[test]
    fn i7_nothing_goes_back() {
        let vote = |term, vote: Option<u64>| HardState { term: Term(term), vote: vote.map(NodeId) };
        let change = |now: Cursors| check_change(NodeId(1), &good(), &now);
        assert!(change(Cursors { hard_state: vote(4, None), ..good() }).is_ok());
        assert!(change(Cursors { committed: Index(9), ..good() }).is_ok());
        let bad = [
            Cursors { hard_state: vote(2, Some(1)), ..good() },
            Cursors { hard_state: vote(3, Some(2)), ..good() },
            Cursors { hard_state: vote(3, None), ..good() },
            Cursors { committed: Index(7), ..good() },
            Cursors { applied: Index(5), ..good() },
            Cursors { snapshot: Index(3), ..good() },
        ];
        for bad in bad {
            assert_eq!(change(bad).expect_err("went back").rule, "I7", "{bad:?}");
        }
    }
}
