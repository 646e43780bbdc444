//! What a node counts: plain numbers, to be rendered by whoever embeds it. Counting costs one
//! relaxed atomic addition; nothing here is read back to decide anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::consensus::event::Refusal;
use crate::proposals::Outcome;

/// Upper bounds of the sync-time histogram's buckets, in microseconds; one more bucket holds what
/// is above the last.
pub const SYNC_BUCKETS_MICROS: [u64; 13] = [
    250, 500, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// A node's counters at one moment. Counts are since the node started; sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeMetrics {
    /// Proposals that came in, refused ones included.
    pub proposals: u64,
    /// Proposals that were applied.
    pub proposals_applied: u64,
    /// Proposals refused because this node does not lead (or hands over).
    pub proposals_not_leader: u64,
    /// Proposals refused because too much was under way.
    pub proposals_busy: u64,
    /// Proposals refused for another reason (too large, no space, late, stopping).
    pub proposals_refused: u64,
    /// Proposals in whose place another entry was committed.
    pub proposals_not_applied: u64,
    /// Proposals whose fate could not be told.
    pub proposals_unknown: u64,
    /// Proposals that have not ended yet.
    pub proposals_pending: u64,
    /// Reads that came in.
    pub reads: u64,
    /// Reads that were refused.
    pub reads_refused: u64,
    /// Messages that came in from peers.
    pub messages_received: u64,
    /// Messages handed to the transport.
    pub messages_sent: u64,
    /// Messages dropped at the door because too many were waiting.
    pub messages_dropped: u64,
    /// Times this node asked for votes.
    pub elections: u64,
    /// Times this node saw a new leader (itself included).
    pub leader_changes: u64,
    /// Passes: times that everything which had come in was taken and stepped.
    pub passes: u64,
    /// Batches written to the log, each with one sync.
    pub syncs: u64,
    /// Time spent in writing and syncing them, in microseconds.
    pub sync_micros: u64,
    /// How many of them took how long: see [`SYNC_BUCKETS_MICROS`]. Not cumulative.
    pub sync_buckets: [u64; SYNC_BUCKETS_MICROS.len() + 1],
    /// Syncs slower than the node's options allow without a warning.
    pub slow_syncs: u64,
    /// Writes of the core those batches held.
    pub writes: u64,
    /// Bytes those batches took.
    pub written_bytes: u64,
    /// Log files in use, after the last batch.
    pub wal_segments: u64,
    /// Their bytes, and those of the next one.
    pub wal_bytes: u64,
    /// Snapshots of our own state written.
    pub snapshots_taken: u64,
    /// Snapshots of our own state that could not be written.
    pub snapshots_failed: u64,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The live side of [`NodeMetrics`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            sync_buckets: [Counter; SYNC_BUCKETS_MICROS.len() + 1],
        }

        impl Counters {
            /// The numbers now. Each is exact; two of them may be a moment apart.
            pub(crate) fn read(&self) -> NodeMetrics {
                NodeMetrics {
                    $($name: self.$name.get(),)*
                    sync_buckets: std::array::from_fn(|i| self.sync_buckets[i].get()),
                }
            }
        }
    };
}

counters!(
    proposals,
    proposals_applied,
    proposals_not_leader,
    proposals_busy,
    proposals_refused,
    proposals_not_applied,
    proposals_unknown,
    proposals_pending,
    reads,
    reads_refused,
    messages_received,
    messages_sent,
    messages_dropped,
    elections,
    leader_changes,
    passes,
    syncs,
    sync_micros,
    slow_syncs,
    writes,
    written_bytes,
    wal_segments,
    wal_bytes,
    snapshots_taken,
    snapshots_failed,
);

impl Counters {
    /// One batch was written and synced.
    pub(crate) fn synced(&self, took: Duration, writes: u64, bytes: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.syncs.add(1);
        self.sync_micros.add(micros);
        self.sync_buckets[SYNC_BUCKETS_MICROS.partition_point(|&bound| bound < micros)].add(1);
        self.writes.add(writes);
        self.written_bytes.add(bytes);
    }

    /// One proposal ended.
    pub(crate) fn ended<R>(&self, outcome: &Outcome<R>) {
        let counter = match outcome {
            Outcome::Applied { .. } => &self.proposals_applied,
            Outcome::Refused(Refusal::NotLeader { .. } | Refusal::Transferring { .. }) => {
                &self.proposals_not_leader
            }
            Outcome::Refused(Refusal::Busy) => &self.proposals_busy,
            Outcome::Refused(_) => &self.proposals_refused,
            Outcome::NotApplied => &self.proposals_not_applied,
            Outcome::Unknown(_) => &self.proposals_unknown,
        };
        counter.add(1);
    }
}

/// One number that many threads may change.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_falls_into_the_first_bucket_that_holds_it() {
        let counters = Counters::default();
        for micros in [1, 250, 251, 6_000_000] {
            counters.synced(Duration::from_micros(micros), 2, 10);
        }
        let read = counters.read();
        assert_eq!((read.syncs, read.writes, read.written_bytes), (4, 8, 40));
        assert_eq!(read.sync_buckets[..2], [2, 1]);
        assert_eq!(read.sync_buckets[SYNC_BUCKETS_MICROS.len()], 1);
    }
}
