//! `pre-vote` and `request-vote` as JSON, so that a person with curl can ask a node for its vote.

use raft_core::message::{Body, Message};
use raft_core::types::{Index, LogPosition, NodeId, Term};
use serde::{Deserialize, Serialize};

use crate::form::hex_id;

/// A question for a vote. `from` has to be a member, `to` defaults to the node asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(with = "hex_id")]
    from: NodeId,
    term: u64,
    #[serde(default)]
    id: u64,
    /// The candidate's last entry.
    last: Position,
    #[serde(default)]
    transfer: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    index: u64,
    term: u64,
}

#[derive(Debug, Serialize)]
struct Reply {
    #[serde(with = "hex_id")]
    from: NodeId,
    term: u64,
    id: u64,
    granted: bool,
}

/// Reads a question of this kind (`pre-vote` or `request-vote`) put to node `to`.
pub(super) fn question(kind: &str, to: NodeId, body: &[u8]) -> Result<Message, String> {
    let question: Question = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let last = LogPosition::new(Index(question.last.index), Term(question.last.term));
    let body = match kind {
        "pre-vote" if question.transfer => {
            return Err("a pre-vote has no \"transfer\"".to_owned());
        }
        "pre-vote" => Body::PreVote { last },
        "request-vote" => Body::RequestVote { last, transfer: question.transfer },
        _ => return Err(format!("{kind} has no JSON form; send application/x-bincode frames")),
    };
    Ok(Message { from: question.from, to, term: Term(question.term), id: question.id, body })
}

/// The JSON form of the answer to a vote or pre-vote.
pub(super) fn reply(message: &Message) -> Option<String> {
    let granted = match message.body {
        Body::PreVoteReply { granted, .. } | Body::VoteReply { granted } => granted,
        _ => return None,
    };
    let Message { from, term, id, .. } = *message;
    let reply = Reply { from, term: term.0, id, granted };
    Some(serde_json::to_string(&reply).expect("numbers and digits have a JSON form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_can_be_asked_for_by_hand() {
        let body = br#"{"from":"00000000000000a1","term":3,"last":{"index":5,"term":2}}"#;
        let asked = question("request-vote", NodeId(7), body).expect("it is well formed");
        assert_eq!((asked.from, asked.to, asked.term), (NodeId(0xa1), NodeId(7), Term(3)));
        let last = LogPosition::new(Index(5), Term(2));
        assert_eq!(asked.body, Body::RequestVote { last, transfer: false });
        let body = Body::VoteReply { granted: true };
        let answer = Message { from: NodeId(7), to: NodeId(0xa1), term: Term(3), id: 4, body };
        let json = r#"{"from":"0000000000000007","term":3,"id":4,"granted":true}"#;
        assert_eq!(reply(&answer).as_deref(), Some(json));
    }

    #[test]
    fn what_is_no_question_is_refused_with_a_reason() {
        for (kind, body) in [
            ("request-vote", r#"{"from":"a1","term":-1,"last":{"index":5,"term":2}}"#),
            ("request-vote", r#"{"from":"xyz","term":1,"last":{"index":5,"term":2}}"#),
            ("request-vote", r#"{"from":"a1","term":1}"#),
            ("pre-vote", r#"{"from":"a1","term":1,"last":{"index":5,"term":2},"transfer":true}"#),
            ("heartbeat", r#"{"from":"a1","term":1,"last":{"index":5,"term":2}}"#),
            ("pre-vote", "\u{0}"),
        ] {
            question(kind, NodeId(7), body.as_bytes()).expect_err(body);
        }
    }
}
