//! What can be typed. Each area's own arguments stand here too, so that this file is the whole face
//! of the program; what they do is in the area's file.

mod measure;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use kv_daemon::client::ServerUrl;
use kv_daemon::units::parse_duration;

pub use measure::{BenchArgs, DistributionArgs, FamilyName, Picture};

/// How `--help` begins.
const EXAMPLES: &str = "\
Write and read, at any node (http://127.0.0.1:8001 unless -p, -s or KV_SERVER says otherwise):
    kv put color blue
    kv get color
    kv list app/ --keys

Three clusters of three nodes on this machine, and what they are:
    kv dev up --clusters 3
    kv cluster-status
    kv carp show

Write only if nobody else has meanwhile:
    kv put color red --if-rev 7
";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "kv", version, about = None, before_help = EXAMPLES)]
pub struct Args {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes, before or behind its name.
#[derive(Debug, Parser)]
pub struct Global {
    /// Servers to ask, comma-separated, of any clusters of one array; tried in this order
    #[arg(
        short = 's',
        long = "server",
        env = "KV_SERVER",
        value_name = "URL,...",
        value_delimiter = ',',
        global = true
    )]
    pub servers: Vec<ServerUrl>,

    /// The server on this machine at PORT, whatever -s and KV_SERVER say
    #[arg(short = 'p', value_name = "PORT", global = true)]
    pub local_port: Option<u16>,

    /// How data is written. Default: a table on a terminal, else plain text
    #[arg(long, value_enum, global = true)]
    pub format: Option<Format>,

    /// How long a request may take, with all its tries
    #[arg(long, default_value = "5s", value_parser = parse_duration, global = true)]
    pub timeout: Duration,

    /// How fresh reads have to be
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable, global = true)]
    pub consistency: Consistency,

    /// Nothing but data, errors and the exit code
    #[arg(short, long, conflicts_with = "verbose", global = true)]
    pub quiet: bool,

    /// Prints each exchange with a server as the curl line that repeats it
    #[arg(long, global = true)]
    pub verbose: bool,
}

/// How data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line per item, fields parted by tabs.
    Plain,
    /// One JSON document; its fields are stable.
    Json,
    /// Columns for people.
    Table,
}

/// How fresh reads have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// They see every write acknowledged before.
    Linearizable,
    /// Whatever the node that is asked has.
    Stale,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a value
    Put(PutArgs),
    /// Read a value
    Get(GetArgs),
    /// Delete a key; one that is not there is no error
    Delete(DeleteArgs),
    /// List keys in order, over all clusters
    List(ListArgs),
    /// The array of clusters: who owns a key, what a change would move
    #[command(subcommand)]
    Carp(CarpCommand),
    /// Measure how fast the servers answer
    Bench(BenchArgs),
    /// Whether each node is well; all nodes of an array, else the servers named
    Health,
    /// The members of each cluster, as its leader sees them
    #[command(visible_alias = "status")]
    ClusterStatus,
    /// Clusters on this machine, to try things with
    #[command(subcommand)]
    Dev(DevCommand),
    /// Run a server, with all flags of kv-daemon (see: kv serve --help)
    Serve,
}

/// `kv put`.
#[derive(Debug, Parser)]
pub struct PutArgs {
    /// The key
    pub key: String,
    /// The value; - reads it from stdin
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub value: Option<String>,
    /// The value is this file, byte for byte
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Write only if the key is at this revision (0: does not exist)
    #[arg(long, value_name = "REV", conflicts_with = "create")]
    pub if_rev: Option<u64>,
    /// Write only if the key does not exist
    #[arg(long)]
    pub create: bool,
}

/// `kv get`.
#[derive(Debug, Parser)]
pub struct GetArgs {
    /// The key
    pub key: String,
    /// The exact bytes, also on a terminal and with --format json
    #[arg(long)]
    pub raw: bool,
    /// Only the key's revision, for --if-rev
    #[arg(long, conflicts_with = "raw")]
    pub rev: bool,
    /// What is known of the key, without its value
    #[arg(long, conflicts_with_all = ["raw", "rev"])]
    pub meta: bool,
}

/// `kv delete`.
#[derive(Debug, Parser)]
pub struct DeleteArgs {
    /// The key
    pub key: String,
    /// Delete only if the key is at this revision
    #[arg(long, value_name = "REV")]
    pub if_rev: Option<u64>,
}

/// `kv list`.
#[derive(Debug, Parser)]
pub struct ListArgs {
    /// Only keys that begin so
    #[arg(default_value = "")]
    pub prefix: String,
    /// Without values
    #[arg(long)]
    pub keys: bool,
    /// At most this many
    #[arg(long, default_value_t = 1000, conflicts_with = "all")]
    pub limit: u64,
    /// All there are
    #[arg(long)]
    pub all: bool,
}

/// `kv carp`.
#[derive(Debug, Subcommand)]
pub enum CarpCommand {
    /// The members of the array and their slots
    Show(MapFile),
    /// Where a key belongs, and which members want its slot most
    Route(RouteArgs),
    /// What a change would move: a table, and nothing is changed
    Plan(PlanArgs),
    /// Make an array from `new` or `plan --out` the one in force; shows first what would move
    Apply(ApplyArgs),
    /// What each cluster holds
    Stats(StatsArgs),
    /// Whether every node of every cluster has the same array
    Check,
    /// How evenly keys are spread, with the draft of 1998 beside it; asks no server
    Distribution(DistributionArgs),
    /// Write a new array, for --carp: kv carp new --member a=URL,URL --member b=URL > carp.json
    New(NewArgs),
    /// CARP v1.0 as it was written down in 1998, offline; keys here are not placed by it
    #[command(subcommand)]
    Draft(DraftCommand),
}

/// Where the array is from.
#[derive(Debug, Parser)]
pub struct MapFile {
    /// Take the array from this file instead of from the servers
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
}

/// `kv carp route`.
#[derive(Debug, Parser)]
pub struct RouteArgs {
    /// The keys
    #[arg(required = true)]
    pub keys: Vec<String>,
    /// Where the array is from.
    #[command(flatten)]
    pub map: MapFile,
}

/// `kv carp plan`.
#[derive(Debug, Parser)]
pub struct PlanArgs {
    /// The change.
    #[command(subcommand)]
    pub change: ChangeCommand,
    /// Take the array from this file instead of from the servers
    #[arg(long, value_name = "FILE", global = true)]
    pub map: Option<PathBuf>,
    /// Write the array as it would be to this file
    #[arg(long, value_name = "FILE", global = true)]
    pub out: Option<PathBuf>,
}

/// `kv carp apply`.
#[derive(Debug, Parser)]
pub struct ApplyArgs {
    /// The array as it is to be
    pub file: PathBuf,
    /// Do not ask first; without a terminal nobody is asked
    #[arg(short, long)]
    pub yes: bool,
}

/// A change of the members.
#[derive(Debug, Subcommand)]
pub enum ChangeCommand {
    /// A cluster joins and takes its share
    Add {
        /// Its name, for ever
        name: String,
        /// Where its nodes answer, comma-separated
        #[arg(long = "url", value_name = "URL,...", value_delimiter = ',', required = true)]
        urls: Vec<ServerUrl>,
        /// Its share against the weights of the others
        #[arg(long, default_value_t = 1)]
        weight: u32,
    },
    /// Take all slots from a member
    Drain {
        /// Its name
        name: String,
    },
    /// Take a drained member off the list
    Remove {
        /// Its name
        name: String,
    },
    /// Give a member another weight; a draining one becomes active again
    Weight {
        /// Its name
        name: String,
        /// Its share against the weights of the others
        weight: u32,
    },
}

/// `kv carp stats`.
#[derive(Debug, Parser)]
pub struct StatsArgs {
    /// Instead of sums, the N fullest slots of each cluster
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub top: u64,
}

/// `kv carp new`.
#[derive(Debug, Parser)]
pub struct NewArgs {
    /// A cluster and where its nodes answer, best first; the first one keeps the array
    #[arg(long = "member", value_name = "NAME=URL,...", required = true, value_parser = member_spec)]
    pub members: Vec<MemberSpec>,
    /// A member's share against the others; 1 if not given
    #[arg(long = "weight", value_name = "NAME=N", value_parser = weight_spec)]
    pub weights: Vec<WeightSpec>,
    /// The name of the array
    #[arg(long, default_value = "kv")]
    pub name: String,
}

/// `a=http://127.0.0.1:8001,http://127.0.0.1:8002`
#[derive(Clone, Debug)]
pub struct MemberSpec {
    /// The member's name.
    pub name: String,
    /// Where it answers.
    pub urls: Vec<ServerUrl>,
}

/// `a=2`
#[derive(Clone, Debug)]
pub struct WeightSpec {
    /// The member's name.
    pub name: String,
    /// Its weight.
    pub weight: u32,
}

/// `kv carp draft`.
#[derive(Debug, Subcommand)]
pub enum DraftCommand {
    /// The hash of keys, of members, and of both together
    Hash {
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
        /// Members to combine each key with
        #[arg(long = "member", value_name = "NAME")]
        members: Vec<String>,
    },
    /// Which member each key belongs to, with all scores, best first
    Route {
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
        /// The members; a load factor is 1 if not given
        #[arg(long = "member", value_name = "NAME[=LOAD]", required = true, value_parser = load_spec)]
        members: Vec<WeightSpec>,
    },
    /// The Proxy Array Membership Table, as text
    Table {
        /// The members, named by host and port; a load factor is 1 if not given
        #[arg(long = "member", value_name = "HOST:PORT[=LOAD]", required = true, value_parser = load_spec)]
        members: Vec<WeightSpec>,
        /// The name of the array
        #[arg(long, default_value = "kv")]
        name: String,
    },
}

/// `kv dev`.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Start them, wait until they answer, and stay until Ctrl-C
    Up(UpArgs),
    /// Stop exactly those that `up` started in this folder
    Down(DirArgs),
    /// Who runs where
    Status(DirArgs),
}

/// `kv dev up`.
#[derive(Debug, Parser)]
pub struct UpArgs {
    /// Nodes of each cluster [default: 3, or what the folder holds]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: Option<u16>,
    /// Clusters; several form an array [default: 1, or what the folder holds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=26))]
    pub clusters: Option<u16>,
    /// The first node's port; the others follow [default: the first that are free from 8001 on]
    #[arg(long, env = "KV_DEV_PORT_BASE", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port_base: Option<u16>,
    /// Everything they keep; started again, they go on with it
    #[arg(long, default_value = "kv-dev", value_name = "DIR")]
    pub dir: PathBuf,
    /// Do not stay: end when they are ready, and leave them running
    #[arg(long)]
    pub detach: bool,
}

/// A folder of `kv dev`.
#[derive(Debug, Parser)]
pub struct DirArgs {
    /// The folder they were started in
    #[arg(long, default_value = "kv-dev", value_name = "DIR")]
    pub dir: PathBuf,
}

fn member_spec(text: &str) -> Result<MemberSpec, String> {
    let (name, urls) = text.split_once('=').ok_or("write NAME=URL,URL")?;
    let urls: Result<Vec<ServerUrl>, String> = urls.split(',').map(str::parse).collect();
    Ok(MemberSpec { name: name.to_owned(), urls: urls? })
}

fn weight_spec(text: &str) -> Result<WeightSpec, String> {
    let (name, weight) = text.split_once('=').ok_or("write NAME=N, like a=2")?;
    let weight = weight.parse().map_err(|_| format!("`{weight}` is no whole number"))?;
    Ok(WeightSpec { name: name.to_owned(), weight })
}

fn load_spec(text: &str) -> Result<WeightSpec, String> {
    match text.contains('=') {
        true => weight_spec(text),
        false => Ok(WeightSpec { name: text.to_owned(), weight: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together_and_help_opens_with_examples() {
        Args::command().debug_assert();
        let help = Args::command().render_help().to_string();
        assert!(help.starts_with("Write and read"), "{help}");
    }

    #[test]
    fn a_member_is_a_name_and_its_servers() {
        let spec = member_spec("a=http://127.0.0.1:8001,127.0.0.1:8002").unwrap();
        assert_eq!((spec.name.as_str(), spec.urls.len()), ("a", 2));
        assert!(member_spec("a").is_err() && member_spec("a=").is_err());
        assert_eq!(load_spec("a:80=3").unwrap().weight, 3);
        assert_eq!(load_spec("a:80").unwrap().weight, 1);
        assert!(weight_spec("a").is_err() && weight_spec("a=-1").is_err());
    }
}
