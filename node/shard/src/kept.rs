//! What the caches of block bytes share: how an answer is put together from what was kept and what has to be read, what
//! is worth keeping, and which objects still exist.
//!
//! Who keeps the bytes: [`crate::column_cache`] in memory, [`crate::disk_cache`] on the node's disk.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{Error, RangeReader};
use bytes::Bytes;
use hashbrown::HashSet;
use twox_hash::XxHash3_64;

use crate::catalog::CatalogView;
use crate::store::Store;

/// Longer ranges are not kept: whole row groups, which merges and traces read once.
pub const KEPT_RANGE_MAX: u64 = 4 << 20;
/// For the first guess of how many ranges will be kept.
pub(crate) const TYPICAL_BYTES: u64 = 64 << 10;

/// How often a cache was of use.
#[derive(Debug, Default)]
pub struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Tally {
    /// Ranges that were at hand.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Ranges that had to be read.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, found: &[Option<Bytes>]) {
        let hits = found.iter().flatten().count();
        self.hits.fetch_add(hits as u64, Ordering::Relaxed);
        self.misses.fetch_add((found.len() - hits) as u64, Ordering::Relaxed);
    }
}

/// A set of objects, by the hashes of their full paths. Should two paths ever share one, bytes of a forgotten object stay
/// as long as the other object.
#[derive(Debug, Clone, Default)]
pub struct Objects(HashSet<u64>);

impl Objects {
    /// All that the catalog names and a question may read.
    pub fn named(view: &CatalogView, store: &Store) -> Self {
        view.object_keys().map(|key| store.path(key)).collect()
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.has_hash(hash(path))
    }

    pub(crate) fn has_hash(&self, hash: u64) -> bool {
        self.0.contains(&hash)
    }
}

impl<P: AsRef<str>> FromIterator<P> for Objects {
    fn from_iter<I: IntoIterator<Item = P>>(paths: I) -> Self {
        Self(paths.into_iter().map(|path| hash(path.as_ref())).collect())
    }
}

pub(crate) fn hash(path: &str) -> u64 {
    XxHash3_64::oneshot(path.as_bytes())
}

/// Reads from `inner` what was not found and gives everything in the order asked for. `keep` sees what was read.
pub(crate) async fn complete(
    inner: &dyn RangeReader,
    object: &Arc<str>,
    ranges: &[Range<u64>],
    mut found: Vec<Option<Bytes>>,
    keep: impl Fn(&[Range<u64>], &[Bytes]),
) -> Result<Vec<Bytes>, Error> {
    let slots = ranges.iter().zip(&found);
    let missing: Vec<Range<u64>> = slots
        .filter(|(_, found)| found.is_none())
        .map(|(range, _)| range.clone())
        .collect();
    if !missing.is_empty() {
        let read = inner.read(object, &missing).await?;
        keep(&missing, &read);
        for (slot, bytes) in found.iter_mut().filter(|slot| slot.is_none()).zip(read) {
            *slot = Some(bytes);
        }
    }
    Ok(found.into_iter().flatten().collect())
}
