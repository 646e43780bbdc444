//! What the store costs with a million keys of 16 bytes and values of 256: `cargo bench -p kv-daemon`.
//!
//! One thread, no socket, no log. `fill` and `recover` make the whole store: by a million commands, as a
//! start replays them, and from a snapshot on the disk of the target directory. The rest works on a store
//! that is there.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use kv_daemon::kv::command::{Command, Operation};
use kv_daemon::kv::request::{ListQuery, ListShape};
use kv_daemon::kv::shared::SharedStore;
use raft_core::membership::{Member, Membership};
use raft_core::state_machine::{Restore, StateMachine};
use raft_core::storage::disk::FileDisk;
use raft_core::storage::snapshot::{Owner, Snapshots};
use raft_core::types::{ClusterId, Index, LogPosition, NodeId, Term};

fn main() {
    divan::main();
}

const KEYS: u64 = 1_000_000;
const VALUE_BYTES: usize = 256;

/// For those who only look.
static FULL: LazyLock<SharedStore> = LazyLock::new(filled);

#[divan::bench(sample_count = 3, sample_size = 1)]
fn fill(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(KEYS)).bench_local(filled);
}

#[divan::bench(min_time = 1)]
fn get(bencher: Bencher<'_, '_>) {
    let (store, mut next) = (FULL.view(), 0);
    bencher.bench_local(|| {
        next += 1;
        store.get(black_box(&key(next)))
    });
}

#[divan::bench(min_time = 1)]
fn put(bencher: Bencher<'_, '_>) {
    replace_values(bencher, &mut filled());
}

// While a snapshot is being written somebody holds a view, and the first change of each part of the map
// copies that part.
#[divan::bench(min_time = 1)]
fn put_while_a_view_is_held(bencher: Bencher<'_, '_>) {
    let mut store = filled();
    let view = store.view();
    replace_values(bencher, &mut store);
    assert_eq!(view.revision(), KEYS, "a view does not change");
}

fn replace_values(bencher: Bencher<'_, '_>, store: &mut SharedStore) {
    let mut next = 0;
    let inputs = || {
        next += 1;
        put_command(next)
    };
    bencher.with_inputs(inputs).bench_local_refs(|command| store.apply(POSITION, command));
}

#[divan::bench(min_time = 0.2)]
fn view(bencher: Bencher<'_, '_>) {
    let store = &*FULL;
    bencher.bench_local(|| store.view());
}

#[divan::bench(args = [1, 10, 1000], min_time = 0.5)]
fn list(bencher: Bencher<'_, '_>, limit: u32) {
    let (store, mut next) = (FULL.view(), 0);
    bencher.counter(ItemsCount::new(limit)).bench_local(|| {
        next += 1;
        let start = Bytes::copy_from_slice(&key(next % (KEYS / 2)));
        store.list(&ListQuery { start, limit, shape: ListShape::Items, ..ListQuery::default() })
    });
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn snapshot(bencher: Bencher<'_, '_>) {
    let dir = Dir::new("snapshot");
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| dir.write(&FULL));
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn recover(bencher: Bencher<'_, '_>) {
    let dir = Dir::new("recover");
    dir.write(&FULL);
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        let store = dir.read();
        assert_eq!(store.view().keys(), KEYS);
        store
    });
}

/// A million keys, written in no order.
fn filled() -> SharedStore {
    let mut store = SharedStore::new();
    (0..KEYS).for_each(|number| {
        black_box(store.apply(POSITION, &put_command(number)));
    });
    assert_eq!(store.view().keys(), KEYS);
    store
}

/// The bytes of a put as they stand in the log, in a buffer of their own.
fn put_command(number: u64) -> Bytes {
    let put = Operation::Put {
        key: Bytes::copy_from_slice(&key(number)),
        value: Bytes::from_static(&[7; VALUE_BYTES]),
    };
    Command { then: vec![put], ..Command::default() }.encode()
}

/// Key `number` of a million, 16 bytes: neighbours in the count lie far apart in the order.
fn key(number: u64) -> [u8; 16] {
    // Odd and no multiple of five, so that a million numbers give a million keys.
    const STRIDE: u64 = 618_033_989;
    let mut key = *b"key:000000000000";
    let mut left = number % KEYS * STRIDE % KEYS;
    for digit in key.iter_mut().rev().take(12) {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    key
}

/// A folder of its own for snapshots on the disk of the target directory; gone with it.
struct Dir {
    path: PathBuf,
    snapshots: Snapshots,
}

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("store-bench-{name}-{}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let disk = FileDisk::open(&path).expect("a folder in the target directory");
        let owner = Owner { cluster: ClusterId(1), node: NodeId(1) };
        let snapshots = Snapshots::open(Arc::new(disk), owner).expect("an empty folder");
        Dir { path, snapshots }
    }

    /// Writes the store, reads it back to verify, and gives the file its name: all that a node does.
    fn write(&self, store: &SharedStore) {
        let member = Member { name: "node1".into(), address: "localhost:8001".into() };
        let membership = Membership::of_voters([(NodeId(1), member)]);
        let mut writer = self.snapshots.writer(POSITION, &membership).expect("a good disk");
        let mut source = store.snapshot();
        while let Some(piece) = source.next_piece() {
            writer.piece(&piece).expect("a good disk");
        }
        writer.finish().expect("a good disk");
    }

    /// Verifies the file, then fills a store from it, as a start does.
    fn read(&self) -> SharedStore {
        self.snapshots.verify(POSITION).expect("a whole snapshot");
        let mut reader = self.snapshots.reader(POSITION).expect("a snapshot");
        let mut store = SharedStore::new();
        let mut step = Restore::Begin;
        loop {
            let is_last = step == Restore::End;
            store.restore(step).expect("what a store gave out");
            if is_last {
                return store;
            }
            let piece = reader.next_piece().expect("a verified file");
            step = piece.map_or(Restore::End, Restore::Piece);
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).expect("files of our own");
    }
}

/// The snapshot's place in the log.
const POSITION: LogPosition = LogPosition { index: Index(KEYS), term: Term(1) };
