//! What is new in an answer since the last message about it.
//!
//! Each kind of answer remembers what it has said. What was said is never taken back: searches and series show only what
//! is certain ([`crate::querier::Querier`]), names and values only come to be more.

use std::collections::HashSet;

use model::Scope;
use prost::Message;
use query::metrics::Intervals;
use query::value::Static;
use wire::tempopb;

use super::PIECE_BYTES;
use crate::api::answer::{self, Ids, series};
use crate::querier::{MetricsAnswer, SearchAnswer, TagsAnswer, ValuesAnswer};

/// Turns answers in the making into messages.
pub(super) trait Difference<A> {
    type Message;
    /// Something was shown.
    fn next(&mut self, so_far: A) -> Vec<Self::Message>;
    /// It is answered.
    fn last(&mut self, answer: A) -> Vec<Self::Message>;
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

/// Traces of a search, of which the first so many were said.
pub(super) struct Traces {
    ids: Ids,
    said: usize,
}

impl Traces {
    pub(super) fn new(ids: Ids) -> Self {
        Self { ids, said: 0 }
    }
}

impl Difference<SearchAnswer> for Traces {
    type Message = tempopb::SearchResponse;

    fn next(&mut self, so_far: SearchAnswer) -> Vec<Self::Message> {
        let news = so_far.traces.get(self.said..).unwrap_or_default();
        self.said += news.len();
        let message = |traces| tempopb::SearchResponse {
            traces,
            metrics: Some(answer::search_metrics(&so_far.stats)),
        };
        pieces(answer::trace_messages(news, self.ids))
            .into_iter()
            .map(message)
            .collect()
    }

    fn last(&mut self, answer: SearchAnswer) -> Vec<Self::Message> {
        self.next(answer)
    }
}

/// Samples of series. They become certain from the newest to the oldest; the last message says everything once more,
/// because a series that is found late has samples where others were said to be complete.
pub(super) struct RangeSeries {
    intervals: Intervals,
    series_max: u32,
    /// Samples from here on were said.
    said_from: u64,
}

impl RangeSeries {
    pub(super) fn new(intervals: Intervals, series_max: u32) -> Self {
        Self {
            intervals,
            series_max,
            said_from: u64::MAX,
        }
    }
}

fn range_pieces(answer: &MetricsAnswer, series_max: u32) -> Vec<tempopb::QueryRangeResponse> {
    let (status, message) = series::completeness(answer, series_max);
    let pieces = pieces(answer.series.iter().map(series::time_series).collect());
    let last = pieces.len() - 1;
    let piece = |(at, series): (usize, Vec<tempopb::TimeSeries>)| tempopb::QueryRangeResponse {
        series,
        metrics: Some(answer::search_metrics(&answer.stats)),
        status: if at == last { status } else { 0 },
        message: if at == last { message.clone() } else { String::new() },
    };
    pieces.into_iter().enumerate().map(piece).collect()
}

impl Difference<MetricsAnswer> for RangeSeries {
    type Message = tempopb::QueryRangeResponse;

    fn next(&mut self, mut so_far: MetricsAnswer) -> Vec<Self::Message> {
        let (step, unfinished_to) = (self.intervals.step_nanos(), so_far.unfinished_to.unwrap_or(0));
        let is_certain = |at: u64| at.saturating_sub(step) >= unfinished_to;
        let said_from = self.said_from;
        for series in &mut so_far.series {
            series.samples.retain(|(at, _)| is_certain(*at) && *at < said_from);
            let said = |at: u64| self.intervals.index(at).map(|i| self.intervals.timestamp_unix_nanos(i));
            series
                .exemplars
                .retain(|exemplar| said(exemplar.unix_nanos).is_some_and(|at| is_certain(at) && at < said_from));
        }
        so_far.series.retain(|series| !series.samples.is_empty());
        let said = so_far.series.iter().filter_map(|series| series.samples.first());
        self.said_from = said.map(|(at, _)| *at).min().unwrap_or(said_from).min(said_from);
        range_pieces(&so_far, self.series_max)
    }

    fn last(&mut self, answer: MetricsAnswer) -> Vec<Self::Message> {
        range_pieces(&answer, self.series_max)
    }
}

/// The one sample of series: before the end there is only progress.
pub(super) struct Instant(pub(super) RangeSeries);

impl Difference<MetricsAnswer> for Instant {
    type Message = tempopb::QueryInstantResponse;

    fn next(&mut self, mut so_far: MetricsAnswer) -> Vec<Self::Message> {
        so_far.series.clear();
        vec![series::instant_message(&so_far, self.0.series_max)]
    }

    fn last(&mut self, answer: MetricsAnswer) -> Vec<Self::Message> {
        let whole = series::instant_message(&answer, self.0.series_max);
        let (metrics, status, message) = (whole.metrics, whole.status, whole.message);
        let pieces = pieces(whole.series);
        let last = pieces.len() - 1;
        let piece = |(at, series)| tempopb::QueryInstantResponse {
            series,
            metrics: metrics.clone(),
            status: if at == last { status } else { 0 },
            message: if at == last { message.clone() } else { String::new() },
        };
        pieces.into_iter().enumerate().map(piece).collect()
    }
}

/// Names of attributes, spelled as `S` does.
pub(super) struct Names<S> {
    said: HashSet<(Scope, String)>,
    spell: S,
    with_intrinsics: bool,
}

/// An answer as a message; with the intrinsics or without.
type SpellNames<M> = fn(&TagsAnswer, bool) -> M;

impl Names<SpellNames<tempopb::SearchTagsResponse>> {
    pub(super) fn first(with_intrinsics: bool) -> Self {
        Self {
            said: HashSet::new(),
            spell: answer::tags_v1_message,
            with_intrinsics,
        }
    }
}

impl Names<SpellNames<tempopb::SearchTagsV2Response>> {
    pub(super) fn second(with_intrinsics: bool) -> Self {
        Self {
            said: HashSet::new(),
            spell: answer::tags_v2_message,
            with_intrinsics,
        }
    }
}

impl<S> Names<S> {
    fn news(&mut self, mut answer: TagsAnswer) -> TagsAnswer {
        for (scope, names) in &mut answer.scopes {
            names.retain(|name| self.said.insert((*scope, name.clone())));
        }
        answer
    }
}

impl<M> Difference<TagsAnswer> for Names<SpellNames<M>> {
    type Message = M;

    fn next(&mut self, so_far: TagsAnswer) -> Vec<M> {
        let news = self.news(so_far);
        vec![(self.spell)(&news, false)]
    }

    fn last(&mut self, answer: TagsAnswer) -> Vec<M> {
        let news = self.news(answer);
        vec![(self.spell)(&news, self.with_intrinsics)]
    }
}

/// Values of a field.
pub(super) struct Values<S> {
    said: HashSet<String>,
    spell: S,
}

type SpellValues<M> = fn(&ValuesAnswer) -> M;

impl Values<SpellValues<tempopb::SearchTagValuesResponse>> {
    pub(super) fn first() -> Self {
        Self {
            said: HashSet::new(),
            spell: answer::values_v1_message,
        }
    }
}

impl Values<SpellValues<tempopb::SearchTagValuesV2Response>> {
    pub(super) fn second() -> Self {
        Self {
            said: HashSet::new(),
            spell: answer::values_v2_message,
        }
    }
}

impl<M> Difference<ValuesAnswer> for Values<SpellValues<M>> {
    type Message = M;

    fn next(&mut self, mut so_far: ValuesAnswer) -> Vec<M> {
        // Spelled as in a query, so that the number 1 and the text "1" are two.
        so_far
            .values
            .retain(|value: &Static| self.said.insert(value.to_string()));
        vec![(self.spell)(&so_far)]
    }

    fn last(&mut self, answer: ValuesAnswer) -> Vec<M> {
        self.next(answer)
    }
}

#[cfg(test)]
mod tests;
