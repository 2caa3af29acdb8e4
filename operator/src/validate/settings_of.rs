//! The settings of the nodes, from the same type that the node parses.
//!
//! **Always holds:** what comes out has passed the node's own validation; what a pod needs to find itself (folders,
//! addresses, the bucket) is never taken from the raw overlay.

use std::path::PathBuf;

use crds::cluster::observability::{LogFormat, LogLevel};
use crds::cluster::security::{AuthMode, TenancyMode};
use crds::cluster::storage::{CredentialsMode, StorageType};
use serde_json::Value;
use settings::cluster::PeerTlsSettings;
use settings::storage::{AzureSettings, FilesystemSettings, GcsSettings, S3Settings, StorageSettings};
use settings::{ByteSize, NodeSettings};

use super::{Cluster, Problem, period};
use crate::names;

/// Folder of the node's volume.
pub(crate) const DATA: &str = "/var/lib/vivace";
/// Folder of the Secret with the store's credentials.
pub(crate) const CREDENTIALS: &str = "/etc/vivace/credentials";

/// Folder of the Secret with the nodes' certificate.
pub(crate) const TLS: &str = "/etc/vivace/tls";
/// Nodes that an empty one asks, at least: one more than may be away.
const SEEDS: u32 = 3;

/// Parts of the settings that the overlay must leave alone, and whose they are.
const OURS: &[(&str, &str)] = &[
    ("node", "names and folders are the operator's"),
    ("shards", "shards are chosen once, when the cluster is made"),
    (
        "listen.otlp_grpc",
        "addresses are the operator's; Service ports are spec.receivers",
    ),
    (
        "listen.otlp_http",
        "addresses are the operator's; Service ports are spec.receivers",
    ),
    ("listen.http", "addresses are the operator's"),
    ("listen.peer", "addresses are the operator's"),
    ("listen.admin", "addresses are the operator's"),
    (
        "cluster",
        "write spec.topology, spec.raft, spec.replicationFactor and spec.tls",
    ),
    ("storage.type", "write spec.storage"),
    ("storage.prefix", "write spec.storage"),
    ("storage.s3", "write spec.storage.s3"),
    ("storage.gcs", "write spec.storage.gcs"),
    ("storage.azure", "write spec.storage.azure"),
    ("storage.filesystem", "write spec.storage"),
    ("tenancy", "write spec.auth"),
    ("limits.tenants", "make a TracingTenant"),
];

/// The settings of every node of this cluster.
pub(super) fn settings_of(cluster: &Cluster) -> Result<NodeSettings, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut settings = NodeSettings::default();
    let spec = &cluster.spec;

    settings.node.cluster.clone_from(&cluster.name);
    settings.node.data_dir = PathBuf::from(DATA);
    for address in [
        &mut settings.listen.otlp_grpc,
        &mut settings.listen.otlp_http,
        &mut settings.listen.http,
    ] {
        address.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
    }
    if !cluster.is_single {
        peers(&mut settings, cluster);
        if !cluster.has_certificates() {
            problems.push(Problem {
                field: "spec.tls.mode".to_owned(),
                message: "Disabled is for one node: several speak with each other over TLS, so write SelfSigned, CertManager or Secret"
                    .to_owned(),
            });
        }
    }
    settings.tenancy.multitenancy_enabled = spec.auth.mode == AuthMode::Header;
    settings.tenancy.tenants_auto = spec.auth.tenancy.mode == TenancyMode::Open;
    settings.tenancy.tenants_auto_max = u32::try_from(spec.auth.tenancy.max_tenants).unwrap_or_default();
    settings.storage = storage(cluster);
    settings.limits.defaults = cluster.tenants.defaults.clone();
    settings.limits.tenants = cluster.tenants.patches.clone();
    settings.shards.count = cluster.shards;
    settings.retention.delete_grace = settings::Period(period(
        "spec.retention.deleteGrace",
        &spec.retention.delete_grace,
        &mut problems,
    ));
    budgets(&mut settings, cluster);
    settings.log.level = match spec.observability.log_level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
    .to_owned();
    settings.log.format = match spec.observability.log_format {
        LogFormat::Text => settings::node::LogFormat::Text,
        LogFormat::Json => settings::node::LogFormat::Json,
    };

    let settings = overlaid(settings, &spec.config, &mut problems);
    if let Err(error) = settings.validate() {
        // That there are no certificates is said above, in the resource's words.
        let other = error.problems().iter().filter(|problem| problem.field != "cluster.tls");
        problems.extend(other.map(|problem| Problem {
            field: said_in(&problem.field),
            message: problem.message.clone(),
        }));
    }
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(problems)
    }
}

/// How a node is one of several. Its own name, address and zone come by its pod's environment.
fn peers(settings: &mut NodeSettings, cluster: &Cluster) {
    let listen = |port: i32| {
        let port = u16::try_from(port).expect("a port");
        Some((std::net::Ipv4Addr::UNSPECIFIED, port).into())
    };
    let host = |pod: &str| names::host(pod, &cluster.name, &cluster.namespace);
    let with_port = |host: String| format!("{host}:{}", names::PEER);
    settings.listen.peer = listen(names::PEER);
    settings.listen.admin = listen(names::ADMIN);
    // Whom to ask is the same however many nodes there are: pods that stay as long as the cluster is one of several.
    let groups = u32::try_from(cluster.groups.len()).unwrap_or(1).max(1);
    let ordinals = 0..SEEDS.div_ceil(groups);
    let seeds = ordinals.flat_map(|ordinal| {
        let pods = cluster
            .groups
            .iter()
            .map(move |group| names::pod(&cluster.name, &group.name, ordinal));
        pods.collect::<Vec<_>>()
    });
    settings.cluster.join = seeds.map(|pod| with_port(host(&pod))).collect();
    settings.cluster.founder = Some(crate::plan::founder(cluster));
    // Stands in for the pod's own, so that the settings can be checked as a whole.
    settings.cluster.advertise = Some(with_port(host("peers")));
    settings.cluster.replicas = cluster.replication_factor;
    settings.cluster.voters = cluster.spec.raft.voters.map(|_| cluster.voters);
    settings.cluster.tls = cluster.has_certificates().then(|| PeerTlsSettings {
        certificate_file: PathBuf::from(format!("{TLS}/tls.crt")),
        key_file: PathBuf::from(format!("{TLS}/tls.key")),
        ca_file: PathBuf::from(format!("{TLS}/ca.crt")),
        // A name that the certificate is for and that no pod has.
        peer_name: host("peers"),
    });
}

/// The resource's field for a field of the settings, where a person would look.
fn said_in(field: &str) -> String {
    let known = [
        ("limits.defaults.retention", "spec.retention.default"),
        ("limits.defaults.search_range_max", "spec.limits.maxSearchRange"),
        ("retention.delete_grace", "spec.retention.deleteGrace"),
        ("storage.s3", "spec.storage.s3"),
        ("storage.gcs", "spec.storage.gcs"),
        ("storage.azure", "spec.storage.azure"),
        ("storage.prefix", "spec.storage.prefix"),
        ("wal.", "spec.persistence.size"),
        ("cluster.replicas", "spec.replicationFactor"),
        ("cluster.voters", "spec.raft.voters"),
    ];
    let found = known.iter().find(|(start, _)| field.starts_with(start));
    found.map_or_else(|| format!("spec.config.{field}"), |(_, said)| (*said).to_owned())
}

/// Disk and memory, from what one node is given.
fn budgets(settings: &mut NodeSettings, cluster: &Cluster) {
    let mib = |bytes: u64| ByteSize(bytes >> 20 << 20);
    // The log shares the volume with blocks that wait for the bucket, and with the bucket itself where it is a folder.
    let per_cent = if cluster.spec.storage.r#type == StorageType::Filesystem {
        30
    } else {
        60
    };
    let quota = mib(cluster.volume_bytes / 100 * per_cent);
    settings.wal.quota_bytes = quota;
    settings.wal.segment_bytes = mib((quota.0 / 8).min(settings.wal.segment_bytes.0));
    settings.flush.tail_bytes = ByteSize(settings.flush.tail_bytes.0.min(quota.0 / 2));
    // Live spans take a quarter of the limit by the node's own rule; these four take another three eighths at most.
    let memory = cluster.memory_bytes;
    let share = |part: u64, least: u64, most: u64| mib((memory / part).clamp(least << 20, most << 20));
    settings.memory.in_flight = share(8, 16, 256);
    settings.memory.in_flight_per_shard = ByteSize((settings.memory.in_flight.0 / 2).min(32 << 20));
    settings.memory.block_cache = share(16, 16, 1_024);
    settings.memory.queries = share(8, 32, 2_048);
    settings.compaction.job_memory = share(8, 32, 512);
    settings.compaction.jobs_max = if memory > 2 << 30 { 2 } else { 1 };
}

fn storage(cluster: &Cluster) -> StorageSettings {
    let wanted = &cluster.spec.storage;
    let credentials = wanted.credentials.clone().unwrap_or_default();
    let file = |key: &str| {
        (credentials.mode == CredentialsMode::Static).then(|| PathBuf::from(format!("{CREDENTIALS}/{key}")))
    };
    let is_plain = |endpoint: &Option<String>| endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
    let mut storage = StorageSettings {
        prefix: cluster.prefix.clone(),
        ..StorageSettings::default()
    };
    match wanted.r#type {
        StorageType::Filesystem => {
            storage.r#type = settings::storage::StorageType::Filesystem;
            storage.filesystem = Some(FilesystemSettings::default());
        }
        StorageType::S3 => {
            storage.r#type = settings::storage::StorageType::S3;
            storage.s3 = wanted.s3.as_ref().map(|s3| S3Settings {
                bucket: s3.bucket.clone(),
                region: s3.region.clone(),
                endpoint: s3.endpoint.as_deref().map(|url| url.trim_end_matches('/').to_owned()),
                allow_http: is_plain(&s3.endpoint),
                virtual_hosted_style: !s3.force_path_style.unwrap_or(s3.endpoint.is_some()),
                access_key_id_file: file("access_key_id"),
                secret_access_key_file: file("access_key_secret"),
                session_token_file: cluster.has_session_token.then(|| file("session_token")).flatten(),
                kms_key_id: s3.kms_key_id.clone(),
            });
        }
        StorageType::GCS => {
            storage.r#type = settings::storage::StorageType::GCS;
            storage.gcs = wanted.gcs.as_ref().map(|gcs| GcsSettings {
                bucket: gcs.bucket.clone(),
                service_account_file: file("key.json"),
            });
        }
        StorageType::Azure => {
            storage.r#type = settings::storage::StorageType::Azure;
            storage.azure = wanted.azure.as_ref().map(|azure| AzureSettings {
                account: azure.account.clone(),
                container: azure.container.clone(),
                endpoint: azure.endpoint.clone(),
                allow_http: is_plain(&azure.endpoint),
                account_key_file: file("account_key"),
                client_id: credentials.azure_client_id.clone(),
            });
        }
    }
    storage
}

/// The settings with the raw overlay merged in.
fn overlaid(
    settings: NodeSettings,
    overlay: &serde_json::Map<String, Value>,
    problems: &mut Vec<Problem>,
) -> NodeSettings {
    if overlay.is_empty() {
        return settings;
    }
    let overlay = Value::Object(overlay.clone());
    for (path, whose) in OURS {
        let pointer = format!("/{}", path.replace('.', "/"));
        if overlay.pointer(&pointer).is_some() {
            problems.push(Problem {
                field: format!("spec.config.{path}"),
                message: format!("cannot be set here: {whose}"),
            });
        }
    }
    let mut merged = serde_json::to_value(&settings).expect("settings are maps of text, numbers and booleans");
    merge(&mut merged, overlay);
    match serde_json::from_value(merged) {
        Ok(settings) => settings,
        Err(error) => {
            problems.push(Problem {
                field: "spec.config".to_owned(),
                message: format!("{error}; the node's example.yaml shows every setting"),
            });
            settings
        }
    }
}

/// Maps are merged, everything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
