//! Reads the log back at start and says of every byte whether it is acknowledged, torn by a crash,
//! or damaged.
//!
//! *A batch is written only after the sync of the one before has returned, so the first sector
//! written after batch n proves that n was synced.* A torn batch can therefore only be the last
//! thing in the log, and since every file was zero before, a sector that never reached the disk is
//! zero. Whatever else is wrong is damage, and damage is never trimmed.
//!
//! [`examine`] only reads. What has to be written afterwards is done by `wal`.

use super::disk::Disk;
use super::error::StorageError;
use super::format::{
    BatchHeader, Fault, HeaderSeen, Kind, PAGE, Record, Seal, SegmentHeader, is_zero,
    read_batch_header, read_records, up_to_sector, zero_sectors,
};
use super::records::{LogState, Meaning};
use super::segment::{WAL_DIR, is_temporary, read_segment, segment_path, sequence_of};
use super::snapshot::Owner;
use crate::types::{Entry, Index, LogPosition};
use crate::write::SnapshotMeta;

/// What the log holds, and what is known about its end.
pub(super) struct Examined {
    /// The segments of the log, oldest first; the last one is the tail.
    pub segments: Vec<SegmentInfo>,
    /// A segment behind the tail that was made and never written to.
    pub unused: Option<SegmentHeader>,
    /// All that the records add up to; every mark in the log, not only those in force.
    pub state: LogState,
    /// The entries above `state.shape.start()`.
    pub entries: Vec<Entry>,
    /// The last accepted batch.
    pub last_batch: BatchHeader,
    /// The last accepted batch, which no later one proves.
    pub unproven: Unproven,
    /// The segment that is written next, as it is.
    pub tail: Tail,
    /// Files that a crash left unfinished.
    pub leftovers: Vec<String>,
}

/// A segment in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentInfo {
    pub header: SegmentHeader,
    /// The last entry before it.
    pub carried: LogPosition,
    /// The highest index of an entry in it; 0 when it has none.
    pub highest: Index,
}

/// The last segment in use.
pub(super) struct Tail {
    pub header: SegmentHeader,
    pub bytes: Vec<u8>,
    /// Its accepted batches and where they begin.
    pub batches: Vec<(u64, BatchHeader)>,
    /// Where the next batch goes.
    pub end: u64,
    /// Whether there are remains of a torn batch at `end`.
    pub torn: bool,
}

/// The last accepted batch can be seen, but nothing shows that its sync returned: its bytes may be
/// only in the memory of the operating system.
pub(super) enum Unproven {
    /// It holds nothing of its own (it proves the one before, or closes its segment), so writing
    /// the same bytes to the same place once more, and syncing them, puts nothing at risk.
    Bare { sequence: u64, offset: u64, bytes: Vec<u8> },
    /// It holds records, in the tail: the tail must be written anew.
    Records,
}

/// How the reading of one segment ended.
enum End {
    /// With a close record, and only zeroes after it.
    Closed,
    /// With zeroes up to the end of the file.
    Clean,
    /// With a batch that a crash cut short.
    Torn,
}

/// Reads the whole log. Changes nothing.
pub(super) fn examine(disk: &dyn Disk, owner: Owner) -> Result<Examined, StorageError> {
    let folder = disk.describe(WAL_DIR);
    let names = disk.list(WAL_DIR).map_err(|error| StorageError::io(&*folder, "list", error))?;
    let sequences: Vec<u64> = names.iter().filter_map(|name| sequence_of(name)).collect();
    let leftovers = names.into_iter().filter(|name| is_temporary(name)).collect();
    let Some(first) = sequences.first() else {
        return Err(StorageError::damage(folder, 0, "the log of a formed node", "no segment"));
    };
    for (sequence, expected) in sequences.iter().zip(*first..) {
        if *sequence != expected {
            let (expected, found) = (segment_path(expected), segment_path(*sequence));
            return Err(StorageError::damage(folder, 0, expected, found));
        }
    }

    let mut replay = Replay::default();
    let mut rest = sequences.iter().copied();
    let tail = loop {
        let Some(sequence) = rest.next() else {
            let last = sequences.last().expect("there is a first one");
            let (file, at) = (segment_path(*last), replay.last_offset);
            let file = disk.describe(&file);
            let (expected, found) = (segment_path(last + 1), "no such file");
            return Err(StorageError::damage(file, at, format!("the successor {expected}"), found));
        };
        let (header, bytes) = read_segment(disk, owner, sequence)?;
        let mut tail = Tail { header, bytes, batches: Vec::new(), end: PAGE as u64, torn: false };
        let end = replay.read(&mut tail).map_err(|fault| {
            let file = disk.describe(&segment_path(sequence));
            StorageError::damage(file, fault.offset, fault.expected, fault.found)
        })?;
        match end {
            End::Closed => continue,
            End::Clean => break tail,
            End::Torn => {
                tail.torn = true;
                break tail;
            }
        }
    };

    let unused = unused_segments(disk, owner, rest, &tail)?;
    let Some((last_batch, unproven)) = replay.last_batch.zip(replay.unproven) else {
        let file = disk.describe(&segment_path(*first));
        return Err(StorageError::damage(file, PAGE as u64, "the first batch", "none"));
    };
    Ok(Examined {
        segments: replay.segments,
        unused,
        state: replay.state.expect("the first batch carried it in"),
        entries: replay.entries,
        last_batch,
        unproven,
        tail,
        leftovers,
    })
}

/// The snapshot to start from, of those marked: the newest that is readable and that the log goes
/// on from. `None` when there is none and the log begins at 0.
///
/// `readable` says whether a snapshot is whole, or fails for reasons of its own; `folder` is named
/// when the log itself is too short.
pub(super) fn choose_snapshot(
    folder: &str,
    state: &LogState,
    mut readable: impl FnMut(&SnapshotMeta) -> Result<Result<(), StorageError>, StorageError>,
) -> Result<Option<SnapshotMeta>, StorageError> {
    let mut marks: Vec<&SnapshotMeta> = state.marks.iter().collect();
    marks.sort_by_key(|mark| mark.position.index);
    let newest = marks.last().map_or(LogPosition::ORIGIN, |mark| mark.position);
    let (start, last) = (state.shape.start(), state.shape.last());
    let whole = newest.index <= last.index;
    let mut trouble = None;
    for mark in marks.into_iter().rev() {
        // Whatever the newest snapshot covers is committed: an older one serves only when the log
        // brings back all of it.
        let reaches =
            start.index <= mark.position.index && !state.shape.contradicts(mark.position) && whole;
        if !reaches {
            continue;
        }
        match readable(mark)? {
            Ok(()) => {
                if let Some(trouble) = trouble {
                    log::warn!("starting from the older snapshot {}: {trouble}", mark.position);
                }
                return Ok(Some(mark.clone()));
            }
            Err(damage) => trouble = trouble.or(Some(damage)),
        }
    }
    if start == LogPosition::ORIGIN && whole {
        if let Some(trouble) = trouble {
            log::warn!("starting without a snapshot, from the whole log: {trouble}");
        }
        return Ok(None);
    }
    Err(trouble.unwrap_or_else(|| {
        let expected = format!("a log from the snapshot {newest} on, without a gap");
        StorageError::damage(folder, 0, expected, format!("the log from {start} to {last}"))
    }))
}

/// Segments behind the tail must never have been written to: else the tail's end is not the end of
/// the log, and something between was lost.
fn unused_segments(
    disk: &dyn Disk,
    owner: Owner,
    behind: impl Iterator<Item = u64>,
    tail: &Tail,
) -> Result<Option<SegmentHeader>, StorageError> {
    let mut unused = None;
    for sequence in behind {
        let (header, bytes) = read_segment(disk, owner, sequence)?;
        let file = |sequence| disk.describe(&segment_path(sequence));
        if !is_zero(&bytes[PAGE..]) {
            let expected = format!("a batch, since {} is in use", file(sequence));
            let found = if tail.torn { "a batch with missing sectors" } else { "zeroes" };
            let tail = (file(tail.header.sequence), tail.end);
            return Err(StorageError::damage(tail.0, tail.1, expected, found));
        }
        if unused.is_some() {
            let expected = "at most one segment that is not in use";
            return Err(StorageError::damage(file(sequence), 0, expected, "one more"));
        }
        unused = Some(header);
    }
    Ok(unused)
}

/// Follows the log from its first batch on.
#[derive(Default)]
struct Replay {
    segments: Vec<SegmentInfo>,
    /// `None` before the first batch.
    state: Option<LogState>,
    entries: Vec<Entry>,
    last_batch: Option<BatchHeader>,
    last_offset: u64,
    unproven: Option<Unproven>,
}

impl Replay {
    /// Reads one segment; `tail` gets its batches and its end.
    fn read(&mut self, tail: &mut Tail) -> Result<End, Fault> {
        let carried = self.state.as_ref().map_or(LogPosition::ORIGIN, |state| state.shape.last());
        self.segments.push(SegmentInfo { header: tail.header, carried, highest: Index::ZERO });
        let bytes = std::mem::take(&mut tail.bytes);
        let seal = Seal::new(tail.header.salt);
        let end = loop {
            if tail.end == bytes.len() as u64 {
                break End::Clean;
            }
            let (header, records) = match self.next_batch(&seal, &bytes, tail.end)? {
                Next::Batch(header, records) => (header, records),
                Next::End => break End::Clean,
                Next::Torn => break End::Torn,
            };
            let closes = self.add_batch(&tail.batches, tail.end, &records)?;
            let extent = &bytes[tail.end as usize..(tail.end + header.extent()) as usize];
            self.unproven = Some(if is_bare(&records) {
                let (sequence, offset) = (tail.header.sequence, tail.end);
                Unproven::Bare { sequence, offset, bytes: extent.to_vec() }
            } else {
                Unproven::Records
            });
            self.last_batch = Some(header);
            self.last_offset = tail.end;
            tail.batches.push((tail.end, header));
            tail.end += header.extent();
            if closes {
                if let Some(stray) = bytes[tail.end as usize..].iter().position(|byte| *byte != 0) {
                    let stray = tail.end + stray as u64;
                    return Err(Fault::new(stray, "zeroes after the close record", "other bytes"));
                }
                break End::Closed;
            }
        };
        tail.bytes = bytes;
        Ok(end)
    }

    /// The verdict on what stands at `offset`.
    fn next_batch<'a>(&self, seal: &Seal, file: &'a [u8], offset: u64) -> Result<Next<'a>, Fault> {
        let header = match read_batch_header(seal, file, offset) {
            HeaderSeen::Valid(header) => header,
            HeaderSeen::Unreadable(fault) => return Err(fault),
            HeaderSeen::Zero if is_zero(&file[offset as usize..]) => return Ok(Next::End),
            HeaderSeen::Zero => {
                // Either the first sector of the last batch never reached the disk, or it was lost
                // later; a batch behind it was written only after this one was synced.
                let later = (offset + PAGE as u64..file.len() as u64).step_by(PAGE).find(|later| {
                    matches!(read_batch_header(seal, file, *later), HeaderSeen::Valid(_))
                });
                return match later {
                    None => Ok(Next::Torn),
                    Some(later) => {
                        let expected = format!("a batch, since one follows at {later}");
                        Err(Fault::new(offset, expected, "zeroes"))
                    }
                };
            }
        };
        self.check_chain(&header, offset)?;
        match read_records(seal, file, offset, &header) {
            Ok(records) => Ok(Next::Batch(header, records)),
            Err(fault) => {
                let sectors = offset as usize..(offset + up_to_sector(header.length)) as usize;
                let missing = header.zero_sectors < zero_sectors(&file[sectors.clone()]);
                let last = is_zero(&file[sectors.end..]);
                if missing && last { Ok(Next::Torn) } else { Err(fault) }
            }
        }
    }

    /// A batch names the one before it.
    fn check_chain(&self, header: &BatchHeader, offset: u64) -> Result<(), Fault> {
        let Some(before) = self.last_batch else { return Ok(()) };
        let expected = (before.sequence + 1, before.crc);
        let found = (header.sequence, header.previous);
        if expected == found {
            return Ok(());
        }
        let print = |(sequence, crc): (u64, u32)| format!("batch {sequence} after {crc:08x}");
        Err(Fault::new(offset + 8, print(expected), print(found)))
    }

    /// Takes in the records of a batch; whether it closes the segment.
    fn add_batch(
        &mut self,
        before: &[(u64, BatchHeader)],
        offset: u64,
        records: &[Record<&[u8]>],
    ) -> Result<bool, Fault> {
        if before.is_empty() && records.first().is_none_or(|record| record.kind != Kind::Carry) {
            let expected = "a segment that begins with what it takes over";
            return Err(Fault::new(offset, expected, "another record, or none"));
        }
        let bare = is_bare(records);
        let mut closes = false;
        for record in records {
            let record = Meaning::decode(record)
                .map_err(|malformed| Fault::new(offset, "a sound record", malformed.0))?;
            closes |= record == Meaning::Close;
            self.add(record).map_err(|expected| Fault::new(offset, expected, "another record"))?;
        }
        if closes && !bare {
            return Err(Fault::new(offset, "a close record alone", "other records with it"));
        }
        Ok(closes)
    }

    fn add(&mut self, record: Meaning) -> Result<(), String> {
        let segment = self.segments.last_mut().expect("records stand in segments");
        let state = match &mut self.state {
            Some(state) => state,
            none => {
                let carried = LogState::carried(&record).ok_or("a carry record")?;
                segment.carried = carried.shape.last();
                *none = Some(carried);
                return Ok(());
            }
        };
        state.add(&record)?;
        if let Meaning::Entry(entry) = record {
            segment.highest = segment.highest.max(entry.index());
            self.entries.push(entry);
            return Ok(());
        }
        // After a cut, or when the log starts anew, the shape says what is left.
        let left = state.shape.last().index.0 - state.shape.start().index.0;
        self.entries.truncate(left as usize);
        Ok(())
    }
}

/// Whether a batch says nothing that proven batches do not say as well.
fn is_bare(records: &[Record<&[u8]>]) -> bool {
    records.iter().all(|record| record.kind == Kind::Close)
}

enum Next<'a> {
    Batch(BatchHeader, Vec<Record<&'a [u8]>>),
    End,
    Torn,
}
