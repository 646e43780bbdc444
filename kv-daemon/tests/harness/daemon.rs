//! One `kv-daemon` process: its command line, its signals, what it prints and how it ends.
//!
//! It signals exactly the process it started, by its id, and never leaves one behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use super::http::{Failed, Request, Response, once};
use super::wait_for;

/// What a node is started with. The same setup starts it again.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `--id`.
    pub name: String,
    /// `--port`.
    pub port: u16,
    /// `--peers`; empty: the flag is left out.
    pub peers: Vec<String>,
    /// `--data-dir`. Beside it, as `<data>.stderr` and `<data>.stdout`, stands what it prints.
    pub data: PathBuf,
    /// Further flags.
    pub flags: Vec<String>,
}

/// A process that was started. Dropped, it is killed; on a failed test its log is printed.
pub struct Daemon {
    child: Child,
    setup: Setup,
    /// Where in its files this start begins; earlier starts wrote what stands before.
    stderr_from: u64,
    stdout_from: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By a signal.
    Signal,
}

impl Setup {
    /// A node called `name` with its data below `root`, on its own.
    pub fn new(root: &Path, name: &str, port: u16) -> Setup {
        Setup {
            name: name.to_owned(),
            port,
            peers: Vec::new(),
            data: root.join(name),
            flags: Vec::new(),
        }
    }

    /// Its address as peers are told.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The whole command line, with nothing taken from the environment but `RUST_LOG`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KV_") {
                command.env_remove(name);
            }
        }
        command.args(["--id", &self.name, "--port", &self.port.to_string(), "--data-dir"]);
        command.arg(&self.data);
        if !self.peers.is_empty() {
            command.args(["--peers", &self.peers.join(",")]);
        }
        command.args(&self.flags);
        command
    }

    /// Starts it.
    pub fn start(&self) -> Daemon {
        self.start_as(self.command(env!("CARGO_BIN_EXE_kv-daemon")))
    }

    /// Starts this command in place of the plain one.
    pub fn start_as(&self, mut command: Command) -> Daemon {
        let open = |end: &str| {
            let path = self.data.with_extension(end);
            let file = File::options().create(true).append(true).open(path).expect("a log file");
            let from = file.metadata().expect("a log file has a length").len();
            (file, from)
        };
        let (stderr, stderr_from) = open("stderr");
        let (stdout, stdout_from) = open("stdout");
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().expect("the program starts");
        Daemon { child, setup: self.clone(), stderr_from, stdout_from }
    }

    /// Starts it and waits until it ends by itself.
    pub fn run(&self) -> (Exit, Daemon) {
        let mut daemon = self.start();
        (daemon.wait(), daemon)
    }
}

impl Daemon {
    /// What it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. A process that has ended is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill_process(Pid::from_child(&self.child), signal).expect("signalling our own child");
        }
    }

    /// SIGSTOP, and waits until each of its threads stands still: on a busy machine that takes a
    /// while, in which it still answers.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        let id = WaitId::Pid(Pid::from_child(&self.child));
        let what = format!("{} stands still", self.setup.name);
        wait_for(&what, || {
            let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
            waitid(id.clone(), options).expect("our own child can be waited for")
        });
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// SIGTERM, and waits until it is gone. How it ended, and how long that took.
    pub fn terminate(&mut self) -> (Exit, Duration) {
        let begin = Instant::now();
        self.signal(Signal::TERM);
        (self.wait(), begin.elapsed())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Exit> {
        let status = self.child.try_wait().expect("our own child can be waited for")?;
        Some(status.code().map_or(Exit::Signal, Exit::Code))
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> Exit {
        let what = format!("{} (process {}) ends", self.setup.name, self.id());
        wait_for(&what, || self.ended())
    }

    /// Waits until it answers `/livez`: it listens, whether or not it belongs to a cluster.
    pub fn wait_alive(&mut self) {
        let what = format!("{} answers /livez", self.setup.name);
        wait_for(&what, || {
            if let Some(exit) = self.ended() {
                panic!("{} ended with {exit:?}:\n{}", self.setup.name, self.stderr());
            }
            self.get("/livez").ok().filter(|response| response.status == 200)
        });
    }

    /// One request on a connection of its own.
    pub fn call(&self, request: &Request<'_>) -> Result<Response, Failed> {
        once(self.setup.port, request)
    }

    /// `GET target` on a connection of its own.
    pub fn get(&self, target: &str) -> Result<Response, Failed> {
        self.call(&Request::get(target))
    }

    /// What `/health` says, whatever its status; `None` while nobody answers.
    pub fn health(&self) -> Option<Value> {
        self.get("/health").ok().map(|response| response.json()).filter(Value::is_object)
    }

    /// What this start wrote to stderr: the log.
    pub fn stderr(&self) -> String {
        self.printed("stderr", self.stderr_from)
    }

    /// What this start wrote to stdout.
    pub fn stdout(&self) -> String {
        self.printed("stdout", self.stdout_from)
    }

    /// Waits until its log holds this.
    pub fn wait_log(&self, part: &str) {
        let what = format!("the log of {} says {part:?}", self.setup.name);
        wait_for(&what, || self.stderr().contains(part).then_some(()));
    }

    fn printed(&self, end: &str, from: u64) -> String {
        let bytes = fs::read(self.setup.data.with_extension(end)).expect("the log file we made");
        String::from_utf8_lossy(&bytes[from as usize..]).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing here may panic: a failed test is unwinding.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.stderr();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(120)..];
            eprintln!("---- the end of the log of {} ----\n{}", self.setup.name, tail.join("\n"));
        }
    }
}
