//! Segments come and go: levels, pins, recycling, and quiet groups that must not hold anything up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::sync::atomic::Ordering::Relaxed;

use support::*;
use vivace_wal::sim_vfs::Crash;
use vivace_wal::{Drive, ErrorKind, GroupKey, Level, SimVfs, Wal, WalError, WalOptions};

/// 32 segments of 64 KiB, without threads.
fn small() -> WalOptions {
    WalOptions {
        drive: Drive::Manual,
        ..threaded()
    }
}

fn purge(wal: &Wal, group: u64, index: u64) {
    wal.purge_to(GroupKey(group), index, 1, payload(group, index, 1, 8), ignore())
        .unwrap();
    drain(wal);
}

#[test]
fn an_empty_log_takes_one_segment() {
    let vfs = SimVfs::new(1);
    let (wal, recovery) = open_ok(&vfs, small());
    assert!(recovery.created);
    append(&wal, 1, 0, 10);
    drain(&wal);
    assert_eq!(vfs.used_bytes(), 64 << 10);
    for index in 1..20 {
        append(&wal, 1, index, 1000);
        drain(&wal);
    }
    assert_eq!(vfs.used_bytes(), 7 * (64 << 10), "in use: one, and the pool");
}

#[test]
fn levels_rise_and_fall() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, small());
    let mut seen = vec![(0, wal.usage().level)];
    let mut index = 0;
    let mut admitted = 0;
    loop {
        if wal.admit(2000).is_ok() {
            admitted = index;
        }
        if let Err(error) = wal.append(GroupKey(1), vec![entry(1, index, 1, 2000)], ignore()) {
            assert_eq!(error.kind(), ErrorKind::Full);
            break;
        }
        drain(&wal);
        index += 1;
        let usage = wal.usage();
        if seen.last().unwrap().1 != usage.level {
            seen.push((usage.used * 100 / usage.quota, usage.level));
        }
    }
    assert_eq!(
        seen,
        [
            (0, Level::Normal),
            (69, Level::FlushAdvised),
            (81, Level::RejectWrites),
            (84, Level::ReservedOnly)
        ]
    );
    assert!(
        admitted < index - 1,
        "append takes more than admit promises: {admitted} of {index}"
    );
    let pins = wal.pinning_groups();
    assert_eq!((pins.len(), pins[0].group), (1, GroupKey(1)));
    assert!(pins[0].index < index / 3 && pins[0].bytes > 200_000, "{pins:?}");

    purge(&wal, 1, index - 1);
    append(&wal, 1, index, 10);
    drain(&wal);
    assert_eq!(wal.usage().level, Level::Normal);
    assert_eq!(wal.metrics().segments_live.load(Relaxed), 1);
    assert!(wal.metrics().segments_pool.load(Relaxed) >= 8);
}

/// What was let in finds room although the file system has none left, however much of it is still under way.
#[test]
fn room_is_kept_for_what_is_under_way() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, small());
    for index in 0..20 {
        append(&wal, 1, index, 1000);
        drain(&wal);
    }
    let segment = 64 << 10;
    assert_eq!(
        vfs.used_bytes(),
        7 * segment,
        "one in use, six spares, four of them held back"
    );
    let most = |wal: &Wal| {
        let admitted = |under_way: &usize| wal.admit_beside(100, *under_way).is_ok();
        (1..1000)
            .map(|thousands| thousands * 1000)
            .take_while(admitted)
            .last()
            .unwrap_or(0) as u64
    };
    // Without a limit the quota rules.
    assert!(most(&wal) > 900_000);
    // Two spares and the rest of the first segment, of which half may be wasted.
    vfs.set_capacity(Some(7 * segment));
    assert!((80_000..=92_000).contains(&most(&wal)), "{}", most(&wal));
    let refused = wal.admit_beside(100, 100_000).unwrap_err();
    assert!(matches!(refused, WalError::Full { disk_full: true, .. }), "{refused}");
    vfs.set_capacity(Some(9 * segment));
    assert!((145_000..=158_000).contains(&most(&wal)), "{}", most(&wal));
    vfs.set_capacity(Some(7 * segment));
    // All of it comes at once, in entries that waste as much as they can.
    let mut index = 20;
    let mut left = most(&wal);
    while left > 0 {
        let bytes = left.min(33_000);
        wal.append(GroupKey(1), vec![entry(1, index, 1, bytes as usize)], ignore())
            .unwrap();
        drain(&wal);
        (index, left) = (index + 1, left - bytes);
    }
}

/// One entry, one vote and one purge mark of quiet groups, then a hundred segments of others.
#[test]
fn quiet_groups_are_carried_forward() {
    let vfs = SimVfs::new(1);
    let (mut wal, _) = open_ok(&vfs, small());
    wal.save_vote(GroupKey(1), payload(1, 0, 7, 20), ignore()).unwrap();
    wal.save_committed(GroupKey(1), payload(1, 0, 8, 20)).unwrap();
    append(&wal, 2, 40, 60);
    append(&wal, 2, 41, 60);
    purge(&wal, 2, 40);
    let mut moved = 0;
    for index in 0..300 {
        append(&wal, 3, index, 20_000);
        drain(&wal);
        if index % 4 == 3 {
            purge(&wal, 3, index - 1);
        }
        if index % 50 == 49 {
            vfs.crash([Crash::DropUnsynced, Crash::Torn, Crash::KeepAll][index as usize / 50 % 3]);
            moved += wal.metrics().moved_bytes.load(Relaxed);
            let (reopened, recovery) = open_ok(&vfs, small());
            assert_eq!((&recovery.damage[..], &recovery.lost_promises[..]), (&[][..], &[][..]));
            wal = reopened;
        }
        assert!(wal.metrics().segments_live.load(Relaxed) <= 5, "{:?}", wal.usage());
    }
    let quiet = wal.state(GroupKey(1));
    assert_eq!(quiet.vote, Some(payload(1, 0, 7, 20)));
    assert_eq!(quiet.committed, Some(payload(1, 0, 8, 20)));
    assert_eq!(wal.state(GroupKey(2)).purged.unwrap().index, 40);
    assert_eq!(read_all(&wal, 2).unwrap(), [entry(2, 41, 1, 60)]);
    assert!(moved > 0);
    assert!(vfs.files().len() < 12, "segments are reused: {:?}", vfs.files());
}

/// A recycled segment is full of intact records of its former life.
#[test]
fn stale_bytes_of_a_former_life_are_not_records() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    for index in 0..100 {
        append(&wal, 1, index, 500);
        drain(&wal);
        purge(&wal, 1, index);
    }
    wal.drop_group(GroupKey(1), ignore()).unwrap();
    append(&wal, 2, 0, 40);
    drain(&wal);
    for how in [Crash::DropUnsynced, Crash::KeepAll] {
        vfs.crash(how);
        let (wal, recovery) = open_ok(&vfs, tiny());
        assert_eq!((&recovery.damage[..], recovery.torn_tail), (&[][..], None));
        assert_eq!(wal.groups(), [GroupKey(2)]);
        assert_eq!(read_all(&wal, 2).unwrap(), [entry(2, 0, 1, 40)]);
    }
}

/// A log may be reopened with other sizes: spares of the old size go, live segments stay until they are free.
#[test]
fn sizes_may_change() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    for index in 0..20 {
        append(&wal, 1, index, 2000);
        drain(&wal);
    }
    wal.close();
    let (wal, _) = open_ok(&vfs, threaded());
    assert_eq!(read_all(&wal, 1).unwrap().len(), 20);
    for index in 20..60 {
        append(&wal, 1, index, 9000);
    }
    wal.close();
    let (wal, _) = open_ok(&vfs, threaded());
    assert_eq!(read_all(&wal, 1).unwrap().len(), 60);
    wal.close();
    let (wal, recovery) = open_ok(&vfs, threaded());
    assert_eq!(recovery.damage, []);
    wal.close();
}

#[test]
fn cache_is_bounded_and_reads_come_from_disk_then() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    for index in 0..20 {
        append(&wal, 1, index, 1000);
    }
    drain(&wal);
    // Spoil the first segment: what is still cached reads fine, what is not is an error.
    let path = vfs
        .files()
        .into_iter()
        .find(|path| path.extension().is_some_and(|ext| ext == "wal"))
        .unwrap();
    vfs.flip_bit(&path, (4096 + 500) * 8);
    assert_eq!(wal.read(GroupKey(1), 0..1, 1).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(wal.read(GroupKey(1), 19..20, 1).unwrap().len(), 1);
}

/// With no spare left, a segment is reused in the same breath as it is freed, while the newest header on disk still
/// counts it among the live ones. Wherever the power goes: no damage.
#[test]
fn a_segment_may_be_reused_as_soon_as_it_is_free() {
    for seed in 0..200 {
        let vfs = SimVfs::new(seed);
        vfs.set_capacity(Some(3 * (8 << 10)));
        let options = || WalOptions {
            reserved_segments: 0,
            pool_segments: 2,
            batch_bytes_max: 64 << 10,
            ..tiny()
        };
        let (wal, _) = open_ok(&vfs, options());
        for index in 0..9 {
            append(&wal, 1, index, 1200);
            drain(&wal);
        }
        purge(&wal, 1, 8);
        vfs.crash_in(1 + seed % 5, Crash::Torn);
        for index in 9..13 {
            append(&wal, 1, index, 1200);
        }
        drain(&wal);
        assert!(vfs.is_dead());
        vfs.restart();
        let (wal, recovery) = open_ok(&vfs, options());
        assert_eq!(
            (&recovery.damage[..], &recovery.lost_promises[..]),
            (&[][..], &[][..]),
            "seed {seed}"
        );
        assert_eq!(wal.state(GroupKey(1)).purged.unwrap().index, 8, "seed {seed}");
        read_all(&wal, 1).unwrap();
    }
}
