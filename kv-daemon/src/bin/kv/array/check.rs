//! `kv carp check`: asks every node of every cluster for its array and compares them. Exit code 8
//! when they differ or one does not answer.

use carp::Array;
use futures_util::future::join_all;
use kv_daemon::client::ServerUrl;
use kv_daemon::client::wire::Call;
use serde_json::json;

use crate::exit::{Failed, UNHEALTHY};
use crate::output::{self, Table};
use crate::session::Session;

/// `kv carp check`.
pub async fn check(session: &Session) -> Result<(), Failed> {
    let newest = super::fetched(session, None).await?;
    let nodes: Vec<(String, ServerUrl)> = newest
        .members()
        .iter()
        .flat_map(|member| member.urls.iter().map(|url| (member.id.to_string(), url)))
        .filter_map(|(name, url)| Some((name, url.parse().ok()?)))
        .collect();
    let copies = join_all(nodes.iter().map(|(_, server)| copy(session, server))).await;
    // A node may have a newer one than the one we were told: all are held against the newest.
    let newest = copies
        .iter()
        .flatten()
        .fold(&newest, |newest, copy| if newest.epoch() < copy.epoch() { copy } else { newest });

    let mut table = Table::new(&["cluster", "server", ">epoch", "array"]);
    let mut found = Vec::new();
    let mut wrong = 0;
    for ((cluster, server), copy) in nodes.iter().zip(&copies) {
        let said = match copy {
            Ok(copy) if copy == newest => "same".to_owned(),
            Ok(copy) if copy.epoch() == newest.epoch() => "differs at one epoch".to_owned(),
            Ok(copy) => format!("older; {} slots have moved since", copy.diff(newest).len()),
            Err(why) => why.clone(),
        };
        let agrees = said == "same";
        wrong += usize::from(!agrees);
        let epoch = copy.as_ref().ok().map(Array::epoch);
        found.push(json!({
            "cluster": cluster, "server": server.to_string(), "epoch": epoch, "agrees": agrees,
            "said": said,
        }));
        let epoch = epoch.map_or("-".to_owned(), |epoch| epoch.to_string());
        table.row([cluster.clone(), server.to_string(), epoch, said]);
    }
    let document = json!({ "epoch": newest.epoch(), "agree": wrong == 0, "nodes": found });
    output::data(session.format, &table, &document)?;
    if wrong == 0 {
        session.note(format!("all {} nodes have epoch {}", nodes.len(), newest.epoch()));
        return Ok(());
    }
    Err(Failed::new(UNHEALTHY, format!("{wrong} of {} nodes do not have it", nodes.len())))
}

async fn copy(session: &Session, server: &ServerUrl) -> Result<Array, String> {
    let reply = session.client.ask_server(server, Call::get("/carp")).await;
    let reply = reply.map_err(|error| error.to_string())?;
    match reply.status.as_u16() {
        200 => Array::from_json(&reply.body).map_err(|fault| fault.to_string()),
        404 => Err("knows of no array".to_owned()),
        status => Err(format!("status {status}")),
    }
}
