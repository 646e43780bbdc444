//! The rounds of hellos that turn fresh nodes into a cluster, and the verdict they come to.
//!
//! Why at most one cluster can come of it: a node forms with digest `d` only if every other member
//! answered "fresh, `d`" to a question asked *after* this node's own set had become `d`, and any
//! change of the set begins a new round. So of two members that formed different clusters, each
//! would have to have said the other's digest before its own set became what it formed with, which
//! cannot be true of both. A node that has decided never changes its set again.
//!
//! Never asks on its own, never tells the time, never writes: the shell carries the questions and
//! makes the verdict durable.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::membership::Membership;
use raft_core::types::{ClusterId, NodeId, Time};

use super::{Hello, Identity, PROTOCOL, PeerSpec, Standing, explain, formation_of};

/// How long a hello may take before it counts as not answered.
const ASK_TIMEOUT: Duration = Duration::from_millis(1000);
/// The least time between two rounds that learn nothing new.
const ROUND_EVERY: Duration = Duration::from_millis(150);

/// A fresh node on its way into a cluster.
#[derive(Debug)]
pub struct Forming {
    me: Identity,
    version: String,
    pub(super) peers: Vec<Peer>,
    /// Numbers the rounds; a round begins when the set changes, or when the one before has ended.
    round: u64,
    round_began: Time,
    last_ask: u64,
    /// What the set known now would form; `None` while somebody has not answered.
    candidate: Option<Formation>,
    verdict: Verdict,
    /// Since when the verdict has been this one, reason included.
    since: Time,
}

/// One address of `--peers`.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) spec: PeerSpec,
    /// The one question under way.
    asking: Option<Asking>,
    /// The round this address was last asked in.
    asked_in: u64,
    /// The newest answer and the round in which it was *asked for*.
    pub(super) answer: Option<(u64, Hello)>,
    /// Why the newest question was not answered.
    pub(super) failure: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Asking {
    ask: u64,
    round: u64,
    sent: Time,
}

/// A question to carry: `GET /raft/hello` at this address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// To be repeated with the answer.
    pub ask: u64,
    /// Whom to ask.
    pub address: String,
}

/// A membership and the cluster id that is its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formation {
    /// Entry 1 of term 1.
    pub membership: Membership,
    /// The cluster's id.
    pub cluster: ClusterId,
}

/// Where forming stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet, and why: a sentence for the log and `/health`.
    Wait(String),
    /// All agree: write this as entry 1 of term 1, sync, then the cluster id, sync.
    Form(Formation),
    /// A peer has formed with exactly our set: write the same.
    Adopt(Formation),
}

impl Forming {
    /// Begins to form with these peers; `version` is the program's, for people.
    pub fn new(me: Identity, peers: Vec<PeerSpec>, version: &str, now: Time) -> Forming {
        let mut distinct: BTreeMap<String, PeerSpec> = BTreeMap::new();
        for spec in peers {
            distinct.entry(spec.address.clone()).or_insert(spec);
        }
        let peers = distinct.into_values().map(Peer::new).collect();
        let mut forming = Forming {
            me,
            version: version.to_owned(),
            peers,
            round: 1,
            round_began: now,
            last_ask: 0,
            candidate: None,
            verdict: Verdict::Wait(String::new()),
            since: now,
        };
        forming.judge(now);
        forming
    }

    /// Time has passed. Returns the questions to ask now, at most one per address at a time.
    pub fn wake(&mut self, now: Time) -> Vec<Ask> {
        for peer in &mut self.peers {
            if peer.asking.is_some_and(|asking| asking.sent + ASK_TIMEOUT <= now) {
                peer.fail(format!("no answer within {} s", ASK_TIMEOUT.as_secs()));
            }
        }
        if self.round_is_over() && self.round_began + ROUND_EVERY <= now {
            self.begin_round(now);
        }
        self.judge(now);
        if self.is_decided() {
            return Vec::new();
        }
        let mut asks = Vec::new();
        for peer in &mut self.peers {
            if peer.asking.is_none() && peer.asked_in < self.round {
                self.last_ask += 1;
                peer.asked_in = self.round;
                peer.asking = Some(Asking { ask: self.last_ask, round: self.round, sent: now });
                asks.push(Ask { ask: self.last_ask, address: peer.spec.address.clone() });
            }
        }
        asks
    }

    /// A question was answered, or could not be. What comes after its time-out is dropped. Call
    /// [`wake`](Forming::wake) next: a changed set is asked about at once.
    pub fn answered(&mut self, now: Time, ask: u64, answer: Result<Hello, String>) {
        let under_way =
            self.peers.iter_mut().find(|peer| peer.asking.is_some_and(|asking| asking.ask == ask));
        let Some(peer) = under_way else { return };
        match answer {
            Ok(hello) => {
                let asking = peer.asking.take().expect("it was found by its question");
                peer.answer = Some((asking.round, hello));
                peer.failure = None;
            }
            Err(error) => peer.fail(error),
        }
        self.judge(now);
    }

    /// When [`wake`](Forming::wake) is next useful; [`Time::NEVER`] once decided.
    pub fn deadline(&self) -> Time {
        if self.is_decided() {
            return Time::NEVER;
        }
        if self.peers.iter().any(|peer| peer.asking.is_none() && peer.asked_in < self.round) {
            return Time(0);
        }
        let timeouts = self.peers.iter().filter_map(|peer| peer.asking);
        let timeout = timeouts.map(|asking| asking.sent + ASK_TIMEOUT).min();
        timeout.unwrap_or(self.round_began + ROUND_EVERY)
    }

    /// Where it stands. A decision is never taken back.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Since when it has stood there, for the same reason.
    pub fn since(&self) -> Time {
        self.since
    }

    /// What to answer when others ask, until the decision is durable.
    pub fn hello(&self) -> Hello {
        Hello {
            identity: self.me.clone(),
            standing: Standing::Fresh { digest: self.digest() },
            set: self.known().into_values().collect(),
            peers: self.peers.iter().map(|peer| peer.spec.address.clone()).collect(),
            protocol: PROTOCOL,
            version: self.version.clone(),
        }
    }

    /// Draws the conclusions from all answers so far.
    fn judge(&mut self, now: Time) {
        if self.is_decided() {
            return;
        }
        let candidate = self.candidate();
        if candidate != self.candidate {
            // Whatever was confirmed was confirmed of another set.
            self.candidate = candidate;
            self.begin_round(now);
        }
        let verdict = match &self.candidate {
            Some(formation) if self.is_formed_as(formation.cluster) => {
                Verdict::Adopt(formation.clone())
            }
            Some(formation) if self.all_confirm(formation.cluster) => {
                Verdict::Form(formation.clone())
            }
            _ => Verdict::Wait(explain::why(self)),
        };
        if verdict != self.verdict {
            self.verdict = verdict;
            self.since = now;
        }
    }

    /// The cluster our set would be, if every address has answered and nothing forbids it.
    fn candidate(&self) -> Option<Formation> {
        let complete = self.peers.iter().all(|peer| peer.answer.is_some());
        let known = self.known();
        let fits = complete && 2 <= known.len() && explain::obstacle(self).is_none();
        fits.then(|| formation_of(&known.into_values().collect::<Vec<_>>()))
    }

    /// Whether a peer has already formed the very cluster we would.
    fn is_formed_as(&self, digest: ClusterId) -> bool {
        self.others().any(|(_, hello)| hello.standing == Standing::Formed { cluster: digest })
    }

    /// Whether every address has answered "fresh, and with this digest" in this very round. Our own
    /// address in `--peers` confirms nothing and need not.
    fn all_confirm(&self, digest: ClusterId) -> bool {
        self.others().all(|(round, hello)| {
            round == self.round && hello.standing == Standing::Fresh { digest: Some(digest) }
        })
    }

    /// Everybody known by an answer of its own, ourselves included. One id counts once, at however
    /// many addresses it answers.
    pub(super) fn known(&self) -> BTreeMap<NodeId, Identity> {
        let mut known: BTreeMap<NodeId, Identity> = BTreeMap::new();
        for (_, hello) in self.others() {
            known.insert(hello.identity.node_id, hello.identity.clone());
        }
        known.insert(self.me.node_id, self.me.clone());
        known
    }

    /// The newest answers of everybody but ourselves, each with its round.
    pub(super) fn others(&self) -> impl Iterator<Item = (u64, &Hello)> {
        let answers = self.peers.iter().filter_map(|peer| peer.answer.as_ref());
        answers
            .filter(|(_, hello)| hello.identity.node_id != self.me.node_id)
            .map(|(round, hello)| (*round, hello))
    }

    pub(super) fn me(&self) -> &Identity {
        &self.me
    }

    pub(super) fn digest(&self) -> Option<ClusterId> {
        self.candidate.as_ref().map(|formation| formation.cluster)
    }

    fn is_decided(&self) -> bool {
        !matches!(self.verdict, Verdict::Wait(_))
    }

    fn begin_round(&mut self, now: Time) {
        self.round += 1;
        self.round_began = now;
    }

    fn round_is_over(&self) -> bool {
        self.peers.iter().all(|peer| peer.asking.is_none() && peer.asked_in == self.round)
    }
}

impl Peer {
    fn new(spec: PeerSpec) -> Peer {
        Peer { spec, asking: None, asked_in: 0, answer: None, failure: None }
    }

    fn fail(&mut self, error: String) {
        self.asking = None;
        self.failure = Some(error);
    }
}
