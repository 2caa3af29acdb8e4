//! Which attributes there are, and which values they have.
//!
//! Names come from the lists of keys that every live table and row group keeps. Values come from the newest traces that
//! have the field: a search that selects it, up to [`TRACES_MAX`] traces, which is told when there may be more.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{Scope, TenantId};
use query::answer::TraceMatch;
use query::field::{Field, Intrinsic, Name, PRECEDENCE};
use query::source::{Chunk as _, TimeRange};
use query::value::Static;
use query::{SearchPlan, SearchRequest};
use shard::chunk::TableChunk;
use shard::chunk::row_group::RowGroupChunk;

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
        let mut answer = TagsAnswer::default();
        let mut names: Vec<BTreeSet<Arc<str>>> = vec![BTreeSet::new(); scopes.len()];
        for tenant in question.tenants.iter() {
            self.collect_names(tenant, &question, &scopes, &mut names, &mut answer)
                .await?;
        }
        for (scope, names) in scopes.into_iter().zip(names) {
            answer.is_cut |= names.len() > question.names_max;
            let names = names
                .into_iter()
                .take(question.names_max)
                .map(|name| name.to_string())
                .collect();
            answer.scopes.push((scope, names));
        }
        Ok(answer)
    }

    async fn collect_names(
        &self,
        tenant: &TenantId,
        question: &TagsQuestion,
        scopes: &[Scope],
        names: &mut [BTreeSet<Arc<str>>],
        answer: &mut TagsAnswer,
    ) -> Result<(), Refusal> {
        let snapshot = self.snapshot(tenant).await?;
        let is_inside = |range: &TimeRange| question.window.is_none_or(|window| window.overlaps(range));
        for (_, live) in snapshot.chunks() {
            let table = live.table();
            let chunk = TableChunk::new(&table);
            if is_inside(&chunk.time_range()) {
                add_names(&chunk, scopes, names)?;
            }
        }
        let mut open = Vec::new();
        for spooled in snapshot.spooled() {
            if let Some(section) = spooled.section_of(tenant) {
                open.push(self.blocks.open_spooled(spooled, section).await);
            }
        }
        for record in snapshot.blocks() {
            let range = TimeRange {
                start_unix_nanos: record.min_unix_nanos,
                end_unix_nanos: record.max_unix_nanos,
            };
            if is_inside(&range) {
                open.push(self.blocks.open(&snapshot.view, &record).await);
            }
        }
        for block in open {
            match block {
                Ok(block) => {
                    // Keys are listed per block: its first row group knows them all.
                    let chunk = RowGroupChunk::new(block, 0, tokio::runtime::Handle::current());
                    add_names(&chunk, scopes, names)?;
                }
                Err(error) => answer.missing.push(error.to_string()),
            }
        }
        Ok(())
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

fn add_names(
    chunk: &dyn query::source::Chunk,
    scopes: &[Scope],
    names: &mut [BTreeSet<Arc<str>>],
) -> Result<(), Refusal> {
    for (scope, names) in scopes.iter().zip(names) {
        names.extend(chunk.attribute_keys(*scope)?);
    }
    Ok(())
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
