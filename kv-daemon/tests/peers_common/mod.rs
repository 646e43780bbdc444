//! Nodes with a real transport on real loopback sockets and a core that only answers what it is
//! told to. Each has a runtime of its own, so that one can be killed like a process: its listener
//! and all its connections are gone at once.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use kv_daemon::form::{Hello, Identity, PROTOCOL, Standing};
use kv_daemon::kv::request::{Answer, Failure, Request};
use kv_daemon::peers::{Core, Endpoints, Peers, PeersConfig, PeersTransport, Service, routes};
use raft_core::membership::{Member, Membership};
use raft_core::message::{AppendResult, Body, Message};
use raft_core::transport::Transport;
use raft_core::types::{ClusterId, Entry, Index, LogPosition, NodeId, Payload, Term};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// What a fake core does with a message: an answer, or none.
pub type Answering = Box<dyn Fn(&Message) -> Option<Body> + Send + Sync>;

pub struct Node {
    pub id: NodeId,
    pub address: String,
    pub core: Arc<FakeCore>,
    pub service: Arc<FakeService>,
    pub peers: Peers,
    pub endpoints: Endpoints,
    runtime: Option<Runtime>,
}

/// Remembers what it gets and answers as it was told.
pub struct FakeCore {
    membership: Membership,
    answering: Answering,
    transport: Mutex<PeersTransport>,
    pub received: Mutex<Vec<Message>>,
    pub down: Mutex<Vec<NodeId>>,
}

/// Remembers what is forwarded to it and answers when it may.
#[derive(Default)]
pub struct FakeService {
    pub calls: Mutex<Vec<(Request, u8)>>,
    /// Answers wait for this when it is set.
    pub hold: Mutex<Option<Arc<Notify>>>,
}

/// A listener for each node, before there is any: all have to know all addresses.
pub fn listeners(count: usize) -> Vec<TcpListener> {
    (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect()
}

/// A membership of `n1`, `n2` ... at these listeners. By name, because a name has several addresses
/// of which only some answer.
pub fn membership_at(listeners: &[TcpListener]) -> Membership {
    let member = |(at, listener): (usize, &TcpListener)| {
        let port = listener.local_addr().expect("it is bound").port();
        let member =
            Member { name: format!("node{}", at + 1), address: format!("localhost:{port}") };
        (NodeId(at as u64 + 1), member)
    };
    Membership::of_voters(listeners.iter().enumerate().map(member))
}

/// As many nodes as asked for, each with this way of answering.
pub fn nodes(count: usize, answering: impl Fn(NodeId) -> Answering) -> Vec<Node> {
    let listeners = listeners(count);
    let membership = membership_at(&listeners);
    let numbered = listeners.into_iter().enumerate();
    numbered
        .map(|(at, listener)| {
            let id = NodeId(at as u64 + 1);
            Node::start(id, CLUSTER, listener, membership.clone(), answering(id))
        })
        .collect()
}

/// Two nodes that answer everything at once.
pub fn pair() -> (Node, Node) {
    let mut nodes = nodes(2, |_| Box::new(usual_answer));
    let second = nodes.pop().expect("there are two");
    (nodes.pop().expect("there are two"), second)
}

impl Node {
    pub fn start(
        id: NodeId,
        cluster: ClusterId,
        listener: TcpListener,
        membership: Membership,
        answering: Answering,
    ) -> Node {
        let answer_timeout = Duration::from_secs(5);
        let config = PeersConfig { answer_timeout, ..PeersConfig::new(id, cluster) };
        Node::start_with(config, listener, membership, answering)
    }

    pub fn start_with(
        config: PeersConfig,
        listener: TcpListener,
        membership: Membership,
        answering: Answering,
    ) -> Node {
        let id = config.node_id;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = membership.member(id).map_or(String::new(), |member| member.address.clone());
        let peers = Peers::new(config, runtime.handle().clone());
        let core = Arc::new(FakeCore {
            membership,
            answering,
            transport: Mutex::new(peers.transport()),
            received: Mutex::default(),
            down: Mutex::default(),
        });
        let service = Arc::new(FakeService::default());
        peers.attach(core.clone(), service.clone());
        let hello = hello_of(id, &address);
        let endpoints = Endpoints::new(move || hello.clone());
        endpoints.open(peers.clone());
        serve(&runtime, listener, endpoints.clone());
        Node { id, address, core, service, peers, endpoints, runtime: Some(runtime) }
    }

    pub fn send(&self, message: Message) {
        self.core.transport.lock().expect("not poisoned").send(vec![message]);
    }

    pub fn forward(
        &self,
        to: NodeId,
        request: Request,
        time_left: Duration,
    ) -> tokio::task::JoinHandle<kv_daemon::kv::service::Forwarded> {
        let peers = self.peers.clone();
        let runtime = self.runtime.as_ref().expect("it runs");
        runtime.spawn(async move { peers.forward(to, &request, time_left, 1).await })
    }

    pub fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.runtime.as_ref().expect("it runs").block_on(work)
    }

    /// Ends like a process that is killed.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    pub fn socket(&self) -> TcpStream {
        connect(&self.address)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.peers.stop();
        self.kill();
    }
}

pub fn connect(address: &str) -> TcpStream {
    let port = address.rsplit(':').next().expect("a port").parse().expect("a number");
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    stream
}

/// Sends one request as curl would, returns status and the rest of the response.
pub fn curl(address: &str, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = connect(address);
    let mut request = head.replace('\n', "\r\n").into_bytes();
    let length =
        format!("\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    request.extend_from_slice(length.as_bytes());
    request.extend_from_slice(body);
    stream.write_all(&request).expect("it reads");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("it answers");
    let text = String::from_utf8_lossy(&response).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status in {text:?}")), text)
}

/// Serves the routes as the daemon does: warp behind a loop of our own.
pub fn serve(runtime: &Runtime, listener: TcpListener, endpoints: Endpoints) {
    listener.set_nonblocking(true).expect("a mode all sockets have");
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is bound");
        let service = TowerToHyperService::new(warp::service(routes(endpoints)));
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
        Ok::<(), Infallible>(())
    });
}

pub fn hello_of(id: NodeId, address: &str) -> Hello {
    let identity = Identity {
        node_id: id,
        name: format!("node{}", id.0),
        address: if address.is_empty() { "localhost:1".to_owned() } else { address.to_owned() },
    };
    Hello {
        set: vec![identity.clone()],
        identity,
        standing: Standing::Formed { cluster: CLUSTER },
        peers: Vec::new(),
        protocol: PROTOCOL,
        version: "0.0.0".to_owned(),
    }
}

impl FakeCore {
    pub fn bodies(&self) -> Vec<Body> {
        let received = self.received.lock().expect("not poisoned");
        received.iter().map(|message| message.body.clone()).collect()
    }

    pub fn ids(&self, which: impl Fn(&Body) -> bool) -> Vec<u64> {
        let received = self.received.lock().expect("not poisoned");
        received.iter().filter(|message| which(&message.body)).map(|message| message.id).collect()
    }
}

impl Core for FakeCore {
    fn receive(&self, messages: Vec<Message>) {
        for message in messages {
            let answer = (self.answering)(&message).map(|body| Message {
                from: message.to,
                to: message.from,
                term: message.term,
                id: message.id,
                body,
            });
            self.received.lock().expect("not poisoned").push(message);
            if let Some(answer) = answer {
                self.transport.lock().expect("not poisoned").send(vec![answer]);
            }
        }
    }

    fn peer_down(&self, id: NodeId) {
        self.down.lock().expect("not poisoned").push(id);
    }

    fn membership(&self) -> Membership {
        self.membership.clone()
    }
}

impl Service for FakeService {
    fn call(
        &self,
        request: Request,
        _time_left: Duration,
        hops: u8,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>> {
        let revision = match &request {
            Request::Put { value, .. } => value.len() as u64,
            _ => 0,
        };
        let hold = self.hold.lock().expect("not poisoned").clone();
        self.calls.lock().expect("not poisoned").push((request, hops));
        Box::pin(async move {
            if let Some(hold) = hold {
                hold.notified().await;
            }
            Ok(Answer::Put { revision, created: true, version: 1 })
        })
    }
}

/// The friendliest answer to a request.
pub fn usual_answer(message: &Message) -> Option<Body> {
    Some(match &message.body {
        Body::PreVote { .. } => Body::PreVoteReply { granted: true, asked_in: message.term },
        Body::RequestVote { .. } => Body::VoteReply { granted: true },
        Body::Append { prev, entries, .. } => {
            let matched = Index(prev.index.0 + entries.len() as u64);
            Body::AppendReply { result: AppendResult::Matched(matched) }
        }
        Body::Heartbeat { round, .. } => {
            Body::HeartbeatReply { round: *round, matched: Index(0), received: Index(0) }
        }
        Body::InstallSnapshot { meta, offset, data } => {
            let end = offset + data.len() as u64;
            let next_offset = (end < meta.body_bytes).then_some(end);
            Body::SnapshotReply { position: meta.position, next_offset }
        }
        Body::ReadIndex => Body::ReadIndexReply { index: Some(Index(7)) },
        _ => return None,
    })
}

pub fn message(from: u64, to: u64, id: u64, body: Body) -> Message {
    Message { from: NodeId(from), to: NodeId(to), term: Term(3), id, body }
}

pub fn append(prev: u64, value_bytes: usize) -> Body {
    let prev = LogPosition::new(Index(prev), Term(3));
    let position = LogPosition::new(prev.index.next(), Term(3));
    let payload = Payload::Command(vec![7; value_bytes].into());
    Body::Append { prev, entries: vec![Entry { position, payload }], commit: Index(0) }
}

pub fn heartbeat(round: u64) -> Body {
    Body::Heartbeat { round, commit: Index(0) }
}

pub fn put(value_bytes: usize) -> Request {
    Request::Put {
        key: "k".into(),
        value: vec![1; value_bytes].into(),
        condition: Default::default(),
    }
}

/// Waits for something that has to happen. The limit only ends a test that has failed.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < limit, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
