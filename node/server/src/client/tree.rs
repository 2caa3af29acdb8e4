//! A trace as a tree: who called whom, how long it took, and when within the trace.
//!
//! Parents before children, siblings by start. Spans whose parent is not there stand at the left like roots, marked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use wire::tempopb::Trace;
use wire::tempopb::common::v1::any_value::Value;
use wire::tempopb::trace::v1::{ResourceSpans, Span};

use super::{Screen, counted, time};

/// Columns of the timeline bar, at least and at most.
const BAR_MIN: usize = 20;
const BAR_MAX: usize = 60;
/// Deeper spans are drawn at this depth: beyond, the tree leaves no room for names.
const DEPTH_MAX: usize = 20;
const NAME_MAX: usize = 44;

struct Line<'a> {
    service: &'a str,
    /// The lines of the tree before the name.
    branch: String,
    span: &'a Span,
    is_orphan: bool,
}

/// The trace as text.
pub(super) fn print(trace: &Trace, screen: Screen) -> String {
    let spans: Vec<(&str, &Span)> = trace
        .resource_spans
        .iter()
        .flat_map(|resource| {
            let service = service_name(resource);
            let spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
            spans.map(move |span| (service, span))
        })
        .collect();
    let Some(start) = spans.iter().map(|(_, span)| span.start_time_unix_nano).min() else {
        return "an empty trace\n".to_owned();
    };
    let end = spans
        .iter()
        .map(|(_, span)| span.end_time_unix_nano)
        .max()
        .unwrap_or(start)
        .max(start);
    let lines = lines(&spans);
    let services: HashSet<&str> = spans.iter().map(|(service, _)| *service).collect();
    let id: String = spans.first().map_or(String::new(), |(_, span)| {
        span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect()
    });
    let mut out = format!(
        "trace {id}  {}  {}  {}  {}\n\n",
        counted(spans.len(), "span"),
        counted(services.len(), "service"),
        time::duration(end - start),
        time::instant(start)
    );
    let names: Vec<String> = lines.iter().map(name).collect();
    let service_width = lines
        .iter()
        .map(|line| width(line.service))
        .max()
        .unwrap_or(0)
        .clamp(7, 24);
    let name_width = names
        .iter()
        .map(|name| width(name))
        .max()
        .unwrap_or(0)
        .min(NAME_MAX + 2 * DEPTH_MAX);
    let took: Vec<String> = lines.iter().map(|line| time::duration(length(line.span))).collect();
    let took_width = took.iter().map(|took| width(took)).max().unwrap_or(0);
    let used = service_width + name_width + took_width + 6;
    let bar_width = screen.width.saturating_sub(used).clamp(BAR_MIN, BAR_MAX);
    for ((line, name), took) in lines.iter().zip(&names).zip(&took) {
        let bar = bar(line.span, start, end, bar_width);
        let is_error = line.span.status.as_ref().is_some_and(|status| status.code == 2);
        let (name, bar) = if is_error {
            (screen.red(&fit(name, name_width)), screen.red(&bar))
        } else {
            (fit(name, name_width), bar)
        };
        let text = format!(
            "{}  {name}  {took:>took_width$}  {bar}",
            fit(line.service, service_width)
        );
        let _ = writeln!(out, "{}", text.trim_end());
    }
    out
}

fn service_name(resource: &ResourceSpans) -> &str {
    let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
    let mut names = attributes.filter(|attribute| attribute.key == "service.name");
    match names.next().and_then(|name| name.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(name)) => name,
        _ => "?",
    }
}

fn length(span: &Span) -> u64 {
    span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)
}

fn lines<'a>(spans: &[(&'a str, &'a Span)]) -> Vec<Line<'a>> {
    let mut by_id: HashMap<&[u8], usize> = HashMap::new();
    for (at, (_, span)) in spans.iter().enumerate() {
        by_id.entry(&span.span_id).or_insert(at);
    }
    let mut children: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (at, (_, span)) in spans.iter().enumerate() {
        let parent = by_id.get(&span.parent_span_id[..]).copied();
        let parent = parent.filter(|parent| *parent != at && !span.parent_span_id.is_empty());
        children.entry(parent).or_default().push(at);
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|at| (spans[*at].1.start_time_unix_nano, &spans[*at].1.span_id));
    }
    let mut lines = Vec::with_capacity(spans.len());
    let mut seen = vec![false; spans.len()];
    let tops = children.get(&None).cloned().unwrap_or_default();
    // Spans that hang in a cycle hang below nothing: each that was not reached is begun with.
    for top in tops.into_iter().chain(0..spans.len()) {
        // Depth first, without recursion: a trace may be a chain of thousands.
        let mut stack = vec![(top, 0, true, String::new())];
        while let Some((at, depth, is_last, indent)) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let (service, span) = spans[at];
            let branch = match depth {
                0 => String::new(),
                _ => format!("{indent}{}", if is_last { "└ " } else { "├ " }),
            };
            lines.push(Line {
                service,
                branch,
                span,
                is_orphan: depth == 0 && !span.parent_span_id.is_empty(),
            });
            let deeper = match depth {
                0 => String::new(),
                _ if depth >= DEPTH_MAX => indent,
                _ => format!("{indent}{}", if is_last { "  " } else { "│ " }),
            };
            let below = children.get(&Some(at)).map_or(&[][..], Vec::as_slice);
            for (i, child) in below.iter().enumerate().rev() {
                stack.push((*child, depth + 1, i + 1 == below.len(), deeper.clone()));
            }
        }
    }
    lines
}

fn name(line: &Line<'_>) -> String {
    let mut name = clip(&line.span.name, NAME_MAX);
    if line.is_orphan {
        name.push_str(" (parent missing)");
    }
    format!("{}{name}", line.branch)
}

/// The span's part of the trace, in eighths of a column; never invisible.
fn bar(span: &Span, start: u64, end: u64, columns: usize) -> String {
    const LEFT: [char; 8] = ['█', '▉', '▊', '▋', '▌', '▍', '▎', '▏'];
    let whole = (end - start).max(1) as f64;
    let eighths = |unix_nanos: u64| {
        let part = unix_nanos.saturating_sub(start) as f64 / whole;
        ((part * (columns * 8) as f64).round() as usize).min(columns * 8)
    };
    let from = (eighths(span.start_time_unix_nano) / 8).min(columns - 1);
    let to = eighths(span.end_time_unix_nano).max(from * 8 + 1);
    let (full, rest) = ((to - from * 8) / 8, (to - from * 8) % 8);
    let mut bar = " ".repeat(from);
    bar.extend(std::iter::repeat_n('█', full));
    if rest > 0 {
        bar.push(LEFT[8 - rest]);
    }
    bar
}

/// Characters, which is what columns are for the names that occur.
pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}

/// At most `columns` characters of one line, with an ellipsis where something was cut.
pub(super) fn clip(text: &str, columns: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if width(&text) <= columns {
        return text;
    }
    let mut cut: String = text.chars().take(columns.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Exactly `columns` characters.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let text = clip(text, columns);
    let missing = columns - width(&text);
    text + &" ".repeat(missing)
}
