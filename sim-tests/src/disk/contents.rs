//! What a file holds: its bytes as the process sees them, and beside them what a crash would leave
//! of those that are not durable yet.
//!
//! Sparse and incremental: sectors of zeroes are not kept, a sync forgets what it made durable, a
//! crash walks only over what was not. Nothing here is random; which sectors a crash takes is
//! decided in `crash.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

/// The unit in which contents survive or are lost, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// The bytes of one sector.
pub(super) type Sector = [u8; SECTOR_BYTES];

/// What a sector was; `None` stands for zeroes.
pub(super) type Was = Option<Box<Sector>>;

/// Sectors by number, each once, in order.
#[derive(Clone, Default)]
pub(super) struct Sectors(Vec<(u64, Was)>);

/// A file, whatever its name.
#[derive(Clone, Default)]
pub(super) struct File {
    /// The name it was last given, for messages.
    pub(super) path: String,
    pub(super) live: Contents,
    pub(super) durable_len: u64,
    /// Sectors that the next sync makes durable, with their durable bytes.
    pub(super) dirty: Sectors,
    /// Sectors that a failed sync has given up, with their durable bytes: they read as written
    /// until the cache lets go of them, and no later sync writes them.
    pub(super) forgotten: Sectors,
    /// What durable sectors held before their last write, where that was not zero.
    pub(super) before: BTreeMap<u64, Box<Sector>>,
    /// Whether bytes at rest have changed.
    pub(super) rotten: bool,
    /// Open handles, of processes that live.
    pub(super) handles: u32,
}

/// Bytes, of which only sectors that were ever written with anything but zeroes are kept.
///
/// They are kept one behind the other, in the order of their first write: that is one allocation for
/// many sectors, and a log of small batches, each on a page of its own, needs an eighth of its size.
#[derive(Clone, Default)]
pub(super) struct Contents {
    pub(super) len: u64,
    /// For each sector its place in `kept`, plus one; zero, and whatever is behind the end, for a
    /// hole.
    places: Vec<u32>,
    kept: Vec<Sector>,
}

impl File {
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for piece in pieces(offset, data.len()) {
            self.write_sector(piece.number, piece.at, &data[piece.in_data]);
        }
        if !data.is_empty() {
            self.live.len = self.live.len.max(offset + data.len() as u64);
        }
    }

    /// As [`File::write`] of so many zeroes. A new segment consists of them: nothing is looked at
    /// where nothing but holes can be.
    pub(super) fn write_zeroes(&mut self, offset: u64, bytes: u64) {
        let end = offset + bytes;
        let in_use = self.live.end_of_places().min(end).max(offset);
        self.write(offset, &vec![0; (in_use - offset) as usize]);
        if 0 < bytes {
            self.live.len = self.live.len.max(end);
        }
    }

    fn write_sector(&mut self, sector: u64, at: usize, bytes: &[u8]) {
        let old = self.live.sector(sector);
        let same = old.map_or(is_zero(bytes), |old| old[at..at + bytes.len()] == *bytes);
        match self.forgotten.take(sector) {
            // Even the same bytes make the page dirty again: now a sync writes it.
            Some(durable) => self.dirty.insert(sector, durable),
            // A sector that stays as it is has nothing to lose.
            None if same => return,
            None if self.dirty.contains(sector) => {}
            None => {
                let was = old.filter(|old| !is_zero(&old[..])).map(|old| Box::new(*old));
                self.dirty.insert(sector, was);
            }
        }
        self.live.sector_mut(sector)[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn sync(&mut self) {
        for (sector, was) in self.dirty.drain() {
            match was {
                Some(bytes) => self.before.insert(sector, bytes),
                None => self.before.remove(&sector),
            };
        }
        self.durable_len = self.live.len;
    }

    /// A sync that fails: the system marks the pages clean, and so nothing will ever write them.
    pub(super) fn fail_sync(&mut self) {
        for (sector, was) in self.dirty.drain() {
            self.forgotten.insert(sector, was);
        }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable_len == self.live.len && self.dirty.is_empty() && self.forgotten.is_empty()
    }

    /// The file with nothing that is not durable.
    pub(super) fn durable(&self) -> File {
        let mut live = self.live.clone();
        for (sector, was) in self.dirty.iter().chain(self.forgotten.iter()) {
            live.set_sector(sector, was.as_deref());
        }
        live.set_len(self.durable_len);
        File { path: self.path.clone(), rotten: self.rotten, ..File::at_rest(live) }
    }

    /// Cuts the file off, durably; what was written behind is forgotten.
    pub(super) fn cut(&mut self, len: u64) {
        assert!(len <= self.live.len, "a file is cut, not grown");
        let end = len.div_ceil(SECTOR_BYTES as u64);
        for sectors in [&mut self.dirty, &mut self.forgotten] {
            sectors.0.retain(|(sector, _)| *sector < end);
        }
        self.live.set_len(len);
        self.durable_len = self.durable_len.min(len);
    }

    /// A file of which all is durable.
    pub(super) fn at_rest(contents: Contents) -> File {
        File { durable_len: contents.len, live: contents, ..File::default() }
    }
}

impl Contents {
    /// Fills `buf` from `offset`; the caller sees to it that the file is that long.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        for piece in pieces(offset, buf.len()) {
            let part = &mut buf[piece.in_data];
            match self.sector(piece.number) {
                Some(sector) => part.copy_from_slice(&sector[piece.at..piece.at + part.len()]),
                // Memory that is zero and was never touched costs its first write dearly.
                None if is_zero(part) => {}
                None => part.fill(0),
            }
        }
    }

    /// The bytes of a sector; `None` stands for zeroes.
    pub(super) fn sector(&self, sector: u64) -> Option<&Sector> {
        let place = *self.places.get(sector as usize)?;
        Some(&self.kept[place.checked_sub(1)? as usize])
    }

    /// The sectors that hold anything but zeroes, in order, with their bytes.
    pub(super) fn sectors_in_use(&self) -> impl Iterator<Item = (u64, &Sector)> {
        let kept = (0..self.places.len() as u64).filter_map(|it| Some((it, self.sector(it)?)));
        kept.filter(|(_, bytes)| !is_zero(&bytes[..]))
    }

    pub(super) fn set_sector(&mut self, sector: u64, bytes: Option<&Sector>) {
        match bytes {
            Some(bytes) => *self.sector_mut(sector) = *bytes,
            None if self.sector(sector).is_none() => {}
            None => self.sector_mut(sector).fill(0),
        }
    }

    /// Cuts the file off, or lets it end in zeroes.
    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
        let last = len / SECTOR_BYTES as u64;
        self.places.truncate(last as usize + 1);
        // What grows over the end again must read as zeroes.
        if self.sector(last).is_some() {
            self.sector_mut(last)[len as usize % SECTOR_BYTES..].fill(0);
        }
    }

    /// Behind it there are only holes.
    fn end_of_places(&self) -> u64 {
        (self.places.len() * SECTOR_BYTES) as u64
    }

    fn sector_mut(&mut self, sector: u64) -> &mut Sector {
        let sector = sector as usize;
        if self.places.len() <= sector {
            self.places.resize(sector + 1, 0);
        }
        let place = &mut self.places[sector];
        if *place == 0 {
            self.kept.push([0; SECTOR_BYTES]);
            *place = u32::try_from(self.kept.len()).expect("2 TiB exceed any memory");
        }
        &mut self.kept[*place as usize - 1]
    }
}

impl Sectors {
    pub(super) fn contains(&self, sector: u64) -> bool {
        self.find(sector).is_ok()
    }

    /// Adds a sector; if it is there, it keeps what it was.
    fn insert(&mut self, sector: u64, was: Was) {
        if let Err(at) = self.find(sector) {
            self.0.insert(at, (sector, was));
        }
    }

    fn take(&mut self, sector: u64) -> Option<Was> {
        self.find(sector).ok().map(|at| self.0.remove(at).1)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, Was)> {
        self.0.drain(..)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Was)> {
        self.0.iter().map(|(sector, was)| (*sector, was))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, sector: u64) -> Result<usize, usize> {
        match self.0.last() {
            // Files are written from front to back.
            Some((last, _)) if *last < sector => Err(self.0.len()),
            None => Err(0),
            Some(_) => self.0.binary_search_by_key(&sector, |(number, _)| *number),
        }
    }
}

/// The part of a range of bytes that lies in one sector.
struct Piece {
    /// Which sector.
    number: u64,
    /// Where in it the part begins.
    at: usize,
    /// Which part of the range it is.
    in_data: Range<usize>,
}

fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let from = offset + done as u64;
        let at = (from % SECTOR_BYTES as u64) as usize;
        let in_data = done..len.min(done + SECTOR_BYTES - at);
        done = in_data.end;
        Some(Piece { number: from / SECTOR_BYTES as u64, at, in_data })
    })
}

/// Whether there are only zeroes. Compares with zeroes instead of looking at each byte:
/// nothing is faster than the system's own comparison.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROES: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
    bytes.chunks(SECTOR_BYTES).all(|part| *part == ZEROES[..part.len()])
}
