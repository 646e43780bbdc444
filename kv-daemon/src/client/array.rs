//! Putting an array of clusters into force: any of its clusters is told, by any node. Which array
//! may follow which the servers decide.

use bytes::Bytes;
use carp::Array;
use hyper::Method;
use serde::Deserialize;

use super::Client;
use super::error::Error;
use super::keys::read;
use super::url::ServerUrl;
use super::verdict::{Kind, Verdict, judge};
use super::wire::{Broken, Call};

/// A cluster goes by an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct ArraySet {
    /// The epoch in force there.
    pub epoch: u64,
    /// False: it went by this array already.
    pub changed: bool,
}

impl Client {
    /// Has one cluster go by this array: of the servers it was given, the first that can be reached.
    /// The clusters that are in an array already fetch it from there; one that is in none has to be
    /// told by [`Client::set_array_at`].
    ///
    /// # Errors
    /// [`Error::Refused`]: it is none (400), or must not follow the one in force (409).
    /// [`Error::Unknown`]: it may be in force.
    pub async fn set_array(&self, array: &Array) -> Result<ArraySet, Error> {
        read(&self.ask(None, Kind::Write, put(array)).await?)
    }

    /// The same at this very server, which is asked once.
    ///
    /// # Errors
    /// As [`Client::set_array`].
    pub async fn set_array_at(&self, server: &ServerUrl, array: &Array) -> Result<ArraySet, Error> {
        let exchanged = match self.ask_server(server, put(array)).await {
            Ok(reply) => Ok(reply),
            Err(Error::Unavailable(why)) => Err(Broken::NothingSent(why)),
            Err(error) => Err(Broken::MaybeSent(error.to_string())),
        };
        match judge(Kind::Write, exchanged) {
            Verdict::Done(reply) => read(&reply),
            Verdict::Over(error)
            | Verdict::Again { error, .. }
            | Verdict::Elsewhere { error, .. } => Err(error),
        }
    }
}

fn put(array: &Array) -> Call {
    let mut call = Call::new(Method::PUT, "/carp");
    call.body = Bytes::from(array.to_json());
    call
}
