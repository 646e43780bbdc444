//! Looks for rare things in what can be seen of a run. It changes nothing and judges nothing: whether
//! what happened was right is for the invariants to say.
//!
//! What only the world knows (a fuse that blew in a storage call) is marked where it happens.

use std::collections::BTreeMap;

use raft_core::consensus::Raft;
use raft_core::consensus::event::RoleName;
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{Index, LogPosition, NodeId, Term, Time, WriteId};
use raft_core::write::{Recovered, SnapshotWrite, Write};

use super::{Mark, Marks};
use crate::app::App;
use crate::plan::Machine;
use crate::trace::{Exit, OpEnd, Seen, Violation, Watch};
use crate::world::View;

/// Whoever looks; see the top of this file.
#[derive(Default)]
pub struct Spotter {
    marks: Marks,
    tales: BTreeMap<Machine, Tale>,
    /// Who asked for votes in each term.
    candidates: BTreeMap<Term, Machine>,
    elections: u32,
    /// How many elections there had been when each operation began, and whether it writes.
    begun: Vec<(u32, bool)>,
    /// How far each leader knows each follower to be, and in which term that was.
    told: BTreeMap<(Machine, NodeId), (Term, Index)>,
}

/// What is remembered of a machine.
#[derive(Default)]
struct Tale {
    node: Option<NodeId>,
    role: Option<RoleName>,
    term: Term,
    committed: Index,
    /// The last term it led.
    led: Option<Term>,
    /// The last index handed to its disk, and synced by it.
    issued: Index,
    durable: Index,
    /// Its disk has synced and the replica does not know.
    untold: bool,
    /// The write that holds its newest vote, while it is not synced.
    vote: Option<WriteId>,
    /// The leader's snapshot is coming in.
    receiving: bool,
    /// Of which snapshot the last piece was, and where it ended.
    piece: (LogPosition, u64),
    /// Whether who last asked for a pre-vote had the older log.
    older: bool,
}

impl<A: App> Watch<A> for Spotter {
    fn see(&mut self, _: Time, seen: &Seen<'_, A>, view: &View<'_, A>) -> Result<(), Violation> {
        match seen {
            Seen::Delivered { to, message, .. } => {
                if let Some(replica) = view.replica(*to) {
                    self.delivered(*to, message, replica.raft());
                }
            }
            Seen::Stepped { machine } => {
                if let Some(replica) = view.replica(*machine) {
                    self.stepped(*machine, replica.raft(), view);
                }
            }
            Seen::Sent { machine, message, .. } => {
                if let Some(replica) = view.replica(*machine) {
                    self.sent(*machine, message, replica.raft());
                }
            }
            Seen::WriteIssued { machine, write } => self.issued(*machine, write, view),
            Seen::Persisted { machine, writes, .. } => self.persisted(*machine, writes),
            Seen::Started { machine, node, recovered } => {
                self.started(*machine, *node, *recovered);
            }
            Seen::Crashed { machine } => self.crashed(*machine),
            Seen::Exited { machine, exit: Exit::Storage(_) } => {
                let leads = self.tale(*machine).role == Some(RoleName::Leader);
                self.marks.hit(if leads {
                    Mark::LeaderDiskFailed
                } else {
                    Mark::FollowerDiskFailed
                });
            }
            Seen::Paused { machine, still: false } => {
                let term = |machine| leads(view, machine);
                if let Some(ours) = term(*machine)
                    && view.machines().any(|other| term(other).is_some_and(|it| ours < it))
                {
                    self.marks.hit(Mark::PausedLeaderReplaced);
                }
            }
            Seen::OpBegun { request, .. } => {
                self.begun.push((self.elections, A::is_write(request)));
            }
            Seen::OpEnded { op, end: OpEnd::Answered { .. }, .. } => {
                if let Some((elections, writes)) = self.begun.get(op.0 as usize).copied()
                    && elections < self.elections
                {
                    let (write, read) = (Mark::WriteOutlivedLeader, Mark::ReadOutlivedLeader);
                    self.marks.hit(if writes { write } else { read });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn marks(&self) -> Marks {
        self.marks
    }
}

impl Spotter {
    fn tale(&mut self, machine: Machine) -> &mut Tale {
        self.tales.entry(machine).or_default()
    }

    fn hit_if(&mut self, mark: Mark, happened: bool) {
        if happened {
            self.marks.hit(mark);
        }
    }

    /// A message is about to be taken in by this replica.
    fn delivered(&mut self, to: Machine, message: &Message, raft: &Raft) {
        let Message { from, term, body, .. } = message;
        let (ours, log) = (raft.term(), raft.log());
        let older = |last: &LogPosition| is_older(*last, log.last());
        match body {
            Body::PreVote { last } => self.tale(to).older = older(last),
            Body::PreVoteReply { .. } => {}
            _ => self.hit_if(Mark::OlderTermCame, *term < ours),
        }
        let led = raft.leader().is_some_and(|leader| leader != *from);
        let claimed = body.is_from_leader() && *term == ours && led;
        self.hit_if(Mark::SecondLeaderClaimed, claimed);
        match body {
            Body::RequestVote { last, .. } => {
                self.hit_if(Mark::OlderLogAskedForVote, older(last));
                let other = *term == ours && raft.vote().is_some_and(|vote| vote != *from);
                self.hit_if(Mark::VoteAlreadyGiven, other);
            }
            Body::Append { prev, entries, commit } => {
                let held = entries.first().is_some_and(|first| log.holds(first.position));
                self.hit_if(Mark::AppendRepeated, held);
                let verified = Index(prev.index.0 + entries.len() as u64);
                self.hit_if(Mark::CommitAheadOfAppend, verified < *commit);
                let known = log.term_at(prev.index).filter(|_| prev.index <= log.committed());
                let contradicts = known.is_some_and(|known| known != prev.term);
                self.hit_if(Mark::CommittedContradicted, contradicts && *term == ours);
            }
            Body::AppendReply { result: AppendResult::Matched(matched) }
            | Body::HeartbeatReply { matched, .. }
                if log.last().index < *matched =>
            {
                self.hit_if(Mark::AcknowledgedTheUnsent, *term == ours);
            }
            Body::AppendReply { result: AppendResult::Matched(matched) } => {
                self.told.insert((to, *from), (*term, *matched));
            }
            Body::HeartbeatReply { matched, .. } => {
                if let Some((in_term, told)) = self.told.get_mut(&(to, *from))
                    && *in_term == *term
                    && *told < *matched
                {
                    *told = *matched;
                    self.marks.hit(Mark::AcknowledgedByHeartbeat);
                }
            }
            Body::InstallSnapshot { meta, offset, data } => {
                self.hit_if(Mark::SnapshotTooLate, meta.position.index <= log.committed());
                let ends = offset + data.len() as u64;
                let (of, before) =
                    std::mem::replace(&mut self.tale(to).piece, (meta.position, ends));
                let again = of == meta.position && 0 < *offset && *offset < before;
                self.hit_if(Mark::PieceRepeated, again);
            }
            Body::TimeoutNow { .. } => self.marks.hit(Mark::ToldToCampaign),
            _ => {}
        }
    }

    fn stepped<A: App>(&mut self, machine: Machine, raft: &Raft, view: &View<'_, A>) {
        let (role, term, log) = (raft.role_name(), raft.term(), raft.log());
        let tale = self.tale(machine);
        tale.untold = false;
        let (before, began) = (tale.role.replace(role), tale.term);
        let committed = std::mem::replace(&mut tale.committed, log.committed());
        tale.term = term;
        if before == Some(role) && began == term && committed == log.committed() {
            return;
        }
        let leads_now = role == RoleName::Leader;
        let led = before == Some(RoleName::Leader) && (!leads_now || began < term);
        self.hit_if(Mark::LeaderLostItsQuorum, led && began == term);
        self.hit_if(Mark::LeaderDeposed, led && began < term);
        if role == RoleName::Candidate && (before != Some(role) || began < term) {
            let other = *self.candidates.entry(term).or_insert(machine);
            self.hit_if(Mark::SplitVote, other != machine);
        }
        if leads_now && (before != Some(role) || began < term) {
            self.elections += 1;
            let again = self.tale(machine).led.replace(term).is_some_and(|before| before < term);
            self.hit_if(Mark::LedAgain, again);
            let mut others = view.machines().filter(|other| *other != machine);
            let believes = others.any(|other| leads(view, other).is_some());
            self.hit_if(Mark::TwoBelieveToLead, believes);
        }
        if leads_now && committed < log.committed() {
            let older = log.term_at(committed.next()).is_some_and(|of| of < term);
            self.hit_if(Mark::OlderTermCommitted, older);
            self.hit_if(Mark::CommittedAheadOfLeaderDisk, log.durable() < log.committed());
        }
        self.hit_if(Mark::AppliedAheadOfDisk, log.durable() < log.applied());
    }

    fn sent(&mut self, machine: Machine, message: &Message, raft: &Raft) {
        match &message.body {
            Body::PreVoteReply { granted: false, .. } => {
                let older = self.tale(machine).older;
                self.hit_if(Mark::PreVoteRefusedByLog, older);
                self.hit_if(Mark::PreVoteRefusedByLeader, !older && raft.leader().is_some());
            }
            // An answer to an older term says nothing about the log.
            Body::AppendReply { result: AppendResult::Conflict { prev, .. } }
                if Index::ZERO < *prev =>
            {
                let short = raft.log().last().index < *prev;
                let (too_short, other) = (Mark::AppendRefusedShort, Mark::AppendRefusedOther);
                self.marks.hit(if short { too_short } else { other });
            }
            _ => {}
        }
    }

    fn issued<A: App>(&mut self, machine: Machine, write: &Write, view: &View<'_, A>) {
        let me = view.node(machine);
        let learns = view
            .replica(machine)
            .is_some_and(|replica| replica.raft().log().membership().learners().contains(&me));
        let tale = self.tale(machine);
        if write.hard_state.is_some_and(|it| it.vote.is_some()) {
            tale.vote = Some(write.id);
        }
        let (durable, led) = (tale.durable, tale.led.is_some());
        if let Some(from) = write.truncate_from {
            tale.issued = from.prev();
        }
        tale.issued = write.entries.last().map_or(tale.issued, |entry| entry.index());
        for operation in &write.snapshots {
            match operation {
                SnapshotWrite::Chunk { offset, .. } => tale.receiving |= 0 < *offset,
                SnapshotWrite::Install(meta) => tale.issued = tale.issued.max(meta.position.index),
                SnapshotWrite::Mark(_) => {}
            }
        }
        if let Some(from) = write.truncate_from {
            self.hit_if(Mark::SyncedCut, from <= durable);
            self.hit_if(Mark::FormerLeaderCut, led);
            self.hit_if(Mark::CutAndAppended, !write.entries.is_empty());
        }
        let installs = write.snapshots.iter().any(|it| matches!(it, SnapshotWrite::Install(_)));
        self.hit_if(Mark::LearnerCaughtUp, learns && installs);
    }

    fn persisted(&mut self, machine: Machine, writes: &[Write]) {
        let tale = self.tale(machine);
        for write in writes {
            tale.untold |= !write.entries.is_empty();
            tale.vote = tale.vote.filter(|vote| write.id < *vote);
            if let Some(from) = write.truncate_from {
                tale.durable = tale.durable.min(from.prev());
            }
            tale.durable = write.entries.last().map_or(tale.durable, |entry| entry.index());
            for operation in &write.snapshots {
                if let SnapshotWrite::Install(meta) = operation {
                    tale.durable = tale.durable.max(meta.position.index);
                    tale.receiving = false;
                }
            }
        }
    }

    fn crashed(&mut self, machine: Machine) {
        let tale = self.tale(machine);
        let leads = tale.role == Some(RoleName::Leader);
        let (untold, vote, receiving) = (tale.untold, tale.vote.is_some(), tale.receiving);
        self.hit_if(Mark::LeaderCrashedAfterSync, untold && leads);
        self.hit_if(Mark::FollowerCrashedAfterSync, untold && !leads);
        self.hit_if(Mark::CrashedBeforeVoteSync, vote);
        self.hit_if(Mark::CrashedWhileReceiving, receiving);
    }

    /// A process begins with what its disk holds, and remembers nothing.
    fn started(&mut self, machine: Machine, node: NodeId, recovered: Option<&Recovered>) {
        let tale = self.tale(machine);
        let (before, issued, durable) = (tale.node, tale.issued, tale.durable);
        *tale = Tale { node: Some(node), led: tale.led, ..Tale::default() };
        let Some(recovered) = recovered else { return };
        let end = recovered.entries.last().map_or(recovered.log_start, |entry| entry.position);
        (tale.issued, tale.durable) = (end.index, end.index);
        tale.term = recovered.hard_state.term;
        if before == Some(node) {
            self.hit_if(Mark::UnsyncedLost, end.index < issued);
            self.hit_if(Mark::UnsyncedKept, durable < end.index);
        }
    }
}

/// The term in which this machine's node believes to lead.
fn leads<A: App>(view: &View<'_, A>, machine: Machine) -> Option<Term> {
    let raft = view.replica(machine)?.raft();
    (raft.role_name() == RoleName::Leader).then(|| raft.term())
}

/// Whether a log that ends with `one` is older than one that ends with `other` (thesis 3.6.1).
fn is_older(one: LogPosition, other: LogPosition) -> bool {
    (one.term, one.index) < (other.term, other.index)
}
