//! The rules of Raft and of its parts, checked after every event and only where something changed.
//!
//! [`Invariants`] turns what is seen of a run into plain values and hands them to five sets of rules
//! that know nothing of the simulation, so that each can be tested with made-up states:
//!
//! - [`ledger`]: what logs hold and what is committed (I1 to I4, I6, I10, I11)
//! - [`cursors`]: what one node may never take back (I7, I8)
//! - [`promises`]: what leaves a node before it is true (I9, I12)
//! - [`states`]: what state machines hold (I5, I13, I14)
//! - [`conduct`]: what a process ignores, how much it keeps, why it ends, what it forms (I17, I19,
//!   I20, I21)
//!
//! The world itself lets some starts recover twice and compares (I14). I15 and I16 are judged from the clients' side (`checkers`). Nothing here changes a run.

pub mod conduct;
pub mod cursors;
pub mod ledger;
pub mod promises;
pub mod states;

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::consensus::event::RoleName;
use raft_core::consensus::{Raft, invariants};
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{ClusterId, NodeId, Term, Time};
use raft_core::write::{Recovered, SnapshotWrite, Write};

use self::conduct::{Blame, Kept, Untouched};
use self::cursors::Cursors;
use self::ledger::{Ledger, Shadow};
use self::promises::{Durable, Promises};
use self::states::States;
use crate::app::App;
use crate::plan::{Blow, CrashLoss, DiskFault, Fault, Machine, OpKind, Start};
use crate::trace::{Exit, OpEnd, Seen, Violation, Watch};
use crate::world::View;

/// The rules, in words.
pub const RULES: [(&str, &str); 21] = [
    ("I1", "at most one leader in a term"),
    ("I2", "a leader only appends"),
    ("I3", "an entry of one index and term is the same everywhere, and so is all before it"),
    ("I4", "every leader, and every state machine, holds what is committed"),
    ("I5", "equal index, equal state and replies"),
    ("I6", "what is committed is durable on a quorum"),
    ("I7", "terms, votes, commit and applied never go back"),
    ("I8", "the cursors keep their order"),
    ("I9", "nothing that promises durability leaves before the sync that makes it true"),
    ("I10", "one membership change at a time, and neighbouring quorums meet"),
    ("I11", "only entries of the own term are committed by count"),
    ("I12", "a read is no older than what was acknowledged before it began"),
    ("I13", "a reference that never crashes agrees"),
    ("I14", "a start finds what was synced, what a snapshot was taken of, and no wrong file"),
    ("I16", "no value that nobody wrote"),
    ("I17", "a message of another cluster or an older term changes nothing"),
    ("I19", "what waits, what is under way and what is kept is bounded"),
    ("I20", "no panic, and a process ends only for a documented reason"),
    ("I21", "nodes of one set form one cluster"),
    ("linearizable", "there is an order of all requests that explains all answers"),
    ("liveness", "when faults are over, a quorum serves again and requests end"),
];

/// What a rule says about what it was shown.
pub type Verdict = Result<(), Violation>;

/// All rules; see the top of this file.
pub struct Invariants<A: App> {
    ledger: Ledger,
    states: States<A>,
    promises: Promises,
    disks: BTreeMap<NodeId, Disk>,
    /// The node of each machine.
    nodes: Vec<NodeId>,
    lives: Vec<Option<Life>>,
    /// Machines whose disks the plan has harmed, as bits.
    harmed: u8,
    /// The highest term anybody has reached.
    term: Term,
    cluster: Option<ClusterId>,
    /// The plan has destroyed the whole cluster and another was formed: nothing can be held against
    /// what was.
    over: bool,
    steps: u64,
}

/// What is known of one disk, whoever runs on it.
#[derive(Debug, Default)]
struct Disk {
    /// All that was handed to it.
    issued: Shadow,
    /// What it has synced.
    durable: Durable,
    /// What it may hold.
    kept: Kept,
}

/// What is known of a running process.
#[derive(Debug)]
struct Life {
    cursors: Cursors,
    moment: invariants::Moment,
    /// A message of an older term that is just being taken in, and the replica before it.
    stale: Option<(String, Untouched)>,
    /// A snapshot is due and none is being written, since then.
    due: Option<Time>,
    /// A snapshot is being written.
    snapshotting: bool,
}

/// Every this many steps the bounds are measured.
const BOUNDS_EVERY: u64 = 64;

/// Most that waits in a process: a full inbox of messages, and as much again of requests and writes.
const BACKLOG_MAX: usize = 3 * 8192;

/// Most files in a data directory: segments of a small log and a handful of others.
const FILES_MAX: usize = 2_048;

/// A snapshot that is due is begun within this; after one that failed it may take as long.
const BEGUN_WITHIN: Duration = Duration::from_secs(15);

/// The rule, if it does not hold.
pub(crate) fn ensure(holds: bool, rule: &'static str, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Violation { rule, what: what() }) }
}

impl<A: App> Default for Invariants<A> {
    fn default() -> Invariants<A> {
        Invariants {
            ledger: Ledger::default(),
            states: States::default(),
            promises: Promises::default(),
            disks: BTreeMap::new(),
            nodes: vec![NodeId(0); 8],
            lives: (0..8).map(|_| None).collect(),
            harmed: 0,
            term: Term(0),
            cluster: None,
            over: false,
            steps: 0,
        }
    }
}

impl<A: App> Watch<A> for Invariants<A> {
    fn see(&mut self, now: Time, seen: &Seen<'_, A>, view: &View<'_, A>) -> Verdict {
        if self.over {
            return Ok(());
        }
        match seen {
            Seen::Started { machine, node, recovered } => {
                self.nodes[usize::from(machine.0)] = *node;
                match (recovered, view.replica(*machine)) {
                    (Some(recovered), Some(replica)) => {
                        self.started(*machine, *node, recovered, replica.raft())
                    }
                    _ => Ok(()),
                }
            }
            Seen::Formed { cluster, .. } => self.formed(*cluster, view),
            Seen::Crashed { machine } => {
                self.lives[usize::from(machine.0)] = None;
                Ok(())
            }
            Seen::Exited { machine, exit } => {
                let verdict = self.exited(*machine, exit, view);
                // A second process was refused; the first runs on.
                if !matches!(exit, Exit::Locked) {
                    self.lives[usize::from(machine.0)] = None;
                }
                verdict
            }
            Seen::Paused { machine, .. } => {
                // Time does not pass for a process that stands still.
                if let Some(life) = &mut self.lives[usize::from(machine.0)] {
                    life.due = None;
                }
                Ok(())
            }
            Seen::Delivered { to, message, .. } => match view.replica(*to) {
                Some(replica) => self.delivered(*to, message, replica.raft(), replica.pending()),
                None => Ok(()),
            },
            Seen::TakenIn { machine } => match view.replica(*machine) {
                Some(replica) => self.taken_in(*machine, replica.raft(), replica.pending()),
                None => Ok(()),
            },
            Seen::Stepped { machine } => match view.replica(*machine) {
                Some(replica) => {
                    self.stepped(*machine, replica.raft(), view)?;
                    self.bounds(now, *machine, replica.raft(), view)
                }
                None => Ok(()),
            },
            Seen::WriteIssued { machine, write } => self.issued(*machine, write, view),
            Seen::Persisted { machine, writes, .. } => {
                let disk = self.disks.entry(self.nodes[usize::from(machine.0)]).or_default();
                for write in *writes {
                    disk.durable.persist(write);
                    for operation in &write.snapshots {
                        if let SnapshotWrite::Mark(meta) = operation {
                            disk.kept.counts(meta.position.index);
                        }
                    }
                }
                Ok(())
            }
            Seen::Sent { machine, message, .. } => self.sent(*machine, message, view),
            Seen::Applied { machine, at, command, reply, state } => {
                self.ledger.is_committed(*at)?;
                self.states.applied(*machine, *at, command, *reply, *state)
            }
            Seen::SnapshotBegun { machine, position } => {
                self.snapshotting(*machine, true);
                match view.state(*machine) {
                    Some(state) => self.states.digested(position.index, A::digest(state)),
                    None => Ok(()),
                }
            }
            Seen::SnapshotWritten { machine, meta } => {
                self.snapshotting(*machine, false);
                let disk = self.disks.entry(self.nodes[usize::from(machine.0)]).or_default();
                disk.kept.holds(meta.body_bytes);
                Ok(())
            }
            Seen::SnapshotFailed { machine, .. } => {
                self.snapshotting(*machine, false);
                Ok(())
            }
            Seen::Restored { machine, meta, state } => {
                self.ledger.is_committed(meta.position)?;
                self.states.restored(*machine, meta.position, *state)
            }
            Seen::OpBegun { op, planned, request, .. } => {
                let fresh = !A::is_write(request) && planned.kind != OpKind::GetStale;
                self.promises.begun(op.0, fresh);
                Ok(())
            }
            Seen::OpEnded { op, end: OpEnd::Answered { index, .. }, .. } => {
                self.promises.answered(op.0, *index, self.ledger.committed())
            }
            Seen::Fault { fault, on, .. } => {
                self.harm(fault, *on);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl<A: App> Invariants<A> {
    /// I7 and I14: what was durable is there again.
    fn started(
        &mut self,
        machine: Machine,
        node: NodeId,
        recovered: &Recovered,
        raft: &Raft,
    ) -> Verdict {
        let before = self.disks.entry(node).or_default();
        before.durable.is_kept(node, recovered, &before.issued)?;
        let mut shadow = Shadow::new(recovered.log_start);
        for entry in &recovered.entries {
            self.ledger.entry(node, shadow.last(), entry)?;
            shadow.push(entry.position);
        }
        before.issued = shadow.clone();
        before.durable = Durable::recovered(recovered, shadow);
        self.states.starts(machine);
        self.lives[usize::from(machine.0)] = Some(Life {
            cursors: Cursors::of(raft),
            moment: invariants::Moment::of(raft),
            stale: None,
            due: None,
            snapshotting: false,
        });
        Ok(())
    }

    /// I21, as far as one set of nodes goes.
    fn formed(&mut self, cluster: ClusterId, view: &View<'_, A>) -> Verdict {
        let forming = view.plan().start == Start::Forming;
        let verdict = conduct::forms(self.cluster, cluster, forming);
        self.cluster = self.cluster.or(Some(cluster));
        if verdict.is_err() && !view.plan().recoverable {
            self.over = true;
            return Ok(());
        }
        verdict
    }

    fn exited(&self, machine: Machine, exit: &Exit, view: &View<'_, A>) -> Verdict {
        let has = |of: fn(&Fault) -> bool| view.plan().faults.iter().any(|it| of(&it.what));
        let blame = Blame {
            harmed: self.harmed >> machine.0 & 1 == 1,
            disks_fail: has(|it| matches!(it, Fault::Disk { .. })),
            swapped: has(|it| matches!(it, Fault::Swap { .. })),
            misfiled: view.disk(machine).wrong().is_some(),
        };
        conduct::exits(machine, exit, blame)
    }

    fn snapshotting(&mut self, machine: Machine, is: bool) {
        if let Some(life) = &mut self.lives[usize::from(machine.0)] {
            (life.snapshotting, life.due) = (is, None);
        }
    }

    fn harm(&mut self, fault: &Fault, on: Option<Machine>) {
        match (fault, on) {
            (Fault::Swap { one, other, .. }, _) => self.harmed |= 1 << one.0 | 1 << other.0,
            (
                Fault::Wipe { .. }
                | Fault::Crash { loss: CrashLoss::Garbage, .. }
                | Fault::Ambush {
                    blow: Blow::Rot(_) | Blow::Crash { loss: CrashLoss::Garbage, .. },
                    ..
                }
                | Fault::Disk { fault: DiskFault::Rot { .. }, .. },
                Some(machine),
            ) => self.harmed |= 1 << machine.0,
            _ => {}
        }
    }

    /// I17: a message is about to be taken in.
    fn delivered(
        &mut self,
        machine: Machine,
        message: &Message,
        raft: &Raft,
        pending: (usize, usize),
    ) -> Verdict {
        conduct::is_ours(machine, message.term, self.term)?;
        let Some(life) = &mut self.lives[usize::from(machine.0)] else { return Ok(()) };
        // Pre-votes and their answers belong to no term.
        let timeless = matches!(message.body, Body::PreVote { .. } | Body::PreVoteReply { .. });
        if message.term < raft.term() && !timeless {
            let told = format!("{} from {}@{}", message.body.kind(), message.from, message.term);
            life.stale = Some((told, Untouched::of(raft, pending)));
        }
        Ok(())
    }

    /// I17: it has been taken in.
    fn taken_in(&mut self, machine: Machine, raft: &Raft, pending: (usize, usize)) -> Verdict {
        let Some(life) = &mut self.lives[usize::from(machine.0)] else { return Ok(()) };
        let Some((told, before)) = life.stale.take() else { return Ok(()) };
        conduct::ignores(machine, &told, &before, &Untouched::of(raft, pending))
    }

    fn stepped(&mut self, machine: Machine, raft: &Raft, view: &View<'_, A>) -> Verdict {
        let node = self.nodes[usize::from(machine.0)];
        let Some(life) = &mut self.lives[usize::from(machine.0)] else { return Ok(()) };
        let disk = self.disks.entry(node).or_default();
        disk.adopt_install(raft);
        let before = life.cursors;
        let now = Cursors::of(raft);
        life.cursors = now;
        cursors::check(&now)?;
        if now == before {
            return Ok(());
        }
        self.term = self.term.max(now.hard_state.term);
        cursors::check_change(node, &before, &now)?;
        // The core's own rules; a panic is caught as I20 with the rule in words.
        invariants::check(raft);
        invariants::check_change(&life.moment, raft);
        life.moment = invariants::Moment::of(raft);

        let log = raft.log();
        if now.role == RoleName::Leader {
            self.ledger.leads(node, &before, &now, |index| log.term_at(index))?;
            if before.role != RoleName::Leader || before.hard_state.term != now.hard_state.term {
                promises::leads(node, &now, &disk.durable)?;
            }
        }
        promises::cursors(node, &now, &disk.durable)?;
        if before.committed < now.committed {
            let Invariants { ledger, disks, harmed, .. } = self;
            let holds = |member: NodeId, at| {
                let lost = |machine: Machine| *harmed >> machine.0 & 1 == 1;
                view.machine_of(member).is_none_or(lost)
                    || disks.get(&member).is_some_and(|disk| disk.durable.log.reaches(at))
            };
            let (from, term_at) = (before.committed, |index| log.term_at(index));
            ledger.commits(node, from, &now, log.membership(), term_at, holds)?;
        }
        Ok(())
    }

    /// I19, now and then: what waits and what is kept has a bound.
    fn bounds(&mut self, now: Time, machine: Machine, raft: &Raft, view: &View<'_, A>) -> Verdict {
        self.steps += 1;
        if !self.steps.is_multiple_of(BOUNDS_EVERY) {
            return Ok(());
        }
        let knobs = &view.plan().knobs;
        let backlog = view.backlog(machine);
        conduct::bounded(machine, "inputs wait", backlog as u64, BACKLOG_MAX as u64)?;
        let (files, bytes) = view.disk(machine).used();
        conduct::bounded(machine, "files", files as u64, FILES_MAX as u64)?;
        let kept = &self.disks.entry(self.nodes[usize::from(machine.0)]).or_default().kept;
        conduct::bounded(machine, "bytes in files", bytes, kept.disk_bytes_max(knobs))?;
        if let Some(storage) = view.storage(machine) {
            let most = kept.segment_bytes_max(knobs);
            conduct::bounded(machine, "bytes in log segments", storage.wal_bytes, most)?;
        }
        let log = raft.log();
        let held = log.weight(log.start().index, log.last().index);
        conduct::bounded(machine, "bytes of log in memory", held, kept.log_bytes_max(knobs))?;
        if let Some(life) = &mut self.lives[usize::from(machine.0)] {
            let due = !life.snapshotting && raft.snapshot_due().is_some();
            life.due = if due { life.due.or(Some(now)) } else { None };
            let late = life.due.is_some_and(|since| since + BEGUN_WITHIN < now);
            ensure(!late, "I19", || format!("{machine} begins no snapshot, and one is due"))?;
        }
        if raft.role_name() == RoleName::Leader {
            // One append may pass the window, and one entry may pass an append.
            let window = knobs.inflight_bytes_max + knobs.append_bytes_max;
            let most = window + 2 * (knobs.entry_bytes_max + 1024);
            for peer in raft.status().peers {
                let what = "bytes under way to a follower";
                conduct::bounded(machine, what, peer.inflight_bytes, most)?;
            }
        }
        Ok(())
    }

    fn issued(&mut self, machine: Machine, write: &Write, view: &View<'_, A>) -> Verdict {
        let node = self.nodes[usize::from(machine.0)];
        let disk = self.disks.entry(node).or_default();
        let Some(raft) = view.replica(machine).map(|replica| replica.raft()) else { return Ok(()) };
        let leads = raft.role_name() == RoleName::Leader;
        if let Some(from) = write.truncate_from {
            ensure(!leads, "I2", || format!("leader {node} cuts its log at {from}"))?;
            disk.issued.truncate(from);
        }
        disk.kept.writes(write);
        for entry in &write.entries {
            self.ledger.entry(node, disk.issued.last(), entry)?;
            disk.issued.push(entry.position);
        }
        for operation in &write.snapshots {
            if let SnapshotWrite::Install(meta) | SnapshotWrite::Mark(meta) = operation {
                self.ledger.is_committed(meta.position)?;
            }
            if let SnapshotWrite::Install(meta) = operation {
                disk.kept.holds(meta.body_bytes);
            }
        }
        Ok(())
    }

    fn sent(&mut self, machine: Machine, message: &Message, view: &View<'_, A>) -> Verdict {
        let node = self.nodes[usize::from(machine.0)];
        let disk = self.disks.entry(node).or_default();
        promises::sent(message, &disk.durable)?;
        // Who acknowledges holds what the leader holds.
        let matched = match &message.body {
            Body::AppendReply { result: AppendResult::Matched(matched) } => *matched,
            Body::HeartbeatReply { matched, .. } => *matched,
            _ => return Ok(()),
        };
        let to = view.machine_of(message.to).and_then(|to| view.replica(to));
        let leader = to
            .map(|replica| replica.raft())
            .filter(|raft| raft.role_name() == RoleName::Leader && raft.term() == message.term);
        if let Some(leader) = leader
            && let Some(theirs) = leader.log().term_at(matched)
            && let Some(ours) = disk.durable.log.term_at(matched)
        {
            ensure(ours == theirs, "I9", || {
                format!("{node} acknowledges {matched}@{ours} for {matched}@{theirs}")
            })?;
        }
        Ok(())
    }
}

impl Disk {
    /// The leader's snapshot took the place of the log.
    fn adopt_install(&mut self, raft: &Raft) {
        let log = raft.log();
        if let Some(at) = self.durable.installing
            && log.snapshot().position == at
        {
            self.durable.installing = None;
            self.kept.counts(at.index);
            if log.start() == at && !self.issued.holds(at) {
                self.issued = Shadow::new(at);
                self.durable.log = Shadow::new(at);
            }
        }
    }
}
