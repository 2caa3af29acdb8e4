//! Tag names and values, over the traces of a golden file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use model::Scope;
use model::column::ColumnCow;
use proptest::prelude::*;
use query::budget::Budget;
use query::field::{PRECEDENCE, scope_word};
use query::source::{Chunk, ColumnRef, Note, TimeRange, TraceRows};
use query::tags::{INTRINSIC_TAGS, TagFilter, TagNames, TagValue, TagValues, collect_tag_names, collect_tag_values};

use crate::chunk::MemoryChunk;
use crate::golden::check_file;
use crate::span_text::read_spans;
use crate::spans::Span;
use crate::{equivalence, naive, random};

fn filter(text: &str, window: TimeRange) -> TagFilter {
    TagFilter::new(window, query::parse_lenient(text).as_ref()).unwrap()
}

fn names(wanted: &TagFilter, chunks: &[Vec<Span>]) -> TagNames {
    let mut names = TagNames::new(0);
    for spans in chunks {
        let mut part = TagNames::new(0);
        let chunk = MemoryChunk::preorder(spans.clone());
        collect_tag_names(wanted, &PRECEDENCE, &chunk, &mut part, &Budget::default()).unwrap();
        names.merge(part);
    }
    names
}

fn values(wanted: &TagFilter, field: &str, chunks: &[Vec<Span>]) -> Vec<TagValue> {
    let field = query::parse_field(field).unwrap();
    let mut values = TagValues::new(0);
    for spans in chunks {
        let mut part = TagValues::new(0);
        let chunk = MemoryChunk::preorder(spans.clone());
        collect_tag_values(wanted, &field, &chunk, &mut part, &Budget::default()).unwrap();
        values.merge(part);
    }
    values.values().collect()
}

/// Keeps notes, and counts how often a column was asked for.
struct Remembering {
    chunk: MemoryChunk,
    notes: Mutex<HashMap<String, Note>>,
    reads: AtomicUsize,
}

impl Chunk for Remembering {
    fn row_count(&self) -> usize {
        self.chunk.row_count()
    }

    fn time_range(&self) -> TimeRange {
        self.chunk.time_range()
    }

    fn traces(&self) -> query::Result<TraceRows<'_>> {
        self.chunk.traces()
    }

    fn columns(&self, column: &ColumnRef) -> query::Result<Vec<ColumnCow<'_>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.chunk.columns(column)
    }

    fn recall(&self, name: &str) -> query::Result<Option<Note>> {
        Ok(self.notes.lock().unwrap().get(name).cloned())
    }

    fn remember(&self, name: &str, note: Note, _: usize) {
        self.notes.lock().unwrap().insert(name.to_owned(), note);
    }

    fn attribute_keys(&self, scope: Scope) -> query::Result<Vec<Arc<str>>> {
        self.chunk.attribute_keys(scope)
    }
}

#[test]
fn values_of_all_spans_are_read_once() {
    let span = |id: u8, x: i64| Span {
        id,
        attributes: vec![("x".to_owned(), model::Value::Int(x))],
        ..Span::default()
    };
    let chunk = Remembering {
        chunk: MemoryChunk::preorder(vec![span(1, 5), span(2, 3), span(3, 5)]),
        notes: Mutex::default(),
        reads: AtomicUsize::new(0),
    };
    let ask = |query: &str, field: &str, limit: usize| {
        let mut values = TagValues::new(limit);
        let field = query::parse_field(field).unwrap();
        let wanted = filter(query, TimeRange::ALWAYS);
        collect_tag_values(&wanted, &field, &chunk, &mut values, &Budget::default()).unwrap();
        let texts: Vec<String> = values.values().map(|value| value.text).collect();
        (
            texts.join(" "),
            values.is_cut(),
            chunk.reads.swap(0, Ordering::Relaxed) > 0,
        )
    };
    assert_eq!(ask("{}", "span.x", 0), ("3 5".to_owned(), false, true));
    assert_eq!(ask("{}", "span.x", 0), ("3 5".to_owned(), false, false));
    assert_eq!(ask("{}", "span.x", 1), ("3".to_owned(), true, false));
    // Of some spans, and of another field, nothing is known.
    assert_eq!(ask("{ span.x > 4 }", "span.x", 0), ("5".to_owned(), false, true));
    assert_eq!(ask("{}", ".x", 0), ("3 5".to_owned(), false, true));
    assert_eq!(ask("{}", "span.x", 0), ("3 5".to_owned(), false, false));
}

/// Input: `names` or a field, and a query that may be unfinished.
#[test]
fn suggestions() {
    check_file("tags.txt", |data, text| {
        let (what, query) = text.split_once(' ').unwrap_or((text, ""));
        let wanted = filter(query, TimeRange::ALWAYS);
        let chunks = [read_spans(data)];
        if what == "names" {
            let names = names(&wanted, &chunks);
            let lines = PRECEDENCE.map(|scope| {
                let names: Vec<&str> = names.names(scope).collect();
                format!("{}: {}", scope_word(scope), names.join(" "))
                    .trim_end()
                    .to_owned()
            });
            return lines.join("\n");
        }
        if let Err(error) = query::parse_field(what) {
            return error.to_string();
        }
        let values: Vec<String> = values(&wanted, what, &chunks)
            .iter()
            .map(|v| format!("{}:{}", v.kind, v.text))
            .collect();
        if values.is_empty() {
            "nothing".to_owned()
        } else {
            values.join(" ")
        }
    });
}

#[test]
fn every_offered_intrinsic_is_a_field() {
    for tag in INTRINSIC_TAGS {
        assert_eq!(query::parse_field(tag).map(|field| field.to_string()).unwrap(), tag);
    }
}

#[test]
fn collections_are_bounded_and_say_so() {
    let mut names = TagNames::new(2);
    for name in ["c", "a", "b"] {
        names.add(Scope::Span, &name.into());
        names.add(Scope::Resource, &"x".into());
        assert_eq!(names.is_cut(), name == "b");
    }
    assert_eq!(names.names(Scope::Span).collect::<Vec<_>>(), ["a", "b"]);
    let value = |text: &str| TagValue {
        kind: "string",
        text: text.to_owned(),
    };
    let mut values = TagValues::new(2);
    ["c", "a", "c", "b"]
        .into_iter()
        .for_each(|text| values.add(value(text)));
    assert!(values.is_cut());
    assert_eq!(values.values().collect::<Vec<_>>(), [value("a"), value("b")]);
    let mut values = TagValues::new(0);
    let long = "x".repeat(query::limits::TAG_VALUES_BYTES_MAX - 1);
    values.add(value(&long));
    values.add(value("a"));
    assert!(!values.is_cut());
    values.add(value("b"));
    assert!(values.is_cut());
    assert_eq!(values.values().collect::<Vec<_>>(), [value("a"), value("b")]);
}

proptest! {
    /// Whatever order values come in and however they are divided: the smallest that fit.
    #[test]
    fn collections_keep_the_smallest_values(
        texts in proptest::collection::vec("[a-c]{1,3}", 0..60),
        limit in 0..12usize,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut collected = TagValues::new(limit);
        for part in [&texts[..cut.index(texts.len() + 1)], &texts[cut.index(texts.len() + 1)..]] {
            let mut values = TagValues::new(limit);
            for text in part {
                values.add(TagValue { kind: "string", text: text.clone() });
                // Sorts, so that later ones meet a ceiling.
                values.is_cut();
            }
            collected.merge(values);
        }
        let mut expected = texts;
        expected.sort();
        expected.dedup();
        let kept = if limit == 0 { expected.len() } else { limit.min(expected.len()) };
        prop_assert_eq!(collected.is_cut(), kept < expected.len());
        prop_assert!(collected.values().map(|value| value.text).eq(expected[..kept].iter().cloned()));
    }

    /// Without conditions on whole traces, suggestions are exact.
    #[test]
    fn values_are_those_of_the_spans_that_match(
        spans in random::any_spans(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..3),
        field in proptest::sample::select(vec!["span.x", "resource.yy", "event.x", "link.yy", "instrumentation.x", "name"]),
        condition in proptest::sample::select(vec!["{ }", "{ kind = server }", "{ span.x > 0 && name = ", "{ event.x != nil }"]),
    ) {
        let wanted = filter(condition, TimeRange::ALWAYS);
        let got = values(&wanted, field, &equivalence::cut(&spans, &cuts));
        let parsed = query::parse_field(field).unwrap();
        let mut expected = TagValues::new(0);
        for trace in naive::traces(&spans) {
            for at in 0..trace.spans.len() {
                let keep = query::parse_lenient(condition)
                    .is_none_or(|expr| trace.value(&expr, at).0.contains(&query::value::Static::Bool(true)));
                if keep {
                    for value in trace.field(&parsed, at).0 {
                        let kind = match value {
                            query::value::Static::Int(_) => "int",
                            query::value::Static::Float(_) => "float",
                            query::value::Static::Bool(_) => "bool",
                            _ => "string",
                        };
                        expected.add(TagValue { kind, text: value.display() });
                    }
                }
            }
        }
        prop_assert_eq!(got, expected.values().collect::<Vec<_>>());
    }
}
