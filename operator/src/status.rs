//! What is said about a cluster: conditions, phase and numbers. Pure.
//!
//! Owns [`told`] and [`refused`]. **Always holds:** a condition's time changes only when its status does; Reconciling, Stalled
//! and Paused are there only while they are true, as kstatus reads them; texts end with what to do next; what only moves
//! with the load is rounded, so that a quiet cluster's status does not change.
//! Not here: what is remembered ([`crate::observed::Memory`]), which is written into the same status.

use std::collections::BTreeMap;

use crds::TracingCluster;
use crds::cluster::autoscaling::AutoscalingMode;
use crds::cluster::security::TlsMode;
use crds::cluster::status::{
    CertificateStatus, DatasourceStatus, Effective, Endpoints, MemberState, MemberStatus, OperationKind, RaftStatus,
    RingStatus, Role, ShardStatus, StorageStatus, TenantsStatus, TracingClusterStatus,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::admin::{self, StorageProblem, StorageView, limits_hash};
use crate::names;
use crate::objects::Objects;
use crate::observed::Observed;
use crate::plan::{Decision, Hashes, Sight, recovery_suggestion};
use crate::validate::{Cluster, Problem};

/// Longest message of a condition.
const MESSAGE_MAX: usize = 1_000;
/// Bytes of log are told in steps of this.
const WAL_STEP: u64 = 64 << 20;

/// Reason of the condition for what is wrong with the bucket.
pub(crate) fn storage_reason(problem: StorageProblem) -> &'static str {
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
    conditions.say("Ready", false, "ConfigInvalid", text.clone());
    conditions.say("Stalled", true, "ConfigInvalid", text);
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

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn selector(cluster: &Cluster) -> String {
    let pairs = names::selector(&cluster.name)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

fn effective(cluster: &Cluster) -> Effective {
    let small = |number: u32| i32::try_from(number).ok();
    Effective {
        size: Some(cluster.spec.size),
        replicas: small(cluster.replicas),
        replication_factor: small(cluster.replication_factor),
        voters: small(cluster.voters),
        image: Some(cluster.image.clone()),
        retention: Some(cluster.tenants.defaults.retention.to_string()),
        prefix: Some(cluster.prefix.clone()),
        volume_size: Some(cluster.volume.0.clone()),
        resources: Some(cluster.resources.clone()),
    }
}

fn endpoints(cluster: &Cluster) -> Endpoints {
    let otlp = &cluster.spec.receivers.otlp;
    let host = |service: String| format!("{service}.{}.svc", cluster.namespace);
    let ingest = host(names::ingest(&cluster.name));
    let exposed = &cluster.spec.exposure;
    let mut external = Vec::new();
    if let Some(name) = exposed.ingress.host.as_ref().filter(|_| exposed.ingress.enabled) {
        let scheme = if exposed.ingress.tls_secret_name.is_some() {
            "https"
        } else {
            "http"
        };
        external.push(format!("{scheme}://{name}"));
    }
    Endpoints {
        otlp_grpc: otlp.grpc.enabled.then(|| format!("{ingest}:{}", otlp.grpc.port)),
        otlp_http: otlp.http.enabled.then(|| format!("http://{ingest}:{}", otlp.http.port)),
        query: Some(format!("http://{}:{}", host(names::query(&cluster.name)), names::QUERY)),
        external,
    }
}

fn members(sight: &Sight<'_>, observed: &Observed, decision: &Decision) -> Vec<MemberStatus> {
    let slots = sight.slots().iter();
    slots
        .map(|slot| {
            let node = sight.node(&slot.pod);
            let member = sight.member_in(&slot.pod);
            let state = match (member, node) {
                (Some(member), _) if member.is_drained() => MemberState::Drained,
                (Some(member), _) => match member.state {
                    admin::MemberState::Joining => MemberState::Joining,
                    admin::MemberState::Active => MemberState::Active,
                    admin::MemberState::Leaving => MemberState::Leaving,
                },
                (None, Some(node)) if node.is_blank() => MemberState::Blank,
                (None, Some(_)) if sight.cluster.is_single => MemberState::Active,
                _ => MemberState::Unreachable,
            };
            let claim = names::claim(&slot.pod);
            MemberStatus {
                pod: slot.pod.clone(),
                zone: slot.zone.clone(),
                raft_id: member.map(|member| member.raft_id.to_string()),
                state,
                role: match member.map(|member| member.role) {
                    None => Role::None,
                    Some(admin::Role::Learner) => Role::Learner,
                    Some(admin::Role::Voter) => Role::Voter,
                },
                ready: sight.pod(&slot.pod).is_some_and(|pod| pod.is_ready),
                version: node.map(|node| node.version.clone()),
                // A few entries are always on their way.
                lag: member.map(|member| {
                    if member.lag < admin::LAG_MAX {
                        0
                    } else {
                        whole(member.lag)
                    }
                }),
                shards: member.map(|member| i32::try_from(member.shards).unwrap_or(i32::MAX)),
                wal_bytes: member.map(|member| whole(member.wal_bytes / WAL_STEP * WAL_STEP)),
                pvc: observed.claims.contains_key(&claim).then_some(claim),
                lost_since: decision.memory.lost_since.get(&slot.pod).map(|at| Time(*at)),
            }
        })
        .collect()
}

fn certificates(observed: &Observed) -> Vec<CertificateStatus> {
    let state = &observed.certificates;
    let both = [("ca", state.ca_not_after), ("peer", state.leaf_not_after)];
    let known = both.into_iter().filter(|(_, end)| end.is_some());
    known
        .map(|(name, end)| CertificateStatus {
            name: name.to_owned(),
            not_after: end.map(Time),
        })
        .collect()
}

fn datasources(objects: &Objects, beside: &Beside<'_>) -> Vec<DatasourceStatus> {
    let by_operator = objects.foreign.iter().any(|object| {
        object
            .types
            .as_ref()
            .is_some_and(|types| types.kind == "GrafanaDatasource")
    });
    let by_sidecar = objects.secrets.iter().any(|secret| {
        secret
            .metadata
            .name
            .as_ref()
            .is_some_and(|name| name.ends_with("-datasources"))
    }) || objects.config_maps.iter().any(|map| {
        map.metadata
            .name
            .as_ref()
            .is_some_and(|name| name.ends_with("-datasources"))
    });
    let mut told = Vec::new();
    for (target, is_used) in [("operator", by_operator), ("sidecar", by_sidecar)] {
        let sources = objects.datasources.iter().filter(|_| is_used);
        told.extend(sources.map(|source| DatasourceStatus {
            target: target.to_owned(),
            tenant: source.tenant.clone().unwrap_or_else(|| "*".to_owned()),
            uid: source.uid.clone(),
            state: "Synced".to_owned(),
            message: None,
        }));
    }
    told.extend(beside.grafana.iter().cloned());
    told.truncate(512);
    told
}

fn tenants(cluster: &Cluster, observed: &Observed) -> TenantsStatus {
    let verdicts = &cluster.tenants.verdicts;
    let accepted = verdicts.iter().filter(|verdict| verdict.outcome.is_ok()).count();
    let (synced, of) = synced(cluster, observed);
    TenantsStatus {
        total: number(verdicts.len()),
        synced: if of > 0 && synced == of { number(accepted) } else { 0 },
        rejected: number(verdicts.len() - accepted),
    }
}

/// Nodes that have the limits that are wanted, of how many.
pub fn synced(cluster: &Cluster, observed: &Observed) -> (usize, usize) {
    let wanted = limits_hash(&cluster.settings.limits);
    let have = observed
        .nodes
        .values()
        .filter(|node| node.limits.as_ref() == Some(&wanted))
        .count();
    (have, observed.memory.pods() as usize)
}

fn ring(sight: &Sight<'_>, status: &mut TracingClusterStatus) {
    let Some(view) = sight.best_view() else {
        return;
    };
    let has_quorum = sight.ring().is_some();
    let voters = view.members.iter().filter(|member| member.role == admin::Role::Voter);
    let mut voters: Vec<String> = voters.map(|member| member.pod.clone()).collect();
    voters.sort();
    status.raft = Some(RaftStatus {
        leader: sight.leader().map(str::to_owned),
        term: Some(whole(view.term)),
        // The index moves with every entry; what a person compares is the term.
        commit_index: None,
        learners: number(view.members.len() - voters.len()),
        voters,
        recover_from: (!has_quorum).then(|| recovery_suggestion(sight)).flatten(),
    });
    let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let shards = &view.shards;
    status.ring = Some(RingStatus {
        epoch: whole(shards.epoch),
        shards: count(shards.total),
        healthy: count(shards.healthy),
        under_replicated: count(shards.under_replicated),
        unavailable: count(shards.unavailable),
        moving: count(shards.moving),
        worst: shards
            .worst
            .iter()
            .take(10)
            .map(|shard| ShardStatus {
                id: count(shard.id),
                live: count(shard.live),
                want: count(shard.want),
                owners: shard.owners.iter().take(10).cloned().collect(),
            })
            .collect(),
    });
    status.format_version = Some(count(view.format));
}

fn storage(observed: &Observed, before: Option<&StorageStatus>) -> Option<StorageStatus> {
    let used = observed.nodes.values().find_map(|node| match &node.storage {
        StorageView::Usable { used_bytes } => *used_bytes,
        _ => None,
    });
    let used = used
        .map(|bytes| whole(bytes >> 30 << 30))
        .or(before.and_then(|before| before.used_bytes));
    used.map(|bytes| StorageStatus {
        last_probe: None,
        used_bytes: Some(bytes),
    })
}

/// Says every condition and gives the phase.
fn conditions_of(
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
    } else if !has_storage && !is_available {
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
        (.., OperationKind::Recover) => "Recovering",
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
        None => (
            false,
            "WaitingForNodes",
            "no node has looked at the bucket yet".to_owned(),
        ),
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
        let hint = recovery_suggestion(sight).map_or_else(String::new, |pod| {
            format!(
                "; if the others are gone for good: kubectl annotate trc {} {}={pod}",
                cluster.name,
                names::RECOVER_FROM
            )
        });
        conditions.say(
            "QuorumHealthy",
            false,
            "NoLeader",
            format!("no leader hears a majority{hint}"),
        );
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

/// The conditions of a list, by type: for events.
pub fn by_type(conditions: &[Condition]) -> BTreeMap<&str, &Condition> {
    conditions
        .iter()
        .map(|condition| (condition.type_.as_str(), condition))
        .collect()
}

#[cfg(test)]
mod tests;
