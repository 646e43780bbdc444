//! Clients that write and read at all nodes while a test breaks things, and write down what they
//! were told. They take every answer as it comes: only the checker judges.
//!
//! Each client is a thread with one connection to each node, kept alive. It never sends a request
//! twice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::history::{Event, Fate, Key, Operation, Saw};
use super::http::{self, Connection, Failed, Request, Response};
use super::random::Random;
use super::{LIMIT, checker, wait_for};

/// Clients of each kind. They are few: a machine that is busy with clients holds elections late.
const WRITERS: usize = 4;
const READERS: usize = 3;
const RAISERS: usize = 2;
/// Keys a writer works on at a time.
const KEYS: usize = 4;
/// A client rests about this long between two requests.
const REST: Duration = Duration::from_millis(2);

const COUNTER: &str = "/kv/counter";

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

struct Shared {
    ports: Vec<u16>,
    patience: Duration,
    /// When the clock of the history began.
    origin: Instant,
    stop: AtomicBool,
    /// How many keys each writer has begun to use.
    serials: Vec<AtomicUsize>,
    watch: Mutex<Watch>,
    acknowledged: Condvar,
}

/// Looks out for the first acknowledgement of a write that began after a moment.
#[derive(Default)]
struct Watch {
    since: Option<Instant>,
    first: Option<Instant>,
}

/// One client: its connections and what it was told.
struct Client {
    shared: Arc<Shared>,
    random: Random,
    node: usize,
    connections: Vec<Option<Connection>>,
    history: Vec<Operation>,
}

impl Load {
    /// Starts the clients of a cluster's one load. They write below `/kv/load/` and to
    /// `/kv/counter`.
    pub fn start(ports: &[u16]) -> Load {
        Load::start_with(ports, http::PATIENCE)
    }

    /// The same with clients that give a node up when it is silent for so long.
    pub fn start_with(ports: &[u16], patience: Duration) -> Load {
        let shared = Arc::new(Shared {
            ports: ports.to_vec(),
            patience,
            origin: Instant::now(),
            stop: AtomicBool::new(false),
            serials: (0..WRITERS).map(|_| AtomicUsize::new(0)).collect(),
            watch: Mutex::default(),
            acknowledged: Condvar::new(),
        });
        let client = |seed: usize, work: fn(&mut Client, usize)| {
            let mut client = Client::new(&shared, seed);
            std::thread::spawn(move || {
                work(&mut client, seed);
                client.history
            })
        };
        let writers = (0..WRITERS).map(|i| client(i, Client::write_on));
        let readers = (0..READERS).map(|i| client(100 + i, Client::read_on));
        let raisers = (0..RAISERS).map(|i| client(200 + i, Client::raise_on));
        let clients = writers.chain(readers).chain(raisers).collect();
        let load = Load { shared: Arc::clone(&shared), clients };
        load.wait_acknowledged();
        load
    }

    /// Waits until a write that begins from now on is acknowledged. When that was.
    pub fn wait_acknowledged(&self) -> Instant {
        let mut watch = self.shared.watch.lock().unwrap();
        *watch = Watch { since: Some(Instant::now()), first: None };
        let waits = |watch: &mut Watch| watch.first.is_none();
        let waited = self.shared.acknowledged.wait_timeout_while(watch, LIMIT, waits);
        let (mut watch, _) = waited.unwrap();
        watch.since = None;
        watch.first.take().unwrap_or_else(|| panic!("no write was acknowledged within {LIMIT:?}"))
    }

    /// Ends the clients, reads every key once more at every node, and gives out the whole history.
    /// All nodes have to be well.
    pub fn finish(self) -> Vec<Operation> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for client in self.clients {
            history.extend(client.join().expect("a client only stops when told"));
        }
        let mut last = Client::new(&self.shared, 300);
        for node in 0..self.shared.ports.len() {
            last.node = node;
            for key in self.shared.keys() {
                last.read_surely(key);
            }
            wait_for("the counter can be read", || last.count());
        }
        history.extend(last.history);
        history
    }

    /// Ends the clients and the test, if what they were told breaks a promise. The history.
    pub fn check(self) -> Vec<Operation> {
        let history = self.finish();
        println!("{}", summary(&history));
        checker::assert_keeps_the_laws(&history);
        history
    }
}

impl Shared {
    fn keys(&self) -> Vec<Key> {
        let serials = self.serials.iter().map(|serials| serials.load(Ordering::Relaxed));
        let keys = serials
            .enumerate()
            .flat_map(|(writer, serials)| (0..serials).map(move |serial| Key { writer, serial }));
        keys.collect()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Client {
    fn new(shared: &Arc<Shared>, seed: usize) -> Client {
        Client {
            shared: Arc::clone(shared),
            random: Random::new(seed as u64),
            node: seed % shared.ports.len(),
            connections: shared.ports.iter().map(|_| None).collect(),
            history: Vec::new(),
        }
    }

    /// Writes 1, 2, 3 ... to a few keys. A key whose last write ended unknown is left for good.
    fn write_on(&mut self, writer: usize) {
        struct Open {
            key: Key,
            number: u64,
            tag: Option<u64>,
        }
        let mut open: Vec<Open> = Vec::new();
        while !self.shared.stopped() {
            if open.len() < KEYS {
                let serial = self.shared.serials[writer].fetch_add(1, Ordering::Relaxed);
                open.push(Open { key: Key { writer, serial }, number: 0, tag: None });
            }
            let i = self.random.below(open.len());
            let Open { key, number, tag } = &mut open[i];
            *number += 1;
            let compared = self.random.below(2) == 0;
            let condition = match tag {
                Some(revision) => format!("If-Match: \"{revision}\""),
                None => "If-None-Match: *".to_owned(),
            };
            let headers = [condition.as_str()];
            let headers: &[&str] = if compared { &headers } else { &[] };
            let (target, value) = (format!("/kv/{key}"), value(*key, *number));
            let (begin, answer) = self.ask(&Request::put(&target, &value).with(headers));
            let fate = fate(answer);
            match fate {
                Fate::Done { revision, .. } => *tag = Some(revision),
                Fate::NotApplied | Fate::ConditionFailed => {}
                Fate::Unknown | Fate::Unsaid { .. } => {
                    let (key, number) = (*key, *number);
                    open.swap_remove(i);
                    self.record(begin, Event::Write { key, number, compared, fate });
                    continue;
                }
            }
            let (key, number) = (*key, *number);
            self.record(begin, Event::Write { key, number, compared, fate });
        }
    }

    /// Reads keys of all writers, the newest most often.
    fn read_on(&mut self, _seed: usize) {
        while !self.shared.stopped() {
            let writer = self.random.below(WRITERS);
            let serials = self.shared.serials[writer].load(Ordering::Relaxed);
            if serials == 0 {
                continue;
            }
            let newest = 0 < self.random.below(8);
            let back = self.random.below(if newest { KEYS } else { serials });
            let key = Key { writer, serial: serials.saturating_sub(1 + back) };
            self.read(key);
        }
    }

    /// Reads the counter and raises it by compare-and-set.
    fn raise_on(&mut self, _seed: usize) {
        while !self.shared.stopped() {
            let Some((from, tag)) = self.count() else { continue };
            let condition = match tag {
                Some(tag) => format!("If-Match: {tag}"),
                None => "If-None-Match: *".to_owned(),
            };
            let value = (from + 1).to_string();
            let request = Request::put(COUNTER, value.as_bytes());
            let (begin, answer) = self.ask(&request.with(&[&condition]));
            self.record(begin, Event::Raise { from, fate: fate(answer) });
        }
    }

    fn read(&mut self, key: Key) -> bool {
        let target = format!("/kv/{key}");
        let (begin, answer) = self.ask(&Request::get(&target));
        let saw = match &answer {
            Ok(response) => saw(response, |value| read_value(key, value)),
            Err(_) => Saw::Nothing,
        };
        let answered = saw != Saw::Nothing;
        self.record(begin, Event::Read { key, saw });
        answered
    }

    fn read_surely(&mut self, key: Key) {
        let node = self.node;
        wait_for("every key can be read in the end", || {
            self.node = node;
            self.read(key).then_some(())
        });
    }

    /// Reads the counter: its number and its tag.
    fn count(&mut self) -> Option<(u64, Option<String>)> {
        let (begin, answer) = self.ask(&Request::get(COUNTER));
        let saw = match &answer {
            Ok(response) => saw(response, |value| std::str::from_utf8(value).ok()?.parse().ok()),
            Err(_) => Saw::Nothing,
        };
        let number = match saw {
            Saw::Number(number, _) => number,
            Saw::Foreign(_) | Saw::Nothing => None,
        };
        let answered = saw != Saw::Nothing;
        self.record(begin, Event::Count { saw });
        let tag = answer.ok().and_then(|response| response.header("etag").map(str::to_owned));
        answered.then(|| (number.unwrap_or(0), tag))
    }

    /// Sends a request to the node this client is with; after a failure it goes to the next one.
    /// Also when it began.
    fn ask(&mut self, request: &Request<'_>) -> (Duration, Result<Response, Failed>) {
        std::thread::sleep(REST.mul_f64(self.random.below(200) as f64 / 100.0));
        if self.random.below(16) == 0 {
            self.node = self.random.below(self.shared.ports.len());
        }
        let begin = self.shared.origin.elapsed();
        let answer = self.call(request);
        let well = answer.as_ref().is_ok_and(|response| response.status < 500);
        if !well {
            self.connections[self.node] = None;
        }
        (begin, answer)
    }

    fn call(&mut self, request: &Request<'_>) -> Result<Response, Failed> {
        let mut connection = match self.connections[self.node].take() {
            Some(kept) if !kept.is_closed() => kept,
            _ => {
                let (port, patience) = (self.shared.ports[self.node], self.shared.patience);
                Connection::open(port, patience).map_err(Failed::NothingSent)?
            }
        };
        let response = connection.call(request).map_err(Failed::Broken)?;
        if response.header("connection") != Some("close") {
            self.connections[self.node] = Some(connection);
        }
        Ok(response)
    }

    /// Writes down what came of a request that just ended; moves on if it failed.
    fn record(&mut self, begin: Duration, event: Event) {
        let end = self.shared.origin.elapsed();
        if matches!(event.fate(), Some(Fate::Done { .. })) {
            let mut watch = self.shared.watch.lock().unwrap();
            let began = self.shared.origin + begin;
            if watch.first.is_none() && watch.since.is_some_and(|since| since <= began) {
                watch.first = Some(self.shared.origin + end);
                self.shared.acknowledged.notify_all();
            }
        }
        let well = event.succeeded() || event.fate() == Some(Fate::ConditionFailed);
        self.history.push(Operation { node: self.node, begin, end, event });
        if !well {
            self.node = (self.node + 1) % self.shared.ports.len();
        }
    }
}

/// What the answer to a write says of its fate.
///
/// # Panics
/// When a success does not say which revision and version it made.
pub fn fate(answer: Result<Response, Failed>) -> Fate {
    let response = match answer {
        Ok(response) => response,
        Err(Failed::NothingSent(_)) => return Fate::NotApplied,
        Err(Failed::Broken(_)) => return Fate::Unknown,
    };
    let json = response.json();
    match response.status {
        200 | 201 => match (json["revision"].as_u64(), json["version"].as_u64()) {
            (Some(revision), Some(version)) => Fate::Done { revision, version },
            _ => panic!("a success that does not say what it made: {}", response.text()),
        },
        412 => Fate::ConditionFailed,
        status => match json["outcome"].as_str() {
            Some("not_applied") => Fate::NotApplied,
            Some("unknown") => Fate::Unknown,
            _ => Fate::Unsaid { status },
        },
    }
}

fn saw(response: &Response, read: impl Fn(&[u8]) -> Option<u64>) -> Saw {
    let revision = response.revision();
    match (response.status, revision) {
        (200, Some(revision)) => match read(&response.body) {
            Some(number) => Saw::Number(Some(number), revision),
            None => Saw::Foreign(response.text()),
        },
        (404, Some(revision)) => Saw::Number(None, revision),
        (200 | 404, None) => panic!("a read without KV-Revision: {response:?}"),
        _ => Saw::Nothing,
    }
}

/// The value that stands for a number of a key: it names both, and its length varies.
fn value(key: Key, number: u64) -> Vec<u8> {
    let head = format!("{key}#{number}#");
    let length = head.len() + (number as usize * 37) % 1500;
    head.bytes().cycle().take(length).collect()
}

/// The number a value stands for, if it is whole and of this key.
fn read_value(key: Key, bytes: &[u8]) -> Option<u64> {
    let number = bytes.split(|byte| *byte == b'#').nth(1)?;
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    (value(key, number) == bytes).then_some(number)
}

/// One line on what a load was told.
fn summary(history: &[Operation]) -> String {
    let count = |which: fn(&Event) -> bool| history.iter().filter(|op| which(&op.event)).count();
    format!(
        "{} operations: {} writes done, {} not applied, {} conditions failed, {} unknown; {} reads \
         answered, {} not",
        history.len(),
        count(|event| matches!(event.fate(), Some(Fate::Done { .. }))),
        count(|event| event.fate() == Some(Fate::NotApplied)),
        count(|event| event.fate() == Some(Fate::ConditionFailed)),
        count(|event| event.fate() == Some(Fate::Unknown)),
        count(|event| event.fate().is_none() && event.succeeded()),
        count(|event| event.fate().is_none() && !event.succeeded()),
    )
}
