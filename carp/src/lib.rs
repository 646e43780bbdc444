//! Which cluster owns a key, and what has to move when clusters come and go.
//!
//! CARP (Cache Array Routing Protocol, 1998) had one fine idea: hash key and member *together*, and the
//! highest hash owns the key. Everybody who knows the members finds the same owner without asking, and
//! when a member leaves only its own keys move. This crate holds the draft as it was written
//! ([`draft`]), and routes by a table that keeps the idea and mends what was weak: the hash, the
//! evenness, the arithmetic. Keys fall into 16,384 *slots*; each slot has an owner and an epoch; the
//! table is worked out once, with exact quotas and the fewest moves, and then stored and sent as data.
//!
//! ```
//! use carp::{Array, Change, Member, MemberId, Router};
//!
//! let member = |name: &str| {
//!     let url = format!("http://{name}.example:7001");
//!     Member::new(MemberId::new(name).expect("a name"), vec![url])
//! };
//! // One cluster owns all; a second one takes half of it, and nothing else moves.
//! let mut array = Array::new("kv", member("cluster-1"))?;
//! let plan = array.plan(Change::Add(member("cluster-2")))?;
//! assert_eq!(plan.moved(), 8192);
//! array.apply_plan(&plan)?;
//! assert_eq!((array.epoch().0, array.counts()), (2, vec![8192, 8192]));
//!
//! // A client has a copy of it, and asks it where each key belongs.
//! let router = Router::from_json(array.to_json().as_bytes())?;
//! assert_eq!(router.route(b"user:0000001").owner, &array.route(b"user:0000001").member.id);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The way of a key
//!
//! ```text
//! key -> slots (XXH64) -> slot -> array (table) -> member
//!                                   ^
//!        change -> plan (quotas, fewest moves) -> apply_plan: the next epoch
//!                                   |
//!                      json: stored, sent -> router (clients), corrected by redirects
//! ```
//!
//! - [`slots`]: key to slot, and how strongly each member wants a slot. Integers only.
//! - [`plan`]: quotas, and the fewest moves that meet them.
//! - [`mod@array`]: members, table and epoch, always valid.
//! - [`json`]: its text form, and every fault a text can have.
//! - [`ownership`]: which slots one cluster serves, as its own log knows it.
//! - [`router`]: the client's copy.
//! - [`spread`]: how even a load is.
//! - [`draft`]: CARP v1.0, bit for bit.
//!
//! Nothing here touches a file, a socket, a clock or a thread, and nothing knows what a cluster is made
//! of: clusters are names and weights. A copy of an array is a hint that costs one redirect when it is
//! wrong; whether a cluster serves a slot is decided by the [`Ownership`] in its own log.

pub mod array;
pub mod draft;
pub mod json;
pub mod ownership;
pub mod plan;
pub mod router;
pub mod slots;
pub mod spread;

pub use array::{Array, Epoch, Member, MemberId, MemberState, Route};
pub use json::ArrayFault;
pub use ownership::{Admit, MapRefused, Ownership};
pub use plan::{Change, Plan, PlanError};
pub use router::{Moved, Router};
pub use slots::{Slot, SlotBits};
