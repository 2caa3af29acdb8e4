//! What is accepted, rejected, cut and refused: requests of one span, and what becomes of them.

mod limits;
mod live_traces;
mod protobuf;
mod stored;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::prelude::*;
use prost::Message;

use model::table::TraceSize;

use super::*;
use crate::error::Kind;
use crate::synthetic::{self, pair, text};

fn one_shard(_: &TraceId) -> ShardId {
    ShardId(0)
}

fn span() -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: "op".into(),
        start_time_unix_nano: 5,
        ..Span::default()
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = ScopeSpans {
        spans,
        ..ScopeSpans::default()
    };
    let resource_spans = ResourceSpans {
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![resource_spans],
    }
}

fn body_of(spans: Vec<Span>) -> Vec<u8> {
    request(spans).encode_to_vec()
}

/// Spans as they come out of the frames, in order.
fn stored(scan: Scan<'_>) -> Vec<Span> {
    let mut spans = Vec::new();
    for routed in scan.into_sub_batches(&TenantId::single(), BatchHash(7)) {
        for span in routed.sub_batch.contents().unwrap().spans() {
            spans.push(Span::decode(span.unwrap().span).unwrap());
        }
    }
    spans
}

/// What becomes of one span: what is stored of it, and the outcome.
fn ingest(span: Span, limits: &IngestLimits) -> (Option<Span>, Outcome) {
    let body = body_of(vec![span]);
    let scan = scan(&body, limits, one_shard).unwrap();
    let outcome = scan.outcome().clone();
    (stored(scan).pop(), outcome)
}

fn small(oversize: Oversize) -> IngestLimits {
    IngestLimits {
        attributes_max: 3,
        events_max: 3,
        links_max: 3,
        key_bytes_max: 10,
        value_bytes_max: 10,
        oversize,
        ..IngestLimits::default()
    }
}
