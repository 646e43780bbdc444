//! I9 and I12: nothing that promises durability leaves a node before the sync that makes it true, and
//! no answer is older than what others were told before it was asked for.

use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{HardState, Index, LogPosition, NodeId};
use raft_core::write::{Recovered, SnapshotWrite, Write};

use super::cursors::{Cursors, never_back};
use super::ledger::Shadow;
use super::{Verdict, ensure};
use crate::disk::{PutBack, Wrong};
use crate::plan::Machine;

/// What a disk has synced.
#[derive(Clone, Debug, Default)]
pub struct Durable {
    /// Term and vote.
    pub hard_state: HardState,
    /// The log.
    pub log: Shadow,
    /// A snapshot that was to take the place of the log, until the replica says that it did.
    pub installing: Option<LogPosition>,
}

impl Durable {
    /// What a start found.
    pub fn recovered(recovered: &Recovered, log: Shadow) -> Durable {
        Durable { hard_state: recovered.hard_state, log, installing: None }
    }

    /// The disk has synced this.
    pub fn persist(&mut self, write: &Write) {
        for operation in &write.snapshots {
            if let SnapshotWrite::Install(meta) = operation {
                self.installing = Some(meta.position);
            }
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(from) = write.truncate_from {
            self.log.truncate(from);
        }
        write.entries.iter().for_each(|entry| self.log.push(entry.position));
    }

    /// I7 and I14: a start finds all that was durable, but for what a later write, `issued` and
    /// perhaps not synced, has cut off. On a harmed disk too: whatever strikes what was synced leaves
    /// a trace (`disk::rot` keeps what would leave none away from it), so a node that lost
    /// something has to refuse to start. A wiped disk is another node's and starts from nothing.
    pub fn is_kept(&self, node: NodeId, found: &Recovered, issued: &Shadow) -> Verdict {
        never_back(node, self.hard_state, found.hard_state)?;
        let last = self.log.common(issued);
        let snapshot = found.snapshot.as_ref().map(|meta| meta.position).unwrap_or_default();
        let covered = last.index <= snapshot.index
            || found.entries.iter().any(|entry| entry.position == last)
            || found.log_start == last;
        ensure(covered, "I14", || {
            let end = found.entries.last().map_or(found.log_start, |entry| entry.position);
            format!("{node} had synced {last} and finds {end}, snapshot {snapshot}")
        })
    }
}

/// I14: recovering twice finds what recovering once does. Only log that a snapshot covers may be
/// gone: the first time let go of it.
pub fn same_again(node: NodeId, first: &Recovered, second: &Recovered) -> Verdict {
    let covered = first.snapshot.as_ref().map(|meta| meta.position.index).unwrap_or_default();
    let start = second.log_start;
    let kept = first.entries.iter().filter(|entry| start.index < entry.index());
    let same = (first.hard_state, &first.snapshot) == (second.hard_state, &second.snapshot)
        && first.log_start <= start
        && (start == first.log_start || start.index <= covered)
        && kept.eq(&second.entries);
    ensure(same, "I14", || {
        let end = |it: &Recovered| it.entries.last().map_or(it.log_start, |entry| entry.position);
        let told = |it: &Recovered| {
            let snapshot = it.snapshot.as_ref().map(|meta| meta.position).unwrap_or_default();
            format!("{:?}, {}..{}, snapshot {snapshot}", it.hard_state, it.log_start, end(it))
        };
        format!("{node} finds {} and, reading again, {}", told(first), told(second))
    })
}

/// I14: a node that started with this file in the place of one of its own was right to do so.
pub fn refuses(machine: Machine, wrong: Wrong) -> Verdict {
    ensure(!wrong.must_be_refused(), "I14", || {
        let Wrong { place, origin, .. } = wrong;
        format!("{machine} starts, and one of its files ({place:?}) is of {origin}")
    })
}

/// I14: who refuses a file changes nothing: the operator finds it as it was.
pub fn left_alone(machine: Machine, wrong: Wrong, found: PutBack) -> Verdict {
    let fine = !wrong.must_be_refused() || found == PutBack::AsItWas;
    ensure(fine, "I14", || {
        let Wrong { place, origin, .. } = wrong;
        format!("{machine} had to refuse a file ({place:?}) of {origin}, and has changed it")
    })
}

/// I9: what a message promises is true on the sender's disk.
pub fn sent(message: &Message, disk: &Durable) -> Verdict {
    let Message { from, to, term, body, .. } = message;
    let matched = match body {
        Body::VoteReply { granted: true } => {
            let vote = HardState { term: *term, vote: Some(*to) };
            return ensure(disk.hard_state == vote, "I9", || {
                format!("{from} grants {to}@{term} and its disk holds {:?}", disk.hard_state)
            });
        }
        Body::AppendReply { result: AppendResult::Matched(matched) } => *matched,
        Body::HeartbeatReply { matched, .. } => *matched,
        Body::SnapshotReply { position, next_offset: None } => position.index,
        _ => return Ok(()),
    };
    if matched == Index::ZERO {
        return Ok(());
    }
    let last = disk.log.last().index.max(disk.installing.map_or(Index::ZERO, |at| at.index));
    ensure(matched <= last, "I9", || {
        format!("{from} acknowledges {matched} and its disk ends at {last}")
    })?;
    ensure(*term <= disk.hard_state.term, "I9", || {
        let held = disk.hard_state.term;
        format!("{from} acknowledges {matched} in term {term} and its disk holds term {held}")
    })
}

/// I9: a leader's own vote is durable before it leads.
pub fn leads(node: NodeId, now: &Cursors, disk: &Durable) -> Verdict {
    let vote = HardState { term: now.hard_state.term, vote: Some(node) };
    ensure(disk.hard_state == vote, "I9", || {
        format!("{node} leads term {} and its disk holds {:?}", vote.term, disk.hard_state)
    })
}

/// I9: what a replica takes for synced is.
pub fn cursors(node: NodeId, now: &Cursors, disk: &Durable) -> Verdict {
    let last = disk.log.last().index;
    ensure(now.durable <= last, "I9", || {
        format!("{node} takes {} for synced and its disk ends at {last}", now.durable)
    })
}

/// I12: linearizable reads see every write that was acknowledged before they began.
#[derive(Debug, Default)]
pub struct Promises {
    /// The highest index anybody was told.
    told: Index,
    /// For each operation, what had been told when it began; nothing for those that may be stale.
    floors: Vec<Index>,
}

impl Promises {
    /// An operation begins.
    pub fn begun(&mut self, op: u32, fresh: bool) {
        self.floors.resize(op as usize + 1, Index::ZERO);
        self.floors[op as usize] = if fresh { self.told } else { Index::ZERO };
    }

    /// It is answered with what took effect, or held, at `index`.
    pub fn answered(&mut self, op: u32, index: Index, committed: Index) -> Verdict {
        let floor = self.floors.get(op as usize).copied().unwrap_or_default();
        ensure(floor <= index, "I12", || {
            format!("op{op} read at {index}; {floor} had been acknowledged before it began")
        })?;
        ensure(index <= committed, "I12", || {
            format!("op{op} was answered from {index}; only {committed} is committed")
        })?;
        self.told = self.told.max(index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Origin, Place};
    use raft_core::types::{Term, WriteId};
    use raft_core::write::SnapshotMeta;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(term))
    }

    fn disk() -> Durable {
        let mut log = Shadow::new(LogPosition::ORIGIN);
        (1..=5).for_each(|index| log.push(at(index, 2)));
        Durable {
            hard_state: HardState { term: Term(2), vote: Some(NodeId(2)) },
            log,
            installing: None,
        }
    }

    fn message(term: u64, body: Body) -> Message {
        Message { from: NodeId(1), to: NodeId(2), term: Term(term), id: 1, body }
    }

    fn matched(index: u64) -> Body {
        Body::AppendReply { result: AppendResult::Matched(Index(index)) }
    }

    #[test]
    fn i9_a_vote_leaves_after_its_sync() {
        assert!(sent(&message(2, Body::VoteReply { granted: true }), &disk()).is_ok());
        assert!(sent(&message(3, Body::VoteReply { granted: false }), &disk()).is_ok());
        let early = sent(&message(3, Body::VoteReply { granted: true }), &disk());
        assert_eq!(early.expect_err("term 3 is not on the disk").rule, "I9");
    }

    #[test]
    fn i9_an_acknowledgement_leaves_after_its_sync() {
        assert!(sent(&message(2, matched(5)), &disk()).is_ok());
        assert_eq!(sent(&message(2, matched(6)), &disk()).expect_err("6 is not there").rule, "I9");
        assert_eq!(sent(&message(3, matched(5)), &disk()).expect_err("nor term 3").rule, "I9");
        let beat = |matched| Body::HeartbeatReply { round: 1, matched, received: Index(9) };
        assert!(sent(&message(3, beat(Index::ZERO)), &disk()).is_ok());
        assert!(sent(&message(2, beat(Index(6))), &disk()).is_err());
        let whole = Body::SnapshotReply { position: at(7, 2), next_offset: None };
        assert!(sent(&message(2, whole), &disk()).is_err());
    }

    #[test]
    fn i9_nobody_leads_before_its_vote_is_durable() {
        let now = Cursors {
            hard_state: HardState { term: Term(2), vote: Some(NodeId(2)) },
            role: raft_core::consensus::event::RoleName::Leader,
            start: Index(0),
            snapshot: Index(0),
            applied: Index(0),
            committed: Index(0),
            durable: Index(5),
            last: at(6, 2),
        };
        assert!(leads(NodeId(2), &now, &disk()).is_ok());
        assert!(cursors(NodeId(2), &now, &disk()).is_ok());
        let vote = HardState { term: Term(1), vote: None };
        let early = leads(NodeId(2), &now, &Durable { hard_state: vote, ..disk() });
        assert_eq!(early.expect_err("the vote is not on the disk").rule, "I9");
        let ahead = cursors(NodeId(2), &Cursors { durable: Index(6), ..now }, &disk());
        assert_eq!(ahead.expect_err("6 is not on the disk").rule, "I9");
    }

    #[test]
    fn i14_a_start_finds_what_was_synced() {
        let entry = |index| raft_core::types::Entry {
            position: at(index, 2),
            payload: raft_core::types::Payload::Noop,
        };
        let found = |last: u64| Recovered {
            hard_state: disk().hard_state,
            entries: (1..=last).map(entry).collect(),
            ..Recovered::default()
        };
        let kept = |found: &Recovered| disk().is_kept(NodeId(1), found, &disk().log);
        assert!(kept(&found(5)).is_ok() && kept(&found(6)).is_ok());
        assert_eq!(kept(&found(4)).expect_err("5 is gone").rule, "I14");
        let forgot = Recovered { hard_state: HardState::default(), ..found(5) };
        assert_eq!(kept(&forgot).expect_err("the vote is gone").rule, "I7");
        // A cut at 4 was under way: 4 and 5 may be gone, 3 may not.
        let mut issued = disk().log;
        issued.truncate(Index(4));
        issued.push(at(4, 3));
        assert!(disk().is_kept(NodeId(1), &found(3), &issued).is_ok());
        let short = disk().is_kept(NodeId(1), &found(2), &issued);
        assert_eq!(short.expect_err("3 is gone").rule, "I14");
    }

    #[test]
    fn i14_recovering_twice_is_recovering_once() {
        let found = |term| Recovered {
            hard_state: HardState { term: Term(term), vote: None },
            ..Recovered::default()
        };
        let entry = |index| raft_core::types::Entry {
            position: at(index, 2),
            payload: raft_core::types::Payload::Noop,
        };
        let log = |from, to| Recovered {
            log_start: at(from, 2),
            entries: (from + 1..=to).map(entry).collect(),
            snapshot: Some(SnapshotMeta { position: at(4, 2), ..SnapshotMeta::default() }),
            ..found(3)
        };
        let again = |first: &Recovered, second: &Recovered| same_again(NodeId(1), first, second);
        assert!(again(&found(3), &found(3)).is_ok());
        assert!(again(&log(2, 6), &log(2, 6)).is_ok());
        assert!(again(&log(2, 6), &log(4, 6)).is_ok(), "a snapshot covers what is gone");
        for (first, second) in [
            (found(3), found(4)),
            (log(2, 6), log(5, 6)),
            (log(2, 6), log(2, 5)),
            (log(4, 6), log(2, 6)),
            (log(2, 6), Recovered { snapshot: None, ..log(2, 6) }),
        ] {
            assert_eq!(again(&first, &second).expect_err("another").rule, "I14");
        }
    }

    #[test]
    fn a_write_changes_what_is_durable() {
        let mut disk = disk();
        let hard_state = HardState { term: Term(4), vote: None };
        disk.persist(&Write {
            id: WriteId(1),
            snapshots: Vec::new(),
            hard_state: Some(hard_state),
            truncate_from: Some(Index(3)),
            entries: Vec::new(),
        });
        assert_eq!((disk.hard_state, disk.log.last()), (hard_state, at(2, 2)));
    }

    #[test]
    fn i12_a_read_sees_what_was_acknowledged_before_it() {
        let mut promises = Promises::default();
        promises.begun(0, false);
        promises.begun(1, true);
        assert!(promises.answered(0, Index(7), Index(7)).is_ok());
        promises.begun(2, true);
        promises.begun(3, false);
        assert!(promises.answered(1, Index(4), Index(7)).is_ok());
        assert!(promises.answered(3, Index(4), Index(7)).is_ok());
        assert_eq!(promises.answered(2, Index(6), Index(7)).expect_err("stale").rule, "I12");
        promises.begun(4, true);
        assert_eq!(promises.answered(4, Index(9), Index(8)).expect_err("not yet").rule, "I12");
    }

    #[test]
    fn i14_a_wrong_file_is_refused_and_left_alone() {
        let (machine, number) = (Machine(0), 0);
        let wrong = |place, origin| Wrong { number, place, origin };
        let segment = wrong(Place::Wal, Origin::Nonsense);
        let foreign = wrong(Place::Snapshot, Origin::Cluster);
        let snapshot = wrong(Place::Snapshot, Origin::Nonsense);
        // One may begin from an older snapshot, and then the wrong one goes in time.
        assert!(refuses(machine, snapshot).is_ok());
        assert!(left_alone(machine, snapshot, PutBack::Changed).is_ok());
        for file in [segment, foreign] {
            let changed = left_alone(machine, file, PutBack::Changed);
            assert_eq!(refuses(machine, file).expect_err("foreign").rule, "I14");
            assert_eq!(changed.expect_err("touched").rule, "I14");
            assert!(left_alone(machine, file, PutBack::AsItWas).is_ok());
        }
    }
}
