//! `kv` as a shell sees it: exact bytes on stdout, messages on stderr, exit codes that scripts can
//! rely on. Against one real node, and against servers that answer as they are told.

mod cli_common;
mod common;

use std::process::Stdio;

use cli_common::{Do, Fake, command, kv, kv_with_stdin, nobody, problem};
use common::OneNode;
use serde_json::json;

/// A node, and `kv` pointed at it.
struct Node {
    node: OneNode,
    port: String,
}

impl Node {
    fn start() -> Node {
        let node = OneNode::start("");
        let port = node.address().port().to_string();
        Node { node, port }
    }

    fn kv(&self, args: &[&str]) -> cli_common::Ran {
        kv(&[&["-p", &self.port], args].concat())
    }
}

#[test]
fn a_value_comes_back_byte_for_byte() {
    let node = Node::start();
    let value: Vec<u8> = (0..=255).chain(*b"\n").collect();
    let put = kv_with_stdin(&["-p", &node.port, "put", "bytes", "-"], &value);
    assert_eq!((put.code, put.text()), (Some(0), ""), "{put:?}");
    assert_eq!(put.err, "created, revision 1\n");
    assert_eq!(node.kv(&["get", "bytes"]).out, value);
    assert_eq!(node.kv(&["get", "bytes", "--raw", "--format", "json"]).out, value);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    std::fs::write(&file, &value).unwrap();
    let put = node.kv(&["-q", "put", "a b/ü?#%", "--file", file.to_str().unwrap()]);
    assert_eq!((put.code, put.err.as_str()), (Some(0), ""), "-q says nothing");
    assert_eq!(node.kv(&["get", "a b/ü?#%"]).out, value);
    assert_eq!(node.node.get("/kv/a%20b/%C3%BC%3F%23%25").body, value, "the same key for curl");

    let empty = kv_with_stdin(&["-p", &node.port, "put", "empty", "-"], b"");
    assert_eq!(empty.code, Some(0));
    assert_eq!(node.kv(&["get", "empty"]).out, b"");
}

#[test]
fn json_has_stable_fields() {
    let node = Node::start();
    let put = node.kv(&["--format", "json", "put", "k", "v"]).json();
    assert_eq!(put, json!({"key": "k", "revision": 1, "version": 1, "created": true}));
    let got = node.kv(&["get", "k", "--format", "json"]).json();
    let wanted =
        json!({"key": "k", "value": "v", "revision": 1, "create_revision": 1, "version": 1});
    assert_eq!(got, wanted);
    let meta = node.kv(&["get", "k", "--meta", "--format", "json"]).json();
    let wanted = json!({"key": "k", "revision": 1, "create_revision": 1, "version": 1, "bytes": 1});
    assert_eq!(meta, wanted);
    assert_eq!(node.kv(&["get", "k", "--rev"]).text(), "1\n");
    kv_with_stdin(&["-p", &node.port, "put", "raw", "-"], b"\xff");
    assert_eq!(node.kv(&["get", "raw", "--format", "json"]).json()["value_b64"], "/w==");
    let list = node.kv(&["list", "--format", "json"]).json();
    assert_eq!((&list["count"], &list["more"]), (&json!(2), &json!(false)));
    assert_eq!(list["items"][0], got);
    let deleted = node.kv(&["delete", "k", "--format", "json"]).json();
    assert_eq!(deleted, json!({"deleted": 1, "revision": 3}));
    let empty = node.kv(&["list", "none/", "--format", "json"]).json();
    assert_eq!(empty, json!({"items": [], "count": 0, "more": false}));
}

#[test]
fn a_list_is_cut_where_it_was_told_and_says_so() {
    let node = Node::start();
    for key in ["app/a", "app/b", "app/c", "other"] {
        assert_eq!(node.kv(&["put", key, "x\ty\n"]).code, Some(0));
    }
    let all = node.kv(&["list", "app/"]);
    assert_eq!(all.text(), "app/a\tx\\ty\\n\napp/b\tx\\ty\\n\napp/c\tx\\ty\\n\n");
    assert_eq!(all.err, "");
    let two = node.kv(&["list", "app/", "--keys", "--limit", "2"]);
    assert_eq!(two.text(), "app/a\napp/b\n");
    assert!(two.err.contains("there are more than 2"), "{two:?}");
    assert_eq!(node.kv(&["list", "--all", "--keys"]).text().lines().count(), 4);
    let table = node.kv(&["list", "app/b", "--format", "table"]);
    assert!(table.text().starts_with("key    value"), "{table:?}");
}

#[test]
fn exit_codes_say_what_happened() {
    let node = Node::start();
    let code = |args: &[&str]| node.kv(args).code.unwrap();
    assert_eq!(code(&["put", "k", "1", "--create"]), 0);
    assert_eq!(code(&["put", "k", "2", "--create"]), 5);
    assert_eq!(code(&["put", "k", "2", "--if-rev", "9"]), 5);
    assert_eq!(code(&["put", "k", "2", "--if-rev", "1"]), 0);
    assert_eq!(code(&["delete", "k", "--if-rev", "1"]), 5);
    assert_eq!(code(&["delete", "k", "--if-rev", "2"]), 0);
    assert_eq!(code(&["delete", "k"]), 0, "absent is no error");
    assert_eq!(code(&["get", "k"]), 4);
    assert_eq!(code(&["get", "k", "--rev"]), 4);
    assert_eq!(code(&["health"]), 0);
    assert_eq!(code(&["cluster-status"]), 0);
    assert_eq!(code(&["put", "k"]), 2);
    assert_eq!(code(&["--timeout", "0s", "get", "k"]), 2);
    assert_eq!(code(&["no-such-command"]), 2);
    assert_eq!(code(&["put", "k", "v", "--file", "no/such/file"]), 2);
    assert_eq!(code(&["put", "k", "--file", "no/such/file"]), 1);
    assert_eq!(code(&["put", "", "v"]), 1, "an empty key");

    let gone = nobody().port().to_string();
    let lost = kv(&["-p", &gone, "--timeout", "200ms", "get", "k"]);
    assert_eq!(lost.code, Some(3), "{lost:?}");
    assert!(lost.err.contains("connection refused") && lost.err.contains(&gone), "{lost:?}");
    assert_eq!(kv(&["-p", &gone, "health"]).code, Some(3));
    let one_of_two = format!("127.0.0.1:{},127.0.0.1:{gone}", node.port);
    assert_eq!(kv(&["-s", &one_of_two, "health"]).code, Some(8));

    let fake = Fake::start(|asked, _| match asked.path() {
        "/kv/breaks" => Do::Close,
        "/kv/denied" => problem(403, "denied", Some("not_applied")),
        _ => problem(404, "no-route", None),
    });
    let port = fake.address.port().to_string();
    let unknown = kv(&["-p", &port, "put", "breaks", "v"]);
    assert_eq!(unknown.code, Some(6), "{unknown:?}");
    assert!(unknown.err.contains("unknown whether this was applied"), "{unknown:?}");
    assert_eq!(fake.asked("/kv/breaks").len(), 1);
    assert_eq!(kv(&["-p", &port, "put", "denied", "v"]).code, Some(7));
}

#[test]
fn servers_come_from_the_environment_and_flags_stand_anywhere() {
    let node = Node::start();
    let server = format!("http://127.0.0.1:{}", node.port);
    let put = command(&["put", "k", "v"]).env("KV_SERVER", &server).output().unwrap();
    assert_eq!(put.status.code(), Some(0));
    assert_eq!(kv(&["get", "k", "-s", &server]).text(), "v");
    assert_eq!(kv(&["get", "-p", &node.port, "k", "--consistency", "stale"]).text(), "v");
    // Set to nothing is not set.
    let check = command(&["-s", &server, "get", "k"]).env("KV_SERVER", "").output().unwrap();
    assert_eq!(check.stdout, b"v", "{check:?}");
    let usual = command(&["--timeout", "1ms", "health"]).env("KV_SERVER", "").output().unwrap();
    let told = String::from_utf8_lossy(&[usual.stdout, usual.stderr].concat()).into_owned();
    assert!(usual.status.code() != Some(2) && told.contains("127.0.0.1:8001"), "{told}");
    // -p is the nearest, so it counts.
    let gone = format!("http://{}", nobody());
    let got = command(&["-p", &node.port, "get", "k"]).env("KV_SERVER", &gone).output().unwrap();
    assert_eq!(got.stdout, b"v");
}

#[test]
fn verbose_prints_lines_that_repeat_each_exchange() {
    let node = Node::start();
    let put = node.kv(&["--verbose", "put", "k", "it's", "--if-rev", "0"]);
    let line = put.err.lines().find(|line| line.contains("/kv/k")).unwrap();
    assert!(
        line.starts_with("curl -X PUT -H 'if-none-match: *' --data-binary 'it'\\''s' 'http://")
    );
    let (curl, came) = line.split_once("  # ").unwrap();
    assert!(came.starts_with("201, "), "{line}");
    // The line does what it says: the second time the condition fails.
    let again = format!("{curl} -s -o /dev/null -w '%{{http_code}}'");
    let output = std::process::Command::new("sh").args(["-c", &again]).output().unwrap();
    assert_eq!(output.stdout, b"412");
}

#[test]
fn whoever_has_read_enough_may_close_the_pipe() {
    let node = Node::start();
    for number in 0..300 {
        assert_eq!(node.node.put(&format!("/kv/{number}"), &[b'x'; 1000]).status, 201);
    }
    let mut child =
        command(&["-p", &node.port, "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn help_opens_with_examples_and_serve_is_the_server() {
    let help = kv(&["--help"]);
    assert!(help.text().starts_with("Write and read"), "{help:?}");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("never-made");
    let check = kv(&["serve", "--id", "n7", "--check", "--data-dir", data.to_str().unwrap()]);
    assert_eq!((check.code, check.text().contains("n7 at 127.0.0.1:8001")), (Some(0), true));
    let help = kv(&["serve", "--help"]);
    assert!(help.text().contains("--election-timeout"), "{help:?}");
    let astray = kv(&["-q", "serve"]);
    assert_eq!(astray.code, Some(2), "{astray:?}");
}

#[test]
fn a_map_is_written_shown_and_planned_offline() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("carp.json");
    let file = file.to_str().unwrap();
    let new =
        kv(&["carp", "new", "--member", "a=127.0.0.1:1,127.0.0.1:2", "--member", "b=127.0.0.1:3"]);
    assert_eq!(new.code, Some(0), "{new:?}");
    std::fs::write(file, &new.out).unwrap();

    let show = kv(&["carp", "show", "--map", file]);
    let wanted = "a\t1\tactive\t8192\t50.00%\thttp://127.0.0.1:1,http://127.0.0.1:2\n";
    assert!(show.text().starts_with(wanted), "{show:?}");

    let next = folder.path().join("next.json");
    let next = next.to_str().unwrap();
    let add = ["carp", "plan", "add", "c", "--url", "127.0.0.1:4", "--weight", "2"];
    let plan = kv(&[&add[..], &["--map", file, "--out", next]].concat());
    assert_eq!(
        plan.text(),
        "a\t1\tactive\t8192\t4096\t-4096\nb\t1\tactive\t8192\t4096\t-4096\n\
         c\t2\tactive\t0\t8192\t+8192\n"
    );
    assert!(plan.err.contains("moves 8192 of 16384 slots (50.00%), the least possible is 8192"));
    let json = kv(&[&add[..], &["--map", file, "--format", "json"]].concat()).json();
    assert_eq!(
        (&json["moved"], &json["least"], &json["epoch_then"]),
        (&json!(8192), &json!(8192), &json!(2))
    );
    let after = kv(&["carp", "show", "--map", next]);
    assert!(after.text().contains("c\t2\tactive\t8192\t50.00%"), "{after:?}");

    let drain = kv(&["carp", "plan", "drain", "a", "--map", file, "--format", "table"]);
    assert!(
        drain.text().starts_with("member  weight  state     slots now  slots then"),
        "{drain:?}"
    );
    assert_eq!(kv(&["carp", "plan", "remove", "a", "--map", file]).code, Some(1));
    assert_eq!(kv(&["carp", "plan", "weight", "a", "x", "--map", file]).code, Some(2));

    let route = kv(&["carp", "route", "{t}1", "{t}2", "--map", file, "--format", "json"]).json();
    assert_eq!(route["routes"][0]["slot"], route["routes"][1]["slot"], "one tag, one slot");
    assert_eq!(kv(&["carp", "new", "--member", "a=https://x"]).code, Some(2));
    assert_eq!(kv(&["carp", "show", "--map", "no/such/file"]).code, Some(1));
}

/// What `new` and `plan --out` write, `apply` makes; what must not be, it says by name.
#[test]
fn an_array_is_founded_and_changed_by_files() {
    let nodes = ["a", "b"].map(|name| OneNode::start(&format!("--cluster-name {name}")));
    let [a, b] = nodes.each_ref().map(|node| node.address().to_string());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (first, second) = (path("first.json"), path("second.json"));
    let at_a = |args: &[&str]| kv(&[&["-s", &a], args].concat());

    let new = kv(&["carp", "new", "--member", &format!("a={a}")]);
    std::fs::write(&first, &new.out).unwrap();
    let founded = at_a(&["carp", "apply", &first]);
    assert_eq!((founded.code, founded.text()), (Some(0), "a\t1\tactive\t0\t16384\t+16384\n"));
    assert!(founded.err.contains("epoch 1 is in force"), "{founded:?}");
    let again = at_a(&["carp", "apply", &first, "--yes", "--format", "json"]).json();
    assert_eq!((&again["epoch"], &again["changed"]), (&json!(1), &json!(false)));

    // A new member is told too: nobody else would.
    let url = format!("http://{b}");
    at_a(&["carp", "plan", "add", "b", "--url", &url, "--out", &second]);
    let grown = at_a(&["carp", "apply", &second]);
    assert_eq!(grown.code, Some(0), "{grown:?}");
    assert!(grown.text().contains("b\t1\tactive\t0\t8192\t+8192"), "{grown:?}");
    assert!(grown.err.contains("moves 8192 of 16384 slots; epoch 1 becomes 2"), "{grown:?}");
    assert_eq!(at_a(&["carp", "check"]).code, Some(0));

    // Older, another array, no array, keys that would be lost: nothing changes.
    let refused = |file: &str, why: &str| {
        let ran = at_a(&["carp", "apply", file]);
        assert_eq!((ran.code, ran.err.contains(why)), (Some(1), true), "{why}: {ran:?}");
    };
    refused(&first, "cannot replace");
    let other = path("other.json");
    std::fs::write(&other, r#"{"carp":2,"name":"other","members":[{"id":"a"}]}"#).unwrap();
    refused(&other, "cannot replace");
    std::fs::write(&other, r#"{"carp":2,"name":"kv","epoch":3,"members":[]}"#).unwrap();
    refused(&other, "no members");
    std::fs::write(&other, "junk").unwrap();
    refused(&other, "not an array in JSON");
    refused("no/such/file", "No such file");
    let route = |key: &String| {
        at_a(&["carp", "route", key, "--format", "json"]).json()["routes"][0]["owner"].clone()
    };
    let ours = (0..).map(|n| format!("key{n}")).find(|key| route(key) == "a").unwrap();
    assert_eq!(at_a(&["put", &ours, "v"]).code, Some(0));
    at_a(&["carp", "plan", "drain", "a", "--out", &other]);
    refused(&other, "holds 1 keys");
    assert!(at_a(&["carp", "show"]).err.contains("epoch 2"));

    // Who is to be new and cannot be told is named.
    let gone = format!("http://{}", nobody());
    at_a(&["carp", "plan", "add", "c", "--url", &gone, "--out", &other]);
    let lame = at_a(&["--timeout", "1s", "carp", "apply", &other]);
    assert_eq!(lame.code, Some(8), "{lame:?}");
    assert!(lame.err.contains("c: ") && lame.err.contains(&gone), "{lame:?}");
}

/// The example that the draft's readers know (Wessels, Web Caching, appendix C).
#[test]
fn the_draft_is_told_bit_for_bit() {
    let key = "http://www.example.com/";
    let members = [
        "test1.ircache.net",
        "test2.web-cache.com",
        "test3.squid-cache.org=2",
        "test4.packet-pushers.com=3",
    ];
    let mut args = vec!["carp", "draft", "route", key];
    members.iter().for_each(|member| args.extend(["--member", member]));
    let route = kv(&args);
    let told: Vec<(&str, &str)> = route
        .text()
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .map(|fields| (fields[2], fields[4]))
        .collect();
    assert_eq!(
        told,
        [
            ("test1.ircache.net", "2269770900"),
            ("test3.squid-cache.org", "2108602609"),
            ("test4.packet-pushers.com", "1990492503"),
            ("test2.web-cache.com", "1221930866"),
        ]
    );
    let hash = kv(&["carp", "draft", "hash", key, "--member", "test1.ircache.net"]);
    assert!(hash.text().ends_with("96010320\t9b9ab47b\n"), "{hash:?}");
    let table = kv(&["carp", "draft", "table", "--member", "127.0.0.1:8001=2"]);
    let text = table.text();
    assert!(text.starts_with("Proxy Array Information/1.0\r\n"), "{table:?}");
    assert!(carp::draft::MembershipTable::parse(text.as_bytes()).is_ok());
}
