//! Protobuf bytes into JSON, by table.
//!
//! In [`Dialect::Tempo`] the form is that of Go's jsonpb, which Grafana and tempo-cli parse: zero values left out, 64-bit integers as strings,
//! enumerations by name, bytes in base64, present but empty messages as `{}`, fields in the order of declaration. Fields the
//! table does not know are left out: tempo-cli refuses answers with fields it does not know.

use model::proto::{Entry, Fields, Malformed};

use super::{Dialect, base64};
use crate::schema::{Field, Kind, Message, Shape};

/// Deeper messages are refused; what came through the door is at most half as deep.
const DEPTH_MAX: usize = 100;

/// Appends the JSON of `bytes`, a protobuf `message`.
pub fn write(message: &'static Message, bytes: &[u8], dialect: Dialect, out: &mut Vec<u8>) -> Result<(), Malformed> {
    Writer { dialect, out }.message(message, bytes, DEPTH_MAX)
}

struct Writer<'o> {
    dialect: Dialect,
    out: &'o mut Vec<u8>,
}

impl Writer<'_> {
    fn message(&mut self, message: &'static Message, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed::TooDeep)?;
        let present = Present::of(message, bytes)?;
        self.out.push(b'{');
        let mut is_first = true;
        for (place, field) in message.fields.iter().enumerate() {
            if !present.has(place, field) {
                continue;
            }
            let before = self.out.len();
            if !is_first {
                self.out.push(b',');
            }
            quote(field.json.as_bytes(), self.out);
            self.out.push(b':');
            if self.field(field, bytes, depth)? {
                is_first = false;
            } else {
                self.out.truncate(before);
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    /// Writes the value of a field; false when it turned out to be zero and is left out.
    fn field(&mut self, field: &'static Field, bytes: &[u8], depth: usize) -> Result<bool, Malformed> {
        match field.shape {
            Shape::Repeated => self.list(field, bytes, depth).map(|()| true),
            Shape::Map => self.map(field, bytes, depth).map(|()| true),
            Shape::Singular | Shape::Optional | Shape::Oneof => self.single(field, bytes, depth),
        }
    }

    fn single(&mut self, field: &'static Field, bytes: &[u8], depth: usize) -> Result<bool, Malformed> {
        let (mut last, mut count) = (None, 0);
        each(field, bytes, |entry| {
            last = Some(entry);
            count += 1;
            Ok(())
        })?;
        let Some(last) = last else { return Ok(false) };
        if let (Kind::Message(message), 2..) = (field.kind, count) {
            // A message given in pieces is their concatenation.
            let mut whole = Vec::new();
            each(field, bytes, |entry| {
                whole.extend_from_slice(entry.bytes()?);
                Ok(())
            })?;
            self.message(message, &whole, depth)?;
            return Ok(true);
        }
        if field.shape == Shape::Singular && is_zero(field.kind, last)? {
            return Ok(false);
        }
        self.value(field.kind, last, depth)?;
        Ok(true)
    }

    fn list(&mut self, field: &'static Field, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
        self.out.push(b'[');
        let mut is_first = true;
        each(field, bytes, |entry| {
            if !std::mem::take(&mut is_first) {
                self.out.push(b',');
            }
            self.value(field.kind, entry, depth)
        })?;
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, field: &'static Field, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
        let Kind::Message(Message {
            fields: [key_field, value_field],
            ..
        }) = field.kind
        else {
            return Err(Malformed::WireType(field.number));
        };
        self.out.push(b'{');
        let mut is_first = true;
        each(field, bytes, |entry| {
            if !std::mem::take(&mut is_first) {
                self.out.push(b',');
            }
            let (mut key, mut value) = (&[][..], None);
            let mut members = Fields::new(entry.bytes()?);
            while let Some(member) = members.next_field()? {
                match member.number {
                    n if n == key_field.number => key = member.bytes()?,
                    n if n == value_field.number => value = Some(member),
                    _ => {}
                }
            }
            quote(key, self.out);
            self.out.push(b':');
            match value {
                Some(value) => self.value(value_field.kind, value, depth),
                None => self.absent(value_field.kind),
            }
        })?;
        self.out.push(b'}');
        Ok(())
    }

    /// The zero of a map's value, which protobuf leaves out and JSON cannot.
    fn absent(&mut self, kind: Kind) -> Result<(), Malformed> {
        let zero: &[u8] = match kind {
            Kind::Message(_) => b"{}",
            Kind::Text | Kind::Bytes | Kind::Id => b"\"\"",
            Kind::Int64 | Kind::Uint64 | Kind::Fixed64 => b"\"0\"",
            Kind::Bool => b"false",
            Kind::Double | Kind::Int32 | Kind::Uint32 | Kind::Fixed32 | Kind::Enum(_) => b"0",
        };
        self.out.extend_from_slice(zero);
        Ok(())
    }

    fn value(&mut self, kind: Kind, entry: Entry<'_>, depth: usize) -> Result<(), Malformed> {
        match kind {
            Kind::Message(message) => return self.message(message, entry.bytes()?, depth),
            Kind::Text => quote(entry.bytes()?, self.out),
            Kind::Id if self.dialect == Dialect::Otlp => self.hex(entry.bytes()?),
            Kind::Bytes | Kind::Id => {
                self.out.push(b'"');
                base64::encode(entry.bytes()?, self.out);
                self.out.push(b'"');
            }
            Kind::Bool => self.plain(entry.varint()? != 0),
            Kind::Int32 => self.plain(entry.varint()? as u32 as i32),
            Kind::Int64 => self.quoted(entry.varint()?.cast_signed()),
            Kind::Uint64 => self.quoted(entry.varint()?),
            Kind::Fixed64 => self.quoted(entry.fixed64()?),
            // A 32-bit integer on the wire may have more bits; protobuf keeps the lower ones.
            Kind::Uint32 => self.plain(entry.varint()? as u32),
            Kind::Fixed32 => self.plain(entry.fixed32()?),
            Kind::Double => self.double(f64::from_bits(entry.fixed64()?)),
            Kind::Enum(names) => {
                let value = entry.varint()? as u32 as i32;
                match names.iter().find(|(known, _)| *known == value) {
                    Some((_, name)) if self.dialect == Dialect::Tempo => quote(name.as_bytes(), self.out),
                    _ => self.plain(value),
                }
            }
        }
        Ok(())
    }

    fn plain(&mut self, value: impl std::fmt::Display) {
        self.out.extend_from_slice(value.to_string().as_bytes());
    }

    fn quoted(&mut self, value: impl std::fmt::Display) {
        self.out.push(b'"');
        self.plain(value);
        self.out.push(b'"');
    }

    fn hex(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                self.out.push(b"0123456789abcdef"[usize::from(nibble)]);
            }
        }
        self.out.push(b'"');
    }

    fn double(&mut self, value: f64) {
        if value.is_nan() {
            self.out.extend_from_slice(b"\"NaN\"");
        } else if value.is_infinite() {
            self.out
                .extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
        } else if value.abs() < 1e15 && value.fract() == 0.0 {
            self.plain(value);
        } else {
            // Debug writes an exponent where Display would write hundreds of zeros.
            self.out.extend_from_slice(format!("{value:?}").as_bytes());
        }
    }
}

/// Which fields of a message occur; of a oneof only the member that came last.
struct Present {
    fields: u64,
    oneof: Option<usize>,
}

impl Present {
    fn of(message: &'static Message, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut present = Self { fields: 0, oneof: None };
        let mut fields = Fields::new(bytes);
        while let Some(entry) = fields.next_field()? {
            let known = message
                .fields
                .iter()
                .enumerate()
                .find(|(_, field)| field.number == entry.number);
            if let Some((place, field)) = known {
                present.fields |= 1 << place;
                if field.shape == Shape::Oneof {
                    present.oneof = Some(place);
                }
            }
        }
        Ok(present)
    }

    fn has(&self, place: usize, field: &Field) -> bool {
        self.fields & (1 << place) != 0 && (field.shape != Shape::Oneof || self.oneof == Some(place))
    }
}

fn each<'b>(
    field: &Field,
    bytes: &'b [u8],
    mut visit: impl FnMut(Entry<'b>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut fields = Fields::new(bytes);
    while let Some(entry) = fields.next_field()? {
        if entry.number == field.number {
            visit(entry)?;
        }
    }
    Ok(())
}

fn is_zero(kind: Kind, entry: Entry<'_>) -> Result<bool, Malformed> {
    Ok(match kind {
        Kind::Message(_) => false,
        Kind::Text | Kind::Bytes | Kind::Id => entry.bytes()?.is_empty(),
        Kind::Bool | Kind::Int64 | Kind::Uint64 => entry.varint()? == 0,
        Kind::Int32 | Kind::Uint32 | Kind::Enum(_) => entry.varint()? as u32 == 0,
        Kind::Fixed64 | Kind::Double => entry.fixed64()? == 0,
        Kind::Fixed32 => entry.fixed32()? == 0,
    })
}

/// Appends a JSON string. Text was checked at the door; what is not UTF-8 all the same is replaced, never written raw.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    let checked = if text.is_ascii() {
        std::borrow::Cow::Borrowed(text)
    } else {
        lossy(text)
    };
    out.push(b'"');
    let mut rest: &[u8] = &checked;
    while let Some(special) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        out.extend_from_slice(&rest[..special]);
        match rest[special] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = &rest[special + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn lossy(text: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    match String::from_utf8_lossy(text) {
        std::borrow::Cow::Borrowed(_) => std::borrow::Cow::Borrowed(text),
        std::borrow::Cow::Owned(replaced) => std::borrow::Cow::Owned(replaced.into_bytes()),
    }
}
