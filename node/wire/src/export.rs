//! What an OTLP exporter is answered, as protobuf over gRPC and HTTP and as JSON over HTTP.

use crate::tempopb::export::v1::{ErrorStatus, ExportTracePartialSuccess, ExportTraceServiceResponse};
use crate::tempopb::{self, Tabled};

/// The encoding of a request over HTTP, which its answer has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// `application/x-protobuf`
    Protobuf,
    /// `application/json`
    Json,
}

impl BodyFormat {
    /// Reads a `Content-Type`; parameters such as a charset are ignored. `None` for what OTLP does not know.
    pub fn from_content_type(value: &str) -> Option<Self> {
        match value.split(';').next().unwrap_or_default().trim() {
            "application/x-protobuf" | "application/protobuf" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    fn encode<M: Tabled>(self, message: &M) -> Vec<u8> {
        match self {
            Self::Protobuf => message.encode_to_vec(),
            Self::Json => tempopb::to_json(message),
        }
    }
}

/// The `ExportTraceServiceResponse`: empty, or with what [`crate::ingest::Outcome::partial_success`] has to say.
pub fn success_body(partial: Option<(u64, String)>, format: BodyFormat) -> Vec<u8> {
    let partial_success = partial.map(|(rejected, error_message)| ExportTracePartialSuccess {
        rejected_spans: i64::try_from(rejected).unwrap_or(i64::MAX),
        error_message,
    });
    format.encode(&ExportTraceServiceResponse { partial_success })
}

/// The `google.rpc.Status` that OTLP/HTTP wants in the body of every error. `code` is gRPC's number.
pub fn error_body(code: i32, message: &str, format: BodyFormat) -> Vec<u8> {
    format.encode(&ErrorStatus {
        code,
        message: message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn answers_in_both_encodings() {
        assert_eq!(success_body(None, BodyFormat::Protobuf), b"");
        assert_eq!(success_body(None, BodyFormat::Json), b"{}");
        let partial = Some((3, "three \"bad\" ids".to_owned()));
        let json = success_body(partial.clone(), BodyFormat::Json);
        let expected = r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"three \"bad\" ids"}}"#;
        assert_eq!(String::from_utf8(json).unwrap(), expected);
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse as Theirs;
        let theirs = Theirs::decode(&success_body(partial, BodyFormat::Protobuf)[..])
            .unwrap()
            .partial_success
            .unwrap();
        assert_eq!(
            (theirs.rejected_spans, &*theirs.error_message),
            (3, "three \"bad\" ids")
        );
        assert_eq!(error_body(3, "no", BodyFormat::Json), br#"{"code":3,"message":"no"}"#);
    }

    #[test]
    fn content_types() {
        let of = BodyFormat::from_content_type;
        assert_eq!(of("application/json; charset=utf-8"), Some(BodyFormat::Json));
        assert_eq!(of("application/x-protobuf"), Some(BodyFormat::Protobuf));
        assert_eq!(of("text/plain"), None);
    }
}
