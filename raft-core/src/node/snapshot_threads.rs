//! The two threads that read and write snapshot files, so that neither a pass nor the log ever
//! waits for one: one writes snapshots of our own state, the other reads pieces of them, for
//! followers and for our own state machine. They know nothing of what a piece means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::handle::Shared;
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

/// What the writing thread does with an order. `stopping` ends it early.
pub(crate) fn write<S: StateMachine>(
    shared: &Shared<S>,
    snapshots: &Snapshots,
    stopping: &AtomicBool,
    order: SnapshotOrder,
) {
    let position = order.position;
    match write_file(snapshots, stopping, order) {
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

/// `None`: the node stops, and what was written is left to be removed at the next start.
fn write_file(
    snapshots: &Snapshots,
    stopping: &AtomicBool,
    mut order: SnapshotOrder,
) -> Result<Option<SnapshotMeta>, StorageError> {
    let mut writer = snapshots.writer(order.position, &order.membership)?;
    while let Some(piece) = order.source.next_piece() {
        if stopping.load(Ordering::Relaxed) {
            return Ok(None);
        }
        writer.piece(&piece)?;
    }
    writer.finish().map(Some)
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
