//! One node as its HTTP shell sees it: who it is, whether it has a cluster yet, and the way from a
//! request to its answer. The rules of that way are in `kv::service`; this file only waits for what
//! they ask for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use carp::Ownership;
use raft_core::consensus::event::RoleName;
use raft_core::node::{Handle, NodeEvent, NodeStatus};
use raft_core::types::{ClusterId, Index, NodeId, Time};
use tokio::sync::watch;
use warp::http::HeaderValue;

use crate::config::HttpLimits;
use crate::form::{Hello, Identity, PROTOCOL, PeerSpec, Standing, Verdict};
use crate::http::bell::together;
use crate::http::body::Budget;
use crate::http::reply::Teller;
use crate::kv::request::{Answer, Failure, Outcome, Reason, Request};
use crate::kv::service::{Call, Forwarded, Input, Limits, Phase, Step, View};
use crate::kv::shared::SharedStore;
use crate::metrics::HttpMetrics;
use crate::peers::{Peers, SharedForming};
use crate::shard::links::Answered;
use crate::shard::{Shard, follow};

/// How often the commit index is noted, for "what was committed a second ago is applied here".
const SAMPLE: Duration = Duration::from_millis(250);
/// How old a commit has to be before not having applied it is a fault.
const APPLIED_WITHIN: Duration = Duration::from_secs(1);
/// How often a wait for a leader has a look itself, should it have missed the news.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Slack given to another node to answer in time before we stop waiting for it.
const FORWARD_SLACK: Duration = Duration::from_millis(200);

/// A node, from its first second to its last. Shared by everything that serves it.
pub struct Daemon {
    /// The name people call it.
    pub name: String,
    /// Its disk.
    pub node_id: NodeId,
    /// `host:port` where others reach it.
    pub address: String,
    /// The largest value, in bytes.
    pub value_bytes_max: u64,
    /// What clients may take of the shell.
    pub limits: HttpLimits,
    /// What large bodies hold.
    pub bodies: Budget,
    /// When it was started.
    pub started: Instant,
    /// What the shell counts.
    pub metrics: HttpMetrics,
    /// Its name as a header.
    pub served_by: HeaderValue,
    /// The array of clusters, as this node lives in it.
    pub shard: Shard,
    /// What it was started with, as `/config` shows it.
    pub settings: serde_json::Value,
    /// Set as soon as the disk says so, which is before the node serves.
    cluster: OnceLock<ClusterId>,
    serving: OnceLock<Serving>,
    forming: OnceLock<SharedForming>,
    stopping: AtomicBool,
    /// Ticks with each piece of news about leadership.
    leadership: watch::Sender<()>,
}

/// Who asks: nobody in particular is a plain client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// How often the request was handed on before it came here.
    pub hops: u8,
    /// The epoch of the client's own map of the array, if it keeps one.
    pub epoch: Option<u64>,
}

/// A node that belongs to a cluster.
pub struct Serving {
    /// Its cluster.
    pub cluster: ClusterId,
    /// The Raft node.
    pub handle: Handle<SharedStore>,
    /// What the log drives.
    pub store: SharedStore,
    /// The way to the others.
    pub peers: Peers,
    /// When the leader was last heard (0: never), kept while the core knows none.
    heard: AtomicU64,
    /// The commit index of the last seconds, oldest first.
    commits: Mutex<VecDeque<(Instant, Index)>>,
}

impl Daemon {
    /// A node that belongs to no cluster yet.
    pub fn new(
        name: String,
        node_id: NodeId,
        address: String,
        value_bytes_max: u64,
        limits: HttpLimits,
        shard: Shard,
        settings: serde_json::Value,
    ) -> Daemon {
        let bodies = Budget::new(limits.bodies_bytes_max);
        // A name is made of letters, digits, dots, dashes and underscores (`config`).
        let served_by = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("?"));
        Daemon {
            served_by,
            name,
            node_id,
            address,
            value_bytes_max,
            limits,
            bodies,
            started: Instant::now(),
            metrics: HttpMetrics::default(),
            shard,
            settings,
            cluster: OnceLock::new(),
            serving: OnceLock::new(),
            forming: OnceLock::new(),
            stopping: AtomicBool::new(false),
            leadership: watch::channel(()).0,
        }
    }

    /// The node, once it belongs to a cluster.
    pub fn serving(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// The node belongs to a cluster from now on. Watches it until it ends; must be called inside
    /// the runtime, once.
    pub fn serve(self: &Arc<Daemon>, serving: Serving) {
        let events = serving.handle.events();
        assert!(self.serving.set(serving).is_ok(), "a node joins one cluster only");
        tokio::spawn(watch_events(Arc::clone(self), events));
        tokio::spawn(sample_commits(Arc::clone(self)));
        tokio::spawn(follow::follow(Arc::clone(self)));
    }

    /// The node is on its way into a cluster of several from now on.
    pub fn forms(&self, forming: SharedForming) {
        let _ = self.forming.set(forming);
    }

    /// The node's disk belongs to this cluster. Until it serves it says so to whoever asks.
    pub fn formed(&self, cluster: ClusterId) {
        let _ = self.cluster.set(cluster);
    }

    /// Why there is no cluster yet, and for how long that has been so.
    pub fn waiting(&self) -> (String, Duration) {
        let Some(forming) = self.forming.get().filter(|_| self.cluster.get().is_none()) else {
            return ("reading the log back".to_owned(), self.started.elapsed());
        };
        let forming = forming.lock().unwrap_or_else(PoisonError::into_inner);
        match forming.verdict() {
            Verdict::Wait(why) => {
                // Its clock began with the forming, which began with the node.
                let since = Duration::from_nanos(forming.since().0);
                (why.clone(), self.started.elapsed().saturating_sub(since))
            }
            Verdict::Form(_) | Verdict::Adopt(_) => {
                ("the members agree, the log is being made".to_owned(), Duration::ZERO)
            }
        }
    }

    /// What this node says of itself to whoever asks; `listed` are its `--peers`.
    pub fn hello(&self, listed: &[PeerSpec]) -> Hello {
        let me = Identity {
            node_id: self.node_id,
            name: self.name.clone(),
            address: self.address.clone(),
        };
        let Some(cluster) = self.cluster.get().copied() else {
            if let Some(forming) = self.forming.get() {
                return forming.lock().unwrap_or_else(PoisonError::into_inner).hello();
            }
            return self.hello_as(me.clone(), Standing::Fresh { digest: None }, vec![me], listed);
        };
        let mut set = vec![me.clone()];
        if let Some(serving) = self.serving() {
            let status = serving.handle.status();
            let members = status.core.membership.members();
            set = members
                .map(|(node_id, member)| Identity {
                    node_id,
                    name: member.name.clone(),
                    address: member.address.clone(),
                })
                .collect();
        }
        self.hello_as(me, Standing::Formed { cluster }, set, listed)
    }

    fn hello_as(
        &self,
        me: Identity,
        standing: Standing,
        set: Vec<Identity>,
        listed: &[PeerSpec],
    ) -> Hello {
        Hello {
            identity: me,
            standing,
            set,
            peers: listed.iter().map(PeerSpec::to_string).collect(),
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// No request is let in from now on; those that were go on as long as the node does.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the node is on its way out.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The store's revision here; 0 without a cluster.
    pub fn revision(&self) -> u64 {
        self.serving().map_or(0, |serving| serving.store.revision())
    }

    /// What of the node stands in its problems.
    pub fn teller(&self) -> Teller {
        let Some(serving) = self.serving() else {
            return Teller { node: self.name.clone(), ..Teller::default() };
        };
        let status = serving.handle.status();
        Teller {
            node: self.name.clone(),
            leader: leader_url(&status),
            term: status.core.term.0,
            revision: serving.store.revision(),
        }
    }

    /// Answers a request of a client or of another node, by `deadline`.
    ///
    /// # Errors
    /// Why not, and for a write whether it may still happen.
    pub async fn ask(
        &self,
        request: Request,
        deadline: Instant,
        asker: Asker,
    ) -> Result<Answer, Failure> {
        let Some(serving) = self.serving() else {
            let outcome = request.is_write().then_some(Outcome::NotApplied);
            return Err(Failure { reason: Reason::Forming, outcome });
        };
        let handle = &serving.handle;
        let limits = Limits { value_bytes_max: self.value_bytes_max };
        let mut call = Call::new(request, handle.time_of(deadline), asker.hops, limits)
            .with_client_epoch(asker.epoch);
        let mut input = Input::Begin;
        // One look at the clock per step: many of them would cost more than the steps.
        let mut now = Instant::now();
        loop {
            let owns = serving.store.ownership();
            let view = self.view(serving, &handle.status(), owns.as_deref());
            input = match call.step(handle.time_of(now), &view, input) {
                Step::Answer(result) => {
                    if let Err(Failure { reason: Reason::Moved(_), .. }) = &result {
                        self.shard.misdirected.fetch_add(1, Ordering::Relaxed);
                    }
                    return result;
                }
                Step::Read => match call.read(&serving.store) {
                    Ok(answer) => return Ok(answer),
                    Err(_) => Input::Misplaced,
                },
                Step::Propose(command) => {
                    let outcome = together(handle.propose(command, Some(deadline))).await;
                    self.metrics.commits.observe(now.elapsed());
                    Input::Proposed(outcome)
                }
                Step::Barrier => {
                    Input::Barrier(together(handle.read_barrier(Some(deadline))).await)
                }
                Step::Forward { to, hops } => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let answer = serving.peers.forward(to, call.request(), left, hops);
                    let limit = tokio::time::Instant::from_std(deadline + FORWARD_SLACK);
                    match tokio::time::timeout_at(limit, answer).await {
                        Ok(forwarded) => Input::Forwarded(forwarded),
                        Err(_) => Input::Forwarded(Forwarded::Broken),
                    }
                }
                Step::ForwardTo { cluster, urls, hops } => {
                    self.shard.forwarded.fetch_add(1, Ordering::Relaxed);
                    let links = &self.shard.links;
                    let answer = links.ask(&cluster, &urls, call.request(), deadline, hops);
                    let limit = tokio::time::Instant::from_std(deadline + FORWARD_SLACK);
                    match tokio::time::timeout_at(limit, answer).await {
                        Ok(Answered { forwarded, .. }) => Input::Forwarded(forwarded),
                        Err(_) => Input::Forwarded(Forwarded::Broken),
                    }
                }
                Step::WaitForLeader { until } => {
                    let left = until.since(handle.now());
                    self.wait_for_leader(serving, view.leader, left).await;
                    Input::Waited
                }
            };
            now = Instant::now();
        }
    }

    /// Whether everything that was committed a second ago is applied here.
    pub fn keeps_up(&self) -> bool {
        let Some(serving) = self.serving() else { return false };
        let status = serving.handle.status();
        let commits = serving.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let old = commits.iter().rev().find(|(at, _)| APPLIED_WITHIN <= at.elapsed());
        !status.restoring && old.is_none_or(|(_, committed)| *committed <= status.core.applied)
    }

    /// Returns when the leader is another one than `known`, or after `at_most`.
    async fn wait_for_leader(&self, serving: &Serving, known: Option<NodeId>, at_most: Duration) {
        // First the ears, then the eyes: no news is missed between the two.
        let mut news = self.leadership.subscribe();
        let end = tokio::time::Instant::now() + at_most;
        loop {
            let status = serving.handle.status();
            if status.leader() != known || status.stopped {
                return;
            }
            let look = end.min(tokio::time::Instant::now() + LOOK_AGAIN);
            let changed = tokio::time::timeout_at(look, news.changed()).await;
            if end <= tokio::time::Instant::now() || matches!(changed, Ok(Err(_))) {
                return;
            }
        }
    }

    fn view<'a>(
        &self,
        serving: &Serving,
        status: &NodeStatus,
        owns: Option<&'a Ownership>,
    ) -> View<'a> {
        // A node that is asked to stop hands over first: what it let in before is then the business
        // of the next leader, and goes on until the node itself has stopped.
        let phase = if status.stopped || status.failed.is_some() {
            Phase::Stopping
        } else if status.restoring {
            Phase::Restoring
        } else {
            Phase::Serving
        };
        let contact = serving.contact(status);
        View { me: self.node_id, leader: status.leader(), contact, phase, owns }
    }
}

impl Serving {
    /// A node of `cluster` with its state machine and its way to the others.
    pub fn new(
        cluster: ClusterId,
        handle: Handle<SharedStore>,
        store: SharedStore,
        peers: Peers,
    ) -> Serving {
        let (heard, commits) = (AtomicU64::new(0), Mutex::default());
        Serving { cluster, handle, store, peers, heard, commits }
    }

    /// When a leader was last heard (by a leader: a quorum), also one that is lost by now.
    pub fn contact(&self, status: &NodeStatus) -> Option<Time> {
        if let Some(contact) = status.core.contact {
            self.heard.fetch_max(contact.0, Ordering::Relaxed);
        }
        let heard = self.heard.load(Ordering::Relaxed);
        (0 < heard).then_some(Time(heard))
    }
}

/// `http://host:port` of the leader, as far as known.
pub fn leader_url(status: &NodeStatus) -> Option<String> {
    let leader = status.core.membership.member(status.leader()?)?;
    Some(format!("http://{}", leader.address))
}

/// The name people know a node by; its id when it is no member any more.
pub fn name_of(status: &NodeStatus, id: NodeId) -> String {
    let member = status.core.membership.member(id);
    member.map_or_else(|| id.to_string(), |member| member.name.clone())
}

/// Tells waiting requests and the log what happens to the node.
async fn watch_events(daemon: Arc<Daemon>, mut events: raft_core::node::Receiver<NodeEvent>) {
    let mut won = None;
    while let Some(event) = events.next().await {
        match event {
            NodeEvent::Leadership { term, role, leader, ready } => {
                daemon.leadership.send_replace(());
                if role == RoleName::Leader && won != Some(term) {
                    won = Some(term);
                    daemon.metrics.elections_won.fetch_add(1, Ordering::Relaxed);
                }
                tell_leadership(&daemon, term.0, role, leader, ready);
            }
            NodeEvent::Membership(membership) => log::info!("the members are {membership}"),
            NodeEvent::Restoring(at) => log::info!("putting back the snapshot of {at}"),
            NodeEvent::Restored(at) => log::info!("the state is that of the snapshot of {at}"),
            NodeEvent::SnapshotTaken(at) => log::info!("took a snapshot at {at}"),
            NodeEvent::SnapshotFailed(why) => {
                log::warn!("no snapshot was taken, trying again later: {why}");
            }
            NodeEvent::Room(true) => log::info!("the disk has room again: writes go on"),
            NodeEvent::Room(false) => {
                log::error!("the disk is full: writes are refused, reads go on; make room on it");
            }
            NodeEvent::SlowSync(took) => log::warn!("a sync of the log took {took:?}"),
            NodeEvent::Failed(_) | NodeEvent::Stopped => break,
        }
    }
    // Whoever waits for a leader has nothing to wait for any more.
    daemon.leadership.send_replace(());
}

fn tell_leadership(
    daemon: &Daemon,
    term: u64,
    role: RoleName,
    leader: Option<NodeId>,
    ready: bool,
) {
    let name = |id: NodeId| {
        let status = daemon.serving().map(|serving| serving.handle.status());
        status.map_or_else(|| id.to_string(), |status| name_of(&status, id))
    };
    // The core tells the story of each election; this is its end, in the names people use.
    match (role, leader) {
        (RoleName::Leader, _) if ready => log::info!("this node leads term {term}"),
        (RoleName::Follower, Some(leader)) => {
            log::info!("follows {} in term {term}", name(leader));
        }
        (RoleName::Follower, None) => log::info!("knows no leader in term {term}"),
        (RoleName::Leader | RoleName::PreCandidate | RoleName::Candidate, _) => {}
    }
}

/// Notes the commit index, so that later one can see whether it was applied in time.
async fn sample_commits(daemon: Arc<Daemon>) {
    let mut tick = tokio::time::interval(SAMPLE);
    while !daemon.is_stopping() {
        tick.tick().await;
        let Some(serving) = daemon.serving() else { return };
        let status = serving.handle.status();
        serving.contact(&status);
        let committed = status.core.committed;
        let mut commits = serving.commits.lock().unwrap_or_else(PoisonError::into_inner);
        commits.push_back((Instant::now(), committed));
        // Four samples cover the second; one more is surely older than it.
        while 8 < commits.len() {
            commits.pop_front();
        }
    }
}
