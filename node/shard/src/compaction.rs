//! Merging small blocks into large ones, so that a question opens few of them.
//!
//! [`choose`] says what to merge: pure, from the catalog alone. [`Compactor`] does it:
//!
//! ```text
//! claim ─► open inputs ─► merge into a scratch file ─► Announce, upload ─► split traces ─► Replace{inputs, result}
//! ```
//!
//! What always holds:
//! - Nobody needs to know who else merges. [`crate::catalog::Command::Replace`] is all or nothing, so of two merges that
//!   share an input one wins, and the other has made an object that nobody names.
//! - A crash or an error between any two steps leaves at most a scratch file, which goes at the next start, and such an
//!   object, which [`crate::collect`] deletes. It is deleted at once only when the catalog proves that it is not named.
//! - A merge holds a bounded part of its inputs in memory, whatever their size.
//! - What fails rests before it is tried again, and one damaged block does not keep its neighbours from being merged.
//!
//! Not here: how blocks are merged ([`block::merge()`]), when merges are looked for and on which node (`server`).

mod choice;
mod compactor;
mod rest;
mod scratch;
mod splits;

pub use self::choice::{BLOCK_SPANS_MAX, Job, Outstanding, Rules, Window, choose, outstanding};
pub use self::compactor::{Claim, Compactor, CompactorOptions, Outcome};

#[cfg(test)]
mod tests;
