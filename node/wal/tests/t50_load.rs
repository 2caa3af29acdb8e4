//! Real threads, many groups, and the power going at any moment: what was acknowledged is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use support::*;
use vivace_wal::sim_vfs::Crash;
use vivace_wal::{ErrorKind, GroupKey, RealVfs, SimVfs, Wal};

const GROUPS: u64 = 8;

/// Each group has one client that appends and, now and then, purges; `acknowledged` is one more than the last index
/// whose completion came, `purging` the highest index a purge was asked for.
#[derive(Default)]
struct Client {
    acknowledged: Arc<AtomicU64>,
    purging: AtomicU64,
}

/// Ends the clients whatever ends the check.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn run_client(wal: &Wal, group: u64, client: &Client, stop: &AtomicBool, index_max: u64) {
    let key = GroupKey(group);
    let mut index = 1;
    while !stop.load(SeqCst) && index < index_max {
        let count = 1 + index % 3;
        let entries = (index..index + count).map(|index| entry(group, index, 1, 100 + (index * 37 % 3000) as usize));
        let acknowledged = Arc::clone(&client.acknowledged);
        let last = index + count;
        let done: vivace_wal::Completion = Box::new(move |result| {
            result.unwrap();
            assert!(acknowledged.swap(last, SeqCst) < last, "completions out of order");
        });
        match wal.append(key, entries.collect(), done) {
            Ok(()) => index = last,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        if index % 7 == 0 || wal.admit(1).is_err() {
            let purge = client.acknowledged.load(SeqCst).saturating_sub(2 + group);
            client.purging.fetch_max(purge, SeqCst);
            wal.purge_to(key, purge, 1, payload(group, purge, 1, 8), ignore())
                .unwrap();
        }
        // Readers go on meanwhile; entries they get are right.
        let from = client.acknowledged.load(SeqCst).saturating_sub(4);
        for read in wal.read(key, from..from + 3, 5000).unwrap() {
            assert_eq!(read, entry(group, read.index, 1, read.payload.len()));
        }
    }
}

#[test]
fn acknowledged_entries_survive_any_crash() {
    let vfs = SimVfs::new(3);
    let (wal, _) = open_ok(&vfs, threaded());
    let clients: Vec<Client> = (0..GROUPS).map(|_| Client::default()).collect();
    let stop = AtomicBool::new(false);
    let checked = std::thread::scope(|scope| {
        for (group, client) in clients.iter().enumerate() {
            let (wal, stop) = (wal.clone(), &stop);
            scope.spawn(move || run_client(&wal, group as u64, client, stop, u64::MAX));
        }
        let _stop_on_panic = StopOnDrop(&stop);
        let mut checked = 0;
        for seed in 0..120 {
            std::thread::sleep(std::time::Duration::from_millis(seed % 5));
            let acknowledged: Vec<u64> = clients.iter().map(|client| client.acknowledged.load(SeqCst)).collect();
            let copy = vfs.crashed_copy(
                seed,
                if seed % 3 == 0 {
                    Crash::DropUnsynced
                } else {
                    Crash::Torn
                },
            );
            let purging: Vec<u64> = clients.iter().map(|client| client.purging.load(SeqCst)).collect();
            let (found, recovery) = open_ok(&copy, threaded());
            assert_eq!(
                (&recovery.damage[..], &recovery.lost_promises[..]),
                (&[][..], &[][..]),
                "seed {seed}"
            );
            for group in 0..GROUPS {
                let end = acknowledged[group as usize];
                let state = found.state(GroupKey(group));
                let last = state
                    .last
                    .map(|(index, _)| index)
                    .or(state.purged.map(|mark| mark.index))
                    .unwrap_or(0);
                assert!(
                    last + 1 >= end,
                    "seed {seed}: group {group} ends at {last}, acknowledged below {end}"
                );
                for entry_found in read_all(&found, group).unwrap() {
                    let index = entry_found.index;
                    assert_eq!(entry_found, entry(group, index, 1, 100 + (index * 37 % 3000) as usize));
                }
                if let Some(first) = state.first {
                    assert!(
                        first <= purging[group as usize] + 1,
                        "seed {seed}: group {group} starts at {first}"
                    );
                }
                checked += end;
            }
        }
        checked
    });
    assert!(checked > 1000, "the clients got somewhere: {checked}");
    wal.close();
}

#[test]
fn real_files_under_load_and_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let clients: Vec<Client> = (0..4).map(|_| Client::default()).collect();
    let (wal, _) = Wal::open(Arc::new(RealVfs), dir.path(), threaded()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (group, client) in clients.iter().enumerate() {
            let (wal, stop) = (wal.clone(), &stop);
            scope.spawn(move || run_client(&wal, group as u64, client, stop, 400));
        }
    });
    wal.close();
    let (wal, recovery) = Wal::open(Arc::new(RealVfs), dir.path(), threaded()).unwrap();
    assert_eq!(recovery.damage, []);
    for (group, client) in clients.iter().enumerate() {
        assert_eq!(
            wal.state(GroupKey(group as u64)).last.unwrap().0 + 1,
            client.acknowledged.load(SeqCst)
        );
        read_all(&wal, group as u64).unwrap();
    }
    wal.close();
}

/// The queue is bounded: callers wait instead of filling memory.
#[test]
fn queue_is_bounded() {
    let vfs = SimVfs::new(1);
    let options = vivace_wal::WalOptions {
        queue_bytes_max: 20_000,
        ..threaded()
    };
    let (wal, _) = open_ok(&vfs, options);
    for index in 0..200 {
        append(&wal, 1, index, 4000);
        let queued = wal.metrics().queue_bytes.load(SeqCst);
        assert!(queued <= 20_000, "{queued}");
        if index % 10 == 9 {
            wal.purge_to(GroupKey(1), index, 1, payload(1, 0, 0, 8), ignore())
                .unwrap();
        }
    }
    wal.close();
}
