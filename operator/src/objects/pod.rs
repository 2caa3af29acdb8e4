//! The pod of a node.
//!
//! **Always holds:** it runs under the restricted pod security standard with a read-only root; liveness asks for nothing
//! but a living process (never Raft, the ring or the bucket, or an outage of the bucket would restart every node);
//! readiness is the node's own; stopping is the node's own too: it hands over when it is told to end, after the Services
//! have forgotten it. The hash covers everything that needs a restart and nothing else.

use std::collections::BTreeMap;

use crds::cluster::placement::{HostAntiAffinity, PullPolicy};
use crds::cluster::security::TlsMode;
use crds::cluster::storage::{CredentialsMode, StorageType};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, HTTPGetAction, KeyToPath,
    Lifecycle, LifecycleHandler, LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ProjectedVolumeSource, SeccompProfile, SecretVolumeSource, SecurityContext, ServiceAccountTokenProjection,
    SleepAction, Volume, VolumeMount, VolumeProjection, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;

use super::overlay::{self, Ignored};
use super::{Given, account, config_map};
use crate::names;
use crate::validate::{CREDENTIALS, Cluster, DATA, Group, TLS};

/// User and group of the node's process.
const USER: i64 = 10_001;
/// Time for a node to hand over before it is killed: leadership, requests in flight, the log.
const GRACE_SECONDS: i64 = 300;
/// Time for Services and load balancers to forget a pod that is ending.
const FORGET_SECONDS: i64 = 5;
/// How long a node may take to read its log back: 900 looks, two seconds apart.
const STARTUP_LOOKS: i32 = 900;

const CONFIG: &str = "/etc/vivace/config";
const STORAGE_CA: &str = "/etc/vivace/storage-ca";
const TOKEN: &str = "/var/run/secrets/tracing.vivace.dev/token";

/// The pod template of a group, its hash, and what the overlay did not get.
pub(super) fn template(cluster: &Cluster, group: &Group, given: &Given) -> (PodTemplateSpec, String, Ignored) {
    let ours = ours(cluster, group, given);
    let (mut template, ignored) = overlay::apply(ours, &cluster.spec.pod_template);
    let hash = hash(&template);
    annotate(&mut template, names::POD_HASH, hash.clone());
    (template, hash, ignored)
}

/// The argument that says where the settings are.
pub(super) fn config_argument() -> String {
    format!("--config={CONFIG}/{}", config_map::FILE)
}

fn hash(template: &PodTemplateSpec) -> String {
    let text = serde_json::to_string(template).expect("a pod template is plain data");
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(text.as_bytes()))
}

fn annotate(template: &mut PodTemplateSpec, key: &str, value: String) {
    let metadata = template.metadata.get_or_insert_default();
    metadata
        .annotations
        .get_or_insert_default()
        .insert(key.to_owned(), value);
}

fn ours(cluster: &Cluster, group: &Group, given: &Given) -> PodTemplateSpec {
    let mut labels = names::labels(&cluster.name);
    labels.extend(names::selector(&cluster.name));
    labels.insert(names::ZONE.to_owned(), group.name.clone());
    labels.insert(names::VERSION.to_owned(), cluster.version.clone());
    if is_identity(cluster, StorageType::Azure, CredentialsMode::WorkloadIdentity) {
        labels.insert("azure.workload.identity/use".to_owned(), "true".to_owned());
    }
    // Of the settings only what needs a restart; the limits in the same file are read again while the node runs.
    let mut annotations = BTreeMap::from([(
        "tracing.vivace.dev/settings".to_owned(),
        config_map::static_hash(cluster),
    )]);
    // A node reads the store's keys when it starts.
    if let Some(hash) = &cluster.credentials_hash {
        annotations.insert("tracing.vivace.dev/credentials".to_owned(), hash.clone());
    }
    if let Some(at) = &given.restarted_at {
        annotations.insert(names::RESTARTED_AT.to_owned(), at.clone());
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(account::name(cluster)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            image_pull_secrets: (!cluster.spec.image.pull_secrets.is_empty()).then(|| {
                let secrets = cluster.spec.image.pull_secrets.iter();
                secrets
                    .map(|secret| LocalObjectReference {
                        name: secret.name.clone(),
                    })
                    .collect()
            }),
            affinity: Some(affinity(cluster, group)),
            containers: vec![container(cluster, group)],
            volumes: Some(volumes(cluster)),
            ..PodSpec::default()
        }),
    }
}

fn container(cluster: &Cluster, group: &Group) -> Container {
    let port = |name: &str, number: i32| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let mut ports = vec![
        port("otlp-grpc", names::OTLP_GRPC),
        port("otlp-http", names::OTLP_HTTP),
        port("http-query", names::QUERY),
    ];
    if !cluster.is_single {
        ports.push(port("raft", names::PEER));
        ports.push(port("http-admin", names::ADMIN));
    }
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some(
            match cluster.spec.image.pull_policy {
                PullPolicy::Always => "Always",
                PullPolicy::IfNotPresent => "IfNotPresent",
                PullPolicy::Never => "Never",
            }
            .to_owned(),
        ),
        args: Some(vec!["standalone".to_owned(), config_argument()]),
        env: Some(environment(cluster, group)),
        ports: Some(ports),
        resources: Some(cluster.resources.clone()),
        startup_probe: Some(probe("/status/version", 2, STARTUP_LOOKS)),
        liveness_probe: Some(probe("/status/version", 10, 6)),
        readiness_probe: Some(probe("/ready", 5, 2)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: FORGET_SECONDS,
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(cluster)),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http-query".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

fn is_identity(cluster: &Cluster, kind: StorageType, mode: CredentialsMode) -> bool {
    let storage = &cluster.spec.storage;
    storage.r#type == kind
        && storage
            .credentials
            .as_ref()
            .is_some_and(|credentials| credentials.mode == mode)
}

fn environment(cluster: &Cluster, group: &Group) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(k8s_openapi::api::core::v1::EnvVarSource {
            field_ref: Some(k8s_openapi::api::core::v1::ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..Default::default()
        }),
        value: None,
    };
    let plain = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    let mut variables = Vec::new();
    if !cluster.is_single {
        variables.push(field("VIVACE_NODE_NAME", "metadata.name"));
        // Its own name, as peers and the operator resolve it; the variable above is expanded by Kubernetes.
        let host = names::host("$(VIVACE_NODE_NAME)", &cluster.name, &cluster.namespace);
        variables.push(plain("VIVACE_ADVERTISE", format!("{host}:{}", names::PEER)));
        variables.extend(group.zone.clone().map(|zone| plain("VIVACE_ZONE", zone)));
    }
    if is_identity(cluster, StorageType::S3, CredentialsMode::WorkloadIdentity)
        && let Some(role) = cluster
            .spec
            .storage
            .credentials
            .as_ref()
            .and_then(|credentials| credentials.role_arn.clone())
    {
        // What EKS's webhook would add; with these it adds nothing, and without the webhook they are needed.
        variables.push(plain("AWS_ROLE_ARN", role));
        variables.push(plain("AWS_WEB_IDENTITY_TOKEN_FILE", format!("{TOKEN}/token")));
        let region = cluster.spec.storage.s3.as_ref().and_then(|s3| s3.region.clone());
        variables.extend(region.map(|region| plain("AWS_REGION", region)));
    }
    if cluster.spec.storage.tls.ca_config_map_ref.is_some() {
        variables.push(plain("SSL_CERT_FILE", format!("{STORAGE_CA}/ca.crt")));
    }
    variables
}

fn mounts(cluster: &Cluster) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("data", DATA, false), mount("config", CONFIG, true)];
    for volume in volumes(cluster) {
        let path = match volume.name.as_str() {
            "credentials" => CREDENTIALS,
            "tls" => TLS,
            "storage-ca" => STORAGE_CA,
            "token" => TOKEN,
            _ => continue,
        };
        mounts.push(mount(&volume.name, path, true));
    }
    mounts
}

/// Name of the Secret with the nodes' certificate.
pub(crate) fn tls_secret(cluster: &Cluster) -> String {
    match (&cluster.spec.tls.mode, &cluster.spec.tls.secret_ref) {
        (TlsMode::Secret, Some(secret)) => secret.name.clone(),
        _ => names::peer_tls(&cluster.name),
    }
}

fn volumes(cluster: &Cluster) -> Vec<Volume> {
    // Readable by the group only: the node refuses a secret that everybody may read.
    let mode = Some(0o440);
    let secret = |volume: &str, name: String| Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name),
            default_mode: mode,
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let config_map = |volume: &str, name: String, items: Option<Vec<KeyToPath>>| Volume {
        name: volume.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name,
            items,
            default_mode: mode,
            optional: None,
        }),
        ..Volume::default()
    };
    let storage = &cluster.spec.storage;
    let mut volumes = vec![config_map("config", names::config(&cluster.name), None)];
    if let Some(credentials) = &storage.credentials
        && let Some(reference) = &credentials.secret_ref
    {
        volumes.push(secret("credentials", reference.name.clone()));
    }
    if cluster.has_certificates() {
        volumes.push(secret("tls", tls_secret(cluster)));
    }
    if let Some(reference) = &storage.tls.ca_config_map_ref {
        let item = KeyToPath {
            key: reference.key.clone(),
            path: "ca.crt".to_owned(),
            mode: None,
        };
        volumes.push(config_map("storage-ca", reference.name.clone(), Some(vec![item])));
    }
    if is_identity(cluster, StorageType::S3, CredentialsMode::WorkloadIdentity) {
        volumes.push(Volume {
            name: "token".to_owned(),
            projected: Some(ProjectedVolumeSource {
                default_mode: mode,
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(ServiceAccountTokenProjection {
                        audience: Some("sts.amazonaws.com".to_owned()),
                        expiration_seconds: Some(3_600),
                        path: "token".to_owned(),
                    }),
                    ..VolumeProjection::default()
                }]),
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn affinity(cluster: &Cluster, group: &Group) -> Affinity {
    let topology = &cluster.spec.topology;
    let node_affinity = group.zone.as_ref().map(|zone| NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![NodeSelectorRequirement {
                    key: topology.zone_key.clone(),
                    operator: "In".to_owned(),
                    values: Some(vec![zone.clone()]),
                }]),
                match_fields: None,
            }],
        }),
        preferred_during_scheduling_ignored_during_execution: None,
    });
    let apart = PodAffinityTerm {
        topology_key: "kubernetes.io/hostname".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(names::selector(&cluster.name)),
            match_expressions: None,
        }),
        ..PodAffinityTerm::default()
    };
    let pod_anti_affinity = match topology.host_anti_affinity {
        HostAntiAffinity::Required => Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![apart]),
            preferred_during_scheduling_ignored_during_execution: None,
        }),
        HostAntiAffinity::Preferred => Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                pod_affinity_term: apart,
                weight: 100,
            }]),
            required_during_scheduling_ignored_during_execution: None,
        }),
        HostAntiAffinity::Disabled => None,
    };
    Affinity {
        node_affinity,
        pod_affinity: None,
        pod_anti_affinity,
    }
}
