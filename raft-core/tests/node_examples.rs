//! The examples run, and do what they say.

use std::process::{Command, Output};

/// Runs an example as a reader would.
fn run(example: &str, arguments: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--package", "raft-core", "--example", example, "--"]);
    let Output { status, stdout, stderr } = cargo.args(arguments).output().expect("cargo is here");
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{example} failed: {stderr}");
    String::from_utf8(stdout).expect("examples print text")
}

#[test]
fn the_single_node_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_str().unwrap();
    assert!(run("single_node", &[directory]).contains("counted to 3, durably"));
    let again = run("single_node", &[directory]);
    assert!(again.contains("at 3\n") && again.contains("counted to 6, durably"), "{again}");
}

#[test]
fn the_three_go_on_without_their_leader() {
    let told = run("three_in_memory", &[]);
    assert_eq!(told.matches(r#"reads [b"one", b"two", b"three"]"#).count(), 2, "{told}");
}
