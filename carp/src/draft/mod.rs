//! CARP v1.0 as it was written down: draft-vinod-carp-v1-03 (Valloppillil and Ross, 1998), bit for bit.
//!
//! For comparison, and for programs that still speak it. Keys of this store are *not* placed by it: the
//! owner is decided by the low ten bits of the key's hash, so the load is uneven, and its load factors
//! move more keys than needed (see `docs/carp.md`). Nor does "use the second if the first is down"
//! belong in a store; it was made for caches.
//!
//! Where the draft is silent we say: bytes are unsigned; names are compared in lower case (ASCII); a
//! tie goes to the lower name in byte order; real numbers are `f64`.
//!
//! [`table`] is its text form, the Proxy Array Membership Table.

pub mod table;

use std::cmp::Ordering;
use std::fmt;

pub use table::{MembershipTable, TableFault, TableMember};

/// What member and combined hashes are multiplied by: the draft's `h + h * 0x62531965`.
const SPREAD: u32 = 0x6253_1966;

/// The most members a [`Draft`] has.
pub const MEMBERS_MAX: usize = 1024;

/// The hash of a URL or key (draft 3.1).
///
/// ```
/// assert_eq!(carp::draft::key_hash(b"ab"), 0x0308_00c3);
/// ```
pub fn key_hash(key: &[u8]) -> u32 {
    key.iter().fold(0u32, |hash, byte| {
        hash.wrapping_add(hash.rotate_left(19)).wrapping_add(u32::from(*byte))
    })
}

/// The hash of a member's name, taken in lower case (draft 3.2).
pub fn member_hash(name: &str) -> u32 {
    key_hash(name.to_ascii_lowercase().as_bytes()).wrapping_mul(SPREAD).rotate_left(21)
}

/// The hash of key and member together (draft 3.3).
pub fn combine(key_hash: u32, member_hash: u32) -> u32 {
    (key_hash ^ member_hash).wrapping_mul(SPREAD).rotate_left(21)
}

/// The load factor multipliers (draft 3.4) for load factors of 1 or more, in the order given.
///
/// With independent uniform draws on `[0, X_k]` the member k draws the largest with the probability
/// that its load factor asks for. Equal load factors give 1 each; the product of all is 1. Asserts
/// that no load factor is 0.
pub fn multipliers(load_factors: &[u32]) -> Vec<f64> {
    assert!(load_factors.iter().all(|load| 1 <= *load), "load factors begin at 1");
    let total: f64 = load_factors.iter().map(|load| f64::from(*load)).sum();
    let mut ascending: Vec<usize> = (0..load_factors.len()).collect();
    ascending.sort_by_key(|at| load_factors[*at]);

    let mut multipliers = vec![0.0; load_factors.len()];
    let (mut share_before, mut before, mut product) = (0.0, 0.0f64, 1.0);
    for (done, at) in ascending.into_iter().enumerate() {
        let left = (load_factors.len() - done) as f64;
        let share = f64::from(load_factors[at]) / total;
        let step = left * (share - share_before) / product + before.powf(left);
        let multiplier = step.powf(1.0 / left);
        multipliers[at] = multiplier;
        (share_before, before, product) = (share, multiplier, product * multiplier);
    }
    multipliers
}

/// Why there is no such array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DraftFault {
    /// Nobody is in it.
    NoMembers,
    /// More than [`MEMBERS_MAX`].
    TooManyMembers,
    /// Two names are equal in lower case.
    DuplicateMember(String),
    /// A load factor of 0.
    NoLoad(String),
}

impl fmt::Display for DraftFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DraftFault::NoMembers => write!(f, "the array has no members"),
            DraftFault::TooManyMembers => write!(f, "an array has at most {MEMBERS_MAX} members"),
            DraftFault::DuplicateMember(name) => write!(f, "two members are called {name}"),
            DraftFault::NoLoad(name) => write!(f, "{name} has load factor 0; they begin at 1"),
        }
    }
}

impl std::error::Error for DraftFault {}

/// A member with what its scores are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftMember {
    /// Its name, in lower case.
    pub name: String,
    /// [`member_hash`] of the name.
    pub hash: u32,
    /// Its load factor multiplier.
    pub multiplier: f64,
}

impl DraftMember {
    /// What this member offers for a key: the highest score owns it.
    pub fn score(&self, key_hash: u32) -> f64 {
        f64::from(combine(key_hash, self.hash)) * self.multiplier
    }
}

/// An array that routes as the draft says.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    members: Vec<DraftMember>,
}

impl Draft {
    /// From names and load factors.
    ///
    /// ```
    /// use carp::draft::Draft;
    /// let draft = Draft::new(&[("cluster-1", 1), ("cluster-2", 1), ("cluster-3", 1)])?;
    /// assert_eq!(draft.owner(b"http://www.example.com/").name, "cluster-3");
    /// # Ok::<(), carp::draft::DraftFault>(())
    /// ```
    pub fn new(members: &[(&str, u32)]) -> Result<Draft, DraftFault> {
        if members.is_empty() {
            return Err(DraftFault::NoMembers);
        }
        if MEMBERS_MAX < members.len() {
            return Err(DraftFault::TooManyMembers);
        }
        if let Some((name, _)) = members.iter().find(|(_, load)| *load == 0) {
            return Err(DraftFault::NoLoad((*name).to_owned()));
        }
        let loads: Vec<u32> = members.iter().map(|(_, load)| *load).collect();
        let members: Vec<DraftMember> = members
            .iter()
            .zip(multipliers(&loads))
            .map(|((name, _), multiplier)| {
                let name = name.to_ascii_lowercase();
                DraftMember { hash: member_hash(&name), name, multiplier }
            })
            .collect();
        let mut names: Vec<&String> = members.iter().map(|member| &member.name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(DraftFault::DuplicateMember(pair[0].clone()));
        }
        Ok(Draft { members })
    }

    /// The members, in the order given.
    pub fn members(&self) -> &[DraftMember] {
        &self.members
    }

    /// Who owns a key.
    pub fn owner(&self, key: &[u8]) -> &DraftMember {
        let hash = key_hash(key);
        self.members
            .iter()
            .min_by(|a, b| better_first(hash, a, b))
            .expect("an array of the draft has a member")
    }

    /// Every member, best first: the second is the draft's second choice.
    pub fn rank(&self, key: &[u8]) -> Vec<&DraftMember> {
        let hash = key_hash(key);
        let mut members: Vec<&DraftMember> = self.members.iter().collect();
        members.sort_by(|a, b| better_first(hash, a, b));
        members
    }
}

fn better_first(key_hash: u32, a: &DraftMember, b: &DraftMember) -> Ordering {
    b.score(key_hash).total_cmp(&a.score(key_hash)).then_with(|| a.name.cmp(&b.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_keep_the_draft_s_laws() {
        for loads in [&[1u32, 2, 3][..], &[7, 1, 7, 30], &[1, u32::MAX], &[5; 9]] {
            let multipliers = multipliers(loads);
            let product: f64 = multipliers.iter().product();
            assert!((product - 1.0).abs() < 1e-9, "{loads:?}");
            for (load, x) in loads.iter().zip(&multipliers) {
                for (other_load, other_x) in loads.iter().zip(&multipliers) {
                    assert!(other_load < load || x <= other_x, "X falls while the load rises");
                }
            }
        }
    }

    #[test]
    fn multipliers_are_finite_for_the_largest_and_most_uneven_arrays() {
        let mut loads = vec![1; MEMBERS_MAX];
        loads[500] = u32::MAX;
        assert!(multipliers(&loads).iter().all(|x| x.is_finite() && 0.0 < *x));
    }

    #[test]
    fn shares_follow_the_load_factors() {
        let draft = Draft::new(&[("a.example", 1), ("b.example", 3)]).unwrap();
        let keys = (0..100_000u32).map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes());
        let heavy = keys.filter(|key| draft.owner(key).name == "b.example").count();
        assert!((70_000..80_000).contains(&heavy), "{heavy}");
    }

    #[test]
    fn faults_have_names() {
        assert_eq!(Draft::new(&[]), Err(DraftFault::NoMembers));
        assert_eq!(Draft::new(&[("a", 0)]), Err(DraftFault::NoLoad("a".into())));
        assert_eq!(
            Draft::new(&[("kv.Example", 1), ("KV.example", 1)]),
            Err(DraftFault::DuplicateMember("kv.example".into()))
        );
        let many = vec![("a", 1); MEMBERS_MAX + 1];
        assert_eq!(Draft::new(&many), Err(DraftFault::TooManyMembers));
    }

    #[test]
    fn member_names_are_taken_in_lower_case_and_keys_as_they_are() {
        assert_eq!(member_hash("Cluster-1"), member_hash("cluster-1"));
        assert_ne!(key_hash(b"A"), key_hash(b"a"));
    }
}
