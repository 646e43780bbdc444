//! Is there an order? The search of Wing, Gong and Lowe, with memory.
//!
//! A history is linearizable if its operations can be put in a row such that an operation that ended
//! before another began comes first, and a [`Model`] that takes them in that order gives every answer
//! that was given (Wing & Gong 1993). The search builds that row from the left, takes back what leads
//! nowhere, and remembers each (set of operations, state) it has been in (Lowe 2017): a second visit
//! cannot end otherwise than the first.
//!
//! A call without an end has an unknown outcome: it stands anywhere after its begin, or nowhere. They
//! are what makes searches explode, so:
//!
//! - a call without an end is tried only when no ended one helps, and never when it changes nothing;
//! - of equal calls without an end only the one begun first is tried: any row that uses another one
//!   can be relabelled;
//! - where a row was given up, one with the same ended calls and the same state is given up as well
//!   if it used up all the calls without an end that the other did: it has fewer left to go on with;
//! - a row is given up as soon as a call that has begun is too late ([`Model::is_too_late`]);
//! - an ended read that is possible and rules nothing out is taken at once and for good: a row that
//!   has it later stays a row when it is moved here;
//! - ended calls are tried in the order of [`Call::hint`].
//!
//! The search gives up after a number of steps, never after a time, so its verdict depends on the
//! history alone. Giving up is not a pass: see [`Verdict::is_linearizable`].

use std::collections::BTreeMap;

/// How a thing behaves when asked one operation at a time.
pub trait Model {
    /// Everything the next answers depend on.
    type State: Clone + Ord;
    /// A question and, if there was one, its answer.
    type Op: PartialEq;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// Adds to `next` every state the operation may lead to from this one with the answer it got;
    /// none when it cannot have got that answer here. An operation without an answer leads to what
    /// it would have done.
    fn step(&self, state: &Self::State, op: &Self::Op, next: &mut Vec<Self::State>);

    /// Whether the operation changes nothing, whatever the state. It may rule states out.
    fn only_reads(&self, op: &Self::Op) -> bool;

    /// Whether the operation cannot have got its answer in this state nor in any that may follow.
    /// Lets the search give up early; false is always right.
    fn is_too_late(&self, _state: &Self::State, _op: &Self::Op) -> bool {
        false
    }
}

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<Op> {
    /// What it was, and what was answered.
    pub op: Op,
    /// Its begin, on any clock that ticks for each begin and end.
    pub begin: u64,
    /// Its end, after its begin. `None`: its outcome is unknown, and it may take effect at any time
    /// after its begin, or never.
    pub end: Option<u64>,
    /// Of the calls that are possible next the one with the smallest hint is tried first. Changes
    /// how long the search takes, never its verdict.
    pub hint: u64,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order: the calls in it, as positions in the slice that was given.
    Linearizable {
        /// A row that explains every answer.
        order: Vec<usize>,
        /// How many steps it took to find.
        steps: u64,
    },
    /// There is none.
    NotLinearizable {
        /// The longest row that was found.
        order: Vec<usize>,
        /// The ended calls of which none can come next.
        stuck: Vec<usize>,
        /// How many steps it took to be sure.
        steps: u64,
    },
    /// Too hard to tell within the steps allowed.
    TooHard {
        /// The longest row that led nowhere.
        order: Vec<usize>,
        /// The ended calls that could come next, and did not.
        stuck: Vec<usize>,
        /// How many steps it took.
        steps: u64,
    },
}

impl Verdict {
    /// Whether an order was found. "Too hard to tell" is a no.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Verdict::Linearizable { .. })
    }

    /// How many steps the search took.
    pub fn steps(&self) -> u64 {
        match self {
            Verdict::Linearizable { steps, .. }
            | Verdict::NotLinearizable { steps, .. }
            | Verdict::TooHard { steps, .. } => *steps,
        }
    }
}

/// Looks for an order of the calls, within this many steps of the model.
pub fn search<M: Model>(model: &M, calls: &[Call<M::Op>], steps_max: u64) -> Verdict {
    Search::new(model, calls).run(steps_max)
}

/// The state of a search.
struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op>],
    /// The begins and ends of the ended calls that are not in the row.
    waiting: Waiting,
    /// The calls without an end: equal ones together, each group in order of begin.
    groups: Vec<Vec<usize>>,
    /// How many of each group are in the row.
    used: Vec<u32>,
    /// The row, and at its end the place to fill next.
    places: Vec<Place<M::State>>,
    /// Names the set of ended calls in the row.
    set: u128,
    /// Where the search has been: the ended calls and the state, and what was used of each group.
    seen: BTreeMap<(u128, M::State), Vec<Vec<u32>>>,
    steps: u64,
    /// The longest row that led nowhere.
    deepest: Vec<usize>,
    /// The ended calls that were possible after it, by time.
    stuck: Vec<usize>,
}

/// A place in the row.
struct Place<S> {
    /// The state before it.
    state: S,
    /// The calls yet to be tried here, the best one last.
    candidates: Vec<Candidate>,
    /// The one that is being tried, and the states it may lead to that are yet to be tried.
    trying: Option<Candidate>,
    next: Vec<S>,
}

/// A call that may come next in the row.
#[derive(Clone, Copy)]
struct Candidate {
    call: usize,
    /// Which group it is of, when it has no end.
    group: Option<usize>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Call<M::Op>]) -> Search<'a, M> {
        let groups = groups_of_equals(calls);
        let mut search = Search {
            model,
            calls,
            waiting: Waiting::new(calls),
            used: vec![0; groups.len()],
            groups,
            places: Vec::new(),
            set: 0,
            seen: BTreeMap::new(),
            steps: 0,
            deepest: Vec::new(),
            stuck: Vec::new(),
        };
        search.open_place(model.initial());
        search
    }

    fn run(mut self, steps_max: u64) -> Verdict {
        while !self.waiting.is_empty() {
            if steps_max <= self.steps {
                self.remember_if_deepest();
                let Search { deepest: order, stuck, steps, .. } = self;
                return Verdict::TooHard { order, stuck, steps };
            }
            if let Some(next) = self.fill_place() {
                self.open_place(next);
                continue;
            }
            // Nothing fits here: take back the call before, and try another one in its place.
            self.remember_if_deepest();
            self.places.pop();
            if self.places.is_empty() {
                let Search { deepest: order, stuck, steps, .. } = self;
                return Verdict::NotLinearizable { order, stuck, steps };
            }
            self.take_back();
        }
        Verdict::Linearizable { order: self.row(), steps: self.steps }
    }

    /// Adds a place after the row, with all calls that may fill it.
    fn open_place(&mut self, state: M::State) {
        let hint = |it: &Candidate| std::cmp::Reverse(self.calls[it.call].hint);
        let mut candidates = Vec::new();
        let horizon = self.waiting.first_end();
        for (group, calls) in self.groups.iter().enumerate().rev() {
            if let Some(&call) = calls.get(self.used[group] as usize)
                && horizon.is_some_and(|horizon| self.calls[call].begin <= horizon)
            {
                candidates.push(Candidate { call, group: Some(group) });
            }
        }
        candidates.sort_by_key(hint);
        let endless = candidates.len();
        candidates.extend(self.waiting.possible().map(|call| Candidate { call, group: None }));
        candidates[endless..].sort_by_key(hint);
        let is_too_late = |it: &Candidate| self.model.is_too_late(&state, &self.calls[it.call].op);
        if candidates[endless..].iter().any(is_too_late) {
            candidates.clear();
        }
        self.places.push(Place { state, candidates, trying: None, next: Vec::new() });
    }

    /// Puts a call into the last place that leads to where the search has not been; the state after
    /// it, or `None` when there is no such call left.
    fn fill_place(&mut self) -> Option<M::State> {
        let place = self.places.last_mut().expect("there is a place to fill");
        loop {
            if let (Some(candidate), Some(next)) = (place.trying, place.next.pop()) {
                let set = match candidate.group {
                    Some(group) => {
                        self.used[group] += 1;
                        self.set
                    }
                    None => self.set ^ name_of(candidate.call),
                };
                let been = self.seen.entry((set, next.clone())).or_default();
                let has_more = |used: &Vec<u32>| used.iter().zip(&self.used).all(|(a, b)| a <= b);
                if been.iter().any(has_more) {
                    if let Some(group) = candidate.group {
                        self.used[group] -= 1;
                    }
                    continue;
                }
                been.push(self.used.clone());
                self.set = set;
                if candidate.group.is_none() {
                    self.waiting.remove(candidate.call);
                }
                return Some(next);
            }
            let candidate = place.candidates.pop()?;
            let op = &self.calls[candidate.call].op;
            self.steps += 1;
            self.model.step(&place.state, op, &mut place.next);
            place.trying = Some(candidate);
            if candidate.group.is_some() {
                // Without an answer to explain, what changes nothing is better left out.
                place.next.retain(|next| *next != place.state);
            } else if self.model.only_reads(op) && place.next.contains(&place.state) {
                place.next.clear();
                place.next.push(place.state.clone());
                place.candidates.clear();
            }
        }
    }

    /// Takes the call in the last place out of the row again.
    fn take_back(&mut self) {
        let place = self.places.last().expect("the row is not empty");
        let candidate = place.trying.expect("a place before another one is filled");
        match candidate.group {
            Some(group) => self.used[group] -= 1,
            None => {
                self.set ^= name_of(candidate.call);
                self.waiting.put_back(candidate.call);
            }
        }
    }

    fn row(&self) -> Vec<usize> {
        let filled = &self.places[..self.places.len() - 1];
        filled.iter().filter_map(|place| place.trying).map(|it| it.call).collect()
    }

    fn remember_if_deepest(&mut self) {
        if self.deepest.len() < self.places.len() - 1 || self.stuck.is_empty() {
            self.deepest = self.row();
            self.stuck = self.waiting.possible().collect();
        }
    }
}

/// The begins and ends of the ended calls that are not in the row, by time: a list linked both ways,
/// so that a call can be taken out and put back, last out first in, in no time.
struct Waiting {
    /// By time; the first one is a stand-in that closes the ring.
    events: Vec<Event>,
    /// The places of the begin and the end of each call.
    of_call: Vec<(usize, usize)>,
}

#[derive(Clone, Copy)]
struct Event {
    time: u64,
    call: usize,
    is_end: bool,
    before: usize,
    after: usize,
}

const RING: usize = 0;

impl Waiting {
    fn new<Op>(calls: &[Call<Op>]) -> Waiting {
        let event = |time, call, is_end| Event { time, call, is_end, before: RING, after: RING };
        let mut events = vec![event(0, usize::MAX, false)];
        for (at, call) in calls.iter().enumerate() {
            if let Some(end) = call.end {
                assert!(call.begin < end, "a call begins before it ends");
                events.push(event(call.begin, at, false));
                events.push(event(end, at, true));
            }
        }
        // At one instant begins come first: what is not surely apart is taken to overlap.
        events[1..].sort_by_key(|it| (it.time, it.is_end));

        let mut of_call = vec![(RING, RING); calls.len()];
        let count = events.len();
        for (at, event) in events.iter_mut().enumerate() {
            event.before = (at + count - 1) % count;
            event.after = (at + 1) % count;
            match (at, event.is_end) {
                (RING, _) => {}
                (_, false) => of_call[event.call].0 = at,
                (_, true) => of_call[event.call].1 = at,
            }
        }
        Waiting { events, of_call }
    }

    fn is_empty(&self) -> bool {
        self.events[RING].after == RING
    }

    /// The calls that began before any of them ended.
    fn possible(&self) -> impl Iterator<Item = usize> {
        self.in_order().take_while(|event| !event.is_end).map(|event| event.call)
    }

    /// When the first of them ends.
    fn first_end(&self) -> Option<u64> {
        self.in_order().find(|event| event.is_end).map(|event| event.time)
    }

    fn in_order(&self) -> impl Iterator<Item = &Event> {
        let after = |at: usize| Some(self.events[at].after).filter(|&at| at != RING);
        std::iter::successors(after(RING), move |&at| after(at)).map(|at| &self.events[at])
    }

    fn remove(&mut self, call: usize) {
        let (begin, end) = self.of_call[call];
        for at in [begin, end] {
            let Event { before, after, .. } = self.events[at];
            self.events[before].after = after;
            self.events[after].before = before;
        }
    }

    fn put_back(&mut self, call: usize) {
        let (begin, end) = self.of_call[call];
        for at in [end, begin] {
            let Event { before, after, .. } = self.events[at];
            self.events[before].after = at;
            self.events[after].before = at;
        }
    }
}

/// The calls without an end, equal ones together, each group in order of begin.
fn groups_of_equals<Op: PartialEq>(calls: &[Call<Op>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, call) in calls.iter().enumerate().filter(|(_, call)| call.end.is_none()) {
        match groups.iter_mut().find(|group| calls[group[0]].op == call.op) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    for group in &mut groups {
        group.sort_by_key(|&at| calls[at].begin);
    }
    groups
}

/// A number for each call; the numbers of a set's calls, xored, name the set. Two sets of a search
/// share a name with a chance below 2^-80, and then at worst an order is missed.
fn name_of(call: usize) -> u128 {
    let seed = 2 * call as u64;
    u128::from(mix(seed)) << 64 | u128::from(mix(seed + 1))
}

/// The finalizer of SplitMix64.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
