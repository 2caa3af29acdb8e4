//! A TracingTenant that is deleted together with its spans stays until they are forgotten.
//!
//! Nodes keep such a tenant's spans as short as they can ([`crate::tenants`]); what is here holds the resource by a finalizer
//! until that has had its time. **Always holds:** nobody is held whose spans stay anyway: another policy, a resource that
//! never counted, a cluster that is gone.

use std::time::Duration;

use crds::TracingTenant;
use crds::tenant::TenantDeletionPolicy;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error, ResourceExt as _};
use serde_json::json;

use crate::names;
use crate::observed::Observed;
use crate::tenants::{SHORTEST, Verdict};

/// After the shortest retention blocks leave the catalog with the next round of it; this is more than a few rounds.
const ROUNDS: Duration = Duration::from_secs(15 * 60);

/// What is to be done about a tenant's finalizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Take,
    Give,
    Keep,
}

/// Decides it.
pub fn hold(tenant: &TracingTenant, verdict: Option<&Verdict>, observed: Option<&Observed>, now: Timestamp) -> Hold {
    let is_held = tenant
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == names::FINALIZER);
    let goes_with_spans = tenant.spec.deletion_policy == TenantDeletionPolicy::Delete;
    let counts = verdict.is_some_and(|verdict| verdict.outcome.is_ok());
    let Some(deleted) = tenant.metadata.deletion_timestamp.as_ref() else {
        return match (is_held, goes_with_spans && counts) {
            (false, true) => Hold::Take,
            (true, false) => Hold::Give,
            _ => Hold::Keep,
        };
    };
    if !is_held {
        return Hold::Keep;
    }
    let (true, Some(verdict), Some(observed)) = (goes_with_spans && counts, verdict, observed) else {
        return Hold::Give;
    };
    let waited = Duration::try_from(now.duration_since(deleted.0)).unwrap_or_default();
    let is_stored = observed
        .nodes
        .values()
        .filter_map(|node| node.view.as_ref()?.tenants.get(&verdict.tenant_id))
        .any(|usage| usage.stored_bytes > 0);
    if waited >= SHORTEST.0 + ROUNDS && !is_stored {
        Hold::Give
    } else {
        Hold::Keep
    }
}

/// Does it.
pub async fn apply(client: &Client, tenant: &TracingTenant, hold: Hold) -> Result<bool, Error> {
    let mut finalizers = tenant.finalizers().to_vec();
    match hold {
        Hold::Keep => return Ok(false),
        Hold::Take => finalizers.push(names::FINALIZER.to_owned()),
        Hold::Give => finalizers.retain(|finalizer| finalizer != names::FINALIZER),
    }
    let api = Api::<TracingTenant>::namespaced(client.clone(), &tenant.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": tenant.resource_version()}});
    let params = PatchParams::default();
    match api.patch(&tenant.name_any(), &params, &Patch::Merge(&patch)).await {
        // Gone, or changed meanwhile: the next run looks again.
        Err(Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
        other => other.map(|_| true),
    }
}

#[cfg(test)]
mod tests {
    //! A tenant and a time in, what becomes of its finalizer out.

    use super::*;
    use crate::tenants::Rejection;

    fn tenant(policy: &str, finalizers: &str, deleted: Option<&str>) -> TracingTenant {
        let deleted = deleted.map_or_else(String::new, |at| format!(", deletionTimestamp: '{at}'"));
        let text = format!(
            "{{apiVersion: x, kind: y, metadata: {{name: t, namespace: a, finalizers: [{finalizers}]{deleted}}}, spec: \
             {{clusterRef: {{name: main}}, deletionPolicy: {policy}}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    fn verdict(is_ok: bool) -> Verdict {
        Verdict {
            namespace: "a".to_owned(),
            name: "t".to_owned(),
            tenant_id: "t".to_owned(),
            display_name: None,
            grafana: Default::default(),
            outcome: if is_ok {
                Ok(Default::default())
            } else {
                Err((Rejection::Conflict, String::new()))
            },
            note: None,
            is_leaving: false,
        }
    }

    #[test]
    fn only_one_that_counts_and_goes_with_its_spans_is_held() {
        let now = "2026-11-22T00:00:00Z".parse().unwrap();
        let ours = names::FINALIZER;
        for (policy, finalizers, is_ok, wanted) in [
            ("Delete", "", true, Hold::Take),
            ("Delete", "", false, Hold::Keep),
            ("Retain", "", true, Hold::Keep),
            ("Retain", ours, true, Hold::Give),
            ("Delete", ours, true, Hold::Keep),
        ] {
            let tenant = tenant(policy, finalizers, None);
            assert_eq!(
                hold(&tenant, Some(&verdict(is_ok)), None, now),
                wanted,
                "{policy} {finalizers} {is_ok}"
            );
        }
    }

    #[test]
    fn it_goes_when_its_spans_have_had_time_to_be_forgotten() {
        let observed = crate::observed::nothing_seen();
        let deleted = Some("2026-11-22T00:00:00Z");
        let held = tenant("Delete", names::FINALIZER, deleted);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let decide = |tenant: &TracingTenant, now: &str| hold(tenant, Some(&verdict(true)), Some(&observed), at(now));
        assert_eq!(decide(&held, "2026-11-22T01:14:59Z"), Hold::Keep);
        assert_eq!(decide(&held, "2026-11-22T01:15:00Z"), Hold::Give);
        // A clock that was put back is no reason to forget early.
        assert_eq!(decide(&held, "2026-11-21T00:00:00Z"), Hold::Keep);
        // A cluster that is gone, and one who has changed their mind.
        assert_eq!(hold(&held, None, None, at("2026-11-22T00:00:01Z")), Hold::Give);
        let kept = tenant("Retain", names::FINALIZER, deleted);
        assert_eq!(decide(&kept, "2026-11-22T00:00:01Z"), Hold::Give);
    }
}
