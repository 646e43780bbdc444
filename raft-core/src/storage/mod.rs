//! Floor 2b, *keeps*.

pub mod disk;
