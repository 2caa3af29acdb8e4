//! One shard's flushes: when to cut, when to upload, when the log may forget.

use std::sync::Arc;
use std::time::Duration;

use consensus::{Group, Payload};
use model::LogIndex;
use shard::command::ShardCommand;
use shard::flush::Flusher;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wal::{Level, Wal};

use super::machine::ShardMachine;
use crate::app::Common;

/// How often is looked. A tail grows by some megabytes in that time.
const LOOK: Duration = Duration::from_millis(250);
/// Pauses after a failure, doubling.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Blocks that may wait on local disk for the object store before cutting stops and the log keeps the rest.
const SPOOLED_MAX: usize = 64;
const PURGE_WITHIN: Duration = Duration::from_secs(30);

/// Runs until stopped. `heads_high` is the heap size of this shard's live spans at which it cuts early. `builds` are the
/// turns at building that all shards share: they fill evenly, and if all built at once no core were left to receive.
pub(super) async fn run(
    flusher: Flusher,
    group: Group<ShardMachine>,
    common: Common,
    wal: Wal,
    heads_high: usize,
    builds: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let mut backoff = BACKOFF_FIRST;
    let mut pause = LOOK;
    let mut purged = LogIndex::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let round = async {
            if is_due(&flusher, &common, &wal, heads_high) {
                let turn = builds.acquire().await?;
                let cut = flusher.cut().await;
                drop(turn);
                // What is spooled already can go up although nothing new can be built.
                if let Err(error) = cut {
                    upload(&flusher, &group, &mut purged).await?;
                    return Err(error.into());
                }
            }
            upload(&flusher, &group, &mut purged).await
        };
        let outcome = tokio::select! {
            // Dropping a round leaves the log as it was; at worst an object that nobody names.
            () = stop.cancelled() => return,
            outcome = round => outcome,
        };
        match outcome {
            Ok(()) => (pause, backoff) = (LOOK, BACKOFF_FIRST),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), shard = %flusher.shard.group(), "flush failed; trying again");
                (pause, backoff) = (backoff, (backoff * 2).min(BACKOFF_MAX));
            }
        }
    }
}

fn is_due(flusher: &Flusher, common: &Common, wal: &Wal, heads_high: usize) -> bool {
    let tail = flusher.shard.tail();
    let Some(since) = tail.since else { return false };
    if flusher.shard.head().spooled_blocks() >= SPOOLED_MAX {
        return false;
    }
    let settings = &common.settings.flush;
    tail.log_bytes >= settings.tail_bytes.bytes()
        || common.clock.monotonic().saturating_sub(since) >= settings.tail_age.duration()
        || flusher.shard.head().heap_bytes() >= heads_high
        || wal.level() != Level::Normal
}

/// Uploads what waits, and lets the log forget each part that the catalog covers: by these uploads, by ranges without
/// spans, or by uploads before a failure or a restart.
async fn upload(flusher: &Flusher, group: &Group<ShardMachine>, purged: &mut LogIndex) -> anyhow::Result<()> {
    loop {
        let uploaded = flusher.flush_oldest().await?;
        if let Some(to) = flusher.unforgotten() {
            // Said in the log itself, so that every replica forgets the same.
            group
                .propose(Payload::control(ShardCommand::Flushed { to }.encode()))
                .await?;
        }
        let flushed = flusher.shard.flushed();
        if flushed > *purged {
            group.snapshot_and_purge(flushed, PURGE_WITHIN).await?;
            *purged = flushed;
        }
        if uploaded.is_none() {
            return Ok(());
        }
    }
}
