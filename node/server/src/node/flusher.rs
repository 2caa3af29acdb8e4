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
use settings::FlushSettings;
use shard::command::ShardCommand;
use shard::flush::Flusher;
use shard::owner::TailSize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wal::{Level, Wal};

use super::machine::ShardMachine;
use super::ring::RingPort;
use super::scrub::DamagedLog;
use crate::app::Common;
use crate::notice::Notices;

/// How often is looked. A tail grows by some megabytes in that time.
const LOOK: Duration = Duration::from_millis(250);
/// Pauses after a failure, doubling.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Blocks that may wait on local disk for the object store before cutting stops and the log keeps the rest.
const SPOOLED_MAX: usize = 64;
const PURGE_WITHIN: Duration = Duration::from_secs(30);
/// Length of the error in a notice; clouds answer with pages.
const NOTICE_CHARS: usize = 800;

/// What a flush needs.
pub(super) struct FlushRoom {
    pub(super) flusher: Flusher,
    pub(super) group: Group<ShardMachine>,
    pub(super) ring: Arc<RingPort>,
    pub(super) common: Common,
    pub(super) wal: Wal,
    pub(super) damaged_log: Arc<DamagedLog>,
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
    let group = room.flusher.shard.group();
    let told = Told {
        notices: Arc::clone(&room.common.notices),
        part: (u64::from(group.shard.0) << 32) | group.generation.0,
    };
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
            Ok(()) => {
                (pause, backoff) = (LOOK, BACKOFF_FIRST);
                told.well();
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, shard = %room.flusher.shard.group(), "flush failed; trying again");
                room.common.metrics.failed_flushes.inc();
                told.failed(&error);
                (pause, backoff) = (backoff, (backoff * 2).min(BACKOFF_MAX));
            }
        }
    }
}

/// What `/status` says of one shard's flushes. Taken back when they go well again, or are another node's.
struct Told {
    notices: Arc<Notices>,
    part: u64,
}

impl Told {
    fn failed(&self, error: &str) {
        let text: String = error.chars().take(NOTICE_CHARS).collect();
        let notice = format!("blocks cannot be made or stored; the log keeps their spans: {text}");
        self.notices.set_of("flush", self.part, Some(notice));
    }

    fn well(&self) {
        self.notices.set_of("flush", self.part, None);
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.well();
    }
}

impl FlushRoom {
    async fn round(&self, forgotten: &mut LogIndex) -> anyhow::Result<()> {
        let shard = &self.flusher.shard;
        if shard.is_live() && self.group.is_leader() {
            let is_over = self.seal().await?;
            if is_over || self.is_due() {
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

    fn is_due(&self) -> bool {
        let shard = &self.flusher.shard;
        let waiting = Waiting {
            tail: shard.tail(),
            heap_bytes: shard.head().heap_bytes(),
            spooled_blocks: shard.head().spooled_blocks(),
            log_is_damaged: shard
                .tail()
                .since
                .is_some_and(|since| self.damaged_log.wants_cut(since)),
        };
        let (settings, now) = (&self.common.settings.flush, self.common.clock.monotonic());
        is_due(&waiting, settings, self.heads_high, self.wal.level(), now)
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

/// What a shard has that is not in a block.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    tail: TailSize,
    heap_bytes: usize,
    spooled_blocks: usize,
    /// The log may not give back what is only there and in memory.
    log_is_damaged: bool,
}

/// Whether it is time to cut: there is enough, it is old enough, or room is wanted; and there is room for the block.
fn is_due(waiting: &Waiting, settings: &FlushSettings, heads_high: usize, level: Level, now: Duration) -> bool {
    let Some(since) = waiting.tail.since else { return false };
    waiting.spooled_blocks < SPOOLED_MAX
        && (waiting.tail.log_bytes >= settings.tail_bytes.bytes()
            || now.saturating_sub(since) >= settings.tail_age.duration()
            || waiting.heap_bytes >= heads_high
            || waiting.log_is_damaged
            || level != Level::Normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS_HIGH: usize = 1000;
    const NOW: Duration = Duration::from_secs(1000);

    fn nothing_due() -> Waiting {
        Waiting {
            tail: TailSize {
                log_bytes: 1,
                since: Some(NOW),
            },
            heap_bytes: 1,
            spooled_blocks: 0,
            log_is_damaged: false,
        }
    }

    fn due(waiting: &Waiting, level: Level) -> bool {
        is_due(waiting, &FlushSettings::default(), HEADS_HIGH, level, NOW)
    }

    #[test]
    fn a_shard_cuts_when_it_has_enough() {
        let settings = FlushSettings::default();
        assert!(!due(&nothing_due(), Level::Normal));
        assert!(due(&nothing_due(), Level::FlushAdvised));
        let waiting = Waiting {
            log_is_damaged: true,
            ..nothing_due()
        };
        assert!(due(&waiting, Level::Normal));
        let limit = settings.tail_bytes.bytes();
        for (log_bytes, expected) in [(limit - 1, false), (limit, true), (limit + 1, true)] {
            let mut waiting = nothing_due();
            waiting.tail.log_bytes = log_bytes;
            assert_eq!(due(&waiting, Level::Normal), expected, "{log_bytes} bytes");
        }
        let (limit, nano) = (settings.tail_age.duration(), Duration::from_nanos(1));
        for (age, expected) in [(limit - nano, false), (limit, true), (limit + nano, true)] {
            let mut waiting = nothing_due();
            waiting.tail.since = Some(NOW - age);
            assert_eq!(due(&waiting, Level::Normal), expected, "{age:?}");
        }
        for (heap_bytes, expected) in [(HEADS_HIGH - 1, false), (HEADS_HIGH, true), (HEADS_HIGH + 1, true)] {
            let waiting = Waiting {
                heap_bytes,
                ..nothing_due()
            };
            assert_eq!(due(&waiting, Level::Normal), expected, "{heap_bytes} in memory");
        }
    }

    #[test]
    fn so_many_blocks_wait_for_their_upload() {
        for (spooled_blocks, expected) in [(63, true), (64, false), (65, false)] {
            let mut waiting = Waiting {
                heap_bytes: HEADS_HIGH,
                spooled_blocks,
                ..nothing_due()
            };
            assert_eq!(due(&waiting, Level::Normal), expected, "{spooled_blocks}");
            assert_eq!(due(&waiting, Level::RejectWrites), expected, "the log keeps the rest");
            waiting.tail.since = None;
            assert!(!due(&waiting, Level::RejectWrites), "nothing to cut");
        }
    }
}
