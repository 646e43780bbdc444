//! The end of a process: by itself, because it was told to, or in the middle of a storage call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::consensus::event::RoleName;
use raft_core::node::form;
use raft_core::replica::{Input, OrderId};
use raft_core::storage::Storage;
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::DataDir;
use raft_core::types::{NodeId, ProposalId, ReadId, Time};

use crate::app::App;
use crate::disk::Crash;
use crate::marks::Mark;
use crate::plan::{CrashLoss, Machine, Origin};
use crate::queue::Event;
use crate::trace::{Exit, Seen};
use crate::world::{Parcel, World};

use super::start::storage_options;
use super::storage::snapshot_piece;
use super::{Place, Process, Running};

/// How long a leader that stops waits for another to take over; the daemon's own patience.
const HANDOVER: Duration = Duration::from_secs(1);

/// How long a node that stops waits for its last writes; the daemon's own patience.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// The end of a process.
impl<A: App> World<A> {
    /// The disk refused: whoever waits is told that nobody can tell, then the process ends.
    pub(super) fn fail(&mut self, machine: Machine, exit: Exit) {
        let local = self.local(machine);
        if let Some(running) = self.places[usize::from(machine.0)].running_mut() {
            running.replica.step(local, Input::Failed);
            let work = running.replica.take_work();
            self.carry_out(machine, work);
        }
        self.exit(machine, exit);
    }

    /// It is asked to stop, and starts again later. As the daemon does, a leader hands over first.
    pub(crate) fn stop(&mut self, machine: Machine, down: Duration) {
        let place = self.place(machine);
        let life = place.life;
        let Some(running) = place.running_mut() else {
            self.exit(machine, Exit::Stopped);
            return self.restart(machine, down);
        };
        if running.leaving.replace(down).is_some() {
            return;
        }
        let raft = running.replica.raft();
        let alone = raft.log().membership().voters().len() < 2;
        if raft.role_name() != RoleName::Leader || alone {
            return self.leave(machine);
        }
        self.order(machine, |id| Input::Transfer { id, to: None });
        self.later(HANDOVER, Event::Leave(machine, life));
    }

    /// Nobody is let in any more; what is under way is synced and answered as far as it can be.
    pub(crate) fn leave(&mut self, machine: Machine) {
        let (now, local) = (self.now, self.local(machine));
        let place = &mut self.places[usize::from(machine.0)];
        let life = place.life;
        let Some(running) = place.running_mut() else { return };
        match running.stop_by {
            None => {
                running.stop_by = Some(now + STOP_PATIENCE);
                let drained = running.is_drained(local);
                self.later(STOP_PATIENCE, Event::Leave(machine, life));
                if drained {
                    self.end_replica(machine);
                }
            }
            Some(stop_by) if stop_by <= now => self.end_replica(machine),
            Some(_) => {}
        }
    }

    /// The replica answers whoever waits, then the process ends.
    pub(super) fn end_replica(&mut self, machine: Machine) {
        let local = self.local(machine);
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        running.replica.step(local, Input::Stop);
        // Who asks while it stops gets an answer too: what waits, and who comes at the last moment.
        let (id, deadline) = (OrderId(running.next_id()), Time::NEVER);
        let late = [
            Input::SnapshotNow { id },
            Input::Transfer { id, to: None },
            Input::Read { id: ReadId(running.next_id()), deadline },
            Input::Propose { id: ProposalId(running.next_id()), command: Bytes::new(), deadline },
        ];
        for input in std::mem::take(&mut running.lanes.asked).into_iter().chain(late) {
            running.replica.step(local, input);
        }
        let work = running.replica.take_work();
        self.carry_out(machine, work);
    }

    /// The process ends by itself. What it wrote is still in the machine's memory.
    pub(crate) fn exit(&mut self, machine: Machine, exit: Exit) {
        let place = self.place(machine);
        if !place.is_up() {
            return;
        }
        let wrong = place.disk.wrong().map(|wrong| wrong.origin);
        // What is wrong with a file that somebody put there is over when he takes it away.
        place.lost |= matches!(exit, Exit::Damage(_)) && wrong.is_none();
        match (&exit, wrong) {
            (Exit::Damage(_), None) => self.marks.hit(Mark::DamageFound),
            (Exit::Damage(_), Some(_)) => self.marks.hit(Mark::NonsenseRefused),
            (Exit::Storage(_), _) => self.marks.hit(Mark::StorageFailed),
            (Exit::Foreign(_), None) => self.marks.hit(Mark::SwappedDiskRefused),
            (Exit::Foreign(_), Some(Origin::Machine(_))) => {
                self.marks.hit(Mark::OtherNodesFileRefused);
            }
            (Exit::Foreign(_), Some(_)) => self.marks.hit(Mark::OtherClustersFileRefused),
            (Exit::Newer(_), _) => self.marks.hit(Mark::NewerFileRefused),
            _ => {}
        }
        if matches!(exit, Exit::Stopped) {
            self.close_log(machine);
        }
        self.see(Seen::Exited { machine, exit: &exit });
        let left = self.place(machine).running().and_then(|running| running.leaving);
        self.end_process(machine);
        let place = self.place(machine);
        place.disk.end_life();
        if let Some(down) = left {
            return self.restart(machine, down);
        }
        // Whoever watches over it starts it again, unless that is no use.
        if matches!(exit, Exit::Storage(_) | Exit::Restore(_)) {
            let life = place.life;
            let after = place.rng.span(Duration::from_millis(200), Duration::from_secs(2));
            self.later(after, Event::Start(machine, life));
        }
    }

    /// The last thing in an orderly end: the log's thread writes what waits, and proves it.
    fn close_log(&mut self, machine: Machine) {
        let local = self.local(machine);
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        let mut writes = running.log.running.take().unwrap_or_default();
        writes.append(&mut running.log.waiting);
        // Every start copes with a log that was not closed.
        if let Ok(kept) = running.keeper.work(local, writes, true)
            && let Some((written, writes)) = kept.written
        {
            self.see(Seen::Persisted { machine, through: written.last, writes: &writes });
        }
    }

    /// The process dies and starts again after a while.
    pub(crate) fn crash_for(
        &mut self,
        machine: Machine,
        down: Duration,
        fuse: u8,
        loss: CrashLoss,
    ) {
        self.crash(machine, fuse, loss);
        self.place(machine).lost |= loss == CrashLoss::Garbage;
        self.restart(machine, down);
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
                let Running { keeper, log, making, removing, snapshots, writing, .. } =
                    &mut **running;
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
                if let Some(job) = removing.take() {
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
        let mut marks = self.marks;
        match &self.place(machine).process {
            Process::Opening => marks.hit(Mark::CrashInRecovery),
            Process::Forming(_) => marks.hit(Mark::CrashInForming),
            Process::Running(running) => {
                let raft = running.replica.raft();
                let unsynced = raft.log().durable() < raft.log().last().index;
                if running.replica.is_restoring() {
                    marks.hit(Mark::CrashInRestore);
                }
                if running.writing.is_some() {
                    marks.hit(Mark::CrashInSnapshot);
                }
                if raft.role_name() == RoleName::Leader && unsynced {
                    marks.hit(Mark::LeaderCrashedBeforeSync);
                }
                if raft.role_name() == RoleName::Candidate {
                    marks.hit(Mark::CandidateCrashed);
                }
            }
            Process::Down => {}
        }
        self.marks = marks;
    }

    /// What is the same however a process ends: connections break, its calls are gone, peers notice.
    fn end_process(&mut self, machine: Machine) {
        let place = self.place(machine);
        let id = place.id;
        place.life += 1;
        place.process = Process::Down;
        place.still_until = Time(0);
        place.disk_until = Time(0);
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

/// Why a process that got this error ends.
pub(crate) fn exit_of(error: &StorageError) -> Exit {
    let text = error.to_string();
    match error {
        error if error.is_damage() => Exit::Damage(text),
        StorageError::NewerFormat { .. } => Exit::Newer(text),
        StorageError::Locked { .. } => Exit::Locked,
        StorageError::WrongName { .. }
        | StorageError::ForeignNode { .. }
        | StorageError::ForeignCluster { .. } => Exit::Foreign(text),
        _ => Exit::Storage(text),
    }
}
