//! What is accepted, rejected, cut and refused; every limit at limit - 1, limit and limit + 1.

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

#[test]
fn every_span_of_a_real_request_is_stored_as_it_came() {
    let sent = synthetic::request(1, 3000);
    let body = sent.encode_to_vec();
    let tenant = TenantId::single();
    let limits = IngestLimits::default();
    let scan = scan(&body, &limits, |id| ShardId::of(tenant.placement_hash(id), 4)).unwrap();
    assert_eq!(scan.outcome().partial_success(&limits), None);
    assert_eq!(scan.span_count(), 3000);
    let hash = BatchHash::of_request(&tenant, &body);
    let routed = scan.into_sub_batches(&tenant, hash);
    assert_eq!(routed.iter().map(|r| r.shard.0).collect::<Vec<_>>(), [0, 1, 2, 3]);

    let mut found = Vec::new();
    for Routed { shard, sub_batch } in &routed {
        let contents = sub_batch.contents().unwrap();
        let mut last = Vec::new();
        for frame in contents.spans() {
            let frame = frame.unwrap();
            let span = Span::decode(frame.span).unwrap();
            assert!(last <= span.trace_id, "sorted by trace id");
            last.clone_from(&span.trace_id);
            let id = TraceId(span.trace_id.clone().try_into().unwrap());
            assert_eq!(ShardId::of(tenant.placement_hash(&id), 4), *shard);
            let resource = contents.resource(frame.resource);
            let scope = contents.scope(frame.scope);
            found.push((
                resource.message.unwrap().to_vec(),
                resource.schema_url.to_vec(),
                scope.message.unwrap().to_vec(),
                span,
            ));
        }
        assert_eq!(sub_batch.header().hash, hash);
        assert_eq!(sub_batch.header().span_count, contents.spans().count() as u32);
    }
    let mut expected = Vec::new();
    for resource in &sent.resource_spans {
        let message = resource.resource.as_ref().unwrap().encode_to_vec();
        for scope in &resource.scope_spans {
            let url = resource.schema_url.clone().into_bytes();
            let scope_message = scope.scope.as_ref().unwrap().encode_to_vec();
            expected.extend(
                scope
                    .spans
                    .iter()
                    .map(|s| (message.clone(), url.clone(), scope_message.clone(), s.clone())),
            );
        }
    }
    let key = |row: &(Vec<u8>, Vec<u8>, Vec<u8>, Span)| row.3.span_id.clone();
    found.sort_by_key(key);
    expected.sort_by_key(key);
    assert!(found == expected);
}

#[test]
fn equal_resources_are_kept_once_and_absent_is_not_empty() {
    let of = |resource: Option<Resource>, url: &str| {
        let scope_spans = ScopeSpans {
            spans: vec![span()],
            ..ScopeSpans::default()
        };
        ResourceSpans {
            resource,
            scope_spans: vec![scope_spans],
            schema_url: url.into(),
        }
    };
    let full = Resource {
        attributes: vec![pair("service.name", text("a"))],
        ..Resource::default()
    };
    let empty = Some(Resource::default());
    let resource_spans = vec![
        of(Some(full.clone()), ""),
        of(None, ""),
        of(empty, ""),
        of(Some(full.clone()), ""),
        of(Some(full), "u"),
    ];
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    let scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    let routed = scan.into_sub_batches(&TenantId::single(), BatchHash(7));
    let contents = routed[0].sub_batch.contents().unwrap();
    let order: Vec<u32> = contents.spans().map(|span| span.unwrap().resource).collect();
    assert_eq!(order, [0, 1, 2, 0, 3]);
    assert_eq!(contents.resource(1).message, None);
    assert_eq!(contents.resource(2).message, Some(&[][..]));
    assert_eq!(contents.resource(3).schema_url, b"u");
    assert_eq!(contents.scope_count(), 1);
}

#[test]
fn bad_ids_reject_their_span_alone() {
    let with = |trace_id: &[u8], span_id: &[u8]| Span {
        trace_id: trace_id.to_vec(),
        span_id: span_id.to_vec(),
        ..span()
    };
    let cases = [
        (with(&[1; 15], &[2; 8]), Some(Rejection::TraceId)),
        (with(&[1; 17], &[2; 8]), Some(Rejection::TraceId)),
        (with(&[], &[2; 8]), Some(Rejection::TraceId)),
        (with(&[0; 16], &[2; 8]), Some(Rejection::TraceId)),
        (with(&[1; 16], &[2; 7]), Some(Rejection::SpanId)),
        (with(&[1; 16], &[2; 9]), Some(Rejection::SpanId)),
        (with(&[1; 16], &[0; 8]), Some(Rejection::SpanId)),
        (with(&[1; 16], &[]), Some(Rejection::SpanId)),
        (with(&[1; 16], &[2; 8]), None),
    ];
    for (span, rejection) in &cases {
        let (stored, outcome) = ingest(span.clone(), &IngestLimits::default());
        assert_eq!(outcome.first_rejection, *rejection);
        assert_eq!(stored.is_none(), rejection.is_some());
    }
    let body = body_of(cases.iter().map(|(span, _)| span.clone()).collect());
    let limits = IngestLimits::default();
    let scan = scan(&body, &limits, one_shard).unwrap();
    let (rejected, message) = scan.outcome().partial_success(&limits).unwrap();
    assert_eq!(rejected, 8);
    assert_eq!(
        message,
        "rejected 8 of 9 spans, first: trace id is not 16 bytes of which one is not zero"
    );
    assert_eq!(scan.outcome().rejections[..2], [4, 4]);
    assert_eq!(stored(scan).len(), 1);
}

#[test]
fn odd_times_are_kept_and_only_old_spans_are_rejected() {
    let limits = IngestLimits {
        oldest_unix_nanos: 1000,
        ..IngestLimits::default()
    };
    let cases = [
        (999, 998, false),
        (998, 999, false),
        (999, 1000, true),
        (1000, 0, true),
        (1001, 1, true),
        (0, 0, true),
        (0, 999, false),
        (u64::MAX, 1, true),
    ];
    for (start, end, accepted) in cases {
        let sent = Span {
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            ..span()
        };
        let (stored, outcome) = ingest(sent.clone(), &limits);
        assert_eq!(stored, accepted.then_some(sent), "{start} {end}");
        assert_eq!(outcome.first_rejection, (!accepted).then_some(Rejection::TooOld));
    }
    let body = body_of(
        [7, 0, 9]
            .map(|start| Span {
                start_time_unix_nano: start,
                ..span()
            })
            .to_vec(),
    );
    let scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    let header = scan.into_sub_batches(&TenantId::single(), BatchHash(7))[0]
        .sub_batch
        .header()
        .clone();
    assert_eq!((header.start_min_unix_nanos, header.start_max_unix_nanos), (0, 9));
}

type Make = fn(usize) -> Span;

/// Spans with `n` of something, and the limit's rejection.
fn countable() -> Vec<(Make, Rejection)> {
    fn attributes(n: usize) -> Vec<KeyValue> {
        (0..n)
            .map(|i| pair(&format!("k{i}"), Value::IntValue(i as i64)))
            .collect()
    }
    vec![
        (
            |n| Span {
                attributes: attributes(n),
                dropped_attributes_count: 4,
                ..span()
            },
            Rejection::Attributes,
        ),
        (
            |n| Span {
                events: vec![Event {
                    attributes: attributes(n),
                    ..Event::default()
                }],
                ..span()
            },
            Rejection::Attributes,
        ),
        (
            |n| Span {
                links: vec![Link {
                    attributes: attributes(n),
                    ..Link::default()
                }],
                ..span()
            },
            Rejection::Attributes,
        ),
        (
            |n| Span {
                events: vec![Event::default(); n],
                ..span()
            },
            Rejection::Events,
        ),
        (
            |n| Span {
                links: vec![
                    Link {
                        flags: 3,
                        ..Link::default()
                    };
                    n
                ],
                ..span()
            },
            Rejection::Links,
        ),
    ]
}

#[test]
fn counts_are_limited() {
    for (make, reason) in countable() {
        for n in [2, 3] {
            for oversize in [Oversize::Truncate, Oversize::Reject] {
                let (stored, outcome) = ingest(make(n), &small(oversize));
                assert_eq!(stored, Some(make(n)));
                assert!(outcome.cut.is_none() && outcome.rejected() == 0);
            }
        }
        let (stored, outcome) = ingest(make(4), &small(Oversize::Reject));
        assert_eq!((stored, outcome.first_rejection), (None, Some(reason)));

        let mut expected = make(3);
        match reason {
            Rejection::Events => expected.dropped_events_count += 1,
            Rejection::Links => expected.dropped_links_count += 1,
            _ if !expected.events.is_empty() => expected.events[0].dropped_attributes_count += 1,
            _ if !expected.links.is_empty() => expected.links[0].dropped_attributes_count += 1,
            _ => expected.dropped_attributes_count += 1,
        }
        let (stored, outcome) = ingest(make(4), &small(Oversize::Truncate));
        assert_eq!(stored, Some(expected));
        assert_eq!(outcome.rejected(), 0);
        let (rejected, message) = outcome.partial_success(&small(Oversize::Truncate)).unwrap();
        assert!(rejected == 0 && message.starts_with("dropped 1 "), "{message}");
    }
}

#[test]
fn keys_and_values_are_limited_wherever_they_are() {
    let array = |values: Vec<Value>| {
        let values = values
            .into_iter()
            .map(|value| AnyValue { value: Some(value) })
            .collect();
        Value::ArrayValue(ArrayValue { values })
    };
    let map = |key: &str, value: Value| {
        Value::KvlistValue(KeyValueList {
            values: vec![pair(key, value)],
        })
    };
    let long = "abcdefghijk";
    // (within the limit, beyond it, what is kept of it, reason)
    let cases: Vec<(KeyValue, KeyValue, KeyValue, Rejection)> = vec![
        (
            pair("k", text(&long[..10])),
            pair("k", text(long)),
            pair("k", text("abcdefg…")),
            Rejection::Value,
        ),
        (
            pair("k", text("ääääb")),
            pair("k", text("ääääääb")),
            pair("k", text("äää…")),
            Rejection::Value,
        ),
        (
            pair("k", Value::BytesValue(vec![9; 10])),
            pair("k", Value::BytesValue(vec![9; 11])),
            pair("k", Value::BytesValue(vec![9; 10])),
            Rejection::Value,
        ),
        (
            pair(&long[..10], text("v")),
            pair(long, text("v")),
            pair("abcdefg…", text("v")),
            Rejection::Key,
        ),
        (
            pair("k", array(vec![text("a"), text(&long[..9])])),
            pair("k", array(vec![text("a"), text(long)])),
            pair("k", array(vec![text("a"), text("abcdefg…")])),
            Rejection::Value,
        ),
        (
            pair("k", map(&long[..10], text("v"))),
            pair("k", map(long, text("v"))),
            pair("k", map("abcdefg…", text("v"))),
            Rejection::Key,
        ),
    ];
    let places: [fn(KeyValue) -> Span; 3] = [
        |attribute| Span {
            attributes: vec![attribute],
            trace_state: "t".repeat(50),
            ..span()
        },
        |attribute| Span {
            events: vec![Event {
                attributes: vec![attribute],
                name: "n".repeat(50),
                ..Event::default()
            }],
            ..span()
        },
        |attribute| Span {
            links: vec![Link {
                attributes: vec![attribute],
                trace_id: vec![3; 16],
                ..Link::default()
            }],
            ..span()
        },
    ];
    for (within, beyond, kept, reason) in cases {
        for place in places {
            for oversize in [Oversize::Truncate, Oversize::Reject] {
                let (stored, outcome) = ingest(place(within.clone()), &small(oversize));
                assert!(stored == Some(place(within.clone())) && outcome.cut.is_none());
            }
            let (stored, outcome) = ingest(place(beyond.clone()), &small(Oversize::Truncate));
            assert_eq!(stored, Some(place(kept.clone())));
            assert_eq!(outcome.cut.keys + outcome.cut.values, 1);
            let (stored, outcome) = ingest(place(beyond.clone()), &small(Oversize::Reject));
            assert_eq!((stored, outcome.first_rejection), (None, Some(reason)));
        }
    }
    let limits = small(Oversize::Truncate);
    let outcome = ingest(places[0](pair("k", text(long))), &limits).1;
    assert_eq!(
        outcome.partial_success(&limits),
        Some((0, "cut 1 attribute values over 10 bytes".into()))
    );
}

/// Spans of trace `trace` with ids from 1 on, `bytes` each.
fn spans_of(trace: u8, count: u8, bytes: usize) -> Vec<Span> {
    let of = |id: u8| {
        let mut span = Span {
            trace_id: vec![trace; 16],
            span_id: vec![id; 8],
            ..Span::default()
        };
        let empty = span.encoded_len();
        span.name = "x".repeat(bytes - empty - 2);
        assert_eq!(span.encoded_len(), bytes);
        span
    };
    (1..=count).map(of).collect()
}

/// Which of these spans are kept when trace 1 has `live` already: (trace, span id), and how many are rejected.
fn kept(spans: Vec<Span>, limits: TraceLimits, live: TraceSize) -> (Vec<(u8, u8)>, u64) {
    let body = body_of(spans);
    let mut scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    scan.limit_traces(&limits, live, |shard, traces| {
        assert_eq!(shard, ShardId(0));
        let size = |trace: &TraceId| if trace.0[0] == 1 { live } else { TraceSize::default() };
        traces.iter().map(size).collect()
    });
    let rejected = scan.outcome().rejected();
    assert_eq!(scan.outcome().reasons().map(|(_, count)| count).sum::<u64>(), rejected);
    let count = scan.span_count();
    let kept: Vec<_> = stored(scan)
        .iter()
        .map(|span| (span.trace_id[0], span.span_id[0]))
        .collect();
    assert_eq!(kept.len(), count);
    (kept, rejected)
}

#[test]
fn a_trace_has_so_many_live_spans() {
    let limits = TraceLimits {
        bytes_max: u64::MAX,
        spans_max: 5,
    };
    for (live, of_request, rejected) in [
        (0, 4, 0),
        (0, 5, 0),
        (0, 6, 1),
        (3, 1, 0),
        (3, 2, 0),
        (3, 3, 1),
        (5, 1, 1),
        (9, 2, 2),
        (u32::MAX, 2, 2),
    ] {
        let live = TraceSize { bytes: 0, spans: live };
        let mut spans = spans_of(1, of_request, 50);
        spans.extend(spans_of(2, 2, 50));
        let (kept, found) = kept(spans, limits, live);
        assert_eq!(found, rejected, "{live:?} and {of_request}");
        // The first ones of the trace, and all of the other.
        let first = (1..=of_request - rejected as u8).map(|id| (1, id));
        assert_eq!(kept, first.chain([(2, 1), (2, 2)]).collect::<Vec<_>>());
    }
}

#[test]
fn a_trace_has_so_many_live_bytes() {
    for (bytes_max, rejected) in [(399, 1), (400, 0), (401, 0), (349, 2), (0, 3)] {
        let limits = TraceLimits {
            bytes_max,
            spans_max: 1000,
        };
        let live = TraceSize { bytes: 250, spans: 1 };
        let (kept, found) = kept(spans_of(1, 3, 50), limits, live);
        assert_eq!((kept.len() as u64 + found, found), (3, rejected), "{bytes_max}");
    }
    // After one that does not fit nothing more is taken, though it would fit.
    let mut spans = spans_of(1, 2, 80);
    spans[1].name.truncate(1);
    let limits = TraceLimits {
        bytes_max: 70,
        spans_max: 1000,
    };
    assert_eq!(kept(spans, limits, TraceSize::default()), (vec![], 2));
}

#[test]
fn nobody_is_asked_when_nothing_can_be_too_large() {
    let body = body_of(spans_of(1, 4, 50));
    let mut scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    let limits = TraceLimits {
        bytes_max: 1000 + body.len() as u64,
        spans_max: 10,
    };
    let live = TraceSize { bytes: 1000, spans: 6 };
    scan.limit_traces(&limits, live, |_, _| panic!("asked"));
    assert_eq!((scan.span_count(), scan.outcome().rejected()), (4, 0));
}

#[test]
fn what_was_left_out_for_a_full_trace_may_be_sent_again() {
    let body = body_of(spans_of(1, 4, 50));
    let hashes = |spans_max: u64| {
        let mut scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
        let limits = TraceLimits {
            bytes_max: u64::MAX,
            spans_max,
        };
        scan.limit_traces(&limits, TraceSize::default(), |_, _| Vec::new());
        scan.into_sub_batches(&TenantId::single(), BatchHash(7))
            .iter()
            .map(|routed| routed.sub_batch.header().hash)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        hashes(4),
        [BatchHash(7)],
        "a retry of a whole request is the same batch"
    );
    assert_eq!(hashes(3), hashes(3));
    assert_ne!(hashes(3), hashes(4));
    assert_ne!(hashes(3), hashes(2));
    assert_eq!(hashes(0), []);
}

#[test]
fn resources_and_scopes_have_the_limits_of_spans() {
    let make = |value: &str| {
        let attributes = vec![pair("k", text(value))];
        let mut request = request(vec![span(), span()]);
        request.resource_spans[0].resource = Some(Resource {
            attributes: attributes.clone(),
            ..Resource::default()
        });
        let scope = InstrumentationScope {
            name: "n".repeat(30),
            attributes,
            ..InstrumentationScope::default()
        };
        request.resource_spans[0].scope_spans[0].scope = Some(scope);
        request.encode_to_vec()
    };
    let blobs = |body: &[u8]| {
        let scan = scan(body, &small(Oversize::Truncate), one_shard).unwrap();
        let cut = scan.outcome().cut.values;
        let routed = scan.into_sub_batches(&TenantId::single(), BatchHash(7));
        let contents = routed[0].sub_batch.contents().unwrap();
        let resource = Resource::decode(contents.resource(0).message.unwrap()).unwrap();
        (
            cut,
            resource,
            InstrumentationScope::decode(contents.scope(0).message.unwrap()).unwrap(),
        )
    };
    let (cut, resource, scope) = blobs(&make("abcdefghijk"));
    assert_eq!(cut, 2);
    assert_eq!(resource.attributes, [pair("k", text("abcdefg…"))]);
    assert_eq!(
        (scope.name.len(), scope.attributes),
        (30, vec![pair("k", text("abcdefg…"))])
    );
    assert_eq!(blobs(&make("abcdefghij")).0, 0);

    let body = make("abcdefghijk");
    let rejected = scan(&body, &small(Oversize::Reject), one_shard).unwrap();
    assert_eq!((rejected.span_count(), rejected.outcome().rejected()), (0, 2));
    assert!(rejected.into_sub_batches(&TenantId::single(), BatchHash(7)).is_empty());
}

#[test]
fn spans_resources_and_scopes_have_a_size() {
    let sized = |length: usize| Span {
        name: "n".repeat(length),
        ..span()
    };
    let overhead = sized(200).encoded_len() - 200;
    for (length, accepted) in [(999, true), (1000, true), (1001, false)] {
        let limits = IngestLimits {
            span_bytes_max: 1000,
            ..IngestLimits::default()
        };
        let (stored, outcome) = ingest(sized(length - overhead), &limits);
        assert_eq!(stored.is_some(), accepted);
        assert_eq!(outcome.first_rejection, (!accepted).then_some(Rejection::SpanBytes));

        let mut request = request(vec![span()]);
        let scope = InstrumentationScope {
            name: "n".repeat(length - 3),
            ..InstrumentationScope::default()
        };
        request.resource_spans[0].scope_spans[0].scope = Some(scope);
        let body = request.encode_to_vec();
        assert_eq!(
            scan(&body, &limits, one_shard).unwrap().span_count(),
            usize::from(accepted)
        );
    }
    // The frame's own ceiling holds whatever the tenant's limits say.
    for (length, accepted) in [(SPAN_BYTES_CEILING, true), (SPAN_BYTES_CEILING + 1, false)] {
        let limits = IngestLimits {
            span_bytes_max: usize::MAX,
            ..IngestLimits::default()
        };
        let overhead = sized(SPAN_BYTES_CEILING - 100).encoded_len() - (SPAN_BYTES_CEILING - 100);
        assert_eq!(ingest(sized(length - overhead), &limits).0.is_some(), accepted);
    }
}

#[test]
fn nesting_and_the_number_of_values_are_limited() {
    let nested = |depth: usize| {
        let mut value = Value::IntValue(1);
        for level in 1..depth {
            value = if level % 2 == 0 {
                Value::KvlistValue(KeyValueList {
                    values: vec![pair("k", value)],
                })
            } else {
                Value::ArrayValue(ArrayValue {
                    values: vec![AnyValue { value: Some(value) }],
                })
            };
        }
        body_of(vec![Span {
            attributes: vec![pair("k", value)],
            ..span()
        }])
    };
    for (depth, accepted) in [
        (VALUE_DEPTH_MAX - 1, true),
        (VALUE_DEPTH_MAX, true),
        (VALUE_DEPTH_MAX + 1, false),
    ] {
        let body = nested(depth);
        let scanned = scan(&body, &IngestLimits::default(), one_shard);
        assert_eq!(scanned.is_ok(), accepted, "{depth}");
    }
    for (nodes, accepted) in [(99, true), (100, true), (101, false)] {
        let attributes = (0..nodes).map(|_| pair("k", Value::IntValue(1))).collect();
        let body = body_of(vec![Span { attributes, ..span() }]);
        let limits = IngestLimits {
            nodes_max: 100,
            ..IngestLimits::default()
        };
        let scanned = scan(&body, &limits, one_shard).map(|scan| scan.span_count());
        assert_eq!(
            scanned.as_ref().map_err(Error::kind),
            if accepted { Ok(&1) } else { Err(Kind::Rejected) }
        );
    }
}

#[test]
fn different_resources_are_limited() {
    for (count, accepted) in [
        (DISTINCT_MAX - 1, true),
        (DISTINCT_MAX, true),
        (DISTINCT_MAX + 1, false),
    ] {
        let mut body = Vec::new();
        for number in 0..count {
            let mut resource = Vec::new();
            model::proto::write_varint_field(&mut resource, 2, number as u64);
            let mut group = Vec::new();
            model::proto::write_bytes(&mut group, 1, &resource);
            model::proto::write_bytes(&mut body, 1, &group);
        }
        assert_eq!(
            scan(&body, &IngestLimits::default(), one_shard).is_ok(),
            accepted,
            "{count}"
        );
    }
}

#[test]
fn a_resource_or_scope_in_pieces_is_one() {
    let whole = synthetic::request(1, 1);
    let (resource, scope) = (
        whole.resource_spans[0].resource.clone().unwrap(),
        whole.resource_spans[0].scope_spans[0].scope.clone().unwrap(),
    );
    let (early, late) = resource.attributes.split_at(2);
    let piece = |attributes: &[KeyValue]| Resource {
        attributes: attributes.to_vec(),
        ..Resource::default()
    };
    let named = InstrumentationScope {
        version: String::new(),
        ..scope.clone()
    };
    let versioned = InstrumentationScope {
        version: scope.version.clone(),
        ..InstrumentationScope::default()
    };
    let field = |number: u32, bytes: &[u8]| {
        let mut out = Vec::new();
        model::proto::write_bytes(&mut out, number, bytes);
        out
    };
    let message = |number: u32, message: &dyn Fn() -> Vec<u8>| field(number, &message());
    let spans = message(2, &|| span().encode_to_vec());
    let scope_spans = [
        message(1, &|| named.encode_to_vec()),
        spans,
        message(1, &|| versioned.encode_to_vec()),
    ];
    let resource_spans = [
        message(1, &|| piece(early).encode_to_vec()),
        field(2, &scope_spans.concat()),
        message(1, &|| piece(late).encode_to_vec()),
    ];
    let body = field(1, &resource_spans.concat());
    // What any other reader of protobuf makes of it.
    let expected = ExportTraceServiceRequest::decode(&body[..])
        .unwrap()
        .resource_spans
        .remove(0);
    assert_eq!(expected.resource.as_ref().unwrap().attributes, resource.attributes);
    let scanned = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    let routed = scanned.into_sub_batches(&TenantId::single(), BatchHash(7)).remove(0);
    let contents = routed.sub_batch.contents().unwrap();
    let found = contents.spans().next().unwrap().unwrap();
    let found = (contents.resource(found.resource), contents.scope(found.scope));
    let found = (
        Resource::decode(found.0.message.unwrap()).unwrap(),
        InstrumentationScope::decode(found.1.message.unwrap()).unwrap(),
    );
    assert_eq!(Some(found.0), expected.resource);
    assert_eq!(Some(found.1), expected.scope_spans[0].scope);

    // The limits see the whole.
    let limits = IngestLimits {
        attributes_max: resource.attributes.len() - 1,
        oversize: Oversize::Reject,
        ..IngestLimits::default()
    };
    let scanned = scan(&body, &limits, one_shard).unwrap();
    assert_eq!(scanned.outcome().first_rejection, Some(Rejection::Attributes));
}

#[test]
fn resources_in_pieces_are_limited() {
    let pieces = [[0x0a, 0], [0x0a, 0]].concat();
    let group = [&[0x0a, pieces.len() as u8][..], &pieces].concat();
    for (count, accepted) in [(DISTINCT_MAX, true), (DISTINCT_MAX + 1, false)] {
        let body = group.repeat(count);
        assert_eq!(scan(&body, &IngestLimits::default(), one_shard).is_ok(), accepted);
    }
}

#[test]
fn text_that_is_not_utf8_refuses_the_request_wherever_it_is() {
    let marker = "MARK";
    let attribute = || vec![pair("k", text(marker))];
    let resource = Resource {
        attributes: attribute(),
        ..Resource::default()
    };
    let mut requests = vec![
        request(vec![Span {
            name: marker.into(),
            ..span()
        }]),
        request(vec![Span {
            trace_state: marker.into(),
            ..span()
        }]),
        request(vec![Span {
            attributes: attribute(),
            ..span()
        }]),
        request(vec![Span {
            attributes: vec![pair(marker, text("v"))],
            ..span()
        }]),
        request(vec![Span {
            status: Some(Status {
                message: marker.into(),
                code: 0,
            }),
            ..span()
        }]),
        request(vec![Span {
            events: vec![Event {
                name: marker.into(),
                ..Event::default()
            }],
            ..span()
        }]),
        request(vec![Span {
            events: vec![Event {
                attributes: attribute(),
                ..Event::default()
            }],
            ..span()
        }]),
        request(vec![Span {
            links: vec![Link {
                trace_state: marker.into(),
                ..Link::default()
            }],
            ..span()
        }]),
        request(vec![Span {
            links: vec![Link {
                attributes: attribute(),
                ..Link::default()
            }],
            ..span()
        }]),
    ];
    let mut places = vec![request(vec![span()]); 5];
    places[0].resource_spans[0].resource = Some(resource);
    places[1].resource_spans[0].schema_url = marker.into();
    let scope = |name: &str, version: &str| InstrumentationScope {
        name: name.into(),
        version: version.into(),
        ..InstrumentationScope::default()
    };
    places[2].resource_spans[0].scope_spans[0].scope = Some(scope(marker, ""));
    places[3].resource_spans[0].scope_spans[0].scope = Some(scope("", marker));
    places[4].resource_spans[0].scope_spans[0].schema_url = marker.into();
    requests.extend(places);
    for request in requests {
        let mut body = request.encode_to_vec();
        assert!(scan(&body, &IngestLimits::default(), one_shard).is_ok());
        let at = body.windows(4).position(|window| window == marker.as_bytes()).unwrap();
        body[at] = 0xff;
        assert!(ExportTraceServiceRequest::decode(&body[..]).is_err());
        let error = scan(&body, &IngestLimits::default(), one_shard).unwrap_err();
        assert!(
            error.kind() == Kind::Rejected && error.to_client_text().contains("UTF-8"),
            "{error:?}"
        );
    }
}

#[test]
fn a_cut_request_is_refused_unless_it_ends_between_messages() {
    let body = synthetic::request(3, 12).encode_to_vec();
    for end in 0..body.len() {
        let ours = scan(&body[..end], &IngestLimits::default(), one_shard).is_ok();
        assert_eq!(
            ours,
            ExportTraceServiceRequest::decode(&body[..end]).is_ok(),
            "cut at {end}"
        );
    }
    assert_eq!(scan(&[], &IngestLimits::default(), one_shard).unwrap().span_count(), 0);
}

#[test]
fn a_large_request_is_cut_into_the_same_parts_by_every_retry() {
    let body = synthetic::request(5, 20_000).encode_to_vec();
    assert!(body.len() > 2 * PART_BYTES);
    let hash = BatchHash::of_request(&TenantId::single(), &body);
    let parts = |limits: &IngestLimits| {
        let scan = scan(&body, limits, one_shard).unwrap();
        let routed = scan.into_sub_batches(&TenantId::single(), hash);
        routed.into_iter().map(|routed| routed.sub_batch).collect::<Vec<_>>()
    };
    let first = parts(&IngestLimits::default());
    assert_eq!(first.len(), body.len().div_ceil(PART_BYTES));
    assert_eq!(first[0].header().hash, hash);
    let mut hashes: Vec<_> = first.iter().map(|part| part.header().hash).collect();
    // The retry comes later: meanwhile some spans have become too old. The parts keep their names and their borders.
    let retry = parts(&IngestLimits {
        oldest_unix_nanos: 1_700_000_000_000_000_000 + 20_000_000_000,
        ..IngestLimits::default()
    });
    assert_eq!(hashes, retry.iter().map(|part| part.header().hash).collect::<Vec<_>>());
    for (before, after) in first.iter().zip(&retry) {
        assert!(after.header().span_count < before.header().span_count);
        let kept: std::collections::BTreeSet<_> = before
            .contents()
            .unwrap()
            .spans()
            .map(|span| span.unwrap().span.to_vec())
            .collect();
        assert!(
            after
                .contents()
                .unwrap()
                .spans()
                .all(|span| kept.contains(span.unwrap().span))
        );
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), first.len());
}

/// What a span belongs to is known after it was read: taking it back leaves its neighbours of the same trace alone.
#[test]
fn spans_of_a_rejected_resource_or_scope_go_without_their_neighbours() {
    let long = || vec![pair("a key that is too long", text("v"))];
    let numbered = |n: u8| Span {
        span_id: vec![n; 8],
        attributes: vec![pair("k", text("v")), pair("l", text("v"))],
        ..span()
    };
    let scoped = |attributes, spans: &[u8]| ScopeSpans {
        scope: Some(InstrumentationScope {
            attributes,
            ..InstrumentationScope::default()
        }),
        spans: spans.iter().map(|n| numbered(*n)).collect(),
        ..ScopeSpans::default()
    };
    let owned = |attributes, scope_spans| ResourceSpans {
        resource: Some(Resource {
            attributes,
            ..Resource::default()
        }),
        scope_spans,
        ..ResourceSpans::default()
    };
    let body = ExportTraceServiceRequest {
        resource_spans: vec![
            owned(
                Vec::new(),
                vec![
                    scoped(Vec::new(), &[1, 2]),
                    scoped(long(), &[3, 4]),
                    scoped(Vec::new(), &[5]),
                ],
            ),
            owned(
                long(),
                vec![scoped(Vec::new(), &[6]), scoped(long(), &[7]), scoped(Vec::new(), &[8])],
            ),
            owned(Vec::new(), vec![scoped(long(), &[9]), scoped(Vec::new(), &[10])]),
        ],
    }
    .encode_to_vec();
    let scan = scan(&body, &small(Oversize::Reject), one_shard).unwrap();
    assert_eq!(
        (scan.outcome().received, scan.outcome().rejected(), scan.span_count()),
        (10, 6, 4)
    );
    let ids: Vec<u8> = stored(scan).iter().map(|span| span.span_id[0]).collect();
    assert_eq!(ids, [1, 2, 5, 10]);
}

/// A span, followed by fields that it has already or that belong elsewhere: what is stored is what prost makes of it.
#[test]
fn a_field_that_is_sent_again_is_checked_and_counts_as_protobuf_says() {
    let field = |number: u32, bytes: &[u8]| {
        let mut out = Vec::new();
        model::proto::write_bytes(&mut out, number, bytes);
        out
    };
    let status = |message: &str, code: i32| Status {
        message: message.into(),
        code,
    };
    let first = Span {
        trace_state: "a=1".into(),
        status: Some(status("it broke", 0)),
        ..span()
    };
    let key_with = |rest: &[u8]| field(9, &[&field(1, b"k")[..], rest].concat());
    let rows: [(&str, Vec<u8>, bool); 12] = [
        ("name", field(5, b"later"), true),
        ("name, emptied", field(5, b""), true),
        ("trace state", field(3, b"b=2"), true),
        ("status code", field(15, &status("", 2).encode_to_vec()), true),
        (
            "status message",
            field(15, &status("it broke again", 0).encode_to_vec()),
            true,
        ),
        ("empty status", field(15, b""), true),
        (
            "two more",
            [
                field(15, &status("", 2).encode_to_vec()),
                field(15, &status("z", 1).encode_to_vec()),
            ]
            .concat(),
            true,
        ),
        (
            "name, bad and then good",
            [field(5, b"\xff"), field(5, b"good")].concat(),
            false,
        ),
        (
            "trace state, bad and then good",
            [field(3, b"\xff"), field(3, b"good")].concat(),
            false,
        ),
        (
            "status, bad and then good",
            [field(15, b"\x12\x05a"), field(15, b"")].concat(),
            false,
        ),
        ("index of a key that is a text", key_with(&field(3, b"x")), false),
        (
            "index of a text that is a text",
            key_with(&field(2, &field(8, b"x"))),
            false,
        ),
    ];
    for (what, more, good) in rows {
        let bytes = [first.encode_to_vec(), more].concat();
        let body = field(1, &field(2, &field(2, &bytes)));
        let theirs = Span::decode(&bytes[..]);
        assert_eq!(theirs.is_ok(), good, "{what}");
        match scan(&body, &IngestLimits::default(), one_shard) {
            Ok(scan) => {
                // What was accepted is whole after the table, too.
                let kept = stored(scan);
                assert_eq!(kept, [theirs.expect(what)], "{what}");
                let mut table = model::SpanTable::new();
                let (resource, scope) = (table.intern_resource(None, b""), table.intern_scope(None, b""));
                let row = table.append(resource, scope, &kept[0].encode_to_vec()).unwrap();
                let mut out = Vec::new();
                table.write_span(row, &mut out);
                assert_eq!([Span::decode(&out[..]).unwrap()], kept[..], "{what}");
            }
            Err(error) => assert!(!good, "{what}: {error}"),
        }
    }
}

/// The same for what spans share: pieces are joined, and each must be a message.
#[test]
fn a_schema_url_or_resource_that_is_sent_again_is_checked() {
    let field = |number: u32, bytes: &[u8]| {
        let mut out = Vec::new();
        model::proto::write_bytes(&mut out, number, bytes);
        out
    };
    let scope_spans = field(2, &field(2, &span().encode_to_vec()));
    let rows: [(&str, Vec<u8>); 4] = [
        ("a good one, twice", [field(3, b"a"), field(3, b"b")].concat()),
        ("bad and then good", [field(3, b"\xff"), field(3, b"b")].concat()),
        // Together the pieces would be an attribute without a key.
        (
            "a piece that ends inside a field",
            [field(1, b"\x0a\x02"), field(1, b"\x12\x00")].concat(),
        ),
        (
            "the last piece ends inside a field",
            [field(1, b""), field(1, b"\x0a\x02")].concat(),
        ),
    ];
    for (what, more) in rows {
        for body in [
            field(1, &[&scope_spans[..], &more].concat()),
            field(1, &field(2, &[&field(2, &span().encode_to_vec())[..], &more].concat())),
        ] {
            let theirs = ExportTraceServiceRequest::decode(&body[..]);
            let ours = scan(&body, &IngestLimits::default(), one_shard);
            assert_eq!(
                ours.is_ok(),
                theirs.is_ok(),
                "{what}: {:?}, {:?}",
                ours.err(),
                theirs.err()
            );
        }
    }
}

/// A request that has every field once, and no long ones.
fn every_field() -> ExportTraceServiceRequest {
    let mut values = vec![
        Value::StringValue("v".into()),
        Value::BoolValue(true),
        Value::IntValue(-1),
        Value::DoubleValue(0.5),
        Value::BytesValue(vec![0xff]),
    ];
    let any = |value| AnyValue { value: Some(value) };
    values.push(Value::ArrayValue(ArrayValue {
        values: vec![any(Value::IntValue(7))],
    }));
    values.push(Value::KvlistValue(KeyValueList {
        values: vec![pair("k", text("v"))],
    }));
    let one = || vec![pair("k", text("v"))];
    let span = Span {
        trace_state: "a=1".into(),
        parent_span_id: vec![3; 8],
        flags: 1,
        kind: 2,
        end_time_unix_nano: 9,
        attributes: values.into_iter().map(|value| pair("k", value)).collect(),
        dropped_attributes_count: 1,
        events: vec![Event {
            time_unix_nano: 6,
            name: "e".into(),
            attributes: one(),
            dropped_attributes_count: 1,
        }],
        dropped_events_count: 1,
        links: vec![Link {
            trace_id: vec![4; 16],
            span_id: vec![5; 8],
            trace_state: "b=2".into(),
            attributes: one(),
            dropped_attributes_count: 1,
            flags: 1,
        }],
        dropped_links_count: 1,
        status: Some(Status {
            message: "m".into(),
            code: 2,
        }),
        ..span()
    };
    let mut request = request(vec![span]);
    let resource_spans = &mut request.resource_spans[0];
    resource_spans.schema_url = "u".into();
    resource_spans.resource = Some(Resource {
        attributes: one(),
        dropped_attributes_count: 1,
        entity_refs: Vec::new(),
    });
    resource_spans.scope_spans[0].schema_url = "u".into();
    resource_spans.scope_spans[0].scope = Some(InstrumentationScope {
        name: "s".into(),
        version: "1".into(),
        attributes: one(),
        dropped_attributes_count: 1,
    });
    request
}

/// What we accept, prost reads; what prost reads and we refuse is an old group or nested too deeply.
fn agrees_with_prost(body: &[u8]) -> Result<(), TestCaseError> {
    let theirs = ExportTraceServiceRequest::decode(body);
    match scan(body, &IngestLimits::default(), one_shard) {
        Ok(scan) => {
            prop_assert!(theirs.is_ok(), "{}", theirs.unwrap_err());
            let theirs = theirs.unwrap();
            let count: usize = theirs
                .resource_spans
                .iter()
                .flat_map(|r| &r.scope_spans)
                .map(|s| s.spans.len())
                .sum();
            prop_assert_eq!(scan.outcome().received, count as u64);
        }
        Err(Error::Otlp {
            source: Malformed::Tag | Malformed::TooDeep,
            ..
        }) => {}
        Err(error) => prop_assert!(theirs.is_err(), "{}", error),
    }
    Ok(())
}

#[test]
fn agrees_with_prost_whatever_one_byte_is() {
    let whole = every_field().encode_to_vec();
    for place in 0..whole.len() {
        let mut body = whole.clone();
        for byte in 0..=255 {
            body[place] = byte;
            agrees_with_prost(&body).unwrap_or_else(|error| panic!("byte {place} is {byte}: {error}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_prost_on_damaged_requests(seed in 0u64..50, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut body = synthetic::request(seed, 6).encode_to_vec();
        for (place, byte) in &damage {
            let place = place.index(body.len());
            body[place] = *byte;
        }
        agrees_with_prost(&body)?;
    }
}
