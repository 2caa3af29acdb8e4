//! Blocks whose merge failed rest before they are tried again: each time twice as long.

use std::collections::HashMap;
use std::time::Duration;

use model::BlockId;

/// The first rest: about the time a busy object store asks for.
const REST_MIN: Duration = Duration::from_secs(30);
/// The longest. A damaged block is looked at once an hour, in case somebody has repaired it.
pub(super) const REST_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Duration,
    length: Duration,
}

/// See the module's documentation. Times are monotonic.
#[derive(Debug, Default)]
pub(super) struct Resting {
    blocks: HashMap<BlockId, Rest>,
}

impl Resting {
    pub(super) fn contains(&self, id: BlockId, now: Duration) -> bool {
        self.blocks.get(&id).is_some_and(|rest| now < rest.until)
    }

    /// A merge of this block failed.
    pub(super) fn add(&mut self, id: BlockId, now: Duration) {
        let before = self.blocks.get(&id).map(|rest| rest.length * 2);
        self.put(id, before.unwrap_or(REST_MIN).min(REST_MAX), now);
    }

    /// A merge failed because of this very block.
    pub(super) fn add_damaged(&mut self, id: BlockId, now: Duration) {
        self.put(id, REST_MAX, now);
    }

    fn put(&mut self, id: BlockId, length: Duration, now: Duration) {
        let until = now + length;
        self.blocks.insert(id, Rest { until, length });
    }

    /// Forgets blocks that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(BlockId) -> bool) {
        self.blocks.retain(|id, _| is_there(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rest_is_twice_as_long_up_to_a_bound() {
        let id = BlockId(1);
        let mut resting = Resting::default();
        let mut now = Duration::ZERO;
        for seconds in [30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600] {
            assert!(!resting.contains(id, now));
            resting.add(id, now);
            now += Duration::from_secs(seconds);
            assert!(resting.contains(id, now - Duration::from_nanos(1)));
        }
        resting.add_damaged(BlockId(2), now);
        resting.retain(|there| there == BlockId(2));
        assert!(resting.contains(BlockId(2), now) && !resting.contains(id, Duration::ZERO));
    }
}
