//! Whose request it is: the header `X-Scope-OrgID`, checked once, and the cap on tenants nobody configured.
//!
//! Owns [`Tenancy`]. Always holds: a [`TenantId`] that leaves this room was checked; with multitenancy off the header
//! is not even looked at. Reads may name several tenants (`a|b`), writes exactly one.

use std::collections::HashSet;
use std::sync::Arc;

use http::HeaderMap;
use model::{InvalidTenant, TenantId};
use parking_lot::RwLock;
use settings::{LimitSettings, NodeSettings};

use crate::refusal::{Kind, Refusal};

/// The header that names the tenant, over HTTP and as gRPC metadata.
pub const TENANT_HEADER: &str = "x-scope-orgid";

/// Tenants that one federated read may name.
const FEDERATED_MAX: usize = 64;

/// Tells tenants apart and knows which exist.
#[derive(Debug)]
pub struct Tenancy {
    multitenancy: bool,
    auto: bool,
    auto_max: usize,
    /// Tenants that settings name; they are always welcome.
    configured: RwLock<HashSet<TenantId>>,
    /// Tenants that came into being by sending. At most `auto_max`.
    seen: RwLock<HashSet<TenantId>>,
}

impl Tenancy {
    /// Whether requests say whose they are.
    pub fn is_multitenant(&self) -> bool {
        self.multitenancy
    }

    pub fn new(settings: &NodeSettings) -> Self {
        Self {
            multitenancy: settings.tenancy.multitenancy_enabled,
            auto: settings.tenancy.tenants_auto,
            auto_max: usize::try_from(settings.tenancy.tenants_auto_max).unwrap_or(usize::MAX),
            configured: RwLock::new(configured(&settings.limits)),
            seen: RwLock::default(),
        }
    }

    /// Takes the tenants that settings name from now on.
    pub fn configure(&self, limits: &LimitSettings) {
        *self.configured.write() = configured(limits);
    }

    /// Tells which tenants already have data, so that they count against the cap and stay welcome after a restart.
    pub fn know(&self, tenants: impl IntoIterator<Item = TenantId>) {
        self.seen.write().extend(tenants);
    }

    /// The one tenant a write is for.
    pub fn of_write(&self, headers: &HeaderMap) -> Result<TenantId, Refusal> {
        if !self.multitenancy {
            return Ok(TenantId::single());
        }
        TenantId::new(header(headers)?).map_err(refuse)
    }

    /// The tenants a read is for, sorted and without doubles; never empty.
    pub fn of_read(&self, headers: &HeaderMap) -> Result<Arc<[TenantId]>, Refusal> {
        if !self.multitenancy {
            return Ok(Arc::from([TenantId::single()]));
        }
        let mut tenants = header(headers)?
            .split('|')
            .map(TenantId::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(refuse)?;
        tenants.sort();
        tenants.dedup();
        if tenants.len() > FEDERATED_MAX {
            return Err(Refusal::new(
                Kind::Rejected,
                format!("more than {FEDERATED_MAX} tenants in one query"),
            ));
        }
        Ok(tenants.into())
    }

    /// Lets a tenant write that is configured, already known, or may come into being.
    pub fn admit(&self, tenant: &TenantId) -> Result<(), Refusal> {
        if !self.multitenancy || self.configured.read().contains(tenant) || self.seen.read().contains(tenant) {
            return Ok(());
        }
        if !self.auto {
            return Err(Refusal::new(Kind::Forbidden, "tenant is not configured here"));
        }
        let mut seen = self.seen.write();
        if seen.len() >= self.auto_max && !seen.contains(tenant) {
            let message = format!(
                "tenant is not configured here, and {} others came into being already",
                self.auto_max
            );
            return Err(Refusal::new(Kind::Forbidden, message));
        }
        seen.insert(tenant.clone());
        Ok(())
    }
}

fn configured(limits: &LimitSettings) -> HashSet<TenantId> {
    limits
        .tenants
        .keys()
        .filter_map(|name| TenantId::new(name).ok())
        .collect()
}

fn header(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(TENANT_HEADER).iter();
    let value = values.next().ok_or_else(|| refuse(InvalidTenant::Empty))?;
    if values.next().is_some() {
        return Err(Refusal::new(Kind::Unauthenticated, "several X-Scope-OrgID headers"));
    }
    value
        .to_str()
        .map_err(|_| Refusal::new(Kind::Unauthenticated, "X-Scope-OrgID is not plain text"))
}

/// All faults of the header are 401, as a missing one is: the text tells them apart.
fn refuse(error: InvalidTenant) -> Refusal {
    Refusal::new(Kind::Unauthenticated, error.to_string())
}

#[cfg(test)]
mod tests;
