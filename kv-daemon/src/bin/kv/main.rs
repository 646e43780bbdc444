//! `kv`, the client: reads and writes keys, shows and plans the array of clusters, starts a local one.
//!
//! In the order of a call: `args` (what was typed) -> one file per area (`data`, `cluster`, `array/`,
//! `dev/`, `bench/`, `distribution/`, `serve`) -> `output` (how it is shown) -> `exit` (with which
//! code it ends). What a request is and when it is tried again is the library's: `kv_daemon::client`.
//!
//! stdout has data and nothing else; everything for people goes to stderr.

mod args;
mod array;
mod bench;
mod cluster;
mod data;
mod dev;
mod distribution;
mod exit;
mod output;
mod serve;
mod session;
mod svg;

use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory, FromArgMatches};

use args::{Args, Command};
use exit::Failed;
use session::Session;

fn main() -> ExitCode {
    // Before anything else is parsed: its flags are the server's own.
    if let Some(code) = serve::asked_for() {
        // Not by returning: a disk that hangs holds its thread for ever.
        std::process::exit(i32::from(code));
    }
    match run(typed()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            failed.tell();
            ExitCode::from(failed.code)
        }
    }
}

/// What was typed. A variable that is set to nothing counts as unset, as shells leave it behind.
fn typed() -> Args {
    let is_empty = |arg: &Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.is_empty())
    };
    let mut command = Args::command().mut_args(|arg| match is_empty(&arg) {
        true => arg.env(Resettable::Reset),
        false => arg,
    });
    let matches = command.get_matches_mut();
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

fn run(args: Args) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::other(format!("cannot start threads: {error}")))?;
    let session = Session::new(&args.global)?;
    runtime.block_on(async {
        match args.command {
            Command::Put(put) => data::put(&session, put).await,
            Command::Get(get) => data::get(&session, get).await,
            Command::Delete(delete) => data::delete(&session, delete).await,
            Command::List(list) => data::list(&session, list).await,
            Command::Bench(bench) => bench::bench(&session, bench).await,
            Command::Health => cluster::health(&session).await,
            Command::ClusterStatus => cluster::status(&session).await,
            Command::Carp(command) => array::run(&session, command).await,
            Command::Dev(command) => dev::run(&session, command).await,
            Command::Serve => Err(Failed::usage("`serve` goes first: kv serve --id node1 ...")),
        }
    })
}
