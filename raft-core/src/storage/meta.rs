//! Who this disk is: the lock, and the file META.
//!
//! META is made with the data directory and changes once more, when the cluster forms. It is always written whole under another name, synced and renamed, so a crash leaves the
//! old one or the new one. A directory without META is fresh, unless it holds a log or a snapshot:
//! then META was lost, and nobody may guess a new identity. This file never touches log or
//! snapshots.
//!
//! ```text
//! META        0  magic         8  "RAFTMETA"
//!             8  format    u32 4
//!            12  length    u32 4  of the whole file
//!            16  node id   u64 8
//!            24  formed    u32 4  1 when the cluster id counts, else 0
//!            28  name_len  u32 4  1 to 255
//!            32  cluster   u64 8  0 while not formed
//!            40  name          name_len, UTF-8
//!             .  crc       u32 4  CRC-32 of all before it
//! ```
//!
//! In every format to come the first 16 bytes and the CRC at the end keep their meaning, so that a
//! newer file is told from a damaged one.

use std::io;
use std::process;
use std::sync::Arc;

use super::disk::Disk;
use super::error::StorageError;
use crate::types::{ClusterId, NodeId};

/// The newest format of a data directory that this program reads, and the one it writes.
pub const FORMAT: u32 = 1;

/// Most bytes of a node's name.
pub const NAME_BYTES_MAX: usize = 255;

/// The file's name.
pub const META: &str = "META";

/// The lock's name.
pub const LOCK: &str = "LOCK";

const META_TMP: &str = "META.tmp";
const MAGIC: &[u8; 8] = b"RAFTMETA";
const HEAD_BYTES: usize = 40;
const CRC_BYTES: usize = 4;

/// An opened data directory: locked for this process until it is dropped.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    meta: Meta,
    _lock: Box<dyn Send>,
}

/// Who a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// 64 random bits made with the data directory.
    pub node_id: NodeId,
    /// What people call the node; 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Its cluster. `None`: the node is fresh, it has not formed or joined one yet.
    pub cluster: Option<ClusterId>,
    /// The format of everything in the directory.
    pub format: u32,
}

impl DataDir {
    /// Takes the lock, then reads META and makes sure that it is durable, or makes it when the directory is fresh: with `wanted_name`
    /// (or the id in print when there is none) and a node id of these `random` bits.
    ///
    /// Refused: a directory in use ([`StorageError::Locked`]), one of another name than the wanted
    /// ([`StorageError::WrongName`]), one with a log but no META, a damaged META, a newer one, a name
    /// that is empty or too long.
    pub fn open(
        disk: Arc<dyn Disk>,
        wanted_name: Option<&str>,
        random: u64,
    ) -> Result<DataDir, StorageError> {
        let lock = disk
            .lock(LOCK, &format!("{}\n", process::id()))
            .map_err(|error| refused_lock(disk.describe(LOCK), error))?;
        let meta = match Meta::load(&*disk)? {
            Some(meta) => meta.with_name(&*disk, wanted_name)?,
            None => {
                refuse_orphans(&*disk)?;
                let name = wanted_name.map_or_else(|| NodeId(random).to_string(), str::to_owned);
                refuse_bad_name(&*disk, &name)?;
                Meta::create(&name, random)
            }
        };
        // Even a META that was there: the page cache may show one that never reached the disk, when
        // the process before us died between its rename and its sync.
        meta.store(&*disk)?;
        Ok(DataDir { disk, meta, _lock: lock })
    }

    /// The files.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Who the disk is.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Says durably that this node belongs to `cluster`: from then on the directory is *formed*.
    /// The log has to hold its first entry, synced, before this is called.
    ///
    /// # Panics
    ///
    /// When the node belongs to another cluster: that never changes in the life of a disk.
    pub fn form(&mut self, cluster: ClusterId) -> Result<(), StorageError> {
        let before = self.meta.cluster;
        assert!(before.is_none_or(|old| old == cluster), "the disk belongs to another cluster");
        let meta = Meta { cluster: Some(cluster), ..self.meta.clone() };
        meta.store(&*self.disk)?;
        self.meta = meta;
        Ok(())
    }
}

impl Meta {
    /// A fresh node of this name.
    ///
    /// # Panics
    ///
    /// When the name is empty or longer than [`NAME_BYTES_MAX`]; [`DataDir::open`] refuses it.
    pub fn create(name: &str, random: u64) -> Meta {
        assert!(is_name(name), "a node's name has 1 to {NAME_BYTES_MAX} bytes");
        Meta { node_id: NodeId(random), name: name.to_owned(), cluster: None, format: FORMAT }
    }

    /// What the directory's META says; `None` when there is none.
    pub fn load(disk: &dyn Disk) -> Result<Option<Meta>, StorageError> {
        let file = disk.describe(META);
        let open = match disk.open(META) {
            Ok(open) => open,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(file, "open", error)),
        };
        let read = || -> io::Result<Vec<u8>> {
            // One byte more than there can be: whatever is longer is refused, never read.
            let longest = (HEAD_BYTES + NAME_BYTES_MAX + CRC_BYTES + 1) as u64;
            let mut bytes = vec![0; open.len()?.min(longest) as usize];
            open.read_at(0, &mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error| StorageError::io(file.clone(), "read", error))?;
        Meta::decode(&bytes, &file).map(Some)
    }

    /// Makes this the directory's META, durably: once it returns every later start finds it.
    pub fn store(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let failed = |op| {
            let file = disk.describe(META);
            move |error| StorageError::io(file, op, error)
        };
        match disk.remove(META_TMP) {
            // What a crash may have left.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("write")(error));
            }
            _ => {}
        }
        let mut file = disk.create(META_TMP).map_err(failed("create"))?;
        file.write_at(0, &self.encode()).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        disk.rename(META_TMP, META).map_err(failed("rename"))?;
        disk.sync_dir("").map_err(failed("sync"))
    }

    fn with_name(self, disk: &dyn Disk, wanted: Option<&str>) -> Result<Meta, StorageError> {
        match wanted {
            Some(wanted) if wanted != self.name => Err(StorageError::WrongName {
                file: disk.describe(META),
                wanted: wanted.to_owned(),
                found: self.name,
            }),
            _ => Ok(self),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let length = HEAD_BYTES + self.name.len() + CRC_BYTES;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.format.to_le_bytes());
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&self.node_id.0.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.cluster.is_some()).to_le_bytes());
        bytes.extend_from_slice(&(self.name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.cluster.map_or(0, |cluster| cluster.0).to_le_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], file: &str) -> Result<Meta, StorageError> {
        let damage = |offset: usize, expected: String, found: String| {
            Err(StorageError::damage(file, offset as u64, expected, found))
        };
        if !bytes.starts_with(MAGIC) {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(MAGIC.len())]);
            return damage(0, "the magic RAFTMETA".into(), format!("{found:?}"));
        }
        if bytes.len() < 16 + CRC_BYTES {
            return damage(bytes.len(), "a whole META".into(), "its end".into());
        }
        let u32_at = |at: usize| u32::from_le_bytes(array(&bytes[at..at + 4]));
        let u64_at = |at: usize| u64::from_le_bytes(array(&bytes[at..at + 8]));
        let length = u32_at(12) as usize;
        if length != bytes.len() {
            let found = format!("{} bytes", bytes.len());
            return damage(12, format!("the file's length, {length}"), found);
        }
        let end = bytes.len() - CRC_BYTES;
        let (computed, stored) = (crc32fast::hash(&bytes[..end]), u32_at(end));
        if computed != stored {
            return damage(
                end,
                format!("CRC {computed:08x} of the bytes before"),
                format!("{stored:08x}"),
            );
        }
        // The CRC holds, so the bytes are as some version of this program wrote them.
        let format = u32_at(8);
        if FORMAT < format {
            return Err(StorageError::NewerFormat {
                file: file.into(),
                found: format,
                known: FORMAT,
            });
        }
        if end < HEAD_BYTES || u32_at(28) as usize != end - HEAD_BYTES {
            return damage(28, "a name that fills the file".into(), format!("{length} bytes"));
        }
        let cluster = match u32_at(24) {
            0 => None,
            1 => Some(ClusterId(u64_at(32))),
            formed => return damage(24, "0 or 1".into(), formed.to_string()),
        };
        match std::str::from_utf8(&bytes[HEAD_BYTES..end]) {
            Ok(name) if !name.is_empty() => {
                Ok(Meta { node_id: NodeId(u64_at(16)), name: name.to_owned(), cluster, format })
            }
            _ => damage(HEAD_BYTES, "a name in UTF-8".into(), "something else".into()),
        }
    }
}

fn refused_lock(file: String, error: io::Error) -> StorageError {
    if error.kind() != io::ErrorKind::WouldBlock {
        return StorageError::io(file, "lock", error);
    }
    // The holder may not have written its process id yet.
    let holder = match error.to_string() {
        note if note.is_empty() => "another process".to_owned(),
        note => format!("process {note}"),
    };
    StorageError::Locked { file, holder }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX
}

fn refuse_bad_name(disk: &dyn Disk, name: &str) -> Result<(), StorageError> {
    if is_name(name) {
        return Ok(());
    }
    let text = format!("a node's name has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len());
    let error = io::Error::new(io::ErrorKind::InvalidInput, text);
    Err(StorageError::io(disk.describe(META), "write", error))
}

/// META is the first file of a directory. One that has others has lost it, and under a new identity
/// the node could vote a second time in a term it has voted in.
fn refuse_orphans(disk: &dyn Disk) -> Result<(), StorageError> {
    for dir in ["wal", "snap"] {
        let names =
            disk.list(dir).map_err(|error| StorageError::io(disk.describe(dir), "list", error))?;
        if let Some(name) = names.first() {
            let found =
                format!("none, though there is {}", disk.describe(&format!("{dir}/{name}")));
            return Err(StorageError::damage(disk.describe(META), 0, "the file META", found));
        }
    }
    Ok(())
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller cuts exactly as many bytes")
}
