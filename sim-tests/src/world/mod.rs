//! The world: machines, network, clients and faults on one line of time.
//!
//! One thread and one heap of events, ordered by (virtual time, seeded tie-break, sequence). The
//! world jumps from event to event; nothing ticks. A run is a function of its plan: the same plan
//! gives the same [`Report`], hash included. After the chaos everything heals, and a random quorum
//! has to become live again.

mod healing;
mod parcel;
mod report;
mod view;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use raft_core::membership::{Member, Membership};
use raft_core::node::form;
use raft_core::storage::meta::DataDir;
use raft_core::types::{ClusterId, NodeId, Time};

use crate::app::App;
use crate::checkers::liveness::Liveness;
use crate::client::{ActiveCall, CallId, Client};
use crate::disk::SimDisk;
use crate::faults::Lasting;
use crate::marks::Marks;
use crate::network::Network;
use crate::node::{Place, address, storage_options};
use crate::observed::Step;
use crate::plan::{Machine, Plan, Start};
use crate::queue::{Event, Queue};
use crate::rng::Rng;
use crate::trace::{CopyId, OpId, Seen, Violation, Watch};
pub(crate) use parcel::Parcel;
pub(crate) use report::Hash;
pub use report::{Counts, Report};
pub use view::View;

/// A run about to begin.
pub struct World<A: App> {
    pub(crate) plan: Plan,
    pub(crate) traced: bool,
    pub(crate) now: Time,
    pub(crate) queue: Queue,
    pub(crate) places: Vec<Place<A>>,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client<A>>,
    pub(crate) calls: BTreeMap<CallId, ActiveCall<A>>,
    pub(crate) last_call: CallId,
    pub(crate) last_copy: CopyId,
    pub(crate) lasting: Vec<Lasting>,
    /// Faults that wait for their moment.
    pub(crate) ambushes: Vec<usize>,
    /// What nodes on their way into a cluster said they would form, and when they last said it.
    pub(crate) said: BTreeMap<(NodeId, ClusterId), Time>,
    pub(crate) counts: Counts,
    pub(crate) marks: Marks,
    /// Ways of clients, and what the world itself decides while it runs.
    pub(crate) rng: Rng,
    /// Kept between passes for its room.
    pub(crate) applied: Vec<Step>,
    parcels: Vec<Option<Parcel<A>>>,
    free_parcels: Vec<u32>,
    /// Where the members that the cluster formed with live.
    homes: BTreeMap<NodeId, Machine>,
    watches: Vec<Box<dyn Watch<A>>>,
    violation: Option<Violation>,
    pub(crate) hash: Hash,
    phase: Phase,
}

/// Where the run is.
enum Phase {
    /// Faults and requests.
    Chaos,
    /// These machines have to become live.
    Healing { core: u8, liveness: Liveness, probe: Option<OpId> },
    /// It is over.
    Done,
}

/// A run that takes more events than this is stuck.
const EVENTS_MAX: u64 = 50_000_000;

impl<A: App> World<A> {
    /// A world for this plan.
    ///
    /// # Panics
    ///
    /// For a plan that cannot be run ([`Plan::refusal`]).
    pub fn new(plan: Plan) -> World<A> {
        assert_eq!(plan.refusal(), None, "a plan that cannot be run");
        let stream = |name, number| Rng::stream(plan.seed, name, number);
        let machines = plan.machines();
        let places = (0..machines).map(|number| {
            let disk = SimDisk::new(stream("disk", number.into()).bits());
            disk.set_pace(plan.disk);
            let ppm = plan.drift_ppm.get(usize::from(number)).copied().unwrap_or(0);
            Place::new(disk, ppm, stream("machine", number.into()))
        });
        let clients = plan.ops.iter().map(|op| op.what.client).max().unwrap_or(0);
        World {
            traced: false,
            now: Time(0),
            queue: Queue::new(stream("ties", 0)),
            places: places.collect(),
            network: Network::new(machines.into(), stream("network", 0)),
            clients: (0..=clients).map(|it| Client::new(Machine(it % machines))).collect(),
            calls: BTreeMap::new(),
            last_call: CallId(0),
            last_copy: CopyId(0),
            lasting: vec![Lasting::Nothing; plan.faults.len()],
            ambushes: Vec::new(),
            said: BTreeMap::new(),
            counts: Counts::default(),
            marks: Marks::default(),
            rng: stream("world", 0),
            applied: Vec::new(),
            parcels: Vec::new(),
            free_parcels: Vec::new(),
            homes: BTreeMap::new(),
            watches: Vec::new(),
            violation: None,
            hash: Hash::default(),
            phase: Phase::Chaos,
            plan,
        }
    }

    /// Somebody more to watch; the first one is asked first.
    pub fn watch(&mut self, watch: impl Watch<A> + 'static) {
        self.watches.push(Box::new(watch));
    }

    /// Lets every replica tell each decision in words ([`Seen::Note`]). Changes nothing else.
    pub fn trace(&mut self) {
        self.traced = true;
    }

    /// Runs the plan to its end, or to the first broken rule. A panic is a broken rule.
    pub fn run(mut self) -> Report {
        let caught = catch_unwind(AssertUnwindSafe(|| self.go()));
        if let Err(panic) = caught {
            // The world is in no state to be watched any more, but its numbers still hold.
            let what = words_of(&*panic);
            self.violation = Some(Violation { rule: "I20", what: format!("a panic: {what}") });
        }
        self.watches.iter().for_each(|watch| self.marks.join(watch.marks()));
        Report {
            hash: self.hash.sum(),
            failure: self.violation,
            ended: self.now,
            counts: self.counts,
            marks: self.marks,
        }
    }

    fn go(&mut self) {
        self.begin();
        while self.violation.is_none() && !matches!(self.phase, Phase::Done) {
            let Some((now, event)) = self.queue.pop() else {
                return self.violate("world", "nothing is left to happen".to_owned());
            };
            self.now = now;
            self.counts.events += 1;
            self.hash.add(now.0, event.code());
            if EVENTS_MAX < self.counts.events {
                return self.violate("world", "the run does not come to an end".to_owned());
            }
            self.happen(event);
            if !self.ambushes.is_empty() {
                self.spring_ambushes();
            }
        }
        self.see(Seen::End);
        self.sum_up();
    }

    fn begin(&mut self) {
        if self.plan.start == Start::Formed {
            self.form_all();
        }
        for machine in 0..self.plan.machines() {
            let life = self.place(Machine(machine)).life;
            let after = self.rng.span(Duration::ZERO, Duration::from_millis(50));
            self.later(after, Event::Start(Machine(machine), life));
        }
        let faults = (0..).zip(&self.plan.faults);
        self.queue.plan(faults.map(|(line, fault)| (Time(0) + fault.at, Event::Fault(line))));
        let ops = (0..).zip(&self.plan.ops);
        self.queue.plan(ops.map(|(line, op)| (Time(0) + op.at, Event::Op(line))));
        self.queue.push(Time(0) + self.plan.chaos, Event::ChaosOver);
        for machine in (0..self.plan.machines()).map(Machine) {
            self.homes.insert(NodeId(Place::<A>::fresh_id(machine, 0)), machine);
        }
    }

    /// Writes the same membership to every disk.
    fn form_all(&mut self) {
        let knobs = self.plan.knobs.clone();
        let mut dirs = Vec::new();
        for machine in (0..self.plan.machines()).map(Machine) {
            let place = self.place(machine);
            let name = format!("node{}", machine.0 + 1);
            let random = Place::<A>::fresh_id(machine, 0);
            let dir = DataDir::open(place.disk.handle(), Some(&name), random);
            dirs.push((machine, dir.expect("a fresh disk without faults")));
        }
        let members: BTreeMap<NodeId, Member> = dirs
            .iter()
            .map(|(machine, dir)| {
                let (name, address) = (dir.meta().name.clone(), address(*machine));
                (dir.meta().node_id, Member { name, address })
            })
            .collect();
        let (voters, learners) =
            members.keys().partition(|id| (id.0 - 1) < u64::from(self.plan.voters));
        let membership = Membership::new(members, voters, Default::default(), learners);
        let membership = membership.expect("every machine is a voter or a learner");
        for (machine, mut dir) in dirs {
            let seed = self.place(machine).rng.bits();
            form(&mut dir, &membership, &storage_options(&knobs, seed))
                .expect("a fresh disk without faults");
            drop(dir);
            self.place(machine).disk.end_life();
        }
    }

    fn happen(&mut self, event: Event) {
        if let Some((machine, life)) = event.of() {
            let place = &self.places[usize::from(machine.0)];
            if place.life != life {
                return;
            }
            if self.now < place.still_until {
                return self.queue.push(place.still_until, event);
            }
        }
        match event {
            Event::Parcel(number) => self.arrive(number),
            Event::Start(machine, life) => {
                if self.place(machine).life == life {
                    self.start(machine);
                }
            }
            Event::Opened(machine, _) => self.opened(machine),
            Event::Formed(machine, _) => self.formed(machine),
            Event::FormWake(machine, _) => self.form_due(machine),
            Event::Pass(machine, _) => self.scheduled_pass(machine),
            Event::Wake(machine, _) => self.wake(machine),
            Event::LogDone(machine, _) => self.log_done(machine),
            Event::LogDue(machine, _) => self.log_due(machine),
            Event::SegmentDone(machine, _) => self.segment_done(machine),
            Event::RemovalDone(machine, _) => self.removal_done(machine),
            Event::SnapshotStep(machine, _) => self.snapshot_step(machine),
            Event::ReadDone(machine, _) => self.read_done(machine),
            Event::Leave(machine, _) => self.leave(machine),
            Event::Op(line) => {
                if matches!(self.phase, Phase::Chaos) {
                    self.op_due(self.plan.ops[line as usize].what);
                }
            }
            Event::GiveUp(client, op) => self.give_up(client, OpId(op)),
            Event::CallDue(call) => self.call_due(call),
            Event::Fault(line) => {
                if matches!(self.phase, Phase::Chaos) {
                    self.strike(line as usize);
                }
            }
            Event::Healed(line) => self.heal(line as usize),
            Event::Flap(line) => self.flap(line as usize),
            Event::ChaosOver => self.chaos_over(),
            Event::Probe => self.probe(),
        }
    }
}

/// Small tools for all parts of the world.
impl<A: App> World<A> {
    pub(crate) fn place(&mut self, machine: Machine) -> &mut Place<A> {
        &mut self.places[usize::from(machine.0)]
    }

    /// The machine's own time.
    pub(crate) fn local(&self, machine: Machine) -> Time {
        self.places[usize::from(machine.0)].clock.read(self.now)
    }

    /// The machine where the members know this node to live.
    pub(crate) fn home_of(&self, node: NodeId) -> Option<Machine> {
        self.homes.get(&node).copied()
    }

    pub(crate) fn later(&mut self, after: Duration, event: Event) {
        self.queue.push(self.now + after, event);
    }

    /// Tells everybody who watches.
    pub(crate) fn see(&mut self, seen: Seen<'_, A>) {
        let view = View { plan: &self.plan, places: &self.places };
        for watch in &mut self.watches {
            if let Err(violation) = watch.see(self.now, &seen, &view) {
                self.violation.get_or_insert(violation);
            }
        }
    }

    /// A rule of the world's own is broken.
    pub(crate) fn violate(&mut self, rule: &'static str, what: String) {
        self.violation.get_or_insert(Violation { rule, what });
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words").to_owned()
}
