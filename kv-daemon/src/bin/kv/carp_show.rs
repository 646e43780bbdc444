//! `kv carp show`: the members of the array and their slots.

use std::io::Write;

use carp::{Array, MemberState};

use crate::args::Format;
use crate::exit::Failed;
use crate::output::{self, Table};
use crate::session::Session;

/// `kv carp show`.
pub async fn show(session: &Session) -> Result<(), Failed> {
    let array = fetched(session).await?;
    let mut out = output::stdout();
    match session.format {
        Format::Json => writeln!(out, "{}", array.to_json())?,
        Format::Plain | Format::Table => {
            session.note(format!(
                "array {}, epoch {}, {} slots, kept by {}",
                array.name(),
                array.epoch(),
                array.slots().count(),
                array.meta()
            ));
            members(&array).show(session.format, &mut out)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The array as the servers have it.
///
/// # Errors
/// Nobody answers, or nobody knows of one.
pub async fn fetched(session: &Session) -> Result<Array, Failed> {
    let none = "the servers know of no array: they are one cluster, which owns every key";
    session.client.array().await?.ok_or_else(|| Failed::other(none))
}

fn members(array: &Array) -> Table {
    let mut table = Table::new(&["member", ">weight", "state", ">slots", ">share", "urls"]);
    let all = array.slots().count() as f64;
    for (member, slots) in array.members().iter().zip(array.counts()) {
        table.row([
            member.id.to_string(),
            member.weight.to_string(),
            match member.state {
                MemberState::Active => "active".to_owned(),
                MemberState::Draining => "draining".to_owned(),
            },
            slots.to_string(),
            format!("{:.2}%", 100.0 * slots as f64 / all),
            member.urls.join(","),
        ]);
    }
    table
}
