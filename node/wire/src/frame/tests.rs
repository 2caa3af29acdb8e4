//! Frames come back as they went in, old ones for ever, broken ones never panic.

use std::path::PathBuf;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::error::Kind;
use crate::ingest::{self, IngestLimits};
use crate::synthetic;
use model::ShardId;

/// Fingerprints of the sub-batches in `testdata/v1/entry.bin`; `sub-batch.bin` is the first of them.
const FROZEN: [&str; 2] = ["team-a 6 8b3aa5067206f6a7", "team-b 3 5bdb0f2a6bfd4f58"];

fn sub_batches(seed: u64, span_count: usize, tenant: &str) -> Vec<SubBatch> {
    let body = synthetic::request(seed, span_count).encode_to_vec();
    let tenant = TenantId::new(tenant).unwrap();
    let scan = ingest::scan(&body, &IngestLimits::default(), |id| {
        ShardId::of(tenant.placement_hash(id), 2)
    })
    .unwrap();
    let routed = scan.into_sub_batches(&tenant, BatchHash::of_request(&tenant, &body));
    routed.into_iter().map(|routed| routed.sub_batch).collect()
}

fn spans(contents: &Contents<'_>) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let of = |blob: Blob<'_>| [blob.message.unwrap(), blob.schema_url].concat();
    let spans = contents.spans().map(|span| span.unwrap());
    spans
        .map(|span| {
            (
                of(contents.resource(span.resource)),
                of(contents.scope(span.scope)),
                span.span.to_vec(),
            )
        })
        .collect()
}

fn entry_of(sub_batches: &[SubBatch]) -> Bytes {
    let mut builder = EntryBuilder::default();
    for sub_batch in sub_batches {
        builder.push(sub_batch.clone()).unwrap();
    }
    builder.finish()
}

#[test]
fn a_sub_batch_comes_back_as_it_went_in() {
    for sub_batch in sub_batches(1, 300, "team-a") {
        let back = SubBatch::decode(sub_batch.frame().clone()).unwrap();
        assert_eq!(back, sub_batch);
        assert_eq!(
            spans(&back.contents().unwrap()).len(),
            sub_batch.header().span_count as usize
        );
    }
}

#[test]
fn an_entry_carries_sub_batches_of_several_tenants() {
    let all = [
        sub_batches(1, 300, "team-a"),
        sub_batches(2, 40, "b"),
        sub_batches(3, 1, &"c".repeat(150)),
    ]
    .concat();
    let frame = entry_of(&all);
    let entry = Entry::decode(&frame).unwrap();
    assert!(entry.headers().iter().eq(all.iter().map(SubBatch::header)));
    assert!(entry.payload_bytes() < all.iter().map(|sub_batch| sub_batch.body().len()).sum::<usize>() / 3);
    let body = entry.open().unwrap();
    let mut count = 0;
    for (read, written) in body.sub_batches().zip(&all) {
        let (header, contents) = read.unwrap();
        assert_eq!(header, written.header());
        assert_eq!(spans(&contents), spans(&written.contents().unwrap()));
        count += 1;
    }
    assert_eq!(count, all.len());
    let empty = Entry::decode(&EntryBuilder::default().finish()).unwrap();
    assert!(empty.headers().is_empty() && empty.open().unwrap().sub_batches().next().is_none());
}

#[test]
fn an_entry_has_a_size() {
    let sized = |length: usize| {
        let tenant = TenantId::single();
        let body = vec![0; length];
        let header = SubBatchHeader {
            tenant,
            hash: BatchHash(1),
            span_count: 0,
            start_min_unix_nanos: 0,
            start_max_unix_nanos: 0,
            body_bytes: length as u32,
        };
        SubBatch::from_body(header, &body)
    };
    let mut builder = EntryBuilder::default();
    builder.push(sized(ENTRY_BODY_BYTES_MAX - 100)).unwrap();
    assert!(!builder.fits(&sized(101)));
    assert!(builder.push(sized(101)).is_err());
    builder.push(sized(99)).unwrap();
    builder.push(sized(1)).unwrap();
    assert_eq!((builder.len(), builder.body_bytes()), (3, ENTRY_BODY_BYTES_MAX));
    assert_eq!(
        Entry::decode(&builder.finish())
            .unwrap()
            .open()
            .unwrap()
            .sub_batches()
            .count(),
        3
    );
    // A header that promises more is not believed.
    let mut frame = builder.finish().to_vec();
    let body_bytes = 6 + 1 + TenantId::SINGLE.len() + 16 + 4 + 8 + 8;
    frame[body_bytes..body_bytes + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Entry::decode(&frame.into()).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn damage_is_found() {
    let sub_batch = &sub_batches(4, 20, "team-a")[0];
    let frame = sub_batch.frame();
    for cut in 0..frame.len() {
        assert_eq!(SubBatch::decode(frame.slice(..cut)).unwrap_err().kind(), Kind::Corrupt);
    }
    let mut newer = frame.to_vec();
    newer[1] = 2;
    assert!(matches!(
        SubBatch::decode(newer.into()),
        Err(Error::Frame(FrameReason::Format(2)))
    ));
    let entry = entry_of(std::slice::from_ref(sub_batch));
    assert!(matches!(
        SubBatch::decode(entry.clone()),
        Err(Error::Frame(FrameReason::Tag))
    ));
    assert!(matches!(Entry::decode(frame), Err(Error::Frame(FrameReason::Tag))));
    for cut in 0..entry.len() {
        let opened = Entry::decode(&entry.slice(..cut)).and_then(|entry| entry.open().map(drop));
        assert_eq!(opened.unwrap_err().kind(), Kind::Corrupt, "cut at {cut}");
    }
    let start = entry.len() - Entry::decode(&entry).unwrap().payload_bytes();
    for place in (start..entry.len()).step_by(7) {
        let mut flipped = entry.to_vec();
        flipped[place] ^= 0x10;
        let opened = Entry::decode(&flipped.into()).unwrap().open().map(drop);
        assert!(opened.is_err(), "flip at {place}");
    }
}

#[test]
fn a_hash_names_tenant_body_and_part() {
    let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
    let hash = BatchHash::of_request(&a, b"body");
    assert_eq!(hash, BatchHash::of_request(&a, b"body"));
    assert_ne!(hash, BatchHash::of_request(&b, b"body"));
    assert_ne!(hash, BatchHash::of_request(&a, b"Body"));
    assert_eq!(hash.of_part(0), hash);
    assert_ne!(hash.of_part(1), hash.of_part(2));
    // Part of the log's contract: a retry after an upgrade must be recognised.
    assert_eq!(format!("{:032x}", hash.0), "aac1654d5b5b89ab79cae7a932fcd33e");
}

/// Everything a sub-batch holds, in one number.
fn fingerprint(header: &SubBatchHeader, contents: &Contents<'_>) -> String {
    let SubBatchHeader {
        tenant,
        hash,
        span_count,
        start_min_unix_nanos,
        start_max_unix_nanos,
        body_bytes,
    } = header;
    let numbers = format!("{span_count} {start_min_unix_nanos} {start_max_unix_nanos} {body_bytes}");
    let mut all = format!("{tenant} {:032x} {numbers}", hash.0).into_bytes();
    for (resource, scope, span) in spans(contents) {
        all.extend([resource, scope, span].concat());
    }
    format!(
        "{} {} {:016x}",
        header.tenant,
        contents.span_count(),
        XxHash3_64::oneshot(&all)
    )
}

/// The files are never written again: formats are added, not changed. `WRITE_TESTDATA=1` writes what is missing.
#[test]
fn frames_of_every_released_format_decode_for_ever() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/v1");
    if std::env::var_os("WRITE_TESTDATA").is_some() && !folder.join("entry.bin").exists() {
        let all = [sub_batches(11, 6, "team-a"), sub_batches(12, 3, "team-b")].concat();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("sub-batch.bin"), all[0].frame()).unwrap();
        std::fs::write(folder.join("entry.bin"), entry_of(&all)).unwrap();
    }
    let sub_batch = SubBatch::decode(std::fs::read(folder.join("sub-batch.bin")).unwrap().into()).unwrap();
    let found = fingerprint(sub_batch.header(), &sub_batch.contents().unwrap());
    assert_eq!(found, FROZEN[0]);
    let entry = Entry::decode(&std::fs::read(folder.join("entry.bin")).unwrap().into()).unwrap();
    let body = entry.open().unwrap();
    let found = body.sub_batches().map(|read| read.unwrap());
    let found: Vec<String> = found.map(|(header, contents)| fingerprint(header, &contents)).collect();
    assert_eq!(found, FROZEN);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(tag in prop::sample::select(vec![b'S', b'E']), rest in prop::collection::vec(any::<u8>(), 0..300)) {
        let frame = [&[tag, FORMAT][..], &rest].concat();
        crate::fuzzing::frame_decode(&frame);
    }

    #[test]
    fn damaged_frames_never_panic(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let sub_batches = sub_batches(9, 5, "t");
        for frame in [sub_batches[0].frame().clone(), entry_of(&sub_batches)] {
            let mut frame = frame.to_vec();
            let place = place.index(frame.len());
            frame[place] = byte;
            crate::fuzzing::frame_decode(&frame);
        }
    }
}
