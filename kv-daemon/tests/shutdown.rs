//! Asked to stop (SIGTERM), a node ends well whatever its part in the cluster: a leader hands over
//! first, requests under way are answered, and nobody waits for a majority that is gone.

#![allow(clippy::print_stdout, reason = "how long a stop takes is worth a line")]

mod harness;

use harness::area::Area;
use harness::cluster::{Cluster, Health};
use harness::daemon::{Exit, Setup};
use harness::http::{Connection, PATIENCE, Request};
use harness::load::Load;
use harness::wait_for;
use rustix::process::Signal;

#[test]
fn a_node_alone_stops_and_goes_on_later() {
    let area = Area::new();
    let setup = Setup::new(area.root(), "node1", area.port());
    let mut daemon = setup.start();
    daemon.wait_alive();
    wait_for("it serves", || {
        daemon.call(&Request::put("/kv/color", b"blue")).ok().filter(|r| r.status == 201)
    });
    let (exit, took) = daemon.terminate();
    println!("a node alone stopped in {took:.0?}");
    assert_eq!(exit, Exit::Code(0));
    let mut daemon = setup.start();
    daemon.wait_alive();
    let value = wait_for("it serves again", || {
        daemon.get("/kv/color").ok().filter(|response| response.status == 200)
    });
    assert_eq!(value.text(), "blue");
}

/// Ctrl-C is the same as SIGTERM.
#[test]
fn ctrl_c_stops_a_node() {
    let area = Area::new();
    let mut daemon = Setup::new(area.root(), "node1", area.port()).start();
    daemon.wait_alive();
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait(), Exit::Code(0));
}

#[test]
fn a_node_that_still_waits_for_its_peers_stops() {
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.start_node(0);
    cluster.daemon(0).wait_alive();
    cluster.stop(0);
}

#[test]
fn a_follower_stops_and_leaves_the_leader_alone() {
    let mut cluster = Cluster::start(3, &["--election-timeout", "2s"]);
    let leader = cluster.wait_leader();
    let before = cluster.health(leader).expect("it runs");
    let load = Load::start(&cluster.ports());
    let follower = cluster.others(leader)[0];
    cluster.stop(follower);
    load.wait_acknowledged();
    let after = cluster.health(leader).expect("it runs");
    assert_eq!((before.term, after.role.as_str()), (after.term, "leader"));
    cluster.start_node(follower);
    cluster.wait_leader();
    load.check();
}

/// The leader is held up by a request that is still being sent: so it can be seen to follow another
/// one before it goes.
#[test]
fn a_leader_hands_over_first_and_answers_what_is_under_way() {
    let mut cluster = Cluster::start(3, &[]);
    // The others would wait half a minute for a lost leader: this is a handover or nothing.
    let leader = cluster.wait_leader();
    for follower in cluster.others(leader) {
        cluster.stop(follower);
        let patient = ["--election-timeout".to_owned(), "30s".to_owned()];
        cluster.setup(follower).flags.extend(patient);
        cluster.start_node(follower);
        cluster.wait_leader();
    }
    assert_eq!(cluster.wait_leader(), leader, "a majority was there all the time");

    let port = cluster.ports()[leader];
    let mut asking = Connection::open(port, PATIENCE).expect("it listens");
    let mut slow = Connection::open(port, PATIENCE).expect("it listens");
    slow.begin_chunked("PUT", "/kv/color").expect("it listens");
    slow.send_chunk(b"bl").expect("it takes the upload");
    wait_for("the request is under way", || {
        let metrics = asking.call(&Request::get("/metrics")).ok()?.text();
        let under_way = metrics.lines().find(|line| line.starts_with("kv_http_inflight"))?;
        // The question itself is one, too.
        let count: f64 = under_way.rsplit(' ').next()?.parse().ok()?;
        (2.0 <= count).then_some(())
    });
    cluster.daemon(leader).signal(Signal::TERM);
    // Its own word for it: what the others do once it is gone is no handover.
    let next = wait_for("it follows another leader while it still has something to do", || {
        let health = Health::of(&asking.call(&Request::get("/health")).ok()?)?;
        health.leader.filter(|_| health.role == "follower")
    });
    assert_eq!(cluster.daemon(leader).ended(), None, "it hands over before it goes");

    slow.send_chunk(b"ue").expect("it takes the rest");
    slow.send_chunk(b"").expect("it takes the rest");
    let answer = slow.receive("PUT").expect("a request under way is answered");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(cluster.daemon(leader).wait(), Exit::Code(0));
    let next = cluster.named(&next);
    assert_eq!(cluster.get(next, "/kv/color"), b"blue");
}

/// Under load: the handover loses nothing, and every write that failed says its fate.
#[test]
fn leaders_that_stop_under_load_lose_nothing() {
    let mut cluster = Cluster::start(3, &[]);
    let load = Load::start(&cluster.ports());
    for _ in 0..3 {
        let leader = cluster.wait_leader();
        load.wait_acknowledged();
        cluster.stop(leader);
        load.wait_acknowledged();
        cluster.start_node(leader);
        cluster.wait_leader();
        cluster.wait_caught_up(leader);
    }
    load.check();
}

#[test]
fn a_node_whose_peers_are_dead_stops() {
    let mut cluster = Cluster::start(3, &[]);
    let leader = cluster.wait_leader();
    for follower in cluster.others(leader) {
        cluster.kill(follower);
    }
    // A write that cannot be committed is under way.
    let port = cluster.ports()[leader];
    let mut stuck = Connection::open(port, PATIENCE).expect("it listens");
    let asked = std::thread::spawn(move || stuck.call(&Request::put("/kv/color", b"blue")));
    let (exit, took) = {
        let daemon = cluster.daemon(leader);
        daemon.terminate()
    };
    println!("a node without a majority stopped in {took:.0?}");
    assert_eq!(exit, Exit::Code(0));
    if let Ok(answer) = asked.join().expect("the client does not panic") {
        assert!(500 <= answer.status, "it cannot have been committed: {}", answer.text());
        let outcome = answer.json()["outcome"].as_str().map(str::to_owned);
        assert!(matches!(outcome.as_deref(), Some("unknown" | "not_applied")), "{}", answer.text());
    }
}
