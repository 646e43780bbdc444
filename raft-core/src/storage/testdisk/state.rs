//! The disk's state: what is live, what is durable, what lies between, and what is to fail.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use super::file::File;
use super::names::{Change, Tree, folder};
use super::{Op, OpKind, Unsynced};

#[derive(Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<u64, File>,
    pub(super) inodes: u64,
    pub(super) live: Tree,
    pub(super) durable: Tree,
    /// Changes of `live` that `durable` has not seen, in the order they were made.
    pub(super) pending: Vec<(u64, Change)>,
    pub(super) ops: u64,
    pub(super) log: VecDeque<Op>,
    pub(super) stop_after: Option<u64>,
    pub(super) faults: BTreeMap<OpKind, u64>,
    pub(super) free: Option<u64>,
    pub(super) hold_syncs: bool,
    pub(super) held_syncs: u64,
    pub(super) locks: BTreeMap<String, String>,
}

const LOG_OPS_MAX: usize = 10_000;

impl State {
    /// The same files, names and losses to come, seen by another process.
    pub(super) fn restarted(&self) -> State {
        let mut files = self.files.clone();
        files.values_mut().for_each(|file| file.handles = 0);
        let mut state = State {
            files,
            inodes: self.inodes,
            live: self.live.clone(),
            durable: self.durable.clone(),
            pending: self.pending.clone(),
            ..State::default()
        };
        state.collect();
        state
    }

    /// Numbers an operation, unless the process is gone or the operation is to fail.
    pub(super) fn begin(&mut self, kind: OpKind, path: &str, detail: String) -> io::Result<()> {
        if self.stop_after.is_some_and(|last| last <= self.ops) {
            return Err(gone());
        }
        self.ops += 1;
        let op = Op { number: self.ops, kind, path: path.to_owned(), detail };
        if self.log.len() == LOG_OPS_MAX {
            self.log.pop_front();
        }
        self.log.push_back(op);
        self.fault(kind)
    }

    /// Whether the process still runs. Reading is no longer possible once the last operation that
    /// is to be carried out has been.
    pub(super) fn alive(&self) -> io::Result<()> {
        match self.stop_after {
            Some(last) if last <= self.ops => Err(gone()),
            _ => Ok(()),
        }
    }

    pub(super) fn fault(&mut self, kind: OpKind) -> io::Result<()> {
        let Some(left) = self.faults.get_mut(&kind) else { return Ok(()) };
        *left -= 1;
        if 0 < *left {
            return Ok(());
        }
        self.faults.remove(&kind);
        Err(io::Error::other(format!("injected failure of {kind:?}")))
    }

    pub(super) fn file(&mut self, inode: u64) -> &mut File {
        self.files.get_mut(&inode).expect("an inode in use is kept")
    }

    pub(super) fn live_file(&mut self, path: &str) -> &mut File {
        let inode = *self.live.names.get(path).unwrap_or_else(|| panic!("{path} is not there"));
        self.file(inode)
    }

    pub(super) fn new_inode(&mut self, file: File) -> u64 {
        self.inodes += 1;
        self.files.insert(self.inodes, file);
        self.inodes
    }

    pub(super) fn give_back(&mut self, inode: u64) {
        let len = self.file(inode).live.len;
        if let Some(free) = &mut self.free {
            *free += len;
        }
    }

    pub(super) fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.pending.push((self.ops, change));
    }

    /// Inodes that have a name, or may have one after a crash.
    fn reachable(&self) -> BTreeSet<u64> {
        let named = self.live.names.values().chain(self.durable.names.values()).copied();
        named.chain(self.pending.iter().filter_map(|(_, change)| change.inode())).collect()
    }

    /// Lets go of files that no name and no handle leads to.
    pub(super) fn collect(&mut self) {
        let reachable = self.reachable();
        self.files.retain(|inode, file| 0 < file.handles || reachable.contains(inode));
    }

    pub(super) fn unsynced(&self) -> Vec<Unsynced> {
        let mut all = Vec::new();
        for (op, change) in &self.pending {
            let dir = change.dir().to_owned();
            all.push(Unsynced::Name { dir, change: change.to_string(), op: *op });
        }
        for inode in self.reachable() {
            let file = &self.files[&inode];
            if file.live.len != file.durable.len {
                all.push(Unsynced::Length { path: file.path.clone(), inode });
            }
            for sector in file.dirty.union(&file.forgotten) {
                let path = file.path.clone();
                all.push(Unsynced::Sector { path, inode, sector: *sector });
            }
        }
        all
    }

    pub(super) fn after_crash(&self, survivors: &BTreeSet<Unsynced>) -> State {
        let mut tree = self.durable.clone();
        for (op, change) in &self.pending {
            let dir = change.dir().to_owned();
            let item = Unsynced::Name { dir, change: change.to_string(), op: *op };
            if survivors.contains(&item) {
                tree.apply(change);
            }
        }
        // A folder that was lost takes along what was in it.
        let dirs = tree.dirs.clone();
        tree.names.retain(|path, _| dirs.contains(folder(path)));

        let mut files = BTreeMap::new();
        for (path, inode) in &tree.names {
            let file = self.files[inode].after_crash(*inode, survivors);
            files.insert(*inode, File { path: path.clone(), ..file });
        }
        State { files, inodes: self.inodes, live: tree.clone(), durable: tree, ..State::default() }
    }
}

/// The one error with this kind: nobody is left to see it.
fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the process is gone")
}
