//! META: its bytes, who is refused, and what a crash at any point leaves.

use std::sync::Arc;

use raft_core::storage::disk::{Disk, DiskFile, FileDisk};
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::{DataDir, LOCK, META, Meta};
use raft_core::storage::testdisk::{OpKind, TestDisk};
use raft_core::types::{ClusterId, NodeId};

const ID: u64 = 0x1122_3344_5566_7788;

fn open(disk: &TestDisk, name: Option<&str>) -> Result<DataDir, StorageError> {
    DataDir::open(Arc::new(disk.clone()), name, ID)
}

fn refused(disk: &TestDisk, name: Option<&str>) -> StorageError {
    let before: Vec<_> = disk.paths().iter().map(|path| disk.contents(path)).collect();
    let ops = disk.ops();
    let error = open(disk, name).err().expect("the directory is refused");
    let after: Vec<_> = disk.paths().iter().map(|path| disk.contents(path)).collect();
    assert_eq!((before, ops), (after, disk.ops()), "a refusal changes nothing");
    error
}

fn formed() -> Meta {
    Meta { cluster: Some(ClusterId(0xabcd)), ..Meta::create("node1", ID) }
}

fn disk_with(meta: &Meta) -> TestDisk {
    let disk = TestDisk::new();
    meta.store(&disk).unwrap();
    disk
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_of_meta_never_change() {
    let fresh = disk_with(&Meta::create("node1", ID)).contents(META).unwrap();
    assert_eq!(
        hex(&fresh),
        "524146544d455441010000003100000088776655443322110000000005000000\
         00000000000000006e6f646531eef90233"
    );
    let formed = disk_with(&formed()).contents(META).unwrap();
    assert_eq!(
        hex(&formed),
        "524146544d455441010000003100000088776655443322110100000005000000\
         cdab0000000000006e6f646531a4be77ff"
    );
}

#[test]
fn a_fresh_directory_gets_an_identity_and_keeps_it() {
    let disk = TestDisk::new();
    let made = open(&disk, Some("node1")).unwrap().meta().clone();
    assert_eq!(made, Meta::create("node1", ID));
    assert_eq!(made.node_id, NodeId(ID));
    let again = DataDir::open(Arc::new(disk.crash_losing_all()), Some("node1"), 99).unwrap();
    assert_eq!(*again.meta(), made, "other random bits make no other node of it");
    drop(again);
    assert_eq!(open(&disk, None).unwrap().meta().name, "node1", "no name wanted: any is right");

    let unnamed = TestDisk::new();
    assert_eq!(open(&unnamed, None).unwrap().meta().name, NodeId(ID).to_string());
}

#[test]
fn forming_is_durable() {
    let disk = TestDisk::new();
    let mut dir = open(&disk, Some("node1")).unwrap();
    dir.form(ClusterId(0xabcd)).unwrap();
    assert_eq!(*dir.meta(), formed());
    assert_eq!(Meta::load(&disk.crash_losing_all()).unwrap(), Some(formed()));
}

#[test]
#[should_panic(expected = "another cluster")]
fn a_disk_never_changes_its_cluster() {
    let mut dir = open(&disk_with(&formed()), None).unwrap();
    let _ = dir.form(ClusterId(1));
}

/// Every operation of making META and of forming is the last one once, and then every part of what
/// was not synced is lost: there is the old META or the new one, never a broken one, and the next
/// start goes on.
#[test]
fn a_crash_at_any_point_leaves_the_old_meta_or_the_new_one() {
    let form = |disk: &TestDisk| -> Result<(), StorageError> {
        open(disk, Some("node1"))?.form(ClusterId(0xabcd))
    };
    let whole = TestDisk::new();
    form(&whole).unwrap();
    let mut images = 0;
    for last in 0..=whole.ops() {
        let disk = TestDisk::new();
        disk.stop_after(last);
        let made = open(&disk, Some("node1")).is_ok();
        let finished = made && form(&disk).is_ok();
        assert!(made || last < whole.ops(), "without an end it is made");
        for image in disk.crash_images() {
            images += 1;
            let found = Meta::load(&image).expect("whole or not there");
            let fresh = Meta::create("node1", ID);
            let known = [None, Some(fresh), Some(formed())];
            let stage = known.iter().position(|known| *known == found).expect("old or new");
            let reported = if finished { 2 } else { usize::from(made) };
            assert!(reported <= stage, "after {last} operations stage {stage} of {reported}");
            // The next start goes on from there.
            form(&image).unwrap();
            assert_eq!(Meta::load(&image.crash_losing_all()).unwrap(), Some(formed()));
        }
    }
    assert!(20 < images, "only {images} images were looked at");
}

/// The process dies at each operation of forming, the machine lives on, and the next process sees
/// META. What it has seen (and maybe voted by) must not be lost when the power then fails.
#[test]
fn what_a_start_has_seen_survives_the_next_crash() {
    let form = |disk: &TestDisk| -> Result<(), StorageError> {
        open(disk, Some("node1"))?.form(ClusterId(0xabcd))
    };
    let whole = TestDisk::new();
    form(&whole).unwrap();
    let mut formed_in_cache = 0;
    for last in 0..=whole.ops() {
        let disk = TestDisk::new();
        disk.stop_after(last);
        let _ = form(&disk);
        let next = disk.restart();
        let seen = open(&next, Some("node1")).unwrap().meta().clone();
        assert_eq!(Meta::load(&next.crash_losing_all()).unwrap(), Some(seen.clone()));
        formed_in_cache += u32::from(seen == formed() && !disk.unsynced().is_empty());
    }
    assert!(0 < formed_in_cache, "the case that this is about never came up");
}

#[test]
fn a_failing_disk_is_an_error_and_loses_nothing() {
    let kinds = [OpKind::Create, OpKind::Write, OpKind::Sync, OpKind::Rename, OpKind::SyncDir];
    for kind in kinds {
        let disk = disk_with(&Meta::create("node1", ID));
        let mut dir = open(&disk, None).unwrap();
        disk.fail_nth(kind, 1);
        let error = dir.form(ClusterId(0xabcd)).unwrap_err();
        assert!(matches!(error, StorageError::Io { .. }), "{kind:?}: {error}");
        assert_eq!(dir.meta().cluster, None);
        assert!(Meta::load(&disk.crash_losing_all()).unwrap().is_some(), "{kind:?}");
    }
    let disk = TestDisk::new();
    disk.set_free(Some(10));
    assert!(matches!(open(&disk, None), Err(StorageError::NoSpace { .. })));
    assert_eq!(Meta::load(&disk).unwrap(), None);
}

#[test]
fn every_flipped_bit_and_every_cut_is_damage() {
    let bytes = disk_with(&formed()).contents(META).unwrap();
    for bit in 0..bytes.len() as u64 * 8 {
        let disk = disk_with(&formed());
        disk.flip_bit(META, bit);
        let error = refused(&disk, Some("node1"));
        assert!(error.is_damage(), "bit {bit}: {error}");
    }
    for len in 0..bytes.len() {
        let disk = disk_with(&formed());
        disk.cut(META, len as u64);
        assert!(refused(&disk, None).is_damage(), "cut to {len}");
    }
    let disk = disk_with(&formed());
    disk.put(META, &[&bytes[..], b"more"].concat());
    assert!(refused(&disk, None).is_damage());
    disk.put(META, &vec![b'X'; 1 << 20]);
    let text = refused(&disk, None).to_string();
    assert!(text.contains("META") && text.contains("byte 0"), "{text}");
}

#[test]
fn a_newer_format_is_refused_and_both_versions_are_named() {
    let disk = disk_with(&Meta { format: 7, ..formed() });
    match refused(&disk, None) {
        StorageError::NewerFormat { found: 7, known: 1, .. } => {}
        other => panic!("{other}"),
    }
}

#[test]
fn another_name_is_refused_with_what_the_directory_holds() {
    let disk = disk_with(&formed());
    let error = refused(&disk, Some("node2"));
    assert!(matches!(&error, StorageError::WrongName { wanted, found, .. }
        if wanted == "node2" && found == "node1"));
    let text = error.to_string();
    assert!(text.contains("--id node1") && text.contains("--data-dir"), "{text}");
}

/// pitfall 15: a log without META gets no new identity, under which it could vote twice.
#[test]
fn pitfall_15_a_log_that_lost_its_meta_gets_no_new_identity() {
    for path in ["wal/1.log", "snap/5-2.snap"] {
        let disk = TestDisk::new();
        disk.put(path, b"something");
        let error = refused(&disk, Some("node1"));
        assert!(error.is_damage() && error.to_string().contains(path), "{error}");
    }
}

/// pitfall 15: a wiped disk is another node.
#[test]
fn pitfall_15_a_wiped_directory_is_another_node() {
    let first = DataDir::open(Arc::new(TestDisk::new()), Some("node1"), 1).unwrap();
    let second = DataDir::open(Arc::new(TestDisk::new()), Some("node1"), 2).unwrap();
    assert_ne!(first.meta().node_id, second.meta().node_id);
}

#[test]
fn a_directory_has_one_holder() {
    let dir = tempfile::tempdir().unwrap();
    let real: Arc<dyn Disk> = Arc::new(FileDisk::open(dir.path().join("data")).unwrap());
    for disk in [real, Arc::new(TestDisk::new())] {
        let holder = DataDir::open(disk.clone(), Some("node1"), ID).unwrap();
        match DataDir::open(disk.clone(), Some("node1"), ID).err() {
            Some(StorageError::Locked { file, holder }) => {
                assert_eq!(holder, format!("process {}", std::process::id()));
                assert!(file.ends_with(LOCK));
            }
            other => panic!("{other:?}"),
        }
        drop(holder);
        let again = DataDir::open(disk, Some("node1"), 99).unwrap();
        assert_eq!(again.meta().node_id, NodeId(ID));
    }
}

#[test]
fn a_name_that_is_empty_or_too_long_is_refused() {
    for name in [String::new(), "x".repeat(256)] {
        let error = refused(&TestDisk::new(), Some(&name));
        assert!(error.to_string().contains("1 to 255 bytes"), "{error}");
    }
    let disk = TestDisk::new();
    let longest = "x".repeat(255);
    open(&disk, Some(&longest)).unwrap();
    assert_eq!(open(&disk, Some(&longest)).unwrap().meta().name, longest);
}

/// Between taking the lock and writing its note a holder has no name.
#[test]
fn a_holder_without_a_note_is_still_a_holder() {
    let dir = tempfile::tempdir().unwrap();
    let real: Arc<dyn Disk> = Arc::new(FileDisk::open(dir.path()).unwrap());
    let _holder = real.lock(LOCK, "").unwrap();
    let error = DataDir::open(real, None, ID).err().unwrap();
    assert!(error.to_string().contains("held by another process"), "{error}");
}

#[test]
fn what_an_interrupted_start_left_is_no_obstacle() {
    let disk = TestDisk::new();
    disk.put("META.tmp", &[7; 10_000]);
    let dir = open(&disk, Some("node1")).unwrap();
    drop(dir);
    assert_eq!(Meta::load(&disk).unwrap(), Some(Meta::create("node1", ID)));
    let mut file: Box<dyn DiskFile> = disk.create("META.tmp").expect("it is gone");
    file.write_at(0, b"again").unwrap();
}
