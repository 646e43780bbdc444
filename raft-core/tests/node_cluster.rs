//! Three running nodes in one process: leaders come and go, followers fall behind and are filled.

mod node_support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use node_support::{Ledger, PATIENCE, options, start, wait_until};
use raft_core::consensus::event::Refusal;
use raft_core::node::{Node, NodeOptions};
use raft_core::proposals::{Outcome, ReadRefused, UnknownCause};
use raft_core::storage::testdisk::{OpKind, TestDisk};
use raft_core::transport::InMemoryNetwork;
use raft_core::types::NodeId;

struct Three {
    network: InMemoryNetwork,
    disks: [TestDisk; 3],
    nodes: [Option<Node<Ledger>>; 3],
}

impl Three {
    fn start() -> Three {
        let mut three = Three {
            network: InMemoryNetwork::new(),
            disks: std::array::from_fn(|_| TestDisk::new()),
            nodes: [None, None, None],
        };
        (1..=3).for_each(|id| three.restart(id, options()));
        three
    }

    fn restart(&mut self, id: u64, options: NodeOptions) {
        let at = id as usize - 1;
        let node = start(&self.disks[at], id, 3, options, self.network.transport());
        self.network.connect(NodeId(id), node.handle());
        self.nodes[at] = Some(node);
    }

    /// What is not synced is lost.
    fn kill(&mut self, id: u64) {
        let at = id as usize - 1;
        self.disks[at].stop_after(0);
        self.network.disconnect(NodeId(id));
        drop(self.nodes[at].take());
        self.disks[at] = self.disks[at].crash_losing_all();
    }

    fn node(&self, id: u64) -> &Node<Ledger> {
        self.nodes[id as usize - 1].as_ref().expect("it runs")
    }

    fn running(&self) -> impl Iterator<Item = &Node<Ledger>> {
        self.nodes.iter().flatten()
    }

    /// Proposes to whoever leads until it is applied.
    fn apply(&self, command: &str) {
        let running: Vec<u64> = self.running().map(|node| node.id().0).collect();
        self.apply_on(&running, command);
    }

    /// As `apply`, asking only these.
    fn apply_on(&self, ids: &[u64], command: &str) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            for node in ids.iter().map(|id| self.node(*id)) {
                let command = Bytes::copy_from_slice(command.as_bytes());
                match node.propose(command, Some(end)).wait() {
                    Outcome::Applied { .. } => return,
                    // Certainly not applied: it may be tried again.
                    Outcome::Refused(Refusal::NotLeader { .. }) | Outcome::NotApplied => {}
                    other => panic!("{other:?}"),
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody leads");
    }

    fn leader(&self) -> u64 {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let leads = |node: &&Node<Ledger>| {
                let status = node.status();
                status.leads() && status.core.ready
            };
            if let Some(leader) = self.running().find(leads) {
                return leader.id().0;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("nobody leads");
    }

    fn others(&self, id: u64) -> [u64; 2] {
        match id {
            1 => [2, 3],
            2 => [1, 3],
            _ => [1, 2],
        }
    }
}

/// A linearizable read, asked again while there is no leader: a read may always be tried again.
fn read(node: &Node<Ledger>) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        match node.read_before(Some(end), |ledger| ledger.commands.join(&b' ')).wait() {
            Ok(bytes) => return String::from_utf8(bytes).unwrap(),
            Err(ReadRefused::NotLeader { .. }) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// pitfall 32: what was acknowledged outlives the leader that acknowledged it, synced or not there.
#[test]
fn pitfall_32_a_killed_leader_takes_nothing_with_it() {
    let mut three = Three::start();
    three.apply("a");
    three.apply("b");
    let leader = three.leader();
    three.kill(leader);
    three.apply("c");
    for node in three.running() {
        assert_eq!(read(node), "a b c");
    }
    three.restart(leader, options());
    assert_eq!(read(three.node(leader)), "a b c");
}

#[test]
fn every_node_reads_what_was_acknowledged_anywhere() {
    let three = Three::start();
    three.apply("a");
    for node in three.running() {
        assert_eq!(read(node), "a");
        assert!(node.read_barrier(Some(Instant::now() + PATIENCE)).wait().is_ok());
    }
}

/// pitfall 45: a follower that was away while the log was cut is filled with a snapshot.
#[test]
fn pitfall_45_a_follower_whose_log_is_gone_is_filled_with_a_snapshot() {
    let mut three = Three::start();
    three.apply("a");
    let leader = three.leader();
    let away = three.others(leader)[0];
    three.kill(away);
    for command in ["b", "c", "d"] {
        three.apply(command);
    }
    // Whoever leads when it comes back has nothing but a snapshot for it.
    for id in three.others(away) {
        let node = three.node(id);
        assert_eq!(read(node), "a b c d");
        let taken = node.snapshot_now().wait().unwrap();
        wait_until(node, |status| status.core.snapshot == taken.position);
    }
    three.apply("e");
    three.restart(away, options());
    wait_until(three.node(away), |status| 4 <= status.core.snapshot.index.0 && !status.restoring);
    assert_eq!(read(three.node(away)), "a b c d e");
    // And its own disk holds it from now on.
    three.kill(away);
    three.restart(away, options());
    assert!(4 <= three.node(away).status().core.snapshot.index.0);
    assert_eq!(read(three.node(away)), "a b c d e");
}

/// A leader that lost its majority is honest: what is in its log may still come to be.
#[test]
fn a_cut_off_leader_says_unknown_and_never_applied() {
    let three = Three::start();
    three.apply("a");
    let leader = three.leader();
    three.network.isolate(NodeId(leader));
    let soon = Instant::now() + Duration::from_millis(100);
    let lost = three.node(leader).propose(Bytes::from_static(b"lost"), Some(soon)).wait();
    let honest = [
        Outcome::Unknown(UnknownCause::Deadline),
        // It noticed first, and refused at the door.
        Outcome::Refused(Refusal::NotLeader { leader: None }),
    ];
    assert!(honest.contains(&lost), "{lost:?}");
    let read_alone = three.node(leader).read_before(Some(soon), |_| ()).wait();
    assert!(read_alone.is_err(), "nobody confirmed that it leads");
    wait_until(three.node(leader), |status| !status.leads());
    three.network.heal();
    three.apply("b");
    for node in three.running() {
        assert!(!read(node).contains("lost") && read(node).ends_with('b'));
    }
}

/// A proposal that waits while its leader is cut off and displaced learns that it was not applied.
#[test]
fn a_displaced_proposal_is_told_so() {
    let three = Three::start();
    three.apply("a");
    let leader = three.leader();
    three.network.isolate(NodeId(leader));
    let mut lost = three.node(leader).propose(Bytes::from_static(b"lost"), None);
    three.apply_on(&three.others(leader), "b");
    let early = lost.wait_timeout(Duration::ZERO);
    three.network.heal();
    let told = early.unwrap_or_else(|| lost.wait());
    // Only a machine that paused for an election timeout right here refuses it at the door.
    let not_applied = matches!(told, Outcome::NotApplied | Outcome::Refused(_));
    assert!(not_applied, "{told:?}");
    assert_eq!(read(three.node(leader)), "a b");
}

/// pitfall 50: a leader whose disk fails stops leading; the others go on.
#[test]
fn pitfall_50_a_leader_with_a_broken_disk_makes_way() {
    let mut three = Three::start();
    three.apply("a");
    let leader = three.leader();
    three.disks[leader as usize - 1].fail_nth(OpKind::Sync, 1);
    let ticket = three.node(leader).propose(Bytes::from_static(b"b"), None);
    // The others may have committed it before the disk failed, or not; and on a machine that paused
    // right here the batch that proves the last one has failed before.
    let ended = ticket.wait();
    let honest = match ended {
        Outcome::Applied { .. } | Outcome::Unknown(UnknownCause::Failed) => true,
        Outcome::Refused(refusal) => refusal == Refusal::Stopped,
        Outcome::Unknown(_) | Outcome::NotApplied => false,
    };
    assert!(honest, "{ended:?}");
    wait_until(three.node(leader), |status| status.failed.is_some());
    three.network.disconnect(NodeId(leader));
    three.nodes[leader as usize - 1] = None;
    three.apply("c");
    for node in three.running() {
        assert!(read(node).starts_with('a') && read(node).ends_with('c'));
    }
}

#[test]
fn leadership_is_handed_over_on_request() {
    let three = Three::start();
    three.apply("a");
    let end = Instant::now() + PATIENCE;
    loop {
        let leader = three.leader();
        let to = NodeId(three.others(leader)[1]);
        match three.node(leader).transfer(Some(to)).wait() {
            Ok(leads) => break assert_eq!(leads, to),
            // Leadership moved by itself, or a machine under load was too slow.
            Err(_) => assert!(Instant::now() < end, "it is never handed over"),
        }
    }
    three.apply("b");
    assert_eq!(read(three.node(1)), "a b");
}

/// pitfall 58: a follower whose disk stalls while heartbeats flow catches up when it goes on.
#[test]
fn pitfall_58_a_stalled_disk_does_not_wedge_replication() {
    let three = Three::start();
    three.apply("a");
    let leader = three.leader();
    let slow = three.others(leader)[0];
    let disk = &three.disks[slow as usize - 1];
    disk.hold_syncs();
    for command in ["b", "c", "d"] {
        three.apply(command);
    }
    let last = three.node(leader).status().core.committed;
    assert!(three.node(slow).status().core.durable < last, "its disk holds still");
    disk.release_syncs();
    wait_until(three.node(slow), |status| last <= status.core.durable);
    assert_eq!(read(three.node(slow)), "a b c d");
}
