//! `TracingCluster`: one tracing store, one bucket prefix, one ring.
//!
//! Owns [`TracingClusterSpec`]; its sections live in the files beside it. Rules that concern two sections stand here, those
//! of one section with the section. Nothing in spec or status names a StatefulSet: how pods are kept is the operator's
//! business and may change.

pub mod autoscaling;
pub mod exposure;
pub mod grafana;
pub mod observability;
pub mod placement;
pub mod policy;
pub mod security;
pub mod status;
pub mod storage;
pub mod upgrade;

use kube::CustomResource;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rule::{FORBIDDEN, INVALID, REQUIRED, immutable, rule, rules, value};
use autoscaling::Autoscaling;
use exposure::{Exposure, Receivers};
use grafana::Grafana;
use observability::Observability;
use placement::{ClusterSize, Image, Persistence, PodTemplate, Raft, Resources, Topology};
use policy::{Limits, Retention};
use security::{Auth, ServiceAccount, Tls};
use status::TracingClusterStatus;
use storage::Storage;
use upgrade::Upgrade;

/// What happens to a cluster's data when the resource is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Volumes and bucket stay; a new resource of the same name and prefix takes them up again.
    #[default]
    Retain,
    /// Volumes go, the bucket stays.
    DeletePVCs,
    /// Volumes and everything under the bucket prefix go.
    DeleteAll,
}

/// What is wanted of one tracing store.
#[expect(clippy::duplicated_attributes, reason = "columns of one type resemble each other")]
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tracing.vivace.dev",
    version = "v1alpha1",
    kind = "TracingCluster",
    plural = "tracingclusters",
    shortname = "trc",
    category = "tracing",
    namespaced,
    status = "TracingClusterStatus",
    derive = "PartialEq",
    doc = "A distributed tracing store: OpenTelemetry in, Grafana Tempo's API out.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    selectable = ".spec.storage.type",
    printcolumn(
        name = "Ready",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Pods that serve"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".status.replicas",
        description = "Pods there are"
    ),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Available\")].status",
        description = "Whether spans are taken and questions answered"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.phase",
        description = "For people; tools read conditions"
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.raft.leader", priority = 1),
    printcolumn(
        name = "Shards-Degraded",
        type_ = "integer",
        json_path = ".status.ring.underReplicated",
        priority = 1
    ),
    printcolumn(
        name = "RF",
        type_ = "integer",
        json_path = ".status.effective.replicationFactor",
        priority = 1
    ),
    printcolumn(name = "Storage", type_ = "string", json_path = ".spec.storage.type", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(cluster_rules())))]
pub struct TracingClusterSpec {
    /// Version of the nodes. Default: the operator's own version. Change: rolling restart, one node at a time; at most one
    /// minor version up, and down only until the new version's formats are finalised.
    #[serde(default)]
    #[schemars(length(max = 64), regex(pattern = "^[0-9]+[.][0-9]+[.][0-9]+(-[0-9A-Za-z.-]+)?$"))]
    pub version: Option<String>,

    /// Where the node's image comes from.
    #[serde(default)]
    pub image: Image,

    /// How big: fills in replicas, replication factor, resources and volumes that are not written out. Fields that are
    /// written out win. Change: as for the fields it fills in.
    #[serde(default)]
    pub size: ClusterSize,

    /// Number of nodes in all zones together. Default: by size (demo 1, small 3, medium 6, large 12). Leave it out where
    /// autoscaling.mode is Operator; with External it is what HPA or KEDA writes through the scale subresource. Change:
    /// live, one node at a time; nodes hand over their data before they go.
    #[serde(default)]
    #[schemars(range(min = 1, max = 200))]
    pub replicas: Option<i32>,

    /// Copies of spans that are not in the bucket yet: 1, 3 or 5. Default: by size (demo 1, else 3). Change: live, upward
    /// only.
    #[serde(default)]
    #[schemars(range(min = 1, max = 5))]
    pub replication_factor: Option<i32>,

    /// Zones and how nodes are kept apart.
    #[serde(default)]
    pub topology: Topology,

    /// The group that agrees on membership.
    #[serde(default)]
    pub raft: Raft,

    /// Whether and how the number of nodes follows the load.
    #[serde(default)]
    pub autoscaling: Autoscaling,

    /// The bucket. Required.
    pub storage: Storage,

    /// How long spans are kept.
    #[serde(default)]
    pub retention: Retention,

    /// What one tenant may do, unless its TracingTenant says otherwise.
    #[serde(default)]
    pub limits: Limits,

    /// The nodes' volumes.
    #[serde(default)]
    pub persistence: Persistence,

    /// CPU and memory of one node.
    #[serde(default)]
    pub resources: Resources,

    /// Which protocols the Services offer.
    #[serde(default)]
    pub receivers: Receivers,

    /// Certificates between nodes, and between operator and nodes.
    #[serde(default)]
    pub tls: Tls,

    /// Whose a span is.
    #[serde(default)]
    pub auth: Auth,

    /// Wiring into Grafana.
    #[serde(default)]
    pub grafana: Grafana,

    /// How the store itself is watched.
    #[serde(default)]
    pub observability: Observability,

    /// Services, Ingress, Gateway API, NetworkPolicy.
    #[serde(default)]
    pub exposure: Exposure,

    /// What is merged into every pod: affinity, tolerations, priority, more containers and volumes.
    #[serde(default)]
    pub pod_template: PodTemplate,

    /// The account the nodes run as.
    #[serde(default)]
    pub service_account: ServiceAccount,

    /// Node settings that are merged over what the operator writes, in the form of the node's own file. The last resort: it
    /// shows as condition ConfigOverridden. Default: nothing. Change: live for limits, else rolling restart.
    #[serde(default)]
    #[schemars(schema_with = "free_form")]
    pub config: serde_json::Map<String, Value>,

    /// How versions and settings are rolled out.
    #[serde(default)]
    pub upgrade: Upgrade,

    /// Stops everything that changes the cluster; status goes on. The annotation tracing.vivace.dev/paused: "true" does the
    /// same. Change: live.
    #[serde(default)]
    pub paused: bool,

    /// What goes with the resource when it is deleted. Change: live.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// An object without a schema of ours.
pub(crate) fn free_form(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// CEL for the replication factor in effect.
fn replication_factor(root: &str) -> String {
    value(
        root,
        "replicationFactor",
        &format!("({} == 'demo' ? 1 : 3)", value(root, "size", "'small'")),
    )
}

fn cluster_rules() -> Vec<Rule> {
    let factor = replication_factor("self");
    let zones = value("self", "topology.zones", "[]");
    let mode = value("self", "autoscaling.mode", "'Disabled'");
    let voters = value("self", "raft.voters", "1");
    vec![
        rule(
            FORBIDDEN,
            ".replicas",
            "leave replicas out where autoscaling.mode is Operator: the operator decides between minReplicas and maxReplicas",
            format!("!has(self.replicas) || {mode} != 'Operator'"),
        ),
        rule(
            INVALID,
            ".replicas",
            "must be at least replicationFactor (3 unless written otherwise, 1 with size demo): raise replicas, or write replicationFactor: 1 for a single node",
            format!("!has(self.replicas) || self.replicas >= {factor}"),
        ),
        rule(
            INVALID,
            ".replicas",
            "must be at least raft.voters",
            format!("!has(self.replicas) || self.replicas >= {voters}"),
        ),
        rule(
            INVALID,
            ".replicationFactor",
            "must be odd: 1, 3 or 5 copies; a fourth copy survives no more losses than three do",
            "!has(self.replicationFactor) || self.replicationFactor % 2 == 1",
        ),
        rule(
            INVALID,
            ".replicationFactor",
            "must not be above the number of topology.zones: every copy is in a zone of its own",
            format!("size({zones}) == 0 || {factor} <= size({zones})"),
        ),
        rule(
            FORBIDDEN,
            ".replicationFactor",
            "may only be raised",
            format!("{factor} >= {}", replication_factor("oldSelf")),
        ),
        rule(
            INVALID,
            ".autoscaling.minReplicas",
            "must be at least replicationFactor (3 unless written otherwise)",
            format!(
                "{mode} == 'Disabled' || {} >= {factor}",
                value("self", "autoscaling.minReplicas", "3")
            ),
        ),
        rule(
            FORBIDDEN,
            ".topology.zoneKey",
            "is fixed at creation: pods are bound to their zones by it",
            format!(
                "{} == {}",
                value("self", "topology.zoneKey", "'topology.kubernetes.io/zone'"),
                value("oldSelf", "topology.zoneKey", "'topology.kubernetes.io/zone'")
            ),
        ),
        rule(
            FORBIDDEN,
            ".topology.zones",
            "zones may only be added, and only where there were some at creation: volumes cannot move between zones",
            format!(
                "{old}.all(zone, zone in {zones}) && (size({old}) == 0) == (size({zones}) == 0)",
                old = value("oldSelf", "topology.zones", "[]")
            ),
        ),
        rule(
            INVALID,
            ".raft.voters",
            "may change by one step of two at a time: 1, 3, 5, 7",
            "!has(self.raft) || !has(self.raft.voters) || !has(oldSelf.raft) || !has(oldSelf.raft.voters) || \
             (self.raft.voters - oldSelf.raft.voters <= 2 && oldSelf.raft.voters - self.raft.voters <= 2)",
        ),
        rule(
            FORBIDDEN,
            ".storage.type",
            "Filesystem is for a single node: write size: demo, or replicas: 1 and replicationFactor: 1, without autoscaling",
            format!(
                "self.storage.type != 'Filesystem' || ({} == 1 && {factor} == 1 && {mode} == 'Disabled')",
                value(
                    "self",
                    "replicas",
                    &format!("({} == 'demo' ? 1 : 3)", value("self", "size", "'small'"))
                )
            ),
        ),
        immutable(
            "persistence.storageClassName",
            "''",
            "is fixed at creation: volumes cannot change their class; replace nodes one by one instead",
        ),
        rule(
            FORBIDDEN,
            ".persistence.size",
            "may only grow: volumes cannot shrink",
            "!has(self.persistence) || !has(self.persistence.size) || !has(oldSelf.persistence) || \
             !has(oldSelf.persistence.size) || !quantity(self.persistence.size).isLessThan(quantity(oldSelf.persistence.size))",
        ),
        rule(
            FORBIDDEN,
            ".persistence.accessModes",
            "is fixed at creation",
            format!(
                "{} == {}",
                value("self", "persistence.accessModes", "['ReadWriteOnce']"),
                value("oldSelf", "persistence.accessModes", "['ReadWriteOnce']")
            ),
        ),
        rule(
            REQUIRED,
            ".serviceAccount.name",
            "name the account that the nodes shall use, or let the operator create one",
            "!has(self.serviceAccount) || !has(self.serviceAccount.create) || self.serviceAccount.create || \
             (has(self.serviceAccount.name) && self.serviceAccount.name != '')",
        ),
    ]
}
