//! The simulated disk without faults: it does what a directory does, and keeps apart what is
//! durable from what is not.

use std::io::ErrorKind;

use raft_core::storage::disk::Disk;
use sim_tests::disk::{Crash, SECTOR_BYTES, SimDisk, Unsynced};

fn written(disk: &dyn Disk, path: &str, bytes: &[u8]) {
    let mut file = disk.create(path).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
}

#[test]
fn bytes_come_back_from_where_they_were_put() {
    let sim = SimDisk::new(1);
    let disk = sim.handle();
    disk.create_dir("wal").unwrap();
    disk.create_dir("wal").unwrap();
    let mut file = disk.create("wal/1.tmp").unwrap();
    assert!(file.is_empty().unwrap());
    let bytes: Vec<u8> = (0..10_000).map(|at| (at % 251) as u8).collect();
    file.write_at(4090, &bytes).unwrap();
    file.write_at(5000, &[0; 700]).unwrap();
    assert_eq!(file.len().unwrap(), 14_090);
    disk.rename("wal/1.tmp", "wal/1.log").unwrap();

    let file = disk.open("wal/1.log").unwrap();
    let mut read = vec![9; 14_090];
    file.read_at(0, &mut read).unwrap();
    let mut expected = [vec![0; 4090], bytes].concat();
    expected[5000..5700].fill(0);
    assert!(read == expected);
    let beyond = file.read_at(14_000, &mut [0; 91]).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
    file.read_at(14_090, &mut []).unwrap();
}

#[test]
fn zeroes_are_as_good_as_written_and_as_easily_lost() {
    // Over bytes that are there, over a hole, beyond the end, and nothing at all.
    for (at, bytes) in [(0, 600), (700, 9), (300, 9_000), (5_000, 3_000), (20_000, 0)] {
        let sim = SimDisk::new(1);
        let disk = sim.handle();
        written(&*disk, "filled", &[7; 1_000]);
        written(&*disk, "spelt", &[7; 1_000]);
        disk.sync_dir("").unwrap();
        disk.open("filled").unwrap().write_zeroes(at, bytes).unwrap();
        disk.open("spelt").unwrap().write_at(at, &vec![0; bytes as usize]).unwrap();
        assert!(sim.contents("filled") == sim.contents("spelt"), "{bytes} at {at}");
        let Unsynced { sectors, lengths, .. } = sim.unsynced();
        assert_eq!((sectors % 2, lengths % 2), (0, 0), "both files are at the same risk");
        let durable = sim.durable_image();
        assert!(durable.contents("filled") == Some(vec![7; 1_000]), "{bytes} at {at} unsynced");
        disk.open("filled").unwrap().sync().unwrap();
        assert!(sim.durable_image().contents("filled") == sim.contents("filled"));
    }
    // As many as a segment has, and only two sectors of them were anything else.
    let sim = SimDisk::new(1);
    let disk = sim.handle();
    let mut file = disk.create("segment").unwrap();
    file.write_at(0, &[1; 600]).unwrap();
    file.write_zeroes(0, 3 << 20).unwrap();
    assert_eq!((file.len().unwrap(), sim.unsynced().sectors), (3 << 20, 2));
}

#[test]
fn names_are_sorted_and_errors_are_those_of_a_file_system() {
    let sim = SimDisk::new(1);
    let disk = sim.handle();
    disk.create_dir("snap").unwrap();
    for name in ["b", "c", "snap/x", "a"] {
        disk.create(name).unwrap();
    }
    assert_eq!(disk.list("").unwrap(), ["a", "b", "c", "snap"]);
    assert_eq!(disk.list("snap").unwrap(), ["x"]);
    assert!(disk.list("nowhere").unwrap().is_empty());
    disk.remove("b").unwrap();
    disk.rename("c", "a").unwrap();
    assert_eq!(disk.list("").unwrap(), ["a", "snap"]);
    assert_eq!(disk.open("b").err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(disk.create("a").err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(disk.create("wal/1").err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(disk.sync_dir("wal").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_second_process_is_refused_and_changes_nothing_and_a_dead_one_holds_nothing() {
    let sim = SimDisk::new(1);
    let first = sim.handle();
    let guard = first.lock("LOCK", "process 1\n").unwrap();
    let second = sim.handle();
    let refused = second.lock("LOCK", "process 2\n").err().unwrap();
    assert_eq!((refused.kind(), refused.to_string()), (ErrorKind::WouldBlock, "process 1".into()));
    drop(second);
    first.create("still works").unwrap();

    sim.crash(Crash::Process);
    let third = sim.handle();
    let held = third.lock("LOCK", "process 3").unwrap();
    // The guard of the dead process is let go of late, and must not free the lock of the living.
    drop(guard);
    assert_eq!(sim.handle().lock("LOCK", "").err().unwrap().to_string(), "process 3");
    drop(held);
    sim.handle().lock("LOCK", "").unwrap();
}

#[test]
fn a_process_that_died_reaches_the_disk_no_more() {
    for end in [
        |sim: &SimDisk| sim.end_life(),
        |sim: &SimDisk| {
            sim.crash(Crash::Power);
        },
    ] {
        let sim = SimDisk::new(1);
        let disk = sim.handle();
        written(&*disk, "a", b"before");
        disk.sync_dir("").unwrap();
        let mut file = disk.open("a").unwrap();
        end(&sim);

        let digest = sim.digest();
        assert!(file.write_at(0, b"after").is_err());
        assert!(file.sync().is_err());
        assert!(file.read_at(0, &mut [0]).is_err() && file.len().is_err());
        assert!(disk.create("b").is_err() && disk.open("a").is_err());
        assert!(disk.rename("a", "b").is_err() && disk.remove("a").is_err());
        assert!(disk.list("").is_err() && disk.sync_dir("").is_err());
        assert!(disk.create_dir("wal").is_err() && disk.lock("LOCK", "").is_err());
        drop((file, disk));
        assert_eq!(sim.digest(), digest);
        assert_eq!(sim.contents("a").unwrap(), b"before");
        sim.handle().open("a").unwrap().write_at(0, b"after").unwrap();
    }
}

#[test]
fn what_is_synced_survives_every_crash_and_the_rest_may_not() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..200 {
        let sim = SimDisk::new(seed);
        let disk = sim.handle();
        written(&*disk, "durable", &[7; 2000]);
        disk.sync_dir("").unwrap();
        let mut file = disk.open("durable").unwrap();
        file.write_at(SECTOR_BYTES as u64, &[8; SECTOR_BYTES]).unwrap();
        written(&*disk, "nameless", &[9; 600]);

        let image = sim.durable_image();
        assert_eq!(image.paths(), ["durable"]);
        assert_eq!(image.contents("durable").unwrap(), [7; 2000]);

        let aftermath = sim.crash(Crash::Power);
        assert!(!aftermath.damage);
        assert_eq!(sim.unsynced(), Unsynced::default());
        let bytes = sim.contents("durable").unwrap();
        let at = SECTOR_BYTES;
        assert!(
            bytes[..at] == [7; SECTOR_BYTES] && bytes[2 * at..] == [7; 2000 - 2 * SECTOR_BYTES]
        );
        let sector = &bytes[at..2 * at];
        assert!(sector == [7; SECTOR_BYTES] || sector == [8; SECTOR_BYTES], "seed {seed}");
        let named = sim.contents("nameless");
        assert!(named.as_ref().is_none_or(|bytes| *bytes == [9; 600]));
        for was_kept in [sector[0] == 8, named.is_some()] {
            *(if was_kept { &mut kept } else { &mut lost }) += 1;
        }
    }
    assert!(100 < lost && 80 < kept, "{lost} lost, {kept} kept");
}

#[test]
fn a_process_that_dies_alone_leaves_its_writes_readable_and_no_more_durable() {
    let sim = SimDisk::new(1);
    let disk = sim.handle();
    written(&*disk, "a", &[1; 512]);
    disk.sync_dir("").unwrap();
    disk.open("a").unwrap().write_at(0, &[2; 512]).unwrap();
    disk.create("b").unwrap();

    assert!(!sim.crash(Crash::Process).lost_anything());
    assert_eq!(sim.contents("a").unwrap(), [2; 512]);
    assert_eq!(sim.unsynced(), Unsynced { sectors: 1, names: 1, ..Unsynced::default() });
    assert_eq!(sim.durable_image().contents("a").unwrap(), [1; 512]);
    // The next process may still make it durable.
    sim.handle().open("a").unwrap().sync().unwrap();
    assert_eq!(sim.durable_image().contents("a").unwrap(), [2; 512]);
    assert_eq!(sim.durable_image().paths(), ["a"]);
}

#[test]
fn an_image_and_its_disk_do_not_see_each_other_change() {
    let sim = SimDisk::new(1);
    written(&*sim.handle(), "a", &[1; 5000]);
    sim.handle().sync_dir("").unwrap();
    let image = sim.durable_image();
    sim.handle().open("a").unwrap().write_at(10, &[2; 10]).unwrap();
    image.handle().open("a").unwrap().write_at(4500, &[3; 10]).unwrap();
    assert_eq!(sim.contents("a").unwrap()[8..12], [1, 1, 2, 2]);
    assert_eq!(sim.contents("a").unwrap()[4498..4502], [1, 1, 1, 1]);
    assert_eq!(image.contents("a").unwrap()[8..12], [1, 1, 1, 1]);
    assert_eq!(image.contents("a").unwrap()[4498..4502], [1, 1, 3, 3]);
}

#[test]
fn a_large_file_of_zeroes_is_only_a_length() {
    let sim = SimDisk::new(1);
    let disk = sim.handle();
    let mut file = disk.create("a").unwrap();
    let zeroes = vec![0; 1 << 20];
    for part in 0..64 {
        file.write_at(part << 20, &zeroes).unwrap();
    }
    assert_eq!(sim.unsynced(), Unsynced { lengths: 1, names: 1, ..Unsynced::default() });
    file.sync().unwrap();
    assert_eq!(sim.used(), (1, 64 << 20));
    let mut read = vec![1; 3 << 20];
    file.read_at(61 << 20, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
}

#[test]
fn a_file_that_grows_again_has_no_old_bytes_behind_its_end() {
    // Whatever the crash leaves of a longer file, writing behind its end shows zeroes between.
    for seed in 0..100 {
        let sim = SimDisk::new(seed);
        let disk = sim.handle();
        written(&*disk, "a", &[5; 100]);
        disk.sync_dir("").unwrap();
        disk.open("a").unwrap().write_at(0, &[6; 9000]).unwrap();
        sim.crash(Crash::Power);
        let len = sim.contents("a").unwrap().len();
        let mut file = sim.handle().open("a").unwrap();
        file.write_at(10_000, &[1]).unwrap();
        let bytes = sim.contents("a").unwrap();
        assert!(bytes[len..10_000].iter().all(|byte| *byte == 0), "seed {seed}, {len} bytes left");
    }
}
