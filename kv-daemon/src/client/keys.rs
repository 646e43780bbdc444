//! Writing, reading and deleting one key: what is meant becomes a request, an answer becomes a
//! value. How often and whom to ask is decided elsewhere.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Client;
use super::error::Error;
use super::url::{key_path, push_param};
use super::verdict::Kind;
use super::wire::{Call, Reply};
use crate::kv::request::{ReadLevel, Record};

/// When a write is to be carried out; decided in one step with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// In any case.
    #[default]
    Always,
    /// If the key does not exist.
    Absent,
    /// If the key exists.
    Exists,
    /// If the key is at this revision.
    AtRevision(u64),
}

/// A value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Put {
    /// The key's revision now, and the store's.
    pub revision: u64,
    /// How often the key was written since it came to be.
    pub version: u64,
    /// Whether this write made it.
    pub created: bool,
}

/// A key was taken away, or was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Deleted {
    /// 1 or 0.
    pub deleted: u64,
    /// The store's revision.
    pub revision: u64,
}

impl Client {
    /// Gives `key` (1 to 4096 bytes) this value.
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may have been written. After any other error it was not.
    pub async fn put(&self, key: &[u8], value: impl Into<Bytes>, when: When) -> Result<Put, Error> {
        let mut call = Call::new(Method::PUT, key_path(key));
        call.body = value.into();
        condition(&mut call, when);
        // The key was written when its answer says so, even if we cannot read the rest.
        read(&self.ask(Some(key), Kind::Write, call).await?)
    }

    /// The value of `key` and its story; `None` when there is no such key.
    ///
    /// # Errors
    /// What kept it from being read.
    pub async fn get(&self, key: &[u8], level: ReadLevel) -> Result<Option<Record>, Error> {
        let mut call = Call::get(key_path(key));
        push_level(&mut call.target, level);
        let reply = self.ask(Some(key), Kind::Read, call).await?;
        if reply.status == hyper::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let strange = || Error::Strange("an answer without the headers of a key".to_owned());
        let tag = reply.header(ETAG.as_str()).map(|tag| tag.trim_matches('"').parse());
        Ok(Some(Record {
            mod_revision: tag.and_then(Result::ok).ok_or_else(strange)?,
            create_revision: reply.number("kv-create-revision").ok_or_else(strange)?,
            version: reply.number("kv-version").ok_or_else(strange)?,
            value: reply.body,
        }))
    }

    /// Takes `key` away. That it was not there is no error.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: &[u8], when: When) -> Result<Deleted, Error> {
        let mut call = Call::new(Method::DELETE, key_path(key));
        condition(&mut call, when);
        read(&self.ask(Some(key), Kind::Write, call).await?)
    }
}

fn condition(call: &mut Call, when: When) {
    let any = HeaderValue::from_static("*");
    match when {
        When::Always => {}
        When::Absent => drop(call.headers.insert(IF_NONE_MATCH, any)),
        When::Exists => drop(call.headers.insert(IF_MATCH, any)),
        When::AtRevision(revision) => {
            let tag = HeaderValue::from_str(&crate::http::condition::etag(revision));
            let tag = tag.expect("digits in quotes are visible ASCII");
            call.headers.insert(IF_MATCH, tag);
        }
    }
}

/// `consistency=stale&max_stale=`; nothing for a linearizable read, which is what servers do.
pub(super) fn push_level(target: &mut String, level: ReadLevel) {
    if let ReadLevel::Stale { max_stale } = level {
        push_param(target, "consistency", b"stale");
        if let Some(limit) = max_stale {
            push_param(target, "max_stale", format!("{}ms", limit.as_millis()).as_bytes());
        }
    }
}

/// The JSON of an answer.
pub(super) fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, Error> {
    serde_json::from_slice(&reply.body).map_err(|error| Error::Strange(error.to_string()))
}
