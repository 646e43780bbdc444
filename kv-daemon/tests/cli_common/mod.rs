//! What the tests of the client share: a server that answers as it is told, and a way to run `kv`.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// A request, read to its end.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Asked {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A header's value; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What a server does with a request.
pub enum Do {
    /// Status, header lines, body.
    Answer(u16, Vec<String>, String),
    /// As `Answer`, and the connection is closed without a word of it.
    AnswerAndClose(u16, Vec<String>, String),
    /// The connection is closed without an answer.
    Close,
    /// No answer, while the client waits.
    Silence,
}

/// An answer without headers.
pub fn answer(status: u16, body: impl Into<String>) -> Do {
    Do::Answer(status, Vec::new(), body.into())
}

/// The answer to a `PUT`.
pub fn put_answer() -> Do {
    answer(201, r#"{"key":"k","revision":7,"version":1,"created":true}"#)
}

/// The answer to a `GET` of a key.
pub fn get_answer(value: &str) -> Do {
    let headers = ["etag: \"7\"", "kv-create-revision: 1", "kv-version: 3"];
    Do::Answer(200, headers.map(str::to_owned).to_vec(), value.to_owned())
}

/// A problem as the daemon writes it.
pub fn problem(status: u16, kind: &str, outcome: Option<&str>) -> Do {
    let outcome = outcome.map_or(String::new(), |it| format!(",\"outcome\":\"{it}\""));
    answer(status, format!("{{\"type\":\"urn:kv:{kind}\",\"title\":\"{kind}\"{outcome}}}"))
}

/// A server on a port of its own, whose answers a function gives. It ends with the process.
pub struct Fake {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Answers each request by `answers`, which is also told how many requests to the same path came
    /// before it.
    pub fn start(answers: impl Fn(&Asked, usize) -> Do + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answers) = (Arc::clone(&asked), Arc::new(answers));
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
                let stream = stream.expect("a connection");
                std::thread::spawn(move || serve(stream, connection, &log, &*answers));
            }
        });
        Fake { address, asked }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked of this path (without its query).
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().filter(|asked| asked.path() == path).cloned().collect()
    }
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    log: &Mutex<Vec<Asked>>,
    answers: &(dyn Fn(&Asked, usize) -> Do + Send + Sync),
) {
    while let Some(asked) = read(&mut stream, connection) {
        let before = {
            let mut log = log.lock().expect("no panic");
            let before = log.iter().filter(|other| other.path() == asked.path()).count();
            log.push(asked.clone());
            before
        };
        let (status, headers, body, closes) = match answers(&asked, before) {
            Do::Answer(status, headers, body) => (status, headers, body, false),
            Do::AnswerAndClose(status, headers, body) => (status, headers, body, true),
            Do::Close => return,
            Do::Silence => loop {
                std::thread::park();
            },
        };
        let mut text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
        for line in headers {
            text += &format!("{line}\r\n");
        }
        if stream.write_all(format!("{text}\r\n{body}").as_bytes()).is_err() || closes {
            return;
        }
    }
}

fn read(stream: &mut TcpStream, connection: usize) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
        let mut more = [0; 4096];
        match stream.read(&mut more) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&more[..read]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("headers are text");
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ').map(str::to_owned);
    let (method, target) = (first.next()?, first.next()?);
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |it| it.parse().expect("a length"));
    let mut body = bytes[end..].to_vec();
    let have = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[have..]).ok()?;
    Some(Asked { method, target, headers, body, connection })
}

/// A port on which nobody listens.
pub fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address")
}

/// How a run of `kv` ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// `kv` with nothing of the environment but what is needed to run.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// Runs `kv` to its end.
pub fn kv(args: &[&str]) -> Ran {
    ran(command(args).output().expect("it runs"))
}

/// Runs `kv` with something on its stdin.
pub fn kv_with_stdin(args: &[&str], stdin: &[u8]) -> Ran {
    let mut command = command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    child.stdin.take().expect("a pipe").write_all(stdin).expect("it reads");
    ran(child.wait_with_output().expect("it ends"))
}

fn ran(output: Output) -> Ran {
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { code: output.status.code(), out: output.stdout, err }
}
