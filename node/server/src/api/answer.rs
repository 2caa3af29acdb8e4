//! Answers in Tempo's words: plain data into tempopb messages, and those into JSON or protobuf.
//!
//! Always holds: bodies have nothing that Tempo's do not (tempo-cli refuses unknown fields); what we have to say beyond
//! that is in headers.

pub(crate) mod llm;
pub(crate) mod series;

use std::collections::BTreeMap;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use model::{Scope, TraceId};
use prost::Message as _;
use query::answer::{SpanMatch, SpansetMatch, TraceMatch};
use query::field::{Intrinsic, scope_word};
use query::value::Static;
use settings::ByteSize;
use wire::json::Dialect;
use wire::schema;
use wire::tempopb::common::v1::any_value::Value;
use wire::tempopb::common::v1::{AnyValue, ArrayValue, KeyValue};
use wire::tempopb::{
    self, MetadataMetrics, PartialStatus, SearchMetrics, TraceByIdMetrics, TraceSearchMetadata, table,
};

use super::params::cursor_text;
use super::questions::FoundTrace;
use crate::querier::{SearchAnswer, Stats, TagsAnswer, TraceAnswer, ValuesAnswer};
use crate::refusal::{Kind, Refusal};

/// Says why an answer is not complete, in the answers whose bodies have no place for it.
pub(crate) const PARTIAL_HEADER: HeaderName = HeaderName::from_static("x-vivace-partial");
/// Where the next page of a search begins: the value of the parameter `cursor`.
pub(crate) const CURSOR_HEADER: HeaderName = HeaderName::from_static("x-vivace-cursor");
/// Bytes of the header's value.
const PARTIAL_BYTES_MAX: usize = 1024;
/// Tempo's name for a root that has not arrived.
const NO_ROOT: &str = "<root span not yet received>";

/// How the client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Protobuf,
    /// For language models, where there is such a form; JSON elsewhere.
    Llm,
}

impl Form {
    /// A substring test, as Tempo does it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let accepts = |form: &str| {
            let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            accept.into_iter().any(|accept| accept.contains(form))
        };
        if accepts("application/protobuf") {
            Self::Protobuf
        } else if accepts("application/vnd.grafana.llm") {
            Self::Llm
        } else {
            Self::Json
        }
    }
}

/// A body and the headers that go with it.
#[derive(Debug, Default)]
pub(crate) struct Spelled {
    pub(crate) body: Vec<u8>,
    pub(crate) headers: HeaderMap,
}

fn spell(
    table: &'static schema::Message,
    message: Vec<u8>,
    form: Form,
    missing: &[String],
) -> Result<Spelled, Refusal> {
    let (body, content_type) = match form {
        Form::Protobuf => (message, "application/protobuf"),
        Form::Json | Form::Llm => {
            let mut out = Vec::with_capacity(message.len() * 2);
            wire::json::write(table, &message, Dialect::Tempo, &mut out)
                .map_err(|error| Refusal::new(Kind::Internal, format!("cannot write the answer: {error}")))?;
            (out, "application/json")
        }
    };
    Ok(with_headers(body, content_type, missing))
}

/// What a client is told who asks for too much.
pub(crate) fn too_large(bytes_max: ByteSize) -> Refusal {
    let message = format!("answer exceeds query.response_bytes_max: {bytes_max}; ask for less");
    Refusal::new(Kind::AnswerTooLarge, message)
}

/// Refuses what is too large before it is written: as JSON nothing gets shorter.
fn within(message: impl prost::Message, bytes_max: ByteSize) -> Result<Vec<u8>, Refusal> {
    if message.encoded_len() as u64 > bytes_max.bytes() {
        return Err(too_large(bytes_max));
    }
    Ok(message.encode_to_vec())
}

fn with_headers(body: Vec<u8>, content_type: &'static str, missing: &[String]) -> Spelled {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if !missing.is_empty() {
        headers.insert(PARTIAL_HEADER, partial_header(missing));
    }
    Spelled { body, headers }
}

const LLM: &str = "application/vnd.grafana.llm+json";

fn partial_header(missing: &[String]) -> HeaderValue {
    let mut text: String = missing
        .join("; ")
        .chars()
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .collect();
    text.truncate(PARTIAL_BYTES_MAX);
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("incomplete"))
}

/// `tempopb.Trace` alone, with `batches` on top in JSON.
pub(crate) fn trace_v1(answer: &TraceAnswer, form: Form) -> Result<Spelled, Refusal> {
    spell(&table::TRACE_V1, answer.trace.to_vec(), form, &answer.missing)
}

/// `tempopb.TraceByIDResponse`. The trace is spliced in as bytes: it is never decoded.
pub(super) fn trace_v2(found: &FoundTrace, form: Form) -> Result<Spelled, Refusal> {
    let answer = &found.answer;
    if form == Form::Llm {
        return Ok(with_headers(llm::trace(answer)?, LLM, &answer.missing));
    }
    let mut message = Vec::with_capacity(answer.trace.len() + 64);
    model::proto::write_bytes(&mut message, 1, &answer.trace);
    let metrics = TraceByIdMetrics {
        inspected_bytes: answer.stats.inspected_bytes,
        backend_reads: answer.stats.backend_reads,
        backend_bytes: answer.stats.backend_bytes,
        ..Default::default()
    };
    model::proto::write_bytes(&mut message, 2, &metrics.encode_to_vec());
    let mut reasons = answer.missing.clone();
    if answer.is_cut {
        reasons.push(format!("trace exceeds max size (max bytes: {})", found.bytes_max));
    }
    if answer.is_picked {
        reasons.push("only the spans that q asks for are returned".to_owned());
    }
    reasons.extend(found.pruned.reason().map(str::to_owned));
    if !reasons.is_empty() {
        model::proto::write_varint_field(&mut message, 3, PartialStatus::Partial as u64);
        model::proto::write_bytes(&mut message, 4, reasons.join("; ").as_bytes());
    }
    spell(&table::TRACE_BY_ID_RESPONSE, message, form, &answer.missing)
}

/// How trace ids are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// All 32 digits.
    Full,
    /// Without leading zeros, as Tempo writes them.
    Trimmed,
}

/// `limit` is that of the search: an answer with so many traces says where the next page begins.
pub(crate) fn search(
    answer: &SearchAnswer,
    limit: usize,
    ids: Ids,
    form: Form,
    bytes_max: ByteSize,
) -> Result<Spelled, Refusal> {
    let message = within(search_message(answer, ids), bytes_max)?;
    let mut spelled = spell(&table::SEARCH_RESPONSE, message, form, &answer.missing)?;
    let last = answer.traces.last().filter(|_| answer.traces.len() >= limit);
    if let Some(value) = last.and_then(|last| HeaderValue::from_str(&cursor_text(last.place())).ok()) {
        spelled.headers.insert(CURSOR_HEADER, value);
    }
    Ok(spelled)
}

pub(crate) fn search_message(answer: &SearchAnswer, ids: Ids) -> tempopb::SearchResponse {
    tempopb::SearchResponse {
        traces: trace_messages(&answer.traces, ids),
        metrics: Some(search_metrics(&answer.stats)),
    }
}

pub(crate) fn trace_messages(traces: &[TraceMatch], ids: Ids) -> Vec<TraceSearchMetadata> {
    traces.iter().map(|found| trace_metadata(found, ids)).collect()
}

pub(crate) fn search_metrics(stats: &Stats) -> SearchMetrics {
    SearchMetrics {
        inspected_traces: stats.inspected_traces,
        inspected_bytes: stats.inspected_bytes,
        total_blocks: stats.blocks,
        completed_jobs: stats.jobs_done,
        total_jobs: stats.jobs,
        total_block_bytes: stats.block_bytes,
        inspected_spans: stats.inspected_spans,
        backend_reads: stats.backend_reads,
        backend_bytes: stats.backend_bytes,
        additional_metrics: additional_metrics(stats),
    }
}

/// Tempo's open-ended map; its keys where we have the number.
fn additional_metrics(stats: &Stats) -> BTreeMap<String, i64> {
    [
        ("rowGroupsInspected", stats.row_groups),
        ("rowGroupsSkipped", stats.row_groups_skipped),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(key, count)| (key.to_owned(), i64::from(count)))
    .collect()
}

pub(crate) fn metadata_metrics(stats: &Stats) -> MetadataMetrics {
    MetadataMetrics {
        inspected_bytes: stats.inspected_bytes,
        total_jobs: stats.jobs,
        completed_jobs: stats.jobs_done,
        total_blocks: stats.blocks,
        total_block_bytes: stats.block_bytes,
        backend_reads: stats.backend_reads,
        backend_bytes: stats.backend_bytes,
        additional_metrics: additional_metrics(stats),
    }
}

fn trace_metadata(found: &TraceMatch, ids: Ids) -> TraceSearchMetadata {
    let span_sets: Vec<_> = found.spansets.iter().map(span_set).collect();
    let (service, name) = match &found.root {
        Some(root) => (root.service.clone(), root.name.clone()),
        None => (NO_ROOT.to_owned(), String::new()),
    };
    let stats = |stats: &query::answer::ServiceStats| tempopb::ServiceStats {
        span_count: stats.span_count,
        error_count: stats.error_count,
    };
    TraceSearchMetadata {
        trace_id: match ids {
            Ids::Full => found.trace_id.to_string(),
            Ids::Trimmed => trimmed_hex(found.trace_id),
        },
        root_service_name: service,
        root_trace_name: name,
        start_time_unix_nano: found.start_unix_nanos,
        duration_ms: u32::try_from(found.duration_nanos / 1_000_000).unwrap_or(u32::MAX),
        span_set: span_sets.first().cloned(),
        span_sets,
        service_stats: found
            .services
            .iter()
            .map(|(name, counts)| (name.clone(), stats(counts)))
            .collect(),
    }
}

/// Without leading zeros, which is what Tempo's own clients compare with.
fn trimmed_hex(id: TraceId) -> String {
    format!("{:x}", id.to_u128())
}

fn span_set(set: &SpansetMatch) -> tempopb::SpanSet {
    tempopb::SpanSet {
        spans: set.spans.iter().map(span).collect(),
        matched: set.matched,
        attributes: attributes(&set.attributes),
    }
}

fn span(found: &SpanMatch) -> tempopb::Span {
    tempopb::Span {
        span_id: found.span_id.to_string(),
        name: found.name.clone(),
        start_time_unix_nano: found.start_unix_nanos,
        duration_nanos: found.duration_nanos,
        attributes: attributes(&found.attributes),
    }
}

fn attributes(pairs: &[(String, Static)]) -> Vec<KeyValue> {
    pairs
        .iter()
        .map(|(key, value)| KeyValue {
            key: key.clone(),
            value: any_value(value),
        })
        .collect()
}

pub(crate) fn any_value(value: &Static) -> Option<AnyValue> {
    let value = match value {
        Static::Nil => return None,
        Static::Int(int) => Value::IntValue(*int),
        Static::Float(float) => Value::DoubleValue(*float),
        Static::Bool(bool) => Value::BoolValue(*bool),
        Static::List(items) => Value::ArrayValue(ArrayValue {
            values: items.iter().filter_map(any_value).collect(),
        }),
        Static::Str(_) | Static::Duration(_) | Static::Status(_) | Static::Kind(_) => {
            Value::StringValue(value.display())
        }
    };
    Some(AnyValue { value: Some(value) })
}

/// Intrinsics as the v2 tags answer lists them.
pub(crate) fn intrinsic_tags() -> Vec<String> {
    const LISTED: [&str; 24] = [
        "duration",
        "event:name",
        "event:timeSinceStart",
        "instrumentation:name",
        "instrumentation:version",
        "kind",
        "link:spanID",
        "link:traceID",
        "name",
        "rootName",
        "rootServiceName",
        "span:duration",
        "span:id",
        "span:kind",
        "span:name",
        "span:parentID",
        "span:status",
        "span:statusMessage",
        "status",
        "statusMessage",
        "trace:duration",
        "trace:id",
        "trace:rootName",
        "trace:rootService",
    ];
    LISTED.into_iter().chain(["traceDuration"]).map(str::to_owned).collect()
}

/// All names of all scopes in one list, each once.
pub(crate) fn tags_v1(answer: &TagsAnswer, with_intrinsics: bool, form: Form) -> Result<Spelled, Refusal> {
    spell(
        &table::SEARCH_TAGS_RESPONSE,
        tags_v1_message(answer, with_intrinsics).encode_to_vec(),
        form,
        &cut(answer),
    )
}

pub(crate) fn tags_v1_message(answer: &TagsAnswer, with_intrinsics: bool) -> tempopb::SearchTagsResponse {
    let mut names: Vec<String> = answer
        .scopes
        .iter()
        .flat_map(|(_, names)| names.iter().cloned())
        .collect();
    if with_intrinsics {
        names.extend(intrinsic_tags());
    }
    names.sort();
    names.dedup();
    tempopb::SearchTagsResponse {
        tag_names: names,
        metrics: Some(metadata_metrics(&answer.stats)),
    }
}

pub(crate) fn tags_v2(answer: &TagsAnswer, with_intrinsics: bool, form: Form) -> Result<Spelled, Refusal> {
    spell(
        &table::SEARCH_TAGS_V2_RESPONSE,
        tags_v2_message(answer, with_intrinsics).encode_to_vec(),
        form,
        &cut(answer),
    )
}

pub(crate) fn tags_v2_message(answer: &TagsAnswer, with_intrinsics: bool) -> tempopb::SearchTagsV2Response {
    let scope = |(scope, names): &(Scope, Vec<String>)| tempopb::SearchTagsV2Scope {
        name: scope_word(*scope).to_owned(),
        tags: names.clone(),
    };
    let mut scopes: Vec<_> = answer
        .scopes
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(scope)
        .collect();
    if with_intrinsics {
        scopes.push(tempopb::SearchTagsV2Scope {
            name: "intrinsic".to_owned(),
            tags: intrinsic_tags(),
        });
    }
    tempopb::SearchTagsV2Response {
        scopes,
        metrics: Some(metadata_metrics(&answer.stats)),
    }
}

fn cut(answer: &TagsAnswer) -> Vec<String> {
    let more = answer.is_cut.then(|| "there are more names than fit".to_owned());
    answer.missing.iter().cloned().chain(more).collect()
}

pub(crate) fn values_v1(answer: &ValuesAnswer, form: Form) -> Result<Spelled, Refusal> {
    spell(
        &table::SEARCH_TAG_VALUES_RESPONSE,
        values_v1_message(answer).encode_to_vec(),
        form,
        &cut_values(answer),
    )
}

pub(crate) fn values_v1_message(answer: &ValuesAnswer) -> tempopb::SearchTagValuesResponse {
    let mut values: Vec<String> = answer.values.iter().map(Static::display).collect();
    values.sort();
    values.dedup();
    tempopb::SearchTagValuesResponse {
        tag_values: values,
        metrics: Some(metadata_metrics(&answer.stats)),
    }
}

pub(crate) fn values_v2(answer: &ValuesAnswer, form: Form) -> Result<Spelled, Refusal> {
    if form == Form::Llm {
        let body = llm::values(&values_v2_message(answer));
        return Ok(with_headers(body, LLM, &cut_values(answer)));
    }
    spell(
        &table::SEARCH_TAG_VALUES_V2_RESPONSE,
        values_v2_message(answer).encode_to_vec(),
        form,
        &cut_values(answer),
    )
}

pub(crate) fn values_v2_message(answer: &ValuesAnswer) -> tempopb::SearchTagValuesV2Response {
    let value = |value: &Static| {
        let kind = match value {
            Static::Nil | Static::List(_) => return None,
            Static::Str(_) => "string",
            Static::Int(_) => "int",
            Static::Float(_) => "float",
            Static::Bool(_) => "bool",
            Static::Duration(_) => "duration",
            Static::Status(_) | Static::Kind(_) => "keyword",
        };
        Some(tempopb::TagValue {
            r#type: kind.to_owned(),
            value: value.display(),
        })
    };
    tempopb::SearchTagValuesV2Response {
        tag_values: answer.values.iter().filter_map(value).collect(),
        metrics: Some(metadata_metrics(&answer.stats)),
    }
}

fn cut_values(answer: &ValuesAnswer) -> Vec<String> {
    let more = answer.is_cut.then(|| "there are more values than fit".to_owned());
    answer.missing.iter().cloned().chain(more).collect()
}

/// Values of an intrinsic that nobody needs to look up: the words of enumerations, and nothing for what is unbounded.
pub(crate) fn fixed_values(which: Intrinsic) -> Option<Vec<Static>> {
    use query::value::{SpanKind, Status};
    match which {
        Intrinsic::Status => Some(
            ["error", "ok", "unset"]
                .into_iter()
                .filter_map(Status::from_word)
                .map(Static::Status)
                .collect(),
        ),
        Intrinsic::Kind => Some(
            ["client", "consumer", "internal", "producer", "server", "unspecified"]
                .into_iter()
                .filter_map(SpanKind::from_word)
                .map(Static::Kind)
                .collect(),
        ),
        Intrinsic::Name
        | Intrinsic::StatusMessage
        | Intrinsic::RootName
        | Intrinsic::RootService
        | Intrinsic::EventName
        | Intrinsic::InstrumentationName
        | Intrinsic::InstrumentationVersion => None,
        _ => Some(Vec::new()),
    }
}
