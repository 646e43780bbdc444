//! What can be typed behind `kv bench` and `kv carp distribution`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

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
    /// `http://www.example.com/shop/17/item-523.html`
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
