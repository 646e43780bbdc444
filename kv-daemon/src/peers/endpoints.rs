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
use log::debug;
use raft_core::codec::{FrameDecoder, encode_frame};
use raft_core::message::{Body, Message};
use raft_core::types::{ClusterId, NodeId};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};
use warp::{Filter, Rejection};

use super::headers::{FRAMES, JSON, Line, Refused, Said};
use super::outbox::{Frames, Outbox};
use super::propose::{put_answer, read_request, take_frame};
use super::waiting::{AnswerStream, Class};
use super::{Peers, Shared, json, warn_malformed};
use crate::form::{Hello, PROTOCOL};
use crate::kv::forward::{Parts, decode_request, encode_result};
use crate::kv::request::{Failure, Outcome, Reason};

/// Single requests (votes, heartbeats) are small.
const SINGLE_BYTES_MAX: usize = 64 << 10;
/// Forwarded requests of one stream that may be under way; beyond it they are answered "busy".
const FORWARDED_MAX: usize = 4096;
/// Answers to forwarded requests that may wait to be written to one stream.
const ANSWER_BYTES_MAX: usize = 64 << 20;

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
type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

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

    /// An endless stream of frames, answered by an endless stream of answers.
    fn stream(
        self: &Arc<Self>,
        kind: &'static str,
        class: Class,
        sender: NodeId,
        body: Pieces,
    ) -> Response {
        let stream = self.waiting.stream(sender, class, true);
        let cluster = self.config.cluster;
        let answers = Frames::<Message>::of(
            stream.answers.clone(),
            Box::new(move |answer, piece| encode_frame(cluster, &answer, piece)),
        );
        tokio::spawn(self.clone().read_stream(kind, sender, stream, body));
        with_type(FRAMES, warp::reply::stream(answers).into_response())
    }

    /// Reads a stream of frames to its end.
    async fn read_stream(
        self: Arc<Self>,
        kind: &'static str,
        sender: NodeId,
        stream: Arc<AnswerStream>,
        mut body: Pieces,
    ) {
        let mut stopping = self.stopping.subscribe();
        let mut buffer = BytesMut::new();
        let ended = loop {
            let piece = tokio::select! {
                piece = body.next() => piece,
                () = stream.superseded.notified() => break Ended::Left,
                _ = stopping.wait_for(|stop| *stop) => break Ended::Left,
            };
            let piece = match piece {
                Some(Ok(piece)) => piece,
                Some(Err(_)) => break Ended::Broken,
                None => break Ended::Whole,
            };
            buffer.extend_from_slice(&piece);
            let mut messages = Vec::new();
            let taken = loop {
                match self.take_message(&[kind, "heartbeat"], &mut buffer) {
                    Ok(Some(message)) if message.from == sender => {
                        if matches!(message.body, Body::Heartbeat { .. }) {
                            self.peer(sender).heartbeat_came();
                        } else {
                            stream.expect(message.id);
                        }
                        messages.push(message);
                    }
                    Ok(Some(message)) => break Err(format!("a frame of {}", message.from)),
                    Ok(None) => break Ok(()),
                    Err(refused) => break Err(refused.detail),
                }
            };
            // What came before a fault was well formed and counts.
            self.deliver(messages);
            if let Err(fault) = taken {
                warn_malformed(sender, kind, &fault);
                break Ended::Left;
            }
        };
        if ended == Ended::Whole && !stream.is_done() {
            let _ = timeout(self.config.answer_timeout, stream.all_answered.notified()).await;
        }
        self.waiting.close(&stream);
        if ended != Ended::Left {
            self.lost(sender, kind);
        }
    }

    /// A stream of forwarded requests, answered in any order.
    fn propose(self: &Arc<Self>, sender: NodeId, body: Pieces) -> Response {
        let answers = Arc::new(Outbox::new(FORWARDED_MAX * 2, ANSWER_BYTES_MAX));
        let frames = Frames::<(u64, Parts)>::of(
            answers.clone(),
            Box::new(|(id, result), piece| put_answer(piece, id, &result)),
        );
        tokio::spawn(self.clone().read_proposals(sender, answers, body));
        with_type(FRAMES, warp::reply::stream(frames).into_response())
    }

    async fn read_proposals(
        self: Arc<Self>,
        sender: NodeId,
        answers: Arc<Outbox<(u64, Parts)>>,
        mut body: Pieces,
    ) {
        let under_way = Arc::new(Semaphore::new(FORWARDED_MAX));
        let mut stopping = self.stopping.subscribe();
        let mut buffer = BytesMut::new();
        let ended = 'reading: loop {
            let piece = tokio::select! {
                piece = body.next() => piece,
                _ = stopping.wait_for(|stop| *stop) => break Ended::Left,
            };
            match piece {
                Some(Ok(piece)) => buffer.extend_from_slice(&piece),
                Some(Err(_)) => break Ended::Broken,
                None => break Ended::Whole,
            }
            loop {
                match self.take_proposal(sender, &mut buffer, &answers, &under_way) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(fault) => {
                        warn_malformed(sender, "propose", &fault);
                        break 'reading Ended::Left;
                    }
                }
            }
        };
        if ended != Ended::Left {
            self.lost(sender, "propose");
        }
        // What was accepted is answered, if the sender still listens.
        let _all = under_way.acquire_many(FORWARDED_MAX as u32).await;
        answers.close();
    }

    /// Takes one forwarded request off the buffer and starts on it; `false` when there is no whole
    /// one.
    fn take_proposal(
        &self,
        sender: NodeId,
        buffer: &mut BytesMut,
        answers: &Arc<Outbox<(u64, Parts)>>,
        under_way: &Arc<Semaphore>,
    ) -> Result<bool, String> {
        let Some(frame) = take_frame(buffer, self.config.frame_bytes_max)? else {
            return Ok(false);
        };
        let incoming = read_request(frame)?;
        let ours = Line { cluster: self.config.cluster, from: sender, to: self.config.node_id };
        if incoming.line != ours {
            return Err(format!("a frame of {:?} on the line {ours:?}", incoming.line));
        }
        let request = decode_request(&incoming.request).map_err(|fault| fault.to_string())?;
        let id = incoming.id;
        let permit = under_way.clone().try_acquire_owned();
        let (Ok(permit), Some(service)) = (permit, self.service.get()) else {
            let outcome = request.is_write().then_some(Outcome::NotApplied);
            let busy = Err(Failure { reason: Reason::Busy, outcome });
            answer(answers, id, encode_result(&busy));
            return Ok(true);
        };
        let call = service.call(request, incoming.time_left, incoming.hops);
        let answers = answers.clone();
        tokio::spawn(async move {
            let result = call.await;
            answer(&answers, id, encode_result(&result));
            drop(permit);
        });
        Ok(true)
    }

    /// Takes the first message, of one of these kinds, off the buffer; `None` when there is no whole
    /// one.
    fn take_message(
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

    /// A stream from this peer ended: perhaps because its process did.
    fn lost(self: &Arc<Self>, sender: NodeId, kind: &str) {
        debug!("the {kind} stream of {sender} ended");
        self.broken(&self.peer(sender));
    }
}

/// How a stream of requests came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The sender finished it.
    Whole,
    /// The connection broke.
    Broken,
    /// We closed it.
    Left,
}

/// Queues an answer. One that finds the queue full would be waited for in vain: the stream is closed
/// instead, which the other side takes as "unknown".
fn answer(answers: &Outbox<(u64, Parts)>, id: u64, result: Parts) {
    let bytes = result.len();
    if answers.push((id, result), bytes).is_err() {
        answers.close();
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

fn with_type(content_type: HeaderValue, mut response: Response) -> Response {
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
