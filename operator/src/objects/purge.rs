//! The Job that empties the bucket's prefix when a cluster is deleted with everything: the node's own image and settings, and
//! the node's own way to the bucket, with another word on the command line.
//!
//! It has no owner reference: what is being deleted takes what it owns along, and this has to outlive it for a while.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec, PodTemplateSpec, Volume};
use kube::core::ObjectMeta;

use super::{Given, config_map, metadata, pod};
use crate::names;
use crate::validate::Cluster;

/// Times that it is tried before a person is told. It goes on from where it was.
const TRIES: i32 = 6;
/// However much there is to delete, it is not more than this.
const DEADLINE_SECONDS: i64 = 24 * 3_600;

/// The Job. It mounts the nodes' settings, which have to be there.
pub fn build(cluster: &Cluster) -> Job {
    let group = cluster
        .groups
        .first()
        .expect("a cluster has at least one group of pods");
    let (template, ..) = pod::template(cluster, group, &Given::default());
    let spec = template.spec.unwrap_or_default();
    let containers = spec
        .containers
        .into_iter()
        .filter(|container| container.name == names::CONTAINER);
    let containers = containers
        .map(|mut container| {
            container.args = Some(vec!["purge".to_owned(), pod::config_argument()]);
            container.ports = None;
            container.startup_probe = None;
            container.liveness_probe = None;
            container.readiness_probe = None;
            container.lifecycle = None;
            container.resources = None;
            container
        })
        .collect();
    let mut volumes = spec.volumes.unwrap_or_default();
    volumes.push(Volume {
        name: "data".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    let mut labels = names::labels(&cluster.name);
    labels.insert(names::COMPONENT.to_owned(), names::PURGE.to_owned());
    let mut own = metadata(cluster, names::purge(&cluster.name));
    own.owner_references = None;
    own.labels = Some(labels.clone());
    Job {
        metadata: own,
        spec: Some(JobSpec {
            backoff_limit: Some(TRIES),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    restart_policy: Some("OnFailure".to_owned()),
                    termination_grace_period_seconds: None,
                    containers,
                    volumes: Some(volumes),
                    affinity: None,
                    ..spec
                }),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// The nodes' settings without an owner, for where they are gone already.
pub fn settings(cluster: &Cluster) -> k8s_openapi::api::core::v1::ConfigMap {
    let mut map = config_map::build(cluster);
    map.metadata.owner_references = None;
    map
}
