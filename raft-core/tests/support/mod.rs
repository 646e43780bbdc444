//! A cluster of cores in memory: simulated disks, a network that only does what it is told, laws
//! that are checked after every step, and the script language in which stories are written.
//!
//! `world` runs it, `script` puts it into words, `laws` judges it; `disk`, `app` and `print` are
//! what one node keeps, applies and says.

#![allow(dead_code, reason = "each test program uses its own part of this module")]

pub mod app;
pub mod disk;
pub mod laws;
pub mod print;
pub mod rng;
pub mod script;
pub mod world;
