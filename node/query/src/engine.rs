//! Answers questions over one chunk.
//!
//! [`filter`] finds the rows a predicate keeps, column by column; [`pipeline`] runs the stages over the traces that have
//! such rows; [`search`] turns the outcome into answers. [`context`] holds what they share while they look at a chunk:
//! columns read once, the rows of each trace, trees; [`expect`] says beforehand what they will be.

pub(crate) mod context;
mod expect;
pub(crate) mod filter;
pub(crate) mod physical;
pub(crate) mod pipeline;
pub(crate) mod read;
pub(crate) mod row_expr;
pub(crate) mod search;
pub(crate) mod structure;
pub(crate) mod tree;
