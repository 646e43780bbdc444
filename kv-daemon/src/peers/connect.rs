//! Opening a connection to `host:port`: every address the name stands for is tried.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Body, Frame};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::outbox::Frames;

/// How long one address may take to answer a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A request body of ours, whole or endless.
pub(super) type RequestBody = BoxBody<Bytes, std::convert::Infallible>;
/// The asking end of an open HTTP/1.1 connection.
pub(super) type Sender = hyper::client::conn::http1::SendRequest<RequestBody>;
/// The moving part of an open connection; nothing happens unless it is polled.
pub(super) type Connection =
    hyper::client::conn::http1::Connection<TokioIo<TcpStream>, RequestBody>;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct ConnectError {
    /// Every address there is refused: nobody listens there.
    pub(super) refused_everywhere: bool,
    /// For people.
    pub(crate) text: String,
}

/// Connects to the first address behind `host:port` that answers.
pub(crate) async fn connect(address: &str) -> Result<TcpStream, ConnectError> {
    let found = timeout(CONNECT_TIMEOUT, lookup_host(address)).await;
    let candidates = match found {
        Ok(Ok(candidates)) => candidates,
        Ok(Err(error)) => return Err(unknown(address, &error.to_string())),
        Err(_) => return Err(unknown(address, "no answer in time")),
    };
    let mut refused_everywhere = true;
    let mut last = None;
    for candidate in candidates {
        let error = match timeout(CONNECT_TIMEOUT, TcpStream::connect(candidate)).await {
            Ok(Ok(stream)) => {
                // Messages are small and each one counts: never wait to fill a packet.
                stream.set_nodelay(true).map_err(|error| unknown(address, &error.to_string()))?;
                return Ok(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                io::Error::new(io::ErrorKind::TimedOut, "no answer to the connection attempt")
            }
        };
        refused_everywhere &= error.kind() == io::ErrorKind::ConnectionRefused;
        last = Some(error);
    }
    match last {
        Some(error) => Err(ConnectError { refused_everywhere, text: plain(&error) }),
        None => Err(unknown(address, "the name stands for no address")),
    }
}

/// Speaks HTTP/1.1 on a fresh connection.
pub(super) async fn handshake(stream: TcpStream) -> Result<(Sender, Connection), ConnectError> {
    hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError { refused_everywhere: false, text: error.to_string() })
}

/// A whole body.
pub(super) fn whole(bytes: Bytes) -> RequestBody {
    http_body_util::Full::new(bytes).boxed()
}

/// A body that goes on as long as its queue does.
pub(super) fn endless<T: Send + 'static>(frames: Frames<T>) -> RequestBody {
    BodyExt::boxed(StreamBody::new(frames.map(|piece| piece.map(Frame::data))))
}

/// Reads a whole body of at most `bytes_max` bytes.
pub(super) async fn collect<B>(body: B, bytes_max: usize) -> Result<Bytes, String>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = Limited::new(body, bytes_max).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
}

fn unknown(address: &str, why: &str) -> ConnectError {
    ConnectError { refused_everywhere: false, text: format!("cannot look up {address}: {why}") }
}

/// `connection refused` rather than `Connection refused (os error 111)`.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "no answer to the connection attempt".to_owned(),
        _ => error.to_string(),
    }
}
