//! Writes forwarded to another node: many at once, answered in any order, and an honest word about
//! those that got no answer.

mod peers_common;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use kv_daemon::kv::request::Answer;
use kv_daemon::kv::service::Forwarded;
use peers_common::{CLUSTER, Node, curl, eventually, membership_at, pair, put, usual_answer};
use raft_core::types::{ClusterId, NodeId};
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(60);

fn revision_of(forwarded: Forwarded) -> u64 {
    match forwarded {
        Forwarded::Done(Ok(Answer::Put { revision, .. })) => revision,
        other => panic!("not answered: {other:?}"),
    }
}

/// The fake service answers with the length of the value, so a mixed-up answer is seen.
#[test]
fn hundreds_in_flight_each_get_their_own_answer() {
    let (one, two) = pair();
    let hold = Arc::new(Notify::new());
    *two.service.hold.lock().expect("not poisoned") = Some(hold.clone());
    // Small ones, and some above 64 KiB, which take another connection.
    let sizes: Vec<usize> = (0..300).map(|n| if n % 50 == 7 { 70_000 + n } else { n }).collect();
    let calls: Vec<_> = sizes.iter().map(|size| one.forward(NodeId(2), put(*size), LONG)).collect();
    eventually("all are in flight", || {
        two.service.calls.lock().expect("not poisoned").len() == 300
    });
    assert!(calls.iter().all(|call| !call.is_finished()));
    hold.notify_waiters();
    for (size, call) in sizes.into_iter().zip(calls) {
        assert_eq!(revision_of(one.block_on(call).expect("no panic")), size as u64);
    }
    let calls = two.service.calls.lock().expect("not poisoned");
    assert!(calls.iter().all(|(_, hops)| *hops == 1), "hops travel with the request");
}

#[test]
fn nothing_was_sent_to_a_node_that_cannot_be_reached() {
    let (one, mut two) = pair();
    two.kill();
    for size in [10, 100_000] {
        let call = one.forward(NodeId(2), put(size), LONG);
        assert_eq!(one.block_on(call).expect("no panic"), Forwarded::NothingSent);
    }
    // Nobody knows where a node is that is no member.
    let call = one.forward(NodeId(9), put(1), LONG);
    assert_eq!(one.block_on(call).expect("no panic"), Forwarded::NothingSent);
    let itself = one.forward(NodeId(1), put(1), LONG);
    assert_eq!(one.block_on(itself).expect("no panic"), Forwarded::NothingSent);
}

#[test]
fn nothing_was_sent_to_a_node_that_refused_the_stream() {
    let listeners: Vec<TcpListener> = peers_common::listeners(2);
    let membership = membership_at(&listeners);
    let mut listeners = listeners.into_iter();
    let mut start = |id, cluster| {
        let listener = listeners.next().expect("one for each");
        Node::start(NodeId(id), cluster, listener, membership.clone(), Box::new(usual_answer))
    };
    let one = start(1, CLUSTER);
    let two = start(2, ClusterId(0xf0));
    let call = one.forward(NodeId(2), put(10), LONG);
    assert_eq!(one.block_on(call).expect("no panic"), Forwarded::NothingSent);
    assert!(one.peers.numbers()[0].problem.is_some());
    assert!(two.service.calls.lock().expect("not poisoned").is_empty());
}

/// What the leader took before it died may be applied or not: nobody may call it unsent.
#[test]
fn a_request_that_left_before_the_leader_died_is_broken() {
    let (one, mut two) = pair();
    *two.service.hold.lock().expect("not poisoned") = Some(Arc::new(Notify::new()));
    let call = one.forward(NodeId(2), put(10), LONG);
    eventually("the leader has it", || two.service.calls.lock().expect("not poisoned").len() == 1);
    two.kill();
    assert_eq!(one.block_on(call).expect("no panic"), Forwarded::Broken);
    let next = one.forward(NodeId(2), put(10), LONG);
    assert_eq!(one.block_on(next).expect("no panic"), Forwarded::NothingSent);
}

#[test]
fn a_request_that_left_and_got_no_answer_in_time_is_broken() {
    let (one, two) = pair();
    *two.service.hold.lock().expect("not poisoned") = Some(Arc::new(Notify::new()));
    let first = one.forward(NodeId(2), put(10), Duration::from_secs(2));
    eventually("the leader has it", || two.service.calls.lock().expect("not poisoned").len() == 1);
    assert_eq!(one.block_on(first).expect("no panic"), Forwarded::Broken);
}

/// A stream of forwarded writes has to say whose it is, and a stranger's is not even read.
#[test]
fn only_members_may_forward() {
    let (one, _two) = pair();
    let (status, text) = curl(&one.address, "POST /raft/propose HTTP/1.1", b"");
    assert_eq!(status, 400, "{text}");
    let (status, text) = curl(&one.address, "POST /raft/propose HTTP/1.1\nkv-from: 77", b"");
    assert_eq!(status, 409, "{text}");
    assert!(one.service.calls.lock().expect("not poisoned").is_empty());
}
