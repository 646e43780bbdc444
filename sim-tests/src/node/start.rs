//! The start of a process: it reads its disk, and a formed one becomes a node.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kv_daemon::form::start::check_restart;
use kv_daemon::form::{Forming, Identity, PeerSpec};
use raft_core::codec::{FRAME_BYTES_MAX, FrameDecoder};
use raft_core::config::Config;
use raft_core::consensus::event::RoleName;
use raft_core::keeper::{Keeper, PieceReader};
use raft_core::replica::Replica;
use raft_core::storage::meta::DataDir;
use raft_core::storage::{Storage, StorageOptions};
use raft_core::types::{NodeId, Time};

use crate::app::App;
use crate::invariants::promises;
use crate::marks::Mark;
use crate::observed::Observed;
use crate::plan::{Knobs, Machine, Spelling};
use crate::queue::Event;
use crate::trace::{Exit, Seen};
use crate::world::World;

use super::end::exit_of;
use super::{FormingProcess, Lanes, LogLane, Place, Process, Running};

/// Starting.
impl<A: App> World<A> {
    /// A process begins to read its disk.
    pub(crate) fn start(&mut self, machine: Machine) {
        let place = self.place(machine);
        if place.is_up() {
            return;
        }
        place.life += 1;
        place.process = Process::Opening;
        let life = place.life;
        let takes = place.rng.log_span(Duration::from_micros(500), Duration::from_millis(20));
        self.later(takes, Event::Opened(machine, life));
    }

    /// The disk has been read: on to a cluster or to forming one.
    pub(crate) fn opened(&mut self, machine: Machine) {
        let place = self.place(machine);
        let (name, random) =
            (format!("node{}", machine.0 + 1), Place::<A>::fresh_id(machine, place.wipes));
        let disk = place.disk.handle();
        let dir = match DataDir::open(disk, Some(&name), random) {
            Ok(dir) => dir,
            Err(error) => return self.exit(machine, exit_of(&error)),
        };
        place.id = dir.meta().node_id;
        if dir.meta().cluster.is_some() {
            return self.run_node(machine, dir);
        }
        let id = place.id;
        let me = identity(machine, id);
        let now = self.local(machine);
        let peers = self.peers_of(machine);
        let forming = Forming::new(me, peers, "simulated", now);
        let would_form = (None, Time(0));
        let forming =
            FormingProcess { dir, forming, decided: None, wake_at: Time::NEVER, would_form };
        self.place(machine).process = Process::Forming(Box::new(forming));
        self.see(Seen::Started { machine, node: id, recovered: None });
        if self.plan.machines() == 1 {
            return self.decide_alone(machine);
        }
        self.form_wake(machine);
    }

    /// A node begins on a formed disk.
    pub(super) fn run_node(&mut self, machine: Machine, dir: DataDir) {
        let now = self.now;
        let knobs = self.plan.knobs.clone();
        let traced = self.traced;
        let place = self.place(machine);
        let id = dir.meta().node_id;
        let cluster = dir.meta().cluster.expect("the caller looked");
        let (seed, salts) = (place.rng.bits(), place.rng.bits());
        let opened =
            Storage::open(Arc::clone(dir.disk()), dir.meta(), storage_options(&knobs, salts));
        let (storage, recovered) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.exit(machine, exit_of(&error)),
        };
        // Now and then what was just recovered is recovered again, as after a crash that came at
        // once: it has to be the same.
        let again = place.rng.below(RECOVER_TWICE) == 0;
        let (storage, recovered) = if again {
            drop(storage);
            let options = storage_options(&knobs, salts ^ 1);
            match Storage::open(Arc::clone(dir.disk()), dir.meta(), options) {
                Ok((storage, second)) => {
                    if let Err(broken) = promises::same_again(id, &recovered, &second) {
                        return self.violate(broken.rule, broken.what);
                    }
                    (storage, second)
                }
                Err(error) => return self.exit(machine, exit_of(&error)),
            }
        } else {
            (storage, recovered)
        };
        let place = self.place(machine);
        if let Some(wrong) = place.disk.wrong() {
            if let Err(broken) = promises::refuses(machine, wrong) {
                return self.violate(broken.rule, broken.what);
            }
            self.marks.hit(Mark::DidWithoutWrongFile);
        }
        let place = self.place(machine);
        let local = place.clock.read(now);
        let snapshots = storage.snapshots().clone();
        let shown = recovered.clone();
        let config = core_config(&knobs, id, seed);
        let waiting_max = knobs.waiting_max as usize;
        let mut replica = Replica::new(config, recovered, Observed::new(), waiting_max, local);
        replica.trace(traced);
        let membership = replica.raft().log().membership();
        let peers = self.peers_of(machine);
        let restart =
            check_restart("the data directory", &identity(machine, id), &peers, membership);
        if let Err(why) = restart {
            return self.exit(machine, Exit::Foreign(why));
        }
        let running = Running {
            replica,
            cluster,
            _dir: dir,
            keeper: Keeper::new(storage),
            decoder: FrameDecoder::new(FRAME_BYTES_MAX),
            lanes: Lanes::default(),
            busy_until: now,
            pass_due: false,
            wake_at: Time::NEVER,
            log: LogLane::default(),
            making: None,
            removing: None,
            pieces: PieceReader::new(snapshots.clone()),
            snapshots,
            writing: None,
            reading: VecDeque::new(),
            last_id: 0,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            waiting: Vec::new(),
            leader: None,
            role: RoleName::Follower,
            leaving: None,
            stop_by: None,
        };
        let place = self.place(machine);
        place.process = Process::Running(Box::new(running));
        if shown.snapshot.is_some() {
            self.marks.hit(Mark::RecoveredFromSnapshot);
        }
        self.see(Seen::Started { machine, node: id, recovered: Some(&shown) });
        self.run_log(machine);
        self.pass(machine);
    }

    /// What an operator starts it with as `--peers`.
    fn peers_of(&self, machine: Machine) -> Vec<PeerSpec> {
        let all = (0..self.plan.machines()).map(Machine);
        let mut peers: Vec<String> = all.filter(|other| *other != machine).map(address).collect();
        match self.places[usize::from(machine.0)].spelling {
            None => {}
            Some(Spelling::Short) => drop(peers.pop()),
            Some(Spelling::Long) => peers.push(address(Machine(u8::MAX - 1))),
            Some(Spelling::Itself) => peers.push(address(machine)),
            Some(Spelling::Alias) => peers.iter_mut().for_each(|peer| peer.insert_str(0, ALIAS)),
        }
        peers.into_iter().map(|address| PeerSpec { name: None, address }).collect()
    }

    /// Where an address leads.
    pub(super) fn resolve(&self, spelled: &str) -> Option<Machine> {
        let spelled = spelled.strip_prefix(ALIAS).unwrap_or(spelled);
        (0..self.plan.machines()).map(Machine).find(|machine| address(*machine) == spelled)
    }
}

/// One start in so many recovers twice.
const RECOVER_TWICE: u64 = 6;

/// Makes another name of an address.
const ALIAS: &str = "lan.";

/// `m1:8001`, as members know each other.
pub(crate) fn address(machine: Machine) -> String {
    format!("{machine}:8001")
}

pub(super) fn identity(machine: Machine, id: NodeId) -> Identity {
    Identity { node_id: id, name: format!("node{}", machine.0 + 1), address: address(machine) }
}

pub(crate) fn storage_options(knobs: &Knobs, seed: u64) -> StorageOptions {
    StorageOptions {
        segment_bytes_first: knobs.segment_bytes_first,
        segment_bytes_max: knobs.segment_bytes_max,
        ..StorageOptions::new(seed)
    }
}

fn core_config(knobs: &Knobs, id: NodeId, seed: u64) -> Config {
    let mut config = Config::new(id);
    config.seed = seed;
    config.heartbeat = knobs.heartbeat;
    config.election_timeout_min = knobs.election_timeout_min;
    config.append_bytes_max = knobs.append_bytes_max;
    config.inflight_bytes_max = knobs.inflight_bytes_max;
    config.entry_bytes_max = knobs.entry_bytes_max;
    config.uncommitted_bytes_max = knobs.uncommitted_bytes_max;
    config.apply_bytes_max = knobs.apply_bytes_max;
    config.reads_max = knobs.reads_max as usize;
    config.snapshot_bytes = knobs.snapshot_bytes;
    config.snapshot_entries = knobs.snapshot_entries;
    config.tail_bytes = knobs.tail_bytes;
    config.chunk_bytes = knobs.chunk_bytes;
    config
}
