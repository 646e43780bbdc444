//! Bugs that real Raft systems had, each as a test that fails when our guard against it is taken
//! away. The numbers are the rows of the table in `docs/raft.md`, which also names the rows that
//! storage, the node and the simulator cover.

mod support;

use std::fs;
use std::path::Path;

use bytes::Bytes;
use raft_core::consensus::event::{Refusal, RoleName, TransferFailure};
use raft_core::membership::Membership;
use raft_core::message::{AppendResult, Body};
use raft_core::types::{Entry, Index, LogPosition, NodeId, Payload, Term};
use raft_core::write::SnapshotMeta;
use support::app::App;
use support::disk::digest;
use support::script::{Story, at, voters};

/// An entry as `node .. log=` makes them.
fn entry(index: u64, term: u64) -> Entry {
    let payload = Payload::Command(Bytes::from(format!("c{index}.{term}")));
    Entry { position: at(index, term), payload }
}

fn append(prev: (u64, u64), entries: Vec<Entry>, commit: u64) -> Body {
    Body::Append { prev: at(prev.0, prev.1), entries, commit: Index(commit) }
}

/// A follower (n1) of two others that are only forged.
fn follower(node: &str) -> Story {
    Story::of(&format!("node 1 {node}"))
}

/// pitfall 2: a node decides by the newest membership in its log, applied or not.
#[test]
fn pitfall_2_unapplied_membership_decides() {
    let mut story = Story::of(
        "voters 1 2 3\nnode 1 log=1,1 at 2 voters 1 2 3 4 5\nnode 2 log=1,1 at 2 voters 1 2 3 4 5",
    );
    story.run("campaign 1\nsettle");
    assert_eq!(story.status(1).applied, Index(0));
    assert!(!story.leads(1), "two of five are no quorum, two of the old three would have been");
}

/// pitfall 3: cutting an entry off the log brings back the membership before it.
#[test]
fn pitfall_3_truncation_reverts_the_membership() {
    let mut story = follower("log=1,2 at 2 voters 1 2 3 4 5");
    assert_eq!(story.voters(1), [1, 2, 3, 4, 5]);
    story.forge(2, 1, 3, append((1, 1), vec![entry(2, 3)], 0));
    assert_eq!(story.voters(1), [1, 2, 3]);
}

/// pitfall 4: two memberships cut at once leave the one before both, after a restart as well.
#[test]
fn pitfall_4_two_memberships_are_cut_at_once() {
    let mut story = follower("log=1,2,2 at 2 voters 1 2 3 4 outgoing 1 2 3 at 3 voters 1 2 3 4");
    story.run("crash 1\nrestart 1");
    assert_eq!(story.voters(1), [1, 2, 3, 4]);
    story.forge(2, 1, 3, append((1, 1), vec![entry(2, 3)], 0));
    assert_eq!(story.voters(1), [1, 2, 3]);
    assert!(!story.status(1).membership.is_joint());
}

/// pitfall 5: a snapshot carries the membership of its last entry, not a newer one that may be cut.
#[test]
fn pitfall_5_snapshot_holds_the_membership_of_its_index() {
    let mut story = follower("log=1,1,1 at 3 voters 1 2 3 4 5");
    let position = at(2, 1);
    agreed(&mut story, 2);
    story.forge(2, 1, 1, append((1, 1), vec![entry(2, 1)], 2));
    assert_eq!(story.voters(1), [1, 2, 3, 4, 5], "in force");
    let core = story.world.nodes[&NodeId(1)].core.as_ref().expect("it runs");
    let (at, membership) = core.snapshot_point().expect("two entries are applied");
    assert_eq!(at, position);
    assert_eq!(membership, voters(&[1, 2, 3], &[], &[]));
}

/// pitfall 6: a membership that was appended and not committed is still there after a restart.
#[test]
fn pitfall_6_restart_keeps_an_uncommitted_membership() {
    let mut story = follower("log=1,1 at 2 voters 1 2 3 4 5");
    story.run("crash 1\nrestart 1");
    assert_eq!(story.voters(1), [1, 2, 3, 4, 5]);
}

/// pitfall 12: a node that its own membership does not list still votes: the candidate may know a
/// newer one.
#[test]
fn pitfall_12_a_node_outside_its_own_membership_votes() {
    let mut story = Story::of("voters 2 3\nnode 1 log=1 term=1");
    let said = story.forge(2, 1, 2, Body::RequestVote { last: at(1, 1), transfer: false });
    assert!(said.contains("n1@2 -> n2 vote granted"), "{said}");
}

/// pitfall 13: a new leader needs the majority of a membership that was never committed.
#[test]
fn pitfall_13_election_counts_by_an_uncommitted_membership() {
    let mut story = Story::of(
        "node 1 log=1,1 at 2 voters 1 2 3 4 5\nnode 2\nnode 3\nnode 4 empty\nnode 5 empty\n\
         cut 3\ncut 4\ncut 5\ncampaign 1\nsettle",
    );
    assert!(!story.leads(1), "one grant of five");
    story.run("heal\ncut 4\ncut 5\ncampaign 1\nsettle");
    assert!(story.leads(1), "two grants and itself");
}

/// pitfall 14: a snapshot is taken by a node that its membership does not list.
#[test]
fn pitfall_14_a_node_outside_the_snapshots_membership_takes_it() {
    let mut story = Story::of("node 3 empty");
    agreed(&mut story, 4);
    let (meta, body) = snapshot(at(4, 1), voters(&[1, 2], &[], &[]));
    story.forge(1, 3, 1, Body::InstallSnapshot { meta, offset: 0, data: body });
    assert_eq!(story.status(3).snapshot, at(4, 1));
    assert_eq!(story.voters(3), [1, 2]);
}

/// What a forged leader says is committed: entries of term 1 up to `last`.
fn agreed(story: &mut Story, last: u64) {
    let places: Vec<LogPosition> = (1..=last).map(|index| at(index, 1)).collect();
    story.world.laws.was_committed(&places);
}

/// The snapshot of a state that ends at this position.
fn snapshot(position: LogPosition, membership: Membership) -> (SnapshotMeta, Bytes) {
    let body = App { at: position, commands: Vec::new() }.body();
    let (body_bytes, digest) = (body.len() as u64, digest(&body));
    (SnapshotMeta { position, membership, body_bytes, digest }, body)
}

/// pitfall 16: the longest log has the lowest term; it learns the term from a refusal and leads.
#[test]
fn pitfall_16_a_long_log_of_a_low_term_is_elected() {
    let mut story =
        Story::of("node 1 log=1,1,1 term=1\nnode 2 log=1,1 term=9\nnode 3 log=1,1 term=9");
    story.run("cut 2 3\nrun 10s");
    assert_eq!(story.world.leader(), Some(NodeId(1)));
}

/// pitfall 17: followers of an isolated leader forget it and elect another.
#[test]
fn pitfall_17_an_isolated_leader_is_replaced() {
    let mut story = Story::of("cluster 3\nlead 1\ncut 1\nrun 3s");
    let leader = story.world.leader().expect("the two others elect");
    assert!(leader != NodeId(1) && !story.leads(1), "and the old one has stepped down");
    story.run("heal\nrun 1s");
    assert_eq!(story.status(1).leader, Some(leader));
}

/// pitfall 18: a pre-vote changes no persistent state, neither at the asker nor at the asked, and
/// its answers are no votes.
#[test]
fn pitfall_18_pre_vote_is_no_vote() {
    let mut story = Story::of("cluster 3\nshow writes\ncampaign 1\ndeliver pre-vote");
    let said = story.run("drop\nstatus");
    assert!(!said.contains("writes"), "{said}");
    assert!((1..=3).all(|node| story.status(node).term == Term(1)));

    // An answer to a question of another term is none to this one.
    story.run("campaign 2");
    story.forge(1, 2, 1, Body::PreVoteReply { granted: true, asked_in: Term(0) });
    assert_eq!(story.status(2).role, RoleName::PreCandidate);

    story.run("deliver pre-vote\ncopy pre-vote-reply\ndeliver pre-vote-reply");
    story.forge(1, 2, 2, Body::PreVoteReply { granted: true, asked_in: Term(2) });
    assert_eq!(story.status(2).role, RoleName::Candidate, "no vote has been granted");
}

/// pitfall 19: a transfer is not stopped by pre-vote or by recent contact with the leader.
#[test]
fn pitfall_19_transfer_passes_pre_vote() {
    let mut story = Story::of("cluster 3\nlead 1\nrun 75ms\ntransfer 1 2\nsettle");
    assert!(story.leads(2));
    assert_eq!(story.world.node(NodeId(1)).transfers, [Ok(NodeId(2))]);
}

/// pitfall 20: late grants do not make a leader campaign again.
#[test]
fn pitfall_20_late_pre_votes_do_not_move_a_leader() {
    let mut story =
        Story::of("cluster 3\ncampaign 1\ndeliver pre-vote\ncopy pre-vote-reply\nsettle");
    let term = story.status(1).term;
    for asked_in in [1, 2] {
        story.forge(3, 1, 1, Body::PreVoteReply { granted: true, asked_in: Term(asked_in) });
        story.forge(3, 1, 2, Body::PreVoteReply { granted: true, asked_in: Term(asked_in) });
    }
    assert!(story.leads(1));
    assert_eq!(story.status(1).term, term);
}

/// pitfall 21: term and vote are one write, so no crash can come between them.
#[test]
fn pitfall_21_term_and_vote_are_one_write() {
    let mut story = follower("term=1");
    story.run("hold-sync 1");
    story.forge(2, 1, 5, Body::RequestVote { last: at(1, 1), transfer: false });
    let writes = &story.world.nodes[&NodeId(1)].disk.waiting;
    let states: Vec<_> = writes.iter().filter_map(|write| write.hard_state).collect();
    assert_eq!(states.len(), 1);
    assert_eq!((states[0].term, states[0].vote), (Term(5), Some(NodeId(2))));
}

/// pitfall 22: a term seen in a refused request is adopted, but it is no vote: the better candidate
/// of that term gets it.
#[test]
fn pitfall_22_a_higher_term_seen_is_not_a_vote_given() {
    let mut story = follower("log=1,1,2 term=2");
    let behind = Body::RequestVote { last: at(2, 1), transfer: false };
    let said = story.forge(2, 1, 3, behind);
    assert!(said.contains("n1@3 -> n2 vote refused"), "{said}");
    let better = Body::RequestVote { last: at(3, 2), transfer: false };
    let said = story.forge(3, 1, 3, better);
    assert!(said.contains("n1@3 -> n3 vote granted"), "{said}");
}

/// pitfall 23: five nodes that see each other only in part keep one leader and its term.
#[test]
fn pitfall_23_partial_connectivity_keeps_the_leader() {
    let links = "cut 1 2\ncut 1 3\ncut 1 5\ncut 2 3\ncut 2 5\ncut 4 5";
    let mut story = Story::of(&format!("cluster 5\nlead 4\n{links}"));
    let term = story.status(4).term;
    story.run("run 20s\nput 4 a\nrun 1s");
    assert!(story.leads(4) && story.status(4).term == term);
    assert_eq!(story.applied(4), ["a"]);
}

/// pitfall 25: an entry of an older term is not committed because a majority has it.
#[test]
fn pitfall_25_figure_8() {
    let mut story = Story::of(
        "config append_bytes_max=1\nvoters 1 2 3 4 5\nnode 1 log=1,2 term=3\nnode 2 log=1,2 term=3\n\
         node 3 term=3\nnode 4 term=3\nnode 5 log=1,3 term=3\ncut 5\ncut 2\nhold append\nlead 1\n\
         deliver append\ndeliver ack\ndeliver append\ndeliver ack",
    );
    assert_eq!((story.log(3), story.log(4)), (vec![(1, 1), (2, 2)], vec![(1, 1), (2, 2)]));
    assert_eq!(story.status(1).committed, Index(0), "n1, n3 and n4 hold 2@2");
    // So the node that lacks it may still lead and overwrite it.
    story.run("crash 1\ntick 1s\ndrop\nheal\nfree\ncampaign 5\nsettle\nlead 5\nrun 1s");
    assert_eq!(story.log(3)[1], (2, 3));
}

/// pitfall 26: a heartbeat, a probe, an old append or a new term leave an acknowledged tail alone.
#[test]
fn pitfall_26_nothing_but_a_conflict_cuts_the_log() {
    let mut story = follower("log=1,2,2 term=2");
    let whole = story.log(1);
    agreed(&mut story, 1);
    story.forge(2, 1, 2, append((1, 1), Vec::new(), 1));
    story.forge(2, 1, 2, append((1, 1), vec![entry(2, 2)], 1));
    story.forge(2, 1, 2, Body::Heartbeat { round: 1, commit: Index(0) });
    story.forge(3, 1, 4, Body::RequestVote { last: at(9, 3), transfer: true });
    assert_eq!(story.log(1), whole);

    let mut story = Story::of("cluster 3\nlead 1\nhold 1->*\nput 1 a b");
    let whole = story.log(1);
    story.forge(2, 1, 7, Body::Heartbeat { round: 1, commit: Index(0) });
    assert_eq!(story.status(1).role, RoleName::Follower);
    assert_eq!(story.log(1), whole, "who is deposed keeps its tail");
}

/// pitfall 27: an acknowledgement covers what the append verified, not what the follower has.
#[test]
fn pitfall_27_acknowledges_only_what_was_covered() {
    let mut story = follower("log=1,1,1,1,1 term=1");
    let said = story.forge(2, 1, 2, append((2, 1), vec![entry(3, 1)], 0));
    assert!(said.contains("n1@2 -> n2 ack 3"), "{said}");
    let said = story.forge(2, 1, 2, Body::Heartbeat { round: 1, commit: Index(0) });
    assert!(said.contains("matched 3, received 3"), "{said}");
}

/// pitfall 28: a refusal that comes late does not throw the leader back, nor does a match of an
/// earlier term.
#[test]
fn pitfall_28_late_answers_do_not_move_progress_back() {
    let mut story = Story::of("cluster 3\nlead 1\nput 1 a b c\nsettle");
    let next = |story: &Story| story.status(1).peers[0].next;
    assert_eq!(next(&story), Index(6));
    for prev in [1, 3, 5] {
        let result = AppendResult::Conflict { prev: Index(prev), hint: at(1, 1) };
        story.forge(2, 1, 2, Body::AppendReply { result });
    }
    assert_eq!(next(&story), Index(6));
    // While it probes, only the refusal of that very probe counts.
    let mut probing =
        Story::of("node 1 log=1,1,1,1,1,1\nnode 2 log=1\nnode 3 log=1\nhold append\nlead 1");
    let result = AppendResult::Conflict { prev: Index(3), hint: at(1, 1) };
    probing.forge(2, 1, 2, Body::AppendReply { result });
    assert_eq!(next(&probing), Index(7));
    // A leader of a later term knows nothing of an acknowledgement of an earlier one.
    story.run("cut 1 2\nput 1 d");
    let result = AppendResult::Matched(Index(6));
    story.forge(2, 1, 1, Body::AppendReply { result });
    assert_eq!(story.status(1).peers[0].matched, Index(5));
}

/// pitfall 30: an entry above the limit of a message travels alone and is not left out.
#[test]
fn pitfall_30_a_large_entry_leaves_no_gap() {
    let mut story = Story::of(
        "config append_bytes_max=200\ncluster 3\nlead 1\ncut 3\nput 1 a b size=1000 c d\nsettle\nheal\nrun 500ms",
    );
    assert_eq!(story.log(3), story.log(1));
    assert_eq!(story.applied(3).len(), 5);
    assert_eq!(story.run("wire"), "");
}

/// pitfall 32: a node counts itself only after its own sync, alone and among three.
#[test]
fn pitfall_32_a_leader_counts_itself_after_its_sync() {
    let mut story = Story::of("cluster 1\nrun 1ms\nhold-sync 1\nput 1 a\nsettle");
    assert_eq!(story.applied(1), Vec::<String>::new());
    story.run("sync 1");
    assert_eq!(story.applied(1), ["a"]);

    let mut story = Story::of("cluster 3\nlead 1\nhold-sync 1\nhold-sync 3\nput 1 a\nsettle");
    assert_eq!(story.status(1).committed, Index(2), "n2 alone has synced it");
    story.run("sync 1");
    assert_eq!(story.status(1).committed, Index(3));

    let mut story = Story::of("cluster 3\nhold-sync 1\ncampaign 1\nsettle");
    assert!(!story.leads(1), "its own vote is not synced");
    story.run("sync 1");
    assert!(story.leads(1));
}

/// pitfall 33: the sync of an old write says nothing of the bytes that took its place.
#[test]
fn pitfall_33_an_old_sync_does_not_vouch_for_new_bytes() {
    let mut story = follower("term=1");
    story.run("hold-sync 1");
    story.forge(2, 1, 2, append((1, 1), vec![entry(2, 2), entry(3, 2)], 0));
    story.forge(3, 1, 3, append((1, 1), vec![entry(2, 3), entry(3, 3)], 0));
    let said = story.run("sync 1 one");
    assert!(!said.contains("ack"), "only 2@2 and 3@2 are synced, n3 leads: {said}");
    assert_eq!(story.status(1).durable, Index(1));
    let said = story.run("sync 1 one");
    assert!(said.contains("n1@3 -> n3 ack 3"), "{said}");
}

/// pitfall 33, with a snapshot in between: a write of before the install does not vouch for entries
/// of after it.
#[test]
fn pitfall_33_an_old_sync_does_not_vouch_for_entries_above_a_snapshot() {
    let mut story = follower("term=1");
    story.run("hold-sync 1\nslow");
    let many = (2..=9).map(|index| entry(index, 1)).collect();
    story.forge(2, 1, 1, append((1, 1), many, 0));
    let (meta, body) = snapshot(at(5, 2), voters(&[1, 2, 3], &[], &[]));
    agreed(&mut story, 4);
    story.world.laws.was_committed(&[at(5, 2)]);
    story.forge(3, 1, 3, Body::InstallSnapshot { meta, offset: 0, data: body });
    story.forge(3, 1, 4, Body::RequestVote { last: at(20, 3), transfer: true });
    story.run("sync 1 one\nsync 1 one\nwork 1");
    assert_eq!(story.status(1).snapshot, at(5, 2));
    story.forge(3, 1, 4, append((5, 2), vec![entry(6, 4), entry(7, 4)], 5));
    story.run("sync 1 one");
    assert_eq!(story.status(1).durable, Index(5), "6@4 and 7@4 are not synced");
}

/// pitfall 33, for votes: an answer that waits for its sync belongs to its term, and is not given
/// when another term has begun meanwhile.
#[test]
fn pitfall_33_a_withheld_answer_dies_with_its_term() {
    let mut story = follower("term=1");
    story.run("hold-sync 1");
    story.forge(2, 1, 2, Body::RequestVote { last: at(1, 1), transfer: false });
    story.forge(3, 1, 3, Body::RequestVote { last: at(1, 1), transfer: false });
    let said = story.run("sync 1 one\nsync 1");
    assert!(said.contains("n1@3 -> n3 vote granted"), "{said}");
    assert!(!said.contains("-> n2 vote granted"), "{said}");
}

/// pitfall 34: no entry is written in a term that is not written before or with it.
#[test]
fn pitfall_34_the_term_is_written_with_its_entry() {
    let mut story = follower("term=1");
    story.run("hold-sync 1");
    story.forge(2, 1, 6, append((1, 1), vec![entry(2, 6)], 0));
    let write = story.world.nodes[&NodeId(1)].disk.waiting.front().expect("a write").clone();
    assert_eq!(write.hard_state.map(|state| state.term), Some(Term(6)));
    assert_eq!(write.entries, [entry(2, 6)]);
}

/// pitfall 35: a commit index beyond what this leader has shown us counts only as far as that.
#[test]
fn pitfall_35_commit_is_bounded_by_what_was_verified() {
    let mut story = follower("log=1,1,1,1 term=1");
    agreed(&mut story, 2);
    story.forge(2, 1, 2, Body::Heartbeat { round: 1, commit: Index(100) });
    assert_eq!(story.status(1).committed, Index(0), "nothing is verified in this term");
    story.forge(2, 1, 2, append((1, 1), vec![entry(2, 1)], 100));
    assert_eq!(story.status(1).committed, Index(2), "our own 3@1 and 4@1 may be wrong");
}

/// pitfall 36: what was applied and not known as committed on disk is no trouble after a crash.
#[test]
fn pitfall_36_crash_after_apply() {
    let mut story = Story::of("cluster 3\nlead 1\nput 1 a\nsettle\nrun 75ms");
    assert_eq!(story.applied(3), ["a"]);
    story.run("crash 3\nrestart 3");
    assert_eq!(story.status(3).committed, Index(0));
    story.run("run 300ms");
    assert_eq!(story.applied(3), ["a"]);
}

/// pitfall 37: a node that is alone commits and applies its whole log after a restart.
#[test]
fn pitfall_37_a_single_node_applies_again() {
    let mut story = Story::of("cluster 1\nrun 1ms\nput 1 a b\ncrash 1\nrestart 1\nrun 1ms\nread 1");
    assert_eq!(story.applied(1), ["a", "b"]);
    let node = story.world.node(NodeId(1));
    assert_eq!(node.reads.values().copied().collect::<Vec<_>>(), [Ok(Index(5))]);
}

/// pitfall 38: uncommitted entries of earlier terms count against the limit of a new leader.
#[test]
fn pitfall_38_the_limit_of_uncommitted_bytes_spans_terms() {
    let mut story = Story::of(
        "config uncommitted_bytes_max=400\nnode 1 log=1,1,1,1,1,1,1,1,1\nnode 2\nnode 3\n\
         hold append\nlead 1",
    );
    let refused = story.propose(1, "one more");
    let node = story.world.node(NodeId(1));
    assert_eq!(node.proposals[&refused], Err(Refusal::Busy));
    story.run("free\nsettle");
    let taken = story.propose(1, "now");
    assert!(story.world.node(NodeId(1)).proposals[&taken].is_ok());
}

/// pitfall 39: a snapshot below what we hold leaves the log above it as it is.
#[test]
fn pitfall_39_an_old_snapshot_keeps_the_newer_suffix() {
    let mut story = follower("log=1,1,1,1,1 term=1");
    let whole = story.log(1);
    agreed(&mut story, 3);
    let (meta, data) = snapshot(at(3, 1), voters(&[1, 2, 3], &[], &[]));
    let said = story.forge(2, 1, 1, Body::InstallSnapshot { meta, offset: 0, data });
    assert!(said.contains("n1@1 -> n2 holds snapshot 3@1"), "{said}");
    assert_eq!(story.log(1), whole);
    assert_eq!(story.status(1).last, at(5, 1));
    assert_eq!(story.status(1).committed, Index(3), "what a leader's snapshot covers is committed");
}

/// pitfall 40: a log that differs at the snapshot's end is gone when it is installed, and no second
/// snapshot is needed.
#[test]
fn pitfall_40_a_divergent_tail_does_not_survive_a_snapshot() {
    let mut story = Story::of(
        "config chunk_bytes=1000\nnode 1 log=1,1,3,3 term=3\nnode 2 log=1,1,3,3 term=3\n\
         node 3 log=1,2,2,2,2,2,2,2,2 term=2\ncut 3\nlead 1\nput 1 a\nsettle\nsnapshot 1\nheal\nrun 2s",
    );
    assert_eq!(story.status(3).snapshot, story.status(1).snapshot);
    assert_eq!(story.world.node(NodeId(1)).chunks_read, 1, "one snapshot, in one piece");
    story.run("put 1 b\nrun 1s");
    assert_eq!(story.applied(3), story.applied(1));
}

/// pitfall 41: every answer to a snapshot is lost, and still the follower is brought up to date.
#[test]
fn pitfall_41_lost_answers_do_not_end_a_snapshot_transfer() {
    let mut story = Story::of(
        "config chunk_bytes=40\ncluster 3\nlead 1\ncut 3\nput 1 a b c\nsettle\nsnapshot 1\n\
         hold snapshot-reply\nheal",
    );
    for _ in 0..40 {
        story.run("run 100ms\ndrop snapshot-reply nth=1\ndeliver snapshot-reply\nput 1 x\nsettle");
    }
    story.run("free\nrun 2s");
    assert_eq!(story.applied(3), story.applied(1));
    assert_eq!(story.status(1).peers[1].state, "replicate");
}

/// pitfall 42: a candidate of the same term takes a snapshot: its sender leads.
#[test]
fn pitfall_42_a_candidate_takes_a_snapshot() {
    let mut story =
        Story::of("cluster 3\ncrash 2\ndrop\ncampaign 1\ndeliver pre-vote\ndeliver pre-vote-reply");
    assert_eq!(story.status(1).role, RoleName::Candidate);
    agreed(&mut story, 7);
    let (meta, data) = snapshot(at(7, 1), voters(&[1, 2, 3], &[], &[]));
    story.forge(2, 1, 2, Body::InstallSnapshot { meta, offset: 0, data });
    let status = story.status(1);
    assert_eq!((status.role, status.leader), (RoleName::Follower, Some(NodeId(2))));
    assert_eq!(status.snapshot, at(7, 1));
}

/// pitfall 43: a newer snapshot while an older one is still being installed or restored.
#[test]
fn pitfall_43_two_snapshots_in_quick_succession() {
    let mut story = follower("term=1");
    story.run("hold-sync 1\nhold-restore 1");
    agreed(&mut story, 9);
    let membership = || voters(&[1, 2, 3], &[], &[]);
    let (first, data) = snapshot(at(5, 1), membership());
    story.forge(2, 1, 1, Body::InstallSnapshot { meta: first, offset: 0, data });
    let (second, data) = snapshot(at(9, 1), membership());
    let again = Body::InstallSnapshot { meta: second, offset: 0, data };
    story.forge(2, 1, 1, again.clone());
    story.run("free-sync 1");
    assert_eq!(story.status(1).snapshot, at(5, 1));
    story.forge(2, 1, 1, again.clone());
    story.run("free-restore 1");
    story.forge(2, 1, 1, again);
    assert_eq!(story.status(1).snapshot, at(9, 1));
    assert_eq!(story.world.node(NodeId(1)).app.at, at(9, 1));
}

/// pitfall 45: a leader that compacted up to its last entry still feeds a restarted follower.
#[test]
fn pitfall_45_an_idle_leader_compacted_to_its_end_feeds_a_follower() {
    let story = Story::of(
        "cluster 3\nlead 1\ncut 3\nput 1 a b\nsettle\nsnapshot 1\ncrash 3\nrestart 3\nheal\nrun 2s",
    );
    assert_eq!(story.applied(3), ["a", "b"]);
}

/// pitfall 45, its other half: a snapshot is due again although another was being built meanwhile,
/// and never twice at one place.
#[test]
fn pitfall_45_a_snapshot_that_is_being_built_hides_no_later_one() {
    let mut story = Story::of(
        "config snapshot_entries=3\ncluster 1\nrun 1ms\nhold-snapshot 1\nput 1 a b c\nput 1 d e f g",
    );
    story.run("hold-sync 1\nfree-snapshot 1");
    let core = story.world.nodes[&NodeId(1)].core.as_ref().expect("it runs");
    let next = core.snapshot_due().map(|(position, _)| position);
    assert!(next.is_none_or(|position| at(5, 2) < position), "not the one being marked again");
    story.run("free-sync 1\nsettle\nput 1 h\nsettle");
    assert!(at(5, 2) < story.status(1).snapshot);
}

/// pitfall 47: a snapshot whose bytes are not what they should be is fetched again.
#[test]
fn pitfall_47_a_damaged_snapshot_is_refused_and_fetched_again() {
    let mut story = follower("term=1");
    let (meta, body) = snapshot(at(5, 1), voters(&[1, 2, 3], &[], &[]));
    agreed(&mut story, 5);
    let mut damaged = body.to_vec();
    damaged[0] ^= 1;
    let (offset, data) = (0, Bytes::from(damaged));
    let said = story.forge(2, 1, 1, Body::InstallSnapshot { meta: meta.clone(), offset, data });
    assert!(said.contains("n1@1 -> n2 snapshot 5@1 wants byte 0"), "{said}");
    assert_eq!(story.status(1).snapshot, at(0, 0));
    story.forge(2, 1, 1, Body::InstallSnapshot { meta, offset, data: body });
    assert_eq!(story.status(1).snapshot, at(5, 1));
}

/// pitfall 53: a leader answers no read before an entry of its own term is committed.
#[test]
fn pitfall_53_reads_wait_for_an_own_commit() {
    let mut story = Story::of("cluster 3\nhold append\nlead 1\nread 1\nrun 300ms");
    assert!(!story.status(1).ready);
    assert!(story.world.node(NodeId(1)).reads.is_empty());
    story.run("free\nrun 300ms");
    let reads: Vec<_> = story.world.node(NodeId(1)).reads.values().copied().collect();
    assert_eq!(reads, [Ok(Index(2))]);
}

/// pitfall 54: the answer to an older round, or to a question of an earlier life, confirms nothing.
#[test]
fn pitfall_54_old_answers_confirm_no_read() {
    let mut story = Story::of("cluster 3\nlead 1\nrun 75ms\nhold 1->*");
    story.run("read 1");
    let reads = |story: &Story| story.world.nodes[&NodeId(1)].reads.len();
    for round in 0..=1 {
        let body = Body::HeartbeatReply { round, matched: Index(2), received: Index(2) };
        story.forge(2, 1, 2, body);
    }
    assert_eq!(reads(&story), 0, "rounds sent before the read");
    let unsent = Body::HeartbeatReply { round: 99, matched: Index(2), received: Index(2) };
    story.forge(2, 1, 2, unsent);
    assert_eq!(reads(&story), 0, "a round nobody sent");

    let mut story = Story::of("cluster 3\nlead 1\nread 2");
    story.forge(1, 2, 2, Body::ReadIndexReply { index: Some(Index(1)) });
    assert!(story.world.node(NodeId(2)).reads.is_empty(), "an answer to another question");
}

/// pitfall 54: message ids of a restarted node are not those of its earlier life.
#[test]
fn pitfall_54_ids_differ_across_a_restart() {
    let mut story = Story::of("cluster 3\nlead 1\nread 2");
    let id = |story: &Story| {
        let kind = |flight: &&support::world::Flight| flight.message.body == Body::ReadIndex;
        story.world.wire.iter().find(kind).map(|flight| flight.message.id).expect("a question")
    };
    let first = id(&story);
    story.run("drop\ncrash 2\nrestart 2\nrun 75ms\nread 2");
    assert!(first.abs_diff(id(&story)) > 1000);
}

/// pitfall 55: an order to campaign that is no longer true is not obeyed.
#[test]
fn pitfall_55_a_late_order_to_campaign_is_ignored() {
    let mut story = Story::of("cluster 3\nlead 1\nput 1 a\nsettle");
    story.forge(1, 2, 2, Body::TimeoutNow { last: at(2, 2) });
    assert_eq!(story.status(2).term, Term(2), "the leader has gone on");
    story.forge(1, 2, 2, Body::TimeoutNow { last: at(9, 2) });
    assert_eq!(story.status(2).term, Term(2), "we lack its log");
    story.forge(1, 2, 1, Body::TimeoutNow { last: at(3, 2) });
    assert_eq!(story.status(2).term, Term(2), "of an older term");
    story.forge(1, 2, 2, Body::TimeoutNow { last: at(3, 2) });
    assert_eq!(story.status(2).term, Term(3), "and the true one is obeyed");
}

/// pitfall 57: a transfer to a node that does not answer ends after one election timeout.
#[test]
fn pitfall_57_a_transfer_times_out() {
    let mut story = Story::of("cluster 3\nlead 1\ncut 2\ntransfer 1 2");
    let during = story.propose(1, "during");
    story.run("run 400ms");
    let after = story.propose(1, "after");
    let node = story.world.node(NodeId(1));
    assert_eq!(node.proposals[&during], Err(Refusal::Transferring { to: NodeId(2) }));
    assert!(node.proposals[&after].is_ok());
    assert_eq!(node.transfers, [Err(TransferFailure::TimedOut)]);
}

/// pitfall 58: after a stall of a follower's disk, with heartbeats flowing, replication goes on.
#[test]
fn pitfall_58_a_stalled_disk_does_not_wedge_the_pipeline() {
    let mut story = Story::of("config inflight_bytes_max=150\ncluster 3\nlead 1\nhold-sync 2");
    for _ in 0..20 {
        story.run("put 1 a b c\nrun 300ms");
    }
    let status = story.status(1);
    assert!(status.peers[0].matched < Index(10), "its disk is stalled");
    assert!(story.leads(1), "and its heartbeats flow");
    story.run("free-sync 2\nrun 1s");
    assert_eq!(story.status(2).durable, story.status(1).last.index);
    assert_eq!(story.applied(2), story.applied(1));
}

/// The table in `docs/raft.md` has every row, names tests that exist, and leaves out none of ours.
#[test]
fn the_table_of_pitfalls_names_the_tests() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(package.join("../docs/raft.md")).expect("the page");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
    for row in 1..=58 {
        assert!(rows.iter().any(|line| line.starts_with(&format!("| {row} |"))), "no row {row}");
    }
    let mut found = 0;
    for row in &rows {
        let mut file = String::new();
        for word in row.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                let folder = if word.starts_with("src/") { "" } else { "tests/" };
                file = fs::read_to_string(package.join(folder).join(word)).unwrap_or_default();
            } else if word.starts_with("pitfall_") && !file.is_empty() {
                assert!(
                    file.contains(&format!("fn {word}()")),
                    "{word} is not where the page says"
                );
                found += 1;
            }
        }
    }
    assert!(50 <= found, "only {found} tests found");
    let ours = include_str!("pitfalls.rs").lines().filter_map(|line| line.strip_prefix("fn "));
    for test in ours.filter(|line| line.starts_with("pitfall_")) {
        let name = test.split('(').next().unwrap_or_default();
        assert!(page.contains(&format!("`{name}`")), "{name} is not on the page");
    }
}
