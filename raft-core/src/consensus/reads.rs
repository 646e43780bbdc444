//! Linearizable reads without the log (thesis 6.4): the leader notes its commit index, proves by a
//! round of heartbeats that it still leads, and lets the read see what is applied up to there.
//!
//! Reads are batched: one round serves the reads that waited when it was *sent*, never one that
//! joins later (mutant 36). A follower asks the leader for an index in the same way and answers
//! locally.

use std::collections::VecDeque;

use super::event::Refusal;
use super::leader::Leader;
use super::quorum;
use super::raft::{Common, Raft, Role};
use crate::config::Config;
use crate::message::Body;
use crate::types::{Index, NodeId, ReadId, Time};

/// Who waits for a read index.
#[derive(Debug)]
enum Asker {
    Here(ReadId),
    Follower { id: NodeId, request: u64 },
}

/// Reads on a leader.
#[derive(Debug, Default)]
pub(crate) struct LeaderReads {
    /// Wait for the next round.
    waiting: Vec<Asker>,
    /// Rounds under way, oldest first.
    rounds: VecDeque<Round>,
    count: usize,
}

#[derive(Debug)]
struct Round {
    /// The heartbeat round that confirms it, and any later one.
    number: u64,
    /// What was committed when it was sent.
    index: Index,
    askers: Vec<Asker>,
}

/// Reads on a follower.
#[derive(Debug, Default)]
pub(crate) struct FollowerReads {
    /// Wait for the next question.
    waiting: Vec<ReadId>,
    /// The question under way.
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    request: u64,
    at: Time,
    reads: Vec<ReadId>,
}

impl LeaderReads {
    /// Leadership is over: nobody waits in vain.
    pub(crate) fn refuse_all(self, common: &mut Common, refusal: Refusal) {
        let under_way = self.rounds.into_iter().flat_map(|round| round.askers);
        for asker in under_way.chain(self.waiting) {
            match asker {
                Asker::Here(id) => common.out.effects.reads.push((id, Err(refusal))),
                Asker::Follower { id, request } => {
                    common.reply(id, request, Body::ReadIndexReply { index: None });
                }
            }
        }
    }
}

impl Leader {
    /// Begins a round for the reads that wait, if none is under way.
    pub(crate) fn begin_reads(&mut self, common: &mut Common) {
        if self.reads.waiting.is_empty()
            || !self.reads.rounds.is_empty()
            || !self.ready(&common.log)
        {
            return;
        }
        self.take_round(common);
        self.heartbeat(common);
        self.confirm_reads(common);
    }

    /// The reads that wait now are served by the round that is sent next.
    pub(crate) fn take_round(&mut self, common: &Common) {
        // Before an entry of our own term is committed we do not know what is (pitfall 53).
        if !self.reads.waiting.is_empty() && self.ready(&common.log) {
            self.reads.rounds.push_back(Round {
                number: self.round + 1,
                index: common.log.committed(),
                askers: std::mem::take(&mut self.reads.waiting),
            });
        }
    }

    /// Answers the reads of every round that a quorum has confirmed.
    pub(crate) fn confirm_reads(&mut self, common: &mut Common) {
        let me = common.config.id;
        let confirmed = quorum::reached(common.membership(), |id| {
            if id == me {
                return self.round;
            }
            self.progress.get(&id).map_or(0, |progress| progress.round)
        });
        let Some(confirmed) = confirmed else { return };
        while let Some(round) = self.reads.rounds.front()
            && round.number <= confirmed
            && let Some(round) = self.reads.rounds.pop_front()
        {
            self.reads.count -= round.askers.len();
            let Round { number, index, askers } = round;
            common.note(|_| {
                format!("still leads by round {number} -> {} reads at {index}", askers.len())
            });
            for asker in askers {
                match asker {
                    Asker::Here(id) => common.out.effects.reads.push((id, Ok(index))),
                    Asker::Follower { id, request } => {
                        common.reply(id, request, Body::ReadIndexReply { index: Some(index) });
                    }
                }
            }
        }
    }
}

impl FollowerReads {
    /// When a question without an answer is asked again.
    pub(crate) fn deadline(&self, config: &Config) -> Time {
        self.asked.as_ref().map_or(Time::NEVER, |asked| asked.at + config.heartbeat * 2)
    }

    /// Every read that still waits.
    pub(crate) fn into_all(self) -> impl Iterator<Item = ReadId> {
        self.asked.into_iter().flat_map(|asked| asked.reads).chain(self.waiting)
    }

    fn count(&self) -> usize {
        self.waiting.len() + self.asked.as_ref().map_or(0, |asked| asked.reads.len())
    }
}

impl super::follower::Follower {
    /// Asks the leader for a read index on behalf of all reads that wait, if no question is open.
    pub(crate) fn ask(&mut self, common: &mut Common) {
        let Some(leader) = self.leader else { return };
        if self.reads.waiting.is_empty() || self.reads.asked.is_some() {
            return;
        }
        let reads = std::mem::take(&mut self.reads.waiting);
        let request = common.request(leader, Body::ReadIndex);
        common.note(|_| format!("-> {leader} read index? for {} reads", reads.len()));
        self.reads.asked = Some(Asked { request, at: common.now, reads });
    }
}

impl Raft {
    /// Whether reads that come in now have to wait for the end of a round, or of a question.
    pub fn confirms_reads(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => !leader.reads.rounds.is_empty(),
            Role::Follower(follower) => follower.reads.asked.is_some(),
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }

    /// A client's read.
    pub(crate) fn read(&mut self, id: ReadId) {
        let refusal = match (&mut self.role, self.common.config.reads_max) {
            (Role::Leader(leader), max) if leader.reads.count < max => {
                leader.reads.waiting.push(Asker::Here(id));
                leader.reads.count += 1;
                return;
            }
            (Role::Follower(follower), max) => match follower.leader {
                Some(_) if follower.reads.count() < max => {
                    return follower.reads.waiting.push(id);
                }
                Some(_) => Refusal::Busy,
                None => Refusal::NotLeader { leader: None },
            },
            (Role::Leader(_), _) => Refusal::Busy,
            (Role::PreCandidate(_) | Role::Candidate(_), _) => Refusal::NotLeader { leader: None },
        };
        self.common.out.effects.reads.push((id, Err(refusal)));
    }

    /// A follower asks for an index.
    pub(crate) fn answer_read_index(&mut self, from: NodeId, request: u64) {
        match &mut self.role {
            Role::Leader(leader) if leader.reads.count < self.common.config.reads_max => {
                leader.reads.waiting.push(Asker::Follower { id: from, request });
                leader.reads.count += 1;
            }
            _ => self.common.reply(from, request, Body::ReadIndexReply { index: None }),
        }
    }

    /// The leader's word: our reads may be answered from this index on.
    pub(crate) fn read_index_answered(&mut self, request: u64, index: Option<Index>) {
        let Raft { common, role: Role::Follower(follower) } = self else { return };
        // Only the answer to the question that is open: an older one knows less (pitfall 54).
        let Some(asked) = follower.reads.asked.take_if(|asked| asked.request == request) else {
            return;
        };
        let verdict = index.ok_or(Refusal::NotLeader { leader: follower.leader });
        common.note(|_| match index {
            Some(index) => format!("{} reads may see {index}", asked.reads.len()),
            None => format!("{} reads refused by the leader", asked.reads.len()),
        });
        for id in asked.reads {
            common.out.effects.reads.push((id, verdict));
        }
    }

    /// A question without an answer is asked again, under a new id.
    pub(crate) fn ask_again(&mut self) {
        let Raft { common, role: Role::Follower(follower) } = self else { return };
        if common.now < follower.reads.deadline(&common.config) {
            return;
        }
        if let Some(asked) = follower.reads.asked.take() {
            let later = std::mem::replace(&mut follower.reads.waiting, asked.reads);
            follower.reads.waiting.extend(later);
        }
    }
}
