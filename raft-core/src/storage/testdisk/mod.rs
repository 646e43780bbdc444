//! A disk in memory, for tests and simulation: it takes "nothing is durable before `sync` and
//! `sync_dir`" at its word.
//!
//! Contents are kept in 512-byte sectors, each once as the process sees it (*live*) and once as a
//! crash would leave it (*durable*); names likewise. [`TestDisk::crash`] gives the disk as the next
//! start may find it: everything durable, and any chosen part of what was not. Every changing
//! operation has a number, so a test can stop the process after each of them in turn. It can fail
//! operations, run out of room, hold a sync and flip bits. It never invents: a sector is old or
//! new, never a mixture, and a rename happened or did not.

mod file;
mod names;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use self::file::File;
use self::names::{Change, folder, missing};
use self::state::State;
use super::disk::{Disk, DiskFile};

/// The unit in which contents survive or are lost, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// The disk; clones are handles of the same one.
#[derive(Clone, Default)]
pub struct TestDisk {
    shared: Arc<Shared>,
}

/// Something a crash may lose or keep.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsynced {
    /// A change in a folder: a file made, renamed or removed, or a folder made. A removal or a name
    /// lost with its folder counts under the folder.
    Name {
        /// The folder; `""` is the data directory.
        dir: String,
        /// Which change, in words: `rename a.tmp b`.
        change: String,
        /// The number of the operation that made it.
        op: u64,
    },
    /// A file has grown. If this is lost, so is everything above the old length.
    Length {
        /// The name the file was last given.
        path: String,
        /// Tells files apart that have or had one name.
        inode: u64,
    },
    /// New contents of one sector.
    Sector {
        /// The name the file was last given.
        path: String,
        /// Tells files apart that have or had one name.
        inode: u64,
        /// Counted from 0 in units of [`SECTOR_BYTES`].
        sector: u64,
    },
}

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// `read_at` and `list`.
    Read,
    /// `create`, of a file.
    Create,
    /// `write_at`.
    Write,
    /// `sync`, of contents.
    Sync,
    /// `sync_dir`.
    SyncDir,
    /// `rename`.
    Rename,
    /// `remove`.
    Remove,
    /// `create_dir`.
    CreateDir,
}

/// One changing operation, as the log keeps it. Prints as `17 write wal/1.log 4096+512`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Counts from 1.
    pub number: u64,
    /// Its kind.
    pub kind: OpKind,
    /// The file or folder; of a rename the old name.
    pub path: String,
    /// The new name of a rename, offset and length of a write, else empty.
    pub detail: String,
}

impl TestDisk {
    /// An empty disk.
    pub fn new() -> TestDisk {
        TestDisk::default()
    }

    /// The disk as the next start finds it when the process dies now: all that is durable, and of
    /// the rest what `survives` says. This disk is left as it is; the new one has no faults set, no
    /// locks held, and counts its operations from 1.
    pub fn crash(&self, mut survives: impl FnMut(&Unsynced) -> bool) -> TestDisk {
        let state = self.state();
        let survivors: BTreeSet<Unsynced> =
            state.unsynced().into_iter().filter(|item| survives(item)).collect();
        TestDisk::with(state.after_crash(&survivors))
    }

    /// A crash that loses everything a crash may lose.
    pub fn crash_losing_all(&self) -> TestDisk {
        self.crash(|_| false)
    }

    /// A crash that loses nothing, by luck.
    pub fn crash_keeping_all(&self) -> TestDisk {
        self.crash(|_| true)
    }

    /// The disk as the next start finds it when the process dies now and the machine lives on: all
    /// that was written is there, and what was not synced can still be lost by a later crash.
    pub fn restart(&self) -> TestDisk {
        TestDisk::with(self.state().restarted())
    }

    /// The disks a crash now may leave. With at most 8 things to lose, one disk for each subset;
    /// with more: none or all survive, each one alone, all but each one, and every first part.
    pub fn crash_images(&self) -> Vec<TestDisk> {
        let losses = self.unsynced().len();
        let of = |chosen: &dyn Fn(usize) -> bool| {
            let mut numbers = 0..losses;
            self.crash(|_| numbers.next().is_some_and(chosen))
        };
        if losses <= 8 {
            return (0..1 << losses).map(|set| of(&|at| set >> at & 1 == 1)).collect();
        }
        let alone = (0..losses).map(|one| of(&|at| at == one));
        let missing = (0..losses).map(|one| of(&|at| at != one));
        let first = (0..=losses).map(|count| of(&|at| at < count));
        alone.chain(missing).chain(first).collect()
    }

    /// What a crash now may lose, in a fixed order.
    pub fn unsynced(&self) -> Vec<Unsynced> {
        self.state().unsynced()
    }

    /// How many changing operations were carried out.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// The newest operations, oldest first (at most 10 000).
    pub fn log(&self) -> Vec<Op> {
        self.state().log.iter().cloned().collect()
    }

    /// Operation `last` is the last one carried out; each later one, reading included, fails as if
    /// the process were gone.
    pub fn stop_after(&self, last: u64) {
        self.state().stop_after = Some(last);
    }

    /// The `nth` operation of this kind from now on (1 is the next) fails once with an input/output
    /// error. A failed write leaves the first half of its sectors; a failed sync leaves what it
    /// should have synced readable, but no later sync will ever make it durable: as Linux does it.
    pub fn fail_nth(&self, kind: OpKind, nth: u64) {
        assert!(0 < nth, "the next operation is number 1");
        self.state().faults.insert(kind, nth);
    }

    /// Files may grow by this many bytes in all (`None`: without bound). A write that needs more
    /// writes what fits and fails with `StorageFull`; a removed file gives its bytes back.
    pub fn set_free(&self, bytes: Option<u64>) {
        self.state().free = bytes;
    }

    /// From now on syncs of contents wait until [`TestDisk::release_syncs`].
    pub fn hold_syncs(&self) {
        self.state().hold_syncs = true;
    }

    /// Lets waiting syncs, and later ones, go on.
    pub fn release_syncs(&self) {
        self.state().hold_syncs = false;
        self.shared.changed.notify_all();
    }

    /// Returns when at least one sync waits because of [`TestDisk::hold_syncs`].
    pub fn wait_for_held_sync(&self) {
        let mut state = self.state();
        while state.held_syncs == 0 {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Every file, by its live name.
    pub fn paths(&self) -> Vec<String> {
        self.state().live.names.keys().cloned().collect()
    }

    /// What a file holds as the process sees it.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let file = &state.files[state.live.names.get(path)?];
        let mut bytes = vec![0; usize::try_from(file.live.len).expect("a test file fits memory")];
        file.live.read(0, &mut bytes);
        Some(bytes)
    }

    /// Puts a file there, durably, replacing what had the name. Counts as no operation.
    pub fn put(&self, path: &str, contents: &[u8]) {
        let mut state = self.state();
        let mut file = File { path: path.to_owned(), ..File::default() };
        file.live.write(0, contents);
        file.durable = file.live.clone();
        let inode = state.new_inode(file);
        let State { live, durable, .. } = &mut *state;
        for tree in [live, durable] {
            tree.dirs.insert(folder(path).to_owned());
            tree.names.insert(path.to_owned(), inode);
        }
    }

    /// Changes bytes behind the process's back, durably: rot. The range must be inside the file.
    pub fn overwrite(&self, path: &str, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let file = state.live_file(path);
        assert!(offset + bytes.len() as u64 <= file.live.len, "{path} ends before");
        file.live.write(offset, bytes);
        file.durable.len = file.durable.len.max(offset + bytes.len() as u64);
        file.durable.write(offset, bytes);
    }

    /// Flips one bit, counted from the start of the file, as rot would.
    pub fn flip_bit(&self, path: &str, bit: u64) {
        let mut byte = [0];
        self.state().live_file(path).live.read(bit / 8, &mut byte);
        byte[0] ^= 1 << (bit % 8);
        self.overwrite(path, bit / 8, &byte);
    }

    /// Cuts a file short, durably.
    pub fn cut(&self, path: &str, len: u64) {
        let mut contents = self.contents(path).expect("the file to cut is there");
        contents.truncate(usize::try_from(len).expect("a test file fits memory"));
        self.put(path, &contents);
    }

    fn with(state: State) -> TestDisk {
        TestDisk { shared: Arc::new(Shared { state: Mutex::new(state), ..Shared::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere must not hide its own message behind ours.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, inode: u64, state: &mut State) -> Box<dyn DiskFile> {
        state.file(inode).handles += 1;
        Box::new(Handle { disk: self.clone(), inode })
    }
}

impl Disk for TestDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.begin(OpKind::Create, path, String::new())?;
        if !state.live.dirs.contains(folder(path)) {
            return Err(missing(folder(path)));
        }
        if state.live.names.contains_key(path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{path} exists")));
        }
        let inode = state.new_inode(File { path: path.to_owned(), ..File::default() });
        state.change(Change::Link { path: path.to_owned(), inode });
        Ok(self.handle(inode, &mut state))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.alive()?;
        let inode = state.live.inode(path)?;
        Ok(self.handle(inode, &mut state))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin(OpKind::Rename, from, to.to_owned())?;
        let inode = state.live.inode(from)?;
        if !state.live.dirs.contains(folder(to)) {
            return Err(missing(folder(to)));
        }
        assert_eq!(folder(from), folder(to), "a rename stays in its folder");
        if let Some(replaced) = state.live.names.get(to).copied() {
            state.give_back(replaced);
        }
        state.file(inode).path = to.to_owned();
        state.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin(OpKind::Remove, path, String::new())?;
        let inode = state.live.inode(path)?;
        state.give_back(inode);
        state.change(Change::Unlink { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.alive()?;
        state.fault(OpKind::Read)?;
        let in_dir = |path: &&String| folder(path) == dir && !path.is_empty();
        let tree = &state.live;
        let paths = tree.names.keys().chain(&tree.dirs).filter(in_dir);
        let mut names: Vec<String> =
            paths.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect();
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.live.dirs.contains(dir) {
            return state.alive();
        }
        state.begin(OpKind::CreateDir, dir, String::new())?;
        if !state.live.dirs.contains(folder(dir)) {
            return Err(missing(folder(dir)));
        }
        state.change(Change::MakeDir { path: dir.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin(OpKind::SyncDir, dir, String::new())?;
        if !state.live.dirs.contains(dir) {
            return Err(missing(dir));
        }
        for (op, change) in std::mem::take(&mut state.pending) {
            if change.dir() == dir {
                state.durable.apply(&change);
            } else {
                state.pending.push((op, change));
            }
        }
        state.collect();
        Ok(())
    }

    fn lock(&self, path: &str, note: &str) -> io::Result<Box<dyn Send>> {
        let mut state = self.state();
        state.alive()?;
        if let Some(holder) = state.locks.get(path) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, holder.clone()));
        }
        state.locks.insert(path.to_owned(), note.trim().to_owned());
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned() }))
    }

    fn describe(&self, path: &str) -> String {
        path.to_owned()
    }
}

struct Handle {
    disk: TestDisk,
    inode: u64,
}

impl DiskFile for Handle {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive()?;
        state.fault(OpKind::Read)?;
        let live = &state.file(self.inode).live;
        if live.len.checked_sub(buf.len() as u64).is_none_or(|room| room < offset) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before"));
        }
        live.read(offset, buf);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let path = state.file(self.inode).path.clone();
        let half = data.len() / 2 / SECTOR_BYTES as usize * SECTOR_BYTES as usize;
        if let Err(error) = state.begin(OpKind::Write, &path, format!("{offset}+{}", data.len())) {
            if error.kind() != io::ErrorKind::BrokenPipe {
                state.file(self.inode).write(offset, &data[..half]);
            }
            return Err(error);
        }
        let len = state.file(self.inode).live.len;
        let grows = (offset + data.len() as u64).saturating_sub(len);
        let Some(free) = state.free else {
            state.file(self.inode).write(offset, data);
            return Ok(());
        };
        let short = usize::try_from(grows.saturating_sub(free)).expect("not more than the data");
        let fits = data.len().saturating_sub(short);
        state.free = Some(free.saturating_sub(grows));
        state.file(self.inode).write(offset, &data[..fits]);
        match short {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk")),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.held_syncs += 1;
        self.disk.shared.changed.notify_all();
        while state.hold_syncs {
            let changed = &self.disk.shared.changed;
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held_syncs -= 1;
        let path = state.file(self.inode).path.clone();
        let begun = state.begin(OpKind::Sync, &path, String::new());
        let file = state.file(self.inode);
        match begun {
            Ok(()) => file.sync(),
            Err(_) => file.forgotten.append(&mut file.dirty),
        }
        begun
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.alive()?;
        Ok(state.file(self.inode).live.len)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        state.file(self.inode).handles -= 1;
        state.collect();
    }
}

struct Lock {
    disk: TestDisk,
    path: String,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OpKind::Read => "read",
            OpKind::Create => "create",
            OpKind::Write => "write",
            OpKind::Sync => "sync",
            OpKind::SyncDir => "sync-dir",
            OpKind::Rename => "rename",
            OpKind::Remove => "remove",
            OpKind::CreateDir => "create-dir",
        };
        write!(f, "{} {kind} {:?}", self.number, self.path)?;
        if !self.detail.is_empty() {
            write!(f, " {}", self.detail)?;
        }
        Ok(())
    }
}
