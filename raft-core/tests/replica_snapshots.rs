//! Snapshots as a replica sees them: its own, taken one at a time, and the leader's, put back piece
//! by piece.

mod replica_support;

use std::time::Duration;

use bytes::Bytes;
use raft_core::consensus::event::Refusal;
use raft_core::proposals::{Outcome, ReadRefused};
use raft_core::replica::{Input, SnapshotRefused};
use raft_core::types::{Index, NodeId, Time};
use replica_support::{Cluster, n};

const SECOND: Duration = Duration::from_secs(1);

/// A leader with a snapshot of `a b c` and `d` above it, and a follower that was down all the while.
fn one_was_away() -> (Cluster, NodeId, NodeId) {
    let mut cluster = Cluster::with(3, |config| config.tail_bytes = 0);
    let leader = cluster.leader();
    cluster.pass(SECOND);
    let away = (1..=3).map(n).find(|id| *id != leader).unwrap();
    cluster.crash(away);
    for command in ["a", "b", "c"] {
        cluster.propose(leader, command, Time::NEVER);
    }
    cluster.run();
    let order = cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    assert!(cluster.snapshots_taken[&order].is_ok());
    cluster.propose(leader, "d", Time::NEVER);
    cluster.run();
    (cluster, leader, away)
}

/// pitfall 36: what was applied and not yet known as committed on disk is simply applied again.
#[test]
fn pitfall_36_a_crash_after_apply_is_no_crash_at_boot() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let id = cluster.propose(leader, "a", Time::NEVER);
    // The others sync it and it is applied, while the leader's own disk holds still.
    cluster.seat(leader).disk_stalls = true;
    cluster.run();
    assert!(matches!(cluster.outcomes[&id], Outcome::Applied { .. }));
    cluster.crash(leader);
    cluster.start(leader);
    cluster.leader();
    cluster.pass(SECOND);
    assert_eq!(cluster.ledger(leader), "a");
}

#[test]
fn a_restarted_replica_puts_its_snapshot_back_and_then_its_log() {
    let (mut cluster, leader, _) = one_was_away();
    cluster.crash(leader);
    cluster.seat(leader).files_stall = true;
    cluster.start(leader);
    cluster.run();
    assert!(cluster.replica(leader).is_restoring());
    let order = cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    assert_eq!(cluster.snapshots_taken[&order], Err(SnapshotRefused::Restoring));
    // A piece that nobody asked for (now) must not end up in the state.
    let of = cluster.replica(leader).raft().status().snapshot;
    let piece = Ok(Some(Bytes::from_static(b"x")));
    cluster.step(leader, Input::Piece { of, number: 7, piece });
    cluster.seat(leader).files_stall = false;
    cluster.leader();
    cluster.pass(SECOND);
    assert!(!cluster.replica(leader).is_restoring());
    assert_eq!(cluster.ledger(leader), "a b c d");
}

/// pitfall 41: a follower that was away is filled, and its reads wait until its state is whole.
#[test]
fn pitfall_41_a_filled_follower_answers_reads_only_from_the_whole_state() {
    let (mut cluster, leader, away) = one_was_away();
    cluster.seat(away).files_stall = true;
    cluster.start(away);
    cluster.pass(SECOND);
    assert!(cluster.replica(away).is_restoring());
    let deadline = cluster.now + SECOND;
    let late = cluster.read(away, deadline);
    let patient = cluster.read(away, Time::NEVER);
    cluster.pass(SECOND * 2);
    assert_eq!(cluster.reads[&late], Err(ReadRefused::Deadline));
    assert_eq!(cluster.reads.get(&patient), None, "there is no state to answer from");
    cluster.seat(away).files_stall = false;
    cluster.run();
    assert!(cluster.reads[&patient].is_ok());
    assert_eq!(cluster.seen[&patient], 4);
    assert_eq!(cluster.ledger(away), cluster.ledger(leader));
}

/// pitfall 43: a second snapshot right after the first one neither mixes with it nor is lost.
#[test]
fn pitfall_43_two_snapshots_in_quick_succession() {
    let (mut cluster, leader, away) = one_was_away();
    cluster.seat(away).disk_stalls = true;
    cluster.start(away);
    cluster.pass(SECOND);
    let order = cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    assert!(cluster.snapshots_taken[&order].is_ok());
    cluster.propose(leader, "e", Time::NEVER);
    cluster.run();
    cluster.seat(away).disk_stalls = false;
    cluster.pass(SECOND * 3);
    assert_eq!(cluster.ledger(away), "a b c d e");
}

#[test]
fn a_snapshot_that_the_state_machine_refuses_ends_the_replica() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    cluster.propose(leader, "bad", Time::NEVER);
    cluster.run();
    cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    cluster.crash(leader);
    cluster.start(leader);
    let early = cluster.read(leader, Time::NEVER);
    cluster.run();
    assert_eq!(cluster.seats[&leader].fault.as_deref(), Some("snapshot 3@2: a bad piece"));
    assert!(cluster.replica(leader).is_over());
    assert!(cluster.reads[&early].is_err());
    let after = cluster.propose(leader, "a", Time::NEVER);
    cluster.run();
    assert_eq!(cluster.outcomes[&after], Outcome::Refused(Refusal::Stopped));
}

#[test]
fn a_piece_that_cannot_be_read_ends_the_replica_and_an_old_one_is_nothing() {
    let (mut cluster, leader, _) = one_was_away();
    cluster.crash(leader);
    cluster.seat(leader).files_stall = true;
    cluster.start(leader);
    cluster.run();
    let of = cluster.replica(leader).raft().status().snapshot;
    let piece = Ok(Some(Bytes::from_static(b"x")));
    cluster.step(leader, Input::Piece { of, number: 7, piece });
    cluster.run();
    assert!(cluster.replica(leader).is_restoring(), "a piece nobody asked for changes nothing");
    let piece = Err("the disk says no".to_owned());
    cluster.step(leader, Input::Piece { of, number: 0, piece });
    cluster.run();
    assert!(cluster.seats[&leader].fault.as_deref().unwrap().ends_with("the disk says no"));
}

/// pitfall 45: a snapshot that falls due while one is being written is taken after it.
#[test]
fn pitfall_45_a_trigger_during_a_snapshot_is_not_lost() {
    let mut cluster = Cluster::with(1, |config| config.snapshot_entries = 4);
    let leader = cluster.leader();
    cluster.seat(leader).files_stall = true;
    for _ in 0..10 {
        cluster.propose(leader, "a", Time::NEVER);
        cluster.run();
    }
    let snapshot = |cluster: &Cluster| cluster.replica(leader).raft().status().snapshot.index;
    assert_eq!(snapshot(&cluster), Index(0), "the first one is still being written");
    let order = cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    assert_eq!(cluster.snapshots_taken[&order], Err(SnapshotRefused::InProgress));
    cluster.seat(leader).files_stall = false;
    cluster.run();
    let applied = cluster.replica(leader).applied();
    assert!(applied.0 - snapshot(&cluster).0 < 4, "the second one followed at once");
    cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    assert_eq!(snapshot(&cluster), applied);
    let again = cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    assert_eq!(cluster.snapshots_taken[&again], Err(SnapshotRefused::NothingNew));
}

/// A snapshot of what is not durable here would stand above a gap after a crash: it waits.
#[test]
fn a_snapshot_waits_for_the_disk() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.seat(leader).disk_stalls = true;
    let id = cluster.propose(leader, "a", Time::NEVER);
    cluster.run();
    assert!(matches!(cluster.outcomes[&id], Outcome::Applied { .. }));
    let order = cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    assert_eq!(cluster.snapshots_taken.get(&order), None);
    cluster.seat(leader).disk_stalls = false;
    cluster.run();
    let taken = cluster.snapshots_taken[&order].as_ref().unwrap();
    assert_eq!(taken.position.index, cluster.replica(leader).applied());
}

/// A snapshot is written once, however long its mark in the log takes.
#[test]
fn a_snapshot_is_not_written_again_while_its_mark_waits_for_the_disk() {
    let mut cluster = Cluster::with(1, |config| config.snapshot_entries = 4);
    let leader = cluster.leader();
    cluster.seat(leader).files_stall = true;
    while !cluster.seat(leader).is_writing_snapshot() {
        cluster.propose(leader, "a", Time::NEVER);
        cluster.run();
    }
    cluster.seat(leader).disk_stalls = true;
    cluster.seat(leader).files_stall = false;
    cluster.run();
    cluster.seat(leader).files_stall = true;
    cluster.pass(SECOND);
    assert!(!cluster.seat(leader).is_writing_snapshot());
    let order = cluster.order(leader, |id| Input::SnapshotNow { id });
    cluster.run();
    assert_eq!(cluster.snapshots_taken[&order], Err(SnapshotRefused::NothingNew));
}

#[test]
fn a_snapshot_that_fails_is_told_and_tried_again_later() {
    let mut cluster = Cluster::with(1, |config| config.snapshot_entries = 4);
    let leader = cluster.leader();
    cluster.seat(leader).files_stall = true;
    for _ in 0..4 {
        cluster.propose(leader, "a", Time::NEVER);
        cluster.run();
    }
    cluster.seat(leader).lose_snapshot_order();
    cluster.step(leader, Input::SnapshotFailed("no room".to_owned()));
    cluster.propose(leader, "a", Time::NEVER);
    cluster.run();
    assert!(!cluster.seat(leader).is_writing_snapshot(), "not at once");
    cluster.now = cluster.now + SECOND * 60;
    cluster.propose(leader, "a", Time::NEVER);
    cluster.run();
    assert!(cluster.seat(leader).is_writing_snapshot());
}
