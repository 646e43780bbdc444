//! A file that an operator replaced by a wrong one, and that comes back later.
//!
//! The bytes of the wrong file are others' business (`forge.rs`). Here is only how one takes the other's
//! place, durably and behind everybody's back, while no process runs on the disk. Only a file that is
//! durable is taken away: nothing of what it holds depends on a crash.

use raft_core::storage::format::PAGE;

use super::contents::{Contents, File};
use super::rot::is_in;
use super::state::State;
use crate::plan::{Origin, Place};

/// The right file, kept elsewhere for as long as a wrong one has its name.
pub(super) struct Displaced {
    wrong: Wrong,
    path: String,
    right: File,
    bytes: Vec<u8>,
}

/// A wrong file on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which fault put it there.
    pub number: usize,
    /// Of which kind it is.
    pub place: Place,
    /// What is wrong with it.
    pub origin: Origin,
}

/// What an operator found who put the right file back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// The wrong file, as it was.
    AsItWas,
    /// Another file, or none. It stays.
    Changed,
}

impl Wrong {
    /// Whether a start has to refuse it. A snapshot that makes no sense may be done without, if an
    /// older one and the log are there.
    pub fn must_be_refused(&self) -> bool {
        let own = matches!(self.origin, Origin::Nonsense);
        self.place != Place::Snapshot || !own
    }
}

/// The files of a place that may be taken away or copied, with their bytes.
pub(super) fn files(state: &State, place: Place) -> Vec<String> {
    let names = state.durable.names.iter().filter(|(path, inode)| {
        let file = &state.files[inode];
        let is_whole = file.is_durable() && !file.rotten && file.live.len < BYTES_MAX;
        is_in(place, path) && state.live.names.get(*path) == Some(*inode) && is_whole
    });
    names.map(|(path, _)| path.clone()).collect()
}

/// Larger files are left alone: to copy them would take most of the time of a run.
const BYTES_MAX: u64 = 512 * PAGE as u64;

/// Puts a file with these bytes in the place of that of this path.
pub(super) fn displace(state: &mut State, path: &str, bytes: Vec<u8>, wrong: Wrong) {
    assert!(state.displaced.is_none(), "one file at a time");
    let before = state.live.names[path];
    let right = state.file(before).clone();
    let inode = lay_down(state, path, at_rest(&bytes));
    // It is wrong enough already.
    state.file(inode).rotten = true;
    state.displaced = Some(Displaced { wrong, path: path.to_owned(), right, bytes });
    state.collect();
}

/// Ends the matter: the right file is there again, unless something has become of the wrong one.
pub(super) fn put_back(state: &mut State) -> PutBack {
    let Displaced { path, right, bytes, .. } = state.displaced.take().expect("a file is displaced");
    if state.contents(&path).as_ref() != Some(&bytes) {
        return PutBack::Changed;
    }
    lay_down(state, &path, right);
    state.collect();
    PutBack::AsItWas
}

impl Displaced {
    pub(super) fn wrong(&self) -> Wrong {
        self.wrong
    }
}

fn at_rest(bytes: &[u8]) -> File {
    let mut file = File::at_rest(Contents::default());
    file.write(0, bytes);
    file.sync();
    file
}

/// Gives this file the name, durably.
fn lay_down(state: &mut State, path: &str, file: File) -> u64 {
    let inode = state.new_file(file);
    state.live.names.insert(path.to_owned(), inode);
    state.durable.names.insert(path.to_owned(), inode);
    inode
}
