//! An endless request to one peer: frames go out in its body, answers come back in the body of its
//! response, both for as long as the connection holds.
//!
//! Whatever waits together leaves in one write. Nothing leaves before the peer has agreed with a
//! response head, so a refused stream has sent nothing. When the connection breaks, what waited is
//! dropped: the core sends again what matters, in the state of affairs of that time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use raft_core::codec::{FrameDecoder, encode_frame};
use raft_core::message::Message;
use raft_core::types::ClusterId;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connect::{collect, connect, endless, handshake};
use super::control::drive;
use super::headers::{FRAMES, detail_of};
use super::outbox::{Encode, Frames, Outbox};
use super::{Peer, Shared, warn_malformed};

/// How long the peer may take to agree to a stream.
const AGREE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a refusal is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Takes complete frames off the buffer.
pub(super) type Read = Box<dyn FnMut(&mut BytesMut) -> Result<(), String> + Send>;

/// What flows over a stream.
pub(super) trait Traffic: Send + Sync + 'static {
    /// What is queued.
    type Item: Send + 'static;

    /// The last part of the path.
    fn endpoint(&self) -> &'static str;
    /// Where it is queued.
    fn outbox(&self) -> &Arc<Outbox<Self::Item>>;
    /// How one item becomes a frame, as it leaves.
    fn encode(self: &Arc<Self>) -> Encode<Self::Item>;
    /// How answers are read.
    fn read(self: &Arc<Self>) -> Read;
    /// What says that the peer is back after a silence.
    fn renewed(&self, peer: &Peer) -> watch::Receiver<u64>;
    /// There is no stream (any more): nothing will come of what was sent, and what waits shall not
    /// be sent later.
    fn broken(&self);
}

/// Keeps a stream open whenever there is something to send, until the queue is closed.
pub(super) async fn run<T: Traffic>(shared: Arc<Shared>, peer: Arc<Peer>, traffic: Arc<T>) {
    traffic.outbox().set_open(false);
    let mut stopping = shared.stopping.subscribe();
    while traffic.outbox().filled().await {
        let stopped = tokio::select! {
            () = converse(&shared, &peer, &traffic) => false,
            _ = stopping.wait_for(|stop| *stop) => true,
        };
        traffic.outbox().set_open(false);
        traffic.broken();
        if stopped {
            break;
        }
        peer.reach.may_try().await;
    }
    traffic.broken();
}

/// Opens a stream and keeps it until it breaks.
async fn converse<T: Traffic>(shared: &Arc<Shared>, peer: &Arc<Peer>, traffic: &Arc<T>) {
    let opened = async {
        let address = shared.address_of(peer)?;
        let stream = connect(&address).await.map_err(|error| error.text)?;
        let connected = handshake(stream).await.map_err(|error| error.text)?;
        Ok::<_, String>((address, connected))
    };
    let (address, (mut sender, connection)) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return peer.failed(&error),
    };
    let mut connection = Box::pin(connection);
    let mut renewed = traffic.renewed(peer);

    let frames = Frames::of(traffic.outbox().clone(), traffic.encode());
    let request = Request::post(format!("/raft/{}", traffic.endpoint()))
        .header(HOST, &address)
        .header(CONTENT_TYPE, FRAMES)
        .body(endless(frames));
    let Ok(mut request) = request else {
        return peer.failed("its address is none");
    };
    shared.line_to(peer.id).write(request.headers_mut());

    let agreed = timeout(AGREE_TIMEOUT, drive(&mut connection, sender.send_request(request)));
    let response = match agreed.await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(error))) => return peer.failed(&error.to_string()),
        Ok(Err(error)) => return peer.failed(&error),
        Err(_) => return peer.failed("no answer in time"),
    };
    let status = response.status();
    let mut body = response.into_body();
    if status != StatusCode::OK {
        let refusal = drive(&mut connection, collect(body, REFUSAL_BYTES_MAX));
        let text = match timeout(AGREE_TIMEOUT, refusal).await {
            Ok(Ok(Ok(bytes))) => detail_of(&bytes),
            _ => String::new(),
        };
        return match status {
            StatusCode::CONFLICT => peer.refused(text),
            other => peer.failed(&format!("it answers {other}: {text}")),
        };
    }
    peer.reach.served();
    traffic.outbox().set_open(true);

    let mut read = traffic.read();
    let mut buffer = BytesMut::new();
    loop {
        let piece = tokio::select! {
            piece = drive(&mut connection, body.frame()) => piece,
            // The peer was silent and is back: a fresh connection carries at once what this one
            // would still hold back.
            _ = renewed.changed() => return,
        };
        let Ok(Some(Ok(piece))) = piece else { break };
        let Ok(data) = piece.into_data() else { continue };
        buffer.extend_from_slice(&data);
        if let Err(fault) = read(&mut buffer) {
            warn_malformed(peer.id, traffic.endpoint(), &fault);
            break;
        }
    }
    peer.errors.fetch_add(1, Ordering::Relaxed);
    shared.broken(peer);
}

/// Messages of the core: appends on one stream, snapshots on another.
pub(super) struct Messages {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    endpoint: &'static str,
    outbox: Arc<Outbox<Message>>,
}

impl Messages {
    /// The messages of this queue, for this endpoint.
    pub(super) fn new(
        shared: &Arc<Shared>,
        peer: &Arc<Peer>,
        endpoint: &'static str,
        outbox: Arc<Outbox<Message>>,
    ) -> Arc<Messages> {
        Arc::new(Messages { shared: shared.clone(), peer: peer.clone(), endpoint, outbox })
    }
}

impl Traffic for Messages {
    type Item = Message;

    fn endpoint(&self) -> &'static str {
        self.endpoint
    }

    fn outbox(&self) -> &Arc<Outbox<Message>> {
        &self.outbox
    }

    fn encode(self: &Arc<Self>) -> Encode<Message> {
        let (cluster, peer) = (self.shared.config.cluster, self.peer.clone());
        Box::new(move |message, piece| {
            let before = piece.len();
            encode_frame(cluster, &message, piece);
            peer.sent_bytes.fetch_add((piece.len() - before) as u64, Ordering::Relaxed);
        })
    }

    fn read(self: &Arc<Self>) -> Read {
        let this = self.clone();
        // Answers are small: a frame that claims more is none.
        const ANSWER_BYTES_MAX: usize = 64 << 10;
        let decoder = FrameDecoder::new(ANSWER_BYTES_MAX);
        Box::new(move |buffer| {
            let mut answers = Vec::new();
            while let Some((cluster, answer)) =
                decoder.decode(buffer).map_err(|fault| fault.to_string())?
            {
                this.shared.check_answer(&this.peer, cluster, &answer)?;
                answers.push(answer);
            }
            this.shared.deliver(answers);
            Ok(())
        })
    }

    fn renewed(&self, peer: &Peer) -> watch::Receiver<u64> {
        peer.renewed.subscribe()
    }

    fn broken(&self) {
        let lost = self.outbox.take_all().len() as u64;
        self.peer.dropped.fetch_add(lost, Ordering::Relaxed);
    }
}

impl Shared {
    /// An answer has to be one, of this peer, for us, in our cluster.
    pub(super) fn check_answer(
        &self,
        peer: &Peer,
        cluster: ClusterId,
        answer: &Message,
    ) -> Result<(), String> {
        let ours = &self.config;
        let fits = cluster == ours.cluster
            && answer.from == peer.id
            && answer.to == ours.node_id
            && answer.body.is_reply();
        if fits {
            return Ok(());
        }
        Err(format!(
            "a {} of {} to {} in cluster {cluster}, expected an answer of {} to {} in cluster {}",
            answer.body.kind(),
            answer.from,
            answer.to,
            peer.id,
            ours.node_id,
            ours.cluster
        ))
    }
}
