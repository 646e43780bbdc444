use proptest::prelude::*;
use raft_core::state_machine::{Malformed, PIECE_BYTES_MAX, Restore, SnapshotSource, StateMachine};
use raft_core::types::{Index, LogPosition, Term};
use twox_hash::XxHash64;

use super::command::any_command;
use super::*;
use crate::kv::shared::SharedStore;
use crate::kv::snapshot::PIECE_BYTES;

fn at(index: usize) -> LogPosition {
    LogPosition::new(Index(index as u64), Term(1))
}

fn pieces(mut source: Box<dyn SnapshotSource>) -> Vec<Bytes> {
    std::iter::from_fn(|| source.next_piece()).collect()
}

fn restore(store: &mut SharedStore, pieces: &[Bytes]) -> Result<(), Malformed> {
    store.restore(Restore::Begin)?;
    for piece in pieces {
        store.restore(Restore::Piece(piece.clone()))?;
    }
    store.restore(Restore::End)
}

fn store_of(requests: &[Request]) -> SharedStore {
    let mut store = SharedStore::new();
    for (n, request) in requests.iter().enumerate() {
        store.apply(at(n + 1), &encoded(request));
    }
    store
}

fn has(store: &SharedStore, key: &[u8]) -> bool {
    store.get(key).unwrap().0.is_some()
}

/// A snapshot may be read years after it was written: these bytes must never change.
#[test]
fn a_snapshot_has_these_bytes() {
    let store = store_of(&[put("b", "xy"), put("a", ""), put("b", "z")]);
    let header = b"\x02\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0";
    let a = b"\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\0a";
    let b = b"\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x01\0bz";
    let whole = [&header[..], a, b].concat();
    assert_eq!(store.view().digest(), XxHash64::oneshot(0, &whole));
    assert_eq!(pieces(store.snapshot()), [whole]);
}

#[test]
fn an_empty_store_has_a_snapshot_too() {
    let mut other = store_of(&[put("a", "1")]);
    let empty = pieces(SharedStore::new().snapshot());
    assert_eq!(empty.len(), 1);
    restore(&mut other, &empty).unwrap();
    assert_eq!((other.view().keys(), other.revision(), other.view().bytes()), (0, 0, 0));
}

/// Values above, at and around the size of a piece are cut, and no piece is too large.
#[test]
fn large_values_are_cut_into_pieces_and_joined_again() {
    let sizes = [
        1,
        PIECE_BYTES - 48 - 31,
        PIECE_BYTES - 1,
        PIECE_BYTES,
        PIECE_BYTES + 1,
        3 * PIECE_BYTES + 7,
        0,
        2,
    ];
    let mut store = SharedStore::new();
    for (n, size) in sizes.into_iter().enumerate() {
        let value: Vec<u8> = (0..size).map(|at| (at * 31 + n) as u8).collect();
        let request = Request::Put {
            key: bytes(&format!("{n}")),
            value: value.into(),
            condition: Condition::default(),
        };
        store.apply(at(n + 1), &encoded(&request));
    }
    let pieces = pieces(store.snapshot());
    assert!(pieces.iter().all(|piece| (1..=PIECE_BYTES).contains(&piece.len())));
    assert!(6 < pieces.len());
    let mut restored = SharedStore::new();
    restore(&mut restored, &pieces).unwrap();
    assert!(restored.view() == store.view());
}

/// The view that is written is the one that was taken, while the store goes on.
#[test]
fn a_snapshot_is_of_the_moment_it_was_taken() {
    let mut store = store_of(&[put("a", "1"), put("b", "2")]);
    let before = store.view();
    let source = store.snapshot();
    store.apply(at(3), &encoded(&delete("a")));
    let mut restored = SharedStore::new();
    restore(&mut restored, &pieces(source)).unwrap();
    assert!(restored.view() == before);
}

/// Readers see the old state until the last piece is in, and then the new one.
#[test]
fn readers_see_the_old_store_until_the_end() {
    let pieces = pieces(store_of(&[put("new", "1")]).snapshot());
    let mut store = store_of(&[put("old", "1"), put("old", "2")]);
    let reader = store.clone();
    store.restore(Restore::Begin).unwrap();
    store.restore(Restore::Piece(pieces[0].clone())).unwrap();
    assert!(has(&reader, b"old") && !has(&reader, b"new"));
    store.restore(Restore::End).unwrap();
    assert!(!has(&reader, b"old") && has(&reader, b"new"));
    assert_eq!(reader.revision(), 1);
}

#[test]
fn what_is_no_snapshot_is_refused_and_leaves_the_store_alone() {
    let good = pieces(store_of(&[put("a", "xy"), put("b", "z")]).snapshot()).remove(0);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        vec![Bytes::from(bytes)]
    };
    let too_large = Bytes::from(vec![1; PIECE_BYTES_MAX + 1]);
    let second = 21 + 30 + 3;
    let cases: Vec<(&str, Vec<Bytes>, &str)> = vec![
        ("nothing", vec![], "it ends after 0 of 0 records"),
        ("an empty piece", vec![Bytes::new()], "a piece of 0 bytes"),
        ("a piece too large", vec![too_large], "a piece of 1048577 bytes"),
        ("another version", with(0, 3), "version 3, only 2 is known"),
        ("no ownership", with(17, 2), "what is owned: "),
        ("a huge ownership", with(20, 1), "16777216 bytes of what is owned"),
        ("one record too few", with(9, 3), "it ends after 2 of 3 records"),
        ("one record too many", with(9, 1), "bytes after the last record"),
        ("the same piece twice", vec![good.clone(); 2], "bytes after the last record"),
        ("a key out of order", with(second + 30, b'a'), "key \"a\" is out of order"),
        ("an empty key", with(21 + 28, 0), "key of 0, value of 2 bytes"),
        ("a long key", with(21 + 29, 0x11), "key of 4353, value of 2 bytes"),
        ("a huge value", with(21 + 27, 0xff), "key of 1, value of 4278190082 bytes"),
        ("never created", with(21, 0), "a record created at 0"),
        ("created after its change", with(21, 2), "created at 2, changed at 1"),
        ("changed in the future", with(21 + 8, 9), "changed at 9, written 1 times in a store at 2"),
        ("never written", with(21 + 16, 0), "written 0 times"),
    ];
    for (what, pieces, why) in cases {
        let mut store = store_of(&[put("mine", "1")]);
        let before = store.view();
        let refused = restore(&mut store, &pieces).expect_err(what);
        assert!(refused.0.contains(why), "{what}: {refused}");
        // Also when someone goes on after a refusal, half a store never becomes the store.
        assert!(store.restore(Restore::End).is_err(), "{what}: believed after all");
        assert!(store.view() == before, "{what}: the store changed");
        // And the next good one is taken.
        restore(&mut store, std::slice::from_ref(&good)).unwrap();
        assert_eq!(store.view().keys(), 2);
    }
}

#[test]
fn every_cut_of_a_snapshot_is_refused() {
    let good = pieces(store_of(&[put("a", "xy"), put("b", "")]).snapshot()).remove(0);
    for len in 1..good.len() {
        let mut store = SharedStore::new();
        restore(&mut store, &[good.slice(..len)]).expect_err("half a snapshot");
    }
}

#[test]
fn pieces_belong_between_beginning_and_end() {
    let mut store = SharedStore::new();
    store.restore(Restore::Piece(bytes("x"))).expect_err("a piece before the beginning");
    store.restore(Restore::End).expect_err("an end before the beginning");
}

/// A restored record holds its value and nothing else: no piece, and no spare room.
#[test]
fn restored_values_own_exactly_their_bytes() {
    // Below these a buffer cannot say whether it is shared; see `raft_core::buffer`.
    let sizes = [600, PIECE_BYTES + 1, 2 * PIECE_BYTES + 12_345];
    for size in sizes {
        let pieces = pieces(store_of(&[put("k", &"v".repeat(size))]).snapshot());
        let mut store = SharedStore::new();
        restore(&mut store, &pieces).unwrap();
        let value = store.get(b"k").unwrap().0.unwrap().value;
        drop(store);
        let owned = value.try_into_mut().expect("nobody else holds it");
        assert_eq!((owned.len(), owned.capacity()), (size, size));
    }
    let piece = pieces(store_of(&[put("a", "xy"), put("b", "z")]).snapshot()).remove(0);
    let mut store = SharedStore::new();
    restore(&mut store, std::slice::from_ref(&piece)).unwrap();
    assert!(piece.is_unique());
}

proptest! {
    /// snapshot(i) + log = log, wherever the snapshot is taken and however its bytes are cut.
    #[test]
    fn a_snapshot_and_the_rest_of_the_log_are_the_log(
        commands in prop::collection::vec(any_command(), 0..30),
        taken_after in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let taken_after = taken_after.index(commands.len() + 1);
        let mut whole = SharedStore::new();
        let mut source = None;
        for (n, command) in commands.iter().enumerate() {
            if n == taken_after {
                source = Some(whole.snapshot());
            }
            whole.apply(at(n + 1), &command.encode());
        }
        let source = source.unwrap_or_else(|| whole.snapshot());
        let bytes = Bytes::from(pieces(source).concat());

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let parts: Vec<Bytes> = cuts.windows(2).map(|ends| bytes.slice(ends[0]..ends[1])).collect();

        let mut restored = SharedStore::new();
        restore(&mut restored, &parts).unwrap();
        for (n, command) in commands.iter().enumerate().skip(taken_after) {
            restored.apply(at(n + 1), &command.encode());
        }
        let (restored, whole) = (restored.view(), whole.view());
        prop_assert_eq!(restored.digest(), whole.digest());
        prop_assert!(restored == whole);
    }

    /// No damage makes it fall over, and none grows a store larger than what came in.
    #[test]
    fn damaged_snapshots_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let good = pieces(store_of(&[put("a", "xy"), put("b", "z"), put("c", "")]).snapshot());
        let mut damaged = good[0].to_vec();
        for (at, flip) in flips {
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
        }
        let mut store = SharedStore::new();
        if restore(&mut store, &[Bytes::from(damaged.clone())]).is_ok() {
            prop_assert_eq!(&pieces(store.snapshot()).concat(), &damaged, "believed something else");
        }
    }
}
