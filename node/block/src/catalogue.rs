//! Collects, while a section is written, what [`crate::index::CatalogueEntry`] says of each attribute.
//!
//! Bounded in keys, in listed values per key and in bytes altogether: what does not fit is counted but not listed, and
//! the index says so.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use model::ValueType;

use crate::format::{CATALOGUE_BYTES_MAX, CATALOGUE_KEYS_MAX, CATALOGUE_VALUE_BYTES_MAX, CATALOGUE_VALUES_MAX};
use crate::index::CatalogueEntry;
use crate::schema::AttributeKey;

#[derive(Debug)]
struct Entry {
    attribute: AttributeKey,
    values: u64,
    distinct: u64,
    distinct_bytes: u64,
    /// `None` once there were too many.
    listed: Option<Listed>,
    range: Option<(f64, f64)>,
}

impl Entry {
    fn unlist(&mut self) {
        if let Some(listed) = self.listed.take() {
            self.distinct += listed.values.len() as u64;
            self.distinct_bytes += listed.bytes as u64;
        }
    }
}

/// A bounded set of distinct texts.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    values: BTreeSet<Box<[u8]>>,
    bytes: usize,
}

impl Listed {
    /// Adds values; `false` once there are too many, and then the set is of no more use.
    #[must_use]
    pub(crate) fn add<'a>(&mut self, values: impl Iterator<Item = &'a [u8]>, max: usize, bytes_max: usize) -> bool {
        for value in values {
            if !self.values.contains(value) {
                self.bytes += value.len();
                self.values.insert(value.into());
                if self.values.len() > max || self.bytes > bytes_max {
                    return false;
                }
            }
        }
        true
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.values.iter().map(|v| &**v)
    }
}

/// The catalogue of one section in the making.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    entries: Vec<Entry>,
    by_key: HashMap<AttributeKey, u32>,
    left_out: bool,
}

impl Catalogue {
    /// The number of an attribute; `None` when there is no room for another.
    pub(crate) fn number(&mut self, key: &[u8], value_type: ValueType) -> Option<u32> {
        let attribute = AttributeKey::new(key, value_type);
        if let Some(number) = self.by_key.get(&attribute) {
            return Some(*number);
        }
        if self.entries.len() >= CATALOGUE_KEYS_MAX {
            self.left_out = true;
            return None;
        }
        let number = self.entries.len() as u32;
        let listed = (value_type == ValueType::String).then(Listed::default);
        self.entries.push(Entry {
            attribute: attribute.clone(),
            values: 0,
            distinct: 0,
            distinct_bytes: 0,
            listed,
            range: None,
        });
        self.by_key.insert(attribute, number);
        Some(number)
    }

    /// Counts text: `values` occurrences of `distinct` texts, summed over row groups, all of which are among `texts`.
    pub(crate) fn count_texts<'a>(
        &mut self,
        number: Option<u32>,
        values: u64,
        distinct: u64,
        texts: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) {
        let Some(entry) = number.and_then(|n| self.entries.get_mut(n as usize)) else {
            return;
        };
        entry.values += values;
        let bytes: usize = texts.clone().map(<[u8]>::len).sum();
        let kept = match &mut entry.listed {
            // No need to look at each of a million values to know that they are too many.
            Some(_) if texts.len() > CATALOGUE_VALUES_MAX || bytes > CATALOGUE_VALUE_BYTES_MAX => false,
            Some(listed) => listed.add(texts.clone(), CATALOGUE_VALUES_MAX, CATALOGUE_VALUE_BYTES_MAX),
            None => false,
        };
        if !kept {
            entry.unlist();
            entry.distinct += distinct;
            entry.distinct_bytes += (bytes as u64 * distinct).checked_div(texts.len() as u64).unwrap_or(0);
        }
    }

    /// Counts text whose distinct values are not at hand: about `distinct` of them.
    pub(crate) fn count_unlisted(&mut self, number: Option<u32>, values: u64, distinct: u64, distinct_bytes: u64) {
        let Some(entry) = number.and_then(|n| self.entries.get_mut(n as usize)) else {
            return;
        };
        entry.values += values;
        entry.unlist();
        entry.distinct += distinct;
        entry.distinct_bytes += distinct_bytes;
    }

    /// Counts values of other types.
    pub(crate) fn count_others(&mut self, number: Option<u32>, values: u64, range: Option<(f64, f64)>) {
        let Some(entry) = number.and_then(|n| self.entries.get_mut(n as usize)) else {
            return;
        };
        entry.values += values;
        entry.range = match (entry.range, range) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (a, b) => a.or(b),
        };
    }

    /// The finished catalogue and whether it names every attribute. Attributes keep their numbers.
    pub(crate) fn finish(self) -> (Vec<CatalogueEntry>, bool) {
        let mut room = CATALOGUE_BYTES_MAX;
        let entries = self
            .entries
            .into_iter()
            .map(|entry| {
                let (mut distinct, mut distinct_bytes) = (entry.distinct, entry.distinct_bytes);
                let mut values = None;
                if let Some(listed) = entry.listed {
                    distinct = listed.values.len() as u64;
                    distinct_bytes = listed.bytes as u64;
                    if listed.bytes <= room {
                        room -= listed.bytes;
                        values = Some(listed.values.into_iter().collect());
                    }
                }
                CatalogueEntry {
                    attribute: entry.attribute,
                    values: entry.values,
                    distinct,
                    distinct_bytes,
                    listed: values,
                    range: entry.range,
                }
            })
            .collect();
        (entries, !self.left_out)
    }
}
