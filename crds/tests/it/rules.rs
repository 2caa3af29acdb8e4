//! Every CEL rule with an object it accepts and one it refuses, for that reason alone.
//!
//! A case is the field and the beginning of the message, then the two specs, and for rules about changes the stored one.
//! The last test holds the table against the definitions: a rule without a case fails it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vivace_crds::admission::{Door, Refusal};
use vivace_crds::definitions;

const S3: &str = "storage: {type: S3, s3: {bucket: traces}, credentials: {secretRef: {name: s3}}}";

struct Case {
    /// Field and start of the message.
    rule: &'static str,
    good: &'static str,
    bad: &'static str,
    /// What is stored, for a rule about changes; both specs above are updates of it.
    old: Option<&'static str>,
}

const fn created(rule: &'static str, good: &'static str, bad: &'static str) -> Case {
    Case {
        rule,
        good,
        bad,
        old: None,
    }
}

const fn changed(rule: &'static str, old: &'static str, good: &'static str, bad: &'static str) -> Case {
    Case {
        rule,
        good,
        bad,
        old: Some(old),
    }
}

/// What is written here stands beside [`S3`] unless it has a storage of its own.
const CLUSTER: &[Case] = &[
    created(
        "spec.replicas: leave replicas out",
        "{autoscaling: {mode: Operator}}",
        "{autoscaling: {mode: Operator}, replicas: 3}",
    ),
    created(
        "spec.replicas: must be at least replicationFactor",
        "{replicas: 1, replicationFactor: 1}",
        "{replicas: 2}",
    ),
    created(
        "spec.replicas: must be at least raft.voters",
        "{replicas: 5, raft: {voters: 5}}",
        "{replicas: 4, raft: {voters: 5}}",
    ),
    created(
        "spec.replicationFactor: must be odd",
        "{replicationFactor: 5, replicas: 5}",
        "{replicationFactor: 4, replicas: 5}",
    ),
    created(
        "spec.replicationFactor: must not be above",
        "{topology: {zones: [a, b, c]}}",
        "{topology: {zones: [a, b]}}",
    ),
    changed(
        "spec.replicationFactor: may only be raised",
        "{replicas: 5, replicationFactor: 3}",
        "{replicas: 5, replicationFactor: 5}",
        "{replicas: 5, replicationFactor: 1}",
    ),
    changed(
        "spec.replicationFactor: may only be raised",
        "{size: small}",
        "{size: medium}",
        "{size: demo}",
    ),
    created(
        "spec.autoscaling.minReplicas: must be at least replicationFactor",
        "{autoscaling: {mode: Operator, minReplicas: 3}}",
        "{autoscaling: {mode: Operator, minReplicas: 2}}",
    ),
    changed(
        "spec.topology.zoneKey: is fixed",
        "{}",
        "{topology: {zoneKey: topology.kubernetes.io/zone}}",
        "{topology: {zoneKey: rack}}",
    ),
    changed(
        "spec.topology.zones: zones may only be added",
        "{topology: {zones: [a, b, c]}}",
        "{topology: {zones: [a, b, c, d]}}",
        "{topology: {zones: [a, b, d]}}",
    ),
    changed(
        "spec.topology.zones: zones may only be added",
        "{}",
        "{topology: {zones: []}}",
        "{topology: {zones: [a, b, c]}}",
    ),
    changed(
        "spec.raft.voters: may change by one step",
        "{replicas: 7, raft: {voters: 3}}",
        "{replicas: 7, raft: {voters: 5}}",
        "{replicas: 7, raft: {voters: 7}}",
    ),
    created(
        "spec.storage.type: Filesystem is for a single node",
        "{size: demo, storage: {type: Filesystem}}",
        "{storage: {type: Filesystem}}",
    ),
    created(
        "spec.storage.type: Filesystem is for a single node",
        "{replicas: 1, replicationFactor: 1, storage: {type: Filesystem}}",
        "{replicas: 2, replicationFactor: 1, storage: {type: Filesystem}}",
    ),
    changed(
        "spec.persistence.storageClassName: is fixed",
        "{persistence: {storageClassName: fast}}",
        "{persistence: {storageClassName: fast, size: 30Gi}}",
        "{persistence: {storageClassName: slow}}",
    ),
    changed(
        "spec.persistence.storageClassName: is fixed",
        "{}",
        "{persistence: {size: 30Gi}}",
        "{persistence: {storageClassName: slow}}",
    ),
    changed(
        "spec.persistence.size: may only grow",
        "{persistence: {size: 20Gi}}",
        "{persistence: {size: 21Gi}}",
        "{persistence: {size: 20G}}",
    ),
    changed(
        "spec.persistence.accessModes: is fixed",
        "{}",
        "{persistence: {accessModes: [ReadWriteOnce]}}",
        "{persistence: {accessModes: [ReadWriteMany]}}",
    ),
    created(
        "spec.serviceAccount.name: name the account",
        "{serviceAccount: {create: false, name: nodes}}",
        "{serviceAccount: {create: false}}",
    ),
    created(
        "spec.raft.voters: must be odd",
        "{raft: {voters: 3}}",
        "{raft: {voters: 2}}",
    ),
    created(
        "spec.persistence.size: must be at least 1Gi",
        "{persistence: {size: 1Gi}}",
        "{persistence: {size: 1023Mi}}",
    ),
    created(
        "spec.autoscaling.maxReplicas: must be at least",
        "{autoscaling: {minReplicas: 12}}",
        "{autoscaling: {minReplicas: 13}}",
    ),
    created(
        "spec.autoscaling.targets: with mode Operator",
        "{autoscaling: {mode: Operator, targets: {cpuUtilization: 50}}}",
        "{autoscaling: {mode: Operator, targets: {}}}",
    ),
    created(
        "spec.storage.s3: s3 goes with type S3",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: GCS, gcs: {bucket: traces}, s3: {bucket: traces}, credentials: {mode: NodeIdentity}}}",
    ),
    created(
        "spec.storage.gcs: gcs goes with type GCS",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: GCS, credentials: {mode: NodeIdentity}}}",
    ),
    created(
        "spec.storage.azure: azure goes with type Azure",
        "{storage: {type: Azure, azure: {account: traces, container: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: Azure, credentials: {mode: NodeIdentity}}}",
    ),
    created(
        "spec.storage.credentials: say how the nodes prove",
        "{size: demo, storage: {type: Filesystem}}",
        "{storage: {type: S3, s3: {bucket: traces}}}",
    ),
    created(
        "spec.storage.credentials.secretRef: credentials.mode Static needs",
        "{}",
        "{storage: {type: S3, s3: {bucket: traces}, credentials: {}}}",
    ),
    created(
        "spec.storage.credentials.secretRef: a Secret goes with",
        "{storage: {type: S3, s3: {bucket: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: S3, s3: {bucket: traces}, credentials: {mode: NodeIdentity, secretRef: {name: s3}}}}",
    ),
    created(
        "spec.storage.credentials.roleArn: goes with type S3",
        "{storage: {type: S3, s3: {bucket: traces}, credentials: {mode: WorkloadIdentity, roleArn: 'arn:aws:iam::123:role/traces'}}}",
        "{storage: {type: S3, s3: {bucket: traces}, credentials: {mode: PodIdentity, roleArn: 'arn:aws:iam::123:role/traces'}}}",
    ),
    created(
        "spec.storage.credentials.roleArn: with S3",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: WorkloadIdentity}}}",
        "{storage: {type: S3, s3: {bucket: traces}, credentials: {mode: WorkloadIdentity}}}",
    ),
    created(
        "spec.storage.credentials.azureClientId: goes with type Azure",
        "{storage: {type: Azure, azure: {account: traces, container: traces}, credentials: {mode: NodeIdentity, azureClientId: 01234567-89ab-cdef-0123-456789abcdef}}}",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: NodeIdentity, azureClientId: 01234567-89ab-cdef-0123-456789abcdef}}}",
    ),
    created(
        "spec.storage.credentials.azureClientId: with Azure",
        "{storage: {type: Azure, azure: {account: traces, container: traces}, credentials: {mode: WorkloadIdentity, azureClientId: 01234567-89ab-cdef-0123-456789abcdef}}}",
        "{storage: {type: Azure, azure: {account: traces, container: traces}, credentials: {mode: WorkloadIdentity}}}",
    ),
    created(
        "spec.storage.credentials.gcpServiceAccount: goes with type GCS",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: WorkloadIdentity, gcpServiceAccount: traces@p.iam.gserviceaccount.com}}}",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: NodeIdentity, gcpServiceAccount: traces@p.iam.gserviceaccount.com}}}",
    ),
    created(
        "spec.storage.credentials.mode: PodIdentity is EKS",
        "{storage: {type: S3, s3: {bucket: traces}, credentials: {mode: PodIdentity}}}",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: PodIdentity}}}",
    ),
    changed(
        "spec.storage.type: is fixed",
        "{size: demo, storage: {type: Filesystem}}",
        "{size: demo, storage: {type: Filesystem}}",
        "{size: demo}",
    ),
    changed(
        "spec.storage.prefix: is fixed",
        "{storage: {type: S3, prefix: a, s3: {bucket: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: S3, prefix: a, s3: {bucket: traces}, credentials: {mode: PodIdentity}}}",
        "{storage: {type: S3, s3: {bucket: traces}, credentials: {mode: NodeIdentity}}}",
    ),
    changed(
        "spec.storage.s3.bucket: is fixed",
        "{}",
        "{storage: {type: S3, s3: {bucket: traces, region: eu-1}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: S3, s3: {bucket: other}, credentials: {mode: NodeIdentity}}}",
    ),
    changed(
        "spec.storage.gcs.bucket: is fixed",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: GCS, gcs: {bucket: traces}, credentials: {mode: WorkloadIdentity}}}",
        "{storage: {type: GCS, gcs: {bucket: other}, credentials: {mode: NodeIdentity}}}",
    ),
    changed(
        "spec.storage.azure.account: is fixed",
        "{storage: {type: Azure, azure: {account: traces, container: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: Azure, azure: {account: traces, container: traces, endpoint: 'http://azurite:10000/traces'}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: Azure, azure: {account: other, container: traces}, credentials: {mode: NodeIdentity}}}",
    ),
    changed(
        "spec.storage.azure.container: is fixed",
        "{storage: {type: Azure, azure: {account: traces, container: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: Azure, azure: {account: traces, container: traces}, credentials: {mode: NodeIdentity}}}",
        "{storage: {type: Azure, azure: {account: traces, container: other}, credentials: {mode: NodeIdentity}}}",
    ),
    created(
        "spec.retention.maximum: must not be below default",
        "{retention: {default: 2w, maximum: 14d}}",
        "{retention: {default: 15d, maximum: 2w}}",
    ),
    created(
        "spec.retention.maximum: must not be below default",
        "{retention: {maximum: 336h}}",
        "{retention: {maximum: 335h}}",
    ),
    created(
        "spec.retention.default: must be at least 1h",
        "{retention: {default: 60m}}",
        "{retention: {default: 14s}}",
    ),
    created(
        "spec.tls.issuerRef: goes with tls.mode CertManager",
        "{tls: {mode: CertManager, issuerRef: {name: ca}}}",
        "{tls: {mode: CertManager}}",
    ),
    created(
        "spec.tls.issuerRef: goes with tls.mode CertManager",
        "{tls: {}}",
        "{tls: {issuerRef: {name: ca}}}",
    ),
    created(
        "spec.tls.secretRef: goes with tls.mode Secret",
        "{tls: {mode: Secret, secretRef: {name: tls}}}",
        "{tls: {mode: Secret}}",
    ),
    created(
        "spec.tls.renewBefore: must be shorter",
        "{tls: {duration: 31d}}",
        "{tls: {duration: 30d}}",
    ),
    created(
        "spec.tls.duration: must be shorter",
        "{tls: {caDuration: 91d}}",
        "{tls: {caDuration: 90d}}",
    ),
    created(
        "spec.auth.tenancy.mode: Strict needs",
        "{auth: {mode: Header, tenancy: {mode: Strict}}}",
        "{auth: {tenancy: {mode: Strict}}}",
    ),
    created(
        "spec.receivers.otlp.grpc.enabled: one of grpc and http",
        "{receivers: {otlp: {grpc: {enabled: false}}}}",
        "{receivers: {otlp: {grpc: {enabled: false}, http: {enabled: false}}}}",
    ),
    created(
        "spec.receivers.otlp.http.port: grpc and http need",
        "{receivers: {otlp: {http: {port: 80}}}}",
        "{receivers: {otlp: {http: {port: 4317}}}}",
    ),
    created(
        "spec.exposure.ingress.host: an Ingress needs a host",
        "{exposure: {ingress: {enabled: true, host: traces.example.com}}}",
        "{exposure: {ingress: {enabled: true}}}",
    ),
    created(
        "spec.exposure.gateway.parentRefs: name at least one",
        "{exposure: {gateway: {enabled: true, parentRefs: [{name: public}]}}}",
        "{exposure: {gateway: {enabled: true}}}",
    ),
];

const TENANT: &[Case] = &[
    changed(
        "spec.clusterRef: is fixed",
        "{clusterRef: {name: main}}",
        "{clusterRef: {name: main}, displayName: Payments}",
        "{clusterRef: {name: other}}",
    ),
    changed(
        "spec.tenantId: is fixed",
        "{clusterRef: {name: main}, tenantId: a}",
        "{clusterRef: {name: main}, tenantId: a}",
        "{clusterRef: {name: main}}",
    ),
    created(
        "spec.retention.default: must be at least 1h",
        "{clusterRef: {name: main}, retention: {default: 30d}}",
        "{clusterRef: {name: main}, retention: {default: 30m}}",
    ),
];

fn door(index: usize) -> Door {
    Door::of(&definitions()[index])
}

fn cluster(spec: &str, name: &str) -> Value {
    let mut spec: Value = serde_saphyr::from_str(spec).unwrap();
    if spec["storage"].is_null() {
        let usual: Value = serde_saphyr::from_str(S3).unwrap();
        spec["storage"] = usual["storage"].clone();
    }
    object("TracingCluster", spec, name)
}

fn tenant(spec: &str, name: &str) -> Value {
    object("TracingTenant", serde_saphyr::from_str(spec).unwrap(), name)
}

fn object(kind: &str, spec: Value, name: &str) -> Value {
    json!({
        "apiVersion": "tracing.vivace.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "observability"},
        "spec": spec,
    })
}

fn try_all(door: &Door, cases: &[Case], object: impl Fn(&str, &str) -> Value) {
    for case in cases {
        let old = case.old.map(|old| {
            door.admit(object(old, "main"), None)
                .unwrap_or_else(|refusals| panic!("{}: stored: {refusals:#?}", case.rule))
        });
        if let Err(refusals) = door.admit(object(case.good, "main"), old.as_ref()) {
            panic!("{}: good: {refusals:#?}", case.rule);
        }
        let refusals = door
            .admit(object(case.bad, "main"), old.as_ref())
            .expect_err(&format!("{}: {} was accepted", case.rule, case.bad));
        assert!(
            refusals.len() == 1 && refusals[0].to_string().starts_with(case.rule),
            "{}: {refusals:#?}",
            case.rule
        );
    }
}

#[test]
fn clusters() {
    try_all(&door(0), CLUSTER, cluster);
}

#[test]
fn tenants() {
    try_all(&door(1), TENANT, tenant);
}

#[test]
fn names() {
    let long = "a".repeat(41);
    for (name, wanted) in [
        ("main", true),
        (&long[..40], true),
        (&long, false),
        ("1a", false),
        ("a.b", false),
    ] {
        assert_eq!(door(0).admit(cluster("{}", name), None).is_ok(), wanted, "{name}");
    }
    let long = "a".repeat(65);
    let admitted = |spec: &str, name: &str| door(1).admit(tenant(spec, name), None).is_ok();
    assert!(admitted("{clusterRef: {name: main}}", &long[..64]));
    assert!(!admitted("{clusterRef: {name: main}}", &long));
    assert!(admitted("{clusterRef: {name: main}, tenantId: a}", &long));
}

/// Types and bounds, at the edge and past it.
#[test]
fn shapes() {
    let refusals = |spec: &str| match door(0).admit(cluster(spec, "main"), None) {
        Ok(_) => String::new(),
        Err(refusals) => refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; "),
    };
    assert_eq!(refusals("{replicas: 200}"), "");
    assert_eq!(refusals("{replicas: 201}"), "spec.replicas: must be 1.0 to 200.0");
    assert_eq!(refusals("{replica: 3}"), "spec.replica: unknown field");
    assert_eq!(refusals("{replicas: null}"), "");
    assert_eq!(refusals("{version: '1.2'}").split(':').next(), Some("spec.version"));
    assert_eq!(
        refusals("{retention: {default: 14}}"),
        "spec.retention.default: must be of type string"
    );
    assert_eq!(
        refusals("{retention: {default: 1h30m}}").split(':').next(),
        Some("spec.retention.default")
    );
    assert_eq!(
        refusals("{persistence: {size: 1.5Gi}}").split(':').next(),
        Some("spec.persistence.size")
    );
    assert_eq!(
        refusals("{topology: {zones: [a, b, c, a]}}"),
        "spec.topology.zones: names something twice"
    );
    assert_eq!(
        refusals("{podTemplate: {spec: {anything: [1]}}, config: {any: thing}}"),
        ""
    );
    assert_eq!(refusals("{resources: {requests: {cpu: 2, memory: 4Gi}}}"), "");
}

#[test]
fn every_rule_has_a_case() {
    fn collect(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            for part in ["rule", "message", "reason", "fieldPath"] {
                assert!(rule[part].is_string(), "{path}: a rule lacks its {part}: {rule}");
            }
            let field = format!("{path}{}", rule["fieldPath"].as_str().unwrap());
            found.insert(format!(
                "{}: {}",
                field.trim_start_matches('.'),
                rule["message"].as_str().unwrap()
            ));
        }
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            collect(below, &format!("{path}.{name}"), found);
        }
    }
    for (door, cases) in [(door(0), CLUSTER), (door(1), TENANT)] {
        let mut found = BTreeSet::new();
        collect(door.schema(), "", &mut found);
        let untried: Vec<&String> = found
            .iter()
            .filter(|rule| !rule.starts_with("metadata: "))
            .filter(|rule| !cases.iter().any(|case| rule.starts_with(case.rule)))
            .collect();
        assert!(untried.is_empty(), "{untried:#?}");
    }
}
