//! TracingTenants in, limits and verdicts out.

use crds::TracingClusterSpec;

use super::*;

fn spec(text: &str) -> TracingClusterSpec {
    serde_saphyr::from_str(&format!("{{storage: {{type: S3}}, {text}}}")).unwrap()
}

/// `namespace/name day spec`, with labels of the namespace.
fn candidate(written: &str, labels: &[(&str, &str)]) -> Candidate {
    let mut words = written.splitn(3, ' ');
    let (namespace, name) = words.next().unwrap().split_once('/').unwrap();
    let day = words.next().unwrap();
    let spec = words.next().unwrap_or("");
    let text = format!(
        "{{apiVersion: x, kind: y, metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-{day}T00:00:00Z'}}, \
         spec: {{clusterRef: {{name: main, namespace: tracing}}, {spec}}}}}"
    );
    Candidate {
        tenant: serde_saphyr::from_str(&text).unwrap(),
        namespace_labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn resolved(cluster: &str, candidates: &[Candidate]) -> Tenants {
    let mut problems = Vec::new();
    let tenants = resolve("main", "tracing", &spec(cluster), candidates, &mut problems);
    assert_eq!(problems, Vec::new());
    tenants
}

fn outcome(tenants: &Tenants, name: &str) -> Result<String, Rejection> {
    let verdict = tenants.verdicts.iter().find(|verdict| verdict.name == name).unwrap();
    match &verdict.outcome {
        Ok(effective) => Ok(effective.retention.clone()),
        Err((rejection, message)) => {
            assert!(
                message.contains(':') || message.contains("label"),
                "says what to do: {message}"
            );
            Err(*rejection)
        }
    }
}

const HEADER: &str = "auth: {mode: Header}";

#[test]
fn retention_is_the_tenants_the_clusters_and_at_most_the_maximum() {
    let tenants = resolved(
        "auth: {mode: Header}, retention: {default: 14d, maximum: 30d}",
        &[
            candidate("tracing/short 01 retention: {default: 3d}", &[]),
            candidate("tracing/silent 01", &[]),
            candidate("tracing/long 01 retention: {default: 60d}", &[]),
        ],
    );
    assert_eq!(outcome(&tenants, "short"), Ok("3d".to_owned()));
    assert_eq!(outcome(&tenants, "silent"), Ok("14d".to_owned()));
    assert_eq!(outcome(&tenants, "long"), Ok("30d".to_owned()));
    let long = tenants.verdicts.iter().find(|verdict| verdict.name == "long").unwrap();
    assert!(long.note.as_ref().unwrap().contains("cut from 60d to 30d"));
    assert_eq!(tenants.defaults.retention, settings::Period::days(14));
    assert_eq!(tenants.patches["long"].retention, Some(settings::Period::days(30)));
}

#[test]
fn the_older_of_two_counts_whatever_the_order_of_the_list() {
    let older = candidate("tracing/b 01 tenantId: pay, retention: {default: 2d}", &[]);
    let younger = candidate("tracing/a 02 tenantId: pay, retention: {default: 3d}", &[]);
    for candidates in [[older.clone(), younger.clone()], [younger, older]] {
        let tenants = resolved(HEADER, &candidates);
        assert_eq!(outcome(&tenants, "b"), Ok("2d".to_owned()));
        assert_eq!(outcome(&tenants, "a"), Err(Rejection::Conflict));
        assert_eq!(tenants.patches["pay"].retention, Some(settings::Period::days(2)));
    }
}

#[test]
fn other_namespaces_need_the_clusters_leave() {
    let cluster = "auth: {mode: Header, tenancy: {namespaceSelector: {matchLabels: {tracing: allowed}}}}";
    let tenants = resolved(
        cluster,
        &[
            candidate("team-a/a 01", &[("tracing", "allowed")]),
            candidate("team-b/b 01", &[("tracing", "no")]),
        ],
    );
    assert_eq!(outcome(&tenants, "a"), Ok("14d".to_owned()));
    assert_eq!(outcome(&tenants, "b"), Err(Rejection::NamespaceNotAllowed));
    let tenants = resolved(HEADER, &[candidate("team-a/a 01", &[("tracing", "allowed")])]);
    assert_eq!(outcome(&tenants, "a"), Err(Rejection::NamespaceNotAllowed));
    // One that names another cluster is nobody's business here.
    let mut other = candidate("tracing/other 01", &[]);
    other.tenant.spec.cluster_ref.name = "second".to_owned();
    assert_eq!(resolved(HEADER, &[other]).verdicts, Vec::new());
}

#[test]
fn ids_that_nobody_may_have() {
    let tenants = resolved(HEADER, &[candidate("tracing/a 01 tenantId: __system", &[])]);
    assert_eq!(outcome(&tenants, "a"), Err(Rejection::ReservedId));
    let tenants = resolved(
        "auth: {}",
        &[
            candidate("tracing/a 01", &[]),
            candidate("tracing/b 01 tenantId: single-tenant", &[]),
        ],
    );
    assert_eq!(outcome(&tenants, "a"), Err(Rejection::SingleTenant));
    assert_eq!(outcome(&tenants, "b"), Ok("14d".to_owned()));
}

#[test]
fn a_tenant_that_goes_with_its_data_keeps_it_as_short_as_can_be() {
    let mut leaving = candidate("tracing/a 01 deletionPolicy: Delete, retention: {default: 30d}", &[]);
    let mut left = candidate("tracing/b 01 retention: {default: 30d}", &[]);
    for candidate in [&mut leaving, &mut left] {
        candidate.tenant.metadata.deletion_timestamp = candidate.tenant.metadata.creation_timestamp.clone();
    }
    let tenants = resolved(HEADER, &[leaving, left]);
    assert_eq!(tenants.patches["a"].retention, Some(settings::Period::hours(1)));
    assert!(!tenants.patches.contains_key("b"));
    assert!(tenants.accepted().is_empty());
}

#[test]
fn limits_are_spelled_as_the_node_spells_them() {
    let tenants = resolved(
        "auth: {mode: Header}, limits: {ingestBytesPerSecond: 50Mi, maxSearchRange: 30d, queryConcurrency: 7}",
        &[candidate(
            "tracing/a 01 limits: {ingestBytesPerSecond: 100Mi, maxTraceBytes: 5M, maxLiveTraces: 9}",
            &[],
        )],
    );
    assert_eq!(tenants.defaults.ingest_rate, Some(ByteSize::mib(50)));
    assert_eq!(tenants.defaults.trace_bytes_max, ByteSize::mib(10));
    let limits = tenants.defaults.patched(&tenants.patches["a"]);
    assert_eq!(limits.ingest_rate, Some(ByteSize::mib(100)));
    // A burst below the rate would refuse what the rate allows.
    assert_eq!(limits.ingest_burst, ByteSize::mib(100));
    assert_eq!(limits.trace_bytes_max, ByteSize::mb(5));
    assert_eq!((limits.live_traces_max, limits.queries_concurrent_max), (9, 7));
    assert_eq!(limits.search_range_max, settings::Period::days(30));
}
