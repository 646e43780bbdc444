//! Floor 3, *joins*: the log's side of a replica. A [`Keeper`] carries out the writes that wait, all
//! in one batch with one sync, and sees to it that the log can always be written: the next segment
//! is asked for ahead of need, an empty batch proves the last real one when the log falls quiet, and
//! a full disk is waited out with nothing lost. A [`PieceReader`] reads snapshots for followers and
//! for our own state machine.
//!
//! Neither runs a thread or knows a clock: the threads of a node and the simulator drive the same
//! code and tell it the time. What they have to tell the replica comes back as [`Input`]s. Any
//! failure but a want of room is the end: a sync is never tried again.

use std::time::Duration;

use crate::consensus::event::ChunkRequest;
use crate::replica::{Input, PieceRequest};
use crate::storage::error::StorageError;
use crate::storage::snapshot::{SnapshotReader, Snapshots};
use crate::storage::{MadeSegment, MakeSegment, Removal, Storage, Written};
use crate::types::{LogPosition, Time};
use crate::write::Write;

/// How long the log is silent before its last batch is proven by an empty one.
const QUIET_AFTER: Duration = Duration::from_millis(5);

/// How long after the disk was full the next attempt is made.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The storage of a running node and what it still has to do; see the top of this file.
pub struct Keeper {
    storage: Storage,
    /// Writes that are not in the log yet, oldest first: more than one pass only while it is full.
    kept: Vec<Write>,
    /// Writing found the disk full: not tried again before this.
    write_again: Option<Time>,
    /// The next segment could not be made the last time: not tried again before this.
    segment_again: Option<Time>,
    /// What the replica believes.
    room: bool,
    /// A batch was written after the last empty one, and when the log will have been silent since.
    unproven: Option<Time>,
}

/// What a pass of the keeper came to.
#[derive(Debug, Default)]
pub struct Kept {
    /// The batch that was written and synced, if one was, and the writes in it.
    pub written: Option<(Written, Vec<Write>)>,
    /// To be stepped into the replica, in this order.
    pub inputs: Vec<Input>,
}

impl Keeper {
    /// Keeps this storage, which is just open.
    pub fn new(storage: Storage) -> Keeper {
        Keeper {
            storage,
            kept: Vec::new(),
            write_again: None,
            segment_again: None,
            room: true,
            unproven: None,
        }
    }

    /// The storage, to look at.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The job to make the next segment, when one is needed and may be tried. To be run elsewhere;
    /// then [`Keeper::adopt`] what came of it.
    pub fn segment_job(&mut self, now: Time) -> Option<MakeSegment> {
        if !is_past(self.segment_again, now) {
            return None;
        }
        let job = self.storage.needs_segment();
        if job.is_some() {
            self.segment_again = None;
        }
        job
    }

    /// What became of a segment. Whatever the reason there is none: the log goes on in the one it
    /// has, and clients' writes are refused before that is full.
    pub fn adopt(&mut self, now: Time, made: Result<MadeSegment, StorageError>) {
        match made {
            Ok(made) => self.storage.adopt(made),
            Err(error) => self.segment_again = Some(later(now, &error)),
        }
    }

    /// The job to remove files that are not needed any more, if there is one. To be run elsewhere, one
    /// after the other; a failure is the end.
    pub fn removal(&mut self) -> Option<Removal> {
        self.storage.removal()
    }

    /// Does what is to be done now: these writes and those kept from before in one batch with one
    /// sync, or the empty batch once the log has been silent. The writes come in the order of their
    /// ids. With `closing` nothing is put off; what cannot be written then is given up.
    pub fn work(
        &mut self,
        now: Time,
        mut writes: Vec<Write>,
        closing: bool,
    ) -> Result<Kept, StorageError> {
        let mut kept = Kept::default();
        self.kept.append(&mut writes);
        if !self.kept.is_empty() {
            if closing || is_past(self.write_again, now) {
                self.write(now, &mut kept)?;
            }
        } else if self.unproven.is_some_and(|since| closing || since <= now) {
            self.prove()?;
        }
        if closing && self.kept.is_empty() && self.unproven.is_some() {
            self.prove()?;
        }
        self.tell_room(&mut kept);
        Ok(kept)
    }

    /// When [`Keeper::work`] or [`Keeper::segment_job`] is next useful, if nothing comes in.
    pub fn deadline(&self) -> Time {
        let quiet = if self.kept.is_empty() { self.unproven } else { None };
        let times = [quiet, self.write_again, self.segment_again];
        times.into_iter().flatten().min().unwrap_or(Time::NEVER)
    }

    /// Whether [`Keeper::work`] would touch the disk now, also without new writes.
    pub fn is_due(&self, now: Time) -> bool {
        if self.kept.is_empty() {
            self.unproven.is_some_and(|since| since <= now)
        } else {
            is_past(self.write_again, now)
        }
    }

    /// One batch, one sync.
    fn write(&mut self, now: Time, kept: &mut Kept) -> Result<(), StorageError> {
        let written = match self.storage.write(&self.kept) {
            Err(error @ StorageError::NoSpace { .. }) => {
                self.write_again = Some(later(now, &error));
                return Ok(());
            }
            written => written?,
        };
        self.write_again = None;
        self.unproven = Some(now + QUIET_AFTER);
        let failed = written.install_failed.iter().copied().map(Input::InstallFailed);
        kept.inputs.extend(failed);
        kept.inputs.push(Input::Persisted(written.last));
        kept.written = Some((written, std::mem::take(&mut self.kept)));
        Ok(())
    }

    /// The empty batch.
    fn prove(&mut self) -> Result<(), StorageError> {
        self.unproven = None;
        match self.storage.quiet() {
            // The next batch will prove it, once there is room for one.
            Ok(()) | Err(StorageError::NoSpace { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells the replica when room is lost or found.
    fn tell_room(&mut self, kept: &mut Kept) {
        let room =
            self.write_again.is_none() && (self.segment_again.is_none() || self.storage.has_room());
        if room != self.room {
            self.room = room;
            kept.inputs.push(Input::Room(room));
        }
    }
}

fn later(now: Time, error: &StorageError) -> Time {
    log::debug!("no room for more log: {error}");
    now + RETRY_AFTER
}

fn is_past(moment: Option<Time>, now: Time) -> bool {
    moment.is_none_or(|moment| moment <= now)
}

/// Reads snapshots; the file it reads for our own state stays open between pieces.
pub struct PieceReader {
    snapshots: Snapshots,
    restoring: Option<(LogPosition, SnapshotReader)>,
}

impl PieceReader {
    /// Reads these.
    pub fn new(snapshots: Snapshots) -> PieceReader {
        PieceReader { snapshots, restoring: None }
    }

    /// Bytes for a follower.
    pub fn chunk(&self, request: ChunkRequest) -> Input {
        let ChunkRequest { meta, offset, length, .. } = &request;
        let data = self.snapshots.read_chunk(meta, *offset, *length);
        Input::Chunk { request, data }
    }

    /// A piece for our own state machine.
    pub fn piece(&mut self, request: &PieceRequest) -> Input {
        let of = request.meta.position;
        let piece = self.read_piece(request).map_err(|error| error.to_string());
        Input::Piece { of, number: request.number, piece }
    }

    fn read_piece(&mut self, request: &PieceRequest) -> Result<Option<bytes::Bytes>, StorageError> {
        let of = request.meta.position;
        if request.number == 0 {
            self.restoring = Some((of, self.snapshots.reader(of)?));
        }
        let Some((_, reader)) = self.restoring.as_mut().filter(|(open, _)| *open == of) else {
            unreachable!("pieces are asked for in order, from 0 on")
        };
        let piece = reader.next_piece()?;
        if piece.is_none() {
            self.restoring = None;
        }
        Ok(piece)
    }
}
