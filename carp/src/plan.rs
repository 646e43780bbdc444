//! Who should own which slot: exact quotas, filled with the fewest moves there can be.
//!
//! Quotas first: each member's share of the slots by weight, the rest to the largest remainders, so
//! that equal members differ by one slot at most. Then whoever holds more than its quota gives up the
//! slots it wants least, and each free slot goes to the member that wants it most among those below
//! their quota. So only slots above a quota ever move: none between members that a change leaves
//! alone, and none that could have stayed.
//!
//! The outcome is data: it is agreed on, stored and sent, and nobody computes it again.

use std::fmt;

use crate::array::{Epoch, Member, MemberId};
use crate::slots::{Contender, Slot, SlotBits, best};

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A cluster that joins and takes its share.
    Add(Member),
    /// Take all slots from a member; it stays in the list until it is removed.
    Drain(MemberId),
    /// Take a drained member off the list. It must own nothing any more.
    Remove(MemberId),
    /// Another weight; a draining member becomes active again with it.
    Weight(MemberId, u32),
    /// Another member keeps the array itself. Moves nothing.
    Keeper(MemberId),
}

/// Why a change cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// There is no such member.
    NoSuchMember(MemberId),
    /// There is one of that name already.
    AlreadyMember(MemberId),
    /// Nobody with weight would be left to own the slots.
    NobodyLeft,
    /// It has to be drained first.
    StillOwns {
        /// Who was to be removed.
        id: MemberId,
        /// How many slots it owns.
        slots: usize,
    },
    /// The member keeps the array itself; another has to be named first.
    KeepsTheArray(MemberId),
    /// The member is not one an array may hold.
    BadMember(crate::array::MemberFault),
    /// More than [`crate::array::MEMBERS_MAX`].
    TooManyMembers,
    /// The plan was made for another epoch of the array or for another array.
    Stale {
        /// The epoch it was made for.
        planned: Epoch,
        /// The epoch the array has.
        now: Epoch,
    },
    /// The array's epochs are used up: one more does not fit its number.
    EpochsUsedUp,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::NoSuchMember(id) => write!(f, "there is no member {id}"),
            PlanError::AlreadyMember(id) => write!(f, "{id} is a member already"),
            PlanError::NobodyLeft => write!(f, "nobody would be left to own the slots"),
            PlanError::StillOwns { id, slots } => {
                write!(f, "{id} still owns {slots} slots: drain it first")
            }
            PlanError::KeepsTheArray(id) => {
                write!(f, "{id} keeps the array: name another keeper first")
            }
            PlanError::BadMember(fault) => fault.fmt(f),
            PlanError::TooManyMembers => {
                write!(f, "an array has at most {} members", crate::array::MEMBERS_MAX)
            }
            PlanError::Stale { planned, now } => {
                write!(f, "planned for epoch {planned}, but the array is at epoch {now}")
            }
            PlanError::EpochsUsedUp => write!(f, "the array's epochs are used up"),
        }
    }
}

impl std::error::Error for PlanError {}

/// Slots that go from one member to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Who gives them up.
    pub from: MemberId,
    /// Who gets them.
    pub to: MemberId,
    /// Which, in ascending order; never empty.
    pub slots: Vec<Slot>,
}

/// A change, worked out and not yet made: what `Array::apply_plan` takes.
///
/// Its `Display` is a table for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The name of the array it is for.
    pub(crate) array: String,
    /// The epoch it starts from.
    pub(crate) base: Epoch,
    /// Who keeps the array after it.
    pub(crate) meta: MemberId,
    /// The members after it.
    pub(crate) members: Vec<Member>,
    /// The owners after it: for each slot a place in `members`.
    pub(crate) table: Vec<u16>,
    /// For each member its slots before and after.
    pub(crate) counts: Vec<(usize, usize)>,
    pub(crate) moves: Vec<Move>,
    /// The fewest slots that any plan could move.
    pub(crate) least: usize,
}

impl Plan {
    /// Who gives what to whom, ordered by giver and taker.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// The epoch of the array that it was made for; it fits no other.
    pub fn base(&self) -> Epoch {
        self.base
    }

    /// Each member with the number of slots it will own.
    pub fn quotas(&self) -> impl Iterator<Item = (&MemberId, usize)> {
        self.members.iter().zip(&self.counts).map(|(member, (_, after))| (&member.id, *after))
    }

    /// How many slots change their owner.
    pub fn moved(&self) -> usize {
        self.moves.iter().map(|one| one.slots.len()).sum()
    }

    /// The fewest slots that any plan with these quotas would have to move. Always equal to
    /// [`Plan::moved`]; told so that it can be checked.
    pub fn least(&self) -> usize {
        self.least
    }

    /// The share of all slots that changes its owner, from 0 to 1.
    pub fn moved_fraction(&self) -> f64 {
        self.moved() as f64 / self.table.len() as f64
    }

    /// The least share that any plan could move, from 0 to 1.
    pub fn least_fraction(&self) -> f64 {
        self.least as f64 / self.table.len() as f64
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.members.iter().map(|one| one.id.as_str().len()).max().unwrap_or(0).max(6);
        writeln!(f, "{:width$}  weight  slots now  slots then", "member")?;
        for (member, (before, after)) in self.members.iter().zip(&self.counts) {
            let (id, weight) = (member.id.as_str(), member.share());
            writeln!(f, "{id:width$}  {weight:>6}  {before:>9}  {after:>10}")?;
        }
        for one in &self.moves {
            writeln!(f, "{} -> {}: {} slots", one.from, one.to, one.slots.len())?;
        }
        let percent = 100.0 * self.moved_fraction();
        write!(f, "moves {} of {} slots ({percent:.1} %)", self.moved(), self.table.len())
    }
}

/// How many of `slots` slots each contender should own; `held` says what each holds now. The numbers
/// add up to `slots` if anyone has weight, else they are all 0.
pub fn quotas(slots: SlotBits, contenders: &[Contender<'_>], held: &[usize]) -> Vec<usize> {
    assert_eq!(contenders.len(), held.len(), "one number of held slots for each contender");
    let total: u64 = contenders.iter().map(|one| u64::from(one.weight)).sum();
    if total == 0 {
        return vec![0; contenders.len()];
    }
    // At most 2^16 slots times 2^25.
    let ideal = |weight: u32| slots.count() as u64 * u64::from(weight);
    let mut quotas: Vec<usize> =
        contenders.iter().map(|one| (ideal(one.weight) / total) as usize).collect();
    let rest = slots.count() - quotas.iter().sum::<usize>();
    // The largest remainders first; among equal ones those that would have to give up a slot
    // otherwise, so that nothing moves for the sake of a remainder.
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    order.sort_by_key(|&at| {
        let remainder = ideal(contenders[at].weight) % total;
        let gives_up = quotas[at] < held[at];
        (std::cmp::Reverse(remainder), !gives_up, contenders[at].id)
    });
    // Fewer are left over than there are remainders, so nobody without weight gets one.
    for at in order.into_iter().take(rest) {
        quotas[at] += 1;
    }
    quotas
}

/// The new owner of each slot: a place in `contenders`. `owners` are the present ones, `None` for a
/// slot that is free. `None` when nobody has weight.
///
/// Work: one logarithm for each slot of a member above its quota, and one draw for each free slot and
/// member below its quota; for a fresh table of 16,384 slots and 64 members about a million draws.
pub fn assign(
    slots: SlotBits,
    owners: &[Option<u16>],
    contenders: &[Contender<'_>],
) -> Option<Vec<u16>> {
    assert_eq!(owners.len(), slots.count(), "one owner for each slot");
    let mut held: Vec<Vec<Slot>> = vec![Vec::new(); contenders.len()];
    for (slot, owner) in slots.all().zip(owners) {
        if let Some(owner) = owner {
            held[usize::from(*owner)].push(slot);
        }
    }
    let mut counts: Vec<usize> = held.iter().map(Vec::len).collect();
    let quotas = quotas(slots, contenders, &counts);
    if quotas.iter().all(|quota| *quota == 0) {
        return None;
    }

    let mut owners = owners.to_vec();
    for (at, contender) in contenders.iter().enumerate() {
        for slot in given_up(contender, &held[at], quotas[at]) {
            owners[usize::from(slot.0)] = None;
            counts[at] -= 1;
        }
    }
    let filled = slots.all().zip(owners).map(|(slot, owner)| {
        owner.unwrap_or_else(|| {
            let below = (0..contenders.len()).filter(|at| counts[*at] < quotas[*at]);
            let taker = best(slot, contenders, below)
                .expect("quotas add up to the number of slots: a free one leaves one unfilled");
            counts[taker] += 1;
            taker as u16
        })
    });
    Some(filled.collect())
}

/// What a member above its quota gives up: the slots it wants least, the larger number first among
/// equals.
fn given_up(contender: &Contender<'_>, held: &[Slot], quota: usize) -> Vec<Slot> {
    if held.len() <= quota {
        return Vec::new();
    }
    let mut wanted: Vec<(u64, Slot)> =
        held.iter().map(|slot| (contender.cost(*slot), *slot)).collect();
    wanted.sort_unstable();
    wanted.drain(quota..).map(|(_, slot)| slot).collect()
}
