//! What is to come: a heap ordered by time, then by a seeded tie-break, then by who came first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use raft_core::types::Time;

use crate::client::CallId;
use crate::plan::Machine;
use crate::rng::Rng;

/// Something that will happen. Events of a machine name the life of its process: those of an earlier
/// life are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A parcel arrives: its place in the world's table.
    Parcel(u32),
    /// A process begins, if the machine's number of lives is still this.
    Start(Machine, u32),
    /// Its disk has been read.
    Opened(Machine, u32),
    /// The disk belongs to a cluster.
    Formed(Machine, u32),
    /// Forming wants to know the time.
    FormWake(Machine, u32),
    /// The replica takes in what waits.
    Pass(Machine, u32),
    /// The replica wants to know the time.
    Wake(Machine, u32),
    /// A storage call of the log has taken its time.
    LogDone(Machine, u32),
    /// The log wants to know the time.
    LogDue(Machine, u32),
    /// A segment has taken its time.
    SegmentDone(Machine, u32),
    /// The removal of old files has taken its time.
    RemovalDone(Machine, u32),
    /// A piece of a snapshot has taken its time to be written.
    SnapshotStep(Machine, u32),
    /// A piece of a snapshot has taken its time to be read.
    ReadDone(Machine, u32),
    /// Who hands over before it stops has waited long enough, or need not wait any more.
    Leave(Machine, u32),
    /// A line of the plan: a request.
    Op(u32),
    /// A client has waited long enough.
    GiveUp(u8, u32),
    /// A call's wait or deadline is over.
    CallDue(CallId),
    /// A line of the plan: a fault.
    Fault(u32),
    /// It is over.
    Healed(u32),
    /// A cut that flaps opens or closes.
    Flap(u32),
    /// The chaos is over.
    ChaosOver,
    /// Time to look whether the cluster is live again.
    Probe,
}

impl Event {
    /// Whose event it is, if it is a process's.
    pub(crate) fn of(self) -> Option<(Machine, u32)> {
        match self {
            Event::Opened(machine, life)
            | Event::Formed(machine, life)
            | Event::FormWake(machine, life)
            | Event::Pass(machine, life)
            | Event::Wake(machine, life)
            | Event::LogDone(machine, life)
            | Event::LogDue(machine, life)
            | Event::SegmentDone(machine, life)
            | Event::RemovalDone(machine, life)
            | Event::SnapshotStep(machine, life)
            | Event::ReadDone(machine, life)
            | Event::Leave(machine, life) => Some((machine, life)),
            Event::Parcel(_)
            | Event::Start(..)
            | Event::Op(_)
            | Event::GiveUp(..)
            | Event::CallDue(_)
            | Event::Fault(_)
            | Event::Healed(_)
            | Event::Flap(_)
            | Event::ChaosOver
            | Event::Probe => None,
        }
    }

    /// A number for the hash of the run.
    pub(crate) fn code(self) -> u64 {
        let (kind, detail) = match self {
            Event::Parcel(parcel) => (0, parcel),
            Event::Start(machine, _) => (1, u32::from(machine.0)),
            Event::Opened(machine, _) => (2, u32::from(machine.0)),
            Event::Formed(machine, _) => (3, u32::from(machine.0)),
            Event::FormWake(machine, _) => (4, u32::from(machine.0)),
            Event::Pass(machine, _) => (5, u32::from(machine.0)),
            Event::Wake(machine, _) => (6, u32::from(machine.0)),
            Event::LogDone(machine, _) => (7, u32::from(machine.0)),
            Event::LogDue(machine, _) => (8, u32::from(machine.0)),
            Event::SegmentDone(machine, _) => (9, u32::from(machine.0)),
            Event::SnapshotStep(machine, _) => (10, u32::from(machine.0)),
            Event::ReadDone(machine, _) => (11, u32::from(machine.0)),
            Event::RemovalDone(machine, _) => (20, u32::from(machine.0)),
            Event::Op(line) => (12, line),
            Event::GiveUp(client, _) => (13, u32::from(client)),
            Event::CallDue(call) => (14, call.0 as u32),
            Event::Fault(line) => (15, line),
            Event::Healed(line) => (16, line),
            Event::Flap(line) => (17, line),
            Event::ChaosOver => (18, 0),
            Event::Probe => (19, 0),
            Event::Leave(machine, _) => (20, u32::from(machine.0)),
        };
        kind << 32 | u64::from(detail)
    }
}

/// All that is to come.
pub(crate) struct Queue {
    heap: BinaryHeap<Scheduled>,
    /// What was known from the beginning, the next one last. There are thousands of lines in a plan:
    /// in the heap they would make every other event sink through a dozen layers.
    planned: Vec<Scheduled>,
    sequence: u32,
    ties: Rng,
}

#[derive(Clone, Copy)]
struct Scheduled {
    at: Time,
    tie: u32,
    sequence: u32,
    event: Event,
}

impl Queue {
    pub(crate) fn new(ties: Rng) -> Queue {
        Queue { heap: BinaryHeap::new(), planned: Vec::new(), sequence: 0, ties }
    }

    /// It will happen then. Never happens are not kept.
    pub(crate) fn push(&mut self, at: Time, event: Event) {
        if at < Time::NEVER {
            let scheduled = self.schedule(at, event);
            self.heap.push(scheduled);
        }
    }

    /// These will happen then: the lines of the plan, known before anything else happens.
    pub(crate) fn plan(&mut self, lines: impl Iterator<Item = (Time, Event)>) {
        for (at, event) in lines {
            let scheduled = self.schedule(at, event);
            self.planned.push(scheduled);
        }
        self.planned.sort_unstable();
    }

    /// What happens next, and when.
    pub(crate) fn pop(&mut self) -> Option<(Time, Event)> {
        let next = if self.planned.last() < self.heap.peek() {
            self.heap.pop()
        } else {
            self.planned.pop()
        };
        next.map(|next| (next.at, next.event))
    }

    fn schedule(&mut self, at: Time, event: Event) -> Scheduled {
        self.sequence += 1;
        Scheduled { at, tie: self.ties.bits() as u32, sequence: self.sequence, event }
    }
}

impl Scheduled {
    fn key(&self) -> (Time, u32, u32) {
        (self.at, self.tie, self.sequence)
    }
}

/// The largest is the next: the order of time, turned round.
impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Scheduled {}
