//! Blocks: immutable Parquet objects of spans, written once, read by range.
//!
//! [`BlockWriter`] turns live tables into one object; [`Block`] reads trace, column or row group back out of any store
//! behind [`RangeReader`]; [`merge()`] makes one large block of many small ones. The bytes are drawn in [`format`].
//!
//! What always holds:
//! - lossless: what was written comes back as the same OTLP span, up to the order of attributes;
//! - open: every column is plain Parquet that pyarrow and DuckDB read;
//! - checked: whatever byte is looked at lies under a CRC, and a wrong one is an error that names object and offset,
//!   never a wrong row;
//! - a block, once written, never changes.
//!
//! Not here: which blocks exist (the catalog), caches (the caller's, behind [`RangeReader`]), predicates (`query`), clocks
//! and randomness.

mod batch;
pub mod bloom;
mod catalogue;
mod cursor;
mod decode;
mod encode;
mod error;
mod filter;
mod footer;
pub mod format;
#[doc(hidden)]
pub mod fuzzing;
mod gather;
mod index;
mod merge;
mod order;
mod page;
mod range;
mod reader;
mod rle;
mod rows;
mod schema;
mod section;
mod split;
pub mod tindex;
mod writer;

pub use error::{Error, Kind, Result};
pub use filter::Filters;
pub use footer::{NamedSection, sections};
pub use format::PAGE_ROWS;
pub use index::{BlockIndex, CatalogueEntry, Fence, Totals};
pub use merge::{MERGE_INPUTS_MAX, MergeOptions, merge};
pub use range::{GAP_BYTES_MAX, JoiningReader, MemoryReader, RangeReader, StoreReader};
pub use reader::{Block, Columns, RowGroup, SectionLocation};
pub use rows::{Attribute, AttributeView, CountsView, Owners, RowsView, SpanRows, Sparse, SparseView, Text, TextView};
pub use schema::{AttributeDef, AttributeKey, BlockStats, ColumnStats, Field, Schema};
pub use writer::{BlockSummary, BlockWriter, Parts, SectionSummary};
