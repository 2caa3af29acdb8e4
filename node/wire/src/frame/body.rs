//! The body of a sub-batch: what its spans share, once, and the spans.
//!
//! ```text
//! varint resources · each: varint (length + 1, or 0 when absent), Resource, varint length, schema_url
//! varint scopes    · each: likewise, InstrumentationScope
//! spans to the end · each: varint resource, varint scope, varint length, Span
//! ```

use std::borrow::Cow;

use model::proto::write_varint;

use super::header::Reader;
use crate::error::{Error, FrameReason};

/// A `Resource` or an `InstrumentationScope` with the schema url that stood beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Blob<'a> {
    /// The message; `None` when the exporter left it out, which is not the same as empty.
    pub message: Option<&'a [u8]>,
    /// Empty when the exporter left it out.
    pub schema_url: &'a [u8],
}

/// One span of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSpan<'a> {
    /// Which of [`Contents::resource`] it belongs to.
    pub resource: u32,
    /// Which of [`Contents::scope`] it belongs to.
    pub scope: u32,
    /// The OTLP `Span` message.
    pub span: &'a [u8],
}

/// A body opened for reading. Borrows everything.
#[derive(Debug, Clone)]
pub struct Contents<'a> {
    body: &'a [u8],
    resources: Vec<u32>,
    scopes: Vec<u32>,
    spans: &'a [u8],
    span_count: u32,
}

impl<'a> Contents<'a> {
    pub(super) fn open(body: &'a [u8], span_count: u32) -> Result<Self, Error> {
        let mut reader = Reader::new(body);
        let resources = offsets(&mut reader, body.len())?;
        let scopes = offsets(&mut reader, body.len())?;
        let spans = reader.rest();
        // Three lengths make the smallest span.
        if (span_count as usize).saturating_mul(3) > spans.len() {
            return Err(FrameReason::Count.into());
        }
        Ok(Self {
            body,
            resources,
            scopes,
            spans,
            span_count,
        })
    }

    /// Resources in the body.
    pub fn resource_count(&self) -> u32 {
        self.resources.len() as u32
    }

    /// Scopes in the body.
    pub fn scope_count(&self) -> u32 {
        self.scopes.len() as u32
    }

    /// Spans in the body.
    pub fn span_count(&self) -> u32 {
        self.span_count
    }

    /// One resource; absent beyond [`Contents::resource_count`].
    pub fn resource(&self, index: u32) -> Blob<'a> {
        blob(self.body, self.resources.get(index as usize))
    }

    /// One scope; absent beyond [`Contents::scope_count`].
    pub fn scope(&self, index: u32) -> Blob<'a> {
        blob(self.body, self.scopes.get(index as usize))
    }

    /// The spans, sorted by trace id, those of one trace in the order they were sent.
    ///
    /// Ends after an error; yields one when the body holds more or fewer spans than its header says.
    pub fn spans(&self) -> Spans<'a> {
        Spans {
            reader: Some(self.spans),
            left: self.span_count,
            resources: self.resource_count(),
            scopes: self.scope_count(),
        }
    }
}

/// Iterates over [`Contents::spans`].
#[derive(Debug, Clone)]
pub struct Spans<'a> {
    reader: Option<&'a [u8]>,
    left: u32,
    resources: u32,
    scopes: u32,
}

impl<'a> Iterator for Spans<'a> {
    type Item = Result<FrameSpan<'a>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.reader.take()?;
        if rest.is_empty() && self.left == 0 {
            return None;
        }
        let mut reader = Reader::new(rest);
        match self.read(&mut reader) {
            Ok(span) => {
                self.reader = Some(reader.rest());
                Some(Ok(span))
            }
            Err(reason) => Some(Err(reason.into())),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.reader.map(|_| self.left as usize + 1))
    }
}

impl<'a> Spans<'a> {
    #[inline]
    fn read(&mut self, reader: &mut Reader<'a>) -> Result<FrameSpan<'a>, FrameReason> {
        self.left = self.left.checked_sub(1).ok_or(FrameReason::Count)?;
        let (resource, scope) = (reader.varint()?, reader.varint()?);
        if resource >= self.resources || scope >= self.scopes {
            return Err(FrameReason::Count);
        }
        Ok(FrameSpan {
            resource,
            scope,
            span: reader.sized()?,
        })
    }
}

/// Where each blob starts: four bytes per blob of at least two, so a body cannot make this larger than twice itself.
fn offsets(reader: &mut Reader<'_>, body_len: usize) -> Result<Vec<u32>, FrameReason> {
    let count = reader.varint()? as usize;
    if count.saturating_mul(2) > reader.rest().len() {
        return Err(FrameReason::Count);
    }
    let mut starts = Vec::with_capacity(count);
    for _ in 0..count {
        starts.push(u32::try_from(body_len - reader.rest().len()).map_err(|_| FrameReason::Count)?);
        read_blob(reader)?;
    }
    Ok(starts)
}

fn read_blob<'a>(reader: &mut Reader<'a>) -> Result<Blob<'a>, FrameReason> {
    let message = match reader.varint()? {
        0 => None,
        length => Some(reader.take(length as usize - 1)?),
    };
    Ok(Blob {
        message,
        schema_url: reader.sized()?,
    })
}

fn blob<'a>(body: &'a [u8], start: Option<&u32>) -> Blob<'a> {
    let rest = start.and_then(|start| body.get(*start as usize..)).unwrap_or_default();
    // `offsets` has read the same bytes before.
    read_blob(&mut Reader::new(rest)).unwrap_or_default()
}

/// A [`Blob`] that may have been rewritten.
#[derive(Debug)]
struct SharedBlob<'a> {
    message: Option<Cow<'a, [u8]>>,
    schema_url: &'a [u8],
}

/// The resources or scopes of a request, and which of them the sub-batch under construction already has.
#[derive(Debug)]
pub(crate) struct SharedTable<'a> {
    blobs: Vec<SharedBlob<'a>>,
    /// Sub-batch that last used the blob, and its index there.
    used: Vec<(u32, u32)>,
}

impl<'a> SharedTable<'a> {
    pub(crate) fn new() -> Self {
        Self {
            blobs: Vec::new(),
            used: Vec::new(),
        }
    }

    /// Adds a blob and gives its index. `message` is `None` when absent.
    pub(crate) fn push(&mut self, message: Option<Cow<'a, [u8]>>, schema_url: &'a [u8]) -> u32 {
        let index = self.blobs.len() as u32;
        self.blobs.push(SharedBlob { message, schema_url });
        self.used.push((0, 0));
        index
    }

    fn get(&self, index: u32) -> Blob<'_> {
        match self.blobs.get(index as usize) {
            Some(SharedBlob { message, schema_url }) => Blob {
                message: message.as_deref(),
                schema_url,
            },
            None => Blob::default(),
        }
    }
}

/// Writes bodies, one after the other, from the tables of one request.
#[derive(Debug)]
pub(crate) struct BodyWriter<'t, 'a> {
    resources: &'t mut SharedTable<'a>,
    scopes: &'t mut SharedTable<'a>,
    /// Counted from 1: a fresh table entry says 0.
    sub_batch: u32,
}

impl<'t, 'a> BodyWriter<'t, 'a> {
    pub(crate) fn new(resources: &'t mut SharedTable<'a>, scopes: &'t mut SharedTable<'a>) -> Self {
        Self {
            resources,
            scopes,
            sub_batch: 0,
        }
    }

    /// Writes the body of the given spans, whose indexes are those of the tables.
    pub(crate) fn write<'s>(&mut self, spans: impl Iterator<Item = FrameSpan<'s>> + Clone) -> Vec<u8> {
        self.sub_batch += 1;
        let (mut resources, mut scopes) = (Vec::new(), Vec::new());
        let mut length = 0;
        for span in spans.clone() {
            length += span.span.len() + 8;
            mark(self.resources, span.resource, self.sub_batch, &mut resources);
            mark(self.scopes, span.scope, self.sub_batch, &mut scopes);
        }
        let blob_len = |blob: Blob<'_>| blob.message.map_or(0, <[u8]>::len) + blob.schema_url.len() + 8;
        length += resources
            .iter()
            .map(|index| blob_len(self.resources.get(*index)))
            .sum::<usize>();
        length += scopes
            .iter()
            .map(|index| blob_len(self.scopes.get(*index)))
            .sum::<usize>();
        let mut out = Vec::with_capacity(length + 8);
        write_table(&mut out, self.resources, &resources);
        write_table(&mut out, self.scopes, &scopes);
        for span in spans {
            write_varint(&mut out, local(self.resources, span.resource));
            write_varint(&mut out, local(self.scopes, span.scope));
            write_varint(&mut out, span.span.len() as u64);
            out.extend_from_slice(span.span);
        }
        out
    }
}

#[inline]
fn mark(table: &mut SharedTable<'_>, index: u32, sub_batch: u32, order: &mut Vec<u32>) {
    let Some(used) = table.used.get_mut(index as usize) else {
        return;
    };
    if used.0 != sub_batch {
        *used = (sub_batch, order.len() as u32);
        order.push(index);
    }
}

#[inline]
fn local(table: &SharedTable<'_>, index: u32) -> u64 {
    table.used.get(index as usize).map_or(0, |used| u64::from(used.1))
}

fn write_table(out: &mut Vec<u8>, table: &SharedTable<'_>, order: &[u32]) {
    write_varint(out, order.len() as u64);
    for index in order {
        let blob = table.get(*index);
        match blob.message {
            None => out.push(0),
            Some(message) => {
                write_varint(out, message.len() as u64 + 1);
                out.extend_from_slice(message);
            }
        }
        write_varint(out, blob.schema_url.len() as u64);
        out.extend_from_slice(blob.schema_url);
    }
}
