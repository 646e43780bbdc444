//! Crash images: the process is stopped after every single disk operation, and the next start finds
//! everything durable plus any choice of what was not. What was acknowledged is always there, and
//! recovering twice gives what recovering once does.

mod wal_support;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::storage::disk::Disk;
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::Meta;
use raft_core::storage::testdisk::{OpKind, TestDisk, Unsynced};
use raft_core::storage::{Storage, WAL_DIR};
use raft_core::types::Index;
use raft_core::write::{SnapshotMeta, SnapshotWrite, Write};
use wal_support::{
    CLUSTER, Model, Run, Step, at, create, entries, entry, first_entry, foreign_snapshot, formed,
    image, membership, meta, open, options, term, write,
};

/// Stops the steps after every operation and checks every crash image. Returns the names of the
/// segments that are there without a crash, and how many images there were.
fn crash_everywhere(steps: &[Step]) -> (Vec<String>, usize) {
    let whole = Run::follow(&formed(), steps);
    assert!(whole.error.is_none(), "without a crash all goes well: {:?}", whole.error);
    let mut images = 0;
    for last in formed().ops()..=whole.disk.ops() {
        let disk = formed();
        disk.stop_after(last);
        let run = Run::follow(&disk, steps);
        for (survivors, image) in crash_images(&disk) {
            run.check(&image, &format!("stopped after operation {last}, {survivors:?} survive"));
            images += 1;
        }
    }
    (whole.disk.list(WAL_DIR).expect("the folder is there"), images)
}

/// Every subset of what is not durable when that is at most 6 things; else none, all, each one
/// alone and each one missing.
fn crash_images(disk: &TestDisk) -> Vec<(Vec<Unsynced>, TestDisk)> {
    let unsynced = disk.unsynced();
    let count = unsynced.len();
    let choices: Vec<Vec<bool>> = if count <= 6 {
        (0..1u32 << count).map(|set| (0..count).map(|bit| set >> bit & 1 == 1).collect()).collect()
    } else {
        let one = |which: usize, value: bool| -> Vec<bool> {
            (0..count).map(|item| (item == which) == value).collect()
        };
        let some = (0..count).flat_map(|which| [one(which, true), one(which, false)]);
        some.chain([vec![true; count], vec![false; count]]).collect()
    };
    let image = |choice: Vec<bool>| {
        let chosen = unsynced.iter().zip(choice).filter(|(_, kept)| *kept);
        let survivors: Vec<Unsynced> = chosen.map(|(item, _)| item.clone()).collect();
        let image = disk.crash(|item| survivors.contains(item));
        (survivors, image)
    };
    choices.into_iter().map(image).collect()
}

/// Appends, votes, cuts, silence and restarts; each batch has 1 to 4 sectors.
#[test]
fn every_crash_point_of_plain_writes() {
    let cut = Write { truncate_from: Some(Index(3)), ..entries(4, 3, 3, 4, 100) };
    let (_, images) = crash_everywhere(&[
        Step::Write(vec![entries(1, 1, 2, 4, 300)]),
        Step::Write(vec![
            Write { hard_state: Some(term(2)), ..write(2) },
            entries(3, 2, 5, 5, 1500),
        ]),
        Step::Write(vec![cut]),
        Step::Quiet,
        Step::Restart,
        Step::Write(vec![entries(5, 3, 5, 5, 40)]),
    ]);
    assert!(50 < images, "only {images} images");
}

/// A restart without silence before it writes the last segment anew.
#[test]
fn every_crash_point_of_a_rewritten_segment() {
    crash_everywhere(&[
        Step::Write(vec![entries(1, 1, 2, 3, 600)]),
        Step::Restart,
        Step::Write(vec![entries(2, 1, 4, 4, 600)]),
    ]);
}

/// From segment to segment, with the next one made ahead or not, and a batch too large for any.
#[test]
fn every_crash_point_of_a_segment_roll() {
    let (segments, _) = crash_everywhere(&[
        Step::Write(vec![entries(1, 1, 2, 2, 300)]),
        Step::Ahead,
        Step::Write(vec![entries(2, 1, 3, 3, 1200)]),
        Step::Write(vec![entries(3, 1, 4, 4, 1200)]),
        Step::Quiet,
        Step::Write(vec![entries(4, 1, 5, 5, 1200)]),
        Step::Write(vec![entries(5, 1, 6, 6, 40_000)]),
        Step::Write(vec![entries(6, 1, 7, 7, 30)]),
    ]);
    assert_eq!(segments.len(), 4, "{segments:?}");
}

/// pitfall 44: a mark never names a snapshot that a crash can take away.
/// pitfall 46: log that was let go of is never missed by a later start.
#[test]
fn pitfall_44_pitfall_46_every_crash_point_of_snapshots_and_log_removal() {
    let (segments, _) = crash_everywhere(&[
        Step::Write(vec![entries(1, 1, 2, 5, 1000)]),
        Step::Snapshot(at(3, 1), 2),
        Step::Write(vec![entries(3, 1, 6, 7, 1500)]),
        Step::Write(vec![entries(4, 1, 8, 9, 9000)]),
        Step::Snapshot(at(8, 1), 5),
        Step::Write(vec![entries(6, 1, 10, 11, 9000)]),
        Step::Write(vec![entries(7, 1, 12, 13, 1500)]),
        Step::Snapshot(at(12, 1), 8),
        Step::Write(vec![entries(9, 1, 14, 14, 100)]),
    ]);
    assert_ne!(segments[0], "0000000001.log", "log was let go");
}

/// The leader's snapshot comes in chunks and takes the place of the log; the log goes on behind it
/// in the same batch.
#[test]
fn every_crash_point_of_an_installed_snapshot() {
    let (meta, body) = foreign_snapshot(at(50, 4));
    let half = body.len() / 2;
    let chunk = |range: Range<usize>| SnapshotWrite::Chunk {
        meta: meta.clone(),
        offset: range.start as u64,
        data: body.slice(range),
    };
    let install = Write {
        snapshots: vec![chunk(half..body.len()), SnapshotWrite::Install(meta.clone())],
        hard_state: Some(term(4)),
        ..write(3)
    };
    crash_everywhere(&[
        Step::Write(vec![entries(1, 1, 2, 3, 100)]),
        Step::Write(vec![Write { snapshots: vec![chunk(0..half)], ..write(2) }]),
        Step::Write(vec![install, entries(4, 4, 51, 52, 100)]),
        Step::Restart,
        Step::Write(vec![entries(5, 4, 53, 53, 100)]),
    ]);
}

/// A crash while the log of a fresh node is made leaves a node that is not formed, and can be
/// formed; one after it leaves a formed one.
#[test]
fn every_crash_point_of_forming() {
    let form = |disk: &TestDisk| {
        create(disk)?;
        meta().store(disk)
    };
    let fresh = || {
        let disk = TestDisk::new();
        Meta { cluster: None, ..meta() }.store(&disk).expect("a new disk");
        disk.crash_losing_all()
    };
    let whole = fresh();
    form(&whole).expect("a new disk");
    let mut ends = [0, 0];
    for last in 0..=whole.ops() {
        let disk = fresh();
        disk.stop_after(last);
        let _ = form(&disk);
        for (survivors, image) in crash_images(&disk) {
            let found = Meta::load(&image).expect("META is whole").expect("META is there");
            ends[usize::from(found.cluster.is_some())] += 1;
            if found.cluster.is_none() {
                form(&image).expect("forming begins anew");
            }
            let (_, recovered) = open(&image)
                .unwrap_or_else(|error| panic!("stopped after {last}, {survivors:?}: {error}"));
            assert_eq!(Model::formed().compare(&recovered), Ok(()));
        }
    }
    assert!(ends.iter().all(|count| 0 < *count), "both ends are seen: {ends:?}");
}

/// A node that joins begins with an empty log.
#[test]
fn a_joining_node_begins_with_an_empty_log() {
    let disk = TestDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Storage::create(shared, &meta(), &options(1), Default::default()).expect("a new disk");
    let (mut storage, recovered) = open(&disk.crash_losing_all()).expect("it is formed");
    assert_eq!(recovered, Default::default());
    storage.write(&[Write { entries: vec![first_entry()], ..write(1) }]).expect("a log to grow");
}

/// pitfall 50: after one failed sync nothing is accepted any more.
#[test]
fn pitfall_50_a_failed_sync_poisons() {
    for kind in [OpKind::Sync, OpKind::Write] {
        let disk = formed();
        let (mut storage, _) = open(&disk).expect("formed");
        disk.fail_nth(kind, 1);
        let error = storage.write(&[entries(1, 1, 2, 2, 10)]).expect_err("the disk failed");
        assert!(error.to_string().contains("injected"), "{error}");
        let syncs = disk.log().len();
        for _ in 0..2 {
            let error = storage.write(&[entries(2, 1, 3, 3, 10)]).expect_err("poisoned");
            assert_eq!(error.to_string(), StorageError::Poisoned.to_string());
        }
        assert!(storage.quiet().is_err());
        assert!(storage.needs_segment().is_none());
        assert!(storage.stats().poisoned);
        assert_eq!(disk.log().len(), syncs, "a poisoned store touches the disk no more");
    }
}

/// pitfall 51: bytes that a failed sync left in memory can be read after the process has started
/// again, and no later sync of that file would ever write them. What recovery gives back is
/// durable all the same.
#[test]
fn pitfall_51_what_recovery_has_seen_survives_a_power_loss() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    disk.fail_nth(OpKind::Sync, 1);
    storage.write(&[entries(1, 1, 2, 2, 10)]).expect_err("the disk failed");
    drop(storage);

    let (_, seen) = open(&disk).expect("the process starts again");
    assert_eq!(seen.entries.len(), 2, "the page cache shows the entry");
    let (_, after) = open(&disk.crash_losing_all()).expect("the machine starts again");
    assert_eq!(after, seen);
}

/// The same when it is the empty batch whose sync failed.
#[test]
fn pitfall_51_an_unsynced_empty_batch_leaves_no_gap() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    storage.write(&[entries(1, 1, 2, 2, 10)]).expect("a healthy disk");
    disk.fail_nth(OpKind::Sync, 1);
    storage.quiet().expect_err("the disk failed");
    drop(storage);

    let (mut storage, seen) = open(&disk).expect("the process starts again");
    storage.write(&[entries(1, 1, 3, 3, 10)]).expect("a healthy disk");
    let (_, after) = open(&disk.crash_losing_all()).expect("the machine starts again");
    assert_eq!(after.entries[..2], seen.entries);
    assert_eq!(after.entries.len(), 3);
}

/// The same when it is a segment's name that was not synced: it is, before anything relies on it.
#[test]
fn pitfall_51_a_name_that_was_seen_survives_a_power_loss() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    storage.write(&[entries(1, 1, 2, 2, 10_000)]).expect("there is room");
    storage.quiet().expect("there is room");
    disk.fail_nth(OpKind::SyncDir, 1);
    storage
        .write(&[entries(2, 1, 3, 3, 10_000)])
        .expect_err("the next segment has no durable name");
    drop(storage);

    let (mut storage, _) = open(&disk).expect("the process starts again");
    storage.write(&[entries(1, 1, 3, 3, 10_000)]).expect("a healthy disk");
    let (_, after) = open(&disk.crash_losing_all()).expect("the machine starts again");
    assert_eq!(after.entries.len(), 3);
}

/// pitfall 52: a cut that fails stops the log; after the restart the cut has happened or has not.
#[test]
fn pitfall_52_a_failed_cut_stops_the_log() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    storage.write(&[entries(1, 1, 2, 9, 10)]).expect("a healthy disk");
    disk.fail_nth(OpKind::Write, 1);
    let cut = Write {
        truncate_from: Some(Index(5)),
        entries: vec![entry(5, 2, 10)],
        hard_state: Some(term(2)),
        ..write(2)
    };
    storage.write(&[cut]).expect_err("the disk failed");
    storage.write(&[entries(3, 2, 6, 6, 10)]).expect_err("poisoned");
    drop(storage);
    let (_, recovered) = open(&disk.crash_losing_all()).expect("the machine starts again");
    assert_eq!(recovered.entries.last(), Some(&entry(9, 1, 10)));
    assert_eq!(recovered.hard_state, term(1));
}

/// A full disk: nothing is written, nothing is lost, and the same writes succeed when space is back.
#[test]
fn no_space_refuses_and_resumes() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    let mut model = Model::formed();
    disk.set_free(Some(0));
    let mut refused = None;
    for index in 2..20 {
        let write = entries(index, 1, index, index, 3000);
        match storage.write(std::slice::from_ref(&write)) {
            Ok(_) => model.apply(&write),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("the disk is full"), "{text}");
                refused = Some(write);
                break;
            }
        }
    }
    let refused = refused.expect("a segment of 32 KiB is soon full");
    assert!(!storage.has_room());
    let job = storage.needs_segment().expect("there is no next segment");
    assert!(job.run().is_err());
    let before = image(&disk);
    storage.write(std::slice::from_ref(&refused)).expect_err("still full");
    assert_eq!(image(&disk), before, "a refusal leaves nothing behind");
    let (_, recovered) = open_elsewhere(&disk);
    assert_eq!(model.compare(&recovered), Ok(()));

    disk.set_free(None);
    let made = storage_job(&mut storage);
    storage.adopt(made);
    assert!(storage.has_room());
    storage.write(std::slice::from_ref(&refused)).expect("there is room again");
    model.apply(&refused);
    let (_, recovered) = open(&disk.crash_losing_all()).expect("all is durable");
    assert_eq!(model.compare(&recovered), Ok(()));
}

/// A full disk while a snapshot comes in: the writes may be handed in again, and are carried out.
#[test]
fn no_space_for_a_snapshot_refuses_and_resumes() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    let chunk = |meta: &SnapshotMeta, data: &Bytes, range: Range<usize>| SnapshotWrite::Chunk {
        meta: meta.clone(),
        offset: range.start as u64,
        data: data.slice(range),
    };
    // The first snapshot is complete, the second one finds no room.
    let (first, body) = foreign_snapshot(at(50, 4));
    let half = body.len() / 2;
    let (second, other) = foreign_snapshot(at(60, 4));
    let begin = Write { snapshots: vec![chunk(&first, &body, 0..half)], ..write(1) };
    storage.write(&[begin]).expect("there is room");
    let end = chunk(&first, &body, half..body.len());
    let install = Write { snapshots: vec![end, SnapshotWrite::Install(first)], ..write(2) };
    let next = Write { snapshots: vec![chunk(&second, &other, 0..other.len())], ..write(3) };
    let writes = [install, next];

    disk.set_free(Some((body.len() - half) as u64));
    let error = storage.write(&writes).expect_err("the disk is full");
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
    disk.set_free(None);
    let written = storage.write(&writes).expect("there is room again");
    assert_eq!(written.install_failed, []);
    let (_, recovered) = open(&disk.crash_losing_all()).expect("all is durable");
    assert_eq!(recovered.snapshot.map(|meta| meta.position), Some(at(50, 4)));
}

/// A segment that comes too late does not replace the one that is in use.
#[test]
fn a_late_segment_is_thrown_away() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    let job = storage.needs_segment().expect("there is no next segment");
    assert!(storage.needs_segment().is_none(), "one job at a time");
    storage.write(&[entries(1, 1, 2, 2, 40_000)]).expect("it makes its own segment");
    storage.adopt(job.run().expect("a healthy disk"));
    storage.write(&[entries(2, 1, 3, 3, 1000)]).expect("and another one");
    let (_, recovered) = open(&disk.crash_losing_all()).expect("all is durable");
    assert_eq!(recovered.entries.len(), 3);
    let left = disk.list(WAL_DIR).expect("the folder is there");
    assert!(left.iter().all(|name| name.ends_with(".log")), "{left:?}");
    drop(storage.needs_segment().expect("a job"));
    assert!(storage.needs_segment().is_some(), "a job that was dropped is given out again");
}

/// All waiting writes go into one batch with one sync.
#[test]
fn many_writes_are_one_batch_and_one_sync() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    let before = disk.log().iter().filter(|op| op.kind == OpKind::Sync).count();
    let writes: Vec<Write> = (2..40).map(|index| entries(index, 1, index, index, 50)).collect();
    storage.write(&writes).expect("a healthy disk");
    let after = disk.log().iter().filter(|op| op.kind == OpKind::Sync).count();
    assert_eq!((after - before, storage.stats().batches), (1, 1));
}

/// A snapshot whose bytes are wrong is not installed, and what else was in the batch is durable.
#[test]
fn a_wrong_snapshot_is_not_installed() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    let (snapshot, body) = foreign_snapshot(at(50, 4));
    let mut wrong = body.to_vec();
    *wrong.last_mut().expect("a body") ^= 1;
    let chunk = SnapshotWrite::Chunk { meta: snapshot.clone(), offset: 0, data: wrong.into() };
    let install = Write {
        snapshots: vec![chunk, SnapshotWrite::Install(snapshot.clone())],
        hard_state: Some(term(4)),
        ..write(1)
    };
    let written = storage.write(&[install]).expect("the disk is healthy");
    assert_eq!(written.install_failed, [snapshot.position]);
    let (_, recovered) = open(&disk.crash_losing_all()).expect("all is durable");
    assert_eq!((recovered.snapshot, recovered.hard_state), (None, term(4)));
    assert_eq!(recovered.entries, [first_entry()]);
    assert_eq!(meta().cluster, Some(CLUSTER));
}

/// A snapshot of our own that comes after a newer one of the leader's is not marked: it would become
/// the newest, with no log behind it.
#[test]
fn a_snapshot_that_comes_too_late_is_not_marked() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    storage.write(&[entries(1, 1, 2, 3, 10)]).expect("a healthy disk");
    let mut writer = storage.snapshots().writer(at(2, 1), &membership()).expect("a healthy disk");
    writer.piece(b"ours").expect("a healthy disk");
    let late = SnapshotWrite::Mark(writer.finish().expect("a healthy disk"));

    let (meta, data) = foreign_snapshot(at(50, 4));
    let chunk = SnapshotWrite::Chunk { meta: meta.clone(), offset: 0, data };
    let install = Write { snapshots: vec![chunk, SnapshotWrite::Install(meta)], ..write(2) };
    let late = Write { snapshots: vec![late], ..write(3) };
    storage.write(&[install]).expect("a healthy disk");
    storage.write(&[late]).expect("a healthy disk");
    let (storage, recovered) = open(&disk.crash_losing_all()).expect("all is durable");
    assert_eq!(recovered.snapshot.map(|meta| meta.position), Some(at(50, 4)));
    let files = storage.snapshots().list().expect("a healthy disk");
    assert_eq!(files.iter().map(|file| file.position).collect::<Vec<_>>(), [at(50, 4)]);
    assert_eq!((recovered.log_start, recovered.entries), (at(50, 4), Vec::new()));
}

fn storage_job(storage: &mut Storage) -> raft_core::storage::MadeSegment {
    storage.needs_segment().expect("there is no next segment").run().expect("there is room")
}

/// Looks at a copy of the disk, so that recovery does not touch the original.
fn open_elsewhere(disk: &TestDisk) -> (Storage, raft_core::write::Recovered) {
    open(&disk.crash_losing_all()).expect("what is durable is whole")
}
