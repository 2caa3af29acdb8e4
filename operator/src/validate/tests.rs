//! Specs in, what holds or what is wrong out.

use super::*;

fn environment() -> Environment {
    Environment {
        version: "0.4.1".to_owned(),
        node_image: "registry:5000/vivace/vivace:0.4.1@sha256:0".to_owned(),
        namespace: "vivace-system".to_owned(),
    }
}

fn cluster(spec: &str, status: &str) -> TracingCluster {
    let text = format!(
        "{{metadata: {{name: main, namespace: tracing}}, status: {status}, spec: {{storage: {{type: S3, s3: {{bucket: traces}}, \
         credentials: {{secretRef: {{name: s3}}}}}}, {spec}}}, apiVersion: x, kind: y}}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

fn valid(spec: &str) -> Cluster {
    validate(&cluster(spec, "{}"), &Lookups::default(), &environment()).unwrap()
}

/// field: start of the message, one per problem.
fn problems(spec: &str) -> Vec<String> {
    match validate(&cluster(spec, "{}"), &Lookups::default(), &environment()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .iter()
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect(),
    }
}

#[test]
fn sizes_fill_in_what_is_not_written() {
    for (spec, replicas, factor, voters, memory) in [
        ("size: demo", 1, 1, 1, 1 << 30),
        ("size: small", 3, 3, 3, 2 << 30),
        ("size: medium", 6, 3, 3, 4 << 30),
        ("size: large", 12, 3, 5, 8 << 30),
        ("replicas: 4", 4, 3, 3, 2 << 30),
        ("replicas: 1, replicationFactor: 1", 1, 1, 1, 2 << 30),
        ("replicas: 2, replicationFactor: 1", 2, 1, 1, 2 << 30),
        ("size: large, replicas: 4", 4, 3, 3, 8 << 30),
        ("resources: {limits: {memory: 3Gi}}", 3, 3, 3, 3 << 30),
        ("resources: {requests: {memory: 3Gi}}", 3, 3, 3, 3 << 30),
    ] {
        let cluster = valid(spec);
        let found = (
            cluster.replicas,
            cluster.replication_factor,
            cluster.voters,
            cluster.memory_bytes,
        );
        assert_eq!(found, (replicas, factor, voters, memory), "{spec}");
    }
    assert!(valid("size: demo").is_single);
    assert!(!valid("replicas: 2, replicationFactor: 1").is_single);
}

#[test]
fn memory_stays_within_the_limit_for_every_size() {
    for spec in [
        "size: demo",
        "size: small",
        "size: medium",
        "size: large",
        "size: demo, resources: {limits: {memory: 256Mi}}",
    ] {
        let cluster = valid(spec);
        let memory = &cluster.settings.memory;
        let merges = cluster.settings.compaction.job_memory.0 * u64::from(cluster.settings.compaction.jobs_max);
        let heads = cluster.memory_bytes / 4;
        let sum = heads + memory.in_flight.0 + memory.block_cache.0 + memory.queries.0 + merges;
        assert!(
            sum <= cluster.memory_bytes * 9 / 10,
            "{spec}: {sum} of {}",
            cluster.memory_bytes
        );
    }
}

#[test]
fn who_decides_the_number_of_nodes() {
    let replicas = |spec: &str, status: &str| {
        validate(&cluster(spec, status), &Lookups::default(), &environment())
            .unwrap()
            .replicas
    };
    let wish = "{autoscaling: {desiredReplicas: 7}}";
    assert_eq!(replicas("replicas: 4", wish), 4);
    assert_eq!(replicas("autoscaling: {mode: Operator}", "{}"), 3);
    assert_eq!(replicas("autoscaling: {mode: Operator}", wish), 7);
    assert_eq!(replicas("autoscaling: {mode: Operator, maxReplicas: 5}", wish), 5);
    assert_eq!(replicas("autoscaling: {mode: External, minReplicas: 4}", wish), 4);
    assert_eq!(replicas("autoscaling: {mode: External}, replicas: 9", wish), 9);
}

#[test]
fn images_are_put_together() {
    assert_eq!(valid("size: demo").image, "registry:5000/vivace/vivace:0.4.1@sha256:0");
    assert_eq!(valid("version: 0.5.0").image, "registry:5000/vivace/vivace:0.5.0");
    assert_eq!(valid("image: {repository: 'mine:5000/v'}").image, "mine:5000/v:0.4.1");
    assert_eq!(valid("image: {tag: debug}").image, "registry:5000/vivace/vivace:debug");
    assert_eq!(
        valid("image: {tag: debug, digest: 'sha256:1'}").image,
        "registry:5000/vivace/vivace:debug@sha256:1"
    );
}

#[test]
fn shards_are_chosen_once() {
    let shards = |spec: &str, status: &str| {
        validate(&cluster(spec, status), &Lookups::default(), &environment())
            .unwrap()
            .settings
            .shards
            .count
    };
    assert_eq!(shards("size: small", "{}"), 8);
    assert_eq!(shards("size: large", "{shards: 8}"), 8);
}

#[test]
fn nodes_are_spread_evenly() {
    let cluster = valid("replicas: 7, topology: {zones: [a, b, c]}");
    assert_eq!(cluster.spread(7), [3, 2, 2]);
    assert_eq!(cluster.spread(3), [1, 1, 1]);
    assert_eq!(cluster.spread(2), [1, 1, 0]);
    assert_eq!(cluster.floor(), 3);
    assert_eq!(valid("size: demo").floor(), 1);
}

#[test]
fn what_needs_arithmetic_is_refused_with_its_field() {
    for (spec, wanted) in [
        (
            "autoscaling: {mode: External}, replicas: 2",
            "spec.replicas: 2 nodes cannot hold 3 copies",
        ),
        (
            "resources: {requests: {cpu: much}}",
            "spec.resources.requests.cpu: \"much\" is not a quantity",
        ),
        (
            "resources: {requests: {memory: 4Gi}, limits: {memory: 2Gi}}",
            "spec.resources.limits.memory: must not be below",
        ),
        (
            "resources: {limits: {memory: 255Mi}}",
            "spec.resources.limits.memory: a node needs at least",
        ),
        (
            "retention: {deleteGrace: 30s}",
            "spec.retention.deleteGrace: must not be below the longest query",
        ),
        (
            "limits: {maxSearchRange: 30s}",
            "spec.limits.maxSearchRange: 30s is too small",
        ),
        ("tls: {mode: Disabled}", "spec.tls.mode: Disabled is for one node"),
        ("config: {flush: {tail: 1}}", "spec.config: unknown field `tail`"),
        (
            "config: {node: {cluster: other}}",
            "spec.config.node: cannot be set here",
        ),
        (
            "config: {storage: {s3: {bucket: other}}}",
            "spec.config.storage.s3: cannot be set here",
        ),
        (
            "config: {query: {search_limit: 0}}",
            "spec.config.query.search_limit: must be at least 1",
        ),
        (
            "auth: {tenancy: {namespaceSelector: {matchExpressions: [{key: a, operator: Near}]}}}",
            "spec.auth.tenancy.namespaceSelector:",
        ),
    ] {
        let found = problems(spec);
        assert!(
            found.iter().any(|problem| problem.starts_with(wanted)),
            "{spec}: {found:#?}"
        );
    }
    // The least that the schema lets through is enough for a node.
    assert_eq!(problems("persistence: {size: 1Gi}"), Vec::<String>::new());
}
