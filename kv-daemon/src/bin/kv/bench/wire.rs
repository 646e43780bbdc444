//! One connection of the benchmark: whole requests out, answers in, one at a time.
//!
//! Not the client library, because what is measured is the server: here a request is bytes made
//! beforehand, of which only the digits of the key change, and an answer is read no further than it
//! has to be. Nothing is tried again, nothing is redirected.

use std::io;

use kv_daemon::client::ServerUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of a key: those before its number, and the number.
pub const KEY_BYTES: usize = KEY_PREFIX.len() + DIGITS;
const KEY_PREFIX: &str = "bench/";
const DIGITS: usize = 10;

/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A request for any key, as it goes to one server.
pub struct Request {
    bytes: Vec<u8>,
    digits_at: usize,
}

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// What the server calls the problem, `no-leader` and the like; empty when it is none.
    pub problem: String,
}

/// A connection to one server.
pub struct Connection {
    stream: TcpStream,
    inbox: Vec<u8>,
}

/// The bytes of key `number`, below 10^10.
pub fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let (prefix, digits) = key.split_at_mut(KEY_PREFIX.len());
    prefix.copy_from_slice(KEY_PREFIX.as_bytes());
    write_digits(number, digits);
    key
}

impl Request {
    /// Writes `value`.
    pub fn put(server: &ServerUrl, value: &[u8]) -> Request {
        let length = format!("Content-Length: {}\r\n", value.len());
        Request::new("PUT", server, "", &length, value)
    }

    /// Reads; `query` is empty or begins with `?`.
    pub fn get(server: &ServerUrl, query: &str) -> Request {
        Request::new("GET", server, query, "", b"")
    }

    fn new(method: &str, server: &ServerUrl, query: &str, headers: &str, body: &[u8]) -> Request {
        let mut bytes = format!("{method} /kv/{KEY_PREFIX}").into_bytes();
        let digits_at = bytes.len();
        bytes.extend_from_slice(&[b'0'; DIGITS]);
        let host = server.authority();
        let rest = format!("{query} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        bytes.extend_from_slice(rest.as_bytes());
        bytes.extend_from_slice(body);
        Request { bytes, digits_at }
    }

    /// The request for key `number`.
    pub fn of(&mut self, number: u64) -> &[u8] {
        let digits = self.digits_at..self.digits_at + DIGITS;
        write_digits(number, &mut self.bytes[digits]);
        &self.bytes
    }
}

impl Connection {
    /// Connects.
    pub async fn open(server: &ServerUrl) -> io::Result<Connection> {
        let stream = TcpStream::connect(server.authority()).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, inbox: Vec::with_capacity(4096) })
    }

    /// Sends a request and takes its answer. After an error the connection is of no more use.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.inbox.clear();
        loop {
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(head_bytes) = head_bytes(&self.inbox)? {
                return self.rest(head_bytes).await;
            }
        }
    }

    /// The head is there: waits for the body.
    async fn rest(&mut self, head_bytes: usize) -> io::Result<Answer> {
        let head = Head::parse(&self.inbox[..head_bytes])?;
        while self.inbox.len() < head_bytes + head.body_bytes {
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let is_problem = 400 <= head.status && head.status != 404;
        let problem = if is_problem { problem(&self.inbox[head_bytes..]) } else { String::new() };
        Ok(Answer { status: head.status, problem })
    }
}

/// What of an answer's head tells where it ends and how it went.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    body_bytes: usize,
}

impl Head {
    fn parse(head: &[u8]) -> io::Result<Head> {
        let status = head.get(9..12).and_then(number).ok_or_else(|| strange("no status"))?;
        let mut body_bytes = None;
        for line in head.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                body_bytes = Some(number(value).ok_or_else(|| strange("no length"))?);
            }
        }
        let has_no_body = status == 204 || status == 304;
        let body_bytes = if has_no_body { Some(0) } else { body_bytes };
        let body_bytes = body_bytes.ok_or_else(|| strange("an answer of unknown length"))?;
        let status = u16::try_from(status).map_err(|_| strange("no status"))?;
        Ok(Head { status, body_bytes })
    }
}

/// Where the head ends; `None` when more of it has to come.
fn head_bytes(inbox: &[u8]) -> io::Result<Option<usize>> {
    match inbox.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(at) => Ok(Some(at + 4)),
        None if HEAD_BYTES_MAX < inbox.len() => Err(strange("a head without end")),
        None => Ok(None),
    }
}

/// What follows `urn:kv:` in a problem's `type`.
fn problem(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let r#type = parsed.as_ref().and_then(|problem| problem["type"].as_str());
    r#type.map_or_else(String::new, |text| text.trim_start_matches("urn:kv:").to_owned())
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn write_digits(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_made_once_and_only_its_key_changes() {
        let server: ServerUrl = "127.0.0.1:8001".parse().unwrap();
        let mut put = Request::put(&server, b"blue");
        let text = |number: u64| {
            format!(
                "PUT /kv/bench/{number:010} HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nContent-Length: \
                 4\r\n\r\nblue"
            )
        };
        assert_eq!(put.of(17), text(17).as_bytes());
        assert_eq!(put.of(9_999_999_999), text(9_999_999_999).as_bytes());
        assert_eq!(&key(17), b"bench/0000000017");
        let mut get = Request::get(&server, "?consistency=stale");
        let text = get.of(3);
        assert!(text.starts_with(b"GET /kv/bench/0000000003?consistency=stale HTTP/1.1\r\n"));
        assert!(text.ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let head = |text: &str| Head::parse(text.as_bytes()).map_err(|error| error.to_string());
        let ok = Head { status: 200, body_bytes: 12 };
        assert_eq!(head("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n"), Ok(ok));
        let none = Head { status: 204, body_bytes: 0 };
        assert_eq!(head("HTTP/1.1 204 No Content\r\nETag: \"1\"\r\n\r\n"), Ok(none));
        assert!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(head("SSH-2.0-OpenSSH\r\n\r\n").is_err());
        assert!(head("\r\n\r\n").is_err());

        assert_eq!(head_bytes(b"HTTP/1.1 200 OK\r\n\r").unwrap(), None);
        assert_eq!(head_bytes(b"HTTP/1.1 200 OK\r\n\r\nbody").unwrap(), Some(19));
        assert!(head_bytes(&[b'x'; HEAD_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_problem_is_called_what_the_server_calls_it() {
        assert_eq!(problem(br#"{"type":"urn:kv:no-leader","status":503}"#), "no-leader");
        assert_eq!(problem(b"<html>"), "");
    }
}
