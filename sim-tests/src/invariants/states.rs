//! I5, I13 and I14: state machines at the same index are equal, with each other, with a reference
//! that never crashes and never restores, and with the snapshots that were taken of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::state_machine::StateMachine;
use raft_core::types::{Index, LogPosition};

use super::{Verdict, ensure};
use crate::app::App;
use crate::plan::Machine;
use crate::trace::DIGEST_EVERY;

/// What state machines are known to hold.
pub struct States<A: App> {
    reference: A::State,
    reached: Index,
    /// At some indexes the digest of the whole state.
    digests: BTreeMap<Index, u64>,
    /// By command and index.
    commands: Vec<u64>,
    /// For each index that a state was put back from, the digests of the replies since, by index.
    replies: BTreeMap<Index, Vec<u64>>,
    /// Per machine: where its state began, and how far it is.
    machines: Vec<(Index, Index)>,
}

impl<A: App> Default for States<A> {
    fn default() -> States<A> {
        States {
            reference: A::state(),
            reached: Index::ZERO,
            digests: BTreeMap::new(),
            commands: Vec::new(),
            replies: BTreeMap::new(),
            machines: vec![(Index::ZERO, Index::ZERO); 8],
        }
    }
}

impl<A: App> States<A> {
    /// A process begins with an empty state.
    pub fn starts(&mut self, machine: Machine) {
        self.machines[usize::from(machine.0)] = (Index::ZERO, Index::ZERO);
    }

    /// A command went through the state machine of a node.
    pub fn applied(
        &mut self,
        machine: Machine,
        at: LogPosition,
        command: &Bytes,
        reply: u64,
        state: Option<u64>,
    ) -> Verdict {
        let (origin, applied) = &mut self.machines[usize::from(machine.0)];
        ensure(*applied < at.index, "I5", || format!("{machine} applies {at} after {applied}"))?;
        *applied = at.index;
        let origin = *origin;
        self.follow(at, command)?;
        let digest = command_digest(command);
        let place = at.index.0 as usize;
        ensure(self.commands.get(place) == Some(&digest), "I13", || {
            format!("{machine} applies at {at} what nobody else applied there")
        })?;
        let replies = self.replies.entry(origin).or_default();
        let place = (at.index.0 - origin.0) as usize;
        if replies.len() <= place {
            replies.resize(place + 1, 0);
        }
        // Zero stands for not known.
        let known = replies[place];
        ensure(known == 0 || known == reply, "I5", || {
            format!("{machine} replies something else than others at {at} (or before)")
        })?;
        replies[place] = reply;
        state.map_or(Ok(()), |state| self.digested(at.index, state))
    }

    /// The state of a node at an index has this digest.
    pub fn digested(&mut self, index: Index, state: u64) -> Verdict {
        let known = *self.digests.entry(index).or_insert(state);
        ensure(known == state, "I5", || format!("two states at index {index}"))
    }

    /// The state of a node was put back from a snapshot: it is what was there when it was taken.
    pub fn restored(&mut self, machine: Machine, at: LogPosition, state: u64) -> Verdict {
        self.machines[usize::from(machine.0)] = (at.index, at.index);
        let known = self.digests.get(&at.index);
        ensure(known.is_none_or(|known| *known == state), "I14", || {
            format!("{machine} restored snapshot {at} to another state than it was taken of")
        })
    }

    /// I13: the reference goes along with whoever is first.
    fn follow(&mut self, at: LogPosition, command: &Bytes) -> Verdict {
        if at.index <= self.reached {
            return Ok(());
        }
        self.reached = at.index;
        self.commands.resize(at.index.0 as usize, 0);
        self.commands.push(command_digest(command));
        self.reference.apply(at, command);
        if at.index.0.is_multiple_of(DIGEST_EVERY) {
            let state = A::digest(&self.reference);
            let known = *self.digests.entry(at.index).or_insert(state);
            return ensure(known == state, "I13", || {
                format!("the reference holds another state at {at}")
            });
        }
        Ok(())
    }
}

fn command_digest(command: &Bytes) -> u64 {
    // Never zero, which stands for no command.
    twox_hash::XxHash64::oneshot(0, command) | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Kv;
    use raft_core::types::Term;

    const ONE: Machine = Machine(0);
    const TWO: Machine = Machine(1);

    fn at(index: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(1))
    }

    fn says(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn rule(verdict: Verdict) -> &'static str {
        verdict.expect_err("a rule is broken").rule
    }

    #[test]
    fn i5_equal_index_equal_reply_and_state() {
        let mut states = States::<Kv>::default();
        assert!(states.applied(ONE, at(2), &says("a"), 7, None).is_ok());
        assert!(states.applied(TWO, at(2), &says("a"), 7, None).is_ok());
        assert_eq!(rule(states.applied(ONE, at(2), &says("a"), 7, None)), "I5");
        assert!(states.applied(ONE, at(3), &says("b"), 8, None).is_ok());
        assert_eq!(rule(states.applied(TWO, at(3), &says("b"), 9, None)), "I5");
        assert!(states.digested(Index(5), 1).is_ok());
        assert_eq!(rule(states.digested(Index(5), 2)), "I5");
    }

    #[test]
    fn i13_the_reference_agrees() {
        let mut states = States::<Kv>::default();
        assert!(states.applied(ONE, at(2), &says("a"), 7, None).is_ok());
        // Something else at 2, and something at 1 where the first one had nothing.
        assert_eq!(rule(states.applied(TWO, at(2), &says("b"), 7, None)), "I13");
        states.starts(TWO);
        assert_eq!(rule(states.applied(TWO, at(1), &says("c"), 7, None)), "I13");
        // The digest of the whole state at 16 is known from the reference itself.
        let state = Kv::digest(&states.reference);
        assert_eq!(rule(states.applied(ONE, at(16), &says("d"), 8, Some(state ^ 1))), "I5");
    }

    #[test]
    fn i14_a_restored_state_is_the_one_the_snapshot_was_taken_of() {
        let mut states = States::<Kv>::default();
        assert!(states.digested(Index(9), 5).is_ok());
        assert!(states.restored(TWO, at(9), 5).is_ok());
        assert!(states.applied(TWO, at(10), &says("a"), 1, None).is_ok());
        // Before it, nothing may be applied any more.
        assert_eq!(rule(states.applied(TWO, at(8), &says("a"), 1, None)), "I5");
        assert_eq!(rule(states.restored(TWO, at(9), 6)), "I14");
    }
}
