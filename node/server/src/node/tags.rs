//! Which attributes there are, and which values they have.
//!
//! Names come from the lists of keys that every live table and row group keeps, each chunk asked once. Values come from the newest traces that
//! have the field: a search that selects it, up to [`TRACES_MAX`] traces, which is told when there may be more.

use std::sync::Arc;

use model::Scope;
use query::answer::TraceMatch;
use query::field::{Field, Intrinsic, Name, PRECEDENCE};
use query::source::{Chunk, TimeRange};
use query::tags::{TagFilter, TagNames, collect_tag_names};
use query::value::Static;
use query::{SearchPlan, SearchRequest};

use super::reader::Reader;
use crate::querier::{TagsAnswer, TagsQuestion, ValuesAnswer, ValuesQuestion};
use crate::refusal::{Kind, Refusal};

/// Traces looked at for values.
const TRACES_MAX: usize = 1_000;
/// Spans of each.
const SPANS_MAX: usize = 100;

impl Reader {
    pub(super) async fn read_tags(&self, question: TagsQuestion) -> Result<TagsAnswer, Refusal> {
        let scopes: Vec<Scope> = question.scope.map_or(PRECEDENCE.to_vec(), |scope| vec![scope]);
        let window = question.window.unwrap_or(TimeRange::ALWAYS);
        let wanted = Arc::new(TagFilter::new(window, question.filter.as_ref())?);
        let (budget, _cancel) = self.budget();
        let mut answer = TagsAnswer::default();
        let mut names = TagNames::new(question.names_max);
        for tenant in question.tenants.iter() {
            let snapshot = self.snapshot(tenant).await?;
            let (wanted, scopes, budget) = (Arc::clone(&wanted), scopes.clone(), Arc::clone(&budget));
            let work = move |chunk: &dyn Chunk, names: &mut TagNames| {
                collect_tag_names(&wanted, &scopes, chunk, names, &budget)
            };
            let scanned = shard::scan::scan(&snapshot, &self.blocks, window, self.workers(), work).await?;
            scanned.parts.into_iter().for_each(|part| names.merge(part));
            answer.missing.extend(scanned.missing);
            answer.stats.inspected_bytes += scanned.inspected_bytes;
            answer.stats.jobs += scanned.jobs;
            answer.stats.jobs_done += scanned.jobs_done;
        }
        answer.is_cut = names.is_cut();
        for scope in scopes {
            answer
                .scopes
                .push((scope, names.names(scope).map(str::to_owned).collect()));
        }
        Ok(answer)
    }

    pub(super) async fn read_values(&self, question: ValuesQuestion) -> Result<ValuesAnswer, Refusal> {
        let filter = question
            .filter
            .as_ref()
            .map(|filter| format!(" && ({filter})"))
            .unwrap_or_default();
        let text = match &question.field.name {
            Name::Attribute(..) => format!("{{ {0} != nil{filter} }} | select({0})", spelled(&question.field)),
            Name::Intrinsic(which, _) if has_own_place(*which) => format!("{{ true{filter} }}"),
            Name::Intrinsic(..) => format!("{{ true{filter} }} | select({})", spelled(&question.field)),
        };
        let request = SearchRequest {
            window: question.window.unwrap_or(TimeRange::ALWAYS),
            limit: TRACES_MAX,
            spans_per_spanset: SPANS_MAX,
        };
        let plan = query::parse(&text).and_then(|query| SearchPlan::new(&query, request));
        let plan = Arc::new(plan.map_err(|error| Refusal::new(Kind::Rejected, error.to_string()))?);
        let found = self.run_search(&question.tenants, &plan).await?;
        let mut values: Vec<Static> = found
            .traces
            .iter()
            .flat_map(|trace| values_of(&question.field, trace))
            .collect();
        values.sort_by(Static::total_order);
        values.dedup_by(|a, b| a.total_order(b).is_eq());
        let mut is_cut = found.traces.len() == TRACES_MAX || values.len() > question.values_max;
        values.truncate(question.values_max);
        let mut bytes = 0;
        values.retain(|value| {
            bytes += value.display().len();
            is_cut |= bytes > question.bytes_max;
            bytes <= question.bytes_max
        });
        Ok(ValuesAnswer {
            values,
            stats: found.stats,
            missing: found.missing,
            is_cut,
        })
    }
}

/// Values that search answers carry anyway.
fn has_own_place(which: Intrinsic) -> bool {
    matches!(which, Intrinsic::Name | Intrinsic::RootName | Intrinsic::RootService)
}

fn spelled(field: &Field) -> String {
    field.to_string()
}

fn values_of(field: &Field, trace: &TraceMatch) -> Vec<Static> {
    let spans = trace.spansets.iter().flat_map(|set| &set.spans);
    match &field.name {
        Name::Intrinsic(Intrinsic::Name, _) => spans.map(|span| Static::str(&span.name)).collect(),
        Name::Intrinsic(Intrinsic::RootName, _) => trace.root.iter().map(|root| Static::str(&root.name)).collect(),
        Name::Intrinsic(Intrinsic::RootService, _) => {
            trace.root.iter().map(|root| Static::str(&root.service)).collect()
        }
        _ => spans
            .flat_map(|span| &span.attributes)
            .filter(|(key, _)| key == field.key())
            .flat_map(|(_, value)| match value {
                Static::List(items) => items.to_vec(),
                Static::Nil => Vec::new(),
                one => vec![one.clone()],
            })
            .collect(),
    }
}
