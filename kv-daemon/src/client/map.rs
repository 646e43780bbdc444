//! What a client knows of where keys live: the servers it was given, and the array of clusters if
//! there is one. Knows how a copy of the array is corrected; never sends a request itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use carp::{Array, Epoch, MemberId, Moved, Router};

use super::url::ServerUrl;

/// Servers of which any will do: those a client was given, or those of one cluster.
#[derive(Debug)]
pub(super) struct Servers {
    list: Vec<ServerUrl>,
    /// Where to begin: the one that answered last.
    preferred: AtomicUsize,
}

impl Servers {
    pub(super) fn new(list: Vec<ServerUrl>) -> Servers {
        Servers { list, preferred: AtomicUsize::new(0) }
    }

    pub(super) fn list(&self) -> &[ServerUrl] {
        &self.list
    }

    /// The server a request asks on its `turn`-th try, as a place in the list.
    pub(super) fn place(&self, turn: usize) -> usize {
        (self.preferred.load(Ordering::Relaxed) + turn) % self.list.len()
    }

    pub(super) fn prefer(&self, place: usize) {
        self.preferred.store(place, Ordering::Relaxed);
    }
}

/// Whom to ask, and what to say one knows.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// Never empty.
    pub(super) servers: Arc<Servers>,
    /// What goes into `Carp-Epoch`: only where the owner is known, so that others forward.
    pub(super) epoch: Option<Epoch>,
}

/// How well a client knows the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// It has not asked yet, or nobody has answered.
    Nothing,
    /// It is worth asking again, but not worth waiting for.
    Old,
    /// There is nothing to ask.
    Fresh,
}

/// The map of one client.
#[derive(Debug)]
pub(super) struct Map {
    seeds: Arc<Servers>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Whether anybody has said what the array is, or that there is none.
    asked: Option<Instant>,
    router: Option<Router>,
    /// The servers of each owner, as a request needs them; made when first needed.
    clusters: HashMap<MemberId, Arc<Servers>>,
    /// There is an array, though the last answer was that there is none.
    has_appeared: bool,
}

impl Map {
    pub(super) fn new(seeds: Vec<ServerUrl>) -> Map {
        assert!(!seeds.is_empty(), "a client has a server to ask");
        Map { seeds: Arc::new(Servers::new(seeds)), known: RwLock::default() }
    }

    /// The servers the client was given.
    pub(super) fn seeds(&self) -> &Arc<Servers> {
        &self.seeds
    }

    pub(super) fn knowledge(&self) -> Knowledge {
        let known = self.read();
        match (&known.asked, &known.router) {
            (None, _) => Knowledge::Nothing,
            (Some(_), None) if known.has_appeared => Knowledge::Old,
            (Some(_), None) => Knowledge::Fresh,
            (Some(asked), Some(router)) => {
                let ttl = Duration::from_secs(u64::from(router.ttl_s()));
                match router.needs_refresh() || ttl <= asked.elapsed() {
                    true => Knowledge::Old,
                    false => Knowledge::Fresh,
                }
            }
        }
    }

    /// The array as it was fetched.
    pub(super) fn array(&self) -> Option<Array> {
        self.read().router.as_ref().map(|router| router.array().clone())
    }

    /// Whom to ask about this key. Without an array, or for an owner nobody can be sent to: the
    /// servers the client was given, which forward.
    pub(super) fn way(&self, key: &[u8]) -> Way {
        let plain = || Way { servers: Arc::clone(&self.seeds), epoch: None };
        let owner = {
            let known = self.read();
            let Some(router) = &known.router else { return plain() };
            let target = router.route(key);
            if let Some(servers) = known.clusters.get(target.owner) {
                return Way { servers: Arc::clone(servers), epoch: Some(target.epoch) };
            }
            target.owner.clone()
        };
        let mut known = self.write();
        let Some(router) = &known.router else { return plain() };
        let target = router.route(key);
        let urls: Vec<ServerUrl> = target.urls.iter().filter_map(|url| url.parse().ok()).collect();
        if *target.owner != owner || urls.is_empty() {
            return plain();
        }
        let epoch = Some(target.epoch);
        let servers = Arc::new(Servers::new(urls));
        known.clusters.insert(owner, Arc::clone(&servers));
        Way { servers, epoch }
    }

    /// An answer has named an epoch.
    pub(super) fn saw(&self, epoch: Epoch) {
        // Nearly always nothing new: then nobody has to wait for anybody.
        let news = match &self.read().router {
            Some(router) => router.array().epoch() < epoch && !router.needs_refresh(),
            None => true,
        };
        if news {
            let mut known = self.write();
            match &mut known.router {
                Some(router) => router.on_epoch(epoch),
                None => known.has_appeared = true,
            }
        }
    }

    /// Takes a redirect. False: it is no news, so that only a newer array helps.
    pub(super) fn on_redirect(&self, moved: &Moved) -> bool {
        let mut known = self.write();
        let Some(router) = &mut known.router else { return false };
        let news = router.on_redirect(moved);
        if news {
            // Its servers may be others than we have heard of.
            known.clusters.remove(&moved.owner);
        }
        news
    }

    /// What to send as `If-None-Match` when asking for the array.
    pub(super) fn etag(&self) -> Option<String> {
        self.read().router.as_ref().map(Router::etag)
    }

    /// The array was fetched.
    ///
    /// # Errors
    /// It contradicts the one we have, which stays.
    pub(super) fn learned(&self, array: Array) -> Result<(), carp::ArrayFault> {
        let mut known = self.write();
        known.asked = Some(Instant::now());
        known.has_appeared = false;
        match &mut known.router {
            Some(router) => {
                if router.update(array)? {
                    known.clusters.clear();
                }
            }
            None => known.router = Some(Router::new(array)),
        }
        Ok(())
    }

    /// The array is what it was.
    pub(super) fn unchanged(&self) {
        let mut known = self.write();
        known.asked = Some(Instant::now());
        if let Some(router) = &mut known.router {
            router.unchanged();
        }
    }

    /// The servers know of no array. One that we have stays: a cluster that lost it is no proof.
    pub(super) fn is_absent(&self) {
        let mut known = self.write();
        known.asked = Some(Instant::now());
        known.has_appeared = false;
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use carp::{Change, Member};

    use super::*;

    fn member(name: &str, port: u16) -> Member {
        let url = format!("http://127.0.0.1:{port}");
        Member::new(MemberId::new(name).unwrap(), vec![url])
    }

    fn array() -> Array {
        let members = vec![member("a", 1), member("b", 2)];
        Array::fresh("kv", carp::SlotBits::DEFAULT, 0, members).unwrap()
    }

    fn map() -> Map {
        Map::new(vec!["127.0.0.1:9".parse().unwrap()])
    }

    fn authority(way: &Way) -> &str {
        way.servers.list()[way.servers.place(0)].authority()
    }

    #[test]
    fn without_an_array_the_given_servers_are_asked_and_no_epoch_is_told() {
        let map = map();
        assert_eq!(map.knowledge(), Knowledge::Nothing);
        assert_eq!((authority(&map.way(b"k")), map.way(b"k").epoch), ("127.0.0.1:9", None));
        map.is_absent();
        assert_eq!(map.knowledge(), Knowledge::Fresh);
        map.saw(Epoch(1));
        assert_eq!(map.knowledge(), Knowledge::Old);
    }

    #[test]
    fn with_an_array_each_key_goes_to_its_owner() {
        let map = map();
        map.learned(array()).unwrap();
        let array = array();
        for number in 0..100 {
            let key = format!("key{number}");
            let way = map.way(key.as_bytes());
            let owner = &array.route(key.as_bytes()).member.urls[0];
            assert_eq!(
                (format!("http://{}", authority(&way)), way.epoch),
                (owner.clone(), Some(Epoch(1)))
            );
        }
    }

    #[test]
    fn a_redirect_changes_one_slot_and_the_array_is_asked_for() {
        let map = map();
        map.learned(array()).unwrap();
        let key = (0..)
            .map(|n| format!("key{n}"))
            .find(|key| authority(&map.way(key.as_bytes())) == "127.0.0.1:1");
        let key = key.unwrap();
        let slot = array().slot(key.as_bytes());
        let urls = vec!["http://127.0.0.1:3".to_owned()];
        let owner = MemberId::new("c").unwrap();
        let moved = Moved { slot, owner, slot_epoch: 2, epoch: Epoch(2), urls };
        assert!(map.on_redirect(&moved));
        assert!(!map.on_redirect(&moved), "the second time it is no news");
        assert_eq!(authority(&map.way(key.as_bytes())), "127.0.0.1:3");
        assert_eq!(map.knowledge(), Knowledge::Old);
    }

    #[test]
    fn a_newer_array_is_taken_and_an_older_one_is_not() {
        let map = map();
        map.learned(array()).unwrap();
        let mut newer = array();
        newer.apply_plan(&newer.plan(Change::Add(member("c", 3))).unwrap()).unwrap();
        map.saw(Epoch(2));
        assert_eq!(map.knowledge(), Knowledge::Old);
        map.learned(newer).unwrap();
        assert_eq!(map.knowledge(), Knowledge::Fresh);
        assert!(map.learned(array()).is_err());
        assert_eq!(map.array().unwrap().epoch(), Epoch(2));
    }
}
