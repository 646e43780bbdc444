//! The follower's rules (thesis 3.4, 3.5): believe the leader of this term, keep its entries, and
//! acknowledge only what is durable here *and* verified against it.

use std::collections::VecDeque;

use super::raft::{Common, Raft, Role};
use super::reads::FollowerReads;
use crate::message::{AppendResult, Body};
use crate::types::{Entry, Index, LogPosition, NodeId, Time};

/// What only a follower knows.
#[derive(Debug)]
pub(crate) struct Follower {
    /// The leader of this term, once it was heard.
    pub(crate) leader: Option<NodeId>,
    /// When it campaigns unless it hears from the leader.
    pub(crate) election_deadline: Time,
    /// Our log is equal to this leader's up to here: what is committed is, by Leader Completeness;
    /// above it what its appends have shown *in this term*. Our mere last index says nothing.
    pub(crate) verified: Index,
    /// Appends that wait for their sync: id, and the last index each covers. Oldest first.
    owed: VecDeque<(u64, Index)>,
    /// Reads that wait for the leader's word.
    pub(crate) reads: FollowerReads,
}

/// A leader's window holds fewer appends than this; beyond it the oldest go unanswered, and the
/// next heartbeat's answer tells the leader all the same.
const OWED_MAX: usize = 4096;

impl Follower {
    /// A follower of `leader` in the current term.
    pub(crate) fn new(common: &mut Common, leader: Option<NodeId>) -> Follower {
        Follower {
            leader,
            election_deadline: common.election_wait(),
            verified: common.log.committed(),
            owed: VecDeque::new(),
            reads: FollowerReads::default(),
        }
    }

    /// When it next has something to do by itself. Who is no voter never campaigns.
    pub(crate) fn deadline(&self, common: &Common) -> Time {
        let votes = common.membership().is_voter(common.config.id);
        let campaign = if votes { self.election_deadline } else { Time::NEVER };
        campaign.min(self.reads.deadline(&common.config))
    }

    /// Durable here and verified against this leader: what may be acknowledged. Nothing is before
    /// our being in this term is durable itself.
    fn matched(&self, common: &Common) -> Index {
        if common.out.hard_state_durable() {
            self.verified.min(common.log.durable())
        } else {
            Index::ZERO
        }
    }
}

impl Raft {
    /// Entries from the leader of this term.
    pub(crate) fn append(
        &mut self,
        from: NodeId,
        id: u64,
        prev: LogPosition,
        entries: Vec<Entry>,
        commit: Index,
    ) {
        let Raft { common, role: Role::Follower(follower) } = self else {
            unreachable!("who hears a leader follows it");
        };
        if common.snapshots.installing() {
            // The log is about to be replaced whole. The leader sends again when it was.
            return common.note(|_| format!("append from {from} while installing -> not now"));
        }
        if let Some(fault) = fault(common, prev, &entries) {
            common.dropped += 1;
            return common.tell(true, |_| format!("append from {from} dropped: {fault}"));
        }
        let committed = common.log.committed();
        if committed < prev.index && !common.log.holds(prev) {
            let hint = common.log.agreement(prev).filter(|at| committed <= at.index);
            // Everything committed here is in the leader's log too.
            let hint = hint.unwrap_or_else(|| committed_position(common));
            common.note(|c| {
                format!("append from {from} after {prev}, last {} -> refuse, hint {hint}", c.last())
            });
            let result = AppendResult::Conflict { prev: prev.index, hint };
            return common.reply(from, id, Body::AppendReply { result });
        }
        let covered = entries.last().map_or(prev.index, Entry::index);
        keep(common, entries);
        follower.verified = follower.verified.max(covered);
        follower.owed.push_back((id, covered));
        if OWED_MAX < follower.owed.len() {
            follower.owed.pop_front();
        }
        let known = commit.min(follower.verified);
        common.log.commit(known);
        common.note(|c| {
            format!("append from {from} after {prev} -> last {}, committed {known}", c.last())
        });
        self.acknowledge();
    }

    /// Answers the appends whose entries are durable by now, all with one message.
    pub(crate) fn acknowledge(&mut self) {
        let Raft { common, role: Role::Follower(follower) } = self else { return };
        let Some(leader) = follower.leader else { return };
        let matched = follower.matched(common);
        let mut answered = None;
        while let Some((id, covered)) = follower.owed.front()
            && *covered <= matched
            && common.out.hard_state_durable()
        {
            answered = Some(*id);
            follower.owed.pop_front();
        }
        if let Some(id) = answered {
            common.note(|_| format!("durable {matched} -> acknowledge to {leader}"));
            let result = AppendResult::Matched(matched);
            common.reply(leader, id, Body::AppendReply { result });
        }
    }

    /// The leader is alive. Answered at once: a slow disk is no reason to doubt it.
    pub(crate) fn heartbeat(&mut self, from: NodeId, id: u64, round: u64, commit: Index) {
        let Raft { common, role: Role::Follower(follower) } = self else {
            unreachable!("who hears a leader follows it");
        };
        // It says at most what we acknowledged, and is still believed only as far as we have seen
        // in this life (pitfalls 26 and 35).
        let known = commit.min(follower.verified);
        if common.log.commit(known) {
            common.note(|_| format!("heartbeat from {from} -> committed {known}"));
        }
        let matched = follower.matched(common);
        let received = follower.verified;
        common.reply(from, id, Body::HeartbeatReply { round, matched, received });
    }
}

/// Takes over what the log does not hold yet. Only a real conflict truncates: an old or doubled
/// append must not cut what a newer one brought (pitfall 26).
fn keep(common: &mut Common, entries: Vec<Entry>) {
    for entry in entries {
        if entry.index() <= common.log.committed() {
            continue;
        }
        match common.log.term_at(entry.index()) {
            Some(term) if term == entry.term() => continue,
            Some(_) => {
                let first = entry.index();
                common.note(|c| format!("drops {first}..{} for {entry}", c.last().index));
                if common.log.truncate(first) {
                    common.out.truncate(first);
                }
                common.out.cap_claims(first);
            }
            None => {}
        }
        common.log.append(entry);
    }
}

/// What no correct leader sends.
fn fault(common: &Common, prev: LogPosition, entries: &[Entry]) -> Option<&'static str> {
    let mut before = prev;
    for entry in entries {
        if entry.index() != before.index.next() || entry.term() < before.term {
            return Some("its entries do not follow each other");
        }
        before = entry.position;
    }
    if common.hard_state.term < before.term {
        return Some("it holds entries of a term that has not begun");
    }
    let committed = common.log.committed();
    let contradicts = |at: LogPosition| {
        let ours = common.log.term_at(at.index);
        at.index <= committed && ours.is_some_and(|term| term != at.term)
    };
    let positions = entries.iter().map(|entry| entry.position);
    if std::iter::once(prev).chain(positions).any(contradicts) {
        return Some("it contradicts what is committed");
    }
    None
}

fn committed_position(common: &Common) -> LogPosition {
    let index = common.log.committed();
    let term = common.log.term_at(index).expect("the log holds its committed end");
    LogPosition::new(index, term)
}
