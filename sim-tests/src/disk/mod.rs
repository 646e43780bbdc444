//! The simulated disk: real storage code runs on it, and it takes "nothing is durable before `sync`
//! and `sync_dir`" at its word.
//!
//! A disk holds, for every file, what a process sees and what a crash would leave; names likewise.
//! [`SimDisk::handle`] gives a process its [`Disk`]; [`SimDisk::crash`] ends the process and decides
//! by the disk's own stream of chance what of the unsynced survives. Faults are armed by
//! [`SimDisk::inject`]. The disk never waits and never looks at a clock: how long a call takes is
//! drawn by [`SimDisk::next_call_takes`], and letting that time pass is the world's business.
//!
//! ```text
//! contents   bytes, sparse, and what of them is durable      crash   what a crash leaves
//! names      names, and what of them is durable              rot     bytes at rest that change
//! handle     what a process does with the disk               state   all of it in one place
//! displaced  a wrong file in the place of a right one
//! ```

mod contents;
mod crash;
mod displaced;
mod handle;
mod names;
mod rot;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_core::storage::disk::Disk;

pub use self::contents::SECTOR_BYTES;
pub use self::crash::{Aftermath, Crash};
pub use self::displaced::{PutBack, Wrong};
use self::handle::Handle;
pub use self::rot::Rotten;
use self::state::State;
pub use self::state::{Counts, Unsynced};
use crate::plan::{DiskFault, DiskPace, Place, Rot};

/// A disk. Clones are handles of the same one: two machines swap disks by swapping these.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk that draws all its chance from this seed.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::with(State::new(seed))
    }

    /// The disk as a process that starts now gets it. It serves until the next [`SimDisk::crash`],
    /// [`SimDisk::end_life`] or [`SimDisk::wipe`]; from then on every call fails, also on files that
    /// are open, and its lock is free. Several may live at once; the lock file tells them apart.
    pub fn handle(&self) -> Arc<dyn Disk> {
        let life = self.state().begin_life();
        Arc::new(Handle { disk: self.clone(), life })
    }

    /// The processes on this disk end, and what is not durable meets its fate.
    pub fn crash(&self, crash: Crash) -> Aftermath {
        crash::crash(&mut self.state(), crash)
    }

    /// The processes on this disk end in order; the machine and its cache go on.
    pub fn end_life(&self) {
        self.state().end_lives();
    }

    /// Everything is gone, durably, and the processes on it end. Faults that are armed stay.
    pub fn wipe(&self) {
        self.state().wipe();
    }

    /// The processes that live may carry out this many more operations that change anything (write,
    /// sync, create, rename, remove, make or sync a folder); then every call, reading included,
    /// fails as on a machine that has stopped. `None` takes the fuse out; so does the next crash.
    pub fn set_fuse(&self, operations: Option<u64>) {
        self.state().set_fuse(operations);
    }

    /// Whether a call has failed because of the fuse.
    pub fn fuse_blown(&self) -> bool {
        self.state().fuse_blown()
    }

    /// Arms a fault that strikes once, after a count of operations; it stays armed across crashes.
    ///
    /// # Panics
    ///
    /// For [`DiskFault::NoSpace`] and [`DiskFault::Slow`], which end at a time that the disk does
    /// not know: see [`SimDisk::set_full`] and [`SimDisk::set_slow`]; and for [`DiskFault::Rot`],
    /// which strikes at once: see [`SimDisk::rot`].
    pub fn inject(&self, fault: DiskFault) {
        self.state().arm(fault);
    }

    /// Lets bytes at rest change, or a file; `None` when there is nothing that may: the place is
    /// empty, what is there is not durable, has rotted before, or, for rot that looks like a write
    /// that never happened, nothing written later proves it. Whatever is struck is damage: a start
    /// that reads it has to say so, or to do without it.
    pub fn rot(&self, rot: Rot, place: Place) -> Option<Rotten> {
        rot::rot(&mut self.state(), rot, place)
    }

    /// The files of this kind that are durable and whole, and not too large to be copied. Sorted.
    pub fn files(&self, place: Place) -> Vec<String> {
        displaced::files(&self.state(), place)
    }

    /// Puts a file with these bytes in the place of the file of this path, durably. For a disk on
    /// which no process runs.
    ///
    /// # Panics
    ///
    /// When there is no such file, or [`SimDisk::wrong`] says that one is displaced already.
    pub fn displace(&self, path: &str, bytes: Vec<u8>, wrong: Wrong) {
        displaced::displace(&mut self.state(), path, bytes, wrong);
    }

    /// The wrong file on it, if there is one: until it is put back, or the disk is wiped.
    pub fn wrong(&self) -> Option<Wrong> {
        self.state().displaced.as_ref().map(displaced::Displaced::wrong)
    }

    /// Puts the right file back in its place, if the wrong one still is there as it was.
    ///
    /// # Panics
    ///
    /// When there is no wrong file.
    pub fn put_back(&self) -> PutBack {
        displaced::put_back(&mut self.state())
    }

    /// From now on (or no longer) there is no room: creating, renaming and growing files fails.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// How long calls take when nothing is wrong.
    pub fn set_pace(&self, pace: DiskPace) {
        self.state().pace = pace;
    }

    /// Every call takes this much longer; zero when the disk has recovered.
    pub fn set_slow(&self, by: Duration) {
        self.state().slow = by;
    }

    /// How long the next storage call takes: drawn anew each time, from the disk's own stream.
    pub fn next_call_takes(&self) -> Duration {
        self.state().draw_time()
    }

    /// Nothing is wrong with the disk any more: armed faults are taken back, there is room, and it
    /// is as fast as its pace. What was damaged stays damaged.
    pub fn heal(&self) {
        self.state().heal();
    }

    /// A disk that holds what this one would if power failed now and everything that may get lost
    /// did. Cheap: bytes are shared until one of the two changes them. It has no faults, and its
    /// chance is its own: looking does not change this disk.
    pub fn durable_image(&self) -> SimDisk {
        SimDisk::with(self.state().durable_image())
    }

    /// How much is not durable.
    pub fn unsynced(&self) -> Unsynced {
        self.state().unsynced()
    }

    /// The files that a power failure could change or take away: what they hold, their length or
    /// their name is not durable. Sorted.
    pub fn at_risk(&self) -> Vec<String> {
        self.state().at_risk()
    }

    /// What has happened on this disk.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Files that have a name, and their bytes.
    pub fn used(&self) -> (usize, u64) {
        self.state().used()
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.state().live.names.keys().cloned().collect()
    }

    /// What a file holds as a process sees it; `None` when there is none. For tests and for people.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        self.state().contents(path)
    }

    /// A digest of everything the disk was asked to do and of everything it holds, durable or not.
    /// Equal runs give equal digests.
    pub fn digest(&self) -> u64 {
        self.state().digest()
    }

    fn with(state: State) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A process that panicked inside a call is something the simulation reports, and a handle
        // dropped on the way must not turn it into an abort.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
