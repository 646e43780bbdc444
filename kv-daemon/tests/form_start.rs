//! What is said before a node starts, as tables.

use std::net::IpAddr;

use kv_daemon::form::start::{Restart, check_reach, check_restart, own_address};
use kv_daemon::form::{Identity, PeerSpec};
use raft_core::membership::{Member, Membership};
use raft_core::types::NodeId;

fn peers(list: &str) -> Vec<PeerSpec> {
    list.split(',').filter(|one| !one.is_empty()).map(|one| one.parse().expect(one)).collect()
}

fn me() -> Identity {
    Identity { node_id: NodeId(1), name: "node1".into(), address: "localhost:8001".into() }
}

fn members(list: &[(u64, &str)]) -> Membership {
    Membership::of_voters(list.iter().map(|(id, address)| {
        (NodeId(*id), Member { name: format!("node{id}"), address: (*address).to_owned() })
    }))
}

#[test]
fn peers_are_host_and_port() {
    for (text, name, address) in [
        ("localhost:8002", None, "localhost:8002"),
        (" db2.example:80 ", None, "db2.example:80"),
        ("[::1]:8002", None, "[::1]:8002"),
        ("node2=localhost:8002", Some("node2"), "localhost:8002"),
    ] {
        let spec: PeerSpec = text.parse().expect(text);
        assert_eq!((spec.name.as_deref(), spec.address.as_str()), (name, address));
    }
    for text in [
        "",
        "8002",
        "localhost",
        "localhost:",
        ":8002",
        "localhost:99999",
        "localhost:0",
        "::1:8002",
        "[::1:8002",
        "http://localhost:8002",
        "=localhost:8002",
        "a b:1",
    ] {
        let error = text.parse::<PeerSpec>().expect_err(text);
        assert!(error.contains("--peers") && error.contains(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn our_own_address_is_what_others_can_reach() {
    for (host, advertise, expected) in [
        ("127.0.0.1", None, "127.0.0.1:8001"),
        ("::1", None, "[::1]:8001"),
        ("0.0.0.0", Some("db1.example:9"), "db1.example:9"),
    ] {
        assert_eq!(own_address(host, 8001, advertise).as_deref(), Ok(expected));
    }
    for (host, advertise, flag) in [
        ("0.0.0.0", None, "--advertise db1.example:8001"),
        ("::", None, "--advertise"),
        ("127.0.0.1", Some("db1.example"), "--advertise"),
        ("127.0.0.1", Some("0.0.0.0:8001"), "--advertise"),
        ("127.0.0.1", Some("db1.example:0"), "--advertise"),
    ] {
        let error = own_address(host, 8001, advertise).expect_err(host);
        assert!(error.contains(flag), "{error}");
    }
}

#[test]
fn peers_beyond_this_machine_need_a_host_beyond_it() {
    let resolve = |host: &str| -> Vec<IpAddr> {
        match host {
            "self.example" => vec!["127.0.1.1".parse().expect("an address")],
            "db2.example" => vec!["10.0.0.2".parse().expect("an address")],
            _ => Vec::new(),
        }
    };
    for (host, list) in [
        ("127.0.0.1", "localhost:8002,127.0.0.1:8003,[::1]:8004,self.example:8005"),
        ("127.0.0.1", ""),
        ("0.0.0.0", "db2.example:8002"),
        ("10.0.0.1", "db2.example:8002"),
    ] {
        assert_eq!(check_reach(host, &peers(list), resolve), Ok(()), "{host} {list}");
    }
    for (host, list) in [
        ("127.0.0.1", "localhost:8002,db2.example:8003"),
        ("localhost", "10.0.0.2:8002"),
        ("::1", "unknown.example:8002"),
    ] {
        let error = check_reach(host, &peers(list), resolve).expect_err(list);
        assert!(error.contains("--host 0.0.0.0") && error.contains("--advertise"), "{error}");
    }
}

#[test]
fn a_node_with_state_goes_on_with_the_membership_on_its_disk() {
    let three = members(&[(1, "localhost:8001"), (2, "localhost:8002"), (3, "localhost:8003")]);
    for same in ["", "localhost:8002,localhost:8003", "127.0.0.1:8003,localhost:8002,[::1]:8001"] {
        let restart = check_restart("data/node1", &me(), &peers(same), &three);
        assert_eq!(restart, Ok(Restart::default()), "{same}");
    }
    for other in ["localhost:8002", "localhost:8002,localhost:8004"] {
        let restart = check_restart("data/node1", &me(), &peers(other), &three).expect("it starts");
        let warning = restart.warning.expect("the lists differ");
        assert!(warning.contains(other) && warning.contains("node3 (localhost:8003)"), "{warning}");
    }
    assert_eq!(
        check_restart("data/node1", &me(), &peers("localhost:9"), &Membership::default()),
        Ok(Restart::default()),
        "a membership that the log has not given yet fits anything"
    );
}

#[test]
fn what_does_not_fit_the_disk_does_not_start_and_the_ways_on_are_named() {
    let alone = members(&[(1, "localhost:8001")]);
    let error = check_restart("data/node1", &me(), &peers("localhost:8002"), &alone).unwrap_err();
    for part in ["data/node1 holds a cluster of one", "without --peers", "--id or --data-dir"] {
        assert!(error.contains(part), "{error}");
    }
    let moved = members(&[(1, "localhost:7001"), (2, "localhost:8002")]);
    let error = check_restart("data/node1", &me(), &[], &moved).unwrap_err();
    assert!(error.contains("--advertise localhost:7001"), "{error}");
    let removed = members(&[(2, "localhost:8002"), (3, "localhost:8003")]);
    let error = check_restart("data/node1", &me(), &[], &removed).unwrap_err();
    assert!(error.contains("no longer a member"), "{error}");

    let alone_moved = members(&[(1, "localhost:7001")]);
    let restart = check_restart("data/node1", &me(), &[], &alone_moved).expect("alone it moves");
    assert_eq!(restart.readdressed.as_deref(), Some("localhost:8001"));
}
