//! The life of a span after the log agreed on it: live in the head, cut into a block, named in the catalog, merged,
//! forgotten; and found at every moment in between.
//!
//! Does not know what Raft is: [`owner::Shard::apply`] is called with entries in order, and the catalog is changed through
//! [`port::CatalogPort`]. Introduces `block` and `query`, which do not know each other, in [`chunk`].

pub mod blocks;
pub mod catalog;
pub mod chunk;
pub mod command;
pub mod dedup;
pub mod error;
pub mod flush;
pub mod head;
pub mod owner;
pub mod port;
pub mod search;
pub mod snapshot;
pub mod spool;
pub mod store;
pub mod trace;

pub use error::{Error, Kind, Result};
