//! Tests of the whole.

pub mod checkers;
