//! A bounded queue between a thread that must not wait and a task that writes to a socket.
//!
//! Pushing never blocks: what does not fit is refused or pushes out the oldest, as the caller says,
//! and is counted. The reading side takes everything there is at once, which is how messages that
//! wait together leave in one write ([`Frames`]).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;

/// Messages that leave together are gathered up to about this many bytes per write.
const WRITE_BYTES: usize = 256 << 10;

/// What is said when a lock is poisoned: nothing in here panics while it holds one.
const UNPOISONED: &str = "no code panics while it holds this lock";

/// The queue.
pub(super) struct Outbox<T> {
    state: Mutex<State<T>>,
    items_max: usize,
    bytes_max: usize,
}

struct State<T> {
    queue: VecDeque<(T, usize)>,
    bytes: usize,
    reader: Option<Waker>,
    /// Nothing is read before the gate opens: the other side has agreed to listen.
    open: bool,
    closed: bool,
}

/// Why something was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotQueued {
    /// As much as allowed waits already.
    Full,
    /// Nobody will read any more.
    Closed,
}

impl<T> Outbox<T> {
    /// At most `items_max` items and `bytes_max` bytes wait; one item is let in whatever its size.
    pub(super) fn new(items_max: usize, bytes_max: usize) -> Outbox<T> {
        let state =
            State { queue: VecDeque::new(), bytes: 0, reader: None, open: true, closed: false };
        Outbox { state: Mutex::new(state), items_max, bytes_max }
    }

    /// Queues an item that weighs this much, or refuses it.
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), NotQueued> {
        let mut state = self.lock();
        if state.closed {
            return Err(NotQueued::Closed);
        }
        let fits = state.queue.is_empty()
            || (state.queue.len() < self.items_max && state.bytes + bytes <= self.bytes_max);
        if !fits {
            return Err(NotQueued::Full);
        }
        state.bytes += bytes;
        state.queue.push_back((item, bytes));
        state.wake();
        Ok(())
    }

    /// Queues an item if it would leave at once: nothing waits, and somebody waits to write. Gives
    /// it back otherwise.
    pub(super) fn push_if_idle(&self, item: T, bytes: usize) -> Result<(), T> {
        let mut state = self.lock();
        let idle = state.open && !state.closed && state.queue.is_empty();
        if !idle || state.reader.is_none() {
            return Err(item);
        }
        state.bytes += bytes;
        state.queue.push_back((item, bytes));
        state.wake();
        Ok(())
    }

    /// Queues an item in place of the queued ones it makes useless; the oldest leaves when there is
    /// no room. Returns how many were pushed out for want of room.
    pub(super) fn push_newest(
        &self,
        item: T,
        bytes: usize,
        makes_useless: impl Fn(&T) -> bool,
    ) -> usize {
        let mut state = self.lock();
        if state.closed {
            return 1;
        }
        state.queue.retain(|(queued, _)| !makes_useless(queued));
        let mut pushed_out = 0;
        while self.items_max <= state.queue.len() {
            state.queue.pop_front();
            pushed_out += 1;
        }
        state.queue.push_back((item, bytes));
        state.bytes = state.queue.iter().map(|(_, bytes)| bytes).sum();
        state.wake();
        pushed_out
    }

    /// Waits until something is queued; `false` when the queue is closed.
    pub(super) async fn filled(&self) -> bool {
        std::future::poll_fn(|context| {
            let mut state = self.lock();
            if state.closed {
                return Poll::Ready(false);
            }
            if !state.queue.is_empty() {
                return Poll::Ready(true);
            }
            state.reader = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Takes the oldest item.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        let (item, bytes) = state.queue.pop_front()?;
        state.bytes -= bytes;
        Some(item)
    }

    /// Takes everything that waits.
    pub(super) fn take_all(&self) -> Vec<T> {
        let mut state = self.lock();
        state.bytes = 0;
        state.queue.drain(..).map(|(item, _)| item).collect()
    }

    /// Lets [`Frames`] read from now on, or not.
    pub(super) fn set_open(&self, open: bool) {
        let mut state = self.lock();
        state.open = open;
        state.wake();
    }

    /// Nothing is queued after this; what waits is still read.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect(UNPOISONED)
    }
}

impl<T> State<T> {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Turns an item into bytes at the end of the buffer. Called once per item, as it leaves.
pub(super) type Encode<T> = Box<dyn FnMut(T, &mut BytesMut) + Send + Sync>;

/// The queue as a body: each piece is everything that waited, encoded. Ends when the queue is closed
/// and empty.
pub(super) struct Frames<T> {
    outbox: Arc<Outbox<T>>,
    encode: Encode<T>,
}

impl<T> Frames<T> {
    /// Reads this queue. There must be one reader at a time.
    pub(super) fn of(outbox: Arc<Outbox<T>>, encode: Encode<T>) -> Frames<T> {
        Frames { outbox, encode }
    }
}

impl<T> Stream for Frames<T> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut piece = BytesMut::new();
        while piece.len() < WRITE_BYTES {
            let item = {
                let mut state = this.outbox.lock();
                let next = if state.open { state.queue.pop_front() } else { None };
                match next {
                    Some((item, bytes)) => {
                        state.bytes -= bytes;
                        item
                    }
                    None if !piece.is_empty() => break,
                    None if state.closed => return Poll::Ready(None),
                    None => {
                        state.reader = Some(context.waker().clone());
                        return Poll::Pending;
                    }
                }
            };
            (this.encode)(item, &mut piece);
        }
        Poll::Ready(Some(Ok(piece.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    fn frames(outbox: &Arc<Outbox<u8>>) -> Frames<u8> {
        Frames::of(outbox.clone(), Box::new(|item, piece| piece.extend_from_slice(&[item])))
    }

    #[test]
    fn one_item_is_let_in_whatever_its_size_and_then_the_bounds_hold() {
        let outbox = Outbox::new(2, 10);
        assert_eq!(outbox.push(1, 100), Ok(()));
        assert_eq!(outbox.push(2, 1), Err(NotQueued::Full), "too many bytes");
        assert_eq!(outbox.pop(), Some(1));
        assert_eq!(outbox.push(3, 5), Ok(()));
        assert_eq!(outbox.push(4, 5), Ok(()));
        assert_eq!(outbox.push(5, 0), Err(NotQueued::Full), "too many items");
        outbox.close();
        assert_eq!(outbox.take_all(), [3, 4]);
        assert_eq!(outbox.push(6, 0), Err(NotQueued::Closed));
    }

    #[test]
    fn a_newer_item_takes_the_place_of_the_one_it_makes_useless() {
        let outbox = Outbox::new(2, 10);
        assert_eq!(outbox.push_newest(10, 1, |_| false), 0);
        assert_eq!(outbox.push_newest(20, 1, |_| false), 0);
        assert_eq!(outbox.push_newest(21, 1, |old| 20 <= *old), 0);
        assert_eq!(outbox.push_newest(30, 1, |_| false), 1, "the oldest makes room");
        assert_eq!(outbox.take_all(), [21, 30]);
    }

    #[tokio::test]
    async fn an_item_in_a_hurry_is_taken_only_where_it_leaves_at_once() {
        let outbox = Arc::new(Outbox::new(10, 10));
        assert_eq!(outbox.push_if_idle(1, 1), Err(1), "nobody reads yet");
        let mut frames = frames(&outbox);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(Pin::new(&mut frames).poll_next(&mut context), Poll::Pending);
        assert_eq!(outbox.push_if_idle(2, 1), Ok(()));
        assert_eq!(outbox.push_if_idle(3, 1), Err(3), "another one waits");
        assert_eq!(frames.next().await, Some(Ok(Bytes::from_static(&[2]))));
        assert_eq!(Pin::new(&mut frames).poll_next(&mut context), Poll::Pending);
        outbox.set_open(false);
        assert_eq!(outbox.push_if_idle(4, 1), Err(4), "the gate is shut");
    }

    #[tokio::test]
    async fn what_waits_together_leaves_in_one_piece_and_only_through_an_open_gate() {
        let outbox = Arc::new(Outbox::new(10, 10));
        outbox.set_open(false);
        outbox.push(1, 1).expect("there is room");
        outbox.push(2, 1).expect("there is room");
        let mut frames = frames(&outbox);
        let mut context = Context::from_waker(Waker::noop());
        let polled = Pin::new(&mut frames).poll_next(&mut context);
        assert_eq!(polled, Poll::Pending, "the gate is shut");
        outbox.set_open(true);
        assert_eq!(frames.next().await, Some(Ok(Bytes::from_static(&[1, 2]))));
        outbox.close();
        assert_eq!(frames.next().await, None);
    }
}
