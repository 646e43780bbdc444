//! Runs every story in `tests/stories` and compares what happens with what is written there.
//!
//! A story is a text file: a title sentence, then blocks of commands, `---`, and the transcript they
//! led to, with an empty line between blocks. `UPDATE=1` writes the transcripts anew; `git diff` is
//! then the review.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use support::script::Story;

/// One block of a story.
struct Block<'a> {
    commands: &'a str,
    transcript: &'a str,
}

/// Every story, in the order of file names.
#[test]
fn stories_go_as_written() {
    let files = story_files();
    assert!(60 <= files.len(), "only {} stories found", files.len());
    let update = std::env::var_os("UPDATE").is_some();
    let mut faults = String::new();
    for file in files {
        let written = fs::read_to_string(&file).expect("a readable story");
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let now = match catch_unwind(AssertUnwindSafe(|| replay(&written))) {
            Ok(now) => now,
            Err(panic) => {
                let _ = writeln!(faults, "== {name} ==\n{}", panic_text(&*panic));
                continue;
            }
        };
        if update && now != written {
            fs::write(&file, now).expect("a writable story");
        } else if now != written {
            let _ = writeln!(faults, "== {name} ==\n{}", difference(&written, &now));
        }
    }
    assert!(faults.is_empty(), "{faults}\n(UPDATE=1 writes the transcripts anew)");
}

/// A title is a sentence, and a story tells something.
#[test]
fn stories_have_a_title_and_an_outcome() {
    for file in story_files() {
        let text = fs::read_to_string(&file).expect("a readable story");
        let title = text.lines().next().unwrap_or_default();
        let sentence = title.starts_with("# ") && title.trim_end().ends_with(['.', ':']);
        let outcome = blocks(&text).iter().any(|block| block.transcript.trim() != "ok");
        assert!(sentence && outcome, "{}: no title sentence, or no outcome", file.display());
    }
}

/// The comparison itself can fail.
#[test]
fn a_changed_line_is_a_difference() {
    let shown = difference("cluster 3\n---\nn1 a\n", "cluster 3\n---\nn1 b\n");
    assert!(shown.contains("- n1 a") && shown.contains("+ n1 b"), "{shown}");
}

fn story_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let entries = fs::read_dir(folder).expect("the folder of stories");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

/// The story with the transcripts as they are now.
fn replay(text: &str) -> String {
    let mut story = Story::new();
    let mut parts = Vec::new();
    for block in blocks(text) {
        let transcript = story.run(block.commands);
        let transcript = if transcript.is_empty() { "ok\n" } else { &transcript };
        parts.push(format!("{}\n---\n{transcript}", block.commands.trim_end()));
    }
    parts.join("\n")
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let parts = text.split("\n\n").map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once("\n---") {
            Some((commands, transcript)) => {
                Block { commands, transcript: transcript.trim_start_matches('\n') }
            }
            None => Block { commands: part, transcript: "" },
        })
        .collect()
}

/// Line by line, with a little around each change.
fn difference(written: &str, now: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (written.lines().collect(), now.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - head;
    let tail =
        old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for line in &old[head.saturating_sub(3)..head] {
        let _ = writeln!(text, "  {line}");
    }
    for line in &old[head..old.len() - tail] {
        let _ = writeln!(text, "- {line}");
    }
    for line in &new[head..new.len() - tail] {
        let _ = writeln!(text, "+ {line}");
    }
    text
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
        .unwrap_or_else(|| "a panic without words".to_string())
}
