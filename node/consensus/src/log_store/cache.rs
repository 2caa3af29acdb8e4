//! The newest entries of one group, until they are applied.
//!
//! They are kept here as objects so that applying an entry on the node that proposed it gets the proposer's hint back and
//! decodes nothing. What was applied is let go at once: a follower that lags reads bytes from the log's own cache.
//!
//! What always holds: the entries are contiguous, and the newest one here is the newest of the log unless the cache is
//! empty. Losing an entry costs a decode, never an answer.

use std::collections::VecDeque;

use model::LogIndex;
use parking_lot::Mutex;

use super::entry_bytes;
use crate::raft::{Entry, index_of};

/// Entries not applied yet.
#[derive(Debug)]
pub(crate) struct EntryCache {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl EntryCache {
    /// A cache that forgets its oldest entries above `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            inner: Mutex::new(Inner::default()),
        }
    }

    /// Takes entries that follow the newest one; a gap or an overlap empties the cache first.
    pub(crate) fn append(&self, entries: Vec<Entry>) {
        let mut inner = self.inner.lock();
        for entry in entries {
            let follows = inner
                .entries
                .back()
                .is_none_or(|last| last.log_id.index + 1 == entry.log_id.index);
            if !follows {
                *inner = Inner::default();
            }
            inner.bytes += entry_bytes(&entry);
            inner.entries.push_back(entry);
        }
        while inner.bytes > self.bytes_max && inner.pop_front() {}
    }

    /// Forgets entries above the openraft position `last`, all for `None`.
    pub(crate) fn truncate_after(&self, last: Option<u64>) {
        let mut inner = self.inner.lock();
        while inner
            .entries
            .back()
            .is_some_and(|entry| last.is_none_or(|last| entry.log_id.index > last))
        {
            if let Some(entry) = inner.entries.pop_back() {
                inner.bytes -= entry_bytes(&entry);
            }
        }
    }

    /// Forgets entries up to `applied`.
    pub(crate) fn release(&self, applied: LogIndex) {
        let mut inner = self.inner.lock();
        while inner
            .entries
            .front()
            .is_some_and(|entry| index_of(Some(&entry.log_id)) <= applied)
            && inner.pop_front()
        {}
    }

    /// The cached entries of `from..end` (openraft positions), contiguous, and where they start; `end` and nothing when
    /// there are none. Stops after about `bytes_max`, with at least one, but only if it could start at `from`.
    pub(crate) fn tail(&self, from: u64, end: u64, bytes_max: usize) -> (u64, Vec<Entry>) {
        let inner = self.inner.lock();
        let Some(first) = inner.entries.front().map(|entry| entry.log_id.index) else {
            return (end, Vec::new());
        };
        let start = from.max(first);
        if start >= end || start >= first + inner.entries.len() as u64 {
            return (end, Vec::new());
        }
        let skip = usize::try_from(start - first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in inner
            .entries
            .iter()
            .skip(skip)
            .take_while(|entry| entry.log_id.index < end)
        {
            if bytes >= bytes_max && !found.is_empty() {
                break;
            }
            bytes += entry_bytes(entry);
            found.push(entry.clone());
        }
        (start, found)
    }

    /// Bytes held.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}

impl Inner {
    fn pop_front(&mut self) -> bool {
        match self.entries.pop_front() {
            Some(entry) => {
                self.bytes -= entry_bytes(&entry);
                true
            }
            None => false,
        }
    }
}
