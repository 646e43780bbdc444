//! How far a leader is with one follower.
//!
//! ```text
//!            matched                      next-1 > matched, no answer in time,
//!   +-------------------------+           or the follower refused
//!   |                         v         +----------------------------+
//! Probe                    Replicate ---+                            |
//!   ^  one append under way,  |   many appends under way,            |
//!   |  to find where the      |   at most inflight_bytes_max         |
//!   |  logs agree             |                                      |
//!   +-----------------------------------------------------------------
//!   |                         |
//!   |  the entry wanted next is no longer in the log
//!   v                         v
//! Snapshot: one chunk under way; done (or matched anyway) -> Probe
//! ```
//!
//! The rules: `matched < next`; `matched` never goes down within a term; nothing is in flight
//! outside Replicate.

use std::collections::VecDeque;

use crate::types::{Index, Time};
use crate::write::SnapshotMeta;

/// One follower (or learner), as its leader sees it.
#[derive(Debug)]
pub struct Progress {
    /// Durable there and equal to our log up to here.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// What is being done about it.
    pub state: State,
    /// When an answer of this term last came in.
    pub contact: Option<Time>,
    /// The newest heartbeat round it answered.
    pub round: u64,
    /// The commit index it was last told.
    pub told_commit: Index,
    /// When an append last left for it.
    pub(crate) sent_at: Time,
    inflight: VecDeque<(Index, u64)>,
    inflight_bytes: u64,
}

/// See the file's drawing.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// Looking for where the logs agree.
    Probe {
        /// An append is under way and not answered.
        waiting: bool,
    },
    /// Streaming entries.
    Replicate,
    /// Sending a snapshot.
    Snapshot(Sending),
}

/// A snapshot on its way to one follower.
#[derive(Debug, PartialEq, Eq)]
pub struct Sending {
    /// Which.
    pub meta: SnapshotMeta,
    /// Where the chunk under way begins.
    pub offset: u64,
    /// What is being waited for.
    pub stage: Stage,
}

/// The stations of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// To be read from our disk.
    Wanted,
    /// Asked of our disk.
    Reading,
    /// Sent; no answer yet.
    Sent {
        /// When.
        at: Time,
    },
}

impl Progress {
    /// A follower nothing is known of yet: probing begins at the end of our log.
    pub(crate) fn new(next: Index, now: Time) -> Progress {
        Progress {
            matched: Index::ZERO,
            next,
            state: State::Probe { waiting: false },
            // A new leader gives everybody one election timeout to answer.
            contact: Some(now),
            round: 0,
            told_commit: Index::ZERO,
            sent_at: now,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
        }
    }

    /// Entry bytes under way.
    pub fn inflight_bytes(&self) -> u64 {
        self.inflight_bytes
    }

    /// Entries up to `last` left for it.
    pub(crate) fn sent(&mut self, last: Index, bytes: u64, now: Time) {
        self.sent_at = now;
        match &mut self.state {
            State::Probe { waiting } => *waiting = true,
            State::Replicate => {
                if self.next <= last {
                    self.next = last.next();
                    self.inflight.push_back((last, bytes));
                    self.inflight_bytes += bytes;
                }
            }
            State::Snapshot(_) => unreachable!("no append leaves during a snapshot"),
        }
    }

    /// It holds everything up to `index` durably. Returns whether that is news.
    pub(crate) fn acknowledge(&mut self, index: Index) -> bool {
        let news = self.matched < index;
        self.matched = self.matched.max(index);
        self.next = self.next.max(self.matched.next());
        while let Some((last, bytes)) = self.inflight.front()
            && *last <= self.matched
        {
            self.inflight_bytes -= bytes;
            self.inflight.pop_front();
        }
        match &self.state {
            // A snapshot is over when the follower holds what it covers, however it got it.
            State::Snapshot(sending) if self.matched < sending.meta.position.index => {}
            State::Snapshot(_) => self.probe(self.matched.next()),
            State::Probe { .. } | State::Replicate => {}
        }
        news
    }

    /// The logs agree up to `next - 1`: stream from there.
    pub(crate) fn replicate(&mut self) {
        if let State::Probe { .. } = self.state {
            self.state = State::Replicate;
        }
    }

    /// Look for agreement below `next`.
    pub(crate) fn probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.state = State::Probe { waiting: false };
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    /// The log no longer reaches back to what it needs: send this.
    pub(crate) fn send_snapshot(&mut self, meta: SnapshotMeta) {
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.state = State::Snapshot(Sending { meta, offset: 0, stage: Stage::Wanted });
    }

    /// The name of the state, for people.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Probe { .. } => "probe",
            State::Replicate => "replicate",
            State::Snapshot(_) => "snapshot",
        }
    }

    /// The rules of this file's head.
    pub fn check(&self) {
        assert!(self.matched < self.next, "matched {} next {}", self.matched, self.next);
        let streaming = self.state == State::Replicate;
        assert!(streaming || self.inflight.is_empty(), "in flight outside replicate");
        let sum: u64 = self.inflight.iter().map(|(_, bytes)| bytes).sum();
        assert!(self.inflight_bytes == sum, "in flight {} of {sum}", self.inflight_bytes);
    }
}
