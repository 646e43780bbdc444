//! The lanes of storage: the log's thread, the segment maker, the removal of old files, snapshots out
//! and snapshots in.
//!
//! Each call takes its time first and happens at the end of it.

use std::time::Duration;

use raft_core::replica::Input;
use raft_core::storage::error::StorageError;
use raft_core::storage::snapshot::Snapshots;
use raft_core::types::Time;
use raft_core::write::SnapshotMeta;

use crate::app::App;
use crate::marks::Mark;
use crate::plan::Machine;
use crate::queue::Event;
use crate::trace::Seen;
use crate::world::World;

use super::end::exit_of;
use super::{ReadJob, Writing};

/// The log's thread, the segment maker, and the snapshot threads.
impl<A: App> World<A> {
    pub(super) fn sync_time(&mut self, machine: Machine) -> Duration {
        self.place(machine).disk.next_call_takes()
    }

    /// A call to the disk of this machine ends after this long, also when its disk is quick again.
    fn disk_done(&mut self, machine: Machine, takes: Duration, event: Event) {
        let until = self.now + takes;
        let place = self.place(machine);
        place.disk_until = place.disk_until.max(until);
        self.later(takes, event);
    }

    /// Begins what the log's thread has to do, if it is free.
    pub(crate) fn run_log(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let (local, life, clock) = (place.clock.read(now), place.life, place.clock);
        let Some(running) = place.running_mut() else { return };
        if running.log.running.is_some() {
            return;
        }
        if running.making.is_none()
            && let Some(job) = running.keeper.segment_job(local)
        {
            running.making = Some(job);
            let takes = self.sync_time(machine) * 2;
            self.disk_done(machine, takes, Event::SegmentDone(machine, life));
        }
        self.begin_removal(machine);
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let due = running.keeper.is_due(local);
        let poked = std::mem::take(&mut running.log.poked);
        if poked || due || !running.log.waiting.is_empty() {
            running.log.running = Some(std::mem::take(&mut running.log.waiting));
            let takes = self.sync_time(machine);
            return self.disk_done(machine, takes, Event::LogDone(machine, life));
        }
        let at = clock.when(running.keeper.deadline()).max(now);
        if at < Time::NEVER && running.log.due_at.is_none_or(|due| at < due) {
            running.log.due_at = Some(at);
            self.queue.push(at, Event::LogDue(machine, life));
        }
    }

    /// The log's thread looks at the time.
    pub(crate) fn log_due(&mut self, machine: Machine) {
        let now = self.now;
        if let Some(running) = self.places[usize::from(machine.0)].running_mut()
            && running.log.due_at.is_some_and(|due| due <= now)
        {
            running.log.due_at = None;
            self.run_log(machine);
        }
    }

    /// The storage call has taken its time: now it happens.
    pub(crate) fn log_done(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let local = place.clock.read(now);
        let Some(running) = place.running_mut() else { return };
        let writes = running.log.running.take().expect("only what runs is done");
        match running.keeper.work(local, writes, false) {
            Ok(kept) => {
                for input in &kept.inputs {
                    match input {
                        Input::Room(false) => self.marks.hit(Mark::NoRoom),
                        Input::Room(true) => self.marks.hit(Mark::RoomAgain),
                        Input::InstallFailed(_) => self.marks.hit(Mark::InstallFailed),
                        _ => {}
                    }
                }
                let waits = !kept.inputs.is_empty();
                if let Some(running) = self.places[usize::from(machine.0)].running_mut() {
                    running.lanes.own.extend(kept.inputs);
                }
                if let Some((written, writes)) = kept.written {
                    if 1 < writes.len() {
                        self.marks.hit(Mark::GroupCommit);
                    }
                    let through = written.last;
                    self.see(Seen::Persisted { machine, through, writes: &writes });
                }
                self.run_log(machine);
                if waits {
                    self.poke(machine);
                }
            }
            Err(error) => self.fail(machine, exit_of(&error)),
        }
    }

    /// A segment has been made, or not.
    pub(crate) fn segment_done(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let local = place.clock.read(now);
        let Some(running) = place.running_mut() else { return };
        let job = running.making.take().expect("only what is being made is done");
        let made = job.run().map_err(|error| StorageError::io("the next segment", "make", error));
        running.keeper.adopt(local, made);
        running.log.poked = true;
        self.run_log(machine);
    }

    /// Begins to remove what is not needed any more, one job at a time.
    fn begin_removal(&mut self, machine: Machine) {
        let place = self.place(machine);
        let life = place.life;
        let Some(running) = place.running_mut() else { return };
        if running.removing.is_none()
            && let Some(job) = running.keeper.removal()
        {
            running.removing = Some(job);
            let takes = self.sync_time(machine);
            self.disk_done(machine, takes, Event::RemovalDone(machine, life));
        }
    }

    /// Old files are gone, or the disk failed.
    pub(crate) fn removal_done(&mut self, machine: Machine) {
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let job = running.removing.take().expect("only what is being removed is done");
        match job.run() {
            Ok(()) => self.begin_removal(machine),
            Err(error) => self.fail(machine, exit_of(&error)),
        }
    }

    pub(super) fn schedule_snapshot_step(&mut self, machine: Machine, syncs: bool) {
        let takes = if syncs { self.sync_time(machine) } else { Duration::ZERO };
        let place = self.place(machine);
        let life = place.life;
        let takes = takes
            + place.slow
            + place.rng.span(Duration::from_micros(20), Duration::from_micros(400));
        self.disk_done(machine, takes, Event::SnapshotStep(machine, life));
    }

    /// One piece of a snapshot is written, or its end.
    pub(crate) fn snapshot_step(&mut self, machine: Machine) {
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let Some(mut writing) = running.writing.take() else { return };
        let position = writing.position;
        let step = snapshot_piece(&running.snapshots, &mut writing);
        match step {
            Ok(None) => {
                running.writing = Some(writing);
                let ends = running.writing.as_ref().is_some_and(|it| it.ended);
                self.schedule_snapshot_step(machine, ends);
            }
            Ok(Some(meta)) => {
                running.lanes.own.push(Input::SnapshotWritten(meta.clone()));
                self.marks.hit(Mark::SnapshotTaken);
                self.see(Seen::SnapshotWritten { machine, meta: &meta });
                self.poke(machine);
            }
            Err(error) => {
                running.lanes.own.push(Input::SnapshotFailed(error.to_string()));
                self.marks.hit(Mark::SnapshotFailed);
                self.see(Seen::SnapshotFailed { machine, position });
                self.poke(machine);
            }
        }
    }

    pub(super) fn schedule_read(&mut self, machine: Machine) {
        let place = self.place(machine);
        let life = place.life;
        let takes =
            place.slow + place.rng.span(Duration::from_micros(20), Duration::from_micros(400));
        self.later(takes, Event::ReadDone(machine, life));
    }

    /// A piece of a snapshot has been read.
    pub(crate) fn read_done(&mut self, machine: Machine) {
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let Some(job) = running.reading.pop_front() else { return };
        let input = match job {
            ReadJob::Chunk(request) => running.pieces.chunk(request),
            ReadJob::Piece(request) => running.pieces.piece(&request),
        };
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let more = !running.reading.is_empty();
        running.lanes.own.push(input);
        if more {
            self.schedule_read(machine);
        }
        self.poke(machine);
    }
}

/// One step of writing a snapshot: its beginning, a piece, or its end (with the meta).
pub(super) fn snapshot_piece(
    snapshots: &Snapshots,
    writing: &mut Writing,
) -> Result<Option<SnapshotMeta>, StorageError> {
    let Some(writer) = &mut writing.writer else {
        writing.writer = Some(snapshots.writer(writing.position, &writing.membership)?);
        return Ok(None);
    };
    if writing.ended {
        let writer = writing.writer.take().expect("it was just there");
        return writer.finish().map(Some);
    }
    match writing.source.next_piece() {
        Some(piece) => writer.piece(&piece)?,
        None => writing.ended = true,
    }
    Ok(None)
}
