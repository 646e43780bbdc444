//! What a node says of itself when it is asked `GET /raft/hello`, and its JSON form.
//!
//! A hello is the only thing a node tells to somebody it does not know. It promises nothing and
//! changes nothing on either side.

use raft_core::types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

/// The version of what nodes say to each other, bumped when an older node could misunderstand.
pub const PROTOCOL: u32 = 1;

/// Longest name and address that are taken from a stranger, and most nodes it may list.
const NAME_BYTES_MAX: usize = 63;
const ADDRESS_BYTES_MAX: usize = 300;
const LISTED_MAX: usize = 256;

/// The three facts a cluster id is made of, each from the node's own mouth.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Names its disk.
    #[serde(with = "hex_id")]
    pub node_id: NodeId,
    /// What people call it (`--id`).
    pub name: String,
    /// `host:port` where it wants to be reached.
    pub address: String,
}

/// The answer to `GET /raft/hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who answers.
    #[serde(flatten)]
    pub identity: Identity,
    /// Whether it belongs to a cluster.
    #[serde(flatten)]
    pub standing: Standing,
    /// Fresh: itself and those it has heard from. Formed: the members it knows.
    pub set: Vec<Identity>,
    /// Its `--peers` as they were spelled: shown when sets do not agree, never computed with.
    pub peers: Vec<String>,
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// The program's version, for people.
    pub version: String,
}

/// Whether a node belongs to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Standing {
    /// Not yet.
    Fresh {
        /// What it would form with the set it knows; `None` while that set is not complete.
        #[serde(with = "hex_option", default)]
        digest: Option<ClusterId>,
    },
    /// Yes, durably.
    Formed {
        /// Which one.
        #[serde(with = "hex_id")]
        cluster: ClusterId,
    },
}

impl Hello {
    /// Reads a hello from the JSON a stranger sent. The error says what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Hello, String> {
        let hello: Hello =
            serde_json::from_slice(bytes).map_err(|error| format!("not a hello: {error}"))?;
        let listed = hello.set.iter().chain([&hello.identity]);
        for identity in listed {
            if identity.name.is_empty() || NAME_BYTES_MAX < identity.name.len() {
                return Err(format!("not a hello: a name of {} bytes", identity.name.len()));
            }
            if identity.address.is_empty() || ADDRESS_BYTES_MAX < identity.address.len() {
                return Err(format!("not a hello: an address of {} bytes", identity.address.len()));
            }
        }
        if LISTED_MAX < hello.set.len() || LISTED_MAX < hello.peers.len() {
            return Err(format!("not a hello: it lists more than {LISTED_MAX} nodes"));
        }
        Ok(hello)
    }

    /// The JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a hello holds only strings and numbers")
    }
}

impl std::fmt::Display for Identity {
    /// `node1 (localhost:8001)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// 64-bit ids stand in JSON as 16 hex digits: a JSON number holds only 53 bits in many readers.
pub(crate) mod hex_id {
    use super::{ClusterId, NodeId};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// An id made of 64 bits.
    pub(crate) trait HexId: Copy {
        fn bits(self) -> u64;
        fn of_bits(bits: u64) -> Self;
    }

    impl HexId for NodeId {
        fn bits(self) -> u64 {
            self.0
        }
        fn of_bits(bits: u64) -> NodeId {
            NodeId(bits)
        }
    }

    impl HexId for ClusterId {
        fn bits(self) -> u64 {
            self.0
        }
        fn of_bits(bits: u64) -> ClusterId {
            ClusterId(bits)
        }
    }

    /// 1 to 16 hex digits, with or without the `n` that node ids are printed with.
    pub(crate) fn parse(text: &str) -> Option<u64> {
        let digits = text.strip_prefix('n').unwrap_or(text);
        let plain = (1..=16).contains(&digits.len()) && !digits.starts_with('+');
        plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    }

    pub(crate) fn serialize<T: HexId, S: Serializer>(id: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{:016x}", id.bits()))
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: HexId,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(from)?;
        let bits = parse(&text).ok_or_else(|| D::Error::custom("an id is 1 to 16 hex digits"))?;
        Ok(T::of_bits(bits))
    }
}

/// The same for an id that may be missing.
mod hex_option {
    use super::{ClusterId, hex_id};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        id: &Option<ClusterId>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => hex_id::serialize(id, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<ClusterId>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let bits =
            hex_id::parse(&text).ok_or_else(|| D::Error::custom("an id is 1 to 16 hex digits"))?;
        Ok(Some(ClusterId(bits)))
    }
}
