//! What many runs came to, and how that is told: numbers, never a look at a clock.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use crate::marks::{Mark, Marks};
use crate::plan::{Plan, Timed};
use crate::trace::Violation;
use crate::world::Report;

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many there were.
    pub seeds: u64,
    /// Runs in which a rule was broken, by seed, with what broke and when.
    pub failures: Vec<(u64, Violation, Duration)>,
    /// Seeds whose second run was another one.
    pub unequal: Vec<u64>,
    /// Processor time of the runs, in all threads.
    cpu: Duration,
    /// Faults that struck, by class.
    faults: BTreeMap<String, u64>,
    ops: u64,
    acknowledged: u64,
    /// Seeds that committed as many writes as shows that something happened.
    busy: u64,
    marks: Marks,
    /// In how many seeds each was hit, in the order of [`Mark::ALL`].
    hits: Vec<u64>,
    /// How long each seed ran, in simulated time.
    spans: Vec<Duration>,
}

/// A seed that commits fewer writes than this proves little.
const COMMITTED_MIN: u64 = 100;

impl Tally {
    /// Adds a run of this plan that took so much processor time; `equal` is whether a second run,
    /// if there was one, ended in the same way.
    pub fn add(&mut self, plan: &Plan, report: Report, cpu: Duration, equal: bool) {
        let span = Duration::from_nanos(report.ended.0);
        self.seeds += 1;
        self.cpu += cpu;
        self.spans.push(span);
        for fault in plan.faults.iter().filter(|fault| fault.at <= span) {
            *self.faults.entry(class_of(fault)).or_default() += 1;
        }
        self.ops += report.counts.ops;
        self.acknowledged += report.counts.writes_acknowledged;
        self.busy += u64::from(COMMITTED_MIN <= report.counts.committed);
        self.marks.join(report.marks);
        self.hits.resize(Mark::ALL.len(), 0);
        for (hits, mark) in self.hits.iter_mut().zip(Mark::ALL) {
            *hits += u64::from(report.marks.has(*mark));
        }
        if !equal {
            self.unequal.push(plan.seed);
        }
        if let Some(violation) = report.failure {
            self.failures.push((plan.seed, violation, span));
        }
    }

    /// Whether all rules held, and every run was the same twice.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.unequal.is_empty()
    }

    /// What so many seeds should have shown and did not.
    pub fn shortcomings(&self) -> Vec<String> {
        let missing = self.marks.missing().into_iter();
        let mut short: Vec<String> = missing.map(|it| format!("never: {}", it.what())).collect();
        if 2 * self.busy < self.seeds {
            let (busy, seeds) = (self.busy, self.seeds);
            short.push(format!("only {busy} of {seeds} seeds committed {COMMITTED_MIN} writes"));
        }
        short
    }

    /// The most important numbers, for a line that is seen while the runs go on.
    pub fn words(&self) -> String {
        format!(
            "{:.1} simulated hours, {} faults, {} of {} marks, {} failures",
            hours(self.simulated()),
            self.faults.values().sum::<u64>(),
            Mark::ALL.len() - self.marks.missing().len(),
            Mark::ALL.len(),
            self.failures.len() + self.unequal.len()
        )
    }

    /// All numbers; the runs took so long by the clock on the wall.
    pub fn tell(&self, took: Duration, out: &mut impl Write) -> io::Result<()> {
        let (wall, simulated) = (took.as_secs_f64(), self.simulated());
        let seconds = simulated.as_secs_f64().max(1e-9);
        let per_minute = |spent: f64| hours(simulated) / spent.max(1e-9) * 60.0;
        writeln!(
            out,
            "speed: {:.1} seeds/s, {:.1} simulated hours per minute; of processor time: {:.1} per \
             minute, {:.0} us per simulated second",
            self.seeds as f64 / wall.max(1e-9),
            per_minute(wall),
            per_minute(self.cpu.as_secs_f64()),
            self.cpu.as_secs_f64() * 1e6 / seconds
        )?;
        writeln!(
            out,
            "work: {:.0} simulated seconds in the median seed, {:.1} requests per simulated \
             second, {} writes acknowledged, {} % of the seeds committed {COMMITTED_MIN} or more",
            self.median_span().as_secs_f64(),
            self.ops as f64 / seconds,
            self.acknowledged,
            100 * self.busy / self.seeds.max(1)
        )?;
        let faults: Vec<String> =
            self.faults.iter().map(|(class, count)| format!("{class} {count}")).collect();
        writeln!(out, "faults: {}", faults.join(", "))
    }

    /// In how many seeds each mark was hit.
    pub fn tell_marks(&self, out: &mut impl Write) -> io::Result<()> {
        for (mark, hits) in Mark::ALL.iter().zip(&self.hits) {
            writeln!(out, "{hits:6} {}", mark.what())?;
        }
        Ok(())
    }

    fn simulated(&self) -> Duration {
        self.spans.iter().sum()
    }

    fn median_span(&self) -> Duration {
        let mut spans = self.spans.clone();
        spans.sort_unstable();
        spans.get(spans.len() / 2).copied().unwrap_or_default()
    }
}

fn hours(span: Duration) -> f64 {
    span.as_secs_f64() / 3600.0
}

/// The word that a fault's line in a plan begins with; for a disk, what is wrong with it.
fn class_of(fault: &Timed<crate::plan::Fault>) -> String {
    let text = fault.what.to_string();
    let mut words = text.split(' ');
    match (words.next(), words.nth(1)) {
        (Some("disk"), Some(what)) => {
            format!("disk {}", what.split_once('=').map_or(what, |(name, _)| name))
        }
        (first, _) => first.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{generate, run};

    #[test]
    fn numbers_are_told_of_what_was_run() {
        let mut tally = Tally::default();
        let mut plan = generate::plan(7);
        plan.faults.retain(|fault| fault.at < Duration::from_secs(10));
        plan.chaos = Duration::from_secs(10);
        let classes: Vec<String> = plan.faults.iter().map(class_of).collect();
        let report = run::run(plan.clone());
        assert_eq!(report.failure, None);
        tally.add(&plan, report.clone(), Duration::from_millis(3), true);
        tally.add(&plan, report, Duration::from_millis(3), false);
        assert_eq!((tally.seeds, tally.is_clean(), tally.unequal.as_slice()), (2, false, &[7][..]));
        assert!(tally.shortcomings().iter().any(|what| what.starts_with("never: ")));
        let mut told = Vec::new();
        tally.tell(Duration::from_secs(1), &mut told).expect("memory takes it");
        let told = String::from_utf8(told).expect("it is text");
        assert!(told.contains("speed: 2.0 seeds/s"), "{told}");
        for class in classes {
            assert!(told.contains(&format!("{class} ")), "{class} is missing: {told}");
        }
    }
}
