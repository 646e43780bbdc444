//! The core as a whole: what every role shares, the one gate for terms, and the dispatch by role.
//!
//! A role's own rules are in `follower`, `candidate` and `leader`; they only ever see messages of
//! the current term. Nothing here reads a clock, a file, a socket or a random source: time comes in
//! as an argument, chance from a seed.

use std::mem;
use std::time::Duration;

use super::candidate::Candidacy;
use super::event::{Effects, Event, Note, PeerStatus, Refusal, RoleName, Status, TransferFailure};
use super::follower::Follower;
use super::leader::Leader;
use super::log::Log;
use super::outbox::Outbox;
use super::random::Random;
use super::snapshot::Snapshots;
use crate::config::Config;
use crate::membership::Membership;
use crate::message::{AppendResult, Body, Message};
use crate::types::{HardState, Index, LogPosition, NodeId, Term, Time, WriteId};
use crate::write::Recovered;

/// How many forgotten entries are freed each time effects are taken: about 50 us of work.
const FREED_MAX: usize = 512;

/// One node's consensus: feed it what happens ([`Raft::step`]), carry out what it asks for
/// ([`Raft::take_effects`]), wake it in time ([`Raft::deadline`]).
#[derive(Debug)]
pub struct Raft {
    pub(crate) common: Common,
    pub(crate) role: Role,
}

/// What a node is, whatever its role.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) config: Config,
    pub(crate) now: Time,
    pub(crate) random: Random,
    pub(crate) hard_state: HardState,
    pub(crate) log: Log,
    pub(crate) out: Outbox,
    pub(crate) snapshots: Snapshots,
    /// When the leader of this term was last heard: for an election timeout after that we help
    /// nobody to unseat it (thesis 4.2.3).
    pub(crate) leader_contact: Option<Time>,
    /// Leadership was handed to this node, until then: waiting to see who leads next.
    pub(crate) handed_to: Option<(NodeId, Time)>,
    pub(crate) message_id: u64,
    pub(crate) dropped: u64,
    tracing: bool,
}

/// What a node does, with what only that role needs.
#[derive(Debug)]
pub(crate) enum Role {
    /// Follows a leader, or waits for one.
    Follower(Follower),
    /// Asks whether it could win, disturbing nobody (thesis 9.6).
    PreCandidate(Candidacy),
    /// Asks for votes (thesis 3.4).
    Candidate(Candidacy),
    /// Leads (thesis 3.5).
    Leader(Leader),
}

impl Raft {
    /// A node as its disk left it: a follower that knows no leader.
    pub fn new(config: Config, recovered: Recovered, now: Time) -> Raft {
        if let Some(fault) = config.fault() {
            panic!("the configuration does not fit together: {fault}");
        }
        let mut random = Random::new(config.seed);
        // Ids must differ from those of an earlier run in the same term, or an answer to that run
        // could pass for an answer to this one (pitfall 54).
        let message_id = random.next() >> 2;
        let restore = recovered.snapshot.clone();
        let mut log = Log::recovered(
            recovered.snapshot.unwrap_or_default(),
            recovered.log_start,
            recovered.entries,
        );
        log.keep_tail(config.tail_bytes);
        let mut common = Common {
            now,
            hard_state: recovered.hard_state,
            log,
            out: Outbox::default(),
            snapshots: Snapshots::new(restore.as_ref()),
            leader_contact: None,
            handed_to: None,
            message_id,
            dropped: 0,
            tracing: false,
            random,
            config,
        };
        common.out.effects.restore = restore;
        let mut follower = Follower::new(&mut common, None);
        if common.is_alone() {
            // Nobody else can lead, so there is nobody to wait for.
            follower.election_deadline = now;
        }
        Raft { common, role: Role::Follower(follower) }
    }

    /// Takes anything that can happen. `now` never goes back.
    pub fn step(&mut self, now: Time, event: Event) {
        self.common.now = self.common.now.max(now);
        match event {
            Event::Wake => self.wake(),
            Event::Receive(message) => self.receive(message),
            Event::Propose { id, command } => self.propose(id, command),
            Event::Read { id } => self.read(id),
            Event::Persisted(id) => self.persisted(id),
            Event::InstallFailed(position) => self.install_failed(position),
            Event::Restored(position) => self.restored(position),
            Event::SnapshotWritten(meta) => self.snapshot_written(meta),
            Event::Chunk { request, data } => self.chunk(request, data),
            Event::PeerDown(peer) => self.peer_down(peer),
            Event::Transfer { to } => self.transfer(to),
        }
    }

    /// What the steps so far ask for. All of it may be carried out at once; see [`Effects`].
    pub fn take_effects(&mut self) -> Effects {
        // Here, and not at every step: what came in since the last time leaves together.
        match &mut self.role {
            Role::Leader(leader) => {
                leader.begin_reads(&mut self.common);
                leader.replicate(&mut self.common);
            }
            Role::Follower(follower) => follower.ask(&mut self.common),
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
        let Common { log, out, config, snapshots, .. } = &mut self.common;
        out.effects.write = out.take_write(log, snapshots.installing());
        if !snapshots.restoring() {
            out.effects.apply = log.take_committed(config.apply_bytes_max);
        }
        log.free_forgotten(FREED_MAX);
        mem::take(&mut out.effects)
    }

    /// When [`Event::Wake`] is next useful.
    pub fn deadline(&self) -> Time {
        let Common { log, snapshots, now, handed_to, .. } = &self.common;
        if !snapshots.restoring() && log.applied() < log.committed() {
            return *now;
        }
        let role = match &self.role {
            Role::Follower(follower) => follower.deadline(&self.common),
            Role::PreCandidate(candidacy) | Role::Candidate(candidacy) => candidacy.deadline,
            Role::Leader(leader) => leader.deadline(),
        };
        handed_to.map_or(role, |(_, until)| role.min(until))
    }

    /// Whether every decision is told in [`Effects::notes`], or only changes of role.
    pub fn trace(&mut self, on: bool) {
        self.common.tracing = on;
    }

    /// A look from outside.
    pub fn status(&self) -> Status {
        let Common { config, hard_state, log, dropped, .. } = &self.common;
        let (ready, peers) = match &self.role {
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => (false, Vec::new()),
            Role::Leader(leader) => (
                leader.ready(log),
                leader
                    .progress
                    .iter()
                    .map(|(id, progress)| PeerStatus {
                        id: *id,
                        matched: progress.matched,
                        next: progress.next,
                        inflight_bytes: progress.inflight_bytes(),
                        state: progress.state_name(),
                        contact: progress.contact,
                    })
                    .collect(),
            ),
        };
        Status {
            id: config.id,
            role: self.role_name(),
            term: hard_state.term,
            leader: self.leader(),
            contact: self.contact(),
            snapshot: log.snapshot().position,
            last: log.last(),
            durable: log.durable(),
            committed: log.committed(),
            applied: log.applied(),
            ready,
            membership: log.membership().clone(),
            peers,
            dropped: *dropped,
        }
    }

    /// The part this node plays.
    pub fn role_name(&self) -> RoleName {
        match &self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// This node's term.
    pub fn term(&self) -> Term {
        self.common.hard_state.term
    }

    /// Who got this node's vote in its term.
    pub fn vote(&self) -> Option<NodeId> {
        self.common.hard_state.vote
    }

    /// The log and its cursors.
    pub fn log(&self) -> &Log {
        &self.common.log
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.common.config.id),
        }
    }

    /// When a message of the leader last came in (of a quorum, on the leader itself).
    pub fn contact(&self) -> Option<Time> {
        let Common { config, log, leader_contact, now, .. } = &self.common;
        match &self.role {
            Role::Leader(leader) => leader.quorum_contact(config.id, log.membership(), *now),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => *leader_contact,
        }
    }

    fn wake(&mut self) {
        let now = self.common.now;
        if let Some((_, until)) = self.common.handed_to
            && until <= now
        {
            self.common.handed_to = None;
            self.common.out.effects.transfers.push(Err(TransferFailure::TimedOut));
        }
        match &self.role {
            Role::Follower(follower) if follower.election_deadline <= now => self.pre_campaign(),
            Role::Follower(_) => self.ask_again(),
            Role::PreCandidate(candidacy) | Role::Candidate(candidacy) => {
                if candidacy.deadline <= now {
                    self.candidacy_over();
                }
            }
            Role::Leader(_) => self.lead(),
        }
    }

    /// The one gate for terms (thesis 3.3), then dispatch: behind it every message is of our term,
    /// except pre-votes, which belong to no term.
    fn receive(&mut self, message: Message) {
        let common = &mut self.common;
        let (ours, theirs) = (common.hard_state.term, message.term);
        if message.to != common.config.id || message.from == common.config.id {
            return common.drop(&message, "it is not for us");
        }
        match &message.body {
            Body::PreVote { last } => return self.answer_pre_vote(&message, *last),
            Body::PreVoteReply { granted: true, asked_in }
                if *asked_in == ours && theirs <= ours =>
            {
                return self.pre_vote_granted(message.from);
            }
            Body::RequestVote { transfer: false, .. } if ours < theirs && self.hears_a_leader() => {
                // A node that was cut off must not unseat a leader that others hear
                // (thesis 4.2.3): its term is not even looked at.
                // It gets an answer, of an older term for it, only so that nothing waits for one.
                self.common.drop(&message, "we hear a leader");
                let refusal = Body::VoteReply { granted: false };
                return self.common.reply(message.from, message.id, refusal);
            }
            _ => {}
        }
        if theirs < ours {
            return self.answer_old_term(&message);
        }
        if ours < theirs {
            let leader = message.body.is_from_leader().then_some(message.from);
            self.become_follower(theirs, leader, "a higher term");
        }
        self.dispatch(message);
    }

    fn dispatch(&mut self, message: Message) {
        if message.body.is_from_leader() && !self.accept_leader(message.from) {
            return self.common.drop(&message, "another node leads this term");
        }
        let Message { from, id, body, .. } = message;
        match body {
            Body::RequestVote { last, .. } => self.answer_vote(from, id, last),
            Body::VoteReply { granted } => self.vote_answered(from, granted),
            Body::Append { prev, entries, commit } => {
                self.append(from, id, prev, entries, commit);
            }
            Body::AppendReply { result } => self.append_answered(from, result),
            Body::Heartbeat { round, commit } => self.heartbeat(from, id, round, commit),
            Body::HeartbeatReply { round, matched, received } => {
                self.heartbeat_answered(from, round, matched, received);
            }
            Body::InstallSnapshot { meta, offset, data } => {
                self.install_snapshot(from, id, meta, offset, data);
            }
            Body::SnapshotReply { position, next_offset } => {
                self.snapshot_answered(from, position, next_offset);
            }
            Body::TimeoutNow { last } => self.timeout_now(from, last),
            Body::ReadIndex => self.answer_read_index(from, id),
            Body::ReadIndexReply { index } => self.read_index_answered(id, index),
            // A refusal of our own term (or of a question asked in an older one) says nothing.
            Body::PreVoteReply { .. } => {}
            Body::PreVote { .. } => unreachable!("answered before the gate"),
        }
    }

    /// A request of an older term: tell the sender ours, so that it steps down. Answers of an older
    /// term are nothing to us (mutant 12).
    fn answer_old_term(&mut self, message: &Message) {
        let body = match &message.body {
            Body::RequestVote { .. } => Body::VoteReply { granted: false },
            // In these answers the term is the message.
            Body::Append { .. } => Body::AppendReply {
                result: AppendResult::Conflict { prev: Index::ZERO, hint: LogPosition::ORIGIN },
            },
            Body::Heartbeat { .. } => {
                Body::HeartbeatReply { round: 0, matched: Index::ZERO, received: Index::ZERO }
            }
            Body::InstallSnapshot { meta, .. } => {
                Body::SnapshotReply { position: meta.position, next_offset: Some(0) }
            }
            Body::ReadIndex => Body::ReadIndexReply { index: None },
            _ => return self.common.drop(message, "its term is over"),
        };
        self.common.dropped += 1;
        self.common.note(|_| {
            let Message { from, term, body, .. } = message;
            format!("{} from {from}@{term} is of an old term -> say so", body.kind())
        });
        self.common.reply(message.from, message.id, body);
    }

    /// A message only a leader of our term sends: whoever else we were, we follow it now. `false`
    /// when that cannot be, because this term has another leader.
    fn accept_leader(&mut self, from: NodeId) -> bool {
        let term = self.common.hard_state.term;
        match &self.role {
            Role::Leader(_) => return false,
            Role::Follower(follower) => match follower.leader {
                Some(leader) if leader != from => return false,
                Some(_) => {}
                None => self.become_follower(term, Some(from), "it leads"),
            },
            Role::PreCandidate(_) | Role::Candidate(_) => {
                self.become_follower(term, Some(from), "it leads");
            }
        }
        self.common.leader_contact = Some(self.common.now);
        let wait = self.common.election_wait();
        if let Role::Follower(follower) = &mut self.role {
            follower.election_deadline = wait;
        }
        true
    }

    /// Whether a leader was heard so recently that nobody may be helped to unseat it. A leader hears
    /// itself: it steps down by its own rule when it loses its quorum.
    pub(crate) fn hears_a_leader(&self) -> bool {
        let Common { leader_contact, config, now, .. } = &self.common;
        let heard = leader_contact.is_some_and(|at| *now < at + config.election_timeout_min);
        matches!(self.role, Role::Leader(_)) || heard
    }

    /// Follows `leader` (or nobody yet) in `term`, ours or a higher one.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>, why: &str) {
        let was = self.role_name();
        let common = &mut self.common;
        assert!(common.hard_state.term <= term, "a term never goes back");
        if common.hard_state.term < term {
            common.set_hard_state(HardState { term, vote: None });
            common.leader_contact = None;
        }
        let follower = Follower::new(common, leader);
        let before = mem::replace(&mut self.role, Role::Follower(follower));
        let heading = match leader {
            Some(leader) => format!("follows {leader}"),
            None => String::from("follows nobody yet"),
        };
        let told = was != RoleName::Follower || leader.is_some();
        self.common.tell(told, |_| format!("{} {heading}: {why}", was.as_str()));
        self.leave(before);
        if let (Some(leader), Some(_)) = (leader, self.common.handed_to) {
            self.common.handed_to = None;
            self.common.out.effects.transfers.push(Ok(leader));
        }
    }

    /// What a role leaves behind: its waiting reads are refused, a transfer waits for its outcome.
    pub(crate) fn leave(&mut self, before: Role) {
        let refusal = Refusal::NotLeader { leader: self.leader() };
        let common = &mut self.common;
        match before {
            Role::Leader(leader) => {
                if let Some(transfer) = &leader.transfer {
                    common.handed_to = Some((transfer.to, transfer.until));
                }
                leader.reads.refuse_all(common, refusal);
            }
            Role::Follower(follower) => {
                for id in follower.reads.into_all() {
                    common.out.effects.reads.push((id, Err(refusal)));
                }
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }

    /// This write and all before it are synced: whatever waited for that goes on.
    fn persisted(&mut self, id: WriteId) {
        let durable = self.common.out.persist(id);
        // Claims above what was cut since are capped already; see Outbox::cap_claims.
        self.common.log.set_durable(durable);
        self.snapshot_persisted();
        match &self.role {
            Role::Follower(_) => self.acknowledge(),
            Role::PreCandidate(_) => {}
            Role::Candidate(_) => self.count_votes(),
            Role::Leader(_) => self.advance_commit(),
        }
    }

    fn peer_down(&mut self, peer: NodeId) {
        let wait = self.common.random.between(Duration::ZERO, PEER_DOWN_WAIT_MAX);
        match &mut self.role {
            Role::Follower(follower) if follower.leader == Some(peer) => {
                // Until this leader's next message it does not count as heard.
                self.common.leader_contact = None;
                let soon = self.common.now + wait;
                follower.election_deadline = follower.election_deadline.min(soon);
                self.common.tell(true, |_| format!("leader {peer} is gone"));
            }
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {}
            // What was under way to it is lost with its process.
            Role::Leader(leader) => leader.lost(peer),
        }
    }
}

/// How long followers of a crashed leader wait at most before they ask for votes: long enough that
/// they rarely ask at once, short enough not to be noticed.
const PEER_DOWN_WAIT_MAX: Duration = Duration::from_millis(50);

impl Common {
    /// Sets term and vote; what was withheld in an older term is dropped (mutant 33).
    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        let before = self.hard_state;
        assert!(before.term <= hard_state.term, "a term never goes back");
        assert!(
            before.term < hard_state.term || before.vote.is_none() || before == hard_state,
            "one vote in a term"
        );
        if before.term < hard_state.term {
            self.out.drop_withheld();
        }
        if before != hard_state {
            self.hard_state = hard_state;
            self.out.write_hard_state(hard_state);
        }
    }

    /// When a follower or candidate that hears nothing from now on campaigns.
    pub(crate) fn election_wait(&mut self) -> Time {
        let least = self.config.election_timeout_min;
        self.now + self.random.between(least, least * 2)
    }

    /// Whether this node alone decides.
    pub(crate) fn is_alone(&self) -> bool {
        let membership = self.log.membership();
        let alone = |id: &NodeId| *id == self.config.id;
        !membership.voters().is_empty()
            && membership.voters().iter().all(alone)
            && membership.outgoing().iter().all(alone)
    }

    /// Sends a request under a new id; returns the id.
    pub(crate) fn request(&mut self, to: NodeId, body: Body) -> u64 {
        self.message_id += 1;
        let message = self.message(to, self.message_id, body);
        self.out.send(message);
        self.message_id
    }

    /// Answers a request, now.
    pub(crate) fn reply(&mut self, to: NodeId, id: u64, body: Body) {
        let message = self.message(to, id, body);
        self.out.send(message);
    }

    /// Answers a request once `after` is synced, if the term is still the same then.
    pub(crate) fn reply_after(&mut self, after: WriteId, to: NodeId, id: u64, body: Body) {
        let message = self.message(to, id, body);
        self.out.send_after(after, message);
    }

    fn message(&self, to: NodeId, id: u64, body: Body) -> Message {
        Message { from: self.config.id, to, term: self.hard_state.term, id, body }
    }

    /// A message that must not change anything.
    pub(crate) fn drop(&mut self, message: &Message, why: &str) {
        self.dropped += 1;
        self.note(|_| {
            format!("{} from {}@{} dropped: {why}", message.body.kind(), message.from, message.term)
        });
    }

    /// A line for readers of transcripts.
    pub(crate) fn note(&mut self, text: impl FnOnce(&Common) -> String) {
        self.tell(false, text);
    }

    /// A line for operators too, when it is important.
    pub(crate) fn tell(&mut self, important: bool, text: impl FnOnce(&Common) -> String) {
        if important || self.tracing {
            let text = format!("{}@{} {}", self.config.id, self.hard_state.term, text(self));
            self.out.effects.notes.push(Note { important, text });
        }
    }

    /// The membership in force.
    pub(crate) fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// Our last entry.
    pub(crate) fn last(&self) -> LogPosition {
        self.log.last()
    }
}
