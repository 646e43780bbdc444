//! Several nodes that belong together: started, found a leader among, broken and mended one by one.

use rustix::process::Signal;
use serde_json::Value;

use super::area::Area;
use super::daemon::{Daemon, Setup};
use super::http::{Request, Response};
use super::wait_for;

/// A cluster and the place it lives in.
pub struct Cluster {
    // Processes go before the directory they write into: fields drop in this order.
    nodes: Vec<Node>,
    /// Its directories and ports.
    pub area: Area,
}

struct Node {
    setup: Setup,
    daemon: Option<Daemon>,
    paused: bool,
}

/// What a node says about itself in `/health`, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The HTTP status it came with.
    pub http: u16,
    /// Why it is not well, or that it is.
    pub status: String,
    /// `leader`, `follower`, `forming` ...
    pub role: String,
    /// The leader's name.
    pub leader: Option<String>,
    /// The cluster id.
    pub cluster: Option<String>,
    /// Raft's term.
    pub term: u64,
    /// The last entry known to be committed.
    pub commit_index: u64,
    /// The last entry applied.
    pub applied_index: u64,
}

impl Cluster {
    /// Nodes `node1`, `node2` ... that name each other, none started yet.
    pub fn prepare(nodes: usize, flags: &[&str]) -> Cluster {
        let area = Area::new();
        let ports: Vec<u16> = (0..nodes).map(|_| area.port()).collect();
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let node = |i: usize| {
            let mut setup = Setup::new(area.root(), &format!("node{}", i + 1), ports[i]);
            let others = ports.iter().filter(|port| **port != ports[i]);
            setup.peers = others.map(address).collect();
            setup.flags = flags.iter().map(|flag| flag.to_string()).collect();
            Node { setup, daemon: None, paused: false }
        };
        let nodes = (0..nodes).map(node).collect();
        Cluster { nodes, area }
    }

    /// The same, started and led.
    pub fn start(nodes: usize, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(nodes, flags);
        cluster.start_all();
        cluster.wait_leader();
        cluster
    }

    /// Starts every node that is not running.
    pub fn start_all(&mut self) {
        for i in 0..self.nodes.len() {
            self.start_node(i);
        }
    }

    /// Starts a node, unless it runs.
    pub fn start_node(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if node.daemon.is_none() {
            node.daemon = Some(node.setup.start());
            node.paused = false;
        }
    }

    /// The setup of a node, to be changed before it starts.
    pub fn setup(&mut self, i: usize) -> &mut Setup {
        &mut self.nodes[i].setup
    }

    /// The running process of a node.
    pub fn daemon(&mut self, i: usize) -> &mut Daemon {
        self.nodes[i].daemon.as_mut().expect("the test knows which nodes run")
    }

    /// The node of this name.
    pub fn named(&self, name: &str) -> usize {
        let found = self.nodes.iter().position(|node| node.setup.name == name);
        found.unwrap_or_else(|| panic!("no node is called {name}"))
    }

    /// The names of all, in order.
    pub fn name(&self, i: usize) -> &str {
        &self.nodes[i].setup.name
    }

    /// The ports of all nodes, running or not.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.setup.port).collect()
    }

    /// All nodes but this one.
    pub fn others(&self, i: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != i).collect()
    }

    /// `kill -9`.
    pub fn kill(&mut self, i: usize) {
        let mut daemon = self.nodes[i].daemon.take().expect("the test knows which nodes run");
        daemon.kill();
    }

    /// `kill -9` for every running node, one right after the other, then waits for all.
    pub fn kill_all(&mut self) {
        for node in &mut self.nodes {
            if let Some(daemon) = &mut node.daemon {
                daemon.signal(Signal::KILL);
            }
        }
        for node in &mut self.nodes {
            if let Some(mut daemon) = node.daemon.take() {
                daemon.wait();
            }
        }
    }

    /// SIGSTOP: the process is frozen, its connections stay.
    pub fn pause(&mut self, i: usize) {
        self.daemon(i).freeze();
        self.nodes[i].paused = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self, i: usize) {
        self.daemon(i).signal(Signal::CONT);
        self.nodes[i].paused = false;
    }

    /// SIGTERM; the process has ended well when this returns.
    pub fn stop(&mut self, i: usize) {
        let mut daemon = self.nodes[i].daemon.take().expect("the test knows which nodes run");
        let (exit, _) = daemon.terminate();
        assert_eq!(exit, super::daemon::Exit::Code(0), "{} was asked to stop", self.name(i));
    }

    /// SIGTERM to one after the other.
    pub fn stop_all(&mut self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].daemon.is_some() {
                self.stop(i);
            }
        }
    }

    /// What a node says about itself; `None` while it does not answer.
    pub fn health(&self, i: usize) -> Option<Health> {
        let response = self.nodes[i].daemon.as_ref()?.get("/health").ok()?;
        Health::of(&response)
    }

    /// Waits until a node says about itself what is asked for.
    pub fn wait_health(&self, i: usize, what: &str, fits: impl Fn(&Health) -> bool) -> Health {
        let mut last = None;
        let what = format!("{}: {what}", self.name(i));
        let found = wait_for_or(&what, || {
            last = self.health(i);
            last.clone().filter(&fits)
        });
        found.unwrap_or_else(|what| panic!("{what}; it said last: {last:?}"))
    }

    /// Waits until every node that runs and is not paused is well and names the same leader, one of
    /// them, in the same term. Which one.
    pub fn wait_leader(&mut self) -> usize {
        for node in self.nodes.iter_mut().filter(|node| !node.paused) {
            if let Some(daemon) = &mut node.daemon {
                daemon.wait_alive();
            }
        }
        let mut last = Vec::new();
        let found = wait_for_or("all nodes name one leader", || {
            let running = |node: &&Node| node.daemon.is_some() && !node.paused;
            let count = self.nodes.iter().filter(running).count();
            let up: Vec<usize> =
                (0..self.nodes.len()).filter(|i| running(&&self.nodes[*i])).collect();
            last = up.iter().filter_map(|i| self.health(*i).map(|health| (*i, health))).collect();
            let (_, first) = last.first()?;
            let agreed = |(_, health): &(usize, Health)| {
                (health.http, &health.leader, health.term) == (200, &first.leader, first.term)
            };
            if last.len() < count || !last.iter().all(agreed) {
                return None;
            }
            let leader = self.named(first.leader.as_deref()?);
            last.iter().any(|(i, health)| *i == leader && health.role == "leader").then_some(leader)
        });
        found.unwrap_or_else(|what| panic!("{what}; they said last: {last:#?}"))
    }

    /// Waits until this node has applied all that any other had committed when this was called.
    pub fn wait_caught_up(&self, i: usize) {
        let others = self.others(i).into_iter().filter(|other| !self.nodes[*other].paused);
        let commits = others.filter_map(|other| Some(self.health(other)?.commit_index));
        let goal = commits.max().unwrap_or(0);
        let what = format!("has applied {goal}");
        self.wait_health(i, &what, |health| health.http == 200 && goal <= health.applied_index);
    }

    /// One request to a node, which has to answer.
    pub fn call(&self, i: usize, request: &Request<'_>) -> Response {
        let daemon = self.nodes[i].daemon.as_ref().expect("the test knows which nodes run");
        let answer = daemon.call(request);
        answer.unwrap_or_else(|failed| panic!("{} at {}: {failed:?}", request.target, self.name(i)))
    }

    /// `PUT` that has to succeed.
    pub fn put(&self, i: usize, target: &str, value: &[u8]) -> Response {
        let response = self.call(i, &Request::put(target, value));
        let ok = matches!(response.status, 200 | 201);
        assert!(ok, "PUT {target} at {}: {} {}", self.name(i), response.status, response.text());
        response
    }

    /// Linearizable `GET` that has to succeed.
    pub fn get(&self, i: usize, target: &str) -> Vec<u8> {
        let response = self.call(i, &Request::get(target));
        let text = response.text();
        assert_eq!(response.status, 200, "GET {target} at {}: {text}", self.name(i));
        response.body
    }
}

impl Health {
    /// Reads a response to `/health`; `None` when it is something else.
    pub fn of(response: &Response) -> Option<Health> {
        let json = response.json();
        let text = |name: &str| Some(json.get(name)?.as_str()?.to_owned());
        let number = |name: &str| json.get(name).and_then(Value::as_u64).unwrap_or(0);
        Some(Health {
            http: response.status,
            status: text("status")?,
            role: text("role")?,
            leader: text("leader"),
            cluster: text("cluster"),
            term: number("term"),
            commit_index: number("commit_index"),
            applied_index: number("applied_index"),
        })
    }
}

/// As [`wait_for`], but gives back what was waited for in vain, so that more can be said about it.
fn wait_for_or<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    let begin = std::time::Instant::now();
    wait_for(what, || match ask() {
        Some(answer) => Some(Ok(answer)),
        None if super::LIMIT * 9 / 10 < begin.elapsed() => Some(Err(format!("in vain: {what}"))),
        None => None,
    })
}
