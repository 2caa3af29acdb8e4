//! Every bound of the format, one below it, at it, one above it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use block::tindex::{BLOCKS_MAX, TraceIndexWriter};
use block::{AttributeKey, Columns, Kind, format};
use model::{SpanTable, TraceId, ValueType};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use support::*;

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue {
        value: Some(Value::StringValue(value.into())),
    });
    KeyValue {
        key: key.into(),
        value,
        ..Default::default()
    }
}

/// `n` spans, each with the attributes that `attributes` gives for its number.
fn spans_with(n: usize, attributes: impl Fn(usize) -> Vec<KeyValue>) -> SpanTable {
    let mut spans = sample_spans(n);
    for (i, owned) in spans.iter_mut().enumerate() {
        owned.span.attributes = attributes(i);
    }
    table(&spans)
}

#[test]
fn an_attribute_gets_a_column_from_half_a_percent_on() {
    let key = AttributeKey::new(b"k", ValueType::String);
    for (n, has_column) in [(199, true), (200, true), (201, false)] {
        let table = spans_with(n, |i| if i == 3 { vec![text("k", "v")] } else { Vec::new() });
        let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
        let opened = open(&bytes, &block, 0).unwrap();
        assert_eq!(
            opened.index().attribute_column(&key).is_some(),
            has_column,
            "one in {n}"
        );
        assert_eq!(opened.index().tail_may_hold(0, &key), !has_column);
        let group = wait(opened.row_group(0, Columns::All)).unwrap();
        assert_eq!(group.attribute(b"k").unwrap()[0].view().values.len(), 1);
    }
}

#[test]
fn a_block_has_at_most_64_attribute_columns_the_most_frequent_ones() {
    for keys in [63, 64, 65usize] {
        // Key 0 on every span, key 1 on all but one, and so on.
        let table = spans_with(100, |i| {
            (0..keys)
                .filter(|k| i >= *k)
                .map(|k| text(&format!("k{k:02}"), "v"))
                .collect()
        });
        let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
        let opened = open(&bytes, &block, 0).unwrap();
        assert_eq!(
            opened.index().schema().attributes().len(),
            keys.min(format::ATTRIBUTE_COLUMNS_MAX)
        );
        let last = AttributeKey::new(b"k64", ValueType::String);
        assert!(opened.index().attribute_column(&last).is_none());
        assert_eq!(opened.index().tail_may_hold(0, &last), keys == 65);
        assert_eq!(spans_of_block(&bytes, &block, 0).unwrap(), spans_of_table(&table));
    }
}

#[test]
fn few_values_are_listed_and_many_are_filtered() {
    let key = AttributeKey::new(b"k", ValueType::String);
    for (values, is_listed) in [(255, true), (256, true), (257, false)] {
        let table = spans_with(600, |i| vec![text("k", &format!("value-{}", i % values))]);
        let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
        let opened = open(&bytes, &block, 0).unwrap();
        let entry = opened.index().catalogue_entry(&key).unwrap().1;
        assert_eq!(entry.listed.as_ref().map(Vec::len), is_listed.then_some(values));
        assert_eq!((entry.values, entry.distinct), (600, values as u64));
        let filters = wait(opened.filters(&(&block.sections[0]).into())).unwrap();
        assert!((0..values).all(|v| filters.may_contain(opened.index(), &key, format!("value-{v}").as_bytes())));
        let strangers =
            (0..1_000).filter(|v| filters.may_contain(opened.index(), &key, format!("other-{v}").as_bytes()));
        assert!(strangers.count() < 50);
        let absent = AttributeKey::new(b"absent", ValueType::String);
        assert!(!filters.may_contain(opened.index(), &absent, b"x"));
    }
}

#[test]
fn text_in_the_tail_is_filtered_too() {
    let key = AttributeKey::new(b"z", ValueType::String);
    let table = spans_with(400, |i| {
        let mut all: Vec<KeyValue> = (0..64).map(|k| text(&format!("k{k:02}"), "v")).collect();
        if i < 300 {
            all.push(text("z", &format!("value-{i}")));
        }
        all
    });
    let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
    let opened = open(&bytes, &block, 0).unwrap();
    assert!(opened.index().attribute_column(&key).is_none() && opened.index().tail_may_hold(0, &key));
    let filters = wait(opened.filters(&(&block.sections[0]).into())).unwrap();
    assert!((0..300).all(|v| filters.may_contain(opened.index(), &key, format!("value-{v}").as_bytes())));
    let strangers = (0..1_000).filter(|v| filters.may_contain(opened.index(), &key, format!("other-{v}").as_bytes()));
    assert!(strangers.count() < 50);
}

#[test]
fn keys_beyond_the_catalogue_are_still_found() {
    let key = |n: usize| format!("key-{n}");
    for keys in [4_095, 4_096, 4_097usize] {
        // Two tables, because one has as many columns as the catalogue has entries.
        let halves = [(0, 3_000), (3_000, keys)].map(|(from, to)| {
            spans_with(1_000, |i| {
                (from..to)
                    .filter(|k| k % 1_000 == i)
                    .map(|k| text(&key(k), &format!("value-{k}")))
                    .collect()
            })
        });
        let (bytes, block) = write(&[(&tenant("t"), &[&halves[0], &halves[1]])]);
        let opened = open(&bytes, &block, 0).unwrap();
        assert_eq!(opened.index().catalogue_is_whole(), keys <= format::CATALOGUE_KEYS_MAX);
        let filters = wait(opened.filters(&(&block.sections[0]).into())).unwrap();
        let group = wait(opened.row_group(0, Columns::All)).unwrap();
        for k in [0, 2_999, 3_000, keys - 1] {
            let attribute = AttributeKey::new(key(k).as_bytes(), ValueType::String);
            let columns = group.attribute(key(k).as_bytes()).unwrap();
            assert_eq!(columns.len(), 1, "{k} of {keys}");
            assert!(filters.may_contain(opened.index(), &attribute, format!("value-{k}").as_bytes()));
        }
        let mut expected: Vec<Vec<u8>> = halves.iter().flat_map(spans_of_table).collect();
        expected.sort();
        assert_eq!(spans_of_block(&bytes, &block, 0).unwrap(), expected);
    }
}

#[test]
fn a_trace_that_was_cut_is_named_and_found_whole() {
    let mut spans = sample_spans(10);
    let root = spans.remove(0);
    let mut table = table(&spans);
    let n = format::TRACE_ROWS_MAX + 5;
    let mut span = root.span.clone();
    span.trace_id = vec![0x77; 16];
    for i in 0..n {
        span.span_id = (u64::from(i) + 1).to_be_bytes().to_vec();
        span.parent_span_id = if i == 0 {
            Vec::new()
        } else {
            u64::from(i).to_be_bytes().to_vec()
        };
        span.start_time_unix_nano += 1;
        table.append(0, 0, &prost::Message::encode_to_vec(&span)).unwrap();
    }
    let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
    let id = TraceId([0x77; 16]);
    assert_eq!(block.sections[0].split_traces, [id]);
    assert_eq!(block.sections[0].totals.traces, 2);
    let opened = open(&bytes, &block, 0).unwrap();
    let pieces = wait(opened.trace(&id)).unwrap();
    assert_eq!(
        pieces.iter().map(|p| p.len()).collect::<Vec<_>>(),
        [format::TRACE_ROWS_MAX as usize, 5]
    );
    // The first span of the second piece has lost its parent's row but not its parent's id.
    let first = pieces[1].view().parts(0);
    assert_eq!(
        u64::from_be_bytes(first.parent_span_id),
        u64::from(format::TRACE_ROWS_MAX)
    );
}

#[test]
fn a_trace_index_takes_so_many_blocks_and_no_more() {
    let tenant = tenant("t");
    let (bytes, block) = write(&[(&tenant, &[&SpanTable::new()])]);
    let opened = open(&bytes, &block, 0).unwrap();
    let location = (&block.sections[0]).into();
    let mut writer = TraceIndexWriter::new(&tenant);
    for _ in 0..BLOCKS_MAX {
        wait(writer.add(&opened, &location)).unwrap();
    }
    assert_eq!(wait(writer.add(&opened, &location)).unwrap_err().kind(), Kind::Rejected);
    writer.finish().unwrap();
}
