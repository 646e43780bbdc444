//! Listing keys in order, page by page, over all clusters of an array: a server gathers the parts
//! and merges them (`?scatter`), so a page is whole or there is none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::Client;
use super::error::Error;
use super::keys::{push_level, read};
use super::url::push_param;
use super::verdict::Kind;
use super::wire::Call;
use crate::kv::request::{LIST_ITEMS_MAX, ReadLevel, Record};

/// Which keys, and what of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only keys that begin so.
    pub prefix: Bytes,
    /// Without values.
    pub keys_only: bool,
    /// How fresh each page has to be.
    pub level: ReadLevel,
}

/// A key with its value and story. The value is empty where only keys were wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// The rest.
    pub record: Record,
}

/// Some keys in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// At most as many as were wanted.
    pub items: Vec<Item>,
    /// Whether more follow.
    pub more: bool,
}

/// A list that is being read.
#[derive(Debug)]
pub struct Listing {
    client: Client,
    wanted: Wanted,
    cursor: Option<String>,
}

impl Client {
    /// Begins to list keys. Nothing is sent yet.
    pub fn list(&self, wanted: Wanted) -> Listing {
        Listing { client: self.clone(), wanted, cursor: None }
    }
}

impl Listing {
    /// The next at most `limit` keys (1 to 10 000), and after the last page the first again. Each
    /// page is consistent in itself on each cluster; two pages may be of different revisions.
    ///
    /// # Errors
    /// What kept it from being read. The same page may be asked for again.
    pub async fn next(&mut self, limit: u32) -> Result<ListPage, Error> {
        #[derive(Deserialize)]
        struct Text {
            items: Vec<ItemText>,
            next: Option<String>,
        }
        let limit = limit.clamp(1, LIST_ITEMS_MAX);
        let mut target = format!("/kv?limit={limit}");
        if !self.wanted.prefix.is_empty() {
            push_param(&mut target, "prefix", &self.wanted.prefix);
        }
        if self.wanted.keys_only {
            push_param(&mut target, "keys", b"true");
        }
        push_level(&mut target, self.wanted.level);
        if let Some(cursor) = &self.cursor {
            push_param(&mut target, "cursor", cursor.as_bytes());
        }
        if self.client.is_sharded().await {
            push_param(&mut target, "scatter", b"true");
        }
        let reply = self.client.ask(None, Kind::Read, Call::get(target)).await?;
        let text: Text = read(&reply)?;
        let items: Option<Vec<Item>> = text.items.into_iter().map(ItemText::decode).collect();
        let items = items.ok_or_else(|| Error::Strange("an item without a key".to_owned()))?;
        let more = text.next.is_some();
        self.cursor = text.next;
        Ok(ListPage { items, more })
    }
}

#[derive(Deserialize)]
struct ItemText {
    key: Option<String>,
    key_b64: Option<String>,
    value: Option<String>,
    value_b64: Option<String>,
    revision: u64,
    create_revision: u64,
    version: u64,
}

impl ItemText {
    fn decode(self) -> Option<Item> {
        let bytes = |text: Option<String>, base64: Option<String>| match (text, base64) {
            (Some(text), _) => Some(Bytes::from(text)),
            (None, Some(base64)) => STANDARD.decode(base64).ok().map(Bytes::from),
            (None, None) => None,
        };
        let key = bytes(self.key, self.key_b64)?;
        let record = Record {
            value: bytes(self.value, self.value_b64).unwrap_or_default(),
            create_revision: self.create_revision,
            mod_revision: self.revision,
            version: self.version,
        };
        Some(Item { key, record })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_as_servers_write_them() {
        let text =
            r#"{"key_b64":"/w==","value":"blue","revision":7,"create_revision":1,"version":3}"#;
        let item = serde_json::from_str::<ItemText>(text).unwrap().decode().unwrap();
        assert_eq!((&item.key[..], &item.record.value[..]), (&b"\xff"[..], &b"blue"[..]));
        assert_eq!((item.record.mod_revision, item.record.version), (7, 3));
        let text = r#"{"revision":7,"create_revision":1,"version":3}"#;
        assert!(serde_json::from_str::<ItemText>(text).unwrap().decode().is_none());
    }
}
