//! A durable list of words: the smallest program on raft-core. Run it twice: it goes on where it
//! stopped, whatever happened to it in between.
//!
//! `cargo run -p raft-core --example single_node`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use bytes::Bytes;
use raft_core::node::Node;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::types::LogPosition;

#[derive(Default)]
struct Words(Vec<Bytes>);

impl StateMachine for Words {
    type Reply = usize;

    // Every command is a word; the reply says how many there are now.
    fn apply(&mut self, _at: LogPosition, word: &Bytes) -> usize {
        self.0.push(word.clone());
        self.0.len()
    }

    // A frozen view, given out piece by piece: here a piece is a word.
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::open("data/single_node", Words::default())?;
    // Applied: synced on a majority, here of one. Anything else says what is known of its fate.
    println!("{:?}", node.propose(Bytes::from_static(b"hello"), None).wait());
    println!("words: {:?}", node.read(|words| words.0.len()).wait());
    Ok(node.stop()?)
}
