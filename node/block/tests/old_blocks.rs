//! Blocks written by every released version open for ever and give the spans they gave then.
//!
//! `testdata/vN/*.block` are objects as they were written; beside each a `.txt` with a line per section (tenant, index
//! range, bloom range) and, after `--` and the section's number, a hash per span. They are never regenerated.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{Block, Columns, MemoryReader, SectionLocation};
use bytes::Bytes;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use support::*;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// A span in its normal form, shortened to a hash: the files stay small.
fn digest(span: &[u8]) -> String {
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(span))
}

#[test]
fn every_old_block_opens() {
    let mut seen = 0;
    for version in std::fs::read_dir(testdata()).unwrap() {
        for file in std::fs::read_dir(version.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "block") {
                check(&path);
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "the frozen blocks are part of the repository");
}

fn check(path: &Path) {
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    let text = std::fs::read_to_string(path.with_extension("txt")).unwrap();
    let mut parts = text.split("--");
    for (section, line) in parts.next().unwrap().lines().enumerate() {
        let mut words = line.split(' ');
        let owner = tenant(words.next().unwrap());
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let location = SectionLocation {
            index: number()..number(),
            bloom: number()..number(),
        };
        let reader = Arc::new(MemoryReader::new(bytes.clone()));
        let opened = wait(Block::open(reader, "old", &location, &owner)).unwrap();
        let filters = wait(opened.filters(&location)).unwrap();
        let mut spans = Vec::new();
        for group in 0..opened.index().fences().len() {
            let group = wait(opened.row_group(group, Columns::All)).unwrap();
            group
                .traces()
                .unwrap()
                .1
                .iter()
                .for_each(|id| assert!(filters.may_contain_trace(id)));
            spans.extend(spans_of_rows(&group.all_spans().unwrap()));
        }
        spans.sort();
        let wanted: Vec<&str> = parts.next().unwrap().lines().skip(1).collect();
        let read: Vec<String> = spans.iter().map(|s| digest(s)).collect();
        assert_eq!(read, wanted, "{}, section {section}", path.display());
    }
}

/// Writes a block of the current version beside the old ones, once. Run it when a version is released:
/// `cargo test -p vivace-block --test old_blocks -- --ignored`.
#[test]
#[ignore = "writes into testdata"]
fn freeze_a_block_of_this_version() {
    let folder = testdata().join(format!("v{}", block::format::VERSION));
    let path = folder.join("shop.block");
    assert!(!path.exists(), "a frozen block is never written again");
    let mut runner = TestRunner::deterministic();
    let odd = table(&owned_spans(60).new_tree(&mut runner).unwrap().current());
    let plain = table(&sample_spans(1_030));
    let (alice, bob) = (tenant("alice"), tenant("bob"));
    let (bytes, block) = write(&[(&alice, &[&odd]), (&bob, &[&plain])]);
    let mut text = String::new();
    for s in &block.sections {
        text.push_str(&format!(
            "{} {} {} {} {}\n",
            s.tenant, s.index.start, s.index.end, s.bloom.start, s.bloom.end
        ));
    }
    for (section, table) in [&odd, &plain].into_iter().enumerate() {
        text.push_str(&format!("--{section}\n"));
        spans_of_table(table)
            .iter()
            .for_each(|span| text.push_str(&(digest(span) + "\n")));
    }
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(path.with_extension("txt"), text).unwrap();
}
