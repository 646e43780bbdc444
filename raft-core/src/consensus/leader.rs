//! The leader's rules (thesis 3.5, 3.6.2, 6.2, 10.2.1): replicate what is proposed, commit what a
//! quorum holds durably, prove leadership by heartbeats, step down when no quorum answers.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::event::Refusal;
use super::log::Log;
use super::progress::{Progress, State};
use super::quorum;
use super::raft::{Common, Raft, Role};
use super::reads::LeaderReads;
use super::transfer::Transfer;
use crate::membership::Membership;
use crate::message::{AppendResult, Body};
use crate::types::{Entry, Index, LogPosition, NodeId, Payload, ProposalId, Time};

/// What only a leader knows.
#[derive(Debug)]
pub(crate) struct Leader {
    /// How far every other member is.
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    /// Our no-op: the first entry of our term.
    pub(crate) first: Index,
    /// The newest heartbeat round; counts within the term.
    pub(crate) round: u64,
    pub(crate) heartbeat_deadline: Time,
    /// When idle followers are told a new commit index that no append has carried to them.
    notice_deadline: Time,
    /// Reads that wait for a round.
    pub(crate) reads: LeaderReads,
    /// Leadership is being handed over.
    pub(crate) transfer: Option<Transfer>,
}

/// How soon an idle follower learns a commit index: late enough that under load the next append
/// carries it for nothing.
const NOTICE_WAIT: Duration = Duration::from_millis(5);

/// A lost append is presumed after two heartbeats and this long per byte under way (20 MB/s), so
/// that a large one on a slow line is not sent twice.
const NANOS_PER_BYTE: u64 = 50;

impl Leader {
    /// The leader of the current term, whose log now ends with its no-op.
    pub(crate) fn new(common: &mut Common) -> Leader {
        let term = common.hard_state.term;
        let first = common.last().index.next();
        common
            .log
            .append(Entry { position: LogPosition::new(first, term), payload: Payload::Noop });
        let mut leader = Leader {
            progress: BTreeMap::new(),
            first,
            round: 0,
            heartbeat_deadline: common.now,
            notice_deadline: Time::NEVER,
            reads: LeaderReads::default(),
            transfer: None,
        };
        leader.follow_membership(common, first);
        leader
    }

    /// When it next has something to do by itself.
    pub(crate) fn deadline(&self) -> Time {
        let transfer = self.transfer.as_ref().map_or(Time::NEVER, |transfer| transfer.until);
        self.heartbeat_deadline.min(self.notice_deadline).min(transfer)
    }

    /// Whether an entry of our own term is committed: only then do we know what is (thesis 6.4).
    pub(crate) fn ready(&self, log: &Log) -> bool {
        self.first <= log.committed()
    }

    /// When a quorum was last heard, ourselves included.
    pub(crate) fn quorum_contact(
        &self,
        me: NodeId,
        membership: &Membership,
        now: Time,
    ) -> Option<Time> {
        quorum::reached(membership, |id| {
            if id == me {
                return now;
            }
            self.progress.get(&id).and_then(|progress| progress.contact).unwrap_or_default()
        })
    }

    /// Sends each member what it may be sent now.
    pub(crate) fn replicate(&mut self, common: &mut Common) {
        let next = common.last().index.next();
        self.follow_membership(common, next);
        let commit = common.log.committed();
        for (id, progress) in &mut self.progress {
            feed(common, *id, progress, commit);
        }
    }

    /// A heartbeat to everybody: a new round.
    pub(crate) fn heartbeat(&mut self, common: &mut Common) {
        self.round += 1;
        for (id, progress) in &mut self.progress {
            send_heartbeat(common, *id, progress, self.round);
        }
    }

    /// This peer's process is gone, and what was under way to it.
    pub(crate) fn lost(&mut self, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            match &mut progress.state {
                State::Snapshot(sending) => sending.again(),
                State::Probe { .. } | State::Replicate => progress.probe(progress.matched.next()),
            }
        }
    }

    /// Keeps one progress per other member of the membership in force.
    fn follow_membership(&mut self, common: &Common, next: Index) {
        let membership = common.membership();
        let others = membership.members().filter(|(id, _)| *id != common.config.id);
        if self.progress.keys().copied().eq(others.map(|(id, _)| id)) {
            return;
        }
        self.progress.retain(|id, _| membership.contains(*id));
        for (id, _) in membership.members() {
            if id != common.config.id {
                self.progress.entry(id).or_insert_with(|| Progress::new(next, common.now));
            }
        }
    }
}

impl Progress {
    /// The follower has everything up to here in memory, and nothing above it, of ours. Returns
    /// whether something under way must be presumed lost, in which case it is looked for again.
    fn received(&mut self, received: Index, common: &Common) -> bool {
        let patience = common.config.heartbeat * 2
            + Duration::from_nanos(self.inflight_bytes().saturating_mul(NANOS_PER_BYTE));
        let overdue = self.sent_at + patience <= common.now;
        let short = received < self.next.prev();
        let lost = match &self.state {
            State::Probe { .. } if !short => {
                // As good as an answer to the probe: the logs agree there.
                self.next = self.next.max(received.next());
                self.replicate();
                false
            }
            State::Probe { waiting } => *waiting && overdue,
            // With nothing under way it holds what it acknowledged, but has begun a new life since
            // and needs to see where the logs agree.
            State::Replicate => short && (self.inflight_bytes() == 0 || overdue),
            State::Snapshot(_) => false,
        };
        if lost {
            // A lost probe has shown nothing: the same is asked again, instead of sending a log
            // that the follower may well hold from its beginning.
            let probing = matches!(self.state, State::Probe { .. });
            self.probe(if probing { self.next } else { received.next() });
        }
        lost
    }
}

/// Sends one member what its state allows.
fn feed(common: &mut Common, id: NodeId, progress: &mut Progress, commit: Index) {
    loop {
        let last = common.last().index;
        let room = common.config.inflight_bytes_max.saturating_sub(progress.inflight_bytes());
        let wanted = match &progress.state {
            State::Probe { waiting } => !waiting,
            State::Replicate => progress.next <= last && 0 < room,
            State::Snapshot(_) => return common.read_chunk(id, progress),
        };
        if !wanted {
            return;
        }
        let prev = progress.next.prev();
        let Some(prev_term) = common.log.term_at(prev) else {
            // What it needs is no longer in the log (thesis 5.3).
            let meta = common.log.snapshot().clone();
            common.tell(true, |_| {
                format!(
                    "{id} needs {}, the log begins later -> snapshot {}",
                    progress.next, meta.position
                )
            });
            progress.send_snapshot(meta);
            continue;
        };
        let bytes_max = common.config.append_bytes_max.min(room.max(1));
        let entries = if progress.next <= last {
            common.log.entries(progress.next, last, bytes_max)
        } else {
            Vec::new()
        };
        let sent = entries.last().map_or(prev, Entry::index);
        let bytes = entries.iter().map(Entry::weight).sum();
        let prev = LogPosition::new(prev, prev_term);
        common.note(|_| {
            let range = match (entries.first(), entries.last()) {
                (Some(first), Some(last)) if first != last => format!("{first}..{last}"),
                (Some(only), _) => only.to_string(),
                _ => String::from("nothing"),
            };
            format!("-> {id} append {range} after {prev}, committed {commit}")
        });
        common.request(id, Body::Append { prev, entries, commit });
        progress.told_commit = commit;
        progress.sent(sent, bytes, common.now);
    }
}

/// One heartbeat. It says at most what the receiver itself has acknowledged.
fn send_heartbeat(common: &mut Common, id: NodeId, progress: &mut Progress, round: u64) {
    let commit = common.log.committed().min(progress.matched);
    progress.told_commit = progress.told_commit.max(commit);
    common.request(id, Body::Heartbeat { round, commit });
}

impl Raft {
    /// What a leader does by the clock.
    pub(crate) fn lead(&mut self) {
        self.end_transfer_in_time();
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        if leader.notice_deadline <= common.now {
            leader.notice_deadline = Time::NEVER;
            let committed = common.log.committed();
            for (id, progress) in &mut leader.progress {
                if progress.told_commit < committed.min(progress.matched) {
                    send_heartbeat(common, *id, progress, leader.round);
                }
            }
        }
        if common.now < leader.heartbeat_deadline {
            return;
        }
        let me = common.config.id;
        let contact = leader.quorum_contact(me, common.membership(), common.now);
        let limit = common.config.election_timeout_min;
        if contact.is_none_or(|at| at + limit <= common.now) {
            // Others may have elected a leader long ago (check-quorum, thesis 6.2).
            let term = common.hard_state.term;
            return self.become_follower(term, None, "no quorum answered for an election timeout");
        }
        for progress in leader.progress.values_mut() {
            progress.retry_snapshot(common.now, limit);
        }
        leader.heartbeat_deadline = common.now + common.config.heartbeat;
        leader.take_round(common);
        leader.heartbeat(common);
        leader.confirm_reads(common);
        self.hand_over();
    }

    /// A client's command.
    pub(crate) fn propose(&mut self, id: ProposalId, command: Bytes) {
        let verdict = self.accept_proposal(command);
        if let Err(refusal) = &verdict {
            self.common.note(|_| format!("proposal refused: {refusal:?}"));
        }
        self.common.out.effects.proposals.push((id, verdict));
    }

    fn accept_proposal(&mut self, command: Bytes) -> Result<LogPosition, Refusal> {
        let hint = self.leader();
        let Raft { common, role: Role::Leader(leader) } = self else {
            return Err(Refusal::NotLeader { leader: hint });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(Refusal::Transferring { to: transfer.to });
        }
        let (bytes, bytes_max) = (command.len() as u64, common.config.entry_bytes_max);
        if bytes_max < bytes {
            return Err(Refusal::TooLarge { bytes, bytes_max });
        }
        let (committed, last) = (common.log.committed(), common.last().index);
        let position = LogPosition::new(last.next(), common.hard_state.term);
        let entry = Entry { position, payload: Payload::Command(command) };
        // Counted on the log itself, so what earlier terms left behind counts too (pitfall 38). What
        // the others have committed without our own disk counts as well: until it is synced here no
        // snapshot can cover it, and the log would grow without bound behind a disk that hangs.
        let open = committed.min(common.log.durable());
        let under_way = common.log.weight(open, last);
        if open < last && common.config.uncommitted_bytes_max < under_way + entry.weight() {
            return Err(Refusal::Busy);
        }
        common.log.append(entry);
        common.note(|_| format!("proposal -> {position}"));
        Ok(position)
    }

    /// A follower answers appends.
    pub(crate) fn append_answered(&mut self, from: NodeId, result: AppendResult) {
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.contact = Some(common.now);
        match result {
            AppendResult::Matched(matched) => self.matched(from, matched),
            AppendResult::Conflict { prev, hint } => {
                let current = match &progress.state {
                    State::Probe { .. } => prev == progress.next.prev(),
                    State::Replicate => progress.matched < prev && prev < progress.next,
                    State::Snapshot(_) => false,
                };
                // A late refusal must not throw back what has moved on since (pitfall 28).
                if !current || prev <= progress.matched || prev < hint.index {
                    return common.note(|_| format!("{from} refused {prev}: late, ignored"));
                }
                // Where the logs may agree; below our start only a snapshot helps, which the next
                // append to it finds out.
                let agreement = common.log.agreement(hint).map(|at| at.index.min(prev.prev()));
                let next = agreement.map_or(common.log.start().index, Index::next);
                progress.probe(next);
                let next = progress.next;
                common.note(|_| format!("{from} refused {prev}, hint {hint} -> probe from {next}"));
            }
        }
    }

    /// A follower answers a heartbeat.
    pub(crate) fn heartbeat_answered(
        &mut self,
        from: NodeId,
        round: u64,
        matched: Index,
        received: Index,
    ) {
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        if leader.round < round {
            return;
        }
        progress.contact = Some(common.now);
        progress.round = progress.round.max(round);
        self.matched(from, matched);
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        leader.confirm_reads(common);
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        if received <= common.last().index && progress.received(received, common) {
            let next = progress.next;
            common.note(|_| format!("{from} has only received {received} -> probe from {next}"));
        }
    }

    /// A follower holds everything up to here durably.
    pub(crate) fn matched(&mut self, from: NodeId, matched: Index) {
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        if common.last().index < matched {
            common.dropped += 1;
            return common.note(|_| format!("{from} acknowledges {matched}, which we never sent"));
        }
        // In a probe, an answer at or above its `prev` is agreement.
        let agreed = progress.next.prev() <= matched;
        let news = progress.acknowledge(matched);
        if agreed {
            progress.replicate();
        }
        if news {
            self.advance_commit();
            self.hand_over();
        }
    }

    /// Commits what a quorum holds durably.
    pub(crate) fn advance_commit(&mut self) {
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        let me = common.config.id;
        // We count ourselves only up to what our own disk has synced.
        let durable = common.log.durable();
        let reached = quorum::reached(common.membership(), |id| {
            if id == me {
                return durable;
            }
            leader.progress.get(&id).map_or(Index::ZERO, |progress| progress.matched)
        });
        let Some(reached) = reached else { return };
        // Only entries of our own term are counted (thesis 3.6.2): an older one on a majority could
        // still be overwritten. Committing ours commits everything before it.
        if common.log.term_at(reached) != Some(common.hard_state.term) {
            return;
        }
        let was_ready = leader.ready(&common.log);
        if common.log.commit(reached) {
            common.note(|_| format!("commits {reached}"));
            if !leader.progress.is_empty() {
                leader.notice_deadline = leader.notice_deadline.min(common.now + NOTICE_WAIT);
            }
        }
        if !was_ready && leader.ready(&common.log) {
            leader.confirm_reads(common);
        }
    }
}
