//! What a node is started with: the flags, their `KV_...` variables, their defaults, and the rules
//! they keep. This file reads no disk and opens no socket (it may look up the names of peers); its
//! errors are one sentence each that says what to do.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use carp::MemberId;
use carp::json::JSON_BYTES_MAX;
use clap::{Parser, ValueEnum};
use raft_core::types::NodeId;
use serde_json::{Value, json};

use crate::form::PeerSpec;
use crate::form::start::{check_reach, own_address};
use crate::units::{parse_duration, parse_size, size};

/// How `--help` begins: the three examples of the README.
const EXAMPLES: &str = "\
One durable node on http://127.0.0.1:8001, its data in ./data/node-8001:
    cargo run

One of three nodes (start its two siblings alike, in any order):
    cargo run -- --id node1 --port 8001 --peers localhost:8002,localhost:8003

Write and read, at any node:
    curl -X PUT localhost:8001/kv/color -d blue && curl localhost:8001/kv/color
";

/// The command line. Precedence: flag, then environment variable, then default.
#[derive(Clone, Debug, Parser)]
#[command(name = "kv-daemon", version, about = None, before_help = EXAMPLES)]
pub struct Flags {
    /// This node's name: 1 to 63 of A-Z a-z 0-9 . _ - beginning with a letter or digit.
    /// Default: the name in --data-dir if it holds one, else node-PORT
    #[arg(long, visible_alias = "node-id", env = "KV_ID", value_name = "NAME")]
    pub id: Option<String>,

    /// Where to listen; 0.0.0.0 is every interface and needs --advertise
    #[arg(long, env = "KV_HOST", default_value = "127.0.0.1", value_name = "HOST")]
    pub host: String,

    /// The one port for clients and peers; 0 takes any free one
    #[arg(
        long,
        visible_alias = "http-port",
        env = "KV_PORT",
        default_value_t = 8001,
        value_name = "PORT"
    )]
    pub port: u16,

    /// The address under which clients and peers reach this node. Default: --host:--port
    #[arg(long, env = "KV_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// The other nodes of the cluster, comma-separated; only the first start needs them all
    #[arg(long, env = "KV_PEERS", value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub peers: Vec<String>,

    /// Everything this node keeps. Default: data/ID
    #[arg(long, env = "KV_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// The name of this cluster in an array of clusters, the same on all its nodes
    #[arg(long, env = "KV_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,

    /// A map of the array to begin with; counts while the cluster has none or an older one
    #[arg(long, env = "KV_CARP", value_name = "FILE")]
    pub carp: Option<PathBuf>,

    /// Time between a leader's heartbeats
    #[arg(long, env = "KV_HEARTBEAT", default_value = "75ms", value_parser = parse_duration)]
    pub heartbeat: Duration,

    /// Least time without a leader before an election; each wait is once to twice this
    #[arg(long, env = "KV_ELECTION_TIMEOUT", default_value = "400ms", value_parser = parse_duration)]
    pub election_timeout: Duration,

    /// Log bytes after which a snapshot is taken
    #[arg(long, env = "KV_SNAPSHOT_BYTES", default_value = "64MiB", value_parser = parse_size)]
    pub snapshot_bytes: u64,

    /// Log entries after which a snapshot is taken
    #[arg(long, env = "KV_SNAPSHOT_ENTRIES", default_value_t = 1_000_000)]
    pub snapshot_entries: u64,

    /// Largest file of the write-ahead log
    #[arg(long, env = "KV_SEGMENT_BYTES", default_value = "64MiB", value_parser = parse_size)]
    pub segment_bytes: u64,

    /// Largest value a client may store
    #[arg(long, env = "KV_MAX_VALUE_SIZE", default_value = "64MiB", value_parser = parse_size)]
    pub max_value_size: u64,

    /// How the log on stderr looks
    #[arg(long, env = "KV_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Check the settings, say what they come to, and exit
    #[arg(long, env = "KV_CHECK")]
    pub check: bool,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Settings that fit together. Made by [`Config::from_flags`] only, so whoever holds one need not
/// check again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name the operator gave, if any.
    pub name: Option<String>,
    /// Where to listen.
    pub host: String,
    /// The port to listen on; 0 is any.
    pub port: u16,
    /// The address others use, if given.
    pub advertise: Option<String>,
    /// The other nodes, no address twice, in the order given.
    pub peers: Vec<PeerSpec>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The name of the cluster in an array of clusters.
    pub cluster_name: Option<MemberId>,
    /// A file with a map of the array; never without a name.
    pub carp: Option<PathBuf>,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// The least election timeout.
    pub election_timeout: Duration,
    /// Log bytes between snapshots.
    pub snapshot_bytes: u64,
    /// Log entries between snapshots.
    pub snapshot_entries: u64,
    /// Bytes of the largest log file.
    pub segment_bytes: u64,
    /// Bytes of the largest value.
    pub value_bytes_max: u64,
    /// Limits of the HTTP shell; no flags yet.
    pub http: HttpLimits,
}

/// What one client, or all together, may take of the HTTP shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Open connections; 4096. One more is told 503 and closed. Fewer: clients are turned away
    /// sooner. More: more memory (about 16 KiB each, and a body being read).
    pub connections_max: usize,
    /// From the first byte of a request to the end of its headers; 10 s. Shorter: bad for poor
    /// lines. Longer: a client that trickles holds its connection longer.
    pub head_timeout: Duration,
    /// Longest silence inside a request body; 10 s. As above.
    pub body_timeout: Duration,
    /// A connection without a request is closed after this; 75 s. Shorter: more reconnecting.
    pub idle_timeout: Duration,
    /// A response of which the client takes nothing for this long is dropped; 30 s.
    pub write_timeout: Duration,
    /// Bytes of all request line and headers; 32 KiB: a key of 4096 bytes, each percent-encoded,
    /// fits.
    pub head_bytes_max: usize,
    /// Bytes of all large bodies being read or answered; 512 MiB, and never less than two values.
    /// Beyond it an upload is told 429.
    pub bodies_bytes_max: u64,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            connections_max: 4096,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            head_bytes_max: 32 << 10,
            bodies_bytes_max: 512 << 20,
        }
    }
}

impl Config {
    /// Checks flags against each other and fills in what follows from them.
    ///
    /// # Errors
    /// One sentence that names the flag and says what to do.
    pub fn from_flags(flags: Flags) -> Result<Config, String> {
        if let Some(name) = &flags.id {
            check_name(name)?;
        }
        if flags.host.is_empty() || flags.host.contains(['/', ' ']) {
            return Err(format!(
                "--host `{}` is no host name or address; use one like 127.0.0.1",
                flags.host
            ));
        }
        own_address(&flags.host, flags.port, flags.advertise.as_deref())?;
        let peers = check_peers(&flags.peers)?;
        check_reach(&flags.host, &peers, look_up)?;
        let limits = [
            ("--snapshot-bytes", flags.snapshot_bytes, 1 << 10, 1 << 40),
            ("--snapshot-entries", flags.snapshot_entries, 1, 1 << 40),
            ("--segment-bytes", flags.segment_bytes, 64 << 10, 1 << 30),
            // A value travels in one entry, one frame and one write batch: u32 lengths everywhere.
            ("--max-value-size", flags.max_value_size, 1, 1 << 30),
        ];
        for (flag, value, min, max) in limits {
            if !(min..=max).contains(&value) {
                let (min, max) = match flag {
                    "--snapshot-entries" => (min.to_string(), max.to_string()),
                    _ => (size(min), size(max)),
                };
                return Err(format!("{flag} must be between {min} and {max}"));
            }
        }
        let cluster_name = match flags.cluster_name.map(|name| (MemberId::new(&name), name)) {
            None => None,
            Some((Some(id), _)) => Some(id),
            Some((None, name)) => {
                return Err(format!(
                    "--cluster-name `{name}` is no name; use 1 to 128 of A-Z a-z 0-9 . _ - :"
                ));
            }
        };
        if flags.carp.is_some() && cluster_name.is_none() {
            return Err("--carp needs --cluster-name: which member of the array is this?".into());
        }
        let data_dir = flags.data_dir.unwrap_or_else(|| {
            let name = flags.id.clone().unwrap_or_else(|| default_name(flags.port));
            PathBuf::from("data").join(name)
        });
        let mut http = HttpLimits::default();
        http.bodies_bytes_max = http.bodies_bytes_max.max(2 * flags.max_value_size);
        let config = Config {
            name: flags.id,
            host: flags.host,
            port: flags.port,
            advertise: flags.advertise,
            peers,
            data_dir,
            cluster_name,
            carp: flags.carp,
            heartbeat: flags.heartbeat,
            election_timeout: flags.election_timeout,
            snapshot_bytes: flags.snapshot_bytes,
            snapshot_entries: flags.snapshot_entries,
            segment_bytes: flags.segment_bytes,
            value_bytes_max: flags.max_value_size,
            http,
        };
        match config.raft(NodeId(0)).fault() {
            Some(fault) => Err(format!("{fault}: change --heartbeat or --election-timeout")),
            None => Ok(config),
        }
    }

    /// The settings of the consensus core that follow from these.
    pub fn raft(&self, id: NodeId) -> raft_core::config::Config {
        raft_core::config::Config {
            heartbeat: self.heartbeat,
            election_timeout_min: self.election_timeout,
            snapshot_bytes: self.snapshot_bytes,
            snapshot_entries: self.snapshot_entries,
            // A command is a head, a key and a value; or a map.
            entry_bytes_max: self.value_bytes_max.max(JSON_BYTES_MAX as u64) + (64 << 10),
            ..raft_core::config::Config::new(id)
        }
    }

    /// The address others use, once the port is known.
    pub fn advertised(&self, port: u16) -> String {
        own_address(&self.host, port, self.advertise.as_deref())
            .expect("the same host and --advertise were checked when the settings were made")
    }

    /// All settings, as `/config` shows them: there is nothing secret among them. Durations are
    /// milliseconds.
    pub fn to_json(&self) -> Value {
        let peers: Vec<String> = self.peers.iter().map(PeerSpec::to_string).collect();
        let millis = |duration: Duration| duration.as_millis() as u64;
        json!({
            "id": self.name, "host": self.host, "port": self.port, "advertise": self.advertise,
            "peers": peers, "data_dir": self.data_dir.display().to_string(),
            "cluster_name": self.cluster_name,
            "carp": self.carp.as_ref().map(|path| path.display().to_string()),
            "heartbeat_ms": millis(self.heartbeat),
            "election_timeout_ms": millis(self.election_timeout),
            "snapshot_bytes": self.snapshot_bytes, "snapshot_entries": self.snapshot_entries,
            "segment_bytes": self.segment_bytes, "value_bytes_max": self.value_bytes_max,
        })
    }

    /// What the settings come to, for `--check`.
    pub fn describe(&self) -> String {
        let peers = match self.peers.as_slice() {
            [] => "alone".to_owned(),
            peers => {
                let peers: Vec<String> = peers.iter().map(PeerSpec::to_string).collect();
                format!("with {}", peers.join(" and "))
            }
        };
        format!(
            "the settings are fine: {} at {}, {peers}, data in {}",
            self.name.clone().unwrap_or_else(|| default_name(self.port)),
            self.advertised(self.port),
            self.data_dir.display()
        )
    }
}

/// The name of a node whose operator gave none: `node-8001`.
pub fn default_name(port: u16) -> String {
    format!("node-{port}")
}

/// `host:port`, with brackets around an IPv6 address.
pub fn join_address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A name becomes a folder and stands in logs and headers.
fn check_name(name: &str) -> Result<(), String> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if first && rest && name.len() <= 63 {
        return Ok(());
    }
    Err(format!(
        "--id `{name}` is no name; use 1 to 63 of A-Z a-z 0-9 . _ - beginning with a letter or digit"
    ))
}

/// The peers without doubles.
fn check_peers(peers: &[String]) -> Result<Vec<PeerSpec>, String> {
    let mut list: Vec<PeerSpec> = Vec::new();
    for peer in peers.iter().map(|peer| peer.trim()).filter(|peer| !peer.is_empty()) {
        let peer: PeerSpec = peer.parse()?;
        if let Some(name) = &peer.name
            && check_name(name).is_err()
        {
            return Err(format!("--peers {peer}: `{name}` is no node name; write node2=HOST:PORT"));
        }
        if list.iter().all(|other| other.address != peer.address) {
            list.push(peer);
        }
    }
    Ok(list)
}

/// The addresses of a host name; none if it is not known (yet).
fn look_up(host: &str) -> Vec<IpAddr> {
    let found = (host, 0).to_socket_addrs();
    found.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &str) -> Result<Config, String> {
        let args = std::iter::once("kv-daemon").chain(args.split_whitespace());
        Config::from_flags(Flags::try_parse_from(args).map_err(|error| error.to_string())?)
    }

    #[test]
    fn no_flags_is_one_node_on_8001() {
        let config = config("").unwrap();
        assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 8001));
        assert_eq!(config.data_dir, PathBuf::from("data/node-8001"));
        assert_eq!(config.advertised(8001), "127.0.0.1:8001");
        assert_eq!((config.name, config.peers), (None, vec![]));
    }

    #[test]
    fn aliases_are_the_same_flags() {
        let a = config("--node-id n1 --http-port 9001").unwrap();
        let b = config("--id n1 --port 9001").unwrap();
        assert_eq!(a, b);
        assert_eq!(a.data_dir, PathBuf::from("data/n1"));
    }

    #[test]
    fn peers_are_addresses_without_doubles() {
        let config = config("--peers localhost:8002,b=127.0.0.1:8003,localhost:8002,").unwrap();
        let peers: Vec<String> = config.peers.iter().map(PeerSpec::to_string).collect();
        assert_eq!(peers, ["localhost:8002", "b=127.0.0.1:8003"]);
    }

    #[test]
    fn settings_reach_the_core() {
        let config = config("--heartbeat 50ms --election-timeout 300ms --max-value-size 1KiB");
        let raft = config.unwrap().raft(NodeId(7));
        assert_eq!(raft.heartbeat, Duration::from_millis(50));
        assert_eq!(raft.election_timeout_min, Duration::from_millis(300));
        assert_eq!(raft.entry_bytes_max, (4 << 20) + (64 << 10), "a map has to fit");
        assert_eq!(raft.id, NodeId(7));
    }

    /// Every refusal is one sentence that names the flag and says what to do.
    #[test]
    fn wrong_settings_are_refused_in_one_sentence() {
        let rows = [
            ("--id -x", "unexpected argument"),
            ("--id=../x", "letter or digit"),
            ("--id=é", "letter or digit"),
            ("--peers localhost", "as in localhost:8002"),
            ("--peers localhost:0", "port 0"),
            ("--peers http://localhost:8002", "as in localhost:8002"),
            ("--peers :8002", "as in localhost:8002"),
            ("--peers ../a=localhost:8002", "no node name"),
            ("--peers 10.1.2.3:8001", "add --host 0.0.0.0 and --advertise"),
            ("--host 0.0.0.0", "--advertise"),
            ("--host 0.0.0.0 --advertise 0.0.0.0:8001", "db1.example:8001"),
            ("--advertise nowhere", "db1.example:8001"),
            ("--cluster-name a/b", "is no name"),
            ("--carp carp.json", "--carp needs --cluster-name"),
            ("--heartbeat 75", "75ms"),
            ("--heartbeat 300ms", "--election-timeout"),
            ("--segment-bytes 1", "between 64KiB and 1GiB"),
            ("--snapshot-entries 0", "between 1 and"),
            ("--max-value-size 2GiB", "between 1B and 1GiB"),
            ("--port 70000", "70000"),
            ("--log-format xml", "json"),
        ];
        for (args, part) in rows {
            let error = config(args).expect_err(args);
            assert!(error.contains(part), "{args}: {error}");
        }
    }

    #[test]
    fn reachable_hosts_are_fine() {
        assert!(config("--host 0.0.0.0 --advertise db1:8001 --peers db2:8001").is_ok());
        assert!(config("--host 10.0.0.1 --peers 10.0.0.2:8001").is_ok());
        assert!(config("--host ::1 --peers [::1]:8002,localhost:8003").is_ok());
        assert_eq!(config("--host ::1").unwrap().advertised(1), "[::1]:1");
    }

    #[test]
    fn help_opens_with_the_examples() {
        use clap::CommandFactory;
        let help = Flags::command().render_help().to_string();
        assert!(help.starts_with("One durable node"), "{help}");
        assert!(help.contains("--peers localhost:8002,localhost:8003"));
    }

    #[test]
    fn every_flag_has_its_variable() {
        use clap::CommandFactory;
        for arg in Flags::command().get_arguments() {
            let name = arg.get_id().as_str();
            if name != "help" && name != "version" {
                let wanted = format!("KV_{}", name.to_uppercase());
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(wanted.as_str()));
            }
        }
    }
}
