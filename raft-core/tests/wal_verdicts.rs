//! What recovery concludes from what it sees, row by row of the table in `docs/disk-format.md`: a
//! tail that a crash tore is trimmed; anything else that is wrong is damage, and changes nothing.

mod wal_support;

use std::ops::Range;
use std::sync::Arc;

use raft_core::storage::disk::Disk;
use raft_core::storage::error::StorageError;
use raft_core::storage::format::{
    BatchHeader, HeaderSeen, PAGE, SECTOR, Seal, SegmentHeader, is_zero, read_batch_header,
};
use raft_core::storage::meta::Meta;
use raft_core::storage::testdisk::TestDisk;
use raft_core::storage::{Storage, WAL_DIR};
use raft_core::types::{ClusterId, NodeId, Payload};
use raft_core::write::{Recovered, SnapshotWrite, Write};
use wal_support::{
    CLUSTER, Model, NODE, Run, Step, at, entries, foreign_snapshot, formed, image, meta, open,
    options, write,
};

const FIRST: &str = "wal/0000000001.log";
const SECOND: &str = "wal/0000000002.log";

/// A disk after these steps, as the process leaves it when it dies.
fn after(steps: &[Step]) -> (TestDisk, Model) {
    let run = Run::follow(&formed(), steps);
    assert!(run.error.is_none(), "{:?}", run.error);
    (run.disk, run.sure)
}

/// One batch of `entries` of `length` bytes, not proven by anything.
fn one_batch(length: usize) -> (TestDisk, Model) {
    after(&[Step::Write(vec![entries(1, 1, 2, 4, length)])])
}

/// Three batches of one entry each.
fn three_batches() -> (TestDisk, Model) {
    let one = |id| Step::Write(vec![entries(id, 1, id + 1, id + 1, 700)]);
    after(&[one(1), one(2), one(3)])
}

/// So many batches that there are several segments, and snapshots that let go of none.
fn several_segments() -> (TestDisk, Model) {
    let one = |id| Step::Write(vec![entries(id, 1, id + 1, id + 1, 700)]);
    after(&(1..=14).map(one).chain([Step::Quiet]).collect::<Vec<_>>())
}

/// The batches of a segment file.
fn batches(disk: &TestDisk, path: &str) -> Vec<(u64, BatchHeader)> {
    let file = disk.contents(path).expect("the segment is there");
    let seal = Seal::new(SegmentHeader::decode(&file[..PAGE]).expect("a sound header").salt);
    let (mut offset, mut found) = (PAGE as u64, Vec::new());
    while offset < file.len() as u64
        && let HeaderSeen::Valid(header) = read_batch_header(&seal, &file, offset)
    {
        found.push((offset, header));
        offset += header.extent();
    }
    found
}

fn zero(disk: &TestDisk, path: &str, range: Range<u64>) {
    disk.overwrite(path, range.start, &vec![0; (range.end - range.start) as usize]);
}

/// The start is refused with damage in this file, and nothing on disk is changed. Gives the offset.
fn assert_damage(disk: &TestDisk, path: &str) -> u64 {
    let before = image(disk);
    let error = open(disk).map(|_| ()).expect_err("damage is never trimmed");
    let StorageError::Damage { file, offset, .. } = &error else { panic!("not damage: {error}") };
    assert_eq!(file, path, "{error}");
    assert!(image(disk) == before, "damage changes nothing: {error}");
    *offset
}

fn recovered(disk: &TestDisk) -> Recovered {
    open(disk).unwrap_or_else(|error| panic!("this is no damage: {error}")).1
}

#[test]
fn only_zeroes_after_the_last_batch_are_a_clean_end() {
    let (disk, model) = three_batches();
    assert_eq!(model.compare(&recovered(&disk)), Ok(()));
    let (disk, model) = several_segments();
    assert_eq!(model.compare(&recovered(&disk)), Ok(()));
}

/// pitfall 49: a damaged record with valid ones behind it is not the end of the log.
#[test]
fn pitfall_49_an_invalid_batch_with_another_behind_it_is_damage() {
    let (disk, _) = three_batches();
    let all = batches(&disk, FIRST);
    let (offset, header) = all[all.len() - 2];
    disk.flip_bit(FIRST, (offset + header.length - 1) * 8);
    let found = assert_damage(&disk, FIRST);
    assert!((offset..offset + header.length).contains(&found), "{found} is not in the batch");

    // Also when one of its sectors looks as if it was never written.
    let (disk, _) = three_batches();
    zero(&disk, FIRST, offset + SECTOR as u64..offset + 2 * SECTOR as u64);
    assert_damage(&disk, FIRST);

    // Also when its header is gone.
    let (disk, _) = three_batches();
    zero(&disk, FIRST, offset..offset + header.extent());
    assert_eq!(assert_damage(&disk, FIRST), offset);
}

/// The end of a segment looks clean or torn, but the next one is in use.
#[test]
fn an_end_before_a_segment_in_use_is_damage() {
    let whole = several_segments().0;
    let all = batches(&whole, FIRST);
    let (close, _) = all[all.len() - 1];
    let (last, header) = all[all.len() - 2];
    let end = close + PAGE as u64;
    for gone in [close..end, last + SECTOR as u64..end, last..end] {
        let disk = whole.crash_keeping_all();
        zero(&disk, FIRST, gone.clone());
        let offset = assert_damage(&disk, FIRST);
        assert_eq!(offset, if gone.start == close { close } else { last }, "{gone:?} {header:?}");
    }
}

/// pitfall 48: at each 512-byte boundary of the last batch the disk may have stopped writing, and
/// each sector may be the one that is missing.
#[test]
fn pitfall_48_a_torn_last_batch_is_trimmed() {
    let (whole, _) = one_batch(1000);
    let (offset, header) = *batches(&whole, FIRST).last().expect("a batch");
    let end = offset + header.length.next_multiple_of(SECTOR as u64);
    let sectors = (offset..end).step_by(SECTOR);
    assert!(5 < sectors.clone().count());
    for sector in sectors {
        for gone in [sector..end, sector..sector + SECTOR as u64] {
            let disk = whole.crash_keeping_all();
            zero(&disk, FIRST, gone.clone());
            let first = recovered(&disk);
            assert_eq!(Model::formed().compare(&first), Ok(()), "zeroes in {gone:?}");
            assert_eq!(recovered(&disk.crash_losing_all()), first, "zeroes in {gone:?}, again");
            // What was torn is gone for good, and the log goes on.
            let (mut storage, _) = open(&disk).expect("trimmed");
            storage.write(&[entries(1, 1, 2, 2, 1000)]).expect("a healthy disk");
            assert_eq!(recovered(&disk).entries.len(), 2);
        }
    }
}

/// A payload full of zeroes is not a missing sector, and a missing one beside it is still seen.
#[test]
fn pitfall_48_zeroes_by_content_are_not_missing() {
    let mut zeroes = entries(1, 1, 2, 2, 4000);
    let payload = vec![0; 2000].into_iter().chain(vec![1; 1000]).collect::<Vec<u8>>();
    zeroes.entries[0].payload = Payload::Command(payload.into());
    let (whole, model) = after(&[Step::Write(vec![zeroes])]);
    assert_eq!(model.compare(&recovered(&whole.crash_keeping_all())), Ok(()));
    let (offset, header) = *batches(&whole, FIRST).last().expect("a batch");
    assert!(0 < header.zero_sectors);

    let flipped = whole.crash_keeping_all();
    flipped.flip_bit(FIRST, (offset + header.length - 1) * 8);
    assert_damage(&flipped, FIRST);

    let missing = offset + header.length.next_multiple_of(SECTOR as u64) - SECTOR as u64;
    zero(&whole, FIRST, missing..missing + SECTOR as u64);
    assert_eq!(Model::formed().compare(&recovered(&whole)), Ok(()));
}

#[test]
fn an_invalid_last_batch_without_a_missing_sector_is_damage() {
    let (disk, _) = one_batch(1000);
    let (offset, header) = *batches(&disk, FIRST).last().expect("a batch");
    disk.flip_bit(FIRST, (offset + header.length - 1) * 8);
    assert_damage(&disk, FIRST);
}

#[test]
fn an_unreadable_header_is_damage() {
    for byte in [0, 5, 9, 17, 25, 29, 33, 37] {
        let (disk, _) = one_batch(10);
        let (offset, _) = *batches(&disk, FIRST).last().expect("a batch");
        disk.flip_bit(FIRST, (offset + byte) * 8);
        assert_damage(&disk, FIRST);
    }
}

#[test]
fn bytes_between_batches_are_damage() {
    let (disk, _) = one_batch(10);
    let (offset, header) = *batches(&disk, FIRST).last().expect("a batch");
    disk.overwrite(FIRST, offset + header.length, &[1]);
    assert_eq!(assert_damage(&disk, FIRST), offset + header.length);

    let whole = several_segments().0;
    let length = whole.contents(FIRST).expect("the first segment").len() as u64;
    whole.overwrite(FIRST, length - 1, &[1]);
    assert_damage(&whole, FIRST);
}

#[test]
fn missing_segments_are_damage() {
    let remove = |disk: &TestDisk, path: &str| disk.remove(path).expect("it is there");
    // A close record without its successor.
    let (disk, _) = several_segments();
    let names = disk.list(WAL_DIR).expect("the folder is there");
    assert!(3 <= names.len(), "{names:?}");
    let (last, before) = (&names[names.len() - 1], &names[names.len() - 2]);
    remove(&disk, &format!("{WAL_DIR}/{last}"));
    assert_damage(&disk, &format!("{WAL_DIR}/{before}"));

    // A gap.
    let (disk, _) = several_segments();
    remove(&disk, SECOND);
    assert_damage(&disk, WAL_DIR);

    // A log that does not reach back to anything.
    let (disk, _) = several_segments();
    remove(&disk, FIRST);
    assert_damage(&disk, WAL_DIR);

    // No log at all.
    let (disk, _) = one_batch(10);
    remove(&disk, FIRST);
    assert_damage(&disk, WAL_DIR);
}

#[test]
fn a_segment_of_another_length_is_damage() {
    for length in [0, 100, PAGE as u64, 16 << 10, (32 << 10) - 1] {
        let (disk, _) = several_segments();
        disk.cut(FIRST, length);
        assert_damage(&disk, FIRST);
    }
    let (disk, _) = one_batch(10);
    let mut longer = disk.contents(FIRST).expect("the segment");
    longer.resize(longer.len() + PAGE, 0);
    disk.put(FIRST, &longer);
    assert_damage(&disk, FIRST);
}

#[test]
fn foreign_segments_are_refused() {
    let open_as = |node: NodeId, cluster: ClusterId| {
        let (disk, _) = one_batch(10);
        let before = image(&disk);
        let meta = Meta { node_id: node, cluster: Some(cluster), ..meta() };
        let error = Storage::open(Arc::new(disk.clone()), &meta, options(9)).map(|_| ());
        assert!(image(&disk) == before);
        error.expect_err("foreign")
    };
    let error = open_as(NodeId(8), CLUSTER);
    assert!(matches!(error, StorageError::ForeignNode { found: NODE, .. }), "{error}");
    let error = open_as(NODE, ClusterId(1));
    assert!(matches!(error, StorageError::ForeignCluster { found: CLUSTER, .. }), "{error}");
    // A segment of ours under another name.
    let (disk, _) = several_segments();
    disk.put(SECOND, &disk.contents(FIRST).expect("the first segment"));
    assert_damage(&disk, SECOND);
}

/// A segment of ours with the right number, but from another past: the chain of batches shows it.
#[test]
fn a_segment_of_another_past_is_damage() {
    let log = |length: usize| {
        let one = |id| Step::Write(vec![entries(id, 1, id + 1, id + 1, length)]);
        after(&(1..=7).map(one).chain([Step::Quiet]).collect::<Vec<_>>()).0
    };
    let (disk, other) = (log(700), log(701));
    assert_eq!(disk.list(WAL_DIR).expect("the folder").len(), 2);
    disk.put(SECOND, &other.contents(SECOND).expect("a second segment"));
    assert_damage(&disk, SECOND);
}

#[test]
fn a_newer_format_is_refused_and_named() {
    let (disk, _) = one_batch(10);
    let mut page = disk.contents(FIRST).expect("the segment")[..PAGE].to_vec();
    page[8] = 2;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&page[..60]);
    crc.update(&page[64..]);
    page[60..64].copy_from_slice(&crc.finalize().to_le_bytes());
    disk.overwrite(FIRST, 0, &page);
    let before = image(&disk);
    let error = open(&disk).map(|_| ()).expect_err("a newer format");
    assert!(matches!(error, StorageError::NewerFormat { found: 2, known: 1, .. }), "{error}");
    assert!(image(&disk) == before);
}

/// A thousand random flips in bytes that are known to be durable: each is found, in the right file,
/// and nothing is trimmed.
#[test]
fn a_thousand_flipped_bits_are_found() {
    let (whole, _) = several_segments();
    let names = whole.list(WAL_DIR).expect("the folder is there");
    let paths: Vec<String> = names.iter().map(|name| format!("{WAL_DIR}/{name}")).collect();
    let proven = |path: &String| match batches(&whole, path).last() {
        // Behind a closed segment all is known, in the last one what stands before the last batch.
        Some((offset, _)) if Some(path) == paths.last() => *offset,
        _ => whole.contents(path).expect("the segment").len() as u64,
    };
    let mut random = 12345_u64;
    for _ in 0..1000 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let path = &paths[(random >> 33) as usize % paths.len()];
        let bit = (random >> 20) % (proven(path) * 8);
        let disk = whole.crash_keeping_all();
        disk.flip_bit(path, bit);
        assert_damage(&disk, path);
    }
}

/// Two snapshots of our own and log from the first one on.
fn two_snapshots() -> (TestDisk, Model) {
    after(&[
        Step::Write(vec![entries(1, 1, 2, 5, 100)]),
        Step::Snapshot(at(3, 1), 2),
        Step::Write(vec![entries(3, 1, 6, 7, 100)]),
        Step::Snapshot(at(6, 1), 4),
        Step::Write(vec![entries(5, 1, 8, 8, 100)]),
    ])
}

fn snapshot_paths(disk: &TestDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("snap/")).collect()
}

#[test]
fn a_rotten_snapshot_falls_back_to_the_one_before() {
    let (disk, model) = two_snapshots();
    let paths = snapshot_paths(&disk);
    assert_eq!(paths.len(), 2);
    let length = disk.contents(&paths[1]).expect("the newest").len() as u64;
    disk.flip_bit(&paths[1], (length - 1) * 8);
    let (mut storage, found) = open(&disk).expect("there is an older one");
    assert_eq!(found.snapshot.as_ref().map(|meta| meta.position), Some(at(3, 1)));
    let older = Model { snapshot: found.snapshot.clone(), ..model.clone() };
    assert_eq!(older.compare(&found), Ok(()));

    // And the log goes on to a new snapshot at the very place of the rotten one.
    let mut writer =
        storage.snapshots().writer(at(6, 1), &wal_support::membership()).expect("room");
    writer.piece(b"again").expect("room");
    let mark = SnapshotWrite::Mark(writer.finish().expect("room"));
    storage.write(&[Write { snapshots: vec![mark], ..write(1) }]).expect("room");
    assert_eq!(recovered(&disk).snapshot.map(|meta| meta.position), Some(at(6, 1)));

    // Both rotten: the whole log is still there, so nothing is lost.
    let (disk, model) = two_snapshots();
    for path in snapshot_paths(&disk) {
        disk.flip_bit(&path, 8 * 8);
    }
    let whole = Model { snapshot: None, ..model };
    assert_eq!(whole.compare(&recovered(&disk)), Ok(()));
}

#[test]
fn a_rotten_snapshot_without_log_below_is_damage() {
    let (meta, body) = foreign_snapshot(at(50, 4));
    let chunk = SnapshotWrite::Chunk { meta: meta.clone(), offset: 0, data: body };
    let install = Write { snapshots: vec![chunk, SnapshotWrite::Install(meta)], ..write(1) };
    let (whole, _) = after(&[Step::Write(vec![install])]);
    let path = &snapshot_paths(&whole)[0];

    let disk = whole.crash_keeping_all();
    disk.flip_bit(path, 8 * 8);
    assert_damage(&disk, path);

    let disk = whole.crash_keeping_all();
    disk.remove(path).expect("it is there");
    assert_damage(&disk, "snap");
}

/// pitfall 46: what a removed segment said of the older snapshot is carried on, and the log that
/// leads from the older snapshot to the newer one is kept.
#[test]
fn pitfall_46_the_older_snapshot_serves_after_log_was_let_go() {
    let (disk, model) = after(&[
        Step::Write(vec![entries(1, 1, 2, 5, 100)]),
        Step::Snapshot(at(5, 1), 2),
        Step::Write(vec![entries(3, 1, 6, 7, 10_000)]),
        Step::Write(vec![entries(4, 1, 8, 9, 10_000)]),
        Step::Snapshot(at(7, 1), 5),
    ]);
    let segments = disk.list(WAL_DIR).expect("the folder is there");
    assert_eq!(segments, ["0000000002.log", "0000000003.log"], "the first one was let go");
    disk.flip_bit(&snapshot_paths(&disk)[1], 8 * 8);
    let found = recovered(&disk);
    assert_eq!(found.snapshot.as_ref().map(|meta| meta.position), Some(at(5, 1)));
    let older = Model { snapshot: found.snapshot.clone(), ..model };
    assert_eq!(older.compare(&found), Ok(()));
}

#[test]
fn a_snapshot_that_no_mark_names_is_removed() {
    let (disk, model) = two_snapshots();
    let (storage, _) = open(&disk).expect("whole");
    let mut writer =
        storage.snapshots().writer(at(8, 1), &wal_support::membership()).expect("room");
    writer.piece(b"never marked").expect("room");
    writer.finish().expect("room");
    drop(storage);
    assert_eq!(snapshot_paths(&disk).len(), 3);
    assert_eq!(model.compare(&recovered(&disk)), Ok(()));
    assert_eq!(snapshot_paths(&disk).len(), 2);
}

/// After silence a start has nothing to write anew; without it the tail is written to a fresh file.
#[test]
fn a_quiet_log_is_not_written_anew() {
    let salt = |disk: &TestDisk| {
        SegmentHeader::decode(&disk.contents(FIRST).expect("the log")[..PAGE]).expect("sound").salt
    };
    let steps = [Step::Write(vec![entries(1, 1, 2, 3, 100)]), Step::Quiet];
    let (quiet, model) = after(&steps);
    let before = salt(&quiet);
    assert_eq!(model.compare(&recovered(&quiet)), Ok(()));
    assert_eq!(salt(&quiet), before);

    let (loud, model) = after(&steps[..1]);
    let before = salt(&loud);
    assert_eq!(model.compare(&recovered(&loud)), Ok(()));
    assert_ne!(salt(&loud), before);
    assert!(is_zero(&loud.contents(FIRST).expect("the log")[7 * PAGE..]));
}
