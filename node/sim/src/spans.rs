//! What is sent: every batch, span and trace is a function of the seed and its number, so the checker keeps no copies.
//!
//! Batches come in fives that share a tenant and one trace; beside it each batch has a trace of its own. So traces lie in
//! several entries, blocks and leaders' tails, and a request has parts for several shards.

use std::collections::BTreeMap;

use model::{TenantId, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, TracesData};
use prost::Message as _;

use crate::entropy::mix;

/// Batches that share a trace.
const GROUP: u64 = 5;
/// When the first span begins.
const START_UNIX_NANOS: u64 = 1_767_225_590_000_000_000;

/// All spans of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spans {
    seed: u64,
}

/// One trace, by what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trace {
    /// Of one batch.
    Own(u64),
    /// Of all batches of a group.
    Shared(u64),
}

/// A span with what it belongs to, in one string of bytes: equal if nothing was altered.
pub(crate) type Whole = Vec<u8>;

impl Spans {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    pub(crate) fn tenant_of(&self, batch: u64) -> TenantId {
        let name = if (batch / GROUP).is_multiple_of(2) {
            "even"
        } else {
            "odd"
        };
        TenantId::new(name).expect("these names are allowed")
    }

    /// The two traces of a batch.
    pub(crate) fn traces_of(batch: u64) -> [Trace; 2] {
        [Trace::Shared(batch / GROUP), Trace::Own(batch)]
    }

    /// The batches of a trace.
    pub(crate) fn batches_of(trace: Trace) -> std::ops::Range<u64> {
        match trace {
            Trace::Own(batch) => batch..batch + 1,
            Trace::Shared(group) => group * GROUP..(group + 1) * GROUP,
        }
    }

    pub(crate) fn trace_id(&self, trace: Trace) -> TraceId {
        let number = match trace {
            Trace::Own(batch) => batch * 2 + 1,
            Trace::Shared(group) => group * 2,
        };
        let high = u128::from(mix(self.seed ^ mix(number)));
        TraceId(((high << 64) | u128::from(mix(number ^ 0x7ace))).to_be_bytes())
    }

    /// How many spans a batch has.
    pub(crate) fn count_of(&self, batch: u64) -> u64 {
        2 + mix(self.seed ^ mix(batch ^ 0xba7c)) % 5
    }

    fn span(&self, batch: u64, place: u64) -> Span {
        let random = |purpose: u64| mix(self.seed ^ mix(batch ^ mix(place ^ mix(purpose))));
        let trace = Self::traces_of(batch)[usize::from(place % 2 == 1)];
        let start = START_UNIX_NANOS + batch * 1_000_000 + place * 1_000;
        let text = |length: u64| {
            let letters = (0..length).map(|at| char::from(b'a' + (random(at + 100) % 26) as u8));
            letters.collect::<String>()
        };
        let attribute = |key: &str, value| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        };
        let mut span = Span {
            trace_id: self.trace_id(trace).0.to_vec(),
            span_id: random(1).to_be_bytes().to_vec(),
            name: format!("operation {}", random(2) % 7),
            kind: (1 + random(3) % 5) as i32,
            start_time_unix_nano: start,
            end_time_unix_nano: start + 1 + random(4) % 1_000_000,
            attributes: vec![
                attribute("sim.batch", Value::IntValue(batch.cast_signed())),
                attribute("sim.text", Value::StringValue(text(random(5) % 40))),
                attribute("sim.number", Value::DoubleValue((random(6) % 1000) as f64 / 8.0)),
            ],
            dropped_attributes_count: (random(7) % 3) as u32,
            ..Span::default()
        };
        if random(8).is_multiple_of(2) {
            span.parent_span_id = random(9).to_be_bytes().to_vec();
        }
        if random(10).is_multiple_of(3) {
            span.events.push(Event {
                time_unix_nano: start + 1,
                name: text(6),
                attributes: vec![attribute("at", Value::BoolValue(true))],
                dropped_attributes_count: 1,
            });
        }
        if random(11).is_multiple_of(4) {
            span.links.push(Link {
                trace_id: self.trace_id(Trace::Shared(0)).0.to_vec(),
                span_id: random(12).to_be_bytes().to_vec(),
                trace_state: "a=b".to_owned(),
                flags: 1,
                ..Link::default()
            });
        }
        span
    }

    fn resource(&self, batch: u64) -> ResourceSpans {
        let service = KeyValue {
            key: "service.name".to_owned(),
            value: Some(AnyValue {
                value: Some(Value::StringValue(format!("service {}", batch % 3))),
            }),
            ..KeyValue::default()
        };
        ResourceSpans {
            resource: Some(Resource {
                attributes: vec![service],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: format!("library {}", batch % 2),
                    version: "1".to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans: (0..self.count_of(batch)).map(|place| self.span(batch, place)).collect(),
                schema_url: String::new(),
            }],
            schema_url: "https://example.org/schema".to_owned(),
        }
    }

    /// What a client sends.
    pub(crate) fn request(&self, batch: u64) -> Vec<u8> {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![self.resource(batch)],
        };
        request.encode_to_vec()
    }

    /// All spans that a trace will ever have, each with its batch.
    pub(crate) fn of_trace(&self, trace: Trace) -> BTreeMap<Whole, u64> {
        let id = self.trace_id(trace).0;
        let batches = Self::batches_of(trace);
        let wholes = batches.flat_map(|batch| {
            let found = wholes(&[self.resource(batch)], &id);
            found.into_iter().map(move |whole| (whole, batch))
        });
        wholes.collect()
    }
}

/// The spans of an answer.
///
/// Errors: it is no OTLP.
pub(crate) fn read(answer: &[u8], trace: TraceId) -> Result<(Vec<Whole>, usize), prost::DecodeError> {
    let data = TracesData::decode(answer)?;
    let scopes = data.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    let all = scopes.map(|scope| scope.spans.len()).sum();
    Ok((wholes(&data.resource_spans, &trace.0), all))
}

fn wholes(resources: &[ResourceSpans], trace: &[u8]) -> Vec<Whole> {
    let mut found = Vec::new();
    for resource in resources {
        for scope in &resource.scope_spans {
            for span in scope.spans.iter().filter(|span| span.trace_id == trace) {
                let mut span = span.clone();
                // They are a set: where one stands says nothing.
                span.attributes.sort_by(|a, b| a.key.cmp(&b.key));
                let one = ResourceSpans {
                    scope_spans: vec![ScopeSpans {
                        spans: vec![span],
                        ..scope.clone()
                    }],
                    ..resource.clone()
                };
                found.push(one.encode_to_vec());
            }
        }
    }
    found
}

/// A span for people.
pub(crate) fn shown(whole: &[u8]) -> String {
    match ResourceSpans::decode(whole) {
        Ok(resource) => format!("{resource:?}"),
        Err(error) => error.to_string(),
    }
}
