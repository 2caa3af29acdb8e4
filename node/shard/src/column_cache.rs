//! Bytes of blocks kept in memory: the columns that questions read again and again.
//!
//! Stands before whatever reads the object store and keeps what it gave, by object and range. What is hot is asked for in
//! the same ranges each time, column by column, so ranges are neither cut nor joined here.
//!
//! What always holds: objects never change, so nothing here goes stale; the bytes kept never exceed the capacity; bytes
//! that turned out to be damaged are replaced by the second look.
//!
//! Not here: decoded columns (`chunk`), indexes and filters (`blocks`).

use std::ops::Range;
use std::sync::Arc;

use block::{Error, RangeReader};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::kept::{self, KEPT_RANGE_MAX, Objects, TYPICAL_BYTES, Tally};

/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 160;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    object: Arc<str>,
    start: u64,
    end: u64,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Key, Bytes> for ByBytes {
    fn weight(&self, _: &Key, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + ENTRY_BYTES
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ColumnCache {
    inner: Arc<dyn RangeReader>,
    kept: Cache<Key, Bytes, ByBytes>,
    tally: Tally,
}

impl ColumnCache {
    /// Keeps at most `capacity` bytes of what `inner` reads.
    pub fn new(inner: Arc<dyn RangeReader>, capacity: u64) -> Self {
        let entries = usize::try_from(capacity / TYPICAL_BYTES).unwrap_or(usize::MAX).max(64);
        Self {
            inner,
            kept: Cache::with_weighter(entries, capacity, ByBytes),
            tally: Tally::default(),
        }
    }

    /// Bytes kept.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.weight()
    }

    /// Ranges that were at hand, and those that had to be read.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Forgets the bytes of all other objects.
    pub fn keep_only(&self, objects: &Objects) {
        self.kept.retain(|key, _| objects.has(&key.object));
    }

    fn keep(&self, object: &Arc<str>, ranges: &[Range<u64>], read: &[Bytes]) {
        for (range, bytes) in ranges.iter().zip(read) {
            if bytes.len() as u64 <= KEPT_RANGE_MAX {
                self.kept.insert(key(object, range), bytes.clone());
            }
        }
    }
}

fn key(object: &Arc<str>, range: &Range<u64>) -> Key {
    Key {
        object: Arc::clone(object),
        start: range.start,
        end: range.end,
    }
}

impl RangeReader for ColumnCache {
    fn read<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
        let found: Vec<Option<Bytes>> = ranges.iter().map(|range| self.kept.get(&key(object, range))).collect();
        self.tally.count(&found);
        kept::complete(&*self.inner, object, ranges, found, |ranges, read| {
            self.keep(object, ranges, read);
        })
        .boxed()
    }

    fn read_again<'a>(
        &'a self,
        object: &'a Arc<str>,
        ranges: &'a [Range<u64>],
    ) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
        async move {
            // What is kept is wrong, whatever comes of the second look.
            ranges.iter().for_each(|range| {
                self.kept.remove(&key(object, range));
            });
            let read = self.inner.read_again(object, ranges).await?;
            self.keep(object, ranges, &read);
            Ok(read)
        }
        .boxed()
    }

    fn damaged(&self, error: &Error) {
        self.inner.damaged(error);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Answers each range with bytes of its own, and notes what it was asked.
    #[derive(Debug, Default)]
    struct Source {
        asked: Mutex<Vec<(Range<u64>, bool)>>,
    }

    impl Source {
        fn answer(&self, ranges: &[Range<u64>], again: bool) -> Result<Vec<Bytes>, Error> {
            self.asked
                .lock()
                .extend(ranges.iter().map(|range| (range.clone(), again)));
            let bytes = |range: &Range<u64>| vec![range.start as u8; (range.end - range.start) as usize].into();
            Ok(ranges.iter().map(bytes).collect())
        }

        fn take(&self) -> Vec<(Range<u64>, bool)> {
            std::mem::take(&mut self.asked.lock())
        }
    }

    impl RangeReader for Source {
        fn read<'a>(&'a self, _: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
            futures::future::ready(self.answer(ranges, false)).boxed()
        }

        fn read_again<'a>(
            &'a self,
            _: &'a Arc<str>,
            ranges: &'a [Range<u64>],
        ) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
            futures::future::ready(self.answer(ranges, true)).boxed()
        }
    }

    fn read_one(cache: &ColumnCache, object: &str, range: Range<u64>) -> Vec<u8> {
        read(cache, object, std::slice::from_ref(&range))
    }

    fn read(cache: &ColumnCache, object: &str, ranges: &[Range<u64>]) -> Vec<u8> {
        let read = cache.read(&object.into(), ranges).now_or_never().unwrap().unwrap();
        read.iter().map(|bytes| bytes[0]).collect()
    }

    #[test]
    fn only_what_is_missing_is_read_and_answers_keep_their_order() {
        let source = Arc::new(Source::default());
        let cache = ColumnCache::new(Arc::clone(&source) as _, 1 << 20);
        assert_eq!(read(&cache, "a", &[1..5, 20..30]), [1, 20]);
        assert_eq!(source.take(), [(1..5, false), (20..30, false)]);
        assert_eq!(read(&cache, "a", &[20..30, 7..9, 1..5]), [20, 7, 1]);
        assert_eq!(source.take(), [(7..9, false)]);
        // Another object, and another range of the same bytes.
        assert_eq!(read_one(&cache, "b", 1..5), [1]);
        assert_eq!(read_one(&cache, "a", 1..4), [1]);
        assert_eq!(source.take(), [(1..5, false), (1..4, false)]);
        assert_eq!((cache.tally().hits(), cache.tally().misses()), (2, 5));
    }

    #[test]
    fn a_second_look_goes_past_what_is_kept_and_replaces_it() {
        let source = Arc::new(Source::default());
        let cache = ColumnCache::new(Arc::clone(&source) as _, 1 << 20);
        read_one(&cache, "a", 1..5);
        let object: Arc<str> = "a".into();
        let wanted = [1..5, 6..8];
        cache.read_again(&object, &wanted).now_or_never().unwrap().unwrap();
        assert_eq!(source.take(), [(1..5, false), (1..5, true), (6..8, true)]);
        read(&cache, "a", &wanted);
        assert_eq!(source.take(), []);
    }

    #[test]
    fn what_is_of_no_named_object_goes() {
        let source = Arc::new(Source::default());
        let cache = ColumnCache::new(Arc::clone(&source) as _, 1 << 20);
        ["a", "b", "a"]
            .iter()
            .zip([1..5, 1..5, 6..8])
            .for_each(|(object, range)| {
                read_one(&cache, object, range);
            });
        cache.keep_only(&["a"].into_iter().collect());
        source.take();
        read(&cache, "a", &[1..5, 6..8]);
        assert_eq!(source.take(), []);
        read_one(&cache, "b", 1..5);
        assert_eq!(source.take(), [(1..5, false)]);
    }

    #[test]
    fn it_stays_within_its_capacity() {
        let source = Arc::new(Source::default());
        let capacity = 1 << 20;
        let cache = ColumnCache::new(Arc::clone(&source) as _, capacity);
        for i in 0..2_000 {
            read_one(&cache, "a", i..i + 4096);
        }
        assert!(
            (capacity / 4..=capacity).contains(&cache.kept_bytes()),
            "{}",
            cache.kept_bytes()
        );
        source.take();
        let cache = ColumnCache::new(Arc::clone(&source) as _, 1 << 30);
        for long in [0..KEPT_RANGE_MAX, 0..KEPT_RANGE_MAX + 1] {
            read_one(&cache, "a", long.clone());
            read_one(&cache, "a", long.clone());
        }
        let asked: Vec<u64> = source.take().into_iter().map(|(range, _)| range.end).collect();
        assert_eq!(asked, [KEPT_RANGE_MAX, KEPT_RANGE_MAX + 1, KEPT_RANGE_MAX + 1]);
    }
}
