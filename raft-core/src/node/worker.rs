//! The node's threads beside the raft thread: each does its jobs in order, and none of them leaves
//! the others hanging when it panics.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use super::events::NodeFailure;
use super::handle::Shared;
use crate::state_machine::StateMachine;

/// The raft thread's name.
pub(crate) const RAFT: &str = "raft";

/// Starts a thread that belongs to a node: its panic is the node's failure.
pub(crate) fn spawn<S: StateMachine>(
    shared: &Arc<Shared<S>>,
    name: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let watch = PanicWatch { shared: Arc::clone(shared), thread: name };
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Dropped last, after everything the body owned.
        let _watch = watch;
        body();
    })
}

/// Starts a thread that does what it is sent, in order, until the sender is dropped. Its queue has
/// no bound of its own: who sends knows how many jobs it has under way.
pub(crate) fn jobs<S: StateMachine, J: Send + 'static>(
    shared: &Arc<Shared<S>>,
    name: &'static str,
    mut work: impl FnMut(J) + Send + 'static,
) -> io::Result<(Sender<J>, JoinHandle<()>)> {
    let (sender, receiver) = channel();
    let thread = spawn(shared, name, move || receiver.into_iter().for_each(&mut work))?;
    Ok((sender, thread))
}

struct PanicWatch<S: StateMachine> {
    shared: Arc<Shared<S>>,
    thread: &'static str,
}

impl<S: StateMachine> Drop for PanicWatch<S> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let failure = NodeFailure::Panicked { thread: self.thread };
        if self.thread == RAFT {
            self.shared.abandon(failure);
        } else {
            self.shared.fail(failure);
        }
    }
}
