//! The tries of one request: which server is asked when, how long to wait in between, when to stop.
//! What an answer means is `verdict`'s business.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use carp::{Array, Epoch};
use hyper::header::{HeaderValue, IF_NONE_MATCH};

use super::error::Error;
use super::map::{Knowledge, Way};
use super::url::{ServerUrl, push_param};
use super::verdict::{Kind, Verdict, judge, problem};
use super::wire::{Broken, Call, Reply};
use super::{Client, Exchange};

/// How long a server's own answer to the end of its time may take to arrive. It says more than our
/// clock does: whether a write was applied.
const GRACE: Duration = Duration::from_millis(500);

/// How long one server may take to tell the array.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Redirects of one request; more than this only while the array changes, and then a newer one helps.
const REDIRECTS_MAX: u32 = 2;

/// The first wait, and the longest, before all servers are asked once more.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

impl Client {
    /// Sends a request about `key` (`None`: about no one key) until it is answered or its time is
    /// over.
    pub(super) async fn ask(
        &self,
        key: Option<&[u8]>,
        kind: Kind,
        call: Call,
    ) -> Result<Reply, Error> {
        let map = &self.inner.map;
        let end = Instant::now() + self.settings().timeout;
        self.know_the_array(end).await;
        let (mut turn, mut rounds, mut redirects) = (0, 0, 0);
        loop {
            let way = match key {
                Some(key) => map.way(key),
                None => Way { servers: Arc::clone(map.seeds()), epoch: None },
            };
            let count = way.servers.list().len();
            let place = way.servers.place(turn);
            let server = &way.servers.list()[place];
            let left = end.saturating_duration_since(Instant::now());
            let dressed = dress(&call, left, way.epoch);
            let until = Instant::now() + patience(kind, left, count) + GRACE;
            let result = self.exchange(server, &dressed, until).await;
            let (after, error) = match judge(kind, result) {
                Verdict::Done(reply) => {
                    way.servers.prefer(place);
                    return Ok(reply);
                }
                Verdict::Over(error) => return Err(at(server, error)),
                Verdict::Elsewhere { error, .. } if redirects == REDIRECTS_MAX => {
                    return Err(at(server, error));
                }
                Verdict::Elsewhere { moved, .. } => {
                    redirects += 1;
                    turn = 0;
                    if !moved.is_some_and(|moved| map.on_redirect(&moved)) {
                        self.fetch(end).await;
                    }
                    continue;
                }
                Verdict::Again { after, error } => (after, error),
            };
            turn += 1;
            let slow_down = matches!(&error, Error::NotApplied(problem) if problem.status == 429);
            let mut wait = Duration::ZERO;
            if slow_down || turn % count == 0 {
                wait = backoff(rounds, crate::random()).max(after.unwrap_or_default());
                rounds += 1;
            }
            if end <= Instant::now() + wait {
                return Err(at(server, error));
            }
            tokio::time::sleep(wait).await;
            // Nobody of the owner answers: perhaps it is no longer the owner.
            if way.epoch.is_some() && turn % count == 0 {
                self.fetch(end).await;
            }
        }
    }

    /// One exchange with this very server, which is tried once. For what is asked of a server and
    /// not of the store: its health, its copy of the array.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Timeout`] when it does not answer. Whatever it answers is
    /// an answer.
    pub async fn ask_server(&self, server: &ServerUrl, call: Call) -> Result<Reply, Error> {
        let left = self.settings().timeout;
        let dressed = dress(&call, left, None);
        let result = self.exchange(server, &dressed, Instant::now() + left + GRACE).await;
        result.map_err(|broken| match broken {
            Broken::NothingSent(why) => at(server, Error::Unavailable(why)),
            Broken::MaybeSent(why) => at(server, Error::Timeout(why)),
        })
    }

    /// The array of clusters, fetched anew. `None`: the servers know of none.
    ///
    /// # Errors
    /// Nobody could tell.
    pub async fn array(&self) -> Result<Option<Array>, Error> {
        let end = Instant::now() + self.settings().timeout;
        match self.fetch(end).await {
            None => Ok(self.inner.map.array()),
            Some(error) => Err(error),
        }
    }

    /// Whether there is an array, as far as is known when the request after it begins.
    pub(super) async fn is_sharded(&self) -> bool {
        self.know_the_array(Instant::now() + self.settings().timeout).await;
        self.inner.map.etag().is_some()
    }

    /// Before the first request: fetches the array. Later: has it fetched beside the request when
    /// that is worth it.
    async fn know_the_array(&self, end: Instant) {
        if !self.settings().routes {
            return;
        }
        match self.inner.map.knowledge() {
            Knowledge::Fresh => {}
            // If nobody answers, the request itself will tell why.
            Knowledge::Nothing => drop(self.fetch(end).await),
            Knowledge::Old => {
                if !self.inner.fetching.swap(true, Ordering::Relaxed) {
                    let client = self.clone();
                    tokio::spawn(async move {
                        client.fetch(end).await;
                        client.inner.fetching.store(false, Ordering::Relaxed);
                    });
                }
            }
        }
    }

    /// Asks each server it was given, until one tells what the array is or that there is none.
    async fn fetch(&self, end: Instant) -> Option<Error> {
        let map = &self.inner.map;
        let seeds = map.seeds();
        let mut failed = None;
        for turn in 0..seeds.list().len() {
            let place = seeds.place(turn);
            let server = &seeds.list()[place];
            let mut call = Call::get("/carp");
            if let Some(etag) = map.etag().and_then(|etag| HeaderValue::from_str(&etag).ok()) {
                call.headers.insert(IF_NONE_MATCH, etag);
            }
            let until = end.min(Instant::now() + FETCH_TIMEOUT);
            let reply = match self.exchange(server, &call, until).await {
                Ok(reply) => reply,
                Err(Broken::NothingSent(why) | Broken::MaybeSent(why)) => {
                    failed = Some(at(server, Error::Unavailable(why)));
                    continue;
                }
            };
            match reply.status.as_u16() {
                200 => match Array::from_json(&reply.body).and_then(|array| map.learned(array)) {
                    Ok(()) => return None,
                    Err(fault) => {
                        log::warn!("{server} tells an array that is of no use: {fault}");
                        failed = Some(at(server, Error::Strange(fault.to_string())));
                    }
                },
                304 => {
                    map.unchanged();
                    return None;
                }
                404 => {
                    map.is_absent();
                    return None;
                }
                _ => {
                    let problem = problem(&reply);
                    failed = Some(at(server, Error::Unavailable(problem.to_string())));
                }
            }
        }
        failed
    }

    async fn exchange(
        &self,
        server: &ServerUrl,
        call: &Call,
        until: Instant,
    ) -> Result<Reply, Broken> {
        let begun = Instant::now();
        let result = self.inner.wire.exchange(server, call, until).await;
        if let Some(watch) = &self.settings().watch {
            watch(&Exchange { server, call, result: &result, took: begun.elapsed() });
        }
        if let Ok(reply) = &result
            && let Some(epoch) = reply.number("carp-epoch")
        {
            self.inner.map.saw(Epoch(epoch));
        }
        result
    }
}

/// The request as this try sends it: with the time that is left, and the epoch we route by.
fn dress(call: &Call, left: Duration, epoch: Option<Epoch>) -> Call {
    let mut call = call.clone();
    // A server refuses `0ms`, and more than ten minutes.
    let millis = left.as_millis().clamp(1, 600_000);
    push_param(&mut call.target, "timeout", format!("{millis}ms").as_bytes());
    if let Some(epoch) = epoch {
        call.headers.insert("carp-epoch", HeaderValue::from(epoch.0));
    }
    call
}

/// How long to wait for one server. A write has to wait for its answer: elsewhere it could happen
/// twice. A read leaves time to ask another server, when there is one.
fn patience(kind: Kind, left: Duration, servers: usize) -> Duration {
    match kind {
        Kind::Read if 1 < servers => left / 2,
        _ => left,
    }
}

/// How long to wait before the servers are asked again: twice as long each round, and between half
/// and all of that, so that clients that failed together do not come back together.
fn backoff(round: u32, random: u64) -> Duration {
    let (first, most) = BACKOFF;
    let full = first.saturating_mul(1 << round.min(16)).min(most);
    let share = (random >> 11) as f64 / (1u64 << 53) as f64;
    full.mul_f64(0.5 + share / 2.0)
}

/// The error with the server's name in its text.
fn at(server: &ServerUrl, error: Error) -> Error {
    match error {
        Error::Unavailable(why) => Error::Unavailable(format!("{server}: {why}")),
        Error::Unknown(why) => Error::Unknown(format!("{server}: {why}")),
        Error::Timeout(why) => Error::Timeout(format!("{server}: {why}")),
        Error::Strange(why) => Error::Strange(format!("{server}: {why}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        for round in 0..40 {
            let full = BACKOFF.0.saturating_mul(1 << round.min(16)).min(BACKOFF.1);
            assert_eq!(backoff(round, 0), full / 2);
            assert!(backoff(round, u64::MAX) <= full);
        }
    }

    #[test]
    fn a_try_tells_the_time_left_and_the_epoch() {
        let call = dress(&Call::get("/kv/a"), Duration::from_millis(4980), Some(Epoch(7)));
        assert_eq!(call.target, "/kv/a?timeout=4980ms");
        assert_eq!(call.headers["carp-epoch"], "7");
        let call = dress(&Call::get("/kv?prefix=a"), Duration::from_secs(9999), None);
        assert_eq!(call.target, "/kv?prefix=a&timeout=600000ms");
        assert!(!call.headers.contains_key("carp-epoch"));
    }

    #[test]
    fn a_write_waits_for_its_answer_and_a_read_leaves_time_for_another_server() {
        let left = Duration::from_secs(4);
        assert_eq!(patience(Kind::Write, left, 3), left);
        assert_eq!(patience(Kind::Read, left, 3), left / 2);
        assert_eq!(patience(Kind::Read, left, 1), left);
    }
}
