//! An array of clusters, as one node of one of them lives in it.
//!
//! What this cluster serves is in its own log ([`crate::kv::sharding`]); nothing here decides that.
//! Here is what waits: [`seed`] reads the map a node is started with, [`follow`] is the leader's task
//! that brings newer maps into the log and learns what the others have let go of, [`links`] carries
//! requests to other clusters, [`scatter`] merges their lists.

pub mod follow;
pub mod links;
pub mod scatter;
pub mod seed;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use carp::ownership::Applied;
use carp::{Array, MemberId, Ownership};
use tokio::sync::{Semaphore, watch};

use self::links::Links;
use self::seed::Seed;

/// How many maps before the one in force a node can still tell the changes since.
const EARLIER_MAX: usize = 8;

/// Lists over all clusters that one node gathers at a time: each holds a page of every cluster.
const SCATTERS_MAX: usize = 16;

/// What a node holds of the array beside its log.
#[derive(Debug)]
pub struct Shard {
    /// What this node calls its cluster, if it was told: `--cluster-name`.
    pub name: Option<MemberId>,
    /// The map it was started with: `--carp`.
    pub seed: Option<Seed>,
    /// The way to other clusters.
    pub links: Links,
    /// Requests handed on to other clusters.
    pub forwarded: AtomicU64,
    /// Clients told that they asked the wrong cluster.
    pub misdirected: AtomicU64,
    /// The epoch of the map in force; 0 without one.
    epoch: watch::Sender<u64>,
    /// Maps that were in force here before, the newest last.
    earlier: Mutex<VecDeque<Arc<Ownership>>>,
    /// What the other clusters said of themselves when they were last asked, or why they did not.
    heard: Mutex<BTreeMap<MemberId, Result<Applied, String>>>,
    scatters: Semaphore,
}

impl Shard {
    /// A node that was started with this.
    pub fn new(name: Option<MemberId>, seed: Option<Seed>) -> Shard {
        Shard {
            name,
            seed,
            links: Links::default(),
            forwarded: AtomicU64::new(0),
            misdirected: AtomicU64::new(0),
            epoch: watch::channel(0).0,
            earlier: Mutex::default(),
            heard: Mutex::default(),
            scatters: Semaphore::new(SCATTERS_MAX),
        }
    }

    /// Follows the epoch of the map in force; 0 without one. Lags by some milliseconds.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// A map of this epoch that was in force here before, if this process still has it.
    pub fn earlier(&self, epoch: u64) -> Option<Array> {
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        let found = earlier.iter().find(|own| own.array().epoch().0 == epoch);
        found.map(|own| own.array().clone())
    }

    /// What the other clusters said when the leader last asked them, or why they did not.
    pub fn heard(&self) -> BTreeMap<MemberId, Result<Applied, String>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The map in force has changed, or is seen for the first time.
    fn turned(&self, own: &Arc<Ownership>) {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        if earlier.back().is_none_or(|last| last.array().epoch() < own.array().epoch()) {
            earlier.push_back(Arc::clone(own));
        }
        while EARLIER_MAX < earlier.len() {
            earlier.pop_front();
        }
        drop(earlier);
        self.epoch.send_replace(own.array().epoch().0);
    }
}
