//! The object store of the settings, and whether it can be used.
//!
//! Owns [`open`] and [`probe`]. Credentials come from files, or from the chain of each cloud, which refreshes them.
//!
//! A local folder is opened with fsync on: without it object_store renames files into place that a power cut can still
//! empty, and a block must be durable before the catalog names it. With it, contents are synced before the rename and the
//! folder after it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, Error as StoreError, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig};
use settings::storage::{AzureSettings, GcsSettings, S3Settings, StorageSettings, StorageType};
use settings::{NodeSettings, Period};

/// Connections kept open to one host.
const IDLE_CONNECTIONS: usize = 32;
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
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
            Arc::new(
                LocalFileSystem::new_with_prefix(&path)?
                    .with_fsync(true)
                    .with_automatic_cleanup(true),
            )
        }
        StorageType::S3 => Arc::new(s3(storage, storage.s3.as_ref().ok_or_else(|| missing("s3"))?)?),
        StorageType::GCS => Arc::new(gcs(storage, storage.gcs.as_ref().ok_or_else(|| missing("gcs"))?)?),
        StorageType::Azure => Arc::new(azure(storage, storage.azure.as_ref().ok_or_else(|| missing("azure"))?)?),
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

fn s3(storage: &StorageSettings, s3: &S3Settings) -> anyhow::Result<object_store::aws::AmazonS3> {
    // From the environment: that is where the chain (IRSA, ECS, EC2) finds what the platform put there.
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&s3.bucket)
        .with_region(&s3.region)
        .with_virtual_hosted_style_request(s3.virtual_hosted_style)
        .with_allow_http(s3.allow_http)
        .with_client_options(client(storage, s3.allow_http))
        .with_retry(retry(storage));
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let (Some(id), Some(secret)) = (&s3.access_key_id_file, &s3.secret_access_key_file) {
        builder = builder
            .with_access_key_id(read_secret(id)?)
            .with_secret_access_key(read_secret(secret)?);
    }
    if let Some(token) = &s3.session_token_file {
        builder = builder.with_token(read_secret(token)?);
    }
    if let Some(key) = &s3.kms_key_id {
        builder = builder.with_sse_kms_encryption(key);
    }
    Ok(builder.build()?)
}

fn gcs(storage: &StorageSettings, gcs: &GcsSettings) -> anyhow::Result<object_store::gcp::GoogleCloudStorage> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&gcs.bucket)
        .with_client_options(client(storage, false))
        .with_retry(retry(storage));
    if let Some(key) = &gcs.service_account_file {
        builder = builder.with_service_account_path(key.to_string_lossy());
    }
    Ok(builder.build()?)
}

fn azure(storage: &StorageSettings, azure: &AzureSettings) -> anyhow::Result<object_store::azure::MicrosoftAzure> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_account(&azure.account)
        .with_container_name(&azure.container)
        .with_allow_http(azure.allow_http)
        .with_client_options(client(storage, azure.allow_http))
        .with_retry(retry(storage));
    if let Some(endpoint) = &azure.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(key) = &azure.account_key_file {
        builder = builder.with_access_key(read_secret(key)?);
    }
    if let Some(id) = &azure.client_id {
        builder = builder.with_client_id(id);
    }
    Ok(builder.build()?)
}

fn client(storage: &StorageSettings, allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(storage.request_timeout.duration())
        .with_connect_timeout(storage.connect_timeout.duration())
        .with_pool_max_idle_per_host(IDLE_CONNECTIONS)
        .with_allow_http(allow_http)
}

fn retry(storage: &StorageSettings) -> RetryConfig {
    RetryConfig {
        max_retries: storage.retries_max as usize,
        retry_timeout: storage.retry_budget.duration(),
        ..RetryConfig::default()
    }
}

/// The file without the line break that editors and `kubectl create secret` leave at its end. Never part of an error.
fn read_secret(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the secret {}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Writes, reads and deletes a small object below `prefix`, as the node will do with blocks.
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
            Err(error) => return Err(explain("write", &key, error)),
        }
        let read = async { store.get(&key).await?.bytes().await };
        let read = read.await.map_err(|error| explain("read back", &key, error))?;
        if read != content.as_bytes() {
            bail!("object store: {key} reads back other than it was written; it is shared or broken");
        }
        store.delete(&key).await.map_err(|error| explain("delete", &key, error))
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

fn explain(step: &str, key: &ObjectPath, error: StoreError) -> anyhow::Error {
    let detail = chain(&error);
    let advice = match &error {
        StoreError::PermissionDenied { .. } => {
            "the credentials are not allowed to: grant put, get and delete on the prefix"
        }
        StoreError::Unauthenticated { .. } => "the credentials are missing, wrong or expired",
        _ => advice(&detail),
    };
    anyhow!("object store: cannot {step} {key}: {advice} ({detail})")
}

/// What clients report only as text.
fn advice(detail: &str) -> &'static str {
    let has = |needles: &[&str]| needles.iter().any(|needle| detail.contains(needle));
    if has(&["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]) {
        "the bucket does not exist: create it, or correct its name"
    } else if has(&[
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthenticationFailed",
        "InvalidToken",
        "ExpiredToken",
    ]) {
        "the credentials are wrong or expired"
    } else if has(&["RequestTimeTooSkewed"]) {
        "the clock of this machine is wrong"
    } else if has(&["AccessDenied", "403"]) {
        "the credentials are not allowed to: grant put, get and delete on the prefix"
    } else if has(&["PermanentRedirect", "AuthorizationHeaderMalformed", "301"]) {
        "the bucket is in another region: set storage.s3.region"
    } else if has(&["dns", "Connect", "connect", "timed out"]) {
        "it cannot be reached: check endpoint and network"
    } else {
        "it answered with an error"
    }
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
    fn faults_of_clouds_become_advice() {
        for (detail, expected) in [
            (
                "404 <Code>NoSuchBucket</Code>",
                "the bucket does not exist: create it, or correct its name",
            ),
            (
                "403 <Code>InvalidAccessKeyId</Code>",
                "the credentials are wrong or expired",
            ),
            ("403 <Code>ExpiredToken</Code>", "the credentials are wrong or expired"),
            (
                "403 Forbidden",
                "the credentials are not allowed to: grant put, get and delete on the prefix",
            ),
            (
                "403 <Code>RequestTimeTooSkewed</Code>",
                "the clock of this machine is wrong",
            ),
            (
                "301 <Code>PermanentRedirect</Code>",
                "the bucket is in another region: set storage.s3.region",
            ),
            (
                "error sending request: dns error",
                "it cannot be reached: check endpoint and network",
            ),
            ("500", "it answered with an error"),
        ] {
            assert_eq!(advice(detail), expected, "{detail}");
        }
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
