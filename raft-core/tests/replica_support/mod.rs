//! A few replicas in one thread, with time, disks and a network that a test holds in its hand.
//! Nothing here runs by itself: `run` delivers and syncs, `pass` lets time go by.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use raft_core::config::Config;
use raft_core::consensus::event::RoleName;
use raft_core::membership::{Member, Membership};
use raft_core::message::Message;
use raft_core::proposals::{Outcome, ReadRefused};
use raft_core::replica::{Input, OrderId, PieceRequest, Replica, SnapshotRefused, Work};
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::types::{
    Entry, HardState, Index, LogPosition, NodeId, Payload, ProposalId, ReadId, Term, Time, WriteId,
};
use raft_core::write::{Recovered, SnapshotMeta, SnapshotWrite, Write};

/// A state machine that remembers every command; the reply is how many there are.
#[derive(Debug, Default)]
pub struct Ledger {
    pub commands: Vec<Bytes>,
    coming: Vec<Bytes>,
}

impl StateMachine for Ledger {
    type Reply = usize;

    fn apply(&mut self, _at: LogPosition, command: &Bytes) -> usize {
        self.commands.push(command.clone());
        self.commands.len()
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(self.commands.clone().into_iter())
    }

    fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
        match step {
            Restore::Begin => self.coming.clear(),
            Restore::Piece(piece) if piece.starts_with(b"bad") => {
                return Err(Malformed::new("a bad piece"));
            }
            Restore::Piece(piece) => self.coming.push(piece),
            Restore::End => self.commands = std::mem::take(&mut self.coming),
        }
        Ok(())
    }
}

/// What a disk holds: all of it synced.
#[derive(Clone, Default)]
pub struct ModelDisk {
    pub recovered: Recovered,
    /// Snapshots; a body is the pieces with their lengths in front, and a zero.
    pub snapshots: BTreeMap<LogPosition, (SnapshotMeta, Vec<u8>)>,
    receiving: Vec<u8>,
}

pub struct Seat {
    /// `None`: the process is down.
    pub replica: Option<Replica<Ledger>>,
    pub disk: ModelDisk,
    /// Writes that were handed out and are not synced.
    pub unsynced: Vec<Write>,
    /// Syncs wait.
    pub disk_stalls: bool,
    /// Restores and snapshots wait.
    pub files_stall: bool,
    pieces_wanted: Vec<PieceRequest>,
    snapshot_wanted: Option<raft_core::replica::SnapshotOrder>,
    pub fault: Option<String>,
}

pub struct Cluster {
    pub now: Time,
    pub seats: BTreeMap<NodeId, Seat>,
    pub config: fn(&mut Config),
    wire: Vec<Message>,
    /// Directed links that lose everything.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub outcomes: BTreeMap<u64, Outcome<usize>>,
    pub reads: BTreeMap<u64, Result<Index, ReadRefused>>,
    /// What the ledger held when the read was answered.
    pub seen: BTreeMap<u64, usize>,
    pub snapshots_taken: BTreeMap<u64, Result<SnapshotMeta, SnapshotRefused>>,
    pub transfers: BTreeMap<u64, Result<NodeId, raft_core::consensus::event::TransferFailure>>,
    next_id: u64,
}

pub fn n(id: u64) -> NodeId {
    NodeId(id)
}

impl Cluster {
    /// `size` nodes n1, n2 ... that have just formed.
    pub fn new(size: u64) -> Cluster {
        Cluster::with(size, |_| {})
    }

    pub fn with(size: u64, config: fn(&mut Config)) -> Cluster {
        let member =
            |id| (n(id), Member { name: format!("node{id}"), address: format!("localhost:{id}") });
        let membership = Membership::of_voters((1..=size).map(member));
        let first = Entry {
            position: LogPosition::new(Index(1), Term(1)),
            payload: Payload::Membership(membership),
        };
        let recovered = Recovered {
            hard_state: HardState { term: Term(1), vote: None },
            entries: vec![first],
            ..Recovered::default()
        };
        let mut cluster = Cluster {
            now: Time(0),
            seats: BTreeMap::new(),
            config,
            wire: Vec::new(),
            cut: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            reads: BTreeMap::new(),
            seen: BTreeMap::new(),
            snapshots_taken: BTreeMap::new(),
            transfers: BTreeMap::new(),
            next_id: 0,
        };
        for id in 1..=size {
            let disk = ModelDisk { recovered: recovered.clone(), ..ModelDisk::default() };
            cluster.seats.insert(n(id), Seat::new(disk));
            cluster.start(n(id));
        }
        cluster
    }

    /// Starts a node on what its disk holds.
    pub fn start(&mut self, id: NodeId) {
        let mut config = Config::new(id);
        config.seed += self.now.0;
        (self.config)(&mut config);
        let seat = self.seats.get_mut(&id).unwrap();
        let recovered = seat.disk.recovered.clone();
        seat.replica = Some(Replica::new(config, recovered, Ledger::default(), 1000, self.now));
    }

    /// Kills a node: what is not synced is lost.
    pub fn crash(&mut self, id: NodeId) {
        let disk = self.seats[&id].disk.clone();
        self.seats.insert(id, Seat::new(disk));
    }

    pub fn cut_off(&mut self, id: NodeId) {
        for other in self.seats.keys().copied().filter(|other| *other != id) {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub fn replica(&self, id: NodeId) -> &Replica<Ledger> {
        self.seats[&id].replica.as_ref().expect("the node runs")
    }

    pub fn seat(&mut self, id: NodeId) -> &mut Seat {
        self.seats.get_mut(&id).unwrap()
    }

    pub fn step(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        self.seat(id).replica.as_mut().expect("the node runs").step(now, input);
    }

    pub fn propose(&mut self, to: NodeId, command: impl Into<Bytes>, deadline: Time) -> u64 {
        self.next_id += 1;
        let (id, command) = (ProposalId(self.next_id), command.into());
        self.step(to, Input::Propose { id, command, deadline });
        self.next_id
    }

    pub fn read(&mut self, from: NodeId, deadline: Time) -> u64 {
        self.next_id += 1;
        self.step(from, Input::Read { id: ReadId(self.next_id), deadline });
        self.next_id
    }

    pub fn order(&mut self, to: NodeId, order: impl FnOnce(OrderId) -> Input) -> u64 {
        self.next_id += 1;
        self.step(to, order(OrderId(self.next_id)));
        self.next_id
    }

    /// Lets time go by in small steps, delivering and syncing all the while.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            self.run();
        }
    }

    /// Everything that happens without time: messages, syncs, files.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("the cluster does not come to rest at {}: {:?}", self.now, self.wire);
    }

    /// The running node that leads and is ready to serve.
    pub fn leader(&mut self) -> NodeId {
        for _ in 0..500 {
            let leads = |seat: &Seat| {
                let status = seat.replica.as_ref().map(|replica| replica.raft().status());
                status.is_some_and(|status| status.role == RoleName::Leader && status.ready)
            };
            // One that was cut off may lead on in its belief for a while.
            let alone = |id: NodeId| {
                let cut = self.cut.iter().filter(|(from, _)| *from == id).count();
                cut > 0 && cut == self.seats.len() - 1
            };
            if let Some((id, _)) = self.seats.iter().find(|(id, seat)| leads(seat) && !alone(**id))
            {
                return *id;
            }
            self.pass(Duration::from_millis(10));
        }
        panic!("no leader within five seconds");
    }

    /// What a node's ledger holds, as one line.
    pub fn ledger(&self, id: NodeId) -> String {
        let commands = &self.replica(id).state().commands;
        commands.iter().map(|c| String::from_utf8_lossy(c)).collect::<Vec<_>>().join(" ")
    }

    /// One round; `false` when nothing happened.
    fn turn(&mut self) -> bool {
        let mut busy = false;
        let ids: Vec<NodeId> = self.seats.keys().copied().collect();
        for id in ids {
            let now = self.now;
            let seat = self.seats.get_mut(&id).unwrap();
            let Some(replica) = &mut seat.replica else { continue };
            if replica.deadline() <= now {
                replica.step(now, Input::Wake);
            }
            let work = replica.take_work();
            let held = replica.state().commands.len();
            busy |= !work.send.is_empty() || work.write.is_some();
            busy |= !work.chunks.is_empty() || work.restore.is_some();
            self.carry_out(id, held, work);
            busy |= self.sync(id);
            busy |= self.files(id);
            // More may be ready to be applied at once.
            let replica = self.seats[&id].replica.as_ref().unwrap();
            busy |= replica.deadline() <= now && !replica.is_over();
        }
        for message in std::mem::take(&mut self.wire) {
            let lost = self.cut.contains(&(message.from, message.to));
            let now = self.now;
            let seat = self.seats.get_mut(&message.to);
            if let Some(replica) = seat.filter(|_| !lost).and_then(|s| s.replica.as_mut()) {
                replica.step(now, Input::Receive(message));
                busy = true;
            }
        }
        busy
    }

    fn carry_out(&mut self, id: NodeId, held: usize, work: Work<usize>) {
        let seat = self.seats.get_mut(&id).unwrap();
        seat.unsynced.extend(work.write);
        seat.pieces_wanted.extend(work.restore);
        if let Some(order) = work.snapshot {
            assert!(seat.snapshot_wanted.replace(order).is_none(), "one snapshot at a time");
        }
        seat.fault = seat.fault.take().or(work.fault);
        for request in work.chunks {
            let (from, to) = (request.offset as usize, (request.offset + request.length) as usize);
            let body = seat.disk.snapshots.get(&request.meta.position);
            let data = body.map(|(_, body)| Bytes::copy_from_slice(&body[from..to]));
            seat.replica.as_mut().unwrap().step(self.now, Input::Chunk { request, data });
        }
        self.wire.extend(work.send);
        for (id, outcome) in work.answers {
            assert!(self.outcomes.insert(id.0, outcome).is_none(), "proposal {id:?} ends twice");
        }
        for (id, read) in work.reads {
            self.seen.insert(id.0, held);
            assert!(self.reads.insert(id.0, read).is_none(), "read {id:?} ends twice");
        }
        for (id, taken) in work.snapshots_taken {
            assert!(self.snapshots_taken.insert(id.0, taken).is_none());
        }
        for (id, ended) in work.transfers {
            assert!(self.transfers.insert(id.0, ended).is_none());
        }
    }

    fn sync(&mut self, id: NodeId) -> bool {
        let seat = self.seats.get_mut(&id).unwrap();
        if seat.disk_stalls || seat.unsynced.is_empty() {
            return false;
        }
        let mut last = WriteId(0);
        for write in std::mem::take(&mut seat.unsynced) {
            last = write.id;
            seat.disk.keep(write);
        }
        seat.replica.as_mut().unwrap().step(self.now, Input::Persisted(last));
        true
    }

    fn files(&mut self, id: NodeId) -> bool {
        let seat = self.seats.get_mut(&id).unwrap();
        if seat.files_stall {
            return false;
        }
        let mut inputs: Vec<Input> = Vec::new();
        for PieceRequest { meta, number } in std::mem::take(&mut seat.pieces_wanted) {
            let (_, body) = &seat.disk.snapshots[&meta.position];
            let piece = Ok(pieces(body).nth(number as usize));
            inputs.push(Input::Piece { of: meta.position, number, piece });
        }
        if let Some(mut order) = seat.snapshot_wanted.take() {
            let mut body = Vec::new();
            while let Some(piece) = order.source.next_piece() {
                body.push(piece.len() as u8);
                body.extend_from_slice(&piece);
            }
            // As on a real disk the body has an end of its own, so it is never empty.
            body.push(0);
            let meta = SnapshotMeta {
                position: order.position,
                membership: order.membership,
                body_bytes: body.len() as u64,
                digest: body.iter().map(|byte| u64::from(*byte)).sum(),
            };
            seat.disk.snapshots.insert(order.position, (meta.clone(), body));
            inputs.push(Input::SnapshotWritten(meta));
        }
        let busy = !inputs.is_empty();
        for input in inputs {
            seat.replica.as_mut().unwrap().step(self.now, input);
        }
        busy
    }
}

impl Seat {
    fn new(disk: ModelDisk) -> Seat {
        Seat {
            replica: None,
            disk,
            unsynced: Vec::new(),
            disk_stalls: false,
            files_stall: false,
            pieces_wanted: Vec::new(),
            snapshot_wanted: None,
            fault: None,
        }
    }

    /// The order for a snapshot that waits is forgotten: the test says how it ended.
    pub fn lose_snapshot_order(&mut self) {
        self.snapshot_wanted = None;
    }

    pub fn is_writing_snapshot(&self) -> bool {
        self.snapshot_wanted.is_some()
    }
}

impl ModelDisk {
    /// Carries out one write.
    fn keep(&mut self, write: Write) {
        for step in write.snapshots {
            match step {
                SnapshotWrite::Chunk { offset, data, .. } => {
                    self.receiving.truncate(offset as usize);
                    self.receiving.extend_from_slice(&data);
                }
                SnapshotWrite::Install(meta) => {
                    let body = std::mem::take(&mut self.receiving);
                    self.snapshots.insert(meta.position, (meta.clone(), body));
                    self.mark(meta);
                }
                SnapshotWrite::Mark(meta) => self.mark(meta),
            }
        }
        let recovered = &mut self.recovered;
        if let Some(hard_state) = write.hard_state {
            recovered.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            recovered.entries.retain(|entry| entry.index() < from);
        }
        recovered.entries.extend(write.entries);
    }

    fn mark(&mut self, meta: SnapshotMeta) {
        let recovered = &mut self.recovered;
        let at = meta.position;
        if recovered.entries.iter().any(|entry| entry.position == at) {
            recovered.entries.retain(|entry| at.index < entry.index());
        } else {
            recovered.entries.clear();
        }
        recovered.log_start = at;
        recovered.snapshot = Some(meta);
    }
}

fn pieces(mut body: &[u8]) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let (length, rest) = body.split_first().filter(|(length, _)| **length != 0)?;
        let (piece, rest) = rest.split_at(*length as usize);
        body = rest;
        Some(Bytes::copy_from_slice(piece))
    })
}
