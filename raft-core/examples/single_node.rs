//! A durable counter in one process: the smallest program on raft-core. Run it twice: it goes on
//! where it stopped, whatever happened to it in between.
//!
//! `cargo run -p raft-core --example single_node [DIRECTORY]`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use bytes::Bytes;
use raft_core::node::Node;
use raft_core::proposals::Outcome;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::types::LogPosition;

/// The whole state: a number. Every command adds one to it.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Reply = u64;

    fn apply(&mut self, _at: LogPosition, _command: &Bytes) -> u64 {
        self.0 += 1;
        self.0
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(std::iter::once(Bytes::copy_from_slice(&self.0.to_le_bytes())))
    }

    fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
        if let Restore::Piece(piece) = step {
            let number =
                piece[..].try_into().map_err(|_| Malformed::new("8 bytes are a number"))?;
            self.0 = u64::from_le_bytes(number);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "data/single_node".into());
    let node = Node::open(&directory, Counter::default())?;
    println!("opened {directory} at {}", node.read(|counter| counter.0).wait().expect("it leads"));
    for _ in 0..3 {
        match node.propose(Bytes::from_static(b"add one"), None).wait() {
            Outcome::Applied { at, reply } => println!("{at}: counted to {reply}, durably"),
            other => println!("not counted, or nobody knows: {other:?}"),
        }
    }
    node.stop()?;
    Ok(())
}
