//! The end of the chaos, and what has to be true after it: everything heals, and a random quorum has
//! to become live again.

use std::time::Duration;

use super::{Phase, World};
use crate::app::App;
use crate::checkers::liveness::{Bounds, Liveness, Moment, Standing};
use crate::client::Client;
use crate::marks::Mark;
use crate::plan::{ClientOp, CrashLoss, Links, Machine, OpKind, Weather};
use crate::queue::Event;
use crate::trace::{OpId, Seen};

/// The client that asks whether the cluster is live again.
const PROBE: u8 = 0;

/// A quorum that can talk has a leader within so many of the longest election timeouts.
const LEADS_WITHIN: u32 = 10;

/// And keeps it for so many, whatever one node outside does.
const STEADY_FOR: u32 = 5;

/// The end of the chaos, and what has to be true after it.
impl<A: App> World<A> {
    pub(super) fn chaos_over(&mut self) {
        for number in 0..self.lasting.len() {
            self.heal(number);
        }
        self.clear_weather();
        let voters = (0..self.plan.voters).map(Machine);
        let whole: Vec<Machine> =
            voters.clone().filter(|it| !self.places[usize::from(it.0)].lost).collect();
        let quorum = usize::from(self.plan.voters) / 2 + 1;
        for machine in (0..self.plan.machines()).map(Machine) {
            let place = self.place(machine);
            place.disk.heal();
            (place.slow, place.late, place.deaf) = (Duration::ZERO, Duration::ZERO, false);
            if let Some(down) = place.running_mut().and_then(|it| it.leaving.as_mut()) {
                *down = Duration::from_millis(10);
            }
        }
        for client in &mut self.clients {
            client.forget_queue();
        }
        // To form, all have to be there once: who was damaged before that keeps the others waiting.
        let running = self.places.iter().any(|place| place.running().is_some());
        let unborn = !running && self.counts.committed == 0;
        if unborn && self.places.iter().any(|place| place.lost) {
            self.phase = Phase::Done;
            return;
        }
        if whole.len() < quorum {
            assert!(!self.plan.recoverable, "a recoverable plan leaves a quorum");
            self.phase = Phase::Done;
            return;
        }
        let core = self.choose_core(whole, quorum);
        self.see(Seen::Liveness { core });
        let clients = self.clients.len() as u8;
        for client in 0..clients {
            let target = *self.rng.pick(&members(core));
            self.clients[usize::from(client)].turn_to(target);
        }
        // Who stands still when the chaos ends, or waits for its disk, does so until its time has come.
        let awake = self.places.iter().map(|place| place.still_until.max(place.disk_until));
        let awake = awake.max().unwrap_or_default();
        let liveness = Liveness::begin(self.now.max(awake), self.bounds());
        self.phase = Phase::Healing { core, liveness, probe: None };
        self.later(Duration::from_millis(1), Event::Probe);
    }

    /// How long the rest may take to come back.
    fn bounds(&self) -> Bounds {
        let longest = self.plan.knobs.election_timeout_min * 2;
        // A process that has just failed is started again after a while.
        let restart = Duration::from_secs(3);
        let forms = self.counts.elections == 0;
        // Who has not formed a cluster yet asks round after round.
        let forming = if forms { Duration::from_secs(10) } else { Duration::ZERO };
        let leads = longest * LEADS_WITHIN + restart + forming;
        // After what an old request may still wait and a follower without a log may need: a snapshot
        // comes piece by piece, and each piece waits for the one before.
        let settles = leads + Duration::from_secs(60) + self.snapshot_time();
        Bounds { leads, serves: settles, settles, steady: longest * STEADY_FOR }
    }

    /// How long the largest snapshot may be on its way now that nothing is lost: there and back, and a
    /// sync, for each piece.
    fn snapshot_time(&self) -> Duration {
        let running = self.places.iter().filter_map(|place| place.running());
        let largest = running.map(|it| it.replica.raft().log().snapshot().body_bytes).max();
        let pieces = largest.unwrap_or(0) / self.plan.knobs.chunk_bytes.max(1) + 1;
        let way = self.plan.knobs.election_timeout_min / 16;
        (way * 2 + self.plan.disk.sync_max) * u32::try_from(pieces).unwrap_or(u32::MAX)
    }

    /// The network heals: it becomes fair, or even, as between places far apart, where no message is
    /// luckier than another.
    fn clear_weather(&mut self) {
        self.network.heal();
        if self.rng.coin() {
            let timeout = self.plan.knobs.election_timeout_min;
            let way = self.rng.span(timeout / 80, timeout / 16);
            let weather = Weather { delay_min: way, delay_max: way + way / 200, ..Weather::FAIR };
            let all = self.network.select(Links::All, |_| None);
            self.network.set(usize::MAX, all, weather);
        }
    }

    /// A random quorum goes on; of the others each is gone, or may speak without being heard, or
    /// belongs to it by luck.
    fn choose_core(&mut self, mut whole: Vec<Machine>, quorum: usize) -> u8 {
        while quorum < whole.len() {
            let out = self.rng.below(whole.len() as u64) as usize;
            whole.remove(out);
        }
        let mut core = 0;
        for machine in &whole {
            core |= 1 << machine.0;
            let life = self.place(*machine).life;
            if !self.place(*machine).is_up() {
                self.later(Duration::from_millis(10), Event::Start(*machine, life));
            }
        }
        let mut campaigner = None;
        for machine in (0..self.plan.machines()).map(Machine) {
            if core >> machine.0 & 1 == 1 {
                continue;
            }
            if campaigner.is_none() && self.rng.coin() {
                campaigner = Some(machine);
                if !self.place(machine).is_up() {
                    self.restart(machine, Duration::from_millis(10));
                }
            } else {
                self.crash(machine, 0, CrashLoss::Nothing);
                // It stays down: whoever would start it belongs to an earlier life.
                self.place(machine).life += 1;
            }
        }
        if let Some(machine) = campaigner {
            // It speaks and hears nothing.
            let into = self
                .network
                .select(Links::Into(crate::plan::Target::One(machine)), |_| Some(machine));
            self.network.cut(into, true);
        }
        core
    }

    pub(super) fn probe(&mut self) {
        let now = self.now;
        let Phase::Healing { core, probe, .. } = &self.phase else { return };
        let (core, probing) = (*core, probe.is_some());
        let moment = Moment {
            led: self.is_led(core),
            idle: self.clients.iter().all(Client::is_idle),
            same: self.has_settled(core),
            elections: self.counts.elections,
        };
        let Phase::Healing { liveness, .. } = &mut self.phase else { return };
        let served = liveness.has_written();
        match liveness.look(now, moment) {
            Standing::Waiting => {}
            Standing::Live => {
                self.marks.hit(Mark::LiveAgain);
                self.phase = Phase::Done;
                return;
            }
            Standing::Dead(dead) => {
                return self.violate("liveness", format!("{dead}, on {:?}", members(core)));
            }
        }
        if !served && !probing && self.clients[usize::from(PROBE)].is_idle() {
            let via = *self.rng.pick(&members(core));
            let patience = self.plan.knobs.election_timeout_min * 10;
            let op = ClientOp {
                client: PROBE,
                via: Some(via),
                kind: OpKind::Put,
                key: 0,
                size: 8,
                patience,
            };
            let id = OpId(self.counts.ops as u32);
            if let Phase::Healing { probe, .. } = &mut self.phase {
                *probe = Some(id);
            }
            self.op_due(op);
        }
        let again = self.plan.knobs.heartbeat.max(Duration::from_millis(20));
        self.later(again, Event::Probe);
    }

    /// An operation has ended: perhaps the one that probes.
    pub(crate) fn op_ended(&mut self, client: u8, answered: bool) {
        if let Phase::Healing { probe, liveness, .. } = &mut self.phase
            && client == PROBE
            && probe.take().is_some()
            && answered
        {
            liveness.wrote();
        }
    }

    /// Whether all of them follow one of them.
    fn is_led(&self, core: u8) -> bool {
        let mut followed = members(core).into_iter().map(|machine| {
            let raft = self.places[usize::from(machine.0)].running()?.replica.raft();
            raft.leader().map(|leader| (raft.term(), leader))
        });
        let Some(Some((term, leader))) = followed.next() else { return false };
        let is_among = members(core).into_iter().any(|machine| {
            let place = &self.places[usize::from(machine.0)];
            place.id == leader && place.running().is_some()
        });
        is_among && followed.all(|it| it == Some((term, leader)))
    }

    /// Whether all of them hold and have applied the same.
    fn has_settled(&self, core: u8) -> bool {
        let mut applied = members(core).into_iter().map(|machine| {
            let running = self.places[usize::from(machine.0)].running()?;
            let log = running.replica.raft().log();
            let is_done = log.applied() == log.last().index && !running.replica.is_restoring();
            is_done.then(|| log.last())
        });
        let first = applied.next().flatten();
        first.is_some() && applied.all(|it| it == first)
    }
}

/// The machines of a set of bits.
fn members(core: u8) -> Vec<Machine> {
    (0..8).filter(|bit| core >> bit & 1 == 1).map(Machine).collect()
}
