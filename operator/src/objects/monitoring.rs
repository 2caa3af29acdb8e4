//! How the store itself is watched: scrape objects and alerts of the Prometheus operator, where their kinds are served.
//!
//! Alerts are few: each says that somebody has to do something, and what.

use std::collections::BTreeMap;

use crds::cluster::observability::When;
use kube::core::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

use super::{Served, dynamic, metadata, wanted};
use crate::names;
use crate::validate::Cluster;

fn labelled(cluster: &Cluster, labels: &BTreeMap<String, String>) -> ObjectMeta {
    let mut metadata = metadata(cluster, &cluster.name);
    metadata.labels.get_or_insert_default().extend(labels.clone());
    metadata
}

pub(super) fn build(
    cluster: &Cluster,
    served: &Served,
    foreign: &mut Vec<DynamicObject>,
    missing: &mut Vec<&'static str>,
) {
    let watched = &cluster.spec.observability;
    let interval = format!(
        "{}s",
        watched
            .service_monitor
            .interval
            .duration()
            .unwrap_or_default()
            .as_secs()
            .max(5)
    );
    let endpoint = json!({"port": "http-query", "path": "/metrics", "interval": interval});
    let mut selector = names::labels(&cluster.name);
    selector.retain(|key, _| [names::NAME, names::INSTANCE].contains(&key.as_str()));

    let has_service_monitor = wanted(
        watched.service_monitor.enabled,
        Served::SERVICE_MONITOR,
        served,
        missing,
    );
    if has_service_monitor {
        // Of the four Services the headless one names every pod once, ready or not.
        let spec = json!({
            "selector": {"matchLabels": selector},
            "endpoints": [{
                "port": "http-query", "path": "/metrics", "interval": interval,
                "relabelings": [
                    {"action": "keep", "sourceLabels": ["__meta_kubernetes_service_name"], "regex": names::peers(&cluster.name)},
                ],
            }],
            "targetLabels": [names::INSTANCE],
        });
        foreign.push(dynamic(
            Served::SERVICE_MONITOR,
            labelled(cluster, &watched.service_monitor.labels),
            spec,
        ));
    }
    let pods = match watched.pod_monitor.enabled {
        When::Auto if has_service_monitor || served.has(Served::SERVICE_MONITOR) => When::Never,
        when => when,
    };
    if wanted(pods, Served::POD_MONITOR, served, missing) {
        let spec = json!({
            "selector": {"matchLabels": names::selector(&cluster.name)},
            "podMetricsEndpoints": [endpoint],
        });
        foreign.push(dynamic(
            Served::POD_MONITOR,
            labelled(cluster, &watched.pod_monitor.labels),
            spec,
        ));
    }
    if wanted(
        watched.prometheus_rule.enabled,
        Served::PROMETHEUS_RULE,
        served,
        missing,
    ) {
        let rules: Vec<Value> = alerts(cluster)
            .into_iter()
            .filter(|alert| {
                let name = alert["alert"].as_str().unwrap_or_default();
                !watched
                    .prometheus_rule
                    .disabled_alerts
                    .iter()
                    .any(|disabled| disabled == name)
            })
            .collect();
        let spec = json!({"groups": [{"name": format!("{}-{}", cluster.namespace, cluster.name), "rules": rules}]});
        foreign.push(dynamic(
            Served::PROMETHEUS_RULE,
            labelled(cluster, &watched.prometheus_rule.labels),
            spec,
        ));
    }
}

fn alerts(cluster: &Cluster) -> Vec<Value> {
    let of = format!(
        "namespace=\"{}\",pod=~\"{}-.*-[0-9]+\"",
        cluster.namespace, cluster.name
    );
    let alert = |name: &str, severity: &str, held: &str, expression: String, summary: &str, action: &str| {
        json!({
            "alert": name,
            "expr": expression,
            "for": held,
            "labels": {"severity": severity, "cluster_name": cluster.name},
            "annotations": {"summary": summary, "description": action},
        })
    };
    vec![
        alert(
            "VivaceNodeDown",
            "critical",
            "5m",
            format!("up{{{of}}} == 0"),
            "A tracing node does not answer.",
            "kubectl tracing status shows which and what the operator is doing about it.",
        ),
        alert(
            "VivaceLogFull",
            "critical",
            "1m",
            format!("vivace_wal_disk_full{{{of}}} > 0"),
            "A node's log is full: spans are refused.",
            "Usually the bucket cannot be written: see condition StorageReady of the TracingCluster.",
        ),
        alert(
            "VivaceBlocksWaiting",
            "warning",
            "15m",
            format!("vivace_spooled_blocks{{{of}}} > 4"),
            "Blocks wait on a node's disk for the bucket.",
            "The bucket is slow or away; acknowledged spans are safe, and the log fills meanwhile.",
        ),
        alert(
            "VivaceSpansRefused",
            "warning",
            "10m",
            format!("sum by (reason) (rate(vivace_receiver_refused_requests_total{{{of}}}[5m])) > 1"),
            "Requests with spans are refused.",
            "The label reason says why: raise the tenant's limits, or add nodes.",
        ),
        alert(
            "VivaceRetentionHeld",
            "warning",
            "1h",
            format!("vivace_retention_held{{{of}}} > 0"),
            "Nothing is being forgotten: a node's clock has jumped.",
            "Check the clock of the machine, then restart the node's pod.",
        ),
        alert(
            "VivaceHousekeepingFails",
            "warning",
            "30m",
            format!("rate(vivace_housekeeping_runs_failed_total{{{of}}}[15m]) > 0"),
            "Merging or forgetting blocks fails.",
            "The node's log says what the bucket answered.",
        ),
    ]
}
