//! `kv dev status`, and what `kv dev up` says when all is ready.

use std::io::Write;
use std::path::Path;

use kv_daemon::client::ServerUrl;
use kv_daemon::client::wire::Call;
use serde_json::json;

use super::layout::{CARP_FILE, Layout};
use super::state::State;
use crate::args::Format;
use crate::exit::{Failed, NO_SERVER, UNHEALTHY};
use crate::output::{self, Table};
use crate::session::Session;

/// `kv dev status`: 0 when all nodes run and are ready, 8 when some do not, 3 when none runs.
pub async fn status(session: &Session, dir: &Path) -> Result<(), Failed> {
    let Some(state) = State::load(dir)? else {
        return Err(Failed::new(NO_SERVER, format!("there is nothing in {}", dir.display())));
    };
    let mut table = Table::new(&["cluster", "node", "url", ">process", "state"]);
    let mut found = Vec::new();
    let (mut running, mut ready, mut all) = (0, 0, 0);
    for (cluster, node) in state.layout.nodes() {
        let process = state.nodes.get(&node.name).filter(|process| process.runs());
        let said = match process {
            None => "stopped",
            Some(_) if is_ready(session, &node.url()).await => "ready",
            Some(_) => "not ready",
        };
        all += 1;
        running += usize::from(process.is_some());
        ready += usize::from(said == "ready");
        let pid = process.map(|process| process.pid);
        table.row([
            cluster.name.clone(),
            node.name.clone(),
            node.url().to_string(),
            pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            said.to_owned(),
        ]);
        found.push(json!({
            "cluster": cluster.name, "node": node.name, "url": node.url().to_string(),
            "process": pid, "state": said,
        }));
    }
    output::data(session.format, &table, &json!({ "nodes": found }))?;
    match (running, ready) {
        (0, _) => Err(Failed::new(NO_SERVER, "no node runs")),
        (_, ready) if ready == all => Ok(()),
        _ => Err(Failed::new(UNHEALTHY, format!("{ready} of {all} nodes are ready"))),
    }
}

/// Where everybody is, and what to try next.
pub fn tell(session: &Session, dir: &Path, layout: &Layout) -> Result<(), Failed> {
    let mut table = Table::new(&["cluster", "node", "url", "data"]);
    for (cluster, node) in layout.nodes() {
        let data = dir.join(&node.name).display().to_string();
        table.row([cluster.name.clone(), node.name.clone(), node.url().to_string(), data]);
    }
    let mut out = output::stdout();
    match session.format {
        // Whoever reads this by program has dev.json.
        Format::Json | Format::Plain => table.show(Format::Plain, &mut out)?,
        Format::Table => table.show(Format::Table, &mut out)?,
    }
    out.flush()?;
    let port = layout.nodes().next().map_or(0, |(_, node)| node.port);
    let port = if port == 8001 { String::new() } else { format!(" -p {port}") };
    let mut hints = format!(
        "\nready. Try, in another terminal:\n    kv{port} put color blue\n    kv{port} get color\n    \
         kv{port} cluster-status\n"
    );
    if 1 < layout.clusters.len() {
        hints += &format!(
            "    kv{port} carp show\n    kv{port} carp plan add z --url http://127.0.0.1:9999\n\
             The array is in {}. ",
            dir.join(CARP_FILE).display()
        );
    }
    hints += &format!(
        "What all of them say is in {}; Ctrl-C or kv dev down stops them.",
        dir.join("log").display()
    );
    session.note(hints);
    Ok(())
}

/// Whether a node takes requests.
pub async fn is_ready(session: &Session, server: &ServerUrl) -> bool {
    let reply = session.client.ask_server(server, Call::get("/readyz")).await;
    reply.is_ok_and(|reply| reply.status.is_success())
}
