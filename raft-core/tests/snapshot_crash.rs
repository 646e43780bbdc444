//! Snapshot files: their bytes, what a crash at any point leaves, and that rot and lies are found.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::membership::{Member, Membership};
use raft_core::state_machine::PIECE_BYTES_MAX;
use raft_core::storage::disk::FileDisk;
use raft_core::storage::error::StorageError;
use raft_core::storage::snapshot::{Owner, PAGE_BYTES, ReceiveError, Snapshots};
use raft_core::storage::testdisk::{OpKind, TestDisk};
use raft_core::types::{ClusterId, Index, LogPosition, NodeId, Term};
use raft_core::write::SnapshotMeta;

const OWNER: Owner = Owner { cluster: ClusterId(0xc1), node: NodeId(0x11) };
const OTHER: Owner = Owner { cluster: ClusterId(0xc1), node: NodeId(0x22) };

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition::new(Index(index), Term(term))
}

fn voters(count: u64) -> Membership {
    let member =
        |id| Member { name: format!("node{id}"), address: format!("localhost:{}", 8000 + id) };
    Membership::of_voters((1..=count).map(|id| (NodeId(id), member(id))))
}

fn snapshots(disk: &TestDisk, owner: Owner) -> Snapshots {
    Snapshots::open(Arc::new(disk.clone()), owner).unwrap()
}

fn write(to: &Snapshots, position: LogPosition, pieces: &[&[u8]]) -> SnapshotMeta {
    try_write(to, position, pieces).unwrap()
}

fn try_write(
    to: &Snapshots,
    position: LogPosition,
    pieces: &[&[u8]],
) -> Result<SnapshotMeta, StorageError> {
    let mut writer = to.writer(position, &voters(3))?;
    for piece in pieces {
        writer.piece(piece)?;
    }
    writer.finish()
}

fn pieces(from: &Snapshots, position: LogPosition) -> Vec<Bytes> {
    let mut reader = from.reader(position).unwrap();
    let mut pieces = Vec::new();
    while let Some(piece) = reader.next_piece().unwrap() {
        pieces.push(piece);
    }
    assert_eq!(reader.next_piece().unwrap(), None, "the end stays the end");
    pieces
}

fn positions(of: &Snapshots) -> Vec<LogPosition> {
    of.list().unwrap().into_iter().map(|file| file.position).collect()
}

/// Sends `meta` in chunks; `wire` may change them on the way.
fn send(
    from: &Snapshots,
    to: &Snapshots,
    meta: &SnapshotMeta,
    chunk_bytes: u64,
    mut wire: impl FnMut(u64, Bytes) -> Bytes,
) -> Result<(), ReceiveError> {
    let mut offset = 0;
    while offset < meta.body_bytes {
        let length = chunk_bytes.min(meta.body_bytes - offset);
        let chunk = from.read_chunk(meta, offset, length).expect("the snapshot is there");
        to.receive_chunk(meta, offset, &wire(offset, chunk))?;
        offset += length;
    }
    to.finish_receive(meta).map(|file| assert_eq!(file.position, meta.position))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computed from the byte table by another program.
#[test]
fn the_bytes_of_a_snapshot_never_change() {
    let disk = TestDisk::new();
    let member = Member { name: "a".into(), address: "b:1".into() };
    let membership = Membership::of_voters([(NodeId(0x11), member)]);
    let mut writer = snapshots(&disk, OWNER).writer(at(5, 2), &membership).unwrap();
    writer.piece(b"abc").unwrap();
    writer.piece(b"d").unwrap();
    writer.finish().unwrap();

    let bytes = disk.contents("snap/5-2.snap").unwrap();
    let (header, body) = bytes.split_at(PAGE_BYTES);
    let end = header.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert_eq!(
        hex(&header[..end]),
        "52414654534e41500100000000100000c1000000000000001100000000000000\
         64000000b2410d8c050000000000000002000000000000000100000000000000\
         11000000000000000100000000000000610300000000000000623a3101000000\
         000000001100000000000000000000000000000000000000000000002c000000\
         00000000a7db9b14c30d3f5c"
    );
    assert_eq!(
        hex(body),
        "03000000335de16661626301000000ec7b9db164000000000e56c7bf02000000\
         0000000071932b94ce8046db"
    );
}

#[test]
fn pieces_come_back_as_they_were_given() {
    let (here, there) = (TestDisk::new(), TestDisk::new());
    let (from, to) = (snapshots(&here, OWNER), snapshots(&there, OTHER));
    let big = vec![7; PIECE_BYTES_MAX];
    let many: Vec<Vec<u8>> = (1..=300_u32).map(|n| n.to_le_bytes().repeat(n as usize)).collect();
    let mut given: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    given.extend([&big[..], b"x", &big[..]]);
    let meta = write(&from, at(5, 2), &given);
    assert_eq!(pieces(&from, at(5, 2)), given);
    assert_eq!(from.verify(at(5, 2)).unwrap(), meta);
    assert_eq!(from.meta(at(5, 2)).unwrap(), meta);

    // It travels as it is, and gets a header of the receiver's own.
    send(&from, &to, &meta, 100_000, |_, chunk| chunk).unwrap();
    assert_eq!(pieces(&to, at(5, 2)), given);
    assert_eq!(to.verify(at(5, 2)).unwrap(), meta);
    let (ours, theirs) = (here.contents("snap/5-2.snap"), there.contents("snap/5-2.snap"));
    assert_eq!(ours.unwrap()[PAGE_BYTES..], theirs.unwrap()[PAGE_BYTES..]);

    let empty = write(&from, at(6, 2), &[]);
    assert!(pieces(&from, at(6, 2)).is_empty());
    send(&from, &to, &empty, 5, |_, chunk| chunk).unwrap();
    assert!(pieces(&to, at(6, 2)).is_empty());
}

#[test]
fn a_large_membership_takes_more_pages() {
    let disk = TestDisk::new();
    let snapshots = snapshots(&disk, OWNER);
    let mut writer = snapshots.writer(at(5, 2), &voters(200)).unwrap();
    writer.piece(b"abc").unwrap();
    let meta = writer.finish().unwrap();
    assert_eq!(meta.membership, voters(200));
    assert_eq!(snapshots.verify(at(5, 2)).unwrap(), meta);
    let header = disk.contents("snap/5-2.snap").unwrap().len() as u64 - meta.body_bytes;
    assert!(header > PAGE_BYTES as u64 && header.is_multiple_of(PAGE_BYTES as u64));
}

#[test]
#[should_panic(expected = "a piece has 1 to")]
fn a_piece_that_is_too_large_is_the_state_machines_mistake() {
    let snapshots = snapshots(&TestDisk::new(), OWNER);
    let mut writer = snapshots.writer(at(5, 2), &voters(1)).unwrap();
    let _ = writer.piece(&vec![0; PIECE_BYTES_MAX + 1]);
}

/// pitfall 44: crash at each operation, with each part of the unsynced: a file that has its final
/// name is whole, what was reported is there, and the older snapshot is untouched.
#[test]
fn pitfall_44_a_crash_while_writing_leaves_all_or_nothing() {
    let old = TestDisk::new();
    let before = write(&snapshots(&old, OWNER), at(3, 1), &[b"old"]);
    let attempt = |disk: &TestDisk| -> Result<SnapshotMeta, StorageError> {
        let snapshots = Snapshots::open(Arc::new(disk.clone()), OWNER)?;
        let meta = try_write(&snapshots, at(5, 2), &[&[1; 700], &[2; 900]])?;
        Ok(meta)
    };
    crash_everywhere(&old, attempt, &before);
}

/// pitfall 44, the same for a snapshot that comes from the leader.
#[test]
fn pitfall_44_a_crash_while_receiving_leaves_all_or_nothing() {
    let leader = snapshots(&TestDisk::new(), OTHER);
    let sent = write(&leader, at(5, 2), &[&[1; 700], &[2; 900]]);
    let old = TestDisk::new();
    let before = write(&snapshots(&old, OWNER), at(3, 1), &[b"old"]);
    let attempt = |disk: &TestDisk| -> Result<SnapshotMeta, ReceiveError> {
        let snapshots = Snapshots::open(Arc::new(disk.clone()), OWNER)?;
        send(&leader, &snapshots, &sent, 1000, |_, chunk| chunk)?;
        Ok(sent.clone())
    };
    crash_everywhere(&old, attempt, &before);
}

fn crash_everywhere<E>(
    old: &TestDisk,
    attempt: impl Fn(&TestDisk) -> Result<SnapshotMeta, E>,
    before: &SnapshotMeta,
) {
    let whole = old.crash_losing_all();
    let expected = attempt(&whole).ok().expect("without a crash it succeeds");
    let mut images = 0;
    for last in 0..=whole.ops() {
        let disk = old.crash_losing_all();
        disk.stop_after(last);
        let finished = attempt(&disk).is_ok();
        for image in disk.crash_images() {
            images += 1;
            let found = snapshots(&image, OWNER);
            for file in found.list().unwrap() {
                let meta = found.verify(file.position).expect("a file with a name is whole");
                assert!(meta == expected || meta == *before);
            }
            assert!(positions(&found).contains(&before.position));
            assert!(!finished || positions(&found).contains(&expected.position));
            // The next start takes away what no mark names, and writes it again.
            found.remove_unmarked(&[before.position]).unwrap();
            assert_eq!(image.crash_losing_all().paths(), ["snap/3-1.snap"]);
            assert_eq!(attempt(&image).ok(), Some(expected.clone()));
        }
    }
    assert!(whole.ops() > 6 && images > 100, "{} operations, {images} images", whole.ops());
}

/// pitfall 47: each flipped bit is found when the file is verified, when it is read, and before the
/// first byte is sent to anybody.
#[test]
fn pitfall_47_every_flipped_bit_is_found() {
    let disk = TestDisk::new();
    let snapshots = snapshots(&disk, OWNER);
    let meta = write(&snapshots, at(5, 2), &[&[1; 300], b"x", &[2; 40]]);
    let bits = disk.contents("snap/5-2.snap").unwrap().len() as u64 * 8;
    for bit in 0..bits {
        disk.flip_bit("snap/5-2.snap", bit);
        let error = snapshots.verify(at(5, 2)).expect_err("it is not what was written");
        match &error {
            StorageError::Damage { file, offset, .. } => {
                assert!(file.ends_with("5-2.snap") && offset * 8 <= bits);
            }
            other => panic!("bit {bit}: {other}"),
        }
        assert_eq!(snapshots.read_chunk(&meta, 0, 10), None, "bit {bit}");
        disk.flip_bit("snap/5-2.snap", bit);
    }
    assert_eq!(snapshots.verify(at(5, 2)).unwrap(), meta);
    let len = bits / 8;
    for cut in (0..len).step_by(7) {
        let image = disk.crash_keeping_all();
        image.cut("snap/5-2.snap", cut);
        assert!(self::snapshots(&image, OWNER).verify(at(5, 2)).unwrap_err().is_damage());
    }
}

/// pitfall 47: a snapshot that was changed on its way is refused, nothing of it stays, and sending
/// it again heals.
#[test]
fn pitfall_47_a_received_snapshot_with_a_flipped_bit_is_refused_and_fetched_again() {
    let from = snapshots(&TestDisk::new(), OTHER);
    let meta = write(&from, at(5, 2), &[&[1; 60], b"x"]);
    for bit in 0..meta.body_bytes * 8 {
        let disk = TestDisk::new();
        let to = snapshots(&disk, OWNER);
        let flip = |offset: u64, chunk: Bytes| {
            let mut bytes = chunk.to_vec();
            if let Some(byte) = (bit / 8).checked_sub(offset).map(|at| at as usize)
                && byte < bytes.len()
            {
                bytes[byte] ^= 1 << (bit % 8);
            }
            bytes.into()
        };
        match send(&from, &to, &meta, 32, flip) {
            Err(ReceiveError::Refused(_)) => {}
            other => panic!("bit {bit}: {other:?}"),
        }
        assert!(disk.paths().is_empty(), "nothing stays: {:?}", disk.paths());
        send(&from, &to, &meta, 32, |_, chunk| chunk).unwrap();
        assert_eq!(to.verify(at(5, 2)).unwrap(), meta);
    }
}

/// A valid body under the name of another snapshot is refused too.
#[test]
fn a_body_that_belongs_to_another_meta_is_refused() {
    let from = snapshots(&TestDisk::new(), OTHER);
    let first = write(&from, at(5, 2), &[b"abc"]);
    let second = write(&from, at(6, 2), &[b"xyz"]);
    let to = snapshots(&TestDisk::new(), OWNER);
    let body = from.read_chunk(&first, 0, first.body_bytes).unwrap();
    to.receive_chunk(&second, 0, &body).unwrap();
    assert!(matches!(to.finish_receive(&second), Err(ReceiveError::Refused(_))));
    assert!(positions(&to).is_empty());
}

/// A piece longer than any may be is refused before it is read, though its CRC would hold.
#[test]
fn a_piece_that_is_too_large_is_refused_from_a_file() {
    let disk = TestDisk::new();
    let snapshots = snapshots(&disk, OWNER);
    write(&snapshots, at(5, 2), &[&[1; 100]]);
    let header = PAGE_BYTES as u64;
    disk.overwrite("snap/5-2.snap", header, &(PIECE_BYTES_MAX as u32 + 1).to_le_bytes());
    let error = snapshots.verify(at(5, 2)).unwrap_err();
    assert!(matches!(&error, StorageError::Damage { offset, .. } if *offset == header), "{error}");
    assert!(error.to_string().contains(&(PIECE_BYTES_MAX + 1).to_string()), "{error}");
}

#[test]
fn chunks_come_in_order_or_again_and_another_snapshot_begins_anew() {
    let from = snapshots(&TestDisk::new(), OTHER);
    let first = write(&from, at(5, 2), &[&[1; 100]]);
    let second = write(&from, at(9, 3), &[&[2; 200]]);
    let to = snapshots(&TestDisk::new(), OWNER);
    let chunk =
        |meta: &SnapshotMeta, offset, length| from.read_chunk(meta, offset, length).unwrap();

    let gap = to.receive_chunk(&first, 10, b"x").unwrap_err();
    assert!(matches!(gap, ReceiveError::Gap { expected: 0, found: 10 }));
    to.receive_chunk(&first, 0, &chunk(&first, 0, 50)).unwrap();
    let gap = to.receive_chunk(&first, 60, b"x").unwrap_err();
    assert!(matches!(gap, ReceiveError::Gap { expected: 50, found: 60 }));
    to.receive_chunk(&first, 20, &chunk(&first, 20, 30)).unwrap();
    to.receive_chunk(&first, 50, &chunk(&first, 50, 10)).unwrap();
    let early = to.finish_receive(&second);
    assert!(matches!(early, Err(ReceiveError::Refused(_))), "{early:?}");

    // A new snapshot throws away the half of the other; its own offset 0 must come first.
    let gap = to.receive_chunk(&second, 60, b"x").unwrap_err();
    assert!(matches!(gap, ReceiveError::Gap { expected: 0, found: 60 }));
    to.receive_chunk(&second, 0, &chunk(&second, 0, second.body_bytes)).unwrap();
    assert!(to.receive_chunk(&first, 60, b"x").is_err());
    let beyond = to.receive_chunk(&second, second.body_bytes, b"x").unwrap_err();
    assert!(matches!(beyond, ReceiveError::Refused(_)));
    let file = to.finish_receive(&second).unwrap();
    assert_eq!((file.position, file.path.as_str()), (at(9, 3), "snap/9-3.snap"));
    assert_eq!(to.finish_receive(&second).unwrap(), file, "finishing again is no mistake");
    assert!(to.finish_receive(&first).is_err());
    assert_eq!(positions(&to), [at(9, 3)]);

    // Not all bytes.
    to.receive_chunk(&first, 0, &chunk(&first, 0, 50)).unwrap();
    assert!(matches!(to.finish_receive(&first), Err(ReceiveError::Refused(_))));
    assert_eq!(positions(&to), [at(9, 3)]);
}

/// The rename was done, but not made durable: finishing again makes it so.
#[test]
fn finishing_again_after_a_failed_sync_of_the_folder_is_durable() {
    let from = snapshots(&TestDisk::new(), OTHER);
    let meta = write(&from, at(5, 2), &[b"abc"]);
    let disk = TestDisk::new();
    let to = snapshots(&disk, OWNER);
    to.receive_chunk(&meta, 0, &from.read_chunk(&meta, 0, meta.body_bytes).unwrap()).unwrap();
    disk.fail_nth(OpKind::SyncDir, 1);
    assert!(matches!(to.finish_receive(&meta), Err(ReceiveError::Storage(_))));
    to.finish_receive(&meta).unwrap();
    let image = disk.crash_losing_all();
    assert_eq!(snapshots(&image, OWNER).verify(at(5, 2)).unwrap(), meta);
}

#[test]
fn chunks_are_given_out_of_this_very_snapshot_only() {
    let disk = TestDisk::new();
    let snapshots = snapshots(&disk, OWNER);
    let meta = write(&snapshots, at(5, 2), &[&[1; 100]]);
    let end = meta.body_bytes;
    assert_eq!(snapshots.read_chunk(&meta, end - 3, 3).unwrap().len(), 3);
    assert_eq!(snapshots.read_chunk(&meta, end, 0).unwrap().len(), 0);
    for (offset, length) in [(end - 3, 4), (end + 1, 0), (u64::MAX, 2), (1, u64::MAX)] {
        assert_eq!(snapshots.read_chunk(&meta, offset, length), None);
    }
    let other = SnapshotMeta { digest: meta.digest ^ 1, ..meta.clone() };
    assert_eq!(snapshots.read_chunk(&other, 0, 1), None);
    assert_eq!(snapshots.read_chunk(&other, 1, 1), None);

    // An open reader outlives the file; chunks do not.
    let mut reader = snapshots.reader(at(5, 2)).unwrap();
    snapshots.remove(at(5, 2)).unwrap();
    assert_eq!(reader.next_piece().unwrap().unwrap(), [1; 100][..]);
    assert_eq!(snapshots.read_chunk(&meta, 1, 1), None);
}

#[test]
fn files_of_another_node_or_cluster_are_refused() {
    let disk = TestDisk::new();
    write(&snapshots(&disk, OWNER), at(5, 2), &[b"abc"]);
    let error = snapshots(&disk, OTHER).verify(at(5, 2)).unwrap_err();
    assert!(matches!(error, StorageError::ForeignNode { expected: NodeId(0x22), found, .. }
        if found == OWNER.node));
    let other = Owner { cluster: ClusterId(0xc2), ..OWNER };
    let error = snapshots(&disk, other).verify(at(5, 2)).unwrap_err();
    assert!(matches!(error, StorageError::ForeignCluster { found, .. } if found == OWNER.cluster));

    // Nor does a file count under another's name.
    let bytes = disk.contents("snap/5-2.snap").unwrap();
    disk.put("snap/9-2.snap", &bytes);
    assert!(snapshots(&disk, OWNER).verify(at(9, 2)).unwrap_err().is_damage());
}

#[test]
fn a_newer_format_is_refused_and_both_versions_are_named() {
    let disk = TestDisk::new();
    write(&snapshots(&disk, OWNER), at(5, 2), &[b"abc"]);
    let mut bytes = disk.contents("snap/5-2.snap").unwrap();
    bytes[8] = 2;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..36]);
    crc.update(&bytes[40..PAGE_BYTES]);
    bytes[36..40].copy_from_slice(&crc.finalize().to_le_bytes());
    disk.put("snap/5-2.snap", &bytes);
    let error = snapshots(&disk, OWNER).verify(at(5, 2)).unwrap_err();
    assert!(matches!(error, StorageError::NewerFormat { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn the_marked_are_kept_and_all_else_of_ours_is_removed() {
    let disk = TestDisk::new();
    let snapshots = snapshots(&disk, OWNER);
    for position in [at(10, 3), at(2, 1), at(9, 2), at(30, 3)] {
        write(&snapshots, position, &[b"abc"]);
    }
    disk.put("snap/own.tmp", b"half");
    disk.put("snap/notes.txt", b"not ours");
    assert_eq!(positions(&snapshots), [at(2, 1), at(9, 2), at(10, 3), at(30, 3)]);

    let removed = snapshots.remove_unmarked(&[at(9, 2), at(10, 3)]).unwrap();
    assert_eq!(removed, [at(2, 1), at(30, 3)]);
    let left = ["snap/10-3.snap", "snap/9-2.snap", "snap/notes.txt"];
    assert_eq!(disk.crash_losing_all().paths(), left);
}

#[test]
fn what_fails_or_is_given_up_leaves_nothing() {
    for kind in [OpKind::Create, OpKind::Write, OpKind::Sync, OpKind::Rename, OpKind::Read] {
        let disk = TestDisk::new();
        let snapshots = snapshots(&disk, OWNER);
        disk.fail_nth(kind, 1);
        let error = try_write(&snapshots, at(5, 2), &[b"abc"]).unwrap_err();
        assert!(matches!(error, StorageError::Io { .. }), "{kind:?}: {error}");
        assert!(disk.paths().is_empty(), "{kind:?}: {:?}", disk.paths());
        write(&snapshots, at(5, 2), &[b"abc"]);
    }
    let disk = TestDisk::new();
    let snapshots = snapshots(&disk, OWNER);
    disk.set_free(Some(100_000));
    let error = try_write(&snapshots, at(5, 2), &[&[1; 200_000]]).unwrap_err();
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
    drop(snapshots.writer(at(5, 2), &voters(1)).unwrap());
    assert!(disk.paths().is_empty());
    write(&snapshots, at(5, 2), &[&[1; 50_000]]);
}

#[test]
fn it_works_on_a_real_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(dir.path().join("data")).unwrap();
    let from = Snapshots::open(Arc::new(disk), OWNER).unwrap();
    let piece: Vec<u8> = (0..PIECE_BYTES_MAX).map(|n| n as u8).collect();
    let meta = write(&from, at(5, 2), &[&piece, b"x", &piece]);
    assert_eq!(pieces(&from, at(5, 2)), [&piece[..], b"x", &piece]);
    let to = snapshots(&TestDisk::new(), OTHER);
    send(&from, &to, &meta, 1 << 20, |_, chunk| chunk).unwrap();
    assert_eq!(to.verify(at(5, 2)).unwrap(), meta);
    assert_eq!(from.remove_unmarked(&[]).unwrap(), [at(5, 2)]);
}

#[test]
fn names_that_are_not_ours_are_passed_over() {
    let disk = TestDisk::new();
    let snapshots = snapshots(&disk, OWNER);
    for name in ["5-2", "5.snap", "-.snap", "05-2.snap", "5-2.snap.old", "+5-2.snap", "a-b.snap"] {
        disk.put(&format!("snap/{name}"), b"");
    }
    assert!(positions(&snapshots).is_empty());
    let names: BTreeMap<String, Option<Vec<u8>>> =
        disk.paths().into_iter().map(|path| (path.clone(), disk.contents(&path))).collect();
    snapshots.remove_unmarked(&[]).unwrap();
    assert_eq!(names.len(), disk.paths().len());
}
