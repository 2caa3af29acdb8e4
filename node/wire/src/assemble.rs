//! Builds one trace out of spans that come from several places.
//!
//! Heads and blocks hand over a span with its resource and scope; out comes the protobuf `Trace` (equal to OTLP's
//! `TracesData`), grouped by equal resource and equal scope in the order they first came. A span that is there already is left
//! out: a retry that came too late for the log's own duplicate check ends here.
//!
//! What always holds: the result has at most the given number of bytes; when that left spans out, it says so.
//!
//! Not here: which spans there are (`query`), the split of span ids that Zipkin shares between client and server (`server`).

use std::collections::{BTreeMap, BTreeSet};

use model::otlp::span_field;
use model::proto::{self, Entry, Field, Fields, Malformed, varint_len, write_bytes};
use twox_hash::{XxHash3_64, XxHash3_128};

use crate::error::Error;
use crate::frame::Blob;
use crate::json::{self, Dialect};
use crate::tempopb::{PartialStatus, TraceByIdMetrics, table};

/// A trace under construction.
#[derive(Debug)]
pub struct TraceAssembler {
    bytes_max: usize,
    bytes: usize,
    resources: Vec<ResourceGroup>,
    known_resources: BTreeMap<OwnedBlob, usize>,
    seen: BTreeSet<u128>,
    span_count: usize,
    duplicate_count: usize,
    truncated: bool,
}

type OwnedBlob = (Option<Vec<u8>>, Vec<u8>);

#[derive(Debug)]
struct ResourceGroup {
    blob: OwnedBlob,
    scopes: Vec<ScopeGroup>,
    known_scopes: BTreeMap<OwnedBlob, usize>,
}

#[derive(Debug)]
struct ScopeGroup {
    blob: OwnedBlob,
    /// `spans` fields, tags included.
    spans: Vec<u8>,
}

/// A trace, assembled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssembledTrace {
    /// The `Trace` message; empty when there is no span.
    pub bytes: Vec<u8>,
    /// Spans in it.
    pub span_count: usize,
    /// Spans left out because they were there already.
    pub duplicate_count: usize,
    /// Whether spans were left out because the trace is too large.
    pub truncated: bool,
}

/// Tag and longest length of a message around others.
const WRAP_BYTES: usize = 6;

impl TraceAssembler {
    /// Starts a trace of at most `bytes_max` bytes of protobuf.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            resources: Vec::new(),
            known_resources: BTreeMap::new(),
            seen: BTreeSet::new(),
            span_count: 0,
            duplicate_count: 0,
            truncated: false,
        }
    }

    /// Adds a span. From the first that does not fit, none is added.
    ///
    /// Errors: the span is not protobuf, which the door would have refused.
    pub fn push(&mut self, resource: Blob<'_>, scope: Blob<'_>, span: &[u8]) -> Result<(), Malformed> {
        if !self.seen.insert(identity(resource, scope, span)?) {
            self.duplicate_count += 1;
            return Ok(());
        }
        let (resource, scope) = (owned(resource), owned(scope));
        let place = self.known_resources.get(&resource).copied();
        let scope_place = place.and_then(|place| self.resources[place].known_scopes.get(&scope).copied());
        let mut cost = 1 + varint_len(span.len() as u64) + span.len();
        cost += if place.is_none() { group_bytes(&resource) } else { 0 };
        cost += if scope_place.is_none() { group_bytes(&scope) } else { 0 };
        self.truncated |= self.bytes + cost > self.bytes_max;
        if self.truncated {
            return Ok(());
        }
        self.bytes += cost;
        self.span_count += 1;
        let place = place.unwrap_or_else(|| self.add_resource(resource));
        let group = &mut self.resources[place];
        let scope_place = scope_place.unwrap_or_else(|| group.add_scope(scope));
        write_bytes(&mut group.scopes[scope_place].spans, 2, span);
        Ok(())
    }

    /// Bytes so far, at most a few per group more than the result will have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes the trace.
    pub fn finish(self) -> AssembledTrace {
        let mut bytes = Vec::with_capacity(self.bytes);
        for resource in &self.resources {
            write_message(&mut bytes, 1, |out| {
                write_blob(out, &resource.blob, |out| {
                    for scope in &resource.scopes {
                        write_message(out, 2, |out| {
                            write_blob(out, &scope.blob, |out| out.extend_from_slice(&scope.spans));
                        });
                    }
                });
            });
        }
        AssembledTrace {
            bytes,
            span_count: self.span_count,
            duplicate_count: self.duplicate_count,
            truncated: self.truncated,
        }
    }

    fn add_resource(&mut self, blob: OwnedBlob) -> usize {
        let place = self.resources.len();
        self.known_resources.insert(blob.clone(), place);
        self.resources.push(ResourceGroup {
            blob,
            scopes: Vec::new(),
            known_scopes: BTreeMap::new(),
        });
        place
    }
}

impl ResourceGroup {
    fn add_scope(&mut self, blob: OwnedBlob) -> usize {
        let place = self.scopes.len();
        self.known_scopes.insert(blob.clone(), place);
        self.scopes.push(ScopeGroup {
            blob,
            spans: Vec::new(),
        });
        place
    }
}

fn owned(blob: Blob<'_>) -> OwnedBlob {
    (blob.message.map(<[u8]>::to_vec), blob.schema_url.to_vec())
}

fn group_bytes((message, schema_url): &OwnedBlob) -> usize {
    3 * WRAP_BYTES + message.as_ref().map_or(0, Vec::len) + schema_url.len()
}

/// Writes a group: owner in field 1, its members, schema url in field 3.
fn write_blob(out: &mut Vec<u8>, (message, schema_url): &OwnedBlob, members: impl FnOnce(&mut Vec<u8>)) {
    if let Some(message) = message {
        write_bytes(out, 1, message);
    }
    members(out);
    if !schema_url.is_empty() {
        write_bytes(out, 3, schema_url);
    }
}

fn write_message(out: &mut Vec<u8>, number: u32, content: impl FnOnce(&mut Vec<u8>)) {
    let mut message = Vec::new();
    content(&mut message);
    write_bytes(out, number, &message);
}

/// Two spans with the same identity are the same span.
///
/// Trace id, span id, kind and start are part of the content. The order of fields and spelled-out zeros are not: a span that
/// was rebuilt from a block's columns equals the one that is still in a head as it came.
fn identity(resource: Blob<'_>, scope: Blob<'_>, span: &[u8]) -> Result<u128, Malformed> {
    let mut key = Vec::with_capacity(40);
    for blob in [resource, scope] {
        let seed = if blob.message.is_some() { 1 } else { 0 };
        key.extend_from_slice(&XxHash3_64::oneshot_with_seed(seed, blob.message.unwrap_or_default()).to_le_bytes());
        key.extend_from_slice(&XxHash3_64::oneshot(blob.schema_url).to_le_bytes());
    }
    let mut content = 0u128;
    let mut fields = Fields::new(span);
    while let Some(entry) = fields.next_field()? {
        if !is_spelled_out_zero(entry) {
            content = content.wrapping_add(XxHash3_128::oneshot(entry.raw));
        }
    }
    key.extend_from_slice(&content.to_le_bytes());
    Ok(XxHash3_128::oneshot(&key))
}

fn is_spelled_out_zero(entry: Entry<'_>) -> bool {
    match entry.value {
        Field::Varint(value) | Field::Fixed64(value) => value == 0,
        Field::Fixed32(value) => value == 0,
        // Repeated messages and the status mean something even when empty.
        Field::Bytes(bytes) => bytes.is_empty() && entry.number <= span_field::NAME,
    }
}

/// The JSON of Tempo's first trace API: `{"batches":[…]}`.
pub fn trace_v1_json(trace: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(trace.len() * 2);
    json::write(&table::TRACE_V1, trace, Dialect::Tempo, &mut out)?;
    Ok(out)
}

/// The answer of Tempo's second trace API around a trace that is already bytes.
#[derive(Debug, Clone)]
pub struct TraceAnswer<'a> {
    /// The `Trace` message; empty when the trace was not found, which is not an error there.
    pub trace: &'a [u8],
    /// What the search cost.
    pub metrics: TraceByIdMetrics,
    /// Whether everything that may hold spans of the trace was read.
    pub status: PartialStatus,
    /// Why not.
    pub message: &'a str,
}

impl TraceAnswer<'_> {
    /// The `TraceByIDResponse` message.
    pub fn to_protobuf(&self) -> Vec<u8> {
        use prost::Message;
        let mut out = Vec::with_capacity(self.trace.len() + self.message.len() + 64);
        write_bytes(&mut out, 1, self.trace);
        write_bytes(&mut out, 2, &self.metrics.encode_to_vec());
        if self.status != PartialStatus::Complete {
            proto::write_varint_field(&mut out, 3, self.status as u64);
        }
        if !self.message.is_empty() {
            write_bytes(&mut out, 4, self.message.as_bytes());
        }
        out
    }

    /// The same as JSON: `{"trace":{"resourceSpans":[…]},"metrics":{…},"status":"PARTIAL","message":"…"}`.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(self.trace.len() * 2);
        json::write(
            &table::TRACE_BY_ID_RESPONSE,
            &self.to_protobuf(),
            Dialect::Tempo,
            &mut out,
        )?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
