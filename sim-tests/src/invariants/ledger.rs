//! The ledger of all entries that ever entered a log, and of those that are committed: I1 to I4, I6,
//! I10 and I11.
//!
//! Log Matching (I3) is held by induction: an entry may enter a log only after the entry that it
//! always follows, with the payload that it always has. So one look at each new entry is enough.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;

use raft_core::consensus::quorum;
use raft_core::membership::Membership;
use raft_core::types::{Entry, Index, LogPosition, NodeId, Payload, Term};
use twox_hash::XxHash64;

use super::cursors::Cursors;
use super::{Verdict, ensure};

/// All logs of a cluster, as one.
#[derive(Debug, Default)]
pub struct Ledger {
    /// At each index, the entries that were ever there: few, nearly always one.
    entries: Vec<Vec<Known>>,
    /// The term of each committed entry, from index 1 on.
    committed: Vec<Term>,
    /// Who led each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Memberships by the entries that brought them.
    memberships: BTreeMap<(Index, Term), Membership>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    term: Term,
    after: Term,
    payload: u64,
}

/// The positions of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    start: LogPosition,
    terms: VecDeque<Term>,
}

impl Ledger {
    /// How far anybody knows the log to be committed.
    pub fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// I3 and I10: this entry enters a log after `after`.
    pub fn entry(&mut self, node: NodeId, after: LogPosition, entry: &Entry) -> Verdict {
        let at = entry.position;
        let follows = at.index == after.index.next() && after.term <= at.term;
        ensure(follows, "I3", || format!("{node} puts {at} after {after}"))?;
        let new = Known { term: at.term, after: after.term, payload: digest(&entry.payload) };
        let place = at.index.0 as usize;
        if self.entries.len() <= place {
            self.entries.resize(place + 1, Vec::new());
        }
        match self.entries[place].iter().find(|known| known.term == at.term) {
            Some(known) => {
                ensure(known.after == new.after, "I3", || {
                    let before = at.index.prev();
                    format!("{at} follows {before}@{} and, on {node}, {after}", known.after)
                })?;
                ensure(known.payload == new.payload, "I3", || {
                    format!("{at} on {node} says something else than elsewhere")
                })
            }
            None => {
                self.entries[place].push(new);
                match &entry.payload {
                    Payload::Membership(membership) => self.change(at, membership),
                    _ => Ok(()),
                }
            }
        }
    }

    /// I10: one membership change at a time, neighbours overlap.
    fn change(&mut self, at: LogPosition, membership: &Membership) -> Verdict {
        self.memberships.insert((at.index, at.term), membership.clone());
        let Some((before, old)) = self.memberships.range(..(at.index, Term(0))).next_back() else {
            return Ok(());
        };
        let (before, committed) = (before.0, self.committed());
        ensure(before <= committed, "I10", || {
            format!("{at} changes the membership while {before} is not committed ({committed} is)")
        })?;
        ensure(self.committed.contains(&at.term), "I10", || {
            format!("{at} changes the membership before its leader has committed anything")
        })?;
        ensure(overlap(old, membership), "I10", || {
            format!("quorums of {old} and {membership} need not meet")
        })
    }

    /// I1, I2 and I4: this node leads.
    pub fn leads(
        &mut self,
        node: NodeId,
        before: &Cursors,
        now: &Cursors,
        term_at: impl Fn(Index) -> Option<Term>,
    ) -> Verdict {
        let term = now.hard_state.term;
        let first = *self.leaders.entry(term).or_insert(node);
        ensure(first == node, "I1", || format!("{first} and {node} both lead term {term}"))?;
        if before.role == now.role && before.hard_state.term == term {
            let kept = before.last.index <= now.last.index
                && term_at(before.last.index).is_none_or(|held| held == before.last.term);
            return ensure(kept, "I2", || {
                format!("leader {node} dropped {}: its log ends with {}", before.last, now.last)
            });
        }
        let committed = self.committed();
        let holds = committed <= now.start
            || term_at(committed) == self.committed.last().copied()
            || committed == Index::ZERO;
        ensure(holds, "I4", || {
            let at = self.committed.last().copied().unwrap_or_default();
            format!("{node} leads term {term} without {committed}@{at}, which is committed")
        })
    }

    /// I3, I4, I6 and I11: this node takes everything up to `now.committed` for committed.
    pub fn commits(
        &mut self,
        node: NodeId,
        from: Index,
        now: &Cursors,
        membership: &Membership,
        term_at: impl Fn(Index) -> Option<Term>,
        holds: impl Fn(NodeId, LogPosition) -> bool,
    ) -> Verdict {
        let known = self.committed();
        for index in from.next().0..=now.committed.0.min(known.0) {
            let ours = self.committed[index as usize - 1];
            let theirs = term_at(Index(index));
            ensure(theirs.is_none_or(|theirs| theirs == ours), "I4", || {
                let theirs = theirs.unwrap_or_default();
                format!("{node} commits {index}@{theirs}; committed is {index}@{ours}")
            })?;
        }
        if now.committed <= known {
            return Ok(());
        }
        for index in known.next().0..=now.committed.0 {
            let term = term_at(Index(index));
            ensure(term.is_some(), "I6", || {
                format!("{node} commits {index}, which nobody has committed and it does not hold")
            })?;
            self.committed.push(term.unwrap_or_default());
        }
        let at = LogPosition::new(now.committed, self.committed[now.committed.0 as usize - 1]);
        let leads = now.role == raft_core::consensus::event::RoleName::Leader;
        ensure(!leads || at.term == now.hard_state.term, "I11", || {
            format!("{node}@{} commits {at} by count", now.hard_state.term)
        })?;
        let durable = |member| Some(holds(member, at));
        ensure(quorum::tally(membership, durable) == quorum::Tally::Won, "I6", || {
            let held: Vec<NodeId> =
                membership.members().map(|it| it.0).filter(|it| holds(*it, at)).collect();
            format!("{node} commits {at}, durable on {held:?} of {membership}")
        })
    }

    /// I4: whatever is applied, snapshotted or installed is what is committed there.
    pub fn is_committed(&self, at: LogPosition) -> Verdict {
        let known = (at.index.0 as usize).checked_sub(1).map(|place| self.committed.get(place));
        let is = known.is_none_or(|known| known == Some(&at.term));
        ensure(is, "I4", || match known.flatten() {
            Some(term) => format!("{at} is used as committed, and {}@{term} is", at.index),
            None => format!("{at} is used as committed, and only {} is", self.committed()),
        })
    }
}

impl Shadow {
    /// An empty log that goes on after `start`.
    pub fn new(start: LogPosition) -> Shadow {
        Shadow { start, terms: VecDeque::new() }
    }

    /// The last position.
    pub fn last(&self) -> LogPosition {
        match self.terms.back() {
            Some(term) => {
                LogPosition::new(Index(self.start.index.0 + self.terms.len() as u64), *term)
            }
            None => self.start,
        }
    }

    /// The term of an entry, where it is known.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        let above = index.0.checked_sub(self.start.index.0 + 1)?;
        self.terms.get(above as usize).copied()
    }

    /// Whether it holds this very entry.
    pub fn holds(&self, at: LogPosition) -> bool {
        self.term_at(at.index) == Some(at.term)
    }

    /// Whether it holds this entry or has it in a snapshot.
    pub fn reaches(&self, at: LogPosition) -> bool {
        at.index <= self.start.index || self.holds(at)
    }

    /// The last entry that both hold.
    pub fn common(&self, other: &Shadow) -> LogPosition {
        let mut index = self.last().index.min(other.last().index);
        while self.start.index < index && self.term_at(index) != other.term_at(index) {
            index = index.prev();
        }
        LogPosition::new(index, self.term_at(index).unwrap_or(self.start.term))
    }

    /// The next entry.
    pub fn push(&mut self, at: LogPosition) {
        self.terms.push_back(at.term);
    }

    /// Drops everything from `from` on.
    pub fn truncate(&mut self, from: Index) {
        let kept = from.0.saturating_sub(self.start.index.0 + 1);
        self.terms.truncate(kept as usize);
    }
}

/// Whether any quorum of one meets any quorum of the other. A quorum is a majority of each side, so
/// a majority of `a` and one of `b` meet when together they are more than all.
fn overlap(old: &Membership, new: &Membership) -> bool {
    let sides = |it: &Membership| {
        let sides = [it.voters().clone(), it.outgoing().clone()];
        sides.into_iter().filter(|side| !side.is_empty()).collect::<Vec<_>>()
    };
    sides(old).iter().any(|a| {
        sides(new).iter().any(|b| a.union(b).count() < (a.len() / 2 + 1) + (b.len() / 2 + 1))
    })
}

fn digest(payload: &Payload) -> u64 {
    let mut digest = XxHash64::with_seed(0);
    match payload {
        Payload::Noop => return 1,
        Payload::Command(bytes) => digest.write(bytes),
        Payload::Membership(membership) => digest.write(membership.to_string().as_bytes()),
    }
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_core::consensus::event::RoleName;
    use raft_core::membership::Member;
    use raft_core::types::HardState;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(term))
    }

    fn entry(index: u64, term: u64, says: &'static str) -> Entry {
        Entry {
            position: at(index, term),
            payload: Payload::Command(Bytes::from_static(says.as_bytes())),
        }
    }

    fn voters(ids: &[u64]) -> Membership {
        let member =
            |id: &u64| (NodeId(*id), Member { name: id.to_string(), address: id.to_string() });
        Membership::of_voters(ids.iter().map(member))
    }

    fn change(index: u64, term: u64, ids: &[u64]) -> Entry {
        Entry { position: at(index, term), payload: Payload::Membership(voters(ids)) }
    }

    fn now(role: RoleName, term: u64, committed: u64, last: LogPosition) -> Cursors {
        Cursors {
            hard_state: HardState { term: Term(term), vote: None },
            role,
            start: Index(0),
            snapshot: Index(0),
            applied: Index(0),
            committed: Index(committed),
            durable: last.index,
            last,
        }
    }

    /// A log of entries of these terms, looked at.
    fn log(terms: &'static [u64]) -> impl Fn(Index) -> Option<Term> {
        move |index| match index.0 {
            0 => Some(Term(0)),
            index => terms.get(index as usize - 1).copied().map(Term),
        }
    }

    fn rule(verdict: Verdict) -> &'static str {
        verdict.expect_err("a rule is broken").rule
    }

    const ALL: fn(NodeId, LogPosition) -> bool = |_, _| true;

    #[test]
    fn i1_one_leader_a_term() {
        let mut ledger = Ledger::default();
        let (before, leads) =
            (now(RoleName::Candidate, 2, 0, at(0, 0)), now(RoleName::Leader, 2, 0, at(1, 2)));
        assert!(ledger.leads(NodeId(1), &before, &leads, log(&[2])).is_ok());
        assert!(ledger.leads(NodeId(1), &leads, &leads, log(&[2])).is_ok());
        assert_eq!(rule(ledger.leads(NodeId(2), &before, &leads, log(&[2]))), "I1");
    }

    #[test]
    fn i2_a_leader_only_appends() {
        let mut ledger = Ledger::default();
        let long = now(RoleName::Leader, 2, 0, at(3, 2));
        let short = now(RoleName::Leader, 2, 0, at(2, 2));
        assert!(ledger.leads(NodeId(1), &short, &long, log(&[1, 2, 2])).is_ok());
        assert_eq!(rule(ledger.leads(NodeId(1), &long, &short, log(&[1, 2]))), "I2");
    }

    #[test]
    fn i3_an_entry_says_the_same_everywhere() {
        let mut ledger = Ledger::default();
        assert!(ledger.entry(NodeId(1), at(0, 0), &entry(1, 1, "a")).is_ok());
        assert!(ledger.entry(NodeId(1), at(1, 1), &entry(2, 3, "b")).is_ok());
        assert!(ledger.entry(NodeId(2), at(0, 0), &entry(1, 1, "a")).is_ok());
        // Another term is another entry.
        assert!(ledger.entry(NodeId(2), at(0, 0), &entry(1, 2, "c")).is_ok());
        assert_eq!(rule(ledger.entry(NodeId(2), at(0, 0), &entry(1, 1, "x"))), "I3");
        assert_eq!(rule(ledger.entry(NodeId(2), at(1, 2), &entry(2, 3, "b"))), "I3");
        assert_eq!(rule(ledger.entry(NodeId(2), at(1, 2), &entry(3, 3, "b"))), "I3");
        assert_eq!(rule(ledger.entry(NodeId(2), at(1, 2), &entry(2, 1, "b"))), "I3");
    }

    #[test]
    fn i4_leaders_hold_what_is_committed() {
        let mut ledger = Ledger::default();
        let leads = now(RoleName::Leader, 1, 2, at(2, 1));
        let three = voters(&[1, 2, 3]);
        assert!(ledger.commits(NodeId(1), Index(0), &leads, &three, log(&[1, 1]), ALL).is_ok());
        let before = now(RoleName::Candidate, 2, 0, at(1, 1));
        let after = now(RoleName::Leader, 2, 0, at(3, 2));
        assert!(ledger.leads(NodeId(2), &before, &after, log(&[1, 1, 2])).is_ok());
        let mut other = ledger;
        other.leaders.clear();
        assert_eq!(rule(other.leads(NodeId(2), &before, &after, log(&[1, 2]))), "I4");
        // Nor may a follower commit, or apply, something else.
        let follows = now(RoleName::Follower, 2, 2, at(2, 2));
        assert_eq!(
            rule(other.commits(NodeId(3), Index(0), &follows, &three, log(&[1, 2]), ALL)),
            "I4"
        );
        assert!(other.is_committed(at(2, 1)).is_ok() && other.is_committed(at(0, 0)).is_ok());
        assert_eq!(rule(other.is_committed(at(2, 2))), "I4");
        assert_eq!(rule(other.is_committed(at(3, 1))), "I4");
    }

    #[test]
    fn i6_committed_is_durable_on_a_quorum() {
        let leads = now(RoleName::Leader, 1, 1, at(1, 1));
        for (ids, holders, wins) in [
            (&[1, 2, 3][..], 2, true),
            (&[1, 2, 3], 1, false),
            (&[1, 2, 3, 4], 2, false),
            (&[1, 2, 3, 4], 3, true),
        ] {
            let holds = |node: NodeId, _| node.0 <= holders;
            let verdict = Ledger::default().commits(
                NodeId(1),
                Index(0),
                &leads,
                &voters(ids),
                log(&[1]),
                holds,
            );
            assert_eq!(verdict.is_ok(), wins, "{holders} of {ids:?}");
            assert!(wins || rule(verdict) == "I6");
        }
    }

    #[test]
    fn i10_one_change_at_a_time_and_quorums_meet() {
        let begun = || {
            let mut ledger = Ledger::default();
            ledger.entry(NodeId(1), at(0, 0), &change(1, 1, &[1, 2, 3])).expect("the first");
            ledger
        };
        let mut early = begun();
        assert_eq!(rule(early.entry(NodeId(1), at(1, 1), &change(2, 1, &[1, 2, 3, 4]))), "I10");
        let mut good = begun();
        good.committed.push(Term(1));
        assert!(good.entry(NodeId(1), at(1, 1), &change(2, 1, &[1, 2, 3, 4])).is_ok());
        let mut far = begun();
        far.committed.push(Term(1));
        assert_eq!(rule(far.entry(NodeId(1), at(1, 1), &change(2, 1, &[4, 5, 6]))), "I10");
        let mut unproven = begun();
        unproven.committed.push(Term(1));
        assert_eq!(rule(unproven.entry(NodeId(1), at(1, 1), &change(2, 2, &[1, 2]))), "I10");
    }

    #[test]
    fn i11_only_entries_of_the_own_term_are_counted() {
        let three = voters(&[1, 2, 3]);
        let leads = now(RoleName::Leader, 3, 1, at(2, 3));
        let verdict =
            Ledger::default().commits(NodeId(1), Index(0), &leads, &three, log(&[1, 3]), ALL);
        assert_eq!(rule(verdict), "I11");
        let both = Cursors { committed: Index(2), ..leads };
        let verdict =
            Ledger::default().commits(NodeId(1), Index(0), &both, &three, log(&[1, 3]), ALL);
        assert!(verdict.is_ok());
    }

    #[test]
    fn a_shadow_follows_a_log() {
        let mut shadow = Shadow::new(at(3, 1));
        [1, 2, 2].into_iter().zip(4..).for_each(|(term, index)| shadow.push(at(index, term)));
        assert_eq!(shadow.last(), at(6, 2));
        assert!(shadow.holds(at(4, 1)) && shadow.reaches(at(2, 9)) && !shadow.reaches(at(7, 2)));
        let mut other = Shadow::new(at(3, 1));
        [1, 3, 3, 3].into_iter().zip(4..).for_each(|(term, index)| other.push(at(index, term)));
        assert_eq!(shadow.common(&other), at(4, 1));
        assert_eq!(shadow.common(&Shadow::new(at(3, 1))), at(3, 1));
        shadow.truncate(Index(5));
        assert_eq!(shadow.last(), at(4, 1));
        shadow.truncate(Index(1));
        assert_eq!(shadow.last(), at(3, 1));
    }
}
