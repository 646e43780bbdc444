//! The two threads that read and write snapshot files, so that neither the raft thread nor the log
//! ever waits for one: one writes snapshots of our own state, the other reads pieces of them, for
//! followers and for our own state machine. They know nothing of what a piece means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::handle::Shared;
use crate::consensus::event::ChunkRequest;
use crate::replica::{Input, PieceRequest, SnapshotOrder};
use crate::state_machine::StateMachine;
use crate::storage::error::StorageError;
use crate::storage::snapshot::{SnapshotReader, Snapshots};
use crate::types::LogPosition;
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
            shared.inbox.own([Input::SnapshotWritten(meta)]);
        }
        Ok(None) => {}
        Err(error) => {
            log::warn!("snapshot {position} could not be written: {error}");
            shared.counters.snapshots_failed.add(1);
            shared.inbox.own([Input::SnapshotFailed(error.to_string())]);
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

/// The reading thread: the file it reads for our own state stays open between pieces.
pub(crate) struct Reading<S: StateMachine> {
    shared: Arc<Shared<S>>,
    snapshots: Snapshots,
    restoring: Option<(LogPosition, SnapshotReader)>,
}

impl<S: StateMachine> Reading<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, snapshots: Snapshots) -> Reading<S> {
        Reading { shared, snapshots, restoring: None }
    }

    pub(crate) fn read(&mut self, job: ReadJob) {
        let input = match job {
            ReadJob::Chunk(request) => {
                let ChunkRequest { meta, offset, length, .. } = &request;
                let data = self.snapshots.read_chunk(meta, *offset, *length);
                Input::Chunk { request, data }
            }
            ReadJob::Piece(request) => {
                let of = request.meta.position;
                let piece = self.piece(&request).map_err(|error| error.to_string());
                Input::Piece { of, number: request.number, piece }
            }
        };
        self.shared.inbox.own([input]);
    }

    fn piece(&mut self, request: &PieceRequest) -> Result<Option<bytes::Bytes>, StorageError> {
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
