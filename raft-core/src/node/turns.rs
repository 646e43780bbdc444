//! Who makes a pass: whoever brings what calls for one, if nobody is at it; otherwise the raft thread
//! after it.
//!
//! To wake a thread costs more than most passes do. So the thread that has read a message from its
//! socket, or has synced the log, does not wake another one to say so: it makes the pass itself. The
//! raft thread is there for what nobody brings: deadlines, and what came in during somebody's pass.
//! A pass waits for nothing, so who makes one is soon back at its own work.
//!
//! Snapshot threads leave the pass to the raft thread ([`Inbox::leave`]): nobody shall wait for them.
//! So do clients of the library, who may hold locks that a pass takes; where the program says that they
//! do not ([`NodeOptions::callers_make_passes`]), one who proposes alone makes the pass.
//!
//! [`Inbox::leave`]: super::inbox::Inbox::leave
//! [`NodeOptions::callers_make_passes`]: super::NodeOptions::callers_make_passes

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::events::NodeFailure;
use super::handle::Shared;
use super::inbox::{Gather, Rest, Turn};
use super::{lock, worker};
use crate::state_machine::StateMachine;
use crate::types::Time;

/// The raft thread, from the first turn on: until the node was told to stop, or has failed.
pub(crate) fn run<S: StateMachine>(shared: &Shared<S>, mut turn: Turn) {
    while !shared.pass(turn) {
        turn = shared.inbox.wait_turn(shared.clock);
    }
    // Nobody else gets a turn any more. There is none to end if a pass has panicked.
    let stepper = lock(&shared.stepper).take();
    if let Some(stepper) = stepper {
        stepper.end();
    }
}

impl<S: StateMachine> Shared<S> {
    /// Makes the pass that was called for, if it fell to this thread.
    pub(crate) fn visit(&self, turn: Option<Turn>) {
        if let Some(turn) = turn {
            self.pass(turn);
        }
    }

    /// One pass. Says whether it was the last.
    fn pass(&self, turn: Turn) -> bool {
        // Never waited for: who has the turn is the only one to lock this.
        let mut stepper = lock(&self.stepper);
        let passed = stepper.as_mut().map(|it| catch_unwind(AssertUnwindSafe(|| it.pass())));
        let rest = match passed {
            Some(Ok(rest)) => rest,
            // The node is over. What it owned is dropped, which ends its other threads; the thread
            // that made the pass may have nothing to do with the fault, and goes on.
            Some(Err(_)) => {
                drop(stepper.take());
                self.abandon(NodeFailure::Panicked { thread: worker::RAFT });
                LAST
            }
            None => LAST,
        };
        drop(stepper);
        self.inbox.rest(turn, rest);
        rest.is_last
    }
}

/// After this nobody but the raft thread has a turn, and that one ends.
const LAST: Rest = Rest {
    gather: Gather { proposals: 0, reads: 0 },
    due: Time(0),
    is_stopping: true,
    is_last: true,
};
