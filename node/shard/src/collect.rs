//! Collects orphans: objects of ours that the catalog does not know, left by uploads whose block was never named.
//!
//! ```text
//! list all of l0/, blocks/, traces/ ─► old names of ours ─► the ring agrees once more ─► newest view ─► delete the unknown
//! ```
//! What always holds:
//! - Only what the newest catalog does not know is deleted. The catalog is taken after the listing, behind a round trip
//!   through the ring, so neither a stale page of the listing nor a stale view can delete an object that is named.
//! - Only old names are deleted: the catalog refuses names older than [`NAME_AGE_MAX_NANOS`], so nobody can name an object
//!   any more that is collected. Settings cannot make the wait shorter than that plus [`NAME_MARGIN_NANOS`].
//! - A run deletes at most `drops_per_run_max` objects; the rest waits for the next run.
//! - The [`Brakes`] hold here too. An error of any kind, a refused listing above all, deletes nothing that was not
//!   deleted before it.
//! - Foreign objects are counted and never touched: everything whose key is not exactly one we would write.
//!
//! Not here: objects that were named once ([`crate::retention`]). Parts of uploads that were never finished cannot be
//! seen through [`object_store`]; a failed upload aborts them itself, and for those of crashed nodes the bucket should
//! have a lifecycle rule that aborts incomplete multipart uploads after a day.

use std::sync::Arc;

use futures::TryStreamExt;
use settings::RetentionSettings;

use crate::catalog::{Command, DeleteReason, NAME_AGE_MAX_NANOS, ObjectId, RingTime};
use crate::error::Result;
use crate::housekeeping::{HousekeepingMetrics, count, show};
use crate::port::CatalogPort;
use crate::retention::{Brake, Brakes};
use crate::store::Store;

/// How much longer than the catalog accepts a name an orphan is kept: an hour for clocks that differ and commands on
/// their way.
pub const NAME_MARGIN_NANOS: u64 = 3_600 * 1_000_000_000;
/// Where our objects are.
const FOLDERS: [&str; 3] = ["l0", "blocks", "traces"];
const NANOS_PER_MILLI: u64 = 1_000_000;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectorRun {
    /// Objects looked at.
    pub objects: u64,
    /// Orphans deleted.
    pub orphans_deleted: u64,
    /// Objects that are not ours.
    pub foreign: u64,
    /// Why nothing was deleted.
    pub held: Option<Brake>,
}

/// See the module's documentation. One run at a time; runs on several nodes do no harm.
#[derive(Clone)]
pub struct Collector {
    /// How old an orphan must be, and how many go at once.
    pub settings: RetentionSettings,
    /// Where objects are.
    pub store: Store,
    /// Which are named.
    pub catalog: Arc<dyn CatalogPort>,
    /// When not to delete.
    pub brakes: Arc<Brakes>,
    /// Where to count.
    pub metrics: Arc<HousekeepingMetrics>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Collector {
    /// Lists everything below the prefix and deletes what is an orphan for certain.
    ///
    /// Errors: the store's or the ring's; what was deleted before stays deleted, the next run goes on.
    /// Cancel: the same.
    pub async fn run(&self) -> Result<CollectorRun> {
        let run = self.run_counted().await;
        match &run {
            Ok(run) => count(&self.metrics.runs_held, run.held.is_some().into()),
            Err(_) => count(&self.metrics.runs_failed, 1),
        }
        run
    }

    async fn run_counted(&self) -> Result<CollectorRun> {
        let mut run = CollectorRun::default();
        let now = self.catalog.now();
        if let Err(brake) = self.brakes.check(now) {
            run.held = Some(brake);
            return Ok(run);
        }
        let old = self.list_old(now, &mut run).await?;
        show(&self.metrics.foreign_objects, run.foreign);
        if old.is_empty() {
            return Ok(run);
        }
        // Changes nothing, but once it is agreed on, the view shows everything that was agreed on before.
        let nothing = Command::Delete {
            ids: Vec::new(),
            reason: DeleteReason::Operator,
        };
        self.catalog.change(nothing).await?;
        let view = self.catalog.view();
        for (key, object) in old {
            if view.knows_object(object) {
                continue;
            }
            // A clock may jump while a long run goes on.
            if let Err(brake) = self.brakes.check(self.catalog.now()) {
                run.held = Some(brake);
                break;
            }
            self.store.delete(&key).await?;
            tracing::info!(%key, "deleted an object that no block is in");
            run.orphans_deleted += 1;
            count(&self.metrics.orphans_deleted, 1);
        }
        Ok(run)
    }

    /// Some objects of ours that are old enough and that the catalog did not know before they were listed.
    async fn list_old(&self, now: RingTime, run: &mut CollectorRun) -> Result<Vec<(String, ObjectId)>> {
        let view = self.catalog.view();
        let mut old = Vec::new();
        for folder in FOLDERS {
            let mut listed = self.store.list(folder);
            while let Some((key, _)) = listed.try_next().await? {
                run.objects += 1;
                match object_of(&key) {
                    None => run.foreign += 1,
                    Some(object) => {
                        let is_orphan = self.is_old(object, now) && !view.knows_object(object);
                        if is_orphan && old.len() < self.settings.drops_per_run_max as usize {
                            old.push((key, object));
                        }
                    }
                }
            }
        }
        Ok(old)
    }

    fn is_old(&self, object: ObjectId, now: RingTime) -> bool {
        let wanted = u64::try_from(self.settings.orphan_age.duration().as_nanos()).unwrap_or(u64::MAX);
        let age_min = wanted.max(NAME_AGE_MAX_NANOS + NAME_MARGIN_NANOS);
        let named_unix_nanos = object.0.unix_millis().saturating_mul(NANOS_PER_MILLI);
        now.unix_nanos.saturating_sub(named_unix_nanos) > age_min
    }
}

/// The object that a key names; `None` unless the key is, letter by letter, one that [`Store`] makes.
fn object_of(key: &str) -> Option<ObjectId> {
    let object = Store::object_of_key(key)?;
    let is_version_7 = (object.0.0 >> 76) & 0xf == 7 && (object.0.0 >> 62) & 0b11 == 0b10;
    let parts: Vec<&str> = key.split('/').collect();
    let &[folder, below, name] = parts.as_slice() else {
        return None;
    };
    let is_ours = match folder {
        "l0" => is_pair(below) && is_flushed_name(name, object),
        "blocks" => name == format!("{}.parquet", object.0),
        "traces" => name == format!("{}.index", object.0),
        _ => false,
    };
    (is_version_7 && is_ours).then_some(object)
}

/// `<shard>-<generation>`.
fn is_pair(text: &str) -> bool {
    let number = |part: &str| part.parse::<u64>().is_ok_and(|n| n.to_string() == part);
    text.split_once('-')
        .is_some_and(|(shard, generation)| number(shard) && number(generation))
}

/// `<from>-<to>-<uuid>.parquet`.
fn is_flushed_name(name: &str, object: ObjectId) -> bool {
    let index = |digits: Option<&str>| digits.and_then(|digits| digits.parse::<u64>().ok());
    match (index(name.get(..20)), index(name.get(21..41))) {
        (Some(from), Some(to)) => name == format!("{from:020}-{to:020}-{}.parquet", object.0),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
