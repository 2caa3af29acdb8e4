//! How the store itself is watched: scraping, alerts, log lines.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Period;
use crate::section::section;

/// Whether something is made that needs a kind which not every Kubernetes serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum When {
    /// Where it fits: the kind is served, the label is in use.
    #[default]
    Auto,
    /// Always; a kind that is not served shows in a condition.
    Always,
    /// Never; what there was is removed.
    Never,
}

section! {
    /// How the store itself is watched.
    pub struct Observability {
        /// Prometheus operator's ServiceMonitor.
        service_monitor: Monitor = Monitor::default(),
        /// Prometheus operator's PodMonitor, for set-ups that select those. Default: none.
        pod_monitor: PodMonitor = PodMonitor::default(),
        /// Alerts.
        prometheus_rule: Alerts = Alerts::default(),
        /// Least level of the nodes' log lines. Change: rolling restart.
        log_level: LogLevel = LogLevel::Info,
        /// Form of the nodes' log lines. Change: rolling restart.
        log_format: LogFormat = LogFormat::Json,
    }
}

/// Least level that is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    #[default]
    Json,
}

section! {
    /// Prometheus operator's ServiceMonitor.
    pub struct Monitor {
        /// When it is made; Auto: where the kind is served. Change: live.
        enabled: When = When::Auto,
        /// Labels by which Prometheus selects it. Default: none beside ours. Change: live.
        #[schemars(extend("maxProperties" = 32))]
        labels: BTreeMap<String, String> = BTreeMap::new(),
        /// Time between two scrapes. Change: live.
        interval: Period = Period::new("30s"),
    }
}

section! {
    /// Prometheus operator's PodMonitor.
    pub struct PodMonitor {
        /// When it is made; Auto: where PodMonitor is served and ServiceMonitor is not. Change: live.
        enabled: When = When::Auto,
        /// Labels by which Prometheus selects it. Default: none beside ours. Change: live.
        #[schemars(extend("maxProperties" = 32))]
        labels: BTreeMap<String, String> = BTreeMap::new(),
    }
}

section! {
    /// Prometheus operator's PrometheusRule with our alerts.
    pub struct Alerts {
        /// When it is made; Auto: where the kind is served. Change: live.
        enabled: When = When::Auto,
        /// Labels by which Prometheus selects it. Default: none beside ours. Change: live.
        #[schemars(extend("maxProperties" = 32))]
        labels: BTreeMap<String, String> = BTreeMap::new(),
        /// Alerts that are left out, by name. Default: none. Change: live.
        #[schemars(length(max = 32), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
        disabled_alerts: Vec<String> = Vec::new(),
    }
}
