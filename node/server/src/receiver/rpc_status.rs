//! The three small messages that OTLP answers with: `google.rpc.Status`, `RetryInfo`, `ExportTraceServiceResponse`.
//!
//! Declared here by their field numbers, because the crates that have them bring decoders for everything else too.

use prost::Message;

use crate::ingest::IngestOutcome;
use crate::refusal::Refusal;

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(crate) retry_delay: Option<prost_types::Duration>,
}

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) partial_success: Option<PartialSuccess>,
}

/// `ExportTracePartialSuccess`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(crate) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(crate) error_message: String,
}

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        let details = refusal.retry_after.map(|wait| {
            let info = RetryInfo {
                retry_delay: prost_types::Duration::try_from(wait).ok(),
            };
            prost_types::Any {
                type_url: RETRY_INFO.to_owned(),
                value: info.encode_to_vec(),
            }
        });
        Self {
            code: refusal.kind.grpc_code(),
            message: refusal.message.to_string(),
            details: details.into_iter().collect(),
        }
    }
}

impl Status {
    /// As JSON: protobuf's mapping, with the retry time as `"1.5s"`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let details = self.details.iter().map(|any| {
            let delay = RetryInfo::decode(any.value.as_slice())
                .ok()
                .and_then(|info| info.retry_delay);
            let text = delay.map(|delay| {
                let fraction = format!(".{:09}", delay.nanos);
                format!(
                    "{}{}s",
                    delay.seconds,
                    fraction.trim_end_matches('0').trim_end_matches('.')
                )
            });
            serde_json::json!({"@type": any.type_url, "retryDelay": text})
        });
        serde_json::json!({"code": self.code, "message": self.message, "details": details.collect::<Vec<_>>()})
    }
}

impl From<IngestOutcome> for ExportResponse {
    fn from(outcome: IngestOutcome) -> Self {
        let is_clean = outcome.rejected_spans == 0 && outcome.message.is_empty();
        Self {
            partial_success: (!is_clean).then_some(PartialSuccess {
                rejected_spans: i64::try_from(outcome.rejected_spans).unwrap_or(i64::MAX),
                error_message: outcome.message,
            }),
        }
    }
}

impl ExportResponse {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.partial_success {
            None => serde_json::json!({}),
            Some(partial) => serde_json::json!({"partialSuccess": {
                "rejectedSpans": partial.rejected_spans.to_string(), "errorMessage": partial.error_message}}),
        }
    }
}
