//! What is written to the log: one transaction per entry (and, rarely, what `sharding` says).
//!
//! A [`Command`] is a list of compares, the operations to carry out when all of them hold, and those
//! to carry out otherwise. A put, a compare-and-swap and a delete are its small cases, so the store
//! has one way to change. A command is made on the leader and read on every replica: what one
//! replica cannot read none of them can, and it then changes nothing anywhere
//! ([`Reply::Malformed`]). It never holds a time, a node or anything else that replicas see
//! differently.
//!
//! # Bytes
//!
//! Numbers are little-endian. Key and value stand raw and side by side, so that a value in the store
//! can be a slice of the log entry itself.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | kind and version of this layout: 1 |
//! | 1 | number of compares, 0 to 128 |
//! | 1 | number of operations if all compares hold, 0 to 128 |
//! | 1 | number of operations otherwise, 0 to 128 |
//! | | the compares, then the operations of either list, in order |
//!
//! | compare | field |
//! |---|---|
//! | 1 | test: 1 exists, 2 absent, 3 revision among, 4 revision not among |
//! | 2, n | key length (1 to 4096), key |
//! | 4, 8 each | tests 3 and 4 only: number of revisions, revisions |
//!
//! | operation | field |
//! |---|---|
//! | 1 | 1 put, 2 delete |
//! | 4 | put only: value length |
//! | 2, n | key length (1 to 4096), key |
//! | n | put only: value |

use bytes::{BufMut, Bytes};
use carp::array::Epoch;
use carp::ownership::MapRefused;
use raft_core::buffer;
use raft_core::state_machine::Malformed;

use super::request::{Condition, KEY_BYTES_MAX, Request, Tags, VALUE_BYTES_MAX};
use super::sharding::Misplaced;
use super::wire::Reader;

/// The layout this program writes, and the only one it reads.
const VERSION: u8 = 1;

/// The most compares, and the most operations of either list, in one command.
pub const OPERATIONS_MAX: usize = 128;

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// All must hold; none always hold.
    pub compares: Vec<Compare>,
    /// Carried out, in order, when all compares hold.
    pub then: Vec<Operation>,
    /// Carried out, in order, when one does not.
    pub otherwise: Vec<Operation>,
}

/// Something that has to be true of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// 1 to [`KEY_BYTES_MAX`] bytes.
    pub key: Bytes,
    /// What has to be true.
    pub test: Test,
}

/// What has to be true of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
    /// It exists and its `mod_revision` is one of these.
    RevisionAmong(Vec<u64>),
    /// It does not exist, or its `mod_revision` is none of these.
    RevisionNotAmong(Vec<u64>),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Give this key this value.
    Put {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// At most [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
    },
    /// Take this key away. Absent is no error.
    Delete {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
    },
}

/// What a command came to: the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Every compare held and `then` was carried out.
    Succeeded {
        /// The store's revision after it.
        revision: u64,
        /// One for each operation, in order.
        done: Vec<Done>,
    },
    /// A compare did not hold and `otherwise` was carried out.
    ConditionFailed {
        /// The `mod_revision` of the key of the first compare that did not hold, if it exists.
        current: Option<u64>,
        /// The store's revision after it.
        revision: u64,
        /// One for each operation, in order.
        done: Vec<Done>,
    },
    /// The bytes are no command: nothing was changed.
    Malformed(Malformed),
    /// Not all keys are this cluster's: nothing was changed.
    Misplaced(Misplaced),
    /// The map is in force.
    MapSet {
        /// Its epoch.
        epoch: Epoch,
        /// It was not before.
        changed: bool,
    },
    /// The map is not taken: the old one stays.
    MapRefused(Box<MapRefused>),
    /// What other clusters have let go of was noted.
    Adopted {
        /// Slots are served now that were not.
        changed: bool,
    },
}

/// What one operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A put.
    Put {
        /// The key was not there before.
        created: bool,
        /// How often it was written since it came to be.
        version: u64,
    },
    /// A delete.
    Deleted {
        /// How many keys it took away: 0 or 1.
        deleted: u64,
    },
}

impl Command {
    /// The transaction that carries out a request; `None` for one that only reads or is about the
    /// array.
    pub fn of(request: &Request) -> Option<Command> {
        let (operation, key, condition) = match request {
            Request::Put { key, value, condition } => {
                (Operation::Put { key: key.clone(), value: value.clone() }, key, condition)
            }
            Request::Delete { key, condition } => {
                (Operation::Delete { key: key.clone() }, key, condition)
            }
            Request::Get { .. } | Request::List { .. } | Request::SetMap { .. } => return None,
        };
        let compares = compares_of(key, condition);
        Some(Command { compares, then: vec![operation], otherwise: Vec::new() })
    }

    /// The bytes for the log, in a buffer of exactly their size. The command has to keep the ranges
    /// its fields state.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.encoded_bytes());
        self.encode_into(&mut out);
        buffer::owned(out)
    }

    /// Reads what [`encode`](Command::encode) wrote. Keys and values are slices of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Command, Malformed> {
        let mut reader = Reader::new("command", bytes);
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(reader.fault(format_args!("version {version}, only {VERSION} is known")));
        }
        let mut counts = [0; 3];
        for count in &mut counts {
            *count = usize::from(reader.u8("count")?);
            if OPERATIONS_MAX < *count {
                return Err(reader.fault(format_args!("{count} parts, at most 128 are allowed")));
            }
        }
        let [compares, then, otherwise] = counts;
        let command = Command {
            compares: (0..compares)
                .map(|_| Compare::decode(&mut reader))
                .collect::<Result<_, _>>()?,
            then: (0..then).map(|_| Operation::decode(&mut reader)).collect::<Result<_, _>>()?,
            otherwise: (0..otherwise)
                .map(|_| Operation::decode(&mut reader))
                .collect::<Result<_, _>>()?,
        };
        reader.end()?;
        Ok(command)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        for count in [self.compares.len(), self.then.len(), self.otherwise.len()] {
            assert!(count <= OPERATIONS_MAX, "a command has at most 128 parts of a kind");
            out.put_u8(count as u8);
        }
        self.compares.iter().for_each(|compare| compare.encode(out));
        self.operations().for_each(|operation| operation.encode(out));
        assert_eq!(out.len(), self.encoded_bytes(), "a command's size is known beforehand");
    }

    fn encoded_bytes(&self) -> usize {
        4 + self.compares.iter().map(Compare::encoded_bytes).sum::<usize>()
            + self.operations().map(Operation::encoded_bytes).sum::<usize>()
    }

    /// Every key it looks at or changes.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> + Clone {
        let operations = self.then.iter().chain(&self.otherwise).map(|operation| match operation {
            Operation::Put { key, .. } | Operation::Delete { key } => key,
        });
        self.compares.iter().map(|compare| &compare.key).chain(operations)
    }

    fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.then.iter().chain(&self.otherwise)
    }
}

/// A put whose value is still coming in: its bytes are copied once, from wherever they come right
/// into the command for the log, and the request shares them.
#[derive(Debug)]
pub struct PutDraft {
    key: Bytes,
    condition: Condition,
    command: Vec<u8>,
    length_at: usize,
    value_at: usize,
}

impl PutDraft {
    /// A put without a value yet. `value_bytes` is how much is announced (0 if nothing is): a hint
    /// that costs at most 1 MiB when it lies. The key has to be 1 to [`KEY_BYTES_MAX`] bytes long.
    pub fn new(key: Bytes, condition: Condition, value_bytes: usize) -> PutDraft {
        const RESERVE_BYTES_MAX: usize = 1 << 20;
        let operation = Operation::Put { key: key.clone(), value: Bytes::new() };
        let empty = Command {
            compares: compares_of(&key, &condition),
            then: vec![operation],
            otherwise: vec![],
        };
        let size = empty.encoded_bytes();
        let mut command = Vec::with_capacity(size + value_bytes.min(RESERVE_BYTES_MAX));
        empty.encode_into(&mut command);
        let length_at = size - key.len() - 2 - 4;
        PutDraft { key, condition, command, length_at, value_at: size }
    }

    /// The next bytes of the value. The whole has to stay within [`VALUE_BYTES_MAX`].
    pub fn push(&mut self, part: &[u8]) {
        self.command.extend_from_slice(part);
    }

    /// How much of the value is there.
    pub fn value_bytes(&self) -> usize {
        self.command.len() - self.value_at
    }

    /// The request, and the command that [`encode`](Command::encode) would make of it.
    pub fn finish(self) -> (Request, Bytes) {
        let PutDraft { key, condition, mut command, length_at, value_at } = self;
        let value_bytes = command.len() - value_at;
        assert!(value_bytes as u64 <= VALUE_BYTES_MAX, "a value is at most 1 GiB long");
        command[length_at..length_at + 4].copy_from_slice(&(value_bytes as u32).to_le_bytes());
        let command = buffer::owned(command);
        let value = command.slice(value_at..);
        (Request::Put { key, value, condition }, command)
    }
}

/// The compares that say what a condition says.
fn compares_of(key: &Bytes, condition: &Condition) -> Vec<Compare> {
    let holds = condition.if_match.as_ref().map(|tags| match tags {
        Tags::Any => Test::Exists,
        Tags::Revisions(revisions) => Test::RevisionAmong(revisions.clone()),
    });
    let holds_not = condition.if_none_match.as_ref().map(|tags| match tags {
        Tags::Any => Test::Absent,
        Tags::Revisions(revisions) => Test::RevisionNotAmong(revisions.clone()),
    });
    let tests = holds.into_iter().chain(holds_not);
    tests.map(|test| Compare { key: key.clone(), test }).collect()
}

impl Test {
    /// Whether it holds for a key with this `mod_revision` (`None`: it does not exist).
    pub fn holds(&self, mod_revision: Option<u64>) -> bool {
        match self {
            Test::Exists => mod_revision.is_some(),
            Test::Absent => mod_revision.is_none(),
            Test::RevisionAmong(these) => mod_revision.is_some_and(|it| these.contains(&it)),
            Test::RevisionNotAmong(these) => !mod_revision.is_some_and(|it| these.contains(&it)),
        }
    }

    fn tag(&self) -> u8 {
        match self {
            Test::Exists => 1,
            Test::Absent => 2,
            Test::RevisionAmong(_) => 3,
            Test::RevisionNotAmong(_) => 4,
        }
    }

    fn revisions(&self) -> Option<&[u64]> {
        match self {
            Test::Exists | Test::Absent => None,
            Test::RevisionAmong(these) | Test::RevisionNotAmong(these) => Some(these),
        }
    }
}

impl Compare {
    fn encoded_bytes(&self) -> usize {
        3 + self.key.len() + self.test.revisions().map_or(0, |revisions| 4 + 8 * revisions.len())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.test.tag());
        put_key(out, &self.key);
        if let Some(revisions) = self.test.revisions() {
            out.put_u32_le(
                u32::try_from(revisions.len()).expect("a request's head is far shorter"),
            );
            revisions.iter().for_each(|revision| out.put_u64_le(*revision));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Compare, Malformed> {
        let tag = reader.u8("test")?;
        let key = take_key(reader)?;
        let test = match tag {
            1 => Test::Exists,
            2 => Test::Absent,
            3 => Test::RevisionAmong(take_revisions(reader)?),
            4 => Test::RevisionNotAmong(take_revisions(reader)?),
            _ => return Err(reader.fault(format_args!("test {tag}, 1 to 4 are known"))),
        };
        Ok(Compare { key, test })
    }
}

impl Operation {
    fn encoded_bytes(&self) -> usize {
        match self {
            Operation::Put { key, value } => 7 + key.len() + value.len(),
            Operation::Delete { key } => 3 + key.len(),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Operation::Put { key, value } => {
                assert!(value.len() as u64 <= VALUE_BYTES_MAX, "a value is at most 1 GiB long");
                out.put_u8(1);
                out.put_u32_le(value.len() as u32);
                put_key(out, key);
                out.put_slice(value);
            }
            Operation::Delete { key } => {
                out.put_u8(2);
                put_key(out, key);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Operation, Malformed> {
        match reader.u8("operation")? {
            1 => {
                let value_bytes = reader.u32("value length")?;
                let key = take_key(reader)?;
                let value = reader.bytes(value_bytes as usize, "value")?;
                Ok(Operation::Put { key, value })
            }
            2 => Ok(Operation::Delete { key: take_key(reader)? }),
            tag => Err(reader.fault(format_args!("operation {tag}, 1 and 2 are known"))),
        }
    }
}

fn put_key(out: &mut Vec<u8>, key: &Bytes) {
    assert!((1..=KEY_BYTES_MAX).contains(&key.len()), "a key is 1 to 4096 bytes long");
    out.put_u16_le(key.len() as u16);
    out.put_slice(key);
}

fn take_key(reader: &mut Reader<'_>) -> Result<Bytes, Malformed> {
    let len = usize::from(reader.u16("key length")?);
    if len == 0 || KEY_BYTES_MAX < len {
        return Err(reader.fault(format_args!("key of {len} bytes, 1 to 4096 are allowed")));
    }
    reader.bytes(len, "key")
}

fn take_revisions(reader: &mut Reader<'_>) -> Result<Vec<u64>, Malformed> {
    let count = reader.u32("number of revisions")? as usize;
    reader.room_for(count, 8, "revisions")?;
    (0..count).map(|_| reader.u64("revision")).collect()
}
