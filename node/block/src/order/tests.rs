//! Depth-first order, subtree sizes and parents of hand-made traces.

use super::*;
use crate::rows::{CountsView, SparseView, TextView};

/// Span id, parent id, start.
type Made = (u64, u64, u64);
/// Id byte and spans.
type Trace<'a> = (u8, &'a [Made]);

/// Rows of a few traces with nothing but structure: per trace (id, spans as (span id, parent id, start)).
struct Rows {
    traces: Vec<TraceId>,
    trace: Vec<u32>,
    span_id: Vec<[u8; 8]>,
    parent: Vec<[u8; 8]>,
    start: Vec<u64>,
    zeros: Vec<u32>,
    kinds: Vec<u8>,
    durations: Vec<i64>,
    event_rows: Vec<u32>,
    event_offsets: Vec<u32>,
    events: Vec<u8>,
}

impl Rows {
    fn new(traces: &[Trace<'_>]) -> Self {
        let mut rows = Self {
            traces: traces.iter().map(|(id, _)| TraceId([*id; 16])).collect(),
            trace: Vec::new(),
            span_id: Vec::new(),
            parent: Vec::new(),
            start: Vec::new(),
            zeros: Vec::new(),
            kinds: Vec::new(),
            durations: Vec::new(),
            event_rows: Vec::new(),
            event_offsets: vec![0],
            events: Vec::new(),
        };
        for (t, (_, spans)) in traces.iter().enumerate() {
            for (id, parent, start) in *spans {
                rows.trace.push(t as u32);
                rows.span_id.push(id.to_be_bytes());
                rows.parent.push(parent.to_be_bytes());
                rows.start.push(*start);
            }
        }
        rows.zeros = vec![0; rows.trace.len()];
        rows.kinds = vec![0; rows.trace.len()];
        rows.durations = vec![0; rows.trace.len()];
        rows
    }

    /// Traces that are chains of the given lengths.
    fn chains(lengths: &[u64]) -> Self {
        let chains: Vec<Vec<Made>> = lengths
            .iter()
            .map(|n| (1..=*n).map(|i| (i, i - 1, i)).collect())
            .collect();
        let traces: Vec<Trace<'_>> = chains
            .iter()
            .enumerate()
            .map(|(t, spans)| (t as u8 + 1, spans.as_slice()))
            .collect();
        Self::new(&traces)
    }

    fn view(&self) -> RowsView<'_> {
        let none = TextView {
            offsets: &[0],
            bytes: &[],
        };
        let empty = SparseView { rows: &[], text: none };
        let counts = CountsView { rows: &[], counts: &[] };
        RowsView {
            traces: &self.traces,
            trace: &self.trace,
            span_id: &self.span_id,
            parent_span_id: &self.parent,
            start: &self.start,
            duration: &self.durations,
            kind: &self.kinds,
            status: &self.kinds,
            flags: &self.zeros,
            name: &self.zeros,
            names: none,
            resource: &self.zeros,
            resources: none,
            scope: &self.zeros,
            scopes: none,
            trace_state: empty,
            status_message: empty,
            events: SparseView {
                rows: &self.event_rows,
                text: TextView {
                    offsets: &self.event_offsets,
                    bytes: &self.events,
                },
            },
            links: empty,
            extra: empty,
            tail: empty,
            dropped: [counts; 3],
            attributes: Vec::new(),
        }
    }
}

/// Lays out one trace and shows it: per position `span id: up/below`.
fn shape(spans: &[Made]) -> String {
    let rows = Rows::new(&[(1, spans)]);
    let layout = lay_out(&[rows.view()], Duplicates::Keep);
    let mut by_position = vec![0; spans.len()];
    for (row, at) in layout.position.iter().enumerate() {
        by_position[*at as usize] = spans[row].0;
    }
    let shown: Vec<String> = by_position
        .iter()
        .enumerate()
        .map(|(at, id)| format!("{id}:{}/{}", layout.pdelta[at], layout.desc[at]))
        .collect();
    shown.join(" ")
}

#[test]
fn spans_stand_in_preorder() {
    // A tree, given backwards; siblings by start.
    assert_eq!(
        shape(&[(4, 2, 40), (3, 1, 30), (2, 1, 20), (1, 0, 10)]),
        "1:0/3 2:1/1 4:1/0 3:3/0"
    );
    // Two roots and an orphan, by start.
    assert_eq!(
        shape(&[(1, 0, 30), (2, 99, 20), (3, 0, 10), (4, 1, 31)]),
        "3:0/0 2:0/0 1:0/1 4:1/0"
    );
    // Itself as parent.
    assert_eq!(shape(&[(1, 1, 10)]), "1:0/0");
    // An id that occurs twice: the earliest is the parent, also of its twin that names it.
    assert_eq!(shape(&[(1, 0, 10), (1, 1, 20), (2, 1, 30)]), "1:0/2 1:1/0 2:2/0");
    // A circle with something hanging from it that is older than the circle.
    assert_eq!(shape(&[(1, 2, 20), (2, 1, 30), (3, 2, 5)]), "1:0/2 2:1/1 3:1/0");
    // Two circles and a root between them.
    assert_eq!(
        shape(&[(1, 2, 50), (2, 1, 51), (3, 4, 10), (4, 3, 11), (9, 0, 30)]),
        "3:0/1 4:1/0 9:0/0 1:0/1 2:1/0"
    );
}

#[test]
fn a_root_is_the_earliest_span_without_a_parent() {
    let rows = Rows::new(&[(1, &[(1, 9, 5), (2, 0, 20), (3, 0, 10)]), (2, &[(1, 9, 5)])]);
    let layout = lay_out(&[rows.view()], Duplicates::Keep);
    assert_eq!(layout.traces[0].root, layout.position[2]);
    assert_eq!((layout.traces[0].min_start, layout.traces[1].root), (5, NONE));
}

fn group_rows(layout: &Layout) -> Vec<u32> {
    layout.groups.iter().map(|g| g.end - g.start).collect()
}

#[test]
fn row_groups_fill_up_to_their_bound_and_never_split_a_trace() {
    let half = u64::from(ROW_GROUP_ROWS / 2);
    for (lengths, groups) in [
        (vec![half, half - 1], vec![ROW_GROUP_ROWS - 1]),
        (vec![half, half], vec![ROW_GROUP_ROWS]),
        (vec![half, half, 1], vec![ROW_GROUP_ROWS, 1]),
        (vec![half, half + 1], vec![ROW_GROUP_ROWS / 2, ROW_GROUP_ROWS / 2 + 1]),
        (vec![1, 2 * half + 1, 1], vec![1, ROW_GROUP_ROWS + 1, 1]),
    ] {
        let layout = lay_out(&[Rows::chains(&lengths).view()], Duplicates::Keep);
        assert_eq!(group_rows(&layout), groups, "{lengths:?}");
    }
}

#[test]
fn only_a_monstrous_trace_is_cut_and_no_link_leaves_a_piece() {
    let max = u64::from(TRACE_ROWS_MAX);
    for (length, groups) in [
        (max - 1, vec![TRACE_ROWS_MAX - 1]),
        (max, vec![TRACE_ROWS_MAX]),
        (max + 1, vec![TRACE_ROWS_MAX, 1]),
    ] {
        let layout = lay_out(&[Rows::chains(&[length]).view()], Duplicates::Keep);
        assert_eq!(group_rows(&layout), groups);
        for group in &layout.groups {
            assert_eq!(layout.pdelta[group.start as usize], 0);
            assert_eq!(layout.desc[group.start as usize], group.end - group.start - 1);
            assert!((group.start + 1..group.end).all(|at| layout.pdelta[at as usize] == 1));
        }
    }
}

#[test]
fn row_groups_are_bounded_in_text_too() {
    let bound = ROW_GROUP_TEXT_BYTES as u32;
    for (second, groups) in [(bound / 2 - 1, 1), (bound / 2, 1), (bound / 2 + 1, 2)] {
        let mut rows = Rows::chains(&[1, 1]);
        rows.event_rows = vec![0, 1];
        rows.event_offsets = vec![0, bound / 2, bound / 2 + second];
        rows.events = vec![0; (bound / 2 + second) as usize];
        assert_eq!(lay_out(&[rows.view()], Duplicates::Keep).groups.len(), groups);
    }
}

#[test]
fn a_small_last_group_goes_back_and_leaves_no_trace() {
    let full = u64::from(ROW_GROUP_ROWS);
    let rows = Rows::chains(&[full, 3, 4]);
    let mut layout = lay_out(&[rows.view()], Duplicates::Keep);
    assert_eq!(layout.put_back_small_group(), Some(TraceId([2; 16])));
    assert_eq!(
        (layout.rows() as u64, layout.traces.len(), layout.groups.len()),
        (full, 1, 1)
    );
    assert_eq!(layout.position.iter().filter(|p| **p == NONE).count(), 7);
    // The only group, a big group, and a piece of a cut trace stay.
    assert_eq!(layout.put_back_small_group(), None);
    let mut big = lay_out(&[Rows::chains(&[full, full / 2 + 1]).view()], Duplicates::Keep);
    assert_eq!(big.put_back_small_group(), None);
    let mut piece = lay_out(
        &[Rows::chains(&[u64::from(TRACE_ROWS_MAX) + 1]).view()],
        Duplicates::Keep,
    );
    assert_eq!(piece.put_back_small_group(), None);
}

#[test]
fn spans_equal_in_all_they_say_are_kept_once() {
    let spans: &[Made] = &[(1, 0, 10), (2, 1, 20)];
    let (one, two) = (Rows::new(&[(1, spans)]), Rows::new(&[(1, spans)]));
    let mut other = Rows::new(&[(1, spans)]);
    other.kinds = vec![0, 3];
    assert_eq!(lay_out(&[one.view(), two.view()], Duplicates::Keep).rows(), 4);
    assert_eq!(lay_out(&[one.view(), two.view()], Duplicates::Drop).rows(), 2);
    assert_eq!(
        lay_out(&[one.view(), other.view(), two.view()], Duplicates::Drop).rows(),
        3
    );
}
