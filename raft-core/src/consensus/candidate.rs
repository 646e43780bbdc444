//! Elections (thesis 3.4, 3.6.1) with pre-vote (thesis 9.6): first ask whether one could win,
//! disturbing nobody; then ask for votes.

use std::collections::BTreeMap;
use std::mem;

use super::leader::Leader;
use super::quorum::{self, Tally};
use super::raft::{Common, Raft, Role};
use crate::message::{Body, Message};
use crate::types::{HardState, LogPosition, NodeId, Time};

/// What only a candidate knows, of either kind.
#[derive(Debug)]
pub(crate) struct Candidacy {
    /// When it begins anew.
    pub(crate) deadline: Time,
    /// The answers so far; our own is not among them.
    votes: BTreeMap<NodeId, bool>,
}

impl Candidacy {
    fn new(common: &mut Common) -> Candidacy {
        Candidacy { deadline: common.election_wait(), votes: BTreeMap::new() }
    }

    fn tally(&self, common: &Common, own: bool) -> Tally {
        quorum::tally(common.membership(), |id| {
            if id == common.config.id { own.then_some(true) } else { self.votes.get(&id).copied() }
        })
    }
}

impl Raft {
    /// Asks whether an election could be won. Changes neither term nor vote (pitfall 18).
    pub(crate) fn pre_campaign(&mut self) {
        let common = &mut self.common;
        let votes = common.membership().is_voter(common.config.id);
        if !votes || common.snapshots.installing() {
            // Who is no voter cannot win; who is replacing its log must not lead meanwhile.
            let wait = common.election_wait();
            if let Role::Follower(follower) = &mut self.role {
                follower.election_deadline = wait;
            }
            return;
        }
        let lost = self.leader();
        let candidacy = Candidacy::new(&mut self.common);
        let before = mem::replace(&mut self.role, Role::PreCandidate(candidacy));
        // Without a majority the question is repeated for as long as that lasts: once is news.
        let is_news = !matches!(before, Role::PreCandidate(_));
        let common = &mut self.common;
        common.tell(is_news, |c| match lost {
            Some(leader) => format!("hears nothing of {leader} -> pre-vote? last {}", c.last()),
            None => format!("knows no leader -> pre-vote? last {}", c.last()),
        });
        let last = common.last();
        common.ask_voters(|| Body::PreVote { last });
        self.leave(before);
        self.count_pre_votes();
    }

    /// Nobody won in time: begin anew. While our own vote is not durable a new term would only wait
    /// for the same disk again.
    pub(crate) fn candidacy_over(&mut self) {
        let Raft { common, role } = self;
        if let Role::Candidate(candidacy) = role
            && !common.out.hard_state_durable()
        {
            candidacy.deadline = common.election_wait();
            return;
        }
        self.pre_campaign();
    }

    /// Whether the asker could get our vote. A promise of nothing; term and vote stay.
    pub(crate) fn answer_pre_vote(&mut self, message: &Message, last: LogPosition) {
        let hears = self.hears_a_leader();
        let common = &mut self.common;
        // The election would be for the term after the asker's; it must be new to us.
        let new_term = common.hard_state.term <= message.term;
        let granted = new_term && !hears && common.last() <= last;
        common.note(|c| {
            let Message { from, term, .. } = message;
            let verdict = match (granted, hears, new_term) {
                (true, ..) => "yes",
                (_, true, _) => "no, we hear a leader",
                (_, _, false) => "no, its term is over",
                _ => "no, its log is behind",
            };
            format!("pre-vote? from {from}@{term} last {last}, ours {} -> {verdict}", c.last())
        });
        let reply = Body::PreVoteReply { granted, asked_in: message.term };
        common.reply(message.from, message.id, reply);
    }

    /// A grant for our current question.
    pub(crate) fn pre_vote_granted(&mut self, from: NodeId) {
        // A late one must not act on a leader, a follower or a real candidate (pitfall 20).
        if let Role::PreCandidate(candidacy) = &mut self.role {
            candidacy.votes.insert(from, true);
            self.count_pre_votes();
        }
    }

    fn count_pre_votes(&mut self) {
        if let Role::PreCandidate(candidacy) = &self.role
            && candidacy.tally(&self.common, true) == Tally::Won
        {
            self.campaign(false);
        }
    }

    /// Begins a term of its own and asks for votes. The requests leave before our own vote is
    /// durable; that vote counts only after.
    pub(crate) fn campaign(&mut self, transfer: bool) {
        let common = &mut self.common;
        assert!(common.membership().is_voter(common.config.id), "only voters campaign");
        let hard_state =
            HardState { term: common.hard_state.term.next(), vote: Some(common.config.id) };
        common.set_hard_state(hard_state);
        common.leader_contact = None;
        let candidacy = Candidacy::new(common);
        let before = mem::replace(&mut self.role, Role::Candidate(candidacy));
        let common = &mut self.common;
        common.tell(true, |c| {
            let asked = if transfer { ", asked by the leader" } else { "" };
            format!("campaigns, last {}{asked}", c.last())
        });
        let last = common.last();
        common.ask_voters(|| Body::RequestVote { last, transfer });
        self.leave(before);
        self.count_votes();
    }

    /// Somebody wants our vote in our term.
    pub(crate) fn answer_vote(&mut self, from: NodeId, id: u64, last: LogPosition) {
        let led = self.leader().is_some();
        let common = &mut self.common;
        let HardState { term, vote } = common.hard_state;
        // One vote in a term, and none for a log behind ours (thesis 3.6.1): together they keep
        // every committed entry in every later leader's log. Outstanding writes count as held.
        let free = vote.is_none_or(|voted| voted == from) && !led;
        let granted = free && common.last() <= last;
        common.note(|c| {
            let verdict = match (granted, free) {
                (true, _) => String::from("granted"),
                (false, true) => String::from("no, its log is behind"),
                (false, false) => match vote {
                    Some(voted) => format!("no, voted for {voted}"),
                    None => String::from("no, the term has a leader"),
                },
            };
            format!("vote? from {from} last {last}, ours {} -> {verdict}", c.last())
        });
        if !granted {
            return common.reply(from, id, Body::VoteReply { granted });
        }
        common.set_hard_state(HardState { term, vote: Some(from) });
        common.reply_after(common.out.hard_state_in(), from, id, Body::VoteReply { granted });
        let wait = common.election_wait();
        if let Role::Follower(follower) = &mut self.role {
            follower.election_deadline = wait;
        }
    }

    /// An answer to our request for a vote in this term.
    pub(crate) fn vote_answered(&mut self, from: NodeId, granted: bool) {
        if let Role::Candidate(candidacy) = &mut self.role {
            // A doubled or late answer never takes a grant back.
            let vote = candidacy.votes.entry(from).or_insert(granted);
            *vote |= granted;
            self.count_votes();
        }
    }

    /// Leads if a quorum voted for it, itself durably (pitfall 32).
    pub(crate) fn count_votes(&mut self) {
        let Raft { common, role: Role::Candidate(candidacy) } = self else { return };
        let own = common.out.hard_state_durable();
        if !own || candidacy.tally(common, own) != Tally::Won {
            return;
        }
        let voters: Vec<String> =
            candidacy.votes.iter().filter(|(_, yes)| **yes).map(|(id, _)| id.to_string()).collect();
        common.tell(true, |c| {
            let by = if voters.is_empty() { String::from("itself") } else { voters.join(" ") };
            format!("leads, elected by {by}, last {}", c.last())
        });
        let leader = Leader::new(common);
        let before = mem::replace(&mut self.role, Role::Leader(leader));
        self.leave(before);
        self.lead();
    }
}

impl Common {
    /// Sends a request to every other voter of either side.
    fn ask_voters(&mut self, body: impl Fn() -> Body) {
        let membership = self.membership();
        let voters: Vec<NodeId> =
            membership.voters().union(membership.outgoing()).copied().collect();
        for voter in voters {
            if voter != self.config.id {
                self.request(voter, body());
            }
        }
    }
}
