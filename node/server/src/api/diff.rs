//! Two traces side by side: reads the question, fetches both, and hands them to [`crate::tracediff`].

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue};
use model::TraceId;
use prost::Message as _;
use query::source::TimeRange;
use serde::Deserialize;
use settings::Limits;
use wire::tempopb::Trace;

use super::Api;
use super::answer::Spelled;
use super::params::{TraceParams, refuse};
use crate::querier::Tenants;
use crate::refusal::{Kind, Refusal};
use crate::tracediff::{Format, document};

const NANOS: u64 = 1_000_000_000;

#[derive(Debug, Deserialize)]
struct Question {
    base: Side,
    compare: Side,
    #[serde(default)]
    format: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    trace_id: String,
    start: Option<u64>,
    end: Option<u64>,
}

impl Side {
    fn checked(&self, name: &str) -> Result<(TraceId, TraceParams), Refusal> {
        let id = TraceId::parse_hex(&self.trace_id)
            .ok_or_else(|| refuse(format!("{name}.traceId: 1 to 32 hexadecimal digits are expected")))?;
        let window = match (self.start, self.end) {
            (None, None) => None,
            (Some(start), Some(end)) if start < end && end <= u64::MAX / NANOS => Some(TimeRange {
                start_unix_nanos: start * NANOS,
                end_unix_nanos: end * NANOS,
            }),
            _ => {
                return Err(refuse(format!(
                    "{name}: start and end are given together, in unix seconds, start before end"
                )));
            }
        };
        let params = TraceParams {
            window,
            ..TraceParams::anywhere()
        };
        Ok((id, params))
    }
}

impl Api {
    pub(super) async fn trace_diff(&self, headers: &HeaderMap, body: &[u8]) -> Result<Spelled, Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let question: Question =
            serde_json::from_slice(body).map_err(|error| refuse(format!("invalid trace diff request: {error}")))?;
        let format = question.format.as_deref().unwrap_or("trace-patch-v0");
        let format = Format::from_word(format).ok_or_else(|| {
            refuse("invalid format: trace-patch-v0, trace-summary-v0-native or trace-summary-v0-composed")
        })?;
        let (base, compared) = (question.base.checked("base")?, question.compare.checked("compare")?);
        let fetch = |(id, params)| self.whole_trace(tenants.clone(), &limits, id, params);
        let (base, compared) = futures::try_join!(fetch(base), fetch(compared))?;
        // Both are held at once, so they share what one trace may take.
        let bytes_max = limits.trace_bytes_max.bytes();
        if (base.len() + compared.len()) as u64 > bytes_max {
            let message = format!("the two traces together exceed max size (max bytes: {bytes_max})");
            return Err(Refusal::new(Kind::AnswerTooLarge, message));
        }
        let unreadable =
            |error: &dyn std::fmt::Display| Refusal::new(Kind::Internal, format!("cannot compare the traces: {error}"));
        let body = self
            .cpu
            .run(move || {
                let decode = |bytes: bytes::Bytes| Trace::decode(bytes).map_err(|error| unreadable(&error));
                document(&decode(base)?, &decode(compared)?, format).map_err(|error| unreadable(&error))
            })
            .await??;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Spelled { body, headers })
    }

    /// A trace of which nothing is missing.
    async fn whole_trace(
        &self,
        tenants: Tenants,
        limits: &Limits,
        id: TraceId,
        params: TraceParams,
    ) -> Result<bytes::Bytes, Refusal> {
        let found = self.run_trace(tenants, limits, id, params).await?;
        if found.trace.is_empty() {
            return Err(Refusal::new(Kind::NotFound, format!("trace not found: {id}")));
        }
        if found.is_cut || !found.missing.is_empty() {
            let message = format!("trace {id} could not be read whole, and partial traces are not compared");
            return Err(Refusal::new(Kind::AnswerTooLarge, message));
        }
        Ok(found.trace)
    }
}
