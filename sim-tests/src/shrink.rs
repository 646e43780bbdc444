//! Makes a failing plan small: few faults, few requests, small numbers, and still the same rule broken.
//!
//! Every line of a plan stands for itself, so any of them can be taken away. First whole blocks go,
//! then halves of them, down to single lines (delta debugging); then the settings become the
//! defaults and the numbers of what is left become small; and again, until nothing changes.
//!
//! Taking a line away shifts what chance does with the rest. So a smaller plan is tried with a few
//! seeds of its own before it is given up. This never looks at a clock: whoever calls says when to
//! stop.

use std::time::Duration;

use crate::plan::{
    Blow, CrashLoss, DiskFault, DiskPace, Fault, Knobs, Plan, Start, Timed, Weather,
};
use crate::trace::Violation;

/// What became of a plan.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smaller plan.
    pub plan: Plan,
    /// What it breaks: the same rule.
    pub violation: Violation,
    /// How many plans were run.
    pub runs: u64,
}

/// Seeds a smaller plan is tried with while many lines are left, and when few are.
const SEEDS_FIRST: u64 = 1;
const SEEDS_LAST: u64 = 6;

/// With this many lines or fewer, runs are so short that more seeds are worth it.
const FEW_LINES: usize = 200;

/// Shrinks a plan that fails. `run` says what a plan breaks and how long it took in simulated time;
/// `is_over` whether there is no time left: then what was reached is returned. `None` when the plan
/// does not fail.
pub fn shrink(
    plan: &Plan,
    run: impl FnMut(&Plan) -> (Option<Violation>, Duration),
    is_over: impl FnMut() -> bool,
) -> Option<Shrunk> {
    let mut shrinker = Shrinker { run, is_over, runs: 1 };
    let (violation, ended) = (shrinker.run)(plan);
    let mut best = Best { plan: plan.clone(), violation: violation?, ended };
    loop {
        let before = best.plan.clone();
        shrinker.cut_end(&mut best);
        shrinker.cut_begin(&mut best);
        shrinker.settings(&mut best);
        shrinker.lines(&mut best, |plan| &mut plan.ops);
        shrinker.lines(&mut best, |plan| &mut plan.faults);
        shrinker.cut_end(&mut best);
        shrinker.numbers(&mut best);
        if before == best.plan || (shrinker.is_over)() {
            let Best { plan, violation, .. } = best;
            return Some(Shrunk { plan, violation, runs: shrinker.runs });
        }
    }
}

/// The smallest plan so far.
struct Best {
    plan: Plan,
    violation: Violation,
    ended: Duration,
}

struct Shrinker<Run, Over> {
    run: Run,
    is_over: Over,
    runs: u64,
}

impl<Run, Over> Shrinker<Run, Over>
where
    Run: FnMut(&Plan) -> (Option<Violation>, Duration),
    Over: FnMut() -> bool,
{
    /// Takes the candidate over if it breaks the same rule, under its own seed or one near it.
    fn attempt(&mut self, best: &mut Best, candidate: Plan) -> bool {
        if candidate == best.plan {
            return false;
        }
        let lines = candidate.faults.len() + candidate.ops.len();
        let seeds = if lines <= FEW_LINES { SEEDS_LAST } else { SEEDS_FIRST };
        for other in 0..seeds {
            if (self.is_over)() {
                return false;
            }
            let plan = Plan { seed: best.plan.seed.wrapping_add(other), ..candidate.clone() };
            self.runs += 1;
            let (violation, ended) = (self.run)(&plan);
            if let Some(violation) = violation.filter(|it| it.rule == best.violation.rule) {
                *best = Best { plan, violation, ended };
                return true;
            }
        }
        false
    }

    /// What comes after the failure had no part in it.
    fn cut_end(&mut self, best: &mut Best) {
        let mut plan = best.plan.clone();
        let end = best.ended + Duration::from_millis(1);
        plan.faults.retain(|it| it.at <= end);
        plan.ops.retain(|it| it.at <= end);
        plan.chaos = plan.chaos.min(end);
        if !self.attempt(best, plan.clone()) {
            // Perhaps the end of the chaos has a part: cut only to the last line.
            let last = |plan: &Plan| {
                let faults = plan.faults.last().map(|it| it.at);
                faults.max(plan.ops.last().map(|it| it.at)).unwrap_or_default()
            };
            for after in [1, 100, 2_000, 10_000] {
                let mut plan = best.plan.clone();
                plan.chaos = plan.chaos.min(last(&plan) + Duration::from_millis(after));
                if self.attempt(best, plan) {
                    return;
                }
            }
        }
    }

    /// What came long before the failure may have had no part in it: the rest begins earlier.
    fn cut_begin(&mut self, best: &mut Best) {
        for (part, of) in [(15, 16), (7, 8), (3, 4), (1, 2), (1, 4)] {
            let by = best.ended * part / of;
            let mut plan = best.plan.clone();
            plan.faults.retain(|it| by <= it.at);
            plan.ops.retain(|it| by <= it.at);
            plan.faults.iter_mut().for_each(|it| it.at -= by);
            plan.ops.iter_mut().for_each(|it| it.at -= by);
            // Electing the first leader takes its time, whatever comes after.
            plan.chaos = plan.chaos.saturating_sub(by) + Duration::from_secs(3);
            if self.attempt(best, plan) {
                return;
            }
        }
    }

    /// Takes lines away: a half, a quarter, ... a single one.
    fn lines<T: Clone>(&mut self, best: &mut Best, of: fn(&mut Plan) -> &mut Vec<Timed<T>>) {
        let mut block = of(&mut best.plan).len();
        while 0 < block {
            let mut from = 0;
            loop {
                let mut plan = best.plan.clone();
                let lines = of(&mut plan);
                if lines.len() <= from {
                    break;
                }
                let to = lines.len().min(from + block);
                lines.drain(from..to);
                if !self.attempt(best, plan) {
                    from += block;
                }
                if (self.is_over)() {
                    return;
                }
            }
            block /= 2;
        }
    }

    /// Settings become the defaults, the cluster small and formed.
    fn settings(&mut self, best: &mut Best) {
        let changes: [fn(&mut Plan); 7] = [
            |plan| plan.knobs = Knobs::default(),
            |plan| plan.drift_ppm.clear(),
            |plan| plan.disk = DiskPace::default(),
            |plan| plan.start = Start::Formed,
            |plan| plan.learners = 0,
            |plan| plan.voters = plan.voters.min(3),
            |plan| plan.voters = plan.voters.min(5),
        ];
        for change in changes {
            let mut plan = best.plan.clone();
            change(&mut plan);
            if is_sound(&plan) {
                self.attempt(best, plan);
            }
        }
    }

    /// The numbers of what is left become small.
    fn numbers(&mut self, best: &mut Best) {
        for number in 0..best.plan.faults.len() {
            for shorter in smaller(best.plan.faults[number].what) {
                let mut plan = best.plan.clone();
                plan.faults[number].what = shorter;
                self.attempt(best, plan);
            }
        }
        let mut plan = best.plan.clone();
        for op in &mut plan.ops {
            (op.what.size, op.what.key) = (1, 0);
        }
        self.attempt(best, plan);
    }
}

/// Whether every line names machines that there are. The text form names each of them, `m3`.
fn is_sound(plan: &Plan) -> bool {
    let named = |line: String| {
        let words = line.split(|c: char| !c.is_alphanumeric()).map(str::to_owned);
        words.filter_map(|word| word.strip_prefix('m')?.parse().ok()).max().unwrap_or(0)
    };
    let faults = plan.faults.iter().map(|it| named(it.what.to_string()));
    let ops = plan.ops.iter().map(|it| it.what.via.map_or(0, |via| via.0 + 1));
    faults.chain(ops).all(|machine| machine <= plan.machines())
}

/// Milder forms of a fault, the mildest first.
fn smaller(fault: Fault) -> Vec<Fault> {
    let mut milder = Vec::new();
    for divisor in [100, 10, 2] {
        let mut short = fault;
        spans(&mut short).into_iter().for_each(|span| *span /= divisor);
        milder.push(short);
    }
    match fault {
        Fault::Crash { target, down, fuse, loss } => {
            milder.push(Fault::Crash { target, down, fuse, loss: CrashLoss::Nothing });
            if loss == CrashLoss::Garbage {
                milder.push(Fault::Crash { target, down, fuse, loss: CrashLoss::Some });
            }
            milder.push(Fault::Crash { target, down, fuse: 0, loss });
        }
        Fault::Cut { links, lasts, .. } => {
            milder.push(Fault::Cut { links, lasts, flaps: Duration::ZERO });
        }
        Fault::Links { links, weather, lasts } => {
            milder.push(Fault::Links { links, weather: Weather::FAIR, lasts });
            let drops: [fn(&mut Weather); 5] = [
                |it| it.loss = 0,
                |it| it.twice = 0,
                |it| it.stall = 0,
                |it| it.corrupt = 0,
                |it| {
                    (it.delay_min, it.delay_max) =
                        (Weather::FAIR.delay_min, Weather::FAIR.delay_max)
                },
            ];
            for drop in drops {
                let mut weather = weather;
                drop(&mut weather);
                milder.push(Fault::Links { links, weather, lasts });
            }
        }
        _ => {}
    }
    milder.retain(|it| *it != fault);
    milder
}

/// All durations of a fault.
fn spans(fault: &mut Fault) -> Vec<&mut Duration> {
    match fault {
        Fault::Cut { lasts, flaps, .. } => vec![lasts, flaps],
        Fault::LateTimers { by, lasts, .. }
        | Fault::Ambush { lasts, blow: Blow::Crash { down: by, .. }, .. }
        | Fault::Disk { fault: DiskFault::Slow { by, lasts }, .. } => vec![by, lasts],
        Fault::Crash { down: span, .. }
        | Fault::Stop { down: span, .. }
        | Fault::Wipe { down: span, .. }
        | Fault::Links { lasts: span, .. }
        | Fault::Pause { lasts: span, .. }
        | Fault::Swap { lasts: span, .. }
        | Fault::DeafClients { lasts: span, .. }
        | Fault::Ambush { lasts: span, blow: Blow::Rot(_), .. }
        | Fault::Stranger { lasts: span, .. }
        | Fault::Liar { lasts: span, .. }
        | Fault::WrongFile { lasts: span, .. }
        | Fault::Misspelt { lasts: span, .. }
        | Fault::Disk { fault: DiskFault::NoSpace { lasts: span }, .. } => vec![span],
        Fault::Reset { .. }
        | Fault::SecondProcess { .. }
        | Fault::Drift { .. }
        | Fault::Transfer { .. }
        | Fault::Snapshot { .. }
        | Fault::Bootstrap { .. }
        | Fault::Membership { .. }
        | Fault::Disk { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;
    use crate::plan::OpKind;

    fn violation(rule: &'static str) -> Option<Violation> {
        Some(Violation { rule, what: String::new() })
    }

    #[test]
    fn a_line_must_not_name_a_machine_that_is_gone() {
        let mut plan = failing();
        plan.faults.clear();
        plan.ops.clear();
        (plan.voters, plan.learners) = (3, 0);
        let target = crate::plan::Target::One(crate::plan::Machine(3));
        let at = Duration::ZERO;
        assert!(is_sound(&plan));
        plan.faults.push(Timed { at, what: Fault::Reset { target } });
        assert!(!is_sound(&plan));
        plan.voters = 4;
        assert!(is_sound(&plan));
    }

    /// Fails when at least one crash and two deletes are left; a pause breaks another rule first.
    fn pretend(plan: &Plan) -> (Option<Violation>, Duration) {
        let deletes = plan.ops.iter().filter(|op| op.what.kind == OpKind::Delete).count();
        let has = |of: fn(&Fault) -> bool| plan.faults.iter().any(|it| of(&it.what));
        let crash = has(|it| matches!(it, Fault::Crash { .. }));
        let found = if crash && 2 <= deletes { violation("I6") } else { violation("other") };
        (found, plan.chaos)
    }

    fn failing() -> Plan {
        (0..)
            .map(generate::plan)
            .find(|plan| pretend(plan).0.expect("always").rule == "I6")
            .expect("some plan has crashes and deletes")
    }

    #[test]
    fn what_has_no_part_in_a_failure_goes() {
        let shrunk = shrink(&failing(), pretend, || false).expect("it fails");
        assert_eq!(shrunk.violation.rule, "I6");
        assert_eq!((shrunk.plan.faults.len(), shrunk.plan.ops.len()), (1, 2));
        assert_eq!(shrunk.plan.knobs, Knobs::default());
        let Fault::Crash { fuse, loss, .. } = shrunk.plan.faults[0].what else {
            panic!("the crash is left: {}", shrunk.plan)
        };
        assert_eq!((fuse, loss), (0, CrashLoss::Nothing));
    }

    #[test]
    fn a_plan_that_does_not_fail_is_not_shrunk() {
        let fine = |_: &Plan| (None, Duration::from_secs(1));
        assert!(shrink(&generate::plan(1), fine, || false).is_none());
    }

    /// What was reached when time ran out still fails.
    #[test]
    fn it_stops_when_it_is_told_to() {
        let mut left = 20;
        let over = || {
            left -= 1;
            left <= 0
        };
        let shrunk = shrink(&failing(), pretend, over).expect("it fails");
        assert_eq!(pretend(&shrunk.plan).0.expect("still").rule, "I6");
        assert!(shrunk.runs <= 21);
    }
}
