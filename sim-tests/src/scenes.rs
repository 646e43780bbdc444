//! Scenes: a few faults and a burst of requests that belong together.
//!
//! Faults that strike at times of their own seldom meet where a wrong rule shows: while a deposed
//! leader does not know it yet, while a snapshot comes in that another one overtakes. A scene sets up
//! such a meeting, measured in election timeouts, with clients on all sides that stay where they are.
//! What it makes are ordinary lines of a plan; it promises nothing about what comes of them.

use std::time::Duration;

use crate::plan::*;
use crate::rng::Rng;

/// Where scenes are made for.
pub(crate) struct Scenes<'a> {
    pub(crate) plan: &'a Plan,
    /// Machines whose disks may be damaged, as bits.
    pub(crate) damaged: u8,
    /// Whether this plan damages disks.
    pub(crate) damages: bool,
}

/// The lines of scenes.
#[derive(Default)]
pub(crate) struct Lines {
    pub(crate) faults: Vec<Timed<Fault>>,
    pub(crate) ops: Vec<Timed<ClientOp>>,
}

impl Lines {
    fn fault(&mut self, at: Duration, what: Fault) {
        self.faults.push(Timed { at, what });
    }
}

/// Clients of scenes are others than those that ask all the time: these have the numbers from here
/// on. There are so many that a leader that commits nothing still gathers a long end of its log.
const CLIENTS_FROM: u8 = 16;
const CLIENTS: u8 = 24;

/// Their keys, one for each, so that their many unknown ends stay apart.
const KEYS_FROM: u16 = 64;

impl Scenes<'_> {
    /// So many scenes, at any time of the chaos.
    pub(crate) fn draw(&self, rng: &mut Rng, count: u64) -> Lines {
        let mut lines = Lines::default();
        for _ in 0..count {
            let at = rng.span(Duration::from_secs(2), self.plan.chaos * 9 / 10);
            match rng.below(12) {
                0..=2 => self.deposed(rng, at, &mut lines),
                3 | 4 => self.asleep(rng, at, &mut lines),
                5 | 6 => self.behind(rng, at, &mut lines),
                7 => self.recrowned(rng, at, &mut lines),
                8 | 9 if self.damages => self.last_words(rng, at, &mut lines),
                8 => self.deposed(rng, at, &mut lines),
                _ => self.blackout(rng, at, &mut lines),
            }
        }
        lines
    }

    /// The leader is cut off from its peers and not from its clients. It goes on to lead by itself
    /// for a while (for longer if old answers still come in), and others elect another one. Then the
    /// new one may die before it has told the old one anything.
    fn deposed(&self, rng: &mut Rng, at: Duration, lines: &mut Lines) {
        let timeout = self.timeout();
        if rng.coin() {
            let (twice, late) = (rng.range(0..900_000) as u32, timeout * rng.range(1..6) as u32);
            // What was sent before the cut may be far behind it: held by many, acknowledged to none.
            let delay_max = Weather::FAIR.delay_max + rng.span(Duration::ZERO, timeout / 6);
            let weather = Weather { twice, late, delay_max, ..Weather::FAIR };
            let (before, lasts) = (at.saturating_sub(timeout * 4), timeout * 8);
            lines.fault(before, Fault::Links { links: Links::All, weather, lasts });
        }
        let shape = rng.below(4);
        let lasts = match shape {
            0 => rng.span(timeout * 3 / 2, timeout * 3),
            _ => rng.span(timeout, timeout * 4),
        };
        let links = Links::Around(Target::Leader);
        lines.fault(at, Fault::Cut { links, lasts, flaps: Duration::ZERO });
        match shape {
            // Only the old leader's log grows: it becomes the longest.
            0 => {
                self.burst(rng, (at, timeout / 2), timeout / 240, (100, timeout / 8), lines);
                // The new one dies before it can tell.
                let (target, down) = (Target::Leader, timeout * rng.range(3..7) as u32);
                let soon = at + lasts - Duration::from_millis(1);
                let loss = CrashLoss::Some;
                lines.fault(soon, Fault::Crash { target, down, fuse: 0, loss });
            }
            // What it had begun is behind a snapshot when it hears of the others again.
            1 => {
                let before = at.saturating_sub(timeout / 2);
                let patience = Duration::from_secs(5);
                self.burst(rng, (before, lasts), timeout / 40, (90, patience), lines);
                self.snapshots(rng, at + lasts * 3 / 4, lines);
                self.snapshots(rng, at + lasts, lines);
            }
            2 => self.burst(rng, (at, lasts), timeout / 40, (60, timeout * 3), lines),
            // Nobody writes much, and everybody asks.
            _ => {
                self.burst(rng, (at + timeout, timeout), timeout / 100, (25, timeout * 3), lines);
            }
        }
    }

    /// The leader stands still on slow links: answers come in while it sleeps, and then nothing more.
    /// When it wakes it finds them, and the requests that came later, all at once.
    fn asleep(&self, rng: &mut Rng, at: Duration, lines: &mut Lines) {
        let (timeout, heartbeat) = (self.timeout(), self.plan.knobs.heartbeat);
        let delay_min = rng.span(Duration::from_micros(50), heartbeat / 4);
        let delay_max = delay_min + rng.span(Duration::from_micros(100), heartbeat);
        let weather = Weather { delay_min, delay_max, ..Weather::FAIR };
        let lasts = timeout * 6;
        lines.fault(at.saturating_sub(timeout), Fault::Links { links: Links::All, weather, lasts });
        let lasts = rng.span(timeout * 2, timeout * 4);
        let target = Target::Leader;
        lines.fault(at, Fault::Pause { target, lasts });
        let links = Links::Around(target);
        let cut = at + delay_max;
        lines.fault(cut, Fault::Cut { links, lasts, flaps: Duration::ZERO });
        self.burst(rng, (at + timeout, lasts - timeout), timeout / 60, (40, timeout * 3), lines);
    }

    /// A follower is away until only a snapshot helps it. While it is sent, it is overtaken by newer
    /// ones, by other leaders, and by copies of its own pieces.
    fn behind(&self, rng: &mut Rng, at: Duration, lines: &mut Lines) {
        let timeout = self.timeout();
        let victim = self.victim(rng).filter(|_| rng.coin());
        let anyone = Machine(rng.below(self.plan.machines().into()) as u8);
        let follower = Target::One(victim.unwrap_or(anyone));
        let lasts = timeout * rng.range(4..16) as u32;
        let links = Links::Around(follower);
        lines.fault(at, Fault::Cut { links, lasts, flaps: Duration::ZERO });
        self.burst(rng, (at, lasts), timeout / 20, (90, timeout * 3), lines);
        self.snapshots(rng, at + lasts * 3 / 4, lines);
        self.snapshots(rng, at + lasts * 7 / 8, lines);
        let back = at + lasts;
        let weather = Weather {
            twice: rng.range(100_000..900_000) as u32,
            late: rng.log_span(timeout, Duration::from_secs(60)),
            delay_max: rng.log_span(Duration::from_millis(1), timeout / 4),
            ..Weather::FAIR
        };
        lines.fault(back, Fault::Links { links: Links::All, weather, lasts: timeout * 4 });
        if rng.below(3) == 0 {
            // Somebody mixes pieces of his own among those of the leader.
            lines.fault(back, Fault::Liar { target: follower, lasts: timeout * 3 });
        }
        self.burst(rng, (back, timeout * 3), timeout / 20, (90, timeout * 3), lines);
        for _ in 0..rng.below(4) {
            let soon = back + rng.log_span(Duration::from_millis(1), timeout * 2);
            match rng.below(3) {
                0 => lines.fault(soon, Fault::Transfer { to: None }),
                1 => self.snapshots(rng, soon, lines),
                _ => {
                    let (target, down) = (Target::Leader, timeout * rng.range(1..4) as u32);
                    let (fuse, loss) = (rng.below(4) as u8, CrashLoss::Some);
                    lines.fault(soon, Fault::Crash { target, down, fuse, loss });
                }
            }
        }
        if victim.is_some() {
            // It has just got a snapshot; that rots, and an older one is all it has.
            let soon = back + rng.span(timeout / 2, timeout * 4);
            let fault = DiskFault::Rot { rot: Rot::Flip, place: Place::Snapshot };
            lines.fault(soon, Fault::Disk { target: follower, fault });
            let (down, loss) = (Duration::from_millis(50), CrashLoss::Nothing);
            lines.fault(soon, Fault::Crash { target: follower, down, fuse: 0, loss });
        }
    }

    /// Leaders follow each other fast, and old answers come in under new terms.
    fn recrowned(&self, rng: &mut Rng, at: Duration, lines: &mut Lines) {
        let timeout = self.timeout();
        let times = rng.range(2..6) as u32;
        let weather = Weather {
            twice: rng.range(300_000..900_000) as u32,
            late: timeout * rng.range(1..8) as u32,
            ..Weather::FAIR
        };
        let lasts = timeout * 3 * times;
        lines.fault(at, Fault::Links { links: Links::All, weather, lasts });
        self.burst(rng, (at, lasts), timeout / 20, (70, timeout * 3), lines);
        for time in 1..times {
            let then = at + timeout * 3 * time;
            match rng.below(3) {
                0 => lines.fault(then, Fault::Transfer { to: None }),
                1 => {
                    let (links, lasts) = (Links::Around(Target::Leader), timeout * 2);
                    lines.fault(then, Fault::Cut { links, lasts, flaps: Duration::ZERO });
                }
                _ => {
                    let (target, down) = (Target::Leader, timeout / 2);
                    let (fuse, loss) = (rng.below(4) as u8, CrashLoss::Some);
                    lines.fault(then, Fault::Crash { target, down, fuse, loss });
                }
            }
        }
    }

    /// The last that a disk synced before a crash is a large value full of zeroes, and rots while
    /// nobody looks.
    fn last_words(&self, rng: &mut Rng, at: Duration, lines: &mut Lines) {
        let Some(victim) = self.victim(rng) else { return };
        let mut then = at;
        while then < at + Duration::from_millis(60) {
            let number = rng.below(CLIENTS.into());
            let (client, key) = (CLIENTS_FROM + number as u8, KEYS_FROM + number as u16);
            let (kind, via) = (OpKind::Put, None);
            let size = 2 * rng.range(2_000..15_000) as u32;
            let patience = Duration::from_secs(1);
            let what = ClientOp { client, via, kind, key, size, patience };
            lines.ops.push(Timed { at: then, what });
            then += Duration::from_millis(3);
        }
        let target = Target::One(victim);
        let dies = at + rng.span(Duration::from_millis(10), Duration::from_millis(60));
        let (down, loss) = (Duration::from_secs(1), CrashLoss::Nothing);
        lines.fault(dies, Fault::Crash { target, down, fuse: 0, loss });
        let fault = DiskFault::Rot { rot: Rot::Flip, place: Place::Wal };
        lines.fault(dies + down / 2, Fault::Disk { target, fault });
    }

    /// The power goes off for everybody, in the middle of a flood of writes.
    fn blackout(&self, rng: &mut Rng, at: Duration, lines: &mut Lines) {
        let timeout = self.timeout();
        let flood = rng.log_span(Duration::from_millis(2), Duration::from_millis(60));
        self.burst(rng, (at, flood), flood / 60, (100, timeout * 3), lines);
        for machine in (0..self.plan.machines()).map(Machine) {
            let (target, down) = (Target::One(machine), rng.span(timeout / 8, timeout));
            let (fuse, loss) = (rng.range(1..4) as u8, CrashLoss::Some);
            let at = at + flood + rng.span(Duration::ZERO, Duration::from_millis(2));
            lines.fault(at, Fault::Crash { target, down, fuse, loss });
        }
    }

    /// Many clients ask many machines, one after the other, for a while; of a hundred requests so
    /// many write, and nobody waits for longer than so.
    fn burst(
        &self,
        rng: &mut Rng,
        (from, lasts): (Duration, Duration),
        every: Duration,
        (writes, patience_max): (u64, Duration),
        lines: &mut Lines,
    ) {
        let mut at = from;
        let until = (from + lasts).min(self.plan.chaos);
        while at < until {
            let number = rng.below(CLIENTS.into()) as u8;
            let via = Some(Machine(rng.below(self.plan.machines().into()) as u8));
            let kind = match rng.below(100) {
                it if it < writes => OpKind::Put,
                _ => OpKind::Get,
            };
            let key = KEYS_FROM + u16::from(number);
            let patience = rng.span(patience_max / 8, patience_max);
            let client = CLIENTS_FROM + number;
            let size = rng.range(1..64) as u32;
            let what = ClientOp { client, via, kind, key, size, patience };
            lines.ops.push(Timed { at, what });
            at += rng.span(Duration::ZERO, every * 2);
        }
    }

    /// Everybody takes a snapshot.
    fn snapshots(&self, rng: &mut Rng, at: Duration, lines: &mut Lines) {
        for machine in (0..self.plan.machines()).map(Machine) {
            let at = at + rng.span(Duration::ZERO, self.timeout() / 4);
            lines.fault(at, Fault::Snapshot { target: Target::One(machine) });
        }
    }

    fn timeout(&self) -> Duration {
        self.plan.knobs.election_timeout_min
    }

    /// A machine whose disk may be damaged, if this plan damages disks at all.
    fn victim(&self, rng: &mut Rng) -> Option<Machine> {
        let victims: Vec<u8> =
            (0..self.plan.machines()).filter(|it| self.damaged >> it & 1 == 1).collect();
        (self.damages && !victims.is_empty()).then(|| Machine(*rng.pick(&victims)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;

    /// A scene, made at some time, and the plan around it.
    struct Drawn {
        at: Duration,
        timeout: Duration,
        plan: Plan,
    }

    impl Drawn {
        fn all<T>(&self, of: impl Fn(Duration, &Fault) -> Option<T>) -> Vec<T> {
            self.plan.faults.iter().filter_map(|it| of(it.at, &it.what)).collect()
        }

        /// The one fault of this kind.
        fn one<T>(&self, of: impl Fn(Duration, &Fault) -> Option<T>) -> T {
            let mut all = self.all(of);
            assert_eq!(all.len(), 1, "{}", self.plan);
            all.remove(0)
        }

        /// From when to when nothing reaches whom.
        fn cuts(&self) -> Vec<(Duration, Duration, Target)> {
            self.all(|at, it| match it {
                Fault::Cut { links: Links::Around(target), lasts, .. } => {
                    Some((at, at + *lasts, *target))
                }
                _ => None,
            })
        }
    }

    const DAMAGED: u8 = 0b10;

    type Make = fn(&Scenes<'_>, &mut Rng, Duration, &mut Lines);

    /// A scene in each of many plans with at least three voters, of which the second may be damaged.
    /// All are ordinary lines of a plan, and their requests come from clients of their own.
    fn draw(damages: bool, make: Make) -> Vec<Drawn> {
        let plans = (0..90).map(generate::plan).filter(|plan| 3 <= plan.voters);
        let drawn = plans.map(|plan| {
            let mut plan = Plan { faults: Vec::new(), ops: Vec::new(), ..plan };
            let (at, mut lines) = (plan.chaos / 2, Lines::default());
            let scenes = Scenes { plan: &plan, damaged: DAMAGED, damages };
            make(&scenes, &mut Rng::new(plan.seed), at, &mut lines);
            let timeout = scenes.timeout();
            lines.faults.sort_by_key(|it| it.at);
            lines.ops.sort_by_key(|it| it.at);
            (plan.faults, plan.ops) = (lines.faults, lines.ops);
            assert_eq!(plan.to_string().parse().as_ref(), Ok(&plan));
            assert_eq!(plan.refusal(), None);
            for Timed { what, .. } in &plan.ops {
                let number = what.client.checked_sub(CLIENTS_FROM).expect("a client of scenes");
                assert!(number < CLIENTS && what.key == KEYS_FROM + u16::from(number));
                assert!(what.via.is_none_or(|via| via.0 < plan.machines()));
            }
            Drawn { at, timeout, plan }
        });
        let drawn: Vec<Drawn> = drawn.collect();
        assert!(30 < drawn.len());
        drawn
    }

    #[test]
    fn a_deposed_leader_is_cut_off_and_still_asked() {
        for scene in draw(true, |it, rng, at, lines| it.deposed(rng, at, lines)) {
            let cuts = scene.cuts();
            let &[(from, until, target)] = &cuts[..] else { panic!("{cuts:?}") };
            assert_eq!((from, target), (scene.at, Target::Leader));
            assert!(scene.timeout <= until - from, "long enough for an election");
            let meanwhile = scene.plan.ops.iter().filter(|op| (from..until).contains(&op.at));
            assert!(0 < meanwhile.count());
        }
    }

    #[test]
    fn a_leader_falls_asleep_before_it_is_cut_off() {
        for scene in draw(true, |it, rng, at, lines| it.asleep(rng, at, lines)) {
            let (asleep, wakes) = scene.one(|at, it| match it {
                Fault::Pause { target: Target::Leader, lasts } => Some((at, at + *lasts)),
                _ => None,
            });
            let cuts = scene.cuts();
            let &[(from, until, target)] = &cuts[..] else { panic!("{cuts:?}") };
            assert_eq!((asleep, target), (scene.at, Target::Leader));
            assert!(asleep < from && from < wakes && wakes < until);
            assert!(scene.plan.ops.iter().all(|op| asleep < op.at && op.at < wakes));
            assert!(!scene.plan.ops.is_empty());
        }
    }

    #[test]
    fn whoever_is_behind_misses_snapshots_of_everybody() {
        for damages in [true, false] {
            let mut rots = 0;
            for scene in draw(damages, |it, rng, at, lines| it.behind(rng, at, lines)) {
                let (from, until, target) = scene.cuts()[0];
                assert!(from == scene.at && scene.timeout * 4 <= until - from);
                for machine in (0..scene.plan.machines()).map(Machine) {
                    let taken = scene.all(|at, it| {
                        let whose = *it == Fault::Snapshot { target: Target::One(machine) };
                        (whose && from < at && at < until).then_some(())
                    });
                    assert_eq!(taken.len(), 2);
                }
                let rotten = scene.all(|at, it| match it {
                    Fault::Disk { target, fault: DiskFault::Rot { .. } } => Some((at, *target)),
                    _ => None,
                });
                for (at, on) in rotten {
                    assert!(on == target && on == Target::One(Machine(1)) && until < at);
                    rots += 1;
                }
            }
            assert_eq!(0 < rots, damages);
        }
    }

    #[test]
    fn crowns_change_under_repeated_messages() {
        for scene in draw(true, |it, rng, at, lines| it.recrowned(rng, at, lines)) {
            let until = scene.one(|at, it| match it {
                Fault::Links { links: Links::All, weather, lasts } => {
                    assert!(300_000 <= weather.twice && scene.timeout <= weather.late);
                    Some(at + *lasts)
                }
                _ => None,
            });
            let changes = scene.all(|at, it| match it {
                Fault::Transfer { .. }
                | Fault::Cut { links: Links::Around(Target::Leader), .. }
                | Fault::Crash { target: Target::Leader, .. } => Some(at),
                _ => None,
            });
            assert!((1..5).contains(&changes.len()));
            assert_eq!(changes.len() + 1, scene.plan.faults.len());
            assert!(changes.iter().all(|at| scene.at < *at && *at < until));
        }
    }

    #[test]
    fn last_words_are_large_and_rot_while_nobody_looks() {
        for scene in draw(true, |it, rng, at, lines| it.last_words(rng, at, lines)) {
            let victim = Target::One(Machine(1));
            let (dies, wakes) = scene.one(|at, it| match it {
                Fault::Crash { target, down, loss: CrashLoss::Nothing, .. } => {
                    assert_eq!(*target, victim);
                    Some((at, at + *down))
                }
                _ => None,
            });
            let rots = scene.one(|at, it| {
                let fault = DiskFault::Rot { rot: Rot::Flip, place: Place::Wal };
                (*it == Fault::Disk { target: victim, fault }).then_some(at)
            });
            assert!(dies < rots && rots < wakes);
            assert!(scene.plan.ops.iter().any(|op| op.at < dies));
            // Of even size: then half of them is zeroes.
            let fits = |op: &ClientOp| op.kind == OpKind::Put && 4_000 <= op.size;
            assert!(scene.plan.ops.iter().all(|op| fits(&op.what) && op.what.size % 2 == 0));
        }
        let none = draw(false, |it, rng, at, lines| it.last_words(rng, at, lines));
        assert!(none.iter().all(|it| it.plan.faults.is_empty() && it.plan.ops.is_empty()));
    }

    #[test]
    fn in_a_blackout_all_are_down_at_once_after_a_flood() {
        for scene in draw(true, |it, rng, at, lines| it.blackout(rng, at, lines)) {
            let mut crashed = Vec::new();
            let (mut last, mut first_back) = (Duration::ZERO, Duration::MAX);
            for Timed { at, what } in &scene.plan.faults {
                let Fault::Crash { target: Target::One(machine), down, loss, .. } = what else {
                    panic!("{what}")
                };
                assert_eq!(*loss, CrashLoss::Some);
                crashed.push(*machine);
                (last, first_back) = (last.max(*at), first_back.min(*at + *down));
            }
            crashed.sort_unstable();
            assert_eq!(crashed, (0..scene.plan.machines()).map(Machine).collect::<Vec<_>>());
            assert!(last < first_back);
            let before = scene.plan.faults[0].at;
            assert!(scene.plan.ops.iter().all(|op| op.at < before && op.what.kind == OpKind::Put));
            assert!(!scene.plan.ops.is_empty());
        }
    }

    /// Whatever is drawn, disks rot only where that is allowed.
    #[test]
    fn scenes_damage_only_what_may_be() {
        let made = |damages| {
            let plan = Plan { voters: 3, learners: 0, ..generate::plan(1) };
            let scenes = Scenes { plan: &plan, damaged: DAMAGED, damages };
            let lines = scenes.draw(&mut Rng::new(5), 200);
            assert!(lines.ops.len() > 200);
            let rots = lines.faults.into_iter().filter_map(|it| match it.what {
                Fault::Disk { target, .. } => Some(target),
                _ => None,
            });
            rots.collect::<Vec<Target>>()
        };
        assert!(made(false).is_empty());
        let rots = made(true);
        assert!(!rots.is_empty() && rots.iter().all(|it| *it == Target::One(Machine(1))));
    }
}
