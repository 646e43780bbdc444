//! Three nodes in one process, on disks in memory and a network that can be cut: a leader is
//! elected, entries are replicated, the leader is lost, and the others go on.
//!
//! `cargo run -p raft-core --example three_in_memory`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::membership::{Member, Membership};
use raft_core::node::{Node, NodeOptions, form};
use raft_core::proposals::Outcome;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::storage::meta::DataDir;
use raft_core::storage::testdisk::TestDisk;
use raft_core::transport::InMemoryNetwork;
use raft_core::types::{LogPosition, NodeId};

/// The state: the words so far. A command is one more word.
#[derive(Default)]
struct Words(Vec<Bytes>);

impl StateMachine for Words {
    type Reply = usize;

    fn apply(&mut self, _at: LogPosition, word: &Bytes) -> usize {
        self.0.push(word.clone());
        self.0.len()
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(self.0.clone().into_iter())
    }

    fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
        match step {
            Restore::Begin => self.0.clear(),
            Restore::Piece(word) => self.0.push(word),
            Restore::End => {}
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let member = |id: NodeId| {
        (id, Member { name: format!("node{}", id.0), address: format!("in-memory:{}", id.0) })
    };
    let membership = Membership::of_voters(ids.map(member));
    let network = InMemoryNetwork::new();
    let mut nodes = Vec::new();
    for id in ids {
        // A node's id is made with its directory, of the random bits that are handed in.
        let name = format!("node{}", id.0);
        let mut dir = DataDir::open(Arc::new(TestDisk::new()), Some(&name), id.0)?;
        let options = NodeOptions::new("in memory");
        form(&mut dir, &membership, &options.storage)?;
        let node = Node::start(options, dir, Words::default(), network.transport())?;
        network.connect(id, node.handle());
        nodes.push(node);
    }

    append(&nodes, "one");
    append(&nodes, "two");
    let leader = nodes.iter().position(|node| node.status().leads()).expect("somebody answered");
    println!("n{} led, and is lost now", leader + 1);
    let lost = nodes.remove(leader);
    network.disconnect(lost.id());
    drop(lost);
    append(&nodes, "three");

    // A linearizable read, on each of them.
    for node in &nodes {
        let words = node.read(|words| words.0.clone()).wait().map_err(|why| format!("{why:?}"))?;
        println!("{} reads {words:?}", node.id());
        assert_eq!(words, ["one", "two", "three"]);
    }
    Ok(())
}

/// Asks one node after the other until the leader is found.
fn append(nodes: &[Node<Words>], word: &'static str) {
    for node in nodes.iter().cycle() {
        match node.propose(Bytes::from_static(word.as_bytes()), None).wait() {
            Outcome::Applied { at, reply } => {
                return println!("{}: {word:?} is entry {at}, word {reply}", node.id());
            }
            // Refused means: certainly not applied, so it may be tried elsewhere.
            Outcome::Refused(_) => std::thread::sleep(Duration::from_millis(10)),
            // Anything else here would count a word twice, or lose one.
            other => panic!("{}: {other:?}", node.id()),
        }
    }
}
