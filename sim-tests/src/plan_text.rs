//! A plan as text: one line for each setting, fault and request, made to be read, edited and kept.
//!
//! ```text
//! seed 7
//! voters 3
//! knob heartbeat 75ms
//! fault 1.25s crash leader down=500ms fuse=3 loss=some
//! fault 3s cut around=m2 lasts=2s flaps=0s
//! op 3.5s c0 put k4 size=64 patience=2s
//! ```
//!
//! Empty lines and lines that begin with `#` mean nothing. A setting that is not named has its
//! default; a word that is not known is an error that names the line.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use crate::plan::*;

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "voters {}", self.voters)?;
        writeln!(f, "learners {}", self.learners)?;
        writeln!(f, "start {}", if self.start == Start::Formed { "formed" } else { "forming" })?;
        writeln!(f, "chaos {}", Span(self.chaos))?;
        writeln!(f, "recoverable {}", if self.recoverable { "yes" } else { "no" })?;
        let drifts: Vec<String> = self.drift_ppm.iter().map(i32::to_string).collect();
        writeln!(f, "drift {}", drifts.join(" "))?;
        writeln!(f, "disk {} {}", Span(self.disk.sync_min), Span(self.disk.sync_max))?;
        let defaults = Knobs::default();
        for (name, value) in knobs(&self.knobs) {
            if knobs(&defaults).iter().any(|it| *it == (name, value.clone())) {
                continue;
            }
            writeln!(f, "knob {name} {value}")?;
        }
        for Timed { at, what } in &self.faults {
            writeln!(f, "fault {} {what}", Span(*at))?;
        }
        for Timed { at, what } in &self.ops {
            writeln!(f, "op {} {what}", Span(*at))?;
        }
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Plan, String> {
        let mut plan = Plan {
            seed: 0,
            voters: 3,
            learners: 0,
            start: Start::Formed,
            chaos: Duration::ZERO,
            knobs: Knobs::default(),
            drift_ppm: Vec::new(),
            disk: DiskPace::default(),
            recoverable: true,
            faults: Vec::new(),
            ops: Vec::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                read_line(&mut plan, line)
                    .map_err(|why| format!("line {}: {why}: {line:?}", number + 1))?;
            }
        }
        if !(1..=7).contains(&plan.voters) || 2 < plan.learners {
            return Err("a plan has 1 to 7 voters and 0 to 2 learners".to_owned());
        }
        Ok(plan)
    }
}

fn read_line(plan: &mut Plan, line: &str) -> Result<(), String> {
    let mut words = Words::new(line);
    match words.word()? {
        "seed" => plan.seed = words.parse()?,
        "voters" => plan.voters = words.parse()?,
        "learners" => plan.learners = words.parse()?,
        "start" => {
            plan.start = match words.word()? {
                "formed" => Start::Formed,
                "forming" => Start::Forming,
                _ => return Err("start is formed or forming".to_owned()),
            }
        }
        "chaos" => plan.chaos = span(words.word()?)?,
        "recoverable" => plan.recoverable = words.word()? == "yes",
        "drift" => {
            while let Ok(word) = words.word() {
                plan.drift_ppm.push(number(word)?);
            }
        }
        "disk" => {
            let (sync_min, sync_max) = (span(words.word()?)?, span(words.word()?)?);
            plan.disk = DiskPace { sync_min, sync_max };
        }
        "knob" => {
            let (name, value) = (words.word()?, words.word()?);
            set_knob(&mut plan.knobs, name, value)?;
        }
        "fault" => {
            let at = span(words.word()?)?;
            plan.faults.push(Timed { at, what: read_fault(&mut words)? });
        }
        "op" => {
            let at = span(words.word()?)?;
            plan.ops.push(Timed { at, what: read_op(&mut words)? });
        }
        _ => return Err("no such setting".to_owned()),
    }
    words.end()
}

// Settings.

macro_rules! knob_table {
    ($($name:ident),* ; $($span:ident),*) => {
        fn knobs(knobs: &Knobs) -> Vec<(&'static str, String)> {
            vec![
                $((stringify!($span), Span(knobs.$span).to_string()),)*
                $((stringify!($name), knobs.$name.to_string()),)*
            ]
        }

        fn set_knob(knobs: &mut Knobs, name: &str, value: &str) -> Result<(), String> {
            match name {
                $(stringify!($span) => knobs.$span = span(value)?,)*
                $(stringify!($name) => knobs.$name = number(value)?,)*
                _ => return Err("no such knob".to_owned()),
            }
            Ok(())
        }
    };
}

knob_table!(
    append_bytes_max, inflight_bytes_max, uncommitted_bytes_max, entry_bytes_max, apply_bytes_max,
    reads_max, snapshot_bytes, snapshot_entries, tail_bytes, chunk_bytes, segment_bytes_first,
    segment_bytes_max, waiting_max ; heartbeat, election_timeout_min
);

// Faults.

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Links { links, weather, lasts } => {
                write!(f, "links {links} lasts={} {weather}", Span(*lasts))
            }
            Fault::Cut { links, lasts, flaps } => {
                write!(f, "cut {links} lasts={} flaps={}", Span(*lasts), Span(*flaps))
            }
            Fault::Reset { target } => write!(f, "reset {target}"),
            Fault::Crash { target, down, fuse, loss } => {
                let loss = word_of(&LOSSES, loss);
                write!(f, "crash {target} down={} fuse={fuse} loss={loss}", Span(*down))
            }
            Fault::Stop { target, down } => write!(f, "stop {target} down={}", Span(*down)),
            Fault::Pause { target, lasts } => write!(f, "pause {target} lasts={}", Span(*lasts)),
            Fault::Wipe { target, down } => write!(f, "wipe {target} down={}", Span(*down)),
            Fault::Swap { one, other, lasts } => {
                write!(f, "swap {one} {other} lasts={}", Span(*lasts))
            }
            Fault::SecondProcess { target } => write!(f, "second-process {target}"),
            Fault::Disk { target, fault } => write!(f, "disk {target} {fault}"),
            Fault::Drift { target, ppm } => write!(f, "drift {target} ppm={ppm}"),
            Fault::LateTimers { target, by, lasts } => {
                write!(f, "late-timers {target} by={} lasts={}", Span(*by), Span(*lasts))
            }
            Fault::Transfer { to: None } => f.write_str("transfer"),
            Fault::Transfer { to: Some(to) } => write!(f, "transfer to={to}"),
            Fault::Snapshot { target } => write!(f, "snapshot {target}"),
            Fault::DeafClients { target, lasts } => {
                write!(f, "deaf-clients {target} lasts={}", Span(*lasts))
            }
            Fault::Ambush { target, moment, lasts, blow } => {
                let when = word_of(&MOMENTS, moment);
                write!(f, "ambush {target} when={when} lasts={} {blow}", Span(*lasts))
            }
            Fault::Stranger { target, lasts } => {
                write!(f, "stranger {target} lasts={}", Span(*lasts))
            }
            Fault::Liar { target, lasts } => write!(f, "liar {target} lasts={}", Span(*lasts)),
            Fault::WrongFile { target, place, origin, lasts } => {
                let place = word_of(&PLACES, place);
                write!(f, "wrong-file {target} in={place} from={origin} lasts={}", Span(*lasts))
            }
            Fault::Misspelt { target, how, lasts } => {
                let how = word_of(&SPELLINGS, how);
                write!(f, "misspelt {target} how={how} lasts={}", Span(*lasts))
            }
            Fault::Bootstrap { target } => write!(f, "bootstrap {target}"),
            Fault::Membership { machine, change } => match change {
                Change::Replace(by) => write!(f, "membership replace {machine} by={by}"),
                change => write!(f, "membership {} {machine}", word_of(&CHANGES, change)),
            },
        }
    }
}

fn read_fault(words: &mut Words<'_>) -> Result<Fault, String> {
    let kind = words.word()?;
    match kind {
        "links" => {
            let links = read_links(words)?;
            let lasts = words.span("lasts")?;
            Ok(Fault::Links { links, weather: read_weather(words)?, lasts })
        }
        "cut" => {
            let links = read_links(words)?;
            Ok(Fault::Cut { links, lasts: words.span("lasts")?, flaps: words.span("flaps")? })
        }
        "swap" => {
            let (one, other) = (machine(words.word()?)?, machine(words.word()?)?);
            Ok(Fault::Swap { one, other, lasts: words.span("lasts")? })
        }
        "membership" => {
            let (kind, machine) = (words.word()?, machine(words.word()?)?);
            let change = match kind {
                "replace" => Change::Replace(self::machine(words.named("by")?)?),
                kind => find_word(&CHANGES, kind, "change")?,
            };
            Ok(Fault::Membership { machine, change })
        }
        "transfer" => {
            let to = words.maybe("to").map(machine).transpose()?;
            Ok(Fault::Transfer { to })
        }
        _ => {
            let target = target(words.word()?)?;
            match kind {
                "reset" => Ok(Fault::Reset { target }),
                "crash" => Ok(Fault::Crash {
                    target,
                    down: words.span("down")?,
                    fuse: words.number("fuse")?,
                    loss: find_word(&LOSSES, words.named("loss")?, "loss")?,
                }),
                "stop" => Ok(Fault::Stop { target, down: words.span("down")? }),
                "pause" => Ok(Fault::Pause { target, lasts: words.span("lasts")? }),
                "wipe" => Ok(Fault::Wipe { target, down: words.span("down")? }),
                "second-process" => Ok(Fault::SecondProcess { target }),
                "disk" => Ok(Fault::Disk { target, fault: read_disk_fault(words)? }),
                "drift" => Ok(Fault::Drift { target, ppm: words.number("ppm")? }),
                "late-timers" => Ok(Fault::LateTimers {
                    target,
                    by: words.span("by")?,
                    lasts: words.span("lasts")?,
                }),
                "snapshot" => Ok(Fault::Snapshot { target }),
                "deaf-clients" => Ok(Fault::DeafClients { target, lasts: words.span("lasts")? }),
                "ambush" => Ok(Fault::Ambush {
                    target,
                    moment: find_word(&MOMENTS, words.named("when")?, "moment")?,
                    lasts: words.span("lasts")?,
                    blow: read_blow(words)?,
                }),
                "stranger" => Ok(Fault::Stranger { target, lasts: words.span("lasts")? }),
                "liar" => Ok(Fault::Liar { target, lasts: words.span("lasts")? }),
                "wrong-file" => Ok(Fault::WrongFile {
                    target,
                    place: find_word(&PLACES, words.named("in")?, "place")?,
                    origin: read_origin(words.named("from")?)?,
                    lasts: words.span("lasts")?,
                }),
                "misspelt" => Ok(Fault::Misspelt {
                    target,
                    how: find_word(&SPELLINGS, words.named("how")?, "spelling")?,
                    lasts: words.span("lasts")?,
                }),
                "bootstrap" => Ok(Fault::Bootstrap { target }),
                _ => Err("no such fault".to_owned()),
            }
        }
    }
}

impl Display for DiskFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DiskFault::ReadError { after } => write!(f, "read-error after={after}"),
            DiskFault::WriteError { after } => write!(f, "write-error after={after}"),
            DiskFault::ShortWrite { after } => write!(f, "short-write after={after}"),
            DiskFault::SyncError { after } => write!(f, "sync-error after={after}"),
            DiskFault::NoSpace { lasts } => write!(f, "no-space lasts={}", Span(*lasts)),
            DiskFault::Slow { by, lasts } => {
                write!(f, "slow by={} lasts={}", Span(*by), Span(*lasts))
            }
            DiskFault::Rot { rot, place } => {
                write!(f, "rot={} in={}", word_of(&ROTS, rot), word_of(&PLACES, place))
            }
        }
    }
}

const ROTS: [(Rot, &str); 6] = [
    (Rot::Flip, "flip"),
    (Rot::Zero, "zero"),
    (Rot::Stale, "stale"),
    (Rot::Misdirected, "misdirected"),
    (Rot::Cut, "cut"),
    (Rot::Gone, "gone"),
];

const PLACES: [(Place, &str); 3] =
    [(Place::Wal, "wal"), (Place::Snapshot, "snapshot"), (Place::Meta, "meta")];

const ORIGINS: [(Origin, &str); 3] = [
    (Origin::Cluster, "another-cluster"),
    (Origin::Newer, "newer-program"),
    (Origin::Nonsense, "nonsense"),
];

const LOSSES: [(CrashLoss, &str); 3] =
    [(CrashLoss::Nothing, "nothing"), (CrashLoss::Some, "some"), (CrashLoss::Garbage, "garbage")];

const MOMENTS: [(Moment, &str); 10] = [
    (Moment::Recovering, "recovering"),
    (Moment::Forming, "forming"),
    (Moment::Campaigning, "campaigning"),
    (Moment::Crowned, "crowned"),
    (Moment::Synced, "synced"),
    (Moment::Voting, "voting"),
    (Moment::Restoring, "restoring"),
    (Moment::Snapshotting, "snapshotting"),
    (Moment::Receiving, "receiving"),
    (Moment::Sending, "sending"),
];

const SPELLINGS: [(Spelling, &str); 4] = [
    (Spelling::Short, "short"),
    (Spelling::Long, "long"),
    (Spelling::Itself, "itself"),
    (Spelling::Alias, "alias"),
];

const CHANGES: [(Change, &str); 4] = [
    (Change::Add, "add"),
    (Change::Promote, "promote"),
    (Change::Demote, "demote"),
    (Change::Remove, "remove"),
];

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Machine(machine) => write!(f, "{machine}"),
            origin => f.write_str(word_of(&ORIGINS, origin)),
        }
    }
}

fn read_origin(word: &str) -> Result<Origin, String> {
    machine(word).map(Origin::Machine).or_else(|_| find_word(&ORIGINS, word, "origin"))
}

impl Display for Blow {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Blow::Crash { down, fuse, loss } => {
                let loss = word_of(&LOSSES, loss);
                write!(f, "down={} fuse={fuse} loss={loss}", Span(*down))
            }
            Blow::Rot(rot) => write!(f, "rot={}", word_of(&ROTS, rot)),
        }
    }
}

fn read_blow(words: &mut Words<'_>) -> Result<Blow, String> {
    if let Some(rot) = words.maybe("rot") {
        return find_word(&ROTS, rot, "rot").map(Blow::Rot);
    }
    let (down, fuse) = (words.span("down")?, words.number("fuse")?);
    Ok(Blow::Crash { down, fuse, loss: find_word(&LOSSES, words.named("loss")?, "loss")? })
}

fn read_disk_fault(words: &mut Words<'_>) -> Result<DiskFault, String> {
    if let Some(rot) = words.maybe("rot") {
        let rot = find_word(&ROTS, rot, "rot")?;
        let place = find_word(&PLACES, words.named("in")?, "place")?;
        return Ok(DiskFault::Rot { rot, place });
    }
    match words.word()? {
        "read-error" => Ok(DiskFault::ReadError { after: words.number("after")? }),
        "write-error" => Ok(DiskFault::WriteError { after: words.number("after")? }),
        "short-write" => Ok(DiskFault::ShortWrite { after: words.number("after")? }),
        "sync-error" => Ok(DiskFault::SyncError { after: words.number("after")? }),
        "no-space" => Ok(DiskFault::NoSpace { lasts: words.span("lasts")? }),
        "slow" => Ok(DiskFault::Slow { by: words.span("by")?, lasts: words.span("lasts")? }),
        _ => Err("no such disk fault".to_owned()),
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Target::One(machine) => write!(f, "{machine}"),
            Target::Leader => f.write_str("leader"),
            Target::Follower(number) => write!(f, "f{number}"),
        }
    }
}

fn target(word: &str) -> Result<Target, String> {
    match word.strip_prefix('f') {
        _ if word == "leader" => Ok(Target::Leader),
        Some(number) => Ok(Target::Follower(self::number(number)?)),
        None => machine(word).map(Target::One),
    }
}

impl Display for Links {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Links::All => f.write_str("all"),
            Links::Around(target) => write!(f, "around={target}"),
            Links::Out(target) => write!(f, "out={target}"),
            Links::Into(target) => write!(f, "into={target}"),
            Links::From(from, to) => write!(f, "from={from}:{to}"),
            Links::Split(bits) => write!(f, "split={bits:b}"),
            Links::NotRing => f.write_str("not-ring"),
            Links::Bridge(machine) => write!(f, "bridge={machine}"),
        }
    }
}

fn read_links(words: &mut Words<'_>) -> Result<Links, String> {
    let word = words.word()?;
    let (kind, what) = word.split_once('=').unwrap_or((word, ""));
    match kind {
        "all" => Ok(Links::All),
        "not-ring" => Ok(Links::NotRing),
        "around" => target(what).map(Links::Around),
        "out" => target(what).map(Links::Out),
        "into" => target(what).map(Links::Into),
        "bridge" => machine(what).map(Links::Bridge),
        "split" => u8::from_str_radix(what, 2)
            .map(Links::Split)
            .map_err(|_| "a split is a row of 0 and 1".to_owned()),
        "from" => {
            let (from, to) = what.split_once(':').ok_or("from=m1:m2")?;
            Ok(Links::From(machine(from)?, machine(to)?))
        }
        _ => Err("no such links".to_owned()),
    }
}

impl Display for Weather {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Weather { loss, twice, late, delay_min, delay_max, stall, corrupt } = self;
        let (late, min, max) = (Span(*late), Span(*delay_min), Span(*delay_max));
        write!(f, "loss={loss} twice={twice} late={late} min={min} max={max} ")?;
        write!(f, "stall={stall} corrupt={corrupt}")
    }
}

fn read_weather(words: &mut Words<'_>) -> Result<Weather, String> {
    Ok(Weather {
        loss: words.number("loss")?,
        twice: words.number("twice")?,
        late: words.span("late")?,
        delay_min: words.span("min")?,
        delay_max: words.span("max")?,
        stall: words.number("stall")?,
        corrupt: words.number("corrupt")?,
    })
}

// Requests.

const KINDS: [(OpKind, &str); 7] = [
    (OpKind::Get, "get"),
    (OpKind::GetStale, "get-stale"),
    (OpKind::Put, "put"),
    (OpKind::Cas, "cas"),
    (OpKind::PutNew, "put-new"),
    (OpKind::Delete, "delete"),
    (OpKind::List, "list"),
];

impl Display for ClientOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ClientOp { client, via, kind, key, size, patience } = self;
        let kind = word_of(&KINDS, kind);
        write!(f, "c{client} {kind} k{key} size={size} patience={}", Span(*patience))?;
        via.map_or(Ok(()), |via| write!(f, " via={via}"))
    }
}

fn read_op(words: &mut Words<'_>) -> Result<ClientOp, String> {
    let client = words.word()?.strip_prefix('c').ok_or("a client is c0, c1 ...")?;
    let kind = find_word(&KINDS, words.word()?, "request")?;
    let key = words.word()?.strip_prefix('k').ok_or("a key is k0, k1 ...")?;
    Ok(ClientOp {
        client: number(client)?,
        kind,
        key: number(key)?,
        size: words.number("size")?,
        patience: words.span("patience")?,
        via: words.maybe("via").map(machine).transpose()?,
    })
}

// Words.

/// The words of a line, taken from the left.
struct Words<'a> {
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Words<'a> {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.reverse();
        Words { words }
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.words.pop().ok_or_else(|| "the line ends early".to_owned())
    }

    fn parse<T: FromStr>(&mut self) -> Result<T, String> {
        number(self.word()?)
    }

    /// The value of `name=value`, if that comes next.
    fn maybe(&mut self, name: &str) -> Option<&'a str> {
        let (given, value) = self.words.last()?.split_once('=')?;
        (given == name).then(|| {
            self.words.pop();
            value
        })
    }

    fn named(&mut self, name: &str) -> Result<&'a str, String> {
        self.maybe(name).ok_or_else(|| format!("{name}= is missing"))
    }

    fn number<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        number(self.named(name)?)
    }

    fn span(&mut self, name: &str) -> Result<Duration, String> {
        span(self.named(name)?)
    }

    fn end(&mut self) -> Result<(), String> {
        self.words.pop().map_or(Ok(()), |word| Err(format!("{word:?} is one word too many")))
    }
}

/// How a value of a table is written.
fn word_of<T: PartialEq>(table: &[(T, &'static str)], value: &T) -> &'static str {
    table.iter().find(|(it, _)| it == value).map_or("?", |(_, word)| word)
}

/// The value that is written so.
fn find_word<T: Copy>(table: &[(T, &str)], word: &str, what: &str) -> Result<T, String> {
    let found = table.iter().find(|(_, name)| *name == word).map(|(value, _)| *value);
    found.ok_or_else(|| {
        let words: Vec<&str> = table.iter().map(|(_, name)| *name).collect();
        format!("no such {what}: {}", words.join(", "))
    })
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} is no number that fits"))
}

fn machine(word: &str) -> Result<Machine, String> {
    let number = word.strip_prefix('m').and_then(|it| it.parse::<u8>().ok());
    let number = number.and_then(|it| it.checked_sub(1)).filter(|it| *it < 9);
    number.map(Machine).ok_or_else(|| format!("{word:?} is no machine: m1, m2 ..."))
}

/// A span of time as people write it, exactly: `75ms`, `1.25s`, `3us`, `7ns`.
pub(crate) struct Span(pub(crate) Duration);

const UNITS: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos() as u64;
        let fitting = UNITS.iter().rev().find(|(_, unit)| *unit <= nanos.max(1));
        let (name, unit) = fitting.copied().unwrap_or(("ns", 1));
        let (whole, rest) = (nanos / unit, nanos % unit);
        if nanos == 0 {
            return f.write_str("0s");
        }
        if rest == 0 {
            return write!(f, "{whole}{name}");
        }
        let digits = unit.ilog10() as usize;
        let rest = format!("{rest:0digits$}");
        write!(f, "{whole}.{}{name}", rest.trim_end_matches('0'))
    }
}

fn span(word: &str) -> Result<Duration, String> {
    let fault = || format!("{word:?} is no time: 75ms, 1.25s ...");
    let digits = word.find(|it: char| it.is_ascii_alphabetic()).ok_or_else(fault)?;
    let (number, name) = word.split_at(digits);
    let unit = UNITS.iter().find(|(it, _)| *it == name).ok_or_else(fault)?.1;
    let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| fault())?;
    let mut part = 0;
    let mut place = unit;
    for digit in rest.bytes() {
        place /= 10;
        let digit = (digit as char).to_digit(10).ok_or_else(fault)?;
        part += place * u64::from(digit);
    }
    whole.checked_mul(unit).map(|nanos| Duration::from_nanos(nanos + part)).ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_exact() {
        for nanos in [0, 1, 999, 1_000, 1_001, 75_000_000, 1_250_000_000, 61_000_000_007] {
            let it = Duration::from_nanos(nanos);
            assert_eq!(span(&Span(it).to_string()), Ok(it), "{}", Span(it));
        }
        assert_eq!(Span(Duration::from_micros(1_250_000)).to_string(), "1.25s");
        assert!(span("12").is_err() && span("ms").is_err() && span("1.x5s").is_err());
    }

    /// Whatever is generated comes back from its text as it was.
    #[test]
    fn plans_survive_their_text() {
        for seed in 0..300 {
            let plan = crate::generate::plan(seed);
            let text = plan.to_string();
            let read: Plan = text.parse().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            assert!(read == plan, "seed {seed} reads as another plan");
        }
    }

    /// Also what is never generated.
    #[test]
    fn every_kind_of_fault_survives_its_text() {
        let words = |table: &[&str], line: &str| -> Vec<String> {
            table.iter().map(|word| format!("fault 1s {}", line.replace('*', word))).collect()
        };
        let names = |table: &[(Moment, &'static str)]| table.iter().map(|it| it.1).collect();
        let moments: Vec<&str> = names(&MOMENTS);
        let lines = [
            words(&moments, "ambush leader when=* lasts=2s down=1s fuse=3 loss=garbage"),
            words(&["flip", "gone"], "ambush m2 when=sending lasts=2s rot=*"),
            words(&["short", "long", "itself", "alias"], "misspelt f1 how=* lasts=2s"),
            words(&["add", "promote", "demote", "remove"], "membership * m4"),
            words(&["m2", "leader"], "stranger * lasts=5s"),
            words(&["m2", "f1"], "liar * lasts=5s"),
            words(&["wal", "snapshot", "meta"], "wrong-file m2 in=* from=m3 lasts=2s"),
            words(
                &["another-cluster", "newer-program", "nonsense"],
                "wrong-file leader in=wal from=* lasts=2s",
            ),
            words(&["m3 by=m5", "m1 by=m2"], "membership replace *"),
            words(&["m1"], "bootstrap *"),
        ];
        for line in lines.concat() {
            let plan: Plan = line.parse().unwrap_or_else(|why| panic!("{line}: {why}"));
            assert!(plan.to_string().lines().any(|it| it == line), "{line} became {plan}");
        }
    }

    #[test]
    fn what_the_system_cannot_do_yet_is_refused_by_name() {
        let refusal = |text: &str| text.parse::<Plan>().unwrap().refusal();
        assert_eq!(refusal("fault 1s reset m1"), None);
        let add = refusal("fault 1s membership add m4").unwrap();
        assert_eq!(add, "the library cannot change a membership yet: fault 1s membership add m4");
        assert!(refusal("fault 2s bootstrap m1").unwrap().contains("--bootstrap"));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let fault = |text: &str| text.parse::<Plan>().unwrap_err();
        assert!(fault("voters 3\nfault 1s explode m1").starts_with("line 2: "));
        assert!(fault("knob speed 3").contains("no such knob"));
        assert!(fault("seed 1 2").contains("too many"));
        assert!(fault("fault 1s crash m0 down=1s fuse=0 loss=some").contains("no machine"));
        assert!(fault("voters 8").contains("1 to 7"));
        assert!(fault("fault 1s membership marry m1").contains("add, promote, demote, remove"));
    }
}
