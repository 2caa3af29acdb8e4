//! A merge holds what its inputs held, once, with every trace in one piece.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;

use block::tindex::{TraceIndex, TraceIndexWriter};
use block::{Block, BlockSummary, Columns, MemoryReader, MergeOptions, merge};
use bytes::Bytes;
use model::{SpanTable, TraceId};
use proptest::prelude::*;
use support::*;

fn merged(blocks: &[(Vec<u8>, BlockSummary)], batch_rows: u32) -> (Vec<u8>, BlockSummary) {
    let inputs: Vec<Block> = blocks
        .iter()
        .map(|(bytes, block)| open(bytes, block, 0).unwrap())
        .collect();
    wait(merge(&inputs, Vec::new(), MergeOptions { batch_rows })).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_merge_is_the_union(parts in proptest::collection::vec(owned_spans(25), 1..5), batch_rows in 1u32..60) {
        let tenant = tenant("t");
        let tables: Vec<SpanTable> = parts.iter().map(|spans| table(spans)).collect();
        let blocks: Vec<_> = tables.iter().map(|t| write(&[(&tenant, &[t])])).collect();
        let mut expected: Vec<Vec<u8>> = tables.iter().flat_map(spans_of_table).collect();
        expected.sort();
        expected.dedup();
        let (bytes, block) = merged(&blocks, batch_rows);
        prop_assert_eq!(spans_of_block(&bytes, &block, 0).unwrap(), expected.clone());
        prop_assert_eq!(block.sections[0].totals.spans, expected.len() as u64);
        // Merging again changes nothing but drops the copy.
        let twice = [(bytes.clone(), block.clone()), (bytes, block)];
        let (bytes, block) = merged(&twice, batch_rows);
        prop_assert_eq!(spans_of_block(&bytes, &block, 0).unwrap(), expected);
    }
}

#[test]
fn batches_do_not_leave_ragged_row_groups() {
    let tenant = tenant("t");
    let spans = sample_spans(6_000);
    let tables: Vec<SpanTable> = spans.chunks(1_000).map(table).collect();
    let blocks: Vec<_> = tables.iter().map(|t| write(&[(&tenant, &[t])])).collect();
    let (bytes, block) = merged(&blocks, 1);
    let opened = open(&bytes, &block, 0).unwrap();
    assert_eq!(block.sections[0].totals.spans, 6_000);
    assert_eq!(block.sections[0].totals.traces, 600);
    assert_eq!(opened.index().fences().len(), 1, "six small inputs fit one row group");
    let trace = TraceId(spans[4_321].span.trace_id.clone().try_into().unwrap());
    assert_eq!(wait(opened.trace(&trace)).unwrap()[0].len(), 10);
}

#[test]
fn what_is_put_back_for_the_next_batch_is_not_lost() {
    let tenant = tenant("t");
    let rows = block::format::ROW_GROUP_ROWS;
    let spans = sample_spans(2 * rows as usize + 20_000);
    let tables: Vec<SpanTable> = spans.chunks(60_000).map(table).collect();
    let blocks: Vec<_> = tables.iter().map(|t| write(&[(&tenant, &[t])])).collect();
    let (bytes, block) = merged(&blocks, 2 * rows);
    assert_eq!(block.sections[0].totals.spans as usize, spans.len());
    let opened = open(&bytes, &block, 0).unwrap();
    let sizes: Vec<u32> = opened.index().fences().iter().map(|f| f.rows).collect();
    // Traces of ten do not divide a row group: each batch has a few rows too many, which start the next one.
    assert!(
        sizes.iter().rev().skip(1).all(|n| *n > rows - 10 && *n <= rows),
        "{sizes:?}"
    );
    let mut seen: Vec<[u8; 8]> = Vec::new();
    for group in 0..sizes.len() {
        seen.extend(
            wait(opened.row_group(group, Columns::All))
                .unwrap()
                .all_spans()
                .unwrap()
                .view()
                .span_id,
        );
    }
    seen.sort_unstable();
    let mut expected: Vec<[u8; 8]> = spans
        .iter()
        .map(|s| s.span.span_id.clone().try_into().unwrap())
        .collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[test]
fn pieces_of_a_trace_meet() {
    let tenant = tenant("t");
    let spans = sample_spans(10);
    // Children first, their root in a later block.
    let (late, early) = spans.split_at(1);
    let blocks = [
        write(&[(&tenant, &[&table(early)])]),
        write(&[(&tenant, &[&table(late)])]),
    ];
    let before = wait(open(&blocks[0].0, &blocks[0].1, 0).unwrap().row_group(0, Columns::All)).unwrap();
    assert_eq!(
        before.structure().unwrap().1.iter().filter(|up| **up == 0).count(),
        2,
        "two orphans without their root"
    );
    let (bytes, block) = merged(&blocks, 1_000);
    let after = wait(open(&bytes, &block, 0).unwrap().row_group(0, Columns::All)).unwrap();
    let (desc, up) = after.structure().unwrap();
    assert_eq!((desc[0], up[0]), (9, 0));
    assert!(up[1..].iter().all(|up| *up > 0));
}

#[test]
fn a_rare_attribute_becomes_a_column_when_it_is_frequent_in_the_whole() {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    let tenant = tenant("t");
    let mut spans = sample_spans(1_000);
    let text = |v: &str| {
        Some(AnyValue {
            value: Some(Value::StringValue(v.into())),
        })
    };
    // Two in a thousand of the first block: tail. All of the second: a column.
    for i in [10, 20] {
        spans[i].span.attributes.push(KeyValue {
            key: "k".into(),
            value: text("rare"),
            ..Default::default()
        });
    }
    let mut more = sample_spans(1_500).split_off(1_000);
    for owned in &mut more {
        owned.span.attributes.push(KeyValue {
            key: "k".into(),
            value: text("often"),
            ..Default::default()
        });
    }
    let blocks = [
        write(&[(&tenant, &[&table(&spans)])]),
        write(&[(&tenant, &[&table(&more)])]),
    ];
    let key = block::AttributeKey::new(b"k", model::ValueType::String);
    let first = open(&blocks[0].0, &blocks[0].1, 0).unwrap();
    assert!(first.index().attribute_column(&key).is_none() && first.index().tail_may_hold(0, &key));
    let group = wait(first.row_group(0, Columns::All)).unwrap();
    assert_eq!(group.attribute(b"k").unwrap()[0].view().values.len(), 2);

    let (bytes, block) = merged(&blocks, 4_000);
    let opened = open(&bytes, &block, 0).unwrap();
    assert!(opened.index().attribute_column(&key).is_some() && !opened.index().tail_may_hold(0, &key));
    let group = wait(opened.row_group(0, Columns::All)).unwrap();
    let columns = group.attribute(b"k").unwrap();
    assert_eq!(columns.iter().map(|c| c.view().values.len()).sum::<usize>(), 502);
    let mut expected: Vec<Vec<u8>> = spans_of_table(&table(&spans));
    expected.extend(spans_of_table(&table(&more)));
    expected.sort();
    assert_eq!(spans_of_block(&bytes, &block, 0).unwrap(), expected);
    let listed = opened.index().catalogue_entry(&key).unwrap().1.listed.clone().unwrap();
    assert_eq!(listed, [b"often"[..].into(), b"rare"[..].into()]);
}

#[test]
fn inputs_are_bounded_and_of_one_tenant() {
    let (alice, bob) = (tenant("alice"), tenant("bob"));
    let empty = SpanTable::new();
    let (bytes, block) = write(&[(&alice, &[&empty]), (&bob, &[&empty])]);
    let (a, b) = (open(&bytes, &block, 0).unwrap(), open(&bytes, &block, 1).unwrap());
    let mixed = wait(merge(&[a.clone(), b], Vec::new(), MergeOptions::default()));
    assert!(matches!(mixed, Err(block::Error::WrongTenant { .. })));
    let ok = vec![a.clone(); block::MERGE_INPUTS_MAX];
    assert!(wait(merge(&ok, Vec::new(), MergeOptions::default())).is_ok());
    let many = vec![a; block::MERGE_INPUTS_MAX + 1];
    let refused = wait(merge(&many, Vec::new(), MergeOptions::default())).unwrap_err();
    assert_eq!(refused.kind(), block::Kind::Rejected);
}

#[test]
fn the_trace_index_finds_every_trace_of_every_block() {
    let tenant = tenant("t");
    let spans = sample_spans(3_000);
    let tables: Vec<SpanTable> = spans.chunks(755).map(table).collect();
    let blocks: Vec<_> = tables.iter().map(|t| write(&[(&tenant, &[t])])).collect();
    let opened: Vec<Block> = blocks
        .iter()
        .map(|(bytes, block)| open(bytes, block, 0).unwrap())
        .collect();
    let mut writer = TraceIndexWriter::new(&tenant);
    for (block, (_, summary)) in opened.iter().zip(&blocks) {
        wait(writer.add(block, &(&summary.sections[0]).into())).unwrap();
    }
    let (bytes, directory) = writer.finish().unwrap();
    let range = directory..bytes.len() as u64;
    let reader = Arc::new(MemoryReader::new(Bytes::from(bytes)));
    let index = wait(TraceIndex::open(reader, "tindex", range, &tenant)).unwrap();
    assert_eq!(index.blocks().len(), 4);
    for chunk in spans.chunks(10) {
        let trace = TraceId(chunk[0].span.trace_id.clone().try_into().unwrap());
        let places = wait(index.find(&trace)).unwrap();
        let mut count = 0;
        for place in places {
            let block = &opened[place.block as usize];
            let group = wait(block.row_group(place.row_group as usize, Columns::All)).unwrap();
            count += group.trace_rows(&trace).unwrap().map_or(0, |rows| rows.len());
        }
        assert_eq!(count, 10, "a trace cut over two blocks is found in both");
    }
    assert!(wait(index.find(&TraceId([7; 16]))).unwrap().is_empty());
}
