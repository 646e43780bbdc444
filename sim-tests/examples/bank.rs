//! Another state machine in the simulation: a bank whose transfers never make or lose money, however
//! nodes crash. `cargo run --release -p sim-tests --example bank`

use bytes::Bytes;
use raft_core::state_machine::{Malformed, Restore, SnapshotSource, StateMachine};
use raft_core::types::LogPosition;
use sim_tests::plan::{ClientOp, OpKind};
use sim_tests::{app::Plain, generate, run, trace::OpId};

/// Eight accounts with 100 each.
#[derive(Debug)]
struct Bank([u8; 8]);

impl Default for Bank {
    fn default() -> Bank {
        Bank([100; 8])
    }
}

impl StateMachine for Bank {
    /// Whether the money was there.
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

impl Plain for Bank {
    fn command(op: &ClientOp, id: OpId) -> Option<Bytes> {
        (op.kind != OpKind::Get).then(|| Bytes::from(vec![op.key as u8, id.0 as u8, op.size as u8]))
    }
    fn fault(&self) -> Option<String> {
        let sum: u32 = self.0.iter().map(|it| u32::from(*it)).sum();
        (sum != 800).then(|| format!("{sum} of 800 in {self:?}"))
    }
}

#[expect(clippy::print_stdout, reason = "an example talks")]
fn main() {
    for seed in 1..=20 {
        let report = run::run_app::<Bank>(generate::plan(seed));
        assert_eq!(report.failure, None, "seed {seed}");
        println!("seed {seed}: {} faults, no money lost", report.counts.faults);
    }
}
