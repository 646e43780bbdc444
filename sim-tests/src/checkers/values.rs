//! I16: no value that nobody wrote.
//!
//! Every value that any read or list shows, also one that may be stale, was written to that key by a
//! put that began before the read ended and was not refused. It says nothing about order.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_daemon::kv::request::{Answer, ListShape, Request};

use super::Objection;
use super::history::{Ending, History, Operation};

/// Finds the first read, in the order they began, that shows a value that nobody may have written.
pub fn check(history: &History) -> Result<(), Objection> {
    // The begin of the first put of each value that may have taken effect.
    let mut written: BTreeMap<(&Bytes, &Bytes), u64> = BTreeMap::new();
    for operation in history.operations() {
        if let Request::Put { key, value, .. } = &operation.request
            && may_be_seen(operation)
        {
            written.entry((key, value)).or_insert(operation.begin.order);
        }
    }
    for operation in history.operations() {
        for (key, value) in shown(operation) {
            let begin = written.get(&(key, value)).copied();
            let is_known = begin.zip(operation.end).is_some_and(|(begin, end)| begin < end.order);
            if !is_known {
                let what = format!("key {key:?} shows {value:?}, which nobody may have written");
                let checker = "I16 (values)";
                return Err(Objection { checker, what, operations: vec![operation.id] });
            }
        }
    }
    Ok(())
}

fn may_be_seen(put: &Operation) -> bool {
    let is_done = matches!(put.ending, Ending::Answered { answer: Answer::Put { .. }, .. });
    is_done || put.may_take_effect()
}

/// The keys and values an operation's answer shows.
fn shown(operation: &Operation) -> Vec<(&Bytes, &Bytes)> {
    let Some((answer, _)) = operation.answered() else {
        return Vec::new();
    };
    match (&operation.request, answer) {
        (Request::Get { key, .. }, Answer::Got { record: Some(record), .. }) => {
            vec![(key, &record.value)]
        }
        (Request::List { query, .. }, Answer::Listed(listed))
            if query.shape == ListShape::Items =>
        {
            listed.items.iter().map(|(key, record)| (key, &record.value)).collect()
        }
        _ => Vec::new(),
    }
}
