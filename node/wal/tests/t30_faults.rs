//! Disks that fail, fill up, or belong to somebody else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use support::*;
use vivace_wal::sim_vfs::Crash;
use vivace_wal::{Drive, ErrorKind, GroupKey, Level, RealVfs, SimVfs, Space, Vfs, Wal, WalError, WalOptions};

#[test]
fn first_failed_sync_is_the_last_and_the_owner_hears_first() {
    for break_it in [SimVfs::fail_sync, SimVfs::fail_write] {
        let vfs = SimVfs::new(1);
        let order = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&order);
        let options = WalOptions {
            on_fatal: Box::new(move |error| {
                assert_eq!(error.kind(), ErrorKind::Fatal);
                told.compare_exchange(0, 1, SeqCst, SeqCst).unwrap();
            }),
            ..threaded()
        };
        let (wal, _) = open_ok(&vfs, options);
        break_it(&vfs, 1);
        let (done, answer) = waiter();
        let order_of_answer = Arc::clone(&order);
        let done: vivace_wal::Completion = Box::new(move |result| {
            assert_eq!(order_of_answer.swap(2, SeqCst), 1, "the hook comes first");
            done(result);
        });
        wal.append(GroupKey(1), vec![entry(1, 1, 1, 100)], done).unwrap();
        assert_eq!(answer.recv().unwrap().unwrap_err().kind(), ErrorKind::Fatal);
        let operations = vfs.operations();
        assert_eq!(
            wal.save_vote(GroupKey(1), payload(1, 0, 0, 8), ignore())
                .unwrap_err()
                .kind(),
            ErrorKind::Fatal
        );
        assert_eq!(wal.admit(1).unwrap_err().kind(), ErrorKind::Fatal);
        wal.close();
        assert_eq!(vfs.operations(), operations, "nothing is written after the failure");
    }
}

/// After a failed sync the kernel shows bytes that are not on the disk and calls them clean. Whatever a restarted
/// process finds, and perhaps votes by, must be there after the power goes too.
#[test]
fn what_is_recovered_after_a_failed_sync_is_durable() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    append(&wal, 1, 1, 100);
    drain(&wal);
    append(&wal, 1, 2, 2000);
    vfs.fail_sync(1);
    drain(&wal);
    vfs.crash(Crash::KeepAll);
    let (wal, _) = open_ok(&vfs, tiny());
    let last = wal.state(GroupKey(1)).last;
    assert_eq!(last, Some((2, 1)));
    vfs.crash(Crash::DropUnsynced);
    let (wal, recovery) = open_ok(&vfs, tiny());
    assert_eq!((wal.state(GroupKey(1)).last, &recovery.damage[..]), (last, &[][..]));
}

/// Full disk: entries are refused, votes and purges go on, space comes back by itself.
#[test]
fn full_disk_refuses_and_recovers() {
    for drive in [Drive::Manual, Drive::Threads] {
        let vfs = SimVfs::new(1);
        let (wal, _) = open_ok(&vfs, WalOptions { drive, ..threaded() });
        let segment = 64 << 10;
        vfs.set_capacity(Some(10 * segment + 1000));
        let mut index = 0;
        let mut admitted = 0;
        let full = loop {
            if wal.admit(4000).is_ok() {
                admitted += 1;
            }
            match wal.append(GroupKey(1), vec![entry(1, index, 1, 4000)], ignore()) {
                Ok(()) => index += 1,
                Err(error) => break error,
            }
            if drive == Drive::Manual {
                drain(&wal);
            }
        };
        assert!(matches!(full, WalError::Full { disk_full: true, .. }), "{full}");
        assert_eq!(wal.admit(1).unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(wal.usage().level, Level::ReservedOnly);
        if drive == Drive::Manual {
            // (With threads the pool has to notice first, which takes longer than these segments take to fill.)
            assert!(
                index >= admitted + 15,
                "what was admitted had a segment of room left: {admitted} of {index}"
            );
        }

        // Raft goes on: four whole segments are left for it.
        for vote in 0..1500 {
            wal.save_vote(GroupKey(2), payload(2, vote, 0, 60), ignore()).unwrap();
            if drive == Drive::Manual {
                drain(&wal);
            }
        }
        wal.append_with(GroupKey(3), vec![entry(3, 0, 1, 100)], Space::Reserved, ignore())
            .unwrap();

        // Purging frees segments although the disk is as full as before.
        let (done, answer) = waiter();
        wal.purge_to(GroupKey(1), index - 1, 1, payload(1, 0, 0, 8), done)
            .unwrap();
        if drive == Drive::Manual {
            drain(&wal);
        }
        answer.recv().unwrap().unwrap();
        wait_until(&wal, |wal| wal.admit(4000).is_ok());
        append(&wal, 1, index, 4000);

        // And so does room on the disk, without any call.
        let mut index = index + 1;
        while wal
            .append(GroupKey(1), vec![entry(1, index, 1, 4000)], ignore())
            .is_ok()
        {
            index += 1;
            if drive == Drive::Manual {
                drain(&wal);
            }
        }
        vfs.set_capacity(None);
        if drive == Drive::Threads {
            wait_until(&wal, |wal| wal.admit(4000).is_ok());
        }
        append(&wal, 1, index, 4000);
        wal.close();
        let (wal, recovery) = open_ok(&vfs, tiny());
        assert_eq!(recovery.damage, []);
        assert_eq!(wal.state(GroupKey(1)).last, Some((index, 1)));
        assert_eq!(wal.state(GroupKey(2)).vote, Some(payload(2, 1499, 0, 60)));
    }
}

fn wait_until(wal: &Wal, ready: impl Fn(&Wal) -> bool) {
    for _ in 0..2000 {
        if ready(wal) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain: {:?}", wal.usage());
}

#[test]
fn refused_append_leaves_nothing_behind() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    append(&wal, 1, 0, 10);
    vfs.set_capacity(Some(vfs.used_bytes()));
    let entries: Vec<_> = (1..40).map(|index| entry(1, index, 1, 1000)).collect();
    let (done, answer) = waiter();
    assert_eq!(
        wal.append(GroupKey(1), entries, done).unwrap_err().kind(),
        ErrorKind::Full
    );
    assert!(answer.recv().is_err(), "the completion is dropped, not called");
    assert_eq!(wal.state(GroupKey(1)).last, Some((0, 1)));
    append(&wal, 1, 1, 10);
    wal.close();
}

#[test]
fn rejects_what_breaks_the_contract() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    let key = GroupKey(1);
    append(&wal, 1, 5, 10);
    for (first, second) in [(5, 6), (7, 8), (6, 8)] {
        let entries = vec![entry(1, first, 1, 10), entry(1, second, 1, 10)];
        assert_eq!(
            wal.append(key, entries, ignore()).unwrap_err().kind(),
            ErrorKind::Rejected
        );
    }
    let huge = vec![entry(1, 6, 1, 9000)];
    assert!(matches!(
        wal.append(key, huge, ignore()),
        Err(WalError::TooLarge { max: 4032, .. })
    ));
    append(&wal, 1, 6, 4032);
    wal.purge_to(key, 9, 3, payload(1, 9, 3, 4), ignore()).unwrap();
    assert_eq!((wal.state(key).first, wal.term_at(key, 9)), (None, Some(3)));
    assert!(matches!(
        wal.append(key, vec![entry(1, 9, 3, 10)], ignore()),
        Err(WalError::NotContiguous { expected: 10, .. })
    ));
    append(&wal, 1, 10, 10);
    assert_eq!(wal.read(key, 0..100, 0).unwrap(), [entry(1, 10, 1, 10)]);
    assert_eq!(wal.read(GroupKey(2), 0..100, 0).unwrap(), []);
    wal.close();
}

#[test]
fn completions_come_in_order_also_for_calls_that_write_nothing() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, threaded());
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = |number: u64| -> vivace_wal::Completion {
        let sender = sender.clone();
        Box::new(move |result| sender.send(result.map(|()| number)).unwrap())
    };
    for round in 0..50 {
        let key = GroupKey(round % 3);
        wal.append(key, vec![entry(key.0, round / 3, 1, 700)], done(round * 5))
            .unwrap();
        wal.append(key, Vec::new(), done(round * 5 + 1)).unwrap();
        wal.truncate_after(key, Some(1000), done(round * 5 + 2)).unwrap();
        wal.drop_group(GroupKey(99), done(round * 5 + 3)).unwrap();
        wal.save_vote(key, payload(0, 0, 0, 9), done(round * 5 + 4)).unwrap();
    }
    wal.close();
    let order: Vec<u64> = receiver.try_iter().map(Result::unwrap).collect();
    assert_eq!(order, (0..250).collect::<Vec<_>>());
}

#[test]
fn directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let real = tiny;
    let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
    let (wal, recovery) = Wal::open(Arc::clone(&vfs), dir.path(), real()).unwrap();
    assert!(recovery.created);
    append(&wal, 1, 1, 10);
    let error = Wal::open(Arc::clone(&vfs), dir.path(), real()).unwrap_err();
    assert!(matches!(error, WalError::Locked { .. }), "{error}");
    // Also when somebody tidied up: the folder is locked, not only a file in it.
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    let error = Wal::open(Arc::clone(&vfs), dir.path(), real()).unwrap_err();
    assert!(matches!(error, WalError::Locked { .. }), "{error}");
    let other_handle = wal.clone();
    wal.close();
    assert_eq!(
        other_handle
            .append(GroupKey(1), Vec::new(), ignore())
            .unwrap_err()
            .kind(),
        ErrorKind::Fatal
    );
    let (wal, _) = Wal::open(vfs, dir.path(), real()).unwrap();
    assert_eq!(read_all(&wal, 1).unwrap(), [entry(1, 1, 1, 10)]);
}

#[test]
fn foreign_directories_are_left_alone() {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    append(&wal, 1, 1, 10);
    wal.close();
    let files = vfs.files();
    let before: Vec<_> = files.iter().map(|path| vfs.contents(path)).collect();
    let operations = vfs.operations();

    let error = open(
        &vfs,
        WalOptions {
            incarnation: 5,
            ..tiny()
        },
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            WalError::OtherIncarnation {
                found: INCARNATION,
                expected: 5,
                ..
            }
        ),
        "{error}"
    );

    let copy = vfs.crashed_copy(0, Crash::DropUnsynced);
    copy.put(&dir().join("segment-00000009.wal"), b"somebody's diary".repeat(600));
    let error = open(&copy, tiny()).unwrap_err();
    assert!(matches!(error, WalError::NotOurs { .. }), "{error}");

    let mut newer = vfs.contents(&files[0]).unwrap();
    for at in [0, 2048] {
        newer[at + 8] = 2;
        newer[at + 12..at + 16].fill(0);
        let crc = crc_fast::crc32_iscsi(&newer[at..at + 64]);
        newer[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
    }
    let copy = vfs.crashed_copy(0, Crash::DropUnsynced);
    copy.put(&files[0], newer);
    let error = open(&copy, tiny()).unwrap_err();
    assert!(
        matches!(
            error,
            WalError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );

    assert_eq!(vfs.operations(), operations);
    assert_eq!(copy.operations(), operations);
    assert_eq!(files.iter().map(|path| vfs.contents(path)).collect::<Vec<_>>(), before);
}

#[test]
fn bad_options_are_refused() {
    for options in [
        WalOptions {
            segment_bytes: 5000,
            ..tiny()
        },
        WalOptions {
            pool_segments: 5,
            ..tiny()
        },
        WalOptions {
            pool_segments_max: 5,
            ..tiny()
        },
        WalOptions {
            quota_bytes: 7 * (8 << 10),
            ..tiny()
        },
    ] {
        assert_eq!(open(&SimVfs::new(1), options).unwrap_err().kind(), ErrorKind::Rejected);
    }
}
