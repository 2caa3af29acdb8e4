//! The bucket and the credentials for it.
//!
//! One flat enum says which store it is, and one optional block per store holds its options: an enum with data would not
//! make a structural schema. What names the data (type, bucket, prefix) is fixed at creation; how it is reached is not.

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Period;
use crate::rule::{FORBIDDEN, INVALID, REQUIRED, immutable, rule, rules, value};
use crate::section::section;

/// Kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageType {
    /// S3 or a store that speaks S3.
    S3,
    /// Google Cloud Storage.
    GCS,
    /// Azure Blob Storage.
    Azure,
    /// A folder on the node's own volume: for a single node.
    Filesystem,
}

/// Where blocks live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(storage_rules())))]
pub struct Storage {
    /// Kind of object store; the block of that name holds its options. Required. Change: immutable.
    pub r#type: StorageType,
    /// Folder in the bucket that belongs to this cluster alone. Default: namespace/name. Change: immutable.
    #[serde(default)]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    )]
    pub prefix: Option<String>,
    /// Options of S3; with type S3 and only then.
    #[serde(default)]
    pub s3: Option<S3>,
    /// Options of Google Cloud Storage; with type GCS and only then.
    #[serde(default)]
    pub gcs: Option<Gcs>,
    /// Options of Azure Blob Storage; with type Azure and only then.
    #[serde(default)]
    pub azure: Option<Azure>,
    /// How the nodes prove who they are. Required but for Filesystem.
    #[serde(default)]
    pub credentials: Option<Credentials>,
    /// Whom the nodes believe.
    #[serde(default)]
    pub tls: StorageTls,
    /// The operator's own look at the bucket, through a node.
    #[serde(default)]
    pub probe: Probe,
}

/// S3 or a store that speaks S3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// Name of the bucket. Required. Change: immutable.
    #[schemars(length(min = 3, max = 63), regex(pattern = "^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Region. Default: us-east-1, which most stores that are not Amazon's take too. Change: rolling restart.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// URL of a store that is not Amazon's. Default: Amazon's for the region. Change: rolling restart.
    #[serde(default)]
    #[schemars(length(max = 512), regex(pattern = "^https?://[^/]+/?$"))]
    pub endpoint: Option<String>,
    /// Ask endpoint/bucket/key instead of bucket.endpoint/key. Default: true with an endpoint, false without. Change: rolling
    /// restart.
    #[serde(default)]
    pub force_path_style: Option<bool>,
    /// KMS key with which the store encrypts objects. Default: the bucket's own setting. Change: rolling restart.
    #[serde(default)]
    #[schemars(length(min = 1, max = 2048))]
    pub kms_key_id: Option<String>,
}

/// Google Cloud Storage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gcs {
    /// Name of the bucket. Required. Change: immutable.
    #[schemars(length(min = 3, max = 222), regex(pattern = "^[a-z0-9][a-z0-9._-]*[a-z0-9]$"))]
    pub bucket: String,
}

/// Azure Blob Storage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Azure {
    /// Storage account. Required. Change: immutable.
    #[schemars(length(min = 3, max = 24), regex(pattern = "^[a-z0-9]+$"))]
    pub account: String,
    /// Container. Required. Change: immutable.
    #[schemars(length(min = 3, max = 63), regex(pattern = "^[a-z0-9][a-z0-9-]*[a-z0-9]$"))]
    pub container: String,
    /// URL of a store that is not Azure's, with the account in its path. Default: Azure's. Change: rolling restart.
    #[serde(default)]
    #[schemars(length(max = 512), regex(pattern = "^https?://"))]
    pub endpoint: Option<String>,
}

/// How the nodes prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum CredentialsMode {
    /// Keys from a Secret, mounted as files; a change of the Secret needs no restart.
    #[default]
    Static,
    /// The ServiceAccount's token is exchanged for keys: IRSA, GKE and Azure workload identity.
    WorkloadIdentity,
    /// EKS Pod Identity: an association made outside; nothing is injected here.
    PodIdentity,
    /// The machine's own identity, from its metadata service.
    NodeIdentity,
}

section! {
    /// How the nodes prove who they are.
    pub struct Credentials {
        /// Kind of proof. Change: rolling restart.
        mode: CredentialsMode = CredentialsMode::Static,
        /// Secret with the keys, with mode Static and only then. S3: access_key_id, access_key_secret and session_token where
        /// there is one. GCS: key.json. Azure: account_key. Change: live when the Secret changes, rolling restart when the
        /// reference does.
        secret_ref: Option<super::placement::LocalReference> = None,
        /// IAM role that the ServiceAccount takes on. Required with S3 and mode WorkloadIdentity, and only then. Change: rolling restart.
        #[schemars(length(max = 2048), regex(pattern = "^arn:[^:]+:iam::[0-9]+:role/.+$"))]
        role_arn: Option<String> = None,
        /// Client id of the managed identity. Required with Azure and mode WorkloadIdentity, allowed with NodeIdentity. Change:
        /// rolling restart.
        #[schemars(length(max = 36), regex(pattern = "^[0-9a-fA-F-]{36}$"))]
        azure_client_id: Option<String> = None,
        /// Google service account that the ServiceAccount stands for; with GCS and mode WorkloadIdentity. Default: the
        /// ServiceAccount itself is granted access. Change: rolling restart.
        #[schemars(length(max = 320), regex(pattern = "^[^@]+@[^@]+$"))]
        gcp_service_account: Option<String> = None,
    }
}

section! {
    /// Whom the nodes believe.
    pub struct StorageTls {
        /// ConfigMap with the certificates of the store's CA. Default: the authorities in the image. Change: rolling restart.
        ca_config_map_ref: Option<ConfigMapKey> = None,
    }
}

/// One key of a ConfigMap in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapKey {
    /// Name of the ConfigMap. Required. Change: rolling restart.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it. Change: rolling restart.
    #[serde(default = "ca_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn ca_key() -> String {
    "ca.crt".to_owned()
}

section! {
    /// The operator's own look at the bucket, through a node.
    pub struct Probe {
        /// Off: a bucket that cannot be used shows only when a node stumbles over it. Change: live.
        enabled: bool = true,
        /// Time between two looks. Change: live.
        interval: Period = Period::new("5m"),
    }
}

fn storage_rules() -> Vec<Rule> {
    let mode = value("self", "credentials.mode", "'Static'");
    let block = |name: &str, kind: &str| {
        rule(
            INVALID,
            &format!(".{name}"),
            &format!("{name} goes with type {kind}, and only with it"),
            format!("has(self.{name}) == (self.type == '{kind}')"),
        )
    };
    // A change of the type is refused by itself; one reason is enough.
    let stays = |path: &str| {
        let mut rule = immutable(path, "''", "is fixed at creation: the data would stay behind");
        rule.rule = format!("self.type != oldSelf.type || {}", rule.rule);
        rule
    };
    let only_with = |field: &str, condition: String, message: &str| {
        rule(
            FORBIDDEN,
            &format!(".credentials.{field}"),
            message,
            format!("!has(self.credentials) || !has(self.credentials.{field}) || ({condition})"),
        )
    };
    vec![
        block("s3", "S3"),
        block("gcs", "GCS"),
        block("azure", "Azure"),
        rule(
            REQUIRED,
            ".credentials",
            "say how the nodes prove who they are: credentials: {secretRef: {name: ...}}, or a mode; Filesystem needs none",
            "has(self.credentials) == (self.type != 'Filesystem')",
        ),
        rule(
            REQUIRED,
            ".credentials.secretRef",
            "credentials.mode Static needs credentials.secretRef.name, a Secret in this namespace",
            format!("!has(self.credentials) || {mode} != 'Static' || has(self.credentials.secretRef)"),
        ),
        only_with(
            "secretRef",
            format!("{mode} == 'Static'"),
            "a Secret goes with credentials.mode Static, and only with it",
        ),
        only_with(
            "roleArn",
            format!("{mode} == 'WorkloadIdentity' && self.type == 'S3'"),
            "goes with type S3 and credentials.mode WorkloadIdentity, and only with them",
        ),
        only_with(
            "azureClientId",
            format!("({mode} == 'WorkloadIdentity' || {mode} == 'NodeIdentity') && self.type == 'Azure'"),
            "goes with type Azure and credentials.mode WorkloadIdentity or NodeIdentity, and only with them",
        ),
        only_with(
            "gcpServiceAccount",
            format!("{mode} == 'WorkloadIdentity' && self.type == 'GCS'"),
            "goes with type GCS and credentials.mode WorkloadIdentity, and only with them",
        ),
        rule(
            REQUIRED,
            ".credentials.roleArn",
            "with S3, credentials.mode WorkloadIdentity needs credentials.roleArn",
            format!("{mode} != 'WorkloadIdentity' || self.type != 'S3' || has(self.credentials.roleArn)"),
        ),
        rule(
            REQUIRED,
            ".credentials.azureClientId",
            "with Azure, credentials.mode WorkloadIdentity needs credentials.azureClientId",
            format!("{mode} != 'WorkloadIdentity' || self.type != 'Azure' || has(self.credentials.azureClientId)"),
        ),
        rule(
            INVALID,
            ".credentials.mode",
            "PodIdentity is EKS's: it goes with type S3 only",
            format!("{mode} != 'PodIdentity' || self.type == 'S3'"),
        ),
        rule(
            FORBIDDEN,
            ".type",
            "is fixed at creation: the data would stay behind",
            "self.type == oldSelf.type",
        ),
        immutable("prefix", "''", "is fixed at creation: the data would stay behind"),
        stays("s3.bucket"),
        stays("gcs.bucket"),
        stays("azure.account"),
        stays("azure.container"),
    ]
}
