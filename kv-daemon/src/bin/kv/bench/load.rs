//! The clients of the benchmark: each asks one thing at a time, of the server its key belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use carp::Array;
use kv_daemon::client::ServerUrl;
use tokio::time::{sleep, timeout};

use super::pace::Pace;
use super::tally::Tally;
use super::wire::{self, Connection, Request};

/// How long a client waits after a connection could not be made, so that it does not spin.
const RECONNECT: Duration = Duration::from_millis(20);

/// What all clients share.
pub struct Load {
    /// Whom to ask.
    pub targets: Arc<Targets>,
    /// When.
    pub pace: Pace,
    /// Keys are the numbers below this, taken by chance when the pace does not count them.
    pub keys: u64,
    /// This share of requests reads, 0 to 1; the others write.
    pub read_ratio: f64,
    /// What is written.
    pub value: Vec<u8>,
    /// What stands behind a read's path: empty, or a query that begins with `?`.
    pub read_query: &'static str,
    /// When an answer comes too late.
    pub timeout: Duration,
    /// So many were answered, for the line that shows how far it is.
    pub answered: AtomicU64,
    /// So many failed.
    pub failed: AtomicU64,
}

/// The servers: of one cluster, or of each member of an array.
pub struct Targets {
    clusters: Vec<Vec<ServerUrl>>,
    array: Option<Owners>,
}

struct Owners {
    array: Array,
    /// For each slot its owner, as a place in `clusters`.
    by_slot: Vec<usize>,
}

impl Targets {
    /// Any of these serves any key.
    pub fn one(servers: Vec<ServerUrl>) -> Targets {
        Targets { clusters: vec![servers], array: None }
    }

    /// Each key goes to a server of the member that owns it.
    ///
    /// # Errors
    /// A member that owns slots has no address that can be used.
    pub fn array(array: Array) -> Result<Targets, String> {
        let mut clusters = Vec::new();
        for (member, slots) in array.members().iter().zip(array.counts()) {
            let urls: Vec<ServerUrl> =
                member.urls.iter().filter_map(|url| url.parse().ok()).collect();
            if urls.is_empty() && 0 < slots {
                return Err(format!("the array names no server of {}", member.id));
            }
            clusters.push(urls);
        }
        let owner = |slot| {
            let owner = array.owner(slot).map(|member| &member.id);
            let place = array.members().iter().position(|member| Some(&member.id) == owner);
            place.ok_or_else(|| format!("slot {} has no owner", slot.0))
        };
        let by_slot = array.slots().all().map(owner).collect::<Result<_, _>>()?;
        Ok(Targets { clusters, array: Some(Owners { array, by_slot }) })
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        self.clusters.iter().map(Vec::len).sum()
    }

    /// How many clusters they form.
    pub fn clusters(&self) -> usize {
        self.clusters.len()
    }

    /// Which cluster a key belongs to.
    fn cluster_of(&self, number: u64) -> usize {
        let Some(Owners { array, by_slot }) = &self.array else { return 0 };
        by_slot[usize::from(array.slot(&wire::key(number)).0)]
    }
}

/// One client: asks until the pace ends.
pub async fn client(load: Arc<Load>, number: usize) -> Tally {
    let mut tally = Tally::default();
    let mut random = Random(number as u64 + 1);
    let mut ways: Vec<Way> =
        load.targets.clusters.iter().map(|servers| Way::new(servers, number)).collect();
    while let Some(turn) = load.pace.next().await {
        let key = turn.number.unwrap_or_else(|| random.below(load.keys));
        let reads = random.share() < load.read_ratio;
        let way = &mut ways[load.targets.cluster_of(key)];
        match way.ask(&load, reads, key).await {
            Ok(found) => {
                let times = if reads { &mut tally.reads } else { &mut tally.writes };
                times.record(turn.begin.elapsed());
                tally.missing += u64::from(!found);
                load.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(kind) => {
                tally.failed(kind);
                load.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    tally
}

/// A client's connection to one cluster.
struct Way {
    servers: Vec<ServerUrl>,
    /// Which of them is asked now.
    at: usize,
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    put: Request,
    get: Request,
}

impl Way {
    /// Clients are spread over the servers.
    fn new(servers: &[ServerUrl], client: usize) -> Way {
        Way { servers: servers.to_vec(), at: client, open: None }
    }

    /// Whether the key is there, or the kind of the failure.
    async fn ask(&mut self, load: &Load, reads: bool, key: u64) -> Result<bool, String> {
        let asked = timeout(load.timeout, self.exchange(load, reads, key)).await;
        let answer = asked.unwrap_or_else(|_| Err("timeout".to_owned()));
        match answer {
            Ok(wire::Answer { status: 200..300, .. }) => Ok(true),
            Ok(wire::Answer { status: 404, .. }) if reads => Ok(false),
            Ok(wire::Answer { status, problem }) if problem.is_empty() => {
                Err(format!("status {status}"))
            }
            Ok(wire::Answer { problem, .. }) => Err(problem),
            Err(kind) => {
                // Another server, and a fresh connection.
                self.open = None;
                self.at += 1;
                Err(kind)
            }
        }
    }

    async fn exchange(
        &mut self,
        load: &Load,
        reads: bool,
        key: u64,
    ) -> Result<wire::Answer, String> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let server = &self.servers[self.at % self.servers.len()];
                let Ok(connection) = Connection::open(server).await else {
                    sleep(RECONNECT).await;
                    return Err("cannot connect".to_owned());
                };
                let put = Request::put(server, &load.value);
                let get = Request::get(server, load.read_query);
                self.open.insert(Open { connection, put, get })
            }
        };
        let request = if reads { open.get.of(key) } else { open.put.of(key) };
        let asked = open.connection.ask(request).await;
        asked.map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => error.to_string(),
            _ => "connection broken".to_owned(),
        })
    }
}

/// Splitmix64: the same requests in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Below `limit`, which is above 0.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// From 0 to below 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
