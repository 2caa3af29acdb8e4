//! Raft for one node: many groups on one log, each replicating a small state machine of its own.
//!
//! Called by `server`. Everything of openraft stays in here; what goes to disk and to peers is our own bytes.
//!
//! ```text
//! propose ─► Group ─► openraft ─► LogStore ─► wal (one segmented log for all groups)
//!    ▲                   │  ▲
//!    │                   │  └── PeerNetwork (bytes in, bytes out) ◄─► other members
//!    └─── response ◄── Machine::apply ◄─┘ committed, in order, once
//! ```
//!
//! How to use it: give [`Groups`] the node's log, then [`Groups::open`] a group with a [`Machine`].
//!
//! ```
//! use std::collections::BTreeSet;
//! use std::path::Path;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use model::{LogIndex, NodeId};
//! use vivace_consensus::{
//!     Applied, GroupId, Groups, GroupsOptions, Machine, MachineError, MachineSnapshot, NoPeers, Payload, SnapshotPoint,
//! };
//! use wal::{SimVfs, Vfs, Wal, WalOptions};
//!
//! /// Adds up how many bytes it has seen.
//! struct Total(u64);
//!
//! impl Machine for Total {
//!     type Response = u64;
//!     fn apply(&mut self, _: Applied, payload: Payload) -> Result<u64, MachineError> {
//!         self.0 += payload.data().len() as u64;
//!         Ok(self.0)
//!     }
//!     fn snapshot(&self) -> MachineSnapshot {
//!         MachineSnapshot { point: SnapshotPoint::Applied, state: Bytes::copy_from_slice(&self.0.to_le_bytes()) }
//!     }
//!     fn install(&mut self, _: LogIndex, state: Bytes) -> Result<(), MachineError> {
//!         let bytes = <[u8; 8]>::try_from(&state[..]).map_err(|error| MachineError(error.into()))?;
//!         self.0 = u64::from_le_bytes(bytes);
//!         Ok(())
//!     }
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let node = NodeId(7); // random, one per disk incarnation
//! let vfs: Arc<dyn Vfs> = Arc::new(SimVfs::new(1)); // `RealVfs` on a node
//! let options = WalOptions { segment_bytes: 65_536, quota_bytes: 1 << 20, ..WalOptions::new(node.0) };
//! let (wal, _recovery) = Wal::open(vfs.clone(), Path::new("/data/wal"), options)?;
//! vfs.create_dir(Path::new("/data/snapshots"))?;
//!
//! let options = GroupsOptions::new(node, "main", "/data/snapshots");
//! let groups = Groups::new(options, wal, vfs, Arc::new(NoPeers))?;
//! let ring = groups.open(GroupId::Ring, Total(0)).await?;
//! ring.found(&BTreeSet::from([node])).await?; // once per group; does nothing after a restart
//! ring.wait_recovered(Duration::from_secs(10)).await?;
//!
//! let (index, total) = ring.propose(Payload::new("hello")).await?; // synced on a majority, and applied
//! assert_eq!(total, 5);
//! assert!(ring.read_index().await? >= index); // whatever was acknowledged before is applied now
//! groups.shutdown().await;
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! What always holds:
//! - An answered proposal is synced on a majority of the voters and applied here; it survives the loss of power of all
//!   nodes and the loss of any minority of disks.
//! - Every member applies the same entries in the same order; a machine that is new after a restart sees each committed
//!   entry once, on top of its last snapshot.
//! - Nothing is accepted without a share of a byte budget: 32 MiB in flight per group, 256 MiB per node.
//! - [`ConsensusError::kind`] says what to do next, [`ConsensusError::may_have_taken_effect`] whether a second try may
//!   double what the first one did.
//!
//! Not here: TCP and TLS (`server` implements [`PeerNetwork`]), what a span is, clocks and randomness (openraft takes
//! both from its runtime).

mod codec;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod groups;
#[cfg(test)]
mod harness;
mod log_store;
mod network;
mod payload;
mod raft;
pub mod ring;
mod snapshot;
mod state_machine;

pub use codec::CodecError;
pub use error::{ConsensusError, Kind, Source};
pub use group::{
    ENTRY_BYTES_MAX, GROUP_IN_FLIGHT_BYTES_MAX, Group, GroupStatus, Leadership, LeadershipWatch,
    NODE_IN_FLIGHT_BYTES_MAX, Submitted,
};
pub use groups::{Groups, GroupsOptions};
pub use network::{Lane, Link, MemoryNetwork, NoPeers, Peer, PeerError, PeerMessage, PeerNetwork};
pub use payload::{Applied, GroupId, Payload};
pub use raft::Timing;
pub use state_machine::{Machine, MachineError, MachineSnapshot, SnapshotPoint};
