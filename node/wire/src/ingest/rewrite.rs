//! Cuts a message down to the limits. Only messages that [`super::check`] found too large come here, and spans whose status
//! came in pieces, so this may allocate.
//!
//! The first attributes, events and links are kept, the rest is counted into the message's own `dropped_…_count`. Strings
//! are cut at a character and end in `…`; with it they fill the limit at most.

use model::otlp::span_field;
use model::proto::{self, Entry, Field, Fields, Malformed};
use model::value::field;

use super::limits::IngestLimits;

const ELLIPSIS: &str = "…";

/// Cuts a `Span`.
pub(super) fn span(message: &[u8], limits: &IngestLimits) -> Result<Vec<u8>, Malformed> {
    let mut attributes = Quota::new(limits.attributes_max, span_field::DROPPED_ATTRIBUTES);
    let mut events = Quota::new(limits.events_max, span_field::DROPPED_EVENTS);
    let mut links = Quota::new(limits.links_max, span_field::DROPPED_LINKS);
    let mut status: Option<Vec<u8>> = None;
    let mut out = Vec::with_capacity(message.len());
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field()? {
        match entry.number {
            // To protobuf, the pieces of a message are one message.
            span_field::STATUS => status.get_or_insert_default().extend_from_slice(entry.bytes()?),
            span_field::ATTRIBUTES => attributes.keep(&mut out, entry, |pair| key_value(pair, limits))?,
            span_field::EVENTS => events.keep(&mut out, entry, |event| owner(event, 3, 4, limits))?,
            span_field::LINKS => links.keep(&mut out, entry, |link| owner(link, 4, 5, limits))?,
            span_field::DROPPED_ATTRIBUTES => attributes.already(entry)?,
            span_field::DROPPED_EVENTS => events.already(entry)?,
            span_field::DROPPED_LINKS => links.already(entry)?,
            _ => out.extend_from_slice(entry.raw),
        }
    }
    if let Some(status) = status {
        proto::write_bytes(&mut out, span_field::STATUS, &status);
    }
    attributes.finish(&mut out);
    events.finish(&mut out);
    links.finish(&mut out);
    Ok(out)
}

/// Cuts a `Resource`.
pub(super) fn resource(message: &[u8], limits: &IngestLimits) -> Result<Vec<u8>, Malformed> {
    owner(message, 1, 2, limits)
}

/// Cuts an `InstrumentationScope`.
pub(super) fn scope(message: &[u8], limits: &IngestLimits) -> Result<Vec<u8>, Malformed> {
    owner(message, 3, 4, limits)
}

/// Cuts a message whose attributes are in field `attributes` and their dropped count in field `dropped`.
fn owner(message: &[u8], attributes: u32, dropped: u32, limits: &IngestLimits) -> Result<Vec<u8>, Malformed> {
    let mut quota = Quota::new(limits.attributes_max, dropped);
    let mut out = Vec::with_capacity(message.len());
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field()? {
        if entry.number == attributes {
            quota.keep(&mut out, entry, |pair| key_value(pair, limits))?;
        } else if entry.number == dropped {
            quota.already(entry)?;
        } else {
            out.extend_from_slice(entry.raw);
        }
    }
    quota.finish(&mut out);
    Ok(out)
}

/// The first so many members of a repeated field; the others are counted.
struct Quota {
    left: usize,
    dropped: u64,
    dropped_field: u32,
}

impl Quota {
    fn new(max: usize, dropped_field: u32) -> Self {
        Self {
            left: max,
            dropped: 0,
            dropped_field,
        }
    }

    fn keep(
        &mut self,
        out: &mut Vec<u8>,
        entry: Entry<'_>,
        cut: impl FnOnce(&[u8]) -> Result<Vec<u8>, Malformed>,
    ) -> Result<(), Malformed> {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            proto::write_bytes(out, entry.number, &cut(entry.bytes()?)?);
        } else {
            self.dropped += 1;
        }
        Ok(())
    }

    fn already(&mut self, entry: Entry<'_>) -> Result<(), Malformed> {
        self.dropped = self.dropped.saturating_add(entry.varint()?);
        Ok(())
    }

    fn finish(&self, out: &mut Vec<u8>) {
        if self.dropped > 0 {
            // The field is a uint32; what does not fit there says "at least".
            proto::write_varint_field(out, self.dropped_field, self.dropped.min(u64::from(u32::MAX)));
        }
    }
}

fn key_value(message: &[u8], limits: &IngestLimits) -> Result<Vec<u8>, Malformed> {
    rebuild(message, |out, entry| match (entry.number, entry.value) {
        (1, Field::Bytes(key)) => {
            proto::write_bytes(out, 1, &cut_text(key, limits.key_bytes_max));
            Ok(())
        }
        (2, Field::Bytes(value)) => {
            proto::write_bytes(out, 2, &any_value(value, limits)?);
            Ok(())
        }
        _ => verbatim(out, entry),
    })
}

fn any_value(message: &[u8], limits: &IngestLimits) -> Result<Vec<u8>, Malformed> {
    rebuild(message, |out, entry| {
        let cut = match (entry.number, entry.value) {
            (field::STRING, Field::Bytes(value)) => cut_text(value, limits.value_bytes_max),
            (field::BYTES, Field::Bytes(value)) => value[..value.len().min(limits.value_bytes_max)].to_vec(),
            (field::ARRAY, Field::Bytes(list)) => members(list, |value| any_value(value, limits))?,
            (field::KV_LIST, Field::Bytes(list)) => members(list, |pair| key_value(pair, limits))?,
            _ => return verbatim(out, entry),
        };
        proto::write_bytes(out, entry.number, &cut);
        Ok(())
    })
}

fn members(list: &[u8], cut: impl Fn(&[u8]) -> Result<Vec<u8>, Malformed>) -> Result<Vec<u8>, Malformed> {
    rebuild(list, |out, entry| match (entry.number, entry.value) {
        (1, Field::Bytes(member)) => {
            proto::write_bytes(out, 1, &cut(member)?);
            Ok(())
        }
        _ => verbatim(out, entry),
    })
}

fn rebuild(
    message: &[u8],
    mut each: impl FnMut(&mut Vec<u8>, Entry<'_>) -> Result<(), Malformed>,
) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(message.len());
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field()? {
        each(&mut out, entry)?;
    }
    Ok(out)
}

fn verbatim(out: &mut Vec<u8>, entry: Entry<'_>) -> Result<(), Malformed> {
    out.extend_from_slice(entry.raw);
    Ok(())
}

/// At most `max` bytes of UTF-8 text, the ellipsis included; a limit too small for it cuts without.
fn cut_text(text: &[u8], max: usize) -> Vec<u8> {
    if text.len() <= max {
        return text.to_vec();
    }
    let mark = if max >= ELLIPSIS.len() { ELLIPSIS } else { "" };
    let mut end = max - mark.len();
    while end > 0 && text[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    let mut cut = text[..end].to_vec();
    cut.extend_from_slice(mark.as_bytes());
    cut
}
