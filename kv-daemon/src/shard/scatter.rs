//! One list over all clusters of an array: each is asked for its part, page by page, and the parts
//! are merged by key. A cluster holds keys of its own slots only, so no key comes twice. It is never
//! short and never too long: a cluster that cannot be asked, that knows of a newer map than ours
//! (there may be clusters we have not heard of), or of none (it holds whatever it was given), makes
//! it fail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use carp::Ownership;
use carp::ownership::Giver;
use futures_util::future::try_join_all;

use super::links::Answered;
use crate::daemon::{Asker, Daemon, Serving};
use crate::kv::request::{
    Answer, Failure, ListQuery, ListShape, Listed, ReadLevel, Reason, Record, Request,
};
use crate::kv::service::{Forwarded, LEADER_WAIT_MAX};
use crate::kv::store::LIST_BYTES_MAX;

/// The pause before a cluster that could not be reached is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The fewest items a cluster is asked for at a time, unless fewer are wanted in all.
const PART_ITEMS_MIN: u32 = 16;

/// One page of the keys of all clusters in order.
///
/// # Errors
/// Why there is none; an unreachable cluster is named.
pub async fn list(
    daemon: &Daemon,
    query: ListQuery,
    level: ReadLevel,
    deadline: Instant,
    asker: Asker,
) -> Result<Listed, Failure> {
    let failed = |reason| Failure { reason, outcome: None };
    let serving = daemon.serving().ok_or_else(|| failed(Reason::Forming))?;
    let Ok(_place) = daemon.shard.scatters.try_acquire() else { return Err(failed(Reason::Busy)) };
    let mut epochs = daemon.shard.epochs();
    loop {
        let own = serving.store.ownership();
        let gathering = Gathering { daemon, serving, own, query: &query, level, asker, deadline };
        let gathered = tokio::time::timeout_at(deadline.into(), gathering.gather()).await;
        match gathered.unwrap_or(Err(failed(Reason::Deadline))) {
            Err(Failure { reason: Reason::MapBehind { epoch }, .. }) => {
                let caught_up = epochs.wait_for(|ours| epoch <= *ours);
                if !matches!(tokio::time::timeout_at(deadline.into(), caught_up).await, Ok(Ok(_))) {
                    return Err(failed(Reason::MapBehind { epoch }));
                }
            }
            end => return end,
        }
    }
}

/// A page on its way.
struct Gathering<'a> {
    daemon: &'a Daemon,
    serving: &'a Serving,
    own: Option<Arc<Ownership>>,
    query: &'a ListQuery,
    level: ReadLevel,
    asker: Asker,
    deadline: Instant,
}

/// What one cluster has told so far.
struct Part {
    /// `None`: this cluster itself.
    cluster: Option<Giver>,
    items: VecDeque<(Bytes, Record)>,
    /// Where its next page begins, if there is one.
    next: Option<Bytes>,
    count: u64,
    revision: u64,
}

impl Gathering<'_> {
    async fn gather(&self) -> Result<Listed, Failure> {
        let mut clusters = vec![None];
        clusters.extend(self.own.iter().flat_map(|own| own.others()).map(Some));
        let share = (2 * self.query.limit).div_ceil(clusters.len() as u32);
        let limit = share.max(PART_ITEMS_MIN).min(self.query.limit);
        let parts = clusters.into_iter().map(|cluster| self.part(cluster, limit));
        let mut parts = try_join_all(parts).await?;

        let mut listed = Listed { revision: parts[0].revision, ..Listed::default() };
        if self.query.shape == ListShape::Count {
            listed.count = parts.iter().map(|part| part.count).sum();
            return Ok(listed);
        }
        let mut bytes = 0;
        loop {
            // What a part has not told yet may come before everything the others have.
            for part in &mut parts {
                if part.items.is_empty() && part.next.is_some() {
                    self.refill(part, limit).await?;
                }
            }
            let heads = parts.iter_mut().filter(|part| !part.items.is_empty());
            let Some(first) = heads.min_by(|a, b| a.items[0].0.cmp(&b.items[0].0)) else { break };
            let value_bytes = first.items[0].1.value.len();
            let is_full = listed.items.len() == self.query.limit as usize
                || LIST_BYTES_MAX < bytes + value_bytes;
            if is_full && let Some((last, _)) = listed.items.last() {
                listed.next = Some(last.clone());
                break;
            }
            bytes += value_bytes;
            listed.items.extend(first.items.pop_front());
        }
        listed.count = listed.items.len() as u64;
        Ok(listed)
    }

    async fn part(&self, cluster: Option<Giver>, limit: u32) -> Result<Part, Failure> {
        let page = self.page(cluster.as_ref(), self.query.after.clone(), limit).await?;
        let Listed { items, count, next, revision } = page;
        Ok(Part { cluster, items: items.into(), next, count, revision })
    }

    async fn refill(&self, part: &mut Part, limit: u32) -> Result<(), Failure> {
        let page = self.page(part.cluster.as_ref(), part.next.take(), limit).await?;
        part.items = page.items.into();
        part.next = page.next;
        Ok(())
    }

    /// A page of one cluster.
    async fn page(
        &self,
        cluster: Option<&Giver>,
        after: Option<Bytes>,
        limit: u32,
    ) -> Result<Listed, Failure> {
        let query = ListQuery { after, limit, ..self.query.clone() };
        let request = Request::List { query, level: self.level };
        let Some(Giver { id, urls }) = cluster else {
            return listed(self.daemon.ask(request, self.deadline, self.asker).await);
        };
        let failed = |reason| Failure { reason, outcome: None };
        let unreachable = || failed(Reason::Unreachable { cluster: id.clone() });
        let links = &self.daemon.shard.links;
        let give_up = self.deadline.min(Instant::now() + LEADER_WAIT_MAX);
        loop {
            let hops = self.asker.hops + 1;
            let answered = links.ask(id, urls, &request, self.deadline, hops).await;
            let Answered { forwarded, epoch } = answered;
            let ours = self.serving.store.map_epoch();
            if let Some(epoch) = epoch.filter(|epoch| ours < Some(*epoch)) {
                return Err(failed(Reason::MapBehind { epoch }));
            }
            match forwarded {
                Forwarded::Done(Err(failure)) => {
                    return Err(match failure.reason {
                        Reason::TooStale { .. } | Reason::Busy | Reason::Deadline => failure,
                        _ => unreachable(),
                    });
                }
                Forwarded::Done(answer) if epoch.is_some() => return listed(answer),
                // Our map may be on its way there.
                Forwarded::Done(_) if give_up <= Instant::now() => {
                    return Err(failed(Reason::MapMissing { cluster: id.clone() }));
                }
                Forwarded::NothingSent | Forwarded::Broken if give_up <= Instant::now() => {
                    return Err(unreachable());
                }
                Forwarded::Done(_) | Forwarded::NothingSent | Forwarded::Broken => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

fn listed(answer: Result<Answer, Failure>) -> Result<Listed, Failure> {
    match answer? {
        Answer::Listed(listed) => Ok(listed),
        _ => {
            let why = "the other node answered another question".to_owned();
            Err(Failure { reason: Reason::Invalid { why }, outcome: None })
        }
    }
}
