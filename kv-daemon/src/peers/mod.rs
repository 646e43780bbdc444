//! How messages and forwarded writes reach the other nodes of the cluster, over HTTP.
//!
//! The story, from the sender's side. The core hands out messages; [`PeersTransport`] puts each into
//! a bounded queue of the peer it is for and returns at once. A request goes to one of the peer's
//! connections, each opened when first used and reopened when it breaks:
//!
//! | connection | carries | how |
//! |---|---|---|
//! | control | votes, pre-votes, heartbeats, timeout-now, read-index | `POST /raft/<kind>`, one after the other (`control.rs`) |
//! | log | appends, and heartbeats while nothing waits there | one endless `POST /raft/append-entries` (`stream.rs`) |
//! | bulk | snapshots | one endless `POST /raft/install-snapshot` |
//! | propose | forwarded writes, those above 64 KiB on a connection of their own | one endless `POST /raft/propose` each (`propose.rs`) |
//!
//! HTTP/1.1 carries one exchange at a time on a connection, which is why what must not wait for
//! each other does not share one. An answer of the core goes the other way: to the response that
//! was held open for its request (`waiting.rs`, `endpoints.rs`, `incoming.rs`).
//!
//! Nothing here decides anything of Raft. Messages may get lost here (a full queue, a broken
//! connection), and the core stands that; a forwarded write that may have left is never sent again.

mod asking;
pub(crate) mod connect;
mod control;
mod endpoints;
mod headers;
mod incoming;
mod json;
mod outbox;
mod propose;
mod reach;
mod stream;
mod waiting;

pub use asking::{SharedForming, form, hello};
pub use endpoints::{Endpoints, routes};

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use log::warn;
use raft_core::codec::FRAME_BYTES_MAX;
use raft_core::membership::Membership;
use raft_core::message::{Body, Message};
use raft_core::node::Handle;
use raft_core::state_machine::StateMachine;
use raft_core::transport::Transport;
use raft_core::types::{ClusterId, NodeId};
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use self::headers::Line;
use self::outbox::Outbox;
use self::propose::Proposals;
use self::reach::Reach;
use self::stream::Messages;
use self::waiting::Waiting;
use crate::kv::request::{Answer, Failure, Request};
use crate::kv::service::Forwarded;

/// What the transport needs of the node it works for.
pub trait Core: Send + Sync + 'static {
    /// Hands in messages of peers. Never blocks; may drop them.
    fn receive(&self, messages: Vec<Message>);
    /// A hint: this peer's process is gone.
    fn peer_down(&self, id: NodeId);
    /// The membership in force: who may speak to us, and where the others are.
    fn membership(&self) -> Membership;
}

/// What answers the writes that other nodes forward to this one.
pub trait Service: Send + Sync + 'static {
    /// Answers a request that has been handed on `hops` times and is of no use after `time_left`.
    fn call(
        &self,
        request: Request,
        time_left: Duration,
        hops: u8,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;
}

/// Settings of the transport.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// This node.
    pub node_id: NodeId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// How long the response to a request on the control connection is held open for the core's
    /// answer (the asker waits a quarter longer); the core's `election_timeout_min`, 400 ms.
    /// Shorter: slow disks lose votes. Longer: a silent peer blocks its connection longer.
    pub answer_timeout: Duration,
    /// The largest frame that is read, in bytes; 80 MiB. Has to hold the largest entry.
    pub frame_bytes_max: usize,
    /// Bytes of appends, and of snapshot pieces, that may wait for one peer; 128 MiB. The core's
    /// window of unacknowledged bytes keeps it far below that; one message is always let in.
    pub queue_bytes_max: usize,
}

impl PeersConfig {
    /// The defaults for this node.
    pub fn new(node_id: NodeId, cluster: ClusterId) -> PeersConfig {
        PeersConfig {
            node_id,
            cluster,
            answer_timeout: Duration::from_millis(400),
            frame_bytes_max: FRAME_BYTES_MAX,
            queue_bytes_max: 128 << 20,
        }
    }
}

/// The connections to all peers. Clones are the same.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

/// The sending end for the core's messages.
pub struct PeersTransport {
    shared: Arc<Shared>,
}

/// The numbers of one peer, for metrics and `/health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNumbers {
    /// The peer.
    pub id: NodeId,
    /// How long a heartbeat and its answer take, smoothed; `None` before the first.
    pub rtt: Option<Duration>,
    /// Bytes of frames handed to its connections.
    pub sent_bytes: u64,
    /// Attempts, exchanges and connections that failed.
    pub errors: u64,
    /// Messages dropped because a queue was full or the peer could not be reached.
    pub dropped: u64,
    /// Whether the newest attempt to reach it was good; `None` before the first.
    pub up: Option<bool>,
    /// In its own words, why it refuses to speak with this node.
    pub problem: Option<String>,
}

impl Peers {
    /// A transport that opens its connections on this runtime. It delivers nothing before
    /// [`attach`](Peers::attach).
    pub fn new(config: PeersConfig, runtime: runtime::Handle) -> Peers {
        let shared = Shared {
            config,
            runtime,
            core: OnceLock::new(),
            service: OnceLock::new(),
            waiting: Waiting::default(),
            unrouted: AtomicU64::new(0),
            peers: Mutex::default(),
            stopping: watch::Sender::new(false),
        };
        Peers { shared: Arc::new(shared) }
    }

    /// What the node sends through.
    pub fn transport(&self) -> PeersTransport {
        PeersTransport { shared: self.shared.clone() }
    }

    /// Names the node that messages are for and the service that forwarded writes are for. Only the
    /// first call counts.
    pub fn attach(&self, core: Arc<dyn Core>, service: Arc<dyn Service>) {
        let _ = self.shared.service.set(service);
        let _ = self.shared.core.set(core);
    }

    /// Sends a request to the node that leads and waits for its answer, at most `time_left`.
    /// `NothingSent` is said only if no byte of the request left this node.
    pub async fn forward(
        &self,
        leader: NodeId,
        request: &Request,
        time_left: Duration,
        hops: u8,
    ) -> Forwarded {
        if *self.shared.stopping.borrow() || leader == self.shared.config.node_id {
            return Forwarded::NothingSent;
        }
        let peer = self.shared.peer(leader);
        propose::forward(&self.shared, &peer, request, time_left, hops).await
    }

    /// The numbers of every peer spoken to so far, in id order.
    pub fn numbers(&self) -> Vec<PeerNumbers> {
        self.shared.peers().values().map(|peer| peer.numbers()).collect()
    }

    /// Answers of the core for which nobody waited any more.
    pub fn unrouted(&self) -> u64 {
        self.shared.unrouted.load(Ordering::Relaxed)
    }

    /// Closes all connections and opens no more.
    pub fn stop(&self) {
        self.shared.stopping.send_replace(true);
        for peer in self.shared.peers().values() {
            peer.close();
        }
    }
}

impl Transport for PeersTransport {
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            if message.body.is_reply() {
                if !self.shared.waiting.route(message) {
                    self.shared.unrouted.fetch_add(1, Ordering::Relaxed);
                }
            } else {
                self.shared.send(message);
            }
        }
    }
}

impl<S: StateMachine> Core for Handle<S>
where
    Handle<S>: Send + Sync,
{
    fn receive(&self, messages: Vec<Message>) {
        Handle::receive(self, messages);
    }

    fn peer_down(&self, id: NodeId) {
        Handle::peer_down(self, id);
    }

    fn membership(&self) -> Membership {
        self.status().core.membership.clone()
    }
}

/// What all connections share.
struct Shared {
    config: PeersConfig,
    runtime: runtime::Handle,
    core: OnceLock<Arc<dyn Core>>,
    service: OnceLock<Arc<dyn Service>>,
    waiting: Waiting,
    unrouted: AtomicU64,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    stopping: watch::Sender<bool>,
}

/// One other node.
struct Peer {
    id: NodeId,
    reach: Reach,
    control: Outbox<control::Queued>,
    log: Arc<Outbox<Message>>,
    bulk: Arc<Outbox<Message>>,
    small: Arc<Proposals>,
    large: Arc<Proposals>,
    /// Raised when streams have to be opened anew: the peer is back after a silence, and what TCP
    /// still holds back for it would come late.
    renewed: watch::Sender<u64>,
    /// The same for forwarded writes, by the only sign a follower has: the leader's heartbeats were
    /// gone for a while and are back.
    leader_back: watch::Sender<u64>,
    last_heartbeat: Mutex<Option<Instant>>,
    /// When a heartbeat for it last went to the control connection.
    beat_at: Mutex<Option<Instant>>,
    running: [AtomicBool; 5],
    rtt_nanos: AtomicU64,
    sent_bytes: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
}

/// The connections of one peer.
#[derive(Clone, Copy)]
enum Lane {
    Control,
    Log,
    Bulk,
    Small,
    Large,
}

impl Shared {
    /// Queues a request for the peer it is for. Never blocks.
    fn send(self: &Arc<Self>, message: Message) {
        if *self.stopping.borrow() {
            return;
        }
        let peer = self.peer(message.to);
        let bytes = weight(&message);
        let (lane, outbox) = match message.body {
            Body::Append { .. } => (Lane::Log, &peer.log),
            Body::InstallSnapshot { .. } => (Lane::Bulk, &peer.bulk),
            Body::Heartbeat { .. } => {
                let Err(message) = peer.send_along(message, bytes) else { return };
                let pushed_out = control::queue(&peer.control, message, bytes);
                peer.dropped.fetch_add(pushed_out as u64, Ordering::Relaxed);
                return self.start(&peer, Lane::Control);
            }
            _ => {
                let pushed_out = control::queue(&peer.control, message, bytes);
                peer.dropped.fetch_add(pushed_out as u64, Ordering::Relaxed);
                return self.start(&peer, Lane::Control);
            }
        };
        if outbox.push(message, bytes).is_err() {
            peer.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.start(&peer, lane);
    }

    /// Starts the task behind a connection unless it runs.
    fn start(self: &Arc<Self>, peer: &Arc<Peer>, lane: Lane) {
        if peer.running[lane as usize].swap(true, Ordering::Relaxed) {
            return;
        }
        let (shared, peer) = (self.clone(), peer.clone());
        match lane {
            Lane::Control => drop(self.runtime.spawn(control::run(shared, peer))),
            Lane::Log => {
                let traffic = Messages::new(&shared, &peer, "append-entries", peer.log.clone());
                self.runtime.spawn(stream::run(shared, peer, traffic));
            }
            Lane::Bulk => {
                let traffic = Messages::new(&shared, &peer, "install-snapshot", peer.bulk.clone());
                self.runtime.spawn(stream::run(shared, peer, traffic));
            }
            Lane::Small => {
                let traffic = peer.small.clone();
                self.runtime.spawn(stream::run(shared, peer, traffic));
            }
            Lane::Large => {
                let traffic = peer.large.clone();
                self.runtime.spawn(stream::run(shared, peer, traffic));
            }
        }
    }

    fn peer(&self, id: NodeId) -> Arc<Peer> {
        self.peers().entry(id).or_insert_with(|| Arc::new(Peer::new(self, id))).clone()
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.peers.lock().expect("no code panics while it holds this lock")
    }

    /// The line to this peer.
    fn line_to(&self, peer: NodeId) -> Line {
        Line { cluster: self.config.cluster, from: self.config.node_id, to: peer }
    }

    /// Where the peer is, by the membership in force.
    fn address_of(&self, peer: &Peer) -> Result<String, String> {
        let core = self.core.get().ok_or("this node is still starting")?;
        let membership = core.membership();
        let member = membership.member(peer.id).ok_or("it is no member of the cluster")?;
        peer.reach.set_name(format!("{} ({})", member.name, member.address));
        Ok(member.address.clone())
    }

    /// Hands messages of a peer to the core.
    fn deliver(&self, messages: Vec<Message>) {
        if let Some(core) = self.core.get()
            && !messages.is_empty()
        {
            core.receive(messages);
        }
    }

    /// A connection from or to this peer broke. If its process is gone, the core wants to know at
    /// once: a leader that was killed is replaced without waiting for a time-out.
    fn broken(self: &Arc<Self>, peer: &Arc<Peer>) {
        if *self.stopping.borrow() || !peer.reach.broken() {
            return;
        }
        self.runtime.spawn(probe(self.clone(), peer.clone()));
    }
}

/// Finds out whether anybody listens at any address of a peer. A dying process may still accept for
/// a moment after its connections broke, so a success is looked at again.
async fn probe(shared: Arc<Shared>, peer: Arc<Peer>) {
    const LOOKS: [Duration; 4] = [
        Duration::ZERO,
        Duration::from_millis(5),
        Duration::from_millis(20),
        Duration::from_millis(60),
    ];
    let mut dead = false;
    if let Ok(address) = shared.address_of(&peer) {
        for wait in LOOKS {
            sleep(wait).await;
            let Err(error) = connect::connect(&address).await else { continue };
            peer.failed(&error.text);
            dead = error.refused_everywhere;
            break;
        }
    }
    peer.reach.probed(dead);
    if let Some(core) = shared.core.get().filter(|_| dead) {
        core.peer_down(peer.id);
    }
}

impl Peer {
    fn new(shared: &Shared, id: NodeId) -> Peer {
        const APPENDS_MAX: usize = 4096;
        let queue = || Arc::new(Outbox::new(APPENDS_MAX, shared.config.queue_bytes_max));
        let line = shared.line_to(id);
        Peer {
            id,
            reach: Reach::new(id.to_string(), id.0 ^ shared.config.node_id.0),
            control: Outbox::new(control::QUEUED_MAX, usize::MAX),
            log: queue(),
            bulk: queue(),
            small: Arc::new(Proposals::new(line, shared.config.frame_bytes_max)),
            large: Arc::new(Proposals::new(line, shared.config.frame_bytes_max)),
            renewed: watch::Sender::new(0),
            leader_back: watch::Sender::new(0),
            last_heartbeat: Mutex::new(None),
            beat_at: Mutex::new(None),
            running: Default::default(),
            rtt_nanos: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// An attempt or a connection failed.
    fn failed(&self, error: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.reach.failed(error);
    }

    /// The peer refused this node, in these words.
    fn refused(&self, text: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.reach.conflict(text);
    }

    /// Sends a heartbeat along with the appends if nothing is in its way there. Under many reads
    /// there are thousands a second, and a frame on a stream costs a fraction of a request. One
    /// every now and then goes the other way, which shows that the control connection works.
    fn send_along(&self, message: Message, bytes: usize) -> Result<(), Message> {
        const CONTROL_EVERY: Duration = Duration::from_millis(50);
        let mut last = self.beat_at.lock().expect("no code panics while it holds this lock");
        if last.is_none_or(|at| CONTROL_EVERY <= at.elapsed()) {
            *last = Some(Instant::now());
            return Err(message);
        }
        self.log.push_if_idle(message, bytes)
    }

    /// It sent a heartbeat, which a leader does many times a second.
    fn heartbeat_came(&self) {
        const GONE_FOR: Duration = Duration::from_secs(2);
        let mut last = self.last_heartbeat.lock().expect("no code panics while it holds this lock");
        let gone = last.is_some_and(|at| GONE_FOR < at.elapsed());
        *last = Some(Instant::now());
        drop(last);
        if gone {
            self.leader_back.send_modify(|times| *times += 1);
        }
    }

    /// Takes a measured round trip in: an eighth of it counts.
    fn measured(&self, since: Instant) {
        let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let old = self.rtt_nanos.load(Ordering::Relaxed);
        let new = if old == 0 { nanos } else { old - old / 8 + nanos / 8 };
        self.rtt_nanos.store(new.max(1), Ordering::Relaxed);
    }

    fn numbers(&self) -> PeerNumbers {
        let rtt = self.rtt_nanos.load(Ordering::Relaxed);
        PeerNumbers {
            id: self.id,
            rtt: (rtt != 0).then(|| Duration::from_nanos(rtt)),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            up: self.reach.is_up(),
            problem: self.reach.problem(),
        }
    }

    fn close(&self) {
        self.control.close();
        self.log.close();
        self.bulk.close();
        self.small.close();
        self.large.close();
    }
}

/// What a message weighs in a queue, about.
fn weight(message: &Message) -> usize {
    const HEAD: usize = 96;
    match &message.body {
        Body::Append { entries, .. } => {
            let entries: u64 = entries.iter().map(raft_core::types::Entry::weight).sum();
            HEAD + usize::try_from(entries).unwrap_or(usize::MAX / 2)
        }
        Body::InstallSnapshot { data, .. } => HEAD + data.len(),
        _ => HEAD,
    }
}

/// Says once in a while that bytes of a peer made no sense.
fn warn_malformed(peer: NodeId, endpoint: &str, fault: &str) {
    warn!("{peer} sent something malformed to /raft/{endpoint}: {fault}; closing that connection");
}
