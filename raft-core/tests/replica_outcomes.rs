//! What clients of a replica are told, and that it is true: each test is one way a proposal or a
//! read can end.

mod replica_support;

use std::time::Duration;

use raft_core::consensus::event::{Refusal, TransferFailure};
use raft_core::proposals::{Outcome, ReadRefused, UnknownCause};
use raft_core::replica::Input;
use raft_core::types::{Index, Time};
use replica_support::{Cluster, n};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_proposal_ends_in_the_reply_of_the_state_machine() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let first = cluster.propose(leader, "a", Time::NEVER);
    let second = cluster.propose(leader, "b", Time::NEVER);
    cluster.run();
    assert!(matches!(cluster.outcomes[&first], Outcome::Applied { reply: 1, .. }));
    assert!(matches!(cluster.outcomes[&second], Outcome::Applied { reply: 2, .. }));
    cluster.pass(SECOND);
    for id in 1..=3 {
        assert_eq!(cluster.ledger(n(id)), "a b");
    }
}

/// pitfall 32: nothing is acknowledged before this very node has synced it, alone or not.
#[test]
fn pitfall_32_alone_nothing_is_applied_before_the_sync() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    cluster.seat(leader).disk_stalls = true;
    let id = cluster.propose(leader, "a", Time::NEVER);
    cluster.pass(SECOND);
    assert_eq!(cluster.outcomes.get(&id), None);
    assert_eq!(cluster.ledger(leader), "");
    cluster.seat(leader).disk_stalls = false;
    cluster.run();
    assert!(matches!(cluster.outcomes[&id], Outcome::Applied { reply: 1, .. }));
}

/// pitfall 37: a cluster of one commits and applies again what it had, without anybody's help.
#[test]
fn pitfall_37_a_restarted_single_node_applies_its_log_again() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    cluster.propose(leader, "a", Time::NEVER);
    cluster.propose(leader, "b", Time::NEVER);
    cluster.run();
    cluster.crash(leader);
    cluster.start(leader);
    assert_eq!(cluster.leader(), leader);
    assert_eq!(cluster.ledger(leader), "a b");
}

#[test]
fn a_follower_refuses_and_names_the_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.pass(SECOND);
    let follower = (1..=3).map(n).find(|id| *id != leader).unwrap();
    let id = cluster.propose(follower, "a", Time::NEVER);
    cluster.run();
    let hint = Refusal::NotLeader { leader: Some(leader) };
    assert_eq!(cluster.outcomes[&id], Outcome::Refused(hint));
}

#[test]
fn a_deadline_before_the_log_is_a_refusal_and_after_it_is_unknown() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let late = cluster.propose(leader, "late", cluster.now);
    cluster.cut_off(leader);
    let deadline = cluster.now + Duration::from_millis(50);
    let in_the_log = cluster.propose(leader, "in", deadline);
    cluster.run();
    assert_eq!(cluster.outcomes[&late], Outcome::Refused(Refusal::Deadline));
    assert_eq!(cluster.outcomes.get(&in_the_log), None);
    assert_eq!(
        cluster.replica(leader).deadline().min(deadline),
        cluster.replica(leader).deadline()
    );
    cluster.pass(Duration::from_millis(60));
    assert_eq!(cluster.outcomes[&in_the_log], Outcome::Unknown(UnknownCause::Deadline));
    cluster.pass(SECOND);
    assert!(!(1..=3).any(|id| cluster.ledger(n(id)).contains("late")));
}

/// Lost leadership says nothing about an entry: here the next leader commits it.
#[test]
fn a_proposal_outlives_its_leader_and_is_applied_by_the_next() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let others: Vec<_> = (1..=3).map(n).filter(|id| *id != leader).collect();
    // The followers get the entry, but the leader does not hear so.
    for other in &others {
        cluster.cut.insert((*other, leader));
    }
    let id = cluster.propose(leader, "a", Time::NEVER);
    cluster.run();
    cluster.cut_off(leader);
    let next = cluster.leader();
    assert_ne!(next, leader);
    cluster.pass(SECOND);
    assert_eq!(cluster.outcomes.get(&id), None, "nobody can tell yet");
    cluster.cut.clear();
    cluster.pass(SECOND);
    assert!(matches!(cluster.outcomes[&id], Outcome::Applied { reply: 1, .. }));
    assert_eq!(cluster.ledger(leader), "a");
}

/// A truncation alone is no verdict: `NotApplied` is said when the other entry is committed.
#[test]
fn a_displaced_proposal_was_not_applied() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.pass(SECOND);
    cluster.cut_off(leader);
    let lost = cluster.propose(leader, "lost", Time::NEVER);
    cluster.run();
    let next = cluster.leader();
    let kept = cluster.propose(next, "kept", Time::NEVER);
    cluster.pass(SECOND);
    assert!(matches!(cluster.outcomes[&kept], Outcome::Applied { .. }));
    assert_eq!(cluster.outcomes.get(&lost), None, "the old leader has not heard of it");
    cluster.cut.clear();
    cluster.pass(SECOND);
    assert_eq!(cluster.outcomes[&lost], Outcome::NotApplied);
    assert_eq!(cluster.ledger(leader), "kept");
}

/// A snapshot that jumps over the place of a proposal hides what was committed there.
#[test]
fn a_snapshot_over_the_place_of_a_proposal_makes_it_unknown() {
    let mut cluster = Cluster::with(3, |config| config.tail_bytes = 0);
    let leader = cluster.leader();
    cluster.pass(SECOND);
    cluster.cut_off(leader);
    let lost = cluster.propose(leader, "lost", Time::NEVER);
    cluster.run();
    let next = cluster.leader();
    for command in ["a", "b", "c"] {
        cluster.propose(next, command, Time::NEVER);
    }
    cluster.pass(SECOND);
    let order = cluster.order(next, |id| Input::SnapshotNow { id });
    cluster.run();
    assert!(cluster.snapshots_taken[&order].is_ok());
    assert_eq!(cluster.outcomes.get(&lost), None);
    cluster.cut.clear();
    cluster.pass(SECOND);
    assert_eq!(cluster.outcomes[&lost], Outcome::Unknown(UnknownCause::SnapshotJump));
    assert_eq!(cluster.ledger(leader), "a b c");
}

/// pitfall 50: after the disk failed nothing is acknowledged, voted or sent any more.
#[test]
fn pitfall_50_a_failed_disk_ends_the_replica() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.seat(leader).disk_stalls = true;
    let id = cluster.propose(leader, "a", Time::NEVER);
    let read = cluster.read(leader, Time::NEVER);
    cluster.step(leader, Input::Failed);
    let now = cluster.now + SECOND;
    let replica = cluster.seat(leader).replica.as_mut().unwrap();
    let work = replica.take_work();
    assert_eq!(work.answers[0].1, Outcome::Unknown(UnknownCause::Failed));
    assert_eq!(work.reads[0].1, Err(ReadRefused::Stopped));
    assert_eq!((work.answers[0].0.0, work.reads[0].0.0), (id, read));
    assert!(work.send.is_empty() && work.write.is_none(), "it must not speak any more");
    replica.step(now, Input::Wake);
    let silent = replica.take_work();
    assert!(silent.send.is_empty() && silent.write.is_none() && replica.is_over());
    assert_eq!(replica.deadline(), Time::NEVER);
    let after = cluster.propose(leader, "b", Time::NEVER);
    cluster.run();
    assert_eq!(cluster.outcomes[&after], Outcome::Refused(Refusal::Stopped));
}

#[test]
fn without_room_proposals_are_refused_and_reads_go_on() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    cluster.step(leader, Input::Room(false));
    let refused = cluster.propose(leader, "a", Time::NEVER);
    let read = cluster.read(leader, Time::NEVER);
    cluster.run();
    assert_eq!(cluster.outcomes[&refused], Outcome::Refused(Refusal::NoSpace));
    assert!(cluster.reads[&read].is_ok());
    cluster.step(leader, Input::Room(true));
    let accepted = cluster.propose(leader, "a", Time::NEVER);
    cluster.run();
    assert!(matches!(cluster.outcomes[&accepted], Outcome::Applied { .. }));
}

/// pitfall 38: however often leadership comes and goes without a quorum, what waits is bounded.
#[test]
fn pitfall_38_waiting_proposals_are_bounded() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.cut_off(leader);
    let ids: Vec<u64> = (0..1001).map(|_| cluster.propose(leader, "a", Time::NEVER)).collect();
    cluster.run();
    assert_eq!(cluster.outcomes[&ids[1000]], Outcome::Refused(Refusal::Busy));
    assert_eq!(cluster.outcomes.len(), 1);
    assert_eq!(cluster.replica(leader).pending().0, 1000);
}

#[test]
fn a_stop_leaves_the_fate_of_what_is_in_the_log_open() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.cut_off(leader);
    let id = cluster.propose(leader, "a", Time::NEVER);
    let read = cluster.read(leader, Time::NEVER);
    cluster.run();
    cluster.step(leader, Input::Stop);
    cluster.run();
    assert_eq!(cluster.outcomes[&id], Outcome::Unknown(UnknownCause::Stopped));
    assert_eq!(cluster.reads[&read], Err(ReadRefused::Stopped));
}

#[test]
fn a_read_sees_every_write_acknowledged_before_it_on_any_node() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.pass(SECOND);
    for (round, command) in ["a", "b", "c"].into_iter().enumerate() {
        let write = cluster.propose(leader, command, Time::NEVER);
        cluster.run();
        assert!(matches!(cluster.outcomes[&write], Outcome::Applied { .. }));
        for id in 1..=3 {
            let read = cluster.read(n(id), Time::NEVER);
            cluster.run();
            assert!(cluster.reads[&read].is_ok_and(|index| index > Index(round as u64 + 1)));
            assert!(round < cluster.seen[&read], "n{id} answered from an old state");
        }
    }
}

/// pitfall 53: the read of a leader that cannot reach a quorum ends at its deadline, unanswered.
#[test]
fn pitfall_53_a_read_without_a_quorum_is_never_answered_from_the_state() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.cut_off(leader);
    let deadline = cluster.now + Duration::from_millis(100);
    let read = cluster.read(leader, deadline);
    let patient = cluster.read(leader, Time::NEVER);
    cluster.pass(Duration::from_millis(90));
    assert_eq!(cluster.reads.get(&read), None);
    cluster.pass(Duration::from_millis(20));
    assert_eq!(cluster.reads[&read], Err(ReadRefused::Deadline));
    cluster.pass(SECOND * 2);
    assert_eq!(cluster.reads[&patient], Err(ReadRefused::NotLeader { leader: None }));
}

#[test]
fn a_read_before_its_deadline_only() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    let late = cluster.read(leader, cluster.now);
    cluster.run();
    assert_eq!(cluster.reads[&late], Err(ReadRefused::Deadline));
}

/// pitfall 57: a transfer ends, and one at a time is under way.
#[test]
fn pitfall_57_transfers_end_one_by_one() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.pass(SECOND);
    let to = (1..=3).map(n).find(|id| *id != leader).unwrap();
    cluster.cut.insert((leader, to));
    let first = cluster.order(leader, |id| Input::Transfer { id, to: Some(to) });
    let second = cluster.order(leader, |id| Input::Transfer { id, to: None });
    cluster.run();
    assert_eq!(cluster.transfers[&second], Err(TransferFailure::InProgress));
    assert_eq!(cluster.transfers.get(&first), None);
    cluster.pass(SECOND);
    assert_eq!(cluster.transfers[&first], Err(TransferFailure::TimedOut));
    cluster.cut.clear();
    cluster.pass(SECOND);
    let leader = cluster.leader();
    let to = (1..=3).map(n).find(|id| *id != leader).unwrap();
    let third = cluster.order(leader, |id| Input::Transfer { id, to: Some(to) });
    cluster.pass(SECOND);
    assert_eq!(cluster.transfers[&third], Ok(to));
    assert_eq!(cluster.leader(), to);
}
