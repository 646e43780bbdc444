//! Messages as frames on the wire.
//!
//! ```text
//! frame       0  len       u32 4  of all after `crc`
//!             4  crc       u32 4  CRC-32 of `len` and all after `crc`
//!             8  head_len  u32 4
//!            12  head             the message without its payloads, see `Head`
//!             .  payloads         as they are, one after the other: the commands and memberships of
//!                                 an append, or the data of a snapshot's chunk
//! ```
//!
//! Integers are little-endian. An append's entries follow `prev` without a gap, so their indexes are
//! not sent and cannot be wrong. What comes out of [`FrameDecoder::decode`] is possible: terms that
//! do not fall, memberships that can be, chunks inside their snapshot. Whether it is *true* is for
//! the core to judge.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{
    HEAD_BYTES_MAX, HEAD_BYTES_USUAL, REACHED_MAX, decode_payload, encode_payload, plain_value,
    put_plain, sound_meta, sound_position,
};
use crate::buffer;
use crate::message::{AppendResult, Body, Message};
use crate::state_machine::Malformed;
use crate::types::{ClusterId, Entry, Index, LogPosition, NodeId, Term};
use crate::write::SnapshotMeta;

/// A frame limit that lets in every message of a node with the default settings: 80 MiB.
pub const FRAME_BYTES_MAX: usize = 80 << 20;

/// Bytes of a frame that `len` does not count.
const PREFIX_BYTES: usize = 8;
const HEAD_LEN_BYTES: usize = 4;

/// Takes messages out of a stream of frames.
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder {
    frame_bytes_max: usize,
}

/// Appends `message`, as one of `cluster`, to `out`.
///
/// # Panics
///
/// When the message breaks a rule of its type (entries with a gap), when its head has more than
/// [`HEAD_BYTES_MAX`], or the frame 4 GiB or more.
pub fn encode_frame(cluster: ClusterId, message: &Message, out: &mut BytesMut) {
    let (body, payloads) = take_apart(&message.body);
    let Message { from, to, term, id, .. } = *message;
    let payload_bytes: usize = payloads.iter().map(Bytes::len).sum();
    let start = out.len();
    out.reserve(PREFIX_BYTES + HEAD_LEN_BYTES + HEAD_BYTES_USUAL + payload_bytes);
    // Lengths and checksum are known at the end only.
    out.put_bytes(0, PREFIX_BYTES + HEAD_LEN_BYTES);
    let head_len = put_plain(&Head { cluster, from, to, term, id, body }, out);
    for payload in &payloads {
        out.put_slice(payload);
    }
    let frame = &mut out[start..];
    let len = u32::try_from(frame.len() - PREFIX_BYTES);
    let len = len.expect("limits on messages keep frames below 4 GiB");
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame[PREFIX_BYTES..][..HEAD_LEN_BYTES].copy_from_slice(&(head_len as u32).to_le_bytes());
    let crc = frame_crc(frame);
    frame[4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
}

impl FrameDecoder {
    /// One that refuses frames of more than this many bytes (as soon as their length is seen).
    pub fn new(frame_bytes_max: usize) -> FrameDecoder {
        FrameDecoder { frame_bytes_max }
    }

    /// Takes the first message, and the cluster it is meant for, off the front of `buffer`; `None`
    /// when more bytes must come first. After an error the rest of the stream has no meaning.
    ///
    /// Each payload is copied once into a buffer of its own size: a slice of `buffer` would pin the
    /// whole of it for as long as the entry lives.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<(ClusterId, Message)>, Malformed> {
        let Some(len) = buffer.get(..4) else { return Ok(None) };
        let len = u32_of(len) as usize;
        let max = self.frame_bytes_max.saturating_sub(PREFIX_BYTES);
        if len < HEAD_LEN_BYTES || max < len {
            return Err(Malformed::new(format!("a frame length of {len}, at most {max}")));
        }
        if buffer.len() - PREFIX_BYTES.min(buffer.len()) < len {
            return Ok(None);
        }
        let whole = PREFIX_BYTES + len;
        let read = read_frame(&buffer[..whole]);
        // Not split off: nothing keeps a part of the buffer, so it need not become a shared one.
        buffer.advance(whole);
        read.map(Some)
    }
}

/// What a whole frame says.
fn read_frame(frame: &[u8]) -> Result<(ClusterId, Message), Malformed> {
    let (computed, stored) = (frame_crc(frame), u32_of(&frame[4..PREFIX_BYTES]));
    if computed != stored {
        let text = format!("a frame with CRC {stored:08x}, its bytes have {computed:08x}");
        return Err(Malformed::new(text));
    }
    let (head_len, rest) = frame[PREFIX_BYTES..].split_at(HEAD_LEN_BYTES);
    let head_len = u32_of(head_len) as usize;
    if HEAD_BYTES_MAX < head_len || rest.len() < head_len {
        let text =
            format!("a head of {head_len} bytes in a frame of {}", frame.len() - PREFIX_BYTES);
        return Err(Malformed::new(text));
    }
    let (head, payloads) = rest.split_at(head_len);
    let Head { cluster, from, to, term, id, body } = plain_value(head, "a head")?;
    if from == to {
        return Err(Malformed::new(format!("a message of {from} to itself")));
    }
    if REACHED_MAX < term.0 {
        return Err(Malformed::new(format!("a message of term {term}, which no cluster reaches")));
    }
    let mut payloads = Payloads { rest: payloads };
    let body = put_together(body, term, &mut payloads)?;
    if !payloads.rest.is_empty() {
        let text = format!("{} bytes after the last payload", payloads.rest.len());
        return Err(Malformed::new(text));
    }
    Ok((cluster, Message { from, to, term, id, body }))
}

/// A message without its payloads. The order of fields and variants is the format.
#[derive(Serialize, Deserialize)]
struct Head {
    cluster: ClusterId,
    from: NodeId,
    to: NodeId,
    term: Term,
    id: u64,
    body: HeadBody,
}

/// [`Body`] without its payloads.
#[derive(Serialize, Deserialize)]
enum HeadBody {
    PreVote { last: LogPosition },
    PreVoteReply { granted: bool, asked_in: Term },
    RequestVote { last: LogPosition, transfer: bool },
    VoteReply { granted: bool },
    Append { prev: LogPosition, commit: Index, entries: Vec<HeadEntry> },
    AppendMatched { index: Index },
    AppendConflict { prev: Index, hint: LogPosition },
    Heartbeat { round: u64, commit: Index },
    HeartbeatReply { round: u64, matched: Index, received: Index },
    InstallSnapshot { meta: SnapshotMeta, offset: u64, data_bytes: u32 },
    SnapshotReply { position: LogPosition, next_offset: Option<u64> },
    TimeoutNow { last: LogPosition },
    ReadIndex,
    ReadIndexReply { index: Option<Index> },
}

/// An entry without its index and payload.
#[derive(Serialize, Deserialize)]
struct HeadEntry {
    term: Term,
    kind: u8,
    bytes: u32,
}

/// What is left of a frame's payloads.
struct Payloads<'a> {
    rest: &'a [u8],
}

fn take_apart(body: &Body) -> (HeadBody, Vec<Bytes>) {
    let mut payloads = Vec::new();
    let head = match body {
        Body::PreVote { last } => HeadBody::PreVote { last: *last },
        Body::PreVoteReply { granted, asked_in } => {
            HeadBody::PreVoteReply { granted: *granted, asked_in: *asked_in }
        }
        Body::RequestVote { last, transfer } => {
            HeadBody::RequestVote { last: *last, transfer: *transfer }
        }
        Body::VoteReply { granted } => HeadBody::VoteReply { granted: *granted },
        Body::Append { prev, entries, commit } => {
            let mut heads = Vec::with_capacity(entries.len());
            let mut index = prev.index;
            for entry in entries {
                assert_eq!(entry.index(), index.next(), "entries of an append have no gap");
                index = entry.index();
                let (kind, payload) = encode_payload(&entry.payload);
                heads.push(HeadEntry { term: entry.term(), kind, bytes: length_of(&payload) });
                payloads.push(payload);
            }
            HeadBody::Append { prev: *prev, commit: *commit, entries: heads }
        }
        Body::AppendReply { result: AppendResult::Matched(index) } => {
            HeadBody::AppendMatched { index: *index }
        }
        Body::AppendReply { result: AppendResult::Conflict { prev, hint } } => {
            HeadBody::AppendConflict { prev: *prev, hint: *hint }
        }
        Body::Heartbeat { round, commit } => HeadBody::Heartbeat { round: *round, commit: *commit },
        Body::HeartbeatReply { round, matched, received } => {
            HeadBody::HeartbeatReply { round: *round, matched: *matched, received: *received }
        }
        Body::InstallSnapshot { meta, offset, data } => {
            payloads.push(data.clone());
            let data_bytes = length_of(data);
            HeadBody::InstallSnapshot { meta: meta.clone(), offset: *offset, data_bytes }
        }
        Body::SnapshotReply { position, next_offset } => {
            HeadBody::SnapshotReply { position: *position, next_offset: *next_offset }
        }
        Body::TimeoutNow { last } => HeadBody::TimeoutNow { last: *last },
        Body::ReadIndex => HeadBody::ReadIndex,
        Body::ReadIndexReply { index } => HeadBody::ReadIndexReply { index: *index },
    };
    (head, payloads)
}

/// `term` is the sender's: no log of his holds an entry of a later one.
fn put_together(
    head: HeadBody,
    term: Term,
    payloads: &mut Payloads<'_>,
) -> Result<Body, Malformed> {
    Ok(match head {
        HeadBody::PreVote { last } => Body::PreVote { last: in_log("the last entry", last, term)? },
        HeadBody::PreVoteReply { granted, asked_in } => Body::PreVoteReply { granted, asked_in },
        HeadBody::RequestVote { last, transfer } => {
            Body::RequestVote { last: in_log("the last entry", last, term)?, transfer }
        }
        HeadBody::VoteReply { granted } => Body::VoteReply { granted },
        HeadBody::Append { prev, commit, entries } => {
            let prev = in_log("the entry before", prev, term)?;
            let entries = following(prev, entries, term, payloads)?;
            Body::Append { prev, entries, commit }
        }
        HeadBody::AppendMatched { index } => {
            Body::AppendReply { result: AppendResult::Matched(index) }
        }
        HeadBody::AppendConflict { prev, hint } => {
            let hint = in_log("the hint", hint, term)?;
            Body::AppendReply { result: AppendResult::Conflict { prev, hint } }
        }
        HeadBody::Heartbeat { round, commit } => Body::Heartbeat { round, commit },
        HeadBody::HeartbeatReply { round, matched, received } => {
            Body::HeartbeatReply { round, matched, received }
        }
        HeadBody::InstallSnapshot { meta, offset, data_bytes } => {
            let meta = sound_meta(meta)?;
            in_log("the snapshot", meta.position, term)?;
            let data = payloads.take(data_bytes)?;
            if offset.checked_add(u64::from(data_bytes)).is_none_or(|end| meta.body_bytes < end) {
                let body = meta.body_bytes;
                let text = format!("a chunk of {data_bytes} at {offset} of a body of {body}");
                return Err(Malformed::new(text));
            }
            Body::InstallSnapshot { meta, offset, data }
        }
        HeadBody::SnapshotReply { position, next_offset } => {
            let position = sound_position("the snapshot", position)?;
            Body::SnapshotReply { position, next_offset }
        }
        HeadBody::TimeoutNow { last } => {
            Body::TimeoutNow { last: in_log("the last entry", last, term)? }
        }
        HeadBody::ReadIndex => Body::ReadIndex,
        HeadBody::ReadIndexReply { index } => Body::ReadIndexReply { index },
    })
}

/// The entries after `prev`: without a gap, with terms that do not fall.
fn following(
    prev: LogPosition,
    heads: Vec<HeadEntry>,
    term: Term,
    payloads: &mut Payloads<'_>,
) -> Result<Vec<Entry>, Malformed> {
    let mut before = prev;
    let mut entries = Vec::with_capacity(heads.len());
    for head in heads {
        let position = LogPosition::new(before.index.next(), head.term);
        in_log("an entry", position, term)?;
        if position.term < before.term {
            return Err(Malformed::new(format!("{position} after {before}: terms never fall")));
        }
        let payload = decode_payload(head.kind, payloads.take(head.bytes)?)?;
        entries.push(Entry { position, payload });
        before = position;
    }
    Ok(entries)
}

impl Payloads<'_> {
    /// The next one, copied into a buffer of its own.
    fn take(&mut self, bytes: u32) -> Result<Bytes, Malformed> {
        let (payload, rest) = self.rest.split_at_checked(bytes as usize).ok_or_else(|| {
            let text = format!("a payload of {bytes} bytes where {} are left", self.rest.len());
            Malformed::new(text)
        })?;
        self.rest = rest;
        Ok(buffer::copied(payload))
    }
}

fn in_log(what: &str, position: LogPosition, term: Term) -> Result<LogPosition, Malformed> {
    if term < position.term {
        return Err(Malformed::new(format!("{what} is {position}, but its holder in term {term}")));
    }
    sound_position(what, position)
}

/// Of a whole frame, whatever stands in its CRC field.
fn frame_crc(frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..4]);
    crc.update(&frame[PREFIX_BYTES..]);
    crc.finalize()
}

fn length_of(payload: &Bytes) -> u32 {
    u32::try_from(payload.len()).expect("limits on entries and chunks keep payloads below 4 GiB")
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes were cut"))
}
