//! Rare things that have to happen in some run, or the faults prove less than they seem to.
//!
//! Each mark is a branch nobody reaches by accident: a leader that crashes between its sync and its
//! send, a read confirmed by a round that a new leader overtook. CI demands that all are hit.

/// The marks one run hit: bit `i` is mark `i` of [`Mark::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(pub u128);
