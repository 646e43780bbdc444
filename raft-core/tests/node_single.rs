//! A running node alone: what is acknowledged is synced, what is synced comes back, and every way
//! it can end tells everybody.

mod node_support;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use node_support::{
    Ledger, PATIENCE, apply, ledger, member, options, propose, start, wait_until, wait_until_ready,
};
use raft_core::consensus::event::Refusal;
use raft_core::membership::Membership;
use raft_core::node::{Node, NodeEvent, NodeFailure, NodeOptions, OpenError, Opened, form};
use raft_core::proposals::{Outcome, ReadRefused, UnknownCause};
use raft_core::replica::SnapshotRefused;
use raft_core::storage::disk::FileDisk;
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::DataDir;
use raft_core::storage::testdisk::{OpKind, TestDisk};
use raft_core::transport::NoTransport;

/// A short time in which something must *not* happen; it is never asserted that something did.
const A_WHILE: Duration = Duration::from_millis(50);

fn single(disk: &TestDisk) -> Node<Ledger> {
    let node = start(disk, 1, 1, options(), NoTransport);
    wait_until_ready(&node);
    node
}

/// pitfall 37: a restarted single node leads again and has applied everything when it opens.
#[test]
fn pitfall_37_a_directory_opened_again_holds_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), Ledger::default()).unwrap();
    assert_eq!(apply(&node, "a"), 1);
    assert_eq!(apply(&node, "b"), 2);
    node.stop().unwrap();
    let node = Node::open(dir.path(), Ledger::default()).unwrap();
    assert_eq!(node.read(|ledger| ledger.commands.len()).wait(), Ok(2));
    assert_eq!(apply(&node, "c"), 3);
    assert_eq!(ledger(&node), "a b c");
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), Ledger::default()).unwrap();
    let second = Node::open(dir.path(), Ledger::default());
    assert!(matches!(second, Err(OpenError::Storage(StorageError::Locked { .. }))));
    drop(node);
    Node::open(dir.path(), Ledger::default()).expect("the lock went with the node");
}

#[test]
fn a_node_of_a_cluster_of_several_needs_a_transport() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(dir.path()).unwrap();
    let mut data = DataDir::open(Arc::new(disk), None, 1).unwrap();
    let membership = Membership::of_voters((1..=3).map(member));
    form(&mut data, &membership, &options().storage).unwrap();
    drop(data);
    let opened = Node::open(dir.path(), Ledger::default());
    assert!(matches!(opened, Err(OpenError::NotAlone(found)) if found == membership));
}

/// Alone, nobody else has to agree to a new address; the data stays, and so does the address.
#[test]
fn a_node_alone_takes_a_new_address() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), Ledger::default()).unwrap();
    assert_eq!(apply(&node, "a"), 1);
    node.stop().unwrap();

    let disk = FileDisk::open(dir.path()).unwrap();
    let data = DataDir::open(Arc::new(disk), None, 2).unwrap();
    let mut opened = Opened::read(options(), data).unwrap();
    let old = opened.membership();
    opened.readdress("elsewhere:9").unwrap();
    let new = opened.membership();
    let address = |membership: &Membership| membership.members().next().unwrap().1.address.clone();
    assert_ne!(address(&old), address(&new));
    assert_eq!(old.voters(), new.voters());
    let node = Node::start(opened, Ledger::default(), NoTransport).unwrap();
    wait_until_ready(&node);
    assert_eq!(node.status().core.membership, new);
    assert_eq!(apply(&node, "b"), 2);
    node.stop().unwrap();

    let node = Node::open(dir.path(), Ledger::default()).unwrap();
    assert_eq!(address(&node.status().core.membership), "elsewhere:9");
    assert_eq!(ledger(&node), "a b");
}

#[test]
fn an_unformed_directory_does_not_start() {
    let disk = Arc::new(TestDisk::new());
    let dir = DataDir::open(disk, None, 1).unwrap();
    let started = Opened::read(NodeOptions::new("unused"), dir);
    assert!(matches!(started, Err(OpenError::NotFormed)));
}

/// pitfall 32: alone, too, the acknowledgement comes after the sync; what a crash may lose before
/// it was never acknowledged, what was acknowledged is never lost.
#[test]
fn pitfall_32_nothing_is_acknowledged_before_its_sync() {
    let disk = TestDisk::new();
    let node = single(&disk);
    apply(&node, "a");
    disk.hold_syncs();
    let mut ticket = node.propose(Bytes::from_static(b"b"), None);
    disk.wait_for_held_sync();
    assert_eq!(ticket.wait_timeout(A_WHILE), None);
    let before = disk.crash_losing_all();
    disk.release_syncs();
    assert!(matches!(ticket.wait(), Outcome::Applied { reply: 2, .. }));
    let after = disk.crash_losing_all();
    node.stop().unwrap();
    assert_eq!(ledger(&single(&before)), "a");
    assert_eq!(ledger(&single(&after)), "a b");
}

/// While one sync runs everything else gathers, and is synced together.
#[test]
fn proposals_that_wait_for_a_sync_share_the_next_one() {
    const MANY: u64 = 200;
    let disk = TestDisk::new();
    let node = single(&disk);
    let before = node.metrics();
    disk.hold_syncs();
    let first = node.propose(Bytes::from_static(b"first"), None);
    disk.wait_for_held_sync();
    let rest: Vec<_> = (0..MANY).map(|_| node.propose(Bytes::from_static(b"more"), None)).collect();
    wait_until(&node, |status| status.proposals_pending as u64 == MANY + 1);
    disk.release_syncs();
    assert!(matches!(first.wait(), Outcome::Applied { .. }));
    for ticket in rest {
        assert!(matches!(ticket.wait(), Outcome::Applied { .. }));
    }
    let after = node.metrics();
    assert_eq!(after.proposals_applied - before.proposals_applied, MANY + 1);
    assert_eq!(after.syncs - before.syncs, 2, "one for the first, one for all the others");
}

/// pitfall 50: one failed sync is the end; nobody is told that anything was kept.
#[test]
fn pitfall_50_a_failed_sync_ends_the_node_and_tells_everybody() {
    let disk = TestDisk::new();
    let node = single(&disk);
    apply(&node, "a");
    let events = node.events();
    disk.fail_nth(OpKind::Sync, 1);
    assert_eq!(propose(&node, "b"), Outcome::Unknown(UnknownCause::Failed));
    let failed = std::iter::from_fn(|| events.recv()).last();
    assert!(matches!(failed, Some(NodeEvent::Failed(NodeFailure::Storage(_)))), "{failed:?}");
    assert!(matches!(node.status().failed, Some(NodeFailure::Storage(_))));
    assert_eq!(propose(&node, "c"), Outcome::Refused(Refusal::Stopped));
    assert_eq!(node.read_barrier(None).wait(), Err(ReadRefused::Stopped));
    assert_eq!(node.snapshot_now().wait(), Err(SnapshotRefused::Stopped));
    assert!(node.stop().is_err());
    assert!(ledger(&single(&disk.crash_losing_all())).starts_with('a'));
}

/// A full disk refuses writes, serves reads, keeps what it promised, and resumes by itself.
#[test]
fn a_full_disk_refuses_then_resumes_without_a_restart() {
    let disk = TestDisk::new();
    let node = single(&disk);
    let events = node.events();
    disk.set_free(Some(0));
    let big = "x".repeat(3000);
    let mut applied = 0;
    loop {
        match node.propose(Bytes::from(big.clone()), Some(Instant::now() + A_WHILE)).wait() {
            Outcome::Applied { .. } => applied += 1,
            Outcome::Refused(Refusal::NoSpace) => break,
            // It waits in memory for room: its fate is open.
            Outcome::Unknown(UnknownCause::Deadline) => {}
            other => panic!("a full disk is no reason for {other:?}"),
        }
        assert!(applied < 100, "the disk is full and everything is accepted");
    }
    assert!(node.read(|ledger| ledger.commands.len()).wait().unwrap() >= applied);
    assert!(!node.status().room);
    disk.set_free(None);
    while !matches!(events.recv_timeout(PATIENCE).expect("room comes back"), NodeEvent::Room(true))
    {
    }
    apply(&node, "and on it goes");
    let all = node.read(|ledger| ledger.commands.len()).wait().unwrap();
    assert!(applied < all);
    node.stop().unwrap();
    let again = single(&disk.crash_losing_all());
    assert_eq!(again.read(|ledger| ledger.commands.len()).wait(), Ok(all));
}

#[test]
fn a_snapshot_and_the_log_after_it_bring_the_state_back() {
    let disk = TestDisk::new();
    let node = single(&disk);
    apply(&node, "a");
    apply(&node, "b");
    let taken = node.snapshot_now().wait().expect("there is something new");
    assert_eq!(node.snapshot_now().wait(), Err(SnapshotRefused::NothingNew));
    apply(&node, "c");
    wait_until(&node, |status| status.core.snapshot == taken.position);
    node.stop().unwrap();
    let node = single(&disk.crash_losing_all());
    assert_eq!(node.status().core.snapshot, taken.position);
    assert_eq!(ledger(&node), "a b c");
}

/// pitfall 45: snapshots come by themselves, one after the other, however they overlap with writes.
#[test]
fn pitfall_45_snapshots_are_taken_when_due_again_and_again() {
    let disk = TestDisk::new();
    let mut options = options();
    options.config.snapshot_entries = 5;
    let node = start(&disk, 1, 1, options, NoTransport);
    wait_until_ready(&node);
    for round in 0..30 {
        apply(&node, &format!("{round}"));
    }
    wait_until(&node, |status| {
        status.core.committed.0 - status.core.snapshot.index.0 < 5
            && 20 < status.core.snapshot.index.0
    });
    assert!(2 <= node.metrics().snapshots_taken);
    node.stop().unwrap();
    let node = single(&disk.crash_losing_all());
    assert_eq!(node.read(|ledger| ledger.commands.len()).wait(), Ok(30));
}

#[test]
fn a_state_machine_that_panics_leaves_nobody_waiting() {
    let disk = TestDisk::new();
    let node = single(&disk);
    let events = node.events();
    assert_eq!(propose(&node, "panic"), Outcome::Unknown(UnknownCause::Failed));
    let failed = std::iter::from_fn(|| events.recv()).last();
    let panicked = NodeFailure::Panicked { thread: "raft" };
    assert!(
        matches!(failed, Some(NodeEvent::Failed(why)) if why.to_string() == panicked.to_string())
    );
    assert_eq!(propose(&node, "more"), Outcome::Refused(Refusal::Stopped));
    assert!(node.stop().is_err());
}

#[test]
fn a_look_that_panics_costs_only_its_own_answer() {
    let disk = TestDisk::new();
    let node = single(&disk);
    let looked = node.read(|_| -> usize { panic!("as the reader wished") });
    assert_eq!(looked.wait(), Err(ReadRefused::Stopped));
    assert_eq!(apply(&node, "a"), 1);
}

#[test]
fn a_full_inbox_refuses_at_once() {
    let disk = TestDisk::new();
    let mut options = options();
    options.inbox.proposals_max = 2;
    options.inbox.reads_max = 1;
    let node = start(&disk, 1, 1, options, NoTransport);
    wait_until_ready(&node);
    // A pass is held up in a read.
    let (entered, is_in) = channel();
    let (release, released) = channel::<()>();
    let held = node.read(move |_| {
        entered.send(()).unwrap();
        released.recv().unwrap();
    });
    is_in.recv().unwrap();
    let mut proposals: Vec<_> =
        (0..3).map(|_| node.propose(Bytes::from_static(b"a"), None)).collect();
    let refused = proposals.pop().unwrap();
    assert_eq!(refused.wait(), Outcome::Refused(Refusal::Busy));
    let read = node.read_barrier(None);
    assert_eq!(node.read_barrier(None).wait(), Err(ReadRefused::Busy));
    release.send(()).unwrap();
    assert_eq!(held.wait(), Ok(()));
    assert!(read.wait().is_ok());
    for proposal in proposals {
        assert!(matches!(proposal.wait(), Outcome::Applied { .. }));
    }
    assert_eq!(node.metrics().proposals_busy, 1);
}

#[test]
fn a_proposal_that_is_late_in_the_inbox_never_reaches_the_log() {
    let disk = TestDisk::new();
    let node = single(&disk);
    let late = node.propose(Bytes::from_static(b"late"), Some(Instant::now()));
    assert_eq!(late.wait(), Outcome::Refused(Refusal::Deadline));
    assert_eq!(ledger(&node), "");
}

#[test]
fn a_stopped_node_has_synced_what_it_accepted() {
    let disk = TestDisk::new();
    let node = single(&disk);
    let events = node.events();
    let tickets: Vec<_> = (0..50).map(|_| node.propose(Bytes::from_static(b"a"), None)).collect();
    node.stop().unwrap();
    let applied = tickets
        .into_iter()
        .map(|ticket| ticket.wait())
        .inspect(|outcome| assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}"))
        .count();
    assert!(matches!(std::iter::from_fn(|| events.recv()).last(), Some(NodeEvent::Stopped)));
    let again = single(&disk.crash_losing_all());
    assert_eq!(again.read(|ledger| ledger.commands.len()).wait(), Ok(applied));
}

#[test]
fn a_node_stops_although_its_disk_is_full() {
    let disk = TestDisk::new();
    let node = single(&disk);
    disk.set_free(Some(0));
    let big = Bytes::from("x".repeat(30_000));
    let tickets: Vec<_> = (0..10).map(|_| node.propose(big.clone(), None)).collect();
    wait_until(&node, |status| !status.room);
    node.stop().unwrap();
    for ticket in tickets {
        let ended = ticket.wait();
        let honest = matches!(
            ended,
            Outcome::Applied { .. } | Outcome::Unknown(_) | Outcome::Refused(Refusal::NoSpace)
        );
        assert!(honest, "{ended:?}");
    }
}
