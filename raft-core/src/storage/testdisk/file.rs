//! What a file holds: live and durable, sector by sector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{SECTOR_BYTES, Unsynced};

/// A file, whatever its name.
#[derive(Clone, Default)]
pub(super) struct File {
    /// The name it was last given, for messages.
    pub(super) path: String,
    pub(super) live: Contents,
    pub(super) durable: Contents,
    /// Sectors in which the two differ and that the next sync makes durable.
    pub(super) dirty: BTreeSet<u64>,
    /// Sectors in which the two differ and that a failed sync has given up.
    pub(super) forgotten: BTreeSet<u64>,
    pub(super) handles: u64,
}

/// Bytes: sectors that are all zero are not kept.
#[derive(Clone, Default)]
pub(super) struct Contents {
    pub(super) len: u64,
    sectors: BTreeMap<u64, Arc<[u8; SECTOR_BYTES as usize]>>,
}

impl File {
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for sector in self.live.write(offset, data) {
            self.forgotten.remove(&sector);
            if self.live.sectors.get(&sector) == self.durable.sectors.get(&sector) {
                self.dirty.remove(&sector);
            } else {
                self.dirty.insert(sector);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.durable.copy_sector(sector, &self.live);
        }
        self.durable.len = self.live.len;
    }

    pub(super) fn after_crash(&self, inode: u64, survivors: &BTreeSet<Unsynced>) -> File {
        let path = self.path.clone();
        let mut left = self.durable.clone();
        if survivors.contains(&Unsynced::Length { path: path.clone(), inode }) {
            left.len = self.live.len;
        }
        for sector in self.dirty.union(&self.forgotten) {
            let item = Unsynced::Sector { path: path.clone(), inode, sector: *sector };
            if survivors.contains(&item) && sector * SECTOR_BYTES < left.len {
                left.copy_sector(*sector, &self.live);
            }
        }
        left.zero_beyond_end();
        File { path, durable: left.clone(), live: left, ..File::default() }
    }
}

impl Contents {
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        for (sector, in_sector, in_buf) in pieces(offset, buf.len()) {
            if let Some(bytes) = self.sectors.get(&sector) {
                let part = &bytes[in_sector..in_sector + in_buf.len()];
                buf[in_buf].copy_from_slice(part);
            }
        }
    }

    /// Returns the sectors that were written to.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Vec<u64> {
        let mut touched = Vec::new();
        for (sector, in_sector, in_data) in pieces(offset, data.len()) {
            let mut bytes = self.sectors.get(&sector).map_or([0; SECTOR_BYTES as usize], |b| **b);
            bytes[in_sector..in_sector + in_data.len()].copy_from_slice(&data[in_data]);
            if bytes.iter().all(|byte| *byte == 0) {
                self.sectors.remove(&sector);
            } else {
                self.sectors.insert(sector, Arc::new(bytes));
            }
            touched.push(sector);
        }
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
        }
        touched
    }

    pub(super) fn copy_sector(&mut self, sector: u64, from: &Contents) {
        match from.sectors.get(&sector) {
            Some(bytes) => self.sectors.insert(sector, bytes.clone()),
            None => self.sectors.remove(&sector),
        };
    }

    /// What grows over the end again must read as zeroes.
    pub(super) fn zero_beyond_end(&mut self) {
        let last = self.len / SECTOR_BYTES;
        self.sectors.split_off(&(last + 1));
        if let Some(bytes) = self.sectors.get(&last) {
            let mut bytes = **bytes;
            bytes[(self.len % SECTOR_BYTES) as usize..].fill(0);
            self.sectors.insert(last, Arc::new(bytes));
        }
    }
}

/// The parts of a range, sector by sector: the sector's number, where the part begins in it, and
/// which part of the range it is.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let in_sector = (at % SECTOR_BYTES) as usize;
        let part = done..len.min(done + SECTOR_BYTES as usize - in_sector);
        done = part.end;
        Some((at / SECTOR_BYTES, in_sector, part))
    })
}
