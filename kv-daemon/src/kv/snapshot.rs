//! The store as a stream of bytes, cut into pieces, and back.
//!
//! Pieces end wherever they are full, also in the middle of a value, so that none is ever larger
//! than [`PIECE_BYTES`] and none is a long pause. Whoever stores or sends the pieces guards them
//! with checksums; here a stream that is not what a store gives out is refused, never half believed.
//!
//! # Bytes
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version of this layout: 2 |
//! | 8 | revision |
//! | 8 | number of records |
//! | 4, n | length of what this cluster owns (0: it is in no array), `carp::Ownership` as JSON |
//! | | the records, by key, strictly rising |
//!
//! | record | field |
//! |---|---|
//! | 8, 8, 8 | create_revision, mod_revision, version |
//! | 4 | value length |
//! | 2, n | key length (1 to 4096), key |
//! | n | value |

use std::borrow::Cow;
use std::hash::Hasher;
use std::mem;
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use carp::Ownership;
use carp::ownership::OWNERSHIP_BYTES_MAX;
use raft_core::buffer;
use raft_core::state_machine::{Malformed, PIECE_BYTES_MAX, SnapshotSource};
use twox_hash::XxHash64;

use super::record::{Key, Stored};
use super::request::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::store::Store;
use super::tree::Builder;

const VERSION: u8 = 2;
const HEADER_BYTES: usize = 21;
const RECORD_HEAD_BYTES: usize = 30;

/// How large the pieces are that are given out; larger ones are taken too. Larger: the thread that
/// makes one keeps a core for longer, and clients wait (a megabyte takes 2 ms). Smaller: more rests.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Gives out a frozen view of a store in pieces.
pub(super) struct Source {
    view: Store,
    at: Place,
}

/// How far a source is.
enum Place {
    Start,
    /// Nothing but the header is given out, except this much of what is owned.
    Owned(Bytes),
    /// The records up to this key are given out, except this much of its value.
    After(Key, Bytes),
    End,
}

impl Source {
    pub fn new(view: Store) -> Source {
        Source { view, at: Place::Start }
    }

    /// At most what is left to give out, so that small stores make small pieces.
    fn piece_bytes(&self) -> usize {
        let whole = HEADER_BYTES as u64
            + self.view.bytes
            + RECORD_HEAD_BYTES as u64 * self.view.map.len() as u64;
        usize::try_from(whole).map_or(PIECE_BYTES, |whole| whole.min(PIECE_BYTES))
    }
}

impl SnapshotSource for Source {
    fn next_piece(&mut self) -> Option<Bytes> {
        let mut piece = Vec::with_capacity(self.piece_bytes());
        let mut last = match mem::replace(&mut self.at, Place::End) {
            Place::Start => {
                let mut owned = owned(&self.view);
                put_header(&mut piece, &self.view, owned.len());
                owned.advance(put_some(&mut piece, &owned));
                if !owned.is_empty() {
                    self.at = Place::Owned(owned);
                    return Some(Bytes::from(piece));
                }
                None
            }
            Place::Owned(mut rest) => {
                rest.advance(put_some(&mut piece, &rest));
                if !rest.is_empty() {
                    self.at = Place::Owned(rest);
                    return Some(Bytes::from(piece));
                }
                None
            }
            Place::After(key, mut rest) => {
                rest.advance(put_some(&mut piece, &rest));
                if !rest.is_empty() {
                    self.at = Place::After(key, rest);
                    return Some(Bytes::from(piece));
                }
                Some(key)
            }
            Place::End => return None,
        };
        let from = match &last {
            Some(key) => Bound::Excluded(key.as_bytes()),
            None => Bound::Unbounded,
        };
        let mut cut = None;
        for (key, stored) in self.view.map.range(from) {
            let head_bytes = RECORD_HEAD_BYTES + key.as_bytes().len();
            if PIECE_BYTES < piece.len() + head_bytes {
                cut = Some(match &last {
                    Some(before) => Place::After(before.clone(), Bytes::new()),
                    None => Place::Owned(Bytes::new()),
                });
                break;
            }
            put_record_head(&mut piece, key, stored);
            // Not a clone for every value: that would be a count to raise in memory that is not
            // at hand.
            let fits = put_some(&mut piece, &stored.value);
            if fits < stored.value.len() {
                cut = Some(Place::After(key.clone(), stored.value.slice(fits..)));
                break;
            }
            last = Some(key.clone());
        }
        if let Some(place) = cut {
            self.at = place;
        }
        (!piece.is_empty()).then(|| Bytes::from(piece))
    }
}

fn put_header(out: &mut Vec<u8>, store: &Store, owned_bytes: usize) {
    out.put_u8(VERSION);
    out.put_u64_le(store.revision);
    out.put_u64_le(store.keys());
    out.put_u32_le(u32::try_from(owned_bytes).expect("what is owned is at most 8 MiB of text"));
}

/// What the cluster of this store owns, as text; empty without an array.
fn owned(store: &Store) -> Bytes {
    store.ownership().map(|own| Bytes::from(own.to_json())).unwrap_or_default()
}

fn put_record_head(out: &mut Vec<u8>, key: &Key, stored: &Stored) {
    out.put_u64_le(stored.create_revision);
    out.put_u64_le(stored.mod_revision);
    out.put_u64_le(stored.version);
    out.put_u32_le(stored.value.len() as u32);
    out.put_u16_le(key.as_bytes().len() as u16);
    out.put_slice(key.as_bytes());
}

/// Copies as much of `value` into the piece as it has room for. Returns how much that is.
fn put_some(piece: &mut Vec<u8>, value: &[u8]) -> usize {
    let fits = value.len().min(PIECE_BYTES - piece.len());
    piece.put_slice(&value[..fits]);
    fits
}

/// XXH64 over the bytes of the store's snapshot.
pub(super) fn digest(store: &Store) -> u64 {
    let mut hasher = XxHash64::with_seed(0);
    let mut head = Vec::new();
    let owned = owned(store);
    put_header(&mut head, store, owned.len());
    hasher.write(&head);
    hasher.write(&owned);
    for (key, stored) in &store.map {
        head.clear();
        put_record_head(&mut head, key, stored);
        hasher.write(&head);
        hasher.write(&stored.value);
    }
    hasher.finish()
}

/// Builds a store from the pieces of a snapshot, cut anywhere. What lies whole in a piece is taken from
/// there; only what is cut is gathered first.
pub(super) struct Restoring {
    /// Without its records.
    store: Store,
    map: Builder<Key, Stored>,
    /// How many there are to be.
    records: u64,
    /// What `part` will be when it is `part_bytes` long.
    next: Part,
    /// What earlier pieces held of it.
    part: Vec<u8>,
    part_bytes: usize,
}

enum Part {
    Header,
    Owned,
    RecordHead,
    /// With the length of the value that follows.
    Key(Stored, usize),
    Value(Key, Stored),
    /// Everything is there.
    Nothing,
    /// A piece was refused: there will be no store.
    Refused,
}

impl Restoring {
    pub fn new() -> Restoring {
        Restoring {
            store: Store::default(),
            map: Builder::new(),
            records: 0,
            next: Part::Header,
            part: Vec::new(),
            part_bytes: HEADER_BYTES,
        }
    }

    /// Takes the next piece.
    pub fn piece(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        if piece.is_empty() || PIECE_BYTES_MAX < piece.len() {
            self.next = Part::Refused;
            return Err(fault(format_args!("a piece of {} bytes", piece.len())));
        }
        if matches!(self.next, Part::Refused) {
            return Err(fault(format_args!("a piece after one that was refused")));
        }
        let mut left = piece;
        loop {
            if matches!(self.next, Part::Nothing) {
                if left.is_empty() {
                    return Ok(());
                }
                self.next = Part::Refused;
                return Err(fault(format_args!("{} bytes after the last record", left.len())));
            }
            let Some((some, rest)) = left.split_at_checked(self.part_bytes - self.part.len())
            else {
                self.part.extend_from_slice(left);
                return Ok(());
            };
            left = rest;
            if self.part.is_empty() {
                self.part_is_whole(Cow::Borrowed(some))?;
            } else {
                let mut part = mem::take(&mut self.part);
                part.extend_from_slice(some);
                self.part_is_whole(Cow::Owned(part))?;
            }
        }
    }

    /// The store, if that was all of it.
    pub fn end(self) -> Result<Store, Malformed> {
        match self.next {
            Part::Nothing => Ok(Store { map: self.map.finish(), ..self.store }),
            Part::Refused => Err(fault(format_args!("one of its pieces was refused"))),
            Part::Header | Part::Owned | Part::RecordHead | Part::Key(..) | Part::Value(..) => {
                let (came, records) = (self.map.len(), self.records);
                Err(fault(format_args!("it ends after {came} of {records} records")))
            }
        }
    }

    fn part_is_whole(&mut self, part: Cow<'_, [u8]>) -> Result<(), Malformed> {
        match mem::replace(&mut self.next, Part::Refused) {
            Part::Header => {
                let mut fields = &*part;
                let version = fields.get_u8();
                if version != VERSION {
                    return Err(fault(format_args!("version {version}, only {VERSION} is known")));
                }
                self.store.revision = fields.get_u64_le();
                self.records = fields.get_u64_le();
                match fields.get_u32_le() as usize {
                    0 => self.expect_record(),
                    owned if owned <= OWNERSHIP_BYTES_MAX => self.expect(Part::Owned, owned),
                    owned => return Err(fault(format_args!("{owned} bytes of what is owned"))),
                }
            }
            Part::Owned => {
                let own = Ownership::from_json(&part);
                let own = own.map_err(|why| fault(format_args!("what is owned: {why}")))?;
                self.store.ownership = Some(Arc::new(own));
                self.expect_record();
            }
            Part::RecordHead => {
                let (stored, value_bytes, key_bytes) = take_record_head(&part);
                self.check_record(&stored, value_bytes, key_bytes)?;
                self.expect(Part::Key(stored, value_bytes), key_bytes);
            }
            Part::Key(stored, value_bytes) => {
                let key = Key::new(&part);
                if self.map.last_key().is_some_and(|last| key <= *last) {
                    return Err(fault(format_args!("key {key:?} is out of order")));
                }
                self.expect(Part::Value(key, stored), value_bytes);
            }
            Part::Value(key, mut stored) => {
                stored.value = match part {
                    Cow::Borrowed(bytes) => buffer::copied(bytes),
                    Cow::Owned(bytes) => buffer::owned(bytes),
                };
                self.store.bytes += (key.as_bytes().len() + stored.value.len()) as u64;
                self.map.push(key, stored);
                self.expect_record();
            }
            Part::Nothing | Part::Refused => unreachable!("nothing more is expected"),
        }
        Ok(())
    }

    fn expect_record(&mut self) {
        if (self.map.len() as u64) < self.records {
            self.expect(Part::RecordHead, RECORD_HEAD_BYTES);
        } else {
            self.expect(Part::Nothing, 0);
        }
    }

    /// Room is made as the bytes come in, so that a length that lies costs nothing.
    fn expect(&mut self, next: Part, bytes: usize) {
        self.next = next;
        self.part_bytes = bytes;
    }

    fn check_record(
        &self,
        stored: &Stored,
        value_bytes: usize,
        key_bytes: usize,
    ) -> Result<(), Malformed> {
        if key_bytes == 0 || KEY_BYTES_MAX < key_bytes || VALUE_BYTES_MAX < value_bytes as u64 {
            return Err(fault(format_args!("key of {key_bytes}, value of {value_bytes} bytes")));
        }
        let Stored { create_revision, mod_revision, version, .. } = *stored;
        let revision = self.store.revision;
        let ordered = 1 <= create_revision
            && create_revision <= mod_revision
            && mod_revision <= revision
            && 1 <= version;
        if !ordered {
            return Err(fault(format_args!(
                "a record created at {create_revision}, changed at {mod_revision}, written \
                 {version} times in a store at {revision}"
            )));
        }
        Ok(())
    }
}

/// The head of a record without its value, the value's length and the key's.
fn take_record_head(mut part: &[u8]) -> (Stored, usize, usize) {
    let stored = Stored {
        value: Bytes::new(),
        create_revision: part.get_u64_le(),
        mod_revision: part.get_u64_le(),
        version: part.get_u64_le(),
    };
    (stored, part.get_u32_le() as usize, usize::from(part.get_u16_le()))
}

fn fault(text: std::fmt::Arguments<'_>) -> Malformed {
    Malformed::new(format!("snapshot of the store: {text}"))
}
