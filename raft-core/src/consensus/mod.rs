//! Floor 2a, *decides*.

pub mod event;
