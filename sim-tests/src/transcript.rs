//! The transcript: a run as lines, fact -> decision, in the notation of the project.

use std::io::{self, Write};

use raft_core::types::Time;

use crate::app::App;
use crate::trace::{OpEnd, Seen, Violation, Watch};
use crate::world::View;

/// Prints what happens to standard output, as it happens.
#[derive(Debug, Default)]
pub struct Transcript {}

impl<A: App> Watch<A> for Transcript {
    fn see(&mut self, now: Time, seen: &Seen<'_, A>, view: &View<'_, A>) -> Result<(), Violation> {
        if let Some(line) = line(seen, view) {
            let (seconds, micros) = (now.0 / 1_000_000_000, now.0 / 1_000 % 1_000_000);
            // Who reads the transcript may have seen enough: a closed pipe is no failure of the run.
            let _ = writeln!(io::stdout().lock(), "{seconds:4}.{micros:06} {line}");
        }
        Ok(())
    }
}

/// What the library logs: a transcript tells that too.
struct LibraryLog {
    prints: bool,
}

/// From now on the library's log is put into words, and printed among the lines of the transcript if
/// it is `printed`. Once for a process.
pub fn hear_library_log(printed: bool) {
    let log = Box::leak(Box::new(LibraryLog { prints: printed }));
    if log::set_logger(log).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}

impl log::Log for LibraryLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        if self.prints {
            let _ = writeln!(io::stdout().lock(), "            {}: {line}", record.level());
        }
    }

    fn flush(&self) {}
}

/// The line of a fact; `None` for what other lines tell better.
pub fn line<A: App>(seen: &Seen<'_, A>, view: &View<'_, A>) -> Option<String> {
    Some(match seen {
        Seen::Started { machine, node, recovered: None } => {
            format!("{machine} starts as {node}, fresh")
        }
        Seen::Started { machine, node, recovered: Some(it) } => {
            let last = it.entries.last().map_or(it.log_start, |entry| entry.position);
            let snapshot = it
                .snapshot
                .as_ref()
                .map_or_else(String::new, |meta| format!(", snapshot {}", meta.position));
            let term = it.hard_state.term;
            format!("{machine} starts as {node}@{term} with log {}..{last}{snapshot}", it.log_start)
        }
        Seen::Formed { machine, cluster } => format!("{machine} is formed, cluster {cluster}"),
        Seen::Crashed { machine } => format!("{machine} CRASHES"),
        Seen::Exited { machine, exit } => format!("{machine} exits: {exit:?}"),
        Seen::Paused { machine, still: true } => format!("{machine} stands still"),
        Seen::Paused { machine, still: false } => format!("{machine} moves again"),
        Seen::TakenIn { .. } | Seen::Stepped { .. } => return None,
        Seen::WriteIssued { machine, write } => {
            let mut text = format!("{machine} writes w{}", write.id.0);
            if let Some(hard_state) = &write.hard_state {
                text += &format!(" term {} vote {:?}", hard_state.term, hard_state.vote);
            }
            if let Some(from) = write.truncate_from {
                text += &format!(" cut from {from}");
            }
            if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
                text += &format!(" append {first}..{last}");
            }
            for operation in &write.snapshots {
                text += &format!(" {}", words_of(operation));
            }
            text
        }
        Seen::Persisted { machine, through, .. } => {
            format!("{machine} has synced w{}", through.0)
        }
        Seen::Applied { machine, at, .. } => format!("{machine} applies {at}"),
        Seen::Restored { machine, meta, .. } => {
            format!("{machine} has restored snapshot {}", meta.position)
        }
        Seen::Note { note, .. } => note.text.clone(),
        Seen::Sent { .. } => return None,
        Seen::Launched { copy, from, to, arrives, message } => format!(
            "{from} -> {to} #{} {} {}@{} {:?} arrives {}.{:06}",
            copy.0,
            message.body.kind(),
            message.from,
            message.term,
            Short(&message.body),
            arrives.0 / 1_000_000_000,
            arrives.0 / 1_000 % 1_000_000
        ),
        Seen::Delivered { copy, from, to, message } => {
            format!("{to} gets #{} {} from {from}", copy.0, message.body.kind())
        }
        Seen::Lost { copy: Some(copy), from, to, why } => {
            format!("{from} -> {to} #{} is lost: {why:?}", copy.0)
        }
        Seen::Lost { copy: None, from, to, why } => format!("{from} -> {to} lost: {why:?}"),
        Seen::SnapshotBegun { machine, position } => {
            format!("{machine} begins snapshot {position}")
        }
        Seen::SnapshotWritten { machine, meta } => {
            format!("{machine} has written snapshot {}", meta.position)
        }
        Seen::SnapshotFailed { machine, position } => {
            format!("{machine} cannot write snapshot {position}")
        }
        Seen::OpBegun { op, planned, to, request } => {
            format!("c{} asks {to} op{}: {request:?}", planned.client, op.0)
        }
        Seen::OpEnded { op, client, end } => match end {
            OpEnd::Answered { answer, index } => {
                format!("c{client} has op{} at {index}: {answer:?}", op.0)
            }
            OpEnd::NotApplied => format!("c{client} has op{}: not applied", op.0),
            OpEnd::Unknown => format!("c{client} has op{}: unknown", op.0),
        },
        Seen::Fault { fault, on: Some(on), .. } => format!("FAULT {fault} ({on})"),
        Seen::Fault { fault, on: None, .. } => format!("FAULT {fault}"),
        Seen::Healed { number } => {
            format!("healed: {}", view.plan().faults.get(*number)?.what)
        }
        Seen::Liveness { core } => format!("the chaos is over; {core:b} have to become live"),
        Seen::End => "the end".to_owned(),
    })
}

fn words_of(operation: &raft_core::write::SnapshotWrite) -> String {
    use raft_core::write::SnapshotWrite::{Chunk, Install, Mark};
    match operation {
        Chunk { meta, offset, data } => {
            format!("piece {}+{} of snapshot {}", offset, data.len(), meta.position)
        }
        Install(meta) => format!("install snapshot {}", meta.position),
        Mark(meta) => format!("mark snapshot {}", meta.position),
    }
}

/// A message without its payloads.
struct Short<'a>(&'a raft_core::message::Body);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use raft_core::message::Body;
        match self.0 {
            Body::Append { prev, entries, commit } => {
                write!(f, "after {prev}")?;
                if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
                    write!(f, " {first}..{last}")?;
                }
                write!(f, " commit {commit}")
            }
            Body::InstallSnapshot { meta, offset, data } => {
                let (position, all) = (meta.position, meta.body_bytes);
                write!(f, "{position} {offset}+{} of {all}", data.len())
            }
            other => write!(f, "{other:?}"),
        }
    }
}
