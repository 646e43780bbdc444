//! The whole system in one deterministic thread: real replicas, real storage code, real codec and the
//! daemon's own path of a request, on simulated disks, clocks and wires. A seed is a run.

pub mod app;
pub mod checkers;
pub mod disk;
pub mod marks;
pub mod observed;
pub mod plan;
pub mod rng;
pub mod trace;
pub mod world;

// What the world asks of the simulated disk (`disk.rs`) beyond `raft_core::storage::disk::Disk`:
// - A storage call (one `Storage::write`, one snapshot piece, one recovery) runs as *one* event at the
//   end of the time it takes. A crash in between runs it at the crash, with a fuse: after `n` more
//   operations (write, sync, create, rename, remove, sync of a folder) every further one fails as on
//   a dead disk, then the crash decides what of the unsynced survives. So `SimDisk` needs
//   `set_fuse(Option<u64>)` and `fuse_blown()`.
// - Time is the world's: the disk never waits. `DiskFault::Slow` is carried out by the world.
// - `SimDisk: Clone` as a cheap handle (`Arc` inside), one per machine; swapping two disks swaps the
//   handles. `handle()` begins a process's life: files opened and the lock taken in it are dead
//   after `crash()` or `end_life()`.
