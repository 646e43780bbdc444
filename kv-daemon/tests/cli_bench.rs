//! `kv bench` against a real server, and `kv carp distribution`: what they count is what happened. How
//! fast anything was is not looked at.

mod harness;

use std::process::{Command, Output};

use harness::area::Area;
use harness::daemon::{Daemon, Setup};
use harness::http::Request;
use harness::wait_for;
use serde_json::Value;

fn kv(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.env_remove("KV_SERVER").args(args);
    command.output().expect("kv is built with its tests")
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

fn server(area: &Area) -> Daemon {
    let mut daemon = Setup::new(area.root(), "node1", area.port()).start();
    daemon.wait_alive();
    wait_for("it serves", || {
        let put = Request::put("/kv/ready", b"yes");
        daemon.call(&put).ok().filter(|response| response.status == 201)
    });
    daemon
}

fn keys_below(daemon: &Daemon, prefix: &str) -> u64 {
    let counted = daemon.get(&format!("/kv?prefix={prefix}&count")).unwrap().json();
    counted["count"].as_u64().unwrap()
}

fn revision(daemon: &Daemon) -> u64 {
    daemon.get("/kv?count").unwrap().json()["revision"].as_u64().unwrap()
}

#[test]
fn what_bench_counts_is_what_the_server_did() {
    let area = Area::new();
    let daemon = server(&area);
    let url = format!("127.0.0.1:{}", daemon.setup().port);
    let before = revision(&daemon);

    // A closed loop that only writes: each answer is one revision.
    let args =
        ["-s", &url, "bench", "--seconds", "0.3", "--clients", "3", "--keys", "50", "--json"];
    let ran = json(&kv(&args));
    let writes = ran["writes"]["requests"].as_u64().unwrap();
    assert_eq!(ran["errors"], serde_json::json!({}), "{ran}");
    assert_eq!(revision(&daemon) - before, writes);
    assert_eq!(ran["reads"]["requests"], 0);
    let key = daemon.get("/kv/bench/0000000007").unwrap();
    assert_eq!((key.status, key.body.len()), (200, 256));

    // An open loop that only reads: every key is written first, so every read finds its own.
    let args = [
        "-s",
        &url,
        "bench",
        "--seconds",
        "0.3",
        "--rate",
        "200",
        "--read-ratio",
        "1",
        "--keys",
        "70",
        "--size",
        "9",
        "--json",
    ];
    let ran = json(&kv(&args));
    assert_eq!(keys_below(&daemon, "bench/"), 70);
    assert_eq!((&ran["missing"], &ran["writes"]["requests"]), (&0.into(), &0.into()));
    // 0, 5 ... 295 ms: each start of the rate is accounted for.
    let (reads, missed) = (ran["reads"]["requests"].as_u64(), ran["missed"].as_u64());
    assert_eq!(reads.unwrap() + missed.unwrap(), 60, "{ran}");
}

#[test]
fn bench_says_by_kind_what_failed() {
    let area = Area::new();
    let mut setup = Setup::new(area.root(), "node1", area.port());
    setup.flags = vec!["--max-value-size".into(), "1KiB".into()];
    let mut daemon = setup.start();
    daemon.wait_alive();
    let url = format!("127.0.0.1:{}", setup.port);
    let args = ["-s", &url, "bench", "--seconds", "0.2", "--clients", "1", "--size", "1025"];
    let output = kv(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("not one request was answered: too-large"), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_distribution_counts_every_key_and_is_the_same_everywhere() {
    let args = ["--format", "json", "carp", "distribution", "--keys", "10000", "--weights", "1,3"];
    let counted = json(&kv(&args));
    let families = counted["families"].as_array().unwrap();
    assert_eq!(families.len(), 7);
    for family in families {
        for way in ["draft", "table"] {
            let keys = family[way]["keys"].as_array().unwrap();
            assert_eq!(keys.iter().filter_map(Value::as_u64).sum::<u64>(), 10_000, "{family}");
        }
    }
    assert_eq!(counted["members"][1]["slots"], 12_288);
}

#[test]
fn pictures_are_whole_svg_files() {
    let area = Area::new();
    for picture in ["bars", "bits", "sizes"] {
        let path = area.root().join(format!("{picture}.svg"));
        let path_text = path.to_str().unwrap();
        let args =
            ["carp", "distribution", "--keys", "1000", "--svg", path_text, "--picture", picture];
        let output = kv(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        for tag in ["<title>", "class=\"a\"", "class=\"b\""] {
            assert!(svg.contains(tag), "{picture}: {tag}");
        }
    }
}
