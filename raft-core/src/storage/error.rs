//! Why storage refuses. Each text says what is wrong, where, and what to do about it; nothing on
//! disk was changed when one of the first six is returned.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::types::{ClusterId, NodeId};

/// What keeps a data directory from being opened, read or written.
///
/// File names are those of [`Disk::describe`](super::disk::Disk::describe): a person can find them.
#[derive(Clone, Debug)]
pub enum StorageError {
    /// Bytes are not what was written, and no crash explains it.
    Damage {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Another process holds the data directory.
    Locked {
        /// The lock file.
        file: String,
        /// Who holds it: `process 4711`.
        holder: String,
    },
    /// The data directory belongs to a node of another name.
    WrongName {
        /// The META file.
        file: String,
        /// The name the node was started with.
        wanted: String,
        /// The name in the directory.
        found: String,
    },
    /// A file of another node's directory was put into this one.
    ForeignNode {
        /// The file.
        file: String,
        /// This node.
        expected: NodeId,
        /// The node that wrote the file.
        found: NodeId,
    },
    /// A file of another cluster was put into this directory.
    ForeignCluster {
        /// The file.
        file: String,
        /// This node's cluster.
        expected: ClusterId,
        /// The cluster the file belongs to.
        found: ClusterId,
    },
    /// A later version of this program wrote the file.
    NewerFormat {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The disk is full. Nothing that was acknowledged is touched; worth trying again later.
    NoSpace {
        /// The file that could not grow.
        file: String,
    },
    /// The operating system refused.
    Io {
        /// The file or folder.
        file: String,
        /// What was tried: `open`, `write`, `sync` ...
        op: &'static str,
        /// What it said.
        source: Arc<io::Error>,
    },
    /// An earlier write or sync failed: what is durable is not known any more, so nothing is
    /// written or acknowledged until the process has started anew.
    Poisoned,
}

impl StorageError {
    /// The operating system's refusal of `op` on `file`; a full disk becomes
    /// [`StorageError::NoSpace`].
    pub fn io(file: impl Into<String>, op: &'static str, source: io::Error) -> StorageError {
        let file = file.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StorageError::NoSpace { file }
            }
            _ => StorageError::Io { file, op, source: Arc::new(source) },
        }
    }

    /// Damage in `file` at byte `offset`.
    pub fn damage(
        file: impl Into<String>,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> StorageError {
        StorageError::Damage {
            file: file.into(),
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Whether bytes on the disk are not what was written.
    pub fn is_damage(&self) -> bool {
        matches!(self, StorageError::Damage { .. })
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Damage { file, offset, expected, found } => write!(
                f,
                "{file} is damaged at byte {offset}: expected {expected}, found {found}. Nothing \
                 was changed; keep this data directory. The other nodes of a cluster serve on as \
                 long as they are a majority. A node alone goes on from a copy of the whole \
                 directory that was made while it was stopped, or begins anew with another \
                 --data-dir"
            ),
            StorageError::Locked { file, holder } => write!(
                f,
                "the data directory is in use: {file} is held by {holder}. Stop that process, or \
                 start with another --data-dir"
            ),
            StorageError::WrongName { file, wanted, found } => write!(
                f,
                "{file} says that this data directory belongs to {found:?}, but the node was \
                 started as {wanted:?}. Start with --id {found}, or with another --data-dir"
            ),
            StorageError::ForeignNode { file, expected, found } => write!(
                f,
                "{file} was written by node {found}, but this data directory belongs to node \
                 {expected}. Files of two nodes must not be mixed: put each back where it was, or \
                 start with an empty --data-dir"
            ),
            StorageError::ForeignCluster { file, expected, found } => write!(
                f,
                "{file} belongs to cluster {found}, but this data directory to cluster \
                 {expected}. Files of two clusters must not be mixed: put each back where it was, \
                 or start with an empty --data-dir"
            ),
            StorageError::NewerFormat { file, found, known } => write!(
                f,
                "{file} has format {found}, and this program knows formats up to {known}. Start \
                 the newer program that wrote it; nothing was changed"
            ),
            StorageError::NoSpace { file } => {
                write!(f, "the disk is full: {file} could not grow. Make room on it")
            }
            StorageError::Io { file, op, source } => write!(f, "could not {op} {file}: {source}"),
            StorageError::Poisoned => f.write_str(
                "an earlier write or sync failed, so what is durable is not known; check the disk \
                 and start the process again",
            ),
        }
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StorageError::Io { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}
