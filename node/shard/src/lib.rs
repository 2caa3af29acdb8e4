//! The life of a span after the log agreed on it: live in the head, cut into a block, named in the catalog, merged,
//! forgotten; and found at every moment in between.
//!
//! Does not know what Raft is: [`owner::Shard::apply`] is called with entries in order, and the catalog is changed through
//! [`port::CatalogPort`]. Introduces `block` and `query`, which do not know each other, in [`chunk`].

pub mod blocks;
pub mod catalog;
pub mod chunk;
pub mod collect;
pub mod column_cache;
pub mod command;
pub mod compaction;
pub mod crew;
pub mod decoded_cache;
pub mod dedup;
pub mod disk_cache;
pub mod error;
pub mod flush;
pub mod fsck;
#[doc(hidden)]
pub mod fuzzing;
pub mod head;
pub mod housekeeping;
mod jobs;
pub mod kept;
pub mod manifest;
pub mod measure;
pub mod owner;
pub mod port;
pub mod private;
pub mod reads;
pub mod rebuild;
pub mod retention;
pub mod scan;
pub mod search;
pub mod snapshot;
pub mod spool;
pub mod store;
pub mod trace;
pub mod trace_index;
pub mod turns;

pub use error::{Error, Kind, Result};
