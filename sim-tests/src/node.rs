//! A machine and the process on it: what the daemon's threads do, as events.
//!
//! The process is the daemon's: it opens the data directory, forms if it must, and runs a `Replica`
//! over a `Keeper` and a `PieceReader`. What the daemon has threads for (raft, log, segments, snapshots
//! out, snapshots in) are five lanes of work here, each busy with one thing at a time. A storage call
//! takes its time first and is carried out at the end of it; a crash in between carries it out up
//! to a fuse.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use kv_daemon::form::start::check_restart;
use kv_daemon::form::{Forming, Hello, Identity, PROTOCOL, PeerSpec, Standing, Verdict};
use raft_core::codec::{FRAME_BYTES_MAX, FrameDecoder, encode_frame};
use raft_core::config::Config;
use raft_core::consensus::event::{ChunkRequest, RoleName};
use raft_core::keeper::{Keeper, PieceReader};
use raft_core::membership::Membership;
use raft_core::message::Message;
use raft_core::node::form;
use raft_core::replica::{Input, OrderId, PieceRequest, Replica, Work};
use raft_core::state_machine::{SnapshotSource, StateMachine};
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::DataDir;
use raft_core::storage::snapshot::{SnapshotWriter, Snapshots};
use raft_core::storage::{MakeSegment, Storage, StorageOptions};
use raft_core::types::{ClusterId, LogPosition, NodeId, ProposalId, ReadId, Time};
use raft_core::write::{SnapshotMeta, SnapshotWrite, Write};

use crate::app::{App, Came, NodeView};
use crate::client::CallId;
use crate::clock::Clock;
use crate::disk::{Crash, SimDisk};
use crate::marks::Mark;
use crate::network::Route;
use crate::observed::{Observed, Step};
use crate::plan::{CrashLoss, Knobs, Machine};
use crate::queue::Event;
use crate::rng::Rng;
use crate::trace::{CopyId, Exit, Loss, Seen};
use crate::world::{Parcel, World};

/// A machine: a disk, a clock, and the process that runs there, if one does.
pub(crate) struct Place<A: App> {
    /// The id of the disk, once a process has read or made it.
    pub(crate) id: NodeId,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
    /// Counts processes and their ends: an event of another life is void.
    pub(crate) life: u32,
    pub(crate) process: Process<A>,
    /// Nothing of the process happens before this.
    pub(crate) still_until: Time,
    /// Every piece of a snapshot takes this much longer.
    pub(crate) slow: Duration,
    /// Timers fire up to this late.
    pub(crate) late: Duration,
    /// Answers to clients are lost.
    pub(crate) deaf: bool,
    /// The disk is damaged, emptied or not its own: the process cannot be expected to come back.
    pub(crate) lost: bool,
    /// How often the disk was replaced by an empty one.
    pub(crate) wipes: u64,
    /// Durations, salts and seeds of this machine.
    pub(crate) rng: Rng,
}

/// What runs on a machine.
pub(crate) enum Process<A: App> {
    /// Nothing.
    Down,
    /// Reads its disk.
    Opening,
    /// Looks for the others.
    Forming(Box<FormingProcess>),
    /// A node.
    Running(Box<Running<A>>),
}

/// A process on its way into a cluster.
pub(crate) struct FormingProcess {
    dir: DataDir,
    forming: Forming,
    /// What all agreed on; being written.
    decided: Option<Membership>,
    /// The earliest look at the time that is scheduled.
    wake_at: Time,
}

/// A node.
pub(crate) struct Running<A: App> {
    pub(crate) replica: Replica<Observed<A>>,
    pub(crate) cluster: ClusterId,
    /// Its lock is held as long as the process lives.
    _dir: DataDir,
    keeper: Keeper,
    decoder: FrameDecoder,
    pub(crate) lanes: Lanes,
    /// The raft thread is busy until then.
    busy_until: Time,
    /// A pass is scheduled.
    pass_due: bool,
    /// The earliest wake that is scheduled.
    wake_at: Time,
    log: LogLane,
    making: Option<MakeSegment>,
    snapshots: Snapshots,
    writing: Option<Writing>,
    pieces: PieceReader,
    reading: VecDeque<ReadJob>,
    last_id: u64,
    pub(crate) proposals: BTreeMap<ProposalId, CallId>,
    pub(crate) reads: BTreeMap<ReadId, CallId>,
    /// Calls that wait for another leader than this.
    pub(crate) waiting: Vec<(CallId, Option<NodeId>)>,
    leader: Option<NodeId>,
    role: RoleName,
    /// Told to stop.
    stopping: bool,
}

/// What came in since the last pass, in the order the raft thread takes it.
#[derive(Default)]
pub(crate) struct Lanes {
    pub(crate) own: Vec<Input>,
    messages: Vec<(CopyId, Machine, Message)>,
    pub(crate) asked: Vec<Input>,
}

/// The log's thread.
#[derive(Default)]
struct LogLane {
    waiting: Vec<Write>,
    /// What a storage call is busy with.
    running: Option<Vec<Write>>,
    /// A segment came or failed: look at it.
    poked: bool,
    /// The earliest look that is scheduled.
    due_at: Option<Time>,
}

/// A snapshot being written.
struct Writing {
    position: LogPosition,
    membership: Membership,
    source: Box<dyn SnapshotSource>,
    writer: Option<SnapshotWriter>,
    ended: bool,
}

/// What the snapshot reader is asked for.
enum ReadJob {
    Chunk(ChunkRequest),
    Piece(PieceRequest),
}

/// Most messages that wait for a pass; beyond it they are lost, as in the daemon's inbox.
const MESSAGES_MAX: usize = 8192;

impl<A: App> Place<A> {
    pub(crate) fn new(disk: SimDisk, ppm: i32, mut rng: Rng) -> Place<A> {
        let origin = Time(rng.below(1 << 40));
        Place {
            id: NodeId(0),
            disk,
            clock: Clock::new(origin, ppm),
            life: 0,
            process: Process::Down,
            still_until: Time(0),
            slow: Duration::ZERO,
            late: Duration::ZERO,
            deaf: false,
            lost: false,
            wipes: 0,
            rng,
        }
    }

    pub(crate) fn running(&self) -> Option<&Running<A>> {
        match &self.process {
            Process::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn running_mut(&mut self) -> Option<&mut Running<A>> {
        match &mut self.process {
            Process::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        !matches!(self.process, Process::Down)
    }

    /// The bits of the next disk made here: readable, and unique in the world.
    pub(crate) fn fresh_id(machine: Machine, wipes: u64) -> u64 {
        wipes << 4 | (u64::from(machine.0) + 1)
    }
}

impl<A: App> Running<A> {
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(crate) fn view(&self, me: NodeId) -> NodeView {
        let raft = self.replica.raft();
        NodeView {
            me,
            leader: raft.leader(),
            contact: raft.contact(),
            formed: true,
            restoring: self.replica.is_restoring(),
        }
    }

    /// Most that waits in memory, for the bounds.
    pub(crate) fn backlog(&self) -> usize {
        self.lanes.messages.len() + self.lanes.asked.len() + self.log.waiting.len()
    }
}

/// `m1:8001`, as members know each other.
pub(crate) fn address(machine: Machine) -> String {
    format!("{machine}:8001")
}

fn identity(machine: Machine, id: NodeId) -> Identity {
    Identity { node_id: id, name: format!("node{}", machine.0 + 1), address: address(machine) }
}

pub(crate) fn storage_options(knobs: &Knobs, seed: u64) -> StorageOptions {
    StorageOptions {
        segment_bytes_first: knobs.segment_bytes_first,
        segment_bytes_max: knobs.segment_bytes_max,
        seed,
    }
}

fn core_config(knobs: &Knobs, id: NodeId, seed: u64) -> Config {
    Config {
        id,
        seed,
        heartbeat: knobs.heartbeat,
        election_timeout_min: knobs.election_timeout_min,
        append_bytes_max: knobs.append_bytes_max,
        inflight_bytes_max: knobs.inflight_bytes_max,
        entry_bytes_max: knobs.entry_bytes_max,
        uncommitted_bytes_max: knobs.uncommitted_bytes_max,
        apply_bytes_max: knobs.apply_bytes_max,
        reads_max: knobs.reads_max as usize,
        snapshot_bytes: knobs.snapshot_bytes,
        snapshot_entries: knobs.snapshot_entries,
        tail_bytes: knobs.tail_bytes,
        chunk_bytes: knobs.chunk_bytes,
    }
}

/// Starting.
impl<A: App> World<A> {
    /// A process begins to read its disk.
    pub(crate) fn start(&mut self, machine: Machine) {
        let place = self.place(machine);
        if place.is_up() {
            return;
        }
        place.life += 1;
        place.process = Process::Opening;
        let life = place.life;
        let takes = place.rng.log_span(Duration::from_micros(500), Duration::from_millis(20));
        self.later(takes, Event::Opened(machine, life));
    }

    /// The disk has been read: on to a cluster or to forming one.
    pub(crate) fn opened(&mut self, machine: Machine) {
        let place = self.place(machine);
        let (name, random) =
            (format!("node{}", machine.0 + 1), Place::<A>::fresh_id(machine, place.wipes));
        let disk = place.disk.handle();
        let dir = match DataDir::open(disk, Some(&name), random) {
            Ok(dir) => dir,
            Err(error) => return self.exit(machine, exit_of(&error)),
        };
        place.id = dir.meta().node_id;
        if dir.meta().cluster.is_some() {
            return self.run_node(machine, dir);
        }
        let id = place.id;
        let me = identity(machine, id);
        let now = self.local(machine);
        let others = (0..self.plan.machines()).map(Machine).filter(|other| *other != machine);
        let peers = others.map(|it| PeerSpec { name: None, address: address(it) }).collect();
        let forming = Forming::new(me, peers, "simulated", now);
        let forming = FormingProcess { dir, forming, decided: None, wake_at: Time::NEVER };
        self.place(machine).process = Process::Forming(Box::new(forming));
        self.see(Seen::Started { machine, node: id, recovered: None });
        if self.plan.machines() == 1 {
            return self.decide_alone(machine);
        }
        self.form_wake(machine);
    }

    fn decide_alone(&mut self, machine: Machine) {
        let place = self.place(machine);
        let me = identity(machine, place.id);
        let Process::Forming(process) = &mut place.process else { return };
        process.decided = Some(kv_daemon::form::formation_of(&[me]).membership);
        self.write_formation(machine);
    }

    /// Forming looks at the time.
    pub(crate) fn form_due(&mut self, machine: Machine) {
        let now = self.now;
        if let Process::Forming(process) = &mut self.place(machine).process
            && process.wake_at <= now
        {
            process.wake_at = Time::NEVER;
            self.form_wake(machine);
        }
    }

    /// Forming asks what it wants to know.
    fn form_wake(&mut self, machine: Machine) {
        let now = self.now;
        let place = self.place(machine);
        let (local, life) = (place.clock.read(now), place.life);
        let Process::Forming(process) = &mut place.process else { return };
        if process.decided.is_some() {
            return;
        }
        let asks = process.forming.wake(local);
        let (adopts, decided) = match process.forming.verdict() {
            Verdict::Wait(_) => (false, None),
            Verdict::Form(formation) => (false, Some(formation.membership.clone())),
            Verdict::Adopt(formation) => (true, Some(formation.membership.clone())),
        };
        if decided.is_some() {
            process.decided = decided;
            if adopts {
                self.marks.hit(Mark::FormationAdopted);
            }
            return self.write_formation(machine);
        }
        let deadline = process.forming.deadline();
        let at = place.clock.when(deadline).max(now + Duration::from_micros(10));
        let Process::Forming(process) = &mut place.process else { return };
        if at < process.wake_at {
            process.wake_at = at;
            self.queue.push(at, Event::FormWake(machine, life));
        }
        for ask in asks {
            let number = ask.ask;
            let all = (0..self.plan.machines()).map(Machine);
            let Some(to) = all.into_iter().find(|it| address(*it) == ask.address) else { continue };
            self.post(machine, to, Parcel::Ask { from: machine, to, life, ask: number });
        }
    }

    fn write_formation(&mut self, machine: Machine) {
        let life = self.place(machine).life;
        let takes = self.sync_time(machine);
        self.later(takes, Event::Formed(machine, life));
    }

    /// What all agreed on is written, synced.
    pub(crate) fn formed(&mut self, machine: Machine) {
        let knobs = self.plan.knobs.clone();
        let place = self.place(machine);
        let seed = place.rng.bits();
        let Process::Forming(process) = std::mem::replace(&mut place.process, Process::Opening)
        else {
            return;
        };
        let FormingProcess { mut dir, decided, .. } = *process;
        let membership = decided.expect("only a decision is written");
        match form(&mut dir, &membership, &storage_options(&knobs, seed)) {
            Ok(cluster) => {
                self.see(Seen::Formed { machine, cluster });
                self.run_node(machine, dir);
            }
            Err(error) => self.exit(machine, exit_of(&error)),
        }
    }

    /// Somebody asks who is here.
    pub(crate) fn asked_hello(&mut self, to: Machine) -> Result<Hello, String> {
        let place = self.place(to);
        let me = identity(to, place.id);
        match &place.process {
            Process::Down | Process::Opening => Err("connection refused".to_owned()),
            Process::Forming(process) => Ok(process.forming.hello()),
            Process::Running(running) => {
                let members = running.replica.raft().log().membership().members();
                let set = members.map(|(node_id, member)| Identity {
                    node_id,
                    name: member.name.clone(),
                    address: member.address.clone(),
                });
                Ok(Hello {
                    identity: me,
                    standing: Standing::Formed { cluster: running.cluster },
                    set: set.collect(),
                    peers: Vec::new(),
                    protocol: PROTOCOL,
                    version: "simulated".to_owned(),
                })
            }
        }
    }

    /// The answer to a hello is here.
    pub(crate) fn hello_answered(
        &mut self,
        machine: Machine,
        life: u32,
        ask: u64,
        answer: Result<Vec<u8>, String>,
    ) {
        let now = self.now;
        let place = self.place(machine);
        if place.life != life {
            return;
        }
        let local = place.clock.read(now);
        let Process::Forming(process) = &mut place.process else { return };
        let answer = answer.and_then(|json| Hello::from_json(&json));
        process.forming.answered(local, ask, answer);
        self.form_wake(machine);
    }

    /// A node begins on a formed disk.
    fn run_node(&mut self, machine: Machine, dir: DataDir) {
        let now = self.now;
        let knobs = self.plan.knobs.clone();
        let traced = self.traced;
        let place = self.place(machine);
        let id = dir.meta().node_id;
        let cluster = dir.meta().cluster.expect("the caller looked");
        let (seed, salts) = (place.rng.bits(), place.rng.bits());
        let opened =
            Storage::open(Arc::clone(dir.disk()), dir.meta(), storage_options(&knobs, salts));
        let (storage, recovered) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.exit(machine, exit_of(&error)),
        };
        let local = place.clock.read(now);
        let snapshots = storage.snapshots().clone();
        let shown = recovered.clone();
        let config = core_config(&knobs, id, seed);
        let waiting_max = knobs.waiting_max as usize;
        let mut replica = Replica::new(config, recovered, Observed::new(), waiting_max, local);
        replica.trace(traced);
        let membership = replica.raft().log().membership();
        let others = membership.members().filter(|(other, _)| *other != id);
        let peers: Vec<PeerSpec> = others
            .map(|(_, member)| PeerSpec { name: None, address: member.address.clone() })
            .collect();
        let restart =
            check_restart("the data directory", &identity(machine, id), &peers, membership);
        if let Err(why) = restart {
            return self.exit(machine, Exit::Foreign(why));
        }
        let running = Running {
            replica,
            cluster,
            _dir: dir,
            keeper: Keeper::new(storage),
            decoder: FrameDecoder::new(FRAME_BYTES_MAX),
            lanes: Lanes::default(),
            busy_until: now,
            pass_due: false,
            wake_at: Time::NEVER,
            log: LogLane::default(),
            making: None,
            pieces: PieceReader::new(snapshots.clone()),
            snapshots,
            writing: None,
            reading: VecDeque::new(),
            last_id: 0,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            waiting: Vec::new(),
            leader: None,
            role: RoleName::Follower,
            stopping: false,
        };
        let place = self.place(machine);
        place.process = Process::Running(Box::new(running));
        if shown.snapshot.is_some() {
            self.marks.hit(Mark::RecoveredFromSnapshot);
        }
        self.see(Seen::Started { machine, node: id, recovered: Some(&shown) });
        self.run_log(machine);
        self.pass(machine);
    }
}

/// The raft thread.
impl<A: App> World<A> {
    /// A frame is here.
    pub(crate) fn deliver(
        &mut self,
        copy: CopyId,
        from: Machine,
        to: Machine,
        mut frame: BytesMut,
    ) {
        let place = &mut self.places[usize::from(to.0)];
        let id = place.id;
        let lost = match &mut place.process {
            Process::Running(running) if running.lanes.messages.len() < MESSAGES_MAX => {
                match running.decoder.decode(&mut frame) {
                    Ok(Some((cluster, message)))
                        if cluster == running.cluster && message.to == id =>
                    {
                        running.lanes.messages.push((copy, from, message));
                        return self.poke(to);
                    }
                    Ok(Some(_)) => Loss::Foreign,
                    Ok(None) | Err(_) => Loss::Malformed,
                }
            }
            Process::Running(_) => Loss::Full,
            _ => Loss::Down,
        };
        match lost {
            Loss::Malformed => self.marks.hit(Mark::FrameRefused),
            Loss::Foreign => self.marks.hit(Mark::ForeignMessage),
            _ => {}
        }
        self.see(Seen::Lost { copy: Some(copy), from, to, why: lost });
    }

    /// Something waits for the replica: now if its thread is free, else as soon as it is.
    pub(crate) fn poke(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let life = place.life;
        let Some(running) = place.running_mut() else { return };
        if running.pass_due {
            return;
        }
        if running.busy_until <= now {
            return self.pass(machine);
        }
        running.pass_due = true;
        let at = running.busy_until;
        self.queue.push(at, Event::Pass(machine, life));
    }

    /// The scheduled pass.
    pub(crate) fn scheduled_pass(&mut self, machine: Machine) {
        if let Some(running) = self.places[usize::from(machine.0)].running_mut() {
            running.pass_due = false;
            self.pass(machine);
        }
    }

    /// The replica's deadline, perhaps.
    pub(crate) fn wake(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let local = place.clock.read(now);
        let Some(running) = place.running_mut() else { return };
        if now < running.wake_at {
            // This one was scheduled before the time that counts was known, or has been overtaken.
            return;
        }
        running.wake_at = Time::NEVER;
        if running.replica.deadline() <= local {
            self.poke(machine);
        } else {
            self.schedule_wake(machine);
        }
    }

    /// Takes in all that waits, then carries out what that asks for.
    fn pass(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let local = place.clock.read(now);
        let costs = place.rng.span(Duration::from_micros(3), Duration::from_micros(60));
        let Some(running) = place.running_mut() else { return };
        running.busy_until = now + costs;
        let mut lanes = std::mem::take(&mut running.lanes);
        for input in lanes.own.drain(..) {
            running.replica.step(local, input);
        }
        for (copy, from, message) in lanes.messages.drain(..) {
            self.see(Seen::Delivered { copy, from, to: machine, message: &message });
            self.replica(machine).step(local, Input::Receive(message));
        }
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        for input in lanes.asked.drain(..) {
            running.replica.step(local, input);
        }
        if running.replica.deadline() <= local {
            running.replica.step(local, Input::Wake);
        }
        running.lanes = lanes;
        let work = running.replica.take_work();
        self.see(Seen::Stepped { machine });
        self.carry_out(machine, work);
    }

    fn replica(&mut self, machine: Machine) -> &mut Replica<Observed<A>> {
        let running = self.places[usize::from(machine.0)].running_mut();
        &mut running.expect("a pass is under way").replica
    }

    fn carry_out(&mut self, machine: Machine, work: Work<<A::State as StateMachine>::Reply>) {
        let at = usize::from(machine.0);
        for note in &work.notes {
            self.see(Seen::Note { machine, note });
        }
        if let Some(write) = work.write {
            self.see(Seen::WriteIssued { machine, write: &write });
            if write.truncate_from.is_some() {
                self.marks.hit(Mark::LogTruncated);
            }
            if write.snapshots.iter().any(|it| matches!(it, SnapshotWrite::Install(_))) {
                self.marks.hit(Mark::SnapshotInstalled);
            }
            if let Some(running) = self.places[at].running_mut() {
                running.log.waiting.push(write);
            }
            self.run_log(machine);
        }
        self.tell_applied(machine);
        self.note_role(machine);
        for message in work.send {
            self.send(machine, &message);
        }
        if let Some(running) = self.places[at].running_mut() {
            let idle = running.reading.is_empty();
            running.reading.extend(work.chunks.into_iter().map(ReadJob::Chunk));
            running.reading.extend(work.restore.map(ReadJob::Piece));
            if idle && !running.reading.is_empty() {
                self.schedule_read(machine);
            }
        }
        if let Some(order) = work.snapshot {
            let position = order.position;
            self.see(Seen::SnapshotBegun { machine, position });
            if let Some(running) = self.places[at].running_mut() {
                let (membership, source) = (order.membership, order.source);
                running.writing =
                    Some(Writing { position, membership, source, writer: None, ended: false });
            }
            self.schedule_snapshot_step(machine, false);
        }
        for (id, outcome) in work.answers {
            let running = self.places[at].running_mut();
            if let Some(call) = running.and_then(|running| running.proposals.remove(&id)) {
                self.call_came(call, Came::Proposed(outcome), None);
            }
        }
        for (id, ready) in work.reads {
            let running = self.places[at].running_mut();
            if let Some(call) = running.and_then(|running| running.reads.remove(&id)) {
                self.call_came(call, Came::Barrier(ready), None);
            }
        }
        for (_, ended) in work.transfers {
            self.marks.hit(if ended.is_ok() { Mark::TransferDone } else { Mark::TransferFailed });
        }
        if let Some(why) = work.fault {
            return self.fail(machine, Exit::Restore(why));
        }
        let Some(running) = self.places[at].running_mut() else { return };
        if running.stopping && running.replica.is_over() {
            return self.exit(machine, Exit::Stopped);
        }
        let leader = running.replica.raft().leader();
        if leader != running.leader {
            running.leader = leader;
            let (changed, same): (Vec<_>, Vec<_>) =
                std::mem::take(&mut running.waiting).into_iter().partition(|it| it.1 != leader);
            running.waiting = same;
            for (call, _) in changed {
                self.call_came(call, Came::Waited, None);
            }
        }
        self.schedule_wake(machine);
    }

    fn schedule_wake(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let (life, clock, late) = (place.life, place.clock, place.late);
        let Some(running) = place.running_mut() else { return };
        let deadline = running.replica.deadline();
        if deadline <= clock.read(now) {
            return self.poke(machine);
        }
        let at = clock.when(deadline);
        if at < running.wake_at {
            let late = if late.is_zero() { late } else { place.rng.span(Duration::ZERO, late) };
            let Some(running) = place.running_mut() else { return };
            running.wake_at = at + late;
            self.queue.push(at + late, Event::Wake(machine, life));
        }
    }

    fn tell_applied(&mut self, machine: Machine) {
        let mut applied = std::mem::take(&mut self.applied);
        if let Some(running) = self.places[usize::from(machine.0)].running() {
            running.replica.state().take_steps(&mut applied);
        }
        for step in applied.drain(..) {
            match step {
                Step::Applied { at, command, reply, state } => {
                    let command = &command;
                    self.see(Seen::Applied { machine, at, command, reply, state });
                }
                Step::Restored { state } => {
                    let Some(running) = self.places[usize::from(machine.0)].running() else {
                        break;
                    };
                    let meta = running.replica.raft().log().snapshot().clone();
                    self.marks.hit(Mark::Restored);
                    self.see(Seen::Restored { machine, meta: &meta, state });
                }
                Step::Fault { at, what } => {
                    self.violate("application", format!("{machine} at {at}: {what}"));
                }
            }
        }
        self.applied = applied;
    }

    fn note_role(&mut self, machine: Machine) {
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let role = running.replica.raft().role_name();
        let committed = running.replica.raft().log().committed().0;
        let before = std::mem::replace(&mut running.role, role);
        self.counts.committed = self.counts.committed.max(committed);
        if before != role {
            match (before, role) {
                (_, RoleName::Leader) => {
                    self.counts.elections += 1;
                    self.marks.hit(Mark::Elected);
                }
                (RoleName::Leader, _) => self.marks.hit(Mark::SteppedDown),
                (RoleName::PreCandidate, RoleName::Follower) => {
                    self.marks.hit(Mark::PreVoteGivenUp);
                }
                (RoleName::Candidate, RoleName::Follower) => self.marks.hit(Mark::ElectionLost),
                _ => {}
            }
        }
    }

    fn send(&mut self, machine: Machine, message: &Message) {
        let at = usize::from(machine.0);
        let Some(running) = self.places[at].running() else { return };
        let mut frame = BytesMut::new();
        encode_frame(running.cluster, message, &mut frame);
        self.counts.messages += 1;
        self.see(Seen::Sent { machine, message, bytes: frame.len() });
        let Some(to) = self.home_of(message.to) else { return };
        match self.network.route(machine, to) {
            Route::Lost(why) => self.see(Seen::Lost { copy: None, from: machine, to, why }),
            Route::Arrives { after, again, corrupt } => {
                if let Some(again) = again {
                    self.marks.hit(Mark::MessageDoubled);
                    self.launch(machine, to, message, frame.clone(), again);
                }
                if corrupt {
                    let rng = &mut self.places[at].rng;
                    if rng.coin() {
                        let bit = rng.below(frame.len() as u64 * 8) as usize;
                        frame[bit / 8] ^= 1 << (bit % 8);
                    } else {
                        frame.truncate(rng.below(frame.len() as u64) as usize);
                    }
                }
                self.launch(machine, to, message, frame, after);
            }
        }
    }

    fn launch(
        &mut self,
        from: Machine,
        to: Machine,
        message: &Message,
        frame: BytesMut,
        after: Duration,
    ) {
        self.last_copy.0 += 1;
        let copy = self.last_copy;
        let arrives = self.now + after;
        self.see(Seen::Launched { copy, from, to, arrives, message });
        self.send_parcel(after, Parcel::Frame { copy, from, to, frame });
    }
}

/// The log's thread, the segment maker, and the snapshot threads.
impl<A: App> World<A> {
    fn sync_time(&mut self, machine: Machine) -> Duration {
        self.place(machine).disk.next_call_takes()
    }

    /// Begins what the log's thread has to do, if it is free.
    pub(crate) fn run_log(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let (local, life, clock) = (place.clock.read(now), place.life, place.clock);
        let Some(running) = place.running_mut() else { return };
        if running.log.running.is_some() {
            return;
        }
        if running.making.is_none()
            && let Some(job) = running.keeper.segment_job(local)
        {
            running.making = Some(job);
            let takes = self.sync_time(machine) * 2;
            self.later(takes, Event::SegmentDone(machine, life));
        }
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let due = running.keeper.is_due(local);
        let poked = std::mem::take(&mut running.log.poked);
        if poked || due || !running.log.waiting.is_empty() {
            running.log.running = Some(std::mem::take(&mut running.log.waiting));
            let takes = self.sync_time(machine);
            return self.later(takes, Event::LogDone(machine, life));
        }
        let at = clock.when(running.keeper.deadline()).max(now);
        if at < Time::NEVER && running.log.due_at.is_none_or(|due| at < due) {
            running.log.due_at = Some(at);
            self.queue.push(at, Event::LogDue(machine, life));
        }
    }

    /// The log's thread looks at the time.
    pub(crate) fn log_due(&mut self, machine: Machine) {
        let now = self.now;
        if let Some(running) = self.places[usize::from(machine.0)].running_mut()
            && running.log.due_at.is_some_and(|due| due <= now)
        {
            running.log.due_at = None;
            self.run_log(machine);
        }
    }

    /// The storage call has taken its time: now it happens.
    pub(crate) fn log_done(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let local = place.clock.read(now);
        let Some(running) = place.running_mut() else { return };
        let writes = running.log.running.take().expect("only what runs is done");
        match running.keeper.work(local, writes, false) {
            Ok(kept) => {
                for input in &kept.inputs {
                    match input {
                        Input::Room(false) => self.marks.hit(Mark::NoRoom),
                        Input::Room(true) => self.marks.hit(Mark::RoomAgain),
                        Input::InstallFailed(_) => self.marks.hit(Mark::InstallFailed),
                        _ => {}
                    }
                }
                let waits = !kept.inputs.is_empty();
                if let Some(running) = self.places[usize::from(machine.0)].running_mut() {
                    running.lanes.own.extend(kept.inputs);
                }
                if let Some((written, writes)) = kept.written {
                    if 1 < writes.len() {
                        self.marks.hit(Mark::GroupCommit);
                    }
                    let through = written.last;
                    self.see(Seen::Persisted { machine, through, writes: &writes });
                }
                self.run_log(machine);
                if waits {
                    self.poke(machine);
                }
            }
            Err(error) => self.fail(machine, exit_of(&error)),
        }
    }

    /// A segment has been made, or not.
    pub(crate) fn segment_done(&mut self, machine: Machine) {
        let now = self.now;
        let place = &mut self.places[usize::from(machine.0)];
        let local = place.clock.read(now);
        let Some(running) = place.running_mut() else { return };
        let job = running.making.take().expect("only what is being made is done");
        let made = job.run().map_err(|error| StorageError::io("the next segment", "make", error));
        running.keeper.adopt(local, made);
        running.log.poked = true;
        self.run_log(machine);
    }

    fn schedule_snapshot_step(&mut self, machine: Machine, syncs: bool) {
        let takes = if syncs { self.sync_time(machine) } else { Duration::ZERO };
        let place = self.place(machine);
        let life = place.life;
        let takes = takes
            + place.slow
            + place.rng.span(Duration::from_micros(20), Duration::from_micros(400));
        self.later(takes, Event::SnapshotStep(machine, life));
    }

    /// One piece of a snapshot is written, or its end.
    pub(crate) fn snapshot_step(&mut self, machine: Machine) {
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let Some(mut writing) = running.writing.take() else { return };
        let position = writing.position;
        let step = snapshot_piece(&running.snapshots, &mut writing);
        match step {
            Ok(None) => {
                running.writing = Some(writing);
                let ends = running.writing.as_ref().is_some_and(|it| it.ended);
                self.schedule_snapshot_step(machine, ends);
            }
            Ok(Some(meta)) => {
                running.lanes.own.push(Input::SnapshotWritten(meta.clone()));
                self.marks.hit(Mark::SnapshotTaken);
                self.see(Seen::SnapshotWritten { machine, meta: &meta });
                self.poke(machine);
            }
            Err(error) => {
                running.lanes.own.push(Input::SnapshotFailed(error.to_string()));
                self.marks.hit(Mark::SnapshotFailed);
                self.see(Seen::SnapshotFailed { machine, position });
                self.poke(machine);
            }
        }
    }

    fn schedule_read(&mut self, machine: Machine) {
        let place = self.place(machine);
        let life = place.life;
        let takes =
            place.slow + place.rng.span(Duration::from_micros(20), Duration::from_micros(400));
        self.later(takes, Event::ReadDone(machine, life));
    }

    /// A piece of a snapshot has been read.
    pub(crate) fn read_done(&mut self, machine: Machine) {
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let Some(job) = running.reading.pop_front() else { return };
        let input = match job {
            ReadJob::Chunk(request) => running.pieces.chunk(request),
            ReadJob::Piece(request) => running.pieces.piece(&request),
        };
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let more = !running.reading.is_empty();
        running.lanes.own.push(input);
        if more {
            self.schedule_read(machine);
        }
        self.poke(machine);
    }
}

/// The end of a process.
impl<A: App> World<A> {
    /// The disk refused: whoever waits is told that nobody can tell, then the process ends.
    fn fail(&mut self, machine: Machine, exit: Exit) {
        let local = self.local(machine);
        if let Some(running) = self.places[usize::from(machine.0)].running_mut() {
            running.replica.step(local, Input::Failed);
            let work = running.replica.take_work();
            self.carry_out(machine, work);
        }
        self.exit(machine, exit);
    }

    /// It is asked to stop: the replica answers whoever waits, then the process ends.
    pub(crate) fn stop(&mut self, machine: Machine) {
        let local = self.local(machine);
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else {
            return self.exit(machine, Exit::Stopped);
        };
        running.stopping = true;
        running.replica.step(local, Input::Stop);
        let work = running.replica.take_work();
        self.carry_out(machine, work);
    }

    /// The process ends by itself. What it wrote is still in the machine's memory.
    pub(crate) fn exit(&mut self, machine: Machine, exit: Exit) {
        let place = self.place(machine);
        if !place.is_up() {
            return;
        }
        if matches!(exit, Exit::Damage(_)) {
            place.lost = true;
            self.marks.hit(Mark::DamageFound);
        }
        match &exit {
            Exit::Storage(_) => self.marks.hit(Mark::StorageFailed),
            Exit::Foreign(_) => self.marks.hit(Mark::SwappedDiskRefused),
            _ => {}
        }
        self.see(Seen::Exited { machine, exit: &exit });
        self.end_process(machine);
        let place = self.place(machine);
        place.disk.end_life();
        // Whoever watches over it starts it again, unless that is no use.
        if matches!(exit, Exit::Storage(_) | Exit::Restore(_)) {
            let life = place.life;
            let after = place.rng.span(Duration::from_millis(200), Duration::from_secs(2));
            self.later(after, Event::Start(machine, life));
        }
    }

    /// The process dies in the middle of what it does: each storage call under way is carried out
    /// until the fuse is burnt.
    pub(crate) fn crash(&mut self, machine: Machine, fuse: u8, loss: CrashLoss) {
        if !self.place(machine).is_up() {
            return;
        }
        self.counts.crashes += 1;
        self.burn(machine, fuse);
        self.mark_crash(machine);
        self.see(Seen::Crashed { machine });
        self.end_process(machine);
        self.place(machine).disk.crash(match loss {
            CrashLoss::Nothing => Crash::Process,
            CrashLoss::Some => Crash::Power,
            CrashLoss::Garbage => Crash::PowerAndDamage,
        });
    }

    fn burn(&mut self, machine: Machine, fuse: u8) {
        let now = self.now;
        let knobs = self.plan.knobs.clone();
        let place = self.place(machine);
        let local = place.clock.read(now);
        let (salts, log_first) = (place.rng.bits(), place.rng.coin());
        place.disk.set_fuse(Some(u64::from(fuse)));
        match &mut place.process {
            Process::Down => {}
            Process::Opening => {
                // Recovery itself is cut short.
                let name = format!("node{}", machine.0 + 1);
                let random = Place::<A>::fresh_id(machine, place.wipes);
                if let Ok(dir) = DataDir::open(place.disk.handle(), Some(&name), random)
                    && dir.meta().cluster.is_some()
                {
                    let options = storage_options(&knobs, salts);
                    let _ = Storage::open(Arc::clone(dir.disk()), dir.meta(), options);
                }
            }
            Process::Forming(process) => {
                if let Some(membership) = &process.decided {
                    let _ = form(&mut process.dir, membership, &storage_options(&knobs, salts));
                }
            }
            Process::Running(running) => {
                let Running { keeper, log, making, snapshots, writing, .. } = &mut **running;
                let mut run_log = || {
                    if let Some(writes) = log.running.take() {
                        let _ = keeper.work(local, writes, false);
                    }
                };
                if log_first {
                    run_log();
                }
                if let Some(job) = making.take() {
                    let _ = job.run();
                }
                if let Some(writing) = writing {
                    let _ = snapshot_piece(snapshots, writing);
                }
                if !log_first {
                    run_log();
                }
            }
        }
        let blown = place.disk.fuse_blown();
        place.disk.set_fuse(None);
        if blown {
            self.marks.hit(Mark::CrashInStorageCall);
        }
    }

    fn mark_crash(&mut self, machine: Machine) {
        let mark = match &self.place(machine).process {
            Process::Opening => Some(Mark::CrashInRecovery),
            Process::Forming(_) => Some(Mark::CrashInForming),
            Process::Running(running) => {
                let raft = running.replica.raft();
                let unsynced = raft.log().durable() < raft.log().last().index;
                if running.replica.is_restoring() {
                    Some(Mark::CrashInRestore)
                } else if running.writing.is_some() {
                    Some(Mark::CrashInSnapshot)
                } else if raft.role_name() == RoleName::Leader && unsynced {
                    Some(Mark::LeaderCrashedBeforeSync)
                } else if raft.role_name() == RoleName::Candidate {
                    Some(Mark::CandidateCrashed)
                } else {
                    None
                }
            }
            Process::Down => None,
        };
        if let Some(mark) = mark {
            self.marks.hit(mark);
        }
    }

    /// What is the same however a process ends: connections break, its calls are gone, peers notice.
    fn end_process(&mut self, machine: Machine) {
        let place = self.place(machine);
        let id = place.id;
        place.life += 1;
        place.process = Process::Down;
        place.still_until = Time(0);
        self.drop_calls(machine);
        for other in (0..self.plan.machines()).map(Machine).filter(|other| *other != machine) {
            if self.network.is_open(machine, other) && self.network.is_open(other, machine) {
                let after = self.rng.span(Duration::from_millis(1), Duration::from_millis(30));
                self.send_parcel(after, Parcel::PeerDown { to: other, of: machine, node: id });
            }
        }
    }

    /// Somebody noticed that a peer's process is gone.
    pub(crate) fn peer_down(&mut self, to: Machine, of: Machine, node: NodeId) {
        if !self.place(of).is_up()
            && let Some(running) = self.place(to).running_mut()
        {
            running.lanes.asked.push(Input::PeerDown(node));
            self.poke(to);
        }
    }

    /// An operator's order for the node, if one runs there.
    pub(crate) fn order(&mut self, machine: Machine, order: impl FnOnce(OrderId) -> Input) {
        if let Some(running) = self.place(machine).running_mut() {
            let id = OrderId(running.next_id());
            running.lanes.asked.push(order(id));
            self.poke(machine);
        }
    }
}

/// One step of writing a snapshot: its beginning, a piece, or its end (with the meta).
fn snapshot_piece(
    snapshots: &Snapshots,
    writing: &mut Writing,
) -> Result<Option<SnapshotMeta>, StorageError> {
    let Some(writer) = &mut writing.writer else {
        writing.writer = Some(snapshots.writer(writing.position, &writing.membership)?);
        return Ok(None);
    };
    if writing.ended {
        let writer = writing.writer.take().expect("it was just there");
        return writer.finish().map(Some);
    }
    match writing.source.next_piece() {
        Some(piece) => writer.piece(&piece)?,
        None => writing.ended = true,
    }
    Ok(None)
}

/// Why a process that got this error ends.
fn exit_of(error: &StorageError) -> Exit {
    let text = error.to_string();
    match error {
        StorageError::Damage { .. } => Exit::Damage(text),
        StorageError::Locked { .. } => Exit::Locked,
        StorageError::WrongName { .. }
        | StorageError::ForeignNode { .. }
        | StorageError::ForeignCluster { .. } => Exit::Foreign(text),
        _ => Exit::Storage(text),
    }
}
