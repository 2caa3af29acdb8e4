//! Spans that need no storage to be checked: each is a pure function of (seed, client, sequence number).
//!
//! A span id *is* its (client, sequence number), scrambled by an invertible function of the seed. So whatever comes back
//! from the store says which span it claims to be, and [`Workload::span`] says what that span must look like; the checker
//! keeps one bit per span instead of its content (see [`crate::ledger`]).
//!
//! Every 16th group of spans belongs to a trace that all clients share, so that traces merge across requests and, where
//! clients write for different tenants, so that isolation is tested with equal trace ids.
//!
//! Not here: order of attributes. A store may reorder keys, so [`Workload::compare`] sorts them; everything else must
//! come back as it was.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

/// Spans per trace. Small enough that a batch holds several traces, large enough for parents and children.
pub const TRACE_SPANS: u64 = 8;
/// Of so many consecutive traces of a client, the last is shared by all clients.
const SHARED_EVERY: u64 = 16;
/// Resources (service and pod) that a client takes turns with.
const RESOURCES: u64 = 3;

/// One span's name in the checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanKey {
    /// Which writer; at most 16 bits are used.
    pub client: u16,
    /// The writer's own count; at most 48 bits are used.
    pub seq: u64,
}

/// All spans of one run.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    seed: u64,
    start_ns: u64,
}

/// One span with what surrounds it, as sent or as read back.
#[derive(Debug, Clone, PartialEq)]
pub struct FullSpan {
    /// The resource's attributes and dropped count.
    pub resource: Resource,
    /// The scope's name, version, attributes.
    pub scope: InstrumentationScope,
    /// Schema url of the resource.
    pub resource_schema_url: String,
    /// Schema url of the scope.
    pub scope_schema_url: String,
    /// The span itself.
    pub span: Span,
}

/// What came back under a span id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// As it was sent.
    Same(SpanKey),
    /// Sent, but not like this; names the first differing part.
    Altered(SpanKey, &'static str),
}

impl Workload {
    /// Spans whose times start at `start_ns` (Unix epoch) and proceed by one millisecond per sequence number.
    pub fn new(seed: u64, start_ns: u64) -> Self {
        Self { seed, start_ns }
    }

    /// As [`Workload::new`], starting now.
    pub fn starting_now(seed: u64) -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self::new(seed, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The seed, to be printed where a run fails.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Unix nanoseconds of sequence number 0.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// The trace that a span belongs to.
    pub fn trace_id(&self, key: SpanKey) -> [u8; 16] {
        let trace = key.seq / TRACE_SPANS;
        let owner = if is_shared(trace) {
            u64::from(u16::MAX) + 1
        } else {
            u64::from(key.client)
        };
        let high = mix(mix(self.seed, owner), trace);
        let low = mix(high, 0x7261_6365);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&high.to_be_bytes());
        id[8..].copy_from_slice(&(low | 1).to_be_bytes());
        id
    }

    /// Never zero for sequence numbers under 2^48 − 1.
    pub fn span_id(&self, key: SpanKey) -> [u8; 8] {
        let plain = u64::from(key.client) << 48 | (key.seq & 0xffff_ffff_ffff);
        // Zero is no valid span id; the one key that would give it is swapped with the one that gives the scrambled zero.
        let scrambled = scramble(plain, self.seed);
        (if scrambled == 0 {
            scramble(u64::MAX, self.seed)
        } else {
            scrambled
        })
        .to_be_bytes()
    }

    /// Reads the key back out of a span id of any origin; a foreign id gives a key that nobody sent.
    pub fn key_of(&self, span_id: [u8; 8]) -> SpanKey {
        let plain = unscramble(u64::from_be_bytes(span_id), self.seed);
        SpanKey {
            client: (plain >> 48) as u16,
            seq: plain & 0xffff_ffff_ffff,
        }
    }

    /// The whole span that this key names.
    pub fn span(&self, key: SpanKey) -> FullSpan {
        let draw = Draw(mix(mix(self.seed, u64::from(key.client)), key.seq));
        let at = key.seq % TRACE_SPANS;
        let start = self.start_ns + key.seq * 1_000_000 + draw.under(1, 1_000_000);
        let duration = draw.under(2, 200_000_000);
        let parent = match at {
            0 => Vec::new(),
            // Every other span hangs on the trace's first, the rest on the span before: both wide and deep.
            _ if at.is_multiple_of(2) => self
                .span_id(SpanKey {
                    seq: key.seq - at,
                    ..key
                })
                .to_vec(),
            _ => self
                .span_id(SpanKey {
                    seq: key.seq - 1,
                    ..key
                })
                .to_vec(),
        };
        let failed = draw.under(3, 16) == 0;
        let span = Span {
            trace_id: self.trace_id(key).to_vec(),
            span_id: self.span_id(key).to_vec(),
            trace_state: if draw.under(4, 4) == 0 {
                "vendor=1,other=2".to_owned()
            } else {
                String::new()
            },
            parent_span_id: parent,
            flags: if draw.under(5, 2) == 0 { 0x101 } else { 0 },
            name: format!(
                "{} /item/{}",
                ["GET", "PUT", "POST"][draw.pick(6, 3)],
                draw.under(7, 12)
            ),
            kind: [
                SpanKind::Internal,
                SpanKind::Server,
                SpanKind::Client,
                SpanKind::Producer,
                SpanKind::Consumer,
            ][draw.pick(8, 5)] as i32,
            start_time_unix_nano: start,
            end_time_unix_nano: start + duration,
            attributes: span_attributes(key, draw),
            dropped_attributes_count: u32::try_from(draw.under(9, 3)).unwrap_or(0),
            events: events(start, duration, draw),
            dropped_events_count: u32::try_from(draw.under(10, 2)).unwrap_or(0),
            links: links(self, key, draw),
            dropped_links_count: u32::try_from(draw.under(11, 2)).unwrap_or(0),
            status: Some(Status {
                message: if failed {
                    "upstream closed the connection".to_owned()
                } else {
                    String::new()
                },
                code: if failed {
                    StatusCode::Error as i32
                } else {
                    StatusCode::Unset as i32
                },
            }),
        };
        let group = key.seq / TRACE_SPANS % RESOURCES;
        FullSpan {
            resource: resource(key.client, group),
            scope: scope(group),
            resource_schema_url: "https://opentelemetry.io/schemas/1.30.0".to_owned(),
            scope_schema_url: if group == 0 {
                String::new()
            } else {
                "https://example.com/schema/2".to_owned()
            },
            span,
        }
    }

    /// One request with `count` spans from `first` on, grouped by resource and scope as an SDK would send them.
    pub fn request(&self, client: u16, first: u64, count: u64) -> ExportTraceServiceRequest {
        let mut groups: BTreeMap<u64, ResourceSpans> = BTreeMap::new();
        for seq in first..first + count {
            let full = self.span(SpanKey { client, seq });
            let group = groups
                .entry(seq / TRACE_SPANS % RESOURCES)
                .or_insert_with(|| ResourceSpans {
                    resource: Some(full.resource),
                    scope_spans: vec![ScopeSpans {
                        scope: Some(full.scope),
                        spans: Vec::new(),
                        schema_url: full.scope_schema_url,
                    }],
                    schema_url: full.resource_schema_url,
                });
            if let Some(scope) = group.scope_spans.first_mut() {
                scope.spans.push(full.span);
            }
        }
        ExportTraceServiceRequest {
            resource_spans: groups.into_values().collect(),
        }
    }

    /// Every trace id that these sequence numbers touch, in order, each once.
    pub fn trace_ids(&self, client: u16, first: u64, count: u64) -> Vec<[u8; 16]> {
        let traces = first / TRACE_SPANS..(first + count).div_ceil(TRACE_SPANS);
        traces
            .map(|trace| {
                self.trace_id(SpanKey {
                    client,
                    seq: trace * TRACE_SPANS,
                })
            })
            .collect()
    }

    /// Says whether what came back is what its span id promises.
    pub fn compare(&self, found: &FullSpan) -> Comparison {
        let Ok(id) = <[u8; 8]>::try_from(found.span.span_id.as_slice()) else {
            return Comparison::Altered(
                SpanKey {
                    client: u16::MAX,
                    seq: u64::MAX,
                },
                "span id's length",
            );
        };
        let key = self.key_of(id);
        let wanted = self.span(key);
        if content_hash(found) == content_hash(&wanted) {
            return Comparison::Same(key);
        }
        Comparison::Altered(key, first_difference(&wanted, found))
    }
}

/// Takes a reply apart into spans with their surroundings.
pub fn flatten(resource_spans: Vec<ResourceSpans>) -> Vec<FullSpan> {
    let mut flat = Vec::new();
    for by_resource in resource_spans {
        let resource = by_resource.resource.unwrap_or_default();
        for by_scope in by_resource.scope_spans {
            let scope = by_scope.scope.unwrap_or_default();
            flat.extend(by_scope.spans.into_iter().map(|span| FullSpan {
                resource: resource.clone(),
                scope: scope.clone(),
                resource_schema_url: by_resource.schema_url.clone(),
                scope_schema_url: by_scope.schema_url.clone(),
                span,
            }));
        }
    }
    flat
}

/// 64 bits over everything, attributes sorted by key.
pub fn content_hash(full: &FullSpan) -> u64 {
    let full = canonical(full);
    let mut bytes = Vec::new();
    for text in [&full.resource_schema_url, &full.scope_schema_url] {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    for part in [
        full.resource.encode_to_vec(),
        full.scope.encode_to_vec(),
        full.span.encode_to_vec(),
    ] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&part);
    }
    twox_hash::XxHash3_64::oneshot(&bytes)
}

fn canonical(full: &FullSpan) -> FullSpan {
    let mut full = full.clone();
    sort(&mut full.resource.attributes);
    sort(&mut full.scope.attributes);
    sort(&mut full.span.attributes);
    for event in &mut full.span.events {
        sort(&mut event.attributes);
    }
    for link in &mut full.span.links {
        sort(&mut link.attributes);
    }
    // An absent status and an unset one mean the same.
    full.span.status.get_or_insert_default();
    full
}

fn sort(attributes: &mut [KeyValue]) {
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
}

fn first_difference(wanted: &FullSpan, found: &FullSpan) -> &'static str {
    let (wanted, found) = (canonical(wanted), canonical(found));
    let (a, b) = (&wanted.span, &found.span);
    let parts = [
        (wanted.resource == found.resource, "resource"),
        (wanted.scope == found.scope, "scope"),
        (
            wanted.resource_schema_url == found.resource_schema_url,
            "resource schema url",
        ),
        (wanted.scope_schema_url == found.scope_schema_url, "scope schema url"),
        (a.trace_id == b.trace_id, "trace id"),
        (a.parent_span_id == b.parent_span_id, "parent span id"),
        (a.trace_state == b.trace_state, "trace state"),
        (a.flags == b.flags, "flags"),
        (a.name == b.name, "name"),
        (a.kind == b.kind, "kind"),
        (a.start_time_unix_nano == b.start_time_unix_nano, "start"),
        (a.end_time_unix_nano == b.end_time_unix_nano, "end"),
        (a.attributes == b.attributes, "attributes"),
        (
            a.dropped_attributes_count == b.dropped_attributes_count,
            "dropped attributes",
        ),
        (a.events == b.events, "events"),
        (a.dropped_events_count == b.dropped_events_count, "dropped events"),
        (a.links == b.links, "links"),
        (a.dropped_links_count == b.dropped_links_count, "dropped links"),
        (a.status == b.status, "status"),
    ];
    parts
        .iter()
        .find(|(same, _)| !same)
        .map_or("encoding", |(_, name)| name)
}

fn is_shared(trace: u64) -> bool {
    trace % SHARED_EVERY == SHARED_EVERY - 1
}

fn resource(client: u16, group: u64) -> Resource {
    Resource {
        attributes: vec![
            text("service.name", &format!("service-{group}")),
            text("service.instance.id", &format!("client-{client}")),
            text("k8s.pod.name", &format!("pod-{client}-{group}")),
            keyed("process.pid", Value::IntValue(1_000 + i64::from(client))),
            keyed("host.cores", Value::DoubleValue(2.5)),
        ],
        dropped_attributes_count: u32::from(group == 2),
        ..Default::default()
    }
}

fn scope(group: u64) -> InstrumentationScope {
    InstrumentationScope {
        name: format!("library-{group}"),
        version: "1.4.0".to_owned(),
        attributes: if group == 1 {
            vec![text("scope.kind", "auto")]
        } else {
            Vec::new()
        },
        dropped_attributes_count: 0,
    }
}

/// Every value type of OTLP, common keys and rare ones, short values and long.
fn span_attributes(key: SpanKey, draw: Draw) -> Vec<KeyValue> {
    let mut attributes = vec![
        // A needle: what a search by attribute must find exactly once.
        text("e2e.key", &format!("{}-{}", key.client, key.seq)),
        keyed("e2e.client", Value::IntValue(i64::from(key.client))),
        keyed(
            "http.response.status_code",
            Value::IntValue([200, 204, 404, 500][draw.pick(20, 4)]),
        ),
        text(
            "url.path",
            &format!("/item/{}/part/{}", draw.under(21, 1_000), draw.under(22, 10)),
        ),
        keyed("cache.hit", Value::BoolValue(draw.under(23, 2) == 0)),
        keyed("load", Value::DoubleValue(draw.under(24, 1_000) as f64 / 8.0)),
    ];
    match draw.under(25, 8) {
        0 => attributes.push(keyed("payload", Value::BytesValue(draw.0.to_le_bytes().to_vec()))),
        1 => attributes.push(keyed(
            "tags",
            Value::ArrayValue(ArrayValue {
                values: vec![value("a"), value(&draw.under(26, 9).to_string())],
            }),
        )),
        2 => attributes.push(keyed(
            "peer",
            Value::KvlistValue(KeyValueList {
                values: vec![text("host", "a.internal"), text("zone", "b")],
            }),
        )),
        3 => attributes.push(text(
            "exception.stacktrace",
            &"at frame\n".repeat(40 + draw.pick(27, 60)),
        )),
        4 => attributes.push(text(&format!("rare.{}", draw.under(28, 400)), "ünïcödé ✓")),
        5 => attributes.push(text("empty", "")),
        _ => {}
    }
    attributes
}

fn events(start: u64, duration: u64, draw: Draw) -> Vec<Event> {
    let count = draw.under(30, 4).saturating_sub(1);
    (0..count)
        .map(|n| Event {
            time_unix_nano: start + duration / (n + 2),
            name: ["retry", "exception", "message"][draw.pick(31 + n, 3)].to_owned(),
            attributes: vec![
                text("exception.type", "io.Timeout"),
                keyed("attempt", Value::IntValue(n as i64)),
            ],
            dropped_attributes_count: u32::from(n == 1),
        })
        .collect()
}

fn links(workload: &Workload, key: SpanKey, draw: Draw) -> Vec<Link> {
    if draw.under(40, 6) != 0 || key.seq < TRACE_SPANS {
        return Vec::new();
    }
    let to = SpanKey {
        seq: key.seq - TRACE_SPANS,
        ..key
    };
    vec![Link {
        trace_id: workload.trace_id(to).to_vec(),
        span_id: workload.span_id(to).to_vec(),
        trace_state: "vendor=3".to_owned(),
        attributes: vec![text("link.reason", "follows")],
        dropped_attributes_count: 0,
        flags: 0x301,
    }]
}

fn keyed(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    }
}

fn text(key: &str, text: &str) -> KeyValue {
    keyed(key, Value::StringValue(text.to_owned()))
}

fn value(text: &str) -> AnyValue {
    AnyValue {
        value: Some(Value::StringValue(text.to_owned())),
    }
}

/// Numbers drawn from one span's hash, each under its own label so that adding one moves no other.
#[derive(Debug, Clone, Copy)]
struct Draw(u64);

impl Draw {
    fn under(self, label: u64, bound: u64) -> u64 {
        mix(self.0, label) % bound
    }

    fn pick(self, label: u64, bound: usize) -> usize {
        (mix(self.0, label) % bound as u64) as usize
    }
}

/// Hashes two numbers into one (the finaliser of splitmix64).
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An invertible scramble: four Feistel rounds over the halves.
fn scramble(plain: u64, seed: u64) -> u64 {
    let (mut left, mut right) = ((plain >> 32) as u32, plain as u32);
    for round in 0..4 {
        (left, right) = (right, left ^ mix(seed ^ round, u64::from(right)) as u32);
    }
    u64::from(left) << 32 | u64::from(right)
}

fn unscramble(scrambled: u64, seed: u64) -> u64 {
    let (mut left, mut right) = ((scrambled >> 32) as u32, scrambled as u32);
    for round in (0..4).rev() {
        (left, right) = (right ^ mix(seed ^ round, u64::from(left)) as u32, left);
    }
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: Workload = Workload {
        seed: 7,
        start_ns: 1_700_000_000_000_000_000,
    };

    #[test]
    fn ids_say_who_they_are() {
        for client in [0, 1, 77, u16::MAX - 1] {
            for seq in [0, 1, 1_000_003, (1 << 48) - 2] {
                let key = SpanKey { client, seq };
                assert_eq!(W.key_of(W.span_id(key)), key);
                assert_ne!(W.span_id(key), [0; 8]);
            }
        }
    }

    #[test]
    fn spans_are_pure_functions() {
        let key = SpanKey { client: 3, seq: 41 };
        assert_eq!(W.span(key), W.span(key));
        assert_eq!(W.compare(&W.span(key)), Comparison::Same(key));
        let other = Workload::new(8, W.start_ns);
        assert_ne!(content_hash(&W.span(key)), content_hash(&other.span(key)));
    }

    #[test]
    fn requests_hold_each_span_once() {
        let request = W.request(1, 10, 100);
        let mut keys: Vec<u64> = flatten(request.resource_spans)
            .iter()
            .map(|full| match W.compare(full) {
                Comparison::Same(key) => key.seq,
                Comparison::Altered(key, part) => panic!("{key:?} differs in {part}"),
            })
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, (10..110).collect::<Vec<_>>());
    }

    #[test]
    fn some_traces_are_shared() {
        let shared = SpanKey {
            client: 1,
            seq: (SHARED_EVERY - 1) * TRACE_SPANS,
        };
        assert_eq!(W.trace_id(shared), W.trace_id(SpanKey { client: 2, ..shared }));
        let own = SpanKey { client: 1, seq: 0 };
        assert_ne!(W.trace_id(own), W.trace_id(SpanKey { client: 2, ..own }));
    }

    #[test]
    fn attribute_order_is_free_and_nothing_else() {
        let key = SpanKey { client: 1, seq: 5 };
        let mut full = W.span(key);
        full.span.attributes.reverse();
        assert_eq!(W.compare(&full), Comparison::Same(key));
        full.span.end_time_unix_nano += 1;
        assert_eq!(W.compare(&full), Comparison::Altered(key, "end"));
    }

    #[test]
    fn every_kind_of_value_occurs() {
        let mut seen = std::collections::BTreeSet::new();
        let (mut events, mut links, mut errors) = (0, 0, 0);
        for seq in 0..400 {
            let span = W.span(SpanKey { client: 0, seq }).span;
            events += span.events.len();
            links += span.links.len();
            errors += usize::from(span.status.unwrap_or_default().code == StatusCode::Error as i32);
            for attribute in span.attributes {
                seen.insert(match attribute.value.and_then(|any| any.value) {
                    Some(Value::StringValue(_)) => "string",
                    Some(Value::BoolValue(_)) => "bool",
                    Some(Value::IntValue(_)) => "int",
                    Some(Value::DoubleValue(_)) => "double",
                    Some(Value::ArrayValue(_)) => "array",
                    Some(Value::KvlistValue(_)) => "kvlist",
                    Some(Value::BytesValue(_)) => "bytes",
                    _ => "other",
                });
            }
        }
        assert_eq!(seen.len(), 7, "{seen:?}");
        assert!(events > 100 && links > 30 && errors > 5, "{events} {links} {errors}");
    }
}
