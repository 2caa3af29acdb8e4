//! The table against OTLP: everything comes back, nothing twice, nothing grows without bound.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};
use proptest::prelude::*;
use prost::Message;

use super::*;

fn some(value: any_value::Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn any_value() -> impl Strategy<Value = Option<AnyValue>> {
    let scalar = prop_oneof![
        "[a-c]{0,3}".prop_map(|text| some(any_value::Value::StringValue(text))),
        any::<bool>().prop_map(|flag| some(any_value::Value::BoolValue(flag))),
        any::<i64>().prop_map(|value| some(any_value::Value::IntValue(value))),
        (-1e9..1e9f64).prop_map(|value| some(any_value::Value::DoubleValue(value))),
        Just(Some(AnyValue { value: None })),
        Just(None),
        proptest::collection::vec(any::<u8>(), 0..4).prop_map(|raw| some(any_value::Value::BytesValue(raw))),
    ];
    scalar.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|list| {
                let values = list.into_iter().map(Option::unwrap_or_default).collect();
                some(any_value::Value::ArrayValue(ArrayValue { values }))
            }),
            proptest::collection::vec(("[a-c]", inner), 0..3).prop_map(|map| {
                let values = map
                    .into_iter()
                    .map(|(key, value)| KeyValue {
                        key,
                        value,
                        ..Default::default()
                    })
                    .collect();
                some(any_value::Value::KvlistValue(KeyValueList { values }))
            }),
        ]
    })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = ("[a-e]{1,2}", any_value()).prop_map(|(key, value)| KeyValue {
        key,
        value,
        ..Default::default()
    });
    proptest::collection::vec(pair, 0..6)
}

prop_compose! {
    fn arbitrary_span()(
        trace in 0u8..4, span_id in any::<[u8; 8]>(), parent in prop_oneof![Just(vec![]), Just(vec![0u8; 8]), any::<[u8; 8]>().prop_map(|id| id.to_vec())],
        trace_state in "[a-z=]{0,5}", name in "[a-z]{0,3}", kind in 0i32..9, times in any::<(u64, u64)>(), attributes in attributes(),
        dropped in (0u32..3, 0u32..3, 0u32..3), flags in any::<u32>(), status in proptest::option::of(("[a-z]{0,4}", 0i32..5)),
        events in proptest::collection::vec((any::<u64>(), "[a-z]{0,3}", attributes()), 0..3),
        links in proptest::collection::vec((any::<[u8; 16]>(), any::<u32>(), attributes()), 0..3),
    ) -> Span {
        Span {
            trace_id: vec![trace + 1; 16],
            span_id: span_id.to_vec(),
            trace_state,
            parent_span_id: parent,
            flags,
            name,
            kind,
            start_time_unix_nano: times.0,
            end_time_unix_nano: times.1,
            attributes,
            dropped_attributes_count: dropped.0,
            events: events.into_iter().map(|(time, name, attributes)| span::Event { time_unix_nano: time, name, attributes, dropped_attributes_count: 1 }).collect(),
            dropped_events_count: dropped.1,
            links: links.into_iter().map(|(id, flags, attributes)| span::Link { trace_id: id.to_vec(), span_id: vec![1; 8], flags, attributes, ..Default::default() }).collect(),
            dropped_links_count: dropped.2,
            status: status.map(|(message, code)| Status { message, code }),
        }
    }
}

/// Attribute order means nothing in OTLP, and the table does not keep it.
fn sorted(mut span: Span) -> Span {
    span.attributes.sort_by_key(Message::encode_to_vec);
    span
}

proptest! {
    #[test]
    fn every_span_comes_back_whole(spans in proptest::collection::vec(arbitrary_span(), 1..20)) {
        let mut table = SpanTable::new();
        let resource = table.intern_resource(Some(b"\x10\x01"), b"url");
        let scope = table.intern_scope(None, b"");
        for span in &spans {
            table.append(resource, scope, &span.encode_to_vec()).unwrap();
        }
        for (row, span) in spans.into_iter().enumerate() {
            let mut bytes = Vec::new();
            table.write_span(row as u32, &mut bytes);
            prop_assert_eq!(sorted(Span::decode(bytes.as_slice()).unwrap()), sorted(span));
        }
    }

    #[test]
    fn a_failed_append_changes_nothing(span in arbitrary_span(), cut in 1usize..40) {
        let mut table = SpanTable::new();
        let whole = span.encode_to_vec();
        table.append(0, 0, &whole).unwrap();
        let mut broken = whole.clone();
        broken.truncate(whole.len().saturating_sub(cut));
        let mut probe = table.clone();
        if probe.append(0, 0, &broken).is_err() {
            prop_assert_eq!(probe.len(), 1);
            probe.append(0, 0, &whole).unwrap();
            let (mut first, mut second) = (Vec::new(), Vec::new());
            probe.write_span(0, &mut first);
            probe.write_span(1, &mut second);
            prop_assert_eq!(first, second);
        }
    }
}

fn minimal(attributes: Vec<KeyValue>) -> Vec<u8> {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        attributes,
        ..Default::default()
    }
    .encode_to_vec()
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: some(any_value::Value::StringValue(value.into())),
        ..Default::default()
    }
}

#[test]
fn text_that_hardly_repeats_leaves_the_dictionary() {
    let mut table = SpanTable::new();
    for n in 0..9000 {
        table
            .append(
                0,
                0,
                &minimal(vec![text("unique", &format!("v{n}")), text("same", "x")]),
            )
            .unwrap();
    }
    let unique = table.attribute(b"unique", ValueType::String).unwrap();
    assert!(matches!(unique.data(), AttributeData::Plain(_)));
    assert_eq!(unique.rows().len(), 9000);
    assert_eq!(unique.value(8500), Some(ValueRef::String(b"v8500")));
    assert_eq!(unique.value(17), Some(ValueRef::String(b"v17")));
    let same = table.attribute(b"same", ValueType::String).unwrap();
    assert!(matches!(same.data(), AttributeData::Dict { dict, .. } if dict.len() == 1));
}

#[test]
fn invented_keys_fill_the_tail_and_not_memory() {
    let mut table = SpanTable::new();
    for n in 0..ATTRIBUTE_COLUMNS_MAX + 1 {
        table.append(0, 0, &minimal(vec![text(&format!("k{n}"), "v")])).unwrap();
    }
    assert_eq!(table.attributes().len(), ATTRIBUTE_COLUMNS_MAX);
    assert_eq!(table.tail().rows(), [ATTRIBUTE_COLUMNS_MAX as u32]);
}

#[test]
fn one_key_of_two_types_and_twice_in_one_span() {
    let mut table = SpanTable::new();
    let int = KeyValue {
        key: "k".into(),
        value: some(any_value::Value::IntValue(7)),
        ..Default::default()
    };
    table
        .append(0, 0, &minimal(vec![text("k", "a"), int, text("k", "b")]))
        .unwrap();
    assert_eq!(
        table.attribute(b"k", ValueType::String).unwrap().value(0),
        Some(ValueRef::String(b"a"))
    );
    assert_eq!(
        table.attribute(b"k", ValueType::Int).unwrap().value(0),
        Some(ValueRef::Int(7))
    );
    assert!(!table.tail().get(0).is_empty());
}

#[test]
fn owners_come_apart_again() {
    for (message, url) in [
        (None, &b""[..]),
        (Some(&b""[..]), b"u"),
        (Some(b"abc"), b""),
        (Some(b"abc"), b"https://x"),
    ] {
        assert_eq!(read_owner(&owner_blob(message, url)).unwrap(), (message, url));
    }
    assert!(read_owner(b"").is_err());
    assert!(read_owner(b"\x01\x09a").is_err());
    assert!(read_owner(b"\x00\x00a").is_err());
}

#[test]
fn a_span_sent_twice_is_kept_once_and_a_shared_id_is_not_a_copy() {
    let span = |name: &str, start: u64, attribute: &str| {
        let (trace_id, span_id) = (vec![1; 16], vec![2; 8]);
        let attributes = vec![text("k", attribute)];
        Span {
            trace_id,
            span_id,
            name: name.into(),
            start_time_unix_nano: start,
            attributes,
            ..Default::default()
        }
        .encode_to_vec()
    };
    let mut table = SpanTable::new();
    assert_eq!(table.append_distinct(0, 0, &span("a", 1, "x")).unwrap(), Some(0));
    assert_eq!(table.append_distinct(0, 0, &span("a", 1, "x")).unwrap(), None);
    assert_eq!(table.append_distinct(0, 0, &span("a", 1, "y")).unwrap(), Some(1));
    assert_eq!(table.append_distinct(0, 0, &span("b", 1, "x")).unwrap(), Some(2));
    assert_eq!(table.append_distinct(1, 0, &span("a", 1, "x")).unwrap(), Some(3));
    assert_eq!(table.append_distinct(0, 0, &span("b", 1, "x")).unwrap(), None);
    assert_eq!(
        (
            table.len(),
            table.attribute(b"k", ValueType::String).unwrap().rows().len()
        ),
        (4, 4)
    );
    let size = table.trace_size(0);
    assert_eq!((size.spans, size.bytes), (4, 4 * span("a", 1, "x").len() as u64));
    let mut bytes = Vec::new();
    table.write_span(2, &mut bytes);
    assert_eq!(bytes, span("b", 1, "x"));
}
