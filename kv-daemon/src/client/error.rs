//! How a request of a client can end otherwise than well. The kinds are what a caller decides by:
//! above all whether a write can have happened.

use std::fmt;

/// Why there is no answer, or not the one that was wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No server answered that could serve the request: none could be reached, or none that knows a
    /// leader. Nothing was changed.
    Unavailable(String),
    /// The server refused a write for now (busy, disk full, stopping ...) and says that it was not
    /// applied; trying again did not help in time.
    NotApplied(Problem),
    /// The write may have been applied, or may yet be. Read before you write again.
    Unknown(String),
    /// A read got no answer in time.
    Timeout(String),
    /// The condition of a write did not hold; nothing was changed.
    ConditionFailed {
        /// The revision the key is at; `None`: it does not exist.
        current: Option<u64>,
    },
    /// The value or key is larger than the server allows; nothing was changed.
    TooLarge(Problem),
    /// The server does not allow this to us; nothing was changed.
    Denied(Problem),
    /// The server will not do this, now or later; nothing was changed.
    Refused(Problem),
    /// What answered does not speak as a server of ours does.
    Strange(String),
}

/// What a server said of a failure: its `problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// The status code.
    pub status: u16,
    /// What follows `urn:kv:` in `type`; empty when the answer was no problem of ours.
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// What to do next.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.title.is_empty() {
            return write!(f, "status {}", self.status);
        }
        write!(f, "{}", self.title)?;
        if !self.detail.is_empty() {
            write!(f, ". {}", self.detail)?;
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(why) => write!(f, "no server could serve this: {why}"),
            Error::NotApplied(problem) => write!(f, "not applied: {problem}"),
            Error::Unknown(why) => {
                write!(f, "unknown whether this was applied ({why}): read before you write again")
            }
            Error::Timeout(why) => write!(f, "no answer in time: {why}"),
            Error::ConditionFailed { current: Some(revision) } => {
                write!(f, "the condition does not hold: the key is at revision {revision}")
            }
            Error::ConditionFailed { current: None } => {
                write!(f, "the condition does not hold: the key does not exist")
            }
            Error::TooLarge(problem) | Error::Denied(problem) | Error::Refused(problem) => {
                problem.fmt(f)
            }
            Error::Strange(why) => write!(f, "this is no kv server: {why}"),
        }
    }
}

impl std::error::Error for Error {}
