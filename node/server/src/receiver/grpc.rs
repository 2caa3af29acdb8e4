//! OTLP over gRPC: `TraceService/Export`, by hand on HTTP/2.
//!
//! By hand because the message must stay bytes: a generated service decodes every span into structs, which costs more
//! than all the rest of ingest. A unary call is little: a five-byte prefix, a message, and a status in the trailers.
//! Snappy comes for free this way; tonic does not have it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use prost::Message as _;

use super::rpc_status::{ExportResponse, Status};
use super::{Form, Receiver};
use crate::body::collect;
use crate::framing::{self, ACCEPTED, PREFIX_BYTES};
use crate::metrics::RequestLabels;
use crate::refusal::{Kind, Refusal};

const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Serves one request of the OTLP/gRPC port.
pub async fn serve<B>(receiver: Arc<Receiver>, request: Request<B>) -> Response<Reply>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let begun = Instant::now();
    let is_known = request.uri().path() == PATH;
    let is_call = is_call(request.headers());
    let result = export(&receiver, request).await;
    let code = result.as_ref().map_or_else(|refusal| refusal.kind.grpc_code(), |_| 0);
    let answer = match result {
        Ok(response) => success(&response),
        Err(refusal) => {
            receiver.metrics.count_refused(refusal.kind);
            let mut answer = failure(&refusal);
            if !is_call {
                // 200 with an error in gRPC's words would look like success to a client that does not speak gRPC.
                *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            }
            answer
        }
    };
    let labels = RequestLabels {
        route: if is_known { PATH } else { "other" },
        method: "gRPC",
        status_code: u16::try_from(code).unwrap_or_default(),
    };
    receiver
        .metrics
        .request_duration
        .get_or_create(&labels)
        .observe(begun.elapsed().as_secs_f64());
    answer
}

async fn export<B>(receiver: &Receiver, request: Request<B>) -> Result<ExportResponse, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let headers = request.headers();
    if !is_call(headers) {
        return Err(Refusal::new(
            Kind::UnknownEncoding,
            "content type must be application/grpc",
        ));
    }
    if request.uri().path() != PATH {
        return Err(Refusal::new(
            Kind::UnknownEncoding,
            "only the OTLP trace service is here",
        ));
    }
    let tenant = receiver.tenant(headers)?;
    let declared = framing::declared(headers)?;
    let mut permit = receiver.in_flight.permit();
    let mut body = collect(request.into_body(), &receiver.body_limits, &mut permit).await?;
    let encoding = framing::open(&mut body, declared)?;
    if body.is_empty() {
        return Ok(ExportResponse::default());
    }
    let outcome = receiver
        .take("otlp_grpc", tenant, encoding, Form::Protobuf, body, &mut permit)
        .await?;
    Ok(outcome.into())
}

fn is_call(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value == GRPC.as_bytes()
            || value.starts_with(b"application/grpc+proto")
            || value.starts_with(b"application/grpc;")
    })
}

fn success(response: &ExportResponse) -> Response<Reply> {
    let length = response.encoded_len();
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + length);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.put_slice(&response.encode_to_vec());
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let mut answer = Response::new(Reply {
        message: Some(message.freeze()),
        trailers: Some(trailers),
    });
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    answer
}

/// "Trailers only": an error is all in the head.
pub(crate) fn failure(refusal: &Refusal) -> Response<Reply> {
    let mut answer = Response::new(Reply {
        message: None,
        trailers: None,
    });
    *answer.status_mut() = StatusCode::OK;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    headers.insert(GRPC_STATUS, HeaderValue::from(refusal.kind.grpc_code()));
    if let Ok(message) = HeaderValue::from_str(&percent_encode(&refusal.message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    if refusal.retry_after.is_some() {
        let details = base64_unpadded(&Status::from(refusal).encode_to_vec());
        if let Ok(details) = HeaderValue::from_str(&details) {
            headers.insert(GRPC_DETAILS, details);
        }
    }
    if refusal.kind == Kind::UnknownEncoding {
        headers.insert(GRPC_ACCEPT_ENCODING, ACCEPTED);
    }
    answer
}

/// `grpc-message` is percent-encoded: printable ASCII except `%` as it is, all else as `%XX`.
pub(crate) fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

/// Binary metadata is base64; gRPC wants no padding and takes it.
fn base64_unpadded(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(group >> (18 - 6 * position) & 63) as usize]));
        }
    }
    out
}

/// The body of a unary answer: at most one message, then trailers.
#[derive(Debug)]
pub struct Reply {
    message: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match self.message.take() {
            Some(message) => Some(Frame::data(message)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    //! The parts of gRPC that are ours.

    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64_unpadded(bytes.as_bytes()), text);
        }
        assert_eq!(base64_unpadded(&[0xfb, 0xff]), "+/8");
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode("a b%\n\u{e4}"), "a b%25%0A%C3%A4");
    }
}
