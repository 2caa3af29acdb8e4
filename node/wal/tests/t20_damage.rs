//! Bad bytes: told apart from a torn tail, never read as an entry, never dropped without a word.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use support::*;
use vivace_wal::sim_vfs::Crash;
use vivace_wal::{ErrorKind, GroupKey, Recovery, SimVfs, Wal};

/// Three groups, some of everything, four segments; closed, so that a mark covers all of it.
fn sample() -> SimVfs {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    for round in 0..6 {
        for group in 1..=3 {
            append(&wal, group, round, 300 * group as usize);
            wal.save_vote(GroupKey(group), payload(group, round, 9, 24), ignore())
                .unwrap();
        }
        drain(&wal);
    }
    wal.truncate_after(GroupKey(1), Some(3), ignore()).unwrap();
    append(&wal, 1, 4, 64);
    wal.purge_to(GroupKey(2), 0, 1, payload(2, 0, 1, 16), ignore()).unwrap();
    wal.close();
    vfs
}

type Contents = BTreeMap<u64, Vec<vivace_wal::EntryRecord>>;

fn contents(wal: &Wal) -> Contents {
    wal.groups()
        .into_iter()
        .map(|group| (group.0, read_all(wal, group.0).unwrap()))
        .collect()
}

fn expected() -> (Contents, Vec<vivace_wal::GroupState>) {
    let (wal, recovery) = open_ok(&sample(), tiny());
    assert_eq!(
        recovery,
        Recovery {
            segments: 4,
            records: recovery.records,
            ..Recovery::default()
        }
    );
    (
        contents(&wal),
        (1..=3).map(|group| wal.state(GroupKey(group))).collect(),
    )
}

fn segments(vfs: &SimVfs) -> Vec<PathBuf> {
    vfs.files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "wal"))
        .collect()
}

/// Opens a damaged log and checks what must hold whatever the damage: no wrong entry, nothing missing in silence.
fn check_damaged(vfs: &SimVfs, expected: &(Contents, Vec<vivace_wal::GroupState>), what: &str) {
    let (wal, recovery) = match open(vfs, tiny()) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Foreign),
                "{what}: {error}"
            );
            return;
        }
    };
    for group in 1..=3u64 {
        let key = GroupKey(group);
        if recovery.lost_promises.iter().any(|lost| lost.group == key) {
            assert!(wal.state(key).lost_promise);
            assert_eq!(
                wal.read(key, 0..100, 1).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{what}"
            );
            continue;
        }
        if !recovery.damage.is_empty() && !wal.groups().contains(&key) {
            continue; // The damage is reported; of the group not even the name is left.
        }
        let found = wal.state(key);
        let wanted = &expected.1[group as usize - 1];
        assert_eq!(&found, wanted, "{what}: group {group}");
        for index in found.first.unwrap()..=found.last.unwrap().0 {
            match wal.read(key, index..index + 1, 1) {
                Ok(entries) => {
                    let wanted = expected.0[&group].iter().find(|entry| entry.index == index).unwrap();
                    assert_eq!(&entries[..], std::slice::from_ref(wanted), "{what}: group {group}");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}"),
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let vfs = sample();
    let expected = expected();
    for (number, path) in segments(&vfs).into_iter().enumerate() {
        let bits = vfs.contents(&path).unwrap().len() as u64 * 8;
        // A prime step samples every position of every field over the records; headers are taken whole.
        let header = (0..64 * 8).chain(2048 * 8..(2048 + 64) * 8);
        let records = (4096 * 8..bits).step_by(if number < 4 { 13 } else { 1009 });
        for bit in header.chain(records) {
            let copy = vfs.crashed_copy(0, Crash::DropUnsynced);
            copy.flip_bit(&path, bit);
            check_damaged(&copy, &expected, &format!("{} bit {bit}", path.display()));
        }
    }
}

#[test]
fn every_cut_of_any_segment_is_noticed() {
    let vfs = sample();
    let expected = expected();
    for path in segments(&vfs).iter().take(4) {
        for len in (0..8192).step_by(3) {
            let copy = vfs.crashed_copy(0, Crash::DropUnsynced);
            copy.cut(path, len);
            check_damaged(&copy, &expected, &format!("{} cut to {len}", path.display()));
        }
    }
}

/// What a crash leaves of the last batch: any part of it. All that was durable stays, nothing else appears.
#[test]
fn every_tear_of_the_last_batch_is_cut_off() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    for index in 0..3 {
        append(&wal, 1, index, 200);
        drain(&wal);
    }
    let durable = vfs.crashed_copy(0, Crash::DropUnsynced);
    let path = segments(&vfs).remove(0);
    let before = vfs.contents(&path).unwrap();
    for index in 3..6 {
        append(&wal, 1, index, 200);
    }
    drain(&wal);
    let after = vfs.contents(&path).unwrap();
    let from = before.iter().zip(&after).position(|(a, b)| a != b).unwrap();
    let to = before.len()
        - before
            .iter()
            .rev()
            .zip(after.iter().rev())
            .position(|(a, b)| a != b)
            .unwrap();
    let check = |bytes: Vec<u8>, what: &str| {
        let copy = durable.crashed_copy(0, Crash::DropUnsynced);
        copy.put(&path, bytes);
        // Twice, with an append in between, of a size (136 and a mark of 64) that ends where the second torn record
        // starts: what was cut off must not come back.
        let (wal, recovery) = open_ok(&copy, tiny());
        assert_eq!(
            (&recovery.damage[..], &recovery.lost_promises[..]),
            (&[][..], &[][..]),
            "{what}"
        );
        let last = wal.state(GroupKey(1)).last.unwrap().0;
        assert!(last >= 2, "{what}: a durable entry is gone");
        let found = read_all(&wal, 1).unwrap();
        append(&wal, 1, last + 1, 136);
        drain(&wal);
        copy.crash(Crash::DropUnsynced);
        let (wal, recovery) = open_ok(&copy, tiny());
        assert_eq!(
            (&recovery.damage[..], &recovery.lost_promises[..]),
            (&[][..], &[][..]),
            "{what}, again"
        );
        assert_eq!(wal.state(GroupKey(1)).last.unwrap().0, last + 1, "{what}, again");
        assert_eq!(read_all(&wal, 1).unwrap()[..last as usize + 1], found);
    };
    for at in from..=to {
        let prefix = [&after[..at], &before[at..]].concat();
        check(prefix, &format!("first bytes up to {at}"));
        let suffix = [&before[..at], &after[at..]].concat();
        check(suffix, &format!("last bytes from {at}"));
        let mut hole = after.clone();
        hole[at] ^= 0x40;
        check(hole, &format!("bad byte at {at}"));
    }
}

#[test]
fn bad_payload_below_the_mark_is_an_error_where_it_is_read() {
    let vfs = sample();
    let path = segments(&vfs).remove(0);
    // The first record is entry 0 of group 1.
    vfs.flip_bit(&path, (4096 + 64 + 10) * 8);
    let (wal, recovery) = open_ok(&vfs, tiny());
    assert_eq!(recovery.lost_promises, []);
    let error = wal.read(GroupKey(1), 0..1, 1000).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bad record of group 0x1, index 0, in segment 1 at offset 4096"
    );
    assert_eq!(wal.read(GroupKey(1), 1..3, 1000).unwrap().len(), 2);
    assert_eq!(
        wal.metrics().corrupt_reads.load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

/// The record numbers of each group tell whose record a hole swallowed.
#[test]
fn only_the_group_that_lost_a_record_loses_its_promise() {
    let vfs = sample();
    let path = segments(&vfs).remove(0);
    vfs.flip_bit(&path, (4096 + 20) * 8);
    let (wal, recovery) = open_ok(&vfs, tiny());
    let lost: Vec<u64> = recovery.lost_promises.iter().map(|lost| lost.group.0).collect();
    assert_eq!((lost, recovery.damage.len()), (vec![1], 1));
    assert_eq!(recovery.torn_tail, None);

    let refused = wal.append(GroupKey(1), vec![entry(1, 5, 1, 10)], ignore()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert_eq!(
        wal.save_vote(GroupKey(1), payload(1, 1, 1, 8), ignore())
            .unwrap_err()
            .kind(),
        ErrorKind::Corrupt
    );
    append(&wal, 2, 6, 10);
    assert_eq!(
        wal.salvage(GroupKey(1), 0..100, 10_000).unwrap().len(),
        4,
        "all but the lost one"
    );
    drain(&wal);

    // It stays so, whatever becomes of the segment, until the group is dropped.
    vfs.crash(Crash::DropUnsynced);
    let (wal, recovery) = open_ok(&vfs, tiny());
    assert_eq!(recovery.lost_promises.len(), 1);
    wal.drop_group(GroupKey(1), ignore()).unwrap();
    append(&wal, 1, 70, 10);
    wal.close();
    let (wal, recovery) = open_ok(&vfs, tiny());
    assert_eq!(recovery.lost_promises, []);
    assert_eq!(wal.state(GroupKey(1)).first, Some(70));
}

#[test]
fn a_missing_segment_costs_every_group_that_cannot_prove_otherwise() {
    let vfs = sample();
    let path = segments(&vfs).remove(1);
    vivace_wal::Vfs::remove(&vfs, &path).unwrap();
    let (_, recovery) = open_ok(&vfs, tiny());
    assert_eq!(recovery.lost_promises.len(), 3);
    assert_eq!(recovery.damage.len(), 1);
    assert_eq!(recovery.damage[0].path, None);
}
