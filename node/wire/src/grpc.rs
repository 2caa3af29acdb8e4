//! Raw bytes through gRPC: the OTLP export service without decoding, and a codec for our own calls.
//!
//! The export service reads the one message of the call as it came and hands it over still compressed, so that gRPC and HTTP
//! share one way of decompressing ([`crate::inflate`]): the same encodings, snappy among them, the same limits, and on the
//! caller's CPU pool rather than on an IO thread.
//!
//! Not here: limits on connections and streams, deadlines, authentication (`server`).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::server::NamedService;

use crate::error::{Error, Kind};
use crate::inflate::Encoding;

/// The encodings we read, as `grpc-accept-encoding` says it.
const ACCEPTED_ENCODINGS: &str = "identity,gzip,zstd,snappy,deflate";

/// Compressed flag and length before each message.
const PREFIX_BYTES: usize = 5;

/// Hands messages over as bytes, both ways.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.len());
        out.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// The gRPC status of an error at the door. Server-side kinds become INTERNAL without their text.
pub fn status_of(error: &Error) -> Status {
    match error.kind() {
        Kind::Rejected => Status::invalid_argument(error.to_client_text()),
        // Without retry info exporters drop the batch: sending it again cannot help.
        Kind::TooLarge => Status::resource_exhausted(error.to_client_text()),
        Kind::UnknownEncoding => {
            let mut status = Status::unimplemented(error.to_client_text());
            status.metadata_mut().insert(
                "grpc-accept-encoding",
                tonic::metadata::MetadataValue::from_static(ACCEPTED_ENCODINGS),
            );
            status
        }
        Kind::Corrupt => Status::internal("internal error"),
    }
}

/// One export call, not decompressed yet.
#[derive(Debug)]
pub struct ExportCall {
    /// The call's metadata.
    pub headers: HeaderMap,
    /// What the layers before us attached, such as the peer's address.
    pub extensions: http::Extensions,
    /// How `message` is compressed.
    pub encoding: Encoding,
    /// The `ExportTraceServiceRequest`.
    pub message: Bytes,
}

/// Takes export calls.
pub trait Export: Clone + Send + Sync + 'static {
    /// Handles one call; the answer is an encoded `ExportTraceServiceResponse` ([`crate::export::success_body`]).
    ///
    /// Cancel: the future is dropped when the client goes away.
    fn export(&self, call: ExportCall) -> impl Future<Output = Result<Vec<u8>, Status>> + Send;
}

/// `opentelemetry.proto.collector.trace.v1.TraceService` over an [`Export`].
#[derive(Debug, Clone)]
pub struct ExportService<E> {
    handler: E,
    message_bytes_max: usize,
}

impl<E> ExportService<E> {
    /// Messages above `message_bytes_max`, as they are on the wire, are refused before they are read.
    pub fn new(handler: E, message_bytes_max: usize) -> Self {
        Self {
            handler,
            message_bytes_max,
        }
    }
}

impl<E> NamedService for ExportService<E> {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl<E: Export> Service<Request<Body>> for ExportService<E> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self {
            handler,
            message_bytes_max,
        } = self.clone();
        Box::pin(async move {
            let answer = answer(handler, request, message_bytes_max).await;
            Ok(answer.unwrap_or_else(|status| status.into_http()))
        })
    }
}

async fn answer<E: Export>(handler: E, request: Request<Body>, max: usize) -> Result<Response<Body>, Status> {
    if request.uri().path() != "/opentelemetry.proto.collector.trace.v1.TraceService/Export" {
        return Err(Status::unimplemented("unknown method"));
    }
    let (parts, body) = request.into_parts();
    let declared = parts
        .headers
        .get("grpc-encoding")
        .map(|value| value.to_str().unwrap_or("not text"));
    let declared = Encoding::from_header(declared).map_err(|error| status_of(&error))?;
    let (is_compressed, message) = read_message(body, max).await?;
    let encoding = if is_compressed { declared } else { Encoding::Identity };
    let call = ExportCall {
        headers: parts.headers,
        extensions: parts.extensions,
        encoding,
        message,
    };
    Ok(unary_response(&handler.export(call).await?))
}

/// Reads the one message of a unary call: whether it is compressed, and its bytes.
async fn read_message(mut body: Body, max: usize) -> Result<(bool, Bytes), Status> {
    let too_large = || Status::resource_exhausted(format!("message exceeds {max} bytes"));
    let mut whole = BytesMut::new();
    let mut expected = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::from_error(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        // A whole message in one piece, as small ones come, is not copied.
        if whole.is_empty() && body.is_end_stream() && expected.is_none() {
            return split(data, max, too_large);
        }
        whole.extend_from_slice(&data);
        if expected.is_none() && whole.len() >= PREFIX_BYTES {
            let length = u32::from_be_bytes([whole[1], whole[2], whole[3], whole[4]]) as usize;
            if length > max {
                return Err(too_large());
            }
            expected = Some(length + PREFIX_BYTES);
            // Not all at once: a client that promises much and sends little holds little.
            whole.reserve(length.min(1 << 20));
        }
        if expected.is_some_and(|expected| whole.len() > expected) {
            break;
        }
    }
    split(whole.freeze(), max, too_large)
}

fn split(mut whole: Bytes, max: usize, too_large: impl FnOnce() -> Status) -> Result<(bool, Bytes), Status> {
    if whole.len() < PREFIX_BYTES {
        return Err(Status::invalid_argument("call without a message"));
    }
    let is_compressed = match whole.get_u8() {
        0 => false,
        1 => true,
        _ => return Err(Status::invalid_argument("invalid compressed flag")),
    };
    let length = whole.get_u32() as usize;
    if length > max {
        return Err(too_large());
    }
    if whole.len() != length {
        return Err(Status::invalid_argument("call with less or more than one message"));
    }
    Ok((is_compressed, whole))
}

/// A unary answer that carries `message`.
fn unary_response(message: &[u8]) -> Response<Body> {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    // Our answers are a number and a sentence.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(framed.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
        .headers_mut()
        .insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED_ENCODINGS));
    response
}

#[cfg(test)]
mod tests;
