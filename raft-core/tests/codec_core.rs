//! The core and the codec agree on what is possible: whatever three cores say to each other over a
//! lossy, reordering wire comes through the codec as it was said, and none of it is refused.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use raft_core::codec::{FRAME_BYTES_MAX, FrameDecoder, encode_frame};
use raft_core::config::Config;
use raft_core::consensus::event::RoleName;
use raft_core::consensus::{Event, Raft};
use raft_core::membership::{Member, Membership};
use raft_core::message::Message;
use raft_core::types::{
    ClusterId, Entry, HardState, Index, LogPosition, NodeId, Payload, ProposalId, Term, Time,
};
use raft_core::write::Recovered;

const CLUSTER: ClusterId = ClusterId(7);
const STEP_NANOS: u64 = 10_000_000;

fn core(id: u64) -> Raft {
    let member =
        |id| (NodeId(id), Member { name: format!("node{id}"), address: format!("host:{id}") });
    let first = Entry {
        position: LogPosition::new(Index(1), Term(1)),
        payload: Payload::Membership(Membership::of_voters((1..=3).map(member))),
    };
    let hard_state = HardState { term: Term(1), vote: None };
    let recovered = Recovered { hard_state, entries: vec![first], ..Recovered::default() };
    Raft::new(Config::new(NodeId(id)), recovered, Time(0))
}

fn through_the_codec(message: &Message) -> Message {
    let mut frame = BytesMut::new();
    encode_frame(CLUSTER, message, &mut frame);
    let decoded = FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut frame);
    let (cluster, found) = decoded.expect("not refused").expect("a whole frame");
    assert_eq!((cluster, &found), (CLUSTER, message));
    found
}

#[test]
fn what_cores_say_is_never_refused() {
    let mut cores: BTreeMap<NodeId, Raft> = (1..=3).map(|id| (NodeId(id), core(id))).collect();
    let (mut wire, mut kinds) = (Vec::<Message>::new(), BTreeSet::new());
    let mut seed = 1_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut committed = Index::ZERO;
    for round in 1..6_000 {
        let now = Time(round * STEP_NANOS);
        // Now and then nobody hears anything for a while, so that elections and conflicts happen.
        let silent = round % 1_500 > 1_300;
        for _ in 0..wire.len() {
            let message = wire.swap_remove(random(wire.len() as u64) as usize);
            match random(10) {
                0 => {}
                _ if silent => {}
                1 => wire.push(message),
                _ => cores.get_mut(&message.to).unwrap().step(now, Event::Receive(message)),
            }
        }
        for core in cores.values_mut() {
            core.step(now, Event::Wake);
            if core.status().role == RoleName::Leader && round % 5 == 0 {
                let command = Bytes::from(vec![1; random(2_000) as usize]);
                core.step(now, Event::Propose { id: ProposalId(round), command });
            }
            let effects = core.take_effects();
            for message in effects.send {
                kinds.insert(message.body.kind());
                wire.push(through_the_codec(&message));
            }
            if let Some(write) = effects.write {
                core.step(now, Event::Persisted(write.id));
            }
            committed = committed.max(core.status().committed);
        }
        wire.truncate(1_000);
    }
    assert!(Index(100) < committed, "the cluster worked: {committed}");
    for kind in [
        "pre-vote",
        "pre-vote-reply",
        "request-vote",
        "vote-reply",
        "append-entries",
        "append-reply",
        "heartbeat",
        "heartbeat-reply",
    ] {
        assert!(kinds.contains(kind), "no {kind} was said");
    }
}
