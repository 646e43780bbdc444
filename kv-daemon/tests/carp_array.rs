//! Three clusters of three nodes, as `kv dev up` starts them: what an array of clusters promises to
//! whoever writes and reads, at any node of any of them.
//!
//! `KEYS=100000 cargo test --release -p kv-daemon --test carp_array -- --nocapture` writes that many
//! keys, asks that each cluster holds its share within 2 %, and prints times and shares.

#![allow(clippy::print_stdout, reason = "shares and times are what the long form is run for")]

mod cli_common;
mod harness;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use carp::Array;
use cli_common::kv;
use harness::area::Area;
use harness::history::Fate;
use harness::http::{Connection, Failed, PATIENCE, Request, Response, once};
use harness::load::fate;
use harness::{count, wait_for};
use kv_daemon::client::{Client, Settings, When};
use serde_json::{Value, json};

const CLUSTERS: [&str; 3] = ["a", "b", "c"];
/// Nodes of each cluster.
const NODES: u16 = 3;
/// Clients that fill and read an array at the same time.
const HANDS: usize = 12;
/// The load goes on for so long after a leader was killed.
const AFTERMATH: Duration = Duration::from_secs(3);
/// A writer of the ledger rests so long between two writes.
const REST: Duration = Duration::from_millis(3);

/// Nine processes, stopped at the end, also when a check fails.
struct Nine {
    area: Area,
    base: u16,
}

impl Nine {
    fn start() -> Nine {
        let area = Area::new();
        let base = area.ports(NODES * CLUSTERS.len() as u16);
        let nine = Nine { area, base };
        let (dir, port) = (nine.dir(), base.to_string());
        let up = ["dev", "up", "--detach", "-n", "3", "--clusters", "3", "--dir", &dir];
        let ran = kv(&[&up[..], &["--port-base", &port]].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        nine
    }

    fn dir(&self) -> String {
        self.area.path("dev").display().to_string()
    }

    /// A node's port, from the place of its cluster and its own in it.
    fn port(&self, cluster: usize, node: usize) -> u16 {
        self.base + cluster as u16 * NODES + node as u16
    }

    fn ports(&self) -> Vec<u16> {
        (self.base..self.base + NODES * CLUSTERS.len() as u16).collect()
    }

    fn array(&self, port: u16) -> Array {
        let told = once(port, &Request::get("/carp")).unwrap();
        Array::from_json(&told.body).unwrap_or_else(|fault| panic!("{port}: {fault}"))
    }

    fn metrics(&self, family: &str) -> Vec<u64> {
        let metric = |port| {
            let text = once(port, &Request::get("/metrics")).unwrap().text();
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{family} ")));
            line.unwrap_or_else(|| panic!("no {family} in {text}")).parse().unwrap()
        };
        self.ports().into_iter().map(metric).collect()
    }

    /// Term and leader of a cluster, once one of its nodes names one.
    fn led(&self, cluster: usize) -> (u64, String) {
        wait_for("a leader", || {
            (0..usize::from(NODES)).find_map(|node| {
                let said = once(self.port(cluster, node), &Request::get("/health")).ok()?.json();
                let leader = said["leader"].as_str().filter(|_| said["status"] == "ok")?;
                Some((said["term"].as_u64()?, leader.to_owned()))
            })
        })
    }

    /// `kill -9` for the node of this name, by the process id that `kv dev` wrote down.
    fn kill_9(&self, name: &str) {
        let state = std::fs::read(self.area.path("dev/dev.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        let pid = state["nodes"][name]["pid"].as_u64().expect("a process id").to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
}

impl Drop for Nine {
    fn drop(&mut self) {
        let down = kv(&["dev", "down", "--dir", &self.dir()]);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.area.path("dev/log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(150)..];
            println!("{down:?}\n---- the end of the log of all ----\n{}", tail.join("\n"));
        }
    }
}

fn key(number: usize) -> String {
    format!("user:{number:06}")
}

fn value(key: &str) -> String {
    format!("what {key} holds")
}

/// Does something for each number below `count`, by several hands, each with its own connections.
fn share_out(count: usize, work: impl Fn(&mut Connections, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                let mut connections = Connections::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if count <= number {
                        break;
                    }
                    work(&mut connections, number);
                }
            });
        }
    });
}

/// Kept connections, by port.
#[derive(Default)]
struct Connections(BTreeMap<u16, Connection>);

impl Connections {
    fn call(&mut self, port: u16, request: &Request<'_>) -> Result<Response, Failed> {
        let mut connection = match self.0.remove(&port) {
            Some(kept) if !kept.is_closed() => kept,
            _ => Connection::open(port, PATIENCE).map_err(Failed::NothingSent)?,
        };
        let response = connection.call(request).map_err(Failed::Broken)?;
        if response.header("connection") != Some("close") {
            self.0.insert(port, connection);
        }
        Ok(response)
    }
}

#[test]
fn every_key_is_read_everywhere_and_each_cluster_holds_its_share() {
    let nine = Nine::start();
    let keys = count("KEYS", 1500);
    let (forwarded, all) = (keys / 2, keys);

    // Half of them through one node of one cluster: what is not its own it forwards.
    let begun = Instant::now();
    let one = nine.port(0, 0);
    share_out(forwarded, |connections, number| {
        let (key, value) = (key(number), value(&key(number)));
        let target = format!("/kv/{key}");
        let put = connections.call(one, &Request::put(&target, value.as_bytes())).unwrap();
        assert_eq!(put.status, 201, "{key}: {}", put.text());
    });
    println!("{forwarded} keys through one node in {:.1?}", begun.elapsed());
    let forwards = nine.metrics("kv_carp_forwarded_total");
    let array = nine.array(one);
    let is_others = |number: &usize| array.route(key(*number).as_bytes()).member.id.as_str() != "a";
    assert_eq!(forwards[0], (0..forwarded).filter(is_others).count() as u64);
    assert_eq!(forwards[1..], [0; 8], "whoever it is handed to keeps it");

    // The other half as `kv` writes them: each to its owner at once, whichever node it was told of.
    let begun = Instant::now();
    put_by_client(nine.port(1, 1), forwarded..all);
    println!("{} keys by the client in {:.1?}", all - forwarded, begun.elapsed());
    for (turn, number) in (all..all + 9).enumerate() {
        let port = nine.ports()[turn].to_string();
        let put = kv(&["-p", &port, "-q", "put", &key(number), &value(&key(number))]);
        assert_eq!(put.code, Some(0), "{put:?}");
    }
    let all = all + 9;
    assert_eq!(nine.metrics("kv_carp_forwarded_total"), forwards, "nothing had to be forwarded");
    assert_eq!(nine.metrics("kv_carp_misdirected_total"), [0; 9]);

    // Each key at a node of each cluster, all nodes in turn, and all of them at every node.
    let begun = Instant::now();
    share_out(all, |connections, number| {
        let (key, target) = (key(number), format!("/kv/{}", key(number)));
        for cluster in 0..CLUSTERS.len() {
            let port = nine.port(cluster, (number + cluster) % usize::from(NODES));
            let got = connections.call(port, &Request::get(&target)).unwrap();
            assert_eq!((got.status, got.text()), (200, value(&key)), "{key} at {port}");
        }
    });
    println!("{} reads in {:.1?}", all * CLUSTERS.len(), begun.elapsed());
    let begun = Instant::now();
    nine.ports().into_iter().for_each(|port| assert_lists_all(port, all));
    println!("{} lists of all in {:.1?}", nine.ports().len(), begun.elapsed());

    let mut sum = 0;
    for (place, cluster) in CLUSTERS.iter().enumerate() {
        let stats = once(nine.port(place, 2), &Request::get("/carp/stats?top=0")).unwrap().json();
        let held = stats["keys"].as_u64().unwrap();
        let share = array.counts()[place] as f64 / array.slots().count() as f64;
        let due = share * all as f64;
        let off = held as f64 - due;
        println!("{cluster} holds {held}, its share is {due:.0}: {:+.2} %", 100.0 * off / due);
        // Of few keys a fair draw differs by more: four standard deviations.
        let bound = (0.02 * due).max(4.0 * (due * (1.0 - share)).sqrt());
        assert!(off.abs() <= bound, "{cluster} holds {held} of {all}, not {due:.0} +- {bound:.0}");
        sum += held;
    }
    assert_eq!(sum, all as u64, "each key is in one cluster and in no other");
}

/// Writes these keys by the library `kv` is made of, many at a time.
fn put_by_client(port: u16, numbers: std::ops::Range<usize>) {
    let mut settings = Settings::new(vec![format!("127.0.0.1:{port}").parse().unwrap()]);
    settings.timeout = PATIENCE;
    let client = Client::new(settings);
    let numbers = Arc::new(std::sync::Mutex::new(numbers));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hands: Vec<_> = (0..HANDS)
            .map(|_| {
                let (client, numbers) = (client.clone(), Arc::clone(&numbers));
                tokio::spawn(async move {
                    let next = || numbers.lock().unwrap().next();
                    while let Some(number) = next() {
                        let (key, value) = (key(number), value(&key(number)));
                        let put = client.put(key.as_bytes(), value, When::Absent).await;
                        assert!(put.is_ok_and(|put| put.created), "{key}");
                    }
                })
            })
            .collect();
        for hand in hands {
            hand.await.unwrap();
        }
    });
}

/// A node lists all keys of all clusters in order, each once, with its value.
fn assert_lists_all(port: u16, all: usize) {
    let mut connections = Connections::default();
    let (mut listed, mut cursor) = (0, String::new());
    loop {
        let target = format!("/kv?scatter&limit=10000{cursor}");
        let page = connections.call(port, &Request::get(&target)).unwrap();
        assert_eq!(page.status, 200, "{port}: {}", page.text());
        let page = page.json();
        for item in page["items"].as_array().unwrap() {
            let key = key(listed);
            assert_eq!((&item["key"], &item["value"]), (&json!(key), &json!(value(&key))));
            listed += 1;
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(listed, all, "at {port}");
}

#[test]
fn whoever_is_wrong_is_told_so_and_the_map_stays() {
    let nine = Nine::start();
    let first = nine.array(nine.port(0, 0));

    let whole = |epoch: u64, change: &dyn Fn(&mut Value)| {
        let mut map: Value = serde_json::from_str(&first.to_json()).unwrap();
        map["epoch"] = json!(epoch);
        change(&mut map);
        map.to_string()
    };
    // A newer map, told to one node, is known to all; the one before is stale.
    let newer = whole(2, &|map| map["ttl_s"] = json!(77));
    let put = once(nine.port(1, 2), &Request::put("/carp", newer.as_bytes())).unwrap();
    assert_eq!((put.status, put.json()["epoch"].as_u64()), (200, Some(2)), "{}", put.text());
    for port in nine.ports() {
        wait_for("the newer map", || (nine.array(port).epoch().0 == 2).then_some(()));
    }
    let second = nine.array(nine.port(2, 1));

    // Bad maps, given to any node of any cluster: the fault is named, the map stays everywhere.
    let written = |members: Value, epoch: u64| {
        json!({"carp": 2, "name": "dev", "epoch": epoch, "members": members}).to_string()
    };
    let junk: String = "{\"carp\":2,\"name\":[".chars().cycle().take(1 << 20).collect();
    let bad = [
        (written(json!([]), 3), 400, "no members"),
        (whole(3, &|map| map["members"] = json!([{"id": "a"}])), 400, "belongs to member number"),
        (written(json!([{"id": "a"}, {"id": "a"}]), 3), 400, "two members are called a"),
        (whole(3, &|map| map["members"][0]["slots"] = json!(3)), 400, "is said to own 3 slots"),
        (whole(1, &|_| {}), 409, "cannot replace one of epoch 2"),
        (junk, 400, "not an array in JSON"),
    ];
    for (turn, (map, status, why)) in bad.iter().enumerate() {
        for port in [nine.ports()[turn], nine.ports()[8 - turn]] {
            let told = once(port, &Request::put("/carp", map.as_bytes())).unwrap();
            let text = told.text();
            assert_eq!(told.status, *status, "{why}: {text}");
            let said = text.to_lowercase().contains(&why.to_lowercase());
            assert!(said && text.len() < 1000, "{why}: {text}");
        }
    }
    for port in nine.ports() {
        assert_eq!(nine.array(port), second, "at {port}");
    }

    let owner = |key: &String| first.route(key.as_bytes()).member.id.to_string();
    let key = (0..).map(key).find(|key| owner(key) == "c").unwrap();
    assert_eq!(kv(&["-p", &nine.base.to_string(), "put", &key, "mine"]).code, Some(0));
    for node in 0..6 {
        let url = format!("http://127.0.0.1:{}/kv/{key}", nine.ports()[node]);
        let (status, told) = curl(&["-H", "Carp-Epoch: 1", &url]);
        let told: Value = serde_json::from_str(&told).unwrap();
        let said = (status, &told["owner"], &told["epoch"], &told["type"]);
        assert_eq!(said, (421, &json!("c"), &json!(2), &json!("urn:kv:moved")));
        // Whoever goes where it is told is served, with the same header.
        for place in 0..usize::from(NODES) {
            let url = told["urls"][place].as_str().unwrap();
            let got = curl(&["-H", "Carp-Epoch: 1", &format!("{url}/kv/{key}")]);
            assert_eq!(got, (200, "mine".to_owned()));
        }
        assert_eq!(curl(&[&url]), (200, "mine".to_owned()), "without the header it is forwarded");
    }
}

fn curl(args: &[&str]) -> (u16, String) {
    let output = Command::new("curl").args(["-s", "-w", "\n%{http_code}"]).args(args).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// A write of the ledger: every key is written once.
struct Entry {
    key: String,
    fate: Fate,
    begun: Instant,
}

/// Dropped, it ends the writers, also when a check fails that they would outlive.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who writes keys of one cluster at nodes of one cluster.
#[derive(Clone, Copy, Debug)]
struct Role {
    writer: usize,
    /// Whose keys, and whose nodes, as places in [`CLUSTERS`].
    owner: usize,
    at: usize,
}

impl Role {
    /// Writes key after key until it is told to stop; after a failure it goes to the next node.
    fn write(self, array: &Array, ports: [u16; 3], stop: &AtomicBool) -> Vec<Entry> {
        let mut connections = Connections::default();
        let (mut ledger, mut node) = (Vec::new(), self.writer);
        let keys = (0..).map(|number| format!("ledger:{}:{number}", self.writer));
        let owner = CLUSTERS[self.owner];
        let owned = |key: &String| array.route(key.as_bytes()).member.id.as_str() == owner;
        for key in keys.filter(owned) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (target, value) = (format!("/kv/{key}"), value(&key));
            let begun = Instant::now();
            let put = Request::put(&target, value.as_bytes());
            let fate = fate(connections.call(ports[node % 3], &put));
            if !matches!(fate, Fate::Done { .. }) {
                node += 1;
            }
            ledger.push(Entry { key, fate, begun });
            std::thread::sleep(REST);
        }
        ledger
    }
}

/// What became of the writers of the clusters whose leader nobody killed.
#[derive(Debug, PartialEq, Eq)]
enum Others {
    /// Not one error, and their leaders are who they were.
    Untouched,
    /// A leader of theirs was lost too. On a machine that lets processes wait for long, that may have
    /// nothing to do with the kill.
    Elected,
}

#[test]
fn a_killed_leader_loses_nothing_and_the_other_clusters_do_not_notice() {
    let untouched = (1..=3).any(|turn| {
        let others = kill_a_leader();
        println!("turn {turn}: the others: {others:?}");
        others == Others::Untouched
    });
    assert!(untouched, "each time a leader was killed, another cluster lost its own");
}

/// Kills a leader under load; checks all that was promised of every write.
fn kill_a_leader() -> Others {
    let nine = Nine::start();
    let struck = 0;
    let array = nine.array(nine.base);
    let ports = |cluster| [0, 1, 2].map(|node| nine.port(cluster, node));
    let before: Vec<(u64, String)> = (0..3).map(|cluster| nine.led(cluster)).collect();

    // Keys of each cluster at its own nodes and at those of the others. Nobody writes at the struck
    // cluster what is not its own: one of its nodes goes away under whoever speaks to it.
    let ways = (0..3).flat_map(|owner| (0..3).map(move |at| (owner, at)));
    let ways = ways.filter(|(owner, at)| *at != struck || *owner == struck);
    let roles: Vec<Role> = ways
        .cycle()
        .take(14)
        .enumerate()
        .map(|(writer, (owner, at))| Role { writer, owner, at })
        .collect();
    let stop = AtomicBool::new(false);
    let (ledgers, killed) = std::thread::scope(|scope| {
        let start = |role: &Role| {
            let (role, array, stop) = (*role, &array, &stop);
            scope.spawn(move || (role, role.write(array, ports(role.at), stop)))
        };
        let writers: Vec<_> = roles.iter().map(start).collect();
        let stopping = Stopping(&stop);
        std::thread::sleep(AFTERMATH / 3);
        let killed = Instant::now();
        nine.kill_9(&before[struck].1);
        wait_for("the struck cluster has another leader", || {
            let (term, leader) = nine.led(struck);
            (before[struck].0 < term && leader != before[struck].1).then_some(())
        });
        println!(
            "{} was killed; another one leads after {:.1?}",
            before[struck].1,
            killed.elapsed()
        );
        std::thread::sleep(AFTERMATH);
        drop(stopping);
        let ledgers: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        (ledgers, killed)
    });

    // What was acknowledged is there, what was `not_applied` is not; asked at another cluster.
    let (mut done, mut not_applied, mut unknown) = (0, 0, 0);
    let (mut connections, mut errors) = (Connections::default(), Vec::new());
    for (role, ledger) in &ledgers {
        let elsewhere = nine.port(if role.owner == 2 { 1 } else { 2 }, role.writer % 3);
        for entry in ledger {
            let target = format!("/kv/{}", entry.key);
            let got = connections.call(elsewhere, &Request::get(&target)).unwrap();
            let is_there = (got.status, got.text()) == (200, value(&entry.key));
            let is_absent =
                (got.status, got.json()["type"].as_str()) == (404, Some("urn:kv:no-key"));
            let (counted, fits) = match entry.fate {
                Fate::Done { .. } => (&mut done, is_there),
                Fate::NotApplied => (&mut not_applied, is_absent),
                Fate::Unknown => (&mut unknown, is_there || is_absent),
                Fate::ConditionFailed | Fate::Unsaid { .. } => {
                    panic!("{role:?} was told {:?} of {}", entry.fate, entry.key)
                }
            };
            *counted += 1;
            assert!(fits, "{role:?}: {}: {:?}, and now {}", entry.key, entry.fate, got.text());
            let well = matches!(entry.fate, Fate::Done { .. }) || role.owner == struck;
            if !well {
                errors.push(format!("{role:?}: {}: {:?}", entry.key, entry.fate));
            }
        }
        let goes_on =
            |entry: &Entry| killed < entry.begun && matches!(entry.fate, Fate::Done { .. });
        assert!(ledger.iter().any(goes_on), "{role:?} did not get on after the kill");
        assert!(ledger.iter().any(|entry| entry.begun < killed), "{role:?} wrote before it");
    }
    println!("{done} writes done and read, {not_applied} not applied, {unknown} unknown");
    let elected = |cluster: usize| cluster != struck && nine.led(cluster) != before[cluster];
    if (0..CLUSTERS.len()).any(elected) {
        return Others::Elected;
    }
    assert!(errors.is_empty(), "those who have nothing to do with it: {errors:#?}");
    Others::Untouched
}
