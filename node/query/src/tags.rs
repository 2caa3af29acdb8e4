//! Names and values to choose from while a query is written: what attributes there are, and what they are worth.
//!
//! Suggestions, so a superset is fine: conditions that need whole traces are taken as fulfilled. Collections keep the
//! smallest entries when they are full, so that they do not depend on the order of chunks, and say that they were cut.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use model::Scope;
use model::column::{DictView, Rows, Values, slice_at};

use crate::ast::Expr;
use crate::budget::{BATCH, Budget};
use crate::engine::context::Context;
use crate::engine::filter::{filter, present_rows};
use crate::engine::physical::{Meaning, Physical, value_at};
use crate::engine::read::{Group, intrinsic_column};
use crate::error::Result;
use crate::field::{Field, Intrinsic, Name};
use crate::limits;
use crate::predicate::{Predicate, attribute_columns};
use crate::rowset::RowSet;
use crate::source::{Chunk, ColumnRef, TimeRange};
use crate::value::{SpanKind, Static, Status};

/// Intrinsics that are offered by name, in the order clients list them.
pub const INTRINSIC_TAGS: [&str; 25] = [
    "duration",
    "event:name",
    "event:timeSinceStart",
    "instrumentation:name",
    "instrumentation:version",
    "kind",
    "link:spanID",
    "link:traceID",
    "name",
    "rootName",
    "rootServiceName",
    "span:duration",
    "span:id",
    "span:kind",
    "span:name",
    "span:parentID",
    "span:status",
    "span:statusMessage",
    "status",
    "statusMessage",
    "trace:duration",
    "trace:id",
    "trace:rootName",
    "trace:rootService",
    "traceDuration",
];

/// Which spans suggestions are drawn from.
#[derive(Clone, Debug)]
pub struct TagFilter {
    window: TimeRange,
    predicate: Predicate,
}

impl TagFilter {
    /// Spans that overlap `window` and may satisfy `filter` (from [`crate::parse_lenient`]).
    ///
    /// Errors: [`crate::Kind::Rejected`] for a pattern that does not compile.
    pub fn new(window: TimeRange, filter: Option<&Expr>) -> Result<TagFilter> {
        Ok(TagFilter {
            window,
            predicate: Predicate::compile(filter)?.relaxed(),
        })
    }

    /// False only if no span of the chunk is wanted. Reads no columns.
    pub fn may_match(&self, chunk: &dyn Chunk) -> bool {
        self.window.overlaps(&chunk.time_range()) && self.predicate.may_match(chunk)
    }

    /// The wanted rows; None for all.
    fn rows(&self, ctx: &Context<'_>) -> Result<Option<RowSet>> {
        let covered = self.window.covers(&ctx.chunk.time_range());
        if covered && matches!(self.predicate, Predicate::All) {
            return Ok(None);
        }
        let mut within = RowSet::full(ctx.rows);
        if !covered {
            let (starts, durations) = (ctx.starts()?, ctx.durations()?);
            within = RowSet::from_fn(ctx.rows, |row| {
                let start = starts.get(row as u32).cast_unsigned();
                let end = start.saturating_add(durations.get(row as u32).max(0).cast_unsigned());
                self.window.overlaps(&TimeRange {
                    start_unix_nanos: start,
                    end_unix_nanos: end,
                })
            });
        }
        filter(ctx, &self.predicate, &within).map(Some)
    }
}

/// Attribute names by scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagNames {
    scopes: BTreeMap<Scope, BTreeSet<Arc<str>>>,
    /// Most names per scope; 0: only bounded by [`limits::TAG_NAMES_MAX`].
    limit: usize,
    is_cut: bool,
}

impl TagNames {
    /// Keeps at most `limit` names per scope (0: [`limits::TAG_NAMES_MAX`]).
    pub fn new(limit: usize) -> TagNames {
        TagNames {
            limit,
            ..TagNames::default()
        }
    }

    /// The names of a scope, ascending.
    pub fn names(&self, scope: Scope) -> impl Iterator<Item = &str> {
        self.scopes.get(&scope).into_iter().flatten().map(|name| &**name)
    }

    /// Whether there were more.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    fn limit(&self) -> usize {
        if self.limit == 0 {
            limits::TAG_NAMES_MAX
        } else {
            self.limit.min(limits::TAG_NAMES_MAX)
        }
    }

    /// Whether adding this name would change nothing: it is there, or there is no room for it and that is known.
    fn is_settled(&self, scope: Scope, name: &str) -> bool {
        self.scopes.get(&scope).is_some_and(|names| {
            let is_beyond = || names.last().is_none_or(|last| &**last < name);
            names.contains(name) || (self.is_cut && names.len() >= self.limit() && is_beyond())
        })
    }

    /// Adds a name.
    pub fn add(&mut self, scope: Scope, name: &Arc<str>) {
        let limit = self.limit();
        let names = self.scopes.entry(scope).or_default();
        names.insert(name.clone());
        while names.len() > limit {
            names.pop_last();
            self.is_cut = true;
        }
    }

    /// Adds what another collection has.
    pub fn merge(&mut self, other: TagNames) {
        self.is_cut |= other.is_cut;
        for (scope, names) in other.scopes {
            names.iter().for_each(|name| self.add(scope, name));
        }
    }
}

/// Collects the attribute names of the wanted spans of one chunk.
///
/// `scopes` says which scopes are asked. With a filter every column of these scopes may be read.
pub fn collect_tag_names(
    wanted: &TagFilter,
    scopes: &[Scope],
    chunk: &dyn Chunk,
    into: &mut TagNames,
    budget: &Budget,
) -> Result<()> {
    let ctx = Context::new(chunk, budget);
    if ctx.rows == 0 || !wanted.may_match(chunk) {
        return Ok(());
    }
    let rows = wanted.rows(&ctx)?;
    if rows.as_ref().is_some_and(RowSet::is_empty) {
        return Ok(());
    }
    for scope in scopes {
        for key in chunk.attribute_keys(*scope)? {
            budget.check()?;
            if into.is_settled(*scope, &key) {
                continue;
            }
            let present = match &rows {
                None => true,
                Some(rows) => {
                    // Not through the context: it would keep every column of the chunk at once.
                    let columns = chunk.columns(&ColumnRef::Attribute(*scope, key.clone()))?;
                    let group = Group {
                        columns: columns.into(),
                        meaning: Meaning::Plain,
                        each: false,
                    };
                    let mut present = present_rows(ctx.rows, &group);
                    present.keep_common(rows);
                    !present.is_empty()
                }
            };
            if present {
                into.add(*scope, &key);
            }
        }
    }
    Ok(())
}

/// A suggested value with its type as Tempo names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagValue {
    /// `string`, `int`, `float`, `bool`, `duration` or `keyword`.
    pub kind: &'static str,
    /// Its text.
    pub text: String,
}

/// Values of one field.
///
/// What is added waits unsorted until there is about as much of it as there is sorted. Once the collection is full, the
/// first value that found no room is a ceiling: what is not below it is dropped after one comparison. Texts lie end to
/// end in one buffer: there may be tens of thousands, which come and go.
#[derive(Clone, Debug, Default)]
pub struct TagValues {
    texts: Vec<u8>,
    /// Ascending, each once.
    sorted: Vec<Entry>,
    waiting: Vec<Entry>,
    limit: usize,
    is_cut: bool,
    /// The smallest value that found no room.
    ceiling: Option<(u8, Box<[u8]>)>,
}

/// A value whose order mostly shows in two numbers.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The first bytes of the text.
    prefix: u64,
    /// Where the text lies.
    at: u32,
    len: u32,
    /// Place of the type among [`KINDS`].
    kind: u8,
}

impl Entry {
    fn text(self, texts: &[u8]) -> &[u8] {
        let start = self.at as usize;
        texts.get(start..start + self.len as usize).unwrap_or_default()
    }

    fn order(self, other: Entry, texts: &[u8]) -> Ordering {
        self.order_between(texts, &other, texts)
    }

    /// The same for entries whose texts lie in different buffers.
    #[inline]
    fn order_between(self, mine: &[u8], other: &Entry, theirs: &[u8]) -> Ordering {
        let first = (self.kind, self.prefix).cmp(&(other.kind, other.prefix));
        first.then_with(|| self.text(mine).cmp(other.text(theirs)))
    }
}

/// Entries that are kept, ascending, within the limits.
struct Kept {
    entries: Vec<Entry>,
    bytes: usize,
    limit: usize,
}

impl Kept {
    fn new(limit: usize, candidates: usize) -> Kept {
        Kept {
            entries: Vec::with_capacity(candidates),
            bytes: 0,
            limit,
        }
    }

    /// False if there is no room for it, nor for what comes after.
    fn push(&mut self, entry: Entry) -> bool {
        self.bytes += entry.len as usize;
        let is_full = self.bytes > limits::TAG_VALUES_BYTES_MAX || (self.limit > 0 && self.entries.len() >= self.limit);
        if !is_full {
            self.entries.push(entry);
        }
        !is_full
    }
}

/// The place of `string` in [`KINDS`].
const STRING: u8 = 5;
/// Types as Tempo names them, ascending.
const KINDS: [&str; 6] = ["bool", "duration", "float", "int", "keyword", "string"];

fn kind_number(kind: &str) -> u8 {
    KINDS.partition_point(|known| *known < kind) as u8
}

/// The first eight bytes as a number that sorts as they do; zeros where there are fewer.
fn prefix(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    let len = text.len().min(8);
    first[..len].copy_from_slice(&text[..len]);
    u64::from_be_bytes(first)
}

/// Values that wait to be sorted: no fewer than so many, unless somebody asks.
const SORTED_AT_ONCE: usize = 4096;

impl TagValues {
    /// Keeps at most `limit` values (0: any number) and at most [`limits::TAG_VALUES_BYTES_MAX`] of text.
    pub fn new(limit: usize) -> TagValues {
        TagValues {
            limit,
            ..TagValues::default()
        }
    }

    /// The values, by type and text.
    pub fn values(&mut self) -> impl Iterator<Item = TagValue> {
        self.sort();
        self.sorted.iter().map(|entry| TagValue {
            kind: KINDS.get(usize::from(entry.kind)).copied().unwrap_or_default(),
            text: String::from_utf8_lossy(entry.text(&self.texts)).into_owned(),
        })
    }

    /// Whether there were more.
    pub fn is_cut(&mut self) -> bool {
        self.sort();
        self.is_cut
    }

    /// Adds a value.
    pub fn add(&mut self, value: TagValue) {
        self.add_text(kind_number(value.kind), value.text.as_bytes());
    }

    fn add_text(&mut self, kind: u8, text: &[u8]) {
        let ceiling = self.ceiling.as_ref();
        if ceiling.is_some_and(|(known, highest)| (kind, text) >= (*known, highest)) {
            return;
        }
        let (Ok(at), Ok(len)) = (u32::try_from(self.texts.len()), u32::try_from(text.len())) else {
            return self.is_cut = true;
        };
        self.texts.extend_from_slice(text);
        self.waiting.push(Entry {
            prefix: prefix(text),
            at,
            len,
            kind,
        });
        // What was cut away or known already lies about until then.
        if self.waiting.len() > self.sorted.len().max(SORTED_AT_ONCE)
            || self.texts.len() > 4 * limits::TAG_VALUES_BYTES_MAX
        {
            self.sort();
        }
    }

    /// Adds what another collection has.
    pub fn merge(&mut self, mut other: TagValues) {
        other.sort();
        self.merge_sorted(&other);
    }

    /// The same if nothing waits there.
    fn merge_sorted(&mut self, other: &TagValues) {
        self.sort();
        self.is_cut |= other.is_cut;
        let mut news = other.sorted.as_slice();
        if let Some((kind, text)) = &self.ceiling {
            let is_below = |entry: &Entry| (entry.kind, entry.text(&other.texts)) < (*kind, &**text);
            news = &news[..news.partition_point(is_below)];
        }
        if news.is_empty() {
            return;
        }
        let mut kept = Kept::new(self.limit, self.sorted.len() + news.len());
        let (mut old, mut new) = (self.sorted.iter().peekable(), news.iter().peekable());
        loop {
            let first = match (old.peek(), new.peek()) {
                (Some(a), Some(b)) => a.order_between(&self.texts, b, &other.texts),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let entry = match first {
                Ordering::Less => old.next().copied(),
                Ordering::Equal => {
                    new.next();
                    continue;
                }
                Ordering::Greater => new.next().map(|entry| {
                    let at = self.texts.len() as u32;
                    self.texts.extend_from_slice(entry.text(&other.texts));
                    Entry { at, ..*entry }
                }),
            };
            let Some(entry) = entry else { break };
            if !kept.push(entry) {
                self.ceiling = Some((entry.kind, entry.text(&self.texts).into()));
                self.is_cut = true;
                break;
            }
        }
        self.sorted = kept.entries;
        if self.texts.len() > 2 * limits::TAG_VALUES_BYTES_MAX {
            self.tidy();
        }
    }

    /// Sorts what waits, and keeps no more memory than that takes.
    fn settle(&mut self) {
        self.sort();
        self.tidy();
        self.waiting = Vec::new();
        self.sorted.shrink_to_fit();
    }

    fn heap_bytes(&self) -> usize {
        self.texts.capacity() + (self.sorted.capacity() + self.waiting.capacity()) * size_of::<Entry>()
    }

    /// Sorts what waits into the rest, and cuts.
    fn sort(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let texts = &self.texts;
        self.waiting.sort_unstable_by(|a, b| a.order(*b, texts));
        let mut kept = Kept::new(self.limit, self.sorted.len() + self.waiting.len());
        let (mut old, mut new) = (self.sorted.iter().peekable(), self.waiting.iter().peekable());
        loop {
            let entry = match (old.peek(), new.peek()) {
                (Some(a), Some(b)) if a.order(**b, texts).is_le() => old.next(),
                (_, Some(_)) => new.next(),
                (_, None) => old.next(),
            };
            let Some(entry) = entry else { break };
            if kept
                .entries
                .last()
                .is_some_and(|last| last.order(*entry, texts).is_eq())
            {
                continue;
            }
            if !kept.push(*entry) {
                self.ceiling = Some((entry.kind, entry.text(texts).into()));
                self.is_cut = true;
                break;
            }
        }
        self.sorted = kept.entries;
        self.waiting.clear();
        if self.texts.len() > 2 * limits::TAG_VALUES_BYTES_MAX {
            self.tidy();
        }
    }

    /// Leaves out the texts of values that are not kept.
    fn tidy(&mut self) {
        let kept: usize = self.sorted.iter().map(|entry| entry.len as usize).sum();
        let mut texts = Vec::with_capacity(kept);
        for entry in &mut self.sorted {
            let text = entry.text(&self.texts);
            // Fits: it lies in a buffer whose length does.
            entry.at = texts.len() as u32;
            texts.extend_from_slice(text);
        }
        self.texts = texts;
    }

    /// Adds a text as a column has it.
    fn add_bytes(&mut self, text: &[u8]) {
        self.add_text(STRING, text);
    }

    fn add_static(&mut self, value: &Static) {
        let kind = match value {
            Static::Nil => return,
            // What a span without one reads as; nothing to choose.
            Static::Str(text) if text.is_empty() => return,
            Static::List(items) => return items.iter().for_each(|item| self.add_static(item)),
            Static::Int(_) => "int",
            Static::Float(_) => "float",
            Static::Str(_) => "string",
            Static::Bool(_) => "bool",
            Static::Duration(_) => "duration",
            Static::Status(_) | Static::Kind(_) => "keyword",
        };
        self.add(TagValue {
            kind,
            text: value.display(),
        });
    }
}

/// Collects the values a field has in the wanted spans of one chunk.
///
/// Status and kind have the same few values everywhere; durations and ids are not worth listing and give nothing.
/// An unscoped attribute gives the values of all scopes.
pub fn collect_tag_values(
    wanted: &TagFilter,
    field: &Field,
    chunk: &dyn Chunk,
    into: &mut TagValues,
    budget: &Budget,
) -> Result<()> {
    let ctx = Context::new(chunk, budget);
    if field.of_parent || ctx.rows == 0 || !wanted.may_match(chunk) {
        return Ok(());
    }
    let columns: Vec<(ColumnRef, Meaning)> = match &field.name {
        Name::Attribute(scope, key) => attribute_columns(*scope, key)
            .into_iter()
            .map(|(_, column)| (column, Meaning::Plain))
            .collect(),
        Name::Intrinsic(which, _) => match which {
            Intrinsic::Status | Intrinsic::Kind => {
                add_keywords(*which, into);
                return Ok(());
            }
            Intrinsic::RootName => return collect_roots(wanted, &ctx, &ColumnRef::Name, into),
            Intrinsic::RootService => {
                return collect_roots(wanted, &ctx, &crate::engine::context::service_column(), into);
            }
            Intrinsic::Name
            | Intrinsic::StatusMessage
            | Intrinsic::EventName
            | Intrinsic::InstrumentationName
            | Intrinsic::InstrumentationVersion => intrinsic_column(*which)
                .map(|(column, meaning, _)| (column, meaning))
                .into_iter()
                .collect(),
            _ => return Ok(()),
        },
    };
    let collect = |rows: Option<&RowSet>, into: &mut TagValues| {
        for (column, meaning) in &columns {
            let columns = ctx.columns(column)?;
            collect_columns(&ctx, &columns, *meaning, rows, into)?;
        }
        Ok(())
    };
    if let Some(rows) = wanted.rows(&ctx)? {
        return collect(Some(&rows), into);
    }
    // Of all spans the values are always the same: sorted once, then only merged.
    let name = format!("values of {field}");
    if let Some(known) = chunk.recall(&name)?.and_then(|note| note.downcast::<TagValues>().ok()) {
        into.merge_sorted(&known);
        return Ok(());
    }
    let mut own = TagValues::new(0);
    collect(None, &mut own)?;
    own.settle();
    into.merge_sorted(&own);
    let bytes = own.heap_bytes();
    chunk.remember(&name, Arc::new(own), bytes);
    Ok(())
}

/// Keywords of an enumeration, which need no data.
pub fn add_keywords(which: Intrinsic, into: &mut TagValues) {
    let words: Vec<&str> = match which {
        Intrinsic::Status => [Status::Error, Status::Ok, Status::Unset].map(Status::word).to_vec(),
        Intrinsic::Kind => SpanKind::ALL.map(SpanKind::word).to_vec(),
        _ => Vec::new(),
    };
    words.into_iter().for_each(|word| {
        into.add(TagValue {
            kind: "keyword",
            text: word.to_owned(),
        })
    });
}

/// Values at the roots of traces that have a wanted span.
fn collect_roots(wanted: &TagFilter, ctx: &Context<'_>, column: &ColumnRef, into: &mut TagValues) -> Result<()> {
    let mut roots = ctx.roots()?.clone();
    if let Some(rows) = wanted.rows(ctx)? {
        let traces = ctx.traces()?;
        let mut of_interest = RowSet::empty(traces.ids.len());
        rows.iter()
            .for_each(|row| of_interest.insert(traces.ordinals[row as usize]));
        roots.keep_common(&RowSet::from_values(traces.ordinals, |ordinal| {
            of_interest.contains(ordinal)
        }));
    }
    let columns = ctx.columns(column)?;
    collect_columns(ctx, &columns, Meaning::Plain, Some(&roots), into)
}

/// Distinct values at the rows; of a dictionary each used entry is looked at once.
fn collect_columns(
    ctx: &Context<'_>,
    columns: &Physical<'_>,
    meaning: Meaning,
    rows: Option<&RowSet>,
    into: &mut TagValues,
) -> Result<()> {
    for column in columns.iter() {
        let view = column.view();
        let is_wanted = |at: usize| {
            let row = match view.rows {
                Rows::All => at as u32,
                Rows::Sparse(rows) => rows[at],
            };
            rows.is_none_or(|rows| rows.contains(row))
        };
        let mut used_ids = match view.values {
            Values::Dict { dict, .. } => vec![false; dict.len()],
            _ => Vec::new(),
        };
        let mut seen_ints: HashSet<i64> = HashSet::new();
        for at in 0..view.values.len() {
            if at % BATCH == 0 {
                ctx.budget.check()?;
            }
            if !is_wanted(at) {
                continue;
            }
            match view.values {
                Values::Dict { ids, .. } => {
                    if let Some(used) = used_ids.get_mut(ids[at] as usize) {
                        *used = true;
                    }
                }
                Values::Int(values) if !seen_ints.insert(values[at]) => {}
                Values::Bytes { offsets, bytes } => {
                    let text = slice_at(offsets, bytes, at);
                    if !text.is_empty() {
                        into.add_bytes(text);
                    }
                }
                values => into.add_static(&value_at(&values, at, meaning)),
            }
        }
        if let Values::Dict { dict, .. } = view.values {
            for (id, _) in used_ids.iter().enumerate().filter(|(_, used)| **used) {
                if let DictView::Bytes { offsets, bytes } = &dict {
                    let text = slice_at(offsets, bytes, id);
                    if !text.is_empty() {
                        into.add_bytes(text);
                    }
                    continue;
                }
                into.add_static(&crate::engine::physical::dict_value(&dict, id, meaning));
            }
        }
    }
    Ok(())
}
