//! Snapshots in the core (thesis 5): when one of our own is due, sending one to a follower whose
//! next entry is gone, and taking one from the leader, in chunks that resume.
//!
//! The core never holds a snapshot's bytes: chunks go from disk to wire and from wire to disk.

use std::time::Duration;

use bytes::Bytes;

use super::event::ChunkRequest;
use super::log::Log;
use super::progress::{Progress, Sending, Stage, State};
use super::raft::{Common, Raft, Role};
use crate::membership::Membership;
use crate::message::Body;
use crate::types::{LogPosition, NodeId, Term, Time, WriteId};
use crate::write::{SnapshotMeta, SnapshotWrite};

/// What a node knows of snapshots under way, whatever its role.
#[derive(Debug)]
pub(crate) struct Snapshots {
    /// One that comes from the leader.
    receiving: Option<Receiving>,
    /// Ours, written, whose marks are being written.
    marking: Vec<(WriteId, SnapshotMeta)>,
    /// The state machine is being replaced by this one.
    restoring: Option<LogPosition>,
}

#[derive(Debug)]
struct Receiving {
    meta: SnapshotMeta,
    /// The offset wanted next.
    next: u64,
    /// All bytes are there and the install is asked for.
    install: Option<Install>,
}

#[derive(Debug)]
struct Install {
    in_write: WriteId,
    /// Whom to answer, if the term is still the same.
    leader: NodeId,
    term: Term,
    request: u64,
}

impl Snapshots {
    pub(crate) fn new(restore: Option<&SnapshotMeta>) -> Snapshots {
        Snapshots {
            receiving: None,
            marking: Vec::new(),
            restoring: restore.map(|meta| meta.position),
        }
    }

    /// Whether the log is about to be replaced by a snapshot: until it is, nothing is appended and
    /// no election is begun.
    pub(crate) fn installing(&self) -> bool {
        self.receiving.as_ref().is_some_and(|receiving| receiving.install.is_some())
    }

    /// Our newest snapshot; one that is being marked is as good as taken.
    fn newest<'a>(&'a self, log: &'a Log) -> &'a SnapshotMeta {
        self.marking.last().map_or(log.snapshot(), |(_, meta)| meta)
    }

    /// Whether the state machine is not what the log says: until it is, nothing is applied.
    pub(crate) fn restoring(&self) -> bool {
        self.restoring.is_some()
    }
}

impl Sending {
    /// Begins the current chunk again.
    pub(crate) fn again(&mut self) {
        self.stage = Stage::Wanted;
    }
}

impl Progress {
    /// A chunk without an answer for `patience` is sent again (pitfall 41).
    pub(crate) fn retry_snapshot(&mut self, now: Time, patience: Duration) {
        if let State::Snapshot(sending) = &mut self.state
            && let Stage::Sent { at } = sending.stage
            && at + patience <= now
        {
            sending.again();
        }
    }
}

impl Common {
    /// Asks the disk for the chunk a follower wants next, once.
    pub(crate) fn read_chunk(&mut self, to: NodeId, progress: &mut Progress) {
        let State::Snapshot(sending) = &mut progress.state else { return };
        if sending.stage != Stage::Wanted {
            return;
        }
        sending.stage = Stage::Reading;
        let left = sending.meta.body_bytes - sending.offset;
        self.out.effects.chunks.push(ChunkRequest {
            to,
            meta: sending.meta.clone(),
            offset: sending.offset,
            length: left.min(self.config.chunk_bytes),
        });
    }
}

impl Raft {
    /// Position and membership of a snapshot taken now, if one is due by size or count; the caller
    /// remembers whether one is under way.
    pub fn snapshot_due(&self) -> Option<(LogPosition, Membership)> {
        let Common { log, config, snapshots, .. } = &self.common;
        let since = snapshots.newest(log);
        let bytes = log.weight(since.position.index, log.applied());
        let entries = log.applied().0 - since.position.index.0;
        // A snapshot as large as the last one costs as much to write as the log it replaces.
        let due = config.snapshot_bytes.max(since.body_bytes) < bytes
            || config.snapshot_entries <= entries;
        if due { self.snapshot_point() } else { None }
    }

    /// Position and membership of a snapshot taken now, due or not. `None` when there is nothing
    /// new, or when what is applied is not durable here yet: after a crash such a snapshot would
    /// stand above a gap.
    pub fn snapshot_point(&self) -> Option<(LogPosition, Membership)> {
        let Common { log, snapshots, .. } = &self.common;
        let at = log.applied();
        let fresh = snapshots.newest(log).position.index < at && at <= log.durable();
        if !fresh || snapshots.restoring() || snapshots.installing() {
            return None;
        }
        let term = log.term_at(at).expect("what is applied above the snapshot is in the log");
        // The membership of that entry, not a newer one that may still be cut (pitfall 5).
        Some((LogPosition::new(at, term), log.membership_at(at).clone()))
    }

    /// Where our newest snapshot stands; one that is being marked is as good as taken.
    pub fn newest_snapshot(&self) -> LogPosition {
        self.common.snapshots.newest(&self.common.log).position
    }

    /// A snapshot of our own is durable: mark it in the log.
    pub(crate) fn snapshot_written(&mut self, meta: SnapshotMeta) {
        let Common { log, out, snapshots, .. } = &mut self.common;
        let at = meta.position;
        if at.index <= log.snapshot().position.index || !log.holds(at) || snapshots.installing() {
            // One of the leader's came in between.
            return self.common.note(|_| format!("own snapshot {at} comes too late"));
        }
        let write = out.write_snapshot(SnapshotWrite::Mark(meta.clone()));
        snapshots.marking.push((write, meta));
        self.common.note(|_| format!("own snapshot {at} -> mark"));
    }

    /// After a sync: marks that are durable, chunks that are kept, an install that is done.
    pub(crate) fn snapshot_persisted(&mut self) {
        let common = &mut self.common;
        let persisted = common.out.persisted();
        while let Some((write, _)) = common.snapshots.marking.first()
            && *write <= persisted
        {
            let (_, meta) = common.snapshots.marking.remove(0);
            let at = meta.position;
            if common.log.snapshot().position.index < at.index {
                common.log.compact(meta, common.config.tail_bytes);
                common.tell(true, |c| {
                    format!("snapshot {at} -> the log begins after {}", c.log.start())
                });
            }
        }
        let done = |receiving: &mut Receiving| {
            receiving.install.as_ref().is_some_and(|install| install.in_write <= persisted)
        };
        if let Some(Receiving { meta, install: Some(install), .. }) =
            common.snapshots.receiving.take_if(done)
        {
            self.installed(meta, &install);
        }
    }

    /// The leader's snapshot is durable and marked here: it takes the place of the log.
    fn installed(&mut self, meta: SnapshotMeta, install: &Install) {
        let common = &mut self.common;
        let at = meta.position;
        common.log.install(meta.clone());
        common.out.replace_log(at.index);
        common.snapshots.marking.clear();
        common.snapshots.restoring = Some(at);
        common.out.effects.restore = Some(meta);
        common.tell(true, |_| format!("holds snapshot {at}"));
        if let Role::Follower(follower) = &mut self.role {
            follower.verified = follower.verified.max(at.index);
        }
        if common.hard_state.term == install.term {
            let done = Body::SnapshotReply { position: at, next_offset: None };
            common.reply(install.leader, install.request, done);
        }
    }

    /// What came in is not what the leader has: begin again.
    pub(crate) fn install_failed(&mut self, position: LogPosition) {
        let common = &mut self.common;
        let this = |receiving: &mut Receiving| {
            receiving.install.is_some() && receiving.meta.position == position
        };
        let Some(Receiving { install: Some(install), .. }) =
            common.snapshots.receiving.take_if(this)
        else {
            return;
        };
        common.tell(true, |_| format!("snapshot {position} came in damaged -> again"));
        if common.hard_state.term == install.term {
            let again = Body::SnapshotReply { position, next_offset: Some(0) };
            common.reply(install.leader, install.request, again);
        }
    }

    /// The state machine is what the log says again.
    pub(crate) fn restored(&mut self, position: LogPosition) {
        let snapshots = &mut self.common.snapshots;
        if snapshots.restoring == Some(position) {
            snapshots.restoring = None;
            self.common.note(|_| format!("state restored at {position}"));
        }
    }

    /// A piece of the leader's snapshot.
    pub(crate) fn install_snapshot(
        &mut self,
        from: NodeId,
        request: u64,
        meta: SnapshotMeta,
        offset: u64,
        data: Bytes,
    ) {
        let Raft { common, role: Role::Follower(follower) } = self else {
            unreachable!("who hears a leader follows it");
        };
        let at = meta.position;
        let end = offset.saturating_add(data.len() as u64);
        let possible = !data.is_empty() && end <= meta.body_bytes && !meta.membership.is_empty();
        if !possible || common.snapshots.installing() || common.snapshots.restoring() {
            common.dropped += u64::from(!possible);
            return common.note(|_| format!("snapshot {at} from {from} -> not now"));
        }
        let answer = |next_offset| Body::SnapshotReply { position: at, next_offset };
        if at.index <= common.log.committed() || common.log.holds(at) {
            // We have all of it, and keep what we hold above it (pitfall 39).
            common.snapshots.receiving = None;
            follower.verified = follower.verified.max(at.index);
            common.log.commit(at.index);
            common.note(|c| format!("snapshot {at} from {from}, last {} -> held", c.last()));
            if at.index <= common.log.durable() && common.out.hard_state_durable() {
                common.reply(from, request, answer(None));
            }
            // Else the answer to a heartbeat says so when it is durable.
            return;
        }
        let receiving = match &mut common.snapshots.receiving {
            Some(receiving) if receiving.meta == meta => receiving,
            // Another snapshot: its first chunk begins anew, so that chunks never mix.
            slot => slot.insert(Receiving { meta: meta.clone(), next: 0, install: None }),
        };
        if offset != receiving.next {
            let next = receiving.next;
            common.note(|_| format!("snapshot {at} from {from} at {offset}, wants {next}"));
            return common.reply(from, request, answer(Some(next)));
        }
        receiving.next = end;
        let write =
            common.out.write_snapshot(SnapshotWrite::Chunk { meta: meta.clone(), offset, data });
        if end < meta.body_bytes {
            common.note(|_| format!("snapshot {at} from {from}: {offset}..{end} kept"));
            return common.reply_after(write, from, request, answer(Some(end)));
        }
        let term = common.hard_state.term;
        receiving.install = Some(Install { in_write: write, leader: from, term, request });
        common.out.write_snapshot(SnapshotWrite::Install(meta));
        common.note(|_| format!("snapshot {at} from {from} is complete -> install"));
    }

    /// Bytes that were read for a follower.
    pub(crate) fn chunk(&mut self, request: ChunkRequest, data: Option<Bytes>) {
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        let ChunkRequest { to, meta, offset, .. } = request;
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        let State::Snapshot(sending) = &mut progress.state else { return };
        if sending.stage != Stage::Reading || sending.meta != meta || sending.offset != offset {
            return;
        }
        match data {
            Some(data) => {
                sending.stage = Stage::Sent { at: common.now };
                common.note(|_| {
                    let end = offset + data.len() as u64;
                    format!("-> {to} snapshot {} at {offset}..{end}", meta.position)
                });
                common.request(to, Body::InstallSnapshot { meta, offset, data });
            }
            None if common.log.snapshot().position == meta.position => {
                // There is no other: ask again as if it had been lost on the way, not at once and
                // for ever.
                sending.stage = Stage::Sent { at: common.now };
                common.tell(true, |_| {
                    format!("snapshot {} cannot be read -> {to} has to wait", meta.position)
                });
            }
            None => {
                // Removed meanwhile: feed it from the newest one.
                let newest = common.log.snapshot().clone();
                common.tell(true, |_| {
                    format!("snapshot {} is gone -> {to} gets {}", meta.position, newest.position)
                });
                progress.send_snapshot(newest);
            }
        }
    }

    /// A follower answers a chunk.
    pub(crate) fn snapshot_answered(
        &mut self,
        from: NodeId,
        position: LogPosition,
        next_offset: Option<u64>,
    ) {
        let Raft { common, role: Role::Leader(leader) } = self else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.contact = Some(common.now);
        match next_offset {
            None => self.matched(from, position.index),
            Some(next) => {
                if let State::Snapshot(sending) = &mut progress.state
                    && sending.meta.position == position
                    && next < sending.meta.body_bytes
                    && matches!(sending.stage, Stage::Sent { .. })
                {
                    sending.offset = next;
                    sending.again();
                }
            }
        }
    }
}
