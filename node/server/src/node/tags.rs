//! Which attributes there are, and which values they have.
//!
//! Names come from the lists of keys that every live table and row group keeps, values from the dictionaries of their
//! columns; each chunk is asked once, on threads that may wait for the object store. A lookup whose time is up answers
//! with what it has and says so: somebody is typing.

use std::sync::Arc;
use std::time::Duration;

use model::Scope;
use parking_lot::Mutex;
use query::budget::Budget;
use query::field::PRECEDENCE;
use query::source::{Chunk, TimeRange};
use query::tags::{TagFilter, TagNames, TagValue, TagValues, collect_tag_names, collect_tag_values};
use query::value::Static;
use shard::crew::Onlooker;
use shard::scan::{ScanOnlooker, Scanned};

use super::reader::{Reader, stats};
use crate::preview::{Preview, Watching};
use crate::querier::{TagsAnswer, TagsQuestion, ValuesAnswer, ValuesQuestion};
use crate::refusal::Refusal;

impl Reader {
    pub(super) async fn read_tags(
        &self,
        question: TagsQuestion,
        watching: Watching<TagsAnswer>,
    ) -> Result<TagsAnswer, Refusal> {
        let scopes: Vec<Scope> = question.scope.map_or(PRECEDENCE.to_vec(), |scope| vec![scope]);
        let window = question.window.unwrap_or(TimeRange::ALWAYS);
        let wanted = Arc::new(TagFilter::new(window, question.filter.as_ref())?);
        let (means, _cancel) = self.means(&question.tenants, question.allowance, None);
        let names = Arc::new(Mutex::new(TagNames::new(question.names_max)));
        let onlooker = watching.map(|preview| {
            let (names, scopes) = (Arc::clone(&names), scopes.clone());
            let show = move |parts: Vec<TagNames>| {
                let mut names = names.lock();
                parts.into_iter().for_each(|part| names.merge(part));
                spell_names(&names, &scopes)
            };
            Watcher::over(preview, show)
        });
        let mut answer = TagsAnswer::default();
        for tenant in question.tenants.iter() {
            let snapshot = self.snapshot(tenant).await?;
            let (wanted, scopes) = (Arc::clone(&wanted), scopes.clone());
            let work = move |chunk: &dyn Chunk, names: &mut TagNames, budget: &Budget| {
                collect_tag_names(&wanted, &scopes, chunk, names, budget)
            };
            let scan = shard::scan::scan(&snapshot, window, &means, Option::clone(&onlooker), work);
            let scanned = in_time(scan, question.time_max, &means.budget).await?;
            answer.stats.add(stats(&scanned.looked));
            answer.missing.extend(scanned.looked.missing);
            answer.missing.extend(why_cut(scanned.cut.as_ref(), question.time_max));
            let mut names = names.lock();
            scanned.parts.into_iter().for_each(|part| names.merge(part));
            if scanned.cut.is_some() {
                break;
            }
        }
        let names = names.lock();
        let TagsAnswer { scopes, is_cut, .. } = spell_names(&names, &scopes);
        Ok(TagsAnswer {
            scopes,
            is_cut,
            ..answer
        })
    }

    pub(super) async fn read_values(
        &self,
        question: ValuesQuestion,
        watching: Watching<ValuesAnswer>,
    ) -> Result<ValuesAnswer, Refusal> {
        let window = question.window.unwrap_or(TimeRange::ALWAYS);
        let wanted = Arc::new(TagFilter::new(window, question.filter.as_ref())?);
        let (means, _cancel) = self.means(&question.tenants, question.allowance, None);
        let values = Arc::new(Mutex::new(TagValues::new(question.values_max)));
        let bytes_max = question.bytes_max;
        let onlooker = watching.map(|preview| {
            let values = Arc::clone(&values);
            let show = move |parts: Vec<TagValues>| {
                let mut values = values.lock();
                parts.into_iter().for_each(|part| values.merge(part));
                spell_values(&mut values, bytes_max)
            };
            Watcher::over(preview, show)
        });
        let mut answer = ValuesAnswer::default();
        for tenant in question.tenants.iter() {
            let snapshot = self.snapshot(tenant).await?;
            let (wanted, field) = (Arc::clone(&wanted), question.field.clone());
            let work = move |chunk: &dyn Chunk, values: &mut TagValues, budget: &Budget| {
                collect_tag_values(&wanted, &field, chunk, values, budget)
            };
            let scan = shard::scan::scan(&snapshot, window, &means, Option::clone(&onlooker), work);
            let scanned = in_time(scan, question.time_max, &means.budget).await?;
            answer.stats.add(stats(&scanned.looked));
            answer.missing.extend(scanned.looked.missing);
            answer.missing.extend(why_cut(scanned.cut.as_ref(), question.time_max));
            let mut values = values.lock();
            scanned.parts.into_iter().for_each(|part| values.merge(part));
            if scanned.cut.is_some() {
                break;
            }
        }
        let mut values = values.lock();
        let ValuesAnswer { values, is_cut, .. } = spell_values(&mut values, bytes_max);
        Ok(ValuesAnswer {
            values,
            is_cut,
            ..answer
        })
    }
}

/// Waits for a scan; when the time is up it ends at its threads' next look at the budget, with what it has.
async fn in_time<T>(
    scan: impl Future<Output = shard::Result<Scanned<T>>>,
    time_max: Duration,
    budget: &Budget,
) -> Result<Scanned<T>, Refusal> {
    let mut scan = std::pin::pin!(scan);
    match tokio::time::timeout(time_max, &mut scan).await {
        Ok(scanned) => Ok(scanned?),
        Err(_) => {
            budget.cancel();
            Ok(scan.await?)
        }
    }
}

fn why_cut(cut: Option<&query::Error>, time_max: Duration) -> Option<String> {
    Some(match cut? {
        query::Error::Cancelled => format!("lookup exceeds query.tag_timeout: {time_max:?}"),
        error => error.to_string(),
    })
}

fn spell_names(names: &TagNames, scopes: &[Scope]) -> TagsAnswer {
    let of = |scope: &Scope| (*scope, names.names(*scope).map(str::to_owned).collect());
    TagsAnswer {
        scopes: scopes.iter().map(of).collect(),
        is_cut: names.is_cut(),
        ..TagsAnswer::default()
    }
}

fn spell_values(values: &mut TagValues, bytes_max: usize) -> ValuesAnswer {
    let mut answer = ValuesAnswer {
        is_cut: values.is_cut(),
        ..ValuesAnswer::default()
    };
    let mut bytes = 0;
    for value in values.values() {
        bytes += value.text.len();
        if bytes > bytes_max {
            answer.is_cut = true;
            break;
        }
        answer.values.push(typed(&value));
    }
    answer
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

/// Shows what was collected so far as an answer.
struct Watcher<A, F> {
    preview: Arc<Preview<A>>,
    spell: F,
}

impl<A: Send + 'static, F> Watcher<A, F> {
    fn over<T>(preview: Arc<Preview<A>>, spell: F) -> ScanOnlooker<T>
    where
        Self: Onlooker<Scanned<T>>,
        F: Send + Sync + 'static,
    {
        Arc::new(Self { preview, spell })
    }
}

/// Answers whose stats can be filled in.
trait Counted {
    fn count(&mut self, stats: crate::querier::Stats);
}

impl Counted for TagsAnswer {
    fn count(&mut self, stats: crate::querier::Stats) {
        self.stats = stats;
    }
}

impl Counted for ValuesAnswer {
    fn count(&mut self, stats: crate::querier::Stats) {
        self.stats = stats;
    }
}

impl<T, A, F> Onlooker<Scanned<T>> for Watcher<A, F>
where
    A: Counted + Send,
    F: Fn(Vec<T>) -> A + Send + Sync,
{
    fn is_curious(&self) -> bool {
        self.preview.is_wanted()
    }

    fn show(&self, so_far: Scanned<T>) {
        let mut answer = (self.spell)(so_far.parts);
        answer.count(stats(&so_far.looked));
        self.preview.show(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lookup_ends_when_its_time_is_up() {
        let (milli, time_max) = (Duration::from_millis(1), Duration::from_secs(5));
        for (takes, expected) in [(time_max - milli, None), (time_max + milli, Some("5s"))] {
            let budget = Budget::default();
            let scan = async {
                let begun = tokio::time::Instant::now();
                let mut scanned = Scanned {
                    parts: vec![1],
                    ..Scanned::default()
                };
                while begun.elapsed() < takes {
                    tokio::time::sleep(milli).await;
                    if let Err(cancelled) = budget.check() {
                        scanned.cut = Some(cancelled);
                        break;
                    }
                }
                Ok(scanned)
            };
            let scanned = in_time(scan, time_max, &budget).await.unwrap();
            assert_eq!(scanned.parts, [1], "what was found stays");
            let expected = expected.map(|time| format!("lookup exceeds query.tag_timeout: {time}"));
            assert_eq!(why_cut(scanned.cut.as_ref(), time_max), expected);
        }
    }
}
