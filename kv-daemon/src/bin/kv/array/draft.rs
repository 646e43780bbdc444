//! `kv carp draft`: CARP v1.0 bit for bit, offline, to compare with and to understand. Keys of this
//! store are not placed by it (`docs/carp.md` says why).

use std::io::Write;

use carp::draft::{self, Draft, MembershipTable, TableMember};
use serde_json::{Value, json};

use crate::args::{DraftCommand, WeightSpec};
use crate::exit::Failed;
use crate::output::{self, Table, escaped};
use crate::session::Session;

/// How long a reader may use the table, in seconds.
const TTL_S: u32 = 600;

/// Does what was typed behind `kv carp draft`.
pub fn run(session: &Session, command: DraftCommand) -> Result<(), Failed> {
    match command {
        DraftCommand::Hash { keys, members } => hash(session, &keys, &members),
        DraftCommand::Route { keys, members } => route(session, &keys, &members),
        DraftCommand::Table { members, name } => table(&members, &name),
    }
}

fn hash(session: &Session, keys: &[String], members: &[String]) -> Result<(), Failed> {
    let mut table = Table::new(&["key", ">key hash", "member", ">member hash", ">combined"]);
    let mut hashes = Vec::new();
    let hex = |hash: u32| format!("{hash:08x}");
    for key in keys {
        let key_hash = draft::key_hash(key.as_bytes());
        let shown = escaped(key.as_bytes());
        if members.is_empty() {
            hashes.push(json!({ "key": key, "key_hash": hex(key_hash) }));
            table.row([shown, hex(key_hash), String::new(), String::new(), String::new()]);
            continue;
        }
        for member in members {
            let member_hash = draft::member_hash(member);
            let combined = draft::combine(key_hash, member_hash);
            hashes.push(json!({
                "key": key, "key_hash": hex(key_hash), "member": member,
                "member_hash": hex(member_hash), "combined": hex(combined),
            }));
            let (member, shown) = (member.clone(), shown.clone());
            table.row([shown, hex(key_hash), member, hex(member_hash), hex(combined)]);
        }
    }
    output::data(session.format, &table, &json!({ "hashes": hashes }))?;
    Ok(())
}

fn route(session: &Session, keys: &[String], members: &[WeightSpec]) -> Result<(), Failed> {
    let loads: Vec<(&str, u32)> =
        members.iter().map(|member| (member.name.as_str(), member.weight)).collect();
    let draft = Draft::new(&loads).map_err(|fault| Failed::usage(fault.to_string()))?;
    let mut table = Table::new(&["key", ">rank", "member", ">multiplier", ">score"]);
    let mut routes = Vec::new();
    for key in keys {
        let key_hash = draft::key_hash(key.as_bytes());
        let ranked: Vec<Value> = draft
            .rank(key.as_bytes())
            .into_iter()
            .zip(1..)
            .map(|(member, rank)| {
                let score = member.score(key_hash);
                table.row([
                    escaped(key.as_bytes()),
                    rank.to_string(),
                    member.name.clone(),
                    format!("{:.6}", member.multiplier),
                    format!("{:.0}", score.floor()),
                ]);
                json!({ "member": member.name, "multiplier": member.multiplier, "score": score })
            })
            .collect();
        routes.push(json!({ "key": key, "members": ranked }));
    }
    output::data(session.format, &table, &json!({ "routes": routes }))?;
    Ok(())
}

fn table(members: &[WeightSpec], name: &str) -> Result<(), Failed> {
    let mut lines = Vec::new();
    for WeightSpec { name, weight } in members {
        let wrong = || Failed::usage(format!("--member {name}: write HOST:PORT"));
        let (host, port) = name.rsplit_once(':').ok_or_else(wrong)?;
        lines.push(TableMember {
            name: name.clone(),
            address: host.to_owned(),
            port: port.parse().map_err(|_| wrong())?,
            table_url: format!("http://{name}/carp.txt"),
            agent: concat!("kv/", env!("CARGO_PKG_VERSION")).to_owned(),
            state_time_s: 0,
            up: true,
            load_factor: *weight,
            cache_mb: 0,
        });
    }
    let table = MembershipTable {
        enabled: true,
        config_id: 1,
        array_name: name.to_owned(),
        list_ttl_s: TTL_S,
        members: lines,
    };
    let unfit = |fault: draft::TableFault| Failed::usage(fault.to_string());
    let mut out = output::stdout();
    out.write_all(table.to_text().map_err(unfit)?.as_bytes())?;
    out.flush()?;
    Ok(())
}
