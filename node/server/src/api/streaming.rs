//! `tempopb.StreamingQuerier`: the same questions over gRPC, for Grafana with streaming switched on and tempo-cli.
//!
//! Each answer is one message: what is asked here takes milliseconds, and a stream of one message is a stream. Answers
//! larger than [`PIECE_BYTES`] are cut into several, because gRPC clients refuse messages above 4 MiB.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use http::HeaderMap;
use prost::Message;
use tonic::{Request, Response, Status};
use wire::tempopb;
use wire::tempopb::streaming_querier_server::StreamingQuerier;

use super::answer;
use super::params::{self, Params, TagScope};
use super::questions::{count_or_all, field_v1, field_v2};
use super::{Api, params::refuse};
use crate::refusal::Refusal;

/// Bytes of one message, about; Tempo cuts there too.
const PIECE_BYTES: usize = 1 << 20;

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

fn one<T: Send + 'static>(message: T) -> Response<Stream<T>> {
    Response::new(Box::pin(stream::iter([Ok(message)])))
}

/// `start` and `end` as a query string has them, so that one parser checks both APIs.
fn window(start: u32, end: u32) -> Vec<(&'static str, String)> {
    if start == 0 && end == 0 {
        Vec::new()
    } else {
        vec![("start", start.to_string()), ("end", end.to_string())]
    }
}

fn params(pairs: Vec<(&'static str, String)>) -> Params {
    Params::from_pairs(pairs)
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
        let millis = |millis: u32| {
            if millis == 0 {
                String::new()
            } else {
                format!("{millis}ms")
            }
        };
        pairs.push(("minDuration", millis(request.min_duration_ms)));
        pairs.push(("maxDuration", millis(request.max_duration_ms)));
        // Zero is a field that was not set.
        let number = |number: u32| if number == 0 { String::new() } else { number.to_string() };
        pairs.push(("limit", number(request.limit)));
        pairs.push(("spss", number(request.spans_per_span_set)));
        let params = params::parse_search(&params(pairs), &self.api.rules(&limits))?;
        let found = self.api.run_search(tenants, &limits, params).await?;
        let mut message = answer::search_message(&found);
        let metrics = message.metrics.take();
        let mut pieces = pieces(message.traces);
        // The numbers come with the last message, as those of a search that has ended.
        let last = tempopb::SearchResponse {
            traces: pieces.pop().unwrap_or_default(),
            metrics,
        };
        let before = pieces
            .into_iter()
            .map(|traces| tempopb::SearchResponse { traces, metrics: None });
        Ok(Response::new(Box::pin(stream::iter(
            before.chain([last]).map(Ok).collect::<Vec<_>>(),
        ))))
    }

    async fn search_tags(
        &self,
        request: Request<tempopb::SearchTagsRequest>,
    ) -> Result<Response<Self::SearchTagsStream>, Status> {
        let (found, scope) = self.tags(request).await?;
        Ok(one(answer::tags_v1_message(&found, scope == TagScope::Intrinsic)))
    }

    async fn search_tags_v2(
        &self,
        request: Request<tempopb::SearchTagsRequest>,
    ) -> Result<Response<Self::SearchTagsV2Stream>, Status> {
        let (found, scope) = self.tags(request).await?;
        Ok(one(answer::tags_v2_message(
            &found,
            !matches!(scope, TagScope::Only(_)),
        )))
    }

    async fn search_tag_values(
        &self,
        request: Request<tempopb::SearchTagValuesRequest>,
    ) -> Result<Response<Self::SearchTagValuesStream>, Status> {
        let field = field_v1(&request.get_ref().tag_name);
        Ok(one(answer::values_v1_message(&self.values(field, request).await?)))
    }

    async fn search_tag_values_v2(
        &self,
        request: Request<tempopb::SearchTagValuesRequest>,
    ) -> Result<Response<Self::SearchTagValuesV2Stream>, Status> {
        let field = field_v2(&request.get_ref().tag_name)?;
        Ok(one(answer::values_v2_message(&self.values(field, request).await?)))
    }

    async fn metrics_query_range(
        &self,
        _: Request<tempopb::QueryRangeRequest>,
    ) -> Result<Response<Self::MetricsQueryRangeStream>, Status> {
        Err(Status::unimplemented("this node answers no metrics queries"))
    }

    async fn metrics_query_instant(
        &self,
        _: Request<tempopb::QueryInstantRequest>,
    ) -> Result<Response<Self::MetricsQueryInstantStream>, Status> {
        Err(Status::unimplemented("this node answers no metrics queries"))
    }
}

impl Streaming {
    async fn tags(
        &self,
        request: Request<tempopb::SearchTagsRequest>,
    ) -> Result<(crate::querier::TagsAnswer, TagScope), Status> {
        let tenants = self.api.tenancy.of_read(&headers(&request))?;
        let limits = self.api.limits_of(&tenants);
        let request = request.into_inner();
        let mut pairs = window(request.start, request.end);
        pairs.push(("scope", request.scope));
        pairs.push(("q", request.query));
        pairs.push(("limit", request.max_tags_per_scope.to_string()));
        let params = params::parse_tags(&params(pairs), &self.api.rules(&limits))?;
        let scope = params.scope;
        Ok((self.api.run_tags(tenants, &limits, params).await?, scope))
    }

    async fn values(
        &self,
        field: query::field::Field,
        request: Request<tempopb::SearchTagValuesRequest>,
    ) -> Result<crate::querier::ValuesAnswer, Status> {
        let tenants = self.api.tenancy.of_read(&headers(&request))?;
        let limits = self.api.limits_of(&tenants);
        let request = request.into_inner();
        if request.tag_name.is_empty() {
            return Err(refuse("tag name is missing").into());
        }
        let mut pairs = window(request.start, request.end);
        pairs.push(("q", request.query));
        let mut params = params::parse_values(&params(pairs), &self.api.rules(&limits))?;
        params.values_max = count_or_all(request.max_tag_values);
        Ok(self.api.run_values(tenants, &limits, field, params).await?)
    }
}

/// Cuts a list into pieces of about [`PIECE_BYTES`]; at least one, which may be empty.
fn pieces<T: Message>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut pieces = vec![Vec::new()];
    let mut bytes = 0;
    for item in items {
        let length = item.encoded_len();
        if bytes > 0 && bytes + length > PIECE_BYTES {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(piece) = pieces.last_mut() {
            piece.push(item);
        }
    }
    pieces
}
