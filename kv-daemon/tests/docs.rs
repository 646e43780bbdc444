//! Runs every `sh` block of the README and of the docs, so that what they say is what happens.
//!
//! How a page is read:
//! - every fence names its language; a page's blocks run in order, in one empty folder;
//! - ```` ```sh server ```` is a terminal of its own: one command that keeps running until the page
//!   ends; the test waits until it has printed its URL or has exited;
//! - in ```` ```sh ```` each command runs by itself and must succeed. A comment behind it is what it
//!   must print, `...` standing for anything; commands without one may print what they like;
//! - `cargo run --` and `cargo run --bin kv --` become the built programs, `cargo build` nothing, and ports 8001 to 8009 become
//!   free ones, the same throughout a page;
//! - ```` ```console ```` is not run; the line before the fence is a comment that says why.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any step takes on a loaded machine; only ever reached when something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    /// 1-based, for messages.
    line: usize,
    body: String,
    /// The last line before the fence that is not empty.
    before: String,
}

#[test]
fn every_fence_names_its_language_and_console_says_why() {
    for page in pages() {
        for block in blocks(&fs::read_to_string(&page).unwrap()) {
            let place = format!("{}:{}", page.display(), block.line);
            assert!(!block.language.is_empty(), "{place}: a fence without a language");
            if block.language == "console" {
                let reason = block.before.trim();
                assert!(reason.starts_with("<!--"), "{place}: say why it is not run");
            }
        }
    }
}

#[test]
fn the_readme_does_what_it_says() {
    run_page(&root().join("README.md"));
}

#[test]
fn the_docs_do_what_they_say() {
    for page in pages() {
        if page != root().join("README.md") {
            run_page(&page);
        }
    }
}

#[test]
fn dots_match_anything() {
    assert!(matches("world", "world"));
    assert!(matches("{\"key\":\"a\",...}", "{\"key\":\"a\",\"revision\":7}"));
    assert!(matches("...", ""));
    assert!(matches("a...c", "abc"));
    assert!(!matches("world", "word"));
    assert!(!matches("a...c", "abd"));
    assert!(!matches("a...", "ba"));
}

#[test]
fn blocks_are_found_with_language_and_place() {
    let page = "x\n<!-- why -->\n```console\ncargo test\n```\n```sh server\nrun\n```\n";
    let found = blocks(page);
    assert_eq!(found[0].language, "console");
    assert_eq!((found[0].line, found[0].before.as_str()), (3, "<!-- why -->"));
    assert_eq!((found[1].language.as_str(), found[1].body.as_str()), ("sh server", "run\n"));
}

#[test]
fn commands_are_joined_and_parted_from_what_they_print() {
    let body = "# a remark\ncurl \\\n  x   # world\n\necho '#1'\n";
    assert_eq!(
        commands(body),
        [("curl \\\n  x".to_owned(), Some("world".to_owned())), ("echo '#1'".to_owned(), None)]
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = String::new();
    for (number, line) in page.lines().enumerate() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some(block), _) => block.body += &format!("{line}\n"),
            (None, Some(language)) => {
                open = Some(Block {
                    language: language.trim().to_owned(),
                    line: number + 1,
                    body: String::new(),
                    before: before.clone(),
                });
            }
            (None, None) if !line.trim().is_empty() => before = line.to_owned(),
            (None, None) => {}
        }
    }
    assert_eq!(open, None, "a fence that is never closed");
    blocks
}

/// The commands of a block, each with what it must print.
fn commands(body: &str) -> Vec<(String, Option<String>)> {
    let mut commands = Vec::new();
    let mut command = String::new();
    for line in body.lines() {
        if command.is_empty() && (line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        if line.ends_with('\\') {
            command += &format!("{line}\n");
            continue;
        }
        let (head, expected) = match line.rsplit_once("  # ") {
            Some((head, expected)) => (head, Some(expected.trim().to_owned())),
            None => (line, None),
        };
        command += head.trim_end();
        commands.push((std::mem::take(&mut command), expected));
    }
    commands
}

/// Whether `text` is `pattern` with something in the place of each `...`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split("...");
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What a page has started; all of it ends with the page, also when a check fails.
struct Page {
    folder: tempfile::TempDir,
    ports: BTreeMap<u16, u16>,
    servers: Vec<Child>,
}

impl Drop for Page {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // It may have been ended by the page itself.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn run_page(path: &Path) {
    // Held until all are chosen, so that no two are the same.
    let listeners: Vec<TcpListener> =
        (8001..=8009).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports = listeners.iter().map(|listener| listener.local_addr().unwrap().port());
    let ports = (8001..=8009).zip(ports).collect();
    drop(listeners);
    let folder = tempfile::tempdir().unwrap();
    let mut page = Page { folder, ports, servers: Vec::new() };
    for block in blocks(&fs::read_to_string(path).unwrap()) {
        let place = format!("{}:{}", path.display(), block.line);
        match block.language.as_str() {
            "sh server" => page.serve(&block, &place),
            "sh" => page.run(&block, &place),
            _ => {}
        }
    }
}

impl Page {
    fn bash(&self, command: &str) -> Command {
        let program = env!("CARGO_BIN_EXE_kv-daemon");
        // Ports first: the path of the program may hold digits of its own.
        let command = self.with_real_ports(command);
        let command = if command.contains("--example") {
            // Built and run by cargo itself, wherever the page's folder is.
            let manifest = root().join("Cargo.toml");
            command
                .replace("cargo run", &format!("cargo run --manifest-path {}", manifest.display()))
        } else {
            command
                .replace("cargo run --bin kv --", env!("CARGO_BIN_EXE_kv"))
                .replace("cargo run --release --", program)
                .replace("cargo run --", program)
                .replace("cargo run", program)
                .replace("cargo build", "true")
        };
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &command]).current_dir(self.folder.path());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KV_")) {
            bash.env_remove(name);
        }
        // The single node of the page listens where 8001 was written, also when it was not.
        bash.env("KV_PORT", self.ports[&8001].to_string());
        bash.env_remove("RUST_LOG").stdin(Stdio::null());
        bash
    }

    fn serve(&mut self, block: &Block, place: &str) {
        let log = self.folder.path().join(format!("terminal-{}.log", self.servers.len()));
        let command = commands(&block.body).remove(0).0;
        let start = || {
            let mut bash = self.bash(&format!("exec {command}"));
            bash.stdout(File::create(&log).unwrap());
            bash.stderr(File::create(log.with_extension("err")).unwrap());
            bash.spawn().unwrap()
        };
        let mut child = start();
        let begun = Instant::now();
        while !fs::read_to_string(&log).unwrap().contains("http://") {
            match child.try_wait().unwrap().map(|status| status.code()) {
                // The server that a page has just stopped may still hold its port or folder.
                Some(Some(10 | 11)) if begun.elapsed() < PATIENCE => child = start(),
                Some(_) => break,
                None => {}
            }
            if PATIENCE < begun.elapsed() {
                let story = fs::read_to_string(log.with_extension("err")).unwrap_or_default();
                let _ = child.kill();
                panic!("{place}: {command}: prints no URL\n{story}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.servers.push(child);
    }

    fn run(&self, block: &Block, place: &str) {
        for (command, expected) in commands(&block.body) {
            // A cluster of three needs a moment to elect its leader: a page may say what is true
            // then without waiting for it.
            let begun = Instant::now();
            loop {
                let output = self.bash(&command).output().unwrap();
                let printed = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
                let fits = expected
                    .as_ref()
                    .is_none_or(|expected| matches(&self.with_real_ports(expected), &printed));
                if output.status.success() && fits {
                    break;
                }
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "{place}: {command}\nprinted  {printed}\nexpected {expected:?}\n{errors}{}",
                    self.stories()
                );
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// The page's text with the ports that stand for the written ones.
    fn with_real_ports(&self, text: &str) -> String {
        let mut words = text.to_owned();
        for written in self.ports.keys() {
            // A name that cannot be mistaken for another port while the rest are replaced.
            words = words.replace(&written.to_string(), &format!("\u{1}{}\u{2}", written - 8000));
        }
        for (written, real) in &self.ports {
            words = words.replace(&format!("\u{1}{}\u{2}", written - 8000), &real.to_string());
        }
        words
    }

    fn stories(&self) -> String {
        let mut stories = String::new();
        for number in 0..self.servers.len() {
            let path = self.folder.path().join(format!("terminal-{number}.err"));
            let story = fs::read_to_string(path).unwrap_or_default();
            stories += &format!("--- terminal {number}\n{story}");
        }
        stories
    }
}
