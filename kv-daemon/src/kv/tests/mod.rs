//! The service against its promises: bytes that stay what they are, a store that agrees with a
//! simple model, snapshots that are the log, and outcomes that are honest.

mod command;
mod forward;
mod model;
mod service;
mod sharding;
mod snapshot;
mod store;

use bytes::Bytes;

use super::command::Command;
use super::request::{Condition, Request, Tags};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Request {
    put_if(key, value, Condition::default())
}

fn put_if(key: &str, value: &str, condition: Condition) -> Request {
    Request::Put { key: bytes(key), value: bytes(value), condition }
}

fn delete(key: &str) -> Request {
    Request::Delete { key: bytes(key), condition: Condition::default() }
}

fn if_match(tags: Tags) -> Condition {
    Condition { if_match: Some(tags), if_none_match: None }
}

fn if_none_match(tags: Tags) -> Condition {
    Condition { if_match: None, if_none_match: Some(tags) }
}

fn encoded(request: &Request) -> Bytes {
    Command::of(request).expect("the request is a write").encode()
}
