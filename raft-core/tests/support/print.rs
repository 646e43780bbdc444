//! The one notation, for messages, writes and answers: how a transcript says them.

use raft_core::consensus::event::{Refusal, TransferFailure};
use raft_core::message::{AppendResult, Body, Message};
use raft_core::types::{Entry, Payload};
use raft_core::write::{SnapshotWrite, Write};

/// `n1@2 -> n3 append 6@2..7@2 after 5@2, commit 5`
pub fn message(message: &Message) -> String {
    format!("n{:x}@{} -> {} {}", message.from.0, message.term, message.to, body(&message.body))
}

fn body(body: &Body) -> String {
    match body {
        Body::PreVote { last } => format!("pre-vote? last {last}"),
        Body::PreVoteReply { granted, .. } => format!("pre-vote {}", verdict(*granted)),
        Body::RequestVote { last, transfer: false } => format!("vote? last {last}"),
        Body::RequestVote { last, transfer: true } => format!("vote? last {last}, by transfer"),
        Body::VoteReply { granted } => format!("vote {}", verdict(*granted)),
        Body::Append { prev, entries, commit } if entries.is_empty() => {
            format!("probe after {prev}, commit {commit}")
        }
        Body::Append { prev, entries, commit } => {
            format!("append {} after {prev}, commit {commit}", range(entries))
        }
        Body::AppendReply { result: AppendResult::Matched(index) } => format!("ack {index}"),
        Body::AppendReply { result: AppendResult::Conflict { prev, hint } } => {
            format!("refuse {prev}, hint {hint}")
        }
        Body::Heartbeat { round, commit } => format!("heartbeat {round}, commit {commit}"),
        Body::HeartbeatReply { round, matched, received } => {
            format!("heartbeat-reply {round}, matched {matched}, received {received}")
        }
        Body::InstallSnapshot { meta, offset, data } => format!(
            "snapshot {} bytes {offset}..{} of {}",
            meta.position,
            offset + data.len() as u64,
            meta.body_bytes
        ),
        Body::SnapshotReply { position, next_offset: Some(next) } => {
            format!("snapshot {position} wants byte {next}")
        }
        Body::SnapshotReply { position, next_offset: None } => format!("holds snapshot {position}"),
        Body::TimeoutNow { last } => format!("campaign now, last {last}"),
        Body::ReadIndex => "read index?".to_string(),
        Body::ReadIndexReply { index: Some(index) } => format!("read index {index}"),
        Body::ReadIndexReply { index: None } => "no read index".to_string(),
    }
}

/// `term 2 vote n1, cut from 5, 5@2..6@2`
pub fn write(write: &Write) -> String {
    let mut parts = Vec::new();
    for piece in &write.snapshots {
        parts.push(match piece {
            SnapshotWrite::Chunk { meta, offset, data } => {
                format!("snapshot {} bytes {offset}..{}", meta.position, offset + data.len() as u64)
            }
            SnapshotWrite::Install(meta) => format!("install snapshot {}", meta.position),
            SnapshotWrite::Mark(meta) => format!("mark snapshot {}", meta.position),
        });
    }
    if let Some(hard_state) = write.hard_state {
        let vote = hard_state.vote.map_or("none".to_string(), |id| id.to_string());
        parts.push(format!("term {} vote {vote}", hard_state.term));
    }
    parts.extend(write.truncate_from.map(|from| format!("cut from {from}")));
    if !write.entries.is_empty() {
        parts.push(range(&write.entries));
    }
    parts.join(", ")
}

/// `5@2` or `5@2..7@3`
pub fn range(entries: &[Entry]) -> String {
    match entries {
        [] => "nothing".to_string(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}..{last}"),
    }
}

/// `5@2 put a`
pub fn entry(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Noop => format!("{entry} noop"),
        Payload::Command(bytes) => format!("{entry} {}", command(bytes)),
        Payload::Membership(membership) => format!("{entry} {membership}"),
    }
}

/// A command as text, shortened when it is long.
pub fn command(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.len() <= 24 { text.into_owned() } else { format!("({} bytes)", bytes.len()) }
}

/// `not the leader, try n1`
pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader { leader: Some(leader) } => format!("not the leader, try {leader}"),
        Refusal::NotLeader { leader: None } => "not the leader, none known".to_string(),
        Refusal::Transferring { to } => format!("leadership is going to {to}"),
        Refusal::TooLarge { bytes, bytes_max } => format!("{bytes} bytes, at most {bytes_max}"),
        Refusal::Busy => "busy".to_string(),
        Refusal::NoSpace => "no space".to_string(),
        Refusal::Deadline => "too late".to_string(),
        Refusal::Stopped => "stopping".to_string(),
    }
}

/// `timed out`
pub fn transfer_failure(failure: TransferFailure) -> &'static str {
    match failure {
        TransferFailure::NotLeader => "not the leader",
        TransferFailure::NoSuchVoter => "no such voter",
        TransferFailure::TimedOut => "timed out",
        TransferFailure::InProgress => "another one is under way",
    }
}

fn verdict(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
