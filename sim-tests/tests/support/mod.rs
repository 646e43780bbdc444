//! Histories for the tests of the checkers: clients in one thread, on the daemon's own store, that
//! interleave as a seed says. Each takes effect at one moment between its begin and its end, so they
//! are linearizable by construction.

use bytes::Bytes;
use kv_daemon::kv::command::{Command, Done, Reply};
use kv_daemon::kv::request::{
    Answer, Condition, ListQuery, ListShape, Outcome, ReadLevel, Request, Tags,
};
use kv_daemon::kv::store::Store;
use raft_core::types::{Index, Time};
use sim_tests::checkers::history::{Ending, History, OperationId, revision_of};

/// SplitMix64: the same numbers for the same seed, everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a history is made of.
#[derive(Clone, Copy)]
pub struct Shape {
    pub operations: usize,
    pub clients: usize,
    pub keys: usize,
    /// One in so many operations loses its answer; one in so many is refused.
    pub lost: usize,
    pub refused: usize,
    /// One in so many operations is a list or a read that may be stale.
    pub others: usize,
}

/// A client at work.
struct Client {
    id: OperationId,
    request: Request,
    effect: Option<(Answer, Index)>,
}

/// Writes of clients that gave up, which may yet take effect.
struct Story {
    history: History,
    store: Store,
    /// Every state there was, with the index after which it was so.
    past: Vec<(Index, Store)>,
    index: Index,
    now: u64,
    adrift: Vec<Client>,
    /// Revisions clients have seen.
    revisions: Vec<u64>,
}

/// A history in which every promise is kept.
pub fn good(rng: &mut Rng, shape: Shape) -> History {
    let mut story = Story {
        history: History::default(),
        store: Store::default(),
        past: vec![(Index(0), Store::default())],
        index: Index(0),
        now: 0,
        adrift: Vec::new(),
        revisions: vec![1],
    };
    let mut clients: Vec<Option<Client>> = (0..shape.clients).map(|_| None).collect();
    let mut begun = 0;
    while begun < shape.operations || clients.iter().any(Option::is_some) {
        story.now += rng.below(3) as u64;
        if !story.adrift.is_empty() && rng.one_in(8) {
            let at = rng.below(story.adrift.len());
            let mut late = story.adrift.swap_remove(at);
            story.take_effect(rng, &mut late);
        }
        let number = rng.below(clients.len());
        match clients[number].take() {
            None if begun < shape.operations => {
                let request = story.request(rng, shape, begun);
                let id = story.history.begin(Time(story.now), number as u32, request.clone());
                clients[number] = Some(Client { id, request, effect: None });
                begun += 1;
            }
            None => {}
            Some(mut client) if client.effect.is_none() && rng.one_in(shape.refused) => {
                let ending = Ending::Failed { outcome: Some(Outcome::NotApplied) };
                story.history.end(Time(story.now), client.id, ending);
                client.effect = None;
            }
            Some(client) if rng.one_in(shape.lost) => {
                // Some never hear anything, and are open for good.
                if rng.one_in(2) {
                    story.history.end(Time(story.now), client.id, Ending::LOST);
                }
                if client.effect.is_none() && client.request.is_write() {
                    story.adrift.push(client);
                }
            }
            Some(mut client) => match client.effect.take() {
                None => {
                    story.take_effect(rng, &mut client);
                    clients[number] = Some(client);
                }
                Some((answer, at)) => {
                    story.revisions.push(revision_of(&answer));
                    let ending = Ending::Answered { answer, at };
                    story.history.end(Time(story.now), client.id, ending);
                }
            },
        }
    }
    story.history
}

impl Story {
    fn request(&mut self, rng: &mut Rng, shape: Shape, number: usize) -> Request {
        let key = Bytes::from(format!("k{}", rng.below(shape.keys)));
        if rng.one_in(shape.others) {
            let level = match rng.one_in(2) {
                true => ReadLevel::Stale { max_stale: None },
                false => ReadLevel::Linearizable,
            };
            if rng.one_in(3) {
                return Request::Get { key, level };
            }
            let after = rng.one_in(2).then(|| key.clone());
            let shapes = [ListShape::Items, ListShape::Keys, ListShape::Count];
            let shape = shapes[rng.below(3)];
            let start = if rng.one_in(2) { key } else { Bytes::new() };
            let prefix = Bytes::from(["", "k", "k1", "x"][rng.below(4)]);
            let limit = 1 + rng.below(4) as u32;
            let query = ListQuery { prefix, start, after, limit, shape };
            return Request::List { query, level };
        }
        match rng.below(10) {
            0..4 => Request::Get { key, level: ReadLevel::Linearizable },
            4..8 => {
                // Most values are written once; some are not.
                let value = if rng.one_in(8) { 7 } else { 100 + number };
                let value = Bytes::from(format!("v{value}"));
                Request::Put { key, value, condition: self.condition(rng) }
            }
            _ => Request::Delete { key, condition: self.condition(rng) },
        }
    }

    fn condition(&mut self, rng: &mut Rng) -> Condition {
        let recent = self.revisions.len() - 1 - rng.below(self.revisions.len().min(4));
        let seen = self.revisions[recent];
        match rng.below(10) {
            0 => Condition { if_match: Some(Tags::Any), if_none_match: None },
            1 => Condition { if_match: None, if_none_match: Some(Tags::Any) },
            2 => {
                let tags = Tags::Revisions(vec![seen, self.store.revision()]);
                Condition { if_match: Some(tags), if_none_match: None }
            }
            3 => {
                let tags = Tags::Revisions(vec![seen]);
                Condition { if_match: None, if_none_match: Some(tags) }
            }
            4 => Condition {
                if_match: Some(Tags::Revisions(vec![self.store.revision()])),
                if_none_match: Some(Tags::Revisions(vec![seen])),
            },
            _ => Condition::default(),
        }
    }

    fn take_effect(&mut self, rng: &mut Rng, client: &mut Client) {
        if let Some(command) = Command::of(&client.request) {
            // Entries that are no commands leave gaps.
            self.index = Index(self.index.0 + 1 + u64::from(rng.one_in(10)));
            let command = command.encode();
            let reply = self.store.apply(&command);
            self.history.applied(Time(self.now), self.index, &command);
            self.past.push((self.index, self.store.clone()));
            client.effect = Some((answer(reply), self.index));
            return;
        }
        let (at, store) = match &client.request {
            Request::Get { level: ReadLevel::Stale { .. }, .. }
            | Request::List { level: ReadLevel::Stale { .. }, .. } => {
                &self.past[rng.below(self.past.len())]
            }
            _ => self.past.last().unwrap(),
        };
        let answer = match &client.request {
            Request::Get { key, .. } => {
                Answer::Got { record: store.get(key).unwrap(), revision: store.revision() }
            }
            Request::List { query, .. } => Answer::Listed(store.list(query)),
            _ => unreachable!("a read"),
        };
        client.effect = Some((answer, *at));
    }
}

/// What a client is told of the store's reply.
pub fn answer(reply: Reply) -> Answer {
    match reply {
        Reply::Succeeded { revision, done } => match done[..] {
            [Done::Put { created, version }] => Answer::Put { revision, created, version },
            [Done::Deleted { deleted }] => Answer::Deleted { deleted, revision },
            _ => unreachable!("one operation in each command"),
        },
        Reply::ConditionFailed { current, revision, .. } => {
            Answer::ConditionFailed { current, revision }
        }
        reply => unreachable!("{reply:?}"),
    }
}
