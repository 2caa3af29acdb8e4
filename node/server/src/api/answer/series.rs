//! Metrics answers in Tempo's words.
//!
//! Labels keep the type of the value they are grouped by. An answer that lacks something says PARTIAL and why; its body
//! has a place for that.

use query::metrics::{Series, SeriesExemplar};
use query::value::Static;
use settings::ByteSize;
use wire::tempopb::common::v1::KeyValue;
use wire::tempopb::{
    Exemplar, InstantSeries, PartialStatus, QueryInstantResponse, QueryRangeResponse, Sample, TimeSeries, table,
};

use super::{Form, Spelled, any_value, search_metrics, spell, too_large, within};
use crate::querier::MetricsAnswer;
use crate::refusal::Refusal;

const MILLI: u64 = 1_000_000;
/// A sample without a value, as short as it gets: tag, length, and the tag and varint of a time of our days.
const SAMPLE_BYTES_MIN: u64 = 9;

/// `tempopb.QueryRangeResponse`.
pub(crate) fn range(
    answer: &MetricsAnswer,
    series_max: u32,
    form: Form,
    bytes_max: ByteSize,
) -> Result<Spelled, Refusal> {
    let samples: usize = answer.series.iter().map(|series| series.samples.len()).sum();
    if samples as u64 * SAMPLE_BYTES_MIN > bytes_max.bytes() {
        return Err(too_large(bytes_max));
    }
    let message = within(range_message(answer, series_max), bytes_max)?;
    spell(&table::QUERY_RANGE_RESPONSE, message, form, &answer.missing)
}

/// `tempopb.QueryInstantResponse`, always JSON.
pub(crate) fn instant(answer: &MetricsAnswer, series_max: u32, bytes_max: ByteSize) -> Result<Spelled, Refusal> {
    let message = within(instant_message(answer, series_max), bytes_max)?;
    spell(&table::QUERY_INSTANT_RESPONSE, message, Form::Json, &answer.missing)
}

pub(crate) fn range_message(answer: &MetricsAnswer, series_max: u32) -> QueryRangeResponse {
    let (status, message) = completeness(answer, series_max);
    QueryRangeResponse {
        series: answer.series.iter().map(time_series).collect(),
        metrics: Some(search_metrics(&answer.stats)),
        status,
        message,
    }
}

pub(crate) fn instant_message(answer: &MetricsAnswer, series_max: u32) -> QueryInstantResponse {
    let (status, message) = completeness(answer, series_max);
    QueryInstantResponse {
        series: answer.series.iter().filter_map(instant_series).collect(),
        metrics: Some(search_metrics(&answer.stats)),
        status,
        message,
    }
}

pub(crate) fn completeness(answer: &MetricsAnswer, series_max: u32) -> (i32, String) {
    let mut reasons = answer.missing.clone();
    if answer.is_cut {
        reasons.push(format!(
            "more than {series_max} series (metrics_series_max); those with the smallest labels are returned"
        ));
    }
    let status = if reasons.is_empty() {
        PartialStatus::Complete
    } else {
        PartialStatus::Partial
    };
    (status as i32, reasons.join("; "))
}

pub(crate) fn time_series(series: &Series) -> TimeSeries {
    let sample = |(unix_nanos, value): &(u64, f64)| Sample {
        value: *value,
        timestamp_ms: millis(*unix_nanos),
    };
    TimeSeries {
        labels: labels(&series.labels),
        samples: series.samples.iter().map(sample).collect(),
        exemplars: series
            .exemplars
            .iter()
            .map(|found| exemplar(found, &series.labels))
            .collect(),
    }
}

fn instant_series(series: &Series) -> Option<InstantSeries> {
    Some(InstantSeries {
        labels: labels(&series.labels),
        value: series.samples.last()?.1,
    })
}

fn exemplar(found: &SeriesExemplar, of: &[(String, Static)]) -> Exemplar {
    let groups = of.iter().filter(|(key, _)| key != "__name__");
    let mut labels: Vec<KeyValue> = groups.map(label).collect();
    labels.push(label(&(
        "trace:id".to_owned(),
        Static::str(&found.trace_id.to_string()),
    )));
    Exemplar {
        labels,
        value: found.value,
        timestamp_ms: millis(found.unix_nanos),
    }
}

fn labels(pairs: &[(String, Static)]) -> Vec<KeyValue> {
    pairs.iter().map(label).collect()
}

fn label((key, value): &(String, Static)) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: any_value(value),
    }
}

fn millis(unix_nanos: u64) -> i64 {
    i64::try_from(unix_nanos / MILLI).unwrap_or(i64::MAX)
}
