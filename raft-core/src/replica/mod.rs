//! Floor 3, *joins*: the core, the state machine, and the clients that wait.

mod work;

pub use work::{Input, OrderId, PieceRequest, SnapshotOrder, SnapshotRefused, Work};
