//! What goes with a resource, and in which order: pods, volumes, then the resource.
//!
//! Always holds: with Retain nothing but objects that can be made anew goes; volumes go only after the pods that use them.

use std::time::Duration;

use crds::TracingCluster;
use crds::cluster::DeletionPolicy;
use crds::cluster::storage::StorageType;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Error, Resource as _, ResourceExt as _};
use serde_json::json;

use crate::names;

/// Adds the finalizer where it is missing; says whether it did.
pub async fn ensure_finalizer(api: &Api<TracingCluster>, resource: &TracingCluster) -> Result<bool, Error> {
    if resource
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == names::FINALIZER)
    {
        return Ok(false);
    }
    let mut finalizers = resource.finalizers().to_vec();
    finalizers.push(names::FINALIZER.to_owned());
    set_finalizers(api, resource, finalizers).await?;
    Ok(true)
}

async fn set_finalizers(
    api: &Api<TracingCluster>,
    resource: &TracingCluster,
    finalizers: Vec<String>,
) -> Result<(), Error> {
    // With the version that was read: others have finalizers too.
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": resource.resource_version()}});
    api.patch(&resource.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map(drop)
}

/// One step of deleting.
pub async fn step(client: &Client, resource: &TracingCluster, recorder: &Recorder) -> Result<Action, Error> {
    let namespace = resource.namespace().unwrap_or_default();
    let name = resource.name_any();
    let api = Api::<TracingCluster>::namespaced(client.clone(), &namespace);
    if !resource
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == names::FINALIZER)
    {
        return Ok(Action::await_change());
    }
    let ours = ListParams::default().labels(&names::list_selector(&name));
    if resource.spec.deletion_policy != DeletionPolicy::Retain {
        let sets = Api::<StatefulSet>::namespaced(client.clone(), &namespace);
        let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
        let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
        let foreground = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        let found = sets.list_metadata(&ours).await?;
        for set in found
            .items
            .iter()
            .filter(|set| set.metadata.deletion_timestamp.is_none())
        {
            gone(sets.delete(&set.name_any(), &foreground).await)?;
        }
        if !found.items.is_empty() || !pods.list_metadata(&ours).await?.items.is_empty() {
            return Ok(Action::requeue(Duration::from_secs(2)));
        }
        for claim in claims.list_metadata(&ours).await?.items {
            gone(claims.delete(&claim.name_any(), &DeleteParams::default()).await)?;
        }
    }
    if resource.spec.deletion_policy == DeletionPolicy::DeleteAll
        && resource.spec.storage.r#type != StorageType::Filesystem
    {
        let prefix = resource
            .status
            .as_ref()
            .and_then(|status| status.effective.as_ref()?.prefix.clone());
        let event = Event {
            type_: EventType::Warning,
            reason: "BucketNotEmptied".to_owned(),
            note: Some(format!(
                "volumes are deleted; delete what is under {} in the bucket by its own means (a lifecycle rule is quickest)",
                prefix.unwrap_or_default()
            )),
            action: "Delete".to_owned(),
            secondary: None,
        };
        let _ = recorder.publish(&event, &resource.object_ref(&())).await;
    }
    let rest = resource
        .finalizers()
        .iter()
        .filter(|finalizer| *finalizer != names::FINALIZER);
    match set_finalizers(&api, resource, rest.cloned().collect()).await {
        Err(Error::Api(status)) if status.code == 404 => {}
        Err(Error::Api(status)) if status.code == 409 => return Ok(Action::requeue(Duration::from_secs(1))),
        other => other?,
    }
    Ok(Action::await_change())
}

fn gone<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
