//! The life of one node: listen, open the directory, form or go on, serve, hand over, stop. The
//! order of these steps is here and nowhere else; what each does is elsewhere.

use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::service::TowerToHyperService;
use raft_core::node::{self, Node, NodeEvent, NodeFailure, NodeOptions, OpenError, Opened};
use raft_core::storage::StorageOptions;
use raft_core::storage::disk::FileDisk;
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::{DataDir, Meta};
use raft_core::types::Time;
use tokio::task::JoinHandle;
use warp::Filter;

use crate::config::{Config, default_name, join_address};
use crate::daemon::{Asker, Daemon, Serving, name_of};
use crate::form::start::{Restart, check_restart};
use crate::form::{Forming, Identity, formation_of};
use crate::http::accept::{Accepting, listen};
use crate::http::routes;
use crate::http::workers::Workers;
use crate::kv::request::{Answer, Failure, Outcome, Reason, Request};
use crate::kv::shared::SharedStore;
use crate::peers::{self, Endpoints, Peers, PeersConfig, Service};
use crate::shard::Shard;
use crate::shard::seed::Seed;

/// How long a leader that stops waits for another to take over.
const HANDOVER: Duration = Duration::from_secs(1);
/// How long requests under way may still take when a node stops.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the last writes and syncs may take.
const LAST_SYNC: Duration = Duration::from_millis(1200);
/// How long the last bytes of answers may take to leave. All four together are below 5 s.
const LAST_BYTES: Duration = Duration::from_millis(300);

/// Why the program ends with something else than 0. The codes are those of `docs/operations.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The process's exit code.
    pub code: u8,
    /// One sentence that says what to do.
    pub message: String,
}

impl Exit {
    /// Anything that has no code of its own.
    pub fn other(message: impl Into<String>) -> Exit {
        Exit { code: 1, message: message.into() }
    }

    /// Flags, peers or directory that do not fit.
    pub fn usage(message: impl Into<String>) -> Exit {
        Exit { code: 2, message: message.into() }
    }
}

/// Runs a node until `shutdown` comes or it fails.
///
/// # Errors
/// What made it fail, with the exit code for it.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Exit> {
    let mut server = Server::start(config).await?;
    server.greet();
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        exit = server.failed() => Err(exit),
    };
    server.stop().await;
    ended
}

/// A node that listens. Dropping it cuts everything off; [`Server::stop`] ends it well.
pub struct Server {
    daemon: Arc<Daemon>,
    data_dir: String,
    address: SocketAddr,
    accepting: Accepting,
    running: Running,
    life: JoinHandle<Exit>,
}

/// The Raft node, once there is one, kept where [`Server::stop`] finds it.
type Running = Arc<Mutex<Option<Node<SharedStore>>>>;

impl Server {
    /// Listens, opens the data directory and begins to serve. Forming a cluster and reading the log
    /// go on in the background: `/readyz` says when they are done.
    ///
    /// # Errors
    /// The port or the directory is not to be had.
    pub async fn start(config: Config) -> Result<Server, Exit> {
        let seed = match (&config.carp, &config.cluster_name) {
            (Some(path), Some(me)) => Some(Seed::read(path, me).map_err(Exit::usage)?),
            (_, _) => None,
        };
        let shard = Shard::new(config.cluster_name.clone(), seed);
        let listener = match listen(&config.host, config.port).await {
            Ok(listener) => listener,
            Err(error) => return Err(no_port(&config, &error).await),
        };
        let address = listener.local_addr().map_err(|error| Exit::other(error.to_string()))?;
        let dir = open_dir(&config, address.port())?;
        let me = Identity {
            node_id: dir.meta().node_id,
            name: dir.meta().name.clone(),
            address: config.advertised(address.port()),
        };
        let daemon = Arc::new(Daemon::new(
            me.name.clone(),
            me.node_id,
            me.address.clone(),
            config.value_bytes_max,
            config.http.clone(),
            shard,
            config.to_json(),
        ));
        let hello = Arc::clone(&daemon);
        let listed = config.peers.clone();
        let endpoints = Endpoints::new(move || hello.hello(&listed));
        let client = routes::client(Arc::clone(&daemon));
        let filter = peers::routes(endpoints.clone()).or(client).unify();
        let workers = Workers::start()
            .map_err(|error| Exit::other(format!("cannot start threads: {error}")))?;
        let accepting = Accepting::start(
            listener,
            config.http.clone(),
            workers,
            TowerToHyperService::new(warp::service(filter)),
        );
        let data_dir = config.data_dir.display().to_string();
        let running = Running::default();
        let life =
            Life { config, me, daemon: Arc::clone(&daemon), endpoints, running: running.clone() };
        let life = tokio::spawn(async move { life.live(dir).await.unwrap_or_else(|exit| exit) });
        Ok(Server { daemon, data_dir, address, accepting, running, life })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.daemon.name
    }

    /// Returns when the node cannot go on. May be awaited again.
    pub async fn failed(&mut self) -> Exit {
        match (&mut self.life).await {
            Ok(exit) => exit,
            Err(error) => Exit { code: 101, message: format!("a bug: {error}") },
        }
    }

    /// Tells stdout where the node is and what to try; the log goes to stderr.
    fn greet(&self) {
        let (name, url) = (&self.daemon.name, format!("http://{}", self.daemon.address));
        let text = format!(
            "{name} listens on {url}, its data in {}\n\
             try: curl -X PUT {url}/kv/color -d blue && curl {url}/kv/color\n",
            self.data_dir
        );
        // A closed stdout is no reason not to serve.
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    /// Hands leadership over, lets requests under way finish, syncs, and closes. Takes less than
    /// 5 s, also without a majority.
    pub async fn stop(self) {
        self.daemon.stop();
        self.hand_over().await;
        let drained = Instant::now() + DRAIN;
        while 0 < self.daemon.metrics.inflight() && Instant::now() < drained {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let left = self.daemon.metrics.inflight();
        if 0 < left {
            log::info!("stopping: {left} requests did not end in {DRAIN:?}");
        }
        self.accepting.stop();
        self.life.abort();
        let node = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(node) = node {
            // Whoever still waits is answered with what is known of its fate.
            let stopped = tokio::task::spawn_blocking(|| node.stop());
            match tokio::time::timeout(LAST_SYNC, stopped).await {
                Ok(Ok(Ok(()))) => log::info!("stopping: everything is synced"),
                Ok(Ok(Err(failure))) => log::error!("stopping: {failure}"),
                Ok(Err(_)) | Err(_) => log::error!("stopping: the disk does not come to an end"),
            }
        }
        if let Some(serving) = self.daemon.serving() {
            serving.peers.stop();
        }
        self.accepting.ended(LAST_BYTES).await;
        log::info!("stopped");
    }

    async fn hand_over(&self) {
        let Some(serving) = self.daemon.serving() else { return };
        let status = serving.handle.status();
        if !status.leads() || status.core.membership.voters().len() < 2 {
            return;
        }
        log::info!("stopping: handing leadership over");
        match tokio::time::timeout(HANDOVER, serving.handle.transfer(None)).await {
            Ok(Ok(leader)) => log::info!("stopping: {} leads now", name_of(&status, leader)),
            Ok(Err(failure)) => log::info!("stopping: nobody took over ({failure:?})"),
            Err(_) => log::info!("stopping: nobody took over in {HANDOVER:?}"),
        }
    }
}

/// What a node does after it listens.
struct Life {
    config: Config,
    me: Identity,
    daemon: Arc<Daemon>,
    endpoints: Endpoints,
    running: Running,
}

impl Life {
    /// Forms if need be, serves, and returns when the node is over.
    async fn live(self, mut dir: DataDir) -> Result<Exit, Exit> {
        if dir.meta().cluster.is_none() {
            dir = self.form(dir).await?;
        }
        let cluster = dir.meta().cluster.ok_or_else(|| Exit::other("the node did not form"))?;
        self.daemon.formed(cluster);
        let opened = self.read(dir).await?;
        let membership = opened.membership();
        let defaults = PeersConfig::new(self.me.node_id, cluster);
        // An entry with the largest value, and its head, must fit into a frame.
        let value_bytes_max = usize::try_from(self.config.value_bytes_max).unwrap_or(usize::MAX);
        let peers_config = PeersConfig {
            answer_timeout: self.config.election_timeout,
            frame_bytes_max: defaults.frame_bytes_max.max(value_bytes_max.saturating_add(1 << 20)),
            ..defaults
        };
        let peers = Peers::new(peers_config, tokio::runtime::Handle::current());
        let store = SharedStore::new();
        let (state, transport) = (store.clone(), peers.transport());
        let started = blocking(move || Node::start(opened, state, transport)).await?;
        let node = started.map_err(|error| open_exit(&error))?;
        let handle = node.handle();
        let mut events = handle.events();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);

        peers.attach(Arc::new(handle.clone()), Arc::new(Forwarded(Arc::clone(&self.daemon))));
        self.endpoints.open(peers.clone());
        self.daemon.serve(Serving::new(cluster, handle.clone(), store, peers));
        log::info!("{} ({}) serves cluster {cluster}: {membership}", self.me.name, self.me.node_id);

        // What failed before we listened is in the status.
        if let Some(failure) = &handle.status().failed {
            return Ok(failure_exit(failure));
        }
        while let Some(event) = events.next().await {
            if let NodeEvent::Failed(failure) = event {
                return Ok(failure_exit(&failure));
            }
        }
        std::future::pending().await
    }

    /// Reads what the directory holds and compares it to the flags. Nothing has been sent before
    /// that: a node that must not start takes part in nothing.
    async fn read(&self, dir: DataDir) -> Result<Opened, Exit> {
        let options = self.node_options();
        let opened = blocking(move || Opened::read(options, dir)).await?;
        let mut opened = opened.map_err(|error| open_exit(&error))?;
        let dir = self.config.data_dir.display().to_string();
        let restart = check_restart(&dir, &self.me, &self.config.peers, &opened.membership());
        let Restart { warning, readdressed } = restart.map_err(Exit::usage)?;
        if let Some(warning) = warning {
            log::warn!("{warning}");
        }
        if let Some(address) = readdressed {
            log::info!("alone, so it goes on at its new address {address}");
            opened = blocking(move || opened.readdress(&address).map(|()| opened))
                .await?
                .map_err(|error| storage_exit(&error))?;
        }
        Ok(opened)
    }

    /// Makes a fresh directory part of a cluster: of its own without peers, else of the one that
    /// all peers agree on.
    async fn form(&self, mut dir: DataDir) -> Result<DataDir, Exit> {
        let formation = if self.config.peers.is_empty() {
            formation_of(std::slice::from_ref(&self.me))
        } else {
            let origin = Instant::now();
            let now = move || Time::default() + origin.elapsed();
            let (me, peers) = (self.me.clone(), self.config.peers.clone());
            let forming = Forming::new(me, peers, env!("CARGO_PKG_VERSION"), now());
            let forming = Arc::new(Mutex::new(forming));
            self.daemon.forms(Arc::clone(&forming));
            peers::form(forming, now).await
        };
        let options = self.storage_options();
        let membership = formation.membership;
        let dir = blocking(move || {
            let formed = node::form(&mut dir, &membership, &options);
            formed.map(|_| dir)
        });
        let dir = dir.await?.map_err(|error| storage_exit(&error))?;
        if self.config.peers.is_empty() {
            log::info!(
                "made a new, empty cluster of one in {} (for a cluster of several, start with \
                 --peers and another --id)",
                self.config.data_dir.display()
            );
        }
        Ok(dir)
    }

    fn node_options(&self) -> NodeOptions {
        NodeOptions {
            name: Some(self.me.name.clone()),
            address: self.me.address.clone(),
            config: self.config.raft(self.me.node_id),
            storage: self.storage_options(),
            // Nobody here proposes with a lock in hand.
            callers_make_passes: true,
            ..NodeOptions::new(&self.config.data_dir)
        }
    }

    fn storage_options(&self) -> StorageOptions {
        let defaults = StorageOptions::new(crate::random());
        // Segments are made of whole pages.
        let segment_bytes_max = self.config.segment_bytes & !4095;
        let segment_bytes_first = defaults.segment_bytes_first.min(segment_bytes_max);
        StorageOptions { segment_bytes_first, segment_bytes_max, ..defaults }
    }
}

/// Answers the writes that other nodes forward to this one.
struct Forwarded(Arc<Daemon>);

impl Service for Forwarded {
    fn call(
        &self,
        request: Request,
        time_left: Duration,
        hops: u8,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>> {
        let daemon = Arc::clone(&self.0);
        if daemon.is_stopping() {
            let outcome = Some(Outcome::NotApplied);
            return Box::pin(async move { Err(Failure { reason: Reason::ShuttingDown, outcome }) });
        }
        Box::pin(async move {
            {
                let asker = Asker { hops, epoch: None };
                daemon.ask(request, Instant::now() + time_left, asker).await
            }
        })
    }
}

/// Locks the directory and reads who it is, or makes a new one.
fn open_dir(config: &Config, port: u16) -> Result<DataDir, Exit> {
    let dir = &config.data_dir;
    let disk = FileDisk::open(dir).map_err(|error| {
        Exit::other(format!("--data-dir {} cannot be used: {error}", dir.display()))
    })?;
    let name = match &config.name {
        Some(name) => name.clone(),
        None => match Meta::load(&disk).map_err(|error| storage_exit(&error))? {
            Some(meta) => meta.name,
            None => default_name(port),
        },
    };
    DataDir::open(Arc::new(disk), Some(&name), crate::random())
        .map_err(|error| storage_exit(&error))
}

/// The port is not to be had: who has it, and which flag chooses another.
async fn no_port(config: &Config, error: &io::Error) -> Exit {
    let wanted = join_address(&config.host, config.port);
    if error.kind() != io::ErrorKind::AddrInUse {
        return Exit::other(format!("cannot listen on {wanted}: {error}; see --host and --port"));
    }
    let who = match peers::hello(&wanted).await {
        Ok(hello) => format!("kv-daemon {}", hello.identity.name),
        Err(_) => "another process".to_owned(),
    };
    Exit {
        code: 10,
        message: format!("{wanted} is in use by {who}: stop that, or choose another --port"),
    }
}

fn open_exit(error: &OpenError) -> Exit {
    match error {
        OpenError::Storage(error) => storage_exit(error),
        OpenError::Failed(failure) => failure_exit(failure),
        OpenError::Config(_) => Exit::usage(error.to_string()),
        OpenError::NotFormed | OpenError::NotAlone(_) | OpenError::Thread(_) => {
            Exit::other(error.to_string())
        }
    }
}

fn storage_exit(error: &StorageError) -> Exit {
    let code = match error {
        StorageError::Locked { .. } => 11,
        StorageError::WrongName { .. }
        | StorageError::ForeignNode { .. }
        | StorageError::ForeignCluster { .. } => 12,
        StorageError::Damage { .. } => 13,
        StorageError::NewerFormat { .. } => 14,
        StorageError::NoSpace { .. } | StorageError::Io { .. } | StorageError::Poisoned => 1,
    };
    Exit { code, message: error.to_string() }
}

/// A node that was running and is over.
fn failure_exit(failure: &NodeFailure) -> Exit {
    let code = match failure {
        NodeFailure::Storage(error) if error.is_damage() => 13,
        NodeFailure::Storage(_) => 15,
        NodeFailure::Restore(_) => 13,
        NodeFailure::Panicked { .. } => 101,
    };
    Exit { code, message: failure.to_string() }
}

/// Runs what waits for a disk beside the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Exit> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Exit { code: 101, message: format!("a bug: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::types::NodeId;

    /// Operators and scripts rely on these numbers.
    #[test]
    fn each_refusal_of_the_disk_has_its_exit_code() {
        let file = || "META".to_owned();
        let (a, b) = (NodeId(1), NodeId(2));
        let rows = [
            (StorageError::Locked { file: file(), holder: "process 7".into() }, 11),
            (StorageError::WrongName { file: file(), wanted: "a".into(), found: "b".into() }, 12),
            (StorageError::ForeignNode { file: file(), expected: a, found: b }, 12),
            (StorageError::damage("wal/1", 7, "x", "y"), 13),
            (StorageError::NewerFormat { file: file(), found: 2, known: 1 }, 14),
            (StorageError::NoSpace { file: file() }, 1),
        ];
        for (error, code) in rows {
            assert_eq!(storage_exit(&error).code, code, "{error}");
        }
        assert_eq!(failure_exit(&NodeFailure::Storage(StorageError::Poisoned)).code, 15);
        assert_eq!(failure_exit(&NodeFailure::Panicked { thread: "raft" }).code, 101);
    }

    #[test]
    fn stopping_takes_less_than_five_seconds() {
        assert!(HANDOVER + DRAIN + LAST_SYNC + LAST_BYTES < Duration::from_secs(5));
    }
}
