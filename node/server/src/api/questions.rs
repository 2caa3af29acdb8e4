//! From parameters to a question, and from its answer back: tenants, plans, turns and deadlines.

use std::future::Future;
use std::time::Duration;

use http::HeaderMap;
use model::TraceId;
use query::field::{Field, Name};
use query::{SearchPlan, SearchRequest};
use settings::Limits;

use super::Api;
use super::answer::fixed_values;
use super::params::{self, NAMES_UNLIMITED, Params, Rules, SearchParams, TagScope, TagsParams, ValuesParams, refuse};
use crate::querier::{
    SearchAnswer, SearchQuestion, TagsAnswer, TagsQuestion, Tenants, TraceAnswer, TraceQuestion, ValuesAnswer,
    ValuesQuestion,
};
use crate::refusal::{Kind, Refusal};

impl From<query::Error> for Refusal {
    fn from(error: query::Error) -> Self {
        let kind = match error.kind() {
            query::Kind::Rejected => Kind::Rejected,
            query::Kind::TooExpensive => Kind::AnswerTooLarge,
            query::Kind::Cancelled => Kind::TimedOut,
            query::Kind::Unavailable => Kind::Unavailable,
            query::Kind::Corrupt => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl Api {
    /// The trace and the size beyond which it was cut.
    pub(super) async fn trace_by_id(
        &self,
        id: &str,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<(TraceAnswer, u64), Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let trace_id = TraceId::parse_hex(id)
            .ok_or_else(|| refuse("trace IDs can only contain hex characters: 1 to 32 of 0-9 and a-f"))?;
        let params = params::parse_trace(&Params::parse(query)?, self.clock.unix_nanos())?;
        let bytes_max = limits.trace_bytes_max.bytes();
        let question = TraceQuestion {
            tenants: tenants.clone(),
            trace_id,
            window: params.window,
            places: params.places,
            bytes_max,
        };
        let timeout = self.settings.query.trace_timeout.duration();
        let answer = self
            .in_turn(&tenants, &limits, timeout, self.querier.trace_by_id(question))
            .await?;
        Ok((answer, bytes_max))
    }

    pub(super) async fn search(&self, headers: &HeaderMap, query: Option<&str>) -> Result<SearchAnswer, Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let params = params::parse_search(&Params::parse(query)?, &self.rules(&limits))?;
        self.run_search(tenants, &limits, params).await
    }

    pub(super) async fn run_search(
        &self,
        tenants: Tenants,
        limits: &Limits,
        params: SearchParams,
    ) -> Result<SearchAnswer, Refusal> {
        let request = SearchRequest {
            window: params.window,
            limit: params.limit as usize,
            spans_per_spanset: params.spans_per_spanset as usize,
        };
        let plan = query::parse(&params.query).and_then(|query| SearchPlan::new(&query, request));
        let plan = plan
            .map_err(|error| refuse(format!("invalid TraceQL query: {error}")))?
            .into();
        let question = SearchQuestion {
            tenants: tenants.clone(),
            plan,
        };
        let timeout = self.settings.query.search_timeout.duration();
        self.in_turn(&tenants, limits, timeout, self.querier.search(question))
            .await
    }

    pub(super) async fn tags(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<(TagsAnswer, TagScope), Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let params = params::parse_tags(&Params::parse(query)?, &self.rules(&limits))?;
        let scope = params.scope;
        Ok((self.run_tags(tenants, &limits, params).await?, scope))
    }

    pub(super) async fn run_tags(
        &self,
        tenants: Tenants,
        limits: &Limits,
        params: TagsParams,
    ) -> Result<TagsAnswer, Refusal> {
        let scope = match params.scope {
            // Intrinsics are the same everywhere: nobody needs to be asked.
            TagScope::Intrinsic => return Ok(TagsAnswer::default()),
            TagScope::All => None,
            TagScope::Only(scope) => Some(scope),
        };
        let question = TagsQuestion {
            tenants: tenants.clone(),
            scope,
            filter: query::parse_lenient(&params.query),
            window: params.window,
            names_max: params.names_max,
        };
        let timeout = self.settings.query.search_timeout.duration();
        self.in_turn(&tenants, limits, timeout, self.querier.tags(question))
            .await
    }

    /// The first API names attributes without a scope, and a few intrinsics by names of their own.
    pub(super) async fn tag_values_v1(
        &self,
        name: &str,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<ValuesAnswer, Refusal> {
        self.tag_values(field_v1(name), headers, query).await
    }

    pub(super) async fn tag_values_v2(
        &self,
        name: &str,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<ValuesAnswer, Refusal> {
        self.tag_values(field_v2(name)?, headers, query).await
    }

    async fn tag_values(
        &self,
        field: Field,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<ValuesAnswer, Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let params = params::parse_values(&Params::parse(query)?, &self.rules(&limits))?;
        self.run_values(tenants, &limits, field, params).await
    }

    pub(super) async fn run_values(
        &self,
        tenants: Tenants,
        limits: &Limits,
        field: Field,
        params: ValuesParams,
    ) -> Result<ValuesAnswer, Refusal> {
        if let Name::Intrinsic(which, _) = field.name
            && let Some(mut values) = fixed_values(which)
        {
            values.truncate(params.values_max);
            return Ok(ValuesAnswer {
                values,
                ..ValuesAnswer::default()
            });
        }
        let question = ValuesQuestion {
            tenants: tenants.clone(),
            field,
            filter: query::parse_lenient(&params.query),
            window: params.window,
            values_max: params.values_max,
            bytes_max: limits.tag_values_bytes_max.as_usize(),
        };
        let timeout = self.settings.query.search_timeout.duration();
        self.in_turn(&tenants, limits, timeout, self.querier.tag_values(question))
            .await
    }

    /// Waits for a turn and then for the answer, both within the deadline.
    async fn in_turn<T>(
        &self,
        tenants: &Tenants,
        limits: &Limits,
        timeout: Duration,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let Some(tenant) = tenants.first() else {
            return Err(Refusal::new(Kind::Internal, "a query of nobody"));
        };
        let served = async {
            let _turn = self
                .gate
                .enter(tenant, limits.queries_concurrent_max, limits.queries_queued_max)
                .await?;
            work.await
        };
        tokio::time::timeout(timeout, served)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Kind::TimedOut, format!("no answer within {timeout:?}"))))
    }

    /// A federated read has the limits of its first tenant.
    pub(super) fn limits_of(&self, tenants: &Tenants) -> Limits {
        self.limits
            .load()
            .of(tenants.first().map_or("", |tenant| tenant.as_str()))
    }

    pub(super) fn rules<'a>(&'a self, limits: &'a Limits) -> Rules<'a> {
        Rules {
            query: &self.settings.query,
            limits,
            now_unix_nanos: self.clock.unix_nanos(),
        }
    }
}

pub(super) fn field_v1(name: &str) -> Field {
    let intrinsic = match name {
        "root.name" => Some("rootName"),
        "root.service.name" => Some("rootServiceName"),
        "status.code" => Some("status"),
        "name" | "status" | "kind" | "duration" | "rootName" | "rootServiceName" | "traceDuration"
        | "statusMessage" => Some(name),
        _ => None,
    };
    match intrinsic.and_then(query::field::Intrinsic::from_bare) {
        Some(which) => Field::intrinsic(which),
        None => Field::attribute(None, name),
    }
}

pub(super) fn field_v2(name: &str) -> Result<Field, Refusal> {
    query::parse_field(name).map_err(|error| {
        let name: String = name.chars().take(64).collect();
        refuse(format!(
            "tag name is not valid intrinsic or scoped attribute: {name}: {error}"
        ))
    })
}

/// Number of a limit that means "all" when zero, as gRPC requests have it.
pub(super) fn count_or_all(count: u32) -> usize {
    if count == 0 { NAMES_UNLIMITED } else { count as usize }
}
