//! `kv carp distribution`: how evenly an array spreads keys, with the draft of 1998 beside it.
//!
//! The order: an array (made of weights, or read from a map) -> keys of each family are placed by the
//! table and by the draft -> bars and numbers as text, JSON, or a picture (`pictures`). It asks no server.

mod pictures;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use carp::draft::Draft;
use carp::spread::{Family, Spread};
use carp::{Array, Member, MemberId, SlotBits};
use serde_json::{Value, json};

use crate::args::{DistributionArgs, FamilyName, Format, Picture};
use crate::exit::Failed;
use crate::output::{self, Table};
use crate::session::Session;

/// `kv carp distribution`.
pub fn distribution(session: &Session, args: &DistributionArgs) -> Result<(), Failed> {
    let array = array_of(args)?;
    let placing = Placing::new(&array)?;
    let families: Vec<Family> = match args.family {
        Some(name) => vec![family(name)],
        None => Family::ALL.to_vec(),
    };
    let counts: Vec<Counts> =
        families.iter().map(|family| placing.count(*family, args.keys)).collect();
    if let Some(path) = &args.svg {
        let picture = match args.picture {
            Picture::Bars => pictures::bars(&placing, &counts[0]),
            Picture::Bits => pictures::bits(&placing, families[0], args.keys),
            Picture::Sizes => pictures::sizes(&sizes(&families, args.keys)?, args.keys),
        };
        write_file(path, &picture)?;
        session.note(format!("{} is drawn", path.display()));
    }
    let mut out = output::stdout();
    match session.format {
        Format::Json => writeln!(out, "{}", as_json(&placing, &counts))?,
        Format::Plain => summary(&counts).show(Format::Plain, &mut out)?,
        Format::Table => {
            write_bars(&placing, &counts[0], &mut out)?;
            writeln!(out)?;
            summary(&counts).write(&mut out)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// An array and what would be the same by the draft.
pub struct Placing {
    array: Array,
    draft: Draft,
    /// Of the members that take slots: their names, weights and slots.
    members: Vec<(String, u64, u64)>,
    /// For each slot its owner, as a place in `members`.
    owners: Vec<usize>,
}

/// How many keys of a family each member gets.
pub struct Counts {
    family: Family,
    keys: u32,
    by_draft: Vec<u64>,
    by_table: Vec<u64>,
    draft: Spread,
    table: Spread,
}

impl Placing {
    fn new(array: &Array) -> Result<Placing, Failed> {
        let slots = array.counts();
        let members: Vec<(String, u64, u64)> = array
            .members()
            .iter()
            .zip(slots)
            .filter(|(member, _)| 0 < member.share())
            .map(|(member, slots)| (member.id.to_string(), member.share().into(), slots as u64))
            .collect();
        let loads: Vec<(&str, u32)> =
            members.iter().map(|(name, weight, _)| (name.as_str(), *weight as u32)).collect();
        let draft = Draft::new(&loads).map_err(|fault| Failed::other(fault.to_string()))?;
        let place = |slot| {
            let owner = array.owner(slot).map(|member| member.id.as_str());
            let place = members.iter().position(|(name, _, _)| Some(name.as_str()) == owner);
            place.ok_or_else(|| Failed::other("a member that is draining still owns slots"))
        };
        let owners = array.slots().all().map(place).collect::<Result<_, _>>()?;
        Ok(Placing { draft, owners, array: array.clone(), members })
    }

    fn count(&self, family: Family, keys: u32) -> Counts {
        let mut by_draft = vec![0; self.members.len()];
        let mut by_table = vec![0; self.members.len()];
        for number in 0..keys {
            let key = family.key(number);
            by_draft[self.by_draft(&key)] += 1;
            by_table[self.by_table(&key)] += 1;
        }
        let weights: Vec<u64> = self.members.iter().map(|(_, weight, _)| *weight).collect();
        let slots: Vec<u64> = self.members.iter().map(|(_, _, slots)| *slots).collect();
        let spread = |counts: &[u64], dues: &[u64]| {
            Spread::of(counts, dues).expect("keys were counted, and somebody has weight")
        };
        let by_weight = spread(&by_table, &weights);
        // Whether keys fall at random is asked against the slots that each has: whole ones.
        let by_slots = spread(&by_table, &slots);
        let table = Spread { chi2: by_slots.chi2, p: by_slots.p, ..by_weight };
        Counts { family, keys, draft: spread(&by_draft, &weights), table, by_draft, by_table }
    }

    fn by_draft(&self, key: &[u8]) -> usize {
        let owner = self.draft.owner(key);
        let place = self.draft.members().iter().position(|member| std::ptr::eq(member, owner));
        place.expect("the owner is a member")
    }

    fn by_table(&self, key: &[u8]) -> usize {
        self.owners[usize::from(self.array.slot(key).0)]
    }

    /// What a member should get of so many keys.
    fn due(&self, member: usize, keys: u32) -> f64 {
        let all: u64 = self.members.iter().map(|(_, weight, _)| weight).sum();
        f64::from(keys) * self.members[member].1 as f64 / all as f64
    }
}

/// How hot the hottest member is at a size: the worst of the families.
struct Size {
    members: usize,
    draft: f64,
    /// The same draws as the table's for each slot, without quotas.
    rendezvous: f64,
    table: f64,
}

fn sizes(families: &[Family], keys: u32) -> Result<Vec<Size>, Failed> {
    const SIZES: [usize; 10] = [3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
    let size = |members: usize| {
        let array = array_of_weights(&vec![1; members])?;
        let mut placing = Placing::new(&array)?;
        let mut size = Size { members, draft: 0.0, rendezvous: 0.0, table: 0.0 };
        let counts: Vec<Counts> =
            families.iter().map(|family| placing.count(*family, keys)).collect();
        for counts in &counts {
            size.draft = size.draft.max(counts.draft.max_over_mean);
            size.table = size.table.max(counts.table.max_over_mean);
        }
        let best = |slot| {
            let best = &array.rank(slot, 1)[0].id;
            array.members().iter().position(|member| member.id == *best)
        };
        let ranked: Option<Vec<usize>> = array.slots().all().map(best).collect();
        placing.owners = ranked.expect("the best is a member");
        for family in families {
            let counts = placing.count(*family, keys);
            size.rendezvous = size.rendezvous.max(counts.table.max_over_mean);
        }
        Ok(size)
    };
    SIZES.into_iter().map(size).collect()
}

fn array_of(args: &DistributionArgs) -> Result<Array, Failed> {
    match &args.map {
        Some(path) => {
            let mut text = Vec::new();
            let read = match path.as_os_str() == "-" {
                true => std::io::stdin().read_to_end(&mut text).map(drop),
                false => fs::read(path).map(|bytes| text = bytes),
            };
            let shown = path.display();
            read.map_err(|error| Failed::other(format!("cannot read {shown}: {error}")))?;
            Array::found_from_json(&text)
                .map_err(|fault| Failed::other(format!("{shown}: {fault}")))
        }
        None if args.weights.is_empty() => array_of_weights(&vec![1; args.members as usize]),
        None => array_of_weights(&args.weights),
    }
}

fn array_of_weights(weights: &[u32]) -> Result<Array, Failed> {
    let member = |(number, weight): (usize, &u32)| {
        let id = MemberId::new(format!("cluster-{}", number + 1)).expect("letters and digits");
        Member { weight: *weight, ..Member::new(id, Vec::new()) }
    };
    let members = weights.iter().enumerate().map(member).collect();
    Array::fresh("kv", SlotBits::DEFAULT, 0, members)
        .map_err(|fault| Failed::usage(fault.to_string()))
}

fn family(name: FamilyName) -> Family {
    match name {
        FamilyName::Counter => Family::Counter,
        FamilyName::Url => Family::Url,
        FamilyName::Random => Family::Random,
        FamilyName::Uuid => Family::Uuid,
        FamilyName::Email => Family::Email,
        FamilyName::Dated => Family::Dated,
        FamilyName::Binary => Family::Binary,
    }
}

/// A bar for each member by the draft and by the table; `|` stands where the bar should end.
fn write_bars(placing: &Placing, counts: &Counts, out: &mut impl Write) -> std::io::Result<()> {
    const WIDTH: usize = 26;
    let members = placing.members.len();
    let largest = counts.by_draft.iter().chain(&counts.by_table).max().map_or(1, |most| *most);
    let dues: Vec<f64> = (0..members).map(|at| placing.due(at, counts.keys)).collect();
    let scale = WIDTH as f64 / dues.iter().copied().fold(largest as f64, f64::max);
    let name_width = placing.members.iter().map(|(name, _, _)| name.chars().count()).max();
    let name_width = name_width.unwrap_or(0);
    writeln!(
        out,
        "{} keys of the family `{}`: keys against what is due, | is where a bar should end",
        counts.keys,
        counts.family.name()
    )?;
    writeln!(out, "{:name_width$}  {:WIDTH$}          slot table", "", "draft of 1998")?;
    for (at, (name, _, _)) in placing.members.iter().enumerate() {
        let one = |count: u64| {
            let bar = bar(count as f64 * scale, dues[at] * scale, WIDTH);
            format!("{bar} {:6.3}", count as f64 / dues[at])
        };
        let (draft, table) = (one(counts.by_draft[at]), one(counts.by_table[at]));
        writeln!(out, "{name:name_width$}  {draft}   {table}")?;
    }
    Ok(())
}

/// A bar of so many cells, in eighths, with a mark.
fn bar(length: f64, mark: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let mark = (mark as usize).min(width - 1);
    let cell = |at: usize| {
        let filled = ((length - at as f64) * 8.0).round().clamp(0.0, 8.0) as usize;
        match filled {
            _ if at == mark => '|',
            8 => '█',
            part => EIGHTHS[part],
        }
    };
    (0..width).map(cell).collect()
}

fn summary(counts: &[Counts]) -> Table {
    let mut table = Table::new(&[
        "family",
        ">draft max/mean",
        ">min/mean",
        ">chi2",
        ">table max/mean",
        ">min/mean",
        ">chi2",
        ">p",
    ]);
    for Counts { family, draft, table: ours, .. } in counts {
        table.row([
            family.name().to_owned(),
            format!("{:.3}", draft.max_over_mean),
            format!("{:.3}", draft.min_over_mean),
            format!("{:.0}", draft.chi2),
            format!("{:.4}", ours.max_over_mean),
            format!("{:.4}", ours.min_over_mean),
            format!("{:.1}", ours.chi2),
            format!("{:.4}", ours.p),
        ]);
    }
    table
}

fn as_json(placing: &Placing, counts: &[Counts]) -> Value {
    let spread = |counts: &[u64], spread: &Spread| {
        json!({
            "keys": counts,
            "max_over_mean": spread.max_over_mean,
            "min_over_mean": spread.min_over_mean,
            "chi2": spread.chi2,
            "p": spread.p,
        })
    };
    let members: Vec<Value> = placing
        .members
        .iter()
        .map(|(id, weight, slots)| json!({"id": id, "weight": weight, "slots": slots}))
        .collect();
    let families: Vec<Value> = counts
        .iter()
        .map(|counts| {
            json!({
                "family": counts.family.name(),
                "draft": spread(&counts.by_draft, &counts.draft),
                "table": spread(&counts.by_table, &counts.table),
            })
        })
        .collect();
    json!({"keys": counts[0].keys, "members": members, "families": families})
}

fn write_file(path: &Path, text: &str) -> Result<(), Failed> {
    fs::write(path, text)
        .map_err(|error| Failed::other(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_counted_once_each_way() {
        let placing = Placing::new(&array_of_weights(&[1, 3]).unwrap()).unwrap();
        let counts = placing.count(Family::Counter, 10_000);
        assert_eq!(counts.by_draft.iter().sum::<u64>(), 10_000);
        assert_eq!(counts.by_table.iter().sum::<u64>(), 10_000);
        assert_eq!((placing.due(0, 10_000), placing.due(1, 10_000)), (2_500.0, 7_500.0));
        assert!((0.95..1.05).contains(&(counts.by_table[1] as f64 / 7_500.0)));
    }

    #[test]
    fn a_bar_ends_where_it_should_and_shows_its_mark() {
        assert_eq!(bar(2.5, 3.0, 5), "██▌| ");
        assert_eq!(bar(5.0, 3.9, 5), "███|█");
        assert_eq!(bar(0.0, 9.0, 3), "  |");
    }
}
