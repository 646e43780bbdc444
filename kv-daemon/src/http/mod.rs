//! http
pub mod accept;
pub mod body;
pub mod condition;
pub mod pace;
pub mod path;
