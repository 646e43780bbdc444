//! What a user of the library writes: the state that the log drives.
//!
//! Three methods. Replicas that apply the same commands in the same order must come to the same
//! state, so `apply` never looks at a clock, a random source or the outside world, and it cannot
//! fail: "the comparison did not hold" is a reply, a broken disk stops the node elsewhere.

use std::error::Error;
use std::fmt;

use bytes::Bytes;

use crate::types::LogPosition;

/// The largest piece a [`SnapshotSource`] may hand out: 1 MiB and a bit, so that reading, writing
/// and sending one is never a long pause. A larger single value is cut by the state machine.
pub const PIECE_BYTES_MAX: usize = 1 << 20;

/// The replicated state.
pub trait StateMachine: Send + 'static {
    /// What the proposer of a command gets back.
    type Reply: Send + 'static;

    /// Carries out one committed command. `at` is unique to it and grows.
    fn apply(&mut self, at: LogPosition, command: &Bytes) -> Self::Reply;

    /// A frozen view of everything applied so far. Called in a node's pass, so it has to return
    /// at once (share structure, do not copy); the pieces are taken on another thread.
    fn snapshot(&self) -> Box<dyn SnapshotSource>;

    /// Replaces the state by that of a snapshot, piece by piece in the order they were given out.
    /// After [`Restore::End`] the state is exactly what it was when the snapshot was taken. If the
    /// process dies before that, the next start begins again with [`Restore::Begin`].
    fn restore(&mut self, step: Restore) -> Result<(), Malformed>;
}

/// Gives out a snapshot in pieces of 1 to [`PIECE_BYTES_MAX`] bytes; `None` is the end.
pub trait SnapshotSource: Send {
    /// The next piece.
    fn next_piece(&mut self) -> Option<Bytes>;
}

/// Pieces that are at hand already, or made one by one.
impl<I: Iterator<Item = Bytes> + Send> SnapshotSource for I {
    fn next_piece(&mut self) -> Option<Bytes> {
        self.next()
    }
}

/// One step of putting a snapshot back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restore {
    /// A snapshot begins: forget the pieces of any other.
    Begin,
    /// The next piece, just as [`SnapshotSource::next_piece`] gave it out.
    Piece(Bytes),
    /// That was the last piece: this is the state now.
    End,
}

/// Bytes that are not what they should be. The text says what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl Malformed {
    /// With this explanation.
    pub fn new(text: impl Into<String>) -> Malformed {
        Malformed(text.into())
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Malformed {}
