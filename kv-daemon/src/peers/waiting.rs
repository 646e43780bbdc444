//! Which response waits for which answer of the core.
//!
//! A request that came in over HTTP is handed to the core; when the core emits the answer, which
//! repeats the request's id, it is routed from here to the response that was held open for it. What
//! nobody waits for any more is dropped: the core stands lost messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use raft_core::message::{Body, Message};
use raft_core::types::NodeId;
use tokio::sync::{Notify, oneshot};

use super::outbox::Outbox;

/// Answers that wait to be written to one stream.
const ANSWERS_MAX: usize = 4096;
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Requests of one stream whose answers may be outstanding; the oldest is given up beyond it.
const OUTSTANDING_MAX: usize = 8192;
/// Streams one peer may have open for one kind; the oldest is closed beyond it.
const STREAMS_PER_PEER: usize = 4;
/// Single requests held open at once, of all peers together.
const SINGLES_MAX: usize = 1024;

/// What kind of request an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    PreVote,
    Vote,
    Heartbeat,
    ReadIndex,
    Append,
    Snapshot,
}

impl Class {
    /// Of a request, or of an answer; `None` for what has no answer.
    pub(super) fn of(body: &Body) -> Option<Class> {
        match body {
            Body::PreVote { .. } | Body::PreVoteReply { .. } => Some(Class::PreVote),
            Body::RequestVote { .. } | Body::VoteReply { .. } => Some(Class::Vote),
            Body::Heartbeat { .. } | Body::HeartbeatReply { .. } => Some(Class::Heartbeat),
            Body::ReadIndex | Body::ReadIndexReply { .. } => Some(Class::ReadIndex),
            Body::Append { .. } | Body::AppendReply { .. } => Some(Class::Append),
            Body::InstallSnapshot { .. } | Body::SnapshotReply { .. } => Some(Class::Snapshot),
            Body::TimeoutNow { .. } => None,
        }
    }
}

/// All responses that are held open.
#[derive(Default)]
pub(super) struct Waiting {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    singles: BTreeMap<(NodeId, Class, u64), oneshot::Sender<Message>>,
    /// In the order they were opened.
    streams: Vec<Arc<AnswerStream>>,
}

/// A stream of requests and the stream of answers that belongs to it.
pub(super) struct AnswerStream {
    peer: NodeId,
    class: Class,
    /// It stays open for whatever comes, unlike the response to one batch.
    kept: bool,
    /// The answers on their way out.
    pub(super) answers: Arc<Outbox<Message>>,
    outstanding: Mutex<BTreeSet<u64>>,
    /// Rung once when the last outstanding answer is there.
    pub(super) all_answered: Notify,
    /// Rung once when the stream has to give way to a newer one.
    pub(super) superseded: Notify,
}

impl Waiting {
    /// Waits for the answer to one request. `None` when too many wait already.
    pub(super) fn single(
        &self,
        peer: NodeId,
        class: Class,
        id: u64,
    ) -> Option<oneshot::Receiver<Message>> {
        let mut state = self.lock();
        state.singles.retain(|_, waiter| !waiter.is_closed());
        if SINGLES_MAX <= state.singles.len() {
            return None;
        }
        let (answer, waiter) = oneshot::channel();
        state.singles.insert((peer, class, id), answer);
        Some(waiter)
    }

    /// Opens a stream of answers: one that stays (`kept`), or the response to one batch.
    pub(super) fn stream(&self, peer: NodeId, class: Class, kept: bool) -> Arc<AnswerStream> {
        let stream = Arc::new(AnswerStream {
            peer,
            class,
            kept,
            answers: Arc::new(Outbox::new(ANSWERS_MAX, ANSWER_BYTES_MAX)),
            outstanding: Mutex::default(),
            all_answered: Notify::new(),
            superseded: Notify::new(),
        });
        let mut state = self.lock();
        let alike = |open: &Arc<AnswerStream>| open.peer == peer && open.class == class;
        if STREAMS_PER_PEER <= state.streams.iter().filter(|open| alike(open)).count()
            && let Some(oldest) = state.streams.iter().position(alike)
        {
            state.streams.remove(oldest).superseded.notify_one();
        }
        state.streams.push(stream.clone());
        stream
    }

    /// Forgets a stream.
    pub(super) fn close(&self, stream: &Arc<AnswerStream>) {
        self.lock().streams.retain(|open| !Arc::ptr_eq(open, stream));
        stream.answers.close();
    }

    /// Routes an answer of the core to whoever waits for it; `false` if nobody does.
    pub(super) fn route(&self, answer: Message) -> bool {
        let Some(class) = Class::of(&answer.body) else { return false };
        let mut state = self.lock();
        if let Some(waiter) = state.singles.remove(&(answer.to, class, answer.id)) {
            return waiter.send(answer).is_ok();
        }
        // A heartbeat that came along with appends is answered along with them.
        let class = if class == Class::Heartbeat { Class::Append } else { class };
        let alike = |open: &&Arc<AnswerStream>| open.peer == answer.to && open.class == class;
        let mut streams = state.streams.iter().rev().filter(alike);
        // An answer whose request came on a stream that is gone (or was covered by an answer that
        // overtook it) is still worth sending: on the newest stream that is there to stay.
        let stream = streams
            .clone()
            .find(|open| open.expects(answer.id))
            .or_else(|| streams.find(|open| open.kept));
        stream.cloned().is_some_and(|stream| stream.answer(answer))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl AnswerStream {
    /// A request came in on this stream.
    pub(super) fn expect(&self, id: u64) {
        let mut outstanding = self.outstanding();
        outstanding.insert(id);
        if OUTSTANDING_MAX < outstanding.len() {
            outstanding.pop_first();
        }
    }

    /// Whether no answer is outstanding.
    pub(super) fn is_done(&self) -> bool {
        self.outstanding().is_empty()
    }

    fn expects(&self, id: u64) -> bool {
        self.outstanding().contains(&id)
    }

    /// Queues an answer. It covers its own request and all older ones of this stream; should an
    /// older one be answered later nevertheless, that answer is sent too.
    fn answer(&self, answer: Message) -> bool {
        const ANSWER_BYTES: usize = 128;
        if Class::of(&answer.body) != Some(self.class) {
            return self.answers.push(answer, ANSWER_BYTES).is_ok();
        }
        let mut outstanding = self.outstanding();
        let newer = outstanding.split_off(&(answer.id.saturating_add(1)));
        *outstanding = newer;
        let done = outstanding.is_empty();
        drop(outstanding);
        let queued = self.answers.push(answer, ANSWER_BYTES).is_ok();
        if done {
            self.all_answered.notify_one();
        }
        queued
    }

    fn outstanding(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.outstanding.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::message::AppendResult;
    use raft_core::types::{Index, Term};

    fn answer(to: u64, id: u64) -> Message {
        let result = AppendResult::Matched(Index(id));
        let body = Body::AppendReply { result };
        Message { from: NodeId(9), to: NodeId(to), term: Term(1), id, body }
    }

    fn ids(stream: &AnswerStream) -> Vec<u64> {
        stream.answers.take_all().into_iter().map(|message| message.id).collect()
    }

    #[test]
    fn an_answer_to_appends_covers_the_older_ones_of_its_stream() {
        let waiting = Waiting::default();
        let stream = waiting.stream(NodeId(1), Class::Append, false);
        (1..=3).for_each(|id| stream.expect(id));
        assert!(waiting.route(answer(1, 2)));
        assert!(!waiting.route(answer(1, 1)), "covered by the answer to 2");
        assert!(!stream.is_done());
        assert!(waiting.route(answer(1, 3)));
        assert!(stream.is_done());
        assert_eq!(ids(&stream), [2, 3]);
    }

    #[test]
    fn an_answer_goes_to_the_stream_its_request_came_on() {
        let waiting = Waiting::default();
        let old = waiting.stream(NodeId(1), Class::Append, true);
        let new = waiting.stream(NodeId(1), Class::Append, true);
        let batch = waiting.stream(NodeId(1), Class::Append, false);
        let other = waiting.stream(NodeId(2), Class::Append, true);
        let snapshot = waiting.stream(NodeId(1), Class::Snapshot, true);
        old.expect(5);
        new.expect(7);
        other.expect(5);
        snapshot.expect(5);
        assert!(waiting.route(answer(1, 5)));
        assert!(waiting.route(answer(1, 7)));
        assert_eq!((ids(&old), ids(&new)), (vec![5], vec![7]));
        assert!(ids(&other).is_empty() && ids(&snapshot).is_empty());
        old.expect(8);
        waiting.close(&old);
        assert!(waiting.route(answer(1, 8)));
        assert_eq!(ids(&new), [8], "its own stream is gone, the newest that stays takes it");
        waiting.close(&new);
        assert!(!waiting.route(answer(1, 9)), "a batch only takes what it asked for");
        assert!(ids(&batch).is_empty());
    }

    #[test]
    fn an_answer_to_a_heartbeat_goes_along_with_those_to_appends_and_covers_none() {
        let waiting = Waiting::default();
        let stream = waiting.stream(NodeId(1), Class::Append, true);
        let snapshots = waiting.stream(NodeId(1), Class::Snapshot, true);
        stream.expect(4);
        let body = Body::HeartbeatReply { round: 1, matched: Index(1), received: Index(1) };
        let beat = Message { from: NodeId(9), to: NodeId(1), term: Term(1), id: 5, body };
        assert!(waiting.route(beat));
        assert!(!stream.is_done(), "the append is not answered by it");
        assert_eq!((ids(&stream), ids(&snapshots)), (vec![5], vec![]));
    }

    #[test]
    fn too_many_streams_of_one_peer_close_the_oldest() {
        let waiting = Waiting::default();
        let first = waiting.stream(NodeId(1), Class::Append, true);
        first.expect(1);
        for _ in 0..STREAMS_PER_PEER {
            waiting.stream(NodeId(1), Class::Append, false);
        }
        assert!(!waiting.route(answer(1, 1)));
    }
}
