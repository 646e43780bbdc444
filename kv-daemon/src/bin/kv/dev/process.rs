//! A process by its id and the moment it began: an id alone may be another's by now, and nobody's
//! process but ours is ever signalled.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it began, as the system tells it; equal for one process only.
    started: String,
}

impl Process {
    /// The process of this id that runs now; `None` when there is none.
    pub fn of(pid: u32) -> Option<Process> {
        started(pid).map(|started| Process { pid, started })
    }

    /// Whether this very process still runs.
    pub fn runs(&self) -> bool {
        started(self.pid).is_some_and(|started| started == self.started)
    }

    /// Asks it to stop. One that has ended is left alone, whoever has its id now.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it on the spot.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.runs()) {
            // It may end between the look and the signal: then there is nobody to be told.
            let _ = kill_process(pid, signal);
        }
    }
}

/// When a process began; `None` when it has ended, also when nobody has asked for its end yet.
fn started(pid: u32) -> Option<String> {
    let Ok(boot) = fs::read_to_string("/proc/sys/kernel/random/boot_id") else {
        return told_by_ps(pid);
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the state and 19 fields later the start follow it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ended = matches!(fields.first(), Some(&"Z" | &"X"));
    let ticks = fields.get(19).filter(|_| !ended)?;
    Some(format!("{} {ticks}", boot.trim()))
}

/// Where there is no `/proc`.
fn told_by_ps(pid: u32) -> Option<String> {
    let output =
        Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_beginning() {
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.runs());
        let another = Process { started: "long ago".to_owned(), ..me };
        assert!(!another.runs());
        another.kill();
    }

    #[test]
    fn an_ended_process_does_not_run_even_before_it_is_waited_for() {
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        process.kill();
        while process.runs() {
            std::thread::yield_now();
        }
        assert_eq!(Process::of(child.id()), None);
        child.wait().unwrap();
    }
}
