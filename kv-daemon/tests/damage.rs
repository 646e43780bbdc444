//! Spoiled logs: damage to what was acknowledged ends the start with exit code 13, is named with
//! file and offset, and changes not one byte; a torn tail is trimmed and the node starts.
//!
//! The bytes are those of `docs/disk-format.md`.

mod harness;

use harness::area::Area;
use harness::daemon::{Daemon, Exit, Setup};
use harness::files::{PAGE, Place, SECTOR, contents, find_in_log};
use harness::http::Request;
use harness::wait_for;

/// A value of several sectors without a zero byte, that stands nowhere else.
fn value(salt: u8) -> Vec<u8> {
    let noise = |i: usize| (i * 31 + i / 251 * 7 + usize::from(salt) * 101) as u8 | 1;
    (0..6000).map(noise).collect()
}

fn put(daemon: &Daemon, key: &str, value: &[u8]) {
    let target = format!("/kv/{key}");
    wait_for("the write is done", || {
        let response = daemon.call(&Request::put(&target, value)).ok()?;
        assert!(matches!(response.status, 200 | 201 | 503), "{}", response.text());
        (response.status != 503).then_some(())
    });
}

fn get(daemon: &Daemon, key: &str) -> Option<Vec<u8>> {
    let target = format!("/kv/{key}");
    let response = wait_for("the read is done", || {
        daemon.get(&target).ok().filter(|response| matches!(response.status, 200 | 404))
    });
    (response.status == 200).then_some(response.body)
}

/// A node alone that has acknowledged `first`, `second` and `third` and was then killed.
fn killed(area: &Area) -> Setup {
    let mut daemon = Setup::new(area.root(), "node1", area.port()).start();
    daemon.wait_alive();
    put(&daemon, "first", &value(1));
    put(&daemon, "second", &value(2));
    put(&daemon, "third", &value(3));
    daemon.kill();
    daemon.setup().clone()
}

/// It ends with 13, names the file and a place in the batch that holds `spoiled`, and leaves every
/// byte as it was; and so it does again.
fn reports_damage(setup: &Setup, spoiled: &Place) {
    let before = contents(&setup.data);
    for attempt in 1..=2 {
        let (exit, daemon) = setup.run();
        let said = daemon.stderr();
        assert_eq!(exit, Exit::Code(13), "attempt {attempt}: {said}");
        assert!(said.contains(&spoiled.name()), "the file is named: {said}");
        let named = numbers(&said);
        let near = |offset: &u64| offset.abs_diff(spoiled.offset) <= 2 * PAGE;
        assert!(named.iter().any(near), "an offset near {} is named: {said}", spoiled.offset);
        assert_eq!(before, contents(&setup.data), "attempt {attempt} changed something on disk");
    }
}

/// Every number in a text.
fn numbers(text: &str) -> Vec<u64> {
    let words = text.split(|byte: char| !byte.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// pitfall 49: a bit that turned in an acknowledged record followed by others is no torn tail.
#[test]
fn pitfall_49_a_flipped_bit_in_the_middle_is_damage() {
    let area = Area::new();
    let setup = killed(&area);
    let spoiled = find_in_log(&setup.data, &value(2)).plus(3000);
    spoiled.flip();
    reports_damage(&setup, &spoiled);
    spoiled.flip();
    let mut daemon = setup.start();
    daemon.wait_alive();
    assert_eq!(get(&daemon, "second"), Some(value(2)), "the bit turned back, all is well again");
}

/// The very last record: acknowledged as much as the others. It holds no sector that was never
/// written, so it cannot have been torn.
#[test]
fn pitfall_49_a_flipped_bit_in_the_last_record_is_damage() {
    let area = Area::new();
    let setup = killed(&area);
    let spoiled = find_in_log(&setup.data, &value(3)).plus(3000);
    spoiled.flip();
    reports_damage(&setup, &spoiled);
}

#[test]
fn pitfall_49_a_sector_zeroed_in_the_middle_is_damage() {
    let area = Area::new();
    let setup = killed(&area);
    let spoiled = find_in_log(&setup.data, &value(2)).plus(1000).up_to(SECTOR);
    spoiled.zero(SECTOR);
    reports_damage(&setup, &spoiled);
}

/// A copy that ended early, a file system repaired badly.
#[test]
fn pitfall_49_a_log_cut_short_inside_acknowledged_bytes_is_damage() {
    let area = Area::new();
    let setup = killed(&area);
    let spoiled = find_in_log(&setup.data, &value(2)).plus(3000);
    spoiled.cut();
    let before = contents(&setup.data);
    let (exit, daemon) = setup.run();
    let said = daemon.stderr();
    assert_eq!(exit, Exit::Code(13), "{said}");
    assert!(said.contains(&spoiled.name()), "{said}");
    assert_eq!(before, contents(&setup.data), "something on disk was changed");
}

#[test]
fn a_log_that_is_gone_is_damage_and_not_a_fresh_start() {
    let area = Area::new();
    let setup = killed(&area);
    std::fs::remove_dir_all(setup.data.join("wal")).expect("the log goes");
    let (exit, daemon) = setup.run();
    assert_eq!(exit, Exit::Code(13), "{}", daemon.stderr());
}

#[test]
fn a_lost_identity_is_not_guessed_anew() {
    let area = Area::new();
    let setup = killed(&area);
    std::fs::remove_file(setup.data.join("META")).expect("META goes");
    let before = contents(&setup.data);
    let (exit, daemon) = setup.run();
    assert_eq!(exit, Exit::Code(13), "{}", daemon.stderr());
    assert_eq!(before, contents(&setup.data), "something on disk was changed");
}

/// pitfall 48: the power went while the last batch was being written: some of its sectors arrived,
/// one did not, and nothing after it was ever begun. It was not acknowledged; it is trimmed.
#[test]
fn pitfall_48_a_torn_last_batch_is_trimmed_and_the_node_starts() {
    for missing in [0, 1000, 4000] {
        let area = Area::new();
        let setup = killed(&area);
        let last = find_in_log(&setup.data, &value(3));
        last.plus(6000).up_to(PAGE).zero_rest();
        last.plus(missing).up_to(SECTOR).zero(SECTOR);

        let mut daemon = setup.start();
        daemon.wait_alive();
        assert_eq!(get(&daemon, "first"), Some(value(1)));
        assert_eq!(get(&daemon, "second"), Some(value(2)));
        assert_eq!(get(&daemon, "third"), None, "half of it is none of it");
        put(&daemon, "third", &value(4));
        daemon.kill();

        let mut daemon = setup.start();
        daemon.wait_alive();
        assert_eq!(get(&daemon, "second"), Some(value(2)));
        assert_eq!(get(&daemon, "third"), Some(value(4)), "what followed the trimming is kept");
    }
}
