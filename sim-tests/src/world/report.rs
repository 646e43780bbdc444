//! How a run ended: its numbers and its hash.

use raft_core::types::Time;
use twox_hash::XxHash64;

use crate::app::App;
use crate::marks::Marks;
use crate::trace::Violation;

use super::World;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// 128 bits over all events, all frames and the final states: the same plan, the same hash.
    pub hash: u128,
    /// The first rule that was broken; the run ended there.
    pub failure: Option<Violation>,
    /// When that was, or when the run ended.
    pub ended: Time,
    /// Numbers.
    pub counts: Counts,
    /// Which rare things happened.
    pub marks: Marks,
}

/// Numbers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events taken from the heap.
    pub events: u64,
    /// Messages that left replicas.
    pub messages: u64,
    /// Operations that clients began.
    pub ops: u64,
    /// Writes that were acknowledged.
    pub writes_acknowledged: u64,
    /// Entries committed (the highest commit index seen).
    pub committed: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Elections won.
    pub elections: u64,
    /// Processes that crashed.
    pub crashes: u64,
}

/// The end.
impl<A: App> World<A> {
    /// Adds the final states to the hash.
    pub(super) fn sum_up(&mut self) {
        let mut finals = Vec::new();
        for place in &self.places {
            finals.push(place.disk.digest());
            if let Some(running) = place.running() {
                let raft = running.replica.raft();
                finals.push(raft.term().0 << 32 ^ raft.log().committed().0);
                finals.push(A::digest(running.replica.state().inner()));
            }
        }
        for word in finals {
            self.hash.add(word, 0x77);
        }
    }
}

/// The hash of a run: two lanes that are mixed with every word.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hash {
    a: u64,
    b: u64,
}

impl Hash {
    pub(super) fn add(&mut self, x: u64, y: u64) {
        self.a = (self.a ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ y;
        self.b = (self.b.rotate_left(17) ^ y).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ x;
    }

    /// Adds what a message says.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.add(XxHash64::oneshot(0, bytes), bytes.len() as u64);
    }

    pub(super) fn sum(self) -> u128 {
        u128::from(self.a) << 64 | u128::from(self.b)
    }
}
