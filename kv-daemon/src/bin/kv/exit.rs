//! With which code the program ends, and what it says then. Scripts rely on these numbers; they are
//! listed in `docs/kv.md`.

use std::io::{self, Write as _};

use kv_daemon::client::Error;

/// Anything that has no code of its own.
pub const FAILURE: u8 = 1;
/// What was typed makes no sense; clap's own code.
pub const USAGE: u8 = 2;
/// No server answered, or none that knows a leader. Nothing was changed.
pub const NO_SERVER: u8 = 3;
/// The key does not exist.
pub const NO_KEY: u8 = 4;
/// The condition of a write did not hold. Nothing was changed.
pub const CONDITION: u8 = 5;
/// The time was over; a write may have been applied.
pub const UNKNOWN: u8 = 6;
/// The server does not allow it.
pub const DENIED: u8 = 7;
/// Something answered and is not well.
pub const UNHEALTHY: u8 = 8;

/// Why the program does not end with 0.
#[derive(Debug)]
pub struct Failed {
    /// The exit code.
    pub code: u8,
    /// For people; empty when everything was said already.
    pub message: String,
}

impl Failed {
    /// With a code and a message.
    pub fn new(code: u8, message: impl Into<String>) -> Failed {
        Failed { code, message: message.into() }
    }

    /// Anything that has no code of its own.
    pub fn other(message: impl Into<String>) -> Failed {
        Failed::new(FAILURE, message)
    }

    /// What was typed makes no sense.
    pub fn usage(message: impl Into<String>) -> Failed {
        Failed::new(USAGE, message)
    }

    /// Says it on stderr.
    pub fn tell(&self) {
        if !self.message.is_empty() {
            let _ = writeln!(io::stderr(), "kv: {}", self.message);
        }
    }
}

impl From<Error> for Failed {
    /// The one table from how a request ended to an exit code.
    fn from(error: Error) -> Failed {
        let code = match &error {
            Error::Unavailable(_) => NO_SERVER,
            Error::ConditionFailed { .. } => CONDITION,
            Error::Unknown(_) | Error::Timeout(_) => UNKNOWN,
            Error::Denied(_) => DENIED,
            Error::NotApplied(_) | Error::TooLarge(_) | Error::Refused(_) | Error::Strange(_) => {
                FAILURE
            }
        };
        Failed::new(code, error.to_string())
    }
}

impl From<io::Error> for Failed {
    /// Writing to stdout went wrong. Whoever closed it has read enough, as `head` does.
    fn from(error: io::Error) -> Failed {
        match error.kind() {
            io::ErrorKind::BrokenPipe => std::process::exit(0),
            _ => Failed::other(format!("cannot write: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_daemon::client::Problem;

    #[test]
    fn each_end_of_a_request_has_its_code() {
        let problem = Problem::default;
        let rows = [
            (Error::Unavailable("x".into()), 3),
            (Error::NotApplied(problem()), 1),
            (Error::Unknown("x".into()), 6),
            (Error::Timeout("x".into()), 6),
            (Error::ConditionFailed { current: None }, 5),
            (Error::TooLarge(problem()), 1),
            (Error::Denied(problem()), 7),
            (Error::Refused(problem()), 1),
            (Error::Strange("x".into()), 1),
        ];
        for (error, code) in rows {
            assert_eq!(Failed::from(error).code, code);
        }
    }
}
