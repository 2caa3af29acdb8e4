//! The corpus of the fuzz targets (`fuzz/corpus`), replayed and mutated.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

#[path = "../../fuzz/replay.rs"]
mod replay;

use std::ops::Range;

use block::fuzzing;
use block::tindex::TraceIndexWriter;
use replay::replay;
use support::{open, sample_spans, table, tenant, wait, write};

/// Some tenths of a second each in a build that is not optimised.
const ROUNDS: u32 = 2_000;

/// A block, and where its index and bloom sections lie.
fn block(spans: usize) -> (Vec<u8>, Range<usize>, Range<usize>) {
    let (bytes, summary) = write(&[(&tenant("acme"), &[&table(&sample_spans(spans))])]);
    let range = |range: &Range<u64>| range.start as usize..range.end as usize;
    let section = &summary.sections[0];
    (bytes, range(&section.index), range(&section.bloom))
}

#[test]
fn block_open() {
    replay("block_open", fuzzing::block_open, ROUNDS / 2, || {
        let seed = |spans: usize| {
            let (bytes, index, bloom) = block(spans);
            let head = [index.start, index.end, bloom.start, bloom.end].map(|at| (at as u32).to_le_bytes());
            [head.concat(), bytes].concat()
        };
        vec![seed(1), seed(12)]
    });
}

#[test]
fn block_index() {
    replay("block_index", fuzzing::block_index, ROUNDS, || {
        let (bytes, index, _) = block(12);
        vec![bytes[index].to_vec()]
    });
}

#[test]
fn block_parts() {
    replay("block_parts", fuzzing::block_parts, ROUNDS, || {
        // Lists of counts and lengths, small ones first.
        let small = |step: usize| (0..120).map(|n| (n * step % 12) as u8).collect::<Vec<u8>>();
        vec![small(1), small(5), small(7), vec![0]]
    });
}

#[test]
fn block_filters() {
    replay("block_filters", fuzzing::block_filters, ROUNDS, || {
        let (bytes, _, bloom) = block(12);
        vec![bytes[bloom].to_vec()]
    });
}

#[test]
fn trace_index() {
    replay("trace_index", fuzzing::trace_index, ROUNDS, || {
        let acme = tenant("acme");
        let (bytes, summary) = write(&[(&acme, &[&table(&sample_spans(12))])]);
        let mut writer = TraceIndexWriter::new(&acme);
        let opened = open(&bytes, &summary, 0).unwrap();
        wait(writer.add(&opened, &(&summary.sections[0]).into())).unwrap();
        let empty = TraceIndexWriter::new(&acme);
        vec![writer.finish().unwrap().0, empty.finish().unwrap().0]
    });
}

#[test]
fn column_chunk() {
    replay("column_chunk", fuzzing::column_chunk, ROUNDS, || {
        let (bytes, ..) = block(12);
        let form = |form: u8| {
            let list: Vec<u8> = (0..24).map(|n| n * 3 % 12).collect();
            [&[form, 12, 0, 24][..], &list, &bytes[4..300]].concat()
        };
        (0..9).map(form).collect()
    });
}
