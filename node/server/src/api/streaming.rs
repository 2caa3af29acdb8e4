//! `tempopb.StreamingQuerier`: the same questions over gRPC, for Grafana with streaming switched on and tempo-cli.
//!
//! Each call is a stream of differences: while the question is worked on, every [`PREVIEW_EVERY`] what is new since the
//! last message, with the numbers of how far it is; at the end what is left. What is answered sooner is one message.
//! Messages larger than [`PIECE_BYTES`] are cut into several, because gRPC clients refuse those above 4 MiB.
//!
//! What always holds: the work belongs to the stream; a client that goes away drops the stream and with it the work.

mod differences;
pub(crate) mod request;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use http::HeaderMap;
use tonic::{Request, Response, Status};
use wire::tempopb;
use wire::tempopb::streaming_querier_server::StreamingQuerier;

use self::differences::{Difference, Names, RangeSeries, Traces, Values};
use super::params::{self, Params, Shape, TagScope};
use super::questions::{count_or_all, field_v1, field_v2};
use super::{Api, ids, params::refuse};
use crate::preview::{Preview, Watching};
use crate::querier::{MetricsAnswer, TagsAnswer, ValuesAnswer};
use crate::refusal::Refusal;

/// Bytes of one message, about; Tempo cuts there too.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// How often something is shown of what takes longer.
const PREVIEW_EVERY: Duration = Duration::from_millis(500);

type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// The service; one per call.
pub(super) struct Streaming {
    api: Arc<Api>,
}

impl Streaming {
    pub(super) fn new(api: Arc<Api>) -> Self {
        Self { api }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(tonic::Code::from_i32(refusal.kind.grpc_code()), refusal.message)
    }
}

fn headers<T>(request: &Request<T>) -> HeaderMap {
    request.metadata().clone().into_headers()
}

/// `start` and `end` as a query string has them, so that one parser checks both APIs.
fn window(start: u32, end: u32) -> Vec<(&'static str, String)> {
    if start == 0 && end == 0 {
        Vec::new()
    } else {
        vec![("start", start.to_string()), ("end", end.to_string())]
    }
}

/// Zero is a field that was not set.
fn number(number: u64) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

/// A search as its query string.
fn search_pairs(request: tempopb::SearchRequest) -> Vec<(&'static str, String)> {
    let mut pairs = window(request.start, request.end);
    if request.query.is_empty() {
        let tags = request
            .tags
            .iter()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect::<Vec<_>>()
            .join(" ");
        pairs.push(("tags", tags));
    } else {
        pairs.push(("q", request.query));
    }
    let millis = |millis: u32| match millis {
        0 => String::new(),
        millis => format!("{millis}ms"),
    };
    pairs.push(("minDuration", millis(request.min_duration_ms)));
    pairs.push(("maxDuration", millis(request.max_duration_ms)));
    pairs.push(("limit", number(request.limit.into())));
    pairs.push(("spss", number(request.spans_per_span_set.into())));
    pairs
}

/// A question at work.
type Work<A> = BoxFuture<'static, Result<A, Refusal>>;

/// A call under way.
struct Call<A, D: Difference<A>> {
    work: Work<A>,
    preview: Arc<Preview<A>>,
    difference: D,
    ready: VecDeque<D::Message>,
    is_done: bool,
}

/// Makes a stream of `work`, whose previews come through `preview`.
fn respond<A, D>(work: Work<A>, preview: Arc<Preview<A>>, difference: D) -> Response<Stream<D::Message>>
where
    A: Send + 'static,
    D: Difference<A> + Send + 'static,
    D::Message: Send + 'static,
{
    let call = Call {
        work,
        preview,
        difference,
        ready: VecDeque::new(),
        is_done: false,
    };
    let messages = stream::unfold(call, |mut call| async move {
        loop {
            if let Some(message) = call.ready.pop_front() {
                return Some((Ok(message), call));
            }
            if call.is_done {
                return None;
            }
            let preview = async {
                tokio::time::sleep(PREVIEW_EVERY).await;
                call.preview.next().await
            };
            tokio::select! {
                biased;
                answer = &mut call.work => {
                    call.is_done = true;
                    match answer {
                        Ok(answer) => call.ready.extend(call.difference.last(answer)),
                        Err(refusal) => return Some((Err(refusal.into()), call)),
                    }
                }
                so_far = preview => call.ready.extend(call.difference.next(so_far)),
            }
        }
    });
    Response::new(Box::pin(messages))
}

#[tonic::async_trait]
impl StreamingQuerier for Streaming {
    type SearchStream = Stream<tempopb::SearchResponse>;
    type SearchTagsStream = Stream<tempopb::SearchTagsResponse>;
    type SearchTagsV2Stream = Stream<tempopb::SearchTagsV2Response>;
    type SearchTagValuesStream = Stream<tempopb::SearchTagValuesResponse>;
    type SearchTagValuesV2Stream = Stream<tempopb::SearchTagValuesV2Response>;
    type MetricsQueryRangeStream = Stream<tempopb::QueryRangeResponse>;
    type MetricsQueryInstantStream = Stream<tempopb::QueryInstantResponse>;

    async fn search(&self, request: Request<tempopb::SearchRequest>) -> Result<Response<Self::SearchStream>, Status> {
        let tenants = self.api.tenancy.of_read(&headers(&request))?;
        let limits = self.api.limits_of(&tenants);
        let request = request.into_inner();
        let pairs = search_pairs(request);
        let params = params::parse_search(&Params::from_pairs(pairs), &self.api.rules(&limits))?;
        let plan = self.api.plan_search(&params)?;
        let (api, difference) = (Arc::clone(&self.api), Traces::new(ids(&limits)));
        let preview = Arc::<Preview<_>>::default();
        let watching = Some(Arc::clone(&preview));
        let work = Box::pin(async move { api.run_search(tenants, &limits, plan, watching).await });
        Ok(respond(work, preview, difference))
    }

    async fn search_tags(
        &self,
        request: Request<tempopb::SearchTagsRequest>,
    ) -> Result<Response<Self::SearchTagsStream>, Status> {
        let ((work, preview), scope) = self.tags(request)?;
        Ok(respond(work, preview, Names::first(scope == TagScope::Intrinsic)))
    }

    async fn search_tags_v2(
        &self,
        request: Request<tempopb::SearchTagsRequest>,
    ) -> Result<Response<Self::SearchTagsV2Stream>, Status> {
        let ((work, preview), scope) = self.tags(request)?;
        let difference = Names::second(!matches!(scope, TagScope::Only(_)));
        Ok(respond(work, preview, difference))
    }

    async fn search_tag_values(
        &self,
        request: Request<tempopb::SearchTagValuesRequest>,
    ) -> Result<Response<Self::SearchTagValuesStream>, Status> {
        let field = field_v1(&request.get_ref().tag_name);
        let (work, preview) = self.values(field, request)?;
        Ok(respond(work, preview, Values::first()))
    }

    async fn search_tag_values_v2(
        &self,
        request: Request<tempopb::SearchTagValuesRequest>,
    ) -> Result<Response<Self::SearchTagValuesV2Stream>, Status> {
        let field = field_v2(&request.get_ref().tag_name)?;
        let (work, preview) = self.values(field, request)?;
        Ok(respond(work, preview, Values::second()))
    }

    async fn metrics_query_range(
        &self,
        request: Request<tempopb::QueryRangeRequest>,
    ) -> Result<Response<Self::MetricsQueryRangeStream>, Status> {
        let headers = headers(&request);
        let request = request.into_inner();
        let mut pairs = instants(request.query, request.start, request.end);
        pairs.push(("step", nanos(request.step)));
        pairs.push(("exemplars", number(request.exemplars.into())));
        pairs.push(("maxSeries", number(request.max_series.into())));
        if request.instant == Some(true) {
            pairs.push(("instant", "true".to_owned()));
        }
        let ((work, preview), difference) = self.metrics(Shape::Range, &headers, pairs)?;
        Ok(respond(work, preview, difference))
    }

    async fn metrics_query_instant(
        &self,
        request: Request<tempopb::QueryInstantRequest>,
    ) -> Result<Response<Self::MetricsQueryInstantStream>, Status> {
        let headers = headers(&request);
        let request = request.into_inner();
        let pairs = instants(request.query, request.start, request.end);
        let ((work, preview), difference) = self.metrics(Shape::Instant, &headers, pairs)?;
        Ok(respond(work, preview, differences::Instant(difference)))
    }
}

fn instants(query: String, start: u64, end: u64) -> Vec<(&'static str, String)> {
    // So many digits that they cannot be taken for seconds.
    let instant = |unix_nanos: u64| match unix_nanos {
        0 => String::new(),
        unix_nanos => format!("{unix_nanos:011}"),
    };
    vec![("q", query), ("start", instant(start)), ("end", instant(end))]
}

fn nanos(nanos: u64) -> String {
    if nanos == 0 {
        String::new()
    } else {
        format!("{nanos}ns")
    }
}

/// The work, and what it shows.
type Asking<A> = (Work<A>, Arc<Preview<A>>);

impl Streaming {
    fn metrics(
        &self,
        shape: Shape,
        headers: &HeaderMap,
        pairs: Vec<(&'static str, String)>,
    ) -> Result<(Asking<MetricsAnswer>, RangeSeries), Refusal> {
        let tenants = self.api.tenancy.of_read(headers)?;
        let limits = self.api.limits_of(&tenants);
        let params = params::parse_metrics(&Params::from_pairs(pairs), shape, &self.api.rules(&limits))?;
        let plan = self.api.plan_metrics(&params)?;
        let difference = RangeSeries::new(plan.intervals(), params.series_max);
        let (api, preview) = (Arc::clone(&self.api), Arc::<Preview<_>>::default());
        let watching = Some(Arc::clone(&preview));
        let work = Box::pin(async move {
            api.run_metrics(tenants, &limits, plan, params.series_max, watching)
                .await
        });
        Ok(((work, preview), difference))
    }

    fn tags(&self, request: Request<tempopb::SearchTagsRequest>) -> Result<(Asking<TagsAnswer>, TagScope), Status> {
        let tenants = self.api.tenancy.of_read(&headers(&request))?;
        let limits = self.api.limits_of(&tenants);
        let request = request.into_inner();
        let mut pairs = window(request.start, request.end);
        pairs.push(("scope", request.scope));
        pairs.push(("q", request.query));
        pairs.push(("limit", request.max_tags_per_scope.to_string()));
        let params = params::parse_tags(&Params::from_pairs(pairs), &self.api.rules(&limits))?;
        let scope = params.scope;
        let (api, preview) = (Arc::clone(&self.api), Arc::<Preview<_>>::default());
        let watching: Watching<_> = Some(Arc::clone(&preview));
        let work = Box::pin(async move { api.run_tags(tenants, &limits, params, watching).await });
        Ok(((work, preview), scope))
    }

    fn values(
        &self,
        field: query::field::Field,
        request: Request<tempopb::SearchTagValuesRequest>,
    ) -> Result<Asking<ValuesAnswer>, Status> {
        let tenants = self.api.tenancy.of_read(&headers(&request))?;
        let limits = self.api.limits_of(&tenants);
        let request = request.into_inner();
        if request.tag_name.is_empty() {
            return Err(refuse("tag name is missing").into());
        }
        let mut pairs = window(request.start, request.end);
        pairs.push(("q", request.query));
        let mut params = params::parse_values(&Params::from_pairs(pairs), &self.api.rules(&limits))?;
        params.values_max = count_or_all(request.max_tag_values);
        let (api, preview) = (Arc::clone(&self.api), Arc::<Preview<_>>::default());
        let watching: Watching<_> = Some(Arc::clone(&preview));
        let work = Box::pin(async move { api.run_values(tenants, &limits, field, params, watching).await });
        Ok((work, preview))
    }
}
