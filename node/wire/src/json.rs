//! JSON at both doors, converted from and to protobuf bytes by table ([`crate::schema`]) without building structs.
//!
//! In: OTLP/JSON export requests become the same bytes an exporter would have sent as protobuf, so that there is one way in.
//! Out: answers of the query API in the form of Go's jsonpb, and OTLP's own responses.
//!
//! Why not serde on the generated types: the public OTLP types do not read enumeration names, `"NaN"` or unknown members of
//! a value, and every trace answer would be decoded into structs only to be written again.

mod base64;
mod lexer;
mod read;
mod write;

pub use read::read;
pub use write::write;

use crate::error::Error;
use crate::tempopb::table;

/// Where protobuf's JSON mapping leaves a choice, or OTLP has made another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OTLP/JSON: ids in hexadecimal, enumerations as numbers.
    Otlp,
    /// Tempo's answers, which are Go's jsonpb: ids in base64, enumerations by name.
    Tempo,
}

/// Turns an OTLP/JSON export request into the protobuf bytes of `ExportTraceServiceRequest`.
///
/// Only the form is checked here; what the spans are worth is for [`crate::ingest::scan`].
pub fn export_request(text: &[u8]) -> Result<Vec<u8>, Error> {
    read(&table::TRACE, text, Dialect::Otlp)
}

#[cfg(test)]
mod tests;
