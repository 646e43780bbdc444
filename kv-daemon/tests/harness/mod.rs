//! What the tests on real processes share. Nothing here decides whether a test passes but
//! [`checker`]; the rest starts programs, asks them and writes down what they said.
//!
//! In the order a test uses them: an [`area`] gives directories and ports, a [`daemon`] is one
//! process, a [`cluster`] is three of them, a [`load`] is clients that write and read, a
//! [`history`] is what they were told, and the [`checker`] finds promises that were broken.
//!
//! Time limits are generous and only end what hangs: nothing passes or fails by how long it took.

#![allow(dead_code, reason = "each test uses its own part of the harness")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests report by printing")]

pub mod area;
pub mod checker;
pub mod cluster;
pub mod daemon;
pub mod files;
pub mod history;
pub mod http;
pub mod load;
pub mod random;

use std::time::{Duration, Instant};

/// After this long without the expected, a test gives up: far beyond anything that should happen.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Panics
/// After [`LIMIT`], saying what was waited for.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < LIMIT, "waited {LIMIT:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A count that the environment may raise: `KILLS=100 cargo test ...`.
///
/// # Panics
/// When the variable is set to something that is no number.
pub fn count(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}
