//! N cores, their disks, and a network in one thread. Nothing happens by itself: a message moves,
//! a disk syncs and time passes only when the caller says so. After every step the core's own
//! invariants and the laws of the whole cluster are checked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use raft_core::config::Config;
use raft_core::consensus::Raft;
use raft_core::consensus::event::{
    ChunkRequest, Effects, Event, Refusal, RoleName, Status, TransferFailure,
};
use raft_core::consensus::invariants;
use raft_core::message::Message;
use raft_core::types::{Index, LogPosition, NodeId, ProposalId, ReadId, Time, WriteId};
use raft_core::write::SnapshotMeta;

use super::app::App;
use super::disk::{Disk, Image, digest};
use super::laws::Laws;
use super::print;

/// More rounds than this without time passing: the cluster talks in circles.
const ROUNDS_MAX: usize = 500;

/// The cluster and everything around it.
pub struct World {
    /// Virtual time.
    pub now: Time,
    /// The nodes, up or down.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Messages under way, in the order they were sent.
    pub wire: Vec<Flight>,
    /// Links that lose everything.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// What is settled only when named: `(from, to, kind)`.
    pub held: Vec<Pattern>,
    /// The laws of the cluster.
    pub laws: Laws,
    /// The story so far, one line each; emptied by whoever prints it.
    pub transcript: Vec<String>,
    /// Whether to write the story.
    pub telling: bool,
    /// Whether heartbeats and their answers are told as well.
    pub tell_heartbeats: bool,
    /// Whether writes to disk are told as well.
    pub tell_writes: bool,
    /// Settings of every node; `id` and `seed` are its own.
    pub config: Config,
    sent: u64,
    asked: u64,
}

/// One node: its core while it is up, and what survives it.
pub struct Node {
    /// The running core.
    pub core: Option<Raft>,
    /// Its disk.
    pub disk: Disk,
    /// Its state machine.
    pub app: App,
    /// Its settings.
    pub config: Config,
    /// What it is not to do by itself.
    pub holds: BTreeSet<Hold>,
    /// Work for other threads that is not done yet.
    pub jobs: VecDeque<Job>,
    /// Where its proposals went.
    pub proposals: BTreeMap<ProposalId, Result<LogPosition, Refusal>>,
    /// From which index its reads may be answered.
    pub reads: BTreeMap<ReadId, Result<Index, Refusal>>,
    /// How its transfers ended.
    pub transfers: Vec<Result<NodeId, TransferFailure>>,
    /// Chunks it has read for followers.
    pub chunks_read: usize,
    /// Snapshots of a leader that took the place of its log.
    pub installed: u64,
    /// How often it was started.
    pub starts: u64,
    committer: Option<Status>,
    gathered: bool,
    commands: BTreeMap<ProposalId, Bytes>,
    read_floors: BTreeMap<ReadId, Index>,
    snapshotting: bool,
    restoring: Option<LogPosition>,
    last_write: WriteId,
}

/// Things a node does at once unless they are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Syncing its disk.
    Sync,
    /// Carrying out effects: steps gather (the group commit).
    Effects,
    /// Reading chunks for followers.
    Chunks,
    /// Restoring a snapshot.
    Restore,
    /// Building a snapshot of its own.
    Snapshot,
}

/// Work that takes time outside the core.
pub enum Job {
    /// Read a chunk for a follower.
    Chunk(ChunkRequest),
    /// Restore the state machine from this snapshot.
    Restore(LogPosition),
    /// Write a snapshot of our own.
    Snapshot(SnapshotMeta, Bytes),
}

/// A message under way.
#[derive(Clone)]
pub struct Flight {
    /// Grows with each message sent.
    pub number: u64,
    /// The message.
    pub message: Message,
}

/// Which messages: by sender, receiver and kind; `None` fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// The sender.
    pub from: Option<NodeId>,
    /// The receiver.
    pub to: Option<NodeId>,
    /// What it is, as in `Body::kind`.
    pub kind: Option<String>,
}

impl World {
    /// No nodes yet; every node will run with these settings.
    pub fn new(config: Config) -> World {
        World {
            now: Time::default(),
            nodes: BTreeMap::new(),
            wire: Vec::new(),
            cut: BTreeSet::new(),
            held: Vec::new(),
            laws: Laws::default(),
            transcript: Vec::new(),
            telling: true,
            tell_heartbeats: false,
            tell_writes: false,
            config,
            sent: 0,
            asked: 0,
        }
    }

    /// Adds a node with this disk and starts it.
    pub fn add(&mut self, id: NodeId, image: Image) {
        self.laws.began(id, &image);
        let config = Config { id, seed: id.0, ..self.config.clone() };
        self.nodes.insert(id, Node::new(config, Disk::holding(image)));
        self.start(id);
    }

    /// Starts a node that is down from what its disk holds.
    pub fn start(&mut self, id: NodeId) {
        let (now, telling) = (self.now, self.telling);
        let node = self.node(id);
        assert!(node.core.is_none(), "{id} runs already");
        node.starts += 1;
        node.config.seed = id.0 + 1000 * node.starts;
        node.app = App::default();
        node.last_write = WriteId(0);
        let mut core = Raft::new(node.config.clone(), node.disk.recover(), now);
        core.trace(telling);
        invariants::check(&core);
        node.core = Some(core);
        self.carry_out(id);
    }

    /// The process dies, `kept` of its unsynced writes having reached the disk nevertheless.
    pub fn crash(&mut self, id: NodeId, kept: usize) {
        let node = self.node(id);
        node.core = None;
        node.disk.crash(kept);
        node.jobs.clear();
        node.committer = None;
        node.gathered = false;
        node.commands.clear();
        node.read_floors.clear();
        node.snapshotting = false;
        node.restoring = None;
        node.holds.remove(&Hold::Effects);
    }

    /// One event into one core, then its effects out, unless they are gathered.
    pub fn step(&mut self, id: NodeId, event: Event) {
        let (now, known) = (self.now, self.laws.committed());
        let node = self.node(id);
        let Some(core) = node.core.as_mut() else { return };
        let before = invariants::Moment::of(core);
        core.step(now, event);
        invariants::check(core);
        invariants::check_change(&before, core);
        if !node.holds.contains(&Hold::Effects) {
            return self.carry_out(id);
        }
        node.gathered = true;
        // Until its effects are taken it may stop leading; what it has committed it committed so.
        let status = core.status();
        if node.committer.is_none() && status.role == RoleName::Leader {
            node.committer = Some(status).filter(|status| known < status.committed);
        }
    }

    /// Takes a core's effects and does them all at once.
    pub fn carry_out(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let Some(core) = node.core.as_mut() else { return };
        let effects = core.take_effects();
        invariants::check(core);
        let status = core.status();
        if self.telling {
            // That a message leaves is told by `send`, where a lost one is marked.
            let sends =
                |text: &str| text.split_once(' ').is_some_and(|(_, say)| say.starts_with("-> "));
            let notes = effects.notes.iter().filter(|note| !sends(&note.text));
            self.transcript.extend(notes.map(|note| note.text.clone()));
        }
        self.persist(id, &effects);
        self.send(&status, effects.send);
        self.restore_and_apply(id, &effects.restore, &effects.apply);
        self.answer(id, effects.proposals, effects.reads, effects.transfers);
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        node.jobs.extend(effects.chunks.into_iter().map(Job::Chunk));
        let nodes = &self.nodes;
        let node = &nodes[&id];
        let committer = node.committer.as_ref().unwrap_or(&status);
        self.laws.looked(&status, committer, &node.disk.live, &|position| {
            let holds = |node: &Node| node.disk.synced.holds(position);
            nodes.iter().filter(|(_, node)| holds(node)).map(|(id, _)| *id).collect()
        });
        for entry in &effects.apply {
            self.laws.applied(id, entry);
        }
        let disk = &self.nodes[&id].disk;
        if disk.waiting.is_empty() {
            let (core, kept) = ((status.last, status.durable), disk.synced.last());
            assert!(core == (kept, kept.index), "{id} believes its log {core:?}, the disk {kept}");
        }
        self.node(id).committer = None;
        self.begin_snapshot(id, false);
    }

    fn persist(&mut self, id: NodeId, effects: &Effects) {
        let Some(write) = &effects.write else { return };
        if self.telling && self.tell_writes {
            self.transcript.push(format!("{id} writes {}", print::write(write)));
        }
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        assert_eq!(write.id, WriteId(node.last_write.0 + 1), "write ids count 1, 2, 3");
        node.last_write = write.id;
        self.laws.wrote(id, write, &node.disk.live);
        node.disk.write(write.clone());
    }

    fn send(&mut self, sender: &Status, messages: Vec<Message>) {
        let node = self.node(sender.id);
        let gathered = std::mem::take(&mut node.gathered);
        for message in messages {
            // Gathered effects may hold answers of a term that has ended since: they were true, and
            // decided before anything was promised in the new term.
            if gathered && message.term < sender.term {
                // Nothing more can be said of them from outside.
            } else {
                assert!(
                    message.term == sender.term,
                    "{} answers in a term that is over",
                    sender.id
                );
                self.laws.sent(&message, &self.nodes[&message.from].disk);
                self.compare_with_leader(&message);
            }
            let lost = self.cut.contains(&(message.from, message.to));
            self.tell_message(&message, if lost { " (lost)" } else { "" });
            if !lost {
                self.sent += 1;
                self.wire.push(Flight { number: self.sent, message });
            }
        }
    }

    /// An acknowledgement to a leader in office is held against that leader's own log.
    fn compare_with_leader(&self, message: &Message) {
        let Some(leader) = self.nodes.get(&message.to) else { return };
        let leads =
            leader.core.as_ref().map(Raft::status).is_some_and(|status| {
                status.role == RoleName::Leader && status.term == message.term
            });
        if leads {
            let follower = &self.nodes[&message.from].disk.synced;
            self.laws.acknowledged(message, follower, &leader.disk.live);
        }
    }

    fn tell_message(&mut self, message: &Message, remark: &str) {
        let heartbeat = message.body.kind().starts_with("heartbeat");
        if self.telling && (!heartbeat || self.tell_heartbeats) {
            self.transcript.push(format!("{}{remark}", print::message(message)));
        }
    }

    fn restore_and_apply(
        &mut self,
        id: NodeId,
        restore: &Option<SnapshotMeta>,
        apply: &[raft_core::types::Entry],
    ) {
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        if let Some(meta) = restore {
            assert!(node.disk.body(meta.position).is_some(), "{id} restores an unsynced snapshot");
            assert!(node.restoring.is_none(), "{id} restores two snapshots at once");
            node.installed += u64::from(node.app.at != LogPosition::ORIGIN);
            node.restoring = Some(meta.position);
            node.jobs.push_back(Job::Restore(meta.position));
        }
        if !apply.is_empty() {
            assert!(node.restoring.is_none(), "{id} applies while it restores");
        }
        apply.iter().for_each(|entry| node.app.apply(entry));
        if self.telling && !apply.is_empty() {
            let entries: Vec<String> = apply.iter().map(print::entry).collect();
            self.transcript.push(format!("{id} applies {}", entries.join(", ")));
        }
    }

    fn answer(
        &mut self,
        id: NodeId,
        proposals: Vec<(ProposalId, Result<LogPosition, Refusal>)>,
        reads: Vec<(ReadId, Result<Index, Refusal>)>,
        transfers: Vec<Result<NodeId, TransferFailure>>,
    ) {
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let mut lines = Vec::new();
        for (proposal, answer) in proposals {
            let command = node.commands.remove(&proposal).expect("an answer nobody asked for");
            let text = print::command(&command);
            match &answer {
                Ok(at) => {
                    self.laws.accepted(id, *at, &command);
                    lines.push(format!("{id} takes {text} as {at}"));
                }
                Err(refusal) => {
                    lines.push(format!("{id} refuses {text}: {}", print::refusal(refusal)));
                    self.laws.refused(command);
                }
            }
            node.proposals.insert(proposal, answer);
        }
        for (read, answer) in reads {
            let floor =
                node.read_floors.remove(&read).expect("a read answered twice, or never asked");
            match &answer {
                Ok(index) => {
                    assert!(
                        floor <= *index,
                        "{id} reads at {index}, but {floor} was committed before"
                    );
                    lines.push(format!("{id} may answer read {} from {index}", read.0));
                }
                Err(refusal) => {
                    lines.push(format!(
                        "{id} refuses read {}: {}",
                        read.0,
                        print::refusal(refusal)
                    ));
                }
            }
            node.reads.insert(read, answer);
        }
        for outcome in transfers {
            lines.push(match outcome {
                Ok(to) => format!("{id} has handed over to {to}"),
                Err(failure) => {
                    format!("{id} hands over to nobody: {}", print::transfer_failure(failure))
                }
            });
            node.transfers.push(outcome);
        }
        if self.telling {
            self.transcript.append(&mut lines);
        }
    }

    /// Starts a snapshot if one is due, or if it was asked for; whether one was started.
    pub fn begin_snapshot(&mut self, id: NodeId, asked: bool) -> bool {
        let node = self.node(id);
        let Some(core) = node.core.as_ref() else { return false };
        if node.snapshotting {
            return false;
        }
        let point = if asked { core.snapshot_point() } else { core.snapshot_due() };
        let Some((position, membership)) = point else { return false };
        assert_eq!(node.app.at, position, "the snapshot is not of what is applied");
        let body = node.app.body();
        let meta = SnapshotMeta {
            position,
            membership,
            body_bytes: body.len() as u64,
            digest: digest(&body),
        };
        node.snapshotting = true;
        node.jobs.push_back(Job::Snapshot(meta, body));
        true
    }

    /// Does what a node would do by itself: its jobs, then its syncs. Whether there was anything.
    pub fn pump(&mut self, id: NodeId) -> bool {
        let mut did = false;
        for _ in 0..self.node(id).jobs.len() {
            let Some(job) = self.node(id).jobs.pop_front() else { break };
            if self.node(id).holds.contains(&job.hold()) {
                self.node(id).jobs.push_back(job);
            } else {
                self.work(id, job);
                did = true;
            }
        }
        if !self.node(id).holds.contains(&Hold::Sync) {
            did |= self.sync(id);
        }
        did
    }

    /// Does one kind of held work now.
    pub fn release(&mut self, id: NodeId, hold: Hold) {
        self.node(id).holds.remove(&hold);
        if hold == Hold::Effects {
            self.carry_out(id);
        }
        self.pump(id);
    }

    /// Does the oldest job, held or not.
    pub fn work_one(&mut self, id: NodeId) {
        if let Some(job) = self.node(id).jobs.pop_front() {
            self.work(id, job);
        }
    }

    fn work(&mut self, id: NodeId, job: Job) {
        let node = self.node(id);
        match job {
            Job::Chunk(request) => {
                node.chunks_read += 1;
                let data = node.disk.body(request.meta.position).map(|body| {
                    let at = |offset: u64| usize::try_from(offset).expect("an offset in a body");
                    body.slice(at(request.offset)..at(request.offset + request.length))
                });
                self.step(id, Event::Chunk { request, data });
            }
            Job::Restore(position) => {
                let body = node.disk.body(position).expect("a snapshot that was durable");
                node.app = App::of_body(body);
                node.restoring = None;
                assert_eq!(node.app.at, position, "the snapshot holds another state than it says");
                self.step(id, Event::Restored(position));
            }
            Job::Snapshot(meta, body) => {
                node.disk.name_snapshot(meta.position, body);
                node.snapshotting = false;
                self.step(id, Event::SnapshotWritten(meta));
            }
        }
    }

    /// Syncs all that waits on a node's disk, as one batch. Whether anything did.
    pub fn sync(&mut self, id: NodeId) -> bool {
        let events = self.node(id).disk.sync_all();
        let any = !events.is_empty();
        events.into_iter().for_each(|event| self.step(id, event));
        any
    }

    /// Syncs only the oldest waiting write. Whether there was one.
    pub fn sync_one(&mut self, id: NodeId) -> bool {
        let events = self.node(id).disk.sync_one();
        let any = !events.is_empty();
        events.into_iter().for_each(|event| self.step(id, event));
        any
    }

    /// The first message under way that fits, past the first `skip` that do.
    pub fn find(&self, pattern: &Pattern, skip: usize) -> Option<u64> {
        let mut fits = self.wire.iter().filter(|flight| pattern.fits(&flight.message));
        fits.nth(skip).map(|flight| flight.number)
    }

    /// Takes a message off the wire.
    pub fn take(&mut self, number: u64) -> Option<Message> {
        let at = self.wire.iter().position(|flight| flight.number == number)?;
        Some(self.wire.remove(at).message)
    }

    /// Hands a message to its receiver, if the link and the receiver are up.
    pub fn receive(&mut self, message: Message) {
        let up = self.nodes.get(&message.to).is_some_and(|node| node.core.is_some());
        if up && !self.cut.contains(&(message.from, message.to)) {
            self.step(message.to, Event::Receive(message));
        }
    }

    /// Delivers everything that is under way now and fits; answers to it stay under way.
    pub fn deliver(&mut self, pattern: &Pattern) -> usize {
        let fitting = |flight: &&Flight| pattern.fits(&flight.message);
        let numbers: Vec<u64> = self.wire.iter().filter(fitting).map(|f| f.number).collect();
        for number in &numbers {
            let message = self.take(*number).expect("nobody else takes messages");
            self.receive(message);
        }
        numbers.len()
    }

    /// Delivers and syncs until nothing is left to do without time passing.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.round() {
                return;
            }
        }
        panic!("the cluster talks in circles: {ROUNDS_MAX} rounds without time passing");
    }

    /// One pass over all nodes and all messages that are not held.
    fn round(&mut self) -> bool {
        let mut did = false;
        for id in self.ids() {
            did |= self.pump(id);
            did |= self.apply_on(id);
        }
        let free = |flight: &&Flight| !self.held.iter().any(|held| held.fits(&flight.message));
        let numbers: Vec<u64> = self.wire.iter().filter(free).map(|f| f.number).collect();
        for number in numbers {
            if let Some(message) = self.take(number) {
                self.receive(message);
                did = true;
            }
        }
        did
    }

    /// Lets time pass, waking each core when it asked for it; messages stay where they are.
    pub fn tick(&mut self, by: Duration) {
        self.pass(by, |_| {});
    }

    /// Lets time pass with everything else running as fast as it can.
    pub fn run(&mut self, by: Duration) {
        self.settle();
        self.pass(by, World::settle);
    }

    fn pass(&mut self, by: Duration, between: fn(&mut World)) {
        let end = self.now + by;
        while let Some(next) = self.next_deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            for id in self.ids() {
                self.wake_if_due(id);
            }
            between(self);
        }
        self.now = end;
    }

    fn next_deadline(&self) -> Option<Time> {
        let free = |node: &&Node| !node.holds.contains(&Hold::Effects);
        let cores = self.nodes.values().filter(free).filter_map(|node| node.core.as_ref());
        cores.map(Raft::deadline).min()
    }

    /// Wakes a core until its deadline lies in the future.
    fn wake_if_due(&mut self, id: NodeId) {
        for _ in 0..ROUNDS_MAX {
            let node = &self.nodes[&id];
            let due = node.core.as_ref().is_some_and(|core| core.deadline() <= self.now);
            if !due || node.holds.contains(&Hold::Effects) {
                return;
            }
            self.step(id, Event::Wake);
        }
        panic!("{id} wants to be woken again and again at one moment");
    }

    /// Committed entries are handed out in portions: takes the next one. Whether there was any.
    fn apply_on(&mut self, id: NodeId) -> bool {
        let node = &self.nodes[&id];
        let Some(core) = &node.core else { return false };
        let status = core.status();
        let blocked = node.restoring.is_some() || node.holds.contains(&Hold::Effects);
        if blocked || status.committed <= status.applied {
            return false;
        }
        self.step(id, Event::Wake);
        true
    }

    /// A client of this node proposes a command.
    pub fn propose(&mut self, id: NodeId, command: Bytes) -> ProposalId {
        self.asked += 1;
        let proposal = ProposalId(self.asked);
        if self.is_up(id) {
            self.node(id).commands.insert(proposal, command.clone());
            self.step(id, Event::Propose { id: proposal, command });
        }
        proposal
    }

    /// A client of this node wants to read.
    pub fn read(&mut self, id: NodeId) -> ReadId {
        self.asked += 1;
        let read = ReadId(self.asked);
        let floor = self.laws.committed();
        if self.is_up(id) {
            self.node(id).read_floors.insert(read, floor);
            self.step(id, Event::Read { id: read });
        }
        read
    }

    /// A node of this world.
    pub fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no {id}"))
    }

    /// Whether the node runs.
    pub fn is_up(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.core.is_some())
    }

    /// The status of a running node.
    pub fn status(&self, id: NodeId) -> Status {
        self.nodes[&id].core.as_ref().unwrap_or_else(|| panic!("{id} is down")).status()
    }

    /// All node ids in order.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Who leads in the highest term, among the running nodes.
    pub fn leader(&self) -> Option<NodeId> {
        let running = self.nodes.values().filter_map(|node| node.core.as_ref()).map(Raft::status);
        let leaders = running.filter(|status| status.role == RoleName::Leader);
        leaders.max_by_key(|status| status.term).map(|status| status.id)
    }
}

impl Node {
    fn new(config: Config, disk: Disk) -> Node {
        Node {
            core: None,
            disk,
            app: App::default(),
            config,
            holds: BTreeSet::new(),
            jobs: VecDeque::new(),
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            transfers: Vec::new(),
            chunks_read: 0,
            installed: 0,
            starts: 0,
            committer: None,
            gathered: false,
            commands: BTreeMap::new(),
            read_floors: BTreeMap::new(),
            snapshotting: false,
            restoring: None,
            last_write: WriteId(0),
        }
    }
}

impl Job {
    /// What holds this kind of work back.
    fn hold(&self) -> Hold {
        match self {
            Job::Chunk(_) => Hold::Chunks,
            Job::Restore(_) => Hold::Restore,
            Job::Snapshot(..) => Hold::Snapshot,
        }
    }
}

impl Pattern {
    /// Whether a message is one of these.
    pub fn fits(&self, message: &Message) -> bool {
        self.from.is_none_or(|from| from == message.from)
            && self.to.is_none_or(|to| to == message.to)
            && self.kind.as_ref().is_none_or(|kind| kind == message.body.kind())
    }
}
