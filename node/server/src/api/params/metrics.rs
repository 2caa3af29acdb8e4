//! Parameters of metrics queries.

use std::time::Duration;

use query::metrics::{Intervals, MetricsRequest};

use super::{NANOS, Params, Rules, check_length, refuse, shown};
use crate::refusal::Refusal;

/// Range of a metrics query that names none, as in Tempo.
const SINCE: Duration = Duration::from_secs(3600);
/// Unix times of up to this many digits are seconds, longer ones nanoseconds.
const SECONDS_DIGITS_MAX: usize = 10;

/// A checked metrics query, before it is planned.
#[derive(Debug, PartialEq)]
pub(crate) struct MetricsParams {
    pub(crate) query: String,
    pub(crate) request: MetricsRequest,
    pub(crate) series_max: u32,
}

/// Which form of metrics query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Range,
    Instant,
}

pub(crate) fn parse_metrics(params: &Params, shape: Shape, rules: &Rules<'_>) -> Result<MetricsParams, Refusal> {
    // Older versions of Grafana say `query`.
    let query = params.get("q").or(params.get("query")).unwrap_or_default().to_owned();
    if query.is_empty() {
        return Err(refuse("invalid q: a metrics query is expected"));
    }
    check_length(&query, rules)?;
    let (start, end) = bounds(params, rules)?;
    if end <= start {
        return Err(refuse("http parameter start must be before end"));
    }
    let range_max = rules.limits.metrics_range_max.duration();
    if u128::from(end - start) > range_max.as_nanos() {
        let text = |nanos: u128| query::value::duration_text(i64::try_from(nanos).unwrap_or(i64::MAX));
        return Err(refuse(format!(
            "metrics query time range exceeds metrics_range_max: {} is longer than {}",
            text(u128::from(end - start)),
            text(range_max.as_nanos())
        )));
    }
    let is_instant = flag(params, "instant")?.unwrap_or(false) || shape == Shape::Instant;
    let step = step(params)?;
    let intervals = if is_instant {
        Intervals::instant(start, end)
    } else {
        let step = match step {
            None | Some(0) => Intervals::auto_step_nanos(start, end),
            Some(step) => step,
        };
        let count_max = u64::from(rules.query.metrics_intervals_max);
        if (end - start).div_ceil(step) > count_max {
            return Err(refuse(format!(
                "invalid step: too small, more than {count_max} intervals (metrics_intervals_max)"
            )));
        }
        Intervals::range(start, end, step)
    };
    let exemplars_max = rules.limits.exemplars_max;
    let exemplars = match params.get("exemplars") {
        None | Some("true") => exemplars_max,
        Some("false") => 0,
        // Zero is how clients say nothing; `false` and the hint `exemplars=false` say none.
        Some(_) => match params.number::<u32>("exemplars")? {
            None | Some(0) => exemplars_max,
            Some(count) => count.min(exemplars_max),
        },
    };
    let series_max = match params.number::<u32>("maxSeries")? {
        None | Some(0) => rules.limits.metrics_series_max,
        Some(count) => count.min(rules.limits.metrics_series_max),
    };
    Ok(MetricsParams {
        query,
        request: MetricsRequest {
            intervals: intervals.map_err(|error| refuse(error.to_string()))?,
            exemplars: exemplars as usize,
        },
        series_max,
    })
}

/// `start` and `end`, each with a default: the end is now, the start `since` before the end.
fn bounds(params: &Params, rules: &Rules<'_>) -> Result<(u64, u64), Refusal> {
    let now = rules.now_unix_nanos;
    let since = params
        .duration_nanos("since")?
        .unwrap_or(u64::try_from(SINCE.as_nanos()).unwrap_or(u64::MAX));
    let end = instant(params, "end")?.unwrap_or(now);
    let start = instant(params, "start")?.unwrap_or(end.min(now).saturating_sub(since));
    Ok((start, end))
}

/// A time in any form as unix seconds.
pub(crate) fn unix_seconds(text: &str) -> Option<u64> {
    let params = Params::from_pairs(vec![("time", text.to_owned())]);
    instant(&params, "time").ok().flatten().map(|nanos| nanos / NANOS)
}

/// A window whose ends may be left open, as unix seconds: an hour, and now.
pub(crate) fn window_of(
    start: Option<&str>,
    end: Option<&str>,
    rules: &Rules<'_>,
) -> Result<(String, String), Refusal> {
    let pair = |name, text: Option<&str>| (name, text.unwrap_or_default().to_owned());
    let (start, end) = bounds(&Params::from_pairs(vec![pair("start", start), pair("end", end)]), rules)?;
    Ok(((start / NANOS).to_string(), end.div_ceil(NANOS).to_string()))
}

/// Unix seconds, unix nanoseconds, seconds with a fraction, or RFC 3339.
fn instant(params: &Params, name: &'static str) -> Result<Option<u64>, Refusal> {
    let Some(text) = params.get(name) else { return Ok(None) };
    let wrong = || {
        refuse(format!(
            "invalid {name}: {:?} is neither unix seconds, unix nanoseconds nor an RFC 3339 time",
            shown(text)
        ))
    };
    if let Ok(number) = text.parse::<u64>() {
        let is_seconds = text.len() <= SECONDS_DIGITS_MAX;
        return Ok(Some(if is_seconds { number * NANOS } else { number }));
    }
    let fraction = text
        .parse::<f64>()
        .ok()
        .filter(|seconds| text.contains('.') && *seconds >= 0.0);
    if let Some(seconds) = fraction {
        // Milliseconds, which is as exact as a double is today.
        let millis = (seconds * 1e3).round();
        return if millis * 1e6 < u64::MAX as f64 {
            Ok(Some(millis as u64 * 1_000_000))
        } else {
            Err(wrong())
        };
    }
    rfc3339_nanos(text).map(Some).ok_or_else(wrong)
}

/// `2024-01-02T03:04:05.678Z` or with an offset, as nanoseconds since the epoch.
fn rfc3339_nanos(text: &str) -> Option<u64> {
    let number = |text: &str| -> Option<i64> {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (sign, rest) = zone.split_at(1);
            let (hours, minutes) = rest.split_once(':')?;
            let minutes = number(hours)? * 60 + number(minutes)?;
            if sign == "-" { -minutes } else { minutes }
        }
    };
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && (1970..=2500).contains(&year)
        && offset.abs() < 24 * 60
        && fraction.len() <= 9;
    if !in_range {
        return None;
    }
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    let nanos = number(fraction)? * 10_i64.pow(9 - u32::try_from(fraction.len()).ok()?);
    u64::try_from(seconds)
        .ok()?
        .checked_mul(NANOS)?
        .checked_add(u64::try_from(nanos).ok()?)
}

/// Days from 1970-01-01 in the Gregorian calendar (the usual count of days before March years).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Seconds with or without a fraction, or a duration.
fn step(params: &Params) -> Result<Option<u64>, Refusal> {
    let Some(text) = params.get("step") else {
        return Ok(None);
    };
    if let Ok(seconds) = text.parse::<f64>() {
        let nanos = seconds * 1e9;
        if !(0.0..9.2e18).contains(&nanos) {
            return Err(refuse(format!("invalid step: {:?} must be positive", shown(text))));
        }
        return Ok(Some(nanos.round() as u64));
    }
    params.duration_nanos("step")
}

/// A truth value as Go reads one.
pub(crate) fn flag(params: &Params, name: &'static str) -> Result<Option<bool>, Refusal> {
    Ok(match params.get(name) {
        None => None,
        Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Some(true),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Some(false),
        Some(other) => {
            return Err(refuse(format!(
                "invalid {name}: {:?} is neither true nor false",
                shown(other)
            )));
        }
    })
}

#[cfg(test)]
mod tests;
