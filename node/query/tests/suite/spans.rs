//! Owned spans. Their text form is in `span_text`.

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
