//! `POST /carp/ask`: a request of another cluster, as `kv::forward` writes it; see `shard::links`.
//! What comes of it is the body of a 200, also when it failed; every other status means that the
//! request was not begun.

use std::time::{Duration, Instant};

use bytes::Buf;
use futures_util::Stream;
use warp::http::StatusCode;

use super::super::body;
use super::super::keys::asker;
use super::super::reply::{self, Problem, Response};
use super::super::routes::{Asked, Refused, bad_param, nothing_else};
use crate::daemon::Asker;
use crate::kv::forward::{decode_request, encode_result};
use crate::kv::request::Request;
use crate::shard::links::{TIME_LEFT, sealed, unsealed};

/// What a request has around its value.
const HEAD_BYTES_MAX: u64 = 1 << 20;

/// The content type of both bodies.
const CONTENT: &str = "application/octet-stream";

/// Answers a request of another cluster.
///
/// # Errors
/// 400 when it is none.
pub async fn ask<S, B, E>(mut asked: Asked<'_>, body: S) -> Result<Response, Refused>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    nothing_else(&mut asked)?;
    let (daemon, limits) = (asked.daemon, &asked.daemon.limits);
    let asker = Asker { epoch: None, ..asker(asked.headers)? };
    let left = asked.headers.get(TIME_LEFT).and_then(|left| left.to_str().ok()?.parse().ok());
    let left =
        Duration::from_millis(left.ok_or_else(|| {
            bad_param(format!("`{TIME_LEFT}` says how long an answer is of use"))
        })?);
    let bytes_max = daemon.value_bytes_max + HEAD_BYTES_MAX;
    let patience = limits.body_timeout;
    let body = body::read(body, asked.headers, bytes_max, patience, &daemon.bodies).await?;
    let wrong =
        |why: String| Problem::invalid(format!("The body is no request of a cluster: {why}."));
    let request = unsealed(body.bytes.clone());
    let request = request.ok_or_else(|| wrong("its checksum does not fit".to_owned()))?;
    let request = decode_request(&request).map_err(|fault| wrong(fault.0))?;
    if matches!(request, Request::SetMap { .. }) {
        return Err(wrong("maps are taken by PUT /carp".to_owned()));
    }
    let result = daemon.ask(request, Instant::now() + left, asker).await;
    Ok(reply::with_type(StatusCode::OK, CONTENT, sealed(&encode_result(&result))))
}
