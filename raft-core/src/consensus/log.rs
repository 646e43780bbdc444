//! The log in memory: every entry since the last snapshot and a tail before it, and the cursors that
//! name the stages of truth on it.
//!
//! ```text
//!   start        snapshot          applied   committed             last
//!     |  (tail)     |                 |          |                   |
//!     .-------------+-----------------+----------+-------------------+
//!                   ^ ............... durable lies in here ......... ^
//! ```
//!
//! The rules, asserted in [`Log::check`]:
//! - `start <= snapshot <= applied <= committed <= last`
//! - `snapshot <= durable <= last`; applied may pass durable (others hold the entry durably)
//! - `durable <= written <= last`, where `written` is what was handed to the disk
//! - indexes are contiguous, terms never go down

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use crate::membership::Membership;
use crate::types::{Entry, Index, LogPosition, Payload, Term};
use crate::write::SnapshotMeta;

/// The log of one node.
#[derive(Debug)]
pub struct Log {
    /// The entry before the first one held.
    start: LogPosition,
    slots: VecDeque<Slot>,
    /// The newest snapshot: durable and marked.
    snapshot: SnapshotMeta,
    /// Memberships that entries above the snapshot hold.
    memberships: BTreeMap<Index, Membership>,
    written: Index,
    durable: Index,
    committed: Index,
    applied: Index,
    /// Not part of the log any more, waiting to be freed: see [`Log::free_forgotten`].
    forgotten: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// The weight of all entries ever appended up to and including this one: the weight of a range
    /// is a difference.
    weight_sum: u64,
}

impl Log {
    /// The log a disk gave back: all of it durable, nothing above the snapshot known as committed.
    pub(crate) fn recovered(
        snapshot: SnapshotMeta,
        start: LogPosition,
        entries: Vec<Entry>,
    ) -> Log {
        let at = snapshot.position.index;
        let mut log = Log {
            start,
            slots: VecDeque::with_capacity(entries.len()),
            snapshot,
            memberships: BTreeMap::new(),
            written: start.index,
            durable: start.index,
            committed: at,
            applied: at,
            forgotten: VecDeque::new(),
        };
        for entry in entries {
            log.append(entry);
        }
        log.written = log.last().index;
        log.durable = log.last().index;
        log.check();
        log
    }

    /// The entry before the first one held; what lies at or below it can only be had as a snapshot.
    pub fn start(&self) -> LogPosition {
        self.start
    }

    /// The newest snapshot; its position is `0@0` when there is none.
    pub fn snapshot(&self) -> &SnapshotMeta {
        &self.snapshot
    }

    /// The last entry.
    pub fn last(&self) -> LogPosition {
        self.slots.back().map_or(self.start, |slot| slot.entry.position)
    }

    /// Handed to the disk up to here.
    pub fn written(&self) -> Index {
        self.written
    }

    /// Synced up to here.
    pub fn durable(&self) -> Index {
        self.durable
    }

    /// Known to be committed up to here.
    pub fn committed(&self) -> Index {
        self.committed
    }

    /// Handed out to apply up to here.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The term of an entry; `None` below the start or above the last.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.slot(index).map(|slot| slot.entry.position.term)
    }

    /// Whether the log holds this very entry (or began right after it).
    pub fn holds(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The entries from `first` to `last`, as many as weigh at most `bytes_max`, but at least one.
    /// Both ends must be held.
    pub fn entries(&self, first: Index, last: Index, bytes_max: u64) -> Vec<Entry> {
        let mut bytes = 0;
        let mut entries = Vec::new();
        for slot in self.slots.range(self.offset(first)..self.offset(last.next())) {
            bytes += slot.entry.weight();
            // A too large entry between small ones ends the message; it is never skipped
            // (pitfall 30), and it travels alone.
            if bytes_max < bytes && !entries.is_empty() {
                break;
            }
            entries.push(slot.entry.clone());
        }
        entries
    }

    /// What the entries above `low` up to `high` weigh.
    pub fn weight(&self, low: Index, high: Index) -> u64 {
        let sum = |index: Index| match self.slot(index) {
            Some(slot) => slot.weight_sum,
            // Only the start is asked for beside what is held.
            None => self.slots.front().map_or(0, |slot| slot.weight_sum - slot.entry.weight()),
        };
        sum(high).saturating_sub(sum(low))
    }

    /// The newest entry at or below `at.index` whose term is at most `at.term`: where two logs may
    /// agree when they do not agree at `at`. One answer skips a whole term (thesis 3.5). `None` when
    /// that lies below the start.
    pub fn agreement(&self, at: LogPosition) -> Option<LogPosition> {
        let reach = self.offset(at.index.min(self.last().index).next());
        if at.index < self.start.index {
            return None;
        }
        // Terms never go down along the log.
        let held = self.slots.partition_point(|slot| slot.entry.position.term <= at.term);
        match held.min(reach) {
            0 => (self.start.term <= at.term).then_some(self.start),
            count => Some(self.slots[count - 1].entry.position),
        }
    }

    /// The membership in force: that of the newest entry that holds one, committed or not
    /// (thesis 4.1).
    pub fn membership(&self) -> &Membership {
        self.memberships.values().next_back().unwrap_or(&self.snapshot.membership)
    }

    /// The membership in force when `index` was the last entry; at or above the snapshot.
    pub fn membership_at(&self, index: Index) -> &Membership {
        assert!(self.snapshot.position.index <= index, "older memberships are forgotten");
        let newest = self.memberships.range(..=index).next_back();
        newest.map_or(&self.snapshot.membership, |(_, membership)| membership)
    }

    /// Appends the next entry.
    pub(crate) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(entry.index() == last.index.next(), "{entry} does not follow {last}");
        assert!(last.term <= entry.term(), "the term goes down from {last} to {entry}");
        if let Payload::Membership(membership) = &entry.payload
            && self.snapshot.position.index < entry.index()
        {
            self.memberships.insert(entry.index(), membership.clone());
        }
        let before = self.slots.back().map_or(0, |slot| slot.weight_sum);
        self.slots.push_back(Slot { weight_sum: before + entry.weight(), entry });
    }

    /// Drops every entry from `first` on, and with them the memberships they brought (pitfalls 3
    /// and 4). Returns whether the disk holds or may get some of them.
    pub(crate) fn truncate(&mut self, first: Index) -> bool {
        assert!(self.committed < first, "a committed entry is never dropped");
        self.slots.truncate(self.offset(first));
        self.memberships.split_off(&first);
        self.durable = self.durable.min(first.prev());
        let on_disk = first <= self.written;
        self.written = self.written.min(first.prev());
        on_disk
    }

    /// Everything up to the last entry has been handed to the disk.
    pub(crate) fn set_written(&mut self) {
        self.written = self.last().index;
    }

    /// Everything up to `index` is synced.
    pub(crate) fn set_durable(&mut self, index: Index) {
        assert!(index <= self.written, "durable {index} was never written ({})", self.written);
        self.durable = self.durable.max(index);
    }

    /// Everything up to `index` is committed. Returns whether that is news.
    pub(crate) fn commit(&mut self, index: Index) -> bool {
        assert!(index <= self.last().index, "committed {index} of {}", self.last());
        let news = self.committed < index;
        self.committed = self.committed.max(index);
        news
    }

    /// Hands out committed entries, in order, each once.
    pub(crate) fn take_committed(&mut self, bytes_max: u64) -> Vec<Entry> {
        if self.applied == self.committed {
            return Vec::new();
        }
        let entries = self.entries(self.applied.next(), self.committed, bytes_max);
        self.applied = entries.last().map_or(self.applied, Entry::index);
        entries
    }

    /// A snapshot of our own is durable and marked: keep a tail of `tail_bytes` before it, forget
    /// what lies before that.
    pub(crate) fn compact(&mut self, snapshot: SnapshotMeta, tail_bytes: u64) {
        let at = snapshot.position.index;
        assert!(self.snapshot.position.index < at, "snapshots go forward");
        assert!(at <= self.applied && at <= self.durable, "a snapshot covers what is applied here");
        assert!(self.holds(snapshot.position), "a snapshot of our own log");
        self.memberships = self.memberships.split_off(&at.next());
        self.snapshot = snapshot;
        self.keep_tail(tail_bytes);
    }

    /// Forgets entries at or below the snapshot beyond a tail of `bytes`.
    pub(crate) fn keep_tail(&mut self, bytes: u64) {
        let at = self.snapshot.position.index;
        let Some(sum) = self.slot(at).map(|slot| slot.weight_sum) else { return };
        let beyond = |slot: &Slot| {
            let before = slot.weight_sum - slot.entry.weight();
            slot.entry.index() <= at && bytes < sum - before
        };
        let count = self.slots.partition_point(beyond);
        if let Some(last) = count.checked_sub(1).and_then(|last| self.slots.get(last)) {
            self.start = last.entry.position;
            let kept = self.slots.split_off(count);
            self.forget(kept);
        }
        // A million entries would leave room for as many: 64 MiB.
        if self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to_fit();
        }
    }

    /// Frees at most `count` forgotten entries. A million at once, each somewhere else in memory, take
    /// longer than a heartbeat may wait.
    pub(crate) fn free_forgotten(&mut self, count: usize) {
        self.forgotten.truncate(self.forgotten.len().saturating_sub(count));
        if self.forgotten.is_empty() {
            self.forgotten = VecDeque::new();
        }
    }

    /// The log holds these from now on.
    fn forget(&mut self, kept: VecDeque<Slot>) {
        let slots = mem::replace(&mut self.slots, kept);
        // Those that wait already are few, if any: it is they that are moved.
        let mut waiting = mem::replace(&mut self.forgotten, slots);
        self.forgotten.append(&mut waiting);
    }

    /// A snapshot of the leader's took the place of the whole log (thesis 5.3). Only when the log
    /// does not hold its position: otherwise the log goes on as it is.
    pub(crate) fn install(&mut self, snapshot: SnapshotMeta) {
        let position = snapshot.position;
        assert!(self.committed < position.index, "an older snapshot must not replace newer state");
        self.forget(VecDeque::new());
        self.memberships.clear();
        self.start = position;
        self.snapshot = snapshot;
        self.written = position.index;
        self.durable = position.index;
        self.committed = position.index;
        self.applied = position.index;
    }

    /// The rules of this file's head.
    pub fn check(&self) {
        let (snapshot, last) = (self.snapshot.position.index, self.last().index);
        assert!(self.start.index <= snapshot, "the log starts above its snapshot");
        assert!(snapshot <= self.applied, "applied {} below snapshot {snapshot}", self.applied);
        assert!(self.applied <= self.committed, "applied {} uncommitted", self.applied);
        assert!(self.committed <= last, "committed {} of {last}", self.committed);
        assert!(snapshot <= self.durable, "durable {} below snapshot {snapshot}", self.durable);
        assert!(self.durable <= self.written, "durable {} was never written", self.durable);
        assert!(self.written <= last, "written {} of {last}", self.written);
        assert!(self.slots.len() as u64 == last.0 - self.start.index.0, "the log has a gap");
    }

    fn slot(&self, index: Index) -> Option<&Slot> {
        let offset = index.0.checked_sub(self.start.index.0)?.checked_sub(1)?;
        self.slots.get(usize::try_from(offset).ok()?)
    }

    /// How many slots lie below `index`. It must be above the start and at most one past the last.
    fn offset(&self, index: Index) -> usize {
        let above = index.0.saturating_sub(self.start.index.0).saturating_sub(1);
        usize::try_from(above).expect("the log fits in memory").min(self.slots.len())
    }
}
