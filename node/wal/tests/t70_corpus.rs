//! The corpus of the fuzz target (`fuzz/corpus`), replayed and mutated.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

#[path = "../../fuzz/replay.rs"]
mod replay;

use support::{append, drain, ignore, open_ok, payload, tiny};
use vivace_wal::{GroupKey, SimVfs, Vfs};

/// The segments of a log that has some of everything.
fn segments() -> Vec<Vec<u8>> {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    for round in 0..6 {
        for group in 1..=3 {
            append(&wal, group, round, 300 * group as usize);
            let vote = payload(group, round, 9, 24);
            wal.save_vote(GroupKey(group), vote, ignore()).unwrap();
        }
        drain(&wal);
    }
    wal.truncate_after(GroupKey(1), Some(3), ignore()).unwrap();
    append(&wal, 1, 4, 64);
    wal.purge_to(GroupKey(2), 0, 1, payload(2, 0, 1, 16), ignore()).unwrap();
    wal.close();
    let files = vfs.list(support::dir()).unwrap();
    let segments = files
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "wal"));
    segments.map(|path| vfs.contents(path).unwrap()).collect()
}

#[test]
fn recover() {
    replay::replay("recover", vivace_wal::fuzzing::recover, 2_000, || {
        let mut seeds: Vec<Vec<u8>> = segments().into_iter().take(2).collect();
        seeds.push(Vec::new());
        seeds
    });
}
