//! What one exchange means for a request: done, try again, or over. The rule of it all: a write is
//! tried again only if nothing of it was sent or the answer says `not_applied`; a read may always be
//! tried again. Pure: no clock, no socket, no chance.

use std::time::Duration;

use carp::Moved;
use hyper::StatusCode;
use serde::Deserialize;

use super::error::{Error, Problem};
use super::wire::{Broken, Reply};

/// Whether a request changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// What to do after an exchange.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The server carried it out (or says 304 or 404 of a key): the caller reads the answer.
    Done(Reply),
    /// Nothing was done; try the next server. `error` is what to say when there is no time left.
    Again { after: Option<Duration>, error: Error },
    /// Another cluster owns the key. `None`: the answer does not say which.
    Elsewhere { moved: Option<Moved>, error: Error },
    /// There is nothing to be tried.
    Over(Error),
}

/// Judges an exchange.
pub(super) fn judge(kind: Kind, exchanged: Result<Reply, Broken>) -> Verdict {
    let reply = match exchanged {
        Ok(reply) => reply,
        Err(Broken::NothingSent(why)) => {
            return Verdict::Again { after: None, error: Error::Unavailable(why) };
        }
        Err(Broken::MaybeSent(why)) => {
            return match kind {
                Kind::Write => Verdict::Over(Error::Unknown(why)),
                Kind::Read => Verdict::Again { after: None, error: Error::Timeout(why) },
            };
        }
    };
    if reply.status.is_success() || reply.status.as_u16() == 304 {
        return Verdict::Done(reply);
    }
    if reply.status == StatusCode::MISDIRECTED_REQUEST {
        let moved = Moved::from_json(&reply.body);
        return Verdict::Elsewhere { moved, error: Error::NotApplied(problem(&reply)) };
    }
    let Some(said) = said(&reply) else {
        return not_ours(kind, &reply);
    };
    let Said { problem, outcome, current, retry_after } = said;
    if problem.kind == "no-key" {
        return Verdict::Done(reply);
    }
    let after = retry_after.map(Duration::from_millis);
    match (problem.status, outcome) {
        (412, _) => Verdict::Over(Error::ConditionFailed { current }),
        (413 | 414, _) => Verdict::Over(Error::TooLarge(problem)),
        (401 | 403, _) => Verdict::Over(Error::Denied(problem)),
        (408 | 429 | 500..=599, Outcome::NotApplied) => {
            Verdict::Again { after, error: unserved(problem) }
        }
        (408 | 429 | 500..=599, _) if kind == Kind::Read => {
            let error = match problem.status {
                504 => Error::Timeout(problem.to_string()),
                _ => unserved(problem),
            };
            Verdict::Again { after, error }
        }
        (408 | 429 | 500..=599, _) => Verdict::Over(Error::Unknown(problem.to_string())),
        _ => Verdict::Over(Error::Refused(problem)),
    }
}

/// A server that knows no leader, or stops, or forms, cannot serve; one that is busy or full could.
fn unserved(problem: Problem) -> Error {
    match problem.status {
        503 => Error::Unavailable(problem.to_string()),
        _ => Error::NotApplied(problem),
    }
}

/// An answer without a problem of ours: a proxy's, or of quite another program.
fn not_ours(kind: Kind, reply: &Reply) -> Verdict {
    let status = reply.status.as_u16();
    let problem = Problem { status, ..Problem::default() };
    match (status, kind) {
        (401 | 403, _) => Verdict::Over(Error::Denied(problem)),
        (502..=504, Kind::Read) => {
            Verdict::Again { after: None, error: Error::Unavailable(problem.to_string()) }
        }
        // Whoever answered may have handed the write on.
        (500..=599, Kind::Write) => Verdict::Over(Error::Unknown(problem.to_string())),
        _ => Verdict::Over(Error::Strange(problem.to_string())),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    NotApplied,
    Unknown,
    #[default]
    #[serde(other)]
    Unsaid,
}

struct Said {
    problem: Problem,
    outcome: Outcome,
    current: Option<u64>,
    retry_after: Option<u64>,
}

/// The problem in a body; `None` when there is none of ours.
fn said(reply: &Reply) -> Option<Said> {
    #[derive(Deserialize)]
    struct Text {
        r#type: String,
        #[serde(default)]
        title: String,
        #[serde(default)]
        detail: String,
        #[serde(default)]
        outcome: Outcome,
        current_revision: Option<u64>,
        retry_after_ms: Option<u64>,
    }
    let text: Text = serde_json::from_slice(&reply.body).ok()?;
    let kind = text.r#type.strip_prefix("urn:kv:")?.to_owned();
    let (status, title, detail) = (reply.status.as_u16(), text.title, text.detail);
    Some(Said {
        problem: Problem { status, kind, title, detail },
        outcome: text.outcome,
        current: text.current_revision,
        retry_after: text.retry_after_ms,
    })
}

/// Reads the problem of an answer that is not a success, for requests that are not about keys.
pub(super) fn problem(reply: &Reply) -> Problem {
    match said(reply) {
        Some(said) => said.problem,
        None => Problem { status: reply.status.as_u16(), ..Problem::default() },
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    fn judged(kind: Kind, status: u16, name: &str, outcome: &str) -> Verdict {
        let outcome = match outcome {
            "" => String::new(),
            outcome => format!(",\"outcome\":\"{outcome}\""),
        };
        let body = format!("{{\"type\":\"urn:kv:{name}\",\"title\":\"t\"{outcome}}}");
        judge(kind, Ok(reply(status, &body)))
    }

    /// The law of honest outcomes: every status there is, with every outcome.
    #[test]
    fn a_write_is_tried_again_only_when_it_was_not_applied() {
        for status in 400..=599 {
            for outcome in ["", "unknown", "something-new"] {
                let verdict = judged(Kind::Write, status, "x", outcome);
                assert!(!matches!(verdict, Verdict::Again { .. }), "{status} {outcome}");
            }
            let verdict = judge(Kind::Write, Ok(reply(status, "bad gateway")));
            assert!(!matches!(verdict, Verdict::Again { .. }), "{status} without a problem");
        }
        let sent = judge(Kind::Write, Err(Broken::MaybeSent("x".into())));
        assert!(matches!(sent, Verdict::Over(Error::Unknown(_))));
        let unsent = judge(Kind::Write, Err(Broken::NothingSent("x".into())));
        assert!(matches!(unsent, Verdict::Again { .. }));
    }

    #[test]
    fn each_answer_has_its_verdict() {
        use Kind::{Read, Write};
        let again = |verdict| matches!(verdict, Verdict::Again { .. });
        for (status, name) in
            [(503, "no-leader"), (429, "busy"), (507, "no-space"), (504, "deadline")]
        {
            assert!(again(judged(Write, status, name, "not_applied")), "{name}");
            assert!(again(judged(Read, status, name, "")), "{name}");
        }
        let unknown = judged(Write, 503, "leader-lost", "unknown");
        assert!(matches!(unknown, Verdict::Over(Error::Unknown(_))));
        assert!(matches!(judged(Read, 404, "no-key", ""), Verdict::Done(_)));
        assert!(matches!(judged(Read, 404, "no-route", ""), Verdict::Over(Error::Refused(_))));
        assert!(matches!(judged(Write, 413, "too-large", ""), Verdict::Over(Error::TooLarge(_))));
        assert!(matches!(judged(Write, 403, "denied", ""), Verdict::Over(Error::Denied(_))));
        assert!(matches!(judge(Read, Ok(reply(200, "x"))), Verdict::Done(_)));
        assert!(matches!(judge(Read, Ok(reply(404, "<html>"))), Verdict::Over(Error::Strange(_))));
    }

    #[test]
    fn a_failed_condition_names_the_revision() {
        let body = r#"{"type":"urn:kv:precondition","current_revision":7}"#;
        let verdict = judge(Kind::Write, Ok(reply(412, body)));
        assert!(matches!(verdict, Verdict::Over(Error::ConditionFailed { current: Some(7) })));
    }

    #[test]
    fn a_busy_server_says_how_long_to_wait() {
        let body = r#"{"type":"urn:kv:busy","outcome":"not_applied","retry_after_ms":500}"#;
        let Verdict::Again { after, error } = judge(Kind::Write, Ok(reply(429, body))) else {
            panic!("not tried again");
        };
        assert_eq!(after, Some(Duration::from_millis(500)));
        assert!(matches!(error, Error::NotApplied(problem) if problem.kind == "busy"));
    }

    #[test]
    fn a_redirect_is_read_also_inside_a_problem() {
        let body = r#"{"type":"urn:kv:elsewhere","slot":7,"owner":"two","slot_epoch":2,"epoch":5,
            "urls":["http://10.0.0.2:7001"]}"#;
        let Verdict::Elsewhere { moved: Some(moved), .. } =
            judge(Kind::Write, Ok(reply(421, body)))
        else {
            panic!("not elsewhere");
        };
        assert_eq!((moved.owner.as_str(), moved.epoch.0), ("two", 5));
        let bare = judged(Kind::Write, 421, "elsewhere", "");
        assert!(matches!(bare, Verdict::Elsewhere { moved: None, .. }));
    }
}
