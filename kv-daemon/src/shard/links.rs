//! Requests on their way to other clusters, over connections that are kept. Any node of a cluster
//! will do. What matters is honesty, as between the nodes of one cluster: a request that may have
//! been sent is never sent again here.
//!
//! `POST /carp/ask` carries a request as `kv::forward` writes it, and its result back. `KV-Forwarded`
//! counts the hops, `KV-Time-Left-Ms` says how long an answer is of use. Both bodies begin with the
//! CRC-32 of what follows, 4 bytes little-endian.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use carp::MemberId;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};

use crate::client::ServerUrl;
use crate::client::wire::{Broken, Call, Reply, Wire};
use crate::kv::forward::{Parts, decode_result, encode_request};
use crate::kv::request::Request;
use crate::kv::service::Forwarded;

/// Where requests of other clusters come in.
pub const ASK: &str = "/carp/ask";
/// How long the answer is of use to whoever asks, in milliseconds.
pub const TIME_LEFT: &str = "kv-time-left-ms";

/// What became of a request, and the epoch of the map where it was answered, if there is one.
#[derive(Debug)]
pub struct Answered {
    /// What became of it.
    pub forwarded: Forwarded,
    /// The epoch there.
    pub epoch: Option<u64>,
}

/// The way to other clusters.
#[derive(Debug, Default)]
pub struct Links {
    wire: Wire,
    /// The place of the URL that answered last, for each cluster.
    preferred: Mutex<BTreeMap<MemberId, usize>>,
}

impl Links {
    /// Sends a request to a node of `cluster`, of which it will be the `hops`-th handing on.
    pub async fn ask(
        &self,
        cluster: &MemberId,
        urls: &[String],
        request: &Request,
        deadline: Instant,
        hops: u8,
    ) -> Answered {
        let mut call = Call::new(Method::POST, ASK);
        call.body = sealed(&encode_request(request));
        call.headers.insert("kv-forwarded", HeaderValue::from(u16::from(hops)));
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        call.headers.insert(TIME_LEFT, HeaderValue::from(left));
        for (place, url) in self.in_order(cluster, urls) {
            let mut epoch = None;
            let forwarded = match self.wire.exchange(&url, &call, deadline).await {
                Ok(reply) => {
                    epoch = reply.number("carp-epoch");
                    read(reply)
                }
                Err(Broken::NothingSent(why)) => {
                    log::debug!("{cluster} at {url}: {why}");
                    Forwarded::NothingSent
                }
                Err(Broken::MaybeSent(why)) => {
                    log::debug!("{cluster} at {url}: {why}");
                    Forwarded::Broken
                }
            };
            match forwarded {
                Forwarded::NothingSent => continue,
                Forwarded::Done(_) => self.prefer(cluster, place),
                Forwarded::Broken => self.prefer(cluster, place + 1),
            }
            return Answered { forwarded, epoch };
        }
        Answered { forwarded: Forwarded::NothingSent, epoch: None }
    }

    /// The answer of a node of `cluster` to `call`, which must be safe to send twice.
    ///
    /// # Errors
    /// Why none of them answered, in words.
    pub async fn fetch(
        &self,
        cluster: &MemberId,
        urls: &[String],
        call: &Call,
        patience: Duration,
    ) -> Result<Reply, String> {
        let mut last = "it has no URL in the map".to_owned();
        for (place, url) in self.in_order(cluster, urls) {
            match self.wire.exchange(&url, call, Instant::now() + patience).await {
                Ok(reply) if !reply.status.is_server_error() => {
                    self.prefer(cluster, place);
                    return Ok(reply);
                }
                Ok(reply) => last = format!("{url} answers {}", reply.status),
                Err(Broken::NothingSent(why) | Broken::MaybeSent(why)) => {
                    last = format!("{url}: {why}");
                }
            }
        }
        Err(last)
    }

    /// Each URL once with its place, the one that answered last first. Those that are none are left
    /// out: a map may come from anyone.
    fn in_order(&self, cluster: &MemberId, urls: &[String]) -> Vec<(usize, ServerUrl)> {
        let preferred = self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        let first = preferred.get(cluster).copied().unwrap_or(0);
        let places = (0..urls.len()).map(|turn| (first + turn) % urls.len());
        places.filter_map(|place| Some((place, urls[place].parse().ok()?))).collect()
    }

    fn prefer(&self, cluster: &MemberId, place: usize) {
        let mut preferred = self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        if preferred.get(cluster) != Some(&place) {
            preferred.insert(cluster.clone(), place);
        }
    }
}

/// What an answer to [`ASK`] says of the request.
fn read(reply: Reply) -> Forwarded {
    if reply.status == StatusCode::OK {
        let result = unsealed(reply.body).and_then(|body| decode_result(&body).ok());
        return result.map_or(Forwarded::Broken, Forwarded::Done);
    }
    // A node that refuses does it before it has begun. Anything else on the way may have handed the
    // request on before it failed.
    match reply.header("kv-served-by") {
        Some(_) => Forwarded::NothingSent,
        None => Forwarded::Broken,
    }
}

/// A body with its checksum before it.
pub fn sealed(parts: &Parts) -> Bytes {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&parts.head);
    crc.update(&parts.value);
    let mut body = BytesMut::with_capacity(4 + parts.len());
    body.put_u32_le(crc.finalize());
    body.put_slice(&parts.head);
    body.put_slice(&parts.value);
    body.freeze()
}

/// What [`sealed`] made, without its checksum; `None` if it is not that.
pub fn unsealed(mut body: Bytes) -> Option<Bytes> {
    if body.len() < 4 {
        return None;
    }
    let stored = body.get_u32_le();
    (crc32fast::hash(&body) == stored).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::forward::decode_request;
    use crate::kv::request::{Condition, Failure, Outcome, Reason};

    fn reply(status: StatusCode, body: Bytes, served: bool) -> Reply {
        let mut headers = hyper::HeaderMap::new();
        if served {
            headers.insert("kv-served-by", HeaderValue::from_static("node1"));
        }
        Reply { status, headers, body }
    }

    #[test]
    fn a_byte_that_changes_on_the_way_is_noticed() {
        let request = Request::Put {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"value"),
            condition: Condition::default(),
        };
        let body = sealed(&encode_request(&request));
        assert_eq!(decode_request(&unsealed(body.clone()).unwrap()), Ok(request));
        for at in 0..body.len() {
            let mut changed = body.to_vec();
            changed[at] ^= 4;
            assert_eq!(unsealed(changed.into()), None, "byte {at}");
        }
        assert_eq!(unsealed(Bytes::from_static(b"abc")), None);
    }

    #[test]
    fn what_a_node_refuses_was_not_done_and_what_nobody_signs_may_have_been() {
        let refused = |served| read(reply(StatusCode::BAD_GATEWAY, Bytes::new(), served));
        assert_eq!(refused(true), Forwarded::NothingSent);
        assert_eq!(refused(false), Forwarded::Broken);
        assert_eq!(read(reply(StatusCode::OK, Bytes::new(), true)), Forwarded::Broken);
        let failure = Failure { reason: Reason::Busy, outcome: Some(Outcome::NotApplied) };
        let result = crate::kv::forward::encode_result(&Err(failure.clone()));
        let answer = read(reply(StatusCode::OK, sealed(&result), true));
        assert_eq!(answer, Forwarded::Done(Err(failure)));
    }
}
