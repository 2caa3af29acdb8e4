//! A wrong byte is an error that names the object, or harmless; never a wrong row.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;

use block::tindex::{TraceIndex, TraceIndexWriter};
use block::{Block, BlockSummary, Columns, Kind, MemoryReader, SectionLocation};
use bytes::Bytes;
use model::TraceId;
use support::*;

fn small_block() -> (Vec<u8>, BlockSummary) {
    let mut spans = sample_spans(12);
    spans[3].resource = 1;
    spans[4].scope = 0;
    write(&[(&tenant("acme"), &[&table(&spans)])])
}

/// Everything a reader can ask of a block.
fn read_all(bytes: &[u8], block: &BlockSummary) -> block::Result<(Vec<Vec<u8>>, bool)> {
    let opened = open(bytes, block, 0)?;
    let filters = wait(opened.filters(&(&block.sections[0]).into()))?;
    let mut found = true;
    for group in 0..opened.index().fences().len() {
        for trace in wait(opened.trace_ids(group))? {
            found &= filters.may_contain_trace(&trace);
        }
    }
    Ok((spans_of_block(bytes, block, 0)?, found))
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let (bytes, block) = small_block();
    let truth = read_all(&bytes, &block).unwrap();
    let (mut errors, mut harmless) = (0, 0);
    let mut broken = bytes.clone();
    for at in (0..bytes.len()).step_by(3) {
        let bit = 1u8 << (at % 8);
        broken[at] ^= bit;
        match read_all(&broken, &block) {
            Ok(read) => {
                assert_eq!(read, truth, "byte {at} bit {bit} gave a wrong answer");
                harmless += 1;
            }
            Err(e) => {
                assert!(matches!(e.kind(), Kind::Corrupt | Kind::TooNew), "byte {at}: {e}");
                assert!(e.to_string().contains("test/block"), "byte {at}: {e}");
                errors += 1;
            }
        }
        broken[at] ^= bit;
    }
    // Page headers, the footer and its offset index are the bytes our reader does not look at.
    assert!(errors > 0 && harmless > 0);
    let sections = &block.sections[0];
    for range in [&sections.index, &sections.bloom] {
        for at in range.clone().step_by(5) {
            broken[at as usize] ^= 0x10;
            assert!(
                read_all(&broken, &block).is_err(),
                "byte {at} of a section went unnoticed"
            );
            broken[at as usize] ^= 0x10;
        }
    }
}

#[test]
fn a_truncated_object_is_an_error() {
    let (bytes, block) = small_block();
    let end = block.sections[0].index.end as usize;
    for length in (0..end).step_by(97).chain([end - 1]) {
        let e = read_all(&bytes[..length], &block).expect_err("a part is missing");
        assert_eq!(e.kind(), Kind::Corrupt, "{length}: {e}");
    }
    assert!(
        read_all(&bytes[..end], &block).is_ok(),
        "the footer is for foreign readers"
    );
}

#[test]
fn a_truncated_object_in_a_store_is_corrupt_and_a_missing_one_missing() {
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload, path::Path};
    let (bytes, block) = small_block();
    let store = Arc::new(InMemory::new());
    let location = SectionLocation::from(&block.sections[0]);
    let open = |name: &'static str| {
        let reader = Arc::new(block::StoreReader::new(store.clone()));
        let (location, tenant) = (location.clone(), block.sections[0].tenant.clone());
        async move { Block::open(reader, name, &location, &tenant).await }
    };
    wait(async {
        store
            .put(&Path::from("whole"), PutPayload::from(bytes.clone()))
            .await
            .unwrap();
        store
            .put(&Path::from("half"), PutPayload::from(bytes[..bytes.len() / 3].to_vec()))
            .await
            .unwrap();
        let whole = open("whole").await.unwrap();
        assert_eq!(
            whole
                .row_group(0, Columns::All)
                .await
                .unwrap()
                .all_spans()
                .unwrap()
                .len(),
            12
        );
        assert_eq!(open("half").await.unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(open("none").await.unwrap_err().kind(), Kind::Missing);
    });
}

#[test]
fn a_newer_version_says_so() {
    let (mut bytes, block) = small_block();
    let at = block.sections[0].index.start as usize + 4;
    bytes[at] = 2;
    let e = open(&bytes, &block, 0).unwrap_err();
    assert_eq!(e.kind(), Kind::TooNew, "{e}");
}

#[test]
fn a_broken_trace_index_is_an_error() {
    let (bytes, block) = small_block();
    let opened = open(&bytes, &block, 0).unwrap();
    let tenant = &block.sections[0].tenant;
    let mut writer = TraceIndexWriter::new(tenant);
    wait(writer.add(&opened, &(&block.sections[0]).into())).unwrap();
    let (index, directory) = writer.finish().unwrap();
    let ids = wait(opened.trace_ids(0)).unwrap();
    let ask = |index: &[u8]| -> block::Result<Vec<usize>> {
        let reader = Arc::new(MemoryReader::new(Bytes::copy_from_slice(index)));
        let range = directory..directory.max(index.len() as u64);
        let opened = wait(TraceIndex::open(reader, "test/index", range, tenant))?;
        ids.iter()
            .chain([&TraceId([9; 16])])
            .map(|id| wait(opened.find(id)).map(|p| p.len()))
            .collect()
    };
    let truth = ask(&index).unwrap();
    assert_eq!(truth, [1, 1, 0]);
    let mut broken = index.clone();
    for at in 0..index.len() {
        broken[at] ^= 1 << (at % 8);
        if let Ok(read) = ask(&broken) {
            assert_eq!(read, truth, "byte {at}");
        }
        broken[at] ^= 1 << (at % 8);
    }
    for length in 0..index.len() {
        assert!(ask(&index[..length]).is_err());
    }
}

#[test]
fn a_footer_names_the_sections_or_is_refused() {
    let (one, other) = (tenant("acme"), tenant("b"));
    let (spans, more) = (sample_spans(12), sample_spans(5));
    let (bytes, block) = write(&[(&one, &[&table(&spans)]), (&other, &[&table(&more)])]);
    let object: Arc<str> = "test/block".into();
    let named = block::sections(&object, &Bytes::from(bytes.clone())).unwrap();
    assert_eq!(named.len(), 2);
    for (named, written) in named.iter().zip(&block.sections) {
        assert_eq!(
            (&named.tenant, &named.row_groups),
            (&written.tenant, &written.row_groups)
        );
        assert_eq!(named.location, SectionLocation::from(written));
    }
    let footer = block.sections[1].index.end as usize;
    for end in (0..bytes.len()).step_by(7).chain(footer..bytes.len()) {
        let cut = Bytes::copy_from_slice(&bytes[..end]);
        assert!(block::sections(&object, &cut).is_err(), "cut at {end}");
    }
    for at in footer..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 1 << (at % 8);
        // Damage may go unnoticed where it does not concern sections, and may never be more than an error.
        let _ = block::sections(&object, &broken.into());
    }
}
