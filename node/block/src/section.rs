//! One tenant's part of a block in the making: everything that outlives a batch of rows.

use std::ops::Range;

use hashbrown::HashMap;
use model::{TenantId, TraceId};

use crate::bloom;
use crate::catalogue::{Catalogue, Listed};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::format::{
    BLOOM_MAGIC, CATALOGUE_VALUE_BYTES_MAX, TRACE_FILTER_BITS, VALUE_FILTER_BITS, VALUE_FILTER_DIVISOR, VERSION,
};
use crate::index::{Fence, IndexParts, LISTED_NAMES_MAX, Totals};
use crate::order::NONE;
use crate::page::crc32;
use crate::rows::{Owners, Text};
use crate::schema::Schema;

/// The filter of trace ids. No attribute's seed is this: those hash a key.
pub(crate) const TRACE_SEED: u64 = 0;
/// The filter of all text in the tail.
pub(crate) const TAIL_SEED: u64 = 1;

/// Owner blobs numbered for the section, and what their `service.name` is.
#[derive(Debug, Default)]
pub(crate) struct OwnerIds {
    pub text: Text,
    by_blob: HashMap<Box<[u8]>, u32>,
}

impl OwnerIds {
    /// The number of a blob and whether it is new.
    pub(crate) fn intern(&mut self, blob: &[u8]) -> (u32, bool) {
        if let Some(id) = self.by_blob.get(blob) {
            return (*id, false);
        }
        let id = self.by_blob.len() as u32;
        self.text.push(blob);
        self.by_blob.insert(blob.into(), id);
        (id, true)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Section {
    pub tenant: TenantId,
    pub first_group: usize,
    pub totals: Totals,
    pub fences: Vec<Fence>,
    pub chunk_lists: Vec<Vec<u8>>,
    pub resources: OwnerIds,
    pub scopes: OwnerIds,
    /// Distinct service names.
    pub services: Vec<Box<[u8]>>,
    /// Per resource: index into `services`, [`NONE`] without one.
    pub service_of: Vec<u32>,
    pub names: Option<Listed>,
    pub catalogue: Catalogue,
    pub trace_hashes: Vec<u64>,
    /// Per attribute column of the schema; empty for those without a filter.
    pub value_hashes: Vec<Vec<u64>>,
    pub tail_hashes: Vec<u64>,
    /// Traces that were cut into several row groups.
    pub split_traces: Vec<TraceId>,
    pub last_trace: Option<TraceId>,
}

impl Section {
    pub(crate) fn new(tenant: &TenantId, schema: &Schema, first_group: usize) -> Self {
        Self {
            tenant: tenant.clone(),
            first_group,
            totals: Totals {
                min_start: u64::MAX,
                ..Totals::default()
            },
            fences: Vec::new(),
            chunk_lists: Vec::new(),
            resources: OwnerIds::default(),
            scopes: OwnerIds::default(),
            services: Vec::new(),
            service_of: Vec::new(),
            names: Some(Listed::default()),
            catalogue: Catalogue::default(),
            trace_hashes: Vec::new(),
            value_hashes: vec![Vec::new(); schema.attributes().len()],
            tail_hashes: Vec::new(),
            split_traces: Vec::new(),
            last_trace: None,
        }
    }

    /// The section's number of a resource blob; learns its service name when it is new.
    pub(crate) fn resource(&mut self, blob: &[u8]) -> Result<u32> {
        let (id, is_new) = self.resources.intern(blob);
        if is_new {
            let service = match service_name(blob)? {
                None => NONE,
                Some(name) => {
                    let known = self.services.iter().position(|s| **s == *name);
                    known.unwrap_or_else(|| {
                        self.services.push(name.into());
                        self.services.len() - 1
                    }) as u32
                }
            };
            self.service_of.push(service);
        }
        Ok(id)
    }

    /// The section's number of a scope blob.
    pub(crate) fn scope(&mut self, blob: &[u8]) -> u32 {
        self.scopes.intern(blob).0
    }

    /// Takes note of names that occur.
    pub(crate) fn add_names<'a>(&mut self, names: impl Iterator<Item = &'a [u8]>) {
        if let Some(listed) = &mut self.names
            && !listed.add(names, LISTED_NAMES_MAX, 4 * CATALOGUE_VALUE_BYTES_MAX)
        {
            self.names = None;
        }
    }

    /// The bloom section's bytes. Attribute filters share a budget; the largest go first.
    pub(crate) fn blooms(&mut self, schema: &Schema) -> Vec<u8> {
        let distinct = |hashes: &mut Vec<u64>| {
            hashes.sort_unstable();
            hashes.dedup();
            hashes.shrink_to_fit();
        };
        distinct(&mut self.trace_hashes);
        distinct(&mut self.tail_hashes);
        self.value_hashes.iter_mut().for_each(distinct);
        let row_group_bytes: u64 = self.fences.iter().map(|f| f.length).sum();
        let mut room = (row_group_bytes / VALUE_FILTER_DIVISOR) as usize;
        let mut wanted: Vec<(u64, &[u64], usize)> = schema
            .attributes()
            .iter()
            .zip(&self.value_hashes)
            .filter(|(def, hashes)| def.id_like && !hashes.is_empty())
            .map(|(def, hashes)| (def.attribute.seed(), hashes.as_slice()))
            .chain(
                [(TAIL_SEED, self.tail_hashes.as_slice())]
                    .into_iter()
                    .filter(|(_, h)| !h.is_empty()),
            )
            .map(|(seed, hashes)| (seed, hashes, bloom::bytes_for(hashes.len(), VALUE_FILTER_BITS)))
            .collect();
        wanted.sort_by_key(|(_, _, size)| *size);
        let trace = (TRACE_SEED, self.trace_hashes.as_slice());
        let mut filters = vec![(
            trace.0,
            bloom::build(trace.1, bloom::bytes_for(trace.1.len(), TRACE_FILTER_BITS)),
        )];
        for (seed, hashes, size) in wanted {
            // A filter a page long costs nothing against the block's own overhead, so tiny blocks have theirs too.
            if size <= room || size <= 4096 {
                room = room.saturating_sub(size);
                filters.push((seed, bloom::build(hashes, size)));
            }
        }
        encode_filters(&filters)
    }

    /// The index section's bytes and the totals.
    pub(crate) fn finish(self, schema: &Schema) -> Result<(Vec<u8>, Totals, Vec<TraceId>)> {
        let owners = Owners {
            resources: self.resources.text,
            scopes: self.scopes.text,
        };
        let (catalogue, catalogue_is_whole) = self.catalogue.finish();
        let mut services: Vec<&[u8]> = self.services.iter().map(|s| &**s).collect();
        services.sort_unstable();
        let mut totals = self.totals;
        if totals.spans == 0 {
            totals.min_start = 0;
        }
        let parts = IndexParts {
            tenant: &self.tenant,
            totals: totals.clone(),
            schema,
            fences: &self.fences,
            owners: &owners,
            services,
            names: self.names.as_ref().map(|n| n.iter().collect()),
            catalogue: &catalogue,
            catalogue_is_whole,
            chunks: &self.chunk_lists,
        };
        Ok((parts.encode()?, totals, self.split_traces))
    }
}

/// The text of a resource's `service.name`.
pub(crate) fn service_name(blob: &[u8]) -> Result<Option<&[u8]>> {
    let (message, _) = model::table::read_owner(blob).map_err(Error::Model)?;
    for pair in model::otlp::attributes(message.unwrap_or_default(), 1) {
        let (key, any) = pair.map_err(Error::Model)?;
        if key == b"service.name" {
            return match model::ValueRef::from_any_value(any).map_err(Error::Model)? {
                model::ValueRef::String(name) => Ok(Some(name)),
                _ => Ok(None),
            };
        }
    }
    Ok(None)
}

fn encode_filters(filters: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&BLOOM_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(filters.len() as u16).to_le_bytes());
    let mut offset = (8 + filters.len() * 20 + 4) as u32;
    for (seed, filter) in filters {
        out.extend_from_slice(&seed.to_le_bytes());
        for n in [offset, filter.len() as u32, crc32(filter)] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        offset += filter.len() as u32;
    }
    out.extend_from_slice(&crc32(&out).to_le_bytes());
    filters.iter().for_each(|(_, filter)| out.extend_from_slice(filter));
    out
}

/// Where each filter lies in a bloom section: seed and range. `None`: corrupt.
pub(crate) fn read_filters(bytes: &[u8]) -> Option<Vec<(u64, Range<usize>)>> {
    let mut c = Cursor::new(bytes);
    let magic: [u8; 4] = c.array()?;
    let (version, count) = (c.u16()?, usize::from(c.u16()?));
    if magic != BLOOM_MAGIC || version == 0 || version > VERSION {
        return None;
    }
    let directory = bytes.get(..8 + count * 20)?;
    let mut filters = Vec::with_capacity(count);
    for _ in 0..count {
        let seed = c.u64()?;
        let (at, length, crc) = (c.u32()? as usize, c.u32()? as usize, c.u32()?);
        let range = at..at.checked_add(length)?;
        if crc32(bytes.get(range.clone())?) != crc || length % bloom::BLOCK_BYTES != 0 {
            return None;
        }
        filters.push((seed, range));
    }
    (c.u32()? == crc32(directory)).then_some(filters)
}
