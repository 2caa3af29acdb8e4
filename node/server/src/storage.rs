//! The object store of the settings, and whether it can be used.
//!
//! Owns [`open`] and [`probe`]. Credentials come from files that are read again, or from the chain of each cloud, which
//! refreshes them.
//!
//! A local folder is opened with fsync on: without it object_store renames files into place that a power cut can still
//! empty, and a block must be durable before the catalog names it. With it, contents are synced before the rename and the
//! folder after it.

mod advice;
mod clouds;
mod keys;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};
use settings::storage::StorageType;
use settings::{NodeSettings, Period};

/// Retries of one read of a block, and all of them together.
const READ_RETRIES_MAX: u32 = 3;
const READ_RETRY_BUDGET: Period = Period::secs(5);
/// Time the whole probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Builds the client; for a local folder makes the folder. Talks to nobody yet.
///
/// Errors: a key file that cannot be read, or settings the client refuses.
pub fn open(settings: &NodeSettings) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let storage = &settings.storage;
    Ok(match storage.r#type {
        StorageType::Filesystem => {
            let named = storage
                .filesystem
                .as_ref()
                .and_then(|filesystem| filesystem.path.clone());
            let path = named.unwrap_or_else(|| settings.node.data_dir.join("objects"));
            shard::private::folder(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
            Arc::new(
                LocalFileSystem::new_with_prefix(&path)?
                    .with_fsync(true)
                    .with_automatic_cleanup(true),
            )
        }
        StorageType::S3 => {
            let section = storage.s3.as_ref().ok_or_else(|| missing("s3"))?;
            Arc::new(clouds::s3(storage, section, &clouds::environment())?)
        }
        StorageType::GCS => {
            let section = storage.gcs.as_ref().ok_or_else(|| missing("gcs"))?;
            Arc::new(clouds::gcs(storage, section, &clouds::environment())?)
        }
        StorageType::Azure => {
            let section = storage.azure.as_ref().ok_or_else(|| missing("azure"))?;
            Arc::new(clouds::azure(storage, section)?)
        }
    })
}

/// The same store for reads of blocks, with less patience: somebody waits for each of them, and blocks are not lost by
/// answering that they cannot be read now.
pub fn for_reads(settings: &NodeSettings, objects: Arc<dyn ObjectStore>) -> anyhow::Result<Arc<dyn ObjectStore>> {
    if settings.storage.r#type == StorageType::Filesystem {
        return Ok(objects);
    }
    let mut hasty = settings.clone();
    let storage = &mut hasty.storage;
    storage.retries_max = storage.retries_max.min(READ_RETRIES_MAX);
    storage.retry_budget = storage.retry_budget.min(READ_RETRY_BUDGET);
    open(&hasty)
}

/// The prefix as a path of the store.
pub fn prefix(settings: &NodeSettings) -> ObjectPath {
    ObjectPath::from(settings.storage.prefix.as_str())
}

fn missing(section: &str) -> anyhow::Error {
    anyhow!("storage.{section} is missing")
}

/// The file without the line break that editors and `kubectl create secret` leave at its end. Never part of an error.
fn read_secret(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the secret {}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Writes, reads and deletes a small object below `prefix`, as the node will do with blocks; in between writes it once
/// more on condition that it is not there, which has to fail: of two clusters that come at once one becomes the owner of
/// a prefix.
///
/// A store without room is only said: it may be read, and a node that waits for room takes up its work by itself.
///
/// Errors: which of the steps failed and what to do about it, in one sentence for the operator.
pub async fn probe(store: &dyn ObjectStore, prefix: &ObjectPath, name: &str) -> anyhow::Result<()> {
    let key = ObjectPath::from_iter(prefix.parts().chain([format!("probe-{name}").into()]));
    let content = format!("vivace probe {name}");
    let steps = async {
        let payload = PutPayload::from(content.clone().into_bytes());
        match store.put(&key, payload).await {
            Ok(_) => {}
            Err(error) if is_full(&error) => {
                tracing::error!(%key, "the object store has no room; blocks wait until it has");
                return Ok(());
            }
            Err(error) => return Err(advice::explain("write", &key, &error)),
        }
        let read = async { store.get(&key).await?.bytes().await };
        let read = read.await.map_err(|error| advice::explain("read back", &key, &error))?;
        if read != content.as_bytes() {
            bail!("object store: {key} reads back other than it was written; it is shared or broken");
        }
        let again = PutPayload::from(content.clone().into_bytes());
        let again = store.put_opts(&key, again, PutMode::Create.into()).await;
        // First: also what is refused afterwards should leave nothing behind.
        store
            .delete(&key)
            .await
            .map_err(|error| advice::explain("delete", &key, &error))?;
        match again {
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(()),
            Ok(_) => bail!(
                "object store: it overwrites what must not exist yet: {}",
                advice::NO_CONDITIONS
            ),
            Err(error) => Err(advice::explain("write on a condition", &key, &error)),
        }
    };
    tokio::time::timeout(PROBE_TIMEOUT, steps).await.unwrap_or_else(|_| {
        Err(anyhow!(
            "object store: no answer within {PROBE_TIMEOUT:?}; check endpoint and network"
        ))
    })
}

fn is_full(error: &StoreError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind;
            return matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        }
        cause = inner.source();
    }
    false
}

/// An error with its causes on one line, bounded; clouds answer with pages of XML.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    let line: Vec<_> = text.split_whitespace().collect();
    line.join(" ").chars().take(600).collect()
}

#[cfg(test)]
mod tests {
    //! A folder as a store; what goes wrong in words.

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn settings_in(folder: &Path) -> NodeSettings {
        let mut settings = settings::parse("storage: {prefix: a/b}").unwrap();
        settings.node.data_dir = folder.to_owned();
        settings
    }

    #[tokio::test]
    async fn a_folder_passes_the_probe_and_is_left_clean() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings_in(folder.path());
        let store = open(&settings).unwrap();
        probe(&*store, &prefix(&settings), "n1").await.unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path().join("objects")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_put_replaces_whole_and_leaves_no_staging_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&settings_in(folder.path())).unwrap();
        let key = ObjectPath::from("x/y");
        for content in ["one", "two"] {
            store.put(&key, PutPayload::from(content)).await.unwrap();
            assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(folder.path().join("objects/x")).unwrap().count(), 1);
    }

    #[test]
    fn keys_come_from_files_without_their_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "secret\n").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_secret(&key).unwrap(), "secret");
        let error = format!("{:#}", read_secret(&folder.path().join("none")).unwrap_err());
        assert!(error.starts_with("cannot read the secret "), "{error}");
    }
}
