//! What a process does with the disk: `raft_core`'s [`Disk`], for as long as the process lives.

use std::io;

use raft_core::storage::disk::{Disk, DiskFile};

use super::SimDisk;
use super::contents::{File, SECTOR_BYTES};
use super::names::{Change, folder, missing};
use super::state::{OnceFault, Op, State};

/// The disk, as one process has it.
pub(super) struct Handle {
    pub(super) disk: SimDisk,
    pub(super) life: u64,
}

/// A file that a process has opened.
struct OpenFile {
    disk: SimDisk,
    life: u64,
    inode: u64,
}

/// A lock that a process holds.
struct Lock {
    disk: SimDisk,
    life: u64,
    path: String,
}

/// Files end before this: a position beyond it is a mistake, not a large file.
const FILE_BYTES_MAX: u64 = 1 << 40;

impl Handle {
    fn opened(&self, state: &mut State, inode: u64) -> Box<dyn DiskFile> {
        state.file(inode).handles += 1;
        Box::new(OpenFile { disk: self.disk.clone(), life: self.life, inode })
    }
}

impl Disk for Handle {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.disk.state();
        state.begin(self.life, Op::Create, 0, 0)?;
        state.live.has_folder_of(path)?;
        if state.live.names.contains_key(path) || state.live.dirs.contains(path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{path} exists")));
        }
        state.room()?;
        let inode = state.new_file(File { path: path.to_owned(), ..File::default() });
        state.change(Change::Link { path: path.to_owned(), inode });
        Ok(self.opened(&mut state, inode))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.disk.state();
        state.hear(self.life)?;
        let inode = state.live.inode(path)?;
        Ok(self.opened(&mut state, inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(self.life, Op::Rename, 0, 0)?;
        let inode = state.live.inode(from)?;
        state.live.has_folder_of(to)?;
        assert_eq!(folder(from), folder(to), "a rename stays in its folder");
        state.room()?;
        to.clone_into(&mut state.file(inode).path);
        state.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(self.life, Op::Remove, 0, 0)?;
        state.live.inode(path)?;
        state.change(Change::Unlink { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = self.disk.state();
        state.hear(self.life)?;
        fail_read(&mut state)?;
        let tree = &state.live;
        let in_dir = tree.names.keys().chain(&tree.dirs).filter(|path| {
            // The data directory is in no folder, itself least of all.
            !path.is_empty() && folder(path) == dir
        });
        let mut names: Vec<String> =
            in_dir.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect();
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.live.dirs.contains(dir) {
            return state.hear(self.life);
        }
        state.begin(self.life, Op::MakeDir, 0, 0)?;
        state.live.has_folder_of(dir)?;
        state.room()?;
        state.change(Change::MakeDir { path: dir.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(self.life, Op::SyncDir, 0, 0)?;
        if !state.live.dirs.contains(dir) {
            return Err(missing(dir));
        }
        state.sync_dir(dir);
        Ok(())
    }

    fn lock(&self, path: &str, note: &str) -> io::Result<Box<dyn Send>> {
        let mut state = self.disk.state();
        state.hear(self.life)?;
        if let Some((_, holder)) = state.locks.get(path) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, holder.clone()));
        }
        state.locks.insert(path.to_owned(), (self.life, note.trim().to_owned()));
        Ok(Box::new(Lock { disk: self.disk.clone(), life: self.life, path: path.to_owned() }))
    }

    fn describe(&self, path: &str) -> String {
        path.to_owned()
    }
}

impl DiskFile for OpenFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.hear(self.life)?;
        fail_read(&mut state)?;
        state.counts.reads += 1;
        state.counts.bytes_read += buf.len() as u64;
        let live = &state.file(self.inode).live;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| live.len < end) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before"));
        }
        live.read(offset, buf);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let write = |file: &mut File, fits: u64| file.write(offset, &data[..fits as usize]);
        self.write(offset, data.len() as u64, write)
    }

    fn write_zeroes(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        self.write(offset, bytes, |file, fits| file.write_zeroes(offset, fits))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(self.life, Op::Sync, self.inode, 0)?;
        if state.strikes(OnceFault::Sync) {
            state.counts.sync_errors += 1;
            state.file(self.inode).fail_sync();
            return Err(failed("a sync"));
        }
        state.file(self.inode).sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.hear(self.life)?;
        Ok(state.file(self.inode).live.len)
    }
}

impl OpenFile {
    /// One operation that writes `len` bytes; `write` puts down as many of them as the faults let
    /// through.
    fn write(&self, offset: u64, len: u64, write: impl FnOnce(&mut File, u64)) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(self.life, Op::Write, self.inode ^ offset.rotate_left(32), len)?;
        if offset.checked_add(len).is_none_or(|end| FILE_BYTES_MAX < end) {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        if state.strikes(OnceFault::Write) {
            state.counts.write_errors += 1;
            return Err(failed("a write"));
        }
        let (fits, result) = match state.strikes(OnceFault::ShortWrite) {
            true => {
                state.counts.write_errors += 1;
                let sectors = len.div_ceil(SECTOR_BYTES as u64);
                let whole = state.chance.fault.below(sectors.max(1)) * SECTOR_BYTES as u64;
                (whole, Err(failed("the rest of a write")))
            }
            false => {
                let room = state.file(self.inode).live.len.saturating_sub(offset);
                match len <= room || len == 0 {
                    true => (len, Ok(())),
                    false => match state.room() {
                        Ok(()) => (len, Ok(())),
                        Err(full) => (room, Err(full)),
                    },
                }
            }
        };
        state.counts.bytes_written += fits;
        write(state.file(self.inode), fits);
        result
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // The files of a process that has ended were closed with it.
        if state.lives(self.life) {
            let file = state.file(self.inode);
            file.handles -= 1;
            if file.handles == 0 {
                state.collect();
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.locks.get(&self.path).is_some_and(|(life, _)| *life == self.life) {
            state.locks.remove(&self.path);
        }
    }
}

fn fail_read(state: &mut State) -> io::Result<()> {
    if !state.strikes(OnceFault::Read) {
        return Ok(());
    }
    state.counts.read_errors += 1;
    Err(failed("a read"))
}

/// What the system says when a disk fails.
fn failed(what: &str) -> io::Error {
    io::Error::other(format!("input/output error: {what} failed"))
}
