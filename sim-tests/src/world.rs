//! The world: machines, network, clients and faults on one line of time.
//!
//! One thread and one heap of events, ordered by (virtual time, seeded tie-break, sequence). The
//! world jumps from event to event; nothing ticks. A run is a function of its plan: the same plan
//! gives the same [`Report`], hash included. After the chaos everything heals, and a random quorum
//! has to become live again.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::BytesMut;
use raft_core::membership::{Member, Membership};
use raft_core::node::form;
use raft_core::replica::Replica;
use raft_core::storage::meta::DataDir;
use raft_core::types::{NodeId, Time};

use crate::app::App;
use crate::client::{ActiveCall, CallId, Client, Heard};
use crate::disk::SimDisk;
use crate::faults::Lasting;
use crate::marks::{Mark, Marks};
use crate::network::{Network, Route};
use crate::node::{Place, address, storage_options};
use crate::observed::{Observed, Step};
use crate::plan::{ClientOp, CrashLoss, Links, Machine, OpKind, Plan, Start};
use crate::queue::{Event, Queue};
use crate::rng::Rng;
use crate::trace::{CopyId, OpId, Seen, Violation, Watch};

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
    hash: Hash,
    phase: Phase,
}

/// What is on its way between places.
pub(crate) enum Parcel<A: App> {
    /// A message between replicas, as bytes.
    Frame { copy: CopyId, from: Machine, to: Machine, frame: BytesMut },
    /// Who is there?
    Ask { from: Machine, to: Machine, life: u32, ask: u64 },
    /// The answer to that.
    Hello { to: Machine, life: u32, ask: u64, answer: Result<Vec<u8>, String> },
    /// A client's request.
    Request { client: u8, op: OpId, to: Machine, request: A::Request, patience: Duration },
    /// What the client hears.
    Reply { client: u8, op: OpId, heard: Heard<A> },
    /// A request handed on to the leader.
    Forward {
        call: CallId,
        from: Machine,
        to: Machine,
        node: NodeId,
        request: A::Request,
        hops: u8,
        patience: Duration,
    },
    /// Its end.
    ForwardEnd { call: CallId, heard: Heard<A> },
    /// A peer's process is gone.
    PeerDown { to: Machine, of: Machine, node: NodeId },
}

/// Where the run is.
enum Phase {
    /// Faults and requests.
    Chaos,
    /// These machines have to become live until then.
    Healing { core: u8, until: Time, probe: Option<OpId>, served: bool },
    /// It is over.
    Done,
}

/// What watchers may look at while something happens.
pub struct View<'a, A: App> {
    plan: &'a Plan,
    places: &'a [Place<A>],
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// 128 bits over all events and final states: the same plan, the same hash.
    pub hash: u128,
    /// The first rule that was broken; the run ended there.
    pub failure: Option<Violation>,
    /// When that was, or when the run ended.
    pub ended: Time,
    /// Numbers.
    pub counts: Counts,
    /// Which rare things happened.
    pub marks: Marks,
}

/// Numbers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events taken from the heap.
    pub events: u64,
    /// Messages that left replicas.
    pub messages: u64,
    /// Operations that clients began.
    pub ops: u64,
    /// Writes that were acknowledged.
    pub writes_acknowledged: u64,
    /// Entries committed (the highest commit index seen).
    pub committed: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Elections won.
    pub elections: u64,
    /// Processes that crashed.
    pub crashes: u64,
}

/// The client that asks whether the cluster is live again.
const PROBE: u8 = 0;

/// A run that takes more events than this is stuck.
const EVENTS_MAX: u64 = 50_000_000;

impl<A: App> World<A> {
    /// A world for this plan.
    pub fn new(plan: Plan) -> World<A> {
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
        for number in 0..self.plan.faults.len() {
            let at = self.plan.faults[number].at;
            self.queue.push(Time(0) + at, Event::Fault(number as u32));
        }
        for number in 0..self.plan.ops.len() {
            let at = self.plan.ops[number].at;
            self.queue.push(Time(0) + at, Event::Op(number as u32));
        }
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
            Event::SnapshotStep(machine, _) => self.snapshot_step(machine),
            Event::ReadDone(machine, _) => self.read_done(machine),
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

    fn arrive(&mut self, number: u32) {
        // A process that stands still reads its sockets later.
        let to = self.parcels[number as usize].as_ref().and_then(Parcel::to);
        let until = to.map_or(Time(0), |to| self.places[usize::from(to.0)].still_until);
        if self.now < until {
            return self.queue.push(until, Event::Parcel(number));
        }
        let Some(parcel) = self.parcels[number as usize].take() else { return };
        self.free_parcels.push(number);
        match parcel {
            Parcel::Frame { copy, from, to, frame } => self.deliver(copy, from, to, frame),
            Parcel::Ask { from, to, life, ask } => {
                let answer = self.asked_hello(to).map(|hello| hello.to_json());
                self.post(to, from, Parcel::Hello { to: from, life, ask, answer });
            }
            Parcel::Hello { to, life, ask, answer } => self.hello_answered(to, life, ask, answer),
            Parcel::Request { client, op, to, request, patience } => {
                self.request_arrived(client, op, to, request, patience);
            }
            Parcel::Reply { client, op, heard } => self.heard(client, op, heard),
            Parcel::Forward { call, from, to, node, request, hops, patience } => {
                self.forward_arrived(call, from, to, node, request, (hops, patience));
            }
            Parcel::ForwardEnd { call, heard, .. } => self.forward_ended(call, heard),
            Parcel::PeerDown { to, of, node } => self.peer_down(to, of, node),
        }
    }
}

/// The end of the chaos, and what has to be true after it.
impl<A: App> World<A> {
    fn chaos_over(&mut self) {
        for number in 0..self.lasting.len() {
            self.heal(number);
        }
        self.network.heal();
        let voters = (0..self.plan.voters).map(Machine);
        let whole: Vec<Machine> =
            voters.clone().filter(|it| !self.places[usize::from(it.0)].lost).collect();
        let quorum = usize::from(self.plan.voters) / 2 + 1;
        for machine in (0..self.plan.machines()).map(Machine) {
            let place = self.place(machine);
            place.disk.heal();
            (place.slow, place.late, place.deaf) = (Duration::ZERO, Duration::ZERO, false);
            place.still_until = Time(0);
        }
        for client in &mut self.clients {
            client.forget_queue();
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
        // Ten election timeouts, after what an old request may still wait and a follower without a
        // log may need.
        let until = self.now + self.plan.knobs.election_timeout_min * 20 + Duration::from_secs(60);
        self.phase = Phase::Healing { core, until, probe: None, served: false };
        self.later(Duration::from_millis(1), Event::Probe);
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

    fn probe(&mut self) {
        let now = self.now;
        let Phase::Healing { core, until, probe, served } = &mut self.phase else { return };
        let (core, until, served, probing) = (*core, *until, *served, probe.is_some());
        if until < now {
            let why = if served && self.clients.iter().all(Client::is_idle) {
                format!("the machines {:?} do not come to hold the same", members(core))
            } else if served {
                "open requests do not end".to_owned()
            } else {
                format!("no write succeeds on the machines {:?}", members(core))
            };
            return self.violate("liveness", why);
        }
        if served {
            if self.clients.iter().all(Client::is_idle) && self.has_settled(core) {
                self.marks.hit(Mark::LiveAgain);
                self.phase = Phase::Done;
                return;
            }
        } else if !probing && self.clients[usize::from(PROBE)].is_idle() {
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
        if let Phase::Healing { probe, served, .. } = &mut self.phase
            && client == PROBE
            && probe.take().is_some()
        {
            *served |= answered;
        }
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

    fn sum_up(&mut self) {
        let mut finals = Vec::new();
        for place in &self.places {
            finals.push(place.disk.digest());
            if let Some(running) = place.running() {
                let raft = running.replica.raft();
                finals.push(raft.term().0 << 32 ^ raft.log().committed().0);
                finals.push(A::digest(running.replica.state().inner()));
            }
        }
        for word in finals {
            self.hash.add(word, 0x77);
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

    /// It arrives after this long.
    pub(crate) fn send_parcel(&mut self, after: Duration, parcel: Parcel<A>) {
        let number = self.free_parcels.pop().unwrap_or_else(|| {
            self.parcels.push(None);
            (self.parcels.len() - 1) as u32
        });
        self.parcels[number as usize] = Some(parcel);
        self.later(after, Event::Parcel(number));
    }

    /// Sends it over the network, on a connection that knows no loss but its own end. Whether it is
    /// on its way.
    pub(crate) fn post(&mut self, from: Machine, to: Machine, parcel: Parcel<A>) -> bool {
        match self.network.route(from, to) {
            Route::Lost(_) => false,
            Route::Arrives { after, .. } => {
                self.send_parcel(after, parcel);
                true
            }
        }
    }

    /// What is on its way to or from this machine is lost.
    pub(crate) fn drop_parcels(&mut self, machine: Machine) {
        for slot in &mut self.parcels {
            let touches = matches!(slot, Some(Parcel::Frame { from, to, .. })
                if *from == machine || *to == machine);
            if touches && let Some(Parcel::Frame { frame, .. }) = slot {
                // The event that carries it is on the heap: it will deliver nothing.
                frame.clear();
            }
        }
    }
}

impl<A: App> Parcel<A> {
    /// The machine whose process takes it in.
    fn to(&self) -> Option<Machine> {
        match self {
            Parcel::Frame { to, .. }
            | Parcel::Ask { to, .. }
            | Parcel::Hello { to, .. }
            | Parcel::Request { to, .. }
            | Parcel::Forward { to, .. }
            | Parcel::PeerDown { to, .. } => Some(*to),
            Parcel::Reply { .. } | Parcel::ForwardEnd { .. } => None,
        }
    }
}

impl<'a, A: App> View<'a, A> {
    /// The plan of the run.
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// The machines, in order.
    pub fn machines(&self) -> impl Iterator<Item = Machine> + use<A> {
        (0..self.places.len() as u8).map(Machine)
    }

    /// The id of the disk in this machine; 0 before it first started.
    pub fn node(&self, machine: Machine) -> NodeId {
        self.places[usize::from(machine.0)].id
    }

    /// The machine whose disk has this id, if any has.
    pub fn machine_of(&self, node: NodeId) -> Option<Machine> {
        let at = self.places.iter().position(|place| place.id == node)?;
        Some(Machine(at as u8))
    }

    /// The replica that runs there: its core with `raft()`, its state with [`View::state`]. `None`
    /// while no process runs there or it is forming.
    pub fn replica(&self, machine: Machine) -> Option<&'a Replica<Observed<A>>> {
        self.places[usize::from(machine.0)].running().map(|running| &running.replica)
    }

    /// The application's state there.
    pub fn state(&self, machine: Machine) -> Option<&'a A::State> {
        self.replica(machine).map(|replica| replica.state().inner())
    }

    /// The disk there.
    pub fn disk(&self, machine: Machine) -> &'a SimDisk {
        &self.places[usize::from(machine.0)].disk
    }

    /// Whether the plan has harmed what the disk there had promised to keep: rot, a wipe.
    pub fn is_lost(&self, machine: Machine) -> bool {
        self.places[usize::from(machine.0)].lost
    }

    /// How many inputs and writes wait in the process there.
    pub fn backlog(&self, machine: Machine) -> usize {
        self.places[usize::from(machine.0)].running().map_or(0, |running| running.backlog())
    }
}

/// The machines of a set of bits.
fn members(core: u8) -> Vec<Machine> {
    (0..8).filter(|bit| core >> bit & 1 == 1).map(Machine).collect()
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words").to_owned()
}

/// The hash of a run: two lanes that are mixed with every word.
#[derive(Clone, Copy, Debug, Default)]
struct Hash {
    a: u64,
    b: u64,
}

impl Hash {
    fn add(&mut self, x: u64, y: u64) {
        self.a = (self.a ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ y;
        self.b = (self.b.rotate_left(17) ^ y).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ x;
    }

    fn sum(self) -> u128 {
        u128::from(self.a) << 64 | u128::from(self.b)
    }
}
