//! The raft thread: messages in, the replica's steps, and carrying out what they ask for.

use std::time::Duration;

use bytes::BytesMut;
use raft_core::codec::encode_frame;
use raft_core::consensus::event::RoleName;
use raft_core::message::Message;
use raft_core::replica::{Input, Replica, Work};
use raft_core::state_machine::StateMachine;
use raft_core::types::Time;
use raft_core::write::SnapshotWrite;

use crate::app::{App, Came};
use crate::marks::Mark;
use crate::network::Route;
use crate::observed::{Observed, Step};
use crate::plan::Machine;
use crate::queue::Event;
use crate::trace::{CopyId, Exit, Loss, Seen};
use crate::world::{Parcel, World};

use super::{Process, ReadJob, Writing, liar, stranger};

/// Most messages that wait for a pass; beyond it they are lost, as in the daemon's inbox.
const MESSAGES_MAX: usize = 8192;

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
        let (id, stranger, liar) = (place.id, place.stranger, place.liar);
        let lost = match &mut place.process {
            Process::Running(running) if running.lanes.messages.len() < MESSAGES_MAX => {
                match running.decoder.decode(&mut frame) {
                    Ok(Some((cluster, message)))
                        if cluster == running.cluster && message.to == id =>
                    {
                        let twin = stranger
                            .then(|| stranger::twin(running.cluster, &message, &mut place.rng));
                        let lie = if liar {
                            liar::lie(&message, running.replica.raft(), &mut place.rng)
                        } else {
                            None
                        };
                        running.lanes.messages.push((copy, from, message));
                        if let Some(lie) = lie {
                            let mut frame = BytesMut::new();
                            encode_frame(running.cluster, &lie, &mut frame);
                            match running.decoder.decode(&mut frame) {
                                Ok(Some((_, lie))) => {
                                    running.lanes.messages.push((copy, from, lie));
                                }
                                _ => self.marks.hit(Mark::FrameRefused),
                            }
                        }
                        if let Some(frame) = twin {
                            self.send_parcel(
                                Duration::ZERO,
                                Parcel::Frame { copy, from, to, frame },
                            );
                        }
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
            self.poke(machine);
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
    pub(super) fn pass(&mut self, machine: Machine) {
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
            self.see(Seen::TakenIn { machine });
        }
        let Some(running) = self.places[usize::from(machine.0)].running_mut() else { return };
        // Who comes while it stops stands before a closed door until it has ended.
        if running.stop_by.is_none() {
            for input in lanes.asked.drain(..) {
                running.replica.step(local, input);
            }
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

    pub(super) fn carry_out(
        &mut self,
        machine: Machine,
        work: Work<<A::State as StateMachine>::Reply>,
    ) {
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
            let place = &self.places[at];
            if place.running().is_some_and(|running| running.leaving.is_some()) {
                if ended.is_ok() {
                    self.marks.hit(Mark::HandedOver);
                }
                self.later(Duration::ZERO, Event::Leave(machine, self.places[at].life));
            }
        }
        if let Some(why) = work.fault {
            return self.fail(machine, Exit::Restore(why));
        }
        let local = self.local(machine);
        let Some(running) = self.places[at].running_mut() else { return };
        if running.stop_by.is_some() {
            if running.replica.is_over() {
                return self.exit(machine, Exit::Stopped);
            }
            if running.is_drained(local) {
                return self.end_replica(machine);
            }
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
        self.hash.bytes(&frame);
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
