//! The array: its members, who owns which slot, and the epoch that orders its versions.
//!
//! An [`Array`] is always valid: it has a member with weight, its names differ, each slot has an owner
//! that exists. It changes only by a plan, and each change makes the epoch one larger. A copy of it is
//! a hint: whether a cluster serves a slot is decided where the slot is, never here. What it looks
//! like as JSON, and every fault such a text can have, is the business of [`crate::json`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::json::ArrayFault;
use crate::plan::{Change, Move, Plan, PlanError, assign};
use crate::slots::{Contender, Slot, SlotBits, WEIGHT_MAX};

/// The most members an array has. A fresh table costs slots times members logarithms, so the number
/// must have an end.
pub const MEMBERS_MAX: usize = 1024;

/// The longest name of a member or an array, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// The most URLs of a member.
pub const URLS_MAX: usize = 8;

/// The longest URL, in bytes.
pub const URL_BYTES_MAX: usize = 256;

/// The version of an array: of two different ones the larger is newer. From 1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The stable name of a cluster: 1 to 128 of `a-z A-Z 0-9 . - _ :`. Never an address, for the name
/// decides which slots the cluster draws.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberId(String);

impl TryFrom<String> for MemberId {
    type Error = &'static str;

    fn try_from(name: String) -> Result<MemberId, &'static str> {
        MemberId::new(name).ok_or("a name is 1 to 128 of a-z A-Z 0-9 . - _ :")
    }
}

impl From<MemberId> for String {
    fn from(id: MemberId) -> String {
        id.0
    }
}

impl MemberId {
    /// `None` when it is empty, too long or has other characters.
    pub fn new(name: impl Into<String>) -> Option<MemberId> {
        let name = name.into();
        is_name(&name).then_some(MemberId(name))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a member takes slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It owns its share.
    #[default]
    Active,
    /// It gives up what it has, and gets nothing.
    Draining,
}

/// A cluster as the array knows it. The fields can be set freely; an array checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its stable name.
    pub id: MemberId,
    /// Its share against the weights of the others, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Where its nodes answer, best first. At most [`URLS_MAX`], each at most [`URL_BYTES_MAX`] visible
    /// ASCII characters without `"` and `\`. Nobody can be sent to a member that has none.
    pub urls: Vec<String>,
    /// Whether it takes slots.
    pub state: MemberState,
}

impl Member {
    /// An active member of weight 1.
    pub fn new(id: MemberId, urls: Vec<String>) -> Member {
        Member { id, weight: 1, urls, state: MemberState::Active }
    }

    /// The weight it takes slots with: 0 while it is draining.
    pub fn share(&self) -> u32 {
        match self.state {
            MemberState::Active => self.weight,
            MemberState::Draining => 0,
        }
    }

    /// What makes it unfit for an array, if anything.
    pub fn fault(&self) -> Option<MemberFault> {
        let id = &self.id;
        if !(1..=WEIGHT_MAX).contains(&self.weight) {
            return Some(MemberFault::Weight { id: id.clone(), weight: self.weight });
        }
        let urls = self.urls.len() <= URLS_MAX && self.urls.iter().all(|url| is_url(url));
        (!urls).then(|| MemberFault::Urls { id: id.clone() })
    }

    fn contender(&self) -> Contender<'_> {
        Contender::new(self.id.as_str(), self.share())
    }
}

/// What makes a member unfit for an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberFault {
    /// The weight is 0 or above [`WEIGHT_MAX`]. (To take a member's slots away, drain it.)
    Weight {
        /// Whose.
        id: MemberId,
        /// What it says.
        weight: u32,
    },
    /// Too many URLs, or one that is empty, too long or has characters that URLs do not have.
    Urls {
        /// Whose.
        id: MemberId,
    },
}

impl fmt::Display for MemberFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberFault::Weight { id, weight } => {
                write!(f, "{id} has weight {weight}, but weights are 1 to {WEIGHT_MAX}")
            }
            MemberFault::Urls { id } => write!(
                f,
                "{id} may have {URLS_MAX} URLs, each of 1 to {URL_BYTES_MAX} visible ASCII characters"
            ),
        }
    }
}

/// Where a key belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The key's slot.
    pub slot: Slot,
    /// Who owns it.
    pub member: &'a Member,
    /// How often the slot has changed its owner, from 1.
    pub slot_epoch: u32,
    /// The epoch of the array that says so.
    pub epoch: Epoch,
}

/// A slot that two arrays give to different members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotChange<'a> {
    /// Which slot.
    pub slot: Slot,
    /// Its owner in the array that was asked.
    pub from: &'a MemberId,
    /// Its owner in the other.
    pub to: &'a MemberId,
}

/// The members of an array of clusters and their slots. Rules, in the order they are checked:
///
/// - at least one member, at most [`MEMBERS_MAX`], each without a fault, no two of one name;
/// - someone has weight and is active;
/// - the member that keeps the array is one of them;
/// - each slot has an owner among them, and an epoch of 1 or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    pub(crate) name: String,
    pub(crate) epoch: Epoch,
    pub(crate) slots: SlotBits,
    pub(crate) seed: u64,
    pub(crate) ttl_s: u32,
    pub(crate) meta: MemberId,
    pub(crate) members: Vec<Member>,
    /// For each slot the place of its owner in `members`.
    pub(crate) table: Vec<u16>,
    pub(crate) slot_epochs: Vec<u32>,
}

impl Array {
    /// How long a copy is used before its holder asks for a newer one, in seconds.
    pub const TTL_S: u32 = 60;

    /// A new array of one member, which owns every slot and keeps the array. 16,384 slots, seed 0,
    /// epoch 1. `name`: 1 to 128 of the characters of a [`MemberId`].
    pub fn new(name: &str, first: Member) -> Result<Array, ArrayFault> {
        Array::fresh(name, SlotBits::DEFAULT, 0, vec![first])
    }

    /// A new array of several members: the table is worked out as if nobody had owned anything. The
    /// first member keeps the array.
    pub fn fresh(
        name: &str,
        slots: SlotBits,
        seed: u64,
        members: Vec<Member>,
    ) -> Result<Array, ArrayFault> {
        check_members(&members)?;
        let contenders: Vec<Contender<'_>> = members.iter().map(Member::contender).collect();
        let table = assign(slots, &vec![None; slots.count()], &contenders)
            .ok_or(ArrayFault::NobodyHasWeight)?;
        let array = Array {
            name: name.to_owned(),
            epoch: Epoch(1),
            slots,
            seed,
            ttl_s: Array::TTL_S,
            meta: members[0].id.clone(),
            slot_epochs: vec![1; slots.count()],
            members,
            table,
        };
        array.check()?;
        Ok(array)
    }

    /// The name of the array.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many slots it has; never changes.
    pub fn slots(&self) -> SlotBits {
        self.slots
    }

    /// The seed of the hash of keys; never changes.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How long a copy is used before its holder asks for a newer one, in seconds.
    pub fn ttl_s(&self) -> u32 {
        self.ttl_s
    }

    /// The member that keeps the array itself.
    pub fn meta(&self) -> &MemberId {
        &self.meta
    }

    /// Every member, in the order they came.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of that name.
    pub fn member(&self, id: &MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == *id)
    }

    /// How many slots each member owns, in the order of [`Array::members`].
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.members.len()];
        for owner in &self.table {
            counts[usize::from(*owner)] += 1;
        }
        counts
    }

    /// The slot of a key.
    #[inline]
    pub fn slot(&self, key: &[u8]) -> Slot {
        self.slots.slot_of(key, self.seed)
    }

    /// Who owns a slot. `None` when there is no such slot.
    #[inline]
    pub fn owner(&self, slot: Slot) -> Option<&Member> {
        self.table.get(usize::from(slot.0)).map(|owner| &self.members[usize::from(*owner)])
    }

    /// How often a slot has changed its owner, from 1. `None` when there is no such slot.
    pub fn slot_epoch(&self, slot: Slot) -> Option<u32> {
        self.slot_epochs.get(usize::from(slot.0)).copied()
    }

    /// Where a key belongs.
    #[inline]
    pub fn route(&self, key: &[u8]) -> Route<'_> {
        let slot = self.slot(key);
        // A slot of ours always has an owner and an epoch.
        let at = usize::from(slot.0);
        let member = &self.members[usize::from(self.table[at])];
        Route { slot, member, slot_epoch: self.slot_epochs[at], epoch: self.epoch }
    }

    /// The `most` members that want a slot most, best first: why it went where it is, or where copies
    /// would go. A slot's owner is often, but not always, the first: quotas come before wishes.
    pub fn rank(&self, slot: Slot, most: usize) -> Vec<&Member> {
        let contenders: Vec<Contender<'_>> = self.members.iter().map(Member::contender).collect();
        let order = crate::slots::rank(slot, &contenders);
        order.into_iter().take(most).map(|at| &self.members[at]).collect()
    }

    /// Works out a change without making it.
    pub fn plan(&self, change: Change) -> Result<Plan, PlanError> {
        let meta = match &change {
            Change::Keeper(id) => id.clone(),
            _ => self.meta.clone(),
        };
        let (members, owners) = self.after(change)?;
        let contenders: Vec<Contender<'_>> = members.iter().map(Member::contender).collect();
        let present: Vec<Option<u16>> = owners.iter().map(|owner| Some(*owner)).collect();
        let table = assign(self.slots, &present, &contenders).ok_or(PlanError::NobodyLeft)?;

        let mut counts = vec![(0, 0); members.len()];
        let mut moves: BTreeMap<(u16, u16), Vec<Slot>> = BTreeMap::new();
        let mut used_up = self.epoch.0 == u64::MAX;
        for ((slot, before), after) in self.slots.all().zip(&owners).zip(&table) {
            counts[usize::from(*before)].0 += 1;
            counts[usize::from(*after)].1 += 1;
            if before != after {
                moves.entry((*before, *after)).or_default().push(slot);
                used_up |= self.slot_epochs[usize::from(slot.0)] == u32::MAX;
            }
        }
        if used_up {
            return Err(PlanError::EpochsUsedUp);
        }
        let id = |at: u16| members[usize::from(at)].id.clone();
        let moves = moves
            .into_iter()
            .map(|((from, to), slots)| Move { from: id(from), to: id(to), slots })
            .collect();
        let least = counts.iter().map(|(now, then): &(usize, usize)| now.saturating_sub(*then));
        Ok(Plan {
            array: self.name.clone(),
            base: self.epoch,
            meta,
            least: least.sum(),
            members,
            table,
            counts,
            moves,
        })
    }

    /// Makes a change that was planned for this very epoch: the next epoch begins.
    pub fn apply_plan(&mut self, plan: &Plan) -> Result<(), PlanError> {
        if plan.base != self.epoch || plan.array != self.name {
            return Err(PlanError::Stale { planned: plan.base, now: self.epoch });
        }
        for one in &plan.moves {
            for slot in &one.slots {
                self.slot_epochs[usize::from(slot.0)] += 1;
            }
        }
        self.meta.clone_from(&plan.meta);
        self.members.clone_from(&plan.members);
        self.table.clone_from(&plan.table);
        self.epoch.0 += 1;
        self.check().expect("a plan of a valid array leads to a valid array");
        Ok(())
    }

    /// Other members in place of these: whoever is new gets its share, whoever is gone gives up all,
    /// and no slot moves that could have stayed. The epoch stays.
    pub(crate) fn revise(&mut self, members: Vec<Member>) -> Result<(), ArrayFault> {
        check_members(&members)?;
        let contenders: Vec<Contender<'_>> = members.iter().map(Member::contender).collect();
        let place = |id: &MemberId| members.iter().position(|member| member.id == *id);
        let places: Vec<Option<u16>> =
            self.members.iter().map(|member| place(&member.id).map(|place| place as u16)).collect();
        let present: Vec<Option<u16>> =
            self.table.iter().map(|owner| places[usize::from(*owner)]).collect();
        let table = assign(self.slots, &present, &contenders).ok_or(ArrayFault::NobodyHasWeight)?;
        for ((before, after), epoch) in present.iter().zip(&table).zip(&mut self.slot_epochs) {
            if *before != Some(*after) {
                *epoch = epoch.checked_add(1).ok_or(ArrayFault::SlotEpochs)?;
            }
        }
        self.table = table;
        self.members = members;
        Ok(())
    }

    /// Each slot that the other array gives to someone else, in ascending order. Empty when the two do
    /// not have the same number of slots, for then no slot of one is a slot of the other.
    pub fn diff<'a>(&'a self, other: &'a Array) -> Vec<SlotChange<'a>> {
        if self.slots != other.slots {
            return Vec::new();
        }
        let owners = self.slots.all().filter_map(|slot| {
            let (from, to) = (&self.owner(slot)?.id, &other.owner(slot)?.id);
            (from != to).then_some(SlotChange { slot, from, to })
        });
        owners.collect()
    }

    /// Takes a newer copy in place of this one. False: it is the same. A copy that is older, that is of
    /// another array, or that contradicts this one changes nothing.
    pub fn replace(&mut self, newer: Array) -> Result<bool, ArrayFault> {
        let same = newer.name == self.name && newer.slots == self.slots && newer.seed == self.seed;
        if !same {
            return Err(ArrayFault::OtherArray { ours: self.name.clone(), theirs: newer.name });
        }
        if newer.epoch < self.epoch {
            return Err(ArrayFault::EpochWentBack { ours: self.epoch, theirs: newer.epoch });
        }
        if newer.epoch == self.epoch {
            let equal = newer == *self;
            return if equal { Ok(false) } else { Err(ArrayFault::TwoOfOneEpoch(self.epoch)) };
        }
        let went_back = self.slots.all().find(|slot| {
            let at = usize::from(slot.0);
            let moved =
                self.owner(*slot).map(|one| &one.id) != newer.owner(*slot).map(|one| &one.id);
            newer.slot_epochs[at] < self.slot_epochs[at] + u32::from(moved)
        });
        if let Some(slot) = went_back {
            return Err(ArrayFault::SlotEpochWentBack(slot));
        }
        *self = newer;
        Ok(true)
    }

    /// Checks the rules of an array.
    pub(crate) fn check(&self) -> Result<(), ArrayFault> {
        if !is_name(&self.name) {
            return Err(ArrayFault::Name(shown(&self.name)));
        }
        if self.epoch.0 == 0 {
            return Err(ArrayFault::EpochZero);
        }
        check_members(&self.members)?;
        if self.member(&self.meta).is_none() {
            return Err(ArrayFault::UnknownMeta(self.meta.clone()));
        }
        let wanted = self.slots.count();
        for length in [self.table.len(), self.slot_epochs.len()] {
            if length != wanted {
                return Err(ArrayFault::WrongLength { wanted, found: length });
            }
        }
        for (slot, owner) in self.slots.all().zip(&self.table) {
            if self.members.len() <= usize::from(*owner) {
                return Err(ArrayFault::UnknownOwner { slot, place: *owner });
            }
            if self.slot_epochs[usize::from(slot.0)] == 0 {
                return Err(ArrayFault::SlotEpochZero(slot));
            }
        }
        Ok(())
    }

    /// The members after a change, and the present owners as places among them.
    fn after(&self, change: Change) -> Result<(Vec<Member>, Vec<u16>), PlanError> {
        let mut members = self.members.clone();
        let mut owners = self.table.clone();
        let place = |id: &MemberId| {
            let found = self.members.iter().position(|member| member.id == *id);
            found.ok_or_else(|| PlanError::NoSuchMember(id.clone()))
        };
        match change {
            Change::Add(member) => {
                if place(&member.id).is_ok() {
                    return Err(PlanError::AlreadyMember(member.id));
                }
                if members.len() == MEMBERS_MAX {
                    return Err(PlanError::TooManyMembers);
                }
                members.push(member);
            }
            Change::Keeper(id) => drop(place(&id)?),
            Change::Drain(id) => members[place(&id)?].state = MemberState::Draining,
            Change::Weight(id, weight) => {
                let member = &mut members[place(&id)?];
                member.weight = weight;
                member.state = MemberState::Active;
            }
            Change::Remove(id) => {
                let gone = place(&id)?;
                let slots = self.counts()[gone];
                if 0 < slots {
                    return Err(PlanError::StillOwns { id, slots });
                }
                if id == self.meta {
                    return Err(PlanError::KeepsTheArray(id));
                }
                members.remove(gone);
                for owner in owners.iter_mut().filter(|owner| gone < usize::from(**owner)) {
                    *owner -= 1;
                }
            }
        }
        match members.iter().find_map(Member::fault) {
            Some(fault) => Err(PlanError::BadMember(fault)),
            None => Ok((members, owners)),
        }
    }
}

fn check_members(members: &[Member]) -> Result<(), ArrayFault> {
    if members.is_empty() {
        return Err(ArrayFault::NoMembers);
    }
    if MEMBERS_MAX < members.len() {
        return Err(ArrayFault::TooManyMembers { found: members.len() });
    }
    if let Some(fault) = members.iter().find_map(Member::fault) {
        return Err(ArrayFault::Member(fault));
    }
    let mut ids: Vec<&MemberId> = members.iter().map(|member| &member.id).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ArrayFault::DuplicateMember(pair[0].clone()));
    }
    if members.iter().all(|member| member.share() == 0) {
        return Err(ArrayFault::NobodyHasWeight);
    }
    Ok(())
}

/// Names fit one field of a table of text, a header and a path.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

pub(crate) fn is_url(url: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
    (1..=URL_BYTES_MAX).contains(&url.len()) && url.bytes().all(fits)
}

/// The beginning of a text of others, fit for a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_default).collect()
}
