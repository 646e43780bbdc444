//! kv

pub mod kv;
