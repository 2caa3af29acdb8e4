//! One generation's flushes: when to cut, when to upload, when it is over, when the log may forget.
//!
//! Only where the generation is led and live is anything cut, uploaded or sealed; a deposed leader that does so late is
//! fenced by the catalog. Every member lets its own log forget what the log itself says is in blocks.

use std::sync::Arc;
use std::time::Duration;

use consensus::ring::Body;
use consensus::{Group, Payload};
use model::LogIndex;
use plants::Plant;
use shard::command::ShardCommand;
use shard::flush::Flusher;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wal::{Level, Wal};

use super::machine::ShardMachine;
use super::ring::RingPort;
use crate::app::Common;

/// How often is looked. A tail grows by some megabytes in that time.
const LOOK: Duration = Duration::from_millis(250);
/// Pauses after a failure, doubling.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Blocks that may wait on local disk for the object store before cutting stops and the log keeps the rest.
const SPOOLED_MAX: usize = 64;
const PURGE_WITHIN: Duration = Duration::from_secs(30);

/// What a flush needs.
pub(super) struct FlushRoom {
    pub(super) flusher: Flusher,
    pub(super) group: Group<ShardMachine>,
    pub(super) ring: Arc<RingPort>,
    pub(super) common: Common,
    pub(super) wal: Wal,
    /// Heap bytes of this shard's live spans at which it cuts early.
    pub(super) heads_high: usize,
    /// Turns at building that all shards share: they fill evenly, and if all built at once no core were left to receive.
    pub(super) builds: Arc<Semaphore>,
}

/// Runs until stopped.
pub(super) async fn run(room: FlushRoom, stop: CancellationToken) {
    let mut backoff = BACKOFF_FIRST;
    let mut pause = LOOK;
    let mut forgotten = LogIndex(0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let outcome = tokio::select! {
            // Dropping a round leaves the log as it was; at worst an object that nobody names.
            () = stop.cancelled() => return,
            outcome = room.round(&mut forgotten) => outcome,
        };
        match outcome {
            Ok(()) => (pause, backoff) = (LOOK, BACKOFF_FIRST),
            Err(error) => {
                let shard = room.flusher.shard.group();
                tracing::warn!(error = format!("{error:#}"), %shard, "flush failed; trying again");
                (pause, backoff) = (backoff, (backoff * 2).min(BACKOFF_MAX));
            }
        }
    }
}

impl FlushRoom {
    async fn round(&self, forgotten: &mut LogIndex) -> anyhow::Result<()> {
        let shard = &self.flusher.shard;
        if shard.is_live() && self.group.is_leader() {
            let is_over = self.seal().await?;
            if is_over || is_due(&self.flusher, &self.common, &self.wal, self.heads_high) {
                let turn = self.builds.acquire().await?;
                let cut = self.flusher.cut().await;
                drop(turn);
                // What is spooled already can go up although nothing new can be built.
                if let Err(error) = cut {
                    self.upload(forgotten).await?;
                    return Err(error.into());
                }
            }
            self.upload(forgotten).await?;
            if is_over {
                self.finish().await?;
                self.upload(forgotten).await?;
            }
        }
        self.forget(forgotten).await
    }

    /// Uploads what waits, and says in the log itself what blocks cover, so that every member lets go of that part: by these
    /// uploads, by ranges without spans, or by uploads before a failure or a restart.
    async fn upload(&self, forgotten: &mut LogIndex) -> anyhow::Result<()> {
        loop {
            if plants::is(Plant::PurgeBeforeCatalog) {
                self.let_go(forgotten).await?;
            }
            let uploaded = self.flusher.flush_oldest().await?;
            self.let_go(forgotten).await?;
            if uploaded.is_none() {
                return Ok(());
            }
        }
    }

    async fn let_go(&self, forgotten: &mut LogIndex) -> anyhow::Result<()> {
        if let Some(to) = self.flusher.unforgotten() {
            let command = ShardCommand::Flushed { to };
            self.group.propose(Payload::control(command.encode())).await?;
        }
        self.forget(forgotten).await
    }

    async fn forget(&self, forgotten: &mut LogIndex) -> anyhow::Result<()> {
        let flushed = self.flusher.shard.flushed();
        if flushed > *forgotten {
            self.group.snapshot_and_purge(flushed, PURGE_WITHIN).await?;
            *forgotten = flushed;
        }
        Ok(())
    }

    /// Ends the generation when the map has replaced it; says whether it is over.
    async fn seal(&self) -> anyhow::Result<bool> {
        let key = self.flusher.shard.group();
        let view = self.ring.ring_view();
        let Some(sealed) = view.state.map.sealed.get(&key) else {
            return Ok(false);
        };
        let last = match self.flusher.shard.sealed() {
            Some(last) => last,
            None => {
                let epoch = view.state.map.epoch;
                let command = ShardCommand::Seal { epoch };
                let (index, _) = self.group.propose(Payload::control(command.encode())).await?;
                // An earlier seal of a leader before us counts.
                self.flusher.shard.sealed().unwrap_or(index)
            }
        };
        if sealed.last.is_none() {
            self.ring.propose(Body::Seal { key, last }).await?;
        }
        Ok(true)
    }

    /// Covers what is left of a generation that is over, and retires it once blocks have all of it.
    async fn finish(&self) -> anyhow::Result<()> {
        let key = self.flusher.shard.group();
        let Some(last) = self.flusher.shard.sealed() else {
            return Ok(());
        };
        self.flusher.cover_rest(last).await?;
        if self.ring.watermark(key) == last {
            self.ring.propose(Body::Retire(key)).await?;
            tracing::info!(shard = %key, %last, "a generation is over: blocks have all of it");
        }
        Ok(())
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
