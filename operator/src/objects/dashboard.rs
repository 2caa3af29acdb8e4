//! The dashboard about a cluster itself: a handful of panels from one table.

use serde_json::{Value, json};

use crate::validate::Cluster;

/// Title, unit, and query; `$of` stands for the labels that select this cluster's nodes.
const PANELS: &[(&str, &str, &str)] = &[
    (
        "Spans taken, by tenant",
        "cps",
        "sum by (tenant) (rate(vivace_receiver_accepted_spans_total{$of}[$__rate_interval]))",
    ),
    (
        "OTLP bytes taken, by node",
        "Bps",
        "sum by (pod) (rate(vivace_receiver_bytes_total{$of}[$__rate_interval]))",
    ),
    (
        "Requests refused, by reason",
        "reqps",
        "sum by (reason) (rate(vivace_receiver_refused_requests_total{$of}[$__rate_interval]))",
    ),
    (
        "Time to acknowledge, 99th percentile",
        "s",
        "histogram_quantile(0.99, sum by (le, route) (rate(vivace_request_duration_seconds_bucket{$of,route=~\".*[tT]race.*\"}[$__rate_interval])))",
    ),
    (
        "Time to answer, 95th percentile",
        "s",
        "histogram_quantile(0.95, sum by (le, route) (rate(vivace_request_duration_seconds_bucket{$of,route=~\"/api/.*\"}[$__rate_interval])))",
    ),
    ("Live spans, by node", "short", "sum by (pod) (vivace_live_spans{$of})"),
    ("Live bytes, by node", "bytes", "sum by (pod) (vivace_live_bytes{$of})"),
    (
        "Blocks that wait for the bucket",
        "short",
        "sum by (pod) (vivace_spooled_blocks{$of})",
    ),
    (
        "Blocks that could be merged",
        "short",
        "sum by (pod) (vivace_compaction_outstanding_blocks{$of})",
    ),
    (
        "Objects deleted by retention",
        "ops",
        "sum by (pod) (rate(vivace_objects_deleted_total{$of}[$__rate_interval]))",
    ),
    (
        "CPU, by node",
        "short",
        "sum by (pod) (rate(container_cpu_usage_seconds_total{$of,container=\"node\"}[$__rate_interval]))",
    ),
    (
        "Memory, by node",
        "bytes",
        "sum by (pod) (container_memory_working_set_bytes{$of,container=\"node\"})",
    ),
];

/// The dashboard as Grafana imports it.
pub(super) fn json(cluster: &Cluster) -> String {
    let of = format!(
        "namespace=\"{}\",pod=~\"{}-.*-[0-9]+\"",
        cluster.namespace, cluster.name
    );
    let panels: Vec<Value> = PANELS
        .iter()
        .enumerate()
        .map(|(index, (title, unit, query))| {
            json!({
                "id": index + 1,
                "type": "timeseries",
                "title": title,
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "gridPos": {"h": 8, "w": 12, "x": (index % 2) * 12, "y": index / 2 * 8},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": [{"refId": "A", "expr": query.replace("$of", &of)}],
            })
        })
        .collect();
    let uid = super::grafana::uid(&cluster.namespace, &cluster.name, Some("dashboard"));
    let dashboard = json!({
        "uid": uid,
        "title": format!("Vivace {}/{}", cluster.namespace, cluster.name),
        "tags": ["vivace", "tracing"],
        "schemaVersion": 39,
        "editable": false,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Metrics"}]},
        "panels": panels,
    });
    dashboard.to_string()
}
