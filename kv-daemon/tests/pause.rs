//! A process that is frozen (SIGSTOP) and goes on later believes that no time has passed. It must
//! not act on what it believed: a leader that was replaced meanwhile serves nothing stale.

mod harness;

use std::thread;
use std::time::Duration;

use harness::cluster::Cluster;
use harness::http::{Connection, PATIENCE, Request};
use harness::load::Load;

/// Clients give a frozen node up soon, or all of them would hang at it.
const IMPATIENT: Duration = Duration::from_secs(1);

/// pitfall 56: reads that a frozen leader had taken in, or takes in as it wakes, are not served
/// from a state others have left behind.
#[test]
fn pitfall_56_a_leader_that_was_frozen_serves_nothing_stale() {
    let mut cluster = Cluster::start(3, &[]);
    let load = Load::start_with(&cluster.ports(), IMPATIENT);
    for round in 0..3 {
        let frozen = cluster.wait_leader();
        let key = format!("/kv/frozen/{round}");
        let others = cluster.others(frozen);
        cluster.put(frozen, &key, b"old");
        cluster.pause(frozen);

        // Reads wait in the frozen node's sockets, sent before the write they must not miss.
        let port = cluster.ports()[frozen];
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let key = key.clone();
                let mut connection = Connection::open(port, PATIENCE).expect("the kernel accepts");
                thread::spawn(move || connection.call(&Request::get(&key)))
            })
            .collect();
        let next = cluster.wait_leader();
        assert_ne!(next, frozen, "the others have chosen among themselves");
        cluster.put(others[0], &key, b"new");

        // These are asked after the write was acknowledged, and answered by the waking node.
        let asking: Vec<_> = (0..8)
            .map(|_| {
                let key = key.clone();
                let mut connection = Connection::open(port, PATIENCE).expect("the kernel accepts");
                thread::spawn(move || connection.call(&Request::get(&key)))
            })
            .collect();
        cluster.resume(frozen);
        for answer in asking {
            let answer = answer.join().unwrap().expect("a node that wakes answers");
            if answer.status == 200 {
                assert_eq!(
                    answer.text(),
                    "new",
                    "round {round}: a stale read from a frozen leader"
                );
            }
        }
        for answer in waiting {
            // Either value is right here: the write overlapped these reads.
            let answer = answer.join().unwrap().expect("a node that wakes answers");
            assert!(matches!(answer.status, 200 | 503 | 504), "{answer:?}");
        }
        cluster.wait_leader();
        cluster.wait_caught_up(frozen);
        assert_eq!(cluster.get(frozen, &key), b"new");
    }
    load.check();
}

#[test]
fn a_follower_that_was_frozen_disturbs_nobody_and_catches_up() {
    // A timeout that only the frozen node outlasts, also on a busy machine.
    let mut cluster = Cluster::start(3, &["--election-timeout", "1500ms"]);
    let leader = cluster.wait_leader();
    let before = cluster.wait_health(leader, "leads", |health| health.role == "leader");
    let load = Load::start_with(&cluster.ports(), IMPATIENT);
    let follower = cluster.others(leader)[0];
    cluster.pause(follower);
    // Longer than its longest election wait: it wakes with a deadline that has passed.
    thread::sleep(Duration::from_millis(3_500));
    load.wait_acknowledged();
    cluster.resume(follower);
    cluster.wait_caught_up(follower);
    let after = cluster.wait_health(leader, "is well", |health| health.http == 200);
    assert_eq!(
        (after.role.as_str(), after.term),
        ("leader", before.term),
        "pre-vote kept it quiet"
    );
    load.check();
}

/// With both followers frozen the leader still believes that it leads. It must neither acknowledge a
/// write that only its own disk holds, nor read what others may have replaced.
#[test]
fn a_leader_without_a_majority_acknowledges_nothing_and_reads_nothing() {
    // A timeout that keeps it in office for the whole of the test.
    let mut cluster = Cluster::start(3, &["--election-timeout", "2s"]);
    let leader = cluster.wait_leader();
    let followers = cluster.others(leader);
    cluster.put(leader, "/kv/color", b"blue");
    for follower in &followers {
        cluster.pause(*follower);
    }
    let read = cluster.call(leader, &Request::get("/kv/color?timeout=500ms"));
    assert!(matches!(read.status, 503 | 504), "{} {}", read.status, read.text());
    let write = cluster.call(leader, &Request::put("/kv/color?timeout=500ms", b"red"));
    assert!(matches!(write.status, 503 | 504), "{} {}", write.status, write.text());
    assert_eq!(write.json()["outcome"], "unknown", "it is in the log: {}", write.text());

    cluster.kill(leader);
    for follower in &followers {
        cluster.resume(*follower);
    }
    cluster.wait_leader();
    let color = cluster.get(followers[0], "/kv/color");
    assert!(matches!(color.as_slice(), b"blue" | b"red"), "{color:?}");
    assert_eq!(cluster.get(followers[1], "/kv/color"), color, "it is one of them for good");
}

/// All clocks stop at once and go on at once: the cluster serves again, with nothing lost.
#[test]
fn a_cluster_that_was_frozen_as_a_whole_goes_on() {
    let mut cluster = Cluster::start(3, &[]);
    let load = Load::start_with(&cluster.ports(), IMPATIENT);
    for i in 0..3 {
        cluster.pause(i);
    }
    thread::sleep(Duration::from_secs(2));
    for i in 0..3 {
        cluster.resume(i);
    }
    cluster.wait_leader();
    load.wait_acknowledged();
    load.check();
}
