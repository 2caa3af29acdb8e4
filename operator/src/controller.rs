//! The loop: observe, validate, plan, apply, status. Nothing is remembered between two runs but what stands in the status.
//!
//! Owns [`reconcile`]. **Always holds:** the memory of a decision is written, with the version that was read,
//! before its act is done; objects that disturb nobody are applied before that; nothing is written while the cluster is
//! paused but its status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crds::TracingCluster;
use crds::cluster::autoscaling::AutoscalingMode;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::{Client, ResourceExt as _};
use rand::RngExt as _;
use serde_json::json;
use tokio::sync::RwLock;

use crate::apply::apply;
use crate::lookup::{given, look_up, trust};
use crate::objects::{Served, build};
use crate::observe::{Nodes, look};
use crate::plan::decide;
use crate::status::{Beside, refused, synced, told};
use crate::telling::{release_tenants, tell_tenants, write_status};
use crate::validate::{Environment, validate};
use crate::{act, authority, autoscale, deletion, grafana_api, names};

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
        release_tenants(client, &name, &namespace).await?;
        return Ok(Action::await_change());
    };
    if resource.metadata.deletion_timestamp.is_some() {
        return Ok(deletion::step(client, &resource, &context.environment).await?);
    }
    if deletion::ensure_finalizer(&api, &resource).await? {
        context.counters.writes.fetch_add(1, Ordering::Relaxed);
        return Ok(Action::requeue(AT_ONCE));
    }
    if seed(&api, &resource).await? {
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
    let certificates = authority::keep(client, &cluster, now).await?;
    let nodes = Nodes::of(&cluster, context.nodes.clone(), trust(client, &cluster).await?);
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

/// In mode External somebody else says how many nodes there are, through /scale, which cannot be read while nothing is
/// written. So the least is written once: our only write to a spec. Says whether it was.
async fn seed(api: &Api<TracingCluster>, resource: &TracingCluster) -> Result<bool, kube::Error> {
    let scaling = &resource.spec.autoscaling;
    if scaling.mode != AutoscalingMode::External || resource.spec.replicas.is_some() {
        return Ok(false);
    }
    let patch = json!({
        "metadata": {"resourceVersion": resource.resource_version()},
        "spec": {"replicas": scaling.min_replicas},
    });
    let params = PatchParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch(&resource.name_any(), &params, &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(true),
        other => other.map(|_| true),
    }
}

pub(crate) fn on_error(resource: Arc<TracingCluster>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let failures = context.counters.failures.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(cluster = resource.name_any(), namespace = resource.namespace(), %error, "a run failed");
    // A little spread, so that clusters that failed together do not come back together.
    Action::requeue(Duration::from_secs(5 + failures % 5))
}
