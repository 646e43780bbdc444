//! The control connection: small requests that must not wait behind large ones, one at a time.
//!
//! Each is a `POST /raft/<kind>` with one frame; its response holds the frame of the answer, or
//! nothing. What waits too long is dropped rather than sent late, and a heartbeat takes the place of
//! an older one: only the newest says anything.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use raft_core::codec::{FrameDecoder, encode_frame};
use raft_core::message::{Body, Message};
use tokio::time::{Instant, timeout};

use super::connect::{Connection, Sender, collect, connect, handshake, whole};
use super::headers::{FRAMES, detail_of};
use super::outbox::Outbox;
use super::{Peer, Shared};

/// Requests that may wait for one peer.
pub(super) const QUEUED_MAX: usize = 64;
/// A request that waited longer says nothing true any more.
const STALE_AFTER: Duration = Duration::from_secs(1);
/// Answers are small.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A request in the queue.
pub(super) struct Queued {
    message: Message,
    since: Instant,
}

/// Queues a request; returns how many older ones had to go for it.
pub(super) fn queue(outbox: &Outbox<Queued>, message: Message, bytes: usize) -> usize {
    let is_heartbeat = |message: &Message| matches!(message.body, Body::Heartbeat { .. });
    let replaces = is_heartbeat(&message);
    let queued = Queued { message, since: Instant::now() };
    outbox.push_newest(queued, bytes, |old| replaces && is_heartbeat(&old.message))
}

/// Works the queue off until it is closed.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut open: Option<Open> = None;
    let mut silences = 0;
    loop {
        // An idle connection is watched too: that it broke may be the first sign of a crash.
        let filled = match &mut open {
            None => peer.control.filled().await,
            Some(connected) => tokio::select! {
                filled = peer.control.filled() => filled,
                _ = &mut connected.connection => {
                    open = None;
                    shared.broken(&peer);
                    continue;
                }
            },
        };
        if !filled {
            return;
        }
        let Some(queued) = peer.control.pop() else { continue };
        if STALE_AFTER < queued.since.elapsed() {
            peer.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        match deliver(&shared, &peer, &mut open, &queued.message).await {
            Ok(()) => {
                if 2 <= std::mem::take(&mut silences) {
                    peer.renewed.send_modify(|times| *times += 1);
                }
            }
            Err(Trouble::Silent) => {
                silences += 1;
                open = None;
                peer.failed("no answer in time");
            }
            Err(Trouble::Unreachable(error)) => {
                open = None;
                peer.failed(&error);
                peer.dropped.fetch_add(1, Ordering::Relaxed);
                peer.reach.may_try().await;
            }
            Err(Trouble::Refused(text)) => {
                peer.refused(text);
                peer.control.take_all();
                peer.reach.may_try().await;
            }
        }
    }
}

/// An open connection.
struct Open {
    sender: Sender,
    connection: Pin<Box<Connection>>,
    host: HeaderValue,
}

/// Why a request has no answer.
enum Trouble {
    /// The peer did not answer in time.
    Silent,
    /// It cannot be reached, or the connection broke, or it answered nonsense.
    Unreachable(String),
    /// It says that we do not belong together.
    Refused(String),
}

/// Sends one request and hands its answer to the core. A connection that turns out to be closed is
/// opened anew once: a peer may close an idle one at any time, and a message may arrive twice.
async fn deliver(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    open: &mut Option<Open>,
    message: &Message,
) -> Result<(), Trouble> {
    let was_open = open.is_some();
    let first = attempt(shared, peer, open, message).await;
    match first {
        Err(Trouble::Unreachable(_)) if was_open => {
            *open = None;
            shared.broken(peer);
            attempt(shared, peer, open, message).await
        }
        other => other,
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    open: &mut Option<Open>,
    message: &Message,
) -> Result<(), Trouble> {
    if open.is_none() {
        *open = Some(connect_to(shared, peer).await?);
    }
    let connected = open.as_mut().expect("it was just opened");
    let mut frame = BytesMut::new();
    encode_frame(shared.config.cluster, message, &mut frame);
    peer.sent_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
    let mut request = Request::post(format!("/raft/{}", message.body.kind()))
        .header(HOST, &connected.host)
        .header(CONTENT_TYPE, FRAMES)
        .body(whole(frame.freeze()))
        .expect("the path is made of plain letters");
    shared.line_to(peer.id).write(request.headers_mut());

    let began = Instant::now();
    let exchange = async {
        let response =
            connected.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = collect(response.into_body(), ANSWER_BYTES_MAX).await?;
        Ok::<_, String>((status, body))
    };
    // The peer holds the response open for `answer_timeout` and then says that there is no answer:
    // only a peer that says nothing at all is silent.
    let patience = shared.config.answer_timeout * 5 / 4;
    let answered = timeout(patience, drive(&mut connected.connection, exchange));
    let (status, body) = match answered.await {
        Err(_) => return Err(Trouble::Silent),
        Ok(Err(error) | Ok(Err(error))) => return Err(Trouble::Unreachable(error)),
        Ok(Ok(Ok(answer))) => answer,
    };
    match status {
        StatusCode::OK => {
            let decoder = FrameDecoder::new(ANSWER_BYTES_MAX);
            let decoded = decoder.decode(&mut BytesMut::from(&body[..]));
            let answer = match decoded {
                Ok(Some((cluster, answer))) => {
                    shared.check_answer(peer, cluster, &answer).map_err(Trouble::Unreachable)?;
                    answer
                }
                Ok(None) => return Err(Trouble::Unreachable("half a frame".to_owned())),
                Err(fault) => return Err(Trouble::Unreachable(fault.to_string())),
            };
            peer.reach.served();
            if matches!(answer.body, Body::HeartbeatReply { .. }) {
                peer.measured(began);
            }
            shared.deliver(vec![answer]);
            Ok(())
        }
        StatusCode::NO_CONTENT => {
            peer.reach.served();
            Ok(())
        }
        StatusCode::CONFLICT => Err(Trouble::Refused(detail_of(&body))),
        other => Err(Trouble::Unreachable(format!("it answers {other}: {}", detail_of(&body)))),
    }
}

async fn connect_to(shared: &Shared, peer: &Peer) -> Result<Open, Trouble> {
    let address = shared.address_of(peer).map_err(Trouble::Unreachable)?;
    let unreachable = |error: super::connect::ConnectError| Trouble::Unreachable(error.text);
    let stream = connect(&address).await.map_err(unreachable)?;
    let (sender, connection) = handshake(stream).await.map_err(unreachable)?;
    let host = HeaderValue::from_str(&address)
        .map_err(|_| Trouble::Unreachable(format!("{address:?} is no address")))?;
    Ok(Open { sender, connection: Box::pin(connection), host })
}

/// Polls the connection for as long as the work takes. The error says how the connection ended
/// before the work was done.
pub(super) async fn drive<F: Future>(
    connection: &mut Pin<Box<Connection>>,
    work: F,
) -> Result<F::Output, String> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        output = &mut work => Ok(output),
        ended = connection => match work.now_or_never() {
            Some(output) => Ok(output),
            None => Err(match ended {
                Ok(()) => "the connection was closed".to_owned(),
                Err(error) => format!("the connection broke: {error}"),
            }),
        },
    }
}
