//! From a data directory to a running node: forming, starting the threads, and stopping them.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{error, io};

use twox_hash::XxHash64;

use super::clock::Clock;
use super::events::{Listeners, NodeFailure};
use super::handle::{Handle, Shared};
use super::inbox::{Inbox, InboxLimits, Turn};
use super::metrics::Counters;
use super::pace::Stopping;
use super::snapshot_threads::{self, Reading};
use super::status::NodeStatus;
use super::stepper::{Outlets, Stepper};
use super::wal_thread::{self, WalQueue, WalThread};
use super::{lock, turns, worker};
use crate::config::Config;
use crate::membership::{Member, Membership};
use crate::replica::Replica;
use crate::state_machine::StateMachine;
use crate::storage::disk::{Disk, FileDisk};
use crate::storage::error::StorageError;
use crate::storage::meta::DataDir;
use crate::storage::{Storage, StorageOptions};
use crate::transport::{NoTransport, Transport};
use crate::types::{
    ClusterId, Entry, HardState, Index, LogPosition, NodeId, Payload, Term, WriteId,
};
use crate::write::{Recovered, Write};

/// A running node: a [`Handle`] that also keeps it running. Dropping it stops the node.
pub struct Node<S: StateMachine> {
    handle: Handle<S>,
    threads: Vec<JoinHandle<()>>,
    /// Its lock is held until the last thread has ended.
    _dir: DataDir,
}

/// A data directory that was read, before anything is sent, written or voted for on its behalf: the
/// place to look at what it holds and to turn back.
pub struct Opened {
    options: NodeOptions,
    dir: DataDir,
    storage: Storage,
    recovered: Recovered,
}

/// How a node runs. Every field has a safe default.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The data directory; made if it is not there.
    pub dir: PathBuf,
    /// What people call this node. Used when the directory is new; a directory of another name is
    /// refused. `None`: whatever the directory says.
    pub name: Option<String>,
    /// `host:port` where peers reach it. Used when it forms a cluster of its own.
    pub address: String,
    /// The core's settings. `id` and `seed` are overwritten: the id is the directory's.
    pub config: Config,
    /// The log's settings. `seed` is overwritten at each start.
    pub storage: StorageOptions,
    /// How much may wait for a pass.
    pub inbox: InboxLimits,
    /// Most proposals, and most reads, that may wait for their end; 131 072. Fewer: busy sooner.
    /// More: more memory while no quorum answers.
    pub waiting_max: usize,
    /// A sync slower than this is logged and counted; 100 ms.
    pub slow_sync: Duration,
    /// Whether a thread that calls [`propose`](Handle::propose) while nobody else does may make the pass
    /// that sees to it, instead of waking another thread; `false`. It saves one who proposes alone six
    /// in a hundred of the time. But other people's looks and wakers and the state machine then run
    /// within this call: a caller that holds a lock which one of those takes stops for ever.
    pub callers_make_passes: bool,
}

/// Why a node did not start.
#[derive(Debug)]
pub enum OpenError {
    /// The data directory refused; the text says what to do.
    Storage(StorageError),
    /// The directory belongs to no cluster yet: [`form`] one, or join.
    NotFormed,
    /// The directory belongs to a cluster of several, so it needs a transport.
    NotAlone(Membership),
    /// The settings do not fit together, and why.
    Config(&'static str),
    /// A thread could not be started.
    Thread(io::Error),
    /// The node ended before it could serve.
    Failed(NodeFailure),
}

impl NodeOptions {
    /// The defaults for a node whose data is in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> NodeOptions {
        NodeOptions {
            dir: dir.into(),
            name: None,
            address: "localhost".to_owned(),
            config: Config::new(NodeId(0)),
            storage: StorageOptions::new(random()),
            inbox: InboxLimits::default(),
            waiting_max: 131_072,
            slow_sync: Duration::from_millis(100),
            callers_make_passes: false,
        }
    }
}

/// The id of the cluster that forms with this membership: a digest of every member's node id, name
/// and address. Nodes that formed with the same membership are in the same cluster.
pub fn cluster_id_of(membership: &Membership) -> ClusterId {
    let mut digest = XxHash64::with_seed(0);
    for (id, member) in membership.members() {
        digest.write(&id.0.to_le_bytes());
        for text in [&member.name, &member.address] {
            digest.write(&(text.len() as u64).to_le_bytes());
            digest.write(text.as_bytes());
        }
    }
    ClusterId(digest.finish())
}

/// Makes a fresh data directory part of the cluster that begins with `membership`: writes it as
/// entry `1@1` into a new log, synced, then the cluster id into META, synced. Every member does the
/// same with the same membership. Killed in between, the directory is fresh as before.
///
/// # Panics
/// When the directory's node is not in the membership, or is formed already.
pub fn form(
    dir: &mut DataDir,
    membership: &Membership,
    options: &StorageOptions,
) -> Result<ClusterId, StorageError> {
    let mut meta = dir.meta().clone();
    assert!(meta.cluster.is_none(), "the directory belongs to a cluster already");
    assert!(membership.contains(meta.node_id), "{} is not in {membership}", meta.node_id);
    let cluster = cluster_id_of(membership);
    meta.cluster = Some(cluster);
    let position = LogPosition::new(Index(1), Term(1));
    let first = Entry { position, payload: Payload::Membership(membership.clone()) };
    let hard_state = HardState { term: Term(1), vote: None };
    Storage::create(Arc::clone(dir.disk()), &meta, options, (hard_state, vec![first]))?;
    dir.form(cluster)?;
    Ok(cluster)
}

impl Opened {
    /// Reads a directory that belongs to a cluster; `options.dir` and `options.name` are not looked
    /// at.
    pub fn read(options: NodeOptions, dir: DataDir) -> Result<Opened, OpenError> {
        if dir.meta().cluster.is_none() {
            return Err(OpenError::NotFormed);
        }
        // Two nodes of one cluster, and two runs of one node, must not draw the same waits and ids.
        let config = Config { id: dir.meta().node_id, seed: random(), ..options.config };
        if let Some(fault) = config.fault() {
            return Err(OpenError::Config(fault));
        }
        let disk: Arc<dyn Disk> = Arc::clone(dir.disk());
        let keeping = StorageOptions { seed: random(), ..options.storage };
        let (storage, recovered) = Storage::open(disk, dir.meta(), keeping)?;
        Ok(Opened { options: NodeOptions { config, ..options }, dir, storage, recovered })
    }

    /// The membership in force: that of the newest entry that holds one, else the snapshot's; empty
    /// when the log has not given one yet.
    pub fn membership(&self) -> Membership {
        let newest = self.recovered.entries.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership.clone()),
            Payload::Noop | Payload::Command(_) => None,
        });
        let snapshot = self.recovered.snapshot.as_ref();
        newest.or_else(|| snapshot.map(|meta| meta.membership.clone())).unwrap_or_default()
    }

    /// Gives a node that is alone in its cluster another address, durably. Nobody else has to agree,
    /// and nobody else can have written an entry of this term: it may be appended at once.
    ///
    /// # Panics
    /// When the node is not alone.
    pub fn readdress(&mut self, address: &str) -> Result<(), StorageError> {
        let membership = self.membership();
        let id = self.dir.meta().node_id;
        let name = self.dir.meta().name.clone();
        let only = membership.members().map(|(member, _)| member).eq([id]);
        assert!(only && membership.is_voter(id), "{id} is not alone in {membership}");
        let Recovered { hard_state, log_start, entries, .. } = &mut self.recovered;
        let last = entries.last().map_or(*log_start, |entry| entry.position);
        let moved = Member { name, address: address.to_owned() };
        let entry = Entry {
            position: LogPosition::new(last.index.next(), hard_state.term),
            payload: Payload::Membership(Membership::of_voters([(id, moved)])),
        };
        let write = Write {
            id: WriteId::default(),
            snapshots: Vec::new(),
            hard_state: None,
            truncate_from: None,
            entries: vec![entry.clone()],
        };
        self.storage.write(&[write])?;
        entries.push(entry);
        Ok(())
    }
}

impl<S: StateMachine> Node<S> {
    /// A durable cluster of one in this directory, formed when the directory is new. Returns when
    /// it serves: what was acknowledged in an earlier run is in `state` again.
    pub fn open(dir: impl AsRef<Path>, state: S) -> Result<Node<S>, OpenError> {
        let node = Node::open_with(NodeOptions::new(dir.as_ref()), state, NoTransport)?;
        let events = node.events();
        loop {
            let status = node.status();
            if let Some(failure) = &status.failed {
                return Err(OpenError::Failed(failure.clone()));
            }
            if 1 < status.core.membership.members().count() {
                return Err(OpenError::NotAlone(status.core.membership.clone()));
            }
            if status.core.ready && !status.restoring {
                return Ok(node);
            }
            // Whatever changes the status in these points is an event, and comes after it.
            events.recv();
        }
    }

    /// A node on the directory that the options name. A new directory forms a cluster of one;
    /// returns at once, before it leads or follows.
    pub fn open_with(
        options: NodeOptions,
        state: S,
        transport: impl Transport,
    ) -> Result<Node<S>, OpenError> {
        let disk = FileDisk::open(&options.dir)
            .map_err(|error| StorageError::io(options.dir.display().to_string(), "open", error))?;
        let mut dir = DataDir::open(Arc::new(disk), options.name.as_deref(), random())?;
        if dir.meta().cluster.is_none() {
            let name = dir.meta().name.clone();
            let me = Member { name, address: options.address.clone() };
            let alone = Membership::of_voters([(dir.meta().node_id, me)]);
            form(&mut dir, &alone, &options.storage)?;
        }
        Node::start(Opened::read(options, dir)?, state, transport)
    }

    /// A node on what was opened. `state` is empty: what it held comes back from the disk.
    pub fn start(
        opened: Opened,
        state: S,
        transport: impl Transport,
    ) -> Result<Node<S>, OpenError> {
        let Opened { options, dir, storage, recovered } = opened;
        let id = dir.meta().node_id;
        let clock = Clock::start();
        let replica =
            Replica::new(options.config, recovered, state, options.waiting_max, clock.now());
        let status = NodeStatus {
            at: clock.now(),
            core: replica.raft().status(),
            restoring: replica.is_restoring(),
            room: true,
            proposals_pending: 0,
            reads_pending: 0,
            failed: None,
            stopped: false,
        };
        let (inbox, first_turn) = Inbox::new(options.inbox);
        let shared = Arc::new(Shared {
            id,
            clock,
            inbox,
            status: Mutex::new(Arc::new(status)),
            counters: Counters::default(),
            listeners: Listeners::new(),
            failure: Mutex::new(None),
            stepper: Mutex::new(None),
            callers_make_passes: options.callers_make_passes,
        });
        let threads =
            start_threads(&shared, first_turn, replica, storage, transport, options.slow_sync)
                .map_err(OpenError::Thread)?;
        Ok(Node { handle: Handle { shared }, threads, _dir: dir })
    }

    /// A handle that can be given away.
    pub fn handle(&self) -> Handle<S> {
        self.handle.clone()
    }

    /// Stops the node and waits until its threads have ended: nothing new is accepted, what was
    /// accepted is written and synced, whoever waits gets an answer. A leader of several should
    /// [`transfer`](Handle::transfer) first.
    pub fn stop(mut self) -> Result<(), NodeFailure> {
        self.shut_down();
        match self.handle.shared.failure() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn shut_down(&mut self) {
        self.handle.stop();
        for thread in self.threads.drain(..) {
            // A panic was told as the node's failure.
            let _ = thread.join();
        }
    }
}

impl<S: StateMachine> Drop for Node<S> {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl<S: StateMachine> Deref for Node<S> {
    type Target = Handle<S>;

    fn deref(&self) -> &Handle<S> {
        &self.handle
    }
}

/// Each owns what makes the ones after it end: what passes are made on the log's queue and the
/// snapshots' jobs, the WAL thread the files' jobs. If one cannot be started, those that were
/// end by themselves.
fn start_threads<S: StateMachine>(
    shared: &Arc<Shared<S>>,
    first_turn: Turn,
    replica: Replica<S>,
    storage: Storage,
    transport: impl Transport,
    slow_sync: Duration,
) -> io::Result<Vec<JoinHandle<()>>> {
    let wal = Arc::new(WalQueue::default());
    let stopping = Arc::new(Stopping::default());
    let snapshots = storage.snapshots().clone();

    let mut reading = Reading::new(Arc::clone(shared), snapshots.clone());
    let (snapshot_reader, snapshot_reading) =
        worker::jobs(shared, "snapshot-reader", move |job| reading.read(job))?;
    let (told, stop) = (Arc::clone(shared), Arc::clone(&stopping));
    let (snapshot_writer, snapshot_writing) =
        worker::jobs(shared, "snapshot-writer", move |order| {
            snapshot_threads::write(&told, &snapshots, &stop, order);
        })?;
    let out = Outlets {
        transport: Box::new(transport),
        wal: Arc::clone(&wal),
        snapshot_writer,
        snapshot_reader,
        stopping,
    };
    let (told, queue) = (Arc::clone(shared), Arc::clone(&wal));
    let (files, file_keeping) =
        worker::jobs(shared, "files", move |job| wal_thread::keep_files(&told, &queue, job))?;
    let wal_thread = WalThread::new(Arc::clone(shared), storage, wal, files, slow_sync);
    let wal_writing = worker::spawn(shared, "wal", move || wal_thread.run())?;
    let passing = Arc::clone(shared);
    let stepper = Stepper::new(Arc::clone(shared), replica, out);
    let raft = worker::spawn(shared, worker::RAFT, move || {
        *lock(&passing.stepper) = Some(stepper);
        turns::run(&passing, first_turn);
    })?;
    Ok(vec![raft, wal_writing, file_keeping, snapshot_writing, snapshot_reading])
}

/// 64 bits nobody can foresee: the standard library keys its hashers from the system's generator.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> OpenError {
        OpenError::Storage(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Storage(error) => write!(f, "{error}"),
            OpenError::NotFormed => {
                f.write_str("the data directory belongs to no cluster yet: form one first")
            }
            OpenError::NotAlone(membership) => write!(
                f,
                "the data directory belongs to a cluster of several ({membership}): open it with a \
                 transport that reaches them"
            ),
            OpenError::Config(fault) => write!(f, "the settings do not fit together: {fault}"),
            OpenError::Thread(error) => write!(f, "a thread could not be started: {error}"),
            OpenError::Failed(failure) => write!(f, "the node ended at its start: {failure}"),
        }
    }
}

impl error::Error for OpenError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            OpenError::Storage(error) => Some(error),
            OpenError::Thread(error) => Some(error),
            OpenError::Failed(failure) => Some(failure),
            OpenError::NotFormed | OpenError::NotAlone(_) | OpenError::Config(_) => None,
        }
    }
}
