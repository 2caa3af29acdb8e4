//! Collects orphans: objects of ours that the catalog does not know, left by uploads whose block was never named.
//!
//! ```text
//! list all of l0/, blocks/, traces/ ─► names of ours ─► the ring agrees once more ─► newest view ─► delete what is announced,
//!                                                                                                old, and not named
//! ```
//! What always holds:
//! - Only what the newest catalog does not name is deleted. The catalog is taken after the listing, behind a round trip
//!   through the ring, so neither a stale page of the listing nor a stale view can delete an object that is named.
//! - Only old names are deleted: the catalog refuses names older than [`NAME_AGE_MAX_NANOS`], so nobody can name an object
//!   any more that is collected. Settings cannot make the wait shorter than that plus [`NAME_MARGIN_NANOS`].
//! - **Only what was announced is deleted.** A data directory may have been restored from an older copy; then the bucket
//!   holds blocks with acknowledged spans that its catalog has never heard of, and nothing else does. Every object is
//!   announced in the catalog after its content was complete and before it is uploaded ([`Command::Announce`]). So what such
//!   a copy does not know, it never announced. What it announced and the newer copy named afterwards holds nothing that the
//!   older copy lacks: a flushed range is still in its log above its watermark, a merged block's inputs are still named by it.
//! - Nothing is deleted while an object is lost, named and not there: the newer copy may have deleted the inputs of a merge
//!   whose result this one announced.
//! - While there are unknown objects, nothing at all is deleted from the store, whoever wants it ([`Brake::OlderCopy`]): the
//!   newest copy of the data directory may still be found, and shall find everything in its place.
//! - A run deletes at most `drops_per_run_max` objects; the rest waits for the next run.
//! - The [`Brakes`] hold here too. An error of any kind, a refused listing above all, deletes nothing that was not
//!   deleted before it.
//! - Foreign objects are counted and never touched: everything whose key is not exactly one we would write.
//!
//! Not here: objects that were named once ([`crate::retention`]). Parts of uploads that were never finished cannot be
//! seen through [`object_store`]; a failed upload aborts them itself, and for those of crashed nodes the bucket should
//! have a lifecycle rule that aborts incomplete multipart uploads after a day.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::TryStreamExt;
use settings::RetentionSettings;

use crate::catalog::{CatalogView, Command, DeleteReason, NAME_AGE_MAX_NANOS, ObjectId, RingTime};
use crate::error::Result;
use crate::housekeeping::{HousekeepingMetrics, count, show};
use crate::port::CatalogPort;
use crate::retention::{Brake, Brakes};
use crate::store::Store;

/// How much longer than the catalog accepts a name an orphan is kept: an hour for clocks that differ and commands on
/// their way.
pub const NAME_MARGIN_NANOS: u64 = 3_600 * 1_000_000_000;
/// Where our objects are.
pub(crate) const FOLDERS: [&str; 3] = ["l0", "blocks", "traces"];
/// Unknown objects that are looked at twice. If there are more, no upload that came in between is the reason.
const UNKNOWN_MAX: usize = 1_000;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// What a run found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectorRun {
    /// Objects looked at.
    pub objects: u64,
    /// Orphans deleted.
    pub orphans_deleted: u64,
    /// Objects that are not ours.
    pub foreign: u64,
    /// Objects in our form that this catalog neither named nor announced.
    pub unknown: u64,
    /// The key of one of them.
    pub an_unknown: Option<Arc<str>>,
    /// Objects that the catalog names and that are not there.
    pub lost: u64,
    /// Why nothing was deleted, or not everything.
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
    /// Lists everything below the prefix, tells the [`Brakes`] what was found, and deletes what is an orphan for certain.
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
        let now = self.catalog.now();
        let before = self.catalog.view();
        let listed = self.list(now, &before).await?;
        if !listed.is_as_named() {
            // Changes nothing, but once it is agreed on, the view shows everything that was agreed on before.
            let nothing = Command::Delete {
                ids: Vec::new(),
                reason: DeleteReason::Operator,
            };
            self.catalog.change(nothing).await?;
        }
        let view = self.catalog.view();
        let mut run = listed.judge(&view);
        show(&self.metrics.foreign_objects, run.foreign);
        show(&self.metrics.unknown_objects, run.unknown);
        show(&self.metrics.lost_objects, run.lost);
        self.brakes.surveyed(run.unknown);
        let may_delete = || {
            // A clock may jump while a long run goes on.
            self.brakes.check_store(self.catalog.now())?;
            match run.lost {
                0 => Ok(()),
                lost => Err(Brake::Lost { lost }),
            }
        };
        for (key, object) in listed.old {
            if !view.is_announced(object) {
                continue;
            }
            if let Err(brake) = may_delete() {
                run.held = Some(brake);
                return Ok(run);
            }
            self.store.delete(&key).await?;
            tracing::info!(%key, "deleted an object that no block is in");
            run.orphans_deleted += 1;
            count(&self.metrics.orphans_deleted, 1);
            let objects = vec![object];
            self.catalog.change(Command::Withdraw { objects }).await?;
        }
        run.held = may_delete().err();
        let gone: Vec<_> = listed
            .not_there
            .into_iter()
            .filter(|object| view.is_announced(*object))
            .collect();
        if run.held.is_none() && !gone.is_empty() {
            self.catalog.change(Command::Withdraw { objects: gone }).await?;
        }
        Ok(run)
    }

    /// Looks at every object and compares it with what the catalog said before.
    async fn list(&self, now: RingTime, before: &CatalogView) -> Result<Listed> {
        let mut listed = Listed {
            lost: before.objects().map(|object| object.id).collect(),
            not_there: before.announced().filter(|object| self.is_old(*object, now)).collect(),
            ..Listed::default()
        };
        for folder in FOLDERS {
            let mut objects = self.store.list(folder);
            while let Some((key, _)) = objects.try_next().await? {
                listed.objects += 1;
                let Some(object) = object_of(&key) else {
                    listed.foreign += 1;
                    continue;
                };
                listed.lost.remove(&object);
                listed.not_there.remove(&object);
                if before.knows_object(object) {
                    continue;
                }
                let (some, max) = match before.is_announced(object) {
                    true if self.is_old(object, now) => (&mut listed.old, self.settings.drops_per_run_max as usize),
                    true => continue,
                    false => (&mut listed.unknown, UNKNOWN_MAX),
                };
                if some.len() < max {
                    some.push((key, object));
                } else if !before.is_announced(object) {
                    listed.more_unknown += 1;
                }
            }
        }
        Ok(listed)
    }

    fn is_old(&self, object: ObjectId, now: RingTime) -> bool {
        let wanted = u64::try_from(self.settings.orphan_age.duration().as_nanos()).unwrap_or(u64::MAX);
        let age_min = wanted.max(NAME_AGE_MAX_NANOS + NAME_MARGIN_NANOS);
        let named_unix_nanos = object.0.unix_millis().saturating_mul(NANOS_PER_MILLI);
        now.unix_nanos.saturating_sub(named_unix_nanos) > age_min
    }
}

/// What a listing found, as compared with the catalog before it.
#[derive(Debug, Default)]
struct Listed {
    objects: u64,
    foreign: u64,
    /// Announced long ago and not named.
    old: Vec<(String, ObjectId)>,
    /// In our form, neither announced nor named.
    unknown: Vec<(String, ObjectId)>,
    /// More of those.
    more_unknown: u64,
    /// Named and not found.
    lost: HashSet<ObjectId>,
    /// Announced long ago and not found.
    not_there: BTreeSet<ObjectId>,
}

impl Listed {
    /// Whether there is nothing that a newer view could say anything about.
    fn is_as_named(&self) -> bool {
        self.old.is_empty() && self.unknown.is_empty() && self.lost.is_empty() && self.not_there.is_empty()
    }

    /// What is still so by a catalog that is newer than the listing: what was announced or dropped meanwhile is neither
    /// unknown nor lost.
    fn judge(&self, view: &CatalogView) -> CollectorRun {
        let is_unknown = |object: ObjectId| !view.knows_object(object) && !view.is_announced(object);
        let mut unknown = self.unknown.iter().filter(|(_, object)| is_unknown(*object));
        let an_unknown = unknown.next();
        CollectorRun {
            objects: self.objects,
            foreign: self.foreign,
            unknown: an_unknown.iter().count() as u64 + unknown.count() as u64 + self.more_unknown,
            an_unknown: an_unknown.map(|(key, _)| Arc::from(key.as_str())),
            lost: self
                .lost
                .iter()
                .filter(|object| view.object(**object).is_some())
                .count() as u64,
            ..CollectorRun::default()
        }
    }
}

/// The object that a key names; `None` unless the key is, letter by letter, one that [`Store`] makes.
pub(crate) fn object_of(key: &str) -> Option<ObjectId> {
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
mod older_copy;
#[cfg(test)]
mod tests;
