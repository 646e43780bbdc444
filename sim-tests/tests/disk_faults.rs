//! Every fault of the simulated disk does what it says, and the same seed does the same.

use std::io::ErrorKind;
use std::time::Duration;

use raft_core::storage::disk::DiskFile;
use sim_tests::disk::{Crash, SECTOR_BYTES, SimDisk, Unsynced};
use sim_tests::plan::{DiskFault, DiskPace, Place, Rot};
use sim_tests::rng::Rng;

const SECTOR: usize = SECTOR_BYTES;

/// A file of so many bytes of ones, durable.
fn file_of_ones(sim: &SimDisk, len: usize) -> Box<dyn DiskFile> {
    let disk = sim.handle();
    let mut file = disk.create("a").unwrap();
    file.write_at(0, &vec![1; len]).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file
}

#[test]
fn an_armed_fault_strikes_once_and_after_its_count() {
    let sim = SimDisk::new(1);
    let mut file = file_of_ones(&sim, 512);
    sim.inject(DiskFault::ReadError { after: 1 });
    sim.inject(DiskFault::WriteError { after: 2 });
    sim.inject(DiskFault::SyncError { after: 0 });
    let reads: Vec<bool> = (0..4).map(|_| file.read_at(0, &mut [0]).is_ok()).collect();
    let writes: Vec<bool> = (0..4).map(|_| file.write_at(0, &[1]).is_ok()).collect();
    let syncs: Vec<bool> = (0..2).map(|_| file.sync().is_ok()).collect();
    assert_eq!(reads, [true, false, true, true]);
    assert_eq!(writes, [true, true, false, true]);
    assert_eq!(syncs, [false, true]);
    let counts = sim.counts();
    assert_eq!((counts.read_errors, counts.write_errors, counts.sync_errors), (1, 1, 1));

    sim.inject(DiskFault::ReadError { after: 0 });
    assert!(sim.handle().list("").is_err(), "reading a folder is reading");
    sim.inject(DiskFault::ReadError { after: 0 });
    sim.heal();
    file.read_at(0, &mut [0]).unwrap();
}

#[test]
fn a_write_that_fails_writes_nothing_and_a_short_one_only_whole_sectors() {
    let mut lengths = [0; 4];
    for seed in 0..100 {
        let sim = SimDisk::new(seed);
        let mut file = file_of_ones(&sim, 8 * SECTOR);
        sim.inject(DiskFault::WriteError { after: 0 });
        file.write_at(0, &[2; 2 * SECTOR]).unwrap_err();
        assert_eq!(sim.contents("a").unwrap(), [1; 8 * SECTOR]);

        sim.inject(DiskFault::ShortWrite { after: 0 });
        file.write_at(0, &[2; 4 * SECTOR - 7]).unwrap_err();
        let bytes = sim.contents("a").unwrap();
        let written = bytes.iter().take_while(|byte| **byte == 2).count();
        assert_eq!(written % SECTOR, 0);
        assert!(bytes[written..].iter().all(|byte| *byte == 1));
        lengths[written / SECTOR] += 1;
    }
    assert!(lengths.iter().all(|count| 0 < *count), "{lengths:?}");
}

#[test]
fn what_a_failed_sync_gave_up_reads_as_written_and_no_later_sync_saves_it() {
    let mut survived = 0;
    for seed in 0..200 {
        let sim = SimDisk::new(seed);
        let mut file = file_of_ones(&sim, 4 * SECTOR);
        file.write_at(0, &[2; SECTOR]).unwrap();
        sim.inject(DiskFault::SyncError { after: 0 });
        file.sync().unwrap_err();
        file.write_at(2 * SECTOR as u64, &[3; SECTOR]).unwrap();
        file.sync().unwrap();
        assert_eq!(sim.unsynced(), Unsynced { forgotten: 1, ..Unsynced::default() });
        assert_eq!(sim.contents("a").unwrap()[..SECTOR], [2; SECTOR]);
        assert_eq!(sim.durable_image().contents("a").unwrap()[..SECTOR], [1; SECTOR]);

        sim.crash(Crash::Power);
        let bytes = sim.contents("a").unwrap();
        assert_eq!(bytes[2 * SECTOR..3 * SECTOR], [3; SECTOR], "this sync did succeed");
        survived += usize::from(bytes[0] == 2);
    }
    assert!((1..100).contains(&survived), "lost as a rule, not always: {survived} of 200 survived");
}

#[test]
fn after_a_failed_sync_a_new_process_may_or_may_not_see_the_bytes() {
    let mut seen = 0;
    for seed in 0..100 {
        let sim = SimDisk::new(seed);
        let mut file = file_of_ones(&sim, SECTOR);
        file.write_at(0, &[2; SECTOR]).unwrap();
        sim.inject(DiskFault::SyncError { after: 0 });
        file.sync().unwrap_err();
        sim.crash(Crash::Process);
        let still_there = sim.contents("a").unwrap() == [2; SECTOR];
        seen += usize::from(still_there);
        assert_eq!(sim.unsynced().forgotten, usize::from(still_there));
    }
    assert!((30..70).contains(&seen), "{seen}");
}

#[test]
fn writing_the_same_bytes_again_makes_a_given_up_sector_durable() {
    let sim = SimDisk::new(1);
    let mut file = file_of_ones(&sim, SECTOR);
    file.write_at(0, &[2; SECTOR]).unwrap();
    sim.inject(DiskFault::SyncError { after: 0 });
    file.sync().unwrap_err();
    file.write_at(0, &[2; SECTOR]).unwrap();
    file.sync().unwrap();
    assert_eq!(sim.durable_image().contents("a").unwrap(), [2; SECTOR]);
}

#[test]
fn a_full_disk_refuses_what_needs_room_and_nothing_else() {
    let sim = SimDisk::new(1);
    let mut file = file_of_ones(&sim, 1000);
    let disk = sim.handle();
    sim.set_full(true);
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
    };
    refused(disk.create("b").map(drop));
    refused(disk.rename("a", "b"));
    refused(disk.create_dir("wal"));
    refused(file.write_at(900, &[2; 200]));
    assert_eq!(file.len().unwrap(), 1000);
    assert_eq!(sim.contents("a").unwrap()[899..1000], [&[1][..], &[2; 100]].concat());
    file.write_at(500, &[3; 500]).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    disk.remove("a").unwrap();
    assert_eq!(sim.counts().refused_for_room, 4);
    sim.set_full(false);
    disk.create("b").unwrap();
}

#[test]
fn a_fuse_lets_so_many_changes_through_and_then_nothing() {
    let sim = SimDisk::new(1);
    let mut file = file_of_ones(&sim, 512);
    sim.set_fuse(Some(2));
    file.read_at(0, &mut [0]).unwrap();
    file.write_at(0, &[2]).unwrap();
    assert!(!sim.fuse_blown());
    file.sync().unwrap();
    // Burnt down, but nobody has noticed yet.
    assert!(!sim.fuse_blown());
    file.write_at(0, &[3]).unwrap_err();
    assert!(sim.fuse_blown());
    file.read_at(0, &mut [0]).unwrap_err();
    assert_eq!(sim.contents("a").unwrap()[0], 2);
    sim.crash(Crash::Power);
    assert!(!sim.fuse_blown());
    sim.handle().open("a").unwrap().write_at(0, &[3]).unwrap();
}

#[test]
fn calls_take_as_long_as_the_pace_says_and_longer_when_slow() {
    let sim = SimDisk::new(1);
    let (sync_min, sync_max) = (Duration::from_micros(100), Duration::from_millis(100));
    sim.set_pace(DiskPace { sync_min, sync_max });
    let times: Vec<Duration> = (0..1000).map(|_| sim.next_call_takes()).collect();
    assert!(times.iter().all(|time| (sync_min..=sync_max).contains(time)));
    // Each order of magnitude is as likely as the next.
    let short = times.iter().filter(|time| **time < Duration::from_millis(1)).count();
    assert!((250..420).contains(&short), "{short}");
    sim.set_slow(Duration::from_secs(1));
    assert!(Duration::from_secs(1) <= sim.next_call_takes());
    sim.heal();
    assert!(sim.next_call_takes() <= sync_max);
}

#[test]
fn a_wiped_disk_is_empty_and_its_process_is_dead() {
    let sim = SimDisk::new(1);
    let mut file = file_of_ones(&sim, 512);
    let disk = sim.handle();
    let _lock = disk.lock("LOCK", "1").unwrap();
    sim.wipe();
    assert!(file.sync().is_err() && disk.create("b").is_err());
    assert!(sim.paths().is_empty() && sim.durable_image().paths().is_empty());
    let _lock = sim.handle().lock("LOCK", "2").unwrap();
    sim.handle().create("a").unwrap();
}

#[test]
fn only_a_crash_that_may_damage_leaves_bytes_that_nobody_wrote() {
    let (mut cut, mut garbage) = ([0, 0], [0, 0]);
    for seed in 0..300 {
        for (number, crash) in [Crash::Power, Crash::PowerAndDamage].into_iter().enumerate() {
            let sim = SimDisk::new(seed);
            let mut file = file_of_ones(&sim, 32 * SECTOR);
            file.write_at(0, &[2; 32 * SECTOR]).unwrap();
            let aftermath = sim.crash(crash);
            let bytes = sim.contents("a").unwrap();
            let sectors: Vec<&[u8]> = bytes.chunks(SECTOR).collect();
            let whole = |byte| sectors.iter().filter(|it| it.iter().all(|b| *b == byte)).count();
            assert_eq!(whole(1) as u64, aftermath.sectors_dropped);
            assert_eq!(whole(2) as u64, aftermath.sectors_kept);
            let mixed = |sector: &&&[u8]| sector.iter().all(|byte| [1, 2].contains(byte));
            let mixtures = sectors.iter().filter(mixed).count() - whole(1) - whole(2);
            assert_eq!(mixtures as u64, aftermath.sectors_cut);
            if aftermath.sectors_cut + aftermath.sectors_garbage == 0 {
                assert!(!aftermath.damage);
            }
            if crash == Crash::Power {
                // Torn inside a sector only where a whole sector is missing as well.
                assert!(!aftermath.damage);
                assert!(aftermath.sectors_cut == 0 || 0 < aftermath.sectors_dropped);
                let heads = sectors.iter().step_by(8);
                assert!(heads.into_iter().all(|it| it.iter().all(|byte| *byte == it[0])));
            }
            cut[number] += aftermath.sectors_cut;
            garbage[number] += aftermath.sectors_garbage;
        }
    }
    assert!(100 < cut[0] && 100 < cut[1], "{cut:?}");
    assert!(garbage[0] == 0 && 100 < garbage[1], "{garbage:?}");
}

/// A process that does this and that, and crashes now and then.
fn wander(seed: u64, sim: &SimDisk, what: u64) {
    let mut rng = Rng::stream(what, "what the process does", 0);
    let mut disk = sim.handle();
    disk.create_dir("wal").unwrap();
    for step in 0..200 {
        let path = format!("wal/{}", rng.below(4));
        match rng.below(10) {
            0 => drop(disk.create(&path)),
            1 => drop(disk.remove(&path)),
            2 => drop(disk.rename(&path, &format!("wal/{}", rng.below(4)))),
            3 => drop(disk.sync_dir(["", "wal"][rng.below(2) as usize])),
            4 => {
                sim.crash([Crash::Process, Crash::Power, Crash::PowerAndDamage][step % 3]);
                disk = sim.handle();
                drop(disk.create_dir("wal"));
            }
            5 => sim.inject(DiskFault::SyncError { after: rng.below(5) as u32 }),
            6 => sim.inject(DiskFault::ShortWrite { after: rng.below(5) as u32 }),
            _ => {
                let bytes = vec![(seed + step as u64) as u8; rng.below(6000) as usize];
                if let Ok(mut file) = disk.open(&path) {
                    let _ = file.write_at(rng.below(20_000), &bytes);
                    if rng.coin() {
                        let _ = file.sync();
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let run = |seed: u64, what| {
        let sim = SimDisk::new(seed);
        wander(0, &sim, what);
        sim
    };
    let mut different = 0;
    for seed in 0..20 {
        let (one, two) = (run(seed, 7), run(seed, 7));
        assert_eq!(one.digest(), two.digest());
        assert_eq!(one.counts(), two.counts());
        assert_eq!(one.paths(), two.paths());
        for path in one.paths() {
            assert_eq!(one.contents(&path), two.contents(&path));
        }
        different += usize::from(one.digest() != run(seed + 100, 7).digest());
    }
    assert_eq!(different, 20);
}

#[test]
fn a_digest_knows_what_is_durable_from_what_is_not() {
    let sim = SimDisk::new(1);
    let mut file = file_of_ones(&sim, 512);
    let before = sim.digest();
    file.write_at(0, &[2]).unwrap();
    let written = sim.digest();
    assert_ne!(before, written);
    file.sync().unwrap();
    assert_ne!(sim.digest(), written);
}

#[test]
fn whatever_happens_the_image_is_what_a_harsh_crash_would_leave() {
    for seed in 0..100 {
        let sim = SimDisk::new(seed);
        wander(seed, &sim, seed);
        let image = sim.durable_image();
        assert_eq!(image.unsynced(), Unsynced::default());
        assert_eq!(image.durable_image().paths(), image.paths());
        // A disk with nothing unsynced comes through any crash unchanged.
        let paths = image.paths();
        let contents: Vec<_> = paths.iter().map(|path| image.contents(path)).collect();
        assert!(!image.crash(Crash::PowerAndDamage).lost_anything());
        assert_eq!(image.paths(), paths);
        let after: Vec<_> = paths.iter().map(|path| image.contents(path)).collect();
        assert!(contents == after, "seed {seed}");
    }
}

#[test]
fn a_stale_sector_has_its_bytes_of_before_and_a_file_rots_once() {
    for seed in 0..20 {
        let sim = SimDisk::new(seed);
        let disk = sim.handle();
        disk.create_dir("snap").unwrap();
        disk.sync_dir("").unwrap();
        let mut file = disk.create("snap/1-1.snap").unwrap();
        file.write_at(0, &[1; SECTOR]).unwrap();
        file.sync().unwrap();
        file.write_at(0, &[2; SECTOR]).unwrap();
        file.sync().unwrap();
        assert_eq!(sim.rot(Rot::Stale, Place::Snapshot), None, "its name is not durable");
        disk.sync_dir("snap").unwrap();

        assert_eq!(sim.rot(Rot::Stale, Place::Wal), None);
        let rotten = sim.rot(Rot::Stale, Place::Snapshot).unwrap();
        assert_eq!((&*rotten.path, rotten.offset), ("snap/1-1.snap", 0));
        assert_eq!(sim.contents("snap/1-1.snap").unwrap(), [1; SECTOR]);
        // A crash that leaves the file changed does not make it sound.
        file.write_at(SECTOR as u64, &[3; SECTOR]).unwrap();
        sim.crash(Crash::Power);
        assert_eq!(sim.rot(Rot::Flip, Place::Snapshot), None);
        assert_eq!(sim.counts().rotten, 1);
    }
}
