//! The four headers every request between nodes carries, and the refusal of one that does not fit.
//!
//! A refusal changes nothing on either side and names both, so that whoever reads it knows which of
//! the two to mend.

use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use raft_core::types::{ClusterId, NodeId};
use serde_json::json;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::form::PROTOCOL;
use crate::form::hex_id;

/// Which cluster the sender belongs to: 16 hex digits.
pub(super) const KV_CLUSTER: HeaderName = HeaderName::from_static("kv-cluster");
/// Which protocol it speaks.
pub(super) const KV_PROTOCOL: HeaderName = HeaderName::from_static("kv-protocol");
/// Who it is: 16 hex digits.
pub(super) const KV_FROM: HeaderName = HeaderName::from_static("kv-from");
/// Whom it means: 16 hex digits.
pub(super) const KV_TO: HeaderName = HeaderName::from_static("kv-to");

/// Bodies made of frames.
pub(super) const FRAMES: HeaderValue = HeaderValue::from_static("application/x-bincode");
/// Bodies for people.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Who speaks to whom, in which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The cluster of both.
    pub(super) cluster: ClusterId,
    /// The sender.
    pub(super) from: NodeId,
    /// The receiver.
    pub(super) to: NodeId,
}

impl Line {
    /// Writes the four headers.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let mut put = |name, text: String| {
            headers.insert(name, HeaderValue::from_str(&text).expect("digits are fine in headers"));
        };
        put(KV_CLUSTER, self.cluster.to_string());
        put(KV_PROTOCOL, PROTOCOL.to_string());
        put(KV_FROM, format!("{:016x}", self.from.0));
        put(KV_TO, format!("{:016x}", self.to.0));
    }
}

/// What the headers of a request say; what is missing is `None`, what cannot be read is a refusal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    pub(super) cluster: Option<ClusterId>,
    pub(super) protocol: Option<u32>,
    pub(super) from: Option<NodeId>,
    pub(super) to: Option<NodeId>,
}

impl Said {
    /// Reads them.
    pub(super) fn read(headers: &HeaderMap) -> Result<Said, Refused> {
        let id = |name: HeaderName| -> Result<Option<u64>, Refused> {
            let Some(value) = headers.get(&name) else { return Ok(None) };
            let bits = value.to_str().ok().and_then(hex_id::parse);
            bits.map(Some).ok_or_else(|| Refused::malformed(format!("{name} is not 16 hex digits")))
        };
        let protocol = match headers.get(KV_PROTOCOL) {
            None => None,
            Some(value) => Some(
                value
                    .to_str()
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| Refused::malformed("kv-protocol is not a number"))?,
            ),
        };
        Ok(Said {
            cluster: id(KV_CLUSTER)?.map(ClusterId),
            protocol,
            from: id(KV_FROM)?.map(NodeId),
            to: id(KV_TO)?.map(NodeId),
        })
    }
}

/// Why a request is not served. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    kind: &'static str,
    title: &'static str,
    pub(super) detail: String,
}

impl Refused {
    /// 400: the bytes are not what they should be.
    pub(super) fn malformed(detail: impl Into<String>) -> Refused {
        Refused {
            status: StatusCode::BAD_REQUEST,
            kind: "urn:kv:malformed",
            title: "Malformed request",
            detail: detail.into(),
        }
    }

    /// 409: sender and receiver do not belong together.
    pub(super) fn conflict(detail: impl Into<String>) -> Refused {
        Refused {
            status: StatusCode::CONFLICT,
            kind: "urn:kv:cluster-conflict",
            title: "Sender and receiver do not belong together",
            detail: detail.into(),
        }
    }

    /// 503: this node takes no part (yet, or any more), or too much is under way.
    pub(super) fn unavailable(detail: impl Into<String>) -> Refused {
        Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "urn:kv:unavailable",
            title: "Not serving peers",
            detail: detail.into(),
        }
    }

    /// Any other status.
    pub(super) fn other(status: StatusCode, title: &'static str, detail: String) -> Refused {
        Refused { status, kind: "about:blank", title, detail }
    }

    /// As `application/problem+json` (RFC 9457).
    pub(super) fn into_response(self) -> Response {
        let problem = json!({
            "type": self.kind,
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(problem.to_string().into());
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM);
        response
    }
}

/// The `detail` of a problem another node answered with, or as much of its text as is useful.
pub(super) fn detail_of(body: &[u8]) -> String {
    const TEXT_MAX: usize = 600;
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let detail = parsed.as_ref().and_then(|problem| problem.get("detail")?.as_str());
    let text = detail.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}
