//! kv

pub mod form;
pub mod kv;
pub mod peers;
