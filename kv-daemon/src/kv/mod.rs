pub mod command;
mod record;
pub mod request;
pub mod service;
pub mod shared;
mod snapshot;
pub mod store;
mod wire;
