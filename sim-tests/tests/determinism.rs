//! The same plan is the same run: in one process, in a second one, and whatever was run before.

use std::process::Command;

use sim_tests::{generate, run};

#[test]
fn a_seed_gives_the_same_report_twice() {
    for seed in 0..4 {
        let first = run::run(generate::plan(seed));
        let second = run::run(generate::plan(seed));
        assert_eq!(first, second, "seed {seed}");
    }
}

/// A plan read back from its text runs as the one it was written from.
#[test]
fn a_plan_from_its_text_is_the_same_run() {
    let plan = generate::plan(3);
    let read = plan.to_string().parse().unwrap();
    assert_eq!(run::run(plan).hash, run::run(read).hash);
}

#[test]
fn another_process_gives_the_same_hash() {
    for seed in [1, 6] {
        let here = run::run(generate::plan(seed));
        let there = Command::new(env!("CARGO_BIN_EXE_sim")).arg(seed.to_string()).output().unwrap();
        let said = String::from_utf8(there.stdout).unwrap();
        let hash = format!("{:032x}", here.hash);
        assert!(said.lines().any(|line| line.contains(&hash)), "seed {seed}: {hash} here, {said}");
    }
}

/// Neither does it matter how the code was compiled: CI compares this build with the release one.
#[test]
fn telling_every_decision_changes_nothing() {
    assert_eq!(run::run(generate::plan(9)), run::run_told(generate::plan(9)));
}

#[test]
fn tracing_changes_nothing() {
    let quiet = run::run(generate::plan(6));
    let there = Command::new(env!("CARGO_BIN_EXE_sim")).args(["6", "--trace"]).output().unwrap();
    let said = String::from_utf8(there.stdout).unwrap();
    assert!(1_000 < said.lines().count(), "a transcript tells a story");
    assert!(said.trim_end().ends_with(&format!("{:032x}", quiet.hash)), "{said}");
}
