//! TraceQL: from text to answers over chunks of spans.
pub mod answer;
pub mod ast;
pub mod budget;
mod error;
pub mod field;
mod lex;
pub mod limits;
mod parse;
mod print;
pub mod source;
pub mod value;

pub use error::{Error, Kind, Result};

/// Parses a query.
pub fn parse(text: &str) -> Result<ast::Query> {
    parse::parse_query(text)
}
