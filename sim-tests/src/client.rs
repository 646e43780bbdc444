//! Clients and the path of their requests through nodes.
//!
//! A client asks one thing after the other, on a connection to some machine; when nobody listens
//! there it turns to the next. What it does not hear back from it must take for unknown. A node
//! carries a request with the application's own [`Call`]; between nodes it travels like any other
//! parcel and can be lost, late, or cut off.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use raft_core::consensus::event::Refusal;
use raft_core::proposals::{Outcome, ReadRefused, UnknownCause};
use raft_core::replica::Input;
use raft_core::types::{Index, NodeId, ProposalId, ReadId, Time};

use crate::app::{App, Call, Came, Fate, Todo};
use crate::marks::Mark;
use crate::plan::{ClientOp, Machine};
use crate::queue::Event;
use crate::trace::{OpEnd, OpId, Seen};
use crate::world::{Parcel, World};

/// Names a call of the world: a request on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(pub(crate) u64);

/// Who asked for a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// A client, with this operation.
    Client(u8, OpId),
    /// A node that forwards, with this call of its own.
    Node(Machine, CallId),
}

/// A request on a node.
pub(crate) struct ActiveCall<A: App> {
    pub(crate) machine: Machine,
    call: A::Call,
    origin: Origin,
    /// In the node's own time.
    deadline: Time,
    stage: Stage,
    /// The index it took effect at, or was read at.
    index: Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In the replica.
    Asked,
    /// On another node, until this time of the world.
    Forwarded(Time),
    /// Until this time of the world.
    Waiting(Time),
}

/// A client.
pub(crate) struct Client<A: App> {
    /// What comes next.
    queue: VecDeque<ClientOp>,
    open: Option<Open<A>>,
    /// Whom it asks.
    target: Machine,
    /// The last answer about each key.
    last: BTreeMap<u16, A::Answer>,
}

/// An operation under way.
struct Open<A: App> {
    op: OpId,
    planned: ClientOp,
    request: A::Request,
    /// How many machines did not listen.
    refused: u8,
}

/// What a client hears back.
#[derive(Clone, Debug)]
pub(crate) enum Heard<A: App> {
    /// The node's answer, and the index it took effect at.
    Answer(A::Answer, Index),
    /// The connection broke after the request had left.
    Broken,
    /// Nobody listens there.
    Refused,
}

/// Operations that wait their turn; beyond it they are not asked.
const QUEUE_MAX: usize = 16;

/// How much longer than its patience a client waits for an answer.
const GRACE: Duration = Duration::from_millis(500);

impl<A: App> Client<A> {
    pub(crate) fn new(target: Machine) -> Client<A> {
        Client { queue: VecDeque::new(), open: None, target, last: BTreeMap::new() }
    }

    /// Whether nothing is under way or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_none() && self.queue.is_empty()
    }

    /// Drops what waits its turn.
    pub(crate) fn forget_queue(&mut self) {
        self.queue.clear();
    }

    /// From now on it asks this one.
    pub(crate) fn turn_to(&mut self, machine: Machine) {
        self.target = machine;
    }
}

/// The clients' side.
impl<A: App> World<A> {
    /// A line of the plan comes due.
    pub(crate) fn op_due(&mut self, op: ClientOp) {
        let client = usize::from(op.client);
        if QUEUE_MAX <= self.clients[client].queue.len() {
            return;
        }
        self.clients[client].queue.push_back(op);
        self.begin_op(op.client);
    }

    /// Begins what comes next, if nothing is under way.
    pub(crate) fn begin_op(&mut self, number: u8) {
        let client = &mut self.clients[usize::from(number)];
        if client.open.is_some() {
            return;
        }
        let Some(planned) = client.queue.pop_front() else { return };
        let op = OpId(self.counts.ops as u32);
        self.counts.ops += 1;
        if let Some(via) = planned.via {
            client.target = via;
        }
        let to = client.target;
        let request = A::request(&planned, op, client.last.get(&planned.key));
        let open = Open { op, planned, request: request.clone(), refused: 0 };
        client.open = Some(open);
        self.see(Seen::OpBegun { op, planned: &planned, to, request: &request });
        self.later(planned.patience + GRACE, Event::GiveUp(number, op.0));
        self.ask(number);
    }

    fn ask(&mut self, number: u8) {
        let client = &self.clients[usize::from(number)];
        let Some(open) = &client.open else { return };
        let (op, to) = (open.op, client.target);
        let (request, patience) = (open.request.clone(), open.planned.patience);
        let way = self.client_way();
        self.send_parcel(way, Parcel::Request { client: number, op, to, request, patience });
    }

    fn client_way(&mut self) -> Duration {
        self.rng.span(Duration::from_micros(50), Duration::from_micros(400))
    }

    /// A request has reached its machine.
    pub(crate) fn request_arrived(
        &mut self,
        client: u8,
        op: OpId,
        to: Machine,
        request: A::Request,
        patience: Duration,
    ) {
        if self.place(to).running().is_none() {
            self.marks.hit(Mark::ConnectionRefused);
            return self.tell_client(client, op, to, Heard::Refused);
        }
        let deadline = self.local(to) + patience;
        self.begin_call(to, request, deadline, 0, Origin::Client(client, op));
    }

    fn tell_client(&mut self, client: u8, op: OpId, from: Machine, heard: Heard<A>) {
        if self.place(from).deaf && !matches!(heard, Heard::Refused) {
            return self.marks.hit(Mark::AnswerLost);
        }
        let way = self.client_way();
        self.send_parcel(way, Parcel::Reply { client, op, heard });
    }

    /// A client hears something.
    pub(crate) fn heard(&mut self, number: u8, op: OpId, heard: Heard<A>) {
        let machines = self.plan.machines();
        let client = &mut self.clients[usize::from(number)];
        let Some(open) = client.open.as_mut().filter(|open| open.op == op) else { return };
        let next = Machine((client.target.0 + 1) % machines);
        match heard {
            Heard::Refused => {
                // Nothing was sent: the next one may be asked without any doubt.
                client.target = next;
                open.refused += 1;
                if open.refused < machines {
                    return self.ask(number);
                }
                self.end_op(number, OpEnd::NotApplied);
            }
            Heard::Broken => {
                client.target = next;
                self.end_op(number, OpEnd::Unknown);
            }
            Heard::Answer(answer, index) => match A::fate(&answer) {
                Fate::Answered => {
                    if A::is_refusal(&answer) {
                        self.marks.hit(Mark::ConditionFailed);
                    }
                    client.last.insert(open.planned.key, answer.clone());
                    self.end_op(number, OpEnd::Answered { answer, index });
                }
                Fate::NotApplied => {
                    client.target = next;
                    self.end_op(number, OpEnd::NotApplied);
                }
                Fate::Unknown => self.end_op(number, OpEnd::Unknown),
            },
        }
    }

    /// A client has waited long enough.
    pub(crate) fn give_up(&mut self, number: u8, op: OpId) {
        let machines = self.plan.machines();
        let client = &mut self.clients[usize::from(number)];
        if client.open.as_ref().is_some_and(|open| open.op == op) {
            client.target = Machine((client.target.0 + 1) % machines);
            self.end_op(number, OpEnd::Unknown);
        }
    }

    fn end_op(&mut self, number: u8, end: OpEnd<A>) {
        let client = &mut self.clients[usize::from(number)];
        let open = client.open.take().expect("what ends is open");
        let is_write = A::is_write(&open.request);
        // A read that failed changes nothing, however it failed.
        let end = match end {
            OpEnd::Unknown if !is_write => OpEnd::NotApplied,
            end => end,
        };
        match &end {
            OpEnd::Answered { .. } if is_write => self.counts.writes_acknowledged += 1,
            OpEnd::NotApplied if is_write => self.marks.hit(Mark::WriteNotApplied),
            OpEnd::Unknown => self.marks.hit(Mark::WriteUnknown),
            _ => {}
        }
        self.op_ended(number, matches!(end, OpEnd::Answered { .. }));
        self.see(Seen::OpEnded { op: open.op, client: number, end: &end });
        self.begin_op(number);
    }
}

/// How long reads gather that would only wait for the end of a round; as in the daemon.
const GATHER: Duration = Duration::from_millis(1);

/// The nodes' side.
impl<A: App> World<A> {
    fn begin_call(
        &mut self,
        machine: Machine,
        request: A::Request,
        deadline: Time,
        hops: u8,
        origin: Origin,
    ) {
        self.last_call.0 += 1;
        let id = self.last_call;
        let call = A::Call::new(request, deadline, hops);
        let index = Index(0);
        let stage = Stage::Asked;
        self.calls.insert(id, ActiveCall { machine, call, origin, deadline, stage, index });
        self.call_came(id, Came::Begin, None);
    }

    /// A call takes its next step.
    pub(crate) fn call_came(&mut self, id: CallId, came: Came<A>, index: Option<Index>) {
        let Some(active) = self.calls.get_mut(&id) else { return };
        let machine = active.machine;
        let place = &mut self.places[usize::from(machine.0)];
        let (local, life_id) = (place.clock.read(self.now), place.id);
        let Some(running) = place.running_mut() else { return };
        if let Some(index) = index {
            active.index = index;
        }
        match &came {
            Came::Proposed(Outcome::Applied { at, .. }) => active.index = at.index,
            came => mark(&mut self.marks, came),
        }
        let view = running.view(life_id);
        match active.call.step(local, &view, came) {
            Todo::Propose(command) => {
                active.stage = Stage::Asked;
                let proposal = ProposalId(running.next_id());
                running.proposals.insert(proposal, id);
                let deadline = active.deadline;
                running.lanes.asked.push(Input::Propose { id: proposal, command, deadline });
                self.poke(machine);
            }
            Todo::Barrier => {
                active.stage = Stage::Asked;
                let read = ReadId(running.next_id());
                running.reads.insert(read, id);
                running.lanes.asked.push(Input::Read { id: read, deadline: active.deadline });
                if running.replica.raft().confirms_reads() {
                    // It would only wait inside: it gathers at the door with others.
                    self.queue.push(self.now + GATHER, Event::Pass(machine, place.life));
                } else {
                    self.poke(machine);
                }
            }
            Todo::Read => {
                if view.leader != Some(life_id) {
                    self.marks.hit(Mark::FollowerRead);
                }
                active.index = running.replica.applied();
                let answer = active.call.read(running.replica.state().inner());
                self.end_call(id, answer);
            }
            Todo::Forward { to, hops } => self.forward(id, to, hops),
            Todo::WaitForLeader { until } => {
                self.marks.hit(Mark::WaitedForLeader);
                running.waiting.push((id, view.leader));
                let until = place.clock.when(until).max(self.now);
                active.stage = Stage::Waiting(until);
                self.queue.push(until, Event::CallDue(id));
            }
            Todo::End(answer) => self.end_call(id, answer),
        }
    }

    /// A call's wait or its deadline, perhaps.
    pub(crate) fn call_due(&mut self, id: CallId) {
        let Some(active) = self.calls.get(&id) else { return };
        match active.stage {
            Stage::Waiting(until) if until <= self.now => {
                let machine = active.machine;
                if let Some(running) = self.place(machine).running_mut() {
                    running.waiting.retain(|(call, _)| *call != id);
                }
                self.call_came(id, Came::Waited, None);
            }
            Stage::Forwarded(until) if until <= self.now => {
                self.call_came(id, Came::DeadlinePassed, None);
            }
            _ => {}
        }
    }

    fn end_call(&mut self, id: CallId, answer: A::Answer) {
        let active = self.calls.remove(&id).expect("what ends was there");
        let ActiveCall { machine, origin, index, .. } = active;
        match origin {
            Origin::Client(client, op) => {
                self.tell_client(client, op, machine, Heard::Answer(answer, index));
            }
            Origin::Node(home, call) => {
                let answer = A::carry_answer(answer);
                let end = Parcel::ForwardEnd { call, heard: Heard::Answer(answer, index) };
                if !self.post(machine, home, end) {
                    self.forward_broke(home, call, machine);
                }
            }
        }
    }

    fn forward(&mut self, id: CallId, to: NodeId, hops: u8) {
        let Some(home) = self.home_of(to) else {
            return self.call_came(id, Came::NothingSent, None);
        };
        let Some(active) = self.calls.get_mut(&id) else { return };
        let (from, request) = (active.machine, active.call.request().clone());
        let place = &self.places[usize::from(from.0)];
        let until = place.clock.when(active.deadline);
        active.stage = Stage::Forwarded(until);
        let patience = active.deadline.since(place.clock.read(self.now));
        self.marks.hit(if hops < 2 { Mark::Forwarded } else { Mark::ForwardedTwice });
        self.queue.push(until, Event::CallDue(id));
        let request = A::carry_request(request);
        let parcel =
            Parcel::Forward { call: id, from, to: home, node: to, request, hops, patience };
        if !self.post(from, home, parcel) {
            self.forward_broke(from, id, home);
        }
    }

    /// A part of a forwarded request got lost: where packets still pass the connection breaks, else
    /// nobody hears anything until the deadline.
    fn forward_broke(&mut self, home: Machine, call: CallId, from: Machine) {
        if self.network.is_open(from, home) {
            let after = self.rng.span(Duration::from_millis(1), Duration::from_millis(200));
            self.send_parcel(after, Parcel::ForwardEnd { call, heard: Heard::Broken });
        }
    }

    /// A forwarded request is here.
    pub(crate) fn forward_arrived(
        &mut self,
        call: CallId,
        from: Machine,
        to: Machine,
        node: NodeId,
        request: A::Request,
        (hops, patience): (u8, Duration),
    ) {
        let place = self.place(to);
        if place.running().is_none() || place.id != node {
            // Refused before a byte was sent, if there was no connection yet.
            let heard = if self.rng.coin() { Heard::Refused } else { Heard::Broken };
            self.post(to, from, Parcel::ForwardEnd { call, heard });
            return;
        }
        let deadline = self.local(to) + patience;
        self.begin_call(to, request, deadline, hops, Origin::Node(from, call));
    }

    /// A forwarded request has ended.
    pub(crate) fn forward_ended(&mut self, call: CallId, heard: Heard<A>) {
        let is_forwarded = |active: &ActiveCall<A>| matches!(active.stage, Stage::Forwarded(_));
        if !self.calls.get(&call).is_some_and(is_forwarded) {
            return;
        }
        match heard {
            Heard::Answer(answer, index) => {
                self.call_came(call, Came::Forwarded(answer), Some(index));
            }
            Heard::Broken => self.call_came(call, Came::Broken, None),
            Heard::Refused => self.call_came(call, Came::NothingSent, None),
        }
    }

    /// A process ended: its calls are gone, and whoever is connected notices.
    pub(crate) fn drop_calls(&mut self, machine: Machine) {
        let mut gone = Vec::new();
        self.calls.retain(|_, active| {
            let stays = active.machine != machine;
            if !stays {
                gone.push(active.origin);
            }
            stays
        });
        for origin in gone {
            match origin {
                Origin::Client(client, op) => {
                    self.tell_client(client, op, machine, Heard::Broken);
                }
                Origin::Node(home, call) => {
                    self.forward_broke(home, call, machine);
                }
            }
        }
    }
}

fn mark<A: App>(marks: &mut crate::marks::Marks, came: &Came<A>) {
    let mark = match came {
        Came::Proposed(Outcome::NotApplied) => Mark::ProposalDisplaced,
        Came::Proposed(Outcome::Unknown(UnknownCause::SnapshotJump)) => Mark::ProposalJumped,
        Came::Proposed(Outcome::Unknown(UnknownCause::Deadline)) | Came::DeadlinePassed => {
            Mark::DeadlinePassed
        }
        Came::Proposed(Outcome::Refused(Refusal::NoSpace)) => Mark::RefusedNoSpace,
        Came::Proposed(Outcome::Refused(Refusal::Busy)) | Came::Barrier(Err(ReadRefused::Busy)) => {
            Mark::RefusedBusy
        }
        Came::Broken => Mark::ForwardBroken,
        _ => return,
    };
    marks.hit(mark);
}
