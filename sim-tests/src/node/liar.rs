//! What a peer sends that breaks the rules: of our own cluster, in the right version and of a term that
//! has begun, and yet nothing that a correct node says.
//!
//! Only lies that the receiver can see through belong here. Raft believes its peers: one that
//! acknowledges what it has not synced, or votes twice, does harm, and no receiver can know.

use bytes::Bytes;
use raft_core::consensus::Raft;
use raft_core::consensus::event::RoleName;
use raft_core::membership::Membership;
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{Entry, Index, LogPosition, NodeId, Payload, Term};

use crate::rng::Rng;

/// No member has this id.
const NOBODY: NodeId = NodeId(0xbad);

/// Beyond the end of any log.
const FAR: u64 = 1 << 40;

/// What a liar says after this message, which `raft` has not taken in yet. `None`: nothing comes to
/// his mind.
pub(super) fn lie(message: &Message, raft: &Raft, rng: &mut Rng) -> Option<Message> {
    let mut lie = message.clone();
    if rng.below(8) == 0 {
        // Who believes that could never begin an election again.
        lie.term = Term(u64::MAX);
        return Some(lie);
    }
    if message.body.is_reply() && rng.below(4) == 0 {
        // An answer of somebody who was not asked and is no member.
        lie.from = NOBODY;
        return Some(lie);
    }
    if message.body.is_from_leader() && rng.coin() {
        // The term has a leader, since the message before this one came from it.
        lie.from = other_member(message, raft);
        return Some(lie);
    }
    match &mut lie.body {
        Body::Append { prev, entries, .. } => match rng.below(3) {
            0 => {
                *prev = contradicting(raft, message.term)?;
                entries.clear();
            }
            1 => {
                let last = entries.last_mut()?;
                last.position.term = Term(prev.term.0.checked_sub(1)?);
            }
            _ => {
                let index = entries.last().map_or(prev.index, Entry::index).next();
                let position = LogPosition::new(index, message.term);
                let payload = Payload::Membership(Membership::default());
                entries.push(Entry { position, payload });
            }
        },
        Body::AppendReply { .. } if leads(raft, message.term) && rng.coin() => {
            let prev = LogPosition::ORIGIN;
            lie.body = Body::Append { prev, entries: Vec::new(), commit: Index::ZERO };
        }
        Body::AppendReply { result } => {
            let hint = LogPosition::ORIGIN;
            *result = match rng.below(3) {
                0 => AppendResult::Conflict { prev: Index(FAR), hint },
                // It refuses what it has acknowledged.
                1 => AppendResult::Conflict { prev: Index::ZERO, hint },
                _ => AppendResult::Matched(Index(FAR)),
            };
        }
        Body::HeartbeatReply { round, matched, received } => match rng.below(3) {
            0 => *round += FAR,
            1 => *matched = Index(FAR),
            _ => *received = Index(u64::MAX),
        },
        Body::InstallSnapshot { meta, offset, data } => match rng.below(4) {
            0 => data.clear(),
            1 => meta.membership = Membership::default(),
            // What comes next, in other bytes: nobody can tell before all of it is there.
            _ => {
                *offset += data.len() as u64;
                let left = meta.body_bytes.saturating_sub(*offset).min(data.len() as u64);
                *data = Bytes::from(vec![0xaa; left as usize]);
            }
        },
        Body::SnapshotReply { position, next_offset } => {
            if rng.coin() {
                *next_offset = Some(u64::MAX);
            } else {
                (*position, *next_offset) = (LogPosition::new(Index(FAR), message.term), None);
            }
        }
        Body::TimeoutNow { last } => last.index = Index(FAR),
        // An answer to no question: such ids are never given out.
        Body::ReadIndexReply { .. } => lie.id |= 1 << 63,
        Body::PreVote { .. }
        | Body::PreVoteReply { .. }
        | Body::RequestVote { .. }
        | Body::VoteReply { .. }
        | Body::Heartbeat { .. }
        | Body::ReadIndex => return None,
    }
    Some(lie)
}

/// Another entry than the one that is committed at this index.
fn contradicting(raft: &Raft, term: Term) -> Option<LogPosition> {
    let index = raft.log().committed();
    let ours = raft.log().term_at(index)?;
    let other = if ours < term { ours.next() } else { Term(ours.0.checked_sub(1)?) };
    let is_sound = Index::ZERO < index && Term(0) < other;
    is_sound.then_some(LogPosition::new(index, other))
}

fn other_member(message: &Message, raft: &Raft) -> NodeId {
    let mut members = raft.log().membership().members().map(|(id, _)| id);
    members.find(|id| *id != message.from && *id != message.to).unwrap_or(NOBODY)
}

fn leads(raft: &Raft, term: Term) -> bool {
    raft.role_name() == RoleName::Leader && raft.term() == term
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use raft_core::codec::{FRAME_BYTES_MAX, FrameDecoder, encode_frame};
    use raft_core::config::Config;
    use raft_core::consensus::event::Event;
    use raft_core::membership::Member;
    use raft_core::types::{ClusterId, HardState, Time, WriteId};
    use raft_core::write::{Recovered, SnapshotMeta};

    use super::*;

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);
    const NOW: Time = Time(0);

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(term))
    }

    fn membership() -> Membership {
        let member = |id: u64| Member { name: format!("node{id}"), address: format!("m{id}:1") };
        Membership::of_voters([1, 2, 3].map(|id| (NodeId(id), member(id))))
    }

    /// A node with entries of term 2 behind its membership, all durable.
    fn node() -> Raft {
        let first = Entry { position: at(1, 1), payload: Payload::Membership(membership()) };
        let commands = (2..6).map(|index| {
            let payload = Payload::Command(Bytes::from_static(b"x"));
            Entry { position: at(index, 2), payload }
        });
        let recovered = Recovered {
            hard_state: HardState { term: Term(2), vote: None },
            entries: std::iter::once(first).chain(commands).collect(),
            ..Recovered::default()
        };
        Raft::new(Config::new(ME), recovered, NOW)
    }

    fn receive(raft: &mut Raft, term: u64, body: Body) {
        let message = Message { from: PEER, to: ME, term: Term(term), id: 7, body };
        raft.step(NOW, Event::Receive(message));
    }

    fn follower() -> Raft {
        let mut raft = node();
        let append = Body::Append { prev: at(5, 2), entries: Vec::new(), commit: Index(4) };
        receive(&mut raft, 2, append);
        assert_eq!((raft.leader(), raft.log().committed()), (Some(PEER), Index(4)));
        raft
    }

    fn leader() -> Raft {
        let mut raft = node();
        raft.step(NOW + Duration::from_secs(10), Event::Wake);
        receive(&mut raft, 2, Body::PreVoteReply { granted: true, asked_in: Term(2) });
        let vote = raft.take_effects().write.expect("its vote has to be synced");
        raft.step(NOW, Event::Persisted(vote.id));
        receive(&mut raft, 3, Body::VoteReply { granted: true });
        let noop = raft.take_effects().write.map_or(WriteId(0), |write| write.id);
        raft.step(NOW, Event::Persisted(noop));
        let result = AppendResult::Matched(Index(6));
        receive(&mut raft, 3, Body::AppendReply { result });
        assert_eq!((raft.role_name(), raft.log().committed()), (RoleName::Leader, Index(6)));
        raft
    }

    fn meta() -> SnapshotMeta {
        SnapshotMeta { position: at(4, 2), membership: membership(), body_bytes: 9, digest: 0 }
    }

    /// Who is told something, in which term, and what.
    type Told<'a> = (fn() -> Raft, u64, &'a [Body]);

    /// What nobody may change who is not believed.
    fn shown(raft: &Raft) -> String {
        let log = raft.log();
        let peers = raft.status().peers.into_iter().map(|peer| (peer.id, peer.matched, peer.next));
        let cursors = (log.last(), log.committed(), log.durable(), log.snapshot().position);
        let peers: Vec<_> = peers.collect();
        format!("{} {:?} {:?} {cursors:?} {peers:?}", raft.term(), raft.vote(), raft.leader())
    }

    /// After each message, whatever is said in its name: it changes nothing.
    #[test]
    fn lies_change_nothing() {
        let to_follower = [
            Body::Append { prev: at(5, 2), entries: Vec::new(), commit: Index(4) },
            Body::Heartbeat { round: 3, commit: Index(4) },
            Body::InstallSnapshot { meta: meta(), offset: 0, data: Bytes::from_static(b"x") },
            Body::ReadIndexReply { index: Some(Index(4)) },
        ];
        let result = AppendResult::Matched(Index(6));
        let (round, matched, received) = (1, Index(6), Index(6));
        let to_leader = [
            Body::AppendReply { result },
            Body::HeartbeatReply { round, matched, received },
            Body::SnapshotReply { position: at(4, 2), next_offset: None },
            Body::VoteReply { granted: true },
        ];
        let asked: [Told<'_>; 2] = [(follower, 2, &to_follower), (leader, 3, &to_leader)];
        let mut rng = Rng::stream(1, "liar", 0);
        let (mut refused, mut dropped) = (0, 0);
        for (node, term, bodies) in asked {
            for body in bodies.iter().cycle().take(400) {
                let mut raft = node();
                let id = 7;
                let message =
                    Message { from: PEER, to: ME, term: Term(term), id, body: body.clone() };
                raft.step(NOW, Event::Receive(message.clone()));
                let Some(lie) = lie(&message, &raft, &mut rng) else { continue };
                let mut frame = BytesMut::new();
                encode_frame(ClusterId(1), &lie, &mut frame);
                let Ok(Some((_, lie))) = FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut frame)
                else {
                    refused += 1;
                    continue;
                };
                let before = shown(&raft);
                let text = format!("{lie:?}");
                raft.step(NOW, Event::Receive(lie));
                assert_eq!(shown(&raft), before, "{text}");
                dropped += 1;
            }
        }
        assert!(20 < refused && 400 < dropped, "{refused} refused, {dropped} dropped");
    }
}
