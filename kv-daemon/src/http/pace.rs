//! How long one connection may take for what: [`Pace`] notes what it is doing since when, and
//! [`Paced`] is its socket, which keeps the notes. Whether that is too long is told by
//! [`Pace::overdue`]; who closes the connection is the accept loop.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::config::HttpLimits;

/// No request under way.
const IDLE: u8 = 0;
/// The first bytes of a request are here, its headers not all.
const HEAD: u8 = 1;
/// A request is being read, answered or sent; body and answer have their own limits.
const BUSY: u8 = 2;
/// Everything is answered; what the client still sends is thrown away.
const LINGER: u8 = 3;

/// How long and for how many bytes a closing connection lingers: an answer that came before the
/// end of its request (413) would be destroyed on its way by closing a socket with unread bytes.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 4 << 20;

/// Not blocked.
const NEVER: u64 = u64::MAX;

/// What a connection is doing since when. Shared by its socket, its service and its task.
#[derive(Debug)]
pub struct Pace {
    origin: Instant,
    phase: AtomicU8,
    /// Milliseconds after `origin` at which the phase began.
    since: AtomicU64,
    /// Milliseconds after `origin` since which the client takes nothing, or [`NEVER`].
    blocked: AtomicU64,
    /// A request was refused and its body perhaps not read.
    left_over: AtomicBool,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// No request came.
    Idle,
    /// The headers did not come to an end.
    Head,
    /// The client took nothing of its answer.
    Write,
    /// The client sent on after its last answer.
    Linger,
}

impl Pace {
    /// Of a connection that was just accepted.
    pub fn new() -> Arc<Pace> {
        Arc::new(Pace {
            origin: Instant::now(),
            phase: AtomicU8::new(IDLE),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(NEVER),
            left_over: AtomicBool::new(false),
        })
    }

    /// The headers of a request are complete.
    pub fn request_begins(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// A request was answered perhaps before its body was read.
    pub fn body_may_be_left(&self) {
        self.left_over.store(true, Ordering::Relaxed);
    }

    /// Its answer is handed to the socket to the last byte (or given up).
    pub fn request_ends(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    /// What has lasted too long, if anything.
    pub fn overdue(&self, limits: &HttpLimits) -> Option<Overdue> {
        let past = |since: u64, limit: Duration| {
            since != NEVER && limit < Duration::from_millis(self.now().saturating_sub(since))
        };
        let since = self.since.load(Ordering::Relaxed);
        if past(self.blocked.load(Ordering::Relaxed), limits.write_timeout) {
            return Some(Overdue::Write);
        }
        match self.phase.load(Ordering::Relaxed) {
            IDLE if past(since, limits.idle_timeout) => Some(Overdue::Idle),
            HEAD if past(since, limits.head_timeout) => Some(Overdue::Head),
            LINGER if past(since, LINGER_TIMEOUT) => Some(Overdue::Linger),
            _ => None,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    fn bytes_came(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            self.since.store(self.now(), Ordering::Relaxed);
            self.phase.store(HEAD, Ordering::Relaxed);
        }
    }

    fn write_ended<T>(&self, result: &Poll<T>) {
        match (result.is_pending(), self.blocked.load(Ordering::Relaxed)) {
            (true, NEVER) => self.blocked.store(self.now(), Ordering::Relaxed),
            (true, _) | (false, NEVER) => {}
            (false, _) => self.blocked.store(NEVER, Ordering::Relaxed),
        }
    }
}

/// A socket that notes its progress.
#[derive(Debug)]
pub struct Paced {
    stream: TcpStream,
    pace: Arc<Pace>,
    discarded: usize,
}

impl Paced {
    /// Notes what happens on `stream` in `pace`.
    pub fn new(stream: TcpStream, pace: Arc<Pace>) -> Paced {
        Paced { stream, pace, discarded: 0 }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if before < buf.filled().len() {
            self.pace.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.pace.write_ended(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.pace.write_ended(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        if !self.pace.left_over.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        if self.pace.phase.swap(LINGER, Ordering::Relaxed) != LINGER {
            self.pace.since.store(self.pace.now(), Ordering::Relaxed);
        }
        let mut scratch = [0; 4096];
        while self.discarded < LINGER_BYTES_MAX {
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                break;
            }
            self.discarded += buf.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits that every connection has already broken, and limits that none ever will.
    fn limits(every: Duration) -> HttpLimits {
        HttpLimits {
            head_timeout: every,
            idle_timeout: every,
            write_timeout: every,
            ..HttpLimits::default()
        }
    }

    #[test]
    fn each_phase_has_its_own_limit() {
        let (none, ages) = (limits(Duration::ZERO), limits(Duration::from_secs(3600)));
        let mut pace = Pace::new();
        Arc::get_mut(&mut pace).unwrap().origin -= Duration::from_secs(60);

        assert_eq!(pace.overdue(&none), Some(Overdue::Idle));
        assert_eq!(pace.overdue(&ages), None);
        pace.phase.store(HEAD, Ordering::Relaxed);
        assert_eq!(pace.overdue(&none), Some(Overdue::Head));
        pace.request_begins();
        assert_eq!(pace.overdue(&none), None, "a request has limits of its own");
        pace.blocked.store(0, Ordering::Relaxed);
        assert_eq!(pace.overdue(&none), Some(Overdue::Write));
        pace.write_ended(&Poll::Ready(()));
        assert_eq!(pace.overdue(&none), None);
    }

    #[test]
    fn trickling_bytes_do_not_extend_the_head() {
        let mut pace = Pace::new();
        Arc::get_mut(&mut pace).unwrap().origin -= Duration::from_secs(60);
        pace.bytes_came();
        let begun = pace.since.load(Ordering::Relaxed);
        Arc::get_mut(&mut pace).unwrap().origin -= Duration::from_secs(60);
        pace.bytes_came();
        assert_eq!(pace.since.load(Ordering::Relaxed), begun);
    }
}
