//! What `kubectl tracing` shows: a status as tables. Pure; asking the API server is in the binary.

use crds::{TracingCluster, TracingTenant};
use kube::ResourceExt as _;

/// Rows with columns of one width, the first row being the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row<const N: usize>(cells: [String; N]) -> Vec<String> {
    cells.to_vec()
}

fn head<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A cluster as a person wants to see it: what is wrong first.
pub fn status(cluster: &TracingCluster) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let mut facts = vec![
        row([
            "Cluster".to_owned(),
            format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any()),
        ]),
        row(["Status".to_owned(), or_dash(status.phase.clone())]),
        row([
            "Nodes".to_owned(),
            format!("{} of {} ready", status.ready_replicas, status.replicas),
        ]),
        row(["Version".to_owned(), or_dash(status.version.clone())]),
        row(["Id".to_owned(), or_dash(status.cluster_id.clone())]),
    ];
    if let Some(operation) = &status.operation {
        let text = format!(
            "{:?} of {}: {}",
            operation.kind,
            or_dash(operation.target.clone()),
            or_dash(operation.step.clone())
        );
        facts.push(row(["Going on".to_owned(), text]));
    }
    if let Some(endpoints) = &status.endpoints {
        facts.push(row(["Spans".to_owned(), or_dash(endpoints.otlp_grpc.clone())]));
        facts.push(row(["Questions".to_owned(), or_dash(endpoints.query.clone())]));
    }
    let mut conditions = status.conditions.clone();
    // Reconciling, Stalled and Paused are there only while they are so; what is False otherwise is trouble.
    let is_trouble = |kind: &str, is_true: bool| is_true == ["Reconciling", "Stalled", "Paused"].contains(&kind);
    conditions.sort_by_key(|condition| !is_trouble(&condition.type_, condition.status == "True"));
    let mut rows = vec![head(["CONDITION", "STATUS", "REASON", "MESSAGE"])];
    rows.extend(
        conditions
            .into_iter()
            .map(|said| row([said.type_, said.status, said.reason, said.message])),
    );
    format!("{}\n{}\n{}", table(&facts), table(&rows), ring(cluster))
}

/// The nodes and their shards.
pub fn ring(cluster: &TracingCluster) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let leader = status.raft.as_ref().and_then(|raft| raft.leader.clone());
    let mut rows = vec![head([
        "NODE", "ZONE", "STATE", "ROLE", "READY", "VERSION", "SHARDS", "LAG", "LOG",
    ])];
    rows.extend(status.members.into_iter().map(|member| {
        let role = if Some(&member.pod) == leader.as_ref() {
            "Leader".to_owned()
        } else {
            format!("{:?}", member.role)
        };
        row([
            member.pod,
            or_dash(member.zone),
            format!("{:?}", member.state),
            role,
            member.ready.to_string(),
            or_dash(member.version),
            or_dash(member.shards),
            or_dash(member.lag),
            or_dash(member.wal_bytes.map(|bytes| format!("{} MiB", bytes >> 20))),
        ])
    }));
    let mut text = table(&rows);
    if let Some(ring) = status.ring {
        text.push_str(&format!(
            "\n{} shards: {} healthy, {} lack a copy, {} lack a majority, {} on their way\n",
            ring.shards, ring.healthy, ring.under_replicated, ring.unavailable, ring.moving
        ));
    }
    text
}

/// The tenants of a cluster.
pub fn tenants(tenants: &[TracingTenant]) -> String {
    let mut rows = vec![head([
        "NAMESPACE",
        "NAME",
        "TENANT",
        "RETENTION",
        "INGEST",
        "NODES",
        "READY",
        "WHY",
    ])];
    rows.extend(tenants.iter().map(|tenant| {
        let status = tenant.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let effective = status.effective.unwrap_or_default();
        row([
            tenant.namespace().unwrap_or_default(),
            tenant.name_any(),
            or_dash(status.tenant_id),
            effective.retention,
            effective.ingest_bytes_per_second,
            or_dash(status.applied_on),
            or_dash(ready.map(|ready| ready.status.clone())),
            or_dash(ready.map(|ready| ready.reason.clone())),
        ])
    }));
    table(&rows)
}

/// A copy that may be shown to strangers: nothing that names people's buckets, hosts or keys.
pub fn redacted(cluster: &TracingCluster) -> serde_json::Value {
    let mut value = serde_json::to_value(cluster).unwrap_or_default();
    value["metadata"]["managedFields"] = serde_json::Value::Null;
    redact(&mut value, "");
    value
}

fn redact(value: &mut serde_json::Value, key: &str) {
    const HIDDEN: [&str; 10] = [
        "bucket",
        "endpoint",
        "account",
        "container",
        "roleArn",
        "azureClientId",
        "gcpServiceAccount",
        "host",
        "kmsKeyId",
        "url",
    ];
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                redact(value, key);
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(|value| redact(value, key)),
        serde_json::Value::String(text) if HIDDEN.contains(&key) => *text = "REDACTED".to_owned(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    //! A resource in, text out.

    use super::*;

    fn cluster() -> TracingCluster {
        let text = "{apiVersion: x, kind: y, metadata: {name: main, namespace: tracing}, spec: {size: demo, storage: {type: S3, s3: \
                    {bucket: secret-name}, credentials: {mode: NodeIdentity}}}, status: {phase: Running, members: [{pod: \
                    main-node-0, state: Active, ready: true}], conditions: [{type: Available, status: 'True', reason: Serving, \
                    message: x, lastTransitionTime: '2026-11-22T00:00:00Z'}, {type: Ready, status: 'False', reason: Progressing, \
                    message: why, lastTransitionTime: '2026-11-22T00:00:00Z'}]}}";
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn trouble_comes_first_and_columns_stand_below_each_other() {
        let text = status(&cluster());
        let (ready, available) = (text.find("Ready  ").unwrap(), text.find("Available").unwrap());
        assert!(ready < available, "{text}");
        assert!(text.contains("main-node-0  -     Active"), "{text}");
    }

    #[test]
    fn a_report_names_no_bucket() {
        let text = redacted(&cluster()).to_string();
        assert!(!text.contains("secret-name") && text.contains("REDACTED"), "{text}");
    }
}
