//! `kv dev`: what it starts answers, what it stops has ended, and nobody else is touched.

mod cli_common;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cli_common::{Ran, kv};
use serde_json::Value;

/// After this long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder in which something may run; stopped at the end, also when a check fails.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Folder {
        Folder { dir: tempfile::tempdir().unwrap() }
    }

    fn dev(&self, args: &[&str]) -> Ran {
        let dir = self.dir.path().join("dev");
        kv(&[&["dev"], args, &["--dir", dir.to_str().unwrap()]].concat())
    }

    /// Starts clusters and leaves them running. Their ports.
    fn up(&self, clusters: u16) -> Vec<u16> {
        let count = clusters.to_string();
        // Somebody else may take a port between our look and the start.
        let begun = Instant::now();
        loop {
            let base = free_ports(clusters).to_string();
            let args = ["up", "--detach", "-n", "1", "--clusters", &count, "--port-base", &base];
            let up = self.dev(&args);
            if up.code == Some(0) {
                assert_eq!(up.text().lines().count(), usize::from(clusters), "{up:?}");
                return (0..clusters).map(|at| base.parse::<u16>().unwrap() + at).collect();
            }
            assert!(begun.elapsed() < PATIENCE && up.err.contains("is taken"), "{up:?}");
        }
    }

    fn state(&self) -> Value {
        let text = std::fs::read(self.dir.path().join("dev/dev.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.dev(&["down"]);
    }
}

/// The first of so many free ports in a row, below the range of outgoing connections.
fn free_ports(count: u16) -> u16 {
    let random = std::process::id() as u16 ^ Instant::now().elapsed().as_nanos() as u16;
    (0..1000u16)
        .map(|step| 10_000 + (random.wrapping_mul(7).wrapping_add(step * 13)) % 20_000)
        .find(|base| {
            let ports = *base..*base + count;
            ports.into_iter().all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        })
        .expect("free ports")
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: did not come to pass");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill_9(pid: &Value) {
    let pid = pid.as_u64().expect("a process id").to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
}

fn nobody_listens(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[test]
fn what_is_put_up_answers_and_what_is_put_down_is_gone() {
    let folder = Folder::new();
    let port = folder.up(1)[0];
    let at = port.to_string();
    assert_eq!(kv(&["-p", &at, "put", "color", "blue"]).code, Some(0));
    let status = folder.dev(&["status"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(status.text().starts_with("a\ta1\t") && status.text().ends_with("\tready\n"));
    let twice = folder.dev(&["up"]);
    assert!(twice.code == Some(1) && twice.err.contains("is up already"), "{twice:?}");

    let down = folder.dev(&["down"]);
    assert_eq!(down.code, Some(0));
    assert!(down.err.contains("stopped") && down.err.contains("a1"), "{down:?}");
    assert!(nobody_listens(port));
    assert_eq!(folder.dev(&["status"]).code, Some(3));
    assert_eq!(folder.dev(&["down"]).code, Some(0), "twice is no error");
    assert!(folder.state()["supervisor"].is_null());

    // The same folder goes on with its data, on its ports.
    let again = folder.dev(&["up", "--detach"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(kv(&["-p", &at, "get", "color"]).text(), "blue");
    let other = folder.dev(&["up", "-n", "3"]);
    assert_ne!(other.code, Some(0), "{other:?}");
}

#[test]
fn nodes_end_with_the_one_that_started_them_even_when_it_is_killed() {
    let folder = Folder::new();
    let port = folder.up(1)[0];
    kill_9(&folder.state()["supervisor"]["pid"]);
    wait_until("the node ends", || nobody_listens(port));
    wait_until("it is told so", || folder.dev(&["status"]).code == Some(3));
    let log = std::fs::read_to_string(folder.dir.path().join("dev/log")).unwrap();
    assert!(
        log.lines().all(|line| line.starts_with("a1  | ") || line.starts_with("dev | ")),
        "{log}"
    );
}

/// A process id in the file is not enough: whoever has it now may be somebody else.
#[test]
fn a_stranger_with_the_same_process_id_is_left_alone() {
    let folder = Folder::new();
    folder.up(1);
    folder.dev(&["down"]);
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let path = folder.dir.path().join("dev/dev.json");
    let mut state = folder.state();
    let process = serde_json::json!({"pid": stranger.id(), "started": "at another time"});
    state["supervisor"] = process.clone();
    state["nodes"]["a1"] = process;
    std::fs::write(&path, state.to_string()).unwrap();
    let down = folder.dev(&["down"]);
    assert!(down.err.contains("nothing runs"), "{down:?}");
    assert!(stranger.try_wait().unwrap().is_none(), "it still runs");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_taken_port_is_named() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let up = folder.dev(&["up", "-n", "1", "--port-base", &port]);
    assert_eq!(up.code, Some(1));
    assert!(up.err.contains(&format!("port {port} is taken")), "{up:?}");
    assert!(!Path::new(&folder.dir.path().join("dev/dev.json")).exists(), "nothing was started");
}
