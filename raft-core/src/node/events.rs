//! What a node tells about itself as it happens, to anybody who listens: each listener has a
//! bounded queue of its own, so a slow one delays nobody.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::lock;
use crate::consensus::event::RoleName;
use crate::membership::Membership;
use crate::storage::error::StorageError;
use crate::types::{LogPosition, NodeId, Term};

/// Events a listener may leave lying; beyond it the oldest are dropped and counted.
const QUEUED_MAX: usize = 1024;

/// Something happened to a node.
#[derive(Clone, Debug)]
pub enum NodeEvent {
    /// Another leader, another term, another role, or the leader became ready to serve reads.
    Leadership {
        /// This node's term.
        term: Term,
        /// This node's part in it.
        role: RoleName,
        /// Who leads, as far as known.
        leader: Option<NodeId>,
        /// This node leads and has committed an entry of its own term.
        ready: bool,
    },
    /// This membership is in force from now on.
    Membership(Membership),
    /// The state machine is being replaced by a snapshot; nothing can be read meanwhile.
    Restoring(LogPosition),
    /// The state machine holds that snapshot.
    Restored(LogPosition),
    /// A snapshot of this node's state is durable.
    SnapshotTaken(LogPosition),
    /// A snapshot of this node's state could not be written; it is tried again later.
    SnapshotFailed(String),
    /// The disk is full (`false`): proposals are refused; or has room again (`true`).
    Room(bool),
    /// A sync took longer than the node's options call slow.
    SlowSync(Duration),
    /// The node is over: it votes, acknowledges and answers no more. The process should end.
    Failed(NodeFailure),
    /// The node was stopped and everything it was asked to keep is synced.
    Stopped,
}

/// Why a node is over.
#[derive(Clone, Debug)]
pub enum NodeFailure {
    /// A write or a sync failed.
    Storage(StorageError),
    /// The state machine could not be filled from a snapshot.
    Restore(String),
    /// One of the node's threads broke a rule of its own.
    Panicked {
        /// The thread's name.
        thread: &'static str,
    },
}

impl fmt::Display for NodeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeFailure::Storage(error) => write!(f, "the disk failed: {error}"),
            NodeFailure::Restore(why) => {
                write!(f, "the state could not be restored from its snapshot: {why}")
            }
            NodeFailure::Panicked { thread } => {
                write!(f, "the {thread} thread panicked; the log above says why")
            }
        }
    }
}

impl std::error::Error for NodeFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            NodeFailure::Storage(error) => Some(error),
            NodeFailure::Restore(_) | NodeFailure::Panicked { .. } => None,
        }
    }
}

/// The events of a node from the moment this was asked for. Dropping it ends the listening.
pub struct Receiver<E> {
    queue: Arc<Queue<E>>,
}

/// The sending side: all listeners of one node.
pub(crate) struct Listeners<E> {
    all: Mutex<All<E>>,
}

struct All<E> {
    queues: Vec<Weak<Queue<E>>>,
    closed: bool,
}

struct Queue<E> {
    lane: Mutex<Lane<E>>,
    arrived: Condvar,
}

struct Lane<E> {
    events: VecDeque<E>,
    missed: u64,
    closed: bool,
    waker: Option<Waker>,
}

impl<E> Receiver<E> {
    /// The next event; blocks until there is one. `None`: there will be no more.
    pub fn recv(&self) -> Option<E> {
        let mut lane = lock(&self.queue.lane);
        loop {
            match lane.next() {
                Poll::Ready(event) => return event,
                Poll::Pending => lane = super::wait(&self.queue.arrived, lane),
            }
        }
    }

    /// The next event, if one comes within this time.
    pub fn recv_timeout(&self, at_most: Duration) -> Option<E> {
        let until = Instant::now() + at_most;
        let mut lane = lock(&self.queue.lane);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match lane.next() {
                Poll::Ready(event) => return event,
                Poll::Pending if left.is_zero() => return None,
                Poll::Pending => lane = super::wait_timeout(&self.queue.arrived, lane, left),
            }
        }
    }

    /// The next event, if there is one.
    pub fn try_recv(&self) -> Option<E> {
        match lock(&self.queue.lane).next() {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        }
    }

    /// The next event, awaited. `None`: there will be no more.
    pub async fn next(&mut self) -> Option<E> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next event, polled; one task at a time.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<E>> {
        let mut lane = lock(&self.queue.lane);
        let next = lane.next();
        if next.is_pending() {
            lane.waker = Some(context.waker().clone());
        }
        next
    }

    /// How many events were dropped because they were not taken in time.
    pub fn missed(&self) -> u64 {
        lock(&self.queue.lane).missed
    }
}

impl<E> Lane<E> {
    fn next(&mut self) -> Poll<Option<E>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if self.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<E: Clone> Listeners<E> {
    /// Nobody listens yet.
    pub(crate) fn new() -> Listeners<E> {
        Listeners { all: Mutex::new(All { queues: Vec::new(), closed: false }) }
    }

    /// One more listener.
    pub(crate) fn listen(&self) -> Receiver<E> {
        let mut all = lock(&self.all);
        let lane = Lane { events: VecDeque::new(), missed: 0, closed: all.closed, waker: None };
        let queue = Arc::new(Queue { lane: Mutex::new(lane), arrived: Condvar::new() });
        all.queues.push(Arc::downgrade(&queue));
        Receiver { queue }
    }

    /// Tells everybody.
    pub(crate) fn tell(&self, event: &E) {
        lock(&self.all).each(|lane| {
            if lane.events.len() == QUEUED_MAX {
                lane.events.pop_front();
                lane.missed += 1;
            }
            lane.events.push_back(event.clone());
        });
    }

    /// There will be no more events.
    pub(crate) fn close(&self) {
        let mut all = lock(&self.all);
        all.closed = true;
        all.each(|lane| lane.closed = true);
    }
}

impl<E> All<E> {
    /// Changes every listener's lane and wakes who waits there; forgets listeners that are gone.
    fn each(&mut self, change: impl Fn(&mut Lane<E>)) {
        self.queues.retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            let mut lane = lock(&queue.lane);
            change(&mut lane);
            let waker = lane.waker.take();
            drop(lane);
            queue.arrived.notify_all();
            if let Some(waker) = waker {
                waker.wake();
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_listener_loses_the_oldest_and_knows_how_many() {
        let listeners = Listeners::new();
        let slow = listeners.listen();
        for event in 0..QUEUED_MAX + 3 {
            listeners.tell(&event);
        }
        listeners.close();
        assert_eq!(slow.missed(), 3);
        assert_eq!(slow.recv(), Some(3));
        assert_eq!(std::iter::from_fn(|| slow.recv()).count(), QUEUED_MAX - 1);
    }

    #[test]
    fn a_listener_that_is_gone_is_forgotten() {
        let listeners = Listeners::new();
        let stays = listeners.listen();
        drop(listeners.listen());
        listeners.tell(&1);
        assert_eq!(lock(&listeners.all).queues.len(), 1);
        assert_eq!(stays.try_recv(), Some(1));
        assert_eq!(stays.try_recv(), None);
    }
}
