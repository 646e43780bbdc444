//! Nodes on disks and networks that a test holds in its hand.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::membership::{Member, Membership};
use raft_core::node::{Handle, Node, NodeOptions, NodeStatus, form};
use raft_core::proposals::Outcome;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::storage::meta::DataDir;
use raft_core::storage::testdisk::TestDisk;
use raft_core::transport::Transport;
use raft_core::types::{LogPosition, NodeId};

/// Longer than anything here takes: a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A state machine that remembers every command; the reply is how many there are. The command
/// `panic` does that.
#[derive(Debug, Default)]
pub struct Ledger {
    pub commands: Vec<Bytes>,
    coming: Vec<Bytes>,
}

impl StateMachine for Ledger {
    type Reply = usize;

    fn apply(&mut self, _at: LogPosition, command: &Bytes) -> usize {
        assert!(&command[..] != b"panic", "as the command says");
        self.commands.push(command.clone());
        self.commands.len()
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(self.commands.clone().into_iter())
    }

    fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
        match step {
            Restore::Begin => self.coming.clear(),
            Restore::Piece(piece) => self.coming.push(piece),
            Restore::End => self.commands = std::mem::take(&mut self.coming),
        }
        Ok(())
    }
}

/// Small segments and short timeouts, so that tests see many of both.
pub fn options() -> NodeOptions {
    let mut options = NodeOptions::new("unused");
    options.storage.segment_bytes_first = 32 << 10;
    options.storage.segment_bytes_max = 64 << 10;
    options.config.heartbeat = Duration::from_millis(20);
    options.config.election_timeout_min = Duration::from_millis(200);
    options.config.tail_bytes = 0;
    options
}

pub fn member(id: u64) -> (NodeId, Member) {
    (NodeId(id), Member { name: format!("node{id}"), address: format!("localhost:{id}") })
}

/// Starts node `id` on this disk; forms the cluster n1 ... n`size` if the disk is fresh.
pub fn start(
    disk: &TestDisk,
    id: u64,
    size: u64,
    options: NodeOptions,
    transport: impl Transport,
) -> Node<Ledger> {
    let disk = Arc::new(disk.clone());
    let mut dir = DataDir::open(disk, Some(&format!("node{id}")), id).unwrap();
    if dir.meta().cluster.is_none() {
        form(&mut dir, &Membership::of_voters((1..=size).map(member)), &options.storage).unwrap();
    }
    Node::start(options, dir, Ledger::default(), transport).unwrap()
}

/// Waits until the node's status is as wanted.
pub fn wait_until(node: &Handle<Ledger>, wanted: impl Fn(&NodeStatus) -> bool) {
    let events = node.events();
    let end = Instant::now() + PATIENCE;
    while !wanted(&node.status()) {
        assert!(Instant::now() < end, "it never came to this: {:?}", node.status());
        // Not every change is an event.
        events.recv_timeout(Duration::from_millis(10));
    }
}

pub fn wait_until_ready(node: &Handle<Ledger>) {
    wait_until(node, |status| status.core.ready && !status.restoring);
}

pub fn propose(node: &Handle<Ledger>, command: &str) -> Outcome<usize> {
    node.propose(Bytes::copy_from_slice(command.as_bytes()), Some(Instant::now() + PATIENCE)).wait()
}

/// Proposes and expects the reply.
pub fn apply(node: &Handle<Ledger>, command: &str) -> usize {
    match propose(node, command) {
        Outcome::Applied { reply, .. } => reply,
        other => panic!("{command:?} was not applied: {other:?}"),
    }
}

/// What the node's ledger holds, as one line; a linearizable read.
pub fn ledger(node: &Handle<Ledger>) -> String {
    let line = |ledger: &Ledger| {
        let commands = ledger.commands.iter().map(|c| String::from_utf8_lossy(c).into_owned());
        commands.collect::<Vec<_>>().join(" ")
    };
    node.read_before(Some(Instant::now() + PATIENCE), line).wait().expect("the node can read")
}
