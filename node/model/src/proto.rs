//! Protobuf's wire form, read without copying and written without a schema.
//!
//! Hand-written because the ingest path must not build one owned struct per span: walking the same bytes is nine times
//! cheaper than decoding them. Everything read here is bounds-checked; a bad length or a bad wire type is [`Malformed`].

/// Why bytes are not a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message ends inside a field.
    #[error("message ends inside a field")]
    Truncated,
    /// A varint longer than 10 bytes or beyond 64 bits.
    #[error("varint is longer than 64 bits")]
    Varint,
    /// Field number 0, or a wire type that proto3 does not have.
    #[error("invalid field number or wire type")]
    Tag,
    /// A known field arrived with the wrong wire type.
    #[error("field {0} has the wrong wire type")]
    WireType(u32),
    /// A string field holds bytes that are not UTF-8.
    #[error("string in field {0} is not valid UTF-8")]
    Utf8(u32),
    /// Messages nested deeper than accepted.
    #[error("values are nested too deeply")]
    TooDeep,
    /// More values in one message than accepted.
    #[error("too many values in one request")]
    TooMany,
}

/// The value of a field, still in its wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// One field: its number, its value, and the bytes of both together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The field number, never 0.
    pub number: u32,
    /// The value.
    pub value: Field<'a>,
    /// Tag and value as they stand in the message.
    pub raw: &'a [u8],
}

/// Walks the fields of one message in the order they were written.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Starts at the first field of `message`.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Whether every field has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field, or `None` at the end of the message.
    // Inlined by force: returned through memory, the result costs more than the parsing (a third of `wire`'s scan).
    #[inline(always)]
    pub fn next_field(&mut self) -> Result<Option<Entry<'a>>, Malformed> {
        let start = self.rest;
        if start.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed::Tag)?;
        if number == 0 || number > 0x1fff_ffff {
            return Err(Malformed::Tag);
        }
        let value = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed::Tag),
        };
        let raw = start.get(..start.len() - self.rest.len()).ok_or(Malformed::Truncated)?;
        Ok(Some(Entry { number, value, raw }))
    }

    /// The next field if it is length-delimited, has a one-byte tag, this one, and fewer than 128 bytes; else nothing is
    /// read. For messages that mostly consist of such fields.
    #[inline]
    pub fn next_short(&mut self, tag: u8) -> Option<Entry<'a>> {
        match self.rest {
            [first, length @ 0..0x80, after @ ..] if *first == tag => {
                let (bytes, rest) = after.split_at_checked(usize::from(*length))?;
                let raw = self.rest.get(..bytes.len() + 2)?;
                self.rest = rest;
                Some(Entry {
                    number: u32::from(tag >> 3),
                    value: Field::Bytes(bytes),
                    raw,
                })
            }
            _ => None,
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        if let [first, rest @ ..] = self.rest
            && *first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(*first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (position, byte) in self.rest.iter().take(10).enumerate() {
            if position == 9 && *byte > 1 {
                return Err(Malformed::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(position + 1..).ok_or(Malformed::Truncated)?;
                return Ok(value);
            }
        }
        Err(if self.rest.len() >= 10 {
            Malformed::Varint
        } else {
            Malformed::Truncated
        })
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }
}

impl<'a> Entry<'a> {
    /// The value as a length-delimited one.
    #[inline]
    pub fn bytes(&self) -> Result<&'a [u8], Malformed> {
        match self.value {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed::WireType(self.number)),
        }
    }

    /// The value as a varint.
    #[inline]
    pub fn varint(&self) -> Result<u64, Malformed> {
        match self.value {
            Field::Varint(value) => Ok(value),
            _ => Err(Malformed::WireType(self.number)),
        }
    }

    /// The value as a fixed 64-bit one.
    #[inline]
    pub fn fixed64(&self) -> Result<u64, Malformed> {
        match self.value {
            Field::Fixed64(value) => Ok(value),
            _ => Err(Malformed::WireType(self.number)),
        }
    }

    /// The value as a fixed 32-bit one.
    #[inline]
    pub fn fixed32(&self) -> Result<u32, Malformed> {
        match self.value {
            Field::Fixed32(value) => Ok(value),
            _ => Err(Malformed::WireType(self.number)),
        }
    }
}

/// Appends a varint.
#[inline]
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn write_tag(out: &mut Vec<u8>, number: u32, wire_type: u64) {
    write_varint(out, u64::from(number) << 3 | wire_type);
}

/// Appends a varint field.
#[inline]
pub fn write_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    write_tag(out, number, 0);
    write_varint(out, value);
}

/// Appends a length-delimited field: a string, bytes, or a message already encoded.
#[inline]
pub fn write_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    write_tag(out, number, 2);
    write_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a fixed 64-bit field.
#[inline]
pub fn write_fixed64(out: &mut Vec<u8>, number: u32, value: u64) {
    write_tag(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a fixed 32-bit field.
#[inline]
pub fn write_fixed32(out: &mut Vec<u8>, number: u32, value: u32) {
    write_tag(out, number, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Bytes that [`write_varint`] appends for `value`.
#[inline]
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_written() {
        let mut message = Vec::new();
        write_varint_field(&mut message, 1, 300);
        write_bytes(&mut message, 2, b"abc");
        write_fixed64(&mut message, 3, 7);
        write_fixed32(&mut message, 16, 9);
        write_varint_field(&mut message, 4, u64::MAX);
        let mut fields = Fields::new(&message);
        let mut seen = Vec::new();
        while let Some(entry) = fields.next_field().unwrap() {
            seen.push((entry.number, entry.value));
        }
        let expected = vec![
            (1, Field::Varint(300)),
            (2, Field::Bytes(b"abc")),
            (3, Field::Fixed64(7)),
            (16, Field::Fixed32(9)),
            (4, Field::Varint(u64::MAX)),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn bad_bytes_are_named() {
        let bad = |bytes: &[u8]| Fields::new(bytes).next_field().unwrap_err();
        assert_eq!(bad(&[0x08]), Malformed::Truncated);
        assert_eq!(bad(&[0x08, 0x80]), Malformed::Truncated);
        assert_eq!(bad(&[0x12, 0x05, 1]), Malformed::Truncated);
        assert_eq!(bad(&[0x00, 0x00]), Malformed::Tag);
        assert_eq!(bad(&[0x0b]), Malformed::Tag);
        assert_eq!(
            bad(&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Malformed::Varint
        );
    }

    #[test]
    fn varint_length_matches_what_is_written() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
        }
    }
}
