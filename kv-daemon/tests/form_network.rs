//! Forming over real sockets: three processes' worth of nodes started one after the other.

mod peers_common;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use kv_daemon::form::{Forming, Identity, PeerSpec};
use kv_daemon::peers::{Endpoints, form, hello};
use peers_common::listeners;
use raft_core::types::{NodeId, Time};

#[test]
fn three_nodes_started_one_after_the_other_form_one_cluster() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listeners = listeners(3);
    let ports: Vec<u16> =
        listeners.iter().map(|l| l.local_addr().expect("it is bound").port()).collect();
    let origin = Instant::now();
    let now = move || Time(origin.elapsed().as_nanos() as u64);
    let mut tasks = Vec::new();
    for (at, listener) in listeners.into_iter().enumerate() {
        // Everybody names everybody, itself included, and in two spellings.
        let spell = |(n, port): (usize, &u16)| {
            let host = if n == at { "127.0.0.1" } else { "localhost" };
            format!("{host}:{port}").parse::<PeerSpec>().expect("it is host:port")
        };
        let peers = ports.iter().enumerate().map(spell).collect();
        let me = Identity {
            node_id: NodeId(0xa0 + at as u64),
            name: format!("node{at}"),
            address: format!("localhost:{}", ports[at]),
        };
        let forming = Arc::new(Mutex::new(Forming::new(me, peers, "0.1.0", now())));
        let asked = forming.clone();
        let endpoints = Endpoints::new(move || asked.lock().expect("not poisoned").hello());
        peers_common::serve(&runtime, listener, endpoints);
        tasks.push(runtime.spawn(form(forming, now)));
    }
    let formations: Vec<_> =
        tasks.into_iter().map(|task| runtime.block_on(task).expect("no panic")).collect();
    assert_eq!(formations[0].membership.members().count(), 3);
    assert!(formations.iter().all(|formation| *formation == formations[0]));
}

#[test]
fn a_node_that_has_not_formed_says_hello_and_nothing_else() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = listeners(1).remove(0);
    let address = format!("localhost:{}", listener.local_addr().expect("it is bound").port());
    let said = peers_common::hello_of(NodeId(1), &address);
    let answer = said.clone();
    peers_common::serve(&runtime, listener, Endpoints::new(move || answer.clone()));
    assert_eq!(runtime.block_on(hello(&address)), Ok(said));
    for kind in ["heartbeat", "request-vote", "append-entries", "propose"] {
        let head = format!("POST /raft/{kind} HTTP/1.1\nkv-from: 2");
        let (status, text) = peers_common::curl(&address, &head, b"");
        assert_eq!(status, 503, "{text}");
        assert!(text.contains("not joined a cluster yet"), "{text}");
    }
}

#[test]
fn who_does_not_answer_is_told_apart_from_who_answers_nonsense() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = listeners(1).remove(0);
    let address = format!("localhost:{}", listener.local_addr().expect("it is bound").port());
    let silent = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        drop(listener);
    });
    let error = runtime.block_on(hello(&address)).expect_err("hi is no hello");
    assert!(error.contains("not a hello"), "{error}");
    silent.join().expect("no panic");
    let error = runtime.block_on(hello(&address)).expect_err("nobody listens");
    assert!(error.contains("connection refused"), "{error}");
}
