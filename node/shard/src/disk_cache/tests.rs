//! Hits, misses, damage and bounds of the cache on disk.

use std::sync::atomic::{AtomicU64, Ordering};

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

    fn read_again<'a>(&'a self, _: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
        futures::future::ready(self.answer(ranges, true)).boxed()
    }
}

struct Bed {
    source: Arc<Source>,
    dir: tempfile::TempDir,
    free: Arc<AtomicU64>,
}

impl Bed {
    fn new() -> Self {
        Self {
            source: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            free: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    fn open(&self, capacity: u64) -> DiskCache {
        let free = Arc::clone(&self.free);
        let free: FreeBytes = Arc::new(move || Ok(free.load(Ordering::Relaxed)));
        DiskCache::open(Arc::clone(&self.source) as _, self.dir.path(), capacity, free).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

async fn read_one(cache: &DiskCache, object: &str, range: Range<u64>) -> Vec<u8> {
    read(cache, object, std::slice::from_ref(&range)).await
}

/// Reads, and waits until what is kept is on the disk.
async fn read(cache: &DiskCache, object: &str, ranges: &[Range<u64>]) -> Vec<u8> {
    let read = cache.read(&object.into(), ranges).await.unwrap();
    settle(cache).await;
    for (range, bytes) in ranges.iter().zip(&read) {
        assert_eq!(bytes.len() as u64, range.end - range.start);
    }
    read.iter().map(|bytes| bytes[0]).collect()
}

async fn settle(cache: &DiskCache) {
    drop(cache.writes.acquire_many(WRITES_MAX as u32).await.unwrap());
}

#[tokio::test]
async fn only_what_is_missing_is_fetched_even_by_the_next_process() {
    let bed = Bed::new();
    let cache = bed.open(1 << 20);
    assert_eq!(read(&cache, "a", &[1..5, 20..30]).await, [1, 20]);
    assert_eq!(bed.source.take(), [(1..5, false), (20..30, false)]);
    assert_eq!(read(&cache, "a", &[20..30, 7..9, 1..5]).await, [20, 7, 1]);
    assert_eq!(bed.source.take(), [(7..9, false)]);
    assert_eq!((cache.tally().hits(), cache.tally().misses()), (2, 3));
    drop(cache);
    fs::write(bed.dir.path().join(format!("{:032x}.7", 3)), "unfinished").unwrap();
    let cache = bed.open(1 << 20);
    assert_eq!(bed.files().len(), 3);
    assert_eq!(read(&cache, "a", &[1..5, 7..9, 20..30]).await, [1, 7, 20]);
    assert_eq!(bed.source.take(), []);
    // Another object, and another range of the same bytes.
    assert_eq!(read_one(&cache, "b", 1..5).await, [1]);
    assert_eq!(read_one(&cache, "a", 1..4).await, [1]);
    assert_eq!(bed.source.take(), [(1..5, false), (1..4, false)]);
}

#[tokio::test]
async fn a_file_that_is_damaged_short_or_gone_is_a_miss() {
    let bed = Bed::new();
    let cache = bed.open(1 << 20);
    let hurts: [fn(&Path); 4] = [
        |file| {
            let mut bytes = fs::read(file).unwrap();
            bytes[3] ^= 1;
            fs::write(file, bytes).unwrap();
        },
        |file| fs::write(file, fs::read(file).unwrap().split_last().unwrap().1).unwrap(),
        |file| fs::write(file, "").unwrap(),
        |file| fs::remove_file(file).unwrap(),
    ];
    read_one(&cache, "a", 1..50).await;
    bed.source.take();
    for hurt in hurts {
        hurt(&bed.files()[0]);
        assert_eq!(read_one(&cache, "a", 1..50).await, [1]);
        assert_eq!(bed.source.take(), [(1..50, false)], "fetched");
        assert_eq!(read_one(&cache, "a", 1..50).await, [1]);
        assert_eq!(bed.source.take(), [], "and kept again");
    }
}

#[tokio::test]
async fn a_second_look_goes_past_what_is_kept_and_replaces_it() {
    let bed = Bed::new();
    let cache = bed.open(1 << 20);
    read_one(&cache, "a", 1..5).await;
    bed.source.take();
    cache
        .read_again(&"a".into(), std::slice::from_ref(&(1..5)))
        .await
        .unwrap();
    settle(&cache).await;
    assert_eq!(bed.source.take(), [(1..5, true)]);
    assert_eq!(read_one(&cache, "a", 1..5).await, [1]);
    assert_eq!(bed.source.take(), []);
}

/// Data that a policy forgot must not stay on the disk of a node that once read it, not even of one that was down.
#[tokio::test]
async fn files_of_objects_that_are_gone_go_too() {
    let bed = Bed::new();
    let cache = bed.open(1 << 20);
    for object in ["a", "b", "c"] {
        read(&cache, object, &[1..5, 6..9]).await;
    }
    assert_eq!(bed.files().len(), 6);
    assert_eq!(cache.keep_only(["a", "c", "d"].into_iter().collect()).await, 2);
    assert_eq!(bed.files().len(), 4);
    assert_eq!(cache.kept_bytes(), 4 * PAGE_BYTES);
    drop(cache);
    let cache = bed.open(1 << 20);
    assert_eq!(cache.keep_only(["c"].into_iter().collect()).await, 2);
    assert_eq!(bed.files().len(), 2);
    bed.source.take();
    read(&cache, "c", &[1..5, 6..9]).await;
    assert_eq!(bed.source.take(), []);
    read_one(&cache, "b", 1..5).await;
    assert_eq!(bed.source.take(), [(1..5, false)]);
}

#[tokio::test]
async fn files_never_take_more_than_the_capacity() {
    let bed = Bed::new();
    let capacity = 40 * PAGE_BYTES;
    let cache = bed.open(capacity);
    for start in 0..200u64 {
        read_one(&cache, "a", start..start + PAGE_BYTES - CHECKSUM_BYTES).await;
        let taken: u64 = bed.files().len() as u64 * PAGE_BYTES;
        assert!(taken <= capacity && taken == cache.kept_bytes(), "{taken}");
    }
    assert!(cache.kept_bytes() >= capacity / 2, "and most of it is used");
    drop(cache);
    let smaller = bed.open(capacity / 4);
    assert!(smaller.kept_bytes() <= capacity / 4);
    assert_eq!(bed.files().len() as u64 * PAGE_BYTES, smaller.kept_bytes());
}

#[tokio::test]
async fn ranges_at_the_limit_and_one_beyond_it() {
    let bed = Bed::new();
    let cache = bed.open(1 << 30);
    for (length, kept) in [(KEPT_RANGE_MAX - 1, 1), (KEPT_RANGE_MAX, 2), (KEPT_RANGE_MAX + 1, 2)] {
        read_one(&cache, "a", 0..length).await;
        assert_eq!(bed.files().len(), kept, "{length}");
    }
}

#[tokio::test]
async fn a_disk_without_room_is_left_alone() {
    let bed = Bed::new();
    let cache = bed.open(1 << 20);
    for (free, kept) in [(0, 0), (FREE_MIN + 9, 0), (FREE_MIN + 10, 1), (FREE_MIN + 11, 2)] {
        bed.free.store(free, Ordering::Relaxed);
        read_one(&cache, "a", free % 100..free % 100 + 10).await;
        assert_eq!(bed.files().len(), kept, "{free}");
    }
}
