//! One entry per reader of what clients write, for the fuzzer (`fuzz/`) and for the test that replays its corpus.
//!
//! Each takes any bytes, must not panic, and holds what was read to a property of its own. Bodies are `wire`'s.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use model::ManualClock;
use settings::{Limits, NodeSettings};
use wire::inflate::Encoding;

use crate::api::params::{Params, Rules, parse_pruning, parse_search, parse_tags, parse_trace, parse_values};
use crate::api::route::route;
use crate::api::streaming::request;
use crate::api::{Api, Readiness};
use crate::cpu::CpuPool;
use crate::framing;
use crate::metrics::Metrics;
use crate::preview::Watching;
use crate::querier::{
    MetricsAnswer, MetricsQuestion, Querier, SearchAnswer, SearchQuestion, TagsAnswer, TagsQuestion, TraceAnswer,
    TraceQuestion, ValuesAnswer, ValuesQuestion,
};
use crate::refusal::{Kind, Refusal};
use crate::tenant::{TENANT_HEADER, Tenancy};

const NOW: u64 = 1_700_000_000_000_000_000;

/// A path and a query string, divided by the first `?`. What is refused is the client's fault and is not echoed at length;
/// what is asked for keeps to the limits.
pub fn http_params(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if let Some(route) = route(path) {
        assert!(route.pattern().starts_with('/'));
    }
    let refused = |refusal: Refusal| {
        assert_eq!(refusal.kind, Kind::Rejected);
        assert!(refusal.message.len() < 1024, "{}", refusal.message);
    };
    let params = match Params::parse(Some(query)) {
        Ok(params) => params,
        Err(refusal) => return refused(refusal),
    };
    let (settings, limits) = (NodeSettings::default(), Limits::default());
    let rules = Rules {
        query: &settings.query,
        limits: &limits,
        now_unix_nanos: NOW,
    };
    match parse_search(&params, &rules) {
        Ok(search) => {
            assert!((1..=limits.search_limit_max).contains(&search.limit));
            assert!(search.spans_per_spanset <= limits.spans_per_spanset_max);
            assert!(search.window.start_unix_nanos < search.window.end_unix_nanos);
            if params.get("q").is_none() {
                query::parse(&search.query).expect("tags become a query that means something");
            }
        }
        Err(refusal) => refused(refusal),
    }
    let _ = parse_tags(&params, &rules).map_err(refused);
    let _ = parse_values(&params, &rules).map_err(refused);
    let _ = parse_trace(&params, NOW).map_err(refused);
    let _ = parse_pruning(&params).map_err(refused);
}

/// The value of `X-Scope-OrgID`. What is let through is a tenant whose folder cannot leave its place.
pub fn tenant_header(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut settings = NodeSettings::default();
    settings.tenancy.multitenancy_enabled = true;
    let tenancy = Tenancy::new(&settings);
    let mut headers = HeaderMap::new();
    headers.append(TENANT_HEADER, value.clone());
    let check = |tenant: &model::TenantId| {
        let segment = tenant.path_segment();
        let is_safe = |c: char| c.is_ascii_alphanumeric() || "!_.*'()-%".contains(c);
        assert!(segment.chars().all(is_safe) && segment != "." && segment != "..");
        assert!((1..=150).contains(&tenant.as_str().len()));
    };
    match tenancy.of_write(&headers) {
        Ok(tenant) => check(&tenant),
        Err(refusal) => assert_eq!(refusal.kind, Kind::Unauthenticated),
    }
    match tenancy.of_read(&headers) {
        Ok(tenants) => {
            assert!(!tenants.is_empty());
            tenants.iter().for_each(check);
        }
        Err(refusal) => assert!(matches!(refusal.kind, Kind::Unauthenticated | Kind::Rejected)),
    }
    headers.append(TENANT_HEADER, value);
    assert!(tenancy.of_write(&headers).is_err(), "two headers");
}

/// A call's body: the first byte chooses the encoding that its header names. What is taken is the one message that the
/// prefix announces.
pub fn grpc_framing(bytes: &[u8]) {
    const NAMES: [Option<&str>; 6] = [
        None,
        Some("identity"),
        Some("gzip"),
        Some("zstd"),
        Some("snappy"),
        Some("deflate"),
    ];
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let declared = Encoding::from_header(NAMES[usize::from(*first) % NAMES.len()]).expect("these are known");
    let mut body = Bytes::copy_from_slice(rest);
    match framing::open(&mut body, declared) {
        Ok(encoding) => {
            assert_eq!(body, rest[framing::PREFIX_BYTES..]);
            assert_eq!(rest[1..5], u32::try_from(body.len()).expect("small").to_be_bytes());
            assert_eq!(encoding != Encoding::Identity, rest[0] == 1);
        }
        Err(refusal) => assert!(matches!(refusal.kind, Kind::Rejected | Kind::Protocol)),
    }
}

/// A message to `tempopb.StreamingQuerier`: the first byte chooses the method. What is no message is the client's fault;
/// searches are held to the rules of the query string that they stand for.
pub fn streaming_request(bytes: &[u8]) {
    const METHODS: [&str; 8] = [
        "Search",
        "SearchTags",
        "SearchTagsV2",
        "SearchTagValues",
        "SearchTagValuesV2",
        "MetricsQueryRange",
        "MetricsQueryInstant",
        "Other",
    ];
    let Some((first, message)) = bytes.split_first() else {
        return;
    };
    let method = METHODS[usize::from(*first) % METHODS.len()];
    if let Err(refusal) = request::check(&format!("/tempopb.StreamingQuerier/{method}"), message) {
        assert_eq!(refusal.kind, Kind::Rejected);
        assert!(refusal.message.len() < 1024, "{}", refusal.message);
        return;
    }
    let (settings, limits) = (NodeSettings::default(), Limits::default());
    let rules = Rules {
        query: &settings.query,
        limits: &limits,
        now_unix_nanos: NOW,
    };
    if method == "Search"
        && let Some(pairs) = request::search_pairs(message)
        && let Ok(search) = parse_search(&Params::from_pairs(pairs), &rules)
    {
        assert!((1..=limits.search_limit_max).contains(&search.limit));
        assert!(search.window.start_unix_nanos < search.window.end_unix_nanos);
    }
}

/// Refuses every question.
struct Nobody;

fn nobody<'a, T: Send + 'static>() -> BoxFuture<'a, Result<T, Refusal>> {
    Box::pin(std::future::ready(Err(Refusal::new(
        Kind::Unavailable,
        "nobody answers",
    ))))
}

impl Querier for Nobody {
    fn trace_by_id(&self, _: TraceQuestion) -> BoxFuture<'_, Result<TraceAnswer, Refusal>> {
        nobody()
    }
    fn search(&self, _: SearchQuestion, _: Watching<SearchAnswer>) -> BoxFuture<'_, Result<SearchAnswer, Refusal>> {
        nobody()
    }
    fn metrics(&self, _: MetricsQuestion, _: Watching<MetricsAnswer>) -> BoxFuture<'_, Result<MetricsAnswer, Refusal>> {
        nobody()
    }
    fn tags(&self, _: TagsQuestion, _: Watching<TagsAnswer>) -> BoxFuture<'_, Result<TagsAnswer, Refusal>> {
        nobody()
    }
    fn tag_values(&self, _: ValuesQuestion, _: Watching<ValuesAnswer>) -> BoxFuture<'_, Result<ValuesAnswer, Refusal>> {
        nobody()
    }
}

static API: LazyLock<Api> = LazyLock::new(|| {
    let mut settings = NodeSettings::default();
    settings.query.mcp_enabled = true;
    Api::new(
        Arc::new(settings.clone()),
        Arc::new(ArcSwap::from_pointee(settings.limits.clone())),
        Arc::new(Tenancy::new(&settings)),
        Arc::new(Nobody),
        Arc::new(ManualClock::at(NOW)),
        Metrics::new(),
        Arc::default(),
        Arc::new(Readiness::default()),
        CpuPool::new(1),
    )
});

/// A message to `/api/mcp`. It is answered with a message that is JSON, or not at all if it is a notification.
pub fn mcp_message(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let answer = runtime
        .expect("a runtime without sockets")
        .block_on(API.mcp_bytes(bytes));
    let answer = answer.expect("a fault is an answer");
    assert!(answer.len() < 256 << 10, "{} bytes", answer.len());
    if !answer.is_empty() {
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        assert_eq!(answer["jsonrpc"], "2.0");
        assert!(answer["result"].is_object() != answer["error"].is_object());
    }
}
