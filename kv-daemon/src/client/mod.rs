//! The client library: sends each request to a server that can serve it, tries again what may be
//! tried again, and says honestly how it ended.
//!
//! ```no_run
//! use kv_daemon::client::{Client, Error, Settings, When};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::new(vec!["http://127.0.0.1:8001".parse()?, "127.0.0.1:8002".parse()?]);
//! let client = Client::new(settings);
//! let put = client.put(b"color", "blue", When::Always).await?;
//! let record = client.get(b"color", Default::default()).await?.expect("it was written");
//! assert_eq!((&record.value[..], record.mod_revision), (&b"blue"[..], put.revision));
//!
//! // Write only if nobody else has meanwhile.
//! match client.put(b"color", "red", When::AtRevision(put.revision)).await {
//!     Ok(put) => println!("now at revision {}", put.revision),
//!     Err(Error::ConditionFailed { current }) => println!("somebody was faster: {current:?}"),
//!     // Nothing tells whether it was written: read, then decide.
//!     Err(Error::Unknown(why)) => println!("{why}"),
//!     Err(other) => return Err(other.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The rules it keeps:
//!
//! - A read is tried again until the deadline. A write is tried again only if nothing of it was sent,
//!   or a server says `not_applied`; in between it waits, longer each time and by chance.
//! - Where several clusters form an array (`docs/carp.md`), it fetches the array before its first
//!   request and sends each key to its owner with `Carp-Epoch`. An answer that names a larger epoch
//!   makes it fetch the array in the background; 421 changes the one slot; two redirects are
//!   followed. Without an array all goes to the servers it was given.
//! - Servers are tried in the order given, beginning with the one that answered last.
//!
//! The way of a request: `keys` (what is meant) -> `effort` (tries, deadline) -> `map` (whom to ask)
//! -> `wire` (one exchange, kept connections) -> `verdict` (what that means).

mod array;
mod effort;
mod error;
mod keys;
mod list;
mod map;
mod url;
mod verdict;
pub mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use array::ArraySet;
pub use error::{Error, Problem};
pub use keys::{Deleted, Put, When};
pub use list::{Item, ListPage, Listing, Wanted};
pub use url::ServerUrl;

use map::Map;
use wire::{Broken, Call, Reply, Wire};

/// What a client is made with.
#[derive(Clone)]
pub struct Settings {
    /// Servers of one cluster, or of any clusters of one array; at least one.
    pub servers: Vec<ServerUrl>,
    /// How long a request may take, all its tries together; 5 s. Shorter: more end in
    /// [`Error::Timeout`] or [`Error::Unknown`] while a leader is elected, which takes about one
    /// second. Longer: a caller waits longer for bad news.
    pub timeout: Duration,
    /// Whether to fetch the array and ask owners directly. False: any server is asked and forwards.
    pub routes: bool,
    /// Told of every exchange, after it.
    pub watch: Option<Watch>,
}

/// Who is told of every exchange.
pub type Watch = Arc<dyn Fn(&Exchange<'_>) + Send + Sync>;

/// One exchange with one server.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// Who was asked.
    pub server: &'a ServerUrl,
    /// What was sent.
    pub call: &'a Call,
    /// What came of it.
    pub result: &'a Result<Reply, Broken>,
    /// How long it took.
    pub took: Duration,
}

impl Settings {
    /// With the defaults above.
    pub fn new(servers: Vec<ServerUrl>) -> Settings {
        Settings { servers, timeout: Duration::from_secs(5), routes: true, watch: None }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("servers", &self.servers)
            .field("timeout", &self.timeout)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

/// A client. Clones share connections and what is known of the array. Needs a tokio runtime.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    wire: Wire,
    map: Map,
    /// Somebody fetches the array in the background.
    fetching: AtomicBool,
}

impl Client {
    /// A client of these servers. Nothing is sent yet. Asserts that there is at least one server.
    pub fn new(settings: Settings) -> Client {
        let map = Map::new(settings.servers.clone());
        let (wire, fetching) = (Wire::default(), AtomicBool::new(false));
        Client { inner: Arc::new(Inner { settings, wire, map, fetching }) }
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }
}
