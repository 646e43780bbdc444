//! `kv dev down`: stops exactly the processes that `kv dev up` started in this folder.

use std::path::Path;
use std::time::{Duration, Instant};

use super::state::State;
use super::supervise::LOOK;
use crate::exit::Failed;
use crate::session::Session;

/// How long they may take; the `kv dev up` itself ends its nodes after 10 s.
const STOPPING: Duration = Duration::from_secs(15);

/// `kv dev down`. That nothing runs is no error.
pub async fn down(session: &Session, dir: &Path) -> Result<(), Failed> {
    let state = State::load(dir)?;
    let Some(state) = state.filter(|state| !state.running().is_empty()) else {
        session.note(format!("nothing runs in {}", dir.display()));
        return Ok(());
    };
    let before: Vec<String> = state.running().iter().map(|(name, _)| (*name).to_owned()).collect();
    // The one that started the nodes stops them; if it is gone, each is told itself.
    match state.supervisor.as_ref().filter(|supervisor| supervisor.runs()) {
        Some(supervisor) => supervisor.terminate(),
        None => state.running().iter().for_each(|(_, process)| process.terminate()),
    }
    let end = Instant::now() + STOPPING;
    while !state.running().is_empty() && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
    }
    let killed = state.running();
    for (name, process) in &killed {
        session.note(format!("{name} does not stop: killed"));
        process.kill();
    }
    State::new(state.layout.clone()).save(dir)?;
    session.note(format!("stopped {}; the data stays", before.join(", ")));
    Ok(())
}
