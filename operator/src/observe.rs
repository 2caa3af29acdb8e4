//! Looking: the cluster's objects and what its nodes answer, as plain data.
//!
//! Owns [`look`] and the translation of each kind. Always holds: a list that fails fails the whole look; nothing is taken
//! for absent because it could not be asked for. Nodes are the exception: one that does not answer is not in the result.

use std::collections::BTreeMap;

use crds::TracingCluster;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use crate::admin::http::HttpAdmin;
use crate::admin::standalone::StandaloneAdmin;
use crate::admin::trust::Trust;
use crate::admin::{AdminError, Command, NodeAddress, NodeAdmin, NodeStatus};
use crate::certificates::CertificateState;
use crate::names;
use crate::observed::{Memory, Observed, ObservedClaim, ObservedPod, ObservedSet};
use crate::quantity::units;
use crate::validate::Cluster;

/// Whichever way this cluster's nodes are spoken with.
#[derive(Debug, Clone)]
pub enum Nodes {
    Http(HttpAdmin),
    Standalone(Box<StandaloneAdmin>),
}

impl Nodes {
    /// `trust` is none where nodes have no certificates, or none yet.
    pub fn of(cluster: &Cluster, http: reqwest::Client, trust: Option<Trust>) -> Self {
        if cluster.is_single {
            let limits = cluster.settings.limits.clone();
            Self::Standalone(Box::new(StandaloneAdmin::new(http, cluster.uid.clone(), limits)))
        } else {
            Self::Http(HttpAdmin::new(http, trust))
        }
    }

    async fn status(&self, node: &NodeAddress) -> Result<NodeStatus, AdminError> {
        match self {
            Self::Http(admin) => admin.status(node).await,
            Self::Standalone(admin) => admin.status(node).await,
        }
    }

    pub async fn tell(&self, node: &NodeAddress, command: &Command) -> Result<(), AdminError> {
        match self {
            Self::Http(admin) => admin.tell(node, command).await,
            Self::Standalone(admin) => admin.tell(node, command).await,
        }
    }
}

/// Where a pod's node is reached.
pub fn address(cluster: &Cluster, pod: &str, ip: &str) -> NodeAddress {
    NodeAddress {
        pod: pod.to_owned(),
        host: names::host(pod, &cluster.name, &cluster.namespace),
        ip: ip.to_owned(),
    }
}

/// Everything that can be seen of a cluster now.
pub async fn look(
    client: &Client,
    resource: &TracingCluster,
    cluster: &Cluster,
    nodes: &Nodes,
    certificates: CertificateState,
    now: Timestamp,
    fresh_id: String,
) -> Result<Observed, kube::Error> {
    let namespace = &cluster.namespace;
    let selector = ListParams::default().labels(&names::list_selector(&cluster.name));
    let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let (sets, pods, claims) = tokio::try_join!(sets.list(&selector), pods.list(&selector), claims.list(&selector))?;
    let memory = Memory::of(&resource.status.clone().unwrap_or_default());
    let claims: BTreeMap<String, ObservedClaim> = claims
        .items
        .iter()
        .map(|claim| (claim.name_any(), observed_claim(claim)))
        .collect();
    let needs_class = claims
        .values()
        .any(|claim| claim.requested_bytes < cluster.volume_bytes);
    let expandable = if needs_class {
        expandable(client, cluster).await
    } else {
        None
    };
    let pods: BTreeMap<String, ObservedPod> = pods
        .items
        .iter()
        .map(|pod| (pod.name_any(), observed_pod(pod, &claims)))
        .collect();
    let asked = pods.iter().filter_map(|(name, pod)| {
        let ip = pod.ip.as_ref().filter(|_| !pod.is_terminating)?;
        Some(async move {
            let status = nodes.status(&address(cluster, name, ip)).await;
            (name.clone(), status)
        })
    });
    let answers = futures::future::join_all(asked).await;
    let nodes = answers.into_iter().filter_map(|(pod, status)| match status {
        Ok(status) => Some((pod, status)),
        Err(error) => {
            tracing::debug!(%error, pod, "no answer");
            None
        }
    });
    Ok(Observed {
        now,
        fresh_id,
        memory,
        sets: sets
            .items
            .iter()
            .map(|set| (set.name_any(), observed_set(set)))
            .collect(),
        nodes: nodes.collect(),
        pods,
        claims,
        expandable,
        certificates,
    })
}

/// Whether the class of the volumes lets them grow; `None` where that is not to be seen.
async fn expandable(client: &Client, cluster: &Cluster) -> Option<bool> {
    let name = cluster.spec.persistence.storage_class_name.as_deref()?;
    let class = Api::<StorageClass>::all(client.clone()).get_opt(name).await.ok()??;
    Some(class.allow_volume_expansion.unwrap_or(false))
}

fn observed_set(set: &StatefulSet) -> ObservedSet {
    let spec = set.spec.as_ref();
    let template = spec.and_then(|spec| spec.volume_claim_templates.as_ref()?.first());
    ObservedSet {
        uid: set.uid().unwrap_or_default(),
        replicas: spec
            .and_then(|spec| spec.replicas)
            .and_then(|replicas| u32::try_from(replicas).ok())
            .unwrap_or(1),
        template_bytes: template.and_then(requested),
        is_terminating: set.metadata.deletion_timestamp.is_some(),
    }
}

fn requested(claim: &PersistentVolumeClaim) -> Option<u64> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    units(resources.requests.as_ref()?.get("storage")?)
}

fn observed_claim(claim: &PersistentVolumeClaim) -> ObservedClaim {
    let status = claim.status.as_ref();
    let capacity = status.and_then(|status| units(status.capacity.as_ref()?.get("storage")?));
    let note = |key: &str| claim.annotations().get(key).cloned();
    ObservedClaim {
        made_at: claim.creation_timestamp().map(|at| at.0),
        uid: claim.uid().unwrap_or_default(),
        requested_bytes: requested(claim).unwrap_or_default(),
        capacity_bytes: capacity,
        is_lost: status.and_then(|status| status.phase.as_deref()) == Some("Lost"),
        is_resize_pending: status
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|conditions| {
                let mut pending = conditions.iter();
                pending.any(|condition| condition.type_ == "FileSystemResizePending" && condition.status == "True")
            }),
        is_terminating: claim.metadata.deletion_timestamp.is_some(),
        retired: note(names::RETIRED),
        retired_at: note(names::RETIRED_AT).and_then(|at| at.parse().ok()),
    }
}

fn observed_pod(pod: &Pod, claims: &BTreeMap<String, ObservedClaim>) -> ObservedPod {
    let note = |key: &str| pod.annotations().get(key).cloned();
    let status = pod.status.as_ref();
    let condition = |name: &str| {
        let conditions = status.and_then(|status| status.conditions.as_ref())?;
        conditions.iter().find(|condition| condition.type_ == name)
    };
    let ready = condition("Ready").filter(|condition| condition.status == "True");
    let unscheduled = condition("PodScheduled")
        .filter(|condition| condition.status == "False")
        .and_then(|condition| condition.message.as_deref())
        .unwrap_or_default();
    ObservedPod {
        uid: pod.uid().unwrap_or_default(),
        hash: note(names::POD_HASH),
        restarted_at: note(names::RESTARTED_AT),
        is_ready: ready.is_some(),
        ready_since: ready.and_then(|condition| Some(condition.last_transition_time.as_ref()?.0)),
        is_terminating: pod.metadata.deletion_timestamp.is_some(),
        is_volume_lost: claims
            .get(&names::claim(&pod.name_any()))
            .is_some_and(|claim| claim.is_lost)
            || unscheduled.contains("volume node affinity conflict"),
        is_retire_wanted: note(names::RETIRE).as_deref() == Some("true"),
        ip: status
            .and_then(|status| status.pod_ip.clone())
            .filter(|ip| !ip.is_empty()),
        last_words: last_words(pod).or_else(|| (!unscheduled.is_empty()).then(|| cut(unscheduled))),
    }
}

/// Why the node's container does not run: what it waits for, or what it said before it ended.
fn last_words(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ours = statuses.iter().find(|status| status.name == names::CONTAINER)?;
    let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        let terminated = state.as_ref()?.terminated.as_ref()?;
        let said = terminated.message.as_deref().unwrap_or_default().trim();
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        (terminated.exit_code != 0).then(|| cut(last))
    };
    let waiting = ours.state.as_ref().and_then(|state| {
        let waiting = state.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let is_trouble = !["ContainerCreating", "PodInitializing", "CrashLoopBackOff"].contains(&reason);
        is_trouble.then(|| cut(&format!("{reason}: {}", waiting.message.as_deref().unwrap_or_default())))
    });
    waiting
        .or_else(|| ended(&ours.state))
        .or_else(|| (!ours.ready).then(|| ended(&ours.last_state)).flatten())
}

/// The beginning of a text that others wrote.
fn cut(text: &str) -> String {
    text.chars().take(400).collect()
}
