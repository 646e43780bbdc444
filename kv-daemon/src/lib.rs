//! kv

pub mod config;
pub mod http;
pub mod kv;
pub mod units;
