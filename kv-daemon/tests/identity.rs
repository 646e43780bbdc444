//! Directories and nodes that are mixed up: each mix is refused with its own exit code and a
//! sentence that names both sides, and nothing is changed by it.

mod harness;

use std::fs;
use std::path::Path;

use harness::area::Area;
use harness::cluster::Cluster;
use harness::daemon::{Daemon, Exit, Setup};
use harness::files::{contents, copy};
use harness::http::Request;
use harness::wait_for;

/// A started cluster of one that has stored `color`.
fn alone(area: &Area, name: &str) -> Daemon {
    let mut daemon = Setup::new(area.root(), name, area.port()).start();
    daemon.wait_alive();
    wait_for("it serves", || {
        let put = Request::put("/kv/color", name.as_bytes());
        daemon.call(&put).ok().filter(|response| response.status == 201)
    });
    daemon
}

/// This node ends with this code, and its last words hold all of these.
fn refuses(setup: &Setup, code: i32, parts: &[&str]) {
    let (exit, daemon) = setup.run();
    let said = daemon.stderr();
    assert_eq!(exit, Exit::Code(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[test]
fn a_second_process_on_a_directory_is_refused_and_names_the_first() {
    let area = Area::new();
    let first = alone(&area, "node1");
    let mut second = first.setup().clone();
    second.port = area.port();
    // Its output goes elsewhere: the first one still writes to its own.
    second.data = area.path("link");
    std::os::unix::fs::symlink(&first.setup().data, &second.data).expect("a link");
    refuses(&second, 11, &[&first.id().to_string()]);
    assert_eq!(first.get("/kv/color").expect("it still runs").text(), "node1");
}

#[test]
fn a_lock_left_by_a_killed_process_holds_nobody_off() {
    let area = Area::new();
    let mut daemon = alone(&area, "node1");
    daemon.kill();
    let mut again = daemon.setup().start();
    again.wait_alive();
    let value = wait_for("it serves", || {
        again.get("/kv/color").ok().filter(|response| response.status == 200)
    });
    assert_eq!(value.text(), "node1");
}

#[test]
fn a_directory_of_another_name_is_refused() {
    let area = Area::new();
    let mut daemon = alone(&area, "node1");
    daemon.terminate();
    let mut other = daemon.setup().clone();
    other.name = "node2".to_owned();
    let before = contents(&other.data);
    refuses(&other, 12, &["node1", "node2"]);
    assert_eq!(before, contents(&other.data), "nothing was changed");
}

#[test]
fn a_log_of_another_node_is_refused() {
    let area = Area::new();
    let (mut one, mut two) = (alone(&area, "node1"), alone(&area, "node2"));
    one.terminate();
    two.terminate();
    let setup = two.setup();
    fs::remove_dir_all(setup.data.join("wal")).expect("its own log goes");
    copy(&one.setup().data.join("wal"), &setup.data.join("wal"));
    let before = contents(&setup.data);
    refuses(setup, 12, &["wal/"]);
    assert_eq!(before, contents(&setup.data), "nothing was changed");
}

/// A snapshot of another node is a file that no mark of this log names, or one whose content the
/// mark does not fit: either way it is never served.
#[test]
fn a_snapshot_of_another_node_is_never_served() {
    let area = Area::new();
    let (mut one, mut two) = (alone(&area, "node1"), alone(&area, "node2"));
    for daemon in [&one, &two] {
        let taken = daemon.call(&Request::new("POST", "/cluster/snapshot")).expect("it runs");
        assert_eq!(taken.status, 200, "{}", taken.text());
    }
    one.terminate();
    two.terminate();
    let setup = two.setup();
    let (from, to) = (one.setup().data.join("snap"), setup.data.join("snap"));
    // Under the name this node's own snapshot has.
    let only = |folder: &Path| {
        let mut files = fs::read_dir(folder).expect("a folder").map(|file| file.unwrap().path());
        files.next().expect("a snapshot was taken")
    };
    fs::copy(only(&from), only(&to)).expect("it is copied");
    let before = contents(&setup.data);
    let mut daemon = setup.start();
    let ended = wait_for("it refuses, or serves what is its own", || match daemon.ended() {
        Some(exit) => Some(Some(exit)),
        None => daemon
            .get("/kv/color")
            .ok()
            .filter(|response| response.status == 200)
            .map(|response| assert_eq!(response.text(), "node2"))
            .map(|()| None),
    });
    if let Some(exit) = ended {
        let said = daemon.stderr();
        assert!(matches!(exit, Exit::Code(12 | 13)), "{exit:?}: {said}");
        assert!(said.contains("snap/"), "{said}");
        assert_eq!(before, contents(&setup.data), "nothing was changed");
    }
}

#[test]
fn a_port_in_use_is_said_with_the_flag_and_who_has_it() {
    let area = Area::new();
    let first = alone(&area, "node1");
    let second = Setup::new(area.root(), "node2", first.setup().port);
    refuses(&second, 10, &[&first.setup().port.to_string(), "--port", "node1"]);
}

#[test]
fn a_member_at_another_address_does_not_start() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.stop(2);
    let old = cluster.setup(2).address();
    let mut moved = cluster.setup(2).clone();
    moved.port = cluster.area.port();
    refuses(&moved, 2, &[&old, &moved.address()]);
}

/// The format stands at byte 8 of META, the CRC of all before it at the end: in every version.
#[test]
fn a_directory_of_a_later_version_is_refused_and_left_alone() {
    let area = Area::new();
    let mut daemon = alone(&area, "node1");
    daemon.terminate();
    let setup = daemon.setup();
    let file = setup.data.join("META");
    let mut meta = fs::read(&file).expect("every directory has one");
    meta[8..12].copy_from_slice(&77_u32.to_le_bytes());
    let end = meta.len() - 4;
    let crc = crc32fast::hash(&meta[..end]);
    meta[end..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&file, meta).expect("it can be written");
    let before = contents(&setup.data);
    refuses(setup, 14, &["META", "77"]);
    assert_eq!(before, contents(&setup.data), "nothing was changed");
}

/// Two clusters that once had the same addresses: a node of the one finds nodes of the other where
/// its peers were. Nothing changes on either side, and everyone can read why.
#[test]
fn peers_of_another_cluster_change_nothing_and_are_named() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.put(0, "/kv/color", b"blue");
    let ours = cluster.health(0).expect("it runs").cluster.expect("it has formed");
    cluster.stop_all();
    let old = cluster.area.path("old");
    fs::create_dir(&old).expect("a folder");
    for i in 0..3 {
        let data = cluster.setup(i).data.clone();
        fs::rename(&data, old.join(cluster.name(i))).expect("put aside");
    }
    cluster.start_all();
    cluster.wait_leader();
    let theirs = cluster.health(0).expect("it runs").cluster.expect("it has formed");
    assert_ne!(ours, theirs, "new disks are a new cluster, although names and addresses are equal");
    cluster.put(0, "/kv/color", b"red");

    // The first node of the old cluster, between two of the new one.
    cluster.stop(0);
    let back = old.join("node1");
    cluster.setup(0).data = back.clone();
    let leader = cluster.wait_leader();
    let before = cluster.health(leader).expect("it runs");
    cluster.start_node(0);
    cluster.daemon(0).wait_alive();
    let both = |text: &str| text.contains(&ours) && text.contains(&theirs);
    let health = cluster.wait_health(0, "names both clusters", |health| both(&health.status));
    assert_eq!((health.http, health.cluster.as_ref()), (503, Some(&ours)));
    wait_for("so does its log", || both(&cluster.daemon(0).stderr()).then_some(()));

    let refused = cluster.call(0, &Request::put("/kv/color?timeout=1s", b"green"));
    assert!(matches!(refused.status, 503 | 504), "{} {}", refused.status, refused.text());
    let after = cluster.health(leader).expect("it runs");
    assert_eq!((before.term, before.role, before.cluster), (after.term, after.role, after.cluster));
    assert_eq!(cluster.get(leader, "/kv/color"), b"red");

    // Among its own again it goes on.
    cluster.stop_all();
    for i in 1..3 {
        let name = cluster.name(i).to_owned();
        cluster.setup(i).data = old.join(name);
    }
    cluster.start_all();
    cluster.wait_leader();
    assert_eq!(cluster.get(0, "/kv/color"), b"blue");
}
