//! `dev.json` in the folder: who there is, and which processes run. Written whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::process::Process;
use crate::exit::Failed;

const FILE: &str = "dev.json";

/// What is known of a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Who there is; kept when they are stopped.
    pub layout: Layout,
    /// The `kv dev up` that started them.
    pub supervisor: Option<Process>,
    /// The nodes' processes, by name.
    pub nodes: BTreeMap<String, Process>,
    /// Every cluster has answered since.
    pub ready: bool,
}

impl State {
    /// Nobody runs.
    pub fn new(layout: Layout) -> State {
        State { layout, supervisor: None, nodes: BTreeMap::new(), ready: false }
    }

    /// The state of a folder; `None` when there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(dir: &Path) -> Result<Option<State>, Failed> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unfit(&path, &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| unfit(&path, &error))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), Failed> {
        let (path, new) = (dir.join(FILE), dir.join("dev.json.new"));
        let text = serde_json::to_vec_pretty(self).expect("names and numbers become JSON");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| unfit(&path, &error))
    }

    /// The processes that still run, by name, the supervisor first.
    pub fn running(&self) -> Vec<(&str, &Process)> {
        let supervisor = self.supervisor.iter().map(|process| ("kv dev up", process));
        let nodes = self.nodes.iter().map(|(name, process)| (name.as_str(), process));
        supervisor.chain(nodes).filter(|(_, process)| process.runs()).collect()
    }
}

fn unfit(path: &Path, error: &dyn std::fmt::Display) -> Failed {
    Failed::other(format!("{}: {error}", path.display()))
}
