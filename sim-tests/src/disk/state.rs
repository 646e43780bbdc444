//! The disk's whole state, and the small steps that change it. What a process may ask for is in
//! `handle.rs`, what a crash does in `crash.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::io;
use std::time::Duration;

use twox_hash::XxHash64;

use super::contents::File;
use super::displaced::Displaced;
use super::names::{Change, Tree};
use crate::plan::{DiskFault, DiskPace};
use crate::rng::Rng;

/// All of a disk.
pub(super) struct State {
    pub(super) files: BTreeMap<u64, File>,
    inodes: u64,
    pub(super) live: Tree,
    pub(super) durable: Tree,
    /// Changes of `live` that `durable` has not seen, in the order they were made.
    pub(super) pending: Vec<Change>,
    lives: u64,
    /// Lives up to this one have ended.
    ended: u64,
    /// Who holds a lock, and what he wrote into it.
    pub(super) locks: BTreeMap<String, (u64, String)>,
    fuse: Option<u64>,
    blown: bool,
    armed: Vec<Armed>,
    pub(super) full: bool,
    pub(super) pace: DiskPace,
    pub(super) slow: Duration,
    pub(super) chance: Chance,
    pub(super) counts: Counts,
    /// A file that a wrong one has taken the place of.
    pub(super) displaced: Option<Displaced>,
    /// A digest of the operations so far.
    history: XxHash64,
}

/// The disk's streams: what one part draws does not shift another.
pub(super) struct Chance {
    pub(super) crash: Rng,
    pub(super) fault: Rng,
    pub(super) rot: Rng,
    time: Rng,
}

/// A fault that waits for its operation.
struct Armed {
    fault: OnceFault,
    /// How many operations of its kind pass before it strikes.
    left: u32,
}

/// What strikes one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnceFault {
    Read,
    Write,
    ShortWrite,
    Sync,
}

/// Operations that change anything, as far as the fuse and the history know them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Create = 1,
    Write,
    Sync,
    Rename,
    Remove,
    MakeDir,
    SyncDir,
}

/// What has happened on a disk since it was new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads of contents.
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Writes, failed ones included.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Syncs of contents, failed ones included.
    pub syncs: u64,
    /// Syncs of folders.
    pub dir_syncs: u64,
    /// Files created, renamed or removed, folders made.
    pub name_changes: u64,
    /// Reads that failed on order.
    pub read_errors: u64,
    /// Writes that failed on order, short ones included.
    pub write_errors: u64,
    /// Syncs that failed on order.
    pub sync_errors: u64,
    /// Calls that failed for want of room.
    pub refused_for_room: u64,
    /// Crashes that lost at least one sector, length or name.
    pub losses: u64,
    /// Unsynced sectors that a crash dropped.
    pub sectors_dropped: u64,
    /// Unsynced sectors of which a crash left a mixture of old and new.
    pub sectors_cut: u64,
    /// Unsynced sectors that a crash left as garbage.
    pub sectors_garbage: u64,
    /// Changes of names that a crash undid.
    pub names_dropped: u64,
    /// Times that bytes at rest changed.
    pub rotten: u64,
}

/// How much a crash may lose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsynced {
    /// Sectors that the next sync of their file makes durable.
    pub sectors: usize,
    /// Sectors that a failed sync has given up.
    pub forgotten: usize,
    /// Files whose new length is not durable.
    pub lengths: usize,
    /// Changes of names.
    pub names: usize,
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        let stream = |number| Rng::stream(seed, "a disk's own", number);
        State {
            files: BTreeMap::new(),
            inodes: 0,
            live: Tree::default(),
            durable: Tree::default(),
            pending: Vec::new(),
            lives: 0,
            ended: 0,
            locks: BTreeMap::new(),
            fuse: None,
            blown: false,
            armed: Vec::new(),
            full: false,
            pace: DiskPace::default(),
            slow: Duration::ZERO,
            chance: Chance { crash: stream(0), fault: stream(1), rot: stream(2), time: stream(3) },
            counts: Counts::default(),
            displaced: None,
            history: XxHash64::with_seed(0),
        }
    }

    pub(super) fn begin_life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    /// Every process ends: nothing is open any more, and nobody holds a lock.
    pub(super) fn end_lives(&mut self) {
        self.ended = self.lives;
        self.locks.clear();
        (self.fuse, self.blown) = (None, false);
        for file in self.files.values_mut() {
            file.handles = 0;
        }
        self.collect();
    }

    pub(super) fn lives(&self, life: u64) -> bool {
        self.ended < life
    }

    pub(super) fn set_fuse(&mut self, operations: Option<u64>) {
        (self.fuse, self.blown) = (operations, false);
    }

    pub(super) fn fuse_blown(&self) -> bool {
        self.blown
    }

    /// Whether a call of this process is heard at all.
    pub(super) fn hear(&mut self, life: u64) -> io::Result<()> {
        if self.fuse == Some(0) {
            self.blown = true;
        }
        if self.blown || !self.lives(life) { Err(gone()) } else { Ok(()) }
    }

    /// As [`State::hear`], for an operation that changes something: it burns the fuse, and goes
    /// into the history.
    pub(super) fn begin(&mut self, life: u64, op: Op, at: u64, len: u64) -> io::Result<()> {
        self.hear(life)?;
        if let Some(left) = &mut self.fuse {
            *left -= 1;
        }
        self.history.write_u64(op as u64);
        self.history.write_u64(at);
        self.history.write_u64(len);
        match op {
            Op::Write => self.counts.writes += 1,
            Op::Sync => self.counts.syncs += 1,
            Op::SyncDir => self.counts.dir_syncs += 1,
            Op::Create | Op::Rename | Op::Remove | Op::MakeDir => self.counts.name_changes += 1,
        }
        Ok(())
    }

    pub(super) fn arm(&mut self, fault: DiskFault) {
        let (fault, left) = match fault {
            DiskFault::ReadError { after } => (OnceFault::Read, after),
            DiskFault::WriteError { after } => (OnceFault::Write, after),
            DiskFault::ShortWrite { after } => (OnceFault::ShortWrite, after),
            DiskFault::SyncError { after } => (OnceFault::Sync, after),
            lasting => panic!("{lasting:?} does not strike a counted operation"),
        };
        self.armed.push(Armed { fault, left });
    }

    /// Whether this fault strikes now: one operation of its kind is counted.
    pub(super) fn strikes(&mut self, fault: OnceFault) -> bool {
        let mut struck = false;
        self.armed.retain_mut(|armed| {
            if armed.fault != fault {
                return true;
            }
            let now = armed.left == 0;
            armed.left = armed.left.saturating_sub(1);
            struck |= now;
            !now
        });
        struck
    }

    pub(super) fn heal(&mut self) {
        self.armed.clear();
        self.full = false;
        self.slow = Duration::ZERO;
    }

    pub(super) fn room(&mut self) -> io::Result<()> {
        if !self.full {
            return Ok(());
        }
        self.counts.refused_for_room += 1;
        Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk"))
    }

    pub(super) fn draw_time(&mut self) -> Duration {
        let DiskPace { sync_min, sync_max } = self.pace;
        self.slow + self.chance.time.log_span(sync_min, sync_max)
    }

    pub(super) fn file(&mut self, inode: u64) -> &mut File {
        self.files.get_mut(&inode).expect("a file that is open or has a name is kept")
    }

    pub(super) fn new_file(&mut self, file: File) -> u64 {
        self.inodes += 1;
        self.files.insert(self.inodes, file);
        self.inodes
    }

    pub(super) fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.pending.push(change);
    }

    pub(super) fn sync_dir(&mut self, dir: &str) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            if change.dir() != dir {
                return true;
            }
            durable.apply(change);
            false
        });
        self.collect();
    }

    /// Lets go of files that no name and no process leads to, now or after a crash.
    pub(super) fn collect(&mut self) {
        let reachable = self.reachable();
        self.files.retain(|inode, file| 0 < file.handles || reachable.contains(inode));
    }

    /// Files that have a name, or may have one after a crash.
    pub(super) fn reachable(&self) -> BTreeSet<u64> {
        let named = self.live.names.values().chain(self.durable.names.values()).copied();
        named.chain(self.pending.iter().filter_map(Change::inode)).collect()
    }

    pub(super) fn wipe(&mut self) {
        self.pending.clear();
        (self.live, self.durable) = (Tree::default(), Tree::default());
        self.displaced = None;
        self.end_lives();
    }

    pub(super) fn unsynced(&self) -> Unsynced {
        let mut all = Unsynced { names: self.pending.len(), ..Unsynced::default() };
        for inode in self.reachable() {
            let file = &self.files[&inode];
            all.sectors += file.dirty.len();
            all.forgotten += file.forgotten.len();
            all.lengths += usize::from(file.durable_len != file.live.len);
        }
        all
    }

    pub(super) fn at_risk(&self) -> Vec<String> {
        let at_risk = |(path, inode): &(&String, &u64)| {
            self.durable.names.get(*path) != Some(*inode) || !self.files[inode].is_durable()
        };
        self.live.names.iter().filter(at_risk).map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn durable_image(&self) -> State {
        let mut image = State::new(0);
        let mut tree = self.durable.clone();
        tree.drop_orphans();
        for inode in tree.names.values() {
            image.files.insert(*inode, self.files[inode].durable());
        }
        image.inodes = self.inodes;
        (image.live, image.durable) = (tree.clone(), tree);
        image
    }

    pub(super) fn used(&self) -> (usize, u64) {
        let names = &self.live.names;
        (names.len(), names.values().map(|inode| self.files[inode].live.len).sum())
    }

    pub(super) fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let live = &self.files[self.live.names.get(path)?].live;
        let mut bytes = vec![0; usize::try_from(live.len).expect("it is in memory already")];
        live.read(0, &mut bytes);
        Some(bytes)
    }

    pub(super) fn digest(&self) -> u64 {
        let mut digest = self.history.clone();
        for (file, tree) in [("live", &self.live), ("durable", &self.durable)] {
            digest.write(file.as_bytes());
            for dir in &tree.dirs {
                digest.write(dir.as_bytes());
            }
            for (path, inode) in &tree.names {
                digest.write(path.as_bytes());
                digest.write_u64(*inode);
            }
        }
        for (inode, file) in &self.files {
            for number in [*inode, file.live.len, file.durable_len] {
                digest.write_u64(number);
            }
            for (sector, bytes) in file.live.sectors_in_use() {
                digest.write_u64(sector);
                digest.write(bytes);
            }
            for (sector, was) in file.dirty.iter().chain(file.forgotten.iter()) {
                digest.write_u64(sector);
                digest.write(was.as_ref().map_or(&[], |bytes| &bytes[..]));
            }
            for (sector, bytes) in &file.before {
                digest.write_u64(*sector);
                digest.write(&bytes[..]);
            }
        }
        digest.finish()
    }
}

/// The one error with this kind: nobody is left to see it.
fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the process is gone")
}
