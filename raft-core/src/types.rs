//! The words everything else is said in: who, when, where in the log, and what an entry holds.
//!
//! Every id is its own type, so that a term is never compared with an index. One print form holds
//! in logs, transcripts, status pages and docs: `n1@2` is node 1 in term 2, `5@2` is entry 5 of
//! term 2.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Add;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::membership::Membership;

/// Names one *disk*: 64 random bits made with the data directory. A wiped machine is another node
/// and can never vote twice. Printed as `n` and lower-case hex: `n1`, `n9f3a0c...`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// Names one cluster: a digest of the membership it formed with. Printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u64);

/// A term of office (thesis 3.3): at most one leader each, never goes back. 0 is before any election.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

/// A place in the log; the first entry is 1, and 0 stands before it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Index(pub u64);

/// Which entry: its index and the term it was made in. Two logs that hold the same position are
/// equal up to it (thesis 3.5, Log Matching).
///
/// The order is Raft's "more up-to-date" (thesis 3.6.1): the term first, then the index.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// Where in the log.
    pub index: Index,
    /// In which term the entry was made.
    pub term: Term,
}

/// A point in time: nanoseconds since any fixed origin. The core is told the time, it never asks.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its index and term.
    pub position: LogPosition,
    /// What it says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a leader's first entry, which lets it commit what earlier terms left (thesis 6.4).
    Noop,
    /// A command for the state machine. Shared, never copied, between log, wire and state machine.
    Command(Bytes),
    /// A membership, in force from the moment it is appended (thesis 4.1).
    Membership(Membership),
}

/// What must survive a crash beside the log (thesis figure 3.1): within a term at most one vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The highest term seen.
    pub term: Term,
    /// Who got our vote in that term.
    pub vote: Option<NodeId>,
}

/// Numbers the writes a core asks for: 1, 2, 3 ... within one run of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Names a proposal between its proposer and the core; chosen by the proposer, never reused by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// Names a read between its asker and the core; chosen by the asker, never reused by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

impl Index {
    /// Stands before the first entry.
    pub const ZERO: Index = Index(0);

    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; that of 0 is 0.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl LogPosition {
    /// Stands before the first entry: `0@0`.
    pub const ORIGIN: LogPosition = LogPosition { index: Index(0), term: Term(0) };

    /// The position `index@term`.
    pub fn new(index: Index, term: Term) -> LogPosition {
        LogPosition { index, term }
    }
}

impl Ord for LogPosition {
    fn cmp(&self, other: &LogPosition) -> Ordering {
        (self.term, self.index).cmp(&(other.term, other.index))
    }
}

impl PartialOrd for LogPosition {
    fn partial_cmp(&self, other: &LogPosition) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Time {
    /// The latest time there is: a deadline that never comes.
    pub const NEVER: Time = Time(u64::MAX);

    /// How long ago `earlier` was; zero when it is not in the past.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, by: Duration) -> Time {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

impl Entry {
    /// The entry's index.
    pub fn index(&self) -> Index {
        self.position.index
    }

    /// The entry's term.
    pub fn term(&self) -> Term {
        self.position.term
    }

    /// What the entry weighs in memory and on the wire, about: payload bytes and a fixed head.
    pub fn weight(&self) -> u64 {
        const HEAD: u64 = 48;
        HEAD + match &self.payload {
            Payload::Noop => 0,
            Payload::Command(bytes) => bytes.len() as u64,
            Payload::Membership(membership) => 64 * membership.members().count() as u64,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{:x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)
    }
}

/// Plain numbers print plainly; `{:?}` prints the same, because logs mix both.
macro_rules! print_plainly {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}
print_plainly!(Term, Index, Time);

macro_rules! debug_as_display {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(NodeId, ClusterId, LogPosition);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(term))
    }

    /// pitfall 24: up-to-date is lexicographic, not index by index.
    #[test]
    fn pitfall_24_positions_compare_by_term_first() {
        assert!(at(9, 2) < at(1, 3));
        assert!(at(1, 3) < at(2, 3));
        assert_eq!(at(2, 3).cmp(&at(2, 3)), Ordering::Equal);
    }

    #[test]
    fn one_notation_everywhere() {
        assert_eq!(format!("{} {:?}", NodeId(1), NodeId(0x2f)), "n1 n2f");
        assert_eq!(format!("{} {:?}", at(5, 2), at(5, 2)), "5@2 5@2");
        assert_eq!(ClusterId(0xabc).to_string(), "0000000000000abc");
    }

    #[test]
    fn time_saturates_at_both_ends() {
        assert_eq!(Time::NEVER + Duration::from_secs(1), Time::NEVER);
        assert_eq!(Time(3).since(Time(5)), Duration::ZERO);
    }
}
