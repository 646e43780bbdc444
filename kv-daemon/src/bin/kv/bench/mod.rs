//! `kv bench`: how fast the servers answer.
//!
//! The order: whom to ask (`load`) -> the keys are written, if they are to be read -> clients ask, in a
//! closed or an open loop (`pace`), over connections of their own (`wire`) -> what came of it (`tally`)
//! -> a table, or JSON. The program measures its own cost too: on one machine with the servers it takes
//! processor time from them.

mod load;
mod pace;
mod tally;
mod wire;

use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kv_daemon::kv::request::ReadLevel;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use self::load::{Load, Targets};
use self::pace::Pace;
use self::tally::{Tally, Times, per_second};
use crate::args::{BenchArgs, Format};
use crate::exit::{Failed, NO_SERVER};
use crate::output::{self, Table};
use crate::session::Session;

/// Keys are written by at least so many clients: nothing of it is measured, and a sync serves all.
const FILL_CLIENTS: usize = 64;

/// How often the line that shows how far it is changes.
const PROGRESS: Duration = Duration::from_millis(200);

/// `kv bench`.
pub async fn bench(session: &Session, args: BenchArgs) -> Result<(), Failed> {
    let targets = Arc::new(targets(session).await?);
    let clients = args.clients as usize;
    if 0.0 < args.read_ratio && !args.no_fill {
        let load = load_of(session, &args, &targets, Pace::count(args.keys), 0.0);
        let filled = run(session, load, FILL_CLIENTS.max(clients)).await?;
        require_answers(&filled.tally)?;
        session.note(format!("{} keys written in {}", args.keys, shown(filled.took)));
    }
    let length = Duration::from_secs_f64(args.seconds);
    let pace = match args.rate {
        Some(rate) => Pace::open(rate, length),
        None => Pace::closed(length),
    };
    let load = load_of(session, &args, &targets, pace, args.read_ratio);
    let ran = run(session, load, clients).await?;
    require_answers(&ran.tally)?;
    session.note(format!(
        "{}, {}, {} of {}, {}, values of {}, {}",
        counted(args.clients, "client"),
        args.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} requests/s")),
        counted(targets.servers(), "server"),
        counted(targets.clusters(), "cluster"),
        counted(args.keys, "key"),
        counted(args.size, "byte"),
        shown(ran.took)
    ));
    match session.format {
        _ if args.json => as_json(&args, &ran)?,
        Format::Json => as_json(&args, &ran)?,
        format => as_table(session, format, &ran)?,
    }
    Ok(())
}

/// What a run came to.
struct Ran {
    tally: Tally,
    took: Duration,
    /// Intended starts that no client was free for.
    missed: u64,
    /// Processor time of this program.
    cpu: Duration,
}

impl Ran {
    fn requests(&self) -> u64 {
        self.tally.reads.count() + self.tally.writes.count() + self.tally.failures()
    }

    fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests().max(1) as f64
    }
}

/// Whom to ask: the owners, when there is an array.
async fn targets(session: &Session) -> Result<Targets, Failed> {
    match session.client.array().await? {
        Some(array) => Targets::array(array).map_err(Failed::other),
        None => Ok(Targets::one(session.client.settings().servers.clone())),
    }
}

/// What the clients share, for a run that begins now.
fn load_of(
    session: &Session,
    args: &BenchArgs,
    targets: &Arc<Targets>,
    pace: Pace,
    read_ratio: f64,
) -> Load {
    Load {
        targets: Arc::clone(targets),
        pace,
        keys: args.keys,
        read_ratio,
        // Printable, so that a key of it can be looked at.
        value: (0..args.size).map(|at| b'a' + (at % 26) as u8).collect(),
        read_query: match session.level {
            ReadLevel::Linearizable => "",
            ReadLevel::Stale { .. } => "?consistency=stale",
        },
        timeout: session.client.settings().timeout,
        answered: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    }
}

/// Runs the clients until the pace ends, or somebody presses Ctrl-C.
async fn run(session: &Session, load: Load, clients: usize) -> Result<Ran, Failed> {
    let load = Arc::new(load);
    let (begin, cpu) = (Instant::now(), cpu_time());
    let driver = tokio::task::spawn_blocking({
        let load = Arc::clone(&load);
        move || load.pace.drive()
    });
    let tasks: Vec<_> =
        (0..clients).map(|number| tokio::spawn(load::client(Arc::clone(&load), number))).collect();
    let shower = show_progress(session, &load, begin);
    let gathered = async {
        let mut tally = Tally::default();
        for task in tasks {
            tally.add(task.await.map_err(|error| Failed::other(format!("a client: {error}")))?);
        }
        Ok::<Tally, Failed>(tally)
    };
    let tally = tokio::select! {
        tally = gathered => tally?,
        never = shower => match never {},
    };
    let took = begin.elapsed();
    session.progress("");
    driver.await.map_err(|error| Failed::other(format!("the pace: {error}")))?;
    Ok(Ran { tally, took, missed: load.pace.missed(), cpu: cpu_time().saturating_sub(cpu) })
}

/// Until it is dropped.
async fn show_progress(session: &Session, load: &Load, begin: Instant) -> std::convert::Infallible {
    let (mut before, mut at) = (0, begin);
    loop {
        tokio::select! {
            () = tokio::time::sleep(PROGRESS) => {}
            // What is under way is still answered, and counted.
            Ok(()) = tokio::signal::ctrl_c() => load.pace.stop(),
        }
        let (answered, now) = (load.answered.load(Ordering::Relaxed), Instant::now());
        let rate = per_second(answered - before, now - at);
        let failed = load.failed.load(Ordering::Relaxed);
        session.progress(&format!(
            "{:.1} s  {rate:.0} requests/s  {answered} answered  {failed} failed",
            begin.elapsed().as_secs_f64()
        ));
        (before, at) = (answered, now);
    }
}

/// A run without a single answer has measured nothing.
fn require_answers(tally: &Tally) -> Result<(), Failed> {
    if 0 < tally.reads.count() + tally.writes.count() {
        return Ok(());
    }
    let kinds: Vec<String> =
        tally.errors.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
    Err(Failed::new(NO_SERVER, format!("not one request was answered: {}", kinds.join(", "))))
}

fn as_table(session: &Session, format: Format, ran: &Ran) -> Result<(), Failed> {
    let mut table =
        Table::new(&["", ">requests", ">per second", ">p50", ">p90", ">p99", ">p99.9", ">longest"]);
    let mut all = Times::default();
    for (name, times) in [("writes", &ran.tally.writes), ("reads", &ran.tally.reads)] {
        all.add(times);
        if 0 < times.count() {
            table.row(columns(name, times, ran.took));
        }
    }
    if 0 < ran.tally.writes.count().min(ran.tally.reads.count()) {
        table.row(columns("all", &all, ran.took));
    }
    let mut out = output::stdout();
    table.show(format, &mut out)?;
    out.flush()?;
    for (kind, count) in &ran.tally.errors {
        session.note(format!("failed: {count} {kind}"));
    }
    if 0 < ran.tally.missing {
        session.note(format!("{} reads found no such key", ran.tally.missing));
    }
    if 0 < ran.missed {
        let advice = "more --clients, or a lower --rate";
        session.note(format!("{} never began, no client was free: {advice}", ran.missed));
    }
    session.note(format!("kv itself took {:.1} us of processor time a request", ran.cpu_micros()));
    Ok(())
}

fn columns(name: &str, times: &Times, took: Duration) -> [String; 8] {
    [
        name.to_owned(),
        times.count().to_string(),
        format!("{:.0}", per_second(times.count(), took)),
        shown(times.quantile(0.5)),
        shown(times.quantile(0.9)),
        shown(times.quantile(0.99)),
        shown(times.quantile(0.999)),
        shown(times.max()),
    ]
}

fn as_json(args: &BenchArgs, ran: &Ran) -> Result<(), Failed> {
    output::json(&json!({
        "clients": args.clients,
        "size": args.size,
        "keys": args.keys,
        "read_ratio": args.read_ratio,
        "rate": args.rate,
        "seconds": ran.took.as_secs_f64(),
        "writes": ran.tally.writes.to_json(ran.took),
        "reads": ran.tally.reads.to_json(ran.took),
        "missing": ran.tally.missing,
        "errors": ran.tally.errors,
        "missed": ran.missed,
        "cpu_us_per_request": ran.cpu_micros(),
    }))?;
    Ok(())
}

/// `1 key`, `2 keys`.
fn counted<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let s = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{s}")
}

/// Three digits and a unit.
fn shown(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    let (number, unit) = match micros {
        ..1e3 => (micros, "us"),
        ..1e6 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    match number {
        ..10.0 if unit != "us" => format!("{number:.2} {unit}"),
        ..100.0 if unit != "us" => format!("{number:.1} {unit}"),
        _ => format!("{number:.0} {unit}"),
    }
}

/// Processor time of this process so far, all threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_with_three_digits() {
        let rows = [
            (7, "7 us"),
            (312, "312 us"),
            (1_240, "1.24 ms"),
            (45_600, "45.6 ms"),
            (2_000_000, "2.00 s"),
        ];
        for (micros, text) in rows {
            assert_eq!(shown(Duration::from_micros(micros)), text);
        }
        assert_eq!(
            (counted(1usize, "key"), counted(0u64, "key")),
            ("1 key".into(), "0 keys".into())
        );
    }
}
