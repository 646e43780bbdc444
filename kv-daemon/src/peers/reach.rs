//! Whether a peer can be reached, when to try again, and what there is to tell about it.
//!
//! One for each peer, shared by its connections: a success on one ends the waiting of all. A peer
//! lost and a peer back are one log line each, however often is tried in between.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use log::{info, warn};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The first wait after a failure; it doubles up to `BACKOFF_MAX`.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The wait after a peer said that we do not belong together: only an operator mends that.
const CONFLICT_WAIT: Duration = Duration::from_secs(5);

/// What is known about the way to one peer.
pub(super) struct Reach {
    state: Mutex<State>,
    /// Rung when a wait has become pointless.
    changed: Notify,
}

struct State {
    /// `node2 (localhost:8002)`, as soon as it is known.
    peer: String,
    standing: Standing,
    failures: u32,
    next_try: Option<Instant>,
    conflict: Option<String>,
    /// It spoke to us or answered us since it was last found dead.
    lives: bool,
    probing: bool,
    /// Feeds the jitter; a fixed sequence is random enough to keep peers from marching in step.
    jitter: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    NeverTried,
    Up,
    Down,
}

impl Reach {
    /// Of a peer that was not tried yet.
    pub(super) fn new(peer: String, seed: u64) -> Reach {
        let state = State {
            peer,
            standing: Standing::NeverTried,
            failures: 0,
            next_try: None,
            conflict: None,
            lives: false,
            probing: false,
            jitter: seed | 1,
        };
        Reach { state: Mutex::new(state), changed: Notify::new() }
    }

    /// How messages call the peer.
    pub(super) fn set_name(&self, peer: String) {
        self.lock().peer = peer;
    }

    /// Waits until the next attempt makes sense.
    pub(super) async fn may_try(&self) {
        loop {
            let changed = self.changed.notified();
            let next_try = self.lock().next_try;
            match next_try {
                Some(at) if Instant::now() < at => tokio::select! {
                    () = sleep_until(at) => {}
                    () = changed => {}
                },
                _ => return,
            }
        }
    }

    /// The peer answered as it should.
    pub(super) fn served(&self) {
        let mut state = self.lock();
        state.lives = true;
        if state.standing == Standing::Up && state.conflict.is_none() && state.failures == 0 {
            return;
        }
        match state.standing {
            Standing::NeverTried => info!("peer {}: connected", state.peer),
            Standing::Down => info!("peer {}: back", state.peer),
            Standing::Up => {}
        }
        state.standing = Standing::Up;
        state.failures = 0;
        state.next_try = None;
        state.conflict = None;
        drop(state);
        self.changed.notify_waiters();
    }

    /// The peer sent us something, so trying again is worth it at once.
    pub(super) fn heard(&self) {
        let mut state = self.lock();
        state.lives = true;
        if state.conflict.is_none() && state.next_try.take().is_some() {
            state.failures = 0;
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// An attempt failed, or an answer was no answer.
    pub(super) fn failed(&self, error: &str) {
        let mut state = self.lock();
        if state.standing != Standing::Down {
            warn!("peer {}: {error}; trying again up to once a second", state.peer);
        }
        state.standing = Standing::Down;
        let wait = (BACKOFF_MIN * 2u32.saturating_pow(state.failures)).min(BACKOFF_MAX);
        state.failures = state.failures.saturating_add(1).min(16);
        let wait = wait.mul_f64(state.next_jitter());
        state.next_try = Some(Instant::now() + wait);
    }

    /// The peer says we do not belong together, in its words.
    pub(super) fn conflict(&self, text: String) {
        let mut state = self.lock();
        if state.conflict.as_ref() != Some(&text) {
            warn!("peer {} refuses this node: {text}", state.peer);
        }
        state.conflict = Some(text);
        state.next_try = Some(Instant::now() + CONFLICT_WAIT);
    }

    /// A connection broke. Whether to find out at once if the peer's process is gone: not when that
    /// is being found out already, nor when it has given no sign of life since it was.
    pub(super) fn broken(&self) -> bool {
        let mut state = self.lock();
        let worth = state.lives && !state.probing;
        state.probing |= worth;
        worth
    }

    /// The probe that [`broken`](Reach::broken) asked for is over.
    pub(super) fn probed(&self, dead: bool) {
        let mut state = self.lock();
        state.probing = false;
        state.lives &= !dead;
    }

    /// Whether the newest attempt or answer was good; `None` before the first.
    pub(super) fn is_up(&self) -> Option<bool> {
        match self.lock().standing {
            Standing::NeverTried => None,
            Standing::Up => Some(true),
            Standing::Down => Some(false),
        }
    }

    /// What the peer said when it refused us, while that stands.
    pub(super) fn problem(&self) -> Option<String> {
        self.lock().conflict.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl State {
    /// From 0.75 to 1.25.
    fn next_jitter(&mut self) -> f64 {
        // xorshift64: never 0 when it begins odd.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        0.75 + (self.jitter % 1000) as f64 / 2000.0
    }
}
