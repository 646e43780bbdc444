//! The rules of Ongaro's thesis ("Consensus: Bridging Theory and Practice", 2014), one test each:
//! the section in the name's doc line, then given, when, then.

mod support;

use bytes::Bytes;
use raft_core::consensus::event::{Refusal, RoleName};
use raft_core::message::{AppendResult, Body};
use raft_core::types::{Entry, Index, NodeId, Payload, Term};
use support::script::{Story, at};

fn entry(index: u64, term: u64) -> Entry {
    let payload = Payload::Command(Bytes::from(format!("c{index}.{term}")));
    Entry { position: at(index, term), payload }
}

fn append(prev: (u64, u64), entries: Vec<Entry>, commit: u64) -> Body {
    Body::Append { prev: at(prev.0, prev.1), entries, commit: Index(commit) }
}

fn vote(index: u64, term: u64) -> Body {
    Body::RequestVote { last: at(index, term), transfer: false }
}

/// 3.3: who sees a higher term takes it over and follows.
#[test]
fn a_higher_term_makes_a_follower() {
    for role in ["cluster 3", "cluster 3\nlead 1", "cluster 3\ncut 1\ncampaign 1"] {
        // given a follower, a leader, a pre-candidate
        let mut story = Story::of(&format!("{role}\nheal"));
        // when an answer of a higher term comes in
        story.forge(2, 1, 9, Body::VoteReply { granted: false });
        // then it follows in that term
        let status = story.status(1);
        assert_eq!((status.role, status.term), (RoleName::Follower, Term(9)), "{role}");
    }
}

/// 3.3: a request of an older term is answered with the newer one and changes nothing.
#[test]
fn an_older_term_is_refused() {
    // given a node in term 5
    let mut story = Story::of("node 1 term=5");
    for body in [vote(9, 4), append((1, 1), vec![entry(2, 4)], 2)] {
        // when a request of term 4 comes in
        let said = story.forge(2, 1, 4, body);
        // then it hears of term 5, and the log stays
        assert!(said.contains("n1@5 -> n2"), "{said}");
        assert_eq!(story.log(1), [(1, 1)]);
        assert_eq!(story.status(1).leader, None);
    }
}

/// 3.4: heartbeats keep followers from campaigning.
#[test]
fn heartbeats_prevent_elections() {
    // given a leader
    let mut story = Story::of("cluster 5\nlead 2");
    let term = story.status(2).term;
    // when a minute passes
    story.run("run 60s");
    // then it leads in the same term
    assert!(story.leads(2) && story.status(2).term == term);
}

/// 3.4: who hears no leader for its election timeout campaigns, not before the least of it and not
/// after twice that; the waits are drawn at random.
#[test]
fn the_election_timeout_is_random_between_once_and_twice() {
    let mut waits = Vec::new();
    // given many nodes that hear nobody
    let story = Story::of("cluster 7");
    for node in story.world.nodes.values() {
        // when each says when it will act
        waits.push(node.core.as_ref().expect("it runs").deadline().0 / 1_000_000);
    }
    // then all lie between 400 and 800 ms, and they are not the same
    assert!(waits.iter().all(|wait| (400..=800).contains(wait)), "{waits:?}");
    waits.sort_unstable();
    waits.dedup();
    assert!(4 <= waits.len(), "{waits:?}");
}

/// 3.4: a candidate that hears the leader of its own term follows it.
#[test]
fn a_candidate_yields_to_the_leader_of_its_term() {
    // given a candidate in term 2
    let mut story = Story::of("cluster 3\ncampaign 1\ndeliver pre-vote\ndeliver pre-vote-reply");
    assert_eq!(story.status(1).role, RoleName::Candidate);
    // when another leads that term
    story.forge(3, 1, 2, append((1, 1), vec![entry(2, 2)], 0));
    // then it follows it
    assert_eq!(story.status(1).leader, Some(NodeId(3)));
}

/// 3.4: a candidate wins with a majority, itself among them, and not before.
#[test]
fn a_majority_elects() {
    // given five nodes of which two are away, and two more
    let mut story = Story::of("cluster 5\ncut 4\ncut 5\ncut 1 3\ncampaign 1\nsettle");
    // then two of five are not enough, and three are
    assert!(!story.leads(1));
    story.run("heal\ncut 4\ncut 5\ncampaign 1\nsettle");
    assert!(story.leads(1));
}

/// 3.4: one vote in a term, for who comes first; the same candidate may ask again.
#[test]
fn one_vote_in_a_term_first_come() {
    // given a node that voted for n2 in term 3
    let mut story = Story::of("node 1 term=1");
    assert!(story.forge(2, 1, 3, vote(1, 1)).contains("n1@3 -> n2 vote granted"));
    // when n3 and n2 ask in that term
    let third = story.forge(3, 1, 3, vote(9, 2));
    let second = story.forge(2, 1, 3, vote(1, 1));
    // then n3 is refused, and n2 is told again
    assert!(third.contains("n1@3 -> n3 vote refused"), "{third}");
    assert!(second.contains("n1@3 -> n2 vote granted"), "{second}");
}

/// 3.5: a leader only appends: nothing in its log is ever changed or dropped by it.
#[test]
fn a_leader_only_appends() {
    // given a leader with entries
    let mut story = Story::of("cluster 3\nlead 1\nput 1 a b\nsettle");
    let before = story.log(1);
    // when its followers refuse, acknowledge and claim what they like, in its own term
    let conflict = AppendResult::Conflict { prev: Index(2), hint: at(1, 1) };
    for result in [conflict, AppendResult::Matched(Index(1)), AppendResult::Matched(Index(77))] {
        story.forge(2, 1, 2, Body::AppendReply { result });
    }
    story.forge(3, 1, 2, append((1, 1), vec![entry(2, 2)], 2));
    story.run("put 1 c\nsettle");
    // then its log has only grown
    assert_eq!(story.log(1)[..before.len()], before);
    assert_eq!(story.log(1).len(), before.len() + 1);
}

/// 3.5: the consistency check: without the entry before, nothing is appended.
#[test]
fn an_append_without_its_predecessor_is_refused() {
    for prev in [(4, 1), (3, 2), (9, 1)] {
        // given a log of 1@1 2@1 3@1
        let mut story = Story::of("node 1 log=1,1,1 term=2");
        // when entries come after one it lacks, or holds of another term
        let said = story.forge(2, 1, 2, append(prev, vec![entry(prev.0 + 1, 2)], 0));
        // then they are refused
        assert!(said.contains(&format!("refuse {}", prev.0)), "{said}");
        assert_eq!(story.log(1), [(1, 1), (2, 1), (3, 1)]);
    }
}

/// 3.5: an entry that conflicts with the leader's goes, and all that follow it.
#[test]
fn conflicting_entries_are_deleted() {
    // given a follower with a tail of term 2
    let mut story = Story::of("node 1 log=1,1,2,2,2 term=3");
    // when the leader of term 3 has another entry at 3
    story.forge(2, 1, 3, append((2, 1), vec![entry(3, 3)], 0));
    // then the tail is gone
    assert_eq!(story.log(1), [(1, 1), (2, 1), (3, 3)]);
}

/// 3.5: the six followers of figure 3.6 all come to hold the leader's log.
#[test]
fn figure_3_6_every_follower_is_repaired() {
    // given the logs of the figure: the leader's, and a to f
    let logs = [
        "1,1,1,4,4,5,5,6,6,6",
        "1,1,1,4,4,5,5,6,6",
        "1,1,1,4",
        "1,1,1,4,4,5,5,6,6,6,6",
        "1,1,1,4,4,5,5,6,6,6,7,7",
        "1,1,1,4,4,4,4",
        "1,1,1,2,2,2,3,3,3,3,3",
    ];
    let mut story = Story::of("voters 1 2 3 4 5 6 7");
    for (offset, log) in logs.iter().enumerate() {
        story.run(&format!("node {} log={log} term=7", offset + 1));
    }
    // when the figure's leader leads term 8 (a, b, e and f can vote for it)
    story.run("lead 1\nrun 1s");
    // then all logs are its log
    for follower in 2..=7 {
        assert_eq!(story.log(follower), story.log(1), "n{follower}");
    }
}

/// 3.5: an entry is committed once a majority holds it, with every entry before it, and followers
/// apply in log order.
#[test]
fn a_majority_commits_and_all_apply_in_order() {
    // given a leader of five, two of whom are away
    let mut story = Story::of("cluster 5\nlead 1\ncut 4\ncut 5");
    // when commands are proposed
    story.run("put 1 a b c\nsettle\nrun 75ms");
    // then they are committed, and applied in order, by those who are there
    for node in 1..=3 {
        assert_eq!(story.applied(node), ["a", "b", "c"], "n{node}");
    }
    // when a third one leaves
    story.run("cut 3\nput 1 d\nrun 300ms");
    // then nothing more is
    assert_eq!(story.applied(1), ["a", "b", "c"]);
}

/// 3.6.1: a vote goes only to a candidate whose log is at least as up-to-date: the later last term,
/// or the same and at least as long.
#[test]
fn votes_go_to_logs_at_least_as_up_to_date() {
    let rows = [((3, 2), true), ((4, 2), true), ((1, 3), true), ((2, 2), false), ((9, 1), false)];
    for ((index, term), granted) in rows {
        // given a log that ends with 3@2
        let mut story = Story::of("node 1 log=1,1,2 term=4");
        // when a candidate whose log ends here asks
        let said = story.forge(2, 1, 5, vote(index, term));
        // then
        let verdict = if granted { "vote granted" } else { "vote refused" };
        assert!(said.contains(verdict), "{index}@{term}: {said}");
    }
}

/// 3.6.2: only entries of the leader's own term are committed by counting.
#[test]
fn earlier_terms_are_committed_indirectly() {
    // given a new leader whose predecessor's entry is on all disks
    let mut story =
        Story::of("node 1 log=1,2 term=2\nnode 2 log=1,2 term=2\nnode 3 log=1,2 term=2");
    story.run("hold append\nlead 1\nrun 300ms");
    // when they say so, and its own entry is not there yet
    story.forge(2, 1, 3, Body::AppendReply { result: AppendResult::Matched(Index(2)) });
    assert_eq!(story.status(1).committed, Index(0));
    // then only its own entry commits both
    story.run("free\nsettle");
    assert_eq!(story.status(1).committed, Index(3));
}

/// 3.7: requests are idempotent: the same append twice does nothing the second time.
#[test]
fn appends_are_idempotent() {
    // given a follower that has taken an append
    let mut story = Story::of("node 1 term=1\nshow writes");
    let body = append((1, 1), vec![entry(2, 2), entry(3, 2)], 0);
    story.forge(2, 1, 2, body.clone());
    // when it comes again
    let said = story.forge(2, 1, 2, body);
    // then it is acknowledged, and nothing is written
    assert!(said.contains("ack 3") && !said.contains("writes"), "{said}");
}

/// 3.8: term, vote and entries are on stable storage before an answer leaves.
#[test]
fn answers_wait_for_stable_storage() {
    // given a node whose disk does not sync
    let mut story = Story::of("node 1 term=1\nhold-sync 1");
    // when it grants a vote and takes entries
    let voted = story.forge(2, 1, 2, vote(1, 1));
    let took = story.forge(2, 1, 2, append((1, 1), vec![entry(2, 2)], 0));
    // then neither answer leaves
    assert!(!voted.contains("-> n2 vote granted"), "{voted}");
    assert!(!took.contains("ack"), "{took}");
    // before it syncs
    let synced = story.run("sync 1");
    assert!(synced.contains("-> n2 vote granted") && synced.contains("ack 2"), "{synced}");
}

/// 3.10: leadership goes to a named node that is brought up to date first; meanwhile proposals are
/// refused.
#[test]
fn leadership_is_transferred() {
    // given a follower that lacks an entry on its disk
    let mut story = Story::of("cluster 3\nlead 1\nhold-sync 3\nput 1 a\nsettle");
    // when leadership shall go to it
    story.run("transfer 1 3");
    let meanwhile = story.propose(1, "b");
    // then proposals wait elsewhere, and it leads once it has the entry
    let node = story.world.node(NodeId(1));
    assert_eq!(node.proposals[&meanwhile], Err(Refusal::Transferring { to: NodeId(3) }));
    assert!(story.leads(1));
    story.run("free-sync 3\nsettle");
    assert!(story.leads(3) && !story.leads(1));
}

/// 4.1: a membership is in force when it is appended, not when it is committed.
#[test]
fn a_membership_is_in_force_when_appended() {
    // given a follower of three
    let mut story = Story::of("node 1 term=1");
    // when an entry with five voters is appended
    let payload = Payload::Membership(support::script::voters(&[1, 2, 3, 4, 5], &[], &[]));
    let change = Entry { position: at(2, 2), payload };
    story.forge(2, 1, 2, append((1, 1), vec![change], 0));
    // then it has five voters, uncommitted
    assert_eq!(story.voters(1), [1, 2, 3, 4, 5]);
    assert_eq!(story.status(1).committed, Index(0));
}

/// 4.2.1: who only learns has no part in elections and commits.
#[test]
fn learners_decide_nothing() {
    // given two voters and two learners, one voter away
    let mut story = Story::of(
        "voters 1 2 learners 3 4\nnode 1\nnode 2\nnode 3\nnode 4\nlead 1\ncut 2\nput 1 a\nsettle",
    );
    // then three copies commit nothing
    assert_eq!(story.status(1).committed, Index(2));
    // and without a leader no learner asks for votes
    story.run("crash 1\ncrash 2\nrun 10s");
    assert_eq!(story.status(3).term, Term(2));
}

/// 4.2.3: who hears a leader does not even look at the term of a vote request.
#[test]
fn disruptive_servers_are_not_heard() {
    // given a follower that has just heard its leader
    let mut story = Story::of("cluster 3\nlead 1\nrun 75ms");
    // when a node that was away asks in a much higher term
    story.forge(3, 2, 50, vote(9, 9));
    // then its term stays; a leader's own order is another matter (3.10)
    assert_eq!(story.status(2).term, Term(2));
    story.forge(3, 2, 50, Body::RequestVote { last: at(9, 9), transfer: true });
    assert_eq!(story.status(2).term, Term(50));
}

/// 4.3: while a change is under way both majorities are needed, to elect and to commit.
#[test]
fn joint_consensus_needs_both_majorities() {
    for away in [[2, 3], [4, 5]] {
        // given voters 1 4 5 after, and 1 2 3 before the change
        let mut story = Story::new();
        for node in 1..=5 {
            story.run(&format!("node {node} log=1,1 at 2 voters 1 4 5 outgoing 1 2 3"));
        }
        // when the others of one side are away
        let cut = away.map(|node| format!("cut {node}")).join("\n");
        story.run(&format!("{cut}\ncampaign 1\nsettle"));
        // then nobody is elected,
        assert!(!story.leads(1), "without {away:?}");
        // and what was elected before commits nothing
        story.run(&format!("heal\nlead 1\n{cut}\nput 1 a\nrun 100ms"));
        assert_eq!(story.status(1).committed, Index(3), "without {away:?}");
    }
}

/// 5.3: a follower whose next entry is compacted away gets the snapshot, and the log after it.
#[test]
fn a_snapshot_replaces_what_is_compacted() {
    // given a leader that has compacted what a follower lacks
    let mut story =
        Story::of("cluster 3\nlead 1\ncut 3\nput 1 a b\nsettle\nsnapshot 1\nput 1 c\nsettle");
    assert_eq!(story.status(1).snapshot, at(4, 2));
    // when the follower is back
    story.run("heal\nrun 1s");
    // then it has it all, and the membership too
    assert_eq!(story.applied(3), ["a", "b", "c"]);
    assert_eq!(story.status(3).snapshot, at(4, 2));
    assert_eq!(story.voters(3), [1, 2, 3]);
}

/// 6.2: a leader that hears no majority for an election timeout steps down, and who does not lead
/// names the leader it knows.
#[test]
fn clients_find_the_leader() {
    // given a follower that knows its leader
    let mut story = Story::of("cluster 3\nlead 1");
    // when it is asked
    let asked = story.propose(2, "a");
    // then it names it
    let refusal = Refusal::NotLeader { leader: Some(NodeId(1)) };
    assert_eq!(story.world.node(NodeId(2)).proposals[&asked], Err(refusal));
    // and a leader on its own side of a cut does not keep clients for longer than that
    story.run("cut 1\nrun 500ms");
    assert!(!story.leads(1));
}

/// 6.4: a read needs an own commit, then a round after it began, and any number share a round.
#[test]
fn reads_are_confirmed_by_a_round() {
    // given a leader
    let mut story = Story::of("cluster 3\nlead 1\nput 1 a\nsettle");
    // when two reads wait, and no answer comes
    story.run("hold-effects 1\nread 1\nread 1\nfree-effects 1");
    assert!(story.world.node(NodeId(1)).reads.is_empty());
    // then one round answers both, at what was committed
    story.run("settle");
    let reads: Vec<_> = story.world.node(NodeId(1)).reads.values().copied().collect();
    assert_eq!(reads, [Ok(Index(3)), Ok(Index(3))]);
}

/// 9.6: a pre-vote raises no term, however often it is asked in vain.
#[test]
fn pre_vote_raises_no_term() {
    // given a node that is cut off
    let mut story = Story::of("cluster 3\nlead 1\ncut 3");
    // when it asks for half a minute
    story.run("run 30s");
    // then its term is the others', and its return unseats nobody
    assert_eq!(story.status(3).term, Term(2));
    story.run("heal\nrun 1s");
    assert!(story.leads(1) && story.status(1).term == Term(2));
}

/// 10.2.1: a leader sends before its own disk has synced, and many appends are under way at once.
#[test]
fn disk_and_network_work_side_by_side() {
    // given a leader whose disk is slow
    let mut story = Story::of("cluster 3\nlead 1\nhold-sync 1");
    // when three commands are proposed
    let said = story.run("put 1 a b c");
    // then three appends leave for each follower, and two disks of three commit them
    assert_eq!(said.matches("append").count(), 6, "{said}");
    story.run("settle");
    assert_eq!((story.status(1).durable, story.status(1).committed), (Index(2), Index(5)));
}
