//! The query API on port 3200, as Grafana's Tempo data source and tempo-cli speak it.
//!
//! Owns [`Api`]. A request goes one way: [`route`] → [`params`] → a question for the [`Querier`] behind a turn of the
//! [`gate`] and a deadline → [`answer`] → bytes. gRPC requests on the same port go to [`streaming`].
//!
//! What always holds: errors are plain text that a person reads in Grafana; a dropped connection drops its query; an
//! answer that is not complete says so.

mod answer;
mod diff;
mod explain;
mod gate;
mod mcp;
pub(crate) mod params;
mod questions;
pub(crate) mod route;
mod status;
pub(crate) mod streaming;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY};
use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};
use arc_swap::ArcSwap;
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use model::Clock;
use query::answer::TraceMatch;
use query::metrics::Series;
use settings::{LimitSettings, NodeSettings};
use tower::Service as _;
use wire::tempopb::streaming_querier_server::StreamingQuerierServer;

use crate::cpu::CpuPool;
use crate::framing::PREFIX_BYTES;
use crate::metrics::{Metrics, RequestLabels};
use crate::notice::Notices;
use crate::querier::Querier;
use crate::receiver::grpc;
use crate::refusal::{Kind, Refusal};
use crate::tenant::Tenancy;
use answer::{Form, Ids, Spelled};
use explain::wants_explanation;
use params::Shape;
use questions::{FoundTrace, TraceApi, field_v2};
use route::Route;

/// Bodies below this are not worth compressing.
const GZIP_BYTES_MIN: usize = 1024;
/// Bodies above this are compressed on the CPU pool.
const GZIP_INLINE_BYTES_MAX: usize = 64 << 10;

/// Answers that hold more than this are spelled on a pool of their own.
const SPELL_INLINE_BYTES_MAX: usize = 256 << 10;

/// Bytes of a question in a body, and how long it may take to arrive.
const POSTED_BYTES_MAX: usize = 1 << 20;
const POSTED_TIME_MAX: Duration = Duration::from_secs(10);

/// Body of every answer on this port.
pub type ApiBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Whether the node takes requests; `/ready` tells.
#[derive(Debug, Default)]
pub struct Readiness {
    is_ready: AtomicBool,
}

impl Readiness {
    pub fn set(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Relaxed);
    }
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }
}

/// What the API needs to know. One per node.
pub struct Api {
    pub(crate) querier: Arc<dyn Querier>,
    pub(crate) tenancy: Arc<Tenancy>,
    pub(crate) settings: Arc<NodeSettings>,
    pub(crate) limits: Arc<ArcSwap<LimitSettings>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) cpu: CpuPool,
    /// For large answers: what they take must not keep spans from being received.
    pub(crate) spelling: CpuPool,
    pub(crate) gate: gate::Gate,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

impl Api {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another room, and the one caller names them all"
    )]
    pub fn new(
        settings: Arc<NodeSettings>,
        limits: Arc<ArcSwap<LimitSettings>>,
        tenancy: Arc<Tenancy>,
        querier: Arc<dyn Querier>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        notices: Arc<Notices>,
        readiness: Arc<Readiness>,
        cpu: CpuPool,
    ) -> Self {
        let gate = gate::Gate::new(settings.query.concurrent_max);
        Self {
            querier,
            tenancy,
            settings,
            limits,
            clock,
            metrics,
            notices,
            readiness,
            cpu,
            spelling: CpuPool::new(std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2))),
            gate,
        }
    }
}

/// Serves one request of the query port.
pub async fn serve(api: Arc<Api>, request: Request<Incoming>) -> Response<ApiBody> {
    let is_grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return serve_grpc(api, request).await;
    }
    let begun = Instant::now();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        _ => "other",
    };
    let (head, body) = request.into_parts();
    let route = route::route(head.uri.path());
    let pattern = route.as_ref().map_or("other", Route::pattern);
    let result = match route {
        None => Err(Refusal::new(
            Kind::NotFound,
            route::absence(head.uri.path()).unwrap_or("404 page not found"),
        )),
        Some(route) if route.is_posted() && method != "POST" => Err(Refusal::new(Kind::WrongMethod, "use POST")),
        Some(_) if method == "other" => Err(Refusal::new(Kind::WrongMethod, "use GET")),
        Some(route) if route.is_posted() => api.answer_posted(route, &head, body).await,
        Some(route) => api.answer(route, &head.headers, head.uri.query()).await,
    };
    let wants_gzip = wants_gzip(&head.headers);
    let response = match result {
        Ok(answer) => api.encode(answer, wants_gzip).await,
        Err(refusal) => failure(&refusal),
    };
    let labels = RequestLabels {
        route: pattern,
        method,
        status_code: response.status().as_u16(),
    };
    api.metrics
        .request_duration
        .get_or_create(&labels)
        .observe(begun.elapsed().as_secs_f64());
    response
}

async fn serve_grpc(api: Arc<Api>, request: Request<Incoming>) -> Response<ApiBody> {
    let (mut head, body) = request.into_parts();
    let message = match streaming::request::read(head.uri.path(), &head.headers, body).await {
        Ok(message) => message,
        Err(refusal) => return grpc::failure(&refusal).map(|body| body.map_err(|never| match never {}).boxed_unsync()),
    };
    // The service gets it as it is.
    head.headers.remove("grpc-encoding");
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).expect("POSTED_BYTES_MAX fits"));
    body.put(message);
    let request = Request::from_parts(head, Full::new(body.freeze()));
    let mut service = StreamingQuerierServer::new(streaming::Streaming::new(api));
    match service.call(request).await {
        Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(never) => match never {},
    }
}

/// Reads a question that is in a body.
pub(crate) async fn read_posted<B>(body: B) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let reading = Limited::new(body, POSTED_BYTES_MAX).collect();
    match tokio::time::timeout(POSTED_TIME_MAX, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("request body is larger than {POSTED_BYTES_MAX} bytes");
            Err(Refusal::new(Kind::TooLarge, message))
        }
        Ok(Err(_)) => Err(Refusal::new(Kind::Rejected, "request body is cut short")),
        Err(_) => Err(Refusal::new(Kind::TooSlow, "request body arrives too slowly")),
    }
}

#[cfg(test)]
mod posted_tests {
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    #[tokio::test]
    async fn questions_in_a_body_at_the_limit_and_one_beside_it() {
        for (length, expected) in [
            (POSTED_BYTES_MAX - 1, Ok(POSTED_BYTES_MAX - 1)),
            (POSTED_BYTES_MAX, Ok(POSTED_BYTES_MAX)),
            (POSTED_BYTES_MAX + 1, Err(Kind::TooLarge)),
        ] {
            let read = read_posted(Full::new(Bytes::from(vec![b'x'; length]))).await;
            assert_eq!(read.map(|body| body.len()).map_err(|refusal| refusal.kind), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_in_a_body_comes_in_time() {
        let milli = Duration::from_millis(1);
        for (after, expected) in [
            (POSTED_TIME_MAX - milli, Ok(1)),
            (POSTED_TIME_MAX + milli, Err(Kind::TooSlow)),
        ] {
            let frames = futures::stream::once(Box::pin(async move {
                tokio::time::sleep(after).await;
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))
            }));
            let read = read_posted(StreamBody::new(frames)).await;
            assert_eq!(
                read.map(|body| body.len()).map_err(|refusal| refusal.kind),
                expected,
                "{after:?}"
            );
        }
    }
}

/// A status other than 200 without being an error: v1 says 404 with an empty body.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    spelled: Spelled,
}

impl From<Spelled> for Answer {
    fn from(spelled: Spelled) -> Self {
        Self {
            status: StatusCode::OK,
            spelled,
        }
    }
}

impl Api {
    async fn answer(&self, route: Route, headers: &HeaderMap, query: Option<&str>) -> Result<Answer, Refusal> {
        let form = Form::of(headers);
        Ok(match route {
            Route::Echo => status::text("echo").into(),
            Route::BuildInfo => status::build_info().into(),
            Route::Ready => status::ready(&self.readiness)?.into(),
            Route::Metrics => status::metrics(&self.metrics).into(),
            Route::Status => status::overview(self).into(),
            Route::StatusVersion => status::text(&format!("vivace {} ({})\n", crate::VERSION, crate::REVISION)).into(),
            Route::StatusConfig => status::config(&self.settings, query)?.into(),
            Route::StatusRuntimeConfig => status::runtime_config(&self.limits.load(), query)?.into(),
            Route::StatusServices => status::services(&self.readiness).into(),
            Route::StatusEndpoints => status::endpoints().into(),
            Route::StatusOverrides(tenant) => status::overrides(&self.limits.load(), tenant.as_deref())?.into(),
            Route::TraceV1(id) => {
                let FoundTrace { answer, bytes_max, .. } =
                    self.trace_by_id(TraceApi::First, &id, headers, query).await?;
                if answer.is_cut {
                    let message = format!("trace exceeds max size (max bytes: {bytes_max})");
                    return Err(Refusal::new(Kind::AnswerTooLarge, message));
                }
                let status = if answer.trace.is_empty() {
                    StatusCode::NOT_FOUND
                } else {
                    StatusCode::OK
                };
                let spelled = if answer.trace.is_empty() {
                    Spelled::default()
                } else {
                    answer::trace_v1(&answer, form)?
                };
                Answer { status, spelled }
            }
            Route::TraceV2(id) => {
                let found = self.trace_by_id(TraceApi::Second, &id, headers, query).await?;
                answer::trace_v2(&found, form)?.into()
            }
            Route::Search => self.search(headers, query, form).await?.into(),
            Route::MetricsRange => self.metrics(Shape::Range, headers, query, form).await?.into(),
            Route::MetricsInstant => self.metrics(Shape::Instant, headers, query, form).await?.into(),
            Route::TraceDiff | Route::Mcp => return Err(Refusal::new(Kind::WrongMethod, "use POST")),
            Route::Tags => {
                let (answer, scope) = self.tags(headers, query).await?;
                answer::tags_v1(&answer, scope == params::TagScope::Intrinsic, form)?.into()
            }
            Route::TagsV2 => {
                let (answer, scope) = self.tags(headers, query).await?;
                answer::tags_v2(&answer, !matches!(scope, params::TagScope::Only(_)), form)?.into()
            }
            Route::TagValues(name) => {
                answer::values_v1(&self.tag_values_v1(&name, headers, query).await?, form)?.into()
            }
            Route::TagValuesV2(name) => {
                answer::values_v2(&self.tag_values_v2(&name, headers, query).await?, form)?.into()
            }
        })
    }

    async fn answer_posted(&self, route: Route, head: &request::Parts, body: Incoming) -> Result<Answer, Refusal> {
        if route == Route::Mcp {
            self.check_mcp_origin(&head.uri, &head.headers)?;
        }
        let body = read_posted(body).await?;
        match route {
            Route::TraceDiff => Ok(self.trace_diff(&head.headers, &body).await?.into()),
            _ => self.mcp(&head.headers, &body).await,
        }
    }

    async fn search(&self, headers: &HeaderMap, query: Option<&str>, form: Form) -> Result<Spelled, Refusal> {
        let (tenants, limits, params) = self.parse_search(headers, query)?;
        let plan = self.plan_search(&params)?;
        let is_explained = wants_explanation(query)?;
        let begun = Instant::now();
        let answer = self.run_search(tenants, &limits, Arc::clone(&plan), None).await?;
        if is_explained {
            return Ok(explain::search(&plan, &answer, begun.elapsed()));
        }
        let weight = answer.traces.iter().map(TraceMatch::held_bytes).sum();
        let (limit, ids, bytes_max) = (
            params.limit as usize,
            ids(&limits),
            self.settings.query.response_bytes_max,
        );
        self.spell(weight, move || answer::search(&answer, limit, ids, form, bytes_max))
            .await
    }

    async fn metrics(
        &self,
        shape: Shape,
        headers: &HeaderMap,
        query: Option<&str>,
        form: Form,
    ) -> Result<Spelled, Refusal> {
        let (tenants, limits, params) = self.parse_metrics(shape, headers, query)?;
        let plan = self.plan_metrics(&params)?;
        let is_explained = wants_explanation(query)?;
        let begun = Instant::now();
        let series_max = params.series_max;
        let answer = self
            .run_metrics(tenants, &limits, Arc::clone(&plan), series_max, None)
            .await?;
        if is_explained {
            return Ok(explain::metrics(&plan, &answer, begun.elapsed()));
        }
        let weight = answer.series.iter().map(Series::held_bytes).sum();
        let bytes_max = self.settings.query.response_bytes_max;
        self.spell(weight, move || match shape {
            Shape::Range => answer::series::range(&answer, series_max, form, bytes_max),
            Shape::Instant => answer::series::instant(&answer, series_max, bytes_max),
        })
        .await
    }

    /// Runs `spell` where it holds up nobody: a large answer takes hundreds of milliseconds, in which an IO thread
    /// would serve none of the others.
    async fn spell(
        &self,
        weight: usize,
        spell: impl FnOnce() -> Result<Spelled, Refusal> + Send + 'static,
    ) -> Result<Spelled, Refusal> {
        if weight <= SPELL_INLINE_BYTES_MAX {
            spell()
        } else {
            self.spelling.run(spell).await?
        }
    }

    /// Bounds the answer, compresses it if the client wants and it is worth it.
    async fn encode(&self, answer: Answer, wants_gzip: bool) -> Response<ApiBody> {
        let Answer {
            status,
            spelled: Spelled { mut body, mut headers },
        } = answer;
        let bytes_max = self.settings.query.response_bytes_max;
        if body.len() as u64 > bytes_max.bytes() {
            return failure(&answer::too_large(bytes_max));
        }
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if wants_gzip && body.len() >= GZIP_BYTES_MIN {
            let compressed = if body.len() <= GZIP_INLINE_BYTES_MAX {
                Ok(gzip(&body))
            } else {
                self.spelling.run(move || gzip(&body)).await
            };
            match compressed {
                Ok(compressed) => body = compressed,
                Err(refusal) => return failure(&refusal),
            }
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let mut response = Response::new(full(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// How this tenant wants trace ids.
fn ids(limits: &settings::Limits) -> Ids {
    if limits.trim_trace_ids { Ids::Trimmed } else { Ids::Full }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut out = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    // Writing into a Vec cannot fail.
    let _ = out.write_all(body);
    out.finish().unwrap_or_default()
}

fn wants_gzip(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        is_gzip
            && !parts.any(|part| {
                part.strip_prefix("q=")
                    .is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0))
            })
    })
}

fn failure(refusal: &Refusal) -> Response<ApiBody> {
    let mut response = Response::new(full(refusal.message.to_string().into_bytes()));
    *response.status_mut() = refusal.kind.http_status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Some(seconds) = refusal.retry_after_seconds() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.kind == Kind::WrongMethod {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    }
    response
}

fn full(body: impl Into<Bytes>) -> ApiBody {
    Full::new(body.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}
