//! Values as bytes, for the log and for the wire; the only file that knows bincode.
//!
//! It turns foreign bytes into sound values or into [`Malformed`] with a reason; it never panics on
//! them, never takes much more memory than they have bytes ([`HEAD_BYTES_MAX`] for a moment), and
//! knows nothing of files or sockets.
//!
//! bincode is set to its plainest form, little-endian integers of fixed width: lengths are u64,
//! variants are u32 in the order they stand here, an option is one byte and a value. A head is at
//! most [`HEAD_BYTES_MAX`] long. Payloads never pass through bincode: they follow their head as
//! they are, so that log, wire and state machine share one buffer.
//!
//! ```text
//! payload of an entry     kind u8 | bytes
//!   1 noop                none
//!   2 command             the command
//!   3 membership          bincode of Membership
//! ```

mod frame;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::frame::{FRAME_BYTES_MAX, FrameDecoder, encode_frame};
use crate::membership::Membership;
use crate::state_machine::Malformed;
use crate::types::{Index, LogPosition, Payload, Term};
use crate::write::SnapshotMeta;

/// Most bytes that bincode reads as one value: heads and memberships, never payloads.
pub const HEAD_BYTES_MAX: usize = 16 << 20;

/// Room for most heads: a heartbeat has 104 bytes.
const HEAD_BYTES_USUAL: usize = 128;

/// No cluster reaches a later term, and no log a higher index: a step each nanosecond for 292 years.
/// Whatever says that it has is malformed, so that one step more never overflows.
const REACHED_MAX: u64 = u64::MAX / 2;

const KIND_NOOP: u8 = 1;
const KIND_COMMAND: u8 = 2;
const KIND_MEMBERSHIP: u8 = 3;

const PLAIN: Configuration<LittleEndian, Fixint, Limit<HEAD_BYTES_MAX>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<HEAD_BYTES_MAX>();

/// An entry's payload as its kind and its bytes. A command is shared, not copied.
pub fn encode_payload(payload: &Payload) -> (u8, Bytes) {
    match payload {
        Payload::Noop => (KIND_NOOP, Bytes::new()),
        Payload::Command(command) => (KIND_COMMAND, command.clone()),
        Payload::Membership(membership) => (KIND_MEMBERSHIP, plain_bytes(membership).into()),
    }
}

/// The payload of this kind that these bytes are. A command keeps `bytes` as it is: hand in a
/// buffer of its own, since a slice pins the whole buffer it is cut from.
pub fn decode_payload(kind: u8, bytes: Bytes) -> Result<Payload, Malformed> {
    match kind {
        KIND_NOOP if bytes.is_empty() => Ok(Payload::Noop),
        KIND_NOOP => Err(Malformed::new(format!("a noop with {} payload bytes", bytes.len()))),
        KIND_COMMAND => Ok(Payload::Command(bytes)),
        KIND_MEMBERSHIP => {
            let membership: Membership = plain_value(&bytes, "a membership")?;
            Ok(Payload::Membership(sound(membership)?))
        }
        _ => Err(Malformed::new(format!("payload kind {kind}: known are 1, 2 and 3"))),
    }
}

/// What is known of a snapshot, as bytes: for its mark in the log and for its file's header.
pub fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    plain_bytes(meta).into()
}

/// The reverse of [`encode_snapshot_meta`]; the position is above 0 and the membership sound.
pub fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, Malformed> {
    sound_meta(plain_value(bytes, "a snapshot's meta")?)
}

fn plain_bytes<T: Serialize>(value: &T) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES_USUAL);
    put_plain(value, &mut bytes);
    bytes
}

/// Appends a value; how many bytes it has.
fn put_plain<T: Serialize>(value: &T, out: &mut BytesMut) -> usize {
    let len = bincode::serde::encode_into_std_write(value, &mut out.writer(), PLAIN)
        .expect("our own types into memory: no length is unknown, no writer fails");
    assert!(len <= HEAD_BYTES_MAX, "a head of {len} bytes");
    len
}

fn plain_value<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Malformed> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, PLAIN)
        .map_err(|error| Malformed::new(format!("{what} that cannot be read: {error}")))?;
    if used < bytes.len() {
        return Err(Malformed::new(format!("{what} with {} bytes after it", bytes.len() - used)));
    }
    Ok(value)
}

fn sound(membership: Membership) -> Result<Membership, Malformed> {
    if membership.is_sound() {
        return Ok(membership);
    }
    Err(Malformed::new(format!("a membership that cannot be: {membership}")))
}

fn sound_meta(meta: SnapshotMeta) -> Result<SnapshotMeta, Malformed> {
    if meta.position.index == Index::ZERO {
        return Err(Malformed::new("a snapshot of nothing"));
    }
    sound_position("the snapshot", meta.position)?;
    let membership = sound(meta.membership)?;
    Ok(SnapshotMeta { membership, ..meta })
}

/// Index 0 and term 0 go together: terms begin with the first election, entries with 1.
fn sound_position(what: &str, position: LogPosition) -> Result<LogPosition, Malformed> {
    if REACHED_MAX < position.index.0 {
        return Err(Malformed::new(format!("{what} at {position}, which no log reaches")));
    }
    if (position.index == Index::ZERO) == (position.term == Term(0)) {
        return Ok(position);
    }
    Err(Malformed::new(format!("{what} at {position}: only 0@0 has a zero")))
}
