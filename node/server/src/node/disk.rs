//! What a node opens on its own disk: the log, and the cache of what lies in the object store.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use block::RangeReader;
use model::NodeId;
use settings::NodeSettings;
use shard::disk_cache::DiskCache;
use wal::{Drive, RealVfs, Vfs as _, Wal, WalError, WalOptions};

use super::ground::Ground;
use crate::app::Common;

/// Opens the log and says what was found in it.
pub(super) fn open_wal(common: &Common, id: NodeId, ground: &Ground, dir: &Path) -> anyhow::Result<Wal> {
    let settings = &common.settings.wal;
    let clock = Arc::clone(&common.clock);
    let keeper = ground.keeper.clone();
    // After a failed sync nobody knows what is on the disk: stop before anybody is told otherwise.
    let on_fatal = move |error: &WalError| {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "the log cannot be written; stopping at once"
        );
        match &keeper {
            Some(keeper) => keeper.failed(error),
            None => std::process::abort(),
        }
    };
    let options = WalOptions {
        segment_bytes: u32::try_from(settings.segment_bytes.bytes()).context("wal.segment_bytes is too large")?,
        quota_bytes: settings.quota_bytes.bytes(),
        on_fatal: Box::new(on_fatal),
        stopwatch: Box::new(move || clock.monotonic()),
        drive: match ground.keeper {
            Some(_) => Drive::Manual,
            None => Drive::Threads,
        },
        ..WalOptions::new(id.0)
    };
    let (wal, recovery) = Wal::open(Arc::clone(&ground.vfs), dir, options)
        .with_context(|| format!("cannot open the log in {}", dir.display()))?;
    tracing::info!(
        segments = recovery.segments,
        records = recovery.records,
        created = recovery.created,
        "log opened"
    );
    if let Some(torn) = &recovery.torn_tail {
        tracing::info!(
            segment = torn.segment,
            offset = torn.offset,
            "cut off records that nobody was told are durable"
        );
    }
    for damage in &recovery.damage {
        tracing::error!(?damage, "durable bytes of the log are damaged");
    }
    for lost in &recovery.lost_promises {
        tracing::error!(?lost, "a group may have lost what it promised to keep");
    }
    if let Some(keeper) = &ground.keeper {
        keeper.keep(wal.clone());
    }
    Ok(wal)
}

/// A cache on this node's disk, where the store is somewhere else.
pub(super) fn cache(settings: &NodeSettings, reads: Arc<dyn RangeReader>) -> anyhow::Result<Option<Arc<DiskCache>>> {
    let capacity = settings.storage.read_cache_bytes();
    let dir = settings.node.data_dir.join("cache");
    if capacity == 0 {
        return Ok(None);
    }
    let disk = dir.clone();
    let free = Arc::new(move || RealVfs.free_bytes(&disk));
    let cache = DiskCache::open(reads, &dir, capacity, free);
    let cache = cache.with_context(|| format!("cannot open the cache in {}", dir.display()))?;
    Ok(Some(Arc::new(cache)))
}
