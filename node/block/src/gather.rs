//! Brings the values of one column from wherever they stand in the sources into row order, one row group at a time.
//!
//! A column that many spans have is scattered into one array by position; a rare one is sorted by position instead, so
//! that four hundred rare keys do not cost four hundred arrays. Either way a column holds at most eight bytes per span
//! while it is encoded and nothing afterwards.

use crate::order::{Group, Layout, NONE};
use crate::rows::RowsView;

/// A column with fewer values than one in this many rows is sorted instead of scattered.
const SPARSE_DIVISOR: usize = 8;

/// A 32-bit payload (a dictionary id, or the place of a value) for some positions.
#[derive(Debug)]
pub(crate) enum Placed {
    /// By position, [`NONE`] where there is none.
    Dense(Vec<u32>),
    /// `position << 32 | payload`, ascending.
    Sorted(Vec<u64>),
}

impl Placed {
    /// Places `columns`: for each the first global row of its source, its rows, and payloads in row order.
    pub(crate) fn new<'a, I>(layout: &Layout, columns: impl Iterator<Item = (u32, &'a [u32], I)> + Clone) -> Self
    where
        I: Iterator<Item = u32>,
    {
        let values: usize = columns.clone().map(|(_, rows, _)| rows.len()).sum();
        if values * SPARSE_DIVISOR >= layout.rows() {
            let mut dense = vec![NONE; layout.rows()];
            for (base, rows, payloads) in columns {
                let position = &layout.position[base as usize..];
                for (row, payload) in rows.iter().zip(payloads) {
                    if let Some(slot) = dense.get_mut(position[*row as usize] as usize) {
                        *slot = payload;
                    }
                }
            }
            return Self::Dense(dense);
        }
        let mut sorted = Vec::with_capacity(values);
        for (base, rows, payloads) in columns {
            let position = &layout.position[base as usize..];
            for (row, payload) in rows.iter().zip(payloads) {
                let at = position[*row as usize];
                if at != NONE {
                    sorted.push(u64::from(at) << 32 | u64::from(payload));
                }
            }
        }
        sorted.sort_unstable();
        Self::Sorted(sorted)
    }

    /// The rows (relative to the group) that have a payload, and the payloads.
    pub(crate) fn group(&self, group: &Group, rows: &mut Vec<u32>, payloads: &mut Vec<u32>) {
        rows.clear();
        payloads.clear();
        match self {
            Self::Dense(dense) => {
                let slice = &dense[group.start as usize..group.end as usize];
                for (row, payload) in slice.iter().enumerate() {
                    if *payload != NONE {
                        rows.push(row as u32);
                        payloads.push(*payload);
                    }
                }
            }
            Self::Sorted(sorted) => {
                let from = sorted.partition_point(|v| *v < u64::from(group.start) << 32);
                let to = sorted.partition_point(|v| *v < u64::from(group.end) << 32);
                rows.extend(sorted[from..to].iter().map(|v| (v >> 32) as u32 - group.start));
                payloads.extend(sorted[from..to].iter().map(|v| *v as u32));
            }
        }
    }
}

/// Brings a dense column into position order.
pub(crate) fn dense<'a, T: Copy + Default, U: Copy + 'a>(
    sources: &'a [RowsView<'a>],
    layout: &Layout,
    column: impl Fn(&'a RowsView<'a>) -> &'a [U],
    mut convert: impl FnMut(usize, U) -> T,
) -> Vec<T> {
    let mut out = vec![T::default(); layout.rows()];
    let mut positions = layout.position.as_slice();
    for (s, source) in sources.iter().enumerate() {
        let (here, rest) = positions.split_at(source.len());
        positions = rest;
        for (value, at) in column(source).iter().zip(here) {
            if let Some(slot) = out.get_mut(*at as usize) {
                *slot = convert(s, *value);
            }
        }
    }
    out
}
