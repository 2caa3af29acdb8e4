//! What is said about a cluster: conditions, phase and numbers. Pure.
//!
//! Owns [`told`] and [`refused`]. **Always holds:** a condition's time changes only when its status does; Reconciling, Stalled
//! and Paused are there only while they are true, as kstatus reads them; texts end with what to do next; what only moves
//! with the load is rounded, so that a quiet cluster's status does not change.
//! Not here: what is remembered ([`crate::observed::Memory`]), which is written into the same status.

mod conditions;
mod numbers;

use std::collections::BTreeMap;

use crds::TracingCluster;
use crds::cluster::status::{DatasourceStatus, TracingClusterStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::objects::Objects;
use crate::observed::Observed;
use crate::plan::{Decision, Hashes, Sight};
use crate::validate::{Cluster, Problem};
pub use conditions::Conditions;
use conditions::conditions_of;
pub use numbers::synced;
use numbers::{certificates, datasources, effective, endpoints, members, number, ring, selector, storage, tenants};

/// What is known beside what was seen and decided.
#[derive(Debug, Clone, Default)]
pub struct Beside<'a> {
    pub operator_version: &'a str,
    /// What is wrong with the credentials' Secret: a reason, and what to do.
    pub credentials: Option<(&'static str, String)>,
    /// What could not be applied of other people's kinds.
    pub failed: &'a [String],
    /// How data sources fare that go by Grafana's own API.
    pub grafana: &'a [DatasourceStatus],
}

/// The status of a resource that cannot be acted upon: what is wrong in it.
pub fn refused(resource: &TracingCluster, problems: &[Problem], now: Timestamp) -> TracingClusterStatus {
    let mut status = resource.status.clone().unwrap_or_default();
    let generation = resource.metadata.generation;
    let text: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.field, problem.message))
        .collect();
    let text = text.join("; ");
    let mut conditions = Conditions::new(&status.conditions, generation, now);
    let reason = problems.first().map_or("ConfigInvalid", Problem::reason);
    conditions.say("Ready", false, reason, text.clone());
    conditions.say("Stalled", true, reason, text);
    let ours = ["Ready", "Stalled", "Reconciling"];
    let mut said = conditions.finish();
    // What runs goes on running as it was.
    said.extend(
        status
            .conditions
            .iter()
            .filter(|old| !ours.contains(&old.type_.as_str()))
            .cloned(),
    );
    status.conditions = said;
    status.phase = Some("Invalid".to_owned());
    status.observed_generation = generation;
    status
}

/// The status after a look and a decision.
pub fn told(
    resource: &TracingCluster,
    cluster: &Cluster,
    observed: &Observed,
    hashes: &Hashes,
    decision: &Decision,
    objects: &Objects,
    beside: &Beside<'_>,
) -> TracingClusterStatus {
    let before = resource.status.clone().unwrap_or_default();
    let sight = Sight::new(cluster, observed, hashes);
    let ready = sight.slots().iter().filter(|slot| {
        sight
            .pod(&slot.pod)
            .is_some_and(|pod| pod.is_ready && !pod.is_terminating)
    });
    let ready = number(ready.count());
    let mut status = TracingClusterStatus {
        observed_generation: Some(cluster.generation),
        replicas: number(observed.pods.len()),
        ready_replicas: ready,
        selector: Some(selector(cluster)),
        operator_version: Some(beside.operator_version.to_owned()),
        effective: Some(effective(cluster)),
        endpoints: Some(endpoints(cluster)),
        members: members(&sight, observed, decision),
        certificates: certificates(observed),
        datasources: datasources(objects, beside),
        tenants: Some(tenants(cluster, observed)),
        autoscaling: before.autoscaling.clone(),
        ..TracingClusterStatus::default()
    };
    decision.memory.write(&mut status);
    let versions: Vec<&str> = observed
        .nodes
        .values()
        .map(|node| node.version.as_str())
        .filter(|text| !text.is_empty())
        .collect();
    status.version = versions
        .iter()
        .min_by_key(|text| crate::plan::version::order(text))
        .map(|text| (*text).to_owned())
        .or(before.version.clone());
    let is_behind = versions
        .iter()
        .any(|version| !crate::plan::version::is_same(version, &cluster.version));
    status.target_version = is_behind.then(|| cluster.version.clone());
    ring(&sight, &mut status);
    status.storage = storage(observed, before.storage.as_ref());
    let mut conditions = Conditions::new(&before.conditions, Some(cluster.generation), observed.now);
    let phase = conditions_of(&mut conditions, cluster, observed, &sight, decision, objects, beside);
    status.conditions = conditions.finish();
    status.phase = Some(phase.to_owned());
    status
}

/// The conditions of a list, by type: for events.
pub fn by_type(conditions: &[Condition]) -> BTreeMap<&str, &Condition> {
    conditions
        .iter()
        .map(|condition| (condition.type_.as_str(), condition))
        .collect()
}
