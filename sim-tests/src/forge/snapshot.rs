//! Wrong snapshot files; `raft_core::storage::snapshot` has the tables of bytes.

use std::hash::Hasher;

use raft_core::state_machine::PIECE_BYTES_MAX;
use twox_hash::XxHash64;

use super::{crc_of, seal, set_u32, set_u64, u32_at, u64_at};
use crate::plan::Origin;
use crate::rng::Rng;

// The header.
const FORMAT_AT: usize = 8;
const LENGTH_AT: usize = 12;
const CLUSTER_AT: usize = 16;
const META_LEN_AT: usize = 32;
const CRC_AT: usize = 36;
const META_AT: usize = 40;

/// Before each piece, and the whole of the footer.
const RECORD_HEAD_BYTES: usize = 8;
const FOOTER_BYTES: usize = 24;

pub(super) fn forge(mut bytes: Vec<u8>, origin: Origin, rng: &mut Rng) -> Option<Vec<u8>> {
    let header = u32_at(&bytes, LENGTH_AT) as usize;
    let meta_len = u32_at(&bytes, META_LEN_AT);
    match origin {
        // That takes a file of another disk.
        Origin::Machine(_) => return None,
        Origin::Cluster => bytes[CLUSTER_AT] ^= 0xff,
        Origin::Newer => {
            let format = u32_at(&bytes, FORMAT_AT);
            set_u32(&mut bytes, FORMAT_AT, format + 1);
        }
        Origin::Nonsense => match rng.below(12) {
            0 => set_u32(&mut bytes, LENGTH_AT, [0, 4097, u32::MAX][rng.below(3) as usize]),
            1 => set_u32(&mut bytes, LENGTH_AT, 1 << 20),
            2 => set_u32(&mut bytes, META_LEN_AT, 1 << 20),
            3 => set_u32(&mut bytes, META_LEN_AT, meta_len - 1),
            // Another snapshot's, by what it says.
            4 => {
                let index = u64_at(&bytes, META_AT);
                set_u64(&mut bytes, META_AT, index + 1);
            }
            5 => bytes.push(0),
            6 => bytes.truncate(rng.range(8..header as u64) as usize),
            _ => contradict_body(&mut bytes, header, rng),
        },
    }
    if let Some(page) = bytes.get_mut(..header) {
        seal(page, CRC_AT);
    }
    Some(bytes)
}

/// The pieces, their number and their digests do not agree with each other or with the log.
fn contradict_body(bytes: &mut [u8], header: usize, rng: &mut Rng) {
    let footer = bytes.len() - FOOTER_BYTES;
    let body = &mut bytes[header..];
    let end = footer - header;
    let has_piece = 0 < end;
    match rng.below(5) {
        // A piece that is too long, one that is longer than what is left, one that is the end.
        0 => set_u32(body, 0, PIECE_BYTES_MAX as u32 + 1),
        1 => set_u32(body, 0, PIECE_BYTES_MAX as u32),
        2 if has_piece => set_u32(body, 0, 0),
        3 if has_piece => {
            // All of it is changed and agrees, but it is not the snapshot that the log means.
            change_piece(body);
            let digest = digest(&body[..end]);
            set_u64(body, end + 16, digest);
            seal(&mut body[end..], 4);
            let digest = self::digest(body);
            let meta_end = META_AT + u32_at(bytes, META_LEN_AT) as usize;
            set_u64(bytes, meta_end - 8, digest);
        }
        4 if has_piece && rng.coin() => change_piece(body),
        _ => {
            let pieces = u64_at(body, end + 8);
            set_u64(body, end + 8, pieces + 1);
            seal(&mut body[end..], 4);
        }
    }
}

/// Another first piece, under its own checksum.
fn change_piece(body: &mut [u8]) {
    let record = RECORD_HEAD_BYTES + u32_at(body, 0) as usize;
    body[record - 1] ^= 1;
    let crc = crc_of(&[&body[..4], &body[RECORD_HEAD_BYTES..record]]);
    set_u32(body, 4, crc);
}

fn digest(bytes: &[u8]) -> u64 {
    let mut digest = XxHash64::with_seed(0);
    digest.write(bytes);
    digest.finish()
}
