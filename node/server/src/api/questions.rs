//! From parameters to a question, and from its answer back: tenants, plans, turns and deadlines.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use model::TraceId;
use prost::Message as _;
use query::field::{Field, Name};
use query::metrics::MetricsPlan;
use query::{SearchPlan, SearchRequest};
use settings::{Limits, Period};
use wire::tempopb::Trace;

use super::Api;
use super::answer::fixed_values;
use super::params::{
    self, MetricsParams, NAMES_UNLIMITED, Params, Rules, SearchParams, Shape, TagScope, TagsParams, TraceParams,
    ValuesParams, refuse,
};
use crate::preview::Watching;
use crate::pruning::{Pruned, Pruning};
use crate::querier::{
    Allowance, MetricsAnswer, MetricsQuestion, SearchAnswer, SearchQuestion, TagsAnswer, TagsQuestion, Tenants,
    TraceAnswer, TraceQuestion, ValuesAnswer, ValuesQuestion,
};
use crate::refusal::{Kind, Refusal};

/// Which of Tempo's trace APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TraceApi {
    First,
    Second,
}

/// A trace, and what was done to it on its way out.
#[derive(Debug)]
pub(super) struct FoundTrace {
    pub(super) answer: TraceAnswer,
    /// The size beyond which it was cut.
    pub(super) bytes_max: u64,
    pub(super) pruned: Pruned,
}

/// How long a query may take, and which limit says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeMax(&'static str, Duration);

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
    pub(super) async fn trace_by_id(
        &self,
        api: TraceApi,
        id: &str,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<FoundTrace, Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let trace_id = TraceId::parse_hex(id)
            .ok_or_else(|| refuse("trace IDs can only contain hex characters: 1 to 32 of 0-9 and a-f"))?;
        let pairs = Params::parse(query)?;
        let mut params = params::parse_trace(&pairs, self.clock.unix_nanos())?;
        let mut pruning = None;
        if api == TraceApi::Second {
            params.pick = params::parse_pick(&pairs, &self.rules(&limits))?;
            pruning = params::parse_pruning(&pairs)?;
        }
        let bytes_max = limits.trace_bytes_max.bytes();
        let answer = self.run_trace(tenants, &limits, trace_id, params).await?;
        let found = FoundTrace {
            answer,
            bytes_max,
            pruned: Pruned::Unchanged,
        };
        match pruning {
            Some(pruning) => self.prune(found, pruning).await,
            None => Ok(found),
        }
    }

    /// Folds what is left of the trace after everything else was asked of it: a filter sees spans, not summaries.
    async fn prune(&self, mut found: FoundTrace, pruning: Pruning) -> Result<FoundTrace, Refusal> {
        let bytes = std::mem::take(&mut found.answer.trace);
        let prune = move || {
            let mut trace = Trace::decode(bytes.clone())
                .map_err(|error| Refusal::new(Kind::Internal, format!("cannot prune the trace: {error}")))?;
            let pruned = pruning.apply(&mut trace);
            let bytes = match pruned {
                Pruned::Here => trace.encode_to_vec().into(),
                // As it is stored, with fields that nobody here knows.
                Pruned::Unchanged | Pruned::BeforeItCame => bytes,
            };
            Ok::<_, Refusal>((bytes, pruned))
        };
        (found.answer.trace, found.pruned) = self.cpu.run(prune).await??;
        Ok(found)
    }

    pub(super) async fn run_trace(
        &self,
        tenants: Tenants,
        limits: &Limits,
        trace_id: TraceId,
        params: TraceParams,
    ) -> Result<TraceAnswer, Refusal> {
        let question = TraceQuestion {
            tenants: tenants.clone(),
            trace_id,
            window: params.window,
            places: params.places,
            bytes_max: limits.trace_bytes_max.bytes(),
            pick: params.pick,
        };
        let time = self.time("query.trace_timeout", self.settings.query.trace_timeout, limits);
        self.in_turn(&tenants, limits, time, self.querier.trace_by_id(question))
            .await
    }

    pub(super) fn parse_search(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<(Tenants, Limits, SearchParams), Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let params = params::parse_search(&Params::parse(query)?, &self.rules(&limits))?;
        Ok((tenants, limits, params))
    }

    pub(super) fn plan_search(&self, params: &SearchParams) -> Result<Arc<SearchPlan>, Refusal> {
        let request = SearchRequest {
            window: params.window,
            limit: params.limit as usize,
            spans_per_spanset: params.spans_per_spanset as usize,
            after: params.after,
        };
        let plan = query::parse(&params.query).and_then(|query| SearchPlan::new(&query, request));
        let plan = plan.map_err(|error| refuse(format!("invalid TraceQL query: {error}")))?;
        Ok(Arc::new(plan))
    }

    pub(super) async fn run_search(
        &self,
        tenants: Tenants,
        limits: &Limits,
        plan: Arc<SearchPlan>,
        watching: Watching<SearchAnswer>,
    ) -> Result<SearchAnswer, Refusal> {
        let question = SearchQuestion {
            tenants: tenants.clone(),
            allowance: Allowance::of(limits),
            plan,
        };
        let time = self.time("query.search_timeout", self.settings.query.search_timeout, limits);
        self.in_turn(&tenants, limits, time, self.querier.search(question, watching))
            .await
    }

    pub(super) fn parse_metrics(
        &self,
        shape: Shape,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<(Tenants, Limits, MetricsParams), Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let params = params::parse_metrics(&Params::parse(query)?, shape, &self.rules(&limits))?;
        Ok((tenants, limits, params))
    }

    pub(super) fn plan_metrics(&self, params: &MetricsParams) -> Result<Arc<MetricsPlan>, Refusal> {
        let plan = query::parse(&params.query).and_then(|query| MetricsPlan::new(&query, params.request));
        let plan = plan.map_err(|error| refuse(format!("invalid TraceQL query: {error}")))?;
        Ok(Arc::new(plan))
    }

    pub(super) async fn run_metrics(
        &self,
        tenants: Tenants,
        limits: &Limits,
        plan: Arc<MetricsPlan>,
        series_max: u32,
        watching: Watching<MetricsAnswer>,
    ) -> Result<MetricsAnswer, Refusal> {
        let question = MetricsQuestion {
            tenants: tenants.clone(),
            allowance: Allowance::of(limits),
            plan,
            series_max: series_max as usize,
        };
        let time = self.time("query.metrics_timeout", self.settings.query.metrics_timeout, limits);
        self.in_turn(&tenants, limits, time, self.querier.metrics(question, watching))
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
        Ok((self.run_tags(tenants, &limits, params, None).await?, scope))
    }

    pub(super) async fn run_tags(
        &self,
        tenants: Tenants,
        limits: &Limits,
        params: TagsParams,
        watching: Watching<TagsAnswer>,
    ) -> Result<TagsAnswer, Refusal> {
        let scope = match params.scope {
            // Intrinsics are the same everywhere: nobody needs to be asked.
            TagScope::Intrinsic => return Ok(TagsAnswer::default()),
            TagScope::All => None,
            TagScope::Only(scope) => Some(scope),
        };
        let question = TagsQuestion {
            tenants: tenants.clone(),
            allowance: Allowance::of(limits),
            scope,
            filter: query::parse_lenient(&params.query),
            window: params.window,
            names_max: params.names_max,
            time_max: self.settings.query.tag_timeout.duration(),
        };
        let time = self.time("query.search_timeout", self.settings.query.search_timeout, limits);
        self.in_turn(&tenants, limits, time, self.querier.tags(question, watching))
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
        self.run_values(tenants, &limits, field, params, None).await
    }

    pub(super) async fn run_values(
        &self,
        tenants: Tenants,
        limits: &Limits,
        field: Field,
        params: ValuesParams,
        watching: Watching<ValuesAnswer>,
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
            allowance: Allowance::of(limits),
            field,
            filter: query::parse_lenient(&params.query),
            window: params.window,
            values_max: params.values_max,
            bytes_max: limits.tag_values_bytes_max.as_usize(),
            time_max: self.settings.query.tag_timeout.duration(),
        };
        let time = self.time("query.search_timeout", self.settings.query.search_timeout, limits);
        self.in_turn(&tenants, limits, time, self.querier.tag_values(question, watching))
            .await
    }

    /// The shorter of what this kind of query and what this tenant is given, with the name of that limit.
    pub(super) fn time(&self, name: &'static str, given: Period, limits: &Limits) -> TimeMax {
        let (given, tenant) = (given.duration(), limits.query_time_max.duration());
        if tenant < given {
            TimeMax("query_time_max", tenant)
        } else {
            TimeMax(name, given)
        }
    }

    /// Waits for a turn and then for the answer, both within the time.
    async fn in_turn<T>(
        &self,
        tenants: &Tenants,
        limits: &Limits,
        TimeMax(name, time): TimeMax,
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
        tokio::time::timeout(time, served)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Kind::TimedOut, format!("query exceeds {name}: {time:?}"))))
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
