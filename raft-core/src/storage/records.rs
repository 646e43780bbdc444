//! What the records of the write-ahead log mean: each kind as a value, and what the records up to
//! any place add up to ([`LogState`]). The writer and recovery both keep one, so that they cannot
//! disagree. Never touches a file.

use bytes::Bytes;

use super::format::{Kind, Record};
use crate::buffer;
use crate::codec::{decode_payload, decode_snapshot_meta, encode_payload, encode_snapshot_meta};
use crate::state_machine::Malformed;
use crate::types::{Entry, HardState, Index, LogPosition, NodeId, Term};
use crate::write::SnapshotMeta;

/// How many snapshots are kept: the newest, and one to fall back to.
pub(super) const SNAPSHOTS_KEPT: usize = 2;

/// A record as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A new term or vote.
    HardState(HardState),
    /// A log entry follows the last one.
    Entry(Entry),
    /// The log now ends with this entry.
    Truncate(LogPosition),
    /// This snapshot is durable under its name.
    Mark {
        /// Which snapshot.
        meta: SnapshotMeta,
        /// Whether the log before it is dropped, and starts anew behind it.
        anew: bool,
    },
    /// This segment is left.
    Close,
    /// What was in force before this segment.
    Carry {
        /// The last entry.
        last: LogPosition,
        /// Term and vote.
        hard_state: HardState,
        /// The snapshots, oldest first.
        marks: Vec<SnapshotMeta>,
    },
}

/// What the records up to some place add up to, without the entries themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogState {
    /// Term and vote.
    pub hard_state: HardState,
    /// The marked snapshots, oldest first.
    pub marks: Vec<SnapshotMeta>,
    /// Which entries there are.
    pub shape: LogShape,
}

/// The positions of a log: where it starts, where it ends, and where its terms change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogShape {
    /// The entry before the first.
    start: LogPosition,
    /// The first entry of each term, in order: one per term, however long the log.
    runs: Vec<LogPosition>,
    /// The index of the last entry, or of `start`.
    last: Index,
}

impl Meaning {
    /// The record that says this. A command's bytes are shared, not copied.
    pub fn encode(&self) -> Record<Bytes> {
        let at = |kind, position: LogPosition| {
            Record::<Bytes>::bare(kind, position.index.0, position.term.0)
        };
        match self {
            Meaning::HardState(hard_state) => {
                let payload = match hard_state.vote {
                    Some(vote) => Bytes::copy_from_slice(&vote.0.to_le_bytes()),
                    None => Bytes::new(),
                };
                Record { payload, ..Record::bare(Kind::HardState, 0, hard_state.term.0) }
            }
            Meaning::Entry(entry) => {
                let (sub_kind, payload) = encode_payload(&entry.payload);
                Record { sub_kind, payload, ..at(Kind::Entry, entry.position) }
            }
            Meaning::Truncate(last) => at(Kind::Truncate, *last),
            Meaning::Mark { meta, anew } => Record {
                sub_kind: u8::from(*anew),
                payload: encode_snapshot_meta(meta),
                ..at(Kind::Mark, meta.position)
            },
            Meaning::Close => at(Kind::Close, LogPosition::default()),
            Meaning::Carry { last, hard_state, marks } => {
                Record { payload: encode_carry(hard_state, marks).into(), ..at(Kind::Carry, *last) }
            }
        }
    }

    /// What a record says. Payloads are copied into buffers of their own.
    pub fn decode(record: &Record<&[u8]>) -> Result<Meaning, Malformed> {
        let position = LogPosition::new(Index(record.index), Term(record.term));
        match record.kind {
            Kind::HardState => {
                let vote = match record.payload {
                    [] => None,
                    payload => Some(NodeId(u64::from_le_bytes(
                        payload.try_into().map_err(|_| Malformed::new("a vote of 8 bytes"))?,
                    ))),
                };
                Ok(Meaning::HardState(HardState { term: Term(record.term), vote }))
            }
            Kind::Entry => {
                let payload = decode_payload(record.sub_kind, buffer::copied(record.payload))?;
                Ok(Meaning::Entry(Entry { position, payload }))
            }
            Kind::Truncate => Ok(Meaning::Truncate(position)),
            Kind::Mark => {
                let meta = decode_snapshot_meta(record.payload)?;
                if meta.position != position {
                    let text = format!("a mark of {position} that describes {}", meta.position);
                    return Err(Malformed::new(text));
                }
                match record.sub_kind {
                    0 => Ok(Meaning::Mark { meta, anew: false }),
                    1 => Ok(Meaning::Mark { meta, anew: true }),
                    other => Err(Malformed::new(format!("a mark of sub-kind {other}"))),
                }
            }
            Kind::Close => Ok(Meaning::Close),
            Kind::Carry => decode_carry(position, record.payload),
        }
    }
}

fn encode_carry(hard_state: &HardState, marks: &[SnapshotMeta]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&hard_state.term.0.to_le_bytes());
    bytes.push(u8::from(hard_state.vote.is_some()));
    bytes.extend_from_slice(&hard_state.vote.map_or(0, |vote| vote.0).to_le_bytes());
    for mark in marks {
        let meta = encode_snapshot_meta(mark);
        bytes.extend_from_slice(&(meta.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&meta);
    }
    bytes
}

fn decode_carry(last: LogPosition, payload: &[u8]) -> Result<Meaning, Malformed> {
    let short = || Malformed::new("a carry record that ends early");
    let (term, rest) = payload.split_first_chunk::<8>().ok_or_else(short)?;
    let ([voted], rest) = rest.split_first_chunk::<1>().ok_or_else(short)?;
    let (vote, mut rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let vote = (*voted == 1).then(|| NodeId(u64::from_le_bytes(*vote)));
    let hard_state = HardState { term: Term(u64::from_le_bytes(*term)), vote };
    let mut marks = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (meta, tail) = tail.split_at_checked(length).ok_or_else(short)?;
        marks.push(decode_snapshot_meta(meta)?);
        rest = tail;
    }
    match rest {
        [] => Ok(Meaning::Carry { last, hard_state, marks }),
        _ => Err(short()),
    }
}

impl LogState {
    /// What the first record of the next segment takes over.
    pub fn carry(&self) -> Meaning {
        let newest = self.marks.len().saturating_sub(SNAPSHOTS_KEPT);
        Meaning::Carry {
            last: self.shape.last(),
            hard_state: self.hard_state,
            marks: self.marks[newest..].to_vec(),
        }
    }

    /// Adds a record. `Err` says, in words, what it does not fit to; nothing is changed then.
    pub fn add(&mut self, record: &Meaning) -> Result<(), String> {
        match record {
            Meaning::HardState(new) => {
                let old = self.hard_state;
                if new.term < old.term {
                    return Err(format!("a term of at least {}, found {}", old.term, new.term));
                }
                // Thesis 3.4: within a term a vote is given once.
                if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
                    return Err(format!("the vote of term {} to stay as it was given", old.term));
                }
                self.hard_state = *new;
            }
            Meaning::Entry(entry) => self.shape.append(entry.position)?,
            Meaning::Truncate(last) => self.shape.truncate(*last)?,
            Meaning::Mark { meta, anew } => {
                if *anew {
                    self.shape = LogShape::starting_after(meta.position);
                } else if self.shape.contradicts(meta.position) {
                    let last = self.shape.last();
                    return Err(format!("a mark of an entry in the log, which ends at {last}"));
                }
                self.mark(meta);
            }
            Meaning::Close => {}
            Meaning::Carry { last, hard_state, marks } => {
                let ours = (self.shape.last(), self.hard_state);
                if ours != (*last, *hard_state) {
                    let (last, hard_state) = ours;
                    return Err(format!("to carry on from {last} and {hard_state:?}"));
                }
                marks.iter().for_each(|meta| self.mark_if_new(meta));
            }
        }
        Ok(())
    }

    /// What holds before the oldest segment there is: all that its carry record says.
    pub fn carried(record: &Meaning) -> Option<LogState> {
        let Meaning::Carry { last, hard_state, marks } = record else { return None };
        let shape = LogShape::starting_after(*last);
        Some(LogState { hard_state: *hard_state, marks: marks.clone(), shape })
    }

    fn mark(&mut self, meta: &SnapshotMeta) {
        self.marks.retain(|known| known.position != meta.position);
        self.marks.push(meta.clone());
    }

    fn mark_if_new(&mut self, meta: &SnapshotMeta) {
        if self.marks.iter().all(|known| known.position != meta.position) {
            self.marks.push(meta.clone());
        }
    }
}

impl LogShape {
    /// A log without entries, the next of which follows `start`.
    pub fn starting_after(start: LogPosition) -> LogShape {
        LogShape { start, runs: Vec::new(), last: start.index }
    }

    /// The entry before the first.
    pub fn start(&self) -> LogPosition {
        self.start
    }

    /// The last entry, or `start` when there is none.
    pub fn last(&self) -> LogPosition {
        match self.runs.last() {
            Some(run) => LogPosition::new(self.last, run.term),
            None => self.start,
        }
    }

    /// The position at this index, where the log knows it.
    pub fn at(&self, index: Index) -> Option<LogPosition> {
        if index == self.start.index {
            return Some(self.start);
        }
        if self.last < index {
            return None;
        }
        let after = self.runs.partition_point(|run| run.index <= index);
        let run = self.runs.get(after.checked_sub(1)?)?;
        Some(LogPosition::new(index, run.term))
    }

    /// Whether the log is known to hold another entry, or none, at this index. Below its start it
    /// knows nothing.
    pub fn contradicts(&self, position: LogPosition) -> bool {
        self.start.index <= position.index && self.at(position.index) != Some(position)
    }

    fn append(&mut self, position: LogPosition) -> Result<(), String> {
        let last = self.last();
        let follows = position.index.0.checked_sub(1) == Some(last.index.0);
        if !follows || position.term < last.term {
            return Err(format!("the entry after {last}, found {position}"));
        }
        if self.runs.is_empty() || last.term < position.term {
            self.runs.push(position);
        }
        self.last = position.index;
        Ok(())
    }

    fn truncate(&mut self, last: LogPosition) -> Result<(), String> {
        if last.index < self.start.index {
            // What is cut began in segments that are gone: a snapshot covers it.
            *self = LogShape::starting_after(last);
            return Ok(());
        }
        if self.contradicts(last) {
            return Err(format!(
                "a cut inside the log, which ends at {}, found {last}",
                self.last()
            ));
        }
        self.runs.retain(|run| run.index <= last.index);
        self.last = last.index;
        Ok(())
    }

    /// Forgets what is at `start` and below; later entries stay.
    pub fn forget(&mut self, start: LogPosition) {
        if start.index <= self.start.index || self.contradicts(start) {
            return;
        }
        let after = self.runs.partition_point(|run| run.index <= start.index.next());
        self.runs.drain(..after.saturating_sub(1));
        if let Some(run) = self.runs.first_mut() {
            run.index = run.index.max(start.index.next());
        }
        self.start = start;
        if self.last == start.index {
            self.runs.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(term))
    }

    fn shape(positions: &[(u64, u64)]) -> LogShape {
        let mut shape = LogShape::default();
        for (index, term) in positions {
            shape.append(at(*index, *term)).expect("the test's entries follow each other");
        }
        shape
    }

    #[test]
    fn a_shape_knows_every_position_it_holds() {
        let shape = shape(&[(1, 1), (2, 1), (3, 4), (4, 4), (5, 7)]);
        let known: Vec<_> = (0..7).map(|index| shape.at(Index(index))).collect();
        let expected =
            [(0, 0), (1, 1), (2, 1), (3, 4), (4, 4), (5, 7)].map(|(i, t)| Some(at(i, t)));
        assert_eq!(known[..6], expected);
        assert_eq!(known[6], None);
    }

    #[test]
    fn a_shape_refuses_gaps_and_terms_that_go_back() {
        let mut shape = shape(&[(1, 1), (2, 3)]);
        assert!(shape.append(at(4, 3)).is_err());
        assert!(shape.append(at(3, 2)).is_err());
        assert!(shape.truncate(at(3, 3)).is_err());
        assert!(shape.truncate(at(1, 3)).is_err());
        assert_eq!(shape.last(), at(2, 3));
    }

    /// Under a checksum that holds an index can be any number: behind the last one there is no entry.
    #[test]
    fn nothing_follows_the_last_index_there_is() {
        let mut shape = LogShape::starting_after(at(u64::MAX, 1));
        assert!(shape.append(at(0, 1)).is_err() && shape.append(at(u64::MAX, 1)).is_err());
    }

    #[test]
    fn forgetting_keeps_what_is_above() {
        for start in 0..=5 {
            let whole = shape(&[(1, 1), (2, 1), (3, 4), (4, 4), (5, 7)]);
            let mut cut = whole.clone();
            cut.forget(whole.at(Index(start)).expect("a known index"));
            for index in start..7 {
                assert_eq!(cut.at(Index(index)), whole.at(Index(index)), "start {start}");
            }
            assert_eq!(cut.last(), whole.last());
            cut.append(at(6, 7)).expect("the log goes on");
            assert_eq!(cut.last(), at(6, 7));
        }
    }
}
