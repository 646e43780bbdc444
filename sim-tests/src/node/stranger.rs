//! What a node of another cluster sends to an address that was given to it too.
//!
//! Half of it is of another version of the program: the frames are whole and their checksums hold,
//! but what is in them says something else or nothing at all. The codec has to refuse that, and what
//! it lets through is still of another cluster.

use bytes::{BufMut, BytesMut};
use raft_core::codec::encode_frame;
use raft_core::message::{Body, Message};
use raft_core::types::{ClusterId, Term};

use crate::rng::Rng;

/// Where a frame's checksum is, and what it says of the head's length.
const CRC_AT: usize = 4;
const HEAD_LEN_AT: usize = 8;
const HEAD_AT: usize = 12;

/// What a node of another cluster would send in this place: in a later term.
pub(super) fn twin(cluster: ClusterId, message: &Message, rng: &mut Rng) -> BytesMut {
    let mut message = Message { term: Term(message.term.0 + 7), ..message.clone() };
    let is_odd = rng.coin();
    if is_odd && rng.coin() {
        contradict(&mut message, rng);
    }
    let mut frame = BytesMut::new();
    encode_frame(ClusterId(!cluster.0), &message, &mut frame);
    if is_odd {
        garble(&mut frame, rng);
    }
    frame
}

/// Each part can be read, and together they make no sense.
fn contradict(message: &mut Message, rng: &mut Rng) {
    match &mut message.body {
        Body::InstallSnapshot { meta, offset, .. } => *offset += meta.body_bytes + 1,
        Body::Append { prev, .. } if rng.coin() => prev.term = Term(u64::MAX),
        _ if rng.coin() => message.term = Term(0),
        _ => message.to = message.from,
    }
}

/// The bytes are others, and the checksum is theirs.
fn garble(frame: &mut BytesMut, rng: &mut Rng) {
    match rng.below(5) {
        0 => frame.put_bytes(7, 3),
        1 => frame.truncate(HEAD_AT + rng.below((frame.len() - HEAD_AT) as u64) as usize),
        2 => frame[HEAD_LEN_AT..HEAD_AT].copy_from_slice(&(rng.bits() as u32).to_le_bytes()),
        3 => {
            let at = rng.range(HEAD_AT as u64..frame.len() as u64) as usize;
            frame[at] = rng.bits() as u8;
        }
        // Only what it says is odd.
        _ => {}
    }
    let len = (frame.len() - HEAD_LEN_AT) as u32;
    frame[..CRC_AT].copy_from_slice(&len.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..CRC_AT]);
    crc.update(&frame[HEAD_LEN_AT..]);
    frame[CRC_AT..HEAD_LEN_AT].copy_from_slice(&crc.finalize().to_le_bytes());
}

#[cfg(test)]
mod tests {
    use raft_core::codec::{FRAME_BYTES_MAX, FrameDecoder};
    use raft_core::types::{Entry, Index, LogPosition, NodeId, Payload};

    use super::*;

    /// Whatever it says, it is refused or seen to be of another cluster; and both happen.
    #[test]
    fn a_stranger_is_never_taken_for_one_of_us() {
        let ours = ClusterId(0x1234_5678_9abc_def0);
        let at = |index| LogPosition::new(Index(index), Term(2));
        let entries = vec![Entry { position: at(6), payload: Payload::Noop }];
        let body = Body::Append { prev: at(5), entries, commit: Index(5) };
        let message = Message { from: NodeId(1), to: NodeId(2), term: Term(2), id: 9, body };
        let (mut refused, mut foreign) = (0, 0);
        let mut rng = Rng::stream(1, "stranger", 0);
        for _ in 0..2_000 {
            let mut frame = twin(ours, &message, &mut rng);
            match FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut frame) {
                Ok(Some((cluster, _))) => {
                    assert_ne!(cluster, ours, "taken for one of us");
                    foreign += 1;
                }
                Ok(None) => panic!("the frame says that more follows"),
                Err(_) => refused += 1,
            }
        }
        assert!(300 < refused && 1_000 < foreign, "{refused} refused, {foreign} foreign");
    }
}
