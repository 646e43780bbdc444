//! `kv carp`: the array of clusters. What it is (`show`, `route`, `stats`), whether all clusters
//! agree on it (`check`), what a change would move (`plan`), how one begins (`new`), and the old
//! draft for comparison (`draft`). Only `apply` changes an array that is in use.

mod apply;
mod check;
mod draft;
mod new;
mod plan;
mod route;
mod show;
mod stats;

pub use new::pretty;

use std::path::Path;

use carp::{Array, Member, MemberId};
use kv_daemon::client::ServerUrl;

use crate::args::CarpCommand;
use crate::distribution::distribution;
use crate::exit::Failed;
use crate::session::Session;

/// Does what was typed behind `kv carp`.
pub async fn run(session: &Session, command: CarpCommand) -> Result<(), Failed> {
    match command {
        CarpCommand::Show(map) => show::show(session, &map).await,
        CarpCommand::Route(args) => route::route(session, &args).await,
        CarpCommand::Plan(args) => plan::plan(session, args).await,
        CarpCommand::Apply(args) => apply::apply(session, &args).await,
        CarpCommand::Stats(args) => stats::stats(session, &args).await,
        CarpCommand::Check => check::check(session).await,
        CarpCommand::Distribution(args) => distribution(session, &args),
        CarpCommand::New(args) => new::new(args),
        CarpCommand::Draft(command) => draft::run(session, command),
    }
}

/// The array in a file, or else as the servers have it.
///
/// # Errors
/// The file is no array, nobody answers, or nobody knows of an array.
async fn fetched(session: &Session, file: Option<&Path>) -> Result<Array, Failed> {
    if let Some(path) = file {
        let unfit = |why: String| Failed::other(format!("{}: {why}", path.display()));
        let text = std::fs::read(path).map_err(|error| unfit(error.to_string()))?;
        return Array::found_from_json(&text).map_err(|fault| unfit(fault.to_string()));
    }
    let none = "the servers know of no array: they are one cluster, which owns every key";
    session.client.array().await?.ok_or_else(|| Failed::other(none))
}

/// A member as it is typed: its name and where its servers are.
///
/// # Errors
/// A sentence that says what is wrong.
fn member(name: &str, urls: &[ServerUrl], weight: u32) -> Result<Member, Failed> {
    let id = MemberId::new(name).ok_or_else(|| {
        Failed::usage(format!("`{name}` is no name: use 1 to 128 of a-z A-Z 0-9 . - _ :"))
    })?;
    let mut member = Member::new(id, urls.iter().map(ServerUrl::to_string).collect());
    member.weight = weight;
    match member.fault() {
        Some(fault) => Err(Failed::usage(fault.to_string())),
        None => Ok(member),
    }
}
