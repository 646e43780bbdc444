//! What durability costs: `cargo bench -p raft-core --bench wal`.
//!
//! Real files in the target directory, real syncs. `append` is what a node does with a group of entries:
//! one batch, one sync. `bare_sync` writes as many bytes into a file that is there already and syncs it:
//! what the disk takes of it. `recover` is a start: a log of a million entries, read, checked and handed
//! to the core.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use raft_core::membership::{Member, Membership};
use raft_core::storage::disk::{Disk, FileDisk};
use raft_core::storage::meta::Meta;
use raft_core::storage::{Storage, StorageOptions};
use raft_core::types::{
    ClusterId, Entry, HardState, Index, LogPosition, NodeId, Payload, Term, WriteId,
};
use raft_core::write::{Recovered, Write};

fn main() {
    divan::main();
}

/// Bytes of a command: a key and a value of ordinary size.
const COMMAND_BYTES: usize = 272;

/// What an entry adds to a batch, about: the command and its record's head.
const RECORD_BYTES: usize = COMMAND_BYTES + 32;

/// Entries of the log that is recovered.
const RECOVERED: u64 = 1_000_000;

// One group a sample: the next segment is made between two samples, as the node makes it on another
// thread.
#[divan::bench(args = [1, 16, 64, 256], sample_size = 1, sample_count = 500, max_time = 4)]
fn append(bencher: Bencher<'_, '_>, group: usize) {
    let dir = Dir::new("append");
    let log = RefCell::new(GrowingLog::create(&dir));
    bencher
        .counter(ItemsCount::new(group))
        .with_inputs(|| log.borrow_mut().next_group(group as u64))
        .bench_local_values(|write| log.borrow_mut().storage.write(&[write]).expect("a good disk"));
}

#[divan::bench(args = [1, 16, 64, 256], sample_size = 1, sample_count = 500, max_time = 4)]
fn bare_sync(bencher: Bencher<'_, '_>, group: usize) {
    let dir = Dir::new("bare");
    let mut file = dir.disk().create("file").expect("a file");
    let (bytes, end) = (vec![7; group * RECORD_BYTES], 64 << 20);
    // Its blocks are there, so that a sync writes data and nothing else.
    file.write_at(0, &vec![0; end]).and_then(|()| file.sync()).expect("room for 64 MiB");
    let mut at = 0;
    bencher.counter(ItemsCount::new(group)).bench_local(|| {
        if (end as u64) < at + bytes.len() as u64 {
            at = 0;
        }
        file.write_at(at, &bytes).and_then(|()| file.sync()).expect("a good disk");
        at += bytes.len() as u64;
    });
}

#[divan::bench(sample_size = 1, sample_count = 5, max_time = 15)]
fn recover(bencher: Bencher<'_, '_>) {
    let dir = Dir::new("recover");
    let mut log = GrowingLog::create(&dir);
    const GROUP: u64 = 5_000;
    for _ in 0..RECOVERED / GROUP {
        let write = log.next_group(GROUP);
        log.storage.write(&[write]).expect("a good disk");
    }
    log.storage.quiet().expect("a good disk");
    bencher.counter(ItemsCount::new(RECOVERED)).bench_local(|| {
        let (storage, recovered) = dir.open();
        // The membership and a million commands.
        assert_eq!(recovered.entries.len() as u64, 1 + RECOVERED);
        (storage, recovered)
    });
}

/// A folder of its own on the disk that holds the target directory; gone with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("wal-bench-{name}-{}", std::process::id());
        let dir = Dir(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        dir.remove();
        dir
    }

    fn disk(&self) -> FileDisk {
        FileDisk::open(&self.0).expect("a folder in the target directory")
    }

    fn open(&self) -> (Storage, Recovered) {
        let options = StorageOptions::new(2);
        Storage::open(Arc::new(self.disk()), &meta(), options).expect("a log just written")
    }

    fn remove(&self) {
        if self.0.exists() {
            std::fs::remove_dir_all(&self.0).expect("files of our own");
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A log that one entry after the other is added to.
struct GrowingLog {
    storage: Storage,
    last: Index,
    writes: u64,
    command: Bytes,
}

impl GrowingLog {
    fn create(dir: &Dir) -> GrowingLog {
        let member = Member { name: "node1".into(), address: "localhost:8001".into() };
        let membership = Membership::of_voters([(NodeId(1), member)]);
        let position = LogPosition::new(Index(1), Term(1));
        let entry = Entry { position, payload: Payload::Membership(membership) };
        let hard_state = HardState { term: Term(1), vote: Some(NodeId(1)) };
        let (disk, options) = (Arc::new(dir.disk()), StorageOptions::new(1));
        Storage::create(disk, &meta(), &options, (hard_state, vec![entry])).expect("a fresh log");
        GrowingLog {
            storage: dir.open().0,
            last: position.index,
            writes: 0,
            command: Bytes::from(vec![7; COMMAND_BYTES]),
        }
    }

    /// The next group of entries, and room for it.
    fn next_group(&mut self, group: u64) -> Write {
        if let Some(job) = self.storage.needs_segment() {
            self.storage.adopt(job.run().expect("room for a segment"));
        }
        let first = self.last.next();
        self.last = Index(self.last.0 + group);
        self.writes += 1;
        let entry = |index| Entry {
            position: LogPosition::new(Index(index), Term(1)),
            payload: Payload::Command(self.command.clone()),
        };
        Write {
            id: WriteId(self.writes),
            snapshots: Vec::new(),
            hard_state: None,
            truncate_from: None,
            entries: (first.0..=self.last.0).map(entry).collect(),
        }
    }
}

fn meta() -> Meta {
    Meta { cluster: Some(ClusterId(1)), ..Meta::create("node1", 1) }
}
