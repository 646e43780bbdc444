//! Three nodes from their first start on: they find each other in any order and however their
//! addresses are spelled, say plainly why when they cannot, serve at every node, hand leadership
//! over when asked, and bring a node that was away up to date by a snapshot.

mod harness;

use harness::cluster::Cluster;
use harness::daemon::{Exit, Setup};
use harness::http::Request;
use harness::{area::Area, wait_for};

#[test]
fn three_nodes_form_in_any_order_and_serve_at_every_node() {
    let mut cluster = Cluster::prepare(3, &[]);
    for i in [2, 0, 1] {
        cluster.start_node(i);
        // The next one is started only when this one waits for it: a person with three terminals.
        cluster.daemon(i).wait_alive();
    }
    cluster.wait_leader();
    for writer in 0..3 {
        let (key, value) = (format!("/kv/by/{writer}"), format!("value {writer}"));
        cluster.put(writer, &key, value.as_bytes());
        for reader in 0..3 {
            assert_eq!(cluster.get(reader, &key), value.as_bytes(), "read at node{}", reader + 1);
        }
    }
    let ids: Vec<_> = (0..3).map(|i| cluster.health(i).expect("it runs").cluster).collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "one cluster id: {ids:?}");
}

#[test]
fn the_same_command_lines_again_go_on_with_the_same_data() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.put(0, "/kv/color", b"blue");
    let before = cluster.health(0).expect("it runs");
    for i in 0..3 {
        cluster.stop(i);
    }
    // A majority is enough now: only the very first start needs all.
    cluster.start_node(2);
    cluster.start_node(1);
    cluster.wait_leader();
    assert_eq!(cluster.get(1, "/kv/color"), b"blue");
    cluster.start_node(0);
    cluster.wait_leader();
    cluster.wait_caught_up(0);
    assert_eq!(cluster.get(0, "/kv/color"), b"blue");
    let after = cluster.health(0).expect("it runs");
    assert_eq!(before.cluster, after.cluster);
    assert!(before.term < after.term, "terms only grow: {before:?}, {after:?}");
}

/// `localhost`, `127.0.0.1`, and a list that names the node itself: the addresses in `--peers` are
/// ways to ask, not names.
#[test]
fn spelling_and_order_of_peers_do_not_matter() {
    let mut cluster = Cluster::prepare(3, &[]);
    let ports = cluster.ports();
    cluster.setup(0).peers =
        vec![format!("localhost:{}", ports[2]), format!("localhost:{}", ports[1])];
    let all = ports.iter().map(|port| format!("127.0.0.1:{port}"));
    cluster.setup(1).peers = all.chain([format!("localhost:{}", ports[0])]).collect();
    cluster.start_all();
    cluster.wait_leader();
    cluster.put(0, "/kv/color", b"blue");
    assert_eq!(cluster.get(2, "/kv/color"), b"blue");
}

#[test]
fn a_first_start_says_who_is_missing() {
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.start_node(0);
    cluster.start_node(1);
    let missing = format!("127.0.0.1:{}", cluster.ports()[2]);
    for i in [0, 1] {
        cluster.daemon(i).wait_alive();
        let what = "names the missing node";
        let health = cluster.wait_health(i, what, |health| health.status.contains(&missing));
        assert_eq!((health.http, health.role.as_str()), (503, "forming"));
        cluster.daemon(i).wait_log(&missing);
    }
    let refused = cluster.call(0, &Request::put("/kv/color", b"blue"));
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["outcome"], "not_applied", "{}", refused.text());
}

#[test]
fn sets_that_do_not_agree_are_shown_with_the_flag_that_mends_them() {
    let mut cluster = Cluster::prepare(3, &[]);
    // The first node leaves out the third, which the second one names.
    cluster.setup(0).peers.pop();
    cluster.start_all();
    let ports = cluster.ports();
    let (first, third) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[2]));
    for i in [0, 1, 2] {
        cluster.daemon(i).wait_alive();
        let shown =
            |text: &str| text.contains(&first) && text.contains(&third) && text.contains("--peers");
        let health =
            cluster.wait_health(i, "shows both sets and the flag", |health| shown(&health.status));
        assert_eq!((health.http, health.role.as_str()), (503, "forming"));
        wait_for("the log shows them too", || shown(&cluster.daemon(i).stderr()).then_some(()));
    }

    // Mended, all three form.
    cluster.stop_all();
    let third = format!("127.0.0.1:{}", ports[2]);
    cluster.setup(0).peers.push(third);
    cluster.start_all();
    cluster.wait_leader();
    cluster.put(0, "/kv/color", b"blue");
}

/// What can be said before anything is tried is said in one sentence, and the program ends.
#[test]
fn flags_that_cannot_work_are_explained_at_once() {
    let area = Area::new();
    let rows = [
        (&["--host", "0.0.0.0"][..], "--advertise"),
        (&["--peers", "192.0.2.1:8001"], "--host"),
        (&["--peers", "localhost"], "localhost:8002"),
        (&["--heartbeat", "2s"], "--election-timeout"),
        (&["--segment-bytes", "lots"], "64MiB"),
        (&["--no-such-flag"], "--no-such-flag"),
    ];
    for (i, (flags, part)) in rows.into_iter().enumerate() {
        let mut setup = Setup::new(area.root(), &format!("node{i}"), area.port());
        setup.flags = flags.iter().map(|flag| flag.to_string()).collect();
        let (exit, daemon) = setup.run();
        let said = daemon.stderr();
        assert_eq!(exit, Exit::Code(2), "{flags:?}: {said}");
        assert!(said.contains(part), "{flags:?}: {part:?} is not in: {said}");
        assert!(!setup.data.exists(), "{flags:?}: nothing was made");
    }
}

#[test]
fn two_nodes_of_one_name_do_not_form() {
    let area = Area::new();
    let (one, two) = (area.port(), area.port());
    let setup = |port: u16, other: u16, folder: &str| {
        let mut setup = Setup::new(area.root(), "twin", port);
        setup.data = area.path(folder);
        setup.peers = vec![format!("127.0.0.1:{other}")];
        setup
    };
    let mut first = setup(one, two, "a").start();
    let mut second = setup(two, one, "b").start();
    for daemon in [&mut first, &mut second] {
        daemon.wait_alive();
        wait_for("both addresses are named", || {
            let status = daemon.health()?["status"].as_str()?.to_owned();
            let both = [one, two].iter().all(|port| status.contains(&port.to_string()));
            (both && status.contains("twin") && status.contains("--id")).then_some(())
        });
    }
}

#[test]
fn a_cluster_of_one_is_not_started_with_peers() {
    let area = Area::new();
    let mut setup = Setup::new(area.root(), "alone", area.port());
    let mut daemon = setup.start();
    daemon.wait_alive();
    wait_for("it serves", || {
        daemon.call(&Request::put("/kv/color", b"blue")).ok().filter(|r| r.status == 201)
    });
    assert_eq!(daemon.terminate().0, Exit::Code(0));

    setup.peers = vec![format!("127.0.0.1:{}", area.port())];
    let (exit, refused) = setup.run();
    let said = refused.stderr();
    assert_eq!(exit, Exit::Code(2), "{said}");
    for part in ["without --peers", "--id", "--data-dir"] {
        assert!(said.contains(part), "the two ways on are named: {part:?} in {said}");
    }

    setup.peers.clear();
    let mut daemon = setup.start();
    daemon.wait_alive();
    let value = wait_for("it serves again", || {
        daemon.get("/kv/color").ok().filter(|response| response.status == 200)
    });
    assert_eq!(value.text(), "blue");
}

/// pitfall 15: a node that lost its disk is another node. It neither votes nor takes the place of
/// the lost one, and says why it waits.
#[test]
fn pitfall_15_a_fresh_node_at_a_members_address_waits_and_never_votes() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.put(0, "/kv/color", b"blue");
    cluster.kill(2);
    let lost = cluster.setup(2).data.clone();
    std::fs::rename(&lost, cluster.area.path("lost")).expect("its directory is put aside");
    cluster.start_node(2);
    cluster.daemon(2).wait_alive();
    let health = cluster.wait_health(2, "says that a cluster is there already", |health| {
        health.status.contains("node1") || health.status.contains("node2")
    });
    assert_eq!((health.http, health.role.as_str()), (503, "forming"));
    cluster.daemon(2).wait_log("cluster");

    // With one more down, the fresh node would be needed for a majority: it must not be one.
    let survivor = cluster.wait_health(0, "has a leader", |health| health.leader.is_some());
    let up = if survivor.leader.as_deref() == Some("node1") { 0 } else { 1 };
    let down = 1 - up;
    cluster.kill(down);
    cluster.wait_health(up, "has lost its majority", |health| health.role != "leader");
    let refused = cluster.call(up, &Request::put("/kv/color?timeout=1500ms", b"red"));
    assert!(matches!(refused.status, 503 | 504), "{} {}", refused.status, refused.text());
    let fresh = cluster.health(2).expect("it runs");
    assert_eq!(fresh.role, "forming", "{fresh:?}");
    assert_eq!(fresh.term, 0, "it took part in no election: {fresh:?}");

    // The lost disk comes back: it is a member as before.
    cluster.kill(2);
    std::fs::rename(&lost, cluster.area.path("fresh")).expect("the fresh directory goes");
    std::fs::rename(cluster.area.path("lost"), &lost).expect("the lost one is found");
    cluster.start_all();
    cluster.wait_leader();
}

#[test]
fn leadership_is_handed_over_when_asked() {
    // A timeout that no pause of a busy machine outlasts: nobody takes over unasked.
    let mut cluster = Cluster::start(3, &["--election-timeout", "1500ms"]);
    let leader = cluster.wait_leader();
    let heir = cluster.others(leader)[0];
    let body = format!("{{\"id\":\"{}\"}}", cluster.name(heir));
    let wish = Request { body: body.as_bytes(), ..post("/cluster/leader") };
    let elsewhere = cluster.call(heir, &wish);
    if elsewhere.status != 204 {
        let port = cluster.ports()[leader].to_string();
        assert_eq!(elsewhere.status, 409, "{}", elsewhere.text());
        assert!(elsewhere.text().contains(&port), "it says whom to ask: {}", elsewhere.text());
        let answer = cluster.call(leader, &wish);
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    assert_eq!(cluster.wait_leader(), heir);

    // Without a name the leader chooses.
    let answer = cluster.call(heir, &post("/cluster/leader"));
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_ne!(cluster.wait_leader(), heir);
    cluster.put(heir, "/kv/color", b"blue");
}

#[test]
fn a_node_that_was_away_for_long_is_brought_back_by_a_snapshot() {
    let flags =
        ["--snapshot-entries", "100", "--snapshot-bytes", "64KiB", "--segment-bytes", "64KiB"];
    let mut cluster = Cluster::start(3, &flags);
    let leader = cluster.wait_leader();
    let away = cluster.others(leader)[0];
    cluster.put(leader, "/kv/early", b"one");
    cluster.kill(away);
    // More than the tail of the log that is kept for slow followers.
    let value = vec![b'x'; 256 << 10];
    for i in 0..160 {
        cluster.put(leader, &format!("/kv/big/{}", i % 8), &value);
    }
    let taken = wait_for("no snapshot is under way", || {
        let taken = cluster.call(leader, &post("/cluster/snapshot"));
        (taken.status != 409).then_some(taken)
    });
    assert_eq!(taken.status, 200, "{}", taken.text());
    assert!(taken.json()["index"].as_u64().is_some_and(|index| 100 < index), "{}", taken.text());
    cluster.put(leader, "/kv/late", b"two");

    cluster.start_node(away);
    cluster.wait_caught_up(away);
    assert_eq!(cluster.get(away, "/kv/early?consistency=stale"), b"one");
    assert_eq!(cluster.get(away, "/kv/late?consistency=stale"), b"two");
    assert_eq!(cluster.get(away, "/kv/big/7?consistency=stale"), value);
    let installed = wait_for("its status says from where its log goes on", || {
        let status = cluster.call(away, &Request::get("/cluster/status"));
        status.json()["snapshot_index"].as_u64()
    });
    assert!(100 < installed, "it came by a snapshot, not by the log: {installed}");

    // What it was given is on its own disk.
    cluster.kill(away);
    cluster.start_node(away);
    cluster.wait_caught_up(away);
    assert_eq!(cluster.get(away, "/kv/big/7?consistency=stale"), value);
}

fn post(target: &str) -> Request<'_> {
    Request::new("POST", target)
}
