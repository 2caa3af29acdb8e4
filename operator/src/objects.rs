//! The objects that a cluster is made of, as they are wanted.
//!
//! Owns [`Objects`] and [`build`]. Pure: a checked cluster and what is [`Given`] in, objects out; golden files show them.
//! **Always holds:** every object carries our labels and (inside the cluster's namespace) an owner reference, so that a
//! list by label finds it and the garbage collector takes it; no key and no password is in them; lists that are merged by key
//! have their keys written out, protocol included.
//! Not here: applying them, secrets of the CA (`certificates`), and anything that depends on how nodes are.

mod account;
mod config_map;
mod dashboard;
pub mod grafana;
mod monitoring;
mod overlay;
mod pod;
mod policy;
pub mod purge;
mod route;
mod service;
mod stateful_set;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{DynamicObject, ObjectMeta};

use crate::names;
use crate::validate::Cluster;

pub use overlay::Ignored;
pub(crate) use pod::tls_secret;
pub(crate) use policy::dns_names;

/// Kinds that not every Kubernetes serves, as group/version/Kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served(pub BTreeSet<&'static str>);

impl Served {
    pub const SERVICE_MONITOR: &'static str = "monitoring.coreos.com/v1/ServiceMonitor";
    pub const POD_MONITOR: &'static str = "monitoring.coreos.com/v1/PodMonitor";
    pub const PROMETHEUS_RULE: &'static str = "monitoring.coreos.com/v1/PrometheusRule";
    pub const GRAFANA_DATASOURCE: &'static str = "grafana.integreatly.org/v1beta1/GrafanaDatasource";
    pub const GRAFANA_DASHBOARD: &'static str = "grafana.integreatly.org/v1beta1/GrafanaDashboard";
    pub const HTTP_ROUTE: &'static str = "gateway.networking.k8s.io/v1/HTTPRoute";
    pub const GRPC_ROUTE: &'static str = "gateway.networking.k8s.io/v1/GRPCRoute";
    pub const CERTIFICATE: &'static str = "cert-manager.io/v1/Certificate";

    /// All that are looked for.
    pub const ALL: [&'static str; 8] = [
        Self::SERVICE_MONITOR,
        Self::POD_MONITOR,
        Self::PROMETHEUS_RULE,
        Self::GRAFANA_DATASOURCE,
        Self::GRAFANA_DASHBOARD,
        Self::HTTP_ROUTE,
        Self::GRPC_ROUTE,
        Self::CERTIFICATE,
    ];

    pub fn has(&self, kind: &str) -> bool {
        self.0.contains(kind)
    }
}

/// What the objects depend on beside the resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    /// Pods that each group shall have now, in the order of the cluster's groups. It is what was decided under an
    /// operation, not what the resource says.
    pub pods: Vec<u32>,
    /// Size in the claim template of each StatefulSet that exists: a template cannot be changed in place.
    pub templates: BTreeMap<String, Quantity>,
    pub served: Served,
    /// Whether somebody else's object with the sidecar's label is in the sidecar's namespace.
    pub has_sidecar_label: bool,
    /// Value of the restart annotation that pods shall carry.
    pub restarted_at: Option<String>,
    /// Namespace of the operator.
    pub operator_namespace: String,
}

/// Every object that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    pub service_account: Option<ServiceAccount>,
    /// The nodes' settings first, then what is labelled for Grafana's sidecar.
    pub config_maps: Vec<ConfigMap>,
    /// Headers and provisioning files for Grafana. Keys and certificates are not among them.
    pub secrets: Vec<Secret>,
    pub services: Vec<Service>,
    pub disruption_budget: Option<PodDisruptionBudget>,
    pub network_policy: Option<NetworkPolicy>,
    pub stateful_sets: Vec<StatefulSet>,
    pub ingress: Option<Ingress>,
    /// Objects of kinds that not every Kubernetes serves.
    pub foreign: Vec<DynamicObject>,
    /// Hash of the pod template of each group; a pod that carries another one is out of date.
    pub pod_hashes: BTreeMap<String, String>,
    /// What the pod overlay asked for and did not get.
    pub ignored: Ignored,
    /// Kinds that were asked for with Always and are not served.
    pub missing: Vec<&'static str>,
    /// Data sources that Grafana shall have, for the status and for its HTTP API.
    pub datasources: Vec<grafana::Datasource>,
}

/// Everything that is wanted of this cluster.
pub fn build(cluster: &Cluster, given: &Given) -> Objects {
    let mut missing = Vec::new();
    let mut foreign = Vec::new();
    route::gateway(cluster, &given.served, &mut foreign, &mut missing);
    monitoring::build(cluster, &given.served, &mut foreign, &mut missing);
    let datasources = grafana::datasources(cluster);
    let (secrets, labelled) = grafana::build(cluster, &datasources, given, &mut foreign, &mut missing);
    policy::certificate(cluster, &given.served, &mut foreign, &mut missing);
    let mut ignored = Ignored::default();
    let mut pod_hashes = BTreeMap::new();
    let mut stateful_sets = Vec::new();
    for (index, group) in cluster.groups.iter().enumerate() {
        let pods = given.pods.get(index).copied().unwrap_or_default();
        let (set, hash, left_out) = stateful_set::build(cluster, group, pods, given);
        ignored = left_out;
        pod_hashes.insert(group.name.clone(), hash);
        stateful_sets.push(set);
    }
    Objects {
        service_account: account::build(cluster),
        config_maps: std::iter::once(config_map::build(cluster)).chain(labelled).collect(),
        secrets,
        services: service::build(cluster),
        disruption_budget: policy::disruption_budget(cluster, given),
        network_policy: policy::network_policy(cluster, &given.operator_namespace),
        stateful_sets,
        ingress: route::ingress(cluster),
        foreign,
        pod_hashes,
        ignored,
        missing,
        datasources,
    }
}

/// Metadata of an object in the cluster's namespace.
fn metadata(cluster: &Cluster, name: impl Into<String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(names::labels(&cluster.name)),
        owner_references: Some(vec![owner(cluster)]),
        ..ObjectMeta::default()
    }
}

/// The resource as owner of its objects.
pub fn owner(cluster: &Cluster) -> OwnerReference {
    OwnerReference {
        api_version: format!("{}/v1alpha1", crds::GROUP),
        kind: "TracingCluster".to_owned(),
        name: cluster.name.clone(),
        uid: cluster.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// An object of a kind that we have no type for.
fn dynamic(kind: &str, metadata: ObjectMeta, spec: serde_json::Value) -> DynamicObject {
    let (api_version, kind) = kind.rsplit_once('/').expect("kinds are written group/version/Kind");
    DynamicObject {
        types: Some(kube::core::TypeMeta {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        }),
        metadata,
        data: serde_json::json!({ "spec": spec }),
    }
}

/// Whether an object of an optional kind is wanted; notes the ones that are wanted and cannot be had.
fn wanted(
    when: crds::cluster::observability::When,
    kind: &'static str,
    served: &Served,
    missing: &mut Vec<&'static str>,
) -> bool {
    use crds::cluster::observability::When;
    match when {
        When::Never => false,
        When::Auto => served.has(kind),
        When::Always => {
            if !served.has(kind) {
                missing.push(kind);
            }
            served.has(kind)
        }
    }
}
