//! What can be said before a node starts: whether its flags fit each other, and whether they fit
//! what its data directory holds. Each error is one sentence that says what to do (exit code 2).
//!
//! Never asks the network; names are resolved by whoever calls.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use raft_core::membership::Membership;

use super::Identity;

/// One address of `--peers`: `host:port`, or `id=host:port` when the name is to be checked too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// The name the node at this address has to have, if it was given.
    pub name: Option<String>,
    /// `host:port`; an IPv6 host stands in brackets.
    pub address: String,
}

/// What a node with state learns from its flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// `--peers` and the membership differ: said once, changes nothing.
    pub warning: Option<String>,
    /// A node alone goes on at this new address; its membership on disk still holds the old one.
    pub readdressed: Option<String>,
}

impl FromStr for PeerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<PeerSpec, String> {
        let (name, address) = match text.trim().split_once('=') {
            Some((name, address)) => (Some(name.to_owned()), address),
            None => (None, text.trim()),
        };
        let fault = || format!("--peers: {text:?} is not host:port, as in localhost:8002");
        let (host, port) = split(address).ok_or_else(fault)?;
        if host.is_empty() || host.contains(['/', '@', ' ']) || name.as_deref() == Some("") {
            return Err(fault());
        }
        if port == 0 {
            return Err(format!("--peers: {text:?} has port 0, where nobody can be reached"));
        }
        Ok(PeerSpec { name, address: address.to_owned() })
    }
}

impl fmt::Display for PeerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// The address others shall reach this node at: `--advertise` if given, else `--host:--port`.
pub fn own_address(host: &str, port: u16, advertise: Option<&str>) -> Result<String, String> {
    if let Some(advertise) = advertise {
        return match split(advertise) {
            Some((host, port)) if !host.is_empty() && port != 0 && !is_any(host) => {
                Ok(advertise.to_owned())
            }
            _ => Err(format!(
                "--advertise {advertise:?} is not an address others can reach, as in db1.example:{port}"
            )),
        };
    }
    if is_any(host) {
        return Err(format!(
            "--host {host} listens everywhere and so names no address others can reach: add \
             --advertise with this machine's name, as in --advertise db1.example:{port}"
        ));
    }
    let bare_v6 = host.parse::<Ipv6Addr>().is_ok();
    Ok(if bare_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// Refuses to wait for peers that could never reach us: some of them are beyond this machine while
/// we listen on loopback only. `resolve` gives the addresses of a host name, none if unknown.
pub fn check_reach(
    host: &str,
    peers: &[PeerSpec],
    resolve: impl Fn(&str) -> Vec<IpAddr>,
) -> Result<(), String> {
    let is_local = |host: &str| {
        if is_loopback_spelling(host) {
            return true;
        }
        let addresses = resolve(host);
        !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback)
    };
    if !is_local(host) {
        return Ok(());
    }
    let beyond = peers.iter().find(|peer| {
        let host = split(&peer.address).map_or(peer.address.as_str(), |(host, _)| host);
        !is_local(host)
    });
    match beyond {
        None => Ok(()),
        Some(peer) => Err(format!(
            "--peers names {}, which is beyond this machine, but --host {host} listens on this \
             machine only: add --host 0.0.0.0 and --advertise with this machine's name and port",
            peer.address
        )),
    }
}

/// Compares what a node with state was started with to the membership on its disk. `directory` is
/// how messages call that. An empty membership (the log has not given one yet) fits anything.
pub fn check_restart(
    directory: &str,
    me: &Identity,
    peers: &[PeerSpec],
    membership: &Membership,
) -> Result<Restart, String> {
    if membership.is_empty() {
        return Ok(Restart::default());
    }
    let Some(member) = membership.member(me.node_id) else {
        return Err(format!(
            "{directory} holds node {}, which is no longer a member of its cluster ({}): it will not \
             serve; start with another --id or --data-dir to make a new node",
            me.node_id,
            listed(membership)
        ));
    };
    let alone = membership.members().count() == 1;
    if alone && !peers.is_empty() {
        return Err(format!(
            "{directory} holds a cluster of one, which cannot be merged with --peers: start it \
             without --peers to go on alone, or with another --id or --data-dir to form a new \
             cluster with these peers"
        ));
    }
    let moved = member.address != me.address;
    if moved && !alone {
        return Err(format!(
            "the cluster knows this node at {}, but it was started at {}: start it with --advertise \
             {} (or the --host and --port that make it so); changing a member's address comes with \
             a later version",
            member.address, me.address, member.address
        ));
    }
    let readdressed = moved.then(|| me.address.clone());
    Ok(Restart { warning: difference(me, peers, membership), readdressed })
}

/// One sentence with both lists when `--peers` is not what the membership says.
fn difference(me: &Identity, peers: &[PeerSpec], membership: &Membership) -> Option<String> {
    if peers.is_empty() {
        return None;
    }
    let given: BTreeSet<String> = peers.iter().map(|peer| canonical(&peer.address)).collect();
    let own = canonical(&me.address);
    let others = membership.members().filter(|(id, _)| *id != me.node_id);
    let held: BTreeSet<String> = others.map(|(_, member)| canonical(&member.address)).collect();
    let same = given.iter().filter(|address| **address != own).eq(held.iter());
    (!same).then(|| {
        let given: Vec<String> = peers.iter().map(PeerSpec::to_string).collect();
        format!(
            "--peers says {}, the cluster's own list says {}: the cluster's list holds, --peers only \
             counts at the very first start",
            given.join(","),
            listed(membership)
        )
    })
}

fn listed(membership: &Membership) -> String {
    let members = membership.members();
    members
        .map(|(_, member)| format!("{} ({})", member.name, member.address))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Spellings of this machine count as one.
fn canonical(address: &str) -> String {
    match split(address) {
        Some((host, port)) if is_loopback_spelling(host) => format!("localhost:{port}"),
        _ => address.to_ascii_lowercase(),
    }
}

/// `host:port`, brackets of an IPv6 host removed.
pub(crate) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']')?;
            inner.parse::<Ipv6Addr>().ok()?;
            Some((inner, port))
        }
        None => (!host.contains(':')).then_some((host, port)),
    }
}

fn is_any(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn is_loopback_spelling(host: &str) -> bool {
    let name = host.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
