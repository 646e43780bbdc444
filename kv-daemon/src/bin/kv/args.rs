//! What can be typed. Each area's own arguments stand here too, so that this file is the whole face
//! of the program; what they do is in the area's file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use kv_daemon::client::ServerUrl;
use kv_daemon::units::parse_duration;

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

    /// The server on this machine at PORT; short for -s http://127.0.0.1:PORT
    #[arg(short = 'p', value_name = "PORT", conflicts_with = "servers", global = true)]
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
    /// Run a server, with all flags of kv-daemon (see: kv serve --help)
    Serve,
}

/// `kv carp`.
#[derive(Debug, Subcommand)]
pub enum CarpCommand {
    /// The members of the array and their slots
    Show,
    /// How evenly keys are spread, with the draft of 1998 beside it; asks no server
    Distribution(DistributionArgs),
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

/// `kv bench`.
#[derive(Debug, Parser)]
pub struct BenchArgs {
    /// How many clients, each with one request under way and connections of its own
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub clients: u32,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=64 << 20))]
    pub size: u32,
    /// How many keys; bench/0000000000 is the first
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..10_000_000_000))]
    pub keys: u64,
    /// The share of requests that read, 0 to 1; the others write
    #[arg(long, default_value_t = 0.0, value_parser = ratio)]
    pub read_ratio: f64,
    /// How long
    #[arg(long, default_value_t = 5.0, value_parser = above_zero)]
    pub seconds: f64,
    /// Requests a second, begun at this rate whatever comes back (open loop), with latencies from
    /// the intended start; without it each client asks again as soon as it is answered (closed loop)
    #[arg(long, value_parser = above_zero)]
    pub rate: Option<f64>,
    /// Do not write the keys before they are read
    #[arg(long)]
    pub no_fill: bool,
    /// Short for --format json
    #[arg(long)]
    pub json: bool,
}

/// `kv carp distribution`.
#[derive(Debug, Parser)]
pub struct DistributionArgs {
    /// How many keys
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub keys: u32,
    /// How many clusters of equal weight
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub members: u32,
    /// A cluster for each of these weights
    #[arg(long, value_delimiter = ',', value_name = "W,...", conflicts_with = "members")]
    pub weights: Vec<u32>,
    /// The clusters of this map, with its table; - reads it from stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["members", "weights"])]
    pub map: Option<PathBuf>,
    /// Only keys of this kind. Default: all, and the first one as bars
    #[arg(long, value_enum)]
    pub family: Option<FamilyName>,
    /// Draw a picture into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Which picture
    #[arg(long, value_enum, default_value_t = Picture::Bars, requires = "svg")]
    pub picture: Picture,
}

/// A way in which people name keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FamilyName {
    /// user:0000001
    Counter,
    /// http://www.example.com/shop/17/item-523.html
    Url,
    /// 32 hexadecimal digits, as of a digest
    Random,
    /// 6e789e6a-a1b9-4656-88f3-8f21a2b2d9a0
    Uuid,
    /// grace.hopper17@example.org
    Email,
    /// sensor/042/2026-03-17T08:15
    Dated,
    /// 8 bytes, counting up
    Binary,
}

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// Keys of each cluster, and the line where all should end
    Bars,
    /// Who gets the keys whose hash ends in the same ten bits
    Bits,
    /// How hot the hottest of 3 to 64 clusters is
    Sizes,
}

fn ratio(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| "0 to 1".to_owned())
}

fn above_zero(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number
        .filter(|number| 0.0 < *number && *number <= 1e7)
        .ok_or_else(|| "a number above 0, at most 10000000".to_owned())
}
