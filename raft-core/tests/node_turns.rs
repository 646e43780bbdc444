//! Passes made by whoever brings something: many threads at once, nodes that call each other from
//! within their passes, a pass that panics on somebody else's thread, and whose thread makes passes
//! for clients.

mod node_support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use bytes::Bytes;
use node_support::{Ledger, PATIENCE, member, options, start, wait_until};
use raft_core::consensus::event::{Refusal, RoleName};
use raft_core::membership::Membership;
use raft_core::message::Message;
use raft_core::node::{Handle, Node, NodeFailure, NodeOptions, Opened, form};
use raft_core::proposals::Outcome;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::storage::meta::DataDir;
use raft_core::storage::testdisk::TestDisk;
use raft_core::transport::{InMemoryNetwork, Transport};
use raft_core::types::{LogPosition, NodeId};

/// Threads that propose and read at once, and what each of them proposes.
const HANDS: usize = 6;
const EACH: usize = 200;

fn three(network: &InMemoryNetwork) -> Vec<Node<Ledger>> {
    (1..=3)
        .map(|id| {
            let node = start(&TestDisk::new(), id, 3, options(), network.transport());
            network.connect(NodeId(id), node.handle());
            node
        })
        .collect()
}

fn handles<S: StateMachine>(nodes: &[Node<S>]) -> Vec<Handle<S>> {
    nodes.iter().map(Node::handle).collect()
}

fn leader<S: StateMachine>(nodes: &[Handle<S>]) -> Option<&Handle<S>> {
    nodes.iter().find(|node| {
        let status = node.status();
        status.core.role == RoleName::Leader && status.core.ready && status.failed.is_none()
    })
}

/// Proposes to whoever leads until it is applied, and says how many commands there were by then.
fn apply(nodes: &[Handle<Ledger>], command: String) -> usize {
    let (command, end) = (Bytes::from(command), Instant::now() + PATIENCE);
    while Instant::now() < end {
        let Some(leader) = leader(nodes) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        match leader.propose(command.clone(), Some(end)).wait() {
            Outcome::Applied { reply, .. } => return reply,
            Outcome::Refused(Refusal::NotLeader { .. } | Refusal::Transferring { .. })
            | Outcome::NotApplied => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("nobody leads");
}

#[test]
fn many_threads_propose_and_read_on_every_node_while_leadership_moves() {
    let network = InMemoryNetwork::new();
    let running = three(&network);
    let nodes = handles(&running);
    let applied = AtomicUsize::new(0);
    thread::scope(|scope| {
        for hand in 0..HANDS {
            let (nodes, applied) = (&nodes, &applied);
            scope.spawn(move || {
                for number in 0..EACH {
                    let mine = apply(nodes, format!("{hand}:{number}"));
                    applied.fetch_max(mine, Ordering::SeqCst);
                    // Whoever is asked knows at least what was acknowledged before.
                    let (known, node) = (applied.load(Ordering::SeqCst), &nodes[number % 3]);
                    let read = node.read_before(Some(Instant::now() + PATIENCE), |ledger| {
                        ledger.commands.len()
                    });
                    if let Ok(seen) = read.wait() {
                        assert!(known <= seen, "{seen} seen after {known} were acknowledged");
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..5 {
                thread::sleep(Duration::from_millis(60));
                if let Some(leader) = leader(&nodes) {
                    // It may fail; then leadership stays where it is.
                    let _ = leader.transfer(None).wait();
                }
            }
        });
    });
    for node in &nodes {
        wait_until(node, |status| status.core.committed.0 <= status.core.applied.0);
        let read = node.read_before(Some(Instant::now() + PATIENCE), |ledger| {
            ledger.commands.iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect()
        });
        let commands: Vec<String> = read.wait().expect("a quorum answers");
        assert_eq!(commands.len(), HANDS * EACH, "each is applied once");
        for hand in 0..HANDS {
            let of_hand = commands.iter().filter(|it| it.starts_with(&format!("{hand}:")));
            let in_order = (0..EACH).map(|number| format!("{hand}:{number}"));
            assert!(of_hand.cloned().eq(in_order), "the commands of one hand keep their order");
        }
    }
}

/// Panics at the first command, on one node.
struct Fragile {
    breaks: bool,
}

impl StateMachine for Fragile {
    type Reply = ();

    fn apply(&mut self, _at: LogPosition, _command: &Bytes) {
        assert!(!self.breaks, "as it has to");
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(std::iter::empty())
    }

    fn restore(&mut self, _step: Restore) -> Result<(), Malformed> {
        Ok(())
    }
}

#[test]
fn a_pass_that_panics_ends_its_node_and_not_the_one_whose_thread_made_it() {
    let network = InMemoryNetwork::new();
    let running: Vec<Node<Fragile>> = (1..=3)
        .map(|id| {
            let disk = Arc::new(TestDisk::new());
            let mut dir = DataDir::open(disk, Some(&format!("node{id}")), id).unwrap();
            let options = options();
            let all = Membership::of_voters((1..=3).map(member));
            form(&mut dir, &all, &options.storage).unwrap();
            let opened = Opened::read(options, dir).unwrap();
            let state = Fragile { breaks: id == 3 };
            let node = Node::start(opened, state, network.transport()).unwrap();
            network.connect(NodeId(id), node.handle());
            node
        })
        .collect();
    let nodes = handles(&running);
    let end = Instant::now() + PATIENCE;
    // n3 hears of a committed command by a message, in a pass that the sender's thread makes. As a
    // leader it would break as well, and another one would take its place.
    while nodes[2].status().failed.is_none() {
        assert!(Instant::now() < end, "n3 never broke");
        if let Some(leader) = leader(&nodes) {
            let _ = leader.propose(Bytes::from_static(b"x"), Some(end)).wait();
        }
    }
    assert!(matches!(nodes[2].status().failed, Some(NodeFailure::Panicked { thread: "raft" })));
    network.disconnect(NodeId(3));
    loop {
        assert!(Instant::now() < end, "the other two do not go on");
        let Some(leader) = leader(&nodes[..2]) else { continue };
        let outcome = leader.propose(Bytes::from_static(b"y"), Some(end)).wait();
        if matches!(outcome, Outcome::Applied { .. }) {
            break;
        }
    }
    for node in running {
        // n3 says that it failed; nobody hangs.
        let _ = node.stop();
    }
}

/// Notes on which threads messages are sent: they are those that make passes.
struct Noted<T> {
    inner: T,
    senders: Arc<Mutex<Vec<ThreadId>>>,
}

impl<T: Transport> Transport for Noted<T> {
    fn send(&mut self, messages: Vec<Message>) {
        self.senders.lock().unwrap().push(thread::current().id());
        self.inner.send(messages);
    }
}

/// Whether this thread made a pass when it proposed, one command after the other, and whether it did
/// when it read. Proposes until it has, at most a hundred times.
fn makes_passes(callers_make_passes: bool) -> (bool, bool) {
    let (network, senders) = (InMemoryNetwork::new(), Arc::default());
    let running: Vec<Node<Ledger>> = (1..=3)
        .map(|id| {
            let transport = Noted { inner: network.transport(), senders: Arc::clone(&senders) };
            let options = NodeOptions { callers_make_passes, ..options() };
            let node = start(&TestDisk::new(), id, 3, options, transport);
            network.connect(NodeId(id), node.handle());
            node
        })
        .collect();
    let nodes = handles(&running);
    let me = thread::current().id();
    let made_one = || senders.lock().unwrap().contains(&me);
    let proposing = (0..100).any(|number| {
        apply(&nodes, format!("{number}"));
        made_one()
    });
    senders.lock().unwrap().clear();
    for node in nodes.iter().cycle().take(60) {
        let read = node.read_before(Some(Instant::now() + PATIENCE), |_| ());
        read.wait().expect("a quorum answers");
    }
    (proposing, made_one())
}

/// A caller may hold a lock that a look, a waker or the state machine takes.
#[test]
fn a_client_makes_no_pass_unless_the_program_says_that_it_may() {
    assert_eq!(makes_passes(false), (false, false));
}

#[test]
fn a_client_that_may_makes_the_pass_for_its_proposal_and_leaves_that_for_its_read() {
    assert_eq!(makes_passes(true), (true, false));
}
