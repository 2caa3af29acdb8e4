//! Wiring into Grafana: one data source, on up to three ways, under one uid.
//!
//! The ways: grafana-operator's GrafanaDatasource, a labelled Secret or ConfigMap for Grafana's sidecar, Grafana's own HTTP
//! API. The uid is the same on all three, so that dashboards survive a change of way.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::free_form;
use super::observability::When;
use super::storage::ConfigMapKey;
use crate::quantity::Period;
use crate::section::section;

section! {
    /// Wiring into Grafana.
    pub struct Grafana {
        /// The data source.
        datasource: Datasource = Datasource::default(),
        /// Data sources that spans lead to.
        correlations: Correlations = Correlations::default(),
        /// By grafana-operator.
        operator: GrafanaOperator = GrafanaOperator::default(),
        /// By the sidecar of Grafana's chart.
        sidecar: Sidecar = Sidecar::default(),
        /// By Grafana's HTTP API. Default: none. Change: live.
        #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
        api: Vec<GrafanaApi> = Vec::new(),
        /// Dashboards about the store itself.
        dashboards: Dashboards = Dashboards::default(),
    }
}

section! {
    /// The data source.
    pub struct Datasource {
        /// Its name in Grafana. Default: namespace/name of the cluster. Change: live.
        #[schemars(length(min = 1, max = 190))]
        name: Option<String> = None,
        /// Its uid. Default: trc- and a hash of namespace and name. Change: live; dashboards that name the old one lose it.
        #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-zA-Z0-9_-]+$"))]
        uid: Option<String> = None,
        /// Whether it is Grafana's default. Change: live.
        is_default: bool = false,
        /// Whether it may be edited in Grafana; what is edited is put back. Change: live.
        editable: bool = false,
        /// One more data source for every TracingTenant, with the tenant's header. Change: live.
        per_tenant: bool = true,
        /// Merged over the jsonData that the operator writes. Default: nothing. Change: live.
        #[schemars(schema_with = "free_form")]
        json_data: Map<String, Value> = Map::new(),
    }
}

section! {
    /// Data sources that spans lead to, by uid.
    pub struct Correlations {
        /// Loki, for the logs of a span. Default: none. Change: live.
        #[schemars(length(min = 1, max = 40))]
        logs_datasource_uid: Option<String> = None,
        /// Prometheus, for the metrics of a service. Default: none. Change: live.
        #[schemars(length(min = 1, max = 40))]
        metrics_datasource_uid: Option<String> = None,
        /// Pyroscope, for the profile of a span. Default: none. Change: live.
        #[schemars(length(min = 1, max = 40))]
        profiles_datasource_uid: Option<String> = None,
        /// Prometheus with the service graph. Default: metricsDatasourceUid. Change: live.
        #[schemars(length(min = 1, max = 40))]
        service_map_datasource_uid: Option<String> = None,
    }
}

section! {
    /// GrafanaDatasource and GrafanaDashboard of grafana-operator.
    pub struct GrafanaOperator {
        /// When they are made; Auto: where the kind is served. Change: live.
        enabled: When = When::Auto,
        /// Which Grafanas take them. Default: the label dashboards: grafana. Change: live, by making the object anew.
        instance_selector: Option<LabelSelector> = None,
        /// Whether Grafanas of other namespaces may take them. Change: live, by making the object anew.
        allow_cross_namespace_import: bool = true,
        /// How often grafana-operator compares. Change: live.
        resync_period: Period = Period::new("10m"),
    }
}

/// What the sidecar looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum SidecarKind {
    /// A Secret, because headers are in it.
    #[default]
    Secret,
    ConfigMap,
}

section! {
    /// The sidecar of Grafana's chart, which collects labelled objects.
    pub struct Sidecar {
        /// When it is made; Auto: where another object with the label is in the namespace. Change: live.
        enabled: When = When::Auto,
        /// What the sidecar looks for. Change: live.
        kind: SidecarKind = SidecarKind::Secret,
        /// Label of data sources. Change: live.
        #[schemars(length(min = 1, max = 63))]
        label: String = "grafana_datasource".to_owned(),
        /// Value of the label. Change: live.
        #[schemars(length(max = 63))]
        label_value: String = "1".to_owned(),
        /// Namespace to write to. Default: the cluster's own. The operator must be allowed to write there. Change: live.
        #[schemars(length(min = 1, max = 63))]
        namespace: Option<String> = None,
    }
}

/// A Grafana that is told by its HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrafanaApi {
    /// URL of Grafana. Required. Change: live.
    #[schemars(length(max = 512), regex(pattern = "^https?://[^ ]+$"))]
    pub url: String,
    /// Organisation. Default: the token's. Change: live.
    #[serde(default)]
    #[schemars(range(min = 1, max = 2147483647))]
    pub org_id: Option<i32>,
    /// Token of a service account that may write data sources. Required. Change: live.
    pub token_secret_ref: SecretKey,
    /// ConfigMap with the certificates of Grafana's CA. Default: the usual authorities. Change: live.
    #[serde(default)]
    pub ca_config_map_ref: Option<ConfigMapKey>,
}

/// One key of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKey {
    /// Name of the Secret. Required. Change: live.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it. Change: live.
    #[serde(default = "token_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn token_key() -> String {
    "token".to_owned()
}

/// How dashboards reach Grafana.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DashboardsMode {
    /// As GrafanaDashboard where the kind is served, as ConfigMap where the sidecar's label is in use.
    #[default]
    Auto,
    GrafanaDashboard,
    ConfigMap,
    Disabled,
}

section! {
    /// Dashboards about the store itself.
    pub struct Dashboards {
        /// How they reach Grafana. Change: live.
        mode: DashboardsMode = DashboardsMode::Auto,
        /// Folder in Grafana. Change: live.
        #[schemars(length(min = 1, max = 190))]
        folder: String = "Tracing".to_owned(),
        /// More labels on the objects. Default: none. Change: live.
        #[schemars(extend("maxProperties" = 32))]
        labels: BTreeMap<String, String> = BTreeMap::new(),
    }
}
