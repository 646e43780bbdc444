//! The bytes of the log, byte for byte: what is written today has to be readable for ever. When one
//! of these fails the format has changed; that needs a new format number, not new golden bytes.

mod wal_support;

use raft_core::storage::format::{
    BATCH_HEAD, BatchHeader, FORMAT, Fault, HeaderFault, HeaderSeen, Kind, PAGE, Record, SECTOR,
    Seal, SegmentHeader, encode_batch, read_batch_header, read_records,
};
use raft_core::types::Index;
use raft_core::write::{SnapshotWrite, Write};
use wal_support::{
    CLUSTER, NODE, at, entries, first_entry, foreign_snapshot, formed, open, term, write,
};

const FIRST: &str = "wal/0000000001.log";

fn header() -> SegmentHeader {
    let salt = 0x1122_3344_5566_7788;
    SegmentHeader { cluster: CLUSTER, node: NODE, sequence: 3, bytes: 0x8000, salt }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An entry of three bytes and a close record.
fn records() -> Vec<Record<Vec<u8>>> {
    let entry =
        Record { kind: Kind::Entry, sub_kind: 2, index: 5, term: 2, payload: b"abc".to_vec() };
    vec![entry, Record::bare(Kind::Close, 0, 0)]
}

/// A segment of one batch.
fn file(records: &[Record<Vec<u8>>]) -> (Seal, Vec<u8>, BatchHeader) {
    let seal = Seal::new(header().salt);
    let mut batch = Vec::new();
    let written = encode_batch(&mut batch, &seal, PAGE as u64, 9, 0xdead_beef, records);
    let mut file = header().encode();
    file.extend_from_slice(&batch);
    (seal, file, written)
}

fn read(file: &[u8], seal: &Seal) -> Result<Vec<Record<Vec<u8>>>, Fault> {
    let header = match read_batch_header(seal, file, PAGE as u64) {
        HeaderSeen::Valid(header) => header,
        HeaderSeen::Unreadable(fault) => return Err(fault),
        HeaderSeen::Zero => return Err(Fault::new(PAGE as u64, "a batch", "zeroes")),
    };
    let records = read_records(seal, file, PAGE as u64, &header)?;
    let owned = |record: Record<&[u8]>| {
        let Record { kind, sub_kind, index, term, payload } = record;
        Record { kind, sub_kind, index, term, payload: payload.to_vec() }
    };
    Ok(records.into_iter().map(owned).collect())
}

#[test]
fn golden_segment_header() {
    let page = header().encode();
    let golden = [
        "72616674 6b76574c 01000000 00000000", // "raftkvWL", format, features
        "c1000000 00000000 07000000 00000000", // cluster, node
        "03000000 00000000 00800000 00000000", // sequence, size
        "88776655 44332211 00000000 031e1230", // salt, CRC
    ];
    assert_eq!(hex(&page[..64]), golden.concat().replace(' ', ""));
    assert!(page.len() == PAGE && page[64..].iter().all(|byte| *byte == 0));
    assert_eq!(SegmentHeader::decode(&page), Ok(header()));
}

#[test]
fn golden_batch() {
    let (seal, file, written) = file(&records());
    let golden = [
        "42544348 3032eeb8 09000000 00000000", // "BTCH", CRC, sequence
        "6b000000 00000000 02000000 00000000", // length, records, zero sectors
        "efbeadde 00000000",                   // the batch before
        "02020000 73099419 05000000 00000000", // entry, a command, CRC, index
        "02000000 00000000 03000000 d5f64e6d", // term, length, CRC
        "616263",                              // "abc"
        "05000000 8041004e 00000000 00000000", // close
        "00000000 00000000 00000000 12eafbc2",
    ];
    let end = PAGE + written.length as usize;
    assert_eq!(hex(&file[PAGE..end]), golden.concat().replace(' ', ""));
    assert!(file.len() == 2 * PAGE && file[end..].iter().all(|byte| *byte == 0));
    assert_eq!(read(&file, &seal), Ok(records()));
}

/// What a real node writes, read with the public reader.
fn batches(disk: &raft_core::storage::testdisk::TestDisk) -> Vec<Vec<Record<Vec<u8>>>> {
    let file = disk.contents(FIRST).expect("the first segment");
    let seal = Seal::new(SegmentHeader::decode(&file[..PAGE]).expect("a header").salt);
    let (mut offset, mut all) = (PAGE as u64, Vec::new());
    while let HeaderSeen::Valid(header) = read_batch_header(&seal, &file, offset) {
        let records = read_records(&seal, &file, offset, &header).expect("sound records");
        let owned = records.into_iter().map(|record| Record {
            kind: record.kind,
            sub_kind: record.sub_kind,
            index: record.index,
            term: record.term,
            payload: record.payload.to_vec(),
        });
        all.push(owned.collect());
        offset += header.extent();
    }
    all
}

fn kinds(batch: &[Record<Vec<u8>>]) -> Vec<Kind> {
    batch.iter().map(|record| record.kind).collect()
}

/// pitfall 34: the term reaches the disk before the entries that carry it: in one batch, and ahead
/// of them. Marks stand before what follows them.
#[test]
fn pitfall_34_terms_stand_before_their_entries() {
    let disk = formed();
    let (mut storage, _) = open(&disk).expect("formed");
    let cut = Write {
        hard_state: Some(term(2)),
        truncate_from: Some(Index(2)),
        ..entries(2, 2, 2, 3, 10)
    };
    storage.write(&[entries(1, 1, 2, 3, 10), cut]).expect("a healthy disk");

    let (snapshot, body) = foreign_snapshot(at(9, 3));
    let chunk = SnapshotWrite::Chunk { meta: snapshot.clone(), offset: 0, data: body };
    let install = Write {
        snapshots: vec![chunk, SnapshotWrite::Install(snapshot)],
        hard_state: Some(term(3)),
        ..write(3)
    };
    storage.write(&[install, entries(4, 3, 10, 10, 10)]).expect("a healthy disk");

    let batches = batches(&disk);
    use Kind::{Carry, Entry, HardState, Mark, Truncate};
    assert_eq!(kinds(&batches[0]), [Carry, HardState, Entry], "forming");
    assert_eq!(kinds(&batches[1]), [], "forming, proven");
    assert_eq!(kinds(&batches[2]), [Entry, Entry, HardState, Truncate, Entry, Entry]);
    assert_eq!(kinds(&batches[3]), [Mark, HardState, Entry]);
    let cut = &batches[2][3];
    assert_eq!((cut.index, cut.term), (1, 1), "a cut names the last entry kept");
    assert_eq!(batches[3][0].sub_kind, 1, "the log starts anew behind an installed snapshot");
    assert_eq!(first_entry().position, at(1, 1));
}

/// Sectors of a payload that are zero by content are counted, so that they are not missed.
#[test]
fn zero_sectors_are_counted() {
    let zeroes =
        Record { kind: Kind::Entry, sub_kind: 2, index: 1, term: 1, payload: vec![0; 4 * SECTOR] };
    let (_, _, header) = file(&[zeroes]);
    // The payload begins in the first sector and ends in the fifth, which has nothing else.
    assert_eq!(header.zero_sectors, 4);
    assert_eq!(header.length as usize, BATCH_HEAD + 32 + 4 * SECTOR);
}

/// Every bit of a header page and of a batch's page counts.
#[test]
fn every_flipped_bit_is_seen() {
    let (seal, whole, _) = file(&records());
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if bit < PAGE * 8 {
            let fault = SegmentHeader::decode(&flipped[..PAGE]).expect_err("a flipped header");
            assert!(matches!(fault, HeaderFault::Damaged(_)), "bit {bit}: {fault:?}");
        } else {
            let fault = read(&flipped, &seal).expect_err("a flipped batch");
            assert!((PAGE as u64..whole.len() as u64).contains(&fault.offset), "bit {bit}");
        }
    }
}

/// Bytes of another segment, or of another place in this one, are no batch.
#[test]
fn a_batch_is_bound_to_its_segment_and_its_place() {
    let (_, whole, _) = file(&records());
    assert!(read(&whole, &Seal::new(header().salt + 1)).is_err());
    let mut moved = whole.clone();
    moved.extend_from_slice(&whole[PAGE..]);
    let seal = Seal::new(header().salt);
    assert!(matches!(read_batch_header(&seal, &moved, 2 * PAGE as u64), HeaderSeen::Unreadable(_)));
}

#[test]
fn a_newer_format_is_told_from_damage() {
    for (at, value) in [(8, FORMAT + 1), (12, 1)] {
        let mut page = header().encode();
        page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(matches!(SegmentHeader::decode(&page), Err(HeaderFault::Damaged(_))));
        let mut crc = crc32fast::Hasher::new();
        crc.update(&page[..60]);
        crc.update(&page[64..]);
        page[60..64].copy_from_slice(&crc.finalize().to_le_bytes());
        assert!(matches!(SegmentHeader::decode(&page), Err(HeaderFault::Newer { .. })));
    }
}
