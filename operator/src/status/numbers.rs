//! The numbers and names in a status. Pure.

use crds::cluster::status::{
    CertificateStatus, DatasourceStatus, Effective, Endpoints, MemberState, MemberStatus, RaftStatus, RingStatus, Role,
    ShardStatus, StorageStatus, TenantsStatus, TracingClusterStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Beside;
use crate::admin::{self, StorageView, limits_hash};
use crate::names;
use crate::objects::Objects;
use crate::observed::Observed;
use crate::plan::{Decision, Sight};
use crate::validate::Cluster;

/// Bytes of log are told in steps of this.
const WAL_STEP: u64 = 64 << 20;

pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(super) fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(super) fn selector(cluster: &Cluster) -> String {
    let pairs = names::selector(&cluster.name)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

pub(super) fn effective(cluster: &Cluster) -> Effective {
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

pub(super) fn endpoints(cluster: &Cluster) -> Endpoints {
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

pub(super) fn members(sight: &Sight<'_>, observed: &Observed, decision: &Decision) -> Vec<MemberStatus> {
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
                    admin::MemberState::Lost => MemberState::Lost,
                },
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

pub(super) fn certificates(observed: &Observed) -> Vec<CertificateStatus> {
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

pub(super) fn datasources(objects: &Objects, beside: &Beside<'_>) -> Vec<DatasourceStatus> {
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

pub(super) fn tenants(cluster: &Cluster, observed: &Observed) -> TenantsStatus {
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

pub(super) fn ring(sight: &Sight<'_>, status: &mut TracingClusterStatus) {
    let Some(view) = sight.best_view() else {
        return;
    };
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

pub(super) fn storage(observed: &Observed, before: Option<&StorageStatus>) -> Option<StorageStatus> {
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
