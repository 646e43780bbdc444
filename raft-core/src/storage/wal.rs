//! The write-ahead log as it is written: batch after batch, one sync each, segment after segment.
//!
//! Two rules make recovery's verdicts possible, and both are kept here and nowhere else: a batch is
//! written only after the sync of the one before has returned, and nothing is ever written where
//! acknowledged bytes are. This file does not know what the records mean, and after any failure
//! but a want of room it must not be used again (its owner sees to that).

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::error::StorageError;
use super::format::{
    BatchHeader, Kind, PAGE, Record, Seal, SegmentHeader, batch_length, encode_batch, read_records,
    up_to_page,
};
use super::records::{LogState, Meaning};
use super::recovery::{Examined, SegmentInfo, Tail, Unproven};
use super::segment::{
    MadeSegment, MakeSegment, WAL_DIR, remove_if_there, segment_path, sequence_of, write_segment,
};
use super::snapshot::Owner;
use crate::types::{Index, LogPosition};

/// How segments are made.
pub(super) struct Making {
    pub disk: Arc<dyn Disk>,
    pub owner: Owner,
    /// The size of the first segment.
    pub bytes_first: u64,
    /// The size that no segment exceeds, unless a single batch does.
    pub bytes_max: u64,
    pub salts: Salts,
}

/// Random salts from one random seed (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Salts(pub u64);

/// The log, open to be written.
pub(super) struct Wal {
    making: Making,
    /// Oldest first; the last one is written to.
    segments: Vec<SegmentInfo>,
    file: Box<dyn DiskFile>,
    seal: Seal,
    /// Where the next batch goes.
    offset: u64,
    last_batch: BatchHeader,
    /// Whether a later batch, or the way the log was opened, shows that the last one is synced.
    proven: bool,
    /// The next segment.
    ahead: Option<Ahead>,
    /// Held by a job that makes the next segment, while there is one.
    on_its_way: Weak<()>,
    jobs: u64,
    buffer: Vec<u8>,
    counts: Counts,
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub batches: u64,
    pub bytes: u64,
    pub syncs: u64,
    pub sync_time: Duration,
}

/// A segment that waits for its turn; `temporary` is its name until then, if it has none yet.
struct Ahead {
    file: Box<dyn DiskFile>,
    header: SegmentHeader,
    temporary: Option<String>,
}

/// The buffer keeps at most this much between batches.
const BUFFER_KEPT: usize = 8 << 20;

impl Salts {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut salt = self.0;
        salt = (salt ^ (salt >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        salt = (salt ^ (salt >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        salt ^ (salt >> 31)
    }
}

impl Making {
    fn header(&mut self, sequence: u64, bytes: u64) -> SegmentHeader {
        let Owner { cluster, node } = self.owner;
        SegmentHeader { cluster, node, sequence, bytes, salt: self.salts.next() }
    }

    /// Makes a segment with these batches under its own name, durably. It appears whole or not at
    /// all, and replaces what had the name.
    fn place(
        &self,
        header: &SegmentHeader,
        batches: &[u8],
    ) -> Result<Box<dyn DiskFile>, StorageError> {
        let temporary = format!("{WAL_DIR}/{:010}.tmp", header.sequence);
        let made = write_segment(&*self.disk, &temporary, header, batches);
        let file = made.map_err(|error| self.error(&temporary, "make", error))?;
        self.name(&temporary, header.sequence)?;
        Ok(file)
    }

    fn name(&self, temporary: &str, sequence: u64) -> Result<(), StorageError> {
        let path = segment_path(sequence);
        let renamed = self.disk.rename(temporary, &path);
        renamed.map_err(|error| self.error(&path, "rename", error))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        let synced = self.disk.sync_dir(WAL_DIR);
        synced.map_err(|error| self.failure(WAL_DIR, "sync", error))
    }

    fn open(&self, sequence: u64) -> Result<Box<dyn DiskFile>, StorageError> {
        let path = segment_path(sequence);
        self.disk.open(&path).map_err(|error| self.error(&path, "open", error))
    }

    fn error(&self, path: &str, op: &'static str, error: io::Error) -> StorageError {
        StorageError::io(self.disk.describe(path), op, error)
    }

    /// A refusal after which nothing may be tried again, even for want of room: what was to be
    /// written may be on the disk in part.
    fn failure(&self, path: &str, op: &'static str, error: io::Error) -> StorageError {
        StorageError::Io { file: self.disk.describe(path), op, source: Arc::new(error) }
    }
}

impl Wal {
    /// Makes the log of a node that has none: one segment that begins with `records`, synced under
    /// its name. Leftovers of an earlier try are replaced.
    pub fn create(making: &mut Making, records: &[Record<Bytes>]) -> Result<(), StorageError> {
        let disk = making.disk.clone();
        let made = disk.create_dir(WAL_DIR).and_then(|()| disk.sync_dir(""));
        made.map_err(|error| making.error(WAL_DIR, "create", error))?;
        let names = disk.list(WAL_DIR).map_err(|error| making.error(WAL_DIR, "list", error))?;
        for name in names.iter().filter(|name| sequence_of(name).is_some_and(|it| it != 1)) {
            let path = format!("{WAL_DIR}/{name}");
            disk.remove(&path).map_err(|error| making.error(&path, "remove", error))?;
        }
        // The second, empty batch proves the first: all of it was synced before it got its name.
        let bytes = making.bytes_first.max(whole_segment(batch_length(records)) + PAGE as u64);
        let header = making.header(1, bytes);
        let mut writer = Rewriter::new(&header);
        writer.batch(1, 0, records);
        writer.prove();
        making.place(&header, &writer.batches)?;
        Ok(())
    }

    /// Opens what was examined, after it was found whole: the end of the log is made durable beyond
    /// doubt, and what unfinished work left is removed.
    pub fn open(mut making: Making, examined: Examined) -> Result<Wal, StorageError> {
        let Examined { mut segments, unused, tail, unproven, leftovers, .. } = examined;
        for name in leftovers {
            let path = format!("{WAL_DIR}/{name}");
            remove_if_there(&*making.disk, &path)
                .map_err(|error| making.error(&path, "remove", error))?;
        }
        let records = matches!(unproven, Unproven::Records);
        if let Unproven::Bare { sequence, offset, bytes } = unproven {
            let mut file = making.open(sequence)?;
            let rewritten = file.write_at(offset, &bytes).and_then(|()| file.sync());
            rewritten.map_err(|error| making.failure(&segment_path(sequence), "sync", error))?;
        }
        // Names that are seen are not yet names that are durable.
        making.sync_dir()?;

        let mut end = tail.end;
        let mut last_batch = examined.last_batch;
        let file = if records || tail.torn {
            let (header, batches, last) = rewritten(&mut making, &tail);
            end = PAGE as u64 + batches.len() as u64;
            last_batch = last.unwrap_or(last_batch);
            let info = segments.last_mut().expect("the tail is one of the segments");
            info.header = header;
            making.place(&header, &batches)?
        } else {
            making.open(tail.header.sequence)?
        };
        let ahead = match unused {
            Some(header) => {
                Some(Ahead { file: making.open(header.sequence)?, header, temporary: None })
            }
            None => None,
        };
        let header = segments.last().expect("a formed node has segments").header;
        Ok(Wal {
            making,
            segments,
            file,
            seal: Seal::new(header.salt),
            offset: end,
            last_batch,
            proven: true,
            ahead,
            on_its_way: Weak::new(),
            jobs: 0,
            buffer: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// Makes sure that a batch of these records finds room in the segment that is written to, by
    /// going on to the next one if need be. `NoSpace` leaves everything as it was.
    pub fn make_room(
        &mut self,
        state: &LogState,
        records: &[Record<Bytes>],
    ) -> Result<(), StorageError> {
        let length = batch_length(records);
        let end = self.offset + up_to_page(length) + PAGE as u64;
        if !self.at_start() && end <= self.current().bytes {
            return Ok(());
        }
        let needed = whole_segment(length + state.carry().encode().length());
        if !self.at_start() {
            self.ensure_ahead(needed)?;
            return self.roll(state.shape.last());
        }
        if self.current().bytes < needed {
            // Nothing is in it yet: a larger one takes its place.
            let header = self.making.header(self.current().sequence, needed);
            self.file = self.making.place(&header, &[])?;
            self.seal = Seal::new(header.salt);
            self.segments.last_mut().expect("there is always a segment").header = header;
        }
        Ok(())
    }

    /// Appends a batch and syncs it. There has to be room for it, and in an empty segment it has to
    /// begin with what the segment takes over.
    pub fn append(&mut self, records: &[Record<Bytes>]) -> Result<(), StorageError> {
        self.write_batch(records)?;
        let entries = records.iter().filter(|record| record.kind == Kind::Entry);
        let highest = entries.map(|record| Index(record.index)).max();
        let info = self.segments.last_mut().expect("there is always a segment");
        info.highest = info.highest.max(highest.unwrap_or_default());
        self.proven = records.is_empty();
        Ok(())
    }

    /// Writes an empty batch, unless the last one is proven already. `last` is the log's last entry.
    pub fn prove(&mut self, last: LogPosition) -> Result<(), StorageError> {
        if self.proven {
            return Ok(());
        }
        if self.offset + 2 * PAGE as u64 <= self.current().bytes {
            return self.append(&[]);
        }
        // No room for anything but the close record, which proves just as well.
        if self.ahead.is_some() { self.roll(last) } else { Ok(()) }
    }

    /// Forgets the segments that hold nothing above `position`. Their paths, oldest first: they are
    /// to be removed in this order.
    pub fn forget_below(&mut self, position: LogPosition) -> Vec<String> {
        // The last one is written to.
        let older = &self.segments[..self.segments.len() - 1];
        let unneeded = older.iter().take_while(|info| info.highest <= position.index).count();
        let unneeded = self.segments.drain(..unneeded);
        unneeded.map(|info| segment_path(info.header.sequence)).collect()
    }

    /// The job to make the next segment, if it is not there and not on its way.
    pub fn needs_segment(&mut self) -> Option<MakeSegment> {
        if self.ahead.is_some() || self.on_its_way.upgrade().is_some() {
            return None;
        }
        let ticket = Arc::new(());
        self.on_its_way = Arc::downgrade(&ticket);
        self.jobs += 1;
        let header = self.next_header(0);
        let path = format!("{WAL_DIR}/ahead-{}.tmp", self.jobs);
        Some(MakeSegment::new(self.making.disk.clone(), path, header, ticket))
    }

    /// Takes a segment that was made. One that comes too late, because the log could not wait and
    /// made its own, is thrown away.
    pub fn adopt(&mut self, made: MadeSegment) {
        let next = self.current().sequence + 1;
        if self.ahead.is_none() && made.header.sequence == next {
            let MadeSegment { file, path, header, .. } = made;
            self.ahead = Some(Ahead { file, header, temporary: Some(path) });
        } else if let Err(error) = self.making.disk.remove(&made.path) {
            log::warn!("could not remove {}: {error}", self.making.disk.describe(&made.path));
        }
    }

    /// Whether there is room to go on: the next segment is there, or half of this one is free.
    pub fn has_room(&self) -> bool {
        self.ahead.is_some() || self.offset <= self.current().bytes / 2
    }

    /// Whether nothing was written to this segment yet.
    pub fn at_start(&self) -> bool {
        self.offset == PAGE as u64
    }

    /// The last entry before the oldest segment.
    pub fn start(&self) -> LogPosition {
        self.segments[0].carried
    }

    /// How many segments there are, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let ahead = self.ahead.as_ref().map(|ahead| ahead.header.bytes);
        let used = self.segments.iter().map(|info| info.header.bytes);
        (self.segments.len(), used.chain(ahead).sum())
    }

    /// Where it is.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.making.disk)
    }

    /// What was done since the log was opened.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Leaves this segment for the next one, which has to be there.
    fn roll(&mut self, carried: LogPosition) -> Result<(), StorageError> {
        let ahead = self.ahead.take().expect("the next segment is made before this one is left");
        // It has its name, durably, before the close record says that it is there.
        if let Some(temporary) = &ahead.temporary {
            self.making.name(temporary, ahead.header.sequence)?;
        }
        self.write_batch(&[Meaning::Close.encode()])?;
        self.file = ahead.file;
        self.seal = Seal::new(ahead.header.salt);
        self.offset = PAGE as u64;
        // The close record says nothing that could be lost.
        self.proven = true;
        let header = ahead.header;
        self.segments.push(SegmentInfo { header, carried, highest: Index::ZERO });
        Ok(())
    }

    /// Makes the next segment here and now, if there is none of at least this size.
    fn ensure_ahead(&mut self, bytes: u64) -> Result<(), StorageError> {
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.header.bytes < bytes)
            && let Some(temporary) = &ahead.temporary
        {
            remove_if_there(&*self.making.disk, temporary)
                .map_err(|error| self.making.error(temporary, "remove", error))?;
        }
        if self.ahead.is_none() {
            let header = self.next_header(bytes);
            // Replaces one that is too small, if it had its name already.
            let file = self.making.place(&header, &[])?;
            self.ahead = Some(Ahead { file, header, temporary: None });
        }
        Ok(())
    }

    /// Each segment is twice the size of the one before, up to the largest.
    fn next_header(&mut self, bytes_min: u64) -> SegmentHeader {
        let SegmentHeader { sequence, bytes, .. } = *self.current();
        let Making { bytes_first, bytes_max, .. } = self.making;
        let doubled = (2 * bytes).min(bytes_max).max(bytes_first).max(bytes_min);
        self.making.header(sequence + 1, up_to_page(doubled))
    }

    fn write_batch(&mut self, records: &[Record<Bytes>]) -> Result<(), StorageError> {
        let sequence = self.last_batch.sequence + 1;
        let previous = self.last_batch.crc;
        let header =
            encode_batch(&mut self.buffer, &self.seal, self.offset, sequence, previous, records);
        let end = self.offset + header.extent();
        assert!(end <= self.current().bytes, "a batch stays inside its segment");

        let written = self.file.write_at(self.offset, &self.buffer);
        written.map_err(|error| self.failure("write", error))?;
        let begun = Instant::now();
        let synced = self.file.sync();
        synced.map_err(|error| self.failure("sync", error))?;
        self.counts.sync_time += begun.elapsed();
        self.counts.syncs += 1;
        self.counts.batches += 1;
        self.counts.bytes += header.extent();

        self.offset = end;
        self.last_batch = header;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        Ok(())
    }

    fn failure(&self, op: &'static str, error: io::Error) -> StorageError {
        self.making.failure(&segment_path(self.current().sequence), op, error)
    }

    fn current(&self) -> &SegmentHeader {
        &self.segments.last().expect("there is always a segment").header
    }
}

/// The size of a segment for a batch of this length and the close record.
fn whole_segment(length: u64) -> u64 {
    PAGE as u64 + up_to_page(length) + PAGE as u64
}

/// The accepted batches of the tail once more, for a fresh file of the same size: with a new salt,
/// and with an empty batch behind them that proves them.
fn rewritten(making: &mut Making, tail: &Tail) -> (SegmentHeader, Vec<u8>, Option<BatchHeader>) {
    // Room for the empty batch and for the close record: a full segment grows by a page.
    let bytes = tail.header.bytes.max(tail.end + 2 * PAGE as u64);
    let header = making.header(tail.header.sequence, bytes);
    let seal = Seal::new(tail.header.salt);
    let mut writer = Rewriter::new(&header);
    for (offset, batch) in &tail.batches {
        let records = read_records(&seal, &tail.bytes, *offset, batch)
            .expect("the same bytes were read a moment ago");
        // Across segments the chain goes on as it was; inside, it follows the new checksums.
        let previous = writer.last.map_or(batch.previous, |last| last.crc);
        writer.batch(batch.sequence, previous, &records);
    }
    if writer.last.is_some() {
        writer.prove();
    }
    (header, writer.batches, writer.last)
}

/// Writes batches of a segment into memory.
struct Rewriter {
    seal: Seal,
    batches: Vec<u8>,
    last: Option<BatchHeader>,
    buffer: Vec<u8>,
}

impl Rewriter {
    fn new(header: &SegmentHeader) -> Rewriter {
        let seal = Seal::new(header.salt);
        Rewriter { seal, batches: Vec::new(), last: None, buffer: Vec::new() }
    }

    fn batch<P: AsRef<[u8]>>(&mut self, sequence: u64, previous: u32, records: &[Record<P>]) {
        let offset = (PAGE + self.batches.len()) as u64;
        let buffer = &mut self.buffer;
        let header = encode_batch(buffer, &self.seal, offset, sequence, previous, records);
        self.batches.extend_from_slice(&self.buffer);
        self.last = Some(header);
    }

    /// An empty batch behind the last one.
    fn prove(&mut self) {
        let last = self.last.expect("there is a batch to prove");
        self.batch::<&[u8]>(last.sequence + 1, last.crc, &[]);
    }
}
