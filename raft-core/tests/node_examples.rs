//! The examples run, and do what they say.

use std::path::Path;
use std::process::{Command, Output};

/// Runs an example as a reader would, in this folder.
fn run(example: &str, folder: &Path) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "run",
        "--quiet",
        "--manifest-path",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ]);
    cargo.args(["--example", example]).current_dir(folder);
    let Output { status, stdout, stderr } = cargo.output().expect("cargo is here");
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{example} failed: {stderr}");
    String::from_utf8(stdout).expect("examples print text")
}

#[test]
fn the_single_node_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    for runs in 1..=3 {
        let told = run("single_node", folder.path());
        assert!(told.contains(&format!("words: Ok({runs})")), "{told}");
    }
}

/// The promise of the README: a durable program of one's own in thirty lines.
#[test]
fn the_single_node_is_at_most_30_lines_of_code() {
    let text = include_str!("../examples/single_node.rs");
    let code = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with("#!["));
    assert!(code.count() <= 30);
}

#[test]
fn the_three_go_on_without_their_leader() {
    let told = run("three_in_memory", Path::new("."));
    assert_eq!(told.matches(r#"reads [b"one", b"two", b"three"]"#).count(), 2, "{told}");
}
