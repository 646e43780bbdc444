//! The program as its users have it: a process with flags, two lines on stdout, signals and exit
//! codes.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::{Client, wait_until};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kv-daemon");

/// A running node, killed when the test is over.
struct Process {
    child: Child,
    address: SocketAddr,
    greeting: String,
}

impl Process {
    fn start(dir: &Path) -> Process {
        let mut child = command(dir, &["--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut greeting = String::new();
        for _ in 0..2 {
            stdout.read_line(&mut greeting).expect("two lines");
        }
        let url = greeting.split("http://").nth(1).expect("a URL");
        let address = url.split(',').next().expect("an address").parse().expect("an address");
        let process = Process { child, address, greeting };
        wait_until("the node is ready", || process.ask("GET", "/readyz", b"").0 == 200);
        process
    }

    fn ask(&self, method: &str, target: &str, body: &[u8]) -> (u16, String) {
        let reply = Client::to(self.address).request(method, target, &[], body);
        (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().expect("kill is there");
        assert!(sent.success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the process ends", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().arg("--data-dir").arg(dir).args(args);
    command
}

fn run(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(dir, args).output().expect("it runs");
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_terminated_node_exits_with_0_and_goes_on_where_it_was() {
    let dir = TempDir::new().unwrap();
    for (round, signal) in ["-TERM", "-INT"].into_iter().enumerate() {
        let mut node = Process::start(dir.path());
        assert!(node.greeting.contains("try: curl -X PUT http://"), "{}", node.greeting);
        let value = format!("v{round}");
        if round == 1 {
            assert_eq!(node.ask("GET", "/kv/a", b""), (200, "v0".to_owned()));
        }
        assert!(node.ask("PUT", "/kv/a", value.as_bytes()).0 < 202);
        node.signal(signal);
        assert_eq!(node.exit_code(), Some(0), "{signal}");
    }
}

/// pitfall 32: kill -9 after the acknowledgement, n=1.
#[test]
fn pitfall_32_what_was_acknowledged_survives_a_kill() {
    let dir = TempDir::new().unwrap();
    let mut node = Process::start(dir.path());
    for at in 0..20 {
        assert_eq!(node.ask("PUT", &format!("/kv/k{at}"), b"x").0, 201);
    }
    node.signal("-KILL");
    assert_eq!(node.exit_code(), None, "it had no say");
    let node = Process::start(dir.path());
    assert!(node.ask("GET", "/kv?count", b"").1.contains("\"count\":20"));
}

#[test]
fn each_reason_not_to_start_has_its_exit_code() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, text) = run(dir.path(), &["--port", &port]);
    assert_eq!(code, Some(10), "{text}");
    assert!(text.contains(&port) && text.contains("--port"), "{text}");

    let (code, text) = run(dir.path(), &["--port", "0", "--peers", "nowhere"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("localhost:8002"), "{text}");
    assert_eq!(run(dir.path(), &["--no-such-flag"]).0, Some(2));

    let node = Process::start(dir.path());
    let (code, text) = run(dir.path(), &["--port", "0"]);
    assert_eq!(code, Some(11), "{text}");
    assert!(text.contains(&node.child.id().to_string()), "names the holder: {text}");
    drop(node);

    let (code, text) = run(dir.path(), &["--port", "0", "--id", "other"]);
    assert_eq!(code, Some(12), "{text}");
    let (code, text) = run(dir.path(), &["--port", "0", "--peers", "localhost:1"]);
    assert_eq!(code, Some(2), "a cluster of one takes no peers: {text}");

    let meta = dir.path().join("META");
    let mut bytes = Vec::new();
    std::fs::File::open(&meta).unwrap().read_to_end(&mut bytes).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&meta, bytes).unwrap();
    let (code, text) = run(dir.path(), &["--port", "0"]);
    assert_eq!(code, Some(13), "{text}");
    assert!(text.contains("META"), "names the file: {text}");
}

#[test]
fn settings_can_be_checked_without_starting() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("never-made");
    let (code, text) = run(&data, &["--id", "n7", "--check", "--peers", "localhost:8002"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("n7") && text.contains("localhost:8002"), "{text}");
    assert!(!data.exists(), "a check touches nothing");
    let (code, text) = run(&data, &["--help"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("One durable node"), "{text}");
}
