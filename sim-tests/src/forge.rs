//! Wrong files that are whole: bytes of a right file in, bytes of a wrong one out, or `None` when
//! this file cannot be made wrong in this way.
//!
//! All checksums of what is changed are made anew, so that none of them gives it away. It says that it
//! belongs to another cluster, or that a later program wrote it, or it contradicts itself as no program
//! without a bug writes it; each time so that a reader who looks can tell. No file is touched here.

mod meta;
mod segment;
mod snapshot;

use crate::plan::{Origin, Place};
use crate::rng::Rng;

/// A wrong file instead of this one. One of [`Origin::Machine`] is no forgery: it takes another disk.
pub fn forge(place: Place, bytes: Vec<u8>, origin: Origin, rng: &mut Rng) -> Option<Vec<u8>> {
    match place {
        Place::Wal => segment::forge(bytes, origin, rng),
        Place::Snapshot => snapshot::forge(bytes, origin, rng),
        Place::Meta => meta::forge(bytes, origin, rng),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn set_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The CRC-32 of all these, one after the other.
fn crc_of(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize()
}

/// Puts the checksum of everything but itself where it belongs.
fn seal(bytes: &mut [u8], crc_at: usize) {
    let crc = crc_of(&[&bytes[..crc_at], &bytes[crc_at + 4..]]);
    set_u32(bytes, crc_at, crc);
}
