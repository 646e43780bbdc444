//! Messages between two nodes over real sockets: every answer finds its question, large messages do
//! not hold up small ones, a killed peer is noticed, and who does not belong is refused.

mod peers_common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use kv_daemon::peers::Core;
use peers_common::{
    CLUSTER, Node, append, curl, eventually, heartbeat, listeners, membership_at, message, nodes,
    pair, usual_answer,
};
use raft_core::codec::encode_frame;
use raft_core::message::Body;
use raft_core::types::{ClusterId, Index, LogPosition, NodeId, Term};
use raft_core::write::SnapshotMeta;

fn last() -> LogPosition {
    LogPosition::new(Index(5), Term(2))
}

/// Blocks while the gate is shut, without holding up the other tasks of that thread.
fn stand_at(gate: &Mutex<()>) {
    tokio::task::block_in_place(|| drop(gate.lock()));
}

#[test]
fn each_question_on_the_control_connection_gets_its_answer() {
    let (one, two) = pair();
    one.send(message(1, 2, 11, Body::PreVote { last: last() }));
    one.send(message(1, 2, 12, Body::RequestVote { last: last(), transfer: false }));
    one.send(message(1, 2, 13, Body::ReadIndex));
    one.send(message(1, 2, 14, heartbeat(9)));
    one.send(message(1, 2, 15, Body::TimeoutNow { last: last() }));
    eventually("all four answers are there", || one.core.ids(Body::is_reply).len() == 4);
    eventually("what has no answer arrived too", || two.core.ids(|_| true).len() == 5);
    let answers = one.core.received.lock().expect("not poisoned");
    let told: Vec<(u64, &str)> = answers.iter().map(|a| (a.id, a.body.kind())).collect();
    let expected = [
        (11, "pre-vote-reply"),
        (12, "vote-reply"),
        (13, "read-index-reply"),
        (14, "heartbeat-reply"),
    ];
    assert_eq!(told, expected);
    let numbers = &one.peers.numbers()[0];
    assert!(numbers.rtt.is_some() && 0 < numbers.sent_bytes);
    assert_eq!((numbers.id, numbers.up, numbers.errors), (NodeId(2), Some(true), 0));
}

#[test]
fn appends_arrive_in_order_and_each_is_covered_by_an_answer() {
    let (one, two) = pair();
    for id in 1..=500 {
        one.send(message(1, 2, id, append(id, (id as usize * 37) % 5000)));
    }
    let is_append = |body: &Body| matches!(body, Body::Append { .. });
    eventually("all appends are there", || two.core.ids(is_append).len() == 500);
    assert_eq!(two.core.ids(is_append), (1..=500).collect::<Vec<_>>());
    eventually("the last one is answered", || one.core.ids(Body::is_reply).last() == Some(&500));
    assert_eq!(one.peers.numbers()[0].dropped, 0);
}

#[test]
fn a_snapshot_goes_piece_by_piece() {
    let (one, two) = pair();
    let meta = SnapshotMeta {
        position: last(),
        membership: one.core.membership(),
        body_bytes: 3 << 20,
        digest: 1,
    };
    for piece in 0..3u64 {
        let data = Bytes::from(vec![piece as u8; 1 << 20]);
        let body = Body::InstallSnapshot { meta: meta.clone(), offset: piece << 20, data };
        one.send(message(1, 2, piece + 1, body));
    }
    eventually("all is answered", || one.core.ids(Body::is_reply).contains(&3));
    assert_eq!(two.core.ids(|_| true), [1, 2, 3]);
    let done = Body::SnapshotReply { position: last(), next_offset: None };
    assert_eq!(one.core.bodies().last(), Some(&done));
}

/// While an append is stuck at the receiver, heartbeats and votes come and go.
#[test]
fn heartbeats_flow_while_a_large_append_is_stuck() {
    let gate = Arc::new(Mutex::new(()));
    let shut = gate.lock().expect("not poisoned");
    let nodes = nodes(2, |_| {
        let gate = gate.clone();
        Box::new(move |message| {
            if matches!(message.body, Body::Append { .. }) {
                stand_at(&gate);
            }
            usual_answer(message)
        })
    });
    let (one, two) = (&nodes[0], &nodes[1]);
    for id in 1..=3 {
        one.send(message(1, 2, id, append(id, 20 << 20)));
    }
    for round in 1..=20 {
        one.send(message(1, 2, 100 + round, heartbeat(round)));
        eventually("the heartbeat is answered", || {
            one.core.ids(Body::is_reply).contains(&(100 + round))
        });
    }
    assert_eq!(two.core.ids(|body| matches!(body, Body::Append { .. })), [] as [u64; 0]);
    drop(shut);
    eventually("the appends are answered", || one.core.ids(Body::is_reply).contains(&3));
}

/// A queued heartbeat says nothing once a newer one is queued, so only the newest is sent.
#[test]
fn a_newer_heartbeat_takes_the_place_of_a_queued_one() {
    let gate = Arc::new(Mutex::new(()));
    let shut = gate.lock().expect("not poisoned");
    let nodes = nodes(2, |_| {
        let gate = gate.clone();
        Box::new(move |message| {
            stand_at(&gate);
            usual_answer(message)
        })
    });
    let (one, two) = (&nodes[0], &nodes[1]);
    one.send(message(1, 2, 1, Body::ReadIndex));
    // Let the first leave before the queue fills behind it.
    eventually("it has left", || one.peers.numbers()[0].sent_bytes != 0);
    for round in 1..=50 {
        one.send(message(1, 2, 1 + round, heartbeat(round)));
    }
    drop(shut);
    eventually("the newest is answered", || one.core.ids(Body::is_reply).contains(&51));
    assert_eq!(two.core.ids(|_| true), [1, 51]);
}

/// A leader that is killed breaks its streams at once; its followers are told without waiting.
#[test]
fn a_killed_peer_is_reported_by_the_other_end_of_its_streams() {
    let (mut leader, follower) = pair();
    // The follower has never sent anything itself.
    leader.send(message(1, 2, 1, append(1, 10)));
    eventually("the stream is open", || leader.core.ids(Body::is_reply) == [1]);
    leader.kill();
    eventually("the follower knows", || {
        *follower.core.down.lock().expect("not poisoned") == [NodeId(1)]
    });
}

/// The same from the leader's side, and the peer is spoken to again once it is back.
#[test]
fn a_killed_follower_is_reported_and_taken_up_again_when_it_is_back() {
    let (leader, mut follower) = pair();
    leader.send(message(1, 2, 1, append(1, 10)));
    leader.send(message(1, 2, 2, heartbeat(1)));
    eventually("both are answered", || leader.core.ids(Body::is_reply).len() == 2);
    follower.kill();
    eventually("the leader knows", || {
        leader.core.down.lock().expect("not poisoned").contains(&NodeId(2))
    });
    assert_eq!(leader.peers.numbers()[0].up, Some(false));

    let port = follower.address.rsplit(':').next().expect("a port").to_owned();
    let mut listener = None;
    eventually("the port is free again", || {
        listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).ok();
        listener.is_some()
    });
    let again = Node::start(
        NodeId(2),
        CLUSTER,
        listener.expect("it was bound"),
        follower.core.membership(),
        Box::new(usual_answer),
    );
    let mut id = 10;
    eventually("messages arrive again", || {
        id += 1;
        leader.send(message(1, 2, id, append(id, 10)));
        leader.send(message(1, 2, 1000 + id, heartbeat(id)));
        let kinds: BTreeSet<&str> = again.core.bodies().iter().map(Body::kind).collect();
        kinds.len() == 2
    });
    eventually("it counts as up", || leader.peers.numbers()[0].up == Some(true));
}

/// pitfall 15: a node of another cluster at a member's address is refused by name and changes
/// nothing, in either direction.
#[test]
fn pitfall_15_a_foreign_cluster_is_refused_with_both_sides_named() {
    let mut listeners = listeners(2);
    let membership = membership_at(&listeners);
    let (second, first) = (listeners.pop().expect("two"), listeners.pop().expect("two"));
    let answering = || Box::new(usual_answer);
    let one = Node::start(NodeId(1), CLUSTER, first, membership.clone(), answering());
    let foreign = ClusterId(0xf0);
    let two = Node::start(NodeId(2), foreign, second, membership, answering());
    one.send(message(1, 2, 1, append(1, 10)));
    one.send(message(1, 2, 2, heartbeat(1)));
    eventually("the refusal is remembered", || one.peers.numbers()[0].problem.is_some());
    let problem = one.peers.numbers()[0].problem.clone().expect("it was just there");
    for named in [CLUSTER.to_string(), foreign.to_string(), "n1".to_owned(), "n2".to_owned()] {
        assert!(problem.contains(&named), "{named} is not named in {problem:?}");
    }
    assert!(two.core.bodies().is_empty() && one.core.bodies().is_empty());
}

#[test]
fn who_is_no_member_or_meant_somebody_else_is_refused_with_409() {
    let (one, _two) = pair();
    let head = |from: &str, to: &str, cluster: &str, protocol: &str| {
        format!(
            "POST /raft/heartbeat HTTP/1.1\nkv-from: {from}\nkv-to: {to}\nkv-cluster: {cluster}\n\
             kv-protocol: {protocol}"
        )
    };
    for (head, named) in [
        (head("99", "1", "c1", "1"), "n99 is no member"),
        (head("1", "1", "c1", "1"), "copies of one data directory"),
        (head("2", "7", "c1", "1"), "this is for node n7"),
        (head("2", "1", "c2", "1"), "00000000000000c2"),
        (head("2", "1", "c1", "2"), "protocol 2"),
    ] {
        let (status, text) = curl(&one.address, &head, b"");
        assert_eq!(status, 409, "{text}");
        assert!(text.contains(named) && text.contains("application/problem+json"), "{text}");
    }
    // Without headers, the frame itself says the same.
    for (cluster, from, to) in [(CLUSTER, 99, 1), (CLUSTER, 2, 7), (ClusterId(2), 2, 1)] {
        let mut frame = BytesMut::new();
        encode_frame(cluster, &message(from, to, 1, heartbeat(1)), &mut frame);
        let (status, text) = curl(&one.address, "POST /raft/heartbeat HTTP/1.1", &frame);
        assert_eq!(status, 409, "{text}");
        let mut frame = BytesMut::new();
        encode_frame(cluster, &message(from, to, 1, append(1, 1)), &mut frame);
        let (status, text) = curl(&one.address, "POST /raft/append-entries HTTP/1.1", &frame);
        assert_eq!(status, 409, "{text}");
    }
    assert!(one.core.bodies().is_empty(), "nothing of it reached the core");
}

#[test]
fn a_person_with_curl_can_ask() {
    let (one, _two) = pair();
    let (status, text) = curl(&one.address, "GET /raft/hello HTTP/1.1", b"");
    assert_eq!(status, 200);
    assert!(text.contains(r#""node_id":"0000000000000001""#), "{text}");
    assert!(text.contains(r#""state":"formed","cluster":"00000000000000c1""#), "{text}");

    let json = "HTTP/1.1\ncontent-type: application/json";
    let question = br#"{"from":"2","term":3,"id":4,"last":{"index":5,"term":2}}"#;
    for kind in ["pre-vote", "request-vote"] {
        let (status, text) = curl(&one.address, &format!("POST /raft/{kind} {json}"), question);
        assert_eq!(status, 200, "{text}");
        assert!(text.ends_with(r#"{"from":"0000000000000001","term":3,"id":4,"granted":true}"#));
    }

    let mut frames = BytesMut::new();
    encode_frame(CLUSTER, &message(2, 1, 8, append(1, 10)), &mut frames);
    encode_frame(CLUSTER, &message(2, 1, 9, append(2, 10)), &mut frames);
    let (status, text) = curl(&one.address, "POST /raft/append-entries HTTP/1.1", &frames);
    assert_eq!(status, 200, "{text}");
    assert_eq!(one.core.ids(|body| matches!(body, Body::Append { .. })), [8, 9]);
}

#[test]
fn what_cannot_be_understood_is_refused_by_name_and_harms_nothing() {
    let (one, two) = pair();
    let mut frame = BytesMut::new();
    encode_frame(CLUSTER, &message(2, 1, 1, heartbeat(1)), &mut frame);
    let mut flipped = frame.clone();
    flipped[20] ^= 1;
    let mut answer = BytesMut::new();
    let body = Body::VoteReply { granted: true };
    encode_frame(CLUSTER, &message(2, 1, 1, body), &mut answer);
    let large = vec![0; 70 << 10];
    let json = "HTTP/1.1\ncontent-type: application/json";
    let rows: [(u16, String, &[u8], &str); 11] = [
        (400, "POST /raft/heartbeat HTTP/1.1".into(), b"", "exactly one frame"),
        (400, "POST /raft/heartbeat HTTP/1.1".into(), &flipped, "CRC"),
        (400, "POST /raft/read-index HTTP/1.1".into(), &frame, "a heartbeat was sent to"),
        (400, "POST /raft/request-vote HTTP/1.1".into(), &answer, "a vote-reply was sent to"),
        (400, "POST /raft/append-entries HTTP/1.1".into(), b"\x05", "no whole frame"),
        (400, "POST /raft/heartbeat HTTP/1.1\nkv-from: who".into(), &frame, "kv-from"),
        (400, format!("POST /raft/pre-vote {json}"), b"{}", "missing field"),
        (413, "POST /raft/heartbeat HTTP/1.1".into(), &large, "more than"),
        (404, "POST /raft/nothing HTTP/1.1".into(), b"", "/raft/nothing"),
        (405, "GET /raft/heartbeat HTTP/1.1".into(), b"", "allow: POST"),
        (405, "POST /raft/hello HTTP/1.1".into(), b"", "allow: GET"),
    ];
    for (expected, head, body, named) in rows {
        let (status, text) = curl(&one.address, &head, body);
        assert_eq!(status, expected, "{head}: {text}");
        assert!(text.contains(named), "{head}: {named:?} is not in {text}");
    }
    assert!(one.core.bodies().is_empty(), "nothing of it reached the core");
    two.send(message(2, 1, 5, heartbeat(1)));
    eventually("it still serves", || two.core.ids(Body::is_reply) == [5]);
}

/// Nonsense in the middle of a stream ends that stream only; what came before it counts.
#[test]
fn nonsense_ends_a_stream_and_nothing_else() {
    use std::io::{Read, Write};
    let (one, two) = pair();
    let mut frame = BytesMut::new();
    encode_frame(CLUSTER, &message(2, 1, 1, append(1, 10)), &mut frame);
    let mut stream = one.socket();
    let head = "POST /raft/append-entries HTTP/1.1\r\nhost: t\r\nkv-from: 2\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut chunk = |bytes: &[u8]| {
        let head = format!("{:x}\r\n", bytes.len());
        stream.write_all(&[head.as_bytes(), bytes, b"\r\n"].concat()).expect("it reads");
    };
    chunk(&frame);
    chunk(&[0xff; 64]);
    let mut response = Vec::new();
    stream
        .read_to_end(&mut response)
        .or_else(|error| match error.kind() {
            std::io::ErrorKind::ConnectionReset => Ok(0),
            _ => Err(error),
        })
        .expect("the stream ends");
    assert_eq!(one.core.ids(|body| matches!(body, Body::Append { .. })), [1]);
    two.send(message(2, 1, 5, append(5, 10)));
    eventually("it still serves", || two.core.ids(Body::is_reply) == [5]);
}
