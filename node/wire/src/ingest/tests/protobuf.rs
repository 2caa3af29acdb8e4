//! We read as protobuf says: pieces, repeats, damage; prost is the other opinion.

use super::*;

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
