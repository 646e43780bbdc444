//! Rare things that have to happen in some run, or the faults prove less than they seem to.
//!
//! Each mark is a branch nobody reaches by accident: a leader that crashes between its write and its
//! sync, a formation adopted from a peer. CI demands that all are hit.

use std::fmt;

macro_rules! marks {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// A rare thing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mark {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Mark {
            /// All of them.
            pub const ALL: &'static [Mark] = &[$(Mark::$name,)*];

            /// What happened, in words.
            pub fn what(self) -> &'static str {
                match self {
                    $(Mark::$name => concat!($($doc),+).trim_ascii(),)*
                }
            }
        }
    };
}

marks! {
    /// a leader was elected
    Elected,
    /// a leader stepped down
    SteppedDown,
    /// a pre-vote came to nothing
    PreVoteGivenUp,
    /// a candidate lost its election
    ElectionLost,
    /// a leader crashed before its own entries were synced
    LeaderCrashedBeforeSync,
    /// a candidate crashed
    CandidateCrashed,
    /// a process crashed while it read its disk
    CrashInRecovery,
    /// a process crashed while it formed
    CrashInForming,
    /// a process crashed while its state was put back from a snapshot
    CrashInRestore,
    /// a process crashed while it wrote a snapshot
    CrashInSnapshot,
    /// a process crashed in the middle of a storage call
    CrashInStorageCall,
    /// a fresh node adopted the formation of a peer
    FormationAdopted,
    /// a start found a snapshot
    RecoveredFromSnapshot,
    /// a start found damage
    DamageFound,
    /// a disk refused and its process ended
    StorageFailed,
    /// the log found no room
    NoRoom,
    /// the log found room again
    RoomAgain,
    /// a snapshot from the leader was not what it should be
    InstallFailed,
    /// several writes shared one sync
    GroupCommit,
    /// a node took a snapshot of its own
    SnapshotTaken,
    /// a snapshot could not be written
    SnapshotFailed,
    /// a state was put back from a snapshot
    Restored,
    /// a frame was refused by the codec
    FrameRefused,
    /// a message for another node or cluster came in
    ForeignMessage,
    /// a message came twice
    MessageDoubled,
    /// a transfer of leadership was done
    TransferDone,
    /// a transfer of leadership failed
    TransferFailed,
    /// a follower's log was cut
    LogTruncated,
    /// a snapshot of the leader was installed
    SnapshotInstalled,
    /// a request was forwarded
    Forwarded,
    /// a request was forwarded twice
    ForwardedTwice,
    /// a forwarding connection broke
    ForwardBroken,
    /// a call waited for a leader
    WaitedForLeader,
    /// a write was refused: not applied
    WriteNotApplied,
    /// nobody could tell what became of a write
    WriteUnknown,
    /// a proposal lost its place to an entry of another term
    ProposalDisplaced,
    /// a snapshot jumped over a waiting proposal
    ProposalJumped,
    /// a deadline passed while a write was under way
    DeadlinePassed,
    /// a write was refused for want of room
    RefusedNoSpace,
    /// a write was refused because too much was under way
    RefusedBusy,
    /// a linearizable read was served by a follower
    FollowerRead,
    /// a client found nobody who listens
    ConnectionRefused,
    /// an answer to a client got lost
    AnswerLost,
    /// a second process was refused the directory
    SecondProcessRefused,
    /// a swapped disk was refused
    SwappedDiskRefused,
    /// a file of another node was refused
    OtherNodesFileRefused,
    /// a file of another cluster was refused
    OtherClustersFileRefused,
    /// a file of a newer program was refused
    NewerFileRefused,
    /// a file was refused that contradicts itself under checksums that hold
    NonsenseRefused,
    /// a start did without a wrong snapshot
    DidWithoutWrongFile,
    /// a wiped disk came back
    WipedCameBack,
    /// a condition of a write did not hold
    ConditionFailed,
    /// the cluster was live again after the chaos
    LiveAgain,
    /// a leader handed over before it stopped
    HandedOver,

    // What `Spotter` sees.
    /// a leader crashed after its sync and before it knew of it
    LeaderCrashedAfterSync,
    /// a follower crashed after its sync and before it acknowledged
    FollowerCrashedAfterSync,
    /// a node crashed before its vote was synced
    CrashedBeforeVoteSync,
    /// a node crashed while it took in the leader's snapshot
    CrashedWhileReceiving,
    /// a leader's disk failed
    LeaderDiskFailed,
    /// a follower's disk failed
    FollowerDiskFailed,
    /// a start found less than had been written
    UnsyncedLost,
    /// a start found more than had been synced
    UnsyncedKept,
    /// synced entries were cut
    SyncedCut,
    /// a former leader's log was cut
    FormerLeaderCut,
    /// a cut and the entries in its place were one write
    CutAndAppended,
    /// a candidate with an older log asked for a vote
    OlderLogAskedForVote,
    /// a pre-vote was refused because the log was older
    PreVoteRefusedByLog,
    /// a pre-vote was refused because a leader was heard
    PreVoteRefusedByLeader,
    /// a vote was refused because it was given to another
    VoteAlreadyGiven,
    /// two candidates asked for the same term
    SplitVote,
    /// a leader was elected while another still believed to lead
    TwoBelieveToLead,
    /// a leader that stood still was replaced meanwhile
    PausedLeaderReplaced,
    /// a leader gave up because it heard no quorum
    LeaderLostItsQuorum,
    /// a leader heard of a later term
    LeaderDeposed,
    /// a node led again in a later term
    LedAgain,
    /// a message of an older term came in
    OlderTermCame,
    /// an append was refused: the log was too short
    AppendRefusedShort,
    /// an append was refused: another entry stood there
    AppendRefusedOther,
    /// an append repeated entries that were there already
    AppendRepeated,
    /// a leader's commit index passed what its append verified
    CommitAheadOfAppend,
    /// entries of older terms were committed with one of the leader's own
    OlderTermCommitted,
    /// an entry was committed before the leader's own disk had it
    CommittedAheadOfLeaderDisk,
    /// an entry was applied before the node's own disk had it
    AppliedAheadOfDisk,
    /// a heartbeat's answer told what no acknowledgement had
    AcknowledgedByHeartbeat,
    /// an acknowledgement came of what was never sent
    AcknowledgedTheUnsent,
    /// an append came that contradicts what is committed
    CommittedContradicted,
    /// a second node claimed to lead a term
    SecondLeaderClaimed,
    /// a piece of a snapshot came again
    PieceRepeated,
    /// the leader's snapshot came too late to be of use
    SnapshotTooLate,
    /// a learner was caught up by a snapshot
    LearnerCaughtUp,
    /// a node was told to campaign at once
    ToldToCampaign,
    /// a read was answered after another leader was elected
    ReadOutlivedLeader,
    /// a write was acknowledged after another leader was elected
    WriteOutlivedLeader,
}

mod spotter;

pub use spotter::Spotter;

/// The marks one or more runs hit.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks(pub u128);

impl Marks {
    /// It happened.
    pub fn hit(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u32;
    }

    /// Whether it happened.
    pub fn has(self, mark: Mark) -> bool {
        self.0 >> mark as u32 & 1 == 1
    }

    /// All that happened here or there.
    pub fn join(&mut self, other: Marks) {
        self.0 |= other.0;
    }

    /// What never happened.
    pub fn missing(self) -> Vec<Mark> {
        Mark::ALL.iter().copied().filter(|mark| !self.has(*mark)).collect()
    }
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} marks", self.0.count_ones(), Mark::ALL.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_has_a_place_and_words_of_its_own() {
        assert!(Mark::ALL.len() <= 128);
        let mut marks = Marks::default();
        marks.hit(Mark::ALL[3]);
        assert!(marks.has(Mark::ALL[3]) && !marks.has(Mark::ALL[2]));
        assert_eq!(marks.missing().len(), Mark::ALL.len() - 1);
        assert_eq!(Mark::Elected.what(), "a leader was elected");
    }
}
