//! Writing what is said: the status of the cluster, with its events, and of its tenants.
//!
//! **Always holds:** nothing is written that says nothing new; a cluster's status is written with the version that was read,
//! because it is also the memory of a decision.

use std::sync::atomic::Ordering;

use crds::{TracingCluster, TracingTenant};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;

use crate::controller::Context;
use crate::objects::Objects;
use crate::observed::Observed;
use crate::validate::{Cluster, Lookups};
use crate::{events, forgetting, names, tenant_status, tenants};

/// Writes a status if it says anything new, with the version that was read; says false where somebody was quicker.
pub(crate) async fn write_status(
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

/// Writes the status of every tenant of the cluster that has something new to say.
pub(crate) async fn tell_tenants(
    context: &Context,
    lookups: &Lookups,
    cluster: &Cluster,
    observed: &Observed,
    objects: &Objects,
) -> Result<(), kube::Error> {
    // Also of those that have no verdict any more: they are being deleted, and their spans stay.
    for candidate in &lookups.candidates {
        let tenant = &candidate.tenant;
        let mut verdicts = cluster.tenants.verdicts.iter();
        let verdict = verdicts.find(|verdict| {
            tenant.name_any() == verdict.name && tenant.namespace().as_deref() == Some(&verdict.namespace)
        });
        let hold = forgetting::hold(tenant, verdict, Some(observed), observed.now);
        if forgetting::apply(&context.client, tenant, hold).await? {
            context.counters.writes.fetch_add(1, Ordering::Relaxed);
        }
    }
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

/// Lets tenants go that waited for a cluster that is no more.
pub(crate) async fn release_tenants(client: &Client, cluster: &str, namespace: &str) -> Result<(), kube::Error> {
    let params = ListParams::default().fields(&format!("spec.clusterRef.name={cluster}"));
    let found = match Api::<TracingTenant>::all(client.clone()).list(&params).await {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            Api::<TracingTenant>::namespaced(client.clone(), namespace)
                .list(&params)
                .await?
        }
        other => other?,
    };
    let now = jiff::Timestamp::now();
    let theirs = found
        .items
        .iter()
        .filter(|tenant| tenants::names(tenant, cluster, namespace));
    for tenant in theirs {
        forgetting::apply(client, tenant, forgetting::hold(tenant, None, None, now)).await?;
    }
    Ok(())
}
