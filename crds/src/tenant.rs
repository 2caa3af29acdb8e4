//! `TracingTenant`: what one tenant may do and how long its spans are kept.
//!
//! An application team's object, in its own namespace where the cluster allows that, so that teams need no right to write
//! the cluster's. Two objects for one tenant: the older one holds, the other says so in its conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::grafana::Correlations;
use crate::quantity::{Period, Size};
use crate::rule::{FORBIDDEN, INVALID, immutable, rule, rules, seconds};
use crate::section::section;

/// What happens to a tenant's spans when the resource is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TenantDeletionPolicy {
    /// They stay as long as the cluster's default says.
    #[default]
    Retain,
    /// They are forgotten; the resource goes when nothing is left in the bucket.
    Delete,
}

/// The cluster a tenant belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterReference {
    /// Name of the TracingCluster. Required. Change: immutable.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// Its namespace. Default: the tenant's own; another one only where the cluster's auth.tenancy.namespaceSelector matches.
    /// Change: immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// What one tenant may do and how long its spans are kept.
#[expect(clippy::duplicated_attributes, reason = "columns of one type resemble each other")]
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tracing.vivace.dev",
    version = "v1alpha1",
    kind = "TracingTenant",
    plural = "tracingtenants",
    shortname = "trt",
    category = "tracing",
    namespaced,
    status = "TracingTenantStatus",
    derive = "PartialEq",
    doc = "One tenant of a TracingCluster: its limits, its retention, its data source in Grafana.",
    selectable = ".spec.clusterRef.name",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Tenant", type_ = "string", json_path = ".status.tenantId"),
    printcolumn(name = "Retention", type_ = "string", json_path = ".status.effective.retention"),
    printcolumn(
        name = "Ingest",
        type_ = "string",
        json_path = ".status.effective.ingestBytesPerSecond"
    ),
    printcolumn(name = "Synced", type_ = "string", json_path = ".status.appliedOn"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(tenant_rules())))]
pub struct TracingTenantSpec {
    /// The cluster. Required.
    pub cluster_ref: ClusterReference,
    /// Id that spans and questions carry in X-Scope-OrgID. Default: the resource's name. Change: immutable.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$"))]
    pub tenant_id: Option<String>,
    /// Name for people, in Grafana. Default: the tenant id. Change: live.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub display_name: Option<String>,
    /// How long spans are kept.
    #[serde(default)]
    pub retention: TenantRetention,
    /// What this tenant may do; what is not written follows the cluster.
    #[serde(default)]
    pub limits: TenantLimits,
    /// Its data source.
    #[serde(default)]
    pub grafana: TenantGrafana,
    /// What goes with the resource when it is deleted. Change: live.
    #[serde(default)]
    pub deletion_policy: TenantDeletionPolicy,
}

section! {
    /// How long spans are kept.
    #[schemars(extend("x-kubernetes-validations" = rules([rule(
        INVALID,
        ".default",
        "must be at least 1h: a slip of the unit would delete everything",
        format!("!has(self.default) || ({}) >= 3600", seconds("self.default")),
    )])))]
    pub struct TenantRetention {
        /// How long. Default: the cluster's retention.default; at most its retention.maximum. Change: live.
        default: Option<Period> = None,
    }
}

section! {
    /// What this tenant may do on one node.
    pub struct TenantLimits {
        /// Decompressed OTLP bytes per second. Default: the cluster's. Change: live.
        ingest_bytes_per_second: Option<Size> = None,
        /// Bytes that may arrive at once above the rate. Default: the cluster's. Change: live.
        ingest_burst_bytes: Option<Size> = None,
        /// Bytes of one trace. Default: the cluster's. Change: live.
        max_trace_bytes: Option<Size> = None,
        /// Traces that may be live at once in one shard. Default: the cluster's. Change: live.
        #[schemars(range(min = 1, max = 100000000))]
        max_live_traces: Option<i32> = None,
        /// Longest range of a search. Default: the cluster's. Change: live.
        max_search_range: Option<Period> = None,
        /// Queries that run at once on a node. Default: the cluster's. Change: live.
        #[schemars(range(min = 1, max = 10000))]
        query_concurrency: Option<i32> = None,
    }
}

section! {
    /// The tenant's data source.
    pub struct TenantGrafana {
        /// Whether there is one, where the cluster makes one per tenant. Change: live.
        enabled: bool = true,
        /// Its name in Grafana. Default: the cluster's data source and the display name. Change: live.
        #[schemars(length(min = 1, max = 190))]
        name: Option<String> = None,
        /// Data sources that this tenant's spans lead to. Default: the cluster's, field by field. Change: live.
        correlations: Correlations = Correlations::default(),
    }
}

/// What the operator says about a tenant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TracingTenantStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Id in effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Accepted, Synced, DatasourceReady, Ready.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What holds after the cluster's defaults and bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective: Option<TenantEffective>,
    /// Nodes that have it, of how many: "6/6".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_on: Option<String>,
    /// What the tenant uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<TenantUsage>,
    /// uid of its data source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datasource_uid: Option<String>,
}

/// What holds for a tenant after the cluster's defaults and bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TenantEffective {
    /// How long spans are kept.
    pub retention: String,
    /// OTLP bytes per second on one node.
    pub ingest_bytes_per_second: String,
    /// Bytes at once above the rate.
    pub ingest_burst_bytes: String,
    /// Bytes of one trace.
    pub max_trace_bytes: String,
    /// Live traces in one shard.
    pub max_live_traces: i64,
    /// Longest range of a search.
    pub max_search_range: String,
    /// Queries at once on a node.
    pub query_concurrency: i64,
}

/// What a tenant uses.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TenantUsage {
    /// OTLP bytes per second, all nodes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest_bytes_per_second: Option<i64>,
    /// Bytes in the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<i64>,
}

fn tenant_rules() -> Vec<Rule> {
    let same = "is fixed at creation: make a new TracingTenant";
    vec![
        rule(FORBIDDEN, ".clusterRef", same, "self.clusterRef == oldSelf.clusterRef"),
        immutable("tenantId", "''", same),
    ]
}
