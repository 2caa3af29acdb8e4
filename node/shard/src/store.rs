//! Objects of this cluster in the object store: their keys, uploads that are verified, deletes.
//!
//! ```text
//! <prefix>/owner.json                                        whose catalog names what is below this prefix
//! <prefix>/cluster.json                                      the operator's marker
//! <prefix>/l0/<shard>-<generation>/<from>-<to>-<uuid>.parquet   as flushed, all tenants of a cut
//! <prefix>/blocks/<tenant>/<uuid>.parquet                    merged, one tenant
//! <prefix>/traces/<tenant>/<uuid>.index                      merged trace-id index
//! <prefix>/catalog/…                                         the catalog itself ([`crate::manifest`])
//! ```
//! Names are unique for ever and objects never change, so an upload needs no condition and may be repeated.

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use model::{BlockId, TenantId};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};

use crate::catalog::{LogRange, ObjectId};
use crate::error::{Error, Result};

/// Objects up to this size go in one request; larger ones in parts of it. S3 wants parts of at least 5 MiB.
pub const PART_BYTES: usize = 16 << 20;
/// Parts of one upload in flight.
const PARTS_IN_FLIGHT: usize = 2;

/// The object store, seen from inside the cluster's prefix.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Store {
    /// Objects below `prefix` of `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { inner, prefix }
    }

    /// The store itself, for readers that take a full path.
    pub fn inner(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }

    /// The full path of a key relative to the prefix.
    pub fn path(&self, key: &str) -> Path {
        // Parsed, not converted: that would encode the percent signs of a tenant's folder once more, and the key that a
        // listing gives would be another one.
        let key = Path::parse(key).unwrap_or_else(|_| Path::from(key));
        Path::from_iter(self.prefix.parts().chain(key.parts()))
    }

    /// The key under which a flush uploads.
    pub fn flushed_key(range: LogRange, object: ObjectId) -> String {
        format!(
            "l0/{}/{:020}-{:020}-{}.parquet",
            range.group, range.from.0, range.to.0, object.0
        )
    }

    /// The key under which a merge uploads.
    pub fn merged_key(tenant: &TenantId, object: ObjectId) -> String {
        format!("blocks/{}/{}.parquet", tenant.path_segment(), object.0)
    }

    /// The key of a merged trace-id index.
    pub fn trace_index_key(tenant: &TenantId, id: BlockId) -> String {
        format!("traces/{}/{id}.index", tenant.path_segment())
    }

    /// The object id in a key of ours; `None` for foreign objects.
    pub fn object_of_key(key: &str) -> Option<ObjectId> {
        let name = key
            .rsplit('/')
            .next()?
            .strip_suffix(".parquet")
            .or_else(|| key.rsplit('/').next()?.strip_suffix(".index"))?;
        let uuid = name.get(name.len().checked_sub(36)?..)?;
        let hex: String = uuid.chars().filter(|c| *c != '-').collect();
        let is_ours = hex.len() == 32 && uuid.len() == 36;
        is_ours
            .then(|| u128::from_str_radix(&hex, 16).ok())
            .flatten()
            .map(|id| ObjectId(BlockId(id)))
    }

    /// Uploads a file and asks the store whether it is there in full. Returns the store's tag for it.
    pub async fn upload_file(&self, key: &str, file: &FilePath, bytes: u64) -> Result<Option<Arc<str>>> {
        let io = |source| Error::Spool {
            path: file.to_owned(),
            source,
        };
        let mut reader = tokio::fs::File::open(file).await.map_err(io)?;
        if bytes <= PART_BYTES as u64 {
            let mut body = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
            tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut body)
                .await
                .map_err(io)?;
            return self.upload(key, body.into()).await;
        }
        let path = self.path(key);
        let fail = |source| Error::Store {
            operation: "upload",
            path: path.to_string(),
            source,
        };
        let upload = self.inner.put_multipart(&path).await.map_err(fail)?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        loop {
            // One buffer per part: the part keeps it until it is sent.
            let mut part = Vec::with_capacity(PART_BYTES);
            let mut limited = tokio::io::AsyncReadExt::take(&mut reader, PART_BYTES as u64);
            let read = tokio::io::AsyncReadExt::read_to_end(&mut limited, &mut part)
                .await
                .map_err(io)?;
            if read == 0 {
                break;
            }
            if let Err(source) = parts.wait_for_capacity(PARTS_IN_FLIGHT).await {
                let _ = parts.abort().await;
                return Err(fail(source));
            }
            parts.put(Bytes::from(part));
        }
        parts.finish().await.map_err(fail)?;
        self.verify(key, bytes).await
    }

    /// Uploads bytes and asks the store whether they are there in full.
    pub async fn upload(&self, key: &str, body: Bytes) -> Result<Option<Arc<str>>> {
        let path = self.path(key);
        let length = body.len() as u64;
        let put = self.inner.put(&path, PutPayload::from(body)).await;
        put.map_err(|source| Error::Store {
            operation: "upload",
            path: path.to_string(),
            source,
        })?;
        self.verify(key, length).await
    }

    async fn verify(&self, key: &str, expected: u64) -> Result<Option<Arc<str>>> {
        let path = self.path(key);
        let head = self.inner.head(&path).await;
        let head = head.map_err(|source| Error::Store {
            operation: "verify",
            path: path.to_string(),
            source,
        })?;
        if head.size != expected {
            return Err(Error::Verify {
                path: path.to_string(),
                found: head.size,
                expected,
            });
        }
        Ok(head.e_tag.map(Arc::from))
    }

    /// Writes a small object unless there is one of this name. Says whether it was written.
    pub async fn create(&self, key: &str, body: Bytes) -> Result<bool> {
        let path = self.path(key);
        let options = PutOptions::from(PutMode::Create);
        match self.inner.put_opts(&path, PutPayload::from(body), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(Error::Store {
                operation: "write",
                path: path.to_string(),
                source,
            }),
        }
    }

    /// A whole object.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        let path = self.path(key);
        let read = async { self.inner.get(&path).await?.bytes().await };
        read.await.map_err(|source| Error::Store {
            operation: "read",
            path: path.to_string(),
            source,
        })
    }

    /// Deletes an object; that it is gone already is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key);
        match self.inner.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(Error::Store {
                operation: "delete",
                path: path.to_string(),
                source,
            }),
        }
    }

    /// Every object below a part of the prefix, as (key relative to the prefix, what the store says).
    pub fn list(&self, below: &str) -> BoxStream<'static, Result<(String, ObjectMeta)>> {
        let root = self.path(below);
        let depth = self.prefix.parts().count();
        let listed = self.inner.list(Some(&root));
        let place = root.to_string();
        Box::pin(listed.map(move |meta| match meta {
            Ok(meta) => {
                let key = Path::from_iter(meta.location.parts().skip(depth)).to_string();
                Ok((key, meta))
            }
            Err(source) => Err(Error::Store {
                operation: "list",
                path: place.clone(),
                source,
            }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_key_comes_back_from_a_listing() {
        let dir = tempfile::tempdir().unwrap();
        let disk = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).unwrap();
        let stores: [Arc<dyn ObjectStore>; 2] = [Arc::new(object_store::memory::InMemory::new()), Arc::new(disk)];
        for inner in stores {
            let store = Store::new(inner, Path::from("some/prefix"));
            let tenant = TenantId::new("!a*'(b).c_d-").unwrap();
            let key = Store::merged_key(&tenant, ObjectId(BlockId::from_parts(1_700_000_000_000, 5)));
            store.upload(&key, Bytes::from_static(b"x")).await.unwrap();
            let listed: Vec<_> = store.list("blocks").map(|listed| listed.unwrap().0).collect().await;
            assert_eq!(listed, std::slice::from_ref(&key));
            let path: Arc<str> = store.path(&key).to_string().into();
            let reader = block::StoreReader::new(Arc::clone(store.inner()));
            let first = 0..1;
            let read = block::RangeReader::read(&reader, &path, std::slice::from_ref(&first));
            assert!(read.await.is_ok());
            store.delete(&key).await.unwrap();
            assert_eq!(store.list("blocks").count().await, 0);
        }
    }

    #[test]
    fn keys_name_their_object() {
        let object = ObjectId(BlockId::from_parts(1_700_000_000_000, 5));
        let key = Store::merged_key(&TenantId::new("a*b").unwrap(), object);
        assert_eq!(key, format!("blocks/a%2Ab/{}.parquet", object.0));
        assert_eq!(Store::object_of_key(&key), Some(object));
        assert_eq!(Store::object_of_key("l0/0-1/readme.txt"), None);
        assert_eq!(Store::object_of_key("l0/0-1/x.parquet"), None);
        assert_eq!(
            Store::object_of_key("blocks/é/0123456789012345678901234567890é.parquet"),
            None
        );
    }
}
