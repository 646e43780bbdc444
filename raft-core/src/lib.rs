//! A hand-written Raft to embed: a pure consensus core, a write-ahead log, snapshots, and a small
//! threaded node that joins them. No async runtime, no network library, no build script.
//!
//! # A durable state machine in a few lines
//!
//! You write the state machine: what a command does, how the state is given out in pieces, how it is
//! put back. Alone it is a durable log with group commit; with a [`transport`] it is replicated.
//!
//! ```
//! use bytes::Bytes;
//! use raft_core::node::Node;
//! use raft_core::proposals::Outcome;
//! use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
//! use raft_core::types::LogPosition;
//!
//! #[derive(Default)]
//! struct Words(Vec<Bytes>);
//!
//! impl StateMachine for Words {
//!     type Reply = usize;
//!     fn apply(&mut self, _at: LogPosition, word: &Bytes) -> usize {
//!         self.0.push(word.clone());
//!         self.0.len()
//!     }
//!     fn snapshot(&self) -> Box<dyn SnapshotSource> {
//!         Box::new(self.0.clone().into_iter())
//!     }
//!     fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
//!         match step {
//!             Restore::Begin => self.0.clear(),
//!             Restore::Piece(word) => self.0.push(word),
//!             Restore::End => {}
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # let dir = tempfile::tempdir()?;
//! let node = Node::open(dir.path(), Words::default())?;
//! match node.propose(Bytes::from_static(b"hello"), None).wait() {
//!     // Synced, on a majority of one.
//!     Outcome::Applied { reply, .. } => assert_eq!(reply, 1),
//!     // Certainly not applied, or nobody can tell: the outcome says which.
//!     other => panic!("{other:?}"),
//! }
//! // Linearizable, on any node of the cluster.
//! assert_eq!(node.read(|words| words.0.len()).wait(), Ok(1));
//! node.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The one path
//!
//! ```text
//! Handle::propose -> inbox -> Replica::step -> Raft::step(now, event)
//!                             Replica::take_work <- Raft::take_effects()
//!                               |-> write -> WAL thread: append, sync -> Persisted(id)
//!                               |-> send  -> Transport -> the peers' step -> their WAL -> ack
//!                               '-> apply -> StateMachine::apply -> the reply, to the proposer
//! ```
//!
//! Everything that decides is synchronous and deterministic; everything that waits is a thin shell
//! around it. *Whatever is handed out may be carried out at once, in any order*: the core itself
//! withholds a message or a reply until the write it depends on is synced, so there is no "send only
//! after sync" left for a shell to get wrong.
//!
//! # The floors
//!
//! A module uses its own floor and lower ones.
//!
//! | floor | modules | never touches |
//! |---|---|---|
//! | 0 words | [`types`] | all else |
//! | 1 sentences | [`message`], [`membership`], [`config`], [`mod@write`], [`codec`], [`state_machine`] | IO, time |
//! | 2a decides | [`consensus`] | files, sockets, clocks, threads, chance, `storage` |
//! | 2b keeps | [`storage`] | `consensus` |
//! | 3 joins | [`proposals`], [`replica`], [`keeper`] | threads, clocks |
//! | 4 runs | [`node`], [`transport`] | any async runtime |
//!
//! # Driving it yourself
//!
//! A [`node`] is threads around a [`replica::Replica`]; a simulator, or a shell with other ideas
//! about threads, drives the replica itself. This is the whole loop, with a disk that syncs at once:
//!
//! ```
//! use bytes::Bytes;
//! use raft_core::config::Config;
//! use raft_core::membership::{Member, Membership};
//! use raft_core::proposals::Outcome;
//! use raft_core::replica::{Input, Replica};
//! use raft_core::types::{
//!     Entry, HardState, Index, LogPosition, NodeId, Payload, ProposalId, Term, Time,
//! };
//! use raft_core::write::Recovered;
//! # use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
//! # #[derive(Default)]
//! # struct Words(Vec<Bytes>);
//! # impl StateMachine for Words {
//! #     type Reply = usize;
//! #     fn apply(&mut self, _at: LogPosition, word: &Bytes) -> usize {
//! #         self.0.push(word.clone());
//! #         self.0.len()
//! #     }
//! #     fn snapshot(&self) -> Box<dyn SnapshotSource> {
//! #         Box::new(self.0.clone().into_iter())
//! #     }
//! #     fn restore(&mut self, _: Restore) -> Result<(), Malformed> {
//! #         Ok(())
//! #     }
//! # }
//!
//! // A disk that was formed as a cluster of one: the membership is entry 1 of term 1.
//! let me = Member { name: "node1".into(), address: "localhost:8001".into() };
//! let membership = Membership::of_voters([(NodeId(1), me)]);
//! let first = LogPosition::new(Index(1), Term(1));
//! let recovered = Recovered {
//!     hard_state: HardState { term: Term(1), vote: None },
//!     entries: vec![Entry { position: first, payload: Payload::Membership(membership) }],
//!     ..Recovered::default()
//! };
//!
//! let mut now = Time(0);
//! let mut replica =
//!     Replica::new(Config::new(NodeId(1)), recovered, Words::default(), 1000, now);
//! let mut proposed = false;
//! let answer = loop {
//!     now = now.max(replica.deadline()); // a shell would wait for that, or for something to come in
//!     replica.step(now, Input::Wake);
//!     if !proposed && replica.raft().status().ready {
//!         let (id, command) = (ProposalId(1), Bytes::from_static(b"hello"));
//!         replica.step(now, Input::Propose { id, command, deadline: Time::NEVER });
//!         proposed = true;
//!     }
//!     // However many steps there were: one write, one message to each peer.
//!     let work = replica.take_work();
//!     if let Some(write) = work.write {
//!         replica.step(now, Input::Persisted(write.id)); // after it is synced
//!     }
//!     if let Some((_, outcome)) = work.answers.into_iter().next() {
//!         break outcome;
//!     }
//! };
//! assert!(matches!(answer, Outcome::Applied { reply: 1, .. }));
//! ```

pub mod buffer;
pub mod codec;
pub mod config;
pub mod consensus;
pub mod keeper;
pub mod membership;
pub mod message;
pub mod node;
pub mod proposals;
pub mod replica;
pub mod state_machine;
pub mod storage;
pub mod transport;
pub mod types;
pub mod write;
