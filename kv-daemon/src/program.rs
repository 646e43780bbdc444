//! The server as a program: flags, logging, signals and the exit code. `kv-daemon` is this and no
//! more; `kv serve` is the same.

use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, Flags};
use crate::log_lines;
use crate::run::{Exit, run};

/// Runs a server with these arguments, the first being the program's name, until it is asked to
/// stop. Returns the exit code; for arguments that are none, or a call for help, it ends the process
/// itself. `also` ends the server as a signal does, when it comes to an end.
pub fn serve(
    arguments: impl IntoIterator<Item = OsString>,
    also: impl Future<Output = ()> + Send + 'static,
) -> u8 {
    match start(Flags::parse_from(arguments), also) {
        Ok(()) => 0,
        Err(exit) => {
            log::error!("{}", exit.message);
            exit.code
        }
    }
}

fn start(flags: Flags, also: impl Future<Output = ()> + Send + 'static) -> Result<(), Exit> {
    log_lines::start(flags.log_format);
    let check = flags.check;
    let config = Config::from_flags(flags).map_err(Exit::usage)?;
    if check {
        let _ = writeln!(std::io::stdout(), "{}", config.describe());
        return Ok(());
    }
    // Connections to this node have threads of their own: this one is for its connections to others.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Exit::other(format!("cannot start threads: {error}")))?;
    let ended = runtime.block_on(async { run(config, asked_to_stop(also)?).await });
    runtime.shutdown_background();
    ended
}

/// Resolves at the first SIGTERM or Ctrl-C, or with `also`. A second signal ends the process on the
/// spot.
fn asked_to_stop(
    also: impl Future<Output = ()> + Send + 'static,
) -> Result<impl Future<Output = ()>, Exit> {
    let catch = |kind| signal(kind).map_err(|error| Exit::other(format!("no signals: {error}")));
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => log::info!("stopping: Ctrl-C (once more to stop at once)"),
            _ = terminate.recv() => log::info!("stopping: SIGTERM"),
            () = also => log::info!("stopping: whoever started this has ended"),
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
