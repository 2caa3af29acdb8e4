//! One StatefulSet per zone. It keeps pods and volumes; which pod goes when is the operator's, so it updates on delete only.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::ObjectMeta;

use super::overlay::Ignored;
use super::{Given, metadata, pod};
use crate::names;
use crate::validate::{Cluster, Group};

/// The StatefulSet of a group, the hash of its pod template, and what the overlay did not get.
pub(super) fn build(cluster: &Cluster, group: &Group, pods: u32, given: &Given) -> (StatefulSet, String, Ignored) {
    let name = names::set(&cluster.name, &group.name);
    let (template, hash, ignored) = pod::template(cluster, group, given);
    let mut selector = names::selector(&cluster.name);
    selector.insert(names::ZONE.to_owned(), group.name.clone());
    let mut labels = names::labels(&cluster.name);
    labels.insert(names::COMPONENT.to_owned(), names::STORAGE.to_owned());
    labels.insert(names::ZONE.to_owned(), group.name.clone());
    let mut metadata = metadata(cluster, &name);
    metadata.labels = Some(labels.clone());
    let keep = "Retain".to_owned();
    let set = StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            service_name: Some(names::peers(&cluster.name)),
            replicas: Some(i32::try_from(pods).unwrap_or(i32::MAX)),
            // Waiting for one pod before the next is made would keep a broken first pod from being healed by the others.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(keep.clone()),
                when_scaled: Some(keep),
            }),
            selector: LabelSelector {
                match_labels: Some(selector),
                match_expressions: None,
            },
            template,
            volume_claim_templates: Some(vec![claim(cluster, given, &name, labels)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    };
    (set, hash, ignored)
}

fn claim(cluster: &Cluster, given: &Given, set: &str, labels: BTreeMap<String, String>) -> PersistentVolumeClaim {
    let persistence = &cluster.spec.persistence;
    // The API server refuses any change of a claim template: what is there stays until the set is made anew.
    let size = given.templates.get(set).unwrap_or(&cluster.volume).clone();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some("data".to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(persistence.access_modes.clone()),
            storage_class_name: persistence.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size)].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
