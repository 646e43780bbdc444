//! Streams that come in from other nodes: of messages for the core, and of forwarded requests. Each is
//! an endless request whose response is endless too; the door it came by is `endpoints.rs`.
//!
//! What came whole before a fault or an end counts; nothing is taken of what did not. A stream that
//! ends is a first sign that its sender did.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::StreamExt;
use log::debug;
use raft_core::codec::encode_frame;
use raft_core::message::{Body, Message};
use raft_core::types::NodeId;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use warp::reply::{Reply, Response};

use super::endpoints::{Pieces, with_type};
use super::headers::{FRAMES, Line};
use super::outbox::{Frames, Outbox};
use super::propose::{put_answer, read_request, take_frame};
use super::waiting::{AnswerStream, Class};
use super::{Shared, warn_malformed};
use crate::kv::forward::{Parts, decode_request, encode_result};
use crate::kv::request::{Failure, Outcome, Reason};

/// Forwarded requests of one stream that may be under way; beyond it they are answered "busy".
const FORWARDED_MAX: usize = 4096;
/// Answers to forwarded requests that may wait to be written to one stream.
const ANSWER_BYTES_MAX: usize = 64 << 20;

impl Shared {
    /// An endless stream of frames, answered by an endless stream of answers.
    pub(super) fn stream(
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
    pub(super) fn propose(self: &Arc<Self>, sender: NodeId, body: Pieces) -> Response {
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
