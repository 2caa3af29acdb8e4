//! Doing the one thing that was decided.
//!
//! **Always holds:** every write names what it expects (a uid), so that one that comes late fails and nothing else; "it is
//! gone already" and "not now" are no errors, the next look decides anew.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, EvictParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Client, Error};
use serde_json::json;

use crate::admin::AdminError;
use crate::authority;
use crate::names;
use crate::observe::{Nodes, address};
use crate::observed::Observed;
use crate::plan::Act;
use crate::validate::Cluster;

/// Why an act was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error(transparent)]
    Api(#[from] Error),
    #[error(transparent)]
    Node(#[from] AdminError),
    #[error("{0} is not to be seen any more")]
    Unseen(String),
    #[error(transparent)]
    Authority(#[from] authority::AuthorityError),
}

/// Does it; says false where it was refused for now.
pub async fn act(
    client: &Client,
    cluster: &Cluster,
    nodes: &Nodes,
    observed: &Observed,
    act: &Act,
) -> Result<bool, ActError> {
    let namespace = &cluster.namespace;
    let pods = || Api::<Pod>::namespaced(client.clone(), namespace);
    let claims = || Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let sets = || Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let only = |uid: &str| DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let manager = PatchParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let result = match act {
        Act::Tell { pod, command } => {
            let ip = observed.pods.get(pod).and_then(|pod| pod.ip.clone());
            let ip = ip.ok_or_else(|| ActError::Unseen(pod.clone()))?;
            nodes.tell(&address(cluster, pod, &ip), command).await?;
            return Ok(true);
        }
        Act::Certificates(step) => {
            authority::step(client, cluster, *step, observed.now).await?;
            return Ok(true);
        }
        Act::Evict { pod, uid } => {
            let params = EvictParams {
                delete_options: Some(only(uid)),
                ..EvictParams::default()
            };
            pods().evict(pod, &params).await.map(drop)
        }
        Act::DeletePod { pod, uid } => pods().delete(pod, &only(uid)).await.map(drop),
        Act::DeleteClaim { claim, uid } => claims().delete(claim, &only(uid)).await.map(drop),
        Act::RetireClaim { claim, uid, member } => {
            let patch = json!({"metadata": {"uid": uid, "annotations": {
                names::RETIRED: member.map(|id| id.to_string()).unwrap_or_default(),
                names::RETIRED_AT: observed.now.to_string(),
            }}});
            claims().patch(claim, &manager, &Patch::Merge(&patch)).await.map(drop)
        }
        Act::GrowClaim { claim, uid, bytes } => {
            let patch = json!({
                "metadata": {"uid": uid},
                "spec": {"resources": {"requests": {"storage": bytes.to_string()}}},
            });
            claims().patch(claim, &manager, &Patch::Merge(&patch)).await.map(drop)
        }
        Act::ShrinkSet { set, uid, pods } => {
            let patch = json!({"metadata": {"uid": uid}, "spec": {"replicas": pods}});
            sets().patch(set, &manager, &Patch::Merge(&patch)).await.map(drop)
        }
        Act::OrphanSet { set, uid } => {
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Orphan),
                ..only(uid)
            };
            sets().delete(set, &params).await.map(drop)
        }
    };
    match result {
        Ok(()) => Ok(true),
        // Gone, another one by now, or held back by a disruption budget.
        Err(Error::Api(status)) if [404, 409, 429].contains(&status.code) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
