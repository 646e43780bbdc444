//! I17, I19, I20 and I21: how a process behaves. What it must ignore, how much it may keep, for which
//! reasons it may end, and what it may form.

use std::collections::VecDeque;

use raft_core::consensus::Raft;
use raft_core::types::{ClusterId, Index, NodeId, Term, Time};
use raft_core::write::Write;

use super::cursors::Cursors;
use super::{Verdict, ensure};
use crate::plan::{Knobs, Machine};
use crate::trace::Exit;

/// What a message of an older term must leave as it was: everything but a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untouched {
    cursors: Cursors,
    leader: Option<NodeId>,
    /// When a follower last heard its leader: nobody else's message may put off an election.
    contact: Option<Time>,
    /// On a leader, what it knows of each follower.
    peers: Vec<Peer>,
    reads: (usize, usize),
    dropped: u64,
}

/// What a leader knows of a follower: what it holds, what is under way, when it was last heard.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Peer {
    id: NodeId,
    matched: Index,
    next: Index,
    inflight_bytes: u64,
    state: &'static str,
    contact: Option<Time>,
}

impl Untouched {
    /// What of a replica has to stay; `reads` are what waits in it.
    pub fn of(raft: &Raft, reads: (usize, usize)) -> Untouched {
        let status = raft.status();
        let peers = status.peers.iter();
        Untouched {
            cursors: Cursors::of(raft),
            leader: status.leader,
            // A leader's contact is a quorum's and depends on the time.
            contact: status.contact.filter(|_| status.peers.is_empty()),
            peers: peers
                .map(|it| Peer {
                    id: it.id,
                    matched: it.matched,
                    next: it.next,
                    inflight_bytes: it.inflight_bytes,
                    state: it.state,
                    contact: it.contact,
                })
                .collect(),
            reads,
            dropped: status.dropped,
        }
    }
}

/// I17: what was `told` in an older term changed nothing but the counter of what was dropped.
pub fn ignores(machine: Machine, told: &str, before: &Untouched, after: &Untouched) -> Verdict {
    let counted = Untouched { dropped: before.dropped + 1, ..before.clone() };
    ensure(*after == counted, "I17", || {
        format!("{machine}: {told} of an older term changed {before:?} to {after:?}")
    })
}

/// I17: nobody takes in a message of a term that no node of this cluster has reached.
pub fn is_ours(machine: Machine, term: Term, highest: Term) -> Verdict {
    ensure(term <= highest, "I17", || {
        format!("{machine} takes in a message of term {term}; this cluster has reached {highest}")
    })
}

/// What a disk has to keep: the log from the older of its two newest snapshots on. Everything else
/// it may have let go of.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// All that was ever written to the log, in bytes on the disk.
    written: u64,
    /// Writes that the snapshots below do not all cover, in their order: the highest entry of each,
    /// cut off since or not, and how much had been written before. Files go in this order, so
    /// whatever was written after one that stays has to stay too.
    writes: VecDeque<(Index, u64)>,
    /// Where the newest durable snapshots are, newest first. The second is still needed; files that
    /// only the third needed may be on their way out.
    snapshots: [Index; 3],
    /// The largest snapshot.
    body_max: u64,
}

/// A batch takes whole pages, and its header and records their heads.
const PAGE: u64 = 4096;

impl Kept {
    /// A write goes to the disk.
    pub fn writes(&mut self, write: &Write) {
        if let Some(last) = write.entries.last() {
            self.writes.push_back((last.index(), self.written));
        }
        let entries: u64 = write.entries.iter().map(|entry| entry.weight() + 64).sum();
        self.written += (entries + PAGE).next_multiple_of(PAGE);
    }

    /// A snapshot of this size is written, or came in. It may still be found to be wrong.
    pub fn holds(&mut self, body_bytes: u64) {
        self.body_max = self.body_max.max(body_bytes);
    }

    /// The snapshot at `at` is durable and counts. One that is taken again counts once.
    pub fn counts(&mut self, at: Index) {
        if at <= self.snapshots[0] {
            return;
        }
        self.snapshots.rotate_right(1);
        self.snapshots[0] = at;
        while self.writes.front().is_some_and(|(highest, _)| *highest <= self.snapshots[2]) {
            self.writes.pop_front();
        }
    }

    /// Most bytes that the log's segments may have.
    pub fn segment_bytes_max(&self, knobs: &Knobs) -> u64 {
        // One segment is cut short, one is written, one is made ahead, one is being let go of.
        let segments = 4 * knobs.segment_bytes_max.max(knobs.segment_bytes_first);
        self.log_bytes_max(knobs) * 2 + segments
    }

    /// Most bytes that all files of the disk may have.
    pub fn disk_bytes_max(&self, knobs: &Knobs) -> u64 {
        // Two that count, one being written, one being received, one being removed; in pages with
        // their digests.
        let snapshots = 5 * (2 * self.body_max + (64 << 10));
        self.segment_bytes_max(knobs) + snapshots
    }

    /// Most bytes that the log in memory may have.
    pub fn log_bytes_max(&self, knobs: &Knobs) -> u64 {
        // The membership that a cluster forms with is written before anybody looks.
        const FORMED: u64 = 4096;
        let before = self.writes.front().map_or(self.written, |(_, before)| *before);
        FORMED + self.written - before + knobs.tail_bytes + knobs.uncommitted_bytes_max.min(1 << 20)
    }
}

/// I19: this much of something is bounded.
pub fn bounded(machine: Machine, what: &str, is: u64, most: u64) -> Verdict {
    ensure(is <= most, "I19", || format!("{machine}: {is} {what}, {most} may be"))
}

/// What the plan has done to a machine that may end a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blame {
    /// Its disk was harmed.
    pub harmed: bool,
    /// Some disk was to fail.
    pub disks_fail: bool,
    /// Disks were swapped.
    pub swapped: bool,
    /// A wrong file stands in the place of one of its own.
    pub misfiled: bool,
}

/// I20: a process ends only for reasons that the plan gave it.
pub fn exits(machine: Machine, exit: &Exit, blame: Blame) -> Verdict {
    let documented = match exit {
        Exit::Stopped | Exit::Locked => true,
        Exit::Storage(_) | Exit::Restore(_) => blame.harmed || blame.disks_fail,
        Exit::Damage(_) => blame.harmed || blame.misfiled,
        Exit::Foreign(_) => blame.swapped || blame.harmed || blame.misfiled,
        Exit::Newer(_) => blame.misfiled,
        Exit::Panic(_) => false,
    };
    ensure(documented, "I20", || format!("{machine} exits for no reason: {exit:?}"))
}

/// I21: nodes that were started with one set form one cluster, and only if they are to form one.
pub fn forms(known: Option<ClusterId>, cluster: ClusterId, forming: bool) -> Verdict {
    let first = forming && known.is_none_or(|known| known == cluster);
    ensure(first, "I21", || match known {
        Some(known) => format!("cluster {cluster} is formed beside {known}"),
        None => format!("cluster {cluster} is formed, and all belonged to one already"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_core::consensus::event::RoleName;
    use raft_core::types::{Entry, HardState, LogPosition, Payload, WriteId};

    const ONE: Machine = Machine(0);

    fn rule(verdict: Verdict) -> &'static str {
        verdict.expect_err("a rule is broken").rule
    }

    fn replica() -> Untouched {
        Untouched {
            cursors: Cursors {
                hard_state: HardState { term: Term(3), vote: Some(NodeId(1)) },
                role: RoleName::Follower,
                start: Index(0),
                snapshot: Index(0),
                applied: Index(4),
                committed: Index(4),
                durable: Index(5),
                last: LogPosition::new(Index(5), Term(3)),
            },
            leader: Some(NodeId(2)),
            contact: Some(Time(70)),
            peers: vec![Peer {
                id: NodeId(3),
                matched: Index(4),
                next: Index(6),
                inflight_bytes: 0,
                state: "replicate",
                contact: Some(Time(60)),
            }],
            reads: (1, 2),
            dropped: 8,
        }
    }

    #[test]
    fn i17_a_message_of_an_older_term_changes_only_a_counter() {
        let after = |change: fn(&mut Untouched)| {
            let mut after = Untouched { dropped: 9, ..replica() };
            change(&mut after);
            ignores(ONE, "vote-reply from n2@2", &replica(), &after)
        };
        assert!(after(|_| {}).is_ok());
        let bad: [fn(&mut Untouched); 10] = [
            |it| it.dropped = 8,
            |it| it.cursors.hard_state.vote = Some(NodeId(2)),
            |it| it.cursors.role = RoleName::Leader,
            |it| it.cursors.committed = Index(5),
            |it| it.cursors.last = LogPosition::new(Index(4), Term(3)),
            |it| it.leader = None,
            |it| it.contact = Some(Time(71)),
            |it| it.peers[0].matched = Index(5),
            |it| it.peers[0].contact = Some(Time(61)),
            |it| it.reads = (0, 2),
        ];
        for change in bad {
            assert_eq!(rule(after(change)), "I17");
        }
    }

    #[test]
    fn i17_a_message_of_another_cluster_is_not_taken_in() {
        assert!(is_ours(ONE, Term(3), Term(3)).is_ok());
        assert_eq!(rule(is_ours(ONE, Term(10), Term(3))), "I17");
    }

    fn write(index: u64, bytes: usize) -> Write {
        let command = Payload::Command(Bytes::from(vec![7; bytes]));
        let entry = Entry { position: LogPosition::new(Index(index), Term(1)), payload: command };
        Write {
            id: WriteId(1),
            snapshots: Vec::new(),
            hard_state: None,
            truncate_from: None,
            entries: vec![entry],
        }
    }

    #[test]
    fn i19_what_is_kept_is_bounded() {
        assert!(bounded(ONE, "inputs wait", 5, 5).is_ok());
        assert_eq!(rule(bounded(ONE, "inputs wait", 6, 5)), "I19");
        let knobs = Knobs { tail_bytes: 0, uncommitted_bytes_max: 0, ..Knobs::default() };
        let mut kept = Kept::default();
        let (nothing, files) = (kept.log_bytes_max(&knobs), kept.disk_bytes_max(&knobs));
        kept.writes(&write(5, 1 << 20));
        let one = kept.log_bytes_max(&knobs);
        assert!((1 << 20..2 << 20).contains(&one), "what was written has to be kept: {one}");
        assert!(files + (1 << 20) < kept.disk_bytes_max(&knobs));
        // The newest snapshot covers it, but a start may need the one before and the log from there.
        kept.counts(Index(5));
        kept.counts(Index(6));
        assert_eq!(kept.log_bytes_max(&knobs), one);
        (0..3).for_each(|_| kept.counts(Index(6)));
        assert_eq!(kept.log_bytes_max(&knobs), one, "the same again counts once");
        // What is above them stays, and what was cut off before it.
        kept.writes(&write(9, 1 << 20));
        kept.writes(&write(8, 1 << 20));
        kept.counts(Index(7));
        assert!((2 << 20..3 << 20).contains(&kept.log_bytes_max(&knobs)), "two are above");
        (9..12).for_each(|at| kept.counts(Index(at)));
        assert_eq!(kept.log_bytes_max(&knobs), nothing, "all are covered");
    }

    #[test]
    fn i20_a_process_ends_only_for_a_documented_reason() {
        let text = || "why".to_owned();
        let none = Blame::default();
        let harmed = Blame { harmed: true, ..none };
        let failing = Blame { disks_fail: true, ..none };
        let swapped = Blame { swapped: true, ..none };
        for (exit, blame) in [
            (Exit::Stopped, none),
            (Exit::Locked, none),
            (Exit::Storage(text()), failing),
            (Exit::Restore(text()), failing),
            (Exit::Damage(text()), harmed),
            (Exit::Foreign(text()), swapped),
        ] {
            assert!(exits(ONE, &exit, blame).is_ok(), "{exit:?} {blame:?}");
        }
        for (exit, blame) in [
            (Exit::Storage(text()), swapped),
            (Exit::Restore(text()), none),
            (Exit::Damage(text()), failing),
            (Exit::Foreign(text()), failing),
            (Exit::Panic(text()), harmed),
        ] {
            assert_eq!(rule(exits(ONE, &exit, blame)), "I20", "{exit:?} {blame:?}");
        }
    }

    #[test]
    fn i21_one_set_forms_one_cluster() {
        let (one, other) = (ClusterId(1), ClusterId(2));
        assert!(forms(None, one, true).is_ok() && forms(Some(one), one, true).is_ok());
        assert_eq!(rule(forms(Some(one), other, true)), "I21");
        assert_eq!(rule(forms(None, one, false)), "I21");
    }
}
