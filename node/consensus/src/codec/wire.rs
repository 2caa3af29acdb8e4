//! The messages peers exchange, as bytes.
//!
//! A [`PeerMessage`] is a small head and the data of the entries as separate buffers, so that a transport that can
//! gather buffers copies each entry once. Heads open with a format byte and a kind byte.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::TransferLeaderError;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::{CodecError, FORMAT, Reader, entry_from_parts, entry_parts, put_log_id, put_vote};
use crate::raft::{Types, Vote};

/// One message between two members of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerMessage {
    /// What it is.
    pub head: Bytes,
    /// The data of the entries it carries, or a snapshot; empty for most kinds.
    pub parts: Vec<Bytes>,
}

impl PeerMessage {
    /// How much memory the message takes, roughly.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.parts.iter().map(Bytes::len).sum::<usize>()
    }

    fn head(head: BytesMut) -> Self {
        Self {
            head: head.freeze(),
            parts: Vec::new(),
        }
    }
}

/// What one member asks of another.
#[derive(Debug)]
pub(crate) enum Request {
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Append(AppendEntriesRequest<Types>),
    /// The bytes are those of [`super::encode_snapshot`].
    Snapshot {
        vote: Vote,
        snapshot: Bytes,
    },
    TransferLeader(TransferLeaderRequest<Types>),
}

const VOTE: u8 = 1;
const PRE_VOTE: u8 = 2;
const APPEND: u8 = 3;
const SNAPSHOT: u8 = 4;
const TRANSFER: u8 = 5;

impl Request {
    pub(crate) fn encode(&self) -> PeerMessage {
        match self {
            Self::Vote(request) => encode_vote_request(VOTE, request),
            Self::PreVote(request) => encode_vote_request(PRE_VOTE, request),
            Self::Append(request) => encode_append(request),
            Self::Snapshot { vote, snapshot } => {
                let mut head = start(SNAPSHOT, 32);
                put_vote(&mut head, vote);
                PeerMessage {
                    head: head.freeze(),
                    parts: vec![snapshot.clone()],
                }
            }
            Self::TransferLeader(request) => {
                let mut head = start(TRANSFER, 64);
                put_vote(&mut head, request.from_leader());
                head.put_u64_le(*request.to_node_id());
                put_log_id(&mut head, request.last_log_id());
                PeerMessage::head(head)
            }
        }
    }

    pub(crate) fn decode(message: &PeerMessage) -> Result<Self, CodecError> {
        let mut reader = Reader::new(&message.head);
        reader.format()?;
        let request = match reader.u8("request")? {
            VOTE => Self::Vote(read_vote_request(&mut reader)?),
            PRE_VOTE => Self::PreVote(read_vote_request(&mut reader)?),
            APPEND => Self::Append(read_append(&mut reader, &message.parts)?),
            SNAPSHOT => {
                let vote = reader.vote()?;
                let snapshot = message.parts.first().ok_or(CodecError::Truncated("snapshot"))?.clone();
                Self::Snapshot { vote, snapshot }
            }
            TRANSFER => {
                let from = reader.vote()?;
                let to = reader.u64("target")?;
                Self::TransferLeader(TransferLeaderRequest::new(from, to, reader.log_id()?))
            }
            found => return Err(CodecError::Tag { what: "request", found }),
        };
        reader.finish()?;
        Ok(request)
    }
}

fn start(kind: u8, capacity: usize) -> BytesMut {
    let mut head = BytesMut::with_capacity(capacity);
    head.put_u8(FORMAT);
    head.put_u8(kind);
    head
}

fn encode_vote_request(kind: u8, request: &VoteRequest<Types>) -> PeerMessage {
    let mut head = start(kind, 64);
    put_vote(&mut head, &request.vote);
    put_log_id(&mut head, request.last_log_id.as_ref());
    head.put_u8(u8::from(request.leadership_transfer));
    PeerMessage::head(head)
}

fn read_vote_request(reader: &mut Reader<'_>) -> Result<VoteRequest<Types>, CodecError> {
    let mut request = VoteRequest::new(reader.vote()?, reader.log_id()?);
    request.leadership_transfer = reader.flag("transfer")?;
    Ok(request)
}

fn encode_append(request: &AppendEntriesRequest<Types>) -> PeerMessage {
    let mut head = start(APPEND, 80 + request.entries.len() * 25);
    put_vote(&mut head, &request.vote);
    put_log_id(&mut head, request.prev_log_id.as_ref());
    put_log_id(&mut head, request.leader_commit.as_ref());
    head.put_u32_le(u32::try_from(request.entries.len()).expect("openraft sends at most 300 entries at once"));
    let mut parts = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        let (kind, data) = entry_parts(entry);
        head.put_u8(kind);
        put_log_id(&mut head, Some(&entry.log_id));
        parts.push(data);
    }
    PeerMessage {
        head: head.freeze(),
        parts,
    }
}

fn read_append(reader: &mut Reader<'_>, parts: &[Bytes]) -> Result<AppendEntriesRequest<Types>, CodecError> {
    let vote = reader.vote()?;
    let prev_log_id = reader.log_id()?;
    let leader_commit = reader.log_id()?;
    let count = reader.u32("entries")? as usize;
    if count != parts.len() {
        return Err(CodecError::Truncated("entries"));
    }
    let mut entries = Vec::with_capacity(count);
    for data in parts {
        let kind = reader.u8("entry kind")?;
        let log_id = reader.log_id()?.ok_or(CodecError::Truncated("log id"))?;
        entries.push(entry_from_parts(log_id, kind, data.clone())?);
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

pub(crate) fn encode_vote_response(response: &VoteResponse<Types>) -> PeerMessage {
    let mut head = start(VOTE, 64);
    put_vote(&mut head, &response.vote);
    head.put_u8(u8::from(response.vote_granted));
    put_log_id(&mut head, response.last_log_id.as_ref());
    PeerMessage::head(head)
}

pub(crate) fn decode_vote_response(message: &PeerMessage) -> Result<VoteResponse<Types>, CodecError> {
    let mut reader = open(message, VOTE)?;
    let vote = reader.vote()?;
    let granted = reader.flag("granted")?;
    let last_log_id = reader.log_id()?;
    reader.finish()?;
    Ok(VoteResponse::new(vote, last_log_id, granted))
}

pub(crate) fn encode_append_response(response: &StreamAppendResult<Types>) -> PeerMessage {
    let mut head = start(APPEND, 32);
    match response {
        Ok(matched) => {
            head.put_u8(0);
            put_log_id(&mut head, matched.as_ref());
        }
        Err(StreamAppendError::Conflict(at)) => {
            head.put_u8(1);
            put_log_id(&mut head, Some(at));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            head.put_u8(2);
            put_vote(&mut head, vote);
        }
    }
    PeerMessage::head(head)
}

pub(crate) fn decode_append_response(message: &PeerMessage) -> Result<StreamAppendResult<Types>, CodecError> {
    let mut reader = open(message, APPEND)?;
    let result = match reader.u8("outcome")? {
        0 => Ok(reader.log_id()?),
        1 => Err(StreamAppendError::Conflict(
            reader.log_id()?.ok_or(CodecError::Truncated("log id"))?,
        )),
        2 => Err(StreamAppendError::HigherVote(reader.vote()?)),
        found => return Err(CodecError::Tag { what: "outcome", found }),
    };
    reader.finish()?;
    Ok(result)
}

pub(crate) fn encode_snapshot_response(response: &SnapshotResponse<Types>) -> PeerMessage {
    let mut head = start(SNAPSHOT, 32);
    put_vote(&mut head, &response.vote);
    PeerMessage::head(head)
}

pub(crate) fn decode_snapshot_response(message: &PeerMessage) -> Result<SnapshotResponse<Types>, CodecError> {
    let mut reader = open(message, SNAPSHOT)?;
    let vote = reader.vote()?;
    reader.finish()?;
    Ok(SnapshotResponse::new(vote))
}

pub(crate) fn encode_transfer_response(response: &TransferLeaderResponse<Types>) -> PeerMessage {
    let mut head = start(TRANSFER, 64);
    match response {
        Ok(()) => head.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            head.put_u8(1);
            put_vote(&mut head, expected);
            put_vote(&mut head, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            head.put_u8(2);
            put_log_id(&mut head, expected.as_ref());
            put_log_id(&mut head, actual.as_ref());
        }
    }
    PeerMessage::head(head)
}

pub(crate) fn decode_transfer_response(message: &PeerMessage) -> Result<TransferLeaderResponse<Types>, CodecError> {
    let mut reader = open(message, TRANSFER)?;
    let response = match reader.u8("outcome")? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged {
            expected: reader.vote()?,
            actual: reader.vote()?,
        }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: reader.log_id()?,
            actual: reader.log_id()?,
        }),
        found => return Err(CodecError::Tag { what: "outcome", found }),
    };
    reader.finish()?;
    Ok(response)
}

fn open(message: &PeerMessage, kind: u8) -> Result<Reader<'_>, CodecError> {
    let mut reader = Reader::new(&message.head);
    reader.format()?;
    match reader.u8("response")? {
        found if found == kind => Ok(reader),
        found => Err(CodecError::Tag {
            what: "response",
            found,
        }),
    }
}
