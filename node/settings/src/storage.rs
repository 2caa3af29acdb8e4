//! Where blocks live: a folder, or a bucket of S3, Google Cloud Storage or Azure.
//!
//! Owns [`StorageSettings`]. Always holds: a secret is never in the settings, only the name of the file that has it,
//! so the settings can be printed, kept in a ConfigMap and logged. Exactly one of the four sections may be present,
//! the one that `type` names. Not here: the clients (the server builds them) and the probe of the bucket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::problem::Problems;
use crate::quantity::{ByteSize, Period};
use crate::section::section;

/// Kind of object store; spelled as in the custom resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageType {
    Filesystem,
    S3,
    GCS,
    Azure,
}

section! {
    /// The object store.
    pub struct StorageSettings {
        /// Filesystem, S3, GCS or Azure. Filesystem is for one node only.
        r#type: StorageType = StorageType::Filesystem,
        /// Folder inside the bucket that all objects of this cluster are put under; no leading or trailing slash.
        prefix: String = String::new(),
        /// Time one request may take, connect included; a multipart upload is many requests.
        request_timeout: Period = Period::secs(30),
        /// Time a connection may take to open.
        connect_timeout: Period = Period::secs(5),
        /// Retries of one request on 5xx, 429 and broken connections.
        retries_max: u32 = 6,
        /// Time all retries of one request may take together.
        retry_budget: Period = Period::minutes(1),
        /// Write, read and delete one small object before the node says it is ready.
        probe: bool = true,
        /// What the node keeps of blocks on its own disk, in `cache` of the data directory; `0B` for nothing. Absent: 2 GiB,
        /// or nothing where the store is a folder of this machine.
        #[serde(skip_serializing_if = "Option::is_none")]
        read_cache: Option<ByteSize> = None,
        /// A folder on this machine; only with type Filesystem.
        #[serde(skip_serializing_if = "Option::is_none")]
        filesystem: Option<FilesystemSettings> = None,
        /// A bucket of S3 or of a store that speaks S3; only with type S3.
        #[serde(skip_serializing_if = "Option::is_none")]
        s3: Option<S3Settings> = None,
        /// A bucket of Google Cloud Storage; only with type GCS.
        #[serde(skip_serializing_if = "Option::is_none")]
        gcs: Option<GcsSettings> = None,
        /// A container of Azure Blob Storage; only with type Azure.
        #[serde(skip_serializing_if = "Option::is_none")]
        azure: Option<AzureSettings> = None,
    }
}

section! {
    /// Objects as files.
    pub struct FilesystemSettings {
        /// Folder of the objects; `objects` in the data directory when absent.
        path: Option<PathBuf> = None,
    }
}

section! {
    /// S3. Without key files the usual chain is asked: environment, web identity (IRSA), container and instance metadata.
    pub struct S3Settings {
        /// Name of the bucket. Required.
        bucket: String = String::new(),
        /// Region. Absent: `AWS_REGION` of the environment, else `us-east-1`, which serves most stores that are not Amazon's.
        region: Option<String> = None,
        /// URL of a store that is not Amazon's, `https://minio:9000`. Absent: Amazon's for the region.
        endpoint: Option<String> = None,
        /// Allow an endpoint that begins with `http:`.
        allow_http: bool = false,
        /// Ask `bucket.endpoint/key` instead of `endpoint/bucket/key`.
        virtual_hosted_style: bool = false,
        /// File with the access key id. Needs `secret_access_key_file` too.
        access_key_id_file: Option<PathBuf> = None,
        /// File with the secret access key; must not be readable by everyone.
        secret_access_key_file: Option<PathBuf> = None,
        /// File with the session token of temporary keys.
        session_token_file: Option<PathBuf> = None,
        /// Server-side encryption with this KMS key id (SSE-KMS). Absent: the bucket's own default.
        kms_key_id: Option<String> = None,
    }
}

section! {
    /// GCS. Without a key file the application default credentials are asked (workload identity, metadata server).
    pub struct GcsSettings {
        /// Name of the bucket. Required.
        bucket: String = String::new(),
        /// File with the JSON key of a service account; must not be readable by everyone.
        service_account_file: Option<PathBuf> = None,
    }
}

section! {
    /// Azure. Without a key file the usual chain is asked: environment, workload identity, managed identity.
    pub struct AzureSettings {
        /// Storage account. Required.
        account: String = String::new(),
        /// Container. Required.
        container: String = String::new(),
        /// URL of a store that is not Azure's (Azurite), `http://127.0.0.1:10000/devstoreaccount1`.
        endpoint: Option<String> = None,
        /// Allow an endpoint that begins with `http:`.
        allow_http: bool = false,
        /// File with the account key; must not be readable by everyone.
        account_key_file: Option<PathBuf> = None,
        /// Client id of a user-assigned managed identity.
        client_id: Option<String> = None,
    }
}

/// Smallest part of a multipart upload that all stores take.
pub const UPLOAD_PART: ByteSize = ByteSize::mib(8);

impl StorageSettings {
    /// Bytes of disk for what is read from the store; 0 for no cache.
    pub fn read_cache_bytes(&self) -> u64 {
        match (self.read_cache, self.r#type) {
            (Some(asked), _) => asked.bytes(),
            (None, StorageType::Filesystem) => 0,
            (None, _) => ByteSize::gib(2).bytes(),
        }
    }

    /// The secret files named here, with the path of the field that names them.
    pub fn secret_files(&self) -> Vec<(&'static str, &PathBuf)> {
        let s3 = self.s3.iter().flat_map(|s3| {
            [
                ("storage.s3.access_key_id_file", &s3.access_key_id_file),
                ("storage.s3.secret_access_key_file", &s3.secret_access_key_file),
                ("storage.s3.session_token_file", &s3.session_token_file),
            ]
        });
        let gcs = self
            .gcs
            .iter()
            .map(|gcs| ("storage.gcs.service_account_file", &gcs.service_account_file));
        let azure = self
            .azure
            .iter()
            .map(|azure| ("storage.azure.account_key_file", &azure.account_key_file));
        s3.chain(gcs)
            .chain(azure)
            .filter_map(|(field, path)| path.as_ref().map(|path| (field, path)))
            .collect()
    }

    pub(crate) fn check(&self, problems: &mut Problems) {
        let present = [
            ("filesystem", StorageType::Filesystem, self.filesystem.is_some()),
            ("s3", StorageType::S3, self.s3.is_some()),
            ("gcs", StorageType::GCS, self.gcs.is_some()),
            ("azure", StorageType::Azure, self.azure.is_some()),
        ];
        for (section, kind, is_present) in present {
            if is_present && kind != self.r#type {
                problems.add(
                    section,
                    format!("must be absent, because storage.type is {:?}", self.r#type),
                );
            }
            if !is_present && kind == self.r#type && kind != StorageType::Filesystem {
                problems.add(section, format!("is missing, but storage.type is {:?}", self.r#type));
            }
        }
        if !self.prefix.is_empty() && !self.prefix.split('/').all(is_path_part) {
            problems.add(
                "prefix",
                "use letters, digits and ._- between single slashes, without one at either end",
            );
        }
        problems.between(
            "request_timeout",
            self.request_timeout,
            Period::millis(100),
            Period::minutes(10),
        );
        problems.between(
            "connect_timeout",
            self.connect_timeout,
            Period::millis(100),
            Period::minutes(1),
        );
        problems.at_most("retries_max", self.retries_max, 100);
        problems.at_most("retry_budget", self.retry_budget, Period::minutes(30));
        if let Some(s3) = &self.s3 {
            check_bucket(problems, "s3.bucket", &s3.bucket);
            if let Some(region) = &s3.region {
                check_region(problems, "s3.region", region);
            }
            check_endpoint(problems, "s3.endpoint", s3.endpoint.as_deref(), s3.allow_http);
            if s3.access_key_id_file.is_some() != s3.secret_access_key_file.is_some() {
                problems.add(
                    "s3",
                    "access_key_id_file and secret_access_key_file go together: name both or neither",
                );
            }
            if s3.session_token_file.is_some() && s3.secret_access_key_file.is_none() {
                problems.add(
                    "s3.session_token_file",
                    "needs access_key_id_file and secret_access_key_file",
                );
            }
        }
        if let Some(gcs) = &self.gcs {
            check_bucket(problems, "gcs.bucket", &gcs.bucket);
        }
        if let Some(azure) = &self.azure {
            check_bucket(problems, "azure.account", &azure.account);
            // "$web" and "$root" are containers with a meaning.
            let container = azure.container.strip_prefix('$').unwrap_or(&azure.container);
            check_bucket(problems, "azure.container", container);
            check_endpoint(problems, "azure.endpoint", azure.endpoint.as_deref(), azure.allow_http);
        }
    }
}

fn is_path_part(part: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed)
}

/// Looser than any cloud, since stores of others are looser too; it keeps out what would make another URL.
fn check_bucket(problems: &mut Problems, field: &str, name: &str) {
    if name.is_empty() {
        problems.add(field, "is missing");
    } else if name.len() > 255 || !is_path_part(name) {
        problems.add(field, "is no name: 1 to 255 letters, digits and ._-");
    }
}

fn check_region(problems: &mut Problems, field: &str, name: &str) {
    if name.len() > 63 || !is_path_part(name) {
        problems.add(field, "is no region: 1 to 63 letters, digits and ._-");
    }
}

fn check_endpoint(problems: &mut Problems, field: &str, endpoint: Option<&str>, allow_http: bool) {
    let Some(url) = endpoint else { return };
    let rest = match url.split_once("://") {
        Some(("https", rest)) => rest,
        Some(("http", rest)) if allow_http => rest,
        Some(("http", _)) => {
            return problems.add(field, "begins with http:, which needs allow_http: true beside it");
        }
        _ => return problems.add(field, "must begin with https:// (or http:// with allow_http: true)"),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !is_host(host) || path.contains(|c: char| c.is_whitespace() || c.is_control() || c == '?' || c == '#') {
        problems.add(field, "must be a URL such as https://minio:9000");
    }
}

/// A name or an address, with or without a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // A colon inside brackets is part of an address.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_named = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_path_part(host),
    };
    is_named && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}
