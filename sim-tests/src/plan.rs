//! A plan: everything that is decided about a run before it begins.
//!
//! A seed expands to a plan (`generate.rs`), a plan to a run (`world/`). Every fault and every
//! request is a line of its own and stands for itself: it says when it begins and how long it lasts,
//! so that any line can be taken away and what is left is a plan again. That is what makes shrinking
//! work, and it is why past failures are kept as plans: a seed dies with the next change of the
//! generator, a plan does not.
//!
//! Machines are counted from 1 as people do (`m1`, `m2`): a machine is a place with a disk, a clock
//! and a network card. The node that lives there has the id of its disk.

use std::time::Duration;

/// A run, decided. Its text form is in `plan_text.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The root of the streams of chance that carry out the plan: jitter, waits, which sectors a
    /// crash loses. Not the seed the plan was made of, although generated plans have the same.
    pub seed: u64,
    /// Machines whose nodes vote; 1 to 7.
    pub voters: u8,
    /// Machines whose nodes only learn; 0 to 2. Only with [`Start::Formed`].
    pub learners: u8,
    /// How the cluster comes to be.
    pub start: Start,
    /// How long faults and requests go on. After it everything heals and the liveness phase begins.
    pub chaos: Duration,
    /// The settings of every node.
    pub knobs: Knobs,
    /// Drift of each machine's clock in parts per million, -100 000 to 100 000; missing ones are 0.
    pub drift_ppm: Vec<i32>,
    /// How long a disk takes when nothing is wrong.
    pub disk: DiskPace,
    /// Whether the cluster has to become live again after the chaos: at most a minority holds damage
    /// to the same data. Otherwise it may halt, but must never answer wrongly.
    pub recoverable: bool,
    /// What goes wrong, by time.
    pub faults: Vec<Timed<Fault>>,
    /// What clients ask, by time.
    pub ops: Vec<Timed<ClientOp>>,
}

/// Something at a time since the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed<T> {
    /// When.
    pub at: Duration,
    /// What.
    pub what: T,
}

/// A machine, counted from 0 here and from 1 in print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Machine(pub u8);

/// How the cluster comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Every disk holds the membership as entry `1@1` already.
    Formed,
    /// Fresh disks: nodes find each other as the daemon's do (`kv_daemon::form`).
    Forming,
}

/// Settings of every node; units as in `raft_core::config::Config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Least time without a leader before a campaign.
    pub election_timeout_min: Duration,
    /// Most payload bytes of an append.
    pub append_bytes_max: u64,
    /// Most entry bytes under way to a follower.
    pub inflight_bytes_max: u64,
    /// Most entry bytes above the commit index.
    pub uncommitted_bytes_max: u64,
    /// Most bytes of one command.
    pub entry_bytes_max: u64,
    /// Most entry bytes applied in one pass.
    pub apply_bytes_max: u64,
    /// Most reads that wait.
    pub reads_max: u64,
    /// Snapshot when the log since the last one has this many bytes.
    pub snapshot_bytes: u64,
    /// Snapshot when the log since the last one has this many entries.
    pub snapshot_entries: u64,
    /// Log kept below a snapshot.
    pub tail_bytes: u64,
    /// Bytes of a snapshot in one message.
    pub chunk_bytes: u64,
    /// Size of the first log segment.
    pub segment_bytes_first: u64,
    /// Size of the largest log segment.
    pub segment_bytes_max: u64,
    /// Most proposals, and most reads, that wait in a replica.
    pub waiting_max: u64,
}

/// How long a disk takes when nothing is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskPace {
    /// The fastest write with its sync.
    pub sync_min: Duration,
    /// The slowest.
    pub sync_max: Duration,
}

/// Whom a fault strikes: a machine, or whatever machine plays the part when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This one.
    One(Machine),
    /// The one whose node leads in the highest term; nobody when none leads.
    Leader,
    /// The machine with this number among those that do not lead, modulo their count.
    Follower(u8),
}

/// Something that goes wrong. Whatever lasts says for how long, and heals by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The links behave like this for a while. Of several that overlap the newest counts.
    Links {
        /// Which.
        links: Links,
        /// How.
        weather: Weather,
        /// How long.
        lasts: Duration,
    },
    /// Nothing passes on these links for a while.
    Cut {
        /// Which.
        links: Links,
        /// How long.
        lasts: Duration,
        /// 0: all the time. Else the cut opens and closes each time this long.
        flaps: Duration,
    },
    /// Every connection of the machine breaks now: what is on its way is lost.
    Reset {
        /// Whose.
        target: Target,
    },
    /// The process dies between two actions, also in the middle of a storage call.
    Crash {
        /// Whose.
        target: Target,
        /// When it starts again. While the last crash's damage stands it may fail to.
        down: Duration,
        /// After how many more disk operations of the storage calls under way: 0 dies before the
        /// first of them.
        fuse: u8,
        /// What of the unsynced survives.
        loss: CrashLoss,
    },
    /// The process is asked to end, ends in order, and starts again later.
    Stop {
        /// Whose.
        target: Target,
        /// When it starts again.
        down: Duration,
    },
    /// The process stands still: it takes no step and its timers are late. The disk works on.
    Pause {
        /// Whose.
        target: Target,
        /// How long.
        lasts: Duration,
    },
    /// The process dies and starts again with an empty disk.
    Wipe {
        /// Whose.
        target: Target,
        /// When it starts again.
        down: Duration,
    },
    /// Both processes die and start again with the other's disk, which they have to refuse. In the
    /// end both disks go back.
    Swap {
        /// One machine.
        one: Machine,
        /// The other.
        other: Machine,
        /// For how long the disks are swapped.
        lasts: Duration,
    },
    /// A second process tries to start on the machine's disk while the first runs. It has to be
    /// refused and to change nothing.
    SecondProcess {
        /// Whose.
        target: Target,
    },
    /// Something with the disk.
    Disk {
        /// Whose.
        target: Target,
        /// What.
        fault: DiskFault,
    },
    /// Wall clocks mean nothing to us; this is the monotonic clock: from now on it drifts so.
    Drift {
        /// Whose.
        target: Target,
        /// In parts per million, -100 000 to 100 000.
        ppm: i32,
    },
    /// Timers of the machine fire late by up to this, for a while.
    LateTimers {
        /// Whose.
        target: Target,
        /// At most how late.
        by: Duration,
        /// How long.
        lasts: Duration,
    },
    /// The leader is told to hand over.
    Transfer {
        /// To whom; `None`: to whom it likes.
        to: Option<Machine>,
    },
    /// An operator orders a snapshot.
    Snapshot {
        /// Of whom.
        target: Target,
    },
    /// The answers to clients of this machine get lost for a while: requests are carried out.
    DeafClients {
        /// Whose.
        target: Target,
        /// How long.
        lasts: Duration,
    },
    /// Waits for a moment that chance seldom finds, and strikes then, once.
    Ambush {
        /// For whom; looked for again at each event.
        target: Target,
        /// The moment.
        moment: Moment,
        /// How long it waits at most.
        lasts: Duration,
        /// What it does.
        blow: Blow,
    },
    /// A node of another cluster was given this machine's address: for a while each message that
    /// arrives is followed by one from there, of a later term. Half of these are of another version
    /// of the program: well framed, and malformed or contradictory inside.
    Stranger {
        /// Whose address.
        target: Target,
        /// How long.
        lasts: Duration,
    },
    /// A peer of our own cluster breaks the rules of Raft: for a while each message that arrives is
    /// followed by one of the same term that no correct node sends. It has to be dropped.
    Liar {
        /// Who hears it.
        target: Target,
        /// How long.
        lasts: Duration,
    },
    /// The process dies, and one file of its directory is replaced by one that is whole and wrong. It
    /// starts on that, has to refuse it or to do without it, and in the end the right one is back.
    WrongFile {
        /// Whose.
        target: Target,
        /// Which of its files.
        place: Place,
        /// What is wrong with the one in its place.
        origin: Origin,
        /// How long until the right one is back.
        lasts: Duration,
    },
    /// The process ends and starts again with a wrong list of peers, as an operator may type it.
    /// Later it starts with the right one.
    Misspelt {
        /// Whose list.
        target: Target,
        /// What is wrong with it.
        how: Spelling,
        /// For how long it is wrong.
        lasts: Duration,
    },
    /// The process is started with `--bootstrap`, and it is left on.
    Bootstrap {
        /// Whose.
        target: Target,
    },
    /// An operator changes the membership.
    Membership {
        /// Which machine's node.
        machine: Machine,
        /// How.
        change: Change,
    },
}

/// A moment of a process that is too short for a fault with a fixed time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It reads its disk.
    Recovering,
    /// It writes what it forms.
    Forming,
    /// It asks for votes.
    Campaigning,
    /// It has just begun to lead and has not synced its first entry.
    Crowned,
    /// Its disk has synced what it asked for, and it does not know yet.
    Synced,
    /// It has voted and its disk has not synced the vote.
    Voting,
    /// Its state is put back from a snapshot.
    Restoring,
    /// It writes a snapshot of its own.
    Snapshotting,
    /// It takes in a snapshot of the leader's, beyond the first piece.
    Receiving,
    /// It sends a snapshot to a follower, beyond the first piece.
    Sending,
}

/// What an ambush does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// As [`Fault::Crash`].
    Crash {
        /// When it starts again.
        down: Duration,
        /// After how many more disk operations.
        fuse: u8,
        /// What of the unsynced survives.
        loss: CrashLoss,
    },
    /// Rot in the snapshots.
    Rot(Rot),
}

/// A wrong list of peers. Only for three machines or more: what is left of fewer is another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// One peer is missing.
    Short,
    /// One peer too many, whom nobody knows.
    Long,
    /// It names itself too, which is not wrong.
    Itself,
    /// Other names for the same addresses, which is not wrong.
    Alias,
}

/// A change of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Becomes a learner.
    Add,
    /// From learner to voter.
    Promote,
    /// From voter to learner.
    Demote,
    /// Its place is taken by the node of another machine.
    Replace(Machine),
    /// Is a member no more.
    Remove,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashLoss {
    /// All of it: only the process died.
    Nothing,
    /// Each sector and each name is kept or lost by chance.
    Some,
    /// As `Some`, and sectors may be cut or garbage. That cannot be told from rot, so it counts as
    /// damage.
    Garbage,
}

/// A set of directed links between machines. Clients are outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// All.
    All,
    /// To and from one.
    Around(Target),
    /// Only those that lead away from one.
    Out(Target),
    /// Only those that lead to one.
    Into(Target),
    /// One direction between two.
    From(Machine, Machine),
    /// Between these and the others: bit `i` stands for machine `i`.
    Split(u8),
    /// Each machine reaches only its two neighbours on a ring.
    NotRing,
    /// Two halves that share one machine, the bridge.
    Bridge(Machine),
}

/// How links behave. Chances are in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// A message is lost.
    pub loss: u32,
    /// A message comes twice, the second time after up to [`Weather::late`].
    pub twice: u32,
    /// How late a second copy may come.
    pub late: Duration,
    /// The shortest way.
    pub delay_min: Duration,
    /// The longest way. Messages overtake each other as they like.
    pub delay_max: Duration,
    /// A message takes up to five seconds.
    pub stall: u32,
    /// The frame is changed on its way: one flipped bit, or cut off.
    pub corrupt: u32,
}

/// Something with a disk. The counts are of operations of that kind, and 0 is the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// A read fails, later ones do not.
    ReadError {
        /// After how many others.
        after: u32,
    },
    /// A write fails.
    WriteError {
        /// After how many others.
        after: u32,
    },
    /// A write writes only a part and fails.
    ShortWrite {
        /// After how many others.
        after: u32,
    },
    /// A sync fails: what was to be synced is marked clean and lost at the next crash, although
    /// later syncs "succeed".
    SyncError {
        /// After how many others.
        after: u32,
    },
    /// Creating, renaming or growing fails for want of space, for a while.
    NoSpace {
        /// How long.
        lasts: Duration,
    },
    /// Every storage call takes this much longer, for a while.
    Slow {
        /// How much.
        by: Duration,
        /// How long.
        lasts: Duration,
    },
    /// The bytes at rest change. Which byte is drawn from the disk's stream among those in use.
    Rot {
        /// How.
        rot: Rot,
        /// Where.
        place: Place,
    },
}

/// How bytes at rest change. Rot that looks like a write that never happened strikes only what a
/// later written sector proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// One bit.
    Flip,
    /// A sector of zeroes.
    Zero,
    /// A sector as it was before its last write.
    Stale,
    /// A sector holds what was meant for another.
    Misdirected,
    /// The file ends early.
    Cut,
    /// The file is gone.
    Gone,
}

/// Which files rot strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Log segments.
    Wal,
    /// Snapshots.
    Snapshot,
    /// The META file.
    Meta,
}

/// Where a wrong file comes from. Its checksums hold, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The disk of another machine of this cluster: somebody restored the wrong backup.
    Machine(Machine),
    /// A node of another cluster.
    Cluster,
    /// A later version of the program.
    Newer,
    /// A program with a bug: its parts contradict each other.
    Nonsense,
}

/// What a client asks at a time. A client asks one thing after the other: what comes due while an
/// answer is outstanding waits its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOp {
    /// Which client, counted from 0.
    pub client: u8,
    /// Which machine it asks; `None`: where it was last answered.
    pub via: Option<Machine>,
    /// What.
    pub kind: OpKind,
    /// Which key; the application gives it a meaning.
    pub key: u16,
    /// How large a value, in bytes.
    pub size: u32,
    /// How long it waits.
    pub patience: Duration,
}

/// The kinds of questions. An application without one of them takes the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Linearizable read.
    Get,
    /// Read without the promise of freshness.
    GetStale,
    /// Unconditional write.
    Put,
    /// Write if the key is as this client last saw it.
    Cas,
    /// Write if the key is absent.
    PutNew,
    /// Delete.
    Delete,
    /// List of keys.
    List,
}

impl Plan {
    /// How many machines there are.
    pub fn machines(&self) -> u8 {
        self.voters + self.learners
    }

    /// What this plan asks for that the system cannot do yet, in words; `None` if it can be run.
    pub fn refusal(&self) -> Option<String> {
        self.faults.iter().find_map(|Timed { at, what }| {
            let lacks = match what {
                Fault::Membership { .. } => "the library cannot change a membership yet",
                Fault::Bootstrap { .. } => "the daemon has no --bootstrap yet",
                _ => return None,
            };
            Some(format!("{lacks}: fault {} {what}", crate::plan_text::Span(*at)))
        })
    }
}

impl Weather {
    /// A local network on a good day: 0.1 to 0.5 ms, nothing lost.
    pub const FAIR: Weather = Weather {
        loss: 0,
        twice: 0,
        late: Duration::ZERO,
        delay_min: Duration::from_micros(100),
        delay_max: Duration::from_micros(500),
        stall: 0,
        corrupt: 0,
    };
}

impl Default for Knobs {
    /// The defaults of the library, with log files small enough to be left often.
    fn default() -> Knobs {
        Knobs {
            heartbeat: Duration::from_millis(75),
            election_timeout_min: Duration::from_millis(400),
            append_bytes_max: 1 << 20,
            inflight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 256 << 20,
            entry_bytes_max: 1 << 20,
            apply_bytes_max: 4 << 20,
            reads_max: 65_536,
            snapshot_bytes: 64 << 20,
            snapshot_entries: 1_000,
            tail_bytes: 64 << 10,
            chunk_bytes: 64 << 10,
            segment_bytes_first: 64 << 10,
            segment_bytes_max: 1 << 20,
            waiting_max: 131_072,
        }
    }
}

impl Default for DiskPace {
    fn default() -> DiskPace {
        DiskPace { sync_min: Duration::from_micros(200), sync_max: Duration::from_millis(2) }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "m{}", self.0 + 1)
    }
}
