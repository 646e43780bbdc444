//! The two closed types through which a replica meets the world: what may happen to it ([`Input`]),
//! and what it asks for ([`Work`]). They are those of the core (`consensus/event.rs`), less what a
//! replica does itself (applying), and with the clients' deadlines, reads and snapshots added.

use bytes::Bytes;

use crate::consensus::event::{ChunkRequest, Note, TransferFailure};
use crate::membership::Membership;
use crate::message::Message;
use crate::proposals::{Outcome, ReadRefused};
use crate::state_machine::SnapshotSource;
use crate::types::{Index, LogPosition, NodeId, ProposalId, ReadId, Time, WriteId};
use crate::write::{SnapshotMeta, Write};

/// Names an operator's order (a transfer, a snapshot) between its giver and the replica; chosen by
/// the giver, never reused by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);

/// Anything that can happen to a replica.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed; useful at the replica's deadline, harmless before.
    Wake,
    /// A message came in. Whatever it holds, it cannot panic the replica.
    Receive(Message),
    /// A client proposes a command. How it ends is in [`Work::answers`].
    Propose {
        /// Chosen by the proposer.
        id: ProposalId,
        /// Handed to the state machine as it is.
        command: Bytes,
        /// When the proposer stops waiting; may be [`Time::NEVER`].
        deadline: Time,
    },
    /// A client wants to read. The answer is in [`Work::reads`].
    Read {
        /// Chosen by the reader.
        id: ReadId,
        /// When the reader stops waiting; may be [`Time::NEVER`].
        deadline: Time,
    },
    /// This write and all before it are synced.
    Persisted(WriteId),
    /// The bytes of a received snapshot were not what its meta says; comes before the `Persisted`
    /// of the write that asked for the install.
    InstallFailed(LogPosition),
    /// The disk has no room for what clients may propose (`false`), or has it again (`true`).
    Room(bool),
    /// The disk failed, or a thread of the node: what is durable is not known. Ends the replica; see
    /// [`Replica::is_over`](super::Replica::is_over).
    Failed,
    /// The answer to a [`ChunkRequest`]; `None` when that snapshot cannot be read (any more).
    Chunk {
        /// The request this answers.
        request: ChunkRequest,
        /// Exactly the bytes asked for.
        data: Option<Bytes>,
    },
    /// The answer to a [`PieceRequest`].
    Piece {
        /// The snapshot that was asked for.
        of: LogPosition,
        /// The number that was asked for.
        number: u64,
        /// The piece; `Ok(None)` after the last one; `Err` when it cannot be read, and why.
        piece: Result<Option<Bytes>, String>,
    },
    /// The snapshot that [`Work::snapshot`] asked for is durable under its name.
    SnapshotWritten(SnapshotMeta),
    /// The snapshot that [`Work::snapshot`] asked for could not be written, and why.
    SnapshotFailed(String),
    /// An operator wants a snapshot now. The answer is in [`Work::snapshots_taken`].
    SnapshotNow {
        /// Chosen by who asks.
        id: OrderId,
    },
    /// Hand leadership to this node, or to the best follower. The answer is in [`Work::transfers`].
    Transfer {
        /// Chosen by who asks.
        id: OrderId,
        /// The wanted leader.
        to: Option<NodeId>,
    },
    /// The process of this peer is gone; only a hint.
    PeerDown(NodeId),
    /// The node stops: whoever waits is answered now. Ends the replica.
    Stop,
}

/// What one or more steps ask for. As with the core's effects, all of it may be carried out at once
/// and in any order; writes in the order of their ids.
pub struct Work<R> {
    /// To be made durable; answer with [`Input::Persisted`].
    pub write: Option<Write>,
    /// Safe to send, now.
    pub send: Vec<Message>,
    /// Pieces of a snapshot file to read for a follower; answer each with [`Input::Chunk`].
    pub chunks: Vec<ChunkRequest>,
    /// A piece of a snapshot to read for our own state machine; answer with [`Input::Piece`]. At
    /// most one is under way.
    pub restore: Option<PieceRequest>,
    /// How proposals ended. Each proposal is in here exactly once.
    pub answers: Vec<(ProposalId, Outcome<R>)>,
    /// Reads that may be answered from the state as it is now (it holds this index), or why not.
    /// Each read is in here exactly once.
    pub reads: Vec<(ReadId, Result<Index, ReadRefused>)>,
    /// A snapshot to write; answer with [`Input::SnapshotWritten`] or [`Input::SnapshotFailed`]. At
    /// most one is under way.
    pub snapshot: Option<SnapshotOrder>,
    /// How operators' orders for a snapshot ended.
    pub snapshots_taken: Vec<(OrderId, Result<SnapshotMeta, SnapshotRefused>)>,
    /// How operators' transfers of leadership ended.
    pub transfers: Vec<(OrderId, Result<NodeId, TransferFailure>)>,
    /// What happened, in words.
    pub notes: Vec<Note>,
    /// The state machine could not be filled from a snapshot on disk, and why: this node has no
    /// state to serve and has to stop. Said once.
    pub fault: Option<String>,
}

/// A piece of a snapshot that the state machine waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceRequest {
    /// Which snapshot.
    pub meta: SnapshotMeta,
    /// Counts the pieces from 0; 0 opens the file anew.
    pub number: u64,
}

/// A snapshot to be written.
pub struct SnapshotOrder {
    /// The last entry it covers.
    pub position: LogPosition,
    /// The membership in force at that entry.
    pub membership: Membership,
    /// The state at that entry.
    pub source: Box<dyn SnapshotSource>,
}

/// Why there is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotRefused {
    /// Everything applied is in a snapshot already.
    NothingNew,
    /// One is being written.
    InProgress,
    /// The state itself is just being put back from one.
    Restoring,
    /// It could not be written, and why.
    Failed(String),
    /// The node is stopping, or its disk has failed.
    Stopped,
}

impl<R> Default for Work<R> {
    fn default() -> Work<R> {
        Work {
            write: None,
            send: Vec::new(),
            chunks: Vec::new(),
            restore: None,
            answers: Vec::new(),
            reads: Vec::new(),
            snapshot: None,
            snapshots_taken: Vec::new(),
            transfers: Vec::new(),
            notes: Vec::new(),
            fault: None,
        }
    }
}
