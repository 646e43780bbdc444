//! http
pub mod condition;
pub mod path;
