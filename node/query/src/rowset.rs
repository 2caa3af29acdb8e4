//! A set of rows of one chunk, one bit each.
//!
//! What always holds: bits at or above `rows` are zero; sets that meet have the same number of rows.

use crate::budget::BATCH;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowSet {
    words: Vec<u64>,
    rows: usize,
}

impl RowSet {
    pub(crate) fn empty(rows: usize) -> RowSet {
        RowSet {
            words: vec![0; rows.div_ceil(64)],
            rows,
        }
    }

    pub(crate) fn full(rows: usize) -> RowSet {
        let mut set = RowSet {
            words: vec![u64::MAX; rows.div_ceil(64)],
            rows,
        };
        set.trim();
        set
    }

    /// Rows for which `keep` says yes, 64 at a time.
    pub(crate) fn from_fn(rows: usize, keep: impl Fn(usize) -> bool) -> RowSet {
        let mut set = RowSet::empty(rows);
        for (w, word) in set.words.iter_mut().enumerate() {
            let base = w * 64;
            let mut bits = 0u64;
            for bit in 0..64.min(rows - base) {
                bits |= u64::from(keep(base + bit)) << bit;
            }
            *word = bits;
        }
        set
    }

    /// Rows of `within` for which `keep` says yes; asked of those alone.
    pub(crate) fn from_fn_within(within: &RowSet, keep: impl Fn(usize) -> bool) -> RowSet {
        let mut set = RowSet::empty(within.rows);
        let rows = within.iter().filter(|row| keep(*row as usize));
        rows.for_each(|row| set.insert(row));
        set
    }

    /// Rows whose value is accepted; one value per row.
    pub(crate) fn from_values<T: Copy>(values: &[T], keep: impl Fn(T) -> bool) -> RowSet {
        let mut set = RowSet::empty(values.len());
        for (word, chunk) in set.words.iter_mut().zip(values.chunks(64)) {
            let mut bits = 0u64;
            for (bit, value) in chunk.iter().enumerate() {
                bits |= u64::from(keep(*value)) << bit;
            }
            *word = bits;
        }
        set
    }

    /// Rows of `within` whose value is accepted; one value per row. Where `within` has no rows none is looked at.
    pub(crate) fn from_values_within<T: Copy>(values: &[T], within: &RowSet, keep: impl Fn(T) -> bool) -> RowSet {
        let mut set = RowSet::empty(values.len());
        let words = set.words.iter_mut().zip(&within.words);
        for ((word, wanted), chunk) in words.zip(values.chunks(64)) {
            if *wanted == 0 {
                continue;
            }
            let mut bits = 0u64;
            for (bit, value) in chunk.iter().enumerate() {
                bits |= u64::from(keep(*value)) << bit;
            }
            *word = bits & wanted;
        }
        set
    }

    fn trim(&mut self) {
        let used = self.rows % 64;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1u64 << used) - 1;
        }
    }

    #[inline]
    pub(crate) fn insert(&mut self, row: u32) {
        self.words[row as usize / 64] |= 1 << (row % 64);
    }

    /// Adds the rows `from..to`.
    pub(crate) fn insert_range(&mut self, from: u32, to: u32) {
        (from..to).for_each(|row| self.insert(row));
    }

    #[inline]
    pub(crate) fn contains(&self, row: u32) -> bool {
        self.words[row as usize / 64] >> (row % 64) & 1 == 1
    }

    /// How many rows the chunk has.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(crate) fn keep_common(&mut self, other: &RowSet) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= b);
    }

    pub(crate) fn add_all(&mut self, other: &RowSet) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    pub(crate) fn remove_all(&mut self, other: &RowSet) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= !b);
    }

    /// The rows in parts of [`BATCH`], so that somebody can look up in between.
    pub(crate) fn batches(&self) -> impl Iterator<Item = RowBatch<'_>> {
        let words = self.words.chunks(BATCH / 64);
        words
            .zip((0u32..).step_by(BATCH))
            .map(|(words, first)| RowBatch { first, words })
    }

    /// Ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(w, word)| {
            let mut bits = *word;
            std::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                Some(w as u32 * 64 + bit)
            })
        })
    }
}

/// Some of the rows of a set.
pub(crate) struct RowBatch<'s> {
    first: u32,
    words: &'s [u64],
}

impl RowBatch<'_> {
    /// Calls `look` with each row, ascending. Where all rows are in the set, without asking for each.
    #[inline(always)]
    pub(crate) fn each(&self, mut look: impl FnMut(u32)) {
        let mut base = self.first;
        for word in self.words {
            if *word == u64::MAX {
                (base..base + 64).for_each(&mut look);
            } else {
                let mut bits = *word;
                while bits != 0 {
                    look(base + bits.trailing_zeros());
                    bits &= bits - 1;
                }
            }
            base += 64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_stay_inside_their_rows() {
        for rows in [0, 1, 63, 64, 65, 130, BATCH + 1, 2 * BATCH + 70] {
            let full = RowSet::full(rows);
            assert_eq!(full.len(), rows);
            assert_eq!(full.iter().count(), rows);
            assert_eq!(full, RowSet::from_fn(rows, |_| true));
            for every in [1, 2, 3, BATCH] {
                let some = RowSet::from_fn(rows, |row| row % every == 0);
                let mut each = Vec::new();
                some.batches().for_each(|batch| batch.each(|row| each.push(row)));
                assert_eq!(each, some.iter().collect::<Vec<_>>());
            }
            for every in [1, 2, 3, 64, 65, BATCH] {
                let values: Vec<usize> = (0..rows).map(|row| row * 7 % 5).collect();
                let within = RowSet::from_fn(rows, |row| row % every == 0);
                let mut expected = RowSet::from_values(&values, |v| v < 2);
                expected.keep_common(&within);
                assert_eq!(RowSet::from_values_within(&values, &within, |v| v < 2), expected);
            }
            let mut odd = RowSet::from_values(&(0..rows).collect::<Vec<_>>(), |v| v % 2 == 1);
            assert_eq!(odd.len(), rows / 2);
            odd.remove_all(&full);
            assert!(odd.is_empty());
        }
    }
}
