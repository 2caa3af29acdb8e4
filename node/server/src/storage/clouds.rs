//! The clients of S3, Google Cloud Storage and Azure, from settings and environment.
//!
//! The platform puts what the chain of credentials needs (IRSA, ECS, workload identity) into the environment, so it is
//! read. Always holds: settings beat the environment, and where settings name keys, no part of a credential comes from
//! the environment: half of each makes a signature that is refused with words about the keys. The environment is handed
//! in; a variable that is empty is as good as none.

use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientOptions, RetryConfig};
use settings::storage::{AzureSettings, GcsSettings, S3Settings, StorageSettings};

use super::keys::{self, Files, KeyFiles};
use super::read_secret;

/// Connections kept open to one host.
const IDLE_CONNECTIONS: usize = 32;

/// Names and values; what is not text means nothing to us.
pub(super) type Environment = [(String, String)];

pub(super) fn environment() -> Vec<(String, String)> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

pub(super) fn s3(storage: &StorageSettings, s3: &S3Settings, environment: &Environment) -> anyhow::Result<AmazonS3> {
    let key_files = match (&s3.access_key_id_file, &s3.secret_access_key_file) {
        (Some(id), Some(secret)) => Some(Files {
            id: id.clone(),
            secret: secret.clone(),
            token: s3.session_token_file.clone(),
        }),
        _ => None,
    };
    let mut builder = AmazonS3Builder::new();
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        use AmazonS3ConfigKey::{AccessKeyId, Endpoint, S3Endpoint, SecretAccessKey, Token};
        match name.to_ascii_lowercase().parse() {
            Ok(AccessKeyId | SecretAccessKey | Token) if key_files.is_some() => {}
            // The second would beat what the settings say.
            Ok(Endpoint | S3Endpoint) if s3.endpoint.is_some() => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => {}
        }
    }
    builder = builder
        .with_bucket_name(&s3.bucket)
        .with_virtual_hosted_style_request(s3.virtual_hosted_style)
        .with_allow_http(s3.allow_http)
        .with_client_options(client(storage, s3.allow_http))
        .with_retry(retry(storage));
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(files) = key_files {
        builder = builder.with_credentials(Arc::new(KeyFiles::open(files, keys::EVERY)?));
    }
    if let Some(key) = &s3.kms_key_id {
        builder = builder.with_sse_kms_encryption(key);
    }
    Ok(builder.build()?)
}

pub(super) fn gcs(
    storage: &StorageSettings,
    gcs: &GcsSettings,
    environment: &Environment,
) -> anyhow::Result<GoogleCloudStorage> {
    use GoogleConfigKey::{ApplicationCredentials, BaseUrl, ServiceAccount, ServiceAccountKey};
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in environment {
        let key = match name.as_str() {
            "SERVICE_ACCOUNT" => Ok(ServiceAccount),
            _ if name.starts_with("GOOGLE_") => name.to_ascii_lowercase().parse(),
            _ => continue,
        };
        match key {
            Ok(ServiceAccount | ServiceAccountKey | ApplicationCredentials) if gcs.service_account_file.is_some() => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => {}
        }
    }
    if let Some(key) = &gcs.service_account_file {
        builder = builder.with_service_account_path(key.to_string_lossy());
    }
    // Keys of test servers say where their server is. One that cannot be read is left to the client to report.
    let key = builder
        .get_config_value(&ServiceAccount)
        .and_then(|path| std::fs::read_to_string(path).ok())
        .or_else(|| builder.get_config_value(&ServiceAccountKey));
    let url = builder.get_config_value(&BaseUrl).or_else(|| {
        let key: serde_json::Value = serde_json::from_str(&key?).ok()?;
        Some(key.get("gcs_base_url")?.as_str()?.to_owned())
    });
    let allow_http = url.is_some_and(|url| url.starts_with("http://"));
    builder = builder
        .with_bucket_name(&gcs.bucket)
        .with_client_options(client(storage, allow_http))
        .with_retry(retry(storage));
    Ok(builder.build()?)
}

pub(super) fn azure(storage: &StorageSettings, azure: &AzureSettings) -> anyhow::Result<MicrosoftAzure> {
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

#[cfg(test)]
#[path = "clouds/tests.rs"]
mod tests;
