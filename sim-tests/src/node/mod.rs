//! A machine and the process on it: what the daemon's threads do, as events.
//!
//! The process is the daemon's: it opens the data directory, forms if it must, and runs a `Replica`
//! over a `Keeper` and a `PieceReader`. What the daemon has threads for (raft, log, segments, snapshots
//! out, snapshots in) are five lanes of work here, each busy with one thing at a time. A storage call
//! takes its time first and is carried out at the end of it; a crash in between carries it out up
//! to a fuse.
//!
//! ```text
//! start -> forming -> raft <-> storage -> end
//! ```
//!
//! Here are only the types: a place, its process, and what waits in the lanes.

mod ambush;
mod end;
mod forming;
mod liar;
mod raft;
mod start;
mod storage;
mod stranger;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kv_daemon::form::Forming;
use raft_core::codec::FrameDecoder;
use raft_core::consensus::event::{ChunkRequest, RoleName};
use raft_core::keeper::{Keeper, PieceReader};
use raft_core::membership::Membership;
use raft_core::message::Message;
use raft_core::replica::{Input, PieceRequest, Replica};
use raft_core::state_machine::SnapshotSource;
use raft_core::storage::meta::DataDir;
use raft_core::storage::snapshot::{SnapshotWriter, Snapshots};
use raft_core::storage::{MakeSegment, Removal, StorageStats};
use raft_core::types::{ClusterId, LogPosition, NodeId, ProposalId, ReadId, Time};
use raft_core::write::Write;

use crate::app::{App, NodeView};
use crate::client::CallId;
use crate::clock::Clock;
use crate::disk::SimDisk;
use crate::observed::Observed;
use crate::plan::{Machine, Spelling};
use crate::rng::Rng;
use crate::trace::CopyId;

pub(crate) use end::exit_of;
pub(crate) use start::{address, storage_options};

/// A machine: a disk, a clock, and the process that runs there, if one does.
pub(crate) struct Place<A: App> {
    /// The id of the disk, once a process has read or made it.
    pub(crate) id: NodeId,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
    /// Counts processes and their ends: an event of another life is void.
    pub(crate) life: u32,
    pub(crate) process: Process<A>,
    /// Nothing of the process happens before this.
    pub(crate) still_until: Time,
    /// The last of its calls to the disk that are under way ends then.
    pub(crate) disk_until: Time,
    /// Every piece of a snapshot takes this much longer.
    pub(crate) slow: Duration,
    /// Timers fire up to this late.
    pub(crate) late: Duration,
    /// Answers to clients are lost.
    pub(crate) deaf: bool,
    /// A node of another cluster sends here too.
    pub(crate) stranger: bool,
    /// A peer of our own cluster breaks the rules.
    pub(crate) liar: bool,
    /// What is wrong with the list of peers that the process is started with.
    pub(crate) spelling: Option<Spelling>,
    /// The disk is damaged, emptied or not its own: the process cannot be expected to come back.
    pub(crate) lost: bool,
    /// How often the disk was replaced by an empty one.
    pub(crate) wipes: u64,
    /// Durations, salts and seeds of this machine.
    pub(crate) rng: Rng,
}

/// What runs on a machine.
pub(crate) enum Process<A: App> {
    /// Nothing.
    Down,
    /// Reads its disk.
    Opening,
    /// Looks for the others.
    Forming(Box<FormingProcess>),
    /// A node.
    Running(Box<Running<A>>),
}

/// A process on its way into a cluster.
pub(crate) struct FormingProcess {
    dir: DataDir,
    forming: Forming,
    /// What all agreed on; being written.
    decided: Option<Membership>,
    /// The earliest look at the time that is scheduled.
    wake_at: Time,
    /// The cluster that the set known now would be, and since when it has been this one.
    would_form: (Option<ClusterId>, Time),
}

/// A node.
pub(crate) struct Running<A: App> {
    pub(crate) replica: Replica<Observed<A>>,
    pub(crate) cluster: ClusterId,
    /// Its lock is held as long as the process lives.
    _dir: DataDir,
    keeper: Keeper,
    decoder: FrameDecoder,
    pub(crate) lanes: Lanes,
    /// The raft thread is busy until then.
    pub(crate) busy_until: Time,
    /// A pass is scheduled.
    pass_due: bool,
    /// The earliest wake that is scheduled.
    wake_at: Time,
    log: LogLane,
    making: Option<MakeSegment>,
    removing: Option<Removal>,
    snapshots: Snapshots,
    writing: Option<Writing>,
    pieces: PieceReader,
    reading: VecDeque<ReadJob>,
    last_id: u64,
    pub(crate) proposals: BTreeMap<ProposalId, CallId>,
    pub(crate) reads: BTreeMap<ReadId, CallId>,
    /// Calls that wait for another leader than this.
    pub(crate) waiting: Vec<(CallId, Option<NodeId>)>,
    leader: Option<NodeId>,
    role: RoleName,
    /// Told to stop, and when to start again: leadership is handed over first.
    pub(crate) leaving: Option<Duration>,
    /// The door is closed: what is under way is ended until then at the latest.
    stop_by: Option<Time>,
}

/// What came in since the last pass, in the order the raft thread takes it.
#[derive(Default)]
pub(crate) struct Lanes {
    pub(crate) own: Vec<Input>,
    messages: Vec<(CopyId, Machine, Message)>,
    pub(crate) asked: Vec<Input>,
}

/// The log's thread.
#[derive(Default)]
struct LogLane {
    waiting: Vec<Write>,
    /// What a storage call is busy with.
    running: Option<Vec<Write>>,
    /// A segment came or failed: look at it.
    poked: bool,
    /// The earliest look that is scheduled.
    due_at: Option<Time>,
}

/// A snapshot being written.
struct Writing {
    position: LogPosition,
    membership: Membership,
    source: Box<dyn SnapshotSource>,
    writer: Option<SnapshotWriter>,
    ended: bool,
}

/// What the snapshot reader is asked for.
enum ReadJob {
    Chunk(ChunkRequest),
    Piece(PieceRequest),
}

impl<A: App> Place<A> {
    pub(crate) fn new(disk: SimDisk, ppm: i32, mut rng: Rng) -> Place<A> {
        let origin = Time(rng.below(1 << 40));
        Place {
            id: NodeId(0),
            disk,
            clock: Clock::new(origin, ppm),
            life: 0,
            process: Process::Down,
            still_until: Time(0),
            disk_until: Time(0),
            slow: Duration::ZERO,
            late: Duration::ZERO,
            deaf: false,
            stranger: false,
            liar: false,
            spelling: None,
            lost: false,
            wipes: 0,
            rng,
        }
    }

    pub(crate) fn running(&self) -> Option<&Running<A>> {
        match &self.process {
            Process::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn running_mut(&mut self) -> Option<&mut Running<A>> {
        match &mut self.process {
            Process::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        !matches!(self.process, Process::Down)
    }

    /// The bits of the next disk made here: readable, and unique in the world.
    pub(crate) fn fresh_id(machine: Machine, wipes: u64) -> u64 {
        wipes << 4 | (u64::from(machine.0) + 1)
    }
}

impl<A: App> Running<A> {
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(crate) fn view(&self, me: NodeId) -> NodeView {
        let raft = self.replica.raft();
        NodeView {
            me,
            leader: raft.leader(),
            contact: raft.contact(),
            formed: true,
            restoring: self.replica.is_restoring(),
        }
    }

    /// What its storage says of itself, for the bounds.
    pub(crate) fn storage(&self) -> StorageStats {
        self.keeper.storage().stats()
    }

    /// Whether all that was accepted is synced and answered as far as it can be. A full disk is not
    /// waited for.
    fn is_drained(&self, local: Time) -> bool {
        let log = &self.log;
        let settled = log.waiting.is_empty() && log.running.is_none() && self.lanes.own.is_empty();
        settled && local < self.replica.deadline() || !self.replica.has_room()
    }

    /// Most that waits in memory, for the bounds.
    pub(crate) fn backlog(&self) -> usize {
        self.lanes.messages.len() + self.lanes.asked.len() + self.log.waiting.len()
    }
}
