//! The messages of Tempo's query API, and how they are spelled in JSON.
//!
//! The Rust types, the service and the tables are generated from `proto/*.proto` and checked in; `tests/generated.rs`
//! compares and, with `UPDATE_GENERATED=1`, writes them. A trace's spans are OTLP's: [`trace::v1`] and [`common::v1`] have
//! its field numbers, so a [`Trace`] is an OTLP `TracesData` byte for byte.

#![allow(
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    rustdoc::broken_intra_doc_links,
    clippy::all,
    reason = "the generated code is not ours to shape"
)]

use prost::Message;

use crate::error::Error;
use crate::json::{self, Dialect};

/// Attribute values, scopes and resources.
pub mod common {
    /// As of OTLP 1.
    pub mod v1 {
        include!("generated/tempopb.common.v1.rs");
    }
}

/// Spans.
pub mod trace {
    /// As of OTLP 1.
    pub mod v1 {
        include!("generated/tempopb.trace.v1.rs");
    }
}

include!("generated/tempopb.rs");

/// One [`crate::schema::Message`] per message.
pub mod table {
    use crate::schema::{Field, Kind, Message, Shape};

    include!("generated/tables.rs");

    /// [`TRACE`] as Tempo's first trace API spells it.
    pub static TRACE_V1: Message = Message {
        name: "Trace",
        fields: &[Field {
            number: 1,
            json: "batches",
            kind: Kind::Message(&RESOURCE_SPANS),
            shape: Shape::Repeated,
        }],
    };
}

/// A message that has a table.
pub trait Tabled: Message {
    /// Its table.
    const TABLE: &'static crate::schema::Message;
}

/// The JSON of an answer, as Go's jsonpb writes it.
pub fn to_json<M: Tabled>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    json::write(M::TABLE, &message.encode_to_vec(), Dialect::Tempo, &mut out)
        .expect("prost writes what the table generated from the same source reads");
    out
}

/// Reads an answer back from its JSON. Unknown fields are ignored.
pub fn from_json<M: Tabled + Default>(text: &[u8]) -> Result<M, Error> {
    let bytes = json::read(M::TABLE, text, Dialect::Tempo)?;
    Ok(M::decode(&bytes[..]).expect("the table writes what prost generated from the same source reads"))
}

#[cfg(test)]
mod tests;
