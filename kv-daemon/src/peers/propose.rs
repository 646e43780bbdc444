//! Writes on their way to the node that leads, and their answers on the way back.
//!
//! Hundreds can be in flight on one connection; answers come in any order. What is asked for here is
//! honesty: a request that may have left this node is never sent again, and only one of which
//! certainly no byte left is reported as [`Forwarded::NothingSent`].
//!
//! ```text
//! request   0  len u32 4  of all after `crc`          answer   0  len u32 4
//!           4  crc u32 4  CRC-32 of all after it               4  crc u32 4
//!           8  cluster u64 8                                   8  id  u64 8
//!          16  from    u64 8                                  16  result
//!          24  to      u64 8
//!          32  id      u64 8   repeated by the answer
//!          40  time_left_ms u32 4   counted from when it is read
//!          44  hops    u8  1   how often it has been handed on
//!          45  request
//! ```
//!
//! Integers are little-endian; requests and results are as `kv::forward` writes them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft_core::types::{ClusterId, NodeId};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::headers::Line;
use super::outbox::{Encode, Outbox};
use super::stream::{Read, Traffic};
use super::{Lane, Peer, Shared};
use crate::kv::forward::{Parts, decode_result, encode_request};
use crate::kv::request::Request;
use crate::kv::service::Forwarded;

/// Larger requests take a connection of their own, so that small ones do not wait behind them.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Requests that may wait to be sent, and their bytes; one is always let in.
const QUEUED_MAX: usize = 4096;
const QUEUED_BYTES_MAX: usize = 128 << 20;

const PREFIX_BYTES: usize = 8;
/// `cluster` to `hops`.
const REQUEST_HEAD_BYTES: usize = 37;

/// The forwarded writes of one connection.
pub(super) struct Proposals {
    line: Line,
    frame_bytes_max: usize,
    outbox: Arc<Outbox<Outgoing>>,
    pending: Mutex<BTreeMap<u64, Pending>>,
    last_id: AtomicU64,
}

/// A request in the queue.
pub(super) struct Outgoing {
    id: u64,
    parts: Parts,
    deadline: Instant,
    hops: u8,
}

/// A request that somebody waits for.
struct Pending {
    answer: oneshot::Sender<Forwarded>,
    /// Bytes of it were handed to the connection.
    sent: bool,
}

/// Sends a request to this peer and waits for what comes of it.
pub(super) async fn forward(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    request: &Request,
    time_left: Duration,
    hops: u8,
) -> Forwarded {
    let parts = encode_request(request);
    let (proposals, lane) = if parts.len() <= SMALL_BYTES_MAX {
        (&peer.small, Lane::Small)
    } else {
        (&peer.large, Lane::Large)
    };
    let id = proposals.last_id.fetch_add(1, Ordering::Relaxed) + 1;
    let (answer, answered) = oneshot::channel();
    proposals.pending().insert(id, Pending { answer, sent: false });
    let waiting = Withdraw { proposals, id };
    let bytes = parts.len();
    let outgoing = Outgoing { id, parts, deadline: Instant::now() + time_left, hops };
    if proposals.outbox.push(outgoing, bytes).is_err() {
        return Forwarded::NothingSent;
    }
    shared.start(peer, lane);
    match timeout(time_left, answered).await {
        Ok(Ok(forwarded)) => forwarded,
        // The sender's side goes away only with an answer in it.
        Ok(Err(_)) => Forwarded::Broken,
        Err(_) => waiting.give_up(),
    }
}

/// Takes a request back when nobody waits for it any more.
struct Withdraw<'a> {
    proposals: &'a Proposals,
    id: u64,
}

impl Withdraw<'_> {
    /// The time is over. What has not left yet never will.
    fn give_up(self) -> Forwarded {
        match self.proposals.pending().remove(&self.id) {
            Some(Pending { sent: false, .. }) => Forwarded::NothingSent,
            _ => Forwarded::Broken,
        }
    }
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.proposals.pending().remove(&self.id);
    }
}

impl Proposals {
    /// None yet, for this line.
    pub(super) fn new(line: Line, frame_bytes_max: usize) -> Proposals {
        Proposals {
            line,
            frame_bytes_max,
            outbox: Arc::new(Outbox::new(QUEUED_MAX, QUEUED_BYTES_MAX)),
            pending: Mutex::default(),
            last_id: AtomicU64::new(0),
        }
    }

    /// Takes no more requests.
    pub(super) fn close(&self) {
        self.outbox.close();
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<u64, Pending>> {
        self.pending.lock().expect("no code panics while it holds this lock")
    }
}

impl Traffic for Proposals {
    type Item = Outgoing;

    fn endpoint(&self) -> &'static str {
        "propose"
    }

    fn outbox(&self) -> &Arc<Outbox<Outgoing>> {
        &self.outbox
    }

    fn encode(self: &Arc<Self>) -> Encode<Outgoing> {
        let this = self.clone();
        Box::new(move |outgoing, piece| {
            // A request that was withdrawn does not leave; one that leaves is marked before.
            let mut pending = this.pending();
            let Some(entry) = pending.get_mut(&outgoing.id) else { return };
            entry.sent = true;
            drop(pending);
            outgoing.encode(&this.line, piece);
        })
    }

    fn read(self: &Arc<Self>) -> Read {
        let this = self.clone();
        Box::new(move |buffer| {
            while let Some(frame) = take_frame(buffer, this.frame_bytes_max)? {
                let (id, result) = read_answer(frame)?;
                let result = decode_result(&result).map_err(|fault| fault.to_string())?;
                if let Some(pending) = this.pending().remove(&id) {
                    // Whoever has stopped waiting has withdrawn it.
                    let _ = pending.answer.send(Forwarded::Done(result));
                }
            }
            Ok(())
        })
    }

    fn renewed(&self, peer: &Peer) -> watch::Receiver<u64> {
        peer.leader_back.subscribe()
    }

    fn broken(&self) {
        drop(self.outbox.take_all());
        let pending = std::mem::take(&mut *self.pending());
        for Pending { answer, sent } in pending.into_values() {
            let _ = answer.send(if sent { Forwarded::Broken } else { Forwarded::NothingSent });
        }
    }
}

impl Outgoing {
    fn encode(&self, line: &Line, piece: &mut BytesMut) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let mut head = [0; REQUEST_HEAD_BYTES];
        let mut at = &mut head[..];
        at.put_u64_le(line.cluster.0);
        at.put_u64_le(line.from.0);
        at.put_u64_le(line.to.0);
        at.put_u64_le(self.id);
        at.put_u32_le(u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
        at.put_u8(self.hops);
        put_frame(piece, &head, &self.parts);
    }
}

/// A forwarded request as it came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) line: Line,
    pub(super) id: u64,
    pub(super) time_left: Duration,
    pub(super) hops: u8,
    /// As `kv::forward` wrote it.
    pub(super) request: Bytes,
}

/// Reads the frame of a request.
pub(super) fn read_request(mut frame: Bytes) -> Result<Incoming, String> {
    if frame.len() < REQUEST_HEAD_BYTES {
        return Err(format!("a forwarded request of {} bytes", frame.len()));
    }
    let line = Line {
        cluster: ClusterId(frame.get_u64_le()),
        from: NodeId(frame.get_u64_le()),
        to: NodeId(frame.get_u64_le()),
    };
    let id = frame.get_u64_le();
    let time_left = Duration::from_millis(frame.get_u32_le().into());
    let hops = frame.get_u8();
    Ok(Incoming { line, id, time_left, hops, request: frame })
}

/// Appends the frame of an answer.
pub(super) fn put_answer(piece: &mut BytesMut, id: u64, result: &Parts) {
    put_frame(piece, &id.to_le_bytes(), result);
}

fn read_answer(mut frame: Bytes) -> Result<(u64, Bytes), String> {
    if frame.len() < 8 {
        return Err(format!("an answer of {} bytes", frame.len()));
    }
    let id = frame.get_u64_le();
    Ok((id, frame))
}

fn put_frame(piece: &mut BytesMut, head: &[u8], parts: &Parts) {
    let len = head.len() + parts.len();
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(&parts.head);
    crc.update(&parts.value);
    piece.reserve(PREFIX_BYTES + len);
    piece.put_u32_le(u32::try_from(len).expect("values are far below 4 GiB"));
    piece.put_u32_le(crc.finalize());
    piece.put_slice(head);
    piece.put_slice(&parts.head);
    piece.put_slice(&parts.value);
}

/// Takes one whole frame, without its prefix, off the front of the buffer.
pub(super) fn take_frame(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, String> {
    if buffer.len() < PREFIX_BYTES {
        return Ok(None);
    }
    let len = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
    if bytes_max < len {
        return Err(format!("a frame of {len} bytes, at most {bytes_max} are allowed"));
    }
    if buffer.len() < PREFIX_BYTES + len {
        return Ok(None);
    }
    let stored = u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
    let mut frame = buffer.split_to(PREFIX_BYTES + len).freeze();
    frame.advance(PREFIX_BYTES);
    let computed = crc32fast::hash(&frame);
    if computed != stored {
        return Err(format!("a frame with CRC {stored:08x}, its bytes have {computed:08x}"));
    }
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::forward::encode_result;
    use crate::kv::request::{Answer, Condition};

    fn line() -> Line {
        Line { cluster: ClusterId(0xc1), from: NodeId(1), to: NodeId(2) }
    }

    fn put(value: &'static [u8]) -> Request {
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(value));
        Request::Put { key, value, condition: Condition::default() }
    }

    fn request_frame() -> BytesMut {
        let mut piece = BytesMut::new();
        let parts = encode_request(&put(b"value"));
        let deadline = Instant::now() + Duration::from_secs(3600);
        Outgoing { id: 7, parts, deadline, hops: 2 }.encode(&line(), &mut piece);
        piece
    }

    #[test]
    fn a_request_and_its_answer_come_out_as_they_went_in() {
        let mut piece = request_frame();
        let frame = take_frame(&mut piece, 1 << 20).expect("well formed").expect("whole");
        let incoming = read_request(frame).expect("well formed");
        assert_eq!((incoming.line, incoming.id, incoming.hops), (line(), 7, 2));
        assert!(Duration::from_secs(3000) < incoming.time_left);
        let request = crate::kv::forward::decode_request(&incoming.request);
        assert_eq!(request, Ok(put(b"value")));

        let result = Ok(Answer::Put { revision: 9, created: true, version: 1 });
        let mut piece = BytesMut::new();
        put_answer(&mut piece, 7, &encode_result(&result));
        let frame = take_frame(&mut piece, 1 << 20).expect("well formed").expect("whole");
        let (id, bytes) = read_answer(frame).expect("well formed");
        assert_eq!((id, decode_result(&bytes)), (7, Ok(result)));
    }

    /// A byte that changes on the way is noticed wherever it is; a missing one is waited for.
    #[test]
    fn a_flipped_or_missing_byte_never_becomes_a_request() {
        let whole = request_frame();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            let taken = take_frame(&mut flipped, 1 << 20);
            assert!(!matches!(taken, Ok(Some(_))), "byte {at}");
            let taken = take_frame(&mut BytesMut::from(&whole[..at]), 1 << 20);
            assert_eq!(taken, Ok(None), "cut at {at}");
        }
        take_frame(&mut whole.clone(), 10).expect_err("it is larger than that");
        read_request(Bytes::from_static(b"short")).expect_err("it has no head");
    }
}
