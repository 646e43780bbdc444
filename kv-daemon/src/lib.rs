//! kv

pub mod form;
pub mod kv;
