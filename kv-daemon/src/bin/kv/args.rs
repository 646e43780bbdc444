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
    /// Run a server, with all flags of kv-daemon (see: kv serve --help)
    Serve,
}

/// `kv carp`.
#[derive(Debug, Subcommand)]
pub enum CarpCommand {
    /// The members of the array and their slots
    Show,
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
