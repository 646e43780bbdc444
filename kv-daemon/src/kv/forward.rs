//! Requests and their results as bytes, for the way from one node to another.
//!
//! Each comes in two parts that are sent one after the other: a head, and the value as it is, which
//! is never copied here. A receiver gets both as one buffer and keeps slices of it. Limits on the
//! size of the whole are the transport's.
//!
//! # Bytes
//!
//! Numbers are little-endian; `bytes` is a length of 4 bytes and as many bytes; `maybe` is 0, or 1
//! and the thing. The *last* field of a request or an answer with one value is that value, without a
//! length: it ends where the buffer ends.
//!
//! | first two bytes | fields |
//! |---|---|
//! | 1, 1 get | level, key |
//! | 1, 2 put | condition, key (bytes), value |
//! | 1, 3 delete | condition, key |
//! | 1, 4 list | level, prefix, start, after (maybe), limit (4), shape (1) |
//! | 1, 5 set map | cluster, map |
//! | 1, 16 got | revision, 0; or revision, 1, three revisions of the record, value |
//! | 1, 17 put | revision, created (1), version |
//! | 1, 18 deleted | deleted, revision |
//! | 1, 19 condition failed | current (maybe), revision |
//! | 1, 20 listed | revision, count, next (maybe), number of items (4), items |
//! | 1, 21 map set | epoch, changed (1) |
//! | 1, 32 failure | outcome (1: 0 none, 1 not applied, 2 unknown), reason (1), its fields |

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use carp::{MemberId, Moved};
use raft_core::state_machine::Malformed;

use super::request::{
    Answer, Condition, Failure, LIST_ITEMS_MAX, ListQuery, ListShape, Listed, Outcome, ReadLevel,
    Reason, Record, Request, Tags,
};
use super::sharding::{put_name, take_name};
use super::wire::Reader;

/// The layout this program speaks, and the only one.
const VERSION: u8 = 1;

/// Bytes to send: the head, then the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Everything but the value.
    pub head: Bytes,
    /// The value, shared with what was encoded; empty when there is none.
    pub value: Bytes,
}

impl Parts {
    /// How long both are together.
    pub fn len(&self) -> usize {
        self.head.len() + self.value.len()
    }

    /// Whether there is nothing; never so for what was encoded here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both in one buffer, for those who cannot send two.
    pub fn to_bytes(&self) -> Bytes {
        [&self.head[..], &self.value[..]].concat().into()
    }
}

/// A request as bytes.
pub fn encode_request(request: &Request) -> Parts {
    let mut out = Writer::new();
    let mut raw = Bytes::new();
    match request {
        Request::Get { key, level } => {
            out.tag(1);
            out.level(level);
            out.bytes(key);
        }
        Request::Put { key, value, condition } => {
            out.tag(2);
            out.condition(condition);
            out.bytes(key);
            raw = value.clone();
        }
        Request::Delete { key, condition } => {
            out.tag(3);
            out.condition(condition);
            out.bytes(key);
        }
        Request::List { query, level } => {
            out.tag(4);
            out.level(level);
            out.bytes(&query.prefix);
            out.bytes(&query.start);
            out.maybe(query.after.as_ref(), |out, after| out.bytes(after));
            out.0.put_u32_le(query.limit);
            out.0.put_u8(match query.shape {
                ListShape::Items => 0,
                ListShape::Keys => 1,
                ListShape::Count => 2,
            });
        }
        Request::SetMap { cluster, text } => {
            out.tag(5);
            put_name(&mut out.0, cluster);
            raw = text.clone();
        }
    }
    out.parts(raw)
}

/// Reads what [`encode_request`] wrote. The request is sound ([`Request::fault`]).
pub fn decode_request(bytes: &Bytes) -> Result<Request, Malformed> {
    let mut reader = Reader::new("request", bytes);
    let request = match take_tag(&mut reader)? {
        1 => Request::Get { level: take_level(&mut reader)?, key: take_bytes(&mut reader, "key")? },
        2 => Request::Put {
            condition: take_condition(&mut reader)?,
            key: take_bytes(&mut reader, "key")?,
            value: reader.rest(),
        },
        3 => Request::Delete {
            condition: take_condition(&mut reader)?,
            key: take_bytes(&mut reader, "key")?,
        },
        4 => Request::List {
            level: take_level(&mut reader)?,
            query: ListQuery {
                prefix: take_bytes(&mut reader, "prefix")?,
                start: take_bytes(&mut reader, "start")?,
                after: take_maybe(&mut reader, |reader| take_bytes(reader, "after"))?,
                limit: reader.u32("limit")?,
                shape: match reader.u8("shape")? {
                    0 => ListShape::Items,
                    1 => ListShape::Keys,
                    2 => ListShape::Count,
                    shape => return Err(reader.fault(format_args!("list shape {shape}"))),
                },
            },
        },
        5 => Request::SetMap { cluster: take_name(&mut reader)?, text: reader.rest() },
        tag => return Err(reader.fault(format_args!("request {tag}, 1 to 5 are known"))),
    };
    if let Some(fault) = request.fault() {
        return Err(reader.fault(fault));
    }
    reader.end()?;
    Ok(request)
}

/// A result as bytes.
pub fn encode_result(result: &Result<Answer, Failure>) -> Parts {
    let mut out = Writer::new();
    let mut raw = Bytes::new();
    match result {
        Ok(Answer::Got { record, revision }) => {
            out.tag(16);
            out.0.put_u64_le(*revision);
            out.maybe(record.as_ref(), Writer::revisions);
            raw = record.as_ref().map(|record| record.value.clone()).unwrap_or_default();
        }
        Ok(Answer::Put { revision, created, version }) => {
            out.tag(17);
            out.0.put_u64_le(*revision);
            out.0.put_u8(u8::from(*created));
            out.0.put_u64_le(*version);
        }
        Ok(Answer::Deleted { deleted, revision }) => {
            out.tag(18);
            out.0.put_u64_le(*deleted);
            out.0.put_u64_le(*revision);
        }
        Ok(Answer::ConditionFailed { current, revision }) => {
            out.tag(19);
            out.maybe(current.as_ref(), |out, current| out.0.put_u64_le(*current));
            out.0.put_u64_le(*revision);
        }
        Ok(Answer::Listed(listed)) => {
            out.tag(20);
            out.listed(listed);
        }
        Ok(Answer::MapSet { epoch, changed }) => {
            out.tag(21);
            out.0.put_u64_le(*epoch);
            out.0.put_u8(u8::from(*changed));
        }
        Err(failure) => {
            out.tag(32);
            out.failure(failure);
        }
    }
    out.parts(raw)
}

/// Reads what [`encode_result`] wrote.
pub fn decode_result(bytes: &Bytes) -> Result<Result<Answer, Failure>, Malformed> {
    let mut reader = Reader::new("result", bytes);
    let result = match take_tag(&mut reader)? {
        16 => {
            let revision = reader.u64("revision")?;
            let record = take_maybe(&mut reader, take_revisions)?;
            let record = record.map(|record| Record { value: reader.rest(), ..record });
            Ok(Answer::Got { record, revision })
        }
        17 => Ok(Answer::Put {
            revision: reader.u64("revision")?,
            created: take_bool(&mut reader, "created")?,
            version: reader.u64("version")?,
        }),
        18 => Ok(Answer::Deleted {
            deleted: reader.u64("deleted")?,
            revision: reader.u64("revision")?,
        }),
        19 => Ok(Answer::ConditionFailed {
            current: take_maybe(&mut reader, |reader| reader.u64("current"))?,
            revision: reader.u64("revision")?,
        }),
        20 => Ok(Answer::Listed(take_listed(&mut reader)?)),
        21 => Ok(Answer::MapSet {
            epoch: reader.u64("epoch")?,
            changed: take_bool(&mut reader, "changed")?,
        }),
        32 => Err(take_failure(&mut reader)?),
        tag => return Err(reader.fault(format_args!("result {tag}"))),
    };
    reader.end()?;
    Ok(result)
}

/// Writes heads.
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Writer {
        Writer(Vec::with_capacity(64))
    }

    fn parts(self, value: Bytes) -> Parts {
        Parts { head: Bytes::from(self.0), value }
    }

    fn tag(&mut self, tag: u8) {
        self.0.put_slice(&[VERSION, tag]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.put_u32_le(u32::try_from(bytes.len()).expect("keys and values are at most 1 GiB"));
        self.0.put_slice(bytes);
    }

    fn maybe<T: ?Sized>(&mut self, thing: Option<&T>, put: impl FnOnce(&mut Writer, &T)) {
        self.0.put_u8(u8::from(thing.is_some()));
        if let Some(thing) = thing {
            put(self, thing);
        }
    }

    fn duration(&mut self, duration: &Duration) {
        self.0.put_u64_le(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    fn level(&mut self, level: &ReadLevel) {
        match level {
            ReadLevel::Linearizable => self.0.put_u8(0),
            ReadLevel::Stale { max_stale } => {
                self.0.put_u8(1);
                self.maybe(max_stale.as_ref(), Writer::duration);
            }
        }
    }

    fn condition(&mut self, condition: &Condition) {
        self.maybe(condition.if_match.as_ref(), Writer::tags);
        self.maybe(condition.if_none_match.as_ref(), Writer::tags);
    }

    fn tags(&mut self, tags: &Tags) {
        match tags {
            Tags::Any => self.0.put_u8(0),
            Tags::Revisions(revisions) => {
                self.0.put_u8(1);
                self.count(revisions.len());
                revisions.iter().for_each(|revision| self.0.put_u64_le(*revision));
            }
        }
    }

    fn revisions(&mut self, record: &Record) {
        self.0.put_u64_le(record.create_revision);
        self.0.put_u64_le(record.mod_revision);
        self.0.put_u64_le(record.version);
    }

    fn listed(&mut self, listed: &Listed) {
        self.0.put_u64_le(listed.revision);
        self.0.put_u64_le(listed.count);
        self.maybe(listed.next.as_ref(), |out, next| out.bytes(next));
        self.count(listed.items.len());
        for (key, record) in &listed.items {
            self.bytes(key);
            self.revisions(record);
            self.bytes(&record.value);
        }
    }

    fn failure(&mut self, failure: &Failure) {
        self.0.put_u8(match failure.outcome {
            None => 0,
            Some(Outcome::NotApplied) => 1,
            Some(Outcome::Unknown) => 2,
        });
        match &failure.reason {
            Reason::NoLeader => self.0.put_u8(1),
            Reason::LeaderLost => self.0.put_u8(2),
            Reason::Busy => self.0.put_u8(3),
            Reason::Deadline => self.0.put_u8(4),
            Reason::NoSpace => self.0.put_u8(5),
            Reason::TooLarge { bytes_max } => {
                self.0.put_u8(6);
                self.0.put_u64_le(*bytes_max);
            }
            Reason::TooStale { last_contact } => {
                self.0.put_u8(7);
                self.maybe(last_contact.as_ref(), Writer::duration);
            }
            Reason::TooManyHops => self.0.put_u8(8),
            Reason::ShuttingDown => self.0.put_u8(9),
            Reason::Forming => self.0.put_u8(10),
            Reason::Restoring => self.0.put_u8(11),
            Reason::Invalid { why } => {
                self.0.put_u8(12);
                self.bytes(why.as_bytes());
            }
            Reason::Moved(moved) => {
                self.0.put_u8(13);
                self.bytes(moved.to_json().as_bytes());
            }
            Reason::KeysApart { owners } => {
                self.0.put_u8(14);
                self.count(owners.len());
                for (owner, keys) in owners {
                    put_name(&mut self.0, owner);
                    self.count(keys.len());
                    keys.iter().for_each(|key| self.bytes(key));
                }
            }
            Reason::Coming => self.0.put_u8(15),
            Reason::Unreachable { cluster } => {
                self.0.put_u8(16);
                put_name(&mut self.0, cluster);
            }
            Reason::MapBehind { epoch } => {
                self.0.put_u8(18);
                self.0.put_u64_le(*epoch);
            }
            Reason::MapMissing { cluster } => {
                self.0.put_u8(19);
                put_name(&mut self.0, cluster);
            }
            Reason::MapRefused { why } => {
                self.0.put_u8(17);
                self.bytes(why.as_bytes());
            }
        }
    }

    fn count(&mut self, count: usize) {
        self.0.put_u32_le(u32::try_from(count).expect("a head has far fewer parts"));
    }
}

fn take_tag(reader: &mut Reader<'_>) -> Result<u8, Malformed> {
    let version = reader.u8("version")?;
    if version != VERSION {
        return Err(reader.fault(format_args!("version {version}, only {VERSION} is known")));
    }
    reader.u8("kind")
}

fn take_bool(reader: &mut Reader<'_>, field: &str) -> Result<bool, Malformed> {
    match reader.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(reader.fault(format_args!("{field} is {other}, not 0 or 1"))),
    }
}

fn take_maybe<T>(
    reader: &mut Reader<'_>,
    take: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    take_bool(reader, "presence")?.then(|| take(reader)).transpose()
}

fn take_bytes(reader: &mut Reader<'_>, field: &str) -> Result<Bytes, Malformed> {
    let len = reader.u32(field)? as usize;
    reader.bytes(len, field)
}

fn take_duration(reader: &mut Reader<'_>) -> Result<Duration, Malformed> {
    Ok(Duration::from_nanos(reader.u64("duration")?))
}

fn take_level(reader: &mut Reader<'_>) -> Result<ReadLevel, Malformed> {
    match reader.u8("level")? {
        0 => Ok(ReadLevel::Linearizable),
        1 => Ok(ReadLevel::Stale { max_stale: take_maybe(reader, take_duration)? }),
        level => Err(reader.fault(format_args!("read level {level}"))),
    }
}

fn take_condition(reader: &mut Reader<'_>) -> Result<Condition, Malformed> {
    let if_match = take_maybe(reader, take_tags)?;
    let if_none_match = take_maybe(reader, take_tags)?;
    Ok(Condition { if_match, if_none_match })
}

fn take_tags(reader: &mut Reader<'_>) -> Result<Tags, Malformed> {
    match reader.u8("tags")? {
        0 => Ok(Tags::Any),
        1 => {
            let count = reader.u32("number of revisions")? as usize;
            reader.room_for(count, 8, "revisions")?;
            Ok(Tags::Revisions(
                (0..count).map(|_| reader.u64("revision")).collect::<Result<_, _>>()?,
            ))
        }
        tags => Err(reader.fault(format_args!("tags {tags}"))),
    }
}

/// A record without its value.
fn take_revisions(reader: &mut Reader<'_>) -> Result<Record, Malformed> {
    Ok(Record {
        value: Bytes::new(),
        create_revision: reader.u64("create_revision")?,
        mod_revision: reader.u64("mod_revision")?,
        version: reader.u64("version")?,
    })
}

fn take_listed(reader: &mut Reader<'_>) -> Result<Listed, Malformed> {
    let revision = reader.u64("revision")?;
    let count = reader.u64("count")?;
    let next = take_maybe(reader, |reader| take_bytes(reader, "next"))?;
    let items_count = reader.u32("number of items")?;
    if LIST_ITEMS_MAX < items_count {
        return Err(reader.fault(format_args!("{items_count} items, at most 10000 are allowed")));
    }
    let mut items = Vec::new();
    for _ in 0..items_count {
        let key = take_bytes(reader, "key")?;
        let record = take_revisions(reader)?;
        items.push((key, Record { value: take_bytes(reader, "value")?, ..record }));
    }
    Ok(Listed { items, count, next, revision })
}

fn take_failure(reader: &mut Reader<'_>) -> Result<Failure, Malformed> {
    let outcome = match reader.u8("outcome")? {
        0 => None,
        1 => Some(Outcome::NotApplied),
        2 => Some(Outcome::Unknown),
        outcome => return Err(reader.fault(format_args!("outcome {outcome}"))),
    };
    let reason = match reader.u8("reason")? {
        1 => Reason::NoLeader,
        2 => Reason::LeaderLost,
        3 => Reason::Busy,
        4 => Reason::Deadline,
        5 => Reason::NoSpace,
        6 => Reason::TooLarge { bytes_max: reader.u64("bytes_max")? },
        7 => Reason::TooStale { last_contact: take_maybe(reader, take_duration)? },
        8 => Reason::TooManyHops,
        9 => Reason::ShuttingDown,
        10 => Reason::Forming,
        11 => Reason::Restoring,
        12 => Reason::Invalid {
            why: String::from_utf8_lossy(&take_bytes(reader, "why")?).into_owned(),
        },
        13 => match Moved::from_json(&take_bytes(reader, "moved")?) {
            Some(moved) => Reason::Moved(Box::new(moved)),
            None => return Err(reader.fault("a redirect that is none")),
        },
        14 => Reason::KeysApart { owners: take_owners(reader)? },
        15 => Reason::Coming,
        16 => Reason::Unreachable { cluster: take_name(reader)? },
        17 => Reason::MapRefused {
            why: String::from_utf8_lossy(&take_bytes(reader, "why")?).into_owned(),
        },
        18 => Reason::MapBehind { epoch: reader.u64("epoch")? },
        19 => Reason::MapMissing { cluster: take_name(reader)? },
        reason => return Err(reader.fault(format_args!("reason {reason}"))),
    };
    Ok(Failure { reason, outcome })
}

fn take_owners(reader: &mut Reader<'_>) -> Result<BTreeMap<MemberId, Vec<Bytes>>, Malformed> {
    let clusters = reader.u32("number of clusters")? as usize;
    reader.room_for(clusters, 6, "clusters")?;
    let mut owners = BTreeMap::new();
    for _ in 0..clusters {
        let owner = take_name(reader)?;
        let keys = reader.u32("number of keys")? as usize;
        reader.room_for(keys, 4, "keys")?;
        let keys = (0..keys).map(|_| take_bytes(reader, "key")).collect::<Result<_, _>>()?;
        owners.insert(owner, keys);
    }
    Ok(owners)
}
