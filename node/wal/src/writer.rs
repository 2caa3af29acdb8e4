//! From the queue to the disk: one write, one sync, then the completions in order.
//!
//! A batch that opens a segment takes two syncs more: the old segment must be durable before the new header says where
//! it ended, and that header must be durable before the first record overwrites what a former life left behind.
//! The databend log once forgot the first of these at rotation (databend#19438).

use std::io::{self, IoSlice};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use bytes::Bytes;
use plants::Plant;

use crate::WalError;
use crate::format::{FLAG_MOVED, Kind, Position, RECORD_ALIGN, RECORD_HEADER_BYTES, SegmentHeader, crc, record_size};
use crate::group::{Releases, Small};
use crate::log::Log;
use crate::options::Drive;
use crate::read::Place;
use crate::record::GroupKey;
use crate::state::{NewRecord, Pending, State};
use crate::vfs::VfsFile;

/// A segment is emptied by copying when less than one part in this many of it is still needed.
const REMNANT_PARTS: u64 = 20;

struct Batch {
    pendings: Vec<Pending>,
    runs: Vec<Run>,
    /// Where the batch ends; `None` when it has no records.
    end: Option<Position>,
    bytes: usize,
}

/// The records of a batch that lie in one segment.
struct Run {
    segment: u64,
    file: Arc<dyn VfsFile>,
    /// The header to write first, if this run opens the segment.
    open: Option<SegmentHeader>,
    offset: u32,
    /// Headers of the records, already encoded.
    headers: Vec<[u8; RECORD_HEADER_BYTES]>,
    payloads: Vec<Bytes>,
}

/// What stays needed of the oldest segment.
struct Remnant {
    kind: Kind,
    group: GroupKey,
    index: u64,
    term: u64,
    place: Place,
}

impl Log {
    /// Writes one batch; says whether there was anything to do.
    pub(crate) fn step(&self) -> bool {
        let guard = self.stepping.lock();
        let stepped = self.step_locked();
        drop(guard);
        stepped
    }

    /// As [`Log::step`], but does nothing when a step is under way.
    pub(crate) fn try_step(&self) -> bool {
        let Some(guard) = self.stepping.try_lock() else {
            return false;
        };
        let stepped = self.step_locked();
        drop(guard);
        stepped
    }

    fn step_locked(&self) -> bool {
        let batch = {
            let mut state = self.state.lock();
            if state.poisoned.is_some() || state.queue.is_empty() {
                return false;
            }
            self.take_batch(&mut state)
        };
        match self.write(&batch) {
            Ok(()) => self.complete(batch),
            Err((segment, doing, source)) => {
                self.poison(
                    WalError::Fatal {
                        doing,
                        segment,
                        source: Arc::new(source),
                    },
                    batch.pendings,
                );
            }
        }
        true
    }

    fn take_batch(&self, state: &mut State) -> Batch {
        let mark = state.durable;
        let oldest = state
            .segments
            .first_key_value()
            .map_or(mark.segment, |(sequence, _)| *sequence);
        let mut batch = Batch {
            pendings: Vec::new(),
            runs: Vec::new(),
            end: None,
            bytes: 0,
        };
        while let Some(pending) = state.queue.front() {
            if batch.bytes > 0 && batch.bytes + pending.bytes() > self.options.batch_bytes_max {
                break;
            }
            let Some(pending) = state.queue.pop_front() else { break };
            batch.bytes += pending.bytes();
            if let Some(record) = &pending.record {
                let segment = record.header.segment;
                if batch.runs.last().is_none_or(|run| run.segment != segment) {
                    let previous_end = state.segments.get(&(segment - 1)).map_or(0, |previous| previous.end);
                    let Some(home) = state.segments.get_mut(&segment) else {
                        unreachable!("segment {segment} has queued records and is gone");
                    };
                    let open = (!home.opened).then_some(SegmentHeader {
                        incarnation: self.options.incarnation,
                        sequence: segment,
                        oldest,
                        previous_end,
                        capacity: home.capacity,
                    });
                    home.opened = true;
                    batch.runs.push(Run {
                        segment,
                        file: Arc::clone(&home.file),
                        open,
                        offset: record.offset,
                        headers: Vec::new(),
                        payloads: Vec::new(),
                    });
                }
                if let Some(run) = batch.runs.last_mut() {
                    let header = crate::format::RecordHeader { mark, ..record.header };
                    run.headers.push(header.encode(self.options.incarnation));
                    run.payloads.push(record.payload.clone());
                }
                batch.end = Some(Position {
                    segment,
                    offset: record.offset + record.header.size() as u32,
                });
            }
            batch.pendings.push(pending);
        }
        if state.queue.is_empty() {
            state.wake = false;
        }
        batch
    }

    /// Writes and syncs; an error says in which segment and at what.
    fn write(&self, batch: &Batch) -> Result<(), (u64, &'static str, io::Error)> {
        let mut previous: Option<&Run> = None;
        for run in &batch.runs {
            if let Some(header) = &run.open {
                if let Some(previous) = previous {
                    previous
                        .file
                        .sync_data()
                        .map_err(|error| (previous.segment, "sync the end of", error))?;
                    self.metrics.syncs.fetch_add(1, Relaxed);
                }
                let block = header.encode();
                let slices = [IoSlice::new(&block)];
                run.file
                    .write_vectored_at(&slices, 0)
                    .map_err(|error| (run.segment, "write the header of", error))?;
                run.file
                    .sync_data()
                    .map_err(|error| (run.segment, "sync the header of", error))?;
                self.metrics.syncs.fetch_add(1, Relaxed);
            }
            const PADDING: [u8; RECORD_ALIGN] = [0; RECORD_ALIGN];
            let mut slices = Vec::with_capacity(run.headers.len() * 3);
            for (header, payload) in run.headers.iter().zip(&run.payloads) {
                slices.push(IoSlice::new(header));
                if !payload.is_empty() {
                    slices.push(IoSlice::new(payload));
                }
                let padding = record_size(payload.len()) as usize - RECORD_HEADER_BYTES - payload.len();
                if padding > 0 {
                    slices.push(IoSlice::new(&PADDING[..padding]));
                }
            }
            let offset = u64::from(run.offset);
            run.file
                .write_vectored_at(&slices, offset)
                .map_err(|error| (run.segment, "write", error))?;
            previous = Some(run);
        }
        if let Some(last) = previous {
            let started = (self.options.stopwatch)();
            if !plants::is(Plant::AckBeforeSync) {
                last.file.sync_data().map_err(|error| (last.segment, "sync", error))?;
            }
            self.metrics
                .observe_sync((self.options.stopwatch)().saturating_sub(started));
            self.metrics.syncs.fetch_add(1, Relaxed);
            self.metrics.batches.fetch_add(1, Relaxed);
        }
        self.metrics.written_bytes.fetch_add(batch.bytes as u64, Relaxed);
        self.metrics
            .records
            .fetch_add(batch.runs.iter().map(|run| run.headers.len() as u64).sum(), Relaxed);
        Ok(())
    }

    fn complete(&self, batch: Batch) {
        let mut state = self.state.lock();
        if let Some(end) = batch.end {
            state.durable = end;
        }
        state.queue_bytes -= batch.bytes;
        let mut completions = Vec::new();
        for pending in batch.pendings {
            state.release(&pending.releases);
            completions.extend(pending.done);
        }
        state.evict(self.options.cache_bytes_max);
        state.retire();
        if let Some(header) = batch.runs.iter().rev().find_map(|run| run.open) {
            state.pool.trim(self.options.pool_segments_max as usize, header.oldest);
        }
        self.gauge(&state);
        self.room.notify_all();
        let wants_spare = self.wants_spare(&state) && !state.pool.disk_full;
        if self.options.drive == Drive::Threads && (wants_spare || !state.pool.surplus.is_empty()) {
            self.pool_work.notify_one();
        }
        drop(state);
        for done in completions {
            done(Ok(()));
        }
        self.move_remnants();
        if self.options.drive == Drive::Manual {
            self.remove_surplus();
            let wants = self.wants_spare(&self.state.lock());
            if wants {
                self.add_spare();
            }
        }
    }

    /// Ends the life of the log: the owner hears of it first, so that it can abort before anyone acts on the news.
    pub(crate) fn poison(&self, error: WalError, batch: Vec<Pending>) {
        let queued = {
            let mut state = self.state.lock();
            state.poisoned = Some(error.clone());
            state.queue_bytes = 0;
            std::mem::take(&mut state.queue)
        };
        tracing::error!(%error, "the log is poisoned");
        (self.options.on_fatal)(&error);
        self.room.notify_all();
        self.work.notify_all();
        self.pool_work.notify_all();
        for done in batch.into_iter().chain(queued).filter_map(|pending| pending.done) {
            done(Err(error.clone()));
        }
    }

    /// Copies what little is still needed of the oldest segment to the tail. The old place stays until the copy is
    /// durable, since it is released by it: power may go at any moment, one of the two is always there. The copies take
    /// their turn in the queue, so whatever made other records of the segment dead is durable before it is freed.
    fn move_remnants(&self) {
        let (sequence, remnants) = {
            let mut state = self.state.lock();
            let Some((&sequence, segment)) = state.segments.first_key_value() else {
                return;
            };
            let few = segment.live > 0 && segment.live <= u64::from(segment.capacity) / REMNANT_PARTS;
            if !few || sequence >= state.durable.segment || state.moving == Some(sequence) || state.closing {
                return;
            }
            state.moving = Some(sequence);
            (sequence, remnants_of(&state, sequence))
        };
        // Only this thread frees segments, so the old places cannot be reused while they are read.
        let mut payloads = Vec::with_capacity(remnants.len());
        for remnant in &remnants {
            let payload = remnant
                .place
                .load(self.options.incarnation, remnant.group, remnant.index);
            payloads.push(payload);
        }
        let mut state = self.state.lock();
        for (remnant, payload) in remnants.into_iter().zip(payloads) {
            match payload {
                Some(payload) => {
                    if !self.move_one(&mut state, &remnant, payload) {
                        // No room: try again after the next batch.
                        state.moving = None;
                        break;
                    }
                }
                None => {
                    tracing::error!(group = %remnant.group, index = remnant.index, sequence, "bad bytes in the log");
                    self.metrics.corrupt_reads.fetch_add(1, Relaxed);
                    self.place_lost(&mut state, remnant.group, remnant.place.at);
                }
            }
        }
        state.wake = !state.queue.is_empty();
        self.gauge(&state);
    }

    /// Says `false` when there is no room.
    fn move_one(&self, state: &mut State, remnant: &Remnant, payload: Bytes) -> bool {
        if current_place(state, remnant) != Some(remnant.place.at) {
            return true;
        }
        let mut releases = Releases::default();
        releases.add(remnant.place.at, payload.len());
        let record = NewRecord {
            kind: remnant.kind,
            flags: FLAG_MOVED,
            group: remnant.group,
            index: remnant.index,
            term: remnant.term,
            payload: payload.clone(),
            payload_crc: crc(&payload),
        };
        let Some(at) = state.place(record, releases, None) else {
            return false;
        };
        self.metrics.moved_bytes.fetch_add(record_size(payload.len()), Relaxed);
        let Some(group) = state.groups.get_mut(&remnant.group) else {
            return true;
        };
        match remnant.kind {
            Kind::Vote => group.vote = Some(Small { at, payload }),
            Kind::Committed => group.committed = Some(Small { at, payload }),
            Kind::PurgeTo => {
                if let Some((_, place)) = &mut group.purged {
                    *place = at;
                }
            }
            Kind::LostPromise => {
                if let Some((_, small)) = &mut group.lost {
                    small.at = at;
                }
            }
            _ => {
                let len = payload.len() as u32;
                if let Some(slot) = group.slot_mut(remnant.index) {
                    slot.at = at;
                    slot.payload = Some(payload);
                }
                group.moved_below = group.moved_below.max(remnant.index.saturating_add(1));
                state.remember(remnant.group, remnant.index, at, len);
            }
        }
        true
    }

    /// Writes a last record whose mark covers everything before it, so that damage done to a closed log is told from a
    /// torn tail.
    pub(crate) fn finish(&self) {
        if self.place_mark() {
            self.step();
        }
    }

    /// Queues a mark, unless there is nothing new to cover or no room for it without opening a segment.
    pub(crate) fn place_mark(&self) -> bool {
        let mut state = self.state.lock();
        let size = record_size(0);
        if state.marked == state.tail || state.rotations(&[size], self.options.segment_bytes) > 0 {
            return false;
        }
        let payload = Bytes::new();
        let payload_crc = crc(&payload);
        let group = GroupKey(0);
        let record = NewRecord {
            kind: Kind::Mark,
            flags: 0,
            group,
            index: 0,
            term: 0,
            payload,
            payload_crc,
        };
        let placed = state.place(record, Releases::default(), None).is_some();
        state.marked = state.tail;
        placed
    }

    /// The life of the writer thread: born in open, dies when the log is closed and drained, or poisoned.
    pub(crate) fn run_writer(&self) {
        self.state.lock().writer = Some(thread::current().id());
        let ran = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            loop {
                {
                    let mut state = self.state.lock();
                    while !(state.closing || state.poisoned.is_some() || (state.wake && !state.queue.is_empty())) {
                        self.work.wait(&mut state);
                    }
                    if state.poisoned.is_some() {
                        return;
                    }
                    if state.closing && state.queue.is_empty() {
                        break;
                    }
                }
                self.step();
            }
            self.finish();
        }));
        if let Err(panic) = ran {
            // A completion panicked, or we did: nobody may wait for ever for a writer that is gone.
            let source = Arc::new(io::Error::other("the writer thread panicked"));
            self.poison(
                WalError::Fatal {
                    doing: "go on with",
                    segment: 0,
                    source,
                },
                Vec::new(),
            );
            panic::resume_unwind(panic);
        }
    }
}

/// Lists what is needed of this segment, in a stable order.
fn remnants_of(state: &State, sequence: u64) -> Vec<Remnant> {
    let Some(segment) = state.segments.get(&sequence) else {
        return Vec::new();
    };
    let mut remnants = Vec::new();
    let mut add = |kind, group, index, term, at: Position, payload: Option<&Bytes>, len: usize| {
        if at.segment == sequence {
            let place = Place {
                at,
                len: len as u32,
                file: Arc::clone(&segment.file),
                payload: payload.cloned(),
            };
            remnants.push(Remnant {
                kind,
                group,
                index,
                term,
                place,
            });
        }
    };
    for (key, group) in &state.groups {
        if let Some(small) = &group.vote {
            add(
                Kind::Vote,
                *key,
                0,
                0,
                small.at,
                Some(&small.payload),
                small.payload.len(),
            );
        }
        if let Some(small) = &group.committed {
            add(
                Kind::Committed,
                *key,
                0,
                0,
                small.at,
                Some(&small.payload),
                small.payload.len(),
            );
        }
        if let Some((mark, at)) = &group.purged {
            add(
                Kind::PurgeTo,
                *key,
                mark.index,
                mark.term,
                *at,
                Some(&mark.payload),
                mark.payload.len(),
            );
        }
        if let Some((at, small)) = &group.lost {
            let (index, term) = (u64::from(at.offset), at.segment);
            add(
                Kind::LostPromise,
                *key,
                index,
                term,
                small.at,
                Some(&small.payload),
                small.payload.len(),
            );
        }
        for (index, slot) in group.slots_before(sequence + 1) {
            add(
                Kind::Entry,
                *key,
                index,
                slot.term,
                slot.at,
                slot.payload.as_ref(),
                slot.len as usize,
            );
        }
    }
    remnants
}

/// Returns where the thing is now, if it still exists.
fn current_place(state: &State, remnant: &Remnant) -> Option<Position> {
    let group = state.groups.get(&remnant.group)?;
    match remnant.kind {
        Kind::Vote => group.vote.as_ref().map(|small| small.at),
        Kind::Committed => group.committed.as_ref().map(|small| small.at),
        Kind::PurgeTo => group.purged.as_ref().map(|(_, at)| *at),
        Kind::LostPromise => group.lost.as_ref().map(|(_, small)| small.at),
        _ => group.slot(remnant.index).map(|slot| slot.at),
    }
}
