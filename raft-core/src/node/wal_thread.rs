//! The WAL thread: the only one that writes and syncs the log. It takes *all* writes that wait into
//! one batch with one sync; while that sync runs the next batch gathers. So there is no timer to
//! fill batches: the sync itself is the window.
//!
//! It also keeps the log ready to be written: asks for the next segment ahead of need, and writes an
//! empty batch when the log falls quiet, so that the last real one is proven. A full disk is waited
//! out with nothing lost; any other failure is the end of the node: a sync is never tried again.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::events::{NodeEvent, NodeFailure};
use super::handle::Shared;
use super::lock;
use crate::replica::Input;
use crate::state_machine::StateMachine;
use crate::storage::error::StorageError;
use crate::storage::{MadeSegment, MakeSegment, Storage};
use crate::write::Write;

/// How long the log is silent before its last batch is proven by an empty one.
const QUIET_AFTER: Duration = Duration::from_millis(5);

/// How long after the disk was full the next attempt is made.
const RETRY_AFTER: Duration = Duration::from_millis(250);

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

/// The thread's state; see the top of this file.
pub(crate) struct WalThread<S: StateMachine> {
    shared: Arc<Shared<S>>,
    storage: Storage,
    queue: Arc<WalQueue>,
    segments: Sender<MakeSegment>,
    /// Writes that are not in the log yet, oldest first: more than one pass only while it is full.
    kept: Vec<Write>,
    /// Writing found the disk full: not tried again before this.
    write_again: Option<Instant>,
    /// The next segment could not be made the last time: not tried again before this.
    segment_again: Option<Instant>,
    lacks_segment: bool,
    /// What the raft thread believes.
    room: bool,
    /// A batch was written after the last empty one.
    unproven: bool,
    slow_sync: Duration,
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
        segments: Sender<MakeSegment>,
        slow_sync: Duration,
    ) -> WalThread<S> {
        WalThread {
            shared,
            storage,
            queue,
            segments,
            kept: Vec::new(),
            write_again: None,
            segment_again: None,
            lacks_segment: false,
            room: true,
            unproven: false,
            slow_sync,
        }
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
            self.ask_for_segment();
            let Lane { mut writes, made, closed } = self.queue.take(self.patience());
            if let Some(made) = made {
                self.adopt(made);
            }
            let is_quiet = writes.is_empty();
            self.kept.append(&mut writes);
            if !self.kept.is_empty() {
                if closed || is_past(self.write_again) {
                    self.write()?;
                }
            } else if is_quiet && self.unproven {
                self.prove()?;
            }
            self.tell_room();
            if closed {
                return if self.kept.is_empty() { self.prove() } else { Ok(()) };
            }
        }
    }

    /// How long nothing has to be done unless something comes in.
    fn patience(&self) -> Option<Duration> {
        let quiet = (self.unproven && self.kept.is_empty()).then_some(QUIET_AFTER);
        let again = [self.write_again, self.segment_again].into_iter().flatten().min();
        let again = again.map(|again| again.saturating_duration_since(Instant::now()));
        quiet.into_iter().chain(again).min()
    }

    /// One batch, one sync.
    fn write(&mut self) -> Result<(), StorageError> {
        let count = self.kept.len() as u64;
        let written = match self.storage.write(&self.kept) {
            Err(error @ StorageError::NoSpace { .. }) => {
                self.write_again = Some(Self::later(&error));
                return Ok(());
            }
            written => written?,
        };
        self.kept.clear();
        self.write_again = None;
        self.unproven = true;
        let stats = self.storage.stats();
        self.shared.counters.synced(written.sync_took, count, written.bytes);
        self.shared.counters.wal_segments.set(stats.segments as u64);
        self.shared.counters.wal_bytes.set(stats.wal_bytes);
        if self.slow_sync < written.sync_took {
            log::warn!("a sync of {} bytes took {:?}", written.bytes, written.sync_took);
            self.shared.counters.slow_syncs.add(1);
            self.shared.listeners.tell(&NodeEvent::SlowSync(written.sync_took));
        }
        let failed = written.install_failed.into_iter().map(Input::InstallFailed);
        self.shared.inbox.own(failed.chain([Input::Persisted(written.last)]));
        Ok(())
    }

    /// The empty batch.
    fn prove(&mut self) -> Result<(), StorageError> {
        match self.storage.quiet() {
            Ok(()) => self.unproven = false,
            // The next batch will prove it, once there is room for one.
            Err(StorageError::NoSpace { .. }) => self.unproven = false,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn ask_for_segment(&mut self) {
        if is_past(self.segment_again)
            && let Some(job) = self.storage.needs_segment()
        {
            self.segment_again = None;
            // Its thread is gone only when it panicked, and then the node is over.
            let _ = self.segments.send(job);
        }
    }

    fn adopt(&mut self, made: Result<MadeSegment, StorageError>) {
        match made {
            Ok(made) => self.storage.adopt(made),
            // Whatever the reason: the log goes on in the segment there is, and clients' writes
            // are refused before that is full.
            Err(ref error) => self.segment_again = Some(Self::later(error)),
        }
        self.lacks_segment = self.segment_again.is_some();
    }

    fn later(error: &StorageError) -> Instant {
        log::debug!("no room for more log: {error}");
        Instant::now() + RETRY_AFTER
    }

    /// Tells the raft thread when room is lost or found.
    fn tell_room(&mut self) {
        let room =
            self.write_again.is_none() && (self.segment_again.is_none() || self.storage.has_room());
        if room == self.room {
            return;
        }
        self.room = room;
        if room {
            log::info!("there is room for the log again: proposals are accepted");
        } else {
            log::warn!("the disk has no room for more log: proposals are refused, reads go on");
        }
        self.shared.inbox.own([Input::Room(room)]);
    }
}

fn is_past(moment: Option<Instant>) -> bool {
    moment.is_none_or(|moment| moment <= Instant::now())
}
