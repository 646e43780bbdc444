//! Bytes at rest that change: behind everybody's back, durably, and for the cache as well.
//!
//! The rule that keeps verdicts possible: *rot that looks like a write that never happened strikes
//! only what a later, durable write proves*, because on the very last batch no program can tell it
//! from a crash. So zeroed and stale sectors, cut segments and flips that would leave a sector of
//! zeroes are kept to the proven part of the log, a file rots only once (rot on the proof would
//! unprove the rest), and what is not durable does not rot at all.

use std::collections::BTreeMap;

use raft_core::storage::format::{HeaderSeen, PAGE, Seal, SegmentHeader, read_batch_header};

use super::contents::{Contents, File, SECTOR_BYTES, Sector, is_zero};
use super::state::State;
use crate::plan::{Place, Rot};

/// What rot has struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotten {
    /// How.
    pub rot: Rot,
    /// The file.
    pub path: String,
    /// Where in it, in bytes; the new length of a file that was cut, 0 for one that is gone.
    pub offset: u64,
}

/// A file that may rot.
struct Candidate {
    path: String,
    inode: u64,
    /// The sectors that hold anything and are durable.
    in_use: Vec<u64>,
    /// Sectors below this may look as if they had never been written.
    proven: u64,
    /// The file may be cut to this length, or to a longer one.
    cut_from: u64,
}

const SECTORS_PER_PAGE: u64 = (PAGE / SECTOR_BYTES) as u64;

/// Lets one thing rot; `None` when there is nothing that may.
pub(super) fn rot(state: &mut State, rot: Rot, place: Place) -> Option<Rotten> {
    if state.displaced.is_some() {
        // What somebody put there by mistake and takes away again is not also to change meanwhile.
        return None;
    }
    let mut candidates = candidates(state, place);
    candidates.retain(|candidate| match rot {
        Rot::Gone => true,
        Rot::Cut => candidate.cut_from < state.files[&candidate.inode].live.len,
        Rot::Flip | Rot::Misdirected => !candidate.in_use.is_empty(),
        Rot::Zero | Rot::Stale => candidate.proven_sectors().next().is_some(),
    });
    if candidates.is_empty() {
        return None;
    }
    let mut rng = state.chance.rot.clone();
    let chosen = rng.pick(&candidates);
    let file = state.file(chosen.inode);
    let offset = match rot {
        Rot::Gone => {
            state.live.names.remove(&chosen.path);
            state.durable.names.remove(&chosen.path);
            state.collect();
            0
        }
        Rot::Cut => {
            let len = rng.range(chosen.cut_from..file.live.len);
            file.cut(len);
            len
        }
        Rot::Flip => {
            // Where the log ends every second time: there alone damage can look like a torn write.
            let last: Vec<u64> =
                chosen.in_use.iter().copied().filter(|it| chosen.proven <= *it).collect();
            let end = !last.is_empty() && rng.coin();
            // Elsewhere every fourth time in the head, which is small and says whose file it is.
            let sector = match chosen.in_use.first() {
                _ if end => *rng.pick(&last),
                Some(head) if rng.below(4) == 0 => *head,
                _ => *rng.pick(&chosen.in_use),
            };
            let bit = flip(file, sector, sector < chosen.proven, rng.bits());
            sector * SECTOR_BYTES as u64 + bit / 8
        }
        Rot::Zero | Rot::Stale => {
            let proven: Vec<u64> = chosen.proven_sectors().collect();
            let sector = *rng.pick(&proven);
            let stale = file.before.get(&sector).filter(|_| rot == Rot::Stale).cloned();
            file.live.set_sector(sector, stale.as_deref());
            sector * SECTOR_BYTES as u64
        }
        Rot::Misdirected => {
            let sector = *rng.pick(&chosen.in_use);
            let chosen = (chosen.inode, sector);
            let strays = strays(state, chosen);
            if strays.is_empty() {
                return None;
            }
            let (stray, from, becomes_stale) = *rng.pick(&strays);
            misdirect(state, chosen, (stray, from), becomes_stale);
            sector * SECTOR_BYTES as u64
        }
    };
    let rotten = Rotten { rot, path: chosen.path.clone(), offset };
    if let Some(file) = state.files.get_mut(&chosen.inode) {
        file.rotten = true;
    }
    state.chance.rot = rng;
    state.counts.rotten += 1;
    Some(rotten)
}

/// The files of a place that have their name durably and have not rotted yet.
fn candidates(state: &State, place: Place) -> Vec<Candidate> {
    let last_used = last_used_segment(state);
    let names = state.durable.names.iter().filter(|(path, inode)| {
        is_in(place, path)
            && state.live.names.get(*path) == Some(*inode)
            && !state.files[inode].rotten
    });
    let candidate = |(path, inode): (&String, &u64)| {
        let file = &state.files[inode];
        let is_durable =
            |sector: &u64| !file.dirty.contains(*sector) && !file.forgotten.contains(*sector);
        let in_use = file.live.sectors_in_use().map(|it| it.0).filter(is_durable).collect();
        let (mut proven, mut cut_from) = (u64::MAX, 0);
        if place == Place::Wal && last_used.as_ref().is_none_or(|last| last <= path) {
            let tail = file.durable().live;
            proven = proven_below(&tail);
            // Nothing that is or may become acknowledged is cut off: writing on would heal the
            // length, and then it would be gone without a trace.
            cut_from = end_of_use(&file.live).max(end_of_use(&tail));
        }
        Candidate { path: path.clone(), inode: *inode, in_use, proven, cut_from }
    };
    names.map(candidate).collect()
}

impl Candidate {
    fn proven_sectors(&self) -> impl Iterator<Item = u64> {
        self.in_use.iter().copied().filter(|sector| *sector < self.proven)
    }
}

/// Whether a file of this path is of this kind.
pub(super) fn is_in(place: Place, path: &str) -> bool {
    match place {
        Place::Wal => is_segment(path),
        Place::Snapshot => path.starts_with("snap/") && path.ends_with(".snap"),
        Place::Meta => path == "META",
    }
}

fn is_segment(path: &str) -> bool {
    path.starts_with("wal/") && path.ends_with(".log")
}

/// The last segment with a durable batch in it: its name proves all before it.
fn last_used_segment(state: &State) -> Option<String> {
    let segments = state.durable.names.iter().rev().filter(|(path, _)| is_segment(path));
    let mut used = segments.filter(|(_, inode)| {
        let durable = state.files[inode].durable().live;
        durable.sectors_in_use().any(|(sector, _)| SECTORS_PER_PAGE <= sector)
    });
    used.next().map(|(path, _)| path.clone())
}

/// The first sector of a segment's last batch. Everything before is proven: the header page because
/// no segment has a name without one, the batches because each was synced before the next.
fn proven_below(segment: &Contents) -> u64 {
    let mut bytes = vec![0; segment.len as usize];
    segment.read(0, &mut bytes);
    let Some(Ok(header)) = bytes.get(..PAGE).map(SegmentHeader::decode) else { return 0 };
    let seal = Seal::new(header.salt);
    let (mut last, mut end) = (PAGE as u64, PAGE as u64);
    while end < bytes.len() as u64
        && let HeaderSeen::Valid(batch) = read_batch_header(&seal, &bytes, end)
    {
        (last, end) = (end, end + batch.extent());
    }
    last / SECTOR_BYTES as u64
}

fn end_of_use(contents: &Contents) -> u64 {
    contents.sectors_in_use().last().map_or(0, |(sector, _)| (sector + 1) * SECTOR_BYTES as u64)
}

/// Flips a bit of a byte that is not zero, and gives its place in the sector. Unless it is `proven`
/// the sector does not become all zero.
fn flip(file: &mut File, sector: u64, proven: bool, chance: u64) -> u64 {
    let mut bytes: Sector = *file.live.sector(sector).expect("the sector is in use");
    let from = chance as usize % SECTOR_BYTES;
    let at = (0..SECTOR_BYTES)
        .map(|step| (from + step) % SECTOR_BYTES)
        .find(|at| bytes[*at] != 0)
        .expect("the sector is in use");
    let mut bit = (chance >> 32) % 8;
    bytes[at] ^= 1 << bit;
    if !proven && is_zero(&bytes) {
        bytes[at] ^= 1 << bit;
        bit = (bit + 1) % 8;
        bytes[at] ^= 1 << bit;
    }
    file.live.set_sector(sector, Some(&bytes));
    at as u64 * 8 + bit
}

/// Sectors whose last write may have gone astray to `target`: file and number, and whether they may
/// be left without it.
fn strays(state: &State, target: (u64, u64)) -> Vec<(u64, u64, bool)> {
    let at_target = state.files[&target.0].live.sector(target.1);
    let places = [Place::Wal, Place::Snapshot, Place::Meta];
    let all: BTreeMap<u64, Candidate> = places
        .into_iter()
        .flat_map(|place| candidates(state, place))
        .map(|candidate| (candidate.inode, candidate))
        .collect();
    let mut strays = Vec::new();
    for (inode, candidate) in all {
        for sector in &candidate.in_use {
            let may_be_stale = inode != target.0 && *sector < candidate.proven;
            if state.files[&inode].live.sector(*sector) != at_target {
                strays.push((inode, *sector, may_be_stale));
            }
        }
    }
    // A write that went astray is missing where it belongs; a drive that wrote it to both places
    // is the second best guess.
    if strays.iter().any(|stray| stray.2) {
        strays.retain(|stray| stray.2);
    }
    strays
}

fn misdirect(state: &mut State, to: (u64, u64), from: (u64, u64), becomes_stale: bool) {
    let file = state.file(from.0);
    let bytes = *file.live.sector(from.1).expect("the sector is in use");
    if becomes_stale {
        let stale = file.before.get(&from.1).cloned();
        file.live.set_sector(from.1, stale.as_deref());
        file.rotten = true;
    }
    state.file(to.0).live.set_sector(to.1, Some(&bytes));
}
