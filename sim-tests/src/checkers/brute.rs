//! Is there an order? Every one of them is tried.
//!
//! The same question as [`wgl`](super::wgl) asks, answered without a list of events, without memory,
//! without any shortcut: it exists to be obviously right, so that the clever search can be held
//! against it. Only for histories of about ten operations.

use super::wgl::{Call, Model};

/// Whether the calls can be put in a row that explains every answer. Time grows with the factorial
/// of the calls.
pub fn is_linearizable<M: Model>(model: &M, calls: &[Call<M::Op>]) -> bool {
    extends(model, calls, &mut vec![false; calls.len()], &model.initial())
}

/// Whether the row that holds the calls `used` and ends in `state` can be made to hold all that
/// ended.
fn extends<M: Model>(
    model: &M,
    calls: &[Call<M::Op>],
    used: &mut Vec<bool>,
    state: &M::State,
) -> bool {
    let is_complete = (0..calls.len()).all(|at| used[at] || calls[at].end.is_none());
    if is_complete {
        return true;
    }
    for at in 0..calls.len() {
        let must_wait = |other: usize| {
            !used[other] && other != at && calls[other].end.is_some_and(|end| end < calls[at].begin)
        };
        if used[at] || (0..calls.len()).any(must_wait) {
            continue;
        }
        let mut next = Vec::new();
        model.step(state, &calls[at].op, &mut next);
        used[at] = true;
        if next.iter().any(|state| extends(model, calls, used, state)) {
            return true;
        }
        used[at] = false;
    }
    false
}
