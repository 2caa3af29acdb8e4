//! Spans of every shape, and how the tests compare them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses its part of the support code"
)]

use std::sync::Arc;

use block::{Block, BlockStats, BlockSummary, BlockWriter, MemoryReader, Schema, SectionLocation, SpanRows};
use bytes::Bytes;
use model::{SpanTable, TenantId};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};
use proptest::prelude::*;
use prost::Message;

pub fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn any_of(value: any_value::Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn any_value() -> impl Strategy<Value = Option<AnyValue>> {
    let scalar = prop_oneof![
        "[a-c]{0,3}".prop_map(|text| any_of(any_value::Value::StringValue(text))),
        any::<bool>().prop_map(|flag| any_of(any_value::Value::BoolValue(flag))),
        any::<i64>().prop_map(|value| any_of(any_value::Value::IntValue(value))),
        (0i64..5).prop_map(|value| any_of(any_value::Value::IntValue(value))),
        (-1e9..1e9f64).prop_map(|value| any_of(any_value::Value::DoubleValue(value))),
        Just(Some(AnyValue { value: None })),
        Just(None),
        proptest::collection::vec(any::<u8>(), 0..4).prop_map(|raw| any_of(any_value::Value::BytesValue(raw))),
    ];
    scalar.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|list| {
                let values = list.into_iter().map(Option::unwrap_or_default).collect();
                any_of(any_value::Value::ArrayValue(ArrayValue { values }))
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
                any_of(any_value::Value::KvlistValue(KeyValueList { values }))
            }),
        ]
    })
}

pub fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = ("[a-e]{1,2}", any_value()).prop_map(|(key, value)| KeyValue {
        key,
        value,
        ..Default::default()
    });
    proptest::collection::vec(pair, 0..6)
}

/// Few trace and span ids, so that parents, late spans, duplicates, circles and several roots all happen.
fn span_id() -> impl Strategy<Value = Vec<u8>> {
    (1u8..9).prop_map(|n| vec![n; 8])
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1_700_000_000_000_000_000u64..1_700_000_000_000_001_000,
        1 => Just(0),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ]
}

prop_compose! {
    pub fn arbitrary_span()(
        trace in 0u8..5,
        span_id in span_id(),
        parent in prop_oneof![Just(vec![]), Just(vec![0u8; 8]), span_id(), span_id(), any::<[u8; 8]>().prop_map(|id| id.to_vec())],
        trace_state in "[a-z=]{0,2}",
        name in "[a-z]{0,2}",
        kind in 0i32..9,
        times in (time(), time()),
        attributes in attributes(),
        dropped in (0u32..3, 0u32..3, prop_oneof![Just(0), any::<u32>()]),
        flags in prop_oneof![0u32..3, any::<u32>()],
        status in proptest::option::of(("[a-z]{0,2}", 0i32..5)),
        events in proptest::collection::vec((any::<u64>(), "[a-z]{0,3}", attributes()), 0..3),
        links in proptest::collection::vec((any::<[u8; 16]>(), any::<u32>(), attributes()), 0..2),
    ) -> Span {
        Span {
            trace_id: vec![trace + 1; 16],
            span_id,
            trace_state,
            parent_span_id: parent,
            flags,
            name,
            kind,
            start_time_unix_nano: times.0,
            end_time_unix_nano: times.1,
            attributes,
            dropped_attributes_count: dropped.0,
            events: events
                .into_iter()
                .map(|(time, name, attributes)| span::Event { time_unix_nano: time, name, attributes, dropped_attributes_count: 1 })
                .collect(),
            dropped_events_count: dropped.1,
            links: links
                .into_iter()
                .map(|(id, flags, attributes)| span::Link { trace_id: id.to_vec(), span_id: vec![1; 8], flags, attributes, ..Default::default() })
                .collect(),
            dropped_links_count: dropped.2,
            status: status.map(|(message, code)| Status { message, code }),
        }
    }
}

/// A span with its resource and scope (message, schema url), each one of a few.
#[derive(Debug, Clone)]
pub struct Owned {
    pub span: Span,
    pub resource: u8,
    pub scope: u8,
}

pub fn owned_spans(max: usize) -> impl Strategy<Value = Vec<Owned>> {
    let one = (arbitrary_span(), 0u8..4, 0u8..3).prop_map(|(span, resource, scope)| Owned { span, resource, scope });
    proptest::collection::vec(one, 0..max)
}

fn resource(n: u8) -> (Option<Vec<u8>>, Vec<u8>) {
    use opentelemetry_proto::tonic::resource::v1::Resource;
    let service = |value| KeyValue {
        key: "service.name".into(),
        value,
        ..Default::default()
    };
    match n {
        0 => (None, Vec::new()),
        1 => (Some(Vec::new()), b"https://schema/1".to_vec()),
        2 => {
            let attributes = vec![service(any_of(any_value::Value::StringValue("shop".into())))];
            (
                Some(
                    Resource {
                        attributes,
                        dropped_attributes_count: 3,
                        ..Default::default()
                    }
                    .encode_to_vec(),
                ),
                Vec::new(),
            )
        }
        _ => {
            let attributes = vec![service(any_of(any_value::Value::IntValue(7)))];
            (
                Some(
                    Resource {
                        attributes,
                        ..Default::default()
                    }
                    .encode_to_vec(),
                ),
                b"u".to_vec(),
            )
        }
    }
}

fn scope(n: u8) -> (Option<Vec<u8>>, Vec<u8>) {
    use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
    match n {
        0 => (None, Vec::new()),
        1 => (Some(Vec::new()), b"url".to_vec()),
        _ => (
            Some(
                InstrumentationScope {
                    name: "lib".into(),
                    version: "1".into(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            Vec::new(),
        ),
    }
}

pub fn table(spans: &[Owned]) -> SpanTable {
    let mut table = SpanTable::new();
    for owned in spans {
        let (message, url) = resource(owned.resource);
        let resource = table.intern_resource(message.as_deref(), &url);
        let (message, url) = scope(owned.scope);
        let scope = table.intern_scope(message.as_deref(), &url);
        table.append(resource, scope, &owned.span.encode_to_vec()).unwrap();
    }
    table
}

/// A span as bytes that are equal for equal spans: attributes sorted, resource and scope blobs behind.
pub fn normal(span: &[u8], resource: &[u8], scope: &[u8]) -> Vec<u8> {
    let mut span = Span::decode(span).unwrap();
    span.attributes.sort_by_key(Message::encode_to_vec);
    let mut bytes = span.encode_to_vec();
    bytes.push(0xff);
    bytes.extend_from_slice(resource);
    bytes.push(0xff);
    bytes.extend_from_slice(scope);
    bytes
}

pub fn spans_of_table(table: &SpanTable) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..table.len() as u32)
        .map(|row| {
            let mut bytes = Vec::new();
            table.write_span(row, &mut bytes);
            let resource = table.resources().get(table.resource()[row as usize]);
            let scope = table.scopes().get(table.scope()[row as usize]);
            normal(&bytes, resource, scope)
        })
        .collect();
    all.sort();
    all
}

pub fn spans_of_rows(rows: &SpanRows) -> Vec<Vec<u8>> {
    (0..rows.len() as u32)
        .map(|row| {
            let mut bytes = Vec::new();
            rows.write_span(row, &mut bytes);
            normal(&bytes, rows.resource(row), rows.scope(row))
        })
        .collect()
}

pub fn write(sections: &[(&TenantId, &[&SpanTable])]) -> (Vec<u8>, BlockSummary) {
    let mut stats = BlockStats::default();
    sections
        .iter()
        .flat_map(|(_, tables)| *tables)
        .for_each(|t| stats.add_table(t));
    let mut writer = BlockWriter::new(Vec::new(), Schema::choose(&stats)).unwrap();
    for (tenant, tables) in sections {
        writer.section(tenant, tables).unwrap();
    }
    writer.finish().unwrap()
}

pub fn open(bytes: &[u8], block: &BlockSummary, section: usize) -> block::Result<Block> {
    let reader = Arc::new(MemoryReader::new(Bytes::copy_from_slice(bytes)));
    let section = &block.sections[section];
    wait(Block::open(
        reader,
        "test/block",
        &SectionLocation::from(section),
        &section.tenant,
    ))
}

/// Everything a section holds, read back.
pub fn spans_of_block(bytes: &[u8], block: &BlockSummary, section: usize) -> block::Result<Vec<Vec<u8>>> {
    let opened = open(bytes, block, section)?;
    let mut all = Vec::new();
    for group in 0..opened.index().fences().len() {
        all.extend(spans_of_rows(
            &wait(opened.row_group(group, block::Columns::All))?.all_spans()?,
        ));
    }
    all.sort();
    Ok(all)
}

pub fn wait<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

/// `n` ordinary spans: traces of ten in two services, a few attributes, every tenth with an event.
pub fn sample_spans(n: usize) -> Vec<Owned> {
    let text = |key: &str, value: String| KeyValue {
        key: key.into(),
        value: any_of(any_value::Value::StringValue(value)),
        ..Default::default()
    };
    let int = |key: &str, value| KeyValue {
        key: key.into(),
        value: any_of(any_value::Value::IntValue(value)),
        ..Default::default()
    };
    (0..n)
        .map(|i| {
            let (trace, place) = (i / 10, i % 10);
            let mut trace_id = [0u8; 16];
            trace_id[..8].copy_from_slice(&(trace as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            trace_id[15] = 1;
            let id = |place: usize| ((trace * 10 + place + 1) as u64).to_be_bytes().to_vec();
            let mut attributes = vec![
                text("http.method", ["GET", "POST"][i % 2].into()),
                int("http.status_code", [200, 200, 404, 500][i % 4]),
                text(
                    "request.id",
                    format!("request-{:08x}", (trace as u32).wrapping_mul(2_654_435_761)),
                ),
            ];
            if i % 500 == 7 {
                attributes.push(text("rare.key", format!("job-{i}")));
            }
            let start = 1_700_000_000_000_000_000 + i as u64 * 1_000_003;
            let event = span::Event {
                time_unix_nano: start + 5,
                name: "exception".into(),
                ..Default::default()
            };
            let span = Span {
                trace_id: trace_id.to_vec(),
                span_id: id(place),
                parent_span_id: if place == 0 { Vec::new() } else { id((place - 1) / 2) },
                name: format!("op-{}", i % 7),
                kind: 1 + (i % 5) as i32,
                start_time_unix_nano: start,
                end_time_unix_nano: start + (i as u64 * 7919) % 300_000_000,
                attributes,
                events: if place == 9 { vec![event] } else { Vec::new() },
                status: (place == 3).then(|| Status {
                    message: "boom".into(),
                    code: 2,
                }),
                ..Default::default()
            };
            Owned {
                span,
                resource: 2,
                scope: 2,
            }
        })
        .collect()
}
