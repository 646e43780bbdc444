//! The task of a node that lives in an array: it notices which map is in force here, and while its
//! node leads, it asks the other clusters once a second for theirs. A newer map goes into our own
//! log, and so does what the others have let go of. Whether a map is taken the store decides; here
//! it is only proposed, and what is refused is said once.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use carp::array::Epoch;
use carp::ownership::{Applied, Giver};
use carp::{Array, MapRefused, MemberId};
use futures_util::future::join_all;
use hyper::StatusCode;
use hyper::header::{HeaderValue, IF_NONE_MATCH};
use raft_core::proposals::Outcome;

use crate::client::wire::Call;
use crate::daemon::{Asker, Daemon, Serving};
use crate::kv::command::Reply;
use crate::kv::request::Request;
use crate::kv::sharding::ShardCommand;

/// How often the map in force is looked at. Longer: long polls are answered later.
const LOOK: Duration = Duration::from_millis(25);
/// How often the others are asked. Longer: a change spreads more slowly.
const ASK: Duration = Duration::from_secs(1);
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a proposal may take before the next round tries again.
const PROPOSAL: Duration = Duration::from_secs(5);

/// Says which cluster answers.
pub const CLUSTER: &str = "carp-cluster";
/// Says up to which epoch that cluster has let go of everything: `carp::ownership::Applied`.
pub const SETTLED: &str = "carp-settled";

/// Runs as long as the node does.
pub async fn follow(daemon: Arc<Daemon>) {
    let mut asked = None;
    let mut said = Said::default();
    let mut seeded = false;
    while !daemon.is_stopping() {
        tokio::time::sleep(LOOK).await;
        let Some(serving) = daemon.serving() else { return };
        if let Some(own) = serving.store.ownership() {
            daemon.shard.turned(&own);
        }
        let leads = serving.handle.status().leads();
        if !leads || asked.is_some_and(|at: Instant| at.elapsed() < ASK) {
            continue;
        }
        asked = Some(Instant::now());
        if !seeded {
            seeded = seed(&daemon, serving, &mut said).await;
        }
        ask_others(&daemon, serving, &mut said).await;
    }
}

/// Proposes the map of `--carp`, if it is newer than the one in force. Whether that is settled.
async fn seed(daemon: &Daemon, serving: &Serving, said: &mut Said) -> bool {
    let (Some(seed), Some(me)) = (&daemon.shard.seed, &daemon.shard.name) else { return true };
    // Only a log that is read to its end tells which map is in force.
    if serving.handle.read_barrier(Some(Instant::now() + PATIENCE)).await.is_err() {
        return false;
    }
    let own = serving.store.ownership();
    let source = format!("--carp {}", seed.path);
    if let Some(own) = own.as_ref().filter(|own| own.me() != me) {
        let (ours, theirs) = (own.me().clone(), me.clone());
        said.refused(&source, &MapRefused::OtherName { ours, theirs });
        return true;
    }
    match seed.array(own.as_ref().map(|own| own.array())) {
        Err(fault) => {
            said.refused(&source, &MapRefused::Fault(fault));
            true
        }
        Ok(map) => propose(daemon, me, map, &source, said).await,
    }
}

/// Asks every other cluster for its map, takes the newest, and notes what they have let go of.
async fn ask_others(daemon: &Daemon, serving: &Serving, said: &mut Said) {
    let Some(own) = serving.store.ownership() else { return };
    let epoch = own.array().epoch();
    let others = own.others();
    let answers = others.iter().map(|other| ask(daemon, other, epoch));
    let answers: Vec<Result<Heard, String>> = join_all(answers).await;

    let mut newest: Option<(&MemberId, Array)> = None;
    let mut heard = BTreeMap::new();
    for (other, answer) in others.iter().zip(answers) {
        let applied = answer.map(|(applied, map)| {
            let newer =
                |map: &Array| newest.as_ref().is_none_or(|(_, best)| best.epoch() < map.epoch());
            if let Some(map) = map.filter(newer) {
                newest = Some((&other.id, map));
            }
            applied
        });
        heard.insert(other.id.clone(), applied);
    }
    *daemon.shard.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard.clone();
    if let Some((from, map)) = newest.filter(|(_, map)| epoch < map.epoch()) {
        propose(daemon, own.me(), map, from.as_str(), said).await;
    }
    let applied: BTreeMap<MemberId, Applied> =
        heard.into_iter().filter_map(|(id, said)| Some((id, said.ok()?))).collect();
    // The newer map may be in force by now.
    if serving.store.ownership().is_some_and(|own| own.would_adopt(&applied)) {
        let command = ShardCommand::Adopt { applied }.encode();
        let proposed = serving.handle.propose(command, Some(Instant::now() + PROPOSAL)).await;
        if let Outcome::Applied { reply: Reply::Adopted { changed: true }, .. } = proposed {
            let own = serving.store.ownership();
            let serving = own.map_or(0, |own| own.serving());
            log::info!("other clusters have let go of slots: this one serves {serving} now");
        }
    }
}

/// What a cluster said of itself, and its map if it is another than ours.
type Heard = (Applied, Option<Array>);

async fn ask(daemon: &Daemon, other: &Giver, ours: Epoch) -> Result<Heard, String> {
    let mut call = Call::get("/carp");
    let etag = HeaderValue::from_str(&format!("\"{ours}\"")).expect("digits and quotes");
    call.headers.insert(IF_NONE_MATCH, etag);
    let reply = daemon.shard.links.fetch(&other.id, &other.urls, &call, PATIENCE).await?;
    let cluster = reply.header(CLUSTER).unwrap_or_default();
    if cluster != other.id.as_str() {
        return Err(match cluster {
            "" => format!("nobody there knows of an array (status {})", reply.status),
            cluster => format!("{cluster} answers there"),
        });
    }
    let epoch = |name| reply.number(name).map(Epoch).ok_or(format!("it does not say {name}"));
    let applied = Applied { epoch: epoch("carp-epoch")?, settled: epoch(SETTLED)? };
    let map = match reply.status {
        StatusCode::OK => Some(Array::from_json(&reply.body).map_err(|fault| fault.to_string())?),
        _ => None,
    };
    Ok((applied, map))
}

/// Proposes a map. Whether its fate is settled.
async fn propose(
    daemon: &Daemon,
    me: &MemberId,
    map: Array,
    source: &str,
    said: &mut Said,
) -> bool {
    let Some(serving) = daemon.serving() else { return false };
    let state = (map.epoch(), serving.store.revision());
    if said.refused_at == Some(state) {
        return false;
    }
    // The same rules on a view, outside of the log: what is refused every second is not written
    // every second, and no pass walks the keys for it.
    let (view, name, judged) = (serving.store.view(), me.clone(), map.clone());
    let judged = tokio::task::spawn_blocking(move || view.judge_map(&name, judged)).await;
    match judged {
        Ok(Ok(None)) => return true,
        Ok(Ok(Some(_))) => {}
        Ok(Err(refused)) => {
            said.refused(source, &refused);
            said.refused_at = Some(state);
            // Keys may go away.
            return !matches!(refused, MapRefused::HoldsKeys { .. });
        }
        Err(_) => return false,
    }
    let epoch = map.epoch();
    let request = Request::SetMap { cluster: me.clone(), text: map.to_json().into() };
    match daemon.ask(request, Instant::now() + PROPOSAL, Asker::default()).await {
        Ok(_) => {
            log::info!("goes by the map of epoch {epoch}, from {source}");
            true
        }
        Err(failure) => {
            log::warn!(
                "the map of epoch {epoch} from {source} is not in the log: {:?}",
                failure.reason
            );
            false
        }
    }
}

/// What was said already.
#[derive(Default)]
struct Said {
    refused: Option<(String, MapRefused)>,
    /// The epoch that was refused last, and the store's revision then: as long as neither changes,
    /// it would be refused again.
    refused_at: Option<(Epoch, u64)>,
}

impl Said {
    /// Says once that a map is not taken; how many keys are in the way may change meanwhile.
    fn refused(&mut self, source: &str, why: &MapRefused) {
        let known = self.refused.as_ref().is_some_and(|(from, said)| {
            let keys = |why: &MapRefused| matches!(why, MapRefused::HoldsKeys { .. });
            from == source && (said == why || keys(said) && keys(why))
        });
        if !known {
            log::warn!("the map from {source} is not taken, the old one stays: {why}");
        }
        self.refused = Some((source.to_owned(), why.clone()));
    }
}
