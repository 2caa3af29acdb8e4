//! How gRPC wraps a message: five bytes of prefix, a compression flag among them, and the encoding that a header names.
//!
//! Owns [`declared`] and [`open`], for every gRPC port. Only calls of one message come here, so exactly one is expected.
//! What breaks gRPC's own rules is [`Kind::Protocol`], which no other request can be.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use wire::inflate::Encoding;

use crate::refusal::{Kind, Refusal};

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// What clients may compress with; sent with every refusal of an unknown encoding.
pub(crate) const ACCEPTED: HeaderValue = HeaderValue::from_static("identity,gzip,zstd,deflate,snappy");
/// Compressed flag and length in front of each message.
pub(crate) const PREFIX_BYTES: usize = 5;

/// The encoding that the call names; [`Encoding::Identity`] when it names none.
pub(crate) fn declared(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let name = headers.get(GRPC_ENCODING).map(|value| value.to_str()).transpose();
    let name = name.map_err(|_| Refusal::new(Kind::UnknownEncoding, "grpc-encoding is not plain text"))?;
    Ok(Encoding::from_header(name)?)
}

/// Takes the prefix off `body` and checks that exactly one message is in it. Returns how that message is encoded: a
/// client may name an encoding and still send a message as it is.
pub(crate) fn open(body: &mut Bytes, declared: Encoding) -> Result<Encoding, Refusal> {
    if body.len() < PREFIX_BYTES {
        return Err(Refusal::new(Kind::Rejected, "the call has no complete message"));
    }
    let encoding = match body.get_u8() {
        0 => Encoding::Identity,
        1 if declared == Encoding::Identity => {
            return Err(Refusal::new(
                Kind::Protocol,
                "the message is flagged as compressed, but grpc-encoding names no compression",
            ));
        }
        1 => declared,
        flag => return Err(Refusal::new(Kind::Rejected, format!("unknown compression flag {flag}"))),
    };
    let length = body.get_u32();
    if body.len() as u64 != u64::from(length) {
        return Err(Refusal::new(
            Kind::Rejected,
            "a unary call must have exactly one message",
        ));
    }
    Ok(encoding)
}

#[cfg(test)]
mod tests {
    //! Bodies in, encodings or refusals out.

    use super::*;

    #[test]
    fn prefixes() {
        let gzip = Encoding::from_header(Some("gzip")).unwrap();
        for (bytes, declared, expected) in [
            (&b"\0\0\0\0\0"[..], Encoding::Identity, Ok(Encoding::Identity)),
            (b"\0\0\0\0\x01a", gzip, Ok(Encoding::Identity)),
            (b"\x01\0\0\0\x02ab", gzip, Ok(gzip)),
            (b"\x01\0\0\0\x02ab", Encoding::Identity, Err(Kind::Protocol)),
            (b"\x01\0\0\0\0", Encoding::Identity, Err(Kind::Protocol)),
            (b"", gzip, Err(Kind::Rejected)),
            (b"\0\0\0\0", gzip, Err(Kind::Rejected)),
            (b"\x02\0\0\0\0", gzip, Err(Kind::Rejected)),
            (b"\0\0\0\0\x02a", gzip, Err(Kind::Rejected)),
            (b"\0\0\0\0\x01ab", gzip, Err(Kind::Rejected)),
            (b"\0\xff\xff\xff\xffab", gzip, Err(Kind::Rejected)),
        ] {
            let read = open(&mut Bytes::copy_from_slice(bytes), declared).map_err(|refusal| refusal.kind);
            assert_eq!(read, expected, "{bytes:?} {declared:?}");
        }
    }
}
