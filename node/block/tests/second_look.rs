//! A bit that flips on the wire costs a second request and nothing else; one that flipped at rest is an error that says
//! where.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::tindex::{TraceIndex, TraceIndexWriter};
use block::{
    Block, BlockSummary, Columns, Error, Filters, Kind, MemoryReader, MergeOptions, RangeReader, Result,
    SectionLocation, merge,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use support::*;

/// Answers the `wrong`th read with one bit flipped, and the second look at it too if the bit is flipped at rest.
#[derive(Debug)]
struct Flipping {
    inner: MemoryReader,
    wrong: usize,
    at_rest: bool,
    reads: AtomicUsize,
    again: AtomicUsize,
    damaged: AtomicUsize,
}

impl Flipping {
    fn new(bytes: &[u8], wrong: usize, at_rest: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryReader::new(Bytes::copy_from_slice(bytes)),
            wrong,
            at_rest,
            reads: AtomicUsize::new(0),
            again: AtomicUsize::new(0),
            damaged: AtomicUsize::new(0),
        })
    }

    async fn answer(&self, object: &Arc<str>, ranges: &[Range<u64>], is_wrong: bool) -> Result<Vec<Bytes>> {
        let mut parts = self.inner.read(object, ranges).await?;
        if is_wrong {
            let mut bytes = parts[0].to_vec();
            // The last byte of whatever is read is under a checksum; headers of Parquet pages are not, and not looked at.
            let last = bytes.len() - 1;
            bytes[last] ^= 0x10;
            parts[0] = bytes.into();
        }
        Ok(parts)
    }
}

impl RangeReader for Flipping {
    fn read<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        let is_wrong = self.reads.fetch_add(1, Ordering::Relaxed) == self.wrong;
        Box::pin(self.answer(object, ranges, is_wrong))
    }

    fn read_again<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        self.again.fetch_add(1, Ordering::Relaxed);
        Box::pin(self.answer(object, ranges, self.at_rest))
    }

    fn damaged(&self, error: &Error) {
        assert_eq!(error.kind(), Kind::Corrupt);
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks a block everything that is asked of one, one request each.
async fn ask_all(reader: Arc<dyn RangeReader>, block: &BlockSummary) -> Result<Vec<String>> {
    let section = &block.sections[0];
    let location = SectionLocation::from(section);
    let opened = Block::open(Arc::clone(&reader), "some/block", &location, &section.tenant).await?;
    let filters = Filters::read(&reader, "some/block", location.bloom.clone()).await?;
    let ids = opened.trace_ids(0).await?;
    let mut said = vec![format!("{ids:?} {}", filters.may_contain_trace(&ids[0]))];
    let rows = opened.trace_in(0, &ids[0]).await?.unwrap();
    said.push(format!("{:?}", spans_of_rows(&rows)));
    let all = |rows: &block::RowGroup| Ok(rows.all_spans()?.len());
    said.push(opened.read_row_group(0, Columns::All, all).await?.to_string());
    let (merged, summary) = merge(&[opened], Vec::new(), MergeOptions::default()).await?;
    said.push(format!("{} {}", merged.len(), summary.bytes));
    Ok(said)
}

const REQUESTS: usize = 6;

#[test]
fn a_bit_that_flips_on_the_wire_costs_one_request() {
    let (bytes, block) = write(&[(&tenant("acme"), &[&table(&sample_spans(12))])]);
    let good = Flipping::new(&bytes, usize::MAX, false);
    let truth = wait(ask_all(Arc::clone(&good) as _, &block)).unwrap();
    assert_eq!(good.reads.load(Ordering::Relaxed), REQUESTS);
    let mut looked_again = 0;
    for wrong in 0..REQUESTS {
        let reader = Flipping::new(&bytes, wrong, false);
        assert_eq!(
            wait(ask_all(Arc::clone(&reader) as _, &block)).unwrap(),
            truth,
            "request {wrong}"
        );
        assert_eq!(reader.damaged.load(Ordering::Relaxed), 0);
        looked_again += reader.again.load(Ordering::Relaxed);
    }
    // Whoever reads only a part of what came does not see every flipped bit.
    assert!((REQUESTS - 1..=REQUESTS).contains(&looked_again), "{looked_again}");
}

#[test]
fn a_bit_that_flipped_at_rest_is_named() {
    let (bytes, block) = write(&[(&tenant("acme"), &[&table(&sample_spans(12))])]);
    for wrong in 0..REQUESTS {
        let reader = Flipping::new(&bytes, wrong, true);
        let error = wait(ask_all(Arc::clone(&reader) as _, &block)).unwrap_err();
        assert!(
            matches!(&error, Error::Corrupt { object, offset, .. } if &**object == "some/block" && *offset > 0),
            "request {wrong}: {error}"
        );
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        assert_eq!(
            (count(&reader.again), count(&reader.damaged)),
            (1, 1),
            "request {wrong}"
        );
    }
}

#[test]
fn a_trace_index_is_looked_at_twice_too() {
    let acme = tenant("acme");
    let (bytes, block) = write(&[(&acme, &[&table(&sample_spans(12))])]);
    let opened = open(&bytes, &block, 0).unwrap();
    let mut writer = TraceIndexWriter::new(&acme);
    wait(writer.add(&opened, &(&block.sections[0]).into())).unwrap();
    let (index, directory) = writer.finish().unwrap();
    let trace = wait(opened.trace_ids(0)).unwrap()[0];
    let ask = |reader: Arc<Flipping>| {
        wait(async {
            let index = TraceIndex::open(reader, "index", directory..index.len() as u64, &acme).await?;
            index.find(&trace).await
        })
    };
    for wrong in 0..2 {
        let reader = Flipping::new(&index, wrong, false);
        assert_eq!(ask(Arc::clone(&reader)).unwrap().len(), 1);
        assert_eq!(reader.again.load(Ordering::Relaxed), 1);
        let reader = Flipping::new(&index, wrong, true);
        assert_eq!(ask(Arc::clone(&reader)).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(reader.damaged.load(Ordering::Relaxed), 1);
    }
}
