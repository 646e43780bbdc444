//! `kv health` and `kv cluster-status`: how the nodes are, one by one, and how each cluster is, as
//! its leader sees it.

use futures_util::future::join_all;
use kv_daemon::client::wire::{Call, Reply};
use kv_daemon::client::{Error, ServerUrl};
use serde_json::{Value, json};

use crate::exit::{Failed, NO_SERVER, UNHEALTHY};
use crate::output::{self, Table, field};
use crate::session::Session;

/// A cluster by the name the array gives it, if there is one, and its servers.
struct Cluster {
    name: Option<String>,
    servers: Vec<ServerUrl>,
}

/// `kv health`: 0 when all are well, 8 when some are not, 3 when nobody answers.
pub async fn health(session: &Session) -> Result<(), Failed> {
    let clusters = clusters(session).await;
    let nodes: Vec<(Option<String>, ServerUrl)> = clusters
        .into_iter()
        .flat_map(|cluster| cluster.servers.into_iter().map(move |it| (cluster.name.clone(), it)))
        .collect();
    let asked =
        nodes.iter().map(|(_, server)| session.client.ask_server(server, Call::get("/health")));
    let replies = join_all(asked).await;

    let mut table = Table::new(&["cluster", "server", "id", "role", "leader", ">term", "status"]);
    let mut found = Vec::new();
    let (mut answered, mut well) = (0, 0);
    for ((cluster, server), reply) in nodes.iter().zip(&replies) {
        let health = reply.as_ref().ok().and_then(document);
        answered += usize::from(health.is_some());
        let ok = health.as_ref().is_some_and(|health| health["status"] == "ok");
        well += usize::from(ok);
        let status = match (&health, reply) {
            (Some(health), _) => field(&health["status"]),
            (None, Ok(reply)) => format!("answers with status {}", reply.status.as_u16()),
            (None, Err(error)) => reason(error),
        };
        let known = health.clone().unwrap_or_default();
        table.row([
            cluster.clone().unwrap_or_else(|| "-".to_owned()),
            server.to_string(),
            field(&known["id"]),
            field(&known["role"]),
            field(&known["leader"]),
            field(&known["term"]),
            status.clone(),
        ]);
        found.push(json!({
            "cluster": cluster, "server": server.to_string(), "ok": ok, "status": status,
            "health": health,
        }));
    }
    output::data(session.format, &table, &json!({ "ok": well == nodes.len(), "nodes": found }))?;
    match (answered, well) {
        (0, _) => Err(Failed::new(NO_SERVER, "nobody answers")),
        (_, well) if well == nodes.len() => Ok(()),
        _ => Err(Failed::new(UNHEALTHY, format!("{well} of {} nodes are well", nodes.len()))),
    }
}

/// `kv cluster-status`: 0 when every cluster tells, 8 when some do not, 3 when none does.
pub async fn status(session: &Session) -> Result<(), Failed> {
    let clusters = clusters(session).await;
    let told = join_all(clusters.iter().map(|cluster| told(session, cluster))).await;

    let headings =
        ["cluster", "member", "role", "url", "reachable", ">match", ">lag", ">rtt ms", "problem"];
    let mut table = Table::new(&headings);
    let mut found = Vec::new();
    for (cluster, told) in clusters.iter().zip(&told) {
        let name = cluster.name.clone().unwrap_or_else(|| "-".to_owned());
        match told {
            Ok(status) => {
                for member in status["members"].as_array().into_iter().flatten() {
                    let fields = ["id", "role", "url", "reachable", "match_index", "lag", "rtt_ms"];
                    let fields = fields.map(|name| field(&member[name]));
                    let problem = field(&member["problem"]);
                    table.row([name.clone()].into_iter().chain(fields).chain([problem]));
                }
                session.note(format!(
                    "{name}: leader {}, term {}, revision {}, {} may fail",
                    field(&status["leader"]),
                    field(&status["term"]),
                    field(&status["revision"]),
                    field(&status["failure_tolerance"]),
                ));
            }
            Err(why) => session.note(format!("{name}: {why}")),
        }
        let (status, error) = (told.as_ref().ok(), told.as_ref().err());
        found.push(json!({ "name": cluster.name, "status": status, "error": error }));
    }
    output::data(session.format, &table, &json!({ "clusters": found }))?;
    match told.iter().filter(|told| told.is_err()).count() {
        0 => Ok(()),
        silent if silent == told.len() => Err(Failed::new(NO_SERVER, "no cluster tells")),
        silent => {
            Err(Failed::new(UNHEALTHY, format!("{silent} of {} clusters do not tell", told.len())))
        }
    }
}

/// The clusters of the array; without one, that of the servers that were named.
async fn clusters(session: &Session) -> Vec<Cluster> {
    let given = || Cluster { name: None, servers: session.client.settings().servers.clone() };
    // That nobody answers will show when they are asked themselves.
    match session.client.array().await {
        Ok(Some(array)) => array
            .members()
            .iter()
            .map(|member| Cluster {
                name: Some(member.id.to_string()),
                servers: member.urls.iter().filter_map(|url| url.parse().ok()).collect(),
            })
            .collect(),
        Ok(None) | Err(_) => vec![given()],
    }
}

/// What the leader of a cluster says of it, or any node if no leader says anything.
async fn told(session: &Session, cluster: &Cluster) -> Result<Value, String> {
    let mut why = "has no servers".to_owned();
    for server in &cluster.servers {
        let status = match status_of(session, server).await {
            Ok(status) => status,
            Err(error) => {
                why = error;
                continue;
            }
        };
        let leader = status["leader_url"].as_str().and_then(|url| url.parse::<ServerUrl>().ok());
        return Ok(match leader {
            Some(leader) if leader != *server => {
                status_of(session, &leader).await.unwrap_or(status)
            }
            _ => status,
        });
    }
    Err(why)
}

async fn status_of(session: &Session, server: &ServerUrl) -> Result<Value, String> {
    let reply = session.client.ask_server(server, Call::get("/cluster/status")).await;
    let reply = reply.map_err(|error| error.to_string())?;
    let told = document(&reply).filter(|_| reply.status.is_success());
    told.ok_or_else(|| format!("{server} answers with status {}", reply.status.as_u16()))
}

/// The JSON object an answer holds.
fn document(reply: &Reply) -> Option<Value> {
    serde_json::from_slice(&reply.body).ok().filter(Value::is_object)
}

/// The reason alone: which server it was stands beside it.
fn reason(error: &Error) -> String {
    match error {
        Error::Unavailable(why) | Error::Timeout(why) => {
            why.split_once(": ").map_or(why.as_str(), |(_, why)| why).to_owned()
        }
        other => other.to_string(),
    }
}
