//! A [`Ticket`] for an answer that comes later from another thread: to be waited on or awaited,
//! without any async runtime. Every ticket ends: when the answering side is dropped, the ticket
//! gets the answer that was named for that case.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::lock;

/// The asker's side of an answer to come. Dropping it is allowed; what was asked goes on.
#[must_use = "a ticket is the only way to learn the answer"]
pub struct Ticket<T> {
    slot: Arc<Slot<T>>,
}

/// The answering side.
pub(crate) struct Answerer<T> {
    /// `None` after the answer.
    slot: Option<Arc<Slot<T>>>,
    /// The answer if this side is dropped without one.
    abandoned: fn() -> T,
}

struct Slot<T> {
    state: Mutex<State<T>>,
    answered: Condvar,
}

struct State<T> {
    answer: Option<T>,
    /// Set once an answer was given; stays when the answer has been taken.
    done: bool,
    waker: Option<Waker>,
    /// A thread sleeps on the condition variable: without one, an answer costs no system call.
    sleeper: bool,
}

/// A ticket and the side that answers it; `abandoned` answers when that side is dropped.
pub(crate) fn ticket<T>(abandoned: fn() -> T) -> (Answerer<T>, Ticket<T>) {
    let state = State { answer: None, done: false, waker: None, sleeper: false };
    let slot = Arc::new(Slot { state: Mutex::new(state), answered: Condvar::new() });
    (Answerer { slot: Some(Arc::clone(&slot)), abandoned }, Ticket { slot })
}

impl<T> Answerer<T> {
    /// Gives the answer and wakes who waits for it.
    pub(crate) fn answer(mut self, answer: T) {
        self.settle(answer);
    }

    fn settle(&mut self, answer: T) {
        let Some(slot) = self.slot.take() else { return };
        let mut state = lock(&slot.state);
        state.answer = Some(answer);
        state.done = true;
        let waker = state.waker.take();
        let sleeper = state.sleeper;
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if sleeper {
            slot.answered.notify_one();
        }
    }
}

impl<T> Drop for Answerer<T> {
    fn drop(&mut self) {
        if self.slot.is_some() {
            let answer = (self.abandoned)();
            self.settle(answer);
        }
    }
}

impl<T> Ticket<T> {
    /// Blocks until the answer is there.
    ///
    /// # Panics
    /// When the answer was taken before, by [`wait_timeout`](Ticket::wait_timeout) or `await`.
    pub fn wait(mut self) -> T {
        self.sleep(None).expect("a sleep without an end returns an answer")
    }

    /// Blocks until the answer is there, at most this long. `None`: not yet, ask again.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn wait_timeout(&mut self, at_most: Duration) -> Option<T> {
        // A wait too long for the clock is one without an end.
        self.sleep(Instant::now().checked_add(at_most))
    }

    fn sleep(&mut self, until: Option<Instant>) -> Option<T> {
        let mut state = lock(&self.slot.state);
        loop {
            if let Some(answer) = state.take() {
                return Some(answer);
            }
            state.sleeper = true;
            state = match until {
                None => super::wait(&self.slot.answered, state),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        state.sleeper = false;
                        return None;
                    }
                    super::wait_timeout(&self.slot.answered, state, left)
                }
            };
            state.sleeper = false;
        }
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<T> {
        let answer = self.answer.take();
        assert!(answer.is_some() || !self.done, "the answer of a ticket was asked for twice");
        answer
    }
}

impl<T> Future for Ticket<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.slot.state);
        if let Some(answer) = state.take() {
            return Poll::Ready(answer);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if lock(&self.slot.state).done { "answered" } else { "waiting" };
        write!(f, "Ticket({state})")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::thread;

    use super::*;

    #[derive(Default)]
    struct CountWakes(AtomicUsize);

    impl Wake for CountWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_waiting_thread_gets_the_answer() {
        let (answerer, ticket) = ticket(|| 0);
        let waiter = thread::spawn(move || ticket.wait());
        answerer.answer(7);
        assert_eq!(waiter.join().unwrap(), 7);
    }

    #[test]
    fn a_short_wait_ends_without_an_answer_and_can_be_repeated() {
        let (answerer, mut ticket) = ticket(|| 0);
        assert_eq!(ticket.wait_timeout(Duration::ZERO), None);
        assert_eq!(ticket.wait_timeout(Duration::from_millis(1)), None);
        answerer.answer(7);
        assert_eq!(ticket.wait_timeout(Duration::ZERO), Some(7));
    }

    #[test]
    fn a_polled_ticket_wakes_its_last_poller_once() {
        let (answerer, mut ticket) = ticket(|| 0);
        let wakes = Arc::new(CountWakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        assert_eq!(Pin::new(&mut ticket).poll(&mut context), Poll::Pending);
        assert_eq!(Pin::new(&mut ticket).poll(&mut context), Poll::Pending);
        answerer.answer(7);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(Pin::new(&mut ticket).poll(&mut context), Poll::Ready(7));
    }

    #[test]
    fn a_dropped_answerer_still_answers() {
        let (answerer, ticket) = ticket(|| 13);
        drop(answerer);
        assert_eq!(ticket.wait(), 13);
    }

    #[test]
    fn nobody_has_to_wait_for_an_answer() {
        let (answerer, ticket) = ticket(|| 0);
        drop(ticket);
        answerer.answer(7);
    }

    #[test]
    #[should_panic(expected = "asked for twice")]
    fn an_answer_is_given_once() {
        let (answerer, mut ticket) = ticket(|| 0);
        answerer.answer(7);
        assert_eq!(ticket.wait_timeout(Duration::ZERO), Some(7));
        ticket.wait();
    }
}
