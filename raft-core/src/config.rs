//! The settings of one node's consensus core: each with its unit, its default, and what gets worse
//! in either direction.

use std::time::Duration;

use crate::types::NodeId;

/// Settings of the core. Every field has a default but the identity; see [`Config::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Seeds every random choice (election waits). Two nodes of one cluster need different seeds,
    /// or they may campaign in step for ever.
    pub seed: u64,
    /// Time between a leader's heartbeats; 75 ms. Shorter: more idle traffic. Longer: a lost append
    /// and a dead leader are noticed later. At most a third of `election_timeout_min` makes sense.
    pub heartbeat: Duration,
    /// The least time without a leader before a campaign; each wait is drawn from once to twice
    /// this; 400 ms. Shorter: slow disks and pauses unseat good leaders. Longer: more time without
    /// a leader after a crash that no closed connection reveals.
    pub election_timeout_min: Duration,
    /// Most payload bytes of one append message; 1 MiB, at most 32 MiB. An entry above it travels
    /// alone. Smaller: more messages. Larger: longer pauses between acknowledgements.
    pub append_bytes_max: u64,
    /// Most entry bytes sent to one follower and not acknowledged yet; 8 MiB. Smaller: distant
    /// followers fall behind. Larger: more to send again after a loss.
    pub inflight_bytes_max: u64,
    /// Most bytes of one command; 64 MiB and 64 KiB. A larger one is refused as `TooLarge`.
    pub entry_bytes_max: u64,
    /// Most entry bytes on a leader that are not committed, or not durable on its own disk; 256 MiB.
    /// Beyond it proposals are refused as `Busy`. One entry is always let in, whatever its size.
    pub uncommitted_bytes_max: u64,
    /// Most entry bytes handed out to apply at once; 4 MiB. Smaller: more passes. Larger: heartbeats
    /// wait longer behind a long replay.
    pub apply_bytes_max: u64,
    /// Most reads waiting for a round or for an answer of the leader; 65 536. Beyond it reads are
    /// refused as `Busy`.
    pub reads_max: usize,
    /// A snapshot is due when the log since the last one exceeds the larger of this and the size of
    /// that snapshot; 64 MiB. Smaller: more snapshots. Larger: more memory and a longer start.
    pub snapshot_bytes: u64,
    /// A snapshot is due when the log since the last one holds this many entries; 1 000 000.
    pub snapshot_entries: u64,
    /// How much log is kept below a new snapshot for slow followers; 16 MiB. Smaller: followers that
    /// were away need a whole snapshot sooner. Larger: more memory.
    pub tail_bytes: u64,
    /// Bytes of a snapshot sent in one message; 1 MiB.
    pub chunk_bytes: u64,
}

impl Config {
    /// The defaults for this node. The seed is made of the id; a node that restarts often under one
    /// id should mix in something that changes.
    pub fn new(id: NodeId) -> Config {
        Config {
            id,
            seed: id.0,
            heartbeat: Duration::from_millis(75),
            election_timeout_min: Duration::from_millis(400),
            append_bytes_max: 1 << 20,
            inflight_bytes_max: 8 << 20,
            entry_bytes_max: (64 << 20) + (64 << 10),
            uncommitted_bytes_max: 256 << 20,
            apply_bytes_max: 4 << 20,
            reads_max: 65_536,
            snapshot_bytes: 64 << 20,
            snapshot_entries: 1_000_000,
            tail_bytes: 16 << 20,
            chunk_bytes: 1 << 20,
        }
    }

    /// The first rule the settings break, in words; `None` when they fit together.
    pub fn fault(&self) -> Option<&'static str> {
        if self.heartbeat.is_zero() {
            return Some("the heartbeat must be longer than zero");
        }
        if self.election_timeout_min < self.heartbeat * 2 {
            return Some("the election timeout must be at least twice the heartbeat");
        }
        let sizes = [
            self.append_bytes_max,
            self.inflight_bytes_max,
            self.entry_bytes_max,
            self.uncommitted_bytes_max,
            self.apply_bytes_max,
            self.snapshot_bytes,
            self.snapshot_entries,
            self.chunk_bytes,
        ];
        if sizes.contains(&0) || self.reads_max == 0 {
            return Some("limits must be larger than zero");
        }
        if APPEND_BYTES_LIMIT < self.append_bytes_max {
            return Some("an append message may hold at most 32 MiB");
        }
        if ENTRY_BYTES_LIMIT < self.entry_bytes_max {
            return Some("an entry may hold at most 1 GiB and 64 KiB");
        }
        None
    }
}

/// A message's head names every entry it holds; with more of them the head would be larger than
/// the codec lets in.
const APPEND_BYTES_LIMIT: u64 = 32 << 20;

/// Lengths on disk and wire are 32 bits wide; a gibibyte leaves room for heads and framing.
const ENTRY_BYTES_LIMIT: u64 = (1 << 30) + (64 << 10);
