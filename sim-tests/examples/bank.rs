//! Another state machine in the simulation: a bank whose transfers never make or lose money, however
//! nodes crash. `cargo run --release -p sim-tests --example bank`

use std::io::{self, Write};

use bytes::Bytes;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::types::LogPosition;
use sim_tests::app::{App, Direct, Fate, Plain};
use sim_tests::plan::{ClientOp, OpKind};
use sim_tests::{generate, invariants::Invariants, trace::OpId, world::World};

#[derive(Debug)]
struct Bank([u8; 8]);

impl StateMachine for Bank {
    type Reply = bool;
    fn apply(&mut self, _: LogPosition, order: &Bytes) -> bool {
        let (from, to, sum) = (order[0] as usize % 8, order[1] as usize % 8, order[2] % 32);
        let can = from != to && sum <= self.0[from] && self.0[to].checked_add(sum).is_some();
        if can {
            (self.0[from], self.0[to]) = (self.0[from] - sum, self.0[to] + sum);
        }
        can
    }
    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(std::iter::once(Bytes::copy_from_slice(&self.0)))
    }
    fn restore(&mut self, step: Restore) -> Result<(), Malformed> {
        if let Restore::Piece(piece) = step {
            self.0 = piece.as_ref().try_into().map_err(|_| Malformed::new("eight accounts"))?;
        }
        Ok(())
    }
}

#[rustfmt::skip]
impl App for Bank {
    type State = Bank;
    type Request = Option<[u8; 3]>;
    type Answer = Result<u8, Fate>;
    type Call = Direct<Bank>;
    fn state() -> Bank { Bank([100; 8]) }
    fn request(op: &ClientOp, id: OpId, _: Option<&Self::Answer>) -> Option<[u8; 3]> {
        (op.kind != OpKind::Get).then_some([op.key as u8, id.0 as u8, op.size as u8])
    }
    fn is_write(request: &Option<[u8; 3]>) -> bool { request.is_some() }
    fn digest_reply(reply: &bool) -> u64 { 1 + u64::from(*reply) }
    fn digest(bank: &Bank) -> u64 { u64::from_le_bytes(bank.0) }
    fn check(bank: &Bank) -> Result<(), String> {
        let sum: u32 = bank.0.iter().map(|it| u32::from(*it)).sum();
        if sum == 800 { Ok(()) } else { Err(format!("{sum} of 800 in {bank:?}")) }
    }
    fn fate(answer: &Self::Answer) -> Fate { answer.err().unwrap_or(Fate::Answered) }
}

#[rustfmt::skip]
impl Plain for Bank {
    fn command(request: &Option<[u8; 3]>) -> Bytes { Bytes::copy_from_slice(&request.unwrap_or_default()) }
    fn answer(reply: bool) -> Self::Answer { Ok(reply.into()) }
    fn failure(fate: Fate) -> Self::Answer { Err(fate) }
    fn read(_: &Option<[u8; 3]>, bank: &Bank) -> Self::Answer { Ok(bank.0[0]) }
}

fn main() -> io::Result<()> {
    for seed in 1..=20 {
        let mut world = World::<Bank>::new(generate::plan(seed));
        world.watch(Invariants::default());
        let report = world.run();
        assert_eq!(report.failure, None, "seed {seed}");
        writeln!(io::stdout(), "seed {seed}: {} faults, no money lost", report.counts.faults)?;
    }
    Ok(())
}
