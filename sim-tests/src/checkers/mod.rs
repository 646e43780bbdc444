//! Judges of histories: was every promise to the clients kept?
//!
//! A run writes down a [`history::History`]; at its end [`judge`] asks all of them:
//!
//! - [`white_box`] (checker A) knows the log. It replays the commands on a reference store of its
//!   own and compares every answer, all keys and lists at once, in linear time.
//! - [`black_box`] (checker B) knows only what clients know. It searches, key by key, for an order
//!   of the operations that explains every answer ([`wgl`]); the sequential behaviour it explains
//!   them with is [`model`]. [`brute`] does the same without any cleverness, to check the search.
//! - [`values`] (I16): no value that nobody wrote.
//! - [`liveness`] judges the time after the faults instead of the answers.
//!
//! A and B share no code but the history, and both must be content: when one of them finds fault
//! with a run and the other does not, one of the two is wrong, and that is a failure as well. Only A
//! sees lists and reads that may be stale. Nothing here reads a clock or a random source, and
//! nothing here uses the store's own code.

pub mod brute;
pub mod history;
pub mod wgl;
