//! What the log says of the array: which map this cluster goes by, and what others have let go of.
//!
//! These are commands beside the transactions of [`super::command`], told apart by their first byte.
//! As there, what one replica cannot read none of them can. The rules are those of
//! [`carp::Ownership`]; here are their bytes.
//!
//! | set map: bytes | field |
//! |---|---|
//! | 1 | 2 |
//! | 1, n | length of this cluster's name, name |
//! | the rest | the map: a whole `carp::Array` as JSON |
//!
//! | adopt: bytes | field |
//! |---|---|
//! | 1 | 3 |
//! | 2 | number of clusters |
//! | 1, n | for each, by name: length of the name, name |
//! | 8, 8 | the epoch of its map, and up to which it has let go of everything |

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use carp::array::{Epoch, MEMBERS_MAX};
use carp::ownership::Applied;
use carp::{MemberId, Ownership};
use raft_core::state_machine::Malformed;

use super::wire::Reader;

/// The first byte of a command that sets the map.
pub(super) const SET_MAP: u8 = 2;
/// The first byte of a command that adopts slots.
pub(super) const ADOPT: u8 = 3;

/// A command about the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardCommand {
    /// Go by this map from now on.
    SetMap {
        /// The name of this cluster.
        cluster: MemberId,
        /// A whole array as JSON.
        text: Bytes,
    },
    /// Serve the slots whose givers have let go of them.
    Adopt {
        /// What each other cluster said of itself.
        applied: BTreeMap<MemberId, Applied>,
    },
}

/// Keys are not this cluster's, or not all: nothing was read or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// All keys belong to one other cluster, or are not served here yet.
    Elsewhere,
    /// The keys belong to several clusters: each with its keys, by name.
    Apart(BTreeMap<MemberId, Vec<Bytes>>),
}

impl ShardCommand {
    /// The bytes for the log.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            ShardCommand::SetMap { cluster, text } => {
                out.put_u8(SET_MAP);
                put_name(&mut out, cluster);
                out.put_slice(text);
            }
            ShardCommand::Adopt { applied } => {
                out.put_u8(ADOPT);
                out.put_u16_le(u16::try_from(applied.len()).expect("clusters are few"));
                for (cluster, Applied { epoch, settled }) in applied {
                    put_name(&mut out, cluster);
                    out.put_u64_le(epoch.0);
                    out.put_u64_le(settled.0);
                }
            }
        }
        Bytes::from(out.into_boxed_slice())
    }

    /// Reads what [`encode`](ShardCommand::encode) wrote. Whether the map is one is not looked at.
    ///
    /// # Errors
    /// It is none of these commands.
    pub fn decode(bytes: &Bytes) -> Result<ShardCommand, Malformed> {
        let mut reader = Reader::new("command of the array", bytes);
        match reader.u8("kind")? {
            SET_MAP => {
                let cluster = take_name(&mut reader)?;
                Ok(ShardCommand::SetMap { cluster, text: reader.rest() })
            }
            ADOPT => {
                let count = usize::from(reader.u16("number of clusters")?);
                if 2 * MEMBERS_MAX < count {
                    return Err(reader.fault(format_args!("{count} clusters")));
                }
                let mut applied = BTreeMap::new();
                for _ in 0..count {
                    let cluster = take_name(&mut reader)?;
                    let epoch = Epoch(reader.u64("epoch")?);
                    let settled = Epoch(reader.u64("settled")?);
                    applied.insert(cluster, Applied { epoch, settled });
                }
                reader.end()?;
                Ok(ShardCommand::Adopt { applied })
            }
            kind => Err(reader.fault(format_args!("kind {kind}, 2 and 3 are known"))),
        }
    }
}

/// Whether all of these keys are served here.
pub(super) fn admit<'a>(
    own: &Ownership,
    keys: impl Iterator<Item = &'a Bytes> + Clone,
) -> Result<(), Misplaced> {
    if keys.clone().all(|key| own.serves(key)) {
        return Ok(());
    }
    let mut owners: BTreeMap<MemberId, Vec<Bytes>> = BTreeMap::new();
    for key in keys {
        let of_owner = owners.entry(own.array().route(key).member.id.clone()).or_default();
        if !of_owner.contains(key) {
            of_owner.push(key.clone());
        }
    }
    Err(if owners.len() == 1 { Misplaced::Elsewhere } else { Misplaced::Apart(owners) })
}

pub(super) fn put_name(out: &mut Vec<u8>, name: &MemberId) {
    // A name is 1 to 128 bytes long.
    out.put_u8(name.as_str().len() as u8);
    out.put_slice(name.as_str().as_bytes());
}

pub(super) fn take_name(reader: &mut Reader<'_>) -> Result<MemberId, Malformed> {
    let len = usize::from(reader.u8("length of a name")?);
    let name = reader.bytes(len, "name")?;
    let name = std::str::from_utf8(&name).ok().and_then(MemberId::new);
    name.ok_or_else(|| reader.fault("a name that is none"))
}
