//! The corpus of the fuzz targets (`fuzz/corpus`), replayed and mutated.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use model::{ShardId, TenantId};
use prost::Message;
use wire::frame::{BatchHash, EntryBuilder};
use wire::{fuzzing, ingest, json, tempopb};

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../benches/synthetic.rs"]
mod synthetic;

use replay::replay;

/// Some tenths of a second each in a build that is not optimised.
const ROUNDS: u32 = 2_000;

fn request(seed: u64) -> Vec<u8> {
    synthetic::request(seed, 5).encode_to_vec()
}

#[test]
fn otlp_proto() {
    replay("otlp_proto", fuzzing::otlp_proto, ROUNDS, || {
        vec![
            request(1),
            request(2),
            Vec::new(),
            vec![0x0a, 0],
            request(3)[..100].to_vec(),
        ]
    });
}

#[test]
fn otlp_json() {
    replay("otlp_json", fuzzing::otlp_json, ROUNDS, || {
        let mut text = Vec::new();
        json::write(&tempopb::table::TRACE, &request(1), json::Dialect::Otlp, &mut text).unwrap();
        let odd = br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","kind":"SPAN_KIND_SERVER","startTimeUnixNano":1.5e18,"attributes":[{"key":"\ud83d\ude00","value":{"doubleValue":"NaN"}},{"key":"b","value":{"bytesValue":"-_8"}},{"key":"n","value":{"kvlistValue":{"values":[{"key":"x","value":{"arrayValue":{"values":[{},{"boolValue":false}]}}}]}}}],"unknown":[null,true,{"a":-1e-5}]}]}]}]}"#;
        vec![
            text,
            odd.to_vec(),
            b"{}".to_vec(),
            br#"{"resourceSpans":[{},{"resource":null}]}"#.to_vec(),
        ]
    });
}

#[test]
fn frame_decode() {
    replay("frame_decode", fuzzing::frame_decode, ROUNDS, || {
        let (tenant, body) = (TenantId::single(), request(1));
        let scan = ingest::scan(&body, &ingest::IngestLimits::default(), |_| ShardId(0)).unwrap();
        let sub_batch = scan.into_sub_batches(&tenant, BatchHash(1)).pop().unwrap().sub_batch;
        let mut builder = EntryBuilder::default();
        builder.push(sub_batch.clone()).unwrap();
        vec![
            sub_batch.frame().to_vec(),
            builder.finish().to_vec(),
            EntryBuilder::default().finish().to_vec(),
        ]
    });
}

#[test]
fn decompress_stream() {
    replay("decompress_stream", fuzzing::decompress_stream, ROUNDS, || {
        use std::io::{Read, Write};
        let plain = request(1);
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(&plain).unwrap();
        let read = |mut stream: Box<dyn Read + '_>| {
            let mut packed = Vec::new();
            stream.read_to_end(&mut packed).unwrap();
            packed
        };
        let level = flate2::Compression::new(6);
        vec![
            read(Box::new(flate2::read::GzEncoder::new(&plain[..], level))),
            read(Box::new(flate2::read::ZlibEncoder::new(&plain[..], level))),
            read(Box::new(snap::read::FrameEncoder::new(&plain[..]))),
            snap::raw::Encoder::new().compress_vec(&plain).unwrap(),
            zstd::stream::encode_all(&plain[..], 1).unwrap(),
            lz4.finish().unwrap(),
        ]
    });
}
