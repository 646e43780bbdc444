//! A full disk: writes are refused as `not_applied` with 507, reads go on, and writes resume
//! without a restart when there is room again.
//!
//! The node runs on a small file system in memory that only it can see, in a mount namespace of its
//! own. Where the system does not allow that, the test says so and ends.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a skipped test says so")]

mod harness;

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};

use harness::area::Area;
use harness::daemon::{Daemon, Setup};
use harness::http::{Request, Response};
use harness::wait_for;

/// Whether a namespace with a mount of its own can be had here.
fn can_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Starts a node whose data directory is a file system of `megabytes`.
fn start_on_small_disk(setup: &Setup, megabytes: u32) -> Daemon {
    fs::create_dir_all(&setup.data).expect("a folder");
    let script = format!("mount -t tmpfs -o size={megabytes}m none \"$0\" && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.arg(&setup.data);
    let program = setup.command(env!("CARGO_BIN_EXE_kv-daemon"));
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    setup.start_as(command)
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads_until_there_is_room() {
    if !can_mount() {
        eprintln!("SKIPPED: this system allows no mount namespace, so no small disk can be made");
        return;
    }
    let area = Area::new();
    let mut setup = Setup::new(area.root(), "node1", area.port());
    setup.flags = ["--segment-bytes", "1MiB"].map(str::to_owned).to_vec();
    let mut daemon = start_on_small_disk(&setup, 24);
    daemon.wait_alive();
    let put = |key: &str, value: &[u8]| -> Response {
        let target = format!("/kv/{key}");
        daemon.call(&Request::put(&target, value)).expect("it answers")
    };
    wait_for("it serves", || (put("color", b"blue").status == 201).then_some(()));

    // Something else fills the disk, seen through the node's own view of it.
    let seen = format!("/proc/{}/root{}", daemon.id(), setup.data.display());
    let filler = format!("{seen}/filler");
    let mut file = File::create(&filler).expect("the node's own view of its disk");
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let value = vec![b'x'; 64 << 10];
    let refused = wait_for("writes are refused", || {
        let response = put("fill", &value);
        assert!(matches!(response.status, 200 | 201 | 507), "{}", response.text());
        (response.status == 507).then_some(response)
    });
    assert_eq!(refused.json()["outcome"], "not_applied", "{}", refused.text());
    let acknowledged = daemon.get("/kv/fill").expect("it answers");
    assert_eq!(acknowledged.status, 200, "reads go on: {}", acknowledged.text());
    assert_eq!(daemon.get("/kv/color").expect("it answers").text(), "blue");
    assert_eq!(put("color", b"red").status, 507, "small writes are writes");
    assert_eq!(daemon.get("/livez").expect("it answers").status, 200, "it is alive");

    fs::remove_file(&filler).expect("room is made");
    wait_for("writes resume", || (put("color", b"green").status == 200).then_some(()));
    assert_eq!(daemon.get("/kv/color").expect("it answers").text(), "green");
}
