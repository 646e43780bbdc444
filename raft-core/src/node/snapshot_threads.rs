//! The two threads that read and write snapshot files, so that neither a pass nor the log ever
//! waits for one: one writes snapshots of our own state, the other reads pieces of them, for
//! followers and for our own state machine. They know nothing of what a piece means.

use std::sync::Arc;

use super::handle::Shared;
use super::pace::{Pace, Stopping};
use crate::consensus::event::ChunkRequest;
use crate::keeper::PieceReader;
use crate::replica::{Input, PieceRequest, SnapshotOrder};
use crate::state_machine::StateMachine;
use crate::storage::error::StorageError;
use crate::storage::snapshot::Snapshots;
use crate::write::SnapshotMeta;

/// Something to read from a snapshot file.
pub(crate) enum ReadJob {
    /// Bytes for a follower.
    Chunk(ChunkRequest),
    /// A piece for our own state machine.
    Piece(PieceRequest),
}

/// What the writing thread does with an order, unhurried. `stopping` ends it early.
pub(crate) fn write<S: StateMachine>(
    shared: &Shared<S>,
    snapshots: &Snapshots,
    stopping: &Stopping,
    order: SnapshotOrder,
) {
    let position = order.position;
    let pace = Pace::begin(stopping, &shared.counters.written_bytes);
    match write_file(snapshots, pace, order) {
        Ok(Some(meta)) => {
            shared.counters.snapshots_taken.add(1);
            shared.tell([Input::SnapshotWritten(meta)]);
        }
        Ok(None) => {}
        Err(error) => {
            log::warn!("snapshot {position} could not be written: {error}");
            shared.counters.snapshots_failed.add(1);
            shared.tell([Input::SnapshotFailed(error.to_string())]);
        }
    }
}

/// Piece by piece, with a rest after each. `None`: the node stops, and nothing is left of the file.
fn write_file(
    snapshots: &Snapshots,
    mut pace: Pace<'_>,
    mut order: SnapshotOrder,
) -> Result<Option<SnapshotMeta>, StorageError> {
    let mut writer = snapshots.writer(order.position, &order.membership)?;
    while let Some(piece) = order.source.next_piece() {
        writer.piece(&piece)?;
        if !pace.rest() {
            return Ok(None);
        }
    }
    // As long as the view lives, each change of the state copies what the two share.
    drop(order);
    let mut sealed = writer.seal()?;
    while sealed.check_piece()? {
        if !pace.rest() {
            return Ok(None);
        }
    }
    sealed.publish().map(Some)
}

/// The reading thread.
pub(crate) struct Reading<S: StateMachine> {
    shared: Arc<Shared<S>>,
    pieces: PieceReader,
}

impl<S: StateMachine> Reading<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, snapshots: Snapshots) -> Reading<S> {
        Reading { shared, pieces: PieceReader::new(snapshots) }
    }

    pub(crate) fn read(&mut self, job: ReadJob) {
        let input = match job {
            ReadJob::Chunk(request) => self.pieces.chunk(request),
            ReadJob::Piece(request) => self.pieces.piece(&request),
        };
        self.shared.tell([input]);
    }
}
