//! The caretakers of stored blocks, each on its own beat: merging, forgetting, collecting orphans.
//!
//! | task | beat | dies |
//! |---|---|---|
//! | merges | `compaction.interval`, and at once after a merge that found work | stop token; a merge under way is dropped |
//! | trace-id indexes | at the start, then `compaction.interval` | stop token |
//! | retention | `retention.interval` | stop token |
//! | caches: what they hold of deleted objects, on every node | `retention.interval` | stop token |
//! | orphans, and whether the store holds what the catalog says | the first beat of retention that is ours, then [`COLLECT_EVERY`] | stop token |
//! | the catalog, folded into the store | each beat of retention, before anything is deleted | stop token |
//!
//! But for its own caches, only the node that leads the ring does any of it: two would do the same work, and one of them in vain, since the catalog
//! takes a replacement once.
//!
//! All of them may be stopped between any two steps: what they leave is collected by the next run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::BlockId;
use shard::blocks::Blocks;
use shard::catalog::CatalogView;
use shard::collect::{Collector, CollectorRun};
use shard::column_cache::ColumnCache;
use shard::compaction::{Compactor, CompactorOptions, Outcome};
use shard::disk_cache::DiskCache;
use shard::housekeeping::HousekeepingMetrics;
use shard::kept::Objects;
use shard::manifest::{Folder, Outcome as Folded};
use shard::port::CatalogPort;
use shard::retention::{Brakes, Retention};
use shard::store::Store;
use shard::trace_index::{self, Indexer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::Common;

/// Listing the bucket costs a request per thousand objects, so it is done more rarely than looking into the catalog.
const COLLECT_EVERY: u32 = 6;

const STORE_NOTICE: &str = "object store";
const CATALOG_NOTICE: &str = "catalog";

/// What the caretakers share.
pub(super) struct Housekeeping {
    pub(super) common: Common,
    pub(super) store: Store,
    pub(super) catalog: Arc<dyn CatalogPort>,
    /// Whose catalog it is.
    pub(super) cluster: u128,
    pub(super) blocks: Arc<Blocks>,
    pub(super) new_block_id: Arc<dyn Fn() -> BlockId + Send + Sync>,
    pub(super) metrics: Arc<HousekeepingMetrics>,
    /// Whether it is this node's turn.
    pub(super) is_ours: IsOurs,
    pub(super) caches: Caches,
}

/// Bytes of blocks that this node keeps beside the store.
pub(super) struct Caches {
    pub(super) columns: Arc<ColumnCache>,
    pub(super) on_disk: Option<Arc<DiskCache>>,
}

impl Caches {
    async fn keep(self, catalog: Arc<dyn CatalogPort>, store: Store, beat: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(beat) => self.forget(&catalog.view(), &store).await,
            }
        }
    }

    /// What the catalog forgot, whoever deleted it and wherever that was, goes from this node too.
    async fn forget(&self, view: &CatalogView, store: &Store) {
        let named = Objects::named(view, store);
        self.columns.keep_only(&named);
        if let Some(on_disk) = &self.on_disk {
            let files = on_disk.keep_only(named).await;
            if files > 0 {
                tracing::info!(files, "deleted cached parts of objects that are gone");
            }
        }
    }
}

/// Asked before each piece of work.
pub(super) type IsOurs = Arc<dyn Fn() -> bool + Send + Sync>;

impl Housekeeping {
    /// Starts all of them.
    pub(super) fn start(self, data_dir: &Path, stop: &CancellationToken, tasks: &TaskTracker) -> anyhow::Result<()> {
        let settings = &self.common.settings;
        let brakes = Arc::new(Brakes::new(
            Arc::clone(&self.common.clock),
            settings.retention.clock_jump_max.duration(),
        ));
        let compactor = Arc::new(Compactor::new(CompactorOptions {
            settings: settings.compaction.clone(),
            scratch_dir: data_dir.join("merge"),
            store: self.store.clone(),
            catalog: Arc::clone(&self.catalog),
            blocks: Arc::clone(&self.blocks),
            new_block_id: Arc::clone(&self.new_block_id),
            clock: Arc::clone(&self.common.clock),
            metrics: Arc::clone(&self.metrics),
        })?);
        let beat = settings.compaction.interval.duration();
        for _ in 0..settings.compaction.jobs_max {
            tasks.spawn(merge(
                Arc::clone(&compactor),
                beat,
                Arc::clone(&self.is_ours),
                stop.clone(),
            ));
        }
        tasks.spawn(index(
            Indexer {
                store: self.store.clone(),
                catalog: Arc::clone(&self.catalog),
                blocks: Arc::clone(&self.blocks),
                new_block_id: Arc::clone(&self.new_block_id),
                metrics: Arc::clone(&self.metrics),
                damaged: Arc::default(),
            },
            beat,
            Arc::clone(&self.is_ours),
            stop.clone(),
        ));
        tasks.spawn(self.caches.keep(
            Arc::clone(&self.catalog),
            self.store.clone(),
            settings.retention.interval.duration(),
            stop.clone(),
        ));
        let folder = Folder {
            store: self.store.clone(),
            catalog: Arc::clone(&self.catalog),
            cluster: self.cluster,
            metrics: Arc::clone(&self.metrics),
            copy: Arc::default(),
        };
        let copy = Arc::clone(&folder.copy);
        let retention = Retention {
            settings: settings.retention.clone(),
            store: self.store.clone(),
            catalog: Arc::clone(&self.catalog),
            brakes: Arc::clone(&brakes),
            is_dropped: Arc::new(move |object| copy.has_dropped(object)),
            metrics: Arc::clone(&self.metrics),
        };
        let collector = Collector {
            settings: settings.retention.clone(),
            store: self.store,
            catalog: self.catalog,
            brakes,
            metrics: self.metrics,
        };
        let caretakers = Forgetting {
            common: self.common,
            retention,
            collector,
            folder,
        };
        tasks.spawn(caretakers.keep(self.is_ours, stop.clone()));
        Ok(())
    }
}

/// Takes one merge after the other; rests when there is none.
async fn merge(compactor: Arc<Compactor>, beat: Duration, is_ours: IsOurs, stop: CancellationToken) {
    // The compactor listens to a watch; the token is translated.
    let (told, tell) = watch::channel(false);
    loop {
        let pause = match Some(()).filter(|()| is_ours()).and_then(|()| compactor.next()) {
            None => beat,
            Some(claim) => {
                let (tenant, inputs) = (claim.job().tenant.clone(), claim.job().inputs.len());
                let outcome = tokio::select! {
                    () = stop.cancelled() => {
                        told.send_replace(true);
                        return;
                    }
                    outcome = compactor.run(claim, tell.clone()) => outcome,
                };
                match outcome {
                    Ok(Outcome::Merged(block)) => tracing::info!(%tenant, inputs, %block, "merged blocks"),
                    Ok(Outcome::Lost) => tracing::info!(%tenant, inputs, "a merge came too late"),
                    Ok(Outcome::Stopped) => return,
                    Err(error) => {
                        tracing::warn!(%tenant, inputs, error = &error as &dyn std::error::Error, "a merge failed");
                    }
                }
                Duration::ZERO
            }
        };
        compactor.measure_outstanding();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks at one tenant after the other. The first round brings the directories of all indexes into memory.
async fn index(indexer: Indexer, beat: Duration, is_ours: IsOurs, stop: CancellationToken) {
    loop {
        let view = indexer.catalog.view();
        for (tenant, _) in view.tenants() {
            if !is_ours() {
                break;
            }
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = indexer.run(tenant) => outcome,
            };
            match outcome {
                Ok(trace_index::Outcome::Indexed { blocks, replaced }) => {
                    tracing::info!(%tenant, blocks, replaced, "indexed the traces of blocks");
                }
                Ok(_) => {}
                Err(error) => {
                    indexer.metrics.runs_failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%tenant, error = &error as &dyn std::error::Error, "indexing stopped at an error");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(beat) => {}
        }
    }
}

/// Those who delete, and what they must know first.
struct Forgetting {
    common: Common,
    retention: Retention,
    collector: Collector,
    folder: Folder,
}

impl Forgetting {
    async fn keep(self, is_ours: IsOurs, stop: CancellationToken) {
        let beat = self.common.settings.retention.interval.duration();
        // Beats until the store is looked through. Before anything is deleted from it, too.
        let mut until_survey = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(beat) => {}
            }
            if !is_ours() {
                until_survey = 0;
                self.retention.brakes.forget_survey();
                self.folder.copy.forget();
                self.common.notices.set(STORE_NOTICE, None);
                self.common.notices.set(CATALOG_NOTICE, None);
                continue;
            }
            if until_survey == 0 {
                until_survey = if self.survey().await { COLLECT_EVERY } else { 1 };
            }
            until_survey -= 1;
            // Nor is a catalog kept that the store shows to be an old one.
            if self.retention.brakes.check_store(self.folder.catalog.now()).is_ok() {
                self.fold().await;
            }
            self.forget().await;
        }
    }

    /// Collects orphans and looks at everything; whether it came to its end.
    async fn survey(&self) -> bool {
        match self.collector.run().await {
            Ok(run) => {
                if run.orphans_deleted > 0 {
                    tracing::info!(orphans = run.orphans_deleted, "collected objects that nobody names");
                }
                let advice = advice(&run);
                if let Some(advice) = &advice {
                    tracing::error!("{advice}");
                }
                self.common.notices.set(STORE_NOTICE, advice);
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "collecting stopped at an error"
                );
                false
            }
        }
    }

    async fn fold(&self) {
        let notice = match self.folder.run().await {
            Ok(Folded::Unchanged) => None,
            Ok(Folded::Folded { manifests }) => {
                tracing::debug!(manifests, "folded the catalog into the object store");
                None
            }
            Ok(Folded::Newer { revision }) => Some(format!(
                "the object store holds a newer copy of the catalog, of revision {revision}, than this node has: its data \
                 directory seems to have been restored from an older copy. Nothing is deleted from the store. Stop the nodes \
                 and start them on the newest copies of their data directories"
            )),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "folding the catalog into the object store stopped at an error");
                return;
            }
        };
        if let Some(notice) = &notice {
            tracing::error!("{notice}");
        }
        self.common.notices.set(CATALOG_NOTICE, notice);
    }

    async fn forget(&self) {
        let limits = self.common.limits.load_full();
        let retention_of = move |tenant: &model::TenantId| limits.of(tenant.as_str()).retention.duration();
        match self.retention.run(&retention_of).await {
            Ok(run) if run.held.is_some() => {
                tracing::warn!(brake = ?run.held, "less is deleted than should be, until this brake goes off");
            }
            Ok(run) if run.blocks_expired + run.objects_deleted > 0 => tracing::info!(
                blocks = run.blocks_expired,
                objects = run.objects_deleted,
                left = run.blocks_left,
                "forgot what is past its time"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "retention stopped at an error"
            ),
        }
    }
}

/// What an operator should do about the store; `None` when it holds what the catalog says.
fn advice(run: &CollectorRun) -> Option<String> {
    if let Some(key) = run.an_unknown.as_ref() {
        return Some(format!(
            "the object store holds {} objects of this cluster that its catalog has never heard of, for instance {key}: the \
             data directory seems to have been restored from an older copy, and they may hold acknowledged spans that are \
             nowhere else. Nothing is deleted from the store while they are there. Stop the nodes and start them on the newest \
             copies of their data directories; if these are lost for good, move the objects away or delete them",
            run.unknown
        ));
    }
    (run.lost > 0).then(|| {
        format!(
            "the catalog names {} objects that are not in the object store: questions that need them are answered in part. \
             Somebody else has deleted them, or the data directory was restored from an older copy. No orphans are collected \
             until they are back or past their retention",
            run.lost
        )
    })
}
