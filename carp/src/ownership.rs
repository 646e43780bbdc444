//! Which slots one cluster serves: the part of an array that is truth, kept in that cluster's own log.
//!
//! A cluster that takes a newer array goes by it, with two cares, so that no slot ever has two owners:
//!
//! - It gives a slot up only while the slot holds no key. An array by which it would lose keys is
//!   refused with their number ([`MapRefused::HoldsKeys`]) and the old one stays.
//! - A slot it gains is *coming*: not served until its former owner is known to have let go of it,
//!   which the former owner itself tells ([`Applied`], [`Ownership::adopt`]). Until then requests go
//!   there.
//!
//! ```text
//!   elsewhere --(an array gives it to us)--> coming --(its giver has let go)--> serving
//!       ^                                       |                                  |
//!       '--(an array takes it away again)-------'                                  |
//!       '--(an array takes it, and it holds no key)--------------------------------'
//! ```
//!
//! A cluster may have been the owner of a slot and never have served it: when the slot was taken away
//! while it was coming, or in an array that this cluster never saw. What it never had it cannot have
//! let go of, so as long as whoever had it before has not, it tells the others ([`Applied::settled`])
//! that all is let go of only up to the epoch before.
//!
//! All of this is deterministic: replicas that apply the same commands hold the same ownership. How a
//! slot *with* keys moves is not here yet; it will be further states of a slot.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::array::{Array, Epoch, Member, MemberId};
use crate::json::ArrayFault;
use crate::router::Moved;
use crate::slots::Slot;

/// The longest text of an ownership, in bytes: an array whose every quote is escaped, and its slots.
pub const OWNERSHIP_BYTES_MAX: usize = 8 << 20;

/// What one cluster serves of an array. Rules:
///
/// - the cluster is a member of the array;
/// - a slot is coming by one gift at most, and only if the array gives it to this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    me: MemberId,
    array: Array,
    /// What was given to us and is not known to be let go of.
    gifts: Vec<Gift>,
    /// Follows from all of the above.
    slots: Vec<Holding>,
}

/// Slots that an array gave to this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Gift {
    /// The epoch of the array that gave them to us.
    since: Epoch,
    /// The epoch from which on an array may have taken them away again; `None` while they are coming.
    passed: Option<Epoch>,
    /// Who had them before; `None` when arrays in between were never seen here, so that it may have
    /// been anyone.
    from: Option<Giver>,
    /// Which, in ascending order; not told of those that were taken away.
    slots: Vec<Slot>,
}

/// A former owner, who may be no member any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Giver {
    /// Its stable name.
    pub id: MemberId,
    /// Where it answers.
    pub urls: Vec<String>,
}

/// A slot, as this cluster has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    Serving,
    Elsewhere,
    /// Ours, by the gift at this place.
    Coming(u16),
}

/// What a cluster says of itself, for others to go by. What it says stays true for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The epoch of its array.
    pub epoch: Epoch,
    /// Whatever arrays up to this epoch took from it, nobody serves by having it from there.
    pub settled: Epoch,
}

/// Whether this cluster serves a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit<'a> {
    /// It does.
    Serving,
    /// Another cluster does.
    Elsewhere(&'a Member),
    /// It will, when the former owner has let go. Until then only that one can.
    Coming(Option<&'a Giver>),
}

impl Admit<'_> {
    /// One word for it: `serving`, `elsewhere`, `coming`.
    pub fn word(&self) -> &'static str {
        match self {
            Admit::Serving => "serving",
            Admit::Elsewhere(_) => "elsewhere",
            Admit::Coming(_) => "coming",
        }
    }
}

/// Why a cluster does not take an array. The one it has stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapRefused {
    /// It is no array, or must not follow the one in force.
    Fault(ArrayFault),
    /// The cluster is not in it.
    NotAMember(MemberId),
    /// The cluster has another name in its log.
    OtherName {
        /// Its name.
        ours: MemberId,
        /// The name it was called by.
        theirs: MemberId,
    },
    /// Slots that hold keys would not be this cluster's any more.
    HoldsKeys {
        /// How many keys.
        keys: u64,
    },
}

impl fmt::Display for MapRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapRefused::Fault(fault) => fault.fmt(f),
            MapRefused::NotAMember(id) => write!(f, "this cluster, {id}, is no member of it"),
            MapRefused::OtherName { ours, theirs } => {
                write!(f, "this cluster is called {ours} in its log, not {theirs}")
            }
            MapRefused::HoldsKeys { keys } => write!(
                f,
                "this cluster holds {keys} keys in slots that would not be its own any more"
            ),
        }
    }
}

impl std::error::Error for MapRefused {}

impl Ownership {
    /// What cluster `me` serves when it takes `array` in place of `now` (`None`: it has no array and
    /// serves every slot). `Ok(None)`: it is the array it has. `keys_in` counts the keys in the slots
    /// for which its argument, a flag for each slot, is set; it is asked once at most.
    ///
    /// # Errors
    /// Why the array is not taken.
    pub fn next(
        now: Option<&Ownership>,
        me: &MemberId,
        array: Array,
        keys_in: impl FnOnce(&[bool]) -> u64,
    ) -> Result<Option<Ownership>, MapRefused> {
        if let Some(now) = now {
            if now.me != *me {
                let (ours, theirs) = (now.me.clone(), me.clone());
                return Err(MapRefused::OtherName { ours, theirs });
            }
            if !now.array.clone().replace(array.clone()).map_err(MapRefused::Fault)? {
                return Ok(None);
            }
        }
        if array.member(me).is_none() {
            return Err(MapRefused::NotAMember(me.clone()));
        }
        let Turn { lost, gifts } = Turn::new(now, me, &array);
        if lost.contains(&true) {
            let keys = keys_in(&lost);
            if 0 < keys {
                return Err(MapRefused::HoldsKeys { keys });
            }
        }
        Ok(Some(Ownership::of(me.clone(), array, gifts)))
    }

    /// Takes note of what others have applied, as they said themselves. Slots whose giver has let go
    /// are served from now on. Whether anything has changed.
    ///
    /// A cluster whose array is newer than ours tells us nothing, for a slot may be its own again by
    /// then: the newer array comes first.
    pub fn adopt(&mut self, applied: &BTreeMap<MemberId, Applied>) -> bool {
        let gifts = std::mem::take(&mut self.gifts);
        let before = gifts.len();
        let left: Vec<Gift> =
            gifts.into_iter().filter(|gift| !self.is_settled(gift, applied)).collect();
        let changed = left.len() < before;
        self.gifts = left;
        if changed {
            self.slots = holdings(&self.me, &self.array, &self.gifts);
        }
        changed
    }

    /// Whether [`Ownership::adopt`] would change anything.
    pub fn would_adopt(&self, applied: &BTreeMap<MemberId, Applied>) -> bool {
        self.gifts.iter().any(|gift| self.is_settled(gift, applied))
    }

    /// What others may go by.
    pub fn applied(&self) -> Applied {
        let epoch = self.array.epoch();
        let passed = self.gifts.iter().filter_map(|gift| gift.passed).min();
        Applied { epoch, settled: passed.map_or(epoch, |passed| Epoch(passed.0 - 1)) }
    }

    /// This cluster's name.
    pub fn me(&self) -> &MemberId {
        &self.me
    }

    /// The array in force here.
    pub fn array(&self) -> &Array {
        &self.array
    }

    /// Whether this cluster serves a slot. Asserts that the array has the slot.
    #[inline]
    pub fn admit(&self, slot: Slot) -> Admit<'_> {
        match self.slots[usize::from(slot.0)] {
            Holding::Serving => Admit::Serving,
            Holding::Elsewhere => {
                Admit::Elsewhere(self.array.owner(slot).expect("each slot has an owner"))
            }
            Holding::Coming(gift) => Admit::Coming(self.gifts[usize::from(gift)].from.as_ref()),
        }
    }

    /// Whether this cluster serves a key.
    #[inline]
    pub fn serves(&self, key: &[u8]) -> bool {
        self.slots[usize::from(self.array.slot(key).0)] == Holding::Serving
    }

    /// How many slots it serves.
    pub fn serving(&self) -> usize {
        self.slots.iter().filter(|slot| **slot == Holding::Serving).count()
    }

    /// How many slots are coming.
    pub fn coming(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Holding::Coming(_))).count()
    }

    /// What to tell a client that asks here for a key of another cluster; `None` for a key of ours.
    pub fn moved(&self, key: &[u8]) -> Option<Moved> {
        let route = self.array.route(key);
        (route.member.id != self.me).then(|| Moved {
            slot: route.slot,
            owner: route.member.id.clone(),
            slot_epoch: route.slot_epoch,
            epoch: route.epoch,
            urls: route.member.urls.clone(),
        })
    }

    /// Everyone whose epoch matters to this cluster, with where to ask: the other members, and givers
    /// that are no members any more.
    pub fn others(&self) -> Vec<Giver> {
        let members = self.array.members().iter().filter(|member| member.id != self.me);
        let mut others: Vec<Giver> = members
            .map(|member| Giver { id: member.id.clone(), urls: member.urls.clone() })
            .collect();
        for giver in self.gifts.iter().filter_map(|gift| gift.from.as_ref()) {
            if others.iter().all(|other| other.id != giver.id) {
                others.push(giver.clone());
            }
        }
        others
    }

    /// As JSON, on one line: `me`, `array` (its JSON as one string), `coming`. The same ownership
    /// always gives the same text.
    pub fn to_json(&self) -> String {
        let text = Text {
            me: self.me.as_str().to_owned(),
            array: self.array.to_json(),
            coming: self.gifts.clone(),
        };
        serde_json::to_string(&text).expect("strings and numbers always become JSON")
    }

    /// Reads what [`Ownership::to_json`] writes.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn from_json(text: &[u8]) -> Result<Ownership, String> {
        if OWNERSHIP_BYTES_MAX < text.len() {
            return Err(format!("an ownership of {} bytes", text.len()));
        }
        let Text { me, array, coming } =
            serde_json::from_slice(text).map_err(|fault| fault.to_string())?;
        let me = MemberId::new(me).ok_or("the name of this cluster is no name")?;
        let array = Array::from_json(array.as_bytes()).map_err(|fault| fault.to_string())?;
        if array.member(&me).is_none() {
            return Err(MapRefused::NotAMember(me).to_string());
        }
        let mut seen = vec![false; array.slots().count()];
        for gift in &coming {
            let epochs = 0 < gift.since.0
                && gift.since <= array.epoch()
                && gift.passed.is_none_or(|at| 0 < at.0 && at <= array.epoch());
            if !epochs || gift.slots.is_empty() != gift.passed.is_some() {
                return Err(format!("a gift of {} slots at {}", gift.slots.len(), gift.since));
            }
            for slot in &gift.slots {
                let owner = array.owner(*slot).ok_or(format!("there is no slot {slot}"))?;
                let mut twice = || std::mem::replace(&mut seen[usize::from(slot.0)], true);
                if owner.id != me || twice() {
                    return Err(format!("slot {slot} cannot be coming"));
                }
            }
        }
        Ok(Ownership::of(me, array, coming))
    }

    fn of(me: MemberId, array: Array, gifts: Vec<Gift>) -> Ownership {
        let slots = holdings(&me, &array, &gifts);
        Ownership { me, array, gifts, slots }
    }

    fn is_settled(&self, gift: &Gift, applied: &BTreeMap<MemberId, Applied>) -> bool {
        let known = |id: &MemberId| applied.get(id).filter(|it| it.epoch <= self.array.epoch());
        match &gift.from {
            Some(giver) => known(&giver.id).is_some_and(|it| gift.since <= it.settled),
            // Nobody serves a slot that its own array gives to another.
            None => {
                let mut others = self.array.members().iter().filter(|one| one.id != self.me);
                others.all(|one| known(&one.id).is_some_and(|it| gift.since <= it.epoch))
            }
        }
    }
}

fn holdings(me: &MemberId, array: &Array, gifts: &[Gift]) -> Vec<Holding> {
    let holding = |slot| match array.owner(slot) {
        Some(owner) if owner.id == *me => Holding::Serving,
        _ => Holding::Elsewhere,
    };
    let mut slots: Vec<Holding> = array.slots().all().map(holding).collect();
    for (at, gift) in gifts.iter().enumerate().filter(|(_, gift)| gift.passed.is_none()) {
        // Gifts have few ways to differ; the slots of those that are coming differ too.
        let place = u16::try_from(at).expect("there are far fewer gifts than slots");
        gift.slots.iter().for_each(|slot| slots[usize::from(slot.0)] = Holding::Coming(place));
    }
    slots
}

#[derive(Serialize, Deserialize)]
struct Text {
    me: String,
    array: String,
    coming: Vec<Gift>,
}

/// What a newer array changes for a cluster.
struct Turn {
    /// For each slot, whether keys in it would be lost.
    lost: Vec<bool>,
    gifts: Vec<Gift>,
}

/// What tells gifts apart.
type GiftKey = (Epoch, Option<Epoch>, Option<MemberId>);

impl Turn {
    fn new(now: Option<&Ownership>, me: &MemberId, array: &Array) -> Turn {
        let mut lost = vec![false; array.slots().count()];
        let mut gifts: BTreeMap<GiftKey, Gift> = BTreeMap::new();
        type From<'a> = Option<(&'a MemberId, &'a [String])>;
        let mut give = |since: Epoch, passed: Option<Epoch>, from: From<'_>, slot: Slot| {
            let giver =
                |(id, urls): (&MemberId, &[String])| Giver { id: id.clone(), urls: urls.to_vec() };
            let fresh = || Gift { since, passed, from: from.map(giver), slots: Vec::new() };
            let key = (since, passed, from.map(|(id, _)| id.clone()));
            let gift = gifts.entry(key).or_insert_with(fresh);
            gift.slots.extend(passed.is_none().then_some(slot));
        };
        let epoch = array.epoch();
        // What an array took that we may not have seen, it took after the one we have.
        let taken = Epoch(now.map_or(0, |now| now.array.epoch().0) + 1);
        for slot in array.slots().all() {
            let at = usize::from(slot.0);
            let ours = array.owner(slot).is_some_and(|owner| owner.id == *me);
            let owners = array.slot_epoch(slot).unwrap_or(0);
            let before = now.and_then(|now| now.array.slot_epoch(slot)).unwrap_or(0);
            // More than one step: owners in between may have been anyone, also we.
            let one_step = owners == before.saturating_add(1);
            let holding = now.map_or(Holding::Elsewhere, |now| now.slots[at]);
            // Without an array a cluster serves everything, and holds keys anywhere.
            lost[at] = match now {
                None => !(ours && one_step),
                // We have not let go of it: nobody else can have got it meanwhile.
                Some(_) => holding == Holding::Serving && !ours,
            };
            match (holding, now) {
                (Holding::Serving, _) => {}
                // Whoever is the first owner of a slot takes it from nobody.
                (_, None) if ours && one_step => {}
                (Holding::Coming(gift), Some(now)) if one_step || owners == before => {
                    let Gift { since, from, .. } = &now.gifts[usize::from(gift)];
                    let from = from.as_ref().map(|giver| (&giver.id, &giver.urls[..]));
                    give(*since, (!ours).then_some(taken), from, slot);
                }
                (Holding::Elsewhere, Some(now)) if ours && one_step => {
                    let owner = now.array.owner(slot);
                    give(epoch, None, owner.map(|owner| (&owner.id, &owner.urls[..])), slot);
                }
                (Holding::Elsewhere, _) if !ours && owners <= before.saturating_add(1) => {}
                (_, _) => give(epoch, (!ours).then_some(taken), None, slot),
            }
        }
        let mut gifts: Vec<Gift> = gifts.into_values().collect();
        let passed = now.into_iter().flat_map(|now| &now.gifts);
        gifts.extend(passed.filter(|gift| gift.passed.is_some()).cloned());
        Turn { lost, gifts }
    }
}
