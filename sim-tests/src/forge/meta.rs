//! Wrong META files; `raft_core::storage::meta` has the table of bytes.

use super::{seal, set_u32, u32_at};
use crate::plan::Origin;
use crate::rng::Rng;

const FORMAT_AT: usize = 8;
const LENGTH_AT: usize = 12;
const FORMED_AT: usize = 24;
const NAME_LEN_AT: usize = 28;
const CLUSTER_AT: usize = 32;
const NAME_AT: usize = 40;
const CRC_BYTES: usize = 4;

pub(super) fn forge(mut bytes: Vec<u8>, origin: Origin, rng: &mut Rng) -> Option<Vec<u8>> {
    match origin {
        // That takes a file of another disk.
        Origin::Machine(_) => return None,
        // Who has formed no cluster is of none.
        Origin::Cluster if u32_at(&bytes, FORMED_AT) == 0 => return None,
        Origin::Cluster => bytes[CLUSTER_AT] ^= 0xff,
        Origin::Newer => {
            let format = u32_at(&bytes, FORMAT_AT);
            set_u32(&mut bytes, FORMAT_AT, format + 1);
        }
        Origin::Nonsense => match rng.below(6) {
            0 => set_u32(&mut bytes, FORMED_AT, 2),
            1 => {
                let length = u32_at(&bytes, NAME_LEN_AT);
                set_u32(&mut bytes, NAME_LEN_AT, length + 1);
            }
            2 => {
                let length = u32_at(&bytes, LENGTH_AT);
                set_u32(&mut bytes, LENGTH_AT, length - 1);
            }
            // No text.
            3 => bytes[NAME_AT] = 0xff,
            // It ends before the name, or before anything.
            4 => {
                bytes.truncate(FORMED_AT + CRC_BYTES);
                let length = bytes.len() as u32;
                set_u32(&mut bytes, LENGTH_AT, length);
            }
            _ => bytes.truncate(FORMAT_AT + CRC_BYTES),
        },
    }
    let end = bytes.len() - CRC_BYTES;
    seal(&mut bytes, end);
    Some(bytes)
}
