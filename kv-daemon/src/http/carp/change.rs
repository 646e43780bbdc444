//! A new map, a plan for one, and the question whether all clusters have the same. A map goes into
//! the log or nowhere: the answer to `PUT /carp` comes when it is in force here.

use std::time::Duration;

use bytes::{Buf, Bytes};
use carp::array::Member;
use carp::json::JSON_BYTES_MAX;
use carp::{Array, ArrayFault, Change, MemberId};
use futures_util::Stream;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use warp::http::StatusCode;

use super::super::body;
use super::super::reply::{self, Problem, Response};
use super::super::routes::{Asked, Refused, bad_param, nothing_else};
use super::owned;
use super::show::digest;
use crate::client::wire::Call;
use crate::daemon::Asker;
use crate::kv::request::{Answer, Failure, Outcome, Reason, Request};
use crate::shard::follow::{CLUSTER, SETTLED};

/// The largest change to plan.
const CHANGE_BYTES_MAX: u64 = 64 << 10;
/// How long one cluster may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(2);

/// `PUT /carp`: go by this map. 200 when it is in force here; the other clusters fetch it.
///
/// # Errors
/// 400 for what is no map, 409 for one that must not follow the one in force or by which keys would
/// be lost, and what the service says.
pub async fn put<S, B, E>(mut asked: Asked<'_>, body: S) -> Result<Response, Refused>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    nothing_else(&mut asked)?;
    let text = read(&asked, body, JSON_BYTES_MAX as u64).await?;
    let serving = super::super::operate::serving(&asked)?;
    let own = serving.store.ownership();
    let named = own.as_ref().map(|own| own.me().clone()).or(asked.daemon.shard.name.clone());
    let cluster = named.ok_or_else(|| {
        refused("This cluster has no name yet: start its nodes with --cluster-name.".to_owned())
    })?;
    // A fresh table of many members takes a while to work out.
    let map = tokio::task::spawn_blocking(move || match own {
        Some(own) => own.array().asked_by_json(&text),
        None => Array::found_from_json(&text),
    });
    let map = map.await.map_err(|_| internal())?.map_err(fault)?;
    let request = Request::SetMap { cluster, text: map.to_json().into() };
    match asked.daemon.ask(request, asked.deadline, Asker::default()).await {
        Ok(Answer::MapSet { epoch, changed }) => {
            let told = json!({ "epoch": epoch, "changed": changed });
            Ok(reply::json(StatusCode::OK, &told, asked.pretty))
        }
        Ok(_) => Err(internal()),
        Err(Failure { reason: Reason::MapRefused { why }, .. }) => Err(refused(sentence(&why))),
        Err(failure) => Err(failure.into()),
    }
}

/// `POST /carp/plan`: what a change would move. Makes nothing.
///
/// # Errors
/// 400 for what is no change, 409 for one that cannot be made.
pub async fn plan<S, B, E>(mut asked: Asked<'_>, body: S) -> Result<Response, Refused>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    nothing_else(&mut asked)?;
    let text = read(&asked, body, CHANGE_BYTES_MAX).await?;
    let change: ChangeText = serde_json::from_slice(&text).map_err(|error| {
        let like =
            "{\"add\":{\"id\":\"c\",\"urls\":[\"http://127.0.0.1:8003\"]}}, {\"drain\":\"c\"}";
        Problem::invalid(format!("The body is no change like {like}: {error}."))
    })?;
    let own = owned(&asked)?;
    let planned = tokio::task::spawn_blocking(move || {
        let plan = own.array().plan(change.change())?;
        let mut after = own.array().clone();
        after.apply_plan(&plan).map(|()| (own, plan, after))
    });
    let (own, plan, after) = planned.await.map_err(|_| internal())?.map_err(|error| {
        let title = "this change cannot be made";
        Problem::new(StatusCode::CONFLICT, "plan", title, sentence(&error.to_string()))
    })?;
    let before = own.array();
    let slots = |array: &Array, id: &MemberId| {
        let place = array.members().iter().position(|member| member.id == *id);
        place.map_or(0, |place| array.counts()[place])
    };
    let gone = before.members().iter().filter(|member| after.member(&member.id).is_none());
    let members: Vec<Value> = after
        .members()
        .iter()
        .map(|member| (member, json!(member.state)))
        .chain(gone.map(|member| (member, json!("removed"))))
        .map(|(member, state)| {
            let (now, then) = (slots(before, &member.id), slots(&after, &member.id));
            json!({
                "id": member.id, "weight": member.weight, "state": state,
                "slots_now": now, "slots_then": then,
            })
        })
        .collect();
    let moves: Vec<Value> = plan
        .moves()
        .iter()
        .map(|one| json!({ "from": one.from, "to": one.to, "slots": one.slots.len() }))
        .collect();
    let map: Value = serde_json::from_str(&after.to_json()).map_err(|_| internal())?;
    let told = json!({
        "epoch": before.epoch(), "epoch_then": after.epoch(), "slots": before.slots().count(),
        "moved": plan.moved(), "least": plan.least(), "moved_fraction": plan.moved_fraction(),
        "members": members, "moves": moves, "map": map,
    });
    Ok(reply::json(StatusCode::OK, &told, asked.pretty))
}

/// `POST /carp/check`: asks a node of every cluster for its map. 200 whatever they say.
///
/// # Errors
/// 404 without a map.
pub async fn check(mut asked: Asked<'_>) -> Result<Response, Refused> {
    nothing_else(&mut asked)?;
    let own = owned(&asked)?;
    let ours = own.array();
    let mut clusters = vec![json!({
        "id": own.me(), "epoch": ours.epoch(), "settled": own.applied().settled, "agrees": true,
        "digest": digest(ours), "said": "same",
    })];
    let others = own.others();
    let asks = others.iter().map(|other| async {
        let call = Call::get("/carp");
        asked.daemon.shard.links.fetch(&other.id, &other.urls, &call, PATIENCE).await
    });
    for (other, answer) in others.iter().zip(join_all(asks).await) {
        let told = answer.and_then(|reply| {
            let cluster = reply.header(CLUSTER).unwrap_or_default();
            if cluster != other.id.as_str() {
                return Err(format!("status {}, cluster `{cluster}`", reply.status));
            }
            let settled = reply.number(SETTLED);
            let map = Array::from_json(&reply.body).map_err(|fault| fault.to_string())?;
            Ok((map, settled))
        });
        clusters.push(match told {
            Ok((map, settled)) => {
                let said = match map.epoch().cmp(&ours.epoch()) {
                    std::cmp::Ordering::Less => "older",
                    std::cmp::Ordering::Greater => "newer",
                    std::cmp::Ordering::Equal if map == *ours => "same",
                    std::cmp::Ordering::Equal => "differs at one epoch",
                };
                json!({
                    "id": other.id, "epoch": map.epoch(), "settled": settled,
                    "agrees": said == "same", "digest": digest(&map), "said": said,
                })
            }
            Err(why) => json!({ "id": other.id, "agrees": false, "said": why }),
        });
    }
    let agree = clusters.iter().all(|cluster| cluster["agrees"] == true);
    let told = json!({ "agree": agree, "epoch": ours.epoch(), "clusters": clusters });
    Ok(reply::json(StatusCode::OK, &told, asked.pretty))
}

/// A change as a client writes it.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum ChangeText {
    Add {
        id: MemberId,
        #[serde(default = "one")]
        weight: u32,
        #[serde(default)]
        urls: Vec<String>,
    },
    Drain(MemberId),
    Remove(MemberId),
    Weight {
        id: MemberId,
        weight: u32,
    },
    Keeper(MemberId),
}

impl ChangeText {
    fn change(self) -> Change {
        match self {
            ChangeText::Add { id, weight, urls } => {
                Change::Add(Member { weight, ..Member::new(id, urls) })
            }
            ChangeText::Drain(id) => Change::Drain(id),
            ChangeText::Remove(id) => Change::Remove(id),
            ChangeText::Weight { id, weight } => Change::Weight(id, weight),
            ChangeText::Keeper(id) => Change::Keeper(id),
        }
    }
}

fn one() -> u32 {
    1
}

async fn read<S, B, E>(asked: &Asked<'_>, body: S, bytes_max: u64) -> Result<Bytes, Refused>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let (limits, bodies) = (&asked.daemon.limits, &asked.daemon.bodies);
    let read = body::read(body, asked.headers, bytes_max, limits.body_timeout, bodies).await;
    match read {
        Ok(body) => Ok(body.bytes),
        Err(body::BodyFault::TooLarge { bytes_max }) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "the body is larger than allowed",
            format!("At most {} are allowed.", crate::units::size(bytes_max)),
        )),
        Err(fault) => Err(fault.into()),
    }
}

/// A text that is no map is one thing, a map that must not follow ours is another.
fn fault(fault: ArrayFault) -> Refused {
    let conflict = matches!(
        fault,
        ArrayFault::EpochWentBack { .. }
            | ArrayFault::TwoOfOneEpoch(_)
            | ArrayFault::SlotEpochWentBack(_)
            | ArrayFault::OtherArray { .. }
    );
    let why = sentence(&fault.to_string());
    let mut problem =
        if conflict { refused(why) } else { bad_param(why.trim_end_matches('.').into()) };
    problem.outcome = Some(Outcome::NotApplied);
    problem
}

fn refused(why: String) -> Refused {
    Failure { reason: Reason::MapRefused { why }, outcome: Some(Outcome::NotApplied) }.into()
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    let end = if text.ends_with('.') { "" } else { "." };
    first.into_iter().flatten().chain(letters).chain(end.chars()).collect()
}

fn internal() -> Refused {
    let title = "something went wrong here";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title, "This is a bug; report it.")
}
