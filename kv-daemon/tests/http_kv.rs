//! The keys over HTTP, on a single node: every status code of the table, conditions, paging, and
//! what a key may be.

mod common;

use common::{OneNode, Reply};
use serde_json::json;

const ID: [&str; 0] = [];

#[test]
fn a_value_is_created_replaced_read_and_deleted() {
    let node = OneNode::start("");
    let created = node.put("/kv/app/color", b"blue");
    assert_eq!(created.status, 201);
    assert_eq!(
        created.json(),
        json!({"key": "app/color", "revision": 1, "version": 1, "created": true})
    );
    assert_eq!((created.header("etag"), created.header("kv-revision")), ("\"1\"", "1"));

    let replaced = node.put("/kv/app/color", b"red");
    assert_eq!(replaced.status, 200);
    assert_eq!(
        replaced.json(),
        json!({"key": "app/color", "revision": 2, "version": 2, "created": false})
    );

    let got = node.get("/kv/app/color");
    assert_eq!((got.status, got.text()), (200, "red"));
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
        ("etag", "\"2\""),
        ("kv-revision", "2"),
        ("kv-create-revision", "1"),
        ("kv-version", "2"),
        ("kv-consistency", "linearizable"),
        ("kv-served-by", "node1"),
    ] {
        assert_eq!(got.header(name), value, "{name}");
    }

    let deleted = node.ask("DELETE", "/kv/app/color", &ID, b"");
    assert_eq!((deleted.status, deleted.json()), (200, json!({"deleted": 1, "revision": 3})));
    let again = node.ask("DELETE", "/kv/app/color", &ID, b"");
    assert_eq!((again.status, again.json()), (200, json!({"deleted": 0, "revision": 3})));

    let gone = node.get("/kv/app/color");
    assert_eq!((gone.status, gone.problem().as_str()), (404, "no-key"));
    assert_eq!((gone.header("kv-revision"), gone.json()["revision"].clone()), ("3", json!(3)));
    assert!(gone.json().get("outcome").is_none(), "a read carries no outcome");
}

#[test]
fn head_is_get_without_a_body() {
    let node = OneNode::start("");
    node.put("/kv/a", b"12345");
    let mut client = node.client();
    let (get, head) =
        (client.request("GET", "/kv/a", &ID, b""), client.request("HEAD", "/kv/a", &ID, b""));
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    assert_eq!(head.header("etag"), get.header("etag"));
    // The connection is still in step: no body followed the HEAD.
    assert_eq!(client.request("HEAD", "/kv/b", &ID, b"").status, 404);
    assert_eq!(client.request("HEAD", "/health", &ID, b"").status, 200);
    assert_eq!(client.request("GET", "/kv/a", &ID, b"").text(), "12345");
}

#[test]
fn conditions_hold_or_nothing_changes() {
    let node = OneNode::start("");
    let put = |line: &str, query: &str| {
        let lines = if line.is_empty() { vec![] } else { vec![line] };
        node.ask("PUT", &format!("/kv/a{query}"), &lines, b"x")
    };
    let failed = |reply: Reply, current: serde_json::Value| {
        assert_eq!((reply.status, reply.problem().as_str()), (412, "precondition"));
        let json = reply.json();
        assert_eq!(json["outcome"], "not_applied");
        assert_eq!(json.get("current_revision").cloned().unwrap_or_default(), current);
    };
    failed(put("if-match: *", ""), json!(null));
    failed(put("if-match: \"1\"", ""), json!(null));
    failed(put("", "?cas=1"), json!(null));
    assert_eq!(put("if-none-match: *", "").status, 201);
    failed(put("if-none-match: *", ""), json!(1));
    failed(put("", "?cas=0"), json!(1));
    failed(put("if-match: \"2\"", ""), json!(1));
    assert_eq!(put("if-match: \"7\", \"1\"", "").header("etag"), "\"2\"");
    assert_eq!(put("", "?cas=2").header("etag"), "\"3\"");
    assert_eq!(put("if-match: *", "").header("etag"), "\"4\"");
    failed(put("if-none-match: \"4\"", ""), json!(4));

    let delete = |query: &str| node.ask("DELETE", &format!("/kv/a{query}"), &ID, b"");
    failed(delete("?cas=3"), json!(4));
    assert_eq!(delete("?cas=4").json(), json!({"deleted": 1, "revision": 5}));
    assert_eq!(node.get("/health").json()["revision"], 5, "failed conditions raise no revision");
}

#[test]
fn a_read_may_be_conditional_too() {
    let node = OneNode::start("");
    node.put("/kv/a", b"x");
    let get = |line: &str| node.ask("GET", "/kv/a", &[line], b"");
    let unchanged = get("if-none-match: \"1\"");
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, "\"1\""));
    assert_eq!(get("if-none-match: *").status, 304);
    assert_eq!(get("if-none-match: \"2\"").text(), "x");
    assert_eq!(get("if-match: \"1\"").text(), "x");
    assert_eq!(get("if-match: \"2\"").status, 412);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let node = OneNode::start("");
    let rows: [(&str, &str, &[&str], &str); 16] = [
        ("PUT", "/kv/a?csa=1", &[], "`csa`"),
        ("PUT", "/kv/a?ttl=30s", &[], "`ttl`"),
        ("PUT", "/kv/a?cas=x", &[], "`cas`"),
        ("PUT", "/kv/a?cas=1&cas=2", &[], "twice"),
        ("PUT", "/kv/a", &["if-match: 1"], "if-match"),
        ("PUT", "/kv/a", &["if-unmodified-since: Sat, 29 Oct 1994 19:43:31 GMT"], "if-unmod"),
        ("PUT", "/kv/a", &["idempotency-key: \"1\""], "Idempotency-Key"),
        ("PUT", "/kv/a?cas=1", &["if-match: \"1\""], "not both"),
        ("PUT", "/kv/a?timeout=5", &[], "75ms"),
        ("GET", "/kv/a?wait=30s", &[], "`wait`"),
        ("GET", "/kv/a?consistency=eventual", &[], "`eventual`"),
        ("GET", "/kv/a?max_stale=1s", &[], "consistency=stale"),
        ("GET", "/kv?limit=10001", &[], "between 1 and 10000"),
        ("GET", "/kv?prefix=a", &["if-none-match: \"1\""], "if-none-match"),
        ("GET", "/health?prety", &[], "`prety`"),
        ("GET", "/kv?prefix=%zz", &[], "hex digits"),
    ];
    for (method, target, lines, part) in rows {
        let reply = node.ask(method, target, lines, b"");
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{target}");
        let json = reply.json();
        assert!(json["detail"].as_str().unwrap().contains(part), "{target}: {json}");
        if method == "PUT" {
            assert_eq!(json["outcome"], "not_applied", "{target}");
        }
    }
    assert_eq!(node.get("/kv/a").status, 404, "nothing of this was written");
}

#[test]
fn a_key_is_everything_after_the_slash_decoded_once() {
    let node = OneNode::start("");
    let rows: [(&str, &str); 9] = [
        ("/kv//a", "/a"),
        ("/kv/a/", "a/"),
        ("/kv/a+b", "a+b"),
        ("/kv/..", ".."),
        ("/kv/../x", "../x"),
        ("/kv/%00", "\0"),
        ("/kv/%2541", "%41"),
        ("/kv/a%3Fb", "a?b"),
        ("/kv/%C3%A9", "é"),
    ];
    for (path, key) in rows {
        assert_eq!(node.put(path, path.as_bytes()).json()["key"], key, "{path}");
    }
    for (path, _) in rows {
        assert_eq!(node.get(path).text(), path);
    }
    assert_eq!(node.put("/kv/%ff", b"x").json()["key_b64"], "/w==");
    assert_eq!(node.get("/kv/%FF").text(), "x");

    for path in ["/kv/", "/kv/%", "/kv/%g0"] {
        assert_eq!(node.put(path, b"x").problem(), "invalid", "{path}");
    }
    let longest = "k".repeat(4096);
    assert_eq!(node.put(&format!("/kv/{longest}"), b"x").status, 201);
    let reply = node.put(&format!("/kv/{longest}k"), b"x");
    assert_eq!((reply.status, reply.problem().as_str()), (414, "key-too-long"));
    assert_eq!(node.put(&format!("/kv/{}", "%6b".repeat(4096)), b"y").status, 200);
}

#[test]
fn methods_and_paths_that_are_not_there() {
    let node = OneNode::start("");
    let rows = [
        ("PATCH", "/kv/a", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("POST", "/kv/a", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("DELETE", "/kv", "GET, HEAD, OPTIONS"),
        ("GET", "/cluster/snapshot", "POST, OPTIONS"),
        ("HEAD", "/cluster/snapshot", "POST, OPTIONS"),
        ("DELETE", "/cluster/leader", "GET, HEAD, POST, OPTIONS"),
        ("PUT", "/metrics", "GET, HEAD, OPTIONS"),
    ];
    for (method, path, allow) in rows {
        let reply = node.ask(method, path, &ID, b"");
        assert_eq!((reply.status, reply.header("allow")), (405, allow), "{method} {path}");
        let options = node.ask("OPTIONS", path, &ID, b"");
        assert_eq!((options.status, options.header("allow")), (204, allow), "OPTIONS {path}");
    }
    for path in ["/nothing", "/kvx", "/health/", "/api/v1/health", "/txn"] {
        assert_eq!(node.get(path).problem(), "no-route", "{path}");
    }
}

#[test]
fn a_list_comes_in_pages() {
    let node = OneNode::start("");
    for key in ["a/1", "a/2", "a/3", "b/1", "%ff"] {
        node.put(&format!("/kv/{key}"), key.as_bytes());
    }
    let list = |query: &str| node.get(&format!("/kv?{query}")).json();
    let keys = |list: &serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().expect("items");
        let name = |item: &serde_json::Value| {
            item.get("key").or(item.get("key_b64")).and_then(|key| key.as_str()).map(str::to_owned)
        };
        items.iter().map(|item| name(item).expect("a key")).collect()
    };
    assert_eq!(keys(&list("")), ["a/1", "a/2", "a/3", "b/1", "/w=="]);
    assert_eq!(keys(&list("prefix=a/")), ["a/1", "a/2", "a/3"]);
    assert_eq!(keys(&list("prefix=a%2F&start=a/2")), ["a/2", "a/3"]);
    assert_eq!(keys(&list("start=b")), ["b/1", "/w=="]);
    assert_eq!(list("prefix=a/&count"), json!({"count": 3, "revision": 5}));
    assert_eq!(
        list("prefix=b/"),
        json!({
            "items": [{
                "key": "b/1", "value": "b/1", "revision": 4, "create_revision": 4, "version": 1
            }],
            "next": null, "count": 1, "revision": 5
        })
    );
    assert!(list("keys")["items"][0].get("value").is_none());

    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = list(&format!("limit=2{cursor}"));
        seen.extend(keys(&page));
        assert_eq!(page["count"], page["items"].as_array().unwrap().len());
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["a/1", "a/2", "a/3", "b/1", "/w=="]);
    assert_eq!(node.get("/kv?cursor=!").problem(), "invalid");
}

#[test]
fn a_value_may_be_any_bytes_up_to_the_limit() {
    let node = OneNode::start("--max-value-size 1MiB");
    let value: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[at as usize % 3]).collect();
    assert_eq!(node.put("/kv/big", &value).status, 201);
    assert_eq!(node.get("/kv/big").body, value);
    assert_eq!(node.put("/kv/empty", b"").status, 201);
    assert_eq!(node.get("/kv/empty").body, b"");

    let reply = node.put("/kv/more", &[0; (1 << 20) + 1]);
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too-large"));
    assert_eq!(reply.json()["outcome"], "not_applied");
    assert_eq!(node.get("/kv/more").status, 404);
}

#[test]
fn uploads_may_be_chunked_and_stop_at_the_same_limit() {
    let node = OneNode::start("--max-value-size 1MiB");
    let mut client = node.client();
    let head = "PUT /kv/a HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    client.send(head.as_bytes()).unwrap();
    for piece in ["3\r\nabc\r\n", "1\r\n-\r\n", "3\r\ndef\r\n0\r\n\r\n"] {
        client.send(piece.as_bytes()).unwrap();
    }
    assert_eq!(client.reply(false).unwrap().status, 201);
    assert_eq!(client.request("GET", "/kv/a", &ID, b"").text(), "abc-def");

    client.send(head.as_bytes()).unwrap();
    let chunk = [&b"10000\r\n"[..], &[7; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        client.send(&chunk).unwrap();
    }
    // The client has not come to its end: the answer comes all the same.
    let reply = client.reply(false).unwrap();
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too-large"));
    assert_eq!(node.get("/kv/a").text(), "abc-def");
}

#[test]
fn a_too_long_upload_is_refused_before_it_is_sent() {
    let node = OneNode::start("--max-value-size 1KiB");
    let mut client = node.client();
    let head = "PUT /kv/a HTTP/1.1\r\nhost: test\r\ncontent-length: 1025\r\n\
                expect: 100-continue\r\n\r\n";
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.reply(false).unwrap().status, 413);
}

#[test]
fn the_representation_is_as_preferred() {
    let node = OneNode::start("");
    let minimal = node.ask("PUT", "/kv/a", &["prefer: return=minimal"], b"x");
    assert_eq!((minimal.status, minimal.header("etag")), (204, "\"1\""));
    assert_eq!(minimal.header("preference-applied"), "return=minimal");
    let json = node.ask("GET", "/kv/a?pretty", &["accept: application/json"], b"");
    assert_eq!(
        json.json(),
        json!({"key": "a", "value": "x", "revision": 1, "create_revision": 1, "version": 1})
    );
    assert!(json.text().starts_with("{\n  \"key\": \"a\",\n"));
    // curl -d says it sends a form; a value is a value.
    let form = ["content-type: application/x-www-form-urlencoded"];
    node.ask("PUT", "/kv/form", &form, b"a=1&b=%20");
    assert_eq!(node.get("/kv/form").text(), "a=1&b=%20");
}

#[test]
fn reads_have_levels() {
    let node = OneNode::start("");
    node.put("/kv/a", b"x");
    for (query, level) in [
        ("", "linearizable"),
        ("?consistency=strong", "linearizable"),
        ("?consistency=l", "linearizable"),
        ("?consistent", "linearizable"),
        ("?consistency=stale", "stale"),
        ("?consistency=none", "stale"),
        ("?consistency=s&max_stale=1h", "stale"),
        ("?stale", "stale"),
    ] {
        let reply = node.get(&format!("/kv/a{query}"));
        assert_eq!((reply.text(), reply.header("kv-consistency")), ("x", level), "{query}");
        let list = node.get(&format!("/kv{query}"));
        assert_eq!(list.header("kv-consistency"), level, "{query}");
        assert_eq!(reply.header("kv-last-contact-ms").is_empty(), level != "stale", "{query}");
    }
    assert_eq!(node.get("/kv/a?stale&consistent").problem(), "invalid");
}

/// pitfall 37: a single node that starts again applies what it had acknowledged.
#[test]
fn pitfall_37_what_was_acknowledged_is_there_after_a_restart() {
    let mut node = OneNode::start("");
    node.put("/kv/a", b"x");
    node.put("/kv/a", b"y");
    node.restart();
    let got = node.get("/kv/a");
    assert_eq!((got.text(), got.header("etag"), got.header("kv-version")), ("y", "\"2\"", "2"));
    assert_eq!(node.put("/kv/a", b"z").json()["revision"], 3);
}
