//! The bytes of every kind of message and payload: a change here breaks running clusters.
//!
//! `UPDATE=1 cargo test -p raft-core --test codec_golden` writes the file of expected bytes anew;
//! then read the difference.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use raft_core::codec::{
    FRAME_BYTES_MAX, FrameDecoder, decode_payload, decode_snapshot_meta, encode_frame,
    encode_payload, encode_snapshot_meta,
};
use raft_core::membership::{Member, Membership};
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{ClusterId, Entry, Index, LogPosition, NodeId, Payload, Term};
use raft_core::write::SnapshotMeta;

const CLUSTER: ClusterId = ClusterId(0xc1c2_c3c4_c5c6_c7c8);

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition::new(Index(index), Term(term))
}

fn membership() -> Membership {
    let member = |name: &str| Member { name: name.into(), address: format!("{name}:1") };
    let members = [(1, "a"), (2, "b"), (3, "c"), (4, "d")];
    let members = members.map(|(id, name)| (NodeId(id), member(name))).into();
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    Membership::new(members, ids(&[1, 2]), ids(&[2, 3]), ids(&[4])).unwrap()
}

fn snapshot() -> SnapshotMeta {
    let (position, membership) = (at(9, 3), membership());
    SnapshotMeta { position, membership, body_bytes: 0x0100, digest: 0xd1d2_d3d4_d5d6_d7d8 }
}

fn entry(index: u64, term: u64, payload: Payload) -> Entry {
    Entry { position: at(index, term), payload }
}

fn bodies() -> Vec<Body> {
    let entries = vec![
        entry(6, 2, Payload::Noop),
        entry(7, 3, Payload::Command(Bytes::from_static(b"set x"))),
        entry(8, 3, Payload::Command(Bytes::new())),
        entry(9, 3, Payload::Membership(membership())),
    ];
    let conflict = AppendResult::Conflict { prev: Index(9), hint: at(5, 2) };
    vec![
        Body::PreVote { last: at(9, 3) },
        Body::PreVoteReply { granted: true, asked_in: Term(3) },
        Body::RequestVote { last: at(9, 3), transfer: true },
        Body::VoteReply { granted: false },
        Body::Append { prev: at(0, 0), entries: vec![], commit: Index(0) },
        Body::Append { prev: at(5, 2), entries, commit: Index(5) },
        Body::AppendReply { result: AppendResult::Matched(Index(9)) },
        Body::AppendReply { result: conflict },
        Body::Heartbeat { round: 7, commit: Index(5) },
        Body::HeartbeatReply { round: 7, matched: Index(5), received: Index(9) },
        Body::InstallSnapshot { meta: snapshot(), offset: 16, data: Bytes::from_static(b"bytes") },
        Body::SnapshotReply { position: at(9, 3), next_offset: Some(21) },
        Body::SnapshotReply { position: at(9, 3), next_offset: None },
        Body::TimeoutNow { last: at(9, 3) },
        Body::ReadIndex,
        Body::ReadIndexReply { index: Some(Index(9)) },
        Body::ReadIndexReply { index: None },
    ]
}

fn message(body: Body) -> Message {
    Message { from: NodeId(0xa1), to: NodeId(0xb2), term: Term(4), id: 0x1d, body }
}

fn frame(body: Body) -> BytesMut {
    let mut out = BytesMut::new();
    encode_frame(CLUSTER, &message(body), &mut out);
    out
}

/// Sixteen bytes a line, so that a difference is seen where it is.
fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).fold(String::new(), |mut text, line| {
        let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "  {}", line.join(" "));
        text
    })
}

fn golden() -> String {
    let mut text = String::from("The bytes of every message and payload. See codec_golden.rs.\n");
    for body in bodies() {
        let bytes = frame(body.clone());
        let _ = write!(text, "\n{body:?}\n{}", hex(&bytes));
    }
    let payloads = [
        Payload::Noop,
        Payload::Command(Bytes::from_static(b"set x")),
        Payload::Membership(membership()),
    ];
    for payload in payloads {
        let (kind, bytes) = encode_payload(&payload);
        let _ = write!(text, "\npayload {payload:?}\n  kind {kind}\n{}", hex(&bytes));
    }
    let _ = write!(text, "\n{:?}\n{}", snapshot(), hex(&encode_snapshot_meta(&snapshot())));
    text
}

#[test]
fn the_bytes_of_messages_and_payloads_never_change() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/codec.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, golden()).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden(), expected, "what stands in {} is what nodes speak", path.display());
}

#[test]
fn every_kind_of_message_comes_out_as_it_went_in() {
    let mut stream = BytesMut::new();
    for body in bodies() {
        encode_frame(CLUSTER, &message(body), &mut stream);
    }
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    for body in bodies() {
        let found = decoder.decode(&mut stream).unwrap().unwrap();
        assert_eq!(found, (CLUSTER, message(body)));
    }
    assert!(stream.is_empty());
    assert_eq!(decoder.decode(&mut stream).unwrap(), None);
}

#[test]
fn no_kind_of_message_is_missing_here() {
    let kinds: std::collections::BTreeSet<&str> = bodies().iter().map(Body::kind).collect();
    // `Body::kind` is an exhaustive match of this many names.
    assert_eq!(kinds.len(), 13);
}

#[test]
fn payloads_and_metas_come_out_as_they_went_in() {
    let payloads = [
        Payload::Noop,
        Payload::Command(Bytes::new()),
        Payload::Command(Bytes::from_static(b"set x")),
        Payload::Membership(membership()),
    ];
    for payload in payloads {
        let (kind, bytes) = encode_payload(&payload);
        assert_eq!(decode_payload(kind, bytes).unwrap(), payload);
    }
    assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&snapshot())).unwrap(), snapshot());
}

#[test]
fn a_command_is_shared_between_entry_and_bytes() {
    let command = Bytes::from(vec![7; 1000]);
    let (kind, bytes) = encode_payload(&Payload::Command(command.clone()));
    assert_eq!(bytes.as_ptr(), command.as_ptr());
    let Ok(Payload::Command(back)) = decode_payload(kind, bytes) else { panic!("a command") };
    assert_eq!(back.as_ptr(), command.as_ptr());
}

/// A slice of the read buffer would pin all of it as long as the entry lives.
#[test]
fn a_received_command_has_a_buffer_of_its_own() {
    // Long enough for a buffer that can say whether it is shared.
    let command = Bytes::from(vec![b'x'; 600]);
    let entries = vec![entry(1, 1, Payload::Command(command))];
    let mut buffer = frame(Body::Append { prev: at(0, 0), entries, commit: Index(0) });
    let held = buffer.as_ptr_range();
    let (_, message) = FrameDecoder::new(1000).decode(&mut buffer).unwrap().unwrap();
    let Body::Append { entries, .. } = message.body else { panic!("an append") };
    let Payload::Command(command) = &entries[0].payload else { panic!("a command") };
    assert!(!held.contains(&command.as_ptr()));
    assert!(command.is_unique(), "nothing else is in its buffer");
}
