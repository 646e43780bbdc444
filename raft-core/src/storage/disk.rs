//! The only door to files: a small trait, and [`FileDisk`], the one place with `std::fs`.
//!
//! Paths are relative to the data directory, with `/` between folder and file. Nothing is durable
//! before `sync` (contents) and `sync_dir` (names) have returned; the simulator's disk takes this at
//! its word and loses what was not synced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How much of a large file is dealt with at a time, in bytes: written before it is synced, or given
/// back to the file system. A sync of any other file may have to wait for a whole slice: 2 MiB is
/// about a millisecond of a disk that writes 2 GB/s. Smaller: more syncs, of which each may take
/// milliseconds on a disk that turns. Larger: the log waits longer.
pub(crate) const SLICE_BYTES: u64 = 2 << 20;

/// What files are filled with, a piece at a time.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// A data directory.
pub trait Disk: Send + Sync + 'static {
    /// Makes a new, empty file; fails if there is one.
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to read and write; fails if there is none.
    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, replacing what had that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file away.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// The names in a folder (`""` is the data directory itself), sorted; empty when there is no
    /// such folder.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a folder if it is not there.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Makes the names in a folder durable (`""` is the data directory itself).
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Takes the exclusive lock `path` for this process until the guard is dropped. The error kind
    /// is `WouldBlock` when another process has it; its text then is what that process wrote.
    fn lock(&self, path: &str, note: &str) -> io::Result<Box<dyn Send>>;
    /// Where a file is, for people: messages name it.
    fn describe(&self, path: &str) -> String;
}

/// An open file. Positions and lengths are in bytes.
pub trait DiskFile: Send {
    /// Fills `buf` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`, growing the file if need be.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Writes this many zeroes at `offset`, growing the file if need be: really written, because a
    /// sync later on must not have to allocate what was only promised. They go by slices, with a sync
    /// after each whole one: what a caller has written before may become durable.
    fn write_zeroes(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        let end = offset.saturating_add(bytes);
        let (mut offset, mut unsynced) = (offset, 0);
        while offset < end {
            let part = (end - offset).min(ZEROES.len() as u64);
            self.write_at(offset, &ZEROES[..part as usize])?;
            offset += part;
            unsynced += part;
            if SLICE_BYTES <= unsynced {
                self.sync()?;
                unsynced = 0;
            }
        }
        Ok(())
    }
    /// Makes contents and length durable.
    fn sync(&mut self) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A data directory on a real file system.
///
/// `sync` is `fdatasync` on Linux: it may leave times behind, but a changed length counts as
/// needed to find the data again and is made durable with it (fdatasync(2)). On macOS the standard
/// library asks for `F_FULLFSYNC`, which reaches the medium where `fsync` stops at the drive.
///
/// All files share one queue to one disk, and the log's syncs must not wait behind a large file: what
/// fills or removes one goes by slices, with a sync after each.
#[derive(Clone, Debug)]
pub struct FileDisk {
    root: PathBuf,
}

impl FileDisk {
    /// The directory `root`, made durably with its parents if it is not there.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<FileDisk> {
        let root = root.into();
        make_durable_dir(&root)?;
        Ok(FileDisk { root })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

impl Disk for FileDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(self.path(path))?;
        Ok(Box::new(OpenFile(file)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(path))?;
        Ok(Box::new(OpenFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    /// A large file is shrunk before it is removed: to give back hundreds of megabytes in one go keeps
    /// a file system, and every sync on it, for tens of milliseconds. Meanwhile it has a temporary
    /// name, durably: after a crash nobody takes what is left of it for the whole.
    fn remove(&self, path: &str) -> io::Result<()> {
        let file = self.path(path);
        let mut left = fs::metadata(&file)?.len();
        if left <= SLICE_BYTES {
            return fs::remove_file(file);
        }
        let going = self.path(&format!("{path}.tmp"));
        fs::rename(file, &going)?;
        self.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))?;
        let file = OpenOptions::new().write(true).open(&going)?;
        while SLICE_BYTES < left {
            left -= SLICE_BYTES;
            file.set_len(left)?;
            file.sync_data()?;
        }
        fs::remove_file(going)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        match fs::create_dir(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn lock(&self, path: &str, note: &str) -> io::Result<Box<dyn Send>> {
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(self.path(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut note = Vec::new();
                file.by_ref().take(NOTE_BYTES_MAX).read_to_end(&mut note)?;
                let holder = String::from_utf8_lossy(&note).trim().to_owned();
                return Err(io::Error::new(io::ErrorKind::WouldBlock, holder));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Only for people to read: the lock itself is the kernel's and ends with the process.
        file.set_len(0)?;
        file.write_all_at(note.as_bytes(), 0)?;
        Ok(Box::new(file))
    }

    fn describe(&self, path: &str) -> String {
        self.path(path).display().to_string()
    }
}

struct OpenFile(File);

impl DiskFile for OpenFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// Most bytes of a lock's note that are read back.
const NOTE_BYTES_MAX: u64 = 256;

/// Makes a directory whose name, and that of each parent made on the way, survives a crash.
fn make_durable_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_durable_dir(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, FileDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(dir.path().join("a/b")).unwrap();
        (dir, disk)
    }

    #[test]
    fn bytes_come_back_from_where_they_were_put() {
        let (_dir, disk) = disk();
        disk.create_dir("wal").unwrap();
        disk.create_dir("wal").unwrap();
        let mut file = disk.create("wal/1.tmp").unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(5, b"hello").unwrap();
        file.sync().unwrap();
        disk.rename("wal/1.tmp", "wal/1.log").unwrap();
        disk.sync_dir("wal").unwrap();

        let file = disk.open("wal/1.log").unwrap();
        assert_eq!(file.len().unwrap(), 10);
        let mut bytes = [9; 10];
        file.read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0\0\0\0\0hello");
        let beyond = file.read_at(6, &mut bytes).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// More than a slice of each, and never a temporary file left over.
    #[test]
    fn large_files_are_filled_and_removed_whole() {
        let (_dir, disk) = disk();
        disk.create_dir("snap").unwrap();
        let bytes = 2 * SLICE_BYTES + 5;
        let mut file = disk.create("snap/large").unwrap();
        file.write_at(0, &[7; 9]).unwrap();
        file.write_zeroes(3, bytes - 3).unwrap();
        assert_eq!(file.len().unwrap(), bytes);
        let mut start = [9; 5];
        file.read_at(0, &mut start).unwrap();
        assert_eq!(start, [7, 7, 7, 0, 0]);
        file.read_at(bytes - 5, &mut start).unwrap();
        assert_eq!(start, [0; 5]);

        disk.remove("snap/large").unwrap();
        assert!(disk.list("snap").unwrap().is_empty());
        let mut file = disk.create("large").unwrap();
        file.write_zeroes(0, bytes).unwrap();
        disk.remove("large").unwrap();
        assert_eq!(disk.list("").unwrap(), ["snap"]);
        assert_eq!(disk.remove("large").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_are_sorted_and_a_missing_folder_is_empty() {
        let (_dir, disk) = disk();
        for name in ["b", "c", "a"] {
            disk.create(name).unwrap();
        }
        assert_eq!(disk.list("").unwrap(), ["a", "b", "c"]);
        assert!(disk.list("nowhere").unwrap().is_empty());
        disk.remove("b").unwrap();
        assert_eq!(disk.list("").unwrap(), ["a", "c"]);
        assert_eq!(disk.open("b").err().unwrap().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.create("a").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert!(disk.describe("a").ends_with("a/b/a"));
    }

    #[test]
    fn a_second_holder_is_refused_and_reads_the_note_of_the_first() {
        let (_dir, disk) = disk();
        let first = disk.lock("LOCK", "pid 123\n").unwrap();
        let refused = disk.lock("LOCK", "pid 45\n").err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(refused.to_string(), "pid 123");
        drop(first);
        let _second = disk.lock("LOCK", "pid 45\n").unwrap();
        let refused = disk.lock("LOCK", "").err().unwrap();
        assert_eq!(refused.to_string(), "pid 45");
    }
}
