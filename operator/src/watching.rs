//! What makes the loop run: changes of clusters and of everything they depend on.

use std::sync::Arc;
use std::time::Duration;

use crds::{TracingCluster, TracingTenant};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::controller::{Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Predicate as _, WatchStreamExt as _, predicates, reflector, watcher};
use kube::{Client, ResourceExt as _};

use crate::controller::{Context, on_error, reconcile};
use crate::lookup::depends_on;
use crate::names;
use crate::objects::Served;

/// Kinds of others that are served now.
pub async fn served(client: &Client) -> Result<Served, kube::Error> {
    let groups: std::collections::BTreeSet<String> = client
        .list_api_groups()
        .await?
        .groups
        .into_iter()
        .map(|group| group.name)
        .collect();
    let mut served = Served::default();
    for kind in Served::ALL {
        let (api_version, name) = kind.rsplit_once('/').unwrap_or(("", kind));
        let group = api_version.split('/').next().unwrap_or_default();
        if !groups.contains(group) {
            continue;
        }
        match client.list_api_group_resources(api_version).await {
            Ok(list) if list.resources.iter().any(|resource| resource.kind == name) => {
                served.0.insert(kind);
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(served)
}

/// Runs the loop over one namespace, or over all of them, until `stop`.
pub async fn run(
    context: Arc<Context>,
    namespace: Option<&str>,
    labels: Option<&str>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let client = context.client.clone();
    // Before the server's own limit, and before load balancers that cut quiet connections.
    let patience = || watcher::Config::default().timeout(200);
    let ours = || patience().labels(names::MANAGED_BY_US);
    let clusters: Api<TracingCluster> = scoped(&client, namespace);
    let selected = labels.map_or_else(patience, |labels| patience().labels(labels));
    let (reader, writer) = reflector::store();
    // What is written into the status is no reason to run again.
    let changed = watcher(clusters, selected)
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            predicates::generation
                .combine(predicates::annotations)
                .combine(predicates::finalizers),
            Default::default(),
        );
    let to_cluster = |labels: &std::collections::BTreeMap<String, String>, namespace: Option<String>| {
        let name = labels.get(names::CLUSTER)?;
        Some(ObjectRef::<TracingCluster>::new(name).within(&namespace?))
    };
    let of_pod = move |pod: Pod| to_cluster(pod.labels(), pod.namespace());
    let of_tenant = |tenant: TracingTenant| {
        let reference = &tenant.spec.cluster_ref;
        let namespace = reference.namespace.clone().or_else(|| tenant.namespace())?;
        Some(ObjectRef::<TracingCluster>::new(&reference.name).within(&namespace))
    };
    let tenants = watcher(scoped::<TracingTenant>(&client, namespace), patience())
        .default_backoff()
        .touched_objects()
        .predicate_filter(predicates::generation, Default::default());
    // Only names and versions: what is in Secrets of others is not taken into memory.
    let secrets = watcher(scoped::<PartialObjectMeta<Secret>>(&client, namespace), patience())
        .default_backoff()
        .touched_objects();
    let known = reader.clone();
    let of_secret = move |secret: PartialObjectMeta<Secret>| {
        let name = secret.name_any();
        let clusters = known.state();
        let theirs = clusters
            .iter()
            .filter(|cluster| cluster.namespace() == secret.namespace() && depends_on(cluster, &name));
        theirs
            .map(|cluster| ObjectRef::from_obj(&**cluster))
            .collect::<Vec<_>>()
    };
    Controller::for_stream(changed, reader)
        .with_config(Config::default().concurrency(8).debounce(Duration::from_millis(500)))
        .owns(scoped::<StatefulSet>(&client, namespace), ours())
        .owns(scoped::<Service>(&client, namespace), ours())
        .owns(scoped::<ConfigMap>(&client, namespace), ours())
        .watches(scoped::<Pod>(&client, namespace), ours(), of_pod)
        .watches_stream(tenants, of_tenant)
        .watches_stream(secrets, of_secret)
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "the loop");
            }
        })
        .await;
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
