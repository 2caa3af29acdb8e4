//! One shard on this node: what applying its log builds, and when that is cut.
//!
//! Owns the [`Head`] and the set of known batches. The consensus side calls [`Shard::apply`] in log order, one call at a
//! time; the flusher calls [`Shard::build_cut`]; readers ask [`Shard::head`].
//!
//! A shard is followed or live. A follower reads no more of an entry than its headers: the set of known batches is part of
//! the replicated state, the spans are not. Whoever leads makes its shard live with [`Shard::fill`], which reads the tail
//! back from the log; from then on entries fill the head as they are applied.
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

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::{BlockId, Clock, LogIndex, SpanTable};
use parking_lot::Mutex;
use plants::Plant;
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
    /// Nothing was stored: the generation was sealed before.
    pub is_sealed: bool,
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
    /// The entry that ended the generation.
    sealed: Option<LogIndex>,
    /// Sub-batches above `flushed` that had been stored before: entry and position in it. What tells new from old when the
    /// log is read back, since the set of known batches is ahead of it by then.
    repeats: BTreeSet<(LogIndex, u32)>,
    /// Whether entries fill the head.
    is_live: bool,
    /// How often the head was emptied.
    lives: u64,
    /// Up to where the head has what it should.
    filled: LogIndex,
    tail: TailSize,
}

impl State {
    /// The last entry a cut may cover now.
    fn cut_end(&self) -> LogIndex {
        self.sealed.map_or(self.filled, |sealed| sealed.min(self.filled))
    }

    fn takes(&self, index: LogIndex) -> bool {
        self.sealed.is_none_or(|sealed| index <= sealed) || plants::is(Plant::TakesAfterSeal)
    }
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
    /// A live shard whose log is covered by blocks up to `watermark`; entries up to there leave no live spans.
    pub fn starting_after(group: GroupKey, watermark: LogIndex, options: ShardOptions) -> Self {
        let shard = Self::following(group, options);
        shard.head.restart(watermark);
        shard.state.lock().is_live = true;
        shard
    }

    /// A shard that is followed.
    pub fn following(group: GroupKey, options: ShardOptions) -> Self {
        let make_room_at = AtomicUsize::new(options.live_bytes_max);
        Self {
            group,
            options,
            head: Head::default(),
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
                state.flushed = state.flushed.max(to);
                let above = (LogIndex(state.flushed.0 + 1), 0);
                let kept = state.repeats.split_off(&above);
                state.repeats = kept;
                Self::reach(&mut state, index);
                Ok(Appended::default())
            }
            ShardCommand::Seal { epoch: _ } => {
                let mut state = self.state.lock();
                state.sealed.get_or_insert(index);
                Self::reach(&mut state, index);
                Ok(Appended::default())
            }
        }
    }

    fn reach(state: &mut State, index: LogIndex) {
        state.applied = state.applied.max(index);
        if state.is_live {
            state.filled = state.applied;
        }
    }

    fn append(&self, index: LogIndex, stamp: u64, entry: &Bytes, hint: Option<&[SubBatch]>) -> Result<Appended> {
        let decoded = Entry::decode(entry)?;
        let mut state = self.state.lock();
        let mut outcome = Appended::default();
        if !state.takes(index) {
            Self::reach(&mut state, index);
            outcome.is_sealed = true;
            return Ok(outcome);
        }
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
        let repeated = (0_u32..).zip(&new).filter(|(_, is_new)| !**is_new);
        state.repeats.extend(repeated.map(|(position, _)| (index, position)));
        if state.is_live && index > self.head.dropped_to() {
            match hint {
                Some(sub_batches) => {
                    let parts = sub_batches.iter().map(|part| Ok((part.header(), part.contents()?)));
                    self.fill_head(index, parts, &new, &mut outcome)?;
                }
                None => self.fill_head(index, decoded.open()?.sub_batches(), &new, &mut outcome)?,
            }
            state.tail.log_bytes += entry.len() as u64;
            state.tail.since.get_or_insert_with(|| self.options.clock.monotonic());
        }
        Self::reach(&mut state, index);
        outcome.stored = new.iter().filter(|new| **new).count() as u32;
        outcome.duplicates = new.len() as u32 - outcome.stored;
        Ok(outcome)
    }

    fn fill_head<'a>(
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

    /// Makes the shard live: forgets what the head has, reads the log above `watermark` back through `read`, and from then
    /// on takes entries in as they are applied. Says whether it is live; not when `is_wanted` turned false on the way.
    ///
    /// `read(after, upto)` gives committed entries above `after`, and how far they reach. Blocks the thread.
    ///
    /// Errors leave it followed; call again.
    pub fn fill<E: From<crate::error::Error>>(
        &self,
        watermark: LogIndex,
        mut read: impl FnMut(LogIndex, LogIndex) -> Result<(Vec<(LogIndex, Bytes)>, LogIndex), E>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<bool, E> {
        self.follow();
        if plants::is(Plant::DedupLostOnLead) {
            self.state.lock().dedup = Dedup::default();
        }
        self.head.restart(watermark);
        self.state.lock().filled = self.head.dropped_to();
        while is_wanted() {
            let (from, upto) = {
                let mut state = self.state.lock();
                if state.filled >= state.applied {
                    state.filled = state.applied;
                    state.is_live = true;
                    return Ok(true);
                }
                (state.filled, state.applied)
            };
            let (entries, reached) = read(from, upto)?;
            for (index, command) in entries {
                self.make_room();
                self.fill_entry(index, &command)?;
            }
            let mut state = self.state.lock();
            state.filled = state.filled.max(reached);
        }
        Ok(false)
    }

    fn fill_entry(&self, index: LogIndex, command: &Bytes) -> Result<()> {
        self.fill_one(&mut self.state.lock(), index, command)
    }

    fn fill_one(&self, state: &mut State, index: LogIndex, command: &Bytes) -> Result<()> {
        if let ShardCommand::Append { entry, .. } = ShardCommand::decode(command)?
            && state.takes(index)
        {
            let decoded = Entry::decode(&entry)?;
            let positions = 0..decoded.headers().len() as u32;
            let new: Vec<bool> = positions
                .map(|position| !state.repeats.contains(&(index, position)))
                .collect();
            self.fill_head(index, decoded.open()?.sub_batches(), &new, &mut Appended::default())?;
            state.tail.log_bytes += entry.len() as u64;
            state.tail.since.get_or_insert_with(|| self.options.clock.monotonic());
        }
        state.filled = index;
        Ok(())
    }

    /// Takes in one committed entry of a log that is led elsewhere, above the watermark this shard started from. `repeats`
    /// are the positions of sub-batches that had been stored before. An entry that is there already is left alone.
    pub fn read_in(&self, index: LogIndex, command: &Bytes, repeats: &[u32]) -> Result<()> {
        let mut state = self.state.lock();
        if index <= state.applied || index <= self.head.dropped_to() {
            return Ok(());
        }
        state.repeats.extend(repeats.iter().map(|position| (index, *position)));
        self.fill_one(&mut state, index, command)?;
        state.applied = index;
        Ok(())
    }

    /// Positions in entry `index` of sub-batches that had been stored before; none of entries that the log may forget.
    pub fn repeats_of(&self, index: LogIndex) -> Vec<u32> {
        let state = self.state.lock();
        let here = state.repeats.range((index, 0)..=(index, u32::MAX));
        here.map(|(_, position)| *position).collect()
    }

    /// Stops being live and forgets the spans: another node leads.
    pub fn follow(&self) {
        let _building = self.building.lock();
        let mut state = self.state.lock();
        state.is_live = false;
        state.lives += 1;
        state.tail = TailSize::default();
        self.head.restart(LogIndex(0));
        state.filled = self.head.dropped_to();
    }

    /// Whether the head has every span that was committed and is in no block.
    pub fn is_live(&self) -> bool {
        self.state.lock().is_live
    }

    /// Which life of the shard this is, while it is live. What was read between two looks that gave the same is whole: the
    /// head was not emptied in between.
    pub fn life(&self) -> Option<u64> {
        let state = self.state.lock();
        state.is_live.then_some(state.lives)
    }

    /// The entry that ended the generation, once it has been applied.
    pub fn sealed(&self) -> Option<LogIndex> {
        self.state.lock().sealed
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
            if !self.head.can_be_cut() {
                // It is read back from the log, from where that block ends.
                return Ok(CutOutcome::Nothing);
            }
            let tail = std::mem::take(&mut state.tail);
            (self.head.cut(state.cut_end()), tail)
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
        Self::reach(&mut self.state.lock(), applied);
    }

    /// Whether the batch has been stored.
    pub fn knows_batch(&self, hash: u128) -> bool {
        self.state.lock().dedup.contains(hash)
    }

    /// The replicated state as of [`Shard::flushed`].
    pub fn snapshot(&self) -> (LogIndex, Bytes) {
        let state = self.state.lock();
        let mut out = BytesMut::new();
        // A seal above the snapshot is in the log that follows it.
        match state.sealed.filter(|sealed| *sealed <= state.flushed) {
            None => {
                out.put_u8(SNAPSHOT_FORMAT);
                out.put_u64_le(state.flushed.0);
            }
            Some(sealed) => {
                out.put_u8(SEALED_SNAPSHOT_FORMAT);
                out.put_u64_le(sealed.0);
                out.put_u64_le(state.flushed.0);
            }
        }
        for seen in state.dedup.up_to(state.flushed) {
            out.put_u128_le(seen.hash);
            out.put_u64_le(seen.stamped_unix_nanos);
            out.put_u64_le(seen.index.0);
        }
        (state.flushed, out.freeze())
    }

    /// Replaces the replicated state by a snapshot taken at `at`.
    pub fn install(&self, at: LogIndex, mut snapshot: Bytes) -> Result<(), CommandError> {
        let sealed = match snapshot.try_get_u8().map_err(|_| CommandError::Malformed)? {
            SNAPSHOT_FORMAT => None,
            SEALED_SNAPSHOT_FORMAT => {
                let sealed = snapshot.try_get_u64_le().map_err(|_| CommandError::Malformed)?;
                Some(LogIndex(sealed))
            }
            format => return Err(CommandError::Format(format)),
        };
        if snapshot.len() < 8 || !(snapshot.len() - 8).is_multiple_of(SEEN_BYTES) {
            return Err(CommandError::Malformed);
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
        if plants::is(Plant::DedupNotRestored) {
            seen.clear();
        }
        state.dedup = Dedup::from_seen(seen);
        state.repeats.clear();
        state.applied = at;
        state.flushed = flushed;
        state.sealed = sealed;
        if state.is_live {
            state.filled = at;
        }
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
        self.head.cut(state.cut_end())
    }
}

const SNAPSHOT_FORMAT: u8 = 1;
/// With the index of the seal in front.
const SEALED_SNAPSHOT_FORMAT: u8 = 2;
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
