//! Waking many tasks of one thread with one system call.
//!
//! A whole batch is answered at once, by another thread. To wake a task of another thread's runtime
//! costs a write to that runtime's event descriptor, each time. So what waits for an answer
//! ([`together`]) leaves its waker with the bell of its thread: the first of a batch rings it, and the thread then
//! wakes all of them by itself. Nothing here knows what is waited for.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

thread_local! {
    /// The bell of this thread, if it is one that serves connections.
    static BELL: RefCell<Option<Arc<Bell>>> = const { RefCell::new(None) };
}

/// Who is to be woken on one thread.
#[derive(Debug, Default)]
struct Bell {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    called: Vec<Waker>,
    /// The task that answers the bell, while it sleeps.
    ringer: Option<Waker>,
}

/// One task and the bell of its thread.
struct Ring {
    bell: Arc<Bell>,
    task: Waker,
}

/// See [`together`].
#[derive(Debug)]
pub struct Together<F> {
    inner: F,
    /// The task that polls this, and what wakes it by the bell.
    ring: Option<(Waker, Waker)>,
}

/// Gives this thread a bell and answers it for ever.
pub async fn answer() {
    let bell = Arc::new(Bell::default());
    BELL.set(Some(Arc::clone(&bell)));
    let mut called = Vec::new();
    poll_fn(|context| -> Poll<()> {
        loop {
            let mut state = bell.lock();
            if state.called.is_empty() {
                state.ringer = Some(context.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut state.called, &mut called);
            drop(state);
            called.drain(..).for_each(Waker::wake);
        }
    })
    .await;
}

/// As `inner`, but woken together with others that wait on the same thread; on a thread without a
/// bell there is no difference.
pub fn together<F: Future + Unpin>(inner: F) -> Together<F> {
    Together { inner, ring: None }
}

impl<F: Future + Unpin> Future for Together<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if this.ring.as_ref().is_none_or(|(task, _)| !task.will_wake(context.waker())) {
            let task = context.waker().clone();
            this.ring = BELL.with_borrow(|bell| {
                let ring = Ring { bell: Arc::clone(bell.as_ref()?), task: task.clone() };
                Some((task, Waker::from(Arc::new(ring))))
            });
        }
        match &this.ring {
            Some((_, ring)) => Pin::new(&mut this.inner).poll(&mut Context::from_waker(ring)),
            None => Pin::new(&mut this.inner).poll(context),
        }
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.bell.lock();
        state.called.push(self.task.clone());
        let ringer = state.ringer.take();
        drop(state);
        if let Some(ringer) = ringer {
            ringer.wake();
        }
    }
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use tokio::runtime::Builder;
    use tokio::sync::oneshot;
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn everyone_who_waits_is_woken_from_another_thread() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.spawn(answer());
        let ended = runtime.block_on(async {
            tokio::task::yield_now().await;
            let mut tasks = JoinSet::new();
            let mut senders = Vec::new();
            for _ in 0..100 {
                let (sender, receiver) = oneshot::channel();
                senders.push(sender);
                tasks.spawn(together(receiver));
            }
            tokio::task::yield_now().await;
            thread::spawn(move || senders.into_iter().for_each(|it| it.send(7).unwrap()));
            tasks.join_all().await
        });
        assert_eq!(ended, vec![Ok(7); 100]);
    }

    #[test]
    fn a_batch_rings_once() {
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (rung, woken) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let bell = Arc::new(Bell::default());
        bell.lock().ringer = Some(Waker::from(Arc::clone(&rung)));
        let task = Waker::from(Arc::clone(&woken));
        let ring = Waker::from(Arc::new(Ring { bell: Arc::clone(&bell), task }));
        (0..3).for_each(|_| ring.wake_by_ref());
        assert_eq!(rung.0.load(Ordering::SeqCst), 1);
        assert_eq!((bell.lock().called.len(), woken.0.load(Ordering::SeqCst)), (3, 0));
    }
}
