//! Moments too short for chance: an ambush waits until a process is in one, and strikes then.
//!
//! Looked at after every event, but only while an ambush waits. Nothing here decides what a blow
//! does: a crash is a crash, rot is rot.

use raft_core::consensus::event::RoleName;
use raft_core::replica::Input;
use raft_core::write::{SnapshotWrite, Write};

use crate::app::App;
use crate::plan::{Blow, Fault, Machine, Moment, Place as Area};
use crate::trace::Seen;
use crate::world::World;

use super::{Place, Process, ReadJob, Running};

impl<A: App> World<A> {
    /// Strikes wherever the moment has come.
    pub(crate) fn spring_ambushes(&mut self) {
        for number in self.ambushes.clone() {
            let fault = self.plan.faults[number].what;
            let Fault::Ambush { target, moment, blow, .. } = fault else { continue };
            let there = |machine: &Machine| self.places[usize::from(machine.0)].is_at(moment);
            let Some(machine) = self.find(target).filter(there) else { continue };
            self.ambushes.retain(|waiting| *waiting != number);
            self.see(Seen::Fault { number, fault: &fault, on: Some(machine) });
            match blow {
                Blow::Crash { down, fuse, loss } => self.crash_for(machine, down, fuse, loss),
                Blow::Rot(rot) => self.rot(machine, rot, Area::Snapshot),
            }
        }
    }
}

impl<A: App> Place<A> {
    fn is_at(&self, moment: Moment) -> bool {
        match &self.process {
            Process::Opening => moment == Moment::Recovering,
            Process::Forming(process) => moment == Moment::Forming && process.decided.is_some(),
            Process::Running(running) => running.is_at(moment),
            Process::Down => false,
        }
    }
}

impl<A: App> Running<A> {
    fn is_at(&self, moment: Moment) -> bool {
        let raft = self.replica.raft();
        let (log, leads) = (raft.log(), raft.role_name() == RoleName::Leader);
        match moment {
            Moment::Recovering | Moment::Forming => false,
            Moment::Campaigning => raft.role_name() == RoleName::Candidate,
            Moment::Crowned => leads && log.term_at(log.durable()) != Some(raft.term()),
            Moment::Synced => self.lanes.own.iter().any(|it| matches!(it, Input::Persisted(_))),
            Moment::Voting => {
                let votes = |write: &Write| write.hard_state.is_some_and(|it| it.vote.is_some());
                self.unsynced().any(votes)
            }
            Moment::Restoring => self.replica.is_restoring(),
            Moment::Snapshotting => self.writing.is_some(),
            Moment::Receiving => self.unsynced().flat_map(|write| &write.snapshots).any(|it| {
                matches!(it, SnapshotWrite::Chunk { offset: 1.., .. } | SnapshotWrite::Install(_))
            }),
            Moment::Sending => {
                let later = |job: &ReadJob| matches!(job, ReadJob::Chunk(it) if 0 < it.offset);
                self.reading.iter().any(later)
            }
        }
    }

    /// What was handed to the log and is not synced.
    fn unsynced(&self) -> impl Iterator<Item = &Write> {
        self.log.running.iter().flatten().chain(&self.log.waiting)
    }
}
