//! The key-value service without any IO: what a client may ask, what is written to the log for it,
//! the store the log drives, and the steps from question to answer. The simulator drives this
//! module as the daemon does; it never touches a socket, a clock, a thread or a hashed map.

pub mod request;
