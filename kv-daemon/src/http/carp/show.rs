//! The map and what is in the slots, as this node has it.

use std::fmt::Write as _;

use carp::draft::table::{MembershipTable, TableMember};
use carp::slots::hashed_part;
use carp::{Admit, Array, MemberState, Ownership, Slot};
use serde::Serialize;
use serde_json::{Value, json};
use twox_hash::XxHash64;
use warp::http::header::ETAG;
use warp::http::{HeaderMap, HeaderValue, StatusCode};

use super::super::condition;
use super::super::reply::{self, Problem, Response};
use super::super::routes::{Asked, Refused, bad_param, nothing_else};
use super::owned;
use crate::kv::store::SlotLoad;
use crate::shard::follow::{CLUSTER, SETTLED};

/// Members of which a route tells how much they want the slot.
const RANKED: usize = 5;
/// Slots of `/carp/stats` that does not say how many it wants.
const TOP: u64 = 10;

/// `GET /carp`: the whole map as JSON. `?format=ranges` tells who owns which slots for people,
/// `?since=EPOCH` only what has changed, `?wait=EPOCH` waits for a newer map.
///
/// # Errors
/// 404 without a map.
pub async fn map(mut asked: Asked<'_>) -> Result<Response, Refused> {
    let wait = asked.params.take_number("wait").map_err(bad_param)?;
    let since = asked.params.take_number("since").map_err(bad_param)?;
    let format = asked.params.take_text("format").map_err(bad_param)?;
    std::mem::take(&mut asked.params).finish().map_err(bad_param)?;
    let condition = condition::of_headers(asked.headers).map_err(bad_param)?;
    if condition.if_match.is_some() {
        return Err(bad_param("`if-match` does not apply to this request; leave it out".into()));
    }
    if let Some(known) = wait {
        let mut epochs = asked.daemon.shard.epochs();
        let newer = epochs.wait_for(|epoch| known < *epoch);
        // Whether in time or not: what is there now is told.
        let _ = tokio::time::timeout_at(asked.deadline.into(), newer).await;
    }
    let own = owned(&asked)?;
    let (array, epoch) = (own.array(), own.array().epoch().0);
    let known = |tags| condition::matches(&tags, Some(epoch));
    let unchanged =
        condition.if_none_match.is_some_and(known) || wait.is_some_and(|known| epoch <= known);
    let mut response = match (unchanged, format.as_deref(), since) {
        (true, _, _) => reply::empty(StatusCode::NOT_MODIFIED),
        (false, None, None) => {
            reply::with_type(StatusCode::OK, "application/json", format!("{}\n", array.to_json()))
        }
        (false, None, Some(since)) => changes(&asked, array, since),
        (false, Some("ranges"), None) => reply::json(StatusCode::OK, &ranges(array), asked.pretty),
        _ => return Err(bad_param("give `format=ranges` or `since=EPOCH`, not both".to_owned())),
    };
    headers(response.headers_mut(), &own);
    Ok(response)
}

/// `GET /carp.txt`: the table of the CARP draft.
///
/// # Errors
/// 404 without a map; 409 for one that the draft cannot say.
pub fn text(mut asked: Asked<'_>) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    let own = owned(&asked)?;
    let array = own.array();
    let member = |(at, member): (usize, &carp::Member)| {
        let url = member.urls.first()?;
        let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        let (address, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        Some(TableMember {
            name: member.id.to_string(),
            address: address.to_owned(),
            port: port.parse().unwrap_or(80),
            table_url: format!("http://{authority}/carp.txt"),
            // Whoever reads this must not place keys by the draft's hash.
            agent: "kv-daemon(slots,see-/carp)".to_owned(),
            state_time_s: 0,
            up: member.state == MemberState::Active,
            load_factor: member.share().max(1),
            cache_mb: u32::try_from(array.counts()[at]).unwrap_or(u32::MAX),
        })
    };
    let table = MembershipTable {
        enabled: true,
        config_id: array.epoch().0 as u32,
        array_name: array.name().to_owned(),
        list_ttl_s: array.ttl_s(),
        members: array.members().iter().enumerate().filter_map(member).collect(),
    };
    match table.to_text() {
        Ok(text) => Ok(reply::text(StatusCode::OK, text)),
        Err(fault) => {
            let title = "the draft has no words for this map";
            Err(Problem::new(StatusCode::CONFLICT, "no-text", title, format!("{fault}.")))
        }
    }
}

/// `GET /carp/route?key=`: whose key it is, and why.
///
/// # Errors
/// 404 without a map.
pub fn route(mut asked: Asked<'_>) -> Result<Response, Refused> {
    let key = asked.params.take("key");
    nothing_else(&mut asked)?;
    let key = key.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| bad_param("`key` says which key".to_owned()))?;
    let own = owned(&asked)?;
    let slot = own.array().slot(&key);
    let mut told = slot_told(&own, slot);
    let hashed = hashed_part(&key);
    told["hashed"] = json!(String::from_utf8_lossy(hashed));
    told["key"] = json!(String::from_utf8_lossy(&key));
    Ok(reply::json(StatusCode::OK, &told, asked.pretty))
}

/// `GET /carp/slots/{n}`.
///
/// # Errors
/// 404 without a map or without that slot.
pub fn slot(mut asked: Asked<'_>, number: &str) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    let own = owned(&asked)?;
    let slot = number.parse().ok().map(Slot).filter(|slot| own.array().slots().holds(*slot));
    let slot = slot.ok_or_else(|| {
        let last = own.array().slots().count() - 1;
        let detail = format!("Slots are numbered from 0 to {last}.");
        Problem::new(StatusCode::NOT_FOUND, "no-slot", "there is no such slot", detail)
    })?;
    Ok(reply::json(StatusCode::OK, &slot_told(&own, slot), asked.pretty))
}

/// `GET /carp/stats`: what this cluster holds, and its fullest slots (`?top=`, 10).
///
/// # Errors
/// 404 without a map.
pub async fn stats(mut asked: Asked<'_>) -> Result<Response, Refused> {
    #[derive(Serialize)]
    struct Load {
        slot: usize,
        keys: u64,
        bytes: u64,
    }
    let top = asked.params.take_number("top").map_err(bad_param)?.unwrap_or(TOP);
    nothing_else(&mut asked)?;
    let own = owned(&asked)?;
    let view = super::super::operate::serving(&asked)?.store.view();
    let (keys, bytes) = (view.keys(), view.bytes());
    // Walks every key, outside of the lock and of the runtime's own threads.
    let loads = match top {
        0 => Vec::new(),
        _ => tokio::task::spawn_blocking(move || view.slot_loads()).await.unwrap_or_default(),
    };
    let held = |(_, load): &(usize, SlotLoad)| 0 < load.keys;
    let mut held: Vec<(usize, SlotLoad)> = loads.into_iter().enumerate().filter(held).collect();
    held.sort_by_key(|(slot, load)| (std::cmp::Reverse((load.bytes, load.keys)), *slot));
    let slots_in_use = held.len();
    held.truncate(usize::try_from(top).unwrap_or(usize::MAX));
    let top: Vec<Load> = held
        .into_iter()
        .map(|(slot, SlotLoad { keys, bytes })| Load { slot, keys, bytes })
        .collect();
    let shard = &asked.daemon.shard;
    let count =
        |number: &std::sync::atomic::AtomicU64| number.load(std::sync::atomic::Ordering::Relaxed);
    let applied = own.applied();
    let told = json!({
        "cluster": own.me(), "array": own.array().name(),
        "epoch": applied.epoch, "settled": applied.settled, "digest": digest(own.array()),
        "slots": own.array().slots().count(), "slots_owned": own.serving(),
        "slots_coming": own.coming(), "slots_in_use": slots_in_use,
        "keys": keys, "bytes": bytes,
        "forwarded": count(&shard.forwarded), "misdirected": count(&shard.misdirected),
        "members": members(own.array()), "top": top,
    });
    Ok(reply::json(StatusCode::OK, &told, asked.pretty))
}

/// 16 hex digits, equal for equal maps.
pub fn digest(array: &Array) -> String {
    format!("{:016x}", XxHash64::oneshot(0, array.to_json().as_bytes()))
}

/// What an answer says of who tells it.
fn headers(headers: &mut HeaderMap, own: &Ownership) {
    let epoch = condition::etag(own.array().epoch().0);
    for (name, text) in [
        (ETAG.as_str(), epoch),
        (CLUSTER, own.me().to_string()),
        (SETTLED, own.applied().settled.to_string()),
    ] {
        let value = HeaderValue::from_str(&text).expect("names and digits are visible ASCII");
        headers.insert(name.parse::<warp::http::HeaderName>().expect("our own names"), value);
    }
}

/// Only what has changed since a map that was in force here, or the whole map if it is not known
/// any more.
fn changes(asked: &Asked<'_>, array: &Array, since: u64) -> Response {
    let Some(earlier) = asked.daemon.shard.earlier(since) else {
        let whole = format!("{}\n", array.to_json());
        return reply::with_type(StatusCode::OK, "application/json", whole);
    };
    let changes: Vec<Value> = earlier
        .diff(array)
        .into_iter()
        .map(|change| {
            json!({
                "slot": change.slot, "owner": change.to, "slot_epoch": array.slot_epoch(change.slot),
            })
        })
        .collect();
    let told = json!({
        "name": array.name(), "epoch": array.epoch(), "since": since,
        "members": members(array), "changes": changes,
    });
    reply::json(StatusCode::OK, &told, asked.pretty)
}

fn members(array: &Array) -> Vec<Value> {
    let member = |(member, slots): (&carp::Member, usize)| {
        json!({
            "id": member.id, "weight": member.weight, "state": member.state,
            "urls": member.urls, "slots": slots,
        })
    };
    array.members().iter().zip(array.counts()).map(member).collect()
}

/// The members with their slots as `0-3,7`.
fn ranges(array: &Array) -> Value {
    let mut texts = vec![String::new(); array.members().len()];
    let mut runs: Vec<(usize, Slot, Slot)> = Vec::new();
    for slot in array.slots().all() {
        let owner = array.owner(slot).map(|owner| &owner.id);
        let place = array.members().iter().position(|member| Some(&member.id) == owner);
        let Some(place) = place else { continue };
        match runs.last_mut() {
            Some((last, _, end)) if *last == place => *end = slot,
            _ => runs.push((place, slot, slot)),
        }
    }
    for (place, first, last) in runs {
        let text = &mut texts[place];
        let comma = if text.is_empty() { "" } else { "," };
        let written = match first == last {
            true => write!(text, "{comma}{first}"),
            false => write!(text, "{comma}{first}-{last}"),
        };
        written.expect("writing to a string cannot fail");
    }
    let mut told = members(array);
    for (member, text) in told.iter_mut().zip(texts) {
        member["ranges"] = json!(text);
    }
    json!({ "name": array.name(), "epoch": array.epoch(), "members": told })
}

fn slot_told(own: &Ownership, slot: Slot) -> Value {
    let array = own.array();
    let owner = array.owner(slot).expect("the slot is one of the array's");
    let admit = own.admit(slot);
    let rank: Vec<&str> = array.rank(slot, RANKED).iter().map(|one| one.id.as_str()).collect();
    let why = match rank.first() {
        Some(first) if *first == owner.id.as_str() => {
            format!("{first} wants slot {slot} most of all members")
        }
        _ => format!(
            "{} took or kept slot {slot} so that quotas are met with the fewest moves",
            owner.id
        ),
    };
    let served_by = match admit {
        Admit::Serving => Some(own.me()),
        Admit::Elsewhere(owner) => Some(&owner.id),
        Admit::Coming(giver) => giver.map(|giver| &giver.id),
    };
    json!({
        "slot": slot, "owner": owner.id, "slot_epoch": array.slot_epoch(slot),
        "epoch": array.epoch(), "urls": owner.urls, "here": admit.word(), "served_by": served_by,
        "rank": rank, "why": why,
    })
}
