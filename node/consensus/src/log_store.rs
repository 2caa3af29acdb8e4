//! One group's part of the node's log, as openraft wants to see it.
//!
//! What always holds:
//! - An entry is readable when [`LogStore::append`] returns, and its callback runs after the sync, on the log's writer
//!   thread, in order. [`LogStore::save_vote`] returns after the sync.
//! - Votes, appends, truncations and purges go through one ordered stream, so no crash can keep a later one and lose an
//!   earlier one. That is why truncations and purges need not be waited for.
//! - Positions are counted from 1 in the log and from 0 in openraft; the conversion is in this file and in
//!   [`crate::codec`].
//!
//! An error of the log stops the group: openraft cannot go on without it. Space must therefore be refused earlier, which
//! is what [`crate::Group::propose`] does.

mod cache;

use std::fmt::{self, Debug};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use model::LogIndex;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use wal::{EntryRecord, GroupKey, Space, Wal, WalError};

pub(crate) use self::cache::EntryCache;
use crate::codec::{
    CodecError, ENTRY_HEADER_BYTES, decode_entry, decode_log_id, decode_vote, encode_entry, encode_log_id, encode_vote,
};
use crate::error::ConsensusError;
use crate::payload::GroupId;
use crate::raft::{Entry, LogId, Types, Vote, index_of, raft_index};

/// Most bytes of entries in one message to a follower, and in one step of applying. openraft counts entries only; with
/// 64 KiB entries its 300 would be 19 MB.
pub(crate) const READ_BYTES_MAX: usize = 2 << 20;

/// The log of one group. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    wal: Wal,
    group: GroupId,
    key: GroupKey,
    cache: Arc<EntryCache>,
    vote: Mutex<Option<Vote>>,
    /// The first error that openraft was told; `None` while all is well.
    failure: Mutex<Option<WalError>>,
}

impl LogStore {
    /// Opens the group's part of the log, which may be empty.
    ///
    /// Errors: [`crate::Kind::Corrupt`] when the group lost something it had promised; it must neither vote nor answer.
    pub(crate) fn open(wal: Wal, group: GroupId, cache: Arc<EntryCache>) -> Result<Self, ConsensusError> {
        let key = group_key(group)?;
        let state = wal.state(key);
        if state.lost_promise {
            return Err(ConsensusError::LostPromise { group });
        }
        let codec = |source| ConsensusError::Codec { group, source };
        let vote = state.vote.as_deref().map(decode_vote).transpose().map_err(codec)?;
        Ok(Self {
            shared: Arc::new(Shared {
                wal,
                group,
                key,
                cache,
                vote: Mutex::new(vote),
                failure: Mutex::new(None),
            }),
        })
    }

    /// Entries `from..end` (openraft positions) that are there, without holes: all of them, or the first ones up to
    /// about `bytes_max` but at least one.
    pub(crate) fn read(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let shared = &*self.shared;
        let state = shared.wal.state(shared.key);
        let (Some(first), Some((last, _))) = (state.first, state.last) else {
            return Ok(Vec::new());
        };
        let from = from.max(first - 1);
        let end = end.min(last);
        if from >= end {
            return Ok(Vec::new());
        }
        let (cached_from, cached) = shared.cache.tail(from, end, bytes_max);
        if cached_from == from {
            return Ok(cached);
        }
        // Older entries come from the log; what the cache has of the newer ones keeps its hints.
        let stored_end = cached_from.min(end);
        let mut entries = Vec::new();
        let mut bytes = 0;
        while from + (entries.len() as u64) < stored_end && (bytes < bytes_max || entries.is_empty()) {
            let next = from + entries.len() as u64;
            let records = shared
                .wal
                .read(
                    shared.key,
                    next + 1..stored_end + 1,
                    bytes_max.saturating_sub(bytes).clamp(1, READ_BYTES_MAX),
                )
                .map_err(|error| shared.failed(error))?;
            if records.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("entry {} is missing", next + 1),
                ));
            }
            for record in records {
                bytes += record.payload.len();
                let entry = decode_entry(LogIndex(record.index), record.term, &record.payload);
                entries.push(entry.map_err(invalid)?);
            }
        }
        for entry in cached {
            if entry.log_id.index != from + entries.len() as u64 || bytes >= bytes_max {
                break;
            }
            bytes += entry_bytes(&entry);
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Up to where entries have left the log.
    pub(crate) fn purged(&self) -> LogIndex {
        LogIndex(
            self.shared
                .wal
                .state(self.shared.key)
                .purged
                .map_or(0, |mark| mark.index),
        )
    }

    /// What went wrong, if the group was stopped by its log.
    pub(crate) fn failure(&self) -> Option<WalError> {
        self.shared.failure.lock().clone()
    }

    fn last_log_id(&self) -> io::Result<Option<LogId>> {
        let state = self.shared.wal.state(self.shared.key);
        let Some((last, _)) = state.last else {
            return state
                .purged
                .map(|mark| decode_log_id(&mark.payload))
                .transpose()
                .map_err(invalid);
        };
        Ok(self.read(last - 1, last, 1)?.first().map(|entry| entry.log_id))
    }
}

impl Shared {
    /// An error of the log on its way to openraft, which will stop the group and forget everything but the text.
    fn failed(&self, error: WalError) -> io::Error {
        self.failure.lock().get_or_insert_with(|| error.clone());
        io::Error::other(error)
    }
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore")
            .field("group", &self.shared.group)
            .finish_non_exhaustive()
    }
}

/// The log's number for a group: shard + 1 in the upper half, generation in the lower; the ring is 1.
pub(crate) fn group_key(group: GroupId) -> Result<GroupKey, ConsensusError> {
    match group {
        GroupId::Ring => Ok(GroupKey(1)),
        GroupId::Shard(shard, generation) => {
            let shard = shard
                .0
                .checked_add(1)
                .ok_or(ConsensusError::GroupOutOfRange { group })?;
            let low = u32::try_from(generation.0).map_err(|_| ConsensusError::GroupOutOfRange { group })?;
            Ok(GroupKey(u64::from(shard) << 32 | u64::from(low)))
        }
    }
}

/// The reverse of [`group_key`]; `None` for a number no group has.
pub(crate) fn group_of(key: GroupKey) -> Option<GroupId> {
    let low = key.0 & 0xffff_ffff;
    match (key.0 >> 32) as u32 {
        0 => (low == 1).then_some(GroupId::Ring),
        shard => Some(GroupId::Shard(model::ShardId(shard - 1), model::Generation(low))),
    }
}

fn invalid(error: CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// What an entry counts for in the bounds of cache and reads.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(payload) => ENTRY_HEADER_BYTES + payload.data().len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => ENTRY_HEADER_BYTES,
    }
}

/// Encodes an entry and lets its payload live in the encoded buffer, so that log and cache share one copy.
fn encode_shared(entry: Entry) -> (Entry, EntryRecord) {
    let payload = encode_entry(&entry);
    let record = EntryRecord {
        index: index_of(Some(&entry.log_id)).0,
        term: entry.log_id.leader_id.term,
        payload: payload.clone(),
    };
    let entry = match entry.payload {
        EntryPayload::Normal(data) => {
            let rehomed = data.rehomed(payload.slice(ENTRY_HEADER_BYTES..));
            Entry {
                log_id: entry.log_id,
                payload: EntryPayload::Normal(rehomed),
            }
        }
        _ => entry,
    };
    (entry, record)
}

/// Entries without which the node cannot go on or cannot make room.
pub(crate) fn space_for(entries: &[Entry]) -> Space {
    let reserved = entries.iter().all(|entry| match &entry.payload {
        EntryPayload::Normal(payload) => payload.is_control(),
        EntryPayload::Blank | EntryPayload::Membership(_) => true,
    });
    if reserved { Space::Reserved } else { Space::Ordinary }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, end) = bounds(&range);
        self.read(from, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.shared.vote.lock())
    }

    /// Nothing when the first entry asked for has left the log meanwhile: what is behind it does not follow what the reader,
    /// a replication to a member that is far behind, has sent before. Sent all the same, it would end the group there.
    async fn limited_get_log_entries(&mut self, from: u64, end: u64) -> io::Result<Vec<Entry>> {
        let mut entries = self.read(from, end, READ_BYTES_MAX)?;
        if entries.first().is_some_and(|first| first.log_id.index != from) {
            entries.clear();
        }
        Ok(entries)
    }

    /// In steps of [`READ_BYTES_MAX`]: a follower that catches up must not load a whole tail at once.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, end) = bounds(&range);
        let steps = stream::unfold(Some((self.clone(), from)), move |position| async move {
            let (store, from) = position?;
            match store.read(from, end, READ_BYTES_MAX) {
                Ok(entries) => {
                    let next = entries.last()?.log_id.index + 1;
                    let step: Vec<io::Result<Entry>> = entries.into_iter().map(Ok).collect();
                    Some((stream::iter(step), Some((store, next))))
                }
                Err(error) => Some((stream::iter(vec![Err(error)]), None)),
            }
        });
        Box::pin(steps.flatten())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.shared.wal.state(self.shared.key);
        let last_purged_log_id = state
            .purged
            .as_ref()
            .map(|mark| decode_log_id(&mark.payload))
            .transpose()
            .map_err(invalid)?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id: self.last_log_id()?,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    /// Cancel: the vote is in the log's queue and becomes durable or the log is poisoned.
    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        let completion = Box::new(move |result| {
            let _ = done.send(result);
        });
        self.shared
            .wal
            .save_vote(self.shared.key, encode_vote(vote), completion)
            .map_err(|error| self.shared.failed(error))?;
        *self.shared.vote.lock() = Some(*vote);
        durable
            .await
            .unwrap_or(Err(WalError::Closed))
            .map_err(|error| self.shared.failed(error))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.shared
            .wal
            .save_committed(self.shared.key, encode_log_id(&committed))
            .map_err(|error| self.shared.failed(error))
    }

    /// Never above the last entry: openraft would look for what is between.
    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let state = self.shared.wal.state(self.shared.key);
        let saved = state
            .committed
            .map(|bytes: Bytes| decode_log_id(&bytes))
            .transpose()
            .map_err(invalid)?;
        let last = self.last_log_id()?;
        Ok(saved.map(|saved| last.map_or(saved, |last| if saved.index > last.index { last } else { saved })))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (entries, records): (Vec<_>, Vec<_>) = entries.into_iter().map(encode_shared).unzip();
        let space = space_for(&entries);
        let first = entries.first().map(|entry| entry.log_id.index);
        // The cache first: the callback may run, and the entries be applied, before `append` returns.
        self.shared.cache.append(entries);
        let shared = self.shared.clone();
        let completion = Box::new(move |result: Result<(), WalError>| {
            callback.io_completed(result.map_err(|error| shared.failed(error)));
        });
        let accepted = self.shared.wal.append_with(self.shared.key, records, space, completion);
        if accepted.is_err() {
            self.shared
                .cache
                .truncate_after(first.and_then(|first| first.checked_sub(1)));
        }
        accepted.map_err(|error| self.shared.failed(error))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.shared.cache.truncate_after(last.map(|id| id.index));
        let index = last.map(|id| index_of(Some(&id)).0);
        self.shared
            .wal
            .truncate_after(self.shared.key, index, Box::new(|_| ()))
            .map_err(|error| self.shared.failed(error))
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.shared.cache.release(index_of(Some(&upto)));
        let (index, term) = (index_of(Some(&upto)).0, upto.leader_id.term);
        let purged = self
            .shared
            .wal
            .purge_to(self.shared.key, index, term, encode_log_id(&upto), Box::new(|_| ()));
        purged.map_err(|error| self.shared.failed(error))
    }
}

/// Positions of openraft for ours, exclusive end: entries above `after`.
pub(crate) fn first_above(after: LogIndex) -> u64 {
    raft_index(after).map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests;
