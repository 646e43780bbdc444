//! `kv carp plan`: what a change of the members would move, worked out here and made nowhere.

use std::io::Write;

use carp::{Array, Change, MemberId, Plan};
use serde_json::{Value, json};

use super::show::state;
use crate::args::{ChangeCommand, Format, PlanArgs};
use crate::exit::Failed;
use crate::output::{self, Table};
use crate::session::Session;

/// `kv carp plan`.
pub async fn plan(session: &Session, args: PlanArgs) -> Result<(), Failed> {
    let array = super::fetched(session, args.map.as_deref()).await?;
    let change = change(args.change)?;
    let unfit = |error: carp::PlanError| Failed::other(format!("this cannot be done: {error}"));
    let plan = array.plan(change).map_err(unfit)?;
    let mut after = array.clone();
    after.apply_plan(&plan).map_err(unfit)?;

    match session.format {
        Format::Json => output::json(&document(&array, &plan, &after))?,
        format => {
            let mut out = output::stdout();
            members(Some(&array), &after).show(format, &mut out)?;
            if format == Format::Table && plan.moved() != 0 {
                writeln!(out)?;
                moves(&plan).show(format, &mut out)?;
            }
            out.flush()?;
            session.note(format!(
                "moves {} of {} slots ({:.2}%), the least possible is {}; epoch {} would become {}; \
                 nothing was changed",
                plan.moved(),
                array.slots().count(),
                100.0 * plan.moved_fraction(),
                plan.least(),
                array.epoch(),
                after.epoch(),
            ));
        }
    }
    if let Some(path) = &args.out {
        std::fs::write(path, super::pretty(&after))
            .map_err(|error| Failed::other(format!("cannot write {}: {error}", path.display())))?;
        session.note(format!("the array after it is in {}", path.display()));
    }
    Ok(())
}

fn change(command: ChangeCommand) -> Result<Change, Failed> {
    let id = |name: String| {
        let wrong = Failed::usage(format!("`{name}` is no name of a member"));
        MemberId::new(name).ok_or(wrong)
    };
    Ok(match command {
        ChangeCommand::Add { name, urls, weight } => {
            Change::Add(super::member(&name, &urls, weight)?)
        }
        ChangeCommand::Drain { name } => Change::Drain(id(name)?),
        ChangeCommand::Remove { name } => Change::Remove(id(name)?),
        ChangeCommand::Weight { name, weight } => Change::Weight(id(name)?, weight),
    })
}

/// Every member of either array with its slots now and then.
fn changes(
    before: Option<&Array>,
    after: &Array,
) -> Vec<(MemberId, u32, &'static str, usize, usize)> {
    let slots = |array: &Array, id: &MemberId| {
        let place = array.members().iter().position(|member| member.id == *id);
        place.map_or(0, |place| array.counts()[place])
    };
    let gone = before.into_iter().flat_map(Array::members);
    let gone = gone.filter(|member| after.member(&member.id).is_none());
    let rows = after.members().iter().map(|member| (member, state(member)));
    rows.chain(gone.map(|member| (member, "removed")))
        .map(|(member, state)| {
            let id = member.id.clone();
            let now = before.map_or(0, |before| slots(before, &id));
            let then = slots(after, &id);
            (id, member.weight, state, now, then)
        })
        .collect()
}

/// What a change makes of each member.
pub fn members(before: Option<&Array>, after: &Array) -> Table {
    let mut table =
        Table::new(&["member", ">weight", "state", ">slots now", ">slots then", ">change"]);
    for (id, weight, state, now, then) in changes(before, after) {
        let change = match now.cmp(&then) {
            std::cmp::Ordering::Less => format!("+{}", then - now),
            std::cmp::Ordering::Equal => "0".to_owned(),
            std::cmp::Ordering::Greater => format!("-{}", now - then),
        };
        table.row([
            id.to_string(),
            weight.to_string(),
            state.to_owned(),
            now.to_string(),
            then.to_string(),
            change,
        ]);
    }
    table
}

fn moves(plan: &Plan) -> Table {
    let mut table = Table::new(&["from", "to", ">slots"]);
    for one in plan.moves() {
        table.row([one.from.to_string(), one.to.to_string(), one.slots.len().to_string()]);
    }
    table
}

/// The same as JSON.
pub fn members_json(before: Option<&Array>, after: &Array) -> Value {
    changes(before, after)
        .into_iter()
        .map(|(id, weight, state, now, then)| {
            json!({
                "id": id, "weight": weight, "state": state, "slots_now": now, "slots_then": then,
            })
        })
        .collect()
}

fn document(before: &Array, plan: &Plan, after: &Array) -> Value {
    let members = members_json(Some(before), after);
    let moves: Vec<Value> = plan
        .moves()
        .iter()
        .map(|one| json!({ "from": one.from, "to": one.to, "slots": one.slots.len() }))
        .collect();
    json!({
        "epoch": before.epoch(), "epoch_then": after.epoch(), "slots": before.slots().count(),
        "moved": plan.moved(), "least": plan.least(), "members": members, "moves": moves,
    })
}
