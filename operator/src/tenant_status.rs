//! What a TracingTenant is told: whether it counts, what holds for it, how many nodes have it. Pure.

use crds::TracingTenant;
use crds::tenant::{TenantUsage, TracingTenantStatus};

use crate::objects::grafana::Datasource;
use crate::observed::Observed;
use crate::status::{Conditions, synced};
use crate::tenants::Verdict;
use crate::validate::Cluster;

/// The status of one tenant after a look.
pub fn told(
    tenant: &TracingTenant,
    verdict: &Verdict,
    cluster: &Cluster,
    observed: &Observed,
    datasources: &[Datasource],
) -> TracingTenantStatus {
    let before = tenant.status.clone().unwrap_or_default();
    let generation = tenant.metadata.generation;
    let mut conditions = Conditions::new(&before.conditions, generation, observed.now);
    let (have, of) = synced(cluster, observed);
    let is_synced = of > 0 && have == of;
    let source = datasources
        .iter()
        .find(|source| source.tenant.as_deref() == Some(&verdict.tenant_id));
    let mut effective = None;
    match &verdict.outcome {
        Ok(limits) => {
            effective = Some(limits.clone());
            let message = verdict
                .note
                .clone()
                .unwrap_or_else(|| format!("tenant {} of {}", verdict.tenant_id, cluster.name));
            conditions.say(
                "Accepted",
                true,
                if verdict.note.is_some() {
                    "CutToMaximum"
                } else {
                    "Accepted"
                },
                message,
            );
            let said = format!("{have} of {of} nodes have its limits");
            conditions.say(
                "Synced",
                is_synced,
                if is_synced { "Synced" } else { "Pushing" },
                said.clone(),
            );
            let wants_source = verdict.grafana.enabled && source.is_some();
            conditions.say(
                "DatasourceReady",
                wants_source || !verdict.grafana.enabled,
                if wants_source { "Described" } else { "NotWanted" },
                source.map_or_else(
                    || "it has no data source of its own".to_owned(),
                    |source| format!("uid {}", source.uid),
                ),
            );
            conditions.say("Ready", is_synced, if is_synced { "Synced" } else { "Pushing" }, said);
        }
        Err((rejection, message)) => {
            let reason = format!("{rejection:?}");
            conditions.say("Accepted", false, &reason, message.clone());
            conditions.say("Ready", false, &reason, message.clone());
        }
    }
    let uses = observed
        .nodes
        .values()
        .filter_map(|node| node.view.as_ref()?.tenants.get(&verdict.tenant_id));
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let usage = uses.max_by_key(|usage| usage.stored_bytes).map(|usage| TenantUsage {
        // In steps, so that a quiet tenant's status does not change.
        ingest_bytes_per_second: Some(number(usage.ingest_bytes_per_second >> 16 << 16)),
        stored_bytes: Some(number(usage.stored_bytes >> 26 << 26)),
    });
    TracingTenantStatus {
        observed_generation: generation,
        tenant_id: Some(verdict.tenant_id.clone()),
        conditions: conditions.finish(),
        effective,
        applied_on: verdict.outcome.is_ok().then(|| format!("{have}/{of}")),
        usage,
        datasource_uid: source.map(|source| source.uid.clone()),
    }
}
