//! The outer messages of a request, walked once from front to back.
//!
//! What spans share may stand before or behind them: OTLP's encoders write the schema url last. Looking for it first would
//! read a request twice, so a visitor is told of spans as they come and of their owner when it is known to be whole.

use std::borrow::Cow;

use super::{Fields, Malformed};

/// Where a request is malformed, and how.
pub type Fault<'a> = (&'a [u8], Malformed);

/// What all spans of a `ResourceSpans` or `ScopeSpans` share: the resource or the instrumentation scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The `Resource` or `InstrumentationScope`; `None` when the sender left it out. Owned if it was sent in several pieces,
    /// which are one message to protobuf; each of them is a message of its own.
    pub message: Option<Cow<'a, [u8]>>,
    /// Empty when the sender left it out. UTF-8 unless it is what the last occurrence said.
    pub schema_url: &'a [u8],
}

/// Is led through a request by [`walk`].
pub trait Visit<'a> {
    /// A `Span` message. Its owners come later.
    fn span(&mut self, span: &'a [u8]) -> Result<(), Fault<'a>>;

    /// A `ScopeSpans` ends: the spans since the last one belong to this scope. `place` is the `ScopeSpans`.
    fn scope_ends(&mut self, scope: Owner<'a>, place: &'a [u8]) -> Result<(), Fault<'a>>;

    /// A `ResourceSpans` ends: the scopes since the last one belong to this resource. `place` is the `ResourceSpans`.
    fn resource_ends(&mut self, resource: Owner<'a>, place: &'a [u8]) -> Result<(), Fault<'a>>;
}

/// Leads `visitor` through `body`, an `ExportTraceServiceRequest` or a `TracesData`.
#[inline]
pub fn walk<'a>(body: &'a [u8], visitor: &mut impl Visit<'a>) -> Result<(), Fault<'a>> {
    let mut fields = Fields::new(body);
    while let Some(entry) = fields.next_field().map_err(|e| (body, e))? {
        if entry.number == 1 {
            resource_spans(entry.bytes().map_err(|e| (body, e))?, visitor)?;
        }
    }
    Ok(())
}

fn resource_spans<'a>(message: &'a [u8], visitor: &mut impl Visit<'a>) -> Result<(), Fault<'a>> {
    let fault = |e| (message, e);
    let mut resource = Owner::default();
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field().map_err(fault)? {
        match entry.number {
            1 => resource.piece(entry.bytes().map_err(fault)?).map_err(fault)?,
            2 => scope_spans(entry.bytes().map_err(fault)?, visitor)?,
            3 => resource.url(entry.bytes().map_err(fault)?).map_err(fault)?,
            _ => {}
        }
    }
    visitor.resource_ends(resource, message)
}

fn scope_spans<'a>(message: &'a [u8], visitor: &mut impl Visit<'a>) -> Result<(), Fault<'a>> {
    let fault = |e| (message, e);
    let mut scope = Owner::default();
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field().map_err(fault)? {
        match entry.number {
            1 => scope.piece(entry.bytes().map_err(fault)?).map_err(fault)?,
            2 => visitor.span(entry.bytes().map_err(fault)?)?,
            3 => scope.url(entry.bytes().map_err(fault)?).map_err(fault)?,
            _ => {}
        }
    }
    visitor.scope_ends(scope, message)
}

impl<'a> Owner<'a> {
    fn piece(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let Some(before) = &mut self.message else {
            self.message = Some(Cow::Borrowed(message));
            return Ok(());
        };
        // A piece that ends inside a field would be completed by the next.
        if let Cow::Borrowed(first) = before {
            ends_between_fields(first)?;
        }
        ends_between_fields(message)?;
        before.to_mut().extend_from_slice(message);
        Ok(())
    }

    fn url(&mut self, schema_url: &'a [u8]) -> Result<(), Malformed> {
        let before = std::mem::replace(&mut self.schema_url, schema_url);
        // Nobody sees this one again, but it is in the message, and the message must be right.
        std::str::from_utf8(before).map_err(|_| Malformed::Utf8(3))?;
        Ok(())
    }
}

fn ends_between_fields(message: &[u8]) -> Result<(), Malformed> {
    let mut fields = Fields::new(message);
    while fields.next_field()?.is_some() {}
    Ok(())
}
