//! What must hold across the whole cluster, whatever the schedule: the Election Safety, Log
//! Matching, Leader Completeness and State Machine Safety of thesis figure 3.2, and that no promise
//! leaves a node before the sync that makes it true.
//!
//! The laws see what crosses the border of a core (writes, messages, applied entries, status) and
//! the simulated disks; they never look inside, so they do not share the core's own mistakes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft_core::consensus::event::{RoleName, Status};
use raft_core::membership::Membership;
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{Entry, Index, LogPosition, NodeId, Payload, Term};
use raft_core::write::Write;

use super::disk::{Disk, Image};

/// The nodes on whose disks an entry is synced.
pub type Holders = BTreeSet<NodeId>;

/// Everything the cluster has ever agreed to.
#[derive(Default)]
pub struct Laws {
    leaders: BTreeMap<Term, NodeId>,
    grants: BTreeMap<(NodeId, Term), NodeId>,
    /// Each entry ever written, with the one before it: equal links make equal chains, which is
    /// Log Matching by induction.
    chain: BTreeMap<LogPosition, (LogPosition, Payload)>,
    /// Committed entries from index 1 on, each with the term its committer led in.
    committed: Vec<(LogPosition, Term)>,
    /// Commands that were refused: none of them may ever be applied.
    refused: BTreeSet<Bytes>,
}

impl Laws {
    /// The highest index committed anywhere.
    pub fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// The committed entry at this index.
    fn committed_at(&self, index: Index) -> Option<LogPosition> {
        let offset = usize::try_from(index.0.checked_sub(1)?).ok()?;
        self.committed.get(offset).map(|(position, _)| *position)
    }

    /// A node begins with this log: its links are facts from now on.
    pub fn began(&mut self, node: NodeId, image: &Image) {
        let mut prev = image.log_start;
        for entry in &image.entries {
            self.link(node, prev, entry);
            prev = entry.position;
        }
    }

    /// A node asked its disk for this write, on top of `live`.
    pub fn wrote(&mut self, node: NodeId, write: &Write, live: &Image) {
        if let Some(from) = write.truncate_from {
            for (offset, (position, _)) in self.committed.iter().enumerate() {
                let index = Index(offset as u64 + 1);
                let lost =
                    from <= index && live.entry(index).is_some_and(|e| e.position == *position);
                assert!(!lost, "{node} cuts its log from {from}, but {position} is committed");
            }
        }
        let Some(first) = write.entries.first() else { return };
        let mut prev = match first.index().prev() {
            Index::ZERO => LogPosition::ORIGIN,
            index => position_at(live, write, index),
        };
        for entry in &write.entries {
            self.link(node, prev, entry);
            prev = entry.position;
        }
    }

    /// Log Matching: an index and a term name one entry, and one entry before it.
    fn link(&mut self, node: NodeId, prev: LogPosition, entry: &Entry) {
        assert!(prev.term <= entry.term(), "{node}: the term goes back from {prev} to {entry}");
        let link = (prev, entry.payload.clone());
        let known = self.chain.entry(entry.position).or_insert_with(|| link.clone());
        assert!(
            *known == link,
            "Log Matching: {node} holds {entry} after {prev} as {:?}, elsewhere it follows {} as {:?}",
            entry.payload,
            known.0,
            known.1
        );
    }

    /// A proposal was accepted at this place. Nobody may ever have written it there: a leader that
    /// steps down before its effects are taken may lose it again.
    pub fn accepted(&self, node: NodeId, at: LogPosition, command: &Bytes) {
        if let Some((_, payload)) = self.chain.get(&at) {
            let same = *payload == Payload::Command(command.clone());
            assert!(same, "{node} accepted one command at {at} and wrote another");
        }
    }

    /// A proposal was refused.
    pub fn refused(&mut self, command: Bytes) {
        self.refused.insert(command);
    }

    /// A node hands out a committed entry.
    pub fn applied(&self, node: NodeId, entry: &Entry) {
        let agreed = self.committed_at(entry.index());
        assert!(
            agreed == Some(entry.position),
            "State Machine Safety: {node} applies {entry}, committed there is {agreed:?}"
        );
        if let Payload::Command(command) = &entry.payload {
            assert!(!self.refused.contains(command), "{node} applies {entry}, which was refused");
        }
    }

    /// A node sends a message, its disk being in this state: whatever the message promises is true
    /// already.
    pub fn sent(&mut self, message: &Message, disk: &Disk) {
        let Message { from, to, term, .. } = *message;
        let synced = &disk.synced;
        let durable = |index: Index, what: &str| {
            let (there, here) = (synced.entry(index), disk.live.entry(index));
            let holds = index <= synced.log_start.index
                || index <= synced.snapshot().index
                || there.is_some() && (there == here || index <= disk.live.log_start.index);
            assert!(holds, "{from} promises {what} {index}, synced is only {}", synced.last());
        };
        match &message.body {
            Body::VoteReply { granted: true } => {
                let vote = (synced.hard_state.term, synced.hard_state.vote);
                assert!(vote == (term, Some(to)), "{from}@{term} grants {to} an unsynced vote");
                let first = *self.grants.entry((from, term)).or_insert(to);
                assert!(first == to, "{from} votes for {first} and for {to} in term {term}");
            }
            Body::AppendReply { result: AppendResult::Matched(index) } => durable(*index, "ack"),
            Body::HeartbeatReply { matched, .. } => durable(*matched, "matched"),
            Body::SnapshotReply { position, next_offset: None } => {
                durable(position.index, "snapshot")
            }
            Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::InstallSnapshot { .. }
            | Body::TimeoutNow { .. } => {
                let vote = (synced.hard_state.term, synced.hard_state.vote);
                assert!(vote == (term, Some(from)), "{from}@{term} leads on an unsynced vote");
                let leader = *self.leaders.entry(term).or_insert(from);
                assert!(leader == from, "{from} and {leader} both lead in term {term}");
            }
            _ => {}
        }
    }

    /// What a follower acknowledges is equal to the log of the leader it acknowledges to.
    pub fn acknowledged(&self, message: &Message, follower: &Image, leader: &Image) {
        let index = match message.body {
            Body::AppendReply { result: AppendResult::Matched(index) } => index,
            Body::HeartbeatReply { matched, .. } => matched,
            _ => return,
        };
        if let (Some(ours), Some(theirs)) = (follower.entry(index), leader.entry(index)) {
            assert!(
                ours.position == theirs.position,
                "{} acknowledges {} to {}, which holds {}",
                message.from,
                ours.position,
                message.to,
                theirs.position
            );
        }
    }

    /// Looks at a node after its effects: leadership, commit and what they rest on. `committer` is
    /// its status when it committed.
    pub fn looked(
        &mut self,
        status: &Status,
        committer: &Status,
        live: &Image,
        holders: &dyn Fn(LogPosition) -> Holders,
    ) {
        let node = status.id;
        if status.role == RoleName::Leader {
            let first = *self.leaders.entry(status.term).or_insert(node);
            assert!(first == node, "{first} and {node} both lead in term {}", status.term);
            self.leader_is_complete(status, live);
        }
        while self.committed() < status.committed {
            let index = self.committed().next();
            let position = live.entry(index).map(|entry| entry.position).unwrap_or_else(|| {
                panic!("{node} commits {index}, which only a snapshot covers and nobody committed")
            });
            self.commits(committer, position, &holders(position));
            self.committed.push((position, committer.term));
        }
        if let Some(agreed) = self.committed_at(status.committed) {
            assert!(
                live.holds(agreed),
                "{node} has {} committed, but there it does not hold {agreed}",
                status.committed
            );
        }
    }

    /// Leader Completeness: a leader holds everything committed in earlier terms.
    fn leader_is_complete(&self, status: &Status, live: &Image) {
        let earlier = self.committed.partition_point(|(_, term)| *term < status.term);
        let Some((position, _)) = earlier.checked_sub(1).map(|last| self.committed[last]) else {
            return;
        };
        assert!(
            live.holds(position),
            "Leader Completeness: {}@{} leads without {position}",
            status.id,
            status.term
        );
    }

    /// A commit is first made by a leader, and rests on synced copies at a majority of every set
    /// of voters in force.
    fn commits(&self, status: &Status, position: LogPosition, holders: &Holders) {
        let Status { id, term, membership, .. } = status;
        assert!(
            status.role == RoleName::Leader,
            "{id} commits {position} first, but does not lead"
        );
        assert!(
            is_quorum(membership, holders),
            "{id}@{term} commits {position}, synced only on {holders:?} of {membership}"
        );
    }

    /// What was committed before the story begins (a snapshot on a disk at the start).
    pub fn was_committed(&mut self, positions: &[LogPosition]) {
        for position in positions {
            if self.committed().next() == position.index {
                self.committed.push((*position, position.term));
            }
        }
    }
}

/// Whether these nodes are a majority of the voters, and of the outgoing voters while joint.
pub fn is_quorum(membership: &Membership, nodes: &BTreeSet<NodeId>) -> bool {
    let majority = |side: &BTreeSet<NodeId>| side.len() < 2 * side.intersection(nodes).count();
    majority(membership.voters()) && (!membership.is_joint() || majority(membership.outgoing()))
}

/// The position at `index` once `write` is carried out on `live`.
fn position_at(live: &Image, write: &Write, index: Index) -> LogPosition {
    let installed = write.snapshots.iter().rev().find_map(|piece| match piece {
        raft_core::write::SnapshotWrite::Install(meta) if meta.position.index == index => {
            Some(meta.position)
        }
        _ => None,
    });
    let held = live.entry(index).map(|entry| entry.position);
    let start = (live.log_start.index == index).then_some(live.log_start);
    installed.or(held).or(start).unwrap_or(LogPosition::ORIGIN)
}
