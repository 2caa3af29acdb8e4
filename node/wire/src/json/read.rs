//! JSON into protobuf bytes, by table.
//!
//! The rules are those of OTLP/JSON, which are protobuf's with hexadecimal ids: fields nobody knows are ignored, `null` means
//! absent, 64-bit integers may be strings or numbers, enumerations numbers or names, doubles also `"NaN"`, `"Infinity"` and
//! `"-Infinity"`. The same field twice, or two members of one value, is an error: keeping either would lose the other.

use std::borrow::Cow;

use model::proto;

use super::lexer::Lexer;
use super::{Dialect, base64};
use crate::error::{Error, JsonReason};
use crate::schema::{Field, Kind, Message, Shape};

/// Reads a JSON text as `message` and gives its protobuf bytes, which are not longer than the text plus a constant.
pub fn read(message: &'static Message, text: &[u8], dialect: Dialect) -> Result<Vec<u8>, Error> {
    let text = std::str::from_utf8(text).map_err(|error| Error::Json {
        position: error.valid_up_to(),
        reason: JsonReason::Utf8,
    })?;
    let mut reader = Reader {
        lexer: Lexer::new(text),
        dialect,
        out: Vec::with_capacity(text.len() / 2),
    };
    match reader.document(message) {
        Ok(()) => Ok(reader.out),
        Err(reason) => Err(Error::Json {
            position: reader.lexer.at,
            reason,
        }),
    }
}

struct Reader<'t> {
    lexer: Lexer<'t>,
    dialect: Dialect,
    out: Vec<u8>,
}

impl<'t> Reader<'t> {
    fn document(&mut self, message: &'static Message) -> Result<(), JsonReason> {
        self.object(message)?;
        if self.lexer.is_finished() {
            Ok(())
        } else {
            Err(JsonReason::Trailing)
        }
    }

    fn object(&mut self, message: &'static Message) -> Result<(), JsonReason> {
        if self.lexer.peek()? != b'{' {
            return Err(JsonReason::Type(message.name, "an object"));
        }
        self.lexer.open(b'{')?;
        let mut seen = 0u64;
        let mut is_first = true;
        while self.lexer.next_member(b'}', is_first)? {
            is_first = false;
            let key = self.lexer.key()?;
            let Some((place, field)) = message
                .fields
                .iter()
                .enumerate()
                .find(|(_, f)| f.json.as_bytes() == &*key)
            else {
                self.lexer.skip()?;
                continue;
            };
            if self.lexer.null()? {
                continue;
            }
            let bit = if field.shape == Shape::Oneof {
                1 << 63
            } else {
                1 << place
            };
            if seen & bit != 0 {
                return Err(JsonReason::Duplicate(field.json));
            }
            seen |= bit;
            self.field(field)?;
        }
        Ok(())
    }

    fn field(&mut self, field: &'static Field) -> Result<(), JsonReason> {
        match field.shape {
            Shape::Singular => self.value(field, false),
            Shape::Optional | Shape::Oneof => self.value(field, true),
            Shape::Repeated => self.list(field),
            Shape::Map => self.map(field),
        }
    }

    fn list(&mut self, field: &'static Field) -> Result<(), JsonReason> {
        if self.lexer.peek()? != b'[' {
            return Err(JsonReason::Type(field.json, "a list"));
        }
        self.lexer.open(b'[')?;
        let mut is_first = true;
        while self.lexer.next_member(b']', is_first)? {
            is_first = false;
            self.value(field, true)?;
        }
        Ok(())
    }

    fn map(&mut self, field: &'static Field) -> Result<(), JsonReason> {
        let Kind::Message(Message {
            fields: [key_field, value_field],
            ..
        }) = field.kind
        else {
            return Err(JsonReason::Type(field.json, "a map"));
        };
        if self.lexer.peek()? != b'{' {
            return Err(JsonReason::Type(field.json, "an object"));
        }
        self.lexer.open(b'{')?;
        let mut is_first = true;
        while self.lexer.next_member(b'}', is_first)? {
            is_first = false;
            let key = self.lexer.key()?;
            let start = self.begin(field.number);
            proto::write_bytes(&mut self.out, key_field.number, &key);
            self.value(value_field, true)?;
            self.end(start);
        }
        Ok(())
    }

    /// Writes the field; zero is left out unless `keep_zero`.
    fn value(&mut self, field: &'static Field, keep_zero: bool) -> Result<(), JsonReason> {
        let number = field.number;
        match field.kind {
            Kind::Message(message) => {
                let start = self.begin(number);
                self.object(message)?;
                self.end(start);
            }
            Kind::Text => {
                let text = self.text(field)?;
                if keep_zero || !text.is_empty() {
                    proto::write_bytes(&mut self.out, number, &text);
                }
            }
            Kind::Bytes | Kind::Id => {
                let bytes = self.bytes(field)?;
                if keep_zero || !bytes.is_empty() {
                    proto::write_bytes(&mut self.out, number, &bytes);
                }
            }
            Kind::Bool => {
                let value = self.truth(field)?;
                if keep_zero || value {
                    proto::write_varint_field(&mut self.out, number, u64::from(value));
                }
            }
            Kind::Double => {
                let value = self.double(field)?;
                if keep_zero || value.to_bits() != 0 {
                    proto::write_fixed64(&mut self.out, number, value.to_bits());
                }
            }
            Kind::Enum(names) => {
                let value = self.enumeration(field, names)?;
                if keep_zero || value != 0 {
                    proto::write_varint_field(&mut self.out, number, i64::from(value).cast_unsigned());
                }
            }
            Kind::Int32 => {
                let value: i32 = self.integer(field)?;
                if keep_zero || value != 0 {
                    proto::write_varint_field(&mut self.out, number, i64::from(value).cast_unsigned());
                }
            }
            Kind::Int64 => {
                let value: i64 = self.integer(field)?;
                if keep_zero || value != 0 {
                    proto::write_varint_field(&mut self.out, number, value.cast_unsigned());
                }
            }
            Kind::Uint32 | Kind::Fixed32 => {
                let value: u32 = self.integer(field)?;
                if !keep_zero && value == 0 {
                    return Ok(());
                }
                match field.kind {
                    Kind::Fixed32 => proto::write_fixed32(&mut self.out, number, value),
                    _ => proto::write_varint_field(&mut self.out, number, u64::from(value)),
                }
            }
            Kind::Uint64 | Kind::Fixed64 => {
                let value: u64 = self.integer(field)?;
                if !keep_zero && value == 0 {
                    return Ok(());
                }
                match field.kind {
                    Kind::Fixed64 => proto::write_fixed64(&mut self.out, number, value),
                    _ => proto::write_varint_field(&mut self.out, number, value),
                }
            }
        }
        Ok(())
    }

    fn text(&mut self, field: &'static Field) -> Result<Cow<'t, [u8]>, JsonReason> {
        if self.lexer.peek()? != b'"' {
            return Err(JsonReason::Type(field.json, "a string"));
        }
        self.lexer.string()
    }

    fn bytes(&mut self, field: &'static Field) -> Result<Vec<u8>, JsonReason> {
        let is_hex = self.dialect == Dialect::Otlp && matches!(field.kind, Kind::Id);
        let text = self.text(field)?;
        if is_hex {
            return unhex(&text).ok_or(JsonReason::Hex(field.json));
        }
        base64::decode(&text).ok_or(JsonReason::Base64(field.json))
    }

    fn truth(&mut self, field: &'static Field) -> Result<bool, JsonReason> {
        match self.lexer.peek()? {
            b't' => self.lexer.literal(b"true").map(|()| true),
            b'f' => self.lexer.literal(b"false").map(|()| false),
            _ => Err(JsonReason::Type(field.json, "true or false")),
        }
    }

    fn double(&mut self, field: &'static Field) -> Result<f64, JsonReason> {
        let number = if self.lexer.peek()? == b'"' {
            let text = self.lexer.string()?;
            match &*text {
                b"NaN" => return Ok(f64::NAN),
                b"Infinity" => return Ok(f64::INFINITY),
                b"-Infinity" => return Ok(f64::NEG_INFINITY),
                _ => quoted_number(&text)
                    .ok_or(JsonReason::Type(field.json, "a number"))?
                    .to_owned(),
            }
        } else {
            self.lexer.number()?.to_owned()
        };
        let value: f64 = number.parse().map_err(|_| JsonReason::Number)?;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(JsonReason::Range(field.json))
        }
    }

    fn enumeration(&mut self, field: &'static Field, names: &[(i32, &str)]) -> Result<i32, JsonReason> {
        if self.lexer.peek()? != b'"' {
            return self.integer(field);
        }
        let name = self.lexer.string()?;
        let known = names.iter().find(|(_, known)| known.as_bytes() == &*name);
        known.map(|(value, _)| *value).ok_or(JsonReason::Enum(field.json))
    }

    fn integer<T>(&mut self, field: &'static Field) -> Result<T, JsonReason>
    where
        T: std::str::FromStr + TryFrom<i64>,
    {
        let wants_number = JsonReason::Type(field.json, "an integer");
        match self.lexer.peek()? {
            b'"' => {
                let text = self.lexer.string()?;
                let number = quoted_number(&text).ok_or(wants_number)?;
                integer(number).ok_or(JsonReason::Range(field.json))
            }
            b'-' | b'0'..=b'9' => integer(self.lexer.number()?).ok_or(JsonReason::Range(field.json)),
            _ => Err(wants_number),
        }
    }

    /// Writes the tag of a message and leaves its length to [`Reader::end`].
    fn begin(&mut self, number: u32) -> usize {
        proto::write_varint(&mut self.out, u64::from(number) << 3 | 2);
        self.out.len()
    }

    /// Puts the length before the message that was written from `start` on.
    fn end(&mut self, start: usize) {
        let length = self.out.len() - start;
        let prefix = proto::varint_len(length as u64);
        proto::write_varint(&mut self.out, length as u64);
        // The length now stands behind the message: move it to the front.
        self.out[start..].rotate_right(prefix);
    }
}

/// The number in a string, when it is one by JSON's grammar and nothing else.
fn quoted_number(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lexer = Lexer::new(text);
    (lexer.number().ok()? == text).then_some(text)
}

fn integer<T: std::str::FromStr + TryFrom<i64>>(number: &str) -> Option<T> {
    if let Ok(value) = number.parse() {
        return Some(value);
    }
    // `1e3` and `5.0` are integers too, as long as a double holds them exactly.
    let wide: f64 = number.parse().ok().filter(|_| number.contains(['.', 'e', 'E']))?;
    let is_exact = wide.fract() == 0.0 && wide.abs() <= 9_007_199_254_740_992.0;
    if is_exact { T::try_from(wide as i64).ok() } else { None }
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.chunks(2)
        .map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8))
        .collect()
}
