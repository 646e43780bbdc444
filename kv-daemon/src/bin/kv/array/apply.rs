//! `kv carp apply`: makes an array from a file the one in force. Shows first what that moves, and
//! asks when somebody sits there who can answer.

use std::io::{self, IsTerminal, Write as _};
use std::path::Path;

use carp::{Array, Member};
use kv_daemon::client::{Error, ServerUrl};
use serde_json::json;

use super::plan;
use crate::args::{ApplyArgs, Format};
use crate::exit::{FAILURE, Failed, UNHEALTHY};
use crate::output;
use crate::session::Session;

/// `kv carp apply`.
pub async fn apply(session: &Session, args: &ApplyArgs) -> Result<(), Failed> {
    let before = session.client.array().await?;
    let after = wanted(&args.file, before.as_ref())?;
    if session.format != Format::Json {
        let mut out = output::stdout();
        plan::members(before.as_ref(), &after).show(session.format, &mut out)?;
        out.flush()?;
    }
    let moved = before.as_ref().map_or(0, |before| before.diff(&after).len());
    let epoch = before.as_ref().map_or("none".to_owned(), |before| before.epoch().to_string());
    let slots = after.slots().count();
    session
        .note(format!("moves {moved} of {slots} slots; epoch {epoch} becomes {}", after.epoch()));
    if !args.yes && !agreed()? {
        return Err(Failed::new(FAILURE, "nothing was changed"));
    }

    let set = session.client.set_array(&after).await?;
    // A cluster that is in an array fetches the newer one; who is new to it has nobody to ask.
    let is_known =
        |member: &Member| before.as_ref().is_some_and(|it| it.member(&member.id).is_some());
    let mut untold = Vec::new();
    for member in after.members().iter().filter(|member| !is_known(member)) {
        if let Err(why) = tell(session, member, &after).await {
            untold.push(format!("{}: {why}", member.id));
        }
    }
    if session.format == Format::Json {
        output::json(&json!({
            "epoch": set.epoch, "changed": set.changed, "moved": moved,
            "members": plan::members_json(before.as_ref(), &after), "untold": untold,
        }))?;
    }
    let done = if set.changed { "is in force" } else { "was in force already" };
    session.note(format!("epoch {} {done}; see kv carp check", set.epoch));
    match untold.is_empty() {
        true => Ok(()),
        false => Err(Failed::new(
            UNHEALTHY,
            format!("not every new member could be told; try again: {}", untold.join("; ")),
        )),
    }
}

/// The array of the file; where it has only members, as it follows the one in force.
fn wanted(path: &Path, before: Option<&Array>) -> Result<Array, Failed> {
    let unfit = |why: String| Failed::other(format!("{}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|error| unfit(error.to_string()))?;
    let array = match before {
        Some(before) => before.asked_by_json(&text),
        None => Array::found_from_json(&text),
    };
    array.map_err(|fault| unfit(fault.to_string()))
}

/// Whether to go on. Where nobody can be asked, whoever started us has decided.
fn agreed() -> Result<bool, Failed> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(true);
    }
    let _ = write!(io::stderr(), "Go by this array from now on? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|error| Failed::other(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Tells a cluster: whichever of its nodes takes it. To be told twice does no harm.
async fn tell(session: &Session, member: &Member, array: &Array) -> Result<(), Error> {
    let mut last = Error::Unavailable("it has no URL".to_owned());
    let servers = member.urls.iter().filter_map(|url| url.parse::<ServerUrl>().ok());
    for server in servers {
        match session.client.set_array_at(&server, array).await {
            Ok(_) => return Ok(()),
            Err(refused @ Error::Refused(_)) => return Err(refused),
            Err(error) => last = error,
        }
    }
    Err(last)
}
