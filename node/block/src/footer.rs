//! What a block's Parquet footer says about its sections, for tools that have nothing but the object.
//!
//! A node never comes here: the catalog remembers where sections lie. Whoever rebuilds the catalog, or checks the store
//! against it, does.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::TenantId;
use parquet::file::metadata::ParquetMetaDataReader;

use crate::error::{Error, Result};
use crate::format::{FOOTER_KEY, VERSION};
use crate::reader::SectionLocation;

/// A section as the footer names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSection {
    /// Whose spans.
    pub tenant: TenantId,
    /// Its row groups.
    pub row_groups: Range<u32>,
    /// Where its index and its filters lie.
    pub location: SectionLocation,
}

/// The sections that the footer of a whole object names, in their order. They lie one behind the other inside the object;
/// what is in them is checked by whoever opens them.
///
/// Errors: [`Error::Corrupt`] when this is not a block of ours, or not all of it; [`Error::TooNew`].
pub fn sections(object: &Arc<str>, bytes: &Bytes) -> Result<Vec<NamedSection>> {
    let bad = |what| Error::Corrupt {
        object: Arc::clone(object),
        offset: 0,
        what,
    };
    let footer = ParquetMetaDataReader::new().parse_and_finish(bytes);
    let footer = footer.map_err(|_| bad("parquet footer"))?;
    let pairs = footer.file_metadata().key_value_metadata();
    let text = pairs
        .and_then(|pairs| pairs.iter().find(|pair| pair.key == FOOTER_KEY))
        .and_then(|pair| pair.value.as_deref())
        .ok_or(bad("names of sections"))?;
    let mut lines = text.split('\n');
    let version: u16 = lines
        .next()
        .and_then(|version| version.parse().ok())
        .ok_or(bad("format version"))?;
    if version > VERSION {
        return Err(Error::TooNew {
            object: Arc::clone(object),
            found: version,
            known: VERSION,
        });
    }
    let sections: Option<Vec<NamedSection>> = lines.map(section).collect();
    let sections = sections.ok_or(bad("names of sections"))?;
    let mut group = 0;
    for section in &sections {
        let NamedSection {
            row_groups, location, ..
        } = section;
        let lies_inside = |range: &Range<u64>| range.start <= range.end && range.end <= bytes.len() as u64;
        let follows = row_groups.start == group && row_groups.start <= row_groups.end;
        if !follows || !lies_inside(&location.index) || !lies_inside(&location.bloom) {
            return Err(bad("names of sections"));
        }
        group = row_groups.end;
    }
    if group as usize == footer.num_row_groups() {
        Ok(sections)
    } else {
        Err(bad("names of sections"))
    }
}

fn section(line: &str) -> Option<NamedSection> {
    let mut words = line.split(' ');
    let tenant = TenantId::new(words.next()?).ok()?;
    let row_groups = words.next()?.parse().ok()?..words.next()?.parse().ok()?;
    let mut range = || Some(words.next()?.parse().ok()?..words.next()?.parse().ok()?);
    let location = SectionLocation {
        index: range()?,
        bloom: range()?,
    };
    words.next().is_none().then_some(NamedSection {
        tenant,
        row_groups,
        location,
    })
}
