//! Whose prefix it is: `<prefix>/owner.json` names the cluster whose catalog names the blocks there.
//!
//! Objects that no catalog names are collected. A second catalog over the same objects, be it of another cluster or of a
//! disk that came back empty, would therefore collect the blocks of the first. So:
//! - Whoever founds a cluster finds the prefix without an owner and without blocks ([`vacant`]), or does not found it.
//! - Nothing is written or deleted below a prefix before its owner was read and is this cluster ([`OwnedStore`]). The first
//!   to ask becomes it, by a write that fails if another was faster.
//! - A prefix without an owner is not that of a cluster whose catalog names objects there, or which was its owner a moment
//!   ago: a volume is not mounted, or somebody emptied it. What would be written there is gone when the volume is back, so
//!   the log keeps it. Only somebody who knows that the objects are lost for good can say so, by writing the file.
//! - A folder's volume can be unmounted while the node runs, without an error: there the owner is read before and after
//!   each write, not once.
//! - The owner keeps its name (`node.cluster`): a node that is set to another does not join it and does not start.
//! - That the store cannot be asked is no reason not to start: what is acknowledged waits in the log until it can.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use serde::{Deserialize, Serialize};

/// Where blocks, their indexes and the catalog of them are.
const FOLDERS: [&str; 4] = ["l0", "blocks", "traces", "catalog"];
/// Ours has a tenth of it.
const OWNER_BYTES_MAX: u64 = 4 << 10;
/// Time a start waits to hear whose prefix of the object store it is.
const OWNER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Owner {
    /// Its id, made when it was founded.
    cluster: String,
    /// What its settings call it (`node.cluster`). `None`: founded before names were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl Owner {
    /// Why a node whose settings name another cluster has no business here.
    fn other_name(&self, name: &str) -> Option<String> {
        let known = self.name.as_deref().filter(|known| *known != name)?;
        Some(format!(
            "this prefix of the object store belongs to the cluster named {known}, and node.cluster is {name}: set it to \
             {known}, or use another storage.prefix and data directory"
        ))
    }
}

/// Whether a new cluster may be founded on `prefix`.
///
/// Errors: in one sentence, why not and what to do; or that the store cannot be asked.
pub(super) async fn vacant(objects: &dyn ObjectStore, prefix: &Path) -> anyhow::Result<()> {
    const ADVICE: &str = "start with the data directory of that cluster, or set another storage.prefix; if all its data \
                          directories are lost, `vivace catalog rebuild` makes a new one of what the object store holds";
    if let Some(owner) = read(objects, &key(prefix)).await.context("object store")? {
        bail!(
            "the prefix \"{prefix}\" of the object store belongs to cluster {}, and this data directory is new: {ADVICE}",
            owner.cluster
        );
    }
    for folder in FOLDERS {
        let mut listed = objects.list(Some(&prefix.clone().join(folder)));
        if let Some(found) = listed.next().await {
            let found = found
                .with_context(|| format!("object store: cannot list {folder}"))?
                .location;
            bail!("the object store holds blocks ({found}) that this new data directory does not know: {ADVICE}");
        }
    }
    Ok(())
}

/// Whose `prefix` is.
///
/// Errors: it is nobody's, or that of a cluster by another name, or the store cannot be asked.
pub(super) async fn of(objects: &dyn ObjectStore, prefix: &Path, name: &str) -> anyhow::Result<u128> {
    let key = key(prefix);
    let owner = read(objects, &key).await.context("object store")?;
    let owner = owner.with_context(|| format!("there is no {key}: no cluster has written to this prefix"))?;
    if let Some(why) = owner.other_name(name) {
        bail!("{why}");
    }
    u128::from_str_radix(&owner.cluster, 16).with_context(|| format!("{key} does not name a cluster"))
}

/// Makes the cluster of this id the owner of a vacant prefix, before it is founded; says whether it is the owner. The cluster
/// that is the owner instead is the one to join.
///
/// Errors: as of [`vacant`]; or that the owner has another name.
pub(super) async fn take(
    objects: &Arc<dyn ObjectStore>,
    prefix: &Path,
    cluster: u128,
    name: &str,
) -> anyhow::Result<bool> {
    let found = read(&**objects, &key(prefix)).await.context("object store")?;
    let owner = match found {
        Some(owner) => owner,
        None => {
            vacant(&**objects, prefix).await?;
            let comer = Comer {
                cluster,
                name: name.to_owned(),
                has_objects: Box::new(|| false),
                may_vanish: false,
            };
            let owned = OwnedStore::new(Arc::clone(objects), prefix, comer);
            owned.claim().await.context("object store")?
        }
    };
    if let Some(why) = owner.other_name(name) {
        bail!(why);
    }
    Ok(owner.cluster == format!("{cluster:032x}"))
}

/// Refuses to join a cluster by another name than its own. A store that does not answer is asked again after the start.
pub(super) async fn is_named(objects: &dyn ObjectStore, prefix: &Path, name: &str) -> anyhow::Result<()> {
    match tokio::time::timeout(OWNER_WITHIN, read(objects, &key(prefix))).await {
        Ok(Ok(Some(owner))) => owner
            .other_name(name)
            .map_or(Ok(()), |why| Err(anyhow::Error::msg(why))),
        _ => Ok(()),
    }
}

/// Refuses the prefix of another cluster. A store that does not answer is asked again before the first write.
pub(super) async fn confirm_at_start(owned: &OwnedStore) -> anyhow::Result<()> {
    match tokio::time::timeout(OWNER_WITHIN, owned.confirm()).await {
        Ok(Err(error)) if owned.is_foreign() => Err(error.into()),
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "whose prefix of the object store it is cannot be read yet");
            Ok(())
        }
        Err(_) => {
            tracing::warn!("the object store does not answer; blocks wait until it does");
            Ok(())
        }
    }
}

fn key(prefix: &Path) -> Path {
    prefix.clone().join("owner.json")
}

async fn read(objects: &dyn ObjectStore, key: &Path) -> Result<Option<Owner>> {
    let found = match objects.get(key).await {
        Err(Error::NotFound { .. }) => return Ok(None),
        found => found?,
    };
    let damaged = |source: Box<dyn std::error::Error + Send + Sync>| Error::Generic {
        store: "owner.json",
        source,
    };
    if found.meta.size > OWNER_BYTES_MAX {
        return Err(damaged("is too large to be ours".into()));
    }
    let owner = serde_json::from_slice(&found.bytes().await?).map_err(|error| damaged(error.into()))?;
    Ok(Some(owner))
}

/// The cluster that comes to a prefix.
pub(super) struct Comer {
    /// Its id, made when it was founded.
    pub(super) cluster: u128,
    /// What its settings call it (`node.cluster`).
    pub(super) name: String,
    /// Whether its catalog names objects, asked when the prefix has no owner.
    pub(super) has_objects: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether the store can be another one from one write to the next, as a folder is whose volume was unmounted.
    pub(super) may_vanish: bool,
}

/// A store that takes writes and deletions only while this cluster owns the prefix. Reads go through.
pub(super) struct OwnedStore {
    objects: Arc<dyn ObjectStore>,
    key: Path,
    cluster: String,
    comer: Comer,
    is_owner: AtomicBool,
    is_foreign: AtomicBool,
}

impl OwnedStore {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, prefix: &Path, comer: Comer) -> Arc<Self> {
        Arc::new(Self {
            objects,
            key: key(prefix),
            cluster: format!("{:032x}", comer.cluster),
            comer,
            is_owner: AtomicBool::new(false),
            is_foreign: AtomicBool::new(false),
        })
    }

    /// Reads whose prefix it is, and makes it this cluster's if it is nobody's and never was ours. Asked once, of a store
    /// that may vanish each time.
    ///
    /// Errors: that another cluster owns it, see [`OwnedStore::is_foreign`]; that it was ours and nobody says so any more;
    /// or that the store cannot be asked. The last two pass.
    pub(super) async fn confirm(&self) -> Result<()> {
        let was_owner = self.is_owner.load(Ordering::Acquire);
        if was_owner && !self.comer.may_vanish {
            return Ok(());
        }
        let owner = match read(&*self.objects, &self.key).await? {
            Some(owner) => owner,
            None if was_owner || (self.comer.has_objects)() => return Err(self.gone()),
            None => self.claim().await?,
        };
        let refusal = if owner.cluster == self.cluster {
            owner.other_name(&self.comer.name)
        } else {
            Some(format!(
                "this prefix of the object store belongs to cluster {}, this node to {}: two clusters need two prefixes",
                owner.cluster, self.cluster
            ))
        };
        if let Some(refusal) = refusal {
            self.is_foreign.store(true, Ordering::Release);
            return Err(Error::PermissionDenied {
                path: self.key.to_string(),
                source: refusal.into(),
            });
        }
        self.is_owner.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether the last answer was that another cluster, or one of another name, owns the prefix.
    pub(super) fn is_foreign(&self) -> bool {
        self.is_foreign.load(Ordering::Acquire)
    }

    /// A write, or a removal, between two looks at whose prefix it is: where a volume may go in between, only what the second
    /// look still finds in place is done.
    async fn in_place<T>(&self, write: impl Future<Output = Result<T>>) -> Result<T> {
        self.confirm().await?;
        let written = write.await?;
        if self.comer.may_vanish {
            self.confirm().await?;
        }
        Ok(written)
    }

    fn gone(&self) -> Error {
        let text = serde_json::to_string(&self.as_owner()).unwrap_or_default();
        let why = format!(
            "{} is gone, and with it the objects that the catalog names: is the volume not mounted, or was the bucket emptied? \
             Nothing is written or deleted there until it is back. If it is lost for good, write {text} there",
            self.key
        );
        Error::NotFound {
            path: self.key.to_string(),
            source: why.into(),
        }
    }

    fn as_owner(&self) -> Owner {
        Owner {
            cluster: self.cluster.clone(),
            name: Some(self.comer.name.clone()),
        }
    }

    /// Who owns it after an attempt to be the first.
    async fn claim(&self) -> Result<Owner> {
        let owner = self.as_owner();
        let text = serde_json::to_vec(&owner).map_err(|error| Error::Generic {
            store: "owner.json",
            source: error.into(),
        })?;
        let options = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(&self.key, PutPayload::from(text), options).await {
            Ok(_) => Ok(owner),
            // Somebody was faster; or it was us, and the answer was lost.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                let owner = read(&*self.objects, &self.key).await?;
                owner.ok_or_else(|| Error::Generic {
                    store: "owner.json",
                    source: "was there and is gone".into(),
                })
            }
            Err(error) => Err(error),
        }
    }
}

impl fmt::Debug for OwnedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedStore")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for OwnedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.objects, f)
    }
}

/// The same store where a stream has to own it.
#[derive(Debug)]
pub(super) struct Owned(pub(super) Arc<OwnedStore>);

impl fmt::Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An upload in parts that is complete only in place.
#[derive(Debug)]
struct OwnedUpload {
    parts: Box<dyn MultipartUpload>,
    owned: Arc<OwnedStore>,
}

#[async_trait::async_trait]
impl MultipartUpload for OwnedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.owned.in_place(self.parts.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.abort().await
    }
}

#[async_trait::async_trait]
impl ObjectStore for Owned {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let write = self.0.objects.put_opts(location, payload, opts);
        self.0.in_place(write).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.confirm().await?;
        let parts = self.0.objects.put_multipart_opts(location, opts).await?;
        let owned = Arc::clone(&self.0);
        Ok(Box::new(OwnedUpload { parts, owned }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.objects.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.0.objects.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = Arc::clone(&self.0);
        let confirmed = async move {
            match store.confirm().await {
                Ok(()) => store.objects.delete_stream(locations),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(confirmed).flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.objects.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.objects.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let write = self.0.objects.copy_opts(from, to, options);
        self.0.in_place(write).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    const BLOCK: &str = "t/l0/0-1/a.parquet";

    fn prefix() -> Path {
        Path::from("t")
    }

    /// Cluster `id` named `name` in a store that stays where it is, before its first object.
    fn owned(objects: &Arc<dyn ObjectStore>, prefix: &Path, id: u128, name: &str) -> Arc<OwnedStore> {
        let comer = Comer {
            cluster: id,
            name: name.to_owned(),
            has_objects: Box::new(|| false),
            may_vanish: false,
        };
        OwnedStore::new(Arc::clone(objects), prefix, comer)
    }

    async fn put(store: &dyn ObjectStore, key: &str) -> Result<()> {
        store.put(&Path::from(key), "x".into()).await.map(drop)
    }

    #[tokio::test]
    async fn the_first_cluster_owns_the_prefix_for_good() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let first = Owned(owned(&objects, &prefix(), 7, "c"));
        put(&first, BLOCK).await.unwrap();
        // The same cluster, another node or another life.
        Owned(owned(&objects, &prefix(), 7, "c")).0.confirm().await.unwrap();
        let second = Owned(owned(&objects, &prefix(), 8, "c"));
        let refused = put(&second, "t/l0/0-1/b.parquet").await.unwrap_err();
        assert!(second.0.is_foreign() && !first.0.is_foreign());
        assert!(
            format!("{refused:?}").contains("belongs to cluster 0000000000000000000000000000000"),
            "{refused:?}"
        );
        assert!(second.delete(&Path::from(BLOCK)).await.is_err());
        assert!(second.copy(&Path::from(BLOCK), &Path::from("t/c")).await.is_err());
        assert!(second.put_multipart(&Path::from("t/c")).await.is_err());
        // Reads go through, and nothing was touched.
        assert!(second.get(&Path::from(BLOCK)).await.is_ok());
        assert_eq!(objects.list(None).count().await, 2);
        first.delete(&Path::from(BLOCK)).await.unwrap();
        // Another prefix is another matter.
        let elsewhere = Owned(owned(&objects, &Path::from("u"), 8, "c"));
        put(&elsewhere, "u/l0/0-1/b.parquet").await.unwrap();
    }

    #[tokio::test]
    async fn a_cluster_with_objects_does_not_take_a_prefix_without_owner_for_its_own() {
        let (has_objects, objects) = (Arc::new(AtomicBool::new(false)), Arc::new(InMemory::new()));
        let come = |may_vanish| {
            let has_objects = Arc::clone(&has_objects);
            let comer = Comer {
                cluster: 7,
                name: "c".to_owned(),
                has_objects: Box::new(move || has_objects.load(Ordering::Relaxed)),
                may_vanish,
            };
            Owned(OwnedStore::new(
                Arc::clone(&objects) as Arc<dyn ObjectStore>,
                &prefix(),
                comer,
            ))
        };
        let (folder, bucket) = (come(true), come(false));
        for store in [&folder, &bucket] {
            put(store, BLOCK).await.unwrap();
        }
        let text = objects.get(&key(&prefix())).await.unwrap().bytes().await.unwrap();
        for location in [key(&prefix()), Path::from(BLOCK)] {
            objects.delete(&location).await.unwrap();
        }
        // The folder is looked at each time; a bucket does not go away and come back as an empty one.
        let refused = put(&folder, BLOCK).await.unwrap_err();
        let words = format!(
            "t/owner.json is gone, and with it the objects that the catalog names: is the volume not mounted, or was the \
             bucket emptied? Nothing is written or deleted there until it is back. If it is lost for good, write {} there",
            std::str::from_utf8(&text).unwrap()
        );
        assert!(refused.to_string().contains(&words), "{refused}");
        assert!(folder.delete(&Path::from(BLOCK)).await.is_err());
        assert!(folder.copy(&Path::from(BLOCK), &Path::from("t/c")).await.is_err());
        assert_eq!(objects.list(None).count().await, 0, "nor is the prefix taken anew");
        // Another life of the same cluster knows only what its catalog names.
        has_objects.store(true, Ordering::Relaxed);
        for store in [come(true), come(false)] {
            let refused = put(&store, BLOCK).await.unwrap_err().to_string();
            assert!(refused.contains(&words), "{refused}");
            assert!(
                confirm_at_start(&store.0).await.is_ok(),
                "it starts: the log keeps what comes"
            );
        }
        // The way out that was named.
        objects.put(&key(&prefix()), text.into()).await.unwrap();
        for store in [come(true), come(false), folder] {
            put(&store, BLOCK).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_written_while_a_volume_went_was_not_written() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let comer = Comer {
            cluster: 7,
            name: "c".to_owned(),
            has_objects: Box::new(|| false),
            may_vanish: true,
        };
        let store = OwnedStore::new(Arc::clone(&objects), &prefix(), comer);
        let write = async { objects.delete(&key(&prefix())).await };
        let refused = store.in_place(write).await.unwrap_err().to_string();
        assert!(refused.contains("owner.json is gone"), "{refused}");
        let text = serde_json::to_string(&store.as_owner()).unwrap();
        objects.put(&key(&prefix()), text.into()).await.unwrap();
        let mut parts = Owned(store).put_multipart(&Path::from(BLOCK)).await.unwrap();
        parts.put_part("x".into()).await.unwrap();
        objects.delete(&key(&prefix())).await.unwrap();
        let refused = parts.complete().await.unwrap_err().to_string();
        assert!(refused.contains("owner.json is gone"), "{refused}");
    }

    #[tokio::test]
    async fn a_founder_takes_the_prefix_once_and_joins_its_owner_else() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        assert!(take(&objects, &prefix(), 7, "c").await.unwrap());
        // The same attempt again, and the same node with an empty disk.
        assert!(take(&objects, &prefix(), 7, "c").await.unwrap());
        assert!(!take(&objects, &prefix(), 8, "c").await.unwrap());
        assert!(take(&objects, &prefix(), 8, "d").await.is_err());
        // Blocks without an owner are somebody's.
        put(&*objects, "u/l0/0-1/b.parquet").await.unwrap();
        assert!(take(&objects, &Path::from("u"), 9, "c").await.is_err());
    }

    #[tokio::test]
    async fn of_two_that_come_at_once_one_becomes_the_owner() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let all: Vec<_> = (1..=8).map(|n| owned(&objects, &prefix(), n, "c")).collect();
        let outcomes = futures::future::join_all(all.iter().map(|store| store.claim())).await;
        let owners: std::collections::BTreeSet<String> =
            outcomes.into_iter().map(|owner| owner.unwrap().cluster).collect();
        assert_eq!(owners.len(), 1);
    }

    #[tokio::test]
    async fn a_cluster_is_founded_on_a_prefix_without_owner_and_blocks() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for foreign in ["t/readme", "t/cluster.json", "t/l0x/a", "u/l0/a", "u/owner.json"] {
            put(&*objects, foreign).await.unwrap();
        }
        vacant(&*objects, &prefix()).await.unwrap();
        for block in [BLOCK, "t/blocks/a.parquet", "t/traces/a.index"] {
            put(&*objects, block).await.unwrap();
            let refused = vacant(&*objects, &prefix()).await.unwrap_err().to_string();
            assert!(
                refused.contains(block) && refused.contains("storage.prefix"),
                "{refused}"
            );
            objects.delete(&Path::from(block)).await.unwrap();
        }
        owned(&objects, &prefix(), 7, "c").confirm().await.unwrap();
        let refused = vacant(&*objects, &prefix()).await.unwrap_err().to_string();
        assert!(refused.contains("belongs to cluster 0000"), "{refused}");
    }

    #[tokio::test]
    async fn a_cluster_keeps_its_name() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let named = |name: &str| owned(&objects, &prefix(), 7, name);
        is_named(&*objects, &prefix(), "b").await.unwrap();
        named("a").confirm().await.unwrap();
        named("a").confirm().await.unwrap();
        is_named(&*objects, &prefix(), "a").await.unwrap();
        let other = named("b");
        let refused = confirm_at_start(&other).await.unwrap_err();
        let joining = is_named(&*objects, &prefix(), "b").await.unwrap_err();
        for said in [format!("{refused:#}"), format!("{joining:#}")] {
            let words = "belongs to the cluster named a, and node.cluster is b: set it to a";
            assert!(said.contains(words), "{said}");
        }
        assert!(put(&Owned(other), BLOCK).await.is_err());
        // Founded before names were kept: any is right.
        let text = format!("{{\"cluster\":\"{:032x}\"}}", 7);
        objects.put(&key(&prefix()), text.into()).await.unwrap();
        named("b").confirm().await.unwrap();
        is_named(&*objects, &prefix(), "b").await.unwrap();
    }

    #[tokio::test]
    async fn an_owner_that_cannot_be_read_is_nobody() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let long = "9".repeat(OWNER_BYTES_MAX as usize + 1);
        for text in ["", "{}", "nonsense", &long] {
            let payload = PutPayload::from(text.to_owned());
            objects.put(&key(&prefix()), payload).await.unwrap();
            let store = Owned(owned(&objects, &prefix(), 7, "c"));
            assert!(put(&store, BLOCK).await.is_err(), "{text}");
            assert!(vacant(&*objects, &prefix()).await.is_err(), "{text}");
        }
    }
}
