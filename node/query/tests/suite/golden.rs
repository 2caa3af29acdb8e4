//! Cases in text files under `testdata/`: input, `----`, what is expected, a blank line. `UPDATE_EXPECT=1` rewrites them.

use std::fmt::Write as _;
use std::path::PathBuf;

use query::answer::{TopTraces, TraceMatch};
use query::budget::Budget;
use query::source::TimeRange;
use query::value::Static;
use query::{Levels, SearchPlan, SearchRequest, SpanPick, pick_spans, search_chunk};

use crate::chunk::MemoryChunk;
use crate::span_text::read_spans;

/// Runs every case of a file through `answer` and compares. The part before a line of `====` is handed to every case.
pub(crate) fn check_file(name: &str, answer: impl Fn(&str, &str) -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (preamble, cases) = text.split_once("\n====\n").unwrap_or(("", &text));
    let mut rewritten = if preamble.is_empty() {
        String::new()
    } else {
        format!("{preamble}\n====\n")
    };
    let mut wrong = String::new();
    for block in cases
        .split("\n\n")
        .map(|block| block.trim_matches('\n'))
        .filter(|block| !block.is_empty())
    {
        let comments: Vec<&str> = block.lines().take_while(|line| line.starts_with('#')).collect();
        let body: Vec<&str> = block.lines().skip(comments.len()).collect();
        let body = body.join("\n");
        for comment in &comments {
            let _ = writeln!(rewritten, "{comment}");
        }
        if body.is_empty() {
            rewritten.push('\n');
            continue;
        }
        let (input, expected) = body.split_once("\n----").unwrap_or((&body, ""));
        let expected = expected.trim_matches('\n');
        let got = answer(preamble, input);
        let got = got.trim_matches('\n');
        if got != expected {
            let _ = writeln!(wrong, "input:\n{input}\nexpected:\n{expected}\ngot:\n{got}\n");
        }
        let _ = write!(rewritten, "{input}\n----\n{got}\n\n");
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, rewritten.trim_end().to_owned() + "\n").unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{name}:\n{wrong}");
}

fn parsed(text: &str) -> String {
    match query::parse(text) {
        Ok(query) => {
            let printed = query.to_string();
            assert_eq!(
                query::parse(&printed).as_ref().ok(),
                Some(&query),
                "{printed} reads back as another query"
            );
            printed
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn queries_that_parse() {
    check_file("parse.txt", |_, text| parsed(text));
}

#[test]
fn queries_that_do_not_parse() {
    check_file("parse_errors.txt", |_, text| parsed(text));
}

#[test]
fn queries_that_mean_nothing() {
    check_file("check_errors.txt", |_, text| parsed(text));
}

#[test]
fn unfinished_queries() {
    check_file("lenient.txt", |_, text| {
        query::parse_lenient(text).map_or("everything".to_owned(), |expr| expr.to_string())
    });
}

#[test]
fn plans() {
    check_file("plan.txt", |_, text| match query::parse(text) {
        Ok(query) => SearchPlan::new(&query, request()).unwrap().explain(),
        Err(error) => error.to_string(),
    });
}

fn request() -> SearchRequest {
    SearchRequest {
        window: TimeRange::ALWAYS,
        limit: 20,
        spans_per_spanset: 0,
        after: None,
    }
}

#[test]
fn searches() {
    check_file("search.txt", found);
}

#[test]
fn searches_of_rows() {
    check_file("rows.txt", found);
}

/// The answer from one chunk in either layout, which must agree.
fn found(data: &str, text: &str) -> String {
    let query = match query::parse(text) {
        Ok(query) => query,
        Err(error) => return error.to_string(),
    };
    let plan = SearchPlan::new(&query, request()).unwrap();
    let [arrival, preorder] = [MemoryChunk::arrival, MemoryChunk::preorder].map(|make| {
        let chunk = make(read_spans(data));
        if !plan.may_match(&chunk, false) {
            return "nothing (not read)".to_owned();
        }
        let finds = search_chunk(&plan, &chunk, &|_| false, None, &Budget::default()).unwrap();
        let mut top = TopTraces::new(20);
        finds.traces.into_iter().for_each(|found| {
            top.push(found);
        });
        describe(&top.into_vec())
    });
    assert_eq!(arrival, preorder, "{text}");
    arrival
}

/// Input: levels above, levels below, a filter. Answer: the spans that are shown, by trace.
#[test]
fn picks() {
    check_file("pick.txt", |data, text| {
        let mut words = text.splitn(3, ' ');
        let mut levels = || match words.next().unwrap() {
            "all" => Levels::All,
            number => Levels::UpTo(number.parse().unwrap()),
        };
        let (above, below) = (levels(), levels());
        let query = match query::parse(words.next().unwrap()) {
            Ok(query) => query,
            Err(error) => return error.to_string(),
        };
        let pick = match SpanPick::new(&query, above, below) {
            Ok(pick) => pick,
            Err(error) => return error.to_string(),
        };
        let spans = read_spans(data);
        let [arrival, preorder] = [MemoryChunk::arrival, MemoryChunk::preorder].map(|make| {
            let chunk = make(spans.clone());
            let rows = pick_spans(&pick, &chunk, &Budget::default()).unwrap();
            let mut shown: Vec<(u8, u8)> = rows.iter().map(|row| chunk.ids(*row)).collect();
            shown.sort_unstable();
            let shown: Vec<String> = shown.iter().map(|(trace, span)| format!("{trace}.{span}")).collect();
            if shown.is_empty() {
                "nothing".to_owned()
            } else {
                shown.join(" ")
            }
        });
        assert_eq!(arrival, preorder, "{text}");
        arrival
    });
}

/// One line per spanset: trace, its group and aggregate values, its spans with their attributes.
fn describe(traces: &[TraceMatch]) -> String {
    let mut out = String::new();
    for trace in traces {
        for set in &trace.spansets {
            let _ = write!(out, "{}:", trace.trace_id.0[15]);
            for (key, value) in &set.attributes {
                let _ = write!(out, " <{key}={}>", value.display());
            }
            for span in &set.spans {
                let _ = write!(out, " {}", span.span_id.0[7]);
                let attributes: Vec<String> = span
                    .attributes
                    .iter()
                    .map(|(k, v)| format!("{k}={}", show(v)))
                    .collect();
                if !attributes.is_empty() {
                    let _ = write!(out, "({})", attributes.join(" "));
                }
            }
            out.push('\n');
        }
    }
    if out.is_empty() { "nothing".to_owned() } else { out }
}

fn show(value: &Static) -> String {
    value.display()
}
