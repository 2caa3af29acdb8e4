//! The catalog as it is kept in the object store: the bucket says by itself what is in it.
//!
//! ```text
//! catalog/roots/<revision>                 the newest is the catalog: watermarks, what waits for deletion, blocks of the
//!                                          last days, and which manifests name the older ones
//! catalog/manifests/<tenant>/<day>-<hash>  blocks of one tenant that were named on one day; named by its content
//! ```
//! The leader of the ring folds its catalog into the bucket before it deletes anything there ([`Folder::run`]). Older days
//! hardly change, so a fold writes one root and perhaps a manifest or two, however many blocks there are.
//!
//! What always holds:
//! - **No object is deleted before the newest root says that it is not needed.** So what that root names, and the objects
//!   that were flushed after it, hold everything: [`crate::rebuild`] makes the catalog of them when every disk is lost.
//! - A root is written after the manifests it names, and only if no root of its revision or a newer one is there: the copy
//!   of an older data directory never hides the newer one's.
//! - What a manifest's name says is what is in it. A manifest goes only when no kept root names it and no fold that is
//!   under way can.
//!
//! The ring's own state names all blocks as well; this is a copy for the day on which that state is gone. Trace-id indexes
//! are not in it: they are made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use model::TenantId;
use model::proto::{Entry, Fields, write_bytes, write_fixed64, write_varint_field};
use parking_lot::Mutex;
use twox_hash::{XxHash3_64, XxHash3_128};

use crate::catalog::{BlockRecord, Catalog, CatalogView, DecodeError, ObjectId};
use crate::error::{Error, Result};
use crate::housekeeping::{HousekeepingMetrics, count};
use crate::port::CatalogPort;
use crate::store::Store;

/// Where roots are.
pub const ROOTS: &str = "catalog/roots";
/// Where manifests are.
pub const MANIFESTS: &str = "catalog/manifests";
/// Roots that are kept: the newest, and those that a slow reader may have begun with.
pub const ROOTS_KEPT: usize = 3;
/// Blocks named on the last so many days stand in the root itself: merges still change them.
const RECENT_DAYS: u64 = 2;
/// A manifest that no root names is kept this long: a fold that wrote it may be about to name it.
const MANIFEST_AGE_MIN_NANOS: u64 = 24 * 3_600 * 1_000_000_000;
/// Largest root or manifest that is read, unpacked: the whole catalog at its bound takes a third of it.
const UNPACKED_BYTES_MAX: usize = 1 << 30;
const MILLIS_PER_DAY: u64 = 24 * 3_600 * 1_000;
const FORMAT: u8 = 1;
const ZSTD_LEVEL: i32 = 3;
const HASH_BYTES: usize = 8;

/// A manifest as a root names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRecord {
    /// Its key in the bucket, relative to the cluster's prefix.
    pub path: Arc<str>,
    /// xxh3-128 of its bytes.
    pub hash: u128,
    /// How many blocks it names.
    pub blocks: u64,
}

/// The top of a catalog in the bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Root {
    /// Whose catalog it is.
    pub cluster: u128,
    /// The ring's time when it was taken.
    pub taken_unix_nanos: u64,
    /// Everything but the blocks of older days; its revision is the whole catalog's.
    pub recent: Catalog,
    /// Who names those.
    pub manifests: Vec<ManifestRecord>,
}

/// A catalog folded: what is to be in the bucket.
#[derive(Debug)]
pub struct Folded {
    /// The top.
    pub root: Root,
    /// Every manifest with its bytes, in the root's order.
    pub manifests: Vec<Bytes>,
}

/// Folds a catalog. Pure; equal catalogs at equal times give equal bytes.
pub fn fold(cluster: u128, view: &CatalogView, now_unix_nanos: u64) -> Folded {
    let day_of = |record: &BlockRecord| record.id.unix_millis() / MILLIS_PER_DAY;
    let recent_from = (now_unix_nanos / 1_000_000 / MILLIS_PER_DAY).saturating_sub(RECENT_DAYS - 1);
    let mut older: BTreeMap<(&TenantId, u64), Vec<&Arc<BlockRecord>>> = BTreeMap::new();
    for (tenant, blocks) in view.tenants() {
        for record in blocks.iter().filter(|record| day_of(record) < recent_from) {
            older.entry((tenant, day_of(record))).or_default().push(record);
        }
    }
    let (mut records, mut manifests) = (Vec::new(), Vec::new());
    for ((tenant, day), blocks) in older {
        // Without the revision: a day that stays as it is keeps its name.
        let bytes = pack(&Catalog::of(view.only(blocks.iter().copied())).encode());
        let hash = XxHash3_128::oneshot(&bytes);
        records.push(ManifestRecord {
            path: format!("{MANIFESTS}/{}/{day}-{hash:032x}", tenant.path_segment()).into(),
            hash,
            blocks: blocks.len() as u64,
        });
        manifests.push(bytes);
    }
    let is_recent = |record: &&Arc<BlockRecord>| day_of(record) >= recent_from;
    let recent = view.tenants().flat_map(|(_, blocks)| blocks.iter().filter(is_recent));
    Folded {
        root: Root {
            cluster,
            taken_unix_nanos: now_unix_nanos,
            recent: Catalog::of(view.with_only(recent)),
            manifests: records,
        },
        manifests,
    }
}

impl Root {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut packed = Vec::from(pack(&self.encode_plain()));
        let hash = XxHash3_64::oneshot(&packed);
        packed.extend_from_slice(&hash.to_le_bytes());
        packed.into()
    }

    /// The same before it is compressed and sealed.
    pub fn encode_plain(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        write_bytes(&mut out, 1, &self.cluster.to_be_bytes());
        write_fixed64(&mut out, 2, self.taken_unix_nanos);
        write_bytes(&mut out, 3, &self.recent.encode());
        for manifest in &self.manifests {
            let mut named = Vec::new();
            write_bytes(&mut named, 1, manifest.path.as_bytes());
            write_bytes(&mut named, 2, &manifest.hash.to_be_bytes());
            write_varint_field(&mut named, 3, manifest.blocks);
            write_bytes(&mut out, 4, &named);
        }
        out
    }

    /// The reverse of [`Root::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let end = bytes.len().checked_sub(HASH_BYTES).ok_or(DecodeError::Empty)?;
        let (packed, hash) = bytes.split_at(end);
        if XxHash3_64::oneshot(packed).to_le_bytes() != hash {
            return Err(DecodeError::OutOfRange("checksum"));
        }
        Self::decode_plain(&unpack(packed)?)
    }

    pub(crate) fn decode_plain(plain: &[u8]) -> Result<Self, DecodeError> {
        let body = match plain {
            [] => return Err(DecodeError::Empty),
            [FORMAT, body @ ..] => body,
            [found, ..] => return Err(DecodeError::Format { found: *found }),
        };
        let (mut cluster, mut taken_unix_nanos, mut recent) = (None, 0, None);
        let mut manifests = Vec::new();
        let mut fields = Fields::new(body);
        while let Some(entry) = fields.next_field()? {
            match entry.number {
                1 => cluster = Some(get_u128(&entry)?),
                2 => taken_unix_nanos = entry.fixed64()?,
                3 => recent = Some(Catalog::decode(entry.bytes()?)?),
                4 => manifests.push(get_manifest(entry.bytes()?)?),
                _ => {}
            }
        }
        Ok(Self {
            cluster: cluster.ok_or(DecodeError::Missing("cluster"))?,
            taken_unix_nanos,
            recent: recent.ok_or(DecodeError::Missing("catalog"))?,
            manifests,
        })
    }

    /// The key of the root of a revision.
    pub fn key(revision: u64) -> String {
        format!("{ROOTS}/{revision:020}")
    }

    /// The revision in a key that [`Root::key`] made.
    pub fn revision_of(key: &str) -> Option<u64> {
        let digits = key.strip_prefix(ROOTS)?.strip_prefix('/')?;
        let revision = digits.parse().ok()?;
        (Self::key(revision) == key).then_some(revision)
    }
}

impl ManifestRecord {
    /// The blocks it names, from its bytes.
    pub fn read(&self, bytes: &[u8]) -> Result<Catalog, DecodeError> {
        if XxHash3_128::oneshot(bytes) != self.hash {
            return Err(DecodeError::OutOfRange("checksum"));
        }
        Catalog::decode(&unpack(bytes)?)
    }
}

fn get_manifest(bytes: &[u8]) -> Result<ManifestRecord, DecodeError> {
    let (mut path, mut hash, mut blocks) = (None, None, 0);
    let mut fields = Fields::new(bytes);
    while let Some(entry) = fields.next_field()? {
        match entry.number {
            1 => {
                let text = std::str::from_utf8(entry.bytes()?);
                path = Some(text.map_err(|_| DecodeError::OutOfRange("path"))?.into());
            }
            2 => hash = Some(get_u128(&entry)?),
            3 => blocks = entry.varint()?,
            _ => {}
        }
    }
    Ok(ManifestRecord {
        path: path.ok_or(DecodeError::Missing("path"))?,
        hash: hash.ok_or(DecodeError::Missing("hash"))?,
        blocks,
    })
}

fn get_u128(entry: &Entry<'_>) -> Result<u128, DecodeError> {
    let bytes = entry.bytes()?.try_into();
    Ok(u128::from_be_bytes(bytes.map_err(|_| DecodeError::OutOfRange("id"))?))
}

fn pack(plain: &[u8]) -> Bytes {
    let packed = zstd::bulk::compress(plain, ZSTD_LEVEL);
    packed.expect("memory can be compressed into memory").into()
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let length = zstd::bulk::Decompressor::upper_bound(packed).unwrap_or(usize::MAX);
    if length > UNPACKED_BYTES_MAX {
        return Err(DecodeError::OutOfRange("length"));
    }
    zstd::bulk::decompress(packed, length).map_err(|_| DecodeError::OutOfRange("compressed bytes"))
}

/// What the newest root of a bucket is.
#[derive(Debug)]
pub struct Newest {
    /// The root.
    pub root: Root,
    /// The whole catalog: the root with its manifests.
    pub catalog: Catalog,
}

/// Reads the newest root and its manifests; `None` where there is no root.
///
/// Errors: the store's, and [`Error::Folded`] for what is damaged, foreign or gone.
pub async fn read_newest(store: &Store, cluster: u128) -> Result<Option<Newest>> {
    let Some(revision) = revisions(store).await?.last().copied() else {
        return Ok(None);
    };
    let key = Root::key(revision);
    let bad = |key: &str, why: String| Error::Folded {
        path: store.path(key).to_string(),
        why,
    };
    let root = Root::decode(&store.get(&key).await?).map_err(|error| bad(&key, error.to_string()))?;
    if root.cluster != cluster {
        return Err(bad(&key, format!("is of cluster {:032x}", root.cluster)));
    }
    let mut catalog = root.recent.clone();
    for manifest in &root.manifests {
        let bytes = store.get(&manifest.path).await?;
        let part = manifest.read(&bytes);
        let part = part.map_err(|error| bad(&manifest.path, error.to_string()))?;
        catalog.absorb(part.view())?;
    }
    Ok(Some(Newest { root, catalog }))
}

/// Revisions of the roots in the bucket, oldest first.
async fn revisions(store: &Store) -> Result<Vec<u64>> {
    let listed = store.list(ROOTS);
    let found = listed.try_filter_map(|(key, _)| std::future::ready(Ok(Root::revision_of(&key))));
    let mut revisions: Vec<u64> = found.try_collect().await?;
    revisions.sort_unstable();
    Ok(revisions)
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The newest root is this catalog.
    Unchanged,
    /// A root was written, and so many manifests.
    Folded {
        /// New ones.
        manifests: usize,
    },
    /// The bucket has a newer root: of a newer copy of this node's disk, or of another leader.
    Newer {
        /// Its revision.
        revision: u64,
    },
}

/// Folds the catalog into the bucket. One run at a time; runs on several nodes do no harm.
pub struct Folder {
    /// Where to.
    pub store: Store,
    /// From where.
    pub catalog: Arc<dyn CatalogPort>,
    /// Whose catalog.
    pub cluster: u128,
    /// Where to count.
    pub metrics: Arc<HousekeepingMetrics>,
    /// What was folded last.
    pub copy: Arc<Copy>,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").finish_non_exhaustive()
    }
}

/// The catalog that this node knows to be in the bucket; asked before anything is deleted there.
#[derive(Debug, Default)]
pub struct Copy(Mutex<Option<Copied>>);

/// A catalog and the manifests that its root names.
type Copied = (Arc<CatalogView>, BTreeSet<Arc<str>>);

impl Copy {
    /// Whether the newest root says itself that this object is not needed. One that it does not name at all may be the only
    /// one that it leads to: a flush that came later and was merged since. `false` before the first fold.
    pub fn has_dropped(&self, object: ObjectId) -> bool {
        let copy = self.0.lock();
        copy.as_ref().is_some_and(|(view, _)| view.is_pending(object))
    }

    /// Somebody else folds from now on.
    pub fn forget(&self) {
        *self.0.lock() = None;
    }
}

impl Folder {
    /// Writes manifests and a root unless the newest root is this catalog already, then removes what no kept root names.
    ///
    /// Errors: the store's. What was written stays and harms nobody; the next run begins again.
    /// Cancel: the same.
    pub async fn run(&self) -> Result<Outcome> {
        let outcome = self.run_counted().await;
        match &outcome {
            Ok(Outcome::Folded { .. }) => count(&self.metrics.catalogs_folded, 1),
            Ok(_) => {}
            Err(_) => count(&self.metrics.runs_failed, 1),
        }
        outcome
    }

    async fn run_counted(&self) -> Result<Outcome> {
        let (view, now) = (self.catalog.view(), self.catalog.now().unix_nanos);
        let known = self.copy.0.lock().clone();
        if known
            .as_ref()
            .is_some_and(|(copy, _)| copy.revision() == view.revision())
        {
            return Ok(Outcome::Unchanged);
        }
        let mut roots = revisions(&self.store).await?;
        if let Some(newest) = roots.last().copied()
            && newest >= view.revision()
        {
            let kept = read_newest(&self.store, self.cluster).await?;
            let is_this = |kept: &Newest| newest == view.revision() && is_same(kept, &view);
            let Some(kept) = kept.filter(is_this) else {
                return Ok(Outcome::Newer { revision: newest });
            };
            let named = kept.root.manifests.iter().map(|manifest| Arc::clone(&manifest.path));
            *self.copy.0.lock() = Some((view, named.collect()));
            return Ok(Outcome::Unchanged);
        }
        let cluster = self.cluster;
        let to_fold = Arc::clone(&view);
        let folded = tokio::task::spawn_blocking(move || {
            let folded = fold(cluster, &to_fold, now);
            (folded.root.encode(), folded)
        });
        let (root, folded) = folded.await.expect("folding does not panic");
        let there = known.map(|(_, manifests)| manifests).unwrap_or_default();
        let mut written = 0;
        for (manifest, bytes) in folded.root.manifests.iter().zip(folded.manifests) {
            if !there.contains(&manifest.path) {
                self.store.upload(&manifest.path, bytes).await?;
                written += 1;
            }
        }
        let revision = view.revision();
        if !self.store.create(&Root::key(revision), root).await? {
            return Ok(Outcome::Newer { revision });
        }
        let manifests = folded.root.manifests.iter();
        let manifests: BTreeSet<_> = manifests.map(|manifest| Arc::clone(&manifest.path)).collect();
        *self.copy.0.lock() = Some((view, manifests.clone()));
        roots.push(revision);
        self.prune(&roots, manifests, now).await?;
        Ok(Outcome::Folded { manifests: written })
    }

    /// Removes old roots, and manifests that only those named.
    async fn prune(&self, roots: &[u64], mut named: BTreeSet<Arc<str>>, now: u64) -> Result<()> {
        let kept = roots.len().saturating_sub(ROOTS_KEPT);
        for revision in &roots[..kept] {
            self.store.delete(&Root::key(*revision)).await?;
        }
        for revision in &roots[kept..roots.len() - 1] {
            // A damaged one names nothing that could be read.
            if let Ok(root) = Root::decode(&self.store.get(&Root::key(*revision)).await?) {
                named.extend(root.manifests.into_iter().map(|manifest| manifest.path));
            }
        }
        let mut listed = self.store.list(MANIFESTS);
        while let Some((key, meta)) = listed.try_next().await? {
            let written = u64::try_from(meta.last_modified.timestamp_nanos_opt().unwrap_or(i64::MAX));
            let age = now.saturating_sub(written.unwrap_or(u64::MAX));
            if age > MANIFEST_AGE_MIN_NANOS && !named.contains(key.as_str()) {
                self.store.delete(&key).await?;
            }
        }
        Ok(())
    }
}

/// Whether a root in the bucket says what `view` says, but for trace-id indexes.
fn is_same(kept: &Newest, view: &CatalogView) -> bool {
    let blocks = view.tenants().flat_map(|(_, blocks)| blocks.iter());
    let copied = kept.catalog.view();
    let expected = view.with_only(blocks);
    (copied.block_count(), copied.watermarks().collect::<Vec<_>>())
        == (expected.block_count(), expected.watermarks().collect())
        && expected
            .objects()
            .all(|object| copied.object(object.id) == Some(object))
}

#[cfg(test)]
pub(crate) mod tests;
