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
    steps: RefCell<Vec<Step>>,
}

/// Something that went through a state machine.
#[derive(Clone, Debug)]
pub enum Step {
    /// A command.
    Applied {
        /// Where it stands in the log.
        at: LogPosition,
        /// Its bytes.
        command: Bytes,
        /// The chain of reply digests after it.
        reply: u64,
        /// The digest of the whole state, at some indexes.
        state: Option<u64>,
    },
    /// A snapshot took the place of the state.
    Restored {
        /// The digest of the whole state.
        state: u64,
    },
    /// The application finds its state wrong.
    Fault {
        /// After which entry.
        at: LogPosition,
        /// What is wrong.
        what: String,
    },
}

impl<A: App> Observed<A> {
    /// An empty state.
    pub fn new() -> Observed<A> {
        Observed { inner: A::state(), chain: 0, steps: RefCell::default() }
    }

    /// The application's state.
    pub fn inner(&self) -> &A::State {
        &self.inner
    }

    /// What went through since the last call, in order.
    pub fn take_steps(&self, into: &mut Vec<Step>) {
        into.append(&mut self.steps.borrow_mut());
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
        let command = command.clone();
        self.steps.get_mut().push(Step::Applied { at, command, reply: self.chain, state });
        if is_due && let Err(what) = A::check(&self.inner) {
            self.steps.get_mut().push(Step::Fault { at, what });
        }
        reply
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        self.inner.snapshot()
    }

    fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
        let ends = step == Restore::End;
        self.inner.restore(step)?;
        if ends {
            self.chain = 0;
            self.steps.get_mut().push(Step::Restored { state: A::digest(&self.inner) });
        }
        Ok(())
    }
}
