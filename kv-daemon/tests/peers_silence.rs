//! A link that swallows everything and then comes back: connections from before never carry a byte
//! again, which is what a long partition looks like to TCP.

mod peers_common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kv_daemon::kv::service::Forwarded;
use kv_daemon::peers::PeersConfig;
use peers_common::{
    CLUSTER, Node, append, eventually, heartbeat, listeners, membership_at, message, put,
    usual_answer,
};
use raft_core::message::Body;
use raft_core::types::NodeId;

/// Stands in front of a node. Connections numbered below `swallows` stay open and carry nothing.
struct Link {
    opened: AtomicUsize,
    swallows: AtomicUsize,
}

impl Link {
    fn before(target: u16, listener: TcpListener) -> Arc<Link> {
        let link = Arc::new(Link { opened: AtomicUsize::new(0), swallows: AtomicUsize::new(0) });
        let accepting = link.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let number = accepting.opened.fetch_add(1, Ordering::SeqCst);
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", target)))
                else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let from = from.try_clone().expect("a socket");
                    let to = to.try_clone().expect("a socket");
                    let link = accepting.clone();
                    thread::spawn(move || link.copy(number, from, to));
                }
            }
        });
        link
    }

    fn copy(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if !self.swallowed(number) && to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        // That an end was closed is swallowed like everything else.
        if !self.swallowed(number) {
            let _ = to.shutdown(Shutdown::Both);
        }
    }

    fn swallowed(&self, number: usize) -> bool {
        number < self.swallows.load(Ordering::SeqCst)
    }

    fn cut(&self) {
        self.swallows.store(usize::MAX, Ordering::SeqCst);
    }

    fn mend(&self) {
        self.swallows.store(self.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// Two nodes with a link before each.
fn linked() -> (Vec<Node>, Vec<Arc<Link>>) {
    let (doors, behind) = (listeners(2), listeners(2));
    let membership = membership_at(&doors);
    let mut links = Vec::new();
    let mut nodes = Vec::new();
    for (at, (door, listener)) in doors.into_iter().zip(behind).enumerate() {
        links.push(Link::before(listener.local_addr().expect("it is bound").port(), door));
        let answer_timeout = Duration::from_millis(400);
        let id = NodeId(at as u64 + 1);
        let config = PeersConfig { answer_timeout, ..PeersConfig::new(id, CLUSTER) };
        nodes.push(Node::start_with(config, listener, membership.clone(), Box::new(usual_answer)));
    }
    (nodes, links)
}

/// Everything from leader to follower opens anew after a silence, the appends too, and the follower
/// opens its forwarded writes anew when the leader is heard again.
#[test]
fn after_a_silence_nothing_stays_on_a_connection_that_carries_nothing() {
    let (nodes, links) = linked();
    let (leader, follower) = (&nodes[0], &nodes[1]);
    let next = AtomicU64::new(1);
    let id = || next.fetch_add(1, Ordering::SeqCst);
    let answered = |wanted: u64| leader.core.ids(Body::is_reply).contains(&wanted);
    let long = Duration::from_secs(60);

    let (first, second) = (id(), id());
    leader.send(message(1, 2, first, append(1, 10)));
    leader.send(message(1, 2, second, heartbeat(1)));
    eventually("all is well", || answered(first) && answered(second));
    let sent = follower.block_on(follower.forward(NodeId(1), put(10), long)).expect("no panic");
    assert!(matches!(sent, Forwarded::Done(Ok(_))), "{sent:?}");

    links.iter().for_each(|link| link.cut());
    let stuck = follower.forward(NodeId(1), put(11), long);
    // By then the follower has not heard of the leader for more than two seconds.
    eventually("heartbeats go unanswered", || {
        thread::sleep(Duration::from_millis(20));
        leader.send(message(1, 2, id(), heartbeat(2)));
        6 <= leader.peers.numbers()[0].errors
    });
    assert!(!stuck.is_finished(), "nothing has broken yet as far as TCP knows");

    links.iter().for_each(|link| link.mend());
    eventually("heartbeats are answered again", || {
        let wanted = id();
        leader.send(message(1, 2, wanted, heartbeat(3)));
        thread::sleep(Duration::from_millis(20));
        answered(wanted)
    });
    eventually("appends are answered again", || {
        let wanted = id();
        leader.send(message(1, 2, wanted, append(wanted, 10)));
        thread::sleep(Duration::from_millis(20));
        answered(wanted)
    });
    assert_eq!(follower.block_on(stuck).expect("no panic"), Forwarded::Broken);
    let sent = follower.block_on(follower.forward(NodeId(1), put(12), long)).expect("no panic");
    assert!(matches!(sent, Forwarded::Done(Ok(_))), "{sent:?}");
    // A silence is no death.
    assert!(follower.core.down.lock().expect("not poisoned").is_empty());
}
