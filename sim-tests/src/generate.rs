//! From a seed to a plan.
//!
//! Each class of faults is in with one chance in two; of eight seeds one has none and one has all.
//! Intensities are spread over orders of magnitude, so that mild and wild both occur. In nine seeds
//! of ten at most a minority of disks is ever damaged, so that the cluster can be asked to become
//! live again; in the tenth anything goes.

use std::time::Duration;

use crate::plan::*;
use crate::rng::Rng;
use crate::scenes::Scenes;

/// The plan of a seed.
pub fn plan(seed: u64) -> Plan {
    let mut shape = Rng::stream(seed, "shape", 0);
    let voters = match shape.below(16) {
        0 => 1,
        1 => 2,
        2..=9 => 3,
        10 | 11 => 4,
        12..=14 => 5,
        _ => 7,
    };
    let start = if shape.coin() { Start::Formed } else { Start::Forming };
    let learners = match start {
        Start::Formed if voters < 6 && shape.below(4) == 0 => 1 + shape.below(2) as u8,
        _ => 0,
    };
    let chaos = shape.log_span(Duration::from_secs(60), Duration::from_secs(220));
    let recoverable = shape.below(10) != 0;
    let machines = voters + learners;
    let classes = Classes::draw(&mut Rng::stream(seed, "classes", 0));
    let mut drifts = Rng::stream(seed, "drift", 0);
    let drift_ppm = (0..machines)
        .map(|_| if classes.clock { drifts.range(0..200_001) as i32 - 100_000 } else { 0 })
        .collect();

    let knobs = knobs(&mut Rng::stream(seed, "knobs", 0), classes.knobs);
    let mut plan = Plan {
        seed,
        voters,
        learners,
        start,
        chaos,
        knobs,
        drift_ppm,
        disk: pace(&mut Rng::stream(seed, "pace", 0)),
        recoverable,
        faults: Vec::new(),
        ops: ops(&mut Rng::stream(seed, "ops", 0), chaos, machines),
    };
    let mut budget = Rng::stream(seed, "budget", 0);
    let damaged = damaged(&mut budget, &plan);
    let maker = Maker { machines, chaos, damaged, recoverable };
    let make = |name: &'static str, on: bool, make: fn(&Maker, &mut Rng) -> Fault, most: u64| {
        let mut rng = Rng::stream(seed, name, 0);
        let count = if on { rng.log_uniform(1, most) } else { 0 };
        let mut faults = Vec::new();
        for _ in 0..count {
            let at = rng.span(Duration::from_millis(1), chaos);
            faults.push(Timed { at, what: make(&maker, &mut rng) });
        }
        faults
    };
    plan.faults.extend(make("weather", classes.network, Maker::weather, 20));
    plan.faults.extend(make("cuts", classes.cuts, Maker::cut, 25));
    plan.faults.extend(make("crashes", classes.process, Maker::process, 40));
    plan.faults.extend(make("disks", classes.disk, Maker::disk, 12));
    plan.faults.extend(make("clocks", classes.clock, Maker::clock, 8));
    plan.faults.extend(make("clients", classes.clients, Maker::clients, 6));
    plan.faults.extend(make("operators", classes.operators, Maker::operator, 15));
    plan.faults.extend(make("ambushes", classes.process, Maker::ambush, 20));
    plan.faults.extend(make("rotting", classes.damage, Maker::rotting, 3));
    plan.faults.extend(make("strangers", classes.network, Maker::stranger, 2));
    plan.faults.extend(make("liars", classes.network, Maker::liar, 2));
    plan.faults.extend(make("wrong files", classes.operators, Maker::wrong_file, 6));
    let forms = classes.operators && start == Start::Forming && 2 < machines;
    plan.faults.extend(make("spellings", forms, Maker::misspelt, 4).into_iter().map(|fault| {
        // While they form, and a few on nodes that have long formed.
        let at = if fault.at < chaos / 2 { fault.at / 40 } else { fault.at };
        Timed { at, ..fault }
    }));
    plan.faults.extend(make("damage", classes.damage, Maker::damage, 3));
    let mut scenes = Rng::stream(seed, "scenes", 0);
    let count = if classes.scenes { scenes.log_uniform(1, 8) } else { 0 };
    let stage = Scenes { plan: &plan, damaged, damages: classes.damage };
    let lines = stage.draw(&mut scenes, count);
    plan.faults.extend(lines.faults);
    plan.ops.extend(lines.ops);
    plan.ops.sort_by_key(|op| op.at);
    plan.faults.retain(|fault| !matches!(fault.what, Fault::Reset { .. }) || 1 < machines);
    plan.faults.sort_by_key(|fault| fault.at);
    plan
}

/// Which classes of faults are in.
struct Classes {
    network: bool,
    cuts: bool,
    process: bool,
    disk: bool,
    damage: bool,
    clock: bool,
    clients: bool,
    operators: bool,
    knobs: bool,
    scenes: bool,
}

impl Classes {
    fn draw(rng: &mut Rng) -> Classes {
        let all = match rng.below(8) {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        let mut on = || {
            let coin = rng.coin();
            all.unwrap_or(coin)
        };
        Classes {
            network: on(),
            cuts: on(),
            process: on(),
            disk: on(),
            damage: on(),
            clock: on(),
            clients: on(),
            operators: on(),
            knobs: on(),
            scenes: on(),
        }
    }
}

fn knobs(rng: &mut Rng, wild: bool) -> Knobs {
    let election_timeout_min =
        rng.log_span(Duration::from_millis(200), Duration::from_millis(1200));
    let base = Knobs {
        snapshot_entries: rng.log_uniform(20, 1_000),
        // Small enough that snapshots take several pieces.
        chunk_bytes: rng.log_uniform(256, 64 << 10),
        ..Knobs::default()
    };
    // Logs so short and pieces so small that whoever was away needs a snapshot, in many pieces.
    let short = rng.below(3) == 0;
    if !wild && short {
        return Knobs {
            snapshot_entries: rng.range(3..40),
            tail_bytes: 0,
            chunk_bytes: 256,
            ..base
        };
    }
    if !wild {
        return base;
    }
    let segment_bytes_first = 4096 * rng.log_uniform(4, 64);
    Knobs {
        heartbeat: election_timeout_min / rng.range(3..8) as u32,
        election_timeout_min,
        append_bytes_max: rng.log_uniform(1, 1 << 20),
        inflight_bytes_max: rng.log_uniform(1, 8 << 20),
        uncommitted_bytes_max: rng.log_uniform(64, 256 << 20),
        entry_bytes_max: rng.log_uniform(256, 1 << 20),
        apply_bytes_max: rng.log_uniform(1, 4 << 20),
        reads_max: rng.log_uniform(1, 65_536),
        snapshot_bytes: rng.log_uniform(1 << 10, 64 << 20),
        snapshot_entries: rng.log_uniform(3, 1_000),
        tail_bytes: if short { 0 } else { rng.log_uniform(0, 1 << 20) },
        chunk_bytes: if short { rng.range(64..1024) } else { rng.log_uniform(64, 1 << 20) },
        segment_bytes_first,
        segment_bytes_max: segment_bytes_first * rng.range(1..9),
        waiting_max: rng.log_uniform(4, 131_072),
    }
}

fn pace(rng: &mut Rng) -> DiskPace {
    let sync_min = rng.log_span(Duration::from_micros(50), Duration::from_millis(5));
    DiskPace { sync_min, sync_max: sync_min * rng.range(2..20) as u32 }
}

/// Clients that ask through the whole of the chaos: 20 to 28 requests a second.
fn ops(rng: &mut Rng, chaos: Duration, machines: u8) -> Vec<Timed<ClientOp>> {
    let clients = rng.range(3..11);
    let keys = rng.log_uniform(2, 40);
    let every = rng.span(Duration::from_millis(36), Duration::from_millis(50));
    let large = rng.below(4) == 0;
    let writes = rng.range(30..80);
    let mut ops = Vec::new();
    let mut at = Duration::from_millis(200);
    while at < chaos {
        let kind = if rng.below(100) < writes {
            match rng.below(10) {
                0..=5 => OpKind::Put,
                6 | 7 => OpKind::Cas,
                8 => OpKind::PutNew,
                _ => OpKind::Delete,
            }
        } else {
            match rng.below(12) {
                0 => OpKind::List,
                1 => OpKind::GetStale,
                _ => OpKind::Get,
            }
        };
        let size =
            if large && rng.below(50) == 0 { rng.range(1..20_000) } else { rng.range(1..64) };
        let patience = rng.log_span(Duration::from_millis(50), Duration::from_secs(5));
        let via = (rng.below(8) == 0).then(|| Machine(rng.below(machines.into()) as u8));
        let client = rng.below(clients) as u8;
        let key = rng.below(keys) as u16;
        let what = ClientOp { client, via, kind, key, size: size as u32, patience };
        ops.push(Timed { at, what });
        at += rng.span(Duration::ZERO, every * 2);
    }
    ops
}

/// The machines that may be damaged, as bits: of the voters a minority, if the cluster has to
/// recover.
fn damaged(rng: &mut Rng, plan: &Plan) -> u8 {
    let minority = (plan.voters - 1) / 2;
    let mut bits = 0u8;
    for _ in 0..minority {
        bits |= 1 << rng.below(plan.voters.into());
    }
    for learner in plan.voters..plan.machines() {
        bits |= 1 << learner;
    }
    if plan.recoverable { bits } else { (1 << plan.machines()) - 1 }
}

/// Makes single faults.
struct Maker {
    machines: u8,
    chaos: Duration,
    /// Machines whose disks may be damaged.
    damaged: u8,
    recoverable: bool,
}

impl Maker {
    fn machine(&self, rng: &mut Rng) -> Machine {
        Machine(rng.below(self.machines.into()) as u8)
    }

    fn target(&self, rng: &mut Rng) -> Target {
        match rng.below(5) {
            0 | 1 => Target::Leader,
            2 => Target::Follower(rng.below(self.machines.into()) as u8),
            _ => Target::One(self.machine(rng)),
        }
    }

    /// A machine that may be damaged, if there is one.
    fn victim(&self, rng: &mut Rng) -> Option<Machine> {
        let victims: Vec<u8> =
            (0..self.machines).filter(|it| self.damaged >> it & 1 == 1).collect();
        (!victims.is_empty()).then(|| Machine(*rng.pick(&victims)))
    }

    fn lasts(&self, rng: &mut Rng) -> Duration {
        rng.log_span(Duration::from_millis(50), self.chaos / 4)
    }

    fn down(&self, rng: &mut Rng) -> Duration {
        rng.log_span(Duration::from_millis(10), Duration::from_secs(20))
    }

    fn links(&self, rng: &mut Rng) -> Links {
        match rng.below(10) {
            0 | 1 => Links::Around(self.target(rng)),
            2 => Links::Out(self.target(rng)),
            3 => Links::Into(self.target(rng)),
            4 => Links::From(self.machine(rng), self.machine(rng)),
            5 | 6 => Links::Split(rng.below(1 << self.machines.min(8)) as u8),
            7 => Links::NotRing,
            8 => Links::Bridge(self.machine(rng)),
            _ => Links::All,
        }
    }

    fn weather(&self, rng: &mut Rng) -> Fault {
        let mut some = |ppm: u64| if rng.coin() { rng.log_uniform(0, ppm) as u32 } else { 0 };
        let (loss, twice, stall) = (some(300_000), some(500_000), some(20_000));
        let corrupt = some(50_000);
        let delay_min = rng.log_span(Duration::from_micros(50), Duration::from_millis(10));
        let delay_max = delay_min + rng.log_span(Duration::ZERO, Duration::from_millis(90));
        let late = rng.log_span(Duration::from_millis(1), Duration::from_secs(120));
        let weather = Weather { loss, twice, late, delay_min, delay_max, stall, corrupt };
        let links = if rng.coin() { Links::All } else { self.links(rng) };
        Fault::Links { links, weather, lasts: self.lasts(rng) }
    }

    fn cut(&self, rng: &mut Rng) -> Fault {
        if rng.below(8) == 0 {
            return Fault::Reset { target: self.target(rng) };
        }
        let lasts = rng.log_span(Duration::from_millis(50), self.chaos / 8);
        let flaps = if rng.below(5) == 0 {
            rng.log_span(Duration::from_millis(10), Duration::from_secs(1))
        } else {
            Duration::ZERO
        };
        Fault::Cut { links: self.links(rng), lasts, flaps }
    }

    fn process(&self, rng: &mut Rng) -> Fault {
        let target = self.target(rng);
        match rng.below(12) {
            0 => Fault::Stop { target, down: self.down(rng) },
            1..=3 => {
                let lasts = rng.log_span(Duration::from_millis(10), Duration::from_secs(30));
                Fault::Pause { target, lasts }
            }
            4 => Fault::SecondProcess { target },
            _ => {
                let loss = if rng.coin() { CrashLoss::Some } else { CrashLoss::Nothing };
                let fuse = rng.log_uniform(0, 11) as u8;
                Fault::Crash { target, down: self.down(rng), fuse, loss }
            }
        }
    }

    fn disk(&self, rng: &mut Rng) -> Fault {
        let target = self.target(rng);
        let after = rng.log_uniform(0, 2_000) as u32;
        let fault = match rng.below(10) {
            0 => DiskFault::ReadError { after: after / 20 },
            1 => DiskFault::WriteError { after },
            2 => DiskFault::ShortWrite { after },
            3 => DiskFault::SyncError { after },
            4..=6 => DiskFault::NoSpace { lasts: self.lasts(rng) },
            _ => {
                let by = rng.log_span(Duration::from_millis(1), Duration::from_secs(1));
                let by = if rng.below(20) == 0 { by * 60 } else { by };
                let lasts = rng.log_span(Duration::from_millis(100), self.chaos / 6);
                DiskFault::Slow { by, lasts }
            }
        };
        Fault::Disk { target, fault }
    }

    fn clock(&self, rng: &mut Rng) -> Fault {
        let target = self.target(rng);
        if rng.coin() {
            return Fault::Drift { target, ppm: rng.range(0..200_001) as i32 - 100_000 };
        }
        let by = rng.log_span(Duration::from_millis(1), Duration::from_secs(1));
        Fault::LateTimers { target, by, lasts: self.lasts(rng) }
    }

    fn clients(&self, rng: &mut Rng) -> Fault {
        Fault::DeafClients { target: self.target(rng), lasts: self.lasts(rng) }
    }

    fn operator(&self, rng: &mut Rng) -> Fault {
        if rng.coin() {
            return Fault::Snapshot { target: self.target(rng) };
        }
        Fault::Transfer { to: rng.coin().then(|| self.machine(rng)) }
    }

    fn ambush(&self, rng: &mut Rng) -> Fault {
        let moment = *rng.pick(&[
            Moment::Recovering,
            Moment::Forming,
            Moment::Campaigning,
            Moment::Crowned,
            Moment::Synced,
            Moment::Voting,
            Moment::Restoring,
            Moment::Snapshotting,
            Moment::Receiving,
            Moment::Sending,
        ]);
        let target = match moment {
            Moment::Synced if rng.coin() => Target::Follower(rng.below(8) as u8),
            Moment::Crowned | Moment::Synced | Moment::Sending => Target::Leader,
            _ => Target::One(self.machine(rng)),
        };
        let lasts = rng.log_span(Duration::from_secs(1), self.chaos / 2);
        let loss = if rng.coin() { CrashLoss::Some } else { CrashLoss::Nothing };
        let blow = Blow::Crash { down: self.down(rng), fuse: rng.below(4) as u8, loss };
        Fault::Ambush { target, moment, lasts, blow }
    }

    /// A snapshot rots after it was found whole, while it is being sent.
    fn rotting(&self, rng: &mut Rng) -> Fault {
        let Some(victim) = self.victim(rng) else { return self.ambush(rng) };
        let rot = *rng.pick(&[Rot::Flip, Rot::Zero, Rot::Cut]);
        let (target, moment) = (Target::One(victim), Moment::Sending);
        Fault::Ambush { target, moment, lasts: self.chaos, blow: Blow::Rot(rot) }
    }

    fn stranger(&self, rng: &mut Rng) -> Fault {
        Fault::Stranger { target: self.target(rng), lasts: self.lasts(rng) }
    }

    fn liar(&self, rng: &mut Rng) -> Fault {
        Fault::Liar { target: self.target(rng), lasts: self.lasts(rng) }
    }

    /// Does no damage: the right file comes back.
    fn wrong_file(&self, rng: &mut Rng) -> Fault {
        let origin = match rng.below(8) {
            0 | 1 => Origin::Machine(self.machine(rng)),
            2 => Origin::Cluster,
            3 => Origin::Newer,
            _ => Origin::Nonsense,
        };
        let place = match rng.below(8) {
            0 | 1 => Place::Meta,
            2..=4 => Place::Snapshot,
            _ => Place::Wal,
        };
        let lasts = rng.log_span(Duration::from_millis(100), Duration::from_secs(5));
        Fault::WrongFile { target: self.target(rng), place, origin, lasts }
    }

    fn misspelt(&self, rng: &mut Rng) -> Fault {
        let spellings = [Spelling::Short, Spelling::Long, Spelling::Itself, Spelling::Alias];
        let target = Target::One(self.machine(rng));
        let lasts = rng.log_span(Duration::from_millis(100), Duration::from_secs(5));
        Fault::Misspelt { target, how: *rng.pick(&spellings), lasts }
    }

    /// Whatever harms what a disk has promised to keep.
    fn damage(&self, rng: &mut Rng) -> Fault {
        let Some(victim) = self.victim(rng) else {
            return Fault::Snapshot { target: self.target(rng) };
        };
        let target = Target::One(victim);
        match rng.below(10) {
            0 => Fault::Wipe { target, down: self.down(rng) },
            1 | 2 if !self.recoverable && 1 < self.machines => {
                let other = Machine((victim.0 + 1) % self.machines);
                Fault::Swap { one: victim, other, lasts: self.lasts(rng) }
            }
            2 | 3 => {
                let (down, fuse) = (self.down(rng), rng.below(12) as u8);
                Fault::Crash { target, down, fuse, loss: CrashLoss::Garbage }
            }
            _ => {
                let rots =
                    [Rot::Flip, Rot::Zero, Rot::Stale, Rot::Misdirected, Rot::Cut, Rot::Gone];
                let place = match rng.below(8) {
                    0 => Place::Meta,
                    1..=3 => Place::Snapshot,
                    _ => Place::Wal,
                };
                Fault::Disk { target, fault: DiskFault::Rot { rot: *rng.pick(&rots), place } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_plan_and_most_differ() {
        assert_eq!(plan(3), plan(3));
        assert_ne!(plan(3), plan(4));
    }

    /// Half of the clusters have three voters, and every class of faults occurs.
    #[test]
    fn the_mix_is_as_promised() {
        let plans: Vec<Plan> = (0..400).map(plan).collect();
        let share = |of: &dyn Fn(&Plan) -> bool| plans.iter().filter(|it| of(it)).count();
        assert!((150..250).contains(&share(&|it| it.voters == 3)));
        assert!((20..70).contains(&share(&|it| !it.recoverable)));
        assert!((20..120).contains(&share(&|it| it.faults.is_empty())));
        let has = |of: fn(&Fault) -> bool| share(&|it| it.faults.iter().any(|it| of(&it.what)));
        assert!(100 < has(|it| matches!(it, Fault::Links { .. })));
        assert!(100 < has(|it| matches!(it, Fault::Cut { .. })));
        assert!(100 < has(|it| matches!(it, Fault::Crash { .. })));
        assert!(50 < has(|it| matches!(it, Fault::Disk { fault: DiskFault::Rot { .. }, .. })));
        assert!(0 < has(|it| matches!(it, Fault::Swap { .. })));
        assert!(0 < has(|it| matches!(it, Fault::Wipe { .. })));
    }
}
