//! Floor 2b, *keeps*.

pub mod disk;
pub mod error;
pub mod meta;
pub mod testdisk;
