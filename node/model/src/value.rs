//! Attribute values, owned and borrowed.

use crate::proto::{self, Field, Malformed};

/// One attribute value as OTLP's `AnyValue` knows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `AnyValue` without any member set.
    Empty,
    /// UTF-8 text.
    String(String),
    /// A truth value.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// A double.
    Double(f64),
    /// A list; members may be of different types.
    Array(Vec<Value>),
    /// A nested map, in the order it was sent.
    KvList(Vec<(String, Value)>),
    /// Opaque bytes.
    Bytes(Vec<u8>),
}

/// A scalar attribute value that borrows from the message it came in, or the raw bytes of anything nested.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// UTF-8 text. Checked where the message was scanned, not here.
    String(&'a [u8]),
    /// A truth value.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// A double.
    Double(f64),
    /// The bytes of the `AnyValue` message for everything else: empty, array, map, bytes.
    Raw(&'a [u8]),
}

/// `AnyValue` field numbers.
pub mod field {
    /// `string_value`
    pub const STRING: u32 = 1;
    /// `bool_value`
    pub const BOOL: u32 = 2;
    /// `int_value`
    pub const INT: u32 = 3;
    /// `double_value`
    pub const DOUBLE: u32 = 4;
    /// `array_value`
    pub const ARRAY: u32 = 5;
    /// `kvlist_value`
    pub const KV_LIST: u32 = 6;
    /// `bytes_value`
    pub const BYTES: u32 = 7;
    /// `string_value_strindex`, which traces do not use
    pub const STRING_INDEX: u32 = 8;
    /// `key_strindex` of `KeyValue`, likewise
    pub const KEY_INDEX: u32 = 3;
}

impl<'a> ValueRef<'a> {
    /// Reads an `AnyValue` message. Only a message that holds exactly one scalar member becomes a scalar; all others stay
    /// raw, so that nothing is lost.
    #[inline]
    pub fn from_any_value(message: &'a [u8]) -> Result<Self, Malformed> {
        // Nine values of ten are short texts.
        if let [0x0a, length @ 0..0x80, text @ ..] = message
            && text.len() == usize::from(*length)
        {
            return Ok(Self::String(text));
        }
        Self::from_other_value(message)
    }

    fn from_other_value(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = proto::Fields::new(message);
        let Some(first) = fields.next_field()? else {
            return Ok(Self::Raw(message));
        };
        let scalar = match (first.number, first.value) {
            (field::STRING, Field::Bytes(text)) => Self::String(text),
            (field::BOOL, Field::Varint(flag)) if flag <= 1 => Self::Bool(flag != 0),
            (field::INT, Field::Varint(bits)) => Self::Int(bits.cast_signed()),
            (field::DOUBLE, Field::Fixed64(bits)) => Self::Double(f64::from_bits(bits)),
            _ => Self::Raw(message),
        };
        Ok(if fields.is_empty() { scalar } else { Self::Raw(message) })
    }

    /// Writes the `AnyValue` message this value came from.
    pub fn write_any_value(self, out: &mut Vec<u8>) {
        match self {
            Self::String(text) => proto::write_bytes(out, field::STRING, text),
            Self::Bool(flag) => proto::write_varint_field(out, field::BOOL, u64::from(flag)),
            Self::Int(value) => proto::write_varint_field(out, field::INT, value.cast_unsigned()),
            Self::Double(value) => proto::write_fixed64(out, field::DOUBLE, value.to_bits()),
            Self::Raw(message) => out.extend_from_slice(message),
        }
    }
}

impl Value {
    /// How deep [`Value::from_any_value`] follows nested lists and maps. The door refuses deeper ones.
    pub const DEPTH_MAX: usize = 33;

    /// Decodes an `AnyValue` message whole. Text that is not UTF-8 is refused at the door, so it is replaced here.
    pub fn from_any_value(message: &[u8]) -> Result<Self, Malformed> {
        Self::decode(message, Self::DEPTH_MAX)
    }

    fn decode(message: &[u8], depth: usize) -> Result<Self, Malformed> {
        if depth == 0 {
            return Err(Malformed::TooDeep);
        }
        let mut value = Self::Empty;
        let mut fields = proto::Fields::new(message);
        while let Some(next) = fields.next_field()? {
            value = match (next.number, next.value) {
                (field::STRING, Field::Bytes(text)) => Self::String(String::from_utf8_lossy(text).into_owned()),
                (field::BOOL, Field::Varint(flag)) => Self::Bool(flag != 0),
                (field::INT, Field::Varint(bits)) => Self::Int(bits.cast_signed()),
                (field::DOUBLE, Field::Fixed64(bits)) => Self::Double(f64::from_bits(bits)),
                (field::ARRAY, Field::Bytes(list)) => Self::Array(decode_list(list, depth - 1)?),
                (field::KV_LIST, Field::Bytes(map)) => Self::KvList(decode_map(map, depth - 1)?),
                (field::BYTES, Field::Bytes(raw)) => Self::Bytes(raw.to_vec()),
                _ => value,
            };
        }
        Ok(value)
    }

    /// Writes the `AnyValue` message of this value.
    pub fn write_any_value(&self, out: &mut Vec<u8>) {
        match self {
            Self::Empty => {}
            Self::String(text) => proto::write_bytes(out, field::STRING, text.as_bytes()),
            Self::Bool(flag) => proto::write_varint_field(out, field::BOOL, u64::from(*flag)),
            Self::Int(value) => proto::write_varint_field(out, field::INT, value.cast_unsigned()),
            Self::Double(value) => proto::write_fixed64(out, field::DOUBLE, value.to_bits()),
            Self::Bytes(raw) => proto::write_bytes(out, field::BYTES, raw),
            Self::Array(list) => {
                let mut body = Vec::new();
                for item in list {
                    let mut message = Vec::new();
                    item.write_any_value(&mut message);
                    proto::write_bytes(&mut body, 1, &message);
                }
                proto::write_bytes(out, field::ARRAY, &body);
            }
            Self::KvList(map) => {
                let mut body = Vec::new();
                for (key, item) in map {
                    proto::write_bytes(&mut body, 1, &key_value(key.as_bytes(), item));
                }
                proto::write_bytes(out, field::KV_LIST, &body);
            }
        }
    }
}

/// A `KeyValue` message.
pub fn key_value(key: &[u8], value: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    value.write_any_value(&mut message);
    let mut pair = Vec::new();
    proto::write_bytes(&mut pair, 1, key);
    proto::write_bytes(&mut pair, 2, &message);
    pair
}

fn decode_list(message: &[u8], depth: usize) -> Result<Vec<Value>, Malformed> {
    let mut list = Vec::new();
    let mut fields = proto::Fields::new(message);
    while let Some(next) = fields.next_field()? {
        if let (1, Field::Bytes(item)) = (next.number, next.value) {
            list.push(Value::decode(item, depth)?);
        }
    }
    Ok(list)
}

fn decode_map(message: &[u8], depth: usize) -> Result<Vec<(String, Value)>, Malformed> {
    let mut map = Vec::new();
    let mut fields = proto::Fields::new(message);
    while let Some(next) = fields.next_field()? {
        if let (1, Field::Bytes(pair)) = (next.number, next.value) {
            let mut key = String::new();
            let mut value = Value::Empty;
            let mut members = proto::Fields::new(pair);
            while let Some(member) = members.next_field()? {
                match (member.number, member.value) {
                    (1, Field::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
                    (2, Field::Bytes(any)) => value = Value::decode(any, depth)?,
                    _ => {}
                }
            }
            map.push((key, value));
        }
    }
    Ok(map)
}
