//! What a cluster is made of: a resource (with its tenants) in, every object out, as YAML beside it.
//!
//! The first comment of an input says what else is given: `pods`, `served` (all or none), `sidecar`.

use std::collections::BTreeMap;

use crds::admission::Door;
use crds::{TracingCluster, TracingTenant, definitions};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt as _;
use serde_json::Value;
use vivace_operator::objects::{Given, Objects, Served, build};
use vivace_operator::tenants::Candidate;
use vivace_operator::validate::{Cluster, Environment, Lookups, validate};

use crate::golden::{check, testdata};

pub(crate) fn environment() -> Environment {
    Environment {
        version: "0.4.1".to_owned(),
        node_image: "registry.example.com/vivace/vivace:0.4.1".to_owned(),
        namespace: "vivace-system".to_owned(),
    }
}

/// What is in an input: the cluster, its tenants, and what the comment gives.
pub(crate) struct Input {
    pub(crate) cluster: TracingCluster,
    pub(crate) lookups: Lookups,
    pub(crate) given: Given,
}

/// Reads an input as an API server would take it: defaults filled in, refused if it is wrong.
pub(crate) fn input(text: &str) -> Input {
    let [clusters, tenants] = definitions().map(|definition| Door::of(&definition));
    let mut cluster = None;
    let mut lookups = Lookups {
        credential_keys: Some(["access_key_id".to_owned(), "access_key_secret".to_owned()].into()),
        ..Lookups::default()
    };
    for document in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        if object["kind"] == "TracingCluster" {
            let stored = clusters.admit(object, None).unwrap();
            cluster = Some(serde_json::from_value::<TracingCluster>(stored).unwrap());
        } else {
            let stored = tenants.admit(object, None).unwrap();
            lookups.candidates.push(Candidate {
                tenant: serde_json::from_value::<TracingTenant>(stored).unwrap(),
                namespace_labels: BTreeMap::new(),
            });
        }
    }
    let mut given = Given {
        operator_namespace: "vivace-system".to_owned(),
        ..Given::default()
    };
    for word in text.lines().next().unwrap().trim_start_matches("# ").split_whitespace() {
        match word.split_once('=') {
            Some(("pods", pods)) => given.pods = pods.split(',').map(|pods| pods.parse().unwrap()).collect(),
            Some(("served", "all")) => given.served = Served(Served::ALL.into()),
            Some(("sidecar", "yes")) => given.has_sidecar_label = true,
            _ => {}
        }
    }
    Input {
        cluster: cluster.unwrap(),
        lookups,
        given,
    }
}

pub(crate) fn validated(input: &Input) -> Cluster {
    validate(&input.cluster, &input.lookups, &environment()).unwrap()
}

/// All objects as one YAML stream, in the order in which they are applied.
fn printed(objects: &Objects) -> String {
    let Objects {
        service_account,
        config_maps,
        secrets,
        services,
        disruption_budget,
        network_policy,
        stateful_sets,
        ingress,
        foreign,
        pod_hashes: _,
        ignored,
        missing,
        datasources: _,
    } = objects;
    let mut documents: Vec<Value> = Vec::new();
    let mut add = |kind: &str, value: Value| {
        let mut document = value;
        document["kind"] = kind.into();
        documents.push(document);
    };
    service_account
        .iter()
        .for_each(|it| add("ServiceAccount", serde_json::to_value(it).unwrap()));
    config_maps
        .iter()
        .for_each(|it| add("ConfigMap", serde_json::to_value(it).unwrap()));
    secrets
        .iter()
        .for_each(|it| add("Secret", serde_json::to_value(it).unwrap()));
    services
        .iter()
        .for_each(|it| add("Service", serde_json::to_value(it).unwrap()));
    disruption_budget
        .iter()
        .for_each(|it| add("PodDisruptionBudget", serde_json::to_value(it).unwrap()));
    network_policy
        .iter()
        .for_each(|it| add("NetworkPolicy", serde_json::to_value(it).unwrap()));
    stateful_sets
        .iter()
        .for_each(|it| add("StatefulSet", serde_json::to_value(it).unwrap()));
    ingress
        .iter()
        .for_each(|it| add("Ingress", serde_json::to_value(it).unwrap()));
    foreign
        .iter()
        .for_each(|it| documents.push(serde_json::to_value(it).unwrap()));
    let mut text: String = documents
        .iter()
        .map(|document| format!("---\n{}", serde_saphyr::to_string(document).unwrap()))
        .collect();
    // Hashes say that something changed; what it was is in the rest.
    let is_hash =
        |line: &&str| line.contains("/pod-hash: ") || line.contains("/settings: ") || line.contains("/immutable: ");
    text = text
        .lines()
        .filter(|line| !is_hash(line))
        .map(|line| format!("{line}\n"))
        .collect();
    text.push_str(&format!("---\n# ignored: {:?}\n# missing: {missing:?}\n", ignored.0));
    text
}

fn cases() -> Vec<(String, String)> {
    let mut cases: Vec<(String, String)> = std::fs::read_dir(testdata("objects"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.to_string_lossy().ends_with(".expected.yaml"))
        .map(|path| {
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                std::fs::read_to_string(&path).unwrap(),
            )
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn objects_are_as_expected() {
    for (name, text) in cases() {
        let input = input(&text);
        let objects = build(&validated(&input), &input.given);
        check(&format!("objects/{name}.expected.yaml"), &printed(&objects));
    }
}

/// The node reads what we write with the very same code; this says so for what went through YAML and a ConfigMap.
#[test]
fn nodes_understand_their_settings() {
    for (name, text) in cases() {
        let input = input(&text);
        let cluster = validated(&input);
        let objects = build(&cluster, &input.given);
        let file = &objects.config_maps[0].data.as_ref().unwrap()["node.yaml"];
        assert_eq!(settings::parse(file).unwrap(), cluster.settings, "{name}");
    }
}

/// The restricted standard, and what we promise beyond it.
#[test]
fn pods_are_restricted() {
    for (name, text) in cases() {
        let input = input(&text);
        for set in build(&validated(&input), &input.given).stateful_sets {
            let pod = set.spec.unwrap().template.spec.unwrap();
            let context = pod.security_context.unwrap();
            assert_eq!(context.run_as_non_root, Some(true), "{name}");
            assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault", "{name}");
            assert_eq!(pod.automount_service_account_token, Some(false), "{name}");
            assert!(
                pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none(),
                "{name}"
            );
            for container in pod.containers.iter().filter(|container| container.name == "node") {
                let context = container.security_context.clone().unwrap();
                assert_eq!(context.allow_privilege_escalation, Some(false), "{name}");
                assert_eq!(context.read_only_root_filesystem, Some(true), "{name}");
                assert_eq!(context.capabilities.unwrap().drop.unwrap(), ["ALL"], "{name}");
                let live = container
                    .liveness_probe
                    .clone()
                    .unwrap()
                    .http_get
                    .unwrap()
                    .path
                    .unwrap();
                assert_eq!(live, "/status/version", "liveness asks for nothing that can be away");
            }
        }
    }
}

/// What empties the bucket goes its way with the nodes' own means, and takes nothing of the nodes' along.
#[test]
fn the_job_that_empties_the_bucket_has_the_nodes_way_to_it() {
    for (name, text) in cases() {
        let input = input(&text);
        let cluster = validated(&input);
        let set = build(&cluster, &input.given).stateful_sets.remove(0);
        let node = set.spec.unwrap().template.spec.unwrap();
        let job = vivace_operator::objects::purge::build(&cluster);
        assert!(
            job.metadata.owner_references.is_none(),
            "{name}: it would go with its owner"
        );
        let pod = job.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.restart_policy.as_deref(), Some("OnFailure"), "{name}");
        assert_eq!(pod.security_context, node.security_context, "{name}");
        assert_eq!(pod.service_account_name, node.service_account_name, "{name}");
        let [ours] = &pod.containers[..] else {
            panic!("{name}: {:?}", pod.containers)
        };
        let theirs = node
            .containers
            .iter()
            .find(|container| container.name == "node")
            .unwrap();
        assert_eq!(ours.args.as_ref().unwrap()[0], "purge", "{name}");
        assert_eq!(
            (&ours.image, &ours.env, &ours.security_context),
            (&theirs.image, &theirs.env, &theirs.security_context)
        );
        assert!(
            ours.ports.is_none() && ours.liveness_probe.is_none() && ours.lifecycle.is_none(),
            "{name}"
        );
        // Every mount has its volume, and none of them is a claim.
        let volumes = pod.volumes.unwrap();
        for mount in ours.volume_mounts.iter().flatten() {
            let volume = volumes.iter().find(|volume| volume.name == mount.name);
            let volume = volume.unwrap_or_else(|| panic!("{name}: no volume {}", mount.name));
            assert!(volume.persistent_volume_claim.is_none(), "{name}");
        }
    }
}

fn hash_of(set: &StatefulSet) -> String {
    let template = set.spec.as_ref().unwrap().template.metadata.as_ref().unwrap();
    template.annotations.as_ref().unwrap()["tracing.vivace.dev/pod-hash"].clone()
}

/// Which changes restart pods: the hash moves with them and with nothing else.
#[test]
fn only_what_needs_a_restart_changes_the_hash() {
    let base = "apiVersion: tracing.vivace.dev/v1alpha1\nkind: TracingCluster\nmetadata: {name: main, namespace: tracing}\nspec:\n  storage: {type: S3, s3: {bucket: traces}, credentials: {secretRef: {name: s3}}}\n";
    let hash = |more: &str| {
        let input = input(&format!("# pods=3\n{base}{more}"));
        hash_of(&build(&validated(&input), &input.given).stateful_sets[0])
    };
    let unchanged = hash("");
    for live in [
        "  retention: {default: 3d}\n",
        "  limits: {ingestBytesPerSecond: 1Mi, maxSearchRange: 2d}\n",
        "  replicas: 5\n",
        "  config: {limits: {defaults: {links_max: 7}}}\n",
        "  exposure: {service: {type: LoadBalancer}}\n",
        "  receivers: {otlp: {grpc: {port: 80}}}\n",
        "  grafana: {correlations: {logsDatasourceUid: loki}}\n",
        "  upgrade: {minReadySeconds: 1}\n",
        "  autoscaling: {maxReplicas: 7}\n",
        "  persistence: {whenScaled: Retain}\n",
    ] {
        assert_eq!(hash(live), unchanged, "{live}");
    }
    for restart in [
        "  version: 0.5.0\n",
        "  image: {digest: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}\n",
        "  resources: {requests: {cpu: 3}}\n",
        "  auth: {mode: Header}\n",
        "  observability: {logLevel: debug}\n",
        "  podTemplate: {spec: {priorityClassName: high}}\n",
        "  podTemplate: {metadata: {labels: {team: observability}}}\n",
        "  persistence: {size: 40Gi}\n",
        "  tls: {mode: Secret, secretRef: {name: peers}}\n",
        "  config: {flush: {tail_age: 30s}}\n",
    ] {
        assert_ne!(hash(restart), unchanged, "{restart}");
    }
}

/// A pod overlay gets everything but what makes the pod our node.
#[test]
fn an_overlay_cannot_break_the_node() {
    let text = std::fs::read_to_string(testdata("objects/overlay.yaml")).unwrap();
    let input = input(&text);
    let objects = build(&validated(&input), &input.given);
    assert_eq!(
        objects.ignored.0,
        [
            "spec.volumes[data]",
            "spec.containers[node].image",
            "spec.containers[node].args",
            "spec.containers[node].liveness_probe",
            "metadata.labels.app.kubernetes.io/name",
            "metadata.annotations.tracing.vivace.dev/pod-hash",
        ]
    );
    let set = &objects.stateful_sets[0];
    assert_eq!(set.name_any(), "main-node");
    let pod = set.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let names: Vec<&str> = pod.containers.iter().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["node", "sidecar"]);
    assert_eq!(pod.tolerations.as_ref().unwrap().len(), 1);
    let variables = pod.containers[0].env.as_ref().unwrap();
    assert!(variables.iter().any(|variable| variable.name == "RUST_LOG"));
}
