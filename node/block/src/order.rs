//! Where each row goes: traces by id, spans of a trace in depth-first preorder, row groups of whole traces.
//!
//! Pure: rows in, a [`Layout`] out. Preorder makes structure arithmetic: the subtree of row `r` is the `desc` rows after
//! it, and its parent is `pdelta` rows before it. A parent link is only stored as a distance when following it back gives
//! the very id the span named, so every link comes back: spans that name themselves, ids that occur twice, links in a
//! circle, and parents that never arrived all fall back to the explicit id.
//!
//! Siblings are ordered by start, then span id, so that the same spans give the same order wherever they come from.

#[cfg(test)]
mod tests;

use model::TraceId;

use crate::format::{ROW_GROUP_ROWS, ROW_GROUP_TEXT_BYTES, TRACE_ROWS_MAX};
use crate::rows::RowsView;

/// Stands for "no row".
pub(crate) const NONE: u32 = u32::MAX;

/// One trace of the batch, in id order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TraceSlot {
    pub id: TraceId,
    /// Position of its first row.
    pub start: u32,
    /// One past its last row.
    pub end: u32,
    /// Earliest start of its spans.
    pub min_start: u64,
    /// Position of its root: the earliest span without a parent id. [`NONE`] while none is known.
    pub root: u32,
}

/// One row group of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// Position of its first row.
    pub start: u32,
    /// One past its last row.
    pub end: u32,
    /// Index of its first trace in [`Layout::traces`].
    pub first_trace: u32,
    /// One past the index of its last trace.
    pub end_trace: u32,
}

/// The order of a batch of rows.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// Per source row (sources one after the other): its position, [`NONE`] for a dropped duplicate.
    pub position: Vec<u32>,
    /// Per position: rows of the subtree below.
    pub desc: Vec<u32>,
    /// Per position: distance up to the parent, 0 for none.
    pub pdelta: Vec<u32>,
    pub traces: Vec<TraceSlot>,
    pub groups: Vec<Group>,
}

impl Layout {
    /// Rows laid out.
    pub(crate) fn rows(&self) -> usize {
        self.desc.len()
    }

    /// Takes the last row group out again when it is less than half full and another stands before it, and answers its
    /// first trace: these rows will fill up with what comes next. A piece of a trace that was cut stays.
    pub(crate) fn put_back_small_group(&mut self) -> Option<TraceId> {
        let [.., before, last] = self.groups.as_slice() else {
            return None;
        };
        if last.end - last.start > ROW_GROUP_ROWS / 2 || before.end_trace > last.first_trace {
            return None;
        }
        let (start, first_trace) = (last.start, last.first_trace as usize);
        let id = self.traces[first_trace].id;
        self.groups.pop();
        self.traces.truncate(first_trace);
        self.desc.truncate(start as usize);
        self.pdelta.truncate(start as usize);
        for position in &mut self.position {
            if *position >= start {
                *position = NONE;
            }
        }
        Some(id)
    }
}

/// Whether exactly equal spans are kept or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    Keep,
    Drop,
}

struct Node {
    start: u64,
    id: u64,
    parent: u64,
    row: u32,
}

#[derive(Default)]
struct Scratch {
    nodes: Vec<Node>,
    by_id: Vec<(u64, u32)>,
    parent_of: Vec<u32>,
    first_child: Vec<u32>,
    next_sibling: Vec<u32>,
    place: Vec<u32>,
}

/// Lays out all rows of `sources`.
pub(crate) fn lay_out(sources: &[RowsView<'_>], duplicates: Duplicates) -> Layout {
    let total: usize = sources.iter().map(RowsView::len).sum();
    let (ids, ranks) = rank_traces(sources);
    let (buckets, bounds) = bucket_rows(sources, &ranks, ids.len(), total);

    let mut layout = Layout {
        position: vec![NONE; total],
        desc: Vec::with_capacity(total),
        pdelta: Vec::with_capacity(total),
        traces: Vec::with_capacity(ids.len()),
        groups: Vec::new(),
    };
    let bases = bases(sources);
    let mut scratch = Scratch::default();
    for (t, id) in ids.iter().enumerate() {
        let rows = &buckets[bounds[t] as usize..bounds[t + 1] as usize];
        if rows.is_empty() {
            continue;
        }
        gather(sources, &bases, rows, &mut scratch.nodes);
        if duplicates == Duplicates::Drop {
            drop_equal(sources, &bases, &mut scratch.nodes);
        }
        place_trace(*id, &mut scratch, &mut layout);
    }
    fill_groups(sources, &mut layout);
    layout
}

/// First global row of each source.
pub(crate) fn bases(sources: &[RowsView<'_>]) -> Vec<u32> {
    sources
        .iter()
        .scan(0u32, |next, s| {
            let base = *next;
            *next += s.len() as u32;
            Some(base)
        })
        .collect()
}

/// All distinct trace ids ascending, and per source the rank of each of its traces.
fn rank_traces(sources: &[RowsView<'_>]) -> (Vec<TraceId>, Vec<Vec<u32>>) {
    let mut all: Vec<(u128, u32, u32)> = Vec::with_capacity(sources.iter().map(|s| s.traces.len()).sum());
    for (s, source) in sources.iter().enumerate() {
        all.extend(
            source
                .traces
                .iter()
                .enumerate()
                .map(|(t, id)| (id.to_u128(), s as u32, t as u32)),
        );
    }
    all.sort_unstable();
    let mut ids: Vec<TraceId> = Vec::with_capacity(all.len());
    let mut ranks: Vec<Vec<u32>> = sources.iter().map(|s| vec![0; s.traces.len()]).collect();
    let mut last = None;
    for (id, s, t) in all {
        if last != Some(id) {
            ids.push(TraceId(id.to_be_bytes()));
            last = Some(id);
        }
        ranks[s as usize][t as usize] = ids.len() as u32 - 1;
    }
    (ids, ranks)
}

/// Global rows grouped by trace rank.
fn bucket_rows(sources: &[RowsView<'_>], ranks: &[Vec<u32>], traces: usize, total: usize) -> (Vec<u32>, Vec<u32>) {
    let mut bounds = vec![0u32; traces + 1];
    for (source, rank) in sources.iter().zip(ranks) {
        for t in source.trace {
            bounds[rank[*t as usize] as usize + 1] += 1;
        }
    }
    for i in 0..traces {
        bounds[i + 1] += bounds[i];
    }
    let mut next = bounds.clone();
    let mut buckets = vec![0u32; total];
    let mut row = 0u32;
    for (source, rank) in sources.iter().zip(ranks) {
        for t in source.trace {
            let at = &mut next[rank[*t as usize] as usize];
            buckets[*at as usize] = row;
            *at += 1;
            row += 1;
        }
    }
    (buckets, bounds)
}

/// Splits a global row into source and local row.
fn locate(bases: &[u32], row: u32) -> (usize, usize) {
    if bases.len() == 1 {
        return (0, row as usize);
    }
    let s = bases.partition_point(|b| *b <= row) - 1;
    // Empty sources share a base with their successor; the last of them is the one that holds rows.
    (s, (row - bases[s]) as usize)
}

fn gather(sources: &[RowsView<'_>], bases: &[u32], rows: &[u32], nodes: &mut Vec<Node>) {
    nodes.clear();
    nodes.extend(rows.iter().map(|&row| {
        let (s, at) = locate(bases, row);
        let source = &sources[s];
        Node {
            start: source.start[at],
            id: u64::from_be_bytes(source.span_id[at]),
            parent: u64::from_be_bytes(source.parent_span_id[at]),
            row,
        }
    }));
    nodes.sort_unstable_by_key(|n| (n.start, n.id, n.row));
}

/// Drops every span that equals an earlier one in all it says. Only spans of one id and start are compared.
fn drop_equal(sources: &[RowsView<'_>], bases: &[u32], nodes: &mut Vec<Node>) {
    if nodes.windows(2).all(|w| (w[0].start, w[0].id) != (w[1].start, w[1].id)) {
        return;
    }
    let canonical = |row: u32| {
        let (s, at) = locate(bases, row);
        let mut bytes = Vec::new();
        sources[s].canonical(at as u32, &mut bytes);
        bytes
    };
    let mut kept: Vec<Node> = Vec::with_capacity(nodes.len());
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut key = None;
    for node in nodes.drain(..) {
        if key != Some((node.start, node.id)) {
            key = Some((node.start, node.id));
            seen.clear();
        }
        let bytes = canonical(node.row);
        if !seen.contains(&bytes) {
            seen.push(bytes);
            kept.push(node);
        }
    }
    *nodes = kept;
}

/// Orders one trace's spans and appends them to the layout.
fn place_trace(id: TraceId, scratch: &mut Scratch, layout: &mut Layout) {
    let base = layout.desc.len() as u32;
    link(scratch);
    let n = scratch.nodes.len();
    if place_trees(base, scratch, layout) < n {
        // What no root or orphan leads to hangs in circles. Each is opened at its earliest span, which then is an orphan
        // like any other and takes its place among them.
        open_circles(scratch);
        layout.desc.truncate(base as usize);
        layout.pdelta.truncate(base as usize);
        let placed = place_trees(base, scratch, layout);
        debug_assert_eq!(placed, n, "every circle was opened");
    }
    let Scratch { nodes, place, .. } = scratch;
    for at in (0..n).rev() {
        let here = base as usize + at;
        let up = layout.pdelta[here] as usize;
        if up > 0 {
            layout.desc[here - up] += layout.desc[here] + 1;
        }
    }
    // Nodes are sorted by start, so the first without a parent is the root.
    let root = nodes
        .iter()
        .position(|node| node.parent == 0)
        .map_or(NONE, |i| base + place[i]);
    layout.traces.push(TraceSlot {
        id,
        start: base,
        end: base + n as u32,
        min_start: nodes.first().map_or(0, |node| node.start),
        root,
    });
}

/// Places every span that a root or orphan leads to, in preorder, and answers how many.
fn place_trees(base: u32, scratch: &mut Scratch, layout: &mut Layout) -> usize {
    let Scratch {
        nodes,
        parent_of,
        first_child,
        next_sibling,
        place,
        ..
    } = scratch;
    place.clear();
    place.resize(nodes.len(), NONE);
    let mut out = 0u32;
    for top in 0..nodes.len() {
        if parent_of[top] != NONE {
            continue;
        }
        let mut at = top as u32;
        loop {
            place[at as usize] = out;
            let parent = parent_of[at as usize];
            let distance = if parent == NONE {
                0
            } else {
                out - place[parent as usize]
            };
            layout.position[nodes[at as usize].row as usize] = base + out;
            layout.pdelta.push(distance);
            layout.desc.push(0);
            out += 1;
            match descend(at, top as u32, first_child, next_sibling, parent_of, place) {
                Some(next) => at = next,
                None => break,
            }
        }
    }
    out as usize
}

/// Cuts the parent link of the earliest span of every circle. Expects [`place_trees`] to have placed the rest.
fn open_circles(scratch: &mut Scratch) {
    let Scratch {
        parent_of,
        first_child,
        next_sibling,
        place,
        ..
    } = scratch;
    let mut walked_for = vec![NONE; place.len()];
    for from in 0..place.len() as u32 {
        if place[from as usize] != NONE {
            continue;
        }
        // Upwards from any span that no root leads to, one ends up in a circle; the span need not be in it itself.
        let mut at = from;
        while walked_for[at as usize] != from {
            walked_for[at as usize] = from;
            at = parent_of[at as usize];
        }
        let (entry, mut top) = (at, at);
        loop {
            at = parent_of[at as usize];
            if at == entry {
                break;
            }
            top = top.min(at);
        }
        parent_of[top as usize] = NONE;
        at = top;
        loop {
            place[at as usize] = 0;
            match descend(at, top, first_child, next_sibling, parent_of, place) {
                Some(next) => at = next,
                None => break,
            }
        }
    }
}

/// The next span in preorder after `at` inside the tree of `top`, skipping what was placed already.
fn descend(
    at: u32,
    top: u32,
    first_child: &[u32],
    next_sibling: &[u32],
    parent_of: &[u32],
    place: &[u32],
) -> Option<u32> {
    let mut next = first_child[at as usize];
    let mut up = at;
    loop {
        while next != NONE {
            if place[next as usize] == NONE {
                return Some(next);
            }
            next = next_sibling[next as usize];
        }
        if up == top {
            return None;
        }
        next = next_sibling[up as usize];
        up = parent_of[up as usize];
    }
}

/// Finds every span's parent among the trace's spans and threads the children of each parent in order.
fn link(scratch: &mut Scratch) {
    let Scratch {
        nodes,
        by_id,
        parent_of,
        first_child,
        next_sibling,
        ..
    } = scratch;
    let n = nodes.len();
    by_id.clear();
    by_id.extend(nodes.iter().enumerate().map(|(i, node)| (node.id, i as u32)));
    by_id.sort_unstable();
    for list in [&mut *parent_of, first_child, next_sibling] {
        list.clear();
        list.resize(n, NONE);
    }
    for i in (0..n).rev() {
        let wanted = nodes[i].parent;
        if wanted == 0 {
            continue;
        }
        let at = by_id.partition_point(|(id, _)| *id < wanted);
        // Of several spans with that id the earliest is the parent; a span is never its own.
        let Some(&(found, parent)) = by_id.get(at) else {
            continue;
        };
        if found != wanted || parent == i as u32 {
            continue;
        }
        parent_of[i] = parent;
        next_sibling[i] = first_child[parent as usize];
        first_child[parent as usize] = i as u32;
    }
}

/// Cuts the ordered traces into row groups.
fn fill_groups(sources: &[RowsView<'_>], layout: &mut Layout) {
    let weights = text_weights(sources, layout);
    let weight = |from: u32, to: u32| weights.as_ref().map_or(0, |w| w[to as usize] - w[from as usize]);
    let mut open: Option<Group> = None;
    for t in 0..layout.traces.len() {
        let TraceSlot { start, end, .. } = layout.traces[t];
        let t = t as u32;
        if let Some(group) = open
            && (end - group.start > ROW_GROUP_ROWS || weight(group.start, end) > ROW_GROUP_TEXT_BYTES)
        {
            layout.groups.push(group);
            open = None;
        }
        let whole = end - start <= TRACE_ROWS_MAX && weight(start, end) <= 4 * ROW_GROUP_TEXT_BYTES;
        if whole {
            let group = open.get_or_insert(Group {
                start,
                end,
                first_trace: t,
                end_trace: t,
            });
            (group.end, group.end_trace) = (end, t + 1);
            continue;
        }
        let mut from = start;
        while from < end {
            let mut to = from + 1;
            while to < end && to - from < TRACE_ROWS_MAX && weight(from, to + 1) <= 4 * ROW_GROUP_TEXT_BYTES {
                to += 1;
            }
            cut(layout, from, to);
            layout.groups.push(Group {
                start: from,
                end: to,
                first_trace: t,
                end_trace: t + 1,
            });
            from = to;
        }
    }
    layout.groups.extend(open);
}

/// Makes `from..to` a piece of its own: no link leaves it.
fn cut(layout: &mut Layout, from: u32, to: u32) {
    for at in from..to {
        let i = at as usize;
        if layout.pdelta[i] > at - from {
            layout.pdelta[i] = 0;
        }
        layout.desc[i] = layout.desc[i].min(to - at - 1);
    }
}

/// Running sums of text bytes by position; `None` when the batch is ordinary and row counts alone decide.
fn text_weights(sources: &[RowsView<'_>], layout: &Layout) -> Option<Vec<u64>> {
    let total: usize = sources
        .iter()
        .map(|s| texts(s).map(|(_, text)| text.bytes.len()).sum::<usize>())
        .sum();
    if (total as u64) * u64::from(ROW_GROUP_ROWS) <= ROW_GROUP_TEXT_BYTES * layout.rows() as u64 {
        return None;
    }
    let mut sums = vec![0u64; layout.rows() + 1];
    for (base, source) in bases(sources).into_iter().zip(sources) {
        for (rows, text) in texts(source) {
            for (at, row) in rows.iter().enumerate() {
                let position = layout.position[(base + row) as usize];
                if position != NONE {
                    sums[position as usize + 1] += text.get(at).len() as u64;
                }
            }
        }
    }
    for i in 1..sums.len() {
        sums[i] += sums[i - 1];
    }
    Some(sums)
}

/// The columns whose bytes are stored row by row.
fn texts<'v>(source: &'v RowsView<'_>) -> impl Iterator<Item = (&'v [u32], crate::rows::TextView<'v>)> {
    use model::column::Values;
    let fixed = [
        &source.trace_state,
        &source.status_message,
        &source.events,
        &source.links,
        &source.extra,
        &source.tail,
    ];
    let fixed = fixed.into_iter().map(|s| (s.rows, s.text));
    let plain = source.attributes.iter().filter_map(|a| match a.column.values {
        Values::Bytes { offsets, bytes } | Values::Raw { offsets, bytes } => {
            Some((a.rows(), crate::rows::TextView { offsets, bytes }))
        }
        _ => None,
    });
    fixed.chain(plain)
}
