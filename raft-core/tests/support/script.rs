//! The words in which stories are told: one command a line, one small function each. The commands
//! are listed in `COMMANDS`; a story runs them over a [`World`] and collects the transcript.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use raft_core::config::Config;
use raft_core::consensus::event::{Event, RoleName, Status};
use raft_core::membership::{Member, Membership};
use raft_core::message::{Body, Message};
use raft_core::types::{Entry, HardState, Index, LogPosition, NodeId, Payload, ProposalId, Term};
use raft_core::write::{Recovered, SnapshotMeta};

use super::app::App;
use super::disk::{Image, digest};
use super::print;
use super::world::{Hold, Pattern, World};

/// Every command, for the reader of stories.
///
/// A message pattern is any of `1->2`, `1->*`, `*->2` and a kind (`append`, `ack`, `heartbeat`,
/// `vote`, `pre-vote`, `snapshot`, `campaign-now`, `read-index`, their `-reply`, or the full name).
pub const COMMANDS: &str = "
cluster N                    N nodes whose logs hold the membership 1@1, in term 1
voters 1 2 [outgoing ..] [learners ..]     the membership that `node` puts at 1@1
node N [term=T] [vote=N] [log=1,1,2] [snapshot=I@T] [at I voters .. ]
                             a node with this log: the term of each entry; `at 3 voters 1 2 ...`
                             makes entry 3 a membership; `empty` for no log at all
config NAME=VALUE            a setting of nodes made after it
campaign N                   time passes for N alone until it campaigns
lead N                       N is elected in the next term, without telling how
put N WORD.. | put N size=B  proposals to N
read N                       a read at N
tick TIME                    time passes, cores wake, nothing is delivered
run TIME                     time passes with everything delivered and synced
settle                       everything is delivered and synced, no time passes
deliver PATTERN [nth=K]      what is under way now and fits (answers stay under way)
copy PATTERN [nth=K]         delivers, and leaves a copy under way
drop PATTERN [nth=K]         loses it
corrupt PATTERN              changes a byte in each snapshot piece under way that fits
hold PATTERN | free [PATTERN]   `settle` and `run` leave these alone
cut 1->2 | cut 1 2 | cut 1   links lose everything: one way, both ways, all of a node
heal                         no link is cut
hold-sync N / sync N [one]   the disk waits / syncs now (and holds on); free-sync N
slow | prompt                nothing is synced or done but by `sync` and `work`; or as usual
work N                       the oldest job of N (a chunk, a restore, a snapshot) is done
hold-effects N / free-effects N   steps gather, then all effects at once
hold-chunks, hold-restore, hold-snapshot N and free-...
crash N [kept=K]             dies; K unsynced writes happen to survive
restart N
peer-down N M                N learns that the process of M is gone
transfer N [M]               N is asked to hand leadership to M, or to anybody
snapshot N                   N is asked for a snapshot
lose-snapshots N             its snapshot files cannot be read any more
show heartbeats | show writes
log [N] | status [N] | peers N | applied [N] | wire | disk N
";

/// A story under way.
pub struct Story {
    /// The cluster it is about.
    pub world: World,
    /// Whether jobs are done and disks sync after each command, unless they are held.
    pub prompt: bool,
    membership: Membership,
}

/// The settings stories run with: the defaults, in full, but small limits.
pub fn story_config() -> Config {
    Config {
        id: NodeId(0),
        seed: 0,
        heartbeat: Duration::from_millis(75),
        election_timeout_min: Duration::from_millis(400),
        append_bytes_max: 1 << 20,
        inflight_bytes_max: 8 << 20,
        entry_bytes_max: 4096,
        uncommitted_bytes_max: 1 << 20,
        apply_bytes_max: 1 << 20,
        reads_max: 8,
        snapshot_bytes: 1 << 30,
        snapshot_entries: 1 << 30,
        tail_bytes: 0,
        chunk_bytes: 64,
    }
}

impl Story {
    /// An empty world.
    pub fn new() -> Story {
        Story {
            world: World::new(story_config()),
            prompt: true,
            membership: voters(&[1, 2, 3], &[], &[]),
        }
    }

    /// A story whose first commands are these.
    pub fn of(commands: &str) -> Story {
        let mut story = Story::new();
        story.run(commands);
        story
    }

    /// Runs the commands; what they made happen.
    pub fn run(&mut self, commands: &str) -> String {
        for line in commands.lines() {
            self.line(line);
        }
        self.world.transcript.drain(..).fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
    }

    /// Runs one command. Unless disks are held, they sync before the next one.
    fn line(&mut self, line: &str) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((command, args)) = words.split_first() else { return };
        self.command(command, args);
        if !self.prompt {
            return;
        }
        for id in self.world.ids() {
            self.pump_until_quiet(id);
        }
    }

    fn pump_until_quiet(&mut self, id: NodeId) {
        for _ in 0..1000 {
            if !self.world.pump(id) {
                return;
            }
        }
        panic!("{id} finds work again and again without time passing");
    }

    fn command(&mut self, command: &str, args: &[&str]) {
        match command {
            "cluster" => self.cluster(number(args[0])),
            "voters" => self.membership = membership(&words_with(command, args)),
            "node" => self.node(args),
            "config" => args.iter().for_each(|arg| self.config(arg)),
            "campaign" => self.campaign(id(args[0])),
            "lead" => self.lead(id(args[0])),
            "put" => self.put(id(args[0]), &args[1..]),
            "read" => drop(self.world.read(id(args[0]))),
            "tick" => self.world.tick(duration(args[0])),
            "run" => self.world.run(duration(args[0])),
            "settle" => self.world.settle(),
            "deliver" => self.deliver(args, false),
            "copy" => self.deliver(args, true),
            "drop" => self.lose(args),
            "corrupt" => self.corrupt(args),
            "hold" => self.world.held.push(pattern(args)),
            "free" => self.free(args),
            "cut" => self.cut(args),
            "heal" => self.world.cut.clear(),
            "sync" => self.sync(args),
            "slow" => self.prompt = false,
            "prompt" => self.prompt = true,
            "work" => self.world.work_one(id(args[0])),
            "crash" => self.world.crash(id(args[0]), option(args, "kept").map_or(0, to_usize)),
            "restart" if self.world.is_up(id(args[0])) => {}
            "restart" => self.world.start(id(args[0])),
            "peer-down" => self.world.step(id(args[0]), Event::PeerDown(id(args[1]))),
            "transfer" => self.transfer(args),
            "snapshot" => self.snapshot(id(args[0])),
            "lose-snapshots" => self.world.node(id(args[0])).disk.lose_snapshots(),
            "show" => self.show(args[0]),
            "log" => self.each(args, Story::tell_log),
            "status" => self.each(args, Story::tell_status),
            "peers" => self.each(args, Story::tell_peers),
            "applied" => self.each(args, Story::tell_applied),
            "disk" => self.each(args, Story::tell_disk),
            "wire" => self.tell_wire(),
            _ => match command.split_once('-') {
                Some(("hold", what)) => self.hold(what, args),
                Some(("free", what)) => self.free_hold(what, args),
                _ => panic!("no such command: {command}\n{COMMANDS}"),
            },
        }
    }

    fn tell(&mut self, line: String) {
        self.world.transcript.push(line);
    }

    // For tests that ask rather than read.

    /// The status of a running node.
    pub fn status(&self, node: u64) -> Status {
        self.world.status(NodeId(node))
    }

    /// Whether a node leads.
    pub fn leads(&self, node: u64) -> bool {
        self.status(node).role == RoleName::Leader
    }

    /// Index and term of each entry a node's log holds, synced or not.
    pub fn log(&self, node: u64) -> Vec<(u64, u64)> {
        let entries = &self.world.nodes[&NodeId(node)].disk.live.entries;
        entries.iter().map(|entry| (entry.index().0, entry.term().0)).collect()
    }

    /// The commands a node has applied.
    pub fn applied(&self, node: u64) -> Vec<String> {
        let commands = &self.world.nodes[&NodeId(node)].app.commands;
        commands.iter().map(|(_, command)| print::command(command)).collect()
    }

    /// The voters by which a node decides.
    pub fn voters(&self, node: u64) -> Vec<u64> {
        self.status(node).membership.voters().iter().map(|id| id.0).collect()
    }

    /// Hands a message to its receiver as if it had come from the network; what follows.
    pub fn forge(&mut self, from: u64, to: u64, term: u64, body: Body) -> String {
        let (from, to) = (NodeId(from), NodeId(to));
        self.world.receive(Message { from, to, term: Term(term), id: 1 << 40, body });
        self.run("show heartbeats")
    }

    // Making nodes.

    fn cluster(&mut self, nodes: u64) {
        let ids: Vec<u64> = (1..=nodes).collect();
        self.membership = voters(&ids, &[], &[]);
        for node in ids {
            self.node(&[&node.to_string()]);
        }
    }

    /// `node 3 term=2 vote=1 log=1,1,2 at 3 voters 1 2 4 outgoing 1 2 3`
    fn node(&mut self, args: &[&str]) {
        let node = id(args[0]);
        let terms: Vec<u64> = match option_text(args, "log") {
            _ if args.contains(&"empty") => Vec::new(),
            Some(text) => text.split(',').map(number).collect(),
            None => vec![1],
        };
        let mut image = Image::default();
        let mut given = BTreeMap::from([(1, self.membership.clone())]);
        for part in args.join(" ").split(" at ").skip(1) {
            let (index, shape) = part.split_once(' ').expect("at INDEX voters ...");
            given.insert(number(index), membership(&shape.split(' ').collect::<Vec<_>>()));
        }
        for (offset, term) in terms.iter().enumerate() {
            let index = offset as u64 + 1;
            let payload = match given.remove(&index) {
                Some(membership) => Payload::Membership(membership),
                None => Payload::Command(Bytes::from(format!("c{index}.{term}"))),
            };
            image.entries.push(Entry { position: at(index, *term), payload });
        }
        let last = terms.last().copied().unwrap_or(0);
        image.hard_state = HardState {
            term: Term(option(args, "term").unwrap_or(last)),
            vote: option(args, "vote").map(NodeId),
        };
        if let Some(text) = option_text(args, "snapshot") {
            let (index, term) = text.split_once('@').expect("snapshot=INDEX@TERM");
            self.put_snapshot(&mut image, at(number(index), number(term)));
        }
        self.world.add(node, image);
    }

    /// Replaces the log up to `position` by a snapshot of it. What it covers was committed.
    fn put_snapshot(&mut self, image: &mut Image, position: LogPosition) {
        let mut app = App::default();
        let mut membership = Membership::default();
        let covered: Vec<Entry> =
            image.entries.iter().filter(|entry| entry.index() <= position.index).cloned().collect();
        for entry in &covered {
            app.apply(entry);
            if let Payload::Membership(newest) = &entry.payload {
                membership = newest.clone();
            }
        }
        assert_eq!(app.at, position, "the log holds no such entry to snapshot");
        let places: Vec<LogPosition> = covered.iter().map(|entry| entry.position).collect();
        self.world.laws.was_committed(&places);
        let body = app.body();
        let (body_bytes, digest) = (body.len() as u64, digest(&body));
        image.snapshots.push((SnapshotMeta { position, membership, body_bytes, digest }, body));
        image.entries.retain(|entry| position.index < entry.index());
        image.log_start = position;
    }

    fn config(&mut self, setting: &str) {
        let (name, value) = setting.split_once('=').expect("config NAME=VALUE");
        let config = &mut self.world.config;
        match name {
            "heartbeat" => config.heartbeat = duration(value),
            "election_timeout_min" => config.election_timeout_min = duration(value),
            "append_bytes_max" => config.append_bytes_max = number(value),
            "inflight_bytes_max" => config.inflight_bytes_max = number(value),
            "entry_bytes_max" => config.entry_bytes_max = number(value),
            "uncommitted_bytes_max" => config.uncommitted_bytes_max = number(value),
            "apply_bytes_max" => config.apply_bytes_max = number(value),
            "reads_max" => config.reads_max = to_usize(number(value)),
            "snapshot_bytes" => config.snapshot_bytes = number(value),
            "snapshot_entries" => config.snapshot_entries = number(value),
            "tail_bytes" => config.tail_bytes = number(value),
            "chunk_bytes" => config.chunk_bytes = number(value),
            _ => panic!("no such setting: {name}"),
        }
    }

    // Clients and operators.

    /// Time passes for this node alone until it asks for votes (or leads, or gives up asking).
    fn campaign(&mut self, node: NodeId) {
        assert!(self.world.is_up(node), "{node} is down");
        let deadline = self.world.nodes[&node].core.as_ref().map(|core| core.deadline());
        self.world.now = self.world.now.max(deadline.expect("it is up"));
        self.world.step(node, Event::Wake);
    }

    fn lead(&mut self, node: NodeId) {
        let told = self.world.transcript.len();
        self.campaign(node);
        self.world.settle();
        let status = self.world.status(node);
        assert!(status.role == RoleName::Leader, "{node} was not elected");
        self.world.transcript.truncate(told);
        self.tell(format!("{node}@{} leads", status.term));
    }

    fn put(&mut self, node: NodeId, words: &[&str]) {
        for word in words {
            let command = match word.strip_prefix("size=") {
                Some(size) => Bytes::from(vec![b'x'; to_usize(number(size))]),
                None => Bytes::copy_from_slice(word.as_bytes()),
            };
            self.world.propose(node, command);
        }
    }

    /// Proposes one command and names it, for tests that ask what became of it.
    pub fn propose(&mut self, node: u64, word: &str) -> ProposalId {
        self.world.propose(NodeId(node), Bytes::copy_from_slice(word.as_bytes()))
    }

    fn transfer(&mut self, args: &[&str]) {
        let to = args.get(1).map(|word| id(word));
        self.world.step(id(args[0]), Event::Transfer { to });
    }

    fn snapshot(&mut self, node: NodeId) {
        if !self.world.begin_snapshot(node, true) {
            self.tell(format!("{node} has nothing to take a snapshot of"));
        }
    }

    // The network.

    fn deliver(&mut self, args: &[&str], copy: bool) {
        let pattern = pattern(args);
        let delivered = match option(args, "nth") {
            None if copy => {
                let fits = |flight: &&super::world::Flight| pattern.fits(&flight.message);
                let messages: Vec<_> =
                    self.world.wire.iter().filter(fits).map(|f| f.message.clone()).collect();
                let count = messages.len();
                messages.into_iter().for_each(|message| self.world.receive(message));
                count
            }
            None => self.world.deliver(&pattern),
            Some(nth) => self.deliver_one(&pattern, nth, copy),
        };
        if delivered == 0 && self.world.telling {
            self.tell("nothing to deliver".to_string());
        }
    }

    fn deliver_one(&mut self, pattern: &Pattern, nth: u64, copy: bool) -> usize {
        let Some(number) = self.world.find(pattern, to_usize(nth.saturating_sub(1))) else {
            return 0;
        };
        let flight = self.world.wire.iter().find(|flight| flight.number == number).cloned();
        if !copy {
            self.world.take(number);
        }
        self.world.receive(flight.expect("it was just found").message);
        1
    }

    fn lose(&mut self, args: &[&str]) {
        let pattern = pattern(args);
        match option(args, "nth") {
            Some(nth) => {
                if let Some(number) = self.world.find(&pattern, to_usize(nth.saturating_sub(1))) {
                    self.world.take(number);
                }
            }
            None => self.world.wire.retain(|flight| !pattern.fits(&flight.message)),
        }
    }

    fn corrupt(&mut self, args: &[&str]) {
        let pattern = pattern(args);
        for flight in self.world.wire.iter_mut().filter(|flight| pattern.fits(&flight.message)) {
            if let Body::InstallSnapshot { data, .. } = &mut flight.message.body {
                let mut bytes = data.to_vec();
                bytes[0] ^= 1;
                *data = Bytes::from(bytes);
            }
        }
    }

    fn free(&mut self, args: &[&str]) {
        let freed = pattern(args);
        self.world.held.retain(|held| !args.is_empty() && *held != freed);
    }

    fn cut(&mut self, args: &[&str]) {
        let links: Vec<(NodeId, NodeId)> = match args {
            [link] if link.contains("->") => {
                let (from, to) = link.split_once("->").expect("FROM->TO");
                vec![(id(from), id(to))]
            }
            [one] => {
                let others = self.world.ids().into_iter().filter(|other| *other != id(one));
                others.flat_map(|other| [(id(one), other), (other, id(one))]).collect()
            }
            [a, b] => vec![(id(a), id(b)), (id(b), id(a))],
            _ => panic!("cut 1->2 | cut 1 2 | cut 1"),
        };
        self.world.cut.extend(links);
        let World { wire, cut, .. } = &mut self.world;
        wire.retain(|flight| !cut.contains(&(flight.message.from, flight.message.to)));
    }

    // Disks and threads.

    fn sync(&mut self, args: &[&str]) {
        let node = id(args[0]);
        let _ =
            if args.contains(&"one") { self.world.sync_one(node) } else { self.world.sync(node) };
    }

    fn hold(&mut self, what: &str, args: &[&str]) {
        self.world.node(id(args[0])).holds.insert(hold(what));
    }

    fn free_hold(&mut self, what: &str, args: &[&str]) {
        self.world.release(id(args[0]), hold(what));
    }

    // Looking.

    fn show(&mut self, what: &str) {
        match what {
            "heartbeats" => self.world.tell_heartbeats = true,
            "writes" => self.world.tell_writes = true,
            "less" => {
                self.world.tell_heartbeats = false;
                self.world.tell_writes = false;
            }
            _ => panic!("show heartbeats | writes | less"),
        }
    }

    fn each(&mut self, args: &[&str], tell: fn(&mut Story, NodeId)) {
        let ids =
            if args.is_empty() { self.world.ids() } else { args.iter().map(|a| id(a)).collect() };
        for id in ids {
            if self.world.is_up(id) { tell(self, id) } else { self.tell(format!("{id} is down")) }
        }
    }

    fn tell_log(&mut self, node: NodeId) {
        let image = &self.world.nodes[&node].disk.live;
        let mut parts: Vec<String> = Vec::new();
        if image.snapshot() != LogPosition::ORIGIN {
            parts.push(format!("(snapshot {})", image.snapshot()));
        }
        parts.extend(image.entries.iter().map(print::entry));
        self.tell(format!("{node} log {}", parts.join(" | ")));
    }

    fn tell_disk(&mut self, node: NodeId) {
        let Recovered { hard_state, snapshot, entries, .. } =
            self.world.nodes[&node].disk.recover();
        let vote = hard_state.vote.map_or("none".to_string(), |id| id.to_string());
        let snapshot =
            snapshot.map_or(String::new(), |meta| format!(", snapshot {}", meta.position));
        self.tell(format!(
            "{node} disk term {} vote {vote}{snapshot}, log {}",
            hard_state.term,
            print::range(&entries)
        ));
    }

    fn tell_status(&mut self, node: NodeId) {
        let status = self.world.status(node);
        let leader = match (status.role, status.leader) {
            (RoleName::Leader, _) => if status.ready { " (ready)" } else { "" }.to_string(),
            (_, Some(leader)) => format!(" of {leader}"),
            (_, None) => String::new(),
        };
        self.tell(format!(
            "{node}@{} {}{leader}: last {}, durable {}, committed {}, applied {}, {}",
            status.term,
            status.role.as_str(),
            status.last,
            status.durable,
            status.committed,
            status.applied,
            status.membership
        ));
    }

    fn tell_peers(&mut self, node: NodeId) {
        for peer in self.world.status(node).peers {
            let inflight = if peer.inflight_bytes == 0 { "" } else { ", more under way" };
            self.tell(format!(
                "{node} sees {}: {}, matched {}, next {}{inflight}",
                peer.id, peer.state, peer.matched, peer.next
            ));
        }
    }

    fn tell_applied(&mut self, node: NodeId) {
        let app = &self.world.nodes[&node].app;
        let commands: Vec<String> =
            app.commands.iter().map(|(_, command)| print::command(command)).collect();
        self.tell(format!("{node} applied up to {}: {}", app.at, commands.join(" ")));
    }

    fn tell_wire(&mut self) {
        let lines: Vec<String> =
            self.world.wire.iter().map(|flight| print::message(&flight.message)).collect();
        lines.into_iter().for_each(|line| self.tell(format!("under way: {line}")));
    }
}

/// A membership of these voters, outgoing voters and learners.
pub fn voters(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> Membership {
    let set = |ids: &[u64]| -> BTreeSet<NodeId> { ids.iter().map(|id| NodeId(*id)).collect() };
    let members = [voters, outgoing, learners]
        .concat()
        .into_iter()
        .map(|id| {
            let (name, address) = (format!("node{id}"), format!("localhost:{}", 8000 + id));
            (NodeId(id), Member { name, address })
        })
        .collect();
    Membership::new(members, set(voters), set(outgoing), set(learners)).expect("a sound membership")
}

/// The position `index@term`.
pub fn at(index: u64, term: u64) -> LogPosition {
    LogPosition::new(Index(index), Term(term))
}

/// `voters 1 2 3 outgoing 1 2 learners 4`
fn membership(words: &[&str]) -> Membership {
    let mut sides: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut side = "voters";
    for word in words {
        match word.parse() {
            Ok(id) => sides.entry(side).or_default().push(id),
            Err(_) => side = word,
        }
    }
    let of = |name: &str| sides.get(name).cloned().unwrap_or_default();
    voters(&of("voters"), &of("outgoing"), &of("learners"))
}

fn words_with<'a>(command: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    std::iter::once(command).chain(args.iter().copied()).collect()
}

fn pattern(args: &[&str]) -> Pattern {
    let mut pattern = Pattern::default();
    for arg in args.iter().filter(|arg| !arg.contains('=')) {
        match arg.split_once("->") {
            Some((from, to)) => {
                pattern.from = (from != "*").then(|| id(from));
                pattern.to = (to != "*").then(|| id(to));
            }
            None => pattern.kind = Some(full_kind(arg).to_string()),
        }
    }
    pattern
}

fn full_kind(word: &str) -> &str {
    match word {
        "append" => "append-entries",
        "ack" => "append-reply",
        "vote" => "request-vote",
        "snapshot" => "install-snapshot",
        "campaign-now" => "timeout-now",
        other => other,
    }
}

fn hold(what: &str) -> Hold {
    match what {
        "sync" => Hold::Sync,
        "effects" => Hold::Effects,
        "chunks" => Hold::Chunks,
        "restore" => Hold::Restore,
        "snapshot" => Hold::Snapshot,
        _ => panic!("nothing to hold: {what}"),
    }
}

fn option_text<'a>(args: &[&'a str], name: &str) -> Option<&'a str> {
    args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
}

fn option(args: &[&str], name: &str) -> Option<u64> {
    option_text(args, name).map(number)
}

fn id(word: &str) -> NodeId {
    NodeId(number(word))
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("a small number")
}

fn duration(word: &str) -> Duration {
    match word.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(number(millis)),
        None => Duration::from_secs(number(word.strip_suffix('s').expect("TIMEms or TIMEs"))),
    }
}
