//! The two closed types through which the core meets the world: what may happen to it
//! ([`Event`]), and what it asks for ([`Effects`]).

use bytes::Bytes;

use crate::membership::Membership;
use crate::message::Message;
use crate::types::{Entry, Index, LogPosition, NodeId, ProposalId, ReadId, Term, Time, WriteId};
use crate::write::{SnapshotMeta, Write};

/// Anything that can happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed; useful when [`deadline`](super::Raft::deadline) is reached, harmless before.
    Wake,
    /// A message came in. Whatever it holds, it cannot panic the core.
    Receive(Message),
    /// A client proposes a command. The answer is in [`Effects::proposals`].
    Propose {
        /// Chosen by the proposer.
        id: ProposalId,
        /// Handed to the state machine as it is.
        command: Bytes,
    },
    /// A client wants to read. The answer is in [`Effects::reads`].
    Read {
        /// Chosen by the reader.
        id: ReadId,
    },
    /// This write and all before it are synced.
    Persisted(WriteId),
    /// The bytes of a received snapshot were not what its meta says; nothing was installed. Comes
    /// before the `Persisted` of the write that asked for the install.
    InstallFailed(LogPosition),
    /// The state machine holds the snapshot that [`Effects::restore`] named.
    Restored(LogPosition),
    /// A snapshot of our own state is durable under its name (not marked in the log yet).
    SnapshotWritten(SnapshotMeta),
    /// The answer to a [`ChunkRequest`]; `None` when that snapshot cannot be read (any more).
    Chunk {
        /// The request this answers.
        request: ChunkRequest,
        /// Exactly the bytes asked for.
        data: Option<Bytes>,
    },
    /// The connection to this peer broke *and* reconnecting was refused on every address: its
    /// process is gone. Only a hint: it shortens waits and decides nothing.
    PeerDown(NodeId),
    /// Hand leadership to this node, or to the best follower. Outcome: [`Effects::transfers`].
    Transfer {
        /// The wanted leader.
        to: Option<NodeId>,
    },
}

/// What one or more steps ask for. All of it may be carried out at once, the kinds in any order
/// against each other, writes in id order, applies in index order: whatever depends on a write is
/// withheld until [`Event::Persisted`] names that write.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be made durable; answer with `Event::Persisted(write.id)`.
    pub write: Option<Write>,
    /// Safe to send, now.
    pub send: Vec<Message>,
    /// Replace the state machine by this snapshot (it is durable here), then answer with
    /// `Event::Restored`. No entry is handed out to apply before that.
    pub restore: Option<SnapshotMeta>,
    /// Committed entries, in log order, each exactly once in the life of a `Raft`.
    pub apply: Vec<Entry>,
    /// Pieces of a snapshot to read for a follower; answer each with `Event::Chunk`.
    pub chunks: Vec<ChunkRequest>,
    /// Where proposals went: a position in the log (not committed yet), or why not.
    pub proposals: Vec<(ProposalId, Result<LogPosition, Refusal>)>,
    /// From which applied index on a read may be answered, or why not.
    pub reads: Vec<(ReadId, Result<Index, Refusal>)>,
    /// How requested transfers of leadership ended.
    pub transfers: Vec<Result<NodeId, TransferFailure>>,
    /// What happened, in words: role changes always, every decision when
    /// [`trace`](super::Raft::trace) is on.
    pub notes: Vec<Note>,
}

/// Bytes of a snapshot file's body that a follower needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRequest {
    /// The follower.
    pub to: NodeId,
    /// The snapshot.
    pub meta: SnapshotMeta,
    /// Where in its body.
    pub offset: u64,
    /// How many bytes; never beyond the body's end.
    pub length: u64,
}

/// Why a proposal or a read was turned away. Nothing of it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This node does not lead; the leader may be the one named.
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; try again in a moment.
    Transferring {
        /// Who is to lead.
        to: NodeId,
    },
    /// The command is larger than an entry may be.
    TooLarge {
        /// What it weighs.
        bytes: u64,
        /// What is allowed.
        bytes_max: u64,
    },
    /// Too much is under way; try again in a moment.
    Busy,
    /// The disk is full (said by the node before the core is asked); reads go on.
    NoSpace,
    /// The proposer's deadline passed before the command reached the log (said by the node).
    Deadline,
    /// The node is stopping, or its disk has failed (said by the node).
    Stopped,
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferFailure {
    /// This node does not lead.
    NotLeader,
    /// The wanted node is no voter, or there is no other voter.
    NoSuchVoter,
    /// The target did not catch up or take over within an election timeout; we lead on.
    TimedOut,
    /// Another transfer is under way.
    InProgress,
}

/// One line of the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether an operator wants to see it (role changes), or only a reader of transcripts.
    pub important: bool,
    /// `n2@3 vote? from n1 last 5@2, ours 5@2 -> granted`
    pub text: String,
}

/// What part a node plays right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win (pre-vote).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// A look at the core from outside.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its part.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader of that term, as far as known.
    pub leader: Option<NodeId>,
    /// When a message of the leader last came in (of a quorum, on the leader itself).
    pub contact: Option<Time>,
    /// The newest snapshot's position.
    pub snapshot: LogPosition,
    /// The last entry of the log.
    pub last: LogPosition,
    /// Synced up to here.
    pub durable: Index,
    /// Committed up to here, as far as known.
    pub committed: Index,
    /// Handed out to apply up to here.
    pub applied: Index,
    /// Whether a leader has committed an entry of its own term: reads are answered from then on.
    pub ready: bool,
    /// The membership in force.
    pub membership: Membership,
    /// On a leader: how far each other member is.
    pub peers: Vec<PeerStatus>,
    /// Messages dropped because they could not be (impossible, foreign, or of an older term).
    pub dropped: u64,
}

/// How far a follower is, as its leader knows.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The follower.
    pub id: NodeId,
    /// Durable there and equal to our log up to here.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// Entry bytes under way to it.
    pub inflight_bytes: u64,
    /// `probe`, `replicate` or `snapshot`.
    pub state: &'static str,
    /// When an answer of it last came in.
    pub contact: Option<Time>,
}

impl RoleName {
    /// `follower`, `pre-candidate`, `candidate`, `leader`.
    pub fn as_str(self) -> &'static str {
        match self {
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre-candidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
        }
    }
}
