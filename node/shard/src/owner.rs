//! One shard on this node: what applying its log builds, and when that is cut.
//!
//! Owns the [`Head`] and the set of known batches. The consensus side calls [`Shard::apply`] in log order, one call at a
//! time; the flusher calls [`Shard::build_cut`]; readers ask [`Shard::head`].
//!
//! What always holds:
//! - the set of known batches and the flushed mark depend on the log alone, so every replica has the same;
//! - an entry is applied wholly or not at all with respect to a cut: both happen under one lock;
//! - live memory has a bound even while an old log is read back: beyond it, applying first turns what is there into a
//!   spooled block, and waits for a local disk that refuses to take it;
//! - trouble with the local disk never fails an entry: that would end the group for good. New spans are refused at the door
//!   meanwhile.
//!
//! Not here: proposing and leadership (`consensus`), uploading (`crate::flush`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::{BlockId, Clock, LogIndex, SpanTable};
use parking_lot::Mutex;
use wire::frame::{Contents, Entry, SubBatch, SubBatchHeader};

use crate::catalog::{GroupKey, LogRange};
use crate::command::{CommandError, ShardCommand};
use crate::dedup::{Dedup, Seen};
use crate::error::Result;
use crate::head::{Cut, Head};
use crate::spool::{self, SpooledBlock};

/// What a shard needs from its node.
#[derive(Clone)]
pub struct ShardOptions {
    /// Where cuts become blocks before they are uploaded.
    pub spool_dir: PathBuf,
    /// Heap bytes of live spans at which applying waits for a cut. Admission stops earlier.
    pub live_bytes_max: usize,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Makes names of blocks: version 7 UUIDs.
    pub new_block_id: Arc<dyn Fn() -> BlockId + Send + Sync>,
    /// Waits a moment, on this thread, for a local disk that refuses to take a block.
    pub wait_for_disk: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for ShardOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            spool_dir,
            live_bytes_max,
            clock: _,
            new_block_id: _,
            wait_for_disk: _,
        } = self;
        f.debug_struct("ShardOptions")
            .field("spool_dir", spool_dir)
            .field("live_bytes_max", live_bytes_max)
            .finish()
    }
}

/// What became of one appended entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appended {
    /// Sub-batches that were new.
    pub stored: u32,
    /// Sub-batches that had been stored before.
    pub duplicates: u32,
    /// Spans that are live now.
    pub spans: u32,
}

/// What a cut became.
#[derive(Debug, Clone)]
pub enum CutOutcome {
    /// Nothing was appended since the last one.
    Nothing,
    /// Entries whose every batch had been stored before: a range without spans, which the next block covers, or the catalog
    /// without a block.
    Empty(LogRange),
    /// A block that waits for its upload.
    Built(Arc<SpooledBlock>),
}

/// What has been applied since the last cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TailSize {
    /// Log bytes.
    pub log_bytes: u64,
    /// Since when there is anything, on the monotonic clock; `None` when there is nothing.
    pub since: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    dedup: Dedup,
    applied: LogIndex,
    /// Up to here the log may forget; moved by the log itself.
    flushed: LogIndex,
    tail: TailSize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Shard {
    group: GroupKey,
    options: ShardOptions,
    head: Head,
    state: Mutex<State>,
    /// One build at a time: building twice at once would hold twice the memory.
    building: Mutex<()>,
    /// Live bytes at which room is made next: above the maximum after an attempt that failed.
    make_room_at: AtomicUsize,
}

impl Shard {
    /// A shard whose log is covered by blocks up to `watermark`; entries up to there leave no live spans.
    pub fn starting_after(group: GroupKey, watermark: LogIndex, options: ShardOptions) -> Self {
        let head = Head::starting_after(watermark);
        let make_room_at = AtomicUsize::new(options.live_bytes_max);
        Self {
            group,
            options,
            head,
            state: Mutex::default(),
            building: Mutex::default(),
            make_room_at,
        }
    }

    /// Which shard and generation.
    pub fn group(&self) -> GroupKey {
        self.group
    }

    /// The live spans.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Applies log entry `index`. `hint` holds the sub-batches the entry was made of, when they are still at hand.
    ///
    /// Errors are of bytes that cannot be read; nothing was applied then.
    pub fn apply(&self, index: LogIndex, command: &Bytes, hint: Option<&[SubBatch]>) -> Result<Appended> {
        match ShardCommand::decode(command)? {
            ShardCommand::Append {
                stamped_unix_nanos,
                entry,
            } => {
                self.make_room();
                self.append(index, stamped_unix_nanos, &entry, hint)
            }
            ShardCommand::Flushed { to } => {
                let mut state = self.state.lock();
                state.applied = index;
                state.flushed = state.flushed.max(to);
                Ok(Appended::default())
            }
        }
    }

    fn append(&self, index: LogIndex, stamp: u64, entry: &Bytes, hint: Option<&[SubBatch]>) -> Result<Appended> {
        let decoded = Entry::decode(entry)?;
        let mut state = self.state.lock();
        let mut outcome = Appended::default();
        let new: Vec<bool> = decoded
            .headers()
            .iter()
            .map(|header| {
                state.dedup.insert(Seen {
                    hash: header.hash.0,
                    stamped_unix_nanos: stamp,
                    index,
                })
            })
            .collect();
        if index > self.head.dropped_to() {
            match hint {
                Some(sub_batches) => {
                    let parts = sub_batches.iter().map(|part| Ok((part.header(), part.contents()?)));
                    self.fill(index, parts, &new, &mut outcome)?;
                }
                None => self.fill(index, decoded.open()?.sub_batches(), &new, &mut outcome)?,
            }
            state.tail.log_bytes += entry.len() as u64;
            state.tail.since.get_or_insert_with(|| self.options.clock.monotonic());
        }
        state.applied = index;
        outcome.stored = new.iter().filter(|new| **new).count() as u32;
        outcome.duplicates = new.len() as u32 - outcome.stored;
        Ok(outcome)
    }

    fn fill<'a>(
        &self,
        index: LogIndex,
        parts: impl Iterator<Item = Result<(&'a SubBatchHeader, Contents<'a>), wire::Error>>,
        new: &[bool],
        outcome: &mut Appended,
    ) -> Result<()> {
        for (part, is_new) in parts.zip(new) {
            let (header, contents) = part?;
            if *is_new {
                let added = self
                    .head
                    .append(index, &header.tenant, |table| append_contents(table, &contents))?;
                outcome.spans += added;
            }
        }
        Ok(())
    }

    /// Live memory is full and nobody has cut: turn it into a block now. Only a log being read back after a restart gets
    /// here, faster than the flusher; new spans are refused at the door before.
    ///
    /// A disk that does not take the block is asked again every so many bytes, so that not every entry pays for building
    /// one in vain; from twice the maximum on nothing is applied before it does.
    fn make_room(&self) {
        let max = self.options.live_bytes_max;
        if self.head.heap_bytes() < self.make_room_at.load(Ordering::Relaxed) {
            return;
        }
        while let Err(error) = self.build_cut() {
            let live = self.head.heap_bytes();
            tracing::error!(
                error = &error as &dyn std::error::Error,
                shard = %self.group,
                live,
                "live spans fill their memory and cannot become a block"
            );
            if live < max.saturating_mul(2) {
                self.make_room_at
                    .store(live.saturating_add(max / 8 + 1), Ordering::Relaxed);
                return;
            }
            (self.options.wait_for_disk)();
        }
        self.make_room_at.store(max, Ordering::Relaxed);
    }

    /// Cuts what is live and builds the block, on this thread.
    ///
    /// Errors leave the spans live; the same cut is built again by the next call.
    pub fn build_cut(&self) -> Result<CutOutcome> {
        let _building = self.building.lock();
        let (cut, tail_before) = {
            let mut state = self.state.lock();
            let tail = std::mem::take(&mut state.tail);
            (self.head.cut(state.applied), tail)
        };
        if tail_before.since.is_none() {
            return Ok(CutOutcome::Nothing);
        }
        if cut.tenants.is_empty() {
            let range = LogRange {
                group: self.group,
                from: cut.from,
                to: cut.to,
            };
            return Ok(CutOutcome::Empty(range));
        }
        match spool::build(&self.options.spool_dir, self.group, &cut, (self.options.new_block_id)()) {
            Ok(block) => {
                let block = Arc::new(block);
                self.head.spool(Arc::clone(&block));
                Ok(CutOutcome::Built(block))
            }
            Err(error) => {
                let mut state = self.state.lock();
                state.tail.log_bytes += tail_before.log_bytes;
                state.tail.since = tail_before.since.or(state.tail.since);
                Err(error)
            }
        }
    }

    /// How much waits for the next cut.
    pub fn tail(&self) -> TailSize {
        self.state.lock().tail
    }

    /// The last entry applied.
    pub fn applied(&self) -> LogIndex {
        self.state.lock().applied
    }

    /// Up to where the log may be forgotten.
    pub fn flushed(&self) -> LogIndex {
        self.state.lock().flushed
    }

    /// Notes an entry that carries no command (a leader's first one, a membership).
    pub fn pass(&self, applied: LogIndex) {
        let mut state = self.state.lock();
        state.applied = state.applied.max(applied);
    }

    /// Whether the batch has been stored.
    pub fn knows_batch(&self, hash: u128) -> bool {
        self.state.lock().dedup.contains(hash)
    }

    /// The replicated state as of [`Shard::flushed`].
    pub fn snapshot(&self) -> (LogIndex, Bytes) {
        let state = self.state.lock();
        let mut out = BytesMut::new();
        out.put_u8(SNAPSHOT_FORMAT);
        out.put_u64_le(state.flushed.0);
        for seen in state.dedup.up_to(state.flushed) {
            out.put_u128_le(seen.hash);
            out.put_u64_le(seen.stamped_unix_nanos);
            out.put_u64_le(seen.index.0);
        }
        (state.flushed, out.freeze())
    }

    /// Replaces the replicated state by a snapshot taken at `at`.
    pub fn install(&self, at: LogIndex, mut snapshot: Bytes) -> Result<(), CommandError> {
        if snapshot.len() < 9 || !(snapshot.len() - 9).is_multiple_of(SEEN_BYTES) {
            return Err(CommandError::Malformed);
        }
        let format = snapshot.get_u8();
        if format != SNAPSHOT_FORMAT {
            return Err(CommandError::Format(format));
        }
        let flushed = LogIndex(snapshot.get_u64_le());
        let mut seen = Vec::with_capacity(snapshot.len() / SEEN_BYTES);
        while snapshot.has_remaining() {
            let hash = snapshot.get_u128_le();
            let stamped_unix_nanos = snapshot.get_u64_le();
            seen.push(Seen {
                hash,
                stamped_unix_nanos,
                index: LogIndex(snapshot.get_u64_le()),
            });
        }
        let mut state = self.state.lock();
        state.dedup = Dedup::from_seen(seen);
        state.applied = at;
        state.flushed = flushed;
        Ok(())
    }

    /// The catalog names everything up to `watermark`: the tail forgets it.
    pub fn covered_to(&self, watermark: LogIndex) {
        self.head.drop_to(watermark);
    }

    /// What a cut would take, for tests that look inside.
    #[doc(hidden)]
    pub fn peek_cut(&self) -> Cut {
        let state = self.state.lock();
        self.head.cut(state.applied)
    }
}

const SNAPSHOT_FORMAT: u8 = 1;
const SEEN_BYTES: usize = 32;

/// Appends the spans of one sub-batch; returns how many were new.
fn append_contents(table: &mut SpanTable, contents: &Contents<'_>) -> Result<u32> {
    let resources: Vec<u32> = (0..contents.resource_count())
        .map(|index| contents.resource(index))
        .map(|resource| table.intern_resource(resource.message, resource.schema_url))
        .collect();
    let scopes: Vec<u32> = (0..contents.scope_count())
        .map(|index| contents.scope(index))
        .map(|scope| table.intern_scope(scope.message, scope.schema_url))
        .collect();
    let mut added = 0;
    for span in contents.spans() {
        let span = span?;
        let resource = resources
            .get(span.resource as usize)
            .copied()
            .ok_or(CommandError::Malformed)?;
        let scope = scopes
            .get(span.scope as usize)
            .copied()
            .ok_or(CommandError::Malformed)?;
        added += u32::from(table.append_distinct(resource, scope, span.span)?.is_some());
    }
    Ok(added)
}
