//! Wrong log segments; `raft_core::storage::format` has the tables of bytes.

use raft_core::storage::format::{
    BATCH_HEAD, HeaderSeen, Kind, PAGE, RECORD_HEAD, Seal, read_batch_header, up_to_page,
    up_to_sector, zero_sectors,
};

use super::{crc_of, seal, set_u32, set_u64, u32_at, u64_at};
use crate::plan::Origin;
use crate::rng::Rng;

// The header page.
const FORMAT_AT: usize = 8;
const FEATURES_AT: usize = 12;
const CLUSTER_AT: usize = 16;
const SEQUENCE_AT: usize = 32;
const BYTES_AT: usize = 40;
const SALT_AT: usize = 48;
const HEADER_CRC_AT: usize = 60;

/// A batch: where it begins, and where its records do, relative to that.
struct Batch {
    at: usize,
    sequence: u64,
    length: usize,
    records: Vec<usize>,
}

pub(super) fn forge(mut bytes: Vec<u8>, origin: Origin, rng: &mut Rng) -> Option<Vec<u8>> {
    match origin {
        // That takes a file of another disk.
        Origin::Machine(_) => return None,
        Origin::Cluster => bytes[CLUSTER_AT] ^= 0xff,
        Origin::Newer if rng.coin() => raise(&mut bytes, FORMAT_AT),
        Origin::Newer => raise(&mut bytes, FEATURES_AT),
        Origin::Nonsense => {
            let batches = batches(&bytes);
            if !batches.is_empty() && rng.below(8) != 0 {
                // Each kind of record as often as the others: most records are entries.
                let kind = rng.range(1..7) as u8;
                let has =
                    |batch: &&Batch| batch.records.iter().any(|it| bytes[batch.at + it] == kind);
                let some: Vec<&Batch> = batches.iter().filter(has).collect();
                let batch = if some.is_empty() { rng.pick(&batches) } else { *rng.pick(&some) };
                contradict(&mut bytes, batch, kind, rng);
                return Some(bytes);
            }
            raise(&mut bytes, if rng.coin() { SEQUENCE_AT } else { BYTES_AT });
        }
    }
    seal(&mut bytes[..PAGE], HEADER_CRC_AT);
    Some(bytes)
}

/// One more than it was.
fn raise(bytes: &mut [u8], at: usize) {
    let value = u32_at(bytes, at);
    set_u32(bytes, at, value + 1);
}

fn batches(bytes: &[u8]) -> Vec<Batch> {
    let salted = Seal::new(u64_at(bytes, SALT_AT));
    let (mut batches, mut at) = (Vec::new(), PAGE);
    while at < bytes.len()
        && let HeaderSeen::Valid(header) = read_batch_header(&salted, bytes, at as u64)
    {
        let length = header.length as usize;
        let (mut records, mut record) = (Vec::new(), BATCH_HEAD);
        while record < length {
            records.push(record);
            record += RECORD_HEAD + u32_at(bytes, at + record + 24) as usize;
        }
        batches.push(Batch { at, sequence: header.sequence, length, records });
        at += header.extent() as usize;
    }
    batches
}

/// Makes a batch say what cannot be: one of its records, preferably of this kind, or its header.
fn contradict(bytes: &mut [u8], batch: &Batch, kind: u8, rng: &mut Rng) {
    let of_kind = |it: &&usize| bytes[batch.at + **it] == kind;
    let some: Vec<usize> = batch.records.iter().filter(of_kind).copied().collect();
    let chosen = if some.is_empty() { &batch.records } else { &some };
    let mut length = batch.length;
    if chosen.is_empty() || rng.below(5) == 0 {
        length = contradict_header(bytes, batch, rng);
    } else {
        let record = *rng.pick(chosen);
        length -= contradict_record(bytes, batch, record, rng);
        seal_record(bytes, batch, record);
    }
    seal_batch(bytes, batch, length);
}

/// The header of a batch is wrong about what follows it. Returns the batch's length.
fn contradict_header(bytes: &mut [u8], batch: &Batch, rng: &mut Rng) -> usize {
    let (at, length) = (batch.at, batch.length);
    match rng.below(5) {
        0 => raise(bytes, at + 24),
        1 => raise(bytes, at + 8),
        2 => set_u64(bytes, at + 16, BATCH_HEAD as u64 - 1),
        3 => {
            // Not enough for one record more.
            set_u64(bytes, at + 16, length as u64 + 5);
            return (length + 5).min(bytes.len() - at);
        }
        _ => {
            let end = up_to_page(length as u64) as usize;
            if length < end {
                bytes[at + end - 1] = 1;
            } else {
                raise(bytes, at + 24);
            }
        }
    }
    length
}

/// A record says what it cannot say there. Returns by how much it has become shorter.
fn contradict_record(bytes: &mut [u8], batch: &Batch, record: usize, rng: &mut Rng) -> usize {
    let last = batch.records.last() == Some(&record);
    let head = &mut bytes[batch.at + record..];
    let (payload, kind) = (u32_at(head, 24) as usize, head[0]);
    match rng.below(8) {
        0 => head[0] = 9,
        1 => set_u32(head, 24, 1 << 30),
        // A close record stands alone; before anything else it would not be what is wrong.
        2 if last && 1 < batch.records.len() => head[0] = Kind::Close as u8,
        _ if is(kind, Kind::Entry) => match rng.below(4) {
            0 => set_u64(head, 8, u64::MAX),
            1 => head[1] = 200,
            // It cuts behind the end.
            2 => head[0] = Kind::Truncate as u8,
            _ => raise(head, 8),
        },
        _ if is(kind, Kind::HardState) && 0 < payload && last => {
            let cut = rng.range(1..8) as usize;
            set_u32(head, 24, (payload - cut) as u32);
            head[RECORD_HEAD + payload - cut..RECORD_HEAD + payload].fill(0);
            return cut;
        }
        // The very first record of this kind is of term 1, all later ones are of that or more.
        _ if is(kind, Kind::HardState) && 1 < batch.sequence && rng.coin() => {
            set_u64(head, 16, 0);
        }
        // As an entry it follows nothing.
        _ if is(kind, Kind::HardState) => {
            head[0] = Kind::Entry as u8;
            set_u64(head, 8, 0);
        }
        _ if is(kind, Kind::Truncate) => set_u64(head, 8, u64::MAX),
        _ if is(kind, Kind::Mark) => match rng.below(4) {
            // Of an entry that there is not, or of a snapshot, if the log begins anew with it.
            3 => {
                set_u64(head, 8, u64::MAX);
                set_u64(head, RECORD_HEAD, u64::MAX);
            }
            0 => head[1] = 7,
            1 => raise(head, 8),
            _ => set_u64(head, RECORD_HEAD, 0),
        },
        _ if is(kind, Kind::Carry) => match rng.below(2) {
            // Its first mark is longer than the record.
            0 if 17 < payload => set_u32(head, RECORD_HEAD + 17, 1 << 30),
            // A segment begins with something else.
            _ => head[0] = Kind::Mark as u8,
        },
        _ => {
            // Of a close record there is nothing to be wrong about but what follows it.
            let behind = up_to_page(batch.length as u64) as usize - record;
            match head.get_mut(behind) {
                Some(byte) => *byte = 1,
                None => head[0] = 0,
            }
        }
    }
    0
}

fn is(byte: u8, kind: Kind) -> bool {
    byte == kind as u8
}

/// The checksums of a record, for as much of its payload as there is.
fn seal_record(bytes: &mut [u8], batch: &Batch, record: usize) {
    let salt = u64_at(bytes, SALT_AT).to_le_bytes();
    let place = [batch.sequence.to_le_bytes(), (record as u64).to_le_bytes()].concat();
    let head = &mut bytes[batch.at + record..];
    if let Some(payload) = head.get(RECORD_HEAD..RECORD_HEAD + u32_at(head, 24) as usize) {
        let crc = crc_of(&[&salt, &place, payload]);
        set_u32(head, 28, crc);
    }
    let crc = crc_of(&[&salt, &place, &head[..4], &head[8..RECORD_HEAD]]);
    set_u32(head, 4, crc);
}

/// The count of empty sectors and the checksum of a batch's header; `length` is that of its records
/// and itself.
fn seal_batch(bytes: &mut [u8], batch: &Batch, length: usize) {
    let salt = u64_at(bytes, SALT_AT).to_le_bytes();
    let place = [(batch.at as u64).to_le_bytes(), 0u64.to_le_bytes()].concat();
    let header = &mut bytes[batch.at..];
    if length != batch.length {
        set_u64(header, 16, length as u64);
    }
    let sectors = (up_to_sector(length as u64) as usize).min(header.len());
    let zero = zero_sectors(&header[..sectors]);
    set_u32(header, 28, zero);
    let crc = crc_of(&[&salt, &place, &header[8..BATCH_HEAD]]);
    set_u32(header, 4, crc);
}
