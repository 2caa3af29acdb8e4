//! Bytes at the door: what comes in from exporters, what travels between our nodes, what goes out to Grafana.
//!
//! The way in: [`inflate`] undoes the content encoding, [`json`] turns OTLP/JSON into protobuf, [`ingest`] checks every byte
//! of the request in one pass and sorts its spans by shard, [`frame`] packs them into the sub-batches that the log keeps.
//!
//! The way out: [`assemble`] builds a trace from spans, [`tempopb`] has the messages of the query API, [`json`] spells them
//! as Grafana expects, from the tables of [`schema`].
//!
//! What always holds:
//! - Spans stay the bytes they arrived in. Nothing on the way in builds a struct per span.
//! - A request is read completely before any of it is accepted: what is malformed is refused whole.
//! - Arbitrary bytes never panic, and never allocate more than a small multiple of their size plus a constant.
//!
//! Not here: sockets, calls, routes and what exporters are answered (`server`), what a span means (`model`), the log itself (`wal`).

pub mod assemble;
pub mod error;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod inflate;
pub mod ingest;
pub mod json;
pub mod schema;
pub mod tempopb;

pub use error::{Error, Kind};

#[cfg(test)]
#[path = "../benches/synthetic.rs"]
mod synthetic;
