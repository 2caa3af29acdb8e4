//! Recognises a batch that was sent twice: a client that lost our answer sends the same bytes again.
//!
//! The set is part of the shard's replicated state: it is changed only by applying log entries, and its clock is the time
//! stamped into them, so every replica forgets the same hashes at the same entry.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashSet;
use model::LogIndex;

/// How long a batch is remembered: the Collector gives up retrying after five minutes by default.
pub const WINDOW: Duration = Duration::from_secs(300);

/// Batches remembered at most. At this number the oldest are forgotten early, which `dedup_evicted` counts; 64 bytes each
/// on the heap make 16 MiB per shard, and 900 batches per second fit the whole window.
pub const BATCHES_MAX: usize = 256 * 1024;

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Hash of tenant and decompressed request.
    pub hash: u128,
    /// Time stamped into the entry that stored it.
    pub stamped_unix_nanos: u64,
    /// The entry that stored it.
    pub index: LogIndex,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Dedup {
    set: HashSet<u128>,
    order: VecDeque<Seen>,
    evicted: u64,
}

impl Dedup {
    /// Rebuilds the set from a snapshot.
    pub fn from_seen(seen: impl IntoIterator<Item = Seen>) -> Self {
        let order: VecDeque<_> = seen.into_iter().collect();
        Self {
            set: order.iter().map(|seen| seen.hash).collect(),
            order,
            evicted: 0,
        }
    }

    /// Takes note of a batch; says whether it is new.
    pub fn insert(&mut self, batch: Seen) -> bool {
        let window = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        let oldest = batch.stamped_unix_nanos.saturating_sub(window);
        while self.order.front().is_some_and(|seen| seen.stamped_unix_nanos < oldest) {
            self.forget_oldest();
        }
        if !self.set.insert(batch.hash) {
            return false;
        }
        self.order.push_back(batch);
        if self.order.len() > BATCHES_MAX {
            self.forget_oldest();
            self.evicted += 1;
        }
        true
    }

    fn forget_oldest(&mut self) {
        if let Some(seen) = self.order.pop_front() {
            self.set.remove(&seen.hash);
        }
    }

    /// Whether the batch is known.
    pub fn contains(&self, hash: u128) -> bool {
        self.set.contains(&hash)
    }

    /// What a snapshot at `index` must carry.
    pub fn up_to(&self, index: LogIndex) -> impl Iterator<Item = Seen> + '_ {
        self.order.iter().copied().take_while(move |seen| seen.index <= index)
    }

    /// Batches forgotten before their time because there were too many.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(hash: u128, seconds: u64, index: u64) -> Seen {
        Seen {
            hash,
            stamped_unix_nanos: seconds * 1_000_000_000,
            index: LogIndex(index),
        }
    }

    #[test]
    fn a_batch_is_known_for_five_minutes_of_log_time() {
        let mut dedup = Dedup::default();
        assert!(dedup.insert(seen(1, 1000, 1)));
        assert!(!dedup.insert(seen(1, 1299, 2)));
        assert!(!dedup.insert(seen(1, 1300, 3)));
        assert!(dedup.insert(seen(1, 1301, 4)));
    }

    #[test]
    fn the_number_of_batches_is_bounded() {
        let mut dedup = Dedup::default();
        for n in 0..=BATCHES_MAX as u64 {
            assert!(dedup.insert(seen(u128::from(n), 1000, n)));
        }
        assert_eq!((dedup.order.len(), dedup.evicted()), (BATCHES_MAX, 1));
        assert!(!dedup.contains(0) && dedup.contains(1));
    }

    #[test]
    fn a_snapshot_may_describe_an_older_state() {
        let mut dedup = Dedup::default();
        for n in 1..=5 {
            dedup.insert(seen(u128::from(n), 1000, n));
        }
        let mut restored = Dedup::from_seen(dedup.up_to(LogIndex(3)));
        assert!(!restored.insert(seen(3, 1001, 6)));
        assert!(restored.insert(seen(4, 1001, 7)));
    }
}
