//! What a client may ask of the key-value service, and what it can be told.
//!
//! The HTTP shell turns a request into a [`Request`] and an [`Answer`] or [`Failure`] back into a
//! response; a node that does not lead sends the very same values to the leader.

use std::time::Duration;

use std::collections::BTreeMap;

use bytes::Bytes;
use carp::json::JSON_BYTES_MAX;
use carp::{MemberId, Moved};
use serde::{Deserialize, Serialize};

/// The longest key, in bytes. The shortest is 1.
pub const KEY_BYTES_MAX: usize = 4096;

/// The longest value any node can be set to allow, in bytes: 1 GiB.
pub const VALUE_BYTES_MAX: u64 = 1 << 30;

/// The most items one page of a list may hold.
pub const LIST_ITEMS_MAX: u32 = 10_000;

/// A question or a wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What is the value of this key?
    Get {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// How fresh the answer has to be.
        level: ReadLevel,
    },
    /// Give this key this value.
    Put {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// Any bytes, also none.
        value: Bytes,
        /// Only if this holds.
        condition: Condition,
    },
    /// Take this key away. Absent is no error.
    Delete {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// Only if this holds.
        condition: Condition,
    },
    /// Which keys are there?
    List {
        /// Which part of them.
        query: ListQuery,
        /// How fresh the answer has to be.
        level: ReadLevel,
    },
    /// Go by this map of the array.
    SetMap {
        /// The name of this cluster.
        cluster: MemberId,
        /// A whole `carp::Array` as JSON, at most [`JSON_BYTES_MAX`] bytes.
        text: Bytes,
    },
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadLevel {
    /// It sees every write acknowledged before it began (thesis 6.4).
    #[default]
    Linearizable,
    /// Whatever this node holds; with `max_stale`, only if the leader was heard from that recently.
    Stale {
        /// The oldest contact with the leader that will do.
        max_stale: Option<Duration>,
    },
}

/// What must hold for a write to be carried out. Empty: anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `If-Match`, `?cas=N`: the key exists and its `mod_revision` is among these.
    pub if_match: Option<Tags>,
    /// `If-None-Match`, `?cas=0`: the key does not exist or its `mod_revision` is not among these.
    pub if_none_match: Option<Tags>,
}

/// The revisions a condition names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tags {
    /// `*`: any revision, that is, the key exists.
    Any,
    /// Any of these.
    Revisions(Vec<u64>),
}

/// Which part of the ordered keys a list wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListQuery {
    /// Only keys that begin so.
    pub prefix: Bytes,
    /// Only keys at or after this one.
    pub start: Bytes,
    /// Only keys after this one (a page's cursor).
    pub after: Option<Bytes>,
    /// At most this many items; 1 to 10 000.
    pub limit: u32,
    /// What to tell of each.
    pub shape: ListShape,
}

/// What a list tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListShape {
    /// Keys, values and revisions.
    #[default]
    Items,
    /// Keys only.
    Keys,
    /// Only how many there are (of all pages).
    Count,
}

/// A key's value and its story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The store's revision when the key came to be.
    pub create_revision: u64,
    /// The store's revision at the last change of the key: its ETag.
    pub mod_revision: u64,
    /// How often it was written since it came to be; 1 is the first.
    pub version: u64,
}

/// What the service answers. `revision` is always the store's revision the answer saw or made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Get`].
    Got {
        /// `None`: no such key.
        record: Option<Record>,
        /// The store's.
        revision: u64,
    },
    /// To [`Request::Put`]. The key's `mod_revision` is `revision`.
    Put {
        /// The store's, now also the key's.
        revision: u64,
        /// The key's first write since it came to be.
        created: bool,
        /// How often it was written since.
        version: u64,
    },
    /// To [`Request::Delete`].
    Deleted {
        /// 0 or 1.
        deleted: u64,
        /// The store's.
        revision: u64,
    },
    /// The condition did not hold: nothing was changed.
    ConditionFailed {
        /// The key's `mod_revision`, if it exists.
        current: Option<u64>,
        /// The store's.
        revision: u64,
    },
    /// To [`Request::List`].
    Listed(Listed),
    /// To [`Request::SetMap`].
    MapSet {
        /// The epoch of the map in force.
        epoch: u64,
        /// It was not in force before.
        changed: bool,
    },
}

/// A page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// In key order; the values are empty for [`ListShape::Keys`], no items for `Count`.
    pub items: Vec<(Bytes, Record)>,
    /// How many items are in this page (or in all, for [`ListShape::Count`]).
    pub count: u64,
    /// The last key of this page when there are more.
    pub next: Option<Bytes>,
    /// The store's.
    pub revision: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub reason: Reason,
    /// For writes: whether the store may have changed. For reads: `None`.
    pub outcome: Option<Outcome>,
}

/// Whether a failed write may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Certainly not, and it will not be.
    NotApplied,
    /// Nobody can tell (yet): it may be, now or later.
    Unknown,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No leader could be found in time.
    NoLeader,
    /// The leader was lost while the write was under way.
    LeaderLost,
    /// Too much is under way: come back in a moment.
    Busy,
    /// The request's own deadline passed.
    Deadline,
    /// The disk is full; reads go on.
    NoSpace,
    /// The value is larger than this node allows.
    TooLarge {
        /// What is allowed, in bytes.
        bytes_max: u64,
    },
    /// A stale read asked for a fresher state than this node has.
    TooStale {
        /// How long ago the leader was last heard from; `None`: never.
        last_contact: Option<Duration>,
    },
    /// The request was handed on too often between nodes that each thought another one leads.
    TooManyHops,
    /// This node is stopping.
    ShuttingDown,
    /// This node has not formed or joined a cluster yet.
    Forming,
    /// This node is putting back a snapshot and has no state to read yet.
    Restoring,
    /// The request breaks a rule of the store, or comes from a node that speaks a newer dialect.
    Invalid {
        /// Which rule, in words.
        why: String,
    },
    /// The key is another cluster's, and the client keeps a map itself.
    Moved(Box<Moved>),
    /// The keys of the request belong to several clusters: each with its keys.
    KeysApart {
        /// By the name of the cluster.
        owners: BTreeMap<MemberId, Vec<Bytes>>,
    },
    /// This cluster will serve the key; it is not known yet that its former owner has let go.
    Coming,
    /// No node of the cluster that owns the key could be reached.
    Unreachable {
        /// That cluster.
        cluster: MemberId,
    },
    /// Another cluster goes by a newer map than this one, which has to be known first.
    MapBehind {
        /// The epoch of the newer one.
        epoch: u64,
    },
    /// A cluster of our map answers and is in no array: what it holds is not its part of ours.
    MapMissing {
        /// That cluster.
        cluster: MemberId,
    },
    /// The map was not taken: the old one stays.
    MapRefused {
        /// Why, in words.
        why: String,
    },
}

impl Request {
    /// Whether it asks for a change.
    pub fn is_write(&self) -> bool {
        !matches!(self, Request::Get { .. } | Request::List { .. })
    }

    /// The key it is about, if it is about one.
    pub fn key(&self) -> Option<&Bytes> {
        match self {
            Request::Get { key, .. } | Request::Put { key, .. } | Request::Delete { key, .. } => {
                Some(key)
            }
            Request::List { .. } | Request::SetMap { .. } => None,
        }
    }

    /// The first rule of the store the request breaks, in words; `None` when it is sound. The size
    /// of a value is not looked at: that is a limit of each node.
    pub fn fault(&self) -> Option<&'static str> {
        let key = match self {
            Request::Get { key, .. } | Request::Put { key, .. } | Request::Delete { key, .. } => {
                key
            }
            Request::List { query, .. } => {
                return (query.limit == 0 || LIST_ITEMS_MAX < query.limit)
                    .then_some("a list's limit is 1 to 10000");
            }
            Request::SetMap { text, .. } => {
                return (JSON_BYTES_MAX < text.len()).then_some("a map is at most 4 MiB long");
            }
        };
        if key.is_empty() {
            return Some("a key must not be empty");
        }
        (KEY_BYTES_MAX < key.len()).then_some("a key is at most 4096 bytes long")
    }
}
