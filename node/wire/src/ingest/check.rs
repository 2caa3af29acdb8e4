//! Reads every byte of a span, a resource or a scope once: wire types, UTF-8, nesting, and what is beyond the limits.
//!
//! This is the hot loop of ingest. It allocates nothing and touches each string once.

use model::otlp::{self, Repeated, SpanView};
use model::proto::{Entry, Fields, Malformed};
use model::value::field;

use super::limits::{Excess, IngestLimits, VALUE_DEPTH_MAX};

/// Checks messages against the limits of one request.
#[derive(Debug)]
pub(super) struct Checker<'l> {
    limits: &'l IngestLimits,
    nodes_left: usize,
    excess: Excess,
}

/// A well-formed span.
#[derive(Debug)]
pub(super) struct Checked<'a> {
    /// Its fields.
    pub(super) view: SpanView<'a>,
    /// What it has beyond the limits.
    pub(super) excess: Excess,
    /// Its status was sent in several pieces, which the rooms below do not expect.
    pub(super) in_pieces: bool,
}

impl<'l> Checker<'l> {
    pub(super) fn new(limits: &'l IngestLimits) -> Self {
        Self {
            limits,
            nodes_left: limits.nodes_max,
            excess: Excess::default(),
        }
    }

    /// Checks one span.
    #[inline]
    pub(super) fn span<'a>(&mut self, message: &'a [u8]) -> Result<Checked<'a>, Malformed> {
        self.excess = Excess::default();
        let mut in_pieces = false;
        let (mut attributes, mut events, mut links) = (0, 0, 0);
        let view = otlp::read_span(message, |part| match part {
            Repeated::Attribute(entry) => {
                attributes += 1;
                self.key_value(entry.bytes()?, 1)
            }
            Repeated::Event(entry) => {
                events += 1;
                self.event(entry.bytes()?)
            }
            Repeated::Link(entry) => {
                links += 1;
                self.link(entry.bytes()?)
            }
            Repeated::Again {
                number: otlp::span_field::STATUS,
                before,
            } => {
                in_pieces = true;
                status(before)
            }
            Repeated::Again { number, before } => text(before, number),
            Repeated::Unknown(_) => Ok(()),
        })?;
        text(view.trace_state, otlp::span_field::TRACE_STATE)?;
        text(view.name, otlp::span_field::NAME)?;
        if let Some(message) = view.status {
            status(message)?;
        }
        self.excess.attributes += beyond(attributes, self.limits.attributes_max);
        self.excess.events += beyond(events, self.limits.events_max);
        self.excess.links += beyond(links, self.limits.links_max);
        Ok(Checked {
            view,
            excess: self.excess,
            in_pieces,
        })
    }

    /// Checks a `Resource`.
    pub(super) fn resource(&mut self, message: &[u8]) -> Result<Excess, Malformed> {
        self.owner(message, |checker, entry| match entry.number {
            1 => checker.key_value(entry.bytes()?, 1).map(|()| true),
            2 => entry.varint().map(|_| false),
            3 => entity_ref(entry.bytes()?).map(|()| false),
            _ => Ok(false),
        })
    }

    /// Checks an `InstrumentationScope`.
    pub(super) fn scope(&mut self, message: &[u8]) -> Result<Excess, Malformed> {
        self.owner(message, |checker, entry| match entry.number {
            1 | 2 => text(entry.bytes()?, entry.number).map(|()| false),
            3 => checker.key_value(entry.bytes()?, 1).map(|()| true),
            4 => entry.varint().map(|_| false),
            _ => Ok(false),
        })
    }

    fn owner(
        &mut self,
        message: &[u8],
        mut is_attribute: impl FnMut(&mut Self, Entry<'_>) -> Result<bool, Malformed>,
    ) -> Result<Excess, Malformed> {
        self.excess = Excess::default();
        let mut attributes = 0;
        let mut fields = Fields::new(message);
        while let Some(entry) = fields.next_field()? {
            attributes += usize::from(is_attribute(self, entry)?);
        }
        self.excess.attributes += beyond(attributes, self.limits.attributes_max);
        Ok(self.excess)
    }

    fn event(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut attributes = 0;
        let mut fields = Fields::new(message);
        while let Some(entry) = fields.next_field()? {
            match entry.number {
                1 => drop(entry.fixed64()?),
                2 => text(entry.bytes()?, 2)?,
                3 => {
                    attributes += 1;
                    self.key_value(entry.bytes()?, 1)?;
                }
                4 => drop(entry.varint()?),
                _ => {}
            }
        }
        self.excess.attributes += beyond(attributes, self.limits.attributes_max);
        Ok(())
    }

    fn link(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut attributes = 0;
        let mut fields = Fields::new(message);
        while let Some(entry) = fields.next_field()? {
            match entry.number {
                1 | 2 => drop(entry.bytes()?),
                3 => text(entry.bytes()?, 3)?,
                4 => {
                    attributes += 1;
                    self.key_value(entry.bytes()?, 1)?;
                }
                5 => drop(entry.varint()?),
                6 => drop(entry.fixed32()?),
                _ => {}
            }
        }
        self.excess.attributes += beyond(attributes, self.limits.attributes_max);
        Ok(())
    }

    #[inline]
    fn key_value(&mut self, message: &[u8], depth: usize) -> Result<(), Malformed> {
        self.node()?;
        if let Some((key, scalar)) = usual_attribute(message) {
            text(key, 1)?;
            self.excess.keys += u64::from(key.len() > self.limits.key_bytes_max);
            if let Some(value) = scalar {
                text(value, field::STRING)?;
                self.excess.values += u64::from(value.len() > self.limits.value_bytes_max);
            }
            return Ok(());
        }
        self.any_key_value(message, depth)
    }

    fn any_key_value(&mut self, message: &[u8], depth: usize) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some(entry) = fields.next_field()? {
            match entry.number {
                1 => {
                    let key = entry.bytes()?;
                    text(key, 1)?;
                    self.excess.keys += u64::from(key.len() > self.limits.key_bytes_max);
                }
                2 => self.any_value(entry.bytes()?, depth)?,
                field::KEY_INDEX => drop(entry.varint()?),
                _ => {}
            }
        }
        Ok(())
    }

    #[inline]
    fn any_value(&mut self, message: &[u8], depth: usize) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some(entry) = fields.next_field()? {
            match entry.number {
                field::STRING => {
                    let value = entry.bytes()?;
                    text(value, field::STRING)?;
                    self.excess.values += u64::from(value.len() > self.limits.value_bytes_max);
                }
                field::BOOL | field::INT => drop(entry.varint()?),
                field::DOUBLE => drop(entry.fixed64()?),
                field::ARRAY => self.array(entry.bytes()?, depth + 1)?,
                field::KV_LIST => self.kv_list(entry.bytes()?, depth + 1)?,
                field::BYTES => {
                    let value = entry.bytes()?;
                    self.excess.values += u64::from(value.len() > self.limits.value_bytes_max);
                }
                field::STRING_INDEX => drop(entry.varint()?),
                _ => {}
            }
        }
        Ok(())
    }

    fn array(&mut self, message: &[u8], depth: usize) -> Result<(), Malformed> {
        if depth > VALUE_DEPTH_MAX {
            return Err(Malformed::TooDeep);
        }
        let mut fields = Fields::new(message);
        while let Some(entry) = fields.next_field()? {
            if entry.number == 1 {
                self.node()?;
                self.any_value(entry.bytes()?, depth)?;
            }
        }
        Ok(())
    }

    fn kv_list(&mut self, message: &[u8], depth: usize) -> Result<(), Malformed> {
        if depth > VALUE_DEPTH_MAX {
            return Err(Malformed::TooDeep);
        }
        let mut fields = Fields::new(message);
        while let Some(entry) = fields.next_field()? {
            if entry.number == 1 {
                self.key_value(entry.bytes()?, depth)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn node(&mut self) -> Result<(), Malformed> {
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or(Malformed::TooMany)?;
        Ok(())
    }
}

fn status(message: &[u8]) -> Result<(), Malformed> {
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field()? {
        match entry.number {
            2 => text(entry.bytes()?, otlp::span_field::STATUS)?,
            3 => drop(entry.varint()?),
            _ => {}
        }
    }
    Ok(())
}

fn entity_ref(message: &[u8]) -> Result<(), Malformed> {
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field()? {
        if entry.number <= 4 {
            text(entry.bytes()?, entry.number)?;
        }
    }
    Ok(())
}

/// Takes apart a `KeyValue` as nearly every exporter writes it: a short key, then a value that is one short string, one
/// small integer, a bool or a double. Gives the key, and the string if it is one; `None` sends the message the long way.
///
/// These are most of the bytes of most requests, and this is several times faster than walking two messages.
#[inline]
fn usual_attribute(message: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let [0x0a, key_length @ 0..=0x7f, rest @ ..] = message else {
        return None;
    };
    let (key, rest) = rest.split_at_checked(usize::from(*key_length))?;
    let [0x12, value_length @ 0..=0x7f, value @ ..] = rest else {
        return None;
    };
    if value.len() != usize::from(*value_length) {
        return None;
    }
    match value {
        [0x0a, length, text @ ..] if text.len() == usize::from(*length) => Some((key, Some(text))),
        [0x10 | 0x18, 0..=0x7f] | [0x18, 0x80..=0xff, 0..=0x7f] | [0x21, _, _, _, _, _, _, _, _] => Some((key, None)),
        _ => None,
    }
}

/// Checks a string. Nearly all are short and ASCII, where the word-wise check is several times faster than `from_utf8`.
#[inline]
pub(super) fn text(bytes: &[u8], number: u32) -> Result<(), Malformed> {
    if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() {
        Ok(())
    } else {
        Err(Malformed::Utf8(number))
    }
}

fn beyond(count: usize, max: usize) -> u64 {
    count.saturating_sub(max) as u64
}
