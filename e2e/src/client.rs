//! Small clients for the sockets of a node: [`Otlp`] sends, [`Tempo`] asks.
//!
//! They speak the published protocols and know nothing of our crates. What an answer means for the ledger is decided
//! here, once, in [`Reply::outcome`].

use std::time::Duration;

use anyhow::{Context as _, bail};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, TracesData};
use prost::Message as _;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;
use tonic::transport::Channel;

use crate::base64;
use crate::ledger::Outcome;

/// The header, and gRPC metadata key, that names the tenant.
pub const TENANT_HEADER: &str = "x-scope-orgid";

/// Longer than any answer may take on a busy machine; a test that meets it has found a hang.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How an export was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Everything was taken.
    Accepted,
    /// Some spans were refused by name.
    Partial {
        /// How many.
        rejected: i64,
        /// The first reason.
        message: String,
    },
    /// Refused for good: 4xx other than 429, or the gRPC code that means the same.
    Refused(String),
    /// Asked to come back later: 429, 503 and their gRPC codes.
    Busy(String),
    /// No answer, or one that leaves open whether it was stored.
    Broken(String),
}

impl Reply {
    /// What the ledger may conclude about the request's spans.
    ///
    /// Busy counts as unknown although nothing should have been stored: a store that keeps part of what it asks to be
    /// sent again is saved by deduplication, and the ledger must not be stricter than the promise.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Accepted => Outcome::Ok,
            Self::Refused(_) => Outcome::FailDefinite,
            Self::Partial { .. } | Self::Busy(_) | Self::Broken(_) => Outcome::Unknown,
        }
    }
}

/// Sends spans over one of OTLP's two transports.
#[derive(Debug, Clone)]
pub struct Otlp {
    transport: Transport,
    tenant: Option<String>,
}

#[derive(Debug, Clone)]
enum Transport {
    Grpc(TraceServiceClient<Channel>),
    Http { client: reqwest::Client, url: String },
}

impl Otlp {
    /// Over gRPC; connects with the first request.
    pub fn grpc(url: &str, tenant: Option<&str>) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(url.to_owned())?
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .connect_lazy();
        let client = TraceServiceClient::new(channel).max_encoding_message_size(usize::MAX);
        Ok(Self {
            transport: Transport::Grpc(client),
            tenant: tenant.map(str::to_owned),
        })
    }

    /// Over HTTP with protobuf bodies; `url` is the base, without `/v1/traces`.
    pub fn http(url: &str, tenant: Option<&str>) -> anyhow::Result<Self> {
        let transport = Transport::Http {
            client: http_client()?,
            url: format!("{url}/v1/traces"),
        };
        Ok(Self {
            transport,
            tenant: tenant.map(str::to_owned),
        })
    }

    /// Sends one request and says how it was answered; never fails otherwise.
    pub async fn export(&mut self, request: ExportTraceServiceRequest) -> Reply {
        match &mut self.transport {
            Transport::Grpc(client) => {
                let mut request = tonic::Request::new(request);
                if let Some(tenant) = &self.tenant {
                    match tenant.parse() {
                        Ok(value) => request.metadata_mut().insert(TENANT_HEADER, value),
                        Err(_) => return Reply::Refused(format!("{tenant:?} cannot be sent as metadata")),
                    };
                }
                match client.export(request).await {
                    Ok(response) => taken(response.into_inner()),
                    Err(status) => refused_by_grpc(&status),
                }
            }
            Transport::Http { client, url } => {
                let mut post = client.post(url.as_str()).header(CONTENT_TYPE, "application/x-protobuf");
                if let Some(tenant) = &self.tenant {
                    post = post.header(TENANT_HEADER, tenant);
                }
                match post.body(request.encode_to_vec()).send().await {
                    Ok(response) => refused_or_taken_by_http(response).await,
                    Err(error) => Reply::Broken(format!("{error:?}")),
                }
            }
        }
    }
}

fn taken(response: ExportTraceServiceResponse) -> Reply {
    match response.partial_success {
        Some(partial) if partial.rejected_spans > 0 => Reply::Partial {
            rejected: partial.rejected_spans,
            message: partial.error_message,
        },
        _ => Reply::Accepted,
    }
}

fn refused_by_grpc(status: &tonic::Status) -> Reply {
    use tonic::Code;
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::FailedPrecondition
        | Code::OutOfRange => Reply::Refused(text),
        Code::ResourceExhausted => Reply::Busy(text),
        // Unavailable is both "busy" and "the connection broke in the middle".
        _ => Reply::Broken(text),
    }
}

async fn refused_or_taken_by_http(response: reqwest::Response) -> Reply {
    let status = response.status();
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => return Reply::Broken(format!("{status}, then {error:?}")),
    };
    if status.is_success() {
        return match ExportTraceServiceResponse::decode(body) {
            Ok(response) => taken(response),
            Err(error) => Reply::Broken(format!("{status} with an unreadable body: {error}")),
        };
    }
    let text = format!("{status}: {}", String::from_utf8_lossy(&body));
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Reply::Busy(text),
        _ if status.is_client_error() => Reply::Refused(text),
        _ => Reply::Broken(text),
    }
}

/// Asks Tempo's HTTP API.
#[derive(Debug, Clone)]
pub struct Tempo {
    client: reqwest::Client,
    url: String,
    tenant: Option<String>,
}

/// A trace from `/api/v2/traces/{id}`.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceAnswer {
    /// Empty when the trace is not known.
    pub resource_spans: Vec<ResourceSpans>,
    /// Something could not be read, and why.
    pub partial: Option<String>,
}

/// `/api/search`.
#[derive(Debug, Clone, Deserialize)]
pub struct SearchAnswer {
    /// Newest first.
    #[serde(default)]
    pub traces: Vec<FoundTrace>,
    /// Sums over the search, as sent.
    #[serde(default)]
    pub metrics: Value,
    /// `PARTIAL` or absent.
    #[serde(default)]
    pub status: Option<String>,
}

/// One trace of a [`SearchAnswer`].
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundTrace {
    /// Hex; Tempo leaves leading zeros away.
    #[serde(rename = "traceID")]
    pub trace_id: String,
    /// Service of the root span, if it is known.
    #[serde(default)]
    pub root_service_name: String,
    /// Name of the root span, if it is known.
    #[serde(default)]
    pub root_trace_name: String,
    /// The spans that matched.
    #[serde(default)]
    pub span_sets: Vec<Value>,
}

impl FoundTrace {
    /// The id in full, 32 digits.
    pub fn full_id(&self) -> String {
        format!("{:0>32}", self.trace_id.to_lowercase())
    }
}

impl Tempo {
    /// `url` is the base, `http://127.0.0.1:3200`.
    pub fn new(url: &str, tenant: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self {
            client: http_client()?,
            url: url.to_owned(),
            tenant: tenant.map(str::to_owned),
        })
    }

    /// One GET; the caller judges the status.
    pub async fn get(&self, path: &str, accept: &str) -> anyhow::Result<reqwest::Response> {
        let mut get = self.client.get(format!("{}{path}", self.url)).header(ACCEPT, accept);
        if let Some(tenant) = &self.tenant {
            get = get.header(TENANT_HEADER, tenant);
        }
        get.send().await.with_context(|| format!("GET {path}"))
    }

    /// `/ready`: the status and its text.
    pub async fn ready(&self) -> anyhow::Result<(StatusCode, String)> {
        let response = self.get("/ready", "*/*").await?;
        Ok((response.status(), response.text().await?))
    }

    /// `/api/traces/{id}` as protobuf; `None` for 404.
    pub async fn trace_v1(&self, id: [u8; 16]) -> anyhow::Result<Option<Vec<ResourceSpans>>> {
        let path = format!("/api/traces/{}", hex(&id));
        let Some(body) = self.found(&path, "application/protobuf").await? else {
            return Ok(None);
        };
        // tempopb.Trace is wire-equal to OTLP's TracesData.
        Ok(Some(
            TracesData::decode(body)
                .with_context(|| format!("GET {path} is not a trace"))?
                .resource_spans,
        ))
    }

    /// `/api/traces/{id}` as JSON (top key `batches`); `None` for 404.
    pub async fn trace_v1_json(&self, id: [u8; 16]) -> anyhow::Result<Option<Vec<ResourceSpans>>> {
        let path = format!("/api/traces/{}", hex(&id));
        let Some(body) = self.found(&path, "application/json").await? else {
            return Ok(None);
        };
        let mut json: Value = serde_json::from_slice(&body).with_context(|| format!("GET {path} is not JSON"))?;
        Ok(Some(from_tempo_json(json["batches"].take())?))
    }

    /// `/api/v2/traces/{id}` as protobuf; an unknown trace is an empty answer.
    pub async fn trace(&self, id: [u8; 16]) -> anyhow::Result<TraceAnswer> {
        let path = format!("/api/v2/traces/{}", hex(&id));
        let Some(body) = self.found(&path, "application/protobuf").await? else {
            return Ok(TraceAnswer {
                resource_spans: Vec::new(),
                partial: None,
            });
        };
        let answer = TraceByIdResponse::decode(body).with_context(|| format!("GET {path} is not an answer"))?;
        let partial = (answer.status == PARTIAL).then_some(answer.message);
        Ok(TraceAnswer {
            resource_spans: answer.trace.unwrap_or_default().resource_spans,
            partial,
        })
    }

    /// `/api/v2/traces/{id}` as JSON.
    pub async fn trace_json(&self, id: [u8; 16]) -> anyhow::Result<TraceAnswer> {
        let path = format!("/api/v2/traces/{}", hex(&id));
        let Some(body) = self.found(&path, "application/json").await? else {
            return Ok(TraceAnswer {
                resource_spans: Vec::new(),
                partial: None,
            });
        };
        let mut json: Value = serde_json::from_slice(&body).with_context(|| format!("GET {path} is not JSON"))?;
        let partial = (json["status"] == "PARTIAL").then(|| json["message"].as_str().unwrap_or("").to_owned());
        Ok(TraceAnswer {
            resource_spans: from_tempo_json(json["trace"]["resourceSpans"].take())?,
            partial,
        })
    }

    /// `/api/search` with a TraceQL query; further parameters as given.
    pub async fn search(&self, query: &str, parameters: &[(&str, &str)]) -> anyhow::Result<SearchAnswer> {
        self.json("/api/search", &[&[("q", query)], parameters].concat()).await
    }

    /// `/api/v2/search/tags`.
    pub async fn tags(&self) -> anyhow::Result<Value> {
        self.json("/api/v2/search/tags", &[]).await
    }

    /// `/api/v2/search/tag/{tag}/values`.
    pub async fn tag_values(&self, tag: &str) -> anyhow::Result<Value> {
        self.json(&format!("/api/v2/search/tag/{tag}/values"), &[]).await
    }

    /// The value of one series of `/metrics`, found by how its line starts.
    pub async fn metric(&self, series: &str) -> anyhow::Result<Option<f64>> {
        let text = self
            .get("/metrics", "text/plain")
            .await?
            .error_for_status()?
            .text()
            .await?;
        let line = text
            .lines()
            .find(|line| line.starts_with(series) && !line.starts_with('#'));
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()))
    }

    /// GET with parameters, answered in JSON with 200.
    pub async fn json<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> anyhow::Result<T> {
        let url = with_query(path, parameters)?;
        let response = self.get(&url, "application/json").await?;
        let status = response.status();
        let body = response.text().await?;
        if !status.is_success() {
            bail!("GET {url}: {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("GET {url} answered {body}"))
    }

    async fn found(&self, path: &str, accept: &str) -> anyhow::Result<Option<bytes::Bytes>> {
        let response = self.get(path, accept).await?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = response.bytes().await?;
        if !status.is_success() {
            bail!("GET {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(Some(body))
    }
}

/// Appends parameters, encoded.
pub fn with_query(path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut url = reqwest::Url::parse("http://localhost")?.join(path)?;
    if !parameters.is_empty() {
        url.query_pairs_mut().extend_pairs(parameters);
    }
    Ok(url
        .query()
        .map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())))
}

/// A client that never goes through a proxy: all traffic is loopback.
pub fn http_client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?)
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tempo's JSON differs from OTLP's: ids are base64 and enums are names. Turns it into OTLP's and reads that.
fn from_tempo_json(mut batches: Value) -> anyhow::Result<Vec<ResourceSpans>> {
    if batches.is_null() {
        return Ok(Vec::new());
    }
    to_otlp_json(&mut batches)?;
    serde_json::from_value(batches).context("not OTLP once ids and enums are translated")
}

fn to_otlp_json(json: &mut Value) -> anyhow::Result<()> {
    match json {
        Value::Array(items) => items.iter_mut().try_for_each(to_otlp_json),
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), &value) {
                    ("traceId" | "spanId" | "parentSpanId", Value::String(text)) => {
                        *value = Value::String(hex(&base64::decode(text)?));
                    }
                    ("kind", Value::String(name)) => *value = number_of(SPAN_KINDS, name)?,
                    ("code", Value::String(name)) => *value = number_of(STATUS_CODES, name)?,
                    _ => to_otlp_json(value)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

const SPAN_KINDS: &[&str] = &[
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];
const STATUS_CODES: &[&str] = &["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

fn number_of(names: &[&str], name: &str) -> anyhow::Result<Value> {
    let number = names.iter().position(|known| *known == name);
    number
        .map(Value::from)
        .with_context(|| format!("{name} is not one of {names:?}"))
}

const PARTIAL: i32 = 1;

/// `tempopb.TraceByIDResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct TraceByIdResponse {
    #[prost(message, optional, tag = "1")]
    trace: Option<TracesData>,
    #[prost(int32, tag = "3")]
    status: i32,
    #[prost(string, tag = "4")]
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_tempos_json() {
        let json = serde_json::json!([{"resource": {"attributes": []}, "scopeSpans": [{"scope": {}, "spans": [{
            "traceId": "AAECAwQFBgcICQoLDA0ODw==", "spanId": "AQIDBAUGBwg=", "name": "GET /",
            "kind": "SPAN_KIND_SERVER", "startTimeUnixNano": "1700000000000000001", "endTimeUnixNano": "1700000000000000002",
            "attributes": [{"key": "n", "value": {"intValue": "7"}}, {"key": "b", "value": {"boolValue": true}}],
            "status": {"code": "STATUS_CODE_ERROR"},
        }]}]}]);
        let read = from_tempo_json(json).unwrap();
        let span = &read[0].scope_spans[0].spans[0];
        assert_eq!(span.trace_id, (0..16).collect::<Vec<u8>>());
        assert_eq!(span.span_id, (1..9).collect::<Vec<u8>>());
        assert_eq!((span.kind, span.status.as_ref().unwrap().code), (2, 2));
        assert_eq!(span.start_time_unix_nano, 1_700_000_000_000_000_001);
    }

    #[test]
    fn encodes_queries() {
        assert_eq!(
            with_query("/api/search", &[("q", "{ .a = \"b\" }")]).unwrap(),
            "/api/search?q=%7B+.a+%3D+%22b%22+%7D"
        );
        assert_eq!(with_query("/ready", &[]).unwrap(), "/ready");
    }
}
