//! A tiny HTTP client on a bare socket, and nodes to ask: one in this process, or one of its own.
//! It sends exactly the bytes it is told, so tests can also send wrong ones.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Parser;
use kv_daemon::config::{Config, Flags};
use kv_daemon::run::Server;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long anything may take before a test gives up; never what a test measures.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    headers: BTreeMap<String, String>,
    /// The body, its chunks joined.
    pub body: Vec<u8>,
}

impl Reply {
    /// A header's value; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The part of a problem's type that tells its kind; the body must be a problem.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status, "{json}");
        for field in ["title", "detail", "node"] {
            assert!(!json[field].as_str().unwrap_or_default().is_empty(), "{field}: {json}");
        }
        let kind = json["type"].as_str().expect("a type");
        kind.strip_prefix("urn:kv:").expect("our own types").to_owned()
    }
}

/// A connection that stays open between requests.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn to(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        Client { stream, buffer: Vec::new() }
    }

    /// Sends these bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// One request with these header lines, and its response.
    pub fn request(&mut self, method: &str, target: &str, lines: &[&str], body: &[u8]) -> Reply {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\n");
        for line in lines {
            head.push_str(&format!("{line}\r\n"));
        }
        if !body.is_empty() || method == "PUT" || method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let sent = self.send(head.as_bytes()).and_then(|()| self.send(body));
        sent.unwrap_or_else(|error| panic!("{method} {target}: {error}"));
        self.reply(method == "HEAD").unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// Reads one response; `bare`: it has no body whatever its headers say.
    pub fn reply(&mut self, bare: bool) -> io::Result<Reply> {
        let end = loop {
            match self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more()?,
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).map(str::parse::<u16>);
        let Some(Ok(status)) = status else {
            return Err(io::Error::other(format!("no HTTP: {head}")));
        };
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let bare = bare || status == 204 || status == 304;
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let body = match length {
            _ if bare => Vec::new(),
            Some(length) => self.take(length)?,
            None if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") => {
                self.chunks()?
            }
            None => Vec::new(),
        };
        Ok(Reply { status, headers, body })
    }

    /// Whether the node closed the connection (waits for that).
    pub fn is_closed(&mut self) -> bool {
        self.more().is_err()
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match self.buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                    Some(end) => break end,
                    None => self.more()?,
                }
            };
            let line = self.take(end + 2)?;
            let size = std::str::from_utf8(&line[..end]).ok();
            let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
            let size = size.ok_or_else(|| io::Error::other("no chunk size"))?;
            body.extend(self.take(size)?);
            self.take(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&bytes[..read]);
                Ok(())
            }
        }
    }
}

/// A single node in this process, with its data in a folder that goes when it goes.
pub struct OneNode {
    runtime: Runtime,
    server: Option<Server>,
    flags: String,
    dir: TempDir,
}

impl OneNode {
    /// Starts it on any free port with these flags more.
    pub fn start(flags: &str) -> OneNode {
        OneNode::start_with(flags, |_| {})
    }

    /// As [`OneNode::start`], with settings that have no flag.
    pub fn start_with(flags: &str, set: impl FnOnce(&mut Config)) -> OneNode {
        let runtime = Runtime::new().expect("threads");
        let dir = TempDir::new().expect("a folder");
        let mut node = OneNode { runtime, server: None, flags: flags.to_owned(), dir };
        node.begin(set);
        node
    }

    /// Stops it well and starts it again on its data.
    pub fn restart(&mut self) {
        self.stop();
        self.begin(|_| {});
    }

    /// Stops it as a signal would.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().expect("it runs").address()
    }

    /// A new connection to it.
    pub fn client(&self) -> Client {
        Client::to(self.address())
    }

    /// One request on a new connection.
    pub fn ask(&self, method: &str, target: &str, lines: &[&str], body: &[u8]) -> Reply {
        self.client().request(method, target, lines, body)
    }

    /// `GET`.
    pub fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[], b"")
    }

    /// `PUT`.
    pub fn put(&self, target: &str, value: &[u8]) -> Reply {
        self.ask("PUT", target, &[], value)
    }

    fn begin(&mut self, set: impl FnOnce(&mut Config)) {
        let dir = self.dir.path().join("node").display().to_string();
        let args = ["kv-daemon", "--port", "0", "--id", "node1", "--data-dir", &dir];
        let args = args.into_iter().chain(self.flags.split_whitespace());
        let mut config = Config::from_flags(Flags::parse_from(args)).expect("good flags");
        set(&mut config);
        let server = self.runtime.block_on(Server::start(config));
        self.server = Some(server.unwrap_or_else(|exit| panic!("{exit:?}")));
        wait_until("the node is ready", || self.get("/readyz").status == 200);
    }
}

impl Drop for OneNode {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for what has to come.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: did not come to pass");
        std::thread::sleep(Duration::from_millis(10));
    }
}
