//! What is on its way between places: frames of replicas, hellos, clients' requests and answers.

use std::time::Duration;

use bytes::BytesMut;
use raft_core::types::{NodeId, Time};

use super::World;
use crate::app::App;
use crate::client::{CallId, Heard};
use crate::network::Route;
use crate::plan::Machine;
use crate::queue::Event;
use crate::trace::{CopyId, OpId};

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

/// Sending.
impl<A: App> World<A> {
    /// What was sent is there.
    pub(super) fn arrive(&mut self, number: u32) {
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
