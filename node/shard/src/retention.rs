//! Forgetting: blocks past their tenant's retention leave the catalog, and objects that no block is in leave the store.
//!
//! [`expired`] says which blocks: pure, from the catalog, the ring's time and the [`Brakes`]. [`Retention`] does it.
//!
//! What always holds:
//! - A block goes only when its latest span is older than its tenant's retention. Nothing that ends in the future goes.
//! - While a brake is on, nothing is deleted, neither blocks nor objects: a wrong clock makes everything look old. A brake
//!   that concerns the store alone keeps objects only ([`Brakes::check_store`]).
//! - A run drops a bounded number of blocks, the oldest first, so that a wrong setting is noticed before much is gone.
//! - An object is deleted from the store only after the catalog has listed it for deletion, the longest query has ended
//!   since, and the copy of the catalog in the store says so too ([`crate::manifest`]). A crash between deleting and [`Command::ForgetObject`] repeats the deletion, which does no harm.
//!
//! Not here: objects that the catalog never knew ([`crate::collect`]), how long a tenant keeps its spans (`server` knows
//! the limits and hands them in).

mod brake;
mod choice;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, TryStreamExt};
use model::TenantId;
use settings::RetentionSettings;

pub use self::brake::{Brake, Brakes};
pub use self::choice::{Expired, expired};
use crate::catalog::{Command, DELETE_GRACE_NANOS, DeleteReason, ObjectId, PendingObject, RingTime};
use crate::error::Result;
use crate::housekeeping::{HousekeepingMetrics, count, show};
use crate::port::CatalogPort;
use crate::store::Store;

/// Objects deleted at once: enough to keep up with any flush rate, too few to be noticed by the store.
const DELETES_IN_FLIGHT: usize = 4;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionRun {
    /// Blocks that left the catalog.
    pub blocks_expired: usize,
    /// Blocks past their time that are left to the next run.
    pub blocks_left: usize,
    /// Objects that left the store.
    pub objects_deleted: usize,
    /// Why nothing was deleted.
    pub held: Option<Brake>,
}

/// See the module's documentation. One run at a time; runs on several nodes do no harm.
#[derive(Clone)]
pub struct Retention {
    /// How much at once, and how long to wait.
    pub settings: RetentionSettings,
    /// Where objects are.
    pub store: Store,
    /// What is in them.
    pub catalog: Arc<dyn CatalogPort>,
    /// When not to delete.
    pub brakes: Arc<Brakes>,
    /// Whether the copy of the catalog in the store says, too, that an object is not needed
    /// ([`crate::manifest::Copy::has_dropped`]).
    pub is_dropped: Arc<dyn Fn(ObjectId) -> bool + Send + Sync>,
    /// Where to count.
    pub metrics: Arc<HousekeepingMetrics>,
}

impl std::fmt::Debug for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retention")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Retention {
    /// Drops what is past its time, then deletes objects whose wait is over. `retention_of` says how long a tenant keeps
    /// its spans.
    ///
    /// Errors: what was done stays done; the next run goes on. Nothing is skipped because of an error.
    /// Cancel: the same.
    pub async fn run(&self, retention_of: &(dyn Fn(&TenantId) -> Duration + Sync)) -> Result<RetentionRun> {
        let run = self.run_counted(retention_of).await;
        match &run {
            Ok(run) => {
                show(&self.metrics.is_held, run.held.is_some().into());
                count(&self.metrics.runs_held, run.held.is_some().into());
            }
            Err(_) => count(&self.metrics.runs_failed, 1),
        }
        run
    }

    async fn run_counted(&self, retention_of: &(dyn Fn(&TenantId) -> Duration + Sync)) -> Result<RetentionRun> {
        let mut run = RetentionRun::default();
        let now = self.catalog.now();
        let view = self.catalog.view();
        let drops_max = self.settings.drops_per_run_max as usize;
        match expired(&view, retention_of, now, &self.brakes, drops_max) {
            Err(brake) => {
                run.held = Some(brake);
                return Ok(run);
            }
            Ok(expired) if expired.ids.is_empty() => {}
            Ok(Expired { ids, left }) => {
                let reason = DeleteReason::Retention;
                let change = self.catalog.change(Command::Delete { ids, reason }).await?;
                run.blocks_expired = change.removed;
                run.blocks_left = left;
                count(&self.metrics.blocks_expired, change.removed as u64);
            }
        }
        show(&self.metrics.expired_blocks_left, run.blocks_left as u64);
        match self.brakes.check_store(now) {
            Ok(()) => run.objects_deleted = self.delete_objects(now, drops_max).await?,
            Err(brake) => run.held = Some(brake),
        }
        Ok(run)
    }

    /// Deletes up to `deletes_max` objects that have waited long enough, from the store and then from the catalog.
    async fn delete_objects(&self, now: RingTime, deletes_max: usize) -> Result<usize> {
        let view = self.catalog.view();
        let ready: Vec<_> = view
            .pending()
            .filter(|pending| self.has_waited(pending, now) && (self.is_dropped)(pending.object.id))
            .take(deletes_max)
            .map(|pending| Arc::clone(&pending.object))
            .collect();
        // The first error ends the run: a store that refuses one deletion refuses them all.
        let mut deletions = stream::iter(ready)
            .map(|object| async move {
                self.store.delete(&object.path).await?;
                self.catalog.change(Command::ForgetObject { object: object.id }).await
            })
            .buffer_unordered(DELETES_IN_FLIGHT);
        let mut deleted = 0;
        while deletions.try_next().await?.is_some() {
            deleted += 1;
            count(&self.metrics.objects_deleted, 1);
        }
        Ok(deleted)
    }

    /// Whether no query can read the object any more. The catalog has waited [`DELETE_GRACE_NANOS`]; the settings may
    /// ask for more.
    fn has_waited(&self, pending: &PendingObject, now: RingTime) -> bool {
        let grace = u64::try_from(self.settings.delete_grace.duration().as_nanos()).unwrap_or(u64::MAX);
        let more = grace.saturating_sub(DELETE_GRACE_NANOS);
        pending.not_before_unix_nanos.saturating_add(more) <= now.unix_nanos
    }
}

#[cfg(test)]
mod tests;
