//! The loop: observe, validate, plan, apply, status. Nothing is remembered between two runs but what stands in the status.
//!
//! Owns [`reconcile`] and [`run`]. **Always holds:** the memory of a decision is written, with the version that was read,
//! before its act is done; objects that disturb nobody are applied before that; nothing is written while the cluster is
//! paused but its status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crds::cluster::storage::{CredentialsMode, StorageType};
use crds::{TracingCluster, TracingTenant};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Predicate as _, WatchStreamExt as _, predicates, reflector, watcher};
use kube::{Client, Resource as _, ResourceExt as _};
use rand::RngExt as _;
use serde_json::json;
use tokio::sync::RwLock;

use crate::apply::apply;
use crate::deletion;
use crate::events;
use crate::grafana_api;
use crate::names;
use crate::objects::{Given, Served, build};
use crate::observe::{Nodes, look};
use crate::observed::Memory;
use crate::plan::decide;
use crate::status::{Beside, refused, synced, told};
use crate::tenants::{self, Candidate};
use crate::validate::{Cluster, Environment, Lookups, validate};
use crate::{act, authority, autoscale, tenant_status};

/// Why a run ended early. It is tried again, later each time.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Act(#[from] act::ActError),
    #[error(transparent)]
    Authority(#[from] authority::AuthorityError),
}

/// What is counted, for /metrics and the tests.
#[derive(Debug, Default)]
pub struct Counters {
    pub runs: AtomicU64,
    pub failures: AtomicU64,
    pub writes: AtomicU64,
}

/// What every run is given.
pub struct Context {
    pub client: Client,
    pub environment: Environment,
    pub recorder: Recorder,
    /// Kinds of others that are served; looked up now and then.
    pub served: RwLock<Served>,
    pub nodes: reqwest::Client,
    pub counters: Counters,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

/// A conflict means that somebody was quicker; what they wrote is looked at.
const AT_ONCE: Duration = Duration::from_millis(200);
/// How often nodes are asked whether they have taken up what was pushed.
const PUSHED: Duration = Duration::from_secs(5);
/// After a mistake in the resource only its change helps; this is for what was looked up beside it.
const WRONG: Duration = Duration::from_secs(60);

/// One run for one cluster.
pub async fn reconcile(resource: Arc<TracingCluster>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.counters.runs.fetch_add(1, Ordering::Relaxed);
    let client = &context.client;
    let (name, namespace) = (resource.name_any(), resource.namespace().unwrap_or_default());
    let api = Api::<TracingCluster>::namespaced(client.clone(), &namespace);
    // The cache may be older than what we wrote ourselves a moment ago.
    let Some(resource) = api.get_opt(&name).await? else {
        return Ok(Action::await_change());
    };
    if resource.metadata.deletion_timestamp.is_some() {
        return Ok(deletion::step(client, &resource, &context.recorder).await?);
    }
    if deletion::ensure_finalizer(&api, &resource).await? {
        context.counters.writes.fetch_add(1, Ordering::Relaxed);
        return Ok(Action::requeue(AT_ONCE));
    }
    let now = Timestamp::now();

    // Validate.
    let (lookups, credentials) = look_up(client, &resource).await?;
    let mut cluster = match validate(&resource, &lookups, &context.environment) {
        Ok(cluster) => cluster,
        Err(problems) => {
            let status = refused(&resource, &problems, now);
            write_status(&context, &api, &resource, status).await?;
            return Ok(Action::requeue(WRONG));
        }
    };

    // Observe.
    let nodes = Nodes::of(&cluster, context.nodes.clone());
    let certificates = authority::keep(client, &cluster, now).await?;
    let fresh_id = format!("{:032x}", rand::rng().random::<u128>());
    let observed = look(client, &resource, &cluster, &nodes, certificates, now, fresh_id).await?;
    let scaling = autoscale::decide(&cluster, &resource.status.clone().unwrap_or_default(), &observed);
    if let Some(scaling) = &scaling {
        cluster.replicas = u32::try_from(scaling.desired_replicas).unwrap_or(cluster.replicas);
    }

    // What disturbs nobody is applied.
    let served = context.served.read().await.clone();
    let given = given(client, &cluster, &observed, &served, &context.environment).await?;
    let objects = build(&cluster, &given);
    let mut failed = Vec::new();
    let mut grafana = Vec::new();
    if !cluster.is_paused() && !observed.memory.groups.is_empty() {
        let applied = apply(client, &cluster, &objects, &served).await?;
        for written in &applied.written {
            tracing::info!(cluster = name, namespace, object = written, "written");
        }
        let writes = u64::try_from(applied.written.len()).unwrap_or(u64::MAX);
        context.counters.writes.fetch_add(writes, Ordering::Relaxed);
        failed = applied.failed;
        grafana = grafana_api::sync(client, &context.nodes, &cluster, &objects.datasources).await;
    }

    // Plan.
    let decision = decide(&cluster, &observed, &objects.pod_hashes);

    // Status, which is also the memory, before anything is done.
    let beside = Beside {
        operator_version: &context.environment.version,
        credentials,
        failed: &failed,
        grafana: &grafana,
    };
    let mut status = told(
        &resource,
        &cluster,
        &observed,
        &objects.pod_hashes,
        &decision,
        &objects,
        &beside,
    );
    if scaling.is_some() {
        status.autoscaling = scaling;
    }
    if !write_status(&context, &api, &resource, status).await? {
        return Ok(Action::requeue(AT_ONCE));
    }
    tell_tenants(&context, &lookups, &cluster, &observed, &objects).await?;

    // Act.
    if let Some(act) = &decision.act {
        tracing::info!(cluster = name, namespace, ?act, "acting");
        context.counters.writes.fetch_add(1, Ordering::Relaxed);
        if !act::act(client, &cluster, &nodes, &observed, act).await? {
            tracing::info!(cluster = name, namespace, "refused for now");
        }
    }
    // A node says nothing when it has taken up new limits; it has to be asked.
    let (have, of) = synced(&cluster, &observed);
    let again = if have < of {
        decision.look_again.min(PUSHED)
    } else {
        decision.look_again
    };
    Ok(Action::requeue(again.max(AT_ONCE)))
}

/// Writes a status if it says anything new, with the version that was read; says false where somebody was quicker.
async fn write_status(
    context: &Context,
    api: &Api<TracingCluster>,
    resource: &TracingCluster,
    status: crds::TracingClusterStatus,
) -> Result<bool, kube::Error> {
    let before = resource.status.clone().unwrap_or_default();
    if resource.status.is_some() && before == status {
        return Ok(true);
    }
    let mut written = resource.clone();
    written.metadata.managed_fields = None;
    let tellings = events::between(&before, &status);
    written.status = Some(status);
    let params = PostParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.replace_status(&resource.name_any(), &params, &written).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(false),
        Err(error) => return Err(error),
    }
    context.counters.writes.fetch_add(1, Ordering::Relaxed);
    for telling in tellings {
        let event = Event {
            type_: if telling.is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: telling.reason,
            note: Some(telling.message),
            action: telling.action,
            secondary: None,
        };
        // An event that is lost is only told less.
        if let Err(error) = context.recorder.publish(&event, &resource.object_ref(&())).await {
            tracing::debug!(%error, "an event could not be written");
        }
    }
    Ok(true)
}

/// What has to be read before a resource can be checked, and what is wrong with the credentials.
async fn look_up(
    client: &Client,
    resource: &TracingCluster,
) -> Result<(Lookups, Option<(&'static str, String)>), kube::Error> {
    let namespace = resource.namespace().unwrap_or_default();
    let tenants = Api::<TracingTenant>::all(client.clone());
    let own = Api::<TracingTenant>::namespaced(client.clone(), &namespace);
    let params = ListParams::default().fields(&format!("spec.clusterRef.name={}", resource.name_any()));
    // Where only some namespaces may be read, tenants of the others cannot count.
    let found = match tenants.list(&params).await {
        Err(kube::Error::Api(status)) if status.code == 403 => own.list(&params).await?,
        other => other?,
    };
    let mut candidates = Vec::new();
    for tenant in found.items {
        if !tenants::names(&tenant, &resource.name_any(), &namespace) {
            continue;
        }
        let of = tenant.namespace().unwrap_or_default();
        let namespace_labels = if of == namespace {
            Default::default()
        } else {
            let found = Api::<Namespace>::all(client.clone()).get_opt(&of).await?;
            found.map(|namespace| namespace.labels().clone()).unwrap_or_default()
        };
        candidates.push(Candidate {
            tenant,
            namespace_labels,
        });
    }
    let mut lookups = Lookups {
        candidates,
        credential_keys: None,
    };
    let mut trouble = None;
    let storage = &resource.spec.storage;
    if let Some(credentials) = storage
        .credentials
        .as_ref()
        .filter(|credentials| credentials.mode == CredentialsMode::Static)
        && let Some(reference) = &credentials.secret_ref
    {
        let secret = Api::<Secret>::namespaced(client.clone(), &namespace)
            .get_opt(&reference.name)
            .await?;
        let needed: &[&str] = match storage.r#type {
            StorageType::S3 => &["access_key_id", "access_key_secret"],
            StorageType::GCS => &["key.json"],
            StorageType::Azure => &["account_key"],
            StorageType::Filesystem => &[],
        };
        match secret {
            None => {
                let message = format!(
                    "there is no Secret {} in {namespace}: make it, with {}",
                    reference.name,
                    needed.join(" and ")
                );
                trouble = Some(("SecretNotFound", message));
            }
            Some(secret) => {
                let keys: std::collections::BTreeSet<String> = secret.data.unwrap_or_default().into_keys().collect();
                if let Some(key) = needed.iter().find(|key| !keys.contains(**key)) {
                    trouble = Some((
                        "SecretKeyMissing",
                        format!("Secret {} has no {key}: add it", reference.name),
                    ));
                }
                lookups.credential_keys = Some(keys);
            }
        }
    }
    Ok((lookups, trouble))
}

/// What the objects depend on beside the resource.
async fn given(
    client: &Client,
    cluster: &Cluster,
    observed: &crate::observed::Observed,
    served: &Served,
    environment: &Environment,
) -> Result<Given, kube::Error> {
    let memory: &Memory = &observed.memory;
    let mut pods = Vec::new();
    let mut templates = std::collections::BTreeMap::new();
    for group in &cluster.groups {
        let set = names::set(&cluster.name, &group.name);
        let seen = observed.sets.get(&set);
        let wanted = memory.groups.get(&group.name).copied().unwrap_or_default();
        pods.push(crate::plan::applied_pods(wanted, seen.map(|set| set.replicas)));
        if let Some(bytes) = seen.and_then(|set| set.template_bytes) {
            let size = if bytes == cluster.volume_bytes {
                cluster.volume.0.clone()
            } else {
                bytes.to_string()
            };
            templates.insert(set, k8s_openapi::apimachinery::pkg::api::resource::Quantity(size));
        }
    }
    let sidecar = &cluster.spec.grafana.sidecar;
    let namespace = sidecar.namespace.as_deref().unwrap_or(&cluster.namespace);
    let label = ListParams::default()
        .labels(&format!("{},{}!={}", sidecar.label, names::MANAGED_BY, names::MANAGER))
        .limit(1);
    let has_sidecar_label = match sidecar.enabled {
        crds::cluster::observability::When::Auto => {
            let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace)
                .list_metadata(&label)
                .await;
            maps.is_ok_and(|maps| !maps.items.is_empty())
        }
        _ => false,
    };
    Ok(Given {
        pods,
        templates,
        served: served.clone(),
        has_sidecar_label,
        restarted_at: memory.restarted_at.clone(),
        operator_namespace: environment.namespace.clone(),
    })
}

/// Writes the status of every tenant of the cluster that has something new to say.
async fn tell_tenants(
    context: &Context,
    lookups: &Lookups,
    cluster: &Cluster,
    observed: &crate::observed::Observed,
    objects: &crate::objects::Objects,
) -> Result<(), kube::Error> {
    for verdict in &cluster.tenants.verdicts {
        let found = lookups.candidates.iter().find(|candidate| {
            let tenant = &candidate.tenant;
            tenant.name_any() == verdict.name && tenant.namespace().as_deref() == Some(&verdict.namespace)
        });
        let Some(tenant) = found.map(|candidate| &candidate.tenant) else {
            continue;
        };
        let status = tenant_status::told(tenant, verdict, cluster, observed, &objects.datasources);
        if tenant.status.as_ref() == Some(&status) {
            continue;
        }
        let api = Api::<TracingTenant>::namespaced(context.client.clone(), &verdict.namespace);
        let patch = json!({"status": status});
        let params = PatchParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api.patch_status(&verdict.name, &params, &Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
        context.counters.writes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn on_error(resource: Arc<TracingCluster>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let failures = context.counters.failures.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(cluster = resource.name_any(), namespace = resource.namespace(), %error, "a run failed");
    // A little spread, so that clusters that failed together do not come back together.
    Action::requeue(Duration::from_secs(5 + failures % 5))
}

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
    Controller::for_stream(changed, reader)
        .with_config(Config::default().concurrency(8).debounce(Duration::from_millis(500)))
        .owns(scoped::<StatefulSet>(&client, namespace), ours())
        .owns(scoped::<Service>(&client, namespace), ours())
        .owns(scoped::<ConfigMap>(&client, namespace), ours())
        .watches(scoped::<Pod>(&client, namespace), ours(), of_pod)
        .watches_stream(tenants, of_tenant)
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
