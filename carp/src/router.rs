//! The client's side: a copy of the array that is corrected by redirects.
//!
//! A client sends a request to the owner that its copy names, with the epoch of the copy. Whoever gets
//! a request for a slot it does not own answers with a [`Moved`], and the router changes that one slot
//! if the news is newer: never backwards, so that two clusters that point at each other with old copies
//! cannot make a client run in circles. Safety does not rest on any of this, as the owner itself
//! checks each request; a wrong copy costs one redirect.
//!
//! Here is no clock and no socket: the caller fetches the array, and [`Router::needs_refresh`] says when
//! an answer has shown that there is a newer one.

use serde::{Deserialize, Serialize};

use crate::array::{Array, Epoch, MEMBERS_MAX, MemberId, URLS_MAX, is_url};
use crate::json::ArrayFault;
use crate::slots::Slot;

/// The longest redirect that is read, in bytes.
pub const MOVED_BYTES_MAX: usize = 8 << 10;

/// The answer of a cluster that does not own a slot: who does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The slot of the request.
    pub slot: Slot,
    /// Who owns it.
    pub owner: MemberId,
    /// How often the slot had changed its owner when this one got it.
    pub slot_epoch: u32,
    /// The epoch of the array that the answer is from.
    pub epoch: Epoch,
    /// Where the owner answers.
    pub urls: Vec<String>,
}

impl Moved {
    /// Reads one. `None` when it is not one or is longer than [`MOVED_BYTES_MAX`].
    ///
    /// ```
    /// let text = br#"{"slot":7,"owner":"two","slot_epoch":2,"epoch":5,"urls":["http://10.0.0.2:7001"]}"#;
    /// assert_eq!(carp::Moved::from_json(text).unwrap().owner.as_str(), "two");
    /// ```
    pub fn from_json(text: &[u8]) -> Option<Moved> {
        #[derive(Deserialize)]
        struct Text {
            slot: Slot,
            owner: String,
            slot_epoch: u32,
            epoch: Epoch,
            urls: Vec<String>,
        }
        if MOVED_BYTES_MAX < text.len() {
            return None;
        }
        let Text { slot, owner, slot_epoch, epoch, urls } = serde_json::from_slice(text).ok()?;
        let urls_fit = urls.len() <= URLS_MAX && urls.iter().all(|url| is_url(url));
        let owner = MemberId::new(owner).filter(|_| urls_fit)?;
        Some(Moved { slot, owner, slot_epoch, epoch, urls })
    }

    /// As JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always become JSON")
    }
}

/// Where to send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The key's slot.
    pub slot: Slot,
    /// Who owns it, as far as is known.
    pub owner: &'a MemberId,
    /// Where it answers.
    pub urls: &'a [String],
    /// How often the slot has changed its owner.
    pub slot_epoch: u32,
    /// The epoch of the copy: what the request says it knows.
    pub epoch: Epoch,
}

/// A copy of the array with what redirects have taught since.
#[derive(Clone, Debug)]
pub struct Router {
    array: Array,
    /// Who can own a slot here: the array's members in its order, then those only redirects named.
    owners: Vec<Owner>,
    /// For each slot a place in `owners`.
    table: Vec<u16>,
    slot_epochs: Vec<u32>,
    /// The largest epoch that an answer has named.
    seen: Epoch,
}

#[derive(Clone, Debug)]
struct Owner {
    id: MemberId,
    urls: Vec<String>,
}

impl Router {
    /// From a copy of the array.
    pub fn new(array: Array) -> Router {
        let owners = array
            .members
            .iter()
            .map(|member| Owner { id: member.id.clone(), urls: member.urls.clone() });
        Router {
            owners: owners.collect(),
            table: array.table.clone(),
            slot_epochs: array.slot_epochs.clone(),
            seen: array.epoch,
            array,
        }
    }

    /// From the array as JSON.
    pub fn from_json(text: &[u8]) -> Result<Router, ArrayFault> {
        Array::from_json(text).map(Router::new)
    }

    /// Where to send a request for this key.
    #[inline]
    pub fn route(&self, key: &[u8]) -> Target<'_> {
        let slot = self.array.slot(key);
        let at = usize::from(slot.0);
        let owner = &self.owners[usize::from(self.table[at])];
        Target {
            slot,
            owner: &owner.id,
            urls: &owner.urls,
            slot_epoch: self.slot_epochs[at],
            epoch: self.array.epoch,
        }
    }

    /// Takes a redirect. True: the slot has another owner now, so try again there. False: it is not
    /// news (or of no slot of ours), so fetch the array before trying again.
    pub fn on_redirect(&mut self, moved: &Moved) -> bool {
        self.on_epoch(moved.epoch);
        let at = usize::from(moved.slot.0);
        if self.slot_epochs.get(at).is_none_or(|ours| moved.slot_epoch <= *ours) {
            return false;
        }
        let Some(place) = self.place_of(&moved.owner, &moved.urls) else { return false };
        self.table[at] = place;
        self.slot_epochs[at] = moved.slot_epoch;
        true
    }

    /// Takes the epoch that an answer names.
    pub fn on_epoch(&mut self, epoch: Epoch) {
        self.seen = self.seen.max(epoch);
    }

    /// Whether an answer has named a larger epoch than that of the copy. (Its age is for the caller to
    /// watch: see [`Router::ttl_s`].)
    pub fn needs_refresh(&self) -> bool {
        self.array.epoch < self.seen
    }

    /// How long the copy may be used before the caller asks for a newer one, in seconds.
    pub fn ttl_s(&self) -> u32 {
        self.array.ttl_s
    }

    /// What to send as `If-None-Match` when asking for a newer copy: the epoch in quotes.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.array.epoch)
    }

    /// Takes a newer copy, fetched. What redirects have taught is kept where it is still newer. False:
    /// it is the copy we have. Faults change nothing, but the epoch that answers named is forgotten in
    /// any case: a cluster that boasts of an epoch nobody has must not make clients ask for ever.
    pub fn update(&mut self, newer: Array) -> Result<bool, ArrayFault> {
        self.seen = self.array.epoch;
        if !self.array.replace(newer)? {
            return Ok(false);
        }
        let before = std::mem::replace(self, Router::new(self.array.clone()));
        for slot in self.array.slots.all() {
            let at = usize::from(slot.0);
            if before.slot_epochs[at] <= self.slot_epochs[at] {
                continue;
            }
            let learned = &before.owners[usize::from(before.table[at])];
            if let Some(place) = self.place_of(&learned.id, &learned.urls) {
                self.table[at] = place;
                self.slot_epochs[at] = before.slot_epochs[at];
            }
        }
        Ok(true)
    }

    /// Takes the answer "not modified" to a request for a newer copy.
    pub fn unchanged(&mut self) {
        self.seen = self.array.epoch;
    }

    /// The copy as it was fetched.
    pub fn array(&self) -> &Array {
        &self.array
    }

    /// The place of an owner, which is made if need be. What the array says of a member's URLs stands;
    /// those of an owner only redirects have named are the latest told. `None`: there are too many, so
    /// only a newer copy helps.
    fn place_of(&mut self, id: &MemberId, urls: &[String]) -> Option<u16> {
        let known = self.owners.iter().position(|owner| owner.id == *id);
        let place = match known {
            Some(place) => place,
            None if self.owners.len() < 2 * MEMBERS_MAX => {
                self.owners.push(Owner { id: id.clone(), urls: Vec::new() });
                self.owners.len() - 1
            }
            None => return None,
        };
        let told_by_redirects = self.array.members.len() <= place;
        if told_by_redirects || self.owners[place].urls.is_empty() {
            self.owners[place].urls = urls.to_vec();
        }
        // At most 2048 owners.
        Some(place as u16)
    }
}
