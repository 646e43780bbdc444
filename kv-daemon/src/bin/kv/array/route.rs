//! `kv carp route`: where a key belongs, and why: how strongly each member wants its slot.

use serde_json::json;

use crate::args::RouteArgs;
use crate::exit::Failed;
use crate::output::{self, Table, escaped};
use crate::session::Session;

/// Members whose wish is told; the owner is nearly always the first.
const RANKED: usize = 5;

/// `kv carp route`.
pub async fn route(session: &Session, args: &RouteArgs) -> Result<(), Failed> {
    let array = super::fetched(session, args.map.map.as_deref()).await?;
    let mut table = Table::new(&["key", ">slot", "owner", ">slot epoch", "urls", "rank"]);
    let mut routes = Vec::new();
    for key in &args.keys {
        let route = array.route(key.as_bytes());
        let rank: Vec<&str> =
            array.rank(route.slot, RANKED).iter().map(|member| member.id.as_str()).collect();
        routes.push(json!({
            "key": key, "slot": route.slot, "owner": route.member.id, "slot_epoch": route.slot_epoch,
            "epoch": route.epoch, "urls": route.member.urls, "rank": rank,
        }));
        table.row([
            escaped(key.as_bytes()),
            route.slot.to_string(),
            route.member.id.to_string(),
            route.slot_epoch.to_string(),
            route.member.urls.join(","),
            rank.join(" > "),
        ]);
    }
    output::data(session.format, &table, &json!({ "routes": routes }))?;
    Ok(())
}
