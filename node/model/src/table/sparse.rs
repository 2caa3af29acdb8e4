//! Columns in which most rows have no value: the rows that have one, and the values side by side.

use crate::column::slice_at;

/// Byte strings of some rows. A row appears once; rows ascend.
#[derive(Debug, Clone)]
pub struct SparseBytes {
    rows: Vec<u32>,
    offsets: Vec<u32>,
    bytes: Vec<u8>,
}

impl Default for SparseBytes {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            offsets: vec![0],
            bytes: Vec::new(),
        }
    }
}

impl SparseBytes {
    /// Adds `value` to the value of `row`, which must not be below the last row that has one.
    #[inline]
    pub fn extend(&mut self, row: u32, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        let end = u32::try_from(self.bytes.len()).expect("a table is sealed long before 4 GiB of one column");
        if self.rows.last() == Some(&row) {
            if let Some(last) = self.offsets.last_mut() {
                *last = end;
            }
        } else {
            debug_assert!(self.rows.last().is_none_or(|last| *last < row));
            self.rows.push(row);
            self.offsets.push(end);
        }
    }

    /// The value of `row`; empty when it has none.
    pub fn get(&self, row: u32) -> &[u8] {
        self.rows.binary_search(&row).map_or(&[], |position| self.at(position))
    }

    /// The value at `position` in [`SparseBytes::rows`].
    pub fn at(&self, position: usize) -> &[u8] {
        slice_at(&self.offsets, &self.bytes, position)
    }

    /// Rows that have a value, ascending.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Where values start in [`SparseBytes::bytes`], and where the last one ends.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// The values end to end.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets the value of `row` if it is the last one.
    pub(super) fn forget(&mut self, row: u32) {
        if self.rows.last() == Some(&row) {
            self.rows.pop();
            self.offsets.pop();
            self.bytes.truncate(self.offsets.last().map_or(0, |end| *end as usize));
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.rows.capacity() * 4 + self.offsets.capacity() * 4 + self.bytes.capacity()
    }
}

/// Numbers of some rows. A row appears once; rows ascend.
#[derive(Debug, Clone, Default)]
pub struct SparseCounts {
    rows: Vec<u32>,
    counts: Vec<u32>,
}

impl SparseCounts {
    /// Sets the number of `row`, which must be above the last row that has one.
    pub fn push(&mut self, row: u32, count: u32) {
        debug_assert!(self.rows.last().is_none_or(|last| *last < row));
        self.rows.push(row);
        self.counts.push(count);
    }

    /// The number of `row`, 0 when it has none.
    pub fn get(&self, row: u32) -> u32 {
        self.rows
            .binary_search(&row)
            .ok()
            .and_then(|position| self.counts.get(position).copied())
            .unwrap_or(0)
    }

    /// Rows that have a number, ascending.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The numbers, beside [`SparseCounts::rows`].
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Forgets the number of `row` if it is the last one.
    pub(super) fn forget(&mut self, row: u32) {
        if self.rows.last() == Some(&row) {
            self.rows.pop();
            self.counts.pop();
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        (self.rows.capacity() + self.counts.capacity()) * 4
    }
}
