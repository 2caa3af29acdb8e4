//! What travels between nodes inside a gRPC message.
//!
//! ```text
//! format:u8 group: kind u8, shard u32, generation u64   head: length u32   parts: count u32, lengths u32…
//! bytes of the head, bytes of the parts   crc32c:u32 of everything before
//! ```
//! What always holds: lengths are checked against what has arrived before anything is allocated; no entry above
//! [`ENTRY_BYTES_MAX`] passes; what does not add up or has a wrong checksum ends the call and is never handed on. Decoding
//! does not copy: head and parts are slices of one buffer.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use consensus::{ENTRY_BYTES_MAX, GroupId, PeerMessage};
use crc_fast::{CrcAlgorithm, checksum};
use model::{Generation, ShardId};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

const FORMAT: u8 = 1;
const FIXED_BYTES: usize = 1 + 1 + 4 + 8 + 4 + 4;
const CRC_BYTES: usize = 4;
/// openraft sends at most 300 entries at once.
const PARTS_MAX: usize = 4_096;

/// One message of a group, on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) group: GroupId,
    pub(super) message: PeerMessage,
}

/// Why bytes are no parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParcelError {
    #[error("message has format {0}, this program reads {FORMAT}")]
    Format(u8),
    #[error("message is malformed")]
    Malformed,
    #[error("message was damaged on its way")]
    Checksum,
    #[error("entry of {bytes} bytes exceeds the maximum of {ENTRY_BYTES_MAX}")]
    EntryTooLarge { bytes: usize },
}

/// How long a part may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartLimit {
    /// Parts are entries.
    Entries,
    /// A part may be a snapshot; the message as a whole is bounded.
    Whole,
}

impl Parcel {
    fn encoded_len(&self) -> usize {
        FIXED_BYTES + 4 * self.message.parts.len() + self.message.bytes() + CRC_BYTES
    }

    fn encode(&self, out: &mut BytesMut) {
        let begin = out.len();
        out.reserve(self.encoded_len());
        out.put_u8(FORMAT);
        match self.group {
            GroupId::Ring => {
                out.put_u8(0);
                out.put_bytes(0, 12);
            }
            GroupId::Shard(shard, generation) => {
                out.put_u8(1);
                out.put_u32_le(shard.0);
                out.put_u64_le(generation.0);
            }
        }
        let PeerMessage { head, parts } = &self.message;
        // Messages are far below 4 GiB: the transport bounds them.
        out.put_u32_le(head.len() as u32);
        out.put_u32_le(parts.len() as u32);
        for part in parts {
            out.put_u32_le(part.len() as u32);
        }
        out.put_slice(head);
        for part in parts {
            out.put_slice(part);
        }
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &out[begin..]);
        out.put_u32_le(crc as u32);
    }

    fn decode(mut bytes: Bytes, limit: PartLimit) -> Result<Self, ParcelError> {
        let length = bytes.len().checked_sub(CRC_BYTES).ok_or(ParcelError::Malformed)?;
        if length < FIXED_BYTES {
            return Err(ParcelError::Malformed);
        }
        if bytes[0] != FORMAT {
            return Err(ParcelError::Format(bytes[0]));
        }
        let mut crc = bytes.split_off(length);
        if checksum(CrcAlgorithm::Crc32Iscsi, &bytes) != u64::from(crc.get_u32_le()) {
            return Err(ParcelError::Checksum);
        }
        bytes.advance(1);
        let (kind, shard, generation) = (bytes.get_u8(), bytes.get_u32_le(), bytes.get_u64_le());
        let group = match (kind, shard, generation) {
            (0, 0, 0) => GroupId::Ring,
            (1, shard, generation) => GroupId::Shard(ShardId(shard), Generation(generation)),
            _ => return Err(ParcelError::Malformed),
        };
        let (head, parts) = (bytes.get_u32_le() as usize, bytes.get_u32_le() as usize);
        if parts > PARTS_MAX || bytes.len() < parts * 4 {
            return Err(ParcelError::Malformed);
        }
        let lengths: Vec<usize> = (0..parts).map(|_| bytes.get_u32_le() as usize).collect();
        let total = lengths.iter().try_fold(head, |sum, length| sum.checked_add(*length));
        if total != Some(bytes.len()) {
            return Err(ParcelError::Malformed);
        }
        if limit == PartLimit::Entries
            && let Some(bytes) = lengths.iter().copied().find(|length| *length > ENTRY_BYTES_MAX)
        {
            return Err(ParcelError::EntryTooLarge { bytes });
        }
        let head = bytes.split_to(head);
        let parts = lengths.into_iter().map(|length| bytes.split_to(length)).collect();
        Ok(Self {
            group,
            message: PeerMessage { head, parts },
        })
    }
}

impl From<ParcelError> for Status {
    fn from(error: ParcelError) -> Self {
        let code = match error {
            ParcelError::Checksum => Code::DataLoss,
            ParcelError::Format(_) | ParcelError::Malformed => Code::InvalidArgument,
            ParcelError::EntryTooLarge { .. } => Code::OutOfRange,
        };
        Self::new(code, error.to_string())
    }
}

/// Parcels both ways.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parcels(pub(super) PartLimit);

#[derive(Debug)]
pub(super) struct ParcelEncoder;

#[derive(Debug)]
pub(super) struct ParcelDecoder(PartLimit);

impl Codec for Parcels {
    type Encode = Parcel;
    type Decode = Parcel;
    type Encoder = ParcelEncoder;
    type Decoder = ParcelDecoder;

    fn encoder(&mut self) -> ParcelEncoder {
        ParcelEncoder
    }

    fn decoder(&mut self) -> ParcelDecoder {
        ParcelDecoder(self.0)
    }
}

impl Encoder for ParcelEncoder {
    type Item = Parcel;
    type Error = Status;

    fn encode(&mut self, parcel: Parcel, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let mut bytes = BytesMut::new();
        parcel.encode(&mut bytes);
        out.put(bytes);
        Ok(())
    }
}

impl Decoder for ParcelDecoder {
    type Item = Parcel;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Parcel>, Status> {
        let bytes = src.copy_to_bytes(src.remaining());
        Ok(Some(Parcel::decode(bytes, self.0)?))
    }
}

/// Bytes both ways, for questions whose form is not the transport's business.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw;

#[derive(Debug)]
pub(super) struct RawCoder;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCoder;
    type Decoder = RawCoder;

    fn encoder(&mut self) -> RawCoder {
        RawCoder
    }

    fn decoder(&mut self) -> RawCoder {
        RawCoder
    }
}

impl Encoder for RawCoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(bytes);
        Ok(())
    }
}

impl Decoder for RawCoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

#[cfg(test)]
mod tests {
    //! Parcels to bytes and back, and bytes that are none.

    use super::*;

    fn parcel(parts: Vec<Bytes>) -> Parcel {
        Parcel {
            group: GroupId::Shard(ShardId(3), Generation(9)),
            message: PeerMessage {
                head: Bytes::from_static(b"head"),
                parts,
            },
        }
    }

    fn bytes_of(parcel: &Parcel) -> Bytes {
        let mut out = BytesMut::new();
        parcel.encode(&mut out);
        assert_eq!(out.len(), parcel.encoded_len());
        out.freeze()
    }

    #[test]
    fn parcels_come_back() {
        let ring = Parcel {
            group: GroupId::Ring,
            message: PeerMessage {
                head: Bytes::new(),
                parts: Vec::new(),
            },
        };
        for parcel in [ring, parcel(vec![Bytes::from_static(b"one"), Bytes::new()])] {
            assert_eq!(Parcel::decode(bytes_of(&parcel), PartLimit::Entries), Ok(parcel));
        }
    }

    #[test]
    fn an_entry_may_be_as_long_as_the_log_takes_and_no_longer() {
        let of = |bytes| bytes_of(&parcel(vec![Bytes::from(vec![7; bytes])]));
        for (bytes, is_taken) in [
            (ENTRY_BYTES_MAX - 1, true),
            (ENTRY_BYTES_MAX, true),
            (ENTRY_BYTES_MAX + 1, false),
        ] {
            let decoded = Parcel::decode(of(bytes), PartLimit::Entries);
            assert_eq!(decoded.is_ok(), is_taken, "{bytes}");
        }
        assert!(Parcel::decode(of(ENTRY_BYTES_MAX + 1), PartLimit::Whole).is_ok());
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_noticed() {
        let whole = bytes_of(&parcel(vec![Bytes::from_static(b"entry")]));
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Parcel::decode(bad.into(), PartLimit::Entries).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(
                Parcel::decode(whole.slice(..length), PartLimit::Entries).is_err(),
                "{length}"
            );
        }
    }
}
