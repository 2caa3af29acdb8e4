//! What a search finds, as plain data: traces with their spansets, and how such finds merge.
//!
//! The door (`server`) turns these into Tempo's JSON and protobuf. Everything here is whole and owned, so that it can
//! travel between nodes.
//!
//! What always holds: spansets of a trace are in the order of their group values; spans of a spanset are by start, then
//! span id, and at most as many as were asked for; `matched` counts them before that cut.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use model::{SpanId, TraceId};

use crate::value::Static;

/// One found trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceMatch {
    /// Its id.
    pub trace_id: TraceId,
    /// First start of its spans.
    pub start_unix_nanos: u64,
    /// Last end minus first start.
    pub duration_nanos: u64,
    /// The span without a parent; None while it has not arrived.
    pub root: Option<Root>,
    /// Found spans, by group.
    pub spansets: Vec<SpansetMatch>,
    /// Counts over all spans of the trace, by `service.name` (empty text where there is none).
    pub services: BTreeMap<String, ServiceStats>,
}

/// Name and service of a trace's root span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its `service.name`; empty when it has none.
    pub service: String,
    /// Its name.
    pub name: String,
}

/// Counts over the spans of one service in one trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Spans.
    pub span_count: u32,
    /// Spans with status error.
    pub error_count: u32,
}

/// One spanset of a found trace.
#[derive(Clone, Debug, PartialEq)]
pub struct SpansetMatch {
    /// Spans in it before the cut to spans-per-spanset.
    pub matched: u32,
    /// The first of them.
    pub spans: Vec<SpanMatch>,
    /// Values of `by(...)` and of aggregates, labelled as written.
    pub attributes: Vec<(String, Static)>,
}

/// One found span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanMatch {
    /// Its id.
    pub span_id: SpanId,
    /// Its name.
    pub name: String,
    /// Its start.
    pub start_unix_nanos: u64,
    /// End minus start.
    pub duration_nanos: u64,
    /// What the query mentions or selects and the span has.
    pub attributes: Vec<(String, Static)>,
}

/// Place of a trace in the order of answers: newest first, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(Reverse<u64>, TraceId);

impl Place {
    /// The place of a trace that starts then.
    pub fn new(start_unix_nanos: u64, trace_id: TraceId) -> Place {
        Place(Reverse(start_unix_nanos), trace_id)
    }

    /// The trace at this place.
    pub fn trace_id(&self) -> TraceId {
        self.1
    }

    /// When the trace at this place starts.
    pub fn start_unix_nanos(&self) -> u64 {
        self.0.0
    }
}

impl TraceMatch {
    /// Its place in the order of answers.
    pub fn place(&self) -> Place {
        Place::new(self.start_unix_nanos, self.trace_id)
    }

    /// Approximate bytes it holds, for budgets.
    pub fn held_bytes(&self) -> usize {
        let span_bytes = |span: &SpanMatch| 64 + span.name.len() + span.attributes.len() * 64;
        let set_bytes = |set: &SpansetMatch| 64 + set.spans.iter().map(span_bytes).sum::<usize>();
        128 + self.spansets.iter().map(set_bytes).sum::<usize>() + self.services.len() * 48
    }

    /// Takes in another find of the same trace, made from other spans of it: earliest start, longest duration, known root
    /// wins, larger counts per service, and per group the spanset that matched more.
    ///
    /// Only for sources that cannot be joined (a remote store, an unreachable shard); traces known to be split are loaded
    /// whole and evaluated once instead.
    pub fn absorb(&mut self, other: TraceMatch) {
        self.start_unix_nanos = self.start_unix_nanos.min(other.start_unix_nanos);
        self.duration_nanos = self.duration_nanos.max(other.duration_nanos);
        if self.root.is_none() {
            self.root = other.root;
        }
        for (service, stats) in other.services {
            let mine = self.services.entry(service).or_default();
            mine.span_count = mine.span_count.max(stats.span_count);
            mine.error_count = mine.error_count.max(stats.error_count);
        }
        for set in other.spansets {
            match self.spansets.iter_mut().find(|mine| same_group(mine, &set)) {
                Some(mine) if mine.matched < set.matched => *mine = set,
                Some(_) => {}
                None => self.spansets.push(set),
            }
        }
    }
}

/// Whether two spansets are the same `by(...)` group; values of aggregates differ between parts and do not count.
fn same_group(a: &SpansetMatch, b: &SpansetMatch) -> bool {
    let groups = |set: &SpansetMatch| -> Vec<(String, Static)> {
        set.attributes
            .iter()
            .filter(|(label, _)| label.starts_with("by("))
            .cloned()
            .collect()
    };
    groups(a) == groups(b)
}

/// The newest traces of a search, merged from any number of chunks in any order.
///
/// As long as each trace is pushed once, the result does not depend on the order of [`TopTraces::push`].
#[derive(Clone, Debug)]
pub struct TopTraces {
    limit: usize,
    by_place: BTreeMap<Place, TraceMatch>,
    places: BTreeMap<TraceId, Place>,
    held_bytes: usize,
}

impl TopTraces {
    /// Keeps the `limit` newest.
    pub fn new(limit: usize) -> TopTraces {
        TopTraces {
            limit,
            by_place: BTreeMap::new(),
            places: BTreeMap::new(),
            held_bytes: 0,
        }
    }

    /// Takes in one find. Returns whether it is among the newest now.
    pub fn push(&mut self, found: TraceMatch) -> bool {
        let mut found = found;
        if let Some(place) = self.places.remove(&found.trace_id)
            && let Some(mut known) = self.by_place.remove(&place)
        {
            self.held_bytes -= known.held_bytes();
            known.absorb(found);
            found = known;
        }
        let (trace_id, place) = (found.trace_id, found.place());
        self.places.insert(trace_id, place);
        self.held_bytes += found.held_bytes();
        self.by_place.insert(place, found);
        while self.by_place.len() > self.limit {
            if let Some((_, dropped)) = self.by_place.pop_last() {
                self.held_bytes -= dropped.held_bytes();
                self.places.remove(&dropped.trace_id);
            }
        }
        self.places.contains_key(&trace_id)
    }

    /// The last place that still counts, once there are enough: a trace whose place is behind it need not be looked at.
    pub fn floor(&self) -> Option<Place> {
        if self.by_place.len() < self.limit {
            return None;
        }
        self.by_place.last_key_value().map(|(place, _)| *place)
    }

    /// Approximate bytes of the traces held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Number of traces held.
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// The traces held, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &TraceMatch> {
        self.by_place.values()
    }

    /// The traces, newest first.
    pub fn into_vec(self) -> Vec<TraceMatch> {
        self.by_place.into_values().collect()
    }
}
