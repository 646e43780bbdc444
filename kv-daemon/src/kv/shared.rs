//! The store as the state machine of a node, shared with those who read it.
//!
//! One lock, held for one command by the applier and for one lookup by a reader. Whoever walks many
//! keys takes a clone under the lock and walks outside of it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use carp::Ownership;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::types::LogPosition;

use super::command::Reply;
use super::request::{ListQuery, Listed, Record};
use super::sharding::Misplaced;
use super::snapshot::{Restoring, Source};
use super::store::Store;

/// A handle to one store: clones share it. One of them is given to the node as its state machine,
/// the others read.
#[derive(Default)]
pub struct SharedStore {
    store: Arc<RwLock<Store>>,
    /// A snapshot on its way in, at the handle it is fed to; readers see the old store until its end.
    restoring: Option<Box<Restoring>>,
}

impl SharedStore {
    /// An empty store.
    pub fn new() -> SharedStore {
        SharedStore::default()
    }

    /// The record of a key and the store's revision it was seen at.
    ///
    /// # Errors
    /// The key is not this cluster's.
    pub fn get(&self, key: &[u8]) -> Result<(Option<Record>, u64), Misplaced> {
        let store = self.read();
        Ok((store.get(key)?, store.revision()))
    }

    /// What this cluster serves; `None`: everything, for it is in no array.
    pub fn ownership(&self) -> Option<Arc<Ownership>> {
        self.read().ownership().cloned()
    }

    /// The epoch of the map in force, if there is one.
    pub fn map_epoch(&self) -> Option<u64> {
        self.read().ownership().map(|own| own.array().epoch().0)
    }

    /// One page of the keys; see [`Store::list`].
    pub fn list(&self, query: &ListQuery) -> Listed {
        self.view().list(query)
    }

    /// The store as it is now, in O(1). Drop it soon: while it lives, each change of the store
    /// copies the nodes it touches.
    pub fn view(&self) -> Store {
        self.read().clone()
    }

    /// How many transactions have changed the store.
    pub fn revision(&self) -> u64 {
        self.read().revision()
    }

    /// A panic of the applier poisons the lock and stops the node; readers in the time between
    /// still get what is there instead of a second panic.
    fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&mut self, store: Store) {
        let old = {
            let mut guard = self.store.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *guard, store)
        };
        // Freeing the old map takes a while: not under the lock.
        drop(old);
    }
}

impl Clone for SharedStore {
    fn clone(&self) -> SharedStore {
        SharedStore { store: Arc::clone(&self.store), restoring: None }
    }
}

impl StateMachine for SharedStore {
    type Reply = Reply;

    fn apply(&mut self, _at: LogPosition, command: &Bytes) -> Reply {
        self.store.write().unwrap_or_else(PoisonError::into_inner).apply(command)
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(Source::new(self.view()))
    }

    fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
        match step {
            Restore::Begin => self.restoring = Some(Box::new(Restoring::new())),
            Restore::Piece(piece) => {
                let restoring = self.restoring.as_mut();
                restoring
                    .ok_or_else(|| Malformed::new("a piece before the beginning"))?
                    .piece(&piece)?;
            }
            Restore::End => {
                let restoring = self.restoring.take();
                let store = restoring
                    .ok_or_else(|| Malformed::new("an end before the beginning"))?
                    .end()?;
                self.replace(store);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// One bug ends one thread, not everyone who reads after it.
    #[test]
    fn a_panic_of_the_applier_does_not_spread_to_readers() {
        let store = SharedStore::new();
        let applier = store.clone();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _guard = applier.store.write();
            panic!("a bug in apply");
        }));
        assert!(panicked.is_err() && store.store.is_poisoned());
        assert_eq!((store.get(b"k"), store.revision()), (Ok((None, 0)), 0));
    }
}
