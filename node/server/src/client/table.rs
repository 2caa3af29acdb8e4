//! Tables: traces of a search, names, values.

use std::fmt::Write as _;

use query::value::Static;
use wire::tempopb::common::v1::any_value::Value;
use wire::tempopb::common::v1::{AnyValue, KeyValue};
use wire::tempopb::{SearchResponse, SearchTagValuesV2Response, SearchTagsV2Response, Span};

use super::tree::{clip, fit, width};
use super::{Screen, counted, time};

/// Columns of one cell at most, but for the last.
const CELL_MAX: usize = 36;

/// Rows under a heading, each column as wide as its widest cell; the last column takes what is left of the line.
fn table(headings: &[&str], rows: &[Vec<String>], line: usize) -> String {
    let last = headings.len() - 1;
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(at, heading)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell));
            cells.chain([width(heading)]).max().unwrap_or(0).min(CELL_MAX)
        })
        .collect();
    let before: usize = widths[..last].iter().map(|width| width + 2).sum();
    let mut out = String::new();
    let mut row = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells
            .enumerate()
            .map(|(at, cell)| match at == last {
                true => clip(cell, line.saturating_sub(before).max(20)),
                false => fit(cell, widths[at]),
            })
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    };
    row(&mut headings.iter().copied());
    for cells in rows {
        row(&mut cells.iter().map(String::as_str));
    }
    out
}

/// One line per trace, and below it its found spans.
pub(super) fn print_search(found: &SearchResponse, screen: Screen) -> String {
    if found.traces.is_empty() {
        return "nothing found\n".to_owned();
    }
    let mut rows = Vec::new();
    for trace in &found.traces {
        let matched: u32 = trace.span_sets.iter().map(|set| set.matched).sum();
        rows.push(vec![
            trace.trace_id.clone(),
            time::instant(trace.start_time_unix_nano),
            match trace.duration_ms {
                0 => "<1ms".to_owned(),
                millis => time::duration(u64::from(millis) * 1_000_000),
            },
            matched.to_string(),
            trace.root_service_name.clone(),
            trace.root_trace_name.clone(),
        ]);
        for set in &trace.span_sets {
            let group = pairs(&set.attributes);
            if !group.is_empty() {
                rows.push(vec![
                    format!("  {group}"),
                    String::new(),
                    String::new(),
                    set.matched.to_string(),
                ]);
            }
            rows.extend(set.spans.iter().map(span_row));
        }
    }
    let headings = ["TRACE", "START", "DURATION", "SPANS", "SERVICE", "NAME"];
    let mut out = table(&headings, &rows, screen.width);
    if let Some(metrics) = &found.metrics {
        let _ = writeln!(
            out,
            "\n{}; looked at {} spans in {} of {} jobs, {} bytes read",
            counted(found.traces.len(), "trace"),
            metrics.inspected_spans,
            metrics.completed_jobs,
            metrics.total_jobs,
            metrics.inspected_bytes
        );
    }
    out
}

fn span_row(span: &Span) -> Vec<String> {
    vec![
        format!("  {}", span.span_id),
        time::instant(span.start_time_unix_nano),
        time::duration(span.duration_nanos),
        String::new(),
        clip(&span.name, CELL_MAX),
        pairs(&span.attributes),
    ]
}

/// `key=value key=value`
pub(super) fn pairs(attributes: &[KeyValue]) -> String {
    let pairs: Vec<String> = attributes
        .iter()
        .map(|pair| format!("{}={}", pair.key, pair.value.as_ref().map_or_else(String::new, text)))
        .collect();
    pairs.join(" ")
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        None => String::new(),
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => Static::Float(*value).display(),
        Some(Value::ArrayValue(items)) => format!("[{}]", items.values.iter().map(text).collect::<Vec<_>>().join(", ")),
        Some(Value::KvlistValue(pairs)) => format!("{{{}}}", self::pairs(&pairs.values)),
        Some(Value::BytesValue(bytes)) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

pub(super) fn print_tags(found: &SearchTagsV2Response) -> String {
    let mut out = String::new();
    for scope in &found.scopes {
        for tag in &scope.tags {
            let _ = match scope.name.as_str() {
                "intrinsic" => writeln!(out, "{tag}"),
                name => writeln!(out, "{name}.{tag}"),
            };
        }
    }
    out
}

pub(super) fn print_values(found: &SearchTagValuesV2Response) -> String {
    let rows: Vec<Vec<String>> = found
        .tag_values
        .iter()
        .map(|value| vec![value.r#type.clone(), value.value.clone()])
        .collect();
    if rows.is_empty() {
        return "no values\n".to_owned();
    }
    table(&["TYPE", "VALUE"], &rows, usize::MAX / 2)
}
