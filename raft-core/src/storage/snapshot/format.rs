//! The bytes of a snapshot file. Pure: bytes in, values out, no file is touched.
//!
//! ```text
//! file = header | body
//!
//! header      0  magic         8  "RAFTSNAP"
//!             8  format    u32 4
//!            12  length    u32 4  of the header: a multiple of 4096
//!            16  cluster   u64 8
//!            24  node id   u64 8  who wrote this file
//!            32  meta_len  u32 4
//!            36  crc       u32 4  CRC-32 of the header without these four bytes
//!            40  meta             the SnapshotMeta (codec.rs): position, membership, length and
//!                                 digest of the body; then zeroes up to `length`
//!
//! body = record* | footer
//!
//! record      0  len       u32 4  1 to PIECE_BYTES_MAX
//!             4  crc       u32 4  CRC-32 of `len` and the piece
//!             8  piece            as the state machine gave it out
//!
//! footer      0  zero      u32 4  no record has the length 0
//!             4  crc       u32 4  CRC-32 of the other fields
//!             8  pieces    u64 8  how many records there are
//!            16  digest    u64 8  XXH64, seed 0, of all records
//! ```
//!
//! The body is the same on every node that holds the snapshot: it travels verbatim, by byte offset.
//! The header is each node's own. The meta's digest is XXH64 with seed 0 of the whole body, footer
//! included. Integers are little-endian. In every format to come the magic, the format, the length
//! and the place of the CRC stay, so that a newer file is told from a damaged one.

use crate::codec;
use crate::state_machine::PIECE_BYTES_MAX;
use crate::storage::error::StorageError;
use crate::types::{ClusterId, Index, LogPosition, NodeId, Term};
use crate::write::SnapshotMeta;

/// The newest format of a snapshot file, and the one written.
pub const FORMAT: u32 = 1;

/// The header's unit, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// Bytes of a record before its piece.
pub const RECORD_HEAD_BYTES: usize = 8;

/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 24;

const MAGIC: &[u8; 8] = b"RAFTSNAP";
const CRC_AT: usize = 36;
const META_AT: usize = 40;
const HEADER_BYTES_MAX: usize = codec::HEAD_BYTES_MAX + PAGE_BYTES;

/// Who a node's files belong to; foreign ones are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node, which is its disk.
    pub node: NodeId,
}

/// What the eight bytes at the start of a record or the footer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordHead {
    /// A piece of this many bytes follows, with this CRC.
    Piece {
        /// 1 to [`PIECE_BYTES_MAX`].
        len: usize,
        /// To be compared with [`record_crc`].
        crc: u32,
    },
    /// The rest of the footer follows.
    Footer,
}

/// The footer's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// How many records there are.
    pub pieces: u64,
    /// XXH64 of all records.
    pub digest: u64,
}

/// The file of the snapshot at this position, in the folder of snapshots: `5-2.snap`.
pub fn file_name(position: LogPosition) -> String {
    format!("{}-{}.snap", position.index, position.term)
}

/// The position in a file's name; `None` when [`file_name`] makes no such name.
pub fn parse_file_name(name: &str) -> Option<LogPosition> {
    let (index, term) = name.strip_suffix(".snap")?.split_once('-')?;
    let (index, term) = (index.parse().ok()?, term.parse().ok()?);
    let position = LogPosition::new(Index(index), Term(term));
    // Only the very spelling: `05-2.snap` is not ours.
    (file_name(position) == name).then_some(position)
}

/// The header's bytes: whole pages. Its length depends on the membership only.
pub fn encode_header(owner: Owner, meta: &SnapshotMeta) -> Vec<u8> {
    let meta = codec::encode_snapshot_meta(meta);
    let length = (META_AT + meta.len()).next_multiple_of(PAGE_BYTES);
    let mut bytes = vec![0; length];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..16].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&owner.cluster.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&owner.node.0.to_le_bytes());
    bytes[32..CRC_AT].copy_from_slice(&(meta.len() as u32).to_le_bytes());
    bytes[META_AT..META_AT + meta.len()].copy_from_slice(&meta);
    let crc = header_crc(&bytes);
    bytes[CRC_AT..META_AT].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// How long the header is that begins with this page; `file` is for messages.
pub fn header_length(page: &[u8], file: &str) -> Result<usize, StorageError> {
    assert_eq!(page.len(), PAGE_BYTES, "the first page tells the length");
    if !page.starts_with(MAGIC) {
        let found = String::from_utf8_lossy(&page[..MAGIC.len()]).into_owned();
        return Err(StorageError::damage(file, 0, "the magic RAFTSNAP", format!("{found:?}")));
    }
    let length = u32_at(page, 12) as usize;
    if length == 0 || !length.is_multiple_of(PAGE_BYTES) || HEADER_BYTES_MAX < length {
        let found = format!("{length} bytes");
        return Err(StorageError::damage(file, 12, "a header of whole pages", found));
    }
    Ok(length)
}

/// What the header says, if it is whole and our own; `file` is for messages.
pub fn decode_header(bytes: &[u8], owner: Owner, file: &str) -> Result<SnapshotMeta, StorageError> {
    let (computed, stored) = (header_crc(bytes), u32_at(bytes, CRC_AT));
    if computed != stored {
        let expected = format!("CRC {computed:08x} of the header");
        return Err(StorageError::damage(file, CRC_AT as u64, expected, format!("{stored:08x}")));
    }
    // The CRC holds, so the bytes are as some version of this program wrote them.
    let format = u32_at(bytes, 8);
    if FORMAT < format {
        return Err(StorageError::NewerFormat { file: file.into(), found: format, known: FORMAT });
    }
    let cluster = ClusterId(u64_at(bytes, 16));
    if cluster != owner.cluster {
        let expected = owner.cluster;
        return Err(StorageError::ForeignCluster { file: file.into(), expected, found: cluster });
    }
    let node = NodeId(u64_at(bytes, 24));
    if node != owner.node {
        let expected = owner.node;
        return Err(StorageError::ForeignNode { file: file.into(), expected, found: node });
    }
    let end = META_AT.saturating_add(u32_at(bytes, 32) as usize);
    let meta = bytes.get(META_AT..end).ok_or_else(|| {
        StorageError::damage(file, 32, "a meta inside the header", format!("its end at {end}"))
    })?;
    codec::decode_snapshot_meta(meta)
        .map_err(|error| StorageError::damage(file, META_AT as u64, "a meta", error.to_string()))
}

/// Appends a piece as a record.
///
/// # Panics
///
/// When the piece is empty or longer than [`PIECE_BYTES_MAX`]: the state machine must cut smaller.
pub fn encode_record(piece: &[u8], out: &mut Vec<u8>) {
    let fits = !piece.is_empty() && piece.len() <= PIECE_BYTES_MAX;
    assert!(fits, "a piece has 1 to {PIECE_BYTES_MAX} bytes, not {}", piece.len());
    out.extend_from_slice(&(piece.len() as u32).to_le_bytes());
    out.extend_from_slice(&record_crc(piece).to_le_bytes());
    out.extend_from_slice(piece);
}

/// The footer's bytes.
pub fn encode_footer(footer: Footer) -> [u8; FOOTER_BYTES] {
    let mut bytes = [0; FOOTER_BYTES];
    bytes[8..16].copy_from_slice(&footer.pieces.to_le_bytes());
    bytes[16..24].copy_from_slice(&footer.digest.to_le_bytes());
    let crc = footer_crc(&bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What follows; `Err` holds a length that no piece has.
pub fn decode_record_head(bytes: &[u8]) -> Result<RecordHead, usize> {
    match u32_at(bytes, 0) as usize {
        0 => Ok(RecordHead::Footer),
        len if len <= PIECE_BYTES_MAX => Ok(RecordHead::Piece { len, crc: u32_at(bytes, 4) }),
        len => Err(len),
    }
}

/// The CRC of a piece and its length.
pub fn record_crc(piece: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(piece.len() as u32).to_le_bytes());
    crc.update(piece);
    crc.finalize()
}

/// The footer, if its CRC holds.
pub fn decode_footer(bytes: &[u8]) -> Option<Footer> {
    let whole = u32_at(bytes, 4) == footer_crc(bytes) && u32_at(bytes, 0) == 0;
    whole.then(|| Footer { pieces: u64_at(bytes, 8), digest: u64_at(bytes, 16) })
}

fn header_crc(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..CRC_AT]);
    crc.update(&bytes[META_AT..]);
    crc.finalize()
}

fn footer_crc(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..4]);
    crc.update(&bytes[8..FOOTER_BYTES]);
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}
