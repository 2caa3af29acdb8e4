//! Which attributes there are, and which values they have.
//!
//! Names come from the lists of keys that every live table and row group keeps, values from the dictionaries of their
//! columns; each chunk is asked once, on threads that may wait for the object store.

use std::sync::Arc;

use model::Scope;
use query::field::PRECEDENCE;
use query::source::{Chunk, TimeRange};
use query::tags::{TagFilter, TagNames, TagValue, TagValues, collect_tag_names, collect_tag_values};
use query::value::Static;

use super::reader::Reader;
use crate::querier::{TagsAnswer, TagsQuestion, ValuesAnswer, ValuesQuestion};
use crate::refusal::Refusal;

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
        let window = question.window.unwrap_or(TimeRange::ALWAYS);
        let wanted = Arc::new(TagFilter::new(window, question.filter.as_ref())?);
        let (budget, _cancel) = self.budget();
        let mut answer = ValuesAnswer::default();
        let mut values = TagValues::new(question.values_max);
        for tenant in question.tenants.iter() {
            let snapshot = self.snapshot(tenant).await?;
            let (wanted, field, budget) = (Arc::clone(&wanted), question.field.clone(), Arc::clone(&budget));
            let work = move |chunk: &dyn Chunk, values: &mut TagValues| {
                collect_tag_values(&wanted, &field, chunk, values, &budget)
            };
            let scanned = shard::scan::scan(&snapshot, &self.blocks, window, self.workers(), work).await?;
            scanned.parts.into_iter().for_each(|part| values.merge(part));
            answer.missing.extend(scanned.missing);
            answer.stats.inspected_bytes += scanned.inspected_bytes;
            answer.stats.jobs += scanned.jobs;
            answer.stats.jobs_done += scanned.jobs_done;
        }
        answer.is_cut = values.is_cut();
        let mut bytes = 0;
        for value in values.values() {
            bytes += value.text.len();
            if bytes > question.bytes_max {
                answer.is_cut = true;
                break;
            }
            answer.values.push(typed(value));
        }
        Ok(answer)
    }
}

/// A suggestion as the value it stands for.
fn typed(value: &TagValue) -> Static {
    let number = match value.kind {
        "int" => value.text.parse().ok().map(Static::Int),
        "float" => value.text.parse().ok().map(Static::Float),
        "bool" => value.text.parse().ok().map(Static::Bool),
        _ => None,
    };
    number.unwrap_or_else(|| Static::str(&value.text))
}
