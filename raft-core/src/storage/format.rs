//! The bytes of the write-ahead log. Pure: turns values into bytes and bytes into values or a
//! [`Fault`]; never touches a file, and never decides what a fault means (`recovery` does).
//!
//! All integers are little-endian. Every checksum is a CRC-32 (IEEE) that begins with the segment's
//! *salt* and the place of what it covers, so bytes of another file, or of another place in this
//! one, never validate.
//!
//! ```text
//! segment = header page, batch, batch, ... , zeroes up to the size in the header
//!
//! header page (4096 bytes)                        record head (32 bytes, then its payload)
//!    0  8  "raftkvWL"                                0  1  kind
//!    8  4  format: 1                                 1  1  sub-kind
//!   12  4  feature bits: 0                           2  2  zero
//!   16  8  cluster id                                4  4  CRC of bytes 0..4 and 8..32
//!   24  8  node id                                   8  8  index
//!   32  8  sequence of the segment, from 1          16  8  term
//!   40  8  size of the file in bytes                24  4  length of the payload
//!   48  8  salt                                     28  4  CRC of the payload
//!   56  4  zero                                     32     payload
//!   60  4  CRC of the page without these 4
//!   64     zero
//!
//! batch header (40 bytes, at a multiple of 4096; its records follow; zeroes up to the next 4096)
//!    0  4  "BTCH"
//!    4  4  CRC of bytes 8..40
//!    8  8  sequence of the batch, from 1, through all segments
//!   16  8  length of header and records in bytes
//!   24  4  number of records
//!   28  4  how many of its 512-byte sectors are all zero (the last one is counted as filled up)
//!   32  4  the CRC field of the batch before: 0 for batch 1
//!   36  4  zero
//!
//! kind            sub-kind        index, term         payload
//! 1 hard state    0               0, the term         the vote: 8 bytes, or none
//! 2 entry         of its payload  the entry's         as `codec` writes it
//! 3 truncate      0               the last kept       -
//! 4 mark          0 the log goes  the snapshot's      its `SnapshotMeta` as `codec` writes it
//!                 on, 1 it starts
//!                 anew here
//! 5 close         0               0, 0                -
//! 6 carry         0               the last entry of   8 term, 1 whether there is a vote, 8 vote,
//!                                 all before          then each mark in force: 4 length, meta
//! ```

use crc32fast::Hasher;

use crate::types::{ClusterId, NodeId};

/// Batches start at multiples of this, so that no write touches a block with acknowledged bytes.
pub const PAGE: usize = 4096;
/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;
/// The format this program writes, and the newest it reads.
pub const FORMAT: u32 = 1;
/// Length of a batch header.
pub const BATCH_HEAD: usize = 40;
/// Length of a record's head.
pub const RECORD_HEAD: usize = 32;

const SEGMENT_MAGIC: [u8; 8] = *b"raftkvWL";
const BATCH_MAGIC: [u8; 4] = *b"BTCH";

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The cluster whose log this is.
    pub cluster: ClusterId,
    /// The node whose log this is.
    pub node: NodeId,
    /// Which segment: 1, 2, 3 ...
    pub sequence: u64,
    /// The size of the file in bytes, a multiple of [`PAGE`].
    pub bytes: u64,
    /// Random; goes into every checksum of this file.
    pub salt: u64,
}

/// What the header of a batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Which batch: 1, 2, 3 ... through all segments.
    pub sequence: u64,
    /// Header and records in bytes, without the zeroes up to the next page.
    pub length: u64,
    /// How many records follow.
    pub records: u32,
    /// How many of its sectors hold only zeroes by content.
    pub zero_sectors: u32,
    /// The checksum of the batch before.
    pub previous: u32,
    /// Its own checksum.
    pub crc: u32,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A new term or vote.
    HardState = 1,
    /// A log entry.
    Entry = 2,
    /// The log is cut; index and term are those of the last entry kept.
    Truncate = 3,
    /// A snapshot is durable under its name.
    Mark = 4,
    /// This segment is left; its successor exists.
    Close = 5,
    /// What the segment takes over from those before: the first record of each segment.
    Carry = 6,
}

/// One record, its payload borrowed from a file or shared with whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<P> {
    /// What it is.
    pub kind: Kind,
    /// A detail of the kind.
    pub sub_kind: u8,
    /// See the table.
    pub index: u64,
    /// See the table.
    pub term: u64,
    /// See the table.
    pub payload: P,
}

/// Bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where in the file.
    pub offset: u64,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// Why the first page of a segment cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// It is damaged.
    Damaged(Fault),
    /// It has a format or a feature this program does not know.
    Newer {
        /// The format it names.
        found: u32,
    },
}

/// What stands where a batch could begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSeen {
    /// A sector of zeroes: nothing was written here, or it was lost.
    Zero,
    /// A header that says what it is.
    Valid(BatchHeader),
    /// Anything else.
    Unreadable(Fault),
}

/// Makes the checksums of one segment.
#[derive(Clone, Debug)]
pub struct Seal {
    salted: Hasher,
}

impl Fault {
    /// At this offset.
    pub fn new(offset: u64, expected: impl Into<String>, found: impl Into<String>) -> Fault {
        Fault { offset, expected: expected.into(), found: found.into() }
    }
}

impl Seal {
    /// For a segment with this salt.
    pub fn new(salt: u64) -> Seal {
        let mut salted = Hasher::new();
        salted.update(&salt.to_le_bytes());
        Seal { salted }
    }

    /// The checksum of `parts` at a place: a batch is placed by its offset in the file, a record by
    /// its batch's sequence and its offset in the batch.
    fn crc(&self, place: [u64; 2], parts: &[&[u8]]) -> u32 {
        let mut hasher = self.salted.clone();
        hasher.update(&place[0].to_le_bytes());
        hasher.update(&place[1].to_le_bytes());
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize()
    }
}

impl SegmentHeader {
    /// The first page.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE);
        page.extend_from_slice(&SEGMENT_MAGIC);
        page.extend_from_slice(&FORMAT.to_le_bytes());
        page.extend_from_slice(&0u32.to_le_bytes());
        for field in [self.cluster.0, self.node.0, self.sequence, self.bytes, self.salt] {
            page.extend_from_slice(&field.to_le_bytes());
        }
        page.resize(PAGE, 0);
        let crc = header_crc(&page);
        page[60..64].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// Reads a first page, which has to be [`PAGE`] bytes long. The first 64 bytes keep their
    /// meaning in every format, so that damage is told from a newer format.
    pub fn decode(page: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        assert_eq!(page.len(), PAGE, "a segment header is one page");
        if page[..8] != SEGMENT_MAGIC {
            return Err(HeaderFault::Damaged(Fault::new(
                0,
                format!("the mark of a log segment, {}", hex(&SEGMENT_MAGIC)),
                hex(&page[..8]),
            )));
        }
        let (stored, computed) = (u32_at(page, 60), header_crc(page));
        if stored != computed {
            return Err(HeaderFault::Damaged(crc_fault(60, stored, computed)));
        }
        let (format, features) = (u32_at(page, 8), u32_at(page, 12));
        if format != FORMAT || features != 0 {
            return Err(HeaderFault::Newer { found: format });
        }
        Ok(SegmentHeader {
            cluster: ClusterId(u64_at(page, 16)),
            node: NodeId(u64_at(page, 24)),
            sequence: u64_at(page, 32),
            bytes: u64_at(page, 40),
            salt: u64_at(page, 48),
        })
    }
}

impl BatchHeader {
    /// How many bytes of the file the batch takes: its length up to the next page.
    pub fn extent(&self) -> u64 {
        up_to_page(self.length)
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::HardState, Kind::Entry, Kind::Truncate, Kind::Mark, Kind::Close, Kind::Carry]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

impl<P: AsRef<[u8]>> Record<P> {
    /// A record without payload.
    pub fn bare(kind: Kind, index: u64, term: u64) -> Record<P>
    where
        P: Default,
    {
        Record { kind, sub_kind: 0, index, term, payload: P::default() }
    }

    /// What it takes of a batch, in bytes.
    pub fn length(&self) -> u64 {
        (RECORD_HEAD + self.payload.as_ref().len()) as u64
    }
}

/// The length of a batch of these records, without the zeroes up to the next page.
pub fn batch_length<P: AsRef<[u8]>>(records: &[Record<P>]) -> u64 {
    BATCH_HEAD as u64 + records.iter().map(Record::length).sum::<u64>()
}

/// Writes the batch that begins at `offset` of its segment into `out` (whose old contents go),
/// filled up to whole pages, and gives its header.
pub fn encode_batch<P: AsRef<[u8]>>(
    out: &mut Vec<u8>,
    seal: &Seal,
    offset: u64,
    sequence: u64,
    previous: u32,
    records: &[Record<P>],
) -> BatchHeader {
    assert_eq!(offset % PAGE as u64, 0, "a batch starts on a page");
    let length = batch_length(records);
    out.clear();
    out.reserve(up_to_page(length) as usize);
    out.resize(BATCH_HEAD, 0);
    for record in records {
        encode_record(out, seal, sequence, record);
    }
    assert_eq!(out.len() as u64, length, "a batch has the length it was measured to have");
    out.resize(up_to_page(length) as usize, 0);

    let count = u32::try_from(records.len()).expect("a batch of 2^32 records exceeds any memory");
    out[..4].copy_from_slice(&BATCH_MAGIC);
    out[8..16].copy_from_slice(&sequence.to_le_bytes());
    out[16..24].copy_from_slice(&length.to_le_bytes());
    out[24..28].copy_from_slice(&count.to_le_bytes());
    out[32..36].copy_from_slice(&previous.to_le_bytes());
    // The header's own sector is never all zero, so filling in the rest does not change the count.
    let zero_sectors = zero_sectors(&out[..up_to_sector(length) as usize]);
    out[28..32].copy_from_slice(&zero_sectors.to_le_bytes());
    let crc = seal.crc([offset, 0], &[&out[8..BATCH_HEAD]]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    BatchHeader { sequence, length, records: count, zero_sectors, previous, crc }
}

fn encode_record<P: AsRef<[u8]>>(out: &mut Vec<u8>, seal: &Seal, batch: u64, record: &Record<P>) {
    let payload = record.payload.as_ref();
    let length = u32::try_from(payload.len()).expect("the core bounds entries far below 4 GiB");
    let at = out.len();
    let place = [batch, at as u64];
    out.extend_from_slice(&[record.kind as u8, record.sub_kind, 0, 0]);
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&record.index.to_le_bytes());
    out.extend_from_slice(&record.term.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&seal.crc(place, &[payload]).to_le_bytes());
    let crc = seal.crc(place, &[&out[at..at + 4], &out[at + 8..at + RECORD_HEAD]]);
    out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// What stands at `offset` of the segment `file`, a multiple of [`PAGE`] below its end.
pub fn read_batch_header(seal: &Seal, file: &[u8], offset: u64) -> HeaderSeen {
    let sector = &file[offset as usize..offset as usize + SECTOR];
    if is_zero(sector) {
        return HeaderSeen::Zero;
    }
    if sector[..4] != BATCH_MAGIC {
        let expected = format!("the mark of a batch, {}", hex(&BATCH_MAGIC));
        return HeaderSeen::Unreadable(Fault::new(offset, expected, hex(&sector[..4])));
    }
    let (stored, computed) = (u32_at(sector, 4), seal.crc([offset, 0], &[&sector[8..BATCH_HEAD]]));
    if stored != computed {
        return HeaderSeen::Unreadable(crc_fault(offset + 4, stored, computed));
    }
    let length = u64_at(sector, 16);
    let room = file.len() as u64 - offset;
    if length < BATCH_HEAD as u64 || room < length {
        let expected = format!("a batch of {BATCH_HEAD} to {room} bytes");
        return HeaderSeen::Unreadable(Fault::new(offset + 16, expected, format!("{length}")));
    }
    HeaderSeen::Valid(BatchHeader {
        sequence: u64_at(sector, 8),
        length,
        records: u32_at(sector, 24),
        zero_sectors: u32_at(sector, 28),
        previous: u32_at(sector, 32),
        crc: stored,
    })
}

/// The records of the batch with this header at `offset` of the segment `file`, all checked. Also
/// what follows them up to the next page has to be zero, as it was written.
pub fn read_records<'a>(
    seal: &Seal,
    file: &'a [u8],
    offset: u64,
    header: &BatchHeader,
) -> Result<Vec<Record<&'a [u8]>>, Fault> {
    let batch = &file[offset as usize..(offset + header.extent()) as usize];
    let (written, padding) = batch.split_at(header.length as usize);
    let mut records = Vec::new();
    let mut at = BATCH_HEAD;
    while at < written.len() {
        let record = read_record(seal, header.sequence, written, at)
            .map_err(|fault| Fault { offset: offset + fault.offset, ..fault })?;
        at += record.length() as usize;
        records.push(record);
    }
    if records.len() as u64 != u64::from(header.records) {
        let expected = format!("{} records", header.records);
        return Err(Fault::new(offset + 24, expected, format!("{}", records.len())));
    }
    if !is_zero(padding)
        && let Some(stray) = padding.iter().position(|byte| *byte != 0)
    {
        let stray = offset + header.length + stray as u64;
        return Err(Fault::new(stray, "zeroes after a batch", "other bytes"));
    }
    Ok(records)
}

fn read_record<'a>(
    seal: &Seal,
    batch: u64,
    written: &'a [u8],
    at: usize,
) -> Result<Record<&'a [u8]>, Fault> {
    let place = [batch, at as u64];
    let Some(head) = written.get(at..at + RECORD_HEAD) else {
        let found = format!("{} bytes", written.len() - at);
        return Err(Fault::new(at as u64, "the head of a record, 32 bytes", found));
    };
    let (stored, computed) = (u32_at(head, 4), seal.crc(place, &[&head[..4], &head[8..]]));
    if stored != computed {
        return Err(crc_fault(at as u64 + 4, stored, computed));
    }
    let (index, term) = (u64_at(head, 8), u64_at(head, 16));
    let Some(kind) = Kind::from_byte(head[0]) else {
        return Err(Fault::new(at as u64, "a kind of record from 1 to 6", format!("{}", head[0])));
    };
    let length = u32_at(head, 24) as usize;
    let begin = at + RECORD_HEAD;
    let Some(payload) = begin.checked_add(length).and_then(|end| written.get(begin..end)) else {
        let expected = format!("at most {} bytes of payload", written.len() - begin);
        return Err(Fault::new(at as u64 + 24, expected, format!("{length}")));
    };
    let (stored, computed) = (u32_at(head, 28), seal.crc(place, &[payload]));
    if stored != computed {
        // The head is sound, so it is known which entry is lost.
        let fault = crc_fault(begin as u64, stored, computed);
        let expected = format!("{} of {:?} {index}@{term}", fault.expected, kind);
        return Err(Fault { expected, ..fault });
    }
    Ok(Record { kind, sub_kind: head[1], index, term, payload })
}

/// How many of the 512-byte sectors hold only zeroes.
pub fn zero_sectors(bytes: &[u8]) -> u32 {
    bytes.chunks(SECTOR).filter(|sector| is_zero(sector)).count() as u32
}

/// Whether there are only zeroes.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Sixteen bytes at a time: segments of 64 MiB are mostly zero when they are read.
    let (wide, rest) = bytes.as_chunks::<16>();
    wide.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Rounded up to whole pages.
pub fn up_to_page(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE as u64)
}

/// Rounded up to whole sectors.
pub fn up_to_sector(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR as u64)
}

fn header_crc(page: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&page[..60]);
    hasher.update(&page[64..]);
    hasher.finalize()
}

fn crc_fault(offset: u64, stored: u32, computed: u32) -> Fault {
    Fault::new(offset, format!("checksum {computed:08x}"), format!("{stored:08x}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into().expect("a range of 4 is 4 long");
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..at + 8].try_into().expect("a range of 8 is 8 long");
    u64::from_le_bytes(field)
}
