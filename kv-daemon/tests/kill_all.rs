//! All nodes are killed at one moment under load, as by a power cut that spares the disks' caches:
//! every write that was acknowledged is there when they are back.

#![allow(clippy::print_stdout, reason = "long runs report their progress")]

mod harness;

use harness::cluster::Cluster;
use harness::count;
use harness::load::Load;
use harness::random::Random;

/// pitfall 32. `ROUNDS=50 cargo test --release -p kv-daemon --test kill_all -- --nocapture`.
#[test]
fn pitfall_32_killing_all_nodes_at_once_loses_nothing() {
    let mut cluster = Cluster::start(3, &[]);
    let load = Load::start(&cluster.ports());
    let mut random = Random::new(1);
    for round in 1..=count("ROUNDS", 2) {
        for _ in 0..1 + random.below(20) {
            load.wait_acknowledged();
        }
        cluster.kill_all();
        cluster.start_all();
        let leader = cluster.wait_leader();
        println!("round {round}: all killed and back, {} leads", cluster.name(leader));
    }
    load.wait_acknowledged();
    load.check();
}

/// With small segments and snapshots taken all the time, so that kills also fall into a roll, a
/// snapshot or the removal of old log (pitfalls 44 and 46).
#[test]
fn pitfall_44_killing_all_nodes_amid_snapshots_loses_nothing() {
    let flags =
        ["--snapshot-entries", "200", "--snapshot-bytes", "64KiB", "--segment-bytes", "64KiB"];
    let mut cluster = Cluster::start(3, &flags);
    let load = Load::start(&cluster.ports());
    let mut random = Random::new(2);
    for round in 1..=count("ROUNDS", 2) {
        for _ in 0..20 + random.below(20) {
            load.wait_acknowledged();
        }
        cluster.kill_all();
        cluster.start_all();
        let leader = cluster.wait_leader();
        println!("round {round}: all killed and back, {} leads", cluster.name(leader));
    }
    load.wait_acknowledged();
    load.check();
}

#[test]
fn a_killed_follower_stops_nobody_and_comes_back() {
    // A timeout that only a real loss of the leader outlasts, also on a busy machine.
    let mut cluster = Cluster::start(3, &["--election-timeout", "2s"]);
    let leader = cluster.wait_leader();
    let term = cluster.wait_health(leader, "leads", |health| health.role == "leader").term;
    let load = Load::start(&cluster.ports());
    let follower = cluster.others(leader)[0];
    cluster.kill(follower);
    for _ in 0..20 {
        load.wait_acknowledged();
    }
    cluster.start_node(follower);
    cluster.wait_caught_up(follower);
    let health = cluster.wait_health(leader, "leads", |health| health.http == 200);
    assert_eq!(
        (health.role.as_str(), health.term),
        ("leader", term),
        "the leader was not disturbed"
    );
    load.check();
}
