//! Handing leadership over (thesis 3.10): take no more proposals, bring the target up to date, tell
//! it to campaign at once; lead on if it has not taken over within an election timeout.

use super::event::TransferFailure;
use super::raft::{Raft, Role};
use crate::message::Body;
use crate::types::{LogPosition, NodeId, Time};

/// A transfer under way, on the leader.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// Who is to lead.
    pub(crate) to: NodeId,
    /// When we give up and lead on (pitfall 57).
    pub(crate) until: Time,
}

impl Raft {
    /// An operator (or a clean shutdown) wants another leader.
    pub(crate) fn transfer(&mut self, to: Option<NodeId>) {
        let verdict = self.begin_transfer(to);
        if let Err(failure) = verdict {
            self.common.out.effects.transfers.push(Err(failure));
        }
        self.hand_over();
    }

    fn begin_transfer(&mut self, to: Option<NodeId>) -> Result<(), TransferFailure> {
        let Raft { common, role: Role::Leader(leader) } = self else {
            return Err(TransferFailure::NotLeader);
        };
        if leader.transfer.is_some() {
            return Err(TransferFailure::InProgress);
        }
        let membership = common.membership();
        // The furthest first; among equals the one heard last.
        let best = leader
            .progress
            .iter()
            .filter(|(id, _)| membership.voters().contains(id))
            .max_by_key(|(_, progress)| (progress.matched, progress.contact))
            .map(|(id, _)| *id);
        let to = to.or(best).filter(|to| membership.voters().contains(to));
        let Some(to) = to.filter(|to| *to != common.config.id) else {
            return Err(TransferFailure::NoSuchVoter);
        };
        common.tell(true, |_| format!("hands leadership to {to}"));
        let until = common.now + common.config.election_timeout_min;
        leader.transfer = Some(Transfer { to, until });
        Ok(())
    }

    /// Tells the target to campaign, as soon as it holds our whole log. Said again with every
    /// heartbeat, since it may be lost.
    pub(crate) fn hand_over(&mut self) {
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        let Some(Transfer { to, .. }) = leader.transfer else { return };
        let last = common.last();
        let caught_up = leader.progress.get(&to).is_some_and(|target| target.matched == last.index);
        if caught_up {
            common.note(|_| format!("-> {to} campaign now, last {last}"));
            common.request(to, Body::TimeoutNow { last });
        }
    }

    /// Gives up a transfer whose time is over.
    pub(crate) fn end_transfer_in_time(&mut self) {
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        if let Some(transfer) = leader.transfer.take_if(|transfer| transfer.until <= common.now) {
            common.tell(true, |_| format!("{} has not taken over -> leads on", transfer.to));
            common.out.effects.transfers.push(Err(TransferFailure::TimedOut));
        }
    }

    /// The leader asks us to campaign at once, without asking whether we could win.
    pub(crate) fn timeout_now(&mut self, from: NodeId, last: LogPosition) {
        let Raft { common, role: Role::Follower(follower) } = self else { return };
        let voter = common.membership().is_voter(common.config.id);
        // A late one names an end of the log that the leader has long passed; then, and while our
        // own log is short of it, the hint is stale (pitfall 55).
        let held = common.last() == last;
        if follower.leader == Some(from) && voter && held && !common.snapshots.installing() {
            self.campaign(true);
        } else {
            common.note(|c| {
                format!("campaign now from {from}, last {last}, ours {} -> no", c.last())
            });
        }
    }
}
