//! Query strings in, metrics questions or sentences out.

use settings::NodeSettings;

use super::*;

/// 2023-11-14T22:13:20Z
const NOW: u64 = 1_700_000_000 * NANOS;

fn metrics(shape: Shape, query: &str) -> Result<MetricsParams, String> {
    let settings = NodeSettings::default();
    let rules = Rules {
        query: &settings.query,
        limits: &settings.limits.defaults,
        now_unix_nanos: NOW,
    };
    Params::parse(Some(query))
        .and_then(|params| parse_metrics(&params, shape, &rules))
        .map_err(|refusal| refusal.message.into_owned())
}

fn range(query: &str) -> Result<MetricsParams, String> {
    metrics(Shape::Range, query)
}

/// First and last instant asked about, and the step.
fn times(query: &str) -> (u64, u64, u64) {
    let intervals = range(query).unwrap().request.intervals;
    let last = intervals.timestamp_unix_nanos(intervals.count() - 1);
    (intervals.timestamp_unix_nanos(0), last, intervals.step_nanos())
}

#[test]
fn without_times_it_is_the_last_hour() {
    assert_eq!(
        times("q=x"),
        (NOW - 3600 * NANOS - 5 * NANOS, NOW + 10 * NANOS, 15 * NANOS)
    );
    assert_eq!(
        times("query=x&since=5m&step=60"),
        (NOW - 320 * NANOS, NOW + 40 * NANOS, 60 * NANOS)
    );
    let read = range("q=x").unwrap();
    assert_eq!((read.request.exemplars, read.series_max), (100, 10_000));
    let instant = metrics(Shape::Instant, "q=x&since=1m").unwrap().request.intervals;
    assert_eq!(
        (instant.window().start_unix_nanos, instant.window().end_unix_nanos),
        (NOW - 60 * NANOS, NOW)
    );
    assert_eq!(range("q=x&since=1m&instant=true").unwrap().request.intervals, instant);
}

#[test]
fn times_come_in_four_forms() {
    let expected = (1_699_999_980 * NANOS, 1_700_000_000 * NANOS, 10 * NANOS);
    for form in [
        "start=1699999980&end=1700000000",
        "start=1699999980000000000&end=1700000000000000000",
        "start=1699999980.000&end=1700000000.0",
        "start=2023-11-14T22:13:00Z&end=2023-11-14T23:13:20%2B01:00",
        "start=2023-11-14T20:43:00-01:30&end=1700000000",
        "since=20s",
    ] {
        assert_eq!(times(&format!("q=x&step=10s&{form}")), expected, "{form}");
    }
    assert_eq!(rfc3339_nanos("2024-02-29T00:00:00.5Z"), Some(1_709_164_800_500_000_000));
    assert_eq!(rfc3339_nanos("1970-01-01T00:00:00Z"), Some(0));
    for bad in [
        "2024-13-01T00:00:00Z",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-1x-01T00:00:00Z",
        "",
        "T:Z",
        "é",
    ] {
        assert_eq!(rfc3339_nanos(bad), None, "{bad}");
    }
}

#[test]
fn steps_are_seconds_or_durations() {
    let step = |text: &str| times(&format!("q=x&start=1000&end=2000&step={text}")).2;
    assert_eq!(
        [step("7"), step("0.5"), step("1m"), step("200ms")],
        [7 * NANOS, NANOS / 2, 60 * NANOS, NANOS / 5]
    );
    assert_eq!(step("0"), Intervals::auto_step_nanos(1000 * NANOS, 2000 * NANOS));
}

#[test]
fn exemplars_and_series_are_capped() {
    let read = |text: &str| {
        let read = range(&format!("q=x&{text}")).unwrap();
        (read.request.exemplars, read.series_max)
    };
    assert_eq!(read("exemplars=99&maxSeries=9999"), (99, 9999));
    assert_eq!(read("exemplars=101&maxSeries=10001"), (100, 10_000));
    assert_eq!(read("exemplars=0&maxSeries=0"), (100, 10_000));
    assert_eq!(read("exemplars=false"), (0, 10_000));
    assert_eq!(read("exemplars=true"), (100, 10_000));
}

#[test]
fn unknown_parameters_are_passed_over() {
    assert_eq!(range("unheard=of&q=x&Step=no"), range("q=x"));
}

#[test]
fn what_makes_no_sense_is_named() {
    for (query, words) in [
        ("", "invalid q"),
        ("q=x&start=5&end=5", "start must be before end"),
        ("q=x&start=6&end=5", "start must be before end"),
        ("q=x&start=yesterday", "invalid start"),
        ("q=x&end=-5", "invalid end"),
        ("q=x&end=1e400.0", "invalid end"),
        ("q=x&step=-1", "invalid step"),
        ("q=x&step=abc", "invalid step"),
        ("q=x&step=NaN", "invalid step"),
        ("q=x&since=abc", "invalid since"),
        ("q=x&exemplars=many", "invalid exemplars"),
        ("q=x&maxSeries=-1", "invalid maxSeries"),
        ("q=x&instant=maybe", "invalid instant"),
        ("q=x&start=0&end=86401", "metrics_range_max"),
        ("q=x&start=1000&end=11001&step=1", "metrics_intervals_max"),
        ("q=a&q=b", "given twice"),
    ] {
        let message = range(query).unwrap_err();
        assert!(message.contains(words), "{query}: {message}");
    }
    // At the limits themselves.
    // Also where they mean nothing.
    assert!(
        metrics(Shape::Instant, "q=x&instant=maybe")
            .unwrap_err()
            .contains("invalid instant")
    );
    assert!(
        metrics(Shape::Instant, "q=x&step=abc")
            .unwrap_err()
            .contains("invalid step")
    );
    assert!(range("q=x&start=0&end=86400&step=60").is_ok());
    assert!(range("q=x&start=1000&end=10999&step=1").is_ok());
}
