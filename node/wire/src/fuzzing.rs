//! One entry per parser of bytes from outside, for the fuzzer (`fuzz/`) and for the test that replays its corpus.
//!
//! Each takes any bytes, must not panic, and holds what was parsed to a property of its own.

use bytes::Bytes;
use model::ShardId;
use model::proto::Malformed;

use crate::frame::{Contents, Entry, SubBatch};
use crate::inflate::{self, Encoding, InflateLimits};
use crate::ingest::{self, IngestLimits};
use crate::json;
use crate::tempopb::table;

/// Scans an export request and reads back what was accepted.
pub fn otlp_proto(bytes: &[u8]) {
    let limits = IngestLimits {
        attributes_max: 4,
        key_bytes_max: 16,
        value_bytes_max: 16,
        ..IngestLimits::default()
    };
    let Ok(scan) = ingest::scan(bytes, &limits, |id| ShardId(u32::from(id.0[0]) % 4)) else {
        return;
    };
    let (accepted, outcome) = (scan.span_count() as u64, scan.outcome().clone());
    assert_eq!(accepted + outcome.rejected(), outcome.received);
    let routed = scan.into_sub_batches(&model::TenantId::single(), crate::frame::BatchHash(1));
    let mut found = 0;
    for routed in routed {
        let contents = routed.sub_batch.contents().expect("we wrote it");
        found += read_all(&contents).expect("we wrote it");
    }
    assert_eq!(found, accepted);
}

/// Reads OTLP/JSON; what was read is no larger than the text, scans without a fault of its form, and can be written again.
pub fn otlp_json(text: &[u8]) {
    let Ok(bytes) = json::export_request(text) else { return };
    assert!(bytes.len() <= text.len() + 64);
    let mut again = Vec::new();
    match json::write(&table::TRACE, &bytes, json::Dialect::Otlp, &mut again) {
        Ok(()) => assert!(json::export_request(&again).expect("we wrote it").len() <= bytes.len()),
        Err(error) => assert_eq!(error, Malformed::TooDeep),
    }
    otlp_proto(&bytes);
}

/// Decodes a sub-batch or an entry and walks whatever it holds.
pub fn frame_decode(bytes: &[u8]) {
    let frame = Bytes::copy_from_slice(bytes);
    if let Ok(contents) = SubBatch::decode(frame.clone())
        .as_ref()
        .map_err(drop)
        .and_then(|s| s.contents().map_err(drop))
    {
        drop(read_all(&contents));
    }
    let Ok(entry) = Entry::decode(&frame) else { return };
    let Ok(body) = entry.open() else { return };
    for (_, contents) in body.sub_batches().flatten() {
        drop(read_all(&contents));
    }
}

fn read_all(contents: &Contents<'_>) -> Result<u64, crate::Error> {
    let mut count = 0;
    for span in contents.spans() {
        let span = span?;
        let _ = (contents.resource(span.resource), contents.scope(span.scope));
        count += 1;
    }
    Ok(count)
}

/// Decompresses under every encoding; the result keeps to the limits.
pub fn decompress_stream(bytes: &[u8]) {
    let limits = InflateLimits {
        bytes_max: 1 << 20,
        ratio_max: 20,
        ratio_free_bytes: 1 << 16,
    };
    let all = [
        Encoding::Identity,
        Encoding::Gzip,
        Encoding::Zstd,
        Encoding::Snappy,
        Encoding::SnappyFramed,
        Encoding::Zlib,
        Encoding::Lz4,
    ];
    for encoding in all {
        if let Ok(body) = inflate::inflate(encoding, Bytes::copy_from_slice(bytes), &limits) {
            assert!(body.len() <= limits.bytes_max);
        }
    }
}
