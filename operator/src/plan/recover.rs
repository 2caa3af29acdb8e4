//! Going on after the ring has lost its majority for good. Only a person can know that it is for good, and says so with an
//! annotation that names the node to go on from; it must be the one with the newest log.

use crds::cluster::status::{Operation, OperationKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Act, Next, Sight, asked};
use crate::admin::{Command, NodeStatus};
use crate::names;
use crate::observed::Memory;

/// The pod with the newest log, while there is no majority.
pub(crate) fn suggestion<'a>(sight: &'a Sight<'_>) -> Option<(&'a str, &'a NodeStatus)> {
    if sight.ring().is_some() || sight.cluster.is_single {
        return None;
    }
    let cluster_id = sight.observed.memory.cluster_id.as_ref()?;
    let nodes = sight
        .observed
        .nodes
        .iter()
        .filter(|(_, node)| node.cluster_id.as_ref() == Some(cluster_id));
    nodes
        .filter_map(|(pod, node)| Some((pod, node, node.view.as_ref()?)))
        .max_by_key(|(_, _, view)| (view.term, view.last_index))
        .map(|(pod, node, _)| (pod.as_str(), node))
}

/// The operation, when it is asked for and there is no majority.
pub(super) fn due(sight: &Sight<'_>) -> Option<Operation> {
    let wanted = asked(sight.cluster, names::RECOVER_FROM)?;
    let (pod, node) = suggestion(sight)?;
    let now = Time(sight.observed.now);
    (pod == wanted).then(|| Operation {
        kind: OperationKind::Recover,
        target: Some(pod.to_owned()),
        target_id: node.raft_id.map(|id| id.to_string()),
        started_at: Some(now.clone()),
        step_started_at: Some(now),
        ..Operation::default()
    })
}

pub(super) fn step(sight: &Sight<'_>, memory: &Memory) -> Next {
    if let Some(ring) = sight.ring() {
        // Everybody who is no member of the new ring is gone for good; their disks are reset when they come back.
        let mut memory = memory.clone();
        let outside = sight.observed.nodes.values().filter_map(|node| node.raft_id);
        for id in outside.filter(|id| !ring.members.iter().any(|member| member.raft_id == *id)) {
            memory.retire(id);
        }
        return Next::Done(Box::new(memory));
    }
    let target = memory.operation.target.as_deref();
    let Some((pod, node)) = suggestion(sight).filter(|(pod, _)| Some(*pod) == target) else {
        // Another node with a newer log has come back, or this one has gone: a person has to look again.
        return Next::Done(Box::new(memory.clone()));
    };
    // Those who are left out may be away only and come back with their disks; that they are out is remembered before it is so.
    let others: Vec<_> = node
        .view
        .iter()
        .flat_map(|view| &view.members)
        .map(|member| member.raft_id)
        .filter(|id| Some(*id) != node.raft_id && !memory.retired.contains(id))
        .collect();
    if !others.is_empty() {
        let mut memory = memory.clone();
        for id in others {
            memory.retire(id);
        }
        return Next::Remember("Retire", Box::new(memory));
    }
    match (node.raft_id, &memory.cluster_id) {
        (Some(member), Some(cluster)) => Next::Do(
            "Recover",
            Act::Tell {
                pod: pod.to_owned(),
                command: Command::Recover {
                    member,
                    cluster: cluster.clone(),
                },
            },
        ),
        _ => Next::Done(Box::new(memory.clone())),
    }
}
