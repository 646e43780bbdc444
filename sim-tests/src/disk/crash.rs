//! What a crash leaves: everything durable, and of the rest whatever chance decides, sector by
//! sector and name by name.
//!
//! A sector that holds neither its old nor its new bytes can look like rot, and recovery has to
//! treat it so. A crash does that only where it is told that damage is allowed, with one exception:
//! inside a batch that misses another sector anyway a mixture is seen to be torn.

use super::contents::{Contents, File, SECTOR_BYTES, Sector};
use super::names::Tree;
use super::state::State;
use crate::rng::Rng;

/// How processes on a disk end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The processes die, the machine does not: what was written is still in its cache, to be read,
    /// and no more durable than before. Only what a failed sync has given up may vanish.
    Process,
    /// The machine dies. Each unsynced sector, length and name is kept or lost, never so that it
    /// could be taken for rot.
    Power,
    /// The machine dies, and unsynced sectors may be left as a mixture or as garbage. Recovery may
    /// find damage.
    PowerAndDamage,
}

/// What a crash did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// Unsynced sectors that have their new bytes.
    pub sectors_kept: u64,
    /// Unsynced sectors that have their old bytes.
    pub sectors_dropped: u64,
    /// Unsynced sectors with new bytes up to some place, and old ones from there.
    pub sectors_cut: u64,
    /// Unsynced sectors with bytes that nobody wrote.
    pub sectors_garbage: u64,
    /// New lengths of files that were lost, wholly or in part.
    pub lengths_cut: u64,
    /// Changes of names that were undone.
    pub names_dropped: u64,
    /// Whether there is anything that recovery may have to call damage.
    pub damage: bool,
}

/// How a crash chooses.
#[derive(Clone, Copy)]
enum Mood {
    LoseAll,
    KeepAll,
    /// Everything before a moment: the first so many things in order, in parts per million.
    KeepFirst,
    /// Each with this chance, in parts per million.
    Each(u32),
}

/// What becomes of an unsynced sector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Dropped,
    Cut,
    Garbage,
}

const SECTORS_PER_PAGE: u64 = 8;
const PPM: u64 = 1_000_000;

/// Ends all lives and carries out the crash.
pub(super) fn crash(state: &mut State, crash: Crash) -> Aftermath {
    state.end_lives();
    let aftermath = match crash {
        Crash::Process => let_go_of_forgotten(state),
        Crash::Power => power_failure(state, false),
        Crash::PowerAndDamage => power_failure(state, true),
    };
    let counts = &mut state.counts;
    counts.sectors_dropped += aftermath.sectors_dropped;
    counts.sectors_cut += aftermath.sectors_cut;
    counts.sectors_garbage += aftermath.sectors_garbage;
    counts.names_dropped += aftermath.names_dropped;
    counts.losses += u64::from(aftermath.lost_anything());
    aftermath
}

impl Aftermath {
    /// Whether anything that was written is not there any more.
    pub fn lost_anything(&self) -> bool {
        let sectors = self.sectors_dropped + self.sectors_cut + self.sectors_garbage;
        0 < sectors + self.lengths_cut + self.names_dropped
    }
}

/// Pages that are marked clean may leave the cache at any time; then the disk's own bytes show.
fn let_go_of_forgotten(state: &mut State) -> Aftermath {
    let mut aftermath = Aftermath::default();
    let rng = &mut state.chance.crash;
    for file in state.files.values_mut().filter(|file| !file.forgotten.is_empty()) {
        if rng.coin() {
            continue;
        }
        for (sector, was) in file.forgotten.drain() {
            file.live.set_sector(sector, was.as_deref());
            aftermath.sectors_dropped += 1;
        }
    }
    aftermath
}

fn power_failure(state: &mut State, damage: bool) -> Aftermath {
    let mut aftermath = Aftermath::default();
    let rng = &mut state.chance.crash;

    let mood = Mood::draw(rng);
    let mut tree: Tree = state.durable.clone();
    let names = std::mem::take(&mut state.pending);
    for (change, kept) in names.iter().zip(mood.choose(rng, names.len())) {
        if kept {
            tree.apply(change);
        } else {
            aftermath.names_dropped += 1;
        }
    }
    tree.drop_orphans();

    // Contents have a mood of their own: that a name is kept says nothing about the bytes.
    let mood = Mood::draw(rng);
    for (path, inode) in &tree.names {
        let file = state.files.get_mut(inode).expect("a name leads to a file");
        if !file.is_durable() {
            let contents = what_is_left(file, mood, damage, rng, &mut aftermath);
            *file = File { rotten: file.rotten, ..File::at_rest(contents) };
        }
        path.clone_into(&mut file.path);
    }
    (state.live, state.durable) = (tree.clone(), tree);
    state.collect();
    aftermath
}

/// Decides about a file and gives its contents after the crash.
fn what_is_left(
    file: &File,
    mood: Mood,
    damage: bool,
    rng: &mut Rng,
    aftermath: &mut Aftermath,
) -> Contents {
    let mut left = file.live.clone();
    let len = length_left(file, mood, rng);
    aftermath.lengths_cut += u64::from(len != file.live.len);

    let mut fates = mood.choose(rng, file.dirty.len());
    // What was marked clean was not written, or not before the disk failed.
    let chance = if rng.coin() { 0 } else { 250_000 };
    fates.extend(Mood::Each(chance).choose(rng, file.forgotten.len()));
    let fates: Vec<Fate> =
        fates.iter().map(|kept| if *kept { Fate::Kept } else { Fate::Dropped }).collect();
    let incomplete = fates.contains(&Fate::Dropped);
    let tears = rng.coin();

    for ((sector, was), fate) in file.dirty.iter().chain(file.forgotten.iter()).zip(fates) {
        let fate = match (fate, damage) {
            // The first sector of a page may begin a batch, and nothing tells a torn head.
            (Fate::Kept, false) if sector % SECTORS_PER_PAGE != 0 && incomplete => {
                if tears && rng.chance(250_000) { Fate::Cut } else { fate }
            }
            (_, true) if tears => match rng.below(4) {
                0 => Fate::Cut,
                1 => Fate::Garbage,
                _ => fate,
            },
            _ => fate,
        };
        aftermath.damage |= damage && matches!(fate, Fate::Cut | Fate::Garbage);
        let old = was.as_deref();
        match fate {
            Fate::Kept => aftermath.sectors_kept += 1,
            Fate::Dropped => {
                aftermath.sectors_dropped += 1;
                left.set_sector(sector, old);
            }
            Fate::Cut => {
                aftermath.sectors_cut += 1;
                let mut bytes = file.live.sector(sector).copied().unwrap_or([0; SECTOR_BYTES]);
                let from = rng.range(1..SECTOR_BYTES as u64) as usize;
                match old {
                    Some(old) => bytes[from..].copy_from_slice(&old[from..]),
                    None => bytes[from..].fill(0),
                }
                left.set_sector(sector, Some(&bytes));
            }
            Fate::Garbage => {
                aftermath.sectors_garbage += 1;
                left.set_sector(sector, Some(&garbage(rng)));
            }
        }
    }
    left.set_len(len);
    left
}

/// The length a file is left with: the old, the new, or one in between.
fn length_left(file: &File, mood: Mood, rng: &mut Rng) -> u64 {
    let (old, new) = (file.durable_len, file.live.len);
    if old == new {
        return new;
    }
    match mood {
        Mood::LoseAll => old,
        Mood::KeepAll => new,
        Mood::KeepFirst | Mood::Each(_) => match rng.below(3) {
            0 => old,
            1 => new,
            _ => {
                let sector = SECTOR_BYTES as u64;
                let (low, high) = (old.min(new), old.max(new));
                (rng.range(low..high) / sector * sector).max(low)
            }
        },
    }
}

fn garbage(rng: &mut Rng) -> Sector {
    let mut bytes = [0; SECTOR_BYTES];
    for word in bytes.as_chunks_mut::<8>().0 {
        *word = rng.bits().to_le_bytes();
    }
    bytes
}

impl Mood {
    fn draw(rng: &mut Rng) -> Mood {
        match rng.below(8) {
            0 | 1 => Mood::LoseAll,
            2 => Mood::KeepAll,
            3 => Mood::KeepFirst,
            _ => Mood::Each(rng.below(PPM) as u32),
        }
    }

    /// Which of so many things are kept.
    fn choose(self, rng: &mut Rng, count: usize) -> Vec<bool> {
        let first = match self {
            Mood::LoseAll => 0,
            Mood::KeepAll => count as u64,
            Mood::KeepFirst => rng.below(count as u64 + 1),
            Mood::Each(chance) => return (0..count).map(|_| rng.chance(chance)).collect(),
        };
        (0..count as u64).map(|at| at < first).collect()
    }
}
