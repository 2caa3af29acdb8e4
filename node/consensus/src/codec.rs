//! Our own bytes for what Raft keeps on disk and sends to peers. openraft's types are never serialised by anyone else.
//!
//! Everything is little-endian. Each form opens with a format byte; a reader that meets a newer one says so instead of
//! guessing. Integrity is the carrier's: the log checks every record, [`crate::snapshot`] its files, the transport its
//! frames. Still, no bytes make this code panic or allocate more than their own length.
//!
//! ```text
//! log id      next u64 (position counted from 1, 0 = none) | term u64 | node u64
//! vote        term u64 | node u64 | granted u8
//! entry       format u8 | kind u8 | leader node u64 | data            position and term are in the log's own record
//! vote, log id in the log: format u8 in front
//! membership  configs u16 { voters u16 { node u64 } } | nodes u16 { node u64 }
//! snapshot    magic "VIVSNAP" | format u8 | group | last log id | membership's log id | membership
//!             | length u64 | state | crc32c u32
//! group       kind u8 (0 ring, 1 shard) | shard u32 | generation u64
//! ```

pub(crate) mod wire;

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};
use model::{Generation, LogIndex, ShardId};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::vote::RaftVote;

use crate::payload::{GroupId, Payload};
use crate::raft::{Entry, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote, index_of, raft_index};

/// The one format there is.
const FORMAT: u8 = 1;
const SNAPSHOT_MAGIC: &[u8; 7] = b"VIVSNAP";
const CRC_BYTES: usize = 4;
/// Bytes in front of an entry's data.
pub(crate) const ENTRY_HEADER_BYTES: usize = 10;

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
const KIND_CONTROL: u8 = 3;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They end too early.
    #[error("ends inside {0}")]
    Truncated(&'static str),
    /// They go on after the end.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// Written by a newer program.
    #[error("format {found} is newer than {FORMAT}")]
    Format {
        /// The format byte.
        found: u8,
    },
    /// A tag that no version wrote.
    #[error("unknown {what} {found}")]
    Tag {
        /// What the tag chooses.
        what: &'static str,
        /// The tag.
        found: u8,
    },
    /// A list of voters that Raft cannot work with.
    #[error("membership names a voter that is not a node")]
    Membership,
    /// Not a snapshot file, or its checksum does not match.
    #[error("not a snapshot, or a damaged one")]
    Checksum,
    /// A snapshot of another group.
    #[error("snapshot of another group")]
    OtherGroup,
}

/// A vote as the log keeps it.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(FORMAT);
    put_vote(&mut out, vote);
    out.freeze()
}

/// The reverse of [`encode_vote`].
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.format()?;
    let vote = reader.vote()?;
    reader.finish()?;
    Ok(vote)
}

/// A log id as the log keeps it beside a commit or purge position, which to the log are only numbers.
pub(crate) fn encode_log_id(log_id: &LogId) -> Bytes {
    let mut out = BytesMut::with_capacity(25);
    out.put_u8(FORMAT);
    put_log_id(&mut out, Some(log_id));
    out.freeze()
}

/// The reverse of [`encode_log_id`].
pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.format()?;
    let log_id = reader.log_id()?.ok_or(CodecError::Truncated("log id"))?;
    reader.finish()?;
    Ok(log_id)
}

/// The bytes of one entry as the log keeps them.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let (kind, data) = entry_parts(entry);
    let mut out = BytesMut::with_capacity(ENTRY_HEADER_BYTES + data.len());
    out.put_u8(FORMAT);
    out.put_u8(kind);
    out.put_u64_le(entry.log_id.leader_id.node_id);
    out.put_slice(&data);
    out.freeze()
}

/// An entry from the log: `index` (from 1) and `term` come from its record. The data is not copied.
pub(crate) fn decode_entry(index: LogIndex, term: u64, bytes: &Bytes) -> Result<Entry, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.format()?;
    let kind = reader.u8("entry kind")?;
    let node_id = reader.u64("leader")?;
    let raft_index = raft_index(index).ok_or(CodecError::Truncated("position"))?;
    let log_id = LogId::new(LeaderId { term, node_id }, raft_index);
    entry_from_parts(log_id, kind, bytes.slice(ENTRY_HEADER_BYTES..))
}

/// Kind and data of an entry; shared between disk and wire.
pub(crate) fn entry_parts(entry: &Entry) -> (u8, Bytes) {
    match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(payload) if payload.is_control() => (KIND_CONTROL, payload.data().clone()),
        EntryPayload::Normal(payload) => (KIND_NORMAL, payload.data().clone()),
        EntryPayload::Membership(membership) => {
            let mut out = BytesMut::new();
            put_membership(&mut out, membership);
            (KIND_MEMBERSHIP, out.freeze())
        }
    }
}

/// The reverse of [`entry_parts`].
pub(crate) fn entry_from_parts(log_id: LogId, kind: u8, data: Bytes) -> Result<Entry, CodecError> {
    let payload = match kind {
        KIND_BLANK => {
            if !data.is_empty() {
                return Err(CodecError::Trailing(data.len()));
            }
            EntryPayload::Blank
        }
        KIND_NORMAL => EntryPayload::Normal(Payload::new(data)),
        KIND_CONTROL => EntryPayload::Normal(Payload::control(data)),
        KIND_MEMBERSHIP => {
            let mut reader = Reader::new(&data);
            let membership = reader.membership()?;
            reader.finish()?;
            EntryPayload::Membership(membership)
        }
        found => {
            return Err(CodecError::Tag {
                what: "entry kind",
                found,
            });
        }
    };
    Ok(Entry::new(log_id, payload))
}

/// A snapshot as file and as message: one checksum over all of it.
pub(crate) fn encode_snapshot(group: GroupId, meta: &SnapshotMeta, state: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(state.len() + 128);
    out.put_slice(SNAPSHOT_MAGIC);
    out.put_u8(FORMAT);
    put_group(&mut out, group);
    put_log_id(&mut out, meta.last_log_id.as_ref());
    put_log_id(&mut out, meta.last_membership.log_id().as_ref());
    put_membership(&mut out, meta.last_membership.membership());
    out.put_u64_le(state.len() as u64);
    out.put_slice(state);
    let crc = crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

/// The reverse of [`encode_snapshot`]; refuses one of another group.
pub(crate) fn decode_snapshot(group: GroupId, bytes: &Bytes) -> Result<(SnapshotMeta, Bytes), CodecError> {
    let body_len = bytes.len().checked_sub(CRC_BYTES).ok_or(CodecError::Checksum)?;
    let (body, crc) = bytes.split_at(body_len);
    if crc != crc32c(body).to_le_bytes() {
        return Err(CodecError::Checksum);
    }
    let mut reader = Reader::new(body);
    if reader.take(SNAPSHOT_MAGIC.len(), "magic")? != SNAPSHOT_MAGIC {
        return Err(CodecError::Checksum);
    }
    reader.format()?;
    if reader.group()? != group {
        return Err(CodecError::OtherGroup);
    }
    let last_log_id = reader.log_id()?;
    let membership_log_id = reader.log_id()?;
    let membership = reader.membership()?;
    let length = reader.u64("state length")?;
    let start = body.len() - reader.rest.len();
    let state = reader.take(
        usize::try_from(length).map_err(|_| CodecError::Truncated("state"))?,
        "state",
    )?;
    let state = bytes.slice(start..start + state.len());
    reader.finish()?;
    let last_membership = StoredMembership::new(membership_log_id, membership);
    Ok((
        SnapshotMeta {
            last_log_id,
            last_membership,
        },
        state,
    ))
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    // The crate computes every width as 64 bits; CRC-32C fills the lower half.
    (checksum(CrcAlgorithm::Crc32Iscsi, bytes) & 0xffff_ffff) as u32
}

pub(crate) fn put_group(out: &mut BytesMut, group: GroupId) {
    let (kind, shard, generation) = match group {
        GroupId::Ring => (0, 0, 0),
        GroupId::Shard(shard, generation) => (1, shard.0, generation.0),
    };
    out.put_u8(kind);
    out.put_u32_le(shard);
    out.put_u64_le(generation);
}

pub(crate) fn put_log_id(out: &mut BytesMut, log_id: Option<&LogId>) {
    let leader = log_id.map_or(LeaderId { term: 0, node_id: 0 }, |id| id.leader_id);
    out.put_u64_le(index_of(log_id).0);
    out.put_u64_le(leader.term);
    out.put_u64_le(leader.node_id);
}

pub(crate) fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
    out.put_u8(u8::from(vote.committed));
}

pub(crate) fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let count = |n: usize| u16::try_from(n).expect("a group has at most a few dozen nodes");
    let configs = membership.get_joint_config();
    out.put_u16_le(count(configs.len()));
    for voters in configs {
        out.put_u16_le(count(voters.len()));
        voters.iter().for_each(|node| out.put_u64_le(*node));
    }
    out.put_u16_le(count(membership.nodes().count()));
    membership.nodes().for_each(|(node, _)| out.put_u64_le(*node));
}

/// Reads what the `put_` functions wrote. Every length is checked against what is there before anything is allocated.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn format(&mut self) -> Result<(), CodecError> {
        match self.u8("format")? {
            FORMAT => Ok(()),
            found => Err(CodecError::Format { found }),
        }
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, CodecError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(CodecError::Tag { what, found }),
        }
    }

    pub(crate) fn group(&mut self) -> Result<GroupId, CodecError> {
        let kind = self.u8("group")?;
        let shard = ShardId(self.u32("group")?);
        let generation = Generation(self.u64("group")?);
        match kind {
            0 => Ok(GroupId::Ring),
            1 => Ok(GroupId::Shard(shard, generation)),
            found => Err(CodecError::Tag {
                what: "group kind",
                found,
            }),
        }
    }

    pub(crate) fn log_id(&mut self) -> Result<Option<LogId>, CodecError> {
        let index = LogIndex(self.u64("log id")?);
        let term = self.u64("log id")?;
        let node_id = self.u64("log id")?;
        Ok(raft_index(index).map(|index| LogId::new(LeaderId { term, node_id }, index)))
    }

    pub(crate) fn vote(&mut self) -> Result<Vote, CodecError> {
        let term = self.u64("vote")?;
        let node_id = self.u64("vote")?;
        let granted = self.flag("vote")?;
        Ok(Vote::from_leader_id(LeaderId { term, node_id }, granted))
    }

    pub(crate) fn membership(&mut self) -> Result<Membership, CodecError> {
        let mut configs = Vec::new();
        for _ in 0..self.u16("membership")? {
            configs.push(self.nodes()?);
        }
        let nodes = self.nodes()?;
        if configs.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|_| CodecError::Membership)
    }

    fn nodes(&mut self) -> Result<BTreeSet<u64>, CodecError> {
        let mut nodes = BTreeSet::new();
        for _ in 0..self.u16("membership")? {
            nodes.insert(self.u64("membership")?);
        }
        Ok(nodes)
    }

    pub(crate) fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing(self.rest.len()))
        }
    }
}

#[cfg(test)]
mod tests;
