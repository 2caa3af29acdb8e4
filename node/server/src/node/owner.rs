//! Whose prefix it is: `<prefix>/owner.json` names the cluster whose catalog names the blocks there.
//!
//! Objects that no catalog names are collected. A second catalog over the same objects, be it of another cluster or of a
//! disk that came back empty, would therefore collect the blocks of the first. So:
//! - Whoever founds a cluster finds the prefix without an owner and without blocks ([`vacant`]), or does not found it.
//! - Nothing is written or deleted below a prefix before its owner was read and is this cluster ([`OwnedStore`]). The first
//!   to ask becomes it, by a write that fails if another was faster.
//! - The owner keeps its name (`node.cluster`): a node that is set to another does not join it and does not start.
//! - That the store cannot be asked is no reason not to start: what is acknowledged waits in the log until it can.
//!
//! Not here: the marker by which the operator knows a cluster again (`cluster.json`, [`super::admin`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde::{Deserialize, Serialize};

/// Where blocks and their indexes are.
const FOLDERS: [&str; 3] = ["l0", "blocks", "traces"];
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
    const ADVICE: &str = "start with the data directory of that cluster, or set another storage.prefix";
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

/// A store that takes writes and deletions only while this cluster owns the prefix. Reads go through.
pub(super) struct OwnedStore {
    objects: Arc<dyn ObjectStore>,
    key: Path,
    cluster: String,
    name: String,
    is_owner: AtomicBool,
    is_foreign: AtomicBool,
}

impl OwnedStore {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, prefix: &Path, cluster: u128, name: &str) -> Arc<Self> {
        Arc::new(Self {
            objects,
            key: key(prefix),
            cluster: format!("{cluster:032x}"),
            name: name.to_owned(),
            is_owner: AtomicBool::new(false),
            is_foreign: AtomicBool::new(false),
        })
    }

    /// Reads whose prefix it is, and makes it this cluster's if it is nobody's. Asked once; an owner stays one.
    ///
    /// Errors: that another cluster owns it, see [`OwnedStore::is_foreign`]; or that the store cannot be asked, which passes.
    pub(super) async fn confirm(&self) -> Result<()> {
        if self.is_owner.load(Ordering::Acquire) {
            return Ok(());
        }
        let owner = match read(&*self.objects, &self.key).await? {
            Some(owner) => owner,
            None => self.claim().await?,
        };
        let refusal = if owner.cluster == self.cluster {
            owner.other_name(&self.name)
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

    /// Who owns it after an attempt to be the first.
    async fn claim(&self) -> Result<Owner> {
        let owner = Owner {
            cluster: self.cluster.clone(),
            name: Some(self.name.clone()),
        };
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

#[async_trait::async_trait]
impl ObjectStore for Owned {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.0.confirm().await?;
        self.0.objects.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.confirm().await?;
        self.0.objects.put_multipart_opts(location, opts).await
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
        self.0.confirm().await?;
        self.0.objects.copy_opts(from, to, options).await
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

    async fn put(store: &dyn ObjectStore, key: &str) -> Result<()> {
        store.put(&Path::from(key), "x".into()).await.map(drop)
    }

    #[tokio::test]
    async fn the_first_cluster_owns_the_prefix_for_good() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let first = Owned(OwnedStore::new(Arc::clone(&objects), &prefix(), 7, "c"));
        put(&first, BLOCK).await.unwrap();
        // The same cluster, another node or another life.
        Owned(OwnedStore::new(Arc::clone(&objects), &prefix(), 7, "c"))
            .0
            .confirm()
            .await
            .unwrap();
        let second = Owned(OwnedStore::new(Arc::clone(&objects), &prefix(), 8, "c"));
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
        let elsewhere = Owned(OwnedStore::new(objects, &Path::from("u"), 8, "c"));
        put(&elsewhere, "u/l0/0-1/b.parquet").await.unwrap();
    }

    #[tokio::test]
    async fn of_two_that_come_at_once_one_becomes_the_owner() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let all: Vec<_> = (1..=8)
            .map(|n| OwnedStore::new(Arc::clone(&objects), &prefix(), n, "c"))
            .collect();
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
        OwnedStore::new(Arc::clone(&objects), &prefix(), 7, "c")
            .confirm()
            .await
            .unwrap();
        let refused = vacant(&*objects, &prefix()).await.unwrap_err().to_string();
        assert!(refused.contains("belongs to cluster 0000"), "{refused}");
    }

    #[tokio::test]
    async fn a_cluster_keeps_its_name() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let named = |name: &str| OwnedStore::new(Arc::clone(&objects), &prefix(), 7, name);
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
            let store = Owned(OwnedStore::new(Arc::clone(&objects), &prefix(), 7, "c"));
            assert!(put(&store, BLOCK).await.is_err(), "{text}");
            assert!(vacant(&*objects, &prefix()).await.is_err(), "{text}");
        }
    }
}
