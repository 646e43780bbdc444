//! An array of clusters of one node each, as real processes: whose keys are whose, what clients are
//! told, how a map spreads, and what is refused.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use carp::{Array, Change, MemberId};
use harness::area::Area;
use harness::daemon::{Daemon, Exit, Setup};
use harness::http::{Request, Response};
use harness::{cluster, wait_for};
use serde_json::{Value, json};

/// Clusters `a`, `b` ... and the file they are started with.
struct Clusters {
    // Processes go before the directory they write into: fields drop in this order.
    nodes: BTreeMap<String, Daemon>,
    setups: BTreeMap<String, Setup>,
    map: PathBuf,
    _area: Area,
}

impl Clusters {
    /// Ports and a map for all of these; none is started.
    fn prepare(names: &[&str]) -> Clusters {
        let area = Area::new();
        let map = area.path("carp.json");
        let mut setups = BTreeMap::new();
        for name in names {
            let mut setup = Setup::new(area.root(), &format!("node-{name}"), area.port());
            setup.flags = vec!["--cluster-name".into(), name.to_string()];
            setups.insert(name.to_string(), setup);
        }
        let clusters = Clusters { nodes: BTreeMap::new(), setups, map, _area: area };
        fs::write(&clusters.map, clusters.file(1, names).to_string()).unwrap();
        clusters
    }

    /// The same, each started with the map, and in it.
    fn start(names: &[&str]) -> Clusters {
        let mut clusters = Clusters::prepare(names);
        for name in names {
            clusters.seed(name);
            clusters.begin(name);
        }
        for name in names {
            clusters.wait_epoch(name, 1);
        }
        clusters
    }

    /// A file as a person writes it.
    fn file(&self, epoch: u64, names: &[&str]) -> Value {
        let member = |name: &&str| {
            let url = format!("http://{}", self.setups[*name].address());
            json!({ "id": name, "urls": [url] })
        };
        let members: Vec<Value> = names.iter().map(member).collect();
        json!({ "carp": 2, "name": "kv", "epoch": epoch, "members": members })
    }

    /// This cluster is started with the file from now on.
    fn seed(&mut self, name: &str) {
        let map = self.map.display().to_string();
        let setup = self.setups.get_mut(name).expect("the test names its clusters");
        setup.flags.extend(["--carp".to_owned(), map]);
    }

    fn begin(&mut self, name: &str) {
        let node = self.setups[name].start();
        self.nodes.insert(name.to_owned(), node);
        wait_for(&format!("{name} is ready"), || {
            self.get(name, "/readyz").ok().filter(|response| response.status == 200)
        });
    }

    fn stop(&mut self, name: &str) {
        let mut node = self.nodes.remove(name).expect("the test knows which run");
        assert_eq!(node.terminate().0, Exit::Code(0));
    }

    fn call(&self, name: &str, request: &Request<'_>) -> Response {
        self.nodes[name].call(request).unwrap_or_else(|error| panic!("{name}: {error:?}"))
    }

    fn get(&self, name: &str, target: &str) -> Result<Response, harness::http::Failed> {
        self.nodes[name].get(target)
    }

    fn put_map(&self, name: &str, map: &str) -> Response {
        self.call(name, &Request::put("/carp", map.as_bytes()))
    }

    fn epoch(&self, name: &str) -> Option<u64> {
        header(&self.get(name, "/carp").ok()?, "carp-epoch")?.parse().ok()
    }

    fn wait_epoch(&self, name: &str, epoch: u64) {
        wait_for(&format!("{name} goes by epoch {epoch}"), || {
            (self.epoch(name) == Some(epoch)).then_some(())
        });
    }

    fn array(&self, name: &str) -> Array {
        let response = self.get(name, "/carp").unwrap();
        Array::from_json(&response.body).unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn metric(&self, name: &str, family: &str) -> u64 {
        let text = self.get(name, "/metrics").unwrap().text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{family} ")));
        line.unwrap_or_else(|| panic!("no {family} in {text}")).parse().unwrap()
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

/// Some keys, and one that a cluster owns.
fn keys() -> impl Iterator<Item = String> {
    (0..).map(|n| format!("key-{n:03}"))
}

fn key_of(array: &Array, cluster: &str) -> String {
    let owns = |key: &String| array.route(key.as_bytes()).member.id.as_str() == cluster;
    keys().find(owns).unwrap()
}

fn path(key: &str) -> String {
    format!("/kv/{key}")
}

#[track_caller]
fn problem(response: &Response, status: u16, kind: &str) -> Value {
    let body = response.json();
    assert_eq!(
        (response.status, &body["type"]),
        (status, &json!(format!("urn:kv:{kind}"))),
        "{body}"
    );
    body
}

#[test]
fn every_node_of_every_cluster_gives_the_right_answer() {
    let clusters = Clusters::start(&["a", "b", "c"]);
    let array = clusters.array("a");
    assert_eq!(clusters.array("b"), array, "each worked the same table out");
    let names = ["a", "b", "c"];
    let some: Vec<String> = keys().take(60).collect();
    for (n, key) in some.iter().enumerate() {
        let asked = names[n % 3];
        let response = clusters.call(asked, &Request::put(&path(key), key.as_bytes()));
        assert_eq!(response.status, 201, "{key}: {}", response.text());
        assert_eq!(header(&response, "carp-epoch"), Some("1"));
    }
    for (n, key) in some.iter().enumerate() {
        let response = clusters.get(names[(n + 1) % 3], &path(key)).unwrap();
        assert_eq!((response.status, response.text()), (200, key.clone()));
        let stale = clusters.get(names[(n + 2) % 3], &format!("{}?stale", path(key))).unwrap();
        assert_eq!(stale.text(), *key);
    }
    // Each key is where it belongs and nowhere else.
    for name in names {
        let listed = clusters.get(name, "/kv?keys&limit=1000").unwrap().json();
        for item in listed["items"].as_array().unwrap() {
            let key = item["key"].as_str().unwrap();
            assert_eq!(array.route(key.as_bytes()).member.id.as_str(), name, "{key}");
        }
        assert!(0 < clusters.metric(name, "kv_carp_forwarded_total"));
        assert_eq!(clusters.metric(name, "kv_carp_epoch"), 1);
        assert!(5461 <= clusters.metric(name, "kv_carp_slots_owned"));
    }

    // Conditions, absent keys and deletes are those of the owner too.
    let (theirs, of_b) = (key_of(&array, "b"), path(&key_of(&array, "b")));
    let created = Request::put(&of_b, b"x").with(&["If-None-Match: *"]);
    problem(&clusters.call("a", &created), 412, "precondition");
    assert_eq!(clusters.call("c", &Request::new("DELETE", &of_b)).json()["deleted"], 1);
    problem(&clusters.get("a", &of_b).unwrap(), 404, "no-key");
    assert_eq!(clusters.call("a", &created).status, 201, "{theirs}");
}

#[test]
fn a_client_with_a_map_is_told_the_owner() {
    let clusters = Clusters::start(&["a", "b"]);
    let array = clusters.array("a");
    let (ours, theirs) = (path(&key_of(&array, "a")), path(&key_of(&array, "b")));
    let with_epoch = |target, epoch| clusters.call("a", &Request::put(target, b"v").with(&[epoch]));
    let told = with_epoch(&theirs, "Carp-Epoch: 1");
    let body = problem(&told, 421, "moved");
    let moved = carp::Moved::from_json(&told.body).expect("a redirect");
    let slot = array.slot(key_of(&array, "b").as_bytes());
    assert_eq!((moved.slot, moved.owner, moved.slot_epoch, moved.epoch.0), (slot, id("b"), 1, 1));
    assert_eq!(moved.urls, [format!("http://{}", clusters.setups["b"].address())]);
    assert_eq!(body["outcome"], "not_applied");
    let read = clusters.call("a", &Request::get(&theirs).with(&["Carp-Epoch: 1"]));
    assert_eq!((read.status, read.json()["outcome"].is_null()), (421, true));
    assert_eq!(with_epoch(&ours, "Carp-Epoch: 1").status, 201);
    // A client whose map is newer than ours knows better: its request goes on.
    assert_eq!(with_epoch(&theirs, "Carp-Epoch: 2").status, 201);
    problem(&with_epoch(&theirs, "Carp-Epoch: x"), 400, "invalid");
    assert_eq!(clusters.metric("a", "kv_carp_misdirected_total"), 2);

    // Hops are counted, so that two that are wrong about each other come to an end.
    let tired = clusters.call("a", &Request::get(&theirs).with(&["KV-Forwarded: 3"]));
    problem(&tired, 503, "too-many-hops");
}

#[test]
fn a_list_over_all_clusters_is_one_list() {
    let mut clusters = Clusters::start(&["a", "b", "c"]);
    let wanted: Vec<String> = keys().take(100).collect();
    for key in &wanted {
        assert_eq!(clusters.call("a", &Request::put(&path(key), key.as_bytes())).status, 201);
    }
    for (asked, limit) in [("a", 7), ("b", 33), ("c", 100), ("a", 1000)] {
        let (mut found, mut cursor, mut pages) = (Vec::new(), String::new(), Vec::new());
        loop {
            let page = clusters.get(asked, &format!("/kv?scatter&limit={limit}{cursor}")).unwrap();
            let page = page.json();
            let items = page["items"].as_array().unwrap_or_else(|| panic!("{page}")).clone();
            pages.push(items.len());
            for item in &items {
                assert_eq!(item["key"], item["value"]);
                found.push(item["key"].as_str().unwrap().to_owned());
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, wanted, "in order, each once");
        let (last, full) = pages.split_last().unwrap();
        assert!(full.iter().all(|page| *page == limit) && *last <= limit, "{limit}: {pages:?}");
    }
    let part = "/kv?scatter&prefix=key-01&start=key-013&keys";
    let page = clusters.get("b", part).unwrap().json();
    let found: Vec<&str> =
        page["items"].as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(found, wanted[13..20]);
    let count = clusters.get("c", "/kv?scatter&count").unwrap().json();
    assert_eq!(count["count"], 100);

    // Never a short list: the cluster that is away is named.
    clusters.stop("b");
    let short = clusters.get("a", "/kv?scatter&keys").unwrap();
    let body = problem(&short, 503, "unreachable");
    assert_eq!(body["cluster"], "b");
    let array = clusters.array("a");
    let write = clusters.call("a", &Request::put(&path(&key_of(&array, "b")), b"x"));
    let body = problem(&write, 503, "unreachable");
    assert_eq!((&body["cluster"], &body["outcome"]), (&json!("b"), &json!("not_applied")));
    assert_eq!(clusters.call("a", &Request::put(&path(&key_of(&array, "c")), b"x")).status, 200);
}

/// Such a cluster holds whatever it was given, not its part of our keys.
#[test]
fn a_list_over_all_clusters_fails_while_one_of_them_has_no_map() {
    let mut clusters = Clusters::prepare(&["a", "b"]);
    for name in ["a", "b"] {
        clusters.begin(name);
    }
    let map = clusters.file(1, &["a", "b"]).to_string();
    assert_eq!(clusters.call("b", &Request::put("/kv/stray", b"v")).status, 201);
    assert_eq!(clusters.put_map("a", &map).status, 200);
    for target in ["/kv?scatter", "/kv?scatter&count", "/kv?scatter&stale"] {
        let body = problem(&clusters.get("a", target).unwrap(), 503, "map-missing");
        assert_eq!((&body["cluster"], &body["outcome"]), (&json!("b"), &Value::Null));
    }
    assert_eq!(clusters.call("b", &Request::new("DELETE", "/kv/stray")).status, 200);
    assert_eq!(clusters.put_map("b", &map).status, 200);
    let count = clusters.get("a", "/kv?scatter&count").unwrap().json();
    assert_eq!(count["count"], 0, "{count}");
}

#[test]
fn bad_maps_are_refused_and_the_old_one_stays() {
    let clusters = Clusters::start(&["a", "b"]);
    let before = clusters.array("a");
    let good = clusters.file(2, &["a", "b"]);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut map = good.clone();
        change(&mut map);
        map.to_string()
    };
    let whole = |change: &dyn Fn(&mut Value)| {
        let mut map: Value = serde_json::from_str(&before.to_json()).unwrap();
        map["epoch"] = json!(2);
        change(&mut map);
        map.to_string()
    };
    let cases: Vec<(String, u16, &str)> = vec![
        (with(&|map| map["members"] = json!([])), 400, "no members"),
        (with(&|map| map["members"][1]["id"] = json!("a")), 400, "two members are called a"),
        (whole(&|map| map["table"] = json!("AQAB")), 400, "numbers for 16384 slots"),
        (whole(&|map| map["members"][0]["slots"] = json!(3)), 400, "is said to own 3 slots"),
        (whole(&|map| map["members"] = json!([{"id": "a"}])), 400, "belongs to member number 1"),
        (with(&|map| map["epoch"] = json!(0)), 409, "cannot replace one of epoch 1"),
        (with(&|map| map["epoch"] = json!(1)), 200, ""),
        (with(&|map| (map["epoch"], map["ttl_s"]) = (json!(1), json!(9))), 409, "of epoch 1"),
        (with(&|map| map["name"] = json!("other")), 409, "cannot replace"),
        (with(&|map| map["members"] = json!([{"id": "b"}])), 409, "is no member"),
        (with(&|map| map["carp"] = json!(3)), 400, "form 3"),
        ("[".repeat(1 << 20), 400, "not an array in JSON"),
        ("\0".repeat(1 << 20), 400, "not an array in JSON"),
        (" ".repeat(5 << 20), 413, "At most 4MiB"),
        (String::new(), 400, "not an array in JSON"),
    ];
    for (map, status, why) in cases {
        let response = clusters.put_map("a", &map);
        let text = response.text();
        assert_eq!(response.status, status, "{why}: {text}");
        let said = text.to_lowercase().contains(&why.to_lowercase());
        assert!(said && text.len() < 1000, "{why}: {text}");
        assert_eq!(clusters.array("a"), before, "{why}");
    }

    // Keys would be lost: how many is said, and they stay.
    let drained = {
        let mut map = before.clone();
        map.apply_plan(&before.plan(Change::Drain(id("a"))).unwrap()).unwrap();
        map.to_json()
    };
    let ours = path(&key_of(&before, "a"));
    assert_eq!(clusters.call("b", &Request::put(&ours, b"v")).status, 201);
    let refused = problem(&clusters.put_map("a", &drained), 409, "map-refused");
    assert!(refused["detail"].as_str().unwrap().contains("holds 1 keys"), "{refused}");

    // Also when another cluster has taken that map: it does not serve what was not let go of, and
    // sends on to whoever still has it.
    assert_eq!(clusters.put_map("b", &drained).status, 200);
    let log = &clusters.nodes["a"];
    log.wait_log("is not taken, the old one stays: this cluster holds 1 keys");
    assert_eq!(clusters.epoch("a"), Some(1));
    assert_eq!(clusters.get("b", &ours).unwrap().text(), "v");
    let write = clusters.call("b", &Request::put(&ours, b"w").with(&["Carp-Epoch: 2"]));
    assert_eq!(write.status, 200, "{}", write.text());
    assert_eq!(clusters.metric("b", "kv_carp_slots_coming"), before.counts()[0] as u64);
    // Once the key is gone a lets go, and b serves it.
    assert_eq!(clusters.call("b", &Request::new("DELETE", &ours)).status, 200);
    clusters.wait_epoch("a", 2);
    wait_for("b serves all", || {
        (clusters.metric("b", "kv_carp_slots_owned") == 16384).then_some(())
    });
    assert_eq!(clusters.call("a", &Request::put(&ours, b"v")).status, 201);
    assert_eq!(clusters.get("b", "/kv?count").unwrap().json()["count"], 1);
}

#[test]
fn a_map_spreads_from_one_cluster_to_all_and_is_there_after_a_restart() {
    let mut clusters = Clusters::prepare(&["a", "b", "c"]);
    // Nobody has a map yet: each cluster owns every key.
    for name in ["a", "b", "c"] {
        clusters.begin(name);
        let none = clusters.get(name, "/carp").unwrap();
        problem(&none, 404, "no-map");
        assert_eq!(header(&none, "carp-epoch"), None);
        assert_eq!(clusters.call(name, &Request::put("/kv/x", b"v")).status, 201);
        assert_eq!(clusters.call(name, &Request::new("DELETE", "/kv/x")).status, 200);
    }
    let first = clusters.file(1, &["a", "b"]).to_string();
    for name in ["a", "b"] {
        assert_eq!(clusters.put_map(name, &first).json(), json!({"epoch": 1, "changed": true}));
    }
    assert_eq!(clusters.put_map("a", &first).json(), json!({"epoch": 1, "changed": false}));

    // One more member: told to one cluster, known to all, and its slots are served once the others
    // have let go of them.
    let second = clusters.file(2, &["a", "b", "c"]).to_string();
    assert_eq!(clusters.put_map("a", &second).json()["epoch"], 2);
    let table = clusters.get("a", "/carp").unwrap().text();
    clusters.wait_epoch("b", 2);
    assert_eq!(clusters.put_map("c", &table).status, 200);
    wait_for("c serves its share", || {
        (clusters.metric("c", "kv_carp_slots_owned") == 5461).then_some(())
    });
    let array = clusters.array("c");
    let of_c = path(&key_of(&array, "c"));
    assert_eq!(clusters.call("a", &Request::put(&of_c, b"v")).status, 201);
    let check = clusters.call("b", &Request::new("POST", "/carp/check")).json();
    assert_eq!((&check["agree"], &check["epoch"]), (&json!(true), &json!(2)), "{check}");

    clusters.stop("c");
    let check = clusters.call("b", &Request::new("POST", "/carp/check")).json();
    assert_eq!(check["agree"], false, "{check}");
    clusters.begin("c");
    clusters.wait_epoch("c", 2);
    assert_eq!(clusters.array("c"), array);
    assert_eq!(clusters.get("b", &of_c).unwrap().text(), "v");
    // A snapshot in place of the log holds the map too.
    assert_eq!(clusters.call("c", &Request::new("POST", "/cluster/snapshot")).status, 200);
    clusters.stop("c");
    clusters.begin("c");
    clusters.wait_epoch("c", 2);
    assert_eq!(clusters.get("c", &of_c).unwrap().text(), "v");
    let status = clusters.get("c", "/cluster/status").unwrap().json();
    assert_eq!((&status["cluster_name"], &status["carp_epoch"]), (&json!("c"), &json!(2)));
    let config = clusters.get("c", "/config").unwrap().json();
    assert_eq!((&config["cluster_name"], &config["carp_epoch"]), (&json!("c"), &json!(2)));
}

#[test]
fn a_seed_counts_while_there_is_no_newer_map() {
    let mut clusters = Clusters::start(&["a", "b"]);
    let before = clusters.array("a");
    // An older file, and one of the same epoch that says something else: the old map stays.
    let mut other = clusters.file(1, &["a", "b"]);
    other["ttl_s"] = json!(5);
    let second = clusters.file(2, &["a", "b"]).to_string();
    fs::write(&clusters.map, other.to_string()).unwrap();
    clusters.stop("a");
    clusters.begin("a");
    clusters.nodes["a"].wait_log("two different arrays of epoch 1");
    assert_eq!(clusters.array("a"), before);

    fs::write(&clusters.map, &second).unwrap();
    clusters.stop("a");
    clusters.begin("a");
    clusters.wait_epoch("a", 2);
    clusters.wait_epoch("b", 2);
    fs::write(&clusters.map, clusters.file(1, &["a", "b"]).to_string()).unwrap();
    clusters.stop("b");
    clusters.begin("b");
    clusters.nodes["b"].wait_log("a copy of epoch 1 cannot replace one of epoch 2");
    assert_eq!(clusters.epoch("b"), Some(2));

    // What cannot be a beginning ends the start, in one sentence.
    for (file, why) in [
        (clusters.file(1, &["b"]).to_string(), "--cluster-name a is no member"),
        ("{}".to_owned(), "not an array in JSON"),
    ] {
        fs::write(&clusters.map, file).unwrap();
        clusters.stop("a");
        let (exit, node) = clusters.setups["a"].run();
        assert_eq!(exit, Exit::Code(2));
        assert!(node.stderr().contains(why), "{}", node.stderr());
        fs::write(&clusters.map, &second).unwrap();
        clusters.begin("a");
    }
}

#[test]
fn the_map_is_shown_in_many_ways() {
    let clusters = Clusters::start(&["a", "b"]);
    let array = clusters.array("a");
    let whole = clusters.get("a", "/carp").unwrap();
    assert!(whole.body.len() <= 64 << 10, "{}", whole.body.len());
    assert_eq!(header(&whole, "etag"), Some("\"1\""));
    assert_eq!(
        (header(&whole, "carp-cluster"), header(&whole, "carp-settled")),
        (Some("a"), Some("1"))
    );
    let known = clusters.call("a", &Request::get("/carp").with(&["If-None-Match: \"1\""]));
    assert_eq!((known.status, known.body.len()), (304, 0));
    let waited = clusters.get("a", "/carp?wait=1&timeout=200ms").unwrap();
    assert_eq!(waited.status, 304);
    assert_eq!(clusters.get("a", "/carp?wait=0").unwrap().status, 200);

    // A long poll is answered when the map changes.
    let port = clusters.setups["a"].port;
    let poll = std::thread::spawn(move || {
        harness::http::once(port, &Request::get("/carp?wait=1&timeout=15s"))
    });
    let mut second = clusters.file(2, &["a", "b"]);
    second["members"][0]["weight"] = json!(3);
    assert_eq!(clusters.put_map("a", &second.to_string()).status, 200);
    let polled = poll.join().unwrap().unwrap();
    let after = Array::from_json(&polled.body).unwrap();
    assert_eq!((polled.status, after.epoch().0, after.counts()[0]), (200, 2, 12288));

    let changed = clusters.get("a", "/carp?since=1").unwrap().json();
    assert_eq!(changed["changes"].as_array().unwrap().len(), array.diff(&after).len());
    assert!(clusters.get("a", "/carp?since=77").unwrap().json()["table"].is_string());
    let ranges = clusters.get("a", "/carp?format=ranges").unwrap().json();
    assert_eq!(ranges["members"][0]["slots"], 12288);
    assert!(ranges["members"][0]["ranges"].as_str().unwrap().contains('-'));
    let text = clusters.get("a", "/carp.txt").unwrap().text();
    assert!(
        text.starts_with("Proxy Array Information/1.0\r\nArrayEnabled: 1\r\nConfigID: 2\r\n"),
        "{text}"
    );
    carp::draft::MembershipTable::parse(text.as_bytes()).expect("the draft's readers can read it");

    let route = clusters.get("b", "/carp/route?key=%7Buser:7%7D/name").unwrap().json();
    assert_eq!(
        (&route["hashed"], &route["slot"]),
        (&json!("user:7"), &json!(array.slot(b"user:7").0))
    );
    let slot = clusters.get("b", &format!("/carp/slots/{}", route["slot"])).unwrap().json();
    assert_eq!((&slot["owner"], &slot["rank"]), (&route["owner"], &route["rank"]));
    problem(&clusters.get("a", "/carp/slots/16384").unwrap(), 404, "no-slot");
    problem(&clusters.get("a", "/carp/route").unwrap(), 400, "invalid");

    let key = key_of(&after, "a");
    clusters.call("a", &Request::put(&path(&key), b"12345"));
    let stats = clusters.get("a", "/carp/stats").unwrap().json();
    assert_eq!((&stats["keys"], &stats["slots_in_use"]), (&json!(1), &json!(1)));
    let top = json!({"slot": after.slot(key.as_bytes()).0, "keys": 1, "bytes": key.len() + 5});
    assert_eq!(stats["top"], json!([top]));

    let plan = |body: Value| {
        let body = body.to_string();
        clusters.call("a", &Request { body: body.as_bytes(), ..Request::new("POST", "/carp/plan") })
    };
    let planned = plan(json!({"add": {"id": "c", "urls": ["http://127.0.0.1:9"]}})).json();
    assert_eq!((&planned["moved"], &planned["epoch_then"]), (&planned["least"], &json!(3)));
    assert!(Array::from_json(planned["map"].to_string().as_bytes()).is_ok());
    problem(&plan(json!({"drain": "z"})), 409, "plan");
    problem(&plan(json!({"drain": "a b"})), 400, "invalid");
    assert_eq!(clusters.epoch("a"), Some(2), "a plan changes nothing");
}

/// Every node of a cluster of three serves the whole array, whoever leads.
#[test]
fn followers_forward_and_take_maps_too() {
    let mut three = cluster::Cluster::prepare(3, &["--cluster-name", "a"]);
    three.start_all();
    three.wait_leader();
    let other = Area::new();
    let mut setup = Setup::new(other.root(), "node-b", other.port());
    setup.flags = vec!["--cluster-name".into(), "b".into()];
    let mut alone = setup.start();
    alone.wait_alive();
    let urls: Vec<String> =
        three.ports().iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let map = json!({"carp": 2, "name": "kv", "members": [
        {"id": "a", "urls": urls},
        {"id": "b", "urls": [format!("http://{}", setup.address())]},
    ]});
    let map = map.to_string();
    wait_for("b takes the map", || {
        let taken = alone.call(&Request::put("/carp", map.as_bytes())).ok()?;
        (taken.status == 200).then_some(())
    });
    let follower = (0..3).find(|i| three.health(*i).is_some_and(|h| h.role == "follower")).unwrap();
    let taken = three.daemon(follower).call(&Request::put("/carp", map.as_bytes())).unwrap();
    assert_eq!(taken.status, 200, "{}", taken.text());
    for n in 0..30 {
        let key = path(&format!("key-{n}"));
        let put = three.daemon(n % 3).call(&Request::put(&key, b"v")).unwrap();
        assert_eq!(put.status, 201, "{}", put.text());
        assert_eq!(alone.get(&key).unwrap().text(), "v");
    }
    // b sends on to whichever node of a answers.
    let away = (0..3).find(|i| *i != follower).unwrap();
    three.kill(away);
    for n in 0..30 {
        let key = path(&format!("key-{n}"));
        let found = wait_for("the rest of a leads", || {
            alone.get(&key).ok().filter(|response| response.status == 200)
        });
        assert_eq!(found.text(), "v");
    }
}
