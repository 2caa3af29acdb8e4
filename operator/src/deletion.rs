//! What goes with a resource, and in which order: pods, volumes, the bucket's prefix, then the resource.
//!
//! **Always holds:** with Retain nothing but objects that can be made anew goes; volumes go only after the pods that use them;
//! the prefix is emptied only after the last pod has ended, and only where this cluster has made its ring, because one that
//! never did may have been refused a prefix that is another's. Who changes `spec.deletionPolicy` meanwhile is heard.

use std::time::Duration;

use crds::TracingCluster;
use crds::cluster::DeletionPolicy;
use crds::cluster::storage::StorageType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::runtime::controller::Action;
use kube::{Client, Error, ResourceExt as _};
use serde_json::json;

use crate::names;
use crate::objects::purge;
use crate::status::Conditions;
use crate::validate::{Environment, Lookups, validate};

/// How often it is looked whether something has ended.
const SOON: Duration = Duration::from_secs(2);
/// How often it is looked whether a person has done something.
const LATER: Duration = Duration::from_secs(30);

/// Adds the finalizer where it is missing; says whether it did.
pub async fn ensure_finalizer(api: &Api<TracingCluster>, resource: &TracingCluster) -> Result<bool, Error> {
    if has_finalizer(resource) {
        return Ok(false);
    }
    let mut finalizers = resource.finalizers().to_vec();
    finalizers.push(names::FINALIZER.to_owned());
    set_finalizers(api, resource, finalizers).await?;
    Ok(true)
}

fn has_finalizer(resource: &TracingCluster) -> bool {
    resource
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == names::FINALIZER)
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

/// What is still in the way of the resource's end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Left {
    Nothing,
    /// It goes on by itself.
    Going(String),
    /// A person has to do something.
    Stuck(String),
}

/// One step of deleting.
pub async fn step(client: &Client, resource: &TracingCluster, environment: &Environment) -> Result<Action, Error> {
    let api = Api::<TracingCluster>::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    if !has_finalizer(resource) {
        return Ok(Action::await_change());
    }
    match left(client, resource, environment).await? {
        Left::Going(message) => {
            tell(&api, resource, "Deleting", &message, false).await?;
            return Ok(Action::requeue(SOON));
        }
        Left::Stuck(message) => {
            tell(&api, resource, "PurgeFailed", &message, true).await?;
            return Ok(Action::requeue(LATER));
        }
        Left::Nothing => {}
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

/// Says in the conditions what is waited for, once.
async fn tell(
    api: &Api<TracingCluster>,
    resource: &TracingCluster,
    reason: &str,
    message: &str,
    is_stuck: bool,
) -> Result<(), Error> {
    let before = resource.status.clone().unwrap_or_default();
    let mut conditions = Conditions::new(&before.conditions, resource.metadata.generation, Timestamp::now());
    conditions.say("Ready", false, reason, message);
    conditions.say(if is_stuck { "Stalled" } else { "Reconciling" }, true, reason, message);
    let mut status = before.clone();
    status.conditions = conditions.finish();
    status.phase = Some("Deleting".to_owned());
    status.observed_generation = resource.metadata.generation;
    if status == before {
        return Ok(());
    }
    let mut written = resource.clone();
    written.metadata.managed_fields = None;
    written.status = Some(status);
    match api
        .replace_status(&resource.name_any(), &PostParams::default(), &written)
        .await
    {
        Err(Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
        other => other.map(drop),
    }
}

async fn left(client: &Client, resource: &TracingCluster, environment: &Environment) -> Result<Left, Error> {
    let namespace = resource.namespace().unwrap_or_default();
    let policy = resource.spec.deletion_policy;
    if policy == DeletionPolicy::Retain {
        return Ok(Left::Nothing);
    }
    let nodes = ListParams::default().labels(&format!(
        "{},{}={}",
        names::list_selector(&resource.name_any()),
        names::COMPONENT,
        names::STORAGE
    ));
    let sets = Api::<StatefulSet>::namespaced(client.clone(), &namespace);
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
    let foreground = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    let found = sets.list_metadata(&nodes).await?;
    for set in found
        .items
        .iter()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
    {
        gone(sets.delete(&set.name_any(), &foreground).await)?;
    }
    let running = pods.list_metadata(&nodes).await?.items.len();
    if !found.items.is_empty() || running > 0 {
        return Ok(Left::Going(format!("{running} pods are ending")));
    }
    for claim in claims.list_metadata(&nodes).await?.items {
        gone(claims.delete(&claim.name_any(), &DeleteParams::default()).await)?;
    }
    let has_begun = resource.status.as_ref().is_some_and(|status| status.bootstrapped);
    if policy != DeletionPolicy::DeleteAll || resource.spec.storage.r#type == StorageType::Filesystem || !has_begun {
        return Ok(Left::Nothing);
    }
    bucket(client, resource, environment).await
}

/// Empties the prefix: by a Job, because the way to the bucket is the nodes' and not the operator's.
async fn bucket(client: &Client, resource: &TracingCluster, environment: &Environment) -> Result<Left, Error> {
    let way_out = format!(
        "to leave the bucket as it is: kubectl patch trc {} --type merge -p '{{\"spec\":{{\"deletionPolicy\":\"DeletePVCs\"}}}}'",
        resource.name_any()
    );
    let cluster = match validate(resource, &Lookups::default(), environment) {
        Ok(cluster) => cluster,
        Err(problems) => {
            let first = problems
                .first()
                .map(|problem| format!("{}: {}", problem.field, problem.message));
            let message = format!(
                "the bucket cannot be emptied: {}; correct it, or {way_out}",
                first.unwrap_or_default()
            );
            return Ok(Left::Stuck(message));
        }
    };
    let jobs = Api::<Job>::namespaced(client.clone(), &cluster.namespace);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &cluster.namespace);
    let wanted = purge::build(&cluster);
    let name = wanted.name_any();
    // Those who delete with --cascade=foreground take the settings away first.
    let settings = purge::settings(&cluster);
    if maps.get_opt(&settings.name_any()).await?.is_none() {
        there(maps.create(&PostParams::default(), &settings).await)?;
    }
    let Some(job) = jobs.get_opt(&name).await? else {
        there(jobs.create(&PostParams::default(), &wanted).await)?;
        return Ok(Left::Going(format!(
            "Job {name} empties {} in the bucket",
            cluster.prefix
        )));
    };
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ended = |kind: &str| {
        let found = conditions.into_iter().flatten();
        found
            .into_iter()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    if ended("Failed") {
        let message = format!(
            "Job {name} could not empty {} in the bucket: look at its pods' logs and delete it, then it is tried again; {way_out}",
            cluster.prefix
        );
        return Ok(Left::Stuck(message));
    }
    if !ended("Complete") {
        return Ok(Left::Going(format!(
            "Job {name} empties {} in the bucket",
            cluster.prefix
        )));
    }
    let background = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    gone(jobs.delete(&name, &background).await)?;
    gone(maps.delete(&settings.name_any(), &DeleteParams::default()).await)?;
    Ok(Left::Nothing)
}

fn gone<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

fn there<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
