//! One HTTP exchange over connections that are kept for the next one. What matters here is to tell
//! the truth about a failure: whether nothing of the request can have left this process, or
//! something may have. Nothing is ever tried twice here once it may have been sent.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout_at;

use super::url::ServerUrl;
use crate::kv::request::VALUE_BYTES_MAX;
use crate::peers::connect::connect;

/// A connection that was not used for this long is not used again: the server closes its own after
/// 75 s, and a request that meets the closing would be a write of unknown fate.
const IDLE_MAX: Duration = Duration::from_secs(45);

/// Kept connections of one server; more are closed after use.
const KEPT_MAX: usize = 512;

/// The longest body that is read: the largest value there can be, and what JSON makes of it.
const BODY_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX as usize;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Headers beside `Host` and those that frame the body.
    pub headers: HeaderMap,
    /// The body; empty is none.
    pub body: Bytes,
}

impl Call {
    /// A request without headers or body.
    pub fn new(method: Method, target: impl Into<String>) -> Call {
        Call { method, target: target.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// `GET target`.
    pub fn get(target: impl Into<String>) -> Call {
        Call::new(Method::GET, target)
    }
}

/// What came back, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// A header as text; `None` when it is not there or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A header that holds a whole number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name).and_then(|value| value.parse().ok())
    }
}

/// Why nothing came back. The texts are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// No byte of the request can have reached the server.
    NothingSent(String),
    /// The server may have got the request.
    MaybeSent(String),
}

type Sender = http1::SendRequest<Full<Bytes>>;

/// The connections of one client.
#[derive(Debug, Default)]
pub struct Wire {
    /// By `host:port`; the one used last is at the end.
    kept: Mutex<HashMap<String, Vec<(Sender, Instant)>>>,
}

impl Wire {
    /// Sends `call` to `server` and reads the answer, until `deadline`.
    ///
    /// # Errors
    /// There is no answer; the error tells whether the server may have got the request.
    pub async fn exchange(
        &self,
        server: &ServerUrl,
        call: &Call,
        deadline: Instant,
    ) -> Result<Reply, Broken> {
        let late = || "no answer in time".to_owned();
        let mut request = Some(self.request(server, call).map_err(Broken::NothingSent)?);
        loop {
            let kept = self.take(server);
            let fresh = kept.is_none();
            let sender = match kept {
                Some(sender) => Ok(Ok(sender)),
                None => timeout_at(deadline.into(), open(server)).await,
            };
            let mut sender = match sender {
                Ok(Ok(sender)) => sender,
                Ok(Err(why)) => return Err(Broken::NothingSent(why)),
                Err(_) => return Err(Broken::NothingSent("no connection in time".to_owned())),
            };
            match timeout_at(deadline.into(), sender.ready()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) if !fresh => continue,
                Ok(Err(error)) => return Err(Broken::NothingSent(plain(&error))),
                Err(_) => return Err(Broken::NothingSent("no connection in time".to_owned())),
            }
            let sent = request.take().expect("a request that was not sent is put back");
            let answered = timeout_at(deadline.into(), sender.try_send_request(sent)).await;
            let response = match answered {
                Ok(Ok(response)) => response,
                Ok(Err(mut error)) => match error.take_message() {
                    // The connection had been closed before the first byte: a kept one may be, and
                    // the next one, at last a new one, takes its place.
                    Some(back) if !fresh => {
                        request = Some(back);
                        continue;
                    }
                    Some(_) => return Err(Broken::NothingSent(error.into_error().to_string())),
                    None => return Err(Broken::MaybeSent(plain(&error.into_error()))),
                },
                Err(_) => return Err(Broken::MaybeSent(late())),
            };
            let (head, body) = response.into_parts();
            let body = timeout_at(deadline.into(), Limited::new(body, BODY_BYTES_MAX).collect());
            let body = match body.await {
                Ok(Ok(body)) => body.to_bytes(),
                Ok(Err(error)) => return Err(Broken::MaybeSent(error.to_string())),
                Err(_) => return Err(Broken::MaybeSent(late())),
            };
            self.keep(server, sender);
            return Ok(Reply { status: head.status, headers: head.headers, body });
        }
    }

    fn request(&self, server: &ServerUrl, call: &Call) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.target.as_str())
            .header(hyper::header::HOST, server.authority())
            .body(Full::new(call.body.clone()))
            .map_err(|error| format!("no request can be made of this: {error}"))?;
        for (name, value) in &call.headers {
            request.headers_mut().append(name, value.clone());
        }
        Ok(request)
    }

    /// The kept connection used last that is young enough and not known to be closed.
    fn take(&self, server: &ServerUrl) -> Option<Sender> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let list = kept.get_mut(server.authority())?;
        while let Some((sender, since)) = list.pop() {
            if since.elapsed() < IDLE_MAX && !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, server: &ServerUrl, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let list = match kept.get_mut(server.authority()) {
            Some(list) => list,
            None => kept.entry(server.authority().to_owned()).or_default(),
        };
        if list.len() < KEPT_MAX {
            list.push((sender, Instant::now()));
        }
    }
}

async fn open(server: &ServerUrl) -> Result<Sender, String> {
    let stream = connect(server.authority()).await.map_err(|error| error.text)?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends when the sender is dropped or the server closes.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            log::debug!("a connection ended: {error}");
        }
    });
    Ok(sender)
}

fn plain(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() {
        return "the server closed the connection".to_owned();
    }
    error.to_string()
}
