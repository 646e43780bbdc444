//! Judges of histories: was every promise to the clients kept?
//!
//! A run writes down a [`history::History`]; at its end [`judge`] asks all of them:
//!
//! - [`white_box`] (checker A) knows the log. It replays the commands on a reference store of its
//!   own and compares every answer, all keys and lists at once, in linear time.
//! - [`black_box`] (checker B) knows only what clients know. It searches, key by key, for an order
//!   of the operations that explains every answer ([`wgl`]); the sequential behaviour it explains
//!   them with is [`model`]. [`brute`] asks the same question without any cleverness, to check the
//!   search.
//! - [`values`] (I16): no value that nobody wrote.
//! - [`liveness`] judges the time after the faults instead of the answers.
//!
//! A and B share no code but the history, and both must be content: a run that only one of them
//! finds fault with is a failure as well. Only A sees lists and reads that may be stale. Nothing
//! here reads a clock or a random source, and nothing here uses the store's own code.

use std::fmt;

use history::{History, OperationId};

pub mod black_box;
pub mod brute;
pub mod history;
pub mod liveness;
pub mod model;
pub mod values;
pub mod wgl;
pub mod white_box;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Who found it.
    pub checker: &'static str,
    /// What is wrong, in words.
    pub what: String,
    /// The operations it is about.
    pub operations: Vec<OperationId>,
}

/// What it took to judge a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Log entries checker A replayed.
    pub replayed: u64,
    /// What checker B searched.
    pub searched: black_box::Effort,
}

/// Asks every checker of answers. All of them are asked even when one objects: who agrees with whom
/// tells whether the store or a checker is wrong.
pub fn judge(history: &History) -> Result<Effort, Vec<Objection>> {
    let replayed = white_box::check(history);
    let searched = black_box::check(history, black_box::STEPS_MAX);
    let values = values::check(history);
    match (replayed, searched, values) {
        (Ok(replayed), Ok(searched), Ok(())) => Ok(Effort { replayed, searched }),
        (replayed, searched, values) => {
            Err([replayed.err(), searched.err(), values.err()].into_iter().flatten().collect())
        }
    }
}

impl Objection {
    /// The objection, and a line for each operation it is about.
    pub fn explain(&self, history: &History) -> String {
        let mut text = self.to_string();
        for &id in &self.operations {
            text.push_str(&format!("\n  {}", history.operation(id)));
        }
        text
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.what)
    }
}
