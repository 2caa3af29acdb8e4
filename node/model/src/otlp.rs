//! OTLP's trace messages in their wire form: walked without copying, written back without loss.
//!
//! ```text
//! ExportTraceServiceRequest / TracesData
//!   1 ResourceSpans ── 1 Resource, 2 ScopeSpans …, 3 schema_url
//!                         └─ 1 InstrumentationScope, 2 Span …, 3 schema_url
//! ```
//! The walker finds structure only. Whether strings are UTF-8, ids well-formed and limits kept is decided once, at the
//! door, by `wire::ingest`.

use crate::proto::{self, Entry, Field, Fields, Malformed};

mod request;

pub use request::{Fault, Owner, Visit, walk};

/// Field numbers of `Span`.
pub mod span_field {
    /// `trace_id`
    pub const TRACE_ID: u32 = 1;
    /// `span_id`
    pub const SPAN_ID: u32 = 2;
    /// `trace_state`
    pub const TRACE_STATE: u32 = 3;
    /// `parent_span_id`
    pub const PARENT_SPAN_ID: u32 = 4;
    /// `name`
    pub const NAME: u32 = 5;
    /// `kind`
    pub const KIND: u32 = 6;
    /// `start_time_unix_nano`
    pub const START: u32 = 7;
    /// `end_time_unix_nano`
    pub const END: u32 = 8;
    /// `attributes`
    pub const ATTRIBUTES: u32 = 9;
    /// `dropped_attributes_count`
    pub const DROPPED_ATTRIBUTES: u32 = 10;
    /// `events`
    pub const EVENTS: u32 = 11;
    /// `dropped_events_count`
    pub const DROPPED_EVENTS: u32 = 12;
    /// `links`
    pub const LINKS: u32 = 13;
    /// `dropped_links_count`
    pub const DROPPED_LINKS: u32 = 14;
    /// `status`
    pub const STATUS: u32 = 15;
    /// `flags`
    pub const FLAGS: u32 = 16;
}

/// Highest `SpanKind` that OTLP defines (`CONSUMER`).
pub const KIND_MAX: u8 = 5;

/// The `Span` messages of a request, in order, for those who need not know whose they are.
pub fn spans(body: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let inner = |message: Result<_, Malformed>| match message {
        Ok(message) => (Some(members(message, 2)), None),
        Err(error) => (None, Some(Err(error))),
    };
    let flat = move |(members, error)| Iterator::chain(Option::into_iter(members).flatten(), Option::into_iter(error));
    members(body, 1).map(inner).flat_map(flat).map(inner).flat_map(flat)
}

/// The members of repeated field `number`, which must be messages.
fn members(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut fields = Fields::new(message);
    let mut failed = false;
    std::iter::from_fn(move || {
        while !failed {
            match fields.next_field() {
                Ok(None) => return None,
                Ok(Some(entry)) if entry.number == number => {
                    let member = entry.bytes();
                    failed = member.is_err();
                    return Some(member);
                }
                Ok(Some(_)) => {}
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    })
}

/// The single-valued fields of one span. A field that the sender left out has its protobuf default.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpanView<'a> {
    /// 16 bytes when valid.
    pub trace_id: &'a [u8],
    /// 8 bytes when valid.
    pub span_id: &'a [u8],
    /// 8 bytes, or empty for a root.
    pub parent_span_id: &'a [u8],
    /// W3C `tracestate`.
    pub trace_state: &'a [u8],
    /// The operation.
    pub name: &'a [u8],
    /// `SpanKind`, unchecked.
    pub kind: u64,
    /// Start in nanoseconds since the epoch.
    pub start_unix_nanos: u64,
    /// End in nanoseconds since the epoch.
    pub end_unix_nanos: u64,
    /// Attributes the sender dropped.
    pub dropped_attributes: u64,
    /// Events the sender dropped.
    pub dropped_events: u64,
    /// Links the sender dropped.
    pub dropped_links: u64,
    /// The `Status` message; `None` when absent, which is not the same as empty.
    pub status: Option<&'a [u8]>,
    /// W3C trace flags and more.
    pub flags: u32,
}

/// A repeated or unknown field of a span, or one sent twice, met while reading it.
#[derive(Debug, Clone, Copy)]
pub enum Repeated<'a> {
    /// A `KeyValue` message.
    Attribute(Entry<'a>),
    /// An `Event` message.
    Event(Entry<'a>),
    /// A `Link` message.
    Link(Entry<'a>),
    /// A text or message of which a span has one, that was sent before, and what it was then. For a text the last one
    /// counts, a message is all of them together.
    Again {
        /// The field.
        number: u32,
        /// Its bytes until now.
        before: &'a [u8],
    },
    /// A field this version does not know.
    Unknown(Entry<'a>),
}

/// How a `KeyValue` of a span begins.
const ATTRIBUTE_TAG: u8 = (span_field::ATTRIBUTES as u8) << 3 | 2;

/// Reads one span in one pass: single-valued fields into the view, everything else through `each` in the order met.
#[inline]
pub fn read_span<'a, E: From<Malformed>>(
    span: &'a [u8],
    mut each: impl FnMut(Repeated<'a>) -> Result<(), E>,
) -> Result<SpanView<'a>, E> {
    let mut view = SpanView::default();
    let mut fields = Fields::new(span);
    loop {
        // Attributes come in rows and most are short.
        while let Some(entry) = fields.next_short(ATTRIBUTE_TAG) {
            each(Repeated::Attribute(entry))?;
        }
        let Some(entry) = fields.next_field()? else { break };
        match entry.number {
            span_field::ATTRIBUTES => {
                entry.bytes()?;
                each(Repeated::Attribute(entry))?;
            }
            span_field::TRACE_ID => view.trace_id = entry.bytes()?,
            span_field::SPAN_ID => view.span_id = entry.bytes()?,
            number @ span_field::TRACE_STATE => {
                let before = std::mem::replace(&mut view.trace_state, entry.bytes()?);
                if !before.is_empty() {
                    each(Repeated::Again { number, before })?;
                }
            }
            span_field::PARENT_SPAN_ID => view.parent_span_id = entry.bytes()?,
            number @ span_field::NAME => {
                let before = std::mem::replace(&mut view.name, entry.bytes()?);
                if !before.is_empty() {
                    each(Repeated::Again { number, before })?;
                }
            }
            span_field::KIND => view.kind = entry.varint()?,
            span_field::START => view.start_unix_nanos = entry.fixed64()?,
            span_field::END => view.end_unix_nanos = entry.fixed64()?,
            span_field::DROPPED_ATTRIBUTES => view.dropped_attributes = entry.varint()?,
            span_field::EVENTS => {
                entry.bytes()?;
                each(Repeated::Event(entry))?;
            }
            span_field::DROPPED_EVENTS => view.dropped_events = entry.varint()?,
            span_field::LINKS => {
                entry.bytes()?;
                each(Repeated::Link(entry))?;
            }
            span_field::DROPPED_LINKS => view.dropped_links = entry.varint()?,
            number @ span_field::STATUS => {
                if let Some(before) = view.status.replace(entry.bytes()?) {
                    each(Repeated::Again { number, before })?;
                }
            }
            span_field::FLAGS => view.flags = entry.fixed32()?,
            _ => each(Repeated::Unknown(entry))?,
        }
    }
    Ok(view)
}

/// `Status`, read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatusView<'a> {
    /// Developer-facing text.
    pub message: &'a [u8],
    /// `StatusCode`, unchecked.
    pub code: u64,
    /// Whether the message holds a field other than these two.
    pub has_unknown: bool,
}

/// Reads a `Status` message.
pub fn read_status(message: &[u8]) -> Result<StatusView<'_>, Malformed> {
    let mut view = StatusView::default();
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field()? {
        match entry.number {
            2 => view.message = entry.bytes()?,
            3 => view.code = entry.varint()?,
            _ => view.has_unknown = true,
        }
    }
    Ok(view)
}

/// A `KeyValue` message, read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyValueView<'a> {
    /// The key; empty when absent.
    pub key: &'a [u8],
    /// The `AnyValue` message; empty when absent.
    pub value: &'a [u8],
    /// Whether key and value, each once, are all there is; only then do they stand for the whole message.
    pub is_plain: bool,
}

/// Reads a `KeyValue` message.
#[inline]
pub fn read_key_value(message: &[u8]) -> Result<KeyValueView<'_>, Malformed> {
    if let Some((key, value)) = short_key_value(message) {
        return Ok(KeyValueView {
            key,
            value,
            is_plain: true,
        });
    }
    read_any_key_value(message)
}

/// A `KeyValue` as nearly all senders write nearly all of theirs: the key, then the value, each shorter than 128 bytes. Half
/// of the work on a span is finding its keys and values, and this finds them in a third of the time.
#[inline]
fn short_key_value(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x0a, key_length @ 0..0x80, rest @ ..] = message else {
        return None;
    };
    let (key, rest) = rest.split_at_checked(usize::from(*key_length))?;
    match rest {
        [0x12, length @ 0..0x80, value @ ..] if value.len() == usize::from(*length) => Some((key, value)),
        _ => None,
    }
}

fn read_any_key_value(message: &[u8]) -> Result<KeyValueView<'_>, Malformed> {
    let (mut key, mut value, mut others) = (None, None, false);
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field()? {
        match (entry.number, entry.value) {
            (1, Field::Bytes(bytes)) => others |= key.replace(bytes).is_some(),
            (2, Field::Bytes(bytes)) => others |= value.replace(bytes).is_some(),
            (1 | 2, _) => return Err(Malformed::WireType(entry.number)),
            _ => others = true,
        }
    }
    let is_plain = !others && value.is_some();
    Ok(KeyValueView {
        key: key.unwrap_or_default(),
        value: value.unwrap_or_default(),
        is_plain,
    })
}

/// The attributes of a message that keeps them in repeated field `number`: `Resource` 1, `InstrumentationScope` 3,
/// `Event` 3, `Link` 4, `Span` 9. Yields key and `AnyValue` message.
pub fn attributes(message: &[u8], number: u32) -> impl Iterator<Item = Result<(&[u8], &[u8]), Malformed>> {
    members(message, number).map(|pair| read_key_value(pair?).map(|pair| (pair.key, pair.value)))
}

/// A span's fields in the form the table keeps them, ready to be written as OTLP.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpanParts<'a> {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span.
    pub span_id: [u8; 8],
    /// All zero for a root.
    pub parent_span_id: [u8; 8],
    /// W3C `tracestate`.
    pub trace_state: &'a [u8],
    /// The operation.
    pub name: &'a [u8],
    /// `SpanKind`.
    pub kind: u8,
    /// Start in nanoseconds since the epoch.
    pub start_unix_nanos: u64,
    /// End minus start, wrapping, so that an end before the start survives.
    pub duration_nanos: i64,
    /// Attributes the sender dropped.
    pub dropped_attributes: u32,
    /// Events the sender dropped.
    pub dropped_events: u32,
    /// Links the sender dropped.
    pub dropped_links: u32,
    /// 0 when `status` is absent, else the code plus one.
    pub status: u8,
    /// Developer-facing status text.
    pub status_message: &'a [u8],
    /// W3C trace flags and more.
    pub flags: u32,
    /// Raw `events` fields, tags included.
    pub events: &'a [u8],
    /// Raw `links` fields, tags included.
    pub links: &'a [u8],
    /// Raw fields that have no column: unknown ones and unusual spellings of known ones.
    pub extra: &'a [u8],
}

/// Writes a `Span` message; `attributes` writes the attribute fields (tag 9 included).
///
/// The inverse of appending to a table up to field order and the spelling of defaults, neither of which means anything in
/// protobuf.
pub fn write_span(out: &mut Vec<u8>, parts: &SpanParts<'_>, attributes: impl FnOnce(&mut Vec<u8>)) {
    proto::write_bytes(out, span_field::TRACE_ID, &parts.trace_id);
    proto::write_bytes(out, span_field::SPAN_ID, &parts.span_id);
    if !parts.trace_state.is_empty() {
        proto::write_bytes(out, span_field::TRACE_STATE, parts.trace_state);
    }
    if parts.parent_span_id != [0; 8] {
        proto::write_bytes(out, span_field::PARENT_SPAN_ID, &parts.parent_span_id);
    }
    if !parts.name.is_empty() {
        proto::write_bytes(out, span_field::NAME, parts.name);
    }
    if parts.kind != 0 {
        proto::write_varint_field(out, span_field::KIND, u64::from(parts.kind));
    }
    if parts.start_unix_nanos != 0 {
        proto::write_fixed64(out, span_field::START, parts.start_unix_nanos);
    }
    let end = parts.start_unix_nanos.wrapping_add_signed(parts.duration_nanos);
    if end != 0 {
        proto::write_fixed64(out, span_field::END, end);
    }
    attributes(out);
    write_count(out, span_field::DROPPED_ATTRIBUTES, parts.dropped_attributes);
    out.extend_from_slice(parts.events);
    write_count(out, span_field::DROPPED_EVENTS, parts.dropped_events);
    out.extend_from_slice(parts.links);
    write_count(out, span_field::DROPPED_LINKS, parts.dropped_links);
    if parts.status != 0 {
        let mut status = Vec::with_capacity(parts.status_message.len() + 8);
        if !parts.status_message.is_empty() {
            proto::write_bytes(&mut status, 2, parts.status_message);
        }
        if parts.status > 1 {
            proto::write_varint_field(&mut status, 3, u64::from(parts.status - 1));
        }
        proto::write_bytes(out, span_field::STATUS, &status);
    }
    if parts.flags != 0 {
        proto::write_fixed32(out, span_field::FLAGS, parts.flags);
    }
    out.extend_from_slice(parts.extra);
}

fn write_count(out: &mut Vec<u8>, number: u32, count: u32) {
    if count != 0 {
        proto::write_varint_field(out, number, u64::from(count));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_short_way_to_a_key_value_agrees_with_the_long_one(
            key in "[a-z]{0,140}", value in prop::collection::vec(any::<u8>(), 0..140), cut in 0usize..300, flip in any::<(u8, u8)>(),
        ) {
            let mut message = Vec::new();
            proto::write_bytes(&mut message, 1, key.as_bytes());
            proto::write_bytes(&mut message, 2, &value);
            prop_assert_eq!(read_key_value(&message), read_any_key_value(&message));
            // Whatever is not the usual form must not pass for it.
            message.truncate(cut);
            if let Some(byte) = message.get_mut(usize::from(flip.0)) {
                *byte = flip.1;
            }
            prop_assert_eq!(read_key_value(&message), read_any_key_value(&message));
        }
    }
}
