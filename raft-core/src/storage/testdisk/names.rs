//! Which names there are: as a value that changes are applied to, in whole or in part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

/// Names and folders.
#[derive(Clone)]
pub(super) struct Tree {
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

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { path, inode } => {
                self.names.insert(path.clone(), *inode);
            }
            Change::Rename { from, to, inode } => {
                // Its own making may have been lost while this was kept, and then a later file
                // can have the old name.
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
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { names: BTreeMap::new(), dirs: BTreeSet::from([String::new()]) }
    }
}

impl Change {
    /// The folder that has to be synced.
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

pub(super) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

pub(super) fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path:?} is not there"))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Link { path, .. } => write!(f, "create {path}"),
            Change::Rename { from, to, .. } => write!(f, "rename {from} {to}"),
            Change::Unlink { path } => write!(f, "remove {path}"),
            Change::MakeDir { path } => write!(f, "create-dir {path}"),
        }
    }
}
