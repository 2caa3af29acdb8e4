//! Whatever a table holds comes back out of a block.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use block::{Columns, Field};
use model::{SpanTable, TraceId};
use proptest::prelude::*;
use support::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_span_comes_back(spans in owned_spans(60), cut in 0usize..60) {
        let cut = cut.min(spans.len());
        let (first, second) = (table(&spans[..cut]), table(&spans[cut..]));
        let tenant = tenant("acme");
        let (bytes, block) = write(&[(&tenant, &[&first, &second])]);
        let mut expected = spans_of_table(&first);
        expected.extend(spans_of_table(&second));
        expected.sort();
        prop_assert_eq!(&spans_of_block(&bytes, &block, 0).unwrap(), &expected);
        prop_assert_eq!(block.sections[0].totals.spans, spans.len() as u64);
        prop_assert_eq!(block.bytes, bytes.len() as u64);

        // Each trace by id, and one that is not there.
        let opened = open(&bytes, &block, 0).unwrap();
        let filters = wait(opened.filters(&(&block.sections[0]).into())).unwrap();
        let mut seen = 0;
        for n in 0..7u8 {
            let id = TraceId([n; 16]);
            let rows = wait(opened.trace(&id)).unwrap();
            let count: usize = rows.iter().map(|r| r.len()).sum();
            let wanted = spans.iter().filter(|s| s.span.trace_id == id.0).count();
            prop_assert_eq!(count, wanted);
            prop_assert!(wanted == 0 || filters.may_contain_trace(&id));
            seen += count;
        }
        prop_assert_eq!(seen, spans.len());
    }

    #[test]
    fn structure_is_what_the_parent_ids_say(spans in owned_spans(40)) {
        let table = table(&spans);
        let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
        let opened = open(&bytes, &block, 0).unwrap();
        for group in 0..opened.index().fences().len() {
            let group = wait(opened.row_group(group, Columns::All)).unwrap();
            let (desc, up) = group.structure().unwrap();
            let rows = group.all_spans().unwrap();
            let (trace, _) = group.traces().unwrap();
            let view = rows.view();
            for row in 0..desc.len() {
                let end = row + 1 + desc[row] as usize;
                prop_assert!(end <= desc.len());
                // The subtree is contiguous: every row in it has its parent in it, and the row behind it has not.
                for (inner, up) in up.iter().enumerate().take(end).skip(row + 1) {
                    prop_assert!(*up > 0 && inner - *up as usize >= row);
                    prop_assert_eq!(trace[inner], trace[row]);
                }
                if end < desc.len() && up[end] > 0 {
                    prop_assert!(end - (up[end] as usize) < row);
                }
                if up[row] > 0 {
                    let parent = row - up[row] as usize;
                    prop_assert_eq!(view.parent_span_id[row], view.span_id[parent]);
                } else if view.parent_span_id[row] != [0; 8] {
                    // An orphan: either nobody has that id, or the link would close a circle (or point at itself).
                    let id = view.parent_span_id[row];
                    let candidate = (0..desc.len()).find(|r| trace[*r] == trace[row] && view.span_id[*r] == id);
                    if let Some(candidate) = candidate {
                        let inside = candidate >= row && candidate < end;
                        let twin = (0..desc.len()).any(|r| trace[r] == trace[row] && view.span_id[r] == id && r >= row && r < end);
                        prop_assert!(inside || twin, "row {row} could hang under {candidate}");
                    }
                }
            }
        }
    }

    #[test]
    fn several_tenants_share_an_object_and_nothing_else(a in owned_spans(20), b in owned_spans(20)) {
        let (ta, tb) = (table(&a), table(&b));
        let (alice, bob) = (tenant("alice"), tenant("bob"));
        let (bytes, block) = write(&[(&alice, &[&ta]), (&bob, &[&tb])]);
        prop_assert_eq!(spans_of_block(&bytes, &block, 0).unwrap(), spans_of_table(&ta));
        prop_assert_eq!(spans_of_block(&bytes, &block, 1).unwrap(), spans_of_table(&tb));
        let mut crossed = block.clone();
        crossed.sections[0].index = block.sections[1].index.clone();
        let is_refused = matches!(open(&bytes, &crossed, 0), Err(block::Error::WrongTenant { .. }));
        prop_assert!(is_refused);
        let index = open(&bytes, &block, 1).unwrap().index().clone();
        for entry in index.catalogue() {
            prop_assert!(b.iter().any(|s| s.span.attributes.iter().any(|kv| kv.key.as_bytes() == &*entry.attribute.key)));
        }
    }

    #[test]
    fn equal_input_gives_equal_bytes(spans in owned_spans(30)) {
        let tenant = tenant("t");
        let (one, two) = (table(&spans), table(&spans));
        prop_assert_eq!(write(&[(&tenant, &[&one])]).0, write(&[(&tenant, &[&two])]).0);
    }

    #[test]
    fn rows_go_back_into_a_table(spans in owned_spans(30)) {
        let table = table(&spans);
        let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
        let opened = open(&bytes, &block, 0).unwrap();
        let mut back = SpanTable::new();
        for group in 0..opened.index().fences().len() {
            wait(opened.row_group(group, Columns::All)).unwrap().all_spans().unwrap().append_to(&mut back).unwrap();
        }
        prop_assert_eq!(spans_of_table(&back), spans_of_table(&table));
    }
}

#[test]
fn an_empty_section_opens() {
    let table = SpanTable::new();
    let (bytes, block) = write(&[(&tenant("nobody"), &[&table])]);
    let opened = open(&bytes, &block, 0).unwrap();
    assert_eq!(opened.index().fences().len(), 0);
    assert!(wait(opened.trace(&TraceId([1; 16]))).unwrap().is_empty());
    assert_eq!(block.sections[0].traces, None);
}

#[test]
fn a_field_that_was_not_fetched_is_an_error_of_ours() {
    let spans = sample_spans(10);
    let table = table(&spans);
    let (bytes, block) = write(&[(&tenant("t"), &[&table])]);
    let opened = open(&bytes, &block, 0).unwrap();
    let columns = [Field::Duration.ordinal()];
    let group = wait(opened.row_group(0, Columns::Some(&columns))).unwrap();
    assert!(group.field(Field::Duration).is_ok());
    let wide = wait(opened.row_group(0, Columns::Some(&[]))).unwrap();
    assert_eq!(wide.field(Field::Duration).unwrap_err().kind(), block::Kind::Rejected);
}
