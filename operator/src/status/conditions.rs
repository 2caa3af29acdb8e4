//! Which conditions hold, why not, and what to do next. Pure.
//!
//! Owns [`Conditions`], which keeps the rules of conditions, and what each of ours says.

use crds::cluster::autoscaling::AutoscalingMode;
use crds::cluster::security::TlsMode;
use crds::cluster::status::OperationKind;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Beside, synced};
use crate::admin::{StorageProblem, StorageView};
use crate::objects::Objects;
use crate::observed::Observed;
use crate::plan::{Decision, Sight};
use crate::validate::Cluster;

/// Longest message of a condition.
const MESSAGE_MAX: usize = 1_000;
/// Reason while nobody knows how the bucket is: nothing to blame it for.
const NOT_LOOKED: &str = "WaitingForNodes";

/// Reason of the condition for what is wrong with the bucket.
fn storage_reason(problem: StorageProblem) -> &'static str {
    match problem {
        StorageProblem::AccessDenied => "AccessDenied",
        StorageProblem::BucketNotFound => "BucketNotFound",
        StorageProblem::Unreachable => "StorageUnreachable",
    }
}

/// Conditions of one object, on their way to its status.
#[derive(Debug)]
pub struct Conditions<'a> {
    before: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    pub fn new(before: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self {
            before,
            generation,
            now,
            list: Vec::new(),
        }
    }

    /// Says one; its time is the old one where its status has not changed.
    pub fn say(&mut self, kind: &str, is_true: bool, reason: &str, message: impl Into<String>) {
        let status = if is_true { "True" } else { "False" };
        let same = self.before.iter().find(|old| old.type_ == kind && old.status == status);
        self.list.push(Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.into().chars().take(MESSAGE_MAX).collect(),
            observed_generation: self.generation,
            last_transition_time: same.map_or(Time(self.now), |old| old.last_transition_time.clone()),
        });
    }

    pub fn finish(self) -> Vec<Condition> {
        self.list
    }
}

/// Says every condition and gives the phase.
pub(super) fn conditions_of(
    conditions: &mut Conditions<'_>,
    cluster: &Cluster,
    observed: &Observed,
    sight: &Sight<'_>,
    decision: &Decision,
    objects: &Objects,
    beside: &Beside<'_>,
) -> &'static str {
    let memory = &decision.memory;
    let kind = memory.operation.kind;
    let is_settled = sight.is_settled() && kind == OperationKind::None;
    let ready = sight
        .slots()
        .iter()
        .filter(|slot| sight.pod(&slot.pod).is_some_and(|pod| pod.is_ready))
        .count();
    let silent = sight
        .slots()
        .iter()
        .find_map(|slot| Some((slot.pod.as_str(), sight.pod(&slot.pod)?.last_words.as_deref()?)));
    let is_paused = cluster.is_paused();

    let (has_storage, why, said) = storage_condition(observed, beside, silent.map(|(_, words)| words));
    let is_available = if cluster.is_single {
        ready > 0
    } else {
        sight.ring().is_some_and(|ring| ring.shards.unavailable == 0) && ready > 0
    };
    let stalled = decision.stalled.clone();
    let waits = match silent {
        Some((pod, words)) => format!("{pod}: {words}"),
        None => decision.message.clone(),
    };
    if is_settled && is_available && has_storage {
        conditions.say(
            "Ready",
            true,
            "Running",
            format!("{ready} of {} nodes serve", sight.slots().len()),
        );
    } else if let Some(stall) = stalled.as_ref().filter(|_| !is_available) {
        conditions.say("Ready", false, stall.reason, stall.message.clone());
    } else if !has_storage && !is_available && why != NOT_LOOKED {
        conditions.say("Ready", false, why, said.clone());
    } else if !memory.bootstrapped {
        conditions.say("Ready", false, "Bootstrapping", waits.clone());
    } else if is_available {
        conditions.say("Ready", false, "Progressing", waits.clone());
    } else {
        conditions.say("Ready", false, "Unavailable", waits.clone());
    }
    if is_available {
        conditions.say("Available", true, "Serving", "spans are taken and questions answered");
    } else {
        conditions.say("Available", false, "NotServing", waits.clone());
    }
    if !is_settled && !is_paused {
        let reason = if kind == OperationKind::None {
            "Progressing".to_owned()
        } else {
            format!("{kind:?}")
        };
        conditions.say("Reconciling", true, &reason, decision.message.clone());
    }
    if let Some(stall) = &stalled {
        conditions.say("Stalled", true, stall.reason, stall.message.clone());
    }
    if is_paused {
        let message =
            "nothing is changed until spec.paused is false and the annotation tracing.vivace.dev/paused is gone";
        conditions.say("Paused", true, "Asked", message);
    }
    if memory.bootstrapped {
        let id = memory.cluster_id.as_deref().unwrap_or_default();
        conditions.say("Bootstrapped", true, "RingMade", format!("cluster {id}"));
    } else {
        conditions.say("Bootstrapped", false, "WaitingForNodes", waits);
    }
    quorum(conditions, cluster, sight);
    conditions.say("StorageReady", has_storage, why, said);
    certificates_condition(conditions, cluster, observed);
    grafana_condition(conditions, objects, beside);
    tenants_condition(conditions, cluster, observed);
    if cluster.spec.autoscaling.mode != AutoscalingMode::Disabled {
        let reason = format!("{:?}", cluster.spec.autoscaling.mode);
        conditions.say(
            "AutoscalingActive",
            true,
            &reason,
            format!("{} nodes are wanted", cluster.replicas),
        );
    }
    if cluster.is_overridden {
        let message = "spec.config is merged over the operator's settings; take it back when the field you need exists";
        conditions.say("ConfigOverridden", true, "Overlay", message);
    }
    if !objects.ignored.0.is_empty() {
        let message = format!(
            "of spec.podTemplate {} is the operator's and was left out",
            objects.ignored.0.join(", ")
        );
        conditions.say("PodTemplateIgnored", true, "OwnedFields", message);
    }
    match (is_paused, &stalled, kind) {
        (true, ..) => "Paused",
        (_, Some(_), _) => "Stalled",
        (.., OperationKind::Bootstrap) => "Bootstrapping",
        (.., OperationKind::ScaleUp) => "ScalingUp",
        (.., OperationKind::ScaleDown) => "ScalingDown",
        (.., OperationKind::Upgrade) => "Upgrading",
        (.., OperationKind::Replace) => "Replacing",
        (.., OperationKind::Resize) => "Resizing",
        (.., OperationKind::RotateCA) => "RotatingCA",
        (.., OperationKind::None) if is_settled && is_available => "Running",
        (.., OperationKind::None) if is_available => "Progressing",
        (.., OperationKind::None) => "Pending",
    }
}

/// What is known of the bucket: from the Secret, from the nodes, or from what a node said before it ended.
fn storage_condition(
    observed: &Observed,
    beside: &Beside<'_>,
    last_words: Option<&str>,
) -> (bool, &'static str, String) {
    if let Some((reason, message)) = &beside.credentials {
        return (false, reason, message.clone());
    }
    let views = observed.nodes.values().map(|node| &node.storage);
    let mut is_usable = false;
    for view in views {
        match view {
            StorageView::Unusable { problem, message } => return (false, storage_reason(*problem), message.clone()),
            StorageView::Usable { .. } => is_usable = true,
            StorageView::Unknown => {}
        }
    }
    if is_usable {
        return (true, "Usable", "nodes read and write the bucket".to_owned());
    }
    match last_words.and_then(|words| Some((problem_in(words)?, words))) {
        Some((problem, words)) => (
            false,
            storage_reason(problem),
            format!("{words}; correct the bucket, its policy or the Secret"),
        ),
        None => (false, NOT_LOOKED, "no node has looked at the bucket yet".to_owned()),
    }
}

/// What the words of a store's answer mean.
fn problem_in(words: &str) -> Option<StorageProblem> {
    let has = |needles: &[&str]| needles.iter().any(|needle| words.contains(needle));
    if has(&["NoSuchBucket", "bucket does not exist", "ContainerNotFound"]) {
        return Some(StorageProblem::BucketNotFound);
    }
    if has(&[
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "403 Forbidden",
        "Unauthenticated",
        "PermissionDenied",
    ]) {
        return Some(StorageProblem::AccessDenied);
    }
    has(&["object store", "Connection refused", "error sending request"]).then_some(StorageProblem::Unreachable)
}

fn quorum(conditions: &mut Conditions<'_>, cluster: &Cluster, sight: &Sight<'_>) {
    if cluster.is_single {
        let message = "one node is a whole cluster: there is nobody to agree with";
        conditions.say("QuorumHealthy", true, "SingleNode", message);
        conditions.say("ReplicationHealthy", true, "SingleNode", "one copy is wanted");
        return;
    }
    let Some(ring) = sight.ring() else {
        conditions.say("QuorumHealthy", false, "NoLeader", "no leader hears a majority");
        conditions.say("ReplicationHealthy", false, "Unknown", "only a leader knows");
        return;
    };
    match sight.voters().find(|voter| !voter.is_caught_up()) {
        Some(voter) => conditions.say(
            "QuorumHealthy",
            false,
            "VoterDown",
            format!("{} is away or behind", voter.pod),
        ),
        None => conditions.say("QuorumHealthy", true, "AllVotersCaughtUp", "every voter is caught up"),
    }
    let shards = &ring.shards;
    if shards.under_replicated + shards.unavailable == 0 {
        conditions.say(
            "ReplicationHealthy",
            true,
            "AllCopies",
            "every shard has all its copies",
        );
    } else {
        let message = format!(
            "{} shards lack a copy, {} a majority",
            shards.under_replicated, shards.unavailable
        );
        conditions.say("ReplicationHealthy", false, "CopiesMissing", message);
    }
}

fn certificates_condition(conditions: &mut Conditions<'_>, cluster: &Cluster, observed: &Observed) {
    if !cluster.has_certificates() {
        return;
    }
    let end = observed.certificates.leaf_not_after;
    match (cluster.spec.tls.mode, end) {
        (TlsMode::SelfSigned, Some(end)) if end > observed.now => {
            conditions.say(
                "CertificatesReady",
                true,
                "Valid",
                format!("until {end}, renewed before"),
            );
        }
        (TlsMode::SelfSigned, _) => {
            let message = "the nodes' certificate is missing or has ended; look at the operator's log";
            conditions.say("CertificatesReady", false, "Missing", message);
        }
        _ => conditions.say(
            "CertificatesReady",
            true,
            "External",
            "somebody else keeps the nodes' certificate",
        ),
    }
}

fn grafana_condition(conditions: &mut Conditions<'_>, objects: &Objects, beside: &Beside<'_>) {
    let failed: Vec<&str> = beside
        .grafana
        .iter()
        .filter_map(|source| source.message.as_deref())
        .collect();
    if let Some(kind) = objects.missing.first() {
        let message = format!("{kind} was asked for with Always and is not served: install it, or write Auto");
        conditions.say("GrafanaReady", false, "KindNotServed", message);
    } else if let Some(message) = beside.failed.first().map(String::as_str).or(failed.first().copied()) {
        conditions.say("GrafanaReady", false, "NotSynced", message);
    } else {
        let count = objects.datasources.len();
        conditions.say(
            "GrafanaReady",
            true,
            "Synced",
            format!("{count} data sources are described"),
        );
    }
}

fn tenants_condition(conditions: &mut Conditions<'_>, cluster: &Cluster, observed: &Observed) {
    let (have, of) = synced(cluster, observed);
    let rejected = cluster.tenants.verdicts.iter().find(|verdict| verdict.outcome.is_err());
    match rejected {
        _ if of == 0 || have < of => {
            conditions.say(
                "TenantsSynced",
                false,
                "Pushing",
                format!("{have} of {of} nodes have the limits as they are written"),
            );
        }
        Some(verdict) => {
            let message = format!("{}/{} was refused: see its conditions", verdict.namespace, verdict.name);
            conditions.say("TenantsSynced", false, "TenantRejected", message);
        }
        None => conditions.say(
            "TenantsSynced",
            true,
            "Synced",
            format!("{of} nodes have every tenant's limits"),
        ),
    }
}

#[cfg(test)]
mod tests;
