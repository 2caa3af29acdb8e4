//! Owned spans, and a small text form for them so that golden files can hold traces.

use model::{Scope, SpanId, TraceId, Value};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) since_start: i64,
    pub(crate) attributes: Vec<(String, Value)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) trace: u8,
    pub(crate) span: u8,
    pub(crate) attributes: Vec<(String, Value)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) trace: u8,
    pub(crate) id: u8,
    /// 0: root.
    pub(crate) parent: u8,
    pub(crate) start: u64,
    /// May be negative.
    pub(crate) duration: i64,
    pub(crate) name: String,
    pub(crate) kind: i64,
    pub(crate) status: i64,
    pub(crate) message: String,
    pub(crate) attributes: Vec<(String, Value)>,
    pub(crate) resource: Vec<(String, Value)>,
    pub(crate) library: (String, String),
    pub(crate) library_attributes: Vec<(String, Value)>,
    pub(crate) events: Vec<Event>,
    pub(crate) links: Vec<Link>,
}

impl Default for Span {
    fn default() -> Self {
        Span {
            trace: 1,
            id: 1,
            parent: 0,
            start: 1_000,
            duration: 100,
            name: "op".to_owned(),
            kind: 1,
            status: 0,
            message: String::new(),
            attributes: Vec::new(),
            resource: Vec::new(),
            library: (String::new(), String::new()),
            library_attributes: Vec::new(),
            events: Vec::new(),
            links: Vec::new(),
        }
    }
}

pub(crate) fn trace_id(n: u8) -> TraceId {
    let mut id = [0xa0; 16];
    id[15] = n;
    TraceId(id)
}

pub(crate) fn span_id(n: u8) -> SpanId {
    if n == 0 {
        return SpanId::default();
    }
    let mut id = [0; 8];
    id[0] = 0xb0;
    id[7] = n;
    SpanId(id)
}

impl Span {
    pub(crate) fn duration_nanos(&self) -> u64 {
        u64::try_from(self.duration).unwrap_or(0)
    }

    pub(crate) fn end(&self) -> u64 {
        self.start + self.duration_nanos()
    }

    /// All values of an attribute in one scope: one list per event or link, else at most one.
    pub(crate) fn in_scope(&self, scope: Scope, key: &str) -> Vec<&Value> {
        let find = |list: &'_ [(String, Value)]| list.iter().position(|(k, _)| k == key);
        match scope {
            Scope::Span => find(&self.attributes)
                .map(|i| &self.attributes[i].1)
                .into_iter()
                .collect(),
            Scope::Resource => find(&self.resource).map(|i| &self.resource[i].1).into_iter().collect(),
            Scope::Instrumentation => find(&self.library_attributes)
                .map(|i| &self.library_attributes[i].1)
                .into_iter()
                .collect(),
            Scope::Event => self
                .events
                .iter()
                .filter_map(|e| find(&e.attributes).map(|i| &e.attributes[i].1))
                .collect(),
            Scope::Link => self
                .links
                .iter()
                .filter_map(|l| find(&l.attributes).map(|i| &l.attributes[i].1))
                .collect(),
        }
    }
}

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
