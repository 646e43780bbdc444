//! `kv carp stats`: what each cluster holds, and its fullest slots. One node of each is asked.

use futures_util::future::join_all;
use kv_daemon::client::wire::Call;
use serde_json::{Value, json};

use crate::args::StatsArgs;
use crate::exit::{Failed, NO_SERVER, UNHEALTHY};
use crate::output::{self, Table};
use crate::session::Session;

/// `kv carp stats`: 0 when every cluster tells, 8 when some do not, 3 when none does.
pub async fn stats(session: &Session, args: &StatsArgs) -> Result<(), Failed> {
    let array = super::fetched(session, None).await?;
    let told = array.members().iter().map(|member| told(session, &member.urls, args.top));
    let told = join_all(told).await;

    let mut table = Table::new(&[
        "cluster",
        ">epoch",
        ">slots",
        ">coming",
        ">in use",
        ">keys",
        ">bytes",
        ">forwarded",
        ">redirected",
    ]);
    let mut full = Table::new(&["cluster", ">slot", ">keys", ">bytes"]);
    let mut found = Vec::new();
    for (member, told) in array.members().iter().zip(&told) {
        let fields = [
            "epoch",
            "slots_owned",
            "slots_coming",
            "slots_in_use",
            "keys",
            "bytes",
            "forwarded",
            "misdirected",
        ];
        let stats = told.as_ref().ok();
        let field =
            |name| stats.map_or_else(|| "-".to_owned(), |stats| output::field(&stats[name]));
        table.row([member.id.to_string()].into_iter().chain(fields.map(field)));
        for slot in stats.and_then(|stats| stats["top"].as_array()).into_iter().flatten() {
            let numbers = ["slot", "keys", "bytes"].map(|name| output::field(&slot[name]));
            full.row([member.id.to_string()].into_iter().chain(numbers));
        }
        if let Err(why) = told {
            session.note(format!("{}: {why}", member.id));
        }
        found.push(json!({ "name": member.id, "stats": stats, "error": told.as_ref().err() }));
    }
    let shown = if 0 < args.top { &full } else { &table };
    output::data(session.format, shown, &json!({ "clusters": found }))?;
    match told.iter().filter(|told| told.is_err()).count() {
        0 => Ok(()),
        silent if silent == told.len() => Err(Failed::new(NO_SERVER, "no cluster tells")),
        silent => {
            let all = told.len();
            Err(Failed::new(UNHEALTHY, format!("{silent} of {all} clusters do not tell")))
        }
    }
}

async fn told(session: &Session, urls: &[String], top: u64) -> Result<Value, String> {
    let mut why = "it has no URL".to_owned();
    for server in urls.iter().filter_map(|url| url.parse().ok()) {
        let call = Call::get(format!("/carp/stats?top={}", top.max(1)));
        match session.client.ask_server(&server, call).await {
            Ok(reply) if reply.status.is_success() => {
                return serde_json::from_slice(&reply.body).map_err(|error| error.to_string());
            }
            Ok(reply) => why = format!("{server} answers with status {}", reply.status.as_u16()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}
