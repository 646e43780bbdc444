//! The disk loses exactly what it may.

use std::collections::BTreeSet;

use super::*;

fn write(disk: &TestDisk, path: &str, offset: u64, bytes: &[u8]) {
    let mut file = match disk.create(path) {
        Ok(file) => file,
        Err(_) => disk.open(path).unwrap(),
    };
    file.write_at(offset, bytes).unwrap();
}

fn sync(disk: &TestDisk, path: &str) {
    disk.open(path).unwrap().sync().unwrap();
}

fn is_sector(item: &Unsynced) -> bool {
    matches!(item, Unsynced::Sector { .. })
}

#[test]
fn what_was_synced_survives_and_what_was_not_is_lost() {
    let disk = TestDisk::new();
    write(&disk, "a", 0, &[1; 600]);
    sync(&disk, "a");
    assert_eq!(disk.crash_losing_all().contents("a"), None, "the name was not synced");
    disk.sync_dir("").unwrap();
    write(&disk, "a", 500, &[2; 200]);

    assert_eq!(disk.contents("a").unwrap()[499..], [&[1; 1][..], &[2; 200]].concat());
    assert_eq!(disk.crash_losing_all().contents("a").unwrap(), [1; 600]);
    assert_eq!(disk.crash_keeping_all().contents("a"), disk.contents("a"));
    assert_eq!(disk.unsynced().len(), 3, "two sectors and the length: {:?}", disk.unsynced());
}

#[test]
fn any_part_of_the_unsynced_can_be_what_is_left() {
    let disk = TestDisk::new();
    write(&disk, "a", 0, &[1; 1024]);
    sync(&disk, "a");
    disk.sync_dir("").unwrap();
    write(&disk, "a", 0, &[2; 1536]);

    let second = |item: &Unsynced| matches!(item, Unsynced::Sector { sector: 1, .. });
    let left = disk.crash(second).contents("a").unwrap();
    assert_eq!(left, [[1; 512], [2; 512]].concat());

    // The file has grown, but the new sector never came: it reads as zeroes.
    let left = disk.crash(|item| !is_sector(item)).contents("a").unwrap();
    assert_eq!(left, [&[1; 1024][..], &[0; 512]].concat());

    // The new sector came, but not the length: it is not there.
    let left = disk.crash(is_sector).contents("a").unwrap();
    assert_eq!(left, [2; 1024]);
}

#[test]
fn every_subset_is_an_image_when_they_are_few() {
    let disk = TestDisk::new();
    disk.put("a", &[0; 5120]);
    write(&disk, "a", 0, &[7; 1536]);
    let mut seen = BTreeSet::new();
    for image in disk.crash_images() {
        let contents = image.contents("a").unwrap();
        seen.insert([0, 512, 1024].map(|at| contents[at]));
    }
    assert_eq!(seen.len(), 8);

    write(&disk, "a", 0, &[7; 5120]);
    let images = disk.crash_images();
    assert_eq!(images.len(), 10 + 10 + 11);
    let sevens = |disk: &TestDisk| disk.contents("a").unwrap().iter().filter(|b| **b == 7).count();
    let counts: BTreeSet<usize> = images.iter().map(sevens).collect();
    assert_eq!(counts, (0..=10).map(|sectors| sectors * 512).collect());
}

#[test]
fn zeroes_over_zeroes_are_nothing_to_lose_but_the_length() {
    let disk = TestDisk::new();
    write(&disk, "a", 0, &[0; 4096]);
    disk.sync_dir("").unwrap();
    assert!(matches!(disk.unsynced()[..], [Unsynced::Length { .. }]), "{:?}", disk.unsynced());
    sync(&disk, "a");
    assert!(disk.unsynced().is_empty());
    assert_eq!(disk.crash_losing_all().contents("a").unwrap(), [0; 4096]);
}

#[test]
fn a_rename_happens_or_not_and_a_lost_folder_takes_its_files_along() {
    let disk = TestDisk::new();
    disk.put("meta", b"old");
    write(&disk, "tmp", 0, b"new");
    sync(&disk, "tmp");
    disk.rename("tmp", "meta").unwrap();
    assert_eq!(disk.contents("meta").unwrap(), b"new");
    assert_eq!(disk.paths(), ["meta"]);
    let lost = disk.crash_losing_all();
    assert_eq!((lost.contents("meta").unwrap(), lost.contents("tmp")), (b"old".to_vec(), None));
    let renamed = |item: &Unsynced| matches!(item, Unsynced::Name { change, .. } if change.starts_with("rename"));
    assert_eq!(disk.crash(renamed).contents("meta").unwrap(), b"new");

    disk.create_dir("wal").unwrap();
    write(&disk, "wal/1", 0, b"x");
    sync(&disk, "wal/1");
    disk.sync_dir("wal").unwrap();
    assert_eq!(disk.crash_losing_all().contents("wal/1"), None);
    disk.sync_dir("").unwrap();
    assert_eq!(disk.crash_losing_all().contents("wal/1").unwrap(), b"x");
    assert_eq!(disk.list("").unwrap(), ["meta", "wal"]);

    disk.remove("wal/1").unwrap();
    assert_eq!(disk.crash_losing_all().contents("wal/1").unwrap(), b"x");
    disk.sync_dir("wal").unwrap();
    assert_eq!(disk.crash_losing_all().contents("wal/1"), None);
}

#[test]
fn after_the_last_operation_the_process_is_gone() {
    let disk = TestDisk::new();
    disk.stop_after(2);
    let mut file = disk.create("a").unwrap();
    file.write_at(0, b"x").unwrap();
    assert_eq!(file.sync().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(file.read_at(0, &mut [0]).is_err());
    assert!(disk.open("a").is_err() && disk.list("").is_err());
    assert_eq!(disk.ops(), 2);
    let log: Vec<String> = disk.log().iter().map(Op::to_string).collect();
    assert_eq!(log, ["1 create \"a\"", "2 write \"a\" 0+1"]);
    assert_eq!(disk.crash_keeping_all().contents("a").unwrap(), b"x");
}

/// pitfall 50: what a failed sync should have written is readable and never becomes durable.
#[test]
fn pitfall_50_a_sync_after_a_failed_one_lies() {
    let disk = TestDisk::new();
    disk.put("a", &[1; 512]);
    let mut file = disk.open("a").unwrap();
    file.write_at(0, &[2; 512]).unwrap();
    disk.fail_nth(OpKind::Sync, 1);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(disk.contents("a").unwrap(), [2; 512]);
    assert_eq!(disk.crash_losing_all().contents("a").unwrap(), [1; 512]);
    file.write_at(0, &[3; 512]).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.crash_losing_all().contents("a").unwrap(), [3; 512]);
}

#[test]
fn failures_come_once_and_at_the_operation_asked_for() {
    let disk = TestDisk::new();
    disk.put("a", &[1; 2048]);
    disk.fail_nth(OpKind::Write, 2);
    let mut file = disk.open("a").unwrap();
    file.write_at(0, &[2; 512]).unwrap();
    assert!(file.write_at(0, &[3; 2048]).is_err());
    let half = [[3; 1024], [1; 1024]].concat();
    assert_eq!(disk.contents("a").unwrap(), half, "a failed write may leave a part");
    file.write_at(0, &[4; 2048]).unwrap();
    disk.fail_nth(OpKind::Read, 1);
    assert!(file.read_at(0, &mut [0; 8]).is_err());
    file.read_at(0, &mut [0; 8]).unwrap();
    disk.fail_nth(OpKind::Rename, 1);
    assert!(disk.rename("a", "b").is_err());
    assert_eq!(disk.paths(), ["a"]);
}

#[test]
fn room_ends_and_comes_back() {
    let disk = TestDisk::new();
    disk.put("old", &[1; 1000]);
    disk.set_free(Some(100));
    let mut file = disk.create("a").unwrap();
    file.write_at(0, &[1; 60]).unwrap();
    file.write_at(0, &[2; 60]).unwrap();
    let full = file.write_at(60, &[3; 60]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 100, "what fits was written");
    disk.remove("old").unwrap();
    file.write_at(60, &[3; 60]).unwrap();
}

#[test]
fn bits_flip_behind_the_process() {
    let disk = TestDisk::new();
    disk.put("a", &[0; 600]);
    disk.flip_bit("a", 8 * 513 + 2);
    assert_eq!(disk.contents("a").unwrap()[513], 4);
    assert_eq!(disk.crash_losing_all().contents("a").unwrap()[513], 4);
    disk.cut("a", 514);
    assert_eq!(disk.contents("a").unwrap().len(), 514);
}

#[test]
fn a_held_sync_waits_until_it_is_released() {
    let disk = TestDisk::new();
    disk.put("a", b"old");
    disk.hold_syncs();
    let mut file = disk.open("a").unwrap();
    file.write_at(0, b"new").unwrap();
    let syncing = std::thread::spawn(move || file.sync());
    disk.wait_for_held_sync();
    assert_eq!(disk.crash_losing_all().contents("a").unwrap(), b"old");
    disk.release_syncs();
    syncing.join().unwrap().unwrap();
    assert_eq!(disk.crash_losing_all().contents("a").unwrap(), b"new");
}

#[test]
fn a_restart_keeps_what_is_unsynced_unsynced() {
    let disk = TestDisk::new();
    disk.put("a", b"old");
    let _lock = disk.lock("LOCK", "").unwrap();
    write(&disk, "a", 0, b"new");
    write(&disk, "b", 0, b"b");
    disk.stop_after(disk.ops());
    let next = disk.restart();
    assert_eq!(next.contents("a").unwrap(), b"new");
    assert_eq!(next.unsynced().len(), disk.unsynced().len());
    let lost = next.crash_losing_all();
    assert_eq!((lost.contents("a").unwrap(), lost.contents("b")), (b"old".to_vec(), None));
    sync(&next, "a");
    assert_eq!(next.crash_losing_all().contents("a").unwrap(), b"new");
    next.lock("LOCK", "").unwrap();
}

#[test]
fn files_that_nothing_leads_to_are_let_go() {
    let disk = TestDisk::new();
    disk.put("a", &[1; 512]);
    let held = disk.open("a").unwrap();
    disk.remove("a").unwrap();
    disk.sync_dir("").unwrap();
    held.read_at(0, &mut [0; 512]).unwrap();
    assert_eq!(disk.state().files.len(), 1);
    drop(held);
    assert!(disk.state().files.is_empty());
}

#[test]
fn one_holder_at_a_time() {
    let disk = TestDisk::new();
    let first = disk.lock("LOCK", "process 1\n").unwrap();
    let refused = disk.lock("LOCK", "process 2\n").err().unwrap();
    assert_eq!(
        (refused.kind(), refused.to_string().as_str()),
        (io::ErrorKind::WouldBlock, "process 1")
    );
    assert!(disk.crash_keeping_all().lock("LOCK", "process 3").is_ok());
    drop(first);
    disk.lock("LOCK", "process 2").unwrap();
}
