//! `cargo sim`: runs seeds and plans, and says what broke.
//!
//! This shell alone may look at the clock and start threads: each thread runs whole seeds. What a
//! seed does never depends on it.

#![expect(clippy::disallowed_methods, reason = "progress is shown in people's time")]

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::{ClockId, clock_gettime};
use sim_tests::plan::Plan;
use sim_tests::shrink::{self, Shrunk};
use sim_tests::tally::Tally;
use sim_tests::trace::Violation;
use sim_tests::{generate, run};

/// Runs the whole system in one deterministic thread for each seed.
#[derive(Parser)]
#[command(name = "sim")]
struct Args {
    /// Replays this seed; without it many fresh ones are run.
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them; by default one that nobody has run.
    #[arg(long)]
    from: Option<u64>,
    /// Stops beginning new seeds after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Runs at least this many seeds, however long they take, and demands of so many what they have
    /// to show: every mark hit, and 100 committed writes in half of the seeds.
    #[arg(long)]
    at_least: Option<u64>,
    /// Runs this plan.
    #[arg(long, conflicts_with = "seed")]
    plan: Option<PathBuf>,
    /// Prints the plan of the seed and does not run it.
    #[arg(long, requires = "seed")]
    show: bool,
    /// Prints every fact and decision of one run; many are told so and not printed.
    #[arg(long)]
    trace: bool,
    /// Writes the run as one page for a browser.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Looks for a smaller plan that breaks the same rule, for at most a minute.
    #[arg(long)]
    shrink: bool,
    /// After this many failures no more seeds are begun.
    #[arg(long, default_value_t = 10)]
    failures: usize,
    /// Prints in how many seeds each mark was hit.
    #[arg(long)]
    marks: bool,
    /// Runs every seed twice and compares.
    #[arg(long)]
    twice: bool,
    /// Threads; by default one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Where the plans of failing seeds are written.
    #[arg(long, default_value = "target/sim")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A panic is a broken rule of some seed and told as such: with the seed and its plan.
    if args.seed.is_none() && args.plan.is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    if args.trace {
        let is_many = args.seed.is_none() && args.plan.is_none();
        sim_tests::transcript::hear_library_log(!is_many);
    }
    let result = match (&args.seed, &args.plan) {
        (Some(seed), _) => one(&args, &format!("seed {seed}"), generate::plan(*seed)),
        (None, Some(file)) => match read_plan(file) {
            Ok(plan) => one(&args, &file.display().to_string(), plan),
            Err(why) => Err(why),
        },
        (None, None) => many(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            let _ = writeln!(io::stderr(), "sim: {why}");
            ExitCode::from(2)
        }
    }
}

fn read_plan(file: &PathBuf) -> Result<Plan, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let plan: Plan = text.parse().map_err(|why| format!("{}: {why}", file.display()))?;
    match plan.refusal() {
        Some(why) => Err(format!("{}: {why}", file.display())),
        None => Ok(plan),
    }
}

/// One run. Whether all rules held.
fn one(args: &Args, name: &str, plan: Plan) -> Result<bool, String> {
    let mut out = io::stdout().lock();
    if args.show {
        return write!(out, "{plan}").map(|()| true).map_err(|error| error.to_string());
    }
    drop(out);
    if args.shrink {
        return smaller(args, name, &plan);
    }
    let report = match &args.html {
        Some(file) => {
            let (report, page) = run::run_drawn(plan, name);
            fs::write(file, page).map_err(|error| format!("{}: {error}", file.display()))?;
            report
        }
        None if args.trace => run::run_traced(plan),
        None => run::run(plan),
    };
    let mut out = io::stdout().lock();
    let told = match &report.failure {
        None => writeln!(out, "{name}: ok, {:032x}", report.hash),
        Some(violation) => {
            let seconds = report.ended.0 as f64 / 1e9;
            let Violation { rule, what } = violation;
            writeln!(out, "{name}: {rule} is broken after {seconds:.6} s, {:032x}", report.hash)
                .and_then(|()| writeln!(out, "{what}"))
        }
    };
    told.map_err(|error| error.to_string())?;
    Ok(report.failure.is_none())
}

/// Longest a plan is shrunk.
const SHRINK_MAX: Duration = Duration::from_secs(55);

/// Shrinks a plan and writes what is left. Whether it holds all rules.
fn smaller(args: &Args, name: &str, plan: &Plan) -> Result<bool, String> {
    // Each smaller plan may panic in its own way; only the last one is told.
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let run = |plan: &Plan| {
        let report = run::run(plan.clone());
        (report.failure, Duration::from_nanos(report.ended.0))
    };
    let shrunk = shrink::shrink(plan, run, || SHRINK_MAX < began.elapsed());
    let told = |error: io::Error| error.to_string();
    let mut out = io::stdout().lock();
    let Some(Shrunk { plan: small, violation, runs }) = shrunk else {
        writeln!(out, "{name}: ok, nothing to shrink").map_err(told)?;
        return Ok(true);
    };
    let file = args.out.join(format!("{}.small.plan", plan.seed));
    fs::create_dir_all(&args.out).map_err(told)?;
    fs::write(&file, small.to_string()).map_err(told)?;
    let (before, after) =
        (plan.faults.len() + plan.ops.len(), small.faults.len() + small.ops.len());
    let seconds = began.elapsed().as_secs_f64();
    writeln!(out, "{name}: {before} events shrunk to {after} in {seconds:.0} s, {runs} runs")
        .and_then(|()| writeln!(out, "{}: {}", violation.rule, violation.what))
        .and_then(|()| writeln!(out, "replay: cargo sim --plan {} --trace", file.display()))
        .map_err(told)?;
    Ok(false)
}

fn many(args: &Args) -> Result<bool, String> {
    let first = args.from.unwrap_or_else(fresh_seed);
    let threads = match args.threads {
        Some(threads) => threads.max(1),
        None => thread::available_parallelism().map_or(1, |it| it.get()),
    };
    let began = Instant::now();
    let bar = ProgressBar::new(args.seeds);
    let style = "{elapsed_precise} {bar:30} {pos}/{len} seeds, {per_sec}, {msg}";
    bar.set_style(ProgressStyle::with_template(style).map_err(|error| error.to_string())?);
    let (next, full) = (AtomicU64::new(0), AtomicBool::new(false));
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let late = args.seconds.is_some_and(|most| most <= began.elapsed().as_secs())
                        && args.at_least.is_none_or(|least| least <= number);
                    if args.seeds <= number || late || full.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = first.wrapping_add(number);
                    let plan = generate::plan(seed);
                    let before = thread_cpu();
                    let told = args.trace;
                    let report =
                        if told { run::run_told(plan.clone()) } else { run::run(plan.clone()) };
                    let cpu = thread_cpu() - before;
                    let equal = !args.twice || run::run(plan.clone()) == report;
                    let mut tally = tally.lock().expect("no thread panics while it adds");
                    tally.add(&plan, report, cpu, equal);
                    full.store(args.failures <= tally.failures.len(), Ordering::Relaxed);
                    bar.set_message(tally.words());
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let tally = tally.into_inner().expect("no thread panics while it adds");
    report(args, first, &tally, began.elapsed()).map_err(|error| error.to_string())
}

/// Tells what many runs came to, and writes down the plans of those that failed.
fn report(args: &Args, first: u64, tally: &Tally, took: Duration) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let (seeds, seconds) = (tally.seeds, took.as_secs_f64());
    writeln!(out, "{seeds} seeds from {first} in {seconds:.1} s: {}", tally.words())?;
    tally.tell(took, &mut out)?;
    if args.marks {
        tally.tell_marks(&mut out)?;
    }
    let shortcomings = tally.shortcomings();
    for what in &shortcomings {
        writeln!(out, "{what}")?;
    }
    for seed in &tally.unequal {
        writeln!(out, "seed {seed}: the second run was another one: cargo sim {seed} --twice")?;
    }
    for (seed, Violation { rule, what }, at) in &tally.failures {
        let file = args.out.join(format!("{seed}.plan"));
        fs::create_dir_all(&args.out)?;
        fs::write(&file, generate::plan(*seed).to_string())?;
        let at = at.as_secs_f64();
        writeln!(out, "\nseed {seed}: {rule} is broken after {at:.6} s\n{what}")?;
        writeln!(out, "plan {}\nreplay: cargo sim {seed} --trace", file.display())?;
    }
    let enough = args.at_least.is_none() || shortcomings.is_empty();
    Ok(tally.is_clean() && enough)
}

/// Processor time of this thread, so that a busy machine does not make the simulator look slow.
fn thread_cpu() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Seeds nobody has run yet: the nanoseconds of the clock, rounded to be readable.
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |it| it.as_millis() as u64 % 1_000_000_000 * 1_000)
}
