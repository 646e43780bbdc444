//! Reading a request's body: never more than its limit, never slower than its patience, and never
//! more than a fixed sum for all clients together. `content-length` is a promise, not a fact.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use warp::http::HeaderMap;
use warp::http::header::CONTENT_LENGTH;

/// Bodies up to this size are not counted against the budget: the connection limit bounds them.
const FREE_BYTES: u64 = 64 << 10;
/// The unit the budget is counted in.
const UNIT_BYTES: u64 = 4 << 10;
/// A body has to come in at this rate on average, once the first patience is over: 16 KiB/s.
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// Longer than allowed.
    TooLarge {
        /// What is allowed, in bytes.
        bytes_max: u64,
    },
    /// Nothing came for too long, or too little on the whole.
    TooSlow,
    /// All bodies together are too much right now.
    Busy,
    /// The client broke off or broke the framing.
    Broken,
}

/// How much all large bodies together may hold. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
}

/// A body and its share of the budget, which returns when this is dropped.
#[derive(Debug)]
pub struct Body {
    /// All of it.
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// This many bytes in all.
    pub fn new(bytes_max: u64) -> Budget {
        let units = usize::try_from(bytes_max / UNIT_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
        Budget { units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))) }
    }

    /// Makes `share` cover `bytes`.
    fn cover(&self, share: &mut Option<OwnedSemaphorePermit>, bytes: u64) -> Result<(), BodyFault> {
        if bytes <= FREE_BYTES {
            return Ok(());
        }
        let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
        let wanted = bytes.div_ceil(UNIT_BYTES).saturating_sub(held);
        if wanted == 0 {
            return Ok(());
        }
        let wanted = u32::try_from(wanted).map_err(|_| BodyFault::Busy)?;
        let more = Arc::clone(&self.units).try_acquire_many_owned(wanted);
        let more = more.map_err(|_| BodyFault::Busy)?;
        match share {
            Some(share) => share.merge(more),
            None => *share = Some(more),
        }
        Ok(())
    }
}

/// Reads a whole body of at most `bytes_max` bytes; `patience` bounds each silence.
///
/// A body that came in one piece with its head is handed on as it is (a slice of the connection's
/// read buffer): whoever keeps it must copy it. Others are gathered into a buffer of their size.
///
/// # Errors
/// A [`BodyFault`]; too large a `content-length` is refused before anything is read, so that a
/// client that sent `Expect: 100-continue` never sends it.
pub async fn read<S, B, E>(
    stream: S,
    headers: &HeaderMap,
    bytes_max: u64,
    patience: Duration,
    budget: &Budget,
) -> Result<Body, BodyFault>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let mut stream = std::pin::pin!(stream);
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    if declared.is_some_and(|declared| bytes_max < declared) {
        return Err(BodyFault::TooLarge { bytes_max });
    }
    let begun = Instant::now();
    let mut share = None;
    budget.cover(&mut share, declared.unwrap_or(0))?;

    let Some(first) = next(&mut stream, patience).await? else {
        return Ok(Body { bytes: Bytes::new(), _share: share });
    };
    if bytes_max < first.len() as u64 {
        return Err(BodyFault::TooLarge { bytes_max });
    }
    if declared == Some(first.len() as u64) {
        return Ok(Body { bytes: first, _share: share });
    }
    let mut gathered = Vec::new();
    if let Some(declared) = declared {
        gathered.reserve_exact(usize::try_from(declared).map_err(|_| BodyFault::Busy)?);
    }
    gathered.extend_from_slice(&first);
    drop(first);
    while let Some(piece) = next(&mut stream, patience).await? {
        let length = (gathered.len() + piece.len()) as u64;
        if bytes_max < length {
            return Err(BodyFault::TooLarge { bytes_max });
        }
        let allowed = patience + Duration::from_millis(length * 1000 / BYTES_PER_SECOND_MIN);
        if allowed < begun.elapsed() {
            return Err(BodyFault::TooSlow);
        }
        budget.cover(&mut share, length)?;
        gathered.extend_from_slice(&piece);
    }
    Ok(Body { bytes: Bytes::from(gathered), _share: share })
}

async fn next<S, B, E>(
    stream: &mut Pin<&mut S>,
    patience: Duration,
) -> Result<Option<Bytes>, BodyFault>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    // Most bodies come with their head: only one that is waited for needs a timer.
    let piece = match stream.next().now_or_never() {
        Some(piece) => Ok(piece),
        None => timeout(patience, stream.next()).await,
    };
    match piece {
        Err(_) => Err(BodyFault::TooSlow),
        Ok(None) => Ok(None),
        Ok(Some(Err(_))) => Err(BodyFault::Broken),
        Ok(Some(Ok(mut piece))) => Ok(Some(piece.copy_to_bytes(piece.remaining()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_returned() {
        let budget = Budget::new(1 << 20);
        let mut a = None;
        assert_eq!(budget.cover(&mut a, FREE_BYTES), Ok(()));
        assert!(a.is_none(), "small bodies are free");
        assert_eq!(budget.cover(&mut a, 512 << 10), Ok(()));
        assert_eq!(budget.cover(&mut a, 768 << 10), Ok(()));
        let mut b = None;
        assert_eq!(budget.cover(&mut b, 512 << 10), Err(BodyFault::Busy));
        drop(a);
        assert_eq!(budget.cover(&mut b, 1 << 20), Ok(()));
    }
}
