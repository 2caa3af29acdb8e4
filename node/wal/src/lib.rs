//! The node's log: one stream of segments on disk, shared by all Raft groups of the node, durable before it says so.
//!
//! Owns a directory. Called by `consensus`, which gives records their meaning; here they are opaque bytes with a group,
//! an index and a term. Start at [`Wal::open`].
//!
//! What always holds:
//! - **A completion called with `Ok` means the record survives the loss of power.** Completions come in the order of
//!   the calls, votes and entries of all groups in one stream.
//! - **A read returns what was appended, or an error naming the place; never anything else.**
//! - **The first failed write or sync is the last**: everything after it fails, the owner is told first
//!   ([`WalOptions::on_fatal`]), and opening again decides what is true.
//! - **A full disk refuses entries and nothing more**: segments are written full of zeros before they are used, so
//!   running out of space happens while making a spare, never while writing a record.
//! - **What was durable is never dropped silently**: bad bytes below the durable mark are reported, and the groups
//!   concerned lose the right to vote and acknowledge ([`LostPromise`]).
//! - Memory is bounded: the queue, the cache and one batch by bytes; the index takes 64 bytes for each entry kept.
//!
//! Not here: what an entry says, when to purge, clocks (except a stopwatch handed in), randomness, and the decision to
//! abort.
//!
//! ```text
//! callers ──► Log (place, index, queue) ──► writer: pwritev, fdatasync ──► completions, in order
//!                  ▲                            │ frees and copies forward
//!                  └── spares ◄── Pool ◄────────┘
//! scrub: sealed segments, read again at the owner's pace
//! open:  survey ─► scan ─► replay ─► repaired tail
//! ```

mod error;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod log;
mod metrics;
mod options;
mod pool;
mod read;
mod real_vfs;
mod record;
mod recovery;
mod replay;
mod scan;
mod scrub;
pub mod sim_vfs;
mod space;
mod state;
mod vfs;
mod wal;
mod writer;

pub use error::{ErrorKind, WalError};
pub use metrics::{SYNC_MICROS_BOUNDS, WalMetrics};
pub use options::{Drive, WalOptions};
pub use real_vfs::RealVfs;
pub use record::{Completion, EntryRecord, GroupKey, GroupState, PurgeMark, Space};
pub use recovery::{Damage, LostPromise, Recovery, TornTail};
pub use scrub::{DamagedPlace, Scrub, ScrubStep};
pub use sim_vfs::SimVfs;
pub use space::{Level, Pin, Usage};
pub use vfs::{Vfs, VfsFile, VfsLock};
pub use wal::Wal;
