//! The program: flags, logging, signals and the exit code. Everything else is in the library.

use std::io::Write as _;

use clap::Parser;
use kv_daemon::config::{Config, Flags};
use kv_daemon::log_lines;
use kv_daemon::run::{Exit, run};
use tokio::signal::unix::{SignalKind, signal};

fn main() {
    let exit = match start() {
        Ok(()) => 0,
        Err(exit) => {
            log::error!("{}", exit.message);
            exit.code
        }
    };
    // Not by returning: a disk that hangs holds its thread for ever, and nobody waits for it.
    std::process::exit(i32::from(exit));
}

fn start() -> Result<(), Exit> {
    let flags = Flags::parse();
    log_lines::start(flags.log_format);
    let check = flags.check;
    let config = Config::from_flags(flags).map_err(Exit::usage)?;
    if check {
        let _ = writeln!(std::io::stdout(), "{}", config.describe());
        return Ok(());
    }
    // Connections of clients and peers to us have threads of their own: this one is for ours to them.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Exit::other(format!("cannot start threads: {error}")))?;
    let ended = runtime.block_on(async { run(config, asked_to_stop()?).await });
    runtime.shutdown_background();
    ended
}

/// Resolves at the first SIGTERM or Ctrl-C. A second one ends the process on the spot.
fn asked_to_stop() -> Result<impl Future<Output = ()>, Exit> {
    let catch = |kind| signal(kind).map_err(|error| Exit::other(format!("no signals: {error}")));
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => log::info!("stopping: Ctrl-C (once more to stop at once)"),
            _ = terminate.recv() => log::info!("stopping: SIGTERM"),
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(1);
        });
    })
}
