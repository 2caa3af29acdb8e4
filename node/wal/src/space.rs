//! How full the log is, who is to blame, and who may still write.
//!
//! ```text
//! 0 ........ 70 % ............ 85 % ................ quota - reserve ........ quota
//!   Normal  |  FlushAdvised   |  RejectWrites       |  ReservedOnly           |
//!             flush who pins     admit() refuses      ordinary appends refused, votes and truncations go on
//! ```
//!
//! [`crate::Wal::admit`] refuses well before [`crate::Wal::append`] does, so that what was admitted on this node, or is
//! under way from a leader, still finds room: for Raft a refused append is the end. A full file system counts as a full
//! quota, see [`crate::pool`].

use crate::WalError;
use crate::log::Log;
use crate::options::WalOptions;
use crate::record::{GroupKey, Space};
use crate::state::State;

/// What the owner should do about space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Normal,
    /// Flush the groups that pin the oldest segments.
    FlushAdvised,
    /// Answer 503: `admit` refuses.
    RejectWrites,
    /// What is left is for votes, truncations, purges and reserved entries.
    ReservedOnly,
}

/// How full the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of segments that hold records, up to the tail; needed or not.
    pub used: u64,
    /// From the options.
    pub quota: u64,
    pub level: Level,
    /// The file system had no room for the last spare segment.
    pub disk_full: bool,
}

/// One group that keeps old segments from being freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub group: GroupKey,
    /// Bytes of its entries in the oldest quarter of the segments.
    pub bytes: u64,
    /// Purging up to this index releases them.
    pub index: u64,
}

/// The thresholds, worked out once. For a small quota the reserve pushes them below their percentages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Ordinary entries may open segments up to this number.
    pub(crate) ordinary_segments: usize,
    reject_bytes: u64,
    advise_bytes: u64,
}

impl Limits {
    pub(crate) fn new(options: &WalOptions) -> Self {
        let ordinary_segments = options.segments_max() - options.reserved_segments as usize;
        // Two segments between the last that `admit` lets in and the last that `append` takes.
        let headroom_bytes = (ordinary_segments as u64 - 2) * u64::from(options.segment_bytes);
        let reject_bytes = (options.quota_bytes / 100 * 85).min(headroom_bytes);
        let advise_bytes = (options.quota_bytes / 100 * 70).min(reject_bytes / 100 * 85);
        Self {
            ordinary_segments,
            reject_bytes,
            advise_bytes,
        }
    }
}

impl Log {
    pub(crate) fn usage_of(&self, state: &State) -> Usage {
        let older: u64 = state.segments.values().map(|segment| u64::from(segment.capacity)).sum();
        let unused = u64::from(state.active_capacity().saturating_sub(state.tail.offset));
        let used = older.saturating_sub(unused);
        let reserved = self.options.reserved_segments as usize;
        let ready = state.pool.ready.len();
        let stuck = state.pool.disk_full;
        let level = if state.segments.len() >= self.limits.ordinary_segments || (stuck && ready <= reserved) {
            Level::ReservedOnly
        } else if used >= self.limits.reject_bytes || (stuck && ready <= reserved + 1) {
            Level::RejectWrites
        } else if used >= self.limits.advise_bytes {
            Level::FlushAdvised
        } else {
            Level::Normal
        };
        Usage {
            used,
            quota: self.options.quota_bytes,
            level,
            disk_full: stuck,
        }
    }

    pub(crate) fn full(&self, state: &State) -> WalError {
        let Usage {
            used, quota, disk_full, ..
        } = self.usage_of(state);
        WalError::Full { used, quota, disk_full }
    }

    pub(crate) fn admit_to(&self, state: &State, bytes: usize, under_way: usize) -> Result<(), WalError> {
        let usage = self.usage_of(state);
        if usage.level >= Level::RejectWrites || usage.used + under_way as u64 >= self.limits.reject_bytes {
            return Err(self.full(state));
        }
        if !self.disk_has_room(state, under_way as u64) {
            let (used, quota) = (usage.used, usage.quota);
            return Err(WalError::Full {
                used,
                quota,
                disk_full: true,
            });
        }
        if state.queue_bytes > 0 && state.queue_bytes + bytes > self.options.queue_bytes_max {
            return Err(WalError::Throttled {
                queued: state.queue_bytes,
                max: self.options.queue_bytes_max,
            });
        }
        Ok(())
    }

    /// Whether ordinary entries of so many bytes find room in segments that stand already, or that the file system has room
    /// for. The reserve is not theirs.
    fn disk_has_room(&self, state: &State, bytes: u64) -> bool {
        // Entries do not fill a segment to its end: half of it may stay empty.
        let wanted = bytes.saturating_mul(2);
        let segment = u64::from(self.options.segment_bytes);
        let spares = state.pool.ready.len() as u64;
        let reserved = u64::from(self.options.reserved_segments);
        let unused = u64::from(state.active_capacity().saturating_sub(state.tail.offset));
        let here = unused + spares.saturating_sub(reserved) * segment;
        if wanted <= here {
            return true;
        }
        if state.pool.disk_full {
            return false;
        }
        // Asked only near the end of what stands. Nobody knows better than the file system, if it does not know either.
        let free = self.vfs.free_bytes(&self.dir).unwrap_or(u64::MAX) / segment;
        let to_come = (spares + free).saturating_sub(reserved).saturating_mul(segment);
        wanted <= unused.saturating_add(to_come)
    }

    /// Returns how many spare segments this kind of record must leave alone.
    pub(crate) fn floor(&self, space: Space) -> usize {
        match space {
            Space::Ordinary => self.options.reserved_segments as usize,
            Space::Reserved => 0,
        }
    }

    pub(crate) fn pins(&self, state: &State) -> Vec<Pin> {
        let Some((oldest, _)) = state.segments.first_key_value() else {
            return Vec::new();
        };
        let below = (oldest + (state.segments.len() as u64 / 4).max(1)).min(state.tail.segment);
        let mut pins: Vec<Pin> = Vec::new();
        for (group, index) in &state.groups {
            let mut pin = Pin {
                group: *group,
                bytes: 0,
                index: 0,
            };
            for (entry, slot) in index.slots_before(below) {
                pin.bytes += crate::format::record_size(slot.len as usize);
                pin.index = pin.index.max(entry);
            }
            if pin.bytes > 0 {
                pins.push(pin);
            }
        }
        pins.sort_by_key(|pin| (std::cmp::Reverse(pin.bytes), pin.group));
        pins
    }
}
