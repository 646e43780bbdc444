//! The world: machines, network, clients and faults on one line of time.
//!
//! One thread and one heap of events, ordered by (virtual time, seeded tie-break, sequence). The
//! world jumps from event to event; nothing ticks. A run is a function of its plan: the same plan
//! gives the same [`Report`], hash included.

use raft_core::replica::Replica;
use raft_core::types::{NodeId, Time};

use crate::app::App;
use crate::observed::Observed;
use crate::plan::{Machine, Plan};
use crate::trace::{Violation, Watch};

/// A run about to begin.
pub struct World<A: App> {
    plan: Plan,
    machines: Vec<Place<A>>,
    watches: Vec<Box<dyn Watch<A>>>,
}

/// A machine: a place with a disk, and the process that runs on it, if one does.
pub(crate) struct Place<A: App> {
    pub(crate) id: NodeId,
    pub(crate) replica: Option<Replica<Observed<A>>>,
}

/// What watchers may look at while something happens.
pub struct View<'a, A: App> {
    plan: &'a Plan,
    machines: &'a [Place<A>],
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
    /// Which rare things happened; see `marks.rs`.
    pub marks: crate::marks::Marks,
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

impl<A: App> World<A> {
    /// A world for this plan.
    pub fn new(plan: Plan) -> World<A> {
        World { plan, machines: Vec::new(), watches: Vec::new() }
    }

    /// Somebody more to watch; the first one is asked first.
    pub fn watch(&mut self, watch: impl Watch<A> + 'static) {
        self.watches.push(Box::new(watch));
    }

    /// Runs the plan to its end, or to the first broken rule.
    pub fn run(self) -> Report {
        unimplemented!("in the next commit")
    }
}

impl<'a, A: App> View<'a, A> {
    /// The plan of the run.
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// The machines, in order.
    pub fn machines(&self) -> impl Iterator<Item = Machine> + use<A> {
        (0..self.machines.len() as u8).map(Machine)
    }

    /// The id of the disk in this machine; 0 before it first started.
    pub fn node(&self, machine: Machine) -> NodeId {
        self.machines[usize::from(machine.0)].id
    }

    /// The machine whose disk has this id, if any has.
    pub fn machine_of(&self, node: NodeId) -> Option<Machine> {
        let at = self.machines.iter().position(|place| place.id == node)?;
        Some(Machine(at as u8))
    }

    /// The replica that runs there: its core with `raft()`, its state with [`View::state`]. `None`
    /// while no process runs there or it is forming.
    pub fn replica(&self, machine: Machine) -> Option<&'a Replica<Observed<A>>> {
        self.machines[usize::from(machine.0)].replica.as_ref()
    }

    /// The application's state there.
    pub fn state(&self, machine: Machine) -> Option<&'a A::State> {
        self.replica(machine).map(|replica| replica.state().inner())
    }
}
