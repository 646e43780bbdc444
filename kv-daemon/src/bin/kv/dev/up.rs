//! `kv dev up`: chooses ports, starts the nodes, waits until every cluster answers, says where, and
//! stays until it is told to stop.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kv_daemon::client::ServerUrl;
use kv_daemon::client::wire::Call;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::layout::{CARP_FILE, Layout};
use super::process::Process;
use super::state::State;
use super::status;
use super::supervise::{LOOK, Log, Running, start, stop};
use crate::args::UpArgs;
use crate::array;
use crate::exit::{FAILURE, Failed};
use crate::session::Session;

/// How long clusters may take until all nodes are well; one to two seconds are usual.
const FORMING: Duration = Duration::from_secs(60);

/// `kv dev up`.
pub async fn up(session: &Session, args: &UpArgs) -> Result<(), Failed> {
    let made = fs::create_dir_all(&args.dir).and_then(|()| args.dir.canonicalize());
    let dir = made.map_err(|error| Failed::other(format!("{}: {error}", args.dir.display())))?;
    let state = State::new(chosen(args, &dir)?);
    if args.detach {
        return detached(session, args, &dir, &state.layout).await;
    }
    supervise(session, &dir, state).await
}

/// Who there is to be: whoever is in the folder already, else as wished.
fn chosen(args: &UpArgs, dir: &Path) -> Result<Layout, Failed> {
    let Some(state) = State::load(dir)? else {
        let (clusters, nodes) = (args.clusters.unwrap_or(1), args.nodes.unwrap_or(3));
        return match args.port_base {
            Some(base) if u32::from(base) + u32::from(clusters * nodes) <= 65536 => {
                Ok(Layout::new(clusters, nodes, base))
            }
            Some(base) => Err(Failed::usage(format!("--port-base {base} is too high"))),
            None => Layout::on_free_ports(clusters, nodes),
        };
    };
    if let Some((name, process)) = state.running().first() {
        return Err(Failed::other(format!(
            "{} is up already ({name}, process {}): see kv dev status, kv dev down",
            dir.display(),
            process.pid
        )));
    }
    let layout = state.layout;
    let (first, clusters) = (layout.clusters.first(), layout.clusters.len());
    let same = |wish: Option<u16>, is: usize| wish.is_none_or(|wish| usize::from(wish) == is);
    let nodes = first.map_or(0, |cluster| cluster.nodes.len());
    let base = first.and_then(|cluster| cluster.nodes.first()).map_or(0, |node| node.port);
    if same(args.clusters, clusters) && same(args.nodes, nodes) {
        if args.port_base.is_some_and(|wish| wish != base) {
            return Err(Failed::usage(format!(
                "{} has its ports already, from {base} on: leave --port-base out, or give another \
                 --dir",
                dir.display()
            )));
        }
        return Ok(layout);
    }
    Err(Failed::usage(format!(
        "{} holds {clusters} clusters of {nodes}: leave --clusters and -n out to go on with them, \
         or give another --dir",
        dir.display()
    )))
}

/// Starts the nodes and stays with them.
async fn supervise(session: &Session, dir: &Path, mut state: State) -> Result<(), Failed> {
    if let Some(port) = state.layout.port_taken() {
        return Err(Failed::other(format!(
            "port {port} is taken: stop who listens there, or give another --dir and --port-base"
        )));
    }
    let carp = dir.join(CARP_FILE);
    if let Some(array) = state.layout.array().filter(|_| !carp.exists()) {
        fs::write(&carp, array::pretty(&array))
            .map_err(|error| Failed::other(format!("{}: {error}", carp.display())))?;
    }
    let mut asked_to_stop = Signals::new()?;
    let log = Log::new(dir, !session.quiet)?;
    let mut nodes = Vec::new();
    for (cluster, node) in state.layout.nodes() {
        nodes.push(start(&state.layout, cluster, node, dir, &log)?);
    }
    state.supervisor = Process::of(std::process::id());
    state.nodes = nodes.iter().map(|node| (node.name.clone(), node.process.clone())).collect();
    state.save(dir)?;

    let stay = async {
        ready(session, &state.layout, &mut nodes, &log).await?;
        state.ready = true;
        state.save(dir)?;
        status::tell(session, dir, &state.layout)?;
        while nodes.iter().any(Running::runs) {
            tokio::time::sleep(LOOK).await;
            ends(&mut nodes, &log);
        }
        Err(Failed::new(FAILURE, "every node has ended"))
    };
    let ended = tokio::select! {
        ended = stay => ended,
        () = asked_to_stop.next() => Ok(()),
    };
    log.line("dev", "stopping");
    stop(&mut nodes, &log, asked_to_stop.next()).await;
    State::new(state.layout).save(dir)?;
    session.note("stopped; the data stays: kv dev up goes on with it");
    ended
}

/// Waits until every node is well, and has the array if there is one.
async fn ready(
    session: &Session,
    layout: &Layout,
    nodes: &mut [Running],
    log: &Log,
) -> Result<(), Failed> {
    let end = Instant::now() + FORMING;
    for (_, node) in layout.nodes() {
        while !is_ready(session, &node.url(), layout.clusters.len()).await {
            if let Some(how) = ends(nodes, log) {
                return Err(Failed::other(format!("{how}; see its lines in the log")));
            }
            if end < Instant::now() {
                let name = &node.name;
                return Err(Failed::other(format!(
                    "{name} does not become ready in {FORMING:?}; see its lines in the log"
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Whether a node takes requests and, where there is an array, has all slots it is to have.
async fn is_ready(session: &Session, server: &ServerUrl, clusters: usize) -> bool {
    if !status::is_ready(session, server).await {
        return false;
    }
    if clusters < 2 {
        return true;
    }
    let Ok(reply) = session.client.ask_server(server, Call::get("/carp/stats?top=0")).await else {
        return false;
    };
    let told: Option<Value> = serde_json::from_slice(&reply.body).ok();
    reply.status.is_success() && told.is_some_and(|told| told["slots_coming"] == 0)
}

/// Takes down who has ended since the last look, and tells the last of them.
fn ends(nodes: &mut [Running], log: &Log) -> Option<String> {
    let mut last = None;
    for how in nodes.iter_mut().filter_map(Running::has_ended) {
        log.line("dev", &how);
        last = Some(how);
    }
    last
}

/// `--detach`: another process stays with the nodes; this one ends when they are ready.
async fn detached(
    session: &Session,
    args: &UpArgs,
    dir: &PathBuf,
    layout: &Layout,
) -> Result<(), Failed> {
    use std::os::unix::process::CommandExt;

    let failed = |error: std::io::Error| Failed::other(format!("cannot start: {error}"));
    let said = dir.join("up.err");
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["--quiet", "dev", "up", "--dir"]).arg(dir);
    let cluster = layout.clusters.first();
    command.args(["--clusters", &layout.clusters.len().to_string()]);
    command.args(["-n", &cluster.map_or(0, |cluster| cluster.nodes.len()).to_string()]);
    let base = cluster.and_then(|cluster| cluster.nodes.first()).map_or(0, |node| node.port);
    command.args(["--port-base", &base.to_string()]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&said).map_err(failed)?)
        .process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            let why = fs::read_to_string(&said).unwrap_or_default();
            let why = why.trim().trim_start_matches("kv: ");
            return Err(Failed::other(format!("{why} ({status})")));
        }
        let state = State::load(dir)?;
        let ready = state.is_some_and(|state| {
            let ours = state.supervisor.as_ref().is_some_and(|it| it.pid == child.id());
            ours && state.ready
        });
        if ready {
            return status::tell(session, &args.dir, layout);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// SIGTERM and Ctrl-C.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failed> {
        let catch =
            |kind| signal(kind).map_err(|error| Failed::other(format!("no signals: {error}")));
        Ok(Signals {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    /// Resolves with the next of them.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
