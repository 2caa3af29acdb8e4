//! Words in, requests out; answers in, text out.

use wire::tempopb::common::v1::any_value::Value;
use wire::tempopb::common::v1::{AnyValue, KeyValue, Resource};
use wire::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use wire::tempopb::{InstantSeries, Sample, SearchMetrics, SpanSet, TimeSeries, TraceSearchMetadata};

use super::*;

const PLAIN: Screen = Screen {
    width: 100,
    has_colour: false,
};

fn args(words: &str) -> QueryArgs {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: QueryArgs,
    }
    let words = std::iter::once("query").chain(words.split('|').map(str::trim));
    <Line as clap::Parser>::try_parse_from(words).unwrap().args
}

fn asked(words: &str) -> String {
    let args = args(words);
    match Ask::of(&args.words, args.instant) {
        Err(error) => error.to_string(),
        Ok(ask) => {
            let (path, parameters) = request(&ask, &args);
            let parameters: Vec<String> = parameters
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{path}?{}", parameters.join("&"))
        }
    }
}

#[test]
fn words_become_requests() {
    for (words, expected) in [
        ("0af7", "/api/v2/traces/00000000000000000000000000000af7?"),
        (
            "{ status = error }",
            "/api/search?q={ status = error }&limit=20&spss=3&since=1h",
        ),
        ("{", "/api/search?q={&limit=20&spss=3&since=1h"),
        (
            "{ }|--limit|5|--spss|1|--since|5m",
            "/api/search?q={ }&limit=5&spss=1&since=5m",
        ),
        (
            "{ }|--start|5|--end|7",
            "/api/search?q={ }&limit=20&spss=3&start=5&end=7",
        ),
        ("{ } \u{7c} rate()", "/api/search?q={ }&limit=20&spss=3&since=1h"),
        ("tags", "/api/v2/search/tags?limit=20&since=1h"),
        ("tags|resource", "/api/v2/search/tags?scope=resource&limit=20&since=1h"),
        (
            "values|span.http.route/x y",
            "/api/v2/search/tag/span.http.route%2Fx%20y/values?limit=20&since=1h",
        ),
        ("explain|{ }", "/api/search?q={ }&limit=20&spss=3&since=1h&explain=true"),
        ("explain { }", "/api/search?q={ }&limit=20&spss=3&since=1h&explain=true"),
        ("tags resource", "/api/v2/search/tags?scope=resource&limit=20&since=1h"),
        ("values", "usage: explain QUERY, tags [SCOPE] or values TAG"),
        ("explain", "usage: explain QUERY, tags [SCOPE] or values TAG"),
    ] {
        // A pipe parts the words of this table, so metrics queries are below.
        if !words.contains("rate()") {
            assert_eq!(asked(words), expected, "{words}");
        }
    }
    let metrics = |instant| Ask::of(&["{ }".to_owned(), "| rate()".to_owned()], instant).unwrap();
    assert_eq!(metrics(false), Ask::Range("{ } | rate()".to_owned()));
    assert_eq!(metrics(true), Ask::Instant("{ } | rate()".to_owned()));
    let explain = Ask::of(&["explain".to_owned(), "{ } | rate()".to_owned()], false).unwrap();
    assert_eq!(explain, Ask::Explain("{ } | rate()".to_owned(), Explained::Metrics));
    let (path, parameters) = request(&metrics(false), &args("x|--step|30s"));
    assert_eq!(
        (path.as_str(), &parameters[1]),
        ("/api/metrics/query_range", &("step", "30".to_owned()))
    );
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.into())),
        }),
    }
}

fn span(id: u8, parent: u8, name: &str, from: u64, to: u64, is_error: bool) -> Span {
    let start = 1_700_000_000_000_000_000;
    Span {
        trace_id: vec![0xab; 16],
        span_id: vec![id],
        parent_span_id: if parent == 0 { vec![] } else { vec![parent] },
        name: name.into(),
        start_time_unix_nano: start + from * 1_000_000,
        end_time_unix_nano: start + to * 1_000_000,
        status: is_error.then(|| Status {
            code: 2,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn of(service: &str, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(Resource {
            attributes: vec![text("service.name", service)],
            ..Default::default()
        }),
        scope_spans: vec![ScopeSpans {
            spans,
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn a_trace_is_a_tree_with_a_timeline() {
    let trace = tempopb::Trace {
        resource_spans: vec![
            of(
                "shop",
                vec![
                    span(1, 0, "GET /order", 0, 500, false),
                    span(3, 1, "POST\n/pay", 150, 350, true),
                ],
            ),
            of(
                "db",
                vec![
                    span(2, 1, "SELECT", 10, 110, false),
                    span(5, 4, "SELECT", 170, 190, false),
                ],
            ),
            of(
                "pay",
                vec![span(4, 3, "POST", 160, 310, true), span(9, 8, "late", 495, 500, false)],
            ),
        ],
    };
    let expected = "\
trace abababababababababababababababab  6 spans  3 services  500ms  2023-11-14T22:13:20.000Z

shop     GET /order             500ms  ███████████████████████████████████████████████████████████▉
db       ├ SELECT               100ms   ████████████
shop     └ POST /pay            200ms                   ████████████████████████
pay        └ POST               150ms                    █████████████████▎
db           └ SELECT            20ms                     ██▊
pay      late (parent missing)    5ms                                                             ▋
";
    let printed = tree::print(&trace, PLAIN);
    // Bars are compared by their ends, because eighths are hard to read.
    let ends = |text: &str| -> Vec<String> {
        let shape = |line: &str| {
            line.trim_end_matches(|c| !"█ ".contains(c) && !char::is_alphanumeric(c))
                .to_owned()
        };
        text.lines().map(shape).map(|line| line.trim_end().to_owned()).collect()
    };
    let (printed, expected) = (ends(&printed), ends(expected));
    for (printed, expected) in printed.iter().zip(&expected) {
        let head = |line: &str| line.split('█').next().unwrap_or_default().trim_end().to_owned();
        assert_eq!(head(printed), head(expected));
    }
    assert_eq!(printed.len(), expected.len());
}

#[test]
fn cycles_and_long_chains_are_printed_once() {
    let chain = (1..=60u8)
        .map(|id| span(id, id - 1, "deep", u64::from(id), 100, false))
        .collect();
    let cycle = vec![span(101, 102, "a", 0, 1, false), span(102, 101, "b", 0, 1, false)];
    let trace = tempopb::Trace {
        resource_spans: vec![of("x", chain), of("y", cycle)],
    };
    let printed = tree::print(&trace, PLAIN);
    assert_eq!(printed.lines().count(), 2 + 62, "{printed}");
    assert!(printed.lines().all(|line| line.chars().count() < 200));
    let coloured = tree::print(
        &tempopb::Trace {
            resource_spans: vec![of("x", vec![span(1, 0, "bad", 0, 1, true)])],
        },
        Screen {
            has_colour: true,
            ..PLAIN
        },
    );
    assert!(coloured.contains("\u{1b}[31m"));
}

#[test]
fn a_search_is_a_table() {
    let found = tempopb::SearchResponse {
        traces: vec![TraceSearchMetadata {
            trace_id: "0af7".into(),
            root_service_name: "shop".into(),
            root_trace_name: "GET /order".into(),
            start_time_unix_nano: 1_700_000_000_000_000_000,
            duration_ms: 500,
            span_sets: vec![SpanSet {
                matched: 7,
                attributes: vec![text("by(name)", "POST")],
                spans: vec![tempopb::Span {
                    span_id: "0000000000000003".into(),
                    name: "POST".into(),
                    start_time_unix_nano: 1_700_000_000_150_000_000,
                    duration_nanos: 200_000_000,
                    attributes: vec![text("status", "error")],
                }],
            }],
            ..Default::default()
        }],
        metrics: Some(SearchMetrics {
            inspected_spans: 9,
            completed_jobs: 2,
            total_jobs: 2,
            inspected_bytes: 100,
            ..Default::default()
        }),
    };
    let expected = "\
TRACE               START                     DURATION  SPANS  SERVICE  NAME
0af7                2023-11-14T22:13:20.000Z  500ms     7      shop     GET /order
  by(name)=POST                                         7
  0000000000000003  2023-11-14T22:13:20.150Z  200ms            POST     status=error

1 trace; looked at 9 spans in 2 of 2 jobs, 100 bytes read
";
    assert_eq!(table::print_search(&found, PLAIN), expected);
    assert_eq!(table::print_search(&Default::default(), PLAIN), "nothing found\n");
}

#[test]
fn series_are_curves_with_numbers() {
    let sample = |(at, value): (i64, f64)| Sample {
        timestamp_ms: 1_700_000_000_000 + at * 1000,
        value,
    };
    let found = tempopb::QueryRangeResponse {
        series: vec![TimeSeries {
            labels: vec![text("resource.service.name", "shop")],
            samples: [(0, 0.0), (10, 1.0), (20, 2.0), (30, 4.0)].map(sample).to_vec(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let printed = chart::print(&found, PLAIN);
    assert!(
        printed.starts_with("2023-11-14T22:13:20.000Z to 2023-11-14T22:13:50.000Z\n"),
        "{printed}"
    );
    let line = printed.lines().last().unwrap();
    assert!(line.starts_with("resource.service.name=shop  ▁"), "{line}");
    let numbers: Vec<&str> = line.split_whitespace().rev().take(3).collect();
    assert_eq!(numbers, ["4", "4", "0"]);
    assert!(line.contains("▁▃") && line.contains("▅█"), "{line}");
    assert_eq!(chart::print(&Default::default(), PLAIN), "no series\n");
    let instant = tempopb::QueryInstantResponse {
        series: vec![InstantSeries {
            labels: vec![text("__name__", "rate")],
            value: 0.123_456_7,
        }],
        ..Default::default()
    };
    assert_eq!(
        chart::print_instant(&instant),
        "SERIES         VALUE\nrate        0.123457\n"
    );
}
