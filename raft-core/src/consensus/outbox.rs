//! What the core has decided and not handed out yet: the next write, messages that may leave, and
//! messages withheld until a write is synced.
//!
//! Here the one rule of effects is kept: nothing that promises durability leaves before the sync
//! that makes it true. Anything withheld belongs to the term it was made in and is dropped when the
//! term changes.

use std::collections::VecDeque;
use std::mem;

use super::event::Effects;
use super::log::Log;
use crate::message::Message;
use crate::types::{HardState, Index, WriteId};
use crate::write::{SnapshotWrite, Write};

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Ready to be handed out; `write` and `apply` are filled in when they are.
    pub(crate) effects: Effects,
    hard_state: Option<HardState>,
    truncate_from: Option<Index>,
    snapshots: Vec<SnapshotWrite>,
    /// Handed out and not reported as persisted, oldest first.
    outstanding: VecDeque<Outstanding>,
    /// The last write handed out.
    issued: WriteId,
    /// The write that holds the newest term and vote.
    hard_state_in: WriteId,
    persisted: WriteId,
    withheld: VecDeque<(WriteId, Message)>,
}

#[derive(Debug)]
struct Outstanding {
    id: WriteId,
    /// When this write is synced the log is durable up to here. A truncation lowers it at once
    /// (pitfall 33): an old write must not vouch for new bytes.
    claim: Index,
}

impl Outbox {
    /// The id of the write that will hold what is decided now.
    pub(crate) fn next_write(&self) -> WriteId {
        WriteId(self.issued.0 + 1)
    }

    /// The newest write that is synced.
    pub(crate) fn persisted(&self) -> WriteId {
        self.persisted
    }

    /// Asks for term and vote to be made durable.
    pub(crate) fn write_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = Some(hard_state);
        self.hard_state_in = self.next_write();
    }

    /// Whether the newest term and vote are synced.
    pub(crate) fn hard_state_durable(&self) -> bool {
        self.hard_state_in <= self.persisted
    }

    /// The write after which the newest term and vote are synced.
    pub(crate) fn hard_state_in(&self) -> WriteId {
        self.hard_state_in
    }

    /// Asks for a snapshot operation; returns the write it will be part of.
    pub(crate) fn write_snapshot(&mut self, operation: SnapshotWrite) -> WriteId {
        self.snapshots.push(operation);
        self.next_write()
    }

    /// The log was cut at `first`, and the disk holds or may get entries from there on.
    pub(crate) fn truncate(&mut self, first: Index) {
        self.truncate_from = Some(self.truncate_from.map_or(first, |earlier| earlier.min(first)));
    }

    /// A snapshot took the place of the log up to `at`: what was to be cut is gone, and no
    /// outstanding write may vouch for anything above it.
    pub(crate) fn replace_log(&mut self, at: Index) {
        self.truncate_from = None;
        self.cap_claims(at.next());
    }

    /// No outstanding write may vouch for anything at or above `first` any more.
    pub(crate) fn cap_claims(&mut self, first: Index) {
        for outstanding in &mut self.outstanding {
            outstanding.claim = outstanding.claim.min(first.prev());
        }
    }

    /// A message that may leave now.
    pub(crate) fn send(&mut self, message: Message) {
        self.effects.send.push(message);
    }

    /// A message that may leave once `after` is synced.
    pub(crate) fn send_after(&mut self, after: WriteId, message: Message) {
        if after <= self.persisted {
            self.send(message);
        } else {
            self.withheld.push_back((after, message));
        }
    }

    /// The term changed: what was withheld is of the old one.
    pub(crate) fn drop_withheld(&mut self) {
        self.withheld.clear();
    }

    /// The write `id` and all before it are synced. Returns how far the log is durable by them.
    pub(crate) fn persist(&mut self, id: WriteId) -> Index {
        assert!(id <= self.issued, "write {} was never asked for", id.0);
        self.persisted = self.persisted.max(id);
        let mut claim = Index::ZERO;
        while let Some(first) = self.outstanding.front()
            && first.id <= id
        {
            claim = claim.max(first.claim);
            self.outstanding.pop_front();
        }
        let mut kept = VecDeque::new();
        for (after, message) in mem::take(&mut self.withheld) {
            if after <= self.persisted {
                self.effects.send.push(message);
            } else {
                kept.push_back((after, message));
            }
        }
        self.withheld = kept;
        claim
    }

    /// Gathers everything decided since the last time into one write, if there is anything. While
    /// `installing` a snapshot that is about to replace the log, that log stays as it is on the
    /// disk: what it lacks is written if the install fails.
    pub(crate) fn take_write(&mut self, log: &mut Log, installing: bool) -> Option<Write> {
        let fresh = !installing && log.written() < log.last().index;
        let cut = if installing { None } else { self.truncate_from.take() };
        if self.hard_state.is_none() && cut.is_none() && !fresh && self.snapshots.is_empty() {
            return None;
        }
        let mut entries = Vec::new();
        if fresh {
            entries = log.entries(log.written().next(), log.last().index, u64::MAX);
            log.set_written();
        }
        self.issued = self.next_write();
        self.outstanding.push_back(Outstanding { id: self.issued, claim: log.written() });
        Some(Write {
            id: self.issued,
            snapshots: mem::take(&mut self.snapshots),
            hard_state: self.hard_state.take(),
            truncate_from: cut,
            entries,
        })
    }
}
