//! What watchers may look at while something happens. Nobody changes anything through it.

use raft_core::replica::Replica;
use raft_core::storage::StorageStats;
use raft_core::types::NodeId;

use crate::app::App;
use crate::disk::SimDisk;
use crate::node::Place;
use crate::observed::Observed;
use crate::plan::{Machine, Plan};

/// What watchers may look at while something happens.
pub struct View<'a, A: App> {
    pub(super) plan: &'a Plan,
    pub(super) places: &'a [Place<A>],
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

    /// What the storage of the process there says of itself.
    pub fn storage(&self, machine: Machine) -> Option<StorageStats> {
        self.places[usize::from(machine.0)].running().map(|running| running.storage())
    }

    /// How many inputs and writes wait in the process there.
    pub fn backlog(&self, machine: Machine) -> usize {
        self.places[usize::from(machine.0)].running().map_or(0, |running| running.backlog())
    }
}
