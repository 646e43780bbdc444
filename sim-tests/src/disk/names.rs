//! Which names there are: a value that changes are applied to, in whole or in part.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Names and folders.
#[derive(Clone)]
pub(super) struct Tree {
    /// The number of the file behind each path.
    pub(super) names: BTreeMap<String, u64>,
    pub(super) dirs: BTreeSet<String>,
}

/// One change of a [`Tree`].
#[derive(Clone, Debug)]
pub(super) enum Change {
    Link { path: String, inode: u64 },
    Rename { from: String, to: String, inode: u64 },
    Unlink { path: String },
    MakeDir { path: String },
}

impl Tree {
    pub(super) fn inode(&self, path: &str) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| missing(path))
    }

    pub(super) fn has_folder_of(&self, path: &str) -> io::Result<()> {
        let dir = folder(path);
        if self.dirs.contains(dir) { Ok(()) } else { Err(missing(dir)) }
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { path, inode } => {
                self.names.insert(path.clone(), *inode);
            }
            Change::Rename { from, to, inode } => {
                // Its own making may have been lost while this was kept, and then another file can
                // have the old name.
                if self.names.get(from) == Some(inode) {
                    self.names.remove(from);
                }
                self.names.insert(to.clone(), *inode);
            }
            Change::Unlink { path } => {
                self.names.remove(path);
            }
            Change::MakeDir { path } => {
                self.dirs.insert(path.clone());
            }
        }
    }

    /// A folder that is not there has nothing in it.
    pub(super) fn drop_orphans(&mut self) {
        let Tree { names, dirs } = self;
        names.retain(|path, _| dirs.contains(folder(path)));
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { names: BTreeMap::new(), dirs: BTreeSet::from([String::new()]) }
    }
}

impl Change {
    /// The folder whose sync makes it durable.
    pub(super) fn dir(&self) -> &str {
        match self {
            Change::Link { path, .. }
            | Change::Unlink { path }
            | Change::MakeDir { path }
            | Change::Rename { to: path, .. } => folder(path),
        }
    }

    pub(super) fn inode(&self) -> Option<u64> {
        match self {
            Change::Link { inode, .. } | Change::Rename { inode, .. } => Some(*inode),
            Change::Unlink { .. } | Change::MakeDir { .. } => None,
        }
    }
}

/// The folder of a path; `""` is the data directory.
pub(super) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

pub(super) fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path:?} is not there"))
}
