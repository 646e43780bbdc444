//! What one client may take: slow heads and bodies, idle and too many connections, broken bytes.
//! Limits are set small; nothing here asserts how long something took.

mod common;

use std::time::Duration;

use common::{Client, OneNode, wait_until};

const SHORT: Duration = Duration::from_millis(200);

#[test]
fn a_client_that_trickles_its_headers_is_dropped() {
    let node = OneNode::start_with("", |config| config.http.head_timeout = SHORT);
    let mut slow = node.client();
    slow.send(b"GET /health HTTP/1.1\r\nhost: te").unwrap();
    let mut healthy = node.client();
    assert!(slow.is_closed(), "its headers never came to an end");
    assert_eq!(healthy.request("GET", "/livez", &[], b"").status, 200);
}

#[test]
fn an_idle_connection_is_closed() {
    let node = OneNode::start_with("", |config| config.http.idle_timeout = SHORT);
    let mut client = node.client();
    assert_eq!(client.request("GET", "/livez", &[], b"").status, 200);
    assert!(client.is_closed());
}

#[test]
fn a_body_that_stalls_is_408_and_not_applied() {
    let node = OneNode::start_with("", |config| config.http.body_timeout = SHORT);
    let mut client = node.client();
    client.send(b"PUT /kv/a HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    let reply = client.reply(false).unwrap();
    assert_eq!((reply.status, reply.problem().as_str()), (408, "too-slow"));
    assert_eq!(reply.json()["outcome"], "not_applied");
    assert_eq!(node.get("/kv/a").status, 404);
}

#[test]
fn a_client_too_many_is_told_503_and_when_to_return() {
    let node = OneNode::start_with("", |config| config.http.connections_max = 2);
    // Earlier connections of the start may still be closing.
    let mut held: Vec<Client> = Vec::new();
    wait_until("two connections are held", || {
        let mut client = node.client();
        let _ = client.send(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n");
        if client.reply(false).is_ok_and(|reply| reply.status == 200) {
            held.push(client);
        }
        held.len() == 2
    });
    let reply = node.client().reply(false).unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
    assert_eq!(reply.json()["type"], "urn:kv:connections");
    assert_eq!(reply.header("connection"), "close");

    held.pop();
    wait_until("the place is free again", || {
        let mut client = node.client();
        let _ = client.send(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n");
        client.reply(false).is_ok_and(|reply| reply.status == 200)
    });
}

#[test]
fn large_bodies_share_a_budget() {
    let node = OneNode::start_with("", |config| config.http.bodies_bytes_max = 1 << 20);
    let mut first = node.client();
    let head = "PUT /kv/a HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\
                expect: 100-continue\r\n\r\n";
    first.send(head.as_bytes()).unwrap();
    // It is asked for its body once it has its share.
    assert_eq!(first.reply(true).unwrap().status, 100);
    let second = |expected: u16| {
        let mut client = node.client();
        let head = "PUT /kv/b HTTP/1.1\r\nhost: test\r\ncontent-length: 500000\r\n\r\n";
        let _ = client.send(head.as_bytes()).and_then(|()| client.send(&[1; 500_000]));
        client.reply(false).is_ok_and(|reply| {
            let busy = reply.status == 429;
            assert!(!busy || reply.header("retry-after") == "1");
            reply.status == expected
        })
    };
    assert!(second(429), "the second upload is told to come back");
    first.send(&[0; 1_000_000]).unwrap();
    assert_eq!(first.reply(false).unwrap().status, 201);
    wait_until("the budget is free again", || second(201) || second(200));
}

#[test]
fn wrong_bytes_end_the_connection_and_nothing_else() {
    let node = OneNode::start("");
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT /kv/a HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PUT /kv/a HTTP/1.1\r\nhost: t\r\ncontent-length: -1\r\n\r\n",
    ] {
        let mut client = node.client();
        client.send(bytes).unwrap();
        // An answer or none, but an end.
        while let Ok(reply) = client.reply(false) {
            assert!(400 <= reply.status, "{reply:?}");
        }
    }
    let mut client = node.client();
    let head = format!("GET /livez HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "a".repeat(40 << 10));
    // hyper answers 431 or just closes: what counts is that nobody's headers fill our memory.
    let _ = client.send(head.as_bytes());
    assert!(client.reply(false).map_or(true, |reply| reply.status == 431));
    assert_eq!(node.get("/livez").status, 200);
}
