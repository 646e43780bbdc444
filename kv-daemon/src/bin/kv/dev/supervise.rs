//! The nodes as child processes: started, listened to, stopped. What they say goes to one log, each
//! line with its node's name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::layout::{Cluster, Layout, Node};
use super::process::Process;
use crate::exit::Failed;
use crate::serve::UNTIL_EOF;

/// How long nodes may take to stop by themselves; they promise 5 s.
const STOPPING: Duration = Duration::from_secs(10);

/// How often children are looked at.
pub const LOOK: Duration = Duration::from_millis(50);

/// What all nodes say: into a file, and to the terminal if that is wished.
#[derive(Clone)]
pub struct Log {
    file: Arc<Mutex<File>>,
    aloud: bool,
}

impl Log {
    /// A new log in the folder, in place of that of the last time.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(dir: &Path, aloud: bool) -> Result<Log, Failed> {
        let path = dir.join("log");
        let file = File::create(&path)
            .map_err(|error| Failed::other(format!("{}: {error}", path.display())))?;
        Ok(Log { file: Arc::new(Mutex::new(file)), aloud })
    }

    /// One more line.
    pub fn line(&self, name: &str, text: &str) {
        let line = format!("{name:3} | {text}\n");
        // A log that cannot be written is no reason to stop the nodes.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(line.as_bytes());
        if self.aloud {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    /// Takes down all that comes, on a thread of its own.
    fn follow(&self, name: &str, from: impl Read + Send + 'static) {
        let (log, name) = (self.clone(), name.to_owned());
        std::thread::spawn(move || {
            let mut lines = BufReader::new(from);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|read| 0 < read) {
                log.line(&name, String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        });
    }
}

/// A node that was started.
pub struct Running {
    /// Its name.
    pub name: String,
    /// Its process.
    pub process: Process,
    child: Child,
    ended: Option<ExitStatus>,
}

/// Starts a node.
///
/// # Errors
/// This executable cannot be started once more.
pub fn start(
    layout: &Layout,
    cluster: &Cluster,
    node: &Node,
    dir: &Path,
    log: &Log,
) -> Result<Running, Failed> {
    use std::os::unix::process::CommandExt;

    let failed = |error: io::Error| Failed::other(format!("cannot start {}: {error}", node.name));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KV_"))
    {
        command.env_remove(name);
    }
    command
        .args(layout.arguments(cluster, node, dir))
        .env(UNTIL_EOF, "1")
        // The other end is open as long as this process is there: then the node ends too.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for us alone; we stop the nodes in order.
        .process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
        log.follow(&node.name, out);
        log.follow(&node.name, err);
    }
    let process = Process::of(child.id());
    let process = process.ok_or_else(|| failed(io::Error::other("it ended at once")))?;
    Ok(Running { name: node.name.clone(), process, child, ended: None })
}

impl Running {
    /// How it ended, if it has; told once.
    pub fn has_ended(&mut self) -> Option<String> {
        if self.ended.is_some() {
            return None;
        }
        self.ended = self.child.try_wait().ok().flatten();
        self.ended.map(|status| format!("{} ended: {status}", self.name))
    }

    /// Whether it runs, as far as was seen.
    pub fn runs(&self) -> bool {
        self.ended.is_none()
    }
}

/// Stops all of them: asks, waits, and ends those that do not. `hurry`: does not wait.
pub async fn stop(nodes: &mut [Running], log: &Log, hurry: impl Future<Output = ()>) {
    for node in nodes.iter().filter(|node| node.runs()) {
        node.process.terminate();
    }
    let all_ended = async {
        let end = Instant::now() + STOPPING;
        while nodes.iter().any(Running::runs) && Instant::now() < end {
            for node in nodes.iter_mut() {
                if let Some(how) = node.has_ended() {
                    log.line("dev", &how);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = all_ended => {}
        () = hurry => {}
    }
    for node in nodes.iter_mut().filter(|node| node.runs()) {
        log.line("dev", &format!("{} does not stop: killed", node.name));
        node.process.kill();
        node.ended = node.child.wait().ok();
    }
}
