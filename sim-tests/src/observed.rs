//! The state machine as the simulation runs it: the application's own, with a record of what went
//! through it, because a replica tells replies only to those who proposed.

use std::cell::RefCell;

use bytes::Bytes;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::types::LogPosition;

use crate::app::App;

/// An application's state, observed.
pub struct Observed<A: App> {
    inner: A::State,
    /// Digest of all replies since the last restore.
    chain: u64,
    applied: RefCell<Vec<Applied>>,
}

/// A command that went through a state machine.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Where it stands in the log.
    pub at: LogPosition,
    /// The command.
    pub command: Bytes,
    /// The chain of reply digests after it.
    pub reply: u64,
    /// The digest of the whole state, at some indexes.
    pub state: Option<u64>,
    /// What the application says is wrong with the state.
    pub fault: Option<String>,
}

impl<A: App> Observed<A> {
    /// An empty state.
    pub fn new() -> Observed<A> {
        Observed { inner: A::state(), chain: 0, applied: RefCell::default() }
    }

    /// The application's state.
    pub fn inner(&self) -> &A::State {
        &self.inner
    }

    /// What was applied since the last call, in order.
    pub fn take_applied(&self, into: &mut Vec<Applied>) {
        into.append(&mut self.applied.borrow_mut());
    }
}

impl<A: App> Default for Observed<A> {
    fn default() -> Observed<A> {
        Observed::new()
    }
}

impl<A: App> StateMachine for Observed<A> {
    type Reply = <A::State as StateMachine>::Reply;

    fn apply(&mut self, at: LogPosition, command: &Bytes) -> Self::Reply {
        let reply = self.inner.apply(at, command);
        self.chain =
            self.chain.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ A::digest_reply(&reply);
        let is_due = at.index.0.is_multiple_of(crate::trace::DIGEST_EVERY);
        let state = is_due.then(|| A::digest(&self.inner));
        let fault = if is_due { A::check(&self.inner).err() } else { None };
        let command = command.clone();
        self.applied.get_mut().push(Applied { at, command, reply: self.chain, state, fault });
        reply
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        self.inner.snapshot()
    }

    fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
        if step == Restore::End {
            self.chain = 0;
        }
        self.inner.restore(step)
    }
}
