//! What a client is told: one table from outcome to status, and the two shapes of an answer, JSON
//! and `problem+json` (RFC 9457). Nothing is decided here that changes a key.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use carp::MemberId;
use serde::Serialize;
use serde_json::{Value, json};
use warp::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use warp::http::{HeaderValue, StatusCode};

use super::body::BodyFault;
use super::path::KeyFault;
use crate::kv::request::{Failure, KEY_BYTES_MAX, Outcome, Reason};

/// A whole response, as warp has it.
pub type Response = warp::reply::Response;

/// Why a request was not carried out. Boxed where it is returned: it is large and rare.
#[derive(Debug)]
pub struct Problem {
    /// The status code.
    pub status: StatusCode,
    /// What follows `urn:kv:` in `type`: stable, for programs.
    pub kind: &'static str,
    /// The kind in words: the same for every problem of its kind.
    pub title: &'static str,
    /// What to do next, for people.
    pub detail: String,
    /// For writes: whether the store may have changed.
    pub outcome: Option<Outcome>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// The `Allow` header of a 405.
    pub allow: Option<&'static str>,
    /// The key's `mod_revision`, where a condition failed on it.
    pub current: Option<u64>,
    /// The store's revision the problem was seen at, where there is one.
    pub revision: Option<u64>,
    /// What else stands in the body, for programs.
    pub more: Option<Value>,
}

/// What of the node stands in each of its problems.
#[derive(Clone, Debug, Default)]
pub struct Teller {
    /// This node's name.
    pub node: String,
    /// The leader's URL, as far as known.
    pub leader: Option<String>,
    /// This node's term.
    pub term: u64,
    /// The store's revision here.
    pub revision: u64,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Box<Problem> {
        Box::new(Problem {
            status,
            kind,
            title,
            detail: detail.into(),
            outcome: None,
            retry_after: None,
            allow: None,
            current: None,
            revision: None,
            more: None,
        })
    }

    /// The request breaks a rule; `detail` says which.
    pub fn invalid(detail: impl Into<String>) -> Box<Problem> {
        Problem::new(StatusCode::BAD_REQUEST, "invalid", "the request is not valid", detail)
    }

    /// There is no such path.
    pub fn no_route(path: &str) -> Box<Problem> {
        let path: String = path.chars().take(100).collect();
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-route",
            "there is nothing at this path",
            format!("`{path}` is not served; GET / lists what is."),
        )
    }

    /// The path does not know the method.
    pub fn wrong_method(method: &str, allow: &'static str) -> Box<Problem> {
        let mut problem = Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method",
            "the path does not know this method",
            format!("`{method}` is not for this path; it knows {allow}."),
        );
        problem.allow = Some(allow);
        problem
    }

    /// The key does not exist.
    pub fn no_key(revision: u64) -> Box<Problem> {
        let mut problem = Problem::new(
            StatusCode::NOT_FOUND,
            "no-key",
            "the key does not exist",
            "Write it first, or check its spelling.",
        );
        problem.revision = Some(revision);
        problem
    }

    /// A condition did not hold; `current` is the key's `mod_revision`, if it exists.
    pub fn condition_failed(current: Option<u64>, revision: u64) -> Box<Problem> {
        let detail = match current {
            Some(current) => format!("The key is at revision {current}: read it and try again."),
            None => "The key does not exist.".to_owned(),
        };
        let mut problem = Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition",
            "the condition does not hold",
            detail,
        );
        problem.current = current;
        problem.revision = Some(revision);
        problem
    }

    /// With a hint when to try again.
    pub fn retry(mut self: Box<Problem>, after: Duration) -> Box<Problem> {
        self.retry_after = Some(after);
        self
    }

    /// The response.
    pub fn into_response(self, teller: &Teller, pretty: bool) -> Response {
        #[derive(Serialize)]
        struct Shape<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            outcome: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            current_revision: Option<u64>,
            leader: Option<&'a str>,
            node: &'a str,
            term: u64,
            revision: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_ms: Option<u128>,
            #[serde(flatten)]
            more: Option<&'a Value>,
        }
        let shape = Shape {
            r#type: format!("urn:kv:{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            outcome: self.outcome.map(|outcome| match outcome {
                Outcome::NotApplied => "not_applied",
                Outcome::Unknown => "unknown",
            }),
            current_revision: self.current,
            leader: teller.leader.as_deref(),
            node: &teller.node,
            term: teller.term,
            revision: self.revision.unwrap_or(teller.revision),
            retry_after_ms: self.retry_after.map(|after| after.as_millis()),
            more: self.more.as_ref(),
        };
        let mut response = json(self.status, &shape, pretty);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert("kv-revision", HeaderValue::from(shape.revision));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(after) = self.retry_after {
            // The header counts whole seconds; the body is exact.
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000) as u64));
        }
        response
    }
}

impl From<Failure> for Box<Problem> {
    /// The one table from a failure to a status code.
    fn from(failure: Failure) -> Box<Problem> {
        const SOON: Duration = Duration::from_millis(500);
        let mut more = None;
        let (status, kind, title, detail, retry) = match failure.reason {
            Reason::NoLeader => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no-leader",
                "no leader was found in time",
                "A majority of the members has to be up and in touch; see GET /health.".to_owned(),
                Some(SOON),
            ),
            Reason::LeaderLost => (
                StatusCode::SERVICE_UNAVAILABLE,
                "leader-lost",
                "the leader was lost while the write was under way",
                "Read the key to see whether it was written.".to_owned(),
                Some(SOON),
            ),
            Reason::Busy => (
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                "too much is under way",
                "Try again in a moment, with fewer requests at a time.".to_owned(),
                Some(SOON),
            ),
            Reason::Deadline => (
                StatusCode::GATEWAY_TIMEOUT,
                "deadline",
                "the request's time is over",
                "Give it more with ?timeout=, or see GET /health for what is slow.".to_owned(),
                None,
            ),
            Reason::NoSpace => (
                StatusCode::INSUFFICIENT_STORAGE,
                "no-space",
                "the leader's disk is full",
                "Make room on it; reads go on meanwhile.".to_owned(),
                Some(Duration::from_secs(5)),
            ),
            Reason::TooLarge { bytes_max } => return value_too_large(bytes_max, failure.outcome),
            Reason::TooStale { last_contact } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too-stale",
                "this node's state is older than max_stale allows",
                match last_contact {
                    Some(ago) => format!("The leader was last heard {} ms ago.", ago.as_millis()),
                    None => "This node has not been in touch with a leader yet.".to_owned(),
                },
                Some(SOON),
            ),
            Reason::TooManyHops => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too-many-hops",
                "the request was handed on too often",
                "The nodes do not agree on the leader yet; try again in a moment.".to_owned(),
                Some(SOON),
            ),
            Reason::ShuttingDown => (
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting-down",
                "this node is stopping",
                "Ask another node.".to_owned(),
                Some(Duration::from_secs(1)),
            ),
            Reason::Forming => (
                StatusCode::SERVICE_UNAVAILABLE,
                "forming",
                "this node belongs to no cluster yet",
                "GET /health says for whom it waits.".to_owned(),
                Some(Duration::from_secs(1)),
            ),
            Reason::Restoring => (
                StatusCode::SERVICE_UNAVAILABLE,
                "restoring",
                "this node is putting back a snapshot",
                "Ask another node, or try again in a moment.".to_owned(),
                Some(Duration::from_secs(1)),
            ),
            Reason::Moved(moved) => {
                let detail = format!("Slot {} is {}'s.", moved.slot, moved.owner);
                more = Some(json!(moved));
                let title = "the key is another cluster's";
                (StatusCode::MISDIRECTED_REQUEST, "moved", title, detail, None)
            }
            Reason::KeysApart { owners } => {
                let texts = |keys: &Vec<Bytes>| -> Vec<String> {
                    keys.iter().map(|key| key.escape_ascii().to_string()).collect()
                };
                let owners: BTreeMap<&MemberId, Vec<String>> =
                    owners.iter().map(|(owner, keys)| (owner, texts(keys))).collect();
                more = Some(json!({ "owners": owners }));
                (
                    StatusCode::CONFLICT,
                    "keys-apart",
                    "the keys belong to several clusters",
                    "Give keys that belong together one {tag}, or ask for each by itself."
                        .to_owned(),
                    None,
                )
            }
            Reason::Coming => (
                StatusCode::SERVICE_UNAVAILABLE,
                "coming",
                "the key is on its way to this cluster",
                "Its former owner has not let go of it yet; see POST /carp/check.".to_owned(),
                Some(SOON),
            ),
            Reason::Unreachable { cluster } => {
                more = Some(json!({ "cluster": cluster }));
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unreachable",
                    "another cluster cannot be reached",
                    format!("No node of {cluster} answers; see its GET /health."),
                    Some(SOON),
                )
            }
            Reason::MapBehind { epoch } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "map-behind",
                "another cluster has a newer map",
                format!("Epoch {epoch} is not in force here; see POST /carp/check."),
                Some(SOON),
            ),
            Reason::MapMissing { cluster } => {
                more = Some(json!({ "cluster": cluster }));
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "map-missing",
                    "another cluster has no map",
                    format!("{cluster} answers and is in no array; see POST /carp/check."),
                    Some(SOON),
                )
            }
            Reason::MapRefused { why } => {
                let title = "the map is not taken, the old one stays";
                (StatusCode::CONFLICT, "map-refused", title, why, None)
            }
            Reason::Invalid { why } => (
                StatusCode::BAD_REQUEST,
                "invalid",
                "the request is not valid",
                format!("{why}."),
                None,
            ),
        };
        let mut problem = Problem::new(status, kind, title, detail);
        problem.outcome = failure.outcome;
        problem.retry_after = retry;
        problem.more = more;
        problem
    }
}

fn value_too_large(bytes_max: u64, outcome: Option<Outcome>) -> Box<Problem> {
    let mut problem = Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-large",
        "the body is larger than allowed",
        format!("At most {} are allowed; see --max-value-size.", crate::units::size(bytes_max)),
    );
    problem.outcome = outcome;
    problem
}

impl From<BodyFault> for Box<Problem> {
    fn from(fault: BodyFault) -> Box<Problem> {
        match fault {
            BodyFault::TooLarge { bytes_max } => value_too_large(bytes_max, None),
            BodyFault::TooSlow => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "too-slow",
                "the body came too slowly",
                "Send it again over a better line.",
            ),
            BodyFault::Busy => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                "too many large bodies are under way",
                "Try again in a moment, with fewer uploads at a time.",
            )
            .retry(Duration::from_secs(1)),
            BodyFault::Broken => Problem::invalid("The body ended before its end."),
        }
    }
}

impl From<KeyFault> for Box<Problem> {
    fn from(fault: KeyFault) -> Box<Problem> {
        match fault {
            KeyFault::Empty => {
                Problem::invalid("The key is empty; /kv/KEY names one, /kv lists them.")
            }
            KeyFault::BadEscape => {
                Problem::invalid("The key has a % that no two hex digits follow; write %25 for %.")
            }
            KeyFault::TooLong => Problem::new(
                StatusCode::URI_TOO_LONG,
                "key-too-long",
                "the key is too long",
                format!("A key has 1 to {KEY_BYTES_MAX} bytes."),
            ),
        }
    }
}

/// A JSON response, indented if wished, ending in a newline.
pub fn json(status: StatusCode, value: &impl Serialize, pretty: bool) -> Response {
    let text = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
    let mut text = text.expect("our own shapes have string keys and no failing serializer");
    text.push(b'\n');
    with_type(status, "application/json", text)
}

/// A text response.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response {
    with_type(status, "text/plain; charset=utf-8", text.into().into_bytes())
}

/// A response without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// A response of this content type.
pub fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table: every reason has its status, and the outcome is handed on untouched.
    #[test]
    fn each_reason_has_its_status() {
        let rows = [
            (Reason::NoLeader, 503, "no-leader"),
            (Reason::LeaderLost, 503, "leader-lost"),
            (Reason::Busy, 429, "busy"),
            (Reason::Deadline, 504, "deadline"),
            (Reason::NoSpace, 507, "no-space"),
            (Reason::TooLarge { bytes_max: 7 }, 413, "too-large"),
            (Reason::TooStale { last_contact: None }, 503, "too-stale"),
            (Reason::TooManyHops, 503, "too-many-hops"),
            (Reason::ShuttingDown, 503, "shutting-down"),
            (Reason::Forming, 503, "forming"),
            (Reason::Restoring, 503, "restoring"),
            (Reason::Invalid { why: "x".into() }, 400, "invalid"),
        ];
        for (reason, status, kind) in rows {
            for outcome in [None, Some(Outcome::NotApplied), Some(Outcome::Unknown)] {
                let failure = Failure { reason: reason.clone(), outcome };
                let problem = Box::<Problem>::from(failure);
                assert_eq!((problem.status.as_u16(), problem.kind), (status, kind));
                assert_eq!(problem.outcome, outcome);
            }
        }
    }

    #[test]
    fn busy_and_unavailable_say_when_to_come_back() {
        for reason in [Reason::NoLeader, Reason::Busy, Reason::ShuttingDown, Reason::Forming] {
            let problem = Box::<Problem>::from(Failure { reason, outcome: None });
            let response = problem.into_response(&Teller::default(), false);
            assert_eq!(response.headers()[RETRY_AFTER], "1");
        }
    }

    #[test]
    fn a_405_says_what_is_allowed() {
        let problem = Problem::wrong_method("PATCH", "GET, HEAD, OPTIONS");
        let response = problem.into_response(&Teller::default(), false);
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET, HEAD, OPTIONS");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
