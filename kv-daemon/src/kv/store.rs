//! The store: every key in one ordered map in memory, and the revision that counts its changes.
//!
//! The map shares structure between its copies, so a clone of the store is a consistent view that
//! costs nothing and stops nobody: snapshots and lists walk a clone. [`Store::apply`] depends on the
//! store and the command alone, so replicas that apply the same log hold the same store; it never
//! looks at a clock, a limit of this node, or where the command came from.
//!
//! Rules:
//! - The revision rises by one for each transaction that changes something, and for nothing else:
//!   not for a condition that failed, not for deleting what is absent.
//! - A key's `mod_revision` is the store's revision right after its last change, so no two states of
//!   a key ever share one, also when it was deleted in between.
//! - `1 <= create_revision <= mod_revision <= revision` and `1 <= version`.
//! - In an array of clusters a key that is not this cluster's is neither read nor written: that is
//!   tested here, at the command's place in the log, and in the view that a read looks into. A slot
//!   that is not served holds no key.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use carp::{Array, MapRefused, MemberId, Ownership, Slot};

use super::command::{Command, Done, Operation, Reply};
use super::record::{Key, Stored, keep};
use super::request::{LIST_ITEMS_MAX, ListQuery, ListShape, Listed, Record};
use super::sharding::{ADOPT, Misplaced, SET_MAP, ShardCommand, admit};
use super::snapshot;
use super::tree::Tree;

/// The most value bytes one page of a list holds (one item is always let in): a page of the largest
/// values must not fill the memory.
pub const LIST_BYTES_MAX: usize = 8 << 20;

/// The replicated state: a clone is a view that does not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    pub(super) map: Tree<Key, Stored>,
    pub(super) revision: u64,
    /// Key and value bytes.
    pub(super) bytes: u64,
    /// What this cluster serves; `None`: everything, for it is in no array.
    pub(super) ownership: Option<Arc<Ownership>>,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotLoad {
    /// How many keys.
    pub keys: u64,
    /// Their bytes and those of their values.
    pub bytes: u64,
}

impl Store {
    /// Carries out one command of the log.
    pub fn apply(&mut self, command: &Bytes) -> Reply {
        if let Some(&(SET_MAP | ADOPT)) = command.first() {
            return match ShardCommand::decode(command) {
                Ok(command) => self.apply_sharding(command),
                Err(malformed) => Reply::Malformed(malformed),
            };
        }
        let command_bytes = command.len();
        let command = match Command::decode(command) {
            Ok(decoded) => decoded,
            Err(malformed) => return Reply::Malformed(malformed),
        };
        if let Some(own) = &self.ownership
            && let Err(misplaced) = admit(own, command.keys())
        {
            return Reply::Misplaced(misplaced);
        }
        let Command { compares, then, otherwise } = command;
        let mod_revision = |key: &[u8]| self.map.get(key).map(|stored| stored.mod_revision);
        let failed = compares.iter().find(|it| !it.test.holds(mod_revision(&it.key)));
        let failed = failed.map(|compare| mod_revision(&compare.key));

        match failed {
            None => {
                let done = self.carry_out(then, command_bytes);
                Reply::Succeeded { revision: self.revision, done }
            }
            Some(current) => {
                let done = self.carry_out(otherwise, command_bytes);
                Reply::ConditionFailed { current, revision: self.revision, done }
            }
        }
    }

    /// The record of a key, its value shared with the store.
    ///
    /// # Errors
    /// The key is not this cluster's.
    pub fn get(&self, key: &[u8]) -> Result<Option<Record>, Misplaced> {
        match &self.ownership {
            Some(own) if !own.serves(key) => Err(Misplaced::Elsewhere),
            _ => Ok(self.map.get(key).map(Stored::to_record)),
        }
    }

    /// One page of the keys in order. The work is bounded by the page, but for
    /// [`ListShape::Count`], which walks all that match (ignoring limit and cursor) and holds none.
    pub fn list(&self, query: &ListQuery) -> Listed {
        let mut listed = Listed { revision: self.revision, ..Listed::default() };
        if query.shape == ListShape::Count {
            listed.count = self.count(query);
            return listed;
        }
        let items_max = query.limit.clamp(1, LIST_ITEMS_MAX) as usize;
        let mut bytes = 0;
        for (key, stored) in self.matching(query, query.after.as_deref()) {
            let is_full =
                listed.items.len() == items_max || LIST_BYTES_MAX < bytes + stored.value.len();
            if is_full && let Some((last, _)) = listed.items.last() {
                listed.next = Some(last.clone());
                break;
            }
            let record = match query.shape {
                ListShape::Items => {
                    bytes += stored.value.len();
                    stored.to_record()
                }
                ListShape::Keys | ListShape::Count => stored.to_record_without_value(),
            };
            listed.items.push((key.to_bytes(), record));
        }
        listed.count = listed.items.len() as u64;
        listed
    }

    /// What this cluster serves; `None`: everything, for it is in no array.
    pub fn ownership(&self) -> Option<&Arc<Ownership>> {
        self.ownership.as_ref()
    }

    /// What this cluster would serve if it took this map as cluster `me`; `None`: it has it already.
    /// Walks all keys when slots would be lost: about 0.1 s for a million.
    ///
    /// # Errors
    /// Why it would not take it.
    pub fn judge_map(&self, me: &MemberId, map: Array) -> Result<Option<Ownership>, MapRefused> {
        let (slots, seed) = (map.slots(), map.seed());
        let keys_in = |lost: &[bool]| {
            let slot = |key: &Key| slots.slot_of(key.as_bytes(), seed);
            self.map.keys().filter(|key| lost[usize::from(slot(key).0)]).count() as u64
        };
        Ownership::next(self.ownership.as_deref(), me, map, keys_in)
    }

    /// What each slot of the array holds, in their order; empty without one. Walks all keys.
    pub fn slot_loads(&self) -> Vec<SlotLoad> {
        let Some(own) = &self.ownership else { return Vec::new() };
        let mut loads = vec![SlotLoad::default(); own.array().slots().count()];
        for (key, stored) in &self.map {
            let Slot(slot) = own.array().slot(key.as_bytes());
            let load = &mut loads[usize::from(slot)];
            load.keys += 1;
            load.bytes += (key.as_bytes().len() + stored.value.len()) as u64;
        }
        loads
    }

    /// How many transactions have changed the store.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.map.len() as u64
    }

    /// How many bytes all keys and values have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A 64-bit digest of everything the store holds (XXH64 of its snapshot): equal stores have
    /// equal digests. Walks the whole store, so this is for checks.
    pub fn digest(&self) -> u64 {
        snapshot::digest(self)
    }

    fn apply_sharding(&mut self, command: ShardCommand) -> Reply {
        match command {
            ShardCommand::SetMap { cluster, text } => {
                let map = Array::from_json(&text).map_err(MapRefused::Fault);
                match map.and_then(|map| self.judge_map(&cluster, map)) {
                    Ok(next) => {
                        let changed = next.is_some();
                        self.ownership = next.map(Arc::new).or(self.ownership.take());
                        let own = self.ownership.as_ref().expect("a map was taken, now or before");
                        Reply::MapSet { epoch: own.array().epoch(), changed }
                    }
                    Err(refused) => Reply::MapRefused(Box::new(refused)),
                }
            }
            ShardCommand::Adopt { applied } => {
                let own = self.ownership.as_mut().filter(|own| own.would_adopt(&applied));
                let changed = own.is_some_and(|own| Arc::make_mut(own).adopt(&applied));
                Reply::Adopted { changed }
            }
        }
    }

    /// All operations of one transaction see and make the same revision.
    fn carry_out(&mut self, operations: Vec<Operation>, command_bytes: usize) -> Vec<Done> {
        let revision = self.revision + 1;
        let mut done = Vec::with_capacity(operations.len());
        for operation in operations {
            done.push(match operation {
                Operation::Put { key, value } => {
                    self.put(&key, keep(value, command_bytes), revision)
                }
                Operation::Delete { key } => self.delete(&key, revision),
            });
        }
        done
    }

    fn put(&mut self, key: &[u8], value: Bytes, revision: u64) -> Done {
        self.revision = revision;
        self.bytes += value.len() as u64;
        if let Some(stored) = self.map.get_mut(key) {
            self.bytes -= stored.value.len() as u64;
            stored.value = value;
            stored.mod_revision = revision;
            stored.version += 1;
            return Done::Put { created: false, version: stored.version };
        }
        self.bytes += key.len() as u64;
        let stored =
            Stored { value, create_revision: revision, mod_revision: revision, version: 1 };
        self.map.insert(Key::new(key), stored);
        Done::Put { created: true, version: 1 }
    }

    fn delete(&mut self, key: &[u8], revision: u64) -> Done {
        let Some(stored) = self.map.remove(key) else {
            return Done::Deleted { deleted: 0 };
        };
        self.revision = revision;
        self.bytes -= (key.len() + stored.value.len()) as u64;
        Done::Deleted { deleted: 1 }
    }

    fn count(&self, query: &ListQuery) -> u64 {
        if query.prefix.is_empty() && query.start.is_empty() {
            return self.keys();
        }
        self.matching(query, None).count() as u64
    }

    /// The keys that begin with the prefix, at or after `start`, and after `after`.
    fn matching<'a>(
        &'a self,
        query: &'a ListQuery,
        after: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Key, &'a Stored)> {
        let first: &[u8] = query.start.as_ref().max(query.prefix.as_ref());
        let from = match after {
            Some(after) if first <= after => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        self.map.range(from).take_while(|(key, _)| key.as_bytes().starts_with(&query.prefix))
    }
}
