//! What operators see of a single node: health, readiness, the cluster, metrics and orders.

mod common;

use common::OneNode;
use serde_json::{Value, json};

#[test]
fn health_has_the_fields_that_tools_rely_on() {
    let node = OneNode::start("");
    node.put("/kv/a", b"x");
    let reply = node.get("/health");
    assert_eq!(reply.status, 200);
    let health = reply.json();
    let fields: Vec<&str> = health.as_object().unwrap().keys().map(String::as_str).collect();
    let mut wanted = [
        "status",
        "id",
        "node_id",
        "cluster",
        "role",
        "leader",
        "leader_url",
        "term",
        "commit_index",
        "applied_index",
        "last_log_index",
        "revision",
        "version",
        "uptime_s",
    ];
    wanted.sort_unstable();
    assert_eq!(fields, wanted);
    for (field, value) in [
        ("status", json!("ok")),
        ("id", json!("node1")),
        ("role", json!("leader")),
        ("leader", json!("node1")),
        ("leader_url", json!(format!("http://{}", node.address()))),
        ("revision", json!(1)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(health[field], value, "{field}");
    }
    for field in ["node_id", "cluster"] {
        let id = health[field].as_str().unwrap();
        assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{field}: {id}");
    }
    assert_eq!(health["commit_index"], health["applied_index"]);
}

#[test]
fn liveness_and_readiness() {
    let node = OneNode::start("");
    for path in ["/livez", "/health/live", "/readyz", "/health/ready", "/readyz?sync"] {
        let reply = node.get(path);
        assert_eq!((reply.status, reply.text()), (200, "ok\n"), "{path}");
    }
    let verbose = node.get("/readyz?verbose");
    assert_eq!(verbose.text(), "[+]node ok\n[+]storage ok\n[+]leader ok\n[+]applied ok\nok\n");
    let fewer = node.get("/readyz?verbose&noleader&exclude=applied,storage");
    assert_eq!(fewer.text(), "[+]node ok\nok\n");
    assert_eq!(node.get("/readyz?exclude=disk").problem(), "invalid");
}

#[test]
fn the_cluster_of_one() {
    let node = OneNode::start("");
    let status = node.get("/cluster/status").json();
    assert_eq!((&status["quorum"], &status["failure_tolerance"]), (&json!(1), &json!(0)));
    let member = &status["members"][0];
    assert_eq!((&member["id"], &member["role"]), (&json!("node1"), &json!("leader")));
    assert_eq!((&member["voter"], &member["learner"]), (&json!(true), &json!(false)));
    let leader = node.get("/cluster/leader").json();
    assert_eq!((&leader["id"], &leader["url"]), (&json!("node1"), &status["leader_url"]));

    let order = |body: &str| node.ask("POST", "/cluster/leader", &[], body.as_bytes());
    assert_eq!(order("{\"id\":\"node1\"}").status, 204, "it leads already");
    assert_eq!(order("{\"id\":\"node9\"}").problem(), "no-node");
    assert_eq!(order("{\"name\":\"node1\"}").problem(), "invalid");
    assert_eq!(order("").problem(), "no-voter");
}

#[test]
fn a_snapshot_is_taken_on_request() {
    let mut node = OneNode::start("");
    node.put("/kv/a", b"x");
    let taken = node.ask("POST", "/cluster/snapshot", &[], b"");
    assert_eq!(taken.status, 200);
    assert!(0 < taken.json()["bytes"].as_u64().unwrap(), "{}", taken.text());
    let index = taken.json()["index"].clone();
    assert_eq!(node.ask("POST", "/cluster/snapshot", &[], b"").json()["index"], index);
    assert_eq!(node.get("/cluster/status").json()["snapshot_index"], index);
    node.restart();
    assert_eq!(node.get("/kv/a").text(), "x");
}

/// Every family that the documentation and the alerts name is there, each once.
#[test]
fn metrics_name_every_family_once() {
    let node = OneNode::start("");
    node.put("/kv/secret-key", b"x");
    let reply = node.get("/metrics");
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = reply.text();
    for family in [
        "kv_build_info",
        "kv_wal_bytes",
        "kv_wal_segments",
        "kv_raft_term",
        "kv_raft_is_leader",
        "kv_raft_has_leader",
        "kv_raft_commit_index",
        "kv_raft_applied_index",
        "kv_raft_last_log_index",
        "kv_raft_snapshot_index",
        "kv_raft_leader_changes_total",
        "kv_raft_elections_total",
        "kv_raft_proposals_total",
        "kv_raft_proposals_pending",
        "kv_raft_commit_duration_seconds",
        "kv_peer_match_index",
        "kv_peer_inflight",
        "kv_peer_last_contact_seconds",
        "kv_peer_rtt_seconds",
        "kv_peer_sent_bytes_total",
        "kv_peer_errors_total",
        "kv_wal_fsync_duration_seconds",
        "kv_store_keys",
        "kv_store_bytes",
        "kv_store_revision",
        "kv_carp_epoch",
        "kv_carp_slots_owned",
        "kv_carp_slots_coming",
        "kv_carp_forwarded_total",
        "kv_carp_misdirected_total",
        "kv_http_requests_total",
        "kv_http_request_duration_seconds",
        "kv_http_inflight",
    ] {
        for line in [format!("# HELP {family} "), format!("# TYPE {family} ")] {
            assert_eq!(text.matches(&line).count(), 1, "{line}");
        }
    }
    for line in [
        "kv_raft_is_leader 1",
        "kv_raft_proposals_total{result=\"applied\"} 1",
        "kv_store_keys 1",
        "kv_store_revision 1",
        "kv_http_requests_total{route=\"/kv/{key}\",method=\"PUT\",code=\"201\"} 1",
        "kv_http_inflight 1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
    }
    assert!(!text.contains("secret-key"), "labels never hold a key");
}

#[test]
fn a_person_finds_the_way_from_the_root() {
    let node = OneNode::start("");
    let root = node.get("/");
    assert!(root.text().contains("node1, leader") && root.text().contains("curl -X PUT"));
    let version: Value = node.get("/version").json();
    assert_eq!(version, json!({"name": "kv-daemon", "version": env!("CARGO_PKG_VERSION")}));
    for path in ["/", "/version", "/metrics", "/health"] {
        assert_eq!(node.get(path).header("kv-served-by"), "node1", "{path}");
        assert_eq!(node.get(path).header("kv-revision"), "0", "{path}");
    }
}
