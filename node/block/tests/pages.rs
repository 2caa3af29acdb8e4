//! Reading a few pages of a column gives what reading all of them gives.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;

use block::{Columns, Field, PAGE_ROWS};
use model::column::{Column, DictView, Rows, Values, slice_at};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use support::*;

/// Values by row, as text.
fn values(columns: &[Column]) -> BTreeMap<u32, String> {
    let mut all = BTreeMap::new();
    for column in columns {
        let view = column.view();
        for at in 0..view.values.len() {
            let row = match view.rows {
                Rows::All => at as u32,
                Rows::Sparse(rows) => rows[at],
            };
            let value = match view.values {
                Values::Dict { ids, dict } => match dict {
                    DictView::Bytes { offsets, bytes } => format!("{:?}", slice_at(offsets, bytes, ids[at] as usize)),
                    DictView::Values(values) => format!("{:?}", values[ids[at] as usize]),
                },
                Values::Bytes { offsets, bytes } => String::from_utf8_lossy(slice_at(offsets, bytes, at)).into_owned(),
                Values::Int(values) => values[at].to_string(),
                Values::Fixed8(values) => format!("{:?}", values[at]),
                other => format!("{other:?}"),
            };
            all.insert(row, value);
        }
    }
    all
}

#[test]
fn a_few_pages_say_what_all_of_them_say() {
    let mut spans = sample_spans(5 * PAGE_ROWS as usize - 100);
    for (i, owned) in spans.iter_mut().enumerate() {
        let key = if i % 2_000 < 1_000 { "often" } else { "seldom" };
        if i % 7 == 0 {
            let value = AnyValue {
                value: Some(Value::StringValue(format!("value {i}"))),
            };
            owned.span.attributes = vec![KeyValue {
                key: key.to_owned(),
                value: Some(value),
                ..Default::default()
            }];
        }
    }
    let table = table(&spans);
    let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
    let opened = open(&bytes, &block, 0).unwrap();
    let group = wait(opened.row_group(0, Columns::All)).unwrap();
    assert_eq!(group.len(), spans.len());
    let last = group.len() as u32 - 1;
    for rows in [
        vec![],
        vec![0],
        vec![PAGE_ROWS - 1, PAGE_ROWS],
        vec![3, 3 * PAGE_ROWS + 5, last],
        (0..=last).collect(),
    ] {
        let fields = [
            Field::Name,
            Field::Kind,
            Field::Status,
            Field::Start,
            Field::Duration,
            Field::SpanId,
            Field::ParentSpanId,
        ];
        for field in fields {
            let all = values(&[group.field(field).unwrap()]);
            let some = values(&[group.field_at(field, &rows).unwrap()]);
            for row in &rows {
                assert_eq!(some.get(row), all.get(row), "{field:?} of {row}");
            }
            let pages = |rows: &mut dyn Iterator<Item = u32>| rows.map(|row| row / PAGE_ROWS).collect::<Vec<_>>();
            let mut decoded = pages(&mut some.keys().copied());
            decoded.dedup();
            let mut wanted = pages(&mut rows.iter().copied());
            wanted.dedup();
            assert!(
                decoded.iter().all(|page| wanted.contains(page)),
                "{field:?}: no other page"
            );
        }
        for key in [b"often".as_slice(), b"seldom"] {
            let all = values(&group.attribute(key).unwrap());
            let some = values(&group.attribute_at(key, &rows).unwrap());
            assert!(rows.iter().all(|row| some.get(row) == all.get(row)), "{rows:?}");
        }
    }
}
