//! A leader is killed with `kill -9` under load, again and again: clients go on after a short gap,
//! and nothing they were told turns out wrong.
//!
//! `KILLS=100 cargo test --release -p kv-daemon --test kill_leader -- --nocapture` prints every gap
//! and the median and worst of all.

#![allow(clippy::print_stdout, reason = "the gaps are what this test is run for")]

mod harness;

use std::time::{Duration, Instant};

use harness::cluster::Cluster;
use harness::count;
use harness::load::Load;

/// pitfall 32: an acknowledged write is durable on a majority, whoever is killed.
#[test]
fn pitfall_32_killing_leaders_loses_nothing_and_clients_go_on() {
    let mut cluster = Cluster::start(3, &[]);
    let load = Load::start(&cluster.ports());
    let mut gaps = Vec::new();
    for kill in 1..=count("KILLS", 3) {
        let leader = cluster.wait_leader();
        load.wait_acknowledged();
        let killed = Instant::now();
        cluster.kill(leader);
        // Only writes that begin now: the answer to an older one may just have been on its way.
        let gap = load.wait_acknowledged() - killed;
        println!("kill {kill}: {} led; writes went on after {gap:.0?}", cluster.name(leader));
        gaps.push(gap);
        let next = cluster.wait_leader();
        assert_ne!(next, leader, "a node that is not running cannot lead");
        cluster.start_node(leader);
        cluster.wait_caught_up(leader);
    }
    gaps.sort();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or(Duration::ZERO);
    let worst = gaps.last().copied().unwrap_or(Duration::ZERO);
    println!("{} kills: the gap was {median:.0?} at the median, {worst:.0?} at worst", gaps.len());
    cluster.wait_leader();
    load.check();
}
