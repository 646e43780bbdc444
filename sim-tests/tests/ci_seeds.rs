//! Seeds that every change has to pass: a small fixed set here, and as many as fit into the minutes
//! that `SIM_SECONDS` gives.

use std::time::{Duration, Instant};

use sim_tests::{generate, run};

#[test]
fn fixed_seeds_run_clean() {
    let most = std::env::var("SIM_SECONDS").ok().and_then(|it| it.parse().ok());
    let most = Duration::from_secs(most.unwrap_or(8));
    #[expect(clippy::disallowed_methods, reason = "how many seeds fit, not what they do")]
    let began = Instant::now();
    for seed in 0..100 {
        // A slow machine runs fewer, never none.
        if 5 <= seed && most <= began.elapsed() {
            break;
        }
        let report = run::run(generate::plan(seed));
        assert_eq!(report.failure, None, "seed {seed}: cargo sim {seed} --trace");
    }
}
