//! A small text form for spans, so that golden files can hold traces.

use model::Value;

use crate::spans::{Event, Link, Span};

/// Reads one line per span:
/// `trace.span<parent start+duration name key=value …` with `resource.k=v`, `span.k=v`, `event:name=v`, `event.k=v`
/// (of the last event), `link=trace.span`, `link.k=v`, `lib.k=v`, `lib:name=v`, `kind=server`, `status=error`,
/// `message=text`. Values are integers, floats, true/false, `[a;b]` lists, anything else text.
pub(crate) fn read_spans(text: &str) -> Vec<Span> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(read_span).collect()
}

fn read_span(line: &str) -> Span {
    let mut words = line.split_whitespace();
    let id = words.next().expect("a span has an id");
    let (own, parent) = id.split_once('<').unwrap_or((id, "0"));
    let (trace, span) = own.split_once('.').expect("trace.span");
    let time = words.next().expect("a span has a time");
    let (start, duration) = time.split_once('+').expect("start+duration");
    let mut out = Span {
        trace: trace.parse().unwrap(),
        id: span.parse().unwrap(),
        parent: parent.parse().unwrap(),
        start: start.parse().unwrap(),
        duration: duration.parse().unwrap(),
        name: words.next().expect("a span has a name").to_owned(),
        ..Span::default()
    };
    for word in words {
        let (key, text) = word.split_once('=').unwrap_or_else(|| panic!("key=value, not {word}"));
        let value = || read_value(text);
        match key {
            "kind" => {
                out.kind = query::value::SpanKind::from_word(text).expect("a kind") as i64;
            }
            "status" => out.status = query::value::Status::from_word(text).expect("a status") as i64,
            "message" => out.message = text.to_owned(),
            "lib:name" => out.library.0 = text.to_owned(),
            "lib:version" => out.library.1 = text.to_owned(),
            "event:name" => {
                let since_start = 10 * (out.events.len() as i64 + 1);
                out.events.push(Event {
                    name: text.to_owned(),
                    since_start,
                    attributes: Vec::new(),
                });
            }
            "link" => {
                let (trace, span) = text.split_once('.').expect("link=trace.span");
                let (trace, span) = (trace.parse().unwrap(), span.parse().unwrap());
                out.links.push(Link {
                    trace,
                    span,
                    attributes: Vec::new(),
                });
            }
            _ => {
                let (scope, name) = key.split_once('.').expect("scope.key");
                let list = match scope {
                    "span" => &mut out.attributes,
                    "resource" => &mut out.resource,
                    "lib" => &mut out.library_attributes,
                    "event" => &mut out.events.last_mut().expect("an event first").attributes,
                    "link" => &mut out.links.last_mut().expect("a link first").attributes,
                    other => panic!("no scope {other}"),
                };
                list.push((name.to_owned(), value()));
            }
        }
    }
    out
}

fn read_value(text: &str) -> Value {
    if let Some(items) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return Value::Array(items.split(';').filter(|t| !t.is_empty()).map(read_value).collect());
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => {
            if let Ok(v) = text.parse() {
                Value::Int(v)
            } else if let Ok(v) = text.parse() {
                Value::Double(v)
            } else {
                Value::String(text.to_owned())
            }
        }
    }
}
