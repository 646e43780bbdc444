//! The largest values: they go in by a chunked upload at a follower and come out byte for byte at
//! another node, while small writes go on and nobody takes the leader for dead.

#![allow(clippy::print_stdout, reason = "how much went on meanwhile is worth a line")]

mod harness;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::cluster::Cluster;
use harness::http::{Connection, Request};
use harness::random::Random;

const LARGEST: usize = 64 << 20;
/// How long a node may be silent: it stores 64 MiB on three disks of one machine meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

fn noise(bytes: usize) -> Vec<u8> {
    let mut random = Random::new(64);
    let mut value: Vec<u8> =
        (0..bytes.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    value.truncate(bytes);
    value
}

#[test]
fn the_largest_value_passes_through_a_follower_while_small_writes_go_on() {
    let mut cluster = Cluster::start(3, &[]);
    let leader = cluster.wait_leader();
    let term = cluster.health(leader).expect("it runs").term;
    let [to, from] = cluster.others(leader)[..] else { panic!("three nodes") };
    let value = noise(LARGEST);
    let ports = cluster.ports();
    let stored = AtomicBool::new(false);
    let small = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut connection = Connection::open(ports[leader], PATIENCE).expect("it listens");
            let mut count = 0;
            while !stored.load(Ordering::Relaxed) {
                let number = count.to_string();
                let put = Request::put("/kv/small", number.as_bytes());
                let response = connection.call(&put).expect("the leader answers");
                assert!(matches!(response.status, 200 | 201), "{}", response.text());
                count += 1;
            }
            count
        });
        // Ends the writer also when the upload fails.
        let _stop = StopOnDrop(&stored);
        let mut connection = Connection::open(ports[to], PATIENCE).expect("it listens");
        connection.begin_chunked("PUT", "/kv/large?timeout=60s").expect("it listens");
        for piece in value.chunks(256 << 10) {
            connection.send_chunk(piece).expect("it takes the upload");
        }
        connection.send_chunk(b"").expect("it takes the upload");
        let response = connection.receive("PUT").expect("it answers");
        assert_eq!(response.status, 201, "{}", response.text());

        let mut connection = Connection::open(ports[from], PATIENCE).expect("it listens");
        let read = connection.call(&Request::get("/kv/large?timeout=60s")).expect("it answers");
        assert_eq!(read.status, 200, "{}", read.text());
        assert!(read.body == value, "every byte is back: {} of {}", read.body.len(), value.len());
        stored.store(true, Ordering::Relaxed);
        writer.join().expect("small writes went on")
    });
    println!("{small} small writes meanwhile");
    assert!(0 < small);
    for i in 0..3 {
        let health = cluster.wait_health(i, "is well", |health| health.http == 200);
        assert_eq!(health.term, term, "no election was held: {health:?}");
    }

    // It also survives a restart of all.
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_leader();
    let mut connection = Connection::open(ports[to], PATIENCE).expect("it listens");
    let read = connection.call(&Request::get("/kv/large?timeout=60s")).expect("it answers");
    assert!(read.body == value, "every byte is back: {} of {}", read.body.len(), value.len());
}

#[test]
fn one_byte_more_is_refused() {
    let mut cluster = Cluster::start(3, &[]);
    let leader = cluster.wait_leader();
    let follower = cluster.others(leader)[0];
    let value = noise(LARGEST + 1);
    for i in [leader, follower] {
        // With a length: refused by its head. The node need not take the body.
        let port = cluster.ports()[i];
        let mut connection = Connection::open(port, PATIENCE).expect("it listens");
        let response = connection.call(&Request::put("/kv/large", &value)).expect("it answers");
        assert_eq!(response.status, 413, "{}", response.text());
        assert_eq!(response.json()["outcome"], "not_applied", "{}", response.text());

        // Without one: refused as it comes. What is sent after that may be cut off.
        let mut connection = Connection::open(port, PATIENCE).expect("it listens");
        connection.begin_chunked("PUT", "/kv/large").expect("it listens");
        let pieces = value.chunks(1 << 20).chain([&b""[..]]);
        for piece in pieces {
            if connection.send_chunk(piece).is_err() {
                break;
            }
        }
        let response = connection.receive("PUT").expect("it answers");
        assert_eq!(response.status, 413, "{}", response.text());
    }
    let absent = cluster.call(leader, &Request::get("/kv/large"));
    assert_eq!(absent.status, 404, "{}", absent.text());
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
