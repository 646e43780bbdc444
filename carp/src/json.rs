//! An array as JSON, and every fault such a text can have, by name.
//!
//! ```json
//! {"carp":2,"name":"kv","epoch":12,"scheme":"xxh64-log-quota-1","seed":0,"slot_bits":14,"ttl_s":60,
//!  "meta":"cluster-1",
//!  "members":[{"id":"cluster-1","weight":1,"state":"active","urls":["http://10.0.0.1:7001"],
//!              "slots":5462}],
//!  "table":"(base64: for each slot the place of its owner in members, u16, little-endian)",
//!  "slot_epochs":{"least":1,"bits":2,"above":"(base64: for each slot its epoch less `least`)"}}
//! ```
//!
//! `slot_epochs` is left out while every slot has its first owner. `above` is one string of bits: each
//! slot has `bits` of them, the lowest first, from the lowest bit of the first byte on; what is left
//! over in the last byte is 0. So 16,384 slots of which none has moved 15 times more often than another
//! cost 11 KB, and a map of 64 members stays below 64 KiB.
//!
//! Fields that are not known here are passed over, so that a newer server can tell older clients more;
//! another number at `carp` or another `scheme` means that keys are placed otherwise, and is refused.
//! The texts come from anywhere: nothing in them panics, and no work or memory is out of proportion
//! to them. A table is never worked out while reading, except where a person founds an array.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::array::{
    Array, Epoch, MEMBERS_MAX, Member, MemberFault, MemberId, MemberState, NAME_BYTES_MAX, shown,
};
use crate::slots::{SCHEME, Slot, SlotBits};

/// The number at `carp`: the form of the text.
pub const VERSION: u32 = 2;

/// The longest text that is read, in bytes. The largest array that can be made is shorter.
pub const JSON_BYTES_MAX: usize = 4 << 20;

/// What is wrong with an array, or with a text that should be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArrayFault {
    /// Longer than [`JSON_BYTES_MAX`].
    TooLong {
        /// How long it is, in bytes.
        bytes: usize,
    },
    /// Not JSON, or a field is missing or of another type. The text says which and where.
    Json(String),
    /// Of another form than [`VERSION`].
    Version(u32),
    /// Keys are placed by a scheme that is not known here.
    Scheme(String),
    /// The name of the array is empty, too long or has other characters than names have.
    Name(String),
    /// The name of a member is empty, too long or has other characters than names have.
    MemberName(String),
    /// `slot_bits` is not from 1 to 16.
    SlotBits(u8),
    /// Epochs begin at 1.
    EpochZero,
    /// Nobody is in it.
    NoMembers,
    /// More than [`MEMBERS_MAX`].
    TooManyMembers {
        /// How many there are.
        found: usize,
    },
    /// A member by itself is unfit.
    Member(MemberFault),
    /// Two members have this name.
    DuplicateMember(MemberId),
    /// Every member is draining.
    NobodyHasWeight,
    /// `meta` names someone who is no member.
    UnknownMeta(MemberId),
    /// The field is missing.
    Missing(&'static str),
    /// The field is not base64.
    Base64(&'static str),
    /// The table is not one number for each slot.
    WrongLength {
        /// How many slots there are.
        wanted: usize,
        /// How many numbers there are.
        found: usize,
    },
    /// A slot belongs to a place in the list of members where nobody is.
    UnknownOwner {
        /// Which slot.
        slot: Slot,
        /// The place it names.
        place: u16,
    },
    /// A member does not own as many slots as it says.
    WrongCount {
        /// Which member.
        id: MemberId,
        /// How many slots it says it owns.
        says: usize,
        /// How many it owns by the table.
        owns: usize,
    },
    /// `slot_epochs` has too few bytes for the slots or too many, or an epoch beyond 2^32.
    SlotEpochs,
    /// The epochs of slots begin at 1.
    SlotEpochZero(Slot),
    /// A copy that should replace ours is older.
    EpochWentBack {
        /// The epoch of the copy we have.
        ours: Epoch,
        /// The epoch of the other.
        theirs: Epoch,
    },
    /// A copy of our very epoch says something else.
    TwoOfOneEpoch(Epoch),
    /// A later copy has an older epoch for this slot, or another owner in the same epoch.
    SlotEpochWentBack(Slot),
    /// A copy that should replace ours is of an array of another name, seed or number of slots.
    OtherArray {
        /// The name of ours.
        ours: String,
        /// The name of the other.
        theirs: String,
    },
}

impl fmt::Display for ArrayFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArrayFault::TooLong { bytes } => {
                write!(f, "{bytes} bytes; an array has at most {JSON_BYTES_MAX}")
            }
            ArrayFault::Json(fault) => write!(f, "not an array in JSON: {fault}"),
            ArrayFault::Version(version) => {
                write!(f, "an array of form {version}; this program knows form {VERSION}")
            }
            ArrayFault::Scheme(scheme) => {
                write!(f, "keys are placed by \"{scheme}\"; this program knows \"{SCHEME}\"")
            }
            ArrayFault::Name(name) | ArrayFault::MemberName(name) => write!(
                f,
                "\"{name}\" is no name: a name is 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . - _ :"
            ),
            ArrayFault::SlotBits(bits) => write!(f, "slot_bits is {bits}, but must be 1 to 16"),
            ArrayFault::EpochZero => write!(f, "the epoch is 0, but epochs begin at 1"),
            ArrayFault::NoMembers => write!(f, "the array has no members"),
            ArrayFault::TooManyMembers { found } => {
                write!(f, "{found} members; an array has at most {MEMBERS_MAX}")
            }
            ArrayFault::Member(fault) => fault.fmt(f),
            ArrayFault::DuplicateMember(id) => write!(f, "two members are called {id}"),
            ArrayFault::NobodyHasWeight => write!(f, "every member is draining"),
            ArrayFault::UnknownMeta(id) => write!(f, "{id} keeps the array but is no member"),
            ArrayFault::Missing(field) => write!(f, "\"{field}\" is missing"),
            ArrayFault::Base64(field) => write!(f, "\"{field}\" is not base64"),
            ArrayFault::WrongLength { wanted, found } => {
                write!(f, "{found} numbers for {wanted} slots")
            }
            ArrayFault::UnknownOwner { slot, place } => {
                write!(f, "slot {slot} belongs to member number {place}, and there is none")
            }
            ArrayFault::WrongCount { id, says, owns } => {
                write!(f, "{id} is said to own {says} slots, but the table gives it {owns}")
            }
            ArrayFault::SlotEpochs => {
                write!(f, "\"slot_epochs\" are not one number of `bits` bits for each slot")
            }
            ArrayFault::SlotEpochZero(slot) => write!(f, "the epoch of slot {slot} is 0"),
            ArrayFault::EpochWentBack { ours, theirs } => {
                write!(f, "a copy of epoch {theirs} cannot replace one of epoch {ours}")
            }
            ArrayFault::TwoOfOneEpoch(epoch) => {
                write!(f, "there are two different arrays of epoch {epoch}")
            }
            ArrayFault::SlotEpochWentBack(slot) => {
                write!(f, "the epoch of slot {slot} does not go on from the one before")
            }
            ArrayFault::OtherArray { ours, theirs } => {
                write!(f, "a copy of \"{theirs}\" cannot replace one of \"{ours}\"")
            }
        }
    }
}

impl std::error::Error for ArrayFault {}

/// What is looked at before anything else: other forms may have other fields.
#[derive(Deserialize)]
struct Head {
    carp: u32,
    scheme: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    carp: u32,
    name: String,
    epoch: Option<Epoch>,
    scheme: Option<String>,
    seed: Option<u64>,
    slot_bits: Option<u8>,
    ttl_s: Option<u32>,
    meta: Option<String>,
    members: Vec<MemberText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot_epochs: Option<SlotEpochs>,
}

/// How often each slot has changed its owner, packed.
#[derive(Serialize, Deserialize)]
struct SlotEpochs {
    least: u32,
    bits: u32,
    above: String,
}

#[derive(Serialize, Deserialize)]
struct MemberText {
    id: String,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    state: MemberState,
    #[serde(default)]
    urls: Vec<String>,
    slots: Option<usize>,
}

impl Array {
    /// The array as JSON, on one line. The same array always gives the same text.
    pub fn to_json(&self) -> String {
        let members = self.members.iter().zip(self.counts()).map(|(member, slots)| MemberText {
            id: member.id.as_str().to_owned(),
            weight: member.weight,
            state: member.state,
            urls: member.urls.clone(),
            slots: Some(slots),
        });
        let moved = self.slot_epochs.iter().any(|epoch| *epoch != 1);
        let text = Text {
            carp: VERSION,
            name: self.name.clone(),
            epoch: Some(self.epoch),
            scheme: Some(SCHEME.to_owned()),
            seed: Some(self.seed),
            slot_bits: Some(self.slots.bits()),
            ttl_s: Some(self.ttl_s),
            meta: Some(self.meta.as_str().to_owned()),
            members: members.collect(),
            table: Some(base64_of(self.table.iter().flat_map(|owner| owner.to_le_bytes()))),
            slot_epochs: moved.then(|| SlotEpochs::of(&self.slot_epochs)),
        };
        serde_json::to_string(&text).expect("strings and numbers always become JSON")
    }

    /// Reads what [`Array::to_json`] writes, on any version of it that has the same form and scheme.
    pub fn from_json(text: &[u8]) -> Result<Array, ArrayFault> {
        let text = read(text)?;
        text.scheme.ok_or(ArrayFault::Missing("scheme"))?;
        let epoch = text.epoch.ok_or(ArrayFault::Missing("epoch"))?;
        let bits = text.slot_bits.ok_or(ArrayFault::Missing("slot_bits"))?;
        let slots = SlotBits::new(bits).ok_or(ArrayFault::SlotBits(bits))?;
        let meta = text.meta.ok_or(ArrayFault::Missing("meta"))?;
        let table = numbers("table", &text.table.ok_or(ArrayFault::Missing("table"))?)?;
        let slot_epochs = match text.slot_epochs {
            Some(epochs) => epochs.read(slots.count())?,
            None => vec![1; slots.count()],
        };
        let said: Vec<Option<usize>> = text.members.iter().map(|member| member.slots).collect();
        let array = Array {
            name: text.name,
            epoch,
            slots,
            seed: text.seed.ok_or(ArrayFault::Missing("seed"))?,
            ttl_s: text.ttl_s.unwrap_or(Array::TTL_S),
            meta: member_id(meta)?,
            members: members(text.members)?,
            table: table.into_iter().map(u16::from_le_bytes).collect(),
            slot_epochs,
        };
        array.check()?;
        for ((member, says), owns) in array.members.iter().zip(said).zip(array.counts()) {
            if let Some(says) = says.filter(|says| *says != owns) {
                return Err(ArrayFault::WrongCount { id: member.id.clone(), says, owns });
            }
        }
        Ok(array)
    }

    /// Founds an array from what a person wrote: `carp`, `name` and `members` suffice, a member needs
    /// only its `id`. Works the table out (slots times members logarithms), at epoch 1 if none is said.
    /// A text with a table is of an array that exists already: it is read as [`Array::from_json`] does.
    ///
    /// ```
    /// let text = br#"{"carp":2, "name":"kv", "members":[{"id":"one"}, {"id":"two", "weight":3}]}"#;
    /// let array = carp::Array::found_from_json(text)?;
    /// assert_eq!(array.counts(), [4096, 12288]);
    /// # Ok::<(), carp::ArrayFault>(())
    /// ```
    pub fn found_from_json(bytes: &[u8]) -> Result<Array, ArrayFault> {
        let text = read(bytes)?;
        if text.table.is_some() {
            return Array::from_json(bytes);
        }
        let bits = text.slot_bits.unwrap_or(SlotBits::DEFAULT.bits());
        let slots = SlotBits::new(bits).ok_or(ArrayFault::SlotBits(bits))?;
        let members = members(text.members)?;
        let mut array = Array::fresh(&text.name, slots, text.seed.unwrap_or(0), members)?;
        array.epoch = text.epoch.unwrap_or(array.epoch);
        array.ttl_s = text.ttl_s.unwrap_or(Array::TTL_S);
        if let Some(meta) = text.meta {
            array.meta = member_id(meta)?;
        }
        array.check()?;
        Ok(array)
    }

    /// What a text asks for where this array is in force: a text with a table says it itself
    /// ([`Array::from_json`]); to one of a person, with members only, the table follows with the fewest
    /// moves, and what it does not say stays as it is. Its `epoch` is 1 if it says none. Whether the
    /// result may replace this array is for [`Array::replace`] to say.
    pub fn asked_by_json(&self, bytes: &[u8]) -> Result<Array, ArrayFault> {
        let text = read(bytes)?;
        if text.table.is_some() {
            return Array::from_json(bytes);
        }
        let fits = text.name == self.name
            && text.slot_bits.is_none_or(|bits| bits == self.slots.bits())
            && text.seed.is_none_or(|seed| seed == self.seed);
        if !fits {
            return Err(ArrayFault::OtherArray {
                ours: self.name.clone(),
                theirs: shown(&text.name),
            });
        }
        let epoch = text.epoch.unwrap_or(Epoch(1));
        if epoch < self.epoch {
            return Err(ArrayFault::EpochWentBack { ours: self.epoch, theirs: epoch });
        }
        let mut asked = self.clone();
        asked.ttl_s = text.ttl_s.unwrap_or(self.ttl_s);
        let members = members(text.members)?;
        // The same members at the same epoch are this array, also if its table was made otherwise.
        if epoch != self.epoch || members != self.members {
            asked.revise(members)?;
        }
        asked.meta = match text.meta {
            Some(meta) => member_id(meta)?,
            None if asked.member(&self.meta).is_some() => self.meta.clone(),
            None => asked.members[0].id.clone(),
        };
        asked.epoch = epoch;
        asked.check()?;
        Ok(asked)
    }
}

impl SlotEpochs {
    fn of(epochs: &[u32]) -> SlotEpochs {
        let least = epochs.iter().min().copied().unwrap_or(1);
        let most = epochs.iter().max().copied().unwrap_or(1);
        let bits = u32::BITS - (most - least).leading_zeros();
        let mut above = vec![0u8; (epochs.len() * bits as usize).div_ceil(8)];
        for (slot, epoch) in epochs.iter().enumerate() {
            for bit in (0..bits).filter(|bit| (epoch - least) >> bit & 1 == 1) {
                let at = slot * bits as usize + bit as usize;
                above[at / 8] |= 1 << (at % 8);
            }
        }
        SlotEpochs { least, bits, above: base64_of(above.into_iter()) }
    }

    /// The epochs of `count` slots.
    fn read(self, count: usize) -> Result<Vec<u32>, ArrayFault> {
        let field = "slot_epochs";
        let above = STANDARD.decode(&self.above).map_err(|_| ArrayFault::Base64(field))?;
        let bits = self.bits as usize;
        if u32::BITS < self.bits || above.len() != (count * bits).div_ceil(8) {
            return Err(ArrayFault::SlotEpochs);
        }
        let number = |slot: usize| {
            (0..bits).fold(0u32, |sum, bit| {
                let at = slot * bits + bit;
                sum | u32::from(above[at / 8] >> (at % 8) & 1) << bit
            })
        };
        let epoch = |slot| self.least.checked_add(number(slot)).ok_or(ArrayFault::SlotEpochs);
        (0..count).map(epoch).collect()
    }
}

fn read(bytes: &[u8]) -> Result<Text, ArrayFault> {
    if JSON_BYTES_MAX < bytes.len() {
        return Err(ArrayFault::TooLong { bytes: bytes.len() });
    }
    // The message can quote the text, however long it is.
    let json = |fault: serde_json::Error| {
        ArrayFault::Json(fault.to_string().chars().filter(|c| !c.is_control()).take(200).collect())
    };
    let head: Head = serde_json::from_slice(bytes).map_err(json)?;
    if head.carp != VERSION {
        return Err(ArrayFault::Version(head.carp));
    }
    if let Some(other) = head.scheme.filter(|scheme| scheme != SCHEME) {
        return Err(ArrayFault::Scheme(shown(&other)));
    }
    serde_json::from_slice(bytes).map_err(json)
}

fn members(texts: Vec<MemberText>) -> Result<Vec<Member>, ArrayFault> {
    let member = |text: MemberText| {
        let MemberText { id, weight, state, urls, slots: _ } = text;
        Ok(Member { id: member_id(id)?, weight, urls, state })
    };
    texts.into_iter().map(member).collect()
}

fn member_id(name: String) -> Result<MemberId, ArrayFault> {
    let shown = shown(&name);
    MemberId::new(name).ok_or(ArrayFault::MemberName(shown))
}

fn one() -> u32 {
    1
}

fn base64_of(bytes: impl Iterator<Item = u8>) -> String {
    STANDARD.encode(bytes.collect::<Vec<u8>>())
}

/// The numbers of `N` bytes in a field. A rest that is not a whole number counts as one more of them,
/// so that the length is wrong.
fn numbers<const N: usize>(field: &'static str, text: &str) -> Result<Vec<[u8; N]>, ArrayFault> {
    let bytes = STANDARD.decode(text).map_err(|_| ArrayFault::Base64(field))?;
    let (whole, rest) = bytes.as_chunks::<N>();
    let mut numbers = whole.to_vec();
    if !rest.is_empty() {
        numbers.push([0; N]);
    }
    Ok(numbers)
}
