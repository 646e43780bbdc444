//! What was counted, as pictures: bars for each member, the draft's ten bits, evenness by size.

use std::collections::BTreeMap;

use carp::draft::key_hash;
use carp::spread::Family;

use super::{Counts, Placing, Size};
use crate::svg::{Anchor, Svg};

const WIDTH: f64 = 860.0;

/// A plot's frame: where its values stand on the page.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

const FRAME: Frame = Frame { left: 70.0, right: WIDTH - 20.0, top: 100.0, bottom: 340.0 };

/// Keys of each member, by the draft and by the table, and the line where all should end.
pub fn bars(placing: &Placing, counts: &Counts) -> String {
    let members = &placing.members;
    let title = format!(
        "{} keys of the family \u{201c}{}\u{201d} on {} clusters",
        grouped(counts.keys.into()),
        counts.family.name(),
        members.len()
    );
    let mut svg = Svg::new(WIDTH, 380.0, &title);
    svg.text("strong", Anchor::Start, FRAME.left, 26.0, &title);
    let legend = [("a", "CARP draft, 1998", &counts.draft), ("b", "slot table", &counts.table)];
    for (row, (class, name, spread)) in legend.into_iter().enumerate() {
        let y = 52.0 + 20.0 * row as f64;
        svg.rect(class, FRAME.left, y - 10.0, 12.0, 12.0);
        let text = format!(
            "{name}: the fullest has {:.3} of its due, the emptiest {:.3}; chi-square {}",
            spread.max_over_mean,
            spread.min_over_mean,
            grouped(spread.chi2.round() as u64)
        );
        svg.text("", Anchor::Start, FRAME.left + 20.0, y, text);
    }

    let due = |at: usize| placing.due(at, counts.keys);
    let largest = counts.by_draft.iter().chain(&counts.by_table).max();
    let most = (0..members.len()).map(due).fold(*largest.unwrap_or(&1) as f64, f64::max) * 1.05;
    let y_of = |keys: f64| FRAME.bottom - (FRAME.bottom - FRAME.top) * keys / most;
    let step = round_step(most / 4.0);
    for line in 0..=(most / step) as u32 {
        let keys = f64::from(line) * step;
        let class = if line == 0 { "axis" } else { "grid" };
        svg.line(class, (FRAME.left, y_of(keys)), (FRAME.right, y_of(keys)));
        let label = grouped(keys as u64);
        svg.text("soft", Anchor::End, FRAME.left - 8.0, y_of(keys) + 4.0, label);
    }

    let group = (FRAME.right - FRAME.left) / members.len() as f64;
    let every = members.len().div_ceil(10);
    let is_weighted = members.iter().any(|(_, weight, _)| *weight != members[0].1);
    for (at, (name, weight, _)) in members.iter().enumerate() {
        let left = FRAME.left + group * at as f64;
        let bar = group * 0.36;
        for (class, x, keys) in [
            ("a", left + group * 0.12, counts.by_draft[at]),
            ("b", left + group * 0.52, counts.by_table[at]),
        ] {
            let y = y_of(keys as f64);
            svg.rect(class, x, y, bar, FRAME.bottom - y);
        }
        if at % every == 0 {
            let middle = left + group / 2.0;
            svg.text("soft", Anchor::Middle, middle, FRAME.bottom + 18.0, name);
            if is_weighted {
                let text = format!("weight {weight}");
                svg.text("soft", Anchor::Middle, middle, FRAME.bottom + 34.0, text);
            }
        }
    }
    // Over the bars. Equal dues make one line.
    let mut from = 0;
    for at in 1..=members.len() {
        if at == members.len() || due(at) != due(from) {
            let x_of = |at: usize| FRAME.left + group * at as f64;
            svg.line("ideal", (x_of(from), y_of(due(from))), (x_of(at), y_of(due(from))));
            from = at;
        }
    }
    svg.finish()
}

/// Who gets the keys whose hash ends in the same ten bits: 1,024 squares by the draft and by the table.
pub fn bits(placing: &Placing, family: Family, keys: u32) -> String {
    const SIDE: usize = 32;
    const CELL: f64 = 11.0;
    let members = placing.members.len();
    // For each ending, how many keys each member gets.
    let mut by_draft = vec![vec![0u64; members]; SIDE * SIDE];
    let mut by_table = by_draft.clone();
    for number in 0..keys {
        let key = family.key(number);
        let ending = key_hash(&key) as usize % (SIDE * SIDE);
        by_draft[ending][placing.by_draft(&key)] += 1;
        by_table[ending][placing.by_table(&key)] += 1;
    }
    let title = "The last ten bits of a key's hash, and who gets the key";
    let mut svg = Svg::new(WIDTH, 500.0, title);
    let text = format!(
        "{} keys of the family \u{201c}{}\u{201d} on {members} clusters. A square: all keys whose hash \
         ends in the same ten bits.",
        grouped(keys.into()),
        family.name()
    );
    svg.text("strong", Anchor::Start, 40.0, 26.0, title);
    svg.text("soft", Anchor::Start, 40.0, 48.0, text);
    let text =
        "Colour: the cluster that gets most of them. The fainter, the more others get some too.";
    svg.text("soft", Anchor::Start, 40.0, 66.0, text);
    for (left, class, name, endings) in [
        (40.0, "a", "CARP draft, 1998", by_draft),
        (WIDTH - 40.0 - SIDE as f64 * CELL, "b", "slot table", by_table),
    ] {
        let (mut decided, mut all) = (0, 0);
        // Squares of one owner and about one share, so that each colour is written once.
        let mut squares: BTreeMap<(usize, u64), Vec<(f64, f64)>> = BTreeMap::new();
        for (at, owners) in endings.iter().enumerate() {
            let total: u64 = owners.iter().sum();
            let most = owners.iter().copied().max().unwrap_or(0);
            (decided, all) = (decided + most, all + total);
            let Some(owner) = owners.iter().position(|count| 0 < most && *count == most) else {
                continue;
            };
            let corner = (left + (at % SIDE) as f64 * CELL, 112.0 + (at / SIDE) as f64 * CELL);
            let share = most as f64 / total as f64;
            let tenths = (10.0 * share).ceil() as u64;
            squares.entry((owner % 8, tenths)).or_default().push(corner);
        }
        for ((owner, tenths), corners) in squares {
            let class = format!("owner-{owner}");
            svg.squares(&class, tenths as f64 / 10.0, CELL - 1.0, &corners);
        }
        svg.text(class, Anchor::Start, left, 98.0, name);
        let percent = 100.0 * decided as f64 / all.max(1) as f64;
        let text = format!("ten bits tell the owner of {percent:.1} % of the keys");
        svg.text("soft", Anchor::Start, left, 112.0 + SIDE as f64 * CELL + 20.0, text);
    }
    svg.finish()
}

/// How much more than its due the fullest member has, against the number of members.
pub fn sizes(sizes: &[Size], keys: u32) -> String {
    let title = "How much more than its due the fullest cluster has";
    let mut svg = Svg::new(WIDTH, 400.0, title);
    let text = format!("{} keys, the worst family of keys at each size", grouped(keys.into()));
    svg.text("strong", Anchor::Start, FRAME.left, 26.0, title);
    svg.text("soft", Anchor::Start, FRAME.left, 48.0, text);
    // Both axes by powers: 0.1 % to about 300 %, 3 to 64 members.
    const LABELS: f64 = 130.0;
    let (top, right) = (80.0, FRAME.right - LABELS);
    let y_of = |over: f64| {
        let height = FRAME.bottom - top;
        FRAME.bottom - height * (over.max(1e-3).log10() + 3.0) / 3.5
    };
    let x_of = |members: usize| {
        let part = (members as f64 / 3.0).ln() / (64.0f64 / 3.0).ln();
        FRAME.left + 15.0 + (right - FRAME.left - 30.0) * part
    };
    for (over, label) in [(0.001, "0.1 %"), (0.01, "1 %"), (0.1, "10 %"), (1.0, "100 %")] {
        let class = if over == 0.001 { "axis" } else { "grid" };
        svg.line(class, (FRAME.left, y_of(over)), (right, y_of(over)));
        svg.text("soft", Anchor::End, FRAME.left - 8.0, y_of(over) + 4.0, label);
    }
    for size in sizes {
        let (x, y) = (x_of(size.members), FRAME.bottom + 18.0);
        svg.text("soft", Anchor::Middle, x, y, size.members);
    }
    let middle = (FRAME.left + right) / 2.0;
    svg.text("soft", Anchor::Middle, middle, FRAME.bottom + 40.0, "clusters");
    let over = |value: fn(&Size) -> f64| sizes.iter().map(value).map(|it| it - 1.0);
    for (class, name, over) in [
        ("a", "CARP draft, 1998", over(|size| size.draft)),
        ("c", "table, no quotas", over(|size| size.rendezvous)),
        ("b", "slot table", over(|size| size.table)),
    ] {
        let xs = sizes.iter().map(|size| x_of(size.members));
        let points: Vec<(f64, f64)> = xs.zip(over.map(y_of)).collect();
        svg.path(class, &points);
        points.iter().for_each(|(x, y)| svg.dot(class, *x, *y));
        if let Some((x, y)) = points.last() {
            svg.text(class, Anchor::Start, x + 12.0, y + 4.0, name);
        }
    }
    svg.finish()
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1.0).log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| least <= factor * power);
    factor.unwrap_or(10.0) * power
}

/// Digits in threes.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if 0 < at && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_round_and_grouped() {
        let steps = [0.3, 1.0, 1.5, 30.0, 51_000.0].map(round_step);
        assert_eq!(steps, [1.0, 1.0, 2.0, 50.0, 100_000.0]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
