//! Writes down what clients of the key-value service asked and were told, and has the checkers judge
//! it when the run ends.

use raft_core::types::Time;

use crate::checkers::history::{Ending, History, OperationId};
use crate::checkers::{self, white_box};
use crate::kv::Kv;
use crate::trace::{OpEnd, Seen, Violation, Watch};
use crate::world::View;
use kv_daemon::kv::request::Outcome;

/// The history of a run; see the top of this file.
#[derive(Default)]
pub struct Judge {
    history: History,
}

impl Watch<Kv> for Judge {
    fn see(&mut self, now: Time, seen: &Seen<'_, Kv>, _: &View<'_, Kv>) -> Result<(), Violation> {
        match seen {
            Seen::OpBegun { planned, request, .. } => {
                self.history.begin(now, planned.client.into(), (*request).clone());
            }
            Seen::OpEnded { op, end, .. } => {
                let id = OperationId(op.0);
                let is_write = self.history.operation(id).request.is_write();
                let failed = |outcome| Ending::Failed { outcome: is_write.then_some(outcome) };
                let ending = match end {
                    OpEnd::Answered { answer, index } => Ending::of(answer.clone(), *index),
                    OpEnd::NotApplied => failed(Outcome::NotApplied),
                    OpEnd::Unknown => failed(Outcome::Unknown),
                };
                self.history.end(now, id, ending);
                white_box::check_order(self.history.operation(id))
                    .map_err(|objection| self.violation("I12", &[objection]))?;
            }
            Seen::Applied { at, command, .. } => self.history.applied(now, at.index, command),
            Seen::End => {
                checkers::judge(&self.history)
                    .map_err(|objections| self.violation("linearizable", &objections))?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Judge {
    fn violation(&self, rule: &'static str, objections: &[checkers::Objection]) -> Violation {
        let texts: Vec<String> = objections.iter().map(|it| it.explain(&self.history)).collect();
        Violation { rule, what: texts.join("\n") }
    }
}
