//! What clients asked, when, and what they were told: the only thing the checker looks at.
//!
//! Every key has one writer, which writes the numbers 1, 2, 3 ... and waits for each answer. A key
//! whose last write ended unknown is never written again, because that write may still arrive. The
//! one exception is the counter, which all clients raise by compare-and-set.

use std::time::Duration;

/// Names a key: its writer and which of that writer's keys it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The client that writes it.
    pub writer: usize,
    /// Its first key is 0.
    pub serial: usize,
}

/// One request from its beginning to its end, on one clock.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which node was asked.
    pub node: usize,
    /// Before the first byte left.
    pub begin: Duration,
    /// After the last byte of the answer came, or when it was given up.
    pub end: Duration,
    /// What was asked and answered.
    pub event: Event,
}

/// What was asked and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key's writer wrote this number. `compared`: only if the key was as the writer left it.
    Write {
        /// Which key.
        key: Key,
        /// Its value.
        number: u64,
        /// Whether it was conditional.
        compared: bool,
        /// What came of it.
        fate: Fate,
    },
    /// A linearizable read of a key.
    Read {
        /// Which key.
        key: Key,
        /// What it gave.
        saw: Saw,
    },
    /// The counter was to go from this number to the next, if it still was at this one.
    Raise {
        /// The number that was read before.
        from: u64,
        /// What came of it.
        fate: Fate,
    },
    /// A linearizable read of the counter.
    Count {
        /// What it gave.
        saw: Saw,
    },
}

/// What a writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done {
        /// The store's revision it made.
        revision: u64,
        /// The key's version it made.
        version: u64,
    },
    /// Not applied, and it will not be: said by the node, or no byte of it left.
    NotApplied,
    /// The condition did not hold.
    ConditionFailed,
    /// Nobody can tell.
    Unknown,
    /// A failure that does not say which of the two it is, although it must.
    Unsaid {
        /// Its HTTP status.
        status: u16,
    },
}

/// What a reader was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saw {
    /// This number, and the store at this revision. `None`: there is no such key.
    Number(Option<u64>, u64),
    /// Bytes that no client ever wrote to that key.
    Foreign(String),
    /// No answer: not a promise, so nothing to check.
    Nothing,
}

impl Event {
    /// The store's revision the answer named, if it was a success.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Event::Write { fate: Fate::Done { revision, .. }, .. }
            | Event::Raise { fate: Fate::Done { revision, .. }, .. }
            | Event::Read { saw: Saw::Number(_, revision), .. }
            | Event::Count { saw: Saw::Number(_, revision) } => Some(*revision),
            _ => None,
        }
    }

    /// What a write was told; `None` for reads.
    pub fn fate(&self) -> Option<Fate> {
        match self {
            Event::Write { fate, .. } | Event::Raise { fate, .. } => Some(*fate),
            Event::Read { .. } | Event::Count { .. } => None,
        }
    }

    /// Whether the store answered: a write was done, a read saw a state.
    pub fn succeeded(&self) -> bool {
        self.revision().is_some()
    }
}
