//! Laws of the codec: what goes in comes out, however the stream is cut; what is changed on the way
//! never comes out; what cannot be is refused with a reason; nothing panics.

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use raft_core::codec::{
    FRAME_BYTES_MAX, FrameDecoder, decode_payload, decode_snapshot_meta, encode_frame,
    encode_payload, encode_snapshot_meta,
};
use raft_core::membership::{Member, Membership};
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{ClusterId, Entry, Index, LogPosition, NodeId, Payload, Term};
use raft_core::write::SnapshotMeta;

const TERM: u64 = 1000;

fn position() -> impl Strategy<Value = LogPosition> {
    prop_oneof![
        1 => Just(LogPosition::ORIGIN),
        9 => (1..u64::MAX / 2, 1..=TERM).prop_map(|(i, t)| LogPosition::new(Index(i), Term(t))),
    ]
}

fn membership() -> impl Strategy<Value = Membership> {
    let member = ("[a-z]{1,9}", "[a-z.:0-9]{0,20}");
    let member = member.prop_map(|(name, address)| Member { name, address });
    let role = (0..3_u8, any::<bool>());
    btree_map(any::<u64>(), (member, role), 1..8).prop_map(|all| {
        let first = *all.keys().next().expect("at least one");
        let of = |wanted: &dyn Fn(u8, bool) -> bool| {
            let chosen = all.iter().filter(|(id, (_, (role, joint)))| {
                let role = if **id == first { 0 } else { *role };
                wanted(role, *joint)
            });
            chosen.map(|(id, _)| NodeId(*id)).collect()
        };
        let voters = of(&|role, _| role == 0);
        let learners = of(&|role, _| role == 1);
        let outgoing = of(&|role, joint| role == 2 || (role == 0 && joint));
        let members = all.iter().map(|(id, (member, _))| (NodeId(*id), member.clone())).collect();
        Membership::new(members, voters, outgoing, learners).expect("sound by construction")
    })
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    let position = position().prop_filter("above 0", |at| *at != LogPosition::ORIGIN);
    (position, membership(), 0..u64::MAX / 2, any::<u64>()).prop_map(
        |(position, membership, body_bytes, digest)| SnapshotMeta {
            position,
            membership,
            body_bytes,
            digest,
        },
    )
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        1 => Just(Payload::Noop),
        4 => vec(any::<u8>(), 0..300).prop_map(|bytes| Payload::Command(bytes.into())),
        1 => membership().prop_map(Payload::Membership),
    ]
}

fn append() -> impl Strategy<Value = Body> {
    (position(), vec((payload(), 0..3_u64), 0..8), any::<u64>()).prop_map(
        |(prev, payloads, commit)| {
            let mut before = prev;
            let mut entries = Vec::new();
            for (payload, step) in payloads {
                let term = Term((before.term.0 + step).clamp(1, TERM));
                before = LogPosition::new(before.index.next(), term);
                entries.push(Entry { position: before, payload });
            }
            Body::Append { prev, entries, commit: Index(commit) }
        },
    )
}

fn install() -> impl Strategy<Value = Body> {
    (meta(), vec(any::<u8>(), 0..300), 0..u64::MAX / 4).prop_map(|(meta, data, offset)| {
        let body_bytes = meta.body_bytes.max(offset + data.len() as u64);
        let meta = SnapshotMeta { body_bytes, ..meta };
        Body::InstallSnapshot { meta, offset, data: data.into() }
    })
}

fn body() -> impl Strategy<Value = Body> {
    let small = any::<(u64, u64, u64, bool, bool)>();
    let rest =
        (0..12_u8, position(), small).prop_map(|(which, at, (a, b, c, yes, other))| match which {
            0 => Body::PreVote { last: at },
            1 => Body::PreVoteReply { granted: yes, asked_in: Term(a) },
            2 => Body::RequestVote { last: at, transfer: yes },
            3 => Body::VoteReply { granted: yes },
            4 => Body::AppendReply { result: AppendResult::Matched(Index(a)) },
            5 => {
                let result = AppendResult::Conflict { prev: Index(a), hint: at };
                Body::AppendReply { result }
            }
            6 => Body::Heartbeat { round: a, commit: Index(b) },
            7 => Body::HeartbeatReply { round: a, matched: Index(b), received: Index(c) },
            8 => Body::SnapshotReply { position: at, next_offset: other.then_some(a) },
            9 => Body::TimeoutNow { last: at },
            10 => Body::ReadIndex,
            _ => Body::ReadIndexReply { index: yes.then_some(Index(a)) },
        });
    prop_oneof![2 => append(), 1 => install(), 4 => rest]
}

fn message() -> impl Strategy<Value = (ClusterId, Message)> {
    (any::<(u64, u64, u64, u64)>(), body()).prop_map(|((cluster, from, to, id), body)| {
        let to = if from == to { to ^ 1 } else { to };
        let (from, to, term) = (NodeId(from), NodeId(to), Term(TERM));
        (ClusterId(cluster), Message { from, to, term, id, body })
    })
}

fn frame(cluster: ClusterId, message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    encode_frame(cluster, message, &mut out);
    out
}

/// A frame with a right length and CRC around any head and payloads.
fn sealed(head: &[u8], payloads: &[u8]) -> BytesMut {
    let len = (4 + head.len() + payloads.len()) as u32;
    let rest = [&(head.len() as u32).to_le_bytes(), head, payloads].concat();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len.to_le_bytes());
    crc.update(&rest);
    let crc = crc.finalize();
    BytesMut::from(&[&len.to_le_bytes()[..], &crc.to_le_bytes(), &rest].concat()[..])
}

fn head_of(frame: &[u8]) -> usize {
    u32::from_le_bytes(frame[8..12].try_into().unwrap()) as usize
}

fn decode(frame: &BytesMut) -> Result<Option<(ClusterId, Message)>, String> {
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    decoder.decode(&mut frame.clone()).map_err(|why| why.to_string())
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
        messages in vec(message(), 1..6),
        cuts in vec(1..400_usize, 1..20),
    ) {
        let mut stream = BytesMut::new();
        for (cluster, message) in &messages {
            encode_frame(*cluster, message, &mut stream);
        }
        let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for cut in cuts.iter().cycle() {
            if stream.is_empty() {
                break;
            }
            buffer.unsplit(stream.split_to((*cut).min(stream.len())));
            while let Some(next) = decoder.decode(&mut buffer).unwrap() {
                found.push(next);
            }
        }
        prop_assert_eq!(found, messages);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn a_flipped_bit_never_comes_out_as_a_message((cluster, message) in message(), at: usize) {
        let mut frame = frame(cluster, &message);
        let bit = at % (frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        // Only a longer length can leave the decoder waiting for more.
        match decode(&frame) {
            Ok(Some(found)) => prop_assert!(false, "bit {} made {:?}", bit, found),
            Ok(None) => prop_assert!(bit < 32),
            Err(_) => {}
        }
    }

    /// Behind a right CRC (a peer of another make, or one that lies): any change of the head gives a
    /// sound message or a refusal.
    #[test]
    fn a_changed_head_is_sound_or_refused(
        (cluster, message) in message(),
        changes in vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let whole = frame(cluster, &message);
        let (head, payloads) = whole[12..].split_at(head_of(&whole));
        let mut head = head.to_vec();
        for (at, byte) in changes {
            let at = at % head.len();
            head[at] = byte;
        }
        if let Ok(Some((cluster, message))) = decode(&sealed(&head, payloads)) {
            assert_sound(&message);
            // What was let in can be said again.
            prop_assert_eq!(decode(&frame(cluster, &message)).unwrap(), Some((cluster, message)));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400), split in 0..400_usize) {
        let _ = decode(&BytesMut::from(&bytes[..]));
        let (head, payloads) = bytes.split_at(split.min(bytes.len()));
        if let Ok(Some((_, message))) = decode(&sealed(head, payloads)) {
            assert_sound(&message);
        }
        let _ = decode_snapshot_meta(&bytes);
        for kind in 0..5 {
            let _ = decode_payload(kind, Bytes::copy_from_slice(&bytes));
        }
    }

    #[test]
    fn payloads_and_metas_come_out_as_they_went_in(payload in payload(), meta in meta()) {
        let (kind, bytes) = encode_payload(&payload);
        prop_assert_eq!(decode_payload(kind, bytes).unwrap(), payload);
        let bytes = encode_snapshot_meta(&meta);
        prop_assert_eq!(decode_snapshot_meta(&bytes).unwrap(), meta);
        for cut in 0..bytes.len() {
            prop_assert!(decode_snapshot_meta(&bytes[..cut]).is_err());
        }
    }
}

fn assert_sound(message: &Message) {
    assert_ne!(message.from, message.to);
    match &message.body {
        Body::Append { prev, entries, .. } => {
            let mut before = *prev;
            for entry in entries {
                assert_eq!(entry.index(), before.index.next());
                assert!(before.term <= entry.term() && entry.term() <= message.term);
                assert!(Term(0) < entry.term());
                if let Payload::Membership(membership) = &entry.payload {
                    assert!(membership.is_sound());
                }
                before = entry.position;
            }
        }
        Body::InstallSnapshot { meta, offset, data } => {
            assert!(meta.membership.is_sound() && Index(0) < meta.position.index);
            assert!(offset + data.len() as u64 <= meta.body_bytes);
        }
        _ => {}
    }
}

fn refusal(frame: &BytesMut) -> String {
    decode(frame).expect_err("it is refused")
}

fn from_1_to_2(body: Body) -> Message {
    Message { from: NodeId(1), to: NodeId(2), term: Term(5), id: 1, body }
}

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition::new(Index(index), Term(term))
}

/// What a well-meaning sender can encode, and still must not be let in.
#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let command = |at| Entry { position: at, payload: Payload::Command(Bytes::from_static(b"x")) };
    let append = |prev, entries| Body::Append { prev, entries, commit: Index(0) };
    let member = Member { name: "a".into(), address: "a:1".into() };
    let meta = SnapshotMeta {
        position: at(4, 2),
        membership: Membership::of_voters([(NodeId(1), member)]),
        body_bytes: 10,
        digest: 0,
    };
    let install = |meta: SnapshotMeta, offset| Body::InstallSnapshot {
        meta,
        offset,
        data: Bytes::from_static(b"0123456789"),
    };
    let nobody = SnapshotMeta { membership: Membership::default(), ..meta.clone() };
    let nowhere = SnapshotMeta { position: LogPosition::ORIGIN, ..meta.clone() };
    let later = SnapshotMeta { position: at(4, 6), ..meta.clone() };
    let never = SnapshotMeta { position: at(u64::MAX, 4), ..meta.clone() };
    let membership = Payload::Membership(Membership::default());
    let cases = [
        (append(at(4, 3), vec![command(at(5, 2))]), "terms never fall"),
        (append(at(4, 3), vec![command(at(5, 6))]), "its holder in term 5"),
        (append(at(0, 0), vec![command(at(1, 0))]), "only 0@0"),
        (append(at(0, 3), vec![]), "only 0@0"),
        (append(at(3, 0), vec![]), "only 0@0"),
        (append(at(3, 9), vec![]), "its holder in term 5"),
        (append(at(4, 3), vec![Entry { position: at(5, 3), payload: membership }]), "membership"),
        (Body::RequestVote { last: at(7, 6), transfer: false }, "its holder in term 5"),
        (install(meta.clone(), 1), "a chunk of 10 at 1 of a body of 10"),
        (install(meta.clone(), u64::MAX), "a body of 10"),
        (install(nobody, 0), "membership"),
        (install(nowhere, 0), "a snapshot of nothing"),
        (install(later, 0), "its holder in term 5"),
        // One entry more, and a sum would overflow.
        (install(never, 0), "no log reaches"),
        (append(at(u64::MAX, 4), vec![]), "no log reaches"),
    ];
    for (body, reason) in cases {
        let text = refusal(&frame(ClusterId(1), &from_1_to_2(body.clone())));
        assert!(text.contains(reason), "{body:?}: {text}");
    }
    assert!(decode(&frame(ClusterId(1), &from_1_to_2(install(meta, 0)))).unwrap().is_some());
    let to_itself = Message { to: NodeId(1), ..from_1_to_2(Body::ReadIndex) };
    assert!(refusal(&frame(ClusterId(1), &to_itself)).contains("to itself"));
    // Who took this term over could begin no election any more.
    let last_term = Message { term: Term(u64::MAX), ..from_1_to_2(Body::ReadIndex) };
    assert!(refusal(&frame(ClusterId(1), &last_term)).contains("no cluster reaches"));
}

#[test]
fn frames_that_do_not_fit_together_are_refused_with_a_reason() {
    let entries = vec![Entry { position: at(1, 1), payload: Payload::Command("abc".into()) }];
    let body = Body::Append { prev: LogPosition::ORIGIN, entries, commit: Index(0) };
    let whole = frame(ClusterId(1), &from_1_to_2(body));
    let (head, payloads) = whole[12..].split_at(head_of(&whole));
    assert_eq!(payloads, b"abc");
    assert_eq!(sealed(head, payloads), whole, "the layout is known here");

    assert!(refusal(&sealed(head, b"ab")).contains("3 bytes where 2 are left"));
    assert!(refusal(&sealed(head, b"abcd")).contains("1 bytes after the last payload"));
    assert!(refusal(&sealed(&[head, b"x"].concat(), payloads)).contains("1 bytes after it"));
    assert!(refusal(&sealed(&head[..head.len() - 1], b"")).contains("cannot be read"));

    // A list that says it is long does not make the decoder take memory for it.
    let at_count = head.len() - 13 - 8;
    let mut long = head.to_vec();
    long[at_count..at_count + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&sealed(&long, payloads)).contains("cannot be read"));

    let mut kind = head.to_vec();
    kind[head.len() - 5] = 9;
    assert!(refusal(&sealed(&kind, payloads)).contains("payload kind 9"));
    kind[head.len() - 5] = 1;
    assert!(refusal(&sealed(&kind, payloads)).contains("a noop with 3"));
}

#[test]
fn a_frame_above_the_limit_is_refused_as_soon_as_its_length_is_seen() {
    let frame = frame(ClusterId(1), &from_1_to_2(Body::ReadIndex));
    let fits = FrameDecoder::new(frame.len());
    assert!(fits.decode(&mut frame.clone()).unwrap().is_some());
    let smaller = FrameDecoder::new(frame.len() - 1);
    assert!(smaller.decode(&mut BytesMut::from(&frame[..4])).is_err());
    assert!(fits.decode(&mut BytesMut::from(&[3, 0, 0, 0][..])).is_err(), "too short for a head");
    for waiting in 0..frame.len() {
        let mut part = BytesMut::from(&frame[..waiting]);
        assert_eq!(fits.decode(&mut part).unwrap(), None);
        assert_eq!(part.len(), waiting, "what came is kept");
    }
}

#[test]
#[should_panic(expected = "have no gap")]
fn a_gap_between_entries_is_our_own_mistake() {
    let entries = vec![Entry { position: at(6, 3), payload: Payload::Noop }];
    let body = Body::Append { prev: at(4, 3), entries, commit: Index(0) };
    let _ = frame(ClusterId(1), &from_1_to_2(body));
}
