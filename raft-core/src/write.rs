//! What the deciding floor asks the keeping floor to make durable, and what a disk gives back at
//! start. Neither side knows the other; both know these values.

use bytes::Bytes;

use crate::membership::Membership;
use crate::types::{Entry, HardState, Index, LogPosition, WriteId};

/// One request to the disk. Writes are carried out in the order of their ids; `Persisted(id)` says
/// that this one and all before it are synced.
///
/// Within one write the order is that of the fields: snapshot pieces first, then the hard state,
/// then the cut, then the new entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its number: one more than the write before.
    pub id: WriteId,
    /// What to do with snapshot files, in this order.
    pub snapshots: Vec<SnapshotWrite>,
    /// The new term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Drop every entry at this index and above (they conflicted with a leader's).
    pub truncate_from: Option<Index>,
    /// Entries to append, contiguous.
    pub entries: Vec<Entry>,
}

/// What a write does with snapshot files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotWrite {
    /// Bytes of a snapshot that comes from the leader, in order from offset 0. An offset of 0
    /// begins anew and throws away what another transfer left.
    Chunk {
        /// Which snapshot.
        meta: SnapshotMeta,
        /// Where in its body these bytes belong.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// All bytes are there: verify them, sync and name the file, then mark it in the log. If the
    /// bytes are not what `meta` says, nothing is installed and the core is told so
    /// (`Event::InstallFailed`) before the write is reported as persisted.
    Install(SnapshotMeta),
    /// A snapshot of our own is durable under its name: mark it in the log. Log below the snapshot
    /// before it may go.
    Mark(SnapshotMeta),
}

/// What there is to know about a snapshot without its contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotMeta {
    /// The last entry it covers.
    pub position: LogPosition,
    /// The membership in force at that entry.
    pub membership: Membership,
    /// Length of its body: what is sent to a follower, and what chunk offsets count.
    pub body_bytes: u64,
    /// A 64-bit digest of the body (XXH64, seed 0).
    pub digest: u64,
}

/// What a disk holds when a node starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest readable marked snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The entry before `entries`: `0@0`, or where the log was cut after a snapshot. Never above
    /// the snapshot's position.
    pub log_start: LogPosition,
    /// The log above `log_start`, contiguous, all durable.
    pub entries: Vec<Entry>,
}
