//! `kv dev`: clusters on this machine to try things with. `up` starts them, `down` stops exactly
//! those, `status` says how they are.
//!
//! Everything is below one folder: a data directory for each node, `carp.json` when there are several
//! clusters, `log` (what all of them say), and `dev.json`: who has which port and which process. The
//! nodes are this very executable, as `kv serve`, so that none of another build is ever started.
//! They end with the `kv dev up` that started them, however that ends.

mod down;
mod layout;
mod process;
mod state;
mod status;
mod supervise;
mod up;

use crate::args::DevCommand;
use crate::exit::Failed;
use crate::session::Session;

/// Does what was typed behind `kv dev`.
pub async fn run(session: &Session, command: DevCommand) -> Result<(), Failed> {
    match command {
        DevCommand::Up(args) => up::up(session, &args).await,
        DevCommand::Down(args) => down::down(session, &args.dir).await,
        DevCommand::Status(args) => status::status(session, &args.dir).await,
    }
}
