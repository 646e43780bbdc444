//! What can be seen of a run: one [`Seen`] for everything that happens, handed to whoever watches
//! ([`Watch`]) by reference and at once. Checkers, transcript and page all live from these alone.
//!
//! Nothing here is a string unless somebody wants to read it: a run nobody reads must be fast.

use raft_core::consensus::event::Note;
use raft_core::message::Message;
use raft_core::types::{Index, LogPosition, NodeId, Time, WriteId};
use raft_core::write::{Recovered, SnapshotMeta, Write};

use crate::app::App;
use crate::marks::Marks;
use crate::plan::{ClientOp, Fault, Machine};
use crate::world::View;

/// Numbers a client's operations in the order they began, from 0, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u32);

/// Numbers the copies of messages that entered the network: a doubled message has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId(pub u64);

/// One thing that happened.
///
/// Within one step of a node the order is: what it took in (`Delivered`, `Persisted` ...), then
/// `Stepped`, then what it asks for (`WriteIssued`, `Applied`, `Sent`, `OpEnded` ...).
#[derive(Debug)]
pub enum Seen<'a, A: App> {
    // Processes.
    /// A process began, opened its disk and found this. A fresh disk has nothing to recover and its
    /// process is forming.
    Started {
        /// Where.
        machine: Machine,
        /// The id of the disk.
        node: NodeId,
        /// What the disk held, when it is formed.
        recovered: Option<&'a Recovered>,
    },
    /// The disk now durably belongs to a cluster; `Started` follows with the first entry.
    Formed {
        /// Where.
        machine: Machine,
        /// The cluster's id.
        cluster: raft_core::types::ClusterId,
    },
    /// The process died; what was not synced may be lost.
    Crashed {
        /// Where.
        machine: Machine,
    },
    /// The process ended by itself.
    Exited {
        /// Where.
        machine: Machine,
        /// Why.
        exit: &'a Exit,
    },
    /// The process stands still, or moves again.
    Paused {
        /// Where.
        machine: Machine,
        /// Whether it stands still now.
        still: bool,
    },

    // One pass of a replica.
    /// The replica has taken in the message that was delivered to it.
    TakenIn {
        /// Where.
        machine: Machine,
    },
    /// The replica took everything that came in; `view.replica(machine)` shows where it stands. What
    /// it asks for comes next.
    Stepped {
        /// Where.
        machine: Machine,
    },
    /// A write was handed to the log's thread. All that ever enters a log passes here or is in
    /// [`Seen::Started`].
    WriteIssued {
        /// Where.
        machine: Machine,
        /// The write.
        write: &'a Write,
    },
    /// The disk has synced these writes and the replica is about to be told so.
    Persisted {
        /// Where.
        machine: Machine,
        /// The last of them.
        through: WriteId,
        /// The writes, in order.
        writes: &'a [Write],
    },
    /// An entry that holds a command went through the state machine.
    Applied {
        /// Where.
        machine: Machine,
        /// Which.
        at: LogPosition,
        /// Its command.
        command: &'a bytes::Bytes,
        /// A digest of the reply and all before it: equal on every node at equal index since the
        /// last restore ([`Seen::Restored`] begins a new chain).
        reply: u64,
        /// A digest of the whole state after it; taken at every [`DIGEST_EVERY`]th index only.
        state: Option<u64>,
    },
    /// The state machine was put back from a snapshot.
    Restored {
        /// Where.
        machine: Machine,
        /// Which.
        meta: &'a SnapshotMeta,
        /// A digest of the whole state.
        state: u64,
    },
    /// The core decided something, in words. All decisions when the run is traced, else only changes
    /// of role.
    Note {
        /// Where.
        machine: Machine,
        /// The line.
        note: &'a Note,
    },

    // Network.
    /// A message left a replica. Its copies follow as [`Seen::Launched`], or none.
    Sent {
        /// From where.
        machine: Machine,
        /// The message.
        message: &'a Message,
        /// The length of its frame.
        bytes: usize,
    },
    /// A copy is on its way.
    Launched {
        /// Which.
        copy: CopyId,
        /// From where.
        from: Machine,
        /// To where.
        to: Machine,
        /// When it will be there.
        arrives: Time,
        /// The message.
        message: &'a Message,
    },
    /// A copy came in and its message is handed to the replica.
    Delivered {
        /// Which.
        copy: CopyId,
        /// From where.
        from: Machine,
        /// To where.
        to: Machine,
        /// The message as it was decoded.
        message: &'a Message,
    },
    /// A copy, or a message before it had one, is lost.
    Lost {
        /// Which; `None`: it never got on its way.
        copy: Option<CopyId>,
        /// From where.
        from: Machine,
        /// To where.
        to: Machine,
        /// Why.
        why: Loss,
    },

    // Snapshots.
    /// A snapshot of this node's own state is begun.
    SnapshotBegun {
        /// Where.
        machine: Machine,
        /// Of what.
        position: LogPosition,
    },
    /// It is durable under its name; its mark follows as a write.
    SnapshotWritten {
        /// Where.
        machine: Machine,
        /// What.
        meta: &'a SnapshotMeta,
    },
    /// It could not be written.
    SnapshotFailed {
        /// Where.
        machine: Machine,
        /// Of what.
        position: LogPosition,
    },

    // Clients.
    /// A client sends a request.
    OpBegun {
        /// Which operation.
        op: OpId,
        /// What it was in the plan.
        planned: &'a ClientOp,
        /// To where.
        to: Machine,
        /// The request.
        request: &'a A::Request,
    },
    /// A client was answered, or gives up waiting.
    OpEnded {
        /// Which operation.
        op: OpId,
        /// By whom it was asked.
        client: u8,
        /// How it ended.
        end: &'a OpEnd<A>,
    },

    // Faults.
    /// A fault of the plan strikes; `on` is the machine it found, where it looks for one.
    Fault {
        /// Which line of the plan.
        number: usize,
        /// The fault.
        fault: &'a Fault,
        /// Whom it found.
        on: Option<Machine>,
    },
    /// A fault that lasted is over.
    Healed {
        /// Which line of the plan.
        number: usize,
    },
    /// The chaos is over: everything heals and only these machines go on with each other (bit `i`
    /// is machine `i`).
    Liveness {
        /// The quorum that has to become live.
        core: u8,
    },
    /// The run has ended.
    End,
}

/// Every this many indexes the whole state is digested.
pub const DIGEST_EVERY: u64 = 16;

/// How a client's operation ended.
#[derive(Clone, Debug)]
pub enum OpEnd<A: App> {
    /// With an answer.
    Answered {
        /// The answer.
        answer: A::Answer,
        /// The index at which a write took effect, or that the state held when it was read. Known in
        /// simulation only.
        index: Index,
    },
    /// Not carried out, and it will not be. Reads that failed in any way end so too.
    NotApplied,
    /// Nobody can tell; a write may take effect at any later time.
    Unknown,
}

/// Why a process ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to.
    Stopped,
    /// The disk refused while it ran.
    Storage(String),
    /// What is on the disk is damaged: it says so and changes nothing.
    Damage(String),
    /// Another process holds the directory.
    Locked,
    /// The state could not be put back from a snapshot.
    Restore(String),
    /// It does not belong here: the disk is of another node or cluster.
    Foreign(String),
    /// A later version of the program has written to the disk.
    Newer(String),
    /// It panicked: a broken rule of our own.
    Panic(String),
}

/// Why a message did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The link lost it.
    Link,
    /// The link is cut.
    Cut,
    /// The connection was reset.
    Reset,
    /// Nobody listens there.
    Down,
    /// The receiver's queue is full.
    Full,
    /// The codec refused the bytes.
    Malformed,
    /// It is for another node or another cluster.
    Foreign,
}

/// Whoever wants to know what happens: the invariants, the transcript, the page.
pub trait Watch<A: App> {
    /// Something happened. An error ends the run: the rule that was broken, and how.
    fn see(&mut self, now: Time, seen: &Seen<'_, A>, view: &View<'_, A>) -> Result<(), Violation>;

    /// Which rare things it saw.
    fn marks(&self) -> Marks {
        Marks::default()
    }
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's short name: `I6`, `linearizable`, `liveness`, `panic`. The shrinker holds on to it.
    pub rule: &'static str,
    /// What was seen, with the numbers.
    pub what: String,
}
