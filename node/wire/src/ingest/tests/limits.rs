//! Every limit of a span, a resource and a scope at limit - 1, limit and limit + 1.

use super::*;

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
fn resources_in_pieces_are_limited() {
    let pieces = [[0x0a, 0], [0x0a, 0]].concat();
    let group = [&[0x0a, pieces.len() as u8][..], &pieces].concat();
    for (count, accepted) in [(DISTINCT_MAX, true), (DISTINCT_MAX + 1, false)] {
        let body = group.repeat(count);
        assert_eq!(scan(&body, &IngestLimits::default(), one_shard).is_ok(), accepted);
    }
}
