//! The header of a sub-batch, and the small reader that it and the entry are read with.

use model::TenantId;

use super::{BatchHash, FORMAT};
use crate::error::FrameReason;

/// What a sub-batch is, readable without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubBatchHeader {
    /// Whose spans they are.
    pub tenant: TenantId,
    /// Recognises a retry.
    pub hash: BatchHash,
    /// Spans in the body.
    pub span_count: u32,
    /// Earliest start as sent, which may be zero.
    pub start_min_unix_nanos: u64,
    /// Latest start as sent.
    pub start_max_unix_nanos: u64,
    /// Length of the body, uncompressed.
    pub body_bytes: u32,
}

impl SubBatchHeader {
    pub(super) fn encoded_len(&self) -> usize {
        1 + self.tenant.as_str().len() + 16 + 4 + 8 + 8 + 4
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let tenant = self.tenant.as_str().as_bytes();
        // A tenant name has at most 150 bytes: `TenantId` checked it.
        out.push(tenant.len() as u8);
        out.extend_from_slice(tenant);
        out.extend_from_slice(&self.hash.0.to_le_bytes());
        out.extend_from_slice(&self.span_count.to_le_bytes());
        out.extend_from_slice(&self.start_min_unix_nanos.to_le_bytes());
        out.extend_from_slice(&self.start_max_unix_nanos.to_le_bytes());
        out.extend_from_slice(&self.body_bytes.to_le_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, FrameReason> {
        let [length] = reader.array()?;
        let name = std::str::from_utf8(reader.take(usize::from(length))?).map_err(|_| FrameReason::Tenant)?;
        Ok(Self {
            tenant: TenantId::new(name).map_err(|_| FrameReason::Tenant)?,
            hash: BatchHash(u128::from_le_bytes(reader.array()?)),
            span_count: u32::from_le_bytes(reader.array()?),
            start_min_unix_nanos: u64::from_le_bytes(reader.array()?),
            start_max_unix_nanos: u64::from_le_bytes(reader.array()?),
            body_bytes: u32::from_le_bytes(reader.array()?),
        })
    }
}

/// Takes a frame apart from the front.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The two bytes every frame starts with.
    pub(super) fn tag(&mut self, tag: u8) -> Result<(), FrameReason> {
        let [found, format] = self.array()?;
        if found != tag {
            return Err(FrameReason::Tag);
        }
        if format != FORMAT {
            return Err(FrameReason::Format(format));
        }
        Ok(())
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], FrameReason> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(FrameReason::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameReason> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(FrameReason::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// A varint of at most 32 bits: everything counted in a body fits.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u32, FrameReason> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let (byte, rest) = self.rest.split_first().ok_or(FrameReason::Truncated)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| FrameReason::Count);
            }
        }
        Err(FrameReason::Count)
    }

    #[inline]
    pub(super) fn sized(&mut self) -> Result<&'a [u8], FrameReason> {
        let length = self.varint()?;
        self.take(length as usize)
    }
}
