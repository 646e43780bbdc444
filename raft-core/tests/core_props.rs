//! Random schedules over the world: messages delivered in any order, doubled and lost, disks that
//! sync late and in parts, crashes, restarts, cuts, transfers, snapshots. After every step all
//! invariants hold; once the chaos ends a leader is elected and all logs come to be the same.
//!
//! A schedule is a list of story commands, so a failure is printed as a story, made short by
//! leaving out every line that is not needed. `SEEDS=5000` runs more seeds, `FROM=7 SEEDS=1` one.

mod support;

use std::panic::{self, AssertUnwindSafe};

use raft_core::consensus::event::RoleName;
use raft_core::types::NodeId;
use support::rng::Rng;
use support::script::Story;

/// Seeds of an ordinary run.
const SEEDS: u64 = 400;

/// Commands of one schedule.
const STEPS: usize = 600;

/// More messages than this under way: the oldest are lost.
const WIRE_MAX: usize = 120;

/// Replays spent on making a failing schedule short.
const TRIES_MAX: u32 = 1_500;

/// What a run has seen; schedules in which nothing happens prove nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Sights {
    committed: u64,
    term: u64,
    snapshots: u64,
    restarts: u64,
}

#[test]
fn random_schedules_keep_every_law_and_end_in_agreement() {
    let number = |name: &str, default: u64| -> u64 {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (from, seeds) = (number("FROM", 0), number("SEEDS", SEEDS));
    let usual = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let mut sights = Vec::new();
    let mut failure = None;
    for seed in from..from + seeds {
        let lines = schedule(seed);
        match replay(&lines) {
            Ok(seen) => sights.push(seen),
            Err(fault) => {
                let story = shorten(&lines, &fault);
                let fault = replay(&story).expect_err("the short story fails, too");
                failure = Some(format!("seed {seed}: {fault}\n\n{}\n", story.join("\n")));
                break;
            }
        }
    }
    panic::set_hook(usual);
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    if seeds < SEEDS {
        return;
    }
    let share = |seen: fn(&Sights) -> bool| {
        let count = sights.iter().filter(|sight| seen(sight)).count();
        100 * count / sights.len()
    };
    let shares = [
        ("commit", 50, share(|sight| 20 <= sight.committed)),
        ("change the leader", 35, share(|sight| 4 <= sight.term)),
        ("install a snapshot", 15, share(|sight| 1 <= sight.snapshots)),
        ("restart a node", 45, share(|sight| 1 <= sight.restarts)),
    ];
    for (what, least, share) in shares {
        assert!(least <= share, "only {share} of 100 seeds {what}: {shares:?}");
    }
}

/// The same schedule twice gives the same transcript: the core is deterministic.
#[test]
fn the_same_schedule_gives_the_same_transcript() {
    for seed in 0..5 {
        let lines = schedule(seed).join("\n");
        let tell = || {
            let mut story = Story::new();
            story.run(&lines)
        };
        assert_eq!(tell(), tell(), "seed {seed}");
    }
}

/// Runs a schedule; what it has seen, or how it failed.
fn replay(lines: &[String]) -> Result<Sights, String> {
    let run = || {
        let mut story = Story::new();
        story.world.telling = false;
        for line in lines {
            story.run(line);
        }
        calm_down(&mut story)
    };
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
            .unwrap_or_else(|| "a panic without words".to_string())
    })
}

/// Everything is mended: within ten seconds one leader, and one log.
fn calm_down(story: &mut Story) -> Sights {
    let ids = story.world.ids();
    story.run("heal\nfree\nprompt");
    for NodeId(id) in &ids {
        for hold in ["effects", "sync", "chunks", "restore", "snapshot"] {
            story.run(&format!("free-{hold} {id}"));
        }
        story.run(&format!("restart {id}"));
    }
    story.run("run 10s");
    let leader = story.world.leader().expect("a leader once everything is mended");
    story.run(&format!("put {} the-end\nrun 2s", leader.0));
    let first = &story.world.nodes[&leader].app;
    assert!(first.commands.last().is_some_and(|(_, last)| last == "the-end"), "nothing commits");
    for id in &ids {
        let app = &story.world.nodes[id].app;
        assert!(app == first, "{id} has applied up to {}, {leader} up to {}", app.at, first.at);
    }
    let leaders = ids.iter().filter(|id| story.world.status(**id).role == RoleName::Leader);
    assert!(leaders.count() == 1, "more than one leader once everything is mended");
    Sights {
        committed: story.world.laws.committed().0,
        term: story.world.status(leader).term.0,
        snapshots: story.world.nodes.values().map(|node| node.installed).sum(),
        restarts: story.world.nodes.values().map(|node| node.starts - 1).sum(),
    }
}

/// Leaves out lines as long as it fails in the same way.
fn shorten(lines: &[String], fault: &str) -> Vec<String> {
    let kind = |fault: &str| -> String {
        fault.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
    };
    let mut tries = TRIES_MAX;
    let mut same = |lines: &[String]| {
        tries -= u32::from(0 < tries);
        0 < tries && replay(lines).is_err_and(|now| kind(&now) == kind(fault))
    };
    let mut story = lines.to_vec();
    let mut size = story.len() / 2;
    while 0 < size {
        let mut at = 0;
        while at < story.len() {
            let end = (at + size).min(story.len());
            let shorter = [&story[..at], &story[end..]].concat();
            let makes_nodes =
                |line: &String| line.starts_with("cluster") || line.starts_with("node");
            if story[at..end].iter().any(makes_nodes) && size == 1 {
                at += 1;
            } else if same(&shorter) {
                story = shorter;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    story
}

/// A schedule, made by running it: each line is chosen by what is there to be done.
fn schedule(seed: u64) -> Vec<String> {
    let mut rng = Rng::new(seed);
    let mut story = Story::new();
    story.world.telling = false;
    let mut lines = beginning(&mut rng);
    lines.push("slow".to_string());
    let storm = *rng.pick(&[0, 1, 3]);
    let run = |story: &mut Story, line: &str| {
        // A law that breaks here breaks again in the replay, which reports it.
        panic::catch_unwind(AssertUnwindSafe(|| drop(story.run(line)))).is_ok()
    };
    for line in &lines {
        if !run(&mut story, line) {
            return lines;
        }
    }
    for step in 0..STEPS {
        let line = next_line(&mut rng, &story, step, storm);
        let went = run(&mut story, &line);
        lines.push(line);
        if !went {
            break;
        }
    }
    lines
}

/// Settings and nodes.
fn beginning(rng: &mut Rng) -> Vec<String> {
    let mut lines = vec![
        format!("config append_bytes_max={}", rng.pick(&[1, 60, 200, 1 << 20])),
        format!("config inflight_bytes_max={}", rng.pick(&[1, 200, 1 << 20])),
        format!("config apply_bytes_max={}", rng.pick(&[1, 100, 1 << 20])),
        format!("config snapshot_entries={}", rng.pick(&[3, 8, 30, 1 << 30])),
        format!("config tail_bytes={}", rng.pick(&[0, 0, 200])),
        format!("config chunk_bytes={}", rng.pick(&[20, 100, 1 << 20])),
    ];
    match rng.below(5) {
        0 | 1 => lines.push("cluster 3".to_string()),
        2 => lines.push("cluster 5".to_string()),
        3 => {
            let joint = "at 2 voters 1 2 3 outgoing 1 4 5";
            lines.extend((1..=5).map(|id| format!("node {id} log=1,1 {joint}")));
        }
        _ => {
            // Only some hold the newest membership: it may be committed, or cut again.
            let joint = "at 2 voters 1 2 4 outgoing 1 2 3";
            lines.extend([1, 2].map(|id| format!("node {id} log=1,1 {joint}")));
            lines.push("node 3".to_string());
            lines.push("node 4 empty".to_string());
        }
    }
    lines
}

/// What may happen next.
fn next_line(rng: &mut Rng, story: &Story, step: usize, storm: u64) -> String {
    let world = &story.world;
    let ids: Vec<u64> = world.ids().iter().map(|id| id.0).collect();
    let node = *rng.pick(&ids);
    let other = *rng.pick(&ids);
    if WIRE_MAX < world.wire.len() {
        return "drop nth=1".to_string();
    }
    match rng.below(100) {
        0..45 if !world.wire.is_empty() => deliver(rng, world.wire.len(), "deliver"),
        0..45 => format!("tick {}ms", 1 + rng.below(120)),
        45..48 => deliver(rng, world.wire.len().max(1), "copy"),
        48..51 => deliver(rng, world.wire.len().max(1), "drop"),
        51..66 => format!("sync {node}"),
        66..69 => format!("sync {node} one"),
        69..76 => format!("work {node}"),
        76..81 => format!("tick {}ms", 1 + rng.below(150)),
        81..90 => {
            let leader = world.leader().map_or(node, |leader| leader.0);
            let at = if rng.chance(90) { leader } else { node };
            format!("put {at} w{step}")
        }
        90..93 => format!("read {node}"),
        _ if storm == 0 => format!("sync {node}"),
        93 if rng.chance(30 * storm) => format!("crash {node} kept={}", rng.below(3)),
        93..95 => format!("restart {node}"),
        95 if rng.chance(20 * storm) && node != other => format!("cut {node}->{other}"),
        95 if rng.chance(10 * storm) => format!("cut {node}"),
        95 | 96 => "heal".to_string(),
        97 if node != other => format!("peer-down {node} {other}"),
        98 if node != other => format!("transfer {node} {other}"),
        98 => format!("snapshot {node}"),
        99 if rng.chance(20) => "corrupt snapshot".to_string(),
        _ if rng.chance(30) => format!("hold-effects {node}"),
        _ => format!("free-effects {node}"),
    }
}

/// One message: mostly the oldest, at times any.
fn deliver(rng: &mut Rng, under_way: usize, command: &str) -> String {
    let nth = if rng.chance(60) { 1 } else { 1 + rng.below(under_way as u64) };
    format!("{command} nth={nth}")
}
