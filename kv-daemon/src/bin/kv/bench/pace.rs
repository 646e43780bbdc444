//! When the next request begins. Nothing here knows what is asked.
//!
//! A closed loop begins one as soon as the one before it is answered: it shows the most that so many
//! clients can get. An open loop begins them at a rate, whatever comes back: a request has an intended
//! start, and its latency counts from there, also when every client was still busy with a slow one.
//! Without that, each long pause of a server would be seen by one request for each client only.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The longest sleep between two looks at whether somebody has stopped it.
const NAP: Duration = Duration::from_millis(100);

/// Hands out beginnings until the time is over.
pub struct Pace {
    begin: Instant,
    length: Duration,
    stopped: AtomicBool,
    mode: Mode,
}

enum Mode {
    Closed,
    Open(Open),
    /// So many, each once, as fast as they go.
    Count {
        next: AtomicU64,
        count: u64,
    },
}

struct Open {
    per_second: f64,
    /// A permit for each intended start that has come.
    due: Semaphore,
    released: AtomicU64,
    taken: AtomicU64,
}

/// A request may begin.
pub struct Turn {
    /// From when on its latency counts.
    pub begin: Instant,
    /// Its number, when they are counted.
    pub number: Option<u64>,
}

impl Pace {
    /// One after the other, for so long from now on.
    pub fn closed(length: Duration) -> Pace {
        Pace::new(length, Mode::Closed)
    }

    /// So many a second (above zero), for so long from now on. Somebody has to run [`Pace::drive`].
    pub fn open(per_second: f64, length: Duration) -> Pace {
        let due = Semaphore::new(0);
        let (released, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        Pace::new(length, Mode::Open(Open { per_second, due, released, taken }))
    }

    /// The numbers below `count`, each once, however long it takes.
    pub fn count(count: u64) -> Pace {
        Pace::new(Duration::MAX, Mode::Count { next: AtomicU64::new(0), count })
    }

    fn new(length: Duration, mode: Mode) -> Pace {
        Pace { begin: Instant::now(), length, stopped: AtomicBool::new(false), mode }
    }

    /// Waits for the next beginning; `None` when it is over.
    pub async fn next(&self) -> Option<Turn> {
        match &self.mode {
            Mode::Closed => {
                let now = Instant::now();
                let is_over = self.is_stopped() || self.length <= now - self.begin;
                (!is_over).then_some(Turn { begin: now, number: None })
            }
            Mode::Open(open) => {
                open.due.acquire().await.ok()?.forget();
                let number = open.taken.fetch_add(1, Ordering::Relaxed);
                Some(Turn { begin: self.begin + open.start_of(number), number: None })
            }
            Mode::Count { next, count } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let is_over = self.is_stopped() || *count <= number;
                (!is_over).then(|| Turn { begin: Instant::now(), number: Some(number) })
            }
        }
    }

    /// Ends it before its time.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Lets the starts of an open loop come, until its end; returns at once in the other modes. Runs
    /// on a thread of its own: an async timer is a millisecond late, a sleeping thread some 60 us.
    pub fn drive(&self) {
        let Mode::Open(open) = &self.mode else { return };
        loop {
            let since = self.begin.elapsed();
            // All that were to come are accounted for, also when this thread was late at the end.
            let due = match self.length <= since {
                true => (self.length.as_secs_f64() * open.per_second).ceil() as u64,
                false => (since.as_secs_f64() * open.per_second) as u64 + 1,
            };
            let released = open.released.swap(due, Ordering::Relaxed);
            open.due.add_permits(due.saturating_sub(released) as usize);
            if self.is_stopped() || self.length <= since {
                // Whoever waits is told that nothing more comes.
                return open.due.close();
            }
            let next = open.start_of(due).min(self.length);
            thread::sleep(next.saturating_sub(self.begin.elapsed()).min(NAP));
        }
    }

    /// Intended starts that came but that no client was free for before the end.
    pub fn missed(&self) -> u64 {
        let Mode::Open(open) = &self.mode else { return 0 };
        open.released.load(Ordering::Relaxed) - open.taken.load(Ordering::Relaxed)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl Open {
    fn start_of(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn each_number_comes_once() {
        let pace = Pace::count(3);
        let numbers = runtime().block_on(async {
            let mut numbers = Vec::new();
            while let Some(turn) = pace.next().await {
                numbers.push(turn.number);
            }
            numbers
        });
        assert_eq!(numbers, [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn an_open_loop_counts_from_the_intended_start_and_tells_what_it_missed() {
        let pace = Pace::open(100.0, Duration::from_millis(95));
        // Nobody takes anything while it runs: ten starts come, at 0, 10 ... 90 ms.
        pace.drive();
        assert_eq!(pace.missed(), 10);
        assert!(runtime().block_on(pace.next()).is_none(), "it is over");

        let pace = Pace::open(100.0, Duration::from_secs(3600));
        let Mode::Open(open) = &pace.mode else { unreachable!("made open") };
        open.due.add_permits(3);
        let begins = runtime().block_on(async {
            [pace.next().await, pace.next().await, pace.next().await]
                .map(|turn| turn.map(|turn| turn.begin - pace.begin))
        });
        assert_eq!(begins, [0, 10, 20].map(|millis| Some(Duration::from_millis(millis))));
    }

    #[test]
    fn a_stopped_pace_gives_out_nothing() {
        let pace = Pace::closed(Duration::from_secs(3600));
        assert!(runtime().block_on(pace.next()).is_some());
        pace.stop();
        assert!(runtime().block_on(pace.next()).is_none());
    }
}
