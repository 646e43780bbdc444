//! The WAL thread: the only one that writes and syncs the log. It takes *all* writes that wait into
//! one batch with one sync; while that sync runs the next batch gathers. So there is no timer to
//! fill batches: the sync itself is the window.
//!
//! It decides nothing: the [`Keeper`] does. This is the queue in front of it and the clock beside it.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::events::{NodeEvent, NodeFailure};
use super::handle::Shared;
use super::lock;
use crate::keeper::{Keeper, Kept};
use crate::replica::Input;
use crate::state_machine::StateMachine;
use crate::storage::error::StorageError;
use crate::storage::{MadeSegment, MakeSegment, Removal, Storage, Written};
use crate::types::Time;
use crate::write::Write;

/// What waits for the WAL thread. Its bound is the core's: uncommitted bytes on a leader, bytes in
/// flight on a follower.
#[derive(Default)]
pub(crate) struct WalQueue {
    lane: Mutex<Lane>,
    arrived: Condvar,
}

#[derive(Default)]
struct Lane {
    writes: Vec<Write>,
    /// The segment that was asked for, or why there is none.
    made: Option<Result<MadeSegment, StorageError>>,
    closed: bool,
}

/// Work on the log's files that the log does not wait for.
pub(crate) enum FileJob {
    /// The next segment.
    Make(MakeSegment),
    /// Files that are not needed any more.
    Remove(Removal),
}

/// The thread's state; see the top of this file.
pub(crate) struct WalThread<S: StateMachine> {
    shared: Arc<Shared<S>>,
    keeper: Keeper,
    queue: Arc<WalQueue>,
    files: Sender<FileJob>,
    slow_sync: Duration,
}

/// What the files' thread does with a job.
pub(crate) fn keep_files<S: StateMachine>(shared: &Shared<S>, queue: &WalQueue, job: FileJob) {
    match job {
        FileJob::Make(job) => {
            let made = job.run();
            queue.made(made.map_err(|error| StorageError::io("the next segment", "make", error)));
        }
        FileJob::Remove(job) => {
            if let Err(error) = job.run() {
                log::error!("old files cannot be removed, the node stops: {error}");
                shared.fail(NodeFailure::Storage(error));
            }
        }
    }
}

impl WalQueue {
    /// One more write, of the next id.
    pub(crate) fn write(&self, write: Write) {
        lock(&self.lane).writes.push(write);
        self.arrived.notify_one();
    }

    /// What became of a segment that was asked for.
    pub(crate) fn made(&self, made: Result<MadeSegment, StorageError>) {
        lock(&self.lane).made = Some(made);
        self.arrived.notify_one();
    }

    /// There will be no more writes.
    pub(crate) fn close(&self) {
        lock(&self.lane).closed = true;
        self.arrived.notify_one();
    }

    /// Everything that waits; waits for it at most this long (`None`: for ever).
    fn take(&self, at_most: Option<Duration>) -> Lane {
        let mut lane = lock(&self.lane);
        let until = at_most.map(|at_most| Instant::now() + at_most);
        while lane.writes.is_empty() && lane.made.is_none() && !lane.closed {
            lane = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => super::wait(&self.arrived, lane),
                Some(Duration::ZERO) => break,
                Some(left) => super::wait_timeout(&self.arrived, lane, left),
            };
        }
        let closed = lane.closed;
        Lane { writes: std::mem::take(&mut lane.writes), made: lane.made.take(), closed }
    }
}

impl<S: StateMachine> WalThread<S> {
    pub(crate) fn new(
        shared: Arc<Shared<S>>,
        storage: Storage,
        queue: Arc<WalQueue>,
        files: Sender<FileJob>,
        slow_sync: Duration,
    ) -> WalThread<S> {
        WalThread { shared, keeper: Keeper::new(storage), queue, files, slow_sync }
    }

    /// Until the queue is closed and empty, or the disk fails.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.work() {
            log::error!("the log cannot be written any more, the node stops: {error}");
            self.shared.fail(NodeFailure::Storage(error));
        }
    }

    fn work(&mut self) -> Result<(), StorageError> {
        loop {
            // Their thread is gone only when it panicked, and then the node is over.
            if let Some(job) = self.keeper.segment_job(self.now()) {
                let _ = self.files.send(FileJob::Make(job));
            }
            if let Some(job) = self.keeper.removal() {
                let _ = self.files.send(FileJob::Remove(job));
            }
            let patience = self.shared.clock.until(self.keeper.deadline());
            let Lane { writes, made, closed } = self.queue.take(patience);
            if let Some(made) = made {
                self.keeper.adopt(self.now(), made);
            }
            let Kept { written, inputs } = self.keeper.work(self.now(), writes, closed)?;
            if let Some((written, writes)) = written {
                self.count(&written, writes.len() as u64);
            }
            self.tell(inputs);
            if closed {
                return Ok(());
            }
        }
    }

    fn now(&self) -> Time {
        self.shared.clock.now()
    }

    fn count(&self, written: &Written, writes: u64) {
        let counters = &self.shared.counters;
        let stats = self.keeper.storage().stats();
        counters.synced(written.sync_took, writes, written.bytes);
        counters.wal_segments.set(stats.segments as u64);
        counters.wal_bytes.set(stats.wal_bytes);
        if self.slow_sync < written.sync_took {
            counters.slow_syncs.add(1);
            self.shared.listeners.tell(&NodeEvent::SlowSync(written.sync_took));
        }
    }

    fn tell(&self, inputs: Vec<Input>) {
        if !inputs.is_empty() {
            self.shared.visit(self.shared.inbox.own(inputs));
        }
    }
}
