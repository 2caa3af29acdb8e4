//! Distinct byte strings, numbered in the order they were first seen.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::column::{DictView, slice_at};

/// Maps byte strings to dense ids and back. Values lie end to end in one buffer.
#[derive(Debug, Clone)]
pub struct Interner {
    offsets: Vec<u32>,
    bytes: Vec<u8>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Default for Interner {
    fn default() -> Self {
        Self {
            offsets: vec![0],
            bytes: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Interner {
    /// The id of `value`, new or known.
    #[inline]
    pub fn intern(&mut self, value: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(value);
        let Self {
            offsets,
            bytes,
            index,
            hasher,
        } = self;
        if let Some(id) = index.find(hash, |id| slice_at(offsets, bytes, *id as usize) == value) {
            return *id;
        }
        let id = u32::try_from(offsets.len() - 1).expect("a table has fewer than 2^32 rows");
        bytes.extend_from_slice(value);
        offsets.push(u32::try_from(bytes.len()).expect("a table is sealed long before 4 GiB of text"));
        index.insert_unique(hash, id, |id| hasher.hash_one(slice_at(offsets, bytes, *id as usize)));
        id
    }

    /// The id of `value` if it has been seen.
    pub fn find(&self, value: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(value);
        self.index.find(hash, |id| self.get(*id) == value).copied()
    }

    /// The value behind `id`; empty when there is none.
    #[inline]
    pub fn get(&self, id: u32) -> &[u8] {
        slice_at(&self.offsets, &self.bytes, id as usize)
    }

    /// Number of distinct values.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether nothing was interned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values as a dictionary.
    pub fn view(&self) -> DictView<'_> {
        DictView::Bytes {
            offsets: &self.offsets,
            bytes: &self.bytes,
        }
    }

    /// Where values start in [`Interner::bytes`], and where the last one ends.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// The values end to end.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes held on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.offsets.capacity() * 4 + self.bytes.capacity() + self.index.allocation_size()
    }
}
