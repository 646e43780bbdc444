//! What the wire costs: `cargo bench -p raft-core --bench codec`.
//!
//! An append of a batch of entries as a frame of bytes (head, payloads, CRC), and back. Decoding checks
//! everything and copies each payload once into a buffer of its own.

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use divan::counter::ItemsCount;
use raft_core::codec::{FRAME_BYTES_MAX, FrameDecoder, encode_frame};
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{ClusterId, Entry, Index, LogPosition, NodeId, Payload, Term};

fn main() {
    divan::main();
}

const CLUSTER: ClusterId = ClusterId(1);

#[divan::bench(consts = [16, 272], args = [1, 16, 64, 256], min_time = 0.5)]
fn encode<const BYTES: usize>(bencher: Bencher<'_, '_>, batch: usize) {
    let message = append(batch, BYTES);
    let mut out = BytesMut::new();
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        out.clear();
        encode_frame(CLUSTER, &message, &mut out);
        out.len()
    });
}

#[divan::bench(consts = [16, 272], args = [1, 16, 64, 256], min_time = 0.5)]
fn decode<const BYTES: usize>(bencher: Bencher<'_, '_>, batch: usize) {
    let mut frame = BytesMut::new();
    encode_frame(CLUSTER, &append(batch, BYTES), &mut frame);
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(|| frame.clone())
        .bench_local_values(|mut frame| decoded(&mut frame));
}

/// The answer to an append, there and back.
#[divan::bench(min_time = 0.5)]
fn acknowledgement(bencher: Bencher<'_, '_>) {
    let result = AppendResult::Matched(Index(1000));
    let message = Message { body: Body::AppendReply { result }, ..append(0, 0) };
    let mut out = BytesMut::new();
    bencher.bench_local(|| {
        out.clear();
        encode_frame(CLUSTER, &message, &mut out);
        decoded(&mut out)
    });
}

fn decoded(frame: &mut BytesMut) -> Message {
    let decoded = FrameDecoder::new(FRAME_BYTES_MAX).decode(frame);
    decoded.expect("a sound frame").expect("a whole frame").1
}

fn append(batch: usize, bytes: usize) -> Message {
    let term = Term(3);
    let entry = |n| Entry {
        position: LogPosition::new(Index(1000 + n as u64), term),
        payload: Payload::Command(Bytes::from(vec![n as u8; bytes])),
    };
    let prev = LogPosition::new(Index(999), term);
    let entries = (0..batch).map(entry).collect();
    let body = Body::Append { prev, entries, commit: Index(990) };
    Message { from: NodeId(1), to: NodeId(2), term, id: 17, body }
}
