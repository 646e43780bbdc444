//! Forming, all of it in memory: whatever is late, lost or restarted, at most one cluster comes of
//! it, and one does come of it once everything gets through.

use std::collections::BTreeSet;
use std::time::Duration;

use kv_daemon::form::{
    Formation, Forming, Hello, Identity, PROTOCOL, PeerSpec, Standing, Verdict, formation_of,
};
use proptest::prelude::*;
use raft_core::types::{ClusterId, NodeId, Time};

/// One machine: what stands on its disk, and what runs.
struct Machine {
    identity: Identity,
    peers: Vec<PeerSpec>,
    forming: Forming,
    /// META with a cluster id.
    formed: Option<Formation>,
}

/// A hello on its way there, or its answer on its way back. The restart count of the asker says
/// whether there is still somebody to take the answer.
enum Flight {
    Question { asker: usize, life: u32, ask: u64, address: String },
    Answer { asker: usize, life: u32, ask: u64, hello: Hello },
}

impl Flight {
    fn asker(&self) -> usize {
        match self {
            Flight::Question { asker, .. } | Flight::Answer { asker, .. } => *asker,
        }
    }
}

struct World {
    now: Time,
    machines: Vec<Machine>,
    lives: Vec<u32>,
    flights: Vec<Flight>,
    next_id: u64,
    /// Every cluster that anybody ever formed.
    clusters: BTreeSet<ClusterId>,
}

fn spec(address: &str) -> PeerSpec {
    address.parse().expect("it is host:port")
}

fn identity(id: u64, at: usize) -> Identity {
    Identity { node_id: NodeId(id), name: format!("node{at}"), address: format!("host:800{at}") }
}

fn forming(identity: &Identity, peers: &[PeerSpec], now: Time) -> Forming {
    Forming::new(identity.clone(), peers.to_vec(), "0.0.0", now)
}

impl World {
    /// Machines at `host:8001` and up; each is given all others, or what `peers` says.
    fn new(peers: &[&[&str]]) -> World {
        let now = Time(1);
        let machine = |(at, peers): (usize, &&[&str])| {
            let identity = identity(at as u64 + 1, at + 1);
            let peers: Vec<PeerSpec> = peers.iter().map(|address| spec(address)).collect();
            let forming = forming(&identity, &peers, now);
            Machine { identity, peers, forming, formed: None }
        };
        let machines: Vec<Machine> = peers.iter().enumerate().map(machine).collect();
        let lives = vec![0; machines.len()];
        let (flights, clusters) = (Vec::new(), BTreeSet::new());
        World { now, machines, lives, flights, next_id: 100, clusters }
    }

    fn three() -> World {
        World::new(&[
            &["host:8002", "host:8003"],
            &["host:8001", "host:8003"],
            // Its own address and another spelling of the first: each node counts once.
            &["host:8001", "alias:8001", "host:8002", "host:8003"],
        ])
    }

    fn wake(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.formed.is_some() {
            return;
        }
        for ask in machine.forming.wake(self.now) {
            let (life, address) = (self.lives[at], ask.address);
            self.flights.push(Flight::Question { asker: at, life, ask: ask.ask, address });
        }
    }

    /// What `GET /raft/hello` gives at this address.
    fn hello_at(&self, address: &str) -> Hello {
        let address = address.replace("alias", "host");
        let mut machines = self.machines.iter();
        let machine = machines.find(|machine| machine.identity.address == address);
        let machine = machine.expect("every address has a machine");
        let mut hello = machine.forming.hello();
        if let Some(formation) = &machine.formed {
            hello.standing = Standing::Formed { cluster: formation.cluster };
        }
        hello
    }

    /// Takes one flight to its end.
    fn land(&mut self, flight: usize) {
        match self.flights.swap_remove(flight) {
            Flight::Question { asker, life, ask, address } => {
                let hello = self.hello_at(&address);
                self.flights.push(Flight::Answer { asker, life, ask, hello });
            }
            Flight::Answer { asker, life, ask, hello } => {
                if self.lives[asker] == life && self.machines[asker].formed.is_none() {
                    self.machines[asker].forming.answered(self.now, ask, Ok(hello));
                }
            }
        }
    }

    /// The verdict reaches the disk.
    fn persist(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.formed.is_some() {
            return;
        }
        if let Verdict::Form(formation) | Verdict::Adopt(formation) = machine.forming.verdict() {
            self.clusters.insert(formation.cluster);
            machine.formed = Some(formation.clone());
        }
    }

    /// The process dies and starts again on the same disk.
    fn restart(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.forming = forming(&machine.identity, &machine.peers, self.now);
        self.lives[at] += 1;
    }

    /// The disk is lost: another node starts at the same address, under the same name.
    fn wipe(&mut self, at: usize) {
        self.next_id += 1;
        self.machines[at].identity.node_id = NodeId(self.next_id);
        self.machines[at].formed = None;
        self.restart(at);
    }

    /// Everything gets through, for long enough.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.now = self.now + Duration::from_millis(200);
            for at in 0..self.machines.len() {
                self.wake(at);
            }
            while !self.flights.is_empty() {
                self.land(0);
            }
            for at in 0..self.machines.len() {
                self.persist(at);
            }
        }
    }

    fn live_clusters(&self) -> BTreeSet<ClusterId> {
        let formed = self.machines.iter().filter_map(|machine| machine.formed.as_ref());
        formed.map(|formation| formation.cluster).collect()
    }

    fn why(&self, at: usize) -> &str {
        match self.machines[at].forming.verdict() {
            Verdict::Wait(why) => why,
            other => panic!("it does not wait: {other:?}"),
        }
    }
}

#[test]
fn three_fresh_nodes_become_one_cluster_of_their_own_words() {
    let mut world = World::three();
    world.settle();
    let set: Vec<Identity> = world.machines.iter().map(|m| m.identity.clone()).collect();
    let expected = formation_of(&set);
    for machine in &world.machines {
        assert_eq!(machine.formed.as_ref(), Some(&expected));
    }
    let reversed: Vec<Identity> = set.into_iter().rev().collect();
    assert_eq!(formation_of(&reversed), expected, "the order of the set says nothing");
}

/// The cluster id is for ever: these bytes must never hash to anything else.
#[test]
fn the_cluster_id_of_a_set_is_golden() {
    let set = [identity(1, 1), identity(2, 2), identity(3, 3)];
    assert_eq!(formation_of(&set).cluster.to_string(), GOLDEN);
}
const GOLDEN: &str = "72e84c514234e149";

#[test]
fn nobody_forms_before_everybody_was_there_once() {
    let mut world = World::three();
    for _ in 0..20 {
        world.now = world.now + Duration::from_millis(1500);
        for at in 0..2 {
            world.wake(at);
        }
        // The third machine is not up: questions to it end nowhere.
        world.flights.retain(
            |flight| !matches!(flight, Flight::Question { address, .. } if address == "host:8003"),
        );
        while !world.flights.is_empty() {
            world.land(0);
        }
    }
    assert!(world.why(0).contains("host:8003 (no answer within 1 s)"), "{}", world.why(0));
    world.settle();
    assert_eq!(world.live_clusters().len(), 1);
}

/// A member that crashed before its verdict was on disk finds the others formed, and writes the same.
#[test]
fn a_node_that_comes_late_adopts_what_the_others_formed_with_it() {
    let mut world = World::three();
    for _ in 0..10 {
        world.now = world.now + Duration::from_millis(200);
        (0..3).for_each(|at| world.wake(at));
        while !world.flights.is_empty() {
            world.land(0);
        }
    }
    world.persist(0);
    world.persist(1);
    world.restart(2);
    assert_eq!(world.machines[2].formed, None);
    world.now = world.now + Duration::from_millis(200);
    world.wake(2);
    while !world.flights.is_empty() {
        world.land(0);
    }
    assert!(matches!(world.machines[2].forming.verdict(), Verdict::Adopt(_)));
    world.persist(2);
    assert_eq!(world.live_clusters().len(), 1);
}

/// pitfall 15: a wiped disk is another node; it never forms nor adopts, it waits and says why.
#[test]
fn pitfall_15_a_wiped_node_waits_at_the_door_of_its_old_cluster() {
    let mut world = World::three();
    world.settle();
    let cluster = *world.live_clusters().first().expect("it has formed");
    world.wipe(2);
    world.settle();
    let why = world.why(2).to_owned();
    assert!(why.contains("already belongs to cluster"), "{why}");
    assert!(why.contains(&cluster.to_string()) && why.contains("later version"), "{why}");
    assert_eq!(world.live_clusters(), BTreeSet::from([cluster]));
}

#[test]
fn two_of_one_name_do_not_form_and_both_addresses_are_named() {
    let mut world = World::three();
    world.machines[1].identity.name = "node1".to_owned();
    world.restart(1);
    world.settle();
    assert!(world.clusters.is_empty());
    for at in 0..3 {
        let why = world.why(at);
        assert!(why.contains("two nodes are called node1"), "{why}");
        assert!(why.contains("host:8001") && why.contains("host:8002"), "{why}");
    }
}

#[test]
fn sets_that_differ_do_not_form_and_are_shown_side_by_side_with_the_flag_that_mends_it() {
    let mut world =
        World::new(&[&["host:8002"], &["host:8001", "host:8003"], &["host:8001", "host:8002"]]);
    world.settle();
    assert!(world.clusters.is_empty());
    let why = world.why(0);
    for part in [
        "different sets",
        "node1 (host:8001) would form with node1 (host:8001), node2 (host:8002)",
        "node2 (host:8002) with node1 (host:8001), node2 (host:8002), node3 (host:8003)",
        "start node1 with --peers host:8002,host:8003",
    ] {
        assert!(why.contains(part), "{part:?} is not in {why:?}");
    }
    assert!(world.why(1).contains("start node1 with --peers"), "{}", world.why(1));
}

#[test]
fn a_name_in_peers_is_checked() {
    let mut world = World::new(&[&["node3=host:8002"], &["node1=host:8001"]]);
    world.settle();
    assert!(world.clusters.is_empty());
    assert!(world.why(0).contains("says its name is node2"), "{}", world.why(0));
}

#[test]
fn a_set_of_only_ourselves_is_no_cluster() {
    let mut world = World::new(&[&["host:8001", "alias:8001"]]);
    world.settle();
    assert!(world.why(0).contains("leave --peers out"), "{}", world.why(0));
}

#[test]
fn a_node_of_another_protocol_is_not_formed_with() {
    let me = identity(1, 1);
    let mut forming = forming(&me, &[spec("host:8002")], Time(1));
    let ask = forming.wake(Time(1)).remove(0);
    let other = identity(2, 2);
    let hello = Hello {
        set: vec![me.clone(), other.clone()],
        standing: Standing::Fresh { digest: Some(formation_of(&[me, other.clone()]).cluster) },
        identity: other,
        peers: Vec::new(),
        protocol: PROTOCOL + 1,
        version: "9.0.0".to_owned(),
    };
    forming.answered(Time(2), ask.ask, Ok(hello));
    assert!(matches!(forming.verdict(), Verdict::Wait(why) if why.contains("9.0.0")));
}

/// An answer that was asked for before the set was complete confirms nothing, nor does one that
/// comes after its question has timed out.
#[test]
fn only_answers_of_the_round_confirm() {
    let (me, other) = (identity(1, 1), identity(2, 2));
    let digest = formation_of(&[me.clone(), other.clone()]).cluster;
    let confirming = Hello {
        set: vec![me.clone(), other.clone()],
        standing: Standing::Fresh { digest: Some(digest) },
        identity: other,
        peers: Vec::new(),
        protocol: PROTOCOL,
        version: "0.0.0".to_owned(),
    };
    let mut forming = forming(&me, &[spec("host:8002")], Time(1));
    let first = forming.wake(Time(1)).remove(0);
    forming.answered(Time(2), first.ask, Ok(confirming.clone()));
    assert!(matches!(forming.verdict(), Verdict::Wait(_)), "asked before the set was complete");

    let second = forming.wake(Time(3)).remove(0);
    let late = Time(3) + Duration::from_secs(2);
    let third = forming.wake(late);
    forming.answered(late, second.ask, Ok(confirming.clone()));
    assert!(matches!(forming.verdict(), Verdict::Wait(_)), "its question has timed out");
    let third = third.into_iter().next().expect("it asks again");
    forming.answered(late, third.ask, Ok(confirming));
    assert!(matches!(forming.verdict(), Verdict::Form(f) if f.cluster == digest));
}

#[test]
fn there_is_one_question_per_address_at_a_time() {
    let mut forming = forming(&identity(1, 1), &[spec("host:8002"), spec("host:8002")], Time(1));
    assert_eq!(forming.wake(Time(1)).len(), 1);
    assert_eq!(forming.wake(Time(2)).len(), 0);
    let later = Time(1) + Duration::from_millis(999);
    assert_eq!(forming.wake(later).len(), 0);
    assert_eq!(forming.deadline(), Time(1) + Duration::from_secs(1));
    assert_eq!(forming.wake(Time(1) + Duration::from_secs(1)).len(), 1);
}

#[test]
fn a_hello_survives_its_json_and_nonsense_does_not() {
    for standing in [
        Standing::Fresh { digest: None },
        Standing::Fresh { digest: Some(ClusterId(u64::MAX)) },
        Standing::Formed { cluster: ClusterId(1) },
    ] {
        let hello = Hello {
            identity: identity(u64::MAX, 1),
            standing,
            set: vec![identity(2, 2)],
            peers: vec!["localhost:8002".to_owned()],
            protocol: PROTOCOL,
            version: "0.1.0".to_owned(),
        };
        assert_eq!(Hello::from_json(&hello.to_json()), Ok(hello));
    }
    let golden = r#"{"node_id":"0000000000000001","name":"node1","address":"host:8001",
        "state":"fresh","digest":null,"set":[],"peers":[],"protocol":1,"version":"0.1.0"}"#;
    Hello::from_json(golden.as_bytes()).expect("this is how a hello looks");
    for (from, to) in [
        ("\"0000000000000001\"", "\"+1\""),
        ("\"0000000000000001\"", "1"),
        ("\"node1\"", "\"\""),
        ("fresh", "formed"),
        ("fresh", "rotten"),
        ("\"peers\":[]", "\"peers\":7"),
        ("}", ""),
    ] {
        let broken = golden.replace(from, to);
        assert_ne!(broken, golden);
        Hello::from_json(broken.as_bytes()).expect_err(&broken);
    }
}

/// What may happen to three nodes that form.
#[derive(Clone, Debug)]
enum Happening {
    Wake(usize),
    /// Any flight lands, the oldest ones too: hellos and answers overtake each other.
    Land(prop::sample::Index),
    /// A flight of somebody other than this machine lands: its own are slow, so that the others can
    /// come to a verdict behind its back.
    LandButOf(usize, prop::sample::Index),
    Lose(prop::sample::Index),
    Pass(u64),
    Persist(usize),
    Restart(usize),
    Wipe(usize),
}

fn happenings(wipes: bool) -> impl Strategy<Value = Vec<Happening>> {
    (0..3usize).prop_flat_map(move |slow| happenings_with(slow, wipes))
}

fn happenings_with(slow: usize, wipes: bool) -> impl Strategy<Value = Vec<Happening>> {
    let land_other = move |which| Happening::LandButOf(slow, which);
    let happening = prop_oneof![
        6 => (0..3usize).prop_map(Happening::Wake),
        2 => any::<prop::sample::Index>().prop_map(Happening::Land),
        20 => any::<prop::sample::Index>().prop_map(land_other),
        1 => any::<prop::sample::Index>().prop_map(Happening::Lose),
        4 => (1..300u64).prop_map(Happening::Pass),
        2 => (0..3usize).prop_map(Happening::Persist),
        1 => (0..3usize).prop_map(Happening::Restart),
        u32::from(wipes) => (0..3usize).prop_map(Happening::Wipe),
    ];
    prop::collection::vec(happening, 0..300)
}

impl World {
    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Wake(at) => self.wake(*at),
            Happening::Land(which) if !self.flights.is_empty() => {
                self.land(which.index(self.flights.len()));
            }
            Happening::LandButOf(slow, which) => {
                let others: Vec<usize> = (0..self.flights.len())
                    .filter(|flight| self.flights[*flight].asker() != *slow)
                    .collect();
                if !others.is_empty() {
                    self.land(others[which.index(others.len())]);
                }
            }
            Happening::Lose(which) if !self.flights.is_empty() => {
                self.flights.swap_remove(which.index(self.flights.len()));
            }
            Happening::Land(_) | Happening::Lose(_) => {}
            Happening::Pass(millis) => self.now = self.now + Duration::from_millis(*millis),
            Happening::Persist(at) => self.persist(*at),
            Happening::Restart(at) => self.restart(*at),
            Happening::Wipe(at) => self.wipe(*at),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Late, lost and overtaking hellos and restarts: one cluster, and all come to be in it.
    #[test]
    fn one_cluster_comes_of_it_whatever_is_late(happenings in happenings(false)) {
        let mut world = World::three();
        for happening in &happenings {
            world.happen(happening);
            prop_assert!(world.clusters.len() <= 1, "two clusters: {:?}", world.clusters);
        }
        world.settle();
        prop_assert_eq!(world.clusters.len(), 1);
        prop_assert!(world.machines.iter().all(|machine| machine.formed.is_some()));
    }

    /// With disks lost on the way there is never more than one cluster alive, and never one whose
    /// member at an address is another node than the one that formed there.
    #[test]
    fn lost_disks_never_make_a_second_cluster(happenings in happenings(true)) {
        let mut world = World::three();
        for happening in &happenings {
            world.happen(happening);
            prop_assert!(world.live_clusters().len() <= 1, "two live clusters");
            for machine in world.machines.iter() {
                let id = machine.identity.node_id;
                let fits = machine.formed.as_ref().is_none_or(|f| f.membership.is_voter(id));
                prop_assert!(fits, "it formed a cluster without itself");
            }
        }
    }
}
