//! Plans of past failures: each opens with what once went wrong, and runs clean now.

use std::fs;
use std::path::Path;

use sim_tests::plan::Plan;
use sim_tests::run;

#[test]
fn plans_that_once_failed_run_clean() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.display();
        assert!(text.starts_with("# "), "{name} begins with its story");
        let plan: Plan = text.parse().unwrap_or_else(|why| panic!("{name}: {why}"));
        let report = run::run(plan);
        assert_eq!(report.failure, None, "{name} fails again");
    }
}
