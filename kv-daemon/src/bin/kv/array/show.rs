//! `kv carp show`: the members of the array and their slots.

use std::io::Write;

use carp::{Array, Member, MemberState};

use crate::args::{Format, MapFile};
use crate::exit::Failed;
use crate::output::{self, Table};
use crate::session::Session;

/// `kv carp show`.
pub async fn show(session: &Session, map: &MapFile) -> Result<(), Failed> {
    let array = super::fetched(session, map.map.as_deref()).await?;
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

/// Whether a member takes slots, in a word.
pub fn state(member: &Member) -> &'static str {
    match member.state {
        MemberState::Active => "active",
        MemberState::Draining => "draining",
    }
}

fn members(array: &Array) -> Table {
    let mut table = Table::new(&["member", ">weight", "state", ">slots", ">share", "urls"]);
    let all = array.slots().count() as f64;
    for (member, slots) in array.members().iter().zip(array.counts()) {
        table.row([
            member.id.to_string(),
            member.weight.to_string(),
            state(member).to_owned(),
            slots.to_string(),
            format!("{:.2}%", 100.0 * slots as f64 / all),
            member.urls.join(","),
        ]);
    }
    table
}
