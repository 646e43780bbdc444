//! What one simulated node's disk holds: the bytes that are synced, and the writes that are not.
//!
//! It keeps the same rules as the real storage (order within a write, which log a snapshot drops,
//! what recovery returns), so that a core sees the same `Recovered` after a crash. It never decides
//! when to sync: the script does.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft_core::consensus::event::Event;
use raft_core::types::{Entry, HardState, Index, LogPosition, WriteId};
use raft_core::write::{Recovered, SnapshotMeta, SnapshotWrite, Write};
use twox_hash::XxHash64;

/// One disk: `synced` survives any crash, `live` is what it will be once `waiting` is synced.
#[derive(Clone, Default)]
pub struct Disk {
    /// What a crash cannot take away.
    pub synced: Image,
    /// What the running node believes it has written.
    pub live: Image,
    /// Written, not synced, in id order.
    pub waiting: VecDeque<Write>,
    /// Bodies of snapshots of our own that are durable under their names, marked or not.
    named: BTreeMap<LogPosition, Bytes>,
}

/// The contents of a disk at one moment.
#[derive(Clone, Default)]
pub struct Image {
    /// Term and vote.
    pub hard_state: HardState,
    /// The entry before `entries`.
    pub log_start: LogPosition,
    /// The log.
    pub entries: Vec<Entry>,
    /// Marked snapshots, the newest last; two are kept.
    pub snapshots: Vec<(SnapshotMeta, Bytes)>,
    /// A snapshot that is being received.
    staged: Option<(SnapshotMeta, Vec<u8>)>,
}

impl Disk {
    /// A disk that holds this, all synced.
    pub fn holding(image: Image) -> Disk {
        Disk { synced: image.clone(), live: image, ..Disk::default() }
    }

    /// Takes a write of the running node; it is not synced yet.
    pub fn write(&mut self, write: Write) {
        self.live.apply(&write, &self.named);
        self.waiting.push_back(write);
    }

    /// Syncs the oldest waiting write and everything it promises; what the core is then told.
    pub fn sync_one(&mut self) -> Vec<Event> {
        let Some(write) = self.waiting.pop_front() else { return Vec::new() };
        let failed = self.synced.apply(&write, &self.named);
        let mut events: Vec<Event> = failed.into_iter().map(Event::InstallFailed).collect();
        events.push(Event::Persisted(write.id));
        events
    }

    /// Syncs all that waits, as one batch: failed installs, then one report for the last write.
    pub fn sync_all(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut last = None;
        while let Some(write) = self.waiting.pop_front() {
            last = Some(write.id);
            let failed = self.synced.apply(&write, &self.named);
            events.extend(failed.into_iter().map(Event::InstallFailed));
        }
        events.extend(last.map(Event::Persisted));
        events
    }

    /// The id of the newest waiting write.
    pub fn last_waiting(&self) -> Option<WriteId> {
        self.waiting.back().map(|write| write.id)
    }

    /// The process dies; of the unsynced writes the first `kept` happen to have reached the disk.
    /// An unmarked snapshot file and a half received snapshot are removed at the next start.
    pub fn crash(&mut self, kept: usize) {
        for write in self.waiting.drain(..).take(kept) {
            self.synced.apply(&write, &self.named);
        }
        self.synced.staged = None;
        self.named.clear();
        self.live = self.synced.clone();
    }

    /// A snapshot of our own is now a durable file (and not marked in the log yet).
    pub fn name_snapshot(&mut self, position: LogPosition, body: Bytes) {
        self.named.insert(position, body);
    }

    /// The body of a snapshot that a follower can be fed from.
    pub fn body(&self, position: LogPosition) -> Option<Bytes> {
        let marked = self.synced.snapshots.iter().find(|(meta, _)| meta.position == position);
        marked.map(|(_, body)| body.clone())
    }

    /// Forgets a snapshot file (rot, or an operator's slip): reading it fails from now on.
    pub fn lose_snapshots(&mut self) {
        self.synced.snapshots.clear();
        self.live.snapshots.clear();
    }

    /// What a start finds.
    pub fn recover(&self) -> Recovered {
        Recovered {
            hard_state: self.synced.hard_state,
            snapshot: self.synced.snapshots.last().map(|(meta, _)| meta.clone()),
            log_start: self.synced.log_start,
            entries: self.synced.entries.clone(),
        }
    }
}

impl Image {
    /// The last entry, or the snapshot when the log holds nothing above it.
    pub fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.log_start, |entry| entry.position)
    }

    /// The newest snapshot's position.
    pub fn snapshot(&self) -> LogPosition {
        self.snapshots.last().map_or(LogPosition::ORIGIN, |(meta, _)| meta.position)
    }

    /// The entry at this index, if the log holds it.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.log_start.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// Whether this entry, or a snapshot over it, is here.
    pub fn holds(&self, position: LogPosition) -> bool {
        position.index <= self.log_start.index
            || position.index <= self.snapshot().index
            || self.entry(position.index).is_some_and(|entry| entry.position == position)
    }

    /// Carries out one write in the order `Write` states; the installs that failed.
    fn apply(&mut self, write: &Write, named: &BTreeMap<LogPosition, Bytes>) -> Vec<LogPosition> {
        let mut failed = Vec::new();
        for piece in &write.snapshots {
            match piece {
                SnapshotWrite::Chunk { meta, offset, data } => self.receive(meta, *offset, data),
                SnapshotWrite::Install(meta) => {
                    if !self.install(meta) {
                        failed.push(meta.position);
                    }
                }
                SnapshotWrite::Mark(meta) => {
                    let body = named.get(&meta.position).expect("marked a snapshot nobody wrote");
                    self.mark(meta, body.clone());
                }
            }
        }
        if let Some(hard_state) = write.hard_state {
            assert!(self.hard_state.term <= hard_state.term, "the term on disk went back");
            self.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.index() < from);
        }
        for entry in &write.entries {
            assert_eq!(self.last().index.next(), entry.index(), "a gap in the log on disk");
            self.entries.push(entry.clone());
        }
        failed
    }

    fn receive(&mut self, meta: &SnapshotMeta, offset: u64, data: &Bytes) {
        if offset == 0 {
            self.staged = Some((meta.clone(), Vec::new()));
        }
        let (staged, bytes) = self.staged.as_mut().expect("a chunk before the first one");
        assert_eq!(staged, meta, "a chunk of another snapshot than the one that was begun");
        assert_eq!(bytes.len() as u64, offset, "chunks out of order");
        bytes.extend_from_slice(data);
    }

    /// Whether the received bytes were what `meta` says; if so the snapshot is in force.
    fn install(&mut self, meta: &SnapshotMeta) -> bool {
        let Some((_, body)) = self.staged.take() else { return false };
        if body.len() as u64 != meta.body_bytes || digest(&body) != meta.digest {
            return false;
        }
        let known = self.entry(meta.position.index).is_some_and(|e| e.position == meta.position);
        if !known && self.log_start.index < meta.position.index {
            self.entries.clear();
            self.log_start = meta.position;
        }
        self.keep(meta, Bytes::from(body));
        true
    }

    fn mark(&mut self, meta: &SnapshotMeta, body: Bytes) {
        assert!(self.holds(meta.position), "marked a snapshot above the log");
        self.keep(meta, body);
    }

    /// Two snapshots are kept, and the log between them.
    fn keep(&mut self, meta: &SnapshotMeta, body: Bytes) {
        assert!(self.snapshot().index < meta.position.index, "an older snapshot over a newer one");
        self.snapshots.push((meta.clone(), body));
        if 2 < self.snapshots.len() {
            self.snapshots.remove(0);
        }
        if let [(previous, _), _] = &self.snapshots[..]
            && self.log_start.index < previous.position.index
        {
            let start = previous.position;
            self.entries.retain(|entry| start.index < entry.index());
            self.log_start = start;
        }
    }
}

/// The digest a `SnapshotMeta` carries.
pub fn digest(body: &[u8]) -> u64 {
    XxHash64::oneshot(0, body)
}
