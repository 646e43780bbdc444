//! The HTTP shell: from a socket to a handler and back, in the order of these files. It decides
//! nothing about keys or leaders; it decides how much of the machine one client may take.

pub mod accept;
pub mod bell;
pub mod body;
pub mod carp;
pub mod condition;
pub mod keys;
pub mod operate;
pub mod pace;
pub mod path;
pub mod reply;
pub mod routes;
pub mod workers;
