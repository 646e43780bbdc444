//! The key-value daemon as an application: its own store and its own path of a request, driven here
//! as the daemon drives them.

use bytes::Bytes;
use kv_daemon::kv::command::{Done, Reply};
use kv_daemon::kv::forward;
use kv_daemon::kv::request::{
    Answer, Condition, Failure, ListQuery, ListShape, Outcome, ReadLevel, Reason, Request, Tags,
};
use kv_daemon::kv::service::{self, Forwarded, Limits, Phase, Step, View};
use kv_daemon::kv::shared::SharedStore;
use raft_core::types::Time;

use crate::app::{App, Call, Came, Fate, NodeView, Todo, digest_of};
use crate::plan::{ClientOp, OpKind};
use crate::trace::OpId;

/// The key-value service.
#[derive(Clone, Copy, Debug)]
pub enum Kv {}

/// What a client of it is told.
pub type Told = Result<Answer, Failure>;

impl App for Kv {
    type State = SharedStore;
    type Request = Request;
    type Answer = Told;
    type Call = KvCall;

    fn state() -> SharedStore {
        SharedStore::new()
    }

    fn request(op: &ClientOp, id: OpId, last: Option<&Told>) -> Request {
        let key = Bytes::from(format!("k{}", op.key));
        let value = || {
            // Nobody else writes this value: the id is in front.
            let mut value = format!("{}.", id.0).into_bytes();
            // In a large one of even size zeroes and letters take turns: on a disk a sector of zeroes
            // looks like one that was never written.
            let zeroes = op.size.is_multiple_of(2);
            let len = value.len().max(op.size as usize);
            let filler = |at: usize| if zeroes && (at / 1024).is_multiple_of(2) { 0 } else { b'x' };
            value.extend((value.len()..len).map(filler));
            Bytes::from(value)
        };
        let level = match op.kind {
            OpKind::GetStale => ReadLevel::Stale { max_stale: None },
            _ => ReadLevel::Linearizable,
        };
        let absent = Condition { if_match: None, if_none_match: Some(Tags::Any) };
        match op.kind {
            OpKind::Get | OpKind::GetStale => Request::Get { key, level },
            OpKind::Put => Request::Put { key, value: value(), condition: Condition::default() },
            OpKind::PutNew => Request::Put { key, value: value(), condition: absent },
            OpKind::Cas => {
                let condition = match last.and_then(last_revision) {
                    Some(revision) => Condition {
                        if_match: Some(Tags::Revisions(vec![revision])),
                        if_none_match: None,
                    },
                    None => absent,
                };
                Request::Put { key, value: value(), condition }
            }
            OpKind::Delete => Request::Delete { key, condition: Condition::default() },
            OpKind::List => {
                let shape = [ListShape::Items, ListShape::Keys, ListShape::Count];
                let query = ListQuery {
                    prefix: Bytes::from_static(b"k"),
                    limit: 1 + op.size % 20,
                    shape: shape[usize::from(op.key) % 3],
                    ..ListQuery::default()
                };
                Request::List { query, level }
            }
        }
    }

    fn is_write(request: &Request) -> bool {
        request.is_write()
    }

    fn digest_reply(reply: &Reply) -> u64 {
        let mix = |a: u64, b: u64| (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        match reply {
            Reply::Succeeded { revision, done } => {
                done.iter().fold(mix(1, *revision), |sum, done| match done {
                    Done::Put { created, version } => mix(mix(sum, u64::from(*created)), *version),
                    Done::Deleted { deleted } => mix(sum, *deleted ^ 0x55),
                })
            }
            Reply::ConditionFailed { current, revision, .. } => {
                mix(mix(2, current.unwrap_or(u64::MAX)), *revision)
            }
            Reply::Malformed(_) => 3,
            Reply::Misplaced(_) => 4,
            Reply::MapSet { epoch, changed } => mix(mix(5, epoch.0), u64::from(*changed)),
            Reply::MapRefused(_) => 6,
            Reply::Adopted { changed } => mix(7, u64::from(*changed)),
        }
    }

    fn digest(state: &SharedStore) -> u64 {
        // Keys in order, with all their revisions.
        digest_of(state, state.revision())
    }

    fn fate(answer: &Told) -> Fate {
        match answer {
            Ok(_) => Fate::Answered,
            Err(Failure { outcome: Some(Outcome::Unknown), .. }) => Fate::Unknown,
            Err(_) => Fate::NotApplied,
        }
    }

    fn is_refusal(answer: &Told) -> bool {
        matches!(answer, Ok(Answer::ConditionFailed { .. }))
    }

    fn carry_request(request: Request) -> Request {
        let bytes = forward::encode_request(&request).to_bytes();
        forward::decode_request(&bytes).expect("what was encoded can be read")
    }

    fn carry_answer(answer: Told) -> Told {
        let bytes = forward::encode_result(&answer).to_bytes();
        forward::decode_result(&bytes).expect("what was encoded can be read")
    }
}

/// The key's revision when it was last seen.
fn last_revision(last: &Told) -> Option<u64> {
    match last.as_ref().ok()? {
        Answer::Got { record, .. } => record.as_ref().map(|record| record.mod_revision),
        Answer::Put { revision, .. } => Some(*revision),
        Answer::ConditionFailed { current, .. } => *current,
        Answer::Deleted { .. } | Answer::Listed(_) | Answer::MapSet { .. } => None,
    }
}

/// The daemon's own call.
pub struct KvCall(service::Call);

impl Call<Kv> for KvCall {
    fn new(request: Request, deadline: Time, hops: u8) -> KvCall {
        KvCall(service::Call::new(request, deadline, hops, Limits::default()))
    }

    fn request(&self) -> &Request {
        self.0.request()
    }

    fn step(&mut self, now: Time, view: &NodeView, came: Came<Kv>) -> Todo<Kv> {
        let phase = match (view.formed, view.restoring) {
            (false, _) => Phase::Forming,
            (true, true) => Phase::Restoring,
            (true, false) => Phase::Serving,
        };
        let NodeView { me, leader, contact, .. } = *view;
        let input = match came {
            Came::Begin => service::Input::Begin,
            Came::Proposed(outcome) => service::Input::Proposed(outcome),
            Came::Barrier(result) => service::Input::Barrier(result),
            Came::Forwarded(answer) => service::Input::Forwarded(Forwarded::Done(answer)),
            Came::NothingSent => service::Input::Forwarded(Forwarded::NothingSent),
            Came::Broken => service::Input::Forwarded(Forwarded::Broken),
            Came::Waited => service::Input::Waited,
            Came::DeadlinePassed => service::Input::DeadlinePassed,
        };
        // This world has one cluster, in no array.
        let view = View { me, leader, contact, phase, owns: None };
        match self.0.step(now, &view, input) {
            Step::Propose(command) => Todo::Propose(command),
            Step::Barrier => Todo::Barrier,
            Step::Read => Todo::Read,
            Step::Forward { to, hops } => Todo::Forward { to, hops },
            Step::WaitForLeader { until } => Todo::WaitForLeader { until },
            Step::ForwardTo { cluster, .. } => {
                let reason = Reason::Unreachable { cluster };
                Todo::End(Err(Failure { reason, outcome: Some(Outcome::NotApplied) }))
            }
            Step::Answer(told) => Todo::End(told),
        }
    }

    fn read(&self, state: &SharedStore) -> Told {
        let misplaced = |_| Failure { reason: Reason::Coming, outcome: None };
        self.0.read(state).map_err(misplaced)
    }
}
