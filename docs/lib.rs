//! The pages of this folder, so that `cargo test -p docs` compiles and runs their Rust blocks. Their
//! shell blocks are run by `kv-daemon/tests/docs.rs`.

#[doc = include_str!("architecture.md")]
pub mod architecture {}
#[doc = include_str!("carp.md")]
pub mod carp {}
#[doc = include_str!("raft.md")]
pub mod raft {}
#[doc = include_str!("style.md")]
pub mod style {}
#[doc = include_str!("decisions/README.md")]
pub mod decisions {}
