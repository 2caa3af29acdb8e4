//! Calls through the service in memory: by OTLP's own client, and byte by byte.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use super::*;
use crate::export::{BodyFormat, success_body};
use crate::inflate::{self, InflateLimits};
use crate::synthetic;

/// Answers with the number of decompressed bytes and the first metadata value as a warning.
#[derive(Clone)]
struct Echo;

impl Export for Echo {
    async fn export(&self, call: ExportCall) -> Result<Vec<u8>, Status> {
        let body =
            inflate::inflate(call.encoding, call.message, &InflateLimits::default()).map_err(|e| status_of(&e))?;
        let tenant = call
            .headers
            .get("x-scope-orgid")
            .map_or("", |value| value.to_str().unwrap());
        if tenant == "nobody" {
            return Err(Status::unauthenticated("no org id"));
        }
        Ok(success_body(
            Some((body.len() as u64, tenant.to_owned())),
            BodyFormat::Protobuf,
        ))
    }
}

const MAX: usize = 1 << 20;

#[tokio::test]
async fn the_official_client_is_served_in_every_encoding_it_knows() {
    let request = synthetic::request(1, 500);
    for encoding in [
        None,
        Some(CompressionEncoding::Gzip),
        Some(CompressionEncoding::Zstd),
        Some(CompressionEncoding::Deflate),
    ] {
        let mut client = TraceServiceClient::new(ExportService::new(Echo, MAX));
        if let Some(encoding) = encoding {
            client = client.send_compressed(encoding);
        }
        let mut call = tonic::Request::new(request.clone());
        call.metadata_mut().insert("x-scope-orgid", "team-a".parse().unwrap());
        let partial = client.export(call).await.unwrap().into_inner().partial_success.unwrap();
        assert_eq!(
            (partial.rejected_spans as usize, &*partial.error_message),
            (request.encoded_len(), "team-a"),
            "{encoding:?}"
        );
    }
    let mut call = tonic::Request::new(ExportTraceServiceRequest::default());
    call.metadata_mut().insert("x-scope-orgid", "nobody".parse().unwrap());
    let status = TraceServiceClient::new(ExportService::new(Echo, MAX))
        .export(call)
        .await
        .unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "no org id"));
}

/// A call with this body in pieces, and its gRPC status and answer.
async fn call(encoding: &str, pieces: Vec<Vec<u8>>) -> (Code, Bytes) {
    let pieces = pieces
        .into_iter()
        .map(|piece| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(piece))));
    let body = Body::new(http_body_util::StreamBody::new(futures::stream::iter(pieces)));
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let request = Request::builder()
        .uri(path)
        .header("grpc-encoding", encoding)
        .body(body)
        .unwrap();
    let response = ExportService::new(Echo, MAX).call(request).await.unwrap();
    let early = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await.unwrap();
    let status = early
        .or_else(|| {
            body.trailers()
                .and_then(|trailers| trailers.get("grpc-status").cloned())
        })
        .unwrap();
    (Code::from_bytes(status.as_bytes()), body.to_bytes())
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

#[tokio::test]
async fn snappy_comes_as_blocks_and_as_frames() {
    let plain = synthetic::request(2, 100).encode_to_vec();
    let block = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    let mut frames = Vec::new();
    std::io::copy(&mut snap::read::FrameEncoder::new(&plain[..]), &mut frames).unwrap();
    let expected = framed(
        0,
        &success_body(Some((plain.len() as u64, String::new())), BodyFormat::Protobuf),
    );
    for message in [block, frames] {
        assert_eq!(
            call("snappy", vec![framed(1, &message)]).await,
            (Code::Ok, expected.clone().into())
        );
    }
    // The flag says whether this message is compressed, whatever the header declares.
    assert_eq!(
        call("snappy", vec![framed(0, &plain)]).await,
        (Code::Ok, expected.into())
    );
}

#[tokio::test]
async fn a_message_may_come_in_any_pieces() {
    let whole = framed(0, &[7; 300]);
    let expected: Bytes = framed(0, &success_body(Some((300, String::new())), BodyFormat::Protobuf)).into();
    for size in [1, 3, 5, 6, 299, 305, 306] {
        let pieces = whole.chunks(size).map(<[u8]>::to_vec).collect();
        assert_eq!(
            call("identity", pieces).await,
            (Code::Ok, expected.clone()),
            "pieces of {size}"
        );
    }
}

#[tokio::test]
async fn what_is_not_one_message_is_refused() {
    let small = framed(0, b"abc");
    let cases: Vec<(&str, Vec<Vec<u8>>, Code)> = vec![
        ("identity", vec![], Code::InvalidArgument),
        ("identity", vec![vec![0, 0]], Code::InvalidArgument),
        ("identity", vec![small[..6].to_vec()], Code::InvalidArgument),
        (
            "identity",
            vec![[small.clone(), small.clone()].concat()],
            Code::InvalidArgument,
        ),
        ("identity", vec![small.clone(), small.clone()], Code::InvalidArgument),
        ("identity", vec![framed(2, b"abc")], Code::InvalidArgument),
        ("gzip", vec![framed(1, b"abc")], Code::InvalidArgument),
        ("br", vec![small], Code::Unimplemented),
    ];
    for (encoding, pieces, code) in cases {
        assert_eq!(call(encoding, pieces.clone()).await.0, code, "{encoding} {pieces:?}");
    }
}

#[tokio::test]
async fn the_size_of_a_message_is_limited_before_it_is_read() {
    for (length, code) in [(MAX - 1, Code::Ok), (MAX, Code::Ok), (MAX + 1, Code::ResourceExhausted)] {
        assert_eq!(
            call("identity", vec![framed(0, &vec![0; length])]).await.0,
            code,
            "{length}"
        );
        let pieces = framed(0, &vec![0; length])
            .chunks(100_000)
            .map(<[u8]>::to_vec)
            .collect();
        assert_eq!(call("identity", pieces).await.0, code, "{length} in pieces");
    }
    let promise = [&[0][..], &u32::MAX.to_be_bytes()].concat();
    assert_eq!(
        call("identity", vec![promise, vec![0; 10]]).await.0,
        Code::ResourceExhausted
    );
}
