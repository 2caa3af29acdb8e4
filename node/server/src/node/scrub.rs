//! The log's sealed segments are read again every `wal.scrub_interval`, at `wal.scrub_rate`, to find bytes that rotted
//! while their spans are still in memory.
//!
//! Owns [`DamagedLog`], which says what the last passes found. What follows from damage:
//! - it is logged once per place, counted (`vivace_wal_damaged_places`), and said at `/status` until a pass finds the
//!   place sound, or the segment was freed;
//! - every shard that is led here cuts what it has ([`DamagedLog::wants_cut`]): in memory is what the log may not give
//!   back, and once it is in blocks the segment is freed.
//!
//! Nothing stops: what is acknowledged is served from memory, and what cannot be read back after a restart is for recovery
//! and the other nodes. Not here: telling damage from what is not ours to judge ([`wal::Scrub`]).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use wal::{DamagedPlace, Scrub, Wal};

use crate::app::Common;

/// Read at once; the disk is left alone between two of these.
const STEP_BYTES: u64 = 1 << 20;
/// Places that are kept; what is beyond is damaged all the same.
const PLACES_MAX: usize = 1000;
const NOTICE: &str = "log";

/// What is known of damage in the log.
#[derive(Debug, Default)]
pub(super) struct DamagedLog {
    places: Mutex<BTreeSet<DamagedPlace>>,
    /// Monotonic time of the last discovery, in nanoseconds; 0: there was none.
    found_at: AtomicU64,
}

impl DamagedLog {
    /// How many places are damaged.
    pub(super) fn places(&self) -> usize {
        self.places.lock().len()
    }

    /// Whether spans that wait in the log since then should be in a block soon.
    pub(super) fn wants_cut(&self, since: Duration) -> bool {
        let found_at = self.found_at.load(Ordering::Relaxed);
        found_at > 0 && since <= Duration::from_nanos(found_at)
    }

    fn found(&self, place: DamagedPlace, now: Duration) {
        {
            let mut places = self.places.lock();
            if places.len() >= PLACES_MAX || !places.insert(place) {
                return;
            }
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.found_at.store(now.max(1), Ordering::Relaxed);
        tracing::error!(
            segment = place.segment,
            offset = place.offset,
            "the log is damaged on disk; what it holds is made into blocks now. Check the disk"
        );
    }

    /// Ends a pass that found these places, and no others.
    fn settle(&self, found: &BTreeSet<DamagedPlace>) {
        self.places.lock().retain(|place| found.contains(place));
    }

    fn notice(&self) -> Option<String> {
        let places = self.places.lock();
        let first = places.first()?;
        Some(format!(
            "damaged on disk at {} places, the first in segment {} at offset {}: what it holds is made into blocks; if it is \
             not done before the node restarts, spans that no other node has are lost. Check the disk",
            places.len(),
            first.segment,
            first.offset
        ))
    }
}

/// Runs until stopped.
pub(super) async fn run(common: Common, wal: Wal, damaged: Arc<DamagedLog>, stop: CancellationToken) {
    let settings = &common.settings.wal;
    let (interval, rate) = (settings.scrub_interval.duration(), settings.scrub_rate.bytes());
    if interval.is_zero() {
        return;
    }
    let (mut scrub, mut found, mut pause) = (Scrub::default(), BTreeSet::new(), interval);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let (log, mut at) = (wal.clone(), scrub);
        let step = tokio::task::spawn_blocking(move || {
            let step = log.scrub(&mut at, STEP_BYTES as usize);
            (at, step)
        });
        let Ok((at, step)) = step.await else { return };
        scrub = at;
        pause = Duration::from_secs_f64(step.bytes as f64 / rate as f64);
        for place in step.damage {
            damaged.found(place, common.clock.monotonic());
            if found.len() < PLACES_MAX {
                found.insert(place);
            }
        }
        if step.is_over {
            damaged.settle(&found);
            found.clear();
            pause = interval;
        }
        common.notices.set(NOTICE, damaged.notice());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_known_until_a_pass_does_not_find_it() {
        let log = DamagedLog::default();
        assert_eq!(log.notice(), None);
        assert!(!log.wants_cut(Duration::ZERO));
        let at = |offset| DamagedPlace { segment: 7, offset };
        log.found(at(64), Duration::from_secs(5));
        log.found(at(32), Duration::from_secs(9));
        // Found again: no news.
        log.found(at(64), Duration::from_secs(20));
        assert!(
            log.notice()
                .unwrap()
                .starts_with("damaged on disk at 2 places, the first in segment 7 at offset 32:")
        );
        for (since, expected) in [(8, true), (9, true), (10, false)] {
            assert_eq!(log.wants_cut(Duration::from_secs(since)), expected, "{since}");
        }
        log.settle(&BTreeSet::from([at(64), at(65)]));
        assert_eq!(log.places(), 1);
        log.settle(&BTreeSet::new());
        assert_eq!((log.places(), log.notice()), (0, None));
    }

    #[test]
    fn so_many_places_are_kept() {
        let log = DamagedLog::default();
        for offset in 0..PLACES_MAX as u32 + 1 {
            assert_eq!(log.places(), offset as usize);
            log.found(DamagedPlace { segment: 1, offset }, Duration::from_secs(1));
        }
        assert_eq!(log.places(), PLACES_MAX);
    }
}
