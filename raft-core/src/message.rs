//! What nodes say to each other. Each variant names its section of Ongaro's thesis.
//!
//! Every request carries an `id` that its answer repeats, so that a transport can pair the two. An
//! answer to appends may cover several: it repeats the id of the newest request it answers.
//! Messages may be lost, doubled, delayed and reordered at will; the core stands that.

use bytes::Bytes;

use crate::types::{Entry, Index, LogPosition, NodeId, Term};
use crate::write::SnapshotMeta;

/// One message between two nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub from: NodeId,
    /// Who shall get it.
    pub to: NodeId,
    /// The sender's term when it was sent.
    pub term: Term,
    /// Pairs a request with its answer: grows with each request of a sender; an answer repeats it.
    pub id: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Would you vote for me in the term after mine (thesis 9.6)? Changes nothing at the receiver.
    PreVote {
        /// The candidate's last entry.
        last: LogPosition,
    },
    /// The answer to [`Body::PreVote`]. Promises nothing.
    PreVoteReply {
        /// Whether a vote could be had.
        granted: bool,
        /// The asker's term as it stood in the question: an answer to an older question is ignored.
        asked_in: Term,
    },
    /// Vote for me in my term (thesis 3.4).
    RequestVote {
        /// The candidate's last entry.
        last: LogPosition,
        /// The leader itself asked for this election (thesis 3.10), so recent contact with it is no
        /// reason to refuse.
        transfer: bool,
    },
    /// The answer to [`Body::RequestVote`]; a grant leaves only after the vote is durable.
    VoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Entries that follow `prev` (thesis 3.5).
    Append {
        /// The entry before the first of `entries`.
        prev: LogPosition,
        /// Contiguous, may be empty (a probe).
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// The answer to one or more [`Body::Append`].
    AppendReply {
        /// What became of it.
        result: AppendResult,
    },
    /// The leader is alive (thesis 3.4) and, by its round, still the leader (thesis 6.4). Travels
    /// beside the appends and may overtake them.
    Heartbeat {
        /// Counts rounds within the term; the answer repeats it.
        round: u64,
        /// At most what the receiver itself has acknowledged, so that it can always be believed.
        commit: Index,
    },
    /// The answer to [`Body::Heartbeat`]. Leaves at once, never waits for a disk.
    HeartbeatReply {
        /// The round it answers.
        round: u64,
        /// Durable here and verified against this leader: heals a lost acknowledgement.
        matched: Index,
        /// In memory here and verified against this leader: tells a lost append from a slow disk.
        received: Index,
    },
    /// A piece of a snapshot for a follower whose next entry is no longer in the log (thesis 5.3).
    InstallSnapshot {
        /// Which snapshot.
        meta: SnapshotMeta,
        /// Where in its body the data belongs.
        offset: u64,
        /// The bytes; the last piece ends at `meta.body_bytes`.
        data: Bytes,
    },
    /// The answer to [`Body::InstallSnapshot`].
    SnapshotReply {
        /// The snapshot it is about.
        position: LogPosition,
        /// The offset wanted next, so that a broken transfer resumes; `None`: everything up to
        /// `position` is durable here.
        next_offset: Option<u64>,
    },
    /// Campaign now: leadership is handed to you (thesis 3.10). Has no answer of its own.
    TimeoutNow {
        /// The leader's last entry: valid only for a receiver that holds it.
        last: LogPosition,
    },
    /// From which index on may I answer a read (thesis 6.4, asked by a follower)?
    ReadIndex,
    /// The answer to [`Body::ReadIndex`].
    ReadIndexReply {
        /// The read index, or `None`: not the leader (any more).
        index: Option<Index>,
    },
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResult {
    /// Everything up to this index is durable here and equal to the leader's.
    Matched(Index),
    /// We do not hold `prev`.
    Conflict {
        /// The index of the refused `prev`, so that a late refusal is recognised.
        prev: Index,
        /// Try this one as the next `prev`: our last entry at or below `prev` whose term is at most
        /// the leader's term there. One refusal skips a whole term.
        hint: LogPosition,
    },
}

impl Body {
    /// Whether this is an answer (its id repeats that of a request) or a request.
    pub fn is_reply(&self) -> bool {
        match self {
            Body::PreVoteReply { .. }
            | Body::VoteReply { .. }
            | Body::AppendReply { .. }
            | Body::HeartbeatReply { .. }
            | Body::SnapshotReply { .. }
            | Body::ReadIndexReply { .. } => true,
            Body::PreVote { .. }
            | Body::RequestVote { .. }
            | Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::InstallSnapshot { .. }
            | Body::TimeoutNow { .. }
            | Body::ReadIndex => false,
        }
    }

    /// Whether only a leader sends this: who gets it in its own term knows who leads.
    pub fn is_from_leader(&self) -> bool {
        matches!(
            self,
            Body::Append { .. }
                | Body::Heartbeat { .. }
                | Body::InstallSnapshot { .. }
                | Body::TimeoutNow { .. }
        )
    }

    /// The name of the message's kind, as it stands in logs and endpoints.
    pub fn kind(&self) -> &'static str {
        match self {
            Body::PreVote { .. } => "pre-vote",
            Body::PreVoteReply { .. } => "pre-vote-reply",
            Body::RequestVote { .. } => "request-vote",
            Body::VoteReply { .. } => "vote-reply",
            Body::Append { .. } => "append-entries",
            Body::AppendReply { .. } => "append-reply",
            Body::Heartbeat { .. } => "heartbeat",
            Body::HeartbeatReply { .. } => "heartbeat-reply",
            Body::InstallSnapshot { .. } => "install-snapshot",
            Body::SnapshotReply { .. } => "snapshot-reply",
            Body::TimeoutNow { .. } => "timeout-now",
            Body::ReadIndex => "read-index",
            Body::ReadIndexReply { .. } => "read-index-reply",
        }
    }
}
