//! The fate of what clients ask: how a proposal or a read can end, and the books of those that
//! have not ended yet.
//!
//! The outcomes are honest. *Not applied* is said only before a command is in the log, or when an
//! entry of another term is committed in its place. A truncation, lost leadership, a snapshot that
//! jumps over the entry, a failed sync and a shutdown all leave the fate open: the next leader may
//! hold the entry and commit it. This file never sees a thread or a clock, and decides nothing
//! about the log: `replica.rs` tells it what was applied.

use std::collections::{BTreeMap, BTreeSet};

use crate::consensus::event::Refusal;
use crate::types::{Index, LogPosition, NodeId, ProposalId, ReadId, Term, Time};

/// How a proposal ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<R> {
    /// The command was committed and applied: this is what the state machine replied.
    Applied {
        /// Where it stands in the log.
        at: LogPosition,
        /// The state machine's reply.
        reply: R,
    },
    /// Turned away before it reached the log: not applied, and it will not be.
    Refused(Refusal),
    /// It was in the log, but an entry of another term is committed in its place: not applied, and
    /// it will not be.
    NotApplied,
    /// It may be applied or not, now or later; nobody here can tell.
    Unknown(UnknownCause),
}

/// Why nobody can tell what became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownCause {
    /// Its deadline passed while it was in the log and not committed.
    Deadline,
    /// A snapshot from the leader covers its place in the log; the entry itself was never seen.
    SnapshotJump,
    /// The node stopped.
    Stopped,
    /// The node's disk failed, or the node broke one of its own rules.
    Failed,
}

/// Why a read was turned away. A read changes nothing, so it may always be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadRefused {
    /// Neither this node nor a leader known to it could confirm the read.
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; try again in a moment.
    Transferring {
        /// Who is to lead.
        to: NodeId,
    },
    /// Too many reads wait; try again in a moment.
    Busy,
    /// The read's deadline passed.
    Deadline,
    /// The node is stopping, or its disk has failed.
    Stopped,
}

impl From<Refusal> for ReadRefused {
    fn from(refusal: Refusal) -> ReadRefused {
        match refusal {
            Refusal::NotLeader { leader } => ReadRefused::NotLeader { leader },
            Refusal::Transferring { to } => ReadRefused::Transferring { to },
            Refusal::Deadline => ReadRefused::Deadline,
            Refusal::Stopped => ReadRefused::Stopped,
            // A read has no size and needs no room: only its number can be too much.
            Refusal::Busy | Refusal::TooLarge { .. } | Refusal::NoSpace => ReadRefused::Busy,
        }
    }
}

/// The proposals that are in the log and have not ended, by their place in it.
///
/// Two of them may wait for one index: one of an earlier term that was cut off, and one of a later
/// term. At most one of the two can be committed there.
#[derive(Debug, Default)]
pub(crate) struct WaitingProposals {
    by_place: BTreeMap<(Index, Term), (ProposalId, Time)>,
    by_deadline: BTreeSet<(Time, Index, Term)>,
}

impl WaitingProposals {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_place.len()
    }

    /// This proposal stands at `at` from now on. `deadline` may be [`Time::NEVER`].
    pub(crate) fn enter(&mut self, id: ProposalId, at: LogPosition, deadline: Time) {
        let place = (at.index, at.term);
        let before = self.by_place.insert(place, (id, deadline));
        assert!(before.is_none(), "two proposals stand at {at}");
        if deadline < Time::NEVER {
            self.by_deadline.insert((deadline, at.index, at.term));
        }
    }

    /// The next proposal that ends because the entry `applied` was applied: with `true` when it is
    /// that very entry, with `false` when it lost its place to it. `None`: there are no more.
    pub(crate) fn settle(&mut self, applied: LogPosition) -> Option<(ProposalId, bool)> {
        let (&(index, term), _) = self.by_place.first_key_value()?;
        if applied.index < index {
            return None;
        }
        assert!(index == applied.index, "{applied} is applied, and {index}@{term} was passed over");
        Some((self.take((index, term)), term == applied.term))
    }

    /// The next proposal at `through` or below: its place is covered by a snapshot.
    pub(crate) fn jumped_over(&mut self, through: Index) -> Option<ProposalId> {
        let (&place, _) = self.by_place.first_key_value()?;
        (place.0 <= through).then(|| self.take(place))
    }

    /// The next proposal whose deadline has come.
    pub(crate) fn expired(&mut self, now: Time) -> Option<ProposalId> {
        let &(deadline, index, term) = self.by_deadline.first()?;
        (deadline <= now).then(|| self.take((index, term)))
    }

    /// Any one of them; `None` when none is left.
    pub(crate) fn any(&mut self) -> Option<ProposalId> {
        let (&place, _) = self.by_place.first_key_value()?;
        Some(self.take(place))
    }

    /// When the first deadline comes.
    pub(crate) fn deadline(&self) -> Time {
        self.by_deadline.first().map_or(Time::NEVER, |first| first.0)
    }

    fn take(&mut self, place: (Index, Term)) -> ProposalId {
        let (id, deadline) = self.by_place.remove(&place).expect("the caller just saw it");
        self.by_deadline.remove(&(deadline, place.0, place.1));
        id
    }
}

/// The reads that have not ended: first unconfirmed (no index yet), then waiting for their index to
/// be applied.
#[derive(Debug, Default)]
pub(crate) struct WaitingReads {
    reads: BTreeMap<ReadId, WaitingRead>,
    by_index: BTreeSet<(Index, ReadId)>,
    by_deadline: BTreeSet<(Time, ReadId)>,
}

#[derive(Debug)]
struct WaitingRead {
    deadline: Time,
    index: Option<Index>,
}

impl WaitingReads {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.reads.len()
    }

    /// This read waits for the core's word from now on.
    pub(crate) fn enter(&mut self, id: ReadId, deadline: Time) {
        let before = self.reads.insert(id, WaitingRead { deadline, index: None });
        assert!(before.is_none(), "the read id {} is used twice", id.0);
        if deadline < Time::NEVER {
            self.by_deadline.insert((deadline, id));
        }
    }

    /// The core says: answer it from `index` on. A read that ended meanwhile is none of ours.
    pub(crate) fn confirmed(&mut self, id: ReadId, index: Index) {
        if let Some(read) = self.reads.get_mut(&id) {
            read.index = Some(index);
            self.by_index.insert((index, id));
        }
    }

    /// The core refused it. Says whether it was still waiting.
    pub(crate) fn refused(&mut self, id: ReadId) -> bool {
        self.take(id)
    }

    /// The next confirmed read whose index is applied.
    pub(crate) fn ready(&mut self, applied: Index) -> Option<(ReadId, Index)> {
        let &(index, id) = self.by_index.first()?;
        (index <= applied).then(|| {
            self.take(id);
            (id, index)
        })
    }

    /// The next read whose deadline has come.
    pub(crate) fn expired(&mut self, now: Time) -> Option<ReadId> {
        let &(deadline, id) = self.by_deadline.first()?;
        (deadline <= now).then(|| {
            self.take(id);
            id
        })
    }

    /// Any one of them; `None` when none is left.
    pub(crate) fn any(&mut self) -> Option<ReadId> {
        let (&id, _) = self.reads.first_key_value()?;
        self.take(id);
        Some(id)
    }

    /// When the first deadline comes.
    pub(crate) fn deadline(&self) -> Time {
        self.by_deadline.first().map_or(Time::NEVER, |first| first.0)
    }

    fn take(&mut self, id: ReadId) -> bool {
        let Some(read) = self.reads.remove(&id) else { return false };
        self.by_deadline.remove(&(read.deadline, id));
        if let Some(index) = read.index {
            self.by_index.remove(&(index, id));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(term))
    }

    #[test]
    fn an_entry_settles_its_own_proposal_and_the_one_it_displaced() {
        let mut waiting = WaitingProposals::default();
        waiting.enter(ProposalId(1), at(5, 2), Time::NEVER);
        waiting.enter(ProposalId(2), at(5, 4), Time(9));
        waiting.enter(ProposalId(3), at(6, 4), Time::NEVER);
        assert_eq!(waiting.settle(at(4, 2)), None);
        assert_eq!(waiting.settle(at(5, 4)), Some((ProposalId(1), false)));
        assert_eq!(waiting.settle(at(5, 4)), Some((ProposalId(2), true)));
        assert_eq!(waiting.settle(at(5, 4)), None);
        assert_eq!((waiting.len(), waiting.deadline()), (1, Time::NEVER));
    }

    #[test]
    fn a_deadline_takes_only_what_is_due() {
        let mut waiting = WaitingProposals::default();
        waiting.enter(ProposalId(1), at(5, 2), Time(20));
        waiting.enter(ProposalId(2), at(6, 2), Time(10));
        assert_eq!(waiting.deadline(), Time(10));
        assert_eq!(waiting.expired(Time(9)), None);
        assert_eq!(waiting.expired(Time(10)), Some(ProposalId(2)));
        assert_eq!(waiting.expired(Time(10)), None);
        assert_eq!(waiting.settle(at(5, 2)), Some((ProposalId(1), true)));
    }

    #[test]
    fn a_read_is_ready_when_confirmed_and_applied() {
        let mut waiting = WaitingReads::default();
        waiting.enter(ReadId(1), Time(10));
        waiting.enter(ReadId(2), Time::NEVER);
        assert_eq!(waiting.ready(Index(9)), None, "nothing is confirmed yet");
        waiting.confirmed(ReadId(2), Index(7));
        waiting.confirmed(ReadId(1), Index(8));
        assert_eq!(waiting.ready(Index(6)), None);
        assert_eq!(waiting.ready(Index(7)), Some((ReadId(2), Index(7))));
        assert_eq!(waiting.ready(Index(7)), None);
        assert_eq!(waiting.expired(Time(10)), Some(ReadId(1)));
        assert_eq!(waiting.ready(Index(9)), None, "an expired read has ended");
        waiting.confirmed(ReadId(1), Index(9));
        assert_eq!((waiting.len(), waiting.by_index.len()), (0, 0));
    }
}
