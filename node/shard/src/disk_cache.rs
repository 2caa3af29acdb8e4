//! Bytes of blocks kept on the node's own disk: what was read from the store once need not be fetched again, not even by
//! the next process.
//!
//! Stands between the cache in memory and whatever reads the object store, and keeps what that gave, by object and range,
//! one file each:
//!
//! ```text
//! <dir>/<xxh3-64 of the object><xxh3-64 of object and range>   the bytes, then their xxh3-64
//! ```
//! So all files of an object are known by their names, and go when the object does ([`DiskCache::keep_only`]): what was
//! forgotten by policy must not lie here until its room is needed.
//!
//! What always holds: objects never change, so nothing here goes stale; a file that is short, damaged or gone is a miss and
//! never an answer; the files never take more than the capacity and what is just being
//! written, and none is written while the disk has less than [`FREE_MIN`] left, because the log is on it too. Nothing is synced: what a crash tears is a miss.
//!
//! Not here: which reads are worth it. Where the store is a folder of this node nobody puts a cache before it.

use std::fs;
use std::hash::Hasher as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{Error, RangeReader};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};
use tokio::sync::Semaphore;
use twox_hash::XxHash3_64;

use crate::kept::{self, KEPT_RANGE_MAX, Objects, TYPICAL_BYTES, Tally};
use crate::private;

/// Left to the log and everybody else.
pub const FREE_MIN: u64 = 1 << 30;
/// Reads whose bytes are being written at once; what comes beside them is not kept.
const WRITES_MAX: usize = 8;
/// A file takes whole pages of the disk.
const PAGE_BYTES: u64 = 4 << 10;
const CHECKSUM_BYTES: u64 = 8;

/// Free bytes of the disk that the cache is on.
pub type FreeBytes = Arc<dyn Fn() -> std::io::Result<u64> + Send + Sync>;

/// Bytes of a file's content, checksum not counted.
#[derive(Debug, Clone, Copy)]
struct Length(u64);

#[derive(Debug, Clone)]
struct ByPages;

impl Weighter<u128, Length> for ByPages {
    fn weight(&self, _: &u128, length: &Length) -> u64 {
        (length.0 + CHECKSUM_BYTES).next_multiple_of(PAGE_BYTES)
    }
}

/// Deletes the file of what leaves the cache.
#[derive(Debug, Clone)]
struct Deletes {
    dir: Arc<Path>,
}

/// Files that go when the cache is done with a request, and its locks are free.
#[derive(Debug, Default)]
struct Gone(Vec<PathBuf>);

impl Drop for Gone {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = fs::remove_file(file);
        }
    }
}

impl Lifecycle<u128, Length> for Deletes {
    type RequestState = Gone;

    fn on_evict(&self, state: &mut Gone, key: u128, _: Length) {
        state.0.push(file_of(&self.dir, key));
    }
}

type Kept = Cache<u128, Length, ByPages, DefaultHashBuilder, Deletes>;

/// See the module's documentation.
pub struct DiskCache {
    inner: Arc<dyn RangeReader>,
    dir: Arc<Path>,
    kept: Arc<Kept>,
    free: FreeBytes,
    writes: Arc<Semaphore>,
    tally: Tally,
}

impl std::fmt::Debug for DiskCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskCache")
            .field("dir", &self.dir)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

fn file_of(dir: &Path, key: u128) -> PathBuf {
    dir.join(format!("{key:032x}"))
}

fn key_of(object: &str, range: &Range<u64>) -> u128 {
    let mut bytes = Vec::with_capacity(object.len() + 16);
    bytes.extend_from_slice(&range.start.to_le_bytes());
    bytes.extend_from_slice(&range.end.to_le_bytes());
    bytes.extend_from_slice(object.as_bytes());
    (u128::from(kept::hash(object)) << 64) | u128::from(XxHash3_64::oneshot(&bytes))
}

/// The hash of the object that a file is of.
fn object_of(key: u128) -> u64 {
    (key >> 64) as u64
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES as usize] {
    let mut hasher = XxHash3_64::new();
    hasher.write(bytes);
    hasher.finish().to_le_bytes()
}

impl DiskCache {
    /// Keeps at most `capacity` bytes of what `inner` reads below `dir`, beginning with what an earlier process left there.
    ///
    /// **Errors**: the folder cannot be made or listed.
    pub fn open(inner: Arc<dyn RangeReader>, dir: &Path, capacity: u64, free: FreeBytes) -> std::io::Result<Self> {
        private::folder(dir)?;
        let dir: Arc<Path> = dir.into();
        let entries = usize::try_from(capacity / TYPICAL_BYTES).unwrap_or(usize::MAX).max(64);
        let deletes = Deletes { dir: Arc::clone(&dir) };
        let kept = Cache::with(entries, capacity, ByPages, DefaultHashBuilder::default(), deletes);
        for entry in fs::read_dir(&dir)?.flatten() {
            let name = entry.file_name();
            let key = name.to_str().filter(|name| name.len() == 32);
            let key = key.and_then(|name| u128::from_str_radix(name, 16).ok());
            let length = entry
                .metadata()
                .ok()
                .and_then(|meta| meta.len().checked_sub(CHECKSUM_BYTES));
            match (key, length) {
                (Some(key), Some(length)) => kept.insert(key, Length(length)),
                // Half written when the process ended.
                _ => {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Ok(Self {
            inner,
            dir,
            kept: Arc::new(kept),
            free,
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            tally: Tally::default(),
        })
    }

    /// Bytes of the disk that the files take.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.weight()
    }

    /// Ranges that were at hand, and those that had to be fetched.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Deletes the files of all other objects. Returns how many.
    ///
    /// What is being written meanwhile may be of another object; the next call finds it.
    pub async fn keep_only(&self, objects: Objects) -> usize {
        let (dir, kept) = (Arc::clone(&self.dir), Arc::clone(&self.kept));
        let deleting = tokio::task::spawn_blocking(move || {
            let keys = kept.iter().map(|(key, _)| key);
            let others: Vec<u128> = keys.filter(|key| !objects.has_hash(object_of(*key))).collect();
            others.iter().for_each(|key| forget(&dir, &kept, *key));
            others.len()
        });
        deleting.await.unwrap_or(0)
    }

    /// What is kept of the ranges.
    async fn find(&self, object: &Arc<str>, ranges: &[Range<u64>]) -> Vec<Option<Bytes>> {
        let keys: Vec<Option<u128>> = ranges
            .iter()
            .map(|range| {
                let key = key_of(object, range);
                let length = self.kept.get(&key)?;
                (length.0 == range.end - range.start).then_some(key)
            })
            .collect();
        if keys.iter().all(Option::is_none) {
            return vec![None; ranges.len()];
        }
        let (dir, kept) = (Arc::clone(&self.dir), Arc::clone(&self.kept));
        let reading = tokio::task::spawn_blocking(move || {
            let read = keys.into_iter().map(|key| {
                let key = key?;
                let bytes = read_file(&file_of(&dir, key));
                if bytes.is_none() {
                    forget(&dir, &kept, key);
                }
                bytes
            });
            read.collect()
        });
        reading.await.unwrap_or_else(|_| vec![None; ranges.len()])
    }

    /// Writes in the background what is worth it.
    fn keep(&self, object: &Arc<str>, ranges: &[Range<u64>], read: &[Bytes]) {
        let Ok(permit) = Arc::clone(&self.writes).try_acquire_owned() else {
            return;
        };
        let files: Vec<(u128, Bytes)> = ranges
            .iter()
            .zip(read)
            .filter(|(_, bytes)| bytes.len() as u64 <= KEPT_RANGE_MAX)
            .map(|(range, bytes)| (key_of(object, range), bytes.clone()))
            .collect();
        let (dir, kept, free) = (Arc::clone(&self.dir), Arc::clone(&self.kept), Arc::clone(&self.free));
        // Nobody waits for it: what is lost is a copy.
        drop(tokio::task::spawn_blocking(move || {
            for (key, bytes) in files {
                if free().is_ok_and(|free| free >= FREE_MIN + bytes.len() as u64)
                    && write_file(&dir, key, &bytes).is_ok()
                {
                    kept.insert(key, Length(bytes.len() as u64));
                }
            }
            drop(permit);
        }));
    }
}

fn forget(dir: &Path, kept: &Kept, key: u128) {
    kept.remove(&key);
    let _ = fs::remove_file(file_of(dir, key));
}

fn read_file(file: &Path) -> Option<Bytes> {
    let mut bytes = fs::read(file).ok()?;
    let length = bytes.len().checked_sub(CHECKSUM_BYTES as usize)?;
    let said = bytes.split_off(length);
    (said == checksum(&bytes)).then(|| bytes.into())
}

/// Under another name first, so that a file with its name is whole.
fn write_file(dir: &Path, key: u128, bytes: &[u8]) -> std::io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let unfinished = dir.join(format!("{key:032x}.{number}"));
    let mut content = Vec::with_capacity(bytes.len() + CHECKSUM_BYTES as usize);
    content.extend_from_slice(bytes);
    content.extend_from_slice(&checksum(bytes));
    let written = private::write(&unfinished, &content).and_then(|_| fs::rename(&unfinished, file_of(dir, key)));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

impl RangeReader for DiskCache {
    fn read<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
        async move {
            let found = self.find(object, ranges).await;
            self.tally.count(&found);
            kept::complete(&*self.inner, object, ranges, found, |ranges, read| {
                self.keep(object, ranges, read);
            })
            .await
        }
        .boxed()
    }

    fn read_again<'a>(
        &'a self,
        object: &'a Arc<str>,
        ranges: &'a [Range<u64>],
    ) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
        async move {
            // What is kept is what the store gave the first time.
            ranges.iter().for_each(|range| {
                self.kept.remove(&key_of(object, range));
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
mod tests;
