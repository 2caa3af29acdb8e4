//! Which blocks are past their time. Pure but for the brakes' look at the clocks.

use std::time::Duration;

use model::{BlockId, TenantId};

use super::brake::{Brake, Brakes};
#[cfg(doc)]
use crate::catalog::BlockRecord;
use crate::catalog::{CatalogView, RingTime};

/// Blocks to drop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// The oldest by their latest span, of all tenants.
    pub ids: Vec<BlockId>,
    /// How many more are past their time.
    pub left: usize,
}

/// The blocks whose latest span is older than their tenant's retention ([`BlockRecord::ages_from_unix_nanos`]), `drops_max` at most; or the brake that is on.
pub fn expired(
    view: &CatalogView,
    retention_of: &dyn Fn(&TenantId) -> Duration,
    now: RingTime,
    brakes: &Brakes,
    drops_max: usize,
) -> Result<Expired, Brake> {
    brakes.check(now)?;
    let mut ends: Vec<(u64, BlockId)> = Vec::new();
    for (tenant, blocks) in view.tenants() {
        let kept = u64::try_from(retention_of(tenant).as_nanos()).unwrap_or(u64::MAX);
        // No time before the epoch: a retention longer than that keeps everything.
        let Some(cutoff) = now.unix_nanos.checked_sub(kept) else {
            continue;
        };
        let old = blocks.iter().filter(|record| record.ages_from_unix_nanos() < cutoff);
        ends.extend(old.map(|record| (record.ages_from_unix_nanos(), record.id)));
    }
    ends.sort_unstable();
    let left = ends.len().saturating_sub(drops_max);
    ends.truncate(drops_max);
    Ok(Expired {
        ids: ends.into_iter().map(|(_, id)| id).collect(),
        left,
    })
}
