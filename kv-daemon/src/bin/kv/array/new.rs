//! `kv carp new`: an array that is to be, as a file for `--carp`. The table stands in it: it is worked
//! out once, here, and is data from then on.

use std::io::Write;

use carp::{Array, SlotBits};

use crate::args::NewArgs;
use crate::exit::Failed;
use crate::output;

/// `kv carp new`.
pub fn new(args: NewArgs) -> Result<(), Failed> {
    let mut members = Vec::new();
    for spec in &args.members {
        let weight = args.weights.iter().find(|weight| weight.name == spec.name);
        members.push(super::member(&spec.name, &spec.urls, weight.map_or(1, |it| it.weight))?);
    }
    if let Some(weight) = args
        .weights
        .iter()
        .find(|weight| args.members.iter().all(|member| member.name != weight.name))
    {
        return Err(Failed::usage(format!("--weight {}: there is no such --member", weight.name)));
    }
    let array = Array::fresh(&args.name, SlotBits::DEFAULT, 0, members)
        .map_err(|fault| Failed::usage(fault.to_string()))?;
    let mut out = output::stdout();
    out.write_all(pretty(&array).as_bytes())?;
    out.flush()?;
    Ok(())
}

/// The array's JSON, indented for people.
pub fn pretty(array: &Array) -> String {
    let value: serde_json::Value =
        serde_json::from_str(&array.to_json()).expect("an array writes JSON");
    format!("{value:#}\n")
}
