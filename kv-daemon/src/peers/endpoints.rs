//! `/raft/*`: what other nodes, and people with curl, can say to this one.
//!
//! A request is checked first (cluster, protocol, sender, receiver), then its messages are handed to
//! the core, and the response is held open until the core emits the answer. A refused request
//! changes nothing. Whatever bytes come in, nothing panics and nothing grows without bound.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method};
use raft_core::codec::{FrameDecoder, encode_frame};
use raft_core::message::{Body, Message};
use raft_core::types::{ClusterId, NodeId};
use tokio::time::timeout;
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::headers::{FRAMES, JSON, Refused, Said};
use super::waiting::Class;
use super::{Peers, Shared, json};
use crate::form::{Hello, PROTOCOL};

/// Single requests (votes, heartbeats) are small.
const SINGLE_BYTES_MAX: usize = 64 << 10;

/// The doors of a node to its peers. `hello` is answered from the start, the rest once
/// [`open`](Endpoints::open) was called. Clones are the same.
#[derive(Clone)]
pub struct Endpoints {
    inner: Arc<Inner>,
}

struct Inner {
    hello: Box<dyn Fn() -> Hello + Send + Sync>,
    peers: OnceLock<Peers>,
}

/// What a path under `/raft/` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Hello,
    /// One request, one answer.
    Single,
    /// A stream of requests of this class.
    Stream(&'static str, Class),
    Propose,
}

/// The warp filter over `/raft/*`; what is under it is answered here, also with 404 and 405.
pub fn routes(
    endpoints: Endpoints,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    warp::path("raft")
        .and(warp::method())
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method: Method, path: warp::path::FullPath, headers: HeaderMap, body| {
            let endpoints = endpoints.clone();
            async move { endpoints.serve(&method, path.as_str(), &headers, body).await }
        })
}

impl Endpoints {
    /// With this to say when asked who we are.
    pub fn new(hello: impl Fn() -> Hello + Send + Sync + 'static) -> Endpoints {
        let inner = Inner { hello: Box::new(hello), peers: OnceLock::new() };
        Endpoints { inner: Arc::new(inner) }
    }

    /// This node has formed: messages of its peers are welcome. Only the first call counts.
    pub fn open(&self, peers: Peers) {
        let _ = self.inner.peers.set(peers);
    }

    /// Answers one request whose path begins with `/raft/`.
    pub async fn serve<S, B, E>(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: S,
    ) -> Response
    where
        S: Stream<Item = Result<B, E>> + Send + 'static,
        B: Buf + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let pieces = body.map(|piece| match piece {
            Ok(mut piece) => Ok(piece.copy_to_bytes(piece.remaining())),
            Err(error) => Err(error.to_string()),
        });
        let kind = path.strip_prefix("/raft/").unwrap_or_default();
        let served = self.answer(method, kind, headers, Box::pin(pieces)).await;
        served.unwrap_or_else(Refused::into_response)
    }

    async fn answer(
        &self,
        method: &Method,
        kind: &str,
        headers: &HeaderMap,
        body: Pieces,
    ) -> Result<Response, Refused> {
        let Some(door) = Door::of(kind) else {
            let detail = format!("there is no /raft/{kind}");
            return Err(Refused::other(StatusCode::NOT_FOUND, "Not found", detail));
        };
        let fits = match door {
            Door::Hello => [Method::GET, Method::HEAD].contains(method),
            _ => *method == Method::POST,
        };
        if !fits {
            return Ok(not_allowed(door, method));
        }
        if door == Door::Hello {
            let hello = (self.inner.hello)();
            return Ok(with_type(JSON, Response::new(hello.to_json().into())));
        }
        let peers = self.inner.peers.get();
        let shared = peers.map(|peers| peers.shared.clone());
        let Some(shared) = shared.filter(|shared| shared.core.get().is_some()) else {
            return Err(Refused::unavailable("this node has not joined a cluster yet"));
        };
        if *shared.stopping.borrow() {
            return Err(Refused::unavailable("this node is stopping"));
        }
        let said = Said::read(headers)?;
        shared.admit(&said)?;
        match door {
            Door::Hello => unreachable!("answered above"),
            Door::Single if is_json(headers) => shared.single_json(kind, body).await,
            Door::Single => shared.single(kind, body).await,
            Door::Stream(kind, class) if headers.contains_key(CONTENT_LENGTH) => {
                shared.batch(kind, class, body).await
            }
            Door::Stream(kind, class) => Ok(shared.stream(kind, class, said.sender()?, body)),
            Door::Propose => Ok(shared.propose(said.sender()?, body)),
        }
    }
}

/// The body of a request as it comes in.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

impl Door {
    fn of(kind: &str) -> Option<Door> {
        Some(match kind {
            "hello" => Door::Hello,
            "pre-vote" | "request-vote" | "heartbeat" | "timeout-now" | "read-index" => {
                Door::Single
            }
            "append-entries" => Door::Stream("append-entries", Class::Append),
            "install-snapshot" => Door::Stream("install-snapshot", Class::Snapshot),
            "propose" => Door::Propose,
            _ => return None,
        })
    }
}

impl Said {
    /// A stream has to say who sends it.
    fn sender(&self) -> Result<NodeId, Refused> {
        self.from.ok_or_else(|| Refused::malformed("a stream needs the header kv-from"))
    }
}

impl Shared {
    /// Whether we speak with who sends this. Headers that are missing are not held against anybody:
    /// each frame says the same again.
    fn admit(self: &Arc<Self>, said: &Said) -> Result<(), Refused> {
        if let Some(protocol) = said.protocol
            && protocol != PROTOCOL
        {
            return Err(Refused::conflict(format!(
                "the sender speaks protocol {protocol}, this node {PROTOCOL}: run the same version"
            )));
        }
        self.admit_line(said.cluster, said.from, said.to)?;
        if let Some(from) = said.from {
            self.peer(from).reach.heard();
        }
        Ok(())
    }

    fn admit_line(
        &self,
        cluster: Option<ClusterId>,
        from: Option<NodeId>,
        to: Option<NodeId>,
    ) -> Result<(), Refused> {
        let ours = &self.config;
        if let Some(cluster) = cluster
            && cluster != ours.cluster
        {
            let sender = from.map_or("the sender".to_owned(), |from| format!("the sender {from}"));
            return Err(Refused::conflict(format!(
                "{sender} belongs to cluster {cluster}, this node {} to cluster {}",
                ours.node_id, ours.cluster
            )));
        }
        if let Some(to) = to
            && to != ours.node_id
        {
            return Err(Refused::conflict(format!(
                "this is for node {to}, but at this address is node {} of cluster {}",
                ours.node_id, ours.cluster
            )));
        }
        if from == Some(ours.node_id) {
            return Err(Refused::conflict(format!(
                "the sender says it is {}, which is this node: two nodes run on copies of one data \
                 directory",
                ours.node_id
            )));
        }
        if let (Some(from), Some(core)) = (from, self.core.get()) {
            let membership = core.membership();
            if !membership.contains(from) {
                return Err(Refused::conflict(format!(
                    "the sender {from} is no member of cluster {} as node {} knows it ({membership})",
                    ours.cluster, ours.node_id
                )));
            }
        }
        Ok(())
    }

    /// A frame has to be a request of the kind that the path says, and fit to be taken at all.
    fn admit_message(
        &self,
        kinds: &[&str],
        cluster: ClusterId,
        message: &Message,
    ) -> Result<(), Refused> {
        if message.body.is_reply() || !kinds.contains(&message.body.kind()) {
            let (found, kind) = (message.body.kind(), kinds[0]);
            return Err(Refused::malformed(format!("a {found} was sent to /raft/{kind}")));
        }
        self.admit_line(Some(cluster), Some(message.from), Some(message.to))
    }

    /// One frame, one answer.
    async fn single(self: &Arc<Self>, kind: &str, body: Pieces) -> Result<Response, Refused> {
        let mut bytes = whole(body, SINGLE_BYTES_MAX).await?;
        let message = self.take_message(&[kind], &mut bytes)?;
        let Some(message) = message.filter(|_| bytes.is_empty()) else {
            return Err(Refused::malformed(format!("/raft/{kind} takes exactly one frame")));
        };
        if matches!(message.body, Body::Heartbeat { .. }) {
            self.peer(message.from).heartbeat_came();
        }
        match self.ask_core(message).await? {
            None => Ok(no_answer()),
            Some(answer) => {
                let mut frame = BytesMut::new();
                encode_frame(self.config.cluster, &answer, &mut frame);
                Ok(with_type(FRAMES, Response::new(frame.freeze().into())))
            }
        }
    }

    /// The same for people.
    async fn single_json(self: &Arc<Self>, kind: &str, body: Pieces) -> Result<Response, Refused> {
        let bytes = whole(body, SINGLE_BYTES_MAX).await?;
        let question = json::question(kind, self.config.node_id, &bytes);
        let message = question.map_err(Refused::malformed)?;
        self.admit_message(&[kind], self.config.cluster, &message)?;
        let answer = self.ask_core(message).await?;
        match answer.as_ref().and_then(json::reply) {
            None => Ok(no_answer()),
            Some(text) => Ok(with_type(JSON, Response::new(text.into()))),
        }
    }

    /// Hands in a request and waits for its answer, as long as the asker would.
    async fn ask_core(self: &Arc<Self>, message: Message) -> Result<Option<Message>, Refused> {
        let Some(class) = Class::of(&message.body) else {
            self.deliver(vec![message]);
            return Ok(None);
        };
        let waiter = self.waiting.single(message.from, class, message.id);
        let waiter = waiter.ok_or_else(|| Refused::unavailable("too many requests are waiting"))?;
        self.deliver(vec![message]);
        Ok(timeout(self.config.answer_timeout, waiter).await.ok().and_then(Result::ok))
    }

    /// Frames in a body of known length: all answers in one response. For one-shot use.
    async fn batch(
        self: &Arc<Self>,
        kind: &str,
        class: Class,
        body: Pieces,
    ) -> Result<Response, Refused> {
        let mut bytes = whole(body, self.config.frame_bytes_max).await?;
        let mut messages = Vec::new();
        while let Some(message) = self.take_message(&[kind], &mut bytes)? {
            messages.push(message);
        }
        let Some(sender) = messages.first().map(|message| message.from) else {
            return Err(Refused::malformed("there is no whole frame in the body"));
        };
        if !bytes.is_empty() || messages.iter().any(|message| message.from != sender) {
            return Err(Refused::malformed("the body is not whole frames of one sender"));
        }
        let stream = self.waiting.stream(sender, class, false);
        messages.iter().for_each(|message| stream.expect(message.id));
        self.deliver(messages);
        let _ = timeout(self.config.answer_timeout, stream.all_answered.notified()).await;
        self.waiting.close(&stream);
        let mut frames = BytesMut::new();
        for answer in stream.answers.take_all() {
            encode_frame(self.config.cluster, &answer, &mut frames);
        }
        if frames.is_empty() {
            return Ok(no_answer());
        }
        Ok(with_type(FRAMES, Response::new(frames.freeze().into())))
    }

    /// Takes the first message, of one of these kinds, off the buffer; `None` when there is no whole
    /// one.
    pub(super) fn take_message(
        &self,
        kinds: &[&str],
        buffer: &mut BytesMut,
    ) -> Result<Option<Message>, Refused> {
        let decoder = FrameDecoder::new(self.config.frame_bytes_max);
        let decoded = decoder.decode(buffer);
        let Some((cluster, message)) =
            decoded.map_err(|fault| Refused::malformed(fault.to_string()))?
        else {
            return Ok(None);
        };
        self.admit_message(kinds, cluster, &message)?;
        Ok(Some(message))
    }
}

/// Reads a whole body of at most this many bytes.
async fn whole(mut body: Pieces, bytes_max: usize) -> Result<BytesMut, Refused> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(Refused::malformed)?;
        if bytes_max < bytes.len() + piece.len() {
            let detail = format!("the body has more than {bytes_max} bytes");
            return Err(Refused::other(StatusCode::PAYLOAD_TOO_LARGE, "Too large", detail));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| text.to_ascii_lowercase().starts_with("application/json"))
}

fn not_allowed(door: Door, method: &Method) -> Response {
    let (allowed, list) = match door {
        Door::Hello => (HeaderValue::from_static("GET, HEAD, OPTIONS"), "GET"),
        _ => (HeaderValue::from_static("POST, OPTIONS"), "POST"),
    };
    let mut response = if *method == Method::OPTIONS {
        no_answer()
    } else {
        let detail = format!("{method} is not served here, {list} is");
        let refused = Refused::other(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail);
        refused.into_response()
    };
    response.headers_mut().insert(ALLOW, allowed);
    response
}

/// 204: taken, and there is nothing to say.
fn no_answer() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

pub(super) fn with_type(content_type: HeaderValue, mut response: Response) -> Response {
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
