//! The accept loop: every connection gets no-delay, its limits and its end. warp answers the
//! requests; its own runner is not used because it sets no timer, no no-delay and panics when a
//! port is taken. Nothing here knows what a request means.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use warp::http::{Request, Response};

use super::pace::{Pace, Paced};
use super::workers::Workers;
use crate::config::HttpLimits;

/// What a client over the connection limit is told before it is closed.
const FULL: &str = "{\"type\":\"urn:kv:connections\",\"title\":\"too many connections\",\
\"status\":503,\"detail\":\"Close idle connections or try again in a second.\",\
\"outcome\":\"not_applied\",\"retry_after_ms\":1000}\n";

/// What answers requests: warp's filters, as a hyper service.
pub trait Answers<B>:
    Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> Answers<B> for S where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The body of an answer.
pub trait AnswerBody:
    Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static
{
}

impl<B> AnswerBody for B where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static
{
}

/// The listening socket's task. Dropping it ends everything at once; [`Accepting::stop`]
/// and [`Accepting::ended`] end it well.
#[derive(Debug)]
pub struct Accepting {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// Takes the first address of `host` that can be listened on.
///
/// # Errors
/// Of the last address tried; `AddrInUse` when another process has the port.
pub async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let bare = host.trim_matches(['[', ']']);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((bare, port)).await? {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Accepting {
    /// Answers every request on `listener` with `service`, on `workers`, until stopped.
    pub fn start<S, B>(
        listener: TcpListener,
        limits: HttpLimits,
        workers: Workers,
        service: S,
    ) -> Accepting
    where
        S: Answers<B>,
        B: AnswerBody,
    {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, limits, workers, service, stopped));
        Accepting { stop, task }
    }

    /// Stops accepting and closes idle connections; requests under way go on.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }

    /// Waits until the last connection has ended; after `patience` the rest is cut off.
    pub async fn ended(mut self, patience: Duration) {
        self.stop();
        if tokio::time::timeout(patience, &mut self.task).await.is_err() {
            log::info!("cutting off connections that did not end in {patience:?}");
        }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<S, B>(
    listener: TcpListener,
    limits: HttpLimits,
    workers: Workers,
    service: S,
    mut stopped: watch::Receiver<bool>,
) where
    S: Answers<B>,
    B: AnswerBody,
{
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    let mut full = false;
    let stopping = stopped.clone();
    loop {
        let (stream, from) = tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or the client is gone already: not worth a busy loop.
                    log::warn!("accepting a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if !full {
                log::warn!("{} connections are open: turning others away", limits.connections_max);
            }
            full = true;
            refuse(stream);
            continue;
        };
        full = false;
        // Its thread is to be woken by it, not this one.
        let Ok(stream) = stream.into_std() else { continue };
        let (limits, service, stopping) = (limits.clone(), service.clone(), stopping.clone());
        workers.spawn(&mut connections, async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                serve(stream, from, &limits, service, stopping).await;
            }
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Says that we are full, if the socket takes it at once: nobody waits for a client turned away.
fn refuse(stream: TcpStream) {
    let _ = stream.try_write(
        format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
             retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{FULL}",
            FULL.len()
        )
        .as_bytes(),
    );
}

/// One connection from its first byte to its last.
async fn serve<S, B>(
    stream: TcpStream,
    from: SocketAddr,
    limits: &HttpLimits,
    service: S,
    mut stopping: watch::Receiver<bool>,
) where
    S: Answers<B>,
    B: AnswerBody,
{
    let _ = stream.set_nodelay(true);
    let pace = Pace::new();
    let service = service_fn(|request: Request<Incoming>| {
        pace.request_begins();
        let ends = Ends(Arc::clone(&pace));
        let has_body = !request.body().is_end_stream();
        let answer = service.call(request);
        let pace = &pace;
        async move {
            let response = answer.await?;
            // An error may have been told before the body was read.
            if has_body && response.status().as_u16() >= 400 {
                pace.body_may_be_left();
            }
            Ok::<_, Infallible>(response.map(|body| Tail { body, _ends: ends }))
        }
    });
    let io = TokioIo::new(Paced::new(stream, Arc::clone(&pace)));
    let connection = http1::Builder::new()
        // Our own clock tells waiting for a request from waiting for the rest of its headers.
        .header_read_timeout(None)
        .max_header_size(limits.head_bytes_max)
        .max_buf_size(limits.head_bytes_max.max(128 << 10))
        .pipeline_flush(true)
        // A client may close its sending side and still gets its answer. It also spares a read per
        // request, whose only use is to notice a client that is gone before its answer.
        .half_close(true)
        .serve_connection(io, service);

    let mut connection = std::pin::pin!(connection);

    // Limits are looked at this often, so each may be overstayed by so much.
    let every = limits.head_timeout.min(limits.idle_timeout).min(limits.write_timeout) / 4;
    let mut look = tokio::time::interval(every.max(Duration::from_millis(10)));
    let mut asked_to_stop = *stopping.borrow();
    if asked_to_stop {
        connection.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    log::debug!("connection from {from}: {error}");
                }
                return;
            }
            _ = stopping.changed(), if !asked_to_stop => {
                asked_to_stop = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {
                if let Some(what) = pace.overdue(limits) {
                    log::debug!("connection from {from}: closed, too slow ({what:?})");
                    return;
                }
            }
        }
    }
}

/// Ends the request in the pace when the answer's last byte is handed over, or it is given up.
struct Ends(Arc<Pace>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.request_ends();
    }
}

/// A body that knows when it is gone.
struct Tail<B> {
    body: B,
    _ends: Ends,
}

impl<B: AnswerBody> Body for Tail<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
