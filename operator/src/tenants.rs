//! Which tenants there are, what each may do and how long its spans are kept.
//!
//! Owns [`resolve`], which turns a cluster's limits and all TracingTenants that name it into the node's limit settings and
//! one verdict per TracingTenant. Pure. **Always holds:** of two resources for one tenant id the older one counts; no
//! tenant keeps spans longer than the cluster's maximum; a tenant that is being deleted with its data keeps them as short
//! as a node can, until nothing is left.

use std::collections::{BTreeMap, BTreeSet};

use crds::cluster::policy::Limits as WantedLimits;
use crds::cluster::security::AuthMode;
use crds::tenant::{TenantDeletionPolicy, TenantEffective, TenantGrafana};
use crds::{Period, Size, TracingClusterSpec, TracingTenant};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt as _;
use kube::core::{Selector, SelectorExt as _};
use settings::{ByteSize, Limits, LimitsPatch};

use crate::validate::Problem;

/// The tenant of everything while there is only one.
const SINGLE: &str = settings::listen::SINGLE_TENANT;
/// The shortest retention that a node takes.
pub(crate) const SHORTEST: settings::Period = settings::Period::hours(1);

/// A TracingTenant that names the cluster, with the labels of its namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub tenant: TracingTenant,
    pub namespace_labels: BTreeMap<String, String>,
}

/// Why a TracingTenant does not count; the name is the condition's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// Its namespace may not hold tenants of this cluster.
    NamespaceNotAllowed,
    /// An older resource has the same tenant id.
    Conflict,
    /// The id is kept for the store itself.
    ReservedId,
    /// The cluster knows one tenant only.
    SingleTenant,
    /// What it asks for is not a quantity.
    Invalid,
}

/// What became of one TracingTenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub namespace: String,
    pub name: String,
    pub tenant_id: String,
    pub display_name: Option<String>,
    pub grafana: TenantGrafana,
    pub outcome: Result<TenantEffective, (Rejection, String)>,
    /// What was cut to the cluster's bounds.
    pub note: Option<String>,
    /// Whether it is being deleted together with its spans.
    pub is_leaving: bool,
}

/// All tenants of a cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tenants {
    /// Limits where no TracingTenant says otherwise.
    pub defaults: Limits,
    /// What TracingTenants say otherwise, by tenant id.
    pub patches: BTreeMap<String, LimitsPatch>,
    /// In the order of namespace and name.
    pub verdicts: Vec<Verdict>,
}

/// Id of a tenant: what is written, or the resource's name.
pub fn tenant_id(tenant: &TracingTenant) -> String {
    tenant.spec.tenant_id.clone().unwrap_or_else(|| tenant.name_any())
}

/// Whether a TracingTenant names this cluster.
pub fn names(tenant: &TracingTenant, cluster: &str, namespace: &str) -> bool {
    let reference = &tenant.spec.cluster_ref;
    let own = tenant.namespace().unwrap_or_default();
    reference.name == cluster && reference.namespace.as_deref().unwrap_or(&own) == namespace
}

/// Tenants of a cluster; `problems` takes what is wrong with the cluster's own limits.
pub(crate) fn resolve(
    cluster: &str,
    namespace: &str,
    spec: &TracingClusterSpec,
    candidates: &[Candidate],
    problems: &mut Vec<Problem>,
) -> Tenants {
    let maximum = spec.retention.maximum.as_ref().and_then(|maximum| read(maximum).ok());
    let mut defaults = match limits(&spec.limits) {
        Ok(patch) => Limits::default().patched(&patch),
        Err((field, message)) => {
            problems.push(Problem {
                field: format!("spec.limits.{field}"),
                message,
            });
            Limits::default()
        }
    };
    match read(&spec.retention.default) {
        Ok(retention) => defaults.retention = retention,
        Err(message) => problems.push(Problem {
            field: "spec.retention.default".to_owned(),
            message,
        }),
    }

    let mut oldest_first: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| names(&candidate.tenant, cluster, namespace))
        .collect();
    oldest_first.sort_by_key(|candidate| {
        let tenant = &candidate.tenant;
        // One without a time was never stored; it is the youngest.
        let created = tenant.creation_timestamp().map_or(Timestamp::MAX, |time| time.0);
        (created, tenant.namespace(), tenant.name_any())
    });
    let selector = allowed_namespaces(spec, problems);
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    let mut tenants = Tenants {
        defaults,
        ..Tenants::default()
    };
    for candidate in oldest_first {
        let tenant = &candidate.tenant;
        let is_deleted = tenant.metadata.deletion_timestamp.is_some();
        let is_leaving = is_deleted && tenant.spec.deletion_policy == TenantDeletionPolicy::Delete;
        if is_deleted && !is_leaving {
            continue;
        }
        let id = tenant_id(tenant);
        let own = tenant.namespace().unwrap_or_default();
        let admitted = admit(candidate, &own, namespace, &id, spec, selector.as_ref(), &taken);
        let (outcome, note) = match admitted.and_then(|()| wanted(tenant, &tenants.defaults, maximum, is_leaving)) {
            Ok((patch, note)) => {
                let effective = effective(&tenants.defaults.patched(&patch), spec.auth.mode == AuthMode::Header);
                taken.insert(id.clone(), format!("{own}/{}", tenant.name_any()));
                tenants.patches.insert(id.clone(), patch);
                (Ok(effective), note)
            }
            Err(rejection) => (Err(rejection), None),
        };
        tenants.verdicts.push(Verdict {
            namespace: own,
            name: tenant.name_any(),
            tenant_id: id,
            display_name: tenant.spec.display_name.clone(),
            grafana: tenant.spec.grafana.clone(),
            outcome,
            note,
            is_leaving,
        });
    }
    tenants
        .verdicts
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    tenants
}

fn allowed_namespaces(spec: &TracingClusterSpec, problems: &mut Vec<Problem>) -> Option<Selector> {
    let selector: LabelSelector = spec.auth.tenancy.namespace_selector.clone()?;
    match Selector::try_from(selector) {
        Ok(selector) => Some(selector),
        Err(error) => {
            problems.push(Problem {
                field: "spec.auth.tenancy.namespaceSelector".to_owned(),
                message: error.to_string(),
            });
            None
        }
    }
}

fn admit(
    candidate: &Candidate,
    own: &str,
    namespace: &str,
    id: &str,
    spec: &TracingClusterSpec,
    selector: Option<&Selector>,
    taken: &BTreeMap<String, String>,
) -> Result<(), (Rejection, String)> {
    let is_allowed = own == namespace || selector.is_some_and(|selector| selector.matches(&candidate.namespace_labels));
    if !is_allowed {
        let message = format!(
            "namespace {own} may not hold tenants of {namespace}: label it so that spec.auth.tenancy.namespaceSelector of the \
             TracingCluster matches"
        );
        return Err((Rejection::NamespaceNotAllowed, message));
    }
    if id.starts_with("__") || !settings::limits::is_tenant_id(id) {
        let message = format!("{id} is not an id that a tenant may have: write another spec.tenantId");
        return Err((Rejection::ReservedId, message));
    }
    if spec.auth.mode == AuthMode::None && id != SINGLE {
        let message = format!(
            "the TracingCluster has spec.auth.mode None, so everything belongs to {SINGLE}: set it to Header, or write \
             spec.tenantId: {SINGLE}"
        );
        return Err((Rejection::SingleTenant, message));
    }
    if let Some(older) = taken.get(id) {
        let message =
            format!("{older} is older and has tenant id {id} too: delete one of them, or write another spec.tenantId");
        return Err((Rejection::Conflict, message));
    }
    Ok(())
}

/// What a TracingTenant says otherwise than the cluster, and what was cut.
fn wanted(
    tenant: &TracingTenant,
    defaults: &Limits,
    maximum: Option<settings::Period>,
    is_leaving: bool,
) -> Result<(LimitsPatch, Option<String>), (Rejection, String)> {
    let written = &tenant.spec.limits;
    let mut patch = limits(&WantedLimits {
        ingest_bytes_per_second: written.ingest_bytes_per_second.clone(),
        ingest_burst_bytes: written.ingest_burst_bytes.clone(),
        max_trace_bytes: written
            .max_trace_bytes
            .clone()
            .unwrap_or_else(|| Size(defaults.trace_bytes_max.bytes().to_string())),
        max_live_traces: written.max_live_traces,
        max_search_range: written.max_search_range.clone(),
        query_concurrency: written.query_concurrency,
    })
    .map_err(|(field, message)| (Rejection::Invalid, format!("spec.limits.{field}: {message}")))?;
    if written.max_trace_bytes.is_none() {
        patch.trace_bytes_max = None;
    }
    // A burst below the rate would refuse requests that the rate allows.
    if let (Some(Some(rate)), None) = (patch.ingest_rate, &written.ingest_burst_bytes) {
        patch.ingest_burst = Some(defaults.ingest_burst.max(rate));
    }
    let wish = match &tenant.spec.retention.default {
        Some(wish) => {
            Some(read(wish).map_err(|message| (Rejection::Invalid, format!("spec.retention.default: {message}")))?)
        }
        None => None,
    };
    let mut note = None;
    patch.retention = wish;
    let in_effect = wish.unwrap_or(defaults.retention);
    if let Some(maximum) = maximum.filter(|maximum| in_effect > *maximum) {
        patch.retention = Some(maximum);
        note = Some(format!(
            "retention is cut from {in_effect} to {maximum}, the TracingCluster's spec.retention.maximum"
        ));
    }
    if is_leaving {
        patch.retention = Some(SHORTEST);
    }
    Ok((patch, note))
}

/// Limits as the node spells them; the field and the reason where one is no quantity.
fn limits(written: &WantedLimits) -> Result<LimitsPatch, (&'static str, String)> {
    let size = |field: &'static str, size: &Option<Size>| match size {
        None => Ok(None),
        Some(size) => match size.bytes() {
            Ok(bytes) => Ok(Some(ByteSize(bytes))),
            Err(error) => Err((field, error.to_string())),
        },
    };
    let count = |number: Option<i32>| number.map(|number| u32::try_from(number).unwrap_or(1));
    let rate = size("ingestBytesPerSecond", &written.ingest_bytes_per_second)?;
    let burst = size("ingestBurstBytes", &written.ingest_burst_bytes)?;
    Ok(LimitsPatch {
        ingest_rate: rate.map(Some),
        ingest_burst: burst.or_else(|| rate.map(|rate| rate.max(Limits::default().ingest_burst))),
        trace_bytes_max: size("maxTraceBytes", &Some(written.max_trace_bytes.clone()))?,
        live_traces_max: count(written.max_live_traces),
        search_range_max: match &written.max_search_range {
            None => None,
            Some(range) => Some(read(range).map_err(|message| ("maxSearchRange", message))?),
        },
        queries_concurrent_max: count(written.query_concurrency),
        ..LimitsPatch::default()
    })
}

fn read(period: &Period) -> Result<settings::Period, String> {
    period
        .duration()
        .map(settings::Period)
        .map_err(|error| error.to_string())
}

fn effective(limits: &Limits, multitenancy: bool) -> TenantEffective {
    let rate = limits.ingest_rate_where(multitenancy);
    TenantEffective {
        retention: limits.retention.to_string(),
        ingest_bytes_per_second: rate.map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string()),
        ingest_burst_bytes: limits.ingest_burst.to_string(),
        max_trace_bytes: limits.trace_bytes_max.to_string(),
        max_live_traces: limits.live_traces_max.into(),
        max_search_range: limits.search_range_max.to_string(),
        query_concurrency: limits.queries_concurrent_max.into(),
    }
}

impl Tenants {
    /// Ids of tenants that count and stay.
    pub fn accepted(&self) -> BTreeSet<&str> {
        let counts = self
            .verdicts
            .iter()
            .filter(|verdict| verdict.outcome.is_ok() && !verdict.is_leaving);
        counts.map(|verdict| verdict.tenant_id.as_str()).collect()
    }
}

#[cfg(test)]
mod tests;
