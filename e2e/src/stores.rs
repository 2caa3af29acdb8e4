//! Object stores that somebody else wrote, started on loopback, with the settings to reach them.
//!
//! Each start gives a [`Store`]: a process with one empty bucket. Its [`Settings`] point either a client of our own
//! ([`Settings::client`]) or a node ([`Settings::for_node`]) at it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::signer::Signer as _;
use object_store::{ClientOptions, ObjectStore};
use s3s::crypto::{Checksum as _, Sha256};
use serde_json::{Value, json};

use crate::base64;
use crate::client::http_client;
use crate::google::Interpreter;
use crate::process::{Process, START_WITHIN, free_addr};
use crate::s3::{ACCESS_KEY, Dialect, REGION, S3Server, SECRET_KEY, client_builder};
use crate::skip::Unavailable;
use crate::tools::Tool;

/// The bucket or container of every store here. Some of them refuse names under three characters.
pub const BUCKET: &str = "traces";

/// Azurite's only account, as documented by its authors.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Node.js programs are slow to start on a busy machine.
const STORE_WITHIN: Duration = Duration::from_secs(90);

/// How to reach a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// Anything that speaks S3, path style, over plain HTTP.
    S3 {
        /// `http://HOST:PORT`.
        endpoint: String,
        /// Exists already.
        bucket: String,
        /// Access key id.
        access_key: String,
        /// Secret access key.
        secret_key: String,
    },
    /// Azure Blob Storage or what speaks like it.
    Azure {
        /// Base with the account in its path.
        endpoint: String,
        /// Account.
        account: String,
        /// Base64.
        key: String,
        /// Exists already.
        container: String,
    },
    /// Google Cloud Storage or what speaks like it, without authentication.
    Gcs {
        /// `http://HOST:PORT`.
        endpoint: String,
        /// Exists already.
        bucket: String,
    },
}

/// A running store; dropping it ends the process.
#[derive(Debug)]
pub struct Store {
    /// What people call it.
    pub name: &'static str,
    /// How to reach its bucket.
    pub settings: Settings,
    _process: Process,
    _interpreter: Option<Interpreter>,
}

/// The stores that [`start`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// S3 on a disk.
    Minio,
    /// S3 in memory, in Python.
    Moto,
    /// Azure in memory.
    Azurite,
    /// Google in memory, behind an interpreter for what it does not speak of the XML API.
    FakeGcs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Moto, Self::Azurite, Self::FakeGcs, Self::Minio];

    /// The program it is.
    pub fn tool(self) -> Tool {
        match self {
            Self::Minio => Tool::Minio,
            Self::Moto => Tool::Moto,
            Self::Azurite => Tool::Azurite,
            Self::FakeGcs => Tool::FakeGcs,
        }
    }
}

/// Starts a store with an empty bucket; its files and its log go to `scratch`.
///
/// # Errors
/// [`Unavailable`] when the program is not installed. One that is installed and does not start is an error.
pub async fn start(kind: Kind, scratch: &Path) -> Result<anyhow::Result<Store>, Unavailable> {
    let program = kind.tool().obtain()?;
    let started = match kind {
        Kind::Minio => minio(&program, scratch).await,
        Kind::Moto => moto(&program, scratch).await,
        Kind::Azurite => azurite(&program, scratch).await,
        Kind::FakeGcs => fake_gcs(&program, scratch).await,
    };
    Ok(started.with_context(|| format!("{} did not start", kind.tool().name())))
}

async fn minio(program: &Path, scratch: &Path) -> anyhow::Result<Store> {
    let addr = free_addr()?;
    let data = scratch.join("minio-data");
    std::fs::create_dir_all(&data)?;
    let mut command = Command::new(program);
    command
        .args([
            "server",
            "--quiet",
            "--address",
            &addr.to_string(),
            "--console-address",
            "127.0.0.1:0",
        ])
        .arg(&data)
        .env("MINIO_ROOT_USER", ACCESS_KEY)
        .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
        .env("MINIO_BROWSER", "off")
        // It would otherwise ask its makers for news.
        .env("MINIO_UPDATE", "off")
        .env("MINIO_CALLHOME_ENABLE", "off");
    let mut process = Process::start("minio", command, scratch).await?;
    process
        .answering(&format!("http://{addr}/minio/health/ready"), STORE_WITHIN)
        .await?;
    s3_store("minio", addr, process).await
}

async fn moto(python: &Path, scratch: &Path) -> anyhow::Result<Store> {
    let addr = free_addr()?;
    let mut command = Command::new(python);
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &addr.port().to_string()]);
    let mut process = Process::start("moto", command, scratch).await?;
    process.accepting(addr, STORE_WITHIN).await?;
    s3_store("moto", addr, process).await
}

async fn s3_store(name: &'static str, addr: SocketAddr, mut process: Process) -> anyhow::Result<Store> {
    let endpoint = format!("http://{addr}");
    // MinIO says that it is ready some moments before it takes writes.
    process
        .until(STORE_WITHIN, "create a bucket", async || {
            create_bucket(&endpoint, ACCESS_KEY, SECRET_KEY).await.is_ok()
        })
        .await?;
    let settings = Settings::S3 {
        endpoint,
        bucket: BUCKET.to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
    };
    Ok(Store {
        name,
        settings,
        _process: process,
        _interpreter: None,
    })
}

/// Makes [`BUCKET`] where S3 is spoken.
pub async fn create_bucket(endpoint: &str, access_key: &str, secret_key: &str) -> anyhow::Result<()> {
    let client = client_builder(endpoint, BUCKET, access_key, secret_key).build()?;
    let path = object_store::path::Path::default();
    let url = client.signed_url(http::Method::PUT, &path, START_WITHIN).await?;
    let created = http_client()?.put(url).header("content-length", "0").send().await?;
    ensure!(
        created.status().is_success(),
        "creating the bucket: {}",
        created.status()
    );
    Ok(())
}

async fn azurite(script: &Path, scratch: &Path) -> anyhow::Result<Store> {
    let addr = free_addr()?;
    let mut command = Command::new("node");
    command
        .arg(script)
        .args([
            "--inMemoryPersistence",
            "--skipApiVersionCheck",
            "--silent",
            "--disableTelemetry",
        ])
        .args(["--blobHost", "127.0.0.1", "--blobPort", &addr.port().to_string()])
        .current_dir(scratch);
    let mut process = Process::start("azurite", command, scratch).await?;
    process.accepting(addr, STORE_WITHIN).await?;
    let endpoint = format!("http://{addr}/{AZURE_ACCOUNT}");
    create_container(&endpoint).await?;
    let settings = Settings::Azure {
        endpoint,
        account: AZURE_ACCOUNT.to_owned(),
        key: AZURE_KEY.to_owned(),
        container: BUCKET.to_owned(),
    };
    Ok(Store {
        name: "azurite",
        settings,
        _process: process,
        _interpreter: None,
    })
}

async fn fake_gcs(program: &Path, scratch: &Path) -> anyhow::Result<Store> {
    let addr = free_addr()?;
    let mut command = Command::new(program);
    // The XML API answers on its public host alone.
    command
        .args(["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"])
        .args(["-port", &addr.port().to_string(), "-public-host", &addr.to_string()])
        .current_dir(scratch);
    let mut process = Process::start("fake-gcs-server", command, scratch).await?;
    process.accepting(addr, STORE_WITHIN).await?;
    let created = http_client()?
        .post(format!("http://{addr}/storage/v1/b"))
        .header("content-type", "application/json")
        .body(json!({"name": BUCKET}).to_string())
        .send()
        .await?;
    ensure!(
        created.status().is_success(),
        "creating the bucket: {}",
        created.status()
    );
    let interpreter = Interpreter::start(addr).await?;
    Ok(Store {
        name: "fake-gcs-server",
        settings: Settings::Gcs {
            endpoint: format!("http://{}", interpreter.addr),
            bucket: BUCKET.to_owned(),
        },
        _process: process,
        _interpreter: Some(interpreter),
    })
}

/// `Create Container`, which object_store has no call for, signed with the account's shared key.
async fn create_container(endpoint: &str) -> anyhow::Result<()> {
    let version = "2021-08-06";
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now())?;
    let headers = format!("x-ms-date:{date}\nx-ms-version:{version}");
    // Eleven empty lines: content headers, date and conditions that are not sent.
    let text =
        format!("PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}\n/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container");
    let signature = base64::encode(&hmac_sha256(&base64::decode(AZURE_KEY)?, text.as_bytes()));
    let response = http_client()?
        .put(format!("{endpoint}/{BUCKET}?restype=container"))
        .header("x-ms-date", date)
        .header("x-ms-version", version)
        .header("authorization", format!("SharedKey {AZURE_ACCOUNT}:{signature}"))
        .header("content-length", "0")
        .send()
        .await?;
    let status = response.status();
    ensure!(
        status.is_success(),
        "creating the container: {status}: {}",
        response.text().await?
    );
    Ok(())
}

impl Settings {
    /// Those of the server in this process.
    pub fn of(server: &S3Server) -> Self {
        if server.dialect() == Dialect::Gcs {
            return Self::Gcs {
                endpoint: server.endpoint(),
                bucket: server.bucket().to_owned(),
            };
        }
        Self::S3 {
            endpoint: server.endpoint(),
            bucket: server.bucket().to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
        }
    }

    /// A client of our own.
    pub fn client(&self) -> anyhow::Result<Arc<dyn ObjectStore>> {
        Ok(match self {
            Self::S3 {
                endpoint,
                bucket,
                access_key,
                secret_key,
            } => Arc::new(client_builder(endpoint, bucket, access_key, secret_key).build()?),
            Self::Azure {
                endpoint,
                account,
                key,
                container,
            } => Arc::new(
                MicrosoftAzureBuilder::new()
                    .with_endpoint(endpoint.clone())
                    .with_account(account)
                    .with_access_key(key)
                    .with_container_name(container)
                    .with_allow_http(true)
                    .build()?,
            ),
            Self::Gcs { endpoint, bucket } => Arc::new(
                GoogleCloudStorageBuilder::new()
                    .with_service_account_key(service_account(endpoint))
                    .with_bucket_name(bucket)
                    .with_client_options(ClientOptions::new().with_allow_http(true))
                    .build()?,
            ),
        })
    }

    /// The `storage` section of a node's settings; keys are written to files in `secrets`, as a node wants them.
    pub fn for_node(&self, secrets: &Path) -> anyhow::Result<Value> {
        std::fs::create_dir_all(secrets)?;
        Ok(match self {
            Self::S3 {
                endpoint,
                bucket,
                access_key,
                secret_key,
            } => json!({"type": "S3", "s3": {
                "bucket": bucket,
                "region": REGION,
                "endpoint": endpoint,
                "allow_http": true,
                "access_key_id_file": secret_file(secrets, "access-key-id", access_key)?,
                "secret_access_key_file": secret_file(secrets, "secret-access-key", secret_key)?,
            }}),
            Self::Azure {
                endpoint,
                account,
                key,
                container,
            } => json!({"type": "Azure", "azure": {
                "account": account,
                "container": container,
                "endpoint": endpoint,
                "allow_http": true,
                "account_key_file": secret_file(secrets, "account-key", key)?,
            }}),
            Self::Gcs { endpoint, bucket } => json!({"type": "GCS", "gcs": {
                "bucket": bucket,
                "service_account_file": secret_file(secrets, "service-account.json", &service_account(endpoint))?,
            }}),
        })
    }
}

/// A service account that names the endpoint and asks for no token.
fn service_account(endpoint: &str) -> String {
    json!({
        "gcs_base_url": endpoint,
        "disable_oauth": true,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    })
    .to_string()
}

fn secret_file(dir: &Path, name: &str, content: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, content)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

/// RFC 2104, for keys of at most one block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::checksum(&[&pad(0x36), message].concat());
    Sha256::checksum(&[pad(0x5c).as_slice(), inner.as_ref()].concat())
        .as_ref()
        .to_vec()
}
