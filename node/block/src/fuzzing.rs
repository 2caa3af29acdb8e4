//! One entry per reader of bytes of an object, for the fuzzer (`fuzz/`) and for the test that replays its corpus.
//!
//! Checksums turn nearly every mutation away at the first look, so the decoders behind them have entries of their own. Each
//! takes any bytes and must not panic, loop or allocate beyond its bounds.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use model::TenantId;

use crate::decode::Chunk;
use crate::format::PAGE_ROWS;
use crate::index::{BlockIndex, fuzz_parts, read_chunk};
use crate::page::crc32;
use crate::range::{MemoryReader, RangeReader};
use crate::reader::{Block, SectionLocation};
use crate::schema::Form;
use crate::section::read_filters;
use crate::tindex::TraceIndex;

/// Opens the block of tenant `acme` whose index and bloom sections lie where the first sixteen bytes say, and reads all of
/// it: `[index start][index end][bloom start][bloom end]`, 32 bits each, then the object.
pub fn block_open(data: &[u8]) {
    let Some((head, object)) = data.split_at_checked(16) else {
        return;
    };
    let numbers: Vec<u64> = head
        .chunks_exact(4)
        .map(|bytes| {
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        })
        .collect();
    let &[index_start, index_end, bloom_start, bloom_end] = numbers.as_slice() else {
        return;
    };
    let location = SectionLocation {
        index: index_start..index_end,
        bloom: bloom_start..bloom_end,
    };
    let reader: Arc<dyn RangeReader> = Arc::new(MemoryReader::new(Bytes::copy_from_slice(object)));
    let tenant = TenantId::new("acme").expect("it is a tenant");
    let read = async {
        let block = Block::open(reader, "fuzz", &location, &tenant).await.ok()?;
        let filters = block.filters(&location).await.ok();
        for group in 0..block.index().fences().len() {
            for trace in block.trace_ids(group).await.unwrap_or_default() {
                let is_known = filters.as_ref().is_none_or(|filters| filters.may_contain_trace(&trace));
                assert!(is_known, "a trace that its filter does not know");
                let _ = block.trace(&trace).await;
            }
        }
        Some(())
    };
    // Memory answers at once.
    let _ = read.now_or_never().expect("nothing waits");
}

/// Opens a block's index section.
pub fn block_index(data: &[u8]) {
    let _ = BlockIndex::open_any(&"fuzz".into(), 0, data);
}

/// The parts of an index behind their checksums.
pub fn block_parts(data: &[u8]) {
    fuzz_parts(data);
}

/// Opens a bloom section.
pub fn block_filters(data: &[u8]) {
    let _ = read_filters(data);
}

/// Opens a trace-id index of tenant `acme` and looks for two traces.
pub fn trace_index(data: &[u8]) {
    let reader: Arc<dyn RangeReader> = Arc::new(MemoryReader::new(Bytes::copy_from_slice(data)));
    let tenant = TenantId::new("acme").expect("it is a tenant");
    // What the catalog would remember: the first field of the last 28 bytes.
    let directory = data.len().checked_sub(28).and_then(|at| data[at..].first_chunk::<8>());
    let Some(directory) = directory.map(|bytes| u64::from_le_bytes(*bytes)) else {
        return;
    };
    let read = async {
        let index = TraceIndex::open(reader, "fuzz", directory..data.len() as u64, &tenant)
            .await
            .ok()?;
        for trace in [[0; 16], [7; 16]] {
            for place in index.find(&model::TraceId(trace)).await.unwrap_or_default() {
                assert!((place.block as usize) < index.blocks().len());
            }
        }
        Some(())
    };
    let _ = read.now_or_never().expect("nothing waits");
}

/// A column chunk: `[form][rows low][rows high][length of the page list][page list][chunk bytes]`, page checksums made
/// right.
pub fn column_chunk(data: &[u8]) {
    let [form, low, high, list, rest @ ..] = data else {
        return;
    };
    let Some((list, bytes)) = rest.split_at_checked(usize::from(*list)) else {
        return;
    };
    let Some(mut meta) = read_chunk(list) else { return };
    let forms = [
        Form::Fixed8,
        Form::Fixed16,
        Form::Int32,
        Form::Unsigned32,
        Form::Int64,
        Form::Double,
        Form::Bool,
        Form::Text,
        Form::Bytes,
    ];
    let rows = u32::from(*low) | u32::from(*high) << 8;
    let mut at = 0usize;
    for page in meta.dictionary.iter_mut().chain(&mut meta.pages) {
        let start = at.saturating_add(page.header as usize);
        at = start.saturating_add(page.stored as usize);
        page.crc = bytes.get(start..at).map_or(0, crc32);
        // The real bound is a gigabyte; the fuzzer's patience is shorter.
        page.plain = page.plain.min(1 << 20);
    }
    for optional in [false, true] {
        let form = forms[usize::from(*form) % forms.len()];
        let chunk = Chunk {
            meta: &meta,
            bytes,
            form,
            optional,
            rows,
        };
        if let Ok(decoded) = chunk.decode(0, rows.div_ceil(PAGE_ROWS) as usize) {
            let _ = decoded.values.clone().into_numbers();
            let column = decoded.trim(rows / 3, rows / 2).into_column(form);
            let _ = column.view().values.len();
        }
    }
}
