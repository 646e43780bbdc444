//! The least of an HTTP/1.1 client: one connection kept alive, and errors that tell whether any
//! byte of a request left. It never sends a request twice and follows nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long a node may be silent before a client gives it up, unless it says otherwise: longer than
/// any deadline the daemon sets itself.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to one node.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `PUT`.
    pub method: &'a str,
    /// The path and what follows `?`, already percent-encoded.
    pub target: &'a str,
    /// One `Name: value` each, beyond `Host` and the length of the body.
    pub headers: &'a [&'a str],
    /// The body, sent with its length.
    pub body: &'a [u8],
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// 200.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug)]
pub enum Failed {
    /// No connection came about: the node has not seen one byte.
    NothingSent(io::Error),
    /// The connection broke or fell silent after the request began to leave.
    Broken(io::Error),
}

impl<'a> Request<'a> {
    /// A request without headers or body.
    pub fn new(method: &'a str, target: &'a str) -> Request<'a> {
        Request { method, target, headers: &[], body: &[] }
    }

    /// `GET target`.
    pub fn get(target: &'a str) -> Request<'a> {
        Request::new("GET", target)
    }

    /// `PUT target` with this body.
    pub fn put(target: &'a str, body: &'a [u8]) -> Request<'a> {
        Request { body, ..Request::new("PUT", target) }
    }

    /// The same with headers.
    pub fn with(self, headers: &'a [&'a str]) -> Request<'a> {
        Request { headers, ..self }
    }
}

impl Connection {
    /// Connects to this port of 127.0.0.1. `patience` bounds every wait for the other side.
    pub fn open(port: u16, patience: Duration) -> io::Result<Connection> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    /// Sends a request and reads its response. After an error the connection is of no more use.
    pub fn call(&mut self, request: &Request<'_>) -> io::Result<Response> {
        let mut bytes = head(request.method, request.target, request.headers);
        bytes.extend(format!("Content-Length: {}\r\n\r\n", request.body.len()).bytes());
        bytes.extend_from_slice(request.body);
        let sent = self.stream.get_mut().write_all(&bytes);
        // A node may answer, and close, before it has taken the whole body: that answer counts.
        match (self.receive(request.method), sent) {
            (Ok(response), _) => Ok(response),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }

    /// Begins a request whose body follows by [`send_chunk`](Connection::send_chunk).
    pub fn begin_chunked(&mut self, method: &str, target: &str) -> io::Result<()> {
        let mut bytes = head(method, target, &[]);
        bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        self.stream.get_mut().write_all(&bytes)
    }

    /// Sends a piece of the body; an empty one ends it.
    pub fn send_chunk(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut bytes = format!("{:x}\r\n", piece.len()).into_bytes();
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
        self.stream.get_mut().write_all(&bytes)
    }

    /// Reads the response to a request with this method.
    pub fn receive(&mut self, method: &str) -> io::Result<Response> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.ok_or_else(|| malformed(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if method != "HEAD" && status != 204 && status != 304 {
            response.body = self.body(&response)?;
        }
        Ok(response)
    }

    /// Whether the node has closed its end while nothing was asked.
    pub fn is_closed(&self) -> bool {
        let stream = self.stream.get_ref();
        let unread = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        let open = matches!(&unread, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).is_err() || !open
    }

    fn body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line()?;
                let length = u64::from_str_radix(&line, 16).map_err(|_| malformed(&line))?;
                self.take(length, &mut body)?;
                self.line()?;
                if length == 0 {
                    return Ok(body);
                }
            }
        }
        let length = response.header("content-length").unwrap_or("0");
        self.take(length.parse().map_err(|_| malformed(length))?, &mut body)?;
        Ok(body)
    }

    fn take(&mut self, length: u64, into: &mut Vec<u8>) -> io::Result<()> {
        let read = (&mut self.stream).take(length).read_to_end(into)?;
        if read as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Response {
    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The store's revision that every response of a store carries.
    pub fn revision(&self) -> Option<u64> {
        self.header("kv-revision")?.parse().ok()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own.
pub fn once(port: u16, request: &Request<'_>) -> Result<Response, Failed> {
    let mut connection = Connection::open(port, PATIENCE).map_err(Failed::NothingSent)?;
    connection.call(request).map_err(Failed::Broken)
}

fn head(method: &str, target: &str, headers: &[&str]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
    for header in headers {
        head.extend_from_slice(header.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head
}

fn malformed(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {line:?}"))
}
