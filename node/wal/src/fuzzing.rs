//! The entry for the fuzzer (`fuzz/`) and for the test that replays its corpus: any bytes as the only segment of a log.

use std::path::Path;
use std::sync::Arc;

use crate::{Drive, SimVfs, Wal, WalOptions};

/// Opens a log whose one segment file holds `bytes` and reads whatever it claims to hold. Panics on a bug only.
pub fn recover(bytes: &[u8]) {
    let dir = Path::new("/wal");
    let vfs = SimVfs::new(0);
    vfs.put(&dir.join("segment-00000001.wal"), bytes.to_vec());
    let options = || WalOptions {
        segment_bytes: 8 << 10,
        quota_bytes: 16 * (8 << 10),
        pool_segments_max: 6,
        drive: Drive::Manual,
        ..WalOptions::new(0xfeed_beef)
    };
    // What was opened once opens again and says the same.
    let mut last = None;
    for _ in 0..2 {
        let Ok((wal, _)) = Wal::open(Arc::new(vfs.clone()), dir, options()) else {
            assert!(last.is_none(), "opened once and then not");
            return;
        };
        let states: Vec<_> = wal
            .groups()
            .into_iter()
            .map(|group| (group, wal.state(group)))
            .collect();
        for (group, state) in &states {
            if let (Some(first), Some((end, _))) = (state.first, state.last) {
                for index in (first..=end).take(1000) {
                    // Errors are fine, wrong entries and panics are not.
                    for entry in wal.read(*group, index..index.saturating_add(1), 1).unwrap_or_default() {
                        assert_eq!(entry.index, index);
                    }
                }
            }
        }
        if let Some(last) = last.replace(states.clone()) {
            assert_eq!(last, states, "recovery changed what it had accepted");
        }
        wal.close();
    }
}
