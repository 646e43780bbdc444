//! The only door to files: a small trait, and [`FileDisk`], the one place with `std::fs`.
//!
//! Paths are relative to the data directory, with `/` between folder and file. Nothing is durable
//! before `sync` (contents) and `sync_dir` (names) have returned; the simulator's disk takes this at
//! its word and loses what was not synced.

use std::io;

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
    /// Makes contents and length durable.
    fn sync(&mut self) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
