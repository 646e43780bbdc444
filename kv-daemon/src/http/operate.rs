//! What operators and their machines ask: health, readiness, who leads, metrics, and the two orders
//! (hand over leadership, take a snapshot). What is shown comes from `status`.

use std::time::Instant;

use bytes::Buf;
use futures_util::Stream;
use raft_core::consensus::event::TransferFailure;
use raft_core::replica::SnapshotRefused;
use raft_core::types::NodeId;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::body;
use super::reply::{self, Problem, Response};
use super::routes::{Asked, Refused, bad_param, nothing_else};
use crate::daemon::{Serving, leader_url, name_of};
use crate::kv::request::{Failure, Reason};
use crate::status;

/// The largest body of an order.
const ORDER_BYTES_MAX: u64 = 4096;

/// `GET /`: what this is and what to try next.
///
/// # Errors
/// 400 for parameters it does not know, as everywhere below.
pub fn root(mut asked: Asked<'_>) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    Ok(reply::text(StatusCode::OK, status::welcome(asked.daemon)))
}

/// `GET /health`.
///
/// # Errors
/// As [`root`].
pub fn health(mut asked: Asked<'_>) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    let health = status::health(asked.daemon);
    let status = if health.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(reply::json(status, &health, asked.pretty))
}

/// `GET /livez`: never depends on a quorum, or a partition would restart every node.
///
/// # Errors
/// As [`root`].
pub fn livez(mut asked: Asked<'_>) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    Ok(match status::fatal(asked.daemon) {
        None => reply::text(StatusCode::OK, "ok\n"),
        Some(why) => reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    })
}

/// `GET /readyz`: whether to send clients here. `?exclude=` leaves checks out, `?noleader` that of
/// the leader, `?sync` adds a round through the leader, `?verbose` lists all.
///
/// # Errors
/// As [`root`].
pub async fn readyz(mut asked: Asked<'_>) -> Result<Response, Refused> {
    let verbose = asked.params.take_flag("verbose").map_err(bad_param)?;
    let no_leader = asked.params.take_flag("noleader").map_err(bad_param)?;
    let sync = asked.params.take_flag("sync").map_err(bad_param)?;
    let excluded = asked.params.take_text("exclude").map_err(bad_param)?.unwrap_or_default();
    nothing_else(&mut asked)?;

    let mut checks = status::checks(asked.daemon);
    let mut left_out: Vec<&str> = excluded.split(',').filter(|name| !name.is_empty()).collect();
    if let Some(name) = left_out.iter().find(|name| checks.iter().all(|c| c.name != **name)) {
        return Err(bad_param(format!("`exclude`: there is no check `{name}`")));
    }
    left_out.extend(no_leader.then_some("leader"));
    checks.retain(|check| !left_out.contains(&check.name));
    if sync {
        let fault = match asked.daemon.serving() {
            None => Some("no cluster yet".to_owned()),
            Some(serving) => {
                let barrier = serving.handle.read_barrier(Some(asked.deadline)).await;
                barrier.err().map(|why| format!("not confirmed by a leader: {why:?}"))
            }
        };
        checks.push(status::Check { name: "sync", fault });
    }
    let ready = checks.iter().all(|check| check.fault.is_none());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    for check in checks.iter().filter(|check| verbose || check.fault.is_some()) {
        match &check.fault {
            None => text.push_str(&format!("[+]{} ok\n", check.name)),
            Some(fault) => text.push_str(&format!("[-]{} failed: {fault}\n", check.name)),
        }
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    Ok(reply::text(status, text))
}

/// `GET /cluster/status`.
///
/// # Errors
/// 503 while the node belongs to no cluster.
pub fn cluster_status(mut asked: Asked<'_>) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    let serving = serving(&asked)?;
    Ok(reply::json(StatusCode::OK, &status::cluster(asked.daemon, serving), asked.pretty))
}

/// `GET /cluster/leader`.
///
/// # Errors
/// 503 while there is none.
pub fn leader(mut asked: Asked<'_>) -> Result<Response, Refused> {
    #[derive(Serialize)]
    struct Leader<'a> {
        id: &'a str,
        node_id: String,
        address: &'a str,
        url: String,
        term: u64,
    }
    nothing_else(&mut asked)?;
    let status = serving(&asked)?.handle.status();
    let member = status.leader().and_then(|id| status.core.membership.member(id).map(|m| (id, m)));
    let Some((id, member)) = member else {
        return Err(Failure { reason: Reason::NoLeader, outcome: None }.into());
    };
    let leader = Leader {
        id: &member.name,
        node_id: status::hex(id),
        address: &member.address,
        url: format!("http://{}", member.address),
        term: status.core.term.0,
    };
    Ok(reply::json(StatusCode::OK, &leader, asked.pretty))
}

/// `POST /cluster/leader` with `{"id": "node2"}`, or without a body for the best follower: 204 when
/// that node leads.
///
/// # Errors
/// 409 when this node does not lead, 404 for an unknown id, 504 when the other did not take over.
pub async fn transfer<S, B, E>(mut asked: Asked<'_>, body: S) -> Result<Response, Refused>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    struct Order {
        id: Option<String>,
    }
    nothing_else(&mut asked)?;
    let limits = &asked.daemon.limits;
    let bodies = &asked.daemon.bodies;
    let body =
        body::read(body, asked.headers, ORDER_BYTES_MAX, limits.body_timeout, bodies).await?;
    let order: Order = if body.bytes.is_empty() {
        Order::default()
    } else {
        serde_json::from_slice(&body.bytes).map_err(|error| {
            Problem::invalid(format!("The body is no order like {{\"id\":\"node2\"}}: {error}."))
        })?
    };
    let serving = serving(&asked)?;
    let status = serving.handle.status();
    let to = match &order.id {
        None => None,
        Some(wanted) => {
            let named = |(id, member): &(NodeId, &raft_core::membership::Member)| {
                member.name == *wanted || status::hex(*id) == *wanted
            };
            let found = status.core.membership.members().find(named);
            let (id, _) = found.ok_or_else(|| {
                Problem::new(
                    StatusCode::NOT_FOUND,
                    "no-node",
                    "there is no such member",
                    format!("GET /cluster/status lists the members; `{wanted}` is not among them."),
                )
            })?;
            Some(id)
        }
    };
    if status.leads() && to == Some(asked.daemon.node_id) {
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    }
    let failure = match serving.handle.transfer(to).await {
        Ok(leader) => {
            log::info!("leadership was handed to {} on request", name_of(&status, leader));
            return Ok(reply::empty(StatusCode::NO_CONTENT));
        }
        Err(failure) => failure,
    };
    Err(match failure {
        TransferFailure::NotLeader => {
            let detail = match leader_url(&serving.handle.status()) {
                Some(url) => format!("Ask the leader: POST {url}/cluster/leader."),
                None => "There is no leader to hand over.".to_owned(),
            };
            let title = "only the leader can hand over";
            Problem::new(StatusCode::CONFLICT, "not-leader", title, detail)
        }
        TransferFailure::NoSuchVoter => Problem::new(
            StatusCode::CONFLICT,
            "no-voter",
            "there is nobody to hand over to",
            "The node is no voter, or there is no other voter.",
        ),
        TransferFailure::TimedOut => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "transfer",
            "the other node did not take over in time",
            "This node leads on. See GET /cluster/status for who is behind or away.",
        ),
        TransferFailure::InProgress => Problem::new(
            StatusCode::CONFLICT,
            "transfer-in-progress",
            "leadership is being handed over already",
            "Wait for that to end.",
        )
        .retry(std::time::Duration::from_secs(1)),
    })
}

/// `POST /cluster/snapshot`: takes one now and drops the log below it.
///
/// # Errors
/// 409 while one is being written, 503 while one is being put back, 500 when the disk refused.
pub async fn snapshot(mut asked: Asked<'_>) -> Result<Response, Refused> {
    #[derive(Serialize)]
    struct Taken {
        index: u64,
        bytes: u64,
        took_ms: u128,
    }
    nothing_else(&mut asked)?;
    let serving = serving(&asked)?;
    let begun = Instant::now();
    let deadline = tokio::time::Instant::from_std(asked.deadline);
    let taken = tokio::time::timeout_at(deadline, serving.handle.snapshot_now()).await;
    let refused = match taken {
        Ok(Ok(meta)) => {
            let taken = Taken {
                index: meta.position.index.0,
                bytes: meta.body_bytes,
                took_ms: begun.elapsed().as_millis(),
            };
            return Ok(reply::json(StatusCode::OK, &taken, asked.pretty));
        }
        Ok(Err(SnapshotRefused::NothingNew)) => {
            // Asked twice: what was wanted is there.
            let index = serving.handle.status().core.snapshot.index.0;
            let taken = Taken { index, bytes: 0, took_ms: 0 };
            return Ok(reply::json(StatusCode::OK, &taken, asked.pretty));
        }
        Ok(Err(refused)) => refused,
        Err(_) => return Err(Failure { reason: Reason::Deadline, outcome: None }.into()),
    };
    Err(match refused {
        SnapshotRefused::InProgress => Problem::new(
            StatusCode::CONFLICT,
            "snapshot-in-progress",
            "a snapshot is being written",
            "Wait for that to end.",
        )
        .retry(std::time::Duration::from_secs(1)),
        SnapshotRefused::Restoring => Failure { reason: Reason::Restoring, outcome: None }.into(),
        SnapshotRefused::Failed(why) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "snapshot",
            "the snapshot could not be written",
            format!("{why}."),
        ),
        SnapshotRefused::Stopped | SnapshotRefused::NothingNew => {
            Failure { reason: Reason::ShuttingDown, outcome: None }.into()
        }
    })
}

/// `GET /metrics`, for Prometheus.
///
/// # Errors
/// As [`root`].
pub fn metrics(mut asked: Asked<'_>) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    let text = status::metrics(asked.daemon);
    Ok(reply::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}

/// `GET /config`: the settings, and the array as this node knows it.
///
/// # Errors
/// As [`root`].
pub fn config(mut asked: Asked<'_>) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    Ok(reply::json(StatusCode::OK, &status::config(asked.daemon), asked.pretty))
}

/// `GET /version`.
///
/// # Errors
/// As [`root`].
pub fn version(mut asked: Asked<'_>) -> Result<Response, Refused> {
    #[derive(Serialize)]
    struct Version {
        name: &'static str,
        version: &'static str,
    }
    nothing_else(&mut asked)?;
    let version = Version { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
    Ok(reply::json(StatusCode::OK, &version, asked.pretty))
}

/// The node, once it belongs to a cluster.
///
/// # Errors
/// 503: it does not yet.
pub fn serving<'a>(asked: &Asked<'a>) -> Result<&'a Serving, Refused> {
    asked.daemon.serving().ok_or_else(|| Failure { reason: Reason::Forming, outcome: None }.into())
}
