//! What a size fills in, as one table.

use std::collections::BTreeMap;

use crds::cluster::placement::{ClusterSize, Resources};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::units;

/// The defaults of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) replicas: u32,
    pub(super) replication_factor: u32,
    pub(super) voters: u32,
    pub(super) cpu: &'static str,
    pub(super) memory: &'static str,
    pub(super) memory_limit: &'static str,
    pub(super) volume: &'static str,
    /// Chosen once, when the cluster is made; about two a CPU of the size's own replicas, rounded to a power of two.
    pub(super) shards: u32,
}

#[rustfmt::skip]
pub(super) fn of(size: ClusterSize) -> Sizes {
    match size {
        ClusterSize::Demo   => Sizes { replicas: 1,  replication_factor: 1, voters: 1, cpu: "250m", memory: "512Mi", memory_limit: "1Gi", volume: "10Gi",  shards: 2 },
        ClusterSize::Small  => Sizes { replicas: 3,  replication_factor: 3, voters: 3, cpu: "1",    memory: "2Gi",   memory_limit: "2Gi", volume: "20Gi",  shards: 8 },
        ClusterSize::Medium => Sizes { replicas: 6,  replication_factor: 3, voters: 3, cpu: "2",    memory: "4Gi",   memory_limit: "4Gi", volume: "50Gi",  shards: 32 },
        ClusterSize::Large  => Sizes { replicas: 12, replication_factor: 3, voters: 5, cpu: "4",    memory: "8Gi",   memory_limit: "8Gi", volume: "100Gi", shards: 128 },
    }
}

/// What is written, with the size's CPU and memory where nothing is. A memory request that is written without a limit is
/// its own limit: a node takes its budgets from the limit, and one that is below the request would be refused.
pub(super) fn resources(written: &Resources, sizes: &Sizes) -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.to_owned());
    let mut requests: BTreeMap<String, Quantity> = written.requests.clone();
    let mut limits: BTreeMap<String, Quantity> = written.limits.clone();
    let requested = requests.get("memory").cloned();
    let limit = limits.entry("memory".to_owned()).or_insert_with(|| match &requested {
        Some(requested) => requested.clone(),
        None => quantity(sizes.memory_limit),
    });
    let limit = limit.clone();
    requests.entry("cpu".to_owned()).or_insert_with(|| quantity(sizes.cpu));
    requests.entry("memory".to_owned()).or_insert_with(|| {
        let usual = quantity(sizes.memory);
        // A limit below the size's request is what the node shall get.
        if units(&limit) < units(&usual) { limit } else { usual }
    });
    ResourceRequirements {
        requests: Some(requests),
        limits: Some(limits),
        claims: None,
    }
}
