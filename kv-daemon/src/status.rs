//! What a node shows of itself: `/health`, the checks of `/readyz`, `/cluster/status`, the greeting
//! of `/` and the families of `/metrics`. Everything here is a look; nothing is changed or awaited.

use std::sync::atomic::{AtomicU64, Ordering};

use carp::Ownership;
use raft_core::consensus::event::{PeerStatus, RoleName};
use raft_core::membership::{Member, Membership};
use raft_core::node::{NodeStatus, SYNC_BUCKETS_MICROS};
use raft_core::types::{NodeId, Time};
use serde::Serialize;
use twox_hash::XxHash64;

use crate::daemon::{Daemon, Serving, leader_url};
use crate::metrics::{BUCKETS_MICROS, Text};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A member is called reachable when the leader heard it this recently.
const REACHABLE_MS: u64 = 1000;

/// The body of `/health`.
#[derive(Debug, Serialize)]
pub struct Health {
    /// `ok`, or why not.
    status: String,
    id: String,
    node_id: String,
    cluster: Option<String>,
    role: &'static str,
    leader: Option<String>,
    leader_url: Option<String>,
    term: u64,
    commit_index: u64,
    applied_index: u64,
    last_log_index: u64,
    revision: u64,
    version: &'static str,
    uptime_s: u64,
}

impl Health {
    /// Whether it is a 200.
    pub fn is_ok(&self) -> bool {
        self.status == "ok"
    }
}

/// One check of `/readyz`.
#[derive(Debug)]
pub struct Check {
    /// `node`, `storage`, `leader`, `applied`, `sync`.
    pub name: &'static str,
    /// What is wrong, if anything.
    pub fault: Option<String>,
}

/// The health of the node: its first fault, or `ok`.
pub fn health(daemon: &Daemon) -> Health {
    let fault = checks(daemon).into_iter().find_map(|check| check.fault);
    let mut health = Health {
        status: fault.unwrap_or_else(|| "ok".to_owned()),
        id: daemon.name.clone(),
        node_id: hex(daemon.node_id),
        cluster: None,
        role: "forming",
        leader: None,
        leader_url: None,
        term: 0,
        commit_index: 0,
        applied_index: 0,
        last_log_index: 0,
        revision: daemon.revision(),
        version: VERSION,
        uptime_s: daemon.started.elapsed().as_secs(),
    };
    if let Some(serving) = daemon.serving() {
        let status = serving.handle.status();
        health.cluster = Some(serving.cluster.to_string());
        health.role = role(&status, daemon.node_id);
        health.leader = leader(&status).map(|(_, member)| member.name.clone());
        health.leader_url = leader_url(&status);
        health.term = status.core.term.0;
        health.commit_index = status.core.committed.0;
        health.applied_index = status.core.applied.0;
        health.last_log_index = status.core.last.index.0;
    }
    health
}

/// What `/readyz` looks at, in this order.
pub fn checks(daemon: &Daemon) -> Vec<Check> {
    let check = |name, fault| Check { name, fault };
    let Some(serving) = daemon.serving() else {
        let (why, since) = daemon.waiting();
        let why = format!("forming for {} s: {why}", since.as_secs());
        return vec![
            check("node", Some(why)),
            check("storage", None),
            check("leader", Some("no cluster yet".to_owned())),
            check("applied", Some("no cluster yet".to_owned())),
        ];
    };
    let status = serving.handle.status();
    let stopping = daemon.is_stopping() || status.stopped;
    let expelled =
        !status.core.membership.is_empty() && !status.core.membership.contains(daemon.node_id);
    let node = match (stopping, expelled) {
        (true, _) => Some("stopping".to_owned()),
        (_, true) => Some("this node is no member of its cluster any more".to_owned()),
        (false, false) => None,
    };
    let storage = match (&status.failed, status.room) {
        (Some(failure), _) => Some(failure.to_string()),
        (None, false) => Some("the disk is full: writes are refused, reads go on".to_owned()),
        (None, true) => None,
    };
    let no_leader = status.leader().is_none().then(|| no_leader(serving, &status));
    let applied = match (status.restoring, daemon.keeps_up()) {
        (true, _) => Some("putting back a snapshot".to_owned()),
        (false, false) => Some(format!(
            "behind: applied {} of {} committed",
            status.core.applied, status.core.committed
        )),
        (false, true) => None,
    };
    vec![
        check("node", node),
        check("storage", storage),
        check("leader", no_leader),
        check("applied", applied),
    ]
}

/// Why there is no leader, as far as this node can tell, and since when.
fn no_leader(serving: &Serving, status: &NodeStatus) -> String {
    let down: Vec<String> = serving
        .peers
        .numbers()
        .into_iter()
        .filter(|peer| peer.up == Some(false) || peer.problem.is_some())
        .filter_map(|peer| {
            let member = status.core.membership.member(peer.id)?;
            let why = peer.problem.unwrap_or_else(|| "unreachable".to_owned());
            Some(format!("{} ({}): {why}", member.name, member.address))
        })
        .collect();
    let since = match serving.contact(status) {
        Some(contact) => {
            format!("no leader for {} s", serving.handle.now().since(contact).as_secs())
        }
        None => "no leader yet".to_owned(),
    };
    if down.is_empty() { since } else { format!("{since}; {}", down.join("; ")) }
}

/// What ends a node: its storage or a thread of it failed.
pub fn fatal(daemon: &Daemon) -> Option<String> {
    let status = daemon.serving()?.handle.status();
    status.failed.as_ref().map(ToString::to_string)
}

/// The body of `/cluster/status`.
#[derive(Debug, Serialize)]
pub struct Cluster {
    cluster: String,
    /// Its name in an array of clusters, from the log or else from the flag.
    cluster_name: Option<String>,
    /// The epoch of the map of the array in force.
    carp_epoch: Option<u64>,
    id: String,
    term: u64,
    leader: Option<String>,
    leader_url: Option<String>,
    commit_index: u64,
    applied_index: u64,
    last_log_index: u64,
    snapshot_index: u64,
    revision: u64,
    version: &'static str,
    /// Voters that have to agree.
    quorum: usize,
    /// How many voters may fail.
    failure_tolerance: usize,
    /// Equal on nodes that hold the same membership.
    config_digest: String,
    /// A change of the membership is under way.
    changing: bool,
    members: Vec<MemberStatus>,
}

/// One member of `/cluster/status`. What only the leader knows is null elsewhere.
#[derive(Debug, Serialize)]
struct MemberStatus {
    id: String,
    node_id: String,
    address: String,
    url: String,
    role: &'static str,
    voter: bool,
    learner: bool,
    reachable: Option<bool>,
    match_index: Option<u64>,
    lag: Option<u64>,
    inflight_bytes: Option<u64>,
    replication: Option<&'static str>,
    last_contact_ms: Option<u64>,
    rtt_ms: Option<f64>,
    problem: Option<String>,
}

/// The cluster as this node sees it.
pub fn cluster(daemon: &Daemon, serving: &Serving) -> Cluster {
    let status = serving.handle.status();
    let (core, now) = (&status.core, serving.handle.now());
    let numbers = serving.peers.numbers();
    let members = core.membership.members().map(|(id, member)| {
        let progress = core.peers.iter().find(|peer| peer.id == id);
        let wire = numbers.iter().find(|peer| peer.id == id);
        let itself = id == daemon.node_id;
        let contact = progress.and_then(|peer| millis_since(peer.contact, now));
        let voter = core.membership.is_voter(id);
        MemberStatus {
            id: member.name.clone(),
            node_id: hex(id),
            address: member.address.clone(),
            url: format!("http://{}", member.address),
            role: match () {
                () if core.leader == Some(id) => "leader",
                () if itself => role(&status, id),
                () if voter => "follower",
                () => "learner",
            },
            voter,
            learner: !voter,
            reachable: match (itself, contact) {
                (true, _) => Some(true),
                (false, Some(millis)) => Some(millis <= REACHABLE_MS),
                (false, None) => wire.and_then(|wire| wire.up),
            },
            match_index: match itself {
                true => Some(core.durable.0),
                false => progress.map(|peer| peer.matched.0),
            },
            lag: progress.map(|peer| core.last.index.0.saturating_sub(peer.matched.0)),
            inflight_bytes: progress.map(|peer| peer.inflight_bytes),
            replication: progress.map(|peer| peer.state),
            last_contact_ms: contact,
            rtt_ms: wire.and_then(|wire| wire.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0),
            problem: wire.and_then(|wire| wire.problem.clone()),
        }
    });
    let quorum = core.membership.voters().len() / 2 + 1;
    Cluster {
        cluster: serving.cluster.to_string(),
        cluster_name: cluster_name(daemon),
        carp_epoch: serving.store.map_epoch(),
        id: daemon.name.clone(),
        term: core.term.0,
        leader: leader(&status).map(|(_, member)| member.name.clone()),
        leader_url: leader_url(&status),
        commit_index: core.committed.0,
        applied_index: core.applied.0,
        last_log_index: core.last.index.0,
        snapshot_index: core.snapshot.index.0,
        revision: serving.store.revision(),
        version: VERSION,
        quorum,
        failure_tolerance: core.membership.voters().len()
            - quorum.min(core.membership.voters().len()),
        config_digest: config_digest(&core.membership),
        changing: core.membership.is_joint(),
        members: members.collect(),
    }
}

/// The body of `/config`.
pub fn config(daemon: &Daemon) -> serde_json::Value {
    let epoch = daemon.serving().and_then(|serving| serving.store.map_epoch());
    serde_json::json!({
        "name": daemon.name, "address": daemon.address, "cluster_name": cluster_name(daemon),
        "carp_epoch": epoch, "settings": daemon.settings,
    })
}

/// What the cluster is called in its array: as its log has it, or else as this node was told.
fn cluster_name(daemon: &Daemon) -> Option<String> {
    let own = daemon.serving().and_then(|serving| serving.store.ownership());
    let named = own.map(|own| own.me().clone()).or(daemon.shard.name.clone());
    named.map(|name| name.to_string())
}

/// The answer of `/`: name, version, role, and what to try next.
pub fn welcome(daemon: &Daemon) -> String {
    let role = match daemon.serving() {
        None => format!("forming: {}", daemon.waiting().0),
        Some(serving) => {
            let status = serving.handle.status();
            let leader = leader(&status).map(|(_, member)| member.name.as_str());
            format!("{}, leader: {}", role(&status, daemon.node_id), leader.unwrap_or("none"))
        }
    };
    let (name, address) = (&daemon.name, &daemon.address);
    format!(
        "kv-daemon {VERSION}: {name}, {role}\n\n\
         curl -X PUT {address}/kv/color -d blue\n\
         curl {address}/kv/color\n\
         curl '{address}/kv?prefix=c'\n\
         curl {address}/health\n\
         curl {address}/cluster/status?pretty\n\
         curl {address}/metrics\n"
    )
}

/// The text of `/metrics`.
pub fn metrics(daemon: &Daemon) -> String {
    let mut text = Text::default();
    text.family("kv_build_info", "gauge", "Always 1; what is running.");
    text.line("kv_build_info", &[("version", VERSION)], 1);
    daemon.metrics.write(&mut text);
    if let Some(serving) = daemon.serving() {
        raft_families(&mut text, daemon, serving);
        peer_families(&mut text, serving);
        let store = serving.store.view();
        text.gauge("kv_store_keys", "Keys in the store.", store.keys());
        text.gauge("kv_store_bytes", "Bytes of all keys and values.", store.bytes());
        text.gauge("kv_store_revision", "The store's revision.", store.revision());
        carp_families(&mut text, daemon, store.ownership().map(|own| &**own));
    }
    process_families(&mut text, daemon);
    text.finish()
}

fn raft_families(text: &mut Text, daemon: &Daemon, serving: &Serving) {
    let status = serving.handle.status();
    let (core, node) = (&status.core, serving.handle.metrics());
    text.gauge("kv_raft_term", "The current term.", core.term);
    text.gauge("kv_raft_is_leader", "1 on the leader.", u8::from(status.leads()));
    let has_leader = u8::from(status.leader().is_some());
    text.gauge("kv_raft_has_leader", "1 when a leader is known.", has_leader);
    text.gauge("kv_raft_commit_index", "Committed up to here.", core.committed);
    text.gauge("kv_raft_applied_index", "Applied up to here.", core.applied);
    text.gauge("kv_raft_last_log_index", "The last entry of the log.", core.last.index);
    text.gauge("kv_raft_snapshot_index", "The newest snapshot.", core.snapshot.index);
    let voters = core.membership.voters().len();
    text.gauge("kv_raft_voters", "Members that vote.", voters);
    text.counter("kv_raft_leader_changes_total", "New leaders seen.", node.leader_changes);
    let name = "kv_raft_elections_total";
    text.family(name, "counter", "Elections this node began, and those of them it won.");
    text.line(name, &[("outcome", "begun")], node.elections);
    let won = daemon.metrics.elections_won.load(Ordering::Relaxed);
    text.line(name, &[("outcome", "won")], won);
    let name = "kv_raft_proposals_total";
    text.family(name, "counter", "Proposals by how they ended.");
    for (result, count) in [
        ("applied", node.proposals_applied),
        ("not_leader", node.proposals_not_leader),
        ("busy", node.proposals_busy),
        ("refused", node.proposals_refused),
        ("not_applied", node.proposals_not_applied),
        ("unknown", node.proposals_unknown),
    ] {
        text.line(name, &[("result", result)], count);
    }
    text.gauge("kv_raft_proposals_pending", "Proposals under way.", node.proposals_pending);
    let name = "kv_raft_commit_duration_seconds";
    text.family(name, "histogram", "From a proposal to its answer, on the leader.");
    let (counts, micros) = daemon.metrics.commits.read();
    text.histogram(name, &[], &BUCKETS_MICROS, &counts, micros);
    text.counter("kv_raft_reads_total", "Linearizable reads that came in.", node.reads);
    text.counter("kv_raft_messages_received_total", "From peers.", node.messages_received);
    text.counter("kv_raft_messages_sent_total", "To peers.", node.messages_sent);
    let dropped = node.messages_dropped + core.dropped;
    text.counter("kv_raft_messages_dropped_total", "Too many, or impossible.", dropped);
    text.counter("kv_raft_snapshots_total", "Snapshots taken.", node.snapshots_taken);
    text.counter("kv_raft_snapshot_failures_total", "Not taken.", node.snapshots_failed);

    let name = "kv_wal_fsync_duration_seconds";
    text.family(name, "histogram", "Writing and syncing one batch of the log.");
    text.histogram(name, &[], &SYNC_BUCKETS_MICROS, &node.sync_buckets, node.sync_micros);
    text.counter("kv_wal_slow_fsyncs_total", "Syncs of more than 100 ms.", node.slow_syncs);
    text.counter("kv_wal_written_bytes_total", "Bytes written to the log.", node.written_bytes);
    text.gauge("kv_wal_bytes", "Bytes of its files, the next one included.", node.wal_bytes);
    text.gauge("kv_wal_segments", "Its files in use.", node.wal_segments);
    text.gauge("kv_wal_has_room", "0 while the disk is full.", u8::from(status.room));
}

fn carp_families(text: &mut Text, daemon: &Daemon, own: Option<&Ownership>) {
    let shard = &daemon.shard;
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let epoch = own.map_or(0, |own| own.array().epoch().0);
    text.gauge("kv_carp_epoch", "The map of the array in force; 0 without one.", epoch);
    let (owned, coming) = own.map_or((0, 0), |own| (own.serving(), own.coming()));
    text.gauge("kv_carp_slots_owned", "Slots that this cluster serves.", owned);
    text.gauge("kv_carp_slots_coming", "Slots that it will serve.", coming);
    let forwarded = count(&shard.forwarded);
    text.counter("kv_carp_forwarded_total", "Requests sent on to other clusters.", forwarded);
    let misdirected = count(&shard.misdirected);
    text.counter("kv_carp_misdirected_total", "Clients told whose key it is.", misdirected);
}

fn peer_families(text: &mut Text, serving: &Serving) {
    type Number = fn(&PeerStatus, Time) -> Option<f64>;
    let status = serving.handle.status();
    let now = serving.handle.now();
    let name_of = |id: NodeId| {
        let member = status.core.membership.member(id);
        member.map_or_else(|| id.to_string(), |member| member.name.clone())
    };
    let families: [(&str, &str, Number); 3] = [
        ("kv_peer_match_index", "Durable there, on the leader.", |p, _| Some(p.matched.0 as f64)),
        ("kv_peer_inflight", "Entry bytes under way to it.", |p, _| Some(p.inflight_bytes as f64)),
        ("kv_peer_last_contact_seconds", "Since its last answer.", |p, now| {
            p.contact.map(|contact| now.since(contact).as_secs_f64())
        }),
    ];
    for (family, help, number) in families {
        text.family(family, "gauge", help);
        for peer in &status.core.peers {
            if let Some(value) = number(peer, now) {
                text.line(family, &[("peer", &name_of(peer.id))], value);
            }
        }
    }
    let numbers = serving.peers.numbers();
    text.family("kv_peer_rtt_seconds", "gauge", "A heartbeat and its answer, smoothed.");
    for peer in &numbers {
        if let Some(rtt) = peer.rtt {
            text.line("kv_peer_rtt_seconds", &[("peer", &name_of(peer.id))], rtt.as_secs_f64());
        }
    }
    text.family("kv_peer_sent_bytes_total", "counter", "Bytes of frames sent to it.");
    for peer in &numbers {
        text.line("kv_peer_sent_bytes_total", &[("peer", &name_of(peer.id))], peer.sent_bytes);
    }
    text.family("kv_peer_errors_total", "counter", "Attempts and connections that failed.");
    for peer in &numbers {
        text.line("kv_peer_errors_total", &[("peer", &name_of(peer.id))], peer.errors);
    }
}

/// What the kernel says of this process; left out where there is no `/proc`.
fn process_families(text: &mut Text, daemon: &Daemon) {
    let uptime = daemon.started.elapsed().as_secs_f64();
    text.gauge("process_uptime_seconds", "Since the node was started.", uptime);
    let field = |name: &str| {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    if let Some(seconds) = cpu_seconds() {
        text.counter("process_cpu_seconds_total", "CPU time, user and system.", seconds);
    }
    if let Some(kib) = field("VmRSS") {
        text.gauge("process_resident_memory_bytes", "Memory in use.", kib * 1024);
    }
    if let Some(threads) = field("Threads") {
        text.gauge("process_threads", "Threads.", threads);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Open files and sockets.", open.count());
    }
}

/// CPU time of all threads. Fields 14 and 15 of `/proc/self/stat` (proc(5)), in hundredths of a
/// second: what Linux shows to programs whatever its own tick. The name in field 2 may hold spaces.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = stat.rsplit_once(") ")?.1;
    let mut fields = after_name.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / 100.0)
}

/// A node id as every body shows it: 16 hex digits.
pub fn hex(id: NodeId) -> String {
    format!("{:016x}", id.0)
}

fn role(status: &NodeStatus, id: NodeId) -> &'static str {
    match status.core.role {
        RoleName::Leader => "leader",
        RoleName::PreCandidate | RoleName::Candidate => "candidate",
        RoleName::Follower if status.core.membership.learners().contains(&id) => "learner",
        RoleName::Follower => "follower",
    }
}

fn leader(status: &NodeStatus) -> Option<(NodeId, &Member)> {
    let id = status.leader()?;
    status.core.membership.member(id).map(|member| (id, member))
}

fn millis_since(then: Option<Time>, now: Time) -> Option<u64> {
    then.map(|then| u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX))
}

fn config_digest(membership: &Membership) -> String {
    let mut shape = membership.to_string();
    for (id, member) in membership.members() {
        shape.push_str(&format!("\n{id} {} {}", member.name, member.address));
    }
    format!("{:016x}", XxHash64::oneshot(0, shape.as_bytes()))
}
