//! Logs written by released versions open for ever. The files in `testdata` are never written again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::path::{Path, PathBuf};

use support::*;
use vivace_wal::{GroupKey, Recovery, SimVfs, Wal};

fn testdata(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(version)
}

/// The calls that made `v1`.
fn write_v1(vfs: &SimVfs) {
    let (wal, _) = open_ok(vfs, tiny());
    for index in 10..14 {
        append(&wal, 1, index, 900);
        append(&wal, 2, index, 33);
        drain(&wal);
    }
    wal.save_vote(GroupKey(1), payload(1, 0, 5, 17), ignore()).unwrap();
    wal.save_committed(GroupKey(1), payload(1, 13, 5, 9)).unwrap();
    wal.purge_to(GroupKey(1), 11, 1, payload(1, 11, 1, 12), ignore())
        .unwrap();
    wal.truncate_after(GroupKey(2), Some(11), ignore()).unwrap();
    wal.append(GroupKey(2), vec![entry(2, 12, 6, 40)], ignore()).unwrap();
    append(&wal, 3, 0, 10);
    wal.drop_group(GroupKey(3), ignore()).unwrap();
    wal.append(
        GroupKey(u64::MAX),
        vec![entry(u64::MAX, u64::MAX - 1, u64::MAX, 0)],
        ignore(),
    )
    .unwrap();
    wal.close();
}

fn check_v1(wal: &Wal) {
    let one = wal.state(GroupKey(1));
    assert_eq!(one.vote, Some(payload(1, 0, 5, 17)));
    assert_eq!(one.committed, Some(payload(1, 13, 5, 9)));
    assert_eq!(
        one.purged.map(|mark| (mark.index, mark.term, mark.payload)),
        Some((11, 1, payload(1, 11, 1, 12)))
    );
    assert_eq!(read_all(wal, 1).unwrap(), [entry(1, 12, 1, 900), entry(1, 13, 1, 900)]);
    assert_eq!(
        read_all(wal, 2).unwrap(),
        [entry(2, 10, 1, 33), entry(2, 11, 1, 33), entry(2, 12, 6, 40)],
        "13 was truncated"
    );
    let last = u64::MAX - 1;
    assert_eq!(wal.term_at(GroupKey(u64::MAX), last), Some(u64::MAX));
    assert_eq!(wal.groups(), [GroupKey(1), GroupKey(2), GroupKey(u64::MAX)]);
}

/// Copies the files onto a simulated disk: the test must not change them.
fn copy_of(version: &str) -> SimVfs {
    let vfs = SimVfs::new(1);
    for file in std::fs::read_dir(testdata(version)).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        // The files are kept without the zeros at their end.
        bytes.resize(8 << 10, 0);
        vfs.put(&dir().join(path.file_name().unwrap()), bytes);
    }
    vfs
}

#[test]
fn version_1_opens() {
    let vfs = copy_of("v1");
    let (wal, recovery) = open_ok(&vfs, tiny());
    assert_eq!(
        recovery,
        Recovery {
            segments: 2,
            records: recovery.records,
            ..Recovery::default()
        }
    );
    check_v1(&wal);
    append(&wal, 1, 14, 900);
    wal.close();
    let (wal, _) = open_ok(&vfs, tiny());
    assert_eq!(wal.state(GroupKey(1)).last, Some((14, 1)));
}

/// While version 1 is what we write, the bytes are these and no others.
#[test]
fn version_1_is_written_byte_by_byte() {
    let vfs = SimVfs::new(1);
    write_v1(&vfs);
    for path in vfs
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "wal"))
    {
        let mut bytes = vfs.contents(&path).unwrap();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        let frozen = testdata("v1").join(path.file_name().unwrap());
        if std::env::var_os("WAL_FREEZE").is_some() {
            // For the first file of a new version only.
            std::fs::write(&frozen, &bytes).unwrap();
        }
        assert!(std::fs::read(&frozen).unwrap() == bytes, "{} differs", frozen.display());
    }
}
