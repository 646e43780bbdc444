//! The rules of Raft and of its parts, checked after every event and only where something changed.
//!
//! [`Invariants`] turns what is seen of a run into plain values and hands them to four sets of rules
//! that know nothing of the simulation, so that each can be tested with made-up states:
//!
//! - [`ledger`]: what logs hold and what is committed (I1 to I4, I6, I10, I11)
//! - [`cursors`]: what one node may never take back (I7, I8)
//! - [`promises`]: what leaves a node before it is true (I9, I12)
//! - [`states`]: what state machines hold (I5, I13, I14)
//!
//! Here are the rules that need the plan or the running node: I14 at a start, I17, I19, I20 and I21.
//! I15 and I16 are judged from the clients' side (`checkers`). Nothing here changes a run.

pub mod cursors;
pub mod ledger;
pub mod promises;
pub mod states;

use std::collections::BTreeMap;

use raft_core::consensus::event::RoleName;
use raft_core::consensus::{Raft, invariants};
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{ClusterId, HardState, Index, NodeId, Time};
use raft_core::write::{Recovered, SnapshotWrite, Write};

use self::cursors::Cursors;
use self::ledger::{Ledger, Shadow};
use self::promises::{Durable, Promises};
use self::states::States;
use crate::app::App;
use crate::plan::{CrashLoss, DiskFault, Fault, Machine, OpKind, Start};
use crate::trace::{Exit, OpEnd, Seen, Violation, Watch};
use crate::world::View;

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
}

/// What is known of a running process.
#[derive(Debug)]
struct Life {
    cursors: Cursors,
    moment: invariants::Moment,
    /// A message of an older term that came in last, and the replica before it.
    stale: Option<(String, Untouched)>,
}

/// What a message of an older term must leave as it was.
#[derive(Debug, PartialEq, Eq)]
struct Untouched {
    hard_state: HardState,
    role: RoleName,
    leader: Option<NodeId>,
    last: Index,
    committed: Index,
    /// What a leader knows of each peer: what it holds, and when it was last heard.
    peers: Vec<(NodeId, Index, Option<Time>)>,
}

/// Every this many steps the bounds are measured.
const BOUNDS_EVERY: u64 = 64;

/// Most that waits in a process: a full inbox of messages, and as much again of requests and writes.
const BACKLOG_MAX: usize = 3 * 8192;

/// Most files in a data directory: segments of a small log and a handful of others.
const FILES_MAX: usize = 2_048;

/// A broken rule.
fn broken(rule: &'static str, what: impl FnOnce() -> String) -> Verdict {
    Err(Violation { rule, what: what() })
}

/// The rule, if it does not hold.
pub(crate) fn ensure(holds: bool, rule: &'static str, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { broken(rule, what) }
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
            cluster: None,
            over: false,
            steps: 0,
        }
    }
}

impl<A: App> Watch<A> for Invariants<A> {
    fn see(&mut self, _: Time, seen: &Seen<'_, A>, view: &View<'_, A>) -> Verdict {
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
            Seen::Delivered { to, message, .. } => match view.replica(*to) {
                Some(replica) => self.delivered(*to, message, replica.raft()),
                None => Ok(()),
            },
            Seen::Stepped { machine } => match view.replica(*machine) {
                Some(replica) => self.stepped(*machine, replica.raft(), view),
                None => Ok(()),
            },
            Seen::WriteIssued { machine, write } => self.issued(*machine, write, view),
            Seen::Persisted { machine, writes, .. } => {
                let disk = self.disks.entry(self.nodes[usize::from(machine.0)]).or_default();
                writes.iter().for_each(|write| disk.durable.persist(write));
                Ok(())
            }
            Seen::Sent { machine, message, .. } => self.sent(*machine, message, view),
            Seen::Applied { machine, at, command, reply, state } => {
                self.ledger.is_committed(*at)?;
                self.states.applied(*machine, *at, command, *reply, *state)
            }
            Seen::SnapshotBegun { machine, position } => match view.state(*machine) {
                Some(state) => self.states.digested(position.index, A::digest(state)),
                None => Ok(()),
            },
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
        if self.harmed >> machine.0 & 1 == 0 {
            before.durable.is_kept(node, recovered)?;
        }
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
        });
        Ok(())
    }

    /// I21, as far as one set of nodes goes: they form one cluster.
    fn formed(&mut self, cluster: ClusterId, view: &View<'_, A>) -> Verdict {
        let first = view.plan().start == Start::Forming
            && self.cluster.is_none_or(|known| known == cluster);
        self.cluster = self.cluster.or(Some(cluster));
        if !first && !view.plan().recoverable {
            self.over = true;
            return Ok(());
        }
        ensure(first, "I21", || format!("a second cluster {cluster} is formed"))
    }

    /// I20: a process ends only for reasons that the plan gave it.
    fn exited(&self, machine: Machine, exit: &Exit, view: &View<'_, A>) -> Verdict {
        let mut faults = view.plan().faults.iter().map(|fault| fault.what);
        let harmed = self.harmed >> machine.0 & 1 == 1;
        let documented = match exit {
            Exit::Stopped | Exit::Locked => true,
            Exit::Storage(_) => harmed || faults.any(|it| matches!(it, Fault::Disk { .. })),
            Exit::Damage(_) | Exit::Restore(_) => harmed,
            Exit::Foreign(_) => faults.any(|it| matches!(it, Fault::Swap { .. })) || harmed,
            Exit::Panic(_) => false,
        };
        ensure(documented, "I20", || format!("{machine} exits for no reason: {exit:?}"))
    }

    fn harm(&mut self, fault: &Fault, on: Option<Machine>) {
        match (fault, on) {
            (Fault::Swap { one, other, .. }, _) => self.harmed |= 1 << one.0 | 1 << other.0,
            (
                Fault::Wipe { .. }
                | Fault::Crash { loss: CrashLoss::Garbage, .. }
                | Fault::Disk { fault: DiskFault::Rot { .. }, .. },
                Some(machine),
            ) => self.harmed |= 1 << machine.0,
            _ => {}
        }
    }

    /// I17: the message before this one was of an older term and has changed nothing.
    fn delivered(&mut self, machine: Machine, message: &Message, raft: &Raft) -> Verdict {
        let Some(life) = &mut self.lives[usize::from(machine.0)] else { return Ok(()) };
        if let Some((told, before)) = life.stale.take() {
            let after = untouched(raft);
            ensure(after == before, "I17", || {
                format!("{machine}: {told} of an older term changed {before:?} to {after:?}")
            })?;
        }
        // A granted pre-vote belongs to no term.
        if message.term < raft.term() && !matches!(message.body, Body::PreVoteReply { .. }) {
            let told = format!("{} from {}@{}", message.body.kind(), message.from, message.term);
            life.stale = Some((told, untouched(raft)));
        }
        Ok(())
    }

    fn stepped(&mut self, machine: Machine, raft: &Raft, view: &View<'_, A>) -> Verdict {
        let node = self.nodes[usize::from(machine.0)];
        let Some(life) = &mut self.lives[usize::from(machine.0)] else { return Ok(()) };
        let disk = self.disks.entry(node).or_default();
        disk.adopt_install(raft);
        if let Some((told, before)) = life.stale.take() {
            // Requests and timers came after it, and they commit nothing.
            let committed = raft.log().committed();
            ensure(committed == before.committed, "I17", || {
                format!("{machine}: {told} of an older term committed {committed}")
            })?;
            // Nor do they tell a leader anything about its peers.
            let after = untouched(raft);
            let leads_on = (after.role, after.hard_state) == (before.role, before.hard_state);
            ensure(!leads_on || after.peers == before.peers, "I17", || {
                format!("{machine}: {told} of an older term is news of {:?}", after.peers)
            })?;
        }
        let before = life.cursors;
        let now = Cursors::of(raft);
        life.cursors = now;
        cursors::check(&now)?;
        if now == before {
            self.steps += 1;
            return self.bounds(machine, raft, view);
        }
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
        self.bounds(machine, raft, view)
    }

    /// I19, now and then: what waits and what is kept has a bound.
    fn bounds(&mut self, machine: Machine, raft: &Raft, view: &View<'_, A>) -> Verdict {
        self.steps += 1;
        if !self.steps.is_multiple_of(BOUNDS_EVERY) {
            return Ok(());
        }
        let knobs = &view.plan().knobs;
        let backlog = view.backlog(machine);
        ensure(backlog <= BACKLOG_MAX, "I19", || format!("{machine}: {backlog} inputs wait"))?;
        let (files, _) = view.disk(machine).used();
        ensure(files <= FILES_MAX, "I19", || format!("{machine}: {files} files"))?;
        if raft.role_name() == RoleName::Leader {
            // One append may pass the window, and one entry may pass an append.
            let window = knobs.inflight_bytes_max + knobs.append_bytes_max;
            let most = window + 2 * (knobs.entry_bytes_max + 1024);
            for peer in raft.status().peers {
                let (id, bytes) = (peer.id, peer.inflight_bytes);
                ensure(bytes <= most, "I19", || {
                    format!("{machine}: {bytes} bytes under way to {id}, {most} may be")
                })?;
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
        for entry in &write.entries {
            self.ledger.entry(node, disk.issued.last(), entry)?;
            disk.issued.push(entry.position);
        }
        for operation in &write.snapshots {
            if let SnapshotWrite::Install(meta) | SnapshotWrite::Mark(meta) = operation {
                self.ledger.is_committed(meta.position)?;
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
            if log.start() == at && !self.issued.holds(at) {
                self.issued = Shadow::new(at);
                self.durable.log = Shadow::new(at);
            }
        }
    }
}

fn untouched(raft: &Raft) -> Untouched {
    Untouched {
        hard_state: HardState { term: raft.term(), vote: raft.vote() },
        role: raft.role_name(),
        leader: raft.leader(),
        last: raft.log().last().index,
        committed: raft.log().committed(),
        peers: raft.status().peers.iter().map(|it| (it.id, it.matched, it.contact)).collect(),
    }
}
