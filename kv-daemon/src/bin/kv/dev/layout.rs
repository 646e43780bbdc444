//! Who there is: clusters `a`, `b`, `c` ..., nodes `a1`, `a2` ..., each on a port of its own. Chosen
//! once for a folder: a node of a cluster cannot change its address, so its port is kept for the next
//! start.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use carp::{Array, Member, MemberId, SlotBits};
use kv_daemon::client::ServerUrl;
use serde::{Deserialize, Serialize};

use crate::exit::Failed;

/// The first port of the first folder, which is where `kv` looks when it is told nothing.
const FIRST_PORT: u16 = 8001;

/// Where else to look when a port is taken: this many ports further on, this often.
const STEPS: (u16, u16) = (10, 100);

/// Clusters and their nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// In the order of their names.
    pub clusters: Vec<Cluster>,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// `a`, `b`, ...
    pub name: String,
    /// In the order of their names.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `a1`, `a2`, ...; also its folder.
    pub name: String,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Node {
    /// Where it answers.
    pub fn url(&self) -> ServerUrl {
        ServerUrl::local(self.port)
    }
}

impl Layout {
    /// `clusters` (1 to 26) of `nodes` (1 to 9) each, on ports one after the other from `base`.
    pub fn new(clusters: u16, nodes: u16, base: u16) -> Layout {
        let cluster = |at: u16| {
            let name = char::from(b'a' + u8::try_from(at).expect("at most 26 clusters"));
            let node = |number: u16| Node {
                name: format!("{name}{}", number + 1),
                port: base + at * nodes + number,
            };
            Cluster { name: name.to_string(), nodes: (0..nodes).map(node).collect() }
        };
        Layout { clusters: (0..clusters).map(cluster).collect() }
    }

    /// As [`Layout::new`], on the first ports from 8001 that are all free.
    ///
    /// # Errors
    /// There are none.
    pub fn on_free_ports(clusters: u16, nodes: u16) -> Result<Layout, Failed> {
        (0..STEPS.1)
            .map(|step| Layout::new(clusters, nodes, FIRST_PORT + step * STEPS.0))
            .find(|layout| layout.port_taken().is_none())
            .ok_or_else(|| Failed::other("no free ports: choose some with --port-base"))
    }

    /// Each node with its cluster.
    pub fn nodes(&self) -> impl Iterator<Item = (&Cluster, &Node)> {
        self.clusters
            .iter()
            .flat_map(|cluster| cluster.nodes.iter().map(move |node| (cluster, node)))
    }

    /// The first port on which somebody listens already.
    pub fn port_taken(&self) -> Option<u16> {
        let taken = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_err();
        self.nodes().map(|(_, node)| node.port).find(taken)
    }

    /// The array these clusters form; `None` for one cluster, which needs none.
    pub fn array(&self) -> Option<Array> {
        if self.clusters.len() < 2 {
            return None;
        }
        let members = self.clusters.iter().map(|cluster| {
            let id = MemberId::new(cluster.name.as_str()).expect("a letter is a name");
            // An array keeps at most 8 URLs of a member; any node of it knows the rest.
            let urls = cluster.nodes.iter().take(carp::array::URLS_MAX);
            Member::new(id, urls.map(|node| node.url().to_string()).collect())
        });
        let array = Array::fresh("dev", SlotBits::DEFAULT, 0, members.collect());
        Some(array.expect("members with different names and weight"))
    }

    /// The arguments that start a node.
    pub fn arguments(&self, cluster: &Cluster, node: &Node, dir: &Path) -> Vec<String> {
        let shown = |path: PathBuf| path.display().to_string();
        let mut arguments = vec!["serve".to_owned(), "--id".to_owned(), node.name.clone()];
        arguments.extend(["--port".to_owned(), node.port.to_string()]);
        arguments.extend(["--data-dir".to_owned(), shown(dir.join(&node.name))]);
        let peers = cluster.nodes.iter().filter(|other| *other != node);
        let peers: Vec<String> = peers.map(|other| format!("127.0.0.1:{}", other.port)).collect();
        if !peers.is_empty() {
            arguments.extend(["--peers".to_owned(), peers.join(",")]);
        }
        if 1 < self.clusters.len() {
            arguments.extend(["--cluster-name".to_owned(), cluster.name.clone()]);
            arguments.extend(["--carp".to_owned(), shown(dir.join(CARP_FILE))]);
        }
        arguments
    }
}

/// The array's file in the folder.
pub const CARP_FILE: &str = "carp.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ports_go_on_from_cluster_to_cluster() {
        let layout = Layout::new(3, 3, 8001);
        let nodes: Vec<(&str, u16)> =
            layout.nodes().map(|(_, node)| (node.name.as_str(), node.port)).collect();
        assert_eq!((nodes[0], nodes[3], nodes[8]), (("a1", 8001), ("b1", 8004), ("c3", 8009)));
        assert_eq!(layout.array().unwrap().counts(), [5462, 5461, 5461]);
        assert_eq!(Layout::new(1, 3, 8001).array(), None);
    }

    #[test]
    fn a_node_is_told_its_peers_and_its_array() {
        let layout = Layout::new(2, 2, 8001);
        let (cluster, node) = layout.nodes().nth(2).unwrap();
        let typed = layout.arguments(cluster, node, Path::new("/d")).join(" ");
        assert_eq!(
            typed,
            "serve --id b1 --port 8003 --data-dir /d/b1 --peers 127.0.0.1:8004 \
             --cluster-name b --carp /d/carp.json"
        );
        let alone = Layout::new(1, 1, 8001);
        let (cluster, node) = alone.nodes().next().unwrap();
        let typed = alone.arguments(cluster, node, Path::new("/d")).join(" ");
        assert_eq!(typed, "serve --id a1 --port 8001 --data-dir /d/a1");
    }
}
